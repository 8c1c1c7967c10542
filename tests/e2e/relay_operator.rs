//! What an operator relies on besides `relay_admin.rs`: several folders, logs that programs read, the grace, and a relay
//! that is ended as soon as it listens.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    self, Device, Key, Relay, SignIn,
    device::text,
    http::{self, Endpoint, RawSocket},
    process,
    proxy::Proxy,
    relay::Scratch,
    standin::{Scene, says},
    until,
};

#[test]
fn several_folders_are_open_to_sessions_and_nothing_else() {
    let owner = Key::new("owner");
    let options = Relay::options(&[&owner]);
    let root = options.scratch.root().to_owned();
    let second = root.join("second");
    fs::create_dir(&second).expect("a folder");
    fs::create_dir(root.join("third")).expect("a folder");
    symlink(root.join("third"), second.join("out")).expect("a symbolic link");
    // A folder may be named by a symbolic link; what counts is where it leads.
    symlink(&second, root.join("named")).expect("a symbolic link");
    let relay = options.argument("--folder").argument(root.join("named").display().to_string()).start();
    let project = relay.scratch.project();
    let mut device = Device::connect(&relay, &owner, "laptop");
    let offered = &device.welcome["profiles"][0]["folders"];
    assert_eq!(offered, &json!([project, second]), "in the order given");
    let mut create = |folder: Option<&str>| {
        let fields = folder.map_or(json!({"profile": "default"}), |f| json!({"profile": "default", "folder": f}));
        device.command("create", fields)
    };
    let first = create(None).expect("the first folder is the default");
    assert_eq!(text(&first["session"]["folder"]), project.display().to_string());
    for inside in [second.clone(), root.join("named")] {
        let reply = create(Some(&inside.display().to_string())).expect("inside");
        assert_eq!(text(&reply["session"]["folder"]), second.display().to_string());
    }
    for outside in ["third", "second/out", "second/../third", "home"] {
        let error = create(Some(&root.join(outside).display().to_string())).expect_err(outside);
        assert_eq!(text(&error["code"]), "FORBIDDEN", "{outside}: {error}");
    }
    let listed = device.ok("list", json!({}));
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(3), "{listed}");
}

#[test]
fn a_process_that_starts_again_starts_in_the_folder_of_its_session_and_in_no_other() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let (project, outside) = (relay.scratch.project(), relay.scratch.root().join("outside"));
    let folder = project.join("site");
    fs::create_dir(&folder).expect("a folder");
    fs::create_dir(&outside).expect("a folder");
    let mut device = Device::connect(&relay, &owner, "laptop");
    let created = device.ok("create", json!({"profile": "default", "folder": folder}));
    let session = text(&created["session"]["session"]).to_owned();
    device.attach(&session);
    let prompt = device.prompt(&session, "hello");
    device.turn(&session, &prompt);
    fs::rename(&folder, project.join("away")).expect("moved");
    symlink(&outside, &folder).expect("a symbolic link");
    let agent =
        until("there is an agent", || process::agent(relay.scratch.root(), |p| p.command.contains("demo-agent")));
    process::signal(agent.pid, Signal::KILL);
    let failed = device.event(&session, "its end", |event| event["kind"] == "state" && event["state"] == "failed");
    let why = format!("{} is a link to {} now", folder.display(), outside.display());
    assert!(text(&failed["why"]).contains(&why), "{failed}");
    assert!(process::agent(relay.scratch.root(), |p| p.command.contains("demo-agent")).is_none());
}

#[test]
fn a_folder_that_is_none_is_refused_at_the_start() {
    for folder in ["/no/such/folder", "/etc/passwd"] {
        let said = Relay::options(&[]).listen("127.0.0.1:0").argument("--folder").argument(folder).refused();
        assert!(said.contains(folder), "{said}");
    }
}

/// The lines of a log in JSON.
#[track_caller]
fn records(log: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    log.lines().map(parse).collect()
}

