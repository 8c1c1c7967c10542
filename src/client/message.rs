//! What a relay says, as values. Fields that a newer relay adds are ignored, types and kinds that it adds are
//! `Unknown`, and a field that it leaves out has a default. A field that cannot be read is never taken for one that is
//! left out: that field alone is lost, and it is named.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// One message after the welcome.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Incoming {
    /// A command went well.
    Reply(Reply),
    /// A command did not, or the connection is at fault.
    Error(ErrorMessage),
    /// A fact about a session.
    Event(Box<Event>),
    /// Live text.
    Delta {
        /// Of which session.
        session: String,
        /// The message's id.
        message: String,
        /// Index of the block.
        block: u32,
        /// Byte offset of `text` in the block.
        at: u64,
        /// The next piece.
        text: String,
        /// `thinking`, where the relay says so.
        #[serde(default)]
        kind: Option<String>,
    },
    /// The devices that watch a session.
    Presence {
        /// Which session.
        session: String,
        /// All devices that watch now.
        devices: Vec<DeviceInfo>,
    },
    /// A session changed.
    Session {
        /// The session now.
        #[serde(deserialize_with = "summary")]
        summary: Box<Summary>,
    },
    /// All events that were asked for have come.
    CaughtUp {
        /// Of which session.
        session: String,
    },
    /// The log cannot be continued.
    Reset {
        /// Of which session.
        session: String,
        /// Why.
        #[serde(default)]
        why: String,
    },
    /// Answer to `ping`.
    Pong {
        /// The id of the ping.
        re: String,
    },
    /// A sign of life, or a type of the future.
    #[serde(other)]
    Unknown,
}

impl Incoming {
    /// Reads a message; `None` for what is no message of the protocol. An event that cannot be read still has its place
    /// ([`Event::read`]).
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().or_else(|| {
            let value: Value = serde_json::from_str(text).ok()?;
            (value["type"] == "event").then(|| Event::read(&value).map(Box::new).map(Self::Event))?
        })
    }
}

/// A part of what a relay sent has an unknown form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the relay answers cannot be read (`{0}`): is the relay another version?")]
pub struct Unreadable(pub String);

/// Reads a struct in which each field has a default. A field that cannot be read gets its default; their names come
/// with the struct.
fn by_field<T: DeserializeOwned + Default>(value: &Value) -> Option<(T, Vec<String>)> {
    let fields = value.as_object()?;
    if let Ok(whole) = T::deserialize(value) {
        return Some((whole, Vec::new()));
    }
    let is_good = |(name, value): &(String, Value)| {
        T::deserialize(Value::Object([(name.clone(), value.clone())].into_iter().collect())).is_ok()
    };
    let (good, bad): (Vec<_>, Vec<_>) = fields.clone().into_iter().partition(is_good);
    let read = T::deserialize(Value::Object(good.into_iter().collect())).ok()?;
    Some((read, bad.into_iter().map(|(name, _)| name).collect()))
}

/// The answer to a command.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Reply {
    /// The command's id.
    pub re: String,
    /// The command's own fields.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Reply {
    /// One field, read as a value; `None` where it is not there.
    ///
    /// # Errors
    /// It is there, and cannot be read.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Unreadable> {
        let Some(value) = self.fields.get(name) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|_| Unreadable(name.into()))
    }

    /// What a relay has, as the answer to `list`.
    ///
    /// # Errors
    /// There is no list, or one of the sessions in it cannot be named.
    pub fn sessions(&self) -> Result<Vec<Summary>, Unreadable> {
        let unreadable = || Unreadable("sessions".into());
        let list = self.fields.get("sessions").and_then(Value::as_array).ok_or_else(unreadable)?;
        list.iter().map(Summary::read).collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// What is now, as the answer to `attach`.
    ///
    /// # Errors
    /// It cannot be told which requests wait.
    pub fn snapshot(&self) -> Result<Snapshot, Unreadable> {
        let snapshot = self.fields.get("snapshot").and_then(Snapshot::read);
        snapshot.ok_or_else(|| Unreadable("snapshot".into()))
    }

    /// A part of the log, as the answer to `attach` or `history`. One bad event costs itself.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        match self.fields.get("events") {
            Some(Value::Array(events)) => {
                page.events = events.iter().filter_map(Event::read).collect();
                page.lost = events.len() - page.events.len();
            }
            None => {}
            Some(_) => page.unreadable.push("events".into()),
        }
        page.earliest = self.field("earliest").unwrap_or_else(|Unreadable(name)| {
            page.unreadable.push(name);
            None
        });
        page
    }

    /// The answer to a first `attach`.
    ///
    /// # Errors
    /// As [`Self::snapshot`], or it cannot be told where the next event will stand.
    pub fn attachment(&self) -> Result<Attachment, Unreadable> {
        let next = self.field("next")?.ok_or_else(|| Unreadable("next".into()))?;
        Ok(Attachment { snapshot: self.snapshot()?, page: self.page(), next })
    }
}

