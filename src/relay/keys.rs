//! The keys file: OpenSSH's `authorized_keys` form, with a role for each key. Pure text: the shell reads, watches and
//! writes the file. A line that is refused is reported with its number and never keeps the others from working.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use ssh_key::{PublicKey, public::KeyData};

use crate::{
    relay::{Role, api::Text},
    wire::sign_in::{did_of, fingerprint, usable},
};

/// Largest keys file that is read, in bytes: over a hundred thousand keys.
pub const FILE_BYTES_MAX: usize = 16 << 20;
/// Longest comment kept, in characters.
const COMMENT_CHARS_MAX: usize = 256;
const BOM: char = '\u{feff}';

/// A key that may sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: PublicKey,
    /// What it may do.
    pub role: Role,
    /// The principal: `SHA256:...`.
    pub fingerprint: Text,
    /// The comment, without control characters.
    pub comment: Text,
    /// Where it stands, from 1.
    pub line: usize,
}

/// A line that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where it stands, from 1.
    pub line: usize,
    /// Why, for people.
    pub reason: String,
}

/// The keys of one file.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    /// The keys in force, in the file's order.
    pub entries: Vec<Entry>,
    /// The lines that are not.
    pub refused: Vec<Refused>,
    by_key: HashMap<KeyData, usize>,
}

impl KeySet {
    /// Reads a whole file. What cannot be used is in [`Self::refused`].
    pub fn parse(text: &str) -> Self {
        let mut set = Self::default();
        if text.len() > FILE_BYTES_MAX {
            let reason = format!("the file is larger than {FILE_BYTES_MAX} bytes and is not read");
            set.refused.push(Refused { line: 1, reason });
            return set;
        }
        for (at, raw) in lines(text).enumerate() {
            let line = at + 1;
            let added = match split_line(raw.text) {
                Ok(None) => continue,
                Ok(Some(parts)) => parts.entry(line).and_then(|entry| set.add(entry)),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = added {
                set.refused.push(Refused { line, reason });
            }
        }
        set
    }

    fn add(&mut self, entry: Entry) -> Result<(), String> {
        if let Some(first) = self.by_key.get(entry.key.key_data()).and_then(|at| self.entries.get(*at)) {
            return Err(format!("the same key stands in line {} already, which is the one in force", first.line));
        }
        self.by_key.insert(entry.key.key_data().clone(), self.entries.len());
        self.entries.push(entry);
        Ok(())
    }

    /// The entry of a key.
    pub fn lookup(&self, key: &PublicKey) -> Option<&Entry> {
        self.by_key.get(key.key_data()).and_then(|at| self.entries.get(*at))
    }

    /// The entry of a principal (`SHA256:...`).
    pub fn principal(&self, fingerprint: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| &*entry.fingerprint == fingerprint)
    }
}

/// One line with its ending.
struct Line<'a> {
    text: &'a str,
    whole: &'a str,
}

/// Lines with what ends them, so that the file can be put together again byte for byte.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.split_inclusive('\n').map(|whole| {
        let text = whole.trim_end_matches(['\n', '\r']);
        Line { text: text.strip_prefix(BOM).unwrap_or(text), whole }
    })
}

/// A line taken apart; the parts are judged later.
struct Parts<'a> {
    options: &'a str,
    key: &'a str,
    comment: &'a str,
}

/// Takes a line apart; `None` for blank lines and comments.
fn split_line(line: &str) -> Result<Option<Parts<'_>>, String> {
    let line = line.trim_matches([' ', '\t']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (options, rest) = if starts_with_key(line) { ("", line) } else { line.split_at(options_end(line)?) };
    let rest = rest.trim_start_matches([' ', '\t']);
    let kind_end = rest.find([' ', '\t']).unwrap_or(rest.len());
    let blob_start = rest[kind_end..].find(|c| c != ' ' && c != '\t').map_or(rest.len(), |at| kind_end + at);
    let blob_end = rest[blob_start..].find([' ', '\t']).map_or(rest.len(), |at| blob_start + at);
    if blob_start == rest.len() {
        return Err("there is no key (expected: [options] type base64 [comment])".into());
    }
    let (key, comment) = rest.split_at(blob_end);
    Ok(Some(Parts { options, key, comment: comment.trim_matches([' ', '\t']) }))
}

