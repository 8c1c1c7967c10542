//! Sessions asked by one agent: which REQUEST became which prompt, and what of a session's events is said to the agent.
//!
//! A session's events come from a position on, without gaps. That position is never behind the prompt of a REQUEST: for
//! a REQUEST that is repeated after its connection broke, the events are asked for once more from its prompt on. So its
//! beginning and its text are not missed, though they were said before. Other REQUESTs are told nothing twice.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::{Arc, LazyLock},
};

use serde_json::Value;

use super::Ask;
use crate::{
    base::{ConnToken, Json, glyph::tool_name},
    relay::{
        api::{
            Code as SessionCode, Command, Decision, Error, Event, Input, Kind, OpenPermission, Position, PromptState,
            Text,
        },
        card::{self, Card, Question},
        session,
    },
    wire::{
        amp::{
            Code, Id,
            body::{Care, InputRequired, Processing},
            check::Refusal,
        },
        cbor,
    },
};

/// Longest answer that is gathered for one REQUEST, in bytes; the rest is cut.
const ANSWER_BYTES_MAX: usize = 512 * 1024;
/// Most REQUESTs of one agent that wait for a session.
const ASKED_MAX: usize = 64;
/// REQUESTs that are remembered after their end: a repeated one is not put to the session again.
const ENDED_MAX: usize = 1024;
/// Events of a prompt that has just been queued before the session says that it took the prompt: the prompt, and the word
/// that it is queued.
const EVENTS_BEFORE_TAKEN: u64 = 2;
/// Longest question, in bytes. A longer one shows how it begins, and can only be denied.
const PROMPT_BYTES_MAX: usize = 256 * 1024;
/// How much of a question that is too long is shown, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// A REQUEST that a session works on.
#[derive(Clone, Debug)]
pub(super) struct PendingRequest {
    /// The connection that asked.
    peer: ConnToken,
    /// The session.
    pub(super) session: Text,
    /// The session's DID, which answers.
    pub(super) did: Text,
    /// The sender, as it was written.
    pub(super) from: Text,
    /// The REQUEST's id.
    pub(super) id: Id,
    /// Its thread.
    pub(super) thread_id: Option<Vec<u8>>,
    /// What it asks, hashed.
    content: u64,
    /// The prompt it became, once the session says so.
    prompt: Option<Text>,
    /// The first event that it has not seen.
    next: u64,
    running: bool,
    text: String,
    /// How long the answer is, of which `text` is the beginning.
    bytes: usize,
}

/// What an agent is told of its REQUEST.
#[derive(Debug)]
pub(super) enum Progress {
    /// Work has begun.
    Processing(Vec<u8>),
    /// A person, or an agent with the role, must decide.
    InputRequired {
        /// What an answer will be about.
        put: Put,
        /// The body.
        body: Vec<u8>,
    },
    /// The end.
    Response(Vec<u8>),
}

/// A permission request as it was put to an agent in an INPUT_REQUIRED. An agent's answer names that message and no hash of
/// the input, as a device's does, so the hash of what it was sent is kept here.
#[derive(Clone, Debug)]
pub(super) struct Put {
    session: Text,
    request: Text,
    /// The hash of the input, where an answer may allow it.
    shown: Option<Text>,
    /// What was asked, where answers are wanted instead of a yes.
    questions: Vec<Question>,
}

/// All REQUESTs of one agent.
#[derive(Debug, Default)]
pub(super) struct SessionRequests {
    asked: Vec<PendingRequest>,
    /// Sessions with events that come to this agent, and the offset of the next one.
    followed: HashMap<Text, u64>,
    /// INPUT_REQUIRED messages that wait, by their id.
    inputs: HashMap<[u8; 16], Put>,
    /// Decisions that the session has not taken yet.
    deciding: Vec<PendingRequest>,
    /// REQUESTs that were answered, the oldest first.
    ended: VecDeque<Ended>,
}

/// A REQUEST that was answered.
#[derive(Debug)]
struct Ended {
    session: Text,
    id: Id,
    /// The connection it came from.
    peer: ConnToken,
    content: u64,
}

/// What became of a REQUEST that was taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// It is new: ask the session.
    New,
    /// It was said before: the answer is on its way, or was given.
    Again,
    /// Its id was used for another prompt.
    Conflict,
    /// Too many wait.
    Full,
}

