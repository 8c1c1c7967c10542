//! The directory of one worker: where each DID is connected, and how the workers' directories agree. Owns names,
//! connections by DID, ownership, and messages on their way between workers. Knows no wire format (a message is a
//! [`Payload`]), touches no thread, reads no clock: the shell calls it and carries its [`PeerMessage`]s.
//!
//! # Rules
//!
//! - **Home.** Every DID has a home: the worker `hash(DID) mod N`, for ever. The home keeps the true list of the DID's
//!   connections, in the order they came, and decides which worker owns the DID. It changes the owner one step at a
//!   time.
//! - **Owner.** Everything for a DID goes through its owner, which serializes it: the worker of the newest connection;
//!   without a connection, the home. A replica on every worker names the owner; a replica without an entry names the
//!   home, and only the home, owning a DID without connections, ever says "absent".
//! - **Receivers.** Every connection of the DID gets every message, once ([`Receivers::All`]): a message is never
//!   lost to the connection that stays because another one, under the same DID, came and went. The protocol asks
//!   receivers to take duplicates (by sender and id) as it is. With [`Receivers::Newest`] a message goes to the newest
//!   connection alone; what was handed to a connection that is about to leave is then lost to the others.
//! - **Handed.** A message is handed when a connection *of the owner's worker* took it: that worker knows what lives.
//!   Copies go to the other workers at the same moment, all or none: if one of their queues is full the message is
//!   refused as a whole ([`Why::Busy`]). An owner without connections of its own keeps what comes (bounded) until the
//!   home has named the next owner, and hands it over.
//! - **Take-over.** The home grants the DID to the next owner; that one tells every worker, and each of them tells the
//!   former owner that it gets no more (a fence, behind everything it got). Until all fences are in, the former owner
//!   delivers on; the next one keeps what comes. Then the former owner hands over what it kept, the workers it sent
//!   copies to say that they have them, and the next owner goes on: first what was handed over, then what came
//!   meanwhile, then live. So order holds for each sender's connection and each receiver's.
//! - **Joined.** A connection is here when [`Event::Joined`] says so (two or three hops after [`Directory::join`]), and
//!   gets everything that is sent from then on. That is the moment to say HELLO_ACK and, one day, the backlog.
//! - **Stale.** A message for a DID that this worker does not own goes on to the owner its replica names, a bounded
//!   number of times. This should not happen after a take-over; the rule is a safeguard. A connection that has left gets
//!   nothing, even from a worker that still lists it; an answer to a sender that has left is counted.
//!
//! # How a shell drives it
//!
//! Messages between workers must arrive in order for each pair of workers. Control is never refused; messages are, when the queue
//! towards a worker is full. Events are to be taken after every call, before the next [`Directory::route`]: what is
//! handed over without a call must not pass what waits as an event. A sender that has not joined gets no answers, so a
//! peer's messages are looked at after its `Joined` only. [`Directory::leave`] is called as soon as a connection takes
//! nothing any more, not only when its socket is closed.

mod counters;
mod home;
mod name;
mod owner;
mod peer_message;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

pub use counters::Counters;
use home::Home;
pub use name::Did;
use name::{Named, Table, hash};
use owner::Work;
pub use peer_message::PeerMessage;
use peer_message::{DirectoryMsg, InFlight, Outbox};
use smallvec::SmallVec;

use crate::base::ConnToken;

/// What the directory carries without looking at it.
pub trait Payload: Clone {
    /// What it takes to answer its sender: an id, for instance.
    type ReturnAddress: std::fmt::Debug;

    /// Bytes that it holds, for the bounds.
    fn size(&self) -> usize;

    /// The return_address for an answer.
    fn return_address(&self) -> Self::ReturnAddress;
}

/// Which connections of a DID get a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Receivers {
    /// All of them.
    #[default]
    All,
    /// The newest one.
    Newest,
}

