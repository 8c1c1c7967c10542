//! The config file: TOML, its tables flattened to dotted names. Unknown names are errors with a suggestion.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{NAMES, Origin, Sourced, shortened};
use crate::base::{
    file,
    text::{self, path_line, quoted},
};

/// A config file that was read; the default is an empty one.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    text: String,
    table: Table,
}

/// Largest config file that is read: what it is to say takes a few lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest line that a refusal repeats.
const LINE_BYTES_MAX: usize = 200;

/// Reads a config file.
pub(super) fn read(path: &Path) -> Result<File, String> {
    parse(path, text_of(path)?)
}

/// Reads a config file for one of its settings: what is wrong with it elsewhere comes beside it.
///
/// # Errors
/// It cannot be read, or not at all while it seems to have the setting.
pub(super) fn read_for(path: &Path, name: &str) -> Result<(File, Option<String>), String> {
    let text = text_of(path)?;
    let says = text.lines().any(|line| line.trim_start().trim_start_matches(['"', '\'']).starts_with(name));
    match tabled(path, text) {
        Ok(file) => {
            let wrong = file.known().err();
            Ok((file, wrong))
        }
        Err(why) if says => Err(why),
        Err(why) => Ok((File::default(), Some(why))),
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    let cannot = |why: &dyn Display| format!("{}: the config cannot be read: {why}", path_line(path));
    let bytes = file::read(path, FILE_BYTES_MAX).map_err(|error| cannot(&error))?;
    let text = text::of_file(&bytes);
    // U+FFFD may stand in the file itself; where it stands for other bytes, a path would not be the one that was meant.
    if text.contains(char::REPLACEMENT_CHARACTER) && std::str::from_utf8(&bytes).is_err() {
        return Err(cannot(&"it is neither UTF-8 nor UTF-16 with a byte order mark: save it as UTF-8"));
    }
    Ok(text.into_owned())
}

pub(super) fn parse(path: &Path, text: String) -> Result<File, String> {
    let file = tabled(path, text)?;
    file.known()?;
    Ok(file)
}

fn tabled(path: &Path, text: String) -> Result<File, String> {
    let parsed: Table = text.parse().map_err(|error| unreadable(path, &text, &error))?;
    let mut table = Table::new();
    flatten("", parsed, &mut table);
    Ok(File { path: path.to_owned(), text, table })
}

/// Why a text is no TOML. The reader's own words repeat the whole line, however long it is.
fn unreadable(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or_default();
    let line = text.lines().nth(before.matches('\n').count()).unwrap_or_default();
    if line.len() <= LINE_BYTES_MAX {
        let shown = error.to_string();
        let place = shown.trim_end().strip_suffix(error.message()).unwrap_or(&shown);
        return format!("{}: {place}{}", path_line(path), plain(error.message(), line));
    }
    let number = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let why = shortened(plain(error.message(), line));
    format!(
        "{}:{number}: {why} (at character {column} of the line, which begins with {})",
        path_line(path),
        quoted(line)
    )
}

/// What the reader of TOML says of a line, where its own words are those of a grammar.
fn plain<'a>(message: &'a str, line: &str) -> &'a str {
    let value = line.split_once('=').map(|(_, value)| value.trim_start());
    // A text without quotes is read as what it begins like.
    let unquoted = [
        "string values must be quoted",
        "invalid float",
        "invalid boolean",
        "invalid integer",
        "invalid date",
        "invalid time",
    ];
    match message {
        _ if unquoted.iter().any(|begin| message.starts_with(begin)) => match value {
            Some(value) if value.is_empty() || value.starts_with('#') => {
                "this setting has no value: write one behind the `=`, or remove the line"
            }
            _ => "this is neither a number nor true nor false, and a text stands in quotes",
        },
        "key with no value, expected `=`" => "this is a name without a value: a setting is NAME = VALUE",
        _ if message.starts_with("invalid basic string, expected `\"`") => "a quote is not closed",
        _ => message,
    }
}

/// Writes `amp.verify` where the file has `verify` in the table `amp`.
fn flatten(prefix: &str, from: Table, to: &mut Table) {
    for (name, value) in from {
        let name = format!("{prefix}{name}");
        match value {
            // An empty one would vanish, and its name unchecked with it.
            Value::Table(table) if !table.is_empty() => flatten(&format!("{name}."), table, to),
            value => drop(to.insert(name, value)),
        }
    }
}

impl File {
    /// Whether each name is that of a setting.
    fn known(&self) -> Result<(), String> {
        let is_known = |name: &str, value: &Value| {
            let is_table_of = |known: &str| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
            NAMES.contains(&name) || value.is_table() && NAMES.into_iter().any(is_table_of)
        };
        let Some((name, _)) = self.table.iter().find(|(name, value)| !is_known(name, value)) else { return Ok(()) };
        let hint = match nearest(name, NAMES.into_iter()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known are: {}", NAMES.join(", ")),
        };
        Err(format!("{}: `{}` is not a setting; {hint}", self.origin(name), shortened(name)))
    }

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

    /// A text; whole numbers count as the text that writes them. Others do not: what stands in the file, `10.10` for
    /// instance, is not kept.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<Sourced<String>>, String> {
        let value = match self.table.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Integer(number)) => number.to_string(),
            Some(_) => return Err(self.wrong(name, unquoted(name))),
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

/// What a setting has to be where its text is not in quotes.
fn unquoted(name: &str) -> &'static str {
    match name {
        "grace" | "ws.ping" => "a whole number of seconds, or a time in quotes like \"500ms\" or \"5m\"",
        "workers" => "a whole number",
        _ => "a text in quotes",
    }
}

/// The known name that is nearest, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|known| (distance(&name.replace('-', "_"), known), known)).min()?;
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
