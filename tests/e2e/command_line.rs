//! The edges of the command line, each named after what was found there in use: pipes, full disks, signals, keys of other
//! systems, settings, wide characters.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    sync::{Mutex, mpsc},
};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    self, Device, Key, Relay, process,
    proxy::Proxy,
    relay::{PROGRAM, Scratch, shell},
    standin::Scene,
    terminal::Terminal,
    until,
};

#[test]
fn f_a_prompt_that_is_too_large_fails_beside_the_output() {
    let scene = Scene::new();
    let ran = shell(&scene.relay.scratch, &scene.attach(), &format!("{}\n", "x".repeat(3 << 20)));
    assert!(!ran.status.success() && ran.out.is_empty(), "{:?} {:.200}", ran.status, ran.out);
    assert!(ran.err.contains("not sent"), "{:.400}", ran.err);
}

#[test]
fn f_output_that_cannot_be_written_fails() {
    let mut scene = Scene::new();
    scene.say("said before");
    let scratch = &scene.relay.scratch;
    let ran = shell(scratch, &format!("{} >/dev/full", scene.attach()), "default\n");
    scene.standin.does("word", &[support::standin::says("m", "an answer")]);
    let answered = shell(scratch, &format!("{} >/dev/full", scene.attach()), "word\n");
    assert!(ran.status.success(), "nothing was to be written: {ran:?}");
    assert!(!answered.status.success() && answered.err.contains("cannot be written"), "{answered:?}");
    for line in ["sessions", "keys list", "config show", "config check"] {
        let ran = shell(scratch, &format!("{PROGRAM} {line} --data {} >/dev/full", scratch.data().display()), "");
        assert!(!ran.status.success(), "{line}: {ran:?}");
    }
    for line in ["--version", "--help", "help keys", "keys add --help"] {
        let ran = shell(scratch, &format!("{PROGRAM} {line} >/dev/full"), "");
        assert!(ran.status.code() == Some(1) && ran.err.contains("cannot be written"), "{line}: {ran:?}");
        assert!(shell(scratch, &format!("{PROGRAM} {line}"), "").ok().contains("amp-relay"), "{line}");
    }
}

#[test]
fn f_a_web_server_is_told_from_a_relay_and_its_page_not_shown() {
    const PAGE: &str = "<!DOCTYPE HTML>\n<html lang=\"en\"><head><title>Error response</title></head></html>\n";
    let scratch = Scratch::new();
    let key = scratch.home().join("key");
    Key::new("mine").write(&key);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let verbs = [&["sessions"][..], &["attach"], &["request", "relay", "ping"]];
    let server = std::thread::spawn(move || {
        // They stay open, as a browser wants it.
        verbs.map(|_| {
            let (mut stream, _) = listener.accept().expect("a client");
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).expect("a request");
                head.extend(byte);
            }
            let answer = format!(
                "HTTP/1.1 404 File not found\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{PAGE}",
                PAGE.len()
            );
            stream.write_all(answer.as_bytes()).expect("it reads");
            stream
        })
    });
    for verb in verbs {
        let said = scratch.run([verb, &["--url", &url, "--key", key.to_str().expect("a path")]].concat()).refused();
        assert!(said.contains("the other side is no relay: it answered 404 File not found"), "{verb:?}: {said}");
        assert!(!said.contains('<'), "{verb:?}: {said}");
    }
    drop(server.join().expect("the server"));
}

