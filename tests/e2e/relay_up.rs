//! One terminal is enough: `up` with its relay in the background, `new`, `stop` and `down`, what a session is started
//! with, and what a running relay takes over on SIGHUP.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    self, Key, Relay, SignIn, process,
    relay::{PROGRAM, Scratch, lines},
    standin::Standin,
    terminal::{Terminal, flat},
    text, until,
};

/// A shell line that runs `up` with the demo agent on a free port.
pub(crate) fn up(more: &str) -> String {
    format!("AMP_RELAY_LISTEN=127.0.0.1:0 AMP_RELAY_DEMO=1 {PROGRAM} up {more}")
}

pub(crate) fn data(scratch: &Scratch) -> PathBuf {
    scratch.home().join(".local/state/amp-relay")
}

pub(crate) fn is_attached(screen: &str) -> bool {
    screen.contains("Ctrl-] leaves")
}

pub(crate) fn sessions(scratch: &Scratch) -> Vec<Value> {
    serde_json::from_str(&scratch.run(["sessions", "--json"]).ok()).expect("a list")
}

/// The relays of a scratch world.
pub(crate) fn relays(scratch: &Scratch) -> Vec<i32> {
    let all = process::of(scratch.root()).into_iter();
    all.filter(|process| process.command.contains("serve --background")).map(|process| process.pid).collect()
}

#[test]
fn f_one_terminal_is_enough_and_closing_it_ends_nothing() {
    let scratch = Scratch::new();
    let first = Terminal::sized(&scratch, &up("--env NO_SUCH_THING"), 80, 24);
    let said = first.shows("that the relay runs in the background", |screen| screen.contains("ends nothing"));
    let flat = flat(&said);
    assert!(flat.contains("the word `ask`"), "what the demo agent asks at: {said}");
    assert!(flat.contains("no session gets it: NO_SUCH_THING"), "{said}");
    first.line("a word of the first terminal");
    let second = Terminal::run(&scratch, &up(""));
    second.shows("what the first one said", |screen| screen.contains("a word of the first terminal"));
    drop(first);
    second.line("a word of the second terminal");
    second.shows("the answer", |screen| {
        screen.rsplit("a word of the second terminal").next().is_some_and(|after| after.contains("done in"))
            && screen.contains("You said: \"a word of the second")
    });
    fs::create_dir(scratch.project().join("site")).expect("a folder");
    let elsewhere = Terminal::run(&scratch, &format!("cd site; {}", up("")));
    elsewhere.shows("a session of its own", |screen| is_attached(screen) && screen.contains("project/site"));
    let all = sessions(&scratch);
    assert_eq!((all.len(), relays(&scratch).len()), (2, 1), "{all:?}");
    for terminal in [&second, &elsewhere] {
        terminal.keys(&["C-]"]);
        terminal.shows("how to come back", |screen| screen.contains("joins it again"));
    }
    drop((second, elsewhere));
    assert!(sessions(&scratch).iter().all(|session| session["state"] == "ready"));
    let log = fs::read_to_string(data(&scratch).join("relay.log")).expect("its log");
    assert!(log.contains("the CLI was started"), "{log}");
    let ended = scratch.run(["down"]);
    assert!(ended.err.contains("2 live sessions"), "{ended:?}");
    ended.ok();
    process::none_left(scratch.root());
    assert!(scratch.run(["down"]).refused().contains("no relay runs"));
}

#[test]
fn two_at_once_share_one_relay_and_the_owner_is_asked_about_keys_on_the_terminal() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.home().join(".ssh")).expect("a folder");
    let guest = Key::new("guest");
    guest.write(&scratch.home().join(".ssh/id_1"));
    // The same key once more is no second question.
    fs::write(scratch.home().join(".ssh/id_2.pub"), format!("{} again\n", guest.public)).expect("a file");
    // Another one of the same name is told apart.
    Key::new("guest").write(&scratch.home().join(".ssh/id_3"));
    let asked = Terminal::run(&scratch, &up(""));
    asked.shows("the question", |screen| screen.contains("id_1.pub"));
    asked.line("yes please");
    asked.shows("that this is no answer", |screen| screen.contains("Please answer y or n"));
    asked.line("y");
    asked.shows("the next question", |screen| screen.contains("id_3.pub"));
    asked.line("y");
    asked.shows("the session", is_attached);
    let listed = scratch.run(["keys", "list"]).ok();
    assert!(listed.contains("guest id_3") && !listed.contains("has the comment of"), "{listed}");
    SignIn::new(&guest)
        .connect(&support::http::Endpoint::Unix(data(&scratch).join("relay.sock")))
        .unwrap_or_else(|refused| panic!("{refused:?}"));
    scratch.run(["down"]).ok();
    let both = [(); 2].map(|()| Terminal::run(&scratch, &up("")));
    for terminal in &both {
        terminal.shows("the session", is_attached);
    }
    // The one that came second gives up when it has looked at the lock for a moment.
    until("one relay is left", || (relays(&scratch).len() == 1).then_some(()));
    drop((asked, both));
    scratch.run(["down"]).ok();
}

