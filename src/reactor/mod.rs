//! The event loop to embed: workers, listeners, connections, send queues, timers, mail, drain. Knows bytes and
//! WebSocket messages, nothing of what they mean.
//!
//! A host implements [`Protocol`] for raw bytes.

mod clock;
mod counters;
pub mod gate;
mod handle;
mod inbox;
mod io;
mod listen;
mod options;
mod protocol;
mod sendq;
mod slots;
mod stream;
mod wheel;
mod worker;
pub mod ws;

pub use clock::now;
pub use counters::{CLOSE_KINDS, CLOSE_LABELS, Counter, Snapshot, TURN_BUCKETS, WorkerCounters, close_kind};
pub use handle::{Bound, Control, Ended, Handle, Mailer, Reactor};
pub use inbox::{Receiver, Sender, inbox};
pub use io::{Io, Sent};
pub use options::{BoundAddr, Listen, Options, Peer, PeerAddr};
pub use protocol::{Protocol, Refuse};
pub use worker::{Turn, Worker};
