//! `amp-relay attach`: a session on this terminal, or at the end of a pipe. What decides does no I/O: `model` (messages
//! to entries, in the words of `words`), `ours` (which turns are ours), `cards` (what a line answers), `editor` (keys
//! to lines), `script` (lines of a pipe), `said` (how long a remark stands). `window` and `face` show it, `shell` runs it.

mod action;
mod cards;
mod comings;
mod cursor;
mod editor;
mod entry;
mod face;
mod input;
mod layout;
mod model;
mod ours;
mod people;
mod plain;
mod said;
mod screen;
mod script;
mod shell;
mod theme;
mod transcript;
mod window;
mod words;
mod wrap;

use std::process::ExitCode;

use clap::{Args, builder::PossibleValuesParser};

use super::{
    out,
    reach::{ReachArgs, Reached, reach_to_join},
    sessions,
};

/// What `/help` says.
const HELP: &str = "\
Enter sends · Alt-Enter or Ctrl-J begins a new row · Up and Down recall what was sent
y, n, and n REASON answer the request that is shown · a number, or the answer itself, answers a question
back, while a further question stands, withdraws the answer before
Ctrl-C interrupts the agent, or clears the line · Ctrl-], /quit, or Ctrl-D on an empty line leaves, and the session goes on
PgUp, PgDn and End move what is shown (Alt-PgUp and Alt-PgDn: the text behind a long request) · Ctrl-L draws it anew
Alt-B, Alt-F, Ctrl-Left, Ctrl-Right move by words · Ctrl-W, Alt-D delete one · Ctrl-A, Ctrl-E, Ctrl-K, Ctrl-U, Ctrl-Y as in a shell
other lines that begin with / go to the agent, which has commands of its own";

/// Joins a session: the newest part of its history, then what happens, live. Lines are prompts, or answers to what a tool
/// asks; Ctrl-C interrupts the agent, Ctrl-] leaves and the session goes on. From a pipe each line is a prompt or an
/// answer; what the agent says to these prompts goes to standard output, everything else to standard error.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Keys: Enter sends, y or n and Enter answer, Ctrl-C interrupts the agent, Ctrl-] leaves; /help has the rest.

Examples:
  amp-relay attach                                   the only live session, or the newest of this folder
  amp-relay attach 37acecd8                          the one whose id begins so
  amp-relay attach --url ws://127.0.0.1:5711         a relay at the other end of a tunnel
  echo \"what is new?\" | amp-relay attach             a prompt from a script"
)]
pub(super) struct AttachArgs {
    /// Id, the beginning of one, or title [default: the only live one, or of several the newest of this folder]
    session: Option<String>,
    #[command(flatten)]
    reach: ReachArgs,
    /// Ask for less than the key may do
    #[arg(long, value_parser = PossibleValuesParser::new(["watch", "drive", "approve", "spawn", "admin"]))]
    role: Option<String>,
    /// Show all of the history, not its newest part; into a pipe, all that the agent said and says
    #[arg(long)]
    all: bool,
    /// Print the relay's messages as JSON lines instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn run(args: &AttachArgs) -> Result<ExitCode, String> {
    let mut reached = reach_to_join(&args.reach, args.role.as_deref(), "terminal")?;
    let sessions = sessions::list(&mut reached.connection)?;
    let session = sessions::choose(&sessions, args.session.as_deref(), "attach", &args.reach)?;
    let role = args.role.as_ref().map(|role| format!(" --role {role}")).unwrap_or_default();
    let again = args.reach.command(&format!("attach {}{role}", sessions::short(&session, &sessions)));
    join(reached, &Wanted { as_json: args.json, all: args.all, ..Wanted::session(&session, again) })
}

/// What is to be shown, and how.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The session's id.
    pub session: String,
    /// The relay's messages as they are.
    pub as_json: bool,
    /// All of the history.
    pub all: bool,
    /// Said once, when the session is there.
    pub notices: Vec<String>,
    /// The command that joins it again.
    pub again: String,
}

impl Wanted {
    /// This session, its newest part, as text.
    pub(super) fn session(id: &str, again: String) -> Self {
        Self { session: id.to_owned(), as_json: false, all: false, notices: Vec::new(), again }
    }
}

/// Joins a session.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn join(mut reached: Reached, wanted: &Wanted) -> Result<ExitCode, String> {
    let mut wanted = wanted.clone();
    let first = std::mem::take(&mut reached.notices);
    if wanted.as_json {
        first.iter().for_each(|notice| out::note(notice));
    } else {
        wanted.notices.splice(0..0, first);
    }
    shell::run(reached, &wanted)
}
