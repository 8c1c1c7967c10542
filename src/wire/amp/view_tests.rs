//! The envelope: what is refused and why, what is free, and that what the builder writes is what the view reads.

use ed25519_dalek::SigningKey;
use proptest::{prelude::*, sample::select};

use super::*;
use crate::wire::amp::{BuildError, Builder, NotExpressible, VerifyError, parse, rekey, verify};

const TS: u64 = 1_707_055_200_000;

/// One key and one value.
type Pair = (Vec<u8>, Vec<u8>);

fn item(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// A good message as pairs, so that a test can spoil one.
fn pairs(key_encoding: KeyEncoding) -> Vec<Pair> {
    let key = |field: Field| match key_encoding {
        KeyEncoding::Text => item(|out| cbor::text(out, field.name())),
        KeyEncoding::Int => item(|out| cbor::uint(out, field as u64)),
    };
    let values = [
        (Field::V, item(|out| cbor::uint(out, 1))),
        (Field::Id, item(|out| cbor::bytes(out, &Id::new(TS, [1; 8]).0))),
        (Field::Typ, item(|out| cbor::uint(out, 0x10))),
        (Field::Ts, item(|out| cbor::uint(out, TS))),
        (Field::Ttl, item(|out| cbor::uint(out, 60_000))),
        (Field::From, item(|out| cbor::text(out, "did:web:a"))),
        (Field::To, item(|out| cbor::text(out, "did:web:b"))),
        (Field::Sig, item(|out| cbor::bytes(out, &[7; 64]))),
        (Field::Body, cbor::NULL.to_vec()),
    ];
    values.into_iter().map(|(field, value)| (key(field), value)).collect()
}

fn frame(pairs: &[Pair]) -> Vec<u8> {
    let mut out = item(|out| cbor::map(out, pairs.len()));
    pairs.iter().for_each(|(key, value)| out.extend([&key[..], value].concat()));
    out
}

fn reason(frame: &[u8]) -> Reason {
    parse(frame).expect_err("it is refused").reason
}

fn view(frame: &[u8]) -> EnvelopeView<'_> {
    match parse(frame) {
        Ok(Frame::Envelope(view)) => view,
        other => panic!("{other:?}"),
    }
}

/// The reason for a message with this value of `field`.
fn with(key_encoding: KeyEncoding, field: Field, value: &[u8]) -> Result<(), Reason> {
    let mut pairs = pairs(key_encoding);
    let known = pairs.iter().position(|(key, _)| {
        key[1..] == *field.name().as_bytes() || (key_encoding == KeyEncoding::Int && *key == [field as u8])
    });
    match known {
        Some(at) => pairs[at].1 = value.to_vec(),
        None if key_encoding == KeyEncoding::Int => pairs.push((vec![field as u8], value.to_vec())),
        None => pairs.push((item(|out| cbor::text(out, field.name())), value.to_vec())),
    }
    parse(&frame(&pairs)).map(drop).map_err(|malformed| malformed.reason)
}

#[test]
fn the_kinds_of_frames_are_told_apart() {
    assert!(matches!(parse(b"{\"type\":\"auth\"}"), Ok(Frame::JsonAuth(_))));
    assert!(matches!(parse(b"\xa3\x01\x61m\x02\x61e\x06\x61p"), Ok(Frame::Legacy(_))));
    assert!(matches!(parse(b"\xa3\x02\x61e\x06\x61p\x01\x61m"), Ok(Frame::Legacy(_))));
    assert_eq!(view(&frame(&pairs(KeyEncoding::Int))).key_encoding, KeyEncoding::Int);
    assert_eq!(view(&frame(&pairs(KeyEncoding::Text))).key_encoding, KeyEncoding::Text);
    assert_eq!(reason(b""), Reason::Cbor(cbor::Error::Truncated));
    assert_eq!(reason(b"\x80"), Reason::NotAMap);
    assert_eq!(reason(b"hello"), Reason::NotAMap);
    assert_eq!(reason(b"\xa0"), Reason::Missing(Field::V));
    assert_eq!(reason(b"\xbf\xff"), Reason::Cbor(cbor::Error::Indefinite));
    assert_eq!(reason(b"\xb8\x01\x61v\x01"), Reason::Cbor(cbor::Error::NotShortest));
    assert_eq!(reason(b"\xb8\x21"), Reason::TooManyKeys);
    assert_eq!(reason(b"\xa1\x40\x01"), Reason::KeyKind);
}