/// Settings; all workers of a process must have the same, but for `worker`.
#[derive(Clone, Debug)]
pub struct Options {
    /// This worker.
    pub worker: u16,
    /// How many workers there are.
    pub workers: u16,
    /// The secret of the name hash: random, the same on every worker.
    pub secret: u64,
    /// Which connections of a DID get a message.
    pub receivers: Receivers,
    /// Most DIDs with connections that one worker is home of. No worker ever has more than `workers` times as many
    /// entries, and those of its own connections and services.
    pub dids_max: usize,
    /// Most connections under one DID.
    pub connections_max: usize,
    /// Most messages that wait on this worker for a take-over.
    pub parked_max: usize,
    /// Most bytes of such messages.
    pub parked_bytes_max: usize,
    /// Messages in the queue towards one worker above which messages are refused. Four times as many: joins too, and
    /// answers are dropped and counted.
    pub outbox_max: usize,
    /// The same in bytes.
    pub outbox_bytes_max: usize,
    /// How often a message goes on to another worker before it is given up.
    pub hops_max: u8,
}

impl Options {
    /// The defaults for a worker of so many.
    pub fn new(worker: u16, workers: u16, secret: u64) -> Self {
        Self {
            worker,
            workers,
            secret,
            receivers: Receivers::All,
            dids_max: 1 << 20,
            connections_max: 64,
            parked_max: 65_536,
            parked_bytes_max: 64 << 20,
            outbox_max: 65_536,
            outbox_bytes_max: 64 << 20,
            hops_max: 4,
        }
    }
}

/// A local service, by the number that the shell gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceId(pub u32);

/// Why a message was not handed over, or a connection not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No connection is under the DID.
    Absent,
    /// A queue on the way, or the room for what waits, is full.
    Busy,
    /// It went from worker to worker too often.
    Lost,
    /// The DID is a service of this relay.
    Service,
    /// There are too many DIDs, or connections under this one.
    Full,
    /// A receiver is there and cannot take it, for this reason.
    Unfit(&'static str),
}

/// Where a message for a DID goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// To these connections of this worker, now, and to no others: hand it to them.
    Local(&'a [ConnToken]),
    /// To this service: call it.
    Service(ServiceId),
    /// Somewhere else, or not yet: make the payload owned and call [`Directory::send`].
    Elsewhere(Key),
    /// The DID is absent: answer the sender.
    Absent,
}

/// A DID's hash, so that [`Directory::send`] need not hash it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

/// What the shell is to do. Events come in order: what is delivered after `Joined` is sent after `Joined`.
#[derive(Debug)]
pub enum Event<M: Payload> {
    /// The connection gets everything that is sent from now on.
    Joined {
        /// The connection.
        token: ConnToken,
    },
    /// The connection cannot have the DID. It is not in the directory any more.
    Refused {
        /// The connection.
        token: ConnToken,
        /// Why.
        why: Why,
    },
    /// Hand this to a connection of this worker, which is there.
    Deliver {
        /// The connection.
        token: ConnToken,
        /// The message.
        payload: M,
    },
    /// Hand this to a service.
    Service {
        /// Which.
        service: ServiceId,
        /// The sender, which is told of a failure.
        sender: Option<ConnToken>,
        /// The message.
        payload: M,
    },
    /// A message waits for a worker that takes less than it is sent: its sender, of any worker, is to wait as well, until
    /// [`Directory::carried`] names the worker.
    Behind {
        /// The worker that is behind.
        worker: u16,
        /// The sender.
        sender: ConnToken,
    },
    /// Tell a connection of this worker, which is there, that its message was not handed over.
    Answer {
        /// The connection.
        sender: ConnToken,
        /// The recipient of the message.
        did: Did,
        /// What the payload gave for this.
        return_address: M::ReturnAddress,
        /// Why.
        why: Why,
    },
    /// How many connections a DID has, on all workers. None: it has gone.
    Presence {
        /// The DID.
        did: Did,
        /// How many.
        connections: u32,
    },
}

/// A DID with connections, or a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent<'a> {
    /// The DID.
    pub did: &'a str,
    /// Connections on all workers.
    pub connections: u32,
    /// The service, if it is one.
    pub service: Option<ServiceId>,
}

/// Connections under one DID: mostly one, which then needs no memory of its own.
type Tokens = SmallVec<[ConnToken; 1]>;

/// What a worker knows of a DID.
struct Entry<M: Payload> {
    did: Did,
    /// Connections of this worker: those that get messages, oldest first, and behind them those that wait for `Joined`.
    here: Tokens,
    /// What this worker knows as the home.
    home: Option<Home>,
    /// What waits at this worker, as the owner, or is taken over.
    work: Option<Box<Work<M>>>,
    /// Connections on all workers, as the home has said.
    connections: u32,
    /// Those of this worker among them that have left since.
    leaving: u32,
    /// How many of those that are here get messages.
    joined: u32,
    service: Option<ServiceId>,
    /// The worker that messages for the DID are sent to.
    owner: u16,
    /// This worker is the owner, or is taking over.
    owns: bool,
    /// Only connections of this worker get a message, and nothing waits before it.
    direct: bool,
}

