//! Senders that are not read because a receiver takes nothing: who holds whom, on this worker and across workers. Owns
//! the rule that whoever is held is released once; decides nothing about queues and their marks.
//!
//! A receiver that is blocked above its mark holds each sender that writes to it. A sender of another worker is told of
//! by mail, which may find that worker's inbox full: then it is not held yet, and its next message tries again. A
//! release must not get lost, so that it is kept until it is carried.

use std::collections::HashMap;

use super::Agents;
use crate::{
    base::ConnToken,
    server::{channels::Mail, worker::Io},
};

/// Who holds whom.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Senders, of any worker, by the receiver of this worker that holds them.
    by_receiver: HashMap<ConnToken, Vec<ConnToken>>,
    /// How many receivers, on any worker, hold a sender of this worker.
    held: HashMap<ConnToken, u32>,
    /// Senders whose receiver is free again.
    free: Vec<ConnToken>,
}

impl Holds {
    /// A receiver holds a sender; false if it does so already.
    fn hold(&mut self, receiver: ConnToken, sender: ConnToken) -> bool {
        let senders = self.by_receiver.entry(receiver).or_default();
        if senders.contains(&sender) {
            return false;
        }
        senders.push(sender);
        true
    }

    /// The hold just made is not.
    fn undo(&mut self, receiver: ConnToken) {
        if let Some(senders) = self.by_receiver.get_mut(&receiver) {
            senders.pop();
        }
    }

    /// A sender of this worker is held once more.
    fn held(&mut self, sender: ConnToken) {
        *self.held.entry(sender).or_default() += 1;
    }

    /// A sender of this worker is held once less; true if nobody holds it any more.
    fn freed(&mut self, sender: ConnToken) -> bool {
        let Some(count) = self.held.get_mut(&sender) else { return false };
        *count -= 1;
        if *count == 0 {
            self.held.remove(&sender);
        }
        !self.held.contains_key(&sender)
    }

    /// A receiver holds nobody any more: it has drained, or is gone.
    pub(super) fn release(&mut self, receiver: ConnToken) {
        self.free.extend(self.by_receiver.remove(&receiver).unwrap_or_default());
    }

    /// A connection is gone, as a receiver and as a sender.
    pub(super) fn gone(&mut self, token: ConnToken) {
        self.held.remove(&token);
        self.release(token);
    }

    /// Whether somebody holds this sender.
    pub(super) fn is_held(&self, sender: ConnToken) -> bool {
        self.held.contains_key(&sender)
    }
}

impl Agents {
    /// Holds the sender of a message back if its receiver, whose queue is above its mark, is blocked.
    pub(super) fn hold(&mut self, receiver: ConnToken, sender: ConnToken, io: &mut Io<'_>) {
        if !io.is_blocked(receiver) || !self.holds.hold(receiver, sender) {
            return;
        }
        if sender.worker() == io.worker() {
            self.holds.held(sender);
            io.pause(sender);
        } else if self.mailers.send(usize::from(sender.worker()), Mail::Hold(sender)).is_err() {
            self.holds.undo(receiver);
        }
    }

    /// A receiver on another worker holds this sender.
    pub(in crate::server) fn held_elsewhere(&mut self, sender: ConnToken, io: &mut Io<'_>) {
        if io.is_open(sender) {
            self.holds.held(sender);
            io.pause(sender);
        }
    }

    /// A receiver does not hold this sender any more: it is read again unless something else is in the way.
    pub(in crate::server) fn freed(&mut self, sender: ConnToken, io: &mut Io<'_>) {
        if self.holds.freed(sender) {
            self.resume(sender, io);
        }
    }

    /// The end of a turn: tells everybody whose receiver has become free.
    pub(super) fn carry_freed(&mut self, io: &mut Io<'_>) {
        for sender in std::mem::take(&mut self.holds.free) {
            if sender.worker() == io.worker() {
                self.freed(sender, io);
            } else {
                self.links.push(usize::from(sender.worker()), Mail::Freed(sender));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ssh_key::{Algorithm, PrivateKey, rand_core::OsRng};

    use super::*;
    use crate::{
        reactor::Listen,
        server::{self, channels::sink::is_woken},
    };

    #[test]
    fn a_sender_is_free_when_the_last_receiver_lets_it_go() {
        let [slow, stuck, sender] = [1, 2, 3].map(|slot| ConnToken::new(0, slot, 0));
        let mut holds = Holds::default();
        for receiver in [slow, stuck] {
            assert!(holds.hold(receiver, sender));
            assert!(!holds.hold(receiver, sender), "once for each receiver");
            holds.held(sender);
        }
        holds.release(slow);
        assert_eq!(holds.free, [sender]);
        assert!(!holds.freed(sender) && holds.is_held(sender));
        holds.gone(stuck);
        assert_eq!(holds.free, [sender, sender]);
        assert!(holds.freed(sender) && !holds.is_held(sender));
        assert!(!holds.freed(sender), "nobody held it");
    }

    #[test]
    fn a_sender_that_left_is_forgotten_and_a_hold_that_found_no_way_is_undone() {
        let [slow, sender] = [1, 2].map(|slot| ConnToken::new(0, slot, 0));
        let mut holds = Holds::default();
        assert!(holds.hold(slow, sender));
        holds.undo(slow);
        assert!(holds.hold(slow, sender), "tried again");
        holds.held(sender);
        holds.gone(sender);
        holds.release(slow);
        assert!(!holds.freed(sender));
    }

    #[test]
    fn what_another_worker_has_no_room_for_waits_without_a_turn_until_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = server::Options {
            workers: 2,
            listen: vec![Listen::Unix(folder.path().join("relay.sock"))],
            folders: vec![folder.path().to_owned()],
            ..server::Options::new(folder.path().join("keys"), server::Agent::Demo)
        };
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).expect("a key");
        let (bound, handlers, rest) = server::Rest::start(&options, key).expect("started");
        let mailers = handlers.agents.mailers.clone();
        let mut workers = bound.into_workers(|index, _| handlers.make(index)).expect("workers");
        let [here, there] = &mut workers[..] else { panic!("two") };
        while mailers.send(1, Mail::Core(Vec::new())).is_ok() {}

        let agents = &mut here.protocol().handler().agents;
        agents.holds.free.push(ConnToken::new(1, 1, 1));
        let mut slots = 1..;
        while agents.directory.destinations().next().is_none() {
            let slot = slots.next().expect("a slot");
            agents.directory.join(format!("did:key:{slot}"), ConnToken::new(0, slot, 1)).expect("room");
        }
        here.turn(Some(Duration::ZERO)).expect("a turn");
        assert!(!is_woken(here), "it is not its own waker");
        assert_ne!(here.arm(), Some(Duration::ZERO), "it has nothing to do");
        there.turn(Some(Duration::ZERO)).expect("a turn");
        assert!(is_woken(here), "there is room");
        here.turn(Some(Duration::ZERO)).expect("a turn");
        let agents = &mut here.protocol().handler().agents;
        assert!(agents.links.flush() && agents.directory.destinations().next().is_none());
        drop(workers);
        rest.join(Ok(())).expect("ended");
    }
}
