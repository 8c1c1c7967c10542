//! Answers to commands, and what they are made of.

use std::{path::PathBuf, sync::Arc};

use super::{By, Decision, Event, OpenPermission, Position, PromptState, State, Text};
use crate::{claude, relay::Role};

/// A device that watches a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its id.
    pub device: Text,
    /// The name it gave itself.
    pub name: Text,
    /// The principal that it signed in as.
    pub principal: Text,
    /// The comment that the keys file gives the key; may be empty.
    pub comment: Text,
    /// Its kind.
    pub kind: Text,
    /// What it may do.
    pub role: Role,
    /// Since when it watches, Unix milliseconds.
    pub since: u64,
}

#[cfg(test)]
impl Summary {
    /// What tests say of a session; `name` is all of its texts.
    pub(crate) fn sample(name: &Text, next: Position) -> Self {
        Self {
            session: name.clone(),
            did: name.clone(),
            title: name.clone(),
            profile: name.clone(),
            folder: "/".into(),
            state: State::Ready,
            since: 1,
            why: None,
            waiting: 0,
            model: None,
            mode: None,
            created_at: 1,
            active_at: 1,
            cost_usd: 0.0,
            devices: 0,
            next,
        }
    }
}

/// A session in a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Its id.
    pub session: Text,
    /// Its DID.
    pub did: Text,
    /// Its title.
    pub title: Text,
    /// Its profile.
    pub profile: Text,
    /// Its folder.
    pub folder: PathBuf,
    /// What it is doing.
    pub state: State,
    /// Since when, Unix milliseconds.
    pub since: u64,
    /// Why, where that helps.
    pub why: Option<Text>,
    /// How many permission requests wait.
    pub waiting: usize,
    /// The model, once known.
    pub model: Option<Text>,
    /// The permission mode, once known.
    pub mode: Option<Text>,
    /// When it was created, Unix milliseconds.
    pub created_at: u64,
    /// Its last event, Unix milliseconds.
    pub active_at: u64,
    /// Running total in USD.
    pub cost_usd: f64,
    /// How many devices watch.
    pub devices: usize,
    /// Where its next event will stand.
    pub next: Position,
}

/// A prompt that waits or runs.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuedPrompt {
    /// Its uuid.
    pub prompt: Text,
    /// What it says.
    pub text: Text,
    /// Its sender.
    pub by: Option<By>,
    /// How far it has come.
    pub state: PromptState,
}

/// A block of the running turn, as far as it was streamed.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnBlock {
    /// The message's id.
    pub message: Text,
    /// Index of the block.
    pub block: u32,
    /// Text or thinking.
    pub kind: claude::Block,
    /// What was streamed so far, or the first part of it.
    pub text: String,
    /// Bytes that were streamed so far.
    pub bytes: u64,
}

/// The running turn.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningTurn {
    /// The prompts it runs for.
    pub prompts: Vec<Text>,
    /// Since when, Unix milliseconds.
    pub since: u64,
    /// Blocks that are not events yet.
    pub blocks: Vec<TurnBlock>,
}

/// Everything a device needs to act.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The summary.
    pub summary: Summary,
    /// The running turn.
    pub turn: Option<RunningTurn>,
    /// Prompts that wait or run.
    pub queue: Vec<QueuedPrompt>,
    /// Requests that wait.
    pub permissions: Vec<OpenPermission>,
    /// The devices that watch.
    pub devices: Vec<DeviceInfo>,
    /// A text to show first.
    pub notice: Option<Text>,
}

/// The answer to a command that went well.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing to add.
    Done,
    /// To `list`.
    Sessions(Vec<Summary>),
    /// To `create`.
    Created(Summary),
    /// To `attach`. With `from`, `events` is empty and the events follow as ordinary ones, ended by `CaughtUp`.
    Attached {
        /// The snapshot as of `next`.
        snapshot: Box<Snapshot>,
        /// The newest events before `next`, without a gap.
        events: Vec<Arc<Event>>,
        /// The oldest position that can still be served.
        earliest: Position,
        /// The first event that will follow.
        next: Position,
    },
    /// To `prompt`.
    Prompted {
        /// Its uuid.
        prompt: Text,
        /// Where its event stands.
        position: Position,
    },
    /// To `interrupt`.
    Interrupted {
        /// A turn was broken; else nothing ran.
        ran: bool,
    },
    /// To `decide`.
    Decided {
        /// Where the decision stands.
        position: Position,
    },
    /// To `fetch`.
    Fetched {
        /// The part that was asked for; empty behind the end.
        data: Vec<u8>,
        /// Bytes of the whole.
        total: u64,
    },
    /// To `history`: the newest events before the position, without a gap.
    History {
        /// The events, in order.
        events: Vec<Arc<Event>>,
        /// The oldest position that can still be served.
        earliest: Position,
    },
    /// To `stop`.
    State(State),
}

/// Error codes of session-protocol section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum Code {
    BadJson,
    BadRequest,
    UnknownType,
    TooLarge,
    AuthRequired,
    AuthFailed,
    AuthTimeout,
    KeyNotAuthorized,
    KeyExpired,
    Forbidden,
    NotFound,
    Conflict,
    AlreadyDecided,
    CannotResume,
    Limit,
    RateLimited,
    AgentUnavailable,
    AgentLoginNeeded,
    StoreReadOnly,
    ShuttingDown,
    Internal,
}

impl Code {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadJson => "BAD_JSON",
            Self::BadRequest => "BAD_REQUEST",
            Self::UnknownType => "UNKNOWN_TYPE",
            Self::TooLarge => "TOO_LARGE",
            Self::AuthRequired => "AUTH_REQUIRED",
            Self::AuthFailed => "AUTH_FAILED",
            Self::AuthTimeout => "AUTH_TIMEOUT",
            Self::KeyNotAuthorized => "KEY_NOT_AUTHORIZED",
            Self::KeyExpired => "KEY_EXPIRED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::AlreadyDecided => "ALREADY_DECIDED",
            Self::CannotResume => "CANNOT_RESUME",
            Self::Limit => "LIMIT",
            Self::RateLimited => "RATE_LIMITED",
            Self::AgentUnavailable => "AGENT_UNAVAILABLE",
            Self::AgentLoginNeeded => "AGENT_LOGIN_NEEDED",
            Self::StoreReadOnly => "STORE_READ_ONLY",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Internal => "INTERNAL",
        }
    }
}

/// What an error adds for programs.
#[derive(Clone, Debug, PartialEq)]
pub enum Details {
    /// With `ALREADY_DECIDED`.
    Decided {
        /// The device and its key; `None` when no person did.
        by: Option<By>,
        /// What; `None` when it was closed undecided.
        decision: Option<Decision>,
        /// When, Unix milliseconds.
        at: u64,
    },
    /// With `CANNOT_RESUME`.
    Range {
        /// The oldest position that can be served.
        earliest: Position,
        /// Where the next event will stand.
        next: Position,
    },
}

/// The answer to a command that did not go well.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// For programs.
    pub code: Code,
    /// For people: what, why, and what to do.
    pub message: Text,
    /// Whether the same may go well later or after a change.
    pub recoverable: bool,
    /// When to try again.
    pub retry_after_ms: Option<u64>,
    /// More for programs.
    pub details: Option<Details>,
}

impl Error {
    /// An error that a change of the command can mend.
    pub fn new(code: Code, message: impl Into<Text>) -> Self {
        Self { code, message: message.into(), recoverable: true, retry_after_ms: None, details: None }
    }
}