#[test]
fn a_log_in_json_is_json_with_its_pairs() {
    let owner = Key::new("owner");
    let options = Relay::options(&[]).keys("# people\n").keys(&Key::new("elsewhere").line("from=\"10.0.0.0/8\""));
    let options = options.keys(&owner.line("amp-role=\"admin\""));
    let mut relay = options.argument("--log-format").argument("json").start();
    let mut device = Device::connect(&relay, &owner, "a \"name\" with=signs");
    let session = device.create();
    device.attach(&session);
    relay.signal(Signal::TERM);
    assert!(relay.exit().success());
    let records = records(&relay.log());
    for record in &records {
        for key in ["at", "level", "target", "message"] {
            assert!(record[key].is_string(), "{key}: {record}");
        }
    }
    let refused = records.iter().find(|record| record["level"] == "warn").expect("the refused line");
    assert_eq!((refused["line"].as_u64(), text(&refused["reason"]).contains("from")), (Some(2), true), "{refused}");
    assert_eq!(text(&refused["path"]), relay.keys().display().to_string());
    let started = |record: &&Value| record["session"] == session.as_str() && record["start"] == "new";
    assert!(records.iter().any(|record| started(&record)), "{records:?}");
}

#[test]
fn the_level_of_the_log_is_a_setting() {
    let owner = Key::new("owner");
    let log = |level: Option<&str>, variable: Option<&str>| {
        let mut options = Relay::options(&[&owner]).usual_log();
        options = options.keys(&Key::new("elsewhere").line("from=\"10.0.0.0/8\""));
        if let Some(level) = level {
            options = options.argument("--log").argument(level);
        }
        if let Some(level) = variable {
            options = options.env("AMP_RELAY_LOG", level);
        }
        let mut relay = options.start();
        Device::connect(&relay, &owner, "laptop").vanish();
        let devices = |stats: &Value| {
            let workers = stats["workers"].as_array().expect("workers");
            workers.iter().map(|worker| worker["devices"].as_u64().expect("devices")).sum::<u64>()
        };
        until("the device is gone", || (devices(&relay.stats()) == 0).then_some(()));
        relay.signal(Signal::TERM);
        assert!(relay.exit().success());
        relay.log()
    };
    let usual = log(None, None);
    assert!(usual.contains(" info ") && usual.contains(" warn ") && !usual.contains(" debug "), "{usual}");
    assert!(usual.contains("line=2"), "the refused line's number: {usual}");
    let quiet = log(Some("error"), None);
    assert_eq!(quiet, "", "nothing went wrong");
    let chatty = log(None, Some("debug"));
    assert!(chatty.contains(" debug "), "{chatty}");
    let flag_wins = log(Some("warn"), Some("debug"));
    assert!(flag_wins.contains(" warn ") && !flag_wins.contains(" info "), "{flag_wins}");
    let said = Relay::options(&[]).usual_log().argument("--log").argument("loud").refused();
    assert!(said.contains("loud") && said.contains("debug"), "{said}");
}

#[test]
fn the_newest_conversation_of_a_folder_is_gone_on_with_once() {
    let mut scene = Scene::new();
    let refused = scene.laptop.command("create", json!({"profile": "default", "continue": true})).expect_err("it runs");
    assert_eq!(text(&refused["code"]), "CONFLICT");
    assert!(text(&refused["message"]).contains(&format!("session {} runs in this folder", scene.session)), "{refused}");
    scene.laptop.ok("stop", json!({"session": scene.session, "now": true}));
    // Nobody runs there any more. Its CLI takes up what another session runs all the same: it is ended, and says why.
    let first = text(&scene.laptop.ok("create", json!({"profile": "default", "continue": true}))["session"]["session"])
        .to_owned();
    let other = scene.laptop.create();
    let named = |word: &str| json!({"type": "system", "subtype": "status", "session_id": word}).to_string();
    let conversation = "0b2d3c4e-5f60-4711-8213-141516171819";
    for (session, word) in [(&other, "one"), (&first, "two")] {
        scene.standin.does(word, &[named(conversation), says("m", word), "@until never".into()]);
        scene.laptop.attach(session);
        scene.laptop.prompt(session, word);
        if session == &other {
            scene.laptop.event(session, "what it says", |event| event["kind"] == "text");
        }
    }
    let failed = scene.laptop.event(&first, "its end", |event| event["kind"] == "state" && event["state"] == "failed");
    assert!(text(&failed["why"]).contains(&format!("session {other} runs")), "{failed}");
}

