//! Bodies of the types that a relay and its clients speak themselves (RFC 001 section 4), written in deterministic form
//! and read leniently: members that we do not know are passed over, those we know must have their type.
//!
//! Everything else is a body of its own: [`cbor::from_value`] makes one of a `ciborium::Value`.

use crate::wire::cbor::{self, Texts};

use super::{Code, Retry};

/// Key in the details of an ERROR with 1003: our time, Unix milliseconds.
pub const DETAIL_NOW: &str = "now";

/// Reason of the ERROR to a RESPONSE to a question that was decided elsewhere, or is over: nothing is left to answer.
pub const NOT_WAITING: &str = "this answers no INPUT_REQUIRED that waits";

/// The body of PING and PONG.
pub fn null(out: &mut Vec<u8>) {
    cbor::null(out);
}

/// Appends `key` and what `write` makes of the value, if there is one.
fn member<T>(out: &mut Vec<u8>, key: &str, value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) {
    if let Some(value) = value {
        cbor::text(out, key);
        write(out, value);
    }
}

fn texts(out: &mut Vec<u8>, texts: &[&str]) {
    cbor::array(out, texts.len());
    texts.iter().for_each(|text| cbor::text(out, text));
}

fn raw(out: &mut Vec<u8>, item: &[u8]) {
    out.extend_from_slice(item);
}

fn count<const N: usize>(optional: [bool; N]) -> usize {
    optional.into_iter().filter(|&there| there).count()
}

/// The value of an optional member: `Err` if it is there and of another type.
fn optional<'a, T>(map: &'a [u8], key: &str, read: impl FnOnce(&'a [u8]) -> Option<T>) -> Result<Option<T>, BadBody> {
    cbor::get(map, key).map(|item| read(item).ok_or(BadBody)).transpose()
}

fn required<'a, T>(map: &'a [u8], key: &str, read: impl FnOnce(&'a [u8]) -> Option<T>) -> Result<T, BadBody> {
    optional(map, key, read)?.ok_or(BadBody)
}

/// A body that does not fit its type. Answered with 1001.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body does not fit the message's type")]
pub struct BadBody;

/// The party that says that a message was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckSource {
    /// A relay: accepted, not delivered.
    Relay,
    /// The recipient: delivered.
    Recipient,
}

impl AckSource {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Recipient => "recipient",
        }
    }
}

/// The body of an ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The party that says so.
    pub source: AckSource,
    /// When it was received, Unix milliseconds.
    pub received_at: u64,
    /// Which of several recipients this is about.
    pub target: Option<&'a str>,
}

impl<'a> Ack<'a> {
    /// Appends the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        cbor::map(out, 2 + count([self.target.is_some()]));
        cbor::text(out, "ack_source");
        cbor::text(out, self.source.as_str());
        member(out, "ack_target", self.target, cbor::text);
        cbor::text(out, "received_at");
        cbor::uint(out, self.received_at);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// It is not the body of an ACK.
    pub fn read(body: &'a [u8]) -> Result<Self, BadBody> {
        let source = match required(body, "ack_source", cbor::as_text)? {
            "relay" => AckSource::Relay,
            "recipient" => AckSource::Recipient,
            _ => return Err(BadBody),
        };
        let received_at = required(body, "received_at", cbor::as_uint)?;
        Ok(Self { source, received_at, target: optional(body, "ack_target", cbor::as_text)? })
    }
}

/// The body of an ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorBody<'a> {
    /// What is wrong, by number. The category follows from it when written.
    pub code: Code,
    /// What is wrong, for people.
    pub message: &'a str,
    /// Whether to try again.
    pub retry: Option<bool>,
    /// More, as one deterministic CBOR item.
    pub details: Option<&'a [u8]>,
}

impl<'a> ErrorBody<'a> {
    /// The body for a code, with `retry` as the code has it.
    pub fn new(code: Code, message: &'a str) -> Self {
        Self { code, message, retry: Some(code.retry() != Retry::No), details: None }
    }