#[test]
fn f_a_key_in_another_form_is_told_how_to_become_a_line() {
    let scratch = Scratch::new();
    let (home, data) = (scratch.home(), scratch.data());
    let (file, keys) = (home.join("r.pub"), data.join("authorized_keys"));
    fs::create_dir_all(&data).expect("a data folder");
    // What `keys add` and `keys did` say of the r.pub that this makes.
    let say = |make: &str| {
        let made = shell(&scratch, &format!("cd {} && {make}", home.display()), "");
        assert!(made.status.success(), "{make}: {made:?}");
        let (file, keys) = (file.to_str().expect("a path"), keys.to_str().expect("a path"));
        ["add", "did"].map(|verb| scratch.run(["keys", "--keys", keys, verb, file]))
    };
    say("ssh-keygen -q -t ed25519 -N '' -C mine -f e && ssh-keygen -q -t rsa -b 3072 -N '' -f r && cp r.pub rsa.pub");
    for (make, form) in [
        ("ssh-keygen -e -f e.pub > r.pub", ""),
        ("ssh-keygen -e -m PKCS8 -f rsa.pub > r.pub", " -m PKCS8"),
        ("ssh-keygen -e -m PEM -f rsa.pub > r.pub", " -m PEM"),
    ] {
        let command = format!("ssh-keygen -i{form} -f {}", file.display());
        for ran in say(make) {
            let said = ran.refused();
            assert!(said.contains("not an OpenSSH line") && said.contains(&format!("`{command}` makes one")), "{said}");
        }
        // And so it does.
        let _ = fs::remove_file(&keys);
        let [added, _] = say(&format!("{command} > line && mv line r.pub"));
        assert!(added.ok().starts_with("added SHA256:"), "{make}");
    }
    fs::remove_file(&keys).expect("the keys file");
    let [added, did] = say("printf '# my key\\n\\n' | cat - e.pub > r.pub");
    assert!(added.ok().contains("mine") && did.ok().starts_with("did:key:z6Mk"));
    for ran in say("ssh-keygen -q -s r -I x -n y e.pub && cp e-cert.pub r.pub") {
        let said = ran.refused();
        assert!(said.contains("certificates are not supported") && said.contains(".pub"), "{said}");
    }
    for ran in say("printf '# two\\n' | cat - e.pub e.pub > r.pub") {
        assert!(ran.refused().contains("these are 2 keys"));
    }
}

#[test]
fn f_a_config_without_line_feeds_is_refused_in_few_words() {
    let scratch = Scratch::new();
    let config = scratch.home().join("config.toml");
    for size in [3 << 20, 1 << 19] {
        fs::write(&config, "x".repeat(size)).expect("a config");
        let said = scratch.run(["config", "check", "--config", config.to_str().expect("a path")]).refused();
        assert!(said.contains("config.toml") && said.len() < 1000, "{} bytes: {said:.400}", said.len());
    }
}

#[test]
fn f_the_stand_in_for_programs_is_not_offered_to_people() {
    let scratch = Scratch::new();
    let help = scratch.run(["--help"]).ok();
    assert!(!help.contains("demo-agent") && help.contains("List the keys that may sign in, add and remove them"));
    for said in [scratch.run(["demo-agent", "--help"]).ok(), scratch.run(["demo-agent"]).refused()] {
        assert!(said.contains("amp-relay up --demo"), "{said}");
    }
}

#[test]
fn f_who_only_asks_leaves_nothing_in_a_folder_of_other_things() {
    let scratch = Scratch::new();
    let project = scratch.project();
    fs::write(project.join("main.c"), "").expect("a file");
    let listing = || fs::read_dir(&project).expect("a folder").count();
    for arguments in [&["sessions"][..], &["attach"], &["down"], &["request", "relay", "ping"]] {
        let said = scratch.run([arguments, &["--data", "."]].concat()).refused();
        assert!(said.contains("no data folder") && said.contains("--data DIR"), "{said}");
        let said = scratch.run([arguments, &["--data", ".", "--url", "ws://127.0.0.1:1"]].concat()).refused();
        assert!(said.contains("no data folder"), "{said}");
        assert_eq!(listing(), 1, "{arguments:?}");
    }
    let said = scratch.run(["sessions", "--data", "nowhere"]).refused();
    assert!(said.contains("no relay runs") && !project.join("nowhere").exists(), "{said}");
}

/// What `stty -a` says of a terminal on which lines are edited and seen.
fn is_usable(screen: &str) -> bool {
    let all: Vec<&str> = screen.split_whitespace().map(|word| word.trim_end_matches(';')).collect();
    ["echo", "icanon", "isig", "opost"].iter().all(|setting| all.contains(setting))
}