#[test]
fn nobody_holds_up_the_end_beyond_the_grace() {
    let owner = Key::new("owner");
    let mut relay = Relay::options(&[&owner]).argument("--grace").argument("500ms").start();
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    device.prompt(&session, "ask, and nobody will answer");
    device.event(&session, "the permission request", |event| event["kind"] == "permission");
    // Peers that never answer the close: one in the WebSocket, one in the middle of its request.
    let _silent = RawSocket::open(&relay.tcp());
    let _half = relay.unix().connect().map(|mut stream| std::io::Write::write_all(&mut stream, b"GET /healthz HT"));
    relay.signal(Signal::TERM);
    assert_eq!(device.wait_closed().0, 1001);
    let status = relay.exit();
    assert!(status.success(), "{status:?}: {}", relay.log());
    process::none_left(relay.scratch.root());
}

#[test]
fn a_relay_may_be_ended_as_soon_as_it_listens() {
    let owner = Key::new("owner");
    for _ in 0..10 {
        let mut relay = Relay::demo(&[&owner]);
        relay.signal(Signal::TERM);
        let status = relay.exit();
        assert!(status.success(), "{status:?}: {}", relay.log());
    }
}

#[test]
fn every_figure_that_is_promised_has_its_name() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let prompt = device.prompt(&session, "hello");
    device.turn(&session, &prompt);
    let agent =
        until("there is an agent", || process::agent(relay.scratch.root(), |p| p.command.contains("demo-agent")));
    process::signal(agent.pid, Signal::KILL);
    let prompt = device.prompt(&session, "hello again");
    device.turn(&session, &prompt);
    let stranger = SignIn::new(&Key::new("stranger")).connect(&relay.tcp());
    assert!(stranger.is_err());
    let metrics = until("the session is counted as ready", || {
        let metrics = http::get(&relay.tcp(), "/metrics").body;
        metrics.contains("amp_relay_sessions{state=\"ready\"} 1").then_some(metrics)
    });
    let value = |series: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{series} is not in\n{metrics}"))
    };
    assert!(value("amp_relay_messages_total{dialect=\"session\",direction=\"in\"}") >= 5.0);
    assert!(value("amp_relay_messages_total{dialect=\"session\",direction=\"out\"}") >= 10.0);
    assert_eq!(value("amp_relay_session_restarts_total"), 1.0);
    for each in ["amp_relay_connections", "amp_relay_queue_bytes", "amp_relay_loop_turn_seconds_total"] {
        let workers = ["0", "1"].map(|worker| value(&format!("{each}{{worker=\"{worker}\"}}")));
        assert!(workers.iter().all(|value| *value >= 0.0), "{each}: {workers:?}");
    }
    assert!(relay.metric("amp_relay_connections") >= 1.0);
    assert_eq!(relay.metric("amp_relay_sign_in_failures_total"), 1.0);
    let stats = relay.stats();
    for worker in stats["workers"].as_array().expect("workers") {
        for figure in ["open", "queue_bytes", "session_in", "session_out", "sign_in_failures", "turns", "turn_ns_p99"] {
            assert!(worker[figure].is_u64(), "{figure}: {worker}");
        }
    }
}

#[test]
fn the_demo_agent_keeps_its_transcript_and_leaves_those_of_the_cli_alone() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let prompt = device.prompt(&session, "a task for a mask, and no questions");
    device.turn(&session, &prompt);
    assert!(device.events_of(&session, "permission").is_empty(), "only the word itself makes it ask");
    assert!(!relay.scratch.home().join(".claude").exists());
    let projects = relay.scratch.home().join(".local/state/amp-relay-demo");
    let folders: Vec<_> = fs::read_dir(&projects).expect("the transcripts").flatten().collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    let files: Vec<_> = fs::read_dir(folders[0].path()).expect("a folder").flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let kept = fs::read_to_string(files[0].path()).expect("the transcript");
    assert!(kept.contains("a task for a mask") && kept.contains(&prompt), "{kept}");
    assert!(kept.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{kept}");
}

