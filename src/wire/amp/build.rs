//! Writing envelopes: new ones, signed here or elsewhere, and those of a frame in the other key encoding.

use ed25519_dalek::SigningKey;

use crate::wire::cbor;

use super::{EnvelopeView, Field, Header, KeyEncoding, SIG_BYTES, To, VERSION, sign};

/// More than an envelope takes beside its strings and payload.
const ENVELOPE_BYTES: usize = 224;

/// What a message carries.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A body: one CBOR item. It is written in deterministic form.
    Body(&'a [u8]),
    /// An encrypted body, a map, and the signature over what is in it.
    Enc(&'a [u8]),
}

/// Why an envelope is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The body has no deterministic form.
    #[error("the body cannot be sent: {0}")]
    Body(cbor::Error),
    /// The extensions, or the encrypted body, are no well-formed map.
    #[error("`{}` is not a CBOR map", .0.name())]
    NotAMap(Field),
    /// There is no recipient.
    #[error("the list of recipients is empty")]
    NoRecipient,
    /// The signature over an encrypted body must be given.
    #[error("an encrypted body cannot be signed from outside")]
    Encrypted,
    /// The other key encoding has no word for it.
    #[error(transparent)]
    NotExpressible(#[from] NotExpressible),
}

/// What the other key encoding cannot say. Answered with 2003 and this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExpressible {
    /// `enc` has no integer key.
    #[error("the recipient's integer keys cannot express an encrypted body")]
    Encrypted,
    /// `to` is signed as it is written, so it cannot be made one DID either.
    #[error("the recipient's integer keys cannot express several recipients")]
    Recipients,
    /// Text keys demand a signature.
    #[error("an unsigned message cannot be given text keys")]
    Unsigned,
}

/// An envelope to be written.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'a> {
    header: Header<'a>,
    payload: Payload<'a>,
    ext: Option<&'a [u8]>,
}

impl<'a> Builder<'a> {
    /// An envelope with this header and a null body.
    pub fn new(header: Header<'a>) -> Self {
        Self { header, payload: Payload::Body(cbor::NULL), ext: None }
    }

    /// With this body: one CBOR item.
    #[must_use]
    pub fn body(self, item: &'a [u8]) -> Self {
        Self { payload: Payload::Body(item), ..self }
    }

    /// With this encrypted body: a CBOR map.
    #[must_use]
    pub fn enc(self, item: &'a [u8]) -> Self {
        Self { payload: Payload::Enc(item), ..self }
    }

    /// With these extensions, which are not signed: a CBOR map.
    #[must_use]
    pub fn ext(self, item: &'a [u8]) -> Self {
        Self { ext: Some(item), ..self }
    }

    /// Signs it and appends it to `out`. `scratch` is overwritten.
    ///
    /// # Errors
    /// It cannot be written; `out` is as it was.
    pub fn write_signed(
        &self,
        key_encoding: KeyEncoding,
        key: &SigningKey,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), BuildError> {
        let Payload::Body(body) = self.payload else { return Err(BuildError::Encrypted) };
        let body = cbor::deterministic(body).map_err(BuildError::Body)?;
        let sig = sign(key, &self.header, &body, scratch);
        self.write_with(key_encoding, Payload::Body(&body), Some(&sig), out)
    }

    /// Appends it to `out` with this signature; without one only in integer keys.
    ///
    /// # Errors
    /// It cannot be written; `out` is as it was.
    pub fn write(
        &self,
        key_encoding: KeyEncoding,
        sig: Option<&[u8; SIG_BYTES]>,
        out: &mut Vec<u8>,
    ) -> Result<(), BuildError> {
        match self.payload {
            Payload::Enc(_) => self.write_with(key_encoding, self.payload, sig, out),
            Payload::Body(body) => {
                let body = cbor::deterministic(body).map_err(BuildError::Body)?;
                self.write_with(key_encoding, Payload::Body(&body), sig, out)
            }
        }
    }

    fn write_with(
        &self,
        key_encoding: KeyEncoding,
        payload: Payload<'_>,
        sig: Option<&[u8; SIG_BYTES]>,
        out: &mut Vec<u8>,
    ) -> Result<(), BuildError> {
        if matches!(self.header.to, To::Many([])) {
            return Err(BuildError::NoRecipient);
        }
        let (body, enc) = match payload {
            Payload::Body(body) => (Some(body), None),
            Payload::Enc(enc) => (None, Some(enc)),
        };
        for (field, item) in [(Field::Ext, self.ext), (Field::Enc, enc)] {
            if item.is_some_and(|item| !is_map(item)) {
                return Err(BuildError::NotAMap(field));
            }
        }
        let parts = Parts { v: VERSION, header: &self.header, sig, body, enc, ext: self.ext };
        Ok(parts.write(key_encoding, out)?)
    }
}

