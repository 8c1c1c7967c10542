//! Lines of styled text as rows of a width: broken between words where there are any, else between characters. A row is
//! never wider than that, whatever the characters are.

use ratatui::text::{Line, Span};
use unicode_segmentation::UnicodeSegmentation;

use crate::cli::text::columns;

/// The rows of a line; at least one.
pub(super) fn rows(line: &Line<'_>, width: usize) -> Vec<Line<'static>> {
    let clusters: Vec<Cluster<'_>> = line.spans.iter().flat_map(Cluster::of).collect();
    let mut rows = Vec::new();
    // Where the row begins, where it may be broken, and the columns it has.
    let (mut start, mut break_at, mut used) = (0, 0, 0);
    for (at, cluster) in clusters.iter().enumerate() {
        if used + cluster.width > width && at > start && cluster.is_blank() {
            // It stands for the end of the row.
            rows.push(row(&clusters[start..at], line));
            (start, break_at, used) = (at + 1, at + 1, 0);
            continue;
        }
        // A word that is moved to the next row may be longer than that.
        while used + cluster.width > width && at > start {
            let end = if break_at > start { break_at } else { at };
            rows.push(row(&clusters[start..end], line));
            (start, break_at) = (end, end);
            used = clusters[start..at].iter().map(|cluster| cluster.width).sum();
        }
        used += cluster.width;
        if cluster.is_blank() {
            break_at = at + 1;
        }
    }
    if start < clusters.len() || rows.is_empty() {
        rows.push(row(&clusters[start..], line));
    }
    rows
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

fn row(clusters: &[Cluster<'_>], line: &Line<'_>) -> Line<'static> {
    let spans = clusters.chunk_by(|one, other| std::ptr::eq(one.span, other.span)).map(|run| {
        let text: String = run.iter().map(|cluster| cluster.text).collect();
        Span::styled(text, run[0].span.style)
    });
    Line::from_iter(spans).style(line.style)
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

    proptest! {
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
