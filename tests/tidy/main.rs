//! Rules of this repository that a compiler does not check: layers, sizes, words that must not stay, flags that the
//! documentation names. Every rule has a test beside it that shows it can fail.

mod circles;
mod diagram;
mod lexer;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use lexer::{code_only, ends_in_name};

/// Layers from left to right; a module imports only from those to its left.
const LAYERS: [(&str, &[&str]); 10] = [
    ("base", &[]),
    ("wire", &["base"]),
    ("reactor", &["base", "wire"]),
    ("client", &["base", "wire"]),
    ("store", &["base", "wire"]),
    ("claude", &["base", "wire"]),
    ("relay", &["base", "wire", "store", "claude"]),
    ("dialect", &["base", "wire", "store", "claude", "relay"]),
    ("server", &["base", "wire", "reactor", "store", "claude", "relay", "dialect"]),
    ("cli", &["base", "wire", "reactor", "client", "store", "claude", "relay", "dialect", "server"]),
];

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 100;

/// Modules that may hold `unsafe`. None so far.
const UNSAFE_ALLOWED: [&str; 0] = [];

/// Flags in the documentation that belong to other programs.
const FOREIGN_FLAGS: [&str; 6] =
    ["--release", "--example", "--full", "--no-default-features", "--path", "--unix-socket"];

/// Variables in the documentation that belong to the tests.
const FOREIGN_VARIABLES: [&str; 1] = ["AMP_RELAY_TEST_CLAUDE"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with this extension, as (path from the root, text).
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
                found.push((name, fs::read_to_string(&path).expect("a text file")));
            }
        }
    }
    found.sort();
    found
}

#[track_caller]
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// The layer a file of `src` belongs to; `None` for `lib.rs` and `main.rs`.
fn layer_of(path: &str) -> Option<&'static str> {
    let inner = path.strip_prefix("src/")?;
    let name = inner.split(['/', '.']).next()?;
    LAYERS.iter().map(|(layer, _)| *layer).find(|layer| *layer == name)
}

