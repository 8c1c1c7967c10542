//! Messages whose signature is checked before they go on (`amp.verify` is `all`): what is with the crypto thread, and how
//! much of it there may be. Owns the order: all messages of a connection that pass the other checks go this way, so that
//! none overtakes another. Without the setting nothing of this exists.

use std::collections::HashMap;

use super::{
    Agents,
    route::{Sender, Source},
};
use crate::{
    base::ConnToken,
    reactor::ws::Framed,
    server::{
        crypto::Crypto,
        signatures::{BATCH_MAX, Check, Checked},
        worker::{Conn, Io, Worker},
    },
    wire::amp::{Code, EnvelopeView, Frame, parse},
};

/// Messages of one connection on the way; above, it is not read.
const MESSAGES_MAX: usize = 256;
/// The same in bytes: one message of the largest kind may always be on the way.
const BYTES_MAX: usize = 1 << 20;
/// Messages of one worker on the way: a quarter of a second of the crypto thread's time. Above, whoever sends one more is
/// not read, so that there are never more than this and one of each connection.
const ALL_MESSAGES_MAX: usize = 4096;
/// The same in bytes.
const ALL_BYTES_MAX: usize = 32 << 20;

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    messages: usize,
    bytes: usize,
}

impl Waiting {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn sub(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_above(self, messages: usize, bytes: usize) -> bool {
        self.messages >= messages || self.bytes >= bytes
    }
}

/// What of this worker's messages is being checked.
#[derive(Debug, Default)]
pub(super) struct Checks {
    by_peer: HashMap<ConnToken, Waiting>,
    all: Waiting,
    /// Who is not read because too much of it, or of everybody, is on the way.
    paused: Vec<ConnToken>,
    /// What the crypto thread has not been given yet, in order.
    batches: Vec<Vec<Check>>,
}

impl Checks {
    /// Takes a message in. True: its connection is not to be read for now.
    fn take(&mut self, peer: ConnToken, framed: Framed) -> bool {
        let bytes = framed.wire_len();
        let waiting = self.by_peer.entry(peer).or_default();
        waiting.add(bytes);
        self.all.add(bytes);
        let full = waiting.is_above(MESSAGES_MAX, BYTES_MAX) || self.all.is_above(ALL_MESSAGES_MAX, ALL_BYTES_MAX);
        match self.batches.last_mut() {
            Some(batch) if batch.len() < BATCH_MAX => batch.push(Check { peer, framed }),
            _ => self.batches.push(vec![Check { peer, framed }]),
        }
        if full && !self.paused.contains(&peer) {
            self.paused.push(peer);
        }
        full
    }

    /// A message is back. False: its connection is gone, and the message with it.
    fn back(&mut self, peer: ConnToken, bytes: usize) -> bool {
        self.all.sub(bytes);
        let Some(waiting) = self.by_peer.get_mut(&peer) else { return false };
        waiting.sub(bytes);
        if waiting.messages == 0 {
            self.by_peer.remove(&peer);
        }
        true
    }

    /// Who is to be read again: half of what may be on the way is not.
    fn resumable(&mut self) -> Vec<ConnToken> {
        if self.paused.is_empty() || self.all.is_above(ALL_MESSAGES_MAX / 2, ALL_BYTES_MAX / 2) {
            return Vec::new();
        }
        let by_peer = &self.by_peer;
        let is_full = |peer: &mut ConnToken| {
            by_peer.get(peer).is_some_and(|waiting| waiting.is_above(MESSAGES_MAX / 2, BYTES_MAX / 2))
        };
        self.paused.extract_if(.., |peer| !is_full(peer)).collect()
    }

    /// A connection is gone. What is on the way for it stays counted until it is back.
    pub(super) fn gone(&mut self, peer: ConnToken) {
        self.by_peer.remove(&peer);
        self.paused.retain(|&paused| paused != peer);
    }

    /// Gives the crypto thread what there is. What it has no room for makes fuller batches until it has.
    fn hand(&mut self, crypto: &Crypto) {
        let mut batches = std::mem::take(&mut self.batches).into_iter();
        while let Some(batch) = batches.next() {
            if let Err(batch) = crypto.check(batch) {
                self.batches = [batch].into_iter().chain(batches).collect();
                return;
            }
        }
    }
}

impl Agents {
    /// Reads a sender again, unless there is another reason not to.
    pub(super) fn resume(&self, sender: ConnToken, io: &mut Io<'_>) {
        let is_checked = self.checks.as_ref().is_some_and(|checks| checks.paused.contains(&sender));
        if !is_checked && !self.holds.is_held(sender) && !self.lanes.is_paused(sender) {
            io.resume(sender);
        }
    }
}

impl Worker {
    /// Has the signature of a message of the current connection checked. False: it need not be, route it.
    pub(super) fn amp_check(&mut self, io: &mut Io<'_>, view: &EnvelopeView<'_>) -> bool {
        let Some(checks) = &mut self.agents.checks else { return false };
        self.tallies.amp_checking.add(1);
        if checks.take(io.token(), Framed::binary(view.frame)) {
            io.pause(io.token());
        }
        true
    }