#[test]
fn keys_are_of_one_kind_and_stand_once() {
    for key_encoding in [KeyEncoding::Text, KeyEncoding::Int] {
        let good = pairs(key_encoding);
        let other = if key_encoding == KeyEncoding::Text { vec![0x0c] } else { b"\x63ext".to_vec() };
        let add = |key: &[u8]| frame(&[&good[..], &[(key.to_vec(), vec![0xa0])]].concat());
        assert_eq!(reason(&add(&other)), Reason::KeyKind);
        for (key, _) in &good {
            assert_eq!(reason(&add(key)), Reason::DuplicateKey);
        }
        // A key that is not ours is free, once.
        let unknown: &[u8] = if key_encoding == KeyEncoding::Text { b"\x61z" } else { b"\x18\x63" };
        assert_eq!(view(&add(unknown)).ext, None);
        let twice = [&good[..], &[(unknown.to_vec(), vec![0]), (unknown.to_vec(), vec![1])]].concat();
        assert_eq!(reason(&frame(&twice)), Reason::DuplicateKey);
        let many = |count: u8| {
            let unknown = |at: u8| match key_encoding {
                KeyEncoding::Text => vec![0x61, b'A' + at],
                KeyEncoding::Int => vec![0x18, 100 + at],
            };
            frame(&[&good[..], &(0..count).map(|at| (unknown(at), vec![0])).collect::<Vec<_>>()].concat())
        };
        view(&many(23));
        assert_eq!(reason(&many(24)), Reason::TooManyKeys);
        assert_eq!(reason(&[frame(&good), vec![0]].concat()), Reason::Cbor(cbor::Error::Trailing));
    }
    let mut bad = pairs(KeyEncoding::Text);
    bad.push((b"\x61\xff".to_vec(), vec![0]));
    assert_eq!(reason(&frame(&bad)), Reason::Cbor(cbor::Error::NotUtf8));
    // Integers above 12, zero and negative ones are no fields of ours.
    let mut odd = pairs(KeyEncoding::Int);
    odd.extend([(vec![0], vec![0]), (vec![0x0d], vec![0xa0]), (vec![0x20], vec![0])]);
    assert_eq!(view(&frame(&odd)).enc, None);
}

