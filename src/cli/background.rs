//! The relay behind `up`: finds the one that runs on a data folder, starts one in the background, ends it (`down`).

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{Read, Seek, SeekFrom},
    net::TcpListener,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::{ArgMatches, Args, parser::ValueSource};
use serde_json::json;

use super::{
    first_run,
    kept::Kept,
    out,
    reach::{
        ReachArgs, Reached, VERSION, ask, command, listens, opened, other_version, out_of_reach, reach, reach_any,
    },
    run::{self, LOG},
    sessions,
    settings::{self, Origin, RelayArgs, Settings, Variables, World, given, variable},
    text::{PROGRAM, clean, counted, path_line, shell_quoted},
};
use crate::{
    reactor::Listen,
    relay::Role,
    server::{Agent, DataFolder, private},
};

/// How much of a log is shown where a start failed.
const TAIL_BYTES: u64 = 4 << 10;
/// How long another process that holds the data folder may take to listen, or to let go.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it takes as a rule.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The longest time that --grace can say.
const GRACE_MAX: Duration = Duration::from_secs(3_600);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Said where a relay has ended and no other took its place.
const HAS_ENDED: &str = "\
The relay that ran has ended, with its sessions. Once that is mended, `amp-relay up --continue` goes on with a folder's
conversation; give the flags again that the relay was started with.";

/// Signs in to the relay of the data folder; if none runs, it is started first (true).
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn relay(settings: &Settings, matches: &ArgMatches, world: &World) -> Result<(Reached, bool), String> {
    let data = &settings.data.value;
    let args = ReachArgs::of(data);
    let mut plan = Plan::first(settings, matches, world);
    if listens(data) {
        let mut reached = reach_any(&args, None, "terminal").map_err(|why| with_process(why, data))?;
        let kept = Kept::of_running(data);
        let Some(old) = outdated(&mut reached, settings)? else {
            reached.notices.extend(ignored(matches, &plan, kept.as_ref(), data));
            return Ok((reached, false));
        };
        let mut question = format!("{}\nRestart it now? {}", old.why, settings_of_next(kept.as_ref(), matches));
        let live = live(&mut reached);
        if live != Some(0) {
            let end = if live == Some(1) { "ends" } else { "end" };
            question +=
                &format!(" Its {} {end}; `--continue` goes on with a folder's conversation.", sessions_of(live));
        }
        if !out::agreed(&format_args!("{question} [y/N] ")) {
            reached.notices.extend(ignored(matches, &plan, kept.as_ref(), data));
            return Ok((reached, false));
        }
        if let Some(kept) = kept {
            plan = plan.over(kept, old.runs_demo);
            plan.can_start(settings).map_err(|why| format!("{why}\nThe relay that runs goes on."))?;
        }
        end(reached, Some(data))?;
        start(settings, &plan).map_err(|why| format!("{why}\n{}", args.hinted(HAS_ENDED)))?;
    } else {
        start(settings, &plan)?;
    }
    let mut reached = reach_any(&args, None, "terminal").map_err(|why| with_process(why, data))?;
    reached.notices.extend(run::not_there(&plan.passed(settings)));
    Ok((reached, true))
}

/// How a relay is started.
struct Plan {
    /// The settings that are given to it.
    variables: Variables,
    /// The relay that this one replaces.
    after: Option<Kept>,
}

impl Plan {
    /// With the flags of this call: the variables of this terminal pass by themselves.
    fn first(settings: &Settings, matches: &ArgMatches, world: &World) -> Self {
        let mut variables = given(matches, &[ValueSource::CommandLine], world);
        // The config file that is named may set another data folder than the one looked into here.
        variables.insert(variable::DATA.into(), settings.data.value.clone().into());
        Self { variables, after: None }
    }

    /// The same over what the running relay was started with. `leaves_demo`: the relay is restarted to run the demo
    /// agent no more.
    fn over(self, kept: Kept, leaves_demo: bool) -> Self {
        let mut variables = kept.variables.clone();
        if leaves_demo {
            variables.remove(variable::DEMO);
        }
        variables.extend(self.variables);
        Self { variables, after: Some(kept) }
    }

