//! `amp-relay keys`: the keys that may sign in. Changes the keys file, and tells the relay that runs on it.

use std::{
    borrow::Cow,
    fs,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    kept::Kept,
    out,
    reach::{
        ReachArgs, ask, data_flag, default_data, is_same, keys_flags, keys_of_next, listens, program, reach,
        with_commands,
    },
    sessions::columns,
    settings::configured_path,
    text::{self as cli_text, clean_line, path_line, shell_quoted, ticked},
};
use crate::{
    base::{
        file,
        glyph::{is_hidden, visible},
        text,
    },
    client::replace_file,
    relay::{
        Role,
        keys::{
            EditError, Entry, KEYS_FILE_BYTES_MAX, KeySet, append_line, key_line, line_for,
            remove_by_fingerprint_or_comment,
        },
    },
    server::DataFolder,
    wire::sign_in::{KEY_FILE_BYTES_MAX, NoKey, did_of, private_key},
};

/// What a person at home wants of a phone: all but starting sessions.
const ROLE_DEFAULT: Role = Role::Approve;

/// Lists and changes who may sign in. A running relay follows at once.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  amp-relay keys add phone.pub                 see, prompt, and answer permission requests
  amp-relay keys add --role watch screen.pub   see only
  amp-relay keys add --comment anna id.pub     under a name that you choose
  ssh laptop cat .ssh/id_ed25519.pub | amp-relay keys add -
  amp-relay keys remove SHA256:...             ends that key's connections")]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    verb: KeysVerb,
    /// The keys file [default: the one that the running relay reads, else the configured one, or DATA/authorized_keys]
    #[arg(long, value_name = "FILE", env = "AMP_RELAY_KEYS", global = true)]
    keys: Option<PathBuf>,
    /// Data folder of the relay [default: the configured one, or $XDG_STATE_HOME/amp-relay]
    #[arg(long, value_name = "DIR", env = "AMP_RELAY_DATA", global = true)]
    data: Option<PathBuf>,
}

#[derive(Subcommand, Clone, Debug)]
enum KeysVerb {
    /// Show the keys, and the lines that are refused
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a key in
    Add {
        /// A public key line, a .pub file, or - for standard input
        key: String,
        /// What it may do; each role also has the rights of the roles before it: agent exchanges messages with agents
        /// and sees nothing of sessions, watch sees them, drive prompts and interrupts, approve answers permission
        /// requests, spawn starts and stops sessions, admin does everything [default: approve]
        #[arg(long, value_parser = role)]
        role: Option<Role>,
        /// The name that people see for it [default: the key's own comment]
        #[arg(long, value_name = "NAME", value_parser = name)]
        comment: Option<String>,
    },
    /// Shut a key out, at once
    Remove {
        /// Its fingerprint, comment or DID
        name: String,
        /// Do not ask before this machine's own key is shut out
        #[arg(long)]
        yes: bool,
    },
    /// Print the DID of an Ed25519 key: its name among agents
    Did {
        /// A key line, a key file, or - for standard input [default: DATA/client_key.pub]
        key: Option<String>,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| "roles are agent, watch, drive, approve, spawn and admin".into())
}

fn name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() || name.chars().any(is_hidden) {
        return Err("a name has characters that can be seen, in one line".into());
    }
    Ok(name.to_owned())
}

/// Runs the verb.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn run(args: &KeysArgs) -> Result<ExitCode, String> {
    if args.keys.is_none() {
        // Said before the data folder is found in spite of it.
        configured_path("keys")?.1.map_or(Ok(()), Err)?;
    }
    let data = args.data.clone().map_or_else(default_data, Ok)?;
    carry_out(args, &data).map_err(|error| args.hinted(&data, &error))?;
    Ok(ExitCode::SUCCESS)
}

