//! The program `loadtest`: reads the command line, runs a scenario, prints its report.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    loadtest::main(loadtest::Cli::parse())
}
