//! The relay as a real process in a scratch HOME with a clear environment.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
};

use rustix::process::Signal;

use super::{
    DEADLINE, Key,
    http::{self, Endpoint},
    process, until,
};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_amp-relay");

/// A scratch world: HOME, data folder, a project folder. Whatever still runs in it at the end is killed.
pub struct Scratch {
    /// Removed with this value.
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("amp-relay-").tempdir().expect("a scratch folder");
        let root = folder.path().canonicalize().expect("the scratch folder's path");
        for part in ["home", "project"] {
            fs::create_dir(root.join(part)).expect("a folder in the scratch folder");
        }
        Self { _folder: folder, root }
    }

    /// All of it. Its name is unique, so it marks the processes that belong here.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// The data folder of `serve`; the relay creates it.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The folder that sessions run in.
    pub fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    /// The program, or another build of it that is to be compared, with nothing of the caller's environment but PATH.
    pub fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let other = std::env::var("AMP_RELAY_TEST_ORACLE_PROGRAM");
        self.runs(other.as_deref().unwrap_or(PROGRAM), arguments)
    }

    /// Another program in this world.
    pub fn runs<I: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("LANG", "C.UTF-8")
            .current_dir(self.project())
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Ran {
        Ran::from(self.command(arguments).output().expect("the program starts"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for process in process::of(&self.root) {
            process::signal(process.pid, Signal::KILL);
        }
    }
}

/// A program that ran to its end.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The output of a command that has to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "it failed: {self:#?}");
        self.out
    }

    /// The complaint of a command that has to fail.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(!self.status.success(), "it should have failed: {self:#?}");
        assert!(self.status.code().is_some(), "it died of a signal: {self:#?}");
        self.err
    }
}

/// What a test wants of its relay.
pub struct Options {
    pub scratch: Scratch,
    listen: Vec<String>,
    keys: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    agent: Agent,
    /// Log everything, for the reader of a failed test.
    debug: bool,
    open_files: Option<u32>,
    workers: u16,
}

enum Agent {
    Demo,
    Claude(PathBuf),
}

impl Options {
    /// Adds a listener; without one there is one TCP listener on a free port.
    pub fn listen(mut self, listener: impl Into<String>) -> Self {
        self.listen.push(listener.into());
        self
    }

    /// Adds a line (or several) to the keys file.
    pub fn keys(mut self, lines: &str) -> Self {
        self.keys.push_str(lines);
        self
    }

    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The real CLI instead of the demo agent.
    pub fn claude(mut self, program: &Path) -> Self {
        self.agent = Agent::Claude(program.into());
        self
    }

    /// With so many workers, not two.
    pub fn workers(self, workers: u16) -> Self {
        Self { workers, ..self }
    }

    /// With a limit of open files.
    pub fn open_files(self, limit: u32) -> Self {
        Self { open_files: Some(limit), ..self }
    }

    /// Logs what it logs without being told.
    pub fn usual_log(self) -> Self {
        Self { debug: false, ..self }
    }

    /// The command line of `serve` for these options.
    fn command(&self) -> Command {
        let mut command = self.scratch.command(["serve", "--workers", &self.workers.to_string()]);
        if self.debug {
            command.args(["--log", "debug"]);
        }
        command.arg("--data").arg(self.scratch.data()).arg("--keys").arg(self.scratch.root().join("keys"));
        command.arg("--folder").arg(self.scratch.project());
        for listener in &self.listen {
            command.arg("--listen").arg(listener);
        }
        match &self.agent {
            Agent::Demo => command.arg("--demo"),
            Agent::Claude(program) => command.arg("--claude").arg(program),
        };
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        match self.open_files {
            Some(limit) => limited(&command, limit),
            None => command,
        }
    }

    /// Starts the relay and waits until it listens.
    ///
    /// # Panics
    /// With the relay's own words when it ends instead.
    #[track_caller]
    pub fn start(mut self) -> Relay {
        if self.listen.is_empty() {
            self.listen.push("127.0.0.1:0".into());
        }
        fs::write(self.scratch.root().join("keys"), &self.keys).expect("the keys file");
        let command = self.command();
        Relay::spawn(self.scratch, command, self.listen.len() + 1)
    }

