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
        connections::{Flags, Limit, Slot},
        listen::is_exhausted,
        options::{Peer, PeerAddr},
        pace::UNASKED,
        protocol::{Io, Lent, Protocol},
        sendq::SendQueue,
        shared::InboxItem,
        stream::Accepted,
    },
};

/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 256;
/// How long accepting pauses when the system has no more descriptors or memory.
const PAUSE_MS: u64 = 100;

/// Whether accepting is allowed.
#[derive(Default)]
pub(super) struct Gate {
    /// No room was found, for TCP and for Unix streams.
    full: [bool; 2],
    paused_until_ms: Option<u64>,
}

impl Gate {
    /// Shuts at the maximum and opens again a sixteenth below it, so that it does not flap.
    fn is_open(&self, open: usize, max: usize, is_unix: bool) -> bool {
        if self.full[usize::from(is_unix)] { open <= max - (max / 16).max(1) } else { open < max }
    }

    fn is_paused(&mut self, now_ms: u64) -> bool {
        if self.paused_until_ms.is_some_and(|until| now_ms >= until) {
            self.paused_until_ms = None;
        }
        self.paused_until_ms.is_some()
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
        let pending = |is_unix| self.listeners.iter().any(|listener| listener.pending && listener.is_unix() == is_unix);
        let waits = self.parked.is_some() || [false, true].into_iter().any(|unix| pending(unix) && self.has_room(unix));
        waits && self.gate.paused_until_ms.is_none()
    }

    /// Whether one more connection is worth accepting: there is room for it, or one gives way to it.
    fn has_room(&self, is_unix: bool) -> bool {
        let (open, limits) = (self.core.slots.len(), &self.core.provisional);
        if P::PROVISIONAL {
            !limits.is_full(open, is_unix) || limits.len() > 0
        } else {
            self.gate.is_open(open, limits.most(is_unix), is_unix)
        }
    }

    /// Accepts from the listeners that have something, within this turn's bound.
    pub(super) fn accept(&mut self) {
        if self.gate.is_paused(self.core.now.mono_ms) {
            return;
        }
        if let Some(parked) = self.parked.take()
            && !self.place(parked)
        {
            return;
        }
        let mut budget = ACCEPTS_MAX;
        for index in 0..self.listeners.len() {
            while budget > 0 && self.listeners[index].pending {
                let is_unix = self.listeners[index].is_unix();
                let is_full = !self.has_room(is_unix);
                if is_full && !self.gate.full[usize::from(is_unix)] {
                    self.core.counters.accept_stops.add(1);
                    self.core.warn(
                        Limit::Connections,
                        "the limit of connections is reached: more wait until others have gone",
                    );
                }
                self.gate.full[usize::from(is_unix)] = is_full;
                if is_full {
                    break;
                }
                budget -= 1;
                match self.listeners[index].accept() {
                    Ok(accepted) => {
                        if !self.place(accepted) {
                            return;
                        }
                    }
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

    /// Finds a place for a connection. False: it has to wait until the next turn, when another one has given way to it.
    fn place(&mut self, accepted: Accepted) -> bool {
        if matches!(accepted.addr, PeerAddr::Unix { .. }) {
            self.hand_over(accepted);
        } else if P::PROVISIONAL && !self.make_room(false) {
            self.parked = Some(accepted);
            return false;
        } else {
            self.adopt(accepted);
        }
        true
    }

    /// Has a provisional connection go if there is no room for one more. It is told so first, which takes until the next
    /// turn; a Unix stream does not wait for that.
    fn make_room(&mut self, is_unix: bool) -> bool {
        if !self.core.provisional.is_full(self.core.slots.len(), is_unix) {
            return true;
        }
        let mut leaving = self.core.first_leaving();
        let displaced = self.core.displace();
        if leaving.is_none() && displaced && is_unix {
            self.close_asked();
            leaving = self.core.first_leaving();
        }
        leaving.map(|token| self.free(token)).is_some()
    }

    /// Accepts what waits when the listeners are about to go: connections made before that get a proper goodbye.
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
        if let Err(InboxItem::Stream(accepted)) = self.inboxes[self.next_inbox].try_send(InboxItem::Stream(accepted)) {
            // Its inbox is full or it has ended; here is as good.
            self.adopt(accepted);
        }
    }

    /// Makes a stream a connection of this worker.
    pub(super) fn adopt(&mut self, accepted: Accepted) {
        let Accepted { stream, addr, listener } = accepted;
        let is_unix = matches!(addr, PeerAddr::Unix { .. });
        // A stream that another worker accepted may find this one full.
        let is_full = self.core.slots.len() >= self.core.provisional.most(is_unix);
        if self.core.draining {
            self.core.counters.refused.add(1);
            return;
        }
        if is_full && !(P::PROVISIONAL && self.make_room(is_unix)) {
            self.core.no_room();
            return;
        }
        let slot = Slot {
            stream,
            conn: None,
            queue: SendQueue::default(),
            kept: Vec::new(),
            need: 0,
            room: UNASKED,
            flags: Flags::default(),
            rare: None,
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
        if P::PROVISIONAL && !is_unix {
            self.core.begin_provisional(token);
        }
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
                self.core.send_last(token, refuse.bytes);
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
        let mut gate = Gate::default();
        assert!(gate.is_open(31, 32, false));
        assert!(!gate.is_open(32, 32, false));
        gate.full = [true, false];
        assert!(!gate.is_open(31, 32, false), "not yet");
        assert!(gate.is_open(31, 32, true) && gate.is_open(30, 32, false));
        gate.paused_until_ms = Some(100);
        assert!(gate.is_paused(99));
        assert_eq!(gate.wait_ms(90), Some(11));
        assert!(!gate.is_paused(100));
        assert_eq!(gate.wait_ms(100), None);
        gate.full = [true; 2];
        assert!(!gate.is_open(1, 1, false));
        assert!(gate.is_open(0, 1, false));
    }
}
