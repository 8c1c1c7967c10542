//! A question as parts that a terminal has room for, sans-io. Owns how much of it one part shows, and what stands below.

use crate::{
    base::glyph::drawable,
    cli::text::{GOES_ON, folded, marked, rows_from},
};

/// Terminals with fewer columns show no question: rows would begin with marks and hold little else.
const COLUMNS_MIN: usize = 20;

/// Where the size of the terminal is not known.
const UNKNOWN: &str = "? a question waits, and this terminal does not say how large it is, so none of it can be shown to \
                       the end. Ctrl-Z, then `stty rows 24 columns 80` with its numbers, then `fg` shows it; n denies it ";
/// Where it has no room.
const SMALL: &str = "? a question waits, and this terminal is too small to show it: make it larger, then Enter shows it; n \
                     denies it ";

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
    let Some(size) = size else { return Part { text: UNKNOWN.into(), follows: Follows::Same } };
    // A row that fills the last column is ended by that on some terminals, and once more by the line feed.
    let width = size.columns.saturating_sub(1);
    let small = || Part { text: folded(SMALL, width.max(1), ""), follows: Follows::Same };
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
        return Part { text: own(&rows) + &last, follows: Follows::Nothing };
    }
    let fit = room(&last).min(room(&more(rows.len())));
    match rows.get(fit).filter(|_| fit > 0) {
        Some((next, _)) => Part { text: own(&rows[..fit]) + &more(rows.len() - fit), follows: Follows::Part(*next) },
        None => small(),
    }
}
