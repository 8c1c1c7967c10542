//! The config file: TOML, its tables flattened to dotted names. Unknown names are errors with a suggestion.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{NAMES, Origin, Sourced};

/// A config file that was read; the default is an empty one.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    text: String,
    table: Table,
}

/// Reads a config file.
pub(super) fn read(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: the config cannot be read: {error}"))?;
    parse(path, text)
}

pub(super) fn parse(path: &Path, text: String) -> Result<File, String> {
    let parsed: Table = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    let mut table = Table::new();
    flatten("", parsed, &mut table);
    let file = File { path: path.to_owned(), text, table };
    for name in file.table.keys() {
        if !NAMES.contains(&name.as_str()) {
            let hint = match nearest(name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are: {}", NAMES.join(", ")),
            };
            return Err(format!("{}: `{name}` is not a setting; {hint}", file.origin(name)));
        }
    }
    Ok(file)
}

/// Writes `amp.verify` where the file has `verify` in the table `amp`.
fn flatten(prefix: &str, from: Table, to: &mut Table) {
    for (name, value) in from {
        let name = format!("{prefix}{name}");
        match value {
            Value::Table(table) => flatten(&format!("{name}."), table, to),
            value => drop(to.insert(name, value)),
        }
    }
}

impl File {
    fn origin(&self, name: &str) -> Origin {
        let line_of = |name: &str| {
            self.text.lines().position(|line| {
                let line = line.trim_start().trim_start_matches(['"', '\'', '[']);
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '=', '"', '\'', '\t', '.', ']']))
            })
        };
        // In a table of its own it stands under its last name.
        let last = name.rsplit('.').next().unwrap_or(name);
        let line = line_of(name).or_else(|| line_of(last));
        Origin::File(self.path.clone(), line.map_or(1, |line| line + 1))
    }

    fn wrong(&self, name: &str, want: &str) -> String {
        format!("{}: `{name}` must be {want}", self.origin(name))
    }

    /// A text; whole numbers and booleans count as the text that writes them.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<Sourced<String>>, String> {
        let value = match self.table.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Integer(number)) => number.to_string(),
            Some(_) => return Err(self.wrong(name, "a text in quotes")),
        };
        Ok(Some(Sourced { value, origin: self.origin(name) }))
    }

    /// A list of texts, or one.
    pub(super) fn list(&self, name: &'static str) -> Result<Option<Sourced<Vec<String>>>, String> {
        let Some(Value::Array(array)) = self.table.get(name) else {
            return Ok(self.text(name)?.map(|Sourced { value, origin }| Sourced { value: vec![value], origin }));
        };
        let texts: Option<Vec<String>> = array.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        let value = texts.ok_or_else(|| self.wrong(name, "a list of texts in quotes"))?;
        Ok(Some(Sourced { value, origin: self.origin(name) }))
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<Option<Sourced<bool>>, String> {
        match self.table.get(name) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(Sourced { value: *value, origin: self.origin(name) })),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }
}

/// The known name that is nearest, if one is near enough to be what was meant.
fn nearest(name: &str) -> Option<&'static str> {
    let near = NAMES.into_iter().map(|known| (distance(&name.replace('-', "_"), known), known)).min()?;
    (near.0 <= 1 + name.len() / 3).then_some(near.1)
}

/// Edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
