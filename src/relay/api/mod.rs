//! What dialects and the core say to each other. Values only: a dialect makes [`Request`]s of frames and frames of
//! [`Out`]s; the shell on the supervisor thread carries out the rest of [`Out`].

mod answer;
mod command;
mod event;
mod out;

use std::sync::Arc;

use crate::{base::ConnToken, relay::Role};

pub use answer::{Code, Details, DeviceInfo, Error, QueuedPrompt, Reply, RunningTurn, Snapshot, Summary, TurnBlock};
pub use command::{Command, Decision, Request, When};
pub use event::{Closed, Event, How, Kind, OpenPermission, Outcome, PromptState, State};
pub use out::{End, ExitInfo, Launch, Out};

/// Shared text: ids, names, texts of events.
pub type Text = Arc<str>;

/// Who is behind a connection, as sign-in established it.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// Its connection.
    pub peer: ConnToken,
    /// The principal: `SHA256:...` of the key that signed in.
    pub principal: Text,
    /// What it may do in this connection.
    pub role: Role,
    /// The installation's own id; command ids are scoped by (principal, client).
    pub client: Text,
    /// The device's id as other devices see it: unique per connection.
    pub device: Text,
    /// The device's name for people.
    pub name: Text,
    /// Free text: `terminal`, `browser`, ...
    pub kind: Text,
}

/// A place in a session's log: the next or the named event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// A random id of the log's life.
    pub epoch: Text,
    /// Gap-free from 0 in an epoch.
    pub offset: u64,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// The device's name for people.
    pub device: Text,
    /// The principal.
    pub principal: Text,
}
