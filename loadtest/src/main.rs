//! Load harness of amp-relay: its scenarios arrive with the AMP endpoint.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("loadtest: no scenario is built in yet; see docs/ for what the relay measures of itself");
    ExitCode::from(2)
}
