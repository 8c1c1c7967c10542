//! The keys file: OpenSSH's `authorized_keys` form, with a role for each key. Pure text: the shell reads, watches and
//! writes the file. A line that is refused is reported with its number and never keeps the others from working.

use std::{borrow::Cow, collections::HashMap, fmt::Write as _};

use base64::{Engine, engine::general_purpose::STANDARD};
use ssh_key::{
    PublicKey,
    public::{Ed25519PublicKey, KeyData},
};

use crate::{
    base::glyph::is_hidden,
    relay::{
        Role,
        api::{Caller, Code, Error, Text, Verb},
    },
    wire::sign_in::{did_of, fingerprint, usable},
};

/// Largest keys file that is read, in bytes: over a hundred thousand keys.
pub const KEYS_FILE_BYTES_MAX: usize = 16 << 20;
/// Longest comment kept, in characters.
const COMMENT_CHARS_MAX: usize = 256;
/// Said of a line that has options at the most.
const NO_KEY: &str = "there is no key (expected: [options] type base64 [comment])";
/// The text of a file without any key left: a file of no bytes may be one that is being written.
const LEFT_EMPTY: &str = "# No key may sign in; `amp-relay keys add` lets one in.\n";
/// Why what a principal had under way is ended.
const REVOKED: &str = "the key was revoked";
const BOM: char = '\u{feff}';

/// What the keys file holds.
#[derive(Debug)]
pub struct KeysFound {
    /// Its path.
    pub file: Text,
    /// Keys in force.
    pub entries: usize,
    /// Lines that are not.
    pub refused: usize,
}

/// A key that may sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: PublicKey,
    /// What it may do.
    pub role: Role,
    /// The principal: `SHA256:...`.
    pub fingerprint: Text,
    /// The comment, without characters that cannot be seen.
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
    by_principal: HashMap<Text, usize>,
}

impl KeySet {
    /// Reads a whole file. What cannot be used is in [`Self::refused`].
    pub fn parse(text: &str) -> Self {
        let mut set = Self::default();
        if text.len() > KEYS_FILE_BYTES_MAX {
            let reason = format!("the file is larger than {KEYS_FILE_BYTES_MAX} bytes and is not read");
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
        self.by_principal.insert(entry.fingerprint.clone(), self.entries.len());
        self.entries.push(entry);
        Ok(())
    }

    /// The entry of a key.
    pub fn lookup(&self, key: &PublicKey) -> Option<&Entry> {
        self.by_key.get(key.key_data()).and_then(|at| self.entries.get(*at))
    }

    /// The entry of a principal (`SHA256:...`).
    pub fn principal(&self, fingerprint: &str) -> Option<&Entry> {
        self.by_principal.get(fingerprint).and_then(|at| self.entries.get(*at))
    }

    /// The caller with what is left to it of its role.
    ///
    /// # Errors
    /// `KEY_NOT_AUTHORIZED`, for good: its key is gone.
    pub fn limit<'a>(&self, caller: &'a Caller) -> Result<Cow<'a, Caller>, Error> {
        match self.principal(&caller.principal) {
            None => Err(Error { recoverable: false, ..Error::new(Code::KeyNotAuthorized, REVOKED) }),
            Some(entry) if entry.role < caller.role => Ok(Cow::Owned(Caller { role: entry.role, ..caller.clone() })),
            Some(_) => Ok(Cow::Borrowed(caller)),
        }
    }

    /// Why a principal may not do this, if so: what it asked for is then not carried out.
    pub fn lost(&self, principal: &str, verb: Verb) -> Option<&'static str> {
        match self.principal(principal) {
            None => Some(REVOKED),
            Some(entry) if verb.is_open_to(entry.role) => None,
            Some(_) => Some("the key may do less now"),
        }
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
        return Err(NO_KEY.into());
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
    Err(if quoted { "a quote is not closed".into() } else { NO_KEY.into() })
}

impl Parts<'_> {
    fn entry(&self, line: usize) -> Result<Entry, String> {
        let role = role_of(self.options)?;
        let key = self.key()?;
        usable(&key).map_err(str::to_owned)?;
        Ok(Entry { fingerprint: fingerprint(&key).into(), key, role, comment: comment(self.comment), line })
    }

    fn key(&self) -> Result<PublicKey, String> {
        // Several blanks may stand between type and key; the reader wants one.
        let mut words = self.key.split_ascii_whitespace();
        let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if kind.ends_with("-cert-v01@openssh.com") {
            return Err("certificates are not supported: add the key's own line, that of its .pub file".into());
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
    #[error(
        "this key stands in line {line} already, with role {role}; to change its role remove it first: `amp-relay keys \
         remove {fingerprint}`"
    )]
    Present {
        /// Where.
        line: usize,
        /// With which role.
        role: Role,
        /// The key.
        fingerprint: Text,
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
    #[error("the keys file would be larger than {KEYS_FILE_BYTES_MAX} bytes")]
    TooLarge,
}

