//! What there is to read, laid out for a terminal of some width, and the part of it that is in view. Entries are laid out
//! when they come into view; what is above the bound is dropped and said.

use std::collections::VecDeque;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    comings::Row,
    entry::{Change, Coming, Entry, Key, Kind},
    theme::Theme,
    wrap,
};
use crate::{cli::text::columns, relay::card};

/// Most bytes of text that are kept.
const BYTES_MAX: usize = 16 << 20;
/// Bytes of text that are laid out as one. Longer entries are kept in pieces, so that a long entry costs a frame no
/// more than others.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Says that the log has more than is shown.
const EARLIER: &str = "the earlier part is not shown: PgUp brings it, or `amp-relay attach --all`";

/// One entry, with its layout for the width it was last seen at.
#[derive(Debug)]
struct Item {
    /// Goes up from one to the next, by one.
    id: i64,
    entry: Entry,
    /// It is being streamed.
    key: Option<Key>,
    /// It goes on where the one before ends.
    goes_on: bool,
    /// It is a piece of a longer entry: what its Markdown means may stand in another piece, so that it is shown as it is.
    is_part: bool,
    layout: Option<Layout>,
}

#[derive(Debug)]
struct Layout {
    width: u16,
    rows: Vec<Line<'static>>,
}

/// The first row in view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Top {
    id: i64,
    row: usize,
}

/// All entries.
#[derive(Debug)]
pub(super) struct Transcript {
    items: VecDeque<Item>,
    bytes: usize,
    /// `None`: the end is in view, and stays there.
    top: Option<Top>,
    theme: Theme,
    next_id: i64,
    /// The row that told of devices that came or went, and what it tells.
    comings: Option<(i64, Row)>,
}

impl Transcript {
    pub(super) fn new(theme: Theme) -> Self {
        Self { items: VecDeque::new(), bytes: 0, top: None, theme, next_id: 0, comings: None }
    }

