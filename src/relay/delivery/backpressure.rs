//! Senders that are not read because a receiver takes nothing, or a worker less than it is sent: which receiver blocks which
//! senders, on this worker and across workers, and for how long. Decides nothing about queues and their marks.
//!
//! A receiver that is refused by the kernel above its mark blocks each sender that writes to it, until its queue has
//! drained. What a sender has for others waits meanwhile, so that is bounded: where the receiver takes nothing for
//! [`IDLE_MS`], or less than [`HOLD_BYTES`] in [`HOLD_MS`], the pair *parts*. The sender is read again, and what it has for
//! that receiver is refused until the receiver's queue has drained.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Delivery, Net};
use crate::{base::ConnToken, relay::message::Shared};

/// How long a receiver that takes nothing may block its senders. A slow one takes bytes of the queue in steps: of the
/// kernel's buffers, and of those of a library that reads ahead. Python's `websockets` reads nothing while its program takes
/// twelve messages.
const IDLE_MS: u64 = 30_000;
/// How long a trickling receiver may block one sender, and the bytes in that time from which on a receiver does not
/// trickle: 15 KB a second. A receiver that takes 20 KB a second may need minutes for what waits when the block begins.
const HOLD_MS: u64 = 60_000;
const HOLD_BYTES: u64 = 900_000;

/// What another worker is told of a sender of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderNews {
    /// A receiver blocks it.
    Blocked(ConnToken),
    /// That receiver blocks it no longer.
    Unblocked(ConnToken),
}

impl SenderNews {
    /// The sender.
    pub fn sender(self) -> ConnToken {
        match self {
            Self::Blocked(sender) | Self::Unblocked(sender) => sender,
        }
    }
}

/// A sender that a receiver blocks.
#[derive(Clone, Copy, Debug)]
struct Held {
    sender: ConnToken,
    /// When the pair parts, unless the receiver has taken [`HOLD_BYTES`] more than `taken` by then.
    until_ms: u64,
    taken: u64,
}

impl Held {
    fn new(sender: ConnToken, taken: u64, now_ms: u64) -> Self {
        Self { sender, until_ms: now_ms + HOLD_MS, taken }
    }

    /// Whether the pair parts now, because the receiver, which has taken so much by now, trickles. A receiver that does
    /// not trickle may hold the sender for as long again.
    fn parts(&mut self, taken: u64, now_ms: u64) -> bool {
        let is_over = self.until_ms <= now_ms;
        if is_over && taken.saturating_sub(self.taken) >= HOLD_BYTES {
            *self = Self::new(self.sender, taken, now_ms);
            return false;
        }
        is_over
    }
}

/// A receiver that blocks senders.
#[derive(Debug)]
struct Blocking {
    /// Of any worker.
    senders: Vec<Held>,
    /// What it had taken at the last look. The length of its queue tells nothing: other senders write to it too.
    taken: u64,
    /// When it must have taken more.
    look_ms: u64,
}

impl Blocking {
    fn next_ms(&self) -> Option<u64> {
        let first = self.senders.iter().map(|held| held.until_ms).min()?;
        Some(first.min(self.look_ms))
    }
}

/// Which receiver blocks which senders.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    by_receiver: HashMap<ConnToken, Blocking>,
    /// Senders that have parted from a receiver.
    parted: HashMap<ConnToken, HashSet<ConnToken>>,
    /// How many receivers, on any worker, block a sender of this worker.
    blocked: HashMap<ConnToken, u32>,
    /// Senders, of any worker, that wait for a worker which is behind: it takes less than this one has for it.
    behind: HashMap<u16, HashSet<ConnToken>>,
    /// What senders are to learn, in order: those of this worker within the turn, those of others by mail.
    news: VecDeque<SenderNews>,
}

impl Backpressure {
    /// A receiver, which has taken so much, blocks a sender, unless they have parted. Gives when to look at it.
    fn block(&mut self, receiver: ConnToken, sender: ConnToken, taken: u64, now_ms: u64) -> Option<u64> {
        if self.is_parted(receiver, Some(sender)) {
            return None;
        }
        let new = || Blocking { senders: Vec::new(), taken, look_ms: now_ms + IDLE_MS };
        let blocking = self.by_receiver.entry(receiver).or_insert_with(new);
        if !blocking.senders.iter().any(|held| held.sender == sender) {
            blocking.senders.push(Held::new(sender, taken, now_ms));
            self.news.push_back(SenderNews::Blocked(sender));
        }
        blocking.next_ms()
    }

