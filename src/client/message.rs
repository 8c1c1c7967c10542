//! What a relay says, as values. Fields that a newer relay adds are ignored, types and kinds that it adds are
//! `Unknown`, and what it leaves out has a default.

use serde::Deserialize;
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
    /// Who watches.
    Presence {
        /// Which session.
        session: String,
        /// Everybody who watches now.
        devices: Vec<DeviceInfo>,
    },
    /// A session changed.
    Session {
        /// The session now.
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
    /// Reads a message; `None` for what is no message of the protocol.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
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
    /// One field, read as a value.
    pub fn field<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.fields.get(name).and_then(|value| T::deserialize(value).ok())
    }
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
    /// Whether connecting again later may help. What is about the key needs a person, whatever `recoverable` says.
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

/// Who did something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct By {
    /// The device's name for people.
    pub device: String,
    /// The principal.
    pub principal: String,
}

/// A fact with its position.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    /// Whose.
    pub session: String,
    /// Where it stands.
    #[serde(flatten)]
    pub position: Position,
    /// When, Unix milliseconds.
    #[serde(default)]
    pub at: u64,
    /// Who caused it.
    #[serde(default)]
    pub by: Option<By>,
    /// The fact.
    #[serde(flatten)]
    pub fact: Fact,
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
    /// Somebody decided.
    Decision {
        /// The request.
        request: String,
        /// `allow` or `deny`.
        decision: String,
        /// `person`, `rule` or `timeout`.
        #[serde(default)]
        how: String,
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
    /// The tool's input.
    pub input: Value,
    /// A line for people.
    pub about: String,
    /// Questions with options, where it is one.
    pub questions: Option<Value>,
}

/// A device that watches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeviceInfo {
    /// Its id.
    pub device: String,
    /// Its name.
    pub name: String,
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
}

impl Summary {
    /// Whether a process runs or will.
    pub fn is_live(&self) -> bool {
        !matches!(self.state.as_str(), "stopped" | "failed")
    }
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
    /// Who said it.
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
    /// Its folder.
    pub folder: String,
    /// What it is doing.
    pub state: String,
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
    pub permissions: Vec<OpenPermission>,
    /// Who watches. (In a summary this is a number; a snapshot has the list.)
    #[serde(deserialize_with = "devices")]
    pub devices: Vec<DeviceInfo>,
    /// A text to show first.
    pub notice: Option<String>,
    /// The permission mode.
    pub mode: Option<String>,
    /// Where the next event will stand.
    pub next: Position,
}

fn devices<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<DeviceInfo>, D::Error> {
    Ok(Vec::deserialize(Value::deserialize(deserializer)?).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_those_of_the_future_ignored() {
        let event = r#"{"type":"event","session":"s","epoch":"e","offset":7,"at":1,"by":{"device":"d","principal":"p"},
            "kind":"text","message":"m","block":0,"text":"hi","new":{}}"#;
        let Some(Incoming::Event(event)) = Incoming::parse(event) else { panic!() };
        assert_eq!(event.position, Position { epoch: "e".into(), offset: 7 });
        assert!(matches!(&event.fact, Fact::Text(block) if block.text == "hi"), "{event:?}");
        assert_eq!(Incoming::parse(r#"{"type":"hologram","x":1}"#), Some(Incoming::Unknown));
        assert_eq!(Incoming::parse(r#"{"type":"tick","now":1}"#), Some(Incoming::Unknown));
        let odd = r#"{"type":"event","session":"s","epoch":"e","offset":7,"kind":"dance","steps":3}"#;
        let Some(Incoming::Event(odd)) = Incoming::parse(odd) else { panic!() };
        assert_eq!(odd.fact, Fact::Unknown);
        let permission = r#"{"type":"event","session":"s","epoch":"e","offset":8,"kind":"permission","request":"r","tool":"Bash",
            "input":{"command":"ls"},"about":"list"}"#;
        let Some(Incoming::Event(event)) = Incoming::parse(permission) else { panic!() };
        assert!(matches!(&event.fact, Fact::Permission(open) if open.input["command"] == "ls"));
        let Some(Incoming::Reply(reply)) =
            Incoming::parse(r#"{"type":"reply","re":"1","next":{"epoch":"e","offset":2}}"#)
        else {
            panic!()
        };
        assert_eq!(reply.field::<Position>("next").unwrap().offset, 2);
        let error = r#"{"type":"error","code":"FORBIDDEN","message":"no","recoverable":true}"#;
        assert!(matches!(Incoming::parse(error), Some(Incoming::Error(error)) if error.code == "FORBIDDEN"));
        assert_eq!(Incoming::parse("[]"), None);
        let snapshot: Snapshot = serde_json::from_str(
            r#"{"session":"s","state":"busy","devices":[{"name":"a"}],"turn":{"prompts":[],"blocks":[{"message":"m","block":1,
            "kind":"thinking","text":"hm"}]}}"#,
        )
        .unwrap();
        assert_eq!(snapshot.turn.unwrap().blocks[0].block_kind.as_deref(), Some("thinking"));
        assert_eq!(snapshot.devices[0].name, "a");
    }
}
