//! The threads of a relay as values: workers, supervisor and crypto thread, with links between them that are short, late and
//! in order. The states are the production ones; what stands here is what shells do.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use amp_relay::{
    base::{ConnToken, Now},
    relay::{
        Role,
        admission::{Admission, Judged},
        api::{Caller, Command, Decision, Out, Request, Text},
        delivery::{
            Agent, BATCHES_OUT_MAX, Check, Checked, Counters, Delivery, Greeting, JOBS_OUT_MAX, Job, Lane, Parts,
            PeerMail, Services, Signed, Verifier,
        },
        hub::{Create, Hub},
        keys::KeySet,
        message::Reply,
        session::Settings,
        sessions::{AgentRequests, ToSessions},
        signer::{SessionKeys, Signer},
    },
    store::{Limits, MemoryStore},
    wire::{
        amp::{Id, KeyEncoding},
        shown,
        sign_in::{did_of, fingerprint},
    },
};
use ed25519_dalek::SigningKey;
use ssh_key::{PrivateKey, private::Ed25519Keypair};

use super::net::{Bytes, SimNet};
use crate::{
    rng::Rng,
    sessions::{
        agent::{self, Process, input_of},
        givens::{Anything, Counted},
    },
};

/// To a worker.
pub(super) enum Mail {
    Keys(Arc<KeySet>),
    Session { session: Text, did: Text },
    Peer(PeerMail<Bytes>),
    Judged { peer: ConnToken, lane: Lane, judged: Option<Judged> },
    Checked(Vec<Checked<Bytes>>),
    Signed(Signed),
    Said(Box<Reply>),
    Taken(ConnToken),
}

/// A link: in order, with so many places. What finds none waits at the sender.
pub(super) struct Link<T> {
    queue: VecDeque<T>,
    places: usize,
}

impl<T> Link<T> {
    fn new(places: usize) -> Self {
        Self { queue: VecDeque::new(), places }
    }

    /// Gives it back where there is no room.
    fn offer(&mut self, message: T) -> Result<(), T> {
        if self.queue.len() >= self.places {
            return Err(message);
        }
        self.queue.push_back(message);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// One worker.
pub(super) struct Worker {
    pub(super) net: SimNet,
    pub(super) delivery: Delivery<Bytes>,
    pub(super) counters: Arc<Counters>,
    pub(super) inbox: Link<Mail>,
    /// To other workers, what found no room.
    outbox: VecDeque<(usize, Mail)>,
    to_sessions: VecDeque<ToSessions>,
}

/// The keys of sessions: one for all.
#[derive(Clone)]
struct OneKey(SigningKey);

impl SessionKeys for OneKey {
    fn key(&self, _: &str) -> Option<SigningKey> {
        Some(self.0.clone())
    }
}

/// The crypto thread.
struct Crypto {
    jobs: Link<(Lane, Job)>,
    strangers: Link<(Lane, Job)>,
    checks: Link<Vec<Check<Bytes>>>,
    admission: Admission,
    signer: Signer<OneKey>,
    verifier: Verifier,
    /// To workers, what found no room.
    outbox: VecDeque<(usize, Mail)>,
    rng: Rng,
}

/// The supervisor.
struct Supervisor {
    inbox: Link<ToSessions>,
    hub: Hub,
    agents: AgentRequests,
    keys: Option<Arc<KeySet>>,
    cli: agent::World,
    processes: Vec<Process>,
    outbox: VecDeque<(usize, Mail)>,
    announced: BTreeSet<Text>,
    open: BTreeMap<Text, Text>,
}

/// Everything.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Now,
    pub(super) workers: Vec<Worker>,
    crypto: Crypto,
    supervisor: Supervisor,
    pub(super) keys: Vec<AgentKey>,
    /// Who decides.
    person: AgentKey,
    pub(super) did: Text,
    pub(super) session: Text,
    slots: u32,
    /// What has come up.
    pub(super) seen: BTreeSet<&'static str>,
    /// Say what happens.
    pub(super) trace: bool,
}

/// An agent's key, and what the keys file says of it.
pub(super) struct AgentKey {
    pub(super) key: SigningKey,
    pub(super) did: Text,
    line: String,
    fingerprint: Text,
    pub(super) role: Option<Role>,
}

impl AgentKey {
    fn new(number: u8) -> Self {
        let key = SigningKey::from_bytes(&[number; 32]);
        let public = ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes()));
        let did = did_of(&public).expect("a did:key").into();
        let (line, fingerprint) = (public.to_openssh().expect("a line"), fingerprint(&public).into());
        Self { key, did, line, fingerprint, role: Some(Role::Agent) }
    }
}