#[test]
fn fields_have_their_type_and_length() {
    let text = b"\x61x".as_slice();
    for key_encoding in [KeyEncoding::Text, KeyEncoding::Int] {
        for field in [Field::Id, Field::Typ, Field::Ts, Field::Ttl, Field::ReplyTo, Field::ThreadId, Field::Sig] {
            assert_eq!(with(key_encoding, field, text), Err(Reason::Field(field)), "{key_encoding:?}");
            assert_eq!(with(key_encoding, field, b"\xf6"), Err(Reason::Field(field)), "{key_encoding:?}");
        }
        for field in [Field::V, Field::From, Field::To, Field::Ext] {
            assert_eq!(with(key_encoding, field, b"\x41x"), Err(Reason::Field(field)), "{key_encoding:?}");
        }
        assert_eq!(with(key_encoding, Field::Ts, b"\x20"), Err(Reason::Field(Field::Ts)));
        assert_eq!(with(key_encoding, Field::Id, b"\x4f0123456789abcde"), Err(Reason::Field(Field::Id)));
        assert_eq!(with(key_encoding, Field::Id, b"\x510123456789abcdefg"), Err(Reason::Field(Field::Id)));
        assert_eq!(with(key_encoding, Field::Ts, b"\x18\x01"), Err(Reason::Cbor(cbor::Error::NotShortest)));
        assert_eq!(with(key_encoding, Field::From, b"\x78\x01x"), Err(Reason::Cbor(cbor::Error::NotShortest)));
        assert_eq!(with(key_encoding, Field::From, b"\x61\xff"), Err(Reason::Cbor(cbor::Error::NotUtf8)));
        // In the body long heads are free, indefinite lengths are not.
        assert_eq!(with(key_encoding, Field::Body, b"\xb8\x01\x18\x01\x00"), Ok(()));
        assert_eq!(with(key_encoding, Field::Body, b"\x9f\xff"), Err(Reason::Cbor(cbor::Error::Indefinite)));
        assert_eq!(with(key_encoding, Field::Body, &[0x81; 32]), Err(Reason::Cbor(cbor::Error::TooDeep)));
        let deepest = [vec![0x81; 31], vec![0]].concat();
        assert_eq!(with(key_encoding, Field::Body, &deepest), Ok(()));
    }
    assert_eq!(with(KeyEncoding::Text, Field::Enc, b"\xa0"), Err(Reason::TwoPayloads));
    assert_eq!(with(KeyEncoding::Text, Field::To, b"\x82\x61x\x61x"), Ok(()));
    assert_eq!(with(KeyEncoding::Int, Field::To, b"\x81\x61x"), Err(Reason::Field(Field::To)));
    assert_eq!(with(KeyEncoding::Text, Field::To, b"\x80"), Err(Reason::Field(Field::To)));
    assert_eq!(with(KeyEncoding::Text, Field::To, b"\x82\x61x\x01"), Err(Reason::Field(Field::To)));
    assert_eq!(with(KeyEncoding::Text, Field::To, b"\x82\x61x\x61\xff"), Err(Reason::Cbor(cbor::Error::NotUtf8)));
    assert_eq!(with(KeyEncoding::Text, Field::To, b"\x98\x01\x61x"), Err(Reason::Cbor(cbor::Error::NotShortest)));
    assert!(with(KeyEncoding::Text, Field::To, b"\x9a\xff\xff\xff\xff").is_err());
}

#[test]
fn a_field_that_must_be_there_is() {
    for key_encoding in [KeyEncoding::Text, KeyEncoding::Int] {
        let good = pairs(key_encoding);
        for at in 0..good.len() {
            let mut less = good.clone();
            less.remove(at);
            let frame = frame(&less);
            match at {
                // Integer keys may go without signature and body.
                7 if key_encoding == KeyEncoding::Int => assert_eq!(view(&frame).sig, None),
                8 if key_encoding == KeyEncoding::Int => assert_eq!(view(&frame).body_or_null(), Some(cbor::NULL)),
                7 => assert_eq!(reason(&frame), Reason::Missing(Field::Sig)),
                8 => assert_eq!(reason(&frame), Reason::Missing(Field::Body)),
                _ => assert_eq!(Some(reason(&frame)), REQUIRED.get(at).copied().map(Reason::Missing)),
            }
        }
    }
}

#[test]
fn what_was_read_before_a_fault_is_told() {
    let mut bad = pairs(KeyEncoding::Text);
    bad[4].1 = vec![0xf6];
    let bytes = frame(&bad);
    let malformed = parse(&bytes).unwrap_err();
    assert_eq!(malformed.id, Some(Id::new(TS, [1; 8])));
    assert_eq!(malformed.typ, Some(Type::MESSAGE));
    // The sender too where it stands behind the fault: the answer needs a recipient.
    assert_eq!(malformed.from, Some("did:web:a"));
    bad.swap(1, 4);
    let bytes = frame(&bad);
    let malformed = parse(&bytes).unwrap_err();
    assert_eq!((malformed.id, malformed.typ, malformed.from), (None, None, Some("did:web:a")));
    // An array of the same items is no map.
    let mut array = frame(&pairs(KeyEncoding::Text));
    array[0] ^= 0xa0 ^ 0x80;
    for bytes in [frame(&pairs(KeyEncoding::Int)[..5]), b"\xff".to_vec(), bytes[..4].to_vec(), array] {
        assert_eq!(parse(&bytes).unwrap_err().from, None);
    }
}

