//! Room in a queue that was full: the threads that wait for it, and the thread that makes it. Owns one flag and a list, and
//! knows neither the queue nor how a thread sleeps. `tests/loom_link.rs` runs it through every interleaving.

use std::{mem, sync::PoisonError, task::Waker};

#[cfg(loom)]
use loom::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering, fence},
};
#[cfg(not(loom))]
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering, fence},
};

/// Threads that found a bounded queue full. The protocol that leaves none of them asleep beside a queue with room:
///
/// - a sender that found the queue full calls [`wait`](Room::wait), tries **again**, and sleeps only if that failed too;
/// - the receiver takes what it takes in a turn, and calls [`made`](Room::made) before it sleeps.
///
/// It is the [`Gate`](super::gate::Gate) the other way round: both sides have a sequentially consistent fence between the
/// flag and the queue, so at least one of them sees the other. Only a sender that waits pays for more than a load.
#[derive(Debug, Default)]
pub struct Room {
    /// The list is not empty.
    awaited: AtomicBool,
    list: Mutex<Vec<Waker>>,
}

impl Room {
    /// A queue that no thread waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `waker` called once when there is room. The sender must try once more after this: room that was made before
    /// wakes nothing.
    pub fn wait(&self, waker: &Waker) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.iter().any(|known| known.will_wake(waker)) {
            list.push(waker.clone());
        }
        self.awaited.store(true, Ordering::Relaxed);
        drop(list);
        fence(Ordering::SeqCst);
    }

    /// The receiver has taken something. Wakes all that wait.
    pub fn made(&self) {
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        self.awaited.store(false, Ordering::Relaxed);
        let wakers = mem::take(&mut *list);
        drop(list);
        wakers.into_iter().for_each(Waker::wake);
    }
}
