//! The key that signs in: a file, or one that ssh-agent holds.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use ed25519_dalek::{Signer, SigningKey};
use ssh_key::{Algorithm, PrivateKey, PublicKey};

use super::agent::{Agent, AgentError, AgentKey};
use crate::{
    base::{
        file,
        text::{self, path_line, shell_quoted},
    },
    wire::sign_in::{self, KEY_FILE_BYTES_MAX, NoKey, SignError},
};

/// A key that can sign.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A private key in memory.
    Key {
        /// The key, decrypted.
        key: Box<PrivateKey>,
        /// Where it came from, for people.
        origin: String,
    },
    /// A key in ssh-agent.
    Agent {
        /// The agent.
        agent: Agent,
        /// The key.
        key: AgentKey,
    },
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("key file {}: {error}", path_line(path))]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Others may read it.
    #[error("key file {} can be read by others (mode {mode:03o}): `chmod 600 {}`", path_line(path), as_typed(path))]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is the public half of a key.
    #[error(
        "key file {} is the public half of a key, which cannot sign: name the private one, {private}",
        path_line(path)
    )]
    Public {
        /// Which.
        path: PathBuf,
        /// Where its other half is by its name.
        private: String,
    },
    /// No private key that can be used here.
    #[error("key file {} cannot be used: {why}{hint}", path_line(path), hint = hint(why, path))]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What is there instead.
        why: NoKey,
    },
    /// Encrypted, and no passphrase opened it.
    #[error(
        "key file {} is encrypted and was not opened: give its passphrase, or load it with `ssh-add {}`",
        path_line(path),
        as_typed(path)
    )]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// It cannot sign.
    #[error("key file {}: {error}", path_line(path))]
    Sign {
        /// Which.
        path: PathBuf,
        /// Why.
        error: SignError,
    },
    /// AMP needs another kind of key.
    #[error("the key of {origin} is not Ed25519, which AMP needs: `ssh-keygen -t ed25519` makes one")]
    NotEd25519 {
        /// Where it came from.
        origin: String,
    },
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// As a command takes it.
fn as_typed(path: &Path) -> String {
    shell_quoted(&path.to_string_lossy())
}

/// What helps with such a file, if anything does.
fn hint(why: &NoKey, path: &Path) -> String {
    match why {
        NoKey::Foreign => {
            // Without its public half, what the agent holds cannot be told to be this key.
            format!(
                ", which takes it by `ssh-add {}`: then leave --key out, or name the .pub file with it",
                as_typed(path)
            )
        }
        NoKey::Sealed => format!(
            ": `openssl pkey -in {path} -out {path}.open` writes it without a passphrase, for --key {path}.open; \
             `ssh-keygen -t ed25519` makes a new one that may have a passphrase",
            path = as_typed(path)
        ),
        NoKey::Empty | NoKey::Other | NoKey::Putty | NoKey::Useless | NoKey::Broken(_) => String::new(),
    }
}

impl Identity {
    /// Reads a private key file. `passphrase` is asked for an encrypted one until it gives up with `None`.
    ///
    /// # Errors
    /// The file cannot be read, is open to others, stays locked, or holds a key that cannot sign (RSA, security keys:
    /// through ssh-agent only).
    pub fn from_file(path: &Path, passphrase: &mut dyn FnMut(&Path) -> Option<String>) -> Result<Self, IdentityError> {
        let io_error = |error| IdentityError::Io { path: path.to_owned(), error };
        let metadata = fs::metadata(path).map_err(io_error)?;
        let text = file::read(path, KEY_FILE_BYTES_MAX).map_err(io_error)?;
        if PublicKey::from_openssh(text::of_file(&text).trim()).is_ok() {
            let private = path_line(path);
            let private = private.strip_suffix(".pub").unwrap_or("the file without .pub").to_owned();
            return Err(IdentityError::Public { path: path.to_owned(), private });
        }
        let key = sign_in::private_key(&text);
        let mode = metadata.permissions().mode() & 0o777;
        // A file without a secret may be open to others.
        if mode & 0o077 != 0 && !matches!(key, Err(NoKey::Empty | NoKey::Other)) {
            return Err(IdentityError::TooOpen { path: path.to_owned(), mode });
        }
        let mut key = key.map_err(|why| IdentityError::Unreadable { path: path.to_owned(), why })?;
        while key.is_encrypted() {
            let given = passphrase(path).ok_or_else(|| IdentityError::Locked { path: path.to_owned() })?;
            if let Ok(open) = key.decrypt(given) {
                key = open;
            }
        }
        let cannot = match key.algorithm() {
            Algorithm::Rsa { .. } => Some(SignError::Rsa),
            Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256 => Some(SignError::SecurityKey),
            _ => None,
        };
        match cannot {
            Some(error) => Err(IdentityError::Sign { path: path.to_owned(), error }),
            None => Ok(Self::Key { key: Box::new(key), origin: path_line(path) }),
        }
    }

