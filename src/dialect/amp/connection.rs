//! One AMP connection, sans-io: HELLO, then messages of one principal.

use crate::{
    base::{CloseCode, ConnToken, Now},
    relay::{Role, api::Text},
    wire::amp::{
        Code, Dialect, EnvelopeView, Frame, Id, Malformed, RELAY_SERVER, Type,
        check::{self, Names, Peer, Policy, Refusal},
        parse,
    },
};

/// Longest time between the upgrade and a HELLO that is answered.
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
    /// When it began to remember HELLOs, Unix milliseconds.
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

/// The key behind a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// Its DID.
    pub did: Text,
    /// `SHA256:...`.
    pub fingerprint: Text,
    /// What it may do.
    pub role: Role,
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
    /// Whom to answer, where it could be read.
    pub from: Option<Text>,
    /// End the connection behind the answer.
    pub close: Option<(CloseCode, &'static str)>,
}

/// What a binary message turned out to be.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A HELLO to us: have it checked; nothing is heard until [`Connection::admitted`].
    Hello(HelloJob),
    /// A message of the principal that passed every check: deliver it.
    Message(EnvelopeView<'a>),
    /// Refused.
    Refused(Refused),
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

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    peer: ConnToken,
    phase: Phase,
    dialect: Dialect,
    principal: Option<Principal>,
    strikes: u8,
    deadline: u64,
}

impl Connection {
    /// A connection that was just upgraded.
    pub fn new(peer: ConnToken, now: Now) -> Self {
        let deadline = now.mono_ms + HELLO_MS;
        Self { peer, phase: Phase::New, dialect: Dialect::Text, principal: None, strikes: 0, deadline }
    }

    /// How the peer writes its keys: how it is answered.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The key it proved.
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// When the peer must have said HELLO, on the monotonic clock; `None` once it has.
    pub fn deadline(&self) -> Option<u64> {
        (self.phase == Phase::New).then_some(self.deadline)
    }

    /// A binary message came.
    pub fn binary<'a>(&mut self, frame: &'a [u8], greeting: &Greeting, now: Now) -> Heard<'a> {
        if matches!(self.phase, Phase::Closing | Phase::Proving) {
            return Heard::Ignored;
        }
        let view = match parse(frame) {
            Ok(Frame::Envelope(view)) => view,
            Ok(Frame::Legacy(_) | Frame::JsonAuth(_)) => {
                let refusal =
                    Refusal::new(Malformed::CODE, "this listener takes AMP messages with text or integer keys");
                return Heard::Refused(Refused { refusal, id: None, from: self.did(), close: None });
            }
            Err(Malformed { typ: Some(Type::ERROR), .. }) => return Heard::Ignored,
            Err(malformed) => {
                let refusal = Refusal::new(Malformed::CODE, "the frame is not one well-formed AMP message");
                return Heard::Refused(Refused { refusal, id: malformed.id, from: self.did(), close: None });
            }
        };
        if self.phase == Phase::New {
            return self.hello(&view, greeting, now);
        }
        let principal = self.principal.as_ref().map(|principal| &*principal.did);
        let peer = Peer { negotiated: true, principal };
        match check::ingress(&view, &peer, &greeting.policy(), now) {
            Ok(()) => Heard::Message(view),
            Err(_) if !view.header.typ.may_be_refused_aloud() => Heard::Ignored,
            Err(refusal) => {
                let close = (refusal.code == Code::UNAUTHORIZED && self.strike()).then(|| self.end("not your DID"));
                Heard::Refused(Refused {
                    refusal,
                    id: Some(view.header.id),
                    from: Some(view.header.from.into()),
                    close,
                })
            }
        }
    }

    fn hello<'a>(&mut self, view: &EnvelopeView<'_>, greeting: &Greeting, now: Now) -> Heard<'a> {
        self.dialect = view.dialect;
        let found = check::hello(view, &greeting.names(), check::SKEW_MS_DEFAULT, greeting.started_ms, now);
        match found {
            Ok(found) => {
                self.phase = Phase::Proving;
                Heard::Hello(HelloJob {
                    peer: self.peer,
                    frame: view.frame.to_vec(),
                    proves: (found.named == check::Named::Did).then(|| found.from.into()),
                    from: view.header.from.into(),
                    selected: found.selected.map(str::to_owned),
                    id: view.header.id,
                    dialect: view.dialect,
                })
            }
            Err(refusal) => {
                let (id, from) = (Some(view.header.id), Some(view.header.from.into()));
                let close = self.strike().then(|| self.end("say HELLO first"));
                Heard::Refused(Refused { refusal, id, from, close })
            }
        }
    }

    fn did(&self) -> Option<Text> {
        self.principal.as_ref().map(|principal| principal.did.clone())
    }

    /// Counts a message that nobody who keeps to the protocol sends. True: it was the last one that is borne.
    fn strike(&mut self) -> bool {
        self.strikes += 1;
        self.strikes >= STRIKES_MAX
    }

    fn end(&mut self, reason: &'static str) -> (CloseCode, &'static str) {
        self.phase = Phase::Closing;
        (CloseCode::POLICY, reason)
    }

    /// The HELLO was admitted, and the DID it proves, if any, is in the directory: messages are heard from now on.
    pub fn admitted(&mut self, principal: Option<Principal>) {
        if self.phase == Phase::Proving {
            self.phase = Phase::Open;
            self.principal = principal;
        }
    }

    /// Nothing more is heard.
    pub fn closing(&mut self) {
        self.phase = Phase::Closing;
    }
}
