//! Accepting: until nothing is left, as long as there is room; handing Unix streams to the workers in turn.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use mio::Token;

use super::Worker;
use crate::{
    base::{Close, CloseCode, ConnToken},
    reactor::{
        handle::Envelope,
        io::{Flags, Io, Lent, Slot},
        listen::is_exhausted,
        options::{Peer, PeerAddr},
        protocol::Protocol,
        sendq::SendQueue,
        stream::Accepted,
    },
};

/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 256;
/// How long accepting pauses when the system has no more descriptors or memory.
const PAUSE_MS: u64 = 100;

/// Whether accepting is allowed.
pub(super) struct Gate {
    max: usize,
    full: bool,
    paused_until_ms: Option<u64>,
}

impl Gate {
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.clamp(1, ConnToken::SLOTS_MAX), full: false, paused_until_ms: None }
    }

    /// Shuts at the maximum and opens again a sixteenth below it, so that it does not flap.
    fn allows(&mut self, open: usize, now_ms: u64) -> bool {
        if self.paused_until_ms.is_some_and(|until| now_ms >= until) {
            self.paused_until_ms = None;
        }
        self.full = if self.full { open > self.max - (self.max / 16).max(1) } else { open >= self.max };
        !self.full && self.paused_until_ms.is_none()
    }

    /// Milliseconds until a pause ends.
    pub(super) fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        // One more: a sleep that is cut short by a fraction would spin through the last millisecond.
        self.paused_until_ms.map(|until| until.saturating_sub(now_ms) + 1)
    }
}

impl<P: Protocol> Worker<P> {
    /// Whether the next turn would accept something.
    pub(super) fn can_accept(&self) -> bool {
        let room = if self.gate.full {
            self.core.slots.len() <= self.gate.max - (self.gate.max / 16).max(1)
        } else {
            self.core.slots.len() < self.gate.max
        };
        room && self.gate.paused_until_ms.is_none() && self.listeners.iter().any(|listener| listener.pending)
    }

    /// Accepts from the listeners that have something, within this turn's bound.
    pub(super) fn accept(&mut self) {
        let mut budget = ACCEPTS_MAX;
        for index in 0..self.listeners.len() {
            while budget > 0 && self.listeners[index].pending {
                if !self.gate.allows(self.core.slots.len(), self.core.now.mono_ms) {
                    return;
                }
                budget -= 1;
                match self.listeners[index].accept() {
                    Ok(accepted) if self.listeners[index].is_unix() => self.hand_over(accepted),
                    Ok(accepted) => self.adopt(accepted),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.listeners[index].pending = false,
                    Err(error) if is_exhausted(&error) => {
                        self.core.counters.accept_pauses.add(1);
                        self.gate.paused_until_ms = Some(self.core.now.mono_ms + PAUSE_MS);
                        log::warn!(error:%; "cannot accept for a moment");
                        return;
                    }
                    // That one connection is gone already.
                    Err(_) => {}
                }
            }
        }
    }

    /// Accepts what waits when the listeners are about to go: whoever connected before gets a proper goodbye.
    pub(super) fn accept_last(&mut self) {
        for listener in &mut self.listeners {
            listener.pending = true;
        }
        self.accept();
    }

    /// Gives a Unix stream to the workers in turn; this worker may be among them.
    fn hand_over(&mut self, accepted: Accepted) {
        self.next_inbox = (self.next_inbox + 1) % self.inboxes.len();
        if self.next_inbox == usize::from(self.core.worker) {
            return self.adopt(accepted);
        }
        if let Err(Envelope::Stream(accepted)) = self.inboxes[self.next_inbox].try_send(Envelope::Stream(accepted)) {
            // Its inbox is full or it has ended; here is as good.
            self.adopt(accepted);
        }
    }

    /// Makes a stream a connection of this worker.
    pub(super) fn adopt(&mut self, accepted: Accepted) {
        let Accepted { stream, addr, listener } = accepted;
        if self.core.draining || self.core.slots.len() >= self.gate.max {
            self.core.counters.refused.add(1);
            return;
        }
        let slot = Slot {
            stream,
            conn: None,
            queue: SendQueue::default(),
            kept: Vec::new(),
            need: 0,
            flags: Flags::default(),
            why: None,
        };
        let Ok(token) = self.core.slots.insert(slot) else {
            self.core.counters.refused.add(1);
            return;
        };
        let registered = self.core.slots.get_mut(token).map(|slot| {
            let poll_token = Token(token.bits() as usize);
            slot.stream.register(self.poll.registry(), poll_token)
        });
        if let Some(Err(error)) = registered {
            log::warn!(error:%; "cannot watch a connection");
            self.core.counters.refused.add(1);
            self.core.slots.remove(token);
            return;
        }
        self.core.counters.accepted.add(1);
        self.introduce(token, addr, listener);
    }

    fn introduce(&mut self, token: ConnToken, addr: PeerAddr, listener: usize) {
        let peer = Peer { token, addr, listener };
        self.told_late = true;
        let Self { protocol, core, .. } = self;
        let answer =
            catch_unwind(AssertUnwindSafe(|| protocol.accept(&mut Io::new(core, token, Lent::default()), &peer)));
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        match answer {
            Ok(Ok(conn)) => slot.conn = Some(conn),
            Ok(Err(refuse)) => {
                self.core.counters.refused.add(1);
                self.core.send_last(token, refuse.say);
                self.core.close(token, Close::Local(CloseCode::POLICY));
            }
            Err(_) => {
                self.core.counters.panics.add(1);
                log::error!(conn:% = token; "the accept callback panicked");
                self.core.close(token, Close::Panicked);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_gate_has_hysteresis_and_pauses_end() {
        let mut gate = Gate::new(32);
        assert!(gate.allows(31, 0));
        assert!(!gate.allows(32, 0));
        assert!(!gate.allows(31, 0), "not yet");
        assert!(gate.allows(30, 0));
        gate.paused_until_ms = Some(100);
        assert!(!gate.allows(0, 99));
        assert_eq!(gate.wait_ms(90), Some(11));
        assert!(gate.allows(0, 100));
        assert_eq!(gate.wait_ms(100), None);
        let mut one = Gate::new(1);
        assert!(!one.allows(1, 0));
        assert!(one.allows(0, 0));
    }
}
