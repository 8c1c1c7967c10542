//! Devices that come and go, sans-io. Keys that only watch may do both without end: what is said of them is to leave room for
//! the agent. So those that follow one another are one row, and of a key that goes on few rows are made.

use std::collections::HashMap;

use super::entry::{Coming, Entry, Kind};
use crate::cli::text::counted;

/// Rows that may tell of one key within [`EACH_MS`].
const ROWS_MAX: u32 = 3;
const EACH_MS: u64 = 60_000;
/// Keys that are counted; a relay has room for fewer that watch.
const KEYS_MAX: usize = 256;
/// Devices that one row names.
const NAMED_MAX: usize = 4;

/// How many rows have told of each key.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    keys: HashMap<String, (u64, u32)>,
}

impl Rows {
    /// Whether another row may tell of this key.
    pub(super) fn may(&mut self, key: &str, now_ms: u64) -> bool {
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(key) {
            self.keys.retain(|_, (since_ms, _)| now_ms < *since_ms + EACH_MS);
            if self.keys.len() >= KEYS_MAX {
                return false;
            }
        }
        let (since_ms, rows) = self.keys.entry(key.to_owned()).or_insert((now_ms, 0));
        if now_ms >= *since_ms + EACH_MS {
            (*since_ms, *rows) = (now_ms, 0);
        }
        *rows += 1;
        *rows <= ROWS_MAX
    }
}

/// What one row tells: for each device the first, the last, and how many times it came or went.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    named: Vec<Told>,
    others: u64,
}

#[derive(Clone, Debug)]
struct Told {
    who: String,
    first: bool,
    last: bool,
    times: u64,
}

impl Row {
    /// A row of those that may have one, if there are any.
    pub(super) fn of(comings: &[Coming]) -> Option<Self> {
        let mut row = Self::default();
        comings.iter().filter(|coming| coming.said).for_each(|coming| row.add(coming));
        (!row.named.is_empty()).then_some(row)
    }

    pub(super) fn add(&mut self, coming: &Coming) {
        let Coming { who, joined, .. } = coming;
        let room = self.named.len() < NAMED_MAX;
        match self.named.iter_mut().find(|told| told.who == *who) {
            Some(told) => (told.last, told.times) = (*joined, told.times + 1),
            None if room => {
                self.named.push(Told { who: who.clone(), first: *joined, last: *joined, times: 1 });
            }
            None => self.others += 1,
        }
    }

    pub(super) fn entry(&self) -> Entry {
        let did = |joined: bool| if joined { "joined" } else { "left" };
        let told = |Told { who, first, last, times }: &Told| match times {
            1 => format!("{who} {}", did(*last)),
            2 if first != last => format!("{who} {} and {}", did(*first), did(*last)),
            _ => format!("{who} joined or left {times} times and {} last", did(*last)),
        };
        let mut all: Vec<String> = self.named.iter().map(told).collect();
        if self.others > 0 {
            all.push(format!("others joined or left {}", counted(self.others, "time")));
        }
        Entry::new(Kind::Note, &all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coming(who: &str, joined: bool) -> Coming {
        Coming { who: who.into(), joined, said: true }
    }

    #[test]
    fn a_row_is_bounded_whatever_comes_and_goes() {
        let mut row = Row::of(&[coming("you (phone)", true)]).expect("it may have a row");
        assert_eq!(row.entry().text, "you (phone) joined");
        row.add(&coming("you (phone)", false));
        assert_eq!(row.entry().text, "you (phone) joined and left");
        row.add(&coming("guest", true));
        (0..11).for_each(|at| row.add(&coming("guest", at % 2 == 1)));
        assert_eq!(row.entry().text, "you (phone) joined and left, guest joined or left 12 times and left last");
        (0..1_000).for_each(|at| row.add(&coming(&format!("guest ({at})"), true)));
        assert!(row.entry().text.ends_with(", others joined or left 998 times"), "{}", row.entry().text);
        assert!(Row::of(&[Coming { said: false, ..coming("guest", true) }]).is_none());
    }

    #[test]
    fn a_key_has_a_few_rows_a_minute_and_takes_none_from_others() {
        let mut rows = Rows::default();
        let said = |rows: &mut Rows, key: &str, from_ms: u64| {
            (from_ms..from_ms + EACH_MS).step_by(500).filter(|now_ms| rows.may(key, *now_ms)).count()
        };
        assert_eq!((said(&mut rows, "a", 0), said(&mut rows, "b", 0), said(&mut rows, "a", EACH_MS)), (3, 3, 3));
        (0..2 * KEYS_MAX).for_each(|key| assert_eq!(rows.may(&key.to_string(), 2 * EACH_MS), key < KEYS_MAX));
        assert!(rows.keys.len() <= KEYS_MAX);
    }
}
