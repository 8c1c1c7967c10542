//! Messages that take little on their way, and much of a turn.

use flate2::{Compress, Compression, FlushCompress};

use super::*;
use crate::wire::ws::deflate::DeflateOptions;

/// A message as a client sends it that has agreed on compression.
fn compressed(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() + 1_024);
    Compress::new(Compression::fast(), false).compress_vec(message, &mut payload, FlushCompress::Sync).unwrap();
    let payload = payload.strip_suffix(&[0, 0, 0xff, 0xff]).expect("a flush ends with an empty block");
    let len = u16::try_from(payload.len()).expect("it is short");
    let mut frame = vec![0xc2, 0x80 | 126];
    frame.extend(len.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

#[test]
fn so_much_is_inflated_in_a_turn_and_the_rest_in_the_next_ones() {
    const MESSAGES: usize = 40;
    // More than five of them are too much.
    const MESSAGE_BYTES: usize = 60_000;
    const A_TURN: usize = 5;
    let ws = WsOptions { ping_every_ms: 0, deflate: Some(DeflateOptions::default()), ..WsOptions::default() };
    let (mut worker, mut stream, _) = quiet(&ws, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    let all = compressed(&[b'x'; MESSAGE_BYTES]).repeat(MESSAGES);
    assert!(all.len() < 32 * 1024, "{} bytes are read at once", all.len());
    stream.write_all(&all).unwrap();
    let mut turns = 0;
    let mut heard = 0;
    while heard < MESSAGES {
        // It waits for nothing: there is more to be done.
        worker.turn(Some(Duration::from_secs(30))).unwrap();
        turns += 1;
        let now = worker.protocol.handler().heard;
        assert!(now - heard <= A_TURN, "{} messages in a turn", now - heard);
        heard = now;
        assert!(turns < 1_000, "{heard} of {MESSAGES} have come");
    }
    assert!(turns >= MESSAGES / A_TURN, "{turns} turns");
}
