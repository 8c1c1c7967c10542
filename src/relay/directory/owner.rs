//! The owner's part: hands messages to connections, keeps them while no connection here can take them, takes over and
//! hands over. Does not decide ownership.

use std::{collections::VecDeque, mem};

use super::{
    Directory, Entry, Event, Payload, Receivers, Tokens, Why,
    name::Did,
    peer_message::{DirectoryMsg, InFlight},
};
use crate::base::ConnToken;

/// What the owner of a DID has to do, or to remember, beyond handing messages over. Mostly there is nothing: a DID's
/// connections are on one worker, and it stays the owner.
pub(super) struct Work<M: Payload> {
    /// Of the take-over that made this worker the owner, if it is remembered.
    epoch: u64,
    /// Messages that no connection here can take yet.
    parked: VecDeque<InFlight<M>>,
    /// Other workers that have connections of the DID.
    others: Vec<u16>,
    /// Other workers that were sent copies since this one owns the DID.
    copied: Vec<u16>,
    /// Workers that have said that they send nothing more.
    fences: u16,
    /// None: it owns.
    taking: Option<Taking<M>>,
}

/// A take-over that is not done.
struct Taking<M> {
    members: Tokens,
    /// What the former owner kept, and how many workers will say that its copies are there.
    handed: Option<(VecDeque<InFlight<M>>, u16)>,
    drained: u16,
}

impl<M: Payload> Default for Work<M> {
    fn default() -> Self {
        Self { epoch: 0, parked: VecDeque::new(), others: Vec::new(), copied: Vec::new(), fences: 0, taking: None }
    }
}

impl<M: Payload> Work<M> {
    /// Owns, and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.takes_nothing_over() && self.fences == 0
    }

    /// Owns, and nothing waits that a message could pass.
    fn takes_nothing_over(&self) -> bool {
        self.taking.is_none() && self.parked.is_empty()
    }

    /// It says nothing that its absence would not say.
    fn is_nothing(&self) -> bool {
        self.is_idle() && self.others.is_empty() && self.copied.is_empty()
    }
}

impl<M: Payload> Entry<M> {
    fn takes_over(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.taking.is_some())
    }

    /// This worker owns the DID, and may hand the next message over before anything else.
    fn is_ready(&self) -> bool {
        self.owns && self.joined > 0 && self.work.as_ref().is_none_or(|work| work.takes_nothing_over())
    }

    /// Other workers that have connections of the DID.
    fn others(&self) -> &[u16] {
        self.work.as_ref().map_or(&[], |work| &work.others)
    }
}

/// Messages.
impl<M: Payload> Directory<M> {
    /// Whether this worker may say that the DID is absent.
    pub(super) fn is_absent(&self, entry: &Entry<M>) -> bool {
        match (entry.owns, &entry.home) {
            (false, None) => entry.owner == self.options.worker,
            (true, Some(home)) => !entry.takes_over() && home.members.is_empty() && !home.moving,
            _ => false,
        }
    }

