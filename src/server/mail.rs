//! What the other threads send a worker, and what workers send the supervisor.

use std::sync::Arc;

use crate::{
    base::ConnToken,
    dialect::session::SignedIn,
    reactor::Mailer,
    relay::{
        api::{Caller, Error, Out, Request, Text},
        keys::KeySet,
    },
};

/// To a worker.
pub(super) enum Mail {
    /// A sign-in was checked.
    SignedIn { peer: ConnToken, result: Result<SignedIn, Error> },
    /// The keys in force have changed.
    Keys(Arc<KeySet>),
    /// The keys file was read because this peer asked for it.
    KeysRead { peer: ConnToken, id: Text, entries: usize, refused: usize },
    /// What the core has for peers of this worker, in order.
    Core(Vec<Out>),
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
