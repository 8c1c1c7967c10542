//! The program as a person uses it: `up`, `attach` from a second terminal, `sessions`, `keys`.
#![cfg(feature = "cli")]

mod support;

use std::{
    io::{self, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::Signal;

use support::{
    Device, Key, Relay,
    http::{self, Endpoint},
    process,
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
    assert!(said.contains("demo"), "without a CLI it says that the demo agent answers: {said}");
    assert!(said.contains("claude"), "and how to get the real one: {said}");
    let keys = std::fs::read_to_string(data.join("authorized_keys")).expect("the keys file");
    assert!(keys.contains("amp-role="), "`up` writes explicit roles: {keys}");
    let client = Key::from_file(&data.join("client_key"));
    let mut device = Device::connect(&relay, &client, "laptop");
    let list = device.ok("list", serde_json::json!({}));
    let sessions = list["sessions"].as_array().expect("sessions");
    assert_eq!(sessions.len(), 1, "it started a session: {list}");
    assert_eq!(sessions[0]["folder"].as_str(), relay.scratch.project().to_str());
    let listed = relay.scratch.run(["sessions"]).ok();
    assert!(listed.contains(sessions[0]["session"].as_str().expect("an id")), "{listed}");
    relay.signal(Signal::TERM);
    assert!(relay.exit().success(), "{}", relay.log());
    process::none_left(relay.scratch.root());
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

    // A permission is decided with one key.
    terminal.line("please ask me");
    let request = device.event(&session, "a permission request", |event| event["kind"] == "permission");
    let tool = request["tool"].as_str().expect("a tool").to_owned();
    terminal.shows("the permission prompt", |screen| screen.contains(&tool));
    terminal.keys(&["y"]);
    let decided = device.event(&session, "the decision", |event| event["kind"] == "decision");
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

/// A way to the relay that can be cut: everything goes through until the returned switch is used.
fn tunnel(to: SocketAddr) -> (SocketAddr, impl Fn()) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let open = Arc::new(Mutex::new(Vec::<TcpStream>::new()));
    let through = open.clone();
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else { continue };
            let clones = |stream: &TcpStream| [(); 2].map(|()| stream.try_clone().expect("a descriptor"));
            let ([mut near_in, mut near_out], [mut far_in, mut far_out]) = (clones(&near), clones(&far));
            thread::spawn(move || io::copy(&mut near_in, &mut far_out));
            thread::spawn(move || io::copy(&mut far_in, &mut near_out));
            through.lock().expect("not poisoned").extend([near, far]);
        }
    });
    let cut = move || {
        for stream in open.lock().expect("not poisoned").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    };
    (address, cut)
}

#[test]
fn attach_goes_on_after_a_break() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let (near, cut) = tunnel(address);
    let key = relay.scratch.home().join("owner_key");
    owner.write(&key);
    let mut command = relay.scratch.command(["attach", "--url", &format!("ws://{near}"), "--key"]);
    let command = command.arg(&key).arg(&session).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let lines = relay::lines(child.stdout.take().expect("a pipe"));
    let mut stdin = child.stdin.take().expect("a pipe");
    for round in 0..3 {
        writeln!(stdin, "before break {round}").expect("it reads");
        let said = format!("before break {round}");
        device.event(&session, &said, |event| event["kind"] == "prompt" && event["text"] == said.as_str());
        cut();
        // What others say meanwhile is not missed, and what is typed meanwhile is said once.
        let other = device.prompt(&session, &format!("meanwhile {round}"));
        device.turn(&session, &other);
        writeln!(stdin, "after break {round}").expect("it reads");
        let said = format!("after break {round}");
        let event = device.event(&session, &said, |event| event["kind"] == "prompt" && event["text"] == said.as_str());
        device.turn(&session, event["prompt"].as_str().expect("an id"));
    }
    drop(stdin);
    let status = until("it ends with its input", || child.try_wait().expect("its status"));
    assert!(status.success(), "{status:?}");
    let printed: Vec<String> = lines.iter().collect();
    for round in 0..3 {
        for said in ["before break", "meanwhile", "after break"] {
            let said = format!("You said: \"{said} {round}\"");
            let times = printed.iter().filter(|line| line.contains(&said)).count();
            assert_eq!(times, 1, "{said} is answered once: {printed:#?}");
        }
    }
    assert_eq!(device.events_of(&session, "prompt").len(), 9, "each was said once");
}

#[test]
fn attach_keeps_trying_while_nobody_listens() {
    let owner = Key::new("owner");
    let mut relay = Relay::options(&[&owner]).listen("127.0.0.1:0").start();
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let session = {
        let mut device = Device::connect(&relay, &owner, "laptop");
        device.create()
    };
    let key = relay.scratch.home().join("owner_key");
    owner.write(&key);
    let mut command = relay.scratch.command(["attach", "--url", &format!("ws://{address}"), "--key"]);
    let command = command.arg(&key).arg(&session).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let said = relay::lines(child.stderr.take().expect("a pipe"));
    until("it is connected", || (relay.stats()["connections"].as_u64()? > 0).then_some(()));
    relay.signal(Signal::KILL);
    relay.exit();
    // It keeps trying while nobody listens.
    until("it says that it tries again", || {
        let line = said.recv_timeout(support::DEADLINE).ok()?;
        line.to_lowercase().contains("connect").then_some(())
    });
    assert!(child.try_wait().expect("its status").is_none(), "it stays");
    process::signal(i32::try_from(child.id()).expect("a pid"), Signal::KILL);
    let _ = child.wait();
}

#[test]
fn keys_are_managed_from_the_command_line() {
    let relay = up();
    let guest = Key::new("guest");
    let file = relay.scratch.home().join("guest.pub");
    std::fs::write(&file, format!("{}\n", guest.public)).expect("a public key file");
    relay.scratch.run(["keys".as_ref(), "add".as_ref(), file.as_os_str()]).ok();
    let listed = relay.scratch.run(["keys", "list"]).ok();
    assert!(listed.contains(&guest.fingerprint()), "{listed}");
    Device::connect(&relay, &guest, "the guest");
    relay.scratch.run(["keys", "remove", &guest.fingerprint()]).ok();
    let said = relay.scratch.run(["keys", "remove", &guest.fingerprint()]).refused();
    assert!(said.contains(&guest.fingerprint()), "{said}");
    assert_eq!(http::get(&relay.unix(), "/healthz").status, 200);
}

#[test]
fn every_verb_explains_itself() {
    let scratch = Scratch::new();
    let verbs: [&[&str]; 9] = [
        &["up"],
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
