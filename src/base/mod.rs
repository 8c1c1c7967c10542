//! What every layer shares: tokens, time as a value, faults, opaque JSON text, what may stand in a text of a peer and how it
//! is made visible; and how a small file is read, for layers that have nothing else in common. Owns no state, does no other
//! I/O, starts no thread.

mod counter;
mod fault;
#[cfg(feature = "relay")]
pub mod file;
#[cfg(feature = "relay")]
pub mod glyph;
#[cfg(feature = "relay")]
mod json;
mod sent;
#[cfg(feature = "relay")]
pub mod text;
mod time;
mod token;

pub use counter::Counter;
pub use fault::{Close, CloseCode, Fault};
#[cfg(feature = "relay")]
pub use json::{DEPTH_MAX, Json, Sound, unsound};
pub use sent::Sent;
pub use time::Now;
pub use token::ConnToken;
