//! Pauses between attempts to connect: each twice the one before up to a bound, half of it random, so that clients do not
//! all connect at once to a relay that was started anew.

/// The pauses of one client.
#[derive(Debug)]
pub(crate) struct Backoff {
    first_ms: u64,
    max_ms: u64,
    attempt: u32,
    random: u64,
}

impl Backoff {
    /// Pauses of at most `first_ms` at first and `max_ms` in the end. Clients with different seeds spread.
    pub(crate) fn new(first_ms: u64, max_ms: u64, seed: u64) -> Self {
        Self { first_ms, max_ms, attempt: 0, random: seed | 1 }
    }

    /// An attempt went well: the next pause is a first one.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next pause, in milliseconds.
    pub(crate) fn next_ms(&mut self) -> u64 {
        let most = (self.first_ms << self.attempt.min(16)).min(self.max_ms);
        self.attempt = self.attempt.saturating_add(1);
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        most / 2 + (self.random >> 33) % (most / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn attempts_become_rarer_and_clients_spread() {
        let mut backoff = Backoff::new(1_000, 60_000, 5);
        for attempt in 0..40_u32 {
            let most = (1_000 << attempt.min(16)).min(60_000);
            let pause = backoff.next_ms();
            assert!((most / 2..=most).contains(&pause), "{attempt}: {pause}");
        }
        backoff.reset();
        assert!(backoff.next_ms() <= 1_000);
        // Whatever numbers are seeds, and anew at each attempt: two that have met once do not meet every time.
        let backoff = |seed| Backoff::new(60_000, 60_000, seed);
        let (seeds, mut one) = ((1..=20).map(|seed| backoff(2 * seed).next_ms()).collect(), backoff(5));
        let pauses: [HashSet<u64>; 2] = [seeds, (0..20).map(|_| one.next_ms()).collect()];
        assert!(pauses.iter().all(|pauses| pauses.len() > 15), "{pauses:?}");
    }
}
