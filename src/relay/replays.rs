//! The HELLOs that were admitted, against replay. Owns how long and in how little memory they are remembered, and how much
//! of it each principal has; knows nothing of what a HELLO proves, and reads no clock.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
};

use super::{
    api::Text,
    shares::{Full, Shares},
};
use crate::wire::amp::{Id, check::SKEW_MS_DEFAULT};

/// How long a HELLO is remembered at least: as long as clocks that differ may take it for fresh.
pub(super) const REMEMBERED_MS: u64 = 2 * SKEW_MS_DEFAULT;
/// How much longer at the most: what came within so long is forgotten together.
pub(super) const BUCKET_MS: u64 = REMEMBERED_MS / 8;

/// HELLOs by a hash of their DID and id, in buckets of time. The hash is keyed at random, so that an attacker cannot
/// look for two that collide. A collision by chance is as good as impossible (a full memory has it happen once in 10^13
/// HELLOs), and costs the agent one more attempt.
#[derive(Debug)]
pub(super) struct Replays {
    key: RandomState,
    /// The oldest first.
    buckets: VecDeque<Bucket>,
    /// How many each principal has in all buckets.
    shares: Shares,
}

/// HELLOs that are forgotten together.
#[derive(Debug)]
struct Bucket {
    began_ms: u64,
    said: HashSet<u64, Hashed>,
    /// How many of them each principal said.
    by_principal: HashMap<Text, usize>,
}

/// Why a HELLO is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    /// It was said before.
    Before,
    /// It cannot be remembered.
    NoRoom(Full),
}

impl Replays {
    /// Room for so many HELLOs, which principals share.
    pub(super) fn new(places: usize) -> Self {
        Self { key: RandomState::new(), buckets: VecDeque::new(), shares: Shares::new(places) }
    }

    /// Forgets what is old by now, in milliseconds of a monotonic clock.
    pub(super) fn forget(&mut self, now_ms: u64) {
        while let Some(bucket) = self.buckets.pop_front_if(|oldest| oldest.ends_ms() < now_ms) {
            bucket.by_principal.iter().for_each(|(principal, count)| self.shares.give_back(principal, *count));
        }
    }

    /// Remembers a HELLO of this principal.
    ///
    /// # Errors
    /// It was said before, or there is no room for it.
    pub(super) fn remember(&mut self, principal: &Text, did: &str, id: &Id, now_ms: u64) -> Result<(), Untaken> {
        let hash = self.key.hash_one((did, id.0));
        if self.buckets.iter().any(|bucket| bucket.said.contains(&hash)) {
            return Err(Untaken::Before);
        }
        self.shares.admits(principal, 1).map_err(Untaken::NoRoom)?;
        self.shares.take(principal, 1);
        let bucket = match self.buckets.back_mut() {
            Some(newest) if newest.began_ms + BUCKET_MS >= now_ms => newest,
            _ => self.buckets.push_back_mut(Bucket::new(now_ms)),
        };
        bucket.said.insert(hash);
        match bucket.by_principal.get_mut(principal) {
            Some(count) => *count += 1,
            None => drop(bucket.by_principal.insert(principal.clone(), 1)),
        }
        Ok(())
    }

    /// HELLOs that are remembered, as the principals' shares and as the buckets have them.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shares.check_invariants();
        let said: usize = self.buckets.iter().map(|bucket| bucket.said.len()).sum();
        assert_eq!(self.shares.taken(), said);
        said
    }
}

impl Bucket {
    fn new(began_ms: u64) -> Self {
        Self { began_ms, said: HashSet::default(), by_principal: HashMap::new() }
    }

    /// The last time at which one of them could be said again.
    fn ends_ms(&self) -> u64 {
        self.began_ms + BUCKET_MS + REMEMBERED_MS
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

    fn principal(n: usize) -> Text {
        format!("SHA256:{n}").into()
    }

    #[test]
    fn a_hello_is_refused_for_as_long_as_it_is_fresh_and_forgotten_soon_after() {
        let (mut replays, one) = (Replays::new(100), principal(1));
        let mut said = |did: &str, n: u8, now: u64| {
            replays.forget(now);
            let said = replays.remember(&one, did, &id(n), now);
            assert!(said.is_ok() || said == Err(Untaken::Before), "{said:?}");
            (said.is_ok(), replays.len())
        };
        assert_eq!(said("did:key:zA", 1, 1_000), (true, 1));
        assert_eq!(said("did:key:zB", 1, 1_000), (true, 2), "the DID counts");
        assert_eq!(said("did:key:zA", 2, 1_000 + BUCKET_MS), (true, 3), "the id counts");
        assert_eq!(said("did:key:zA", 3, 1_001 + BUCKET_MS), (true, 4));
        let fresh = 1_000 + BUCKET_MS + REMEMBERED_MS;
        for now in [1_001 + BUCKET_MS, REMEMBERED_MS, fresh] {
            assert_eq!((said("did:key:zA", 1, now), said("did:key:zA", 2, now)), ((false, 4), (false, 4)));
        }
        assert_eq!(said("did:key:zA", 3, fresh + 1), (false, 1), "a bucket is forgotten at once");
        assert_eq!(said("did:key:zA", 1, fresh + 1), (true, 2));
        replays.forget(u64::MAX);
        assert_eq!((replays.len(), replays.buckets.len()), (0, 0));
    }

    #[test]
    fn one_principal_takes_half_of_the_room_and_has_it_again_with_each_bucket_that_is_forgotten() {
        let (mut replays, flood, other) = (Replays::new(16), principal(1), principal(2));
        let no_room = |said: Result<(), Untaken>, is_own: bool| {
            assert!(matches!(said, Err(Untaken::NoRoom(full)) if full.is_own() == is_own), "{said:?}");
        };
        let later = 1_001 + BUCKET_MS;
        for (n, now) in [(1, 1_000), (2, 1_000), (3, 1_000), (4, later), (5, later), (6, later), (7, later), (8, later)]
        {
            assert_eq!(replays.remember(&flood, "did:key:zA", &id(n), now), Ok(()));
        }
        no_room(replays.remember(&flood, "did:key:zA", &id(9), later), true);
        // Without room it is still known what was said.
        assert_eq!(replays.remember(&flood, "did:key:zA", &id(1), later), Err(Untaken::Before));
        for n in 1..=4 {
            assert_eq!(replays.remember(&other, "did:key:zB", &id(n), later), Ok(()));
        }
        no_room(replays.remember(&other, "did:key:zB", &id(5), later), true);
        for n in 3..=6 {
            assert_eq!(replays.remember(&principal(n), "did:key:zC", &id(n as u8), later), Ok(()), "a first one");
        }
        no_room(replays.remember(&principal(7), "did:key:zC", &id(7), later), false);
        replays.forget(1_000 + BUCKET_MS + REMEMBERED_MS + 1);
        assert_eq!(replays.len(), 13, "the first bucket is forgotten, which the first principal alone had taken");
        assert_eq!(replays.remember(&principal(7), "did:key:zC", &id(7), later), Ok(()));
        no_room(replays.remember(&flood, "did:key:zA", &id(9), later), true);
        replays.forget(u64::MAX);
        assert!(replays.shares.is_free());
        assert_eq!(replays.remember(&flood, "did:key:zA", &id(9), later), Ok(()));
    }
}
