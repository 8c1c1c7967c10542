//! The `amp-relay` program: everything it does is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = amp_relay::claude::guard::run_if_asked() {
        return code;
    }
    amp_relay::cli::main()
}
