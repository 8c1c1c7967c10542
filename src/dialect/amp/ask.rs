//! A session asked by an agent: which REQUEST became which prompt, and what of the session's events is said to the
//! agent. One for each connection.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    relay::api::{Code as SessionCode, Error, Event, Kind, OpenPermission, PromptState, Text},
    wire::{
        amp::{
            Code, Id,
            body::{InputRequired, Processing},
            check::Refusal,
        },
        cbor,
    },
};

/// Longest answer that is gathered for one REQUEST, in bytes; the rest is cut.
const ANSWER_BYTES_MAX: usize = 512 * 1024;
/// Most REQUESTs of one connection that wait for a session.
const ASKED_MAX: usize = 64;
/// REQUESTs that are remembered after their end: one that is said again is not asked again.
const ENDED_MAX: usize = 1024;
/// Longest input of a tool that a question shows, in bytes.
const INPUT_BYTES_MAX: usize = 4 * 1024;

/// A REQUEST that a session works on.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The session.
    pub session: Text,
    /// The session's DID, which answers.
    pub did: Text,
    /// Who asked, as it was written.
    pub from: Text,
    /// The REQUEST's id.
    pub id: Id,
    /// Its thread.
    pub thread_id: Option<Vec<u8>>,
    prompt: Option<Text>,
    running: bool,
    text: String,
}

/// What an agent is told.
#[derive(Debug)]
pub enum Tell {
    /// Work has begun.
    Processing(Vec<u8>),
    /// A person, or an agent with the role, must decide.
    InputRequired {
        /// The permission request.
        request: Text,
        /// The body.
        body: Vec<u8>,
    },
    /// The end.
    Response(Vec<u8>),
}

/// All REQUESTs of one connection.
#[derive(Debug, Default)]
pub struct Asker {
    asked: Vec<Asked>,
    /// INPUT_REQUIRED messages that wait: their id, session and permission request.
    inputs: HashMap<[u8; 16], (Text, Text)>,
    /// Decisions that the session has not taken yet.
    deciding: Vec<Asked>,
    /// REQUESTs that were answered, the oldest first.
    ended: VecDeque<Id>,
}

/// What became of a REQUEST that was taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is new: ask the session.
    New,
    /// It was said before: the answer is on its way, or was given.
    Again,
    /// Too many wait.
    Full,
}

impl Asker {
    /// Takes a REQUEST down.
    pub fn ask(&mut self, session: Text, did: Text, from: Text, id: Id, thread_id: Option<Vec<u8>>) -> Taken {
        if self.ended.contains(&id) || self.asked.iter().any(|asked| asked.id == id) {
            return Taken::Again;
        }
        if self.asked.len() >= ASKED_MAX {
            return Taken::Full;
        }
        self.asked.push(Asked::new(session, did, from, id, thread_id));
        Taken::New
    }

    /// Takes down who decides by this message. False: too many decisions wait.
    pub fn decide(&mut self, session: Text, did: Text, from: Text, id: Id) -> bool {
        if self.deciding.len() >= ASKED_MAX {
            return false;
        }
        self.deciding.push(Asked::new(session, did, from, id, None));
        true
    }

    /// The session took the decision of this message.
    pub fn decided(&mut self, id: &str) {
        self.deciding.retain(|asked| command_id(&asked.id) != id);
    }

    /// Ends a REQUEST and remembers it.
    fn end(&mut self, at: usize) -> Asked {
        let asked = self.asked.remove(at);
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(asked.id);
        asked
    }

    /// The session took the prompt of this REQUEST.
    pub fn taken(&mut self, id: &str, prompt: Text) {
        if let Some(asked) = self.asked.iter_mut().find(|asked| command_id(&asked.id) == id) {
            asked.prompt = Some(prompt);
        }
    }

    /// The session refused it. Gives whom to tell.
    pub fn refused(&mut self, id: &str) -> Option<Asked> {
        if let Some(at) = self.deciding.iter().position(|asked| command_id(&asked.id) == id) {
            return Some(self.deciding.remove(at));
        }
        let at = self.asked.iter().position(|asked| command_id(&asked.id) == id)?;
        Some(self.asked.remove(at))
    }

    /// An INPUT_REQUIRED was said.
    pub fn waits(&mut self, id: Id, session: Text, request: Text) {
        self.inputs.insert(id.0, (session, request));
    }

    /// A RESPONSE to an INPUT_REQUIRED came: the session and its permission request.
    pub fn answered(&mut self, reply_to: &[u8]) -> Option<(Text, Text)> {
        self.inputs.get(&<[u8; 16]>::try_from(reply_to).ok()?).cloned()
    }

