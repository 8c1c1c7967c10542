//! The hash by which an answer to a permission request names the input that was shown: SHA-256 over the canonical form
//! of RFC 8785. A client computes it from what it drew, so that an answer about something else is refused.

use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// The hash of an input, in lower-case hexadecimal digits. What has no canonical form has no hash, so that no answer
/// can name and allow it. No [`Value`](serde_json::Value) is known to be of that sort.
///
/// ```
/// let drawn = serde_json::json!({"command": "ls"});
/// let same: serde_json::Value = serde_json::from_str("{ \"command\" : \"l\\u0073\" }")?;
/// assert_eq!(amp_relay::wire::shown::hash(&drawn), amp_relay::wire::shown::hash(&same));
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn hash<T: Serialize>(input: &T) -> Option<String> {
    let canonical = serde_json_canonicalizer::to_vec(input).ok()?;
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(&canonical) {
        let _ = write!(hex, "{byte:02x}");
    }
    Some(hex)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn canonical(text: &str) -> String {
        let value: Value = serde_json::from_str(text).expect("JSON");
        String::from_utf8(serde_json_canonicalizer::to_vec(&value).expect("canonical")).expect("UTF-8")
    }

    /// The example of RFC 8785 section 3.2.2 (and 3.2.3 for the order of keys).
    #[test]
    fn the_canonical_form_is_the_published_one() {
        let given = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
            "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let want = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(canonical(given), want);
        let keys = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
            "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let order = ["Carriage Return", "One", "Control", "Latin Small", "Euro Sign", "Emoji", "Hebrew"];
        let text = canonical(keys);
        let places: Vec<_> = order.iter().map(|name| text.find(name).expect(name)).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn the_hash_is_that_of_the_canonical_form() {
        // printf '{"command":"ls"}' | sha256sum
        let want = "4cf29611a66934862f29acfcc817e30b905c1ab73d5e65831413eb6b454d49db";
        assert_eq!(hash(&serde_json::json!({"command": "ls"})).as_deref(), Some(want));
        assert_ne!(hash(&serde_json::json!({"command": "ls "})).as_deref(), Some(want));
    }

    #[test]
    fn what_has_no_canonical_form_has_no_hash() {
        assert_eq!(hash(&std::collections::BTreeMap::from([(vec![1], 2)])), None);
        assert!(hash(&std::collections::BTreeMap::from([("1", 2)])).is_some_and(|hash| hash.len() == 64));
    }
}
