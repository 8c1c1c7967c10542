//! Messages with a signature that is checked before they go on (`amp.verify` is `all`): what waits for the crypto
//! thread, how much of it there may be, and which is next. Owns the order: all messages of a connection that pass the
//! other checks go this way, so that none overtakes another, and principals take turns. Without the setting nothing of
//! this exists.

use std::collections::HashMap;

use super::{
    Agent, Delivery, Net,
    recipients::{Sender, Source},
    signatures::{BATCH_MAX, Check, Checked},
};
use crate::{
    base::ConnToken,
    relay::{api::Text, fair::Fair, message::Shared, shares::Shares},
    wire::amp::{Code, EnvelopeView, Frame, parse},
};

/// Batches of a worker that are with the crypto thread at a time, so that it has the next one while the verdicts on one
/// travel, and what a principal sends now waits for few of another's.
pub const BATCHES_OUT_MAX: usize = 4;
/// Messages of one connection on the way; above, it is not read.
const MESSAGES_MAX: usize = 256;
/// The same in bytes: one message of the largest kind may always be on the way.
const BYTES_MAX: usize = 1 << 20;
/// Messages of one worker on the way: a quarter of a second of the crypto thread's time. Above its share of them a
/// principal that sends one more is not read, so that there are never more than this and one of each connection.
const ALL_MESSAGES_MAX: usize = 4096;
/// The same in bytes.
const ALL_BYTES_MAX: usize = 32 << 20;

/// What of a connection is on the way.
#[derive(Clone, Debug)]
struct Waiting {
    /// The principal of the connection.
    principal: Text,
    messages: usize,
    bytes: usize,
}

impl Waiting {
    fn is_above(&self, messages: usize, bytes: usize) -> bool {
        self.messages >= messages || self.bytes >= bytes
    }
}

/// What of this worker's messages is being checked.
#[derive(Debug)]
pub(super) struct Checks<S> {
    by_peer: HashMap<ConnToken, Waiting>,
    messages: Shares,
    bytes: Shares,
    /// Connections that are not read because too much of them, or of their principal, is on the way.
    paused: Vec<ConnToken>,
    /// What the crypto thread has not been given yet.
    waiting: Fair<Check<S>>,
    /// Batches that are with it.
    out: usize,
}

impl<S> Default for Checks<S> {
    fn default() -> Self {
        let (messages, bytes) = (Shares::new(ALL_MESSAGES_MAX), Shares::new(ALL_BYTES_MAX));
        Self { by_peer: HashMap::new(), messages, bytes, paused: Vec::new(), waiting: Fair::default(), out: 0 }
    }
}

impl<S: Shared> Checks<S> {
    /// Takes a message in. True: its connection is not to be read for now.
    fn take(&mut self, principal: &Text, peer: ConnToken, shared: S) -> bool {
        let bytes = shared.size();
        let new = || Waiting { principal: principal.clone(), messages: 0, bytes: 0 };
        let waiting = self.by_peer.entry(peer).or_insert_with(new);
        waiting.messages += 1;
        waiting.bytes += bytes;
        let is_full = waiting.is_above(MESSAGES_MAX, BYTES_MAX);
        self.messages.take(principal, 1);
        self.bytes.take(principal, bytes);
        self.waiting.push(principal, Check { peer, shared });
        let is_full = is_full || !self.has_room(principal);
        if is_full && !self.paused.contains(&peer) {
            self.paused.push(peer);
        }
        is_full
    }

    /// Whether one more message of a principal may be on the way.
    fn has_room(&self, principal: &str) -> bool {
        self.messages.admits(principal, 1).is_ok() && self.bytes.admits(principal, 1).is_ok()
    }

    /// A message is not on the way any more. False: its connection is gone, and the message with it.
    fn back(&mut self, peer: ConnToken, bytes: usize) -> bool {
        let Some(waiting) = self.by_peer.get_mut(&peer) else { return false };
        waiting.messages -= 1;
        waiting.bytes -= bytes;
        self.messages.give_back(&waiting.principal, 1);
        self.bytes.give_back(&waiting.principal, bytes);
        if waiting.messages == 0 {
            self.by_peer.remove(&peer);
        }
        true
    }

    /// The next batch for the crypto thread, if it may have one more.
    fn next_batch(&mut self) -> Option<Vec<Check<S>>> {
        if self.out >= BATCHES_OUT_MAX {
            return None;
        }
        let batch: Vec<_> = std::iter::from_fn(|| self.waiting.pop()).take(BATCH_MAX).collect();
        self.out += usize::from(!batch.is_empty());
        Some(batch).filter(|batch| !batch.is_empty())
    }

    /// The connections to be read again: less than half of their bound is on the way, and their principal may have
    /// more.
    fn resumable(&mut self) -> Vec<ConnToken> {
        let mut paused = std::mem::take(&mut self.paused);
        let stays = |peer: &mut ConnToken| {
            let waiting = self.by_peer.get(peer);
            waiting.is_some_and(|waiting| {
                waiting.is_above(MESSAGES_MAX / 2, BYTES_MAX / 2) || !self.has_room(&waiting.principal)
            })
        };
        self.paused = paused.extract_if(.., stays).collect();
        paused
    }

