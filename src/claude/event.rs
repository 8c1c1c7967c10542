//! What the CLI tells us and what we tell it, as values. Lines become these and back in `codec`; nothing here does.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::Json;

/// The tool that asks the person questions: it runs with their answers.
pub const ASKING_TOOL: &str = "AskUserQuestion";

/// Which kind of text a block of an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Text for the person.
    Text,
    /// The model's thinking.
    Thinking,
}

/// How far a prompt has come inside the CLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// Read and waiting.
    Queued,
    /// Its turn runs.
    Started,
    /// Its turn ended, or it was known already.
    Completed,
    /// It was withdrawn or interrupted.
    Cancelled,
}

/// Whether the CLI can reach an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginState {
    /// A key or a login was found.
    Present,
    /// None was found: a person must log in on this host.
    Missing,
}

/// A tool that waits for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Permission {
    /// The CLI's id of the request; an answer carries it back.
    pub request: Arc<str>,
    /// The tool call it is about.
    pub call: Option<Arc<str>>,
    /// The tool's name.
    pub tool: Arc<str>,
    /// The tool's input in one reading: sound, each key once.
    pub input: Json,
    /// Why it must not be allowed, if so: which part of it is not carried whole.
    pub unseen: Option<&'static str>,
    /// What the CLI says about it, for people; a line or a few.
    pub about: Arc<str>,
    /// Rules the CLI suggests to remember; a JSON array.
    pub suggestions: Option<Json>,
    /// For [`ASKING_TOOL`]: its questions; a JSON array.
    pub questions: Option<Json>,
    /// Approval must not be preselected (`default_to_no`).
    pub default_to_no: bool,
    /// "Always" must not be offered (`suppress_always_allow_rule`).
    pub no_always: bool,
    /// A single tap must not approve (`requires_user_interaction`).
    pub needs_interaction: bool,
}

/// The end of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The prompts this result settles, where the CLI names them.
    pub prompts: Vec<Arc<str>>,
    /// False for API failures and errors too.
    pub ok: bool,
    /// Why it ended: `completed`, `api_error`, `aborted_streaming`, `aborted_tools`, `max_turns`, ...
    pub stop: Arc<str>,
    /// The result's text, or the errors joined.
    pub text: Arc<str>,
    /// Running total of the conversation in USD.
    pub cost_usd: f64,
    /// Token usage of this turn, as the CLI gave it.
    pub usage: Option<Json>,
    /// How long the turn took in milliseconds.
    pub duration_ms: u64,
    /// `Some(0)`: no further result is coming from prompts. `None`: this CLI does not say.
    pub queued: Option<u64>,
    /// True when no prompt caused it (a background task ended).
    pub unasked: bool,
    /// The API refused the login (`authentication_failed`).
    pub login_failed: bool,
}