    /// Starts the relay, which has to refuse: gives what it said.
    #[track_caller]
    pub fn refused(self) -> String {
        fs::write(self.scratch.root().join("keys"), &self.keys).expect("the keys file");
        Ran::from(self.command().output().expect("the program starts")).refused()
    }
}

/// The same command with a limit of open files.
fn limited(command: &Command, limit: u32) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\"")).arg(command.get_program());
    shell.args(command.get_args()).env_clear().stdin(Stdio::null());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell
}

/// A running relay. Dropping it kills it and whatever it left.
pub struct Relay {
    pub scratch: Scratch,
    /// As printed, in that order; the data folder's socket is the last.
    pub listeners: Vec<String>,
    child: Child,
    log: PathBuf,
}

impl Relay {
    /// Options for `serve --demo` with these keys as administrators.
    pub fn options(admins: &[&Key]) -> Options {
        let keys = admins.iter().map(|key| key.line("amp-role=\"admin\"")).collect();
        Options {
            scratch: Scratch::new(),
            listen: Vec::new(),
            keys,
            arguments: Vec::new(),
            environment: Vec::new(),
            agent: Agent::Demo,
            debug: true,
            open_files: None,
            workers: 2,
        }
    }

    /// A relay with the demo agent and these administrators.
    #[track_caller]
    pub fn demo(admins: &[&Key]) -> Self {
        Self::options(admins).start()
    }

    /// Spawns `command` and waits for `listeners` lines that say `listening ...`.
    #[track_caller]
    pub fn spawn(scratch: Scratch, mut command: Command, listeners: usize) -> Self {
        let log = scratch.root().join("relay.log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let mut child = command.stdout(Stdio::piped()).stderr(file).spawn().expect("the program starts");
        let lines = lines(child.stdout.take().expect("a pipe"));
        let mut relay = Self { scratch, listeners: Vec::new(), child, log };
        while relay.listeners.len() < listeners {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) => {
                    let listener = line.strip_prefix("listening ");
                    let listener = listener.unwrap_or_else(|| panic!("an unexpected line on stdout: {line:?}"));
                    relay.listeners.push(listener.to_owned());
                }
                Err(_) => panic!("the relay does not listen; its log:\n{}", relay.log()),
            }
        }
        relay
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens: the first that was asked for.
    pub fn tcp(&self) -> Endpoint {
        Endpoint::parse(self.listeners.first().expect("a listener"))
    }

    /// The data folder's socket.
    pub fn unix(&self) -> Endpoint {
        Endpoint::parse(self.listeners.last().expect("a listener"))
    }

    /// The keys file.
    pub fn keys(&self) -> PathBuf {
        self.scratch.root().join("keys")
    }

    /// Its log, once all of `lines` stand in it: a running relay writes its log behind what it does.
    #[track_caller]
    pub fn logged(&self, lines: &[&str]) -> String {
        let missing = |log: &str| lines.iter().find(|line| !log.contains(**line)).copied();
        until(&format!("the log says {lines:?}"), || Some(self.log()).filter(|log| missing(log).is_none()))
    }

    /// What it said on stderr so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `/stats`, parsed.
    pub fn stats(&self) -> serde_json::Value {
        let answer = http::get(&self.unix(), "/stats");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).expect("/stats is JSON")
    }

    /// The sum of a metric over all its labels; 0 where it is absent.
    pub fn metric(&self, name: &str) -> f64 {
        let answer = http::get(&self.unix(), "/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        let values = answer.body.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(i32::try_from(self.pid()).expect("a pid"), signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn exit(&mut self) -> ExitStatus {
        until("the relay has ended", || self.child.try_wait().expect("its status"))
    }

    /// Another command of the same world, told where the relay's data is.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let data = self.scratch.data();
        let mut command = self.scratch.command(arguments);
        command.env("AMP_RELAY_DATA", data);
        Ran::from(command.output().expect("the program starts"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the relay (ended by itself: {ended:?}) said ---\n{}", self.log());
        }
    }
}

/// The lines of a pipe, read by a thread of their own.
pub fn lines(pipe: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Runs a shell line in the scratch world, with this as its input.
pub fn shell(scratch: &Scratch, line: &str, input: &str) -> Ran {
    let mut command = scratch.runs("sh", ["-c", line]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("sh starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writing = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output: Output = child.wait_with_output().expect("it ends");
    // Who has refused reads no further.
    let _ = writing.join();
    Ran::from(output)
}
