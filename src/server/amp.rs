//! Agents on a worker: their connections, this worker's part of the directory, and what the relay itself serves them.
//! Moves messages between the dialect, the directory and the sockets; it must not decide who may send what.

use std::collections::HashMap;

use super::{
    crypto::Hello,
    mail::{Mail, Mailers, ToCore},
    services::{Call, Services},
    worker::{Conn, Io, UNKNOWN_BYTES_MAX, Worker},
};
use crate::{
    base::{CloseCode, ConnToken, Fault},
    dialect::amp::{self, Asker, Connection, Greeting, Heard, Refused, Say, Taken, Tell},
    reactor::{
        Sent,
        ws::{Answer, Data, Framed},
    },
    relay::{
        Role,
        api::{Caller, Command, Decision, Out, Reply, Request, Text, When},
        directory::{Courier, Directory, Event, Options, Payload, Route, ServiceId, Why},
    },
    wire::{
        amp::{
            Code, Dialect, EnvelopeView, Frame, Id, PATH, RELAY_DID_HEADER, SIZE_HEADER, SUBPROTOCOL, Type,
            check::Refusal, did_base, parse, rekey,
        },
        cbor,
        http::{Head, Response},
    },
};

/// Couriers that travel to another worker in one mail.
const COURIERS_A_MAIL: usize = 512;

/// A message on its way through the directory: framed once, shared by all who get it.
#[derive(Clone)]
pub(super) struct Parcel {
    framed: Framed,
    dialect: Dialect,
    typ: Type,
    id: Id,
    from: Text,
    /// Whom to answer, on whichever worker.
    sender: ConnToken,
}

impl Payload for Parcel {
    type Ticket = (Id, Text, Dialect, Type);

    fn size(&self) -> usize {
        self.framed.wire_len()
    }

    fn ticket(&self) -> Self::Ticket {
        (self.id, self.from.clone(), self.dialect, self.typ)
    }
}

/// A connection on `/amp/v1/ws`.
pub(super) struct AgentConn {
    connection: Connection,
    asker: Asker,
    /// Sessions whose events this connection gets.
    attached: Vec<Text>,
    /// The HELLO that waits for the directory.
    hello: Option<Hello>,
    known: bool,
}

impl AgentConn {
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    pub(super) fn principal(&self) -> Option<&amp::Principal> {
        self.connection.principal()
    }

    /// The key it proved, also while the directory does not know it yet: a revocation must not pass it by.
    pub(super) fn proved(&self) -> Option<&amp::Principal> {
        self.principal().or_else(|| self.hello.as_ref()?.principal.as_ref())
    }
}

/// This worker's part of what agents need.
pub(super) struct Agents {
    greeting: Greeting,
    services: Services,
    directory: Directory<Parcel>,
    /// Sessions by the number the directory knows them by: id and DID.
    sessions: Vec<(Text, Text)>,
    mailers: Mailers,
    scratch: Vec<u8>,
    /// Who is not read because a receiver's queue is above its high mark, by receiver.
    held: HashMap<ConnToken, Vec<ConnToken>>,
    /// Who is to be read again because its receiver is gone.
    released: Vec<ConnToken>,
}

impl Agents {
    pub(super) fn new(greeting: Greeting, services: Services, worker: u16, secret: u64, mailers: Mailers) -> Self {
        let workers = u16::try_from(mailers.len()).unwrap_or(u16::MAX);
        let directory = Directory::new(Options::new(worker, workers, secret));
        let (sessions, scratch, held) = (Vec::new(), Vec::new(), HashMap::new());
        Self { greeting, services, directory, sessions, mailers, scratch, held, released: Vec::new() }
    }

    /// A session's DID can be written to from now on.
    pub(super) fn session(&mut self, session: Text, did: &Text) {
        let number = self.sessions.len() as u32;
        match self.directory.register_service(did, ServiceId(number)) {
            Ok(()) => {
                self.sessions.push((session, did.clone()));
            }
            Err(why) => log::error!(did = &**did, why:? = why; "a session's DID cannot be registered"),
        }
    }

