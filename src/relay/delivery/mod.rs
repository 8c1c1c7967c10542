//! The core of one worker: what its agents send, where that goes, and what the relay and its sessions say to them. Drives the
//! directory, the lanes towards the crypto thread, backpressure and verification over a [`Net`]; knows no socket, no thread
//! and no clock.
//!
//! A shell calls [`message`](Delivery::message), [`timeout`](Delivery::timeout), [`writable`](Delivery::writable) and
//! [`closed`](Delivery::closed) for connections, hands in what other threads say, and at the end of each turn takes what
//! they are to get: [`next_job`](Lanes::next_job), [`next_checks`](Delivery::next_checks),
//! [`commands`](Commands::take),
//! [`poll_sender_news`](Delivery::poll_sender_news) and [`take_for`](Delivery::take_for).

mod agent;
mod backpressure;
mod dedup;
mod failures;
mod flow_cache;
mod lanes;
mod net;
mod recipients;
mod requests;
mod rights;
mod serve;
mod services;
mod signatures;
#[cfg(test)]
pub(crate) mod test_net;
#[cfg(test)]
mod tests;
mod verification;

use std::{collections::HashMap, sync::Arc};

pub use self::{
    agent::{Agent, Greeting},
    backpressure::SenderNews,
    lanes::{JOBS_OUT_MAX, Job, Lane, Lanes},
    net::Net,
    rights::{Wish, admit},
    services::{Call, Services},
    signatures::{Check, Checked, Verifier},
    verification::BATCHES_OUT_MAX,
};
use self::{
    backpressure::Backpressure,
    dedup::{Dedup, Told},
    failures::{About, Failures},
    recipients::{Sender, Source},
};
use super::{
    Principal,
    admission::{HelloJob, Judged},
    api::Text,
    directory::{Directory, Event, Options, PeerMessage, ServiceId, Why},
    keys::KeySet,
    message::{self, Message, Refused, Reply, ReplyTo, Shared},
    sessions::ToSessions,
    shares::Shares,
};
use crate::{
    base::{CloseCode, ConnToken, Counter, Sent},
    wire::amp::{Frame, Id, KeyEncoding, did_base, parse},
};

/// How long a connection that is to be closed behind an answer waits for that answer.
const LAST_ANSWER_MS: u64 = 5_000;
/// Messages of the directory that travel to another worker in one mail.
const DIRECTORY_MESSAGES_A_MAIL: usize = 512;
/// Nor more bytes than these and one message.
const DIRECTORY_BYTES_A_MAIL: usize = 64 * 1024;
/// Bytes that a peer may make the relay hold before it has signed in. Above what a sign-in may have, so that a sign-in
/// that is only somewhat too large is still told so.
pub const UNKNOWN_BYTES_MAX: u32 = 64 * 1024;

/// What a worker counts of its agents. Written by the worker alone.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that came.
    pub messages_in: Counter,
    /// Messages that went, a copy to each receiver.
    pub messages_out: Counter,
    /// Agents that have proved a key.
    pub agents: Counter,
    /// Messages with signatures that are being checked.
    pub checking: Counter,
    /// Messages to several recipients with failures that the sender is told of soon.
    pub gathering: Counter,
    /// Messages with wrong signatures.
    pub wrong_signatures: Counter,
    /// Connections that ended without a proved key, by their own fault or in time.
    pub sign_in_failures: Counter,
    /// Receivers that take too long, so that what some senders have for them is refused.
    pub stuck: Counter,
}

/// What every worker's core is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What connections know of the relay.
    pub greeting: Greeting,
    /// What the relay itself serves.
    pub services: Services,
    /// Whether every message's signature is checked.
    pub verifies_all: bool,
    /// Workers.
    pub workers: u16,
    /// Keys the hash of DIDs.
    pub secret: u64,
}

/// To another worker's core.
#[derive(Debug)]
pub enum PeerMail<S: Shared> {
    /// Of the directory, in order.
    Directory(Vec<PeerMessage<Message<S>>>),
    /// Of a sender of that worker.
    Sender(SenderNews),
}

