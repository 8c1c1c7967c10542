//! `amp-relay up` on a terminal: the relay runs in the background, the session of this folder is started or joined, and
//! the terminal is one of its devices.

use std::{
    io::{self, IsTerminal},
    path::Path,
    process::ExitCode,
};

use clap::{ArgMatches, Args};

use super::{
    attach, background, fail,
    reach::{ReachArgs, command},
    run,
    session::{SessionArgs, real},
    sessions,
    settings::{self, RelayArgs, World},
    text::quoted_field,
};
use crate::{
    client::{Summary, Unreadable},
    server::Agent,
};

/// Joins the session of the current folder, or starts it; a relay is started in the background if none runs. Closing the
/// terminal leaves both running: `amp-relay down` ends them. Where the output is no terminal, and with --foreground, the
/// relay runs in this process instead, and ends with it. With --title, --model, --permission-mode or --resume it is always
/// a new session, beside the one of the folder if there is one.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  amp-relay up                           the session of this folder, on this terminal
  amp-relay up --continue                with the newest conversation of this folder
  amp-relay up --foreground              the relay in this process, until Ctrl-C
  amp-relay down                         ends the relay and its sessions")]
pub(super) struct UpArgs {
    #[command(flatten)]
    session: SessionArgs,
    /// Run the relay in this process, without joining its session
    #[arg(long)]
    foreground: bool,
    #[command(flatten)]
    relay: RelayArgs,
}

/// Said where the relay was started just now.
fn in_background(data: &Path) -> String {
    format!(
        "The relay runs in the background now: closing this terminal ends nothing.\n{} joins from another one, {} ends the \
         relay.",
        command("attach", data),
        command("down", data)
    )
}

/// Said where the relay was started just now, and has no session.
fn goes_on(data: &Path) -> String {
    format!("The relay that was started for it goes on without a session: {} ends it.", command("down", data))
}

/// Runs the verb.
pub(super) fn up(args: &UpArgs, matches: &ArgMatches) -> ExitCode {
    if args.foreground || !io::stdout().is_terminal() {
        return run::foreground(&args.relay, &args.session, matches);
    }
    joined(args, matches).unwrap_or_else(|why| fail(&why))
}

fn joined(args: &UpArgs, matches: &ArgMatches) -> Result<ExitCode, String> {
    let (settings, world) =
        World::of_process().and_then(|world| Ok((settings::resolve(&args.relay, matches, &world)?, world)))?;
    let here = real(Path::new("."))?;
    let data = &settings.data.value;
    let (mut reached, is_new) = background::relay(&settings, matches, &world)?;
    let sessions = sessions::list(&mut reached.connection)?;
    // One of them may be the session of this folder.
    if let Some(odd) = sessions.iter().find(|session| session.is_live() && session.is_unreadable("folder")) {
        let id = sessions::short(&odd.session, &sessions);
        let attach = command(&format!("attach {id}"), data);
        return Err(format!("{}; {attach} joins the session", Unreadable("folder".into())));
    }
    let running = sessions::newest_in(&sessions, Some(&here));
    let (session, created) = match running.filter(|_| args.session.is_any()) {
        Some(session) => (session.session.clone(), false),
        None => {
            let created = args.session.created(&mut reached.connection, Some(&here), &ReachArgs::of(data));
            let refused = |why| if is_new { format!("{why}\n{}", goes_on(data)) } else { why };
            (created.map_err(refused)?.session, true)
        }
    };
    let mut wanted =
        attach::Wanted::session(&session, command(&format!("attach {}", sessions::short(&session, &sessions)), data));
    let is_demo = reached.welcome.profiles.iter().any(|profile| profile.agent == "demo");
    if is_demo && !settings.demo.value && matches!(run::agent(&settings, true)?, Agent::Demo) {
        wanted.notices.push(run::STANDS_IN.into());
    }
    if is_new {
        wanted.notices.push(in_background(data));
    }
    if let Some(other) = running.filter(|_| created) {
        let (title, id) = (quoted_field(&other.title, 32), sessions::short(&other.session, &sessions));
        wanted.notices.push(format!(
            "This is another session beside {title} in this folder, which goes on: {} joins that one.",
            command(&format!("attach {id}"), data)
        ));
    }
    if !created {
        wanted.notices.extend(beside(&session, &sessions, &here, data));
    }
    wanted.notices.extend(created.then(|| args.session.notice()).flatten().map(Into::into));
    attach::join(reached, &wanted)
}

/// Says that the taken session is one of several in its folder, where it is. A list does not say which device made one.
fn beside(taken: &str, sessions: &[Summary], here: &Path, data: &Path) -> Option<String> {
    let others: Vec<&Summary> = sessions::live_in(sessions, Some(here)).filter(|one| one.session != taken).collect();
    let one = others.first()?;
    let (title, id) = (quoted_field(&one.title, 32), sessions::short(&one.session, sessions));
    Some(format!(
        "This session was active last of the {} in this folder: {} joins {title}, and {} lists them all.",
        others.len() + 1,
        command(&format!("attach {id}"), data),
        command("sessions", data)
    ))
}
