//! Typed access to the fields of a JSON object. A field is read when it is asked for, and the others never are: what a
//! message holds beside costs no more than finding its end.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::bounds::{self, FIELDS_MAX, ID_CHARS_MAX};
use crate::{
    base::{DEPTH_MAX, Json, Sound, text, unsound},
    relay::api::{Code, Error, Text},
    wire::sign_in::is_id,
};

/// The fields of one object, unread.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
    fault: Option<Fault<'a>>,
}

/// Why an object is no message, whatever its fields say.
#[derive(Debug)]
enum Fault<'a> {
    TooMany,
    Twice(Cow<'a, str>),
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut found = Fields::default();
                while let Some((Key(key), value)) = map.next_entry::<_, &RawValue>()? {
                    // The first ones are kept after a fault too: the answer names the command.
                    if found.fields.len() == FIELDS_MAX {
                        found.fault.get_or_insert(Fault::TooMany);
                    } else if found.fields.iter().any(|(known, _)| *known == key) {
                        found.fault.get_or_insert(Fault::Twice(key));
                    } else {
                        found.fields.push((key, value));
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn bad(message: String) -> Error {
    Error::new(Code::BadRequest, message)
}

fn unreadable(name: &str) -> Error {
    bad(format!("`{name}` {}", unsound()))
}

/// A `null` counts as an absent field, except where the field is given back.
impl<'a> Fields<'a> {
    /// Whether each field stands there once, and there are not too many.
    ///
    /// # Errors
    /// `BAD_REQUEST`.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.fault {
            None => Ok(()),
            Some(Fault::TooMany) => Err(bad(format!("a message has at most {FIELDS_MAX} fields"))),
            Some(Fault::Twice(field)) => Err(bad(format!("the field {} stands there twice", text::quoted(field)))),
        }
    }

    /// The value of a field, unread.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.as_sent(name).filter(|value| value.get() != "null")
    }

    /// The same, also where it is `null`.
    fn as_sent(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| *value)
    }

    /// Reads a field as a type.
    fn read<T: DeserializeOwned>(&self, name: &str, what: &str) -> Result<Option<T>, Error> {
        let read =
            |value: &RawValue| serde_json::from_str(value.get()).map_err(|_| bad(format!("`{name}` must be {what}")));
        self.get(name).map(read).transpose()
    }

    /// A field that is a text, whatever it holds.
    pub(super) fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Error> {
        let read = |value: &'a RawValue| serde_json::from_str::<Key<'a>>(value.get());
        match self.get(name).map(|value| read(value).map_err(|_| value)).transpose() {
            Ok(text) => Ok(text.map(|Key(text)| text)),
            Err(value) if value.get().starts_with('"') => {
                Err(bad(format!("`{name}` must be a string of whole characters: it holds half a surrogate pair")))
            }
            Err(_) => Err(bad(format!("`{name}` must be a string"))),
        }
    }

    /// A field that has to be there.
    pub(super) fn required(&self, name: &str) -> Result<Cow<'a, str>, Error> {
        self.text(name)?.ok_or_else(|| bad(format!("`{name}` is missing")))
    }

    /// A text of one line.
    pub(super) fn line(&self, name: &str, bytes_max: usize) -> Result<Option<Text>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        bounds::line(name, &text, bytes_max)?;
        Ok(Some(text.into()))
    }

    /// A text of one line that is not empty.
    pub(super) fn words(&self, name: &str, bytes_max: usize) -> Result<Option<Text>, Error> {
        match self.line(name, bytes_max)? {
            Some(text) if text.is_empty() => Err(bad(format!("`{name}` is empty; leave it out for the default"))),
            text => Ok(text),
        }
    }

    /// A text of several lines.
    pub(super) fn lines(&self, name: &str, bytes_max: usize) -> Result<Option<Text>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        bounds::lines(name, &text, bytes_max)?;
        Ok(Some(text.into()))
    }

    /// An id that has to be there.
    pub(super) fn id(&self, name: &str) -> Result<Text, Error> {
        let text = self.required(name)?;
        if !is_id(&text) {
            return Err(bad(format!("`{name}` must be 1 to {ID_CHARS_MAX} characters of A-Z a-z 0-9 . _ : -")));
        }
        Ok(text.into())
    }

    /// A field that is true or false.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        self.read(name, "true or false")
    }

    /// A field that is a count.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        self.read(name, "a whole number from 0")
    }

    /// A field that is an object, to be read field by field.
    pub(super) fn fields(&self, name: &str, what: &str) -> Result<Option<Fields<'a>>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let fields: Fields<'a> =
            serde_json::from_str(value.get()).map_err(|_| bad(format!("`{name}` must be {what}")))?;
        fields.check()?;
        Ok(Some(fields))
    }

    /// A field that is any JSON value, to be passed on. Its bytes are those of what is passed on, however it was escaped.
    pub(super) fn json(&self, name: &str, bytes_max: usize) -> Result<Option<Json>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // Read once: what is passed on has to be readable to others, so its nesting, numbers and texts are looked at.
        let json = Json::parse(value.get()).and_then(|json| json.plain()).map_err(|_| unreadable(name))?;
        bounds::length(name, json.as_str().len(), bytes_max)?;
        Ok(Some(json))
    }

    /// A field that is any JSON value, to be given back as it came, `null` too.
    pub(super) fn echo(&self, name: &str, bytes_max: usize) -> Result<Option<Json>, Error> {
        let sent = self.as_sent(name);
        if let Some(value) = sent {
            bounds::length(name, value.get().len(), bytes_max)?;
        }
        // Also what is given back has to be readable.
        let same = |value: &RawValue| match (Json::sound(value.get()), Json::parse(value.get())) {
            (Ok(Sound { is_cut: false, .. }), Ok(json)) if json.value().is_ok() => Ok(json),
            _ => Err(bad(format!(
                "`{name}` holds what no reader can be relied on to read: half a surrogate pair, a number out of range, or \
                 more than {DEPTH_MAX} levels"
            ))),
        };
        sent.map(same).transpose()
    }

    /// A field that is an object, to be passed on.
    pub(super) fn object(&self, name: &str, bytes_max: usize) -> Result<Option<Json>, Error> {
        if self.get(name).is_some_and(|value| !value.get().starts_with('{')) {
            return Err(bad(format!("`{name}` must be an object")));
        }
        self.json(name, bytes_max)
    }
}
