//! Cuts what is too long for an event, and says so in its place.

use crate::{
    base::Json,
    relay::api::{Text, bulk},
};

/// The longest text of an event, in bytes as JSON writes it: a message holds it with all that stands beside it.
pub(super) const TEXT_BYTES_MAX: usize = 768 << 10;
/// The longest JSON value of an event in bytes.
pub(super) const JSON_BYTES_MAX: usize = 256 << 10;
/// How much of a tool's answer an event shows, in bytes.
pub(super) const PREVIEW_BYTES_MAX: usize = 4 << 10;

/// The longest prefix of at most `bytes` bytes that ends between characters.
pub(super) fn prefix(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// How the mark of a cut begins and ends: a line of its own, with the bytes of the whole text in between.
const MARK: (&str, &str) = ("[cut: ", " bytes in all]");

/// The beginning of a text of so many bytes, with the mark that says that it is not all of it.
pub fn cut(beginning: &str, bytes: usize) -> String {
    let (begin, end) = MARK;
    format!("{beginning}\n{begin}{bytes}{end}")
}

/// Whether a text ends with the mark of [`cut`]; a text that was written with such an end reads the same.
pub fn is_cut(text: &str) -> bool {
    let (begin, end) = MARK;
    let last = text.lines().next_back().unwrap_or_default();
    last.strip_prefix(begin).is_some_and(|rest| rest.ends_with(end))
}

/// The text, cut to `bytes` with a mark at its end if it is longer.
pub(super) fn text(text: Text, bytes: usize) -> Text {
    if text.len() <= bytes {
        return text;
    }
    cut(prefix(&text, bytes), text.len()).into()
}

/// The text of an event, cut with a mark at its end where no message could hold it.
pub(super) fn said(text: Text) -> Text {
    within(text, TEXT_BYTES_MAX)
}

/// The text, cut with a mark at its end if it takes more than `bytes` in a message; nothing but the mark goes beyond.
pub(super) fn within(text: Text, bytes: usize) -> Text {
    // No text takes less than its own length, so the longest ones are not read for this.
    if text.len() <= bytes && bulk::text(&text) <= bytes {
        return text;
    }
    cut(bulk::prefix(&text, bytes), text.len()).into()
}

/// The value, or an object in its place that says how long it is and how it begins.
pub(super) fn json(value: Json) -> Json {
    if value.as_str().len() <= JSON_BYTES_MAX { value } else { shortened(value, PREVIEW_BYTES_MAX) }
}

/// An object in the value's place that says how long it is, and nothing of it.
pub(super) fn left_out(value: Json) -> Json {
    shortened(value, 0)
}

fn shortened(value: Json, bytes: usize) -> Json {
    let head = prefix(value.as_str(), bytes);
    let marker = serde_json::json!({ "truncated": true, "bytes": value.as_str().len(), "head": head });
    // An object with text keys always has a JSON form.
    Json::of(&marker).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_between_characters_and_says_so() {
        assert_eq!(prefix("añb", 2), "a");
        assert_eq!(prefix("añb", 3), "añ");
        assert_eq!(prefix("añb", 9), "añb");
        assert_eq!(&*text("short".into(), 5), "short");
        assert_eq!(&*text("longer".into(), 4), "long\n[cut: 6 bytes in all]");
    }

    #[test]
    fn what_was_cut_is_known_by_its_mark() {
        for beginning in ["", "long", "lo\nng\n"] {
            assert!(is_cut(&cut(beginning, 9_000)), "{beginning:?}");
        }
        for whole in ["", "long", "[cut: 6 bytes in all]\nlong", "[cut: by hand]", "not [cut: 6 bytes in all]"] {
            assert!(!is_cut(whole), "{whole:?}");
        }
    }

    #[test]
    fn what_counts_of_an_event_s_text_is_what_it_takes_in_a_message() {
        for (one, fit) in [("x", TEXT_BYTES_MAX), ("\"", TEXT_BYTES_MAX / 2), ("\u{1}", TEXT_BYTES_MAX / 6)] {
            let whole: Text = one.repeat(fit).into();
            assert_eq!(said(whole.clone()), whole, "{one:?}");
            let cut = said(one.repeat(fit + 1).into());
            assert_eq!(*cut, format!("{whole}\n[cut: {} bytes in all]", fit + 1), "{one:?}");
        }
    }

    #[test]
    fn a_long_value_becomes_a_marker() {
        let long = Json::of(&"x".repeat(JSON_BYTES_MAX)).unwrap();
        let marker: serde_json::Value = json(long.clone()).read().unwrap();
        assert_eq!(marker["truncated"], true);
        assert_eq!(marker["bytes"], long.as_str().len());
        assert_eq!(marker["head"].as_str().unwrap().len(), PREVIEW_BYTES_MAX);
        let short = Json::of(&"x").unwrap();
        assert_eq!(json(short.clone()), short);
    }
}
