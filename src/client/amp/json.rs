//! Bodies as JSON and back: what people type and programs read, beside the CBOR that is signed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ciborium::Value as Cbor;
use serde_json::{Map, Number, Value as Json};

use crate::wire::cbor;

/// Bytes as text, as JSON has them here: base64url without padding (RFC 4648 section 5).
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The body, in deterministic CBOR, that says what this JSON says.
///
/// # Errors
/// It is nested deeper than a message may be.
pub fn body_of_json(json: &Json) -> Result<Vec<u8>, cbor::Error> {
    let mut body = Vec::new();
    cbor::from_value(&cbor_of(json), &mut body)?;
    Ok(body)
}

fn cbor_of(json: &Json) -> Cbor {
    match json {
        Json::Null => Cbor::Null,
        Json::Bool(value) => Cbor::Bool(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), _, _) => Cbor::Integer(value.into()),
            (_, Some(value), _) => Cbor::Integer(value.into()),
            (_, _, value) => Cbor::Float(value.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Cbor::Text(text.clone()),
        Json::Array(items) => Cbor::Array(items.iter().map(cbor_of).collect()),
        Json::Object(members) => {
            Cbor::Map(members.iter().map(|(key, value)| (Cbor::Text(key.clone()), cbor_of(value))).collect())
        }
    }
}

/// A body as JSON, for people and scripts: bytes become base64url, tags are left out, and what JSON has no word for
/// becomes text. A body that is no CBOR is null; the body of a received message never is.
pub fn json_of_body(body: &[u8]) -> Json {
    // Depth and lengths are bounded by our own reader before a reader that allocates sees them.
    match cbor::check(body).ok().and_then(|()| ciborium::from_reader(body).ok()) {
        Some(value) => json_of(&value),
        None => Json::Null,
    }
}

fn json_of(value: &Cbor) -> Json {
    match value {
        Cbor::Bool(value) => Json::Bool(*value),
        Cbor::Integer(integer) => {
            let integer = i128::from(*integer);
            let number = u64::try_from(integer).map(Number::from).or_else(|_| i64::try_from(integer).map(Number::from));
            number.map_or_else(|_| Json::String(integer.to_string()), Json::Number)
        }
        Cbor::Float(float) => Number::from_f64(*float).map_or_else(|| Json::String(float.to_string()), Json::Number),
        Cbor::Bytes(bytes) => Json::String(base64url(bytes)),
        Cbor::Text(text) => Json::String(text.clone()),
        Cbor::Array(items) => Json::Array(items.iter().map(json_of).collect()),
        Cbor::Map(pairs) => {
            let member = |(key, value): &(Cbor, Cbor)| (name_of(key), json_of(value));
            Json::Object(pairs.iter().map(member).collect::<Map<_, _>>())
        }
        Cbor::Tag(_, value) => json_of(value),
        _ => Json::Null,
    }
}

/// A key of a map: itself if it is text, and else its JSON.
fn name_of(key: &Cbor) -> String {
    match json_of(key) {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_cannot_say_becomes_text() {
        let map = Cbor::Map(vec![
            (Cbor::Integer(1.into()), Cbor::Bytes(vec![0xfb, 0xff])),
            (Cbor::Text("a".into()), Cbor::Tag(1, Box::new(Cbor::Float(f64::INFINITY)))),
            (Cbor::Null, Cbor::Integer(ciborium::value::Integer::try_from(-(1_i128 << 64)).unwrap())),
        ]);
        let mut body = Vec::new();
        cbor::from_value(&map, &mut body).unwrap();
        assert_eq!(json_of_body(&body), json!({"1": "-_8", "a": "inf", "null": "-18446744073709551616"}));
        assert_eq!(json_of_body(b"\xff"), Json::Null);
        assert_eq!(json_of_body(b""), Json::Null);
    }

    #[test]
    fn too_deep_a_body_is_refused() {
        let deep = |levels| (0..levels).fold(Json::Null, |inner, _| json!([inner]));
        assert!(body_of_json(&deep(cbor::DEPTH_MAX)).is_ok());
        assert_eq!(body_of_json(&deep(cbor::DEPTH_MAX + 1)), Err(cbor::Error::TooDeep));
    }

    fn value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Json::from),
            ".{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                proptest::collection::vec((".{0,4}", inner), 0..4)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_comes_back(json in value()) {
            let body = body_of_json(&json).unwrap();
            prop_assert_eq!(cbor::check_deterministic(&body), Ok(()));
            prop_assert_eq!(json_of_body(&body), json);
        }

        #[test]
        fn any_bytes_are_some_json(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = json_of_body(&bytes).to_string();
        }
    }
}
