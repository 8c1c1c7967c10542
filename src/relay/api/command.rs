//! What peers ask for.

use std::path::PathBuf;

use super::{Position, Text};
use crate::base::Json;

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
