//! The keys that a person may sign in with, in the order in which they are tried: files, and those of an ssh-agent.

use std::{
    env, io,
    io::IsTerminal,
    iter,
    path::{Path, PathBuf},
};

use super::{text::path_line, tty};
use crate::{
    base::{file, text},
    client::{Agent, AgentError, Identity, IdentityError},
    wire::sign_in::{KEY_FILE_BYTES_MAX, private_key},
};

/// Keys of an agent that are tried; each costs a connection.
const AGENT_KEYS_MAX: usize = 8;
/// How often a passphrase is asked for.
const PASSPHRASE_TRIES: u32 = 3;

/// Which keys a verb can use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// All that may sign in.
    Any,
    /// Those of AMP.
    Ed25519,
}

/// A key that may be tried; loaded only when its turn comes.
pub(super) enum Candidate {
    /// `agent`: why ssh-agent, which may hold the same key, was no help.
    File {
        path: PathBuf,
        named: bool,
        agent: Option<IdentityError>,
    },
    Ready(Box<Identity>),
    /// The keys of an ssh-agent that does not tell them.
    NoAgent(IdentityError),
}

fn agent_keys() -> Result<Vec<Identity>, IdentityError> {
    Agent::from_env().map_or_else(|| Ok(Vec::new()), |agent| Identity::all_of(&agent))
}

/// The keys in the order in which they are tried. The agent is asked only when its turn comes: one that is stuck keeps no
/// key waiting that does without it.
pub(super) fn candidates(named: Option<&Path>, data: &Path) -> Box<dyn Iterator<Item = Candidate>> {
    if let Some(path) = named {
        return Box::new(iter::once(named_key(path)));
    }
    let file = |path| Candidate::File { path, named: false, agent: None };
    let of_agent = iter::once_with(|| match agent_keys() {
        Ok(keys) => keys.into_iter().take(AGENT_KEYS_MAX).map(|held| Candidate::Ready(Box::new(held))).collect(),
        Err(error) => vec![Candidate::NoAgent(error)],
    });
    let ssh = env::var_os("HOME").map(|home| Path::new(&home).join(".ssh"));
    let of_home =
        ssh.into_iter().flat_map(|ssh| ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| ssh.join(name))).map(file);
    Box::new(iter::once(file(data.join("client_key"))).chain(of_agent.flatten()).chain(of_home))
}

/// The key that `--key` names: the file where that signs by itself, else the agent's if it holds it, which spares the
/// passphrase and lets RSA and security keys sign.
fn named_key(path: &Path) -> Candidate {
    if let Ok(identity) = Identity::from_file(path, &mut |_| None) {
        return Candidate::Ready(Box::new(identity));
    }
    let held = public_of(path).map_or(Ok(None), |public| {
        agent_keys().map(|keys| keys.into_iter().find(|held| held.public().key_data() == public.key_data()))
    });
    match held {
        Ok(Some(held)) => Candidate::Ready(Box::new(held)),
        Ok(None) => Candidate::File { path: path.to_owned(), named: true, agent: None },
        Err(error) => Candidate::File { path: path.to_owned(), named: true, agent: Some(error) },
    }
}

/// The public key of a key file: what it holds, or what stands beside it with `.pub`.
fn public_of(path: &Path) -> Option<ssh_key::PublicKey> {
    let held = file::read(path, KEY_FILE_BYTES_MAX).ok()?;
    if let Ok(key) = private_key(&held) {
        return Some(key.public_key().clone());
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    [path.to_owned(), beside.into()].iter().find_map(|path| {
        ssh_key::PublicKey::from_openssh(text::of_file(&file::read(path, KEY_FILE_BYTES_MAX).ok()?).trim()).ok()
    })
}

impl Candidate {
    /// The file, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Ready(_) | Self::NoAgent(_) => None,
        }
    }

    /// Where the key comes from, if it is plain that it cannot be used for this.
    pub(super) fn unfit_for(&self, takes: Takes) -> Option<String> {
        if takes == Takes::Any {
            return None;
        }
        let (key, origin) = match self {
            Self::File { path, .. } => (public_of(path)?, path_line(path)),
            Self::Ready(identity) => (identity.public().clone(), identity.origin()),
            Self::NoAgent(_) => return None,
        };
        (!key.key_data().is_ed25519()).then_some(origin)
    }

    /// That an agent was waited for in vain, if it was: a wait is explained even where another key signs in after it.
    pub(super) fn waited(&self) -> Option<String> {
        match self {
            Self::File { agent: Some(error), .. } | Self::NoAgent(error) => {
                matches!(error, IdentityError::Agent(AgentError::Silent { .. })).then(|| error.to_string())
            }
            Self::File { .. } | Self::Ready(_) => None,
        }
    }

    pub(super) fn load(self) -> Result<Option<Identity>, String> {
        match self {
            Self::Ready(identity) => Ok(Some(*identity)),
            Self::NoAgent(error) => Err(error.to_string()),
            Self::File { path, named, .. } if !named && !path.exists() => Ok(None),
            Self::File { path, agent, .. } => {
                let person = io::stdin().is_terminal() && io::stderr().is_terminal();
                // Typing a passphrase turns the terminal's echo off.
                if person {
                    tty::guard().map_err(|error| format!("signals cannot be handled: {error}"))?;
                }
                let mut tries = 0;
                let mut passphrase = |path: &Path| {
                    tries += 1;
                    if !person || tries > PASSPHRASE_TRIES {
                        return None;
                    }
                    let wrong = if tries > 1 { "That passphrase is wrong. " } else { "" };
                    let ask = format!("{wrong}Passphrase of {}: ", path_line(path));
                    rpassword::prompt_password(ask).ok().filter(|given| !given.is_empty())
                };
                Identity::from_file(&path, &mut passphrase).map(Some).map_err(|error| match agent {
                    Some(agent) => format!("{agent}\nwithout it, {error}"),
                    None => error.to_string(),
                })
            }
        }
    }
}
