//! A worker's connections, apart from its protocol so that both can be borrowed at once, and everything about them that
//! a callback may change. Makes no system call: a turn's phases do.

pub(super) mod provisional;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

pub(super) use super::flags::Flags;
use super::{
    counters::WorkerCounters,
    options::Options,
    pace::Pace,
    sendq::{OUT, Pool, Range, SendQueue},
    slots::Slots,
    stream::Stream,
    wheel::Wheel,
};
use crate::{
    base::{Close, ConnToken, Now, Sent},
    wire::copy,
};
pub(super) use provisional::Limit;
use provisional::Provisional;

/// Messages above this size are not copied into the worker's out arena but into memory of their own.
const OUT_PIECE_MAX: usize = 16 * 1024;
/// The out arena of one turn.
const OUT_MAX: usize = 1024 * 1024;

/// A connection.
pub(super) struct Slot<C> {
    pub(super) stream: Stream,
    /// None while a callback has it, and after the protocol gave it up.
    pub(super) conn: Option<C>,
    pub(super) queue: SendQueue,
    /// Bytes that the protocol has not consumed.
    pub(super) kept: Vec<u8>,
    /// Bytes that must be there before input is worth a call; of a closed connection those that are still read.
    pub(super) need: u32,
    /// Bytes that the kernel may be given before the peer is asked whether it reads, or [`PROVED`](super::pace::PROVED), or
    /// [`UNASKED`](super::pace::UNASKED).
    pub(super) room: u16,
    pub(super) flags: Flags,
    /// What most connections have no need of.
    pub(super) rare: Option<Box<Rare>>,
}

/// What a connection has at its end, or with a slow peer.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Why it closes.
    pub(super) why: Option<Close>,
    /// It was said goodbye to: nothing is sent after that.
    pub(super) is_told: bool,
    /// When the kernel began to refuse its bytes.
    pub(super) blocked_ms: u64,
    /// How much its peer is given, or was until it did not answer.
    pub(super) pace: Option<Pace>,
}

impl<C> Slot<C> {
    /// Whether it is not read because it is paused. A closed one is read to its end, or the close would be a reset.
    pub(super) fn is_held(&self) -> bool {
        self.flags.has(Flags::PAUSED) && !self.flags.has(Flags::CLOSED)
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// The connections of a worker and everything about them that a callback may change.
pub(super) struct Core<C> {
    pub(super) worker: u16,
    pub(super) now: Now,
    pub(super) slots: Slots<Slot<C>>,
    pub(super) wheel: Wheel,
    /// Queues with something new to write.
    pub(super) touched: Vec<ConnToken>,
    /// Connections that may have more to read.
    pub(super) ready: VecDeque<ConnToken>,
    /// Connections that were asked to close.
    pub(super) closes: Vec<ConnToken>,
    /// Small messages of this turn, one after the other.
    pub(super) out: Vec<u8>,
    /// Ranges of the lent buffer that were forwarded since the worker began.
    pub(super) forwards: u64,
    pub(super) queue_bytes: usize,
    /// Connections with a paced peer that has been asked, and when it is next looked whether these peers answer.
    pub(super) paced: BTreeSet<ConnToken>,
    pub(super) paced_at_ms: u64,
    /// How often a connection was paused or asked to close since the worker began.
    pub(super) stops: u64,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) draining: bool,
    pub(super) pool: Pool,
    pub(super) provisional: Provisional,
    high: usize,
    pub(super) low: usize,
    max: usize,
    pub(super) pace_ms: u64,
    /// How long the answer to a probe is waited for.
    pub(super) patience_ms: u64,
}

impl<C> Core<C> {
    pub(super) fn new(worker: u16, now: Now, options: &Options, workers: usize, counters: Arc<WorkerCounters>) -> Self {
        Self {
            worker,
            now,
            slots: Slots::new(worker),
            wheel: Wheel::new(now.mono_ms),
            touched: Vec::new(),
            ready: VecDeque::new(),
            closes: Vec::new(),
            out: Vec::new(),
            forwards: 0,
            queue_bytes: 0,
            paced: BTreeSet::new(),
            paced_at_ms: u64::MAX,
            stops: 0,
            counters,
            draining: false,
            pool: Pool::default(),
            provisional: Provisional::new(options, workers),
            high: options.queue_high,
            low: options.queue_low,
            max: options.queue_max,
            pace_ms: options.pace_ms,
            patience_ms: options.patience_ms,
        }
    }

    /// Puts the connection on the list of those to write at the end of the turn.
    pub(super) fn touch(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token)
            && slot.flags.newly(Flags::TOUCHED)
        {
            self.touched.push(token);
        }
    }

