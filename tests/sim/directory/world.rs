//! Workers with inboxes that are delayed, batched and sometimes full, and what is true about every connection and
//! message. Checks each delivery and each answer when it happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use amp_relay::{
    base::ConnToken,
    relay::directory::{Directory, Event, Options, Payload, PeerMessage, Receivers, Route, Why},
};

use crate::rng::Rng;

/// A message: its number in the whole run.
#[derive(Clone, Debug)]
pub(crate) struct Message(pub(crate) usize);

pub(crate) const SIZE: usize = 100;

impl Payload for Message {
    type ReturnAddress = usize;

    fn size(&self) -> usize {
        SIZE
    }

    fn return_address(&self) -> usize {
        self.0
    }
}

/// What is true about a message.
pub(crate) struct Letter {
    pub(crate) sender: ConnToken,
    pub(crate) did: usize,
    /// Connections that were joined when it was sent.
    pub(crate) must: Vec<ConnToken>,
    pub(crate) delivered: BTreeSet<ConnToken>,
    pub(crate) answered: Option<Why>,
}

/// What is true about a connection.
pub(crate) struct Conn {
    pub(crate) did: usize,
    pub(crate) joined: bool,
}

struct Worker {
    directory: Directory<Message>,
    inbox: VecDeque<Vec<PeerMessage<Message>>>,
    /// Generation of each slot, and whether it is taken.
    slots: Vec<(u32, bool)>,
}

pub(crate) struct World {
    pub(crate) options: Options,
    workers: Vec<Worker>,
    inbox_max: usize,
    batch_max: usize,
    /// Connections that are there.
    pub(crate) conns: BTreeMap<ConnToken, Conn>,
    pub(crate) letters: Vec<Letter>,
    /// The last letter by sender and receiver.
    last: BTreeMap<(ConnToken, ConnToken), usize>,
    pub(crate) refused: usize,
    pub(crate) full: usize,
}

pub(crate) fn did(n: usize) -> String {
    format!("did:key:z6Mk{n:044}")
}

impl World {
    pub(crate) fn new(options: Options, inbox_max: usize, batch_max: usize) -> Self {
        let worker = |worker| Worker {
            directory: Directory::new(Options { worker, ..options.clone() }),
            inbox: VecDeque::new(),
            slots: Vec::new(),
        };
        Self {
            workers: (0..options.workers).map(worker).collect(),
            options,
            inbox_max,
            batch_max,
            conns: BTreeMap::new(),
            letters: Vec::new(),
            last: BTreeMap::new(),
            refused: 0,
            full: 0,
        }
    }

    pub(crate) fn connect(&mut self, worker: usize, did_number: usize) -> Option<ConnToken> {
        let here = &mut self.workers[worker];
        let slot = here.slots.iter().position(|&(_, taken)| !taken).unwrap_or_else(|| {
            here.slots.push((0, false));
            here.slots.len() - 1
        });
        let token = ConnToken::new(worker as u16, slot as u32, here.slots[slot].0);
        if here.directory.join(did(did_number), token).is_err() {
            self.refused += 1;
            return None;
        }
        here.slots[slot].1 = true;
        self.conns.insert(token, Conn { did: did_number, joined: false });
        self.events(worker);
        Some(token)
    }

    pub(crate) fn disconnect(&mut self, token: ConnToken) {
        let worker = usize::from(token.worker());
        assert!(self.conns.remove(&token).is_some());
        self.free(token);
        assert!(self.workers[worker].directory.leave(token), "{token} was there");
        assert!(!self.workers[worker].directory.leave(token), "{token} leaves once");
        self.events(worker);
    }

    fn free(&mut self, token: ConnToken) {
        let slot = &mut self.workers[usize::from(token.worker())].slots[token.slot() as usize];
        *slot = (slot.0 + 1, false);
    }

