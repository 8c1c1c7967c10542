//! A relay in a loop of its host's own. Owns the workers that do not run by themselves; it must not turn them.

use std::{io, sync::Arc, time::Duration};

use ssh_key::PrivateKey;

use super::{Options, Runtime, ShutdownHandle, StartError, worker::Worker};
use crate::reactor::{self, BoundAddr, Turn, WorkerCounters, ws::Ws};

/// A relay with workers that its host turns. The supervisor and the crypto thread run by themselves; connections get
/// nothing between turns. Made for hosts with a loop of their own, and for counting what a turn costs.
pub struct ManualServer {
    workers: Vec<reactor::Worker<Ws<Worker>>>,
    counters: Arc<[Arc<WorkerCounters>]>,
    rest: Runtime,
}

impl ManualServer {
    /// Opens the listeners and starts the threads that are not workers.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub fn start(options: &Options, host_key: PrivateKey) -> Result<Self, StartError> {
        let (bound, handlers, rest) = Runtime::start(options, host_key)?;
        let counters = bound.counters();
        match bound.into_workers(move |index, _| handlers.make(index)) {
            Ok(workers) => {
                rest.shared.ready.store(true, std::sync::atomic::Ordering::Relaxed);
                Ok(Self { workers, counters, rest })
            }
            Err(error) => {
                rest.give_up();
                Err(error.into())
            }
        }
    }

    /// Where it listens, in the order of the options.
    pub fn addresses(&self) -> &[BoundAddr] {
        &self.rest.addresses
    }

    /// The counters of each worker, by its number.
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// One turn of each worker, which waits for events no longer than `max_wait`. [`Turn::Done`]: each of them has ended.
    ///
    /// # Errors
    /// A worker's poll failed.
    pub fn turn(&mut self, max_wait: Option<Duration>) -> io::Result<Turn> {
        let mut all = Turn::Done;
        for worker in &mut self.workers {
            if worker.turn(max_wait)? == Turn::Running {
                all = Turn::Running;
            }
        }
        Ok(all)
    }

    /// What can begin the end from another thread.
    pub fn stopper(&self) -> ShutdownHandle {
        self.rest.stopper()
    }

    /// Closes what is still connected and waits for the end of the threads. For a graceful stop, call [`ShutdownHandle::drain`] first,
    /// then turn until [`Turn::Done`].
    ///
    /// # Errors
    /// A thread failed.
    pub fn join(self) -> Result<(), String> {
        drop(self.workers);
        self.rest.join(Ok(()))
    }
}
