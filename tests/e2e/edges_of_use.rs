//! Edges of the command line that were found in use: answers that nothing asked for, readers that have gone, jobs that a
//! shell moves, the first run, a folder that is gone.

use std::{
    fs, io,
    io::Write as _,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    relay_up::{relays, up},
    support::{
        self, Key, process,
        proxy::Proxy,
        relay::{self, PROGRAM, Relay, Scratch, shell},
        standin::{Scene, asks, id, says},
        terminal::{Terminal, flat},
        text, until,
    },
};

#[test]
fn an_answer_in_a_pipe_that_nothing_asked_for_is_not_sent() {
    let mut scene = Scene::new();
    let (scratch, attach) = (&scene.relay.scratch, scene.attach());
    for line in ["y", "Yes", "n", "n not this"] {
        let ran = shell(scratch, &attach, &format!("{line}\n"));
        assert!(ran.status.code() == Some(1) && ran.out.is_empty(), "{line}: {ran:?}");
        assert!(ran.err.contains("! not sent: ") && ran.err.contains("none waits"), "{line}: {ran:?}");
        assert!(ran.err.contains(&format!("; the line: {line}\n")), "{line}: {ran:?}");
    }
    // A text is one, and what follows an answer that was refused goes on.
    scene.standin.does("yes", &[says("m", "done")]);
    let ran = shell(scratch, &attach, "y\nyes but carefully\n");
    assert!(ran.status.code() == Some(1) && ran.out == "done\n", "{ran:?}");
    // Behind a prompt it is an answer to the agent, which may ask in words.
    let ran = shell(scratch, &attach, "yes and\ny\n");
    assert!(ran.status.success(), "{ran:?}");
    scene.laptop.sync();
    let prompts = scene.laptop.events_of(&scene.session, "prompt");
    assert_eq!(prompts.iter().map(|one| text(&one["text"])).collect::<Vec<_>>(), ["yes but carefully", "yes and", "y"]);
}

#[test]
fn a_pipe_has_no_words_of_its_own_and_fails_where_its_session_is_over() {
    let mut scene = Scene::new();
    let (session, attach) = (scene.session.clone(), scene.attach());
    // A mark before the first line is none of its text; an empty line is nothing; the last line needs no end.
    let ran = shell(&scene.relay.scratch, &attach, "\u{feff}/help\r\n\n/quit\n\u{feff}/x");
    assert!(ran.status.success(), "{ran:?}");
    scene.laptop.sync();
    let prompts = scene.laptop.events_of(&session, "prompt");
    assert_eq!(prompts.iter().map(|one| text(&one["text"])).collect::<Vec<_>>(), ["/help", "/quit", "\u{feff}/x"]);
    scene.laptop.ok("stop", json!({"session": session, "now": true}));
    for (lines, says) in [("", "stopped"), ("hello\n", "! not sent: the session is stopped; `amp-relay new` starts")] {
        let ran = shell(&scene.relay.scratch, &format!("{attach} {session}"), lines);
        assert!(ran.status.code() == Some(1) && ran.err.contains(says), "{lines:?}: {ran:?}");
    }
}

