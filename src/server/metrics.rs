//! Figures that threads keep and any thread may read: relaxed atomics, summed at a scrape.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    dialect::{
        admin::{Facts, WorkerFacts},
        session,
    },
    reactor::{CLOSE_LABELS, Counter, TURN_BUCKETS, WorkerCounters},
    relay::{api::State, delivery},
};

/// What a worker counts besides its loop.
#[derive(Debug, Default)]
#[repr(align(128))] // Two workers never share a cache line.
pub(super) struct WorkerTallies {
    pub(super) devices: Arc<session::Counters>,
    pub(super) agents: Arc<delivery::Counters>,
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
    let (counted, agents, devices) = (counters.snapshot(), &tallies.agents, &tallies.devices);
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
        session_in: devices.messages_in.get(),
        session_out: devices.messages_out.get(),
        sign_in_failures: devices.sign_in_failures.get() + agents.sign_in_failures.get(),
        devices: devices.devices.get(),
        amp_in: agents.messages_in.get(),
        amp_out: agents.messages_out.get(),
        agents: agents.agents.get(),
        amp_checking: agents.checking.get(),
        amp_gathering: agents.gathering.get(),
        amp_stuck: agents.stuck.get(),
        amp_wrong_signatures: agents.wrong_signatures.get(),
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
