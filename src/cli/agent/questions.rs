//! Questions that wait for a person, and the lines that are typed under them, sans-io. Owns which question stands on
//! the screen, and which part of it. A line answers the question that was put last, and no other. It allows only what
//! was put to its end, part after part, where each stayed in view until the line below it came. So all other news is
//! kept until the question is answered.

use std::{
    borrow::Cow,
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Told,
    example::example,
    parts::{Follows, Size, below, part},
};
use crate::{
    base::text::unfit_for_lines,
    cli::text::counted,
    client::amp::{Id, Message},
    relay::card::{Said, VISIBLE_MS},
};

/// Questions that wait at once; a peer that asks more is not listened to.
pub(super) const QUESTIONS_MAX: usize = 32;
/// How long a question stands before a line can be an answer to it.
const VISIBLE: Duration = Duration::from_millis(VISIBLE_MS);
/// What is kept of that which comes while a question is on the screen.
const TOLD_MAX: usize = 16;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The message that asks.
    pub(super) asking: Message,
    /// What it asks, for people.
    pub(super) prompt: String,
    /// Answers to choose from; empty: it takes any.
    pub(super) options: Vec<String>,
    /// Only the whole word allows it: a single key must not.
    pub(super) in_full: bool,
    /// How many answers it wants, where that is known.
    pub(super) wants: Option<u64>,
}

/// What a typed line is to a question.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// The body of the answer.
    Body(Value),
    /// Something else is wanted.
    Wanted(&'static str),
    /// Other answers are wanted: what was wrong is plain without the question.
    Other(Cow<'static, str>),
}

impl Question {
    /// What can be typed.
    pub(super) fn keys(&self) -> &'static str {
        if self.takes("allow") {
            if self.in_full { "[yes/n]" } else { "[y/n]" }
        } else if self.takes("answer") {
            match self.wants {
                Some(1) => "[answer, or n]",
                Some(_) => "[all answers in one line with ; between them, or n]",
                None => "[answer, or all answers in one line with ; between them, or n]",
            }
        } else {
            "[n]"
        }
    }

    fn takes(&self, option: &str) -> bool {
        self.options.iter().any(|known| known == option) || (self.options.is_empty() && option == "allow")
    }

    /// What a line means.
    pub(super) fn answer(&self, line: &str) -> Answer {
        if unfit_for_lines(line).is_some() {
            return Answer::Wanted(
                "the line holds a control character, which arrow keys leave here: it was not sent, type it again",
            );
        }
        let said = Said::of(line);
        if let Some(Said::No { reason }) = said {
            let mut body = json!({"decision": "deny"});
            if let Some(reason) = reason {
                body["message"] = reason.into();
            }
            return Answer::Body(body);
        }
        match said {
            Some(Said::Yes { in_full }) if self.takes("allow") && in_full >= self.in_full => {
                Answer::Body(json!({"decision": "allow"}))
            }
            None if self.takes("answer") && !line.trim().is_empty() => self.answers(line),
            _ if self.takes("answer") => Answer::Other(self.wanted()),
            _ if self.takes("allow") && self.in_full => {
                Answer::Wanted("the whole word yes allows it, n denies it, n REASON says why not")
            }
            _ if self.takes("allow") => Answer::Wanted("y allows it, n denies it, n REASON says why not"),
            _ => Answer::Wanted("it can only be denied here: n, or n REASON"),
        }
    }

    /// One answer is the line as it is; only where there are several a `;` stands between them.
    fn answers(&self, line: &str) -> Answer {
        let answers: Vec<&str> = match self.wants {
            Some(1) => vec![line.trim()],
            _ => line.split(';').map(str::trim).collect(),
        };
        if self.wants.is_some_and(|wants| wants != answers.len() as u64) {
            return Answer::Other(
                format!("that is {}: {}", counted(answers.len() as u64, "answer"), self.wanted()).into(),
            );
        }
        Answer::Body(json!({"decision": "allow", "answers": answers}))
    }

    fn wanted(&self) -> Cow<'static, str> {
        match self.wants {
            Some(1) => "a number, or the answer itself; n denies it".into(),
            Some(wants @ 2..) => {
                let example = example(&self.prompt, wants);
                format!("{wants} questions need {wants} answers with ; between them, as in {example}").into()
            }
            _ => "a number, or the answer itself, for each question, with ; between them; n denies it".into(),
        }
    }
}

/// What became of a line.
#[derive(Debug, PartialEq)]
pub(super) enum Typed {
    /// It answers this question: send it, then say so with [`Questions::sent`].
    Answer(Box<Question>, Value),
    /// It is no answer, for this reason.
    Not(Cow<'static, str>),
    /// It is none, and the question is still in view: show this below it, then say so with [`Questions::stands`].
    Below(String),
    /// The next part is to be put.
    Next,
    /// No question stood there to be answered.
    Nothing,
}

/// What became of an answer that was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its question waits for another one, behind the others.
    Again,
    /// Its question is gone.
    Gone,
}

/// A part of a question on the screen.
#[derive(Debug)]
struct Put {
    since: Instant,
    /// The size of the terminal that it was made for.
    size: Option<Size>,
    follows: Follows,
    /// How many rows it takes, with what was said below it.
    rows: usize,
    /// It had been there for [`VISIBLE`] when no line was below it yet: the next one was ended after that, however late
    /// it is read.
    is_seen: bool,
}

/// All questions of a request. The one that waits longest is put on the screen; others only come in behind it.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: VecDeque<Question>,
    /// The part of the first of them that stands on the screen.
    put: Option<Put>,
    /// Where that part begins, or the part that is put next: what is before it has been in view.
    from: usize,
    /// The first of them has been on the screen.
    is_begun: bool,
    /// What is to be told after that: the newest of it, and how much there was beside.
    told: VecDeque<Told>,
    left_out: u64,
    /// Our answers, by their ids: if an answer is refused, its question is asked again.
    sent: Vec<(Id, Question)>,
}

