//! Servers that the harness starts itself, and ends: a relay in a scratch folder with a clear environment, or the
//! baseline.
//!
//! Must not decide what is measured: it only makes sure that both kinds start alike, on the CPUs they are given.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::measure;

/// Name of the relay's program.
const RELAY: &str = "amp-relay";
const LOG_SHOWN: usize = 2000;

/// The relay's program beside this one, where a build puts it.
pub(crate) fn relay_beside_us() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    // A test's own program is one folder further down.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(RELAY)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let folder = own.parent().unwrap_or(Path::new(".")).display();
        format!("there is no {RELAY} in {folder}: build the workspace, or name the program with --relay")
    })
}

/// A relay of the harness's own; it ends with this value.
#[derive(Debug)]
pub(crate) struct Relay {
    child: Child,
    url: String,
    /// Held, so that what it prints later has somewhere to go.
    _out: BufReader<ChildStdout>,
    _scratch: tempfile::TempDir,
}

impl Relay {
    /// Starts `program serve` with these lines as its keys file.
    ///
    /// # Errors
    /// It does not start, or ends before it listens: with what it logged.
    pub(crate) fn start(program: &Path, keys: &str, workers: u32, cpus: Option<&[usize]>) -> io::Result<Self> {
        let scratch = tempfile::Builder::new().prefix("loadtest-").tempdir()?;
        let path = |name: &str| scratch.path().join(name);
        fs::write(path("keys"), keys)?;
        fs::create_dir(path("home"))?;
        let log = fs::File::create(path("log"))?;
        // The relay starts in another folder than ours, where a relative path would lead elsewhere; a bare name is looked up.
        let is_path = program.components().count() > 1;
        let mut command = Command::new(if is_path { std::path::absolute(program)? } else { program.to_owned() });
        command
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--log", "warn", "--workers", &workers.to_string()])
            .args(["--data".as_ref(), path("data").as_os_str(), "--keys".as_ref(), path("keys").as_os_str()])
            .args(["--folder".as_ref(), path("home").as_os_str()])
            .env_clear()
            .env("HOME", path("home"))
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = measure::on_cpus(cpus, || command.spawn())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        let Some(out) = child.stdout.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut relay = Self { child, url: String::new(), _out: BufReader::new(out), _scratch: scratch };
        let mut line = String::new();
        while relay.url.is_empty() && relay._out.read_line(&mut line)? > 0 {
            if let Some(url) = line.trim().strip_prefix("listening ").filter(|url| url.starts_with("ws://")) {
                relay.url = url.to_owned();
            }
            line.clear();
        }
        if relay.url.is_empty() {
            let log = fs::read_to_string(relay._scratch.path().join("log")).unwrap_or_default();
            let log: String = log.chars().take(LOG_SHOWN).collect();
            return Err(io::Error::other(format!("{} did not listen: {}", program.display(), log.trim())));
        }
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A forwarder in a process of its own; it ends with this value.
#[derive(Debug)]
pub struct Baseline {
    child: Child,
    url: String,
}

impl Baseline {
    /// Starts `program baseline-server`, `program` being this one as a rule.
    ///
    /// # Errors
    /// It does not start, or does not say where it listens.
    pub fn start(program: &Path, cpu: Option<usize>) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(["baseline-server", "--until-eof"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let mut baseline = Self { child: command.spawn()?, url: String::new() };
        let out = baseline.child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        BufReader::new(out).read_line(&mut baseline.url)?;
        baseline.url.truncate(baseline.url.trim_end().len());
        if baseline.url.is_empty() {
            return Err(io::Error::other("the forwarder ended at once"));
        }
        Ok(baseline)
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server of either kind.
#[derive(Debug)]
pub(crate) enum Server {
    Baseline(Baseline),
    Relay(Relay),
}

impl Server {
    /// A baseline.
    pub(crate) fn baseline(cpus: Option<&[usize]>) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        // A test's own program is one folder below the harness's.
        let beside = program.parent().and_then(Path::parent).map(|folder| folder.join("loadtest"));
        let is_own = program.file_stem().is_some_and(|name| name == "loadtest");
        let program = beside.filter(|beside| !is_own && beside.is_file()).unwrap_or(program);
        let baseline = measure::on_cpus(cpus, || Baseline::start(&program, None));
        baseline.map(Self::Baseline).map_err(|error| format!("the baseline: {error}"))
    }

    /// A relay.
    pub(crate) fn relay(program: &Path, keys: &str, workers: u32, cpus: Option<&[usize]>) -> Result<Self, String> {
        Relay::start(program, keys, workers, cpus).map(Self::Relay).map_err(|error| format!("the relay: {error}"))
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Baseline(baseline) => baseline.url(),
            Self::Relay(relay) => &relay.url,
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Baseline(baseline) => baseline.pid(),
            Self::Relay(relay) => relay.child.id(),
        }
    }
}

/// Which CPUs the server and the harness have. They do not share one where there are two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) server: Option<Vec<usize>>,
    pub(crate) load: Option<usize>,
}

impl Places {
    /// Those that are named, or the first two that we may use; none where there is only one.
    pub(crate) fn choose(server: &[usize], load: Option<usize>, pin: bool) -> Self {
        let all = measure::cpus();
        if !pin || (all.len() < 2 && server.is_empty() && load.is_none()) {
            return Self { server: None, load: None };
        }
        let server = if server.is_empty() {
            all.iter().copied().filter(|&cpu| Some(cpu) != load).take(1).collect()
        } else {
            server.to_vec()
        };
        let load = load.or_else(|| all.into_iter().find(|cpu| !server.contains(cpu)));
        Self { server: Some(server), load }
    }

    /// In words.
    pub(crate) fn text(&self) -> String {
        let server = match &self.server {
            Some(cpus) => format!("server on CPU {}", cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
            None => "server on any CPU".into(),
        };
        match self.load {
            Some(cpu) => format!("{server}, load on CPU {cpu}"),
            None => format!("{server}, load on any CPU"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_and_load_get_cpus_of_their_own() {
        assert_eq!(Places::choose(&[], None, false), Places { server: None, load: None });
        let named = Places::choose(&[0], Some(7), true);
        assert_eq!((named.text(), named.load), ("server on CPU 0, load on CPU 7".into(), Some(7)));
        let chosen = Places::choose(&[], None, true);
        if let (Some(server), Some(load)) = (&chosen.server, chosen.load) {
            assert!(!server.contains(&load), "{chosen:?}");
        }
    }

    #[test]
    fn a_relay_that_does_not_start_is_told_of() {
        let missing = Relay::start(Path::new("/nonexistent/relay"), "", 1, None).expect_err("no such program");
        assert!(missing.to_string().contains("/nonexistent/relay"), "{missing}");
        let silent = Relay::start(Path::new("/bin/true"), "", 1, None).expect_err("it ends at once");
        assert!(silent.to_string().contains("did not listen"), "{silent}");
    }
}
