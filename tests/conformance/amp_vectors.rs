//! The vectors of AMP's RFC 001 and the frames of the Go relay (`tests/data/amp`): every message is read, verified,
//! written again byte for byte, or refused with the listed code. Then frames near them, against two other decoders.

use crate::amp_oracle;
use amp_relay::{
    base::Now,
    wire::{
        amp::{
            self, Builder, EnvelopeView, Frame, Header, Id, KeyEncoding, NotExpressible, Reason, To, Type, VerifyError,
            body::{Ack, AckSource, HelloView},
            check::{self, Names, Peer, Policy, Refusal},
            did_base, parse, rekey, sig_input, sign, verify, verify_over,
        },
        cbor,
    },
};
use ed25519_dalek::{SigningKey, VerifyingKey};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Rfc {
    params: Params,
    vectors: Vec<Vector>,
    negative: Vec<Negative>,
    derived: Vec<Derived>,
    transport: Vec<Transport>,
    error_code_bytes: Vec<CodeBytes>,
}

#[derive(Deserialize)]
struct Params {
    ed25519_seed: String,
    ed25519_public: String,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    typ: u64,
    ts: u64,
    id: String,
    reply_to: Option<String>,
    from: String,
    to: String,
    body_cbor: String,
    sig_input: String,
    signature: String,
    message: String,
}

#[derive(Deserialize)]
struct Negative {
    name: String,
    now_ms: u64,
    message: String,
    expect: u64,
}

#[derive(Deserialize)]
struct Derived {
    name: String,
    body_cbor: Option<String>,
    sig_input: Option<String>,
    message: Option<String>,
    message_intkeys: Option<String>,
    did: Option<String>,
    signing_method: Option<String>,
}

#[derive(Deserialize)]
struct Transport {
    frame: String,
    payload: Option<String>,
}

#[derive(Deserialize)]
struct CodeBytes {
    code: u64,
    cbor: String,
}

#[derive(Deserialize)]
struct Go {
    frames: Vec<GoFrame>,
}

#[derive(Deserialize)]
struct GoFrame {
    dialect: String,
    what: String,
    hex: String,
}

fn rfc() -> Rfc {
    serde_json::from_str(include_str!("../data/amp/rfc001-appendix-a.json")).unwrap()
}

fn go() -> Go {
    serde_json::from_str(include_str!("../data/amp/go-relay-observed.json")).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

impl Rfc {
    fn key(&self) -> SigningKey {
        SigningKey::from_bytes(&hex(&self.params.ed25519_seed).try_into().unwrap())
    }

    fn derived(&self, name: &str) -> &Derived {
        self.derived.iter().find(|derived| derived.name == name).unwrap()
    }

    fn negative(&self, name: &str) -> &Negative {
        self.negative.iter().find(|negative| negative.name == name).unwrap()
    }
}

#[track_caller]
fn view(frame: &[u8]) -> EnvelopeView<'_> {
    match parse(frame) {
        Ok(Frame::Envelope(view)) => view,
        other => panic!("{other:?}"),
    }
}

/// Writes a view again as a new message, with the signature given.
fn rewritten(view: &EnvelopeView<'_>) -> Vec<u8> {
    let builder = Builder::new(view.header);
    let builder = match view.enc {
        Some(enc) => builder.enc(enc),
        None => builder.body(view.body_or_null().unwrap()),
    };
    let mut out = Vec::new();
    builder.write(view.key_encoding, view.sig, &mut out).unwrap();
    out
}

/// Reads, verifies, signs again and writes again one signed message.
fn signed(key: &SigningKey, message: &[u8], body: &[u8], input: &[u8]) {
    let found = view(message);
    let (mut written, mut scratch) = (Vec::new(), Vec::new());
    sig_input(&found.header, body, &mut written);
    assert_eq!(written, input);
    assert_eq!(cbor::check_deterministic(input), Ok(()));
    assert_eq!(verify_over(&found, body, &key.verifying_key(), &mut scratch), Ok(()));
    assert_eq!(sign(key, &found.header, body, &mut scratch), *found.sig.unwrap());
    let public = key.verifying_key();
    let whole = verify(&found, &public, &mut scratch);
    assert_eq!(whole, if found.enc.is_some() { Err(VerifyError::Encrypted) } else { Ok(()) });
    assert_eq!(rewritten(&found), message);
    assert!(amp_oracle::agree(message));
    if found.enc.is_none() {
        assert_eq!(found.body, Some(body));
        let mut out = Vec::new();
        let builder = Builder::new(found.header).body(body);
        builder.write_signed(found.key_encoding, key, &mut scratch, &mut out).unwrap();
        assert_eq!(out, message);
    }
}

