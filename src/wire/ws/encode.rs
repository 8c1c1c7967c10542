//! Frames, written.

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;

use super::{OpCode, close};
use crate::{
    base::CloseCode,
    wire::{copy, mask},
};

/// Most bytes of a frame header: two, eight of length, four of mask.
pub const HEADER_MAX: usize = 14;

/// Writes the header of a frame with a payload of `len` bytes and says how long the header is.
pub fn encode_header(out: &mut [u8; HEADER_MAX], opcode: OpCode, fin: bool, len: u64, mask: Option<[u8; 4]>) -> usize {
    let header = FrameHeader { is_final: fin, rsv1: false, rsv2: false, rsv3: false, opcode: opcode.raw(), mask };
    let written = header.format(len, &mut out.as_mut_slice());
    debug_assert!(written.is_ok(), "14 bytes hold every header");
    header.len(len)
}

/// A whole, unmasked frame, as servers send them.
pub fn frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    build(opcode, payload, None)
}

/// A close frame of a server. A reason above 123 bytes is cut at a character; a code that must not be sent (1005,
/// 1006) gives a frame without a code.
pub fn close_frame(code: CloseCode, reason: &str) -> Bytes {
    let (payload, len) = close::write(code, reason);
    build(OpCode::Close, &payload[..len], None)
}

/// A whole frame masked with `mask`, as clients send them. The mask must be unpredictable for whoever chooses the
/// payload (RFC 6455 section 5.3).
pub fn client_frame(opcode: OpCode, payload: &[u8], mask: [u8; 4]) -> Bytes {
    build(opcode, payload, Some(mask))
}

/// A close frame of a client: [`close_frame`], masked.
pub fn client_close_frame(code: CloseCode, reason: &str, mask: [u8; 4]) -> Bytes {
    let (payload, len) = close::write(code, reason);
    build(OpCode::Close, &payload[..len], Some(mask))
}

fn build(opcode: OpCode, payload: &[u8], key: Option<[u8; 4]>) -> Bytes {
    let mut header = [0; HEADER_MAX];
    let start = encode_header(&mut header, opcode, true, payload.len() as u64, key);
    let mut bytes = Vec::with_capacity(start + payload.len());
    bytes.extend_from_slice(&header[..start]);
    copy::append(&mut bytes, payload);
    if let Some(key) = key {
        mask::apply(key, &mut bytes[start..]);
    }
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_take_the_shortest_form() {
        let mut out = [0; HEADER_MAX];
        for (len, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xFF, 0xFF]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let n = encode_header(&mut out, OpCode::Binary, true, len, None);
            assert_eq!(&out[..n], header);
        }
        let n = encode_header(&mut out, OpCode::Text, false, u64::MAX >> 1, Some([1, 2, 3, 4]));
        assert_eq!(&out[..n], [0x01, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4]);
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 6455 section 5.7.
        assert_eq!(&frame(OpCode::Text, b"Hello")[..], [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(
            &client_frame(OpCode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d])[..],
            [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
        );
        assert_eq!(&close_frame(CloseCode::NORMAL, "")[..], [0x88, 0x02, 0x03, 0xE8]);
        assert_eq!(&client_close_frame(CloseCode(1006), "", [0; 4])[..], [0x88, 0x80, 0, 0, 0, 0]);
    }
}
