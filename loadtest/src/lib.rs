//! Load harness of amp-relay: scenarios that drive a relay as real agents do, the baseline to compare it with, and a
//! report.
//!
//! Owns how load is made and how it is judged: every delivery is checked for its sender, its slot and its sequence
//! number, intended send times are kept so that a stalled relay cannot hide its stall, and what the harness itself costs
//! stands in the report. Must not know the relay's insides: it speaks AMP, the session protocol, or the baseline's
//! frames. AMP it writes and reads by the library; the endpoint of its tests does so by other means.

mod agent;
mod baseline;
mod cli;
mod compare;
mod connect;
mod curve;
mod delivery_check;
mod engine;
mod failure;
mod idle;
mod measure;
mod outbox;
mod page;
mod report;
mod run;
mod servers;
mod session;
mod spread;
mod stalled;
mod stats;
mod table;
mod target;
mod template;

use std::process::ExitCode;

use serde::Serialize;

pub use cli::{
    BaselineOptions, BaselineServer, Cli, Command, CurveOptions, IdleOptions, Options, PageOptions, Pattern,
    StalledOptions, TableOptions,
};
pub use compare::Comparison;
pub use curve::{Curve, Point};
pub use failure::Failure;
pub use idle::{
    IdleStep, IdleSteps,
    forecast::{Cost, Counts, Forecast, Limit, Target},
};
pub use report::{Checks, Latency, Report, Shown, stalled::Stalled};
pub use run::run;
pub use servers::Baseline;
pub use spread::Spread;
pub use table::{Figures, Round, RowResult, Table};

/// Runs a command line, prints what it gives, and says how the process should end: 0 when every delivery was right, 1
/// when one was not or the run failed, 2 when the command line makes no sense.
pub fn main(cli: Cli) -> ExitCode {
    let result = match &cli.command {
        Command::BaselineServer(options) => match baseline::serve(options) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => return fail(&format!("baseline-server: {error}"), 1),
        },
        Command::Idle(options) if idle::is_stepped(options) => {
            idle::run(options).map(|steps| print(&steps, options.options.json))
        }
        Command::Stalled(options) if options.options.keys_out.is_none() => {
            stalled::run(options).map(|stalled| print(&stalled, options.options.json))
        }
        Command::Curve(options) if options.options.keys_out.is_none() => {
            curve::run(options).map(|curve| print(&curve, options.options.json))
        }
        Command::Report(options) => page::run(options).inspect(|_| println!("{}", options.out.display())),
        Command::Table(options) => table::run(options).map(|table| print(&table, options.json)),
        command => match command.options() {
            Some(options) if options.keys_out.is_none() && options.compare.is_some() => {
                let other = options.compare.as_deref().unwrap_or_default();
                compare::run(command, options, other).map(|comparison| print(&comparison, options.json))
            }
            options => {
                let json = options.is_some_and(|options| options.json);
                run(command).map(|report| report.is_none_or(|report| print(&report, json)))
            }
        },
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(Failure::Usage(text)) => fail(&text, 2),
        Err(Failure::Run(text)) => fail(&text, 1),
    }
}

/// Prints it, and says whether it is right.
fn print<T: Shown + Serialize>(shown: &T, json: bool) -> bool {
    if json {
        println!("{}", shown.json());
    } else {
        print!("{}", shown.text());
    }
    shown.is_right()
}

fn fail(text: &str, code: u8) -> ExitCode {
    eprintln!("loadtest: {text}");
    ExitCode::from(code)
}
