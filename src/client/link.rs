//! Staying attached to a session across breaks, sans-io: when to connect again, from where to go on, which commands to
//! send again. Told the time and what came; says what to do.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{
    backoff::Backoff,
    message::{Attachment, Block, ErrorMessage, Incoming, OpenPermission, Position, Reply, Snapshot, Unreadable},
    socket::Ended,
};
use crate::base::{CloseCode, Now};

/// A client that sees nothing for so long connects again.
pub const NOTHING_SEEN_MS: u64 = 60_000;
/// Longest pause between two attempts.
pub const RETRY_MS_MAX: u64 = 30_000;
const RETRY_MS_FIRST: u64 = 250;
/// Commands without an answer; more are refused.
const UNANSWERED_MAX: usize = 64;

/// What the caller is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Do {
    /// Connect; then call [`Link::connected`] or [`Link::failed`].
    Connect,
    /// Send this.
    Send(String),
    /// Abandon the connection there is.
    Abandon,
    /// Nothing can be done any more.
    GiveUp(String),
    /// Connected again to the log that was followed: what was missed comes now, as ordinary events.
    Returned {
        /// The requests that are open now, if that can be read.
        permissions: Option<Vec<OpenPermission>>,
        /// What cannot be read of the answer.
        unreadable: Vec<String>,
    },
    /// What was streamed so far of blocks that are not whole, each from its beginning: the pieces that were missed are
    /// in it. Comes where it belongs between the events.
    Streamed(Vec<Block>),
    /// So many events were missed, and all of them have come.
    Resumed {
        /// How many.
        missed: u64,
    },
    /// Connected again, but the log was not continued: what comes is the newest part.
    Restarted {
        /// Why.
        why: String,
    },
    /// The first, or a restarted, attachment.
    Attached(Box<Attachment>),
    /// So many events could not be read, and the next ones go on behind them.
    Skipped {
        /// How many.
        events: u64,
    },
    /// The connection was lost; the next attempt is after so many milliseconds.
    Lost {
        /// Why.
        why: String,
        /// When again.
        retry_ms: u64,
    },
}

/// More commands wait for their answer than are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relay has not answered the last {UNANSWERED_MAX} commands; wait for the connection")]
pub struct LinkFull;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    /// The `attach` is under way.
    Attaching,
    /// Events that were missed come.
    CatchingUp,
    Live,
    Waiting {
        until_ms: u64,
    },
    Over,
}

/// A command without an answer.
#[derive(Debug)]
struct Unanswered {
    id: String,
    text: String,
    /// It was sent: the relay may have it.
    sent: bool,
}

/// A link to one session.
#[derive(Debug)]
pub struct Link {
    session: String,
    /// Before every id, so that two programs of one installation do not use the same.
    prefix: String,
    ids: u64,
    state: State,
    backoff: Backoff,
    next: Option<Position>,
    attach_id: String,
    missed: u64,
    /// Blocks that were being streamed when the relay stood at this offset, until its events have come so far.
    streamed: Option<(u64, Vec<Block>)>,
    seen_ms: u64,
    /// The relay said when to come back.
    retry_after_ms: Option<u64>,
    /// The error that came before a close with 1008.
    refused: Option<ErrorMessage>,
    unanswered: VecDeque<Unanswered>,
    /// Bytes of the newest events that the first attachment asks for.
    tail_bytes: Option<u64>,
    /// A message could not be read: the events that it may have been are not asked for again.
    unreadable: bool,
}

impl Link {
    /// A link that is not yet connected. `prefix` begins every command's id; `seed` spreads the attempts of many
    /// clients.
    pub fn new(session: &str, prefix: &str, seed: u64) -> Self {
        Self {
            session: session.into(),
            prefix: prefix.into(),
            ids: 0,
            state: State::Connecting,
            backoff: Backoff::new(RETRY_MS_FIRST, RETRY_MS_MAX, seed),
            next: None,
            attach_id: String::new(),
            missed: 0,
            streamed: None,
            seen_ms: 0,
            retry_after_ms: None,
            refused: None,
            unanswered: VecDeque::new(),
            tail_bytes: None,
            unreadable: false,
        }
    }

    /// The same; the first attachment asks for so many bytes of the newest events.
    #[must_use]
    pub fn with_tail(self, bytes: u64) -> Self {
        Self { tail_bytes: Some(bytes), ..self }
    }

    /// Whether messages flow.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Commands that wait for their answer.
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Whether a command without an answer was sent, so that the relay may have it; else it was only kept.
    pub fn was_sent(&self, id: &str) -> bool {
        self.unanswered.iter().any(|command| command.sent && command.id == id)
    }

    /// An id for a command.
    pub fn next_id(&mut self) -> String {
        self.ids += 1;
        format!("{}-{}", self.prefix, self.ids)
    }

    /// The connection is there and signed in.
    pub fn connected(&mut self, now: Now) -> Vec<Do> {
        self.seen_ms = now.mono_ms;
        self.refused = None;
        vec![self.attach()]
    }

