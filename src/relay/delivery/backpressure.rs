//! Senders that are not read because a receiver takes nothing: which receiver blocks which senders, on this worker and
//! across workers, and for how long. Decides nothing about queues and their marks.
//!
//! A receiver that is refused by the kernel above its mark blocks each sender that writes to it, until its queue has
//! drained. A receiver that takes nothing at all within [`WAIT_MS`] blocks nobody any longer: it is *stuck*, its senders
//! are read again, and what is for it is refused until its queue has drained.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Delivery, Net};
use crate::{base::ConnToken, relay::message::Shared};

/// How long a receiver may take nothing while senders wait for it.
const WAIT_MS: u64 = 5_000;

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

/// A receiver that blocks senders.
#[derive(Debug, Default)]
struct Blocking {
    /// Of any worker.
    senders: Vec<ConnToken>,
    /// What waited for it when that was looked at last.
    queued: usize,
    /// When it is looked at next.
    due_ms: u64,
}

/// Which receiver blocks which senders.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    by_receiver: HashMap<ConnToken, Blocking>,
    /// How many receivers, on any worker, block a sender of this worker.
    blocked: HashMap<ConnToken, u32>,
    /// Receivers of this worker that have taken nothing for so long that nobody waits for them.
    stuck: HashSet<ConnToken>,
    /// What senders are to learn, in order: those of this worker within the turn, those of others by mail.
    news: VecDeque<SenderNews>,
}

impl Backpressure {
    /// A receiver blocks a sender.
    fn block(&mut self, receiver: ConnToken, sender: ConnToken) {
        let senders = &mut self.by_receiver.entry(receiver).or_default().senders;
        if !senders.contains(&sender) {
            senders.push(sender);
            self.news.push_back(SenderNews::Blocked(sender));
        }
    }

    /// A receiver blocks nobody any more: its queue has drained, or it is gone.
    pub(super) fn release(&mut self, receiver: ConnToken) {
        self.stuck.remove(&receiver);
        let senders = self.by_receiver.remove(&receiver).unwrap_or_default().senders;
        self.news.extend(senders.into_iter().map(SenderNews::Unblocked));
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

    /// How many receivers are stuck.
    pub(super) fn stuck(&self) -> u64 {
        self.stuck.len() as u64
    }

    /// Whether any receiver is stuck.
    #[inline]
    pub(super) fn has_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Whether what is for this receiver is refused.
    #[inline]
    pub(super) fn is_stuck(&self, receiver: ConnToken) -> bool {
        self.has_stuck() && self.stuck.contains(&receiver)
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
        assert!(
            self.stuck.iter().all(|receiver| !self.by_receiver.contains_key(receiver)),
            "a stuck receiver blocks nobody"
        );
        assert!(self.by_receiver.values().all(|blocking| !blocking.senders.is_empty()), "who blocks, blocks somebody");
        assert!(self.blocked.values().all(|count| *count > 0));
    }
}

impl<S: Shared> Delivery<S> {
    /// Blocks the sender of a message whose receiver's queue is above its mark, if the kernel takes nothing of that queue.
    pub(super) fn block<N: Net<Shared = S>>(&mut self, receiver: ConnToken, sender: Option<ConnToken>, net: &mut N) {
        let Some(sender) = sender.filter(|_| net.is_blocked(receiver)) else { return };
        if self.backpressure.stuck.contains(&receiver) {
            return;
        }
        self.backpressure.block(receiver, sender);
        let mut due_ms = None;
        if let Some(blocking) = self.backpressure.by_receiver.get_mut(&receiver) {
            blocking.queued = net.queued(receiver);
            if blocking.due_ms == 0 {
                blocking.due_ms = net.now().mono_ms + WAIT_MS;
                due_ms = Some(blocking.due_ms);
            }
        }
        if let Some(due_ms) = due_ms {
            self.wake_at(receiver, due_ms, net);
        }
        self.tell_senders(net);
    }

    /// A receiver that may block senders has a look at its time: one that has taken nothing is stuck.
    pub(super) fn waited_long<N: Net<Shared = S>>(&mut self, receiver: ConnToken, net: &mut N) {
        let now = net.now().mono_ms;
        let Some(blocking) = self.backpressure.by_receiver.get_mut(&receiver) else { return };
        if blocking.due_ms > now {
            let due_ms = blocking.due_ms;
            return self.wake_at(receiver, due_ms, net);
        }
        let before = std::mem::replace(&mut blocking.queued, net.queued(receiver));
        if blocking.queued < before {
            blocking.due_ms = now + WAIT_MS;
            self.wake_at(receiver, now + WAIT_MS, net);
        } else {
            self.backpressure.release(receiver);
            self.backpressure.stuck.insert(receiver);
            self.counters.stuck.set(self.backpressure.stuck());
            self.tell_senders(net);
        }
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
            backpressure.block(receiver, sender);
            backpressure.block(receiver, sender);
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
    fn a_sender_that_left_is_forgotten() {
        let [slow, sender] = [1, 2].map(|slot| ConnToken::new(0, slot, 0));
        let mut backpressure = Backpressure::default();
        backpressure.block(slow, sender);
        backpressure.count(SenderNews::Blocked(sender));
        backpressure.gone(sender);
        backpressure.release(slow);
        assert!(!backpressure.count(SenderNews::Unblocked(sender)));
    }
}
