//! permessage-deflate (RFC 7692): messages compressed one by one.
//!
//! Owns the negotiation of the extension in both roles and the bytes of a compressed message; which frames belong to it
//! is the [`Decoder`](super::Decoder)'s. Must not decide which connections get it: that is a setting of their owner.
//!
//! # Memory
//!
//! A compressor owns 371 KiB at 15 window bits and 245 at 9, a decompressor 46 (zlib-rs 0.6.8, measured). So by default
//! no window is kept between messages: both directions are agreed to have no context takeover, and a thread needs one
//! [`Codec`] for all of its connections. With [`DeflateOptions::takeover`] a [`Connection`] has a window of its own for
//! each direction in which it was agreed; the owner of the connections bounds how many of these there are.
//!
//! What comes in is bounded twice while it is inflated: by the size a message may have, and by
//! [`DeflateOptions::ratio_max`].

mod engine;
mod negotiate;

pub use engine::{Codec, Connection};
pub use negotiate::{Agreed, BadAnswer, accept, answer, offer};

/// Name of the extension (section 7).
pub const NAME: &str = "permessage-deflate";

/// Settings of the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateOptions {
    /// Whether windows are kept between messages, where the peer agrees: better ratios for much more memory.
    pub takeover: bool,
    /// The largest window, as a power of two: 9 to 15. It bounds what both sides keep, where the peer lets it.
    pub window_bits: u8,
    /// From 1, the fastest, to 9, the smallest.
    pub level: u8,
    /// Messages of fewer bytes are sent as they are.
    pub threshold: usize,
    /// A message may be at most so many times as long as its compressed form, or 64 KiB if that is more.
    pub ratio_max: u32,
}

impl Default for DeflateOptions {
    /// No takeover, 15 bits, the fastest level, from 256 bytes on, a hundredfold.
    fn default() -> Self {
        Self { takeover: false, window_bits: 15, level: 1, threshold: 256, ratio_max: 100 }
    }
}

/// The smallest window that the compressor supports. A window of 8 bits, which the RFC knows too, is not offered, and
/// an offer that demands it of us is declined.
const BITS_MIN: u8 = 9;
/// The largest window, and what holds where none is named.
const BITS_MAX: u8 = 15;

impl DeflateOptions {
    /// The window bits, brought into their range.
    fn bits(&self) -> u8 {
        self.window_bits.clamp(BITS_MIN, BITS_MAX)
    }
}
