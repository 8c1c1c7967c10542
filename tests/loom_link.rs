//! A link between two threads that both sleep, through every interleaving that loom finds: the wake of the receiver when
//! something came (`Gate`), and the wake of the sender when a full inbox has room (`Room`).
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --no-default-features --release --test loom_link`.
#![cfg(loom)]

use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use amp_relay::reactor::{gate::Gate, room::Room};
use loom::{
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Where a thread sleeps, and a waker that remembers one wake, as an eventfd does. A sleep that nothing ends is a deadlock,
/// which loom reports.
struct Bed {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Bed {
    fn new() -> Arc<Self> {
        Arc::new(Self { woken: Mutex::new(false), changed: Condvar::new() })
    }

    fn sleep(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

/// An inbox of one place. Its queue promises no more than that what is in it can be read: all order between it and the
/// flags is up to these.
struct Inbox {
    gate: Gate,
    room: Room,
    is_full: AtomicBool,
    receiver: Arc<Bed>,
}

impl Inbox {
    fn push(&self) -> bool {
        let has_room = !self.is_full.load(Ordering::Acquire);
        if has_room {
            self.is_full.store(true, Ordering::Release);
        }
        has_room
    }

    fn pop(&self) -> bool {
        let is_full = self.is_full.load(Ordering::Acquire);
        if is_full {
            self.is_full.store(false, Ordering::Release);
        }
        is_full
    }

    /// As `Link::flush` does it: says how many of them still wait.
    fn flush(&self, mut waiting: usize, waker: &Waker) -> usize {
        let mut handed = false;
        while waiting > 0 {
            if !self.push() {
                self.room.wait(waker);
                if !self.push() {
                    break;
                }
            }
            (waiting, handed) = (waiting - 1, true);
        }
        if handed && self.gate.pushed() {
            Waker::from(self.receiver.clone()).wake();
        }
        waiting
    }
}

fn no_message_stays_behind(messages: usize, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let receiver = Bed::new();
        let is_full = AtomicBool::new(false);
        let inbox = Arc::new(Inbox { gate: Gate::new(), room: Room::new(), is_full, receiver: receiver.clone() });
        let sending = {
            let (inbox, bed) = (inbox.clone(), Bed::new());
            thread::spawn(move || {
                let waker = Waker::from(bed.clone());
                let mut waiting = inbox.flush(messages, &waker);
                while waiting > 0 {
                    bed.sleep();
                    waiting = inbox.flush(waiting, &waker);
                }
            })
        };
        let mut got = 0;
        while got < messages {
            if inbox.pop() {
                got += 1;
                inbox.room.made();
                continue;
            }
            inbox.gate.shut();
            if !inbox.is_full.load(Ordering::Acquire) {
                receiver.sleep();
            }
            inbox.gate.open();
        }
        sending.join().unwrap();
    });
}

#[test]
fn two_messages() {
    no_message_stays_behind(2, 3);
}

#[test]
fn three_messages() {
    no_message_stays_behind(3, 2);
}
