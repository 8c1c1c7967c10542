//! Frames, written.

use bytes::Bytes;

use super::{OpCode, close};
use crate::{
    base::CloseCode,
    wire::{copy, mask},
};

/// Most bytes of a frame header: two, eight of length, four of mask.
pub const HEADER_MAX: usize = 14;

/// Writes the header of a frame with a payload of `len` bytes and says how long the header is. The length takes its
/// shortest form; its top bit, which must be zero, is cut off.
#[inline]
pub fn encode_header(out: &mut [u8; HEADER_MAX], opcode: OpCode, fin: bool, len: u64, mask: Option<[u8; 4]>) -> usize {
    out[0] = opcode.bits() | if fin { 0x80 } else { 0 };
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let at = match len {
        0..126 => {
            out[1] = mask_bit | len as u8;
            2
        }
        126..0x1_0000 => {
            out[1] = mask_bit | 126;
            out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = mask_bit | 127;
            out[2..10].copy_from_slice(&(len & (u64::MAX >> 1)).to_be_bytes());
            10
        }
    };
    let Some(key) = mask else { return at };
    out[at..at + 4].copy_from_slice(&key);
    at + 4
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

/// A whole frame masked with `mask`, as clients send them. The author of the payload must not be able to predict the
/// mask (RFC 6455 section 5.3).
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
    fn headers_are_those_of_tungstenite() {
        use tungstenite::protocol::frame::{
            FrameHeader,
            coding::{Control, Data, OpCode as Raw},
        };
        let pairs = [
            (OpCode::Continue, Raw::Data(Data::Continue)),
            (OpCode::Text, Raw::Data(Data::Text)),
            (OpCode::Binary, Raw::Data(Data::Binary)),
            (OpCode::Close, Raw::Control(Control::Close)),
            (OpCode::Ping, Raw::Control(Control::Ping)),
            (OpCode::Pong, Raw::Control(Control::Pong)),
        ];
        for (opcode, raw) in pairs {
            for (fin, mask) in [(true, None), (false, None), (true, Some([1, 2, 3, 4]))] {
                for len in [0, 1, 125, 126, 127, 65_535, 65_536, u64::MAX >> 1] {
                    let header =
                        FrameHeader { is_final: fin, rsv1: false, rsv2: false, rsv3: false, opcode: raw, mask };
                    let mut theirs = Vec::new();
                    header.format(len, &mut theirs).expect("written");
                    let mut out = [0; HEADER_MAX];
                    let ours = encode_header(&mut out, opcode, fin, len, mask);
                    assert_eq!(&out[..ours], theirs);
                }
            }
        }
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
