//! Client messages: JSON text to commands. Every refusal names the field and what it wants.

use std::{path::PathBuf, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    base::Json,
    relay::api::{Code, Command, Decision, Error, Position, Request, Text, When},
    wire::sign_in::{SignIn, is_id},
};

/// A message of a client.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// The answer to the challenge.
    SignIn(Box<SignIn>),
    /// A command for the core.
    Request(Request),
    /// A sign of life is asked for.
    Ping {
        /// The command's id.
        id: Text,
        /// Whatever the client sent as `t`; comes back.
        t: Option<Json>,
    },
    /// Read the keys file again (administrative).
    KeysReload {
        /// The command's id.
        id: Text,
    },
}

/// A refusal, with the id of the command where it could be read.
pub(super) type Refusal = (Option<Text>, Error);

/// Reads one message.
///
/// # Errors
/// `BAD_JSON`, `BAD_REQUEST` or `UNKNOWN_TYPE`, with the command's id where it has a valid one.
pub fn decode(text: &str) -> Result<Incoming, Refusal> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| (None, Error::new(Code::BadJson, format!("not a JSON value: {error}"))))?;
    let Value::Object(map) = value else {
        return Err((None, bad("a message is one JSON object")));
    };
    let id = match map.get("id") {
        Some(Value::String(id)) if is_id(id) => Some(Text::from(id.as_str())),
        _ => None,
    };
    let Some(Value::String(kind)) = map.get("type") else {
        return Err((id, bad("`type` is missing or not a string")));
    };
    let fields = Fields { map: &map };
    let Some(id) = id else {
        return Err((None, bad("`id` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")));
    };
    fields.incoming(kind, id.clone()).map_err(|error| (Some(id), error))
}

fn bad(message: impl Into<Arc<str>>) -> Error {
    Error::new(Code::BadRequest, message)
}

