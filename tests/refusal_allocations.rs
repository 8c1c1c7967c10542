//! What the refusal of a large message costs is counted in allocations, which are the same on every machine: what a
//! message holds beside what is asked of it makes no tree, in AMP or in the session protocol. One test in a process of
//! its own, because it counts the allocations of the whole process.

use std::alloc::System;

use amp_relay::{
    dialect::session,
    relay::{Role, api::Code, delivery},
    wire::{
        amp::{Code as AmpCode, Type, check::unambiguous},
        cbor,
    },
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Items in each of the large messages.
const ITEMS: usize = 200_000;
/// What reading one may allocate in all: names of fields, the command, the answer.
const BYTES_MAX: usize = 8 * 1024;

/// The result, and the bytes that were allocated on the way.
fn counted<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let region = Region::new(ALLOCATOR);
    let result = act();
    (result, region.change().bytes_allocated)
}

#[test]
fn a_large_message_is_refused_or_read_without_a_tree() {
    // {"action": "ping", "x": [null, ...]}
    let mut body = Vec::new();
    cbor::map(&mut body, 2);
    cbor::text(&mut body, "action");
    cbor::text(&mut body, "ping");
    cbor::text(&mut body, "x");
    cbor::array(&mut body, ITEMS);
    body.resize(body.len() + ITEMS, cbor::NULL[0]);
    let (read, bytes) = counted(|| {
        // By its type alone: the body is not even at hand.
        assert_eq!(
            delivery::admit(Type::REQUEST, Role::Agent).map_err(|refusal| refusal.code),
            Err(AmpCode::UNAUTHORIZED)
        );
        unambiguous(&body).map(|()| cbor::get(&body, "action").and_then(cbor::as_text))
    });
    assert_eq!(read, Ok(Some("ping")));
    assert!(bytes < BYTES_MAX, "{bytes} bytes for an AMP body of {}", body.len());

    let nulls = vec!["null"; ITEMS].join(",");
    let forbidden = |_| Err(amp_relay::relay::api::Error::new(Code::Forbidden, "no"));
    for (text, code) in [
        (format!(r#"{{"type":"list","id":"a","x":[{nulls}]}}"#), None),
        (format!(r#"{{"type":"list","id":"a","follow":[{nulls}]}}"#), Some(Code::BadRequest)),
        (format!(r#"{{"type":"dance","id":"a","x":{{"y":[{nulls}]}}}}"#), Some(Code::UnknownType)),
        (
            format!(r#"{{"type":"decide","id":"a","decision":"allow","input":{{"x":[{nulls}]}}}}"#),
            Some(Code::Forbidden),
        ),
    ] {
        let (read, bytes) = counted(|| match code {
            Some(Code::Forbidden) => session::decode(&text, forbidden),
            _ => session::decode(&text, |_| Ok(())),
        });
        assert_eq!(read.err().map(|(_, error)| error.code), code);
        assert!(bytes < BYTES_MAX, "{bytes} bytes for a message of {}", text.len());
    }
}