#[test]
fn key_order_is_free() {
    for key_encoding in [KeyEncoding::Text, KeyEncoding::Int] {
        let good = frame(&pairs(key_encoding));
        for turn in 0..9 {
            let mut turned = pairs(key_encoding);
            turned.rotate_left(turn);
            let turned = frame(&turned);
            assert_eq!(view(&turned).header, view(&good).header);
        }
    }
}

#[test]
fn the_builder_says_what_it_cannot_write() {
    let header = Header::new(Id::new(TS, [0; 8]), Type::MESSAGE, "did:a", To::One("did:b"));
    let mut out = Vec::new();
    let mut write = |builder: Builder<'_>, key_encoding, sig| builder.write(key_encoding, sig, &mut out);
    let sig = Some(&[1; SIG_BYTES]);
    let builder = Builder::new(header);
    let not = |error: NotExpressible| Err(BuildError::NotExpressible(error));
    assert_eq!(write(builder.enc(b"\xa0"), KeyEncoding::Int, sig), not(NotExpressible::Encrypted));
    assert_eq!(write(builder, KeyEncoding::Text, None), not(NotExpressible::Unsigned));
    assert_eq!(write(builder.ext(b"\x80"), KeyEncoding::Text, sig), Err(BuildError::NotAMap(Field::Ext)));
    assert_eq!(write(builder.ext(b"\xa0\x00"), KeyEncoding::Text, sig), Err(BuildError::NotAMap(Field::Ext)));
    assert_eq!(write(builder.enc(b"\xf6"), KeyEncoding::Text, sig), Err(BuildError::NotAMap(Field::Enc)));
    assert_eq!(write(builder.body(b"\xff"), KeyEncoding::Text, sig), Err(BuildError::Body(cbor::Error::Indefinite)));
    assert_eq!(write(builder.body(b""), KeyEncoding::Text, sig), Err(BuildError::Body(cbor::Error::Truncated)));
    let several = Builder::new(Header { to: To::Many(&["did:b"]), ..header });
    assert_eq!(write(several, KeyEncoding::Int, sig), not(NotExpressible::Recipients));
    let nobody = Builder::new(Header { to: To::Many(&[]), ..header });
    assert_eq!(write(nobody, KeyEncoding::Text, sig), Err(BuildError::NoRecipient));
    assert_eq!(write(builder, KeyEncoding::Int, None), Ok(()));
    assert!(view(&out).sig.is_none());
}

/// Arbitrary messages as values.
#[derive(Clone, Debug)]
struct Message {
    key_encoding: KeyEncoding,
    random: [u8; 8],
    typ: u64,
    ts: u64,
    ttl: u64,
    from: String,
    to: Vec<String>,
    array: bool,
    reply_to: Option<Vec<u8>>,
    thread_id: Option<Vec<u8>>,
    body: Vec<u8>,
    ext: Option<Vec<u8>>,
}

fn message() -> impl Strategy<Value = Message> {
    let body = prop_oneof![
        Just(cbor::NULL.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| item(|out| cbor::bytes(out, &bytes))),
        // Not deterministic: long heads and unsorted keys.
        Just(b"\xa2\x61b\x18\x01\x61a\x9b\0\0\0\0\0\0\0\0".to_vec()),
    ];
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let signed = (any::<[u8; 8]>(), 0_u64..0x100, any::<u64>(), any::<u64>(), "[ -~]{0,40}", any::<bool>());
    let rest = (proptest::collection::vec(".{0,30}", 1..4), bytes(), bytes(), body);
    let ext = proptest::option::of(Just(b"\xa1\x61k\x01".to_vec()));
    (select(&[KeyEncoding::Text, KeyEncoding::Int][..]), signed, rest, ext).prop_map(
        |(key_encoding, signed, rest, ext)| {
            let (random, typ, ts, ttl, from, array) = signed;
            let (mut to, reply_to, thread_id, body) = rest;
            let array = array && key_encoding == KeyEncoding::Text;
            to.truncate(if array { to.len() } else { 1 });
            Message { key_encoding, random, typ, ts, ttl, from, to, array, reply_to, thread_id, body, ext }
        },
    )
}