    /// This program with these settings.
    fn command(&self) -> Result<Command, String> {
        let program = env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
        let mut command = Command::new(program);
        if let Some(kept) = &self.after {
            // The variables of this terminal are not what that relay was started with.
            for name in settings::variables() {
                command.env_remove(name);
            }
            let folder = Path::new(&kept.folder);
            if folder.is_dir() {
                command.current_dir(folder);
            }
        }
        command.envs(&self.variables).stdin(Stdio::null());
        Ok(command)
    }

    /// Looks for what would keep the relay from starting, while the relay that it replaces still runs.
    fn can_start(&self, settings: &Settings) -> Result<(), String> {
        let mut command = self.command()?;
        let checked = command.args(["config", "check"]).output();
        let checked = checked.map_err(|error| format!("the settings cannot be checked: {error}"))?;
        if !checked.status.success() {
            let why = clean(&String::from_utf8_lossy(&checked.stderr));
            // What is said before why it fails is no reason.
            let why = format!("\n{}", why.trim());
            let why = why.rsplit(&format!("\n{PROGRAM}")).next().unwrap_or_default();
            return Err(format!("no relay can be started with the settings of the one that runs: {why}"));
        }
        let Some(kept) = &self.after else { return Ok(()) };
        let is_kept = kept.variables.contains_key(variable::LISTEN);
        match settings.listen.origin {
            Origin::Flag(_) => {}
            Origin::File(..) | Origin::Default if !is_kept => {}
            _ => return Ok(()),
        }
        for listen in &settings.listen.value {
            if let Listen::Tcp(address) = listen
                && !kept.holds(*address)
                && let Err(error) = TcpListener::bind(address)
            {
                return Err(run::with_advice(&format!("{}: {address}: {error}", settings.listen.origin)));
            }
        }
        Ok(())
    }

    /// The names of the variables that sessions are to get from the relay's environment.
    fn passed(&self, settings: &Settings) -> Vec<String> {
        let Some(given) = self.variables.get(variable::ENV) else {
            let passed = settings.env.value.iter().filter(|variable| variable.value.is_none());
            return passed.map(|variable| variable.name.clone()).collect();
        };
        given
            .to_string_lossy()
            .lines()
            .filter(|entry| !entry.is_empty() && !entry.contains('='))
            .map(str::to_owned)
            .collect()
    }
}

/// Says which settings the relay will have that replaces the running one.
fn settings_of_next(kept: Option<&Kept>, matches: &ArgMatches) -> String {
    let Some(kept) = kept else {
        return "The new one has the settings of this command and this terminal alone: what flags and variables the one \
                that runs was started with is not known here, so give them again, or answer n."
            .into();
    };
    let mut text = "The new one has the settings that it was started with".to_owned();
    if !relay_flags(matches, &UNSAID).is_empty() {
        text += ", and the flags of this command over them";
    }
    if !kept.background {
        text += ". It runs in the background, unlike the one that runs, and there an admin may use every folder where \
                 no --folder is set";
    }
    text + "."
}

/// Why a relay that answers cannot be told to end, with what ends it all the same.
fn with_process(why: String, data: &Path) -> String {
    match DataFolder::holder(data).filter(|_| listens(data)) {
        Some(pid) => {
            format!("{why}\nthe relay that runs is process {pid}: `kill {pid}` ends it, with all its sessions")
        }
        None => why,
    }
}

/// What is wrong with a relay that runs.
struct Outdated {
    why: String,
    /// It runs the demo agent.
    runs_demo: bool,
}

/// What is wrong with the relay that runs, if a restart would mend it.
fn outdated(reached: &mut Reached, settings: &Settings) -> Result<Option<Outdated>, String> {
    if reached.welcome.role != Role::Admin.name() {
        return Ok(None);
    }
    if let Some(version) = other_version(reached) {
        let why = format!("The relay that runs is amp-relay {version}, and this program is {VERSION}.");
        return Ok(Some(Outdated { why, runs_demo: false }));
    }
    let default = reached.welcome.profiles.iter().find(|profile| profile.name == "default");
    let runs_demo = default.is_some_and(|profile| profile.agent == "demo");
    let wanted = run::agent(settings, true)?;
    Ok(match (runs_demo, matches!(wanted, Agent::Demo)) {
        (true, false) => {
            let why = "The relay that runs answers with the demo agent, and Claude Code is there now.".into();
            Some(Outdated { why, runs_demo: true })
        }
        (false, true) if settings.demo.value => {
            return Err(format!(
                "the relay that runs on {} answers with Claude Code: {} ends it, and --data DIR gives the demo agent one \
                 of its own",
                path_line(&settings.data.value),
                command("down", &settings.data.value)
            ));
        }
        _ => None,
    })
}

