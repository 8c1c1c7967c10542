//! Frames by their extent alone: where each ends, without judging or reading it, for what must be known of frames that
//! wait. Owns no rule; the [`Decoder`](super::Decoder) judges the same bytes later.

use super::CONTROL_MAX;
use crate::wire::mask;

/// First byte of a ping and of a pong, which are never fragmented.
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

/// The length of the frame that begins here, header, mask and all. None: its header is not there to its end, or names
/// more than can be counted.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let second = *bytes.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (header, payload) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?),
        short => (2, usize::from(short)),
    };
    payload.checked_add(header + mask)
}

/// Answers each ping among the whole frames at the front of what a client has sent and is not read yet. A ping becomes
/// a pong where it lies, and a pong gets no answer, so that none is answered twice. What comes behind a frame that is
/// not whole is left alone.
pub fn answer_pings(bytes: &mut [u8], mut answer: impl FnMut(&[u8])) {
    let mut rest = bytes;
    while let Some(len) = frame_len(rest).filter(|&len| len <= rest.len()) {
        let frame;
        (frame, rest) = rest.split_at_mut(len);
        let &mut [first, second, a, b, c, d, ..] = frame else { continue };
        let payload_len = usize::from(second & 0x7f);
        if first != PING || second & 0x80 == 0 || payload_len > CONTROL_MAX {
            continue;
        }
        let mut payload = [0; CONTROL_MAX];
        let payload = &mut payload[..payload_len];
        payload.copy_from_slice(&frame[6..]);
        mask::apply([a, b, c, d], payload);
        answer(payload);
        frame[0] = PONG;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ws::{OpCode, client_frame, frame};

    #[test]
    fn a_frame_is_as_long_as_its_header_says() {
        for payload in [0, 1, 125, 126, 65_535, 65_536] {
            let bytes = vec![0; payload];
            for frame in [frame(OpCode::Binary, &bytes), client_frame(OpCode::Text, &bytes, [1, 2, 3, 4])] {
                assert_eq!(frame_len(&frame), Some(frame.len()));
                assert_eq!(frame_len(&frame[..frame.len().min(14)]), Some(frame.len()), "by its header alone");
                assert_eq!(frame_len(&frame[..1]), None);
            }
        }
        assert_eq!(frame_len(&[0x82, 127, 0, 0, 0]), None);
        assert_eq!(frame_len(&[&[0x82, 255][..], &[255; 8]].concat()), None);
    }

    #[test]
    fn pings_among_what_waits_are_answered_once_and_nothing_else_is_touched() {
        let mask = [1, 2, 3, 4];
        let large = vec![7; 70_000];
        let parts = [
            client_frame(OpCode::Text, b"first", mask),
            client_frame(OpCode::Ping, b"one", mask),
            client_frame(OpCode::Binary, &large, mask),
            client_frame(OpCode::Ping, &[9; 125], mask),
            client_frame(OpCode::Pong, b"mine", mask),
            frame(OpCode::Ping, b"no mask"),
            // No ping is so long: that of its connection is for the decoder to refuse.
            client_frame(OpCode::Ping, &[9; 126], mask),
            client_frame(OpCode::Ping, &large, mask),
            client_frame(OpCode::Ping, b"", mask),
        ];
        let whole = parts.concat();
        for cut in [whole.len(), whole.len() - 1, 3] {
            let mut bytes = whole[..cut].to_vec();
            let mut answered = Vec::new();
            answer_pings(&mut bytes, |payload| answered.push(payload.to_vec()));
            let expected: &[&[u8]] = match cut {
                3 => &[],
                _ if cut < whole.len() => &[b"one", &[9; 125]],
                _ => &[b"one", &[9; 125], b""],
            };
            assert_eq!(answered, expected);
            let changed = whole.iter().zip(&bytes).filter(|(before, after)| before != after);
            assert!(changed.map(|change| (*change.0, *change.1)).eq(expected.iter().map(|_| (PING, PONG))));
            answer_pings(&mut bytes, |_| panic!("answered twice"));
        }
    }
}
