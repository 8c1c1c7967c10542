//! Messages as the core holds them: those that travel between agents, and those that the relay and its sessions say. Knows
//! AMP's envelope, which is the core's own language, and no frame of any transport.

use std::sync::Arc;

use ed25519_dalek::SigningKey;

use super::{
    api::Text,
    directory::{Payload, Why},
};
use crate::{
    base::{CloseCode, ConnToken},
    wire::{
        amp::{
            BuildError, Builder, Code, EnvelopeView, Frame, Header, Id, KeyEncoding, To, Type, body::ErrorBody,
            check::Refusal, did_base, parse,
        },
        cbor,
    },
};

/// Largest message that any peer has to take, in bytes.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Longest name of a sender in bytes; of a longer one its fragment, query and path are left out.
pub(super) const SENDER_BYTES_MAX: usize = 1024;
/// Longest `thread_id` in bytes that an answer repeats.
const THREAD_BYTES_MAX: usize = 1024;

/// An encoded message, written once and shared by all connections that get it. A transport may keep room for its framing.
pub trait Shared: Clone + Send + 'static {
    /// Copies a message.
    fn of(message: &[u8]) -> Self;

    /// The message.
    fn message(&self) -> &[u8];

    /// Bytes that it holds, for the bounds.
    fn size(&self) -> usize;
}

/// A message on its way through the directory.
#[derive(Clone, Debug)]
pub struct Message<S> {
    /// Its bytes.
    pub shared: S,
    /// How its keys are written.
    pub key_encoding: KeyEncoding,
    /// The connection that an ERROR about it goes to, on whichever worker. `None`: the relay or a session says it.
    pub sender: Option<ConnToken>,
    /// Its number among those of the sender's worker; a repeated message gets another.
    pub number: u32,
    /// What its sender is told where it cannot be handed over, if that is known already. For a message to several
    /// recipients it is made once, since all of them may fail.
    pub bounce: Option<Arc<Bounce>>,
}

/// A message that was not handed over, for its sender's worker.
#[derive(Clone, Debug)]
pub struct Bounce {
    /// Its number.
    pub number: u32,
    /// Whether it is for several.
    pub several: bool,
    /// The ERROR.
    pub refused: Refused,
}

impl<S: Shared> Payload for Message<S> {
    /// `None`: there is to be no ERROR.
    type ReturnAddress = Option<Arc<Bounce>>;

    fn size(&self) -> usize {
        self.shared.size()
    }

    fn return_address(&self) -> Self::ReturnAddress {
        if self.bounce.is_some() {
            return self.bounce.clone();
        }
        // Parsed once more: few messages fail, and every message would pay.
        let Ok(Frame::Envelope(view)) = parse(self.shared.message()) else { return None };
        Bounce::of(&view, self.number).map(Arc::new)
    }
}

impl Bounce {
    /// Of a message with this number. `None`: there is to be no ERROR about it.
    pub fn of(view: &EnvelopeView<'_>, number: u32) -> Option<Self> {
        let refused = view.header.typ.allows_error_reply().then(|| Refused::of(view, undelivered(Why::Lost)));
        Some(Self { number, several: view.header.to.is_array(), refused: refused.flatten()? })
    }
}

/// A message that is answered with an ERROR.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The answer.
    pub refusal: Refusal,
    /// The id of the message, where it could be read.
    pub id: Option<Id>,
    /// The recipient of the answer: the sender, as it names itself.
    pub to: Text,
    /// The thread of the message, where it has one that can be read and may be repeated.
    pub thread_id: Option<Vec<u8>>,
    /// Recipients of a message to several that were not handed it, if that is why it is refused.
    pub not_handed: NotHanded,
    /// End the connection behind the answer.
    pub close: Option<(CloseCode, &'static str)>,
}

/// Recipients that were not handed a message to several, each with the reason. Bounded: an ERROR names so many.
#[derive(Clone, Debug, Default)]
pub struct NotHanded {
    named: Vec<(Text, &'static str)>,
    others: u64,
}

impl NotHanded {
    /// Recipients that are named.
    const MAX: usize = 64;

    /// Adds a recipient. Of a name of any length, the part is kept that answers repeat.
    pub fn add(&mut self, did: &str, reason: &'static str) {
        match sender(did) {
            Some(did) if self.named.len() < Self::MAX => self.named.push((did.into(), reason)),
            _ => self.others += 1,
        }
    }