#[test]
fn a_relay_that_does_not_start_says_why_on_the_terminal() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data(&scratch)).expect("a folder");
    fs::write(data(&scratch).join("relay.log"), "why an older one ended\n").expect("its log");
    // A limit of open files is no reason, and stands in no reader's way.
    let terminal = Terminal::run(&scratch, &format!("ulimit -n 4096; {PROGRAM} up --demo --listen {address}"));
    let said = terminal.shows("the end", |screen| screen.contains("ended with 1"));
    let said = said.replace('\n', "");
    assert!(
        said.contains("did not start") && said.contains("relay.log") && said.contains("--listen ADDR:PORT"),
        "{said}"
    );
    assert!(!said.contains("open files") && !said.contains("an older one"), "{said}");
    assert!(relays(&scratch).is_empty());
}

#[test]
fn an_up_that_gets_no_session_says_that_its_relay_goes_on() {
    let scratch = Scratch::new();
    let terminal = Terminal::run(&scratch, &up("--permission-mode nonsense"));
    terminal.shows("why, and what goes on", |screen| {
        screen.contains("permission mode") && flat(screen).contains("goes on without a session")
    });
    scratch.run(["down"]).ok();
}

#[test]
fn a_relay_in_the_foreground_welcomes_without_log_lines_and_ends_with_its_terminal() {
    let scratch = Scratch::new();
    let terminal = Terminal::sized(&scratch, &up("--foreground"), 120, 40);
    let screen = terminal.shows("the welcome", |screen| screen.contains("Ctrl-C ends the relay"));
    let welcome = screen.split("listening ws").nth(1).and_then(|rest| rest.split("Ctrl-C ends").next());
    let welcome = welcome.expect("the welcome");
    assert!(!welcome.contains(" info ") && !welcome.contains(" warn "), "{welcome}");
    terminal.shows("the log behind it", |screen| {
        screen.split("Ctrl-C ends").nth(1).is_some_and(|log| log.contains("the CLI was started"))
    });
    // The terminal hangs up, and nobody else wants anything of SIGHUP.
    drop(terminal);
    process::none_left(scratch.root());
}

#[test]
fn stopping_says_how_to_stop_at_once() {
    let scratch = Scratch::new();
    let terminal = Terminal::run(&scratch, &up("--foreground"));
    // The log begins behind the welcome.
    terminal.shows("the log", |screen| screen.contains("the CLI was started"));
    terminal.keys(&["C-c"]);
    let said = terminal.shows("the end", |screen| screen.contains("ended with 0"));
    assert!(said.contains("stopping (Ctrl-C again: at once)"), "{said}");
}

/// Stands in front of a relay's socket and says that the relay has another version.
fn of_another_version(scratch: &Scratch) {
    let shown = data(scratch).join("relay.sock");
    let real = data(scratch).join("real.sock");
    fs::rename(&shown, &real).expect("the socket");
    let listener = UnixListener::bind(&shown).expect("a socket");
    let other = other_version();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = UnixStream::connect(&real) else { return };
            let (Ok(mut from), Ok(mut to)) = (near.try_clone(), far.try_clone()) else { return };
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (shown, real, other) = (shown.clone(), real.clone(), other.clone());
            thread::spawn(move || {
                renaming(far, &near, &other);
                if UnixStream::connect(&real).is_err() {
                    // The relay has ended, and its socket with it.
                    let _ = fs::remove_file(&shown);
                }
                let _ = near.shutdown(std::net::Shutdown::Both);
            });
        }
    });
}

