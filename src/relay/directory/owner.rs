//! The owner's part: hands messages to connections, keeps them while nobody here can take them, takes over and hands
//! over. Does not decide who owns.

use std::{collections::VecDeque, mem};

use super::{
    Directory, Entry, Event, Payload, Receivers, Why,
    courier::{Parcel, Word},
    name::Did,
};
use crate::base::ConnToken;

/// What the owner of a DID knows.
pub(super) struct Owner<M: Payload> {
    epoch: u64,
    /// Messages that nobody here can take yet.
    parked: VecDeque<Parcel<M>>,
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
    members: Vec<ConnToken>,
    /// What the former owner kept, and how many workers will say that its copies are there.
    handed: Option<(VecDeque<Parcel<M>>, u16)>,
    drained: u16,
}

impl<M: Payload> Owner<M> {
    /// The home's, of a DID that nobody is connected under.
    pub(super) fn without_members() -> Self {
        Self { epoch: 0, parked: VecDeque::new(), others: Vec::new(), copied: Vec::new(), fences: 0, taking: None }
    }

    /// Owns, and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.taking.is_none() && self.parked.is_empty() && self.fences == 0
    }
}

/// Messages.
impl<M: Payload> Directory<M> {
    /// Whether this worker may say that nobody is there.
    pub(super) fn is_absent(&self, entry: &Entry<M>) -> bool {
        match (&entry.duty, &entry.home) {
            (None, None) => entry.owner == self.options.worker,
            (Some(duty), Some(home)) => duty.taking.is_none() && home.members.is_empty() && home.moving.is_none(),
            _ => false,
        }
    }

    /// Those of this worker's connections that get a message.
    pub(super) fn receivers<'a>(&self, entry: &'a Entry<M>) -> &'a [ConnToken] {
        match self.options.receivers {
            Receivers::All => &entry.joined,
            Receivers::Newest => &entry.joined[entry.joined.len().saturating_sub(1)..],
        }
    }

    /// A message for a DID that has an entry.
    pub(super) fn arrive(&mut self, id: u32, hops: u8, parcel: Parcel<M>) {
        let entry = &self.table[id];
        if let Some(service) = entry.service {
            let Parcel { sender, payload } = parcel;
            self.events.push_back(Event::Service { service, sender, payload });
        } else if entry.duty.is_some() {
            self.dispatch(id, parcel);
        } else {
            self.forward(entry.did.clone(), entry.owner, hops, parcel);
        }
    }

    /// Sends a message to another worker.
    pub(super) fn forward(&mut self, did: Did, to: u16, hops: u8, parcel: Parcel<M>) {
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
        self.post(to, Word::Data { did, hops: hops + 1, parcel });
    }

    /// The owner's decision about a message: hand it over, keep it, or answer.
    fn dispatch(&mut self, id: u32, parcel: Parcel<M>) {
        let entry = &self.table[id];
        let Some(duty) = &entry.duty else { return };
        let did = entry.did.clone();
        if duty.taking.is_none() && duty.parked.is_empty() && !entry.joined.is_empty() {
            let all = self.options.receivers == Receivers::All;
            if all && !duty.others.iter().all(|&worker| self.has_room(worker)) {
                return self.answer(did, parcel, Why::Busy);
            }
            if all && !duty.others.is_empty() {
                self.copy(id, &did, &parcel.payload);
            }
            self.deliver(id, parcel.payload);
        } else if self.is_absent(entry) {
            self.answer(did, parcel, Why::Absent);
        } else {
            self.park(id, parcel);
        }
    }

    fn copy(&mut self, id: u32, did: &Did, payload: &M) {
        let Some(duty) = &mut self.table[id].duty else { return };
        let others = mem::take(&mut duty.others);
        for worker in &others {
            if !duty.copied.contains(worker) {
                duty.copied.push(*worker);
            }
        }
        for &worker in &others {
            self.counters.crossed += 1;
            self.post(worker, Word::Copy { did: did.clone(), payload: payload.clone() });
        }
        if let Some(duty) = &mut self.table[id].duty {
            duty.others = others;
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
            Some(id) if !self.table[id].joined.is_empty() => self.deliver(id, payload),
            _ => self.counters.copies_stale += 1,
        }
    }

    fn park(&mut self, id: u32, parcel: Parcel<M>) {
        let size = parcel.payload.size();
        let entry = &mut self.table[id];
        let full = self.counters.parked >= self.options.parked_max
            || self.counters.parked_bytes.saturating_add(size) > self.options.parked_bytes_max;
        match &mut entry.duty {
            Some(duty) if !full => {
                duty.parked.push_back(parcel);
                self.counters.parked += 1;
                self.counters.parked_bytes += size;
            }
            _ => {
                let did = entry.did.clone();
                self.answer(did, parcel, Why::Busy);
            }
        }
    }

    fn unpark(&mut self, parked: &VecDeque<Parcel<M>>) {
        self.counters.parked -= parked.len();
        self.counters.parked_bytes -= parked.iter().map(|parcel| parcel.payload.size()).sum::<usize>();
    }

    /// Decides anew about what waits. Each message goes the same way as those before it, so order holds.
    fn replay(&mut self, id: u32) {
        let Some(duty) = &mut self.table[id].duty else { return };
        if duty.taking.is_none() {
            let parked = mem::take(&mut duty.parked);
            self.unpark(&parked);
            parked.into_iter().for_each(|parcel| self.dispatch(id, parcel));
        }
        self.refresh(id);
    }

    /// Finds out anew whether messages can be handed over without a call.
    pub(super) fn refresh(&mut self, id: u32) {
        let all = self.options.receivers == Receivers::All;
        let entry = &mut self.table[id];
        entry.direct =
            entry.duty.as_ref().is_some_and(|duty| {
                duty.taking.is_none() && duty.parked.is_empty() && (duty.others.is_empty() || !all)
            }) && !entry.joined.is_empty();
    }
}