    /// Puts the connection on the list of those to read.
    pub(super) fn make_ready(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token)
            && slot.flags.newly(Flags::READY)
        {
            self.ready.push_back(token);
        }
    }

    /// Asks for a close. The first reason counts.
    pub(super) fn close(&mut self, token: ConnToken, why: Close) -> bool {
        let Some(slot) = self.slots.get_mut(token) else {
            self.counters.stale_mail.add(1);
            return false;
        };
        if slot.flags.newly(Flags::CLOSING) {
            slot.rare().why = Some(why);
            self.closes.push(token);
            self.stops += 1;
        }
        true
    }

    /// Asks for a close of a connection on which nothing can be written any more.
    pub(super) fn break_off(&mut self, token: ConnToken, why: Close) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.flags.set(Flags::DEAD);
            if slot.flags.has(Flags::CLOSED) {
                self.closes.push(token);
            } else {
                self.close(token, why);
            }
        }
    }

    /// Makes room for `len` more bytes in a queue: the marks are checked here. None: nothing may be queued.
    fn admit(&mut self, token: ConnToken, len: usize) -> Option<(&mut SendQueue, Sent)> {
        self.admit_if(token, len, |_| true)
    }

    /// [`admit`](Self::admit), where the connection's state says that it may be written to; the state of the current one
    /// is absent.
    #[inline]
    pub(super) fn admit_if(
        &mut self,
        token: ConnToken,
        len: usize,
        may: impl FnOnce(Option<&C>) -> bool,
    ) -> Option<(&mut SendQueue, Sent)> {
        let Some(slot) = self.slots.get_mut(token) else {
            self.counters.stale_mail.add(1);
            return None;
        };
        if slot.flags.has(Flags::CLOSING) || !may(slot.conn.as_ref()) {
            return None;
        }
        let queued = slot.queue.len() + len;
        if queued > self.max {
            slot.flags.set(Flags::CLOSING);
            slot.rare().why = Some(Close::TooSlow);
            self.closes.push(token);
            self.stops += 1;
            return None;
        }
        let sent = if queued > self.high {
            slot.flags.set(Flags::HIGH);
            Sent::High
        } else {
            Sent::Queued
        };
        if slot.flags.newly(Flags::TOUCHED) {
            self.touched.push(token);
        }
        if slot.queue.wants_container()
            && let Some(container) = self.pool.take()
        {
            slot.queue.give_container(container);
        }
        self.queue_bytes += len;
        Some((&mut slot.queue, sent))
    }

    pub(super) fn send(&mut self, token: ConnToken, bytes: Bytes) -> Sent {
        let Some((queue, sent)) = self.admit(token, bytes.len()) else { return Sent::Closed };
        queue.push(bytes);
        sent
    }

    /// Queues what the marks have nothing to say about: closing bytes.
    pub(super) fn send_last(&mut self, token: ConnToken, bytes: Bytes) {
        if let Some(slot) = self.slots.get_mut(token) {
            self.queue_bytes += bytes.len();
            slot.queue.push(bytes);
        }
    }

    pub(super) fn send_ahead(&mut self, token: ConnToken, bytes: Bytes) -> Sent {
        let Some(slot) = self.slots.get_mut(token) else {
            self.counters.stale_mail.add(1);
            return Sent::Closed;
        };
        if slot.flags.has(Flags::CLOSING) {
            return Sent::Closed;
        }
        self.queue_bytes += bytes.len();
        let len = bytes.len();
        self.queue_bytes -= slot.queue.push_ahead(bytes);
        if slot.flags.has(Flags::PACED) {
            // It does not wait for the peer to read what is before it.
            let ahead = slot.queue.cut().saturating_add(len);
            if let Some(pace) = &mut slot.rare().pace {
                pace.lets(ahead);
            }
            slot.flags.clear(Flags::BLOCKED);
        }
        self.touch(token);
        Sent::Queued
    }

    pub(super) fn send_copy(&mut self, token: ConnToken, parts: &[&[u8]]) -> Sent {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if len > OUT_PIECE_MAX || self.out.len() + len > OUT_MAX {
            let Some((queue, sent)) = self.admit(token, len) else { return Sent::Closed };
            let mut bytes = Vec::with_capacity(len);
            parts.iter().for_each(|part| copy::append(&mut bytes, part));
            queue.push(bytes.into());
            return sent;
        }
        let start = self.out.len() as u32;
        let Some((queue, sent)) = self.admit(token, len) else { return Sent::Closed };
        queue.push_range(Range { buffer: OUT, start, end: start + len as u32 });
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
        sent
    }

    /// Queues a head and, behind it, a range of the lent buffer: both or neither.
    pub(super) fn forward(&mut self, token: ConnToken, head: &[u8], range: Range) -> Sent {
        let len = head.len() + range.len();
        let start = self.out.len();
        let fits = start + head.len() <= OUT_MAX;
        let Some((queue, sent)) = self.admit(token, len) else { return Sent::Closed };
        if fits {
            queue.push_range(Range { buffer: OUT, start: start as u32, end: (start + head.len()) as u32 });
        } else {
            queue.push(Bytes::copy_from_slice(head));
        }
        queue.push_range(range);
        if fits {
            self.out.extend_from_slice(head);
        }
        self.forwards += 1;
        sent
    }
}