/// Forwards to the end, with another version where ours stands.
fn renaming(mut from: UnixStream, mut to: &UnixStream, other: &str) {
    let [own, other] =
        [env!("CARGO_PKG_VERSION"), other].map(|version| format!(r#""version":"{version}""#).into_bytes());
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if let Some(at) = piece[..length].windows(own.len()).position(|part| part == own) {
            piece[at..at + own.len()].copy_from_slice(&other);
        }
        if to.write_all(&piece[..length]).is_err() {
            return;
        }
    }
}

/// Of the same length as ours.
fn other_version() -> String {
    env!("CARGO_PKG_VERSION").replace(char::is_numeric, "9")
}

#[test]
fn a_relay_of_another_version_is_said_and_can_be_restarted() {
    let scratch = Scratch::new();
    let first = Terminal::run(&scratch, &up(""));
    first.shows("the session", is_attached);
    drop(first);
    // What has ended already does not end with the relay.
    let stopped = scratch.run(["new", "--detach"]).ok();
    scratch.run(["stop", stopped.trim(), "--now"]).ok();
    until("it is stopped", || sessions(&scratch).iter().any(|session| session["state"] == "stopped").then_some(()));
    let before = relays(&scratch);
    of_another_version(&scratch);
    let other = other_version();
    let terminal = Terminal::run(&scratch, &up(""));
    let said = terminal.shows("the question", |screen| screen.contains("[y/N]")).replace('\n', "");
    let own = env!("CARGO_PKG_VERSION");
    assert!(
        said.contains(&format!("amp-relay {other}")) && said.contains(own) && said.contains("1 live session"),
        "{said}"
    );
    terminal.line("n");
    terminal.shows("the session of the relay that runs", is_attached);
    assert_eq!(relays(&scratch), before);
    terminal.keys(&["C-]"]);
    let noted = scratch.run(["sessions"]).err;
    assert!(noted.contains(&other) && noted.contains("amp-relay down"), "other verbs say it too: {noted}");
    for verb in ["attach", "new"] {
        let joined = Terminal::run(&scratch, &format!("{PROGRAM} {verb}"));
        joined.shows("it, in the session", |screen| is_attached(screen) && screen.contains(&other));
    }
    let terminal = Terminal::run(&scratch, &up(""));
    terminal.shows("the question", |screen| screen.contains("[y/N]"));
    terminal.line("y");
    terminal.shows("the session of a new relay", |screen| screen.contains("ends nothing") && is_attached(screen));
    let after = relays(&scratch);
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    drop(terminal);
    scratch.run(["down"]).ok();
}

#[test]
fn the_demo_agent_does_not_take_the_place_of_a_relay_that_runs_another() {
    let scratch = Scratch::new();
    let _standin = Standin::new(&scratch);
    let up = |more: &str| format!("AMP_RELAY_LISTEN=127.0.0.1:0 {PROGRAM} up {more}");
    let terminal = Terminal::run(&scratch, &up(&format!("--claude {}", Standin::program().display())));
    terminal.shows("the session", is_attached);
    let demo = Terminal::run(&scratch, &up("--demo"));
    let said = demo.shows("the refusal", |screen| screen.contains("ended with 1")).replace('\n', " ");
    assert!(said.contains("--data DIR"), "{said}");
    let noted = Terminal::run(&scratch, &up("--workers 1"));
    noted.shows("which flags were not heeded, in the session", |screen| {
        let flat = flat(screen);
        is_attached(screen)
            && flat.contains("--workers=1 changes nothing now")
            && flat.contains("up --workers=1")
            // What a variable says is no flag.
            && !flat.contains("--listen")
    });
    // What it was started with is heeded already.
    let heeded = Terminal::run(&scratch, &up(&format!("--claude {}", Standin::program().display())));
    let said = heeded.shows("the session", is_attached);
    assert!(!said.contains("changes nothing"), "{said}");
    drop((terminal, demo, noted, heeded));
    scratch.run(["down"]).ok();
}

#[test]
fn whoever_is_locked_out_is_told_the_way_back_in_and_what_ends_the_relay() {
    let scratch = Scratch::new();
    let first = Terminal::run(&scratch, &up(""));
    first.shows("the session", is_attached);
    scratch.run(["down"]).ok();
    drop(first);
    let keys = data(&scratch).join("authorized_keys");
    let own = data(&scratch).join("client_key.pub").display().to_string();
    fs::write(&keys, "# nobody\n").expect("the keys");
    let locked = Terminal::sized(&scratch, &up(""), 250, 30);
    let said = flat(&locked.shows("the refusal", |screen| screen.contains("ended with 1")));
    let relay = relays(&scratch)[0];
    let ends = format!("process {relay}: `kill {relay}`");
    let hint = format!("amp-relay keys add --role admin {own}");
    assert!(said.contains(&ends) && said.contains(&hint), "{said}");
    let said = scratch.run(["down"]).refused();
    assert!(said.contains(&ends) && said.contains(&hint), "{said}");
    // With less than it needs it is told what gives it more.
    scratch.run(["keys", "add", &own]).ok();
    let said = until("the key is in force", || {
        let said = scratch.run(["down"]).refused();
        said.contains("the role admin").then_some(said)
    });
    assert!(said.contains("keys add --role admin") && said.contains(&ends), "{said}");
    let url = format!("unix:{}", data(&scratch).join("relay.sock").display());
    let said = scratch.run(["down", "--url", &url]).refused();
    assert!(said.contains("the role admin") && relays(&scratch) == [relay], "{said}");
    let said = scratch.run(["new", "--detach"]).refused();
    assert!(said.contains("keys add --role spawn FILE.pub"), "{said}");
    let said = scratch.run(["keys", "add", "--role", "admin", &own]).refused();
    let remove = said.split('`').find(|part| part.contains("keys remove")).expect("the next command");
    let remove: Vec<&str> = remove.split_whitespace().skip(1).collect();
    // The key of this very machine is not shut out in passing.
    let before = fs::read_to_string(&keys).expect("the keys");
    let said = scratch.run(&remove).refused();
    assert!(said.contains("own key") && said.contains(&hint) && said.contains("--yes"), "{said}");
    assert_eq!(fs::read_to_string(&keys).expect("the keys"), before);
    scratch.run([&remove[..], &["--yes"]].concat()).ok();
    scratch.run(["keys", "add", "--role", "admin", &own]).ok();
    until("it may end the relay", || scratch.run(["down"]).status.success().then_some(()));
}

/// A relay in the foreground that has made its own keys.
pub(crate) fn of_this_machine() -> Relay {
    let scratch = Scratch::new();
    let command = scratch.command(["up", "--demo", "--listen", "127.0.0.1:0"]);
    Relay::spawn(scratch, command, 2)
}

#[test]
fn what_is_wrong_with_this_machines_own_key_is_what_is_advised_about() {
    let relay = of_this_machine();
    let key = data(&relay.scratch).join("client_key");
    let path = key.display();
    let refused = || relay.scratch.run(["sessions"]).refused();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    let said = refused();
    assert!(said.contains(&format!("`chmod 600 {path}` makes")) && !said.contains("keys add"), "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
    let makes = format!("ssh-keygen -q -t ed25519 -N '' -f {path}");
    let adds = format!("amp-relay keys add --role admin {path}.pub");
    for junk in ["", "junk"] {
        fs::write(&key, junk).expect("ours");
        let said = refused();
        assert!(!said.contains("NUL") && !said.contains("ssh-add"), "{said}");
        assert!(said.contains("is broken: after `rm ") && said.contains(&makes) && said.contains(&adds), "{said}");
    }
    fs::write(&key, "").expect("ours");
    assert!(refused().contains("it is empty"));
    let named = relay.scratch.run(["sessions", "--key", key.to_str().expect("a path")]).refused();
    assert!(named.contains("it is empty") && !named.contains("ssh-add"), "{named}");
    fs::remove_file(&key).expect("ours");
    let said = refused();
    assert!(said.contains("is missing") && said.contains(&makes) && said.contains(&adds), "{said}");
    // What is advised does it, while the relay runs.
    Key::new("fresh").write(&key);
    let said = refused();
    assert!(said.contains("in again") && said.contains(&adds), "a key that is fine is only to be listed: {said}");
    relay.scratch.run(["keys", "add", "--role", "admin", &format!("{path}.pub")]).ok();
    until("it signs in", || relay.scratch.run(["sessions"]).status.success().then_some(()));
}

#[test]
fn the_key_of_this_machine_that_cannot_be_used_is_named_where_another_signs_in() {
    let relay = of_this_machine();
    let key = data(&relay.scratch).join("client_key");
    let other = relay.scratch.home().join(".ssh/id_ed25519");
    fs::create_dir_all(other.parent().expect("a folder")).expect("a folder");
    Key::new("other").write(&other);
    relay.scratch.run(["keys", "add", "--role", "watch", &format!("{}.pub", other.display())]).ok();
    until("it may sign in", || {
        let key = other.to_str().expect("a path");
        relay.scratch.run(["sessions", "--key", key]).status.success().then_some(())
    });
    assert!(!relay.scratch.run(["sessions"]).err.contains("chmod"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    let said = relay.scratch.run(["sessions"]);
    let advice = format!("`chmod 600 {}` makes", key.display());
    assert!(said.status.success() && said.err.contains(&advice) && said.err.contains("id_ed25519"), "{said:?}");
}

#[test]
fn what_was_typed_and_came_to_nothing_is_shown_at_the_end() {
    let scratch = Scratch::new();
    let terminal = Terminal::run(&scratch, &up(""));
    terminal.shows("the session", is_attached);
    terminal.line("please ask me");
    terminal.shows("the card", |screen| screen.contains("y: allow"));
    let (attach, scratched) = (format!("{PROGRAM} attach"), &scratch);
    let mut pipe =
        scratched.runs("sh", ["-c", &attach]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let said = lines(pipe.stderr.take().expect("a pipe"));
    let says = |what: &str| while !said.recv_timeout(support::DEADLINE).expect("it says it").contains(what) {};
    says("y: allow");
    process::signal(relays(&scratch)[0], Signal::KILL);
    terminal.shows("that the relay is gone", |screen| screen.contains("connecting again"));
    says("connecting again");
    let mut stdin = pipe.stdin.take().expect("a pipe");
    stdin.write_all(b"y\n").expect("it reads");
    says("kept: your answer (allow) to Bash(echo demo)");
    until("the answer is taken", || {
        terminal.line("n because");
        let screen =
            terminal.shows("what became of it", |screen| screen.contains("half a second") || screen.contains("kept:"));
        flat(&screen).contains("kept: your answer (deny: because) to Bash(echo demo)").then_some(())
    });
    terminal.line("typed while it was away");
    terminal.shows("that it is kept", |screen| screen.contains("kept; it is sent"));
    terminal.keys(&["half", "Space", "written"]);
    terminal.shows("what is typed", |screen| screen.contains("half written"));
    let other = Terminal::run(&scratch, &up(""));
    let screen = terminal.shows("the end", |screen| screen.contains("ended with"));
    let (kept, draft) = ("typed, and not sent:\n  typed while it was away", "typed, and not sent:\n  half written");
    assert!(screen.contains(kept) && screen.contains(draft), "{screen}");
    assert!(screen.contains("not sent:\n  your answer (deny: because) to Bash(echo demo)"), "{screen}");
    says("not sent:");
    says("your answer (allow) to Bash(echo demo)");
    assert_eq!(pipe.wait().expect("its status").code(), Some(1));
    // The relay never had it, and nothing says that it may.
    assert!(flat(&screen).contains("what was typed since was not sent") && !screen.contains("may have"), "{screen}");
    other.shows("the new session", is_attached);
    drop((terminal, other));
    scratch.run(["down"]).ok();
}

#[test]
fn a_relay_whose_socket_is_gone_is_named_by_its_process() {
    let scratch = Scratch::new();
    let first = Terminal::run(&scratch, &up(""));
    first.shows("the session", is_attached);
    first.keys(&["C-]"]);
    first.shows("that it is left", |screen| screen.contains("ended with 0"));
    fs::remove_file(data(&scratch).join("relay.sock")).expect("its socket");
    let relay = relays(&scratch)[0];
    let ends = format!("`kill {relay}` ends it");
    let verbs = [&["sessions"][..], &["attach"], &["new", "--detach"], &["stop", "x"], &["down"]];
    let others = [&["request", "relay", "ping"][..], &["up", "--demo", "--listen", "127.0.0.1:0"]];
    for verb in verbs.into_iter().chain(others) {
        let said = scratch.run(verb).refused();
        assert!(said.contains(&ends) && said.contains("relay.sock"), "{verb:?}: {said}");
        assert!(!said.contains("no relay runs") && !said.contains("amp-relay attach"), "{verb:?}: {said}");
        assert_eq!(said.matches("kill").count(), 1, "{verb:?}: {said}");
    }
    // What it says is what helps, while it waits too.
    let again = Terminal::sized(&scratch, &up(""), 200, 24);
    again.shows("what it waits for", |screen| flat(screen).contains(&ends));
    process::signal(relay, Signal::TERM);
    again.shows("the session of a new relay", is_attached);
    drop((first, again));
    scratch.run(["down"]).ok();
}

#[test]
fn a_config_that_is_wrong_keeps_nobody_from_a_relay_that_runs() {
    let relay = of_this_machine();
    let run = |arguments: &[&str]| relay.scratch.run(arguments);
    let config = relay.scratch.home().join(".config/amp-relay/config.toml");
    fs::create_dir_all(config.parent().expect("a folder")).expect("a folder");
    let url = format!("unix:{}", data(&relay.scratch).join("relay.sock").display());
    let place = data(&relay.scratch).display().to_string();
    for wrong in ["listne = 3\n", "listen = = 3\n"] {
        fs::write(&config, wrong).expect("a config");
        for verb in [&["sessions"][..], &["sessions", "--url", &url], &["attach"]] {
            let said = run(verb);
            assert!(said.status.success(), "{verb:?}: {said:?}");
            assert_eq!(said.err.matches("in spite of the config").count(), 1, "once: {said:?}");
            assert!(said.err.contains("config.toml:1") || said.err.contains("listen = = 3"), "{said:?}");
        }
        assert!(!run(&["sessions", "--data", &place]).err.contains("config"), "where nothing of it is needed");
        run(&["keys", "list"]).refused();
        run(&["config", "check"]).refused();
    }
    // Another relay than the one that is meant is not taken.
    fs::write(&config, "data = = \"/elsewhere\"\n").expect("a config");
    assert!(run(&["down"]).refused().contains("--data DIR"));
    fs::write(&config, "listne = 3\n").expect("a config");
    run(&["down"]).ok();
}

#[test]
fn a7_the_session_of_the_folder_is_the_one_that_is_meant_there() {
    let scratch = Scratch::new();
    let first = Terminal::run(&scratch, &up(""));
    first.shows("the session", is_attached);
    first.line("a word in the project");
    fs::create_dir(scratch.project().join("site")).expect("a folder");
    let elsewhere = Terminal::run(&scratch, &format!("cd site; {}", up("")));
    elsewhere.shows("a session of its own", |screen| is_attached(screen) && screen.contains("project/site"));
    let second = Terminal::run(&scratch, &format!("{PROGRAM} attach"));
    second.shows("that of the project", |screen| screen.contains("a word in the project"));
    let nowhere = Terminal::sized(&scratch, &format!("cd /; {PROGRAM} attach"), 200, 24);
    let said = flat(&nowhere.shows("a refusal", |screen| screen.contains("ended with 1")));
    assert!(said.contains("several sessions are live, none in this folder"), "{said}");
    // With a flag that only a new session can heed there is another one, and that is said.
    let third = Terminal::sized(&scratch, &up("--permission-mode plan"), 200, 24);
    let said = flat(&third.shows("the notice", |screen| is_attached(screen) && screen.contains("another session")));
    assert!(said.contains("another session beside `project`"), "{said}");
    assert_eq!(sessions(&scratch).len(), 3);
    until("its mode is in the list", || scratch.run(["sessions"]).ok().contains("(plan)").then_some(()));
    // Which of several is joined is said, and how to come to the others.
    let fourth = Terminal::sized(&scratch, &up(""), 200, 24);
    let said = flat(&fourth.shows("the notice", |screen| is_attached(screen) && screen.contains("active last")));
    assert!(said.contains("active last of the 2 in this folder: `"), "{said}");
    drop((first, second, third, fourth, elsewhere, nowhere));
    scratch.run(["down"]).ok();
}

#[test]
fn what_a_conversation_is_gone_on_with_is_said_as_far_as_it_is_known() {
    let scratch = Scratch::new();
    let terminal = Terminal::run(&scratch, &up("--continue"));
    let said = flat(&terminal.shows("the notice", |screen| is_attached(screen) && screen.contains("newest")));
    assert!(said.contains("where there is none, a new one begins") && !said.contains("knows"), "{said}");
    for verb in ["up", "new"] {
        let said = scratch.run([verb, "--resume", "nonsense"]).refused();
        assert!(said.contains("UUID") && said.contains("nonsense"), "{said}");
    }
    drop(terminal);
    scratch.run(["down"]).ok();
}

/// A relay whose sessions run the stand-in, and the folder of its project.
fn standing_in(arguments: &[&str], environment: &[(&str, &str)]) -> (Relay, Standin, Key) {
    let owner = Key::new("owner");
    let mut options = Relay::options(&[&owner]).claude(&Standin::program());
    for argument in arguments {
        options = options.argument(*argument);
    }
    for (name, value) in environment {
        options = options.env(name, *value);
    }
    let standin = Standin::new(&options.scratch);
    let relay = options.start();
    // What the verbs sign in with.
    let client = fs::read_to_string(relay.scratch.data().join("client_key.pub")).expect("the client key");
    fs::write(relay.keys(), format!("{}amp-role=\"admin\" {client}", owner.line("amp-role=\"admin\"")))
        .expect("the keys");
    relay.run(&["keys", "list"]);
    until("the client key is known", || relay.run(&["sessions"]).status.success().then_some(()));
    (relay, standin, owner)
}

fn is_ready(relay: &Relay, session: &str) -> Value {
    until("the session is ready", || {
        let all: Vec<Value> = serde_json::from_str(&relay.run(&["sessions", "--json"]).ok()).expect("a list");
        all.into_iter().find(|one| one["session"] == session && one["state"] == "ready")
    })
}

#[test]
fn what_a_session_is_started_with_reaches_the_cli() {
    let (relay, standin, _) = standing_in(&[], &[]);
    let started = |arguments: &[&str]| {
        let _ = fs::remove_file(relay.scratch.project().join(".standin/started"));
        let session = relay.run(&[&["new", "--detach"], arguments].concat()).ok();
        is_ready(&relay, session.trim());
        relay.run(&["stop", session.trim(), "--now"]).ok();
        standin.started()
    };
    let has = |lines: &[String], argument: &str| lines.iter().any(|line| line == argument);
    let usual = started(&[]);
    assert!(
        !usual.iter().any(|line| line.starts_with("--model") || line.starts_with("--permission-mode=")),
        "{usual:?}"
    );
    let chosen = started(&["--model", "opus", "--permission-mode", "plan", "--title", "site"]);
    assert!(has(&chosen, "--model=opus") && has(&chosen, "--permission-mode=plan"), "{chosen:?}");
    assert!(has(&started(&["--continue"]), "--continue"));
    let id = "0b2d3c4e-5f60-4711-8213-141516171819";
    assert!(has(&started(&["--resume", id]), &format!("--resume={id}")));
    let refused = relay.run(&["new", "--detach", "--permission-mode", "bypassPermissions"]).refused();
    assert!(refused.contains("acceptEdits"), "it says which there are: {refused}");
    assert!(refused.contains("unasked") && !refused.contains("profile"), "and why not this one: {refused}");
    let refused = relay.run(&["new", "--detach", "--permission-mode", "nonsense"]).refused();
    assert!(refused.contains("\"nonsense\": the ones to choose from are default, acceptEdits"), "{refused}");
    let listed: Vec<Value> = serde_json::from_str(&relay.run(&["sessions", "--json"]).ok()).expect("a list");
    assert!(listed.iter().any(|session| session["title"] == "site" && session["model"] == "opus"), "{listed:?}");
}

#[test]
fn f_a_session_is_made_in_any_folder_of_its_owner_and_stopped() {
    let scratch = Scratch::new();
    let folder = scratch.home().join("site");
    fs::create_dir(&folder).expect("a folder");
    let spawner = Key::new("spawner");
    let public = scratch.home().join("spawner.pub");
    fs::write(&public, &spawner.public).expect("a public key");
    let relay = {
        let command = scratch.command(["up", "--demo", "--listen", "127.0.0.1:0"]);
        Relay::spawn(scratch, command, 2)
    };
    let run = |arguments: &[&str]| relay.scratch.run(arguments);
    let session = run(&["new", "--detach", folder.to_str().expect("a path")]).ok();
    let session = session.trim();
    let all = sessions(&relay.scratch);
    let summary = all.iter().find(|summary| summary["session"] == session).expect("it is listed");
    assert_eq!(Path::new(text(&summary["folder"])), folder);
    let missing = run(&["new", "--detach", "no/such/folder"]).refused();
    assert!(missing.contains("no/such/folder"), "{missing}");
    let odd = folder.join("a\x01b");
    fs::create_dir(&odd).expect("a folder");
    let said = run(&["new", "--detach", odd.to_str().expect("a path")]).refused();
    assert!(said.contains("a<U+0001>b: its name holds U+0001") && !said.contains("`folder`"), "{said}");
    let said = run(&["stop", "nothing"]).refused();
    assert!(said.contains("no session is called") && said.contains("amp-relay sessions`"), "{said}");
    assert!(!said.contains("amp-relay stop"), "none is offered that nobody named: {said}");
    let said = run(&["stop", &session[..8]]);
    assert!(said.err.contains("is stopped") && !said.err.contains("its turn"), "it was idle: {said:?}");
    said.ok();
    until("it is stopped", || {
        let listed = run(&["sessions"]).ok();
        assert!(!listed.contains(session), "the beginning of an id is enough: {listed}");
        listed.lines().any(|line| line.starts_with(&session[..8]) && line.contains("stopped")).then_some(())
    });
    let said = run(&["stop", session]);
    assert!(said.err.contains("had ended already") && !said.err.contains("is stopped"), "{said:?}");
    said.ok();
    // What ended keeps its title; the one that runs is meant by it.
    let again = run(&["new", "--detach", folder.to_str().expect("a path")]).ok();
    let said = run(&["stop", "site"]);
    assert!(said.status.success() && said.err.contains(again.trim()), "{said:?}");
    let said = run(&["stop", "site"]).refused();
    assert!(said.contains("ended already") && !said.contains("next:"), "{said}");
    // A title of blanks would be an empty cell in the list.
    run(&["new", "--detach", "--title", " ", folder.to_str().expect("a path")]).ok();
    assert_eq!(sessions(&relay.scratch).iter().filter(|session| session["title"] == "site").count(), 3);
    for session in sessions(&relay.scratch) {
        run(&["stop", text(&session["session"]), "--now"]).ok();
    }
    let said = run(&["attach"]).refused();
    assert!(said.contains("no session is live") && said.contains("amp-relay new`"), "{said}");
    let log = relay.logged(&[" start=new"]);
    assert!(!log.contains("Some("), "{log}");
    // Who is no admin stays in the folders of the profile; and all do where the settings name some.
    let reads = || relay.log().matches("keys read").count();
    let before = reads();
    run(&["keys", "add", "--role", "spawn", public.to_str().expect("a path")]).ok();
    let mut device = until("the key is known", || SignIn::new(&spawner).connect(&relay.tcp()).ok());
    until("the change is logged", || (reads() > before).then_some(()));
    assert_eq!(reads(), before + 1, "a change is one line: {}", relay.log());
    let elsewhere = json!({"profile": "default", "folder": folder.to_str()});
    assert_eq!(device.refused("create", elsewhere), "FORBIDDEN");
    let (bounded, _standin, owner) = standing_in(&[], &[]);
    let outside = json!({"profile": "default", "folder": bounded.scratch.home().to_str()});
    let mut device = support::Device::connect(&bounded, &owner, "laptop");
    assert_eq!(device.refused("create", outside), "FORBIDDEN");
}

#[test]
fn f_the_environment_of_a_session_is_what_passes_and_what_is_set() {
    let secret = [("PASSED", "along"), ("SECRET", "kept"), ("LC_TIME", "C")];
    let (relay, standin, _) = standing_in(&["--env", "PASSED", "--env", "ADDED=by the settings"], &secret);
    relay.run(&["new", "--detach"]).ok();
    let started = standin.started();
    let has = |line: &str| started.iter().any(|other| other == line);
    assert!(has("PASSED=along") && has("ADDED=by the settings") && has("LC_TIME=C"), "{started:?}");
    assert!(!started.iter().any(|line| line.contains("SECRET")), "{started:?}");
    let refused = relay.scratch.run(["config", "check", "--env", "LD_PRELOAD=x.so"]).refused();
    assert!(refused.contains("--env") && refused.contains("LD_PRELOAD"), "{refused}");
    assert!(refused.contains("change what runs") && !refused.contains("digit"), "{refused}");
    let shown = relay.scratch.run(["config", "show", "--env", "TOKEN=secret"]).ok();
    assert!(shown.contains("TOKEN") && !shown.contains("secret"), "{shown}");
}

#[test]
fn c6_a_hangup_reloads_the_keys_and_the_settings_that_can_change() {
    let owner = Key::new("owner");
    let options = Relay::options(&[&owner]).claude(&Standin::program()).usual_log();
    let config = options.scratch.home().join("config.toml");
    fs::write(&config, "log = \"warn\"\n").expect("a config");
    let standin = Standin::new(&options.scratch);
    let relay = options.env("AMP_RELAY_CONFIG", config.display().to_string()).start();
    let guest = Key::new("guest");
    let reload = |text: &str, says: &[&str]| {
        fs::write(&config, text).expect("a config");
        relay.signal(Signal::HUP);
        relay.logged(says)
    };
    let keys = fs::read_to_string(relay.keys()).expect("the keys") + &guest.line("amp-role=\"admin\"");
    fs::write(relay.keys(), keys).expect("the keys");
    let log =
        reload("log = \"info\"\nenv = [\"FRESH=1\"]\ngrace = \"3s\"\n", &["were read again", "wait for a restart"]);
    assert!(log.lines().any(|line| line.contains("wait for a restart") && line.contains("grace")), "{log}");
    let mut device = until("the key is known", || SignIn::new(&guest).connect(&relay.tcp()).ok());
    device.create();
    assert!(standin.started().iter().any(|line| line == "FRESH=1"));
    reload("lag = 1\n", &["the ones in force stay", "did you mean `log`"]);
    device.ping();
}
