//! What a held connection costs the server in memory: before the first, when all are in, and after each has carried a
//! message both ways.

use std::{sync::Arc, thread, time::Duration};

use crate::{
    engine::{Plan, Shared},
    measure,
    report::Idle,
};

/// How long the messages at the end may take.
const USE_MAX: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// Sends one message on every connection, and reads the server's memory when all have arrived.
pub(crate) fn finish(
    shared: &Arc<Shared>,
    connections: u64,
    server: Option<u32>,
    before: Option<u64>,
    connected: Option<u64>,
) -> Option<Idle> {
    let now = shared.now();
    let drain = now + USE_MAX.as_nanos() as u64;
    // Only this function sets the plan of an idle run.
    let _ = shared.plan.set(Plan { start: now, count_from: now, end: drain, drain, once: true });
    while shared.now() < drain && Shared::sum(&shared.delivered) < connections && !shared.is_stopped() {
        thread::sleep(LOOK);
    }
    let used = server.and_then(measure::memory_of);
    shared.release();
    let (before, connected, used) = (before?, connected?, used?);
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / connections.max(1) as f64;
    Some(Idle {
        connections,
        before,
        connected,
        used,
        bytes_per_connection: each(connected),
        bytes_per_connection_used: each(used),
    })
}
