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

/// The examples are compiled and run with their hidden lines: what the page shows runs too where those do nothing.
#[test]
fn the_examples_of_the_front_page_can_be_pasted() {
    let page =
        fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("the front page");
    let page: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    let examples: Vec<&[&str]> = page.split(|line| line.trim() == "```").skip(1).step_by(2).collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        let hidden: Vec<&str> = example.iter().filter_map(|line| line.trim().strip_prefix("# ")).collect();
        assert!(hidden.is_empty() || hidden == [r#"#[cfg(feature = "relay")] {"#, "}"], "{hidden:#?}");
        assert!(example.iter().any(|line| line.starts_with(" fn main()")), "{example:#?}");
    }
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
    let (left, right) = (styled_rows(left), styled_rows(right));
    let (mut left, mut right) = (left.iter(), right.iter());
    loop {
        let (left, right) = match (left.next(), right.next()) {
            (None, None) => return rows,
            (left, right) => (left.map_or("", String::as_str), right.map_or("", String::as_str)),
        };
        let blank = width.saturating_sub(unicode_width::UnicodeWidthStr::width(without_colours(left).as_str()));
        rows.push_str(&format!("{left}\x1b[0m{:blank$}\x1b[2m │ \x1b[0m{right}\x1b[0m\n", ""));
    }
}

/// The rows of a screen, each with the style that it begins in: tmux says a style once, for all rows until the next one.
fn styled_rows(screen: &str) -> Vec<String> {
    let mut style = String::new();
    let styled = |row: &str| {
        let styled = format!("{style}{row}");
        for (parameters, _) in row.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m')) {
            let parameters = match parameters.split_once(';') {
                Some(("" | "0", others)) => {
                    style.clear();
                    others
                }
                None if matches!(parameters, "" | "0") => {
                    style.clear();
                    continue;
                }
                _ => parameters,
            };
            style.push_str(&format!("\x1b[{parameters}m"));
        }
        styled
    };
    screen.lines().map(styled).collect()
}

/// The text without its colours.
fn without_colours(coloured: &str) -> String {
    let mut parts = coloured.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Where the picture at the top of the README is.
fn picture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/images/two-terminals.svg")
}

/// A coloured text as a picture. Dim text is as far from the background as it must be to be read.
fn drawn(text: &str) -> String {
    let picture = anstyle_svg::Term::new().palette(anstyle_svg::WIN10_CONSOLE).render_svg(text);
    // Viewers pass over the `opacity` of a part of a text.
    let (dimmed, legible) = (".dimmed { opacity: 0.4; }", ".dimmed { fill-opacity: 0.65; }");
    assert!(picture.contains(dimmed), "how the library dims: {picture}");
    picture.replace(dimmed, legible)
}

/// Makes the picture at the top of the README: `cargo test --test e2e picture_of_two -- --ignored`.
#[test]
#[ignore = "writes docs/images/two-terminals.svg"]
fn the_picture_of_two_terminals_is_taken() {
    fs::create_dir_all(picture().parent().expect("a folder")).expect("docs/images");
    fs::write(picture(), two_terminals()).expect("the picture");
}

#[test]
fn the_picture_is_what_two_terminals_show() {
    // A row in which the machine's name stands has room for so many characters of it.
    const NAME_MAX: usize = 8;
    if rustix::system::uname().nodename().to_bytes().len() > NAME_MAX {
        return support::say_loudly("SKIPPED: the picture, on a machine with a long name");
    }
    // Seconds and sizes differ from one time to the next, and the status row moves.
    let rows = |picture: &str| -> Vec<String> {
        let rows = picture.lines().filter(|row| !row.contains("Ctrl-"));
        rows.map(|row| row.replace(|c: char| c.is_ascii_digit(), "")).collect()
    };
    let (kept, taken) = (fs::read_to_string(picture()).expect("the picture"), two_terminals());
    for (kept, taken) in rows(&kept).into_iter().zip(rows(&taken)) {
        assert_eq!(kept, taken, "take the picture anew: cargo test --test e2e picture_of_two -- --ignored");
    }
}

