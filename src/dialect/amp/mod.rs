//! The AMP dialect: agents on `/amp/v1/ws`, one CBOR message a binary frame. Owns a connection's way from HELLO to its
//! principal, what the relay says in AMP, and how a session is asked by an agent. It must not verify a signature (the
//! crypto thread does) nor know where a DID is (the directory does).

mod admit;
mod ask;
mod connection;
pub mod repeated;
mod say;

pub use admit::{Wish, admit};
pub use ask::{Asked, Asker, Put, Taken, Tell, command_id, refusal};
pub use connection::{Connection, Greeting, Heard, HelloJob, Refused, undelivered};
pub use say::Say;
