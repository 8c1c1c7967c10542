//! What a worker is still to be handed, in order.

use std::collections::HashMap;

use crate::relay::{
    api::{Out, Text},
    sessions::is_large,
};

/// What waits for one worker.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    outs: Vec<Out>,
    /// How many of them are large.
    large: usize,
    /// Where the newest presence of a session stands.
    presences: HashMap<Text, usize>,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.outs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outs.is_empty()
    }

    pub(super) fn large(&self) -> usize {
        self.large
    }

    /// Adds to it. The newest presence of a session says all: its receivers are taken off the older one that still
    /// waits, so that the backlog does not grow with devices that come and go.
    pub(super) fn push(&mut self, out: Out) {
        if let Out::Presence { session, peers: newer, .. } = &out
            && let Some(at) = self.presences.insert(session.clone(), self.outs.len())
            && let Some(Out::Presence { peers, devices, .. }) = self.outs.get_mut(at)
        {
            peers.retain(|peer| !newer.contains(peer));
            if peers.is_empty() {
                *devices = Vec::new();
            }
        }
        self.large += usize::from(is_large(&out));
        self.outs.push(out);
    }

    /// Takes so much of it at most; and how many of those are large.
    pub(super) fn take(&mut self, most: usize) -> (Vec<Out>, usize) {
        self.presences.clear();
        let rest = self.outs.split_off(self.outs.len().min(most));
        let taken = std::mem::replace(&mut self.outs, rest);
        let large = if self.large > 0 { large_in(&taken) } else { 0 };
        self.large -= large;
        (taken, large)
    }

    /// What was taken found no room.
    pub(super) fn give_back(&mut self, mut taken: Vec<Out>) {
        self.large += large_in(&taken);
        taken.append(&mut self.outs);
        self.outs = taken;
        for (at, out) in self.outs.iter().enumerate() {
            if let Out::Presence { session, .. } = out {
                self.presences.insert(session.clone(), at);
            }
        }
    }
}

fn large_in(outs: &[Out]) -> usize {
    outs.iter().filter(|out| is_large(out)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::ConnToken, relay::api::Reply};

    fn presence(session: &str, slots: &[u32]) -> Out {
        let peers = slots.iter().map(|slot| ConnToken::new(0, *slot, 0)).collect();
        Out::Presence { peers, session: session.into(), devices: Vec::new() }
    }

    fn receivers(outs: &[Out]) -> Vec<Vec<u32>> {
        let slots = |out: &Out| match out {
            Out::Presence { peers, .. } => peers.iter().map(|peer| peer.slot()).collect(),
            _ => vec![99],
        };
        outs.iter().map(slots).collect()
    }

    #[test]
    fn b5_one_presence_of_a_session_waits_for_each_who_watches() {
        let mut backlog = Backlog::default();
        for (session, slots) in [("a", &[1, 2][..]), ("b", &[1]), ("a", &[1, 2])] {
            backlog.push(presence(session, slots));
        }
        backlog.push(Out::CaughtUp { peer: ConnToken::new(0, 1, 0), session: "a".into() });
        // A presence for one device takes nothing from the others.
        backlog.push(presence("a", &[2]));
        assert_eq!(receivers(&backlog.outs), [vec![], vec![1], vec![1], vec![99], vec![2]]);
        let (taken, _) = backlog.take(2);
        assert_eq!((receivers(&taken), backlog.len()), (vec![vec![], vec![1]], 3));
        backlog.give_back(taken);
        backlog.push(presence("a", &[1, 2]));
        assert_eq!(receivers(&backlog.take(100).0), [vec![], vec![1], vec![1], vec![99], vec![], vec![1, 2]]);
        assert!(backlog.is_empty());
    }

    #[test]
    fn large_answers_count_until_they_are_taken_and_again_when_they_come_back() {
        let answer = |re: &str, reply| Out::Answer { peer: ConnToken::new(0, 1, 0), re: re.into(), result: Ok(reply) };
        let mut backlog = Backlog::default();
        for re in ["a", "b"] {
            backlog.push(answer(re, Reply::Done));
            backlog.push(answer(re, Reply::Fetched { data: vec![1], total: 1 }));
        }
        let (taken, large) = backlog.take(3);
        assert_eq!((large, backlog.large()), (1, 1));
        backlog.give_back(taken);
        assert_eq!(backlog.large(), 2);
        let (taken, large) = backlog.take(100);
        assert_eq!((taken.len(), large, backlog.large()), (4, 2, 0));
    }

    #[test]
    fn what_was_taken_is_not_looked_for_any_more() {
        let mut backlog = Backlog::default();
        for session in ["a", "b"] {
            backlog.push(presence(session, &[1]));
        }
        // Where that of `a` stood now stands that of `b`, which is not for the devices of `a`.
        assert_eq!(receivers(&backlog.take(1).0), [[1]]);
        backlog.push(presence("a", &[1]));
        assert_eq!(receivers(&backlog.outs), [[1], [1]]);
    }
}
