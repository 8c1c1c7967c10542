//! The real Claude Code CLI under the relay, against a stub of the Messages API: no network, no key, no cost.
//!
//! `AMP_RELAY_TEST_CLAUDE` names the CLI's native binary (`tests/run` installs a pinned one and sets it). Without it the
//! tests are skipped loudly, and fail where `CI=true`.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    self, Device, Key, Relay,
    device::text,
    messages_api::MessagesApi,
    process::{self, Process},
    relay::Scratch,
    until,
};

/// A relay on the real CLI with two devices attached to one session.
struct Stage {
    api: MessagesApi,
    relay: Relay,
    laptop: Device,
    phone: Device,
    session: String,
    program: PathBuf,
}

/// The CLI to test with, or `None` after saying loudly that there is none.
fn claude() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("AMP_RELAY_TEST_CLAUDE").filter(|value| !value.is_empty()) {
        return Some(program.into());
    }
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!required, "AMP_RELAY_TEST_CLAUDE is not set, and CI=true demands the real CLI: use ./tests/run");
    support::say_loudly("SKIPPED: no real Claude Code CLI. ./tests/run installs one and sets AMP_RELAY_TEST_CLAUDE.");
    None
}

fn stage() -> Option<Stage> {
    let program = claude()?;
    let api = MessagesApi::start();
    let owner = Key::new("owner");
    let mut options = Relay::options(&[&owner])
        .claude(&program)
        .env("ANTHROPIC_BASE_URL", api.url())
        .env("ANTHROPIC_API_KEY", "test-key")
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_TELEMETRY", "1")
        .env("DISABLE_ERROR_REPORTING", "1")
        .env("DISABLE_AUTOUPDATER", "1");
    // Where no network namespace is to be had, the caller names a proxy that nothing listens on.
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        if let Ok(value) = std::env::var(name) {
            options = options.env(name, value);
        }
    }
    let relay = options.start();
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let mut phone = Device::connect(&relay, &owner, "phone");
    let session = laptop.create();
    laptop.attach(&session);
    phone.attach(&session);
    Some(Stage { api, relay, laptop, phone, session, program })
}

impl Stage {
    /// The CLI's own process.
    fn cli(&self) -> Option<Process> {
        let program = self.program.to_string_lossy().into_owned();
        process::agent(self.relay.scratch.root(), |process| {
            process.command.starts_with(&program) && process.command.contains("stream-json")
        })
    }

    /// A file in the session's folder.
    fn file(&self, name: &str) -> PathBuf {
        self.relay.scratch.project().join(name)
    }

    /// Prompts for a Bash command and waits until both devices know of the permission it needs.
    fn ask_for(&mut self, command: &str) -> (String, Value) {
        let prompt = self.laptop.prompt(&self.session, &format!("api:bash {command}"));
        let asked = |event: &Value| event["kind"] == "permission" && event["tool"] == "Bash";
        let request = self.phone.event(&self.session, "the permission request", asked)["request"].clone();
        let seen = self.laptop.event(&self.session, "the permission request", asked);
        assert_eq!(seen["request"], request);
        assert_eq!(text(&seen["input"]["command"]), command);
        (prompt, request)
    }
}

