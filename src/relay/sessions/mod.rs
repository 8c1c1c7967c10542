//! What agents ask of sessions, on the thread of the sessions. An agent is one follower of a session however many
//! connections its DID has, and what a session says to it goes to the DID: an agent that has connected anew gets the answer.

mod requests;
mod waiting;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
};

use slab::Slab;

use self::requests::{Begin, ID_WAS_USED, PendingRequest, Progress, SessionRequests, command_id, refusal};
pub use self::waiting::{Taken, Waiting, cost, is_large};
use super::{
    api::{self, Caller, Command, Decision, Out, Request, Text, Verb, When},
    command_dedup::content,
    hub::Hub,
    keys::KeySet,
    message::{Refused, Reply, ReplyTo},
};
use crate::{
    base::{ConnToken, Now},
    wire::amp::{Code, Id, KeyEncoding, Type, body::NOT_WAITING, check::Refusal},
};

/// Begins the id of the command that has a session's events come; the session's id follows.
const ATTACH: &str = "attach ";

/// What the thread of the sessions is told, by all dialects.
#[derive(Debug)]
pub enum ToSessions {
    /// A command.
    Request(Box<Caller>, Request),
    /// The peer's send queue is above its high mark.
    Paused(ConnToken),
    /// It has drained.
    Resumed(ConnToken),
    /// The peer is gone.
    Gone(ConnToken),
    /// A message of an agent.
    Ask(Box<Ask>),
    /// A connection of an agent that asked is gone.
    AskerGone(ConnToken),
}

/// A message for a session, judged by its type and its sender's role, and read.
#[derive(Debug)]
pub struct Ask {
    /// The principal that asks, and its connection.
    pub caller: Caller,
    /// The session.
    pub session: Text,
    /// The session's DID.
    pub did: Text,
    /// The sender, as it was written.
    pub from: Text,
    /// The message's id.
    pub id: Id,
    /// Its thread.
    pub thread_id: Option<Vec<u8>>,
    /// What it wants.
    pub wanted: Wanted,
}

/// What a message for a session wants.
#[derive(Debug)]
pub enum Wanted {
    /// A REQUEST: work on this.
    Prompt(Text),
    /// A RESPONSE: this is decided.
    Decide {
        /// The INPUT_REQUIRED that it answers.
        reply_to: Option<Vec<u8>>,
        /// Its `decision`.
        decision: Option<Text>,
        /// Its `message`.
        message: Option<Text>,
        /// Its `answers`.
        answers: Vec<String>,
    },
}

/// An agent that has asked.
struct Agent {
    /// As the sessions know it: with a connection token of its own.
    caller: Caller,
    requests: SessionRequests,
    /// Connections that have asked and are there.
    connections: Vec<ConnToken>,
    /// The worker that the last of them is on.
    worker: u16,
}

/// Source of the ids of messages.
type Random = Box<dyn FnMut() -> Option<[u8; 8]> + Send>;

/// What agents have asked of sessions.
pub struct AgentRequests {
    agents: Slab<Agent>,
    by_did: HashMap<Text, usize>,
    /// Makes the token of each agent another one.
    generation: u32,
    replies: VecDeque<Reply>,
    random: Random,
}

impl fmt::Debug for AgentRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentRequests").field("agents", &self.by_did).finish_non_exhaustive()
    }
}

impl AgentRequests {
    /// No agent has asked yet. `random` gives unpredictable bytes.
    pub fn new(random: impl FnMut() -> Option<[u8; 8]> + Send + 'static) -> Self {
        let (agents, by_did) = (Slab::new(), HashMap::new());
        Self { agents, by_did, generation: 0, replies: VecDeque::new(), random: Box::new(random) }
    }

    /// Whether a token is an agent's: what the hub has for it goes to [`out`](Self::out).
    pub fn is_agent(peer: ConnToken) -> bool {
        peer.worker() == ConnToken::NO_WORKER
    }