/// What the sessions are to be told. Bounded: a dialect asks for room before it takes a command in. Word that a peer is
/// gone, or has drained, is always taken.
#[derive(Debug)]
pub struct Commands {
    queue: Vec<ToSessions>,
    /// Places since the last time that nothing waited, so that no principal has all of them.
    shares: Shares,
}

impl Default for Commands {
    fn default() -> Self {
        Self { queue: Vec::new(), shares: Shares::new(Self::MAX) }
    }
}

impl Commands {
    /// Commands that may wait for busy sessions; more are refused.
    const MAX: usize = 16 * 1024;

    /// Takes a command of a principal along at the end of the turn. False: too many wait, of this principal or of all, and it
    /// is to be refused.
    #[must_use]
    pub fn ask(&mut self, principal: &Text, message: ToSessions) -> bool {
        let has_room = self.shares.admits(principal, 1).is_ok();
        if has_room {
            self.shares.take(principal, 1);
            self.queue.push(message);
        }
        has_room
    }

    /// Takes along that a peer is gone, slow, or takes more again.
    pub fn push(&mut self, message: ToSessions) {
        self.queue.push(message);
    }

    /// All of them, in order. So many of earlier turns have found no room.
    pub fn take(&mut self, waiting: usize) -> impl Iterator<Item = ToSessions> + '_ {
        if waiting == 0 && !self.shares.is_free() {
            self.shares = Shares::new(Self::MAX);
        }
        self.queue.drain(..)
    }
}

/// The core of one worker.
pub struct Delivery<S: Shared> {
    greeting: Greeting,
    services: Services,
    directory: Directory<Message<S>>,
    /// Sessions by the number the directory knows them by: id and DID.
    sessions: HashMap<u32, (Text, Text)>,
    /// The number of the next one.
    next_session: u32,
    scratch: Vec<u8>,
    /// Connections that were handed the message that is being routed.
    dedup: Dedup,
    backpressure: Backpressure,
    /// Messages with a failure that the sender was told of lately.
    told: Told,
    /// Messages with failures that the sender is told of soon.
    failures: Failures,
    /// When the timeouts of agents that have proved a key come.
    wakes: HashMap<ConnToken, u64>,
    /// What waits for the crypto thread, of devices too.
    pub lanes: Lanes,
    /// Most messages continue one.
    flow: flow_cache::FlowCache,
    /// What is being checked, where every message is.
    checks: Option<verification::Checks<S>>,
    /// Connections that were closed and are still in the directory.
    leaving: Vec<ConnToken>,
    /// What the sessions are to be told, by devices too.
    pub commands: Commands,
    counters: Arc<Counters>,
}

impl<S: Shared> Delivery<S> {
    /// The core of this worker; `counters` are its own.
    pub fn new(parts: &Parts, worker: u16, counters: Arc<Counters>) -> Self {
        Self {
            greeting: parts.greeting.clone(),
            services: parts.services.clone(),
            directory: Directory::new(Options::new(worker, parts.workers, parts.secret)),
            sessions: HashMap::new(),
            next_session: 0,
            scratch: Vec::new(),
            dedup: Dedup::default(),
            backpressure: Backpressure::default(),
            told: Told::default(),
            failures: Failures::default(),
            wakes: HashMap::new(),
            lanes: Lanes::default(),
            flow: flow_cache::FlowCache::default(),
            checks: parts.verifies_all.then(verification::Checks::default),
            leaving: Vec::new(),
            commands: Commands::default(),
            counters,
        }
    }

    /// What connections know of the relay.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// A session's DID can be written to from now on.
    pub fn session(&mut self, session: Text, did: &Text) {
        let number = self.next_session;
        match self.directory.register_service(did, ServiceId(number)) {
            Ok(()) => {
                self.sessions.insert(number, (session, did.clone()));
                self.next_session += 1;
            }
            Err(why) => log::error!(did = &**did, why:? = why; "a session's DID cannot be registered"),
        }
    }

    /// A session is gone: its DID cannot be written to any more.
    pub fn session_gone(&mut self, did: &Text) {
        self.directory.remove_service(did);
        self.sessions.retain(|_, (_, known)| known != did);
    }

