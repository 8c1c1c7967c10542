//! What to do about this machine's own key, the data folder's `client_key`, where it does not sign in.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::text::shell_quoted;
use crate::{
    base::file,
    wire::sign_in::{KEY_FILE_BYTES_MAX, NoKey, private_key},
};

/// How a key is added to the keys file of the relay that runs.
pub(super) struct KeysFlags {
    /// What names the data folder in a command, where nothing else does.
    pub data: String,
    /// The keys file that the relay reads, where that is known.
    pub file: Option<PathBuf>,
    /// Whether `keys` uses that file without being told.
    pub is_usual: bool,
}

impl KeysFlags {
    /// The command that adds this public key as admin.
    pub(super) fn adding(&self, public: &Path) -> String {
        let file = match &self.file {
            Some(_) if self.is_usual => String::new(),
            Some(file) => format!(" --keys {}", shell_quoted(&file.to_string_lossy())),
            None => " --keys FILE".into(),
        };
        format!("`amp-relay keys add --role admin {}{}{file}`", shell_quoted(&public.to_string_lossy()), self.data)
    }

    /// What stands for a file that is not known.
    fn which(&self) -> &'static str {
        match self.file {
            Some(_) => "",
            None => {
                " if FILE is the keys file that the relay was started with, which is not known here (by its --keys, \
                 AMP_RELAY_KEYS or config, or authorized_keys in its data folder)"
            }
        }
    }
}

/// What to do about this machine's own key, as far as that is plain. `is_unknown`: the relay said that its keys file does
/// not have it; in all other cases listing it again would change nothing.
pub(super) fn advice(own: &Path, keys: &KeysFlags, is_unknown: bool) -> Option<String> {
    let path = shell_quoted(&own.to_string_lossy());
    let (add, which) = (keys.adding(&own.with_extension("pub")), keys.which());
    let make = format!("`ssh-keygen -q -t ed25519 -N '' -f {path}` makes a new one, and {add} lets it in{which}");
    if is_unknown {
        return Some(format!("{add} lets this machine's own key in again{which}; --key FILE chooses another one"));
    }
    // A link to nothing is in the way of a new key.
    let is_missing = fs::symlink_metadata(own).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if is_missing {
        return Some(format!("this machine's own key, {path}, is missing: {make}; --key FILE chooses another one"));
    }
    match unusable(own)? {
        Unusable::Open => Some(format!(
            "others may read this machine's own key: `chmod 600 {path}` makes it one that can be used again"
        )),
        Unusable::Broken => {
            Some(format!("this machine's own key is broken: after `rm {path}`, {make}; --key FILE chooses another one"))
        }
        Unusable::NoFile => {
            let aside = shell_quoted(&format!("{}.old", own.to_string_lossy()));
            Some(format!(
                "this machine's own key is broken, as {path} is no file: after `mv {path} {aside}`, {make}; --key FILE \
                 chooses another one"
            ))
        }
    }
}

/// Why the file of a key cannot be used.
enum Unusable {
    /// Others may read it.
    Open,
    /// It holds no key.
    Broken,
    /// There is something else in its place.
    NoFile,
}

/// Whether the file of a key is there and cannot be used.
pub(super) fn is_unusable(key: &Path) -> bool {
    unusable(key).is_some()
}

fn unusable(key: &Path) -> Option<Unusable> {
    fs::symlink_metadata(key).ok()?;
    let metadata = match fs::metadata(key) {
        Ok(metadata) => metadata,
        // What it points to may be a key, and another matter.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        Err(_) => return Some(Unusable::NoFile),
    };
    if !metadata.is_file() {
        return Some(Unusable::NoFile);
    }
    let read = match file::read(key, KEY_FILE_BYTES_MAX) {
        Ok(bytes) => private_key(&bytes),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Some(Unusable::Broken),
        Err(_) => return None,
    };
    // To close a file that holds no secret mends nothing.
    match read {
        Err(NoKey::Empty | NoKey::Other) => Some(Unusable::Broken),
        _ if metadata.permissions().mode() & 0o077 != 0 => Some(Unusable::Open),
        Err(_) => Some(Unusable::Broken),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{OpenOptionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_key_that_cannot_be_used_is_told_from_one_that_is_missing() {
        let scratch = tempfile::tempdir().unwrap();
        let place = |name: &str| scratch.path().join(name);
        let written = |name: &str, mode: u32, text: &[u8]| {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(place(name)).unwrap();
            io::Write::write_all(&mut file, text).unwrap();
        };
        let key = ssh_key::PrivateKey::new(ssh_key::private::Ed25519Keypair::from_seed(&[1; 32]).into(), "c").unwrap();
        let key = key.to_openssh(ssh_key::LineEnding::LF).unwrap();
        let large = vec![b'x'; KEY_FILE_BYTES_MAX as usize + 1];
        fs::create_dir(place("folder")).unwrap();
        symlink("/no/such/file", place("dangling")).unwrap();
        symlink(place("fine"), place("link")).unwrap();
        for (name, mode, text) in [
            ("fine", 0o600, key.as_bytes()),
            ("open", 0o644, key.as_bytes()),
            ("group", 0o640, key.as_bytes()),
            ("empty", 0o600, b""),
            ("junk", 0o644, b"junk"),
            ("large", 0o600, &large),
        ] {
            written(name, mode, text);
        }
        let flags = KeysFlags { data: String::new(), file: Some("/keys".into()), is_usual: true };
        let said = |name: &str, is_unknown| advice(&place(name), &flags, is_unknown).unwrap_or_default();
        for (name, unusable, what) in [
            ("fine", false, ""),
            ("link", false, ""),
            ("missing", false, "is missing: `ssh-keygen"),
            ("open", true, "`chmod 600 "),
            ("group", true, "`chmod 600 "),
            ("empty", true, "is broken: after `rm "),
            ("junk", true, "is broken: after `rm "),
            ("large", true, "is broken: after `rm "),
            ("folder", true, "is no file: after `mv "),
            ("dangling", true, "is no file: after `mv "),
        ] {
            assert_eq!(is_unusable(&place(name)), unusable, "{name}");
            let told = said(name, false);
            assert!(told.contains(what) && told.is_empty() == what.is_empty(), "{name}: {told}");
            assert!(said(name, true).contains("lets this machine's own key in again"), "{name}");
        }
    }

    #[test]
    fn the_keys_file_is_named_in_a_command_where_keys_would_use_another() {
        let add = |file: Option<&str>, is_usual| {
            let flags = KeysFlags { data: " --data /d".into(), file: file.map(PathBuf::from), is_usual };
            (flags.adding(Path::new("/k.pub")), !flags.which().is_empty())
        };
        let command = |more: &str| format!("`amp-relay keys add --role admin /k.pub --data /d{more}`");
        assert_eq!(add(Some("/a b"), true), (command(""), false));
        assert_eq!(add(Some("/a b"), false), (command(" --keys '/a b'"), false));
        assert_eq!(
            [true, false].map(|is_usual| add(None, is_usual)),
            [(); 2].map(|()| (command(" --keys FILE"), true))
        );
    }
}