/// Flags that change nothing where a relay runs, and of which that is not to be said.
const UNSAID: [&str; 3] = ["data", "config", "demo"];

/// Says which flags of this command change nothing: they are for a relay that `up` starts, and the running relay keeps
/// its own settings. None where these are the same.
fn ignored(matches: &ArgMatches, plan: &Plan, kept: Option<&Kept>, data: &Path) -> Option<String> {
    let has = |(name, value): (&String, &OsString)| {
        UNSAID.iter().any(|id| *name == variable::of(id))
            || kept.is_some_and(|kept| kept.variables.get(name) == Some(value))
    };
    let flags = relay_flags(matches, &UNSAID);
    if flags.is_empty() || plan.variables.iter().all(has) {
        return None;
    }
    let flags: Vec<_> = flags.iter().map(|flag| shell_quoted(&flag.to_string_lossy())).collect();
    let (changes, it) = if flags.len() == 1 { ("changes", "it") } else { ("change", "them") };
    let flags = flags.join(" ");
    Some(format!(
        "A relay runs already and keeps the settings it was started with, so {flags} {changes} nothing now. \
         A new relay takes {it}: {} ends the one that runs, with all its sessions, and then {} starts the new one; give \
         that the other flags again that it is to have.",
        command("down", data),
        command(&format!("up {flags}"), data)
    ))
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// The relay's flags as they were given, without some.
fn relay_flags(matches: &ArgMatches, without: &[&str]) -> Vec<OsString> {
    let known = RelayArgs::augment_args(clap::Command::new("relay"));
    let mut flags = Vec::new();
    for arg in known.get_arguments() {
        let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        if without.contains(&id) || !is_given(matches, id) {
            continue;
        }
        if !arg.get_action().takes_values() {
            flags.push(format!("--{long}").into());
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            let mut flag = OsString::from(format!("--{long}="));
            flag.push(value);
            flags.push(flag);
        }
    }
    flags
}

/// Starts a relay and waits until it listens.
fn start(settings: &Settings, plan: &Plan) -> Result<(), String> {
    let data = &settings.data.value;
    // Where one ran, the folder and its keys are made.
    if plan.after.is_none() && !prepare(settings)? {
        return Ok(());
    }
    let path = data.join(LOG);
    let mut log = private()
        .create(true)
        .read(true)
        .append(true)
        .open(&path)
        .map_err(|error| format!("{}: {error}", path_line(&path)))?;
    let before = log.seek(SeekFrom::End(0)).unwrap_or(0);
    let stderr = log.try_clone().map_err(|error| format!("{}: {error}", path_line(&path)))?;
    let mut command = plan.command()?;
    let mut child = command
        .args(["serve", "--background"])
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|error| format!("{} cannot be started: {error}", command.get_program().to_string_lossy()))?;
    if has_begun(&mut child, data) || listens_soon(data) {
        return Ok(());
    }
    Err(format!("the relay did not start. Its log, {}, says:\n{}", path_line(&path), tail(&mut log, before)))
}

/// Makes the data folder and its keys, asking about them here, where the person is. False: another process has started
/// a relay meanwhile.
fn prepare(settings: &Settings) -> Result<bool, String> {
    let data = &settings.data.value;
    if DataFolder::is_held(data) && listens_soon(data) {
        return Ok(false);
    }
    let folder = opened(data)?;
    run::agent(settings, true)?;
    first_run::keys_file(&folder, settings, true)?;
    Ok(true)
}

