//! Messages as an agent has them, sans-io: drafts that are signed into frames, and frames that are checked and become
//! messages. Told the time, the random numbers and the signer.

use std::collections::{HashSet, VecDeque};

use ed25519_dalek::VerifyingKey;

use crate::{
    base::Now,
    wire::{
        amp::{
            self, BuildError, Builder, Code, EnvelopeView, Frame, Header, Id, KeyEncoding, SIG_BYTES, TTL_MS_DEFAULT,
            To, Type,
            body::{DETAIL_NOW, ErrorBody},
            check::{self, Refusal},
            did_base,
        },
        cbor,
    },
};

/// Ids that are remembered, so that a message is not taken twice; older ones are forgotten.
const SEEN_MAX: usize = 4096;

/// How far a peer's clock may be from ours, in milliseconds: each may be off from the relay's by what it allows.
const SKEW_MS: u64 = 2 * check::SKEW_MS_DEFAULT;

/// A message to be sent: all but its id, its time and its sender.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The receiver.
    pub to: &'a str,
    /// Its type.
    pub typ: Type,
    /// How long it lives, in milliseconds.
    pub ttl_ms: u64,
    /// The message it answers.
    pub reply_to: Option<&'a [u8]>,
    /// The conversation it belongs to.
    pub thread_id: Option<&'a [u8]>,
    /// Its body: one CBOR item.
    pub body: &'a [u8],
}

impl<'a> Draft<'a> {
    /// A message with the default time to live that answers nothing.
    pub fn new(to: &'a str, typ: Type, body: &'a [u8]) -> Self {
        Self { to, typ, ttl_ms: TTL_MS_DEFAULT, reply_to: None, thread_id: None, body }
    }

    /// An answer to a message: to its sender, with its id and thread.
    pub fn answering(asked: &'a Message, typ: Type, body: &'a [u8]) -> Self {
        let new = Self::new(did_base(&asked.from), typ, body);
        Self { reply_to: Some(&asked.id.0), thread_id: asked.thread_id.as_deref(), ..new }
    }

    /// The frame of this message, and its id. `sign` makes an Ed25519 signature over what it is given.
    pub(super) fn frame<E: From<BuildError>>(
        &self,
        from: &str,
        id: Id,
        sign: impl FnOnce(&[u8]) -> Result<[u8; SIG_BYTES], E>,
    ) -> Result<Vec<u8>, E> {
        let header = Header {
            ttl: self.ttl_ms,
            reply_to: self.reply_to,
            thread_id: self.thread_id,
            ..Header::new(id, self.typ, from, To::One(self.to))
        };
        let body = cbor::deterministic(self.body).map_err(BuildError::Body)?;
        let mut signed = Vec::new();
        amp::sig_input(&header, &body, &mut signed);
        let sig = sign(&signed)?;
        let mut frame = Vec::new();
        Builder::new(header).body(&body).write(KeyEncoding::Text, Some(&sig), &mut frame)?;
        Ok(frame)
    }
}

/// The signer of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedBy {
    /// Its sender.
    Sender,
    /// The relay, for a sender that it hosts, or that has a DID without a key.
    Relay,
    /// Not known: the sender's DID names no key, or the body is encrypted.
    Unknown,
}

/// A message that was received and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: Id,
    /// Its type.
    pub typ: Type,
    /// When it was sent, Unix milliseconds by the sender's clock.
    pub ts: u64,
    /// How long it lives, in milliseconds.
    pub ttl_ms: u64,
    /// The sender, as written.
    pub from: String,
    /// The receivers, as written.
    pub to: Vec<String>,
    /// The message it answers.
    pub reply_to: Option<Vec<u8>>,
    /// The conversation it belongs to.
    pub thread_id: Option<Vec<u8>>,
    /// Its body, one well-formed CBOR item; `None` if it is encrypted.
    pub body: Option<Vec<u8>>,
    /// The signer, as far as the signature could be checked.
    pub signed_by: SignedBy,
}

impl Message {
    fn of(view: &EnvelopeView<'_>, signed_by: SignedBy) -> Self {
        let header = &view.header;
        Self {
            id: header.id,
            typ: header.typ,
            ts: header.ts,
            ttl_ms: header.ttl,
            from: header.from.to_owned(),
            to: header.to.iter().map(str::to_owned).collect(),
            reply_to: header.reply_to.map(<[u8]>::to_vec),
            thread_id: header.thread_id.map(<[u8]>::to_vec),
            body: view.body_or_null().map(<[u8]>::to_vec),
            signed_by,
        }
    }

    /// Whether it answers the message with this id.
    pub fn answers(&self, id: &Id) -> bool {
        self.reply_to.as_deref() == Some(&id.0[..])
    }