    /// A connection sends a message to a DID.
    pub(crate) fn send(&mut self, sender: ConnToken, to: usize) {
        let must =
            self.conns.iter().filter(|(_, conn)| conn.joined && conn.did == to).map(|(&token, _)| token).collect();
        let number = self.letters.len();
        self.letters.push(Letter { sender, did: to, must, delivered: BTreeSet::new(), answered: None });
        let worker = usize::from(sender.worker());
        let directory = &mut self.workers[worker].directory;
        match directory.route(&did(to)) {
            Route::Local(tokens) => {
                let tokens = tokens.to_vec();
                assert!(!tokens.is_empty());
                tokens.into_iter().for_each(|token| self.deliver(worker, token, number));
            }
            Route::Absent => self.answer(worker, sender, number, Why::Absent),
            Route::Elsewhere(key) => directory.send(key, &did(to), Some(sender), Message(number)),
            Route::Service(service) => panic!("there is no service {service:?}"),
        }
        self.events(worker);
    }

    /// A worker takes up to `batches` from its inbox.
    pub(crate) fn receive(&mut self, worker: usize, batches: usize) {
        for _ in 0..batches {
            let Some(batch) = self.workers[worker].inbox.pop_front() else { return };
            for message in batch {
                self.workers[worker].directory.receive(message);
                self.events(worker);
            }
        }
    }

    /// A worker pushes what it has for the others.
    pub(crate) fn flush(&mut self, worker: usize) {
        let destinations: Vec<_> = self.workers[worker].directory.destinations().map(usize::from).collect();
        for to in destinations {
            assert_ne!(to, worker, "what a worker tells itself is not carried");
            let batch = self.workers[worker].directory.take(to as u16, self.batch_max, usize::MAX);
            if self.workers[to].inbox.len() < self.inbox_max {
                self.workers[to].inbox.push_back(batch);
            } else {
                self.full += 1;
                self.workers[worker].directory.give_back(to as u16, batch);
            }
        }
        self.bounds(worker);
    }

    fn bounds(&self, worker: usize) {
        let counters = self.workers[worker].directory.counters();
        let workers = usize::from(self.options.workers);
        assert!(counters.parked <= workers * self.options.parked_max, "{counters:?}");
        assert!(counters.parked_bytes <= workers * self.options.parked_bytes_max, "{counters:?}");
        let handed = workers * self.options.parked_bytes_max;
        assert!(counters.outbox_bytes <= workers * (self.options.outbox_bytes_max + SIZE) + handed, "{counters:?}");
    }

    fn events(&mut self, worker: usize) {
        while let Some(event) = self.workers[worker].directory.event() {
            match event {
                Event::Joined { token } => {
                    let conn = self.conns.get_mut(&token).expect("only who is there has joined");
                    assert!(!conn.joined, "{token} joined twice");
                    assert_eq!(usize::from(token.worker()), worker);
                    conn.joined = true;
                }
                Event::Refused { token, .. } => {
                    assert!(self.conns.remove(&token).is_some_and(|conn| !conn.joined));
                    self.free(token);
                    self.refused += 1;
                }
                Event::Deliver { token, payload } => self.deliver(worker, token, payload.0),
                Event::Answer { sender, did: name, return_address, why } => {
                    assert_eq!(name.as_str(), did(self.letters[return_address].did));
                    self.answer(worker, sender, return_address, why);
                }
                // Senders of the simulation do not wait.
                Event::Behind { .. } | Event::Presence { .. } => {}
                Event::Service { .. } => panic!("there is no service"),
            }
        }
    }

    fn deliver(&mut self, worker: usize, token: ConnToken, number: usize) {
        let letter = &mut self.letters[number];
        assert_eq!(usize::from(token.worker()), worker, "{token} is not of this worker");
        let conn = self.conns.get(&token).unwrap_or_else(|| panic!("letter {number} for the stale token {token}"));
        assert!(conn.joined, "letter {number} before {token} has joined");
        assert_eq!(conn.did, letter.did, "letter {number} for another DID at {token}");
        assert!(letter.delivered.insert(token), "letter {number} twice at {token}");
        assert_eq!(letter.answered, None, "letter {number} was answered and is delivered at {token}");
        let last = self.last.insert((letter.sender, token), number);
        assert!(last < Some(number), "letter {number} after {last:?} from {} at {token}", letter.sender);
        if self.options.receivers == Receivers::Newest {
            assert_eq!(letter.delivered.len(), 1, "letter {number} at one connection only");
        }
    }

