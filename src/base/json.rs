//! JSON that passes through unread.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Serialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

/// Deepest nesting of arrays and objects in a value that was made [`sound`](Json::sound). Readers that bound the depth
/// at all stand at 100 levels or more, and a message adds a few of its own.
pub const DEPTH_MAX: usize = 64;
/// How keys begin that serde_json, a reader that many programs have, takes for its own where another part of a program
/// asks for that: the value is then read as something else.
const PRIVATE_KEY: &str = "$serde_json::private::";
/// Characters of a number that are quoted where it is out of range.
const NUMBER_CHARS_MAX: usize = 32;

/// One JSON value as text, known to be valid, carried without being understood. Cloning shares the text.
#[derive(Clone, Debug)]
pub struct Json(Arc<RawValue>);

/// A value that any reader can read, and whether something of it had to be left out for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// The value.
    pub json: Json,
    /// It was nested deeper than [`DEPTH_MAX`]: marks stand where the rest was.
    pub is_cut: bool,
}

impl Json {
    /// Takes the text of exactly one JSON value.
    ///
    /// # Errors
    /// The text is not one JSON value.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<Box<RawValue>>(text).map(|raw| Self(raw.into()))
    }

    /// Takes the text of one JSON value and makes it such that every reader reads it: half a surrogate pair becomes
    /// U+FFFD, a number that no IEEE double holds becomes a text that names it, a key that one reader takes for its own
    /// is marked, and what is nested deeper than [`DEPTH_MAX`] is cut with a mark. The grammar allows all four (RFC 8259
    /// sections 4, 6, 8.2 and 9), and readers fail at them, each in its own way. An integer that a double would round is
    /// such a number: some readers keep its digits, and the hash of a permission request (RFC 8785) does not.
    ///
    /// # Errors
    /// The text is not one JSON value.
    pub fn sound(text: &str) -> Result<Sound, serde_json::Error> {
        let raw = Self::parse(text)?;
        let (sound, is_cut) = Repair::of(raw.as_str());
        let json = match sound {
            Cow::Borrowed(_) => raw,
            Cow::Owned(text) => Self::parse(&text)?,
        };
        Ok(Sound { json, is_cut })
    }

    /// The same value, written anew: of a repeated key the last value (RFC 8259 section 4 leaves it open, and most
    /// readers do so), numbers in one form, no white space. Two readers of this text cannot differ on what it says.
    ///
    /// # Errors
    /// The value is not [`sound`](Self::sound).
    pub fn plain(&self) -> Result<Self, serde_json::Error> {
        Self::of(&self.value()?)
    }

    /// Reads it, whatever it is. Unlike [`read`](Self::read) of a [`Value`] this takes every key for a key, see
    /// [`sound`](Self::sound).
    ///
    /// # Errors
    /// The value is not sound.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        self.read::<AnyKeys>().map(|AnyKeys(value)| value)
    }

    /// Writes a value as JSON text.
    ///
    /// # Errors
    /// The value has no JSON form (a map with keys that are not strings).
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(|raw| Self(raw.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Reads it as a value.
    ///
    /// # Errors
    /// It has another shape.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }
}

/// Why a value is refused that is not [`sound`](Json::sound): follows its name.
pub fn unsound() -> String {
    format!(
        "holds what no reader can be relied on to read: half a surrogate pair, a number out of range, a key that begins \
         with `{PRIVATE_KEY}`, or more than {DEPTH_MAX} levels"
    )
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl std::hash::Hash for Json {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
    }
}

/// A value with nothing but ordinary keys.
struct AnyKeys(Value);

impl<'de> Deserialize<'de> for AnyKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyKeysVisitor).map(Self)
    }
}

struct AnyKeysVisitor;

impl<'de> Visitor<'de> for AnyKeysVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(AnyKeys(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, AnyKeys(value))) = fields.next_entry::<String, _>()? {
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

/// One pass over the text of a valid JSON value. Copies only from the first repair on, and keeps no stack.
struct Repair<'a> {
    text: &'a str,
    out: String,
    /// The text up to here is in `out`, or needs no repair.
    kept: usize,
    is_cut: bool,
}

impl<'a> Repair<'a> {
    fn of(text: &'a str) -> (Cow<'a, str>, bool) {
        let mut repair = Self { text, out: String::new(), kept: 0, is_cut: false };
        repair.run();
        if repair.kept == 0 {
            return (Cow::Borrowed(text), false);
        }
        repair.out.push_str(&text[repair.kept..]);
        (Cow::Owned(repair.out), repair.is_cut)
    }

    fn run(&mut self) {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (0, 0);
        while at < bytes.len() {
            at = match bytes[at] {
                b'"' => self.string(at),
                b'[' | b'{' if depth == DEPTH_MAX => self.cut(at),
                b'[' | b'{' => {
                    depth += 1;
                    at + 1
                }
                b']' | b'}' => {
                    depth -= 1;
                    at + 1
                }
                b'-' | b'0'..=b'9' => self.number(at),
                _ => at + 1,
            };
        }
    }