fn carry_out(args: &KeysArgs, data: &Path) -> Result<(), String> {
    let file = || match &args.keys {
        Some(path) => Ok(path.clone()),
        None => keys_of_next(data).map(|next| of_relay(data, next)),
    };
    match &args.verb {
        KeysVerb::Did { key } => did(key.as_deref(), data)?,
        KeysVerb::List { json } => list(&file()?, *json, |text| args.hinted(data, text))?,
        KeysVerb::Add { key, role, comment } => {
            let path = file()?;
            let text = given_text(key)?;
            let mut public = key_line(&text, &named(key)).map_err(|why| of(key, &why))?.to_owned();
            let granted = role.unwrap_or(ROLE_DEFAULT);
            if let Some(comment) = comment {
                public = renamed(&public, granted, comment).map_err(|why| of(key, &why))?;
            }
            let entry = edit(&path, true, |text| {
                let (changed, entry) = append_line(text, &public, granted).map_err(|error| match error {
                    EditError::Unusable(_) => of(key, &error.to_string()),
                    other => other.to_string(),
                })?;
                match of_same_name(&entry, &KeySet::parse(text)) {
                    Some(other) => Err(taken(&entry, other, &named(key))),
                    None => Ok((changed, entry)),
                }
            })?;
            // The running relay is told before anything is printed: a reader that has gone ends the program.
            let told = tell(data, &path);
            out::line(&format_args!("added {} as {} (line {})", describe(&entry), entry.role, entry.line))?;
            if role.is_none() {
                out::line(&format_args!(
                    "{granted}, the default, sees sessions, prompts, interrupts and answers permission requests; \
                     --role says otherwise"
                ))?;
            }
            out::line(&told?)?;
        }
        KeysVerb::Remove { name, yes } => {
            let path = file()?;
            let removed = edit(&path, false, |text| {
                let (changed, removed) = remove_by_fingerprint_or_comment(text, name)
                    .map_err(|error| format!("{}: {error}", visible(name)))?;
                if !yes {
                    may_go(&removed, data, &path)?;
                }
                Ok((changed, removed))
            })?;
            let told = tell(data, &path);
            for entry in &removed {
                out::line(&format_args!("removed {} (was {})", describe(entry), entry.role))?;
            }
            out::line(&told?)?;
        }
    }
    Ok(())
}

impl KeysArgs {
    /// A text of ours with the options of this call in each command that it names, so that what is typed next changes the
    /// same file.
    fn hinted(&self, data: &Path, text: &str) -> String {
        let file = self.keys.as_ref().map(|file| format!(" --keys {}", shell_quoted(&file.to_string_lossy())));
        with_commands(text, |words| {
            let mut typed = format!("`{} {words}", program());
            for option in [Some(data_flag(data)), file.clone().filter(|_| words.starts_with("keys "))] {
                typed.push_str(option.as_deref().filter(|option| !words.contains(option)).unwrap_or_default());
            }
            typed + "`"
        })
    }
}

fn did(key: Option<&str>, data: &Path) -> Result<(), String> {
    let own = data.join("client_key.pub");
    if key.is_none() && !own.exists() {
        return Err(format!(
            "there is no {}: {}",
            path_line(&own),
            ReachArgs::of(data).hinted("`amp-relay up` makes that key; or name one, `amp-relay keys did FILE.pub`")
        ));
    }
    let own = own.to_string_lossy();
    let given = key.unwrap_or(&own);
    let did = did_of_text(&given_text(given)?, &named(given)).map_err(|why| of(given, &why))?;
    out::line(&did)
}

/// The keys file that the relay reads which runs on the data folder, else that of the next one. Says which it is where
/// that is not to be expected.
fn of_relay(data: &Path, next: PathBuf) -> PathBuf {
    let Some(read) = Kept::keys_of_running(data).filter(|read| !is_same(read, &next)) else { return next };
    out::note(&format_args!("the keys file is {}, which the running relay reads", path_line(&read)));
    read
}

/// A public key line with another comment.
fn renamed(public: &str, role: Role, comment: &str) -> Result<String, String> {
    let (_, entry) = line_for(public, role).map_err(|error| error.to_string())?;
    let key = ssh_key::PublicKey::new(entry.key.key_data().clone(), "");
    let line = key.to_openssh().map_err(|error| error.to_string())?;
    Ok(format!("{} {comment}", line.trim_end()))
}

/// What people read of a comment, as far as it tells names apart.
fn as_read(comment: &str) -> String {
    cli_text::name(comment).to_lowercase()
}

/// Another key with a comment that reads the same.
fn of_same_name<'a>(entry: &Entry, set: &'a KeySet) -> Option<&'a Entry> {
    let name = as_read(&entry.comment);
    let is_same = |other: &&Entry| other.fingerprint != entry.fingerprint && as_read(&other.comment) == name;
    set.entries.iter().filter(|_| !name.is_empty()).find(is_same)
}

