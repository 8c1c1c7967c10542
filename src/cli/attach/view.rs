//! The terminal's last row, sans-io: output above, the line being typed below. Text that streams while nothing is typed
//! goes straight out; while a line is typed, whole lines are put above it and the rest waits.

use crate::cli::text::columns;

const ERASE_ROW: &str = "\r\x1b[K";

/// What stands in the last row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    /// What stands before the typed text.
    pub(super) prompt: &'a str,
    /// Left of the cursor.
    pub(super) before: &'a str,
    /// Right of the cursor.
    pub(super) after: &'a str,
    /// Whether the row is shown though nothing is typed.
    pub(super) always: bool,
}

/// What is on the terminal.
#[derive(Debug)]
pub(super) struct View {
    width: usize,
    shown: bool,
    /// Output that waits for the end of its line.
    held: String,
    at_line_start: bool,
}

impl View {
    /// A terminal of so many columns, with the cursor at the start of a row.
    pub(super) fn new(width: u16) -> Self {
        Self { width: usize::from(width.max(20)), shown: false, held: String::new(), at_line_start: true }
    }

    /// The terminal changed its width.
    pub(super) fn resize(&mut self, width: u16) {
        self.width = usize::from(width.max(20));
    }

    /// Shows more output, and the row as it is now. Gives the bytes for a terminal in raw mode.
    pub(super) fn draw(&mut self, output: &str, row: Row<'_>) -> String {
        let mut bytes = String::new();
        if self.shown {
            bytes.push_str(ERASE_ROW);
            self.shown = false;
        }
        self.held.push_str(output);
        let typed = !(row.before.is_empty() && row.after.is_empty());
        let show = typed || (row.always && self.held.is_empty()) || (row.always && self.held.ends_with('\n'));
        let ready = if show { self.held.rfind('\n').map_or(0, |at| at + 1) } else { self.held.len() };
        let waiting = self.held.split_off(ready);
        if !self.held.is_empty() {
            bytes.push_str(&self.held.replace('\n', "\r\n"));
            self.at_line_start = self.held.ends_with('\n');
        }
        self.held = waiting;
        if show && (typed || self.at_line_start) {
            if !self.at_line_start {
                bytes.push_str("\r\n");
                self.at_line_start = true;
            }
            bytes.push_str(&self.row(row));
            self.shown = true;
        }
        bytes
    }

    /// The row's part that fits, and the cursor back to its place.
    fn row(&self, row: Row<'_>) -> String {
        let flat = |c: char| if matches!(c, '\n' | '\t') { '⏎' } else { c };
        let width = |text: &str| text.chars().map(columns).sum::<usize>();
        let room = self.width.saturating_sub(1 + width(row.prompt));
        let mut before: Vec<char> = Vec::new();
        let mut used = 0;
        for c in row.before.chars().rev().map(flat) {
            used += columns(c);
            if used > room {
                break;
            }
            before.push(c);
        }
        let before: String = before.into_iter().rev().collect();
        let mut left = room.saturating_sub(width(&before));
        let mut after = String::new();
        for c in row.after.chars().map(flat) {
            if columns(c) > left {
                break;
            }
            left -= columns(c);
            after.push(c);
        }
        let back = width(&after);
        let back = if back > 0 { format!("\x1b[{back}D") } else { String::new() };
        format!("{}{before}{after}{back}", row.prompt)
    }

    /// Everything that waits, before the program leaves the terminal.
    pub(super) fn finish(&mut self) -> String {
        let mut bytes = String::new();
        if self.shown {
            bytes.push_str(ERASE_ROW);
            self.shown = false;
        }
        bytes.push_str(&std::mem::take(&mut self.held).replace('\n', "\r\n"));
        if !self.at_line_start || !(bytes.is_empty() || bytes.ends_with('\n') || bytes == ERASE_ROW) {
            bytes.push_str("\r\n");
        }
        self.at_line_start = true;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row<'a>(before: &'a str, after: &'a str, always: bool) -> Row<'a> {
        Row { prompt: "> ", before, after, always }
    }

    #[test]
    fn text_streams_until_somebody_types() {
        let mut view = View::new(40);
        assert_eq!(view.draw("", row("", "", true)), "> ");
        assert_eq!(view.draw("Hel", row("", "", false)), "\r\x1b[KHel");
        assert_eq!(view.draw("lo", row("", "", false)), "lo");
        assert_eq!(view.draw("", row("n", "", false)), "\r\n> n");
        assert_eq!(view.draw(" you", row("n", "", false)), "\r\x1b[K> n");
        assert_eq!(view.draw(".\nNext", row("ne", "", false)), "\r\x1b[K you.\r\n> ne");
        assert_eq!(view.draw("", row("", "", false)), "\r\x1b[KNext");
        assert_eq!(view.finish(), "\r\n");
    }

    #[test]
    fn a_long_line_shows_its_end_and_the_cursor_its_place() {
        let mut view = View::new(20);
        let long = "abcdefghijklmnopqrstuvwxyz";
        assert_eq!(view.draw("", row(long, "", true)), "> jklmnopqrstuvwxyz");
        assert_eq!(view.draw("", row("ab", "cd", true)), "\r\x1b[K> abcd\x1b[2D");
        assert_eq!(view.draw("", row("a\nb", "", true)), "\r\x1b[K> a⏎b");
        assert_eq!(view.finish(), "\r\x1b[K");
    }

    proptest! {
        /// All output comes out, in order, whatever is typed meanwhile.
        #[test]
        fn no_output_is_lost(steps in prop::collection::vec(("[a-z\n]{0,9}", "[0-9]{0,3}", any::<bool>()), 0..20)) {
            let mut view = View::new(80);
            let (mut bytes, mut output) = (String::new(), String::new());
            for (text, typed, always) in steps {
                output.push_str(&text);
                bytes.push_str(&view.draw(&text, row(&typed, "", always)));
            }
            bytes.push_str(&view.finish());
            let letters = |text: &str| text.replace("\x1b[K", "").chars().filter(char::is_ascii_lowercase).collect::<String>();
            prop_assert_eq!(letters(&bytes), letters(&output));
        }
    }
}
