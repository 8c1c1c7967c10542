//! The link from one thread to the inbox of another: what is on its way, in order, and the wake when a full inbox has room
//! again. Owns the messages that are not handed over yet; how many of these there may be is its user's policy.

use std::{collections::VecDeque, fmt, task::Waker};

/// Items that travel in one batch: the receiver handles a batch in one go, and others wait for that.
const BATCH_MAX: usize = 512;

/// A bounded inbox that says when it has room: [`Sender`](super::Sender), [`Mailer`](super::Mailer).
pub trait Inbox {
    /// What it takes.
    type Message;

    /// Puts a message in without waking the receiver: [`announce`](Self::announce) follows the last of a turn. A receiver
    /// that is gone drops it, as all that it had not read.
    ///
    /// # Errors
    /// The inbox is full: the message comes back, and `waker` is called when there is room.
    fn offer(&self, message: Self::Message, waker: &Waker) -> Result<(), Self::Message>;

    /// Wakes the receiver if it sleeps.
    fn announce(&self);
}

/// One thread's way to another thread's inbox. What is pushed waits until the [`flush`](Self::flush) at the end of the
/// sender's turn, which wakes the receiver at most once, and then for room: the link never loses anything, and it wakes
/// its own thread when the inbox has room. So its thread flushes in every turn and sleeps in between, whatever waits.
///
/// ```
/// use std::sync::Arc;
///
/// use amp_relay::reactor::{Link, inbox};
///
/// # fn main() -> std::io::Result<()> {
/// // Two threads with a poll each, here in one.
/// let (mut ours, theirs) = (mio::Poll::new()?, mio::Poll::new()?);
/// let waker = |poll: &mio::Poll| mio::Waker::new(poll.registry(), mio::Token(0)).map(Arc::new);
/// let (to_us, _) = inbox::<()>(1, waker(&ours)?);
/// let (to_them, at_theirs) = inbox::<&str>(1, waker(&theirs)?);
///
/// let mut link = Link::new(to_them, to_us.waker());
/// link.push("one");
/// link.push("two");
/// assert!(!link.flush(), "there is room for one");
///
/// // They: what a turn takes, and then this.
/// assert_eq!(at_theirs.try_recv(), Some("one"));
/// at_theirs.room_made();
///
/// // We are woken, and have a turn.
/// ours.poll(&mut mio::Events::with_capacity(1), None)?;
/// assert!(link.flush());
/// assert_eq!(at_theirs.try_recv(), Some("two"));
/// # Ok(())
/// # }
/// ```
pub struct Link<I: Inbox> {
    inbox: I,
    /// Wakes the thread that has this link.
    waker: Waker,
    waiting: VecDeque<I::Message>,
    full: u64,
}

impl<I: Inbox> Link<I> {
    /// A link to `inbox` of the thread that `waker` wakes.
    pub fn new(inbox: I, waker: Waker) -> Self {
        Self { inbox, waker, waiting: VecDeque::new(), full: 0 }
    }

    /// Takes a message along, behind those that wait.
    pub fn push(&mut self, message: I::Message) {
        self.waiting.push_back(message);
    }

    /// Hands over what waits, once a turn. False: the inbox is full; it wakes this thread when it has room.
    #[inline]
    pub fn flush(&mut self) -> bool {
        if !self.waiting.is_empty() {
            self.flush_with(|| None);
        }
        self.waiting.is_empty()
    }

    /// The same, and behind it what `next` yields, for a user that keeps its messages itself as long as it can. What it
    /// yielded last and found no room comes back; the inbox wakes this thread then.
    pub fn flush_with(&mut self, mut next: impl FnMut() -> Option<I::Message>) -> Option<I::Message> {
        let mut handed = false;
        let back = loop {
            let (message, is_ours) = match self.waiting.pop_front() {
                Some(message) => (message, true),
                None => match next() {
                    Some(message) => (message, false),
                    None => break None,
                },
            };
            let Err(message) = self.inbox.offer(message, &self.waker) else {
                handed = true;
                continue;
            };
            self.full += 1;
            if is_ours {
                self.waiting.push_front(message);
                break None;
            }
            break Some(message);
        };
        if handed {
            self.inbox.announce();
        }
        back
    }

    /// Messages that wait, batches as one.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Drops what waits and has become pointless.
    pub fn retain(&mut self, keep: impl FnMut(&I::Message) -> bool) {
        self.waiting.retain(keep);
    }

    /// How often a flush found the inbox full.
    pub fn full(&self) -> u64 {
        self.full
    }
}

/// Messages that travel in batches.
impl<T, I: Inbox<Message = Vec<T>>> Link<I> {
    /// Takes an item along, in the batch that waits last unless that is full.
    pub fn take(&mut self, item: T) {
        match self.waiting.back_mut() {
            Some(batch) if batch.len() < BATCH_MAX => batch.push(item),
            _ => self.waiting.push_back(vec![item]),
        }
    }

    /// Items that wait.
    pub fn items(&self) -> usize {
        self.waiting.iter().map(Vec::len).sum()
    }
}