    /// A key at hand.
    pub fn from_key(key: PrivateKey, origin: &str) -> Self {
        Self::Key { key: Box::new(key), origin: origin.to_owned() }
    }

    /// Every key that an agent holds, Ed25519 first: it is the cheapest to check.
    ///
    /// # Errors
    /// The agent cannot be asked.
    pub fn all_of(agent: &Agent) -> Result<Vec<Self>, IdentityError> {
        let mut keys = agent.keys()?;
        keys.sort_by_key(|key| !key.key.key_data().is_ed25519());
        Ok(keys.into_iter().map(|key| Self::Agent { agent: agent.clone(), key }).collect())
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        match self {
            Self::Key { key, .. } => key.public_key(),
            Self::Agent { key, .. } => &key.key,
        }
    }

    /// The public key as a line without a comment, which would tell more than it needs to.
    ///
    /// # Errors
    /// The key has no such form.
    pub fn public_line(&self) -> Result<String, ssh_key::Error> {
        PublicKey::from(self.public().key_data().clone()).to_openssh().map(|line| line.trim().to_owned())
    }

    /// Where it comes from, for people.
    pub fn origin(&self) -> String {
        match self {
            Self::Key { origin, .. } => origin.clone(),
            Self::Agent { key, .. } => format!("ssh-agent ({})", key.comment),
        }
    }

    /// An armored SSHSIG.
    ///
    /// # Errors
    /// The key cannot sign, or the agent declines.
    pub fn sign(&self, namespace: &str, text: &str) -> Result<String, IdentityError> {
        match self {
            Self::Key { key, origin } => {
                sign_in::sign(key, namespace, text).map_err(|error| IdentityError::Sign { path: origin.into(), error })
            }
            Self::Agent { agent, key } => Ok(agent.sign(key, namespace, text)?),
        }
    }

