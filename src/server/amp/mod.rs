//! Agents on a worker: their connections, this worker's part of the directory, and what the relay itself serves them.
//! Moves messages between the dialect, the directory and the sockets; it must not decide who may send what.

mod hold;
mod route;
mod serve;
mod sessions;
mod stream;
mod verify;

use std::collections::HashMap;

use self::{
    hold::Holds,
    route::{Sender, Source},
};
use super::{
    Verify,
    channels::{Hello, Job, Lane, Links, Mail, Mailers, Parcel},
    crypto::Crypto,
    lanes::Lanes,
    services::Services,
    worker::{Conn, Io, UNKNOWN_BYTES_MAX, Worker},
};
use crate::{
    base::{CloseCode, ConnToken, Fault},
    dialect::amp::{self, Asker, Connection, Greeting, Heard, HelloJob, Refused, Say},
    reactor::{
        Peer, PeerAddr, Sent,
        ws::{Answer, Data},
    },
    relay::{
        Principal,
        api::Text,
        directory::{Courier, Directory, Event, Options, ServiceId, Why},
    },
    wire::{
        amp::{Dialect, Frame, Id, PATH, RELAY_DID_HEADER, SIZE_HEADER, SUBPROTOCOL, Type, parse},
        cbor,
        http::{Head, Response},
    },
};

/// How long a connection that is to be closed behind an answer waits for that answer.
const LAST_ANSWER_MS: u64 = 5_000;
/// Couriers that travel to another worker in one mail.
const COURIERS_A_MAIL: usize = 512;

/// A connection on `/amp/v1/ws`.
pub(super) struct AgentConn {
    connection: Connection,
    /// What it has asked sessions: most agents never do.
    asker: Option<Box<Asker>>,
    proving: Option<Box<Proving>>,
    known: bool,
    /// It came over the Unix socket.
    is_local: bool,
}

const _: () = assert!(size_of::<AgentConn>() <= 80, "paid by every idle connection");

/// A HELLO on its way, after its parse and before its answer.
enum Proving {
    /// It is ahead of our clock, until that is as far.
    Early(HelloJob),
    /// It is checked, and waits for the directory.
    Joining(Hello),
}

impl AgentConn {
    fn new(connection: Connection, is_local: bool) -> Self {
        Self { connection, asker: None, proving: None, known: false, is_local }
    }

    /// With whom it waits for the crypto thread.
    fn lane(&self) -> Lane {
        match self.principal() {
            Some(_) => Lane::Admitted,
            None if self.is_local => Lane::Local,
            None => Lane::Strangers,
        }
    }

    /// What it has asked sessions, to ask more.
    fn asker(&mut self) -> &mut Asker {
        self.asker.get_or_insert_default()
    }

    /// The HELLO that is ahead of our clock.
    fn take_early(&mut self) -> Option<HelloJob> {
        match *self.proving.take_if(|proving| matches!(**proving, Proving::Early(_)))? {
            Proving::Early(job) => Some(job),
            Proving::Joining(_) => None,
        }
    }

