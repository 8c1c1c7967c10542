//! One request and everything that answers it, sans-io: told messages, says what to show, what to ask and when it is over.

use std::time::{Duration, Instant};

use super::{
    Told, Whom, explained,
    notes::Notes,
    questions::{Question, Questions, Refused},
    rendered, session_answer,
};
use crate::{
    base::glyph::visible_again,
    cli::text::THEIRS,
    client::amp::{Code, ErrorAnswer, Id, Message, Type, did_base},
    wire::amp::body::{InputRequiredView, NOT_WAITING, Processing},
};

/// What is to be done about a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Show how it goes.
    Status(Told),
    /// A question has come: see [`Exchange::questions`].
    Asked,
    /// A question has come that cannot be put here.
    Unaskable,
    /// The answer.
    Done(String),
    /// It failed.
    Failed(Told),
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Exchange {
    request: Id,
    pub(super) whom: Whom,
    /// The relay's DID.
    relay: String,
    /// What it is asked meanwhile.
    pub(super) questions: Questions,
    /// What is said of it.
    pub(super) notes: Notes,
    /// Whether the other side has given a sign that it works.
    pub(super) begun: bool,
    /// When it is said that no such sign has come, if it is still to be said.
    silent_until: Option<Instant>,
}

/// After how long without a sign of the other side that is said.
const SILENCE: Duration = Duration::from_secs(2);
/// Said then.
const NOTHING_YET: &str = "nothing has begun there yet: it may wait behind what runs, or behind a request that is open";

impl Exchange {
    /// The request with this id was sent, by the relay with this DID.
    pub(super) fn new(request: Id, whom: Whom, relay: &str) -> Self {
        Self {
            request,
            whom,
            relay: relay.to_owned(),
            questions: Questions::default(),
            notes: Notes::default(),
            begun: false,
            silent_until: None,
        }
    }

    /// It is waited for from now on. The relay itself makes nothing wait.
    pub(super) fn waits_from(&mut self, now: Instant) {
        self.silent_until = (self.whom == Whom::Other).then(|| now + SILENCE);
    }

    /// When [`timeout`](Self::timeout) has something to say.
    pub(super) fn silent_until(&self) -> Option<Instant> {
        self.silent_until.filter(|_| !self.begun)
    }

    /// What is said of a silence that has lasted, once.
    pub(super) fn timeout(&mut self, now: Instant) -> Option<Told> {
        self.silent_until().filter(|at| now >= *at)?;
        self.silent_until = None;
        Some(Told::new(NOTHING_YET, ""))
    }

    /// The messages of ours that may be answered.
    pub(super) fn ids(&self) -> Vec<Id> {
        [self.request].into_iter().chain(self.questions.ids()).collect()
    }

    /// When it is given up, where it is waited for until then: once it is begun never, unless that time was said.
    pub(super) fn deadline(&self, until: Instant, is_said: bool) -> Option<Instant> {
        (is_said || !self.begun).then_some(until)
    }

    /// An answer came.
    pub(super) fn received(&mut self, message: &Message) -> Option<Say> {
        if let Some(error) = message.error() {
            // An answer that came too late, or that we may not give, leaves the request as it is.
            if message.answers(&self.request) {
                return Some(Say::Failed(explained("", &error, self.whom, self.is_relay(message))));
            }
            return self.refused(message, &error).map(Say::Status);
        }
        if !message.answers(&self.request) {
            return None;
        }
        let body = message.body.as_deref();
        match message.typ {
            Type::RESPONSE | Type::CAP_RESULT | Type::PONG => Some(match session_answer(body) {
                Some((true, text)) => Say::Done(text),
                Some((false, text)) => Say::Failed(Told::new("the recipient did not finish the prompt: ", text)),
                None => Say::Done(rendered(body)),
            }),
            Type::PROC_FAIL => Some(Say::Failed(Told::new("it failed: ", rendered(body)))),
            Type::PROCESSING | Type::PROGRESS => {
                self.begun = true;
                let status = body.and_then(|body| Processing::read(body).ok()).and_then(|read| read.status_text);
                Some(Say::Status(status.map_or(Told::new("processing", ""), |status| Told::new(THEIRS, status))))
            }
            Type::INPUT_REQUIRED => {
                self.begun = true;
                Some(if self.asked(message).is_some() { Say::Asked } else { Say::Unaskable })
            }
            _ => None,
        }
    }

    /// Takes a question in, if it can be put.
    fn asked(&mut self, message: &Message) -> Option<()> {
        let read = InputRequiredView::read(message.body.as_deref()?).ok()?;
        // A person decides by it: nothing of it may hide.
        let prompt: Vec<_> = read.prompt.split('\n').map(visible_again).collect();
        let question = Question {
            asking: message.clone(),
            prompt: prompt.join("\n"),
            options: read.options.into_iter().flatten().map(str::to_owned).collect(),
            in_full: read.care.needs_interaction,
            wants: read.questions,
        };
        self.questions.ask(question).then_some(())
    }

