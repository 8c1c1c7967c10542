//! What a relay checks on a message that it could read, as pure functions over the view, a policy and the time. The
//! order is part of it: a message with several faults always gets the same answer.
//!
//! Size and shape come before ([`size`], [`super::parse`]); signature, duplicates, quota and delivery come after, and are
//! not judged here: they need a key, a memory or a place.

use crate::{base::Now, wire::cbor};

use super::{
    Code, EnvelopeView, KeyEncoding, Malformed, Recognized, To, Type, VERSION,
    body::{Ack, AckSource, BadBody, ErrorBody, HelloView, details_now},
    did_base, is_base,
};

/// How far a clock may be ahead of ours, and how old a HELLO or a `ttl` of 0 may be, in milliseconds.
pub const SKEW_MS_DEFAULT: u64 = 30_000;
/// How far the clock of a HELLO's sender may be ahead of ours, in milliseconds. The HELLO waits until ours is as far.
pub const HELLO_AHEAD_MS_MAX: u64 = 1_000;
/// Longest `ttl` that is taken: 30 days.
pub const TTL_MS_MAX_DEFAULT: u64 = 30 * 86_400_000;

/// A refusal: what the ERROR in answer to a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// The reason, for people.
    pub reason: &'static str,
    /// Our time in Unix milliseconds, where the sender's clock may be what is wrong.
    pub now_ms: Option<u64>,
}

impl Refusal {
    /// A refusal with this code and reason.
    pub const fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason, now_ms: None }
    }

    /// Appends the body of the ERROR.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        let mut details = Vec::new();
        if let Some(now_ms) = self.now_ms {
            details_now(&mut details, now_ms);
        }
        let details = self.now_ms.is_some().then_some(&details[..]);
        ErrorBody { details, ..ErrorBody::new(self.code, self.reason) }.write(out);
    }
}

impl From<BadBody> for Refusal {
    fn from(_: BadBody) -> Self {
        Self::new(Malformed::CODE, "the body does not fit the message's type")
    }
}

/// The names a relay answers to.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Its DID.
    pub did: &'a str,
    /// Other names, such as [`super::RELAY_SERVER`]. A sender that uses one shows no knowledge of our DID.
    pub aliases: &'a [&'a str],
}

/// By which name a relay was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its DID.
    Did,
    /// By another name.
    Alias,
}

impl Names<'_> {
    /// Whether this is us, and by which name.
    #[inline]
    pub fn named(&self, did: &str) -> Option<Named> {
        if is_base(self.did, did) {
            return Some(Named::Did);
        }
        self.aliases.iter().any(|alias| is_base(alias, did)).then_some(Named::Alias)
    }

    /// Whether a message is for us alone.
    #[inline]
    pub fn alone_in(&self, to: &To<'_>) -> bool {
        match to {
            To::One(did) => self.named(did).is_some(),
            many => many.iter().all(|did| self.named(did).is_some()),
        }
    }
}

/// What is taken.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// Our names.
    pub names: Names<'a>,
    /// Which types we handle ourselves.
    pub handled: fn(Type) -> bool,
    /// Refuse types without a name in messages to other recipients too, not only in those to us.
    pub strict_types: bool,
    /// Take messages without a signature, which only integer keys can be.
    pub unsigned: bool,
    /// How far a sender's clock may be ahead of ours, in milliseconds; for a `ttl` of 0 also how far behind.
    pub skew_ms: u64,
    /// Longest `ttl`, in milliseconds.
    pub ttl_ms_max: u64,
    /// Most DIDs in one `to`.
    pub recipients_max: usize,
}

/// What is known of the connection a message came on.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Whether its HELLO was answered with HELLO_ACK.
    pub negotiated: bool,
    /// The DID it proved.
    pub principal: Option<&'a str>,
}

/// Every check in its order, for a message that is not the peer's HELLO to us: version, handshake, type, time, id,
/// principal, signature there at all, limits.
///
/// # Errors
/// The first check that does not pass. An ERROR that is refused must not be answered
/// ([`Type::allows_error_reply`]).
pub fn ingress(view: &EnvelopeView<'_>, peer: &Peer<'_>, policy: &Policy<'_>, now: Now) -> Result<(), Refusal> {
    version(view)?;
    handshake(view, peer.negotiated)?;
    kind(view, policy)?;
    time(view, policy.skew_ms, now)?;
    id(view)?;
    principal(view, peer.principal)?;
    signed(view, policy.unsigned)?;
    limits(view, policy)
}