impl SessionRequests {
    /// Records a REQUEST that asks this, hashed. A REQUEST that is repeated on another connection is new: what was said of
    /// it so far may have been lost with the first connection.
    pub(super) fn ask(&mut self, request: PendingRequest, content: u64) -> Begin {
        // One message may be for several sessions, each of which answers.
        let is_it = |session: &Text, id: &Id| *session == request.session && *id == request.id;
        let at = self.asked.iter().position(|asked| is_it(&asked.session, &asked.id));
        let asked = at.map(|at| (self.asked[at].peer, self.asked[at].content));
        let ended = self.ended.iter().find(|ended| is_it(&ended.session, &ended.id) && ended.peer == request.peer);
        match asked.or(ended.map(|ended| (ended.peer, ended.content))) {
            Some((_, other)) if other != content => return Begin::Conflict,
            Some((peer, _)) if peer == request.peer => return Begin::Again,
            _ => {}
        }
        if let Some(at) = at {
            self.asked.remove(at);
        } else if self.asked.len() >= ASKED_MAX {
            return Begin::Full;
        }
        self.asked.push(PendingRequest { content, ..request });
        Begin::New
    }

    /// Records a decision, to answer its sender. False: too many decisions wait.
    pub(super) fn decide(&mut self, decision: PendingRequest) -> bool {
        if self.deciding.len() >= ASKED_MAX {
            return false;
        }
        self.deciding.push(decision);
        true
    }

    /// The session took the decision of this message.
    pub(super) fn decided(&mut self, id: &str) {
        self.deciding.retain(|asked| asked.command_id() != id);
    }

    /// Ends a REQUEST and remembers it.
    fn end(&mut self, at: usize) -> PendingRequest {
        let asked = self.asked.remove(at);
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        let (session, id) = (asked.session.clone(), asked.id);
        self.ended.push_back(Ended { session, id, peer: asked.peer, content: asked.content });
        asked
    }

    /// The session took the prompt of this REQUEST, which stands there in its log. Gives the session and from where on
    /// its events are to come, if they do not already.
    pub(super) fn taken(&mut self, id: &str, prompt: Text, position: &Position) -> Option<(Text, Position)> {
        let asked = self.asked.iter_mut().find(|asked| asked.command_id() == id)?;
        asked.prompt = Some(prompt);
        asked.next = position.offset;
        let session = asked.session.clone();
        if self.followed.get(&session).is_some_and(|next| *next <= position.offset + EVENTS_BEFORE_TAKEN) {
            return None;
        }
        let waiting = self.asked.iter().filter(|asked| asked.session == session && asked.prompt.is_some());
        let offset = waiting.map(|asked| asked.next).min().unwrap_or(position.offset);
        self.followed.insert(session.clone(), offset);
        Some((session, Position { offset, ..position.clone() }))
    }

    /// A session's events are lost: they do not come any more, or cannot. Gives the REQUESTs that are left without an answer.
    pub(super) fn lost(&mut self, session: &str) -> Vec<PendingRequest> {
        self.followed.remove(session);
        self.inputs.retain(|_, put| *put.session != *session);
        self.asked.extract_if(.., |asked| *asked.session == *session && asked.prompt.is_some()).collect()
    }

    /// The session refused it. Gives the REQUEST or decision to answer.
    pub(super) fn refused(&mut self, id: &str) -> Option<PendingRequest> {
        if let Some(at) = self.deciding.iter().position(|asked| asked.command_id() == id) {
            return Some(self.deciding.remove(at));
        }
        let at = self.asked.iter().position(|asked| asked.command_id() == id)?;
        Some(self.asked.remove(at))
    }

    /// Ends all that waits.
    pub(super) fn all(&mut self) -> Vec<PendingRequest> {
        self.asked.drain(..).chain(self.deciding.drain(..)).collect()
    }

