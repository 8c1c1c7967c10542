//! What a relay in the background has from where it was started, and the one that takes its place.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use crate::{
    relay_up::{data, is_attached, relays, sessions, up},
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
    let first = Terminal::run(&scratch, &format!("{PROGRAM} up --demo --listen 127.0.0.1:0"));
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
        let terminal = Terminal::sized(&scratch, &format!("{claude} {PROGRAM} up"), 200, 30);
        let said = flat(&terminal.shows("the question", |screen| screen.contains("[y/N]")));
        assert!(said.contains("is not known here, so give them again"), "{said}");
        terminal.line("n");
        terminal.shows("the session", is_attached);
    }
    drop(first);
    scratch.run(["down"]).ok();
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
