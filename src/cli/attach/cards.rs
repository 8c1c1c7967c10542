//! The permission requests that wait, the one that is on the screen, and what a typed line means to it. Sans-io: told
//! what was drawn and when, and when a line was begun.
//!
//! A line is an answer only to the request of the card that was drawn last, and only if its first key came after that
//! card had been on the screen for [`VISIBLE_MS`]. It allows only what was drawn to its end, and names the hash of it.
//! An answer to a card that has gone is not sent as anything else.

use std::collections::{HashMap, HashSet, VecDeque};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::{
    client::{Blob, OpenPermission, Reply},
    relay::{
        api::INPUT_BYTES_MAX,
        card::{self, Card, Question, Said, VISIBLE_MS},
        session,
    },
    wire::shown,
};

/// What takes the answer to the question before back.
const BACK: &str = "back";
/// What denies, in full and where there is little room.
pub(super) const DENY: [&str; 2] = ["n: deny · n REASON", "n: deny"];
/// How long an answer that follows one of ours is a correction of it, which comes too late, and no text.
const CORRECTED_MS: u64 = 5_000;
/// Said of an answer to a request that has one of ours, which is not confirmed yet.
const ON_ITS_WAY: &str = "not sent: your answer to this request is on its way";
/// Said of an answer to a request that is over.
const TOO_LATE: &str = "not sent: the request that this answers has been decided, or withdrawn";
/// Answers of ours, to requests that are over, which a line can still correct.
const ANSWERED_MAX: usize = 8;
/// Cards that have gone which a line can still be late for.
const LEFT_MAX: usize = 64;
/// Line feeds in an input that is shown: each is a row at least.
const INPUT_LINES_MAX: usize = 200_000;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Names what there is to see of it: another input, also under the same request id, has another number.
    pub(super) number: u64,
    pub(super) open: OpenPermission,
    pub(super) body: Body,
    /// Why it can only be denied, if so: part of it cannot be seen.
    only_denied: Option<String>,
    /// The answers so far to its questions.
    typed: Vec<String>,
}

/// What there is to see of a request.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it, and the hash of the input that the card was made of.
    Whole { card: Box<Card>, hash: String },
    /// The input comes in parts.
    Fetching { blob: Blob, data: Vec<u8> },
    /// The input could not be had, and why.
    Missing(String),
}

impl Waiting {
    /// How much of its input has come: what is drawn of it changes with that.
    pub(super) fn progress(&self) -> usize {
        match &self.body {
            Body::Whole { .. } => usize::MAX,
            Body::Fetching { data, .. } => data.len(),
            Body::Missing(_) => usize::MAX - 1,
        }
    }

    fn questions(&self) -> &[Question] {
        match &self.body {
            Body::Whole { card, .. } => &card.questions,
            Body::Fetching { .. } | Body::Missing(_) => &[],
        }
    }
}

/// What answers a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// A yes or a no.
    Permission,
    /// Any line: it asks a question.
    Line,
    /// The same, and the number of a choice is a line.
    Choice,
}

/// What is on the screen.
#[derive(Debug)]
struct Drawn {
    /// The number of what there is to see.
    number: u64,
    since_ms: u64,
    /// All of it has been seen.
    to_the_end: bool,
    asks: Asks,
}

/// A card that was on the screen.
#[derive(Debug)]
struct Left {
    number: u64,
    since_ms: u64,
    until_ms: u64,
    asks: Asks,
}

/// A request that is over, and was answered by us: a line may be a correction of that answer.
#[derive(Debug)]
struct Answered {
    /// A line that was begun later is none. Until a frame tells the time: without an end.
    until_ms: u64,
    questions: Vec<Question>,
}

/// What a typed line is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meaning {
    /// No answer: text for the agent.
    Text,
    /// An answer: the fields of the command.
    Decide(Value),
    /// The answer to one of several questions, or that the one before is to be given anew: another one is wanted.
    Next,
    /// An answer that is not taken, and why.
    NotTaken(String),
}