    /// An event of a session. What is to be told, and about which REQUEST.
    pub fn event(&mut self, event: &Arc<Event>, tell: &mut dyn FnMut(&Asked, Tell)) {
        let mine = |asked: &&mut Asked| asked.session == event.session;
        match &event.kind {
            Kind::PromptState { prompt, state, why } => {
                let found = self.asked.iter().position(|asked| asked.prompt.as_ref() == Some(prompt));
                let Some(at) = found else { return };
                match state {
                    PromptState::Running => {
                        self.asked[at].running = true;
                        tell(&self.asked[at], Tell::Processing(processing()));
                    }
                    PromptState::Queued => {}
                    PromptState::Done => {
                        let asked = self.end(at);
                        tell(&asked, Tell::Response(response(true, &asked.text)));
                    }
                    PromptState::Cancelled | PromptState::Failed => {
                        let asked = self.end(at);
                        let text = why.as_deref().unwrap_or("the prompt was not finished");
                        tell(&asked, Tell::Response(response(false, text)));
                    }
                }
            }
            Kind::Text { block_kind: crate::claude::Block::Text, text, parent: None, .. } => {
                let Some(asked) = self.asked.iter_mut().filter(mine).find(|asked| asked.running) else { return };
                let room = ANSWER_BYTES_MAX.saturating_sub(asked.text.len());
                if !asked.text.is_empty() && room > 1 {
                    asked.text.push('\n');
                }
                asked.text.extend(text.chars().scan(0, |bytes, c| {
                    *bytes += c.len_utf8();
                    (*bytes < room).then_some(c)
                }));
            }
            Kind::Permission(open) => {
                let Some(asked) = self.asked.iter_mut().filter(mine).find(|asked| asked.running) else { return };
                tell(asked, Tell::InputRequired { request: open.request.clone(), body: input_required(open) });
            }
            Kind::PermissionClosed { request, .. } => self.inputs.retain(|_, (_, open)| open != request),
            _ => {}
        }
    }
}

/// The one member of a tool's input that says the most.
#[derive(serde::Deserialize)]
struct Command {
    command: Option<String>,
}

impl Asked {
    fn new(session: Text, did: Text, from: Text, id: Id, thread_id: Option<Vec<u8>>) -> Self {
        Self { session, did, from, id, thread_id, prompt: None, running: false, text: String::new() }
    }
}

/// The id a REQUEST's command has towards the core.
pub fn command_id(id: &Id) -> String {
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn processing() -> Vec<u8> {
    let mut body = Vec::new();
    Processing::default().write(&mut body);
    body
}

fn input_required(open: &OpenPermission) -> Vec<u8> {
    // Who allows something has to see what it is, not only what it is said to be.
    let input = open.input.as_str();
    let shown = input.get(..input.floor_char_boundary(INPUT_BYTES_MAX)).unwrap_or_default();
    let command: Option<String> = open.input.read::<Command>().ok().and_then(|command| command.command);
    let shown = command.unwrap_or_else(|| shown.to_owned());
    let prompt = format!("{} wants to run: {shown}\n{}", open.tool, open.about);
    let mut body = Vec::new();
    InputRequired { prompt: &prompt, options: &["allow", "deny"], timeout_ms: None }.write(&mut body);
    body
}

fn response(ok: bool, text: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(text.len() + 16);
    cbor::map(&mut body, 2);
    cbor::text(&mut body, "ok");
    cbor::boolean(&mut body, ok);
    cbor::text(&mut body, "text");
    cbor::text(&mut body, text);
    body
}

/// What an agent is told of a session's refusal.
pub fn refusal(error: &Error) -> Refusal {
    let code = match error.code {
        SessionCode::Forbidden => Code::UNAUTHORIZED,
        SessionCode::NotFound => Code::RECIPIENT_NOT_FOUND,
        SessionCode::BadRequest | SessionCode::TooLarge | SessionCode::Conflict => Code::BAD_REQUEST,
        SessionCode::Limit | SessionCode::RateLimited => Code::OVERLOADED,
        SessionCode::AgentUnavailable | SessionCode::AgentLoginNeeded | SessionCode::ShuttingDown => Code::UNAVAILABLE,
        _ => Code::INTERNAL_ERROR,
    };
    let reason = match error.code {
        SessionCode::Forbidden => "this key's role does not include that",
        SessionCode::AgentLoginNeeded => "the agent is not logged in on the relay's host",
        SessionCode::AgentUnavailable => "the session's process does not run",
        SessionCode::AlreadyDecided => "somebody else decided first",
        _ => "the session refused it",
    };
    Refusal::new(code, reason)
}