    /// The ERROR's details: one deterministic item. `None`: there is nothing to say.
    fn details(&self) -> Option<Vec<u8>> {
        if self.named.is_empty() && self.others == 0 {
            return None;
        }
        let mut out = Vec::new();
        cbor::map(&mut out, 2);
        cbor::text(&mut out, "others");
        cbor::uint(&mut out, self.others);
        cbor::text(&mut out, "recipients");
        cbor::array(&mut out, self.named.len());
        for (did, reason) in &self.named {
            cbor::map(&mut out, 2);
            cbor::text(&mut out, "did");
            cbor::text(&mut out, did);
            cbor::text(&mut out, "reason");
            cbor::text(&mut out, reason);
        }
        Some(out)
    }
}

impl Refused {
    /// A message with this id, sender and thread.
    pub fn new(refusal: Refusal, id: Id, to: Text, thread_id: Option<Vec<u8>>) -> Self {
        Self { refusal, id: Some(id), to, thread_id, not_handed: NotHanded::default(), close: None }
    }

    /// A message that could be read. `None`: its sender has no name to send an answer to.
    pub fn of(view: &EnvelopeView<'_>, refusal: Refusal) -> Option<Self> {
        let thread_id = thread(view).ok().flatten();
        let to = sender(view.header.from)?.into();
        Some(Self::new(refusal, view.header.id, to, thread_id))
    }

    /// The ERROR, as the relay or a session says it under the DID `from`.
    pub fn reply(self, from: Text, id: Id, to: ReplyTo, key_encoding: KeyEncoding) -> Reply {
        let mut body = Vec::new();
        match self.not_handed.details() {
            Some(details) => {
                let details = Some(&details[..]);
                ErrorBody { details, ..ErrorBody::new(self.refusal.code, self.refusal.reason) }.write(&mut body);
            }
            None => self.refusal.write_body(&mut body),
        }
        let Self { id: reply_to, to: did, thread_id, close, .. } = self;
        Reply { via: to, from, to: did, typ: Type::ERROR, id, reply_to, thread_id, body, key_encoding, close }
    }
}

/// Why a message was not handed over.
pub fn undelivered(why: Why) -> Refusal {
    let reason = match why {
        Why::Absent => "nobody is connected under this DID, and nothing is kept for it yet",
        Why::Busy => "a queue on the way is full; try again",
        Why::Lost | Why::Service | Why::Full => "the relay could not hand the message over; try again",
        Why::Unfit(why) => why,
    };
    Refusal::new(Code::RELAY_REJECTED, reason)
}

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// To this connection alone: it is about what that connection sent.
    Connection(ConnToken),
    /// To the DID it names, by the directory, from this worker on: whatever connections that DID has by then.
    Did {
        /// The worker.
        worker: u16,
    },
}

impl ReplyTo {
    /// The worker that sends it.
    pub fn worker(self) -> u16 {
        match self {
            Self::Connection(peer) => peer.worker(),
            Self::Did { worker } => worker,
        }
    }

    /// The one connection.
    pub fn connection(self) -> Option<ConnToken> {
        match self {
            Self::Connection(peer) => Some(peer),
            Self::Did { .. } => None,
        }
    }
}

/// One message of the relay, or of one of its sessions, before it is signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Where it goes.
    pub via: ReplyTo,
    /// Its sender: the relay's DID, or a session's.
    pub from: Text,
    /// Its recipient's DID.
    pub to: Text,
    /// Which kind of message.
    pub typ: Type,
    /// Its id.
    pub id: Id,
    /// The id of the message it answers.
    pub reply_to: Option<Id>,
    /// The conversation it belongs to.
    pub thread_id: Option<Vec<u8>>,
    /// The body: one CBOR item.
    pub body: Vec<u8>,
    /// How its keys are written.
    pub key_encoding: KeyEncoding,
    /// Close the connection behind it.
    pub close: Option<(CloseCode, &'static str)>,
}

impl Reply {
    /// Appends the signed message.
    ///
    /// # Errors
    /// It cannot be written; `out` is as it was.
    pub fn write(&self, key: &SigningKey, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), BuildError> {
        let mut header = Header::new(self.id, self.typ, &self.from, To::One(&self.to));
        header.reply_to = self.reply_to.as_ref().map(|id| &id.0[..]);
        header.thread_id = self.thread_id.as_deref();
        Builder::new(header).body(&self.body).write_signed(self.key_encoding, key, scratch, out)
    }
}

/// The name that an answer to this sender goes to, which may be of any length on the wire. `None`: it has none that can be
/// a DID.
pub fn sender(from: &str) -> Option<&str> {
    let name = if from.len() <= SENDER_BYTES_MAX { from } else { did_base(from) };
    (name.len() <= SENDER_BYTES_MAX).then_some(name)
}

