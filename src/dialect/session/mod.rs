//! The session dialect: what our own clients speak on `/session`, one JSON object a text message.
//!
//! Owns a connection's way from challenge to sign-in and the JSON of both directions. It must not decide what a
//! command does: that is the core's.

mod connection;
mod decode;
mod encode;

pub use connection::{Act, Connection, Greeting, SignedIn, VerifyJob};
pub use decode::{Incoming, SignIn, decode};
pub use encode::{
    Challenge, Limits, ProfileLine, Welcome, caught_up, challenge, delta, error, event, keys_reply, pong, presence,
    reply, reset, summary_changed, tick, welcome,
};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "amp-session.v1";
/// The version the challenge and the transcript name.
pub const VERSION: u32 = 1;
/// A device gets a `tick` after this long without a message: pages cannot see pings.
pub const TICK_MS: u64 = 25_000;
/// Longest time between the upgrade and a valid sign-in.
pub const SIGN_IN_MS: u64 = 30_000;
/// Largest message before sign-in: the largest key and signature fit several times.
pub const SIGN_IN_BYTES_MAX: usize = 16 * 1024;
