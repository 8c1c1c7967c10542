//! The frame decoder on arbitrary streams: whole and cut, they give the same; memory stays within the limits.

#![no_main]

use amp_relay::wire::ws::{Decoder, HEADER_MAX, Limits, Role, Step};
use libfuzzer_sys::fuzz_target;

/// Reads the stream in pieces of at most `piece` bytes and writes down all that came out of it.
fn read(role: Role, deflate: bool, limits: &Limits, stream: &[u8], piece: usize) -> Vec<String> {
    let mut decoder = Decoder::new(role);
    if deflate {
        decoder.allow_deflate();
    }
    let (mut pending, mut out) = (Vec::new(), Vec::new());
    for bytes in stream.chunks(piece) {
        pending.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let there = pending.len() - at;
            match decoder.decode(limits, &mut pending[at..]) {
                Ok(Step::Need(need)) => {
                    assert!(need > there && need <= limits.frame_max.max(125) + HEADER_MAX);
                    break;
                }
                Ok(Step::Fragment(taken)) => {
                    assert!(taken > 0 && taken <= there);
                    at += taken;
                }
                Ok(Step::Message { consumed, message }) => {
                    assert!(consumed > 0 && consumed <= there);
                    out.push(format!("{message:?}"));
                    at += consumed;
                }
                Ok(Step::Deflated { consumed, is_text, payload }) => {
                    assert!(deflate && consumed > 0 && consumed <= there);
                    out.push(format!("deflated {is_text} {payload:?}"));
                    at += consumed;
                }
                Err(fault) => out.push(fault.code.to_string()),
            }
            assert!(decoder.heap_bytes() <= limits.message_max);
        }
        pending.drain(..at);
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let Some((&[role, piece, message_a, message_b, frame_a, frame_b], stream)) = data.split_first_chunk::<6>() else {
        return;
    };
    let deflate = role & 2 != 0;
    let role = if role & 1 == 0 { Role::Server } else { Role::Client };
    let limits = Limits {
        message_max: u16::from_be_bytes([message_a, message_b]).into(),
        frame_max: u16::from_be_bytes([frame_a, frame_b]).into(),
    };
    let whole = read(role, deflate, &limits, stream, usize::MAX);
    let cut = read(role, deflate, &limits, stream, usize::from(piece).max(1));
    assert_eq!(whole, cut);
});