    /// Appends the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        cbor::map(out, 3 + count([self.retry.is_some(), self.details.is_some()]));
        cbor::text(out, "code");
        cbor::uint(out, self.code.0);
        member(out, "retry", self.retry, cbor::boolean);
        member(out, "details", self.details, raw);
        cbor::text(out, "message");
        cbor::text(out, self.message);
        cbor::text(out, "category");
        cbor::text(out, self.code.category());
    }

    /// Reads a body.
    ///
    /// # Errors
    /// It is not the body of an ERROR.
    pub fn read(body: &'a [u8]) -> Result<Self, BadBody> {
        Ok(Self {
            code: Code(required(body, "code", cbor::as_uint)?),
            message: required(body, "message", cbor::as_text)?,
            retry: optional(body, "retry", cbor::as_bool)?,
            details: optional(body, "details", Some)?,
        })
    }
}

/// The details of an ERROR with 1003: our time.
pub fn details_now(out: &mut Vec<u8>, unix_ms: u64) {
    cbor::map(out, 1);
    cbor::text(out, DETAIL_NOW);
    cbor::uint(out, unix_ms);
}

/// The body of a HELLO, to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hello<'a> {
    /// Versions we speak, the best first.
    pub versions: &'a [&'a str],
    /// Extensions we know. Nothing is ever agreed by them: the answer has no field for it.
    pub extensions: &'a [&'a str],
    /// The agent's name.
    pub name: Option<&'a str>,
    /// The program and its version.
    pub implementation: Option<&'a str>,
}

impl Hello<'_> {
    /// Appends the body. The implementation is said only beside a name.
    pub fn write(&self, out: &mut Vec<u8>) {
        let extensions = (!self.extensions.is_empty()).then_some(self.extensions);
        cbor::map(out, 1 + count([self.name.is_some(), extensions.is_some()]));
        cbor::text(out, "versions");
        texts(out, self.versions);
        member(out, "agent_info", self.name, |out, name| {
            cbor::map(out, 1 + count([self.implementation.is_some()]));
            cbor::text(out, "name");
            cbor::text(out, name);
            member(out, "implementation", self.implementation, cbor::text);
        });
        member(out, "extensions", extensions, texts);
    }
}

/// Longest version in bytes.
pub const VERSION_BYTES_MAX: usize = 32;

/// The body of a HELLO, read.
#[derive(Clone, Copy, Debug)]
pub struct HelloView<'a> {
    /// Versions the peer speaks, the best first; at least one.
    pub versions: Texts<'a>,
    /// The agent's name.
    pub name: Option<&'a str>,
}

impl<'a> HelloView<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// It is not the body of a HELLO.
    pub fn read(body: &'a [u8]) -> Result<Self, BadBody> {
        let versions = required(body, "versions", Texts::of)?;
        if versions.clone().next().is_none() {
            return Err(BadBody);
        }
        let info = cbor::get(body, "agent_info");
        Ok(Self { versions, name: info.and_then(|info| cbor::get(info, "name")).and_then(cbor::as_text) })
    }

    /// The first version with our number before the dot: what HELLO_ACK says. `None`: HELLO_REJECT. It is repeated in
    /// the answer, so that a text longer than [`VERSION_BYTES_MAX`] is none.
    pub fn select(&self) -> Option<&'a str> {
        let ours = |version: &&str| version.len() <= VERSION_BYTES_MAX && version.split('.').next() == Some("1");
        self.versions.clone().find(ours)
    }
}

/// The body of a HELLO_ACK.
pub fn hello_ack(out: &mut Vec<u8>, selected: &str) {
    cbor::map(out, 1);
    cbor::text(out, "selected");
    cbor::text(out, selected);
}

/// The body of a HELLO_REJECT.
pub fn hello_reject(out: &mut Vec<u8>, reason: Option<&str>) {
    cbor::map(out, count([reason.is_some()]));
    member(out, "reason", reason, cbor::text);
}

/// The version that a HELLO_ACK selects.
///
/// # Errors
/// It is not the body of a HELLO_ACK.
pub fn selected(body: &[u8]) -> Result<&str, BadBody> {
    required(body, "selected", cbor::as_text)
}

