//! `amp-relay send`, `request` and `listen`: an AMP agent on the command line. Owns how messages are written and shown;
//! the parts that decide (`exchange`, and the functions here) do no I/O.

mod example;
mod exchange;
mod listen;
mod notes;
mod parts;
mod questions;
mod request;
mod screen;
mod send;

use std::{
    borrow::Cow,
    io::{self, Read},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};

pub(super) use listen::{ListenArgs, run as listen};
pub(super) use request::{RequestArgs, run as request};
pub(super) use send::{SendArgs, run as send};

use super::{
    out,
    reach::ReachArgs,
    settings::span_ms,
    text::{PROGRAM, clean, clean_line, ticked},
};
use crate::{
    base::text::BYTE_ORDER_MARK,
    client::amp::{
        Code, Connection, ErrorAnswer, Message, SignedBy, Unacceptable, base64url, body_of_json, did_base, json_of_body,
    },
    wire::{cbor, sign_in::key_of_did},
};

/// Most bytes of a message's text that are read from standard input.
const STDIN_BYTES_MAX: u64 = 16 << 20;
/// The name of the relay itself, where a DID is wanted.
const RELAY: &str = "relay";
/// Characters that are shown of why a message was passed over.
const WHY_CHARS: usize = 300;
/// The exit code of wrong usage, as the argument parser has it.
const MISUSED: u8 = 2;
/// What to do where only the receiver is named.
const ADD_A_BODY: &str = "add a TEXT behind the DID, - for standard input, or --json BODY";
/// What it can be asked, whatever else a program that embeds it serves.
const ACTIONS: &str = "agents, ping, echo or time";

/// The receiver of a message: a DID, or `relay`.
fn address<'a>(text: &'a str, relay: &'a str) -> Result<&'a str, String> {
    if text == RELAY {
        return Ok(relay);
    }
    let is_key = |did: &str| did.strip_prefix("did:key:").is_none_or(|_| key_of_did(did).is_some());
    let fine = text.strip_prefix("did:").is_some_and(|rest| rest.contains(':'))
        && is_key(did_base(text))
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fine {
        return Ok(text);
    }
    Err(format!(
        "{} is no DID. One begins with did:key:z6Mk, and 44 letters and digits follow: `amp-relay request relay \
         agents` lists those that are here, `amp-relay listen` prints its own, `amp-relay keys did FILE.pub` that of a key",
        ticked(text)
    ))
}

/// Refuses our own DID as the receiver where this connection is the only one under it: the relay would hand the message to
/// that. The relay has so long to say so.
fn check_is_not_alone(agent: &mut Connection, to: &str, timeout: Duration, reach: &ReachArgs) -> Result<(), String> {
    if did_base(to) != agent.did() {
        return Ok(());
    }
    let asked = body_of_json(&json!({"action": "agents"})).map_err(|error| error.to_string())?;
    let relay = agent.relay().to_owned();
    let answer = agent.request(&relay, &asked, timeout).map_err(|error| out::foreign("", &error.to_string()))?;
    let agents = json_of_body(answer.body.as_deref().unwrap_or(cbor::NULL));
    if is_beside_another(&agents, agent.did()) {
        return Ok(());
    }
    let why = "this is the DID of the key that sends, and nobody else is connected under it: nothing was delivered; \
               `amp-relay listen` in another terminal receives for it";
    Err(reach.hinted(why))
}

/// Whether the relay's word on who is here has more than one connection of this DID.
fn is_beside_another(agents: &Value, did: &str) -> bool {
    let ours = |one: &&Value| one["did"].as_str() == Some(did);
    let found = agents["agents"].as_array().and_then(|all| all.iter().find(ours));
    found.and_then(|one| one["connections"].as_u64()).is_some_and(|connections| connections > 1)
}

/// A time span of up to 30 days.
fn span(text: &str) -> Result<Duration, String> {
    span_ms(text)
        .filter(|ms| *ms <= 30 * 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a time up to 30 days, like 500ms, 60s, 10m or 24h"))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Says what is missing in a command that the argument parser takes.
fn misused(why: &str) -> ExitCode {
    out::note(&format_args!("{PROGRAM}{why}"));
    ExitCode::from(MISUSED)
}

/// What was given, or standard input for `-`.
fn given(text: &str) -> Result<String, String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    all_of(io::stdin().lock())
}

/// The text that standard input holds.
fn all_of(input: impl Read) -> Result<String, String> {
    let mut all = String::new();
    let read = input.take(STDIN_BYTES_MAX + 1).read_to_string(&mut all);
    read.map_err(|error| unreadable_input(&error))?;
    if all.len() as u64 > STDIN_BYTES_MAX {
        return Err(format!("standard input has more than {STDIN_BYTES_MAX} bytes: send less at once"));
    }
    Ok(all.strip_prefix(BYTE_ORDER_MARK).map(str::to_owned).unwrap_or(all))
}

/// Why standard input cannot be read as a text.
fn unreadable_input(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidData => "the text on standard input is no UTF-8: send it as UTF-8, which `iconv -f \
                                       LATIN1 -t UTF-8` makes of Latin-1, for instance"
            .into(),
        _ => format!("standard input: {error}"),
    }
}