    /// The HELLO that waits for the directory.
    fn take_joining(&mut self) -> Option<Hello> {
        match *self.proving.take_if(|proving| matches!(**proving, Proving::Joining(_)))? {
            Proving::Joining(hello) => Some(hello),
            Proving::Early(_) => None,
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    pub(super) fn principal(&self) -> Option<&Principal> {
        self.connection.principal()
    }

    /// The key it proved, also while the directory does not know it yet: a revocation must not pass it by.
    pub(super) fn proved(&self) -> Option<&Principal> {
        self.principal().or_else(|| match self.proving.as_deref()? {
            Proving::Joining(hello) => hello.principal.as_ref(),
            Proving::Early(_) => None,
        })
    }
}

/// What the agents' side of every worker is made of.
pub(super) struct AgentsParts {
    pub(super) greeting: Greeting,
    pub(super) services: Services,
    pub(super) verify: Verify,
    pub(super) mailers: Mailers,
    /// Keys the hash of DIDs.
    pub(super) secret: u64,
}

/// This worker's part of what agents need.
pub(super) struct Agents {
    greeting: Greeting,
    services: Services,
    directory: Directory<Parcel>,
    /// Sessions by the number the directory knows them by: id and DID.
    sessions: HashMap<u32, (Text, Text)>,
    /// The number of the next one.
    next_session: u32,
    mailers: Mailers,
    links: Links,
    scratch: Vec<u8>,
    /// Who was handed the message that is being routed, so that nobody gets it twice.
    marks: Marks,
    /// Who is not read because a receiver takes nothing.
    holds: Holds,
    /// Messages whose senders were told lately that somebody was not handed them.
    told: Told,
    /// What waits for the crypto thread, of devices too.
    pub(super) lanes: Lanes,
    /// Most messages continue one.
    stream: stream::Stream,
    /// What is being checked, where every message is.
    checks: Option<verify::Checks>,
}

/// Which of this worker's messages have had a word to their senders that a recipient was not handed them: that is said once
/// for a message, however many of its recipients there are and on whichever workers. A bit for each of the last messages,
/// made when the first fails.
#[derive(Debug, Default)]
struct Told {
    number: u32,
    bits: Vec<u64>,
}

impl Told {
    /// What comes late comes from another worker, within a turn or two.
    const KEPT: u32 = 1 << 18;

    fn bit(number: u32) -> (usize, u64) {
        let place = number % Self::KEPT;
        ((place / 64) as usize, 1 << (place % 64))
    }

    /// The number of the next message.
    fn next(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        let (word, bit) = Self::bit(self.number);
        if let Some(word) = self.bits.get_mut(word) {
            *word &= !bit;
        }
        self.number
    }

    /// True: the message's sender was not told yet, and is now.
    fn first(&mut self, message: u32) -> bool {
        if self.bits.is_empty() {
            self.bits = vec![0; Self::KEPT as usize / 64];
        }
        let (word, bit) = Self::bit(message);
        let before = self.bits[word];
        self.bits[word] |= bit;
        before & bit == 0 || self.number.wrapping_sub(message) >= Self::KEPT
    }
}

/// Connections of this worker by slot, each with the number of the last message it was marked for.
#[derive(Debug, Default)]
struct Marks {
    message: u64,
    by_slot: Vec<u64>,
}

impl Marks {
    /// Nobody is marked for the next message.
    fn next(&mut self) {
        self.message += 1;
    }

    /// Marks a connection; false if it was marked for this message.
    fn mark(&mut self, token: ConnToken) -> bool {
        let slot = token.slot() as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, 0);
        }
        std::mem::replace(&mut self.by_slot[slot], self.message) != self.message
    }
}

impl Agents {
    pub(super) fn new(parts: &AgentsParts, worker: u16) -> Self {
        let workers = u16::try_from(parts.mailers.len()).unwrap_or(u16::MAX);
        Self {
            greeting: parts.greeting.clone(),
            services: parts.services.clone(),
            directory: Directory::new(Options::new(worker, workers, parts.secret)),
            sessions: HashMap::new(),
            next_session: 0,
            mailers: parts.mailers.clone(),
            links: parts.mailers.links(&parts.mailers.waker(worker)),
            scratch: Vec::new(),
            marks: Marks::default(),
            holds: Holds::default(),
            told: Told::default(),
            lanes: Lanes::default(),
            stream: stream::Stream::default(),
            checks: (parts.verify == Verify::All).then(verify::Checks::default),
        }
    }

    /// A session's DID can be written to from now on.
    pub(super) fn session(&mut self, session: Text, did: &Text) {
        let number = self.next_session;
        match self.directory.register_service(did, ServiceId(number)) {
            Ok(()) => {
                self.sessions.insert(number, (session, did.clone()));
                self.next_session += 1;
            }
            Err(why) => log::error!(did = &**did, why:? = why; "a session's DID cannot be registered"),
        }
    }