    /// Looks at a receiver, which has taken so much by now: senders that it has blocked for long enough part from it.
    /// Gives when to look again.
    fn part(&mut self, receiver: ConnToken, taken: u64, now_ms: u64) -> Option<u64> {
        let blocking = self.by_receiver.get_mut(&receiver)?;
        let mut is_idle = false;
        if blocking.look_ms <= now_ms {
            is_idle = taken == blocking.taken;
            (blocking.taken, blocking.look_ms) = (taken, now_ms + IDLE_MS);
        }
        let due: Vec<_> = blocking.senders.extract_if(.., |held| is_idle || held.parts(taken, now_ms)).collect();
        let next_ms = blocking.next_ms();
        if next_ms.is_none() {
            self.by_receiver.remove(&receiver);
        }
        if !due.is_empty() {
            self.parted.entry(receiver).or_default().extend(due.iter().map(|held| held.sender));
            self.news.extend(due.into_iter().map(|held| SenderNews::Unblocked(held.sender)));
        }
        next_ms
    }

    /// A receiver blocks no sender any more: its queue has drained, or it is gone.
    pub(super) fn release(&mut self, receiver: ConnToken) {
        self.parted.remove(&receiver);
        let senders = self.by_receiver.remove(&receiver).map(|blocking| blocking.senders);
        self.news.extend(senders.into_iter().flatten().map(|held| SenderNews::Unblocked(held.sender)));
    }

    /// A sender waits for a worker that is behind.
    pub(super) fn wait_for(&mut self, worker: u16, sender: ConnToken) {
        if self.behind.entry(worker).or_default().insert(sender) {
            self.news.push_back(SenderNews::Blocked(sender));
        }
    }

    /// That worker has caught up.
    pub(super) fn caught_up(&mut self, worker: u16) {
        let senders = self.behind.remove(&worker).into_iter().flatten();
        self.news.extend(senders.map(SenderNews::Unblocked));
    }

    /// A connection is gone, as a receiver and as a sender.
    pub(super) fn gone(&mut self, token: ConnToken) {
        self.blocked.remove(&token);
        self.release(token);
    }

    /// Whether a receiver blocks this sender of this worker.
    pub(super) fn is_blocked(&self, sender: ConnToken) -> bool {
        self.blocked.contains_key(&sender)
    }

    /// Receivers from which senders have parted.
    pub(super) fn stuck(&self) -> u64 {
        self.parted.len() as u64
    }

    /// Whether what a sender has for this receiver is refused. What the relay and its sessions say is not.
    #[inline(always)]
    pub(super) fn is_parted(&self, receiver: ConnToken, sender: Option<ConnToken>) -> bool {
        !self.parted.is_empty()
            && self.parted.get(&receiver).is_some_and(|parted| sender.is_some_and(|sender| parted.contains(&sender)))
    }

    /// Counts one receiver more, or less, that blocks a sender. True: the first has come, or the last has gone.
    fn count(&mut self, news: SenderNews) -> bool {
        match news {
            SenderNews::Blocked(sender) => {
                let count = self.blocked.entry(sender).or_default();
                *count += 1;
                *count == 1
            }
            SenderNews::Unblocked(sender) => {
                let Some(count) = self.blocked.get_mut(&sender) else { return false };
                *count -= 1;
                let is_free = *count == 0;
                if is_free {
                    self.blocked.remove(&sender);
                }
                is_free
            }
        }
    }

    /// The next news for a sender of another worker.
    pub(super) fn poll_elsewhere(&mut self, worker: u16) -> Option<SenderNews> {
        let at = self.news.iter().position(|news| news.sender().worker() != worker)?;
        self.news.remove(at)
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        assert!(self.by_receiver.values().all(|blocking| !blocking.senders.is_empty()), "who blocks, blocks somebody");
        assert!(self.parted.values().all(|senders| !senders.is_empty()));
        assert!(self.blocked.values().all(|count| *count > 0));
        for (receiver, blocking) in &self.by_receiver {
            let blocks_parted = blocking.senders.iter().any(|held| self.is_parted(*receiver, Some(held.sender)));
            assert!(!blocks_parted, "a sender that has parted is not blocked");
        }
    }
}

