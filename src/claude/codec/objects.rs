//! The JSON objects of a line that is not simply one: bytes that are no UTF-8 in it, a byte order mark, several objects
//! one behind the other. Whatever else stands there is given back, so that it can be said.

use std::borrow::Cow;

use serde_json::value::RawValue;

const BOM: char = '\u{feff}';

/// The line as text: U+FFFD stands for what is no UTF-8, byte order marks at its ends are no part of it.
pub(super) fn text(line: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(line) {
        Cow::Borrowed(text) => Cow::Borrowed(trim(text)),
        Cow::Owned(text) => Cow::Owned(trim(&text).to_owned()),
    }
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c == BOM || c.is_ascii_whitespace())
}

/// One after the other what the text holds: an object's text, or what is none.
pub(super) fn each<'a>(text: &'a str, on: &mut dyn FnMut(Result<&'a str, &'a str>)) {
    let mut rest = trim(text);
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
        let Some(Ok(value)) = values.next() else { return on(Err(rest)) };
        let value = value.get();
        on(if value.starts_with('{') { Ok(value) } else { Err(value) });
        rest = trim(&rest[values.byte_offset()..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(line: &[u8]) -> Vec<Result<String, String>> {
        let mut found = Vec::new();
        each(&text(line), &mut |part| found.push(part.map(str::to_owned).map_err(str::to_owned)));
        found
    }

    #[test]
    fn objects_are_found_and_the_rest_is_kept() {
        let is = |line: &[u8], want: &[Result<&str, &str>]| {
            let want: Vec<_> = want.iter().map(|part| part.map(str::to_owned).map_err(str::to_owned)).collect();
            assert_eq!(found(line), want, "{}", line.escape_ascii());
        };
        is(b"\xef\xbb\xbf{\"a\":1}", &[Ok("{\"a\":1}")]);
        is(b"{\"a\":\"caf\xe9\"}", &[Ok("{\"a\":\"caf\u{fffd}\"}")]);
        is(b"{\"a\":1}{\"b\":\"}{\"} {}", &[Ok("{\"a\":1}"), Ok("{\"b\":\"}{\"}"), Ok("{}")]);
        is(b"{\"a\":1}[2] 3", &[Ok("{\"a\":1}"), Err("[2]"), Err("3")]);
        is(b"{\"a\":1} {\"b\":", &[Ok("{\"a\":1}"), Err("{\"b\":")]);
        is(b"\0{}", &[Err("\0{}")]);
        is(b"warning: x", &[Err("warning: x")]);
        is(b" \xef\xbb\xbf ", &[]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_it_ends(line in prop::collection::vec(any::<u8>(), 0..60)) {
            let bytes: usize = found(&line).iter().map(|part| part.as_ref().unwrap_or_else(|rest| rest).len()).sum();
            let solid = |text: &str| text.chars().filter(|c| *c != BOM && !c.is_whitespace()).count();
            prop_assert!(bytes >= solid(&text(&line)));
        }
    }
}
