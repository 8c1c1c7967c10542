//! permessage-deflate: payloads of any bytes are refused or bounded; what is written is read back; any words of a
//! handshake are judged, and an answer is one that its own reader understands.

#![no_main]

use amp_relay::wire::ws::{
    Role,
    deflate::{Agreed, Codec, Connection, DeflateOptions, accept, answer},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, bits, level, ratio, max_a, max_b], rest)) = data.split_first_chunk::<6>() else { return };
    let takeover = flags & 1 != 0;
    let window_bits = 9 + bits % 7;
    let options = DeflateOptions { takeover, window_bits, level, threshold: 0, ratio_max: ratio.into() };
    let agreed = Agreed {
        server_no_takeover: !takeover,
        client_no_takeover: !takeover,
        server_bits: window_bits,
        client_bits: window_bits,
    };
    let max = usize::from(u16::from_be_bytes([max_a, max_b]));
    let mut codec = Codec::new(options);

    // This byte ends a payload or a message.
    let mut hostile = Connection::new(Role::Server, agreed);
    for payload in rest.split(|byte| *byte == 0xA5) {
        if let Ok(message) = codec.inflate(&mut hostile, payload, max) {
            assert!(message.len() <= max);
            codec.recycle(message);
        }
    }

    let mut reader = Codec::new(DeflateOptions { ratio_max: u32::MAX, ..options });
    let (mut from, mut to) = (Connection::new(Role::Client, agreed), Connection::new(Role::Server, agreed));
    for message in rest.split(|byte| *byte == 0xA5) {
        if let Some(payload) = codec.deflate(&mut from, message) {
            let read = reader.inflate(&mut to, payload, message.len()).expect("what we wrote");
            assert_eq!(read, message);
            reader.recycle(read);
        }
    }

    if let Ok(words) = str::from_utf8(rest) {
        let _ = accept(&options, words.split(','));
        if let Some((_, said)) = answer(&options, takeover, words.split(',')) {
            assert!(answer(&options, takeover, [said.as_str()].into_iter()).is_some());
        }
    }
});
