//! What a host implements, one value of [`Protocol`] for each worker, and what its callbacks can do, [`Io`]: send, forward,
//! pause, time, close. When each callback comes is told in the module's own documentation, [`reactor`](super).

use std::ops::Range as StdRange;

use bytes::Bytes;

use super::{
    connections::{Core, Flags},
    counters::WorkerCounters,
    options::Peer,
    sendq::Range,
};
use crate::base::{Close, ConnToken, Fault, Now, Sent};

/// A connection that is not wanted. [`Refuse::default`] says nothing to it.
#[derive(Clone, Debug, Default)]
pub struct Refuse {
    /// What it is told before it is closed; may be empty.
    pub bytes: Bytes,
}

/// A protocol on the loop: raw bytes in, raw bytes out, one value for each worker, called by that worker's thread only.
///
/// A callback must not block: no file, no signature, no process call. Callbacks never run inside of each other. A panic
/// in a callback that has a connection closes that connection; its state may be half changed when
/// [`closed`](Self::closed) gets it. A panic in [`mail`](Self::mail) or [`turn`](Self::turn) ends the worker, the
/// others drain and [`Handle::join`](super::Handle::join) reports it.
pub trait Protocol: Sized + Send + 'static {
    /// State of a connection, kept in the worker's slab: it never leaves that thread, and it is paid for by each idle
    /// connection, so large and rare parts are better boxed.
    type Conn;
    /// What other threads may send a worker by its [`Mailer`](super::Mailer). `()` where none do.
    type Mail: Send + 'static;

    /// Whether a connection of a TCP listener is provisional until [`Io::confirm`] says that it may stay. It counts
    /// among [`Options::provisional_max`](super::Options::provisional_max). Where these are so many and a new
    /// connection comes, the provisional one that has waited longest is closed, for the reason [`Close::Local`] with
    /// 1013. So peers that prove nothing do not keep others out. By default all may stay, and where there is no room
    /// more wait in the kernel.
    const PROVISIONAL: bool = false;

    /// A connection came; `io.token()` names it, and it may be sent to, timed and closed from here on. Its first
    /// [`input`](Self::input) comes in a later turn.
    ///
    /// # Errors
    /// It is not wanted: it is told what the refusal says, and closed. No other callback comes for it, `closed` neither.
    fn accept(&mut self, io: &mut Io<'_, Self>, peer: &Peer) -> Result<Self::Conn, Refuse>;

    /// Bytes came: all that were not consumed yet, with what was read now behind them. Says how many of them it consumed,
    /// and should take all whole messages that are there, because the next call comes when the peer has sent more; the
    /// rest is kept and comes again in front of that ([`Io::need`] says how much must be there before it is worth a call).
    /// `bytes` may be changed in place, and changes of what is not consumed are kept. Ranges of `bytes` can be
    /// forwarded ([`Io::forward`]) as long as this call lasts.
    ///
    /// After [`Io::resume`] it comes with what was kept, even if nothing new has arrived. A number above `bytes.len()` is
    /// a mistake of the protocol: it counts as all, and debug builds panic.
    ///
    /// # Errors
    /// The peer's fault, which closes the connection.
    fn input(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault>;

    /// Bytes of a paused connection that are read all the same, up to so many unconsumed ones, so that [`held`](Self::held)
    /// can look at them. 0, the default, reads nothing while a connection is paused.
    const HELD_MAX: usize = 0;

    /// Bytes came while the connection is paused: all that wait for [`input`](Self::input), to be looked at and left. It may
    /// change them in place. Only where [`HELD_MAX`](Self::HELD_MAX) is above 0.
    fn held(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>, bytes: &mut [u8]) {
        let _ = (conn, io, bytes);
    }

    /// The peer sends no more; it may still read. What `input` did not consume is not offered again, nor is what
    /// [`Io::need`] held back. By default that closes the connection; a protocol that keeps it open to finish its answer
    /// closes it itself, or learns of a peer that is gone by `closed`. Not called for a connection that was reset
    /// ([`Close::Broken`]), nor while it is paused.
    fn eof(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        let _ = conn;
        io.close(io.token(), Close::Peer(None));
    }

    /// Mail came from another thread, or from this one. There is no current connection.
    fn mail(&mut self, io: &mut Io<'_, Self>, mail: Self::Mail) {
        let _ = (io, mail);
    }

    /// The time set with [`Io::set_timeout`] has come; it comes once. Also while the connection is paused. By default that
    /// closes the connection.
    ///
    /// # Errors
    /// A fault closes the connection.
    fn timeout(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) -> Result<(), Fault> {
        let _ = conn;
        io.close(io.token(), Close::TimedOut);
        Ok(())
    }

    /// The send queue was above the high mark ([`Sent::High`]) and is at the low mark or below: go on with what was
    /// held back, and [`resume`](Io::resume) the connections that were paused for this one.
    fn writable(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        let _ = (conn, io);
    }

    /// The loop begins to drain: say goodbye and close, at once or when what is being done is done, but within
    /// [`Options::grace_ms`](super::Options::grace_ms). By default that closes the connection at once.
    fn shutdown(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        let _ = conn;
        io.close(io.token(), Close::Drain);
    }

    /// What to send last on a connection that is closed for this reason. It is queued behind everything else, whatever the
    /// marks say; where a slow peer ([`probe`](Self::probe)) is [`TooSlow`](Close::TooSlow) it is sent instead of that. Not
    /// asked for where nothing can be written any more. It has no `self`: words depend on the connection alone.
    fn closing_bytes(conn: &Self::Conn, why: &Close) -> Bytes {
        let _ = (conn, why);
        Bytes::new()
    }

    /// The length of the frame that begins here, of what this protocol sends, for [`Io::send_ahead`]: bytes go ahead
    /// between two frames, never into one. A frame is sent by one call, or by several of one callback; of `bytes` there is
    /// as much as came in one call, and more may follow. None, the default, where a protocol has no frames: then nothing
    /// goes ahead of bytes of which the kernel has taken a part. Asked only for a connection that takes less than it is
    /// sent.
    fn frame_len(bytes: &[u8]) -> Option<usize> {
        let _ = bytes;
        None
    }

    /// A frame that the peer's program answers when it has read it, which is told by [`Io::answered`]. It is sent once
    /// [`Io::answers_probes`] was called: to a new peer, and to a peer after the kernel has refused bytes of its
    /// connection. With it no more is before a peer than it reads in a few seconds: what is sent ahead is worth nothing
    /// behind the megabytes that a peer's system takes. Empty, the default, where there is no such frame: then the
    /// kernel is given all that it takes. Needs [`frame_len`](Self::frame_len).
    fn probe() -> Bytes {
        Bytes::new()
    }

    /// The connection is over, for the first reason that was given; its token is stale from here on. What is queued is still
    /// flushed. No [`Io`] here; notify other connections from [`turn`](Self::turn), which follows
    /// in this turn or in the next one, without a sleep between.
    fn closed(&mut self, conn: Self::Conn, token: ConnToken, why: Close) {
        let _ = (conn, token, why);
    }

    /// The end of a turn, before what was queued in it is written: the place for messages to other threads, and for
    /// what [`closed`](Self::closed) left to tell. Called in every turn, so it should find out at once that there is
    /// nothing to do. There is no current connection.
    fn turn(&mut self, io: &mut Io<'_, Self>) {
        let _ = io;
    }
}

/// The bytes lent to the input callback that is running.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lent {
    pub(super) buffer: u32,
    pub(super) start: u32,
    pub(super) len: u32,
}

