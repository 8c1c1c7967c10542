//! A session as lines for a pipe, or for a terminal that cannot be typed on, sans-io: changes in, text for one of the two
//! outputs out. Into a pipe go the agent's answers to us alone, so that a script has them as they are; everything else goes
//! to standard error, each line behind its mark. On a terminal both would mix, so there all lines are marked.

use super::{
    comings::Row,
    entry::{Change, Entry, Key, Kind},
};
use crate::{
    base::glyph::drawable,
    cli::text::{columns, folded_on},
};

/// Where a piece of text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Stdout,
    Stderr,
}

/// The state of the two outputs.
#[derive(Debug)]
pub(super) struct Printer {
    /// Standard output is a terminal.
    marked: bool,
    /// What the agent says now is an answer to us.
    answers_us: bool,
    /// The block that is being streamed, and where to.
    streaming: Option<(Key, To)>,
    at_line_start: bool,
    /// Columns of standard output and of standard error, where those are terminals, and those that the line has used.
    columns: (Option<usize>, Option<usize>),
    used: usize,
}

impl Printer {
    pub(super) fn new(is_terminal: bool) -> Self {
        Self {
            marked: is_terminal,
            answers_us: true,
            streaming: None,
            at_line_start: true,
            columns: (None, None),
            used: 0,
        }
    }

    /// Whether what the agent says from here on is an answer to us.
    pub(super) fn answers_us(&mut self, answers_us: bool) {
        self.answers_us = answers_us;
    }

    /// Standard output and standard error are terminals of so many columns.
    pub(super) fn resized(&mut self, stdout: Option<usize>, stderr: Option<usize>) {
        self.columns = (stdout, stderr);
    }

    fn columns_of(&self, to: To) -> Option<usize> {
        if to == To::Stdout { self.columns.0.filter(|_| self.marked) } else { self.columns.1 }
    }

    /// Text that a change adds.
    pub(super) fn print(&mut self, change: &Change) -> Vec<(To, String)> {
        let mut out = Vec::new();
        match change {
            Change::Add(entry) => self.add(entry, &mut out),
            // A line that is printed stays as it is.
            Change::Comings(comings) => Row::of(comings).iter().for_each(|row| self.add(&row.entry(), &mut out)),
            Change::Stream { key, kind, piece } => self.stream(key, *kind, piece, &mut out),
            Change::Whole { key, entry, rest } => {
                let streams = self.streaming.as_ref().is_some_and(|(streaming, _)| streaming == key);
                if streams || rest.len() == entry.text.len() || !rest.trim().is_empty() {
                    self.stream(key, entry.kind, rest, &mut out);
                }
                self.end_line(&mut out);
            }
            Change::Abandon => self.end_line(&mut out),
        }
        out
    }

    fn add(&mut self, entry: &Entry, out: &mut Vec<(To, String)>) {
        let to = self.to(entry.kind);
        self.make_way(to, out);
        let text = match self.columns_of(to) {
            _ if to == To::Stdout && !self.marked => format!("{}\n", entry.text),
            Some(columns) => entry.rows(columns).iter().map(|row| format!("{row}\n")).collect(),
            None => entry.plain(),
        };
        out.push((to, text));
    }

    /// Ends a line that was begun.
    pub(super) fn end(&mut self) -> Vec<(To, String)> {
        let mut out = Vec::new();
        self.end_line(&mut out);
        out
    }

    /// Ends a line that was begun where something else is to be written; what is written beside it does not break it.
    fn make_way(&mut self, to: To, out: &mut Vec<(To, String)>) {
        if self.streaming.as_ref().is_some_and(|(_, streaming)| *streaming == to) {
            self.end_line(out);
        }
    }

    /// The same, for what this does not print.
    pub(super) fn interrupt(&mut self, to: To) -> Vec<(To, String)> {
        let mut out = Vec::new();
        self.make_way(to, &mut out);
        out
    }

    fn stream(&mut self, key: &Key, kind: Kind, piece: &str, out: &mut Vec<(To, String)>) {
        let to = self.to(kind);
        let goes_on = self.streaming.as_ref().is_some_and(|(streaming, place)| streaming == key && *place == to);
        if !goes_on {
            self.end_line(out);
        }
        let is_raw = to == To::Stdout && !self.marked;
        let (first, others) = if is_raw { ("", "") } else { kind.marks() };
        let mut text = String::new();
        let mut is_first = !goes_on;
        for line in piece.split_inclusive('\n') {
            if self.at_line_start {
                text.push_str(if is_first { first } else { others });
                self.used = columns(first);
            }
            is_first = false;
            self.at_line_start = line.ends_with('\n');
            match self.columns_of(to) {
                Some(width) => self.used = folded_on(&drawable(line), width, others, self.used, &mut text),
                None => text.push_str(line),
            }
        }
        self.streaming = Some((key.clone(), to));
        if !text.is_empty() {
            out.push((to, text));
        }
    }

    fn to(&self, kind: Kind) -> To {
        if self.marked || kind == Kind::Answer && self.answers_us { To::Stdout } else { To::Stderr }
    }

