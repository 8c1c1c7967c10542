//! ssh-agent (draft-ietf-sshm-ssh-agent): the two messages that signing in needs.

use std::{
    env,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use ssh_key::PublicKey;

use crate::{
    base::text::{self, path_line},
    wire::sign_in,
};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Without this flag an agent signs RSA with SHA-1.
const RSA_SHA2_512: u32 = 4;
/// Longest message taken, as OpenSSH has it.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
const KEYS_MAX: usize = 256;
/// Most bytes of a key's comment, which is shown in one line.
const COMMENT_BYTES_MAX: usize = 256;
/// Listing needs no person; a signature may wait for a touch or a confirmation.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
const SIGN_TIMEOUT: Duration = Duration::from_secs(60);

/// What to do about an agent that is of no use.
const REMEDY: &str = "start it anew (`eval \"$(ssh-agent)\"`, then `ssh-add`), or unset SSH_AUTH_SOCK";

/// What went wrong with the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket.
    #[error("the ssh-agent of SSH_AUTH_SOCK, {path}, cannot be reached: {error}: {REMEDY}")]
    Io {
        /// Its socket.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// It is there, and does not say what it holds.
    #[error("the ssh-agent of SSH_AUTH_SOCK, {path}, gave no answer in {} s: {REMEDY}", LIST_TIMEOUT.as_secs())]
    Silent {
        /// Its socket.
        path: String,
    },
    /// The same when it is to sign, where its user may be what it waits for.
    #[error(
        "the ssh-agent of SSH_AUTH_SOCK, {path}, did not sign in {} s: if no touch or confirmation was due, {REMEDY}",
        SIGN_TIMEOUT.as_secs()
    )]
    Unsigned {
        /// Its socket.
        path: String,
    },
    /// An answer that cannot be read.
    #[error("ssh-agent gave an answer that cannot be read")]
    Unreadable,
    /// It says no: the key is gone, locked, or its user declined.
    #[error("ssh-agent declined to sign (is the key still loaded, or was a confirmation refused?)")]
    Declined,
}

/// An ssh-agent, asked anew each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    socket: PathBuf,
}

/// A key that an agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentKey {
    /// The public key.
    pub key: PublicKey,
    /// Its comment.
    pub comment: String,
    blob: Vec<u8>,
}

impl Agent {
    /// The agent of `SSH_AUTH_SOCK`, if that is set.
    pub fn from_env() -> Option<Self> {
        env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(|path| Self::at(Path::new(&path)))
    }

    /// The agent at this socket.
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The keys that it holds and that can sign in here.
    ///
    /// # Errors
    /// It cannot be reached, or answers nonsense.
    pub fn keys(&self) -> Result<Vec<AgentKey>, AgentError> {
        let answer = self.ask(&[REQUEST_IDENTITIES], LIST_TIMEOUT)?;
        let mut rest = answer.strip_prefix(&[IDENTITIES_ANSWER]).ok_or(AgentError::Unreadable)?;
        let count = take_u32(&mut rest).ok_or(AgentError::Unreadable)? as usize;
        let mut keys = Vec::new();
        for _ in 0..count.min(KEYS_MAX) {
            let blob = take(&mut rest).ok_or(AgentError::Unreadable)?;
            let comment = take(&mut rest).ok_or(AgentError::Unreadable)?;
            // Certificates and key types of the future are passed over.
            if let Ok(key) = PublicKey::from_bytes(blob)
                && sign_in::usable(&key).is_ok()
            {
                keys.push(AgentKey {
                    key,
                    comment: text::line(&String::from_utf8_lossy(comment), COMMENT_BYTES_MAX).into_owned(),
                    blob: blob.to_owned(),
                });
            }
        }
        Ok(keys)
    }

    /// An armored SSHSIG over a text.
    ///
    /// # Errors
    /// It cannot be reached, or declines.
    pub fn sign(&self, key: &AgentKey, namespace: &str, text: &str) -> Result<String, AgentError> {
        let data = sign_in::signed_data(namespace, text).map_err(|_| AgentError::Unreadable)?;
        let signature = self.sign_blob(key, &data)?;
        Ok(sign_in::assemble(&key.blob, namespace, &signature))
    }

    /// An Ed25519 signature over these very bytes (RFC 8032): what an agent signs with such a key is signed as it is.
    ///
    /// # Errors
    /// It cannot be reached, declines, or the key is another one.
    pub(super) fn sign_bytes(&self, key: &AgentKey, bytes: &[u8]) -> Result<[u8; 64], AgentError> {
        let blob = self.sign_blob(key, bytes)?;
        let mut rest = &blob[..];
        let algorithm = take(&mut rest).ok_or(AgentError::Unreadable)?;
        let signature = take(&mut rest).filter(|_| algorithm == b"ssh-ed25519").ok_or(AgentError::Unreadable)?;
        signature.try_into().map_err(|_| AgentError::Unreadable)
    }

