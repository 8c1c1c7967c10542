//! Commands to lines of the CLI's stdin. One bad line ends the CLI with its running turn, so every line is built here
//! from values; no text of a peer passes as it came.

use std::{borrow::Cow, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    base::Json,
    claude::{Command, ContentPart},
};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    ControlRequest {
        request_id: &'a str,
        request: Request,
    },
    ControlResponse {
        response: Response<'a>,
    },
    User {
        message: Message<'a>,
        uuid: &'a str,
        parent_tool_use_id: (),
        #[serde(skip_serializing_if = "Option::is_none")]
        priority: Option<&'static str>,
    },
}

#[derive(Serialize)]
#[serde(tag = "subtype", rename_all = "snake_case")]
enum Request {
    Initialize,
    Interrupt {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        cancel_queued: bool,
    },
    GetBinaryVersion,
    EndSession,
}

#[derive(Serialize)]
#[serde(tag = "subtype", rename_all = "snake_case")]
enum Response<'a> {
    Success { request_id: &'a str, response: Answer<'a> },
    Error { request_id: &'a str, error: &'a str },
}

#[derive(Serialize)]
#[serde(tag = "behavior", rename_all = "snake_case")]
enum Answer<'a> {
    Allow {
        #[serde(rename = "updatedInput", serialize_with = "on_one_line")]
        input: &'a Json,
    },
    Deny {
        message: &'a str,
    },
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a Arc<str>),
    Blocks(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: &'a str },
}

/// Appends one line, with its line feed, that tells the CLI `command`.
pub fn encode(command: &Command, out: &mut Vec<u8>) {
    let start = out.len();
    // Writing to memory cannot fail, and no type above has a form that JSON lacks.
    if serde_json::to_writer(&mut *out, &line(command)).is_err() {
        debug_assert!(false, "{command:?} has no JSON form");
        out.truncate(start);
        return;
    }
    escape_separators(out, start);
    out.push(b'\n');
}

fn line(command: &Command) -> Line<'_> {
    let request = |id, request| Line::ControlRequest { request_id: id, request };
    match command {
        Command::Initialize { id } => request(id, Request::Initialize),
        Command::Interrupt { id, cancel_queued } => request(id, Request::Interrupt { cancel_queued: *cancel_queued }),
        Command::Probe { id } => request(id, Request::GetBinaryVersion),
        Command::EndSession { id } => request(id, Request::EndSession),
        Command::Prompt { prompt, content, now } => Line::User {
            message: Message { role: "user", content: parts(content) },
            uuid: prompt,
            parent_tool_use_id: (),
            priority: now.then_some("now"),
        },
        Command::Allow { request, input } => Line::ControlResponse {
            response: Response::Success { request_id: request, response: Answer::Allow { input } },
        },
        Command::Deny { request, message } => Line::ControlResponse {
            response: Response::Success { request_id: request, response: Answer::Deny { message } },
        },
        Command::Refuse { request, message } => {
            Line::ControlResponse { response: Response::Error { request_id: request, error: message } }
        }
    }
}

fn parts(content: &[ContentPart]) -> Content<'_> {
    match content {
        [ContentPart::Text(text)] => Content::Text(text),
        many => Content::Blocks(many.iter().map(|ContentPart::Text(text)| Part::Text { text }).collect()),
    }
}

/// A value from outside may be spread over several lines. White space between its tokens means nothing, but a line feed
/// would end the line in this protocol.
fn on_one_line<S: Serializer>(json: &&Json, serializer: S) -> Result<S::Ok, S::Error> {
    let text = json.as_str();
    if !text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        return json.serialize(serializer);
    }
    match Json::parse(&tighten(text)) {
        Ok(tight) => tight.serialize(serializer),
        Err(error) => Err(serde::ser::Error::custom(error)),
    }
}

/// Valid JSON without the white space between its tokens.
fn tighten(text: &str) -> Cow<'_, str> {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |character: &char| {
        let white = !quoted && character.is_ascii_whitespace();
        if quoted && !escaped && *character == '\\' {
            escaped = true;
        } else {
            quoted ^= *character == '"' && !escaped;
            escaped = false;
        }
        !white
    };
    Cow::Owned(text.chars().filter(keep).collect())
}

