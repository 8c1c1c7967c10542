//! Permission requests: state that waits for the first valid answer, and a bounded memory of how they ended.
//!
//! A request holds its input once, as it is shown and as it will run. What is too large for a message is fetched in
//! parts; what cannot be shown at all is denied here.

use std::{borrow::Cow, collections::VecDeque};

use serde_json::{Map, Value};

use super::{Cx, Session, clip};
use crate::{
    base::{Json, Sound, unsound},
    claude,
    relay::api::{
        By, Caller, Closed, Code, Decision, Details, Error, How, INPUT_BYTES_MAX, Input, Kind, OpenPermission, Out,
        Ran, Reply, Text,
    },
    relay::card,
    wire::{shown, sign_in::is_id},
};

/// Requests that may wait at one time; more are denied by the relay.
const OPEN_MAX: usize = 256;
/// The longest inputs of all requests that wait in a session together, in bytes.
const OPEN_BYTES_MAX: usize = 32 << 20;
/// Whole inputs in one snapshot, in bytes; the rest is named, to be fetched.
const SNAPSHOT_BYTES_MAX: usize = 256 << 10;
/// The most that one `fetch` gives, in bytes.
const FETCH_BYTES_MAX: u64 = 128 << 10;
/// Ended requests that are remembered.
const CLOSED_MAX: usize = 256;
/// The longest text about a request, in bytes.
const ABOUT_BYTES_MAX: usize = 4 << 10;
/// What the model is told with a denial that has no message.
const DENIED: &str = "The person who was asked did not allow it.";

struct Open {
    /// What people see; its input is the whole one where a message holds it.
    shown: OpenPermission,
    input: Json,
    /// The input's name for `fetch`.
    blob: Text,
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
    /// Requests so far, to name their inputs by.
    count: u64,
    changed: bool,
}

/// The answer to a request, as it was sent.
pub struct Verdict<'a> {
    /// Which request.
    pub request: &'a Text,
    /// Allow or deny.
    pub decision: Decision,
    /// With an allowance: the hash of the input that was shown.
    pub shown: Option<&'a Text>,
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

    /// The open requests for a snapshot: inputs whole as long as the message has room for them.
    pub(super) fn open(&self) -> Vec<OpenPermission> {
        let mut room = SNAPSHOT_BYTES_MAX;
        let mut list = Vec::with_capacity(self.open.len());
        for open in &self.open {
            let mut shown = open.shown.clone();
            match room.checked_sub(open.input.as_str().len()) {
                Some(left) if matches!(shown.input, Input::Whole(_)) => room = left,
                _ => shown.input = open.by_name(),
            }
            list.push(shown);
        }
        list
    }

    /// A part of an open request's input.
    pub(super) fn fetch(&self, blob: &str, from: u64, bytes: Option<u64>) -> Result<Reply, Error> {
        let open = self.open.iter().find(|open| *open.blob == *blob);
        let open = open.ok_or_else(|| Error::new(Code::NotFound, "no open request has an input of this name"))?;
        let whole = open.input.as_str().as_bytes();
        let total = whole.len() as u64;
        let from = from.min(total);
        let to = from.saturating_add(bytes.unwrap_or(FETCH_BYTES_MAX).min(FETCH_BYTES_MAX)).min(total);
        Ok(Reply::Fetched { data: whole[from as usize..to as usize].to_vec(), total })
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
        let message = match ended.decision {
            Some(_) => "somebody has decided already",
            None => "the request was closed before anybody decided",
        };
        let mut error = Error::new(Code::AlreadyDecided, message);
        error.recoverable = false;
        error.details = Some(Details::Decided { by: ended.by.clone(), decision: ended.decision, at: ended.at });
        error
    }

    /// Why a request cannot be put to an approver, if so: what the model is told then.
    fn unfit(&self, asked: &claude::Permission) -> Option<&'static str> {
        // A device that answers the old request late would answer this one.
        if self.ended.iter().any(|ended| ended.request == asked.request) {
            return Some("A permission request with this id has ended already.");
        }
        let waiting: usize = self.open.iter().map(|open| open.input.as_str().len()).sum();
        let bytes = asked.input.as_str().len();
        if !is_id(&asked.request) {
            Some("The id of the permission request is none that an answer could name.")
        } else if self.open.len() >= OPEN_MAX || waiting + bytes > OPEN_BYTES_MAX {
            Some("Too many permission requests wait already.")
        } else if bytes > INPUT_BYTES_MAX {
            Some("The input is too large to be shown to the person who decides.")
        } else {
            None
        }
    }
}