    /// A signature in the agent's own form: algorithm, then signature.
    fn sign_blob(&self, key: &AgentKey, data: &[u8]) -> Result<Vec<u8>, AgentError> {
        let flags = if key.key.key_data().is_rsa() { RSA_SHA2_512 } else { 0 };
        let mut request = vec![SIGN_REQUEST];
        put(&mut request, &key.blob);
        put(&mut request, data);
        request.extend_from_slice(&flags.to_be_bytes());
        let answer = self.ask(&request, SIGN_TIMEOUT)?;
        let mut rest = answer.strip_prefix(&[SIGN_RESPONSE]).ok_or(AgentError::Declined)?;
        take(&mut rest).map(<[u8]>::to_vec).ok_or(AgentError::Unreadable)
    }

    fn ask(&self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, AgentError> {
        self.exchange(request, timeout).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => AgentError::Unreadable,
            // What a timeout is called differs between systems.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let path = path_line(&self.socket);
                if request.first() == Some(&SIGN_REQUEST) {
                    AgentError::Unsigned { path }
                } else {
                    AgentError::Silent { path }
                }
            }
            _ => AgentError::Io { path: path_line(&self.socket), error },
        })
    }

    fn exchange(&self, request: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut message = Vec::with_capacity(request.len() + 4);
        put(&mut message, request);
        stream.write_all(&message)?;
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        if len == 0 || len > MESSAGE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; len];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

fn put(message: &mut Vec<u8>, field: &[u8]) {
    // Keys, transcripts and requests are bounded far below 4 GiB.
    message.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend_from_slice(field);
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (value, more) = rest.split_first_chunk::<4>()?;
    *rest = more;
    Some(u32::from_be_bytes(*value))
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_u32(rest)? as usize;
    let (value, more) = rest.split_at_checked(len)?;
    *rest = more;
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use ed25519_dalek::Signer as _;
    use ssh_key::public::Ed25519PublicKey;

    use super::*;

    /// An agent with one key that answers `count` requests.
    fn serve(listener: UnixListener, signing: ed25519_dalek::SigningKey, count: usize) {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut len = [0; 4];
            stream.read_exact(&mut len).unwrap();
            let mut request = vec![0; u32::from_be_bytes(len) as usize];
            stream.read_exact(&mut request).unwrap();
            let mut blob = Vec::new();
            put(&mut blob, b"ssh-ed25519");
            put(&mut blob, signing.verifying_key().as_bytes());
            let mut answer = Vec::new();
            if request == [REQUEST_IDENTITIES] {
                answer.extend_from_slice(&[IDENTITIES_ANSWER, 0, 0, 0, 2]);
                put(&mut answer, b"not a key");
                put(&mut answer, b"junk");
                put(&mut answer, &blob);
                put(&mut answer, b"mine\n\x1b[2J");
            } else {
                let mut rest = &request[1..];
                assert_eq!(take(&mut rest).unwrap(), blob);
                let data = take(&mut rest).unwrap();
                assert_eq!(take_u32(&mut rest), Some(0));
                let mut signature = Vec::new();
                put(&mut signature, b"ssh-ed25519");
                put(&mut signature, &signing.sign(data).to_bytes());
                answer.push(SIGN_RESPONSE);
                put(&mut answer, &signature);
            }
            let mut message = Vec::new();
            put(&mut message, &answer);
            stream.write_all(&message).unwrap();
        }
    }

    #[test]
    fn an_agent_that_gives_no_answer_is_told_from_one_that_does_not_sign() {
        let scratch = tempfile::tempdir().unwrap();
        let socket = scratch.path().join("agent");
        let _listener = UnixListener::bind(&socket).unwrap();
        let ask = |request| Agent::at(&socket).ask(&[request], Duration::from_millis(20));
        assert!(matches!(ask(REQUEST_IDENTITIES), Err(AgentError::Silent { .. })));
        assert!(matches!(ask(SIGN_REQUEST), Err(AgentError::Unsigned { .. })));
    }

    #[test]
    fn an_agents_key_signs_in() {
        let scratch = tempfile::tempdir().unwrap();
        let socket = scratch.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        let signing = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
        let public = PublicKey::from(Ed25519PublicKey(signing.verifying_key().to_bytes()));
        let serving = thread::spawn(move || serve(listener, signing, 3));
        let agent = Agent::at(&socket);
        let keys = agent.keys().unwrap();
        assert_eq!(
            (keys.len(), keys[0].comment.as_str(), keys[0].key.key_data()),
            (1, "mine \u{fffd}[2J", public.key_data())
        );
        let signature = agent.sign(&keys[0], sign_in::SIGN_IN_NAMESPACE, "text").unwrap();
        assert_eq!(sign_in::verify(&public, "text", &signature), Ok(()));
        let raw = ed25519_dalek::Signature::from_bytes(&agent.sign_bytes(&keys[0], b"bytes").unwrap());
        let key = ed25519_dalek::VerifyingKey::from_bytes(&public.key_data().ed25519().unwrap().0).unwrap();
        assert!(key.verify_strict(b"bytes", &raw).is_ok());
        serving.join().unwrap();
        assert!(matches!(Agent::at(&scratch.path().join("none")).keys(), Err(AgentError::Io { .. })));
    }
}
