//! Other people's WebSocket clients at their defaults: slow ones that are not cut off and lose nothing, and one whose
//! pings are answered though it is not read.
//!
//! `AMP_RELAY_TEST_PYTHON` names a Python with the packages of these scripts, `AMP_RELAY_TEST_NODE_MODULES` a folder with
//! Node's `ws` (`tests/run` installs pinned ones and sets both). Without them the tests are skipped loudly, and fail where
//! `CI=true`. What takes five minutes at the clients' defaults is done ten times as fast here, by settings of both sides;
//! `AMP_RELAY_TEST_CLIENTS_FULL` has it done as slowly as that.

use std::{
    ffi::OsString,
    io::Write as _,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde_json::json;

use crate::support::{
    self, Agent, AgentKey, DEADLINE, Relay,
    amp::{hex, typ},
    http::Endpoint,
    relay::lines,
    until,
};

/// Bytes of a message's filler.
const FILLER: usize = 4096;
/// The first message's number: all of them are written with as many bytes.
const FIRST: u64 = 0x1_0000;

/// What a variable names, or `None` after saying loudly that there is nothing.
fn given(variable: &str, what: &str) -> Option<OsString> {
    if let Some(path) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Some(path);
    }
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!required, "{variable} is not set, and CI=true demands {what}: use ./tests/run");
    support::say_loudly(&format!("SKIPPED: no {what}. ./tests/run installs it and sets {variable}."));
    None
}

/// A script of `tests/clients` on the Python of the tests.
fn python(script: &str) -> Option<Command> {
    Some(command(&given("AMP_RELAY_TEST_PYTHON", "Python with the package websockets")?, script))
}

/// The same on Node, with `ws`.
fn node(script: &str) -> Option<Command> {
    let modules = given("AMP_RELAY_TEST_NODE_MODULES", "Node with the package ws")?;
    let mut command = command(&"node".into(), script);
    command.env("NODE_PATH", modules);
    Some(command)
}

fn command(program: &OsString, script: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdout(Stdio::piped());
    command
}

/// How many times as fast as at the defaults everything goes.
fn haste() -> u64 {
    if std::env::var_os("AMP_RELAY_TEST_CLIENTS_FULL").is_some() { 1 } else { 10 }
}

/// How long a client may take for what it does in five minutes at its defaults.
fn patience() -> Duration {
    DEADLINE + Duration::from_secs(600 / haste())
}

/// A relay that pings as often as the clients do, and who writes and reads.
struct Stage {
    relay: Relay,
    sender: AgentKey,
    receiver: AgentKey,
}

impl Stage {
    fn new() -> Self {
        let (sender, receiver) = (AgentKey::new(), AgentKey::new());
        let keys = [&sender, &receiver].map(|key| key.line("agent")).concat();
        let ping = format!("{}ms", 25_000 / haste());
        let relay = Relay::options(&[]).keys(&keys).argument("--ws-ping").argument(ping).start();
        Self { relay, sender, receiver }
    }

    /// A HELLO of this key, for a client to say.
    fn hello(&self, key: &AgentKey) -> String {
        let agent = Agent::dial(&self.relay.tcp(), key);
        hex(&agent.hello().signed(key, agent.keys))
    }

    fn url(&self) -> String {
        format!("ws://{}/amp/v1/ws", self.relay.tcp().host())
    }
}

/// A client's process, killed with its test.
struct Client {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Client {
    #[track_caller]
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = lines(child.stdout.take().expect("a pipe"));
        let mut client = Self { child, said };
        assert_eq!(client.line(DEADLINE), "ready");
        client
    }