impl Open {
    fn new(asked: claude::Permission, number: u64) -> Self {
        let claude::Permission { request, call, tool, input, about, suggestions, questions, .. } = asked;
        // The reason of the CLI stands at the end of what it says.
        let about_unseen =
            (about.len() > ABOUT_BYTES_MAX).then_some("what is said about it is too long to be shown whole");
        let (hash, deny_why) = match asked.unseen.or(about_unseen) {
            Some(why) => (None, Some(why)),
            None => match hash_of(&input) {
                None => (None, Some("its input has no canonical form (RFC 8785), by which it could be named")),
                hash => (hash, None),
            },
        };
        let blob: Text = format!("input-{number}").into();
        let bytes = input.as_str().len() as u64;
        let is_large = bytes > clip::JSON_BYTES_MAX as u64;
        let shown = OpenPermission {
            request,
            call,
            tool,
            input: if is_large { Input::Large { bytes, blob: blob.clone() } } else { Input::Whole(input.clone()) },
            hash,
            deny_why: deny_why.map(Into::into),
            about: clip::text(about, ABOUT_BYTES_MAX),
            suggestions: suggestions.filter(|_| !asked.no_always).map(clip::json),
            questions: questions.map(clip::json),
            default_to_no: asked.default_to_no,
            no_always: asked.no_always,
            needs_interaction: asked.needs_interaction,
        };
        Self { shown, input, blob }
    }

    fn by_name(&self) -> Input {
        Input::Large { bytes: self.input.as_str().len() as u64, blob: self.blob.clone() }
    }
}

impl Session {
    /// Answers a permission request: the first valid answer wins. Answered once the decision is safe.
    ///
    /// # Errors
    /// `NOT_FOUND`, `ALREADY_DECIDED` with the approver, the decision and the time, `BAD_REQUEST` for an allowance that
    /// does not name what was shown, an input or answers that do not fit, `TOO_LARGE` for an input that no event could
    /// hold.
    pub fn decide(&mut self, cx: &mut Cx<'_>, caller: &Caller, re: &Text, verdict: &Verdict<'_>) -> Result<(), Error> {
        self.fanout.refuse_if_lost()?;
        let index = self.permissions.find(verdict.request).ok_or_else(|| self.permissions.missing(verdict.request))?;
        let open = &self.permissions.open[index];
        let request = verdict.request.clone();
        let (command, message, ran) = match verdict.decision {
            Decision::Deny => {
                let said = verdict.message.cloned();
                let message = said.clone().unwrap_or_else(|| DENIED.into());
                (claude::Command::Deny { request: request.clone(), message }, said, None)
            }
            Decision::Allow => {
                let (input, ran) = allowed(open, verdict)?;
                (claude::Command::Allow { request: request.clone(), input }, None, Some(ran))
            }
        };
        let (by, decision) = (By::from(caller), verdict.decision);
        self.permissions.end(index, Some(by.clone()), Some(decision), cx.now.unix_ms);
        let event = Kind::Decision { request: request.clone(), decision, how: How::Person, message, ran };
        let position = self.event_by(cx, &by, event);
        self.write(cx, command);
        let result = Ok(Reply::Decided { position });
        self.fanout.hold(cx, Out::Answer { peer: caller.peer, re: re.clone(), result });
        self.event(cx, Kind::PermissionClosed { request, how: Closed::Applied });
        self.process.spoken(cx.now);
        self.refresh(cx);
        Ok(())
    }

    /// Reads a part of the input of an open request.
    ///
    /// # Errors
    /// `NOT_FOUND` when no request is open that has an input of this name.
    pub fn fetch(&self, blob: &str, from: u64, bytes: Option<u64>) -> Result<Reply, Error> {
        self.permissions.fetch(blob, from, bytes)
    }

