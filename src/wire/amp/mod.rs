//! AMP messages (Agent Messaging Protocol, RFC 001 draft 0.42): the envelope read as a view over the frame and written
//! into a caller's vector, in text and in integer keys; what is signed; bodies of the control types; the checks a relay
//! makes. Sans-io: reads no clock, draws no random numbers, knows no peer, resolves no DID but `did:key`.
//!
//! The frame is read once, strictly, without an allocation ([`parse`]); what cannot be read in one way only is refused.
//! The signature is over header *names* and the body ([`sig_input`]), so it survives a change of key encoding ([`rekey`]).

pub mod body;
mod build;
mod canonical_parse;
pub mod check;
mod header;
mod header_prediction;
mod sign;
mod types;
mod view;

pub use build::{BuildError, Builder, NotExpressible, Payload, rekey};
pub use canonical_parse::parse;
pub use header::{Header, Id, Recipients, To, did_base, is_base};
pub use header_prediction::{Prediction, Recognized};
pub use sign::{VerifyError, sig_input, sign, verify, verify_over, verifying_key};
pub use types::{Code, Retry, Type};
pub use view::{EnvelopeView, Field, Frame, KEYS_MAX, Malformed, Reason};

/// The protocol version we speak, the value of `v`.
pub const VERSION: u64 = 1;
/// The WebSocket subprotocol (RFC 002 section 5).
pub const SUBPROTOCOL: &str = "amp.v1";
/// Path of the WebSocket endpoint (RFC 002 section 5).
pub const PATH: &str = "/amp/v1/ws";
/// Header of the upgrade that names the largest message in bytes (RFC 002 section 5).
pub const SIZE_HEADER: &str = "X-AMP-Max-Message-Size";
/// Header of the answer to an upgrade that names the relay's DID, to say HELLO to.
pub const RELAY_DID_HEADER: &str = "X-AMP-Relay-DID";
/// What a peer takes that names no size, in bytes (RFC 002 section 3.2).
pub const MESSAGE_BYTES_DEFAULT: usize = 1 << 20;
/// The name by which peers with integer keys call their relay. It is no DID.
pub const RELAY_SERVER: &str = "relay-server";
/// Default of `ttl` in milliseconds (RFC 001 section 8.3).
pub const TTL_MS_DEFAULT: u64 = 86_400_000;

/// Length of an Ed25519 signature.
pub const SIG_BYTES: usize = 64;

/// How the keys of an envelope are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyEncoding {
    /// Field names as text, as RFC 001 has them.
    #[default]
    Text,
    /// Integers 1 to 12, as the Go relay has them since its commit `c06c2b2`.
    Int,
}