impl<M: Payload> Entry<M> {
    /// Connections of this worker that get messages, oldest first.
    fn joined(&self) -> &[ConnToken] {
        &self.here[..self.joined as usize]
    }

    /// Takes a connection of this worker out.
    fn remove_member(&mut self, token: ConnToken) {
        let Some(at) = self.here.iter().position(|&other| other == token) else { return };
        self.here.remove(at);
        if at < self.joined as usize {
            self.joined -= 1;
        }
        // Shrinks back to in-line storage.
        if self.here.len() == 1 {
            self.here.shrink_to_fit();
        }
    }

    /// A connection that waits gets messages from now on. False: it does not wait.
    fn seat(&mut self, token: ConnToken) -> bool {
        let joined = self.joined as usize;
        let Some(at) = self.here[joined..].iter().position(|&other| other == token) else { return false };
        // Those that wait before it keep their order.
        self.here[joined..=joined + at].rotate_right(1);
        self.joined += 1;
        true
    }
}

impl<M: Payload> Named for Entry<M> {
    fn did(&self) -> &Did {
        &self.did
    }
}

/// The connection in a slot of this worker. Its number there is its place.
#[derive(Clone, Copy)]
struct Membership {
    generation: u32,
    /// The entry, or [`NO_ENTRY`].
    id: u32,
}

const NO_ENTRY: u32 = u32::MAX;
/// A slot without a connection in the directory.
const EMPTY: Membership = Membership { generation: 0, id: NO_ENTRY };

/// One worker's part of the directory.
pub struct Directory<M: Payload> {
    options: Options,
    table: Table<Entry<M>>,
    /// By slot.
    seats: Vec<Membership>,
    /// By worker; our own is a queue that is empty whenever a public function returns.
    outboxes: Vec<Outbox<M>>,
    events: VecDeque<Event<M>>,
    /// DIDs that this worker is home of.
    homes: usize,
    epoch: u64,
    /// Calls that may have changed where messages go.
    changes: u64,
    counters: Counters,
}

impl<M: Payload> Directory<M> {
    /// An empty directory.
    pub fn new(options: Options) -> Self {
        debug_assert!(options.worker < options.workers);
        let outboxes = (0..options.workers).map(|_| Outbox::new()).collect();
        Self {
            options,
            table: Table::new(),
            seats: Vec::new(),
            outboxes,
            events: VecDeque::new(),
            homes: 0,
            epoch: 0,
            changes: 0,
            counters: Counters::default(),
        }
    }