    /// The end of a turn: what other workers' directories are to know.
    pub(super) fn carry(&mut self, io: &mut Io<'_>) {
        for sender in std::mem::take(&mut self.released) {
            io.resume(sender);
        }
        let worker = io.worker();
        let destinations: Vec<u16> = self.directory.destinations().collect();
        for to in destinations {
            loop {
                let batch = self.directory.take(to, COURIERS_A_MAIL);
                if batch.is_empty() {
                    break;
                }
                if let Err(Mail::Directory(batch)) = self.mailers.send(usize::from(to), Mail::Directory(batch)) {
                    self.directory.give_back(to, batch);
                    // Nobody else would wake this worker when there is room again.
                    let _ = self.mailers.send(usize::from(worker), Mail::Again);
                    break;
                }
            }
        }
    }
}

/// The answer to an upgrade on `/amp/v1/ws`.
pub(super) fn upgrade(head: &Head<'_>, peer: ConnToken, greeting: &Greeting, io: &Io<'_>) -> Answer<Conn> {
    if !head.wants_upgrade() {
        let line = "/amp/v1/ws speaks WebSocket, subprotocol amp.v1\n";
        return Answer::Respond(Response::text(426, line).with("Upgrade", "websocket"));
    }
    if !head.subprotocols().any(|name| name == SUBPROTOCOL) {
        return Answer::Respond(Response::text(400, "the upgrade must offer the subprotocol amp.v1\n"));
    }
    let connection = Connection::new(peer, io.now());
    let (asker, attached) = (Asker::default(), Vec::new());
    let conn = AgentConn { connection, asker, attached, hello: None, known: false };
    let headers = vec![(RELAY_DID_HEADER, greeting.did.to_string()), (SIZE_HEADER, super::MESSAGE_MAX.to_string())];
    Answer::Upgrade { conn: Conn::Agent(Box::new(conn)), subprotocol: Some(SUBPROTOCOL), headers }
}

pub(super) fn path() -> &'static str {
    PATH
}

impl Worker {
    pub(super) fn amp_greeting(&self) -> &Greeting {
        &self.agents.greeting
    }

    pub(super) fn amp_open(&mut self, agent: &AgentConn, io: &mut Io<'_>) {
        io.limit_messages(io.token(), UNKNOWN_BYTES_MAX);
        let now = io.now().mono_ms;
        io.set_timeout(io.token(), agent.connection.deadline().map(|at| at.saturating_sub(now)));
    }

    pub(super) fn amp_timeout(&mut self, agent: &mut AgentConn, io: &mut Io<'_>) {
        if agent.connection.deadline().is_some() {
            agent.connection.closing();
            self.tallies.sign_in_failures.add(1);
            io.close(io.token(), CloseCode::POLICY, "no HELLO in time");
        }
    }

    /// A receiver takes more again, or is gone: those who write to it are read again.
    pub(super) fn amp_release(&mut self, receiver: ConnToken, io: &mut Io<'_>) {
        for sender in self.agents.held.remove(&receiver).unwrap_or_default() {
            io.resume(sender);
        }
    }

    pub(super) fn amp_closed(&mut self, agent: &AgentConn, token: ConnToken) {
        self.agents.directory.leave(token);
        // `closed` has no loop at hand: the next turn, which comes at once, reads them again.
        if let Some(senders) = self.agents.held.remove(&token) {
            self.agents.released.extend(senders);
        }
        if agent.principal().is_some() {
            self.tallies.agents.sub(1);
        }
    }

