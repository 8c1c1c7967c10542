//! The envelope on arbitrary frames: no panic, and what it accepts, two other decoders read as the same fields; it can
//! be written again in either key dialect, and a body in deterministic form stays what it is.

#![no_main]

#[path = "../../tests/amp_oracle/mod.rs"]
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
    }
});
