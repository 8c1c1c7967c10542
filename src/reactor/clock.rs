//! The only place of this layer that reads clocks: once at the start of a turn and once at its end.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use crate::base::Now;

static START: OnceLock<Instant> = OnceLock::new();

/// How long a reading of the calendar clock is carried forward on the monotonic one: a clock that is set shows after
/// that time.
const CALENDAR: Duration = Duration::from_secs(1);

/// Reads both clocks, for threads that have no turn to take the time from; callbacks have [`Io::now`](super::Io::now). All
/// threads of a process share the same fixed point of `mono_ms`. Workers notice within a second that the calendar was set.
pub fn now() -> Now {
    TurnClock::default().at(Instant::now())
}

/// A worker's clock: reads the calendar about once a second and carries it forward in between.
#[derive(Debug, Default)]
pub(super) struct TurnClock {
    calendar: Option<(Instant, u64)>,
}

impl TurnClock {
    /// The time as a value at this instant.
    pub(super) fn at(&mut self, instant: Instant) -> Now {
        let start = *START.get_or_init(|| instant);
        let (read, unix_ms) = match self.calendar {
            Some((read, unix_ms)) if instant.duration_since(read) < CALENDAR => (read, unix_ms),
            _ => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                *self.calendar.insert((instant, since.as_millis() as u64))
            }
        };
        Now {
            mono_ms: instant.duration_since(start).as_millis() as u64,
            unix_ms: unix_ms + instant.duration_since(read).as_millis() as u64,
        }
    }
}
