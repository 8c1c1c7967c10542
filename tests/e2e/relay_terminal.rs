//! The program as a person uses it: `up`, `attach` from a second terminal, `sessions`, `keys`.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;

use crate::support::{
    self, Device, Key, Relay, SignIn,
    http::{self, Endpoint},
    process,
    proxy::Proxy,
    relay::{self, Ran, Scratch},
    terminal::Terminal,
    until,
};

/// `up` in a fresh scratch world without a CLI, so that it takes the demo agent by itself.
fn up() -> Relay {
    let scratch = Scratch::new();
    let mut command = scratch.command(["up", "--listen", "127.0.0.1:0"]);
    // Nothing is on this PATH: no CLI is found, whatever the machine has.
    command.env("PATH", scratch.root().join("no-programs"));
    Relay::spawn(scratch, command, 2)
}

/// The data folder of a relay that was told none.
fn default_data(scratch: &Scratch) -> std::path::PathBuf {
    scratch.home().join(".local/state/amp-relay")
}

#[test]
fn up_needs_nothing_but_itself() {
    let mut relay = up();
    let data = default_data(&relay.scratch);
    for file in ["host_key", "client_key", "client_key.pub", "authorized_keys", "relay.sock", "lock"] {
        assert!(data.join(file).exists(), "{file} is made by the first run: {}", relay.log());
    }
    let said = until("it has said how to attach", || Some(relay.log()).filter(|log| log.contains("attach")));
    assert!(said.to_lowercase().contains("demo agent"), "without a CLI it says that the demo agent answers: {said}");
    assert!(said.contains("@anthropic-ai/claude-code"), "and how to get the real one: {said}");
    assert!(said.contains("keys add FILE.pub"), "and how to let another key in: {said}");
    let keys = std::fs::read_to_string(data.join("authorized_keys")).expect("the keys file");
    assert!(keys.contains("amp-role="), "`up` writes explicit roles: {keys}");
    let client = Key::from_file(&data.join("client_key"));
    let mut device = Device::connect(&relay, &client, "laptop");
    let list = device.ok("list", serde_json::json!({}));
    let sessions = list["sessions"].as_array().expect("sessions");
    assert_eq!(sessions.len(), 1, "it started a session: {list}");
    assert_eq!(sessions[0]["folder"].as_str(), relay.scratch.project().to_str());
    let listed = relay.scratch.run(["sessions"]).ok();
    assert!(listed.contains(&sessions[0]["session"].as_str().expect("an id")[..8]), "{listed}");
    relay.signal(Signal::TERM);
    assert!(relay.exit().success(), "{}", relay.log());
    process::none_left(relay.scratch.root());
}

#[test]
fn up_refuses_an_agent_that_is_not_there() {
    let scratch = Scratch::new();
    let said = scratch.run(["up", "--listen", "127.0.0.1:0", "--claude", "/no/such/claude"]).refused();
    assert!(said.contains("--claude") && said.contains("/no/such/claude"), "{said}");
}

#[test]
fn verbs_find_the_relay_that_the_config_places() {
    let scratch = Scratch::new();
    let config = scratch.home().join(".config/amp-relay");
    std::fs::create_dir_all(&config).expect("a config folder");
    let data = scratch.data();
    std::fs::write(config.join("config.toml"), format!("data = \"{}\"\n", data.display())).expect("a config file");
    let command = scratch.command(["up", "--demo", "--listen", "127.0.0.1:0"]);
    let relay = Relay::spawn(scratch, command, 2);
    assert!(data.join("relay.sock").exists(), "{}", relay.log());
    assert!(relay.scratch.run(["sessions"]).ok().contains("project"));
    assert!(relay.scratch.run(["keys", "list"]).ok().contains("client key"));
}

