//! The HELLOs that were admitted, against replay. Owns how long and in how little memory they are remembered; knows
//! nothing of what a HELLO proves, and reads no clock.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
};

use crate::wire::amp::{Id, check::SKEW_MS_DEFAULT};

/// How long a HELLO is remembered at least: as long as clocks that differ may take it for fresh.
pub(super) const REMEMBERED_MS: u64 = 2 * SKEW_MS_DEFAULT;
/// How much longer at the most: what came within so long is forgotten together.
pub(super) const BUCKET_MS: u64 = REMEMBERED_MS / 8;

/// HELLOs by a hash of their DID and id, in buckets of time. The hash is keyed at random, so that an attacker cannot
/// look for two that collide. A collision by chance is as good as impossible (a full memory has it happen once in 10^13
/// HELLOs), and costs the agent one more attempt.
#[derive(Debug, Default)]
pub(super) struct Replays {
    key: RandomState,
    /// Each with the time it began, the oldest first.
    buckets: VecDeque<(u64, HashSet<u64, Hashed>)>,
    len: usize,
}

impl Replays {
    /// HELLOs that are remembered.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Forgets what is old by now, in milliseconds of a monotonic clock.
    pub(super) fn forget(&mut self, now_ms: u64) {
        while let Some((began, bucket)) = self.buckets.front()
            && began + BUCKET_MS + REMEMBERED_MS < now_ms
        {
            self.len -= bucket.len();
            self.buckets.pop_front();
        }
    }

    /// Remembers a HELLO; false if it was said before.
    pub(super) fn remember(&mut self, did: &str, id: &Id, now_ms: u64) -> bool {
        let hash = self.key.hash_one((did, id.0));
        if self.buckets.iter().any(|(_, bucket)| bucket.contains(&hash)) {
            return false;
        }
        if self.buckets.back().is_none_or(|(began, _)| began + BUCKET_MS < now_ms) {
            self.buckets.push_back((now_ms, HashSet::default()));
        }
        if let Some((_, bucket)) = self.buckets.back_mut() {
            bucket.insert(hash);
            self.len += 1;
        }
        true
    }
}

/// A hasher that passes numbers through: they are keyed hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed;

impl BuildHasher for Hashed {
    type Hasher = Same;

    fn build_hasher(&self) -> Same {
        Same(0)
    }
}

#[derive(Debug)]
struct Same(u64);

impl std::hash::Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(false, "only u64 is hashed here");
        self.0 = bytes.iter().fold(self.0, |hash, &byte| hash.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Id {
        Id::new(1_800_000_000_000, [n; 8])
    }

    #[test]
    fn a_hello_is_refused_for_as_long_as_it_is_fresh_and_forgotten_soon_after() {
        let mut replays = Replays::default();
        assert!(replays.remember("did:key:zA", &id(1), 1_000));
        assert!(replays.remember("did:key:zB", &id(1), 1_000), "the DID counts");
        assert!(replays.remember("did:key:zA", &id(2), 1_000 + BUCKET_MS), "the id counts");
        assert!(replays.remember("did:key:zA", &id(3), 1_001 + BUCKET_MS));
        let fresh = 1_000 + BUCKET_MS + REMEMBERED_MS;
        for now in [1_000, 1_001, REMEMBERED_MS, fresh] {
            replays.forget(now);
            assert!(!replays.remember("did:key:zA", &id(1), now) && !replays.remember("did:key:zA", &id(2), now));
        }
        assert_eq!(replays.len(), 4);
        replays.forget(fresh + 1);
        assert_eq!(replays.len(), 1, "a bucket is forgotten at once");
        assert!(!replays.remember("did:key:zA", &id(3), fresh + 1));
        assert!(replays.remember("did:key:zA", &id(1), fresh + 1));
        replays.forget(u64::MAX);
        assert_eq!((replays.len(), replays.buckets.len()), (0, 0));
    }
}