#[test]
fn every_message_of_the_rfc_is_read_verified_and_written_again() {
    let rfc = rfc();
    assert_eq!(rfc.key().verifying_key().to_bytes(), *hex(&rfc.params.ed25519_public));
    assert_eq!(rfc.vectors.len(), 9);
    for vector in &rfc.vectors {
        println!("{}", vector.name);
        let message = hex(&vector.message);
        let found = view(&message);
        let reply_to = vector.reply_to.as_deref().map(hex);
        let id = Id(hex(&vector.id).try_into().unwrap());
        let header = Header {
            ts: vector.ts,
            reply_to: reply_to.as_deref(),
            ..Header::new(id, Type(vector.typ), &vector.from, To::One(&vector.to))
        };
        assert_eq!((found.v, found.key_encoding, found.header), (1, KeyEncoding::Text, header));
        assert!(id.belongs_to(vector.ts));
        assert_eq!(found.sig.map(|sig| sig.to_vec()), Some(hex(&vector.signature)));
        assert_eq!(found.enc.is_some(), vector.name == "message-authcrypt");
        assert_eq!(cbor::check_deterministic(&message), Ok(()));
        signed(&rfc.key(), &message, &hex(&vector.body_cbor), &hex(&vector.sig_input));
    }
    let body = |name: &str| hex(&rfc.vectors.iter().find(|vector| vector.name == name).unwrap().body_cbor);
    assert_eq!(HelloView::read(&body("hello")).unwrap().select(), Some("1.0"));
    let ack = body("ack");
    let read = Ack::read(&ack).unwrap();
    assert_eq!((read.source, read.target), (AckSource::Recipient, Some("did:web:example.com:agent:bob")));
    let mut written = Vec::new();
    read.write(&mut written);
    assert_eq!(written, ack);
}

#[test]
fn the_derived_messages_hold_in_both_dialects() {
    let rfc = rfc();
    let several = rfc.derived("multi-recipient-threaded");
    let both = rfc.derived("same-message-two-dialects");
    for derived in [several, both] {
        let bytes = |text: &Option<String>| hex(text.as_deref().unwrap());
        signed(&rfc.key(), &bytes(&derived.message), &bytes(&derived.body_cbor), &bytes(&derived.sig_input));
        if let Some(int) = &derived.message_intkeys {
            signed(&rfc.key(), &hex(int), &bytes(&derived.body_cbor), &bytes(&derived.sig_input));
        }
    }
    let text = hex(both.message.as_deref().unwrap());
    let int = hex(both.message_intkeys.as_deref().unwrap());
    let mut out = Vec::new();
    rekey(&view(&text), KeyEncoding::Int, &mut out).unwrap();
    assert_eq!(out, int);
    out.clear();
    rekey(&view(&int), KeyEncoding::Text, &mut out).unwrap();
    assert_eq!(out, text);

    let message = hex(several.message.as_deref().unwrap());
    let to: Vec<&str> = view(&message).header.to.iter().collect();
    assert_eq!(to, ["did:web:example.com:agent:bob", "did:web:example.com:agent:carol"]);
    out.clear();
    assert_eq!(rekey(&view(&message), KeyEncoding::Int, &mut out), Err(NotExpressible::Recipients));
    let encrypted = hex(rfc.derived("corrected-authcrypt").message.as_deref().unwrap());
    assert_eq!(rekey(&view(&encrypted), KeyEncoding::Int, &mut out), Err(NotExpressible::Encrypted));
    assert!(out.is_empty());

    let key = rfc.derived("did-key");
    for did in [&key.did, &key.signing_method] {
        assert_eq!(amp::verifying_key(did.as_deref().unwrap()), Some(rfc.key().verifying_key()));
    }
}

/// What a relay named `did` answers to a message on a connection of its sender: the checks, then the signature.
fn answered(did: &str, message: &[u8], now_ms: u64, key: &VerifyingKey) -> Result<(), u64> {
    let found = view(message);
    let policy = Policy {
        names: Names { did, aliases: &[] },
        handled: |typ| typ != Type(0x0c),
        strict_types: false,
        unsigned: false,
        skew_ms: check::SKEW_MS_DEFAULT,
        ttl_ms_max: check::TTL_MS_MAX_DEFAULT,
        recipients_max: 8,
    };
    let peer = Peer { negotiated: true, principal: Some(did_base(found.header.from)) };
    let code = |refusal: Refusal| refusal.code.0;
    check::ingress(&found, &peer, &policy, Now { mono_ms: 0, unix_ms: now_ms }).map_err(code)?;
    if found.enc.is_none() {
        verify(&found, key, &mut Vec::new()).map_err(|error| error.code().0)?;
    }
    if found.header.typ == Type::ACK {
        check::ack(&found, false).map_err(code)?;
    }
    Ok(())
}

