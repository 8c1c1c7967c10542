//! The `amp-relay` program: everything it does is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    amp_relay::cli::main()
}
