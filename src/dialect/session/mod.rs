//! The session dialect: what our own clients speak on `/session`, one JSON object a text message.
//!
//! Owns a connection's way from challenge to sign-in, what is known of a device, and the JSON of both directions. It must
//! not decide what a command does: that is the core's.

pub mod bounds;
mod connection;
mod decode;
mod device;
mod encode;
mod fields;

pub use connection::{Act, Connection, Greeting, Origin};
pub use decode::{Incoming, decode};
pub use device::{Counters, Device, DeviceNet, Devices};
pub use encode::{
    caught_up, delta, error, event, keys_reply, pong, presence, reply, reset, sign_in_message, summary_changed, tick,
};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "amp-session.v1";
/// The path.
pub const PATH: &str = "/session";
/// The version the challenge and the transcript name.
pub const VERSION: u32 = 1;
/// A device gets a `tick` after this long without a message: pages cannot see pings.
pub const TICK_MS: u64 = 25_000;
/// Longest time between the upgrade and a valid sign-in.
pub const SIGN_IN_MS: u64 = 30_000;
/// Largest message before sign-in: the largest key and signature fit several times.
pub const SIGN_IN_BYTES_MAX: usize = 16 * 1024;