/// The requests of a session, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Cards {
    /// Our role answers requests.
    decides: bool,
    waiting: Vec<Waiting>,
    /// The number given last.
    number: u64,
    /// Requests that wait, and that we have answered.
    sent: HashSet<String>,
    /// The last ones of those that are over, the newest first.
    answered: VecDeque<Answered>,
    drawn: Option<Drawn>,
    /// The cards that were drawn before that, the newest first.
    left: VecDeque<Left>,
    /// The `fetch` commands under way, by their id: the number of what is fetched, and the place that was asked for.
    fetches: HashMap<String, (u64, usize)>,
}

impl Cards {
    pub(super) fn new(decides: bool) -> Self {
        Self { decides, ..Self::default() }
    }

    /// Our role has changed.
    pub(super) fn decide_from_now(&mut self, decides: bool) {
        self.decides = decides;
    }

    pub(super) fn decides(&self) -> bool {
        self.decides
    }

    /// How many wait, those included that we have answered.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many of those we have answered.
    pub(super) fn on_their_way(&self) -> usize {
        self.sent.len()
    }

    /// A request came.
    pub(super) fn put(&mut self, open: OpenPermission) {
        if self.waiting.iter().any(|waiting| waiting.open.request == open.request) {
            return;
        }
        let only_denied = only_denied(&open);
        let body = match (&open.input, &open.input_blob) {
            _ if !open.unreadable.is_empty() => {
                let what = open.unreadable.join("`, `");
                Body::Missing(format!("part of this request cannot be read (`{what}`; is the relay another version?)"))
            }
            (Some(input), _) => whole(&open, input, only_denied.as_deref()),
            (None, Some(blob)) if blob.bytes > INPUT_BYTES_MAX as u64 => {
                Body::Missing(format!("its input of {} bytes is too large to be shown here", blob.bytes))
            }
            (None, Some(blob)) => Body::Fetching { blob: blob.clone(), data: Vec::new() },
            (None, None) => Body::Missing("the relay did not send its input".into()),
        };
        let number = self.next_number();
        self.waiting.push(Waiting { number, open, body, only_denied, typed: Vec::new() });
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// A request is over. True: it was among those that wait.
    pub(super) fn gone(&mut self, request: &str) -> bool {
        let before = self.waiting.len();
        if self.sent.remove(request) {
            let over = self.waiting.iter().find(|waiting| waiting.open.request == request);
            let questions = over.map(|waiting| waiting.questions().to_vec()).unwrap_or_default();
            self.answered.truncate(ANSWERED_MAX - 1);
            self.answered.push_front(Answered { until_ms: u64::MAX, questions });
        }
        self.waiting.retain(|waiting| waiting.open.request != request);
        self.waiting.len() != before
    }

    /// Only these wait. What was fetched of them, and answered to them, stays.
    pub(super) fn only(&mut self, open: Vec<OpenPermission>) {
        self.fetches.clear();
        // A snapshot may name an input that an event held whole.
        let differ = |one: &Option<Value>, other: &Option<Value>| one.is_some() && other.is_some() && one != other;
        let is_open = |known: &OpenPermission| {
            open.iter().any(|open| open.request == known.request && !differ(&open.input, &known.input))
        };
        let over = self.waiting.iter().filter(|waiting| !is_open(&waiting.open));
        for request in over.map(|waiting| waiting.open.request.clone()).collect::<Vec<_>>() {
            self.gone(&request);
        }
        open.into_iter().for_each(|open| self.put(open));
    }

    /// Our answer was not taken: the request may be answered again.
    pub(super) fn not_decided(&mut self, request: &str) {
        self.sent.remove(request);
    }

    /// The request to show: the oldest that we have not answered.
    pub(super) fn shown(&self) -> Option<&Waiting> {
        self.waiting.iter().find(|waiting| !self.sent.contains(&waiting.open.request))
    }

    /// Its place among those that wait, from 1, and how many do.
    pub(super) fn place(&self) -> (usize, usize) {
        let unanswered = |waiting: &&Waiting| !self.sent.contains(&waiting.open.request);
        let answered = self.waiting.iter().position(|waiting| unanswered(&waiting)).unwrap_or_default();
        (answered + 1, self.waiting.len())
    }

    /// The question that the next line answers, of the request that is shown.
    pub(super) fn question(&self) -> Option<(usize, &Question)> {
        let Waiting { body: Body::Whole { card, .. }, typed, .. } = self.shown()? else { return None };
        Some((typed.len(), card.questions.get(typed.len())?))
    }

    fn asks(&self) -> Asks {
        let Some(waiting) = self.shown().filter(|_| self.question().is_some()) else { return Asks::Permission };
        let has_choices = waiting.questions().iter().any(|question| !question.options.is_empty());
        if has_choices { Asks::Choice } else { Asks::Line }
    }

    /// The answers so far to the questions of the request that is shown, as they will be sent.
    pub(super) fn answers(&self) -> Vec<String> {
        let Some(Waiting { body: Body::Whole { card, .. }, typed, .. }) = self.shown() else { return Vec::new() };
        let typed = card.questions.iter().zip(typed);
        typed.map(|(question, line)| question.answer(line).unwrap_or_default()).collect()
    }

    /// The next part of an input that is to be fetched: the fields of the command, unless one is under way.
    pub(super) fn fetch(&self) -> Option<Value> {
        let waiting = self.shown()?;
        let Body::Fetching { blob, data } = &waiting.body else { return None };
        if self.fetches.values().any(|(of, _)| *of == waiting.number) {
            return None;
        }
        Some(json!({"type": "fetch", "blob": blob.blob, "from": data.len()}))
    }

    /// The part is asked for under this id.
    pub(super) fn fetching(&mut self, id: String) {
        let Some(Waiting { number, body: Body::Fetching { data, .. }, .. }) = self.shown() else { return };
        let asked = (*number, data.len());
        self.fetches.insert(id, asked);
    }

    /// A reply came. True: it was a part of an input.
    pub(super) fn fetched(&mut self, reply: &Reply) -> bool {
        let Some((number, from)) = self.fetches.remove(&reply.re) else { return false };
        let whole_number = self.next_number();
        let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.number == number) else { return true };
        let Body::Fetching { data, .. } = &mut waiting.body else { return true };
        let part = reply.field::<String>("data").ok().flatten().and_then(|data| URL_SAFE_NO_PAD.decode(data).ok());
        let total = reply.field::<u64>("total").ok().flatten().filter(|total| *total <= INPUT_BYTES_MAX as u64);
        let (Some(part), Some(total), true) = (part, total, from == data.len()) else {
            waiting.body = Body::Missing("the relay's answer cannot be read".into());
            return true;
        };
        data.extend_from_slice(&part);
        if data.len() as u64 >= total {
            // A card that was on the screen without it has not shown it.
            waiting.number = whole_number;
            waiting.body = match serde_json::from_slice::<Value>(data) {
                Ok(input) => whole(&waiting.open, &input, waiting.only_denied.as_deref()),
                Err(error) => Body::Missing(format!("its input cannot be read: {error}")),
            };
        } else if part.is_empty() {
            waiting.body = Body::Missing("the relay sent less than it said".into());
        }
        true
    }

