//! `amp-relay keys`: who may sign in. Changes the keys file, and tells the relay that runs on it.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    out,
    reach::{ReachArgs, ask, default_data, reach},
    sessions::columns,
    settings::configured_path,
    text::clean_line,
};
use crate::{
    client::replace_file,
    relay::{
        Role,
        keys::{Entry, FILE_BYTES_MAX, KeySet, append_line, remove_by_fingerprint_or_comment},
    },
    wire::sign_in::did_of,
};

/// Name of the keys file in the data folder.
const KEYS_FILE_NAME: &str = "authorized_keys";
/// What a person at home wants of a phone: all but starting sessions.
const ROLE_DEFAULT: Role = Role::Approve;

/// Lists and changes who may sign in. A running relay follows at once.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  amp-relay keys add phone.pub                 see, prompt, and answer permission requests
  amp-relay keys add --role watch screen.pub   see only
  ssh laptop cat .ssh/id_ed25519.pub | amp-relay keys add -
  amp-relay keys remove SHA256:...             ends that key's connections")]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    verb: KeysVerb,
    /// The keys file [default: the configured one, or DATA/authorized_keys]
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
        /// What it may do, each including those before it: watch sees, drive prompts and interrupts, approve answers
        /// permission requests, spawn starts and stops sessions, admin does everything [default: approve]
        #[arg(long, value_parser = role)]
        role: Option<Role>,
    },
    /// Shut a key out, at once
    Remove {
        /// Its fingerprint, comment or DID
        name: String,
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

/// Runs the verb.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn run(args: &KeysArgs) -> Result<ExitCode, String> {
    let data = args.data.clone().map_or_else(default_data, Ok)?;
    let path = match &args.keys {
        Some(path) => path.clone(),
        None => configured_path("keys")?.unwrap_or_else(|| data.join(KEYS_FILE_NAME)),
    };
    match &args.verb {
        KeysVerb::Did { key } => {
            let own = data.join("client_key.pub");
            if key.is_none() && !own.exists() {
                return Err(format!(
                    "there is no {}: `amp-relay up` makes that key; or name one, `amp-relay keys did FILE.pub`",
                    own.display()
                ));
            }
            out::line(&did_of_text(&public_line(key.as_deref().unwrap_or(&own.to_string_lossy()))?)?)?;
        }
        KeysVerb::List { json } => list(&path, *json)?,
        KeysVerb::Add { key, role } => {
            let public = public_line(key)?;
            let granted = role.unwrap_or(ROLE_DEFAULT);
            let entry = edit(&path, |text| append_line(text, &public, granted).map_err(|error| error.to_string()))?;
            // The running relay is told before anything is printed: a reader that has gone ends the program.
            let told = tell(&data, &path);
            out::line(&format_args!("added {} as {} (line {})", describe(&entry), entry.role, entry.line))?;
            if role.is_none() {
                out::line(&format_args!(
                    "{granted}, the default, sees sessions, prompts, interrupts and answers permission requests; \
                     --role says otherwise"
                ))?;
            }
            out::line(&told?)?;
        }
        KeysVerb::Remove { name } => {
            let removed = edit(&path, |text| {
                remove_by_fingerprint_or_comment(text, name).map_err(|error| format!("{name}: {error}"))
            })?;
            let told = tell(&data, &path);
            for entry in &removed {
                out::line(&format_args!("removed {} (was {})", describe(entry), entry.role))?;
            }
            out::line(&told?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(entry: &Entry) -> String {
    let comment = clean_line(&entry.comment, 64);
    if comment.is_empty() { entry.fingerprint.to_string() } else { format!("{} {comment}", entry.fingerprint) }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("there is no keys file {}: `amp-relay up` makes one, --keys FILE names another", path.display())
        }
        _ => format!("keys file {}: {error}", path.display()),
    };
    let metadata = fs::metadata(path).map_err(cannot)?;
    if metadata.len() > FILE_BYTES_MAX as u64 {
        return Err(format!("keys file {} is larger than {FILE_BYTES_MAX} bytes", path.display()));
    }
    fs::read(path).map_err(cannot)
}

fn list(path: &Path, as_json: bool) -> Result<(), String> {
    // As the relay reads it: a comment in another encoding does no harm.
    let set = KeySet::parse(&String::from_utf8_lossy(&read(path)?));
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
        return out::line(&json!({"entries": entries, "refused": refused}));
    }
    out::text(&table(&set))
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
    if !set.refused.is_empty() {
        text.push_str("\nRefused lines, without effect:\n");
        for refused in &set.refused {
            text.push_str(&format!("  line {}: {}\n", refused.line, clean_line(&refused.reason, 300)));
        }
    }
    text
}

/// What is put back must be what was there, byte for byte.
fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, String> {
    let why = "is not UTF-8 and is left as it is: save it as UTF-8, or change it in an editor";
    String::from_utf8(bytes).map_err(|_| format!("keys file {} {why}", path.display()))
}

/// What was given as a key: a line, a file, or standard input.
fn public_line(given: &str) -> Result<String, String> {
    let read_some = |reader: &mut dyn Read| {
        let mut text = String::new();
        reader.take(64 * 1024).read_to_string(&mut text).map(|_| text)
    };
    if given == "-" {
        return read_some(&mut io::stdin().lock()).map_err(|error| format!("standard input: {error}"));
    }
    if given.split_whitespace().count() >= 2 && !Path::new(given).exists() {
        return Ok(given.to_owned());
    }
    let mut file = fs::File::open(given)
        .map_err(|error| format!("`{given}` is neither a public key line nor a file that can be read ({error})"))?;
    read_some(&mut file).map_err(|error| format!("{given}: {error}"))
}

/// The DID of a public key line, or of a private key file's public half, which is not encrypted.
fn did_of_text(text: &str) -> Result<String, String> {
    let key = match ssh_key::PrivateKey::from_openssh(text) {
        Ok(private) => private.public_key().clone(),
        Err(_) => ssh_key::PublicKey::from_openssh(text.trim())
            .map_err(|error| format!("this is not an OpenSSH key ({error}): name a .pub file"))?,
    };
    did_of(&key).ok_or_else(|| {
        format!(
            "this key is {}, and only an Ed25519 key is a DID: `ssh-keygen -t ed25519` makes one",
            key.algorithm().as_str()
        )
    })
}

/// Reads, changes and replaces the file, one program at a time. Its mode stays; a new file gets 0600.
fn edit<T>(path: &Path, change: impl FnOnce(&str) -> Result<(String, T), String>) -> Result<T, String> {
    let io_error = |error: io::Error| format!("keys file {}: {error}", path.display());
    // A symbolic link stays one: what it points to is replaced.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = real.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lock = fs::File::open(folder).map_err(io_error)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|error| io_error(error.into()))?;
    let (text, mode) = match fs::metadata(&real) {
        Ok(metadata) => (utf8(read(&real)?, &real)?, Some(metadata.permissions())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), None),
        Err(error) => return Err(io_error(error)),
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
    let socket = data.join("relay.sock");
    if std::os::unix::net::UnixStream::connect(&socket).is_err() {
        return Ok("no relay runs on this data folder; the next one will read it".into());
    }
    let args = ReachArgs { data: Some(data.to_owned()), ..ReachArgs::default() };
    let told = reach(&args, None, "command line").and_then(|mut reached| {
        let reply = ask(&mut reached.connection, json!({"type": "keys", "op": "reload"}))?;
        reached.connection.writer().close();
        Ok(reply)
    });
    let reply = match told {
        Ok(reply) => reply,
        Err(error) => {
            return Ok(format!(
                "the running relay was not told ({error}); if it reads this file, it looks at it within a second"
            ));
        }
    };
    if let Some(read) = reply.fields.get("file").and_then(Value::as_str)
        && fs::canonicalize(path).is_ok_and(|ours| fs::canonicalize(read).is_ok_and(|theirs| theirs != ours))
    {
        return Err(format!(
            "the relay that runs on {} reads another keys file, so nothing has changed for it: name that one with \
             --keys {read}",
            data.display()
        ));
    }
    let count = |name| reply.fields.get(name).and_then(Value::as_u64).unwrap_or_default();
    Ok(match count("refused") {
        0 => format!("in force in the running relay: {} keys", count("entries")),
        refused => format!("in force in the running relay: {} keys, {refused} lines refused", count("entries")),
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
        let add =
            |path: &Path| edit(path, |text| append_line(text, KEY, Role::Watch).map_err(|error| error.to_string()));
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
    fn a_file_in_another_encoding_is_listed_and_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("keys");
        let bytes = [KEY.as_bytes(), b" J\xfcrgen\n"].concat();
        fs::write(&path, &bytes).unwrap();
        list(&path, false).unwrap();
        let refused = edit(&path, |_| Ok((String::new(), ()))).unwrap_err();
        assert!(refused.contains("save it as UTF-8"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn keys_come_as_lines_and_files() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("id.pub");
        fs::write(&path, format!("{KEY} a@b\n")).unwrap();
        assert_eq!(public_line(path.to_str().unwrap()).unwrap(), format!("{KEY} a@b\n"));
        assert_eq!(public_line(KEY).unwrap(), KEY);
        assert!(public_line("nonsense").unwrap_err().contains("neither"));
    }

    #[test]
    fn a_keys_did_is_told() {
        let private =
            ssh_key::PrivateKey::new(ssh_key::private::Ed25519Keypair::from_seed(&[1; 32]).into(), "c").unwrap();
        let did = did_of_text(&private.public_key().to_openssh().unwrap()).unwrap();
        assert!(did.starts_with("did:key:z6Mk"), "{did}");
        assert_eq!(did_of_text(&private.to_openssh(ssh_key::LineEnding::LF).unwrap()), Ok(did));
        let other = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGsX0fLhLEJH+Lzm5WOkQPJ3A32\
                     BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU=";
        assert!(did_of_text(other).unwrap_err().contains("only an Ed25519 key"), "{:?}", did_of_text(other));
        assert!(did_of_text("nonsense").unwrap_err().contains(".pub"));
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
