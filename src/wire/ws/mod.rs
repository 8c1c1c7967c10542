//! WebSocket frames (RFC 6455): a decoder that works in the caller's buffer, and an encoder.
//!
//! Owns the rules of sections 5 to 8 that can be judged from the bytes of one direction: masking, reserved bits,
//! opcodes, fragment order, sizes, UTF-8 and close payloads. Must not answer anything: pongs, the close handshake and
//! its time limit belong to the owner of the connection. Of the extensions only permessage-deflate is known (feature
//! `deflate`), and only where it was agreed on: otherwise every reserved bit is a fault.

mod close;
mod decode;
#[cfg(feature = "deflate")]
pub mod deflate;
mod encode;
mod extent;
mod utf8;

pub use decode::{Decoder, Message, ReframedStep, Step};
pub use encode::{HEADER_MAX, client_close_frame, client_frame, close_frame, encode_header, frame};
pub use extent::{answer_pings, frame_len};

use tungstenite::protocol::frame::coding as raw;

/// Which end of the connection we are: clients always mask, servers never (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We accept connections: what comes in must be masked.
    Server,
    /// We open connections: what comes in must not be masked.
    Client,
}

/// The kind of a frame (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpCode {
    /// A further fragment of the message that was begun.
    Continue,
    /// A text message or its first fragment.
    Text,
    /// A binary message or its first fragment.
    Binary,
    /// The close handshake.
    Close,
    /// Asks for a pong with the same payload.
    Ping,
    /// Answers a ping, or says unasked that we are here.
    Pong,
}

impl OpCode {
    /// Close, ping and pong: never fragmented, at most [`CONTROL_MAX`] bytes.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn of(raw: raw::OpCode) -> Option<Self> {
        Some(match raw {
            raw::OpCode::Data(raw::Data::Continue) => Self::Continue,
            raw::OpCode::Data(raw::Data::Text) => Self::Text,
            raw::OpCode::Data(raw::Data::Binary) => Self::Binary,
            raw::OpCode::Control(raw::Control::Close) => Self::Close,
            raw::OpCode::Control(raw::Control::Ping) => Self::Ping,
            raw::OpCode::Control(raw::Control::Pong) => Self::Pong,
            raw::OpCode::Data(raw::Data::Reserved(_)) | raw::OpCode::Control(raw::Control::Reserved(_)) => return None,
        })
    }

    /// The four bits of the header.
    #[inline]
    fn bits(self) -> u8 {
        match self {
            Self::Continue => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// The bit of a header's first byte that says that a message is compressed (RFC 7692 section 6).
pub const RSV1: u8 = 0x40;

/// Most bytes in the payload of a control frame (section 5.5).
pub const CONTROL_MAX: usize = 125;

/// How much one peer may send at once. Both are bytes of payload; control frames have their own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a message, all of its fragments together.
    pub message_max: usize,
    /// Most bytes of one frame.
    pub frame_max: usize,
}

impl Default for Limits {
    /// 1 MiB for both.
    fn default() -> Self {
        Self { message_max: 1 << 20, frame_max: 1 << 20 }
    }
}
