//! The AMP dialect: agents on `/amp/v1/ws`, one CBOR message a binary frame. Owns a connection's way from HELLO to its
//! principal, what the relay says in AMP, and how a session is asked by an agent. It must not verify a signature (the
//! crypto thread does) nor know where a DID is (the directory does).

mod ask;
mod connection;
mod say;

pub use ask::{Asked, Asker, Taken, Tell, command_id, refusal};
pub use connection::{Connection, Greeting, Heard, HelloJob, Principal, Refused};
pub use say::Say;
