//! One request and everything that answers it, sans-io: told messages, says what to show, what to ask and when it is over.

use std::collections::VecDeque;

use super::{explained, rendered, session_answer};
use crate::{
    cli::text::clean,
    client::amp::{Id, Message, Type},
    wire::amp::body::{InputRequiredView, Processing},
};

/// What is to be done about a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Show how it goes.
    Status(String),
    /// A question stands: see [`Exchange::question`].
    Asked,
    /// The answer.
    Done(String),
    /// It failed.
    Failed(String),
}

/// A question that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The message that asks.
    pub(super) asking: Message,
    /// What it asks, for people.
    pub(super) prompt: String,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Exchange {
    request: Id,
    /// Ids of our answers to questions.
    decided: Vec<Id>,
    questions: VecDeque<Question>,
    /// Whether the other side has given a sign that it works.
    pub(super) begun: bool,
}

/// Questions that wait for a person; a peer that asks more is not listened to.
const QUESTIONS_MAX: usize = 32;

impl Exchange {
    /// The request with this id was sent.
    pub(super) fn new(request: Id) -> Self {
        Self { request, decided: Vec::new(), questions: VecDeque::new(), begun: false }
    }

    /// The messages of ours that may be answered.
    pub(super) fn ids(&self) -> Vec<Id> {
        [self.request].into_iter().chain(self.decided.iter().copied()).collect()
    }

    /// The question that is to be asked now.
    pub(super) fn question(&self) -> Option<&Question> {
        self.questions.front()
    }

    /// The question that was asked is done with; `answer` is our message about it, if one was sent.
    pub(super) fn answered(&mut self, answer: Option<Id>) {
        self.questions.pop_front();
        self.decided.extend(answer);
    }

    /// An answer came.
    pub(super) fn received(&mut self, message: &Message) -> Option<Say> {
        if let Some(error) = message.error() {
            // An answer that came too late, or that we may not give, leaves the request as it is.
            return Some(if message.answers(&self.request) {
                Say::Failed(explained(&error))
            } else {
                Say::Status(format!("the answer was not taken: {}", explained(&error)))
            });
        }
        if !message.answers(&self.request) {
            return None;
        }
        let body = message.body.as_deref();
        match message.typ {
            Type::RESPONSE | Type::CAP_RESULT | Type::PONG => Some(match session_answer(body) {
                Some((true, text)) => Say::Done(text),
                Some((false, text)) => Say::Failed(format!("the session did not finish the prompt: {text}")),
                None => Say::Done(rendered(body)),
            }),
            Type::PROC_FAIL => Some(Say::Failed(format!("it failed: {}", rendered(body)))),
            Type::PROCESSING | Type::PROGRESS => {
                self.begun = true;
                let status = body.and_then(|body| Processing::read(body).ok()).and_then(|read| read.status_text);
                Some(Say::Status(status.map_or_else(|| "processing".into(), clean)))
            }
            Type::INPUT_REQUIRED => {
                self.begun = true;
                let read = body.and_then(|body| InputRequiredView::read(body).ok())?;
                if self.questions.len() >= QUESTIONS_MAX {
                    return None;
                }
                self.questions.push_back(Question { asking: message.clone(), prompt: clean(read.prompt) });
                Some(Say::Asked)
            }
            _ => None,
        }
    }
}

/// What a person's line decides; `None` if it is neither yes nor no.
pub(super) fn decision(line: &str) -> Option<&'static str> {
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" | "allow" => Some("allow"),
        "n" | "no" | "deny" => Some("deny"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::amp::{Code, SignedBy},
        wire::{
            amp::body::{ErrorBody, InputRequired},
            cbor,
        },
    };

    const REQUEST: Id = Id([1; 16]);

    fn answer(typ: Type, to: Id, write: impl FnOnce(&mut Vec<u8>)) -> Message {
        let mut body = Vec::new();
        write(&mut body);
        Message {
            id: Id([7; 16]),
            typ,
            ts: 0,
            ttl_ms: 0,
            from: "did:a:b".into(),
            to: Vec::new(),
            reply_to: Some(to.0.to_vec()),
            thread_id: None,
            body: Some(body),
            signed_by: SignedBy::Sender,
        }
    }

    #[test]
    fn a_request_goes_by_a_question_to_its_answer() {
        let mut exchange = Exchange::new(REQUEST);
        let status = Processing { status_text: Some("reading\x1b[2J"), ..Processing::default() };
        let message = answer(Type::PROCESSING, REQUEST, |out| status.write(out));
        assert_eq!(exchange.received(&message), Some(Say::Status("reading[2J".into())));
        assert!(exchange.begun);
        let input = InputRequired { prompt: "May I?", options: &["allow", "deny"], timeout_ms: None };
        let message = answer(Type::INPUT_REQUIRED, REQUEST, |out| input.write(out));
        assert_eq!(exchange.received(&message), Some(Say::Asked));
        assert_eq!(exchange.question().unwrap().prompt, "May I?");
        exchange.answered(Some(Id([2; 16])));
        assert_eq!((exchange.question(), exchange.ids()), (None, vec![REQUEST, Id([2; 16])]));
        // That we may not answer is told, and the request goes on.
        let error = |out: &mut Vec<u8>| ErrorBody::new(Code::UNAUTHORIZED, "no").write(out);
        let told = exchange.received(&answer(Type::ERROR, Id([2; 16]), error));
        assert!(matches!(told, Some(Say::Status(text)) if text.contains("3001")));
        let told = exchange.received(&answer(Type::RESPONSE, REQUEST, |out| cbor::text(out, "done")));
        assert_eq!(told, Some(Say::Done("done".into())));
        assert!(matches!(exchange.received(&answer(Type::ERROR, REQUEST, error)), Some(Say::Failed(_))));
    }

    #[test]
    fn questions_are_bounded_and_nonsense_is_passed_over() {
        let mut exchange = Exchange::new(REQUEST);
        let input = InputRequired { prompt: "?", options: &[], timeout_ms: None };
        let message = answer(Type::INPUT_REQUIRED, REQUEST, |out| input.write(out));
        for _ in 0..QUESTIONS_MAX {
            assert_eq!(exchange.received(&message), Some(Say::Asked));
        }
        assert_eq!(exchange.received(&message), None);
        assert_eq!(exchange.received(&answer(Type::INPUT_REQUIRED, REQUEST, cbor::null)), None);
        assert_eq!(exchange.received(&answer(Type::MESSAGE, REQUEST, cbor::null)), None);
        assert_eq!(decision(" Yes\n"), Some("allow"));
        assert_eq!((decision("n"), decision(""), decision("maybe")), (Some("deny"), None, None));
    }
}