    fn attach(&mut self) -> Do {
        self.state = State::Attaching;
        self.missed = 0;
        self.streamed = None;
        self.attach_id = self.next_id();
        let mut command = json!({"type": "attach", "id": self.attach_id, "session": self.session});
        match (&self.next, self.tail_bytes) {
            (Some(from), _) => command["from"] = json!(from),
            (None, Some(bytes)) => command["tail"] = json!({"bytes": bytes}),
            (None, None) => {}
        }
        Do::Send(command.to_string())
    }

    /// Sends a command now, or when the connection is there again; it is sent again until it is answered. `fields` gets
    /// `id`, and `session` unless it has one. Gives the id.
    ///
    /// # Errors
    /// Too many wait already.
    pub fn command(&mut self, mut fields: Value) -> Result<(String, Vec<Do>), LinkFull> {
        if self.unanswered.len() >= UNANSWERED_MAX {
            return Err(LinkFull);
        }
        let id = self.next_id();
        fields["id"] = json!(id);
        if fields.get("session").is_none() {
            fields["session"] = json!(self.session);
        }
        let text = fields.to_string();
        let send = matches!(self.state, State::Live | State::CatchingUp);
        self.unanswered.push_back(Unanswered { id: id.clone(), text: text.clone(), sent: send });
        Ok((id, if send { vec![Do::Send(text)] } else { Vec::new() }))
    }

    /// Anything came, a ping too.
    pub fn alive(&mut self, now: Now) {
        self.seen_ms = now.mono_ms;
    }

    /// A message came that cannot be read: what follows it is taken all the same.
    pub fn unreadable(&mut self, now: Now) -> Vec<Do> {
        self.alive(now);
        if self.state == State::Attaching && self.next.is_none() {
            self.state = State::Over;
            return vec![Do::GiveUp(Unreadable("attach".into()).to_string())];
        }
        self.unreadable = true;
        Vec::new()
    }

    /// A message came. False with it: it repeats what came before and is not to be shown.
    pub fn received(&mut self, now: Now, incoming: &Incoming) -> (bool, Vec<Do>) {
        self.alive(now);
        match incoming {
            Incoming::Reply(reply) if reply.re == self.attach_id => (false, self.attached(reply)),
            Incoming::Reply(reply) => {
                self.unanswered.retain(|command| command.id != reply.re);
                (true, Vec::new())
            }
            Incoming::Error(error) => self.error(error),
            Incoming::Event(event) if event.session == self.session => self.event(&event.position),
            Incoming::CaughtUp { session } if *session == self.session && self.state == State::CatchingUp => {
                self.state = State::Live;
                (false, vec![Do::Resumed { missed: self.missed }])
            }
            Incoming::CaughtUp { session } if *session == self.session && self.state == State::Attaching => {
                // The answer came before it, and could not be read.
                let mut todo = self.returned(Err(Unreadable("attach".into())));
                self.state = State::Live;
                todo.push(Do::Resumed { missed: self.missed });
                (false, todo)
            }
            Incoming::Reset { session, why } if *session == self.session => {
                self.next = None;
                (false, vec![Do::Restarted { why: why.clone() }, self.attach()])
            }
            Incoming::Unknown | Incoming::CaughtUp { .. } => (false, Vec::new()),
            _ => (true, Vec::new()),
        }
    }

    fn attached(&mut self, reply: &Reply) -> Vec<Do> {
        if self.next.is_some() {
            return self.returned(reply.snapshot());
        }
        match reply.attachment() {
            Ok(attachment) => {
                self.next = Some(attachment.next.clone());
                self.state = State::Live;
                self.backoff.reset();
                self.retry_after_ms = None;
                let mut todo = vec![Do::Attached(Box::new(attachment))];
                todo.extend(self.again());
                todo
            }
            Err(unreadable) => {
                self.state = State::Over;
                vec![Do::GiveUp(unreadable.to_string())]
            }
        }
    }

    /// The log goes on. Without the snapshot too: the events say what has changed.
    fn returned(&mut self, snapshot: Result<Snapshot, Unreadable>) -> Vec<Do> {
        self.state = State::CatchingUp;
        self.backoff.reset();
        self.retry_after_ms = None;
        let mut todo = Vec::new();
        match snapshot {
            Ok(snapshot) => {
                let blocks = snapshot.turn.map(|turn| turn.blocks).unwrap_or_default();
                self.streamed = Some((snapshot.next.offset, blocks));
                todo.push(Do::Returned { permissions: Some(snapshot.permissions), unreadable: snapshot.unreadable });
                todo.extend(self.streamed_here());
            }
            Err(Unreadable(name)) => todo.push(Do::Returned { permissions: None, unreadable: vec![name] }),
        }
        todo.extend(self.again());
        todo
    }

