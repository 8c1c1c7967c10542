//! Closing: telling the protocol, closing bytes, flush, linger, free; and the drain of the whole worker.
//!
//! A close that we begin ends with our half shut and the other half read to its end (or the linger time): closing a
//! socket with unread bytes would reset the connection and could destroy the closing bytes on their way.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Memory, Turn, Worker, call, read::LINGER_BYTES};
use crate::{
    base::{Close, ConnToken},
    reactor::{
        connections::{Flags, Slot},
        counters::close_kind,
        protocol::{Lent, Protocol},
        sendq::TurnBuffers,
    },
};

impl<P: Protocol> Worker<P> {
    /// Handles what was asked to close.
    pub(super) fn close_asked(&mut self) {
        let mut closes = std::mem::take(&mut self.core.closes);
        for token in closes.drain(..) {
            self.tell_closed(token);
            let Some(slot) = self.core.slots.get_mut(token) else { continue };
            if slot.flags.has(Flags::DEAD) {
                self.freed.push(token);
                continue;
            }
            slot.flags.clear(Flags::MOVED);
            self.linger(token);
            self.core.touch(token);
            self.core.make_ready(token);
        }
        // The `closed` callback cannot close other connections, so nothing was added meanwhile.
        self.core.closes = closes;
    }

    /// The time in which a closed connection must get on begins anew.
    pub(super) fn linger(&mut self, token: ConnToken) {
        self.core.wheel.set(token.slot(), self.core.now.mono_ms.saturating_add(self.linger_ms));
    }

    /// Last words and the `closed` callback, once.
    fn tell_closed(&mut self, token: ConnToken) {
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        if !slot.flags.newly(Flags::CLOSED) {
            return;
        }
        self.core.leave(token);
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        self.kept_bytes -= std::mem::take(&mut slot.kept).len();
        slot.need = LINGER_BYTES;
        // A paced peer is waited for no longer than the rest of the close, whatever it reads.
        let paced = slot.flags.take(Flags::PACED);
        if paced {
            slot.flags.clear(Flags::BLOCKED);
        }
        let why = slot.rare.take().and_then(|rare| rare.why).unwrap_or(Close::Broken);
        let dead = slot.flags.has(Flags::DEAD);
        let Some(conn) = slot.conn.take() else { return };
        self.told_late = true;
        self.core.counters.closed[close_kind(&why).0].add(1);
        if !dead {
            match catch_unwind(AssertUnwindSafe(|| P::closing_bytes(&conn, &why))) {
                Ok(words) => {
                    // What waits for a slow peer would keep it from hearing these words.
                    let instead = paced && matches!(why, Close::TooSlow) && !words.is_empty();
                    self.core.send_last(token, words);
                    if instead {
                        self.keep_last(token);
                    }
                }
                Err(_) => self.core.counters.panics.add(1),
            }
        }
        let protocol = &mut self.protocol;
        if catch_unwind(AssertUnwindSafe(|| protocol.closed(conn, token, why))).is_err() {
            self.core.counters.panics.add(1);
            log::error!(conn:% = token; "the closed callback panicked");
        }
    }

    /// Leaves of a queue what comes last, behind the frame of which the kernel has taken a part.
    fn keep_last(&mut self, token: ConnToken) {
        let Memory { arena, large, .. } = &self.memory;
        let turn = TurnBuffers { arena, out: &self.core.out, large };
        if let Some(slot) = self.core.slots.get_mut(token) {
            self.core.queue_bytes -= slot.queue.keep_last(&turn, P::frame_len);
        }
    }

    /// The queue of a closed connection is empty: our half is shut, and once the other is, the slot is freed.
    pub(super) fn flushed(&mut self, token: ConnToken) {
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        if slot.flags.newly(Flags::SHUT) {
            if slot.stream.shutdown_write().is_err() {
                slot.flags.set(Flags::DEAD);
            } else if slot.flags.take(Flags::MOVED) && !slot.flags.has(Flags::PROVISIONAL) {
                // A slow reader has yet to take what the kernel holds.
                self.linger(token);
            }
        }
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        if slot.flags.has(Flags::EOF | Flags::DEAD) {
            slot.flags.set(Flags::DEAD);
            self.freed.push(token);
        }
    }

    /// Frees the slots of connections that are over. Dropping the stream closes it and takes it out of the poll.
    pub(super) fn free_closed(&mut self) {
        while let Some(token) = self.freed.pop() {
            self.free(token);
        }
    }

    /// Frees a slot. Its socket is closed with it, whatever is queued.
    pub(super) fn free(&mut self, token: ConnToken) {
        if let Some(slot) = self.core.remove(token) {
            self.kept_bytes -= slot.kept.len();
        }
    }

    /// Accepts what had connected, stops listening, and lets the protocol say goodbye on every connection.
    pub(super) fn begin_drain(&mut self) {
        self.accept_last();
        self.listeners.clear();
        self.parked = None;
        self.core.draining = true;
        self.drain_ends_ms = self.core.now.mono_ms.saturating_add(self.grace_ms);
        for token in self.all() {
            call(&mut self.protocol, &mut self.core, token, Lent::default(), |p, conn, io| p.shutdown(conn, io));
        }
    }

    /// Ends at once: the protocol is told of every connection, and nothing is flushed but a goodbye, which goes ahead
    /// of what waits.
    pub(super) fn cut_off(&mut self) -> Turn {
        self.listeners.clear();
        let is_told = |slot: &Slot<P::Conn>| slot.rare.as_ref().is_some_and(|rare| rare.is_told);
        for token in self.all() {
            let told = self.core.slots.get_mut(token).filter(|slot| is_told(slot) && !slot.queue.is_empty());
            if let Some(slot) = told {
                slot.flags.clear(Flags::BLOCKED | Flags::PACED);
                self.keep_last(token);
                self.core.touch(token);
            }
        }
        self.flush();
        for token in self.all() {
            self.core.break_off(token, Close::Drain);
            self.tell_closed(token);
            self.freed.push(token);
        }
        self.core.closes.clear();
        self.free_closed();
        self.core.counters.open.set(0);
        Turn::Done
    }

    fn all(&self) -> Vec<ConnToken> {
        self.core.slots.iter().map(|(token, _)| token).collect()
    }
}
