//! A card as rows of some width: which row is in view, which have been, and what of the card begins each.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use unicode_segmentation::UnicodeSegmentation;

use super::{
    cards::{Body, Waiting},
    theme::Theme,
};
use crate::{base::glyph::visible, cli::text::columns, relay::card};

/// Columns of a tool's name in a card's title at the most, and those that the rest of it takes.
const NAME_COLUMNS_MAX: usize = 40;
const TITLE_COLUMNS: usize = 36;

/// What a card is laid out for: another number, progress, answer or width wants other rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Of {
    pub(super) number: u64,
    /// How much of its input had come.
    pub(super) progress: usize,
    /// The answers so far to its questions.
    pub(super) answers: Vec<String>,
    pub(super) width: u16,
}

/// A card as rows of some width.
#[derive(Debug)]
pub(super) struct CardLayout {
    pub(super) of: Of,
    rows: Vec<Line<'static>>,
    /// What begins each row: a line of the card, and how many characters of it stand in the rows before.
    places: Vec<(usize, usize)>,
    /// The first row in view, and that of the last frame.
    top: usize,
    drawn_top: usize,
    /// The view was moved to the end, and follows it.
    at_end: bool,
    /// Which rows have been in view.
    seen: Vec<bool>,
}

impl CardLayout {
    /// The rows; `before` is the layout that the same card had, whose text stays in view.
    pub(super) fn new(waiting: &Waiting, of: Of, before: Option<&Self>, theme: Theme) -> Self {
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for (line, pieces) in lines(waiting, &of.answers, usize::from(of.width), theme).into_iter().enumerate() {
            let mut characters = 0;
            for row in pieces {
                places.push((line, characters));
                characters += row.spans.iter().skip(1).map(|span| span.content.chars().count()).sum::<usize>();
                rows.push(row);
            }
        }
        let top = before.map_or(0, |before| match before.places.get(before.top) {
            // Where an answer was given the rows before it are as they were.
            Some(place) if before.of.width != of.width => {
                places.partition_point(|other| other <= place).saturating_sub(1)
            }
            _ => before.top,
        });
        let at_end = before.is_some_and(|before| before.at_end && before.of.width != of.width);
        let seen = vec![false; rows.len()];
        Self { of, rows, places, top, drawn_top: top, at_end, seen }
    }

    /// The first row in view where so many have room.
    pub(super) fn top(&self, height: usize) -> usize {
        let most = self.rows().saturating_sub(height);
        if self.at_end { most } else { self.top.min(most) }
    }

    /// Rows come into view. Gives the first that has not been.
    pub(super) fn in_view(&mut self, top: usize, height: usize) -> Option<usize> {
        (self.top, self.drawn_top) = (top, top);
        self.at_end = top > 0 && top + height >= self.rows();
        self.seen.iter_mut().skip(top).take(height).for_each(|seen| *seen = true);
        self.seen.iter().position(|seen| !seen)
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Moves the view down, or up.
    pub(super) fn scroll(&mut self, by: isize, height: usize) {
        let most = self.rows().saturating_sub(height);
        self.top = self.top(height).saturating_add_signed(by).min(most);
        self.at_end = false;
    }

    /// A page was moved down for which no frame was drawn yet.
    pub(super) fn is_ahead(&self) -> bool {
        self.top > self.drawn_top
    }

    pub(super) fn draw(&self, area: Rect, top: usize, buffer: &mut Buffer) {
        for (row, y) in self.rows.iter().skip(top).zip(area.y..area.bottom()) {
            buffer.set_line(area.x, y, row, area.width);
        }
    }
}

/// Columns for a tool's name in the title of a card of this width.
pub(super) fn title_room(width: usize) -> usize {
    NAME_COLUMNS_MAX.min(width.saturating_sub(TITLE_COLUMNS)).max(1)
}

/// The card's lines, each as its rows. Each answer that was given stands before the next question.
fn lines(waiting: &Waiting, answers: &[String], width: usize, theme: Theme) -> Vec<Vec<Line<'static>>> {
    match &waiting.body {
        Body::Whole { card, .. } => {
            // The title has room for the beginning of a long name.
            let is_long = columns(&card.tool) > title_room(width + 4);
            let tool = is_long.then(|| card::Line::field("tool", &waiting.open.tool));
            let mut answers = answers.iter().map(|answer| card::Line::remark(&format!("you answered: {answer}")));
            let mut asked = false;
            let mut lines = Vec::new();
            for line in tool.iter().chain(&card.lines) {
                if line.kind == card::Kind::Question
                    && std::mem::replace(&mut asked, true)
                    && let Some(answer) = answers.next()
                {
                    lines.push(card_rows(&answer, width, theme));
                }
                lines.push(card_rows(line, width, theme));
            }
            lines
        }
        Body::Fetching { blob, data } => {
            let text = format!("fetching its input: {} of {} bytes", data.len(), blob.bytes);
            vec![vec![Line::styled(text, theme.dim())]]
        }
        Body::Missing(why) => {
            let why = visible(why);
            vec![cut(&why, width, width).into_iter().map(|row| Line::styled(row.to_owned(), theme.bad())).collect()]
        }
    }
}

