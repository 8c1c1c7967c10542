//! Lines of styled text as rows of a width: broken between words and between wide characters where that can be, else
//! between any characters. A row is never wider than that, whatever the characters are. What begins a line, the mark of
//! a quote or of a list's item or blanks, has its columns on every row of it, and a quote its mark.

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use unicode_linebreak::linebreaks;
use unicode_segmentation::UnicodeSegmentation;

use crate::cli::text::columns;

/// The mark of a quote, in a span of its own as the Markdown library has it.
const QUOTE: &str = ">";
/// Digits of an item's number; Markdown knows no longer ones.
const DIGITS_MAX: usize = 9;

/// A line of Markdown that is shown as it is, with the marks of a quote in spans of their own.
pub(super) fn quoting(line: &str, style: Style) -> Line<'static> {
    let mut marks = 0;
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            b'>' => marks = at + 1,
            b' ' if at > 0 && at == marks => {}
            _ => break,
        }
    }
    marks += usize::from(marks > 0 && line[marks..].starts_with(' '));
    let (marks, rest) = line.split_at(marks);
    let marks = marks.chars().map(|mark| Span::raw(mark.to_string()));
    Line::from_iter(marks.chain([Span::raw(rest.to_owned())])).style(style)
}

/// The rows of a line; at least one.
pub(super) fn rows(line: &Line<'_>, width: usize) -> Vec<Line<'static>> {
    let clusters: Vec<Cluster<'_>> = line.spans.iter().flat_map(Cluster::of).collect();
    let lead = Lead::of(&clusters, width);
    let mut rows = Rows { line, clusters: &clusters, lead: &lead, width, all: Vec::new(), start: 0, used: 0 };
    let mut at = 0;
    for end in words(&clusters, lead.clusters) {
        rows.word(at, end);
        at = end;
    }
    if rows.start < clusters.len() || rows.all.is_empty() {
        rows.end_at(clusters.len());
    }
    rows.all
}

/// The rows of a line that is being laid out.
struct Rows<'a> {
    line: &'a Line<'a>,
    clusters: &'a [Cluster<'a>],
    lead: &'a Lead,
    width: usize,
    all: Vec<Line<'static>>,
    /// Where the row begins, and the columns it has.
    start: usize,
    used: usize,
}

impl Rows<'_> {
    /// A word, with the blanks behind it. It goes to the next row if it fits there; what is longer than a row goes on in
    /// this one, so that what stands before it is not left alone.
    fn word(&mut self, at: usize, end: usize) {
        let word = &self.clusters[at..end];
        let blanks = word.iter().rev().take_while(|cluster| cluster.is_blank()).count();
        let columns: usize = word[..word.len() - blanks].iter().map(|cluster| cluster.width).sum();
        if self.used + columns > self.width && at > self.start && self.lead.columns + columns <= self.width {
            self.end_at(at);
        }
        for (at, cluster) in self.clusters.iter().enumerate().take(end).skip(at) {
            if self.used + cluster.width > self.width && at > self.start {
                self.end_at(at);
                if cluster.is_blank() {
                    // It stands for the end of the row.
                    self.start = at + 1;
                    continue;
                }
            }
            self.used += cluster.width;
        }
    }

    /// The row ends before this place.
    fn end_at(&mut self, at: usize) {
        let lead = if self.all.is_empty() { &[][..] } else { &self.lead.spans };
        self.all.push(row(lead, &self.clusters[self.start..at], self.line));
        (self.start, self.used) = (at, self.lead.columns);
    }
}

