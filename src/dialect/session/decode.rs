//! Client messages: JSON text to commands. Every refusal names the field and what it wants.

use std::{borrow::Cow, fmt, path::PathBuf, sync::Arc};

use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    bounds::{
        ANSWERS_BYTES_MAX, ECHO_BYTES_MAX, FOLDER_BYTES_MAX, HASH_BYTES_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX,
        TITLE_BYTES_MAX,
    },
    fields::Fields,
};
use crate::{
    base::{Json, text::quoted},
    claude::arguments,
    relay::{
        Role,
        api::{Code, Command, Decision, Error, Past, Position, Request, TOLD_BY_A_DENIAL, Text, Verb, When},
    },
    wire::sign_in::{Device, SignIn, is_id},
};

/// What is passed on whole has the bound of a message, which the connection keeps.
const NO_BOUND_OF_ITS_OWN: usize = usize::MAX;

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
    /// End the relay (administrative).
    RelayStop {
        /// The command's id.
        id: Text,
    },
}

/// A refusal, with the id of the command where it could be read.
pub(super) type Refusal = (Option<Text>, Error);

/// Reads one message. What a command names is read only once `may` has admitted the role that the command needs.
///
/// # Errors
/// `BAD_JSON`, `BAD_REQUEST` or `UNKNOWN_TYPE`, or what `may` says, with the command's id where it has a valid one.
pub fn decode(text: &str, may: impl Fn(Role) -> Result<(), Error>) -> Result<Incoming, Refusal> {
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|_| (readable_id(text), no_object(text)))?;
    let id = fields.id("id").ok();
    fields.check().map_err(|error| (id.clone(), error))?;
    let Ok(Some(kind)) = fields.text("type") else {
        return Err((id, bad("`type` is missing or not a string")));
    };
    let Some(id) = id else {
        return Err((None, bad("`id` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")));
    };
    let incoming = match &*kind {
        "sign_in" => fields.sign_in(&id).map(|sign_in| Incoming::SignIn(Box::new(sign_in))),
        "ping" => fields.echo("t", ECHO_BYTES_MAX).map(|t| Incoming::Ping { id: id.clone(), t }),
        "keys" | "relay" => may(Role::Admin).and_then(|()| fields.administer(&kind, &id)),
        _ => fields.command(&kind, may).map(|command| Incoming::Request(Request { id: id.clone(), command })),
    };
    incoming.map_err(|error| (Some(id), error))
}

fn bad(message: impl Into<Arc<str>>) -> Error {
    Error::new(Code::BadRequest, message)
}

/// The command's id, as far as it can be read, in a text that is no JSON, or of which nothing else is of interest: the
/// answer names it then.
pub(super) fn readable_id(text: &str) -> Option<Text> {
    struct Id<'a>(&'a mut Option<Text>);
    impl<'de> Visitor<'de> for Id<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                let id = (key == "id").then(|| serde_json::from_str::<String>(value.get()).ok()).flatten();
                if let Some(id) = id.filter(|id| is_id(id)) {
                    *self.0 = Some(id.into());
                }
            }
            Ok(())
        }
    }
    let id_of = |text: &str| {
        let mut id = None;
        // What is wrong with the text was found already.
        let _ = serde_json::Deserializer::from_str(text).deserialize_map(Id(&mut id));
        id
    };
    // It may stand behind what is wrong.
    id_of(text).or_else(|| id_of(&with_stand_ins(text)))
}

/// The text with a `0` in the place of each word that is not JSON (`NaN`, `Infinity`, `True`, `+1`) and `""` in that of each
/// such string (a raw line end, an unknown escape). A string or word ends where it ended before, and all else stays as it
/// is, so that no member comes from what was inside of a string, or of another value.
fn with_stand_ins(text: &str) -> String {
    let is_of_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_');
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, stand_in) = match first {
            '"' => (string_bytes(rest), "\"\""),
            c if c.is_ascii() && is_of_word(c as u8) => {
                (rest.bytes().position(|byte| !is_of_word(byte)).unwrap_or(rest.len()), "0")
            }
            c => (c.len_utf8(), ""),
        };
        let (token, behind) = rest.split_at(length);
        let is_fit = stand_in.is_empty() || serde_json::from_str::<IgnoredAny>(token).is_ok();
        made.push_str(if is_fit { token } else { stand_in });
        rest = behind;
    }
    made
}