proptest! {
    #[test]
    fn no_frame_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    /// A byte of a good frame is changed, or the frame cut: never a panic, and what is read lies within the frame.
    #[test]
    fn no_spoiled_frame_panics(message in message(), at: proptest::sample::Index, byte: u8, cut: bool) {
        let mut frame = written(&message);
        let at = at.index(frame.len());
        if cut { frame.truncate(at) } else { frame[at] = byte }
        match parse(&frame) {
            Ok(Frame::Envelope(view)) => prop_assert_eq!(view.frame.len(), frame.len()),
            Ok(_) => {}
            Err(malformed) => prop_assert!(malformed.offset <= frame.len()),
        }
    }

    #[test]
    fn what_is_built_is_read(message in message()) {
        let frame = written(&message);
        let view = view(&frame);
        let dids: Vec<&str> = message.to.iter().map(String::as_str).collect();
        prop_assert_eq!(view.header, header(&message, &dids));
        prop_assert_eq!(view.body, Some(&*cbor::deterministic(&message.body).unwrap()));
        prop_assert_eq!(view.ext, message.ext.as_deref());
        prop_assert_eq!(view.key_encoding, message.key_encoding);
        if message.key_encoding == KeyEncoding::Text {
            prop_assert_eq!(cbor::check_deterministic(&frame), Ok(()));
        }
        let key = SigningKey::from_bytes(&[5; 32]).verifying_key();
        let mut scratch = Vec::new();
        prop_assert_eq!(verify(&view, &key, &mut scratch), Ok(()));
        let other = SigningKey::from_bytes(&[6; 32]).verifying_key();
        prop_assert_eq!(verify(&view, &other, &mut scratch), Err(VerifyError::Mismatch));
    }

    /// To the other encoding and back gives the same bytes, and the signature holds in between.
    #[test]
    fn a_change_of_keys_can_be_undone(message in message()) {
        let frame = written(&message);
        let there = if message.key_encoding == KeyEncoding::Text { KeyEncoding::Int } else { KeyEncoding::Text };
        let (mut out, mut back, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
        match rekey(&view(&frame), there, &mut out) {
            Ok(()) => {
                let key = SigningKey::from_bytes(&[5; 32]).verifying_key();
                prop_assert_eq!(verify(&view(&out), &key, &mut scratch), Ok(()));
                prop_assert_eq!(rekey(&view(&out), message.key_encoding, &mut back), Ok(()));
                prop_assert_eq!(back, frame);
            }
            Err(error) => {
                prop_assert_eq!(error, NotExpressible::Recipients);
                prop_assert!(message.array && out.is_empty());
            }
        }
    }
}

fn header<'a>(message: &'a Message, dids: &'a [&'a str]) -> Header<'a> {
    Header {
        id: Id::new(message.ts, message.random),
        typ: Type(message.typ),
        ts: message.ts,
        ttl: message.ttl,
        from: &message.from,
        to: if message.array { To::Many(dids) } else { To::One(dids[0]) },
        reply_to: message.reply_to.as_deref(),
        thread_id: message.thread_id.as_deref(),
    }
}

fn written(message: &Message) -> Vec<u8> {
    let dids: Vec<&str> = message.to.iter().map(String::as_str).collect();
    let mut builder = Builder::new(header(message, &dids)).body(&message.body);
    if let Some(ext) = &message.ext {
        builder = builder.ext(ext);
    }
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    builder.write_signed(message.key_encoding, &SigningKey::from_bytes(&[5; 32]), &mut scratch, &mut out).unwrap();
    out
}