/// The body of a PROCESSING.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processing<'a> {
    /// What is being done, for people.
    pub status_text: Option<&'a str>,
    /// How long it may take, in milliseconds.
    pub eta_ms: Option<u64>,
    /// Whether it can be called off.
    pub cancellable: Option<bool>,
}

impl<'a> Processing<'a> {
    /// Appends the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        cbor::map(out, count([self.status_text.is_some(), self.eta_ms.is_some(), self.cancellable.is_some()]));
        member(out, "eta_ms", self.eta_ms, cbor::uint);
        member(out, "cancellable", self.cancellable, cbor::boolean);
        member(out, "status_text", self.status_text, cbor::text);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// It is not the body of a PROCESSING.
    pub fn read(body: &'a [u8]) -> Result<Self, BadBody> {
        Ok(Self {
            status_text: optional(body, "status_text", cbor::as_text)?,
            eta_ms: optional(body, "eta_ms", cbor::as_uint)?,
            cancellable: optional(body, "cancellable", cbor::as_bool)?,
        })
    }
}

/// How an answer to an INPUT_REQUIRED may come about. These members are the relay's own: the protocol has none for it,
/// and `ext`, which is not signed, is no place for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Care {
    /// A person has to allow it, and by more than a single key (`needs_interaction`).
    pub needs_interaction: bool,
    /// An allowance must not be what is chosen already (`default_to_no`).
    pub default_to_no: bool,
    /// An allowance must not be offered for the future too (`no_always`).
    pub no_always: bool,
}

/// The body of an INPUT_REQUIRED.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputRequired<'a> {
    /// The question, for people.
    pub prompt: &'a str,
    /// Answers to choose from; none: any.
    pub options: &'a [&'a str],
    /// How long the question stands, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How many answers it wants, where it wants any but a yes or a no.
    pub questions: Option<u64>,
    /// How an answer may come about.
    pub care: Care,
}

impl InputRequired<'_> {
    /// Appends the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        let options = (!self.options.is_empty()).then_some(self.options);
        let Care { needs_interaction, default_to_no, no_always } = self.care;
        let valued = [options.is_some(), self.timeout_ms.is_some(), self.questions.is_some()];
        cbor::map(out, 1 + count(valued) + count([needs_interaction, default_to_no, no_always]));
        cbor::text(out, "prompt");
        cbor::text(out, self.prompt);
        member(out, "options", options, texts);
        member(out, "no_always", no_always.then_some(true), cbor::boolean);
        member(out, "questions", self.questions, cbor::uint);
        member(out, "timeout_ms", self.timeout_ms, cbor::uint);
        member(out, "default_to_no", default_to_no.then_some(true), cbor::boolean);
        member(out, "needs_interaction", needs_interaction.then_some(true), cbor::boolean);
    }
}

/// The body of an INPUT_REQUIRED, read.
#[derive(Clone, Copy, Debug)]
pub struct InputRequiredView<'a> {
    /// The question, for people.
    pub prompt: &'a str,
    /// Answers to choose from.
    pub options: Option<Texts<'a>>,
    /// How long the question stands, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How many answers it wants, where that is said.
    pub questions: Option<u64>,
    /// How an answer may come about.
    pub care: Care,
}

