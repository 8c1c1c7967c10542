//! The relay's own process: `serve`, `up --foreground`, and the relay that `up` has started in the background. Starts it,
//! says where it listens, and stays until a signal or an admin ends it; SIGHUP has it read its settings and keys again.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    thread,
};

use clap::{ArgMatches, Args};
use rustix::{process::setsid, termios::tcgetattr};
use signal_hook::{
    consts::{SIGHUP, TERM_SIGNALS},
    iterator::Signals,
};

use super::{
    fail, first_run,
    kept::{Kept, Noted},
    log as logging, out,
    reach::{data_flag, opened, program},
    session::SessionArgs,
    settings::{self, RelayArgs, Settings, Variable, World},
    stray_variables,
    text::path_line,
};
use crate::{
    claude::{close_inherited, environment::Changes},
    reactor::{BoundAddr, Listen},
    relay::hub::Create,
    server::{Agent, DataFolder, Options, Reloader, Server, ShutdownHandle},
};

/// The log of a relay in the background, in its data folder.
pub(super) const LOG: &str = "relay.log";

/// A relay for services.
#[derive(Args, Clone, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub relay: RelayArgs,
    /// As `up` starts it: without a terminal, with the data folder's log
    #[arg(long, hide = true)]
    pub background: bool,
}

/// Why the relay runs.
#[derive(Clone, Debug)]
enum Purpose {
    /// `serve`.
    Service,
    /// `up --foreground`: with this session.
    Session(Box<Create>),
    /// `up` started it.
    Background,
}

impl Purpose {
    /// Whether it is for a person at a terminal: there the demo agent is better than no agent.
    fn is_for_person(&self) -> bool {
        !matches!(self, Self::Service)
    }
}

/// `serve`: a relay for services.
pub(super) fn serve(args: &ServeArgs, matches: &ArgMatches) -> ExitCode {
    let purpose = if args.background { Purpose::Background } else { Purpose::Service };
    run(&args.relay, matches, purpose)
}

/// `up --foreground`: a relay with a session in the current folder.
pub(super) fn foreground(args: &RelayArgs, session: &SessionArgs, matches: &ArgMatches) -> ExitCode {
    run(args, matches, Purpose::Session(Box::new(session.create())))
}

fn run(args: &RelayArgs, matches: &ArgMatches, purpose: Purpose) -> ExitCode {
    let resolved = World::of_process().and_then(|world| {
        let settings = settings::resolve(args, matches, &world)?;
        Ok((Sources { args: args.clone(), matches: matches.clone(), world }, settings))
    });
    let (sources, settings) = match resolved {
        Ok(resolved) => resolved,
        Err(why) => return fail(&why),
    };
    let is_background = matches!(purpose, Purpose::Background);
    if is_background {
        // Of what the shell had open, a lock for instance, nothing is to be held as long as this runs.
        close_inherited();
    }
    let kept = Kept::of_process(&sources.matches, &sources.world, is_background, &settings.keys.value);
    let file = is_background.then(|| settings.data.value.join(LOG));
    if file.is_some() {
        // A session of its own has no terminal, so that closing one ends nothing here. It fails where it is one already.
        let _ = setsid();
    }
    let held = logging::start(settings.log.value, settings.log_format.value, file);
    raise_descriptor_limit();
    stray_variables().iter().for_each(|told| log::warn!("{told}"));
    let started = start(&settings, purpose, kept);
    drop(held);
    let ended = started.and_then(|running| stay(running, Reload { sources, settings }));
    // What the log's own thread has not written yet would end with the process.
    log::logger().flush();
    ended.map_or_else(|why| fail(&why), |()| ExitCode::SUCCESS)
}

/// Every connection is a descriptor, so that the soft limit is no limit of ours.
fn raise_descriptor_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!(error:% = error; "the limit of open files cannot be raised");
    }
}

/// A relay that runs, and what ends with it.
struct Running {
    server: Server,
    folder: DataFolder,
    noted: Noted,
    signals: Signals,
}