#[test]
fn the_negative_messages_get_the_listed_code() {
    let rfc = rfc();
    let key = rfc.key().verifying_key();
    for name in ["N1", "N2", "N4", "N5"] {
        let negative = rfc.negative(name);
        let message = hex(&negative.message);
        let to = view(&message).header.to.iter().next().unwrap();
        assert_eq!(answered(to, &message, negative.now_ms, &key), Err(negative.expect), "{}", negative.name);
        assert!(amp_oracle::agree(&message));
    }
    // N4 is refused for its type only where that is ours to know; forwarded, its signature is what is wrong with it.
    let wrong_type = rfc.negative("N4");
    assert_eq!(answered("did:web:relay", &hex(&wrong_type.message), wrong_type.now_ms, &key), Err(1002));
    // N3 is for the recipient, who alone can open it: to a relay it is a good message.
    let sealed = rfc.negative("N3");
    assert_eq!(answered("did:web:relay", &hex(&sealed.message), sealed.now_ms, &key), Ok(()));
    assert_ne!(Some(&sealed.message), rfc.derived("corrected-authcrypt").message.as_ref());
}

#[test]
fn payloads_of_the_transport_vectors_are_no_messages() {
    for transport in rfc().transport {
        let frame = hex(&transport.frame);
        let length = u32::from_be_bytes(*frame.first_chunk().unwrap()) as usize;
        let payload = &frame[5..4 + length];
        let reason = parse(payload).unwrap_err().reason;
        match transport.payload {
            Some(whole) => {
                assert_eq!(payload, hex(&whole));
                assert_eq!(reason, Reason::Missing(amp::Field::V));
            }
            None => assert_eq!(reason, Reason::Cbor(cbor::Error::Truncated)),
        }
    }
}

#[test]
fn error_codes_are_the_listed_bytes() {
    for code in rfc().error_code_bytes {
        let mut out = Vec::new();
        cbor::uint(&mut out, code.code);
        assert_eq!(out, hex(&code.cbor));
        assert!(amp::Code(code.code).name().is_some());
    }
}

#[test]
fn frames_of_the_go_relay_are_read() {
    for frame in go().frames {
        println!("{}", frame.what);
        let bytes = hex(&frame.hex);
        if frame.dialect == "legacy-string-v0" {
            assert!(matches!(parse(&bytes), Ok(Frame::Legacy(whole)) if whole == bytes));
            continue;
        }
        let found = view(&bytes);
        assert_eq!((found.key_encoding, found.v, found.sig), (KeyEncoding::Int, 1, None));
        assert!(found.header.id.belongs_to(found.header.ts));
        assert!(amp_oracle::agree(&bytes));
        let mut out = Vec::new();
        assert_eq!(rekey(&found, KeyEncoding::Text, &mut out), Err(NotExpressible::Unsigned));
        assert_eq!(verify(&found, &rfc().key().verifying_key(), &mut out), Err(VerifyError::Unsigned));
        let body = found.body_or_null().unwrap();
        match found.header.typ {
            Type::REQUEST => {
                assert_eq!(found.header.to, To::One(amp::RELAY_SERVER));
                assert_eq!(cbor::get(body, "action").and_then(cbor::as_text), Some("ping"));
                assert_eq!(rewritten(&found), bytes);
            }
            Type::RESPONSE => {
                assert_eq!(cbor::get(body, "message").and_then(cbor::as_text), Some("pong"));
                assert_eq!(found.header.reply_to.map(<[u8]>::len), Some(16));
                assert_eq!(rewritten(&found).len(), bytes.len());
            }
            other => {
                // The null body that was lost is there again.
                assert_eq!((other, found.body, body), (Type::MESSAGE, None, cbor::NULL));
                assert_eq!(rewritten(&found)[1..], [&bytes[1..], b"\x0b\xf6"].concat());
            }
        }
    }
}

/// Every message of both files that is CBOR.
fn messages() -> Vec<Vec<u8>> {
    let rfc = rfc();
    let derived = rfc.derived.iter().flat_map(|derived| [&derived.message, &derived.message_intkeys]);
    let texts = rfc.vectors.iter().map(|vector| &vector.message).chain(derived.flatten());
    texts.map(|text| hex(text)).chain(go().frames.iter().map(|frame| hex(&frame.hex))).collect()
}

