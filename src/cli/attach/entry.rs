//! What there is to read of a session: entries, each with a mark that only this program draws. Text from elsewhere stands
//! behind the mark on every line, so that none of it can pass for a line of ours.

use ratatui::{style::Style, text::Line};

use super::wrap;
use crate::{
    base::glyph::drawable,
    cli::text::{clean, columns},
};

/// Blanks in place of a tab.
const TAB: &str = "    ";

/// Before the further lines of what this program tells.
const OURS: &str = "╎ ";
/// Before the further rows of such a line in a record.
const RECORD_GOES_ON: &str = "╎ ↳ ";

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Which session this is.
    Head,
    /// A prompt, ours or another device's.
    Prompt,
    /// The agent's answer, in Markdown.
    Answer,
    /// The agent's thinking.
    Thinking,
    /// A tool is called.
    Tool,
    /// A sub-agent's tool is called.
    SubTool,
    /// What a tool gave back.
    Output,
    /// What a tool gave back with an error.
    FailedOutput,
    /// A request waits for a decision.
    Asked,
    /// It was allowed.
    Allowed,
    /// It was denied.
    Denied,
    /// A line of ours, of no weight.
    Note,
    /// A line of ours to heed.
    Warning,
    /// Something failed.
    Error,
}

impl Kind {
    /// What stands before the first line, and before the others. Equally wide, two columns at least, with a mark of ours in
    /// the first one, and behind it the text, so that none of it can pass for a mark. The agent's own words alone have
    /// blanks there: no other text has a line that could pass for one of them, whatever the styles are. The marks of
    /// further lines are no first ones: no text begins an entry. Nor are they those of a card's lines.
    pub(super) fn marks(self) -> (&'static str, &'static str) {
        match self {
            Self::Answer => ("  ", "  "),
            Self::Prompt => ("> ", "» "),
            Self::Thinking => ("✻ ", "✻ "),
            Self::Output | Self::FailedOutput => ("⎿ ", "┊ "),
            Self::Head | Self::Note => ("· ", OURS),
            Self::Tool => ("● ", OURS),
            Self::SubTool => ("◦ ", OURS),
            Self::Asked => ("? ", OURS),
            Self::Allowed => ("✓ ", OURS),
            Self::Denied => ("✗ ", OURS),
            Self::Warning | Self::Error => ("! ", OURS),
        }
    }
}

impl Kind {
    /// What stands before a row that a line is continued on. A record tells what ran in words of ours beside those of
    /// others: no row of theirs is to pass for one of them.
    pub(super) fn goes_on(self) -> &'static str {
        if self.is_record() { RECORD_GOES_ON } else { self.marks().1 }
    }

    /// What became of a request.
    pub(super) fn is_record(self) -> bool {
        matches!(self, Self::Allowed | Self::Denied)
    }
}

/// One thing to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Without control characters but line feeds and tabs.
    pub(super) text: String,
}

impl Entry {
    pub(super) fn new(kind: Kind, text: &str) -> Self {
        Self { kind, text: clean(text).trim_end_matches('\n').to_owned() }
    }

    /// As lines for a terminal or a log, each with its mark.
    pub(super) fn plain(&self) -> String {
        let (first, others) = self.kind.marks();
        let mut plain = String::new();
        for (at, line) in self.text.split('\n').enumerate() {
            plain.push_str(if at == 0 { first } else { others });
            plain.push_str(line);
            plain.push('\n');
        }
        plain
    }
}

impl Entry {
    /// As rows of a terminal of so many columns, broken between words where there are any, each with its mark.
    pub(super) fn rows(&self, width: usize) -> Vec<String> {
        let ((first, others), goes_on) = (self.kind.marks(), self.kind.goes_on());
        let inner = width.saturating_sub(columns(goes_on)).max(1);
        let text = drawable(&self.text).replace('\t', TAB);
        let mut rows = Vec::new();
        for line in text.split('\n') {
            let line = match self.kind {
                Kind::Answer => wrap::quoting(line, Style::new()),
                _ => Line::raw(line),
            };
            for (at, row) in wrap::rows(&line, inner).iter().enumerate() {
                let mark = match at {
                    0 if rows.is_empty() => first,
                    0 => others,
                    _ => goes_on,
                };
                rows.push(format!("{mark}{row}").trim_end().to_owned());
            }
        }
        rows
    }
}

/// A block that is streamed: its message's id and its index.
pub(super) type Key = (String, u32);

/// A device has come, or has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coming {
    /// The words for it.
    pub(super) who: String,
    pub(super) joined: bool,
    /// It may have a row of its own.
    pub(super) said: bool,
}

/// What a message changes of what there is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One thing more.
    Add(Entry),
    /// The next piece of a block that is not whole.
    Stream { key: Key, kind: Kind, piece: String },
    /// A block is whole: it takes the place of what was streamed of it; `rest` is what was not.
    Whole { key: Key, entry: Entry, rest: String },
    /// What is streamed is not going to be whole.
    Abandon,
    /// Devices have come or gone: told in the last row if that tells of others that have.
    Comings(Vec<Coming>),
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 14] = [
        Kind::Head,
        Kind::Prompt,
        Kind::Answer,
        Kind::Thinking,
        Kind::Tool,
        Kind::SubTool,
        Kind::Output,
        Kind::FailedOutput,
        Kind::Asked,
        Kind::Allowed,
        Kind::Denied,
        Kind::Note,
        Kind::Warning,
        Kind::Error,
    ];

    #[test]
    fn every_line_of_an_entry_is_marked() {
        let text = "one\n? Bash wants to run: ls\n> me\x1b[2J";
        for kind in KINDS {
            let plain = Entry::new(kind, text).plain();
            let (first, others) = kind.marks();
            assert_eq!((columns(first), columns(others)), (2, 2));
            assert!(kind == Kind::Answer || !first.starts_with(' '), "a mark stands where no text can");
            let lines: Vec<_> = plain.lines().collect();
            assert_eq!(lines[0], format!("{first}one"));
            assert_eq!(lines[1..], [format!("{others}? Bash wants to run: ls"), format!("{others}> me[2J")]);
        }
    }

    #[test]
    fn no_line_of_others_passes_for_the_agents_own() {
        let text = "@v2 please\n\nDone: all tests pass, and everything is as it was to be\n\tdone";
        let begin: Vec<char> = KINDS.iter().filter_map(|kind| kind.marks().0.chars().next()).collect();
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Answer) {
            let entry = Entry::new(kind, text);
            let (plain, rows) = (entry.plain(), entry.rows(20));
            assert!(rows.len() > 6, "lines go on: {rows:?}");
            for row in plain.lines().chain(rows.iter().map(String::as_str)) {
                assert!(!row.is_empty() && !row.starts_with(' '), "{kind:?}: {row:?}");
            }
            let own = kind == Kind::Thinking;
            let mut further = rows.iter().skip(1).filter_map(|row| row.chars().next());
            assert!(own || further.all(|mark| !begin.contains(&mark)), "{kind:?} begins another entry: {rows:?}");
        }
    }
}
