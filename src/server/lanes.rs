//! What of a worker waits for the crypto thread. Owns who is served before whom: connections that have proved nothing wait
//! for one another alone, those on the Unix socket apart from those that anybody may open, and what is said to those who
//! have proved a key apart from both. Nothing that is to be said is dropped: a connection that has asked for much is not
//! read until it is said. Knows no thread and no socket.

use std::collections::{HashMap, VecDeque};

use super::channels::{Job, Lane};
use crate::base::ConnToken;

/// Jobs of a lane that are with the crypto thread at a time: in this order, as of [`Lane`].
const OUT_MAX: [usize; 3] = [8, 8, 64];
/// The same of all lanes of a worker.
pub(super) const JOBS_OUT_MAX: usize = OUT_MAX[0] + OUT_MAX[1] + OUT_MAX[2];
/// Jobs of those who have proved nothing that may wait in a lane; more are told to try again.
const WAITING_MAX: usize = 1024;
/// Answers to a connection that are not signed yet, above which it is not read.
const ANSWERS_MAX: usize = 64;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    out: usize,
}

/// A worker's lanes.
#[derive(Default)]
pub(super) struct Lanes {
    queues: [Queue; 3],
    /// Answers that are not signed yet, by connection.
    answers: HashMap<ConnToken, usize>,
    /// Connections that are not read for that.
    paused: Vec<ConnToken>,
}

impl Lanes {
    /// Takes a job in of somebody who has proved nothing. False: too many wait.
    pub(super) fn ask(&mut self, lane: Lane, job: Job) -> bool {
        let queue = &mut self.queues[lane as usize];
        let has_room = queue.waiting.len() < WAITING_MAX;
        if has_room {
            queue.waiting.push_back(job);
        }
        has_room
    }

    /// Takes in what is to be said to a connection. True: it is not to be read for now.
    pub(super) fn answer(&mut self, peer: ConnToken, job: Job) -> bool {
        self.queues[Lane::Admitted as usize].waiting.push_back(job);
        let answers = self.answers.entry(peer).or_default();
        *answers += 1;
        let is_full = *answers == ANSWERS_MAX;
        if is_full {
            self.paused.push(peer);
        }
        is_full
    }

    /// The next job for the crypto thread, if it may have one more: those on the Unix socket first, then the admitted.
    pub(super) fn next(&mut self) -> Option<(Lane, Job)> {
        [Lane::Local, Lane::Admitted, Lane::Strangers].into_iter().find_map(|lane| {
            let queue = &mut self.queues[lane as usize];
            let job = (queue.out < OUT_MAX[lane as usize]).then(|| queue.waiting.pop_front()).flatten()?;
            queue.out += 1;
            Some((lane, job))
        })
    }

    /// The crypto thread had no room after all.
    pub(super) fn give_back(&mut self, lane: Lane, job: Job) {
        let queue = &mut self.queues[lane as usize];
        queue.out -= 1;
        queue.waiting.push_front(job);
    }

    /// A job is done.
    pub(super) fn done(&mut self, lane: Lane) {
        let out = &mut self.queues[lane as usize].out;
        *out = out.saturating_sub(1);
    }

    /// A job of the lane of the admitted is done. True: its connection may be read again.
    pub(super) fn answered(&mut self, peer: ConnToken) -> bool {
        self.done(Lane::Admitted);
        let Some(answers) = self.answers.get_mut(&peer) else { return false };
        *answers -= 1;
        let left = *answers;
        if left == 0 {
            self.answers.remove(&peer);
        }
        let before = self.paused.len();
        if left <= ANSWERS_MAX / 2 {
            self.paused.retain(|&paused| paused != peer);
        }
        self.paused.len() < before
    }

    /// Whether a connection is not read for what is to be said to it.
    pub(super) fn is_paused(&self, peer: ConnToken) -> bool {
        self.paused.contains(&peer)
    }

    /// A connection is gone, and with it what it waits for.
    pub(super) fn gone(&mut self, peer: ConnToken) {
        for queue in &mut self.queues {
            queue.waiting.retain(|job| job.peer() != Some(peer));
        }
        self.answers.remove(&peer);
        self.paused.retain(|&paused| paused != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(slot: u32) -> ConnToken {
        ConnToken::new(0, slot, 1)
    }

    fn job(slot: u32) -> Job {
        Job::Reload { peer: peer(slot), id: "1".into() }
    }

    #[test]
    fn strangers_fill_their_own_lane_and_no_other() {
        let mut lanes = Lanes::default();
        for slot in 0..WAITING_MAX as u32 {
            assert!(lanes.ask(Lane::Strangers, job(slot)));
        }
        assert!(!lanes.ask(Lane::Strangers, job(9_999)), "one too many");
        assert!(lanes.ask(Lane::Local, job(10_000)));
        assert!(!lanes.answer(peer(10_001), job(10_001)));
        let out: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
        let of = |lane| out.iter().filter(|(of, _)| *of == lane).count();
        assert_eq!((of(Lane::Local), of(Lane::Admitted), of(Lane::Strangers)), (1, 1, OUT_MAX[0]));
        assert_eq!(out[0].1.peer(), Some(peer(10_000)), "the Unix socket does not wait for them");
        lanes.done(Lane::Strangers);
        assert!(matches!(lanes.next(), Some((Lane::Strangers, _))), "one comes back, one goes");
        assert!(lanes.next().is_none());
    }

    #[test]
    fn whoever_has_gone_is_not_worked_for() {
        let mut lanes = Lanes::default();
        for slot in 0..100 {
            assert!(lanes.ask(Lane::Strangers, job(slot)));
        }
        (0..99).for_each(|slot| lanes.gone(peer(slot)));
        assert_eq!(lanes.next().map(|(_, job)| job.peer()), Some(Some(peer(99))));
        assert!(lanes.next().is_none());
    }

    #[test]
    fn a_connection_to_which_much_is_to_be_said_is_not_read_and_nothing_is_dropped() {
        let mut lanes = Lanes::default();
        let held: Vec<bool> = (0..ANSWERS_MAX + 10).map(|_| lanes.answer(peer(1), job(1))).collect();
        assert_eq!(held.iter().filter(|held| **held).count(), 1, "told once");
        assert!(lanes.is_paused(peer(1)) && !lanes.answer(peer(2), job(2)));
        let mut answered = 0;
        while let Some((lane, job)) = lanes.next() {
            if job.peer() == Some(peer(2)) {
                lanes.done(lane);
                continue;
            }
            answered += 1;
            let resumes = lanes.answered(peer(1));
            assert_eq!(resumes, ANSWERS_MAX + 10 - answered == ANSWERS_MAX / 2, "after {answered}");
        }
        assert_eq!(answered, ANSWERS_MAX + 10);
        assert!(!lanes.answers.contains_key(&peer(1)));
    }
}
