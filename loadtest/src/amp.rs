//! The AMP envelope with text keys, as far as a load generator needs it: written with the places of what changes from
//! message to message, read where a message is not one of ours.

/// A data message.
pub(crate) const MESSAGE: u64 = 0x10;
/// Something is wrong.
pub(crate) const ERROR: u64 = 0x0F;
/// The first message of a client.
pub(crate) const HELLO: u64 = 0x70;
/// Its answer.
pub(crate) const HELLO_ACK: u64 = 0x71;
/// The other answer.
pub(crate) const HELLO_REJECT: u64 = 0x72;

const NESTING_MAX: u32 = 32;

/// What a message says; the body is CBOR already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) id: [u8; 16],
    pub(crate) typ: u64,
    /// Unix milliseconds.
    pub(crate) ts: u64,
    /// Milliseconds.
    pub(crate) ttl: u64,
    pub(crate) from: &'a str,
    pub(crate) to: To<'a>,
    pub(crate) body: &'a [u8],
}

/// The receivers, in the form in which they are signed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To<'a> {
    One(&'a str),
    Many(&'a [&'a str]),
}

/// An envelope, and where its parts begin.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) bytes: Vec<u8>,
    pub(crate) id_at: usize,
    /// The eight bytes of the time.
    pub(crate) ts_at: usize,
    /// The text of a single receiver.
    pub(crate) to_at: usize,
    pub(crate) sig_at: usize,
    pub(crate) body_at: usize,
    pub(crate) from_at: usize,
}

fn head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    match value {
        0..24 => out.push(major | value as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, value as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    head(out, 3, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// A byte string.
pub(crate) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, 2, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn receivers(out: &mut Vec<u8>, to: To<'_>) {
    match to {
        To::One(did) => text(out, did),
        To::Many(dids) => {
            head(out, 4, dids.len() as u64);
            dids.iter().for_each(|did| text(out, did));
        }
    }
}

/// The envelope, its keys in deterministic order.
pub(crate) fn write(fields: &Fields<'_>, signature: &[u8; 64]) -> Written {
    let mut out = Vec::with_capacity(512 + fields.body.len());
    head(&mut out, 5, 9);
    text(&mut out, "v");
    head(&mut out, 0, 1);
    text(&mut out, "id");
    bytes(&mut out, &fields.id);
    let id_at = out.len() - fields.id.len();
    text(&mut out, "to");
    receivers(&mut out, fields.to);
    let to_at = out.len() - if let To::One(did) = fields.to { did.len() } else { 0 };
    text(&mut out, "ts");
    head(&mut out, 0, fields.ts);
    let ts_at = out.len() - 8;
    text(&mut out, "sig");
    bytes(&mut out, signature);
    let sig_at = out.len() - signature.len();
    text(&mut out, "ttl");
    head(&mut out, 0, fields.ttl);
    text(&mut out, "typ");
    head(&mut out, 0, fields.typ);
    text(&mut out, "body");
    let body_at = out.len();
    out.extend_from_slice(fields.body);
    text(&mut out, "from");
    text(&mut out, fields.from);
    let from_at = out.len() - fields.from.len();
    Written { bytes: out, id_at, ts_at, to_at, sig_at, body_at, from_at }
}

/// What the sender signs.
pub(crate) fn sig_input(fields: &Fields<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + fields.body.len());
    head(&mut out, 4, 4);
    text(&mut out, "AMP-v1");
    bytes(&mut out, b"");
    head(&mut out, 5, 6);
    text(&mut out, "id");
    bytes(&mut out, &fields.id);
    text(&mut out, "to");
    receivers(&mut out, fields.to);
    for (name, value) in [("ts", fields.ts), ("ttl", fields.ttl), ("typ", fields.typ)] {
        text(&mut out, name);
        head(&mut out, 0, value);
    }
    text(&mut out, "from");
    text(&mut out, fields.from);
    bytes(&mut out, fields.body);
    out
}

/// The body of a HELLO.
pub(crate) fn hello_body() -> Vec<u8> {
    let mut out = Vec::new();
    head(&mut out, 5, 1);
    text(&mut out, "versions");
    head(&mut out, 4, 1);
    text(&mut out, "1.0");
    out
}

/// What is read of a message that is not one of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) typ: u64,
    pub(crate) from: &'a str,
    pub(crate) reply_to: Option<&'a [u8]>,
    pub(crate) body: &'a [u8],
}

/// Reads an envelope with text keys; `None` for anything else.
pub(crate) fn read(bytes: &[u8]) -> Option<Message<'_>> {
    let mut rest = bytes;
    let mut message = Message::default();
    let pairs = expect(&mut rest, 5)?;
    for _ in 0..pairs {
        let key = take_text(&mut rest)?;
        let before = rest;
        match key {
            "typ" => message.typ = expect(&mut rest, 0)?,
            "from" => message.from = take_text(&mut rest)?,
            "reply_to" => message.reply_to = Some(take_string(&mut rest, 2)?),
            _ => skip(&mut rest, NESTING_MAX)?,
        }
        if key == "body" {
            message.body = &before[..before.len() - rest.len()];
        }
    }
    rest.is_empty().then_some(message)
}