    /// A session is gone: nobody is behind its DID any more.
    pub(super) fn session_gone(&mut self, did: &Text) {
        self.directory.remove_service(did);
        self.sessions.retain(|_, (_, known)| known != did);
    }

    /// The end of a turn: gives the crypto thread what it may have.
    pub(super) fn hand_jobs(&mut self, crypto: &Crypto) {
        while let Some((lane, job)) = self.lanes.next() {
            if let Err(job) = crypto.give(lane, job) {
                // What is with it comes back, and the next turn with that.
                return self.lanes.give_back(lane, job);
            }
        }
    }

    /// The crypto thread has signed something.
    pub(super) fn answered(&mut self, peer: ConnToken, lane: Lane, io: &mut Io<'_>) {
        match lane {
            Lane::Admitted if self.lanes.answered(peer) => self.resume(peer, io),
            Lane::Admitted => {}
            Lane::Strangers | Lane::Local => self.lanes.done(lane),
        }
    }

    /// The end of a turn: what other workers' directories are to know.
    pub(super) fn carry(&mut self, io: &mut Io<'_>) {
        self.carry_freed(io);
        self.links.flush();
        let destinations: Vec<u16> = self.directory.destinations().collect();
        for to in destinations {
            let directory = &mut self.directory;
            let next = || {
                let batch = directory.take(to, COURIERS_A_MAIL);
                (!batch.is_empty()).then_some(Mail::Directory(batch))
            };
            if let Some(Mail::Directory(batch)) = self.links.flush_with(usize::from(to), next) {
                self.directory.give_back(to, batch);
            }
        }
    }
}