#[test]
fn a_pipe_leaves_what_others_are_asked_to_them() {
    let mut scene = Scene::new();
    let (session, attach) = (scene.session.clone(), scene.attach());
    let request = scene.ask("Bash", &json!({"command": "echo one"}));
    // No line of it was refused.
    let ran = shell(&scene.relay.scratch, &attach, "");
    assert!(ran.status.success() && ran.err.contains("echo one"), "{ran:?}");
    // Behind the turn that it lets go on, another prompt of another device asks as well.
    let second = asks("second", "Bash", &json!({"command": "echo two"}).to_string(), &json!({}));
    scene.standin.does("second", &[second, "@wait".into()]);
    scene.laptop.prompt(&session, "second");
    let ran = shell(&scene.relay.scratch, &attach, "y\n");
    assert!(ran.status.success() && ran.err.contains("allowed"), "{ran:?}");
    assert_eq!(scene.standin.answer(id(&request))["response"]["behavior"], "allow");
    let second = scene.laptop.event(&session, "the second request", |event| event["request"] == "second");
    scene.decided(&second, json!({"decision": "deny"}));
    // What comes of a prompt of its own is for it to answer.
    scene.standin.does("own", &[asks("own", "Bash", r#"{"command":"echo own"}"#, &json!({})), "@wait".into()]);
    let ran = shell(&scene.relay.scratch, &attach, "own\n");
    assert!(ran.status.code() == Some(1) && ran.err.contains("a request waits for an answer"), "{ran:?}");
}

#[test]
fn an_answer_in_a_pipe_that_is_not_taken_fails() {
    let mut scene = Scene::new();
    let request = scene.ask("Bash", &json!({"command": "ls"}));
    let mut command = scene.relay.scratch.runs("sh", ["-c", &format!("{} --role drive", scene.attach())]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    let said = relay::lines(child.stderr.take().expect("a pipe"));
    child.stdin.take().expect("a pipe").write_all(b"y\n").expect("it reads");
    while !said.recv_timeout(support::DEADLINE).expect("it says why").contains("your role does not decide") {}
    scene.decided(&request, json!({"decision": "deny"}));
    let status = until("it ends with its input", || child.try_wait().expect("its status"));
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_line_of_a_pipe_that_the_relay_refuses_is_named_and_not_called_sent() {
    let mut scene = Scene::new();
    let request = scene.ask("Bash", &json!({"command": "ls"}));
    let (scratch, attach, session) = (&scene.relay.scratch, scene.attach(), &scene.session);
    let long = "x".repeat(200);
    let lines = format!("a\u{1}b\n\u{2}{long}\nok\n");
    let ran = thread::scope(|threads| {
        let running = threads.spawn(|| shell(scratch, &attach, &lines));
        scene
            .laptop
            .event(session, "the line that is taken", |event| event["kind"] == "prompt" && event["text"] == "ok");
        let denial = json!({"session": session, "request": request["request"], "decision": "deny"});
        scene.laptop.ok("decide", denial);
        running.join().expect("it ran")
    });
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let said: Vec<&str> = ran.err.lines().filter(|line| line.starts_with(['\u{b7}', '!', '>'])).collect();
    let count = |what: &str| said.iter().filter(|line| line.contains(what)).count();
    assert_eq!(count("sent as a prompt, which waits until the request is answered"), 1, "{ran:?}");
    let named = |code: &str, line: &str| {
        said.iter().any(|said| {
            said.starts_with("! not sent: `text` holds ")
                && said.contains(code)
                && said.ends_with(&format!("; the line: {line}"))
        })
    };
    assert!(named("U+0001", "a<U+0001>b"), "{ran:?}");
    assert!(said.iter().any(|said| said.contains("U+0002") && said.ends_with('…') && !said.contains(&long)), "{ran:?}");
}

#[test]
fn an_answer_of_a_pipe_that_comes_second_is_named() {
    let mut scene = Scene::new();
    let request = scene.ask("Bash", &json!({"command": "ls"}));
    // It does not hear of the decision of the other device.
    let wire = Proxy::altering(scene.tcp(), |text| text.replace(r#""kind":"decision""#, r#""kind":"another""#));
    let mut command = scene.relay.scratch.command(["attach"]);
    let command = command.args(scene.reach(wire.address)).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let said = relay::lines(child.stderr.take().expect("a pipe"));
    let next = || said.recv_timeout(support::DEADLINE).expect("it says more");
    while !next().contains("y: allow") {}
    scene.decided(&request, json!({"decision": "deny"}));
    child.stdin.take().expect("a pipe").write_all(b"y\n").expect("it reads");
    let second = loop {
        let line = next();
        if line.starts_with("! ") {
            break line;
        }
    };
    assert!(
        second.contains("already denied") && second.contains("; not taken: your answer (allow) to Bash(ls)"),
        "{second}"
    );
    until("it ends with its input", || child.try_wait().expect("its status"));
}

#[test]
fn an_answer_that_finds_no_room_leaves_its_request_to_be_answered() {
    let scene = Scene::new();
    let own = asks("own", "Bash", &json!({"command": "touch mine"}).to_string(), &json!({}));
    scene.standin.does("mine", &[own, "@wait".into()]);
    // What the relay says after the request is held back, so that nothing is answered any more.
    let (release, held) = mpsc::channel::<()>();
    let (held, is_asked) = (Mutex::new(held), AtomicBool::new(false));
    let wire = Proxy::altering(scene.tcp(), move |text| {
        if is_asked.load(Ordering::SeqCst) {
            let _ = held.lock().expect("a lock").recv();
        }
        is_asked.fetch_or(text.contains(r#""kind":"permission""#), Ordering::SeqCst);
        text
    });
    let mut command = scene.relay.scratch.command(["attach"]);
    let command = command.args(scene.reach(wire.address)).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let said = relay::lines(child.stderr.take().expect("a pipe"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"mine\n").expect("it reads");
    while !said.recv_timeout(support::DEADLINE).expect("it shows the request").contains("y: allow") {}
    let more: String = (0..64).map(|at| format!("more {at}\n")).collect();
    stdin.write_all(format!("{more}y\n").as_bytes()).expect("it reads");
    drop(stdin);
    // Its own card is still there when the input has ended.
    let status = until("it ends with its input", || child.try_wait().expect("its status"));
    let said: Vec<String> = said.iter().collect();
    let says = |what: &str| said.iter().any(|line| line.contains(what));
    assert!(says("has not answered the last 64 commands") && says("a request waits for an answer"), "{said:?}");
    assert!(says("; the line: y"), "{said:?}");
    assert_eq!(status.code(), Some(1));
    drop(release);
}

#[test]
fn a_reader_of_stderr_that_has_gone_ends_nothing() {
    let scratch = Scratch::new();
    let (reader, gone) = io::pipe().expect("a pipe");
    drop(reader);
    let mut command = scratch.command(["up", "--foreground", "--demo", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(gone).spawn().expect("it starts");
    let lines = relay::lines(child.stdout.take().expect("a pipe"));
    for _ in 0..2 {
        lines.recv_timeout(support::DEADLINE).expect("where it listens");
    }
    // What it explains comes after that, and it obeys a signal after it.
    process::signal(i32::try_from(child.id()).expect("a pid"), Signal::TERM);
    let status = until("it has ended", || child.try_wait().expect("its status"));
    assert!(status.success(), "{status:?}");
}

#[test]
fn a_window_is_left_well_where_nobody_reads_stderr() {
    let scene = Scene::new();
    let line = format!("{{ {}; echo \"left with $?\"; }} 2>&1 >/dev/tty | true", scene.attach());
    let terminal = Terminal::sized(&scene.relay.scratch, &line, 100, 30);
    terminal.shows("the session", |screen| screen.contains("Ctrl-] leaves"));
    terminal.keys(&["C-]"]);
    terminal.shows("the end", |screen| screen.contains("left with 0"));
}

#[test]
fn a_job_that_is_brought_to_the_front_takes_the_terminal() {
    let mut scene = Scene::new();
    let attach = scene.attach();
    // A shell that tells a job which runs already nothing when it brings it to the front.
    for (begins, is_stopped) in [(format!("{attach} &"), false), (format!("{attach}; bg;"), true)] {
        let line = format!("bash -c 'set -m; {begins} echo it is begun; read go; fg; stty -a'");
        let terminal = Terminal::sized(&scene.relay.scratch, &line, 100, 40);
        if is_stopped {
            terminal.shows("the session", |screen| screen.contains("Ctrl-] leaves"));
            terminal.keys(&["C-z"]);
        }
        scene.laptop.wait("it has joined", |message| {
            message["type"] == "presence" && message["devices"].as_array().is_some_and(|devices| devices.len() == 2)
        });
        let screen = terminal.shows("the shell", |screen| screen.contains("it is begun"));
        assert!(!screen.contains("Ctrl-] leaves"), "the terminal is the shell's: {screen}");
        terminal.keys(&["Enter"]);
        terminal.shows("the window", |screen| screen.contains("Ctrl-] leaves"));
        terminal.keys(&["-l", "typed after it"]);
        terminal.shows("what is typed", |screen| screen.contains("> typed after it"));
        terminal.keys(&["C-]"]);
        let screen = terminal.shows("the end", |screen| screen.contains("ended with"));
        let settings: Vec<&str> = screen.split_whitespace().collect();
        assert!(["icanon", "echo", "isig"].iter().all(|one| settings.contains(one)), "{screen}");
        scene.laptop.wait("it has left", |message| {
            message["type"] == "presence" && message["devices"].as_array().is_some_and(|devices| devices.len() == 1)
        });
    }
}

#[test]
fn a_question_at_the_first_run_ends_its_row_and_files_without_a_key_are_named() {
    let scratch = Scratch::new();
    let folder = scratch.home().join(".ssh");
    fs::create_dir(&folder).expect("a folder");
    Key::new("guest").write(&folder.join("id_1"));
    fs::write(folder.join("id_2.pub"), [0xff, 0x00, 0x9b, b'\n', 0x80]).expect("a file");
    fs::write(folder.join("id_3.pub"), vec![b'x'; 5 << 20]).expect("a file");
    let up = format!("{PROGRAM} up --foreground --demo --listen 127.0.0.1:0");
    let terminal = Terminal::sized(&scratch, &up, 160, 40);
    terminal.shows("the question", |screen| screen.contains("[y/N]"));
    terminal.keys(&["C-d"]);
    let screen = terminal.shows("where it listens", |screen| screen.contains("listening unix:"));
    let row = screen.lines().find(|row| row.contains("[y/N]")).expect("the question");
    assert!(row.trim_end().ends_with("[y/N]"), "{screen}");
    for (file, why) in
        [("id_2.pub", "is passed over: "), ("id_3.pub", "is passed over: it cannot be read: it is larger")]
    {
        let is_named = |row: &str| row.starts_with('/') && row.contains(&format!("/{file} {why}"));
        assert!(screen.lines().any(is_named), "{file}: {screen}");
    }
    terminal.keys(&["C-c"]);
    terminal.shows("the end of the relay", |screen| screen.contains("ended with 0"));
}

#[test]
fn nothing_is_drawn_on_a_terminal_that_cannot_be_drawn_on() {
    let scene = Scene::new();
    scene.standin.does("hello", &[says("m", "the answer")]);
    for (word, term, why) in [("hello", "TERM=dumb", "TERM is dumb"), ("hello", "-u TERM", "TERM is not set")] {
        // What stands on the terminal before is gone where the screen is taken.
        let line = format!("echo before; env {term} {}", scene.attach());
        let terminal = Terminal::run(&scene.relay.scratch, &line);
        let screen = terminal.shows("why", |screen| screen.contains(why));
        assert!(screen.contains("before"), "{screen}");
        let hint = flat(&terminal.shows("the hint", |screen| screen.contains("can be answered")));
        let command = hint.split_once(", as in `").expect("a command").1.split('`').next().unwrap_or_default();
        assert!(command.starts_with("TERM=xterm ") && command.contains("amp-relay attach "), "{hint}");
        terminal.line(word);
        let screen = terminal.shows("the answer", |screen| screen.contains("the answer") && screen.contains("done in"));
        // The seconds are the turn's, and what it cost is not known.
        assert!(flat(&screen).contains(" s · $0.0000 so far, as the agent counts"), "{screen}");
        assert!(screen.contains("before") && !screen.contains("Ctrl-]"), "{screen}");
        terminal.keys(&["C-d"]);
        terminal.shows("its end", |screen| screen.contains("ended with 0"));
    }
    // `up` and `new` join in the same way.
    let scratch = Scratch::new();
    for verb in [up(""), format!("{PROGRAM} new")] {
        let terminal = Terminal::run(&scratch, &format!("echo before; export TERM=dumb; {verb}"));
        let screen = terminal.shows("why", |screen| screen.contains("TERM is dumb"));
        assert!(screen.contains("before"), "{verb}: {screen}");
        terminal.keys(&["C-d"]);
        terminal.shows("its end", |screen| screen.contains("ended with 0"));
    }
    scratch.run(["down"]).ok();
}

#[test]
fn a_folder_whose_name_no_message_holds_is_named_before_a_relay_is_started() {
    let scratch = Scratch::new();
    for (name, glob, why) in
        [("a\x01b", "a*b", "its name holds U+0001"), ("c\u{202e}d", "c*d", "its name holds U+202E")]
    {
        fs::create_dir_all(scratch.project().join(name)).expect("a folder");
        let terminal = Terminal::run(&scratch, &format!("cd {glob}; {}", up("")));
        let screen = terminal.shows("its end", |screen| screen.contains("ended with 1"));
        let screen = flat(&screen).replace("↳ ", "");
        assert!(screen.contains("no session can run in the folder") && screen.contains(why), "{screen}");
        assert!(relays(&scratch).is_empty());
    }
    let terminal = Terminal::run(&scratch, &up("--title \"$(printf 'a\\001b')\""));
    terminal.shows("what is wrong", |screen| screen.contains("it holds U+0001") && screen.contains("ended with 2"));
    assert!(relays(&scratch).is_empty());
}

#[test]
fn a_folder_that_is_gone_is_no_matter_of_the_config() {
    let scratch = Scratch::new();
    for verb in ["new", "attach", "sessions", "up", "keys list", "config check"] {
        let ran = shell(&scratch, &format!("mkdir gone; cd gone; rmdir \"$PWD\"; {PROGRAM} {verb}"), "");
        let said = ran.refused();
        assert!(said.contains("the current folder cannot be used") && said.contains("go to another"), "{verb}: {said}");
        assert!(!said.contains("config"), "{verb}: {said}");
    }
}

#[test]
fn a_variable_that_is_neither_on_nor_off_is_named() {
    let scratch = Scratch::new();
    for (name, verb) in [("AMP_RELAY_DEMO", "config check"), ("AMP_RELAY_PIN", "up"), ("AMP_RELAY_DEMO", "serve")] {
        let said = shell(&scratch, &format!("{name}=maybe {PROGRAM} {verb}"), "").refused();
        assert!(said.contains(&format!("{name}: \"maybe\" is neither true nor false")), "{verb}: {said}");
    }
    for (value, is_on) in [("ON", true), ("1", true), ("No", false), ("", false)] {
        let shown = shell(&scratch, &format!("AMP_RELAY_DEMO={value} {PROGRAM} config show"), "").ok();
        assert!(shown.contains(&format!("demo = {is_on}")), "{value}: {shown}");
    }
}

#[test]
fn a_number_that_is_none_is_named_by_where_it_was_said() {
    let scratch = Scratch::new();
    for value in ["abc", "0", "-1", "9999999999999999999999"] {
        let wanted = format!("{value:?} is not a number of workers from 1 to 4095");
        for (line, origin) in [
            (format!("AMP_RELAY_WORKERS={value} {PROGRAM} config check"), "AMP_RELAY_WORKERS"),
            (format!("{PROGRAM} config check --workers={value}"), "--workers"),
            (format!("{PROGRAM} serve --workers={value}"), "--workers"),
        ] {
            let said = shell(&scratch, &line, "").refused();
            assert!(said.contains(&format!("{origin}: {wanted}")), "{said}");
        }
    }
}

#[test]
fn a_variable_that_is_no_setting_is_told_and_hinders_nothing() {
    let scratch = Scratch::new();
    let told = "the variable AMP_RELAY_FOLDR is not a setting, so it changes nothing; did you mean `AMP_RELAY_FOLDER`?";
    for verb in ["check", "show"] {
        let with = |variables: &str| shell(&scratch, &format!("{variables} {PROGRAM} config {verb}"), "");
        let ran = with("AMP_RELAY_FOLDR=x");
        assert!(ran.status.success() && ran.err.contains(&format!("amp-relay: {told}")), "{verb}: {ran:?}");
        // What tests set, what another verb takes, and what is set to nothing.
        let ran = with("AMP_RELAY_TEST_ANY=x AMP_RELAY_URL=unix:x AMP_RELAY_KEY=x AMP_RELAY_FOLDR=");
        assert!(ran.status.success() && ran.err.is_empty(), "{verb}: {ran:?}");
    }
    let owner = Key::new("owner");
    let mut relay = Relay::options(&[&owner]).usual_log().env("AMP_RELAY_FOLDR", "x").start();
    relay.signal(Signal::TERM);
    assert!(relay.exit().success());
    let log = relay.log();
    assert!(log.lines().any(|line| line.contains(" warn ") && line.contains(told)), "{log}");
}

#[test]
fn what_is_given_empty_is_refused_by_its_name() {
    let scratch = Scratch::new();
    for verb in ["up", "new --detach"] {
        for flag in ["--model", "--title"] {
            let said = shell(&scratch, &format!("{PROGRAM} {verb} {flag} ''"), "").refused();
            assert!(
                said.contains(flag) && said.contains("it is empty; leave it out for the default"),
                "{verb}: {said}"
            );
        }
    }
    assert!(!scratch.data().join("relay.sock").exists(), "nothing was started");
}

#[test]
fn titles_that_differ_in_what_cannot_be_seen_look_different() {
    let mut scene = Scene::new();
    for title in ["proj", " proj", "proj\u{a0}", "pro\u{200b}j"] {
        scene
            .laptop
            .ok("create", json!({"profile": "default", "title": title, "folder": scene.relay.scratch.project()}));
    }
    let ran = shell(&scene.relay.scratch, &scene.attach().replace(" attach ", " sessions "), "").ok();
    for title in ["proj", "<U+0020>proj", "proj<U+00A0>", "pro<U+200B>j"] {
        assert_eq!(
            ran.lines().filter(|row| row.split_whitespace().any(|cell| cell == title)).count(),
            1,
            "{title}: {ran}"
        );
    }
}
