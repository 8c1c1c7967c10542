//! The `amp-relay` program: everything it does is in the library's `cli`.

use std::process::ExitCode;

use amp_relay::{claude, cli};

fn main() -> ExitCode {
    if let Some(code) = claude::guard::run_if_asked() {
        return code;
    }
    // The demo agent takes the CLI's own flags, which are not this program's.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "demo-agent") {
        return claude::demo::main(arguments);
    }
    cli::main()
}
