//! The home's part: the connections under a DID, in the order they came, and the DID's owner. Moves ownership one step
//! at a time; hands over no message.

use super::{Directory, Payload, Tokens, Why, name::Did, peer_message::DirectoryMsg};
use crate::base::ConnToken;

/// What the home of a DID knows.
pub(super) struct Home {
    /// The connections, oldest first.
    pub(super) members: Tokens,
    owner: u16,
    /// The next owner, while there is one.
    next: u16,
    /// From the grant to the next owner to its word that it has taken over.
    pub(super) moving: bool,
}

impl<M: Payload> Directory<M> {
    pub(super) fn on_join(&mut self, did: &Did, token: ConnToken) {
        if let Err(why) = self.admit(did, token) {
            self.counters.refused += 1;
            self.post(token.worker(), DirectoryMsg::Refuse { did: did.clone(), token, why });
        }
    }

    fn admit(&mut self, did: &Did, token: ConnToken) -> Result<(), Why> {
        if self.is_choked() {
            return Err(Why::Busy);
        }
        let id = self.interned(did);
        let (worker, dids_max, connections_max) =
            (self.options.worker, self.options.dids_max, self.options.connections_max);
        let entry = &mut self.table[id];
        let refused = match &entry.home {
            _ if entry.service.is_some() => Some(Why::Service),
            Some(home) if home.members.len() >= connections_max => Some(Why::Full),
            None if self.homes >= dids_max => Some(Why::Full),
            _ => None,
        };
        if let Some(why) = refused {
            self.forget(id);
            return Err(why);
        }
        if entry.home.is_none() {
            self.homes += 1;
            entry.owns = true;
        }
        let fresh = || Home { members: Tokens::new(), owner: worker, next: worker, moving: false };
        entry.home.get_or_insert_with(fresh).members.push(token);
        self.settle(id, None);
        Ok(())
    }

    pub(super) fn on_leave(&mut self, did: &Did, token: ConnToken) {
        let (connections, left) = (0, Some(token));
        let unknown = DirectoryMsg::Count { did: did.clone(), connections, left };
        let Some(id) = self.find(did) else { return self.post(token.worker(), unknown) };
        let Some(home) = &mut self.table[id].home else {
            self.post(token.worker(), unknown);
            return self.forget(id);
        };
        let before = home.members.len();
        home.members.retain(|&mut member| member != token);
        if home.members.len() == before {
            let (did, connections) = (did.clone(), before as u32);
            return self.post(token.worker(), DirectoryMsg::Count { did, connections, left });
        }
        // Shrinks back to in-line storage.
        if home.members.len() == 1 {
            home.members.shrink_to_fit();
        }
        self.settle(id, left);
    }

    pub(super) fn on_done(&mut self, did: &Did) {
        let Some(id) = self.find(did) else { return };
        let Some(home) = &mut self.table[id].home else { return };
        debug_assert!(home.moving, "ownership moves one step at a time");
        if std::mem::take(&mut home.moving) {
            home.owner = home.next;
            self.resettle(id);
        }
    }

    /// The members have changed: tells every worker how many there are, and moves ownership if it must.
    fn settle(&mut self, id: u32, left: Option<ConnToken>) {
        let entry = &self.table[id];
        if let Some(home) = &entry.home {
            let (did, connections) = (entry.did.clone(), home.members.len() as u32);
            self.tell_all(|| DirectoryMsg::Count { did: did.clone(), connections, left });
        }
        self.resettle(id);
    }

    /// Moves ownership to where it belongs, unless it is moving now; if it is there, tells the owner the members.
    fn resettle(&mut self, id: u32) {
        let worker = self.options.worker;
        let entry = &mut self.table[id];
        let did = entry.did.clone();
        let Some(home) = &mut entry.home else { return };
        if home.moving {
            return;
        }
        let wanted = home.members.last().map_or(worker, |newest| newest.worker());
        let (from, members) = (home.owner, home.members.clone());
        if wanted == from {
            return self.post(wanted, DirectoryMsg::Members { did, members });
        }
        self.epoch += 1;
        home.moving = true;
        home.next = wanted;
        self.post(wanted, DirectoryMsg::Grant { did, epoch: self.epoch, from, members });
    }

    /// Forgets the DID as its home, where it has no connection and nothing waits.
    pub(super) fn retire(&mut self, id: u32) {
        let entry = &mut self.table[id];
        let Some(home) = &entry.home else { return };
        let idle = entry.owns && entry.work.as_ref().is_none_or(|work| work.is_idle());
        if home.members.is_empty() && !home.moving && home.owner == self.options.worker && idle {
            entry.home = None;
            entry.owns = false;
            entry.work = None;
            self.homes -= 1;
            self.forget(id);
        }
    }

    pub(super) fn on_refuse(&mut self, did: &Did, token: ConnToken, why: Why) {
        let Some(id) = self.seat(token) else { return };
        let entry = &mut self.table[id];
        debug_assert_eq!(entry.did, *did);
        entry.remove_member(token);
        self.seats[token.slot() as usize] = super::EMPTY;
        self.events.push_back(super::Event::Refused { token, why });
        self.forget(id);
    }
}