/// A text or number of a body that is a map: `code` and `message` of an ERROR, `reason` of a HELLO_REJECT.
pub(crate) fn body_text<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    find(body, name).and_then(|mut value| take_text(&mut value))
}

/// The same for an unsigned number.
pub(crate) fn body_number(body: &[u8], name: &str) -> Option<u64> {
    find(body, name).and_then(|mut value| expect(&mut value, 0))
}

fn find<'a>(body: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = body;
    for _ in 0..expect(&mut rest, 5)? {
        if take_text(&mut rest)? == name {
            return Some(rest);
        }
        skip(&mut rest, NESTING_MAX)?;
    }
    None
}

fn take_head(rest: &mut &[u8]) -> Option<(u8, u64)> {
    let (&first, mut more) = rest.split_first()?;
    let value = match first & 0x1F {
        low @ 0..24 => u64::from(low),
        low @ 24..28 => {
            let (value, after) = more.split_at_checked(1 << (low - 24))?;
            more = after;
            value.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
        }
        _ => return None,
    };
    *rest = more;
    Some((first >> 5, value))
}

fn expect(rest: &mut &[u8], major: u8) -> Option<u64> {
    take_head(rest).filter(|(found, _)| *found == major).map(|(_, value)| value)
}

fn take_string<'a>(rest: &mut &'a [u8], major: u8) -> Option<&'a [u8]> {
    let len = usize::try_from(expect(rest, major)?).ok()?;
    let (value, more) = rest.split_at_checked(len)?;
    *rest = more;
    Some(value)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    take_string(rest, 3).and_then(|bytes| str::from_utf8(bytes).ok())
}

fn skip(rest: &mut &[u8], depth: u32) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let (major, value) = take_head(rest)?;
    match major {
        2 | 3 => *rest = rest.split_at_checked(usize::try_from(value).ok()?)?.1,
        4 => (0..value).try_for_each(|_| skip(rest, depth))?,
        5 => (0..value).try_for_each(|_| skip(rest, depth).and_then(|()| skip(rest, depth)))?,
        6 => skip(rest, depth)?,
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields<'a>(to: To<'a>, body: &'a [u8]) -> Fields<'a> {
        let ts = 1_790_000_000_000;
        Fields { id: [7; 16], typ: MESSAGE, ts, ttl: 0, from: "did:key:zA", to, body }
    }

    #[test]
    fn what_is_written_is_read_and_stands_where_it_should() {
        let mut body = Vec::new();
        bytes(&mut body, &[9; 128]);
        let written = write(&fields(To::One("did:key:zB"), &body), &[5; 64]);
        let at = |at: usize, len: usize| &written.bytes[at..at + len];
        assert_eq!(at(written.id_at, 16), [7; 16]);
        assert_eq!(at(written.ts_at, 8), 1_790_000_000_000u64.to_be_bytes());
        assert_eq!(at(written.to_at, 10), b"did:key:zB");
        assert_eq!(at(written.sig_at, 64), [5; 64]);
        assert_eq!(at(written.body_at, 130), body);
        assert_eq!(at(written.from_at, 10), b"did:key:zA");
        let read = read(&written.bytes).expect("an envelope");
        assert_eq!((read.typ, read.from, read.reply_to, read.body), (MESSAGE, "did:key:zA", None, &body[..]));
    }

    #[test]
    fn another_reader_of_cbor_agrees() {
        let written = write(&fields(To::Many(&["did:key:zB", "did:key:zC"]), &hello_body()), &[5; 64]);
        let value: ciborium::Value = ciborium::from_reader(&written.bytes[..]).expect("CBOR");
        let keys: Vec<_> = value.as_map().expect("a map").iter().filter_map(|(key, _)| key.as_text()).collect();
        assert_eq!(keys, ["v", "id", "to", "ts", "sig", "ttl", "typ", "body", "from"]);
        let mut again = Vec::new();
        ciborium::into_writer(&value, &mut again).expect("CBOR");
        assert_eq!(again, written.bytes);
        let input = sig_input(&fields(To::One("did:key:zB"), &hello_body()));
        let value: ciborium::Value = ciborium::from_reader(&input[..]).expect("CBOR");
        assert_eq!(value.as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn errors_are_read() {
        let mut body = Vec::new();
        let text = |text: &str| ciborium::Value::Text(text.into());
        let details = ciborium::Value::Array(vec![ciborium::Value::Null, 1.into(), ciborium::Value::Map(Vec::new())]);
        let value = ciborium::Value::Map(vec![
            (text("code"), 2003.into()),
            (text("details"), details),
            (text("message"), text("nothing is kept")),
        ]);
        ciborium::into_writer(&value, &mut body).expect("CBOR");
        assert_eq!(body_number(&body, "code"), Some(2003));
        assert_eq!(body_text(&body, "message"), Some("nothing is kept"));
        assert_eq!(body_text(&body, "reason"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>) {
            let _ = read(&bytes);
            let _ = body_number(&bytes, "code");
        }
    }
}
