//! A worker's way to the supervisor.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use super::metrics::WorkerTallies;
use crate::{reactor::Sender, relay::sessions::ToSessions};

/// A worker's way to the supervisor: a batch a turn, and the batches that found its inbox full, oldest first.
pub(super) struct Outbox {
    inbox: Sender<Vec<ToSessions>>,
    batch: Vec<ToSessions>,
    stuck: VecDeque<Vec<ToSessions>>,
    tallies: Arc<WorkerTallies>,
}

impl Outbox {
    pub(super) fn new(inbox: Sender<Vec<ToSessions>>, tallies: Arc<WorkerTallies>) -> Self {
        Self { inbox, batch: Vec::new(), stuck: VecDeque::new(), tallies }
    }

    /// Takes a message along at the end of this turn.
    pub(super) fn take(&mut self, message: ToSessions) {
        self.batch.push(message);
    }

    /// Messages that are not in the supervisor's inbox yet.
    pub(super) fn waiting(&self) -> usize {
        self.stuck.iter().map(Vec::len).sum::<usize>() + self.batch.len()
    }

    /// The end of a turn: hands over what there is. What finds no room waits for the next turn, which the supervisor
    /// brings about when it has made some.
    pub(super) fn deliver(&mut self) {
        if !self.batch.is_empty() {
            self.stuck.push_back(std::mem::take(&mut self.batch));
        }
        while let Some(batch) = self.stuck.pop_front() {
            let Err(batch) = self.inbox.try_send(batch) else { continue };
            // Said before the second try: whoever takes a batch out after it sees the word, and wakes this worker.
            self.tallies.stuck.store(true, Ordering::SeqCst);
            if let Err(batch) = self.inbox.try_send(batch) {
                self.tallies.inbox_full.add(1);
                self.stuck.push_front(batch);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::ConnToken, reactor::inbox};

    #[test]
    fn what_finds_the_inbox_full_is_kept_in_order_and_asks_to_be_woken() {
        let poll = mio::Poll::new().expect("a poll");
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
        let (sender, receiver) = inbox(1, waker);
        let tallies = Arc::<WorkerTallies>::default();
        let mut outbox = Outbox::new(sender, tallies.clone());
        let peer = |slot| ConnToken::new(0, slot, 1);
        for slot in 1..=3 {
            outbox.take(ToSessions::Gone(peer(slot)));
            outbox.deliver();
            assert_eq!(tallies.stuck.load(Ordering::SeqCst), slot > 1, "after {slot}");
        }
        assert_eq!(outbox.waiting(), 2);
        for slot in 1..=3 {
            let batch = receiver.try_recv().expect("a batch");
            assert!(matches!(batch[..], [ToSessions::Gone(gone)] if gone == peer(slot)), "in order");
            outbox.deliver();
        }
        assert_eq!(outbox.waiting(), 0);
    }
}