    /// A connection is gone, and with it what of it waits. Gives how much that was.
    pub(super) fn gone(&mut self, peer: ConnToken) -> u64 {
        let mut waited = 0;
        self.waiting.retain(|check| {
            let keeps = check.peer != peer;
            waited += u64::from(!keeps);
            keeps
        });
        if let Some(Waiting { principal, messages, bytes }) = self.by_peer.remove(&peer) {
            self.messages.give_back(&principal, messages);
            self.bytes.give_back(&principal, bytes);
        }
        self.paused.retain(|&paused| paused != peer);
        waited
    }

    /// Whether this connection is not read for what is being checked.
    pub(super) fn is_paused(&self, peer: ConnToken) -> bool {
        self.paused.contains(&peer)
    }

    /// What is counted for principals is what is counted for their connections.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        let all = |of: fn(&Waiting) -> usize| self.by_peer.values().map(of).sum::<usize>();
        assert_eq!((all(|of| of.messages), all(|of| of.bytes)), (self.messages.taken(), self.bytes.taken()));
        assert!(self.out <= BATCHES_OUT_MAX);
        let is_known = |peer| self.by_peer.contains_key(peer);
        assert!(self.paused.iter().all(is_known), "what is paused for nothing is never read again");
    }
}

impl<S: Shared> Delivery<S> {
    /// Reads a sender again, unless there is another reason not to.
    pub(super) fn resume<N: Net<Shared = S>>(&self, sender: ConnToken, net: &mut N) {
        let is_checked = self.checks.as_ref().is_some_and(|checks| checks.is_paused(sender));
        if !is_checked && !self.backpressure.is_blocked(sender) && !self.lanes.is_paused(sender) {
            net.resume(sender);
        }
    }

    /// Has the signature of a message of the current connection checked. False: it need not be, route it.
    pub(super) fn check<N: Net<Shared = S>>(&mut self, agent: &Agent, net: &mut N, view: &EnvelopeView<'_>) -> bool {
        let Some(checks) = &mut self.checks else { return false };
        // `wire::amp::check::principal` lets nothing pass without one; nothing goes on unchecked for want of it.
        let Some(principal) = agent.principal() else { return true };
        self.counters.checking.add(1);
        if checks.take(&principal.did, net.current(), S::of(view.frame)) {
            net.pause(net.current());
        }
        true
    }

    /// The next messages with signatures to check; the verdicts go to [`checked`](Self::checked), and no more than
    /// [`BATCHES_OUT_MAX`] are given before.
    #[inline]
    pub fn next_checks(&mut self) -> Option<Vec<Check<S>>> {
        self.checks.as_mut()?.next_batch()
    }

