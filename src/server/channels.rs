//! What travels between the threads of a relay. Below all of them: it knows no thread, and every thread knows it.

use std::{collections::HashMap, sync::Arc};

use ed25519_dalek::SigningKey;
use parking_lot::Mutex;

use super::signatures::Checked;
use crate::{
    base::{CloseCode, ConnToken},
    dialect::{
        amp::{self, HelloJob, Refused, Say},
        session::VerifyJob,
    },
    reactor::{Mailer, ws::Framed},
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
    /// Take another turn.
    Again,
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
}
