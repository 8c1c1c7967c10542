//! The suite as a process, and the server under test.
#![allow(unreachable_pub, reason = "a module of one test program")]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use amp_relay::{
    base::{ConnToken, Fault},
    reactor::{
        BoundAddr, Handle, Listen, Options, Peer, Reactor, Sent,
        ws::{Answer, Data, Ws, WsHandler, WsIo, WsOptions},
    },
    wire::{http::Head, ws::deflate::DeflateOptions},
};

/// No case takes longer. Nothing is asserted about time: this turns a hang into a failure.
const SILENCE_MAX: Duration = Duration::from_secs(900);
/// The suite's largest message has 16 MiB.
pub const MESSAGE_MAX: usize = 32 << 20;

/// The settings of both roles. Everything that may be compressed is, so that no case passes for want of size.
pub fn deflate(takeover: bool) -> DeflateOptions {
    DeflateOptions { takeover, threshold: 1, ..DeflateOptions::default() }
}

/// How a case ended.
#[derive(Debug)]
pub struct Outcome {
    pub case: String,
    pub behavior: String,
    pub close: String,
    pub took_ms: u64,
    pub said: String,
}

impl Outcome {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("RESULT ")?.splitn(5, ' ').map(str::to_owned);
        let (case, behavior, close) = (fields.next()?, fields.next()?, fields.next()?);
        let took_ms = fields.next()?.parse().ok()?;
        Some(Self { case, behavior, close, took_ms, said: fields.next().unwrap_or_default() })
    }
}

/// Where the suite is.
pub struct Suite {
    python: PathBuf,
    packages: PathBuf,
}

impl Suite {
    /// Looks for CPython 2.7 and for the packages. Says loudly what is missing; only packages that could not be
    /// installed where Python is fail the test, and only where `CI=true`.
    pub fn find() -> Option<Self> {
        let Some(python) = candidates().into_iter().find(|path| is_cpython_27(path)) else {
            skip("no CPython 2.7 is here (looked for python2.7 on the PATH and among pyenv's versions)");
            return None;
        };
        let packages = match env::var_os("AMP_RELAY_TEST_AUTOBAHN") {
            Some(folder) => PathBuf::from(folder),
            None => cache().join("amp-relay/autobahn-25.10.1"),
        };
        if packages.join("autobahntestsuite").is_dir() {
            return Some(Self { python, packages });
        }
        assert!(env::var("CI").as_deref() != Ok("true"), "{} does not hold the suite", packages.display());
        skip(&format!("{} does not hold the suite; ./tests/run autobahn installs it", packages.display()));
        None
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/autobahn/suite.py");
        Command::new(&self.python)
            .args(["-W", "ignore", "-B"])
            .arg(script)
            .args(arguments)
            .env("PYTHONPATH", &self.packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the suite starts")
    }

    /// Runs the suite as a client of the server at `url`.
    pub fn against(&self, url: &str, cases: &[&str]) -> Vec<Outcome> {
        let mut lines = Lines::of(self.spawn(&[&["client", url][..], cases].concat()));
        let outcomes = std::iter::from_fn(|| lines.next()).filter_map(|line| Outcome::parse(&line)).collect();
        lines.end();
        outcomes
    }

    /// Runs the suite as a server, which `client` works through.
    pub fn serving(&self, cases: &[&str], client: impl FnOnce(SocketAddr)) -> Vec<Outcome> {
        let mut lines = Lines::of(self.spawn(&[&["server"][..], cases].concat()));
        let port = loop {
            let line = lines.next().expect("the suite says its port");
            if let Some(port) = line.strip_prefix("PORT ") {
                break port.parse().expect("a number");
            }
        };
        client(SocketAddr::from(([127, 0, 0, 1], port)));
        drop(lines.child.stdin.take());
        let outcomes = std::iter::from_fn(|| lines.next()).filter_map(|line| Outcome::parse(&line)).collect();
        lines.end();
        outcomes
    }
}

/// The lines of a process, read while it runs.
struct Lines {
    child: Child,
    lines: mpsc::Receiver<String>,
    last: String,
}

impl Lines {
    fn of(mut child: Child) -> Self {
        let (sender, lines) = mpsc::channel();
        let stdout: ChildStdout = child.stdout.take().expect("it is piped");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, last: String::new() }
    }

