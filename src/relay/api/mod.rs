//! What dialects and the core say to each other. Values only: a dialect makes [`Request`]s of frames and frames of
//! [`Out`]s; the shell on the supervisor thread carries out the rest of [`Out`].

mod answer;
pub mod bulk;
mod command;
mod event;
mod out;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{base::ConnToken, relay::Role};

pub use answer::{Code, Details, DeviceInfo, Error, QueuedPrompt, Reply, RunningTurn, Snapshot, Summary, TurnBlock};
pub use command::{Command, Decision, Past, Request, Verb, When};
pub use event::{Closed, Event, How, Input, Kind, Level, OpenPermission, Outcome, PromptState, Ran, State};
pub use out::{End, ExitInfo, Launch, Out};

/// Longest title of a session, in bytes: a longer one from a device is refused, a longer one from a folder's name is
/// cut.
pub const TITLE_BYTES_MAX: usize = 256;
/// Longest reason of a denial, in bytes. Dialects refuse a longer one.
pub const REASON_BYTES_MAX: usize = 16 << 10;

/// Longest input of a permission request, in bytes: the relay denies a request with a longer one.
pub const INPUT_BYTES_MAX: usize = 8 << 20;

/// Shared text: ids, names, texts of events.
pub type Text = Arc<str>;

/// Answers an allowance that comes with a `message`, in whichever dialect.
pub const TOLD_BY_A_DENIAL: &str = "`message` goes with a denial: an allowance tells the model nothing";

/// The principal and the device behind a connection, as sign-in established them.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// Its connection.
    pub peer: ConnToken,
    /// The principal: `SHA256:...` of the key that signed in.
    pub principal: Text,
    /// The comment that the keys file gives the key; may be empty.
    pub comment: Text,
    /// What it may do in this connection, with the keys in force.
    pub role: Role,
    /// What it signed in with: it never has more.
    pub granted: Role,
    /// The installation's own id; command ids are scoped by (principal, client).
    pub client: Text,
    /// The device's id as other devices see it: unique per connection.
    pub device: Text,
    /// The device's name for people.
    pub name: Text,
    /// Free text: `terminal`, `browser`, ...
    pub kind: Text,
}

#[cfg(test)]
impl Caller {
    /// A caller for tests, on a connection of the first worker.
    pub(crate) fn sample(principal: &str, slot: u32, role: Role) -> Self {
        let name: Text = format!("device{slot}").into();
        Self {
            peer: ConnToken::new(0, slot, 1),
            principal: principal.into(),
            comment: "".into(),
            role,
            granted: role,
            client: name.clone(),
            device: name.clone(),
            name,
            kind: "test".into(),
        }
    }
}

impl Caller {
    /// Whether its role suffices for this. Asked before anything that a command names is looked at.
    ///
    /// # Errors
    /// `FORBIDDEN`, for good.
    pub fn may(&self, verb: Verb) -> Result<(), Error> {
        self.needs(verb.needs())
    }

    /// Whether its role includes this one.
    ///
    /// # Errors
    /// `FORBIDDEN`, for good.
    pub fn needs(&self, needed: Role) -> Result<(), Error> {
        if self.role.allows(needed) {
            return Ok(());
        }
        Err(Error { recoverable: false, ..Error::new(Code::Forbidden, self.role.falls_short_of(needed)) })
    }
}

/// A place in a session's log: the next or the named event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// A random id of the log's life.
    pub epoch: Text,
    /// Gap-free from 0 in an epoch.
    pub offset: u64,
}

/// The key behind an act. The device's name is what the device gave itself, and proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The device's name for people.
    pub device: Text,
    /// The principal.
    pub principal: Text,
    /// The comment that the keys file gives the key; may be empty.
    pub comment: Text,
}

impl From<&Caller> for By {
    fn from(caller: &Caller) -> Self {
        let Caller { name, principal, comment, .. } = caller;
        Self { device: name.clone(), principal: principal.clone(), comment: comment.clone() }
    }
}
