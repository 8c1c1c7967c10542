//! Two other CBOR decoders as oracles of the envelope's scan: whatever it accepts, ciborium and minicbor read as the
//! same fields. Shared by the tests and the fuzz target.

use amp_relay::wire::{
    amp::{Builder, EnvelopeView, Field, Frame, KeyEncoding, parse, rekey, sig_input},
    cbor,
};
use ciborium::Value;
use minicbor::{Decoder, data::Token, decode::Tokenizer};

/// Reads a frame with the scan and, if it is an envelope, with both oracles. Gives whether it is one.
pub(crate) fn agree(frame: &[u8]) -> bool {
    let view = match parse(frame) {
        Ok(Frame::Envelope(view)) => view,
        Ok(Frame::Legacy(whole) | Frame::JsonAuth(whole)) => {
            assert_eq!(whole, frame);
            return false;
        }
        Err(malformed) => {
            assert!(malformed.offset <= frame.len());
            return false;
        }
    };
    with_minicbor(&view);
    with_ciborium(&view);
    with_itself(&view);
    true
}

fn key_of(key_encoding: KeyEncoding, field: Field) -> Value {
    match key_encoding {
        KeyEncoding::Text => Value::from(field.name()),
        KeyEncoding::Int => Value::from(field as u64),
    }
}

/// The field that a key is; `enc` has no integer key.
fn field_of(key_encoding: KeyEncoding, key: &Value) -> Option<Field> {
    let known = if key_encoding == KeyEncoding::Int { &Field::ALL[..12] } else { &Field::ALL[..] };
    known.iter().copied().find(|&field| key_of(key_encoding, field) == *key)
}

fn with_minicbor(view: &EnvelopeView<'_>) {
    let mut decoder = Decoder::new(view.frame);
    let pairs = decoder.map().unwrap().unwrap();
    assert!(pairs <= 32);
    let mut optional = 0;
    let header = &view.header;
    for _ in 0..pairs {
        let key = match view.key_encoding {
            KeyEncoding::Text => Value::from(decoder.str().unwrap()),
            KeyEncoding::Int => Value::Integer(i128::from(decoder.int().unwrap()).try_into().unwrap()),
        };
        let mut raw = |decoder: &mut Decoder<'_>| {
            let start = decoder.position();
            decoder.skip().unwrap();
            optional += 1;
            Some(&view.frame[start..decoder.position()])
        };
        match field_of(view.key_encoding, &key) {
            None => decoder.skip().unwrap(),
            Some(Field::V) => assert_eq!(decoder.u64().unwrap(), view.v),
            Some(Field::Id) => assert_eq!(decoder.bytes().unwrap(), header.id.0),
            Some(Field::Typ) => assert_eq!(decoder.u64().unwrap(), header.typ.0),
            Some(Field::Ts) => assert_eq!(decoder.u64().unwrap(), header.ts),
            Some(Field::Ttl) => assert_eq!(decoder.u64().unwrap(), header.ttl),
            Some(Field::From) => assert_eq!(decoder.str().unwrap(), header.from),
            Some(Field::To) if header.to.is_array() => {
                assert_eq!(view.key_encoding, KeyEncoding::Text);
                let dids: Vec<&str> = decoder.array_iter().unwrap().collect::<Result<_, _>>().unwrap();
                assert!(header.to.iter().eq(dids));
            }
            Some(Field::To) => assert!(header.to.iter().eq([decoder.str().unwrap()])),
            Some(Field::ReplyTo) => assert_eq!(Some(decoder.bytes().unwrap()), header.reply_to),
            Some(Field::ThreadId) => assert_eq!(Some(decoder.bytes().unwrap()), header.thread_id),
            Some(Field::Sig) => assert_eq!(Some(decoder.bytes().unwrap()), view.sig.map(|sig| &sig[..])),
            Some(Field::Body) => assert_eq!(raw(&mut decoder), view.body),
            Some(Field::Ext) => assert_eq!(raw(&mut decoder), view.ext),
            Some(Field::Enc) => assert_eq!(raw(&mut decoder), view.enc),
        }
    }
    assert_eq!(decoder.position(), view.frame.len(), "nothing may be left");
    let there = [view.body, view.ext, view.enc].into_iter().flatten().count();
    assert_eq!(optional, there, "what the view has must have come from the frame");
}

