//! `amp-relay new` and `stop`, and what `up` shares with them: the flags of a session, and how one is created.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::json;

use super::{
    attach, out,
    reach::{ReachArgs, ask, ask_and_wait, reach, reach_to_join},
    sessions,
    text::{clean_line, path_line},
};
use crate::{
    base::text::unfit_for_a_line,
    claude::arguments::{MODES, is_conversation},
    client::{Connection, Summary},
    relay::{api::Past, hub::Create},
};

/// How a new session begins.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct SessionArgs {
    /// A title for people [default: the folder's name]
    #[arg(long, value_name = "TEXT", value_parser = one_line)]
    title: Option<String>,
    /// The model, as Claude Code names it
    #[arg(long, value_name = "NAME", value_parser = one_line)]
    model: Option<String>,
    #[arg(long, value_name = "MODE", help = format!("What Claude Code may do unasked: one of {}", MODES.join(", ")))]
    permission_mode: Option<String>,
    /// Go on with the newest conversation of the folder
    #[arg(long, conflicts_with = "resume")]
    r#continue: bool,
    /// Go on with the conversation of this id, a UUID
    #[arg(long, value_name = "ID", value_parser = conversation)]
    resume: Option<String>,
}

/// Said before a relay is reached, or started, that would refuse it.
fn one_line(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty; leave it out for the default".into());
    }
    misfit(text).map_or_else(|| Ok(text.to_owned()), |c| Err(format!("it holds {c}, which has no place in it")))
}

/// The number of the first character that no message holds in a line.
fn misfit(text: &str) -> Option<String> {
    unfit_for_a_line(text).map(|c| format!("U+{:04X}", u32::from(c)))
}

fn conversation(id: &str) -> Result<String, String> {
    if is_conversation(id) {
        return Ok(id.to_owned());
    }
    Err("a conversation's id is a UUID like 0b2d3c4e-5f60-4711-8213-141516171819; `claude --resume`, run in the folder, \
         lists what can be gone on with"
        .into())
}

impl SessionArgs {
    /// Whether a session that runs already would do.
    pub(super) fn is_any(&self) -> bool {
        let Self { title, model, permission_mode, r#continue: _, resume } = self;
        // A running session is what `--continue` would go on with.
        [title, model, permission_mode, resume].iter().all(|given| given.is_none())
    }

    /// For a relay that is to start with this session.
    pub(super) fn create(&self) -> Create {
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        let past = match &self.resume {
            Some(id) => Past::Conversation(id.as_str().into()),
            None if self.r#continue => Past::Newest,
            None => Past::None,
        };
        let (title, model, mode) = (text(&self.title), text(&self.model), text(&self.permission_mode));
        Create { title, model, mode, past, ..Create::default() }
    }

    /// What is to be known where it has been created.
    pub(super) fn notice(&self) -> Option<&'static str> {
        match (&self.resume, self.r#continue) {
            (Some(_), _) => Some("This goes on with an earlier conversation, of which nothing is shown here."),
            // Whether the folder has one is known to the agent alone.
            (None, true) => Some(
                "This goes on with the newest conversation of the folder, of which nothing is shown here; where there is \
                 none, a new one begins.",
            ),
            (None, false) => None,
        }
    }

    /// Has a relay create this session in a folder, its default one when left out.
    ///
    /// # Errors
    /// The relay refuses, or does not answer.
    pub(super) fn created(
        &self,
        connection: &mut Connection,
        folder: Option<&Path>,
        reach: &ReachArgs,
    ) -> Result<Summary, String> {
        let folder = folder.map(sendable);
        let command = json!({
            "type": "create", "profile": "default", "folder": folder.transpose()?, "title": self.title,
            "model": self.model, "mode": self.permission_mode, "continue": self.r#continue.then_some(true),
            "resume": self.resume,
        });
        let reply = ask(connection, command)?;
        reply.fields.get("session").and_then(Summary::read).ok_or_else(|| {
            reach.hinted(
                "a session is created, and the relay's answer which one cannot be read: `amp-relay sessions` shows it",
            )
        })
    }
}

/// Starts a session beside those that run, and joins it; where the output is no terminal, prints its id.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  amp-relay new                          another session in this folder
  amp-relay new ~/site --title site      one in another folder
  amp-relay new --continue               the newest conversation of this folder
  amp-relay new --detach                 start it, and print its id")]
