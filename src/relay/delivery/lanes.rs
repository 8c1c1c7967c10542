//! What of a worker waits for the crypto thread, and in which order. Connections without a proved key have a lane for
//! the Unix socket and one for TCP, which any client can open. Answers to principals have a third lane, where
//! principals take turns. No answer is dropped: a connection that has asked for much is not read until it is answered.

use std::collections::{HashMap, VecDeque};

use crate::{
    base::ConnToken,
    relay::{
        admission::{HelloJob, SignInJob},
        api::Text,
        fair::Fair,
        message::Reply,
    },
};

/// Jobs of a lane that are with the crypto thread at a time: in this order, as of [`Lane`].
const OUT_MAX: [usize; 3] = [8, 8, 64];
/// The same of all lanes of a worker.
pub const JOBS_OUT_MAX: usize = OUT_MAX[0] + OUT_MAX[1] + OUT_MAX[2];
/// Jobs of connections that have proved nothing that may wait in a lane; more are told to try again.
const WAITING_MAX: usize = 1024;
/// What may be due to a connection, answers that are not signed yet and what the sessions have not taken; from there on
/// it is not read.
const ANSWERS_MAX: usize = 64;

/// A queue towards the crypto thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Connections over TCP that have proved nothing.
    Strangers,
    /// Connections on the Unix socket that have proved nothing.
    Local,
    /// Answers to principals.
    Admitted,
}

/// What the crypto thread does for a worker. Its result comes with the lane, which has room for one more then.
#[derive(Debug)]
pub enum Job {
    /// Judges a HELLO and signs the answer.
    Hello(Box<HelloJob>),
    /// Signs what the relay or a session says.
    Reply(Box<Reply>),
    /// Judges a sign-in.
    SignIn(SignInJob),
    /// Reads the keys file again and says what came of it.
    Reload {
        /// The receiver.
        peer: ConnToken,
        /// The command's id.
        id: Text,
    },
}

impl Job {
    /// The connection without which it need not be done.
    pub fn peer(&self) -> Option<ConnToken> {
        match self {
            Self::Hello(job) => Some(job.peer),
            Self::SignIn(job) => Some(job.peer),
            Self::Reload { peer, .. } => Some(*peer),
            Self::Reply(reply) => reply.via.connection(),
        }
    }
}

/// A worker's lanes.
#[derive(Debug, Default)]
pub struct Lanes {
    /// Of [`Lane::Strangers`] and [`Lane::Local`].
    unproved: [VecDeque<Job>; 2],
    admitted: Fair<Job>,
    /// Jobs that are with the crypto thread.
    out: [usize; 3],
    /// The key that a connection has proved: an unproved name could fill another principal's queue.
    principals: HashMap<ConnToken, Text>,
    /// Answers that are not signed yet, and messages and commands that the sessions have not taken, by connection.
    answers: HashMap<ConnToken, usize>,
    /// Connections that are not read for that.
    paused: Vec<ConnToken>,
}

impl Lanes {
    /// Takes in a job of a connection that has proved nothing. False: too many wait.
    pub fn ask(&mut self, lane: Lane, job: Job) -> bool {
        let Some(queue) = self.unproved.get_mut(lane as usize) else { return false };
        let has_room = queue.len() < WAITING_MAX;
        if has_room {
            queue.push_back(job);
        }
        has_room
    }

    /// A connection has proved a key.
    pub fn joined(&mut self, peer: ConnToken, principal: Text) {
        self.principals.insert(peer, principal);
    }

    /// Takes in an answer. An answer to a connection waits with those of its proved key, any other with those of `to`.
    /// True: the connection that it is for is not to be read for now.
    pub fn answer(&mut self, to: &Text, job: Job) -> bool {
        let peer = job.peer();
        let principal = peer.and_then(|peer| self.principals.get(&peer)).unwrap_or(to).clone();
        self.admitted.push(&principal, job);
        peer.is_some_and(|peer| self.owe(peer))
    }

    /// Something more is due to a connection. True: it is not to be read for now.
    pub fn owe(&mut self, peer: ConnToken) -> bool {
        let answers = self.answers.entry(peer).or_default();
        *answers += 1;
        let is_full = *answers == ANSWERS_MAX;
        if is_full {
            self.paused.push(peer);
        }
        is_full
    }

    /// The next job for the crypto thread, if it may have one more: those on the Unix socket first, then the admitted.
    #[inline]
    pub fn next_job(&mut self) -> Option<(Lane, Job)> {
        // Asked in every turn: mostly nothing waits.
        let waits = !self.admitted.is_empty() || self.unproved.iter().any(|queue| !queue.is_empty());
        waits.then(|| self.take_job()).flatten()
    }

