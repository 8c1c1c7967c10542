//! The data folder: lock, host key, client key, keys file, socket path. Owns what lies in it and with which rights; it
//! must not decide who may do what.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};

/// What keeps a data folder from being used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another relay holds the lock.
    #[error(
        "{folder} is in use by another amp-relay (process {pid}). Attach to it with `amp-relay attach`, or give this one a folder of its own with --data DIR"
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// Its process, as far as the lock file says.
        pid: String,
    },
    /// It is a folder like /tmp, which closing to others would break.
    #[error("{0} is shared by all users (its sticky bit is set). Name a folder of the relay's own with --data DIR")]
    Shared(PathBuf),
    /// The system refused something.
    #[error("{path}: {what}: {source}")]
    Io {
        /// About which path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// A key file does not hold a key we can use.
    #[error("{path}: {why}. Move it away to have a new one made")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    move |source| DataError::Io { path, what, source }
}

/// A data folder that is ours alone until this value is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder if it is not there (0700) and takes its lock.
    ///
    /// # Errors
    /// Another relay holds it, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path, "cannot be made"))?;
        let mode = fs::metadata(path).map_err(io_error(path, "cannot be read"))?.mode();
        if mode & 0o1000 != 0 {
            return Err(DataError::Shared(path.to_owned()));
        }
        if mode & 0o077 != 0 {
            let ours = Permissions::from_mode(0o700);
            fs::set_permissions(path, ours).map_err(io_error(path, "cannot be closed to others (0700)"))?;
        }
        let lock = path.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&lock).map_err(io_error(&lock, "cannot be opened"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut pid);
            return Err(DataError::InUse { folder: path.to_owned(), pid: pid.trim().to_owned() });
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(io_error(&lock, "cannot be written"))?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// The relay's own key: made at the first call.
    ///
    /// # Errors
    /// It cannot be read or made, or is not an unencrypted Ed25519 key.
    pub fn host_key(&self) -> Result<PrivateKey, DataError> {
        let path = self.path.join("host_key");
        let key = ensure_key(&path, "amp-relay host key")?;
        if key.algorithm() != Algorithm::Ed25519 {
            return Err(DataError::Key { path, why: "the host key must be an Ed25519 key".into() });
        }
        Ok(key)
    }

    /// The key that `attach` on this machine signs in with: made at the first call.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn client_key(&self) -> Result<PrivateKey, DataError> {
        ensure_key(&self.path.join("client_key"), "amp-relay client key")
    }

    /// The Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("relay.sock")
    }

    /// Writes `lines` as the keys file if there is none. True: it was written.
    ///
    /// # Errors
    /// The system refuses.
    pub fn ensure_keys_file(&self, path: &Path, lines: &[String]) -> Result<bool, DataError> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(io_error(parent, "cannot be made"))?;
        }
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(io_error(path, "the keys file cannot be made")(error)),
        };
        let head = "# Keys that may sign in to this relay: authorized_keys form, amp-role=\"agent|watch|drive|approve|spawn|admin\".\n";
        let text = lines.iter().fold(head.to_owned(), |text, line| text + line + "\n");
        file.write_all(text.as_bytes()).map_err(io_error(path, "the keys file cannot be written"))?;
        Ok(true)
    }
}

/// Reads a private key, or makes an Ed25519 one with its public half beside it.
fn ensure_key(path: &Path, comment: &str) -> Result<PrivateKey, DataError> {
    let bad = |why: String| DataError::Key { path: path.to_owned(), why };
    match fs::read_to_string(path) {
        Ok(text) => {
            let key =
                PrivateKey::from_openssh(&text).map_err(|error| bad(format!("not an OpenSSH private key: {error}")))?;
            if key.is_encrypted() {
                return Err(bad("the key is encrypted, and the relay cannot ask for a passphrase".into()));
            }
            return Ok(key);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(path, "cannot be read")(error)),
    }
    let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)
        .map_err(|error| bad(format!("no key could be made: {error}")))?;
    key.set_comment(comment);
    let text = key.to_openssh(LineEnding::LF).map_err(|error| bad(format!("no key could be written: {error}")))?;
    let public = key.public_key().to_openssh().map_err(|error| bad(format!("no key could be written: {error}")))?;
    // Written whole under another name first: a stop in between leaves no half key behind.
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh).map_err(io_error(&fresh, "cannot be made"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error(&fresh, "cannot be written"))?;
    fs::rename(&fresh, path).map_err(io_error(path, "cannot be put in place"))?;
    let beside = path.with_extension("pub");
    fs::write(&beside, public + "\n").map_err(io_error(&beside, "cannot be written"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_private_and_held_by_one() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("a/b");
        let folder = DataFolder::open(&path).expect("a fresh folder");
        assert_eq!(fs::metadata(&path).expect("made").mode() & 0o777, 0o700);
        let error = DataFolder::open(&path).expect_err("it is held").to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("amp-relay attach"), "{error}");
        drop(folder);
        DataFolder::open(&path).expect("it is free again");
    }

    #[test]
    fn a_folder_of_all_users_stays_as_it_is() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o1777)).expect("ours");
        let error = DataFolder::open(scratch.path()).expect_err("it is shared").to_string();
        assert!(error.contains("--data DIR"), "{error}");
        assert_eq!(fs::metadata(scratch.path()).expect("there").mode() & 0o7777, 0o1777);
    }

    #[test]
    fn keys_are_made_once_with_private_rights() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let folder = DataFolder::open(scratch.path()).expect("a folder");
        let made = folder.host_key().expect("made");
        let read = folder.host_key().expect("read");
        assert_eq!(made.public_key(), read.public_key());
        let path = scratch.path().join("host_key");
        assert_eq!(fs::metadata(&path).expect("made").mode() & 0o777, 0o600);
        fs::write(&path, "nonsense").expect("written");
        assert!(folder.host_key().expect_err("not a key").to_string().contains("Move it away"));
    }

    #[test]
    fn a_keys_file_that_is_there_is_left_alone() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let folder = DataFolder::open(scratch.path()).expect("a folder");
        let path = scratch.path().join("authorized_keys");
        assert!(folder.ensure_keys_file(&path, &["one".into()]).expect("made"));
        assert!(!folder.ensure_keys_file(&path, &["two".into()]).expect("left"));
        assert!(fs::read_to_string(&path).expect("read").ends_with("\none\n"));
    }
}