fn start(settings: &Settings, purpose: Purpose, kept: Kept) -> Result<Running, String> {
    let data = opened(&settings.data.value)?;
    let host_key = data.host_key().map_err(|error| error.to_string())?;
    let for_person = purpose.is_for_person();
    first_run::keys_file(&data, settings, matches!(purpose, Purpose::Session(_)))?;
    let agent = agent(settings, for_person)?;
    let is_demo = matches!(agent, Agent::Demo);
    let stands_in = is_demo && !settings.demo.value;
    let mut listen = settings.listen.value.clone();
    listen.push(Listen::Unix(data.socket()));
    let first_session = match purpose {
        Purpose::Session(create) => Some(*create),
        Purpose::Service | Purpose::Background => None,
    };
    let explains = first_session.is_some();
    let options = Options {
        workers: settings.workers.value,
        pin: settings.pin.value,
        listen,
        hosts: settings.host.value.clone(),
        environment: environment(&settings.env.value),
        folders: settings.folder.value.clone(),
        // Where a person has set no folders, an admin's sessions may run in any folder.
        open: for_person && settings.folder.origin == settings::Origin::Default,
        grace_ms: settings.grace.value.0,
        first_session,
        amp_verify: settings.amp_verify.value,
        ws_deflate: settings.ws_deflate.value,
        ws_ping_ms: settings.ws_ping.value.0,
        ..Options::new(settings.keys.value.clone(), agent)
    };
    // From here on a signal is kept until it can be obeyed: a program that reads that we listen may end us in the next
    // moment. Not before, so that a question at the first run can be left with Ctrl-C.
    let signals = Signals::new(TERM_SIGNALS.iter().chain([&SIGHUP]));
    let signals = signals.map_err(|error| format!("signals cannot be handled: {error}"))?;
    // Written before the relay listens, so that a client that reaches it finds the file; the addresses are known a
    // moment later.
    let noted = kept.write(&settings.data.value);
    let server = Server::start(&options, host_key).map_err(|error| with_advice(&error.to_string()))?;
    kept.listening(server.addresses()).rewrite(&noted);
    announce(&server).map_err(|error| format!("stdout cannot be written: {error}"))?;
    if explains {
        if stands_in {
            out::note(&format_args!("\n{STANDS_IN}"));
        }
        if is_demo {
            out::note(&format_args!("\n{DEMO_ASKS}"));
        }
        explain(&server, settings);
    }
    Ok(Running { server, folder: data, noted, signals })
}

/// Said where the demo agent answers without having been asked for.
pub(super) const STANDS_IN: &str = "\
Claude Code was not found, so the demo agent answers, with made-up text.
To have the real one: npm install -g @anthropic-ai/claude-code, then log in
with `claude`, then `amp-relay up` again (or name it with --claude PATH).";

/// Said where the demo agent answers: a request for permission does not come by chance.
pub(super) const DEMO_ASKS: &str =
    "The demo agent asks for permission where a prompt has the word `ask`: `please ask me`, for instance.";

/// What to do about a port that is taken is worth a line.
pub(super) fn with_advice(why: &str) -> String {
    if why.contains("in use") {
        return format!("{why}. Another program listens there; choose another place with --listen ADDR:PORT");
    }
    why.to_owned()
}

/// Claude Code, or the demo agent where it was asked for or where a person finds nothing else.
///
/// # Errors
/// The program that was named is none.
pub(super) fn agent(settings: &Settings, for_person: bool) -> Result<Agent, String> {
    if settings.demo.value {
        return Ok(Agent::Demo);
    }
    let agent = Agent::Claude(settings.claude.value.clone());
    if let Some(why) = settings::named_no_program(&settings.claude) {
        if for_person {
            return Err(why);
        }
        // It may be installed while the service runs.
        log::warn!(
            "{why}, so no session can start yet; install Claude Code there, or name it with --claude PATH, or use --demo"
        );
        return Ok(agent);
    }
    match agent.find_claude() {
        Some(_) => Ok(agent),
        None if for_person => Ok(Agent::Demo),
        None => {
            log::warn!(
                "Claude Code was not found, so no session can start yet; install it, or use --claude PATH or --demo"
            );
            Ok(agent)
        }
    }
}

/// What the settings add to the environment of sessions.
fn environment(variables: &[Variable]) -> Changes {
    let mut changes = Changes::default();
    for Variable { name, value } in variables {
        match value.clone().map(Into::into).or_else(|| std::env::var_os(name)) {
            Some(value) => drop(changes.set.insert(name.into(), value)),
            None => log::warn!(name = name.as_str(); "the setting `env` names a variable that the relay does not have"),
        }
    }
    changes
}