/// U+2028 and U+2029 may stand in JSON strings, and some line readers end a line there: they are written as escapes.
fn escape_separators(out: &mut Vec<u8>, start: usize) {
    let is_separator = |at: &[u8]| matches!(at, [0xe2, 0x80, 0xa8 | 0xa9, ..]);
    if !out[start..].windows(3).any(is_separator) {
        return;
    }
    let line = out.split_off(start);
    let mut at = 0;
    while at < line.len() {
        if is_separator(&line[at..]) {
            out.extend_from_slice(if line[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
            at += 3;
        } else {
            out.push(line[at]);
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn encoded(command: &Command) -> Value {
        let mut out = b"before\n".to_vec();
        encode(command, &mut out);
        let line = out.strip_prefix(b"before\n").and_then(|line| line.strip_suffix(b"\n")).expect("appended, ended");
        let text = std::str::from_utf8(line).expect("UTF-8");
        assert!(!text.contains(['\n', '\r', '\u{2028}', '\u{2029}']), "{text:?}");
        serde_json::from_str(text).expect("one JSON value")
    }

    fn text(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn lines_have_the_shape_the_cli_was_recorded_to_take() {
        let id = text("r1");
        let cases = [
            (
                Command::Initialize { id: id.clone() },
                json!({"type":"control_request","request_id":"r1","request":{"subtype":"initialize"}}),
            ),
            (
                Command::Interrupt { id: id.clone(), cancel_queued: false },
                json!({"type":"control_request","request_id":"r1","request":{"subtype":"interrupt"}}),
            ),
            (
                Command::Interrupt { id: id.clone(), cancel_queued: true },
                json!({"type":"control_request","request_id":"r1",
                    "request":{"subtype":"interrupt","cancel_queued":true}}),
            ),
            (
                Command::Probe { id: id.clone() },
                json!({"type":"control_request","request_id":"r1","request":{"subtype":"get_binary_version"}}),
            ),
            (
                Command::EndSession { id },
                json!({"type":"control_request","request_id":"r1","request":{"subtype":"end_session"}}),
            ),
            (
                Command::Prompt { prompt: text("u"), content: vec![ContentPart::Text(text("hi"))], now: false },
                json!({"type":"user","message":{"role":"user","content":"hi"},"uuid":"u","parent_tool_use_id":null}),
            ),
            (
                Command::Prompt {
                    prompt: text("u"),
                    content: vec![ContentPart::Text(text("a")), ContentPart::Text(text("b"))],
                    now: true,
                },
                json!({"type":"user","uuid":"u","parent_tool_use_id":null,"priority":"now","message":
                    {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}}),
            ),
            (
                Command::Deny { request: text("p"), message: text("no") },
                json!({"type":"control_response","response":{"subtype":"success","request_id":"p",
                    "response":{"behavior":"deny","message":"no"}}}),
            ),
            (
                Command::Refuse { request: text("p"), message: text("not served") },
                json!({"type":"control_response","response":
                    {"subtype":"error","request_id":"p","error":"not served"}}),
            ),
        ];
        for (command, want) in cases {
            assert_eq!(encoded(&command), want);
        }
    }

    #[test]
    fn input_written_over_several_lines_becomes_one_line_and_keeps_its_meaning() {
        let input =
            "{\n \"command\" :\r\n\t\"echo \\\"a  b\\\\\" , \"n\": 12345678901234567890, \"s\": \"\u{2028}x y\"}";
        let value = encoded(&Command::Allow { request: text("p"), input: Json::parse(input).expect("JSON") });
        assert_eq!(value["response"]["response"]["behavior"], "allow");
        let want: Value = serde_json::from_str(input).expect("JSON");
        assert_eq!(value["response"]["response"]["updatedInput"], want);
    }

    proptest! {
        #[test]
        fn every_command_is_one_valid_line(a in any::<String>(), b in any::<String>(), separator in any::<bool>()) {
            let b = if separator { format!("{b}\u{2029}\n") } else { b };
            let pretty = serde_json::to_string_pretty(&json!({ a.clone(): [b.clone(), null, {"k\n": 1.5}] }))?;
            let (a, b) = (text(&a), text(&b));
            let input = Json::parse(&pretty)?;
            for command in [
                Command::Initialize { id: a.clone() },
                Command::Prompt { prompt: a.clone(), content: vec![ContentPart::Text(b.clone())], now: separator },
                Command::Prompt { prompt: a.clone(), content: Vec::new(), now: separator },
                Command::Interrupt { id: b.clone(), cancel_queued: separator },
                Command::Allow { request: a.clone(), input },
                Command::Deny { request: a.clone(), message: b.clone() },
                Command::Refuse { request: a.clone(), message: b.clone() },
                Command::Probe { id: a.clone() },
                Command::EndSession { id: b.clone() },
            ] {
                let value = encoded(&command);
                match &command {
                    Command::Prompt { content, .. } if content.len() == 1 => {
                        prop_assert_eq!(value["message"]["content"].as_str(), Some(&*b));
                    }
                    Command::Allow { .. } => {
                        let want: Value = serde_json::from_str(&pretty)?;
                        prop_assert_eq!(&value["response"]["response"]["updatedInput"], &want);
                    }
                    _ => {}
                }
            }
        }
    }
}