impl<S: Shared> Delivery<S> {
    /// Blocks the sender of a message to a receiver above its mark, if the kernel takes nothing of the receiver's
    /// queue.
    pub(super) fn block<N: Net<Shared = S>>(&mut self, receiver: ConnToken, sender: Option<ConnToken>, net: &mut N) {
        let Some(sender) = sender.filter(|_| net.is_blocked(receiver)) else { return };
        let (taken, now_ms) = (net.taken(receiver), net.now().mono_ms);
        if let Some(look_ms) = self.backpressure.block(receiver, sender, taken, now_ms) {
            self.wake_at(receiver, look_ms, net);
        }
        self.tell_senders(net);
    }

    /// Senders that this receiver has blocked for long enough part from it.
    pub(super) fn part<N: Net<Shared = S>>(&mut self, receiver: ConnToken, net: &mut N) {
        let (taken, now_ms) = (net.taken(receiver), net.now().mono_ms);
        if let Some(look_ms) = self.backpressure.part(receiver, taken, now_ms) {
            self.wake_at(receiver, look_ms, net);
        }
        self.counters.stuck.set(self.backpressure.stuck());
        self.tell_senders(net);
    }

    /// A receiver's queue has drained: its senders are read again.
    pub(super) fn release<N: Net<Shared = S>>(&mut self, receiver: ConnToken, net: &mut N) {
        self.backpressure.release(receiver);
        self.counters.stuck.set(self.backpressure.stuck());
        self.tell_senders(net);
    }

    /// Tells the senders of this worker.
    pub(super) fn tell_senders<N: Net<Shared = S>>(&mut self, net: &mut N) {
        if self.backpressure.news.is_empty() {
            return;
        }
        let worker = net.worker();
        let (here, elsewhere): (VecDeque<_>, _) =
            std::mem::take(&mut self.backpressure.news).into_iter().partition(|news| news.sender().worker() == worker);
        self.backpressure.news = elsewhere;
        for news in here {
            self.sender_news(news, net);
        }
    }

