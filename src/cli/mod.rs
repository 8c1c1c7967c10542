//! The verbs of the `amp-relay` program. Owns flags, what is printed, and exit codes: 0 well, 1 failed, 2 wrong usage.

mod agent;
mod attach;
mod background;
mod candidates;
mod first_run;
mod kept;
mod keys;
mod log;
mod out;
mod own_key;
mod reach;
mod run;
mod session;
mod sessions;
mod settings;
mod text;
mod tty;
mod up;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{base::glyph::is_hidden, claude::demo};
use settings::{RelayArgs, World};

/// One live Claude Code session on all of your devices.
#[derive(Parser, Debug)]
#[command(name = "amp-relay", version, about, max_term_width = 100)]
#[command(after_help = "Examples:
  amp-relay up                             the session of this folder, shared by a relay in the background
  amp-relay attach                         join it from another terminal
  amp-relay keys add --role drive ID.pub   let another key sign in")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start or join the session of this folder, and a relay if none runs
    Up(up::UpArgs),
    /// Join a session: see it, prompt it, answer what it asks
    Attach(attach::AttachArgs),
    /// Start another session, and join it
    New(session::NewArgs),
    /// List the relay's sessions
    Sessions(sessions::SessionsArgs),
    /// Stop a session
    Stop(session::StopArgs),
    /// Stop the relay and all its sessions
    Down(background::DownArgs),
    /// Run a relay without a session, as a service
    Serve(run::ServeArgs),
    /// List the keys that may sign in, add and remove them
    Keys(keys::KeysArgs),
    /// Show or check the settings
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Send a message to an agent
    Send(agent::SendArgs),
    /// Ask an agent, a session or the relay, and wait for the answer
    Request(agent::RequestArgs),
    /// Receive messages as an agent, and print them
    Listen(agent::ListenArgs),
    /// Run the scripted agent that stands in for Claude Code
    #[command(name = "demo-agent", hide = true, disable_help_flag = true)]
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
    /// Print what can be set, as a table for Markdown
    Table,
}

/// Runs the program and gives its exit code.
pub fn main() -> ExitCode {
    let matches = match without_empty_variables(Cli::command()).try_get_matches() {
        Ok(matches) => matches,
        // The help or the version, which were asked for.
        Err(asked) if !asked.use_stderr() => {
            let printed = asked.print().and_then(|()| io::stdout().flush());
            return said(out::written(printed).map(|()| ExitCode::SUCCESS));
        }
        Err(error) => return misused(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    // A verb's own matches know where each of its values came from.
    let of_verb = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    match cli.verb {
        Verb::Up(args) => up::up(&args, of_verb),
        Verb::Serve(args) => run::serve(&args, of_verb),
        Verb::Attach(args) => said(attach::run(&args)),
        Verb::New(args) => said(session::new(&args)),
        Verb::Stop(args) => said(session::stop(&args)),
        Verb::Down(args) => said(background::down(&args)),
        Verb::Sessions(args) => said(sessions::run(&args)),
        Verb::Send(args) => said(agent::send(&args)),
        Verb::Request(args) => said(agent::request(&args)),
        Verb::Listen(args) => said(agent::listen(&args)),
        Verb::Keys(args) => said(keys::run(&args)),
        Verb::Config { verb } => config(&verb, of_verb),
        Verb::DemoAgent { arguments } => demo::main(arguments.into_iter()),
    }
}

/// Says what is wrong with the arguments. It repeats them, and what they hold may steer a terminal: then without colours.
fn misused(error: &clap::Error) -> ExitCode {
    let steers = |text: &OsString| text.to_string_lossy().chars().any(is_hidden);
    let of_ours = |name: &OsString| name.to_string_lossy().starts_with("AMP_RELAY_");
    if std::env::args_os().any(|arg| steers(&arg))
        || std::env::vars_os().any(|(name, value)| of_ours(&name) && steers(&value))
    {
        out::note(&error.render().to_string().trim_end());
    } else {
        // If this cannot be printed, neither can the reason.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A variable that is set to nothing counts as not set, as scripts and unit files mean it.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if empty(&arg) { arg.env(None::<&str>) } else { arg });
    command.mut_subcommands(without_empty_variables)
}

fn config(verb: &ConfigVerb, matches: &ArgMatches) -> ExitCode {
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let (ConfigVerb::Show(args) | ConfigVerb::Check(args)) = verb else {
        return said(out::text(&settings::table()).map(|()| ExitCode::SUCCESS));
    };
    stray_variables().iter().for_each(|told| out::note(&format_args!("{}{told}", text::PROGRAM)));
    match (World::of_process().and_then(|world| settings::resolve(args, matches, &world)), verb) {
        (Ok(settings), ConfigVerb::Show(_)) => said(out::text(&settings::show(&settings)).map(|()| ExitCode::SUCCESS)),
        (Ok(settings), _) => said(settings::usable(&settings).and_then(|()| {
            out::line(&"the settings can be used")?;
            Ok(ExitCode::SUCCESS)
        })),
        (Err(why), _) => fail(&why),
    }
}

/// What is to be said of variables of this process that look like settings and are none.
fn stray_variables() -> Vec<String> {
    fn add(command: &clap::Command, known: &mut Vec<String>) {
        known.extend(command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())));
        command.get_subcommands().for_each(|verb| add(verb, known));
    }
    let mut known = Vec::new();
    add(&Cli::command(), &mut known);
    settings::stray(&known, std::env::vars_os())
}

/// A verb's exit code, or why it failed.
fn said(result: Result<ExitCode, String>) -> ExitCode {
    result.unwrap_or_else(|why| fail(&why))
}

/// Says why on stderr.
fn fail(why: &str) -> ExitCode {
    out::note(&format_args!("{}{why}", text::PROGRAM));
    ExitCode::FAILURE
}