/// Key types have names that no option has.
fn starts_with_key(line: &str) -> bool {
    let word = line.split([' ', '\t', '=', ',', '"']).next().unwrap_or_default();
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|prefix| word.starts_with(prefix))
}

/// Where the options end: at the first blank outside of quotes. `\"` inside quotes is a quote of the value.
fn options_end(line: &str) -> Result<usize, String> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return Ok(at),
            _ => {}
        }
    }
    Err(if quoted { "a quote is not closed".into() } else { "there is no key behind the options".into() })
}

impl Parts<'_> {
    fn entry(&self, line: usize) -> Result<Entry, String> {
        let role = role_of(self.options)?;
        let key = self.key()?;
        usable(&key).map_err(str::to_owned)?;
        let comment: String = self.comment.chars().filter(|c| !c.is_control()).take(COMMENT_CHARS_MAX).collect();
        Ok(Entry { fingerprint: fingerprint(&key).into(), key, role, comment: Arc::from(comment), line })
    }

    fn key(&self) -> Result<PublicKey, String> {
        // Several blanks may stand between type and key; the reader wants one.
        let mut words = self.key.split_ascii_whitespace();
        let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if kind.ends_with("-cert-v01@openssh.com") {
            return Err("certificates are not supported: use the plain public key".into());
        }
        PublicKey::from_openssh(&format!("{kind} {blob}")).map_err(|error| format!("the key cannot be read ({error})"))
    }
}

/// What the options say. Without any: admin, as `authorized_keys` means it.
fn role_of(options: &str) -> Result<Role, String> {
    if options.is_empty() {
        return Ok(Role::Admin);
    }
    let (mut restrict, mut said, mut seen) = (false, None, Vec::new());
    for option in split_options(options)? {
        let name = option.name.to_ascii_lowercase();
        if seen.contains(&name) {
            return Err(format!("option `{name}` stands there twice"));
        }
        match (name.as_str(), option.value) {
            ("restrict", None) => restrict = true,
            ("amp-role", Some(value)) => {
                let role = Role::from_name(&value).ok_or_else(|| {
                    format!(
                        "amp-role=\"{}\" is no role (agent, watch, drive, approve, spawn, admin)",
                        value.escape_debug()
                    )
                })?;
                said = Some(role);
            }
            ("restrict", Some(_)) => return Err("option `restrict` takes no value".into()),
            ("amp-role", None) => return Err("option `amp-role` needs a value, as in amp-role=\"watch\"".into()),
            _ => {
                return Err(format!(
                    "option `{}` is not implemented (known are `restrict` and `amp-role=`); the line stays without effect \
                     rather than meaning less than it says",
                    name.escape_debug()
                ));
            }
        }
        seen.push(name);
    }
    Ok(said.unwrap_or(if restrict { Role::Watch } else { Role::Admin }))
}

struct KeyOption<'a> {
    name: &'a str,
    value: Option<String>,
}

fn split_options(options: &str) -> Result<Vec<KeyOption<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = options;
    loop {
        let end = rest.find(['=', ',', '"']).unwrap_or(rest.len());
        let (name, more) = rest.split_at(end);
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'@' | b'.'))
        {
            return Err("the options cannot be read (expected: name or name=\"value\", with commas between)".into());
        }
        let (value, more) = match more.strip_prefix('=') {
            None => (None, more),
            Some(more) => {
                let (value, more) =
                    quoted(more).ok_or_else(|| format!("the value of option `{name}` must stand in double quotes"))?;
                (Some(value), more)
            }
        };
        found.push(KeyOption { name, value });
        match more.strip_prefix(',') {
            Some(more) => rest = more,
            None if more.is_empty() => return Ok(found),
            None => return Err(format!("a comma is missing behind option `{name}`")),
        }
    }
}

/// A quoted value and what follows it. Only `\"` is an escape, as in OpenSSH.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                value.push('"');
                chars.next();
            }
            _ => value.push(c),
        }
    }
    None
}

