//! No circle of imports among the modules of one folder: each can be read after those it imports from, and by itself.
//!
//! Members of a folder are its files and its subfolders, a subfolder with all that is below it. The `mod.rs` of the
//! folder is none: a parent names its children, and they may use what it defines. What it merely re-exports counts as
//! an import of the child that defines it. An import of `*` would hide such names. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    files,
    lexer::{code_only, ends_in_name},
    none,
};

type Path = Vec<String>;
/// From a member of a folder to another, and the place that says so.
type Arrows = BTreeMap<(String, String), String>;

/// A name may be imported again and again on its way; one that is imported from itself belongs to another crate.
const HOPS_MAX: usize = 16;

/// What one module says of others: a file, or a module within one.
#[derive(Default)]
struct Module {
    /// Names that `use` brings in, with the paths they stand for.
    names: BTreeMap<String, Path>,
    /// Every path, with its line.
    paths: Vec<(usize, Path)>,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<Path, Module>,
    /// The files among the modules.
    files: BTreeMap<Path, String>,
}

impl Crate {
    /// The modules of these files, all of which lie below `folder`.
    fn new(folder: &str, sources: &[(String, String)]) -> Self {
        let mut found = Self::default();
        for (file, source) in sources {
            let inner = file.strip_prefix(folder).and_then(|inner| inner.strip_suffix(".rs")).unwrap_or_default();
            let mut path: Path = inner.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
            if path.iter().any(|part| part == "tests" || part.ends_with("_tests")) || inner == "/main" {
                continue;
            }
            if path.last().is_some_and(|last| last == "mod") || inner == "/lib" {
                path.pop();
            }
            found.files.insert(path.clone(), file.clone());
            Reader { tokens: tokens(&without_tests(&code_only(source))), at: 0 }.module(path, &mut found.modules);
        }
        found
    }

    /// The modules that a path leads through by re-exports, and the one it ends in. Nothing for other crates.
    fn resolve(&self, from: &[String], path: &[String], hops: usize) -> Vec<Path> {
        let Some((first, mut rest)) = path.split_first().filter(|_| hops > 0) else { return Vec::new() };
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => from.to_vec(),
            "super" => from[..from.len().saturating_sub(1)].to_vec(),
            _ => {
                let known = self.child(from, first).is_some() || self.modules[from].names.contains_key(first);
                rest = path;
                if !known {
                    return Vec::new();
                }
                from.to_vec()
            }
        };
        while let Some((next, after)) = rest.split_first() {
            if next == "super" {
                at.pop();
            } else if let Some(child) = self.child(&at, next) {
                at = child;
            } else if let Some(target) = self.modules.get(&at).and_then(|module| module.names.get(next)) {
                let target: Path = target.iter().chain(after).cloned().collect();
                let mut through = self.resolve(&at, &target, hops - 1);
                through.push(at);
                return through;
            } else {
                break;
            }
            rest = after;
        }
        vec![at]
    }

    fn child(&self, at: &[String], name: &str) -> Option<Path> {
        let child: Path = at.iter().cloned().chain([name.to_owned()]).collect();
        self.modules.contains_key(&child).then_some(child)
    }

    /// The file that a module stands in.
    fn file_of<'a>(&self, module: &'a [String]) -> &'a [String] {
        let mut lengths = (0..=module.len()).rev();
        lengths.find(|&length| self.files.contains_key(&module[..length])).map_or(&[], |length| &module[..length])
    }

    /// Every path of every module, with its place, and what it leads to.
    fn uses(&self) -> impl Iterator<Item = (&[String], String, &Path, Vec<Path>)> {
        self.modules.iter().flat_map(move |(from, module)| {
            let file = self.file_of(from);
            let place = move |line| format!("{}:{line}", self.files[file]);
            module.paths.iter().map(move |(line, path)| (file, place(line), path, self.resolve(from, path, HOPS_MAX)))
        })
    }

    /// Arrows among the members of each folder, with the first place that says so.
    fn arrows(&self) -> BTreeMap<Path, Arrows> {
        let mut found: BTreeMap<Path, Arrows> = BTreeMap::new();
        for (file, place, _, targets) in self.uses() {
            for target in &targets {
                let target = self.file_of(target);
                let shared = file.iter().zip(target).take_while(|(one, other)| one == other).count();
                let (Some(one), Some(other)) = (file.get(shared), target.get(shared)) else { continue };
                let arrows = found.entry(file[..shared].to_vec()).or_default();
                arrows.entry((one.clone(), other.clone())).or_insert_with(|| place.clone());
            }
        }
        found
    }
}