#[test]
fn what_is_refused_in_a_pipe_is_told_on_stderr() {
    let guest = Key::new("guest");
    let relay = Relay::options(&[&guest]).start();
    let mut device = Device::connect(&relay, &guest, "laptop");
    let session = device.create();
    let key = relay.scratch.home().join("guest_key");
    guest.write(&key);
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let url = format!("ws://{address}");
    let mut command = relay.scratch.command(["attach", "--role", "watch", "--url", &url, "--key"]);
    let command = command.arg(&key).arg(&session);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    child.stdin.take().expect("a pipe").write_all(b"hello\n").expect("it reads");
    let ended = child.wait_with_output().expect("it ends with its input");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("this needs the role drive") && !ended.status.success(), "{ended:?}");
    assert!(!said.contains("FORBIDDEN"), "a code is for programs: {said}");
}

#[test]
fn up_offers_the_keys_of_the_person_at_the_terminal() {
    let scratch = Scratch::new();
    let (guest, stranger) = (Key::new("guest"), Key::new("stranger"));
    std::fs::create_dir(scratch.home().join(".ssh")).expect("a folder");
    guest.write(&scratch.home().join(".ssh/id_1"));
    stranger.write(&scratch.home().join(".ssh/id_2"));
    let nowhere = scratch.root().join("no-programs").display().to_string();
    let up = format!("PATH={nowhere} {} up --foreground --listen 127.0.0.1:0", relay::PROGRAM);
    let terminal = Terminal::run(&scratch, &up);
    terminal.shows("the first key", |screen| screen.contains("id_1.pub"));
    terminal.line("y");
    terminal.shows("the second key", |screen| screen.contains("id_2.pub"));
    terminal.line("n");
    let screen = terminal.shows("where it listens", |screen| screen.contains("listening unix:"));
    let listener = screen.lines().find_map(|line| line.strip_prefix("listening ws:").map(|rest| format!("ws:{rest}")));
    let endpoint = Endpoint::parse(listener.expect("a TCP listener").trim());
    SignIn::new(&guest).connect(&endpoint).unwrap_or_else(|refused| panic!("{refused:?}"));
    let refused = SignIn::new(&stranger).connect(&endpoint).err().expect("refused");
    assert_eq!(refused.code(), "KEY_NOT_AUTHORIZED");
    terminal.keys(&["C-c"]);
    terminal.shows("the end of the relay", |screen| screen.contains("ended with 0"));
}

#[test]
fn serve_starts_no_session() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    assert_eq!(device.ok("list", serde_json::json!({}))["sessions"], serde_json::json!([]));
}

