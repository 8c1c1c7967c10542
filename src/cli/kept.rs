//! What the relay of a data folder was started with, in a file there that its owner alone can read: a relay that takes its
//! place is to have the same settings. It may hold secrets, and goes with the relay.

use std::{
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, parser::ValueSource};
use serde::{Deserialize, Serialize};

use super::settings::{Variables, World, given};
use crate::{base::file, client::replace_file, reactor::BoundAddr, server::DataFolder};

const FILE: &str = "started_with";
/// Largest that is read: an environment has no more.
const BYTES_MAX: u64 = 8 << 20;

/// What a relay was started with.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Kept {
    /// Its process: a file that another one left says nothing of this one.
    pid: u32,
    /// Whether it runs in the background, as `up` starts it.
    pub background: bool,
    /// Where it was started.
    #[serde(with = "written")]
    pub folder: OsString,
    /// Every setting that was given by a flag or a variable.
    #[serde(with = "written::each")]
    pub variables: Variables,
    /// The keys file that it reads, wherever it was named; empty in what an older version has noted.
    #[serde(default, with = "written")]
    keys: OsString,
    /// What it listens on, as soon as it does.
    bound: Vec<SocketAddr>,
}

/// The file of a relay that runs; dropped where it ends, before it lets go of its data folder.
#[derive(Debug)]
pub(super) struct Noted(PathBuf);

impl Drop for Noted {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Kept {
    /// What this process was started with, and the keys file that this makes it read.
    pub(super) fn of_process(matches: &ArgMatches, world: &World, background: bool, keys: &Path) -> Self {
        let sources = [ValueSource::CommandLine, ValueSource::EnvVariable];
        Self {
            pid: std::process::id(),
            background,
            folder: world.here.clone().into(),
            variables: given(matches, &sources, world),
            keys: keys.into(),
            bound: Vec::new(),
        }
    }

    /// Writes it into a data folder that this process holds.
    pub(super) fn write(&self, data: &Path) -> Noted {
        let noted = Noted(data.join(FILE));
        self.rewrite(&noted);
        noted
    }

    /// Writes it in the place of what was noted before.
    pub(super) fn rewrite(&self, noted: &Noted) {
        let written = serde_json::to_vec(self).map_err(io::Error::from);
        if let Err(error) = written.and_then(|bytes| replace_file(&noted.0, &bytes, None)) {
            log::warn!(error:% = error; "what this relay was started with cannot be noted for one that takes its place");
        }
    }

    /// The same with what is listened on: a port that the system has picked, for instance.
    pub(super) fn listening(mut self, addresses: &[BoundAddr]) -> Self {
        let tcp = |bound: &BoundAddr| match bound {
            BoundAddr::Tcp(address) => Some(*address),
            BoundAddr::Unix(_) => None,
        };
        self.bound = addresses.iter().filter_map(tcp).collect();
        self
    }

    /// Removes the file of this process where it ends at once.
    pub(super) fn remove(data: &Path) {
        drop(Noted(data.join(FILE)));
    }

    /// What the relay that holds a data folder was started with; none where that relay has not noted it, as an older
    /// version.
    pub(super) fn of_running(data: &Path) -> Option<Self> {
        let kept: Self = serde_json::from_slice(&file::read(&data.join(FILE), BYTES_MAX).ok()?).ok()?;
        (DataFolder::holder(data) == Some(kept.pid)).then_some(kept)
    }

    /// The keys file that the relay reads which holds a data folder; none where that is not known, or is what a shell
    /// has passed to that process alone, as `<(COMMAND)`.
    pub(super) fn keys_of_running(data: &Path) -> Option<PathBuf> {
        let keys = PathBuf::from(Self::of_running(data)?.keys);
        (!keys.as_os_str().is_empty() && !file::is_descriptor(&keys)).then_some(keys)
    }

    /// Whether that relay holds this address, so that no other process can listen there.
    pub(super) fn holds(&self, address: SocketAddr) -> bool {
        let ip = |address: &SocketAddr| address.ip().to_canonical();
        self.bound.iter().any(|bound| {
            let is_wide = ip(bound).is_unspecified() || ip(&address).is_unspecified();
            bound.port() == address.port() && (is_wide || ip(bound) == ip(&address))
        })
    }
}

/// What the system gives, as a text that a person can read; as its bytes where it is none.
mod written {
    use std::{
        ffi::{OsStr, OsString},
        os::unix::ffi::{OsStrExt, OsStringExt},
    };

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, Serialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Bytes(Vec<u8>),
    }

