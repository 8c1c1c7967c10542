//! What dialects and the core say to each other. Values only: a dialect makes [`Request`]s of frames and frames of
//! [`Out`]s; the shell on the supervisor thread carries out the rest of [`Out`].

use std::{path::PathBuf, sync::Arc};

use crate::{
    base::{ConnToken, Json},
    claude,
    relay::Role,
};

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

/// When a prompt runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum When {
    /// After what is queued.
    #[default]
    Next,
    /// At once: the running turn is interrupted.
    Now,
}

/// The answer to a permission request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Let it run.
    Allow,
    /// Do not.
    Deny,
}

/// One command of a peer, session-protocol section 3.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// The sessions; with `follow` also every change of them from now on (`Some(false)` ends that).
    List {
        /// Follow changes.
        follow: Option<bool>,
    },
    /// Start a session.
    Create {
        /// Name of the profile.
        profile: Text,
        /// An absolute path at or below one of the profile's folders; the first of them when left out.
        folder: Option<PathBuf>,
        /// A title for people.
        title: Option<Text>,
        /// A model; must be one the profile admits.
        model: Option<Text>,
        /// A permission mode; must be one the profile admits.
        mode: Option<Text>,
        /// The first prompt.
        prompt: Option<Text>,
    },
    /// Watch a session.
    Attach {
        /// Which.
        session: Text,
        /// The first event wanted.
        from: Option<Position>,
        /// Without `from`: how many bytes of the newest events to send along.
        tail_bytes: Option<u64>,
    },
    /// Stop watching.
    Detach {
        /// Which.
        session: Text,
    },
    /// Say something.
    Prompt {
        /// To which session.
        session: Text,
        /// What; never empty.
        text: Text,
        /// When.
        when: When,
    },
    /// Stop the running turn.
    Interrupt {
        /// Of which session.
        session: Text,
        /// Drop the prompts that wait too.
        cancel_queued: bool,
    },
    /// Answer a permission request.
    Decide {
        /// Of which session.
        session: Text,
        /// Which request.
        request: Text,
        /// The answer.
        decision: Decision,
        /// With a denial: what the model is told.
        message: Option<Text>,
        /// With an allowance: run with this input instead.
        input: Option<Json>,
        /// With an allowance of questions: the answers, a JSON object.
        answers: Option<Json>,
    },
    /// End a session's process.
    Stop {
        /// Which.
        session: Text,
        /// Do not wait for the running turn.
        now: bool,
    },
}

/// A command with its id.
#[derive(Clone, Debug)]
pub struct Request {
    /// The client's id for it, 1 to 64 characters.
    pub id: Text,
    /// What is asked.
    pub command: Command,
}

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// The device's name for people.
    pub device: Text,
    /// The principal.
    pub principal: Text,
}

/// How far a prompt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A person decided.
    Person,
    /// A remembered rule decided.
    Rule,
    /// Nobody answered in time.
    Timeout,
}

/// How a permission request was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The decision reached the CLI.
    Applied,
    /// The CLI withdrew it.
    Withdrawn,
    /// The process that asked is gone.
    Void,
}

/// How a tool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Ok,
    /// With an error.
    Error,
    /// Its process died while it ran: it may have half run.
    Unknown,
}

/// One fact about a session, with its position: session-protocol section 4.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Whose fact it is.
    pub session: Text,
    /// Where it stands in the log.
    pub position: Position,
    /// When, in Unix milliseconds.
    pub at: u64,
    /// Who caused it, where a person did.
    pub by: Option<By>,
    /// The fact.
    pub kind: Kind,
}

/// Kinds of facts.
#[derive(Clone, Debug, PartialEq)]
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
    /// Somebody decided.
    Decision {
        /// The request.
        request: Text,
        /// The answer.
        decision: Decision,
        /// How it came about.
        how: How,
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
        level: &'static str,
        /// The text.
        text: Text,
    },
    /// A CLI message that no kind covers.
    Raw {
        /// As it came.
        line: Json,
    },
}

/// A permission request that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenPermission {
    /// Its id.
    pub request: Text,
    /// The tool call it is about.
    pub call: Option<Text>,
    /// The tool.
    pub tool: Text,
    /// The tool's input.
    pub input: Json,
    /// A line for people.
    pub about: Text,
    /// Rules the CLI suggests.
    pub suggestions: Option<Json>,
    /// Questions with options, where it is one.
    pub questions: Option<Json>,
}

/// A device that watches a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its id.
    pub device: Text,
    /// Its name.
    pub name: Text,
    /// Its kind.
    pub kind: Text,
    /// What it may do.
    pub role: Role,
    /// Since when it watches, Unix milliseconds.
    pub since: u64,
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
    /// Who said it.
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
    /// What was streamed so far.
    pub text: String,
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
    /// Who watches.
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
    /// To `decide`.
    Decided {
        /// Where the decision stands.
        position: Position,
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
        /// Who; `None` when no person did.
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
    /// `--resume` instead of `--session-id`.
    pub resume: bool,
    /// Run the turn again that the last process did not finish (`CLAUDE_CODE_RESUME_INTERRUPTED_TURN=1`). Not to be
    /// set without: a turn that nobody waits for any more would run, and cost, for nothing.
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
        /// Whose.
        peer: ConnToken,
        /// The command's id.
        re: Text,
        /// The answer.
        result: Result<Reply, Error>,
    },
    /// A committed event, to everybody who stands right before it.
    Event {
        /// To whom.
        peers: Vec<ConnToken>,
        /// The event.
        event: Arc<Event>,
    },
    /// Live text; may be skipped.
    Delta {
        /// To whom.
        peers: Vec<ConnToken>,
        /// Of which session.
        session: Text,
        /// The message's id.
        message: Text,
        /// Index of the block.
        block: u32,
        /// Byte offset of `text` in the block.
        at: u64,
        /// The next piece.
        text: Text,
    },
    /// Who watches has changed; live.
    Presence {
        /// To whom.
        peers: Vec<ConnToken>,
        /// Of which session.
        session: Text,
        /// Everybody who watches now.
        devices: Vec<DeviceInfo>,
    },
    /// A session changed, for those who follow the list; live.
    Changed {
        /// To whom.
        peers: Vec<ConnToken>,
        /// The session now.
        summary: Summary,
    },
    /// The events that `attach` asked for have all been sent.
    CaughtUp {
        /// To whom.
        peer: ConnToken,
        /// Of which session.
        session: Text,
    },
    /// The log cannot be continued from where this peer stood.
    Reset {
        /// Who.
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
