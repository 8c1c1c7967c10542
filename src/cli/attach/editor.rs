//! What a person types: a text of several rows, its history, and what keys mean, sans-io. Editing itself is the library's.

use ratatui::widgets::{Paragraph, Wrap};
use ratatui_textarea::{CursorMove, TextArea, WrapMode};
use unicode_segmentation::UnicodeSegmentation;

const HISTORY_MAX: usize = 200;
/// Longest text that can be typed or pasted, in bytes; a larger one belongs into a file that a prompt names.
pub(super) const TEXT_BYTES_MAX: usize = 256 * 1024;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A character.
    Char(char),
    /// Text that was pasted, newlines included.
    Paste(String),
    /// Ends the text.
    Enter,
    /// Changes the text or moves in it.
    Edit(Edit),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    EndOfInput,
    /// Ctrl-].
    Detach,
    /// Ctrl-Z.
    Suspend,
    /// Ctrl-L.
    Redraw,
    /// Moves the view of the card, or of what there is to read.
    View(View),
}

/// What changes the text, or moves in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub(super) enum Edit {
    Newline,
    Backspace,
    Delete,
    WordBack,
    WordForward,
    DeleteWordBack,
    DeleteWordForward,
    DeleteToStart,
    DeleteToEnd,
    Yank,
    Undo,
    Left,
    Right,
    Start,
    End,
    Up,
    Down,
}

/// Moves a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// A page up or down, of the card if that is longer than the screen.
    PageUp,
    PageDown,
    /// The same of what there is to read, whether a card is shown or not.
    TextUp,
    TextDown,
    /// To the end.
    End,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The screen is to be drawn again.
    Draw,
    /// A text, and when its first key was pressed.
    Submit { text: String, began_ms: u64 },
    /// Stop the running turn.
    Interrupt,
    /// Leave; the session goes on.
    Detach,
    /// Give the terminal back until the program goes on.
    Suspend,
    /// Draw everything anew.
    Redraw,
    /// Move a view.
    View(View),
    /// A paste of so many bytes finds no room.
    NoRoom(usize),
}

/// The text.
#[derive(Debug)]
pub(super) struct Editor {
    area: TextArea<'static>,
    /// When the first key of this text was pressed.
    began_ms: Option<u64>,
    history: Vec<String>,
    /// Where in the history, counted from its end; 0 is the text itself.
    back: usize,
    draft: String,
}

impl Default for Editor {
    fn default() -> Self {
        Self { area: area(""), began_ms: None, history: Vec::new(), back: 0, draft: String::new() }
    }
}

/// Moves the cursor in its row.
fn jump(area: &mut TextArea<'_>, column: usize) {
    let place = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    area.move_cursor(CursorMove::Jump(place(area.cursor().0), place(column)));
}

fn area(text: &str) -> TextArea<'static> {
    let mut area = TextArea::new(text.split('\n').map(str::to_owned).collect());
    area.set_wrap_mode(WrapMode::WordOrGlyph);
    area.set_cursor_line_style(ratatui::style::Style::new());
    area.move_cursor(CursorMove::Bottom);
    area.move_cursor(CursorMove::End);
    area
}

impl Editor {
    /// Whether nothing is typed.
    pub(super) fn is_empty(&self) -> bool {
        self.area.is_empty()
    }