/// Two terminals at one session while a tool asks, as a picture.
fn two_terminals() -> String {
    const WIDTH: u16 = 62;
    // So high that the first row of either is in view.
    const HEIGHT: u16 = 24;
    let scratch = Scratch::new();
    let run = |verb: &str| {
        // By its name, for the folder that it was built in is no other machine's.
        let built = Path::new(PROGRAM).parent().expect("a folder").display();
        let command = format!("PATH={built}:$PATH AMP_RELAY_LISTEN=127.0.0.1:0 AMP_RELAY_DEMO=1 amp-relay {verb}");
        let terminal = Terminal::sized(&scratch, &command, WIDTH, HEIGHT);
        terminal.shows("the session", |screen| screen.contains("Ctrl-] leaves"));
        terminal
    };
    let (laptop, desk) = (run("up"), run("attach"));
    // Which is told once a second at most.
    laptop.shows("that the other one came", |screen| screen.contains("joined"));
    laptop.line("please ask me before you run anything");
    let is_asked = |screen: &str| screen.contains("1 of 1");
    let [left, right] = [&laptop, &desk].map(|terminal| {
        terminal.shows("the request", is_asked);
        terminal.coloured()
    });
    // The scratch folder has a name for this run alone, and the machine one that no other has.
    let root = scratch.root().display().to_string();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let [left, right] = [left, right]
        .map(|screen| screen.replace(&format!("{root}/project"), "~/project").replace(&format!("({host} "), "(desk "));
    for screen in [&left, &right] {
        let first = without_colours(screen.lines().next().unwrap_or_default());
        assert!(first.starts_with("· project · ~/project"), "the first row: {screen}");
    }
    let text = side_by_side(&left, &right, usize::from(WIDTH));
    drop((laptop, desk));
    scratch.run(["down"]).ok();
    drawn(text.trim_end())
}

#[test]
fn a_row_of_the_picture_begins_in_the_style_of_the_row_before_it() {
    let left = "\x1b[2mone\ntwo\n\x1b[0;33mthree\n\x1b[1mfour\x1b[0m\nfive\n";
    let right = "a\n\x1b[32mb\nc\n\x1b[md\n";
    assert_eq!(
        styled_rows(left),
        ["\x1b[2mone", "\x1b[2mtwo", "\x1b[2m\x1b[0;33mthree", "\x1b[33m\x1b[1mfour\x1b[0m", "five"]
    );
    let bar =
        |left: &str, blank: usize, right: &str| format!("{left}\x1b[0m{:blank$}\x1b[2m │ \x1b[0m{right}\x1b[0m\n", "");
    let joined: String = [
        bar("\x1b[2mone", 4, "a"),
        bar("\x1b[2mtwo", 4, "\x1b[32mb"),
        bar("\x1b[2m\x1b[0;33mthree", 2, "\x1b[32mc"),
        bar("\x1b[33m\x1b[1mfour\x1b[0m", 3, "\x1b[32m\x1b[md"),
        bar("five", 3, ""),
    ]
    .concat();
    assert_eq!(side_by_side(left, right, 7), joined);
}

/// How bright a colour is, as WCAG 2 has it: 0 to 1.
fn luminance(colour: [f64; 3]) -> f64 {
    let linear = |part: f64| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) };
    colour.map(linear).into_iter().zip([0.2126, 0.7152, 0.0722]).map(|(part, weight)| part * weight).sum()
}

/// What stands between this and a `;` or a blank behind it.
fn value<'a>(picture: &'a str, begins: &str) -> &'a str {
    let rest = picture.split_once(begins).unwrap_or_else(|| panic!("{begins}: {picture}")).1;
    rest.split([';', ' ']).next().unwrap_or_default()
}

#[test]
fn the_picture_can_be_read_and_shows_what_terminals_show() {
    let picture = fs::read_to_string(picture()).expect("the picture");
    let colour = |hex: &str| {
        [1, 3, 5].map(|at| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits")) / 255.0)
    };
    let background = colour(value(&picture, ".bg { fill: "));
    let is_legible = |text: [f64; 3]| (luminance(text) + 0.05) / (luminance(background) + 0.05) >= 4.5;
    let text = colour(value(&picture, ".fg { fill: "));
    assert!(is_legible(text));
    for rule in picture.split("    .fg-").skip(1) {
        assert!(is_legible(colour(value(rule, "{ fill: "))), "{rule}");
    }
    let opacity: f64 = value(&picture, ".dimmed { fill-opacity: ").parse().expect("a number");
    let dim = [0, 1, 2].map(|at| text[at] * opacity + background[at] * (1.0 - opacity));
    assert!(is_legible(dim) && luminance(dim) < luminance(text) * 0.7, "dim, and legible: {dim:?}");
    // A notice is dim from its mark on, and the left edge of a card is like the right one.
    for (text, times) in [("· project · ~/project", 2), ("· The relay runs", 1), ("· also here", 1)] {
        assert_eq!(picture.matches(text).count(), times, "{text}");
        assert_eq!(picture.matches(&format!("<tspan class=\"dimmed\">{text}")).count(), times, "{text}");
    }
    for edge in ["╭", "╰"] {
        assert_eq!(picture.matches(&format!("<tspan class=\"fg-ansi256-003\">{edge}")).count(), 2, "{edge}");
    }
    assert!(["/tmp", "/home", "/root", "/target", "SHA256:"].iter().all(|own| !picture.contains(own)), "{picture}");
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