    /// The CLI asks.
    pub(super) fn asked(&mut self, cx: &mut Cx<'_>, asked: claude::Permission) {
        if let Some(index) = self.permissions.find(&asked.request) {
            // An answer to the new one would be taken for one to the old one, which people see.
            let open = &self.permissions.open[index];
            if open.input != asked.input || *open.shown.tool != *asked.tool {
                let text = format!(
                    "{} was asked about under the id of another request that is still open: nobody was asked about that, and the open request stands as it is",
                    named(&asked.tool)
                );
                self.event(cx, Kind::Notice { level: "warning", text: text.into() });
            }
            return;
        }
        if let Some(why) = self.permissions.unfit(&asked) {
            let text = format!("{} was denied by the relay: {why}", named(&asked.tool));
            self.write(cx, claude::Command::Deny { request: asked.request, message: why.into() });
            self.event(cx, Kind::Notice { level: "warning", text: text.into() });
            return;
        }
        self.permissions.count += 1;
        let open = Open::new(asked, self.permissions.count);
        let shown = open.shown.clone();
        self.permissions.open.push(open);
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

/// A tool as a notice names it.
fn named(tool: &str) -> Cow<'_, str> {
    card::tool_cut(tool, card::TOOL_CHARS_MAX)
}

/// What an allowance lets run, as the CLI and as the log are told it.
fn allowed(open: &Open, verdict: &Verdict<'_>) -> Result<(Json, Ran), Error> {
    let bad = |message: &str| Error::new(Code::BadRequest, message);
    let Some(asked_hash) = &open.shown.hash else {
        let why = open.shown.deny_why.as_deref().unwrap_or("it cannot be shown whole");
        return Err(bad(&format!("this request can only be denied: {why}")));
    };
    let Some(shown) = verdict.shown else {
        return Err(bad("to allow, name what was shown: `shown`, the hash of the input"));
    };
    if shown != asked_hash {
        return Err(bad("`shown` is not the hash of this request's input: show it whole, and ask again"));
    }
    let (replaced_hash, replaced) = match (&open.shown.input, verdict.input) {
        (_, None) => (None, None),
        (Input::Whole(whole), Some(_)) => (Some(asked_hash.clone()), Some(whole.clone())),
        (Input::Large { .. }, Some(_)) => (Some(asked_hash.clone()), None),
    };
    let input = changed(open, verdict)?;
    let hash = match &input {
        None => Some(asked_hash.clone()),
        Some(changed) => hash_of(changed),
    };
    let ran = Ran {
        hash: hash.ok_or_else(|| bad("`input` has no canonical form (RFC 8785), so no hash can name it"))?,
        input: verdict.input.and_then(|_| input.clone()),
        replaced_hash,
        replaced,
        answers: verdict.answers.cloned(),
    };
    Ok((input.unwrap_or_else(|| open.input.clone()), ran))
}

/// The input that an allowance lets run, where it differs from the input that was asked about.
fn changed(open: &Open, verdict: &Verdict<'_>) -> Result<Option<Json>, Error> {
    let bad = |message: &str| Error::new(Code::BadRequest, message);
    if let Some(input) = verdict.input {
        // Every event that tells of it has to hold it.
        if input.as_str().len() > clip::JSON_BYTES_MAX {
            return Err(Error::new(Code::TooLarge, format!("`input` may have {} bytes", clip::JSON_BYTES_MAX)));
        }
        fields(input, "input")?;
    }
    match verdict.answers {
        Some(_) if !asks(open, verdict) => Err(bad("this request asks no questions: leave `answers` out")),
        None if asks(open, verdict) => {
            Err(bad("this request asks questions: say `answers`, an object of the answer to each"))
        }
        Some(answers) => {
            let answers = fields(answers, "answers")?;
            let mut merged = fields(verdict.input.unwrap_or(&open.input), "input")?;
            card::check(&merged, &answers).map_err(|why| bad(&why))?;
            merged.insert("answers".to_owned(), answers.into());
            Json::of(&merged).map(Some).map_err(|_| bad("`answers` cannot be sent"))
        }
        None => Ok(verdict.input.cloned()),
    }
}

/// Whether what is to run asks questions. An input that is put in the place of the one that was asked about may ask where
/// that did not, and takes none of its questions away: the tool cannot do without answers.
fn asks(open: &Open, verdict: &Verdict<'_>) -> bool {
    let has_questions = |input: &Json| matches!(input.value(), Ok(Value::Object(it)) if it.contains_key("questions"));
    open.shown.questions.is_some()
        || *open.shown.tool == *claude::ASKING_TOOL && verdict.input.is_some_and(has_questions)
}

/// The name of an input in an answer; none where it has no canonical form, and can only be denied.
fn hash_of(input: &Json) -> Option<Text> {
    shown::hash(&input.value().ok()?).map(Text::from)
}

/// An input is an object in the CLI's protocol; one of another shape would come back as the tool's failure.
fn fields(json: &Json, what: &str) -> Result<Map<String, Value>, Error> {
    let bad = |why: &str| Error::new(Code::BadRequest, format!("`{what}` {why}"));
    match Json::sound(json.as_str()) {
        Ok(Sound { json: sound, is_cut: false }) if sound == *json => {}
        _ => return Err(bad(&unsound())),
    }
    match json.value() {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(bad("must be a JSON object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> claude::Permission {
        claude::Permission {
            request: "r".into(),
            call: None,
            tool: claude::ASKING_TOOL.into(),
            input: Json::parse("{}").expect("JSON"),
            unseen: None,
            about: "about".into(),
            suggestions: Some(Json::parse(r#"[{"type":"addRules"}]"#).expect("JSON")),
            questions: None,
            default_to_no: false,
            no_always: false,
            needs_interaction: false,
        }
    }

    #[test]
    fn no_rule_is_suggested_where_the_cli_forbids_to_remember_an_answer() {
        for no_always in [false, true] {
            let open = Open::new(claude::Permission { no_always, ..asked() }, 1);
            assert_eq!((open.shown.suggestions.is_some(), open.shown.no_always), (!no_always, no_always));
        }
    }

    #[test]
    fn a_tool_that_asks_questions_is_not_allowed_without_answers_whatever_its_input_is_replaced_by() {
        let json = |text: &str| Json::parse(text).expect("JSON");
        let of = |question: &str| format!(r#"{{"questions":[{{"question":"{question}"}}]}}"#);
        let ran = |asked: claude::Permission, input: Option<&str>, answers: Option<&str>| {
            let open = Open::new(asked, 1);
            let (input, answers) = (input.map(json), answers.map(json));
            let verdict = Verdict {
                request: &"r".into(),
                decision: Decision::Allow,
                shown: open.shown.hash.as_ref(),
                message: None,
                input: input.as_ref(),
                answers: answers.as_ref(),
            };
            allowed(&open, &verdict).map(|(input, _)| input.as_str().to_owned()).map_err(|error| error.message)
        };
        let (one, other) = (of("One?"), of("Other?"));
        let asks = || claude::Permission { input: json(&one), questions: Some(json("[]")), ..asked() };
        let is_refused = |ran: Result<String, Text>, why: &str| {
            let error = ran.expect_err(why);
            assert!(error.contains(why), "{error}");
        };
        // What was asked about asks: so does whatever is put in its place.
        for input in [None, Some(&*one), Some(&*other), Some("{}"), Some(r#"{"answers":{"One?":"A"}}"#)] {
            is_refused(ran(asks(), input, None), "say `answers`");
        }
        is_refused(ran(asks(), Some(&other), Some(r#"{"One?":"A"}"#)), "no answer to \"Other?\"");
        assert!(ran(asks(), None, Some(r#"{"One?":"A"}"#)).is_ok());
        let whole = ran(asks(), Some(&other), Some(r#"{"Other?":"A"}"#)).expect("all is answered");
        assert!(whole.contains("Other?") && !whole.contains("One?"), "{whole}");
        // What was asked about asks nothing, and what is put in its place does.
        is_refused(ran(asked(), Some(&other), None), "say `answers`");
        assert!(ran(asked(), Some(&other), Some(r#"{"Other?":"A"}"#)).is_ok());
        is_refused(ran(asked(), None, Some("{}")), "asks no questions");
        assert!(ran(asked(), Some("{}"), None).is_ok());
        // Another tool's field of that name is no question.
        let bash = || claude::Permission { tool: "Bash".into(), ..asked() };
        assert!(ran(bash(), Some(&other), None).is_ok());
        is_refused(ran(bash(), Some(&other), Some(r#"{"Other?":"A"}"#)), "asks no questions");
    }
}