/// One line of a card as rows, cut between characters and not between words, so that every blank is there. A mark of the
/// line's kind stands before its first row, one of its own before the others.
fn card_rows(line: &card::Line, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let room = width.saturating_sub(2);
    let style = theme.card(line.kind);
    let mut rows: Vec<Line<'static>> = Vec::new();
    // A name may be longer than a row.
    let name = if line.name.is_empty() { String::new() } else { format!("{} ", line.name) };
    let mut names = cut(&name, room, room);
    let last = names.pop().unwrap_or_default();
    let mark = |at: usize| Span::styled(if at == 0 { line.kind.mark() } else { card::GOES_ON }, theme.dim());
    for name in names {
        rows.push(Line::from(vec![mark(rows.len()), Span::styled(name.to_owned(), theme.dim())]));
    }
    let first = room.saturating_sub(columns(last));
    for (at, text) in cut(&line.text, first, room).into_iter().enumerate() {
        let name = Span::styled(if at == 0 { last.to_owned() } else { String::new() }, theme.dim());
        rows.push(Line::from(vec![mark(rows.len()), name, Span::styled(text.to_owned(), style)]));
    }
    rows
}

/// A text in pieces that fit into so many columns: the first one, and the others. At least one piece.
pub(super) fn cut(text: &str, first: usize, others: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (at, cluster) in text.grapheme_indices(true) {
        let width = columns(cluster);
        let room = if pieces.is_empty() { first } else { others };
        if used + width > room && (used > 0 || pieces.is_empty() && first < others) {
            pieces.push(&text[start..at]);
            (start, used) = (at, 0);
        }
        used += width;
    }
    pieces.push(&text[start..]);
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::cards::Cards, *};
    use crate::client::OpenPermission;

    fn asking(command: &str) -> Cards {
        let mut cards = Cards::new(true);
        cards.put(OpenPermission {
            request: "r1".into(),
            tool: "Bash".into(),
            input: Some(json!({"command": command})),
            ..OpenPermission::default()
        });
        cards
    }

    fn laid_out(cards: &Cards, width: u16, before: Option<&CardLayout>) -> CardLayout {
        let of = Of { number: 1, progress: 0, answers: Vec::new(), width };
        CardLayout::new(cards.shown().expect("a request"), of, before, Theme { color: false })
    }

    /// The line and the character that begin the view of so many rows.
    fn viewed(layout: &mut CardLayout, height: usize) -> (usize, usize) {
        let top = layout.top(height);
        layout.in_view(top, height);
        layout.places[top]
    }

    #[test]
    fn a_card_that_was_read_to_its_end_stays_there() {
        let long = (0..40).map(|n| format!("echo {n} {}\n", "and more ".repeat(9))).collect::<String>();
        let cards = asking(&long);
        let mut wide = laid_out(&cards, 76, None);
        assert_eq!(viewed(&mut wide, 16), (0, 0));
        wide.scroll(isize::MAX, 16);
        let rows = wide.rows();
        viewed(&mut wide, 16);
        assert_eq!(wide.top(16), rows - 16);
        assert_eq!(wide.top(6), rows - 6, "a lower window");
        let mut narrow = laid_out(&cards, 36, Some(&wide));
        assert!(narrow.rows() > rows);
        assert_eq!(narrow.top(6), narrow.rows() - 6);
        viewed(&mut narrow, 6);
        narrow.scroll(-5, 6);
        assert_eq!(narrow.top(6), narrow.rows() - 11);
        // A card that was in view as a whole is not moved.
        let cards = asking(&"x ".repeat(60));
        let mut wide = laid_out(&cards, 76, None);
        viewed(&mut wide, 16);
        assert_eq!(laid_out(&cards, 20, Some(&wide)).top(2), 0);
    }

    proptest! {
        /// The text that began the view is in the row that begins it at another width.
        #[test]
        fn a_card_keeps_its_place_at_another_width(
            lens in prop::collection::vec(0usize..200, 30..60),
            widths in (12u16..100, 12u16..100),
            down in 0usize..40,
            height in 1usize..6,
        ) {
            let cards = asking(&lens.iter().map(|len| "abc def ".repeat(*len / 8)).collect::<Vec<_>>().join("\n"));
            let mut before = laid_out(&cards, widths.0, None);
            prop_assume!(down + height < before.rows());
            viewed(&mut before, height);
            before.scroll(down as isize, height);
            let place = viewed(&mut before, height);
            let mut after = laid_out(&cards, widths.1, Some(&before));
            prop_assume!(after.top + height < after.rows());
            let top = after.top(height);
            viewed(&mut after, height);
            prop_assert!(after.places[top] <= place && after.places.get(top + 1).is_none_or(|next| *next > place));
        }

        #[test]
        fn a_cut_text_is_all_there_and_fits(text in "[a 漢é🙂]{0,60}", first in 1usize..20, more in 0usize..20) {
            let others = first + more;
            let pieces = cut(&text, first, others);
            prop_assert_eq!(pieces.concat(), text.clone());
            for (at, piece) in pieces.iter().enumerate() {
                let room = if at == 0 { first } else { others };
                prop_assert!(columns(piece) <= room.max(2), "{:?} in {}", piece, room);
            }
        }
    }
}
