//! From a launch the core asks for to a program with arguments and environment. Owns the profiles and the names of new
//! sessions; it must not start anything.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use ed25519_dalek::SigningKey;
use parking_lot::RwLock;
use ssh_key::{Algorithm, PrivateKey, rand_core::OsRng};

use super::{Agent, channels::SessionKeys};
use crate::{
    base::text::{path_line, quoted},
    claude::{
        arguments::{Arguments, arguments},
        environment::{Changes, environment},
        guard::GuardProgram,
        is_program,
        locate::locate,
        process::Spawn,
    },
    relay::{
        api::{Code, Error, Launch, Text},
        hub::{Profiles, Resolved},
        profile::{Profile, SystemFolders},
        session::Ids,
    },
    wire::sign_in::did_of,
};

/// Why a launch is impossible.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error(
        "Claude Code is not installed here, or not on PATH. Install it with `npm install -g @anthropic-ai/claude-code`, or name it with --claude PATH"
    )]
    NoCli,
    #[error(
        "{} was named as Claude Code, and is not a program that can be run. Install Claude Code there, or name it with --claude PATH",
        path_line(.0)
    )]
    NotCli(PathBuf),
}

/// Finds Claude Code as a launch would.
pub(super) fn find_claude(named: Option<&Path>) -> Option<PathBuf> {
    let (path, home) = (std::env::var_os("PATH"), std::env::var_os("HOME"));
    locate(named, path.as_deref(), home.as_deref().map(Path::new), is_program).ok()
}

/// What may change while the relay runs; the next launch heeds it.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) agent: Agent,
    pub(super) environment: Changes,
}

/// Turns launches into programs.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    pub(super) live: Arc<RwLock<Live>>,
    pub(super) guard: GuardProgram,
}

impl Launcher {
    pub(super) fn spawn(&self, launch: &Launch) -> Result<Spawn, LaunchError> {
        let Live { agent, environment: changes } = self.live.read().clone();
        let mut more: Vec<OsString> = Vec::new();
        let program = match &agent {
            Agent::Claude(named) => find_claude(named.as_deref())
                .ok_or_else(|| named.clone().map_or(LaunchError::NoCli, LaunchError::NotCli))?,
            Agent::Demo => {
                more.push("demo-agent".into());
                self.guard.program().to_owned()
            }
        };
        more.extend(arguments(&Arguments {
            conversation: &launch.conversation,
            start: launch.start,
            model: launch.model.as_deref(),
            mode: launch.mode.as_deref(),
            more: &[],
        }));
        let environment = environment(std::env::vars_os(), &changes, launch.rerun);
        Ok(Spawn { program, arguments: more, environment, folder: launch.folder.clone(), guard: self.guard.clone() })
    }
}

/// The profiles of the config, as the core asks for them.
#[derive(Debug)]
pub(super) struct ConfigProfiles {
    pub(super) profiles: Vec<Profile>,
    /// They run the demo agent.
    pub(super) is_demo: bool,
}

impl Profiles for ConfigProfiles {
    fn resolve(
        &self,
        profile: &str,
        folder: Option<&Path>,
        model: Option<&str>,
        mode: Option<&str>,
        admin: bool,
    ) -> Result<Resolved, Error> {
        let Some(profile) = self.profiles.iter().find(|known| &*known.name == profile) else {
            let known: Vec<&str> = self.profiles.iter().map(|known| &*known.name).collect();
            let message = format!("there is no profile {}; there is: {}", quoted(profile), known.join(", "));
            return Err(Error::new(Code::NotFound, message));
        };
        let (model, mode) = (model.map(Text::from), mode.map(Text::from));
        profile.model(model.as_ref())?;
        profile.mode(mode.as_ref())?;
        let folder = profile.folder(folder, &SystemFolders, admin)?;
        // Whatever was asked for, the demo agent answers and no model does.
        Ok(Resolved { folder, model: model.filter(|_| !self.is_demo), mode })
    }
}

/// Names from the system's random source, and the keys of sessions.
#[derive(Default)]
pub(super) struct RandomIds(pub(super) SessionKeys);

impl Ids for RandomIds {
    fn uuid(&mut self) -> Text {
        uuid::Uuid::new_v4().to_string().into()
    }

    fn epoch(&mut self) -> Text {
        uuid::Uuid::new_v4().simple().to_string().into()
    }

    fn did(&mut self) -> Text {
        let made = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).ok().and_then(|key| {
            let secret = SigningKey::from_bytes(&key.key_data().ed25519()?.private.to_bytes());
            Some((Text::from(did_of(key.public_key())?), secret))
        });
        let Some((did, secret)) = made else { return Text::default() };
        self.0.0.lock().insert(did.clone(), secret);
        did
    }

    fn forget(&mut self, did: &str) {
        self.0.0.lock().remove(did);
    }
}
