//! The envelope as a view over its frame: one strict pass, borrowed, no allocation.
//!
//! Owns what makes a frame a message. Key order is free and unknown keys are ignored, but nothing is taken that two
//! readers could read in two ways: indefinite lengths, keys twice, mixed key kinds, trailing bytes, long heads.

use crate::wire::cbor::{self, Reader, Texts};

use super::{Code, Header, Id, KeyEncoding, SIG_BYTES, To, Type};

/// Keys an envelope may have; 13 are known.
pub const KEYS_MAX: u64 = 32;
/// First byte of a JSON object. As CBOR it would begin a text, which is no message.
const JSON_OBJECT: u8 = b'{';

/// What a binary WebSocket message turned out to be.
#[derive(Clone, Debug)]
pub enum Frame<'a> {
    /// An AMP message.
    Envelope(EnvelopeView<'a>),
    /// A map with the keys of the Go relay before its commit `c06c2b2`; only the key kinds were looked at.
    Legacy(&'a [u8]),
    /// A JSON object: the authentication frame of the Go relay's sources; only its first byte was looked at.
    JsonAuth(&'a [u8]),
}

/// A message, read where it lies.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeView<'a> {
    /// How its keys are written.
    pub key_encoding: KeyEncoding,
    /// The version, unsigned and so no base for trust.
    pub v: u64,
    /// The signed fields.
    pub header: Header<'a>,
    /// The signature, 64 bytes; always there with text keys.
    pub sig: Option<&'a [u8; SIG_BYTES]>,
    /// The body's item as it lies in the frame. `None` if the message is encrypted, or if the body was left out, which
    /// only integer keys allow: see [`Self::body_or_null`].
    pub body: Option<&'a [u8]>,
    /// The item of an encrypted body: a map, not looked into.
    pub enc: Option<&'a [u8]>,
    /// The item of the extensions: a map, unsigned, not looked into.
    pub ext: Option<&'a [u8]>,
    /// The frame.
    pub frame: &'a [u8],
}

impl<'a> EnvelopeView<'a> {
    /// The body's item, null where it was left out; `None` if the message is encrypted.
    pub fn body_or_null(&self) -> Option<&'a [u8]> {
        if self.enc.is_some() { None } else { Some(self.body.unwrap_or(cbor::NULL)) }
    }
}

/// The fields of an envelope. The numbers are their integer keys; `enc` has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Protocol version.
    V = 1,
    /// Message id.
    Id = 2,
    /// Message type.
    Typ = 3,
    /// Time.
    Ts = 4,
    /// Time to live.
    Ttl = 5,
    /// Sender.
    From = 6,
    /// Recipients.
    To = 7,
    /// Id of the message answered.
    ReplyTo = 8,
    /// Conversation.
    ThreadId = 9,
    /// Signature.
    Sig = 10,
    /// Body.
    Body = 11,
    /// Extensions.
    Ext = 12,
    /// Encrypted body.
    Enc = 13,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 13] = [
        Self::V,
        Self::Id,
        Self::Typ,
        Self::Ts,
        Self::Ttl,
        Self::From,
        Self::To,
        Self::ReplyTo,
        Self::ThreadId,
        Self::Sig,
        Self::Body,
        Self::Ext,
        Self::Enc,
    ];

    /// Its text key.
    pub fn name(self) -> &'static str {
        match self {
            Self::V => "v",
            Self::Id => "id",
            Self::Typ => "typ",
            Self::Ts => "ts",
            Self::Ttl => "ttl",
            Self::From => "from",
            Self::To => "to",
            Self::ReplyTo => "reply_to",
            Self::ThreadId => "thread_id",
            Self::Sig => "sig",
            Self::Body => "body",
            Self::Ext => "ext",
            Self::Enc => "enc",
        }
    }

    #[inline]
    fn of_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"v" => Self::V,
            b"id" => Self::Id,
            b"typ" => Self::Typ,
            b"ts" => Self::Ts,
            b"ttl" => Self::Ttl,
            b"from" => Self::From,
            b"to" => Self::To,
            b"reply_to" => Self::ReplyTo,
            b"thread_id" => Self::ThreadId,
            b"sig" => Self::Sig,
            b"body" => Self::Body,
            b"ext" => Self::Ext,
            b"enc" => Self::Enc,
            _ => return None,
        })
    }

    #[inline]
    fn of_key(key: u64) -> Option<Self> {
        // `enc` is the last of all and has no integer key.
        Self::ALL[..12].get(usize::try_from(key).ok()?.checked_sub(1)?).copied()
    }

    #[inline]
    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// What every message has. The signature and the payload come on top with text keys.