/// `attach` with pipes instead of a terminal.
fn attach_piped(relay: &Relay) -> (Child, std::sync::mpsc::Receiver<String>) {
    let mut command: Command = relay.scratch.command(["attach"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let lines = relay::lines(child.stdout.take().expect("a pipe"));
    (child, lines)
}

#[test]
fn attach_takes_prompts_from_a_pipe() {
    let relay = up();
    let client = Key::from_file(&default_data(&relay.scratch).join("client_key"));
    let mut device = Device::connect(&relay, &client, "laptop");
    let list = device.ok("list", serde_json::json!({}));
    let session = list["sessions"][0]["session"].as_str().expect("a session").to_owned();
    device.attach(&session);
    let (mut child, lines) = attach_piped(&relay);
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "hello from a pipe").expect("it reads");
    let said = device.event(&session, "the prompt from the pipe", |event| event["kind"] == "prompt");
    assert_eq!(said["text"], "hello from a pipe");
    device.turn(&session, said["prompt"].as_str().expect("an id"));
    let answer = device.recorded(&session).into_values().next().expect("an answer");
    let answer_line = answer.lines().next().expect("a line").trim().to_owned();
    let mut seen = String::new();
    while !seen.contains(&answer_line) {
        let line = lines.recv_timeout(support::DEADLINE);
        seen.push_str(&line.unwrap_or_else(|_| panic!("the answer is printed: {seen:?}, wanted {answer_line:?}")));
        seen.push('\n');
    }
    drop(stdin);
    let status = until("it ends with its input", || child.try_wait().expect("its status"));
    assert!(status.success(), "{status:?}");
}

#[test]
fn attach_in_a_terminal() {
    let relay = up();
    let client = Key::from_file(&default_data(&relay.scratch).join("client_key"));
    let mut device = Device::connect(&relay, &client, "laptop");
    let list = device.ok("list", serde_json::json!({}));
    let session = list["sessions"][0]["session"].as_str().expect("a session").to_owned();
    device.attach(&session);
    let terminal = Terminal::run(&relay.scratch, &format!("{} attach", relay::PROGRAM));
    device.wait("the terminal is there", |message| {
        message["type"] == "presence" && message["devices"].as_array().is_some_and(|devices| devices.len() == 2)
    });

    terminal.line("hello from a terminal");
    let said = device.event(&session, "the prompt", |event| event["kind"] == "prompt");
    device.turn(&session, said["prompt"].as_str().expect("an id"));
    let answer = device.recorded(&session).into_values().next().expect("an answer");
    let first_words: String = answer.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    terminal.shows("the answer", |screen| screen.contains(&first_words));

    // What another device says is shown here too.
    let other = device.prompt(&session, "a word from the other device");
    terminal.shows("the other device's prompt", |screen| screen.contains("a word from the other device"));
    device.turn(&session, &other);

    // A permission is decided by a line, once it has been on the screen for a moment.
    terminal.line("please ask me");
    let request = device.event(&session, "a permission request", |event| event["kind"] == "permission");
    let tool = request["tool"].as_str().expect("a tool").to_owned();
    terminal.shows("the permission prompt", |screen| screen.contains(&tool));
    let decided = until("it is taken", || {
        terminal.line("y");
        terminal.shows("what became of it", |screen| screen.contains("half a second") || screen.contains("✓ allowed"));
        device.sync();
        device.events_of(&session, "decision").pop()
    });
    assert_eq!(decided["decision"], "allow", "{decided}");

    // Ctrl-C interrupts the agent and stays.
    device.event(&session, "the turn of it ends", |event| {
        event["kind"] == "turn" && event["offset"].as_u64() > decided["offset"].as_u64()
    });
    let asked = |event: &serde_json::Value| event["kind"] == "permission" && event["request"] != request["request"];
    terminal.line("ask again");
    device.event(&session, "another permission request", asked);
    terminal.keys(&["C-c"]);
    let closed =
        |event: &serde_json::Value| event["kind"] == "permission_closed" && event["request"] != request["request"];
    device.event(&session, "the interrupt withdraws it", closed);

    // Ctrl-] leaves; the session goes on.
    terminal.keys(&["C-]"]);
    terminal.shows("the end of attach", |screen| screen.contains("ended with 0"));
    let last = device.prompt(&session, "still here");
    device.turn(&session, &last);
}

#[test]
fn attach_finds_a_relay_by_its_address_and_key() {
    let guest = Key::new("guest");
    let relay = Relay::options(&[&guest]).start();
    let mut device = Device::connect(&relay, &guest, "laptop");
    let session = device.create();
    device.attach(&session);
    let key = relay.scratch.home().join("guest_key");
    guest.write(&key);
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let mut command = relay.scratch.command(["attach", "--url", &format!("ws://{address}"), "--key"]);
    let mut child = command
        .arg(&key)
        .arg(&session)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "from afar").expect("it reads");
    device.event(&session, "the prompt", |event| event["kind"] == "prompt" && event["text"] == "from afar");
    drop(stdin);
    until("it ends with its input", || child.try_wait().expect("its status"));
}