    fn next(&mut self) -> Option<String> {
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => {
                if env::var_os("AMP_RELAY_TEST_AUTOBAHN_ALL").is_some() {
                    // That takes an hour: it is good to see where it is.
                    eprintln!("{line}");
                }
                self.last.clone_from(&line);
                Some(line)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the suite says nothing more after: {}", self.last),
        }
    }

    fn end(mut self) {
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "the suite ended with {status} after: {}", self.last);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn skip(why: &str) {
    // Written to the descriptor: the test runner swallows what a passing test prints.
    let _ = writeln!(
        std::io::stderr(),
        "\n*** SKIPPING the Autobahn test suite, tests/conformance/ws.rs stands alone: {why}\n"
    );
}

fn home() -> PathBuf {
    env::var_os("HOME").map(PathBuf::from).unwrap_or_default()
}

fn cache() -> PathBuf {
    match env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => home().join(".cache"),
    }
}

/// Where a Python 2.7 may be.
fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = env::split_paths(&path).map(|folder| folder.join("python2.7")).collect();
    let pyenv = env::var_os("PYENV_ROOT").map_or_else(|| home().join(".pyenv"), PathBuf::from);
    if let Ok(versions) = std::fs::read_dir(pyenv.join("versions")) {
        found.extend(versions.flatten().map(|version| version.path().join("bin/python2.7")));
    }
    found.retain(|path| path.is_file());
    found
}

fn is_cpython_27(path: &Path) -> bool {
    let question = "import platform, sys; sys.exit(0 if platform.python_implementation() == 'CPython' and \
                    sys.version_info[:2] == (2, 7) else 1)";
    let mut command = Command::new(path);
    command.args(["-c", question]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The server under test: it sends back what comes, without a copy where that is possible.
pub struct Echo {
    handle: Handle,
    address: SocketAddr,
}

struct Echoing;

impl WsHandler for Echoing {
    type Conn = ();
    type Mail = ();

    fn request(&mut self, _: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<()> {
        Answer::upgrade(())
    }

    fn message(&mut self, (): &mut (), io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
        let token: ConnToken = io.token();
        if io.forward_to(token, message) == Sent::High {
            io.pause(token);
        }
        Ok(())
    }

    fn writable(&mut self, (): &mut (), io: &mut WsIo<'_, Self>) {
        io.resume(io.token());
    }
}

impl Echo {
    pub fn start(takeover: bool) -> Self {
        let listeners = vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
        // The suite's client answers no pings, and reads what it has not asked for as a fault.
        let options = Options { workers: 1, listeners, queue_max: 2 * MESSAGE_MAX, pace_ms: 0, ..Options::default() };
        let ws = WsOptions {
            message_max: MESSAGE_MAX,
            frame_max: MESSAGE_MAX,
            deflate: Some(deflate(takeover)),
            ..WsOptions::default()
        };
        let bound = Reactor::bind::<Ws<Echoing>>(options).expect("a port");
        let address = match bound.local_addrs() {
            [BoundAddr::Tcp(address)] => *address,
            other => panic!("{other:?}"),
        };
        Self { handle: bound.start(move |_, _| Ws::new(Echoing, ws.clone())).expect("it starts"), address }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Ends it in order, and so shows that no case took its worker down.
    pub fn stop(self) {
        let panics: u64 = self.handle.counters().iter().map(|worker| worker.panics.get()).sum();
        assert_eq!(panics, 0, "a case made the server panic");
        self.handle.drain();
        self.handle.join().expect("it ends in order");
    }
}
