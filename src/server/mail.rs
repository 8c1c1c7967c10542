//! What the other threads send a worker, and what workers send the supervisor.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use super::{amp::Parcel, crypto::Hello, metrics::WorkerTallies, signatures::Checked};
use crate::{
    base::{CloseCode, ConnToken},
    dialect::session::SignedIn,
    reactor::{Mailer, Sender},
    relay::{
        api::{Caller, Error, Out, Request, Text},
        directory::Courier as Word,
        keys::KeySet,
    },
};

/// What the keys file holds.
#[derive(Debug)]
pub(super) struct KeysFound {
    /// Its path.
    pub(super) file: Text,
    /// Keys in force.
    pub(super) entries: usize,
    /// Lines that are not.
    pub(super) refused: usize,
}

/// To a worker.
pub(super) enum Mail {
    /// A sign-in was checked.
    SignedIn { peer: ConnToken, result: Result<SignedIn, Error> },
    /// The keys in force have changed.
    Keys(Arc<KeySet>),
    /// The keys file was read because this peer asked for it.
    KeysRead { peer: ConnToken, id: Text, result: Box<Result<KeysFound, Error>> },
    /// What the core has for peers of this worker, in order.
    Core(Vec<Out>),
    /// There is a session, and agents may write to it.
    Session { session: Text, did: Text },
    /// A session is gone, and its DID with it.
    SessionGone { did: Text },
    /// What another worker's directory has for ours, in order.
    Directory(Vec<Word<Parcel>>),
    /// A HELLO was checked.
    Hello { peer: ConnToken, hello: Hello },
    /// Messages of agents of this worker were checked, in order.
    Checked(Vec<Checked>),
    /// What the relay says, signed.
    Said { peer: ConnToken, frame: Vec<u8>, close: Option<(CloseCode, &'static str)> },
    /// A receiver on another worker takes nothing: do not read this sender.
    Hold(ConnToken),
    /// Such a receiver takes more again, or is gone.
    Freed(ConnToken),
    /// Take another turn.
    Again,
}

/// To the supervisor; a worker sends one batch a turn.
pub(super) enum ToCore {
    /// A command.
    Request(Box<Caller>, Request),
    /// The peer's send queue is above its high mark.
    Paused(ConnToken),
    /// It has drained.
    Resumed(ConnToken),
    /// The peer is gone.
    Gone(ConnToken),
}

/// The inboxes of all workers, by index.
#[derive(Clone)]
pub(super) struct Mailers(pub(super) Arc<[Mailer<Mail>]>);

impl Mailers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Gives the mail back when that inbox is full or there is no such worker.
    pub(super) fn send(&self, worker: usize, mail: Mail) -> Result<(), Mail> {
        match self.0.get(worker) {
            Some(mailer) => mailer.try_send(mail),
            None => Err(mail),
        }
    }
}

/// A worker's way to the supervisor: a batch a turn, and the batches that found its inbox full, oldest first.
pub(super) struct Courier {
    inbox: Sender<Vec<ToCore>>,
    batch: Vec<ToCore>,
    stuck: VecDeque<Vec<ToCore>>,
    tallies: Arc<WorkerTallies>,
}

impl Courier {
    pub(super) fn new(inbox: Sender<Vec<ToCore>>, tallies: Arc<WorkerTallies>) -> Self {
        Self { inbox, batch: Vec::new(), stuck: VecDeque::new(), tallies }
    }

    /// Takes a message along at the end of this turn.
    pub(super) fn take(&mut self, message: ToCore) {
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
    use crate::reactor::inbox;

    #[test]
    fn what_finds_the_inbox_full_is_kept_in_order_and_asks_to_be_woken() {
        let poll = mio::Poll::new().expect("a poll");
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
        let (sender, receiver) = inbox(1, waker);
        let tallies = Arc::<WorkerTallies>::default();
        let mut courier = Courier::new(sender, tallies.clone());
        let peer = |slot| ConnToken::new(0, slot, 1);
        for slot in 1..=3 {
            courier.take(ToCore::Gone(peer(slot)));
            courier.deliver();
            assert_eq!(tallies.stuck.load(Ordering::SeqCst), slot > 1, "after {slot}");
        }
        assert_eq!(courier.waiting(), 2);
        for slot in 1..=3 {
            let batch = receiver.try_recv().expect("a batch");
            assert!(matches!(batch[..], [ToCore::Gone(gone)] if gone == peer(slot)), "in order");
            courier.deliver();
        }
        assert_eq!(courier.waiting(), 0);
    }
}