/// Take-over.
impl<M: Payload> Directory<M> {
    /// The home says: take over.
    pub(super) fn on_grant(&mut self, did: &Did, epoch: u64, from: u16, members: Vec<ConnToken>) {
        let id = self.interned(did);
        let entry = &mut self.table[id];
        debug_assert!(entry.duty.is_none(), "a worker takes over from another one");
        let taking = Some(Taking { members, handed: None, drained: 0 });
        entry.duty = Some(Box::new(Owner { epoch, taking, ..Owner::without_members() }));
        self.refresh(id);
        self.counters.takeovers += 1;
        let to = self.options.worker;
        self.tell_all(|| Word::Move { did: did.clone(), epoch, from, to });
    }

    /// The next owner says: send to me. Whoever was sent to until now hears that nothing more comes.
    pub(super) fn on_move(&mut self, did: &Did, epoch: u64, from: u16, to: u16) {
        let id = self.interned(did);
        debug_assert_eq!(self.table[id].owner, from, "moves of one DID come one after the other");
        self.table[id].owner = to;
        self.post(from, Word::Fence { did: did.clone(), epoch, to });
        self.forget(id);
    }

    /// A worker says that it sends nothing more. When all have said so, the DID is handed over.
    pub(super) fn on_fence(&mut self, did: &Did, epoch: u64, to: u16) {
        let workers = self.options.workers;
        let Some(id) = self.find(did) else { return };
        let entry = &mut self.table[id];
        let Some(mut duty) = entry.duty.take_if(|duty| {
            debug_assert!(
                duty.taking.is_none() && duty.epoch < epoch,
                "an owner is asked to hand over after it took over"
            );
            duty.fences += 1;
            duty.fences == workers
        }) else {
            return;
        };
        let (parked, copied) = (mem::take(&mut duty.parked), duty.copied);
        self.unpark(&parked);
        self.refresh(id);
        for &worker in &copied {
            self.post(worker, Word::Drain { did: did.clone(), epoch, to });
        }
        self.post(to, Word::Handover { did: did.clone(), epoch, parked, drains: copied.len() as u16 });
        self.forget(id);
    }

    pub(super) fn on_drained(&mut self, did: &Did, epoch: u64) {
        self.take_step(did, epoch, |taking| taking.drained += 1);
    }

    pub(super) fn on_handover(&mut self, did: &Did, epoch: u64, parked: VecDeque<Parcel<M>>, drains: u16) {
        // What one worker kept within its bounds may be kept here as well: for as long as copies are on their way.
        self.counters.parked += parked.len();
        self.counters.parked_bytes += parked.iter().map(|parcel| parcel.payload.size()).sum::<usize>();
        self.take_step(did, epoch, |taking| taking.handed = Some((parked, drains)));
    }

    /// A step of a take-over. With the last one, this worker owns: first what was handed over, then what came meanwhile.
    fn take_step(&mut self, did: &Did, epoch: u64, step: impl FnOnce(&mut Taking<M>)) {
        let Some(id) = self.find(did) else { return };
        let Some(duty) = &mut self.table[id].duty else { return };
        debug_assert_eq!(duty.epoch, epoch);
        let Some(taking) = &mut duty.taking else { return };
        step(taking);
        let drained = taking.drained;
        if taking.handed.as_ref().is_none_or(|&(_, drains)| drained < drains) {
            return;
        }
        let Some(Taking { members, handed: Some((mut parked, _)), .. }) = duty.taking.take() else { return };
        parked.append(&mut duty.parked);
        duty.parked = parked;
        // The home hears of it before anything that follows from it, and says what has changed meanwhile.
        self.post(self.home_of(did.hash()), Word::Done { did: did.clone(), epoch });
        self.admit_members(id, &members);
    }

    /// The home says who is here now.
    pub(super) fn on_members(&mut self, did: &Did, members: &[ConnToken]) {
        let Some(id) = self.find(did) else { return };
        if self.table[id].duty.is_some() {
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
        if let Some(duty) = &mut self.table[id].duty {
            duty.others = others;
        }
        let did = self.table[id].did.clone();
        for &token in members {
            if token.worker() == me {
                self.confirm(id, token);
            } else {
                self.post(token.worker(), Word::Confirm { did: did.clone(), token });
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
        let entry = &mut self.table[id];
        let Some(at) = entry.joining.iter().position(|&other| other == token) else { return };
        entry.joined.push(entry.joining.remove(at));
        self.events.push_back(Event::Joined { token });
    }
}
