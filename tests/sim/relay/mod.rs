//! Goal: what the relay promises agents holds whatever comes between: a message reaches each connection of its recipient
//! once and in order, or its sender is told so once; a REQUEST to a session is answered; nobody waits for ever for
//! somebody who takes nothing; a key that is gone has no connection. Method: the production core of several workers
//! (delivery, directory, sessions, admission, signer, verifier) on simulated connections, with threads as values and links
//! that are short and late, in an order drawn from a seed; clients that are slow, deaf, rude and gone; keys that are
//! revoked; a CLI that dies. Everything handed over is written down when it happens, and checked against what was promised.
//!
//! `AMP_SIM_SEED=n` plays one seed again; `AMP_SIM_SEEDS=n` plays n of them instead of 512.

mod devices;
mod net;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use crate::sweep::{sweep, variable};
use amp_relay::{
    base::ConnToken,
    relay::{Role, api::Text},
    wire::{
        amp::{Builder, Frame, Header, Id, KeyEncoding, To, Type, body, parse},
        cbor,
    },
};
use world::{World, key_encoding};

const STEPS: u64 = 700;

/// A message that a client sent, by its id.
struct Sent {
    /// From which connection.
    from: ConnToken,
    /// The numbers of the agents it is for; one that is nobody's is above all.
    to: Vec<usize>,
    /// Connections that had to get it: they were acknowledged when the relay read it.
    owed: BTreeSet<ConnToken>,
    /// Connections of its recipients, acknowledged or not.
    there: BTreeSet<ConnToken>,
    handed: BTreeSet<ConnToken>,
    errors: usize,
    /// Recipients that an ERROR has named.
    named: BTreeSet<usize>,
    /// The relay has read it.
    is_read: bool,
    /// Its signature is wrong.
    is_forged: bool,
    /// Its place among those of its sender.
    number: u64,
}

/// A REQUEST for the session.
struct Asked {
    agent: usize,
    /// RESPONSEs and ERRORs about it that reached a client.
    answers: usize,
    from: ConnToken,
    is_read: bool,
}

/// A client's connection.
struct Client {
    agent: usize,
    /// It was acknowledged, as it knows.
    is_joined: bool,
    numbers: u64,
}

struct Play {
    world: World,
    clients: BTreeMap<ConnToken, Client>,
    sent: BTreeMap<[u8; 16], Sent>,
    asked: BTreeMap<[u8; 16], Asked>,
    /// The number of the last message that a connection was handed of another.
    last: BTreeMap<(ConnToken, ConnToken), u64>,
    /// The agent of each connection that there was.
    agents: BTreeMap<ConnToken, usize>,
    /// Connections that are over.
    over: BTreeSet<ConnToken>,
    /// Agents one of whose connections found no room when it had joined: what came to it meanwhile went with it.
    turned_away: BTreeSet<usize>,
    ids: u64,
    /// Of all agents, and of nobody.
    dids: Vec<Text>,
    /// Since when a connection that reads is not read.
    paused: BTreeMap<ConnToken, u64>,
    /// Rounds in which nothing moved, and when the last one was.
    idle: u32,
    idle_since: u64,
}

impl Play {
    fn new(seed: u64) -> Self {
        let world = World::new(seed, variable("AMP_SIM_SEED").is_some());
        let dids = world.keys.iter().map(|key| key.did.clone()).chain(["did:key:zNobody".into()]).collect();
        let (clients, sent, asked) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (last, over, paused) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self {
            world,
            clients,
            sent,
            asked,
            last,
            over,
            ids: 0,
            dids,
            agents: BTreeMap::new(),
            turned_away: BTreeSet::new(),
            paused,
            idle: 0,
            idle_since: 0,
        }
    }

    fn id(&mut self) -> Id {
        self.ids += 1;
        Id::new(self.world.now.unix_ms, self.ids.to_be_bytes())
    }

    fn signed(&self, agent: usize, header: Header<'_>, body: &[u8]) -> Vec<u8> {
        let (mut scratch, mut frame) = (Vec::new(), Vec::new());
        let key = &self.world.keys[agent].key;
        let built = Builder::new(header).body(body).write_signed(key_encoding(agent), key, &mut scratch, &mut frame);
        built.expect("a message");
        frame
    }

    fn send(&mut self, token: ConnToken, frame: Vec<u8>) {
        if let Some(conn) = self.world.conn(token) {
            conn.inbound.push_back(frame);
        }
    }