/// A key's line, and the name that tells it apart from a key with the same comment: the name of its file is added. None
/// where its own comment tells it apart.
///
/// # Errors
/// It is no public key.
pub(super) fn told_apart(
    public: &str,
    role: Role,
    set: &KeySet,
    file: &Path,
) -> Result<Option<(String, String)>, String> {
    let (_, entry) = line_for(public, role).map_err(|error| error.to_string())?;
    if of_same_name(&entry, set).is_none() {
        return Ok(None);
    }
    let stem = clean_line(&file.file_stem().unwrap_or_default().to_string_lossy(), 32);
    let comment = clean_line(&entry.comment, 24);
    let numbered = (2..).map(|number| format!("{comment} {stem} {number}"));
    for name in std::iter::once(format!("{comment} {stem}")).chain(numbered) {
        let (line, entry) = line_for(&renamed(public, role, name.trim())?, role).map_err(|error| error.to_string())?;
        if of_same_name(&entry, set).is_none() {
            return Ok(Some((line, name)));
        }
    }
    Ok(None)
}

fn taken(entry: &Entry, other: &Entry, file: &str) -> String {
    format!(
        "nothing was added: {} has the comment {}, which the key in line {}, {}, has too, and people tell keys apart by \
         it. `amp-relay keys add --role {} --comment NAME {file}` adds it under a name of its own",
        entry.fingerprint,
        ticked(&clean_line(&entry.comment, 64)),
        other.line,
        other.fingerprint,
        entry.role
    )
}

/// Asks before this machine's own key is removed: its verbs sign in with that key.
///
/// # Errors
/// The answer is no, or there is no terminal to ask on.
fn may_go(removed: &[Entry], data: &Path, path: &Path) -> Result<(), String> {
    let own = data.join("client_key.pub");
    let read = file::read(&own, KEY_FILE_BYTES_MAX).ok();
    let Some(key) = read.and_then(|bytes| ssh_key::PublicKey::from_openssh(text::of_file(&bytes).trim()).ok()) else {
        return Ok(());
    };
    if !removed.iter().any(|entry| entry.key.key_data() == key.key_data()) {
        return Ok(());
    }
    let what = format!(
        "this is this machine's own key: without it `amp-relay up`, `attach`, `down` and the others find no key here \
         that signs in, unless another one is listed. {} lists it again",
        keys_flags(data, Some(path.to_owned())).adding(&own)
    );
    let asked = io::stdin().is_terminal() && io::stderr().is_terminal();
    match asked.then(|| out::agreed(&format_args!("{what}.\nRemove it? [y/N] "))) {
        Some(true) => Ok(()),
        Some(false) => Err("nothing was removed".into()),
        None => Err(format!("nothing was removed: {what}; --yes removes it without a question")),
    }
}

/// A key as it is named to people.
fn describe(entry: &Entry) -> String {
    let comment = clean_line(&entry.comment, 64);
    if comment.is_empty() { entry.fingerprint.to_string() } else { format!("{} {comment}", entry.fingerprint) }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "there is no keys file {}: `amp-relay up` and `amp-relay serve` make one, --keys FILE names another",
                path_line(path)
            )
        }
        _ => format!("keys file {}: {error}", path_line(path)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    file::read(path, KEYS_FILE_BYTES_MAX as u64).map_err(|error| unreadable(path, &error))
}

fn list(path: &Path, as_json: bool, hinted: impl Fn(&str) -> String) -> Result<(), String> {
    // As the relay reads it: a comment in another encoding does no harm.
    let set = KeySet::parse(&text::of_file(&read(path)?));
    if as_json {
        let entries: Vec<Value> = set
            .entries
            .iter()
            .map(|entry| {
                json!({
                    "line": entry.line, "role": entry.role.name(), "type": entry.key.algorithm().as_str(),
                    "fingerprint": &*entry.fingerprint, "comment": &*entry.comment,
                })
            })
            .collect();
        let refused: Vec<Value> =
            set.refused.iter().map(|refused| json!({"line": refused.line, "reason": refused.reason})).collect();
        return out::json(&json!({"entries": entries, "refused": refused}));
    }
    out::text(&hinted(&table(&set)))
}

