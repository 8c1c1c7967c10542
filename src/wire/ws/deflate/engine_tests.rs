//! Tests of the engine: the RFC's examples, windows, bombs, cuts and garbage. Must not know frames.

use proptest::prelude::*;

use super::*;
use crate::wire::ws::deflate::{answer, offer};

const MAX: usize = 1 << 20;

fn options(takeover: bool, window_bits: u8, level: u8) -> DeflateOptions {
    DeflateOptions { takeover, window_bits, level, threshold: 0, ratio_max: 2_000 }
}

/// Both ends of a connection that agreed on what these options mean.
fn pair(options: &DeflateOptions) -> [(Codec, Connection); 2] {
    let offer = offer(options);
    let (agreed, _) = answer(options, options.takeover, offer.split(',')).expect("an answer");
    [Role::Client, Role::Server].map(|role| (Codec::new(*options), Connection::new(role, agreed)))
}

fn receiver(takeover: bool) -> (Codec, Connection) {
    let [_, server] = pair(&options(takeover, 15, 6));
    server
}

fn inflate(end: &mut (Codec, Connection), payload: &[u8]) -> Result<Vec<u8>, CloseCode> {
    let message = end.0.inflate(&mut end.1, payload, MAX).map_err(|fault| fault.code)?;
    let copy = message.clone();
    end.0.recycle(message);
    Ok(copy)
}

#[test]
fn the_examples_of_the_rfc() {
    // RFC 7692 section 7.2.3.
    const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
    for takeover in [false, true] {
        let mut end = receiver(takeover);
        for payload in [
            &HELLO[..],
            // A stored block, a final block with an empty one behind it, two blocks.
            &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00],
            &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
            &[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00],
        ] {
            assert_eq!(inflate(&mut end, payload).as_deref(), Ok(&b"Hello"[..]), "{payload:02X?}");
        }
        assert_eq!(inflate(&mut end, &[0x00]).as_deref(), Ok(&b""[..]), "the empty message");
        // The second message refers to the first.
        assert_eq!(inflate(&mut end, &HELLO).as_deref(), Ok(&b"Hello"[..]));
        let second = inflate(&mut end, &[0xF2, 0x00, 0x11, 0x00, 0x00]);
        let want = if takeover { Ok(&b"Hello"[..]) } else { Err(&CloseCode::INVALID_DATA) };
        assert_eq!(second.as_deref(), want);
    }
}

#[test]
fn a_block_behind_a_final_one_may_refer_to_it() {
    // "Hello" in a final block, then a block that copies it: a message of two streams, one window.
    let payload = [0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0xF2, 0x00, 0x11, 0x00, 0x00];
    assert_eq!(inflate(&mut receiver(false), &payload).as_deref(), Ok(&b"HelloHello"[..]));
    // As many as there may be; one more is not what a compressor writes.
    let many = |count| [[0x03, 0x00].repeat(count), vec![0x00]].concat();
    assert_eq!(inflate(&mut receiver(false), &many(FINALS_MAX as usize)).as_deref(), Ok(&b""[..]));
    assert_eq!(inflate(&mut receiver(false), &many(FINALS_MAX as usize + 1)), Err(CloseCode::INVALID_DATA));
}

#[test]
fn a_message_must_end_where_a_block_ends() {
    let mut ends = pair(&options(false, 15, 6));
    let text: Vec<u8> =
        (0..2_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 20).to_string().into_bytes()).collect();
    let [(codec, connection), receiver] = &mut ends;
    let payload = codec.deflate(connection, &text).expect("it becomes shorter").to_vec();
    for cut in 0..payload.len() {
        assert_eq!(inflate(receiver, &payload[..cut]), Err(CloseCode::INVALID_DATA), "cut at {cut}");
    }
    assert_eq!(inflate(receiver, &payload), Ok(text));
    // The tail that is to be taken off was not; nothing at all; a final block with nothing behind.
    for wrong in [&[&payload[..], &TAIL].concat()[..], &[], &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00], b"not deflate"]
    {
        assert_eq!(inflate(receiver, wrong), Err(CloseCode::INVALID_DATA));
    }
    assert_eq!(inflate(receiver, &payload).map(|message| message.len()), Ok(ends_len(&payload)));
}

/// The length of a message by the library's own reading of it.
fn ends_len(payload: &[u8]) -> usize {
    let mut out = Vec::with_capacity(MAX);
    let whole = [payload, &TAIL].concat();
    Decompress::new(false).decompress_vec(&whole, &mut out, FlushDecompress::None).expect("it is valid");
    out.len()
}

#[test]
fn a_bomb_is_stopped_by_the_size_and_by_the_ratio() {
    let zeros = vec![0; 8 << 20];
    for takeover in [false, true] {
        let [(mut codec, mut connection), mut receiver] = pair(&options(takeover, 15, 9));
        let bomb = codec.deflate(&mut connection, &zeros).expect("it becomes shorter").to_vec();
        assert!(bomb.len() < 16 * 1024, "{} bytes", bomb.len());
        let fault = receiver.0.inflate(&mut receiver.1, &bomb, MAX).expect_err("above the size");
        assert_eq!(fault.code, CloseCode::TOO_BIG);
        assert!(receiver.0.inflated.capacity() <= ROOM_KEPT_MAX, "room was kept");

        let mut strict = Codec::new(DeflateOptions { ratio_max: 100, ..*receiver.0.options() });
        let fault = strict.inflate(&mut receiver.1, &bomb, usize::MAX).expect_err("above the ratio");
        assert_eq!(fault.code, CloseCode::TOO_BIG);
    }
    // What is small after all is not held against it.
    let [(mut codec, mut connection), receiver] = pair(&options(false, 15, 9));
    let dense = codec.deflate(&mut connection, &zeros[..RATIO_FREE]).expect("it becomes shorter").to_vec();
    let mut strict = (Codec::new(DeflateOptions { ratio_max: 1, ..options(false, 15, 9) }), receiver.1);
    assert_eq!(inflate(&mut strict, &dense).map(|message| message.len()), Ok(RATIO_FREE));
}