    /// A message of an agent.
    pub(super) fn amp_message(&mut self, agent: &mut AgentConn, io: &mut Io<'_>, data: Data<'_>) -> Result<(), Fault> {
        self.tallies.amp_in.add(1);
        let Data::Binary(frame) = data else {
            return Err(Fault::new(CloseCode::UNSUPPORTED, "AMP is CBOR in binary messages"));
        };
        let peer = io.token();
        match agent.connection.binary(frame, &self.agents.greeting, io.now()) {
            Heard::Ignored => {}
            Heard::Hello(job) => {
                // Whatever comes behind the HELLO waits until the directory knows the peer.
                io.pause(peer);
                io.set_timeout(peer, None);
                if self.crypto.hello(job).is_err() {
                    io.close(peer, CloseCode::TRY_AGAIN, "too many sign-ins wait");
                }
            }
            Heard::Refused(refused) => {
                let did = self.agents.greeting.did.clone();
                self.refuse(&did, agent.connection.dialect(), peer, io, refused);
            }
            Heard::Message(view) => self.amp_route(agent, io, &view, data),
        }
        self.amp_events(io);
        Ok(())
    }

    /// Hands a message to each of its recipients.
    fn amp_route(&mut self, agent: &mut AgentConn, io: &mut Io<'_>, view: &EnvelopeView<'_>, data: Data<'_>) {
        let mut parcel: Option<Parcel> = None;
        let (mut for_us, mut sessions, mut absent) = (false, Vec::new(), false);
        let several = view.header.to.is_array();
        let mut named: Vec<&str> = Vec::new();
        for to in view.header.to.iter() {
            let did = did_base(to);
            // Who is named twice gets it once.
            if several {
                if named.contains(&did) {
                    continue;
                }
                named.push(did);
            }
            if self.agents.greeting.names().named(did).is_some() {
                for_us = true;
                continue;
            }
            match self.agents.directory.route(did) {
                Route::Local(tokens) => {
                    let mut handed = false;
                    for &token in tokens {
                        let sent = forward(io, token, agent, view, data, &mut self.agents.scratch, &self.tallies);
                        handed |= sent != Sent::Closed;
                        if sent == Sent::High {
                            self.agents.held.entry(token).or_default().push(io.token());
                            io.pause(io.token());
                        }
                    }
                    absent |= !handed;
                }
                Route::Service(ServiceId(number)) => sessions.push(number),
                Route::Elsewhere(key) => {
                    let owned = parcel.get_or_insert_with(|| Parcel {
                        framed: Framed::binary(view.frame),
                        dialect: view.dialect,
                        typ: view.header.typ,
                        id: view.header.id,
                        from: view.header.from.into(),
                        sender: io.token(),
                    });
                    self.agents.directory.send(key, did, Some(io.token()), owned.clone());
                }
                Route::Absent => absent = true,
            }
        }
        let peer = io.token();
        let refuse = |worker: &mut Self, io: &mut Io<'_>, did: &Text, refusal| {
            if view.header.typ.may_be_refused_aloud() {
                let (id, from) = (Some(view.header.id), Some(view.header.from.into()));
                worker.refuse(did, agent.connection.dialect(), peer, io, Refused { refusal, id, from, close: None });
            }
        };
        let did = self.agents.greeting.did.clone();
        if absent {
            refuse(self, io, &did, nobody(Why::Absent));
        }
        if for_us && let Err(refusal) = self.amp_serve(agent.connection.dialect(), io, view) {
            refuse(self, io, &did, refusal);
        }
        for number in sessions {
            let Some((session, did)) = self.agents.sessions.get(number as usize).cloned() else { continue };
            if let Err(refusal) = self.amp_ask(agent, io, view, &session, &did) {
                let (id, from) = (Some(view.header.id), Some(view.header.from.into()));
                let refused = Refused { refusal, id, from, close: None };
                self.refuse(&did, agent.connection.dialect(), peer, io, refused);
            }
        }
    }

    /// A message for the relay itself.
    fn amp_serve(&mut self, dialect: Dialect, io: &mut Io<'_>, view: &EnvelopeView<'_>) -> Result<(), Refusal> {
        let (typ, answer) = match view.header.typ {
            Type::PING => (Type::PONG, cbor::NULL.to_vec()),
            Type::REQUEST => (Type::RESPONSE, self.amp_call(io, view)?),
            // Nothing of ours waits for these.
            _ => return Ok(()),
        };
        let did = self.agents.greeting.did.clone();
        let Some(id) = id(io) else { return Ok(()) };
        self.say(Say {
            peer: io.token(),
            from: did,
            to: view.header.from.into(),
            typ,
            id,
            reply_to: Some(view.header.id),
            thread_id: view.header.thread_id.map(<[u8]>::to_vec),
            body: answer,
            dialect,
            close: None,
        });
        Ok(())
    }

    fn amp_call(&mut self, io: &Io<'_>, view: &EnvelopeView<'_>) -> Result<Vec<u8>, Refusal> {
        let encrypted = Refusal::new(Code::BAD_REQUEST, "the relay cannot read an encrypted REQUEST");
        let body = view.body_or_null().ok_or(encrypted)?;
        let nameless = Refusal::new(Code::BAD_REQUEST, "a REQUEST to the relay is a map with `action`, a text");
        let action = text_of(body, "action").ok_or(nameless)?;
        if action == "agents" {
            return Ok(self.amp_agents());
        }
        let from = did_base(view.header.from);
        self.agents.services.call(&action, &Call { from, body, now_ms: io.now().unix_ms })
    }

    /// Who is here.
    fn amp_agents(&self) -> Vec<u8> {
        let mut agents: Vec<(&str, u32, bool)> = self
            .agents
            .directory
            .agents()
            .filter(|agent| agent.connections > 0 || agent.service.is_some())
            .map(|agent| (agent.did, agent.connections, agent.service.is_some()))
            .collect();
        agents.sort_unstable();
        let mut body = Vec::new();
        cbor::map(&mut body, 1);
        cbor::text(&mut body, "agents");
        cbor::array(&mut body, agents.len());
        for (did, connections, session) in agents {
            cbor::map(&mut body, 3);
            cbor::text(&mut body, "did");
            cbor::text(&mut body, did);
            cbor::text(&mut body, "session");
            cbor::boolean(&mut body, session);
            cbor::text(&mut body, "connections");
            cbor::uint(&mut body, u64::from(connections));
        }
        body
    }

    /// A message for a session.
    fn amp_ask(
        &mut self,
        agent: &mut AgentConn,
        io: &mut Io<'_>,
        view: &EnvelopeView<'_>,
        session: &Text,
        did: &Text,
    ) -> Result<(), Refusal> {
        let body = view.body_or_null().ok_or(Refusal::new(Code::UNAUTHORIZED, "a session cannot decrypt"))?;
        let id = Text::from(amp::command_id(&view.header.id));
        let command = match view.header.typ {
            Type::REQUEST => {
                let wanted = Refusal::new(Code::BAD_REQUEST, "a REQUEST to a session is a map with `prompt`, a text");
                let text = text_of(body, "prompt").filter(|text| !text.is_empty()).ok_or(wanted)?;
                let from = Text::from(view.header.from);
                let thread_id = view.header.thread_id.map(<[u8]>::to_vec);
                match agent.asker.ask(session.clone(), did.clone(), from, view.header.id, thread_id) {
                    Taken::New => {}
                    Taken::Again => return Ok(()),
                    Taken::Full => {
                        return Err(Refusal::new(Code::OVERLOADED, "too many requests of this connection wait"));
                    }
                }
                self.amp_attach(agent, io, session);
                Command::Prompt { session: session.clone(), text: text.into(), when: When::Next }
            }
            Type::RESPONSE => {
                let unknown = Refusal::new(Code::BAD_REQUEST, "this answers no INPUT_REQUIRED that waits");
                let (of, request) =
                    view.header.reply_to.and_then(|reply_to| agent.asker.answered(reply_to)).ok_or(unknown)?;
                let decision = match text_of(body, "decision").as_deref() {
                    Some("allow") => Decision::Allow,
                    Some("deny") => Decision::Deny,
                    _ => return Err(Refusal::new(Code::BAD_REQUEST, "`decision` is neither \"allow\" nor \"deny\"")),
                };
                if !agent.asker.decide(of.clone(), did.clone(), view.header.from.into(), view.header.id) {
                    return Err(Refusal::new(Code::OVERLOADED, "too many decisions of this connection wait"));
                }
                Command::Decide { session: of, request, decision, message: None, input: None, answers: None }
            }
            Type::PING | Type::ERROR | Type::ACK | Type::PONG => return Ok(()),
            _ => return Err(Refusal::new(Code::UNKNOWN_TYPE, "a session takes REQUEST and RESPONSE")),
        };
        self.amp_submit(agent, io, Request { id, command });
        Ok(())
    }

    /// Makes sure that this connection gets the session's events.
    fn amp_attach(&mut self, agent: &mut AgentConn, io: &mut Io<'_>, session: &Text) {
        let may = agent.principal().is_some_and(|principal| principal.role.allows(Role::Watch));
        if may && !agent.attached.contains(session) {
            agent.attached.push(session.clone());
            let command = Command::Attach { session: session.clone(), from: None, tail_bytes: Some(0) };
            self.amp_submit(agent, io, Request { id: "attach".into(), command });
        }
    }

    fn amp_submit(&mut self, agent: &mut AgentConn, io: &Io<'_>, request: Request) {
        let Some(principal) = agent.connection.principal() else { return };
        let caller = Caller {
            peer: io.token(),
            principal: principal.fingerprint.clone(),
            role: principal.role,
            client: "amp".into(),
            device: format!("d{}", io.token()).into(),
            name: principal.did.clone(),
            kind: "agent".into(),
        };
        agent.known = true;
        self.core.take(ToCore::Request(Box::new(caller), request));
    }

    /// What the core has for an agent.
    pub(super) fn amp_out(&mut self, peer: ConnToken, out: &Out, io: &mut Io<'_>) {
        let now = io.now();
        let Some(Conn::Agent(agent)) = io.conn(peer) else { return };
        let dialect = agent.connection.dialect();
        match out {
            Out::Answer { re, result: Ok(Reply::Prompted { prompt, .. }), .. } => agent.asker.taken(re, prompt.clone()),
            Out::Answer { re, result: Ok(Reply::Decided { .. }), .. } => agent.asker.decided(re),
            Out::Answer { re, result: Err(error), .. } => {
                let Some(asked) = agent.asker.refused(re) else { return };
                let (id, from) = (Some(asked.id), Some(asked.from));
                let refused = Refused { refusal: amp::refusal(error), id, from, close: None };
                self.refuse(&asked.did, dialect, peer, io, refused);
            }
            Out::Event { event, .. } => {
                let mut says = Vec::new();
                let mut inputs = Vec::new();
                agent.asker.event(event, &mut |asked, tell| {
                    let Some(id) = new_id(now.unix_ms) else { return };
                    let (typ, body) = match tell {
                        Tell::Processing(body) => (Type::PROCESSING, body),
                        Tell::Response(body) => (Type::RESPONSE, body),
                        Tell::InputRequired { request, body } => {
                            inputs.push((id, asked.session.clone(), request));
                            (Type::INPUT_REQUIRED, body)
                        }
                    };
                    says.push(Say {
                        peer,
                        from: asked.did.clone(),
                        to: asked.from.clone(),
                        typ,
                        id,
                        reply_to: Some(asked.id),
                        thread_id: asked.thread_id.clone(),
                        body,
                        dialect,
                        close: None,
                    });
                });
                for (id, session, request) in inputs {
                    agent.asker.waits(id, session, request);
                }
                says.into_iter().for_each(|say| self.say(say));
            }
            _ => {}
        }
    }

    /// The crypto thread has checked a HELLO and signed its answer.
    pub(super) fn amp_hello(&mut self, peer: ConnToken, hello: Hello, io: &mut Io<'_>) {
        let Some(Conn::Agent(agent)) = io.conn(peer) else { return };
        let Hello { principal, close, .. } = &hello;
        if let Some((code, reason)) = *close {
            agent.connection.closing();
            self.tallies.sign_in_failures.add(1);
            self.send_binary(peer, &hello.answer, io);
            return io.close(peer, code, reason);
        }
        let Some(did) = principal.as_ref().map(|principal| principal.did.clone()) else {
            agent.connection.admitted(None);
            self.send_binary(peer, &hello.answer, io);
            return io.resume(peer);
        };
        agent.hello = Some(hello);
        if let Err(why) = self.agents.directory.join(&did, peer) {
            self.amp_unjoined(peer, why, io);
        }
        self.amp_events(io);
    }

    /// The directory does not take the connection.
    fn amp_unjoined(&mut self, peer: ConnToken, why: Why, io: &mut Io<'_>) {
        log::warn!(conn:% = peer, why:? = why; "an agent cannot join");
        if let Some(Conn::Agent(agent)) = io.conn(peer) {
            agent.connection.closing();
        }
        io.close(peer, CloseCode::TRY_AGAIN, "there is no room for this agent");
    }

    /// Couriers of another worker.
    pub(super) fn amp_couriers(&mut self, couriers: Vec<Courier<Parcel>>, io: &mut Io<'_>) {
        for courier in couriers {
            self.agents.directory.receive(courier);
            self.amp_events(io);
        }
    }

    /// Does what the directory wants done. To be called after every call of it, before anything is routed.
    fn amp_events(&mut self, io: &mut Io<'_>) {
        while let Some(event) = self.agents.directory.event() {
            match event {
                Event::Joined { token } => self.amp_joined(token, io),
                Event::Refused { token, why } => self.amp_unjoined(token, why, io),
                Event::Deliver { token, payload } => self.amp_deliver(token, &payload, io),
                Event::Answer { sender, ticket: (id, from, dialect, typ), why, .. } => {
                    if typ.may_be_refused_aloud() {
                        let did = self.agents.greeting.did.clone();
                        let refused = Refused { refusal: nobody(why), id: Some(id), from: Some(from), close: None };
                        self.refuse(&did, dialect, sender, io, refused);
                    }
                }
                // Services are on every worker, so that none is ever sent for; presence is read when it is asked for.
                Event::Service { .. } | Event::Presence { .. } => {}
            }
        }
    }

    fn amp_joined(&mut self, token: ConnToken, io: &mut Io<'_>) {
        let Some(Conn::Agent(agent)) = io.conn(token) else { return };
        let Some(hello) = agent.hello.take() else { return };
        agent.connection.admitted(hello.principal);
        io.limit_messages(token, u32::MAX);
        self.tallies.agents.add(1);
        self.send_binary(token, &hello.answer, io);
        io.resume(token);
    }

    fn amp_deliver(&mut self, token: ConnToken, parcel: &Parcel, io: &mut Io<'_>) {
        // The current connection is not to be had here: it may only be the one that spoke, and it sends what it reads.
        let dialect = match io.conn(token) {
            Some(Conn::Agent(agent)) => agent.connection.dialect(),
            _ => parcel.dialect,
        };
        self.tallies.amp_out.add(1);
        let sent = if dialect == parcel.dialect {
            io.framed_to(token, &parcel.framed)
        } else {
            if !rekeyed(parcel.framed.payload(), dialect, &mut self.agents.scratch) {
                return self.amp_unsayable(parcel, io);
            }
            io.binary_to(token, &self.agents.scratch)
        };
        if sent == Sent::Closed {
            self.agents.directory.leave(token);
        }
    }

    /// A receiver's key dialect cannot say a message: its sender learns that it was not delivered.
    fn amp_unsayable(&mut self, parcel: &Parcel, io: &mut Io<'_>) {
        if parcel.typ.may_be_refused_aloud() {
            let did = self.agents.greeting.did.clone();
            let refusal =
                Refusal::new(Code::RELAY_REJECTED, "integer keys, which the receiver writes, cannot say this");
            let refused = Refused { refusal, id: Some(parcel.id), from: Some(parcel.from.clone()), close: None };
            self.refuse(&did, parcel.dialect, parcel.sender, io, refused);
        }
    }

    /// Has the relay, or a session of it, say something.
    fn say(&mut self, say: Say) {
        if self.crypto.say(say).is_err() {
            log::warn!("an answer to an agent is dropped: too many wait to be signed");
        }
    }

    fn refuse(&mut self, did: &Text, dialect: Dialect, peer: ConnToken, io: &mut Io<'_>, refused: Refused) {
        let Some(id) = new_id(io.now().unix_ms) else { return };
        let mut body = Vec::new();
        refused.refusal.write_body(&mut body);
        let to = refused.from.unwrap_or_else(|| "did:unknown".into());
        let (from, reply_to, close) = (did.clone(), refused.id, refused.close);
        self.say(Say { peer, from, to, typ: Type::ERROR, id, reply_to, thread_id: None, body, dialect, close });
    }

    pub(super) fn send_binary(&mut self, peer: ConnToken, frame: &[u8], io: &mut Io<'_>) {
        self.tallies.amp_out.add(1);
        // A peer above its maximum is closed by the loop; its end comes through `closed`.
        let _ = io.binary_to(peer, frame);
    }
}