/// A part of a session's log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// What it holds.
    pub events: Vec<Event>,
    /// Where the log begins.
    pub earliest: Option<Position>,
    /// Events that have not even a place.
    pub lost: usize,
    /// The fields that cannot be read.
    pub unreadable: Vec<String>,
}

/// A session that is joined: what it is now, and the newest of what came before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment {
    /// What is now.
    pub snapshot: Snapshot,
    /// What came before.
    pub page: Page,
    /// Where the next event will stand.
    pub next: Position,
}

/// An error.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ErrorMessage {
    /// `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The command's id, if it is about one.
    pub re: Option<String>,
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the same may go well later or after a change.
    pub recoverable: bool,
    /// When to try again.
    pub retry_after_ms: Option<u64>,
    /// More for programs.
    pub details: Option<Value>,
}

impl ErrorMessage {
    /// Whether connecting again later may help. An error about the key needs a person, whatever `recoverable` says.
    pub fn is_passing(&self) -> bool {
        match self.code.as_str() {
            "KEY_NOT_AUTHORIZED" | "KEY_EXPIRED" | "AUTH_FAILED" | "FORBIDDEN" => false,
            "SHUTTING_DOWN" | "AUTH_TIMEOUT" | "RATE_LIMITED" => true,
            _ => self.recoverable,
        }
    }
}

/// A place in a session's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Position {
    /// A random id of the log's life.
    pub epoch: String,
    /// Gap-free in an epoch.
    pub offset: u64,
}

/// The author of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct By {
    /// The device's name for people.
    pub device: String,
    /// The principal.
    pub principal: String,
    /// The comment that the relay's keys file gives the key; may be empty.
    pub comment: String,
}

/// A fact with its position.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    /// Its session.
    pub session: String,
    /// Where it stands.
    #[serde(flatten)]
    pub position: Position,
    /// When, Unix milliseconds.
    #[serde(default)]
    pub at: u64,
    /// Its author, if it has one.
    #[serde(default)]
    pub by: Option<By>,
    /// The fact.
    #[serde(flatten)]
    pub fact: Fact,
}

impl Event {
    /// Reads an event. If it cannot be read, its fact is lost, but not its place. A request is there all the same,
    /// since a typed line may be meant for it. `None` where it has no place.
    pub fn read(value: &Value) -> Option<Self> {
        #[derive(Deserialize)]
        struct Head {
            session: String,
            #[serde(flatten)]
            position: Position,
        }
        if let Ok(whole) = Self::deserialize(value) {
            return Some(whole);
        }
        let Head { session, position } = Head::deserialize(value).ok()?;
        let fact = match value["kind"].as_str() {
            Some("permission") => {
                let mut open = OpenPermission::read(value);
                if open.unreadable.is_empty() {
                    open.unreadable.push("event".into());
                }
                Fact::Permission(open)
            }
            _ => Fact::Unreadable,
        };
        Some(Self { session, position, at: 0, by: None, fact })
    }
}

