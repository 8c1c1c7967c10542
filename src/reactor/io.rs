//! What a protocol's callback can do: send, forward, pause, time, close. Owns the worker's connections ([`Core`]) apart
//! from the protocol, so that both can be borrowed at once. Makes no system call: a turn's phases do.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range as StdRange,
    sync::Arc,
};

use bytes::Bytes;

pub(super) use super::flags::Flags;
use super::{
    counters::WorkerCounters,
    options::Options,
    pace::Pace,
    protocol::Protocol,
    provisional::Provisional,
    sendq::{ARENA, OUT, Pool, Range, SendQueue},
    slots::Slots,
    stream::Stream,
    wheel::Wheel,
};
use crate::{
    base::{Close, ConnToken, Fault, Now, Sent},
    wire::copy,
};

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
    /// Bytes that must be there before input is worth a call.
    pub(super) need: u32,
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
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// The bytes lent to the input callback that is running.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lent {
    pub(super) buffer: u32,
    pub(super) start: u32,
    pub(super) len: u32,
}

/// The connections of a worker and everything about them that a callback may change.
pub(super) struct Core<P: Protocol> {
    pub(super) worker: u16,
    pub(super) now: Now,
    pub(super) slots: Slots<Slot<P::Conn>>,
    pub(super) wheel: Wheel,
    /// Queues with something new to write.
    pub(super) touched: Vec<ConnToken>,
    /// Connections that may have more to read.
    pub(super) ready: VecDeque<ConnToken>,
    /// Connections that somebody asked to close.
    pub(super) closes: Vec<ConnToken>,
    /// Small messages of this turn, one after the other.
    pub(super) out: Vec<u8>,
    /// Ranges of the lent buffer that were forwarded since the worker began.
    pub(super) forwards: u64,
    pub(super) queue_bytes: usize,
    /// Connections whose peers are given as much as they read, and when it is next looked whether they answer.
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
}

