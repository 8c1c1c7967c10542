//! Real processes behind the guard: what they say comes whole, and nothing of their tree outlives its end, however it
//! comes about.

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use crate::claude_support::{Driver, Exit, LIMIT, MARK, alive, kill, mark, until_gone};
use amp_relay::claude::{
    guard::GuardProgram,
    process::{Full, Process, Spawn, SpawnError},
};
use rustix::process::Signal;

fn start(mark: &str, script: &str, portable: bool) -> Driver {
    Driver::spawn(&shell(mark, script, portable)).expect("started")
}

fn shell(mark: &str, script: &str, portable: bool) -> Spawn {
    let guard = GuardProgram::at(env!("CARGO_BIN_EXE_amp-relay"));
    Spawn {
        program: "/bin/sh".into(),
        arguments: ["-c", script].map(OsString::from).to_vec(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into()), (MARK.into(), mark.into())],
        folder: std::env::temp_dir(),
        guard: if portable { guard.portable() } else { guard },
    }
}

/// Children that nothing but SIGKILL ends: in sessions of their own, twice forked, with children themselves; one holds
/// stdout and stderr open. Nine processes with the guard.
const HOSTILE: &str = r#"
    trap '' TERM HUP INT
    nest='trap "" TERM HUP INT; sleep 1000 & while :; do sleep 1000; done'
    (setsid sh -c "$nest" >/dev/null 2>&1 </dev/null &)
    (setsid sh -c "(setsid sh -c '$nest' &) ; while :; do sleep 1000; done" &)
    echo ready
    while :; do sleep 1000; done
"#;

fn hostile(name: &str) -> (String, Driver) {
    let mark = mark(name);
    let mut driver = start(&mark, HOSTILE, false);
    driver.until_line("ready");
    driver.until("whole tree", |_| alive(&mark).len() >= 9);
    (mark, driver)
}

#[test]
fn a_hostile_tree_is_gone_when_its_exit_is_reported() {
    let (mark, mut driver) = hostile("kill");
    driver.process.kill();
    assert_eq!(driver.until_exit().signal, Some(9));
    assert_eq!(alive(&mark), Vec::<i32>::new());
}

#[test]
fn a_hostile_tree_does_not_outlive_a_killed_cli() {
    let (mark, mut driver) = hostile("cli-killed");
    driver.until("pid", |driver| driver.process.cli_pid().is_some());
    kill(driver.process.cli_pid().expect("just told"), Signal::KILL);
    assert_eq!(driver.until_exit().signal, Some(9));
    assert_eq!(alive(&mark), Vec::<i32>::new());
}

#[test]
fn a_hostile_tree_does_not_outlive_a_dropped_process() {
    let (mark, driver) = hostile("dropped");
    drop(driver);
    until_gone(&mark);
}

/// Not a test of its own: what [`a_hostile_tree_does_not_outlive_a_killed_relay`] starts and kills.
#[test]
#[ignore = "is a helper of another test"]
fn helper_relay() {
    let Some(mark) = std::env::var_os("AMP_RELAY_TEST_HELPER") else { return };
    let mut driver = start(mark.to_str().expect("text"), HOSTILE, false);
    driver.until("end", |_| false);
}

#[test]
fn a_hostile_tree_does_not_outlive_a_killed_relay() {
    let mark = mark("relay-killed");
    let mut relay = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "claude_process::helper_relay"])
        .env("AMP_RELAY_TEST_HELPER", &mark)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let end = Instant::now() + LIMIT;
    while alive(&mark).len() < 9 {
        assert!(Instant::now() < end, "the tree never grew: {:?}", alive(&mark));
        std::thread::yield_now();
    }
    relay.kill().expect("killed");
    relay.wait().expect("reaped");
    until_gone(&mark);
}

#[test]
fn signals_of_the_terminal_do_not_reach_the_guard() {
    let mark = mark("signals");
    let mut driver = start(&mark, "echo ready; cat", false);
    driver.until_line("ready");
    let guard = driver.process.pid().expect("running");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        kill(guard, signal);
    }
    driver.process.write_line(b"still here\n").expect("room");
    driver.until_line("still here");
    driver.process.close_stdin();
    assert_eq!(driver.until_exit(), Exit { code: Some(0), signal: None, stderr_tail: String::new() });
    assert_eq!(driver.process.pid(), None);
}

#[test]
fn a_killed_guard_takes_the_cli_along() {
    let mark = mark("guard-killed");
    let mut driver = start(&mark, "trap '' TERM; echo ready; exec cat", false);
    driver.until_line("ready");
    driver.until("pid", |driver| driver.process.cli_pid().is_some());
    kill(driver.process.pid().expect("running"), Signal::KILL);
    assert_eq!(driver.until_exit().signal, Some(9));
    until_gone(&mark);
}