/// Kinds of facts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// A prompt was accepted.
    Prompt {
        /// Its id.
        prompt: String,
        /// What it says.
        #[serde(default)]
        text: String,
    },
    /// A prompt moved on.
    PromptState {
        /// Its id.
        prompt: String,
        /// `queued`, `running`, `done`, `cancelled` or `failed`.
        state: String,
        /// Why.
        #[serde(default)]
        why: Option<String>,
    },
    /// A whole block of text.
    Text(Block),
    /// A whole block of thinking.
    Thinking(Block),
    /// A tool is called.
    ToolCall {
        /// The call.
        call: String,
        /// The tool.
        tool: String,
        /// Its input.
        #[serde(default)]
        input: Value,
        /// A sub-agent's tool call.
        #[serde(default)]
        parent: Option<String>,
    },
    /// A tool ended.
    ToolResult {
        /// The call.
        call: String,
        /// `ok`, `error` or `unknown`.
        outcome: String,
        /// The first part of what it gave back.
        #[serde(default)]
        preview: String,
        /// Length of the whole in bytes.
        #[serde(default)]
        bytes: u64,
    },
    /// A person must decide.
    Permission(OpenPermission),
    /// A request was decided.
    Decision {
        /// The request.
        request: String,
        /// `allow` or `deny`.
        decision: String,
        /// `person`, `rule` or `timeout`.
        #[serde(default)]
        how: String,
        /// With a denial: what the model was told.
        #[serde(default)]
        message: Option<String>,
        /// With an allowance: the input that runs, where the approver replaced it.
        #[serde(default)]
        input: Option<Value>,
        /// With an allowance: the input that was asked about, where another one runs.
        #[serde(default)]
        replaced: Option<Value>,
        /// With an allowance: answers to questions.
        #[serde(default)]
        answers: Option<Value>,
    },
    /// A request is over.
    PermissionClosed {
        /// The request.
        request: String,
        /// `applied`, `withdrawn` or `void`.
        #[serde(default)]
        how: String,
    },
    /// The state changed.
    State {
        /// The new one.
        state: String,
        /// Why.
        #[serde(default)]
        why: Option<String>,
    },
    /// A turn ended.
    Turn {
        /// The prompts that it settled.
        #[serde(default)]
        prompts: Vec<String>,
        /// Whether it went well.
        #[serde(default)]
        ok: bool,
        /// Why it ended.
        #[serde(default)]
        stop: String,
        /// Running total in USD.
        #[serde(default)]
        cost_usd: f64,
        /// How long it took.
        #[serde(default)]
        duration_ms: u64,
    },
    /// Settings changed.
    Settings {
        /// The title.
        #[serde(default)]
        title: Option<String>,
        /// The model.
        #[serde(default)]
        model: Option<String>,
        /// The mode.
        #[serde(default)]
        mode: Option<String>,
    },
    /// The API is tried again.
    Retry {
        /// Which attempt comes next.
        #[serde(default)]
        attempt: u32,
        /// Of how many.
        #[serde(default)]
        of: u32,
        /// After how long.
        #[serde(default)]
        delay_ms: u64,
        /// Why.
        #[serde(default)]
        error: String,
    },
    /// Something people may want to read.
    Notice {
        /// `info`, `warning` or `error`.
        #[serde(default)]
        level: String,
        /// The text.
        text: String,
    },
    /// A fact of a kind that is known, in a form that is not.
    #[serde(skip)]
    Unreadable,
    /// A kind of the future, or `raw`.
    #[serde(other)]
    Unknown,
}

/// A block of text or thinking: whole in an event, as far as it was streamed in a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Block {
    /// The message's id.
    pub message: String,
    /// Index of the block.
    pub block: u32,
    /// In a snapshot: `text` or `thinking`.
    #[serde(rename = "kind")]
    pub block_kind: Option<String>,
    /// The text.
    pub text: String,
    /// A sub-agent's tool call.
    pub parent: Option<String>,
}

/// A permission request that waits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct OpenPermission {
    /// Its id.
    pub request: String,
    /// The tool call it is about.
    pub call: Option<String>,
    /// The tool.
    pub tool: String,
    /// The tool's input; `None` where it is too large and has to be fetched.
    pub input: Option<Value>,
    /// Where the input is too large: what to fetch.
    pub input_blob: Option<Blob>,
    /// Part of it cannot be shown whole, so that it can only be denied.
    pub deny_only: bool,
    /// Why it can only be denied.
    pub deny_why: Option<String>,
    /// What the CLI says about it: a line or a few.
    pub about: String,
    /// Questions with options, where it is one.
    pub questions: Option<Value>,
    /// Approval must not be preselected.
    pub default_to_no: bool,
    /// "Always" must not be offered.
    pub no_always: bool,
    /// A single tap must not approve.
    pub needs_interaction: bool,
    /// The parts that cannot be read: what a person cannot see must not be allowed.
    #[serde(skip)]
    pub unreadable: Vec<String>,
}

impl OpenPermission {
    /// Reads a request: it waits even if parts of it cannot be read.
    pub fn read(value: &Value) -> Self {
        let (open, unreadable) = by_field(value).unwrap_or_else(|| (Self::default(), vec!["request".into()]));
        Self { unreadable, ..open }
    }
}

/// Something that is fetched in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Blob {
    /// Length in bytes.
    pub bytes: u64,
    /// What to name in `fetch`.
    pub blob: String,
}

