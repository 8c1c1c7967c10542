//! Names: a DID with its hash, and the table that finds a worker's entry for one. Owns the hash function. Knows no
//! message and no owner.

use std::{cell::Cell, fmt, sync::Arc};

use hashbrown::HashTable;
use slab::Slab;

use crate::base::ConnToken;

/// A DID as the directory keeps it: hashed once, one text for the whole process, cheap to clone.
#[derive(Clone)]
pub struct Did {
    hash: u64,
    text: Arc<str>,
}

impl Did {
    pub(super) fn new(hash: u64, text: impl Into<Arc<str>>) -> Self {
        Self { hash, text: text.into() }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The text, without fragment, query and path.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Did {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for Did {}

impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const MULTIPLIERS: [u64; 3] = [0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93, 0xA076_1D64_78BD_642F];

/// Multiplies to 128 bits and folds the halves: every bit of both factors reaches every bit of the result.
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

fn words(bytes: &[u8; 16]) -> (u64, u64) {
    let wide = u128::from_le_bytes(*bytes);
    (wide as u64, (wide >> 64) as u64)
}

/// The hash of a DID under a secret that all workers of a process share (so that they agree on its home, and a peer
/// cannot choose names that collide). Sixteen bytes a step, one multiplication each; the last step takes the last
/// sixteen bytes, some of them for the second time, so that the length of every copy is known at compile time.
pub(super) fn hash(secret: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut state = secret ^ (bytes.len() as u64).wrapping_mul(MULTIPLIERS[0]);
    let mut step = |block: &[u8; 16]| {
        let (low, high) = words(block);
        state = fold(low ^ state, high ^ MULTIPLIERS[2] ^ secret);
    };
    if let Some(last) = bytes.last_chunk::<16>() {
        bytes[..bytes.len() - 1].as_chunks::<16>().0.iter().for_each(&mut step);
        step(last);
    } else {
        let mut padded = [0; 16];
        padded[..bytes.len()].copy_from_slice(bytes);
        step(&padded);
    }
    fold(state ^ MULTIPLIERS[1], MULTIPLIERS[0] ^ secret)
}

/// What the table keeps entries by.
pub(super) trait Named {
    fn did(&self) -> &Did;
}

/// Entries by DID. An id is a worker's own and valid until the entry is removed.
pub(super) struct Table<E> {
    ids: HashTable<u32>,
    entries: Slab<E>,
    /// The entry that was found last: a sender's messages often go where the one before went. Its name is compared
    /// again, so that it need not be forgotten when it is removed.
    recent: Cell<u32>,
}

impl<E: Named> Table<E> {
    pub(super) fn new() -> Self {
        Self { ids: HashTable::new(), entries: Slab::with_capacity(ConnToken::ROOM), recent: Cell::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&self, hash: u64, text: &str) -> Option<u32> {
        let found = self.ids.find(hash, |&id| {
            let did = self.entries[id as usize].did();
            did.hash() == hash && did.as_str() == text
        });
        found.copied().inspect(|&id| self.recent.set(id))
    }

    /// The entry that was found last, if this is its DID.
    #[inline]
    pub(super) fn recent(&self, text: &str) -> Option<&E> {
        let entry = self.entries.get(self.recent.get() as usize)?;
        let (did, text) = (entry.did().as_str().as_bytes(), text.as_bytes());
        // Most DIDs that differ do so in their last bytes.
        (did.last_chunk::<4>() == text.last_chunk::<4>() && did == text).then_some(entry)
    }

    /// Puts in an entry for a DID that is not there yet.
    pub(super) fn insert(&mut self, entry: E) -> u32 {
        let hash = entry.did().hash();
        // An entry is well over a hundred bytes: memory ends long before 32 bits do.
        let id = self.entries.insert(entry) as u32;
        let entries = &self.entries;
        self.ids.insert_unique(hash, id, |&id| entries[id as usize].did().hash());
        id
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(entry) = self.entries.try_remove(id as usize) else { return };
        if let Ok(found) = self.ids.find_entry(entry.did().hash(), |&other| other == id) {
            found.remove();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &E> {
        self.entries.iter().map(|(_, entry)| entry)
    }
}

impl<E> std::ops::Index<u32> for Table<E> {
    type Output = E;

    fn index(&self, id: u32) -> &E {
        &self.entries[id as usize]
    }
}

impl<E> std::ops::IndexMut<u32> for Table<E> {
    fn index_mut(&mut self, id: u32) -> &mut E {
        &mut self.entries[id as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    impl Named for Did {
        fn did(&self) -> &Did {
            self
        }
    }

    fn text(n: u32) -> String {
        format!("did:key:z6Mk{n:044}")
    }

    #[test]
    fn names_are_found_until_they_are_removed() {
        let mut table = Table::new();
        let ids: Vec<_> = (0..2_000).map(|n| table.insert(Did::new(hash(7, &text(n)), text(n)))).collect();
        for (n, &id) in (0..2_000).zip(&ids) {
            assert_eq!(table.find(hash(7, &text(n)), &text(n)), Some(id));
        }
        ids.iter().step_by(2).for_each(|&id| table.remove(id));
        for (n, &id) in (0..2_000).zip(&ids) {
            assert_eq!(table.find(hash(7, &text(n)), &text(n)), (n % 2 == 1).then_some(id));
        }
        assert_eq!(table.len(), 1_000);
    }

    #[test]
    fn names_that_differ_in_one_place_spread_over_all_bits() {
        let hashes: HashSet<_> = (0..10_000).map(|n| hash(1, &text(n))).collect();
        assert_eq!(hashes.len(), 10_000);
        for shift in [0, 16, 32, 57] {
            let mut buckets = [0_u32; 16];
            hashes.iter().for_each(|hash| buckets[(hash >> shift) as usize % 16] += 1);
            assert!(buckets.iter().all(|&n| (500..750).contains(&n)), "{shift}: {buckets:?}");
        }
        assert_ne!(hash(1, "did:web:a"), hash(2, "did:web:a"), "the secret counts");
        assert_ne!(hash(1, "a"), hash(1, "a\0"), "the length counts");
    }
}