/// Names that follow `crate::` in code, those in `use crate::{..}` groups included.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let name_at = |text: &str| -> String {
        text.trim_start().chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect()
    };
    for (at, _) in code.match_indices("crate::") {
        if ends_in_name(&code[..at]) || code[..at].ends_with("$") {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let after = &code[at + "crate::".len()..];
        let Some(group) = after.trim_start().strip_prefix('{') else {
            found.push((line, name_at(after)));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (offset, one) in group.char_indices() {
            match one {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                _ if start && !one.is_whitespace() => {
                    let line = line + group[..offset].matches('\n').count();
                    found.push((line, name_at(&group[offset..])));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn layer_problems(path: &str, source: &str) -> Vec<String> {
    let Some(layer) = layer_of(path) else { return Vec::new() };
    let allowed = LAYERS.iter().find(|(name, _)| *name == layer).map(|(_, allowed)| *allowed).unwrap_or_default();
    let is_layer = |name: &str| LAYERS.iter().any(|(layer, _)| *layer == name);
    imports(&code_only(source))
        .into_iter()
        .filter(|(_, name)| name != layer && is_layer(name) && !allowed.contains(&name.as_str()))
        .map(|(line, name)| format!("{path}:{line}: {layer} must not import from {name}"))
        .collect()
}

/// Layers that know no thread: what they hold runs in any of them, and in a simulation.
const THREADLESS: [&str; 4] = ["base", "wire", "relay", "dialect"];
/// Crates and modules of threads and clocks. Readings of a clock come as arguments.
const THREADS: [&str; 7] =
    ["std::thread", "thread::", "crossbeam_channel", "parking_lot", "mio::", "Instant::now", "SystemTime::now"];

fn thread_problems(path: &str, source: &str) -> Vec<String> {
    let Some(layer) = layer_of(path).filter(|layer| THREADLESS.contains(layer)) else { return Vec::new() };
    let code = code_only(source);
    // What tests do in the same file is their own affair.
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let used = |line: &str| THREADS.into_iter().find(|word| line.contains(word));
    let lines = code.lines().enumerate();
    lines
        .filter_map(|(number, line)| Some((number + 1, used(line)?)))
        .map(|(number, word)| format!("{path}:{number}: {layer} must not use {word}"))
        .collect()
}

fn file_problems(path: &str, source: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        problems.push(format!("{path}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    if !source.starts_with("//!") {
        problems.push(format!("{path}: opens without //! (what it owns, what it must not do)"));
    }
    problems
}

/// Functions longer than the limit. The body is found by its braces, from the `fn` to the brace that closes it.
fn function_problems(path: &str, source: &str) -> Vec<String> {
    let code = code_only(source);
    let mut problems = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if ends_in_name(&code[..at]) {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect();
        if name.is_empty() {
            continue;
        }
        // Brackets are counted so that the `;` of an array type in the signature does not end it.
        let (mut depth, mut nested, mut end) = (0, 0, None);
        for (offset, one) in code[at..].char_indices() {
            match one {
                '[' | '(' if depth == 0 => nested += 1,
                ']' | ')' if depth == 0 => nested -= 1,
                ';' if depth == 0 && nested == 0 => break,
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        end = Some(at + offset);
                        break;
                    }
                }
                _ => {}
            }
        }
        let Some(end) = end else { continue };
        let lines = code[at..end].matches('\n').count() + 1;
        if lines > FUNCTION_LINES_MAX {
            let line = code[..at].matches('\n').count() + 1;
            problems.push(format!("{path}:{line}: {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
    problems
}

/// Words that must not stay in any Rust file.
fn word_problems(path: &str, source: &str) -> Vec<String> {
    let code = code_only(source);
    let mut problems = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut complain = |what: &str| problems.push(format!("{path}:{}: {what}", number + 1));
        for word in ["todo!", "unimplemented!", "dbg!"] {
            if line.contains(word) {
                complain(word);
            }
        }
        let trimmed = line.trim();
        if trimmed.starts_with("#[ignore]") {
            complain("#[ignore] without a reason");
        }
        if path.starts_with("tests/") && line.contains("thread::sleep") {
            complain("a test waits on a condition, it does not sleep");
        }
        let prints = |word: &str| line.match_indices(word).any(|(at, _)| !ends_in_name(&line[..at]));
        if path.starts_with("src/") && ["print!", "println!", "eprint!", "eprintln!"].into_iter().any(prints) {
            complain("this panics where its reader has gone: write with src/cli/out.rs");
        }
        let is_unsafe = trimmed.split(|one: char| !one.is_alphanumeric() && one != '_').any(|word| word == "unsafe");
        if is_unsafe && !UNSAFE_ALLOWED.contains(&path) {
            complain("unsafe in a module that may not hold any");
        }
    }
    problems
}

/// `--flags` and `AMP_RELAY_*` names in a text. A flag starts after a character that cannot be part of a word.
fn names(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("--") {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let name: String = text[at + 2..]
            .chars()
            .take_while(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || *one == '-')
            .collect();
        if !before.is_alphanumeric() && before != '-' && name.starts_with(|one: char| one.is_ascii_lowercase()) {
            found.insert(format!("--{}", name.trim_end_matches('-')));
        }
    }
    for (at, _) in text.match_indices("AMP_RELAY_") {
        let name: String = text[at..]
            .chars()
            .take_while(|one| one.is_ascii_uppercase() || one.is_ascii_digit() || *one == '_')
            .collect();
        if name != "AMP_RELAY_" {
            found.insert(name);
        }
    }
    found
}

fn unknown_names(path: &str, text: &str, known: &BTreeSet<String>) -> Vec<String> {
    let foreign: Vec<_> = FOREIGN_FLAGS.iter().chain(&FOREIGN_VARIABLES).copied().collect();
    let unknown = names(text).into_iter().filter(|name| !known.contains(name) && !foreign.contains(&name.as_str()));
    unknown.map(|name| format!("{path}: {name} is not in any --help of amp-relay")).collect()
}

#[test]
fn layers_point_one_way() {
    none(files("src", "rs").iter().flat_map(|(path, source)| layer_problems(path, source)).collect());
}

#[test]
fn the_core_knows_no_thread_and_no_clock() {
    none(files("src", "rs").iter().flat_map(|(path, source)| thread_problems(path, source)).collect());
}

#[test]
fn the_thread_rule_finds_what_it_looks_for() {
    let found = |path, source| thread_problems(path, source).len();
    assert_eq!(found("src/relay/hub.rs", "use std::thread;\nfn f() { let now = Instant::now(); }"), 2);
    assert_eq!(found("src/dialect/mod.rs", "use parking_lot::Mutex;"), 1);
    assert_eq!(found("src/server/mod.rs", "use std::thread;"), 0);
    assert_eq!(found("src/relay/hub.rs", "// std::thread\n#[cfg(test)]\nmod tests {\nuse std::thread;\n}"), 0);
}

#[test]
fn the_layer_rule_finds_what_it_looks_for() {
    let found = |path, source| layer_problems(path, source).len();
    assert_eq!(found("src/wire/ws.rs", "use crate::reactor::Io;"), 1);
    assert_eq!(found("src/wire.rs", "use crate::{base, relay::{Role, base}, cli};"), 2);
    assert_eq!(found("src/store/mod.rs", "fn f() { crate::claude::run() }"), 1);
    assert_eq!(found("src/claude/mod.rs", "use crate::store::Store;"), 1);
    assert_eq!(found("src/relay/mod.rs", "use crate::reactor::Sent;"), 1);
    assert_eq!(found("src/client/mod.rs", "use crate::{\n    base::Now,\n    reactor::Io,\n};"), 1);
    assert_eq!(found("src/relay/mod.rs", "use crate::{base, claude::{self, Event}, relay::Role, store};"), 0);
    assert_eq!(found("src/wire/ws.rs", "// use crate::reactor::Io;\nconst T: &str = \"crate::relay\";"), 0);
    assert_eq!(found("src/lib.rs", "use crate::cli;"), 0);
    assert!(layer_problems("src/wire/a.rs", "\n\nuse crate::relay;")[0].contains("a.rs:3:"));
}

#[test]
fn every_layer_is_in_the_table() {
    let source = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let modules = source.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    none(
        modules
            .filter(|module| !LAYERS.iter().any(|(layer, _)| layer == module))
            .map(|module| format!("{module} has no place among the layers"))
            .collect(),
    );
}

#[test]
fn files_and_functions_keep_their_size() {
    let sources = files("src", "rs");
    assert!(sources.len() > 10, "the sources are found");
    let mut problems: Vec<_> = sources.iter().flat_map(|(path, source)| file_problems(path, source)).collect();
    let tests = files("tests", "rs");
    problems.extend(tests.iter().flat_map(|(path, source)| file_problems(path, source)));
    problems.extend(sources.iter().chain(&tests).flat_map(|(path, source)| function_problems(path, source)));
    none(problems);
}

#[test]
fn the_size_rules_find_what_they_look_for() {
    let long = format!("//! Doc.\n{}", "\n".repeat(FILE_LINES_MAX));
    assert_eq!(file_problems("src/a.rs", &long).len(), 1);
    assert_eq!(file_problems("src/a.rs", "use std::io;\n").len(), 1);
    assert_eq!(file_problems("src/a.rs", "//! Doc.\nuse std::io;\n").len(), 0);
    let body =
        |lines: usize| format!("fn long(a: [u8; 2]) -> [u8; 2] {{\n{}}}\n", "    x('{', \"}}}\");\n".repeat(lines));
    assert_eq!(function_problems("src/a.rs", &body(FUNCTION_LINES_MAX)).len(), 1);
    assert_eq!(function_problems("src/a.rs", &body(FUNCTION_LINES_MAX - 2)).len(), 0);
    let two = format!("{}{}", body(60), body(60));
    assert_eq!(function_problems("src/a.rs", &two).len(), 0, "each is measured by itself");
    let declared = format!("trait T {{ fn short(&self); }}\n{}", "const A: u8 = 1;\n".repeat(200));
    assert_eq!(function_problems("src/a.rs", &declared).len(), 0);
}

#[test]
fn no_word_stays_that_must_not() {
    let mut problems = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "loadtest"] {
        problems.extend(files(folder, "rs").iter().flat_map(|(path, source)| word_problems(path, source)));
    }
    none(problems);
}

#[test]
fn the_word_rules_find_what_they_look_for() {
    let found = |path, source| word_problems(path, source).len();
    assert_eq!(found("src/a.rs", "fn a() { todo!() }"), 1);
    assert_eq!(found("src/a.rs", "fn a() { unimplemented!(\"later\") }\nfn b() { dbg!(1); }"), 2);
    assert_eq!(found("src/a.rs", "#[ignore]\nfn a() {}"), 1);
    assert_eq!(found("src/a.rs", "#[ignore = \"needs a terminal\"]\nfn a() {}"), 0);
    assert_eq!(found("tests/a.rs", "fn a() { std::thread::sleep(x); }"), 1);
    assert_eq!(found("src/a.rs", "fn a() { unsafe { b() } }"), 1);
    assert_eq!(found("src/a.rs", "fn a() { eprintln!(\"b\") }\nfn b() { std::print!(\"c\") }"), 2);
    assert_eq!(found("src/a.rs", "fn a() { my_println!(); } // println!()"), 0);
    assert_eq!(found("tests/a.rs", "fn a() { println!() }"), 0);
    assert_eq!(found("src/a.rs", "#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe todo!\";"), 0);
}

#[test]
fn the_name_rule_finds_what_it_looks_for() {
    let found: Vec<_> =
        names("`up --demo`, --keys=F a--b --- AMP_RELAY_GRACE=2, AMP_RELAY_* -- x").into_iter().collect();
    assert_eq!(found, ["--demo", "--keys", "AMP_RELAY_GRACE"]);
    let known = BTreeSet::from(["--demo".to_owned()]);
    assert_eq!(unknown_names("README.md", "--demo --release --dmeo AMP_RELAY_X", &known).len(), 2);
}

/// Every flag and variable that `--help` of the program and of each of its subcommands names.
#[cfg(feature = "cli")]
fn names_in_help() -> BTreeSet<String> {
    let help = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_amp-relay"))
            .args(arguments)
            .arg("--help")
            .env("COLUMNS", "200")
            .output()
            .expect("the program starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut found = BTreeSet::new();
    let mut verbs = vec![Vec::<String>::new()];
    while let Some(verb) = verbs.pop() {
        let arguments: Vec<_> = verb.iter().map(String::as_str).collect();
        let text = help(&arguments);
        found.extend(names(&text));
        let Some((_, after)) = text.split_once("Commands:\n") else { continue };
        for line in after.lines().take_while(|line| line.starts_with("  ") || line.is_empty()) {
            let Some(name) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else { continue };
            let name = name.split_whitespace().next().unwrap_or("");
            if !["", "help"].contains(&name) {
                verbs.push(verb.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    found
}

#[cfg(feature = "cli")]
/// The flags of the load harness, whose program these tests cannot run: the fields that clap is told to make flags of.
fn flags_of_the_harness() -> BTreeSet<String> {
    let source = fs::read_to_string(root().join("loadtest/src/cli.rs")).expect("the harness's command line");
    let mut flags = BTreeSet::new();
    let mut is_flag = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[arg(long") {
            is_flag = true;
        } else if let (true, Some((name, _))) = (is_flag, line.trim_start_matches("pub ").split_once(": ")) {
            flags.insert(format!("--{}", name.replace('_', "-")));
            is_flag = false;
        }
    }
    flags
}

#[cfg(feature = "cli")]
#[test]
fn flags_and_variables_in_the_documentation_exist() {
    let mut known = names_in_help();
    known.extend(flags_of_the_harness());
    assert!(known.contains("--keys-out") && !known.contains("--keys_out"), "the harness is understood: {known:?}");
    assert!(known.contains("--data") && known.contains("--help"), "the help is understood: {known:?}");
    let mut documents = files("docs", "md");
    documents.push(("README.md".into(), fs::read_to_string(root().join("README.md")).expect("README.md")));
    none(documents.iter().flat_map(|(path, text)| unknown_names(path, text, &known)).collect());
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut documents = files("docs", "md");
    documents.push(("README.md".into(), fs::read_to_string(root().join("README.md")).expect("README.md")));
    none(documents.iter().flat_map(|(path, text)| broken_links(path, text, |target| target.exists())).collect());
}

/// Relative links to files that are not there.
fn broken_links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = root().join(path).parent().map(Path::to_path_buf).unwrap_or_default();
    let targets = text.match_indices("](").filter_map(|(at, _)| text[at + 2..].split(')').next());
    let files = targets.map(|target| target.split('#').next().unwrap_or("")).filter(|target| !target.is_empty());
    files
        .filter(|target| !target.contains("://") && !exists(&folder.join(target)))
        .map(|target| format!("{path}: a link leads to {target}, which does not exist"))
        .collect()
}

#[test]
fn the_link_rule_finds_what_it_looks_for() {
    let text = "[a](docs/a.md) [b](https://example.com/b) [c](#c) [d](docs/d.md#part)";
    assert_eq!(broken_links("README.md", text, |target| target.ends_with("a.md")).len(), 1);
}