/// One thing the CLI said. A line gives zero, one or several.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The answer to `initialize`: the process takes prompts now.
    Ready {
        /// The CLI's version, where it says so.
        version: Option<Arc<str>>,
        /// Whether it has an account.
        login: LoginState,
        /// The permission mode in force.
        mode: Option<Arc<str>>,
    },
    /// `--resume` named a conversation that does not exist; the process ends.
    NoConversation,
    /// Start of a turn.
    Init {
        /// Model in force.
        model: Option<Arc<str>>,
        /// Permission mode in force.
        mode: Option<Arc<str>>,
    },
    /// The conversation's id, whenever it differs from the last one reported. Resume with the newest.
    ConversationId(Arc<str>),
    /// How far a prompt has come.
    Prompt {
        /// The prompt's uuid.
        prompt: Arc<str>,
        /// How far.
        state: Lifecycle,
    },
    /// The CLI echoed a prompt: it has been read. For versions without lifecycle lines.
    Echoed {
        /// The prompt's uuid.
        prompt: Arc<str>,
    },
    /// Streamed text, in order, not yet final.
    Delta {
        /// The message's id.
        message: Arc<str>,
        /// Index of the block in the message.
        block: u32,
        /// Kind of the block.
        kind: Block,
        /// The next piece.
        text: Arc<str>,
    },
    /// A whole block of text or thinking. It repeats what deltas of the same `(message, block)` brought.
    Text {
        /// The message's id.
        message: Arc<str>,
        /// Index of the block in the message.
        block: u32,
        /// Kind of the block.
        kind: Block,
        /// All of it.
        text: Arc<str>,
        /// The `Agent` tool call of the sub-agent that said it.
        parent: Option<Arc<str>>,
    },
    /// The model calls a tool.
    ToolCall {
        /// The call's id.
        call: Arc<str>,
        /// The tool's name.
        tool: Arc<str>,
        /// Its input.
        input: Json,
        /// The `Agent` tool call of the sub-agent that calls.
        parent: Option<Arc<str>>,
    },
    /// A tool has ended.
    ToolResult {
        /// The call's id.
        call: Arc<str>,
        /// Whether it ended without an error.
        ok: bool,
        /// What it gave back, as text.
        text: Arc<str>,
    },
    /// A tool waits for a person.
    Permission(Permission),
    /// The CLI withdrew a permission request.
    PermissionWithdrawn {
        /// Which one.
        request: Arc<str>,
    },
    /// The answer to a control request of ours other than `initialize`.
    Control {
        /// The id we gave it.
        id: Arc<str>,
        /// The answer's fields, or the error's text.
        result: Result<Option<Json>, Arc<str>>,
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
        error: Arc<str>,
        /// The API refused the login: more attempts will not help.
        login_failed: bool,
    },
    /// A setting changed.
    Settings {
        /// The new model.
        model: Option<Arc<str>>,
        /// The new permission mode.
        mode: Option<Arc<str>>,
    },
    /// The CLI is idle: nothing of ours runs and nothing is queued.
    Idle,
    /// A turn ended.
    Turn(Turn),
    /// Something people may want to read (an API error, a refused tool).
    Notice {
        /// `info`, `warning` or `error`.
        level: &'static str,
        /// The text.
        text: Arc<str>,
    },
    /// A request of the CLI that we do not serve. It must be answered with [`Command::Refuse`], or the CLI waits
    /// for ever.
    Unserved {
        /// Its id.
        request: Arc<str>,
        /// Its subtype.
        what: Arc<str>,
    },
    /// A line that no kind covers, made sound: every reader reads it alike.
    Raw(Json),
    /// A line, or a part of one, that is no JSON object. What the CLI meant by it cannot be read.
    Unreadable {
        /// Its beginning, in quotes.
        line: Arc<str>,
        /// More of them in this turn are only counted.
        last: bool,
    },
}

/// One part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ContentPart {
    /// Plain text; never empty.
    Text(Arc<str>),
}

/// One thing we tell the CLI.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// First line of every process.
    Initialize {
        /// Our id for the control request.
        id: Arc<str>,
    },
    /// A prompt.
    Prompt {
        /// Its uuid (key of acknowledgement and de-duplication, also across restarts).
        prompt: Arc<str>,
        /// What it says.
        content: Vec<ContentPart>,
        /// Abort the running turn for it.
        now: bool,
    },
    /// Stop the running turn.
    Interrupt {
        /// Our id for the control request.
        id: Arc<str>,
        /// Drop what is queued in the CLI too.
        cancel_queued: bool,
    },
    /// Let a tool run.
    Allow {
        /// The CLI's id of the request.
        request: Arc<str>,
        /// The input to run with (the original one unless a person changed it).
        input: Json,
    },
    /// Do not let a tool run.
    Deny {
        /// The CLI's id of the request.
        request: Arc<str>,
        /// What the model is told.
        message: Arc<str>,
    },
    /// We do not serve this request.
    Refuse {
        /// The CLI's id of the request.
        request: Arc<str>,
        /// Why.
        message: Arc<str>,
    },
    /// Ask for a sign of life.
    Probe {
        /// Our id for the control request.
        id: Arc<str>,
    },
    /// End the process in order.
    EndSession {
        /// Our id for the control request.
        id: Arc<str>,
    },
}
