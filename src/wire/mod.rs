//! Codecs without I/O: WebSocket frames, HTTP/1.1 request heads, AMP envelopes in CBOR.
//!
//! Owns how bytes on a wire are read and written, and every limit that can be checked from the bytes alone. Knows no
//! socket, no clock and no connection: a decoder is lent bytes and says what they mean.

#[cfg(feature = "relay")]
pub mod amp;
#[cfg(feature = "relay")]
pub mod cbor;
pub mod copy;
pub mod http;
pub mod mask;
#[cfg(feature = "relay")]
pub mod shown;
#[cfg(feature = "relay")]
pub mod sign_in;
pub mod ws;
