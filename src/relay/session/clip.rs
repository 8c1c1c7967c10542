//! Cuts what is too long for an event, and says so in its place.

use crate::{
    base::Json,
    relay::api::{Event, Kind, Text},
    store::Record,
};

/// The longest text of an event in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;
/// The longest JSON value of an event in bytes.
pub(super) const JSON_BYTES_MAX: usize = 256 << 10;
/// How much of a tool's answer an event shows, in bytes.
pub(super) const PREVIEW_BYTES_MAX: usize = 4 << 10;

/// The longest prefix of at most `bytes` bytes that ends between characters.
pub(super) fn prefix(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The text, cut to `bytes` with a mark at its end if it is longer.
pub(super) fn text(text: Text, bytes: usize) -> Text {
    if text.len() <= bytes {
        return text;
    }
    format!("{}\n[cut: {} bytes in all]", prefix(&text, bytes), text.len()).into()
}

/// The value, or an object in its place that says how long it is and how it begins.
pub(super) fn json(value: Json) -> Json {
    let (bytes, head) = (value.as_str().len(), prefix(value.as_str(), PREVIEW_BYTES_MAX));
    if bytes <= JSON_BYTES_MAX {
        return value;
    }
    let marker = serde_json::json!({ "truncated": true, "bytes": bytes, "head": head });
    // An object with text keys always has a JSON form.
    Json::of(&marker).unwrap_or(value)
}

/// What an event counts for beside its texts: its place in the log, shared text, positions.
const EVENT_BYTES: usize = 256;

impl Record for Event {
    fn size(&self) -> usize {
        let len = |json: &Option<Json>| json.as_ref().map_or(0, |json| json.as_str().len());
        let payload = match &self.kind {
            Kind::Prompt { text, .. } | Kind::Text { text, .. } | Kind::Notice { text, .. } => text.len(),
            Kind::ToolCall { input, .. } => input.as_str().len(),
            Kind::ToolResult { preview, .. } => preview.len(),
            Kind::Permission(open) => {
                open.input.as_str().len() + open.about.len() + len(&open.suggestions) + len(&open.questions)
            }
            Kind::Turn { usage, .. } => len(usage),
            Kind::Raw { line } => line.as_str().len(),
            Kind::State { why, .. } | Kind::PromptState { why, .. } => why.as_ref().map_or(0, |why| why.len()),
            Kind::Retry { error, .. } => error.len(),
            Kind::Decision { .. } | Kind::PermissionClosed { .. } | Kind::Settings { .. } => 0,
        };
        EVENT_BYTES + payload
    }
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