/// The answer to an upgrade on `/amp/v1/ws`.
pub(super) fn upgrade(head: &Head<'_>, peer: &Peer, greeting: &Greeting, io: &Io<'_>) -> Answer<Conn> {
    if !head.wants_upgrade() {
        let line = "/amp/v1/ws speaks WebSocket, subprotocol amp.v1";
        return Answer::Respond(Response::upgrade_required(line));
    }
    if !head.subprotocols().any(|name| name == SUBPROTOCOL) {
        return Answer::Respond(Response::text(400, "the upgrade must offer the subprotocol amp.v1"));
    }
    let connection = Connection::new(peer.token, io.now());
    let is_local = matches!(peer.addr, PeerAddr::Unix { .. });
    let headers = vec![(RELAY_DID_HEADER, greeting.did.to_string()), (SIZE_HEADER, super::MESSAGE_MAX.to_string())];
    Answer::Upgrade { conn: Conn::Agent(AgentConn::new(connection, is_local)), subprotocol: Some(SUBPROTOCOL), headers }
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
        rearm(agent, io);
    }

    pub(super) fn amp_timeout(&mut self, agent: &mut AgentConn, io: &mut Io<'_>) {
        if agent.connection.deadline().is_some_and(|at| at > io.now().mono_ms) {
            match agent.take_early() {
                Some(job) => self.amp_prove(agent, job, io),
                None => rearm(agent, io),
            }
            return;
        }
        // One whose key is proved has a timeout only while it waits for a close that may have been lost.
        self.tallies.sign_in_failures.add(u64::from(agent.principal().is_none()));
        agent.connection.closing();
        io.close(io.token(), CloseCode::POLICY, "no key was proved in time");
    }

    /// A receiver takes more again: those who write to it are read again.
    pub(super) fn amp_release(&mut self, receiver: ConnToken, io: &mut Io<'_>) {
        self.agents.holds.release(receiver);
        self.agents.carry_freed(io);
    }

    pub(super) fn amp_closed(&mut self, agent: &AgentConn, token: ConnToken) {
        self.agents.directory.leave(token);
        // `closed` has no loop at hand: the next turn, which comes at once, reads those again who were held.
        self.agents.holds.gone(token);
        if let Some(checks) = &mut self.agents.checks {
            checks.gone(token);
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
        if agent.connection.is_deaf() {
            return Ok(());
        }
        if self.amp_continue(agent, io, frame, data) {
            return Ok(());
        }
        self.amp_read(agent, io, frame, data);
        Ok(())
    }

    /// The whole way of a message. Apart from the short one, which needs none of this room on the stack.
    #[inline(never)]
    fn amp_read(&mut self, agent: &mut AgentConn, io: &mut Io<'_>, frame: &[u8], data: Data<'_>) {
        let peer = io.token();
        let parsed = parse(frame);
        match agent.connection.binary(&parsed, &self.agents.greeting, io.now()) {
            Heard::Ignored => {}
            Heard::Hello(job) => {
                // Whatever comes behind the HELLO waits until the directory knows the peer.
                io.pause(peer);
                self.amp_prove(agent, job, io);
            }
            Heard::Refused(refused) => {
                if refused.close.is_some() && agent.connection.deadline().is_none() {
                    io.set_timeout(peer, Some(LAST_ANSWER_MS));
                }
                let did = self.agents.greeting.did.clone();
                match agent.lane() {
                    Lane::Admitted => self.refuse(&did, agent.connection.dialect(), peer, io, refused),
                    lane => self.refuse_stranger(lane, &did, agent.connection.dialect(), io, refused),
                }
            }
            Heard::Unanswerable(code, reason) => io.close(peer, code, reason),
            Heard::Message => {
                if let Ok(Frame::Envelope(view)) = &parsed
                    && !self.amp_check(io, view)
                {
                    let sender = Sender { peer, dialect: agent.connection.dialect() };
                    self.amp_route(Some(agent), sender, view, Source::Read(data), io);
                }
            }
        }
        self.amp_events(Some(agent.connection.dialect()), io);
    }

    /// Has a HELLO of the current connection checked: not before its time, see `wire::amp::check::HelloFound::from_ms`.
    fn amp_prove(&mut self, agent: &mut AgentConn, job: HelloJob, io: &mut Io<'_>) {
        let early_ms = job.from_ms.saturating_sub(io.now().unix_ms);
        if early_ms > 0 {
            agent.proving = Some(Box::new(Proving::Early(job)));
            return io.set_timeout(io.token(), Some(early_ms));
        }
        // Its time limit goes on: an answer that is lost on its way must not leave it here for ever.
        rearm(agent, io);
        io.spare(io.token());
        let lane = agent.lane();
        if !self.agents.lanes.ask(lane, Job::Hello(lane, Box::new(job))) {
            io.close(io.token(), CloseCode::TRY_AGAIN, "too many sign-ins wait");
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
        agent.proving = Some(Box::new(Proving::Joining(hello)));
        if let Err(why) = self.agents.directory.join(did, peer) {
            self.amp_unjoined(peer, why, io);
        }
        self.amp_events(None, io);
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
            self.amp_events(None, io);
        }
    }

    /// Does what the directory wants done. To be called after every call of it, before anything is routed. `current`: the keys
    /// of the connection whose message is being handled, if one is: its state is not to be had otherwise.
    fn amp_events(&mut self, current: Option<Dialect>, io: &mut Io<'_>) {
        while let Some(event) = self.agents.directory.event() {
            match event {
                Event::Joined { token } => self.amp_joined(token, io),
                Event::Refused { token, why } => self.amp_unjoined(token, why, io),
                Event::Deliver { token, payload } => {
                    // What was closed has left.
                    if self.amp_deliver(token, &payload, current, io) == Sent::High {
                        self.agents.hold(token, payload.sender, io);
                    }
                }
                Event::Answer { sender, ticket, why, .. } => {
                    let dialect = match io.conn(sender) {
                        Some(Conn::Agent(agent)) => Some(agent.connection.dialect()),
                        _ => current.filter(|_| sender == io.token()),
                    };
                    if let (Some((number, refused)), Some(dialect)) = (ticket.map(|ticket| *ticket), dialect)
                        && self.agents.told.first(number)
                    {
                        let did = self.agents.greeting.did.clone();
                        self.refuse(&did, dialect, sender, io, Refused { refusal: amp::undelivered(why), ..refused });
                    }
                }
                // Services are on every worker, so that none is ever sent for; presence is read when it is asked for.
                Event::Service { .. } | Event::Presence { .. } => {}
            }
        }
    }

    fn amp_joined(&mut self, token: ConnToken, io: &mut Io<'_>) {
        let Some(Conn::Agent(agent)) = io.conn(token) else { return };
        let Some(hello) = agent.take_joining() else { return };
        if !io.confirm(token) {
            return io.close(token, CloseCode::TRY_AGAIN, "there is no room for this agent");
        }
        let Some(Conn::Agent(agent)) = io.conn(token) else { return };
        agent.connection.admitted(hello.principal);
        io.set_timeout(token, None);
        io.limit_messages(token, u32::MAX);
        self.tallies.agents.add(1);
        self.send_binary(token, &hello.answer, io);
        io.resume(token);
    }

    /// Has the relay, or a session of it, say something to an agent that has proved its key.
    fn say(&mut self, say: Say, io: &mut Io<'_>) {
        let peer = say.peer;
        if self.agents.lanes.answer(peer, Job::Say(Lane::Admitted, Box::new(say))) {
            io.pause(peer);
        }
    }

    fn refuse(&mut self, did: &Text, dialect: Dialect, peer: ConnToken, io: &mut Io<'_>, refused: Refused) {
        if let Some(say) = error_of(did, dialect, peer, io, refused) {
            self.say(say, io);
        }
    }

    /// The same for the current connection, which has proved nothing: where too many wait it is closed.
    fn refuse_stranger(&mut self, lane: Lane, did: &Text, dialect: Dialect, io: &mut Io<'_>, refused: Refused) {
        let peer = io.token();
        let Some(say) = error_of(did, dialect, peer, io, refused) else { return };
        let (code, reason) = say.close.unwrap_or((CloseCode::TRY_AGAIN, "too many answers wait"));
        if !self.agents.lanes.ask(lane, Job::Say(lane, Box::new(say))) {
            io.close(peer, code, reason);
        }
    }

    pub(super) fn send_binary(&mut self, peer: ConnToken, frame: &[u8], io: &mut Io<'_>) {
        self.tallies.amp_out.add(1);
        // A peer above its maximum is closed by the loop; its end comes through `closed`.
        let _ = io.binary_to(peer, frame);
    }
}