#[test]
fn f_the_terminal_is_given_back_on_every_way_out() {
    let scene = Scene::new();
    let line = format!("{}; stty -a", scene.attach());
    let locked = scene.relay.scratch.home().join("locked");
    scene.owner.write_encrypted(&locked, "correct");
    let usual = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
    let others = [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::VTALARM, Signal::ABORT, Signal::XCPU];
    for signal in usual.into_iter().chain(others) {
        let terminal = Terminal::sized(&scene.relay.scratch, &line, 100, 40);
        terminal.shows("the session", |screen| screen.contains("Ctrl-] leaves"));
        let is_attach = |one: &process::Process| one.command.starts_with(PROGRAM) && one.command.contains(" attach ");
        let attach = until("it runs", || process::agent(scene.relay.scratch.root(), is_attach));
        process::signal(attach.pid, signal);
        let screen = terminal.shows("the end", |screen| screen.contains("ended with"));
        assert!(is_usable(&screen) && !screen.contains("Ctrl-] leaves"), "{signal:?}: {screen}");
    }
    let line = line.replace("owner_key", "locked");
    let terminal = Terminal::sized(&scene.relay.scratch, &line, 100, 40);
    terminal.shows("the question", |screen| screen.contains("Passphrase of"));
    terminal.line("wrong");
    terminal.shows("why it asks again", |screen| screen.contains("That passphrase is wrong"));
    terminal.keys(&["C-c"]);
    let screen = terminal.shows("the end", |screen| screen.contains("ended with"));
    assert!(is_usable(&screen), "{screen}");
}

#[test]
fn f_a_terminal_that_was_another_s_meanwhile_is_taken_again() {
    let mut scene = Scene::new();
    let attach = scene.attach();
    // A shell with job control; the one that is stopped without being told gives nothing back.
    for (signal, shell) in [(Signal::STOP, "stty sane;"), (Signal::TSTP, "")] {
        let line = format!("set -m; {attach}; {shell} stty -a; echo it is stopped; read go; fg; stty -a");
        let terminal = Terminal::sized(&scene.relay.scratch, &line, 100, 40);
        terminal.shows("the session", |screen| screen.contains("Ctrl-] leaves"));
        let is_attach = |one: &process::Process| one.command.starts_with(PROGRAM) && one.command.contains(" attach ");
        let attach = until("it runs", || process::agent(scene.relay.scratch.root(), is_attach));
        process::signal(attach.pid, signal);
        let screen = terminal.shows("the shell", |screen| screen.contains("it is stopped"));
        assert!(is_usable(&screen), "{signal:?}: {screen}");
        terminal.keys(&["Enter"]);
        let drawn = |screen: &str| screen.contains("Ctrl-] leaves") && !screen.contains("it is stopped");
        terminal.shows("all of it, drawn anew", drawn);
        terminal.keys(&["-l", "typed after it"]);
        terminal.shows("what is typed", |screen| screen.contains("> typed after it"));
        terminal.keys(&["Enter"]);
        let session = scene.session.clone();
        scene.laptop.event(&session, "the prompt", |event| event["text"] == "typed after it");
        terminal.keys(&["C-]"]);
        let screen = terminal.shows("the end", |screen| screen.contains("ended with"));
        assert!(is_usable(screen.rsplit("it is stopped").next().unwrap_or_default()), "{signal:?}: {screen}");
    }
}

#[test]
fn f_a_pipe_whose_prompt_fails_fails() {
    let scene = Scene::new();
    let failed = json!({"type": "result", "subtype": "success", "is_error": true, "result": "API Error: 529 overloaded",
        "terminal_reason": "api_error", "user_message_uuid": "@UUID@", "duration_ms": 1, "total_cost_usd": 0});
    scene.standin.does("fails", &[failed.to_string(), "@silent".into()]);
    let ran = shell(&scene.relay.scratch, &scene.attach(), "fails\n");
    assert!(!ran.status.success() && ran.out.is_empty() && ran.err.contains("overloaded"), "{ran:?}");
}

