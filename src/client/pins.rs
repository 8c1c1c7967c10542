//! Which relay answers where: pins in the manner of OpenSSH's `known_hosts`. A line is `DID KEY-TYPE KEY NAME,NAME...`.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use ssh_key::PublicKey;

use super::target::Target;
use crate::{
    base::{file, text::path_line},
    wire::sign_in::{did_of, fingerprint},
};

const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a relay is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It presents a DID that is not its key's.
    #[error("the relay presents a DID that does not belong to its key; it is broken or pretends to be another one")]
    NotItsDid,
    /// Another relay answers where a known one did.
    #[error(
        "ANOTHER RELAY ANSWERS AT {name}.\n  expected: {expected}\n  presented: {presented}\nEither it was set up anew, or \
         somebody stands in between. Nothing was signed. If you know why, remove the line with the expected DID from \
         {file} and connect again"
    )]
    Changed {
        /// Where.
        name: String,
        /// The DID that is pinned.
        expected: String,
        /// The DID that was presented.
        presented: String,
        /// The file.
        file: String,
    },
    /// It is not pinned yet, and no person has accepted it.
    #[error(
        "the relay at {name} is not known yet (its key: {fingerprint}); nothing was signed. Compare the fingerprint with \
         what the relay prints at its start, then connect from a terminal and accept it"
    )]
    Unknown {
        /// Where.
        name: String,
        /// Fingerprint of its key.
        fingerprint: String,
    },
    /// The file.
    #[error("known relays in {}: {error}", path_line(path))]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// What a person is asked about a relay that is met for the first time.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Where it answered.
    pub name: &'a str,
    /// Its DID.
    pub did: &'a str,
    /// Fingerprint of its key.
    pub fingerprint: &'a str,
}

/// Decides about relays. Asked before anything is signed; told after the relay has proved its key.
pub trait Pins {
    /// Whether this relay may be signed in to.
    ///
    /// # Errors
    /// Why not.
    fn check(&mut self, target: &Target, did: &str, key: &PublicKey) -> Result<(), PinError>;
    /// The relay has proved that it holds the key.
    ///
    /// # Errors
    /// The pin cannot be kept.
    fn proved(&mut self, target: &Target, did: &str, key: &PublicKey) -> Result<(), PinError>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    did: String,
    key: String,
    names: Vec<String>,
}

/// Pins in a file.
pub struct KnownRelays {
    path: PathBuf,
    known: Vec<Known>,
    ask: Option<Ask>,
}

type Ask = Box<dyn FnMut(&Question<'_>) -> bool + Send>;

impl KnownRelays {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn load(path: PathBuf) -> Result<Self, PinError> {
        let read = file::read(&path, FILE_BYTES_MAX).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
        });
        let text = match read {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(PinError::Io { path, error }),
        };
        Ok(Self { known: text.lines().filter_map(read_line).collect(), path, ask: None })
    }

    /// Asks a person about relays that are met for the first time and are not on this machine.
    pub fn asking(mut self, ask: impl FnMut(&Question<'_>) -> bool + Send + 'static) -> Self {
        self.ask = Some(Box::new(ask));
        self
    }

    fn write(&self) -> io::Result<()> {
        let mut text = String::new();
        for known in &self.known {
            text.push_str(&format!("{} {} {}\n", known.did, known.key, known.names.join(",")));
        }
        if let Some(folder) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        replace_file(&self.path, text.as_bytes(), None)
    }
}

/// Writes a file by a temporary one beside it, so that no reader sees half of it. Without `mode` it gets 0600.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], mode: Option<fs::Permissions>) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let suffix: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let temporary = folder.join(format!(".{suffix}.tmp"));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            if let Some(mode) = mode {
                file.set_permissions(mode)?;
            }
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn read_line(line: &str) -> Option<Known> {
    let mut words = line.split_whitespace();
    let did = words.next().filter(|did| did.starts_with("did:"))?;
    let key = format!("{} {}", words.next()?, words.next()?);
    // A path may hold blanks: the rest of the line is names.
    let names = line.splitn(4, ' ').nth(3)?.split(',').map(|name| name.trim().to_owned());
    Some(Known { did: did.to_owned(), key, names: names.filter(|name| !name.is_empty()).collect() })
}

