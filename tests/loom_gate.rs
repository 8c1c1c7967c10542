//! The wake gate of the inboxes through every interleaving that loom finds.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --no-default-features --release --test loom_gate`.
#![cfg(loom)]

use amp_relay::reactor::gate::Gate;
use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A queue without a waker of its own, and a waker that remembers one wake, as an eventfd does.
struct Inbox {
    gate: Gate,
    queue: AtomicUsize,
    woken: Mutex<bool>,
}

/// The consumer sleeps when its queue is empty. If it goes to sleep although something was pushed, somebody must have
/// woken it: otherwise it would sleep for ever.
fn no_wake_is_lost(producers: usize, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let inbox = Arc::new(Inbox { gate: Gate::new(), queue: AtomicUsize::new(0), woken: Mutex::new(false) });
        let threads: Vec<_> = (0..producers)
            .map(|_| {
                let inbox = inbox.clone();
                thread::spawn(move || {
                    inbox.queue.fetch_add(1, Ordering::Release);
                    if inbox.gate.pushed() {
                        *inbox.woken.lock().unwrap() = true;
                    }
                })
            })
            .collect();
        // One sleep while the producers run, as the worker does it.
        let mut seen = inbox.queue.load(Ordering::Acquire);
        inbox.gate.shut();
        let sleeps = inbox.queue.load(Ordering::Acquire) == seen;
        if !sleeps {
            inbox.gate.open();
            seen = inbox.queue.load(Ordering::Acquire);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        let pushed = inbox.queue.load(Ordering::Acquire) > seen;
        if sleeps && pushed {
            assert!(*inbox.woken.lock().unwrap(), "asleep for ever with mail in the inbox");
        }
    });
}

#[test]
fn one_producer() {
    no_wake_is_lost(1, 3);
}

#[test]
fn two_producers() {
    no_wake_is_lost(2, 3);
}