    /// A plain Ed25519 signature (RFC 8032) over these bytes, as AMP has it.
    ///
    /// # Errors
    /// The key is of another type, or the agent declines.
    pub fn sign_ed25519(&self, bytes: &[u8]) -> Result<[u8; 64], IdentityError> {
        let other = || IdentityError::NotEd25519 { origin: self.origin() };
        if !self.public().key_data().is_ed25519() {
            return Err(other());
        }
        match self {
            Self::Key { key, .. } => {
                let pair = key.key_data().ed25519().ok_or_else(other)?;
                Ok(SigningKey::from_bytes(&pair.private.to_bytes()).sign(bytes).to_bytes())
            }
            Self::Agent { agent, key } => Ok(agent.sign_bytes(key, bytes)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use ssh_key::{
        LineEnding,
        private::{Ed25519Keypair, KeypairData},
        rand_core::OsRng,
    };

    use super::*;

    /// `openssl genpkey -algorithm ed25519 -aes256 -pass pass:x`.
    const SEALED_ED25519: &str = "\
        -----BEGIN ENCRYPTED PRIVATE KEY-----\n\
        MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAiEHMsq0Tcr0AICCAAw\n\
        DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEGOap78SgNDlqOGkdvzOigMEQJlf\n\
        cJnS4W00rtKupRqfiRFkk4u82CYRGn85pyrFmjdjvHPTrJq39JCgupjNwL7AxiOq\n\
        tzB26jivSeyFMon92eA=\n\
        -----END ENCRYPTED PRIVATE KEY-----\n";
    /// The same for `-algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
    const SEALED_ECDSA: &str = "\
        -----BEGIN ENCRYPTED PRIVATE KEY-----\n\
        MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjcAD40yJ1L7wICCAAw\n\
        DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEA44wCsvCbipTgqJ5308LdsEgZBQ\n\
        pLuZAzhK4S3DMxdEwuPb3E0pJbDDuGOyRGETAPpAwYyKSJRqfgEGWDF7ul/LQIdX\n\
        aSMbVSH+RChK8MhCUR+HIHDynu+tHKU1i+xt0AXvi8vlE/vZSYusBdNO6MwMQy3i\n\
        xS/3pIyWgacF7KQavVZrNEXvABji8v+H34rBi0SIKb2eYxRq/QDr5rHVdTwafgo=\n\
        -----END ENCRYPTED PRIVATE KEY-----\n";

    fn write(path: &Path, text: &str, mode: u32) {
        let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(path).unwrap();
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_are_read_with_care() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("key");
        let key = PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[7; 32])), "c").unwrap();
        let plain = key.to_openssh(LineEnding::LF).unwrap();
        let never = &mut |_: &Path| -> Option<String> { panic!("asked for a passphrase") };
        assert!(matches!(Identity::from_file(&path, never), Err(IdentityError::Io { .. })));
        write(&path, &key.public_key().to_openssh().unwrap(), 0o644);
        assert!(matches!(Identity::from_file(&path, never), Err(IdentityError::Public { .. })));
        write(&path, &plain, 0o640);
        assert!(matches!(Identity::from_file(&path, never), Err(IdentityError::TooOpen { mode: 0o640, .. })));
        for (text, why) in [("", "it is empty"), ("nonsense", "no private key")] {
            write(&path, text, 0o644);
            let refused = Identity::from_file(&path, never).unwrap_err();
            assert!(matches!(refused, IdentityError::Unreadable { .. }));
            let said = refused.to_string();
            assert!(said.contains(why) && !said.contains("ssh-add") && !said.contains("NUL"), "{said}");
        }
        write(&path, "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n", 0o600);
        let said = Identity::from_file(&path, never).unwrap_err().to_string();
        assert!(said.contains("`ssh-add ") && said.contains("leave --key out, or name the .pub file"), "{said}");
        write(&path, SEALED_ED25519, 0o600);
        let said = Identity::from_file(&path, never).unwrap_err().to_string();
        assert!(said.contains("it is encrypted") && said.contains("`openssl pkey -in "), "{said}");
        assert!(!said.contains("`ssh-add"), "{said}");
        write(&path, SEALED_ECDSA, 0o600);
        let said = Identity::from_file(&path, never).unwrap_err().to_string();
        assert!(said.contains("`ssh-add ") && !said.contains("openssl"), "{said}");
        write(&path, &format!("\u{feff}{}", plain.replace('\n', "\r\n")), 0o600);
        assert!(Identity::from_file(&path, never).is_ok());
        write(&path, &plain, 0o600);
        let identity = Identity::from_file(&path, never).unwrap();
        let signature = identity.sign("n", "text").unwrap();
        assert_eq!(sign_in::verify_in("n", key.public_key(), "text", &signature), Ok(()));
        assert!(
            !identity.public_line().unwrap().ends_with('c') || identity.public_line().unwrap().split(' ').count() == 2
        );

        let locked = key.encrypt(&mut OsRng, "open").unwrap().to_openssh(LineEnding::LF).unwrap();
        write(&path, &locked, 0o600);
        let mut answers = vec![None, Some("open".to_owned()), Some("wrong".to_owned())];
        assert!(Identity::from_file(&path, &mut |_| answers.pop().unwrap()).is_ok());
        assert!(matches!(Identity::from_file(&path, &mut |_| None), Err(IdentityError::Locked { .. })));
    }
}