const REQUIRED: [Field; 7] = [Field::V, Field::Id, Field::Typ, Field::Ts, Field::Ttl, Field::From, Field::To];
const REQUIRED_BITS: u16 = {
    let (mut bits, mut at) = (0, 0);
    while at < REQUIRED.len() {
        bits |= 1 << REQUIRED[at] as u16;
        at += 1;
    }
    bits
};

/// Why a frame is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Not CBOR as we take it.
    #[error("{0}")]
    Cbor(#[from] cbor::Error),
    /// An item that is no map.
    #[error("not a CBOR map")]
    NotAMap,
    /// More than [`KEYS_MAX`].
    #[error("more than 32 keys")]
    TooManyKeys,
    /// A key twice.
    #[error("a key stands in the envelope twice")]
    DuplicateKey,
    /// Text and integer keys in one map, or keys of another type.
    #[error("envelope keys are neither all text nor all integers")]
    KeyKind,
    /// A field of another type, or of a wrong length.
    #[error("field `{}` has another type or length", .0.name())]
    Field(Field),
    /// A field that must be there is not.
    #[error("field `{}` is missing", .0.name())]
    Missing(Field),
    /// Both `body` and `enc`.
    #[error("both `body` and `enc`")]
    TwoPayloads,
}

/// A frame that is refused, always with 1001, and what of it could be read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed<'a> {
    /// Why.
    pub reason: Reason,
    /// How far the reader came, in bytes.
    pub offset: usize,
    /// The message's id, if it stood before: an answer names it.
    pub id: Option<Id>,
    /// The message's type, if it stood before: an ERROR is not answered.
    pub typ: Option<Type>,
    /// The sender, where the frame is a map that names one: an answer goes there.
    pub from: Option<&'a str>,
}

impl Malformed<'_> {
    /// The code of the answer.
    pub const CODE: Code = Code::INVALID_MESSAGE;
}

/// Reads a frame with keys in any order.
pub(super) fn parse_any(frame: &[u8]) -> Result<Frame<'_>, Malformed<'_>> {
    if frame.first() == Some(&JSON_OBJECT) {
        return Ok(Frame::JsonAuth(frame));
    }
    let mut scan = Scan::new(frame);
    let found = scan.envelope();
    found.map_err(|reason| Malformed {
        reason,
        offset: scan.reader.offset(),
        id: (scan.seen & Field::Id.bit() != 0).then_some(scan.header.id),
        typ: (scan.seen & Field::Typ.bit() != 0).then_some(scan.header.typ),
        from: sender(frame),
    })
}

/// The sender of a frame that is no message: the text under the key of `from`, in either encoding, in whatever can be
/// read as a map. `None` where there is none, or more than one.
#[cold]
fn sender(frame: &[u8]) -> Option<&str> {
    let mut reader = Reader::new(frame);
    let pairs = reader.head().ok().filter(|head| head.major() == cbor::MAP)?.argument;
    let mut from = None;
    for _ in 0..pairs {
        // What cannot be read ends the search, and what was found before it counts.
        let (Ok(key), Ok(value)) = (reader.item(cbor::DEPTH_MAX), reader.item(cbor::DEPTH_MAX)) else { break };
        let is_from = cbor::as_text(key) == Some(Field::From.name()) || cbor::as_uint(key) == Some(Field::From as u64);
        if is_from && from.replace(cbor::as_text(value)?).is_some() {
            return None;
        }
    }
    from
}