/// Waits until the relay listens; false where it ends instead, or says nothing for too long.
fn has_begun(child: &mut Child, data: &Path) -> bool {
    within(PATIENCE, || listens(data) || child.try_wait().is_ok_and(|ended| ended.is_some())) && listens(data)
}

/// Waits for another process's relay; says what it waits for where that takes longer than a start or an end.
fn listens_soon(data: &Path) -> bool {
    let is_settled = || listens(data) || !DataFolder::is_held(data);
    if !within(AT_ONCE, is_settled)
        && let Some(held) = out_of_reach(data)
    {
        out::note(&held);
        within(PATIENCE, is_settled);
    }
    listens(data)
}

fn within(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
    true
}

/// The end of what a log says since a place in it.
fn tail(log: &mut File, since: u64) -> String {
    let end = log.seek(SeekFrom::End(0)).unwrap_or(0);
    let mut said = Vec::new();
    let _ = log.seek(SeekFrom::Start(since.max(end.saturating_sub(TAIL_BYTES))));
    let _ = log.take(TAIL_BYTES).read_to_end(&mut said);
    let said = clean(&String::from_utf8_lossy(&said));
    if said.trim().is_empty() { "(nothing)".into() } else { said.trim_end().to_owned() }
}

/// How many sessions end with a relay. Where that cannot be read it is not known, and ends it no less: it may be of
/// another version, and has to go for that.
fn live(reached: &mut Reached) -> Option<u64> {
    let sessions = sessions::list(&mut reached.connection).ok()?;
    Some(sessions.iter().filter(|session| session.is_live()).count() as u64)
}

fn sessions_of(live: Option<u64>) -> String {
    live.map_or_else(|| "live sessions, whose list cannot be read,".into(), |live| counted(live, "live session"))
}

/// Ends the relay of this machine, with all its sessions.
#[derive(Args, Clone, Debug)]
pub(super) struct DownArgs {
    #[command(flatten)]
    reach: ReachArgs,
}

/// Runs `down`.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn down(args: &DownArgs) -> Result<ExitCode, String> {
    let data = args.reach.data()?;
    let here = args.reach.url.is_none();
    let refused = |why| if here { with_process(why, &data) } else { why };
    let mut reached = reach(&args.reach, None, "command line").map_err(refused)?;
    let live = sessions_of(live(&mut reached));
    end(reached, here.then_some(data.as_path()))?;
    let ends = if here { "has ended" } else { "stops" };
    out::note(&format_args!("the relay {ends}, and its {live} with it"));
    Ok(ExitCode::SUCCESS)
}

/// Tells a relay to end; waits for that where it is the one of this data folder.
fn end(mut reached: Reached, here: Option<&Path>) -> Result<(), String> {
    let asked = ask(&mut reached.connection, json!({"type": "relay", "op": "stop"}));
    let Some(data) = here else { return asked.map(drop) };
    asked.map_err(|why| with_process(why, data))?;
    stopped(reached, data)
}