fn table(set: &KeySet) -> String {
    let head = ["LINE", "ROLE", "TYPE", "FINGERPRINT", "COMMENT"].map(str::to_owned);
    let row = |entry: &Entry| {
        [
            entry.line.to_string(),
            entry.role.to_string(),
            entry.key.algorithm().as_str().to_owned(),
            entry.fingerprint.to_string(),
            clean_line(&entry.comment, 64),
        ]
    };
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(set.entries.iter().map(row)).collect();
    let mut text = columns(&rows);
    for entry in &set.entries {
        if let Some(first) = of_same_name(entry, set).filter(|other| other.line < entry.line) {
            text.push_str(&format!(
                "\nLine {} has the comment of line {}: people see one name for both keys. `amp-relay keys remove {}`, then \
                 `amp-relay keys add --role {} --comment NAME FILE.pub`, gives it its own.\n",
                entry.line, first.line, entry.fingerprint, entry.role
            ));
        }
    }
    if !set.refused.is_empty() {
        text.push_str("\nRefused lines, without effect:\n");
        for refused in &set.refused {
            text.push_str(&format!("  line {}: {}\n", refused.line, clean_line(&plain(&refused.reason), 300)));
        }
    }
    text
}

/// What is put back must be what was there, byte for byte.
fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, String> {
    let why = "is not UTF-8 and is left as it is: save it as UTF-8, or change it in an editor";
    String::from_utf8(bytes).map_err(|_| format!("keys file {} {why}", path_line(path)))
}

/// What was given as a key: a line, a file, or standard input.
fn given_text(given: &str) -> Result<String, String> {
    let read_some = |name: &str, reader: &mut dyn Read| {
        let mut bytes = Vec::new();
        reader.take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
        if bytes.len() as u64 > KEY_FILE_BYTES_MAX {
            return Err(format!(
                "{name} is larger than {KEY_FILE_BYTES_MAX} bytes, so it is no public key: name a .pub file"
            ));
        }
        Ok(text::of_file(&bytes).into_owned())
    };
    if given == "-" {
        return read_some("standard input", &mut io::stdin().lock());
    }
    if given.split_whitespace().count() >= 2 && !Path::new(given).exists() {
        return Ok(given.to_owned());
    }
    let shown = path_line(Path::new(given));
    let mut file = file::open(Path::new(given)).map_err(|error| {
        format!("{} is neither a public key line nor a file that can be read ({error})", ticked(&shown))
    })?;
    read_some(&shown, &mut file)
}

/// What is wrong with what was given as a key, by its name where that is not the key itself.
fn of(given: &str, why: &str) -> String {
    let why = plain(why);
    match given {
        "-" => format!("standard input: {why}"),
        file if Path::new(file).exists() => format!("{}: {why}", path_line(Path::new(file))),
        _ => why.into_owned(),
    }
}

/// Why a key is refused, without the words of the library that reads keys.
fn plain(why: &str) -> Cow<'_, str> {
    if !why.starts_with("the key cannot be read (") {
        return why.into();
    }
    "the key cannot be read: its text is cut or damaged, or is that of another type. Copy the whole line of its .pub file \
     again; `amp-relay keys add FILE.pub` takes that file as it is"
        .into()
}

/// What was given as a key, as a command names it.
fn named(given: &str) -> String {
    if given != "-" && Path::new(given).exists() { shell_quoted(given) } else { "FILE".into() }
}

/// The DID of a public key line, or of a private key file's public half, which is not encrypted. `file` is its name in a
/// command.
fn did_of_text(text: &str, file: &str) -> Result<String, String> {
    let key = match private_key(text.as_bytes()) {
        Ok(private) => private.public_key().clone(),
        Err(NoKey::Empty) => return Err("there is no key in it: name a .pub file".into()),
        Err(_) => line_for(key_line(text, file)?, ROLE_DEFAULT).map_err(|error| error.to_string())?.1.key,
    };
    did_of(&key).ok_or_else(|| {
        format!(
            "this key is {}, and only an Ed25519 key is a DID: `ssh-keygen -t ed25519` makes one",
            key.algorithm().as_str()
        )
    })
}