/// Typed access to a message's fields. `null` counts as absent.
struct Fields<'a> {
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn incoming(&self, kind: &str, id: Text) -> Result<Incoming, Error> {
        let command = match kind {
            "sign_in" => {
                let sign_in: SignIn = serde_json::from_value(Value::Object(self.map.clone()))
                    .map_err(|error| bad(format!("`sign_in`: {error}")))?;
                return Ok(Incoming::SignIn(Box::new(sign_in)));
            }
            "ping" => {
                let t = self.get("t").map(Json::of).transpose().map_err(|_| bad("`t` is not JSON"))?;
                return Ok(Incoming::Ping { id, t });
            }
            "keys" => {
                return match self.required("op")? {
                    "reload" => Ok(Incoming::KeysReload { id }),
                    other => Err(bad(format!("`op` {other:?} is not known; it can be \"reload\""))),
                };
            }
            "list" => Command::List { follow: self.flag("follow")? },
            "create" => self.create()?,
            "attach" => self.attach()?,
            "detach" => Command::Detach { session: self.id("session")? },
            "prompt" => self.prompt()?,
            "interrupt" => Command::Interrupt {
                session: self.id("session")?,
                cancel_queued: self.flag("cancel_queued")?.unwrap_or(false),
            },
            "decide" => self.decide()?,
            "stop" => Command::Stop { session: self.id("session")?, now: self.flag("now")?.unwrap_or(false) },
            other => {
                return Err(Error::new(Code::UnknownType, format!("`type` {other:?} is not known to this relay")));
            }
        };
        Ok(Incoming::Request(Request { id, command }))
    }

    fn create(&self) -> Result<Command, Error> {
        Ok(Command::Create {
            profile: self.required("profile")?.into(),
            folder: self.text("folder")?.map(PathBuf::from),
            title: self.shared("title")?,
            model: self.shared("model")?,
            mode: self.shared("mode")?,
            prompt: self.shared("prompt")?,
        })
    }

    fn attach(&self) -> Result<Command, Error> {
        let from = match self.get("from") {
            None => None,
            Some(Value::Object(map)) => {
                let fields = Fields { map };
                let offset = fields.number("offset")?.ok_or_else(|| bad("`from.offset` is missing"))?;
                Some(Position { epoch: fields.id("epoch")?, offset })
            }
            Some(_) => return Err(bad("`from` must be {epoch, offset}")),
        };
        let tail_bytes = match self.get("tail") {
            None => None,
            Some(Value::Object(map)) => Fields { map }.number("bytes")?,
            Some(_) => return Err(bad("`tail` must be {bytes}")),
        };
        if from.is_some() && tail_bytes.is_some() {
            return Err(bad("`from` and `tail` exclude each other"));
        }
        Ok(Command::Attach { session: self.id("session")?, from, tail_bytes })
    }

    fn prompt(&self) -> Result<Command, Error> {
        let when = match self.text("when")? {
            None | Some("next") => When::Next,
            Some("now") => When::Now,
            Some(other) => return Err(bad(format!("`when` {other:?} is neither \"next\" nor \"now\""))),
        };
        if self.get("blocks").is_some() {
            return Err(bad("`blocks` are not served by this relay; send `text`"));
        }
        Ok(Command::Prompt { session: self.id("session")?, text: self.required("text")?.into(), when })
    }

    fn decide(&self) -> Result<Command, Error> {
        let decision = match self.required("decision")? {
            "allow" => Decision::Allow,
            "deny" => Decision::Deny,
            other => return Err(bad(format!("`decision` {other:?} is neither \"allow\" nor \"deny\""))),
        };
        if self.get("remember").is_some() {
            return Err(bad("`remember` is not served by this relay"));
        }
        Ok(Command::Decide {
            session: self.id("session")?,
            request: self.id("request")?,
            decision,
            message: self.shared("message")?,
            input: self.object("input")?,
            answers: self.object("answers")?,
        })
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(format!("`{name}` must be a string"))),
        }
    }

    fn shared(&self, name: &str) -> Result<Option<Text>, Error> {
        Ok(self.text(name)?.map(Text::from))
    }

    fn required(&self, name: &str) -> Result<&str, Error> {
        self.text(name)?.ok_or_else(|| bad(format!("`{name}` is missing")))
    }

    fn id(&self, name: &str) -> Result<Text, Error> {
        let text = self.required(name)?;
        if !is_id(text) {
            return Err(bad(format!("`{name}` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")));
        }
        Ok(text.into())
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(bad(format!("`{name}` must be true or false"))),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => {
                value.as_u64().map(Some).ok_or_else(|| bad(format!("`{name}` must be a whole number from 0")))
            }
        }
    }

    fn object(&self, name: &str) -> Result<Option<Json>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(value @ Value::Object(_)) => {
                Json::of(value).map(Some).map_err(|_| bad(format!("`{name}` is not JSON")))
            }
            Some(_) => Err(bad(format!("`{name}` must be an object"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> (Option<String>, Code) {
        let (re, error) = decode(text).expect_err("it should be refused");
        (re.map(|re| re.to_string()), error.code)
    }

    #[test]
    fn each_kind_of_refusal_has_its_code_and_its_id_where_it_can_be_read() {
        for (text, re, code) in [
            ("", None, Code::BadJson),
            ("{", None, Code::BadJson),
            ("[]", None, Code::BadRequest),
            ("{}", None, Code::BadRequest),
            (r#"{"type":"ping"}"#, None, Code::BadRequest),
            (r#"{"type":"ping","id":""}"#, None, Code::BadRequest),
            (r#"{"type":"ping","id":"a b"}"#, None, Code::BadRequest),
            (r#"{"type":5,"id":"a"}"#, Some("a"), Code::BadRequest),
            (r#"{"type":"dance","id":"a"}"#, Some("a"), Code::UnknownType),
            (r#"{"type":"prompt","id":"a","session":"s"}"#, Some("a"), Code::BadRequest),
            (r#"{"type":"prompt","id":"a","session":"s","text":5}"#, Some("a"), Code::BadRequest),
            (r#"{"type":"prompt","id":"a","session":"s","text":"x","when":"then"}"#, Some("a"), Code::BadRequest),
            (r#"{"type":"attach","id":"a","session":"s","from":{"epoch":"e"}}"#, Some("a"), Code::BadRequest),
            (
                r#"{"type":"attach","id":"a","session":"s","from":{"epoch":"e","offset":-1}}"#,
                Some("a"),
                Code::BadRequest,
            ),
            (
                r#"{"type":"decide","id":"a","session":"s","request":"r","decision":"maybe"}"#,
                Some("a"),
                Code::BadRequest,
            ),
        ] {
            assert_eq!(refused(text), (re.map(str::to_owned), code), "{text}");
        }
    }

    #[test]
    fn commands_come_out_whole() {
        let text = r#"{"type":"attach","id":"7","session":"s","from":{"epoch":"e","offset":9},"more":1}"#;
        let Ok(Incoming::Request(request)) = decode(text) else { panic!("refused") };
        assert_eq!(&*request.id, "7");
        let from = Some(Position { epoch: "e".into(), offset: 9 });
        assert_eq!(request.command, Command::Attach { session: "s".into(), from, tail_bytes: None });
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = decode(&text);
        }
    }
}
