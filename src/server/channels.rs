//! What travels between the threads of a relay. Below all of them: it knows no thread, and every thread knows it.

use std::{collections::HashMap, sync::Arc, task::Waker};

use ed25519_dalek::SigningKey;
use parking_lot::Mutex;

use super::signatures::Checked;
use crate::{
    base::{CloseCode, ConnToken},
    dialect::{
        amp::{self, HelloJob, Refused, Say},
        session::VerifyJob,
    },
    reactor::{Link, Mailer, ws::Framed},
    relay::{
        Principal, SignedIn,
        api::{Caller, Error, Out, Request, Text},
        directory::{Courier, Payload, Why},
        keys::KeySet,
    },
    wire::amp::{Dialect, Frame, parse},
};

/// A message on its way through the directory: framed once, shared by all who get it.
#[derive(Clone)]
pub(super) struct Parcel {
    pub(super) framed: Framed,
    pub(super) dialect: Dialect,
    /// Whom to answer, on whichever worker.
    pub(super) sender: ConnToken,
    /// The number of the message among those of the sender's worker: of a repeated one it is another.
    pub(super) number: u32,
}

/// What it takes to tell a sender that its message was not handed over; `None`: it is not to be told.
pub(super) type Ticket = Option<Box<(u32, Refused)>>;

impl Payload for Parcel {
    type Ticket = Ticket;

    fn size(&self) -> usize {
        self.framed.wire_len()
    }

    fn ticket(&self) -> Self::Ticket {
        // Read once more: it is wanted for the few that fail, not for each that goes.
        let Ok(Frame::Envelope(view)) = parse(self.framed.payload()) else { return None };
        let refused = view.header.typ.may_be_refused_aloud().then(|| Refused::of(&view, amp::undelivered(Why::Lost)));
        refused.flatten().map(|refused| Box::new((self.number, refused)))
    }
}

/// Who waits for whom where the crypto thread is to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Connections over TCP that have proved nothing.
    Strangers,
    /// Connections on the Unix socket that have proved nothing.
    Local,
    /// What is for those who have proved a key.
    Admitted,
}

/// What the crypto thread does. What comes of it is mailed with the lane, which has room for one more then.
pub(super) enum Job {
    /// Judges a HELLO and signs the answer.
    Hello(Lane, Box<HelloJob>),
    /// Signs what the relay or a session says.
    Say(Lane, Box<Say>),
    /// Judges a sign-in.
    SignIn(Lane, VerifyJob),
    /// Reads the keys file again and says what came of it.
    Reload { peer: ConnToken, id: Text },
    /// Reads the keys file again.
    Refresh,
    /// Ends.
    End,
}

impl Job {
    /// For which connection it is.
    pub(super) fn peer(&self) -> Option<ConnToken> {
        match self {
            Self::Hello(_, job) => Some(job.peer),
            Self::SignIn(_, job) => Some(job.peer),
            Self::Reload { peer, .. } => Some(*peer),
            Self::Say(_, say) => Some(say.peer),
            Self::Refresh | Self::End => None,
        }
    }
}

/// A HELLO that was checked, with our signed answer.
#[derive(Debug)]
pub(super) struct Hello {
    /// Who it proved to be; `None` for a HELLO to an alias.
    pub(super) principal: Option<Principal>,
    /// HELLO_ACK, HELLO_REJECT or ERROR.
    pub(super) answer: Vec<u8>,
    /// Close behind the answer.
    pub(super) close: Option<(CloseCode, &'static str)>,
}

/// The keys of sessions, by DID: made with the sessions, used here.
pub(super) type SessionKeys = Arc<Mutex<HashMap<Text, SigningKey>>>;

/// What the keys file holds.
#[derive(Debug)]
pub(super) struct KeysFound {
    /// Its path.
    pub(super) file: Text,
    /// Keys in force.
    pub(super) entries: usize,
    /// Lines that are not.
    pub(super) refused: usize,
}

/// To a worker.
pub(super) enum Mail {
    /// A sign-in was checked.
    SignedIn { peer: ConnToken, lane: Lane, result: Result<SignedIn, Error> },
    /// The keys in force have changed.
    Keys(Arc<KeySet>),
    /// The keys file was read because this peer asked for it.
    KeysRead { peer: ConnToken, id: Text, result: Box<Result<KeysFound, Error>> },
    /// What the core has for peers of this worker, in order.
    Core(Vec<Out>),
    /// There is a session, and agents may write to it.
    Session { session: Text, did: Text },
    /// A session is gone, and its DID with it.
    SessionGone { did: Text },
    /// What another worker's directory has for ours, in order.
    Directory(Vec<Courier<Parcel>>),
    /// A HELLO was checked. None: no answer can be written, and the connection runs into its time limit.
    Hello { peer: ConnToken, lane: Lane, hello: Option<Hello> },
    /// Messages of agents of this worker were checked, in order.
    Checked(Vec<Checked>),
    /// What the relay says, signed.
    Said { peer: ConnToken, lane: Lane, frame: Vec<u8>, close: Option<(CloseCode, &'static str)> },
    /// A receiver on another worker takes nothing: do not read this sender.
    Hold(ConnToken),
    /// Such a receiver takes more again, or is gone.
    Freed(ConnToken),
}

/// To the supervisor; a worker sends one batch a turn.
pub(super) enum ToCore {
    /// A command.
    Request(Box<Caller>, Request),
    /// The peer's send queue is above its high mark.
    Paused(ConnToken),
    /// It has drained.
    Resumed(ConnToken),
    /// The peer is gone.
    Gone(ConnToken),
}

/// The inboxes of all workers, by index.
#[derive(Clone)]
pub(super) struct Mailers(pub(super) Arc<[Mailer<Mail>]>);

impl Mailers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Gives the mail back when that inbox is full or there is no such worker.
    pub(super) fn send(&self, worker: usize, mail: Mail) -> Result<(), Mail> {
        match self.0.get(worker) {
            Some(mailer) => mailer.try_send(mail),
            None => Err(mail),
        }
    }

    /// Links to all workers, of the thread that `waker` wakes.
    pub(super) fn links(&self, waker: &Waker) -> Links {
        let links = self.0.iter().map(|mailer| Link::new(mailer.clone(), waker.clone())).collect();
        Links { links, waits: false }
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
