//! `up` and `serve`: makes what a first run needs, starts the relay, and stays until a signal ends it.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use clap::ArgMatches;
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};
use ssh_key::{PrivateKey, PublicKey};

use super::{
    fail, log as logging,
    settings::{self, RelayArgs, Settings, World},
};
use crate::{
    reactor::{BoundAddr, Listen},
    relay::{Role, keys},
    server::{Agent, DataFolder, Options, Server, Services, Stopper},
};

/// `serve`: a relay for services.
pub(super) fn serve(args: &RelayArgs, matches: &ArgMatches) -> ExitCode {
    run(args, matches, false)
}

/// `up`: a relay with a session in the current folder.
pub(super) fn up(args: &RelayArgs, matches: &ArgMatches) -> ExitCode {
    run(args, matches, true)
}

fn run(args: &RelayArgs, matches: &ArgMatches, session: bool) -> ExitCode {
    let settings = match World::of_process().and_then(|world| settings::resolve(args, matches, &world)) {
        Ok(settings) => settings,
        Err(why) => return fail(&why),
    };
    logging::start(settings.log.value, settings.log_format.value);
    raise_descriptor_limit();
    match start(&settings, session) {
        Ok((server, folder, signals)) => stay(server, folder, signals),
        Err(why) => fail(&why),
    }
}

/// Every connection is a descriptor, so that the soft limit is no limit of ours.
fn raise_descriptor_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!(error:% = error; "the limit of open files cannot be raised");
    }
}

fn start(settings: &Settings, session: bool) -> Result<(Server, DataFolder, Signals), String> {
    let data = DataFolder::open(&settings.data.value).map_err(|error| error.to_string())?;
    let host_key = data.host_key().map_err(|error| error.to_string())?;
    let client_key = data.client_key().map_err(|error| error.to_string())?;
    keys_file(&data, settings, &client_key, session)?;
    let agent = agent(settings, session);
    if let (true, Some(named), None) = (session && !settings.demo.value, &settings.claude.value, agent.find_claude()) {
        return Err(format!("{}: {} is not a program that can be run", settings.claude.origin, named.display()));
    }
    let stands_in = matches!(agent, Agent::Demo) && !settings.demo.value;
    let mut listen = settings.listen.value.clone();
    listen.push(Listen::Unix(data.socket()));
    let options = Options {
        workers: settings.workers.value,
        pin: settings.pin.value,
        listen,
        hosts: settings.host.value.clone(),
        keys: settings.keys.value.clone(),
        agent,
        folders: settings.folder.value.clone(),
        grace_ms: settings.grace.value.0,
        first_session: session,
        services: Services::default(),
        amp_verify: settings.amp_verify.value,
        ws_deflate: settings.ws_deflate.value,
    };
    // From here on a signal is kept until it can be obeyed: whoever reads that we listen may end us in the next moment.
    // Not before, so that a question at the first run can be left with Ctrl-C.
    let signals = Signals::new(TERM_SIGNALS).map_err(|error| format!("signals cannot be handled: {error}"))?;
    let server = Server::start(&options, host_key).map_err(|error| with_advice(&error.to_string()))?;
    announce(&server).map_err(|error| format!("stdout cannot be written: {error}"))?;
    if stands_in {
        eprintln!(
            "\n  Claude Code was not found, so the demo agent answers, with made-up text.\n  \
             To talk to Claude Code: npm install -g @anthropic-ai/claude-code, run `claude` once to log in,\n  \
             and start `up` again (or name the program with --claude PATH)."
        );
    }
    if session {
        explain(&server, settings);
    }
    Ok((server, data, signals))
}

/// What to do about a port that is taken is worth a line.
fn with_advice(why: &str) -> String {
    if why.contains("in use") {
        return format!("{why}. Another program listens there; choose another place with --listen ADDR:PORT");
    }
    why.to_owned()
}