/// Where the words of a line end, each with the blanks behind it. What begins the line is part of the first one.
fn words(clusters: &[Cluster<'_>], lead: usize) -> Vec<usize> {
    let text: String = clusters.iter().map(|cluster| cluster.text).collect();
    let mut breaks = linebreaks(&text).map(|(at, _)| at).peekable();
    let (mut ends, mut place) = (Vec::new(), 0);
    for (at, pair) in clusters.windows(2).enumerate() {
        place += pair[0].text.len();
        while breaks.next_if(|place_of| *place_of < place).is_some() {}
        let is_wide = pair.iter().any(|cluster| cluster.width > 1);
        let ends_word = match (pair[0].is_blank(), pair[1].is_blank()) {
            (_, true) => false,
            (true, false) => true,
            // Narrow writing has blanks; the rules also part `-` and `/` from what follows, as in an option or a path.
            (false, false) => is_wide && breaks.peek() == Some(&place),
        };
        if ends_word && at + 1 > lead {
            ends.push(at + 1);
        }
    }
    ends.extend((!clusters.is_empty()).then_some(clusters.len()));
    ends
}

/// What begins a line and has its columns on every row of it.
#[derive(Debug, Default)]
struct Lead {
    /// How much of the line it is.
    clusters: usize,
    /// What stands in its place on further rows, and its columns.
    spans: Vec<Span<'static>>,
    columns: usize,
}

impl Lead {
    /// The lead of a line, as far as the rows have room for it: half of their columns, and those of the widest cluster
    /// beside it.
    fn of(clusters: &[Cluster<'_>], width: usize) -> Self {
        let quote = quote_of(clusters);
        let mark = quote + mark_of(&clusters[quote..]);
        let widest = clusters.iter().map(|cluster| cluster.width).max().unwrap_or_default();
        let most = (width / 2).min(width.saturating_sub(widest));
        let columns = |clusters: &[Cluster<'_>]| clusters.iter().map(|cluster| cluster.width).sum::<usize>();
        let mut lead = Self { clusters: mark, spans: Vec::new(), columns: columns(&clusters[..mark]) };
        let mut marks = &clusters[..quote];
        if lead.columns > most {
            // The marks of the innermost quotes; of a quote one at least.
            marks = &marks[if most > 1 { quote.saturating_sub(most) } else { 0 }..];
            marks = &marks[..marks.len().min(most)];
            let blanks = marks.iter().take_while(|mark| mark.is_blank()).count();
            marks = &marks[blanks..];
            lead = Self { clusters: quote, spans: Vec::new(), columns: columns(marks) };
        }
        lead.spans.extend(marks.iter().map(|mark| Span::styled(mark.text.to_owned(), mark.span.style)));
        let blanks = lead.columns - columns(marks);
        lead.spans.extend((blanks > 0).then(|| Span::raw(" ".repeat(blanks))));
        lead
    }
}

/// How many clusters are the marks of quotes, with the blank behind each.
fn quote_of(clusters: &[Cluster<'_>]) -> usize {
    let is_mark = |cluster: &&Cluster<'_>| cluster.span.content == QUOTE || cluster.span.content == " ";
    match clusters.first() {
        Some(first) if first.span.content == QUOTE => clusters.iter().take_while(is_mark).count(),
        _ => 0,
    }
}

/// How many clusters are blanks and the mark of a list's item: a bullet or a number, and the box of a task.
fn mark_of(clusters: &[Cluster<'_>]) -> usize {
    let text = |at: usize| clusters.get(at).map_or("", |cluster| cluster.text);
    let blanks = |at: usize| clusters[at..].iter().take_while(|cluster| cluster.is_blank()).count();
    let indent = blanks(0);
    let is_digit = |cluster: &&Cluster<'_>| cluster.text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = clusters[indent..].iter().take(DIGITS_MAX).take_while(is_digit).count();
    let end = match digits {
        0 if matches!(text(indent), "-" | "*" | "+" | "•") => indent + 1,
        1.. if matches!(text(indent + digits), "." | ")") => indent + digits + 1,
        _ => return indent,
    };
    let after = match blanks(end) {
        0 => return indent,
        some => end + some,
    };
    let is_box = text(after) == "[" && matches!(text(after + 1), " " | "x" | "X") && text(after + 2) == "]";
    if is_box && text(after + 3) == " " { after + 4 } else { after }
}

/// What is drawn as one, with its span.
struct Cluster<'a> {
    text: &'a str,
    span: &'a Span<'a>,
    width: usize,
}

impl<'a> Cluster<'a> {
    fn of(span: &'a Span<'a>) -> impl Iterator<Item = Self> {
        span.content.graphemes(true).map(move |text| Self { text, span, width: columns(text) })
    }

    fn is_blank(&self) -> bool {
        self.text == " "
    }
}

fn row(lead: &[Span<'static>], clusters: &[Cluster<'_>], line: &Line<'_>) -> Line<'static> {
    let spans = clusters.chunk_by(|one, other| std::ptr::eq(one.span, other.span)).map(|run| {
        let text: String = run.iter().map(|cluster| cluster.text).collect();
        Span::styled(text, run[0].span.style)
    });
    Line::from_iter(lead.iter().cloned().chain(spans)).style(line.style)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::style::{Style, Stylize};

    use super::*;
    use crate::base::glyph::{drawable, odd_text};

    fn wrapped(text: &str, width: usize) -> Vec<String> {
        rows(&Line::raw(text), width).iter().map(Line::to_string).collect()
    }

    #[test]
    fn rows_break_between_words_where_they_can() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one  two", 4), ["one ", "two"]);
        assert_eq!(wrapped("abcdefgh ij", 5), ["abcde", "fgh ", "ij"]);
        assert_eq!(wrapped("漢字漢字", 5), ["漢字", "漢字"]);
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("ab", 1), ["a", "b"]);
        let styled = Line::from(vec!["one tw".bold(), "o three".into()]);
        let rows = rows(&styled, 6);
        assert_eq!(rows[0], Line::from(vec!["one ".bold()]).style(Style::new()));
        assert_eq!(rows[1], Line::from(vec!["tw".bold(), "o ".into()]));
    }

    #[test]
    fn rows_break_between_wide_characters_where_their_writing_can() {
        assert_eq!(wrapped("See 日本語です。", 11), ["See 日本語", "です。"]);
        assert_eq!(wrapped("日本。語", 5), ["日", "本。", "語"], "no row begins with what ends a sentence");
        assert_eq!(wrapped("日「本語", 5), ["日", "「本", "語"], "nor ends with what opens a quotation");
        assert_eq!(wrapped("a b-c/d --long", 6), ["a ", "b-c/d ", "--long"]);
    }

    #[test]
    fn a_mark_is_not_left_alone_and_what_it_marks_is_behind_it() {
        assert_eq!(wrapped("- abcdefgh", 6), ["- abcd", "  efgh"]);
        assert_eq!(wrapped("  12. ab cd ef", 12), ["  12. ab cd ", "      ef"]);
        assert_eq!(wrapped("- [x] ab cd ef", 12), ["- [x] ab cd ", "      ef"]);
        assert_eq!(wrapped("    ab cd ef", 9), ["    ab cd", "    ef"]);
        assert_eq!(wrapped("-x 1.5 -", 5), ["-x ", "1.5 -"], "these are no marks");
        assert_eq!(wrapped("        ab cd", 10), ["        ab", "cd"], "half of a row at most");
        let quoted = |text: &str, width| -> Vec<String> {
            rows(&quoting(text, Style::new()), width).iter().map(Line::to_string).collect()
        };
        assert_eq!(quoted("> one two", 6), ["> one ", "> two"]);
        assert_eq!(quoted("> > - one two", 12), ["> > - one ", "> >   two"]);
        assert_eq!(quoted(">>> one two", 6), [">>> on", ">> e ", ">> two"]);
        assert_eq!(quoted("a > b c", 4), ["a > ", "b c"]);
    }

    proptest! {
        #[test]
        fn every_row_has_its_mark_and_nothing_is_lost_beside_it(
            mark in prop::sample::select(vec!["- ", "   7. ", "- [ ] ", "    ", "> ", ">", "> > ", "> - ", ">> 12) "]),
            text in odd_text(),
            width in 6usize..60,
        ) {
            let text = drawable(&format!("{mark}{text}")).replace('\t', " ");
            let begins = text.get(mark.len()..).is_some_and(|text| text.starts_with(|c: char| c.is_ascii_alphanumeric()));
            let line = quoting(&text, Style::new());
            let clusters: Vec<Cluster<'_>> = line.spans.iter().flat_map(Cluster::of).collect();
            let lead = Lead::of(&clusters, width);
            let before: String = lead.spans.iter().map(|span| &*span.content).collect();
            let rows: Vec<String> = rows(&line, width).iter().map(Line::to_string).collect();
            let further = rows.iter().skip(1).map(|row| row.strip_prefix(&before));
            let own: Option<Vec<&str>> = std::iter::once(Some(&*rows[0])).chain(further).collect();
            prop_assert!(own.is_some(), "{:?} without {:?}", rows, before);
            prop_assert_eq!(own.unwrap_or_default().concat().replace(' ', ""), text.replace(' ', ""));
            prop_assert!(rows.iter().all(|row| columns(row.trim_end()) <= width), "{:?}", rows);
            let widest = clusters.iter().map(|cluster| cluster.width).max().unwrap_or_default();
            if mark.contains('>') && widest < width {
                prop_assert!(rows.iter().all(|row| row.starts_with('>')), "{:?}", rows);
            }
            let alone = columns(rows[0].trim_end()) <= lead.columns && rows.len() > 1;
            prop_assert!(lead.columns == 0 || !alone || !begins, "{:?}", rows);
        }

        #[test]
        fn nothing_is_lost_and_no_row_is_too_wide(text in odd_text(), width in 6usize..60) {
            let text = drawable(&text).replace('\t', " ");
            let rows = wrapped(&text, width);
            prop_assert_eq!(rows.concat().replace(' ', ""), text.replace(' ', ""));
            for row in rows {
                prop_assert!(columns(row.trim_end()) <= width, "{:?}", row);
            }
        }
    }
}
