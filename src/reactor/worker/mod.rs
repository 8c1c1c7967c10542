//! One worker: a thread's poll, connections and protocol, and the order of a turn's phases. Owns every system call of
//! its connections; knows nothing of what the bytes mean.
//!
//! The order of a turn is promised to protocols and told in the [`reactor`](super) module's documentation. Each phase is
//! bounded, and what it leaves makes the next poll return at once.

mod accept;
mod close;
mod read;

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mio::{Events, Poll, Token};

use super::{
    clock::{NS_PER_S, TurnClock},
    connections::{Core, Flags},
    counters::{TURN_BUCKETS, WorkerCounters},
    inbox::{Receiver, Sender},
    listen::Listener,
    options::Options,
    protocol::{Io, Lent, NOBODY, Protocol},
    sendq::{Scratch, TurnBuffers},
    shared::{InboxItem, Shared},
    stream::Accepted,
};
use crate::base::{Close, ConnToken};

/// Events of one poll.
const EVENTS_MAX: usize = 1_024;
/// Mail handled in one turn.
const MAIL_MAX: usize = 1_024;
/// The poll token of the inbox's waker.
pub(super) const WAKER: Token = Token(usize::MAX);
/// Listener `i` has the token `LISTENERS - i`. No connection has such a token: the last worker number is not used.
const LISTENERS: usize = usize::MAX - 1;
const _: () = assert!(size_of::<usize>() == size_of::<u64>(), "a poll token carries a connection token");

/// Whether a worker has more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Call again.
    Running,
    /// Drained or stopped: every connection and listener is gone. There is nothing to come; drop the worker.
    Done,
}

/// Memory that connections share within a turn.
struct Memory {
    arena: Box<[u8]>,
    /// The arena is in use up to here.
    used: usize,
    /// Messages that were larger than the arena allows, kept to the end of the turn because they were forwarded.
    large: Vec<Vec<u8>>,
    scratch: Scratch,
}

/// One worker of the loop. [`Bound::start`](super::Bound::start) runs workers on threads of their own; a host with a
/// loop of its own calls [`turn`](Self::turn) instead, and may sleep on the descriptor ([`AsFd`]) in between if it says so
/// ([`arm`](Self::arm)). Dropping a worker closes its connections without a callback.
pub struct Worker<P: Protocol> {
    protocol: P,
    core: Core<P::Conn>,
    poll: Poll,
    events: Events,
    listeners: Vec<Listener>,
    inbox: Receiver<InboxItem<P::Mail>>,
    /// All workers' inboxes, to hand streams over.
    inboxes: Vec<Sender<InboxItem<P::Mail>>>,
    next_inbox: usize,
    shared: Arc<Shared>,
    memory: Memory,
    fired: Vec<u32>,
    drained: Vec<ConnToken>,
    /// A callback ran after the protocol's `turn`: what it left to tell goes out in the next turn, without a sleep.
    told_late: bool,
    /// Closed connections with a queue that is empty now.
    emptied: Vec<ConnToken>,
    freed: Vec<ConnToken>,
    gate: accept::Gate,
    /// A stream that waits until another connection has given way to it.
    parked: Option<Accepted>,
    clock: TurnClock,
    saturation: Saturation,
    kept_bytes: usize,
    kept_max: usize,
    linger_ms: u64,
    grace_ms: u64,
    drain_ends_ms: u64,
}

/// What a worker is made of before its protocol is there.
pub(super) struct Parts<M> {
    pub(super) poll: Poll,
    pub(super) listeners: Vec<Listener>,
    pub(super) inbox: Receiver<InboxItem<M>>,
    pub(super) inboxes: Vec<Sender<InboxItem<M>>>,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) worker: u16,
}

/// Busy time by the second.
#[derive(Default)]
struct Saturation {
    window_ns: Option<u64>,
    busy_ns: u64,
}

impl<P: Protocol> Worker<P> {
    pub(super) fn new(parts: Parts<P::Mail>, options: &Options, protocol: P) -> io::Result<Self> {
        let Parts { poll, mut listeners, inbox, inboxes, shared, counters, worker } = parts;
        for (index, listener) in listeners.iter_mut().enumerate() {
            listener.register(poll.registry(), Token(LISTENERS - index))?;
        }
        let mut clock = TurnClock::new();
        let now = clock.at(clock.read_ns());
        Ok(Self {
            protocol,
            core: Core::new(worker, now, options, inboxes.len(), counters),
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            listeners,
            inbox,
            next_inbox: 0,
            inboxes,
            shared,
            memory: Memory {
                arena: vec![0; options.read_buffer.clamp(read::ARENA_MIN, u32::MAX as usize)].into_boxed_slice(),
                used: 0,
                large: Vec::new(),
                scratch: Scratch::default(),
            },
            fired: Vec::new(),
            drained: Vec::new(),
            told_late: false,
            emptied: Vec::new(),
            freed: Vec::new(),
            gate: accept::Gate::default(),
            parked: None,
            clock,
            saturation: Saturation::default(),
            kept_bytes: 0,
            // Ranges of a kept message are counted in 32 bits.
            kept_max: options.kept_max.min(u32::MAX as usize),
            linger_ms: options.linger_ms,
            grace_ms: options.grace_ms,
            drain_ends_ms: u64::MAX,
        })
    }