    /// Whether nothing waits: no REQUEST and no decision.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.deciding.is_empty()
    }

    /// An INPUT_REQUIRED was said.
    pub(super) fn waits(&mut self, id: Id, put: Put) {
        self.inputs.insert(id.0, put);
    }

    /// A RESPONSE to an INPUT_REQUIRED came: what was put.
    pub(super) fn answered(&self, reply_to: &[u8]) -> Option<&Put> {
        self.inputs.get(&<[u8; 16]>::try_from(reply_to).ok()?)
    }

    /// An event of a session. What is to be told, and about which REQUEST.
    pub(super) fn event(&mut self, event: &Arc<Event>, tell: &mut dyn FnMut(&PendingRequest, Progress)) {
        let offset = event.position.offset;
        if let Some(next) = self.followed.get_mut(&event.session) {
            *next = offset + 1;
        }
        self.tell(event, tell);
        for asked in self.asked.iter_mut().filter(|asked| asked.session == event.session) {
            asked.next = asked.next.max(offset + 1);
        }
    }

    /// A permission request needs no answer any more. Another session's may have the same id.
    fn closed(&mut self, session: &Text, request: &Text) {
        self.inputs.retain(|_, put| put.session != *session || put.request != *request);
    }

    fn tell(&mut self, event: &Event, tell: &mut dyn FnMut(&PendingRequest, Progress)) {
        let offset = event.position.offset;
        let mine = |asked: &&mut PendingRequest| asked.session == event.session && offset >= asked.next;
        match &event.kind {
            Kind::PromptState { prompt, state, why } => {
                let is_it = |asked: &PendingRequest| asked.prompt.as_ref() == Some(prompt) && offset >= asked.next;
                let found = self.asked.iter().position(is_it);
                let Some(at) = found else { return };
                match state {
                    PromptState::Running => {
                        self.asked[at].running = true;
                        tell(&self.asked[at], Progress::Processing(processing()));
                    }
                    PromptState::Queued => {}
                    PromptState::Done => {
                        let asked = self.end(at);
                        tell(&asked, Progress::Response(response(true, &asked.answer())));
                    }
                    PromptState::Cancelled | PromptState::Failed => {
                        let asked = self.end(at);
                        let text = why.as_deref().unwrap_or("the prompt was not finished");
                        tell(&asked, Progress::Response(response(false, text)));
                    }
                }
            }
            Kind::Text { block_kind: crate::claude::Block::Text, text, parent: None, .. } => {
                let Some(asked) = self.asked.iter_mut().filter(mine).find(|asked| asked.running) else { return };
                if asked.bytes > 0 {
                    asked.gather("\n");
                }
                asked.gather(text);
            }
            Kind::Permission(open) => {
                let Some(asked) = self.asked.iter_mut().filter(mine).find(|asked| asked.running) else { return };
                let (put, body) = input_required(asked.session.clone(), open);
                tell(asked, Progress::InputRequired { put, body });
            }
            Kind::PermissionClosed { request, .. } => self.closed(&event.session, request),
            _ => {}
        }
    }
}

impl PendingRequest {
    /// A message for this session.
    pub(super) fn new(ask: &Ask, session: Text) -> Self {
        Self {
            peer: ask.caller.peer,
            session,
            did: ask.did.clone(),
            from: ask.from.clone(),
            id: ask.id,
            thread_id: ask.thread_id.clone(),
            content: 0,
            prompt: None,
            next: 0,
            running: false,
            text: String::new(),
            bytes: 0,
        }
    }

    fn command_id(&self) -> String {
        command_id(&self.session, &self.id)
    }

    /// Takes a piece of the answer. Behind a cut nothing is taken, though a little might find room.
    fn gather(&mut self, piece: &str) {
        if self.bytes == self.text.len() {
            let room = ANSWER_BYTES_MAX - self.text.len();
            self.text.push_str(&piece[..piece.floor_char_boundary(room)]);
        }
        self.bytes += piece.len();
    }

    /// The answer, with a mark at its end where it is not all of it.
    fn answer(&self) -> Cow<'_, str> {
        if self.bytes == self.text.len() {
            return Cow::Borrowed(&self.text);
        }
        Cow::Owned(session::cut(&self.text, self.bytes))
    }
}

/// The id that the command of a message for a session has towards the core.
pub(super) fn command_id(session: &str, id: &Id) -> String {
    let hex: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex} {session}")
}

fn processing() -> Vec<u8> {
    let mut body = Vec::new();
    Processing::default().write(&mut body);
    body
}

impl Put {
    /// The session that asks.
    pub(super) fn session(&self) -> &Text {
        &self.session
    }

    /// The command that an agent's answer means.
    ///
    /// # Errors
    /// An allowance of what could only be denied, or answers that do not fit the questions.
    pub(super) fn decide(
        &self,
        decision: Decision,
        message: Option<Text>,
        typed: &[String],
    ) -> Result<Command, Refusal> {
        let bad = |why| Refusal::new(Code::BAD_REQUEST, why);
        let mut answers = None;
        if decision == Decision::Allow {
            if self.shown.is_none() {
                return Err(bad("this request can only be denied here; its prompt says why"));
            }
            if typed.len() != self.questions.len() {
                return Err(bad("`answers` must be a list of texts, one for each question"));
            }
            if !self.questions.is_empty() {
                let said = card::answers(&self.questions, typed);
                let said = said.map_err(|_| bad("an answer is neither the number of a choice nor a text"))?;
                answers = Some(Json::of(&said).map_err(|_| bad("`answers` cannot be sent"))?);
            }
        }
        Ok(Command::Decide {
            session: self.session.clone(),
            request: self.request.clone(),
            decision,
            shown: self.shown.clone().filter(|_| decision == Decision::Allow),
            message,
            input: None,
            answers,
        })
    }
}

