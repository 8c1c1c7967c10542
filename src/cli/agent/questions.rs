//! Questions that wait for a person, and the lines that are typed under them, sans-io. Owns which question stands on the
//! screen: a line is an answer to the one that was put last, and to no other.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    base::text::unfit_for_lines,
    client::amp::{Id, Message},
    relay::card::Said,
};

/// Questions that wait at once; a peer that asks more is not listened to.
pub(super) const QUESTIONS_MAX: usize = 32;
/// How long a question stands before a line can be an answer to it.
const VISIBLE: Duration = Duration::from_millis(500);

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
}

impl Question {
    /// What can be typed.
    pub(super) fn keys(&self) -> &'static str {
        if self.takes("allow") {
            if self.in_full { "[yes/n]" } else { "[y/n]" }
        } else if self.takes("answer") {
            if self.wants == Some(1) { "[answer, or n]" } else { "[answer; answer, or n]" }
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
            _ if self.takes("answer") => Answer::Wanted(self.wanted()),
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
            return Answer::Wanted(self.wanted());
        }
        Answer::Body(json!({"decision": "allow", "answers": answers}))
    }

    fn wanted(&self) -> &'static str {
        if self.wants == Some(1) {
            "a number, or the answer itself; n denies it"
        } else {
            "a number, or the answer itself, for each question, with ; between them; n denies it"
        }
    }
}

/// What became of a line.
#[derive(Debug, PartialEq)]
pub(super) enum Typed {
    /// It answers this question: send it, then say so with [`Questions::sent`].
    Answer(Box<Question>, Value),
    /// It is no answer, for this reason.
    Not(&'static str),
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

/// All questions of a request. The one that waits longest is put on the screen; others only come in behind it.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: VecDeque<Question>,
    /// Since when the first of them stands on the screen.
    put: Option<Instant>,
    /// Our answers, by their ids: one that is refused has its question asked again.
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

    /// The question that is to be put on the screen now, if it does not stand there already. It counts as put from `now`.
    pub(super) fn put(&mut self, now: Instant) -> Option<&Question> {
        let question = self.waiting.front().filter(|_| self.put.is_none())?;
        self.put = Some(now);
        Some(question)
    }

    /// The question that waits longest goes without an answer of ours.
    pub(super) fn passed_over(&mut self) -> Option<Question> {
        self.put = None;
        self.waiting.pop_front()
    }

    /// A line was typed. Whatever it is, the question that it stands under has to be put again before another line can
    /// be an answer.
    pub(super) fn typed(&mut self, line: &str, now: Instant) -> Typed {
        let Some(since) = self.put.take() else { return Typed::Nothing };
        let Some(question) = self.waiting.pop_front() else { return Typed::Nothing };
        let answer = match now.saturating_duration_since(since) < VISIBLE {
            true => Answer::Wanted("not an answer: the question had not been there for half a second"),
            false => question.answer(line),
        };
        match answer {
            Answer::Body(body) => Typed::Answer(Box::new(question), body),
            Answer::Wanted(what) => {
                self.waiting.push_front(question);
                Typed::Not(what)
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

    /// An answer was refused; `is_open`: its question still waits for one. The question on the screen stays the one that
    /// is answered next, and is put again below the news.
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