impl<P: Protocol> Core<P> {
    pub(super) fn new(
        worker: u16,
        now: Now,
        options: &Options,
        provisional: Provisional,
        counters: Arc<WorkerCounters>,
    ) -> Self {
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
            provisional,
            high: options.queue_high,
            low: options.queue_low,
            max: options.queue_max,
            pace_ms: options.pace_ms,
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
    fn admit_if(
        &mut self,
        token: ConnToken,
        len: usize,
        may: impl FnOnce(Option<&P::Conn>) -> bool,
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

    /// Queues what the marks have nothing to say about: last words.
    pub(super) fn send_last(&mut self, token: ConnToken, bytes: Bytes) {
        if let Some(slot) = self.slots.get_mut(token) {
            self.queue_bytes += bytes.len();
            slot.queue.push(bytes);
        }
    }

    fn send_ahead(&mut self, token: ConnToken, bytes: Bytes) -> Sent {
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

    fn send_copy(&mut self, token: ConnToken, parts: &[&[u8]]) -> Sent {
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
    fn forward(&mut self, token: ConnToken, head: &[u8], range: Range) -> Sent {
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

/// A callback's hands: what it can do to this worker's connections, its own (the current one) and all others. One value
/// lives as long as one callback.
///
/// Nothing here makes a system call or runs another callback. Where a token is stale, another worker's, or names a
/// connection that is closing, sends say [`Sent::Closed`] and what else would change something does nothing: a token may be
/// kept for as long as one likes. In [`mail`](Protocol::mail) and [`turn`](Protocol::turn) there is no current connection, and what is
/// meant for it goes nowhere in the same way.
pub struct Io<'a, P: Protocol> {
    pub(super) core: &'a mut Core<P>,
    token: ConnToken,
    lent: Lent,
}

/// Names nobody: the current connection of a callback that has none.
pub(super) const NOBODY: u64 = u64::MAX;

impl<'a, P: Protocol> Io<'a, P> {
    pub(super) fn new(core: &'a mut Core<P>, token: ConnToken, lent: Lent) -> Self {
        Self { core, token, lent }
    }

    /// The same hands for a shorter time.
    pub(super) fn reborrow(&mut self) -> Io<'_, P> {
        Io { core: &mut *self.core, token: self.token, lent: self.lent }
    }

    /// The current connection. In callbacks without one, a token that names nobody.
    pub fn token(&self) -> ConnToken {
        self.token
    }

    /// The time, read once a turn, after the poll.
    pub fn now(&self) -> Now {
        self.core.now
    }

    /// This worker's number, from 0.
    pub fn worker(&self) -> u16 {
        self.core.worker
    }

    /// This worker's counters. A protocol may add to those it counts itself; it must not touch the others.
    pub fn counters(&self) -> &WorkerCounters {
        &self.core.counters
    }

    /// Whether the loop drains: nobody is accepted any more.
    pub fn is_draining(&self) -> bool {
        self.core.draining
    }

    /// Sends to the current connection. See [`send_to`](Self::send_to).
    pub fn send(&mut self, bytes: Bytes) -> Sent {
        self.core.send(self.token, bytes)
    }

    /// Sends to a connection of this worker. `Bytes` are shared, not copied: the way for what goes to many, or is large
    /// and owned already. Empty ones count as sent.
    pub fn send_to(&mut self, token: ConnToken, bytes: Bytes) -> Sent {
        self.core.send(token, bytes)
    }

    /// Sends a copy of these parts, one after the other, all or none. For small messages this is the cheapest way: up to
    /// 16 KiB it does not allocate, as long as one turn writes less than 1 MiB so.
    pub fn write_to(&mut self, token: ConnToken, parts: &[&[u8]]) -> Sent {
        self.core.send_copy(token, parts)
    }

    /// Sends ahead of what waits for the connection, however much that is, behind the frame of which the kernel has taken a
    /// part ([`Protocol::frame_len`]). For a few bytes that must not wait behind data, such as a sign of life. There is
    /// one place ahead: bytes that still wait there give way to these, so that a peer which makes us send such things
    /// and reads nothing cannot make us keep many. The marks have nothing to say about it.
    pub fn send_ahead(&mut self, token: ConnToken, bytes: Bytes) -> Sent {
        self.core.send_ahead(token, bytes)
    }

    /// Sends a range of the bytes lent to this [`input`](Protocol::input) call to a connection of this worker, the current
    /// one included, without a copy: the range stays valid to the end of the turn, when it is written from where it
    /// lies. Bytes changed after this call are sent as changed.
    ///
    /// A range that continues the one forwarded to the same connection before it extends that one. What the kernel does
    /// not take at the end of the turn is copied then, once, into the connection's queue. (Where several pieces
    /// wait, those of at most 512 bytes are gathered for the write: at that size a copy is cheaper than a slice.) Whether
    /// the bytes are consumed by this call makes no difference.
    ///
    /// # Panics
    /// The range is not within the bytes lent, of which there are none in any other callback.
    pub fn forward(&mut self, token: ConnToken, range: StdRange<usize>) -> Sent {
        self.forward_behind(token, &[], range)
    }

    /// [`forward`](Self::forward) with a copied head, a few bytes, in front of the range: both are queued, or neither.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_behind(&mut self, token: ConnToken, head: &[u8], range: StdRange<usize>) -> Sent {
        let range = self.lent_range(range);
        self.core.forward(token, head, range)
    }

    /// [`forward`](Self::forward) where the connection's state, absent for the current one, says that it may be. One
    /// look-up for both.
    #[inline]
    pub(super) fn forward_if(
        &mut self,
        token: ConnToken,
        range: StdRange<usize>,
        may: impl FnOnce(Option<&P::Conn>) -> bool,
    ) -> Sent {
        let range = self.lent_range(range);
        let Some((queue, sent)) = self.core.admit_if(token, range.len(), may) else { return Sent::Closed };
        queue.push_range(range);
        self.core.forwards += 1;
        sent
    }

    fn lent_range(&self, range: StdRange<usize>) -> Range {
        assert!(range.start <= range.end && range.end <= self.lent.len as usize, "range outside of the bytes lent");
        let start = self.lent.start + range.start as u32;
        let end = self.lent.start + range.end as u32;
        Range { buffer: self.lent.buffer, start, end }
    }

    /// Queues what the marks have nothing to say about: a goodbye. Nothing is queued on a connection that closes.
    pub(super) fn last(&mut self, token: ConnToken, bytes: Bytes) {
        if self.is_open(token) {
            self.core.send_last(token, bytes);
            if let Some(slot) = self.core.slots.get_mut(token) {
                slot.rare().is_told = true;
            }
            self.core.touch(token);
        }
    }

    /// Runs `callback` with the bytes lent beginning at `from`.
    pub(super) fn within<R>(&mut self, from: usize, callback: impl FnOnce(&mut Io<'_, P>) -> R) -> R {
        let from = (from as u32).min(self.lent.len);
        let lent = Lent { start: self.lent.start + from, len: self.lent.len - from, ..self.lent };
        callback(&mut Io { core: &mut *self.core, token: self.token, lent })
    }

    /// The connections that are not closing and for which `wanted` says so; the state of the current one is absent.
    pub(super) fn open_where(
        &self,
        wanted: impl Fn(ConnToken, Option<&P::Conn>) -> bool,
    ) -> impl Iterator<Item = ConnToken> {
        let open = self.core.slots.iter().filter(|(_, slot)| !slot.flags.has(Flags::CLOSING));
        open.filter(move |(token, slot)| wanted(*token, slot.conn.as_ref())).map(|(token, _)| token)
    }

    /// The state of another connection of this worker. None for the current one (its state is in the callback's hands),
    /// for stale tokens, for other workers' tokens, and for connections that are closing.
    pub fn conn(&mut self, token: ConnToken) -> Option<&mut P::Conn> {
        let Some(slot) = self.core.slots.get_mut(token) else {
            self.core.counters.stale_mail.add(1);
            return None;
        };
        if slot.flags.has(Flags::CLOSING) { None } else { slot.conn.as_mut() }
    }

    /// Whether the token names a connection of this worker that is not closing, the current one included.
    pub fn is_open(&self, token: ConnToken) -> bool {
        self.core.slots.get(token).is_some_and(|slot| !slot.flags.has(Flags::CLOSING))
    }

    /// The connections of this worker that are not closing, in no order that means anything, the current one included. A
    /// list of its own, so that something can be done with each; it allocates, and takes as long as the worker has
    /// connections.
    pub fn tokens(&self) -> impl Iterator<Item = ConnToken> + use<P> {
        self.open_where(|_, _| true).collect::<Vec<_>>().into_iter()
    }

    /// The other connections of this worker that are not closing, with their state, in the same order.
    pub fn conns(&self) -> impl Iterator<Item = (ConnToken, &P::Conn)> {
        let open = self.core.slots.iter().filter(|(_, slot)| !slot.flags.has(Flags::CLOSING));
        open.filter_map(|(token, slot)| Some((token, slot.conn.as_ref()?)))
    }

    /// Bytes that wait to be written to the connection, what this turn has queued included; 0 for stale tokens.
    pub fn queued(&self, token: ConnToken) -> usize {
        self.core.slots.get(token).map_or(0, |slot| slot.queue.len())
    }

    /// Whether the kernel has refused bytes of the connection and takes no more, as of the last turn's write; the peer does
    /// not read, or not fast enough. A queue above its high mark that is not blocked is most often empty at the end of
    /// the turn.
    pub fn is_blocked(&self, token: ConnToken) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.flags.has(Flags::BLOCKED))
    }

    /// Whether the connection's peer is slow: no more is before it than it reads in a moment, so that what it takes does
    /// not show but by its answers to probes.
    pub(super) fn is_paced(&self, token: ConnToken) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.flags.has(Flags::PACED))
    }