/// The JSON of `--json`.
fn given_json(text: &str) -> Result<Value, String> {
    let text = given(text)?;
    serde_json::from_str(&text).map_err(|error| format!("--json wants one JSON value: {error}"))
}

/// A body for people: text as it is, else JSON on one line.
fn rendered(body: Option<&[u8]>) -> String {
    let Some(body) = body else { return "(encrypted)".into() };
    match json_of_body(body) {
        Value::Null => String::new(),
        Value::String(text) => clean(&text),
        // JSON escapes what is below a blank, not what turns text around.
        other => clean(&other.to_string()),
    }
}

/// Words of the other side, and ours around them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    ours: &'static str,
    theirs: String,
    /// What to do about it.
    next: Cow<'static, str>,
    /// How many of this kind there were by now, where most of them are not said.
    times: u64,
}

impl Told {
    fn new(ours: &'static str, theirs: impl Into<String>) -> Self {
        Self { ours, theirs: theirs.into(), next: "".into(), times: 0 }
    }

    /// With the options of this call in the commands that it names.
    fn hinting(self, reach: &ReachArgs) -> Self {
        Self { next: reach.hinted(&self.next).into(), ..self }
    }

    /// For standard error.
    fn shown(&self) -> String {
        let shown = out::foreign(self.ours, &self.theirs) + &self.next;
        match self.times {
            0 => shown,
            times => format!("{shown} ({times} such notes by now; few of those that follow are shown)"),
        }
    }
}

/// What came and is no message for us, which may have been the answer that is waited for.
fn passed_over(why: &Unacceptable) -> Told {
    Told::new("passed over a message: ", clean_line(&why.to_string(), WHY_CHARS))
}

/// What a session answers, `{"ok": ..., "text": ...}`: whether it went well, and its words.
fn session_answer(body: Option<&[u8]>) -> Option<(bool, String)> {
    let body = json_of_body(body?);
    let members = body.as_object().filter(|members| members.len() == 2)?;
    Some((members.get("ok")?.as_bool()?, clean(members.get("text")?.as_str()?)))
}

/// A message as one JSON object; bytes are base64url.
fn as_json(message: &Message) -> Value {
    let bytes = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(base64url);
    json!({
        "id": base64url(&message.id.0),
        "type": message.typ.to_string(),
        "from": message.from,
        "to": message.to,
        "ts": message.ts,
        "ttl": message.ttl_ms,
        "reply_to": bytes(&message.reply_to),
        "thread_id": bytes(&message.thread_id),
        "body": message.body.as_deref().map(json_of_body),
        "encrypted": message.body.is_none(),
        "signed_by": signer(message.signed_by),
    })
}

fn signer(signed_by: SignedBy) -> Option<&'static str> {
    match signed_by {
        SignedBy::Sender => Some("sender"),
        SignedBy::Relay => Some("relay"),
        SignedBy::Unknown => None,
    }
}

/// What a message was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Relay,
    /// An agent, or a session.
    Other,
}