    /// Those of this worker's connections that get a message.
    pub(super) fn receivers<'a>(&self, entry: &'a Entry<M>) -> &'a [ConnToken] {
        match self.options.receivers {
            Receivers::All => entry.joined(),
            Receivers::Newest => entry.joined().last().map_or(&[], std::slice::from_ref),
        }
    }

    /// A message for a DID that has an entry.
    pub(super) fn arrive(&mut self, id: u32, hops: u8, parcel: InFlight<M>) {
        let entry = &self.table[id];
        if let Some(service) = entry.service {
            let InFlight { sender, payload } = parcel;
            self.events.push_back(Event::Service { service, sender, payload });
        } else if entry.owns {
            self.dispatch(id, parcel);
        } else {
            self.forward(entry.did.clone(), entry.owner, hops, parcel);
        }
    }

    /// Sends a message to another worker.
    pub(super) fn forward(&mut self, did: Did, to: u16, hops: u8, parcel: InFlight<M>) {
        if to == self.options.worker {
            return self.answer(did, parcel, Why::Absent);
        }
        if hops > 0 {
            self.counters.forwarded += 1;
        }
        if hops >= self.options.hops_max {
            return self.answer(did, parcel, Why::Lost);
        }
        if !self.has_room(to) {
            return self.answer(did, parcel, Why::Busy);
        }
        self.counters.crossed += 1;
        let sender = parcel.sender;
        self.post(to, DirectoryMsg::Data { did, hops: hops + 1, parcel });
        self.wait_for(to, sender);
    }

    /// The owner's decision about a message: hand it over, keep it, or answer.
    fn dispatch(&mut self, id: u32, parcel: InFlight<M>) {
        let entry = &self.table[id];
        if !entry.owns {
            return;
        }
        let did = entry.did.clone();
        if entry.is_ready() {
            let all = self.options.receivers == Receivers::All;
            if all && !entry.others().iter().all(|&worker| self.has_room(worker)) {
                return self.answer(did, parcel, Why::Busy);
            }
            if all && !entry.others().is_empty() {
                self.copy(id, &did, &parcel);
            }
            self.deliver(id, parcel.payload);
        } else if self.is_absent(entry) {
            self.answer(did, parcel, Why::Absent);
        } else {
            self.park(id, parcel);
        }
    }

    fn copy(&mut self, id: u32, did: &Did, parcel: &InFlight<M>) {
        let Some(work) = &mut self.table[id].work else { return };
        let others = mem::take(&mut work.others);
        for worker in &others {
            if !work.copied.contains(worker) {
                work.copied.push(*worker);
            }
        }
        for &worker in &others {
            self.counters.crossed += 1;
            self.post(worker, DirectoryMsg::Copy { did: did.clone(), payload: parcel.payload.clone() });
            self.wait_for(worker, parcel.sender);
        }
        if let Some(work) = &mut self.table[id].work {
            work.others = others;
        }
    }

    fn deliver(&mut self, id: u32, payload: M) {
        let entry = &self.table[id];
        let Some((&last, others)) = self.receivers(entry).split_last() else { return };
        let copies = others.iter().map(|&token| Event::Deliver { token, payload: payload.clone() });
        self.counters.delivered += others.len() as u64 + 1;
        self.events.extend(copies);
        self.events.push_back(Event::Deliver { token: last, payload });
    }

    pub(super) fn on_copy(&mut self, did: &Did, payload: M) {
        match self.find(did) {
            Some(id) if self.table[id].joined > 0 => self.deliver(id, payload),
            _ => self.counters.copies_stale += 1,
        }
    }

    fn park(&mut self, id: u32, parcel: InFlight<M>) {
        let size = parcel.payload.size();
        let entry = &mut self.table[id];
        let full = self.counters.parked >= self.options.parked_max
            || self.counters.parked_bytes.saturating_add(size) > self.options.parked_bytes_max;
        if full || !entry.owns {
            let did = entry.did.clone();
            return self.answer(did, parcel, Why::Busy);
        }
        entry.work.get_or_insert_default().parked.push_back(parcel);
        self.counters.parked += 1;
        self.counters.parked_bytes += size;
    }

    fn unpark(&mut self, parked: &VecDeque<InFlight<M>>) {
        self.counters.parked -= parked.len();
        self.counters.parked_bytes -= parked.iter().map(|parcel| parcel.payload.size()).sum::<usize>();
    }

    /// Decides anew about what waits. Each message goes the same way as those before it, so order holds.
    fn replay(&mut self, id: u32) {
        if let Some(work) = &mut self.table[id].work
            && work.taking.is_none()
        {
            let parked = mem::take(&mut work.parked);
            self.unpark(&parked);
            parked.into_iter().for_each(|parcel| self.dispatch(id, parcel));
        }
        self.table[id].work.take_if(|work| work.is_nothing());
        self.refresh(id);
    }

    /// Finds out anew whether messages can be handed over without a call.
    pub(super) fn refresh(&mut self, id: u32) {
        let all = self.options.receivers == Receivers::All;
        let entry = &mut self.table[id];
        entry.direct = entry.is_ready() && (entry.others().is_empty() || !all);
    }
}

/// Take-over.
impl<M: Payload> Directory<M> {
    /// The home says: take over.
    pub(super) fn on_grant(&mut self, did: &Did, epoch: u64, from: u16, members: Tokens) {
        let id = self.interned(did);
        let entry = &mut self.table[id];
        debug_assert!(!entry.owns && entry.work.is_none(), "a worker takes over from another one");
        let taking = Some(Taking { members, handed: None, drained: 0 });
        entry.owns = true;
        entry.work = Some(Box::new(Work { epoch, taking, ..Work::default() }));
        self.refresh(id);
        self.counters.takeovers += 1;
        let to = self.options.worker;
        self.tell_all(|| DirectoryMsg::Move { did: did.clone(), epoch, from, to });
    }

