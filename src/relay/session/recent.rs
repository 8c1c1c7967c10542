//! The newest events of a session at hand, and the reads of older ones that are under way at the store. Owns how much
//! of both is held; must not know what an event means.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    relay::api::{Caller, Error, Event, Text, bulk},
    store::OpId,
};

/// Bytes of the newest events in the answer to `attach`, unless the client says another figure.
const TAIL_BYTES: u64 = 32 << 10;
/// What an answer with events takes beside them, positions of two logs at the most.
pub(super) const ANSWER_BYTES: usize = 1 << 10;
/// Bytes of events that are held at the most for devices that wait for earlier ones.
const PINNED_BYTES_MAX: usize = 1 << 20;

/// How much an answer may take in events: what the client wants, as far as a message holds it.
pub(super) fn bytes_of(wanted: Option<u64>) -> usize {
    wanted.unwrap_or(TAIL_BYTES).min((bulk::MESSAGE_BYTES_MAX - ANSWER_BYTES) as u64) as usize
}

/// An event that was committed or is about to be, and its bulk, which takes as long to find as to read its texts.
pub(super) struct Fact {
    pub(super) event: Arc<Event>,
    pub(super) bulk: usize,
}

/// The newest committed events.
pub(super) struct Recent {
    facts: VecDeque<Fact>,
    bytes: usize,
    bytes_max: usize,
    /// The offset of the first of them, or of the next event if there is none.
    first: u64,
}

impl Recent {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { facts: VecDeque::new(), bytes: 0, bytes_max, first: 0 }
    }

    /// Takes the next one. Those from `keep` on stay, within reason.
    pub(super) fn push(&mut self, fact: Fact, keep: u64) {
        self.bytes += fact.bulk;
        self.facts.push_back(fact);
        while self.bytes > self.bytes_max && (self.first < keep || self.bytes > PINNED_BYTES_MAX) {
            let Some(fact) = self.facts.pop_front() else { break };
            self.bytes -= fact.bulk;
            self.first += 1;
        }
    }

    /// The oldest from this offset on: as many as fit, but one at least. `None`: the first is not here.
    pub(super) fn from(&self, offset: u64, bytes: usize) -> Option<Vec<Arc<Event>>> {
        let index = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        let mut room = bytes;
        let mut events = Vec::new();
        for fact in self.facts.range(index.min(self.facts.len())..) {
            let left = room.checked_sub(fact.bulk);
            if left.is_none() && !events.is_empty() {
                break;
            }
            room = left.unwrap_or(0);
            events.push(fact.event.clone());
        }
        Some(events)
    }

    /// The newest before this offset that fit. `None`: more would fit than is here.
    pub(super) fn before(&self, offset: u64, bytes: usize, earliest: u64) -> Option<Vec<Arc<Event>>> {
        let end = usize::try_from(offset.checked_sub(self.first)?).ok()?.min(self.facts.len());
        let (mut from, mut room) = (end, bytes);
        while let Some(fact) = from.checked_sub(1).and_then(|last| self.facts.get(last)) {
            let Some(left) = room.checked_sub(fact.bulk) else { break };
            (from, room) = (from - 1, left);
        }
        let whole = from > 0 || self.first <= earliest;
        whole.then(|| self.facts.range(from..end).map(|fact| fact.event.clone()).collect())
    }
}

/// How far the events have come that an attach needs.
pub(super) enum Past {
    Unread,
    Reading(OpId),
    Here(Result<Vec<Arc<Event>>, Error>),
}

/// A `history` that waits for its read.
pub(super) struct Asked {
    pub(super) op: OpId,
    pub(super) caller: Caller,
    pub(super) re: Text,
    pub(super) before: u64,
    pub(super) bytes: usize,
}

/// The newest of them that fit into `bytes`, `least` in any case.
pub(super) fn newest(mut events: Vec<Arc<Event>>, bytes: usize, least: usize) -> Vec<Arc<Event>> {
    let mut room = bytes;
    let fits = |event: &&Arc<Event>| {
        let left = room.checked_sub(event.bulk());
        room = left.unwrap_or(0);
        left.is_some()
    };
    let count = events.iter().rev().take_while(fits).count().max(least.min(events.len()));
    events.drain(..events.len() - count);
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::api::{Kind, Position};

    #[test]
    fn what_a_device_waits_for_is_held_within_a_bound() {
        const EVENTS: u64 = 100;
        let bulk = PINNED_BYTES_MAX / 16;
        let fact = |offset| {
            let kind = Kind::Notice { level: "info", text: "x".into() };
            let position = Position { epoch: "e".into(), offset };
            Fact { event: Arc::new(Event { session: "s".into(), position, at: 1, by: None, kind }), bulk }
        };
        // Those from the beginning are to stay: they do as long as they have room.
        let mut recent = Recent::new(2 * bulk);
        for offset in 0..EVENTS {
            recent.push(fact(offset), 0);
            assert_eq!(recent.facts.len() as u64, (offset + 1).min(16), "at {offset}");
        }
        let first = EVENTS - 16;
        assert!(recent.from(first - 1, bulk).is_none());
        assert_eq!(recent.from(first, bulk).expect("the oldest that is here")[0].position.offset, first);
        // Where no device waits the newest few are enough.
        recent.push(fact(EVENTS), EVENTS);
        assert_eq!((recent.facts.len(), recent.first), (2, EVENTS - 1));
    }
}