/// An ERROR, and what to do about it. What became of a message is the relay's to say: a recipient that says it has the
/// message.
fn explained(ours: &'static str, error: &ErrorAnswer, whom: Whom, is_relay: bool) -> Told {
    let ours = if ours.is_empty() && !is_relay { "the recipient answered with an error: " } else { ours };
    let next = match error.code {
        Code::RELAY_REJECTED | Code::RECIPIENT_NOT_FOUND | Code::ENDPOINT_UNREACHABLE if !is_relay => "",
        Code::RELAY_REJECTED | Code::RECIPIENT_NOT_FOUND | Code::ENDPOINT_UNREACHABLE => {
            ": nothing was delivered; `amp-relay request relay agents` lists who is here, and `amp-relay listen` is an agent"
        }
        Code::INVALID_TIMESTAMP => ": compare this machine's clock with the relay's",
        Code::UNAUTHORIZED => "; on the relay's host, `amp-relay keys list` shows the role of each key",
        Code::UNAVAILABLE => ": it may be back soon, or be over; `amp-relay sessions` tells which",
        Code::RATE_LIMITED | Code::OVERLOADED => ": try again later",
        Code::UNKNOWN_TYPE | Code::BAD_REQUEST | Code::SCHEMA_VIOLATION | Code::CAPABILITY_NOT_FOUND => match whom {
            Whom::Relay => ": `amp-relay request relay agents` asks who is here, and --json sets the whole body",
            Whom::Other => {
                ": the recipient does not understand this; `amp-relay request DID \"what changed today?\"` asks a session or an \
                 agent in words, and --json sets the whole body"
            }
        },
        _ => "",
    };
    Told { next: next.into(), ..Told::new(ours, error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::amp::{Id, Type, body_of_json};

    #[test]
    fn spans_are_read() {
        let ms = |text: &str| span(text).map(millis);
        assert_eq!(
            ["0", "500ms", "60s", "2", "10m", "24h", "30d"].map(|text| ms(text).unwrap()),
            [0, 500, 60_000, 2_000, 600_000, 86_400_000, 30 * 86_400_000]
        );
        for bad in ["", "s", "-1s", "1.5s", "31d", "1w", "99999999999999999999", "1 0s"] {
            assert!(ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_did_or_the_relay_is_an_address() {
        assert_eq!(address("relay", "did:key:z9"), Ok("did:key:z9"));
        assert_eq!(address("did:web:a.example", "r"), Ok("did:web:a.example"));
        let key = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
        let thread = format!("{key}#{}", &key["did:key:".len()..]);
        assert_eq!([key, &thread].map(|did| address(did, "r")), [Ok(key), Ok(&*thread)]);
        let cut = &key[..key.len() - 1];
        for bad in ["bob", "did:", "did:key", "did:key:a b", "did:key:\u{e9}", "", "did:key:z6Mk...", cut] {
            assert!(address(bad, "r").unwrap_err().contains("keys did"), "{bad}");
        }
    }

    #[test]
    fn our_own_did_receives_only_where_another_connection_has_it() {
        let here = |ours: Value| json!({"agents": [{"did": "did:a:other", "connections": 2}, ours]});
        let ours = |connections: u64| here(json!({"did": "did:a:ours", "connections": connections}));
        assert_eq!([0, 1, 2, 3].map(|many| is_beside_another(&ours(many), "did:a:ours")), [false, false, true, true]);
        let last =
            json!({"agents": [{"did": "did:a:other", "connections": 1}, {"did": "did:a:ours", "connections": 2}]});
        assert!(is_beside_another(&last, "did:a:ours") && !is_beside_another(&last, "did:a:other"));
        for none in [here(json!({})), here(json!({"did": "did:a:ours", "connections": "2"})), json!({}), Value::Null] {
            assert!(!is_beside_another(&none, "did:a:ours"), "{none}");
        }
    }

    #[test]
    fn standard_input_is_read_whole_or_not_at_all() {
        let of = |bytes: u64| all_of(io::repeat(b'x').take(bytes));
        assert_eq!(of(STDIN_BYTES_MAX).map(|all| all.len() as u64), Ok(STDIN_BYTES_MAX));
        assert!(of(STDIN_BYTES_MAX + 1).unwrap_err().contains("send less at once"));
        assert_eq!((all_of(&b"\xef\xbb\xbfa\n"[..]), all_of(&b""[..])), (Ok("a\n".into()), Ok(String::new())));
        assert!(all_of(&b"\xff"[..]).unwrap_err().contains("standard input"));
    }

    #[test]
    fn an_error_is_told_as_that_of_its_sender_and_only_the_relay_says_what_became_of_a_message() {
        let told = |ours: &'static str, code, is_relay| {
            let error = ErrorAnswer { code, message: "why".into(), now_ms: None };
            let told = explained(ours, &error, Whom::Other, is_relay);
            (told.ours, told.next.contains("nothing was delivered"))
        };
        for code in [Code::RELAY_REJECTED, Code::RECIPIENT_NOT_FOUND, Code::ENDPOINT_UNREACHABLE] {
            assert_eq!(told("", code, true), ("", true));
            assert_eq!(told("", code, false), ("the recipient answered with an error: ", false));
            // Whose answer it is to what is said already.
            assert_eq!([true, false].map(|is_relay| told("an answer: ", code, is_relay).0), ["an answer: "; 2]);
        }
    }

    #[test]
    fn bodies_are_shown_without_steering_the_terminal() {
        let shown = |body: Value| rendered(Some(&body_of_json(&body).unwrap()));
        assert_eq!(shown(json!("a\x1b[2Jb\nc")), "a[2Jb\nc");
        assert_eq!(shown(json!({"a": "\u{202e}\x1b", "b": [1, 2.5]})), r#"{"a":"\u001b","b":[1,2.5]}"#);
        let answer = |body: Value| session_answer(Some(&body_of_json(&body).unwrap()));
        assert_eq!(answer(json!({"ok": true, "text": "4\x1b2"})), Some((true, "42".into())));
        assert_eq!(answer(json!({"ok": true, "text": "42", "more": 1})), None);
        assert_eq!((answer(json!("text")), session_answer(None)), (None, None));
        assert_eq!((shown(Value::Null), rendered(None)), (String::new(), "(encrypted)".into()));
    }

    #[test]
    fn a_message_is_one_json_object() {
        let message = Message {
            id: Id([0xff; 16]),
            typ: Type::MESSAGE,
            ts: 5,
            ttl_ms: 6,
            from: "did:a:b".into(),
            to: vec!["did:c:d".into()],
            reply_to: None,
            thread_id: Some(vec![1]),
            body: Some(b"\x42\xfb\xff".to_vec()),
            signed_by: SignedBy::Sender,
        };
        let expected = json!({
            "id": "_____________________w", "type": "MESSAGE", "from": "did:a:b", "to": ["did:c:d"], "ts": 5, "ttl": 6,
            "reply_to": null, "thread_id": "AQ", "body": "-_8", "encrypted": false, "signed_by": "sender",
        });
        assert_eq!(as_json(&message), expected);
    }
}
