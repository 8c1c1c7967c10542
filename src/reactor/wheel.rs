//! A hashed timer wheel, sans-io: one deadline for each key, set, moved and cancelled in constant time. Keys are small
//! integers (slots of a slab). A deadline never fires early and at most one tick late.

/// Milliseconds of one tick.
pub(super) const TICK_MS: u64 = 16;
/// Buckets: the wheel turns once in 65 s; later deadlines go round.
const BUCKETS: usize = 4096;
const WORDS: usize = BUCKETS / 64;
const NONE: u32 = u32::MAX;
const _: () = assert!(BUCKETS.is_power_of_two() && BUCKETS.is_multiple_of(64));

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The tick at which it fires, or `u64::MAX` when it is not set.
    tick: u64,
    next: u32,
    prev: u32,
}

const IDLE: Entry = Entry { tick: u64::MAX, next: NONE, prev: NONE };

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    entries: Vec<Entry>,
    heads: Vec<u32>,
    occupied: [u64; WORDS],
    /// Everything up to this tick has fired.
    tick: u64,
    live: usize,
}

impl Wheel {
    /// An empty wheel that stands at this time.
    pub(super) fn new(now_ms: u64) -> Self {
        Self { entries: Vec::new(), heads: vec![NONE; BUCKETS], occupied: [0; WORDS], tick: now_ms / TICK_MS, live: 0 }
    }

    /// Sets or moves the deadline of `key`.
    pub(super) fn set(&mut self, key: u32, at_ms: u64) {
        self.cancel(key);
        let index = key as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, IDLE);
        }
        let tick = at_ms.div_ceil(TICK_MS).max(self.tick + 1);
        let bucket = tick as usize % BUCKETS;
        let next = self.heads[bucket];
        self.entries[index] = Entry { tick, next, prev: NONE };
        if next != NONE {
            self.entries[next as usize].prev = key;
        }
        self.heads[bucket] = key;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.live += 1;
    }

    /// Forgets the deadline of `key`, if it has one.
    pub(super) fn cancel(&mut self, key: u32) {
        let Some(&entry) = self.entries.get(key as usize) else { return };
        if entry.tick == u64::MAX {
            return;
        }
        let bucket = entry.tick as usize % BUCKETS;
        match entry.prev {
            NONE => self.heads[bucket] = entry.next,
            prev => self.entries[prev as usize].next = entry.next,
        }
        if entry.next != NONE {
            self.entries[entry.next as usize].prev = entry.prev;
        }
        if self.heads[bucket] == NONE {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
        self.entries[key as usize] = IDLE;
        self.live -= 1;
    }

    /// Moves to this time and appends the keys of the deadlines that have come.
    pub(super) fn advance(&mut self, now_ms: u64, fired: &mut Vec<u32>) {
        let target = now_ms / TICK_MS;
        if target <= self.tick {
            return;
        }
        let steps = (target - self.tick).min(BUCKETS as u64);
        let first = self.tick + 1;
        self.tick = target;
        if self.live == 0 {
            return;
        }
        for step in 0..steps {
            let bucket = (first + step) as usize % BUCKETS;
            let mut key = self.heads[bucket];
            while key != NONE {
                let entry = self.entries[key as usize];
                if entry.tick <= target {
                    self.cancel(key);
                    fired.push(key);
                }
                key = entry.next;
            }
        }
    }

    /// Milliseconds until it is worth to call [`advance`](Self::advance) again: never later than the next deadline's
    /// tick, and earlier when only deadlines of a later round are near. None without deadlines.
    pub(super) fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        if self.live == 0 {
            return None;
        }
        let first = (self.tick + 1) as usize % BUCKETS;
        let found = (0..=WORDS).find_map(|word| {
            let index = (first / 64 + word) % WORDS;
            let mut bits = self.occupied[index];
            if word == 0 {
                bits &= u64::MAX << (first % 64);
            }
            (bits != 0).then(|| index * 64 + bits.trailing_zeros() as usize)
        });
        let ahead = found.map_or(0, |bucket| (bucket + BUCKETS - first) % BUCKETS) as u64;
        Some(((self.tick + 1 + ahead) * TICK_MS).saturating_sub(now_ms))
    }

    /// Deadlines that are set.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.live
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..40, prop_oneof![0u64..200, 0u64..200_000]).prop_map(|(key, ms)| Step::Set(key, ms)),
            (0u32..40).prop_map(Step::Cancel),
            prop_oneof![0u64..50, 0u64..90_000].prop_map(Step::Advance),
        ]
    }

    proptest! {
        /// Against a sorted map: the same keys fire at the same advance; the wait never passes a deadline's tick.
        #[test]
        fn agrees_with_a_sorted_map(start in 0u64..100_000, steps in proptest::collection::vec(step(), 1..200)) {
            let mut now = start;
            let mut wheel = Wheel::new(now);
            let mut model = BTreeMap::new();
            let mut standing = now / TICK_MS;
            for step in steps {
                match step {
                    Step::Set(key, ms) => {
                        wheel.set(key, now + ms);
                        model.insert(key, (now + ms).div_ceil(TICK_MS).max(standing + 1));
                    }
                    Step::Cancel(key) => {
                        wheel.cancel(key);
                        model.remove(&key);
                    }
                    Step::Advance(ms) => {
                        now += ms;
                        standing = now / TICK_MS;
                        let mut fired = Vec::new();
                        wheel.advance(now, &mut fired);
                        fired.sort_unstable();
                        let due: Vec<u32> =
                            model.iter().filter(|&(_, &tick)| tick <= standing).map(|(&key, _)| key).collect();
                        model.retain(|_, tick| *tick > standing);
                        prop_assert_eq!(fired, due);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                match (wheel.wait_ms(now), model.values().min()) {
                    (None, None) => {}
                    (Some(wait), Some(&first)) => prop_assert!(now + wait <= first * TICK_MS),
                    (wait, first) => prop_assert!(false, "wait {:?}, model {:?}", wait, first),
                }
            }
        }
    }

    #[test]
    fn waits_for_the_deadline_and_no_longer() {
        let mut wheel = Wheel::new(0);
        wheel.set(3, 1_000);
        let wait = wheel.wait_ms(0).unwrap();
        assert!((1_000..1_000 + TICK_MS).contains(&wait), "{wait}");
        let mut fired = Vec::new();
        wheel.advance(999, &mut fired);
        assert!(fired.is_empty());
        wheel.advance(wait, &mut fired);
        assert_eq!(fired, [3]);
        assert_eq!(wheel.wait_ms(wait), None);
    }
}