    /// The text with its cursor, to be drawn.
    pub(super) fn area(&self) -> &TextArea<'static> {
        &self.area
    }

    /// Rows that the text takes in so many columns.
    pub(super) fn rows(&self, width: u16) -> usize {
        let width = width.max(1);
        let wrapped = |line: &String| {
            let rows = Paragraph::new(line.as_str()).wrap(Wrap { trim: false }).line_count(width);
            // The cursor stands behind the last character.
            rows.max(1 + crate::cli::text::columns(line) / usize::from(width))
        };
        self.area.lines().iter().map(wrapped).sum()
    }

    pub(super) fn text(&self) -> String {
        self.area.lines().join("\n")
    }

    /// A key was pressed at `now_ms`; `busy`: a turn runs.
    pub(super) fn key(&mut self, key: Key, now_ms: u64, busy: bool) -> Action {
        let action = match key {
            Key::Detach => Action::Detach,
            Key::EndOfInput if self.is_empty() => Action::Detach,
            Key::EndOfInput => self.edit(Edit::Delete),
            Key::Interrupt if !busy && !self.is_empty() => {
                self.set("");
                Action::Draw
            }
            Key::Interrupt => Action::Interrupt,
            Key::Enter => return self.submit(now_ms),
            Key::Suspend => Action::Suspend,
            Key::Redraw => Action::Redraw,
            Key::View(view) => Action::View(view),
            Key::Char(c) if !c.is_control() => self.insert(c.encode_utf8(&mut [0; 4])),
            Key::Char(_) => Action::Draw,
            Key::Paste(text) => self.insert(&pasted(&text)),
            Key::Edit(Edit::End) if self.is_empty() => Action::View(View::End),
            Key::Edit(edit) => self.edit(edit),
        };
        if self.is_empty() {
            self.began_ms = None;
        } else {
            self.began_ms.get_or_insert(now_ms);
        }
        action
    }

    fn insert(&mut self, text: &str) -> Action {
        let bytes: usize = self.area.lines().iter().map(|line| line.len() + 1).sum();
        if bytes + text.len() > TEXT_BYTES_MAX {
            return Action::NoRoom(text.len());
        }
        self.area.insert_str(text);
        Action::Draw
    }

    /// Characters of what is drawn as one before the cursor, and of that behind it; at least one.
    fn beside(&self) -> (usize, usize) {
        let cursor = self.area.cursor();
        let line = self.area.lines().get(cursor.0).map_or("", String::as_str);
        let at = line.char_indices().nth(cursor.1).map_or(line.len(), |(at, _)| at);
        let (before, behind) = line.split_at(at);
        let count = |cluster: Option<&str>| cluster.map_or(1, |cluster| cluster.chars().count());
        (count(before.graphemes(true).next_back()), count(behind.graphemes(true).next()))
    }

    fn edit(&mut self, edit: Edit) -> Action {
        let (before, behind) = self.beside();
        let area = &mut self.area;
        match edit {
            Edit::Newline => return self.insert("\n"),
            Edit::Up if area.cursor().0 == 0 => self.recall(self.back + 1),
            Edit::Down if area.cursor().0 + 1 == area.lines().len() => self.recall(self.back.saturating_sub(1)),
            Edit::Up => area.move_cursor(CursorMove::Up),
            Edit::Down => area.move_cursor(CursorMove::Down),
            Edit::Left if before > 1 => jump(area, area.cursor().1 - before),
            Edit::Right if behind > 1 => jump(area, area.cursor().1 + behind),
            Edit::Left => area.move_cursor(CursorMove::Back),
            Edit::Right => area.move_cursor(CursorMove::Forward),
            Edit::Start => area.move_cursor(CursorMove::Head),
            Edit::End => area.move_cursor(CursorMove::End),
            Edit::WordBack => area.move_cursor(CursorMove::WordBack),
            Edit::WordForward => area.move_cursor(CursorMove::WordForward),
            Edit::Backspace => {
                for _ in 0..before {
                    area.delete_char();
                }
            }
            Edit::Delete if behind > 1 => {
                area.delete_str(behind);
            }
            Edit::Delete => {
                area.delete_next_char();
            }
            Edit::DeleteWordBack => drop(area.delete_word()),
            Edit::DeleteWordForward => drop(area.delete_next_word()),
            Edit::DeleteToStart => drop(area.delete_line_by_head()),
            Edit::DeleteToEnd => drop(area.delete_line_by_end()),
            Edit::Yank => drop(area.paste()),
            Edit::Undo => drop(area.undo()),
        }
        Action::Draw
    }

    fn set(&mut self, text: &str) {
        self.area = area(text);
        self.back = 0;
    }

    /// A text that was submitted was not taken. What is typed by now stays; the history has the text too.
    pub(super) fn put_back(&mut self, text: &str) {
        if self.is_empty() {
            self.set(text);
        }
    }

    fn submit(&mut self, now_ms: u64) -> Action {
        let text = self.text();
        self.set("");
        let began_ms = self.began_ms.take().unwrap_or(now_ms);
        if text.trim().is_empty() {
            return Action::Draw;
        }
        if self.history.last() != Some(&text) {
            if self.history.len() == HISTORY_MAX {
                self.history.remove(0);
            }
            self.history.push(text.clone());
        }
        Action::Submit { text, began_ms }
    }

    fn recall(&mut self, back: usize) {
        if back == self.back || back > self.history.len() {
            return;
        }
        if self.back == 0 {
            self.draft = self.text();
        }
        let text = if back == 0 { self.draft.clone() } else { self.history[self.history.len() - back].clone() };
        self.set(&text);
        self.back = back;
        // What is recalled is chosen now, whenever it was typed.
        self.began_ms = None;
    }
}

