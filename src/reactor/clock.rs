//! The only place of this layer that reads clocks: once at the start of a turn and once at its end.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use crate::base::Now;

static START: OnceLock<Instant> = OnceLock::new();

pub(super) const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// How long a reading of the calendar clock is carried forward on the monotonic one: a clock that is set shows after
/// that time.
const CALENDAR_NS: u64 = NS_PER_S;

/// Reads both clocks, for threads that have no turn to take the time from; callbacks have [`Io::now`](super::Io::now). All
/// threads of a process share the same fixed point of `mono_ms`. Workers notice within a second that the calendar was set.
pub fn now() -> Now {
    let mut clock = TurnClock::new();
    let ns = clock.read_ns();
    clock.at(ns)
}

/// A worker's clock: reads the calendar about once a second and carries it forward in between. Its instants are nanoseconds
/// since the process read its first: they cost less to compare than [`Instant`]s, several times in each turn.
#[derive(Debug)]
pub(super) struct TurnClock {
    start: Instant,
    /// When the calendar was read, and what it said.
    calendar: Option<(u64, u64)>,
}

impl TurnClock {
    pub(super) fn new() -> Self {
        Self { start: *START.get_or_init(Instant::now), calendar: None }
    }

    /// The instant.
    pub(super) fn read_ns(&self) -> u64 {
        let since = self.start.elapsed();
        since.as_secs() * NS_PER_S + u64::from(since.subsec_nanos())
    }

    /// The time as a value at this instant.
    pub(super) fn at(&mut self, ns: u64) -> Now {
        let (read_ns, unix_ms) = match self.calendar {
            Some((read_ns, unix_ms)) if ns - read_ns < CALENDAR_NS => (read_ns, unix_ms),
            _ => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                *self.calendar.insert((ns, since.as_millis() as u64))
            }
        };
        Now { mono_ms: ns / NS_PER_MS, unix_ms: unix_ms + (ns - read_ns) / NS_PER_MS }
    }
}
