//! One AMP connection, sans-io: HELLO, then messages of one principal.

use super::repeated;
use crate::{
    base::{CloseCode, ConnToken, Now},
    relay::{Principal, api::Text, directory::Why},
    wire::amp::{
        Code, Dialect, EnvelopeView, Frame, Id, Malformed, RELAY_SERVER, Recognized, Type,
        check::{self, Names, Peer, Policy, Refusal},
    },
};

/// Longest time between the upgrade and the proof of a key.
const HELLO_MS: u64 = 10_000;
/// So many messages from a DID that was not proved, and the connection ends.
const STRIKES_MAX: u8 = 3;
/// Most DIDs in one `to`.
const RECIPIENTS_MAX: usize = 10_000;

/// What every connection knows of the relay.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The relay's DID.
    pub did: Text,
    /// When it began to remember HELLOs, Unix milliseconds: later than the end of any earlier process of this relay.
    pub started_ms: u64,
}

impl Greeting {
    /// The names the relay answers to.
    pub fn names(&self) -> Names<'_> {
        Names { did: &self.did, aliases: &[RELAY_SERVER] }
    }

    fn policy(&self) -> Policy<'_> {
        Policy {
            names: self.names(),
            handled: |typ| {
                matches!(typ, Type::PING | Type::PONG | Type::REQUEST | Type::RESPONSE | Type::ERROR | Type::ACK)
                    || typ.is_handshake()
            },
            strict_types: false,
            unsigned: false,
            skew_ms: check::SKEW_MS_DEFAULT,
            ttl_ms_max: check::TTL_MS_MAX_DEFAULT,
            recipients_max: RECIPIENTS_MAX,
        }
    }
}

/// A HELLO that the crypto thread is to check and to answer.
#[derive(Clone, Debug)]
pub struct HelloJob {
    /// Whose.
    pub peer: ConnToken,
    /// The message.
    pub frame: Vec<u8>,
    /// The DID it proves; `None` where it called us by an alias, which proves nothing.
    pub proves: Option<Text>,
    /// Whom to answer.
    pub from: Text,
    /// The version to answer HELLO_ACK with; `None`: HELLO_REJECT.
    pub selected: Option<String>,
    /// Its id.
    pub id: Id,
    /// Its thread.
    pub thread_id: Option<Vec<u8>>,
    /// It must not be checked before this time, Unix milliseconds.
    pub from_ms: u64,
    /// How its keys are written.
    pub dialect: Dialect,
}

/// A message that is answered with an ERROR.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The answer.
    pub refusal: Refusal,
    /// The id of the message, where it could be read.
    pub id: Option<Id>,
    /// Whom to answer: who sent it, by its own word.
    pub to: Text,
    /// The thread of the message, where it had one that could be read and may be repeated.
    pub thread_id: Option<Vec<u8>>,
    /// End the connection behind the answer.
    pub close: Option<(CloseCode, &'static str)>,
}

impl Refused {
    /// A message that could be read. `None`: its sender has no name to send an answer to.
    pub fn of(view: &EnvelopeView<'_>, refusal: Refusal) -> Option<Self> {
        let thread_id = repeated::thread(view).ok().flatten();
        let to = repeated::sender(view.header.from)?.into();
        Some(Self { refusal, id: Some(view.header.id), to, thread_id, close: None })
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

/// What a binary message turned out to be.
#[derive(Debug)]
pub enum Heard {
    /// A HELLO to us: have it checked; nothing is heard until [`Connection::admitted`].
    Hello(HelloJob),
    /// A message of the principal that passed every check: deliver it.
    Message,
    /// Refused.
    Refused(Refused),
    /// Refused, and there is nobody to send the answer to: end the connection, which says so.
    Unanswerable(CloseCode, &'static str),
    /// Nothing is to be done.
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    /// Its HELLO is with the crypto thread, or its DID with the directory.
    Proving,
    Open,
    Closing,
}

/// Whose connection it is. One field, since a peer that is known has no time limit: every idle connection pays for it.
#[derive(Debug)]
enum Standing {
    /// Not proved, whatever was said; when it must be, on the monotonic clock.
    Unknown { deadline: u64 },
    /// The key it proved.
    Known(Principal),
}

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    peer: ConnToken,
    standing: Standing,
    phase: Phase,
    dialect: Dialect,
    strikes: u8,
}

const _: () = assert!(size_of::<Connection>() <= 56, "paid by every idle connection");

impl Connection {
    /// A connection that was just upgraded.
    pub fn new(peer: ConnToken, now: Now) -> Self {
        let deadline = now.mono_ms + HELLO_MS;
        let standing = Standing::Unknown { deadline };
        Self { peer, standing, phase: Phase::New, dialect: Dialect::Text, strikes: 0 }
    }

    /// How the peer writes its keys: how it is answered.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The key it proved.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.standing {
            Standing::Known(principal) => Some(principal),
            Standing::Unknown { .. } => None,
        }
    }

