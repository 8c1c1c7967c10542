//! The README is followed, not only read: its first screen holds the two commands, every command in it is one the
//! program knows, and `./tests/run --full` runs it literally from a fresh clone.
#![cfg(feature = "cli")]

mod support;

use std::{fs, path::PathBuf, process::Command};

use support::{
    relay::{PROGRAM, Scratch},
    terminal::Terminal,
};

/// How the README starts the program from a clone.
const FROM_CLONE: &str = "cargo run --release --";

fn readme() -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md")
}

/// The lines of fenced `sh` blocks, without comments.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line.trim() == "```sh";
        } else if inside {
            let command = line.split(" #").next().unwrap_or("").trim();
            if !command.is_empty() && !command.starts_with('#') {
                found.push(command.to_owned());
            }
        }
    }
    found
}

/// What a command line gives the program; `None` for other programs.
fn arguments(command: &str) -> Option<&str> {
    command.strip_prefix(FROM_CLONE).or_else(|| command.strip_prefix("amp-relay")).map(str::trim)
}

#[test]
fn the_first_screen_holds_the_two_commands() {
    let readme = readme();
    let screen: String = readme.lines().take(45).map(|line| format!("{line}\n")).collect();
    let commands = commands(&screen);
    for wanted in ["cargo run --release -- up", "./tests/run", "cargo run --release -- attach"] {
        assert!(commands.iter().any(|command| command == wanted), "{wanted} is on the first screen: {commands:?}");
    }
}

#[test]
fn every_command_is_one_the_program_knows() {
    let scratch = Scratch::new();
    let mut documents = vec![("README.md".to_owned(), readme())];
    for name in ["docs/getting-started.md", "docs/how-it-is-built.md"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
        documents.push((name.into(), fs::read_to_string(path).expect(name)));
    }
    let mut known = 0;
    for (document, text) in documents {
        for command in commands(&text) {
            let Some(arguments) = arguments(&command) else { continue };
            // `--help` is taken only after everything before it was understood as a verb.
            let verbs: Vec<_> = arguments.split_whitespace().take_while(|word| is_verb(word)).collect();
            let ran = scratch.run(verbs.iter().copied().chain(["--help"]));
            assert!(ran.status.success(), "{document}: {command}: {ran:?}");
            known += 1;
        }
    }
    assert!(known >= 5, "the commands are found");
}

fn is_verb(word: &str) -> bool {
    [
        "up", "serve", "attach", "sessions", "keys", "config", "list", "add", "remove", "did", "show", "check", "send",
        "request", "listen",
    ]
    .contains(&word)
}

#[test]
#[ignore = "builds a release from a fresh clone; ./tests/run --full makes one and sets AMP_RELAY_TEST_CLONE"]
fn a_fresh_clone_does_what_the_first_screen_says() {
    let clone = PathBuf::from(std::env::var_os("AMP_RELAY_TEST_CLONE").expect("AMP_RELAY_TEST_CLONE names the clone"));
    let commands = commands(&readme());
    let find = |end: &str| commands.iter().find(|command| command.ends_with(end)).expect(end);
    let scratch = Scratch::new();
    // The build takes as long as it takes; what follows is watched with a deadline.
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked"]).current_dir(&clone).env_remove("CARGO_TARGET_DIR");
    assert!(build.status().expect("cargo runs").success());
    // The commands are as they stand there; only the port is any free one, for somebody may run a relay here.
    let here =
        |command: &str| format!("cd {} && AMP_RELAY_LISTEN=127.0.0.1:0 {}{command}", clone.display(), toolchain());
    let first = Terminal::run(&scratch, &here(find("-- up")));
    first.shows("where it listens", |screen| screen.contains("listening ws://"));
    let second = Terminal::run(&scratch, &here(find("-- attach")));
    second.shows("that it is attached", |screen| screen.to_lowercase().contains("attached") || screen.contains('>'));
    second.line("hello from the second terminal");
    second.shows("the answer's end", |screen| screen.contains("hello from the second terminal"));
    second.keys(&["C-]"]);
    second.shows("the end of attach", |screen| screen.contains("ended with 0"));
    first.keys(&["C-c"]);
    first.shows("the end of the relay", |screen| screen.contains("ended with 0"));
}

/// The caller's toolchain, which is not looked for in the scratch HOME.
fn toolchain() -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    let folder = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| format!("{home}/{default}"));
    format!("CARGO_HOME={} RUSTUP_HOME={} ", folder("CARGO_HOME", ".cargo"), folder("RUSTUP_HOME", ".rustup"))
}

#[test]
fn commands_are_found_in_their_blocks() {
    let text = "```sh\n# a comment\namp-relay up --demo   # says\n```\ntext `amp-relay x`\n```toml\na = 1\n```\n";
    assert_eq!(commands(text), ["amp-relay up --demo"]);
    assert_eq!(arguments("amp-relay up --demo"), Some("up --demo"));
    assert_eq!(arguments("cargo run --release -- attach"), Some("attach"));
    assert_eq!(arguments("ssh host"), None);
    assert!(!PROGRAM.is_empty());
}