/// Handle passed to callbacks; operates on this worker's connections, its own (the current one) and all others. One value
/// lives as long as one callback.
///
/// Nothing here makes a system call or runs another callback. Where a token is stale, another worker's, or names a
/// connection that is closing, sends say [`Sent::Closed`] and what else would change something does nothing: a token may be
/// kept for as long as one likes. In [`mail`](Protocol::mail) and [`turn`](Protocol::turn) there is no current connection, and what is
/// meant for it goes nowhere in the same way.
pub struct Io<'a, P: Protocol> {
    pub(super) core: &'a mut Core<P::Conn>,
    token: ConnToken,
    lent: Lent,
}

/// Names no connection: the current one of a callback that has none.
pub(super) const NOBODY: u64 = u64::MAX;

impl<'a, P: Protocol> Io<'a, P> {
    pub(super) fn new(core: &'a mut Core<P::Conn>, token: ConnToken, lent: Lent) -> Self {
        Self { core, token, lent }
    }

    /// The same hands for a shorter time.
    pub(super) fn reborrow(&mut self) -> Io<'_, P> {
        Io { core: &mut *self.core, token: self.token, lent: self.lent }
    }

    /// The current connection. In callbacks without one, a token that names none.
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

    /// Whether the loop drains: no connection is accepted any more.
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

    /// Bytes that the kernel has taken of the connection since something waits to be written to it; 0 for stale tokens. What
    /// is queued meanwhile does not hide that.
    pub fn taken(&self, token: ConnToken) -> u64 {
        self.core.slots.get(token).map_or(0, |slot| slot.queue.taken())
    }

    /// Whether the kernel has refused bytes of the connection and takes no more, as of the last turn's write; the peer does
    /// not read, or not fast enough. A queue above its high mark that is not blocked is most often empty at the end of
    /// the turn.
    pub fn is_blocked(&self, token: ConnToken) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.flags.has(Flags::BLOCKED))
    }

    /// Whether it is [blocked](Self::is_blocked), or more than so many bytes wait for it: the kernel is asked at the end of the
    /// turn, which may put much more into a queue before.
    pub fn is_blocked_or_above(&self, token: ConnToken, bytes: usize) -> bool {
        let slot = self.core.slots.get(token);
        slot.is_some_and(|slot| slot.flags.has(Flags::BLOCKED) || slot.queue.len() > bytes)
    }

    /// Whether the connection's peer is slow: no more is before it than it reads in a moment, so that what it takes does
    /// not show but by its answers to probes.
    pub(super) fn is_slow(&self, token: ConnToken) -> bool {
        self.core.is_slow(token)
    }

    /// Whether the connection's peer is new and has yet to show that it reads. Little is before it at first, so that
    /// [`is_blocked`](Self::is_blocked) tells nothing of how it reads.
    pub fn is_unproved(&self, token: ConnToken) -> bool {
        self.core.is_unproved(token)
    }

    /// The current connection's peer answers probes ([`Protocol::probe`]) from now on; nothing is sent ahead of what waits for
    /// it now. It is given 8 KiB before it is asked whether it reads.
    pub fn answers_probes(&mut self) {
        self.core.answers_probes(self.token);
    }

    /// The peer has answered a probe ([`Protocol::probe`]): what was sent before it is read. `is_busy`: it sends much itself, so
    /// that when the answer came says nothing.
    pub fn answered(&mut self, token: ConnToken, is_busy: bool) {
        self.core.answered(token, is_busy);
    }

    /// Whether the kernel has taken bytes of the connection again after it had refused some, since this was asked last: its
    /// peer is alive and reads, though it may say nothing. With [`Options::unsent_max`](super::Options::unsent_max) this
    /// shows after every so many bytes that a slow peer takes.
    pub fn take_progress(&mut self, token: ConnToken) -> bool {
        self.core.slots.get_mut(token).is_some_and(|slot| slot.flags.take(Flags::MOVED))
    }

    /// Reads no more from the connection until [`resume`](Self::resume); what its peer sends fills the kernel's
    /// buffers, and then the peer waits. An input callback that pauses its own connection should return what it
    /// consumed so far: it is not interrupted. Pausing twice is pausing once: a caller with several reasons counts
    /// them. Timeouts still come, sends still go out, and a reset still closes; an end of file is seen only after the
    /// pause.
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

    /// Has what [`input`](Protocol::input) leaves of its bytes come to it again in the next turn, which comes at once, though
    /// nothing new came: for input that makes more work than one turn is to do.
    pub fn again(&mut self) {
        if let Some(slot) = self.core.slots.get_mut(self.token) {
            slot.flags.set(Flags::RESUMED);
            self.core.make_ready(self.token);
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
    /// [`Options::kept_max`](super::Options::kept_max) can never come.
    pub fn need(&mut self, bytes: usize) {
        if let Some(slot) = self.core.slots.get_mut(self.token) {
            slot.need = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
    }

    /// Says that a connection may stay ([`Protocol::PROVISIONAL`]): it does not give way to new ones any more. False:
    /// there is no room for more that stay, or the token names none. A peer that was about to be welcomed should then
    /// be told so.
    pub fn confirm(&mut self, token: ConnToken) -> bool {
        self.core.confirm(token)
    }

    /// Whether [`confirm`](Self::confirm) would find room for the connection now.
    pub fn has_room(&self, token: ConnToken) -> bool {
        self.core.has_room(token)
    }

    /// A provisional connection got a step further on its way: it is passed over the next time that it would have to
    /// give way. So connections that do not get on give way first.
    pub fn spare(&mut self, token: ConnToken) {
        self.core.spare(token);
    }

    /// Counts and logs that a connection is refused for want of room.
    pub(super) fn no_room(&mut self) {
        self.core.no_room();
    }

    /// Closes a connection of this worker: no callback but [`closing_bytes`](Protocol::closing_bytes) and
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