    /// Verdicts on a batch of this worker.
    pub fn checked<N: Net<Shared = S>>(&mut self, checked: Vec<Checked<S>>, net: &mut N) {
        if let Some(checks) = &mut self.checks {
            checks.out = checks.out.saturating_sub(1);
        }
        for Checked { check: Check { peer, shared }, verdict } in checked {
            self.counters.checking.sub(1);
            let known = self.checks.as_mut().is_some_and(|checks| checks.back(peer, shared.size()));
            // Drop results for closed connections.
            let Some(agent) = net.agent(peer).filter(|_| known) else { continue };
            let key_encoding = agent.key_encoding();
            let Ok(Frame::Envelope(view)) = parse(shared.message()) else { continue };
            match verdict {
                Ok(()) => {
                    let sender = Sender { peer: Some(peer), key_encoding };
                    self.route(None, sender, &view, Source::<N>::Owned(&shared), net);
                }
                Err(refusal) => {
                    self.counters.wrong_signatures.add(u64::from(refusal.code == Code::INVALID_SIGNATURE));
                    let did = self.greeting.did.clone();
                    self.refuse_message(&did, key_encoding, peer, &view, refusal, net);
                }
            }
            self.directory_events(None, net);
        }
        for peer in self.checks.as_mut().map(Checks::resumable).unwrap_or_default() {
            self.resume(peer, net);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::message::tests::Bytes;

    fn peer(slot: u32) -> ConnToken {
        ConnToken::new(0, slot, 1)
    }

    fn framed(bytes: usize) -> Bytes {
        Bytes::of(&vec![0; bytes])
    }

    fn name(n: u32) -> Text {
        format!("did:key:{n}").into()
    }

    /// What the crypto thread gets, with the connection of each message: the verdicts come back at once.
    fn all(checks: &mut Checks<Bytes>) -> Vec<(ConnToken, usize)> {
        let mut all = Vec::new();
        while let Some(batch) = checks.next_batch() {
            assert!((1..=BATCH_MAX).contains(&batch.len()));
            checks.out -= 1;
            all.extend(batch.into_iter().map(|check| (check.peer, check.shared.size())));
        }
        all
    }

    #[test]
    fn a_connection_is_held_at_its_bound_and_read_again_at_half_of_it() {
        let mut checks = Checks::default();
        for _ in 1..MESSAGES_MAX {
            assert!(!checks.take(&name(1), peer(1), framed(10)));
        }
        assert!(checks.take(&name(1), peer(1), framed(10)), "that many are on the way");
        assert!(!checks.take(&name(1), peer(2), framed(10)), "another connection may go on");
        assert!(checks.take(&name(3), peer(3), framed(BYTES_MAX)), "one of the largest kind is taken");
        let waiting = all(&mut checks);
        assert_eq!(waiting.len(), MESSAGES_MAX + 2);
        let mut left = MESSAGES_MAX;
        for (of, bytes) in waiting {
            checks.check_invariants();
            assert!(checks.back(of, bytes));
            left -= usize::from(of == peer(1));
            let expected: &[ConnToken] = match (of, left) {
                (of, _) if of == peer(3) => &[peer(3)],
                (of, 127) if of == peer(1) => &[peer(1)],
                _ => &[],
            };
            assert_eq!(checks.resumable(), expected, "with {left} left");
        }
        checks.check_invariants();
        assert_eq!((checks.messages.taken(), checks.bytes.taken(), checks.by_peer.len()), (0, 0, 0));
    }

    #[test]
    fn a_principal_with_many_connections_has_its_share_and_the_next_one_goes_first() {
        let mut checks = Checks::default();
        let mut taken = 0;
        while !checks.take(&name(1), peer(taken / 100), framed(10)) {
            taken += 1;
        }
        assert_eq!(taken as usize + 1, ALL_MESSAGES_MAX / 2, "half of all");
        assert!(checks.take(&name(1), peer(1_000), framed(10)), "one more of each connection at the most");
        assert!(!checks.take(&name(2), peer(2_000), framed(10)), "another principal is read");
        assert_eq!(checks.resumable(), [], "its share is full, though none of its connections is");
        let first = checks.next_batch().expect("a batch");
        assert!(first[..2].iter().any(|check| check.peer == peer(2_000)), "by turns");
        for check in &first {
            checks.back(check.peer, 10);
        }
        // Each of its connections is read again as soon as there is room: none has more than 100 on the way.
        assert_eq!(checks.resumable(), [peer(taken / 100), peer(1_000)]);
        checks.check_invariants();
    }

    #[test]
    fn a_principal_has_its_share_of_the_bytes_however_few_its_messages_are() {
        let mut checks = Checks::default();
        let bytes = BYTES_MAX / 2 + 1;
        let taken = (0..).take_while(|&slot| !checks.take(&name(1), peer(slot), framed(bytes))).count();
        assert_eq!(taken, ALL_BYTES_MAX / 2 / bytes, "half of all");
        assert!(!checks.take(&name(2), peer(1_000), framed(bytes)));
    }

    #[test]
    fn where_one_that_is_held_goes_another_is_read_again() {
        let mut checks = Checks::default();
        for slot in [1, 2] {
            (0..2).for_each(|_| assert!(checks.take(&name(slot), peer(slot), framed(BYTES_MAX))));
        }
        checks.gone(peer(1));
        assert!(checks.is_paused(peer(2)) && !checks.is_paused(peer(1)));
        (0..2).for_each(|_| assert!(checks.back(peer(2), BYTES_MAX)));
        assert_eq!(checks.resumable(), [peer(2)], "once, however much it had on the way");
    }

    #[test]
    fn the_crypto_thread_has_a_few_batches_at_a_time() {
        let mut checks = Checks::default();
        for n in 0..10 * BATCH_MAX as u32 {
            checks.take(&name(n), peer(n), framed(10));
        }
        for _ in 0..BATCHES_OUT_MAX {
            assert_eq!(checks.next_batch().map(|batch| batch.len()), Some(BATCH_MAX));
        }
        assert!(checks.next_batch().is_none());
        checks.out -= 1;
        assert!(checks.next_batch().is_some() && checks.next_batch().is_none());
    }

    #[test]
    fn what_a_connection_that_is_gone_has_sent_is_not_checked_and_costs_its_principal_nothing() {
        let mut checks = Checks::default();
        assert!(checks.take(&name(1), peer(1), framed(BYTES_MAX)));
        let out = checks.next_batch().expect("a batch");
        checks.take(&name(1), peer(1), framed(10));
        checks.take(&name(1), peer(2), framed(10));
        assert_eq!(checks.gone(peer(1)), 1, "the other one is with the crypto thread");
        assert!(!checks.back(out[0].peer, out[0].shared.size()));
        assert_eq!(all(&mut checks), [(peer(2), 10)]);
        assert_eq!((checks.bytes.taken(), checks.resumable()), (10, Vec::new()));
        checks.check_invariants();
    }
}
