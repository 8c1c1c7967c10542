//! Logs: ordered records of bytes, numbered without a gap, safe before they are shown. Owns the operations, the
//! [`Client`] that submits them, the [`Engine`] trait and its engines. Must not know what a record means.
//!
//! Every operation has one completion, reads too: the verbs of [`Client`] submit it, then [`Client::poll`] goes to
//! [`Engine::submit`] and [`Engine::poll`] to [`Client::handle`]. All four move values only. An engine in place
//! (the memory engine) and one behind a pair of links to another thread look the same to the core.

mod client;
mod memory;

use bytes::Bytes;

pub use client::{Bounds, Client, Full, News};
pub use memory::{Limits, MemoryStore};

/// Names a log as long as the process lives: its client chooses it and never uses it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u64);

/// Names an operation of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// What is to be done with a log. An engine keeps the order of what changes one log. Logs overtake each other, and a read
/// may overtake and be overtaken: it finds at least what was safe when it was submitted and is still held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a new, empty log.
    Create {
        /// Its id from now on.
        log: LogId,
        /// What a durable engine finds it by later.
        name: Box<str>,
    },
    /// Adds records to the end. They become safe together, in their order.
    Append {
        /// Which log.
        log: LogId,
        /// The offset of the first one: 0 in a new log, else what follows the last record. Any other is refused, so that
        /// a log takes nothing more once an append to it has failed.
        first: u64,
        /// At least one.
        records: Vec<Bytes>,
    },
    /// Reads safe records.
    Read {
        /// Which log.
        log: LogId,
        /// Which of them.
        at: At,
        /// As many as fit into so many bytes, but always one if there is one.
        bytes: usize,
    },
    /// Drops the log and all its records.
    Remove {
        /// Which log.
        log: LogId,
    },
}

impl Op {
    /// The log that it is about.
    pub fn log(&self) -> LogId {
        match self {
            Self::Create { log, .. } | Self::Append { log, .. } | Self::Read { log, .. } | Self::Remove { log } => *log,
        }
    }
}

/// Where a read begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The oldest records from this offset on.
    From(u64),
    /// The newest records before this offset.
    Before(u64),
}

/// The completion of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which operation.
    pub op: OpId,
    /// Which log.
    pub log: LogId,
    /// What came of it.
    pub result: Result<Outcome, Failed>,
}

/// What an operation brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The log is there.
    Created,
    /// The records are safe, and with them everything below `next`.
    Committed(Range),
    /// What was read.
    Read(Read),
    /// The log is gone.
    Removed,
}

/// Records in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The offset of the first one, or of the place where none was.
    pub first: u64,
    /// What they hold.
    pub records: Vec<Bytes>,
    /// What could be read at that time.
    pub range: Range,
}

/// Why an operation came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// A read of an offset that is not held any more, or not safe yet.
    #[error("offsets {} up to {} can be read", .0.earliest, .0.next)]
    OutOfRange(Range),
    /// An append that does not continue the log.
    #[error("the log goes on at offset {next}")]
    Gap {
        /// Where it goes on.
        next: u64,
    },
    /// The log was removed, or never made.
    #[error("there is no such log")]
    NoLog,
    /// The engine cannot do it.
    #[error("{0}")]
    Engine(Box<str>),
}

/// What of a log can be served: offsets from `earliest` up to, not including, `next`. Safe records only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The oldest offset that is still held.
    pub earliest: u64,
    /// The offset that follows the newest safe record.
    pub next: u64,
}

/// What does the operations: in place, or at the other end of a pair of links.
pub trait Engine {
    /// Hands an operation over.
    fn submit(&mut self, id: OpId, op: Op);

    /// The next completion; `None` when there is none now. Every operation has one.
    fn poll(&mut self) -> Option<Done>;
}
