//! What a host sets, and what identifies a peer. Owns no behaviour but the defaults.

use std::{fmt, net::SocketAddr, path::PathBuf};

use crate::base::ConnToken;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// A TCP address; port 0 picks one. Every worker has a listener of its own (SO_REUSEPORT), and the kernel shares
    /// connections out among them. A port that another process listens on is an error all the same.
    Tcp(SocketAddr),
    /// A Unix socket, made with mode 0600 and removed at the end. A stale one is replaced; a socket that answers, or a
    /// file that is no socket, is an error. The first worker accepts and shares out in turn.
    Unix(PathBuf),
}

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddr {
    /// A TCP address with its port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for BoundAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a Unix socket, with the user id of the process that connected where the system tells it.
    Unix {
        /// The user id.
        uid: Option<u32>,
    },
}

/// A new connection: its token, its other end and its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The connection's name.
    pub token: ConnToken,
    /// The other end.
    pub addr: PeerAddr,
    /// The index of the listener in [`Options::listeners`].
    pub listener: usize,
}

/// The loop's settings. Sizes are bytes, times milliseconds. To be made with `..Options::default()`, because more may come.
///
/// Nothing checks how they fit together: a protocol's largest message should fit in [`kept_max`](Self::kept_max) and in
/// [`queue_max`](Self::queue_max), and `queue_low <= queue_high <= queue_max`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads; 0 means one for each CPU that the process may use. At most 4,095.
    pub workers: usize,
    /// Keep each worker's thread on a CPU of its own, in the order of those the process may use. Where that cannot be done
    /// a warning says so.
    pub pin: bool,
    /// Where to listen, in the order of [`Peer::listener`].
    pub listeners: Vec<Listen>,
    /// The read buffer of a worker, at least 16 KiB. One read takes at most half of it, and what a connection has not
    /// consumed costs it memory of its own: a copy of that much, or, above half of this buffer, room that grows as the
    /// message does. Ranges that are forwarded keep their part of the buffer to the end of the turn; when it is full,
    /// reading goes on in the next one.
    pub read_buffer: usize,
    /// Most bytes that a connection may hold without their being consumed, an incomplete message mostly; at most 4 GiB. More
    /// is the peer's fault and closes the connection with 1009. As much as half of the read buffer is always allowed,
    /// unless [`Io::need`](super::Io::need) asked for more than there is.
    pub kept_max: usize,
    /// Above this many queued bytes of one connection, senders hear [`Sent::High`](super::Sent::High).
    pub queue_high: usize,
    /// At or below this many bytes, a queue that was high is reported [`writable`](super::Protocol::writable).
    pub queue_low: usize,
    /// A send that would take the queue above this many bytes is refused and closes the connection as
    /// [`TooSlow`](crate::base::Close::TooSlow). What the turn has queued and not written counts, so this is also the
    /// largest message that can be sent.
    pub queue_max: usize,
    /// Most bytes of a TCP connection that the kernel takes and cannot send yet: the rest waits in the connection's queue,
    /// where something can go ahead of it ([`Io::send_ahead`](super::Io::send_ahead)), where senders hear of it, and where
    /// it shows whether the peer takes anything ([`Io::take_progress`](super::Io::take_progress)). The kernel takes a
    /// segment more (up to 64 KiB). 0 leaves it to the system, which may hold megabytes for a peer that reads slowly.
    pub unsent_max: usize,
    /// What a slow peer reads in this time is given to its system at once, and as much again, where its program answers
    /// probes ([`Protocol::probe`](super::Protocol::probe)). A new peer is asked after 8 KiB, and is given 8 to 256 KiB
    /// at a time, twice as much with each answer. A peer is slow if the kernel took no more for an eighth of this time,
    /// or if its answer as a new one takes more than a fourth. It is quick, and given what its system takes, when it
    /// has read 4 MiB at 1 MiB or more in this time. 0: no peer is asked.
    pub pace_ms: u64,
    /// How long the answer to a probe is waited for. Then the kernel is given more and more, and in the end all that it takes
    /// until an answer comes; the next answers may take twice as long as that one. A program that reads ahead may read
    /// nothing for seconds: a peer that reads 1 KB a second needs 16 for the first answer.
    pub patience_ms: u64,
    /// Most connections of all workers together, those that finish closing included. Each worker takes its share (rounded
    /// up): a full one stops accepting, so that more wait in the kernel, until it is a sixteenth below its share. Where
    /// connections are provisional first ([`Protocol::PROVISIONAL`](super::Protocol::PROVISIONAL)) it goes on accepting:
    /// the oldest of those gives way.
    pub connections_max: usize,
    /// Most of them that are provisional; likewise shared out. Those that are not leave a sixteenth of a worker's share to
    /// them, at most 64, so that a new connection is always heard.
    pub provisional_max: usize,
    /// How many of them only Unix listeners may take. Connections of these are never provisional: the mode of the
    /// socket's file has let them in. At most a quarter of all.
    pub unix_reserve: usize,
    /// Messages that fit in a worker's inbox, at least 1. Its memory is reserved at the start.
    pub inbox_capacity: usize,
    /// How long a drain may take before what is left is cut off, unflushed.
    pub grace_ms: u64,
    /// How long a closed connection is waited for while its peer takes nothing of what is queued, and then to end its half.
    /// Not early, at most 16 ms late.
    pub linger_ms: u64,
    /// Length of a listener's queue of connections that were not accepted yet; the kernel may allow less.
    pub backlog: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 0,
            pin: false,
            listeners: Vec::new(),
            read_buffer: 1024 * 1024,
            kept_max: 64 * 1024 * 1024,
            queue_high: 256 * 1024,
            queue_low: 64 * 1024,
            queue_max: 8 * 1024 * 1024,
            unsent_max: 32 * 1024,
            pace_ms: 2_000,
            patience_ms: 20_000,
            connections_max: 100_000,
            provisional_max: 16_384,
            unix_reserve: 0,
            inbox_capacity: 4_096,
            grace_ms: 10_000,
            linger_ms: 2_000,
            backlog: 1_024,
        }
    }
}

impl Options {
    /// The number of workers that these settings mean, at least one.
    pub fn worker_count(&self) -> usize {
        let wanted = match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        // The last worker number is kept for the loop's own poll tokens.
        wanted.clamp(1, ConnToken::WORKERS_MAX - 1)
    }
}
