//! What a host implements: one value of [`Protocol`] for each worker.

use bytes::Bytes;

use super::{io::Io, options::Peer};
use crate::base::{Close, ConnToken, Fault};

/// A connection that is not wanted.
#[derive(Clone, Debug, Default)]
pub struct Refuse {
    /// What it is told before it is closed.
    pub say: Bytes,
}

/// A protocol on the loop: raw bytes in, raw bytes out, one value for each worker, called by that worker's thread only.
///
/// A callback must not block: no file, no signature, no process call. A panic in a callback that has a connection
/// closes that connection; a panic in [`mail`](Self::mail) or [`turn`](Self::turn) ends the worker, the others drain and
/// [`Handle::join`](super::Handle::join) reports it.
pub trait Protocol: Sized + Send + 'static {
    /// State of a connection, kept in the worker's slab.
    type Conn;
    /// What other threads may send a worker.
    type Mail: Send + 'static;

    /// A connection came; `io.token()` names it.
    ///
    /// # Errors
    /// It is not wanted: it is told what the refusal says, and closed.
    fn accept(&mut self, io: &mut Io<'_, Self>, peer: &Peer) -> Result<Self::Conn, Refuse>;

    /// Bytes came. Says how many of them it consumed; the rest is kept and comes again in front of what is read next
    /// ([`Io::need`] says how much must be there before that is worth a call). `bytes` may be changed in place.
    ///
    /// # Errors
    /// The peer's fault, which closes the connection.
    fn input(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault>;

    /// The peer sends no more. By default that closes the connection.
    fn eof(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        let _ = conn;
        io.close(io.token(), Close::Peer(None));
    }

    /// Mail came from another thread. There is no current connection.
    fn mail(&mut self, io: &mut Io<'_, Self>, mail: Self::Mail) {
        let _ = (io, mail);
    }

    /// The time set with [`Io::set_timeout`] has come. By default that closes the connection.
    ///
    /// # Errors
    /// A fault closes the connection.
    fn timeout(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) -> Result<(), Fault> {
        let _ = conn;
        io.close(io.token(), Close::TimedOut);
        Ok(())
    }

    /// The send queue, which was above the high mark, is at the low mark.
    fn drained(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        let _ = (conn, io);
    }

    /// The loop begins to drain: say goodbye and close. By default that closes the connection at once.
    fn drain(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        let _ = conn;
        io.close(io.token(), Close::Drain);
    }

    /// What to send last on a connection that the loop closes for this reason. It is queued behind everything else.
    fn last_words(conn: &Self::Conn, why: &Close) -> Bytes {
        let _ = (conn, why);
        Bytes::new()
    }

    /// The connection is over; its token is stale for every other connection.
    fn closed(&mut self, conn: Self::Conn, token: ConnToken, why: Close) {
        let _ = (conn, token, why);
    }

    /// The end of a turn, before what was queued in it is written: the place for couriers to other threads, and for
    /// what [`closed`](Self::closed) left to tell. There is no current connection.
    fn turn(&mut self, io: &mut Io<'_, Self>) {
        let _ = io;
    }
}
