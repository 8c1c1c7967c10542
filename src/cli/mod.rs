//! The verbs of the `amp-relay` program. Owns flags, what is printed, and exit codes: 0 well, 1 failed, 2 wrong usage.

mod agent;
mod attach;
mod keys;
mod log;
mod out;
mod reach;
mod run;
mod sessions;
mod settings;
mod text;

use std::{ffi::OsString, process::ExitCode};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::claude::demo;
use settings::{RelayArgs, World};

/// One live Claude Code session on all of your devices.
#[derive(Parser, Debug)]
#[command(name = "amp-relay", version, about, max_term_width = 100)]
#[command(after_help = "Examples:
  amp-relay up                             start a session here, and the relay it is shared by
  amp-relay attach                         join it from another terminal
  amp-relay keys add --role drive ID.pub   let another key sign in")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start a relay and a session in the current folder
    Up(RelayArgs),
    /// Start a relay without a session, for services
    Serve(RelayArgs),
    /// Join a session: stream it, prompt it, decide what it asks
    Attach(attach::AttachArgs),
    /// List the relay's sessions
    Sessions(sessions::SessionsArgs),
    /// Send a message to an agent
    Send(agent::SendArgs),
    /// Ask an agent, a session or the relay, and wait for the answer
    Request(agent::RequestArgs),
    /// Be an agent on this terminal: print what comes
    Listen(agent::ListenArgs),
    /// Who may sign in
    Keys(keys::KeysArgs),
    /// The settings in force
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// The scripted agent that stands in for Claude Code
    #[command(name = "demo-agent", disable_help_flag = true)]
    DemoAgent {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Subcommand, Debug)]
enum ConfigVerb {
    /// Print every setting and where it comes from
    Show(RelayArgs),
    /// Say whether the settings can be used
    Check(RelayArgs),
}

/// Runs the program and gives its exit code.
pub fn main() -> ExitCode {
    let matches = without_empty_variables(Cli::command()).get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    // A verb's own matches know where each of its values came from.
    let of_verb = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    match cli.verb {
        Verb::Up(args) => run::up(&args, of_verb),
        Verb::Serve(args) => run::serve(&args, of_verb),
        Verb::Attach(args) => said(attach::run(&args)),
        Verb::Sessions(args) => said(sessions::run(&args)),
        Verb::Send(args) => said(agent::send(&args)),
        Verb::Request(args) => said(agent::request(&args)),
        Verb::Listen(args) => said(agent::listen(&args)),
        Verb::Keys(args) => said(keys::run(&args)),
        Verb::Config { verb } => config(&verb, of_verb),
        Verb::DemoAgent { arguments } => demo::main(arguments.into_iter()),
    }
}

/// A variable that is set to nothing counts as not set, as scripts and unit files mean it.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if empty(&arg) { arg.env(None::<&str>) } else { arg });
    command.mut_subcommands(without_empty_variables)
}

fn config(verb: &ConfigVerb, matches: &ArgMatches) -> ExitCode {
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let (ConfigVerb::Show(args) | ConfigVerb::Check(args)) = verb;
    match (World::of_process().and_then(|world| settings::resolve(args, matches, &world)), verb) {
        (Ok(settings), ConfigVerb::Show(_)) => said(out::text(&settings::show(&settings)).map(|()| ExitCode::SUCCESS)),
        (Ok(_), ConfigVerb::Check(_)) => said(out::line(&"the settings can be used").map(|()| ExitCode::SUCCESS)),
        (Err(why), _) => fail(&why),
    }
}

/// A verb's exit code, or why it failed.
fn said(result: Result<ExitCode, String>) -> ExitCode {
    result.unwrap_or_else(|why| fail(&why))
}

/// Says why on stderr.
fn fail(why: &str) -> ExitCode {
    out::note(&format_args!("amp-relay: {why}"));
    ExitCode::FAILURE
}
