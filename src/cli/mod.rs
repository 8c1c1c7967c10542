//! The verbs of the `amp-relay` program.

mod settings;

use std::process::ExitCode;

/// Runs the program and gives its exit code.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
