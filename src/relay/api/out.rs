//! What the core wants done.

use std::{fmt, path::PathBuf, sync::Arc};

use super::{DeviceInfo, Error, Event, Position, Reply, Summary, Text};
use crate::{base::ConnToken, claude};

/// How a session's process is to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Which session.
    pub session: Text,
    /// Counts the processes of this session: events of an older one are stale.
    pub process: u64,
    /// The profile's name.
    pub profile: Text,
    /// Where it runs.
    pub folder: PathBuf,
    /// The conversation's id.
    pub conversation: Text,
    /// How the process begins.
    pub start: claude::Start,
    /// Run the turn again that the last process did not finish (`CLAUDE_CODE_RESUME_INTERRUPTED_TURN=1`). It is set
    /// only then: an abandoned turn would run, and cost, for nothing.
    pub rerun: bool,
    /// The model, if one was asked for.
    pub model: Option<Text>,
    /// The permission mode, if one was asked for.
    pub mode: Option<Text>,
}

/// How a session's process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitInfo {
    /// Its exit code, when it exited.
    pub code: Option<i32>,
    /// The signal that ended it, when one did.
    pub signal: Option<i32>,
    /// The last lines it wrote to stderr, for people.
    pub stderr: String,
}

impl fmt::Display for ExitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (_, Some(signal)) => write!(f, "signal {signal}"),
            (Some(code), None) => write!(f, "exit {code}"),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// How a session's process is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Close stdin and let the turn finish.
    CloseStdin,
    /// SIGTERM.
    Terminate,
    /// SIGKILL to the whole tree.
    Kill,
}

/// What the core wants done. The shell takes them in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    /// Answer a command.
    Answer {
        /// The receiver.
        peer: ConnToken,
        /// The command's id.
        re: Text,
        /// The answer.
        result: Result<Reply, Error>,
    },
    /// A committed event, to the watchers for which it is the next one.
    Event {
        /// The receivers.
        peers: Vec<ConnToken>,
        /// The event.
        event: Arc<Event>,
    },
    /// Live text; may be skipped.
    Delta {
        /// The receivers.
        peers: Vec<ConnToken>,
        /// Of which session.
        session: Text,
        /// The message's id.
        message: Text,
        /// Index of the block.
        block: u32,
        /// Text or thinking.
        kind: claude::Block,
        /// Byte offset of `text` in the block.
        at: u64,
        /// The next piece.
        text: Text,
    },
    /// The list of watching devices has changed; live.
    Presence {
        /// The receivers.
        peers: Vec<ConnToken>,
        /// Of which session.
        session: Text,
        /// The devices that watch now.
        devices: Vec<DeviceInfo>,
    },
    /// A session changed, for the followers of the list; live.
    Changed {
        /// The receivers.
        peers: Vec<ConnToken>,
        /// The session now.
        summary: Summary,
    },
    /// The events that `attach` asked for have all been sent.
    CaughtUp {
        /// The receiver.
        peer: ConnToken,
        /// Of which session.
        session: Text,
    },
    /// The log cannot be continued from where this peer stood.
    Reset {
        /// The receiver.
        peer: ConnToken,
        /// Of which session.
        session: Text,
        /// Why.
        why: &'static str,
        /// The oldest position that can be served.
        earliest: Position,
    },
    /// Start a process.
    Launch(Launch),
    /// Tell a process something.
    Write {
        /// Which session.
        session: Text,
        /// Which process of it.
        process: u64,
        /// What.
        command: claude::Command,
    },
    /// End a process.
    End {
        /// Which session.
        session: Text,
        /// Which process of it.
        process: u64,
        /// How.
        how: End,
    },
}

impl Out {
    /// The connections that it is for.
    pub fn peers(&self) -> &[ConnToken] {
        match self {
            Self::Answer { peer, .. } | Self::CaughtUp { peer, .. } | Self::Reset { peer, .. } => {
                std::slice::from_ref(peer)
            }
            Self::Event { peers, .. }
            | Self::Delta { peers, .. }
            | Self::Presence { peers, .. }
            | Self::Changed { peers, .. } => peers,
            Self::Launch(_) | Self::Write { .. } | Self::End { .. } => &[],
        }
    }
}