#[test]
fn the_limit_is_exact() {
    let [(mut codec, mut connection), mut receiver] = pair(&options(false, 15, 6));
    for len in [1, ROOM_MIN - 1, ROOM_MIN, ROOM_MIN + 1, 2 * ROOM_MIN, 100_000] {
        let payload = codec.deflate(&mut connection, &vec![b'x'; len]).map(<[u8]>::to_vec);
        let Some(payload) = payload else { continue };
        let message = receiver.0.inflate(&mut receiver.1, &payload, len).expect("at the limit");
        assert_eq!(message.len(), len);
        receiver.0.recycle(message);
        let fault = receiver.0.inflate(&mut receiver.1, &payload, len - 1).expect_err("above the limit");
        assert_eq!(fault.code, CloseCode::TOO_BIG);
    }
}

#[test]
fn what_does_not_become_shorter_is_sent_as_it_is() {
    let noise: Vec<u8> = (0..4_000u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let text = b"again and again and again and again and again".repeat(4);
    for takeover in [false, true] {
        let [(mut codec, mut connection), mut receiver] = pair(&options(takeover, 15, 1));
        assert_eq!(codec.deflate(&mut connection, b""), None);
        for _ in 0..3 {
            let payload = codec.deflate(&mut connection, &text).expect("it becomes shorter").to_vec();
            assert_eq!(inflate(&mut receiver, &payload).as_deref(), Ok(&text[..]));
            // Not sent, so it must not be referred to by what is.
            assert_eq!(codec.deflate(&mut connection, &noise[..300]), None);
        }
        let mut choosy = Codec::new(DeflateOptions { threshold: 100, ..*codec.options() });
        assert_eq!(choosy.deflate(&mut connection, &[b'x'; 99]), None);
        assert!(choosy.deflate(&mut connection, &[b'x'; 100]).is_some());
    }
}

#[test]
fn a_window_of_eight_bits_is_never_written() {
    let agreed = Agreed { server_no_takeover: true, client_no_takeover: true, server_bits: 8, client_bits: 8 };
    let mut codec = Codec::new(options(false, 15, 6));
    for role in [Role::Client, Role::Server] {
        assert_eq!(codec.deflate(&mut Connection::new(role, agreed), &[b'x'; 1000]), None);
    }
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(prop_oneof![Just("alpha "), Just("beta"), Just("{\"gamma\": 17}, ")], 0..400);
    prop_oneof![
        4 => words.prop_map(|words| words.concat().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..3_000),
        1 => (any::<u8>(), 0usize..100_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn messages_come_out_as_they_went_in(
        takeover in any::<bool>(),
        bits in 9u8..=15,
        level in 1u8..=9,
        messages in prop::collection::vec((any::<bool>(), any_message()), 0..8),
    ) {
        let [mut client, mut server] = pair(&options(takeover, bits, level));
        for (to_server, message) in messages {
            let (from, to) = if to_server { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let Some(payload) = from.0.deflate(&mut from.1, &message).map(<[u8]>::to_vec) else { continue };
            prop_assert!(payload.len() < message.len());
            prop_assert_eq!(inflate(to, &payload), Ok(message));
        }
    }

    #[test]
    fn a_shared_codec_serves_connections_of_all_windows(
        messages in prop::collection::vec((9u8..=15, any_message()), 0..12),
    ) {
        let mut server = Codec::new(options(false, 15, 1));
        for (bits, message) in messages {
            let [_, (_, mut connection)] = pair(&options(false, bits, 1));
            let Some(payload) = server.deflate(&mut connection, &message).map(<[u8]>::to_vec) else { continue };
            // A reader with a window that is just as large must do.
            let mut reader = Decompress::new_with_window_bits(false, bits);
            let mut out = Vec::with_capacity(message.len() + 1);
            reader.decompress_vec(&[&payload[..], &TAIL].concat(), &mut out, FlushDecompress::None).expect("valid");
            prop_assert_eq!(out, message);
        }
    }

    #[test]
    fn garbage_is_refused_or_bounded(
        takeover in any::<bool>(),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        max in 0usize..5_000,
    ) {
        let mut end = receiver(takeover);
        for payload in payloads {
            match end.0.inflate(&mut end.1, &payload, max) {
                Ok(message) => {
                    prop_assert!(message.len() <= max);
                    end.0.recycle(message);
                }
                Err(fault) => {
                    prop_assert!([CloseCode::INVALID_DATA, CloseCode::TOO_BIG].contains(&fault.code));
                }
            }
        }
    }

    #[test]
    fn a_changed_byte_never_breaks_us(message in any_message(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let [(mut codec, mut connection), mut receiver] = pair(&options(false, 15, 6));
        if let Some(payload) = codec.deflate(&mut connection, &message) {
            let mut payload = payload.to_vec();
            let at = at.index(payload.len());
            payload[at] ^= flip;
            let _ = inflate(&mut receiver, &payload);
            // And it leaves nothing behind for the next connection.
            let [(mut codec, mut connection), _] = pair(&options(false, 15, 6));
            let next = codec.deflate(&mut connection, &[b'y'; 500]).expect("it becomes shorter");
            prop_assert_eq!(inflate(&mut receiver, next), Ok(vec![b'y'; 500]));
        }
    }
}