/// How long the string is with which a text begins: to the next quote that no backslash escapes, or to the text's end.
fn string_bytes(text: &str) -> usize {
    let mut is_escaped = true;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |at| at + 1)
}

/// What a text is that is no JSON object.
fn no_object(text: &str) -> Error {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => bad("a message is one JSON object"),
        Err(error) => Error::new(Code::BadJson, format!("not a JSON value: {error}")),
    }
}

impl Fields<'_> {
    fn sign_in(&self, id: &str) -> Result<SignIn, Error> {
        let text = |name: &str| self.required(name).map(Cow::into_owned);
        let device = self.fields("device", "an object {name, kind}")?;
        let device = device.ok_or_else(|| bad("`device` is missing: an object {name, kind}"))?;
        let of_device = |name: &str| match device.text(name) {
            Ok(Some(text)) => Ok(text.into_owned()),
            Ok(None) => Err(bad(format!("`device.{name}` is missing"))),
            Err(_) => Err(bad(format!("`device.{name}` must be a string of whole characters"))),
        };
        Ok(SignIn {
            id: id.to_owned(),
            client: text("client")?,
            key: text("key")?,
            nonce: text("nonce")?,
            authority: text("authority")?,
            binding: text("binding")?,
            role: self.text("role")?.map(Cow::into_owned),
            device: Device { name: of_device("name")?, kind: of_device("kind")? },
            signature: text("signature")?,
        })
    }

    fn administer(&self, kind: &str, id: &Text) -> Result<Incoming, Error> {
        match kind {
            "keys" => self.op("reload").map(|()| Incoming::KeysReload { id: id.clone() }),
            _ => self.op("stop").map(|()| Incoming::RelayStop { id: id.clone() }),
        }
    }

    /// The one operation that an administrative command knows.
    fn op(&self, known: &str) -> Result<(), Error> {
        match &*self.required("op")? {
            op if op == known => Ok(()),
            other => Err(bad(format!("`op` {} is not known; it can be \"{known}\"", quoted(other)))),
        }
    }

    fn command(&self, kind: &str, may: impl Fn(Role) -> Result<(), Error>) -> Result<Command, Error> {
        let unknown = || Error::new(Code::UnknownType, format!("`type` {} is not known to this relay", quoted(kind)));
        let verb = Verb::from_name(kind).ok_or_else(unknown)?;
        may(verb.needs())?;
        Ok(match verb {
            Verb::List => Command::List { follow: self.flag("follow")? },
            Verb::Create => self.create()?,
            Verb::Attach => self.attach()?,
            Verb::Detach => Command::Detach { session: self.id("session")? },
            Verb::History => Command::History {
                session: self.id("session")?,
                before: self.position("before")?.ok_or_else(|| bad("`before` is missing"))?,
                bytes: self.number("bytes")?,
            },
            Verb::Fetch => Command::Fetch {
                session: self.id("session")?,
                blob: self.id("blob")?,
                from: self.number("from")?.unwrap_or(0),
                bytes: self.number("bytes")?,
            },
            Verb::Prompt => self.prompt()?,
            Verb::Interrupt => Command::Interrupt {
                session: self.id("session")?,
                cancel_queued: self.flag("cancel_queued")?.unwrap_or(false),
            },
            Verb::Decide => self.decide()?,
            Verb::Stop => Command::Stop { session: self.id("session")?, now: self.flag("now")?.unwrap_or(false) },
        })
    }

    fn create(&self) -> Result<Command, Error> {
        Ok(Command::Create {
            profile: self.line("profile", NAME_BYTES_MAX)?.ok_or_else(|| bad("`profile` is missing"))?,
            folder: self.line("folder", FOLDER_BYTES_MAX)?.map(|folder| PathBuf::from(&*folder)),
            title: self.words("title", TITLE_BYTES_MAX)?,
            model: self.words("model", NAME_BYTES_MAX)?,
            mode: self.line("mode", NAME_BYTES_MAX)?,
            prompt: self.lines("prompt", NO_BOUND_OF_ITS_OWN)?,
            past: match (self.flag("continue")?.unwrap_or(false), self.get("resume").is_some()) {
                (true, true) => return Err(bad("`continue` and `resume` exclude each other")),
                (true, false) => Past::Newest,
                (false, true) => {
                    let id = self.id("resume")?;
                    Past::Conversation(arguments::is_conversation(&id).then_some(id).ok_or_else(|| {
                        bad("`resume` must be a conversation's id, a UUID like 0b2d3c4e-5f60-4711-8213-141516171819")
                    })?)
                }
                (false, false) => Past::None,
            },
        })
    }

    fn attach(&self) -> Result<Command, Error> {
        let from = self.position("from")?;
        let tail_bytes = match self.fields("tail", "{bytes}")? {
            None => None,
            Some(fields) => fields.number("bytes")?,
        };
        if from.is_some() && tail_bytes.is_some() {
            return Err(bad("`from` and `tail` exclude each other"));
        }
        Ok(Command::Attach { session: self.id("session")?, from, tail_bytes })
    }

    fn position(&self, name: &str) -> Result<Option<Position>, Error> {
        let Some(fields) = self.fields(name, "{epoch, offset}")? else { return Ok(None) };
        let offset = fields.number("offset")?.ok_or_else(|| bad(format!("`{name}.offset` is missing")))?;
        Ok(Some(Position { epoch: fields.id("epoch")?, offset }))
    }

    fn prompt(&self) -> Result<Command, Error> {
        let when = match self.text("when")?.as_deref() {
            None | Some("next") => When::Next,
            Some("now") => When::Now,
            Some(other) => return Err(bad(format!("`when` {} is neither \"next\" nor \"now\"", quoted(other)))),
        };
        if self.get("blocks").is_some() {
            return Err(bad("`blocks` are not served by this relay; send `text`"));
        }
        let text = self.lines("text", NO_BOUND_OF_ITS_OWN)?.ok_or_else(|| bad("`text` is missing"))?;
        Ok(Command::Prompt { session: self.id("session")?, text, when })
    }

    fn decide(&self) -> Result<Command, Error> {
        let decision = match &*self.required("decision")? {
            "allow" => Decision::Allow,
            "deny" => Decision::Deny,
            other => return Err(bad(format!("`decision` {} is neither \"allow\" nor \"deny\"", quoted(other)))),
        };
        if self.get("remember").is_some() {
            return Err(bad("`remember` is not served by this relay"));
        }
        // The model would not be told it.
        if decision == Decision::Allow && self.get("message").is_some() {
            return Err(bad(TOLD_BY_A_DENIAL));
        }
        Ok(Command::Decide {
            session: self.id("session")?,
            request: self.id("request")?,
            decision,
            shown: self.line("shown", HASH_BYTES_MAX)?,
            message: self.lines("message", REASON_BYTES_MAX)?,
            input: self.object("input", NO_BOUND_OF_ITS_OWN)?,
            answers: self.object("answers", ANSWERS_BYTES_MAX)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::bounds::ERROR_BYTES_MAX, *};
    use crate::base::text;

    /// Every role is let in.
    fn any(_: Role) -> Result<(), Error> {
        Ok(())
    }

    fn refused(text: &str) -> (Option<String>, Code) {
        let (re, error) = decode(text, any).expect_err("it should be refused");
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
            (r#"{"type":"ping","x":Infinity,"id":"late"}"#, Some("late"), Code::BadJson),
            (r#"{"type":5,"id":"a"}"#, Some("a"), Code::BadRequest),
            (r#"{"type":"dance","id":"a"}"#, Some("a"), Code::UnknownType),
            (r#"{"type":"prompt","id":"a","session":"s"}"#, Some("a"), Code::BadRequest),
            (r#"{"type":"prompt","id":"a","session":"s","text":5}"#, Some("a"), Code::BadRequest),
            (r#"{"type":"prompt","id":"a","session":"s","text":"x","when":"then"}"#, Some("a"), Code::BadRequest),
            (r#"{"type":"create","id":"a","profile":"p","resume":"nonsense"}"#, Some("a"), Code::BadRequest),
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
    fn an_id_behind_the_fault_is_read_where_it_is_surely_the_messages() {
        for (text, re) in [
            (r#"{"a":[NaN,-Infinity],"b":{"c":+1,"d":.5,"e":0x1F},"f":True,"id":"late"}"#, Some("late")),
            ("{\"text\":\"two\nlines\",\"folder\":\"C:\\dir\",\"id\":\"late\",", Some("late")),
            // Inside of a string, of another value, of a key that cannot be read.
            (r#"{"x":NaN,"text":"\",\"id\":\"no\"","y":1}"#, None),
            (r#"{"x":NaN,"y":{"id":"no"},"z":[{"id":"no"}]}"#, None),
            (r#"{"x":NaN,"\id":"no"}"#, None),
            (r#"{"x":NaN,"id":"\no"}"#, None),
            // A quote too many or too few: it is not known what is a string.
            (r#"{"x":"say "hello", "id":"no"}"#, None),
            (r#"{"x":"say,"y":",","id":"no"}"#, None),
            (r#"{"x":"\","id":"no"}"#, None),
            (r#"{'x':1,"id":"no"}"#, None),
            (r#"{"x":NaN}{"id":"no"}"#, None),
            (r#"[NaN,{"id":"no"}]"#, None),
        ] {
            assert_eq!(refused(text), (re.map(str::to_owned), Code::BadJson), "{text}");
        }
    }

    /// A message of this type with these fields beside those that it needs.
    fn with(kind: &str, fields: &str) -> String {
        format!(r#"{{"type":"{kind}","id":"a","session":"s","request":"r","op":"reload",{fields}}}"#)
    }

    #[test]
    fn every_text_has_a_bound_and_holds_no_control_character() {
        let create = |field: &str, text: &str| match field {
            "profile" => with("create", &format!(r#""profile":"{text}""#)),
            _ => with("create", &format!(r#""profile":"p","{field}":"{text}""#)),
        };
        let deny = |_: &str, text: &str| with("decide", &format!(r#""decision":"deny","message":"{text}""#));
        let prompt = |_: &str, text: &str| with("prompt", &format!(r#""text":"{text}""#));
        type Write<'a> = &'a dyn Fn(&str, &str) -> String;
        // (field, its message, its bound, whether it may have several lines)
        let table: [(&str, Write<'_>, usize, bool); 8] = [
            ("profile", &create, NAME_BYTES_MAX, false),
            ("model", &create, NAME_BYTES_MAX, false),
            ("mode", &create, NAME_BYTES_MAX, false),
            ("title", &create, TITLE_BYTES_MAX, false),
            ("folder", &create, FOLDER_BYTES_MAX, false),
            ("prompt", &create, 1 << 20, true),
            ("text", &prompt, 1 << 20, true),
            ("message", &deny, REASON_BYTES_MAX, true),
        ];
        for (field, write, bytes_max, lines) in table {
            let taken = |text: &str| match decode(&write(field, text), any) {
                Ok(_) => true,
                Err((re, error)) => {
                    assert_eq!((re.as_deref(), error.code), (Some("a"), Code::BadRequest), "{field}");
                    assert!(error.message.contains(&format!("`{field}`")), "{}", error.message);
                    false
                }
            };
            assert!(taken(&"x".repeat(bytes_max)), "{field} of {bytes_max} bytes");
            assert_eq!(taken(""), !["model", "title"].contains(&field), "{field} that is empty");
            // The bound of a prompt is the message's, and then the core's.
            assert!(bytes_max == 1 << 20 || !taken(&"x".repeat(bytes_max + 1)), "{field} above");
            assert_eq!(taken(r"one\n\ttwo\r\n"), lines, "{field}");
            for bad in [r"a\u001b[2J", r"a\u0000", r"a\u009b2J", r"a\u007f", r"a\ud83d"] {
                assert!(!taken(bad), "{field} {bad}");
            }
            for bad in ["a\u{202e}b", "a\u{2028}b"] {
                assert_eq!(taken(bad), lines, "{field} {bad:?}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_what_it_must_be_in_words_of_the_protocol() {
        let sign_in = |fields: &str| format!(r#"{{"type":"sign_in","id":"a",{fields}}}"#);
        let rest = r#""client":"c","key":"k","nonce":"n","authority":"unix","binding":"none","signature":"s""#;
        for (text, says) in [
            (sign_in(&format!(r#"{rest},"device":null"#)), "`device` is missing: an object {name, kind}"),
            (sign_in(&format!(r#"{rest},"device":"laptop""#)), "`device` must be an object {name, kind}"),
            (sign_in(&format!(r#"{rest},"device":{{"name":"a"}}"#)), "`device.kind` is missing"),
            (sign_in(&format!(r#"{rest},"device":{{"name":5,"kind":"k"}}"#)), "`device.name` must be a string"),
            (sign_in(r#""device":{"name":"a","kind":"k"}"#), "`client` is missing"),
            (with("decide", r#""decision":"allow","shown":5"#), "`shown` must be a string"),
            (with("decide", r#""decision":"allow","shown":"\ud83d""#), "`shown` must be a string of whole characters"),
            (with("ping", r#""t":"\ud83d""#), "`t` holds what no reader can be relied on to read"),
            (with("list", r#""follow":1"#), "`follow` must be true or false"),
            (with("decide", r#""decision":"allow","message":"why""#), "`message` goes with a denial"),
        ] {
            let (_, error) = decode(&text, any).expect_err("it should be refused");
            assert!(error.message.starts_with(says), "{says}: {}", error.message);
            assert!(!error.message.contains("struct") && !error.message.contains("column"), "{}", error.message);
        }
        assert_eq!(decode(&with("decide", r#""decision":"allow","shown":5"#), any).unwrap_err().1.message.len(), 24);
    }

    #[test]
    fn a_ping_s_t_comes_back_as_it_was_sent() {
        let deepest = "[".repeat(64) + &"]".repeat(64);
        for t in [
            "123456789012345678901234567890",
            r#"{"b": 1.0, "a":"\u00e9"}"#,
            "-0",
            "null",
            "[1.10, 1E2, -0.0]",
            "\"\\/\"",
            &deepest,
        ] {
            let Ok(Incoming::Ping { t: Some(given), .. }) = decode(&with("ping", &format!(r#""t":{t}"#)), any) else {
                panic!("{t}");
            };
            assert_eq!(given.as_str(), t);
            let pong = crate::dialect::session::encode::pong("a", Some(&given), 5);
            assert_eq!(pong, format!(r#"{{"type":"pong","re":"a","t":{t},"now":5}}"#));
        }
        // What the error names is what is refused.
        for t in [&*format!("[{deepest}]"), r#"["\ud83d"]"#, "1e999"] {
            let (code, message) = match decode(&with("ping", &format!(r#""t":{t}"#)), any) {
                Err((_, error)) => (error.code, error.message),
                Ok(_) => panic!("{t}"),
            };
            assert!(code == Code::BadRequest && message.ends_with("or more than 64 levels"), "{message}");
        }
    }

    #[test]
    fn what_is_passed_on_as_json_has_a_bound() {
        let filler = |bytes: usize| "x".repeat(bytes);
        let answers = |bytes| with("decide", &format!(r#""decision":"allow","answers":{{"q":"{}"}}"#, filler(bytes)));
        assert!(decode(&answers(ANSWERS_BYTES_MAX - 8), any).is_ok());
        assert_eq!(refused(&answers(ANSWERS_BYTES_MAX)).1, Code::BadRequest);
        let ping = |bytes| with("ping", &format!(r#""t":"{}""#, filler(bytes)));
        assert!(decode(&ping(ECHO_BYTES_MAX - 2), any).is_ok());
        assert_eq!(refused(&ping(ECHO_BYTES_MAX)).1, Code::BadRequest);
        // What others could not read is not passed on.
        for input in [r#"["\ud83d"]"#, "5", r#"{"a":"\ud83d"}"#, r#"{"a":1e999}"#, &"[".repeat(200)] {
            let message = with("decide", &format!(r#""decision":"allow","input":{input}"#));
            assert!(decode(&message, any).is_err(), "{input}");
        }
    }

    #[test]
    fn an_error_repeats_no_more_than_a_little_of_what_was_sent() {
        let long = "\u{1b}é".repeat(300_000);
        let quoted = serde_json::to_string(&long).expect("JSON");
        for text in [
            format!(r#"{{"type":{quoted},"id":"a"}}"#),
            with("keys", "").replace(r#""reload","#, &quoted),
            with("prompt", &format!(r#""text":"x","when":{quoted}"#)),
            with("decide", &format!(r#""decision":{quoted}"#)),
            format!(r#"{{"type":"sign_in","id":"a","device":{quoted}}}"#),
            format!(r#"{{"type":"sign_in","id":"a",{quoted}:1,{quoted}:2}}"#),
        ] {
            let (re, error) = decode(&text, any).expect_err("it should be refused");
            assert_eq!(re.as_deref(), Some("a"), "{}", error.message);
            assert!(error.message.len() < ERROR_BYTES_MAX, "{} bytes", error.message.len());
            assert_eq!(text::unfit_for_a_line(&error.message), None, "{}", error.message);
        }
    }

    #[test]
    fn a_field_that_stands_twice_is_refused_and_not_read() {
        for text in [
            with("decide", r#""decision":"deny","decision":"allow""#),
            with("decide", r#""decision":"deny","d\u0065cision":"allow""#),
            with("prompt", r#""text":"x","more":1,"more":2"#),
            with("attach", r#""from":{"epoch":"e","offset":1,"offset":2}"#),
            r#"{"type":"list","id":"a","type":"stop"}"#.to_owned(),
        ] {
            assert_eq!(refused(&text), (Some("a".to_owned()), Code::BadRequest), "{text}");
        }
        let many: String = (0..100).map(|n| format!(r#","f{n}":{n}"#)).collect();
        assert_eq!(refused(&format!(r#"{{"type":"list","id":"a"{many}}}"#)), (Some("a".to_owned()), Code::BadRequest));
    }

    #[test]
    fn the_role_is_asked_before_anything_that_a_command_names_is_read() {
        let verbs = Verb::ALL.into_iter().map(|verb| (verb.name(), verb.needs()));
        for (kind, needed) in verbs.chain([("keys", Role::Admin), ("relay", Role::Admin)]) {
            let refuse = |role: Role| {
                assert_eq!(role, needed, "{kind}");
                Err(Error::new(Code::Forbidden, "no"))
            };
            // None of these fields is what it has to be.
            let text = format!(r#"{{"type":"{kind}","id":"a","session":5,"op":"nope","input":["\ud83d"]}}"#);
            let (re, error) = decode(&text, refuse).expect_err("it may not");
            assert_eq!((re.as_deref(), error.code), (Some("a"), Code::Forbidden));
        }
    }

    #[test]
    fn a_command_is_what_its_verb_says() {
        for verb in Verb::ALL {
            let fields = r#""profile":"p","text":"x","decision":"deny","blob":"b","before":{"epoch":"e","offset":1}"#;
            let Ok(Incoming::Request(request)) = decode(&with(verb.name(), fields), any) else { panic!("{verb:?}") };
            assert_eq!(request.command.verb(), verb);
        }
    }

    #[test]
    fn commands_come_out_whole() {
        let text = r#"{"type":"attach","id":"7","session":"s","from":{"epoch":"e","offset":9},"more":1}"#;
        let Ok(Incoming::Request(request)) = decode(text, any) else { panic!("refused") };
        assert_eq!(&*request.id, "7");
        let from = Some(Position { epoch: "e".into(), offset: 9 });
        assert_eq!(request.command, Command::Attach { session: "s".into(), from, tail_bytes: None });
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = decode(&text, any);
        }

        /// Whatever JSON is, stays as it is.
        #[test]
        fn json_needs_no_stand_ins(text in "\\PC{0,20}", number: f64, flag: bool) {
            let json = serde_json::json!({"a": [number, flag, null, -1], text.clone(): {"b": text}}).to_string();
            prop_assert_eq!(with_stand_ins(&json), json);
        }
    }
}
