//! Connections that are held idle, then used once: the server's memory before, between and after.

use std::{sync::Arc, thread, time::Duration};

use super::{LOOK, Readings, Run};
use crate::{
    engine::{Plan, Shared},
    measure::{self, Memory},
    report::Idle,
};

/// How long the messages at the end may take.
const USE_MAX: Duration = Duration::from_secs(20);

impl Run<'_> {
    /// Holds the connections, then uses each once.
    pub(super) fn hold(&self, memory: Option<Memory>) -> Readings {
        let nanos = |seconds: f64| Duration::from_secs_f64(seconds).as_nanos() as u64;
        let start = self.shared.now();
        let count_from = start + nanos(self.options.warmup);
        self.wait("settle", start, count_from);
        let before = self.sample();
        let end = count_from + nanos(self.options.seconds);
        self.wait("hold", count_from, end);
        let after = self.sample();
        let connected = self.server.and_then(measure::memory_of);
        let idle = finish(&self.shared, u64::from(self.scenario.clients), self.server, memory, connected);
        Readings { before, after, idle }
    }
}

/// Sends one message on every connection, and reads the server's memory when all have arrived.
fn finish(
    shared: &Arc<Shared>,
    connections: u64,
    server: Option<u32>,
    before: Option<Memory>,
    connected: Option<Memory>,
) -> Option<Idle> {
    let now = shared.now();
    let drain = now + USE_MAX.as_nanos() as u64;
    // Only this function sets the plan of an idle run.
    let _ = shared.plan.set(Plan { start: now, count_from: now, end: drain, drain, once: true, ..Plan::default() });
    while shared.now() < drain && Shared::sum(&shared.delivered) < connections && !shared.is_stopped() {
        thread::sleep(LOOK);
    }
    let used = server.and_then(measure::memory_of);
    shared.release();
    let (before, connected, used) = (before?, connected?, used?);
    let share = |bytes: u64, before: u64| bytes.saturating_sub(before) as f64 / connections.max(1) as f64;
    let pss = |memory: Memory| Some(share(memory.pss?, before.pss?));
    let slab = |memory: Memory| Some(memory.slab?.saturating_sub(before.slab?) as f64);
    Some(Idle {
        connections,
        before: before.anonymous,
        connected: connected.anonymous,
        used: used.anonymous,
        bytes_per_connection: share(connected.anonymous, before.anonymous),
        bytes_per_connection_used: share(used.anonymous, before.anonymous),
        pss_per_connection: pss(connected),
        pss_per_connection_used: pss(used),
        slab_growth: slab(connected),
        slab_growth_used: slab(used),
    })
}
