//! What travels between the threads of a relay. Below all of them: it knows no thread, and every thread knows it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use ed25519_dalek::SigningKey;
use parking_lot::Mutex;

use crate::{
    base::ConnToken,
    reactor::{Link, Mailer, ws::Framed},
    relay::{
        SignedIn,
        admission::Judged,
        api::{Error, Out, Text},
        delivery::{Checked, Job, Lane, PeerMail, Signed},
        keys::{KeySet, KeysFound},
        message::Reply,
        signer,
    },
};

/// To the crypto thread.
pub(super) enum Order {
    /// Does this, and mails what comes of it with the lane.
    Job(Lane, Job),
    /// Ends.
    End,
}

/// The keys of sessions, by DID: made with the sessions, used here.
#[derive(Clone, Default)]
pub(super) struct SessionKeys(pub(super) Arc<Mutex<HashMap<Text, SigningKey>>>);

impl signer::SessionKeys for SessionKeys {
    fn key(&self, did: &str) -> Option<SigningKey> {
        self.0.lock().get(did).cloned()
    }
}

/// To a worker.
pub(super) enum Mail {
    /// A sign-in was checked.
    SignedIn { peer: ConnToken, lane: Lane, result: Result<SignedIn, Error> },
    /// The keys in force have changed.
    Keys(Arc<KeySet>),
    /// The keys file was read because this peer asked for it.
    KeysRead { peer: ConnToken, id: Text, result: Box<Result<KeysFound, Error>> },
    /// What the core has for peers of this worker, in order, and how much of it is large.
    Core(Vec<Out>, Option<OnWay>),
    /// There is a session, and agents may write to it.
    Session { session: Text, did: Text },
    /// A session is gone, and its DID with it.
    SessionGone { did: Text },
    /// What another worker's core has for ours, in order.
    Peer(PeerMail<Framed>, Option<OnWay>),
    /// A HELLO was judged.
    Judged { peer: ConnToken, lane: Lane, judged: Option<Judged> },
    /// Messages of agents of this worker were checked, in order.
    Checked(Vec<Checked<Framed>>),
    /// What the relay or a session says, signed.
    Signed(Signed),
    /// A session says this to an agent.
    Said(Box<Reply>),
    /// The sessions have taken a message of each of these connections.
    Taken(Vec<ConnToken>),
}

/// Bytes of messages that are on their way to one worker at once, of all others together: a turn puts no more than this into the
/// queue of one receiver before the kernel is asked whether that takes it.
const ON_WAY_BYTES: usize = 1024 * 1024;
/// The least of these that one worker has for another.
const ON_WAY_BYTES_MIN: usize = 64 * 1024;

/// What one worker has on its way to another.
pub(super) struct Way {
    bytes: Arc<AtomicUsize>,
    most: usize,
    /// Wakes the worker that sends.
    waker: Waker,
}

impl Way {
    /// Whether more may be sent. The sender is woken once that is so again.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Acquire) < self.most
    }

    /// So much more, until this is dropped.
    pub(super) fn add(&self, bytes: usize) -> OnWay {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        OnWay { of: self.bytes.clone(), count: bytes, most: Some(self.most), waker: Some(self.waker.clone()) }
    }
}

/// Large answers that are on their way to a worker, or that it is framing.
#[derive(Clone, Default)]
pub(super) struct LargeOut(Arc<AtomicUsize>);

impl LargeOut {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// So many more, until this is dropped: then `waker` is woken.
    pub(super) fn add(&self, count: usize, waker: &Waker) -> Option<OnWay> {
        (count > 0).then(|| {
            self.0.fetch_add(count, Ordering::AcqRel);
            OnWay { of: self.0.clone(), count, most: None, waker: Some(waker.clone()) }
        })
    }
}

/// What travels in one mail: bytes, or a number of large answers. It is on its way until this is dropped.
pub(super) struct OnWay {
    of: Arc<AtomicUsize>,
    count: usize,
    /// Where so much may be on its way, the sender is woken only once there is room again, else each time.
    most: Option<usize>,
    waker: Option<Waker>,
}