    /// What is to be said next, to an agent's DID.
    pub fn poll(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// A message for a session.
    pub fn ask(&mut self, ask: Ask, hub: &mut Hub, now: Now) {
        let slot = self.agent(&ask.caller);
        let agent = &mut self.agents[slot];
        let peer = ask.caller.peer;
        match agent.begin(&ask) {
            Ok(None) => {}
            Ok(Some((id, command))) => hub.request(&agent.caller, Request { id, command }, now),
            Err(refusal) => {
                let Ask { did, id, from, thread_id, .. } = ask;
                let refused = Refused::new(refusal, id, from, thread_id);
                // The session did not take it: the refusal goes to this connection alone, which is read no faster than
                // it is told.
                self.refuse(ReplyTo::Connection(peer), did, refused, now);
            }
        }
    }

    /// A message that finds no room. It was not taken, and may be sent again.
    pub fn overloaded(&mut self, ask: Ask, now: Now) {
        let Ask { caller, did, id, from, thread_id, .. } = ask;
        let refusal = Refusal::new(Code::OVERLOADED, "too many messages of this key wait for sessions");
        let refused = Refused::new(refusal, id, from, thread_id);
        self.refuse(ReplyTo::Connection(caller.peer), did, refused, now);
    }

    /// The agent behind a connection, which may be the first.
    fn agent(&mut self, caller: &Caller) -> usize {
        let (did, peer) = (&caller.name, caller.peer);
        let slot = self.by_did.get(did).copied().unwrap_or_else(|| {
            let entry = self.agents.vacant_entry();
            let slot = entry.key();
            self.generation = (self.generation + 1) % ConnToken::GENERATIONS;
            let token = ConnToken::new(ConnToken::NO_WORKER, u32::try_from(slot).unwrap_or(u32::MAX), self.generation);
            let caller = Caller { peer: token, device: format!("d{token}").into(), ..caller.clone() };
            let (requests, connections) = (SessionRequests::default(), Vec::new());
            entry.insert(Agent { caller, requests, connections, worker: peer.worker() });
            self.by_did.insert(did.clone(), slot);
            slot
        });
        let agent = &mut self.agents[slot];
        // The newest word of the keys file.
        (agent.caller.role, agent.caller.granted) = (caller.role, caller.granted);
        agent.worker = peer.worker();
        if !agent.connections.contains(&peer) {
            agent.connections.push(peer);
        }
        slot
    }

    /// A connection that has asked is gone. What its agent has asked is answered all the same.
    pub fn gone(&mut self, peer: ConnToken, hub: &mut Hub, now: Now) {
        let slots: Vec<usize> = self
            .agents
            .iter_mut()
            .filter_map(|(slot, agent)| agent.connections.extract_if(.., |known| *known == peer).next().map(|_| slot))
            .collect();
        for slot in slots {
            self.forget(slot, hub, now);
        }
    }

    /// The keys in force have changed, which the hub knows. What an agent without the right has asked is over: the hub
    /// has cancelled it, and shows the agent no session any longer.
    pub fn keys_changed(&mut self, keys: &KeySet, hub: &mut Hub, now: Now) {
        let may_ask = |agent: &Agent| {
            let entry = keys.principal(&agent.caller.principal);
            entry.is_some_and(|entry| Verb::Prompt.is_open_to(entry.role))
        };
        let gone: Vec<usize> = self.agents.iter().filter(|(_, agent)| !may_ask(agent)).map(|(slot, _)| slot).collect();
        for slot in gone {
            let asked = self.agents[slot].requests.all();
            self.disappoint(
                slot,
                asked,
                Refusal::new(Code::UNAUTHORIZED, "this key may not ask sessions any more"),
                now,
            );
            self.remove(slot, hub, now);
        }
    }

    fn remove(&mut self, slot: usize, hub: &mut Hub, now: Now) {
        let agent = self.agents.remove(slot);
        self.by_did.remove(&agent.caller.name);
        hub.disconnected(agent.caller.peer, now);
    }

    /// Forgets an agent that is not here and waits for nothing.
    fn forget(&mut self, slot: usize, hub: &mut Hub, now: Now) {
        let is_over = |agent: &Agent| agent.connections.is_empty() && agent.requests.is_idle();
        if self.agents.get(slot).is_some_and(is_over) {
            self.remove(slot, hub, now);
        }
    }

    /// What the hub has for agents.
    pub fn out(&mut self, out: &Out, hub: &mut Hub, now: Now) {
        let peers: &[ConnToken] = match out {
            Out::Answer { peer, .. } | Out::Reset { peer, .. } => std::slice::from_ref(peer),
            Out::Event { peers, .. } => peers,
            _ => return,
        };
        for &peer in peers.iter().filter(|&&peer| Self::is_agent(peer)) {
            let slot = peer.slot() as usize;
            if self.agents.get(slot).is_some_and(|agent| agent.caller.peer == peer) {
                self.out_for(slot, out, hub, now);
                self.forget(slot, hub, now);
            }
        }
    }

    fn out_for(&mut self, slot: usize, out: &Out, hub: &mut Hub, now: Now) {
        let Agent { caller, requests, .. } = &mut self.agents[slot];
        match out {
            Out::Answer { re, result: Ok(api::Reply::Prompted { prompt, position }), .. } => {
                let Some((session, from)) = requests.taken(re, prompt.clone(), position) else { return };
                let id = format!("{ATTACH}{session}").into();
                let command = Command::Attach { session, from: Some(from), tail_bytes: None };
                hub.request(caller, Request { id, command }, now);
            }
            Out::Answer { re, result: Ok(api::Reply::Decided { .. }), .. } => requests.decided(re),
            Out::Answer { re, result: Err(error), .. } => {
                let asked = match re.strip_prefix(ATTACH) {
                    Some(session) => requests.lost(session),
                    None => requests.refused(re).into_iter().collect(),
                };
                self.disappoint(slot, asked, refusal(error), now);
            }
            Out::Reset { session, .. } => {
                let refusal = Refusal::new(Code::UNAVAILABLE, "the session's log has moved on: the answer was missed");
                let asked = requests.lost(session);
                self.disappoint(slot, asked, refusal, now);
            }
            Out::Event { event, .. } => {
                let mut says = Vec::new();
                requests.event(event, &mut |asked, progress| says.push((About::from(asked), progress)));
                for (about, progress) in says {
                    self.progress(slot, about, progress, now);
                }
            }
            _ => {}
        }
    }

    fn progress(&mut self, slot: usize, about: About, progress: Progress, now: Now) {
        let Some(random) = (self.random)() else { return };
        let id = Id::new(now.unix_ms, random);
        let agent = &mut self.agents[slot];
        let (typ, body) = match progress {
            Progress::Processing(body) => (Type::PROCESSING, body),
            Progress::Response(body) => (Type::RESPONSE, body),
            Progress::InputRequired { put, body } => {
                agent.requests.waits(id, put);
                (Type::INPUT_REQUIRED, body)
            }
        };
        let via = ReplyTo::Did { worker: agent.worker };
        let About { from, to, reply_to, thread_id } = about;
        let (reply_to, key_encoding, close) = (Some(reply_to), KeyEncoding::Text, None);
        self.replies.push_back(Reply { via, from, to, typ, id, reply_to, thread_id, body, key_encoding, close });
    }

    fn refuse(&mut self, via: ReplyTo, did: Text, refused: Refused, now: Now) {
        let Some(random) = (self.random)() else { return };
        self.replies.push_back(refused.reply(did, Id::new(now.unix_ms, random), via, KeyEncoding::Text));
    }

    /// Answers these REQUESTs with an ERROR.
    fn disappoint(&mut self, slot: usize, asked: Vec<PendingRequest>, refusal: Refusal, now: Now) {
        for PendingRequest { did, id, from, thread_id, .. } in asked {
            let refused = Refused::new(refusal, id, from, thread_id);
            let via = ReplyTo::Did { worker: self.agents[slot].worker };
            self.refuse(via, did, refused, now);
        }
    }
}

/// The message that a reply is about.
struct About {
    from: Text,
    to: Text,
    reply_to: Id,
    thread_id: Option<Vec<u8>>,
}

impl From<&PendingRequest> for About {
    fn from(asked: &PendingRequest) -> Self {
        let (from, to) = (asked.did.clone(), asked.from.clone());
        Self { from, to, reply_to: asked.id, thread_id: asked.thread_id.clone() }
    }
}

impl Agent {
    /// The command that a message means, with its id. `None`: it was said before.
    fn begin(&mut self, ask: &Ask) -> Result<Option<(Text, Command)>, Refusal> {
        let (of, command) = match &ask.wanted {
            Wanted::Prompt(text) => {
                let (of, text) = (ask.session.clone(), text.clone());
                let command = Command::Prompt { session: of.clone(), text, when: When::Next };
                match self.requests.ask(PendingRequest::new(ask, of.clone()), content(&command)) {
                    Begin::New => {}
                    Begin::Again => return Ok(None),
                    Begin::Conflict => return Err(Refusal::new(Code::BAD_REQUEST, ID_WAS_USED)),
                    Begin::Full => return Err(Refusal::new(Code::OVERLOADED, "too many requests of this agent wait")),
                }
                (of, command)
            }
            Wanted::Decide { reply_to, decision, message, answers } => {
                let unknown = Refusal::new(Code::BAD_REQUEST, NOT_WAITING);
                let reply_to = reply_to.as_deref();
                let put = reply_to.and_then(|reply_to| self.requests.answered(reply_to)).ok_or(unknown)?;
                let bad = |why| Err(Refusal::new(Code::BAD_REQUEST, why));
                let decision = match decision.as_deref() {
                    // What an allowance of questions is called among the options of INPUT_REQUIRED.
                    Some("answer") if answers.is_empty() => return bad("to answer, say `answers`, a list of texts"),
                    Some("allow" | "answer") => Decision::Allow,
                    Some("deny") => Decision::Deny,
                    _ => return bad("`decision` is none of \"allow\", \"answer\" and \"deny\""),
                };
                let command = put.decide(decision, message.clone(), answers)?;
                let of = put.session().clone();
                if !self.requests.decide(PendingRequest::new(ask, of.clone())) {
                    return Err(Refusal::new(Code::OVERLOADED, "too many decisions of this agent wait"));
                }
                (of, command)
            }
        };
        Ok(Some((command_id(&of, &ask.id).into(), command)))
    }
}

#[cfg(test)]
mod tests;
