//! A session asked by an agent: which REQUEST became which prompt, and what of the session's events is said to the
//! agent. One for each connection.
//!
//! A session's events come to the connection from a position on, without gaps. That position is never behind the prompt
//! of a REQUEST: for one that was said before, on a connection that broke, the events are asked for once more from its
//! prompt on. So its beginning and its text are not missed, though they were said before this connection was there. What
//! a REQUEST has been told already it is not told again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    relay::api::{Code as SessionCode, Error, Event, Kind, OpenPermission, Position, PromptState, Text},
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
    /// The prompt it became, once the session says so.
    prompt: Option<Text>,
    /// The first event that it has not seen.
    next: u64,
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
    /// Sessions whose events come here, and where the next one stands.
    heard: HashMap<Text, u64>,
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

    /// The session took the prompt of this REQUEST, which stands there in its log. Gives the session and from where on
    /// its events are to come, if they do not already.
    pub fn taken(&mut self, id: &str, prompt: Text, position: &Position) -> Option<(Text, Position)> {
        let asked = self.asked.iter_mut().find(|asked| command_id(&asked.id) == id)?;
        asked.prompt = Some(prompt);
        asked.next = position.offset;
        let session = asked.session.clone();
        // A prompt that has just been queued is followed by the word that it is, and then by this answer.
        if self.heard.get(&session).is_some_and(|next| *next <= position.offset + 2) {
            return None;
        }
        let waiting = self.asked.iter().filter(|asked| asked.session == session && asked.prompt.is_some());
        let offset = waiting.map(|asked| asked.next).min().unwrap_or(position.offset);
        self.heard.insert(session.clone(), offset);
        Some((session, Position { offset, ..position.clone() }))
    }

    /// A session's events do not come any more, or cannot. Gives the REQUESTs that are left without an answer.
    pub fn unheard(&mut self, session: &str) -> Vec<Asked> {
        self.heard.remove(session);
        self.asked.extract_if(.., |asked| *asked.session == *session && asked.prompt.is_some()).collect()
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
        let offset = event.position.offset;
        if let Some(next) = self.heard.get_mut(&event.session) {
            *next = offset + 1;
        }
        let mut waiting =
            self.asked.iter_mut().filter(|asked| asked.session == event.session && asked.prompt.is_some());
        if waiting.all(|asked| offset < asked.next) {
            // Nobody waits for it, or it was asked for anew for another REQUEST.
            if let Kind::PermissionClosed { request, .. } = &event.kind {
                self.inputs.retain(|_, (_, open)| open != request);
            }
            return;
        }
        self.tell(event, tell);
        for asked in self.asked.iter_mut().filter(|asked| asked.session == event.session) {
            asked.next = asked.next.max(offset + 1);
        }
    }

    fn tell(&mut self, event: &Event, tell: &mut dyn FnMut(&Asked, Tell)) {
        let offset = event.position.offset;
        let mine = |asked: &&mut Asked| asked.session == event.session && offset >= asked.next;
        match &event.kind {
            Kind::PromptState { prompt, state, why } => {
                let is_it = |asked: &Asked| asked.prompt.as_ref() == Some(prompt) && offset >= asked.next;
                let found = self.asked.iter().position(is_it);
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
        Self { session, did, from, id, thread_id, prompt: None, next: 0, running: false, text: String::new() }
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
        SessionCode::AlreadyDecided => "somebody else decided first",
        _ => "the session refused it",
    };
    Refusal::new(code, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claude::Block;

    fn at(offset: u64) -> Position {
        Position { epoch: "epoch".into(), offset }
    }

    fn event(offset: u64, kind: Kind) -> Arc<Event> {
        Arc::new(Event { session: "session".into(), position: at(offset), at: 0, by: None, kind })
    }

    fn state(prompt: &str, state: PromptState) -> Kind {
        Kind::PromptState { prompt: prompt.into(), state, why: None }
    }

    fn text(text: &str) -> Kind {
        Kind::Text { message: "m".into(), block: 0, block_kind: Block::Text, text: text.into(), parent: None }
    }

    /// The log of two prompts, the first at 10, the second at 16.
    fn log() -> Vec<Arc<Event>> {
        let prompt = |prompt: &str| Kind::Prompt { prompt: prompt.into(), text: "?".into() };
        let kinds = [
            prompt("p1"),
            state("p1", PromptState::Queued),
            state("p1", PromptState::Running),
            text("one"),
            text("two"),
            state("p1", PromptState::Done),
            prompt("p2"),
            state("p2", PromptState::Queued),
            state("p2", PromptState::Running),
            text("three"),
            state("p2", PromptState::Done),
        ];
        kinds.into_iter().zip(10..).map(|(kind, offset)| event(offset, kind)).collect()
    }

    fn id(n: u8) -> Id {
        Id([n; 16])
    }

    fn ask(asker: &mut Asker, n: u8) {
        let taken = asker.ask("session".into(), "did:key:zS".into(), "did:key:zA".into(), id(n), None);
        assert_eq!(taken, Taken::New);
    }

    fn told(asker: &mut Asker, events: &[Arc<Event>]) -> Vec<(u8, String)> {
        let mut told = Vec::new();
        for event in events {
            asker.event(event, &mut |asked, tell| {
                let what = match tell {
                    Tell::Processing(_) => "processing".into(),
                    Tell::InputRequired { .. } => "input".into(),
                    Tell::Response(body) => {
                        cbor::get(&body, "text").and_then(cbor::as_text).expect("a text").to_owned()
                    }
                };
                told.push((asked.id.0[0], what));
            });
        }
        told
    }

    fn answers(pairs: &[(u8, &str)]) -> Vec<(u8, String)> {
        pairs.iter().map(|(id, text)| (*id, (*text).to_owned())).collect()
    }

    #[test]
    fn a_new_request_is_told_from_its_prompt_on() {
        let (mut asker, log) = (Asker::default(), log());
        ask(&mut asker, 1);
        let from = asker.taken(&command_id(&id(1)), "p1".into(), &at(10));
        assert_eq!(from, Some(("session".into(), at(10))));
        let said = told(&mut asker, &log[..6]);
        assert_eq!(said, answers(&[(1, "processing"), (1, "one\ntwo")]));
        // The next one comes on the same events: its prompt was seen, and that it is queued, before it was taken.
        ask(&mut asker, 2);
        assert_eq!(told(&mut asker, &log[6..8]), []);
        assert_eq!(asker.taken(&command_id(&id(2)), "p2".into(), &at(16)), None);
        assert_eq!(told(&mut asker, &log[8..]), answers(&[(2, "processing"), (2, "three")]));
    }

    #[test]
    fn a_request_said_again_on_another_connection_is_told_from_its_prompt_on() {
        let (mut asker, log) = (Asker::default(), log());
        // The second one is new; the first one ran on a connection that broke.
        ask(&mut asker, 2);
        assert_eq!(asker.taken(&command_id(&id(2)), "p2".into(), &at(16)), Some(("session".into(), at(16))));
        assert_eq!(told(&mut asker, &log[6..10]), answers(&[(2, "processing")]));
        ask(&mut asker, 1);
        assert_eq!(asker.taken(&command_id(&id(1)), "p1".into(), &at(10)), Some(("session".into(), at(10))));
        // What the second has seen it does not see again.
        let said = told(&mut asker, &log);
        assert_eq!(said, answers(&[(1, "processing"), (1, "one\ntwo"), (2, "three")]));
        assert_eq!(asker.unheard("session").len(), 0);
    }

    #[test]
    fn requests_of_a_session_that_is_not_heard_are_given_back() {
        let mut asker = Asker::default();
        ask(&mut asker, 1);
        ask(&mut asker, 2);
        asker.taken(&command_id(&id(1)), "p1".into(), &at(10));
        let lost: Vec<_> = asker.unheard("session").iter().map(|asked| asked.id).collect();
        assert_eq!(lost, [id(1)]);
        // It may be asked again, and the events with it.
        ask(&mut asker, 1);
        assert!(asker.taken(&command_id(&id(1)), "p1".into(), &at(10)).is_some());
    }
}