/// The pass over a frame.
struct Scan<'a> {
    frame: &'a [u8],
    reader: Reader<'a>,
    /// Which fields were read.
    seen: u16,
    v: u64,
    header: Header<'a>,
    sig: Option<&'a [u8; SIG_BYTES]>,
    body: Option<&'a [u8]>,
    enc: Option<&'a [u8]>,
    ext: Option<&'a [u8]>,
}

/// Keys that are not ours, to find a repeated one: start and end in the frame.
struct Unknown {
    keys: [(u32, u32); KEYS_MAX as usize],
    count: usize,
}

impl Unknown {
    /// Notes a key; `false` if it was there before. There is room for as many keys as an envelope may have, and a key
    /// past the 4 GiB that an offset can name counts as one too many.
    fn note(&mut self, frame: &[u8], start: usize, end: usize) -> bool {
        let (Ok(from), Ok(to)) = (u32::try_from(start), u32::try_from(end)) else { return false };
        let known = self.keys.iter().take(self.count);
        if known.clone().any(|&(from, to)| frame[from as usize..to as usize] == frame[start..end]) {
            return false;
        }
        let Some(slot) = self.keys.get_mut(self.count) else { return false };
        *slot = (from, to);
        self.count += 1;
        true
    }
}

impl<'a> Scan<'a> {
    fn new(frame: &'a [u8]) -> Self {
        let header = Header {
            id: Id([0; 16]),
            typ: Type(0),
            ts: 0,
            ttl: 0,
            from: "",
            to: To::One(""),
            reply_to: None,
            thread_id: None,
        };
        let reader = Reader::new(frame);
        Self { frame, reader, seen: 0, v: 0, header, sig: None, body: None, enc: None, ext: None }
    }

    fn envelope(&mut self) -> Result<Frame<'a>, Reason> {
        if self.reader.peek()? != cbor::MAP {
            return Err(Reason::NotAMap);
        }
        let keys = self.reader.expect(cbor::MAP)?;
        if keys > KEYS_MAX {
            return Err(Reason::TooManyKeys);
        }
        if keys == 0 {
            return Err(Reason::Missing(Field::V));
        }
        let key_encoding = match self.reader.peek()? {
            cbor::TEXT => KeyEncoding::Text,
            cbor::UINT | cbor::NEGATIVE if self.is_legacy(keys) => return Ok(Frame::Legacy(self.frame)),
            cbor::UINT | cbor::NEGATIVE => KeyEncoding::Int,
            _ => return Err(Reason::KeyKind),
        };
        // On a copy, which can live in registers.
        let mut reader = self.reader;
        let read = self.fields(&mut reader, key_encoding, keys);
        self.reader = reader;
        read?;
        self.reader.end()?;
        self.complete(key_encoding)
    }

    #[inline(always)]
    fn fields(&mut self, reader: &mut Reader<'a>, key_encoding: KeyEncoding, keys: u64) -> Result<(), Reason> {
        let mut unknown = Unknown { keys: [(0, 0); KEYS_MAX as usize], count: 0 };
        for _ in 0..keys {
            let start = reader.offset();
            let Some(field) = key(reader, key_encoding)? else {
                if !unknown.note(self.frame, start, reader.offset()) {
                    return Err(Reason::DuplicateKey);
                }
                reader.item(cbor::DEPTH_MAX)?;
                continue;
            };
            if self.seen & field.bit() != 0 {
                return Err(Reason::DuplicateKey);
            }
            self.value(reader, key_encoding, field).map_err(|error| match error {
                cbor::Error::WrongType => Reason::Field(field),
                other => Reason::Cbor(other),
            })?;
            self.seen |= field.bit();
        }
        Ok(())
    }

    /// Whether this map of integer keys has a text under key 1. That key comes first in all we know of; where it does
    /// not, it is looked for. Faults on the way are left to the pass proper.
    fn is_legacy(&self, keys: u64) -> bool {
        let mut reader = self.reader;
        for _ in 0..keys {
            let Ok(key) = reader.head() else { return false };
            if key.major() == cbor::UINT && key.argument == Field::V as u64 {
                return reader.peek() == Ok(cbor::TEXT);
            }
            if reader.item(cbor::DEPTH_MAX).is_err() {
                return false;
            }
        }
        false
    }

    #[inline(always)]
    fn value(&mut self, reader: &mut Reader<'a>, key_encoding: KeyEncoding, field: Field) -> Result<(), cbor::Error> {
        let header = &mut self.header;
        match field {
            Field::V => self.v = reader.uint()?,
            Field::Id => header.id = Id(*sized(reader.bytes()?)?),
            Field::Typ => header.typ = Type(reader.uint()?),
            Field::Ts => header.ts = reader.uint()?,
            Field::Ttl => header.ttl = reader.uint()?,
            Field::From => header.from = reader.text()?,
            Field::To if key_encoding == KeyEncoding::Int || reader.peek()? == cbor::TEXT => {
                header.to = To::One(reader.text()?);
            }
            Field::To => header.to = several(reader)?,
            Field::ReplyTo => header.reply_to = Some(reader.bytes()?),
            Field::ThreadId => header.thread_id = Some(reader.bytes()?),
            Field::Sig => self.sig = Some(sized(reader.bytes()?)?),
            Field::Body => self.body = Some(reader.item(cbor::DEPTH_MAX)?),
            Field::Enc => self.enc = Some(map(reader)?),
            Field::Ext => self.ext = Some(map(reader)?),
        }
        Ok(())
    }

    fn complete(&self, key_encoding: KeyEncoding) -> Result<Frame<'a>, Reason> {
        if self.seen & REQUIRED_BITS != REQUIRED_BITS {
            let missing = REQUIRED.into_iter().find(|field| self.seen & field.bit() == 0);
            return Err(Reason::Missing(missing.unwrap_or(Field::V)));
        }
        if self.body.is_some() && self.enc.is_some() {
            return Err(Reason::TwoPayloads);
        }
        if key_encoding == KeyEncoding::Text {
            if self.sig.is_none() {
                return Err(Reason::Missing(Field::Sig));
            }
            if self.body.is_none() && self.enc.is_none() {
                return Err(Reason::Missing(Field::Body));
            }
        }
        let Self { v, header, sig, body, enc, ext, frame, .. } = *self;
        Ok(Frame::Envelope(EnvelopeView { key_encoding, v, header, sig, body, enc, ext, frame }))
    }
}

