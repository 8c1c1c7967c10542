//! What a host implements: one value of [`Protocol`] for each worker. When each callback comes is told in the module's
//! own documentation, [`reactor`](super).

use bytes::Bytes;

use super::{io::Io, options::Peer};
use crate::base::{Close, ConnToken, Fault};

/// A connection that is not wanted. [`Refuse::default`] says nothing to it.
#[derive(Clone, Debug, Default)]
pub struct Refuse {
    /// What it is told before it is closed; may be empty.
    pub say: Bytes,
}

/// A protocol on the loop: raw bytes in, raw bytes out, one value for each worker, called by that worker's thread only.
///
/// A callback must not block: no file, no signature, no process call. Callbacks never run inside of each other. A panic in a
/// callback that has a connection closes that connection, whose state may be half changed when [`closed`](Self::closed)
/// gets it; a panic in [`mail`](Self::mail) or [`turn`](Self::turn) ends the worker, the others drain and
/// [`Handle::join`](super::Handle::join) reports it.
pub trait Protocol: Sized + Send + 'static {
    /// State of a connection, kept in the worker's slab: it never leaves that thread, and it is paid for by each idle
    /// connection, so large and rare parts are better boxed.
    type Conn;
    /// What other threads may send a worker by its [`Mailer`](super::Mailer). `()` where nobody does.
    type Mail: Send + 'static;

    /// Whether a connection of a TCP listener is provisional until [`Io::confirm`] says that it may stay: it counts among
    /// [`Options::provisional_max`](super::Options::provisional_max), and where these are so many, the one that has been
    /// waiting for the longest time is closed, for the reason [`Close::Local`] with 1013, when a new one comes. So peers
    /// that prove nothing keep nobody out. By default all may stay, and where there is no room more wait in the kernel.
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

    /// The send queue was above the high mark ([`Sent::High`](super::Sent::High)) and is at the low mark or below: go on
    /// with what was held back, and [`resume`](Io::resume) who was paused for this connection.
    fn drained(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        let _ = (conn, io);
    }

    /// The loop begins to drain: say goodbye and close, at once or when what is being done is done, but within
    /// [`Options::grace_ms`](super::Options::grace_ms). By default that closes the connection at once.
    fn drain(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        let _ = conn;
        io.close(io.token(), Close::Drain);
    }

    /// What to send last on a connection that is closed for this reason. It is queued behind everything else, whatever the
    /// marks say; where a slow peer ([`probe`](Self::probe)) is [`TooSlow`](Close::TooSlow) it is sent instead of that. Not
    /// asked for where nothing can be written any more. It has no `self`: words depend on the connection alone.
    fn last_words(conn: &Self::Conn, why: &Close) -> Bytes {
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

    /// A frame that the peer's program answers when it has read it, which is told by [`Io::answered`]. Sent to a peer whose
    /// connection the kernel has refused bytes of, so that no more is before it than it reads in a few seconds: what is
    /// sent ahead is worth nothing behind the megabytes that a peer's system takes. Empty, the default, where there is no
    /// such frame: then the kernel is given all that it takes. Needs [`frame_len`](Self::frame_len).
    fn probe() -> Bytes {
        Bytes::new()
    }

    /// The connection is over, for the first reason that was given; its token is stale from here on. What is queued is still
    /// flushed. There are no hands here: what others should learn of it is told in [`turn`](Self::turn), which follows
    /// in this turn or in the next one, without a sleep between.
    fn closed(&mut self, conn: Self::Conn, token: ConnToken, why: Close) {
        let _ = (conn, token, why);
    }

    /// The end of a turn, before what was queued in it is written: the place for couriers to other threads, and for
    /// what [`closed`](Self::closed) left to tell. Called in every turn, so it should find out at once that there is
    /// nothing to do. There is no current connection.
    fn turn(&mut self, io: &mut Io<'_, Self>) {
        let _ = io;
    }
}