    /// Where a message for `did` goes. The DID must be bare: no fragment, query or path. Allocates nothing.
    pub fn route(&self, did: &str) -> Route<'_> {
        let hash = hash(self.options.secret, did);
        let Some(id) = self.table.find(hash, did) else {
            return if self.home_of(hash) == self.options.worker { Route::Absent } else { Route::Elsewhere(Key(hash)) };
        };
        let entry = &self.table[id];
        if entry.direct {
            return Route::Local(self.receivers(entry));
        }
        if let Some(service) = entry.service {
            return Route::Service(service);
        }
        if self.is_absent(entry) { Route::Absent } else { Route::Elsewhere(Key(hash)) }
    }

    /// The connections of [`Route::Local`], if the DID is that of the last lookup: a sender's messages often go where
    /// the one before went. It need not be bare: a DID that is not bare is not found.
    #[inline]
    pub fn route_again(&self, did: &str) -> Option<&[ConnToken]> {
        self.table.recent(did).filter(|entry| entry.direct).map(|entry| self.receivers(entry))
    }

    /// What [`route`](Self::route) said still holds while this is the same.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Sends a message to the receivers of the DID. What becomes of it is told by events, here or on other workers: it
    /// is handed to connections or a service, or the sender gets an answer.
    pub fn send(&mut self, key: Key, did: &str, sender: Option<ConnToken>, payload: M) {
        self.changes += 1;
        let parcel = InFlight { sender, payload };
        let Some(id) = self.table.find(key.0, did) else {
            self.counters.misses += 1;
            self.forward(Did::new(key.0, did), self.home_of(key.0), 0, parcel);
            return self.pump();
        };
        self.arrive(id, 0, parcel);
        self.pump();
    }

    /// A connection of this worker has proved the DID; the DID's text is shared if it can be. Either `Joined` or
    /// `Refused` follows, unless it leaves before.
    ///
    /// # Errors
    /// Why not; nothing was changed.
    pub fn join(&mut self, did: impl AsRef<str> + Into<Arc<str>>, token: ConnToken) -> Result<(), Why> {
        self.changes += 1;
        let hash = hash(self.options.secret, did.as_ref());
        debug_assert_eq!(token.worker(), self.options.worker);
        let slot = token.slot() as usize;
        if self.is_choked() {
            return Err(Why::Busy);
        }
        let known = self.table.find(hash, did.as_ref());
        if known.is_some_and(|id| self.table[id].service.is_some()) {
            return Err(Why::Service);
        }
        if self.seats.get(slot).is_some_and(|seat| seat.id != NO_ENTRY) {
            debug_assert!(false, "a slot is one connection's, and a connection has one DID");
            return Err(Why::Full);
        }
        let id = known.unwrap_or_else(|| self.intern(Did::new(hash, did)));
        if self.seats.len() <= slot {
            self.seats.resize(slot + 1, EMPTY);
        }
        self.seats[slot] = Membership { generation: token.generation(), id };
        self.table[id].here.push(token);
        let did = self.table[id].did.clone();
        self.post(self.home_of(hash), DirectoryMsg::Join { did, token });
        self.pump();
        Ok(())
    }

    /// A connection of this worker takes nothing any more. To be called as soon as that is known (at the latest when it
    /// is closed): what is delivered to it until then is taken for handed. Says whether it was there.
    pub fn leave(&mut self, token: ConnToken) -> bool {
        self.changes += 1;
        let Some(id) = self.seat(token) else { return false };
        self.seats[token.slot() as usize] = EMPTY;
        let entry = &mut self.table[id];
        entry.remove_member(token);
        entry.leaving += 1;
        let did = entry.did.clone();
        self.refresh(id);
        self.forget(id);
        self.post(self.home_of(did.hash()), DirectoryMsg::Leave { did, token });
        self.pump();
        true
    }

    /// Makes a DID a service. It must be done on every worker, before the DID is made known: workers that do not know
    /// it yet say that it is absent.
    ///
    /// # Errors
    /// It has connections.
    pub fn register_service(&mut self, did: &str, service: ServiceId) -> Result<(), Why> {
        self.changes += 1;
        let hash = hash(self.options.secret, did);
        let id = self.table.find(hash, did).unwrap_or_else(|| self.intern(Did::new(hash, did)));
        let entry = &mut self.table[id];
        if entry.connections > 0 || entry.owns || !entry.here.is_empty() {
            return Err(Why::Full);
        }
        entry.service = Some(service);
        Ok(())
    }

    /// Ends a service. Says whether there was one.
    pub fn remove_service(&mut self, did: &str) -> bool {
        self.changes += 1;
        let Some(id) = self.table.find(hash(self.options.secret, did), did) else { return false };
        let was = self.table[id].service.take().is_some();
        self.forget(id);
        was
    }

    /// A message came from another worker.
    pub fn receive(&mut self, message: PeerMessage<M>) {
        self.changes += 1;
        self.handle(message.0);
        self.pump();
    }

    /// What the shell is to do next.
    pub fn event(&mut self) -> Option<Event<M>> {
        self.events.pop_front()
    }

    /// Workers for which something waits to be carried.
    pub fn destinations(&self) -> impl Iterator<Item = u16> {
        (0..self.options.workers).filter(|&worker| self.outboxes[usize::from(worker)].len() > 0)
    }

    /// Takes up to `max` messages for a worker, and none behind the one with which they have `bytes_max` bytes. They must
    /// arrive there in this order, after those taken before.
    pub fn take(&mut self, worker: u16, max: usize, bytes_max: usize) -> Vec<PeerMessage<M>> {
        self.outboxes.get_mut(usize::from(worker)).map_or_else(Vec::new, |outbox| outbox.take(max, bytes_max))
    }

    /// The shell has carried all that other workers take now. The next of them that was behind and has caught up; to be
    /// called until there is none. From then on, whatever is sent to one that is behind makes [`Event::Behind`].
    pub fn carried(&mut self) -> Option<u16> {
        (0..self.options.workers).find(|&worker| self.outboxes[usize::from(worker)].carried())
    }

    /// Puts the messages that were taken last back: the worker's inbox was full.
    pub fn give_back(&mut self, worker: u16, batch: Vec<PeerMessage<M>>) {
        if let Some(outbox) = self.outboxes.get_mut(usize::from(worker)) {
            outbox.give_back(batch);
        }
    }

    /// The DIDs with connections and the services, as far as this worker has heard, in no order.
    pub fn agents(&self) -> impl Iterator<Item = Agent<'_>> {
        self.table.iter().filter(|entry| entry.connections > 0 || entry.service.is_some()).map(|entry| Agent {
            did: entry.did.as_str(),
            connections: entry.connections,
            service: entry.service,
        })
    }

    /// Connections under a DID, on all workers, as far as this worker has heard.
    pub fn connections(&self, did: &str) -> u32 {
        self.table.find(hash(self.options.secret, did), did).map_or(0, |id| self.table[id].connections)
    }

    /// The DID of a connection of this worker.
    pub fn did_of(&self, token: ConnToken) -> Option<&Did> {
        self.seat(token).map(|id| &self.table[id].did)
    }

    /// What happened so far, and what waits.
    pub fn counters(&self) -> Counters {
        Counters {
            entries: self.table.len(),
            outbox: self.outboxes.iter().map(Outbox::len).sum(),
            outbox_bytes: self.outboxes.iter().map(Outbox::bytes).sum(),
            ..self.counters
        }
    }
}