/// Why a keys file is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The key is there.
    #[error("this key stands in line {line} already, with role {role}; remove it first to change its role")]
    Present {
        /// Where.
        line: usize,
        /// With which role.
        role: Role,
    },
    /// The new line would be refused.
    #[error("{0}")]
    Unusable(String),
    /// Nothing has that name.
    #[error("no key has this fingerprint, comment or DID; `amp-relay keys list` shows them")]
    NotFound,
    /// Several have.
    #[error("{count} keys have this comment; name one by its fingerprint: {fingerprints}")]
    Ambiguous {
        /// How many.
        count: usize,
        /// Which.
        fingerprints: String,
    },
    /// No room.
    #[error("the keys file would be larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
}

/// A line for a key, with its role written out. `public` is an OpenSSH public key line without options.
///
/// # Errors
/// It is no such line, or the key cannot sign in.
pub fn line_for(public: &str, role: Role) -> Result<(String, Entry), EditError> {
    let public = public.trim();
    // First, as a private key has several lines.
    if public.contains("PRIVATE KEY") {
        return Err(EditError::Unusable("this is a private key; give the public one (FILE.pub)".into()));
    }
    if public.contains(['\n', '\r']) {
        return Err(EditError::Unusable("more than one line was given; add keys one by one".into()));
    }
    let parts = split_line(public).map_err(EditError::Unusable)?;
    let parts = parts.ok_or_else(|| EditError::Unusable("there is no key in it".into()))?;
    if !parts.options.is_empty() {
        return Err(EditError::Unusable("give the key without options; --role says what it may do".into()));
    }
    let mut entry = parts.entry(0).map_err(EditError::Unusable)?;
    entry.role = role;
    let key = entry.key.to_openssh().map_err(|error| EditError::Unusable(error.to_string()))?;
    let mut line = format!("amp-role=\"{role}\" {}", key.trim_end());
    if !entry.comment.is_empty() {
        let _ = write!(line, " {}", entry.comment);
    }
    Ok((line, entry))
}

/// The file with one more line at its end; every byte of the others stays.
///
/// # Errors
/// The key is there already (in force or not), or cannot sign in.
pub fn append_line(text: &str, public: &str, role: Role) -> Result<(String, Entry), EditError> {
    let (line, mut entry) = line_for(public, role)?;
    if let Some(present) = KeySet::parse(text).lookup(&entry.key) {
        return Err(EditError::Present { line: present.line, role: present.role });
    }
    let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut changed = String::with_capacity(text.len() + line.len() + 2);
    changed.push_str(text);
    if !text.is_empty() && !text.ends_with('\n') {
        changed.push_str(ending);
    }
    changed.push_str(&line);
    changed.push_str(ending);
    if changed.len() > FILE_BYTES_MAX {
        return Err(EditError::TooLarge);
    }
    entry.line = lines(&changed).count();
    Ok((changed, entry))
}

/// The file without a key, named by fingerprint, comment or DID; every byte of the other lines stays. All lines that
/// hold the key go, those without effect too: else a second line would come into force by the removal.
///
/// # Errors
/// No key, or more than one, has that name.
pub fn remove_by_fingerprint_or_comment(text: &str, name: &str) -> Result<(String, Vec<Entry>), EditError> {
    let set = KeySet::parse(text);
    let named: Vec<&Entry> = set.entries.iter().filter(|entry| is_named(entry, name)).collect();
    let chosen = match named.as_slice() {
        [] => return Err(EditError::NotFound),
        [one] => *one,
        several => {
            let fingerprints: Vec<&str> = several.iter().map(|entry| &*entry.fingerprint).collect();
            return Err(EditError::Ambiguous { count: several.len(), fingerprints: fingerprints.join(" ") });
        }
    };
    let mut changed = String::with_capacity(text.len());
    for line in lines(text) {
        let holds_it = matches!(split_line(line.text), Ok(Some(parts))
            if parts.key().is_ok_and(|key| key.key_data() == chosen.key.key_data()));
        if !holds_it {
            changed.push_str(line.whole);
        }
    }
    Ok((changed, vec![chosen.clone()]))
}

fn is_named(entry: &Entry, name: &str) -> bool {
    let name = name.trim();
    &*entry.fingerprint == name
        || entry.fingerprint.strip_prefix("SHA256:") == Some(name)
        || (!name.is_empty() && &*entry.comment == name)
        || did_of(&entry.key).as_deref() == Some(name)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
