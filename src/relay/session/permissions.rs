//! Permission requests: state that waits for the first valid answer, and a bounded memory of how they ended.

use std::collections::{BTreeMap, VecDeque};

use super::{Cx, Session, by, clip};
use crate::{
    base::Json,
    claude,
    relay::api::{By, Caller, Closed, Code, Decision, Details, Error, How, Kind, OpenPermission, Out, Reply, Text},
};

/// Requests that may wait at one time; more are denied by the relay.
const OPEN_MAX: usize = 256;
/// Ended requests that are remembered.
const CLOSED_MAX: usize = 256;
/// The longest line about a request, in bytes.
const ABOUT_BYTES_MAX: usize = 4 << 10;
/// What the model is told when nobody says anything.
const DENIED: &str = "The person who was asked did not allow it.";

struct Open {
    shown: OpenPermission,
    /// As the model wrote it: what people see may be cut.
    input: Json,
}

struct Ended {
    request: Text,
    by: Option<By>,
    decision: Option<Decision>,
    at: u64,
}

/// The permission requests of a session.
#[derive(Default)]
pub(super) struct Permissions {
    open: Vec<Open>,
    ended: VecDeque<Ended>,
    changed: bool,
}

/// The answer to a request, as it was sent.
pub struct Verdict<'a> {
    /// Which request.
    pub request: &'a Text,
    /// Allow or deny.
    pub decision: Decision,
    /// With a denial: what the model is told.
    pub message: Option<&'a Text>,
    /// With an allowance: run with this input instead.
    pub input: Option<&'a Json>,
    /// With an allowance of questions: the answers, a JSON object.
    pub answers: Option<&'a Json>,
}

impl Permissions {
    pub(super) fn waiting(&self) -> usize {
        self.open.len()
    }

    pub(super) fn open(&self) -> Vec<OpenPermission> {
        self.open.iter().map(|open| open.shown.clone()).collect()
    }

    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn find(&self, request: &str) -> Option<usize> {
        self.open.iter().position(|open| *open.shown.request == *request)
    }

    fn end(&mut self, index: usize, by: Option<By>, decision: Option<Decision>, at: u64) -> Open {
        let open = self.open.remove(index);
        self.changed = true;
        if self.ended.len() == CLOSED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(Ended { request: open.shown.request.clone(), by, decision, at });
        open
    }

    fn missing(&self, request: &str) -> Error {
        let Some(ended) = self.ended.iter().rev().find(|ended| *ended.request == *request) else {
            return Error::new(Code::NotFound, "no such permission request");
        };
        let message = match (&ended.by, ended.decision) {
            (Some(by), Some(_)) => format!("{} has decided already", by.device),
            _ => "the request was closed before anybody decided".to_owned(),
        };
        let mut error = Error::new(Code::AlreadyDecided, message);
        error.recoverable = false;
        error.details = Some(Details::Decided { by: ended.by.clone(), decision: ended.decision, at: ended.at });
        error
    }
}

impl Session {
    /// Answers a permission request: the first valid answer wins. Answered once the decision is safe.
    ///
    /// # Errors
    /// `NOT_FOUND`, `ALREADY_DECIDED` with who, what and when, `BAD_REQUEST` for an input or answers that do not fit.
    pub fn decide(&mut self, cx: &mut Cx<'_>, caller: &Caller, re: &Text, verdict: &Verdict<'_>) -> Result<(), Error> {
        let index = self.permissions.find(verdict.request).ok_or_else(|| self.permissions.missing(verdict.request))?;
        let command = command(&self.permissions.open[index], verdict)?;
        let (by, request, decision) = (by(caller), verdict.request.clone(), verdict.decision);
        self.permissions.end(index, Some(by.clone()), Some(decision), cx.now.unix_ms);
        let event = Kind::Decision { request: request.clone(), decision, how: How::Person };
        let position = self.event_by(cx, &by, event);
        self.write(cx, command);
        let result = Ok(Reply::Decided { position });
        self.feed.hold(cx, Out::Answer { peer: caller.peer, re: re.clone(), result });
        self.event(cx, Kind::PermissionClosed { request, how: Closed::Applied });
        self.process.spoken(cx.now);
        self.refresh(cx);
        Ok(())
    }

    /// The CLI asks.
    pub(super) fn asked(&mut self, cx: &mut Cx<'_>, asked: claude::Permission) {
        if self.permissions.find(&asked.request).is_some() {
            return;
        }
        if self.permissions.open.len() >= OPEN_MAX {
            let message = "Too many permission requests wait already.".into();
            self.write(cx, claude::Command::Deny { request: asked.request, message });
            return;
        }
        let shown = OpenPermission {
            request: asked.request,
            call: asked.call,
            tool: asked.tool,
            input: clip::json(asked.input.clone()),
            about: clip::text(asked.about, ABOUT_BYTES_MAX),
            suggestions: asked.suggestions.map(clip::json),
            questions: asked.questions.map(clip::json),
        };
        self.permissions.open.push(Open { shown: shown.clone(), input: asked.input });
        self.permissions.changed = true;
        self.event(cx, Kind::Permission(shown));
    }

    /// The CLI wants no answer any more.
    pub(super) fn withdrawn(&mut self, cx: &mut Cx<'_>, request: &str) {
        if let Some(index) = self.permissions.find(request) {
            self.close(cx, index, Closed::Withdrawn);
        }
    }

    /// The process that asked is gone.
    pub(super) fn void_permissions(&mut self, cx: &mut Cx<'_>) {
        while !self.permissions.open.is_empty() {
            self.close(cx, 0, Closed::Void);
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>, index: usize, how: Closed) {
        let open = self.permissions.end(index, None, None, cx.now.unix_ms);
        self.event(cx, Kind::PermissionClosed { request: open.shown.request, how });
    }
}

fn command(open: &Open, verdict: &Verdict<'_>) -> Result<claude::Command, Error> {
    let request = open.shown.request.clone();
    if verdict.decision == Decision::Deny {
        let message = verdict.message.cloned().unwrap_or_else(|| DENIED.into());
        return Ok(claude::Command::Deny { request, message: clip::text(message, clip::JSON_BYTES_MAX) });
    }
    let input = verdict.input.unwrap_or(&open.input);
    // An input is an object in the CLI's protocol; one of another shape would come back as the tool's failure.
    let fields = |json: &Json, what: &str| {
        json.read::<BTreeMap<String, Json>>()
            .map_err(|_| Error::new(Code::BadRequest, format!("`{what}` must be a JSON object")))
    };
    let input = match (verdict.answers, verdict.input) {
        (Some(_), _) if open.shown.questions.is_none() => {
            return Err(Error::new(Code::BadRequest, "this request asks no questions: leave `answers` out"));
        }
        (Some(answers), _) => {
            fields(answers, "answers")?;
            let mut merged = fields(input, "input")?;
            merged.insert("answers".to_owned(), answers.clone());
            Json::of(&merged).map_err(|_| Error::new(Code::BadRequest, "`answers` cannot be sent"))?
        }
        (None, Some(changed)) => {
            fields(changed, "input")?;
            changed.clone()
        }
        (None, None) => input.clone(),
    };
    Ok(claude::Command::Allow { request, input })
}