    /// The next line that it says.
    #[track_caller]
    fn line(&mut self, patience: Duration) -> String {
        match self.said.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("it says nothing for {patience:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("it ended: {:?}", self.child.wait()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends all that the relay takes to a client that reads `rate` bytes a second at the defaults, for what are five minutes
/// then. `command` has its script and is given the rate and the number of messages.
fn is_served_to_the_end(stage: &Stage, rate: u64, client: impl FnOnce(u64, u64) -> Option<Command>) {
    let count = rate * 300 / FILLER as u64;
    let Some(mut command) = client(rate * haste(), count) else { return };
    let mut client = Client::start(&mut command);
    let (endpoint, key, receiver) = (stage.relay.tcp(), stage.sender.clone(), stage.receiver.clone());
    let sender = thread::spawn(move || {
        let mut sender = Agent::connect(&endpoint, &key);
        let filler = "x".repeat(FILLER);
        for n in 0..count {
            sender.say(typ::MESSAGE, &receiver, &json!({"n": FIRST + n, "filler": filler}));
        }
        sender
    });
    assert_eq!(client.line(patience()), format!("closed 1000 after {count}"));
    let mut sender = sender.join().expect("all was taken from the sender");
    sender.ping();
    let errors = sender.of(typ::ERROR);
    assert!(errors.is_empty(), "{} errors, the first: {:?}", errors.len(), errors[0]);
    assert!(!stage.relay.log().contains("TimedOut"), "{}", stage.relay.log());
}

fn python_receiver(stage: &Stage, socket: Option<&Endpoint>, rate: u64, count: u64) -> Option<Command> {
    let mut command = python("slow_receiver.py")?;
    let socket = match socket {
        Some(Endpoint::Unix(path)) => path.clone(),
        _ => "".into(),
    };
    let url = if socket.as_os_str().is_empty() { stage.url() } else { "ws://localhost/amp/v1/ws".into() };
    let ping = if haste() == 1 { "default".into() } else { (20.0 / haste() as f64).to_string() };
    command.arg(url).arg(socket).arg(stage.hello(&stage.receiver));
    command.args([rate.to_string(), count.to_string(), ping]);
    Some(command)
}

#[test]
fn clients_c2_python_at_20_kb_a_second_is_not_cut_off() {
    let stage = Stage::new();
    is_served_to_the_end(&stage, 20_000, |rate, count| python_receiver(&stage, None, rate, count));
}

#[test]
fn clients_c2_python_at_60_kb_a_second_is_not_cut_off() {
    let stage = Stage::new();
    is_served_to_the_end(&stage, 60_000, |rate, count| python_receiver(&stage, None, rate, count));
}

#[test]
fn clients_c2_python_on_the_unix_socket_at_20_kb_a_second_is_not_cut_off() {
    let stage = Stage::new();
    is_served_to_the_end(&stage, 20_000, |rate, count| python_receiver(&stage, Some(&stage.relay.unix()), rate, count));
}

/// Its answers wait behind each other as long as its own messages go ahead of its pongs.
#[test]
fn clients_c2_python_that_asks_all_it_may_has_every_answer() {
    const TIMES: usize = 20_000;
    let stage = Stage::new();
    let Some(mut command) = python("asking.py") else { return };
    let agent = Agent::dial(&stage.relay.tcp(), &stage.sender);
    let asked = json!({"action": "echo", "filler": "x".repeat(500)});
    let request = agent.draft(typ::REQUEST, agent.relay.as_str(), &asked).signed(&stage.sender, agent.keys);
    drop(agent);
    command.arg(stage.url()).arg(stage.hello(&stage.sender)).arg(hex(&request)).arg(TIMES.to_string());
    let mut client = Client::start(&mut command);
    assert_eq!(client.line(patience()), format!("answered {TIMES}"));
    assert!(!stage.relay.log().contains("TooSlow"), "{}", stage.relay.log());
}

#[test]
fn clients_c2_node_at_20_kb_a_second_is_not_cut_off() {
    let stage = Stage::new();
    is_served_to_the_end(&stage, 20_000, |rate, count| {
        let mut command = node("slow_receiver.js")?;
        command.arg(stage.url()).arg(stage.hello(&stage.receiver)).args([rate.to_string(), count.to_string()]);
        Some(command)
    });
}

#[test]
fn clients_c1_python_that_is_held_has_its_pings_answered() {
    let (sender, receiver) = (AgentKey::new(), AgentKey::new());
    let keys = [&sender, &receiver].map(|key| key.line("agent")).concat();
    // The receiver is not given up before the end.
    let relay = Relay::options(&[]).keys(&keys).argument("--ws-ping").argument("0").start();
    let stage = Stage { relay, sender, receiver };
    let Some(mut command) = python("held_sender.py") else { return };
    let deaf = Agent::connect(&stage.relay.tcp(), &stage.receiver);
    // More than the kernel takes for it: the client is held by its first message.
    let mut other = Agent::connect(&stage.relay.tcp(), &stage.sender);
    other.say(typ::MESSAGE, &stage.receiver, &json!("x".repeat(1_000_000)));
    until("the receiver takes no more", || {
        let stats = stage.relay.stats();
        let workers = stats["workers"].as_array()?.iter().filter_map(|worker| worker["queue_bytes"].as_u64());
        (workers.sum::<u64>() > 100_000).then_some(())
    });
    command.arg(stage.url()).arg(stage.hello(&stage.sender)).stdin(Stdio::piped());
    let mut client = Client::start(&mut command);
    let messages = Agent::dial(&stage.relay.tcp(), &stage.sender);
    let mut stdin = client.child.stdin.take().expect("a pipe");
    for n in 0..3 {
        let draft = messages.draft(typ::MESSAGE, &stage.receiver, &json!({"n": n}));
        writeln!(stdin, "{}", hex(&draft.signed(&stage.sender, messages.keys))).expect("it reads");
    }
    drop(stdin);
    assert_eq!(client.line(DEADLINE), "answered");
    drop((deaf, other));
}