    fn replace(&mut self, from: usize, to: usize, with: &str) {
        self.out.push_str(&self.text[self.kept..from]);
        self.out.push_str(with);
        self.kept = to;
    }

    /// The string that begins at `start`; gives where it ends.
    fn string(&mut self, start: usize) -> usize {
        if let Some((end, key)) = self.private_key(start) {
            let key = Value::String(format!("[a key that readers take for their own: {key}]"));
            self.replace(start, end, &key.to_string());
            return end;
        }
        self.units(start)
    }

    /// Replaces half surrogate pairs of the string that begins at `start`; gives where it ends.
    fn units(&mut self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = start + 1;
        while bytes[at] != b'"' {
            at = match (bytes[at], bytes[at + 1]) {
                (b'\\', b'u') => match (self.unit(at), self.unit(at + 6)) {
                    (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at + 12,
                    (Some(0xd800..=0xdfff), _) => {
                        self.replace(at, at + 6, "\\ufffd");
                        at + 6
                    }
                    _ => at + 6,
                },
                (b'\\', _) => at + 2,
                _ => at + 1,
            };
        }
        at + 1
    }

    /// Where the string that begins at `start` ends, and the text, if it is a key that begins like [`PRIVATE_KEY`].
    fn private_key(&self, start: usize) -> Option<(usize, String)> {
        let bytes = self.text.as_bytes();
        // Nearly all others end here.
        if !matches!(bytes[start + 1], b'$' | b'\\') {
            return None;
        }
        let end = after_string(bytes, start);
        if !self.text[end..].trim_start().starts_with(':') {
            return None;
        }
        // Half a surrogate pair may stand behind the beginning.
        let fair = Self::fair(&self.text[start..end]);
        fair.starts_with(PRIVATE_KEY).then_some((end, fair))
    }

    /// What a string literal says, half surrogate pairs replaced.
    fn fair(literal: &str) -> String {
        let mut repair = Repair { text: literal, out: String::new(), kept: 0, is_cut: false };
        repair.units(0);
        repair.out.push_str(&literal[repair.kept..]);
        serde_json::from_str(&repair.out).unwrap_or_default()
    }

    /// The code unit of the escape `\uXXXX` at `at`, if one stands there.
    fn unit(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    }

    /// The number that begins at `start`; gives where it ends.
    fn number(&mut self, start: usize) -> usize {
        let rest = &self.text[start..];
        let is_of_it = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.bytes().position(|byte| !is_of_it(byte)).unwrap_or(rest.len());
        let number = &rest[..length];
        if is_held(number) {
            return start + length;
        }
        let more = if length > NUMBER_CHARS_MAX { ".." } else { "" };
        let shown = &number[..length.min(NUMBER_CHARS_MAX)];
        self.replace(start, start + length, &format!("\"[number out of range: {shown}{more}]\""));
        start + length
    }

    /// The array or object that begins at `start` is nested too deep: leaves it out and gives where it ends.
    fn cut(&mut self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (start, 0);
        loop {
            match bytes[at] {
                b'"' => at = after_string(bytes, at) - 1,
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
        self.replace(start, at, &format!("\"[nested deeper than {DEPTH_MAX} levels: cut]\""));
        self.is_cut = true;
        at
    }
}

/// Where the string ends that begins at `start`.
fn after_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Whether all readers find the same in a number: those that keep integers whole, and those that have doubles only. An
/// integer has to stand in the digits in which its double is written; of other numbers all readers take the nearest double.
fn is_held(number: &str) -> bool {
    /// As many digits fit in every double.
    const DIGITS_EXACT: usize = 15;
    let Ok(double) = number.parse::<f64>() else { return false };
    let is_integer = !number.contains(['.', 'e', 'E']);
    double.is_finite() && (!is_integer || number.len() <= DIGITS_EXACT || format!("{double}") == number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sound(text: &str) -> String {
        Json::sound(text).expect("JSON").json.as_str().to_owned()
    }

    fn nested(depth: usize, inner: &str) -> String {
        format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn what_a_reader_may_fail_at_is_replaced_visibly() {
        for (text, want) in [
            (r#"{"a":"cut \ud83d"}"#, r#"{"a":"cut \ufffd"}"#),
            (r#"["\udc00\ud83d\ude00\ud83d\n","\\ud83d"]"#, r#"["\ufffd\ud83d\ude00\ufffd\n","\\ud83d"]"#),
            (r#"{"\uD800":1}"#, r#"{"\ufffd":1}"#),
            ("[1e999,-1E400,1e-999]", r#"["[number out of range: 1e999]","[number out of range: -1E400]",1e-999]"#),
            (r#"{"plain": [1.50, "x", null]}"#, r#"{"plain": [1.50, "x", null]}"#),
        ] {
            assert_eq!(sound(text), want, "{text}");
        }
        // 2^53 and one more, which a double rounds; what JavaScript writes for 2^64, and 2^64 itself.
        for held in ["9007199254740992", "-9007199254740992", "18446744073709552000", "0.1000000000000000055", "-0"] {
            assert_eq!(sound(held), held);
        }
        for rounded in ["9007199254740993", "-9007199254740993", "18446744073709551616", "12345678901234567890123"] {
            assert_eq!(sound(rounded), format!("\"[number out of range: {rounded}]\""));
        }
        let own = |key: &str| format!("[a key that readers take for their own: {key}]");
        let raw = "$serde_json::private::RawValue";
        for (text, want) in [
            (format!(r#"{{"{raw}":"{{\"a\":1}}"}}"#), format!(r#"{{"{}":"{{\"a\":1}}"}}"#, own(raw))),
            (format!(r#"{{"\u0024{}" : 1}}"#, &raw[1..]), format!(r#"{{"{}" : 1}}"#, own(raw))),
            (
                format!(r#"{{"{PRIVATE_KEY}\ud800":1}}"#),
                format!(r#"{{"{}":1}}"#, own(&format!("{PRIVATE_KEY}\u{fffd}"))),
            ),
            (format!(r#"["{raw}"]"#), format!(r#"["{raw}"]"#)),
            (r#"{"$schema":1,"\n":"$"}"#.into(), r#"{"$schema":1,"\n":"$"}"#.into()),
        ] {
            assert_eq!(sound(&text), want, "{text}");
        }
        let huge = format!("9{}", "0".repeat(400));
        assert_eq!(sound(&huge), format!("\"[number out of range: 9{}..]\"", "0".repeat(31)));
        // As much as is shown is not said to go on.
        let long = "9".repeat(NUMBER_CHARS_MAX);
        assert_eq!(sound(&long), format!("\"[number out of range: {long}]\""));
    }

    #[test]
    fn depth_is_cut_at_its_bound_and_said() {
        let whole = Json::sound(&nested(DEPTH_MAX, "7")).expect("JSON");
        assert!(!whole.is_cut && whole.json.as_str().contains('7'));
        let deep = Json::sound(&format!("{{\"a\":{},\"b\":1}}", nested(200, "\"]\\\"\""))).expect("JSON");
        assert!(deep.is_cut);
        let value: Value = deep.json.read().expect("readable");
        assert_eq!(value["b"], 1);
        assert!(deep.json.as_str().contains("nested deeper than 64 levels"));
    }

    #[test]
    fn a_plain_value_has_one_reading() {
        let json = Json::parse(r#"{"b": 1.0e2, "a": "x", "b": 12345678901234567890}"#).expect("JSON");
        assert_eq!(json.plain().expect("sound").as_str(), r#"{"b":12345678901234567890,"a":"x"}"#);
    }

    #[test]
    fn a_key_that_serde_json_takes_for_its_own_is_a_key() {
        let mut text = "1".to_owned();
        for _ in 0..9 {
            let inner = serde_json::to_string(&text).expect("a text");
            text = nested(60, &format!("{{\"$serde_json::private::RawValue\":{inner}}}"));
        }
        let json = Json::parse(&text).expect("JSON");
        let mut value = &json.value().expect("60 levels and one");
        for _ in 0..60 {
            value = &value[0];
        }
        assert!(value["$serde_json::private::RawValue"].is_string());
        assert_eq!(json.plain().expect("readable").as_str(), text);
    }

    proptest! {
        /// A reader that knows no private keys finds the same.
        #[test]
        fn a_value_is_read_as_others_read_it(text in r#"[\[\]{}:,"a0-9. eE-]{0,12}"#) {
            let expected = serde_json::from_str::<Value>(&text).ok();
            prop_assert_eq!(Json::parse(&text).ok().and_then(|json| json.value().ok()), expected);
        }

        /// Whatever the grammar allows can be read afterwards, and what could be read before is not touched.
        #[test]
        fn a_sound_value_can_be_read(
            pieces in prop::collection::vec(
                prop_oneof![
                    Just("\"\\ud83d\"".to_owned()), Just("\"\\\\\\udc00x\"".to_owned()), Just("1e400".to_owned()),
                    Just("{\"$serde_json::private::RawValue\":\"[[7]]\"}".to_owned()),
                    Just("-0.0".to_owned()), Just("{\"k\\ud800\":[{}]}".to_owned()), any::<f64>()
                        .prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:?}")),
                    ".*".prop_map(|text| serde_json::to_string(&text).expect("a text")),
                ],
                0..8,
            ),
            depth in 0usize..150,
        ) {
            let text = nested(depth, &format!("[{}]", pieces.join(" , ")));
            let made = Json::sound(&text)?;
            prop_assert!(made.json.read::<Value>().is_ok(), "{}", made.json.as_str());
            // The pieces are nested by three at the most.
            prop_assert!(made.is_cut || depth < DEPTH_MAX);
            prop_assert!(!made.is_cut || depth + 4 > DEPTH_MAX);
            // A mark stands where a reader would have found something else.
            let is_private = text.contains(PRIVATE_KEY);
            if serde_json::from_str::<Value>(&text).is_ok() && !made.is_cut && !is_private {
                prop_assert_eq!(made.json.as_str(), text);
            }
        }
    }
}
