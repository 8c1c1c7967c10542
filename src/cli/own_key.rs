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
