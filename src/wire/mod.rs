//! Codecs without I/O: WebSocket frames and HTTP/1.1 request heads.
//!
//! Owns how bytes on a wire are read and written, and every limit that can be checked from the bytes alone. Knows no
//! socket, no clock and no connection: a decoder is lent bytes and says what they mean.

pub mod copy;
pub mod http;
pub mod mask;
#[cfg(feature = "relay")]
pub mod sign_in;
pub mod ws;