    /// A connection was upgraded.
    pub fn opened<N: Net<Shared = S>>(&mut self, agent: &Agent, net: &mut N) {
        net.limit_messages(net.current(), UNKNOWN_BYTES_MAX);
        rearm(agent, net);
    }

    /// The time of the current connection has come.
    pub fn timeout<N: Net<Shared = S>>(&mut self, agent: &mut Agent, net: &mut N) {
        if agent.deadline().is_some_and(|at| at > net.now().mono_ms) {
            match agent.take_early() {
                Some(job) => self.prove(agent, job, net),
                None => rearm(agent, net),
            }
            return;
        }
        if agent.principal().is_some() && !agent.ignores_input() {
            self.wakes.remove(&net.current());
            self.part(net.current(), net);
            return self.tell_failures(net);
        }
        if self.wakes.remove(&net.current()).is_some() {
            // It woke for something else while its last answer is on its way.
            return net.set_timeout(net.current(), Some(LAST_ANSWER_MS));
        }
        // A connection with a proved key comes here only for a close that may have been lost.
        self.counters.sign_in_failures.add(u64::from(agent.principal().is_none()));
        agent.closing();
        self.close(net.current(), CloseCode::POLICY, "no key was proved in time", net);
        self.directory_events(Some(agent.key_encoding()), net);
    }

    /// The current connection's queue has drained.
    pub fn writable<N: Net<Shared = S>>(&mut self, net: &mut N) {
        self.release(net.current(), net);
    }

    /// A connection is gone.
    pub fn closed(&mut self, agent: &Agent, token: ConnToken) {
        self.lanes.gone(token);
        self.directory.leave(token);
        // There is no net here: the next turn, which comes at once, reads the unblocked senders again.
        self.backpressure.gone(token);
        self.counters.stuck.set(self.backpressure.stuck());
        self.failures.gone(token);
        self.counters.gathering.set(self.failures.len());
        self.wakes.remove(&token);
        if let Some(checks) = &mut self.checks {
            self.counters.checking.sub(checks.gone(token));
        }
        if agent.principal().is_some() {
            self.counters.agents.sub(1);
        }
        if agent.is_known {
            self.commands.push(ToSessions::AskerGone(token));
        }
    }

    /// A message of the current connection, where it was read.
    #[inline]
    pub fn message<N: Net<Shared = S>>(
        &mut self,
        agent: &mut Agent,
        net: &mut N,
        frame: &[u8],
        current: N::Current<'_>,
    ) {
        self.counters.messages_in.add(1);
        if agent.ignores_input() || self.continues(agent, net, frame, current) {
            return;
        }
        self.read(agent, net, frame, current);
    }

    /// The whole way of a message. Apart from the short one, which needs none of this room on the stack.
    #[inline(never)]
    fn read<N: Net<Shared = S>>(&mut self, agent: &mut Agent, net: &mut N, frame: &[u8], current: N::Current<'_>) {
        let peer = net.current();
        let parsed = parse(frame);
        match agent.binary(&parsed, &self.greeting, net.now()) {
            agent::Ingress::Ignored => {}
            agent::Ingress::Hello(job) => {
                // Whatever comes behind the HELLO waits until the directory knows the peer.
                net.pause(peer);
                self.prove(agent, job, net);
            }
            agent::Ingress::Refused(refused) => {
                if refused.close.is_some() && agent.deadline().is_none() {
                    net.set_timeout(peer, Some(LAST_ANSWER_MS));
                }
                let did = self.greeting.did.clone();
                match agent.lane() {
                    Lane::Admitted => self.refuse(&did, agent.key_encoding(), peer, net, refused),
                    lane => self.refuse_stranger(lane, &did, agent.key_encoding(), net, refused),
                }
            }
            agent::Ingress::Unanswerable(code, reason) => self.close(peer, code, reason, net),
            agent::Ingress::Message => {
                if let Ok(Frame::Envelope(view)) = &parsed
                    && !self.check(agent, net, view)
                {
                    let sender = Sender { peer: Some(peer), key_encoding: agent.key_encoding() };
                    self.route(Some(agent), sender, view, Source::<N>::Read(current), net);
                }
            }
        }
        self.directory_events(Some(agent.key_encoding()), net);
    }