/// Ends a question that is too large.
const NOT_ALL: &str = "\n(This is not all of it: it can be denied here, and allowed on a device that shows it whole.)";
/// Ends a question that no device may allow.
const NEVER_ALL: &str = "\n(This cannot be shown whole: it can only be denied.)";

/// What the CLI demands of an approver, as lines of the question.
fn demands(care: Care) -> String {
    [
        (care.needs_interaction, "a person has to decide this; a single key or tap must not allow it"),
        (care.default_to_no, card::ADVISED_AGAINST),
        (care.no_always, "an answer is for this one time; do not offer to remember it"),
    ]
    .into_iter()
    .filter(|(demanded, _)| *demanded)
    .map(|(_, says)| format!("\n  ({says})"))
    .collect()
}

/// The question about a permission request: whole, or how it begins.
fn input_required(session: Text, open: &OpenPermission) -> (Put, Vec<u8>) {
    let input: Option<Value> = match &open.input {
        Input::Whole(json) => json.value().ok(),
        Input::Large { .. } => None,
    };
    let whole = input.map(|input| {
        let card = Card::new(&open.tool, &open.about, &input);
        open.deny_why.iter().fold(card, |card, why| card.only_denied(why))
    });
    let mut prompt = whole.as_ref().map_or_else(
        || format!("{} asks for permission, with an input too large to be sent.", tool_name(&open.tool)),
        Card::plain,
    );
    let care = Care {
        needs_interaction: open.needs_interaction,
        default_to_no: open.default_to_no,
        no_always: open.no_always,
    };
    let mut put = Put { session, request: open.request.clone(), shown: open.hash.clone(), questions: Vec::new() };
    let options: &[&str] = match &whole {
        Some(card) if prompt.len() <= PROMPT_BYTES_MAX && put.shown.is_some() => {
            prompt.push_str(&demands(care));
            put.questions.clone_from(&card.questions);
            match card.unasked(open.questions.is_some()) {
                Some(why) => {
                    put.shown = None;
                    prompt.push_str(&format!("\n  ({why}: it can only be denied here)"));
                    &["deny"]
                }
                None if put.questions.is_empty() => &["allow", "deny"],
                None => &["answer", "deny"],
            }
        }
        _ => {
            put.shown = None;
            prompt.truncate(prompt.floor_char_boundary(HEAD_BYTES));
            prompt.push_str(if open.hash.is_some() { NOT_ALL } else { NEVER_ALL });
            &["deny"]
        }
    };
    let mut body = Vec::new();
    let questions = options.contains(&"answer").then_some(put.questions.len() as u64);
    InputRequired { prompt: &prompt, options, timeout_ms: None, questions, care }.write(&mut body);
    (put, body)
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

/// Why a message is refused whose id another one has.
pub(super) const ID_WAS_USED: &str = "this id was used for another message: take a new one";
/// The reason of a refusal outlives what it refuses, so this one is written once.
static TOO_LARGE: LazyLock<String> =
    LazyLock::new(|| session::too_large(session::Settings::default().prompt_bytes_max));

/// What an agent is told of a session's refusal.
pub(super) fn refusal(error: &Error) -> Refusal {
    let code = match error.code {
        SessionCode::Forbidden => Code::UNAUTHORIZED,
        SessionCode::NotFound => Code::RECIPIENT_NOT_FOUND,
        SessionCode::BadRequest | SessionCode::TooLarge | SessionCode::Conflict => Code::BAD_REQUEST,
        SessionCode::Limit | SessionCode::RateLimited => Code::OVERLOADED,
        SessionCode::AgentUnavailable
        | SessionCode::AgentLoginNeeded
        | SessionCode::ShuttingDown
        | SessionCode::CannotResume => Code::UNAVAILABLE,
        _ => Code::INTERNAL_ERROR,
    };
    let reason = match error.code {
        SessionCode::Forbidden => "this key's role does not include that",
        SessionCode::AgentLoginNeeded => "the agent is not logged in on the relay's host",
        SessionCode::AgentUnavailable => "the session's process does not run",
        SessionCode::CannotResume => "the session's log has moved on past the prompt; its answer cannot be told",
        SessionCode::Conflict => ID_WAS_USED,
        SessionCode::AlreadyDecided => "somebody else decided first",
        SessionCode::TooLarge => &TOO_LARGE,
        SessionCode::Limit => "too many prompts wait in the session, or too much of their text; send it later",
        _ => "the session refused it",
    };
    Refusal::new(code, reason)
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
