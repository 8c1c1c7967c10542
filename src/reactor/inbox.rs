//! The bounded channel into a thread that sleeps in a poll, with its gated waker. Owns the queue and the gate; what a
//! full inbox means is the sender's policy. Workers have one each ([`Mailer`](super::Mailer) sends to it); a host's other
//! threads that sleep in a poll of their own may use it too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Wake, Waker},
};

use crossbeam_channel::TrySendError;

use super::{gate::Gate, link::Inbox, room::Room};

#[derive(Debug)]
struct Shared {
    gate: Gate,
    room: Room,
    waker: Arc<mio::Waker>,
    wakes: AtomicU64,
    full: AtomicU64,
}

impl Shared {
    fn wake_now(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.waker.wake() {
            // The descriptor is ours and stays open as long as this sender; the receiver also wakes by its timers.
            log::error!(error:%; "cannot wake a thread");
        }
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_now();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_now();
    }
}

/// Makes the inbox of a thread that polls `waker`'s poll. `capacity` is in messages, at least one; senders are told when it
/// is full. The thread takes what is there, then, before each sleep:
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use amp_relay::reactor::inbox;
///
/// let mut poll = mio::Poll::new()?;
/// let waker = mio::Waker::new(poll.registry(), mio::Token(0))?;
/// let (sender, receiver) = inbox::<&str>(16, Arc::new(waker));
/// let other = std::thread::spawn(move || sender.try_send("hello"));
///
/// let mut events = mio::Events::with_capacity(8);
/// let heard = loop {
///     if let Some(message) = receiver.try_recv() {
///         receiver.room_made(); // once a turn, behind the last that it takes
///         break message;
///     }
///     // None sleeps until something comes; zero looks at the other events only.
///     let wait = if receiver.sleep_begin() { None } else { Some(Duration::ZERO) };
///     poll.poll(&mut events, wait)?;
///     receiver.sleep_end();
/// };
/// assert_eq!(heard, "hello");
/// assert!(other.join().is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn inbox<T: Send>(capacity: usize, waker: Arc<mio::Waker>) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity.max(1));
    let (gate, room) = (Gate::new(), Room::new());
    let shared = Arc::new(Shared { gate, room, waker, wakes: AtomicU64::new(0), full: AtomicU64::new(0) });
    let gone = Gone(shared.clone());
    (Sender { queue: sender, shared: shared.clone() }, Receiver { queue: receiver, shared, _gone: gone })
}

/// The sending side, for any number of threads. Cloning is cheap.
#[derive(Debug)]
pub struct Sender<T> {
    queue: crossbeam_channel::Sender<T>,
    shared: Arc<Shared>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), shared: self.shared.clone() }
    }
}

impl<T> Sender<T> {
    /// Pushes, and wakes the receiver if it sleeps.
    ///
    /// # Errors
    /// The inbox is full or its receiver is gone: the message comes back. To wait for room: [`Link`](super::Link).
    pub fn try_send(&self, message: T) -> Result<(), T> {
        match self.queue.try_send(message) {
            Ok(()) => {
                self.announce();
                Ok(())
            }
            Err(error) => {
                self.shared.full.fetch_add(1, Ordering::Relaxed);
                Err(error.into_inner())
            }
        }
    }

    /// Wakes the receiver whether it sleeps or not: for news that do not travel in the queue.
    pub fn wake(&self) {
        self.shared.wake_now();
    }

    /// What wakes the receiver, whether it sleeps or not: for the links of the receiving thread.
    pub fn waker(&self) -> Waker {
        self.shared.clone().into()
    }

    /// Pushes; a receiver that is gone drops it.
    fn push(&self, message: T) -> Result<(), T> {
        match self.queue.try_send(message) {
            Err(TrySendError::Full(message)) => Err(message),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    #[cold]
    fn offer_again(&self, message: T, waker: &Waker) -> Result<(), T> {
        self.shared.room.wait(waker);
        self.push(message).inspect_err(|_| {
            self.shared.full.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl<T> Inbox for Sender<T> {
    type Message = T;

    fn offer(&self, message: T, waker: &Waker) -> Result<(), T> {
        self.push(message).or_else(|message| self.offer_again(message, waker))
    }

    fn announce(&self) {
        if self.shared.gate.pushed() {
            self.wake();
        }
    }
}

/// Wakes the senders that wait for room once the receiver is gone: no room will come.
#[derive(Debug)]
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.room.made();
    }
}

/// The receiving side, of one thread.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: crossbeam_channel::Receiver<T>,
    shared: Arc<Shared>,
    /// Behind the queue, which is closed when this is dropped.
    _gone: Gone,
}

impl<T> Receiver<T> {
    /// Says that the thread is about to sleep. False: something came meanwhile, do not sleep. Call
    /// [`sleep_end`](Self::sleep_end) after the poll in both cases.
    pub fn sleep_begin(&self) -> bool {
        self.shared.gate.shut();
        self.queue.is_empty()
    }

    /// Says that the thread is awake.
    pub fn sleep_end(&self) {
        self.shared.gate.open();
    }

    /// Wakes the senders that found the inbox full and wait for room: once a turn, behind the last message that it takes.
    pub fn room_made(&self) {
        self.shared.room.made();
    }

    /// The next message, or none now. A turn that took some ends with [`room_made`](Self::room_made).
    pub fn try_recv(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How often a sender paid for a wake.
    pub fn wakes(&self) -> u64 {
        self.shared.wakes.load(Ordering::Relaxed)
    }

    /// How often a sender found the inbox full, or its receiver gone.
    pub fn full(&self) -> u64 {
        self.shared.full.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_is_woken_once_and_a_full_inbox_gives_back() {
        let mut poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(7)).unwrap());
        let (sender, receiver) = inbox::<u32>(2, waker);
        sender.try_send(1).unwrap();
        assert_eq!(receiver.wakes(), 0, "nobody sleeps, nobody wakes");
        assert!(!receiver.sleep_begin(), "something is there");
        receiver.sleep_end();
        assert_eq!(receiver.try_recv(), Some(1));
        assert!(receiver.sleep_begin());
        sender.try_send(2).unwrap();
        sender.try_send(3).unwrap();
        assert_eq!(receiver.wakes(), 1);
        assert_eq!(sender.try_send(4), Err(4));
        assert_eq!(receiver.full(), 1);
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, None).unwrap();
        receiver.sleep_end();
        assert_eq!(events.iter().map(|event| event.token().0).collect::<Vec<_>>(), [7]);
        assert_eq!((receiver.try_recv(), receiver.try_recv(), receiver.try_recv()), (Some(2), Some(3), None));
    }

    #[test]
    fn threads_lose_no_message_and_no_wake() {
        const EACH: u32 = 20_000;
        let mut poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let (sender, receiver) = inbox::<u32>(64, waker);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let sender = sender.clone();
                scope.spawn(move || {
                    for n in 0..EACH {
                        let mut n = n;
                        while let Err(back) = sender.try_send(n) {
                            n = back;
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut events = mio::Events::with_capacity(4);
            let mut got = 0;
            while got < 2 * EACH {
                while receiver.try_recv().is_some() {
                    got += 1;
                }
                if got < 2 * EACH && receiver.sleep_begin() {
                    poll.poll(&mut events, None).unwrap();
                }
                receiver.sleep_end();
            }
            assert_eq!(got, 2 * EACH);
        });
    }
}