/// Whether ciborium's values can hold these items as they are: they know no unassigned simple values, take `undefined`
/// for null, and make integers of tagged bytes.
fn is_plain(items: &[u8]) -> bool {
    let odd = |token| matches!(token, Token::Simple(_) | Token::Tag(_) | Token::Undefined);
    Tokenizer::new(items).all(|token| !odd(token.unwrap()))
}

fn with_ciborium(view: &EnvelopeView<'_>) {
    let value: Value = match ciborium::from_reader(view.frame) {
        Ok(value) => value,
        Err(error) => {
            assert!(!is_plain(view.frame), "{error}");
            return;
        }
    };
    let pairs = value.into_map().unwrap();
    let get = |field: Field| {
        let key = key_of(view.key_encoding, field);
        let mut found = pairs.iter().filter(|(at, _)| *at == key && (field != Field::Enc || at.is_text()));
        let value = found.next().map(|(_, value)| value);
        assert!(found.next().is_none(), "{field:?} stands twice");
        value
    };
    let header = &view.header;
    assert_eq!(get(Field::V), Some(&Value::from(view.v)));
    assert_eq!(get(Field::Id), Some(&Value::from(&header.id.0[..])));
    assert_eq!(get(Field::Typ), Some(&Value::from(header.typ.0)));
    assert_eq!(get(Field::Ts), Some(&Value::from(header.ts)));
    assert_eq!(get(Field::Ttl), Some(&Value::from(header.ttl)));
    assert_eq!(get(Field::From), Some(&Value::from(header.from)));
    let mut to: Vec<Value> = header.to.iter().map(Value::from).collect();
    let to = if header.to.is_array() { Value::Array(to) } else { to.remove(0) };
    assert_eq!(get(Field::To), Some(&to));
    assert_eq!(get(Field::ReplyTo), header.reply_to.map(Value::from).as_ref());
    assert_eq!(get(Field::ThreadId), header.thread_id.map(Value::from).as_ref());
    assert_eq!(get(Field::Sig), view.sig.map(|sig| Value::from(&sig[..])).as_ref());
    for (field, item) in [(Field::Body, view.body), (Field::Ext, view.ext)] {
        let value = get(field);
        assert_eq!(value.is_some(), item.is_some(), "{field:?}");
        let (Some(value), Some(item)) = (value, item) else { continue };
        if is_plain(item) {
            let mut out = Vec::new();
            let made = cbor::from_value(value, &mut out).map(|()| &out[..]);
            assert_eq!(made, cbor::deterministic(item).as_deref().map_err(|error| *error), "{field:?}");
        }
    }
}

/// What is read can be written again, in both dialects, and stays the same message.
fn with_itself(view: &EnvelopeView<'_>) {
    let (mut input, mut out, mut other_input) = (Vec::new(), Vec::new(), Vec::new());
    sig_input(&view.header, cbor::NULL, &mut input);
    assert_eq!(cbor::check(&input), Ok(()));
    for key_encoding in [KeyEncoding::Text, KeyEncoding::Int] {
        out.clear();
        if rekey(view, key_encoding, &mut out).is_err() {
            assert!(out.is_empty() && key_encoding != view.key_encoding);
            continue;
        }
        let Ok(Frame::Envelope(again)) = parse(&out) else { panic!("{out:02x?}") };
        assert_eq!((again.v, again.header, again.sig), (view.v, view.header, view.sig));
        assert_eq!((again.body_or_null(), again.enc, again.ext), (view.body_or_null(), view.enc, view.ext));
        other_input.clear();
        sig_input(&again.header, cbor::NULL, &mut other_input);
        assert_eq!(input, other_input);
    }
    let builder = Builder::new(view.header);
    let builder = match (view.enc, view.body) {
        (Some(enc), _) => builder.enc(enc),
        (None, Some(body)) => builder.body(body),
        (None, None) => builder,
    };
    out.clear();
    if builder.write(view.key_encoding, view.sig, &mut out).is_ok() {
        let Ok(Frame::Envelope(again)) = parse(&out) else { panic!("{out:02x?}") };
        assert_eq!((again.header, again.sig, again.enc), (view.header, view.sig, view.enc));
    } else {
        // Only a body with a key twice has no deterministic form.
        assert!(out.is_empty() && cbor::deterministic(view.body_or_null().unwrap()).is_err());
    }
}
