//! One agent's connection: HELLO, then messages of one principal. Decides what a message that came is; where it goes is
//! decided by [`recipients`](super::recipients).

use super::lanes::Lane;
use crate::{
    base::{CloseCode, ConnToken, Now},
    relay::{
        Principal,
        admission::{HelloJob, Judged},
        api::Text,
        message::{self, NotHanded, Refused},
    },
    wire::amp::{
        Code, EnvelopeView, Frame, Id, KeyEncoding, Malformed, RELAY_SERVER, Recognized, Type,
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

/// What a message turned out to be.
#[derive(Debug)]
pub enum Ingress {
    /// A HELLO to us: have it checked; input is ignored until [`Agent::admitted`].
    Hello(HelloJob),
    /// A message of the principal that passed every check: deliver it.
    Message,
    /// Refused.
    Refused(Refused),
    /// Refused, and the answer has no recipient: end the connection with this reason.
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

/// The key of the peer. One field, since a peer with a proved key has no time limit: every idle connection pays for it.
#[derive(Debug)]
enum AuthState {
    /// No key is proved, whatever was said; the deadline for that, on the monotonic clock.
    Unknown { deadline: u64 },
    /// The key it proved.
    Known(Principal),
}

/// A HELLO on its way, after its parse and before its answer.
#[derive(Debug)]
enum Proving {
    /// It is ahead of our clock, until that is as far.
    Early(HelloJob),
    /// It is checked, and waits for the directory.
    Joining(Judged),
}

/// The state of one agent's connection.
#[derive(Debug)]
pub struct Agent {
    peer: ConnToken,
    auth: AuthState,
    phase: Phase,
    key_encoding: KeyEncoding,
    strikes: u8,
    /// It came over the Unix socket.
    is_local: bool,
    /// The supervisor knows it, and must learn of its end.
    pub(super) is_known: bool,
    proving: Option<Box<Proving>>,
}

const _: () = assert!(size_of::<Agent>() <= 72, "paid by every idle connection");

impl Agent {
    /// A connection that was just upgraded.
    pub fn new(peer: ConnToken, is_local: bool, now: Now) -> Self {
        let auth = AuthState::Unknown { deadline: now.mono_ms + HELLO_MS };
        let (phase, key_encoding) = (Phase::New, KeyEncoding::Text);
        Self { peer, auth, phase, key_encoding, strikes: 0, is_local, is_known: false, proving: None }
    }

    /// Its lane towards the crypto thread.
    pub(super) fn lane(&self) -> Lane {
        match self.principal() {
            Some(_) => Lane::Admitted,
            None if self.is_local => Lane::Local,
            None => Lane::Strangers,
        }
    }

    /// Keeps a HELLO that is ahead of our clock.
    pub(super) fn wait_for_the_clock(&mut self, job: HelloJob) {
        self.proving = Some(Box::new(Proving::Early(job)));
    }

    /// The HELLO that was ahead of our clock.
    pub(super) fn take_early(&mut self) -> Option<HelloJob> {
        match *self.proving.take_if(|proving| matches!(**proving, Proving::Early(_)))? {
            Proving::Early(job) => Some(job),
            Proving::Joining(_) => None,
        }
    }

    /// Keeps a HELLO that was admitted while the directory takes the connection in.
    pub(super) fn wait_for_the_directory(&mut self, judged: Judged) {
        self.proving = Some(Box::new(Proving::Joining(judged)));
    }

    /// The HELLO that waited for the directory.
    pub(super) fn take_joining(&mut self) -> Option<Judged> {
        match *self.proving.take_if(|proving| matches!(**proving, Proving::Joining(_)))? {
            Proving::Joining(judged) => Some(judged),
            Proving::Early(_) => None,
        }
    }

    /// The key it proved, also while the directory does not know it yet: a revocation must not pass it by.
    pub fn proved(&self) -> Option<&Principal> {
        self.principal().or_else(|| match self.proving.as_deref()? {
            Proving::Joining(judged) => judged.principal.as_ref(),
            Proving::Early(_) => None,
        })
    }

    /// How the peer writes its keys: how it is answered.
    pub fn key_encoding(&self) -> KeyEncoding {
        self.key_encoding
    }

    /// The key it proved.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.auth {
            AuthState::Known(principal) => Some(principal),
            AuthState::Unknown { .. } => None,
        }
    }

    /// When the peer must have proved a key, on the monotonic clock; `None` once it has.
    pub fn deadline(&self) -> Option<u64> {
        match self.auth {
            AuthState::Unknown { deadline } => Some(deadline),
            AuthState::Known(_) => None,
        }
    }

    /// True while HELLO is verified or the connection is closing: input is ignored.
    pub fn ignores_input(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Proving)
    }

    /// Judges a binary message by what was read of it ([`parse`](crate::wire::amp::parse)). The view is borrowed, since
    /// it is large and every message has one.
    pub fn binary(&mut self, parsed: &Result<Frame<'_>, Malformed<'_>>, greeting: &Greeting, now: Now) -> Ingress {
        if self.ignores_input() {
            return Ingress::Ignored;
        }
        let view = match parsed {
            Ok(Frame::Envelope(view)) => view,
            Ok(Frame::Legacy(_) | Frame::JsonAuth(_)) => {
                return self.unreadable(None, None, "this listener takes AMP messages with text or integer keys");
            }
            Err(Malformed { typ: Some(Type::ERROR), .. }) => return Ingress::Ignored,
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
            Ok(()) => Ingress::Message,
            Err(_) if !view.header.typ.allows_error_reply() => Ingress::Ignored,
            Err(refusal) => {
                // Any refused message of a peer without a proved key counts, whatever is wrong with it.
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
    ) -> Ingress {
        match Refused::of(view, refusal) {
            Some(refused) => Ingress::Refused(Refused { close, ..refused }),
            None => self.unanswerable("`from` is too long to be a DID"),
        }
    }

    /// The answer to a frame that is no message. An answer needs a recipient: without a proved DID and a readable
    /// sender the connection ends with the reason.
    fn unreadable(&mut self, id: Option<Id>, from: Option<&str>, reason: &'static str) -> Ingress {
        let Some(to) = self.did().or_else(|| from.and_then(message::sender).map(Text::from)) else {
            return self.unanswerable(reason);
        };
        let close = self.strike_of_a_stranger();
        Ingress::Refused(Refused {
            refusal: Refusal::new(Malformed::CODE, reason),
            id,
            to,
            thread_id: None,
            not_handed: NotHanded::default(),
            close,
        })
    }

    fn unanswerable(&mut self, reason: &'static str) -> Ingress {
        let (code, reason) = self.end(reason);
        Ingress::Unanswerable(code, reason)
    }

    /// Whether a message is taken that differs from one of this connection that was (`Ingress::Message`) in id, time,
    /// signature and body alone. False: [`binary`](Self::binary) says what becomes of it.
    #[inline]
    pub fn takes_again(&self, next: &Recognized, ttl: u64, now: Now) -> bool {
        self.phase == Phase::Open && check::ingress_again(next, ttl, check::SKEW_MS_DEFAULT, now)
    }

    fn hello(&mut self, view: &EnvelopeView<'_>, greeting: &Greeting, now: Now) -> Ingress {
        self.key_encoding = view.key_encoding;
        let Some(from) = message::sender(view.header.from) else {
            return self.unanswerable("`from` is too long to be a DID");
        };
        let found = check::hello(view, &greeting.names(), check::SKEW_MS_DEFAULT, greeting.started_ms, now)
            .and_then(|found| Ok((found, message::thread(view)?)));
        match found {
            Ok((found, thread_id)) => {
                self.phase = Phase::Proving;
                Ingress::Hello(HelloJob {
                    peer: self.peer,
                    frame: view.frame.to_vec(),
                    proves: (found.named == check::Named::Did).then(|| found.from.into()),
                    from: from.into(),
                    selected: found.selected.map(str::to_owned),
                    id: view.header.id,
                    thread_id,
                    from_ms: found.from_ms,
                    key_encoding: view.key_encoding,
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

    /// Counts a message that no conforming peer sends. True: it was the last one that is tolerated.
    fn strike(&mut self) -> bool {
        self.strikes += 1;
        self.strikes >= STRIKES_MAX
    }

    /// An answer costs a signature, so a peer without a proved key gets only a few.
    fn strike_of_a_stranger(&mut self) -> Option<(CloseCode, &'static str)> {
        (self.principal().is_none() && self.strike()).then(|| self.end("not AMP"))
    }

    fn end(&mut self, reason: &'static str) -> (CloseCode, &'static str) {
        self.phase = Phase::Closing;
        (CloseCode::POLICY, reason)
    }

    /// The HELLO was admitted, and the DID it proves, if any, is in the directory: messages are read from now on. A
    /// HELLO to an alias proves nothing, and the deadline stays.
    pub fn admitted(&mut self, principal: Option<Principal>) {
        if self.phase == Phase::Proving {
            self.phase = Phase::Open;
            if let Some(principal) = principal {
                self.auth = AuthState::Known(principal);
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
            Builder::new(header).body(body).write_signed(KeyEncoding::Text, &agent().0, &mut Vec::new(), &mut frame);
        built.expect("a message");
        frame
    }

    fn hello(to: &str) -> Vec<u8> {
        let mut body = Vec::new();
        Hello { versions: &["1.0"], ..Hello::default() }.write(&mut body);
        message(Type::HELLO, to, &agent().1, &body)
    }

    fn opened(proves: bool) -> Agent {
        let mut connection = Agent::new(ConnToken::new(0, 1, 2), false, NOW);
        let frame = hello(if proves { "did:key:zRelay" } else { RELAY_SERVER });
        let Ingress::Hello(job) = ingress(&mut connection, &frame) else { panic!("no HELLO") };
        assert_eq!((job.proves.is_some(), job.selected.as_deref()), (proves, Some("1.0")));
        let ingress = ingress(&mut connection, &frame);
        assert!(matches!(ingress, Ingress::Ignored), "nothing is heard while the proof is checked");
        let did = agent().1;
        connection.admitted(proves.then(|| Principal {
            did,
            fingerprint: "SHA256:x".into(),
            role: crate::relay::Role::Agent,
        }));
        connection
    }

    fn ingress(connection: &mut Agent, frame: &[u8]) -> Ingress {
        connection.binary(&parse(frame), &greeting(), NOW)
    }

    fn code(ingress: &Ingress) -> Option<Code> {
        match ingress {
            Ingress::Refused(refused) => Some(refused.refusal.code),
            _ => None,
        }
    }

    #[test]
    fn a_message_before_hello_is_refused_and_a_stranger_is_borne_three_times() {
        let mut connection = Agent::new(ConnToken::new(0, 1, 2), false, NOW);
        let frame = message(Type::MESSAGE, "did:key:zB", &agent().1, &[0xf6]);
        assert_eq!(code(&ingress(&mut connection, &frame)), Some(Code::UNSUPPORTED_VERSION));
        let nameless = b"\xa1\x64from\x69did:web:a";
        assert_eq!(code(&ingress(&mut connection, nameless)), Some(Code::INVALID_MESSAGE));
        let Ingress::Refused(last) = ingress(&mut connection, nameless) else { panic!("not refused") };
        assert!(last.close.is_some_and(|(code, _)| code == CloseCode::POLICY));
        assert!(matches!(ingress(&mut connection, &hello("did:key:zRelay")), Ingress::Ignored));
    }

    #[test]
    fn an_answer_before_hello_goes_to_who_the_frame_says_it_is_from_or_the_connection_ends() {
        let new = || Agent::new(ConnToken::new(0, 1, 2), false, NOW);
        // (a frame that is no message; the recipient of the answer)
        let long = format!("did:web:{}", "a".repeat(message::SENDER_BYTES_MAX));
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
            match (ingress(&mut connection, &frame), to) {
                (Ingress::Refused(refused), Some(to)) => assert_eq!(&*refused.to, to),
                (Ingress::Unanswerable(code, reason), None) => {
                    assert_eq!(code, CloseCode::POLICY);
                    assert!(reason.len() <= 123 && connection.ignores_input(), "{reason}");
                }
                (other, _) => panic!("{frame:02x?}: {other:?}"),
            }
        }
        // So does a message that can be read.
        let mut connection = new();
        let ingress = ingress(&mut connection, &message(Type::MESSAGE, "did:key:zB", &long, &[0xf6]));
        assert!(matches!(ingress, Ingress::Unanswerable(..)), "{ingress:?}");
    }

    #[test]
    fn a_hello_whose_body_can_be_read_in_two_ways_is_refused() {
        for body in [
            &b"\xa2\x68versions\x81\x631.0\x68versions\x81\x632.0"[..],
            b"\xa2\x6aagent_info\xa2\x64name\x61a\x64name\x61b\x68versions\x81\x631.0",
        ] {
            let mut connection = Agent::new(ConnToken::new(0, 1, 2), false, NOW);
            // Such a body cannot be signed, so it replaces a text of as many bytes.
            let mut stand_in = vec![0x78, u8::try_from(body.len() - 2).expect("a short text")];
            stand_in.resize(body.len(), b'x');
            let mut frame = message(Type::HELLO, "did:key:zRelay", &agent().1, &stand_in);
            let at = frame.windows(body.len()).position(|window| window == stand_in).expect("it is there");
            frame[at..at + body.len()].copy_from_slice(body);
            assert_eq!(code(&ingress(&mut connection, &frame)), Some(Code::BAD_REQUEST));
        }
    }

    #[test]
    fn messages_of_the_proved_did_pass_and_those_of_another_end_the_connection() {
        let mut connection = opened(true);
        let fine = message(Type::MESSAGE, "did:key:zB", &agent().1, &[0xf6]);
        assert!(matches!(ingress(&mut connection, &fine), Ingress::Message));
        let foreign = message(Type::MESSAGE, "did:key:zB", "did:key:zElse", &[0xf6]);
        for strike in 1..=STRIKES_MAX {
            let Ingress::Refused(refused) = ingress(&mut connection, &foreign) else { panic!("not refused") };
            assert_eq!((refused.refusal.code, refused.close.is_some()), (Code::UNAUTHORIZED, strike == STRIKES_MAX));
        }
        assert!(matches!(ingress(&mut connection, &fine), Ingress::Ignored));
    }

    #[test]
    fn the_deadline_stays_until_a_key_is_proved() {
        let deadline = NOW.mono_ms + HELLO_MS;
        let mut connection = Agent::new(ConnToken::new(0, 1, 2), false, NOW);
        assert_eq!(connection.deadline(), Some(deadline));
        ingress(&mut connection, &hello("did:key:zRelay"));
        assert_eq!(connection.deadline(), Some(deadline), "while it is checked");
        connection.closing();
        assert_eq!(connection.deadline(), Some(deadline), "while an answer is on its way");
        assert_eq!(opened(false).deadline(), Some(deadline), "after a HELLO to an alias");
        assert_eq!(opened(true).deadline(), None);
    }

    #[test]
    fn a_proof_that_comes_when_the_connection_is_closing_opens_nothing() {
        let mut connection = Agent::new(ConnToken::new(0, 1, 2), false, NOW);
        assert!(matches!(ingress(&mut connection, &hello("did:key:zRelay")), Ingress::Hello(_)));
        connection.closing();
        let principal = Principal { did: agent().1, fingerprint: "SHA256:x".into(), role: crate::relay::Role::Agent };
        connection.admitted(Some(principal));
        assert!(connection.ignores_input() && connection.principal().is_none());
        let mut connection = opened(true);
        connection.closing();
        assert!(connection.ignores_input());
        let next = Recognized { id: Id::new(NOW.unix_ms, [2; 8]), ts: NOW.unix_ms };
        assert!(!connection.takes_again(&next, 60_000, NOW) && opened(true).takes_again(&next, 60_000, NOW));
    }

    #[test]
    fn another_hello_of_an_agent_is_no_message_of_an_unknown_type() {
        let mut connection = opened(true);
        assert!(matches!(ingress(&mut connection, &hello("did:key:zRelay")), Ingress::Message));
    }

    #[test]
    fn each_refused_message_of_a_connection_without_a_proved_key_counts() {
        for proves in [false, true] {
            let mut connection = opened(proves);
            let header = Header::new(Id::new(1, [1; 8]), Type::MESSAGE, "did:key:zB", To::One("did:key:zB"));
            let mut old = Vec::new();
            let built = Builder::new(header).body(&[0xf6]).write(KeyEncoding::Text, Some(&[1; 64]), &mut old);
            built.expect("a message");
            for strike in 1..=STRIKES_MAX {
                let Ingress::Refused(refused) = ingress(&mut connection, &old) else { panic!("not refused") };
                assert_eq!(refused.refusal.code, Code::INVALID_TIMESTAMP);
                assert_eq!(refused.close.is_some(), !proves && strike == STRIKES_MAX);
            }
        }
    }

    #[test]
    fn a_hello_to_an_alias_proves_nothing() {
        let mut connection = opened(false);
        let frame = message(Type::MESSAGE, "did:key:zB", &agent().1, &[0xf6]);
        assert_eq!(code(&ingress(&mut connection, &frame)), Some(Code::UNAUTHORIZED));
    }

    #[test]
    fn an_error_is_never_answered() {
        let mut connection = opened(true);
        let frame = message(Type::ERROR, "did:key:zB", "did:key:zElse", &[0xa0]);
        assert!(matches!(ingress(&mut connection, &frame), Ingress::Ignored));
    }
}
