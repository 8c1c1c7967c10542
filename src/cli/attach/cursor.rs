//! Where the terminal's own cursor stands: in the cell that the text area has drawn reversed. The area counts columns by
//! characters and is drawn by clusters, which are wider or narrower for emoji of several characters; so the cell is
//! looked for, and not counted.

use ratatui::{
    Frame,
    buffer::{Buffer, CellWidth},
    layout::{Position, Rect},
    style::Modifier,
};
use ratatui_textarea::TextArea;
use unicode_segmentation::UnicodeSegmentation;

/// Sets the terminal's cursor where the text goes on, for screen readers and input methods. The text stands drawn in
/// `area`.
pub(super) fn set(frame: &mut Frame<'_>, text: &TextArea<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let buffer = frame.buffer_mut();
    let at = reversed(buffer, area).unwrap_or_else(|| {
        let at = without_a_cell(text, area, buffer);
        buffer[at].modifier.insert(Modifier::REVERSED);
        at
    });
    frame.set_cursor_position(at);
}

fn reversed(buffer: &Buffer, area: Rect) -> Option<Position> {
    area.positions().find(|at| buffer[*at].modifier.contains(Modifier::REVERSED))
}

/// The place of a cursor that nothing was drawn for: behind a row that is full, on whose last cell it stands, or before a
/// character without a column.
fn without_a_cell(text: &TextArea<'_>, area: Rect, buffer: &Buffer) -> Position {
    let cursor = text.screen_cursor();
    let row = cursor.row.saturating_sub(text.scroll_offset().0.into()) as u16;
    let y = area.y.saturating_add(row).min(area.bottom() - 1);
    let (start, end) = (text.screen_to_data(cursor.row, 0), text.cursor());
    let line = text.lines().get(end.0).map_or("", String::as_str);
    let before: String = line.chars().take(end.1).skip(start.1).collect();
    let drawn = before.graphemes(true).filter(|cluster| !cluster.contains(char::is_control));
    let columns = drawn.fold(0u16, |columns, cluster| columns.saturating_add(cluster.cell_width()));
    let x = area.x.saturating_add(columns).min(area.right() - 1);
    // The second column of a wide character is no cell of its own.
    let mut cell = area.x;
    loop {
        match cell + buffer[(cell, y)].cell_width().max(1) {
            next if next <= x => cell = next,
            _ => break,
        }
    }
    Position { x: cell, y }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::{Terminal, backend::TestBackend};

    use super::{
        super::{
            cards::Cards,
            editor::{Edit, Editor, Key},
            screen::{Screen, Status},
            theme::Theme,
        },
        *,
    };

    /// A frame with this text: the cursor, the first reversed cell below the other parts, and the symbols of all cells.
    fn drawn(editor: &Editor, (width, height): (u16, u16)) -> (Position, Option<Position>, Buffer) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal of memory");
        let mut screen = Screen::new(Theme { color: false });
        let (cards, status) = (Cards::new(true), Status::default());
        terminal
            .draw(|frame| {
                screen.draw(frame, &cards, editor, &status);
            })
            .expect("a frame");
        let at = terminal.get_cursor_position().expect("a cursor");
        let buffer = terminal.backend().buffer().clone();
        (at, reversed(&buffer, buffer.area), buffer)
    }

    fn typed(text: &str) -> Editor {
        let mut editor = Editor::default();
        text.chars().for_each(|c| drop(editor.key(Key::Char(c), 0, false)));
        editor
    }

    fn emoji() -> impl Strategy<Value = String> {
        let pieces = [
            "a",
            " ",
            "é",
            "e\u{301}",
            "漢",
            "한",
            "🇩🇪",
            "👍",
            "👍🏽",
            "❤\u{fe0f}",
            "❤",
            "👩\u{200d}👩\u{200d}👧",
            "1\u{fe0f}\u{20e3}",
            "\u{200d}",
            "\u{fe0f}",
            "\u{1f3fd}",
            "ｶ\u{ff9e}",
            "กำ",
            "नि",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..20).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn the_cursor_stands_behind_an_emoji_of_several_characters() {
        for (text, column) in
            [("👍🏽 ab", 7), ("❤\u{fe0f}", 4), ("👨\u{200d}👩\u{200d}👧", 4), ("漢字", 6), ("한글é", 7), ("🇩🇪", 4)]
        {
            let (at, reversed, _) = drawn(&typed(text), (40, 8));
            assert_eq!((at.x, reversed), (column, Some(at)), "{text}");
        }
        assert_eq!(drawn(&typed(&"👍🏽".repeat(10)), (80, 8)).0.x, 22);
    }

    proptest! {
        #[test]
        fn the_cursor_stands_where_the_text_goes_on(text in emoji()) {
            let (at, reversed, _) = drawn(&typed(&text), (120, 8));
            let (_, _, buffer) = drawn(&typed(&format!("{text}x")), (120, 8));
            prop_assert_eq!(buffer[at].symbol(), "x", "{:?}", text);
            prop_assert_eq!(reversed, Some(at));
        }

        #[test]
        fn there_is_one_cursor(text in emoji(), moves in prop::collection::vec(0usize..6, 0..20), width in 3u16..40, height in 3u16..12) {
            let mut editor = typed(&text);
            let edits = [Edit::Left, Edit::Right, Edit::Start, Edit::WordBack, Edit::Up, Edit::Newline];
            for edit in moves {
                editor.key(Key::Edit(edits[edit]), 0, false);
            }
            let (at, reversed, _) = drawn(&editor, (width, height));
            prop_assert_eq!(reversed, Some(at), "{:?}", editor.text());
        }
    }
}