/// A device that watches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeviceInfo {
    /// Its id.
    pub device: String,
    /// The name it gave itself.
    pub name: String,
    /// The principal that it signed in as.
    pub principal: String,
    /// The comment that the relay's keys file gives the key; may be empty.
    pub comment: String,
    /// Its kind.
    pub kind: String,
    /// What it may do.
    pub role: String,
    /// Since when.
    pub since: u64,
}

/// A session in a line.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Its id.
    pub session: String,
    /// Its title.
    pub title: String,
    /// Its profile.
    pub profile: String,
    /// Its folder.
    pub folder: String,
    /// What it is doing.
    pub state: String,
    /// Why.
    pub why: Option<String>,
    /// How many permission requests wait.
    pub waiting: u64,
    /// The model.
    pub model: Option<String>,
    /// The permission mode.
    pub mode: Option<String>,
    /// When it was created, Unix milliseconds.
    pub created_at: u64,
    /// Its last event, Unix milliseconds.
    pub active_at: u64,
    /// Running total in USD.
    pub cost_usd: f64,
    /// How many devices watch.
    pub devices: u64,
    /// The fields that cannot be read.
    #[serde(skip)]
    pub unreadable: Vec<String>,
}

impl Summary {
    /// Reads what there is to read; `None` without its id.
    pub fn read(value: &Value) -> Option<Self> {
        let (summary, unreadable) = by_field::<Self>(value).filter(|(summary, _)| !summary.session.is_empty())?;
        Some(Self { unreadable, ..summary })
    }

    /// Whether this field is there and cannot be read.
    pub fn is_unreadable(&self, field: &str) -> bool {
        self.unreadable.iter().any(|name| name == field)
    }

    /// Whether a turn runs, or is about to.
    pub fn is_busy(&self) -> bool {
        is_busy(&self.state)
    }

    /// Whether a process runs or will.
    pub fn is_live(&self) -> bool {
        !matches!(self.state.as_str(), "stopped" | "failed")
    }
}

/// Whether a turn runs, or is about to, in a session of this state.
pub fn is_busy(state: &str) -> bool {
    matches!(state, "busy" | "waiting" | "retrying" | "stuck")
}

/// The running turn.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Turn {
    /// The prompts it runs for.
    pub prompts: Vec<String>,
    /// Since when.
    pub since: u64,
    /// What was streamed so far.
    pub blocks: Vec<Block>,
}

/// A prompt that waits or runs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct QueuedPrompt {
    /// Its id.
    pub prompt: String,
    /// What it says.
    pub text: String,
    /// Its author.
    pub by: Option<By>,
    /// How far it has come.
    pub state: String,
}

/// Everything needed to act.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Its id.
    pub session: String,
    /// Its title.
    pub title: String,
    /// Its profile.
    pub profile: String,
    /// Its folder.
    pub folder: String,
    /// What it is doing.
    pub state: String,
    /// Since when, Unix milliseconds.
    pub since: u64,
    /// Why.
    pub why: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// Running total in USD.
    pub cost_usd: f64,
    /// The running turn.
    pub turn: Option<Turn>,
    /// Prompts that wait or run.
    pub queue: Vec<QueuedPrompt>,
    /// Requests that wait.
    #[serde(deserialize_with = "requests")]
    pub permissions: Vec<OpenPermission>,
    /// The devices that watch. (In a summary this is a number; a snapshot has the list.)
    pub devices: Vec<DeviceInfo>,
    /// A text to show first.
    pub notice: Option<String>,
    /// The permission mode.
    pub mode: Option<String>,
    /// Where the next event will stand.
    pub next: Position,
    /// The fields that cannot be read.
    #[serde(skip)]
    pub unreadable: Vec<String>,
}

impl Snapshot {
    /// Reads what there is to read; `None` where it cannot be told which requests wait.
    pub fn read(value: &Value) -> Option<Self> {
        let (snapshot, unreadable) = by_field::<Self>(value)?;
        (!unreadable.iter().any(|name| name == "permissions")).then_some(Self { unreadable, ..snapshot })
    }
}

fn requests<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<OpenPermission>, D::Error> {
    Ok(Vec::<Value>::deserialize(deserializer)?.iter().map(OpenPermission::read).collect())
}

fn summary<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Box<Summary>, D::Error> {
    let summary = Summary::read(&Value::deserialize(deserializer)?);
    summary.map(Box::new).ok_or_else(|| serde::de::Error::custom("a session without an id"))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
