//! Figures that threads keep and anybody may read: relaxed atomics, summed at a scrape.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    dialect::admin::{Facts, WorkerFacts},
    reactor::{CLOSE_LABELS, Counter, TURN_BUCKETS, WorkerCounters},
    relay::api::State,
};

/// What a worker counts besides its loop.
#[derive(Debug, Default)]
#[repr(align(128))] // Two workers never share a cache line.
pub(super) struct WorkerTallies {
    pub(super) session_in: Counter,
    pub(super) session_out: Counter,
    pub(super) sign_in_failures: Counter,
    pub(super) devices: Counter,
    pub(super) amp_in: Counter,
    pub(super) amp_out: Counter,
    pub(super) agents: Counter,
    /// Messages that are with the crypto thread.
    pub(super) amp_checking: Counter,
    pub(super) amp_wrong_signatures: Counter,
    pub(super) inbox_full: Counter,
}

/// What the supervisor counts.
#[derive(Debug, Default)]
pub(super) struct CoreTallies {
    pub(super) sessions: [Counter; State::ALL.len()],
    pub(super) restarts: Counter,
    pub(super) unreadable_lines: Counter,
}

/// All figures of a relay.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) started: Instant,
    pub(super) ready: AtomicBool,
    pub(super) draining: AtomicBool,
    pub(super) loops: Vec<Arc<WorkerCounters>>,
    pub(super) workers: Vec<Arc<WorkerTallies>>,
    pub(super) core: CoreTallies,
}

impl Shared {
    pub(super) fn facts(&self) -> Facts {
        let workers = self.loops.iter().zip(&self.workers).map(|(counters, tallies)| worker(counters, tallies));
        Facts {
            ready: self.ready.load(Ordering::Relaxed),
            draining: self.draining.load(Ordering::Relaxed),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            workers: workers.collect(),
            sessions: std::array::from_fn(|index| self.core.sessions[index].get()),
            restarts: self.core.restarts.get(),
            unreadable_lines: self.core.unreadable_lines.get(),
        }
    }
}

fn worker(counters: &WorkerCounters, tallies: &WorkerTallies) -> WorkerFacts {
    let counted = counters.snapshot();
    WorkerFacts {
        accepted: counted.accepted,
        refused: counted.refused,
        accept_pauses: counted.accept_pauses,
        closed: CLOSE_LABELS.into_iter().zip(counted.closed).collect(),
        open: counted.open,
        displaced: counted.displaced,
        provisional: counted.provisional,
        bytes_in: counted.bytes_in,
        bytes_out: counted.bytes_out,
        reads: counted.reads,
        writes: counted.writes,
        queue_bytes: counted.queue_bytes,
        kept_bytes: counted.kept_bytes,
        stale_events: counted.stale_events,
        stale_mail: counted.stale_mail,
        panics: counted.panics,
        turns: counted.turns,
        turn_ns: counted.busy_ns,
        turn_ns_p50: quantile(&counted.turn_ns, 50),
        turn_ns_p99: quantile(&counted.turn_ns, 99),
        session_in: tallies.session_in.get(),
        session_out: tallies.session_out.get(),
        sign_in_failures: tallies.sign_in_failures.get(),
        devices: tallies.devices.get(),
        amp_in: tallies.amp_in.get(),
        amp_out: tallies.amp_out.get(),
        agents: tallies.agents.get(),
        amp_checking: tallies.amp_checking.get(),
        amp_wrong_signatures: tallies.amp_wrong_signatures.get(),
        inbox_full: tallies.inbox_full.get() + counted.inbox_full,
    }
}

/// The upper bound, in nanoseconds, that this many of 100 turns kept; each bucket doubles the one before.
fn quantile(buckets: &[u64; TURN_BUCKETS], percent: u64) -> u64 {
    let total: u64 = buckets.iter().sum();
    let mut seen = 0;
    for (power, count) in buckets.iter().enumerate() {
        seen += count;
        if total > 0 && seen * 100 >= total * percent {
            return 1 << (power + 1).min(63);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_upper_bounds() {
        let mut buckets = [0; TURN_BUCKETS];
        assert_eq!(quantile(&buckets, 99), 0);
        buckets[10] = 98;
        buckets[20] = 2;
        assert_eq!((quantile(&buckets, 50), quantile(&buckets, 99)), (2048, 2 << 20));
    }
}
