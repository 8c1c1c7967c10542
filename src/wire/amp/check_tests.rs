//! The checks of a relay: each with its code, and the order among them.

use super::*;
use crate::wire::amp::{Frame, Header, Id, RELAY_SERVER, body::Hello, parse};
use crate::wire::{amp::Builder, cbor};

const TS: u64 = 1_707_055_200_000;
const US: &str = "did:web:relay";
const NAMES: Names<'_> = Names { did: US, aliases: &[RELAY_SERVER] };
const POLICY: Policy<'_> = Policy {
    names: NAMES,
    handled: |typ| matches!(typ, Type::PING | Type::REQUEST),
    strict_types: false,
    unsigned: false,
    skew_ms: SKEW_MS_DEFAULT,
    ttl_ms_max: TTL_MS_MAX_DEFAULT,
    recipients_max: 2,
};
const PEER: Peer<'_> = Peer { negotiated: true, principal: Some("did:web:a") };

fn header(typ: Type, to: &'static str) -> Header<'static> {
    Header::new(Id::new(TS, [1; 8]), typ, "did:web:a#key", To::One(to))
}

fn at(unix_ms: u64) -> Now {
    Now { mono_ms: 0, unix_ms }
}

/// The code of the first check that does not pass, 0 if all do.
fn judged<T>(header: Header<'_>, body: &[u8], judge: impl Fn(&EnvelopeView<'_>) -> Result<T, Refusal>) -> u64 {
    let mut frame = Vec::new();
    Builder::new(header).body(body).write(KeyEncoding::Text, Some(&[0; 64]), &mut frame).unwrap();
    let Ok(Frame::Envelope(view)) = parse(&frame) else { panic!("{header:?}") };
    judge(&view).map_or_else(|refusal| refusal.code.0, |_| 0)
}

fn passed(header: Header<'_>, peer: &Peer<'_>, policy: &Policy<'_>, now_ms: u64) -> u64 {
    judged(header, cbor::NULL, |view| ingress(view, peer, policy, at(now_ms)))
}

#[test]
fn each_check_has_its_code() {
    let good = header(Type::MESSAGE, "did:web:b");
    assert_eq!(passed(good, &PEER, &POLICY, TS), 0);
    assert_eq!(passed(good, &Peer { negotiated: false, ..PEER }, &POLICY, TS), 1004);
    assert_eq!(passed(header(Type::MESSAGE, US), &PEER, &POLICY, TS), 1005);
    assert_eq!(passed(header(Type::MESSAGE, "relay-server"), &PEER, &POLICY, TS), 1005);
    assert_eq!(passed(header(Type::PING, US), &PEER, &POLICY, TS), 0);
    let both = Header { to: To::Many(&[US, "did:web:b"]), ..good };
    assert_eq!(passed(both, &PEER, &POLICY, TS), 0);
    let strict = Policy { strict_types: true, ..POLICY };
    assert_eq!(passed(Header { typ: Type(0x0c), ..good }, &PEER, &POLICY, TS), 0);
    assert_eq!(passed(Header { typ: Type(0x0c), ..good }, &PEER, &strict, TS), 1005);
    assert_eq!(passed(Header { typ: Type(0x90), ..good }, &PEER, &strict, TS), 0);
    assert_eq!(passed(Header { typ: Type(0x100), ..good }, &PEER, &strict, TS), 1005);
    assert_eq!(passed(Header { id: Id::new(TS + 1001, [0; 8]), ..good }, &PEER, &POLICY, TS), 1001);
    assert_eq!(passed(good, &Peer { principal: Some("did:web:b"), ..PEER }, &POLICY, TS), 3001);
    assert_eq!(passed(good, &Peer { principal: None, ..PEER }, &POLICY, TS), 3001);
    let long = Header { ttl: TTL_MS_MAX_DEFAULT + 1, ..good };
    assert_eq!(passed(long, &PEER, &POLICY, TS), 2003);
    let three = Header { to: To::Many(&["a", "b", "c"]), ..good };
    assert_eq!(passed(three, &PEER, &POLICY, TS), 2003);
}

#[test]
fn time_is_judged_by_ttl_and_skew() {
    let cases = [
        (1000, 0, 0),
        (1000, 1000, 0),
        (1000, 1001, 1003),
        (1000, -30_000, 0),
        (1000, -30_001, 1003),
        (0, 30_000, 0),
        (0, 30_001, 1003),
        (0, -30_000, 0),
        (0, -30_001, 1003),
        (u64::MAX, 1 << 40, 0),
    ];
    for (ttl, late, code) in cases {
        let now = at(TS.saturating_add_signed(late));
        let found = judged(Header { ttl, ..header(Type::MESSAGE, "did:web:b") }, cbor::NULL, |view| {
            time(view, SKEW_MS_DEFAULT, now)
        });
        assert_eq!(found, code, "ttl {ttl}, {late} ms late");
    }
}

#[test]
fn a_refused_time_says_ours() {
    let refusal = Refusal { now_ms: Some(TS), ..Refusal::new(Code::INVALID_TIMESTAMP, "late") };
    let mut body = Vec::new();
    refusal.write_body(&mut body);
    let read = ErrorBody::read(&body).unwrap();
    assert_eq!((read.code, read.retry), (Code::INVALID_TIMESTAMP, Some(false)));
    assert_eq!(cbor::get(read.details.unwrap(), "now").and_then(cbor::as_uint), Some(TS));
}