/// The ERROR that a refused message is answered with.
fn error_of(did: &Text, dialect: Dialect, peer: ConnToken, io: &Io<'_>, refused: Refused) -> Option<Say> {
    let id = new_id(io.now().unix_ms)?;
    let mut body = Vec::new();
    refused.refusal.write_body(&mut body);
    let Refused { id: reply_to, to, thread_id, close, .. } = refused;
    Some(Say { peer, from: did.clone(), to, typ: Type::ERROR, id, reply_to, thread_id, body, dialect, close })
}

/// Arms the timeout of a connection whose key is not proved.
fn rearm(agent: &AgentConn, io: &mut Io<'_>) {
    let now = io.now().mono_ms;
    io.set_timeout(io.token(), agent.connection.deadline().map(|at| at.saturating_sub(now)));
}

/// The text of a body's member, if the body is a map that has it. Found where it lies.
fn text_of<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    cbor::get(body, name).and_then(cbor::as_text)
}

fn id(io: &Io<'_>) -> Option<Id> {
    new_id(io.now().unix_ms)
}

fn new_id(unix_ms: u64) -> Option<Id> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    Some(Id::new(unix_ms, random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_of_once_and_a_later_one_in_its_place_again() {
        let mut told = Told::default();
        let numbers: Vec<u32> = (0..1_000).map(|_| told.next()).collect();
        assert!(numbers.iter().all(|&number| told.first(number)));
        assert!(!numbers.iter().any(|&number| told.first(number)), "however many there are");
        for _ in 0..Told::KEPT {
            told.next();
        }
        assert!(told.first(told.number) && !told.first(told.number));
        assert!(told.first(told.number - Told::KEPT + 1));
    }
}