    /// An error came. True: it was about a part of an input.
    pub(super) fn not_fetched(&mut self, re: &str, why: &str) -> bool {
        let Some((number, _)) = self.fetches.remove(re) else { return false };
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.number == number) {
            waiting.body = Body::Missing(why.to_owned());
        }
        true
    }

    /// What was drawn: a card by its number, if any was, and whether all of it has been in view.
    pub(super) fn drawn(&mut self, card: Option<(u64, bool)>, now_ms: u64) {
        for answered in self.answered.iter_mut().filter(|answered| answered.until_ms == u64::MAX) {
            answered.until_ms = now_ms.saturating_add(CORRECTED_MS);
        }
        let asks = self.asks();
        let same = self.drawn.as_mut().filter(|drawn| card.is_some_and(|(number, _)| drawn.number == number));
        if let (Some(drawn), Some((_, end))) = (same, card) {
            drawn.to_the_end |= end;
            return;
        }
        if let Some(Drawn { number, since_ms, asks, .. }) = self.drawn.take() {
            self.left.truncate(LEFT_MAX - 1);
            self.left.push_front(Left { number, since_ms, until_ms: now_ms, asks });
        }
        if let Some((number, end)) = card {
            self.drawn = Some(Drawn { number, since_ms: now_ms, to_the_end: end, asks });
        }
    }

    /// Why a line is sent as nothing at all, if so: it answers a request that has an answer of ours, or is over.
    fn too_late(&self, line: &str, began_ms: u64) -> Option<&'static str> {
        // A yes or a no is for the card that stands there, and so is any line where that asks questions.
        let is_for_card =
            self.shown().is_some() && (Said::of(line).is_some() || self.decides && self.question().is_some());
        if !is_for_card {
            let mut sent = self.waiting.iter().filter(|waiting| self.sent.contains(&waiting.open.request));
            if sent.any(|waiting| is_answer(line, waiting.questions())) {
                return Some(ON_ITS_WAY);
            }
            let mut answered = self.answered.iter().filter(|answered| began_ms < answered.until_ms);
            if answered.any(|answered| is_answer(line, &answered.questions)) {
                return Some(TOO_LATE);
            }
        }
        let number = self.late_for(line, began_ms).filter(|_| self.decides)?;
        let has_ours = |waiting: &Waiting| waiting.number == number && self.sent.contains(&waiting.open.request);
        Some(if self.waiting.iter().any(has_ours) { ON_ITS_WAY } else { TOO_LATE })
    }

    /// The number of a card that has gone to which a line is an answer: it was begun while the card was on the screen, or
    /// a moment later.
    fn late_for(&self, line: &str, began_ms: u64) -> Option<u64> {
        let shown = self.shown().map(|waiting| waiting.number);
        let not_drawn_yet = self.drawn.as_ref().filter(|drawn| Some(drawn.number) != shown);
        let past = not_drawn_yet.map(|drawn| (drawn.number, drawn.since_ms, u64::MAX, drawn.asks)).into_iter();
        let mut past = past.chain(self.left.iter().map(|left| (left.number, left.since_ms, left.until_ms, left.asks)));
        let decides = Said::of(line).is_some();
        let answers = |asks: Asks| match asks {
            Asks::Permission => decides,
            Asks::Line => decides || is_back(line),
            Asks::Choice => decides || is_back(line) || is_numbers(line),
        };
        // A key may be pressed in the moment in which the card goes. Another card that stands there has its own half
        // second.
        let late_ms = if shown.is_none() { VISIBLE_MS } else { 0 };
        let found = past.find(|(_, since, until, asks)| {
            (*since..*until).contains(&began_ms) && *asks != Asks::Permission
                || (*since..until.saturating_add(late_ms)).contains(&began_ms) && answers(*asks)
        });
        found.map(|(number, ..)| number)
    }

    /// What can be typed to answer the request that is shown.
    pub(super) fn hint(&self) -> String {
        let [hint, _] = self.hints();
        hint
    }

    /// The same, and what is said of it where a row has no room for all.
    pub(super) fn hints(&self) -> [String; 2] {
        let Some(waiting) = self.shown() else { return Default::default() };
        if !self.decides {
            return ["your role does not decide this", "not for your role"].map(str::to_owned);
        }
        let with = |begin: &str, brief: &str| [format!("{begin}{}", DENY[0]), format!("{brief}{}", DENY[1])];
        let (card, open) = match &waiting.body {
            Body::Fetching { .. } => return with("wait, or ", "wait · "),
            Body::Missing(_) => return with("", ""),
            Body::Whole { card, .. } => (card, &waiting.open),
        };
        if waiting.only_denied.is_some() {
            return with("", "");
        }
        if let Some(why) = card.unasked(open.questions.is_some()) {
            return with(&format!("{why} · "), "");
        }
        if let Some((at, question)) = self.question() {
            let (at, all) = (at + 1, card.questions.len());
            let (number, brief) =
                if all > 1 { (format!("answer {at} of {all}: "), format!("{at}/{all}: ")) } else { Default::default() };
            let numbers = if question.options.is_empty() { "the answer" } else { "a number, or the answer" };
            let back = if at > 1 { " · back" } else { "" };
            return with(&format!("{number}{numbers}{back} · "), &format!("{brief}answer · "));
        }
        let yes = if open.needs_interaction { "yes: allow · " } else { "y: allow · " };
        with(yes, yes)
    }

    /// A request that waits, by its id.
    pub(super) fn open(&self, request: &str) -> Option<&OpenPermission> {
        self.all().find(|open| open.request == request)
    }

    /// All that are open.
    pub(super) fn all(&self) -> impl Iterator<Item = &OpenPermission> {
        self.waiting.iter().map(|waiting| &waiting.open)
    }

    /// Whether all of the request on the screen has been seen.
    pub(super) fn seen(&self) -> bool {
        let number = self.shown().map(|waiting| waiting.number);
        self.drawn.as_ref().is_some_and(|drawn| drawn.to_the_end && Some(drawn.number) == number)
    }

    /// What a line means; its first key was pressed at `began_ms`.
    pub(super) fn line(&mut self, line: &str, began_ms: u64) -> Meaning {
        if !self.decides && self.shown().is_some() && Said::of(line).is_some() {
            return Meaning::NotTaken("not sent: your role does not decide this request".into());
        }
        if let Some(why) = self.too_late(line, began_ms) {
            return Meaning::NotTaken(why.into());
        }
        let Some(waiting) = self.shown().filter(|_| self.decides) else { return Meaning::Text };
        let asks = self.question().is_some();
        // A line that is typed while a question stands is its answer; a bare yes is refused there. The labels come from
        // the agent: none of them changes what the keys do that the card names.
        let said = match Said::of(line) {
            None if !asks => return Meaning::Text,
            Some(Said::Yes { .. }) if asks => None,
            said => said,
        };
        let is_choice = self.question().is_some_and(|(_, question)| !matches!(question.choice(line), Ok(None)));
        if is_choice && said == Some(Said::No { reason: None }) && !line.trim().eq_ignore_ascii_case("n") {
            return Meaning::NotTaken("that is a choice, and a word that denies: type its number, or n to deny".into());
        }
        let (request, number) = (waiting.open.request.clone(), waiting.number);
        let visible = self.drawn.as_ref().filter(|drawn| drawn.number == number);
        if visible.is_none_or(|drawn| began_ms < drawn.since_ms.saturating_add(VISIBLE_MS)) {
            let why = "not an answer: typed before this request stood here for half a second";
            return Meaning::NotTaken(why.into());
        }
        if let Some(Said::No { reason }) = said {
            let mut fields = json!({"type": "decide", "request": request, "decision": "deny"});
            if let Some(reason) = reason {
                fields["message"] = reason.into();
            }
            return self.decide(request, fields);
        }
        let (hash, questions) = match self.allowable(said.as_ref()) {
            Ok(whole) => whole,
            Err(why) => return Meaning::NotTaken(why),
        };
        let mut fields = json!({"type": "decide", "request": request, "decision": "allow", "shown": hash});
        if !questions.is_empty() {
            if is_back(line) {
                match self.typed().and_then(Vec::pop) {
                    Some(_) => return Meaning::Next,
                    None if is_choice => {}
                    None => return Meaning::NotTaken("this is the first question: there is none to go back to".into()),
                }
            }
            match self.answered(&questions, line) {
                Ok(Some(answers)) => fields["answers"] = answers.into(),
                Ok(None) => return Meaning::Next,
                Err(why) => return Meaning::NotTaken(why),
            }
        }
        self.decide(request, fields)
    }

    /// Whether the request on the screen may be allowed: the hash of what was drawn, and its questions.
    fn allowable(&self, said: Option<&Said>) -> Result<(String, Vec<Question>), String> {
        let Some(Waiting { open, body, only_denied, .. }) = self.shown() else {
            return Err("there is nothing to answer".into());
        };
        match body {
            _ if let Some(why) = only_denied => Err(format!("this can only be denied: {why}")),
            Body::Fetching { .. } => Err("the input is still being fetched".into()),
            Body::Missing(why) => Err(format!("it can only be denied here: {why}")),
            _ if !self.seen() => Err("PgDn and PgUp first: not all of this request has been on the screen".into()),
            Body::Whole { card, .. } if let Some(why) = card.unasked(open.questions.is_some()) => {
                Err(format!("{why}: it can only be denied here"))
            }
            Body::Whole { .. } if open.needs_interaction && matches!(said, Some(Said::Yes { in_full: false })) => {
                Err("this one takes the whole word: yes".into())
            }
            Body::Whole { card, hash } => Ok((hash.clone(), card.questions.clone())),
        }
    }

    /// Takes the answer to the next question; gives all of them with the last one.
    fn answered(&mut self, questions: &[Question], line: &str) -> Result<Option<Map<String, Value>>, String> {
        let Some(typed) = self.typed() else { return Ok(None) };
        if let Some(question) = questions.get(typed.len()) {
            question.answer(line).map_err(|error| error.to_string())?;
            typed.push(line.to_owned());
        }
        if typed.len() < questions.len() {
            return Ok(None);
        }
        let typed = std::mem::take(typed);
        card::answers(questions, &typed).map(Some).map_err(|(_, error)| error.to_string())
    }

    /// The answers so far of the request that is shown.
    fn typed(&mut self) -> Option<&mut Vec<String>> {
        let shown = self.waiting.iter_mut().find(|waiting| !self.sent.contains(&waiting.open.request));
        shown.map(|waiting| &mut waiting.typed)
    }

    fn decide(&mut self, request: String, fields: Value) -> Meaning {
        self.typed().into_iter().for_each(Vec::clear);
        self.sent.insert(request);
        Meaning::Decide(fields)
    }
}