    fn answer(&mut self, worker: usize, sender: ConnToken, number: usize, why: Why) {
        let letter = &mut self.letters[number];
        assert_eq!(usize::from(sender.worker()), worker);
        assert_eq!(letter.sender, sender, "the answer for letter {number} goes to another connection");
        assert!(self.conns.contains_key(&sender), "an answer for the stale token {sender}");
        assert_eq!(letter.answered.replace(why), None, "letter {number} is answered twice");
        assert!(letter.delivered.is_empty(), "letter {number} was delivered and is answered {why:?}");
        if why == Why::Absent {
            let here: Vec<_> = letter.must.iter().filter(|&token| self.conns.contains_key(token)).collect();
            assert!(here.is_empty(), "letter {number} is answered absent while {here:?} are there");
        }
    }

    /// No more faults: everything comes to rest.
    pub(crate) fn rest(&mut self) {
        for _ in 0..10_000 {
            for worker in 0..self.workers.len() {
                self.receive(worker, usize::MAX);
                self.flush(worker);
            }
            let carried = self.workers.iter().all(|worker| worker.inbox.is_empty());
            if carried && self.workers.iter().all(|worker| worker.directory.counters().outbox == 0) {
                return;
            }
        }
        panic!("the queues do not drain");
    }

    pub(crate) fn sum(&self, of: impl Fn(&amp_relay::relay::directory::Counters) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(&worker.directory.counters())).sum()
    }

    /// What must be true when everything has come to rest.
    pub(crate) fn check(&self) {
        assert_eq!(self.sum(|counters| counters.parked as u64), 0, "something still waits for a take-over");
        assert_eq!(self.sum(|counters| counters.parked_bytes as u64), 0);
        assert_eq!(self.sum(|counters| counters.forwarded), 0, "a take-over left something behind");
        assert!(self.conns.values().all(|conn| conn.joined), "somebody still waits to join");
        let mut here = BTreeMap::<String, u32>::new();
        self.conns.values().for_each(|conn| *here.entry(did(conn.did)).or_default() += 1);
        for worker in &self.workers {
            let agents: BTreeMap<_, _> =
                worker.directory.agents().map(|agent| (agent.did.to_owned(), agent.connections)).collect();
            assert_eq!(agents, here, "who is here");
            assert_eq!(worker.directory.counters().entries, here.len(), "entries of DIDs that have gone");
        }
        self.check_letters();
    }

    fn check_letters(&self) {
        let (mut silent, mut wronged) = (0, 0);
        // The first letter that a receiver missed, by sender and receiver.
        let mut missed = BTreeMap::new();
        for (number, letter) in self.letters.iter().enumerate() {
            if letter.answered.is_some() {
                continue;
            }
            if letter.delivered.is_empty() {
                wronged += u64::from(self.conns.contains_key(&letter.sender));
                silent += 1;
                continue;
            }
            if self.options.receivers == Receivers::Newest {
                continue;
            }
            for &token in &letter.must {
                let pair = (letter.sender, token);
                if !letter.delivered.contains(&token) {
                    assert!(!self.conns.contains_key(&token), "letter {number} is lost for {token}");
                    missed.entry(pair).or_insert(number);
                } else if let Some(lost) = missed.get(&pair) {
                    panic!("letter {lost} is lost for {token}, {number} behind it is not");
                }
            }
        }
        let dropped = self.sum(|counters| counters.answers_dropped);
        assert!(wronged <= dropped, "{wronged} letters are neither delivered nor answered, {dropped} answers dropped");
        let stale = self.sum(|counters| counters.answers_stale + counters.answers_dropped);
        assert_eq!(stale, silent, "letters without a trace, and answers without a reader");
    }
}

/// A world drawn from a seed, and whether its bounds are tight.
pub(crate) fn world(rng: &mut Rng) -> (World, bool) {
    let workers = 1 + rng.below(5) as u16;
    let mut options = Options::new(0, workers, rng.next());
    if rng.chance(25) {
        options.receivers = Receivers::Newest;
    }
    let tight = rng.chance(30);
    if tight {
        options.outbox_max = 4 + rng.below(8) as usize;
        options.outbox_bytes_max = SIZE * (2 + rng.below(6) as usize);
        options.parked_max = 1 + rng.below(4) as usize;
        options.parked_bytes_max = SIZE * (1 + rng.below(4) as usize);
        options.connections_max = 3;
        options.dids_max = 2;
    }
    let (inbox_max, batch_max) = (1 + rng.below(4) as usize, 1 + rng.below(8) as usize);
    (World::new(options, inbox_max, batch_max), tight)
}