#[test]
fn f_a_job_in_the_background_of_its_terminal_can_be_ended() {
    let scene = Scene::new();
    // It begins a job of its own, which the terminal does not belong to, and ends it after a second.
    let terminal = Terminal::sized(&scene.relay.scratch, &format!("timeout 1 {}", scene.attach()), 100, 30);
    terminal.shows("the end", |screen| screen.contains("ended with 124"));
}

#[test]
fn f_a_pipe_has_the_answers_to_its_own_prompts_and_no_others() {
    let mut scene = Scene::new();
    let block = |text: &str| support::standin::says(text, text);
    scene.standin.does("theirs", &[block("before"), "@until joined".into(), block("to them")]);
    scene.standin.does("mine", &[block("to me")]);
    let prompt = scene.laptop.prompt(&scene.session, "theirs");
    let said = |event: &serde_json::Value, text: &str| event["kind"] == "text" && event["text"] == text;
    let session = scene.session.clone();
    scene.laptop.event(&session, "what comes before", |event| said(event, "before"));
    let (scratch, attach) = (&scene.relay.scratch, scene.attach());
    let laptop = &mut scene.laptop;
    let standin = &scene.standin;
    let ran = std::thread::scope(|threads| {
        let running = threads.spawn(|| shell(scratch, &attach, "\u{feff}mine\n"));
        laptop.event(&session, "the second prompt", |event| event["kind"] == "prompt" && event["text"] == "mine");
        standin.write("joined", "");
        laptop.turn(&session, &prompt);
        running.join().expect("it ends")
    });
    assert_eq!(ran.out, "to me\n", "{ran:?}");
    assert!(ran.err.contains("  to them\n"), "{ran:?}");
}

#[test]
fn f_all_of_a_session_is_printed_in_its_order_while_it_goes_on() {
    let mut scene = Scene::new();
    for part in 0..6 {
        let words: String = (0..3_000).map(|at| format!("{at} ")).collect();
        scene.say(&format!("part {part}: {words}"));
    }
    // The answer to `attach` is held back until something follows it: so that comes before the history is asked for.
    let (reached, joins) = mpsc::channel();
    let (follows, more) = mpsc::channel::<()>();
    let more = Mutex::new(more);
    let wire = Proxy::altering(scene.tcp(), move |text| {
        if text.contains(r#""snapshot":"#) {
            let _ = reached.send(());
            let _ = more.lock().expect("a lock").recv();
        }
        text
    });
    let command = format!("{PROGRAM} attach --all {}", scene.reach(wire.address).join(" "));
    let ran = std::thread::scope(|threads| {
        let scratch = &scene.relay.scratch;
        let running = threads.spawn(move || shell(scratch, &command, ""));
        joins.recv().expect("it joins");
        let (standin, laptop, session) = (&scene.standin, &mut scene.laptop, scene.session.clone());
        standin.does("late", &[support::standin::says("late", "the closing bytes")]);
        let prompt = laptop.prompt(&session, "late");
        laptop.turn(&session, &prompt);
        follows.send(()).expect("it waits");
        running.join().expect("it ends")
    });
    let places: Vec<_> = ["part 0", "part 3", "part 5", "the closing bytes"].map(|text| ran.out.find(text)).into();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {}", ran.err);
}

#[test]
fn f_a_yes_in_a_pipe_answers_the_request_that_waits() {
    // No ping of the relay wakes the client.
    let mut scene = Scene::of(Relay::options(&[]).argument("--ws-ping").argument("3600s"), "");
    let request = scene.ask("Bash", &json!({"command": "ls"}));
    let ran = shell(&scene.relay.scratch, &scene.attach(), "yes\n");
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(scene.standin.answer(support::standin::id(&request))["response"]["behavior"], "allow");
    assert_eq!(scene.laptop.events_of(&scene.session, "prompt").len(), 1, "it is no prompt");
}

