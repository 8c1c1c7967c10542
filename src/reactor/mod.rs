//! The event loop to embed: workers, listeners, connections, send queues, timers, mail, drain. Knows bytes and
//! WebSocket messages, nothing of what they mean.
//!
//! A host implements [`Protocol`] for raw bytes, or [`ws::WsHandler`] for WebSocket. A chat room:
//!
//! ```
//! use amp_relay::{
//!     base::Fault,
//!     reactor::ws::{Answer, Data, Framed, Ws, WsHandler, WsIo, WsOptions},
//!     reactor::{Listen, Options, Peer, Reactor},
//!     wire::http::{Head, Response},
//! };
//!
//! struct Room;
//!
//! impl WsHandler for Room {
//!     type Conn = String; // the name under which one speaks
//!     type Mail = ();
//!
//!     fn request(&mut self, head: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<String> {
//!         match head.path.strip_prefix("/chat/") {
//!             Some(name) => Answer::upgrade(name.to_owned()),
//!             None => Answer::Respond(Response::text(404, "try /chat/NAME")),
//!         }
//!     }
//!
//!     fn message(&mut self, name: &mut String, io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
//!         if let Data::Text(text) = message {
//!             io.broadcast(&Framed::text(&format!("{name}: {text}")), Some(io.token()));
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // One worker is one room; rooms across workers send each other mail.
//!     let listeners = vec![Listen::Tcp("127.0.0.1:0".parse()?)];
//!     let bound = Reactor::bind::<Ws<Room>>(Options { workers: 1, listeners, ..Options::default() })?;
//!     println!("ws://{}/chat/NAME", bound.local_addrs()[0]);
//!     let handle = bound.start(|_worker, _mailers| Ws::new(Room, WsOptions::default()))?;
//!     handle.drain(); // here a program would wait for its signal
//!     Ok(handle.join()?)
//! }
//! ```
//!
//! # Threads and order
//!
//! Every worker is a thread with a listener, connections and a protocol value of its own; nothing of them is shared.
//! Others reach it through its bounded inbox ([`Mailer`]). Within a connection everything is in order; what was sent to
//! it in one turn leaves in one vectored write at the turn's end.
//!
//! # Bounds
//!
//! Connections ([`Options::connections_max`]), send queues (three marks), incomplete messages
//! ([`Options::kept_max`]), inboxes and the work of a turn are bounded; what does not fit is refused, paused or closed,
//! and counted ([`WorkerCounters`]).

mod clock;
mod counters;
pub mod gate;
mod handle;
pub mod inbox;
mod io;
mod listen;
mod options;
mod pin;
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