    /// Commands without an answer are sent again; the relay knows them by their ids.
    fn again(&mut self) -> impl Iterator<Item = Do> {
        self.unanswered.iter_mut().map(|command| {
            command.sent = true;
            Do::Send(command.text.clone())
        })
    }

    /// The blocks of the snapshot, once: when everything that came before them is there. A block that has become whole
    /// since is an event behind this place, so that its beginning is not shown after its end.
    fn streamed_here(&mut self) -> Option<Do> {
        let next = self.next.as_ref()?.offset;
        let (_, blocks) = self.streamed.take_if(|(at, _)| next >= *at)?;
        (!blocks.is_empty()).then_some(Do::Streamed(blocks))
    }

    fn error(&mut self, error: &ErrorMessage) -> (bool, Vec<Do>) {
        self.retry_after_ms = error.retry_after_ms;
        let Some(re) = &error.re else {
            self.refused = Some(error.clone());
            return (true, Vec::new());
        };
        if *re != self.attach_id {
            self.unanswered.retain(|command| command.id != *re);
            return (true, Vec::new());
        }
        if error.code == "CANNOT_RESUME" && self.next.take().is_some() {
            return (false, vec![Do::Restarted { why: error.message.clone() }, self.attach()]);
        }
        self.state = State::Over;
        let why = match error.code.as_str() {
            "NOT_FOUND" if self.next.is_some() => {
                "this session ended with the relay that ran it; the one that answers now does not know it: \
                 `amp-relay sessions`, with the --url or --data of this call, shows what it has"
                    .into()
            }
            _ => error.message.clone(),
        };
        (false, vec![Do::GiveUp(why)])
    }

    fn event(&mut self, position: &Position) -> (bool, Vec<Do>) {
        let Some(next) = &mut self.next else { return (false, Vec::new()) };
        if position.epoch == next.epoch && position.offset > next.offset && std::mem::take(&mut self.unreadable) {
            // What is missing could not be read, and would not be the next time.
            let events = position.offset - next.offset;
            next.offset = position.offset + 1;
            let mut todo = vec![Do::Skipped { events }];
            todo.extend(self.streamed_here());
            return (true, todo);
        }
        if position.epoch != next.epoch || position.offset > next.offset {
            // Something is missing in between: ask for it rather than go on without.
            return if self.state == State::Live { (false, vec![self.attach()]) } else { (false, Vec::new()) };
        }
        if position.offset < next.offset {
            return (false, Vec::new());
        }
        next.offset += 1;
        self.missed += u64::from(matches!(self.state, State::Attaching | State::CatchingUp));
        (true, self.streamed_here().into_iter().collect())
    }

    /// The connection ended.
    pub fn ended(&mut self, now: Now, ended: &Ended) -> Vec<Do> {
        if matches!(self.state, State::Over | State::Waiting { .. }) {
            return Vec::new();
        }
        if let Ended::Closed { code: Some(code), .. } = ended {
            let refused = self.refused.take();
            let end = match *code {
                CloseCode::KEY_REVOKED => Some("this key was revoked or has expired".to_owned()),
                CloseCode::POLICY => match &refused {
                    Some(error) if error.is_passing() => None,
                    Some(error) => Some(error.message.clone()),
                    None => Some(ended.to_string()),
                },
                CloseCode::NORMAL | CloseCode::TOO_BIG => Some(ended.to_string()),
                _ => None,
            };
            if let Some(why) = end {
                self.state = State::Over;
                return vec![Do::GiveUp(why)];
            }
        }
        self.wait(now, ended.to_string())
    }

    /// An attempt to connect failed; `passing`: trying again may help.
    pub fn failed(&mut self, now: Now, why: &str, passing: bool) -> Vec<Do> {
        if !passing {
            self.state = State::Over;
            return vec![Do::GiveUp(why.to_owned())];
        }
        self.wait(now, why.to_owned())
    }

    fn wait(&mut self, now: Now, why: String) -> Vec<Do> {
        let spread = self.backoff.next_ms();
        let retry_ms = self.retry_after_ms.take().map_or(spread, |said| said.clamp(spread, RETRY_MS_MAX));
        self.state = State::Waiting { until_ms: now.mono_ms + retry_ms };
        vec![Do::Lost { why, retry_ms }]
    }

    /// When [`Self::tick`] wants to be called, on the monotonic clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.state {
            State::Waiting { until_ms } => Some(until_ms),
            State::Attaching | State::CatchingUp | State::Live => Some(self.seen_ms + NOTHING_SEEN_MS),
            State::Connecting | State::Over => None,
        }
    }

    /// Time passed.
    pub fn tick(&mut self, now: Now) -> Vec<Do> {
        if self.deadline_ms().is_none_or(|deadline_ms| now.mono_ms < deadline_ms) {
            return Vec::new();
        }
        if let State::Waiting { .. } = self.state {
            self.state = State::Connecting;
            return vec![Do::Connect];
        }
        let mut todo = vec![Do::Abandon];
        todo.extend(self.wait(now, "the relay has said nothing for a minute".into()));
        todo
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