/// Makes the keys file on the first run; on a terminal, `up` offers the person's own keys.
fn keys_file(data: &DataFolder, settings: &Settings, client: &PrivateKey, session: bool) -> Result<(), String> {
    let path = &settings.keys.value;
    if path.exists() {
        return Ok(());
    }
    let own = client.public_key().to_openssh().map_err(|error| format!("the client key: {error}"))?;
    let mut lines = vec![line(&own, Role::Admin)?];
    if session && io::stdin().is_terminal() && io::stderr().is_terminal() {
        for (file, key) in public_keys_of_home() {
            if asked(&format!("Let the key {} sign in to this relay as admin? [y/N] ", file.display())) {
                lines.push(line(&key, Role::Admin)?);
            }
        }
    }
    data.ensure_keys_file(path, &lines).map_err(|error| error.to_string())?;
    Ok(())
}

fn line(public: &str, role: Role) -> Result<String, String> {
    keys::line_for(public, role).map(|(line, _)| line.trim_end().to_owned()).map_err(|error| error.to_string())
}

/// `~/.ssh/*.pub`, those that can be read.
fn public_keys_of_home() -> Vec<(PathBuf, String)> {
    let Some(home) = std::env::var_os("HOME") else { return Vec::new() };
    let Ok(entries) = fs::read_dir(Path::new(&home).join(".ssh")) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        let text = text.trim().to_owned();
        PublicKey::from_openssh(&text).ok()?;
        Some((path, text))
    };
    paths.into_iter().filter_map(read).collect()
}

fn asked(question: &str) -> bool {
    eprint!("{question}");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Claude Code, or the demo agent where it was asked for or where `up` finds nothing else.
fn agent(settings: &Settings, session: bool) -> Agent {
    if settings.demo.value {
        return Agent::Demo;
    }
    let agent = Agent::Claude(settings.claude.value.clone());
    if !session && agent.find_claude().is_none() {
        // It may be installed while the service runs.
        log::warn!(
            "Claude Code was not found, so no session can start yet; install it, or use --claude PATH or --demo"
        );
    }
    if session && settings.claude.value.is_none() && agent.find_claude().is_none() {
        return Agent::Demo;
    }
    agent
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
    let data = match settings.data.origin {
        settings::Origin::Default => String::new(),
        _ => format!(" --data {}", quoted(&settings.data.value.to_string_lossy())),
    };
    let program = program();
    eprintln!(
        "\n  session {} in {}\n\n  Attach from another terminal:   {program} attach{data}\n  \
         Let another key sign in:        {program} keys add FILE.pub{data}\n  \
         From another machine:           ssh -N -L 5711:{} HOST\n  \
         {:31} amp-relay attach --url ws://127.0.0.1:5711\n\n  Ctrl-C ends the relay and its sessions.\n",
        session.session,
        session.folder.display(),
        tunnel(server),
        "",
    );
}

/// This program as another terminal can call it: by its name where PATH leads here, else by its path.
fn program() -> String {
    const NAME: &str = "amp-relay";
    let Ok(own) = std::env::current_exe() else { return NAME.into() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(NAME)).find(|path| path.is_file());
    let is_own = found.and_then(|found| found.canonicalize().ok()).is_some_and(|found| found == own);
    if is_own { NAME.into() } else { quoted(&own.to_string_lossy()) }
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', "'\\''")) }
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
fn stay(server: Server, folder: DataFolder, signals: Signals) -> ExitCode {
    if let Err(error) = on_signals(signals, server.stopper()) {
        return fail(&format!("signals cannot be handled: {error}"));
    }
    let ended = server.join();
    drop(folder);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

fn on_signals(mut signals: Signals, stopper: Stopper) -> io::Result<()> {
    let handle = move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                // The guards end what still runs as soon as this process is gone.
                std::process::exit(128 + signal);
            }
            log::info!(signal; "ending; a second signal ends at once");
            stopper.drain();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(handle)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_pasted() {
        assert_eq!(quoted("/home/you/target/release/amp-relay"), "/home/you/target/release/amp-relay");
        assert_eq!(quoted("/my work/it's"), "'/my work/it'\\''s'");
        assert!(!program().is_empty());
    }
}
