//! Request heads, the Host and Origin checks and the upgrade on arbitrary bytes.

#![no_main]

use amp_relay::{
    base::Now,
    wire::http::{HEAD_MAX, HostPolicy, Parsed, accept, check_origin, parse},
};
use libfuzzer_sys::fuzz_target;

const NOW: Now = Now { mono_ms: 1, unix_ms: 1_800_000_000_000 };

/// One head and nothing that a peer could take for a second one.
fn is_one_head(bytes: &[u8]) -> bool {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    bytes.starts_with(b"HTTP/1.1 ") && end.is_some()
}

fuzz_target!(|data: &[u8]| {
    let head = match parse(data) {
        Ok(Parsed::Complete { consumed, head }) => {
            assert!(consumed <= data.len().min(HEAD_MAX));
            head
        }
        Ok(Parsed::Partial) => {
            assert!(data.len() <= HEAD_MAX);
            return;
        }
        Err(refused) => {
            assert!(is_one_head(&refused.encode(NOW)));
            return;
        }
    };
    assert!(head.target.starts_with('/') && head.target.is_ascii());
    if HostPolicy::default().check(&head).is_ok() {
        let host = head.host().expect("it was read").map(str::to_ascii_lowercase);
        let is_ours = |host: &str| host.starts_with("localhost") || host.starts_with("127.") || host.starts_with('[');
        assert!(host.as_deref().map_or(head.minor == 0, is_ours), "{host:?}");
    }
    if check_origin(&head, false).is_ok() {
        let origin = head.header("origin").unwrap_or("http://");
        assert!(origin.starts_with("http://"), "{origin}");
    }
    let chosen = head.subprotocols().next();
    match accept(&head, chosen) {
        Ok(answer) => {
            assert!(head.wants_upgrade() && answer.ends_with(b"\r\n\r\n") && is_one_head(&answer));
            // Nothing of the request may begin a line of its own in the answer.
            assert_eq!(answer.windows(4).filter(|w| *w == b"\r\n\r\n").count(), 1);
        }
        Err(refused) => assert!(is_one_head(&refused.encode(NOW))),
    }
});
