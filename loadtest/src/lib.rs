//! Load harness of amp-relay: scenarios that drive a relay as real agents do, the floor to compare it with, and a report.
//!
//! Owns how load is made and how it is judged: every delivery is checked for its sender, its slot and its sequence
//! number, intended send times are kept so that a stalled relay cannot hide its stall, and what the harness itself costs
//! stands in the report. Must not know the relay's insides: it speaks AMP, the session protocol, or the floor's frames.

mod agent;
mod amp;
mod cli;
mod connect;
mod engine;
mod floor;
mod idle;
mod ledger;
mod measure;
mod outbox;
mod report;
mod run;
mod session;
mod target;
mod template;

use std::process::ExitCode;

pub use cli::{Cli, Command, FloorOptions, FloorServer, Options, Pattern};
pub use floor::Floor;
pub use report::{Checks, Latency, Report};
pub use run::run;

/// Runs a command line, prints what it gives, and says how the process should end: 0 when every delivery was right, 1
/// when one was not or the run failed, 2 when the command line makes no sense.
pub fn main(cli: Cli) -> ExitCode {
    match cli.command {
        Command::FloorServer(options) => match floor::serve(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("floor-server: {error}"), 1),
        },
        command => {
            let json = command.options().is_some_and(|options| options.json);
            match run(&command) {
                Ok(None) => ExitCode::SUCCESS,
                Ok(Some(report)) => {
                    if json {
                        println!("{}", report.json());
                    } else {
                        print!("{}", report.text());
                    }
                    if report.is_right() { ExitCode::SUCCESS } else { ExitCode::from(1) }
                }
                Err(run::Failure::Usage(text)) => fail(&text, 2),
                Err(run::Failure::Run(text)) => fail(&text, 1),
            }
        }
    }
}

fn fail(text: &str, code: u8) -> ExitCode {
    eprintln!("loadtest: {text}");
    ExitCode::from(code)
}