impl<'a> InputRequiredView<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// It is not the body of an INPUT_REQUIRED.
    pub fn read(body: &'a [u8]) -> Result<Self, BadBody> {
        let flag = |key| optional(body, key, cbor::as_bool).map(Option::unwrap_or_default);
        Ok(Self {
            prompt: required(body, "prompt", cbor::as_text)?,
            options: optional(body, "options", Texts::of)?,
            timeout_ms: optional(body, "timeout_ms", cbor::as_uint)?,
            questions: optional(body, "questions", cbor::as_uint)?,
            care: Care {
                needs_interaction: flag("needs_interaction")?,
                default_to_no: flag("default_to_no")?,
                no_always: flag("no_always")?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(cbor::check_deterministic(&out), Ok(()), "{out:02x?}");
        out
    }

    /// Every body with every subset of its optional members is deterministic and is read back.
    #[test]
    fn bodies_are_deterministic_and_come_back() {
        for bits in 0_u8..8 {
            let has = |bit: u8| bits & 1 << bit != 0;
            let ack = Ack { source: AckSource::Relay, received_at: 1 << 40, target: has(0).then_some("did:a") };
            assert_eq!(Ack::read(&written(|out| ack.write(out))), Ok(ack));
            let details = written(|out| details_now(out, 77));
            let error = ErrorBody {
                retry: has(0).then_some(true),
                details: has(1).then_some(&details[..]),
                ..ErrorBody::new(Code::RATE_LIMITED, "slower")
            };
            assert_eq!(ErrorBody::read(&written(|out| error.write(out))), Ok(error));
            let processing = Processing {
                status_text: has(0).then_some("thinking"),
                eta_ms: has(1).then_some(70_000),
                cancellable: has(2).then_some(false),
            };
            assert_eq!(Processing::read(&written(|out| processing.write(out))), Ok(processing));
            let options: &[&str] = if has(0) { &["yes", "no"] } else { &[] };
            let care = Care { needs_interaction: has(2), default_to_no: has(1), no_always: has(0) != has(2) };
            let (timeout_ms, questions) = (has(1).then_some(5), has(2).then_some(3));
            let input = InputRequired { prompt: "May I?", options, timeout_ms, questions, care };
            let body = written(|out| input.write(out));
            let read = InputRequiredView::read(&body).unwrap();
            assert_eq!((read.prompt, read.timeout_ms, read.care), (input.prompt, timeout_ms, care));
            assert_eq!(read.questions, questions);
            assert_eq!(read.options.is_some(), has(0));
            assert!(read.options.into_iter().flatten().eq(options.iter().copied()));
            let hello = Hello {
                versions: &["2.0", "1.7", "1"],
                extensions: if has(0) { &["streaming"] } else { &[] },
                name: has(1).then_some("bob"),
                implementation: has(2).then_some("amp-relay/1"),
            };
            let body = written(|out| hello.write(out));
            let read = HelloView::read(&body).unwrap();
            assert_eq!((read.select(), read.name), (Some("1.7"), hello.name));
        }
        assert_eq!(selected(&written(|out| hello_ack(out, "1.0"))), Ok("1.0"));
        assert_eq!(written(|out| hello_reject(out, None)), [0xa0]);
        assert_eq!(written(null), cbor::NULL);
        written(|out| hello_reject(out, Some("no common version")));
    }

    #[test]
    fn versions_are_chosen_by_their_first_number() {
        let select = |versions: &[&str]| {
            let body = written(|out| Hello { versions, ..Hello::default() }.write(out));
            HelloView::read(&body).map(|hello| hello.select().map(String::from))
        };
        assert_eq!(select(&["0.30.0", "2.0", "10.1", "x"]), Ok(None));
        assert_eq!(select(&["1"]), Ok(Some("1".into())));
        assert_eq!(select(&[&format!("1.{}", "0".repeat(60_000)), "1.2"]), Ok(Some("1.2".into())));
        // One of just the length that is repeated, and one that is longer.
        let long = format!("1.{}", "0".repeat(VERSION_BYTES_MAX - 2));
        assert_eq!(select(&[&format!("{long}0"), &long]), Ok(Some(long.clone())));
        assert_eq!(select(&[]), Err(BadBody));
    }

    #[test]
    fn the_codes_are_the_bytes_of_the_rfcs() {
        for (code, bytes) in [(Code::RELAY_REJECTED, [0x19, 0x07, 0xd3]), (Code::UNAUTHORIZED, [0x19, 0x0b, 0xb9])] {
            let body = written(|out| ErrorBody::new(code, "").write(out));
            assert_eq!(cbor::get(&body, "code"), Some(&bytes[..]));
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (Ack::read(&body), ErrorBody::read(&body), Processing::read(&body));
            let _ = (HelloView::read(&body).map(|hello| hello.select().is_some()), selected(&body));
            let _ = InputRequiredView::read(&body).is_ok();
        }
    }
}