/// What owner and home share.
impl<M: Payload> Directory<M> {
    fn home_of(&self, hash: u64) -> u16 {
        ((u64::from((hash >> 16) as u32) * u64::from(self.options.workers)) >> 32) as u16
    }

    /// The entry of a connection of this worker that is in the directory.
    fn seat(&self, token: ConnToken) -> Option<u32> {
        let seat = self.seats.get(token.slot() as usize)?;
        let is_its =
            seat.id != NO_ENTRY && seat.generation == token.generation() && token.worker() == self.options.worker;
        is_its.then_some(seat.id)
    }

    fn find(&self, did: &Did) -> Option<u32> {
        self.table.find(did.hash(), did.as_str())
    }

    fn intern(&mut self, did: Did) -> u32 {
        let owner = self.home_of(did.hash());
        self.table.insert(Entry {
            did,
            here: Tokens::new(),
            home: None,
            work: None,
            connections: 0,
            leaving: 0,
            joined: 0,
            service: None,
            owner,
            owns: false,
            direct: false,
        })
    }

    fn interned(&mut self, did: &Did) -> u32 {
        self.find(did).unwrap_or_else(|| self.intern(did.clone()))
    }

    /// Removes an entry that says nothing that its absence would not say.
    fn forget(&mut self, id: u32) {
        let entry = &self.table[id];
        let here = !entry.here.is_empty();
        let busy = entry.owns || entry.home.is_some() || entry.service.is_some() || entry.connections > 0;
        if !here && !busy && entry.owner == self.home_of(entry.did.hash()) {
            self.table.remove(id);
        }
    }

    fn is_choked(&self) -> bool {
        self.outboxes.iter().any(|outbox| outbox.len() / 4 >= self.options.outbox_max)
    }

    fn has_room(&self, worker: u16) -> bool {
        let outbox = &self.outboxes[usize::from(worker)];
        outbox.len() < self.options.outbox_max && outbox.bytes() < self.options.outbox_bytes_max
    }

    fn post(&mut self, worker: u16, word: DirectoryMsg<M>) {
        self.outboxes[usize::from(worker)].push(word);
    }

    /// Has the sender of what was posted wait for a worker that is behind.
    fn wait_for(&mut self, worker: u16, sender: Option<ConnToken>) {
        if let Some(sender) = sender.filter(|_| self.outboxes[usize::from(worker)].is_behind()) {
            self.events.push_back(Event::Behind { worker, sender });
        }
    }

    fn tell_all(&mut self, word: impl Fn() -> DirectoryMsg<M>) {
        (0..self.options.workers).for_each(|worker| self.post(worker, word()));
    }

    /// Handles what this worker told itself.
    fn pump(&mut self) {
        let me = usize::from(self.options.worker);
        while let Some(message) = self.outboxes[me].take(1, usize::MAX).pop() {
            self.handle(message.0);
        }
    }