#[test]
fn a_line_of_a_pipe_answers_no_question_of_others() {
    let mut scene = Scene::new();
    let questions = json!({"questions": [{"question": "Which?", "options": [{"label": "one"}, {"label": "two"}]}]});
    let request = scene.ask("AskUserQuestion", &questions);
    let (scratch, attach, session) = (&scene.relay.scratch, scene.attach(), &scene.session);
    std::thread::scope(|threads| {
        // The second comes when something was said to the agent from here.
        let running = threads.spawn(|| shell(scratch, &attach, "one\ntwo\n"));
        for text in ["one", "two"] {
            let said = |event: &serde_json::Value| event["kind"] == "prompt" && event["text"] == text;
            scene.laptop.event(session, "it is a prompt", said);
        }
        let denial = json!({"session": session, "request": request["request"], "decision": "deny"});
        scene.laptop.ok("decide", denial);
        let ran = running.join().expect("it ran");
        assert!(ran.status.success(), "{ran:?}");
    });
    assert_eq!(scene.standin.answer(support::standin::id(&request))["response"]["behavior"], "deny");
}

#[test]
fn f_the_history_that_is_not_shown_is_reached() {
    let mut scene = Scene::new();
    scene.say("the very first words");
    for part in 0..6 {
        let words: String = (0..3_000).map(|at| format!("{at} ")).collect();
        scene.say(&format!("part {part}: {words}"));
    }
    let terminal = scene.attached(100, 30);
    let reached = |screen: &str| screen.contains("the very first words");
    let mut screen = terminal.shows("the newest part", |screen| screen.contains("done in"));
    while !reached(&screen) {
        // A page at a time, each drawn before the next.
        terminal.keys(&["PPage"]);
        screen = terminal.shows("the page before", |now| now != screen);
    }
    assert!(!screen.contains("earlier part"), "all of it is shown: {screen}");
    let scratch = &scene.relay.scratch;
    scene.standin.does("word", &[support::standin::says("m", "an answer")]);
    let piped = shell(scratch, &scene.attach(), "word\n");
    assert_eq!(piped.out, "an answer\n", "a pipe has the answer and no history");
    let all = shell(scratch, &format!("{} --all", scene.attach()), "");
    let first = all.out.find("the very first words").expect("all of it");
    assert!(all.out.find("part 0").is_some_and(|at| at > first) && all.out.contains("part 5"));
}