/// The code without the items that are there for tests alone.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = ["#[cfg(test)]", "#[cfg(all(test"].into_iter().filter_map(|test| rest.find(test)).min() {
        out.push_str(&rest[..at]);
        let (mut depth, mut end) = (0, rest.len());
        for (offset, one) in rest[at..].char_indices() {
            match one {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(one, '}' | ';') {
                end = at + offset + 1;
                break;
            }
        }
        out.extend(rest[at..end].chars().filter(|one| *one == '\n'));
        rest = &rest[end..];
    }
    out + rest
}

/// Names, `::`, and other characters one by one, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut line, mut joined) = (1, false);
    for one in code.chars() {
        line += usize::from(one == '\n');
        let part_of_name = one.is_alphanumeric() || one == '_';
        match found.last_mut().filter(|_| joined) {
            Some((_, last)) if part_of_name && ends_in_name(last) || one == ':' && last == ":" => last.push(one),
            _ if one.is_whitespace() => {}
            _ => found.push((line, one.to_string())),
        }
        joined = !one.is_whitespace();
    }
    found
}

struct Reader {
    tokens: Vec<(usize, String)>,
    at: usize,
}

impl Reader {
    fn peek(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |(_, token)| token)
    }

    fn is_name(&self, ahead: usize) -> bool {
        ends_in_name(self.peek(ahead))
    }

    /// Reads a module up to the brace that closes it, and those within it.
    fn module(&mut self, path: Path, found: &mut BTreeMap<Path, Module>) {
        let (mut module, mut depth) = (Module::default(), 0);
        while self.at < self.tokens.len() {
            let line = self.tokens[self.at].0;
            let continues = self.at > 0 && matches!(self.tokens[self.at - 1].1.as_str(), "::" | ".");
            match self.peek(0) {
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                "{" => depth += 1,
                "use" if self.peek(1) != "<" => {
                    self.at += 1;
                    self.tree(&Vec::new(), &mut module);
                }
                "mod" if self.is_name(1) && self.peek(2) == "{" => {
                    let inner = path.iter().cloned().chain([self.peek(1).to_owned()]).collect();
                    self.at += 3;
                    self.module(inner, found);
                }
                _ if !continues && self.is_name(0) && self.peek(1) == "::" => {
                    let mut named = vec![self.peek(0).to_owned()];
                    while self.peek(1) == "::" && self.is_name(2) {
                        named.push(self.peek(2).to_owned());
                        self.at += 2;
                    }
                    module.paths.push((line, named));
                }
                _ => {}
            }
            self.at += 1;
        }
        found.insert(path, module);
    }

    /// Reads a tree of `use` and stops behind it.
    fn tree(&mut self, before: &Path, module: &mut Module) {
        let mut path = before.clone();
        let line = self.tokens.get(self.at).map_or(0, |(line, _)| *line);
        loop {
            if self.peek(0) == "{" {
                self.at += 1;
                while !matches!(self.peek(0), "}" | "") {
                    self.tree(&path, module);
                    self.at += usize::from(self.peek(0) == ",");
                }
                self.at += 1;
                return;
            }
            if self.peek(0) == "*" || (self.is_name(0) && (self.peek(0) != "self" || path.is_empty())) {
                path.push(self.peek(0).to_owned());
            }
            self.at += 1;
            if self.peek(0) != "::" {
                break;
            }
            self.at += 1;
        }
        let mut name = path.last().cloned().unwrap_or_default();
        if self.peek(0) == "as" {
            name = self.peek(1).to_owned();
            self.at += 2;
        }
        module.paths.push((line, path.clone()));
        if name != "*" {
            module.names.insert(name, path);
        }
    }
}

/// What can be reached from a member by its folder's arrows.
fn reached<'a>(from: &'a str, arrows: &'a Arrows) -> BTreeSet<&'a str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(one) = open.pop() {
        let next = arrows.keys().filter(|(from, _)| from == one).map(|(_, to)| to.as_str());
        open.extend(next.filter(|to| found.insert(*to)));
    }
    found
}