impl Pins for KnownRelays {
    fn check(&mut self, target: &Target, did: &str, key: &PublicKey) -> Result<(), PinError> {
        if did_of(key).as_deref() != Some(did) {
            return Err(PinError::NotItsDid);
        }
        let name = target.pin_name();
        if let Some(pinned) = self.known.iter().find(|known| known.names.contains(&name)) {
            if pinned.did == did
                && PublicKey::from_openssh(&pinned.key).is_ok_and(|known| known.key_data() == key.key_data())
            {
                return Ok(());
            }
            return Err(PinError::Changed {
                name,
                expected: pinned.did.clone(),
                presented: did.to_owned(),
                file: path_line(&self.path),
            });
        }
        // A relay that is known by its key may have another name; a relay on this machine is believed at first sight.
        if target.is_local() || self.known.iter().any(|known| known.did == did) {
            return Ok(());
        }
        let fingerprint = fingerprint(key);
        let question = Question { name: &name, did, fingerprint: &fingerprint };
        if self.ask.as_mut().is_some_and(|ask| ask(&question)) {
            return Ok(());
        }
        Err(PinError::Unknown { name, fingerprint })
    }

    fn proved(&mut self, target: &Target, did: &str, key: &PublicKey) -> Result<(), PinError> {
        let name = target.pin_name();
        if self.known.iter().any(|known| known.did == did && known.names.contains(&name)) || name.contains([',', '\n'])
        {
            return Ok(());
        }
        match self.known.iter_mut().find(|known| known.did == did) {
            Some(known) => known.names.push(name),
            None => {
                let Ok(key) = PublicKey::from(key.key_data().clone()).to_openssh() else { return Ok(()) };
                self.known.push(Known { did: did.to_owned(), key: key.trim().to_owned(), names: vec![name] });
            }
        }
        self.write().map_err(|error| PinError::Io { path: self.path.clone(), error })
    }
}

#[cfg(test)]
mod tests {
    use ssh_key::public::Ed25519PublicKey;

    use super::*;

    fn relay(seed: u8) -> (String, PublicKey) {
        let key = PublicKey::from(Ed25519PublicKey([seed; 32]));
        (did_of(&key).unwrap(), key)
    }

    #[test]
    fn the_first_local_relay_is_believed_and_another_one_is_not() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("not there yet/known relays");
        let unix = Target::Unix("/a b/relay.sock".into());
        let loopback = Target::parse("127.0.0.1:1").unwrap();
        let ((did, key), (other_did, other_key)) = (relay(1), relay(2));
        let mut pins = KnownRelays::load(path.clone()).unwrap();
        pins.check(&unix, &did, &key).unwrap();
        assert!(!path.exists(), "nothing is kept before the proof");
        pins.proved(&unix, &did, &key).unwrap();
        pins.proved(&loopback, &did, &key).unwrap();

        let mut pins = KnownRelays::load(path.clone()).unwrap();
        pins.check(&unix, &did, &key).unwrap();
        pins.check(&loopback, &did, &key).unwrap();
        let changed = pins.check(&unix, &other_did, &other_key).unwrap_err();
        assert!(matches!(&changed, PinError::Changed { expected, .. } if *expected == did), "{changed}");
        assert!(matches!(pins.check(&unix, &did, &other_key), Err(PinError::NotItsDid)));
        // Another socket is another name.
        pins.check(&Target::Unix("/b".into()), &other_did, &other_key).unwrap();
    }

    #[test]
    fn a_file_of_known_relays_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("known");
        fs::write(&path, b"did:key:z ssh-ed25519 AAAA 127.0.0.1:1\xff").unwrap();
        assert!(matches!(KnownRelays::load(path), Err(PinError::Io { .. })));
        assert!(matches!(KnownRelays::load(scratch.path().to_owned()), Err(PinError::Io { .. })));
    }

    #[test]
    fn a_relay_elsewhere_needs_a_person() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("known");
        let far = Target::parse("relay.example:443").unwrap();
        let (did, key) = relay(1);
        let mut pins = KnownRelays::load(path.clone()).unwrap();
        assert!(matches!(pins.check(&far, &did, &key), Err(PinError::Unknown { .. })));
        let mut asked = pins.asking(|question| question.name == "relay.example:443");
        asked.check(&far, &did, &key).unwrap();
        asked.proved(&far, &did, &key).unwrap();
        let mut pins = KnownRelays::load(path).unwrap().asking(|_| false);
        pins.check(&far, &did, &key).unwrap();
        // Known by its key, it may move.
        pins.check(&Target::parse("new.example:443").unwrap(), &did, &key).unwrap();
    }
}