/// A pasted text without what no prompt needs.
fn pasted(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn type_text(editor: &mut Editor, text: &str, at_ms: u64) {
        for c in text.chars() {
            assert_eq!(editor.key(Key::Char(c), at_ms, false), Action::Draw);
        }
    }

    fn submitted(editor: &mut Editor, now_ms: u64) -> Option<(String, u64)> {
        match editor.key(Key::Enter, now_ms, false) {
            Action::Submit { text, began_ms } => Some((text, began_ms)),
            _ => None,
        }
    }

    #[test]
    fn keys_mean_what_the_help_says() {
        let mut editor = Editor::default();
        assert_eq!(editor.key(Key::Interrupt, 0, false), Action::Interrupt);
        assert_eq!(editor.key(Key::EndOfInput, 0, false), Action::Detach);
        type_text(&mut editor, "say", 0);
        assert_eq!(editor.key(Key::EndOfInput, 0, false), Action::Draw);
        assert_eq!(editor.key(Key::Interrupt, 0, true), Action::Interrupt);
        assert_eq!(editor.text(), "say", "an interrupt of a running turn keeps the draft");
        assert_eq!(editor.key(Key::Interrupt, 0, false), Action::Draw);
        assert_eq!(editor.key(Key::Enter, 0, false), Action::Draw, "nothing is left");
        assert_eq!(editor.key(Key::Detach, 0, false), Action::Detach);
        assert_eq!(editor.key(Key::View(View::PageUp), 0, false), Action::View(View::PageUp));
    }

    #[test]
    fn a_line_knows_when_its_first_key_was_pressed() {
        let mut editor = Editor::default();
        type_text(&mut editor, "y", 10);
        type_text(&mut editor, "es", 900);
        assert_eq!(submitted(&mut editor, 1_000), Some(("yes".into(), 10)));
        type_text(&mut editor, "x", 1_100);
        editor.key(Key::Edit(Edit::Backspace), 1_200, false);
        type_text(&mut editor, "y", 1_300);
        assert_eq!(submitted(&mut editor, 1_400), Some(("y".into(), 1_300)), "an empty line begins anew");
        editor.key(Key::Edit(Edit::Up), 1_500, false);
        assert_eq!(submitted(&mut editor, 1_600), Some(("y".into(), 1_500)));
    }

    #[test]
    fn lines_are_edited_and_recalled() {
        let mut editor = Editor::default();
        let edits = |editor: &mut Editor, edits: &[Edit]| {
            edits.iter().for_each(|edit| drop(editor.key(Key::Edit(*edit), 0, false)));
        };
        type_text(&mut editor, "one two three", 0);
        edits(&mut editor, &[Edit::DeleteWordBack, Edit::Start]);
        type_text(&mut editor, "ä", 0);
        edits(&mut editor, &[Edit::WordForward, Edit::DeleteToEnd]);
        assert_eq!(editor.text(), "äone ");
        edits(&mut editor, &[Edit::Yank, Edit::End, Edit::Newline]);
        editor.key(Key::Paste("x\r\ny\x1b".into()), 0, false);
        assert_eq!(editor.text(), "äone two \nx\ny");
        assert_eq!(editor.rows(80), 3);
        edits(&mut editor, &[Edit::Up, Edit::Up]);
        assert_eq!(editor.area().cursor().0, 0, "up moves inside the text first");
        submitted(&mut editor, 0);
        type_text(&mut editor, "draft", 0);
        edits(&mut editor, &[Edit::Up]);
        assert_eq!(editor.text(), "äone two \nx\ny");
        edits(&mut editor, &[Edit::Down]);
        assert_eq!(editor.text(), "draft");
    }

    #[test]
    fn what_is_recalled_over_a_draft_is_chosen_then() {
        let mut editor = Editor::default();
        type_text(&mut editor, "y", 10);
        submitted(&mut editor, 20);
        type_text(&mut editor, "draft", 100);
        editor.key(Key::Edit(Edit::Up), 900, false);
        assert_eq!(submitted(&mut editor, 1_000), Some(("y".into(), 900)), "not when the draft was begun");
    }

    #[test]
    fn the_history_has_an_end() {
        let mut editor = Editor::default();
        for at in 0..HISTORY_MAX + 5 {
            type_text(&mut editor, &at.to_string(), 0);
            submitted(&mut editor, 0);
        }
        for _ in 0..2 * HISTORY_MAX {
            editor.key(Key::Edit(Edit::Up), 0, false);
        }
        assert_eq!((editor.text().as_str(), editor.history.len()), ("5", HISTORY_MAX));
    }

    #[test]
    fn what_was_not_taken_is_there_again() {
        let mut editor = Editor::default();
        type_text(&mut editor, "are you there", 10);
        let (text, _) = submitted(&mut editor, 20).expect("a text");
        editor.put_back(&text);
        assert_eq!(submitted(&mut editor, 900), Some((text.clone(), 900)), "it is chosen anew");
        type_text(&mut editor, "more", 1_000);
        editor.put_back(&text);
        assert_eq!(editor.text(), "more", "what was typed since is not lost for it");
    }

    #[test]
    fn what_is_drawn_as_one_is_moved_over_and_deleted_as_one() {
        let mut editor = Editor::default();
        let edit = |editor: &mut Editor, edit| drop(editor.key(Key::Edit(edit), 0, false));
        type_text(&mut editor, "x👩\u{200d}👩\u{200d}👧❤\u{fe0f}e\u{301}", 0);
        edit(&mut editor, Edit::Backspace);
        assert_eq!(editor.text(), "x👩\u{200d}👩\u{200d}👧❤\u{fe0f}");
        edit(&mut editor, Edit::Left);
        edit(&mut editor, Edit::Left);
        edit(&mut editor, Edit::Delete);
        assert_eq!(editor.text(), "x❤\u{fe0f}");
        edit(&mut editor, Edit::Right);
        edit(&mut editor, Edit::Backspace);
        assert_eq!(editor.text(), "x");
    }

    #[test]
    fn a_paste_without_room_is_said_and_loses_nothing() {
        let mut editor = Editor::default();
        type_text(&mut editor, "kept", 0);
        let paste = "x".repeat(TEXT_BYTES_MAX);
        assert_eq!(editor.key(Key::Paste(paste), 0, false), Action::NoRoom(TEXT_BYTES_MAX));
        assert_eq!(editor.text(), "kept");
    }

    #[test]
    fn each_edit_does_what_it_is_called() {
        use Edit::*;
        for (text, edits, left) in [
            ("ab", &[Left][..], "a|b"),
            ("ab", &[Start, Right], "a|b"),
            ("ab", &[Start, End], "ab|"),
            ("ab cd", &[WordBack], "ab |cd"),
            ("ab cd", &[Start, WordForward], "ab |cd"),
            ("ab cd", &[Start, DeleteWordForward], "| cd"),
            ("ab cd", &[Start, Delete], "|b cd"),
            ("ab cd", &[WordBack, DeleteToStart], "|cd"),
            ("ab cd", &[DeleteWordBack, Undo], "ab cd|"),
            ("ab\ncd", &[Up, Down, End], "ab\ncd|"),
            ("ab\ncd", &[Up], "ab|\ncd"),
        ] {
            let mut editor = Editor::default();
            editor.key(Key::Paste(text.into()), 0, false);
            edits.iter().for_each(|edit| drop(editor.key(Key::Edit(*edit), 0, false)));
            editor.key(Key::Char('|'), 0, false);
            assert_eq!(editor.text(), left, "{text:?} {edits:?}");
        }
        let mut editor = Editor::default();
        assert_eq!(editor.key(Key::Edit(End), 0, false), Action::View(View::End));
        editor.key(Key::Paste("ab".into()), 0, false);
        assert_eq!(editor.key(Key::Edit(End), 0, false), Action::Draw, "there is a text to go to the end of");
        editor.put_back("no");
        assert_eq!(editor.key(Key::Char('\u{1b}'), 0, false), Action::Draw);
        assert_eq!(editor.text(), "ab", "a control character is no text");
        let rest = "x".repeat(TEXT_BYTES_MAX - "ab\n".len());
        assert_eq!(editor.key(Key::Paste(format!("{rest}x")), 0, false), Action::NoRoom(rest.len() + 1));
        assert_eq!(editor.key(Key::Paste(rest), 0, false), Action::Draw, "up to the bound");
        // The same line again is once in the history, and what was put back ends where its text does.
        let mut editor = Editor::default();
        for text in ["one", "two", "two"] {
            type_text(&mut editor, text, 0);
            submitted(&mut editor, 0);
        }
        [Up, Up].iter().for_each(|edit| drop(editor.key(Key::Edit(*edit), 0, false)));
        assert_eq!(editor.text(), "one");
        editor.set("");
        editor.put_back("is");
        type_text(&mut editor, "n't", 0);
        assert_eq!(editor.text(), "isn't");
    }

    proptest! {
        #[test]
        fn any_keys_are_survived(keys in prop::collection::vec((0usize..22, any::<char>()), 0..60)) {
            let mut editor = Editor::default();
            let edits = [Edit::Newline, Edit::Backspace, Edit::Delete, Edit::WordBack, Edit::WordForward,
                Edit::DeleteWordBack, Edit::DeleteWordForward, Edit::DeleteToStart, Edit::DeleteToEnd, Edit::Yank,
                Edit::Undo, Edit::Left, Edit::Right, Edit::Start, Edit::End, Edit::Up, Edit::Down];
            for (which, c) in keys {
                let key = match which {
                    17 => Key::Enter,
                    18 => Key::Paste(c.to_string()),
                    19.. => Key::Char(c),
                    edit => Key::Edit(edits[edit]),
                };
                editor.key(key, 0, false);
                editor.rows(7);
            }
        }
    }
}