/// A frame's size. The binding says the rest: on a WebSocket it closes with 1009.
///
/// # Errors
/// 1001: it is larger than `bytes_max`.
pub fn size(frame: &[u8], bytes_max: usize) -> Result<(), Refusal> {
    if frame.len() <= bytes_max {
        return Ok(());
    }
    Err(Refusal::new(Malformed::CODE, "the message is larger than the limit"))
}

/// The version.
///
/// # Errors
/// 1004: not ours.
pub fn version(view: &EnvelopeView<'_>) -> Result<(), Refusal> {
    if view.v == VERSION {
        return Ok(());
    }
    Err(Refusal::new(Code::UNSUPPORTED_VERSION, "the only version here is 1"))
}

/// Nothing but handshake types before the negotiation is over.
///
/// # Errors
/// 1004: it is not.
pub fn handshake(view: &EnvelopeView<'_>, negotiated: bool) -> Result<(), Refusal> {
    if negotiated || view.header.typ.is_handshake() {
        return Ok(());
    }
    Err(Refusal::new(Code::UNSUPPORTED_VERSION, "say HELLO to the relay first"))
}

/// The type, where it is ours to know: the message is for us alone, or the policy is strict. A message that is for
/// others too is judged when our part of it is handled.
///
/// # Errors
/// 1005.
pub fn kind(view: &EnvelopeView<'_>, policy: &Policy<'_>) -> Result<(), Refusal> {
    let typ = view.header.typ;
    if policy.strict_types && typ.name().is_none() && !(0x80..=0xff).contains(&typ.0) {
        return Err(Refusal::new(Code::UNKNOWN_TYPE, "no such message type"));
    }
    if !(policy.handled)(typ) && policy.names.alone_in(&view.header.to) {
        return Err(Refusal::new(Code::UNKNOWN_TYPE, "the relay does not handle this message type"));
    }
    Ok(())
}

/// The time: not expired, and not from the future. A `ttl` of 0 means now, within the skew of clocks.
///
/// # Errors
/// 1003, with our time.
pub fn time(view: &EnvelopeView<'_>, skew_ms: u64, now: Now) -> Result<(), Refusal> {
    time_of(view.header.ts, view.header.ttl, skew_ms, now)
}

fn time_of(ts: u64, ttl: u64, skew_ms: u64, now: Now) -> Result<(), Refusal> {
    let now = now.unix_ms;
    let reason = if ts > now.saturating_add(skew_ms) {
        "the message is from the future"
    } else if ttl == 0 && now.saturating_sub(ts) > skew_ms || ttl > 0 && now > ts.saturating_add(ttl) {
        "the message has expired"
    } else {
        return Ok(());
    };
    Err(Refusal { now_ms: Some(now), ..Refusal::new(Code::INVALID_TIMESTAMP, reason) })
}

/// Whether a message of this id and time passes too, where one of the same `ttl` has passed every check
/// ([`ingress`]) and differs from it in id, time, signature and body alone.
#[inline]
pub fn ingress_again(next: &Recognized, ttl: u64, skew_ms: u64, now: Now) -> bool {
    time_of(next.ts, ttl, skew_ms, now).is_ok() && next.id.belongs_to(next.ts)
}

/// The time in the id is that of the message, within a second.
///
/// # Errors
/// 1001: the RFC names no code, its example uses this one.
pub fn id(view: &EnvelopeView<'_>) -> Result<(), Refusal> {
    if view.header.id.belongs_to(view.header.ts) {
        return Ok(());
    }
    Err(Refusal::new(Malformed::CODE, "the time in `id` is not `ts`"))
}

/// The sender is the DID that the connection proved.
///
/// # Errors
/// 3001.
pub fn principal(view: &EnvelopeView<'_>, principal: Option<&str>) -> Result<(), Refusal> {
    match principal {
        Some(proved) if is_base(proved, view.header.from) => Ok(()),
        Some(_) => Err(Refusal::new(Code::UNAUTHORIZED, "`from` is not the DID that this connection proved")),
        None => Err(Refusal::new(Code::UNAUTHORIZED, "this connection has proved no DID")),
    }
}

/// The signature is there. With text keys it always is.
///
/// # Errors
/// 1002.
pub fn signed(view: &EnvelopeView<'_>, unsigned: bool) -> Result<(), Refusal> {
    if view.sig.is_some() || (unsigned && view.key_encoding == KeyEncoding::Int) {
        return Ok(());
    }
    Err(Refusal::new(Code::INVALID_SIGNATURE, "the message is not signed"))
}