/// Arrows that are part of a circle, one line for each folder, and imports of `*`.
fn circle_problems(folder: &str, sources: &[(String, String)]) -> Vec<String> {
    let known = Crate::new(folder, sources);
    let stars = known.uses().filter(|(_, _, path, to)| path.last().is_some_and(|last| last == "*") && !to.is_empty());
    let mut problems: Vec<_> = stars.map(|(_, place, ..)| format!("{place}: * hides what is imported")).collect();
    for (inner, arrows) in known.arrows() {
        let circular = arrows.iter().filter(|((from, to), _)| reached(to, &arrows).contains(from.as_str()));
        let shown: Vec<_> = circular.map(|((from, to), place)| format!("{from} -> {to} ({place})")).collect();
        if !shown.is_empty() {
            let folder: Vec<_> = [folder].into_iter().chain(inner.iter().map(String::as_str)).collect();
            problems.push(format!("{}: a circle of imports: {}", folder.join("/"), shown.join(", ")));
        }
    }
    problems
}

#[test]
fn no_folder_holds_a_circle_of_imports() {
    let problems = ["src", "loadtest/src"].into_iter().flat_map(|folder| {
        let sources = files(folder, "rs");
        assert!(sources.len() > 10, "the sources of {folder} are found");
        circle_problems(folder, &sources)
    });
    none(problems.collect());
}

#[test]
fn the_circle_rule_finds_what_it_looks_for() {
    let found = |sources: &[(&str, &str)]| {
        let owned = sources.iter().map(|(file, source)| (format!("src/{file}"), (*source).to_owned()));
        circle_problems("src", &owned.collect::<Vec<_>>())
    };
    let back = ("m/b.rs", "\nuse super::a::A;");
    let with = |file, source| found(&[("m/mod.rs", "mod a;\nmod b;"), (file, source), back]);

    let two = with("m/a.rs", "use super::b::B;");
    assert_eq!(two, ["src/m: a circle of imports: a -> b (src/m/a.rs:1), b -> a (src/m/b.rs:2)"]);
    for source in [
        "use crate::{base, m::{self, b::{self as other, B}}};",
        "fn f() -> u8 { super::b::f::<u8>() }",
        "mod inner { use super::super::b::B; }",
        "use crate::m;\nfn f() { m::b::f() }",
        "macro_rules! f { () => { $crate::m::b::f() } }",
    ] {
        assert_eq!(with("m/a.rs", source).len(), 1, "{source}");
    }
    let deep = [("m/mod.rs", ""), back, ("m/a/mod.rs", "mod deep;"), ("m/a/deep.rs", "use crate::m::b::B;")];
    assert_eq!(found(&deep).len(), 1, "a folder is taken whole");
    for source in [
        "use std::b::B;\nuse b::C;\nfn f() { B::b::f() }",
        "// use super::b::B;\nconst A: &str = \"super::b::B\";",
        "#[cfg(test)]\nmod tests { use super::super::b::B; }",
        "#[cfg(all(test, not(loom)))]\nuse super::b::B;\nuse super::c::C;",
        "fn f() -> impl Sized + use<> {}\nuse super::M;",
    ] {
        assert_eq!(with("m/a.rs", source), [""; 0], "{source}");
    }
    for file in ["m/a_tests.rs", "m/a/tests.rs", "m/a/tests/b.rs"] {
        assert_eq!(with(file, "use crate::m::b::B;"), [""; 0], "{file}");
    }
    let three = [
        ("a.rs", "use crate::b;"),
        ("b.rs", "use super::c::C;"),
        ("c.rs", "use crate::a::A;"),
        ("d.rs", "use crate::a;"),
    ];
    assert_eq!(found(&three).len(), 1);
    assert!(!found(&three)[0].contains("d ->"), "what leads into a circle is no part of it");
    assert_eq!(found(&three[1..]), [""; 0]);

    // A parent may name its children, which may use what it defines, but not by what it re-exports from others.
    let parent =
        ("m/mod.rs", "mod a;\nmod b;\nmod c;\npub use b::{B, f as g};\npub struct M;\nfn h() { a::f(c::f()) }");
    assert_eq!(found(&[parent, back, ("m/a.rs", "use super::M;")]), [""; 0]);
    for source in ["use super::B;", "use super::g;", "use crate::m::{B as C, M};", "fn f() { super::B::new() }"] {
        assert_eq!(found(&[parent, back, ("m/a.rs", source)]).len(), 1, "{source}");
    }
    let beside = ("n/mod.rs", "mod x;\npub use crate::m::B;");
    assert_eq!(found(&[parent, beside, back, ("m/a.rs", "use crate::n::B;")]).len(), 2, "in src and in src/m");
    let star = "use super::c::*;\nuse std::a::*;";
    assert_eq!(found(&[parent, ("m/a.rs", star)]), ["src/m/a.rs:1: * hides what is imported"]);
}