#[test]
fn one_command_from_two_connections_runs_once() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let connect = |endpoint| SignIn::new(&owner).client("one-installation").connect(endpoint).expect("signed in");
    let mut devices = [connect(&relay.tcp()), connect(&relay.unix()), connect(&relay.tcp())];
    for round in 0..8 {
        let id = format!("create-{round}");
        for device in &mut devices {
            device.send(&json!({"type": "create", "id": id, "profile": "default", "title": "the same"}));
        }
        let sessions =
            devices.each_mut().map(|device| device.answer(&id).map(|reply| reply["session"]["session"].clone()));
        assert!(sessions[0].is_ok(), "{sessions:?}");
        assert!(sessions.iter().all(|session| *session == sessions[0]), "{sessions:?}");
        let listed = devices[0].ok("list", json!({}));
        assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(round + 1), "{listed}");
    }
}

#[test]
fn what_can_be_resumed_is_said_as_a_range() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let session = laptop.create();
    laptop.attach(&session);
    let prompt = laptop.prompt(&session, "hello");
    laptop.turn(&session, &prompt);
    laptop.idle(&session);
    let events = laptop.gapless(&session);
    let next = events.last().and_then(|event| event["offset"].as_u64()).expect("an offset") + 1;
    let epoch = events[0]["epoch"].clone();
    let mut phone = Device::connect(&relay, &owner, "phone");
    let from = json!({"epoch": epoch, "offset": next + 1});
    let error = phone.command("attach", json!({"session": session, "from": from})).expect_err("the future");
    assert_eq!(text(&error["code"]), "CANNOT_RESUME", "{error}");
    let at = |offset: u64| json!({"epoch": epoch, "offset": offset});
    let first = events[0]["offset"].as_u64().expect("an offset");
    let range = json!({"epoch": epoch, "earliest": at(first), "next": at(next)});
    assert_eq!(error["details"], range, "{error}");
    // What was offered is served.
    phone.ok("attach", json!({"session": session, "from": at(next)}));
    phone.wait("caught_up at once", |message| message["type"] == "caught_up");
    assert_eq!(phone.events(&session), Vec::<Value>::new());
    phone.ok("detach", json!({"session": session}));
    phone.seen.clear();
    phone.ok("attach", json!({"session": session, "from": at(first)}));
    phone.wait("caught_up", |message| message["type"] == "caught_up");
    assert_eq!(phone.gapless(&session), events);
}

#[test]
fn what_is_typed_during_a_break_is_said_once() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let wire = Proxy::to(address);
    let key = relay.scratch.home().join("owner_key");
    owner.write(&key);
    let mut command = relay.scratch.command(["attach", "--url", &format!("ws://{}", wire.address), "--key"]);
    let command = command.arg(&key).arg(&session).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut says = |text: String| {
        writeln!(stdin, "{text}").expect("it reads");
        let said = |event: &Value| event["kind"] == "prompt" && event["text"] == text.as_str();
        let prompt = device.event(&session, &text, said)["prompt"].clone();
        device.turn(&session, support::device::text(&prompt));
    };
    for round in 0..3 {
        says(format!("before break {round}"));
        wire.cut();
        says(format!("after break {round}"));
    }
    drop(stdin);
    let status = until("it ends with its input", || child.try_wait().expect("its status"));
    assert!(status.success(), "{status:?}");
    assert_eq!(device.events_of(&session, "prompt").len(), 6, "each was said once");
}

/// Starts `amp-relay stop` with the owner's key; what it says comes over a pipe.
fn stopping(scene: &Scene) -> std::process::Child {
    let key = scene.relay.scratch.home().join("owner_key");
    scene.owner.write(&key);
    let mut command = scene.relay.scratch.command(["stop", &scene.session]);
    command.arg("--key").arg(key).arg("--data").arg(scene.relay.scratch.data());
    command.stderr(Stdio::piped()).spawn().expect("the program starts")
}

