//! Facts about a session, as its log holds them.

use serde::{Deserialize, Deserializer, Serialize};

use super::{By, Decision, Position, Text};
use crate::{base::Json, claude};

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The process starts.
    Starting,
    /// It waits for a prompt.
    Ready,
    /// A turn runs.
    Busy,
    /// A person must decide something.
    Waiting,
    /// The API is tried again, or the process is started again after its death.
    Retrying,
    /// No sign of life in a turn.
    Stuck,
    /// Ended by a person or by the relay's end.
    Stopped,
    /// Ended by itself, and will not be started again.
    Failed,
}

impl State {
    /// Every state, as metrics list them.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Ready,
        Self::Busy,
        Self::Waiting,
        Self::Retrying,
        Self::Stuck,
        Self::Stopped,
        Self::Failed,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Stuck => "stuck",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// How far a prompt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptState {
    /// It waits.
    Queued,
    /// Its turn runs.
    Running,
    /// Its turn ended.
    Done,
    /// It was withdrawn or interrupted.
    Cancelled,
    /// It could not be run.
    Failed,
}

/// How a decision came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A person decided.
    Person,
    /// A remembered rule decided.
    Rule,
    /// No answer came in time.
    Timeout,
}

/// How a permission request was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// The decision reached the CLI.
    Applied,
    /// The CLI withdrew it.
    Withdrawn,
    /// The process that asked is gone.
    Void,
}

/// How a tool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Well.
    Ok,
    /// With an error.
    Error,
    /// Its process died while it ran: it may have half run.
    Unknown,
}

/// One fact about a session, with its position: session-protocol section 4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The session.
    pub session: Text,
    /// Where it stands in the log.
    pub position: Position,
    /// When, in Unix milliseconds.
    pub at: u64,
    /// The device and key that caused it, where a person did.
    pub by: Option<By>,
    /// The fact.
    pub kind: Kind,
}

/// How grave a notice is: `info`, `warning` or `error`.
pub type Level = &'static str;

/// Kinds of facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A prompt was accepted.
    Prompt {
        /// Its uuid.
        prompt: Text,
        /// What it says.
        text: Text,
    },
    /// A prompt moved on.
    PromptState {
        /// Its uuid.
        prompt: Text,
        /// Where to.
        state: PromptState,
        /// Why, where that helps.
        why: Option<Text>,
    },
    /// A whole block of text or thinking.
    Text {
        /// Text or thinking.
        block_kind: claude::Block,
        /// The message's id.
        message: Text,
        /// Index of the block.
        block: u32,
        /// All of it.
        text: Text,
        /// A sub-agent's tool call.
        parent: Option<Text>,
    },
    /// A tool is called.
    ToolCall {
        /// The call.
        call: Text,
        /// The tool.
        tool: Text,
        /// Its input.
        input: Json,
        /// A sub-agent's tool call.
        parent: Option<Text>,
    },
    /// A tool ended.
    ToolResult {
        /// The call.
        call: Text,
        /// How.
        outcome: Outcome,
        /// The first part of what it gave back.
        preview: Text,
        /// Length of the whole in bytes.
        bytes: u64,
    },
    /// A person must decide.
    Permission(OpenPermission),
    /// A request was decided.
    Decision {
        /// The request.
        request: Text,
        /// The answer.
        decision: Decision,
        /// How it came about.
        how: How,
        /// With a denial: what the model was told.
        message: Option<Text>,
        /// With an allowance: what runs.
        ran: Option<Ran>,
    },
    /// A request is over, for ever.
    PermissionClosed {
        /// The request.
        request: Text,
        /// How.
        how: Closed,
    },
    /// The session's state changed.
    State {
        /// The new one.
        state: State,
        /// Why, where that helps.
        why: Option<Text>,
    },
    /// A turn ended.
    Turn {
        /// The prompts it settled.
        prompts: Vec<Text>,
        /// Whether it went well.
        ok: bool,
        /// Why it ended.
        stop: Text,
        /// Running total of the conversation in USD.
        cost_usd: f64,
        /// Token usage, as the CLI gave it.
        #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
        usage: Option<Json>,
        /// How long it took.
        duration_ms: u64,
    },
    /// Settings changed; what stayed is `None`.
    Settings {
        /// The title.
        title: Option<Text>,
        /// The model.
        model: Option<Text>,
        /// The permission mode.
        mode: Option<Text>,
    },
    /// The API is tried again.
    Retry {
        /// Which attempt comes next.
        attempt: u32,
        /// Of how many.
        of: u32,
        /// After how many milliseconds.
        delay_ms: u64,
        /// Why.
        error: Text,
    },
    /// Something people may want to read.
    Notice {
        /// `info`, `warning` or `error`.
        #[serde(deserialize_with = "level")]
        level: Level,
        /// The text.
        text: Text,
    },
    /// A CLI message that no kind covers.
    Raw {
        /// As it came.
        line: Json,
    },
}

/// A permission request that waits: everything that a person must see before a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenPermission {
    /// Its id.
    pub request: Text,
    /// The tool call it is about.
    pub call: Option<Text>,
    /// The tool.
    pub tool: Text,
    /// The tool's input, as it will run.
    pub input: Input,
    /// The input's hash ([`shown::hash`](crate::wire::shown::hash)), which an allowance has to name. `None`: the request
    /// cannot be shown whole and so cannot be allowed.
    pub hash: Option<Text>,
    /// Without a hash: why it can only be denied.
    pub deny_why: Option<Text>,
    /// What the CLI says about it: a line or a few.
    pub about: Text,
    /// Rules the CLI suggests; `None` too where it forbids to offer any.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub suggestions: Option<Json>,
    /// Questions with options, where it is one.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub questions: Option<Json>,
    /// Approval must not be preselected.
    pub default_to_no: bool,
    /// "Always" must not be offered.
    pub no_always: bool,
    /// A single tap must not approve.
    pub needs_interaction: bool,
}

/// The input of a tool that asks for permission, as clients get it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// All of it.
    Whole(Json),
    /// Too large for a message: it is fetched in parts ([`Command::Fetch`](super::Command::Fetch)), and its hash is not
    /// told, so that only a client that has fetched it can name it.
    Large {
        /// Length of its JSON text in bytes.
        bytes: u64,
        /// What to fetch.
        blob: Text,
    },
}

/// What an allowance lets run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// The hash of the input that runs.
    pub hash: Text,
    /// That input, where the approver replaced it.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub input: Option<Json>,
    /// The hash of the input that was asked about, where another one runs.
    pub replaced_hash: Option<Text>,
    /// The input that was asked about, where another one runs and it is not too large for a message.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Json>,
    /// The answers to questions, which were added to the input.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub answers: Option<Json>,
}

/// The levels of notices.
const LEVELS: [Level; 3] = ["info", "warning", "error"];

/// A value that is there, even if it is `null`: that is JSON as well.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

/// One of [`LEVELS`].
fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Level, D::Error> {
    let said = Box::<str>::deserialize(deserializer)?;
    let known = LEVELS.into_iter().find(|level| **level == *said);
    known.ok_or_else(|| serde::de::Error::custom("a notice of an unknown level"))
}
