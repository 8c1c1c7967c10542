//! A question as parts that a terminal has room for, sans-io. Owns how much of it one part shows, and what stands below.

use crate::{
    base::glyph::drawable,
    cli::text::{GIVE_SIZE, GOES_ON, NO_SIZE, folded, marked, rows_from},
};

/// Terminals with fewer columns show no question: rows would begin with marks and hold little else.
const COLUMNS_MIN: usize = 20;

/// Where it has no room.
const SMALL: &str = "? a question waits, and this terminal is too small to show it: make it larger, then Enter shows it; n \
                     denies it ";

/// Where the size of the terminal is not known.
fn unknown() -> String {
    format!("? a question waits, and {NO_SIZE}, so none of it can be shown to the end. {GIVE_SIZE}; n denies it ")
}

/// How large a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// What of a question is shown at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its rows, and below them what can be typed.
    pub(super) text: String,
    pub(super) follows: Follows,
    /// How many rows it takes.
    pub(super) rows: usize,
}

impl Part {
    fn new(text: String, follows: Follows) -> Self {
        Self { rows: text.split('\n').count(), text, follows }
    }
}

/// What comes after a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// It was the last one.
    Nothing,
    /// The next part, which begins at this place of the question.
    Part(usize),
    /// The same place: nothing could be shown.
    Same,
}

/// The part of a question that begins at this place, as much of it as stays in view together with what is typed below;
/// `keys` stand below the last one.
pub(super) fn part(prompt: &str, keys: &str, from: usize, size: Option<Size>) -> Part {
    let Some(size) = size else { return Part::new(unknown(), Follows::Same) };
    // A row that fills the last column is ended by that on some terminals, and once more by the line feed.
    let width = size.columns.saturating_sub(1);
    let small = || Part::new(folded(SMALL, width.max(1), ""), Follows::Same);
    if size.columns < COLUMNS_MIN {
        return small();
    }
    let text = format!("? {}", marked(prompt));
    let rows = rows_from(&drawable(&text), from, width, GOES_ON);
    let last = folded(&format!("{} ", keys), width, "");
    let more = |rows: usize| {
        let rows = if rows == 1 { "1 more row".into() } else { format!("{rows} more rows") };
        folded(&format!("-- {rows}: Enter shows the next, n denies it -- "), width, "")
    };
    // What is typed may begin another row.
    let room = |below: &str| size.rows.saturating_sub(below.split('\n').count() + 1);
    let own = |rows: &[(usize, String)]| rows.iter().map(|(_, row)| format!("{row}\n")).collect::<String>();
    if rows.len() <= room(&last) {
        return Part::new(own(&rows) + &last, Follows::Nothing);
    }
    let fit = room(&last).min(room(&more(rows.len())));
    match rows.get(fit).filter(|_| fit > 0) {
        Some((next, _)) => Part::new(own(&rows[..fit]) + &more(rows.len() - fit), Follows::Part(*next)),
        None => small(),
    }
}

/// What is said of a line that was typed below a part of so many rows, and `keys` once more, with the rows that all of it
/// takes by then. `None`: the part would not stay in view.
pub(super) fn below(why: &str, keys: &str, (line, rows): (&str, usize), size: Size) -> Option<(String, usize)> {
    let width = size.columns.saturating_sub(1);
    let keys = format!("{keys} ");
    let height = |text: &str| folded(text, width, "").split('\n').count();
    let typed = height(&format!("{keys}{}", line.trim_end_matches(['\r', '\n']))) - height(&keys);
    let text = folded(&format!("{why}\n{keys}"), width, "");
    let rows = rows + typed + text.split('\n').count();
    // What is typed may begin another row.
    (rows < size.rows).then_some((text, rows))
}
