//! What peers ask for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Position, Text};
use crate::{base::Json, relay::Role};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Let it run.
    Allow,
    /// Do not.
    Deny,
}

/// What a new session goes on with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Past {
    /// Nothing: a new conversation.
    #[default]
    None,
    /// The newest conversation of its folder.
    Newest,
    /// The conversation of this id.
    Conversation(Text),
}

/// What a command is, without what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is described as a command")]
pub enum Verb {
    List,
    Create,
    Attach,
    Detach,
    History,
    Fetch,
    Prompt,
    Interrupt,
    Decide,
    Stop,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 10] = [
        Self::List,
        Self::Create,
        Self::Attach,
        Self::Detach,
        Self::History,
        Self::Fetch,
        Self::Prompt,
        Self::Interrupt,
        Self::Decide,
        Self::Stop,
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Create => "create",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::History => "history",
            Self::Fetch => "fetch",
            Self::Prompt => "prompt",
            Self::Interrupt => "interrupt",
            Self::Decide => "decide",
            Self::Stop => "stop",
        }
    }

    /// The verb of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    /// The least role that may.
    pub fn needs(self) -> Role {
        match self {
            Self::List | Self::Attach | Self::Detach | Self::History | Self::Fetch => Role::Watch,
            Self::Prompt | Self::Interrupt => Role::Drive,
            Self::Decide => Role::Approve,
            Self::Create | Self::Stop => Role::Spawn,
        }
    }

    /// Whether a principal of this role may.
    pub fn is_open_to(self, role: Role) -> bool {
        role.allows(self.needs())
    }

    /// Whether it has an effect, which must not come twice.
    pub fn has_effect(self) -> bool {
        !matches!(self, Self::List | Self::Attach | Self::Detach | Self::History | Self::Fetch)
    }
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
        /// What it goes on with.
        past: Past,
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
    /// Read events before a position.
    History {
        /// Of which session.
        session: Text,
        /// The position that follows the newest one wanted.
        before: Position,
        /// How many bytes of them.
        bytes: Option<u64>,
    },
    /// Read a part of something that is too large for a message.
    Fetch {
        /// Of which session.
        session: Text,
        /// What: the id that an event or a snapshot gave.
        blob: Text,
        /// The first byte wanted.
        from: u64,
        /// How many bytes.
        bytes: Option<u64>,
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
        /// With an allowance: the hash of the input that was shown.
        shown: Option<Text>,
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

impl Command {
    /// What it is.
    pub fn verb(&self) -> Verb {
        match self {
            Self::List { .. } => Verb::List,
            Self::Create { .. } => Verb::Create,
            Self::Attach { .. } => Verb::Attach,
            Self::Detach { .. } => Verb::Detach,
            Self::History { .. } => Verb::History,
            Self::Fetch { .. } => Verb::Fetch,
            Self::Prompt { .. } => Verb::Prompt,
            Self::Interrupt { .. } => Verb::Interrupt,
            Self::Decide { .. } => Verb::Decide,
            Self::Stop { .. } => Verb::Stop,
        }
    }
}

/// A command with its id.
#[derive(Clone, Debug)]
pub struct Request {
    /// The client's id for it, 1 to 64 characters.
    pub id: Text,
    /// What is asked.
    pub command: Command,
}