/// Waits until a relay that was told to end has let go of its data folder: it gives its sessions the time of --grace.
fn stopped(reached: Reached, data: &Path) -> Result<(), String> {
    drop(reached);
    let is_free = || !DataFolder::is_held(data);
    if within(PATIENCE, is_free) {
        return Ok(());
    }
    let pid = DataFolder::holder(data).unwrap_or_default();
    out::note(&format_args!("the relay (process {pid}) gives its sessions time to end; `kill {pid}` ends all at once"));
    if within(GRACE_MAX, is_free) {
        return Ok(());
    }
    Err(format!("the relay (process {pid}) has not ended: `kill -9 {pid}` ends it"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::{Command, FromArgMatches};

    use super::*;

    /// What `up` was called with, where a config that lies in the folder `here` names a data folder beside it.
    fn called(here: &Path, arguments: &[&str]) -> (Settings, ArgMatches, World) {
        std::fs::write(here.join("config.toml"), "data = \"beside\"\n").expect("a config");
        let command = RelayArgs::augment_args(Command::new("up")).mut_args(|arg| arg.env(None::<&str>));
        let arguments = [&["up", "--config", "config.toml"], arguments].concat();
        let matches = command.try_get_matches_from(arguments).expect("known flags");
        let args = RelayArgs::from_arg_matches(&matches).expect("known flags");
        let world = World { home: None, config_home: None, state_home: None, here: here.to_owned(), cores: 1 };
        (settings::resolve(&args, &matches, &world).expect("good settings"), matches, world)
    }

    #[test]
    fn the_relay_that_is_started_has_the_data_folder_that_is_looked_into() {
        let scratch = tempfile::tempdir().expect("a folder");
        let (settings, matches, world) = called(scratch.path(), &[]);
        let plan = Plan::first(&settings, &matches, &world);
        let command = plan.command().expect("this program");
        let data = command.get_envs().find(|(name, _)| *name == variable::DATA).and_then(|(_, value)| value);
        // It may run in another folder, and that of the config is beside this one.
        assert_eq!(data, Some(scratch.path().join("beside").as_os_str()));
    }

    #[test]
    fn what_changes_nothing_is_told_of_one_flag_and_of_several() {
        let scratch = tempfile::tempdir().expect("a folder");
        for (flags, said) in [
            (&["--log=debug"][..], "so --log=debug changes nothing now. A new relay takes it: "),
            (&["--log=debug", "--pin"], "so --pin --log=debug change nothing now. A new relay takes them: "),
        ] {
            let (settings, matches, world) = called(scratch.path(), flags);
            let plan = Plan::first(&settings, &matches, &world);
            let told = ignored(&matches, &plan, None, &settings.data.value).expect("they are not heeded");
            assert!(told.contains(said) && told.contains("ends the one that runs, with all its sessions"), "{told}");
        }
    }

    #[test]
    fn nothing_is_told_of_flags_that_the_running_relay_has() {
        let scratch = tempfile::tempdir().expect("a folder");
        // The data folder that `up` names to a relay is no flag of the one that was started without it.
        for (started_with, is_told) in [(&["--pin"][..], false), (&["--pin", "--log=debug"], false), (&[], true)] {
            let (_, matches, world) = called(scratch.path(), started_with);
            let kept = Kept::of_process(&matches, &world, true, Path::new("keys"));
            let (settings, matches, world) = called(scratch.path(), &["--pin"]);
            let plan = Plan::first(&settings, &matches, &world);
            let told = ignored(&matches, &plan, Some(&kept), &settings.data.value);
            assert_eq!(told.is_some(), is_told, "{started_with:?}: {told:?}");
        }
    }

    #[test]
    fn the_end_of_a_log_is_shown_and_no_control_character_of_it() {
        let mut log = tempfile::tempfile().expect("a file");
        log.write_all(&[b"older\n", &[b'x'; 2 * TAIL_BYTES as usize][..], b"\nwhy \x1b[2Jit failed\n"].concat())
            .expect("written");
        let said = tail(&mut log, 6);
        assert!(
            said.len() <= 2 * TAIL_BYTES as usize && said.contains("it failed") && !said.contains('\x1b'),
            "{said}"
        );
        let end = log.metadata().expect("its size").len();
        assert_eq!(tail(&mut log, end), "(nothing)");
    }

    #[test]
    fn the_relay_that_takes_a_place_starts_where_the_other_did_if_that_is_there() {
        let scratch = tempfile::tempdir().expect("a folder");
        let (settings, matches, world) = called(scratch.path(), &[]);
        for (folder, is_there) in [("here", true), ("gone", false)] {
            let here = scratch.path().join(folder);
            if is_there {
                std::fs::create_dir(&here).expect("a folder");
            }
            let kept =
                Kept::of_process(&matches, &World { here: here.clone(), ..world.clone() }, true, Path::new("keys"));
            let command = Plan::first(&settings, &matches, &world).over(kept, false).command().expect("this program");
            // It would not start in a folder that is gone.
            assert_eq!(command.get_current_dir(), is_there.then_some(&*here));
        }
    }

    #[test]
    fn only_variables_that_are_passed_on_are_looked_for() {
        let scratch = tempfile::tempdir().expect("a folder");
        let (settings, matches, world) = called(scratch.path(), &["--env", "SET=here", "--env", "PASSED"]);
        assert_eq!(Plan::first(&settings, &matches, &world).passed(&settings), ["PASSED"]);
    }
}