    /// Has a HELLO of the current connection checked: not before its time, see `wire::amp::check::HelloFound::from_ms`.
    fn prove<N: Net<Shared = S>>(&mut self, agent: &mut Agent, job: HelloJob, net: &mut N) {
        let early_ms = job.from_ms.saturating_sub(net.now().unix_ms);
        if early_ms > 0 {
            agent.wait_for_the_clock(job);
            return net.set_timeout(net.current(), Some(early_ms));
        }
        // Its time limit goes on: an answer that is lost on its way must not leave it here for ever.
        rearm(agent, net);
        net.spare(net.current());
        if !self.lanes.ask(agent.lane(), Job::Hello(Box::new(job))) {
            net.close(net.current(), CloseCode::TRY_AGAIN, "too many sign-ins wait");
        }
    }

    /// A HELLO was judged and its answer signed. `None`: no answer can be written, and the connection runs into its time
    /// limit.
    pub fn judged<N: Net<Shared = S>>(&mut self, peer: ConnToken, lane: Lane, judged: Option<Judged>, net: &mut N) {
        self.lanes.done(lane);
        let (Some(judged), Some(agent)) = (judged, net.agent(peer)) else { return };
        if let Some((code, reason)) = judged.close {
            agent.closing();
            self.counters.sign_in_failures.add(1);
            self.send(peer, &judged.answer, net);
            return net.close(peer, code, reason);
        }
        let Some(did) = judged.principal.as_ref().map(|principal| principal.did.clone()) else {
            agent.admitted(None);
            self.send(peer, &judged.answer, net);
            return net.resume(peer);
        };
        agent.wait_for_the_directory(judged);
        if let Err(why) = self.directory.join(did, peer) {
            self.not_joined(peer, why, net);
        }
        self.directory_events(None, net);
    }

    /// The directory does not take the connection.
    fn not_joined<N: Net<Shared = S>>(&mut self, peer: ConnToken, why: Why, net: &mut N) {
        log::warn!(conn:% = peer, why:? = why; "an agent cannot join");
        if let Some(agent) = net.agent(peer) {
            agent.closing();
        }
        net.close(peer, CloseCode::TRY_AGAIN, "there is no room for this agent");
    }

    fn joined<N: Net<Shared = S>>(&mut self, token: ConnToken, net: &mut N) {
        let Some(judged) = net.agent(token).and_then(Agent::take_joining) else { return };
        if !net.confirm(token) {
            return self.close(token, CloseCode::TRY_AGAIN, "there is no room for this agent", net);
        }
        let Some(agent) = net.agent(token) else { return };
        if let Some(principal) = &judged.principal {
            self.lanes.joined(token, principal.did.clone());
        }
        agent.admitted(judged.principal);
        net.set_timeout(token, None);
        net.limit_messages(token, u32::MAX);
        self.counters.agents.add(1);
        self.send(token, &judged.answer, net);
        net.resume(token);
    }

    /// What another worker's core says.
    pub fn peer_mail<N: Net<Shared = S>>(&mut self, mail: PeerMail<S>, net: &mut N) {
        match mail {
            PeerMail::Sender(news) => self.sender_news(news, net),
            PeerMail::Directory(messages) => {
                for message in messages {
                    self.directory.receive(message);
                    self.directory_events(None, net);
                }
            }
        }
    }

    /// Does what the directory wants done. To be called after every call of it, before anything is routed. `current`:
    /// the key encoding of the connection with the message in hand, if there is one, since the caller holds its state.
    fn directory_events<N: Net<Shared = S>>(&mut self, current: Option<KeyEncoding>, net: &mut N) {
        loop {
            let Some(event) = self.directory.event() else {
                let Some(token) = self.leaving.pop() else { return };
                self.directory.leave(token);
                continue;
            };
            match event {
                Event::Joined { token } => self.joined(token, net),
                Event::Refused { token, why } => self.not_joined(token, why, net),
                Event::Deliver { token, payload } => self.deliver(token, &payload, current, net),
                Event::Behind { worker, sender } => {
                    self.backpressure.wait_for(worker, sender);
                    self.tell_senders(net);
                }
                Event::Answer { sender, did, return_address, why } => {
                    let known = net.agent(sender).map(|agent| agent.key_encoding());
                    let key_encoding = known.or(current.filter(|_| sender == net.current()));
                    if let (Some(bounce), Some(key_encoding)) = (return_address, key_encoding) {
                        let message::Bounce { number, several, ref refused } = *bounce;
                        let about = About { number, several, sender, key_encoding };
                        self.not_handed(&about, did.as_str(), why, || Some(refused.clone()), net);
                    }
                }
                // Services are on every worker, so that none is ever sent for; presence is read when it is asked for.
                Event::Service { .. } | Event::Presence { .. } => {}
            }
        }
    }