/// The numbers behind `#` on a screen, in their order.
fn numbers(screen: &str) -> Vec<usize> {
    let parts = screen.split('#').skip(1);
    parts.filter_map(|part| part.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

#[test]
fn f_a_screen_is_drawn_anew_when_asked_for() {
    let mut scene = Scene::new();
    let terminal = scene.attached(80, 24);
    scene.say("what the agent said");
    terminal.shows("what was said", |screen| screen.contains("what the agent said"));
    terminal.keys(&["C-l"]);
    scene.say("and then this");
    let screen = terminal.shows("what came after", |screen| screen.contains("and then this"));
    assert!(screen.contains("what the agent said"), "{screen}");
}

#[test]
fn f_wide_characters_and_other_sizes_leave_no_ghosts() {
    let mut scene = Scene::new();
    let words = ["ไทย", "ที่นี่", "❤\u{fe0f}", "🧑\u{200d}🌾", "☕", "漢字かな", "größer", "👍🏽"];
    let count = 400;
    let wide: String = (0..count).map(|at| format!("{}#{at} ", words[at % words.len()])).collect();
    let terminal = scene.attached(80, 24);
    scene.say(&wide);
    for (width, height) in [(80, 24), (60, 20), (33, 12), (120, 40), (200, 60), (80, 24)] {
        terminal.resize(width, height);
        // Each word once, in its order, up to the last one: a row that is drawn twice or left over shows.
        terminal.shows(&format!("the words at {width}x{height}"), |screen| {
            let shown = numbers(screen);
            let fits = shown.len() > usize::from(width) * usize::from(height) / 40 || shown.len() == count;
            let in_order = shown.last() == Some(&(count - 1)) && shown.windows(2).all(|pair| pair[1] == pair[0] + 1);
            // The last row is drawn last: a screen that is read before it is half a screen.
            fits && in_order && screen.matches("Ctrl-] leaves").count() == 1
        });
    }
    scene.say("and on it goes");
    terminal.shows("what comes next", |screen| screen.contains("and on it goes"));
}

/// Clusters of several characters that take columns, which a terminal like this one draws apart.
const PARTED: &str = "🇫🇷🇩🇪 กำ กำ ทำ नि";

#[test]
fn f_what_a_terminal_draws_apart_leaves_no_ghosts() {
    let mut scene = Scene::new();
    let terminal = scene.attached(80, 24);
    terminal.keys(&["-l", PARTED]);
    terminal.shows("what is typed", |screen| screen.contains("ทำ"));
    terminal.keys(&["C-u"]);
    terminal.shows("an empty row", |screen| screen.lines().any(|line| line.trim_end() == ">"));
    let lines: Vec<String> =
        (0..60).map(|at| format!("{}#{at}", if at % 2 == 0 { PARTED } else { "a b c d e f" })).collect();
    scene.say(&lines.join("\n\n"));
    let last = |screen: &str| numbers(screen).last() == Some(&59);
    terminal.shows("the end", last);
    for key in ["PPage", "PPage", "NPage", "End"] {
        let before = terminal.screen();
        terminal.keys(&[key]);
        terminal.shows("another page", |screen| screen != before && !numbers(screen).is_empty());
        terminal.is_drawn_as_it_is();
    }
}

#[test]
fn f_what_is_typed_to_a_session_that_is_over_is_not_lost() {
    let mut scene = Scene::new();
    let terminal = scene.attached(100, 30);
    scene.laptop.ok("stop", json!({"session": scene.session, "now": true}));
    terminal.shows("the end of it", |screen| screen.contains("the session is stopped"));
    terminal.line("are you there");
    let screen = terminal.shows("why nothing is sent", |screen| {
        screen.contains("! not sent: the session is stopped; `amp-relay new` starts another")
            && screen.contains("> are you there")
    });
    assert!(!screen.contains("was stopped"), "one thing has one name: {screen}");
}

#[test]
fn f_the_public_half_of_a_key_is_said_to_be_that() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let key = relay.scratch.home().join("id");
    owner.write(&key);
    let said = relay.run(&["sessions", "--key", key.with_extension("pub").to_str().expect("a path")]).refused();
    assert!(said.contains("public half") && said.contains(key.to_str().expect("a path")), "{said}");
    assert!(!said.contains("chmod"), "{said}");
}

#[test]
fn f_keys_that_another_system_wrote_are_read() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let utf16: Vec<u8> = [vec![0xFF, 0xFE]]
        .into_iter()
        .chain(Key::new("utf16").public.encode_utf16().map(|unit| unit.to_le_bytes().to_vec()))
        .flatten()
        .collect();
    let marked = [b"\xEF\xBB\xBF", Key::new("marked").public.as_bytes()].concat();
    for (name, bytes) in [("utf16", utf16), ("marked", marked)] {
        let file = relay.scratch.home().join(format!("{name}.pub"));
        fs::write(&file, bytes).expect("a key file");
        relay
            .run(&["keys", "--keys", relay.keys().to_str().expect("a path"), "add", file.to_str().expect("a path")])
            .ok();
    }
    let listed = relay.run(&["keys", "--keys", relay.keys().to_str().expect("a path"), "list"]).ok();
    assert!(listed.contains("utf16") && listed.contains("marked") && !listed.contains("Refused"), "{listed}");
    let huge = relay.scratch.home().join("huge.pub");
    for (bytes, why) in [("a".repeat(5 << 20), "larger than"), ("nonsense".into(), "not an OpenSSH line")] {
        fs::write(&huge, bytes).expect("a file");
        let said = relay.run(&["keys", "add", huge.to_str().expect("a path")]).refused();
        assert!(said.contains(why) && !said.contains("options\n"), "{said}");
    }
    let help = relay.run(&["keys", "add", "--help"]).ok();
    let help: Vec<&str> = help.split_whitespace().collect();
    assert!(help.join(" ").contains("agent exchanges messages"), "every role is named: {help:?}");
    // The keys file itself, as an editor elsewhere saves it.
    let text = fs::read_to_string(relay.keys()).expect("the keys");
    let guest = Key::new("guest");
    let text = text + &guest.line("amp-role=\"admin\"");
    let utf16: Vec<u8> = [0xFF, 0xFE].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    fs::write(relay.keys(), utf16).expect("the keys");
    relay.signal(Signal::HUP);
    until("the key is known", || support::SignIn::new(&guest).connect(&relay.tcp()).ok());
    Device::connect(&relay, &owner, "still here");
}