pub(super) struct NewArgs {
    /// Where it runs [default: the current folder; with --url the relay's default]
    folder: Option<PathBuf>,
    #[command(flatten)]
    session: SessionArgs,
    /// Print its id instead of joining it
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Runs `new`.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn new(args: &NewArgs) -> Result<ExitCode, String> {
    let joins = !args.detach && io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut reached =
        if joins { reach_to_join(&args.reach, None, "terminal")? } else { reach(&args.reach, None, "command line")? };
    let folder = match (&args.folder, &args.reach.url) {
        // A folder of another machine is not looked for here.
        (Some(folder), Some(_)) => Some(folder.clone()),
        (None, Some(_)) => None,
        (folder, None) => Some(real(folder.as_deref().unwrap_or(Path::new(".")))?),
    };
    let summary = args.session.created(&mut reached.connection, folder.as_deref(), &args.reach)?;
    if joins {
        let notices = args.session.notice().map(Into::into).into_iter().collect();
        let again = args.reach.command(&format!("attach {}", sessions::short(&summary.session, &[])));
        return attach::join(reached, &attach::Wanted { notices, ..attach::Wanted::session(&summary.session, again) });
    }
    reached.connection.writer().close();
    out::line(&clean_line(&summary.session, 64))?;
    Ok(ExitCode::SUCCESS)
}

/// A folder of this machine that a session can run in, without links and dots.
///
/// # Errors
/// It is not there, or has a name that no message can hold.
pub(super) fn real(folder: &Path) -> Result<PathBuf, String> {
    let real =
        folder.canonicalize().map_err(|error| format!("the folder {} cannot be used: {error}", path_line(folder)))?;
    sendable(&real)?;
    Ok(real)
}

/// A folder's name as a message holds it.
fn sendable(folder: &Path) -> Result<&str, String> {
    let why = match folder.to_str() {
        None => "its name is not UTF-8".to_owned(),
        Some(name) => match misfit(name) {
            None => return Ok(name),
            Some(c) => format!("its name holds {c}, which has no place in one"),
        },
    };
    Err(format!(
        "no session can run in the folder {}: {why}; rename it, or go to another one (`cd`)",
        path_line(folder)
    ))
}

/// Stops a session: its turn may end first, its conversation can be gone on with later.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  amp-relay stop 37acecd8                the session whose id begins so
  amp-relay stop site --now              the one of that title, in the middle of its turn
  amp-relay down                         the relay, with all its sessions")]
pub(super) struct StopArgs {
    /// Id, the beginning of one, or title
    session: String,
    /// Do not wait for the end of the turn
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Runs `stop`.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn stop(args: &StopArgs) -> Result<ExitCode, String> {
    let mut reached = reach(&args.reach, None, "command line")?;
    let all = sessions::list(&mut reached.connection)?;
    let session = sessions::choose(&all, Some(&args.session), "stop", &args.reach)?;
    let id = clean_line(&session, 64);
    if !args.now && all.iter().any(|one| one.session == session && one.is_busy()) {
        out::note(&format_args!("session {id} stops when its turn ends: Ctrl-C leaves it so, --now does not wait"));
    }
    let had_ended = all.iter().find(|one| one.session == session && !one.is_live()).map(|one| one.state.as_str());
    // The relay answers when the process is gone.
    ask_and_wait(&mut reached.connection, json!({"type": "stop", "session": session, "now": args.now}))?;
    reached.connection.writer().close();
    out::note(&match had_ended {
        None => format!("session {id} is stopped"),
        Some("failed") => format!("session {id} had failed already: nothing was left to stop"),
        Some(_) => format!("session {id} had ended already: nothing was left to stop"),
    });
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_a_new_one_and_goes_on_with_another_only_where_that_is_said() {
        const ID: &str = "0b2d3c4e-5f60-4711-8213-141516171819";
        let said = |text: &str| Some(text.to_owned());
        let plain = || SessionArgs { title: None, model: None, permission_mode: None, r#continue: false, resume: None };
        let goes_on = || SessionArgs { r#continue: true, ..plain() };
        let resumes = || SessionArgs { resume: said(ID), ..plain() };
        assert!(matches!(plain().create().past, Past::None) && plain().notice().is_none());
        assert!(matches!(goes_on().create().past, Past::Newest) && goes_on().notice().is_some());
        assert!(matches!(resumes().create().past, Past::Conversation(id) if &*id == ID));
        // A session that runs already has what was said of a new one in no case.
        assert!(plain().is_any() && goes_on().is_any() && !resumes().is_any());
        let others = [
            SessionArgs { title: said("t"), ..plain() },
            SessionArgs { model: said("m"), ..plain() },
            SessionArgs { permission_mode: said("plan"), ..plain() },
        ];
        assert!(others.iter().all(|args| !args.is_any()));
        assert!(conversation(ID).is_ok() && conversation("--dangerously").is_err() && conversation("").is_err());
        assert!(one_line("a b").is_ok() && one_line("").is_err() && one_line("a\nb").is_err());
    }
}
