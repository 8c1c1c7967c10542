//! Which notes are said that a peer can cause without end, sans-io. Owns how many of each kind there were.

use super::Told;
use crate::cli::text::THEIRS;

/// Notes of a kind that are said. Of those after them one is, with their number, each time that this has doubled.
const NOTES_MAX: u64 = 16;

/// The notes so far.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// How many of each kind there were. A kind is words of ours, so there are few.
    kinds: Vec<(&'static str, u64)>,
    /// The one that was said last.
    last: Option<Told>,
}

impl Notes {
    /// A note is to be said: given back if it is one of those that are. The same one is not said twice in a row. Words of
    /// the other side that are marked as its own are all said beside that: nothing else tells how it goes.
    pub(super) fn said(&mut self, told: Told) -> Option<Told> {
        let times = if told.ours == THEIRS { 0 } else { self.counted(told.ours) };
        let is_counted = times >= NOTES_MAX && times.is_power_of_two();
        let is_another = self.last.as_ref() != Some(&told);
        if !is_counted && (times > NOTES_MAX || !is_another) {
            return None;
        }
        self.last = Some(told.clone());
        Some(Told { times: if is_counted { times } else { 0 }, ..told })
    }

    /// Something else was printed.
    pub(super) fn between(&mut self) {
        self.last = None;
    }

    fn counted(&mut self, kind: &'static str) -> u64 {
        match self.kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, times)) => {
                *times += 1;
                *times
            }
            None => {
                self.kinds.push((kind, 1));
                1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_note_is_said_once_in_a_row() {
        let mut notes = Notes::default();
        let mut is_said = |ours, theirs: &str| notes.said(Told::new(ours, theirs)).is_some();
        for (ours, theirs, said) in [
            ("processing", "", true),
            ("processing", "", false),
            (THEIRS, "reading", true),
            (THEIRS, "reading", false),
            (THEIRS, "writing", true),
            ("processing", "", true),
        ] {
            assert_eq!(is_said(ours, theirs), said, "{ours}{theirs}");
        }
        notes.between();
        assert!(notes.said(Told::new("processing", "")).is_some());
    }

    #[test]
    fn notes_of_ours_are_few_and_say_how_many_there_were() {
        let mut notes = Notes::default();
        let (mut said, mut counts) = (0, Vec::new());
        for n in 0..3000 {
            for told in [Told::new("passed over: ", n.to_string()), Told::new("processing", "")] {
                let told = notes.said(told);
                said += u64::from(told.is_some());
                counts.extend(told.map(|told| told.times).filter(|times| *times > 0));
            }
        }
        assert_eq!(said, 2 * (NOTES_MAX + 7));
        assert_eq!(counts.chunks(2).map(|both| both[0]).collect::<Vec<_>>(), [16, 32, 64, 128, 256, 512, 1024, 2048]);
        assert_eq!(notes.said(Told::new("another kind", "")), Some(Told::new("another kind", "")));
    }

    #[test]
    fn what_the_other_side_says_of_its_work_is_said() {
        let mut notes = Notes::default();
        assert!((0..3000).all(|n| notes.said(Told::new(THEIRS, n.to_string())).is_some()));
    }
}