    /// A receiver, on any worker, blocks a sender of this worker, or does so no longer.
    pub fn sender_news<N: Net<Shared = S>>(&mut self, news: SenderNews, net: &mut N) {
        let sender = news.sender();
        match news {
            SenderNews::Blocked(_) if !net.is_open(sender) => {}
            SenderNews::Blocked(_) => {
                if self.backpressure.count(news) {
                    net.pause(sender);
                }
            }
            SenderNews::Unblocked(_) => {
                if self.backpressure.count(news) {
                    self.resume(sender, net);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn senders(backpressure: &mut Backpressure) -> Vec<SenderNews> {
        backpressure.check_invariants();
        std::mem::take(&mut backpressure.news).into_iter().collect()
    }

    #[test]
    fn a_sender_is_free_when_the_last_receiver_lets_it_go() {
        let [slow, stuck, sender] = [1, 2, 3].map(|slot| ConnToken::new(0, slot, 0));
        let mut backpressure = Backpressure::default();
        for receiver in [slow, stuck] {
            backpressure.block(receiver, sender, 9, 0);
            backpressure.block(receiver, sender, 9, 0);
        }
        assert_eq!(senders(&mut backpressure), [SenderNews::Blocked(sender); 2], "once for each receiver");
        assert!(backpressure.count(SenderNews::Blocked(sender)) && !backpressure.count(SenderNews::Blocked(sender)));
        backpressure.release(slow);
        assert_eq!(senders(&mut backpressure), [SenderNews::Unblocked(sender)]);
        assert!(!backpressure.count(SenderNews::Unblocked(sender)) && backpressure.is_blocked(sender));
        backpressure.gone(stuck);
        assert_eq!(senders(&mut backpressure), [SenderNews::Unblocked(sender)]);
        assert!(backpressure.count(SenderNews::Unblocked(sender)) && !backpressure.is_blocked(sender));
        assert!(!backpressure.count(SenderNews::Unblocked(sender)), "no receiver blocked it");
    }

    #[test]
    fn a_worker_that_is_behind_blocks_a_sender_once_whatever_that_sends() {
        let sender = ConnToken::new(0, 1, 0);
        let mut backpressure = Backpressure::default();
        for _ in 0..3 {
            backpressure.wait_for(1, sender);
        }
        assert_eq!(senders(&mut backpressure), [SenderNews::Blocked(sender)]);
        backpressure.caught_up(1);
        assert_eq!(senders(&mut backpressure), [SenderNews::Unblocked(sender)]);
    }

    #[test]
    fn another_worker_is_told_of_its_own_senders_alone() {
        let (ours, theirs) = (ConnToken::new(0, 1, 0), ConnToken::new(1, 1, 0));
        let mut backpressure = Backpressure::default();
        [ours, theirs].into_iter().for_each(|sender| backpressure.wait_for(2, sender));
        assert_eq!(backpressure.poll_elsewhere(0), Some(SenderNews::Blocked(theirs)));
        assert_eq!(backpressure.poll_elsewhere(0), None);
        assert_eq!(senders(&mut backpressure), [SenderNews::Blocked(ours)]);
    }

    #[test]
    fn the_time_of_a_pair_is_renewed_when_it_is_over_and_not_before() {
        let mut held = Held::new(ConnToken::new(0, 1, 0), 0, 0);
        assert!(!held.parts(HOLD_BYTES, HOLD_MS - 1));
        assert_eq!(held.until_ms, HOLD_MS, "what it has taken counts at the end of its time");
        assert!(!held.parts(HOLD_BYTES, HOLD_MS), "so much is no trickle");
        assert_eq!(held.until_ms, 2 * HOLD_MS);
        assert!(held.parts(2 * HOLD_BYTES - 1, 2 * HOLD_MS));
        // A look for another reason comes early: a receiver that has taken nothing yet has its whole time.
        let [slow, one] = [1, 2].map(|slot| ConnToken::new(0, slot, 0));
        let mut backpressure = Backpressure::default();
        backpressure.block(slow, one, 9, 0);
        assert_eq!(backpressure.part(slow, 9, IDLE_MS - 1), Some(IDLE_MS));
        assert_eq!((backpressure.part(slow, 9, IDLE_MS), backpressure.is_parted(slow, Some(one))), (None, true));
    }

    #[test]
    fn a_sender_that_left_is_forgotten() {
        let [slow, sender] = [1, 2].map(|slot| ConnToken::new(0, slot, 0));
        let mut backpressure = Backpressure::default();
        backpressure.block(slow, sender, 9, 0);
        backpressure.count(SenderNews::Blocked(sender));
        backpressure.gone(sender);
        backpressure.release(slow);
        assert!(!backpressure.count(SenderNews::Unblocked(sender)));
    }

    #[test]
    fn a_pair_does_not_part_from_a_slow_one_that_goes_on_taking() {
        let [slow, one] = [1, 2].map(|slot| ConnToken::new(0, slot, 0));
        let mut backpressure = Backpressure::default();
        let mut look = backpressure.block(slow, one, 0, 0).expect("a time to look");
        // 20 KB a second for five minutes, of what waited when it began.
        while look <= 5 * HOLD_MS {
            look = backpressure.part(slow, 20 * look, look).expect("it blocks still");
        }
        // From then on 14 KB a second.
        let at = 20 * 5 * HOLD_MS;
        while let Some(next) = backpressure.part(slow, at + 14 * (look - 5 * HOLD_MS), look) {
            look = next;
        }
        assert_eq!((look, backpressure.is_parted(slow, Some(one))), (6 * HOLD_MS, true));
    }

    #[test]
    fn a_pair_parts_from_one_that_takes_nothing_and_in_time_from_one_that_trickles() {
        let [slow, one, other] = [1, 2, 3].map(|slot| ConnToken::new(0, slot, 0));
        let mut backpressure = Backpressure::default();
        assert_eq!(backpressure.block(slow, one, 1_000, 0), Some(IDLE_MS));
        for look in 1..HOLD_MS / IDLE_MS {
            assert_eq!(backpressure.part(slow, 1_000 + look, IDLE_MS * look), Some(IDLE_MS * (look + 1)));
        }
        assert_eq!(backpressure.block(slow, other, 1_003, HOLD_MS - 1), Some(HOLD_MS));
        assert_eq!(backpressure.part(slow, 1_004, HOLD_MS), Some(HOLD_MS + IDLE_MS), "each has its own time");
        let news = [SenderNews::Blocked(one), SenderNews::Blocked(other), SenderNews::Unblocked(one)];
        assert_eq!(senders(&mut backpressure), news);
        assert!(backpressure.is_parted(slow, Some(one)) && !backpressure.is_parted(slow, Some(other)));
        assert!(!backpressure.is_parted(slow, None), "what the relay says goes on");
        assert_eq!(backpressure.block(slow, one, 2_000, HOLD_MS), None, "it is not blocked again");
        assert_eq!(backpressure.part(slow, 1_004, HOLD_MS + IDLE_MS), None, "nothing was taken");
        assert_eq!(senders(&mut backpressure), [SenderNews::Unblocked(other)]);
        backpressure.release(slow);
        assert_eq!(backpressure.block(slow, one, 9, 90_000), Some(90_000 + IDLE_MS), "they have met again");
    }
}
