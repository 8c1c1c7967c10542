//! What the end-to-end tests share: the relay as a real process, devices that speak the session protocol, keys, a stub
//! of the Messages API, and waits that end on a condition.
//!
//! Nothing in here uses the library under test: a device is a second implementation of the protocol, so a mistake that
//! the relay and its own client share is still found.
#![allow(unreachable_pub, reason = "a module of one test program")]

pub mod agent;
pub mod amp;
pub mod device;
pub mod http;
pub mod keys;
pub mod messages_api;
pub mod process;
pub mod proxy;
pub mod random;
pub mod relay;
pub mod standin;
pub mod terminal;
pub mod ward;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use self::{
    agent::Agent,
    amp::{AgentKey, Keys},
    device::{Device, Refused, SignIn, text},
    keys::Key,
    relay::Relay,
    ward::Ward,
};

/// How long anything may take before a test gives up. Nothing is asserted about time: this only turns a hang into a
/// failure, so it is generous enough for a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Looks at a condition until it holds and gives what it found.
///
/// # Panics
/// After [`DEADLINE`], naming `what`.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "waited {DEADLINE:?} in vain until {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// Says something that the test runner does not swallow when the test passes.
pub fn say_loudly(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "\n*** {text}\n");
}