    fn handle(&mut self, word: DirectoryMsg<M>) {
        match word {
            DirectoryMsg::Data { did, hops, parcel } => match self.find(&did) {
                Some(id) => self.arrive(id, hops, parcel),
                None => self.forward(did.clone(), self.home_of(did.hash()), hops, parcel),
            },
            DirectoryMsg::Copy { did, payload } => self.on_copy(&did, payload),
            DirectoryMsg::Answer { did, sender, return_address, why } => {
                self.on_answer(did, sender, return_address, why)
            }
            DirectoryMsg::Join { did, token } => self.on_join(&did, token),
            DirectoryMsg::Leave { did, token } => self.on_leave(&did, token),
            DirectoryMsg::Refuse { did, token, why } => self.on_refuse(&did, token, why),
            DirectoryMsg::Grant { did, epoch, from, members } => self.on_grant(&did, epoch, from, members),
            DirectoryMsg::Move { did, epoch, from, to } => self.on_move(&did, epoch, from, to),
            DirectoryMsg::Fence { did, epoch, to } => self.on_fence(&did, epoch, to),
            DirectoryMsg::Drain { did, epoch, to } => self.post(to, DirectoryMsg::Drained { did, epoch }),
            DirectoryMsg::Drained { did, epoch } => self.on_drained(&did, epoch),
            DirectoryMsg::Handover { did, epoch, parked, drains } => self.on_handover(&did, epoch, parked, drains),
            DirectoryMsg::Done { did } => self.on_done(&did),
            DirectoryMsg::Members { did, members } => self.on_members(&did, &members),
            DirectoryMsg::Confirm { did, token } => self.on_confirm(&did, token),
            DirectoryMsg::Count { did, connections, left } => self.on_count(&did, connections, left),
        }
    }

    /// A message that was to be delivered to a connection of this worker cannot be: its sender, on whichever worker it is,
    /// hears so by [`Event::Answer`].
    pub fn undeliverable(&mut self, to: ConnToken, sender: Option<ConnToken>, payload: M, why: Why) {
        let Some(did) = self.did_of(to).cloned() else { return };
        self.answer(did, InFlight { sender, payload }, why);
    }

    /// A connection of this worker takes nothing any more, and so not this message: it has left. Where it was the last
    /// one under its DID, the message's sender is told that the DID is absent.
    pub fn gone_before(&mut self, to: ConnToken, sender: Option<ConnToken>, payload: M) {
        let is_last = self.seat(to).is_some_and(|id| {
            let entry = &self.table[id];
            entry.here.len() == 1 && entry.connections <= entry.leaving + 1
        });
        if is_last {
            self.undeliverable(to, sender, payload, Why::Absent);
        }
        self.leave(to);
    }

    /// Tells the sender that its message was not handed over.
    fn answer(&mut self, did: Did, parcel: InFlight<M>, why: Why) {
        match why {
            Why::Absent => self.counters.absent += 1,
            Why::Busy => self.counters.busy += 1,
            _ => self.counters.lost += 1,
        }
        let Some(sender) = parcel.sender else { return };
        let return_address = parcel.payload.return_address();
        let worker = sender.worker();
        if worker == self.options.worker {
            return self.on_answer(did, sender, return_address, why);
        }
        match self.outboxes.get(usize::from(worker)) {
            Some(outbox) if outbox.len() / 4 < self.options.outbox_max => {
                self.post(worker, DirectoryMsg::Answer { did, sender, return_address, why });
            }
            _ => self.counters.answers_dropped += 1,
        }
    }

    fn on_answer(&mut self, did: Did, sender: ConnToken, return_address: M::ReturnAddress, why: Why) {
        if self.seat(sender).is_some() {
            self.events.push_back(Event::Answer { sender, did, return_address, why });
        } else {
            self.counters.answers_stale += 1;
        }
    }

    fn on_count(&mut self, did: &Did, connections: u32, left: Option<ConnToken>) {
        let id = self.interned(did);
        let entry = &mut self.table[id];
        entry.connections = connections;
        if left.is_some_and(|token| token.worker() == self.options.worker) {
            entry.leaving = entry.leaving.saturating_sub(1);
        }
        self.events.push_back(Event::Presence { did: did.clone(), connections });
        self.forget(id);
    }
}