/// Reads, changes and replaces the file, one program at a time. Its mode stays; a new file, which only `makes` allows, gets
/// 0600.
fn edit<T>(path: &Path, makes: bool, change: impl FnOnce(&str) -> Result<(String, T), String>) -> Result<T, String> {
    let io_error = |error: io::Error| format!("keys file {}: {error}", path_line(path));
    // A symbolic link stays one: what it points to is replaced.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = real.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lock = fs::File::open(folder).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "there is no folder for the keys file {}: `amp-relay up` and `amp-relay serve` make one, --keys FILE names another",
                path_line(path)
            )
        }
        _ => io_error(error),
    })?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|error| io_error(error.into()))?;
    let (text, mode) = match fs::metadata(&real) {
        Ok(metadata) => (utf8(read(&real)?, &real)?, Some(metadata.permissions())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && makes => (String::new(), None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let (changed, done) = change(&text)?;
    replace_file(&real, changed.as_bytes(), mode).map_err(io_error)?;
    Ok(done)
}

/// Tells the relay that runs on the data folder, and says when the change is in force.
///
/// # Errors
/// That relay reads another keys file: for it nothing has changed.
fn tell(data: &Path, path: &Path) -> Result<String, String> {
    if !listens(data) && !DataFolder::is_held(data) {
        return Ok("no relay runs on this data folder; the next one will read it".into());
    }
    let args = ReachArgs::of(data);
    let told = reach(&args, None, "command line").and_then(|mut reached| {
        let reply = ask(&mut reached.connection, json!({"type": "keys", "op": "reload"}))?;
        reached.connection.writer().close();
        Ok(reply)
    });
    let of_other = |read: &Path| {
        format!(
            "the relay that runs on {} reads another keys file, so nothing has changed for it: name that one with \
             --keys {}",
            path_line(data),
            shell_quoted(&read.to_string_lossy())
        )
    };
    let reply = match (told, Kept::keys_of_running(data)) {
        (Ok(reply), _) => reply,
        (Err(_), Some(read)) if !is_same(&read, path) => return Err(of_other(&read)),
        // Why it was not told may be what this very change mends.
        (Err(_), Some(_)) => return Ok("the running relay reads this file, and looks at it within a second".into()),
        (Err(error), None) => {
            return Ok(format!(
                "the running relay was not told, and which keys file it reads is not known here; if it is this one, it \
                 looks at it within a second. Why:\n  {error}"
            ));
        }
    };
    let read = reply.fields.get("file").and_then(Value::as_str).map(Path::new);
    if let Some(read) = read.filter(|read| path.exists() && read.exists() && !is_same(read, path)) {
        return Err(of_other(read));
    }
    let count = |name| reply.fields.get(name).and_then(Value::as_u64).unwrap_or_default();
    let keys = cli_text::counted(count("entries"), "key");
    Ok(match count("refused") {
        0 => format!("in force in the running relay: {keys}"),
        refused => format!("in force in the running relay: {keys}, {} refused", cli_text::counted(refused, "line")),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn a_file_is_changed_in_its_place_and_mode() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, link) = (scratch.path().join("real"), scratch.path().join("keys"));
        symlink(&path, &link).unwrap();
        let add = |path: &Path| {
            edit(path, true, |text| append_line(text, KEY, Role::Watch).map_err(|error| error.to_string()))
        };
        // The link dangles: the first edit goes to the link's own name, as no target is there to be kept.
        fs::write(&path, "# mine\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(add(&link).unwrap().line, 2);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(add(&link).unwrap_err().contains("line 2"));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# mine\namp-role=\"watch\" {KEY}\n"));
        let new = scratch.path().join("new");
        add(&new).unwrap();
        assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 3, "no temporary file is left");
    }

    #[test]
    fn only_a_file_that_is_not_there_is_made_and_only_where_that_is_wanted() {
        let scratch = tempfile::tempdir().unwrap();
        let (missing, round) = (scratch.path().join("missing"), scratch.path().join("round"));
        symlink(&round, &round).unwrap();
        let changed = |path: &Path, makes| edit(path, makes, |_| Ok(("# new\n".into(), ())));
        assert!(changed(&missing, false).unwrap_err().contains("there is no keys file") && !missing.exists());
        // What is there and cannot be read may hold keys.
        assert!(changed(&round, true).is_err() && fs::symlink_metadata(&round).unwrap().is_symlink());
        changed(&missing, true).unwrap();
        assert_eq!(fs::read_to_string(&missing).unwrap(), "# new\n");
    }

    #[test]
    fn a_file_in_another_encoding_is_listed_and_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("keys");
        let bytes = [KEY.as_bytes(), b" J\xfcrgen\n"].concat();
        fs::write(&path, &bytes).unwrap();
        list(&path, false, str::to_owned).unwrap();
        let refused = edit(&path, true, |_| Ok((String::new(), ()))).unwrap_err();
        assert!(refused.contains("save it as UTF-8"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn keys_come_as_lines_and_files() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("id.pub");
        fs::write(&path, format!("{KEY} a@b\n")).unwrap();
        assert_eq!(given_text(path.to_str().unwrap()).unwrap(), format!("{KEY} a@b\n"));
        assert_eq!(given_text(KEY).unwrap(), KEY);
        assert!(given_text("nonsense").unwrap_err().contains("neither"));
        // What is wrong is said of the file, by its name in a command; a line that was pasted has none.
        let file = path.to_str().unwrap();
        assert_eq!((of(file, "why"), named(file)), (format!("{file}: why"), file.to_owned()));
        assert_eq!((of(KEY, "why"), named(KEY)), ("why".into(), "FILE".into()));
        assert_eq!((of("-", "why"), named("-")), ("standard input: why".into(), "FILE".into()));
        for (more, fits) in [(0, true), (1, false)] {
            let text = format!("{KEY}{}", " ".repeat(KEY_FILE_BYTES_MAX as usize - KEY.len() + more));
            fs::write(&path, text).unwrap();
            assert_eq!(given_text(file).is_ok(), fits, "{more} bytes more than may be");
        }
    }

    #[test]
    fn a_keys_did_is_told() {
        let private =
            ssh_key::PrivateKey::new(ssh_key::private::Ed25519Keypair::from_seed(&[1; 32]).into(), "c").unwrap();
        let did = did_of_text(&private.public_key().to_openssh().unwrap(), "FILE").unwrap();
        assert!(did.starts_with("did:key:z6Mk"), "{did}");
        assert_eq!(did_of_text(&private.to_openssh(ssh_key::LineEnding::LF).unwrap(), "FILE"), Ok(did));
        let other = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGsX0fLhLEJH+Lzm5WOkQPJ3A32\
                     BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU=";
        assert!(
            did_of_text(other, "FILE").unwrap_err().contains("only an Ed25519 key"),
            "{:?}",
            did_of_text(other, "FILE")
        );
        assert!(did_of_text("nonsense", "FILE").unwrap_err().contains(".pub"));
    }

    #[test]
    fn two_keys_of_one_name_are_told_apart() {
        let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
        let set = KeySet::parse(&format!("{KEY} anna\n"));
        let same = line_for(&format!("{other} Anna "), Role::Watch).unwrap().1;
        let found = of_same_name(&same, &set).expect("a name that reads the same");
        let said = taken(&same, found, "FILE.pub");
        assert!(said.contains("line 1") && said.contains("--role watch --comment NAME FILE.pub"), "{said}");
        let own = renamed(&format!("{other} anna"), Role::Watch, "bert").unwrap();
        assert_eq!(own, format!("{other} bert"));
        assert!(of_same_name(&line_for(&own, Role::Watch).unwrap().1, &set).is_none());
        assert!(of_same_name(&line_for(other, Role::Watch).unwrap().1, &KeySet::parse(KEY)).is_none(), "no names");
        // A name that is taken already is numbered.
        let told = |set: &KeySet| {
            let third = ssh_key::private::Ed25519Keypair::from_seed(&[2; 32]);
            let third = ssh_key::PrivateKey::new(third.into(), "anna").unwrap().public_key().to_openssh().unwrap();
            let found = told_apart(&third, Role::Watch, set, Path::new("/home/u/.ssh/id.pub")).unwrap();
            found.map(|(_, name)| name)
        };
        let taken = KeySet::parse(&format!("{KEY} anna\n{other} anna id\n"));
        assert_eq!([&set, &taken].map(told), [Some("anna id".to_owned()), Some("anna id 2".to_owned())]);
        assert_eq!(told(&KeySet::default()), None);
        let listed = table(&KeySet::parse(&format!("{KEY} anna\n{other} anna\n")));
        assert_eq!(listed.matches("has the comment of line").count(), 1, "{listed}");
        assert!(listed.contains("Line 2 has the comment of line 1"), "{listed}");
        assert!(name("a\nb").is_err() && name(" ").is_err() && name(" a b ").unwrap() == "a b");
    }

    #[test]
    fn the_list_shows_keys_and_refusals() {
        let text = table(&KeySet::parse(&format!("amp-role=\"drive\" {KEY} a\x1b@b\nno-pty {KEY}\n")));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("LINE  ROLE   TYPE         FINGERPRINT"));
        assert!(lines[1].starts_with("1     drive  ssh-ed25519  SHA256:") && lines[1].ends_with("  a@b"));
        assert!(lines[4].starts_with("  line 2: option `no-pty` is not implemented"), "{text}");
    }
}
