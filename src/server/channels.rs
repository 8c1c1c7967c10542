//! What travels between the threads of a relay. Below all of them: it knows no thread, and every thread knows it.

use std::{collections::HashMap, sync::Arc};

use ed25519_dalek::SigningKey;
use parking_lot::Mutex;

use crate::{
    base::ConnToken,
    reactor::{Mailer, ws::Framed},
    relay::{
        SignedIn,
        admission::Judged,
        api::{Error, Out, Text},
        delivery::{Checked, Job, Lane, PeerMail, Signed},
        keys::{KeySet, KeysFound},
        signer,
    },
};

/// To the crypto thread.
pub(super) enum Order {
    /// Does this, and mails what comes of it with the lane.
    Job(Lane, Job),
    /// Reads the keys file again.
    Refresh,
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
    /// What the core has for peers of this worker, in order.
    Core(Vec<Out>),
    /// There is a session, and agents may write to it.
    Session { session: Text, did: Text },
    /// A session is gone, and its DID with it.
    SessionGone { did: Text },
    /// What another worker's core has for ours, in order.
    Peer(PeerMail<Framed>),
    /// A HELLO was judged.
    Judged { peer: ConnToken, lane: Lane, judged: Option<Judged> },
    /// Messages of agents of this worker were checked, in order.
    Checked(Vec<Checked<Framed>>),
    /// What the relay or a session says, signed.
    Signed(Signed),
    /// Take another turn.
    Again,
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