    /// What it says, if it is an ERROR that can be read.
    pub fn error(&self) -> Option<ErrorAnswer> {
        let body = self.body.as_deref().filter(|_| self.typ == Type::ERROR)?;
        let read = ErrorBody::read(body).ok()?;
        let now_ms = read.details.and_then(|details| cbor::get(details, DETAIL_NOW)).and_then(cbor::as_uint);
        Some(ErrorAnswer { code: read.code, message: read.message.to_owned(), now_ms })
    }
}

/// An ERROR in answer to a message of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ErrorAnswer {
    /// The code.
    pub code: Code,
    /// The reason, for people.
    pub message: String,
    /// The other side's time in Unix milliseconds, where ours may be what is wrong.
    pub now_ms: Option<u64>,
}

/// Why what came is no message for us. It is passed over; the connection stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// No AMP message.
    #[error("it is no AMP message: {0}")]
    Malformed(String),
    /// Expired, from the future, or with an id of another time.
    #[error("{0}")]
    Stale(&'static str),
    /// It is for another agent.
    #[error("it is not for this agent")]
    NotForUs,
    /// The signature is neither its sender's nor the relay's.
    #[error("its signature is not that of {from}")]
    Signature {
        /// The sender that it names.
        from: String,
    },
    /// It came before.
    #[error("it came before")]
    Twice,
}

/// What is needed to judge what comes.
#[derive(Debug)]
pub(super) struct Judge {
    /// Our DID.
    did: String,
    /// The relay's DID and key.
    relay: (String, VerifyingKey),
    seen: Seen,
    scratch: Vec<u8>,
}

impl Judge {
    pub(super) fn new(did: &str, relay: &str, relay_key: VerifyingKey) -> Self {
        let seen = Seen { known: HashSet::new(), order: VecDeque::new() };
        Self { did: did.to_owned(), relay: (relay.to_owned(), relay_key), seen, scratch: Vec::new() }
    }

    /// Our DID.
    pub(super) fn did(&self) -> &str {
        &self.did
    }

    /// The relay's DID.
    pub(super) fn relay(&self) -> &str {
        &self.relay.0
    }

    /// Reads a frame and checks it: shape, time, addressee, signature, and that it did not come before. Without `now` its
    /// time is not looked at: an answer to our random id is fresh, and may be about the very difference of the clocks.
    pub(super) fn message(&mut self, frame: &[u8], now: Option<Now>) -> Result<Message, Unacceptable> {
        let view = match amp::parse(frame) {
            Ok(Frame::Envelope(view)) => view,
            Ok(_) => return Err(Unacceptable::Malformed("it is in a dialect of older relays".into())),
            Err(malformed) => return Err(Unacceptable::Malformed(malformed.to_string())),
        };
        let stale = |refusal: Refusal| Unacceptable::Stale(refusal.reason);
        check::version(&view)
            .and_then(|()| now.map_or(Ok(()), |now| check::time(&view, SKEW_MS, now)))
            .and_then(|()| check::id(&view))
            .map_err(stale)?;
        if !view.header.to.iter().any(|did| did_base(did) == self.did) {
            return Err(Unacceptable::NotForUs);
        }
        let signed_by = self.signer(&view)?;
        if !self.seen.is_new(did_base(view.header.from), view.header.id) {
            return Err(Unacceptable::Twice);
        }
        Ok(Message::of(&view, signed_by))
    }

    /// The signer. The relay may sign for the agents that it hosts, but no other key for the relay.
    fn signer(&mut self, view: &EnvelopeView<'_>) -> Result<SignedBy, Unacceptable> {
        let from = view.header.from;
        let own = amp::verifying_key(from);
        if view.body_or_null().is_none() {
            // Only after decryption, which is not ours, could it be checked.
            return Ok(SignedBy::Unknown);
        }
        if own.is_some_and(|key| amp::verify(view, &key, &mut self.scratch).is_ok()) {
            return Ok(SignedBy::Sender);
        }
        if amp::verify(view, &self.relay.1, &mut self.scratch).is_ok() {
            return Ok(SignedBy::Relay);
        }
        if own.is_none() && did_base(from) != self.relay.0 {
            return Ok(SignedBy::Unknown);
        }
        Err(Unacceptable::Signature { from: from.to_owned() })
    }
}

/// The newest ids that came, by sender.
#[derive(Debug)]
struct Seen {
    known: HashSet<(String, Id)>,
    order: VecDeque<(String, Id)>,
}

impl Seen {
    fn is_new(&mut self, from: &str, id: Id) -> bool {
        let key = (from.to_owned(), id);
        if !self.known.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