    /// The end of a turn: what came in it goes to the crypto thread.
    pub(in crate::server) fn amp_hand_checks(&mut self) {
        if let Some(checks) = &mut self.agents.checks {
            checks.hand(&self.crypto);
        }
    }

    /// Verdicts of the crypto thread, in order.
    pub(in crate::server) fn amp_checked(&mut self, checked: Vec<Checked>, io: &mut Io<'_>) {
        for Checked { check: Check { peer, framed }, verdict } in checked {
            self.tallies.amp_checking.sub(1);
            let known = self.agents.checks.as_mut().is_some_and(|checks| checks.back(peer, framed.wire_len()));
            // Who has left, or was put out, says nothing more.
            let Some(Conn::Agent(agent)) = io.conn(peer).filter(|_| known) else { continue };
            let dialect = agent.connection.dialect();
            let Ok(Frame::Envelope(view)) = parse(framed.payload()) else { continue };
            match verdict {
                Ok(()) => self.amp_route(None, Sender { peer, dialect }, &view, Source::Owned(&framed), io),
                Err(refusal) => {
                    self.tallies.amp_wrong_signatures.add(u64::from(refusal.code == Code::INVALID_SIGNATURE));
                    let did = self.agents.greeting.did.clone();
                    self.amp_refuse(&did, dialect, peer, &view, refusal, io);
                }
            }
            self.amp_events(None, io);
        }
        let resumable = self.agents.checks.as_mut().map(Checks::resumable).unwrap_or_default();
        for peer in resumable {
            self.agents.resume(peer, io);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(slot: u32) -> ConnToken {
        ConnToken::new(0, slot, 1)
    }

    fn framed(bytes: usize) -> Framed {
        Framed::binary(&vec![0; bytes])
    }

    /// Everything that was taken, back in order.
    fn all(checks: &mut Checks) -> Vec<(ConnToken, usize)> {
        let batches = std::mem::take(&mut checks.batches);
        assert!(batches.iter().all(|batch| (1..=BATCH_MAX).contains(&batch.len())));
        batches.into_iter().flatten().map(|check| (check.peer, check.framed.wire_len())).collect()
    }

    #[test]
    fn a_connection_is_held_at_its_bound_and_read_again_at_half_of_it() {
        let mut checks = Checks::default();
        for _ in 1..MESSAGES_MAX {
            assert!(!checks.take(peer(1), framed(10)));
        }
        assert!(checks.take(peer(1), framed(10)), "that many are on the way");
        assert!(!checks.take(peer(2), framed(10)), "another connection may go on");
        assert!(checks.take(peer(3), framed(BYTES_MAX)), "one of the largest kind is taken");
        let waiting = all(&mut checks);
        assert_eq!(waiting.len(), MESSAGES_MAX + 2);
        for (count, (peer, bytes)) in waiting.into_iter().enumerate() {
            assert!(checks.back(peer, bytes));
            let expected: &[ConnToken] = match count {
                128 => &[self::peer(1)],
                257 => &[self::peer(3)],
                _ => &[],
            };
            assert_eq!(checks.resumable(), expected, "after {count}");
        }
        assert_eq!((checks.all.messages, checks.all.bytes, checks.by_peer.len()), (0, 0, 0));
    }

    #[test]
    fn all_connections_together_have_a_bound() {
        let mut checks = Checks::default();
        let (mut slot, mut taken) = (0, 0);
        while !checks.take(peer(slot), framed(10)) {
            taken += 1;
            slot = taken / 100;
        }
        assert_eq!(taken + 1, ALL_MESSAGES_MAX as u32);
        assert!(checks.take(peer(1_000), framed(10)), "nobody may add more than one");
        let waiting = all(&mut checks);
        for (peer, bytes) in &waiting[..ALL_MESSAGES_MAX / 2] {
            checks.back(*peer, *bytes);
            assert_eq!(checks.resumable(), []);
        }
        let (peer_of_last, bytes) = waiting[ALL_MESSAGES_MAX / 2];
        checks.back(peer_of_last, bytes);
        checks.back(peer_of_last, bytes);
        assert_eq!(checks.resumable(), [peer(slot), peer(1_000)]);
    }

    #[test]
    fn what_comes_back_for_a_connection_that_is_gone_is_counted_and_dropped() {
        let mut checks = Checks::default();
        assert!(checks.take(peer(1), framed(BYTES_MAX)));
        checks.gone(peer(1));
        let (peer, bytes) = all(&mut checks)[0];
        assert!(!checks.back(peer, bytes));
        assert_eq!((checks.all.bytes, checks.resumable()), (0, Vec::new()));
    }
}
