//! The signed part of an envelope, as values: ids, recipients, DIDs.

use std::fmt;

use crate::wire::cbor::{self, Texts};

use super::Type;

/// How far the time in an id may be from `ts`, in milliseconds (RFC 001 section 8.3).
const ID_TOLERANCE_MS: u64 = 1000;

/// The id of a message: its time in milliseconds, big-endian, then 8 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// The id of a message sent at `ts_ms` (Unix); `random` must come from the system's random source.
    pub fn new(ts_ms: u64, random: [u8; 8]) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&ts_ms.to_be_bytes());
        id[8..].copy_from_slice(&random);
        Self(id)
    }

    /// The time it carries, Unix milliseconds.
    pub fn ts_ms(&self) -> u64 {
        u64::from_be_bytes(*self.0.first_chunk().unwrap_or(&[0; 8]))
    }

    /// Whether it may belong to a message of this time: within a second.
    pub fn belongs_to(&self, ts_ms: u64) -> bool {
        self.ts_ms().abs_diff(ts_ms) <= ID_TOLERANCE_MS
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The DID without fragment, query and path: what is routed on, counted on and bound to a principal.
pub fn did_base(did: &str) -> &str {
    let end = memchr::memchr3(b'#', b'?', b'/', did.as_bytes()).unwrap_or(did.len());
    &did[..end]
}

/// Whether `did` without fragment, query and path is `base`: [`did_base`] without the search.
#[inline]
pub fn is_base(base: &str, did: &str) -> bool {
    let (base, did) = (base.as_bytes(), did.as_bytes());
    let Some((front, rest)) = did.split_at_checked(base.len()) else { return false };
    // DIDs have long beginnings in common: nearly all that differ do so in their last bytes.
    matches!(rest.first(), None | Some(b'#' | b'?' | b'/'))
        && front.last_chunk::<4>() == base.last_chunk::<4>()
        && front == base
}

/// The recipients of a message. One DID and an array of one are different: the shape is signed.
#[derive(Clone, Copy, Debug)]
pub enum To<'a> {
    /// One DID.
    One(&'a str),
    /// An array, to be written.
    Many(&'a [&'a str]),
    /// An array, as it was read: the whole item, and its elements.
    Read(&'a [u8], Texts<'a>),
}

impl<'a> To<'a> {
    /// The DIDs, as they were written.
    pub fn iter(&self) -> Recipients<'a> {
        match *self {
            Self::One(did) => Recipients::One(Some(did)),
            Self::Many(dids) => Recipients::Many(dids.iter()),
            Self::Read(_, texts) => Recipients::Read(texts),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match *self {
            Self::One(_) => 1,
            Self::Many(dids) => dids.len(),
            Self::Read(_, texts) => texts.remaining(),
        }
    }

    /// Whether it is an array, which integer keys cannot express.
    pub fn is_array(&self) -> bool {
        !matches!(self, Self::One(_))
    }

    /// Appends it in its shape.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::One(did) => cbor::text(out, did),
            Self::Many(dids) => {
                cbor::array(out, dids.len());
                dids.iter().for_each(|did| cbor::text(out, did));
            }
            Self::Read(item, _) => out.extend_from_slice(item),
        }
    }
}

impl PartialEq for To<'_> {
    /// The same shape with the same DIDs in the same order.
    fn eq(&self, other: &Self) -> bool {
        self.is_array() == other.is_array() && self.iter().eq(other.iter())
    }
}

impl Eq for To<'_> {}

/// The DIDs of a [`To`].
#[derive(Clone, Debug)]
pub enum Recipients<'a> {
    /// Of one DID.
    One(Option<&'a str>),
    /// Of a slice.
    Many(std::slice::Iter<'a, &'a str>),
    /// Of a frame.
    Read(Texts<'a>),
}

impl<'a> Iterator for Recipients<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        match self {
            Self::One(did) => did.take(),
            Self::Many(dids) => dids.next().copied(),
            Self::Read(texts) => texts.next(),
        }
    }
}

/// The header fields that are signed (RFC 001 section 8.1), as they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Names the message; unique for its sender.
    pub id: Id,
    /// What kind of message it is.
    pub typ: Type,
    /// When it was sent, Unix milliseconds.
    pub ts: u64,
    /// How long it lives, in milliseconds. 0: now or never.
    pub ttl: u64,
    /// The sender: a DID, perhaps with a fragment that names the key.
    pub from: &'a str,
    /// The recipients.
    pub to: To<'a>,
    /// The id of the message it answers.
    pub reply_to: Option<&'a [u8]>,
    /// The conversation it belongs to: opaque bytes.
    pub thread_id: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// A header that answers nothing and belongs to no thread, with the default `ttl`.
    pub fn new(id: Id, typ: Type, from: &'a str, to: To<'a>) -> Self {
        let ttl = super::TTL_MS_DEFAULT;
        Self { id, typ, ts: id.ts_ms(), ttl, from, to, reply_to: None, thread_id: None }
    }

    /// The header of an answer to `asked`: to its sender, with its id and its thread.
    pub fn answering(asked: &'a Header<'a>, id: Id, typ: Type, from: &'a str) -> Self {
        let new = Self::new(id, typ, from, To::One(asked.from));
        Self { reply_to: Some(&asked.id.0), thread_id: asked.thread_id, ..new }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_did_is_cut_to_what_is_routed_on() {
        for did in ["did:web:a#k", "did:web:a?x#k", "did:web:a/p?x", "did:web:a"] {
            assert_eq!(did_base(did), "did:web:a");
            assert!(is_base("did:web:a", did));
            assert!(!is_base("did:web:", did) && !is_base("did:web:ab", did));
        }
        assert_eq!(did_base("#k"), "");
    }

    #[test]
    fn an_id_carries_its_time() {
        let id = Id::new(1_707_055_200_000, [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(id.to_string(), "0000018d746b37000000000000000001");
        assert_eq!(id.ts_ms(), 1_707_055_200_000);
        for (ts, belongs) in [(199_000, true), (198_999, false), (201_000, true), (201_001, false)] {
            assert_eq!(id.belongs_to(1_707_055_000_000 + ts), belongs, "{ts}");
        }
    }
}