/// What is to be said of variables that sessions were to get from this environment, which does not have them.
pub(super) fn not_there(names: &[String]) -> Option<String> {
    let missing: Vec<&str> = names.iter().map(String::as_str).filter(|name| std::env::var_os(name).is_none()).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "The setting `env` names what this terminal's environment does not have, so no session gets it: {}",
            missing.join(", ")
        )
    })
}

/// One line for each listener on stdout, in the order given, the data folder's socket last.
fn announce(server: &Server) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for address in server.addresses() {
        match address {
            BoundAddr::Tcp(address) => writeln!(stdout, "listening ws://{address}")?,
            BoundAddr::Unix(path) => writeln!(stdout, "listening unix:{}", path.display())?,
        }
    }
    stdout.flush()
}

fn explain(server: &Server, settings: &Settings) {
    let Some(session) = server.first_session() else { return };
    let data = data_flag(&settings.data.value);
    let program = program();
    out::note(&format_args!(
        "\n  session {} in {}\n\n  Attach from another terminal:   {program} attach{data}\n  \
         Let another key sign in:        {program} keys add FILE.pub{data}\n  \
         From another machine:           ssh -N -L 5711:{} HOST\n  \
         {:31} amp-relay attach --url ws://127.0.0.1:5711\n\n  Ctrl-C ends the relay and its sessions.\n",
        session.session,
        path_line(&session.folder),
        tunnel(server),
        "",
    ));
}

/// Where a tunnel ends: the first TCP listener.
fn tunnel(server: &Server) -> String {
    let tcp = server.addresses().iter().find_map(|address| match address {
        BoundAddr::Tcp(address) => Some(address.to_string()),
        BoundAddr::Unix(_) => None,
    });
    tcp.unwrap_or_else(|| "RELAY.SOCK".into())
}

/// Waits for the end; the first signal drains, the second ends at once.
fn stay(running: Running, reload: Reload) -> Result<(), String> {
    let Running { server, folder, noted, signals } = running;
    on_signals(signals, server.stopper(), server.reloader(), reload)
        .map_err(|error| format!("signals cannot be handled: {error}"))?;
    let ended = server.join();
    // The folder last: what is in it may be another relay's as soon as this one lets go.
    drop(noted);
    drop(folder);
    ended
}

fn on_signals(mut signals: Signals, stopper: ShutdownHandle, reloader: Reloader, mut reload: Reload) -> io::Result<()> {
    let on_terminal = io::stdin().is_terminal();
    let handle = move || {
        for signal in signals.forever() {
            if signal == SIGHUP && !(on_terminal && terminal_is_gone()) {
                reload.run(&reloader);
                continue;
            }
            if stopper.is_draining() {
                // The guards end what still runs as soon as this process is gone.
                Kept::remove(&reload.settings.data.value);
                log::logger().flush();
                std::process::exit(128 + signal);
            }
            log::info!(signal; "stopping (Ctrl-C again: at once)");
            stopper.drain();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(handle)?;
    Ok(())
}

/// SIGHUP has two senders: an operator, and the system when the terminal closes. What was a terminal answers nothing
/// then.
fn terminal_is_gone() -> bool {
    tcgetattr(io::stdin()).is_err()
}

/// Where settings come from.
struct Sources {
    args: RelayArgs,
    matches: ArgMatches,
    world: World,
}

/// Reads the settings again, and applies those that a running relay can change.
struct Reload {
    sources: Sources,
    /// The settings in force.
    settings: Settings,
}

impl Reload {
    fn run(&mut self, reloader: &Reloader) {
        let Sources { args, matches, world } = &self.sources;
        let fresh = match settings::resolve(args, matches, world) {
            Ok(fresh) => fresh,
            Err(why) => {
                log::error!(why = why.as_str(); "the settings cannot be used, so the ones in force stay");
                return reloader.reload(self.settings.claude.value.clone(), environment(&self.settings.env.value));
            }
        };
        let waiting = settings::changed(&self.settings, &fresh, settings::LIVE);
        if !waiting.is_empty() {
            log::warn!(settings = waiting.join(", ").as_str(); "these settings have changed and wait for a restart");
        }
        log::set_max_level(fresh.log.value);
        reloader.reload(fresh.claude.value.clone(), environment(&fresh.env.value));
        log::info!("the settings and the keys were read again");
        let Settings { claude, env, log, .. } = fresh;
        self.settings = Settings { claude, env, log, ..self.settings.clone() };
    }
}