#[test]
fn exit_codes_signals_and_the_last_words_come_through() {
    for portable in [false, true] {
        let run = |script| start(&mark("exit"), script, portable).until_exit();
        let exit = run("echo one >&2; echo two >&2; printf three >&2; exit 42");
        assert_eq!(exit, Exit { code: Some(42), signal: None, stderr_tail: "one\ntwo\nthree".into() });
        assert_eq!(run("kill -SEGV $$").signal, Some(11));
        assert_eq!(run("exit 143").code, Some(143));
    }
}

#[test]
fn output_written_right_before_the_exit_is_read_whole() {
    for portable in [false, true] {
        let mut driver = start(&mark("drain"), "seq 1 200000; printf last", portable);
        assert_eq!(driver.until_exit().code, Some(0));
        assert_eq!(driver.lines.len(), 200_001, "portable: {portable}");
        assert_eq!(driver.lines.iter().map(String::as_str).next_back(), Some("last"));
        assert_eq!(driver.lines[123_455], "123456");
    }
}

#[test]
fn terminate_asks_and_kill_does_not_also_without_the_help_of_the_system() {
    for portable in [false, true] {
        let mark = mark("terminate");
        let mut driver =
            start(&mark, "trap 'exit 143' TERM; echo ready; while :; do sleep 1000 & wait; done", portable);
        driver.until_line("ready");
        driver.process.terminate();
        assert_eq!(driver.until_exit().code, Some(143));
        until_gone(&mark);
        let mut driver = start(&mark, "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 1000; done", portable);
        driver.until_line("ready");
        driver.process.kill();
        assert_eq!(driver.until_exit().signal, Some(9));
        until_gone(&mark);
    }
}

#[test]
fn without_the_help_of_the_system_the_end_of_the_relay_still_ends_the_group() {
    let mark = mark("portable-dropped");
    let mut driver = start(&mark, "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 1000; done", true);
    driver.until_line("ready");
    drop(driver);
    until_gone(&mark);
}

#[test]
fn stdin_takes_more_than_a_pipe_holds_and_no_more_than_its_bound() {
    let mut driver = start(&mark("stdin"), "read go; echo going; exec cat", false);
    let line = vec![b'x'; 1 << 20];
    let mut taken = 0;
    while driver.process.write_line(&line) == Ok(()) {
        taken += 1;
        assert!(taken <= 17, "the queue has no bound");
    }
    assert!(taken >= 15 && driver.process.queued() <= Process::QUEUE_MAX);
    assert_eq!((driver.process.write_line(&line), driver.process.refused()), (Err(Full), 2));
    driver.process.close_stdin();
    // The first line went to `read`.
    assert_eq!(driver.until_exit().code, Some(0));
    assert_eq!(driver.process.write_line(b"late\n"), Ok(()));
    assert_eq!(driver.lines.len(), taken);
    assert!(driver.lines[1..].iter().all(|echo| echo.len() == line.len()));
}

#[test]
fn what_cannot_be_started_is_said_at_once() {
    let mut spawn = shell("none", "", false);
    spawn.program = "/nonexistent/claude".into();
    assert!(
        matches!(Driver::spawn(&spawn), Err(SpawnError::Program(path)) if path == Path::new("/nonexistent/claude"))
    );
    let mut spawn = shell("none", "", false);
    spawn.folder = "/nonexistent".into();
    assert!(matches!(Driver::spawn(&spawn), Err(SpawnError::Folder(_))));
    // A script without a first line that names its interpreter passes the checks and fails in the guard.
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken");
    std::fs::write(&broken, b"\x7fELF nonsense").expect("written");
    std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    for portable in [false, true] {
        let mut spawn = shell("none", "", portable);
        spawn.program = broken.clone();
        let exit = Driver::spawn(&spawn).expect("the guard starts").until_exit();
        assert_eq!(exit.code, Some(127));
        assert!(exit.stderr_tail.contains("broken"), "{exit:?}");
    }
}

#[test]
fn the_cli_inherits_nothing_of_ours_but_its_three_pipes_and_its_environment() {
    // Whoever started us had more open, and did not say that it is not for us.
    let folder = tempfile::tempdir().expect("a folder");
    let opening = folder.path().join("opening");
    let script = format!("#!/bin/sh\nexec 7</dev/null 9</dev/null {} \"$@\"\n", env!("CARGO_BIN_EXE_amp-relay"));
    std::fs::write(&opening, script).expect("written");
    std::fs::set_permissions(&opening, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let mut spawn = shell(&mark("inherit"), "ls /proc/self/fd; echo; env | sort", false);
    spawn.guard = GuardProgram::at(opening);
    let mut driver = Driver::spawn(&spawn).expect("started");
    assert_eq!(driver.until_exit().code, Some(0));
    let mut parts = driver.lines.split(|line| line.is_empty());
    assert_eq!(parts.next().expect("descriptors"), ["0", "1", "2", "3"], "the last is that of the list");
    let names: Vec<&str> = parts.next().expect("variables").iter().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(names, [MARK, "PATH", "PWD"]);
}