impl OnWay {
    /// The mail found no room: it is not on its way, and no thread is woken for that.
    pub(super) fn take_back(mut self) {
        self.waker = None;
    }
}

impl Drop for OnWay {
    fn drop(&mut self) {
        let before = self.of.fetch_sub(self.count, Ordering::AcqRel);
        let has_room_again = self.most.is_none_or(|most| before >= most && before - self.count < most);
        if let Some(waker) = self.waker.as_ref().filter(|_| has_room_again) {
            waker.wake_by_ref();
        }
    }
}

/// The inboxes of all workers, by index.
#[derive(Clone)]
pub(super) struct Mailers(pub(super) Arc<[Mailer<Mail>]>);

impl Mailers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Links to all workers, of the thread that `waker` wakes.
    pub(super) fn links(&self, waker: &Waker) -> Links {
        let links = self.0.iter().map(|mailer| Link::new(mailer.clone(), waker.clone())).collect();
        Links { links, waits: false }
    }

    /// The ways to all workers, of the worker that `waker` wakes.
    pub(super) fn ways(&self, waker: &Waker) -> Vec<Way> {
        let most = (ON_WAY_BYTES / self.len().saturating_sub(1).max(1)).max(ON_WAY_BYTES_MIN);
        let way = || Way { bytes: Arc::default(), most, waker: waker.clone() };
        std::iter::repeat_with(way).take(self.len()).collect()
    }

    /// What has a worker take a turn.
    pub(super) fn waker(&self, worker: u16) -> Waker {
        self.0.get(usize::from(worker)).map_or_else(|| Waker::noop().clone(), Mailer::waker)
    }
}

/// One thread's links to all workers, by index. Mail for a worker that does not exist goes nowhere.
pub(super) struct Links {
    links: Vec<Link<Mailer<Mail>>>,
    /// Something may wait in one of them.
    waits: bool,
}

impl Links {
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Takes mail along, behind what waits for that worker.
    pub(super) fn push(&mut self, worker: usize, mail: Mail) {
        if let Some(link) = self.links.get_mut(worker) {
            link.push(mail);
            self.waits = true;
        }
    }

    /// Hands over what waits. False: an inbox is full; it wakes this thread when it has room.
    pub(super) fn flush(&mut self) -> bool {
        if self.waits {
            let blocked = self.links.iter_mut().filter_map(|link| (!link.flush()).then_some(())).count();
            self.waits = blocked > 0;
        }
        !self.waits
    }

    /// See [`Link::flush_with`].
    pub(super) fn flush_with(&mut self, worker: usize, next: impl FnMut() -> Option<Mail>) -> Option<Mail> {
        self.links.get_mut(worker)?.flush_with(next)
    }

    /// Drops what waits and has become pointless.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Mail) -> bool) {
        self.links.iter_mut().for_each(|link| link.retain(&mut keep));
    }
}

/// Workers that keep their mail and do nothing else.
#[cfg(test)]
pub(super) mod sink {
    use std::{os::fd::AsFd, time::Duration};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::{Mail, Mailers};
    use crate::{
        base::Fault,
        reactor::{Control, Io, Listen, Options, Peer, Protocol, Reactor, Refuse, Worker},
    };

    /// What came, oldest first.
    #[derive(Default)]
    pub(in crate::server) struct Sink(pub(in crate::server) Vec<Mail>);

    impl Protocol for Sink {
        type Conn = ();
        type Mail = Mail;

        fn accept(&mut self, _: &mut Io<'_, Self>, _: &Peer) -> Result<(), Refuse> {
            Ok(())
        }

        fn input(&mut self, (): &mut (), _: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
            Ok(bytes.len())
        }

        fn mail(&mut self, _: &mut Io<'_, Self>, mail: Mail) {
            self.0.push(mail);
        }
    }

