//! A JSON object as its keys and the unread text of its values, borrowed from the line. A field of an unexpected
//! type reads as absent, so that a new release of the CLI costs one field and not the line.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::base::{Json, Sound, text::line};

/// The longest label in bytes.
pub(super) const LABEL_BYTES_MAX: usize = 256;

/// The fields of one object, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A text with half a surrogate pair in it, which the CLI writes where it cuts a text in the middle of a character: no
/// Rust text can hold that half, so U+FFFD stands in its place.
struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
                let mut text = String::with_capacity(bytes.len());
                for chunk in bytes.utf8_chunks() {
                    text.push_str(chunk.valid());
                    // Half a pair is three bytes, each of them invalid, and only its first one can be this.
                    if chunk.invalid().first() == Some(&0xED) {
                        text.push('\u{fffd}');
                    }
                }
                Ok(text)
            }
        }
        deserializer.deserialize_bytes(Bytes).map(Lossy)
    }
}

/// A value that is a text.
fn text<'a>(raw: &'a RawValue) -> Option<Cow<'a, str>> {
    match serde_json::from_str::<Key<'a>>(raw.get()) {
        Ok(text) => Some(text.0),
        Err(_) => serde_json::from_str::<Lossy>(raw.get()).ok().map(|text| Cow::Owned(text.0)),
    }
}

impl<'a> Fields<'a> {
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The value of a key; of a repeated key the last one, as the CLI's own parser reads it.
    pub(super) fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rfind(|(name, _)| name == key).map(|(_, value)| *value)
    }

    fn read<T: Deserialize<'a>>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.raw(key)?.get()).ok()
    }

    pub(super) fn str(&self, key: &str) -> Option<Cow<'a, str>> {
        text(self.raw(key)?)
    }

    /// A text that is neither absent, null nor empty.
    pub(super) fn text(&self, key: &str) -> Option<Arc<str>> {
        self.str(key).filter(|text| !text.is_empty()).map(Arc::from)
    }

    /// A name, a mode, an id that is only shown and compared: one line of at most [`LABEL_BYTES_MAX`].
    pub(super) fn label(&self, key: &str) -> Option<Arc<str>> {
        self.text(key).map(|text| match line(&text, LABEL_BYTES_MAX) {
            Cow::Borrowed(_) => text.clone(),
            Cow::Owned(line) => line.into(),
        })
    }

    pub(super) fn is(&self, key: &str, value: &str) -> bool {
        self.str(key).is_some_and(|text| text == value)
    }

    pub(super) fn fields(&self, key: &str) -> Option<Self> {
        self.read(key)
    }

    pub(super) fn list(&self, key: &str) -> Option<Vec<&'a RawValue>> {
        self.read(key)
    }

    /// The texts of a list; other elements are left out.
    pub(super) fn texts(&self, key: &str) -> Vec<Arc<str>> {
        let list = self.list(key).unwrap_or_default();
        list.into_iter().filter_map(text).map(Arc::from).collect()
    }

    pub(super) fn truth(&self, key: &str) -> bool {
        self.read(key).unwrap_or(false)
    }

    /// A flag that asks for care: a value of another type sets it too.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|raw| !matches!(raw.get(), "false" | "null"))
    }

    /// A number of any form as a count; negative ones are 0, fractions are cut off.
    pub(super) fn count(&self, key: &str) -> Option<u64> {
        self.read(key).or_else(|| self.float(key).map(|number| number as u64))
    }

    pub(super) fn float(&self, key: &str) -> Option<f64> {
        self.read(key)
    }

    /// The value such that any reader can read it; `null` counts as absent.
    pub(super) fn sound(&self, key: &str) -> Option<Sound> {
        Json::sound(self.raw(key)?.get()).ok().filter(|sound| sound.json.as_str() != "null")
    }

    pub(super) fn json(&self, key: &str) -> Option<Json> {
        self.sound(key).map(|sound| sound.json)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::with_capacity(16);
                while let Some((Key(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object).map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_another_type_reads_as_absent() {
        let fields = Fields::parse(br#"{"a":5,"b":"te\"xt","c":{"d":null},"e":[1,"x"],"f":617.8,"b\u0061":true}"#);
        let fields = fields.expect("an object");
        assert_eq!(fields.str("a"), None);
        assert_eq!(fields.str("b").as_deref(), Some("te\"xt"));
        assert!(fields.truth("ba") && !fields.truth("a"));
        let care = Fields::parse(br#"{"a":"yes","b":1,"c":true,"d":false,"e":null}"#).expect("an object");
        assert_eq!(
            ["a", "b", "c", "d", "e", "f"].map(|name| care.is_set(name)),
            [true, true, true, false, false, false]
        );
        assert_eq!(fields.fields("c").map(|inner| inner.json("d").is_none()), Some(true));
        assert!(fields.fields("a").is_none() && fields.list("c").is_none());
        assert_eq!(fields.texts("e"), [Arc::from("x")]);
        assert_eq!((fields.count("a"), fields.count("f"), fields.count("b")), (Some(5), Some(617), None));
    }

    #[test]
    fn half_a_character_costs_itself_and_not_the_text() {
        let fields = Fields::parse(
            br#"{"a":"cut \ud83d","b":"\udc00 on","c":"\ud83d\ude00","d":[1],"e":"\ud83d\ud83d-\udc00"}"#,
        )
        .expect("an object");
        let text = |key| fields.str(key).map(|text| text.replace('\u{fffd}', "?"));
        assert_eq!(text("a").as_deref(), Some("cut ?"));
        assert_eq!(text("b").as_deref(), Some("? on"));
        assert_eq!(text("c").as_deref(), Some("\u{1f600}"));
        assert_eq!(text("d"), None);
        assert_eq!(text("e").as_deref(), Some("??-?"), "one for each");
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for text in ["", "[]", "5", "null", "{", "{\"a\":}", "{} x", "\u{feff}{}"] {
            assert!(Fields::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Fields::parse(b"{\"a\":\"\xff\"}").is_none());
    }

    #[test]
    fn a_label_is_a_line_within_its_bound() {
        let long = format!(r#"{{"a":"{}","b":"two\nlines\u001b[2J","c":"Bash","d":""}}"#, "x".repeat(900_000));
        let fields = Fields::parse(long.as_bytes()).expect("an object");
        let label = fields.label("a").expect("a label");
        assert!(label.len() <= LABEL_BYTES_MAX && label.ends_with('…'));
        assert_eq!(fields.label("b").as_deref(), Some("two lines\u{fffd}[2J"));
        assert_eq!((fields.label("c").as_deref(), fields.label("d")), (Some("Bash"), None));
    }
}