#[test]
fn attach_reconnects_and_resumes_by_itself() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let wire = Proxy::to(address);
    let key = relay.scratch.home().join("owner_key");
    owner.write(&key);
    let mut command = relay.scratch.command(["attach", "--url", &format!("ws://{}", wire.address), "--key"]);
    // All that the agent says, to others too.
    let command =
        command.arg(&key).args([&session, "--all"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let lines = relay::lines(child.stdout.take().expect("a pipe"));
    let mut seen = String::new();
    let mut shows = |wanted: &str| {
        while !seen.contains(wanted) {
            let line = lines.recv_timeout(support::DEADLINE);
            seen.push_str(&line.unwrap_or_else(|_| panic!("{wanted:?} is shown: {seen}")));
        }
    };
    let first = device.prompt(&session, "before-the-cut");
    device.turn(&session, &first);
    shows("before-the-cut");
    for word in ["after-one-cut", "after-two-cuts"] {
        wire.cut();
        // Whatever happens while nobody is connected is caught up with.
        let prompt = device.prompt(&session, word);
        device.turn(&session, &prompt);
        shows(word);
    }
    let last = device.prompt(&session, "the-last-word");
    device.turn(&session, &last);
    shows("the-last-word");
    assert_eq!(device.events_of(&session, "prompt").len(), 4);
    drop(child.stdin.take());
    until("it ends with its input", || child.try_wait().expect("its status"));
}

#[test]
fn a_cut_in_the_middle_of_an_answer_is_not_to_be_seen() {
    let owner = Key::new("owner");
    let relay = Relay::options(&[&owner]).start();
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let wire = Proxy::to(address);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let key = relay.scratch.home().join("owner_key");
    owner.write(&key);
    let mut command = relay.scratch.command(["attach", "--url", &format!("ws://{}", wire.address), "--key"]);
    let command = command.arg(&key).arg(&session);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "tell me").expect("it reads");
    device.wait("the answer begins", |message| message["type"] == "delta");
    wire.cut();
    drop(stdin);
    let ended = child.wait_with_output().expect("it ends with its input");
    let (shown, said) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && said.contains("connected again"), "{ended:?}");
    let whole = device.event(&session, "the answer", |event| event["kind"] == "text");
    let whole = whole["text"].as_str().expect("a text");
    assert_eq!(shown.matches(whole).count(), 1, "{shown}");
}

#[test]
fn keys_are_managed_from_the_command_line() {
    let relay = up();
    let guest = Key::new("guest");
    let file = relay.scratch.home().join("guest.pub");
    std::fs::write(&file, format!("{}\n", guest.public)).expect("a public key file");
    let named = file.display().to_string();
    let said = relay.scratch.run(["keys", "add", "--role", "emperor", &named]).refused();
    assert!(said.contains("emperor") && said.contains("approve"), "it says which roles there are: {said}");
    let added = relay.scratch.run(["keys", "add", &named]).ok();
    assert!(added.contains("approve, the default") && added.contains("in force in the running relay"), "{added}");
    let listed = relay.scratch.run(["keys", "list"]).ok();
    let line = listed.lines().find(|line| line.contains(&guest.fingerprint())).expect("the key is listed");
    assert!(line.contains(" approve "), "the default role: {listed}");
    Device::connect(&relay, &guest, "the guest");
    relay.scratch.run(["keys", "remove", &guest.fingerprint()]).ok();
    let said = relay.scratch.run(["keys", "remove", &guest.fingerprint()]).refused();
    assert!(said.contains("keys list"), "it says where to look: {said}");
    assert_eq!(http::get(&relay.unix(), "/healthz").status, 200);
}

#[test]
fn every_verb_explains_itself() {
    let scratch = Scratch::new();
    let verbs: [&[&str]; 15] = [
        &["up"],
        &["new"],
        &["stop"],
        &["down"],
        &["send"],
        &["request"],
        &["listen"],
        &["serve"],
        &["attach"],
        &["sessions"],
        &["keys", "list"],
        &["keys", "add"],
        &["keys", "remove"],
        &["config", "show"],
        &["config", "check"],
    ];
    for verb in verbs {
        let mut arguments = verb.to_vec();
        arguments.push("--help");
        let ran: Ran = scratch.run(arguments);
        assert!(ran.status.success() && ran.out.contains("Usage"), "{verb:?}: {ran:?}");
    }
    let version = scratch.run(["--version"]).ok();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}