    /// Has the relay, or a session of it, say something to an agent that has proved its key.
    pub fn say<N: Net<Shared = S>>(&mut self, mut reply: Reply, net: &mut N) {
        if let Some(agent) = reply.via.connection().and_then(|peer| net.agent(peer)) {
            reply.key_encoding = agent.key_encoding();
        }
        let principal = Text::from(did_base(&reply.to));
        self.ask(&principal, Job::Reply(Box::new(reply)), net);
    }

    /// Has something done for a principal. Its connection is not read while too much of that waits.
    pub fn ask<N: Net<Shared = S>>(&mut self, principal: &Text, job: Job, net: &mut N) {
        let peer = job.peer();
        if self.lanes.answer(principal, job)
            && let Some(peer) = peer
        {
            net.pause(peer);
        }
    }

    /// What was to be done for this connection is done.
    pub fn answered<N: Net<Shared = S>>(&mut self, peer: ConnToken, net: &mut N) {
        self.lanes.done(Lane::Admitted);
        self.asked(peer, net);
    }

    /// Something that was due to this connection is done: the sessions have taken a message of it, for instance.
    pub fn asked<N: Net<Shared = S>>(&mut self, peer: ConnToken, net: &mut N) {
        if self.lanes.answered(peer) {
            self.resume(peer, net);
        }
    }

    /// A reply was signed; `frame` is empty where it cannot be written.
    pub fn signed<N: Net<Shared = S>>(&mut self, signed: Signed, net: &mut N) {
        let Signed { via, lane, frame, close } = signed;
        self.lanes.done(lane);
        let peer = match via {
            ReplyTo::Connection(peer) => peer,
            ReplyTo::Did { .. } => {
                if let Ok(Frame::Envelope(view)) = parse(&frame) {
                    let sender = Sender { peer: None, key_encoding: view.key_encoding };
                    let shared = S::of(&frame);
                    self.route(None, sender, &view, Source::<N>::Owned(&shared), net);
                    self.directory_events(None, net);
                }
                return;
            }
        };
        self.asked(peer, net);
        if !frame.is_empty() {
            self.counters.messages_out.add(1);
            if net.send(peer, &frame) == Sent::High {
                // It asks for more than it takes: it is not read until it has taken that.
                self.block(peer, Some(peer), net);
            }
        }
        if let Some((code, reason)) = close {
            self.close(peer, code, reason, net);
            self.directory_events(None, net);
        }
    }

    /// Closes a connection. It takes nothing from now on, so that the directory must not count on it, however long its
    /// end takes. It leaves the directory after the pending [events](Self::directory_events), and their senders are
    /// told.
    fn close<N: Net<Shared = S>>(&mut self, peer: ConnToken, code: CloseCode, reason: &str, net: &mut N) {
        net.close(peer, code, reason);
        self.backpressure.release(peer);
        self.leaving.push(peer);
    }

    fn refuse<N: Net<Shared = S>>(
        &mut self,
        did: &Text,
        key_encoding: KeyEncoding,
        peer: ConnToken,
        net: &mut N,
        refused: Refused,
    ) {
        if let Some(id) = new_id(net) {
            self.say(refused.reply(did.clone(), id, ReplyTo::Connection(peer), key_encoding), net);
        }
    }