    /// When the peer must have proved a key, on the monotonic clock; `None` once it has.
    pub fn deadline(&self) -> Option<u64> {
        match self.standing {
            Standing::Unknown { deadline } => Some(deadline),
            Standing::Known(_) => None,
        }
    }

    /// Whether what comes is not even read: a HELLO is being proved, or everything is said.
    pub fn is_deaf(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Proving)
    }

    /// A binary message came, and this is what was read of it ([`parse`](crate::wire::amp::parse)). The view is not
    /// passed on but looked at where it lies: it is large, and every message has one.
    pub fn binary(&mut self, parsed: &Result<Frame<'_>, Malformed<'_>>, greeting: &Greeting, now: Now) -> Heard {
        if self.is_deaf() {
            return Heard::Ignored;
        }
        let view = match parsed {
            Ok(Frame::Envelope(view)) => view,
            Ok(Frame::Legacy(_) | Frame::JsonAuth(_)) => {
                return self.unreadable(None, None, "this listener takes AMP messages with text or integer keys");
            }
            Err(Malformed { typ: Some(Type::ERROR), .. }) => return Heard::Ignored,
            Err(Malformed { id, from, .. }) => {
                return self.unreadable(*id, *from, "the frame is not one well-formed AMP message");
            }
        };
        if self.phase == Phase::New {
            return self.hello(view, greeting, now);
        }
        let principal = self.principal().map(|principal| &*principal.did);
        let peer = Peer { negotiated: true, principal };
        match check::ingress(view, &peer, &greeting.policy(), now) {
            Ok(()) => Heard::Message,
            Err(_) if !view.header.typ.may_be_refused_aloud() => Heard::Ignored,
            Err(refusal) => {
                // Who has proved nothing has nothing to say here, whatever is wrong with it.
                let counts = refusal.code == Code::UNAUTHORIZED || self.principal().is_none();
                let close = (counts && self.strike()).then(|| self.end("not your DID"));
                self.refused(view, refusal, close)
            }
        }
    }

    /// The answer to a message that could be read.
    fn refused(
        &mut self,
        view: &EnvelopeView<'_>,
        refusal: Refusal,
        close: Option<(CloseCode, &'static str)>,
    ) -> Heard {
        match Refused::of(view, refusal) {
            Some(refused) => Heard::Refused(Refused { close, ..refused }),
            None => self.unanswerable("`from` is too long to be a DID"),
        }
    }

    /// The answer to a frame that is no message. A stranger who gives no name gets none, for an answer has to be to
    /// somebody: its connection ends with the reason.
    fn unreadable(&mut self, id: Option<Id>, from: Option<&str>, reason: &'static str) -> Heard {
        let Some(to) = self.did().or_else(|| from.and_then(repeated::sender).map(Text::from)) else {
            return self.unanswerable(reason);
        };
        let close = self.strike_of_a_stranger();
        Heard::Refused(Refused { refusal: Refusal::new(Malformed::CODE, reason), id, to, thread_id: None, close })
    }

    fn unanswerable(&mut self, reason: &'static str) -> Heard {
        let (code, reason) = self.end(reason);
        Heard::Unanswerable(code, reason)
    }

    /// Whether a message is taken that differs from one of this connection that was ([`Heard::Message`]) in id, time,
    /// signature and body alone. False: [`binary`](Self::binary) says what becomes of it.
    #[inline]
    pub fn takes_again(&self, next: &Recognized, ttl: u64, now: Now) -> bool {
        self.phase == Phase::Open && check::ingress_again(next, ttl, check::SKEW_MS_DEFAULT, now)
    }

    fn hello(&mut self, view: &EnvelopeView<'_>, greeting: &Greeting, now: Now) -> Heard {
        self.dialect = view.dialect;
        let Some(from) = repeated::sender(view.header.from) else {
            return self.unanswerable("`from` is too long to be a DID");
        };
        let found = check::hello(view, &greeting.names(), check::SKEW_MS_DEFAULT, greeting.started_ms, now)
            .and_then(|found| Ok((found, repeated::thread(view)?)));
        match found {
            Ok((found, thread_id)) => {
                self.phase = Phase::Proving;
                Heard::Hello(HelloJob {
                    peer: self.peer,
                    frame: view.frame.to_vec(),
                    proves: (found.named == check::Named::Did).then(|| found.from.into()),
                    from: from.into(),
                    selected: found.selected.map(str::to_owned),
                    id: view.header.id,
                    thread_id,
                    from_ms: found.from_ms,
                    dialect: view.dialect,
                })
            }
            Err(refusal) => {
                let close = self.strike().then(|| self.end("say HELLO first"));
                self.refused(view, refusal, close)
            }
        }
    }

    fn did(&self) -> Option<Text> {
        self.principal().map(|principal| principal.did.clone())
    }

    /// Counts a message that nobody who keeps to the protocol sends. True: it was the last one that is borne.
    fn strike(&mut self) -> bool {
        self.strikes += 1;
        self.strikes >= STRIKES_MAX
    }

    /// An answer costs us a signature: who has proved nothing gets a few.
    fn strike_of_a_stranger(&mut self) -> Option<(CloseCode, &'static str)> {
        (self.principal().is_none() && self.strike()).then(|| self.end("not AMP"))
    }

    fn end(&mut self, reason: &'static str) -> (CloseCode, &'static str) {
        self.phase = Phase::Closing;
        (CloseCode::POLICY, reason)
    }

    /// The HELLO was admitted, and the DID it proves, if any, is in the directory: messages are heard from now on. One to an
    /// alias proves nothing, and the deadline stays.
    pub fn admitted(&mut self, principal: Option<Principal>) {
        if self.phase == Phase::Proving {
            self.phase = Phase::Open;
            if let Some(principal) = principal {
                self.standing = Standing::Known(principal);
            }
        }
    }

    /// Nothing more is heard.
    pub fn closing(&mut self) {
        self.phase = Phase::Closing;
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::wire::{
        amp::{Builder, Header, To, body::Hello, parse},
        sign_in::did_of,
    };

    const NOW: Now = Now { mono_ms: 1_000, unix_ms: 1_800_000_000_000 };

    fn greeting() -> Greeting {
        Greeting { did: "did:key:zRelay".into(), started_ms: NOW.unix_ms - 1_000 }
    }

    fn agent() -> (SigningKey, Text) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes()));
        (key, did_of(&public).expect("a did:key").into())
    }

    fn message(typ: Type, to: &str, from: &str, body: &[u8]) -> Vec<u8> {
        let header = Header::new(Id::new(NOW.unix_ms, [1; 8]), typ, from, To::One(to));
        let mut frame = Vec::new();
        let built =
            Builder::new(header).body(body).write_signed(Dialect::Text, &agent().0, &mut Vec::new(), &mut frame);
        built.expect("a message");
        frame
    }

    fn hello(to: &str) -> Vec<u8> {
        let mut body = Vec::new();
        Hello { versions: &["1.0"], ..Hello::default() }.write(&mut body);
        message(Type::HELLO, to, &agent().1, &body)
    }

    fn opened(proves: bool) -> Connection {
        let mut connection = Connection::new(ConnToken::new(0, 1, 2), NOW);
        let frame = hello(if proves { "did:key:zRelay" } else { RELAY_SERVER });
        let Heard::Hello(job) = heard(&mut connection, &frame) else { panic!("no HELLO") };
        assert_eq!((job.proves.is_some(), job.selected.as_deref()), (proves, Some("1.0")));
        let heard = heard(&mut connection, &frame);
        assert!(matches!(heard, Heard::Ignored), "nothing is heard while the proof is checked");
        let did = agent().1;
        connection.admitted(proves.then(|| Principal {
            did,
            fingerprint: "SHA256:x".into(),
            role: crate::relay::Role::Agent,
        }));
        connection
    }

    fn heard(connection: &mut Connection, frame: &[u8]) -> Heard {
        connection.binary(&parse(frame), &greeting(), NOW)
    }

    fn code(heard: &Heard) -> Option<Code> {
        match heard {
            Heard::Refused(refused) => Some(refused.refusal.code),
            _ => None,
        }
    }

    #[test]
    fn a_message_before_hello_is_refused_and_a_stranger_is_borne_three_times() {
        let mut connection = Connection::new(ConnToken::new(0, 1, 2), NOW);
        let frame = message(Type::MESSAGE, "did:key:zB", &agent().1, &[0xf6]);
        assert_eq!(code(&heard(&mut connection, &frame)), Some(Code::UNSUPPORTED_VERSION));
        let nameless = b"\xa1\x64from\x69did:web:a";
        assert_eq!(code(&heard(&mut connection, nameless)), Some(Code::INVALID_MESSAGE));
        let Heard::Refused(last) = heard(&mut connection, nameless) else { panic!("not refused") };
        assert!(last.close.is_some_and(|(code, _)| code == CloseCode::POLICY));
        assert!(matches!(heard(&mut connection, &hello("did:key:zRelay")), Heard::Ignored));
    }

    #[test]
    fn an_answer_before_hello_goes_to_who_the_frame_says_it_is_from_or_the_connection_ends() {
        let new = || Connection::new(ConnToken::new(0, 1, 2), NOW);
        // (what is no message; who is answered)
        let long = format!("did:web:{}", "a".repeat(repeated::SENDER_BYTES_MAX));
        let with = |from: &str| {
            let mut frame = b"\xa2\x64from".to_vec();
            crate::wire::cbor::text(&mut frame, from);
            frame.extend(b"\x61x\xf6");
            frame
        };
        for (frame, to) in [
            (with("did:web:a"), Some("did:web:a")),
            (b"\xa1\x06\x69did:web:a".to_vec(), Some("did:web:a")),
            (with(&format!("did:web:a#{long}")), Some("did:web:a")),
            (with(&long), None),
            (b"\xa2\x64from\x61a\x64from\x61b".to_vec(), None),
            (b"\xa1\x64from\x05".to_vec(), None),
            (b"\xff".to_vec(), None),
            (b"{}".to_vec(), None),
            (b"\xa1\x01\x61x".to_vec(), None),
        ] {
            let mut connection = new();
            match (heard(&mut connection, &frame), to) {
                (Heard::Refused(refused), Some(to)) => assert_eq!(&*refused.to, to),
                (Heard::Unanswerable(code, reason), None) => {
                    assert_eq!(code, CloseCode::POLICY);
                    assert!(reason.len() <= 123 && connection.is_deaf(), "{reason}");
                }
                (other, _) => panic!("{frame:02x?}: {other:?}"),
            }
        }
        // So does a message that can be read.
        let mut connection = new();
        let heard = heard(&mut connection, &message(Type::MESSAGE, "did:key:zB", &long, &[0xf6]));
        assert!(matches!(heard, Heard::Unanswerable(..)), "{heard:?}");
    }

    #[test]
    fn a_hello_whose_body_can_be_read_in_two_ways_is_refused() {
        for body in [
            &b"\xa2\x68versions\x81\x631.0\x68versions\x81\x632.0"[..],
            b"\xa2\x6aagent_info\xa2\x64name\x61a\x64name\x61b\x68versions\x81\x631.0",
        ] {
            let mut connection = Connection::new(ConnToken::new(0, 1, 2), NOW);
            // Nobody can sign it: it takes the place of a text of as many bytes.
            let mut stand_in = vec![0x78, u8::try_from(body.len() - 2).expect("a short text")];
            stand_in.resize(body.len(), b'x');
            let mut frame = message(Type::HELLO, "did:key:zRelay", &agent().1, &stand_in);
            let at = frame.windows(body.len()).position(|window| window == stand_in).expect("it is there");
            frame[at..at + body.len()].copy_from_slice(body);
            assert_eq!(code(&heard(&mut connection, &frame)), Some(Code::BAD_REQUEST));
        }
    }

    #[test]
    fn messages_of_the_proved_did_pass_and_those_of_another_end_the_connection() {
        let mut connection = opened(true);
        let fine = message(Type::MESSAGE, "did:key:zB", &agent().1, &[0xf6]);
        assert!(matches!(heard(&mut connection, &fine), Heard::Message));
        let foreign = message(Type::MESSAGE, "did:key:zB", "did:key:zElse", &[0xf6]);
        for strike in 1..=STRIKES_MAX {
            let Heard::Refused(refused) = heard(&mut connection, &foreign) else { panic!("not refused") };
            assert_eq!((refused.refusal.code, refused.close.is_some()), (Code::UNAUTHORIZED, strike == STRIKES_MAX));
        }
        assert!(matches!(heard(&mut connection, &fine), Heard::Ignored));
    }

    #[test]
    fn the_deadline_stays_until_a_key_is_proved() {
        let deadline = NOW.mono_ms + HELLO_MS;
        let mut connection = Connection::new(ConnToken::new(0, 1, 2), NOW);
        assert_eq!(connection.deadline(), Some(deadline));
        heard(&mut connection, &hello("did:key:zRelay"));
        assert_eq!(connection.deadline(), Some(deadline), "while it is checked");
        connection.closing();
        assert_eq!(connection.deadline(), Some(deadline), "while an answer is on its way");
        assert_eq!(opened(false).deadline(), Some(deadline), "after a HELLO to an alias");
        assert_eq!(opened(true).deadline(), None);
    }

    #[test]
    fn a_hello_to_an_alias_proves_nothing() {
        let mut connection = opened(false);
        let frame = message(Type::MESSAGE, "did:key:zB", &agent().1, &[0xf6]);
        assert_eq!(code(&heard(&mut connection, &frame)), Some(Code::UNAUTHORIZED));
    }

    #[test]
    fn an_error_is_never_answered() {
        let mut connection = opened(true);
        let frame = message(Type::ERROR, "did:key:zB", "did:key:zElse", &[0xa0]);
        assert!(matches!(heard(&mut connection, &frame), Heard::Ignored));
    }
}
