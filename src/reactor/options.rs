//! What a host sets, and who a peer is.

use std::{fmt, net::SocketAddr, path::PathBuf};

use crate::base::ConnToken;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 picks one. Every worker has a listener of its own (SO_REUSEPORT).
    Tcp(SocketAddr),
    /// A Unix socket, made with mode 0600. A stale one is replaced, one that answers is an error.
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

/// Who connected, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The connection's name.
    pub token: ConnToken,
    /// The other end.
    pub addr: PeerAddr,
    /// The index of the listener in [`Options::listeners`].
    pub listener: usize,
}

/// The loop's settings. Sizes are bytes, times milliseconds.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads; 0 means one for each core.
    pub workers: usize,
    /// Keep each worker's thread on a CPU of its own, in the order of those the process may use. Where that cannot be done
    /// a warning says so.
    pub pin: bool,
    /// Where to listen, in the order of [`Peer::listener`].
    pub listeners: Vec<Listen>,
    /// The read buffer of a worker. A message larger than that costs its connection memory of its own.
    pub read_buffer: usize,
    /// Most bytes of one incomplete message that a connection may hold.
    pub kept_max: usize,
    /// Above this many queued bytes, senders hear [`Sent::High`](super::Sent::High).
    pub queue_high: usize,
    /// At or below this many bytes, a queue that was high is reported drained.
    pub queue_low: usize,
    /// Above this many bytes the connection is closed as too slow.
    pub queue_max: usize,
    /// Most connections of all workers together; each worker takes its share.
    pub connections_max: usize,
    /// Messages that fit in a worker's inbox.
    pub inbox_capacity: usize,
    /// How long a drain may take before what is left is cut off.
    pub grace_ms: u64,
    /// How long a closed connection may take to flush and to say goodbye.
    pub linger_ms: u64,
    /// Length of a listener's queue of connections that were not accepted yet.
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
            connections_max: 100_000,
            inbox_capacity: 4_096,
            grace_ms: 10_000,
            linger_ms: 2_000,
            backlog: 1_024,
        }
    }
}

impl Options {
    /// The number of threads that these settings mean, at least one.
    pub fn worker_count(&self) -> usize {
        let wanted = match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        // The last worker number is kept for the loop's own poll tokens.
        wanted.clamp(1, ConnToken::WORKERS_MAX - 1)
    }
}