    /// Whether the end is in view.
    pub(super) fn at_end(&self) -> bool {
        self.top.is_none()
    }

    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Add(entry) => self.push(entry, None),
            Change::Stream { key, kind, piece } => match self.streamed(&key) {
                Some(item) if item.entry.text.len() + piece.len() <= PIECE_BYTES_MAX => {
                    item.entry.text.push_str(&piece);
                    item.layout = None;
                    self.bytes += piece.len();
                }
                Some(_) => {
                    self.parts(&key);
                    for piece in pieces(Entry { kind, text: piece }) {
                        self.push_piece(Piece { goes_on: true, is_part: true, ..piece }, Some(key.clone()));
                    }
                }
                None => self.push(Entry { kind, text: piece }, Some(key)),
            },
            Change::Whole { key, entry, rest } => self.whole(&key, entry, &rest),
            Change::Abandon => self.items.iter_mut().for_each(|item| item.key = None),
            Change::Comings(comings) => self.came(&comings),
        }
        self.bound();
    }

    /// Puts what is older before everything else but the head, and a line before it that says whether there is more.
    pub(super) fn prepend(&mut self, changes: Vec<Change>, has_more: bool) {
        let is_ours = |item: &mut Item| item.entry.kind == Kind::Head || item.entry.text == EARLIER;
        let mut head = Vec::new();
        while let Some(item) = self.items.pop_front_if(is_ours) {
            self.bytes -= item.entry.text.len();
            head.extend((item.entry.kind == Kind::Head).then_some(item.entry));
        }
        head.extend(has_more.then(|| Entry::new(Kind::Note, EARLIER)));
        let entries = changes.into_iter().filter_map(|change| match change {
            Change::Add(entry) | Change::Whole { entry, .. } => Some(entry),
            Change::Stream { .. } | Change::Abandon | Change::Comings(_) => None,
        });
        let pieces: Vec<Piece> = head.into_iter().chain(entries).flat_map(pieces).collect();
        let mut id = self.items.front().map_or(self.next_id, |item| item.id);
        // What was in view below the head stays there.
        if let Some(top) = self.top.as_mut().filter(|top| top.id < id) {
            *top = Top { id, row: 0 };
        }
        for Piece { entry, goes_on, is_part } in pieces.into_iter().rev() {
            id -= 1;
            self.bytes += entry.text.len();
            self.items.push_front(Item { id, entry, key: None, goes_on, is_part, layout: None });
        }
    }

    /// Nothing older finds room.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > BYTES_MAX / 4 * 3
    }

    /// A block is whole: it takes the place of what was streamed of it. Where that is in pieces, what was not streamed
    /// goes on behind them.
    fn whole(&mut self, key: &Key, entry: Entry, rest: &str) {
        let streamed = self.items.iter().filter(|item| item.key.as_ref() == Some(key)).count();
        if streamed == 0 {
            return self.push(entry, None);
        }
        if streamed == 1
            && entry.text.len() <= PIECE_BYTES_MAX
            && let Some(item) = self.streamed(key)
        {
            let (before, after) = (item.entry.text.len(), entry.text.len());
            *item = Item { id: item.id, entry, key: None, goes_on: item.goes_on, is_part: false, layout: None };
            self.bytes = self.bytes - before + after;
            return;
        }
        self.parts(key);
        self.items.iter_mut().filter(|item| item.key.as_ref() == Some(key)).for_each(|item| item.key = None);
        if !rest.is_empty() {
            let rest = Entry { kind: entry.kind, text: rest.trim_end_matches('\n').to_owned() };
            let rest = pieces(rest).into_iter().map(|piece| Piece { goes_on: true, is_part: true, ..piece });
            rest.for_each(|piece| self.push_piece(piece, None));
        }
    }

    /// What was streamed of a block is in several pieces from now on.
    fn parts(&mut self, key: &Key) {
        for item in self.items.iter_mut().filter(|item| item.key.as_ref() == Some(key) && !item.is_part) {
            (item.is_part, item.layout) = (true, None);
        }
    }

    /// Devices have come or gone. Where the last row tells of such it tells of these too; where something else has been
    /// said since, there is a new one, of those that may have one.
    fn came(&mut self, comings: &[Coming]) {
        if let Some((id, row)) = &mut self.comings
            && let Some(item) = self.items.back_mut().filter(|item| item.id == *id)
        {
            comings.iter().for_each(|coming| row.add(coming));
            let entry = row.entry();
            self.bytes = self.bytes - item.entry.text.len() + entry.text.len();
            (item.entry, item.layout) = (entry, None);
        } else if let Some(row) = Row::of(comings) {
            let entry = row.entry();
            self.comings = Some((self.next_id, row));
            self.push(entry, None);
        }
    }

    fn streamed(&mut self, key: &Key) -> Option<&mut Item> {
        self.items.iter_mut().rev().find(|item| item.key.as_ref() == Some(key))
    }

    fn push(&mut self, entry: Entry, key: Option<Key>) {
        for piece in pieces(entry) {
            self.push_piece(piece, key.clone());
        }
    }

    fn push_piece(&mut self, Piece { entry, goes_on, is_part }: Piece, key: Option<Key>) {
        self.bytes += entry.text.len();
        self.items.push_back(Item { id: self.next_id, entry, key, goes_on, is_part, layout: None });
        self.next_id += 1;
    }

    fn bound(&mut self) {
        let mut dropped = false;
        while self.bytes > BYTES_MAX && self.items.len() > 1 {
            let Some(item) = self.items.pop_front() else { break };
            self.bytes -= item.entry.text.len();
            dropped = true;
        }
        if dropped {
            let text =
                "what came before this found no room here; `amp-relay attach --all </dev/null` prints it".to_owned();
            let id = self.items.front().map_or(self.next_id, |item| item.id - 1);
            self.bytes += text.len();
            let entry = Entry { kind: Kind::Note, text };
            self.items.push_front(Item { id, entry, key: None, goes_on: false, is_part: false, layout: None });
        }
    }

    fn index(&self, id: i64) -> usize {
        let first = self.items.front().map_or(0, |item| item.id);
        usize::try_from(id - first).unwrap_or(0).min(self.items.len().saturating_sub(1))
    }

    /// Rows of an item.
    fn rows(&mut self, index: usize, width: u16) -> usize {
        let theme = &self.theme;
        let Some(item) = self.items.get_mut(index) else { return 0 };
        item.lay_out(width, theme)
    }

    /// The first row in view where the end is in view.
    fn top_of_end(&mut self, width: u16, height: usize) -> Top {
        let mut left = height;
        for index in (0..self.items.len()).rev() {
            let rows = self.rows(index, width);
            if rows >= left {
                return Top { id: self.items[index].id, row: rows - left };
            }
            left -= rows;
        }
        Top { id: self.items.front().map_or(0, |item| item.id), row: 0 }
    }

    /// Moves the view. True: it stood at the very beginning and stays there.
    pub(super) fn scroll(&mut self, rows: isize, area: Rect) -> bool {
        let (width, height) = (area.width, usize::from(area.height));
        if self.items.is_empty() {
            return true;
        }
        let end = self.top_of_end(width, height);
        let top = self.top.unwrap_or(end);
        let (mut index, mut row) = (self.index(top.id), top.row);
        let was_first = (index, row) == (0, 0);
        let mut left = rows.unsigned_abs();
        while left > 0 {
            let all = self.rows(index, width);
            if rows < 0 {
                let step = row.min(left);
                (row, left) = (row - step, left - step);
                if left == 0 || index == 0 {
                    break;
                }
                index -= 1;
                row = self.rows(index, width);
            } else {
                let step = (all - row.min(all)).min(left);
                (row, left) = (row + step, left - step);
                if left == 0 && row < all {
                    break;
                }
                if index + 1 == self.items.len() {
                    break;
                }
                (index, row) = (index + 1, 0);
            }
        }
        let new = Top { id: self.items[index].id, row };
        self.top = (new.id < end.id || (new.id == end.id && new.row < end.row)).then_some(new);
        was_first && (index, row) == (0, 0)
    }

    /// Brings the end into view.
    pub(super) fn show_end(&mut self) {
        self.top = None;
    }

    /// Draws what is in view.
    pub(super) fn draw(&mut self, area: Rect, buffer: &mut Buffer) {
        let (width, height) = (area.width, usize::from(area.height));
        if width < 8 || height == 0 || self.items.is_empty() {
            return;
        }
        let top = self.top.unwrap_or_else(|| self.top_of_end(width, height));
        let (mut index, mut skip) = (self.index(top.id), top.row);
        let mut y = area.y;
        while y < area.bottom() && index < self.items.len() {
            let rows = self.rows(index, width);
            skip = skip.min(rows.saturating_sub(1));
            let shown = (rows - skip).min(usize::from(area.bottom() - y));
            // A row that was counted fits into the area's height, which is 16 bits wide.
            let place = Rect { y, height: shown as u16, ..area };
            self.items[index].draw(place, skip, &self.theme, buffer);
            y += shown as u16;
            (index, skip) = (index + 1, 0);
        }
    }

    /// The last lines as plain text, for the terminal that comes back: at most so many rows.
    pub(super) fn last_lines(&mut self, width: u16, rows: usize) -> String {
        let mut lines: Vec<String> = Vec::new();
        for item in self.items.iter().rev() {
            let mut own = item.entry.rows(usize::from(width));
            own.append(&mut lines);
            lines = own;
            if lines.len() >= rows {
                break;
            }
        }
        let first = lines.len().saturating_sub(rows);
        lines[first..].iter().map(|line| format!("{line}\n")).collect()
    }
}

