//! What a relay in the background has from where it was started, and the one that takes its place.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
};

use crate::{
    relay_up::{data, is_attached, of_this_machine, relays, sessions, up},
    support::{
        process,
        relay::{PROGRAM, Scratch},
        standin::Standin,
        terminal::{Terminal, flat},
        until,
    },
};

/// Has the stand-in be the `claude` of this world; the start of a shell line in which it is.
fn with_claude(scratch: &Scratch) -> String {
    let bin = scratch.home().join("bin");
    fs::create_dir(&bin).expect("a folder");
    std::os::unix::fs::symlink(Standin::program(), bin.join("claude")).expect("a link");
    format!("PATH={}:$PATH", bin.display())
}

#[test]
fn a_relay_that_is_restarted_keeps_what_it_was_started_with() {
    let scratch = Scratch::new();
    let standin = Standin::new(&scratch);
    let first = "--demo --listen 127.0.0.1:0 --env FOO=bar --env NO_SUCH_THING --folder .";
    let first = Terminal::run(&scratch, &format!("AMP_RELAY_GRACE=3s {PROGRAM} up {first}"));
    first.shows("the session", is_attached);
    let before = relays(&scratch);
    let kept = data(&scratch).join("started_with");
    assert_eq!(fs::metadata(&kept).expect("what it was started with").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&kept).expect("what it was started with");
    assert!(text.contains(r#""FOO=bar\nNO_SUCH_THING""#), "{text}");
    let claude = with_claude(&scratch);
    // Another terminal has other variables, and stands in another folder.
    let others = format!("AMP_RELAY_GRACE=9s AMP_RELAY_WS_PING=11s {claude}");
    let terminal = Terminal::sized(&scratch, &format!("cd /; {others} {PROGRAM} up --workers 1"), 120, 30);
    let said = flat(&terminal.shows("the question", |screen| screen.contains("[y/N]")));
    assert!(said.contains("settings that it was started with, and the flags of this command over them"), "{said}");
    terminal.line("y");
    // What it keeps is that its sessions run in one folder only, and this is another.
    let said = flat(&terminal.shows("the refusal", |screen| screen.contains("ended with 1")));
    assert!(said.contains("folder"), "{said}");
    let after = relays(&scratch);
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    let given = fs::read_to_string(format!("/proc/{}/environ", after[0])).expect("its environment");
    let has = |entry: &str| given.split('\0').any(|other| other == entry);
    assert!(has("AMP_RELAY_LISTEN=127.0.0.1:0") && has("AMP_RELAY_GRACE=3s") && has("AMP_RELAY_WORKERS=1"), "{given}");
    assert!(!given.contains("AMP_RELAY_WS_PING"), "{given}");
    let folder = fs::read_link(format!("/proc/{}/cwd", after[0])).expect("its folder");
    assert_eq!(folder, scratch.project(), "a relative path in its config means what it meant");
    scratch.run(["new", "--detach"]).ok();
    let started = standin.started();
    assert!(started.iter().any(|line| line == "FOO=bar"), "{started:?}");
    drop((first, terminal));
    assert!(kept.exists());
    scratch.run(["down"]).ok();
    assert!(!kept.exists(), "what may be secret goes with the relay");
}

#[test]
fn a_relay_that_is_restarted_may_listen_where_the_one_did_whose_place_it_takes() {
    let scratch = Scratch::new();
    let _standin = Standin::new(&scratch);
    let first = Terminal::run(&scratch, &format!("{PROGRAM} up --demo --listen 127.0.0.1:0"));
    first.shows("the session", is_attached);
    let before = relays(&scratch);
    let address = until("it says where it listens", || {
        let kept = fs::read(data(&scratch).join("started_with")).ok()?;
        let kept: serde_json::Value = serde_json::from_slice(&kept).ok()?;
        kept["bound"][0].as_str().map(str::to_owned)
    });
    let claude = with_claude(&scratch);
    let again = Terminal::sized(&scratch, &format!("{claude} {PROGRAM} up --listen {address}"), 200, 30);
    again.shows("the question", |screen| screen.contains("[y/N]"));
    again.line("y");
    again.shows("the session", is_attached);
    let after = relays(&scratch);
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    assert!(std::net::TcpStream::connect(&address).is_ok(), "{address}");
    drop((first, again));
    scratch.run(["down"]).ok();
}

#[test]
fn a_relay_runs_on_where_no_other_can_take_its_place() {
    let scratch = Scratch::new();
    let config = scratch.home().join("its.toml");
    fs::write(&config, "").expect("a config");
    let first = format!("{PROGRAM} up --demo --listen 127.0.0.1:0 --config {}", config.display());
    let first = Terminal::run(&scratch, &first);
    first.shows("the session", is_attached);
    let before = relays(&scratch);
    let claude = with_claude(&scratch);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    let refuses = |more: &str, parts: &[&str]| {
        let terminal = Terminal::sized(&scratch, &format!("{claude} {PROGRAM} up {more}"), 200, 30);
        terminal.shows("the question", |screen| screen.contains("[y/N]"));
        terminal.line("y");
        let said = flat(&terminal.shows("the refusal", |screen| screen.contains("ended with 1")));
        assert!(parts.iter().all(|part| said.contains(part)) && said.contains("goes on"), "{said}");
        assert_eq!(relays(&scratch), before);
        assert!(sessions(&scratch).iter().all(|session| session["state"] == "ready"));
    };
    refuses(&format!("--listen {address}"), &["--listen ADDR:PORT", &address.to_string()]);
    // Its settings are not those of this terminal, which are fine.
    fs::write(&config, "listne = 3\n").expect("a config");
    refuses("", &["no relay can be started with the settings of the one that runs", "its.toml:1", "`listen`"]);
    // The one that runs says nothing of itself, as one of an older version, and another may have left its file.
    let file = data(&scratch).join("started_with");
    let mut kept = until("it is written for the last time", || {
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
        kept["bound"][0].is_string().then_some(kept)
    });
    kept["pid"] = std::process::id().into();
    for left in [Some(kept.to_string()), None] {
        match left {
            Some(left) => fs::write(&file, left).expect("the file"),
            None => fs::remove_file(&file).expect("the file"),
        }
        let terminal = Terminal::sized(&scratch, &format!("{claude} {PROGRAM} up --workers 1"), 200, 30);
        let said = flat(&terminal.shows("the question", |screen| screen.contains("[y/N]")));
        assert!(said.contains("is not known here, so give them again"), "{said}");
        terminal.line("n");
        terminal.shows("the session, and what was not heeded", |screen| {
            is_attached(screen) && flat(screen).contains("--workers=1 changes nothing now")
        });
    }
    drop(first);
    scratch.run(["down"]).ok();
}

#[test]
fn a_relay_runs_on_where_its_config_names_an_address_by_now_that_another_process_has() {
    let scratch = Scratch::new();
    let config = scratch.home().join(".config/amp-relay/config.toml");
    fs::create_dir_all(config.parent().expect("a folder")).expect("a folder");
    let listen = |address: &str| fs::write(&config, format!("listen = [\"{address}\"]\n")).expect("a config");
    listen("127.0.0.1:0");
    let first = Terminal::run(&scratch, &format!("{PROGRAM} up --demo"));
    first.shows("the session", is_attached);
    let before = relays(&scratch);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    listen(&address);
    let terminal = Terminal::sized(&scratch, &format!("{} {PROGRAM} up", with_claude(&scratch)), 200, 30);
    terminal.shows("the question", |screen| screen.contains("[y/N]"));
    terminal.line("y");
    let said = flat(&terminal.shows("the refusal", |screen| screen.contains("ended with 1")));
    assert!(said.contains(&address) && said.contains("config.toml") && said.contains("goes on"), "{said}");
    assert_eq!(relays(&scratch), before);
    drop((first, terminal));
    scratch.run(["down"]).ok();
}

#[test]
fn where_no_relay_takes_the_place_of_one_that_has_ended_that_is_said() {
    let scratch = Scratch::new();
    let first = Terminal::run(&scratch, &format!("{PROGRAM} up --demo --listen 127.0.0.1:0"));
    first.shows("the session", is_attached);
    let claude = with_claude(&scratch);
    let nowhere = scratch.home().join("none/relay.sock");
    let again =
        Terminal::sized(&scratch, &format!("{claude} {PROGRAM} up --listen unix:{}", nowhere.display()), 200, 30);
    again.shows("the question", |screen| screen.contains("[y/N]"));
    again.line("y");
    let said = flat(&again.shows("the refusal", |screen| screen.contains("ended with 1")));
    assert!(said.contains("did not start") && said.contains("none/relay.sock"), "{said}");
    assert!(
        said.contains("The relay that ran has ended, with its sessions") && said.contains("up --continue"),
        "{said}"
    );
    assert!(relays(&scratch).is_empty());
}

#[test]
fn a_restart_is_offered_to_an_admin_alone_and_says_that_it_leaves_the_foreground() {
    let relay = of_this_machine();
    let scratch = &relay.scratch;
    let claude = with_claude(scratch);
    let up = || Terminal::sized(scratch, &format!("{claude} {PROGRAM} up"), 200, 30);
    let asked = up();
    let said = flat(&asked.shows("the question", |screen| screen.contains("[y/N]")));
    assert!(said.contains("runs in the background, unlike the one that runs"), "{said}");
    asked.line("n");
    asked.shows("the session", is_attached);
    let own = fs::read_to_string(data(scratch).join("client_key.pub")).expect("its key");
    fs::write(data(scratch).join("authorized_keys"), format!("amp-role=\"drive\" {own}")).expect("the keys");
    let joined = up();
    let said = joined.shows("the session, or a question", |screen| is_attached(screen) || screen.contains("[y/N]"));
    assert!(is_attached(&said), "{said}");
    drop((asked, joined));
}

#[test]
fn the_log_is_not_written_through_a_link() {
    let scratch = Scratch::new();
    let victim = scratch.home().join("victim");
    fs::write(&victim, "mine").expect("a file");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data(&scratch)).expect("a folder");
    std::os::unix::fs::symlink(&victim, data(&scratch).join("relay.log")).expect("a link");
    let terminal = Terminal::run(&scratch, &up(""));
    let said = terminal.shows("the refusal", |screen| screen.contains("ended with 1"));
    assert!(said.contains("relay.log") && relays(&scratch).is_empty(), "{said}");
    assert_eq!(fs::read_to_string(&victim).expect("the file"), "mine");
}

#[test]
fn what_a_shell_has_open_is_not_kept_open_by_what_it_starts() {
    let scratch = Scratch::new();
    let lock = scratch.home().join("lock");
    let terminal = Terminal::run(&scratch, &format!("exec 9>{}; {}", lock.display(), up("")));
    terminal.shows("the session", is_attached);
    let holds = |pid: i32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|path| path == lock)
    };
    let all = process::of(scratch.root());
    let started =
        |what: &str| all.iter().filter(|one| one.command.contains(what)).map(|one| one.pid).collect::<Vec<_>>();
    for what in ["serve --background", " guard ", "demo-agent"] {
        let pids = started(what);
        assert!(!pids.is_empty() && !pids.iter().any(|pid| holds(*pid)), "{what}: {pids:?}");
    }
    assert!(all.iter().any(|one| holds(one.pid)), "the shell itself holds it");
    drop(terminal);
    scratch.run(["down"]).ok();
}