impl World {
    pub(super) fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng(seed);
        let now = Now { mono_ms: 1_000, unix_ms: 1_800_000_000_000 };
        let count = 1 + rng.below(3) as u16;
        let verifies_all = rng.chance(25);
        let host = PrivateKey::from(Ed25519Keypair::from_seed(&[200; 32]));
        let did: Text = did_of(host.public_key()).expect("a did:key").into();
        let parts = Parts {
            greeting: Greeting { did: did.clone(), started_ms: now.unix_ms - 1 },
            services: Services::default(),
            verifies_all,
            workers: count,
            secret: rng.next(),
        };
        let places = 1 + rng.below(8) as usize;
        let room = if rng.chance(10) { 3 } else { 100 };
        let worker = |index| {
            let counters = Arc::<Counters>::default();
            Worker {
                net: SimNet::new(index, now, room, seed ^ u64::from(index)),
                delivery: Delivery::new(&parts, index, counters.clone()),
                counters,
                inbox: Link::new(places),
                outbox: VecDeque::new(),
                to_sessions: VecDeque::new(),
            }
        };
        let workers = (0..count).map(worker).collect();
        let signing = SigningKey::from_bytes(&[200; 32]);
        let crypto = Crypto {
            jobs: Link::new(JOBS_OUT_MAX * usize::from(count)),
            strangers: Link::new(JOBS_OUT_MAX * usize::from(count)),
            checks: Link::new(BATCHES_OUT_MAX * usize::from(count)),
            admission: Admission::new(host, did.to_string()),
            signer: Signer::new(did.clone(), signing, OneKey(SigningKey::from_bytes(&[201; 32]))),
            verifier: Verifier::default(),
            outbox: VecDeque::new(),
            rng: Rng(seed ^ 1),
        };
        let store = Box::new(MemoryStore::new(Limits::default()));
        let hub = Hub::new(Settings::default(), store, Box::new(Anything), Box::new(Counted(0)));
        let mut ids = Rng(seed ^ 2);
        let supervisor = Supervisor {
            inbox: Link::new(1 + rng.below(4) as usize),
            hub,
            agents: AgentRequests::new(move || Some(ids.next().to_ne_bytes())),
            keys: None,
            cli: agent::World::default(),
            processes: Vec::new(),
            outbox: VecDeque::new(),
            announced: BTreeSet::new(),
            open: BTreeMap::new(),
        };
        let keys = (1..=6).map(AgentKey::new).collect();
        let person = AgentKey { role: Some(Role::Admin), ..AgentKey::new(99) };
        let session = Text::default();
        let (slots, seen) = (0, BTreeSet::new());
        let mut world = Self { rng, now, workers, crypto, supervisor, keys, person, did, session, slots, seen, trace };
        for (number, role) in [(0, Role::Drive), (1, Role::Approve)] {
            world.keys[number].role = Some(role);
        }
        world.keys_changed();
        let create = Create { profile: "default".into(), ..Create::default() };
        let summary = world.supervisor.hub.create(create, now).expect("a session");
        world.session = summary.did;
        let (caller, id) = (world.person(), "attach".into());
        let command = Command::Attach { session: summary.session, from: None, tail_bytes: None };
        world.supervisor.hub.request(&caller, Request { id, command }, now);
        world.supervise(0);
        if verifies_all {
            world.note("every signature is checked");
        }
        world
    }

    pub(super) fn note(&mut self, what: &'static str) {
        self.seen.insert(what);
    }

    /// The keys file was written and is read.
    pub(super) fn keys_changed(&mut self) {
        let line = |key: &AgentKey| key.role.map(|role| format!("amp-role=\"{role}\" {}\n", key.line));
        let set = Arc::new(KeySet::parse(&self.keys.iter().chain([&self.person]).filter_map(line).collect::<String>()));
        self.crypto.admission.set_keys(set.clone());
        self.supervisor.keys = Some(set.clone());
        for worker in 0..self.workers.len() {
            self.crypto.outbox.push_back((worker, Mail::Keys(set.clone())));
        }
    }

    /// A client connects.
    pub(super) fn connect(&mut self, worker: usize) -> ConnToken {
        self.slots += 1;
        let token = ConnToken::new(worker as u16, self.slots, 1);
        let Worker { net, delivery, .. } = &mut self.workers[worker];
        net.now = self.now;
        net.open(token, Some(Agent::new(token, false, self.now)));
        Self::as_current(net, token, |agent, net| delivery.opened(agent, net));
        token
    }

    fn as_current<R>(net: &mut SimNet, token: ConnToken, act: impl FnOnce(&mut Agent, &mut SimNet) -> R) -> Option<R> {
        let mut agent = net.conns.get_mut(&token)?.agent.take()?;
        net.current = token;
        let result = act(&mut agent, net);
        net.current = SimNet::nobody();
        if let Some(conn) = net.conns.get_mut(&token) {
            conn.agent = Some(agent);
        }
        Some(result)
    }

    fn worker(&mut self, token: ConnToken) -> &mut Worker {
        let now = self.now;
        let worker = &mut self.workers[usize::from(token.worker())];
        worker.net.now = now;
        worker
    }

    /// The relay reads one message of a connection. `None`: there is none, or the connection is not read.
    pub(super) fn read(&mut self, token: ConnToken) -> Option<Vec<u8>> {
        let Worker { net, delivery, .. } = self.worker(token);
        let conn = net.conns.get_mut(&token).filter(|conn| !conn.is_paused && conn.closed.is_none())?;
        let message = conn.inbound.pop_front()?;
        Self::as_current(net, token, |agent, net| delivery.message(agent, net, &message, &message));
        delivery.check_invariants();
        Some(message)
    }

    /// The client takes one message.
    pub(super) fn take(&mut self, token: ConnToken) -> Option<Vec<u8>> {
        let Worker { net, delivery, .. } = self.worker(token);
        let mut message = None;
        if net.conns.get_mut(&token)?.take(&mut message) {
            Self::as_current(net, token, |_, net| delivery.writable(net));
            delivery.check_invariants();
        }
        message
    }

    /// A connection is over: the client has gone, or the relay has closed it and the client has read the rest.
    pub(super) fn gone(&mut self, token: ConnToken) {
        let Worker { net, delivery, .. } = self.worker(token);
        let Some(conn) = net.conns.remove(&token) else { return };
        delivery.closed(&conn.agent.expect("it is not the current one"), token);
        delivery.check_invariants();
    }

    /// Fires every timeout that is due.
    pub(super) fn timeouts(&mut self) {
        let now = self.now;
        for Worker { net, delivery, .. } in &mut self.workers {
            net.now = now;
            let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now.mono_ms);
            let due: Vec<_> =
                net.conns.iter().filter(|(_, conn)| is_due(conn.timeout_at)).map(|(token, _)| *token).collect();
            for token in due {
                if let Some(conn) = net.conns.get_mut(&token) {
                    conn.timeout_at = None;
                }
                Self::as_current(net, token, |agent, net| delivery.timeout(agent, net));
            }
        }
        if self.supervisor.hub.next_timeout().is_some_and(|at| at <= now.mono_ms) {
            self.supervisor.hub.timeout(now);
            self.supervise(0);
        }
    }

    /// A worker handles so many mails at most.
    pub(super) fn receive(&mut self, worker: usize, most: usize) -> bool {
        let now = self.now;
        let mut moved = false;
        for _ in 0..most {
            let Worker { net, delivery, inbox, .. } = &mut self.workers[worker];
            net.now = now;
            let Some(mail) = inbox.queue.pop_front() else { break };
            moved = true;
            match mail {
                Mail::Keys(keys) => {
                    for token in net.conns.keys().copied().collect::<Vec<_>>() {
                        delivery.keys_changed(token, &keys, net);
                    }
                }
                Mail::Session { session, did } => delivery.session(session, &did),
                Mail::Peer(mail) => delivery.peer_mail(mail, net),
                Mail::Judged { peer, lane, judged } => delivery.judged(peer, lane, judged, net),
                Mail::Checked(checked) => delivery.checked(checked, net),
                Mail::Signed(signed) => {
                    delivery.signed(signed, net);
                }
                Mail::Said(reply) => delivery.say(*reply, net),
                Mail::Taken(peer) => delivery.asked(peer, net),
            }
            delivery.check_invariants();
        }
        moved
    }

    /// The end of a worker's turn.
    pub(super) fn turn(&mut self, index: usize) -> bool {
        let worker = &mut self.workers[index];
        worker.net.now = self.now;
        worker.delivery.turn(&mut worker.net);
        let waiting = worker.to_sessions.len();
        worker.to_sessions.extend(worker.delivery.commands.take(waiting));
        let mut moved = false;
        while let Some(message) = worker.to_sessions.pop_front() {
            if let Err(message) = self.supervisor.inbox.offer(message) {
                worker.to_sessions.push_front(message);
                self.seen.insert("a full supervisor");
                break;
            }
            moved = true;
        }
        while let Some((lane, job)) = worker.delivery.lanes.next_job() {
            let queue = if lane == Lane::Strangers { &mut self.crypto.strangers } else { &mut self.crypto.jobs };
            assert!(queue.offer((lane, job)).is_ok(), "a worker gives no more than there is room for");
            moved = true;
        }
        while let Some(batch) = worker.delivery.next_checks() {
            self.crypto.checks.offer(batch).expect("a worker gives no more than there is room for");
            moved = true;
        }
        while let Some(news) = worker.delivery.poll_sender_news(index as u16) {
            worker.outbox.push_back((usize::from(news.sender().worker()), Mail::Peer(PeerMail::Sender(news))));
            self.seen.insert("a sender of another worker is blocked");
        }
        for to in worker.delivery.destinations() {
            while let Some(batch) = worker.delivery.take_for(to) {
                worker.outbox.push_back((usize::from(to), Mail::Peer(PeerMail::Directory(batch))));
            }
        }
        worker.delivery.carried(&mut worker.net);
        let outbox = std::mem::take(&mut worker.outbox);
        self.workers[index].outbox = self.carry(outbox, &mut moved);
        moved
    }

    /// Puts mail into inboxes, in order for each; gives back what found no room.
    fn carry(&mut self, outbox: VecDeque<(usize, Mail)>, moved: &mut bool) -> VecDeque<(usize, Mail)> {
        let mut left = VecDeque::new();
        let mut full = BTreeSet::new();
        for (to, mail) in outbox {
            if full.contains(&to) {
                left.push_back((to, mail));
                continue;
            }
            match self.workers[to].inbox.offer(mail) {
                Ok(()) => *moved = true,
                Err(mail) => {
                    full.insert(to);
                    left.push_back((to, mail));
                    self.seen.insert("a full worker");
                }
            }
        }
        left
    }

    /// The crypto thread does so many jobs of each queue at most.
    pub(super) fn crypto(&mut self, most: usize) -> bool {
        let now = self.now;
        let mut moved = false;
        for _ in 0..most {
            let crypto = &mut self.crypto;
            let job = crypto.jobs.queue.pop_front().or_else(|| crypto.strangers.queue.pop_front());
            if let Some((lane, job)) = job {
                moved = true;
                match job {
                    Job::Hello(job) => {
                        let proved = match &job.proves {
                            Some(did) => crypto.admission.hello(did, &job.frame, &job.id, now.mono_ms).map(Some),
                            None => Ok(None),
                        };
                        let id = Id::new(now.unix_ms, crypto.rng.next().to_ne_bytes());
                        let judged = crypto.signer.hello(&job, proved, id);
                        let mail = Mail::Judged { peer: job.peer, lane, judged };
                        crypto.outbox.push_back((usize::from(job.peer.worker()), mail));
                    }
                    Job::Reply(reply) => {
                        let frame = crypto.signer.sign(&reply).unwrap_or_default();
                        let signed = Signed { via: reply.via, lane, frame, close: reply.close };
                        crypto.outbox.push_back((usize::from(reply.via.worker()), Mail::Signed(signed)));
                    }
                    Job::SignIn(_) | Job::Reload { .. } => unreachable!("there are no devices"),
                }
            }
            if let Some(batch) = crypto.checks.queue.pop_front() {
                moved = true;
                let worker = usize::from(batch[0].peer.worker());
                crypto.outbox.push_back((worker, Mail::Checked(crypto.verifier.batch(batch))));
            }
        }
        let outbox = std::mem::take(&mut self.crypto.outbox);
        self.crypto.outbox = self.carry(outbox, &mut moved);
        moved
    }

    /// The supervisor handles so many messages at most.
    pub(super) fn supervise(&mut self, most: usize) -> bool {
        let now = self.now;
        let mut moved = false;
        if let Some(keys) = self.supervisor.keys.take() {
            self.supervisor.hub.keys(keys.clone(), now);
            self.supervisor.agents.keys_changed(&keys, &mut self.supervisor.hub, now);
            self.carry_out();
        }
        for _ in 0..most {
            let Supervisor { inbox, hub, agents, .. } = &mut self.supervisor;
            let Some(message) = inbox.queue.pop_front() else { break };
            moved = true;
            let mut taken = None;
            match message {
                ToSessions::Request(caller, request) => hub.request(&caller, request, now),
                ToSessions::Paused(peer) => hub.paused(peer),
                ToSessions::Resumed(peer) => hub.resumed(peer, now),
                ToSessions::Gone(peer) => hub.disconnected(peer, now),
                ToSessions::Ask(ask) => {
                    taken = Some(ask.caller.peer);
                    agents.ask(*ask, hub, now);
                }
                ToSessions::AskerGone(peer) => agents.gone(peer, hub, now),
            }
            self.carry_out();
            if let Some(peer) = taken {
                self.supervisor.outbox.push_back((usize::from(peer.worker()), Mail::Taken(peer)));
            }
        }
        self.carry_out();
        let outbox = std::mem::take(&mut self.supervisor.outbox);
        self.supervisor.outbox = self.carry(outbox, &mut moved);
        moved
    }

    fn carry_out(&mut self) {
        let (now, workers) = (self.now, self.workers.len());
        let Supervisor { hub, agents, cli, processes, outbox, announced, open, .. } = &mut self.supervisor;
        while let Some(out) = hub.poll() {
            agents.out(&out, hub, now);
            if self.trace {
                eprintln!("{} {out:?}", now.mono_ms);
            }
            match out {
                Out::Launch(launch) => {
                    if announced.insert(launch.session.clone()) {
                        let summaries = hub.summaries();
                        let of =
                            summaries.iter().find(|summary| summary.session == launch.session).expect("it is there");
                        let (session, did) = (launch.session.clone(), of.did.clone());
                        for worker in 0..workers {
                            let mail = Mail::Session { session: session.clone(), did: did.clone() };
                            outbox.push_back((worker, mail));
                        }
                    }
                    processes.push(Process::new(launch));
                }
                Out::Write { session, process, command } => {
                    let is_it =
                        |known: &&mut Process| known.launch.session == session && known.launch.process == process;
                    if let Some(running) = processes.iter_mut().find(is_it) {
                        running.input.push_back(command);
                    }
                }
                Out::End { session, process, how } => {
                    let is_it =
                        |known: &&mut Process| known.launch.session == session && known.launch.process == process;
                    if let Some(running) = processes.iter_mut().find(is_it) {
                        running.end(how, cli, &mut self.rng);
                    }
                }
                Out::Event { event, .. } => {
                    use amp_relay::relay::api::Kind;
                    match &event.kind {
                        Kind::Permission(asked) => drop(open.insert(asked.request.clone(), event.session.clone())),
                        Kind::PermissionClosed { request, .. } => drop(open.remove(request)),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        while let Some(reply) = agents.poll() {
            outbox.push_back((usize::from(reply.via.worker()), Mail::Said(Box::new(reply))));
        }
    }

    /// The CLIs go on.
    pub(super) fn work(&mut self, calm: bool) -> bool {
        let now = self.now;
        let mut moved = false;
        for index in 0..self.supervisor.processes.len() {
            let Supervisor { hub, cli, processes, .. } = &mut self.supervisor;
            let Some(process) = processes.get_mut(index) else { break };
            // One that says nothing any more is for the simulation of sessions.
            moved |= process.step(cli, &mut self.rng, true);
            if !calm && self.rng.chance(1) {
                process.dies(cli, &mut self.rng);
            }
            let (session, number) = (process.launch.session.clone(), process.launch.process);
            let events: Vec<_> = process.output.drain(..).collect();
            let exit = process.exit.clone();
            for event in events {
                hub.agent(&session, number, event, now);
                moved = true;
            }
            if let Some(exit) = exit {
                processes.remove(index);
                hub.exited(&session, number, &exit, now);
                self.seen.insert("a CLI that ended");
                moved = true;
            }
            self.carry_out();
        }
        moved
    }

    /// A person who watches the session and decides.
    fn person(&self) -> Caller {
        Caller {
            peer: ConnToken::new(ConnToken::NO_WORKER - 1, 0, 0),
            principal: self.person.fingerprint.clone(),
            comment: "".into(),
            role: Role::Admin,
            granted: Role::Admin,
            client: "person".into(),
            device: "person".into(),
            name: "person".into(),
            kind: "terminal".into(),
        }
    }

    /// The person allows what is asked.
    pub(super) fn decide(&mut self) -> bool {
        let Some((request, session)) = self.supervisor.open.pop_first() else { return false };
        let caller = self.person();
        let shown = shown::hash::<serde_json::Value>(&input_of(&request).read().expect("JSON")).map(Text::from);
        let id = format!("decide {request}").into();
        let (decision, message, input, answers) = (Decision::Allow, None, None, None);
        let command = Command::Decide { session, request, decision, shown, message, input, answers };
        self.supervisor.hub.request(&caller, Request { id, command }, self.now);
        self.carry_out();
        true
    }

    /// Whether nothing is on its way between threads.
    pub(super) fn is_quiet(&self) -> bool {
        let crypto = &self.crypto;
        crypto.jobs.is_empty()
            && crypto.strangers.is_empty()
            && crypto.checks.is_empty()
            && crypto.outbox.is_empty()
            && self.supervisor.inbox.is_empty()
            && self.supervisor.outbox.is_empty()
            && self
                .workers
                .iter()
                .all(|worker| worker.inbox.is_empty() && worker.outbox.is_empty() && worker.to_sessions.is_empty())
    }

    /// The connections that are there.
    pub(super) fn tokens(&self) -> Vec<ConnToken> {
        self.workers.iter().flat_map(|worker| worker.net.conns.keys().copied()).collect()
    }

    pub(super) fn conn(&mut self, token: ConnToken) -> Option<&mut super::net::Conn> {
        self.worker(token).net.conns.get_mut(&token)
    }
}

/// How an agent writes the keys of its messages.
pub(super) fn key_encoding(agent: usize) -> KeyEncoding {
    if matches!(agent, 3 | 4) { KeyEncoding::Int } else { KeyEncoding::Text }
}
