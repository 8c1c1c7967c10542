//! All connections end at once, and all clients come back as fast as they can: connect, upgrade, HELLO, HELLO_ACK.

use std::{thread, time::Duration};

use super::{Readings, Run, SETTLE, joined};
use crate::{
    cli::Pattern,
    engine::{Plan, Shared, Tally, World},
    failure::Failure,
    report::Latency,
};

/// A client that is not back by then never comes.
const STORM_MAX: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(2);

impl Run<'_> {
    pub(super) fn storm(&mut self) -> Result<(Readings, Tally), Failure> {
        let mut threads = Vec::new();
        for job in self.jobs(Pattern::Echo) {
            let world = World::new(job, self.shared.clone()).map_err(|error| error.to_string())?;
            threads.push(thread::spawn(move || world.run()));
        }
        self.gather(&mut threads)?;
        let before = self.sample();
        let start = self.shared.now() + SETTLE.as_nanos() as u64;
        let end = start + STORM_MAX.as_nanos() as u64;
        // No other code sets it.
        let _ = self.shared.plan.set(Plan { start, count_from: start, end, drain: end, ..Plan::default() });
        self.bar.set_prefix("storm");
        while !threads.iter().all(thread::JoinHandle::is_finished) {
            self.bar.set_position(Shared::sum(&self.shared.delivered));
            thread::sleep(LOOK);
        }
        let mut after = self.sample();
        let mut tally = Tally::new();
        for thread in threads {
            tally.add(joined(thread)?);
        }
        after.1 = tally.delivered;
        if let Some(handshakes) = tally.parts.first() {
            self.steps.insert("handshake", Latency::of(handshakes));
        }
        Ok((Readings { before, after, idle: None }, tally))
    }
}