/// Hands the message that is being handled to a connection of this worker, from the buffer it was read into. `Closed`:
/// it was not handed over.
fn forward(
    io: &mut Io<'_>,
    token: ConnToken,
    sender: &AgentConn,
    view: &EnvelopeView<'_>,
    data: Data<'_>,
    scratch: &mut Vec<u8>,
    tallies: &super::metrics::WorkerTallies,
) -> Sent {
    let dialect = match io.conn(token) {
        Some(Conn::Agent(agent)) => agent.connection.dialect(),
        _ => sender.connection.dialect(),
    };
    let sent = if dialect == view.dialect {
        io.forward_to(token, data)
    } else {
        scratch.clear();
        match rekey(view, dialect, scratch) {
            Ok(()) => io.binary_to(token, scratch),
            Err(_) => return Sent::Closed,
        }
    };
    tallies.amp_out.add(u64::from(sent != Sent::Closed));
    sent
}

fn rekeyed(frame: &[u8], dialect: Dialect, out: &mut Vec<u8>) -> bool {
    out.clear();
    matches!(parse(frame), Ok(Frame::Envelope(view)) if rekey(&view, dialect, out).is_ok())
}

fn nobody(why: Why) -> Refusal {
    let reason = match why {
        Why::Absent => "nobody is connected under this DID, and nothing is kept for it yet",
        Why::Busy => "a queue on the way is full; try again",
        Why::Lost | Why::Service | Why::Full => "the relay could not hand the message over; try again",
    };
    Refusal::new(Code::RELAY_REJECTED, reason)
}

/// The text of a body's member, if the body is a map that has it.
fn text_of(body: &[u8], name: &str) -> Option<String> {
    let value: ciborium::Value = ciborium::from_reader(body).ok()?;
    let members = value.into_map().ok()?;
    members.into_iter().find(|(key, _)| key.as_text() == Some(name))?.1.into_text().ok()
}

fn id(io: &Io<'_>) -> Option<Id> {
    new_id(io.now().unix_ms)
}

fn new_id(unix_ms: u64) -> Option<Id> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    Some(Id::new(unix_ms, random))
}