    fn take_job(&mut self) -> Option<(Lane, Job)> {
        [Lane::Local, Lane::Admitted, Lane::Strangers].into_iter().find_map(|lane| {
            let at = lane as usize;
            if self.out[at] >= OUT_MAX[at] {
                return None;
            }
            let job = match self.unproved.get_mut(at) {
                Some(queue) => queue.pop_front(),
                None => self.admitted.pop(),
            }?;
            self.out[at] += 1;
            Some((lane, job))
        })
    }

    /// A job is done.
    pub fn done(&mut self, lane: Lane) {
        let out = &mut self.out[lane as usize];
        *out = out.saturating_sub(1);
    }

    /// Something that was due to a connection is done. True: it may be read again.
    pub fn answered(&mut self, peer: ConnToken) -> bool {
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
    pub fn is_paused(&self, peer: ConnToken) -> bool {
        self.paused.contains(&peer)
    }

    /// A connection is gone, and with it what it waits for.
    pub fn gone(&mut self, peer: ConnToken) {
        let keeps = |job: &Job| job.peer() != Some(peer);
        self.unproved.iter_mut().for_each(|queue| queue.retain(keeps));
        self.admitted.retain(keeps);
        self.principals.remove(&peer);
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
        assert!(!lanes.answer(&"a".into(), job(10_001)));
        let out: Vec<_> = std::iter::from_fn(|| lanes.next_job()).collect();
        let of = |lane| out.iter().filter(|(of, _)| *of == lane).count();
        assert_eq!((of(Lane::Local), of(Lane::Admitted), of(Lane::Strangers)), (1, 1, OUT_MAX[0]));
        assert_eq!(out[0].1.peer(), Some(peer(10_000)), "the Unix socket does not wait for them");
        lanes.done(Lane::Strangers);
        assert!(matches!(lanes.next_job(), Some((Lane::Strangers, _))), "one comes back, one goes");
        assert!(lanes.next_job().is_none());
        let rest = std::iter::from_fn(|| {
            lanes.done(Lane::Strangers);
            lanes.next_job()
        });
        assert_eq!(rest.count(), WAITING_MAX - OUT_MAX[0] - 1, "what found no room does not wait");
    }

    #[test]
    fn an_answer_waits_with_those_of_the_key_that_its_connection_has_proved() {
        let mut lanes = Lanes::default();
        lanes.joined(peer(1), "mallory".into());
        lanes.joined(peer(2), "alice".into());
        // Messages that name somebody else as their sender are refused, and the answers go to that name.
        (0..20).for_each(|_| assert!(!lanes.answer(&"alice".into(), job(1))));
        lanes.answer(&"alice".into(), job(2));
        let first: Vec<_> = (0..2).filter_map(|_| lanes.next_job()?.1.peer()).collect();
        assert!(first.contains(&peer(2)), "{first:?}");
    }

    #[test]
    fn whoever_has_gone_is_not_worked_for() {
        let mut lanes = Lanes::default();
        for slot in 0..100 {
            assert!(lanes.ask(Lane::Strangers, job(slot)));
        }
        (0..99).for_each(|slot| lanes.gone(peer(slot)));
        assert_eq!(lanes.next_job().map(|(_, job)| job.peer()), Some(Some(peer(99))));
        assert!(lanes.next_job().is_none());
    }

    #[test]
    fn a_connection_that_is_gone_leaves_nothing_and_another_one_is_read_again() {
        let mut lanes = Lanes::default();
        for slot in [1, 2] {
            lanes.joined(peer(slot), format!("{slot}").into());
            let held = (0..ANSWERS_MAX).filter(|_| lanes.answer(&"a".into(), job(slot))).count();
            assert_eq!(held, 1);
        }
        lanes.gone(peer(1));
        assert!(!lanes.is_paused(peer(1)) && lanes.is_paused(peer(2)));
        assert!(!lanes.principals.contains_key(&peer(1)) && !lanes.answers.contains_key(&peer(1)));
        let mut resumed = 0;
        while let Some((lane, job)) = lanes.next_job() {
            assert_eq!(job.peer(), Some(peer(2)), "nothing is done for one that is gone");
            lanes.done(lane);
            resumed += usize::from(lanes.answered(peer(2)));
        }
        assert_eq!((resumed, lanes.paused.len(), lanes.answers.len()), (1, 0, 0));
    }

    #[test]
    fn a_connection_to_which_much_is_to_be_said_is_not_read_and_nothing_is_dropped() {
        let mut lanes = Lanes::default();
        let held: Vec<bool> = (0..ANSWERS_MAX + 10).map(|_| lanes.answer(&"a".into(), job(1))).collect();
        assert_eq!(held.iter().filter(|held| **held).count(), 1, "told once");
        assert!(lanes.is_paused(peer(1)) && !lanes.answer(&"b".into(), job(2)) && !lanes.is_paused(peer(2)));
        let mut answered = 0;
        while let Some((lane, job)) = lanes.next_job() {
            lanes.done(lane);
            if job.peer() == Some(peer(2)) {
                assert_eq!(answered, 1, "one principal by turns with the next");
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