    fn end_line(&mut self, out: &mut Vec<(To, String)>) {
        if let Some((_, to)) = self.streaming.take()
            && !std::mem::replace(&mut self.at_line_start, true)
        {
            out.push((to, "\n".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(block: u32, piece: &str) -> Change {
        Change::Stream { key: ("m".into(), block), kind: Kind::Answer, piece: piece.into() }
    }

    fn whole(block: u32, text: &str, rest: &str) -> Change {
        Change::Whole { key: ("m".into(), block), entry: Entry::new(Kind::Answer, text), rest: rest.into() }
    }

    fn printed(printer: &mut Printer, changes: &[Change]) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        for (to, text) in changes.iter().flat_map(|change| printer.print(change)) {
            match to {
                To::Stdout => out.push_str(&text),
                To::Stderr => err.push_str(&text),
            }
        }
        (out, err)
    }

    #[test]
    fn answers_go_into_a_pipe_as_they_are_and_the_rest_beside_it() {
        let changes = [
            stream(0, "? Bash wants\nto "),
            Change::Add(Entry::new(Kind::Tool, "Bash(ls)")),
            whole(0, "? Bash wants\nto run", "run"),
            whole(1, "two\n", "two\n"),
        ];
        let (out, err) = printed(&mut Printer::new(false), &changes);
        assert_eq!((out.as_str(), err.as_str()), ("? Bash wants\nto run\ntwo\n", "● Bash(ls)\n"));
    }

    #[test]
    fn what_the_agent_says_to_others_does_not_go_into_a_pipe() {
        let mut printer = Printer::new(false);
        printer.answers_us(false);
        let theirs = printed(&mut printer, &[stream(0, "to them\nand")]);
        assert_eq!((theirs.0.as_str(), theirs.1.as_str()), ("", "  to them\n  and"));
        printer.answers_us(true);
        let ours = printed(&mut printer, &[stream(1, "to us"), whole(1, "to us", "")]);
        assert_eq!((ours.0.as_str(), ours.1.as_str()), ("to us\n", "\n"), "each line is ended where it was begun");
    }

    #[test]
    fn on_a_terminal_every_line_is_marked() {
        let changes = [stream(0, "a\n> b"), stream(0, "c\n"), whole(0, "a\n> bc\nd", "d"), Change::Abandon];
        let (out, err) = printed(&mut Printer::new(true), &changes);
        assert_eq!((out.as_str(), err.as_str()), ("  a\n  > bc\n  d\n", ""));
        let mut printer = Printer::new(true);
        printer.resized(Some(8), None);
        let changes = [stream(0, "12345"), stream(0, "67✓ allowed"), whole(0, "1234567✓ allowed", "")];
        assert_eq!(printed(&mut printer, &changes).0, "  123456\n  7✓ all\n  owed\n");
        let note = Change::Add(Entry::new(Kind::Output, "123456✓ allowed"));
        assert_eq!(printed(&mut printer, &[note]).0, "⎿ 123456\n┊ ✓ allo\n┊ wed\n");
        let thinking = Change::Stream { key: ("m".into(), 7), kind: Kind::Thinking, piece: "Hm\n? so".into() };
        assert_eq!(printed(&mut Printer::new(true), &[thinking]).0, "✻ Hm\n✻ ? so");
    }

    #[test]
    fn a_line_that_was_begun_is_ended_before_another_one_and_where_it_was_begun() {
        let note = || Change::Add(Entry::new(Kind::Note, "n"));
        let out = |changes: &[Change]| printed(&mut Printer::new(false), changes).0;
        assert_eq!(out(&[stream(0, "a"), stream(1, "b"), note(), stream(1, "c")]), "a\nbc");
        assert_eq!(out(&[stream(0, "a"), Change::Abandon, stream(0, "b")]), "a\nb");
        assert_eq!(out(&[stream(0, "a"), Change::Add(Entry::new(Kind::Answer, "b"))]), "a\nb\n");
        let on_terminal = |changes: &[Change]| printed(&mut Printer::new(true), changes).0;
        assert_eq!(on_terminal(&[stream(0, "a"), note(), stream(0, "b")]), "  a\n· n\n  b");
        let output = Change::Stream { key: ("m".into(), 0), kind: Kind::Output, piece: "1\n2\n".into() };
        assert_eq!(on_terminal(&[output.clone(), output]), "⎿ 1\n┊ 2\n┊ 1\n┊ 2\n");
        let mut printer = Printer::new(false);
        printed(&mut printer, &[stream(0, "a")]);
        assert_eq!(
            (printer.interrupt(To::Stderr), printer.interrupt(To::Stdout).len(), printer.end().len()),
            (vec![], 1, 0)
        );
        printed(&mut printer, &[stream(0, "a")]);
        assert_eq!((printer.end(), printer.end()), (vec![(To::Stdout, "\n".into())], vec![]));
        // The same block goes on elsewhere.
        let mut printer = Printer::new(false);
        printed(&mut printer, &[stream(0, "a")]);
        printer.answers_us(false);
        let (out, err) = printed(&mut printer, &[stream(0, "b")]);
        assert_eq!((out.as_str(), err.as_str()), ("\n", "  b"));
    }

    #[test]
    fn what_stands_beside_a_pipe_is_folded_and_what_goes_into_it_is_not() {
        let mut printer = Printer::new(false);
        printer.resized(Some(8), Some(8));
        let changes = [stream(0, "123456789"), Change::Add(Entry::new(Kind::Output, "123456✓ allowed"))];
        let (out, err) = printed(&mut printer, &changes);
        assert_eq!((out.as_str(), err.as_str()), ("123456789", "⎿ 123456\n┊ ✓ allo\n┊ wed\n"));
    }
}
