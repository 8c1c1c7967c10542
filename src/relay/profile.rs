//! What may be started: profiles from the config, and the confinement of a session's folder. The wire picks a profile
//! and a folder inside it, never a program.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use crate::{
    base::text::{self, path_line, unfit_for_a_line},
    relay::api::{Code, Error, Text},
};

/// How much of a path an answer repeats, in bytes.
const SHOWN_BYTES_MAX: usize = 512;

/// A profile as the core knows it; the program, its arguments and its environment are the shell's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: Text,
    /// What it is for, in a line.
    pub about: Text,
    /// Where sessions may run: absolute, resolved once by [`Profile::resolve`].
    pub folders: Vec<PathBuf>,
    /// Whether admins may have sessions run anywhere else too.
    pub open: bool,
    /// Permission modes on offer; empty: none may be asked for.
    pub modes: Vec<Text>,
    /// Models on offer; empty: any, since the CLI and its account decide.
    pub models: Vec<Text>,
}

/// The two questions that confinement asks a file system. A trait so that the rules are tested without one.
pub trait Folders {
    /// The path without symbolic links, `.` and `..`.
    ///
    /// # Errors
    /// It does not exist or cannot be reached.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;
    /// Whether a resolved path is a directory.
    fn is_folder(&self, path: &Path) -> bool;
}

/// The real file system. It stands here, against the rule that the core does no I/O, because confinement is worth
/// nothing apart from the resolution it judges; the shell calls it on the supervisor thread, never on a worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFolders;

impl Folders for SystemFolders {
    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

impl Profile {
    /// Resolves the profile's own folders, at start and on reload.
    ///
    /// # Errors
    /// One of them is relative, missing or no directory; the text names it.
    pub fn resolve(&mut self, folders: &dyn Folders) -> Result<(), String> {
        for folder in &mut self.folders {
            if !folder.is_absolute() {
                return Err(format!("folder {} is not an absolute path", path_line(folder)));
            }
            let real = folders.canonical(folder).map_err(|error| format!("folder {}: {error}", path_line(folder)))?;
            if !folders.is_folder(&real) {
                return Err(format!("{} is not a folder", path_line(folder)));
            }
            *folder = real;
        }
        Ok(())
    }

    /// The folder a session runs in: the one asked for, resolved, if it lies at or below one of the profile's; the
    /// first of those if none was asked for. What lies outside is refused alike whether it exists or not. `admin`: in an open
    /// profile any folder will do.
    ///
    /// # Errors
    /// `BAD_REQUEST` for a path that is relative or no line of text, `FORBIDDEN` outside of the profile, `NOT_FOUND`
    /// for what is missing or no folder inside of it.
    pub fn folder(&self, asked: Option<&Path>, folders: &dyn Folders, admin: bool) -> Result<PathBuf, Error> {
        let Some(asked) = asked else {
            let first = self.folders.first().ok_or_else(|| {
                Error::new(Code::Forbidden, format!("profile `{}` has no folder to run in", self.name))
            })?;
            return self.folder(Some(first), folders, admin);
        };
        let anywhere = admin && self.open;
        if !asked.is_absolute() || asked.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Error::new(Code::BadRequest, "`folder` must be an absolute path"));
        }
        let Ok(real) = folders.canonical(asked) else {
            // Only a path that is plainly inside may learn that it is missing.
            let plain = asked.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            return Err(if anywhere || plain && self.contains(asked) { missing(asked) } else { self.outside(asked) });
        };
        if !anywhere && !self.contains(&real) {
            return Err(self.outside(asked));
        }
        if !folders.is_folder(&real) {
            return Err(missing(asked));
        }
        // Devices are shown the path as one line, and find a session by it.
        if real.to_str().is_none_or(|real| unfit_for_a_line(real).is_some()) {
            let why = "a session's folder must have a path in UTF-8 without line feeds and control characters";
            return Err(Error::new(Code::BadRequest, format!("{}: {why}", shown(asked))));
        }
        Ok(real)
    }

    /// Whole components are compared: `/srv/app-old` is not below `/srv/app`.
    fn contains(&self, path: &Path) -> bool {
        self.folders.iter().any(|folder| path.starts_with(folder))
    }

    fn outside(&self, asked: &Path) -> Error {
        let within: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        Error::new(
            Code::Forbidden,
            format!(
                "{} is outside of the folders that this relay runs sessions in ({}): its setting `folder`, or --folder at \
                 its start, names them",
                shown(asked),
                within.join(", ")
            ),
        )
    }

    /// Checks a permission mode that was asked for.
    ///
    /// # Errors
    /// `FORBIDDEN`: the profile does not offer it.
    pub fn mode(&self, asked: Option<&Text>) -> Result<(), Error> {
        let Some(asked) = asked.filter(|asked| !self.modes.contains(asked)) else { return Ok(()) };
        let modes = match self.modes.as_slice() {
            [] => "it can be given none".to_owned(),
            modes => format!("the ones to choose from are {}", modes.join(", ")),
        };
        let text = if &**asked == "bypassPermissions" {
            format!(
                "`bypassPermissions` would let a session do everything unasked, which this relay does not allow: {modes}"
            )
        } else {
            format!("this relay gives no session the permission mode {}: {modes}", text::quoted(asked))
        };
        Err(Error::new(Code::Forbidden, text))
    }

    /// Checks a model that was asked for.
    ///
    /// # Errors
    /// `FORBIDDEN`: the profile has a list and this is not on it.
    pub fn model(&self, asked: Option<&Text>) -> Result<(), Error> {
        if self.models.is_empty() { Ok(()) } else { offered(asked, &self.models) }
    }
}

