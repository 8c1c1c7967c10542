//! What every layer shares: tokens, time as a value, faults, opaque JSON text. Owns no state, does no I/O, starts
//! no thread.

mod fault;
#[cfg(feature = "relay")]
mod json;
mod time;
mod token;

pub use fault::{Close, CloseCode, Fault};
#[cfg(feature = "relay")]
pub use json::Json;
pub use time::Now;
pub use token::ConnToken;
