//! Putting each receiver on another worker of the relay than its sender. Which worker accepts a connection is the
//! kernel's choice, so a connection that went wrong is ended and dialled again.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::World;
use crate::stats;

/// How long the relay's figures may lag behind.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(1);
/// A receiver that went wrong so often never goes right.
const DIALS_MAX: u32 = 200;

impl World {
    /// Looks where the newest connection went, and dials it again if that is the wrong worker.
    pub(super) fn place(&mut self) -> Result<(), String> {
        let at = self.places.workers.len();
        if self.in_count as usize <= at || at >= self.agents.len() {
            return Ok(());
        }
        let agents = self.agents_by_worker(at as u64 + 1)?;
        if agents.len() < 2 {
            return Err("--cross-workers needs a relay with two workers or more".into());
        }
        self.places.agents.resize(agents.len(), 0);
        let rose = agents.iter().zip(&self.places.agents).position(|(now, before)| now > before);
        let worker = rose.ok_or("no worker has the new agent")?;
        let senders = self.job.senders as usize;
        let is_wrong = at.checked_sub(senders).is_some_and(|sender| self.places.workers[sender] == worker);
        if !is_wrong {
            self.places.workers.push(worker);
            self.places.agents = agents;
            self.places.dials = 0;
            self.shared.ready[self.job.index].set(at as u64 + 1);
            return Ok(());
        }
        self.places.dials += 1;
        if self.places.dials > DIALS_MAX {
            return Err(format!("client {at} came to worker {worker} {DIALS_MAX} times"));
        }
        self.redial(at)?;
        // The old connection is gone before the new one says HELLO, for this thread goes on only then.
        self.agents_by_worker(at as u64).map(|_| ())
    }

    /// Agents of each worker, once they are so many.
    fn agents_by_worker(&self, expected: u64) -> Result<Vec<u64>, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let agents = stats::of_workers(self.job.target.address, "agents")?;
            if agents.iter().sum::<u64>() == expected {
                return Ok(agents);
            }
            if Instant::now() > deadline {
                return Err(format!("the relay counts {agents:?} agents, not {expected}: is it somebody else's?"));
            }
            thread::sleep(LOOK);
        }
    }
}
