//! The data folder: lock, host key, client key, keys file, socket path. Owns what lies in it and with which rights; it
//! must not decide what a principal may do.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        net::SocketAddr,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, OFlags, flock};
use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};

use crate::{
    base::{file, text::path_line},
    wire::sign_in::{KEY_FILE_BYTES_MAX, private_key},
};

/// How long the lock is waited for, since a process that is no relay may hold it for a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// What keeps a data folder from being used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another relay holds the lock.
    #[error(
        "{} is in use by another amp-relay (process {pid}). Attach to it with `amp-relay attach`, or give this one a folder of its own with --data DIR",
        path_line(folder)
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// Its process, as far as the lock file says.
        pid: String,
    },
    /// It is a folder like /tmp, which closing to others would break.
    #[error("{} is shared by all users (its sticky bit is set). Name a folder of the relay's own with --data DIR", path_line(.0))]
    Shared(PathBuf),
    /// It is open to others and holds what is not the relay's: a project, for instance.
    #[error(
        "{} is open to others and holds other files, and the relay would close it to all but you. Name a folder of the relay's own with --data DIR, or close this one with `chmod 700`",
        path_line(.0)
    )]
    Foreign(PathBuf),
    /// No socket can stand in it.
    #[error(
        "{} is too long a path: the system takes no socket of so long a name, and the relay's stands in it. Name a shorter one with --data DIR",
        path_line(.0)
    )]
    TooLong(PathBuf),
    /// The system refused something.
    #[error("{}: {what}: {source}", path_line(path))]
    Io {
        /// About which path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// A key file does not hold a key we can use.
    #[error("{}: {why}. Move it away to have a new one made", path_line(path))]
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

/// How a file of the data folder is opened: readable by its owner alone where it is made, and never through a link,
/// which could lead the relay to a file of another user's choice.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Takes the lock. A process that checks whether it is held, or makes the keys of a relay that is about to start, holds
/// it for a moment: that is waited for.
fn locked(file: &File) -> bool {
    let since = Instant::now();
    loop {
        let is_ours = flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_ours || since.elapsed() >= LOCK_PATIENCE {
            return is_ours;
        }
        thread::sleep(LOCK_PATIENCE / 50);
    }
}

/// A data folder that is ours alone until this value is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Name of the keys file in it, unless another one is named.
    pub const KEYS_FILE: &str = "authorized_keys";

    /// Makes the folder if it is not there (0700) and takes its lock.
    ///
    /// # Errors
    /// Another relay holds it, no socket can stand in it, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::takes_socket(path)?;
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path, "cannot be made"))?;
        if Self::usable(path)? {
            let ours = Permissions::from_mode(0o700);
            fs::set_permissions(path, ours).map_err(io_error(path, "cannot be closed to others (0700)"))?;
        }
        let lock = path.join("lock");
        let mut options = private();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&lock).map_err(io_error(&lock, "cannot be opened"))?;
        if !locked(&file) {
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

    /// Whether a folder would do, or none is there. True: it is open to others, and opening it closes it.
    ///
    /// # Errors
    /// It is shared by all users, or holds what is not the relay's, or no socket can stand in it.
    pub fn usable(path: &Path) -> Result<bool, DataError> {
        Self::takes_socket(path)?;
        let mode = match fs::metadata(path) {
            Ok(metadata) => metadata.mode(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io_error(path, "cannot be read")(error)),
        };
        if mode & 0o1000 != 0 {
            return Err(DataError::Shared(path.to_owned()));
        }
        let entries = fs::read_dir(path).map_err(io_error(path, "cannot be read as a folder"))?;
        if mode & 0o077 == 0 {
            return Ok(false);
        }
        // `keys add` may have been there before the first relay.
        let mut others =
            entries.filter(|entry| entry.as_ref().map_or(true, |entry| entry.file_name() != Self::KEYS_FILE));
        match others.next() {
            Some(_) if !Self::is_one(path) => Err(DataError::Foreign(path.to_owned())),
            _ => Ok(true),
        }
    }

    /// Whether new files can stand in the folder, or where it would be made: one is made there for a moment.
    ///
    /// # Errors
    /// The system refuses.
    pub fn takes_files(path: &Path) -> Result<(), DataError> {
        let there = path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        let probe = there.join(format!(".amp-relay-check-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&probe).and_then(|()| fs::remove_dir(&probe));
        made.map_err(io_error(there, if there == path { "takes no files" } else { "takes no folder" }))
    }

    fn takes_socket(path: &Path) -> Result<(), DataError> {
        let address = SocketAddr::from_pathname(Self::socket_of(path));
        address.map(drop).map_err(|_| DataError::TooLong(path.to_owned()))
    }

    /// Whether a folder has been one of a relay, or of a client that talks to relays elsewhere.
    pub fn is_one(path: &Path) -> bool {
        ["lock", "host_key", "client_id", "known_relays"].iter().any(|name| path.join(name).is_file())
    }

    /// Whether a process holds the folder of this path.
    pub fn is_held(path: &Path) -> bool {
        let Ok(lock) = file::open(&path.join("lock")) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// The process that holds the folder of this path, if one does and says so.
    pub fn holder(path: &Path) -> Option<u32> {
        let mut pid = String::new();
        let lock = file::open(&path.join("lock")).ok().filter(|_| Self::is_held(path))?;
        lock.take(32).read_to_string(&mut pid).ok()?;
        pid.trim().parse().ok()
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
        Self::socket_of(&self.path)
    }

    fn socket_of(path: &Path) -> PathBuf {
        path.join("relay.sock")
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
    match file::read(path, KEY_FILE_BYTES_MAX) {
        Ok(bytes) => {
            let key = private_key(&bytes).map_err(|why| bad(format!("this key file cannot be used: {why}")))?;
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
    let mut options = private();
    options.write(true).create(true).truncate(true);
    let mut file = options.open(&fresh).map_err(io_error(&fresh, "cannot be made"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error(&fresh, "cannot be written"))?;
    fs::rename(&fresh, path).map_err(io_error(path, "cannot be put in place"))?;
    let beside = path.with_extension("pub");
    let written = options.open(&beside).and_then(|mut file| file.write_all((public + "\n").as_bytes()));
    written.map_err(io_error(&beside, "cannot be written"))?;
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
    fn a_path_in_which_no_socket_can_stand_is_refused_before_anything_is_made() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("a".repeat(110));
        for refused in [DataFolder::usable(&path).map(drop), DataFolder::open(&path).map(drop)] {
            let said = refused.expect_err("it is too long").to_string();
            assert!(said.contains("--data DIR") && !said.contains("SUN_LEN"), "{said}");
        }
        assert!(!path.exists());
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
    fn a_folder_of_other_things_keeps_its_mode() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("project");
        fs::create_dir(&path).expect("a folder");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("ours");
        fs::write(path.join("main.c"), "").expect("a file");
        let error = DataFolder::open(&path).expect_err("it is a project").to_string();
        assert!(error.contains("--data DIR"), "{error}");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o755);
        // An empty folder will do, and a relay's folder that was opened to others since.
        fs::remove_file(path.join("main.c")).expect("removed");
        drop(DataFolder::open(&path).expect("an empty folder"));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("ours");
        drop(DataFolder::open(&path).expect("a folder of a relay"));
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o700);
        assert!(DataFolder::usable(&scratch.path().join("none")).is_ok());
        fs::write(scratch.path().join("file"), "").expect("a file");
        assert!(DataFolder::usable(&scratch.path().join("file")).is_err());
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let victim = scratch.path().join("victim");
        fs::write(&victim, "mine").expect("written");
        for name in ["lock", "client_key.new", "client_key.pub"] {
            let path = scratch.path().join(format!("data of {name}"));
            DirBuilder::new().mode(0o700).create(&path).expect("a folder");
            std::os::unix::fs::symlink(&victim, path.join(name)).expect("a link");
            DataFolder::open(&path).and_then(|folder| folder.client_key()).expect_err("a link");
            assert_eq!(fs::read_to_string(&victim).expect("read"), "mine", "{name}");
        }
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
        for (text, why) in [("nonsense", "no private key"), ("", "it is empty")] {
            fs::write(&path, text).expect("written");
            let error = folder.host_key().expect_err("not a key").to_string();
            assert!(error.contains("Move it away") && error.contains(why) && !error.contains("NUL"), "{error}");
        }
    }

    #[test]
    fn a_folder_in_which_a_keys_file_was_made_before_the_first_relay_is_one_for_it() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).expect("open to others");
        fs::write(scratch.path().join(DataFolder::KEYS_FILE), "").expect("written");
        assert!(matches!(DataFolder::usable(scratch.path()), Ok(true)));
        fs::write(scratch.path().join("other"), "").expect("written");
        assert!(matches!(DataFolder::usable(scratch.path()), Err(DataError::Foreign(_))));
    }

    #[test]
    fn a_keys_file_that_is_there_is_left_alone() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let folder = DataFolder::open(scratch.path()).expect("a folder");
        let path = scratch.path().join(DataFolder::KEYS_FILE);
        assert!(folder.ensure_keys_file(&path, &["one".into()]).expect("made"));
        assert!(!folder.ensure_keys_file(&path, &["two".into()]).expect("left"));
        assert!(fs::read_to_string(&path).expect("read").ends_with("\none\n"));
    }
}
