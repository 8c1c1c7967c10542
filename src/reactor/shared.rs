//! What workers and the handles to them have in common: what lies in an inbox, and the two flags that end every worker,
//! drain and stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::stream::Accepted;

/// What lies in a worker's inbox.
pub(super) enum InboxItem<M> {
    Mail(M),
    Stream(Accepted),
}

impl<M> InboxItem<M> {
    /// The mail that comes back.
    pub(super) fn mail(self) -> M {
        match self {
            Self::Mail(mail) => mail,
            Self::Stream(_) => unreachable!("what comes back is what was sent"),
        }
    }
}

/// The flags that all workers read, and what wakes them to do so.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) drain: AtomicBool,
    pub(super) stop: AtomicBool,
    pub(super) wakers: Vec<Arc<mio::Waker>>,
}

impl Shared {
    pub(super) fn tell(&self, word: &AtomicBool) {
        if !word.swap(true, Ordering::AcqRel) {
            for waker in &self.wakers {
                if let Err(error) = waker.wake() {
                    log::error!(error:%; "cannot wake a worker");
                }
            }
        }
    }
}