    /// The protocol, to look at between turns.
    pub fn protocol(&mut self) -> &mut P {
        &mut self.protocol
    }

    /// One turn of the loop; sleeps at most `max_wait` (for ever without) when there is nothing to do. With a wait of zero
    /// it does what is there and returns.
    ///
    /// # Errors
    /// The poll fails, which only a broken system does.
    ///
    /// # Panics
    /// With the panic of [`mail`](Protocol::mail) or [`turn`](Protocol::turn): drop the worker then, and drain the others.
    pub fn turn(&mut self, max_wait: Option<Duration>) -> io::Result<Turn> {
        self.sleep(max_wait)?;
        let began_ns = self.clock.read_ns();
        self.core.now = self.clock.at(began_ns);
        if self.shared.stop.load(Ordering::Acquire) {
            return Ok(self.cut_off());
        }
        if self.shared.drain.load(Ordering::Acquire) && !self.core.draining {
            self.begin_drain();
        }
        self.take_events();
        self.take_mail();
        self.read_ready();
        self.run_timers();
        self.close_asked();
        self.told_late = false;
        self.protocol.turn(&mut Io::new(&mut self.core, ConnToken::from_bits(NOBODY), Lent::default()));
        self.close_asked();
        self.flush();
        self.report_drained();
        self.accept();
        self.close_asked();
        self.flush();
        self.free_closed();
        self.memory.used = 0;
        self.memory.large.clear();
        self.core.out.clear();
        self.measure(began_ns);
        if self.core.draining {
            if self.core.slots.len() == 0 {
                return Ok(Turn::Done);
            }
            if self.core.now.mono_ms >= self.drain_ends_ms {
                return Ok(self.cut_off());
            }
        }
        Ok(Turn::Running)
    }

    /// Says that the host is about to sleep on the descriptor, and for how long at most: None is for ever. Until the
    /// next turn, mail makes the descriptor readable; without this call it need not, because senders wake only a worker
    /// that sleeps.
    ///
    /// ```
    /// # use std::{os::fd::AsFd, time::Duration};
    /// # use amp_relay::reactor::{Protocol, Turn, Worker};
    /// # fn host<P: Protocol>(mut worker: Worker<P>, sleep: impl Fn(std::os::fd::BorrowedFd<'_>, Option<Duration>)) {
    /// loop {
    ///     let wait = worker.arm();
    ///     sleep(worker.as_fd(), wait); // poll(2), or wherever the host sleeps
    ///     match worker.turn(Some(Duration::ZERO)) {
    ///         Ok(Turn::Running) => {}
    ///         Ok(Turn::Done) | Err(_) => break,
    ///     }
    /// }
    /// # }
    /// ```
    pub fn arm(&self) -> Option<Duration> {
        if !self.has_work() && self.inbox.sleep_begin() { self.shorten(None) } else { Some(Duration::ZERO) }
    }

    /// Polls, and sleeps only if nothing is left to do and no mail was sent meanwhile.
    fn sleep(&mut self, max_wait: Option<Duration>) -> io::Result<()> {
        let wait = if self.has_work() { Some(Duration::ZERO) } else { self.shorten(max_wait) };
        let wait = match wait {
            Some(Duration::ZERO) => Some(Duration::ZERO),
            wait if self.inbox.sleep_begin() => wait,
            _ => Some(Duration::ZERO),
        };
        let polled = self.poll.poll(&mut self.events, wait);
        self.inbox.sleep_end();
        match polled {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            other => other,
        }
    }

    fn has_work(&self) -> bool {
        !self.core.ready.is_empty()
            || !self.core.closes.is_empty()
            || !self.core.touched.is_empty()
            || !self.drained.is_empty()
            || self.told_late
            || !self.inbox.is_empty()
            || self.can_accept()
    }

