//! Numbers for metrics. Owns the rule that one thread writes and all may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number, written by one thread and read by all.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning thread may.
    pub fn add(&self, n: u64) {
        // One writer: a load and a store are enough, and cheaper than a locked addition.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes away, of a level; only the owning thread may.
    pub fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    /// Sets a level; only the owning thread may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