fn missing(asked: &Path) -> Error {
    Error::new(Code::NotFound, format!("{} is not a folder on the relay's host", shown(asked)))
}

/// A path that was asked for, as an answer repeats it.
fn shown(asked: &Path) -> String {
    text::line(&asked.to_string_lossy(), SHOWN_BYTES_MAX).into_owned()
}

fn offered(asked: Option<&Text>, models: &[Text]) -> Result<(), Error> {
    match asked {
        Some(asked) if !models.contains(asked) => Err(Error::new(
            Code::Forbidden,
            format!(
                "this relay gives no session the model {}: the ones to choose from are {}",
                text::quoted(asked),
                models.join(", ")
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn profile(folders: Vec<PathBuf>) -> Profile {
        let (name, about, modes) = ("default".into(), "".into(), vec!["plan".into()]);
        Profile { name, about, folders, open: false, modes, models: Vec::new() }
    }

    fn code(result: Result<PathBuf, Error>) -> Code {
        result.unwrap_err().code
    }

    #[test]
    fn a_session_stays_below_the_profiles_folders() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        for folder in ["app/src", "app-old", "other", "app/a b", "app/a\nb"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("app/file"), "").unwrap();
        std::os::unix::fs::symlink(root.join("other"), root.join("app/escape")).unwrap();
        std::os::unix::fs::symlink(root.join("app/src"), root.join("app/inside")).unwrap();
        std::os::unix::fs::symlink(root.join("app"), root.join("alias")).unwrap();
        // The profile names its folder through a symbolic link; sessions may use either name.
        let mut profile = profile(vec![root.join("alias")]);
        profile.resolve(&SystemFolders).unwrap();
        let app = root.join("app").canonicalize().unwrap();
        let ask = |path: &str| profile.folder(Some(&root.join(path)), &SystemFolders, false);

        assert_eq!(profile.folder(None, &SystemFolders, false).unwrap(), app);
        assert_eq!(ask("app").unwrap(), app);
        assert_eq!(ask("alias/src").unwrap(), app.join("src"));
        assert_eq!(ask("app/inside").unwrap(), app.join("src"));
        assert_eq!(ask("app/src/..").unwrap(), app);
        for outside in ["app-old", "app/escape", "app/../other", "app/../missing", "missing", "app/src/../../other"] {
            assert_eq!(code(ask(outside)), Code::Forbidden, "{outside}");
        }
        assert_eq!(profile.folder(Some(&app.join("a b")), &SystemFolders, false).unwrap(), app.join("a b"));
        let drawn_alike = profile.folder(Some(&app.join("a\nb")), &SystemFolders, false);
        assert_eq!(code(drawn_alike), Code::BadRequest);
        assert_eq!(code(profile.folder(Some(&app.join("missing")), &SystemFolders, false)), Code::NotFound);
        assert_eq!(code(ask("app/file")), Code::NotFound);
        assert_eq!(code(profile.folder(Some(Path::new("src")), &SystemFolders, false)), Code::BadRequest);
        assert_eq!(code(profile.folder(Some(Path::new("/")), &SystemFolders, false)), Code::Forbidden);
        assert_eq!(code(profile.folder(Some(Path::new("/")), &SystemFolders, true)), Code::Forbidden);
        let open = Profile { open: true, ..profile.clone() };
        assert_eq!(code(open.folder(Some(Path::new("/")), &SystemFolders, false)), Code::Forbidden);
        let anywhere = |path: &str| open.folder(Some(&root.join(path)), &SystemFolders, true);
        assert_eq!(anywhere("other").unwrap(), root.join("other").canonicalize().unwrap());
        assert_eq!(code(anywhere("missing")), Code::NotFound);
    }

    #[test]
    fn a_profile_needs_real_folders() {
        assert!(profile(vec!["src".into()]).resolve(&SystemFolders).unwrap_err().contains("absolute"));
        assert!(profile(vec!["/definitely/not/here".into()]).resolve(&SystemFolders).is_err());
        assert_eq!(code(profile(Vec::new()).folder(None, &SystemFolders, false)), Code::Forbidden);
    }

    #[test]
    fn modes_are_those_on_offer() {
        let profile = profile(Vec::new());
        assert!(profile.mode(None).is_ok() && profile.mode(Some(&"plan".into())).is_ok());
        assert_eq!(profile.mode(Some(&"bypassPermissions".into())).unwrap_err().code, Code::Forbidden);
        let why = |mode: &str| profile.mode(Some(&mode.into())).unwrap_err().message;
        assert!(why("bypassPermissions").contains("unasked") && !why("default").contains("unasked"));
        assert!(profile.model(Some(&"any".into())).is_ok());
        let profile = Profile { models: vec!["small".into()], ..profile };
        assert!(profile.model(None).is_ok() && profile.model(Some(&"small".into())).is_ok());
        assert_eq!(profile.model(Some(&"any".into())).unwrap_err().code, Code::Forbidden);
    }
}