    /// The longest sleep that misses no deadline.
    fn shorten(&self, max_wait: Option<Duration>) -> Option<Duration> {
        let now_ms = self.core.now.mono_ms;
        let in_ms = |wait_ms: Option<u64>| wait_ms.unwrap_or(u64::MAX);
        // As a rule both of these are never.
        let rare_ms = self.drain_ends_ms.min(self.core.paced_at_ms).saturating_sub(now_ms);
        let wait_ms = in_ms(self.core.wheel.wait_ms(now_ms)).min(in_ms(self.gate.wait_ms(now_ms))).min(rare_ms);
        match max_wait {
            _ if wait_ms > u64::MAX / 2 => max_wait,
            None => Some(Duration::from_millis(wait_ms)),
            Some(most) => Some(most.min(Duration::from_millis(wait_ms))),
        }
    }

    fn take_events(&mut self) {
        for event in &self.events {
            let token = event.token();
            if token == WAKER {
                continue;
            }
            if LISTENERS - token.0 < self.listeners.len() {
                self.listeners[LISTENERS - token.0].pending = true;
                continue;
            }
            let token = ConnToken::from_bits(token.0 as u64);
            let Some(slot) = self.core.slots.get_mut(token) else {
                self.core.counters.stale_events.add(1);
                continue;
            };
            if event.is_read_closed() || event.is_error() {
                slot.flags.set(Flags::HUP);
            }
            let gone = event.is_error() || (event.is_read_closed() && event.is_write_closed());
            if event.is_writable() && slot.flags.has(Flags::BLOCKED) {
                slot.flags.clear(Flags::BLOCKED);
                slot.flags.set(Flags::MOVED);
                self.core.moves(token);
            } else if gone && (slot.flags.has(Flags::EOF) || slot.is_held()) {
                // A paused connection, or one that was read to its end, is not read: no read would find out.
                self.core.break_off(token, Close::Broken);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.core.make_ready(token);
            }
        }
    }

    fn take_mail(&mut self) {
        for taken in 0..MAIL_MAX {
            match self.inbox.try_recv() {
                None if taken == 0 => return,
                None => break,
                Some(InboxItem::Mail(mail)) => {
                    self.core.counters.mail.add(1);
                    let mut io = Io::new(&mut self.core, ConnToken::from_bits(NOBODY), Lent::default());
                    self.protocol.mail(&mut io, mail);
                }
                Some(InboxItem::Stream(accepted)) => self.adopt(accepted),
            }
        }
        self.inbox.room_made();
    }

    fn run_timers(&mut self) {
        if self.core.now.mono_ms >= self.core.paced_at_ms {
            self.core.look_at_paced();
        }
        let mut fired = std::mem::take(&mut self.fired);
        self.core.wheel.advance(self.core.now.mono_ms, &mut fired);
        for key in fired.drain(..) {
            let Some(token) = self.core.slots.token_at(key) else { continue };
            let Some(slot) = self.core.slots.get_mut(token) else { continue };
            if slot.flags.has(Flags::CLOSED) {
                if slot.flags.take(Flags::MOVED) && !slot.flags.has(Flags::PROVISIONAL) {
                    // It still takes what is queued, which comes to an end.
                    self.linger(token);
                } else {
                    self.core.break_off(token, Close::TimedOut);
                }
                continue;
            }
            let called =
                call(&mut self.protocol, &mut self.core, token, Lent::default(), |p, conn, io| p.timeout(conn, io));
            if let Some(Err(fault)) = called {
                self.core.close(token, Close::Fault(fault));
            }
        }
        self.fired = fired;
    }