/// Reads a key; `None` if it is of the right kind and not ours.
#[inline(always)]
fn key(reader: &mut Reader<'_>, key_encoding: KeyEncoding) -> Result<Option<Field>, Reason> {
    let head = reader.shortest()?;
    match (key_encoding, head.major()) {
        (KeyEncoding::Text, cbor::TEXT) => {
            let name = reader.take(head.argument)?;
            let field = Field::of_name(name);
            if field.is_none() && str::from_utf8(name).is_err() {
                return Err(Reason::Cbor(cbor::Error::NotUtf8));
            }
            Ok(field)
        }
        (KeyEncoding::Int, cbor::UINT) => Ok(Field::of_key(head.argument)),
        (KeyEncoding::Int, cbor::NEGATIVE) => Ok(None),
        _ => Err(Reason::KeyKind),
    }
}

#[inline]
fn sized<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], cbor::Error> {
    bytes.try_into().map_err(|_| cbor::Error::WrongType)
}

/// An array of at least one text, which only text keys allow.
pub(super) fn several<'a>(reader: &mut Reader<'a>) -> Result<To<'a>, cbor::Error> {
    let mut ahead = *reader;
    let count = ahead.expect(cbor::ARRAY)?;
    if count == 0 {
        return Err(cbor::Error::WrongType);
    }
    let texts = Texts::following(ahead, count);
    for _ in 0..count {
        ahead.text()?;
    }
    let item = reader.take((ahead.offset() - reader.offset()) as u64)?;
    Ok(To::Read(item, texts))
}

/// A map with a shortest head; what is in it may be anything well-formed.
pub(super) fn map<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], cbor::Error> {
    // The head is read twice: here for its type and form, then as a part of the item.
    let mut ahead = *reader;
    ahead.expect(cbor::MAP)?;
    reader.item(cbor::DEPTH_MAX)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
