//! The layers as the documentation draws them: its arrows permit what [`LAYERS`] permits, and its table has a row for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::{LAYERS, none, root};

const PAGE: &str = "docs/how-it-is-built.md";

type Permitted = BTreeMap<String, BTreeSet<String>>;

fn in_code() -> Permitted {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    LAYERS.iter().map(|(layer, allowed)| ((*layer).to_owned(), owned(allowed))).collect()
}

/// The section on the layers.
fn section(page: &str) -> &str {
    let (_, rest) = page.split_once("\n## Layers\n").unwrap_or_default();
    rest.split("\n## ").next().unwrap_or_default()
}

/// What lines like `a <- b, c <- d` and `e (on a and b) <- d` permit: each layer imports from all to its left.
fn drawn<'a>(lines: impl Iterator<Item = &'a str>) -> Permitted {
    let mut found = Permitted::new();
    for line in lines {
        let mut left: Vec<&str> = Vec::new();
        for part in line.split("<-") {
            let (names, on) = part.trim().trim_end_matches(')').split_once(" (on ").unwrap_or((part, ""));
            let names: Vec<_> = names.split(',').map(str::trim).collect();
            for name in &names {
                let below = on.split(" and ").filter(|name| !name.is_empty()).chain(left.iter().copied());
                found.entry((*name).to_owned()).or_default().extend(below.map(str::to_owned));
            }
            left = names;
        }
    }
    // What is to the left of the left is to the left.
    for _ in 0..found.len() {
        let before = found.clone();
        for below in found.values_mut() {
            let further: Vec<_> = below.iter().filter_map(|name| before.get(name)).flatten().cloned().collect();
            below.extend(further);
        }
    }
    found
}

fn diagram(page: &str) -> impl Iterator<Item = &str> {
    section(page).lines().filter(|line| line.starts_with("    ") && line.contains("<-"))
}

fn diagram_problems(page: &str, code: &Permitted) -> Vec<String> {
    let drawn = drawn(diagram(page));
    let layers: BTreeSet<_> = drawn.keys().chain(code.keys()).collect();
    let wrong = layers.into_iter().filter(|layer| drawn.get(*layer) != code.get(*layer));
    wrong
        .map(|layer| {
            let (drawn, code) = (drawn.get(layer), code.get(layer));
            format!("{PAGE}: the arrows have {layer} import from {drawn:?}, LAYERS from {code:?}")
        })
        .collect()
}

fn table_problems(page: &str, code: &Permitted) -> Vec<String> {
    let mut rows: Vec<_> = section(page)
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(layer, _)| layer)
        .collect();
    rows.sort_unstable();
    let layers: Vec<_> = code.keys().map(String::as_str).collect();
    if rows == layers { Vec::new() } else { vec![format!("{PAGE}: the table has {rows:?}, LAYERS {layers:?}")] }
}

#[test]
fn the_documentation_draws_the_layers_as_they_are() {
    let page = fs::read_to_string(root().join(PAGE)).expect("the page on how it is built");
    let mut problems = diagram_problems(&page, &in_code());
    problems.extend(table_problems(&page, &in_code()));
    let line = diagram(&page).next().unwrap_or_default().trim();
    if !fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs").contains(&format!("`{line}`")) {
        problems.push(format!("src/lib.rs: the documentation of the crate does not say {line}"));
    }
    none(problems);
}

#[test]
fn the_diagram_rule_finds_what_it_looks_for() {
    let page =
        |arrows: &str, rows: &str| format!("# A\n\n## Layers\n{arrows}\n| layer |\n|---|\n{rows}\n## B\n| `z` | |\n");
    let code: Permitted = [("a", ""), ("b", "a"), ("c", "a"), ("d", "abc"), ("e", "a"), ("f", "abcde")]
        .map(|(layer, below)| (layer.to_owned(), below.chars().map(String::from).collect()))
        .into();
    let arrows = |page: &str| diagram_problems(page, &code).len();
    let right = "    a <- b, c <- d <- f\n         e (on a) <- f\n";
    assert_eq!(arrows(&page(right, "")), 0);
    assert_eq!(arrows(&page("    a <- b, c <- d <- f\n", "")), 2, "e is missing, and f imports from it");
    assert_eq!(arrows(&page(&right.replace("b, c", "b <- c"), "")), 1, "c would import from b");
    assert_eq!(arrows(&page(&right.replace("on a", "on a and b"), "")), 1, "e would import from b");
    assert_eq!(arrows(&page(&right.replace("<- f\n  ", "<- f <- g\n  "), "")), 1, "there is no g");
    assert_eq!(arrows(""), 6);
    let rows = |layers: [&str; 6]| {
        table_problems(&page("", &layers.map(|layer| format!("| `{layer}` | |")).join("\n")), &code)
    };
    assert_eq!(rows(["a", "b", "e", "c", "d", "f"]), [""; 0]);
    assert_eq!(rows(["a", "b", "c", "d", "e", "e"]).len(), 1);
    assert_eq!(rows(["a", "b", "c", "d", "e", "g"]).len(), 1);
}