    /// Writes every touched queue once. What the kernel refuses becomes owned.
    fn flush(&mut self) {
        let mut touched = std::mem::take(&mut self.core.touched);
        let Memory { arena, large, scratch, .. } = &mut self.memory;
        for token in touched.drain(..) {
            let core = &mut self.core;
            let turn = TurnBuffers { arena, out: &core.out, large };
            let Some(slot) = core.slots.get_mut(token) else { continue };
            slot.flags.clear(Flags::TOUCHED);
            if slot.flags.has(Flags::DEAD) {
                continue;
            }
            if slot.flags.has(Flags::BLOCKED) {
                slot.queue.own(&turn);
                continue;
            }
            let is_paced = slot.flags.has(Flags::PACED);
            let most = if is_paced {
                let (most, asked) = slot.may_have(P::probe, core.now.mono_ms, core.patience_ms);
                if let Some(bytes) = asked {
                    core.queue_bytes += bytes;
                    core.paced.insert(token);
                    core.paced_at_ms = core.paced_at_ms.min(core.now.mono_ms.saturating_add(core.pace_ms));
                }
                most
            } else {
                usize::MAX
            };
            match slot.queue.write(&mut slot.stream, &turn, scratch, most, P::frame_len) {
                Ok(wrote) => {
                    core.counters.bytes_out.add(wrote.bytes as u64);
                    core.counters.writes.add(wrote.calls);
                    core.queue_bytes -= wrote.bytes;
                    if is_paced && let Some(pace) = &mut slot.rare().pace {
                        pace.wrote(wrote.bytes);
                    }
                    if wrote.blocked {
                        slot.flags.set(Flags::BLOCKED);
                        slot.rare().blocked_ms = core.now.mono_ms;
                        slot.queue.own(&turn);
                    } else {
                        core.pool.recycle(&mut slot.queue);
                    }
                    if slot.flags.has(Flags::HIGH) && slot.queue.len() <= core.low {
                        slot.flags.clear(Flags::HIGH);
                        self.drained.push(token);
                    }
                    if slot.flags.has(Flags::CLOSED) && slot.queue.is_empty() {
                        self.emptied.push(token);
                    }
                }
                Err(wrote) => {
                    core.counters.bytes_out.add(wrote as u64);
                    core.queue_bytes -= wrote + slot.queue.len();
                    slot.queue.clear();
                    core.break_off(token, Close::Broken);
                }
            }
        }
        while let Some(token) = self.emptied.pop() {
            self.flushed(token);
        }
        // Closes that the loop above asked for may have touched nothing; the container is given back either way.
        if self.core.touched.is_empty() {
            self.core.touched = touched;
        }
    }

    fn report_drained(&mut self) {
        let mut drained = std::mem::take(&mut self.drained);
        self.told_late |= !drained.is_empty();
        for token in drained.drain(..) {
            call(&mut self.protocol, &mut self.core, token, Lent::default(), |p, conn, io| p.writable(conn, io));
        }
        if self.drained.is_empty() {
            self.drained = drained;
        }
    }

    /// The second and last clock reading of a turn: what it cost.
    fn measure(&mut self, began_ns: u64) {
        let ended_ns = self.clock.read_ns();
        let ns = ended_ns - began_ns;
        let counters = &self.core.counters;
        let bucket = (63 - u64::leading_zeros(ns | 1) as usize).min(TURN_BUCKETS - 1);
        counters.turn_ns[bucket].add(1);
        counters.turns.add(1);
        counters.busy_ns.add(ns);
        counters.open.set(self.core.slots.len() as u64);
        counters.provisional.set(self.core.provisional.len() as u64);
        counters.queue_bytes.set(self.core.queue_bytes as u64);
        counters.kept_bytes.set(self.kept_bytes as u64);
        counters.wakes.set(self.inbox.wakes());
        counters.inbox_full.set(self.inbox.full());
        let window_ns = *self.saturation.window_ns.get_or_insert(began_ns);
        self.saturation.busy_ns += ns;
        let span_ns = ended_ns - window_ns;
        if span_ns >= NS_PER_S {
            // 95 %.
            if self.saturation.busy_ns >= span_ns / 20 * 19 {
                counters.saturated_s.add(span_ns / NS_PER_S);
            }
            self.saturation = Saturation { window_ns: Some(ended_ns), busy_ns: 0 };
        }
    }
}

impl<P: Protocol> fmt::Debug for Worker<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (worker, open) = (self.core.worker, self.core.slots.len());
        f.debug_struct("Worker").field("worker", &worker).field("open", &open).finish_non_exhaustive()
    }
}

impl<P: Protocol> AsFd for Worker<P> {
    /// The poll's descriptor: readable when something came from outside since the last turn. Timers and what a turn has left
    /// to do do not make it so; [`arm`](Worker::arm) says how long they can wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

/// Runs a callback of an open connection. A panic closes that connection and nothing else.
fn call<P: Protocol, R>(
    protocol: &mut P,
    core: &mut Core<P::Conn>,
    token: ConnToken,
    lent: Lent,
    callback: impl FnOnce(&mut P, &mut P::Conn, &mut Io<'_, P>) -> R,
) -> Option<R> {
    let slot = core.slots.get_mut(token)?;
    if slot.flags.has(Flags::CLOSING) {
        return None;
    }
    let mut conn = slot.conn.take()?;
    let result = catch_unwind(AssertUnwindSafe(|| callback(protocol, &mut conn, &mut Io::new(core, token, lent))));
    if let Some(slot) = core.slots.get_mut(token) {
        slot.conn = Some(conn);
    }
    match result {
        Ok(value) => Some(value),
        Err(_) => {
            core.counters.panics.add(1);
            log::error!(conn:% = token; "a callback panicked; its connection is closed");
            core.close(token, Close::Panicked);
            None
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
