//! Closing: telling the protocol, last words, flush, linger, free; and the drain of the whole worker.
//!
//! A close that we begin ends with our half shut and the other half read to its end (or the linger time): closing a
//! socket with unread bytes would reset the connection and could destroy the last words on their way.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Turn, Worker, call};
use crate::{
    base::{Close, ConnToken},
    reactor::{
        counters::close_kind,
        io::{Flags, Lent},
        protocol::Protocol,
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
            self.core.wheel.set(token.slot(), self.core.now.mono_ms.saturating_add(self.linger_ms));
            self.core.touch(token);
            self.core.make_ready(token);
        }
        // A protocol that is told of a close has no hands to close others: nothing was added meanwhile.
        self.core.closes = closes;
    }

    /// Last words and the `closed` callback, once.
    fn tell_closed(&mut self, token: ConnToken) {
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        if !slot.flags.newly(Flags::CLOSED) {
            return;
        }
        self.kept_bytes -= std::mem::take(&mut slot.kept).len();
        let why = slot.why.take().map_or(Close::Broken, |why| *why);
        let dead = slot.flags.has(Flags::DEAD);
        let Some(conn) = slot.conn.take() else { return };
        self.told_late = true;
        self.core.counters.closed[close_kind(&why).0].add(1);
        if !dead {
            match catch_unwind(AssertUnwindSafe(|| P::last_words(&conn, &why))) {
                Ok(words) => self.core.send_last(token, words),
                Err(_) => self.core.counters.panics.add(1),
            }
        }
        let protocol = &mut self.protocol;
        if catch_unwind(AssertUnwindSafe(|| protocol.closed(conn, token, why))).is_err() {
            self.core.counters.panics.add(1);
            log::error!(conn:% = token; "the closed callback panicked");
        }
    }

    /// The queue of a closed connection is empty: our half is shut, and once the other is, the slot is freed.
    pub(super) fn flushed(&mut self, token: ConnToken) {
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        if slot.flags.newly(Flags::SHUT) && slot.stream.shutdown_write().is_err() {
            slot.flags.set(Flags::DEAD);
        }
        if slot.flags.has(Flags::EOF | Flags::DEAD) {
            slot.flags.set(Flags::DEAD);
            self.freed.push(token);
        }
    }

    /// Frees the slots of connections that are over. Dropping the stream closes it and takes it out of the poll.
    pub(super) fn free_closed(&mut self) {
        while let Some(token) = self.freed.pop() {
            self.core.wheel.cancel(token.slot());
            if let Some(slot) = self.core.slots.remove(token) {
                self.core.queue_bytes -= slot.queue.len();
                self.kept_bytes -= slot.kept.len();
            }
        }
    }

    /// Accepts what had connected, stops listening, and lets the protocol say goodbye to everybody.
    pub(super) fn begin_drain(&mut self) {
        self.accept_last();
        self.listeners.clear();
        self.core.draining = true;
        self.drain_ends_ms = self.core.now.mono_ms.saturating_add(self.grace_ms);
        for token in self.all() {
            call(&mut self.protocol, &mut self.core, token, Lent::default(), |p, conn, io| p.drain(conn, io));
        }
    }

    /// Ends at once: everybody is told, nothing is flushed any more.
    pub(super) fn cut_off(&mut self) -> Turn {
        self.listeners.clear();
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