/// A piece of an entry, or all of it.
struct Piece {
    entry: Entry,
    goes_on: bool,
    is_part: bool,
}

/// An entry in pieces. Cut between lines where there are any.
fn pieces(entry: Entry) -> Vec<Piece> {
    if entry.text.len() <= PIECE_BYTES_MAX {
        return vec![Piece { entry, goes_on: false, is_part: false }];
    }
    let mut all = Vec::new();
    let mut rest = entry.text.as_str();
    while !rest.is_empty() {
        let most = rest.floor_char_boundary(PIECE_BYTES_MAX);
        let at = if most == rest.len() { most } else { rest[..most].rfind('\n').map_or(most, |at| at + 1) };
        let (piece, more) = rest.split_at(at);
        // What is streamed behind the last piece may begin another line.
        let line_end = if more.is_empty() { "" } else { "\n" };
        let text = piece.strip_suffix(line_end).unwrap_or(piece).to_owned();
        all.push(Piece { entry: Entry { kind: entry.kind, text }, goes_on: !all.is_empty(), is_part: true });
        rest = more;
    }
    all
}

/// The rows of a line; of a record with a mark before each that the line is continued on.
fn rows_of(line: &Line<'_>, width: usize, is_record: bool) -> Vec<Line<'static>> {
    let rows = wrap::rows(line, width);
    if !is_record || rows.len() < 2 {
        return rows;
    }
    let mut rows = wrap::rows(line, width.saturating_sub(columns(card::GOES_ON)));
    rows.iter_mut().skip(1).for_each(|row| row.spans.insert(0, Span::raw(card::GOES_ON)));
    rows
}

impl Item {
    /// Lays it out for a width, unless that is done. Gives its rows.
    fn lay_out(&mut self, width: u16, theme: &Theme) -> usize {
        if let Some(layout) = self.layout.as_ref().filter(|layout| layout.width == width) {
            return layout.rows.len() + self.space();
        }
        let inner = self.inner(width);
        let text = match self.is_part {
            true => theme.as_it_is(&self.entry),
            false => theme.body(&self.entry, self.key.is_some(), inner),
        };
        let is_record = self.entry.kind.is_record();
        let mut rows: Vec<Line<'static>> =
            text.lines.iter().flat_map(|line| rows_of(line, usize::from(inner), is_record)).collect();
        if rows.is_empty() {
            rows.push(Line::default());
        }
        let count = rows.len() + self.space();
        self.layout = Some(Layout { width, rows });
        count
    }

    /// Columns right of the marks.
    fn inner(&self, width: u16) -> u16 {
        width.saturating_sub(self.margin())
    }

    fn margin(&self) -> u16 {
        self.entry.kind.marks().0.chars().count() as u16
    }

    /// Rows left free above it.
    fn space(&self) -> usize {
        usize::from(!self.goes_on && matches!(self.entry.kind, Kind::Prompt | Kind::Answer | Kind::Tool))
    }

    fn draw(&self, area: Rect, skip: usize, theme: &Theme, buffer: &mut Buffer) {
        let Some(layout) = &self.layout else { return };
        let space = self.space().saturating_sub(skip);
        let Some(height) = usize::from(area.height).checked_sub(space).filter(|height| *height > 0) else { return };
        let y = area.y + space as u16;
        let skip = skip.saturating_sub(self.space());
        let style: Style = theme.mark(self.entry.kind);
        let (first, others) = self.entry.kind.marks();
        let margin = self.margin();
        for ((at, row), y) in layout.rows.iter().enumerate().skip(skip).take(height).zip(y..) {
            let mark = if at == 0 && !self.goes_on { first } else { others };
            buffer.set_string(area.x, y, mark, style);
            buffer.set_line(area.x + margin, y, row, area.width.saturating_sub(margin));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(text: &str) -> Change {
        Change::Add(Entry::new(Kind::Note, text))
    }

    fn drawn(transcript: &mut Transcript) -> Vec<String> {
        let area = Rect::new(0, 0, 90, 4);
        let mut buffer = Buffer::empty(area);
        transcript.draw(area, &mut buffer);
        let row = |y| (0..area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..area.height).map(row).collect()
    }

    #[test]
    fn f_the_history_that_is_not_shown_is_said_and_reached() {
        let area = Rect::new(0, 0, 90, 4);
        let mut transcript = Transcript::new(Theme { color: false });
        transcript.apply(Change::Add(Entry::new(Kind::Head, "project")));
        (0..6).for_each(|n| transcript.apply(add(&format!("new {n}"))));
        transcript.prepend(Vec::new(), true);
        assert_eq!(drawn(&mut transcript), ["· new 2", "· new 3", "· new 4", "· new 5"]);
        assert!(!transcript.scroll(-9, area), "the beginning is shown before more is asked for");
        assert_eq!(drawn(&mut transcript)[..2], ["· project".to_owned(), format!("· {EARLIER}")]);
        assert!(transcript.scroll(-1, area));
        transcript.prepend(vec![add("old 0"), add("old 1")], false);
        assert_eq!(drawn(&mut transcript)[0], "· new 0", "what was in view stays there");
        transcript.scroll(-9, area);
        assert_eq!(drawn(&mut transcript)[..3], ["· project", "· old 0", "· old 1"], "nothing is missing any more");
    }

    #[test]
    fn what_stays_on_the_terminal_is_broken_between_words() {
        let mut transcript = Transcript::new(Theme { color: false });
        transcript.apply(add("one, and nothing else was touched\n\tten"));
        assert_eq!(transcript.last_lines(24, 9), "· one, and nothing else\n╎ was touched\n╎     ten\n");
        transcript.apply(Change::Add(Entry::new(Kind::Denied, "denied by another: rm")));
        assert_eq!(transcript.last_lines(18, 2), "✗ denied by\n╎ ↳ another: rm\n");
    }

    #[test]
    fn a_text_too_long_to_be_one_piece_is_shown_as_it_is_at_any_width() {
        const LINE: &str = "cp *a* *b*  # __init__ \\* <b>x</b>";
        let text = format!("```sh\n{}```", format!("{LINE}\n").repeat(PIECE_BYTES_MAX / LINE.len() * 2));
        let key = || ("m".to_owned(), 0);
        let entry = || Entry { kind: Kind::Answer, text: text.clone() };
        let whole = vec![Change::Add(entry())];
        let streamed: Vec<Change> = text
            .as_bytes()
            .chunks(2_000)
            .map(|piece| String::from_utf8(piece.to_vec()).expect("ASCII"))
            .map(|piece| Change::Stream { key: key(), kind: Kind::Answer, piece })
            .collect();
        let ended = Change::Whole { key: key(), entry: entry(), rest: String::new() };
        for (changes, end) in [(whole, None), (streamed, Some(ended))] {
            let mut transcript = Transcript::new(Theme { color: true });
            changes.into_iter().for_each(|change| transcript.apply(change));
            let rows = |transcript: &mut Transcript, width| {
                let area = Rect::new(0, 0, width, 5);
                let mut buffer = Buffer::empty(area);
                transcript.draw(area, &mut buffer);
                let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim().to_owned();
                (0..4).map(row).collect::<Vec<_>>()
            };
            // In the first piece, which was seen before there was another one, as well.
            transcript.scroll(-1_000_000, Rect::new(0, 0, 90, 5));
            rows(&mut transcript, 90);
            transcript.scroll(100, Rect::new(0, 0, 90, 5));
            assert_eq!(rows(&mut transcript, 90), [LINE; 4]);
            transcript.scroll(1_000_000, Rect::new(0, 0, 90, 5));
            assert_eq!(rows(&mut transcript, 90), [LINE; 4]);
            end.into_iter().for_each(|change| transcript.apply(change));
            for width in [80, 90] {
                assert_eq!(rows(&mut transcript, width), [LINE; 4], "at {width}");
            }
        }
    }

    #[test]
    fn no_row_of_others_passes_for_the_agents_own() {
        let text = "@v2 please\n\nDone: all tests pass, and everything is as it was to be";
        for kind in [Kind::Prompt, Kind::Output, Kind::Thinking, Kind::Denied, Kind::Error, Kind::Tool] {
            let mut transcript = Transcript::new(Theme { color: false });
            transcript.apply(Change::Add(Entry::new(kind, text)));
            let area = Rect::new(0, 0, 30, 5);
            // From any row on, as it is after scrolling.
            for top in 0..4 {
                transcript.top = Some(Top { id: 0, row: top });
                let mut buffer = Buffer::empty(area);
                transcript.draw(area, &mut buffer);
                let is_blank = |y: &u16| (0..area.width).all(|x| buffer[(x, *y)].symbol() == " ");
                let bare = (0..area.height).filter(|y| buffer[(0, *y)].symbol() == " " && !is_blank(y));
                assert_eq!(bare.count(), 0, "{kind:?} from {top}: {buffer:?}");
            }
            assert!(transcript.last_lines(30, 3).lines().all(|row| !row.starts_with(' ')), "{kind:?}");
        }
    }

    #[test]
    fn those_that_come_and_go_one_after_the_other_are_one_row() {
        let mut transcript = Transcript::new(Theme { color: false });
        let comes = |transcript: &mut Transcript, said: bool| {
            for joined in [true, false] {
                let coming = Coming { who: "guest".into(), joined, said };
                transcript.apply(Change::Comings(vec![coming]));
            }
        };
        transcript.apply(add("before"));
        comes(&mut transcript, true);
        (0..1_000).for_each(|_| comes(&mut transcript, false));
        let told = "· guest joined or left 2002 times and left last";
        assert_eq!(drawn(&mut transcript), ["· before", told, "", ""]);
        transcript.apply(add("between"));
        comes(&mut transcript, false);
        assert_eq!(drawn(&mut transcript), ["· before", told, "· between", ""], "one that has had its rows");
        comes(&mut transcript, true);
        assert_eq!(drawn(&mut transcript)[3], "· guest joined and left");
        let bytes: usize = transcript.items.iter().map(|item| item.entry.text.len()).sum();
        assert_eq!(transcript.bytes, bytes);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_was_dropped_is_said() {
        let mut transcript = Transcript::new(Theme { color: false });
        let key = ("m".to_owned(), 0);
        for _ in 0..20 {
            transcript.apply(Change::Stream { key: key.clone(), kind: Kind::Output, piece: "x".repeat(1 << 20) });
        }
        assert!(transcript.is_full() && transcript.bytes <= BYTES_MAX + 200);
        assert!(transcript.items[0].entry.text.contains("found no room"));
    }
}

#[cfg(test)]
#[path = "transcript_kept_tests.rs"]
mod kept;