#[test]
fn a_stop_waits_for_the_turn_and_for_the_decision_that_it_needs() {
    let mut scene = Scene::new();
    let (session, principal) = (scene.session.clone(), scene.laptop.principal().to_owned());
    let request = scene.ask("Bash", &json!({"command": "true"}));
    let mut stop = stopping(&scene);
    let mut said = BufReader::new(stop.stderr.take().expect("a pipe")).lines();
    let mut line = || said.next().expect("a line").expect("text");
    assert!(line().contains("stops when its turn ends"), "what is waited for is said first");
    let notice = scene.laptop.event(&session, "that it is to stop", |event| {
        event["kind"] == "notice" && text(&event["text"]).contains("stops when its turn ends")
    });
    assert_eq!(text(&notice["by"]["principal"]), principal);
    assert_eq!(scene.laptop.refused("prompt", json!({"session": session, "text": "more"})), "AGENT_UNAVAILABLE");
    scene.decided(&request, json!({"decision": "allow"}));
    let turn = scene.laptop.event(&session, "the turn", |event| event["kind"] == "turn");
    assert!(turn["ok"] == true && turn["by"].is_null(), "it ended by itself: {turn}");
    let stopped = scene.laptop.event(&session, "the end", |event| event["state"] == "stopped");
    assert_eq!(text(&stopped["by"]["principal"]), principal);
    assert!(line().contains("is stopped"));
    assert!(stop.wait().expect("its end").success());
}

#[test]
fn a_stop_that_nobody_waits_for_still_comes_after_the_turn() {
    let mut scene = Scene::new();
    let session = scene.session.clone();
    scene.standin.does("long", &["@until go".into(), says("m", "the end")]);
    let prompt = scene.laptop.prompt(&session, "long");
    scene.laptop.event(&session, "its turn", |event| event["state"] == "busy");
    let mut stop = stopping(&scene);
    scene.laptop.event(&session, "that it is to stop", |event| event["kind"] == "notice");
    stop.kill().and_then(|()| stop.wait()).expect("it is gone");
    scene.standin.write("go", "");
    assert_eq!(scene.laptop.settled(&session, &prompt), "done");
    scene.laptop.event(&session, "the end", |event| event["state"] == "stopped");
    assert!(scene.laptop.events_of(&session, "text").iter().any(|event| event["text"] == "the end"));
}

#[test]
fn who_breaks_a_turn_off_and_who_stops_the_relay_is_told_by_key() {
    let mut scene = Scene::new();
    let (session, principal) = (scene.session.clone(), scene.laptop.principal().to_owned());
    scene.ask("Bash", &json!({"command": "true"}));
    scene.laptop.ok("interrupt", json!({"session": session}));
    let turn = scene.laptop.event(&session, "the turn", |event| event["kind"] == "turn");
    assert_eq!(text(&turn["by"]["principal"]), principal);
    let cancelled = scene.laptop.event(&session, "the prompt", |event| event["state"] == "cancelled");
    assert_eq!(text(&cancelled["by"]["principal"]), principal);
    scene.laptop.ok("relay", json!({"op": "stop"}));
    assert!(scene.relay.exit().success());
    let log = scene.relay.log();
    let line = log.lines().find(|line| line.contains("an admin stops the relay"));
    assert!(line.is_some_and(|line| line.contains(&principal)), "{log}");
}

#[test]
fn a_program_that_was_named_and_is_none_is_named_where_no_session_can_start() {
    let owner = Key::new("owner");
    let options = Relay::options(&[&owner]).usual_log();
    let named = options.scratch.root().join("nope");
    let shown = named.display().to_string();
    let relay = options.claude(&named).start();
    let warned = format!("--claude: {shown} is not a program that can be run, so no session can start yet");
    let log = relay.logged(&[&warned]);
    assert!(!log.contains("was not found"), "{log}");
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let session = laptop.create();
    laptop.attach(&session);
    let reason = format!("{shown} was named as Claude Code, and is not a program that can be run");
    laptop.event(&session, "the reason", |event| event.to_string().contains(&reason));
    assert!(!relay.log().contains("not on PATH"), "{}", relay.log());
}

#[test]
fn a_program_that_the_config_names_and_that_is_none_is_named_with_its_line() {
    let scratch = Scratch::new();
    let config = scratch.home().join("config.toml");
    fs::write(&config, "claude = \"/nope\"\n").expect("a config");
    let mut command = scratch.command(["serve", "--listen", "127.0.0.1:0"]);
    command.arg("--config").arg(&config).arg("--data").arg(scratch.data());
    let relay = Relay::spawn(scratch, command, 2);
    relay.logged(&["config.toml:1", "/nope is not a program that can be run, so no session can start yet"]);
}