#[test]
fn f_a_config_is_checked_as_a_relay_would_use_it() {
    let scratch = Scratch::new();
    let config = scratch.home().join("config.toml");
    let check = |text: &str| {
        fs::write(&config, text).expect("a config");
        scratch.run(["config", "check", "--config", config.to_str().expect("a path")])
    };
    for (text, parts) in [
        ("claude = \"~/bin/claude\"\n", ["config.toml:1", "bin/claude"]),
        ("data = \"\"\n", ["config.toml:1", "empty"]),
        ("keys = \"~/\"\n", ["config.toml:1", "keys file"]),
        ("data = \"~/config.toml\"\n", ["config.toml:1", "folder"]),
        ("workers = 1\n[foo]\n", ["config.toml:2", "`foo` is not a setting"]),
    ] {
        let said = check(text).refused();
        assert!(parts.iter().all(|part| said.contains(part)), "{text}: {said}");
    }
    fs::create_dir(scratch.home().join("bin")).expect("a folder");
    let program = scratch.home().join("bin/claude");
    fs::write(&program, "#!/bin/sh\n").expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
    check("claude = \"~/bin/claude\"\ndata = \"~/fresh\"\n").ok();
    assert!(!scratch.home().join("fresh").exists(), "a check makes nothing");
    check("[amp]\n").ok();
    // Where no process can make a folder, whoever runs it.
    let said = check("data = \"/proc/amp-relay\"\n").refused();
    assert!(said.contains("config.toml:1: /proc: takes no folder"), "{said}");
    // As an editor elsewhere saves it.
    let saved = |bytes: Vec<u8>| {
        fs::write(&config, bytes).expect("a config");
        scratch.run(["config", "check", "--config", config.to_str().expect("a path")])
    };
    let utf16 = |text: &str| [0xFF, 0xFE].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    saved(utf16("workers = 1\n")).ok();
    assert!(saved(utf16("worker = 1\n")).refused().contains("did you mean `workers`?"));
    assert!(saved(b"folder = \"/gr\xF6\xDFer\"\n".to_vec()).refused().contains("save it as UTF-8"));
}

#[test]
fn f_a_project_is_no_data_folder_and_keeps_its_mode() {
    let scratch = Scratch::new();
    fs::write(scratch.project().join("main.c"), "").expect("a file");
    fs::set_permissions(scratch.project(), fs::Permissions::from_mode(0o755)).expect("ours");
    let said = scratch.run(["serve", "--demo", "--listen", "127.0.0.1:0", "--data", "."]).refused();
    assert!(said.contains("--data DIR"), "{said}");
    let mode = fs::metadata(scratch.project()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(fs::read_dir(scratch.project()).expect("there").count(), 1, "nothing was made in it");
}

#[test]
fn f_tables_align_wide_titles() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    for title in ["漢字かな", "plain title", "☕ größer"] {
        device.ok("create", json!({"profile": "default", "title": title}));
    }
    let key = relay.scratch.home().join("id");
    owner.write(&key);
    let table = relay.run(&["sessions", "--key", key.to_str().expect("a path")]).ok();
    let folder = relay.scratch.project().display().to_string();
    let columns: Vec<usize> = table
        .lines()
        .skip(1)
        .map(|line| {
            let before = &line[..line.find(&folder).expect("the folder")];
            before.chars().map(|c| if matches!(c, '漢' | '字' | 'か' | 'な' | '☕') { 2 } else { 1 }).sum()
        })
        .collect();
    assert_eq!(columns.len(), 3);
    assert!(columns.iter().all(|column| *column == columns[0]), "{table}");
}