    /// An answer of ours was refused.
    fn refused(&mut self, message: &Message, error: &ErrorAnswer) -> Option<Told> {
        let is_over = error.message == NOT_WAITING;
        let is_open = error.code == Code::BAD_REQUEST && !is_over;
        Some(match self.questions.refused(message, is_open)? {
            Refused::Again => Told {
                next: ": its question is put again".into(),
                ..Told::new("an answer was not taken: ", &*error.message)
            },
            Refused::Gone if is_over => {
                Told::new("an answer was not taken: its question was decided elsewhere, or is over", "")
            }
            Refused::Gone => explained("an answer was not taken: ", error, self.whom, self.is_relay(message)),
        })
    }

    fn is_relay(&self, message: &Message) -> bool {
        did_base(&message.from) == self.relay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::agent::questions::QUESTIONS_MAX,
        client::amp::SignedBy,
        wire::{
            amp::body::{ErrorBody, InputRequired},
            cbor,
        },
    };

    const REQUEST: Id = Id([1; 16]);
    const RELAY: &str = "did:key:zRelay";

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
        let mut exchange = Exchange::new(REQUEST, Whom::Other, RELAY);
        let status = Processing { status_text: Some("reading\x1b[2J"), ..Processing::default() };
        let message = answer(Type::PROCESSING, REQUEST, |out| status.write(out));
        assert_eq!(exchange.received(&message), Some(Say::Status(Told::new(THEIRS, "reading\x1b[2J"))));
        assert!(exchange.begun);
        let input = InputRequired { prompt: "May I?", options: &["allow", "deny"], ..InputRequired::default() };
        let message = answer(Type::INPUT_REQUIRED, REQUEST, |out| input.write(out));
        assert_eq!(exchange.received(&message), Some(Say::Asked));
        let question = exchange.questions.passed_over().expect("a question");
        assert_eq!(question.prompt, "May I?");
        exchange.questions.sent(Id([2; 16]), question);
        assert_eq!((exchange.questions.is_any(), exchange.ids()), (false, vec![REQUEST, Id([2; 16])]));
        // That we may not answer is told, and the request goes on.
        let error = |out: &mut Vec<u8>| ErrorBody::new(Code::UNAUTHORIZED, "no").write(out);
        let told = exchange.received(&answer(Type::ERROR, Id([2; 16]), error));
        assert!(matches!(told, Some(Say::Status(told)) if told.theirs == "no"));
        let told = exchange.received(&answer(Type::RESPONSE, REQUEST, |out| cbor::text(out, "done")));
        assert_eq!(told, Some(Say::Done("done".into())));
        assert!(matches!(exchange.received(&answer(Type::ERROR, REQUEST, error)), Some(Say::Failed(_))));
    }

    #[test]
    fn a_request_is_given_up_unless_it_is_begun_or_at_the_time_that_was_said() {
        let mut exchange = Exchange::new(REQUEST, Whom::Other, RELAY);
        let until = Instant::now();
        assert_eq!([true, false].map(|is_said| exchange.deadline(until, is_said)), [Some(until); 2]);
        exchange.received(&answer(Type::PROGRESS, REQUEST, cbor::null));
        assert_eq!([true, false].map(|is_said| exchange.deadline(until, is_said)), [Some(until), None]);
    }

    #[test]
    fn a_silence_is_said_once_unless_it_is_begun_or_the_relay_that_is_asked() {
        let begin = Instant::now();
        let of = |whom| {
            let mut exchange = Exchange::new(REQUEST, whom, RELAY);
            exchange.waits_from(begin);
            exchange
        };
        let mut exchange = of(Whom::Other);
        let at = exchange.silent_until().expect("a time");
        assert!(at == begin + SILENCE && exchange.timeout(begin).is_none());
        assert!(exchange.timeout(at).is_some_and(|told| told.ours == NOTHING_YET));
        assert!(exchange.timeout(at).is_none() && exchange.silent_until().is_none(), "once");
        let mut exchange = of(Whom::Other);
        exchange.received(&answer(Type::PROGRESS, REQUEST, cbor::null));
        assert!(exchange.timeout(at).is_none() && exchange.silent_until().is_none(), "it is begun");
        assert_eq!(of(Whom::Relay).silent_until(), None);
    }

    #[test]
    fn only_an_answer_of_another_kind_than_was_wanted_is_asked_for_again() {
        let input = InputRequired { prompt: "?", options: &["allow", "deny"], ..InputRequired::default() };
        for (code, reason, again, from, next) in [
            (Code::BAD_REQUEST, "wrong", true, RELAY, "put again"),
            (Code::BAD_REQUEST, NOT_WAITING, false, RELAY, ""),
            (Code::UNAUTHORIZED, "no", false, RELAY, "keys list"),
            (Code::RATE_LIMITED, "later", false, RELAY, "try again later"),
            (Code::RECIPIENT_NOT_FOUND, "gone", false, RELAY, "nothing was delivered"),
            // It has the answer, whatever it says.
            (Code::RECIPIENT_NOT_FOUND, "gone", false, "did:a:b", ""),
        ] {
            let mut exchange = Exchange::new(REQUEST, Whom::Other, RELAY);
            exchange.received(&answer(Type::INPUT_REQUIRED, REQUEST, |out| input.write(out)));
            let question = exchange.questions.passed_over().expect("a question");
            exchange.questions.sent(Id([2; 16]), question);
            let refusal = answer(Type::ERROR, Id([2; 16]), |out| ErrorBody::new(code, reason).write(out));
            let Some(Say::Status(told)) = exchange.received(&Message { from: from.into(), ..refusal }) else {
                panic!("{reason} is told");
            };
            assert_eq!(exchange.questions.is_any(), again, "{reason}");
            assert!(told.ours.starts_with("an answer was not taken") && told.next.contains(next), "{told:?}");
            assert!(next.is_empty() <= told.next.is_empty(), "{told:?}");
        }
    }

    #[test]
    fn questions_are_bounded_and_what_is_none_is_passed_over() {
        let mut exchange = Exchange::new(REQUEST, Whom::Other, RELAY);
        let input = InputRequired { prompt: "?", options: &[], ..InputRequired::default() };
        let message = answer(Type::INPUT_REQUIRED, REQUEST, |out| input.write(out));
        for _ in 0..QUESTIONS_MAX {
            assert_eq!(exchange.received(&message), Some(Say::Asked));
        }
        assert_eq!(exchange.received(&message), Some(Say::Unaskable), "too many");
        let waiting = std::iter::from_fn(|| exchange.questions.passed_over());
        assert_eq!(waiting.count(), QUESTIONS_MAX, "the last one does not wait");
        assert_eq!(exchange.received(&answer(Type::MESSAGE, REQUEST, cbor::null)), None);
    }

    #[test]
    fn a_question_that_cannot_be_read_is_not_passed_over_in_silence() {
        let mut exchange = Exchange::new(REQUEST, Whom::Other, RELAY);
        let mut encrypted = answer(Type::INPUT_REQUIRED, REQUEST, cbor::null);
        assert_eq!(exchange.received(&encrypted), Some(Say::Unaskable));
        encrypted.body = None;
        assert_eq!(exchange.received(&encrypted), Some(Say::Unaskable));
        assert!(exchange.begun && !exchange.questions.is_any());
    }

    #[test]
    fn nothing_of_a_question_hides() {
        let mut exchange = Exchange::new(REQUEST, Whom::Other, RELAY);
        for (prompt, shown) in [
            (
                "run: cat a\u{200b}b\u{ad}c \u{e000} \u{2800}x\u{3164}y \u{202e}txt.exe",
                "run: cat a<U+200B>b<U+00AD>c <U+E000> <U+2800>x<U+3164>y <U+202E>txt.exe",
            ),
            // What the relay has made visible already.
            ("one\n  │ rm -rf x<U+200B>→   y", "one\n  │ rm -rf x<U+200B>→   y"),
            ("a\x1b[2J\r\nb", "a<U+001B>[2J<U+000D>\nb"),
        ] {
            let input = InputRequired { prompt, ..InputRequired::default() };
            exchange.received(&answer(Type::INPUT_REQUIRED, REQUEST, |out| input.write(out)));
            assert_eq!(exchange.questions.passed_over().expect("a question").prompt, shown);
        }
    }

    #[test]
    fn a_question_that_was_decided_elsewhere_is_not_put_again() {
        let mut exchange = Exchange::new(REQUEST, Whom::Other, RELAY);
        let input = InputRequired { prompt: "?", options: &["answer", "deny"], ..InputRequired::default() };
        for (reason, again) in [("wrong", true), (NOT_WAITING, false)] {
            exchange.received(&answer(Type::INPUT_REQUIRED, REQUEST, |out| input.write(out)));
            let question = exchange.questions.passed_over().expect("a question");
            exchange.questions.sent(Id([2; 16]), question);
            let error = |out: &mut Vec<u8>| ErrorBody::new(Code::BAD_REQUEST, reason).write(out);
            let told = exchange.received(&answer(Type::ERROR, Id([2; 16]), error));
            let says = |told: &Told| (told.ours.to_owned() + &told.theirs + &told.next).contains("decided elsewhere");
            assert!(matches!(told, Some(Say::Status(told)) if says(&told) != again));
            assert_eq!(exchange.questions.passed_over().is_some(), again, "{reason}");
        }
    }
}
