//! `amp-relay attach`: a session on this terminal, or at the end of a pipe. The parts that decide (`screen`, `editor`,
//! `view`, `script`) do no I/O; `shell` runs them.

mod editor;
mod screen;
mod script;
mod shell;
mod style;
mod terminal;
mod view;

use std::process::ExitCode;

use clap::{Args, builder::PossibleValuesParser};

use super::{
    reach::{ReachArgs, reach},
    sessions,
};
use crate::client::Summary;

/// Joins a session: its history, then what happens, live. Lines are prompts, y and n answer permission requests,
/// Ctrl-C interrupts the agent, Ctrl-] leaves (the session goes on). From a pipe, each line is a prompt or an answer.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Keys: Enter sends, y and n answer, Ctrl-C interrupts the agent, Ctrl-] leaves; the session goes on.

Examples:
  amp-relay attach                                   the only live session
  amp-relay attach 37acecd8                          the one whose id begins so
  amp-relay attach --url ws://127.0.0.1:5711         a relay at the other end of a tunnel
  echo \"what is new?\" | amp-relay attach             a prompt from a script"
)]
pub(super) struct AttachArgs {
    /// Id, the beginning of one, or title [default: the only live session]
    session: Option<String>,
    #[command(flatten)]
    reach: ReachArgs,
    /// Ask for less than the key may do
    #[arg(long, value_parser = PossibleValuesParser::new(["watch", "drive", "approve", "spawn", "admin"]))]
    role: Option<String>,
    /// Print the relay's messages as JSON lines instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn run(args: &AttachArgs) -> Result<ExitCode, String> {
    let mut reached = reach(&args.reach, args.role.as_deref(), "terminal")?;
    let sessions = sessions::list(&mut reached.connection)?;
    let session = choose(&sessions, args.session.as_deref())?;
    shell::run(reached, &session, args.json)
}

/// The session that is meant.
fn choose(sessions: &[Summary], wanted: Option<&str>) -> Result<String, String> {
    let Some(wanted) = wanted else {
        let live: Vec<&Summary> = sessions.iter().filter(|session| session.is_live()).collect();
        return match live.as_slice() {
            [one] => Ok(one.session.clone()),
            [] if sessions.is_empty() => Err(sessions::NONE.into()),
            [] => Err(several("no session is live; these are the ended ones", sessions)),
            _ => Err(several("several sessions are live; say which one", sessions)),
        };
    };
    if let Some(exact) = sessions.iter().find(|session| session.session == wanted) {
        return Ok(exact.session.clone());
    }
    let matching = |of: &dyn Fn(&Summary) -> bool| -> Vec<Summary> {
        sessions.iter().filter(|session| of(session)).cloned().collect()
    };
    let titled = matching(&|session| session.title == wanted);
    let begun = matching(&|session| !wanted.is_empty() && session.session.starts_with(wanted));
    match (titled.as_slice(), begun.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one.session.clone()),
        ([], []) if sessions.is_empty() => Err(sessions::NONE.into()),
        ([], []) => Err(several(&format!("no session is called `{wanted}`"), sessions)),
        ([], several_begun) => Err(several(&format!("several sessions begin with `{wanted}`"), several_begun)),
        (several_titled, _) => Err(several(&format!("several sessions are titled `{wanted}`"), several_titled)),
    }
}

fn several(what: &str, sessions: &[Summary]) -> String {
    let first = sessions.first().map(|session| session.session.as_str()).unwrap_or("SESSION");
    let short: String = first.chars().take(8).collect();
    format!("{what}:\n{}next: `amp-relay attach {short}`", sessions::table(sessions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, title: &str, state: &str) -> Summary {
        Summary { session: id.into(), title: title.into(), state: state.into(), ..Summary::default() }
    }

    #[test]
    fn the_session_that_is_meant_is_found() {
        let all = [session("abc1", "one", "ready"), session("abd2", "two", "stopped"), session("x", "abc1", "busy")];
        assert_eq!(choose(&all, Some("abc1")).unwrap(), "abc1", "an id goes before a title");
        assert_eq!(choose(&all, Some("two")).unwrap(), "abd2");
        assert_eq!(choose(&all, Some("abd")).unwrap(), "abd2");
        assert!(choose(&all, Some("ab")).unwrap_err().contains("several"));
        assert!(choose(&all, Some("")).is_err());
        assert!(choose(&all, Some("nope")).unwrap_err().contains("next: `amp-relay attach abc1`"));
        assert!(choose(&all, None).unwrap_err().contains("several"));
        assert_eq!(choose(&all[..2], None).unwrap(), "abc1");
        assert!(choose(&all[1..2], None).unwrap_err().contains("no session is live"));
        assert!(choose(&[], None).unwrap_err().contains("amp-relay up"));
    }
}
