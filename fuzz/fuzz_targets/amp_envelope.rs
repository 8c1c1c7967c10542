//! The envelope on arbitrary frames: no panic, and what it accepts, two other decoders read as the same fields; it can
//! be written again in either key encoding, a body in deterministic form stays what it is, and one with a key twice is
//! never taken for one that can be read in one way only.

#![no_main]

#[path = "../../tests/conformance/amp_oracle.rs"]
mod amp_oracle;

use amp_relay::wire::cbor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    amp_oracle::agree(data);
    let mut once = Vec::new();
    if cbor::reencode(data, &mut once).is_ok() {
        assert_eq!(cbor::check(data), Ok(()));
        assert_eq!(cbor::check_deterministic(&once), Ok(()));
    }
    if cbor::check_deterministic(data).is_ok() {
        assert_eq!(once, data);
        assert_eq!(cbor::check_keys(data), Ok(()));
    }
    if cbor::check_keys(data).is_ok() {
        assert_eq!(cbor::reencode(data, &mut Vec::new()), Ok(()));
    }
});