/// Whether a line can only be an answer to a request with these questions. Other words may be meant for the agent.
fn is_answer(line: &str, questions: &[Question]) -> bool {
    let names_a_choice = |question: &Question| {
        !question.options.is_empty() && is_numbers(line) || !matches!(question.choice(line), Ok(None))
    };
    Said::of(line).is_some() || !questions.is_empty() && is_back(line) || questions.iter().any(names_a_choice)
}

fn is_back(line: &str) -> bool {
    line.trim().eq_ignore_ascii_case(BACK)
}

/// Whether a line is the number of a choice, or those of several.
fn is_numbers(line: &str) -> bool {
    card::numbers(line).is_some_and(|numbers| !numbers.is_empty())
}

/// Line feeds in the texts of a value.
fn line_feeds(value: &Value) -> usize {
    match value {
        Value::String(text) => text.matches('\n').count(),
        Value::Array(items) => items.iter().map(line_feeds).sum::<usize>() + items.len(),
        Value::Object(fields) => fields.values().map(line_feeds).sum::<usize>() + fields.len(),
        _ => 0,
    }
}

/// Why a request can only be denied, if so: the relay says it, or what is said of the request found no room in the
/// relay's answer. What the CLI gives as its reason stands at the end of that.
fn only_denied(open: &OpenPermission) -> Option<String> {
    if open.deny_only {
        let why = open.deny_why.as_deref().unwrap_or("part of it cannot be shown whole");
        return Some(why.to_owned());
    }
    session::is_cut(&open.about)
        .then(|| "what is said of it has no room beside other requests; joining again may show it".into())
}

fn whole(open: &OpenPermission, input: &Value, only_denied: Option<&str>) -> Body {
    if line_feeds(input) > INPUT_LINES_MAX {
        return Body::Missing(format!("it has more than the {INPUT_LINES_MAX} lines that can be shown here"));
    }
    match shown::hash(input) {
        Some(hash) => {
            let card = Card::new(&open.tool, &open.about, input);
            let card = if open.default_to_no { card.warned(card::ADVISED_AGAINST) } else { card };
            let card = only_denied.into_iter().fold(card, Card::only_denied);
            Body::Whole { card: Box::new(card), hash }
        }
        None => Body::Missing("its input has no canonical form, by which it could be named".into()),
    }
}

#[cfg(test)]
#[path = "cards_tests.rs"]
mod tests;