impl<I: Inbox> fmt::Debug for Link<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("len", &self.len()).field("full", &self.full).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::Arc, time::Duration};

    use mio::{Events, Poll, Token};

    use super::*;
    use crate::reactor::{Receiver, Sender, inbox};

    /// A thread's poll and inbox.
    struct Side<T> {
        poll: Poll,
        to: Sender<T>,
        at: Receiver<T>,
    }

    impl<T: Send> Side<T> {
        fn new(capacity: usize) -> Self {
            let poll = Poll::new().expect("a poll");
            let waker = Arc::new(mio::Waker::new(poll.registry(), Token(0)).expect("a waker"));
            let (to, at) = inbox(capacity, waker);
            Self { poll, to, at }
        }

        fn is_woken(&mut self) -> bool {
            let mut events = Events::with_capacity(1);
            self.poll.poll(&mut events, Some(Duration::ZERO)).expect("polled");
            !events.is_empty()
        }

        fn take(&self, most: usize) -> Vec<T> {
            let taken = std::iter::from_fn(|| self.at.try_recv()).take(most).collect();
            self.at.room_made();
            taken
        }
    }

    #[test]
    fn what_finds_no_room_waits_in_order_and_its_thread_is_woken_when_there_is() {
        let (mut here, there) = (Side::<()>::new(1), Side::new(2));
        let mut link = Link::new(there.to.clone(), here.to.waker());
        (1..=5).for_each(|n| link.push(n));
        assert!(!link.flush());
        assert_eq!((link.len(), link.full(), there.at.full()), (3, 1, 1));
        assert!(!here.is_woken(), "there is no room");
        assert_eq!(there.take(1), [1]);
        assert!(here.is_woken(), "there is");
        assert!(!here.is_woken(), "once");
        assert!(!link.flush());
        assert_eq!(there.take(5), [2, 3]);
        assert!(here.is_woken());
        assert!(link.flush() && link.is_empty());
        assert_eq!(there.take(5), [4, 5]);
        assert!(!here.is_woken(), "nothing waited");
    }

    #[test]
    fn a_flush_wakes_a_receiver_that_sleeps_once() {
        let (here, mut there) = (Side::<()>::new(1), Side::new(2));
        let mut link = Link::new(there.to.clone(), here.to.waker());
        (1..=3).for_each(|n| link.push(n));
        assert!(there.at.sleep_begin(), "what is pushed is not sent yet");
        assert!(!link.flush());
        assert_eq!((there.at.wakes(), there.is_woken()), (1, true), "also one whose inbox was filled");
        there.at.sleep_end();
        assert_eq!(there.take(2), [1, 2]);
        assert!(link.flush());
        assert_eq!(there.at.wakes(), 1, "it is awake");
    }

    #[test]
    fn a_user_keeps_what_its_link_has_no_room_for() {
        let (mut here, there) = (Side::<()>::new(1), Side::new(3));
        let mut link = Link::new(there.to.clone(), here.to.waker());
        link.push(1);
        let mut rest = 2..;
        assert_eq!(link.flush_with(|| rest.next()), Some(4), "behind what was pushed");
        link.push(0);
        let mut asked = false;
        let next = || {
            asked = true;
            None
        };
        assert_eq!(link.flush_with(next), None);
        assert_eq!((asked, link.len()), (false, 1), "what was pushed goes first");
        assert_eq!(there.take(3), [1, 2, 3]);
        assert!(here.is_woken());
    }

    #[test]
    fn items_travel_in_batches_of_a_bounded_size() {
        let (here, there) = (Side::<()>::new(1), Side::new(1));
        let mut link = Link::new(there.to.clone(), here.to.waker());
        (0..BATCH_MAX + 1).for_each(|n| link.take(n));
        assert_eq!((link.len(), link.items()), (2, BATCH_MAX + 1));
        assert!(!link.flush());
        link.take(BATCH_MAX + 1);
        assert_eq!((link.len(), link.items()), (1, 2), "it joins what waits");
        assert_eq!(there.take(1)[0].len(), BATCH_MAX);
        assert!(link.flush());
        assert_eq!(there.take(1), [[BATCH_MAX, BATCH_MAX + 1]]);
    }

    #[test]
    fn nothing_waits_for_a_receiver_that_is_gone() {
        let (mut here, there) = (Side::<()>::new(1), Side::new(1));
        let mut link = Link::new(there.to.clone(), here.to.waker());
        link.push(1);
        link.push(2);
        assert!(!link.flush());
        drop(there.at);
        assert!(here.is_woken());
        assert!(link.flush() && link.is_empty());
    }

    #[test]
    fn threads_that_sleep_on_both_ends_get_everything_in_order() {
        const EACH: u32 = 5_000;
        let there = Side::new(2);
        std::thread::scope(|scope| {
            for sender in 0..2 {
                let to = there.to.clone();
                scope.spawn(move || {
                    let mut here = Side::<()>::new(1);
                    let mut link = Link::new(to, here.to.waker());
                    let mut events = Events::with_capacity(1);
                    for n in 0..EACH {
                        link.push((sender, n));
                        while !link.flush() {
                            here.poll.poll(&mut events, None).expect("polled");
                        }
                    }
                });
            }
            let Side { mut poll, at, .. } = there;
            let mut events = Events::with_capacity(1);
            let mut next = [0, 0];
            while next != [EACH, EACH] {
                while let Some((sender, n)) = at.try_recv() {
                    assert_eq!(std::mem::replace(&mut next[sender], n + 1), n);
                }
                at.room_made();
                if next != [EACH, EACH] && at.sleep_begin() {
                    poll.poll(&mut events, None).expect("polled");
                }
                at.sleep_end();
            }
        });
    }
}