/// Runs the CLI by itself on one prompt: gives its lines.
fn alone(program: &Path, api: &MessagesApi, arguments: &[&str], prompt: &str) -> Vec<Value> {
    let scratch = Scratch::new();
    let mut command = std::process::Command::new(program);
    let output = ["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"];
    command.args(output).args(arguments).current_dir(scratch.project()).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", scratch.home()).env("ANTHROPIC_BASE_URL", api.url());
    command.env("ANTHROPIC_API_KEY", "test-key").env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
    command.env("DISABLE_TELEMETRY", "1").env("DISABLE_ERROR_REPORTING", "1").env("DISABLE_AUTOUPDATER", "1");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("the CLI starts");
    let message = json!({"type": "user", "message": {"role": "user", "content": prompt}});
    writeln!(child.stdin.take().expect("a pipe"), "{message}").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// When this fails, the stub or the CLI has changed, and the relay is not to blame for what fails after it.
#[test]
fn real_cli_understands_the_stub() {
    let Some(program) = claude() else { return };
    let api = MessagesApi::start();
    for (prompt, expected) in [("api:say good morning", "good morning"), ("api:bash echo evening", "done: evening")] {
        let lines = alone(&program, &api, &[], prompt);
        let result = lines.iter().find(|line| line["type"] == "result").unwrap_or_else(|| panic!("{lines:#?}"));
        assert_eq!((text(&result["result"]), &result["is_error"]), (expected, &json!(false)), "{result}");
    }
    assert_eq!(api.requests().len(), 3);
}

#[test]
fn real_cli_streams_the_same_bytes_to_both() {
    let Some(mut stage) = stage() else { return };
    let session = stage.session.clone();
    let prompt = stage.laptop.prompt(&session, "api:words 200");
    let expected: String = (0..200).map(|n| format!("word{n} ")).collect();
    for device in [&mut stage.laptop, &mut stage.phone] {
        let turn = device.turn(&session, &prompt);
        assert_eq!(turn["ok"], true, "{turn}");
        let streamed: Vec<String> = device.streamed(&session).into_values().collect();
        assert_eq!(streamed, [expected.as_str()], "byte for byte");
        device.gapless(&session);
    }
    assert_eq!(stage.laptop.streamed(&session), stage.phone.streamed(&session));
    assert_eq!(stage.laptop.recorded(&session), stage.phone.recorded(&session));
    let said: Vec<String> = stage.phone.recorded(&session).into_values().collect();
    assert_eq!(said.concat().trim_end(), expected.trim_end(), "and the record says the same");
    assert_eq!(stage.api.requests().len(), 1, "one prompt, one request");
}

#[test]
fn real_cli_runs_a_tool_once_when_the_other_device_allows_it() {
    let Some(mut stage) = stage() else { return };
    let session = stage.session.clone();
    let marker = stage.file("marker");
    let (prompt, request) = stage.ask_for(&format!("echo ran >> {}", marker.display()));
    assert_eq!(lines(&marker), 0, "nothing runs before somebody allows it");
    stage.phone.ok("decide", json!({"session": session, "request": request, "decision": "allow"}));
    for device in [&mut stage.laptop, &mut stage.phone] {
        assert_eq!(device.turn(&session, &prompt)["ok"], true);
        let decided = device.events_of(&session, "decision");
        assert_eq!(decided.len(), 1, "{decided:?}");
        assert_eq!(text(&decided[0]["by"]["device"]), "phone");
        let results = device.events_of(&session, "tool_result");
        assert_eq!(results.len(), 1, "{results:?}");
        assert_eq!(text(&results[0]["outcome"]), "ok");
    }
    assert_eq!(lines(&marker), 1, "it ran once");
}

#[test]
fn real_cli_of_two_answers_one_wins() {
    let Some(mut stage) = stage() else { return };
    let session = stage.session.clone();
    let marker = stage.file("marker");
    let (prompt, request) = stage.ask_for(&format!("echo ran >> {}", marker.display()));
    let decide = |decision: &str| json!({"session": session, "request": request, "decision": decision});
    let one = stage.laptop.start("decide", decide("allow"));
    let two = stage.phone.start("decide", decide("deny"));
    let (winner, ran, error) = match (stage.laptop.answer(&one), stage.phone.answer(&two)) {
        (Ok(_), Err(error)) => ("laptop", 1, error),
        (Err(error), Ok(_)) => ("phone", 0, error),
        other => panic!("exactly one wins: {other:?}"),
    };
    assert_eq!(text(&error["code"]), "ALREADY_DECIDED", "{error}");
    assert_eq!(text(&error["details"]["by"]["device"]), winner, "the other learns who: {error}");
    stage.laptop.turn(&session, &prompt);
    assert_eq!(lines(&marker), ran, "what was decided is what happened");
    let late = stage.phone.command("decide", decide("allow")).expect_err("too late");
    assert_eq!(text(&late["code"]), "ALREADY_DECIDED", "{late}");
}

#[test]
fn real_cli_killed_in_mid_turn_goes_on_with_its_history() {
    let Some(mut stage) = stage() else { return };
    let session = stage.session.clone();
    let first = stage.laptop.prompt(&session, "api:say the first answer, marigold");
    stage.laptop.turn(&session, &first);
    let prompt = stage.laptop.prompt(&session, "api:gate one");
    stage.laptop.wait("the answer has begun", |message| {
        message["type"] == "delta" && message["at"] == 0 && text(&message["text"]).contains("before")
    });
    let cli = stage.cli().expect("the CLI runs");
    process::signal(cli.pid, Signal::KILL);
    until("the turn is asked for again", || (stage.api.requests().len() >= 3).then_some(()));
    stage.api.open("one");
    for device in [&mut stage.laptop, &mut stage.phone] {
        assert_eq!(device.turn(&session, &prompt)["ok"], true);
        device.gapless(&session);
    }
    let again = stage.cli().expect("the CLI runs again");
    assert_ne!(again.pid, cli.pid);
    let requests = stage.api.requests();
    let resumed = requests.last().expect("a request").to_string();
    assert!(resumed.contains("api:say the first answer, marigold"), "the history came along: {resumed:.2000}");
    assert_eq!(stage.phone.settled(&session, &prompt), "done");
    let said: String = stage.phone.recorded(&session).into_values().collect();
    assert_eq!(said.matches("after the gate").count(), 1, "one whole answer: {said}");
    let last = stage.phone.prompt(&session, "api:say still here");
    assert_eq!(stage.phone.turn(&session, &last)["ok"], true);
}

#[test]
fn real_cli_is_interrupted_by_any_device() {
    let Some(mut stage) = stage() else { return };
    let session = stage.session.clone();
    let prompt = stage.laptop.prompt(&session, "api:gate never");
    stage.phone.wait("the answer has begun", |message| message["type"] == "delta");
    stage.phone.ok("interrupt", json!({"session": session}));
    assert_eq!(stage.laptop.settled(&session, &prompt), "cancelled");
    let next = stage.laptop.prompt(&session, "api:say and on it goes");
    assert_eq!(stage.laptop.turn(&session, &next)["ok"], true);
}

#[test]
fn real_cli_leaves_no_process_when_the_relay_is_killed() {
    let Some(mut stage) = stage() else { return };
    let session = stage.session.clone();
    let started = stage.file("started");
    // A grandchild in a session of its own, which a kill of the CLI or of its process group does not reach.
    let command = format!("setsid sh -c 'echo $$ > {}; sleep 1234; echo x'; echo done", started.display());
    let (_, request) = stage.ask_for(&command);
    stage.laptop.ok("decide", json!({"session": session, "request": request, "decision": "allow"}));
    // The shell has written its line before it begins what it waits for.
    let sleeps = |process: &Process| process.command.starts_with("sleep 1234");
    until("the tool's grandchild runs", || process::of(stage.relay.scratch.root()).iter().any(sleeps).then_some(()));
    assert_eq!(lines(&started), 1);
    stage.relay.signal(Signal::KILL);
    stage.relay.exit();
    process::none_left(stage.relay.scratch.root());
}

#[test]
fn real_cli_leaves_no_grandchild_when_it_is_killed_itself() {
    let Some(mut stage) = stage() else { return };
    let session = stage.session.clone();
    let started = stage.file("started");
    let command = format!("setsid sh -c 'echo $$ >> {}; sleep 2345; echo x'; echo done", started.display());
    let (_, request) = stage.ask_for(&command);
    stage.laptop.ok("decide", json!({"session": session, "request": request, "decision": "allow"}));
    until("the tool's grandchild runs", || (lines(&started) == 1).then_some(()));
    let cli = stage.cli().expect("the CLI runs");
    process::signal(cli.pid, Signal::KILL);
    until("the orphan is gone", || {
        let left = process::of(stage.relay.scratch.root());
        left.iter().all(|process| !process.command.starts_with("sleep 2345")).then_some(())
    });
    until("the CLI runs again", || stage.cli().filter(|again| again.pid != cli.pid));
    let outcome = stage.phone.event(&session, "the call is closed", |event| event["kind"] == "tool_result");
    assert_eq!(text(&outcome["outcome"]), "unknown", "it may have half run: {outcome}");
}