    /// An agent connects and says HELLO.
    fn connect(&mut self) {
        let worker = self.world.rng.below(self.world.workers.len() as u64) as usize;
        let agent = self.world.rng.below(self.world.keys.len() as u64) as usize;
        let token = self.world.connect(worker);
        if self.world.trace {
            eprintln!("{token} is agent {agent}");
        }
        self.agents.insert(token, agent);
        self.clients.insert(token, Client { agent, is_joined: false, numbers: 0 });
        let (did, relay, id) = (self.world.keys[agent].did.clone(), self.world.did.clone(), self.id());
        let mut body = Vec::new();
        body::Hello { versions: &["1.0"], ..body::Hello::default() }.write(&mut body);
        let hello = self.signed(agent, Header::new(id, Type::HELLO, &did, To::One(&relay)), &body);
        self.send(token, hello);
    }

    /// An agent sends a message to one or several others, or to nobody.
    fn message(&mut self, token: ConnToken) {
        // Integer keys cannot name several.
        let is_one = key_encoding(self.clients[&token].agent) == KeyEncoding::Int;
        let count = if !is_one && self.world.rng.chance(15) { 2 + self.world.rng.below(3) } else { 1 };
        let to: Vec<usize> =
            (0..count).map(|_| self.world.rng.below(self.world.keys.len() as u64 + 1) as usize).collect();
        let client = self.clients.get_mut(&token).expect("a client");
        client.numbers += 1;
        let (agent, number) = (client.agent, client.numbers);
        let id = self.id();
        let name =
            |to: &usize| self.world.keys.get(*to).map_or_else(|| "did:key:zNobody".into(), |key| key.did.clone());
        let names: Vec<Text> = to.iter().map(name).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let did = self.world.keys[agent].did.clone();
        let recipients = if let [one] = names[..] { To::One(one) } else { To::Many(&names) };
        let mut body = Vec::new();
        cbor::text(&mut body, &"x".repeat(self.world.rng.below(120) as usize));
        let mut frame = self.signed(agent, Header::new(id, Type::MESSAGE, &did, recipients), &body);
        let is_forged = self.world.rng.chance(3);
        if is_forged {
            let Ok(Frame::Envelope(view)) = parse(&frame) else { panic!("a message") };
            let signature = view.sig.expect("it is signed");
            let at = signature.as_ptr() as usize - frame.as_ptr() as usize;
            frame[at] ^= 1;
        }
        let (owed, there, handed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let sent = Sent {
            from: token,
            to,
            owed,
            there,
            handed,
            errors: 0,
            named: BTreeSet::new(),
            is_read: false,
            is_forged,
            number,
        };
        self.sent.insert(id.0, sent);
        self.send(token, frame);
    }

    /// An agent asks the session.
    fn request(&mut self, token: ConnToken) {
        let agent = self.clients[&token].agent;
        let (id, did, session) = (self.id(), self.world.keys[agent].did.clone(), self.world.session.clone());
        let mut body = Vec::new();
        cbor::map(&mut body, 1);
        cbor::text(&mut body, "prompt");
        cbor::text(&mut body, "work");
        let frame = self.signed(agent, Header::new(id, Type::REQUEST, &did, To::One(&session)), &body);
        self.asked.insert(id.0, Asked { agent, answers: 0, from: token, is_read: false });
        self.send(token, frame);
    }

    /// The relay reads one message of a connection, and what is promised for it is written down.
    fn read(&mut self, token: ConnToken) -> bool {
        let joined: Vec<(ConnToken, usize)> =
            self.clients.iter().filter(|(_, c)| c.is_joined).map(|(t, c)| (*t, c.agent)).collect();
        let there: Vec<(ConnToken, usize)> =
            self.clients.iter().map(|(token, client)| (*token, client.agent)).collect();
        let Some(message) = self.world.read(token) else { return false };
        if let Ok(Frame::Envelope(view)) = parse(&message) {
            if let (true, Some(sent)) = (self.world.trace, self.sent.get(&view.header.id.0)) {
                let (now, id) = (self.world.now.mono_ms, view.header.id.0);
                eprintln!("{now} read {} of {token} to {:?} {id:?}", sent.number, sent.to);
            }
            let is_sender = joined.iter().any(|(known, _)| *known == token);
            if let Some(sent) = self.sent.get_mut(&view.header.id.0) {
                sent.is_read = is_sender;
                sent.there =
                    there.iter().filter(|(_, agent)| sent.to.contains(agent)).map(|(token, _)| *token).collect();
                sent.owed =
                    joined.iter().filter(|(_, agent)| sent.to.contains(agent)).map(|(token, _)| *token).collect();
            }
            if let Some(asked) = self.asked.get_mut(&view.header.id.0) {
                if self.world.trace {
                    eprintln!("{} {token} asks {:?}", self.world.now.mono_ms, view.header.id.0);
                }
                asked.is_read = is_sender;
            }
        }
        self.note_handed();
        true
    }

    /// Writes down what was handed over.
    fn note_handed(&mut self) {
        for worker in 0..self.world.workers.len() {
            let handed = std::mem::take(&mut self.world.workers[worker].net.handed);
            for (token, frame) in handed {
                self.handed(token, &frame);
            }
        }
    }

    fn handed(&mut self, token: ConnToken, frame: &[u8]) {
        let Ok(Frame::Envelope(view)) = parse(frame) else { panic!("what is handed over can be read: {frame:?}") };
        if self.world.trace {
            let sent = self.sent.get(&view.header.id.0).map(|sent| (sent.from, sent.number));
            let about = view.header.reply_to;
            eprintln!("{} {token} gets {:?} {sent:?} {about:?}", self.world.now.mono_ms, view.header.typ);
        }
        assert_eq!(view.key_encoding, key_encoding(self.clients[&token].agent), "each gets the keys that it writes");
        if let Some(sent) = self.sent.get_mut(&view.header.id.0) {
            let agent = self.clients[&token].agent;
            assert!(sent.to.contains(&agent), "{token} is no recipient");
            assert!(sent.handed.insert(token), "{token} got a message twice");
            let last = self.last.entry((sent.from, token)).or_default();
            assert!(sent.number > *last, "{token} got {} of {} behind {last}", sent.number, sent.from);
            *last = sent.number;
            return;
        }
        let client = self.clients.get_mut(&token).expect("a client");
        match view.header.typ {
            Type::HELLO_ACK => {
                client.is_joined = true;
            }
            Type::ERROR | Type::RESPONSE => {
                let Some(about) = view.header.reply_to.and_then(|id| <[u8; 16]>::try_from(id).ok()) else { return };
                if let Some(sent) = self.sent.get_mut(&about) {
                    assert_eq!(sent.from, token, "an ERROR goes to the connection that sent the message");
                    sent.errors += 1;
                    assert!(sent.errors == 1 || sent.to.len() > 1, "one ERROR for a message to one");
                    // A message to several is told of by name.
                    for (number, did) in self.dids.iter().enumerate() {
                        if sent.to.len() > 1
                            && contains(view.body_or_null().unwrap_or_default(), did.as_bytes())
                            && sent.to.contains(&number)
                        {
                            sent.named.insert(number);
                        }
                    }
                }
                if let Some(asked) = self.asked.get_mut(&about) {
                    assert_eq!(client.agent, asked.agent, "an answer goes to the DID that asked");
                    asked.answers += 1;
                    if asked.from != token {
                        self.world.note("an answer on another connection");
                    }
                }
            }
            _ => {}
        }
    }

    /// A client takes what it was sent, or finds that it was closed.
    fn take(&mut self, token: ConnToken) -> bool {
        let took = self.world.take(token).is_some();
        self.note_handed();
        let is_over = self.world.conn(token).is_some_and(|conn| conn.closed.is_some() && conn.outbound.is_empty());
        if is_over {
            self.gone(token);
        }
        took || is_over
    }

    fn gone(&mut self, token: ConnToken) {
        if self.world.trace {
            let why = self.world.conn(token).and_then(|conn| conn.closed.clone());
            eprintln!("{} {token} is gone: {why:?}", self.world.now.mono_ms);
        }
        let is_turned_away = self
            .world
            .conn(token)
            .is_some_and(|conn| conn.closed.as_ref().is_some_and(|(_, why)| why.contains("no room")));
        self.world.gone(token);
        self.over.insert(token);
        let client = self.clients.remove(&token);
        self.turned_away.extend(client.filter(|_| is_turned_away).map(|client| client.agent));
        self.paused.remove(&token);
    }

    fn step(&mut self, churn: u64) {
        let tokens = self.world.tokens();
        let some = self.world.rng.pick(&tokens).copied();
        let joined: Vec<ConnToken> =
            self.clients.iter().filter(|(_, client)| client.is_joined).map(|(token, _)| *token).collect();
        let speaker = self.world.rng.pick(&joined).copied();
        let worker = self.world.rng.below(self.world.workers.len() as u64) as usize;
        match self.world.rng.below(100) {
            dice if dice < churn && tokens.len() < 14 => self.connect(),
            dice if dice < churn + 1 => {
                if let Some(token) = some {
                    self.world.note("a client that is gone");
                    self.gone(token);
                }
            }
            dice if dice < 35 => {
                if let Some(token) = speaker {
                    self.message(token);
                }
            }
            36 | 37 => {
                if let Some(token) = speaker.filter(|_| !self.world.session.is_empty()) {
                    self.request(token);
                }
            }
            dice if dice < 55 => {
                if let Some(token) = some {
                    self.read(token);
                }
            }
            dice if dice < 70 => {
                if let Some(token) = some.filter(|&token| self.world.conn(token).is_some_and(|conn| !conn.is_deaf)) {
                    self.take(token);
                }
            }
            71 | 72 => {
                if let Some(conn) = some.and_then(|token| self.world.conn(token)) {
                    conn.is_deaf = !conn.is_deaf;
                }
            }
            73 => self.change_keys(),
            dice if dice < 80 => drop(self.world.crypto(1 + dice as usize % 3)),
            dice if dice < 84 => drop(self.world.supervise(2)),
            dice if dice < 86 => drop(self.world.work(false)),
            86 => drop(self.world.decide()),
            87 => {
                let most = if self.world.rng.chance(20) { 6_000 } else { 300 };
                self.pass(most);
            }
            dice if dice < 94 => drop(self.world.receive(worker, 1 + dice as usize % 4)),
            _ => drop(self.world.turn(worker)),
        }
        self.note_handed();
        self.note_states();
    }

    fn pass(&mut self, most: u64) {
        let ms = self.world.rng.below(most);
        self.world.now.mono_ms += ms;
        self.world.now.unix_ms += ms;
        self.world.timeouts();
    }

    fn change_keys(&mut self) {
        let agent = self.world.rng.below(self.world.keys.len() as u64) as usize;
        let key = &mut self.world.keys[agent];
        key.role = match (key.role, agent) {
            (Some(_), _) => None,
            (None, 0 | 1) => Some(Role::Drive),
            (None, _) => Some(Role::Agent),
        };
        if key.role.is_none() {
            self.world.note("a key that is revoked");
        }
        self.world.keys_changed();
    }

    /// What has come up, and that no connection is paused for long where its receivers take nothing.
    fn note_states(&mut self) {
        let now = self.world.now.mono_ms;
        for worker in 0..self.world.workers.len() {
            if self.world.workers[worker].counters.stuck.get() > 0 {
                self.world.note("a receiver that is stuck");
            }
            for token in std::mem::take(&mut self.world.workers[worker].net.too_slow) {
                self.world.note("a receiver that is too slow");
                self.gone(token);
            }
        }
        for token in self.world.tokens() {
            let is_joined = self.clients.get(&token).is_some_and(|client| client.is_joined);
            match self.world.conn(token).is_some_and(|conn| conn.is_paused && is_joined) {
                true => drop(self.paused.entry(token).or_insert(now)),
                false => drop(self.paused.remove(&token)),
            }
            if self.paused.contains_key(&token) {
                self.world.note("a sender that is not read");
            }
        }
    }

    /// Everybody takes what there is, until nothing moves any more. The deaf stay deaf first: those who write to them must not
    /// wait for ever.
    fn rest(&mut self) {
        self.settle(true);
        for (token, conn) in self.world.workers.iter().flat_map(|worker| &worker.net.conns) {
            let is_joined = self.clients.get(token).is_some_and(|client| client.is_joined);
            assert!(!conn.is_paused || !is_joined || conn.closed.is_some(), "{token} waits for ever");
        }
        for token in self.world.tokens() {
            if let Some(conn) = self.world.conn(token) {
                conn.is_deaf = false;
            }
        }
        self.settle(false);
    }

    fn settle(&mut self, some_are_deaf: bool) {
        for _ in 0..6_000 {
            let mut moved = false;
            for token in self.world.tokens() {
                while self.read(token) {
                    moved = true;
                }
                let is_deaf = self.world.conn(token).is_some_and(|conn| conn.is_deaf);
                while !(some_are_deaf && is_deaf) && self.world.conn(token).is_some() && self.take(token) {
                    moved = true;
                }
            }
            for worker in 0..self.world.workers.len() {
                moved |= self.world.receive(worker, 64);
                moved |= self.world.turn(worker);
            }
            moved |= self.world.crypto(64) | self.world.supervise(64) | self.world.work(true);
            self.note_handed();
            self.note_states();
            if !moved {
                moved |= self.world.decide();
            }
            if !moved {
                // Timers go on where nothing else does.
                let before = self.world.now.mono_ms;
                self.world.now.mono_ms += 2_000;
                self.world.now.unix_ms += 2_000;
                self.world.timeouts();
                self.idle = if self.idle_since == before { self.idle + 1 } else { 1 };
                self.idle_since = self.world.now.mono_ms;
                if self.idle > 60 && self.world.is_quiet() {
                    return;
                }
            } else {
                self.idle = 0;
            }
        }
        panic!("it does not come to rest");
    }

    /// What was promised.
    fn check(&mut self) {
        for worker in &self.world.workers {
            let counters = &worker.counters;
            assert_eq!((counters.checking.get(), counters.gathering.get(), counters.stuck.get()), (0, 0, 0));
        }
        for sent in self.sent.values().filter(|sent| sent.is_read && !self.over.contains(&sent.from)) {
            let (to, handed, errors) = (&sent.to, &sent.handed, sent.errors);
            let told = (sent.from, sent.number);
            // What is on its way to a connection that goes is taken for handed over.
            let was_going = sent.there.iter().any(|token| self.over.contains(token))
                || to.iter().any(|agent| self.turned_away.contains(agent));
            assert!(
                !handed.is_empty() || errors > 0 || was_going,
                "{told:?} to {to:?}, owed to {:?}: not handed over, not refused",
                sent.owed
            );
            if errors == 0 {
                let missing: Vec<_> = sent.owed.difference(handed).filter(|token| !self.over.contains(token)).collect();
                assert!(missing.is_empty(), "{told:?} to {to:?}: {missing:?} did not get it, and nobody was told");
                assert!(!to.contains(&self.world.keys.len()), "{told:?}: nobody's DID, and no ERROR");
            }
            let is_forged = sent.is_forged && self.world.seen.contains("every signature is checked");
            if to.len() > 1 && !was_going && !is_forged {
                for agent in to {
                    let got = handed.iter().any(|token| self.agents.get(token) == Some(agent));
                    let is_named = sent.named.contains(agent);
                    assert!(got || is_named, "{told:?} to {to:?}: agent {agent} got nothing and is not named");
                    // Of its connections some may have parted from the sender.
                    let all = sent
                        .owed
                        .iter()
                        .filter(|token| self.agents.get(*token) == Some(agent))
                        .all(|token| handed.contains(token));
                    assert!(!(got && all && is_named), "{told:?} to {to:?}: agent {agent} got it and is named");
                }
            }
            if sent.is_forged && self.world.seen.contains("every signature is checked") {
                assert!(handed.is_empty(), "a forged message was handed on");
            }
        }
        for asked in self.asked.values().filter(|asked| asked.is_read && !self.over.contains(&asked.from)) {
            assert!(asked.answers > 0, "a REQUEST without an answer: {} of agent {}", asked.from, asked.agent);
        }
        for (token, client) in &self.clients {
            assert!(!client.is_joined || self.world.keys[client.agent].role.is_some(), "{token} has no key any more");
        }
        for worker in &self.world.workers {
            let joined =
                self.clients.iter().filter(|(token, client)| client.is_joined && token.worker() == worker.net.worker);
            assert_eq!(worker.counters.agents.get(), joined.count() as u64);
            assert!(worker.net.conns.values().all(|conn| conn.outbound.is_empty()));
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Plays one seed. Says what came up.
fn play(seed: u64) -> BTreeSet<&'static str> {
    let mut play = Play::new(seed);
    let churn = 2 + play.world.rng.below(8);
    for _ in 0..STEPS {
        play.step(churn);
    }
    play.rest();
    play.check();
    let facts = [
        ("refused", play.sent.values().any(|sent| sent.errors > 0 && sent.handed.is_empty())),
        ("handed to several", play.sent.values().any(|sent| sent.handed.len() > 2)),
        ("handed on", play.sent.values().any(|sent| !sent.handed.is_empty())),
        ("answered by the session", play.asked.values().any(|asked| asked.answers > 0)),
    ];
    let mut seen = std::mem::take(&mut play.world.seen);
    seen.extend(facts.into_iter().filter(|(_, is_met)| *is_met).map(|(name, _)| name));
    seen
}

/// What a sweep has to meet.
const FAULTS: [&str; 15] = [
    "every signature is checked",
    "a full supervisor",
    "a full worker",
    "a sender of another worker is blocked",
    "a sender that is not read",
    "a receiver that is stuck",
    "a receiver that is too slow",
    "a client that is gone",
    "a key that is revoked",
    "a CLI that ended",
    "an answer on another connection",
    "refused",
    "handed to several",
    "handed on",
    "answered by the session",
];

#[test]
fn what_is_promised_holds_for_every_seed() {
    let (met, many) = sweep(play);
    let missed: Vec<_> = FAULTS.iter().filter(|fault| !met.contains(*fault)).collect();
    assert!(!many || missed.is_empty(), "the sweep did not meet {missed:?}");
}
