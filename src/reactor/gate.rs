//! The gate in front of a sleeping thread: a producer pays for a wake only when the consumer sleeps. Owns one flag and
//! knows neither the queue nor the waker. `tests/loom_gate.rs` runs it through every interleaving.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether the consumer sleeps. The protocol that loses no wake:
///
/// - the consumer calls [`shut`](Gate::shut), looks at its queue **again**, and only then sleeps; awake again, it calls
///   [`open`](Gate::open);
/// - the producer pushes, and wakes if [`pushed`](Gate::pushed) says so.
///
/// Both sides write or read the flag on one side of a sequentially consistent fence and the queue on the other, so at
/// least one of them sees the other.
#[derive(Debug)]
pub struct Gate {
    sleeping: AtomicBool,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A gate with an awake consumer.
    pub fn new() -> Self {
        Self { sleeping: AtomicBool::new(false) }
    }

    /// The consumer is about to sleep; it must look at its queue once more after this.
    pub fn shut(&self) {
        self.sleeping.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// The consumer is awake.
    pub fn open(&self) {
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// The producer has pushed. True for exactly one producer a sleep: that one must wake the consumer.
    pub fn pushed(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel)
    }
}