/// One bit of every byte; all eight of them take minutes without optimization.
#[test]
fn no_changed_byte_survives_the_signature() {
    let rfc = rfc();
    let (key, mut scratch) = (rfc.key().verifying_key(), Vec::new());
    for vector in rfc.vectors.iter().filter(|vector| ["ack", "deleg-grant"].contains(&&*vector.name)) {
        let message = hex(&vector.message);
        let good = view(&message);
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 1 << (at % 8);
            if let Ok(Frame::Envelope(found)) = parse(&changed)
                && verify(&found, &key, &mut scratch).is_ok()
            {
                // Only the version is not signed.
                assert_eq!((found.header, found.body, found.sig), (good.header, good.body, good.sig));
                assert_ne!(found.v, good.v);
            }
        }
    }
}

#[test]
fn every_cut_of_a_message_is_refused() {
    for message in messages() {
        for end in 0..message.len() {
            assert!(!matches!(parse(&message[..end]), Ok(Frame::Envelope(_))), "{end}");
        }
    }
}

/// Items for a body: any shape, any head length, now and then what is not allowed.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let head = |major: u8, argument: u64, long: u8| {
        let mut out = Vec::new();
        match long {
            0 => cbor::head(&mut out, major, argument),
            1 => out.extend([major << 5 | 25, (argument >> 8) as u8, argument as u8]),
            2 => out.extend([&[major << 5 | 27][..], &argument.to_be_bytes()].concat()),
            _ => out.push(major << 5 | 31),
        }
        out
    };
    let long = || prop_oneof![20 => Just(0_u8), 3 => Just(1), 3 => Just(2), 1 => Just(3)];
    let leaf = prop_oneof![
        (0_u8..2, any::<u16>(), long()).prop_map(move |(major, value, long)| head(major, value.into(), long)),
        any::<f64>().prop_map(|value| [&[0xfb][..], &value.to_bits().to_be_bytes()].concat()),
        any::<u16>().prop_map(|bits| [&[0xf9][..], &bits.to_be_bytes()].concat()),
        (0xe0..=0xff_u8).prop_map(|byte| vec![byte]),
        (any::<u8>(), "[a-zü]{0,30}")
            .prop_map(move |(long, text)| { [head(3, text.len() as u64, long % 3), text.into_bytes()].concat() }),
        proptest::collection::vec(any::<u8>(), 0..30)
            .prop_map(move |bytes| [head(2, bytes.len() as u64, 0), bytes].concat()),
    ];
    leaf.prop_recursive(4, 30, 5, move |inner| {
        let items = proptest::collection::vec(inner.clone(), 0..5);
        let pairs = proptest::collection::vec((inner.clone(), inner.clone()), 0..5);
        prop_oneof![
            (items, long())
                .prop_map(move |(items, long)| { [head(4, items.len() as u64, long), items.concat()].concat() }),
            (pairs, long()).prop_map(move |(pairs, long)| {
                let items: Vec<u8> = pairs.iter().flat_map(|(key, value)| [&key[..], value].concat()).collect();
                [head(5, pairs.len() as u64, long), items].concat()
            }),
            (0_u64..40, inner).prop_map(move |(tag, item)| [head(6, tag, 0), item].concat()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Frames near good ones: bytes changed, put in or taken out.
    #[test]
    fn other_decoders_read_the_same_near_the_vectors(
        which: prop::sample::Index,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..3, any::<u8>()), 0..4),
    ) {
        let messages = messages();
        let mut frame = which.get(&messages).clone();
        for (at, kind, byte) in changes {
            let at = at.index(frame.len());
            match kind {
                0 => frame[at] = byte,
                1 => frame.insert(at, byte),
                _ => drop(frame.remove(at)),
            }
        }
        amp_oracle::agree(&frame);
    }

    /// Good envelopes with any body and an unknown key.
    #[test]
    fn other_decoders_read_the_same_bodies(body in body(), other in body(), int: bool) {
        let header = Header::new(Id::new(1, [0; 8]), Type::MESSAGE, "did:a", To::Many(&["did:b", "did:c#k"]));
        let header = if int { Header { to: To::One("did:b"), ..header } } else { header };
        let (dialect, unknown) = if int { (KeyEncoding::Int, &b"\x18\x63"[..]) } else { (KeyEncoding::Text, &b"\x61z"[..]) };
        let mut frame = Vec::new();
        Builder::new(header).write(dialect, Some(&[7; 64]), &mut frame).unwrap();
        let null = frame.iter().rposition(|&byte| byte == 0xf6).unwrap();
        frame.splice(null..=null, body.iter().copied());
        frame[0] += 1;
        frame.extend([unknown, &other].concat());
        let good = cbor::check(&body).is_ok() && cbor::check(&other).is_ok();
        // What is cut off by itself may be made whole by what follows it in the frame.
        prop_assert!(amp_oracle::agree(&frame) || !good);
    }
}