    /// The same for the current connection, which has proved nothing: where too many wait it is closed.
    fn refuse_stranger<N: Net<Shared = S>>(
        &mut self,
        lane: Lane,
        did: &Text,
        key_encoding: KeyEncoding,
        net: &mut N,
        refused: Refused,
    ) {
        let Some(id) = new_id(net) else { return };
        let peer = net.current();
        let reply = refused.reply(did.clone(), id, ReplyTo::Connection(peer), key_encoding);
        let (code, reason) = reply.close.unwrap_or((CloseCode::TRY_AGAIN, "too many answers wait"));
        if !self.lanes.ask(lane, Job::Reply(Box::new(reply))) {
            net.close(peer, code, reason);
        }
    }

    fn send<N: Net<Shared = S>>(&mut self, peer: ConnToken, frame: &[u8], net: &mut N) {
        self.counters.messages_out.add(1);
        // A peer above its maximum is closed by the loop; its end comes through `closed`.
        let _ = net.send(peer, frame);
    }

    /// The keys in force have changed: what an agent may no longer do ends its connection.
    pub fn keys_changed<N: Net<Shared = S>>(&mut self, peer: ConnToken, keys: &KeySet, net: &mut N) {
        let gone = |principal: &Principal| {
            keys.principal(&principal.fingerprint).is_none_or(|entry| entry.role < principal.role)
        };
        if net.agent(peer).is_some_and(|agent| agent.proved().is_some_and(gone)) {
            self.close(peer, CloseCode::POLICY, "the key was revoked or may do less", net);
            self.directory_events(None, net);
        }
    }

    /// The end of a turn, first part: senders are read again where their receivers have gone or drained.
    pub fn turn<N: Net<Shared = S>>(&mut self, net: &mut N) {
        self.tell_senders(net);
    }

    /// What another worker is to be told of a sender of its own.
    pub fn poll_sender_news(&mut self, worker: u16) -> Option<SenderNews> {
        self.backpressure.poll_elsewhere(worker)
    }

    /// Workers to which messages of the directory are to be carried.
    pub fn destinations(&self) -> Vec<u16> {
        self.directory.destinations().collect()
    }

    /// The next batch for this worker.
    pub fn take_for(&mut self, worker: u16) -> Option<Vec<PeerMessage<Message<S>>>> {
        let batch = self.directory.take(worker, DIRECTORY_MESSAGES_A_MAIL, DIRECTORY_BYTES_A_MAIL);
        Some(batch).filter(|batch| !batch.is_empty())
    }

    /// All was carried that other workers take now: senders are read again that had to wait for one which has caught up.
    pub fn carried<N: Net<Shared = S>>(&mut self, net: &mut N) {
        while let Some(worker) = self.directory.carried() {
            self.backpressure.caught_up(worker);
            self.tell_senders(net);
        }
    }

    /// A batch that was taken found no room: it stays first in line.
    pub fn give_back(&mut self, worker: u16, batch: Vec<PeerMessage<Message<S>>>) {
        self.directory.give_back(worker, batch);
    }

    /// Has something for another worker.
    #[cfg(test)]
    pub(crate) fn have_something_for_another_worker(&mut self, worker: u16) {
        let mut slots = 1..;
        while self.directory.destinations().next().is_none() {
            let slot = slots.next().unwrap_or_default();
            let joined = self.directory.join(format!("did:key:{slot}"), ConnToken::new(worker, slot, 1));
            assert_eq!(joined, Ok(()));
        }
    }

    /// What must hold between any two calls.
    ///
    /// # Panics
    /// Where it does not.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self) {
        self.backpressure.check_invariants();
        if let Some(checks) = &self.checks {
            checks.check_invariants();
        }
    }
}

/// A reply that was signed.
#[derive(Debug)]
pub struct Signed {
    /// Where it goes.
    pub via: ReplyTo,
    /// The lane that has room again.
    pub lane: Lane,
    /// The message; empty where it cannot be written.
    pub frame: Vec<u8>,
    /// Close the connection behind it.
    pub close: Option<(CloseCode, &'static str)>,
}

/// Arms the timeout of a connection without a proved key.
fn rearm<N: Net>(agent: &Agent, net: &mut N) {
    let now = net.now().mono_ms;
    net.set_timeout(net.current(), agent.deadline().map(|at| at.saturating_sub(now)));
}

fn new_id<N: Net>(net: &mut N) -> Option<Id> {
    let unix_ms = net.now().unix_ms;
    net.random().map(|random| Id::new(unix_ms, random))
}