/// The thread of a message that the relay or a session answers, which may be of any length on the wire.
///
/// # Errors
/// 4001: it is too long. A thread is repeated byte for byte or not at all.
pub fn thread(view: &EnvelopeView<'_>) -> Result<Option<Vec<u8>>, Refusal> {
    match view.header.thread_id {
        Some(thread) if thread.len() > THREAD_BYTES_MAX => {
            Err(Refusal::new(Code::BAD_REQUEST, "`thread_id` is longer than 1 KiB, and an answer has to repeat it"))
        }
        thread => Ok(thread.map(<[u8]>::to_vec)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Messages of tests, as they are.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Bytes(Arc<[u8]>);

    impl Shared for Bytes {
        fn of(message: &[u8]) -> Self {
            Self(message.into())
        }

        fn message(&self) -> &[u8] {
            &self.0
        }

        fn size(&self) -> usize {
            self.0.len()
        }
    }

    /// A message with this sender and thread.
    fn frame(from: &str, thread_id: Option<&[u8]>) -> Vec<u8> {
        let id = Id::new(1_800_000_000_000, [1; 8]);
        let header = Header { thread_id, ..Header::new(id, Type::MESSAGE, from, To::One("did:web:b")) };
        let mut frame = Vec::new();
        let built = Builder::new(header).body(cbor::NULL).write(KeyEncoding::Text, Some(&[1; 64]), &mut frame);
        built.expect("a message");
        frame
    }

    #[test]
    fn an_answer_repeats_a_name_and_a_thread_up_to_their_bounds_and_says_what_it_answers() {
        let name = |bytes: usize| format!("did:web:{}", "a".repeat(bytes - 8));
        let longest = name(SENDER_BYTES_MAX);
        assert_eq!(sender(&longest), Some(&*longest));
        assert_eq!(sender(&name(SENDER_BYTES_MAX + 1)), None);
        assert_eq!(sender(&format!("{longest}#key")), Some(&*longest), "the part that is the DID");
        assert_eq!(sender("did:web:a#key"), Some("did:web:a#key"), "as it was written");
        for (bytes, is_repeated) in [(0, true), (1, true), (THREAD_BYTES_MAX, true), (THREAD_BYTES_MAX + 1, false)] {
            let thread_id = vec![7; bytes];
            let frame = frame("did:web:a", (bytes > 0).then_some(&thread_id));
            let Ok(Frame::Envelope(view)) = parse(&frame) else { panic!("a message") };
            assert_eq!(thread(&view).is_ok(), is_repeated, "{bytes}");
            let refused = Refused::of(&view, undelivered(Why::Absent)).expect("an answer");
            let via = ReplyTo::Connection(ConnToken::new(0, 1, 1));
            let reply = refused.reply("did:web:relay".into(), Id([9; 16]), via, KeyEncoding::Text);
            let mut out = Vec::new();
            reply.write(&SigningKey::from_bytes(&[1; 32]), &mut Vec::new(), &mut out).expect("an answer");
            let Ok(Frame::Envelope(answer)) = parse(&out) else { panic!("a message") };
            let expected = (bytes > 0 && is_repeated).then_some(&thread_id[..]);
            assert_eq!((answer.header.reply_to, answer.header.thread_id), (Some(&view.header.id.0[..]), expected));
            let body = ErrorBody::read(answer.body_or_null().expect("a body")).expect("of an ERROR");
            assert_eq!((body.code, body.details), (Code::RELAY_REJECTED, None));
        }
    }

    #[test]
    fn of_recipients_that_were_not_handed_a_message_so_many_are_named_and_all_are_counted() {
        let of = |dids: &[String]| {
            let mut not_handed = NotHanded::default();
            dids.iter().for_each(|did| not_handed.add(did, "why"));
            let details = not_handed.details()?;
            let named = details.windows(3).filter(|part| part == b"why").count();
            Some((named as u64, cbor::get(&details, "others").and_then(cbor::as_uint)?))
        };
        let did = |n: usize| format!("did:web:{n}");
        let long = format!("did:web:{}", "a".repeat(SENDER_BYTES_MAX));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[did(1)]), Some((1, 0)));
        assert_eq!(of(std::slice::from_ref(&long)), Some((0, 1)), "a name of any length is counted");
        assert_eq!(of(&[did(1), long]), Some((1, 1)));
        for count in [NotHanded::MAX, NotHanded::MAX + 3] {
            let dids: Vec<_> = (0..count).map(did).collect();
            assert_eq!(of(&dids), Some((NotHanded::MAX as u64, (count - NotHanded::MAX) as u64)));
        }
    }
}
