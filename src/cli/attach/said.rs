//! What a key or a line was answered with, sans-io: how long it stands in the status row, over the state of the session. A key
//! or another size ends it. A terminal that is only watched gets neither, so it also ends when it may not be so any more.

use super::model::Model;

/// How long it stands where nothing changes, in milliseconds.
const STANDS_MS: u64 = 10_000;
/// How long it stands whatever changes: shorter, and it would not be seen.
const SEEN_MS: u64 = 1_000;

/// What it is said of: with another it may not be so any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    offline: bool,
    state: String,
    role: String,
    /// Prompts that run, and that wait.
    prompts: (usize, usize),
    /// The card that is to be shown.
    card: Option<u64>,
    /// Requests that wait, and those of them with an answer of ours.
    requests: (usize, usize),
}

impl About {
    pub(super) fn of(model: &Model, offline: bool) -> Self {
        let cards = &model.cards;
        Self {
            offline,
            state: model.state().to_owned(),
            role: model.role().to_owned(),
            prompts: model.prompts(),
            card: cards.shown().map(|waiting| waiting.number),
            requests: (cards.len(), cards.on_their_way()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Said {
    text: String,
    about: About,
    /// That has been another since.
    has_changed: bool,
    /// Since when it stands on the terminal.
    drawn_ms: Option<u64>,
}

impl Said {
    pub(super) fn new(text: String, about: About) -> Self {
        Self { text, about, has_changed: false, drawn_ms: None }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The terminal has it.
    pub(super) fn drawn(&mut self, now_ms: u64) {
        self.drawn_ms.get_or_insert(now_ms);
    }

    /// Whether it gives way now, where what it is said of is this.
    pub(super) fn gives_way(&mut self, about: &About, now_ms: u64) -> bool {
        self.has_changed |= self.about != *about;
        self.until_ms().is_some_and(|until_ms| now_ms >= until_ms)
    }

    /// When it gives way, if nothing changes until then. Without a frame that shows it: never.
    pub(super) fn until_ms(&self) -> Option<u64> {
        let stands_ms = if self.has_changed { SEEN_MS } else { STANDS_MS };
        self.drawn_ms.map(|drawn_ms| drawn_ms.saturating_add(stands_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn busy() -> About {
        About { state: "busy".into(), ..About::default() }
    }

    #[test]
    fn it_gives_way_to_a_change_once_it_was_seen_and_to_time() {
        let (ready, busy) = (About::default(), busy());
        let drawn = |at_ms| {
            let mut said = Said::new("nothing is running".into(), ready.clone());
            said.drawn(at_ms);
            said
        };
        let mut said = drawn(500);
        assert!(!said.gives_way(&ready, 10_499) && said.gives_way(&ready, 10_500), "time alone");
        let mut said = drawn(500);
        assert!(!said.gives_way(&busy, 600) && said.until_ms() == Some(1_500), "it is to be seen first");
        assert!(!said.gives_way(&ready, 1_499) && said.gives_way(&ready, 1_500), "a change that was undone is one");
        let mut said = drawn(500);
        assert!(said.gives_way(&busy, 5_000), "a later one");
        let mut said = Said::new("kept".into(), ready);
        assert!(!said.gives_way(&busy, u64::MAX) && said.until_ms().is_none(), "no terminal has it yet");
        said.drawn(7);
        said.drawn(700);
        assert_eq!(said.until_ms(), Some(1_007), "since the first frame");
    }

    proptest! {
        /// Whatever changes and when it is looked: it is seen, it ends, and the time it names is when it ends.
        #[test]
        fn it_is_seen_and_it_ends(looks in prop::collection::vec((0u64..4_000, any::<bool>()), 1..40), from_ms in 0u64..1 << 40) {
            let mut said = Said::new("text".into(), About::default());
            said.drawn(from_ms);
            let (mut now_ms, mut changed) = (from_ms, false);
            for (after_ms, is_busy) in looks {
                now_ms += after_ms;
                changed |= is_busy;
                let over = said.gives_way(&if is_busy { busy() } else { About::default() }, now_ms);
                let stood_ms = now_ms - from_ms;
                prop_assert_eq!(over, stood_ms >= if changed { SEEN_MS } else { STANDS_MS });
                let until_ms = said.until_ms();
                prop_assert_eq!(over, until_ms.is_some_and(|until_ms| until_ms <= now_ms), "it wakes for no other time");
                if over {
                    break;
                }
            }
        }
    }
}
