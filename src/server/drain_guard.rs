//! The end of a thread that the relay cannot do without.

use std::sync::{Arc, atomic::Ordering};

use super::metrics::Shared;
use crate::reactor::Control;

/// Held by a thread that the relay cannot do without: ends the workers with it, also when it panics.
pub(super) struct DrainGuard(pub(super) Control, pub(super) Arc<Shared>);

impl Drop for DrainGuard {
    fn drop(&mut self) {
        self.1.draining.store(true, Ordering::Relaxed);
        self.0.drain();
    }
}