impl Questions {
    /// Takes a question in. False: too many wait.
    pub(super) fn ask(&mut self, question: Question) -> bool {
        let fits = self.waiting.len() < QUESTIONS_MAX;
        if fits {
            self.waiting.push_back(question);
        }
        fits
    }

    /// Whether a question waits.
    pub(super) fn is_any(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a question is to be put on the screen now.
    pub(super) fn is_due(&self) -> bool {
        self.is_any() && self.put.is_none()
    }

    /// Whether one stands there.
    pub(super) fn is_put(&self) -> bool {
        self.put.is_some()
    }

    /// The part of a question that is to be put on the screen now, if none stands there already. It counts as put from
    /// `now`, on a terminal of this size.
    pub(super) fn put(&mut self, now: Instant, size: Option<Size>) -> Option<String> {
        let question = self.waiting.front().filter(|_| self.put.is_none())?;
        let part = part(&question.prompt, question.keys(), self.from, size);
        self.put = Some(Put { since: now, size, follows: part.follows, rows: part.rows, is_seen: false });
        self.is_begun = true;
        Some(part.text)
    }

    /// It took the terminal until now to show the part.
    pub(super) fn stands(&mut self, now: Instant) {
        if let Some(put) = &mut self.put {
            put.since = now;
        }
    }

    /// Something else may be on the screen by now: the part has to be put again.
    pub(super) fn lost(&mut self) {
        self.put = None;
    }

    /// At this moment no line had been typed below the part.
    pub(super) fn no_line(&mut self, now: Instant) {
        if let Some(put) = &mut self.put {
            put.is_seen |= now.saturating_duration_since(put.since) >= VISIBLE;
        }
    }

    /// When [`Self::no_line`] is to be said next.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.put.as_ref().filter(|put| !put.is_seen).map(|put| put.since + VISIBLE)
    }

    /// Something is to be told: given back where it may be told now. It would push a question off the screen.
    pub(super) fn tell(&mut self, told: Told) -> Option<Told> {
        if self.put.is_none() {
            return Some(told);
        }
        if self.told.len() >= TOLD_MAX {
            self.told.pop_front();
            self.left_out += 1;
        }
        self.told.push_back(told);
        None
    }

    /// What was kept and may be told now: how much was left out, and the rest.
    pub(super) fn kept(&mut self) -> (u64, VecDeque<Told>) {
        if self.is_begun {
            return Default::default();
        }
        (std::mem::take(&mut self.left_out), std::mem::take(&mut self.told))
    }

    /// The first question has gone from the front, or the request is over.
    pub(super) fn gone(&mut self) {
        (self.put, self.from, self.is_begun) = (None, 0, false);
    }

    /// The question that waits longest goes without an answer of ours.
    pub(super) fn passed_over(&mut self) -> Option<Question> {
        self.gone();
        self.waiting.pop_front()
    }

    /// A line was typed, on a terminal that has had this size since the part was put; `None`: another one meanwhile, or
    /// none that is known. Whatever the line is, what it stands under has to be put again before another can be an answer,
    /// unless all of it is still in view.
    pub(super) fn typed(&mut self, line: &str, size: Option<Size>) -> Typed {
        let (Some(put), Some(question)) = (self.put.take(), self.waiting.front()) else { return Typed::Nothing };
        let denies = matches!(Said::of(line), Some(Said::No { .. }));
        let is_empty = line.trim().is_empty();
        let answer = match put.follows {
            _ if !put.is_seen => Answer::Wanted("not an answer: the question had not been there for half a second"),
            _ if denies => question.answer(line),
            Follows::Same if is_empty => return Typed::Next,
            Follows::Same => Answer::Wanted("not taken: nothing of the question has been on the screen"),
            _ if put.size != size => Answer::Wanted(
                "not taken: the terminal has got another size, and some of this may not have been in view; it is put again",
            ),
            Follows::Part(next) if is_empty => {
                self.from = next;
                return Typed::Next;
            }
            Follows::Part(_) => Answer::Wanted(
                "not taken: not all of it has been on the screen; Enter shows the next rows, n denies it",
            ),
            Follows::Nothing => question.answer(line),
        };
        match answer {
            Answer::Body(body) => match self.passed_over() {
                Some(question) => Typed::Answer(Box::new(question), body),
                None => Typed::Nothing,
            },
            Answer::Wanted(what) => Typed::Not(what.into()),
            Answer::Other(what) => {
                let fits = put.size.and_then(|size| below(&what, question.keys(), (line, put.rows), size));
                let Some((text, rows)) = fits else { return Typed::Not(what) };
                self.put = Some(Put { rows, is_seen: false, ..put });
                Typed::Below(text)
            }
        }
    }

    /// The answer to this question was sent with this id.
    pub(super) fn sent(&mut self, id: Id, question: Question) {
        self.sent.push((id, question));
    }

    /// Our answers that may be refused.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.sent.iter().map(|(id, _)| *id)
    }

    /// An answer was refused; `is_open`: its question still waits for one. The question on the screen stays the next to
    /// be answered, and its part is put again below the news.
    pub(super) fn refused(&mut self, message: &Message, is_open: bool) -> Option<Refused> {
        let at = self.sent.iter().position(|(id, _)| message.answers(id))?;
        let (_, question) = self.sent.swap_remove(at);
        self.put = None;
        if !is_open {
            return Some(Refused::Gone);
        }
        self.waiting.push_back(question);
        Some(Refused::Again)
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