    impl From<&OsStr> for Written {
        fn from(given: &OsStr) -> Self {
            match given.to_str() {
                Some(text) => Self::Text(text.into()),
                None => Self::Bytes(given.as_bytes().into()),
            }
        }
    }

    impl From<Written> for OsString {
        fn from(written: Written) -> Self {
            match written {
                Written::Text(text) => text.into(),
                Written::Bytes(bytes) => Self::from_vec(bytes),
            }
        }
    }

    pub(super) fn serialize<S: Serializer>(given: &OsStr, to: S) -> Result<S::Ok, S::Error> {
        Written::from(given).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<OsString, D::Error> {
        Written::deserialize(from).map(OsString::from)
    }

    pub(super) mod each {
        use std::collections::BTreeMap;

        use serde::{Deserialize, Deserializer, Serializer};

        use super::Written;
        use crate::cli::settings::Variables;

        pub(in super::super) fn serialize<S: Serializer>(given: &Variables, to: S) -> Result<S::Ok, S::Error> {
            to.collect_map(given.iter().map(|(name, value)| (name, Written::from(value.as_os_str()))))
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Variables, D::Error> {
            let written = BTreeMap::<String, Written>::deserialize(from)?;
            Ok(written.into_iter().map(|(name, value)| (name, value.into())).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{ffi::OsStringExt, fs::PermissionsExt};

    use super::*;

    fn kept() -> Kept {
        let odd = OsString::from_vec(b"/srv/gr\xfcn".to_vec());
        let variables =
            [("AMP_RELAY_ENV".to_owned(), "TOKEN=topsecret".into()), ("AMP_RELAY_FOLDER".to_owned(), odd.clone())];
        Kept {
            pid: std::process::id(),
            background: true,
            folder: odd.clone(),
            variables: variables.into(),
            keys: odd,
            bound: vec!["127.0.0.1:45519".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_kept_can_be_read_and_goes_with_the_relay() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(FILE);
        let noted = kept().write(scratch.path());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""AMP_RELAY_ENV":"TOKEN=topsecret""#), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read: Kept = serde_json::from_str(&text).unwrap();
        assert_eq!((&read.variables, &read.folder, &read.bound), (&kept().variables, &kept().folder, &kept().bound));
        assert_eq!(read.keys, kept().keys);
        drop(noted);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_keys_file_of_a_relay_is_known_where_it_has_noted_one_that_others_can_open() {
        let scratch = tempfile::tempdir().unwrap();
        let _lock = DataFolder::open(scratch.path()).unwrap();
        let known = |keys: &str| {
            let _noted = Kept { keys: keys.into(), ..kept() }.write(scratch.path());
            Kept::keys_of_running(scratch.path())
        };
        assert_eq!(known("/srv/keys"), Some("/srv/keys".into()));
        assert_eq!((known("/dev/fd/63"), known("")), (None, None));
        let mut older = serde_json::to_value(kept()).unwrap();
        older.as_object_mut().unwrap().remove("keys").expect("it is noted");
        fs::write(scratch.path().join(FILE), older.to_string()).unwrap();
        assert!(Kept::of_running(scratch.path()).is_some() && Kept::keys_of_running(scratch.path()).is_none());
        assert_eq!(Kept::keys_of_running(Path::new("/no/such/folder")), None);
    }

    #[test]
    fn a_relay_holds_what_it_listens_on() {
        let holds = |bound: &str, address: &str| {
            let bound = [BoundAddr::Tcp(bound.parse().unwrap()), BoundAddr::Unix("/s".into())];
            kept().listening(&bound).holds(address.parse().unwrap())
        };
        assert!(holds("127.0.0.1:45519", "127.0.0.1:45519") && holds("127.0.0.1:45519", "0.0.0.0:45519"));
        assert!(holds("0.0.0.0:45519", "127.0.0.1:45519") && holds("[::]:45519", "127.0.0.1:45519"));
        assert!(holds("[::ffff:127.0.0.1]:45519", "127.0.0.1:45519"));
        assert!(!holds("0.0.0.0:45519", "127.0.0.1:45520") && !holds("127.0.0.1:45519", "127.0.0.2:45519"));
    }
}