/// What the policy limits.
///
/// # Errors
/// 2003.
pub fn limits(view: &EnvelopeView<'_>, policy: &Policy<'_>) -> Result<(), Refusal> {
    if view.header.ttl > policy.ttl_ms_max {
        return Err(Refusal::new(Code::RELAY_REJECTED, "`ttl` is larger than the relay takes"));
    }
    if view.header.to.count() > policy.recipients_max {
        return Err(Refusal::new(Code::RELAY_REJECTED, "more recipients than the relay takes"));
    }
    Ok(())
}

/// A body that is acted on here, not only passed on: nothing in it may be read in two ways, at whatever depth.
///
/// # Errors
/// 4001, see [`cbor::check_keys`].
pub fn unambiguous(body: &[u8]) -> Result<(), Refusal> {
    let reason = match cbor::check_keys(body) {
        Ok(()) => return Ok(()),
        Err(cbor::Error::DuplicateKey) => "a map in the body has a key twice",
        Err(cbor::Error::KeyOrder) => "a map in the body has too many keys that are not sorted",
        Err(_) => "a map in the body has a key that is not in deterministic form",
    };
    Err(Refusal::new(Code::BAD_REQUEST, reason))
}

/// A HELLO to us that stands all checks but two: that its id was not seen before, and its signature, are the caller's.
#[derive(Clone, Copy, Debug)]
pub struct HelloFound<'a> {
    /// By which name it calls us. An alias is answered, but proves nothing: the message might have been meant for
    /// another relay that has the same one.
    pub named: Named,
    /// The DID it proves with its signature, if it calls us by our DID.
    pub from: &'a str,
    /// What to answer HELLO_ACK with; `None`: HELLO_REJECT.
    pub selected: Option<&'a str>,
    /// Unix milliseconds by our clock before which it must not be admitted. A HELLO that is admitted ahead of its time
    /// could be fresh once more for a relay that is started in between and remembers nothing.
    pub from_ms: u64,
}

/// A HELLO on a connection that has said none: to us, fresh, not older than our start. `started_ms` is when we began to
/// remember ids, Unix milliseconds: later than anything an earlier process of the same key can have admitted.
///
/// # Errors
/// 1004: it is not a HELLO to us in version 1. 1003: it is not fresh; with our time. 1001: its id or body is wrong, or it
/// is encrypted. 1002: it is not signed. 4001: its body can be read in two ways.
pub fn hello<'a>(
    view: &EnvelopeView<'a>,
    names: &Names<'_>,
    skew_ms: u64,
    started_ms: u64,
    now: Now,
) -> Result<HelloFound<'a>, Refusal> {
    version(view)?;
    let named = match view.header.to {
        To::One(did) if view.header.typ == Type::HELLO => names.named(did),
        _ => None,
    };
    let named = named.ok_or(Refusal::new(Code::UNSUPPORTED_VERSION, "say HELLO to the relay first"))?;
    time(view, skew_ms, now)?;
    let stale = |reason| Refusal { now_ms: Some(now.unix_ms), ..Refusal::new(Code::INVALID_TIMESTAMP, reason) };
    if now.unix_ms.saturating_sub(view.header.ts) > skew_ms {
        return Err(stale("the HELLO is not fresh"));
    }
    if view.header.ts > now.unix_ms.saturating_add(HELLO_AHEAD_MS_MAX) {
        return Err(stale("the HELLO is from the future"));
    }
    // Every HELLO that an earlier process admitted is older than our start: it admitted none before its time (see
    // `HelloFound::from_ms`), and it had ended when we began. So none of them counts again, though we remember nothing.
    if view.header.ts < started_ms {
        return Err(stale("the HELLO is older than the relay"));
    }
    id(view)?;
    signed(view, false)?;
    let body = view.body_or_null().ok_or(Refusal::from(BadBody))?;
    unambiguous(body)?;
    let selected = HelloView::read(body)?.select();
    Ok(HelloFound { named, from: did_base(view.header.from), selected, from_ms: view.header.ts })
}

/// An ACK: its body, and that only a relay speaks as one. Whether it commits anything is the core's to say.
///
/// # Errors
/// 1001: its body or its source is wrong, it is encrypted, or it answers nothing. 4001: its body can be read in two ways.
pub fn ack<'a>(view: &EnvelopeView<'a>, from_relay: bool) -> Result<Ack<'a>, Refusal> {
    let body = view.body_or_null().ok_or(Refusal::new(Malformed::CODE, "an ACK must not be encrypted"))?;
    unambiguous(body)?;
    let ack = Ack::read(body)?;
    if view.header.reply_to.is_none() {
        return Err(Refusal::new(Malformed::CODE, "an ACK needs `reply_to`"));
    }
    if (ack.source == AckSource::Relay) != from_relay {
        return Err(Refusal::new(Malformed::CODE, "`ack_source` is not who the sender is"));
    }
    Ok(ack)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