    /// So many, with inboxes of so many places.
    pub(in crate::server) fn workers(workers: usize, places: usize) -> (Vec<Worker<Sink>>, Mailers, Control) {
        let listeners = vec![Listen::Tcp(([127, 0, 0, 1], 0).into())];
        let options = Options { workers, inbox_capacity: places, listeners, ..Options::default() };
        let bound = Reactor::bind::<Sink>(options).expect("a loop");
        let (mailers, control) = (Mailers(bound.mailers().into()), bound.control());
        let mut workers = bound.into_workers(|_, _| Sink::default()).expect("workers");
        // The first looks for connections; from then on there is nothing to do.
        workers.iter_mut().for_each(|worker| drop(take(worker)));
        (workers, mailers, control)
    }

    /// Takes all that is in a worker's inbox, in one turn.
    pub(in crate::server) fn take(worker: &mut Worker<Sink>) -> Vec<Mail> {
        worker.turn(Some(Duration::ZERO)).expect("a turn");
        std::mem::take(&mut worker.protocol().0)
    }

    /// Whether a worker that sleeps would be awake by now.
    pub(in crate::server) fn is_woken(worker: &impl AsFd) -> bool {
        let mut events = [PollFd::new(worker, PollFlags::IN)];
        poll(&mut events, Some(&Timespec::default())).expect("polled") > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{sink::*, *};

    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_sender_of_large_answers_is_woken_when_they_are_done_and_not_when_they_found_no_room() {
        let (large, woken) = (LargeOut::default(), Arc::new(Woken(AtomicUsize::new(0))));
        let waker = Waker::from(woken.clone());
        assert!(large.add(0, &waker).is_none());
        let (one, two) = (large.add(1, &waker).expect("one"), large.add(2, &waker).expect("two"));
        assert_eq!(large.count(), 3);
        two.take_back();
        assert_eq!((large.count(), woken.0.load(Ordering::Relaxed)), (1, 0));
        drop(one);
        assert_eq!((large.count(), woken.0.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn no_more_is_on_its_way_to_a_worker_than_one_turn_is_to_take() {
        let (_workers, mailers, _) = workers(3, 1);
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let ways = mailers.ways(&Waker::from(woken.clone()));
        let woken = || woken.0.load(Ordering::Relaxed);
        let half = ON_WAY_BYTES / 4;
        assert!(ways.len() == 3 && ways[1].has_room());
        let first = ways[1].add(half);
        assert!(ways[1].has_room());
        let second = ways[1].add(half);
        assert!(!ways[1].has_room() && ways[2].has_room(), "two workers share what the third may be sent");
        let third = ways[1].add(half);
        drop(first);
        assert!(!ways[1].has_room() && woken() == 0);
        drop(second);
        assert!(ways[1].has_room() && woken() == 1, "there is room again");
        drop(third);
        assert_eq!(woken(), 1, "there was room");
        let most = ways[1].add(2 * half);
        assert!(!ways[1].has_room());
        most.take_back();
        assert!(ways[1].has_room() && woken() == 1, "it never left");
    }

    fn gone(did: &str) -> Mail {
        Mail::SessionGone { did: did.into() }
    }

    #[test]
    fn a_worker_that_found_another_ones_inbox_full_sleeps_until_there_is_room() {
        let (mut workers, mailers, _) = workers(2, 1);
        let [here, there] = &mut workers[..] else { panic!("two") };
        let mut links = mailers.links(&mailers.waker(0));
        links.push(1, gone("a"));
        links.push(1, gone("b"));
        links.push(7, gone("for a worker that does not exist"));
        assert!(!links.flush());
        assert_ne!(here.arm(), Some(Duration::ZERO), "there is nothing to do");
        assert!(!is_woken(here));
        assert!(matches!(&take(there)[..], [Mail::SessionGone { did }] if &**did == "a"));
        assert!(is_woken(here));
        assert!(links.flush());
        assert!(matches!(&take(there)[..], [Mail::SessionGone { did }] if &**did == "b"));
    }
}