/// A message with every fault loses them one by one; the codes come in the documented order.
#[test]
fn checks_come_in_their_order() {
    let mut peer = Peer { negotiated: false, principal: None };
    let mut policy = Policy { strict_types: true, ..POLICY };
    let bad_id = Id::new(0, [0; 8]);
    let mut header = Header { id: bad_id, ttl: u64::MAX, ts: TS, ..header(Type(0x0c), "did:web:b") };
    let mut codes = Vec::new();
    for step in 0..6 {
        codes.push(passed(header, &peer, &policy, TS - 60_000 * u64::from(step < 3)));
        match step {
            0 => peer.negotiated = true,
            1 => policy.strict_types = false,
            3 => header.id = Id::new(TS, [0; 8]),
            4 => peer.principal = Some("did:web:a"),
            _ => {}
        }
    }
    assert_eq!(codes, [1004, 1005, 1003, 1001, 3001, 2003]);
}

#[test]
fn a_hello_is_for_us_fresh_and_new() {
    let mut body = Vec::new();
    Hello { versions: &["2.0", "1.0"], ..Hello::default() }.write(&mut body);
    let judged = |header: Header<'_>, body: &[u8], started, now| {
        judged(header, body, |view| {
            let found = hello(view, &NAMES, SKEW_MS_DEFAULT, started, at(now))?;
            assert_eq!((found.from, found.selected, found.from_ms), ("did:web:a", Some("1.0"), TS));
            assert_eq!(found.named == Named::Alias, view.header.to == To::One(RELAY_SERVER));
            Ok(())
        })
    };
    let good = header(Type::HELLO, US);
    assert_eq!(judged(good, &body, TS - 1, TS), 0);
    assert_eq!(judged(header(Type::HELLO, RELAY_SERVER), &body, 0, TS), 0);
    assert_eq!(judged(header(Type::HELLO, "did:web:other"), &body, 0, TS), 1004);
    assert_eq!(judged(header(Type::MESSAGE, US), &body, 0, TS), 1004);
    assert_eq!(judged(Header { to: To::Many(&[US]), ..good }, &body, 0, TS), 1004);
    assert_eq!(judged(good, &body, 0, TS + 30_001), 1003);
    assert_eq!(judged(good, &body, 0, TS - 30_001), 1003);
    // Of the millisecond in which the relay began to remember, and of the one before.
    assert_eq!(judged(good, &body, TS, TS), 0);
    assert_eq!(judged(good, &body, TS + 1, TS + 1), 1003);
    // A little ahead is taken, to be admitted at its time.
    assert_eq!(judged(good, &body, 0, TS - HELLO_AHEAD_MS_MAX), 0);
    assert_eq!(judged(good, &body, 0, TS - HELLO_AHEAD_MS_MAX - 1), 1003);
    assert_eq!(judged(Header { id: Id::new(0, [0; 8]), ..good }, &body, 0, TS), 1001);
    assert_eq!(judged(good, cbor::NULL, 0, TS), 1001);
}

#[test]
fn only_a_relay_acks_as_one() {
    for (source, from_relay, code) in [
        (AckSource::Recipient, false, 0),
        (AckSource::Relay, false, 1001),
        (AckSource::Relay, true, 0),
        (AckSource::Recipient, true, 1001),
    ] {
        let mut body = Vec::new();
        Ack { source, received_at: TS, target: None }.write(&mut body);
        let answer = Header { reply_to: Some(&[1; 16]), ..header(Type::ACK, "did:web:b") };
        assert_eq!(judged(answer, &body, |view| ack(view, from_relay).map(drop)), code);
        let loose = Header { reply_to: None, ..answer };
        assert_eq!(judged(loose, &body, |view| ack(view, from_relay).map(drop)), 1001);
        // Whatever it says besides: two readers could find two things in it. The builder writes no such body.
        let (other, mut frame) = ("ack_sourcE", Vec::new());
        body[0] += 1;
        cbor::text(&mut body, other);
        cbor::text(&mut body, "relay");
        Builder::new(answer).body(&body).write(KeyEncoding::Text, Some(&[0; 64]), &mut frame).unwrap();
        let at = frame.windows(other.len()).position(|bytes| bytes == other.as_bytes()).unwrap();
        frame[at..at + other.len()].copy_from_slice(b"ack_source");
        let Ok(Frame::Envelope(view)) = parse(&frame) else { panic!("{answer:?}") };
        assert_eq!(ack(&view, from_relay).unwrap_err().code, Code::BAD_REQUEST);
    }
}

#[test]
fn only_where_it_is_allowed_a_message_needs_no_signature_and_a_hello_always_does() {
    let judged = |header: Header<'_>, sig, judge: &dyn Fn(&EnvelopeView<'_>) -> Result<(), Refusal>| {
        let (mut body, mut frame) = (Vec::new(), Vec::new());
        Hello { versions: &["1.0"], ..Hello::default() }.write(&mut body);
        Builder::new(header).body(&body).write(KeyEncoding::Int, sig, &mut frame).unwrap();
        let Ok(Frame::Envelope(view)) = parse(&frame) else { panic!("{header:?}") };
        judge(&view).map_or_else(|refusal| refusal.code.0, |()| 0)
    };
    for (sig, code) in [(Some(&[0; 64]), 0), (None, 1002)] {
        for (unsigned, code) in [(false, code), (true, 0)] {
            let policy = Policy { unsigned, ..POLICY };
            let passed = |view: &EnvelopeView<'_>| ingress(view, &PEER, &policy, at(TS)).map(drop);
            assert_eq!(judged(header(Type::MESSAGE, "did:web:b"), sig, &passed), code, "{unsigned}");
        }
        let said = |view: &EnvelopeView<'_>| hello(view, &NAMES, SKEW_MS_DEFAULT, 0, at(TS)).map(drop);
        assert_eq!(judged(header(Type::HELLO, US), sig, &said), code);
    }
}