    /// The peer has answered a probe ([`Protocol::probe`]): what was sent before it is read.
    pub fn answered(&mut self, token: ConnToken) {
        self.core.answered(token);
    }

    /// Whether the kernel has taken bytes of the connection again after it had refused some, since this was asked last: its
    /// peer is alive and reads, though it may say nothing. With [`Options::unsent_max`] this shows after every so many
    /// bytes that a slow peer takes.
    pub fn take_progress(&mut self, token: ConnToken) -> bool {
        self.core.slots.get_mut(token).is_some_and(|slot| slot.flags.take(Flags::MOVED))
    }

    /// Reads no more from the connection until [`resume`](Self::resume); what its peer sends fills the kernel's buffers, and
    /// then the peer waits. An input callback that pauses its own connection should return what it consumed so far: it
    /// is not interrupted. Pausing twice is pausing once: whoever has several reasons counts them. Timeouts still come,
    /// sends still go out, and a reset still closes; an end of file is seen only after the pause.
    pub fn pause(&mut self, token: ConnToken) {
        if let Some(slot) = self.core.slots.get_mut(token) {
            slot.flags.set(Flags::PAUSED);
            self.core.stops += 1;
        }
    }

    /// Reads again from a paused connection; what it kept is delivered first, even if nothing new came. Not before the
    /// caller has returned: at the latest in the next turn, which comes at once.
    pub fn resume(&mut self, token: ConnToken) {
        if let Some(slot) = self.core.slots.get_mut(token)
            && slot.flags.has(Flags::PAUSED)
        {
            slot.flags.clear(Flags::PAUSED);
            slot.flags.set(Flags::RESUMED);
            self.core.make_ready(token);
        }
    }