/// The error for a text that is no line of a key and has none of the forms below.
const NO_LINE: &str = "this is not an OpenSSH line (expected: type base64 [comment], as in FILE.pub)";
/// Other forms of a public key: how each begins, and what tells `ssh-keygen -i` that it is one.
const OTHER_FORMS: [(&str, &str); 3] = [
    ("---- BEGIN SSH2 PUBLIC KEY ----", ""),
    ("-----BEGIN PUBLIC KEY-----", " -m PKCS8"),
    ("-----BEGIN RSA PUBLIC KEY-----", " -m PEM"),
];
/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 form (RFC 8410 section 4).
const ED25519_INFO: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The line of the one key in a text, a `.pub` file as a rule; comments and blank lines do not count. `file` is its
/// name in a command.
///
/// # Errors
/// There is no key in it, there are several, or it has another form: then how to make a line of it.
pub fn key_line<'a>(text: &'a str, file: &str) -> Result<&'a str, String> {
    if text.contains("PRIVATE KEY") {
        return Err("this is a private key; give the public one (FILE.pub)".into());
    }
    let lines = text.trim_start_matches(BOM).split(['\n', '\r']).map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for (begin, form) in OTHER_FORMS {
        let Some(at) = lines.iter().position(|line| line.starts_with(begin)) else { continue };
        return Err(match ed25519_line(&lines[at + 1..]) {
            Some(line) => format!("this is not an OpenSSH line; as one, the key is `{line}`"),
            None => format!("this is not an OpenSSH line; `ssh-keygen -i{form} -f {file}` makes one"),
        });
    }
    match lines[..] {
        [] => Err("there is no key in it".into()),
        [line] => Ok(line),
        _ => {
            match lines.iter().filter(|line| matches!(split_line(line), Ok(Some(parts)) if parts.key().is_ok())).count()
            {
                0 | 1 => Err(NO_LINE.into()),
                keys => Err(format!("these are {keys} keys; add them one by one")),
            }
        }
    }
}

/// The OpenSSH line of an Ed25519 key in PKCS #8 form, given its lines behind the first: not every `ssh-keygen` reads
/// that form.
fn ed25519_line(pem: &[&str]) -> Option<String> {
    let base64: String = pem.iter().take_while(|line| !line.starts_with('-')).copied().collect();
    let der = STANDARD.decode(base64).ok()?;
    let key = der.strip_prefix(&ED25519_INFO)?.try_into().ok()?;
    PublicKey::from(Ed25519PublicKey(key)).to_openssh().ok().map(|line| line.trim_end().to_owned())
}

/// A line for a key, with its role written out. `public` has one key, as an OpenSSH public key line without options.
///
/// # Errors
/// It is no such line, or the key cannot sign in.
pub fn line_for(public: &str, role: Role) -> Result<(String, Entry), EditError> {
    let public = key_line(public, "FILE").map_err(EditError::Unusable)?;
    let Ok(Some(parts)) = split_line(public) else { return Err(EditError::Unusable(NO_LINE.into())) };
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
        let Entry { line, role, fingerprint, .. } = present.clone();
        return Err(EditError::Present { line, role, fingerprint });
    }
    let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut changed = String::with_capacity(text.len() + line.len() + 2);
    changed.push_str(text);
    if !text.is_empty() && !text.ends_with('\n') {
        changed.push_str(ending);
    }
    changed.push_str(&line);
    changed.push_str(ending);
    if changed.len() > KEYS_FILE_BYTES_MAX {
        return Err(EditError::TooLarge);
    }
    entry.line = lines(&changed).count();
    Ok((changed, entry))
}

/// The file without a key, named by fingerprint, DID or comment; every byte of the other lines stays, and the file is
/// never empty. All lines that hold the key go, those without effect too: else a second line would come into force by
/// the removal. A comment counts only where no key has that name: a comment may repeat another key's name.
///
/// # Errors
/// No key, or more than one, has that name.
pub fn remove_by_fingerprint_or_comment(text: &str, name: &str) -> Result<(String, Vec<Entry>), EditError> {
    let set = KeySet::parse(text);
    let name = name.trim();
    let all = |fits: &dyn Fn(&Entry) -> bool| set.entries.iter().filter(|entry| fits(entry)).collect::<Vec<_>>();
    let mut named = all(&|entry| is_key(entry, name));
    if named.is_empty() {
        let name = comment(name);
        named = all(&|entry| !name.is_empty() && *entry.comment == *name);
    }
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
    if changed.is_empty() {
        changed.push_str(LEFT_EMPTY);
    }
    Ok((changed, vec![chosen.clone()]))
}

/// Whether this is the key's own name, which no other key can have.
fn is_key(entry: &Entry, name: &str) -> bool {
    &*entry.fingerprint == name
        || entry.fingerprint.strip_prefix("SHA256:") == Some(name)
        || did_of(&entry.key).as_deref() == Some(name)
}

/// A comment as it is kept and shown to others: nothing hides in it, so that no two look the same.
fn comment(text: &str) -> Text {
    text.chars().filter(|c| !is_hidden(*c)).take(COMMENT_CHARS_MAX).collect::<String>().into()
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