/// Whether this is one map that a reader of the envelope takes.
fn is_map(item: &[u8]) -> bool {
    let mut reader = cbor::Reader::new(item);
    cbor::Reader::new(item).expect(cbor::MAP).is_ok() && reader.item(cbor::DEPTH_MAX).is_ok() && reader.end().is_ok()
}

/// Appends the message in the other key encoding (or the same): values as they lie in the frame, and so with the same
/// signature. Keys that are not the envelope's are left out: they are unsigned, every reader ignores them, and the
/// other encoding has no name for them.
///
/// # Errors
/// The encoding cannot say it; `out` is as it was.
pub fn rekey(view: &EnvelopeView<'_>, key_encoding: KeyEncoding, out: &mut Vec<u8>) -> Result<(), NotExpressible> {
    let (v, sig, enc, ext) = (view.v, view.sig, view.enc, view.ext);
    Parts { v, header: &view.header, sig, body: view.body_or_null(), enc, ext }.write(key_encoding, out)
}

/// All fields, each one an item or a value.
struct Parts<'a> {
    v: u64,
    header: &'a Header<'a>,
    sig: Option<&'a [u8; SIG_BYTES]>,
    body: Option<&'a [u8]>,
    enc: Option<&'a [u8]>,
    ext: Option<&'a [u8]>,
}

/// The order of text keys that deterministic CBOR asks for: shorter first, then by their bytes.
const TEXT_ORDER: [Field; 13] = [
    Field::V,
    Field::Id,
    Field::To,
    Field::Ts,
    Field::Enc,
    Field::Ext,
    Field::Sig,
    Field::Ttl,
    Field::Typ,
    Field::Body,
    Field::From,
    Field::ReplyTo,
    Field::ThreadId,
];

impl Parts<'_> {
    fn write(&self, key_encoding: KeyEncoding, out: &mut Vec<u8>) -> Result<(), NotExpressible> {
        match key_encoding {
            KeyEncoding::Int if self.enc.is_some() => return Err(NotExpressible::Encrypted),
            KeyEncoding::Int if self.header.to.is_array() => return Err(NotExpressible::Recipients),
            KeyEncoding::Text if self.sig.is_none() => return Err(NotExpressible::Unsigned),
            _ => {}
        }
        let strings = self.header.from.len()
            + [self.header.reply_to, self.header.thread_id, self.body, self.enc, self.ext]
                .into_iter()
                .flatten()
                .map(<[u8]>::len)
                .sum::<usize>();
        out.reserve(ENVELOPE_BYTES + strings);
        let optional = [
            self.header.reply_to.is_some(),
            self.header.thread_id.is_some(),
            self.sig.is_some(),
            self.body.is_some(),
            self.enc.is_some(),
            self.ext.is_some(),
        ];
        cbor::map(out, 7 + optional.into_iter().filter(|&there| there).count());
        let order = if key_encoding == KeyEncoding::Text { &TEXT_ORDER } else { &Field::ALL };
        for &field in order {
            self.write_field(key_encoding, field, out);
        }
        Ok(())
    }

    /// Appends key and value of a field, or nothing if it is not there.
    #[inline]
    fn write_field(&self, key_encoding: KeyEncoding, field: Field, out: &mut Vec<u8>) {
        let header = self.header;
        let there = match field {
            Field::ReplyTo => header.reply_to.is_some(),
            Field::ThreadId => header.thread_id.is_some(),
            Field::Sig => self.sig.is_some(),
            Field::Body => self.body.is_some(),
            Field::Enc => self.enc.is_some(),
            Field::Ext => self.ext.is_some(),
            _ => true,
        };
        if !there {
            return;
        }
        match key_encoding {
            KeyEncoding::Text => cbor::text(out, field.name()),
            KeyEncoding::Int => cbor::uint(out, field as u64),
        }
        match field {
            Field::V => cbor::uint(out, self.v),
            Field::Id => cbor::bytes(out, &header.id.0),
            Field::Typ => cbor::uint(out, header.typ.0),
            Field::Ts => cbor::uint(out, header.ts),
            Field::Ttl => cbor::uint(out, header.ttl),
            Field::From => cbor::text(out, header.from),
            Field::To => header.to.write(out),
            Field::ReplyTo => cbor::bytes(out, header.reply_to.unwrap_or_default()),
            Field::ThreadId => cbor::bytes(out, header.thread_id.unwrap_or_default()),
            Field::Sig => cbor::bytes(out, self.sig.map_or(&[], |sig| &sig[..])),
            Field::Body => out.extend_from_slice(self.body.unwrap_or(cbor::NULL)),
            Field::Enc => out.extend_from_slice(self.enc.unwrap_or_default()),
            Field::Ext => out.extend_from_slice(self.ext.unwrap_or_default()),
        }
    }
}
