//! The slab of a worker with a generation beside each slot. A slot that is used again has another generation, so a
//! token that has outlived its connection finds nothing.

use slab::Slab;

use crate::base::ConnToken;

/// Values named by tokens.
#[derive(Debug)]
pub(super) struct Slots<T> {
    worker: u16,
    slab: Slab<T>,
    generations: Vec<u32>,
}

impl<T> Slots<T> {
    /// An empty slab of this worker.
    pub(super) fn new(worker: u16) -> Self {
        Self { worker, slab: Slab::with_capacity(ConnToken::ROOM), generations: Vec::with_capacity(ConnToken::ROOM) }
    }

    /// Keeps a value. It comes back when every slot that a token can name is in use.
    pub(super) fn insert(&mut self, value: T) -> Result<ConnToken, T> {
        if self.slab.len() >= ConnToken::SLOTS_MAX {
            return Err(value);
        }
        let slot = self.slab.insert(value);
        if slot >= self.generations.len() {
            self.generations.resize(slot + 1, 0);
        }
        Ok(ConnToken::new(self.worker, slot as u32, self.generations[slot]))
    }

    /// The value of a token; none if the token is stale or another worker's.
    pub(super) fn get_mut(&mut self, token: ConnToken) -> Option<&mut T> {
        let slot = token.slot() as usize;
        if token.worker() != self.worker || self.generations.get(slot) != Some(&token.generation()) {
            return None;
        }
        self.slab.get_mut(slot)
    }

    /// As [`get_mut`](Self::get_mut), to read.
    pub(super) fn get(&self, token: ConnToken) -> Option<&T> {
        let slot = token.slot() as usize;
        if token.worker() != self.worker || self.generations.get(slot) != Some(&token.generation()) {
            return None;
        }
        self.slab.get(slot)
    }

    /// Takes the value out; its token is stale from here on.
    pub(super) fn remove(&mut self, token: ConnToken) -> Option<T> {
        self.get(token)?;
        let slot = token.slot() as usize;
        self.generations[slot] = (self.generations[slot] + 1) % ConnToken::GENERATIONS;
        self.slab.try_remove(slot)
    }

    /// The token that the slot has now, if it is in use.
    pub(super) fn token_at(&self, slot: u32) -> Option<ConnToken> {
        self.slab.contains(slot as usize).then(|| self.token(slot as usize))
    }

    fn token(&self, slot: usize) -> ConnToken {
        ConnToken::new(self.worker, slot as u32, self.generations[slot])
    }

    /// All values with their tokens, in slab order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnToken, &T)> {
        self.slab.iter().map(|(slot, value)| (self.token(slot), value))
    }

    /// Slots in use.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_stale_token_finds_nothing() {
        let mut slots = Slots::new(3);
        let first = slots.insert("a").unwrap();
        let other = slots.insert("b").unwrap();
        assert_eq!(slots.get(first), Some(&"a"));
        assert_eq!(slots.remove(first), Some("a"));
        assert_eq!(slots.remove(first), None);
        let again = slots.insert("c").unwrap();
        assert_eq!(again.slot(), first.slot(), "the slot is used again");
        assert_ne!(again, first);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.get_mut(again), Some(&mut "c"));
        assert_eq!(slots.token_at(first.slot()), Some(again));
        assert_eq!(slots.iter().map(|(token, _)| token).collect::<Vec<_>>(), [again, other]);
        let foreign = ConnToken::new(4, again.slot(), again.generation());
        assert_eq!(slots.get(foreign), None, "another worker's token");
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn generations_wrap() {
        let mut slots = Slots::new(0);
        let token = slots.insert(()).unwrap();
        slots.generations[0] = ConnToken::GENERATIONS - 1;
        assert!(slots.get(token).is_none());
        let token = slots.token_at(0).unwrap();
        slots.remove(token).unwrap();
        assert_eq!(slots.insert(()).unwrap().generation(), 0);
    }
}
