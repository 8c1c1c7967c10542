//! The README is followed, not only read: its first screen holds the two commands, every command in it is one the
//! program knows, and `./tests/run --full` runs it literally from a fresh clone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    self,
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
    for name in ["docs/getting-started.md", "docs/settings.md", "docs/how-it-is-built.md"] {
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
        "up", "new", "stop", "down", "serve", "attach", "sessions", "keys", "config", "list", "add", "remove", "did",
        "show", "check", "table", "send", "request", "listen",
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
    first.shows("a live session", |screen| screen.contains("Ctrl-] leaves"));
    first.line("hello from the first terminal");
    let second = Terminal::run(&scratch, &here(find("-- attach")));
    second.shows("the session of the first", |screen| screen.contains("hello from the first terminal"));
    // The terminal closes, and the session goes on.
    drop(first);
    second.line("hello from the second terminal");
    second.shows("the answer's end", |screen| {
        screen.rsplit("hello from the second terminal").next().is_some_and(|rest| rest.contains("done in"))
    });
    second.keys(&["C-]"]);
    second.shows("the end of attach", |screen| screen.contains("ended with 0"));
    let third = Terminal::run(&scratch, &here(&format!("{FROM_CLONE} down")));
    third.shows("the end of the relay", |screen| screen.contains("ended with 0"));
}

/// A fenced block of this language.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let rest = text.split_once(&format!("```{language}\n")).expect("a block").1;
    rest.split_once("```").expect("its end").0
}

#[test]
fn the_settings_are_those_of_the_program() {
    let table = Scratch::new().run(["config", "table"]).ok();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let written = fs::read_to_string(path).expect("docs/settings.md");
    assert!(table.lines().count() > 12, "{table}");
    assert!(written.contains(&table), "docs/settings.md holds what `amp-relay config table` prints:\n{table}");
}

#[test]
fn a_program_with_the_dependency_of_the_readme_runs_the_chat_room_of_the_front_page() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let scratch = Scratch::new();
    let folder = scratch.project().join("chat");
    fs::create_dir_all(folder.join("src")).expect("a folder");
    let dependency = readme();
    let dependency = block(&dependency, "toml").replace("../amp-relay", &root.display().to_string());
    let package = format!("[package]\nname = \"chat\"\nedition = \"2024\"\n\n{dependency}\n[workspace]\n");
    fs::write(folder.join("Cargo.toml"), package).expect("a manifest");
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).expect("the versions that are here already");
    let page = fs::read_to_string(root.join("src/lib.rs")).expect("the front page");
    let page: String = page
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .fold(String::new(), |page, line| page + line.strip_prefix(' ').unwrap_or(line) + "\n");
    let example = page.split("# Embed the loop").nth(1).expect("the chat room");
    fs::write(folder.join("src/main.rs"), block(example, "")).expect("a program");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline"]).current_dir(&folder);
    cargo.env("CARGO_TARGET_DIR", root.join("target/readme")).env_remove("RUSTFLAGS");
    let ran = support::relay::Ran::from(cargo.output().expect("cargo runs")).ok();
    assert!(ran.starts_with("ws://127.0.0.1:") && ran.trim_end().ends_with("/chat/NAME"), "{ran}");
}

#[test]
fn pictures_and_pages_are_there() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let readme = readme();
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link));
    let local: Vec<&str> = links.filter(|link| !link.contains("://") && !link.starts_with('#')).collect();
    assert!(local.len() > 6, "{local:?}");
    for link in local {
        let file = link.split('#').next().unwrap_or(link);
        assert!(root.join(file).exists(), "README.md links to {link}");
    }
}

/// The rows of two screens side by side, the left one so many columns wide.
fn side_by_side(left: &str, right: &str, width: usize) -> String {
    let mut rows = String::new();
    let (mut left, mut right) = (left.lines(), right.lines());
    loop {
        let row = match (left.next(), right.next()) {
            (None, None) => return rows,
            (left, right) => (left.unwrap_or_default(), right.unwrap_or_default()),
        };
        let blank = width.saturating_sub(unicode_width::UnicodeWidthStr::width(without_colours(row.0).as_str()));
        rows.push_str(&format!("{}\x1b[0m{:blank$}\x1b[2m │ \x1b[0m{}\x1b[0m\n", row.0, "", row.1));
    }
}

/// The text without its colours.
fn without_colours(coloured: &str) -> String {
    let mut parts = coloured.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Makes the picture at the top of the README: `cargo test --test e2e picture -- --ignored`.
#[test]
#[ignore = "writes docs/images/two-terminals.svg"]
fn the_picture_of_two_terminals_is_taken() {
    const WIDTH: u16 = 62;
    let scratch = Scratch::new();
    let run = |verb: &str| {
        // By its name, for the folder that it was built in is no other machine's.
        let built = Path::new(PROGRAM).parent().expect("a folder").display();
        let command = format!("PATH={built}:$PATH AMP_RELAY_LISTEN=127.0.0.1:0 AMP_RELAY_DEMO=1 amp-relay {verb}");
        let terminal = Terminal::sized(&scratch, &command, WIDTH, 20);
        terminal.shows("the session", |screen| screen.contains("Ctrl-] leaves"));
        terminal
    };
    let (laptop, desk) = (run("up"), run("attach"));
    laptop.line("please ask me before you run anything");
    let is_asked = |screen: &str| screen.contains("1 of 1");
    let [left, right] = [&laptop, &desk].map(|terminal| {
        terminal.shows("the request", is_asked);
        terminal.coloured()
    });
    // The scratch folder has a name for this run alone.
    let root = scratch.root().display().to_string();
    let [left, right] = [left, right].map(|screen| screen.replace(&format!("{root}/project"), "~/project"));
    assert!(!left.contains(PROGRAM) && !right.contains(PROGRAM), "{left}");
    let picture = anstyle_svg::Term::new().render_svg(&side_by_side(&left, &right, usize::from(WIDTH)));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/images/two-terminals.svg");
    fs::create_dir_all(path.parent().expect("a folder")).expect("docs/images");
    fs::write(path, picture).expect("the picture");
    drop((laptop, desk));
    scratch.run(["down"]).ok();
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