#[test]
fn f_no_code_of_the_protocol_reaches_a_person() {
    let mut scene = Scene::of(Relay::options(&[]), "");
    let guest = Key::new("guest");
    let key = scene.relay.scratch.home().join("guest");
    guest.write(&key);
    let named = key.to_str().expect("a path").to_owned();
    let keys = fs::read_to_string(scene.relay.keys()).expect("the keys");
    let mut said = vec![scene.relay.run(&["sessions", "--key", &named]).refused()];
    fs::write(scene.relay.keys(), keys + &guest.line("amp-role=\"watch\"")).expect("the keys");
    scene.relay.signal(Signal::HUP);
    until("the key is known", || support::SignIn::new(&guest).connect(&scene.relay.tcp()).ok());
    let run = |arguments: &[&str]| scene.relay.run(&[arguments, &["--key", &named]].concat()).refused();
    said.push(run(&["new", "--detach"]));
    said.push(run(&["stop", &scene.session[..8]]));
    said.push(run(&["down"]));
    said.push(run(&["attach", "--role", "admin"]));
    said.push(run(&["send", "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp", "hi"]));
    said.push(run(&["request", "relay", "nonsense"]));
    scene.laptop.ok("stop", json!({"session": scene.session, "now": true}));
    let session = scene.session.clone();
    scene.laptop.event(&session, "the end", |event| event["kind"] == "state" && event["state"] == "stopped");
    said.push(shell(&scene.relay.scratch, &scene.attach(), "hello\n").err);
    for said in said {
        let code = |word: &str| {
            let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            word.contains('_') && word.len() > 4 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        };
        assert!(!said.is_empty() && !said.split_whitespace().any(code), "{said}");
    }
}

#[test]
fn what_can_stand_in_the_place_of_a_text_is_said_where_both_are_missing() {
    let did = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
    for (words, said) in [
        (["send", did], "add a TEXT behind the DID, - for standard input, or --json BODY"),
        (["request", did], "add a TEXT behind the DID, - for standard input, or --json BODY"),
        (["request", "relay"], "add an action behind it, agents, ping, echo or time, or --json BODY"),
    ] {
        let ran = Scratch::new().run(words);
        assert_eq!(ran.status.code(), Some(2), "{ran:?}");
        assert!(ran.err.contains(said), "{}", ran.err);
    }
}

#[test]
fn no_two_keys_are_added_under_one_name() {
    let scratch = Scratch::new();
    let keys = scratch.home().join("keys").display().to_string();
    let add = |more: &[&str]| scratch.run([&["keys", "add", "--keys", &keys], more].concat());
    let [first, second] = [Key::new("approve"), Key::new("approve")];
    add(&[&first.public]).ok();
    let said = add(&["--role", "watch", &second.public]).refused();
    assert!(said.contains("in line 1") && said.contains("keys add --role watch --comment NAME FILE"), "{said}");
    for alike in ["Approve", "approve,", "(approve)"] {
        add(&["--role", "watch", "--comment", alike, &second.public]).refused();
    }
    assert_eq!(fs::read_to_string(&keys).expect("the keys").lines().count(), 1);
    let said = add(&["--role", "watch", "--comment", "phone", &second.public]).ok();
    assert!(said.contains(" phone as watch"), "{said}");
    let listed = scratch.run(["keys", "list", "--keys", &keys]).ok();
    assert!(listed.contains("phone") && !listed.contains("one name"), "{listed}");
}

#[test]
fn a_data_folder_whose_path_is_too_long_is_no_setting_that_can_be_used() {
    let scratch = Scratch::new();
    let long = scratch.home().join("x".repeat(110)).display().to_string();
    for verb in [&["config", "check"][..], &["up", "--demo", "--listen", "127.0.0.1:0"]] {
        let said = scratch.run([verb, &["--data", &long]].concat()).refused();
        assert!(said.contains("too long") && said.contains("--data DIR"), "{verb:?}: {said}");
    }
    assert!(!std::path::Path::new(&long).exists());
    let socket = format!("unix:{long}");
    assert!(scratch.run(["config", "check", "--listen", &socket]).refused().contains("too long"));
}