    /// Whether the connection is paused.
    pub fn is_paused(&self, token: ConnToken) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.flags.has(Flags::PAUSED))
    }

    /// Whether the current connection is paused, closing or gone. `stops` is kept by the caller, `None` at first: while
    /// nothing was stopped since the last look, this takes no look-up.
    #[inline]
    pub(super) fn is_stopped(&self, stops: &mut Option<u64>) -> bool {
        if *stops == Some(self.core.stops) {
            return false;
        }
        *stops = Some(self.core.stops);
        let Some(slot) = self.core.slots.get(self.token) else { return true };
        slot.flags.has(Flags::PAUSED | Flags::CLOSING)
    }

    /// Sets the one timeout of the connection to so many milliseconds from [`now`](Self::now), or to never, in place of
    /// what was set before. It fires once, not early and at most 16 ms late, plus what the turns in between take.
    pub fn set_timeout(&mut self, token: ConnToken, after_ms: Option<u64>) {
        match self.core.slots.get(token) {
            None => self.core.counters.stale_mail.add(1),
            Some(slot) if slot.flags.has(Flags::CLOSED) => {}
            Some(_) => match after_ms {
                Some(ms) => self.core.wheel.set(token.slot(), self.core.now.mono_ms.saturating_add(ms)),
                None => self.core.wheel.cancel(token.slot()),
            },
        }
    }

    /// Says that [`input`](Protocol::input) of the current connection is not worth a call before so many unconsumed bytes
    /// are there, those it is about to leave unconsumed included. Holds for the next call only. More than
    /// [`Options::kept_max`] can never come.
    pub fn need(&mut self, bytes: usize) {
        if let Some(slot) = self.core.slots.get_mut(self.token) {
            slot.need = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
    }

    /// Says that a connection may stay ([`Protocol::PROVISIONAL`]): it does not give way to new ones any more. False: there
    /// is no room for more that stay, or the token names nobody; whoever said it would be welcome should tell it so.
    pub fn confirm(&mut self, token: ConnToken) -> bool {
        self.core.confirm(token)
    }

    /// Whether [`confirm`](Self::confirm) would find room for the connection now.
    pub fn has_room(&self, token: ConnToken) -> bool {
        self.core.has_room(token)
    }

    /// A provisional connection got a step further on its way: it is passed over the next time that it would have to give
    /// way. So those who only come give way before those who get on.
    pub fn spare(&mut self, token: ConnToken) {
        self.core.spare(token);
    }

    /// Counts and logs that a connection is refused for want of room.
    pub(super) fn no_room(&mut self) {
        self.core.no_room();
    }

    /// Closes a connection of this worker: no callback but [`last_words`](Protocol::last_words) and
    /// [`closed`](Protocol::closed) comes for it any more, what is queued is flushed within the linger time. The first reason
    /// counts. The reason is for those two and for the counters; a raw protocol's peer sees nothing of its code.
    pub fn close(&mut self, token: ConnToken, why: Close) {
        self.core.close(token, why);
    }

    /// Closes for a peer's fault, as an error of a callback does for its own connection.
    pub fn fault(&mut self, token: ConnToken, fault: Fault) {
        self.core.close(token, Close::Fault(fault));
    }
}

pub(super) const LENT_ARENA: u32 = ARENA;