    /// The next owner says: send to me. The former owner is told that nothing more comes.
    pub(super) fn on_move(&mut self, did: &Did, epoch: u64, from: u16, to: u16) {
        let id = self.interned(did);
        debug_assert_eq!(self.table[id].owner, from, "moves of one DID come one after the other");
        self.table[id].owner = to;
        self.post(from, DirectoryMsg::Fence { did: did.clone(), epoch, to });
        self.forget(id);
    }

    /// A worker says that it sends nothing more. When all have said so, the DID is handed over.
    pub(super) fn on_fence(&mut self, did: &Did, epoch: u64, to: u16) {
        let workers = self.options.workers;
        let Some(id) = self.find(did) else { return };
        let entry = &mut self.table[id];
        if !entry.owns {
            return;
        }
        let work = entry.work.get_or_insert_default();
        debug_assert!(work.taking.is_none() && work.epoch < epoch, "an owner hands over what it has taken over");
        work.fences += 1;
        if work.fences < workers {
            return;
        }
        let (parked, copied) = (mem::take(&mut work.parked), mem::take(&mut work.copied));
        entry.owns = false;
        entry.work = None;
        self.unpark(&parked);
        self.refresh(id);
        for &worker in &copied {
            self.post(worker, DirectoryMsg::Drain { did: did.clone(), epoch, to });
        }
        self.post(to, DirectoryMsg::Handover { did: did.clone(), epoch, parked, drains: copied.len() as u16 });
        self.forget(id);
    }

    pub(super) fn on_drained(&mut self, did: &Did, epoch: u64) {
        self.take_step(did, epoch, |taking| taking.drained += 1);
    }

    pub(super) fn on_handover(&mut self, did: &Did, epoch: u64, parked: VecDeque<InFlight<M>>, drains: u16) {
        // What one worker kept within its bounds may be kept here as well: for as long as copies are on their way.
        self.counters.parked += parked.len();
        self.counters.parked_bytes += parked.iter().map(|parcel| parcel.payload.size()).sum::<usize>();
        self.take_step(did, epoch, |taking| taking.handed = Some((parked, drains)));
    }

    /// A step of a take-over. With the last one, this worker owns: first what was handed over, then what came meanwhile.
    fn take_step(&mut self, did: &Did, epoch: u64, step: impl FnOnce(&mut Taking<M>)) {
        let Some(id) = self.find(did) else { return };
        let Some(work) = &mut self.table[id].work else { return };
        debug_assert_eq!(work.epoch, epoch);
        let Some(taking) = &mut work.taking else { return };
        step(taking);
        let drained = taking.drained;
        if taking.handed.as_ref().is_none_or(|&(_, drains)| drained < drains) {
            return;
        }
        let Some(Taking { members, handed: Some((mut parked, _)), .. }) = work.taking.take() else { return };
        parked.append(&mut work.parked);
        work.parked = parked;
        // The home hears of it before anything that follows from it, and says what has changed meanwhile.
        self.post(self.home_of(did.hash()), DirectoryMsg::Done { did: did.clone() });
        self.admit_members(id, &members);
    }

    /// The home says which connections there are now.
    pub(super) fn on_members(&mut self, did: &Did, members: &[ConnToken]) {
        let Some(id) = self.find(did) else { return };
        if self.table[id].owns {
            self.admit_members(id, members);
            self.retire(id);
        }
    }

    /// Lets connections in, and goes on with what waited for them.
    fn admit_members(&mut self, id: u32, members: &[ConnToken]) {
        let me = self.options.worker;
        let mut others: Vec<u16> =
            members.iter().map(|member| member.worker()).filter(|&worker| worker != me).collect();
        others.sort_unstable();
        others.dedup();
        let entry = &mut self.table[id];
        if entry.work.is_some() || !others.is_empty() {
            entry.work.get_or_insert_default().others = others;
        }
        let did = self.table[id].did.clone();
        for &token in members {
            if token.worker() == me {
                self.confirm(id, token);
            } else {
                self.post(token.worker(), DirectoryMsg::Confirm { did: did.clone(), token });
            }
        }
        self.replay(id);
    }

    /// The owner says that a connection gets everything from now on.
    pub(super) fn on_confirm(&mut self, did: &Did, token: ConnToken) {
        if let Some(id) = self.find(did) {
            self.confirm(id, token);
        }
    }

    fn confirm(&mut self, id: u32, token: ConnToken) {
        if self.table[id].seat(token) {
            self.events.push_back(Event::Joined { token });
        }
    }
}
