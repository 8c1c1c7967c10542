//! Settings: flag, then `AMP_RELAY_*`, then the config file, then the default. Owns their names, their parsing and
//! where each value came from; it must not act on them.

mod file;
mod given;
mod show;
mod stray;
mod value;

use std::{
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use clap::{ArgAction, ArgMatches, Args, parser::ValueSource};

use crate::{
    base::{self, text::path_line},
    claude::is_program,
    reactor::Listen,
    relay::keys::KEYS_FILE_BYTES_MAX,
    server::{Agent, DataFolder, Deflate, Options, Verify},
};

pub(crate) use given::{Variables, given, variables};
pub(crate) use show::{changed, show, table};
pub(crate) use stray::stray;
use value::Switch;
pub(crate) use value::{LogFormat, Millis, Variable, span_ms};

/// The variables of settings.
pub(crate) mod variable {
    /// Every one begins so.
    pub(super) const PREFIX: &str = "AMP_RELAY_";

    /// That of the setting with this id.
    pub(crate) fn of(id: &str) -> String {
        format!("{PREFIX}{}", id.to_uppercase())
    }

    // Those that other code asks for by name.
    pub(crate) const DATA: &str = "AMP_RELAY_DATA";
    pub(crate) const LISTEN: &str = "AMP_RELAY_LISTEN";
    pub(crate) const KEYS: &str = "AMP_RELAY_KEYS";
    pub(crate) const DEMO: &str = "AMP_RELAY_DEMO";
    pub(crate) const ENV: &str = "AMP_RELAY_ENV";
}

/// The flags that `up`, `serve` and `config` share.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct RelayArgs {
    /// The config file [default: $XDG_CONFIG_HOME/amp-relay/config.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "AMP_RELAY_CONFIG")]
    config: Option<PathBuf>,
    /// The data folder: keys, lock, socket [default: $XDG_STATE_HOME/amp-relay]
    #[arg(long, value_name = "DIR", env = variable::DATA)]
    data: Option<PathBuf>,
    /// Where to listen: ADDR:PORT (port 0 picks one) or unix:PATH; several times [default: 127.0.0.1:5711]
    #[arg(long, value_name = "WHERE", env = variable::LISTEN, value_delimiter = ',')]
    listen: Vec<String>,
    /// The keys file, in authorized_keys form: which keys may sign in [default: DATA/authorized_keys]
    #[arg(long, value_name = "FILE", env = variable::KEYS)]
    keys: Option<PathBuf>,
    /// The Claude Code program [default: `claude` on PATH or where its installers put it]
    #[arg(long, value_name = "PATH", env = "AMP_RELAY_CLAUDE")]
    claude: Option<PathBuf>,
    /// Run the built-in demo agent instead of Claude Code
    #[arg(long, env = variable::DEMO, action = ArgAction::SetTrue, value_parser = value::switch)]
    demo: Switch,
    /// A variable that sessions get besides the usual ones: NAME passes the relay's own, NAME=VALUE sets it; several
    /// times, and several lines in the variable
    #[arg(long, value_name = "NAME[=VALUE]", env = variable::ENV, value_delimiter = '\n')]
    env: Vec<String>,
    /// Folders that sessions may run in, sub-folders included; several times [default: the current folder, and any other
    /// for an admin where `up` started the relay]
    #[arg(long, value_name = "DIR", env = "AMP_RELAY_FOLDER", value_delimiter = ',')]
    folder: Vec<PathBuf>,
    /// Event-loop threads [default: one per core]
    #[arg(long, value_name = "N", env = "AMP_RELAY_WORKERS")]
    workers: Option<String>,
    /// Keep each event-loop thread on a CPU of its own
    #[arg(long, env = "AMP_RELAY_PIN", action = ArgAction::SetTrue, value_parser = value::switch)]
    pin: Switch,
    /// A name, besides loopback names, that requests may carry in Host; several times
    #[arg(long, value_name = "NAME", env = "AMP_RELAY_HOST", value_delimiter = ',')]
    host: Vec<String>,
    /// How long a stop may take, up to an hour: 500ms, 10s, 5m, 1h [default: 10s]
    #[arg(long, value_name = "TIME", env = "AMP_RELAY_GRACE")]
    grace: Option<String>,
    /// Whose signatures the relay checks: `hello`, or `all` messages of agents [default: hello]
    #[arg(long, value_name = "WHICH", env = "AMP_RELAY_AMP_VERIFY")]
    amp_verify: Option<String>,
    /// Compress messages for peers that offer it: `off`, `on`, or `takeover` with kept windows [default: off]
    #[arg(long, value_name = "HOW", env = "AMP_RELAY_WS_DEFLATE")]
    ws_deflate: Option<String>,
    /// How often a silent peer is pinged; one that gives no sign of life after two pings is closed: 500ms, 25s, 5m, 0
    /// for never [default: 25s]
    #[arg(long, value_name = "TIME", env = "AMP_RELAY_WS_PING")]
    ws_ping: Option<String>,
    /// What to log: off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = "AMP_RELAY_LOG")]
    log: Option<String>,
    /// How to log: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "AMP_RELAY_LOG_FORMAT")]
    log_format: Option<String>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This flag.
    Flag(&'static str),
    /// This environment variable.
    Environment(String),
    /// This line of the config file.
    File(PathBuf, usize),
    /// It is set nowhere.
    Default,
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Sourced<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// Everything that can be set, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) data: Sourced<PathBuf>,
    pub(crate) listen: Sourced<Vec<Listen>>,
    pub(crate) keys: Sourced<PathBuf>,
    pub(crate) claude: Sourced<Option<PathBuf>>,
    pub(crate) demo: Sourced<bool>,
    pub(crate) env: Sourced<Vec<Variable>>,
    pub(crate) folder: Sourced<Vec<PathBuf>>,
    pub(crate) workers: Sourced<usize>,
    pub(crate) pin: Sourced<bool>,
    pub(crate) host: Sourced<Vec<String>>,
    pub(crate) grace: Sourced<Millis>,
    pub(crate) amp_verify: Sourced<Verify>,
    pub(crate) ws_deflate: Sourced<Deflate>,
    pub(crate) ws_ping: Sourced<Millis>,
    pub(crate) log: Sourced<log::LevelFilter>,
    pub(crate) log_format: Sourced<LogFormat>,
}

/// The names that a config file may hold, in the order `config show` prints them.
pub(crate) const NAMES: [&str; 16] = [
    "data",
    "listen",
    "keys",
    "claude",
    "demo",
    "env",
    "folder",
    "workers",
    "pin",
    "host",
    "grace",
    "amp.verify",
    "ws.deflate",
    "ws.ping",
    "log",
    "log_format",
];

/// Those that a running relay takes over when it reads them again.
pub(crate) const LIVE: &[&str] = &["claude", "env", "log"];

/// What resolving needs from the world, passed in so that it can be tested.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// `$HOME`.
    pub(crate) home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub(crate) config_home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub(crate) state_home: Option<PathBuf>,
    /// The current folder.
    pub(crate) here: PathBuf,
    /// How many cores may be used.
    pub(crate) cores: usize,
}

impl World {
    /// The world of this process.
    ///
    /// # Errors
    /// There is no current folder.
    pub(crate) fn of_process() -> Result<Self, String> {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let here = std::env::current_dir().map_err(|error| {
            format!("the current folder cannot be used: {error}; go to another one (`cd`), and try again from there")
        })?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let home = folder("HOME");
        Ok(Self { home, config_home: folder("XDG_CONFIG_HOME"), state_home: folder("XDG_STATE_HOME"), here, cores })
    }

    /// The data folder where none is set.
    pub(crate) fn data(&self) -> Result<PathBuf, String> {
        match (&self.state_home, &self.home) {
            (Some(state), _) => Ok(state.join("amp-relay")),
            (None, Some(home)) => Ok(home.join(".local/state/amp-relay")),
            (None, None) => Err("neither HOME nor XDG_STATE_HOME is set; name a data folder with --data DIR".into()),
        }
    }

    fn config(&self) -> Option<PathBuf> {
        let folder = match (&self.config_home, &self.home) {
            (Some(config), _) => config.clone(),
            (None, home) => home.as_ref()?.join(".config"),
        };
        Some(folder.join("amp-relay/config.toml"))
    }

    /// `~/` is the home folder wherever no shell has said so before, in a config file for instance.
    fn absolute(&self, path: &Path) -> PathBuf {
        match (&self.home, path.strip_prefix("~")) {
            (Some(home), Ok(rest)) => home.join(rest),
            _ => self.here.join(path),
        }
    }
}

/// Resolves every setting.
///
/// # Errors
/// The first value that cannot be used, with where it came from and what to do.
pub(crate) fn resolve(args: &RelayArgs, matches: &ArgMatches, world: &World) -> Result<Settings, String> {
    all(args, matches, world).map_err(|why| bounded(&why))
}

/// A text of the config as a refusal repeats it.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A refusal, cut in the middle: its ends say where and why, and a path between them can be as long as the file that
/// names it.
fn bounded(why: &str) -> String {
    const END_CHARS: usize = 1000;
    let (from, to) = (why.char_indices().nth(END_CHARS), why.char_indices().nth_back(END_CHARS));
    match (from, to) {
        (Some((from, _)), Some((to, _))) if from < to => format!("{}…{}", &why[..from], &why[to..]),
        _ => why.to_owned(),
    }
}

fn all(args: &RelayArgs, matches: &ArgMatches, world: &World) -> Result<Settings, String> {
    let file = match &args.config {
        Some(path) => file::read(&world.absolute(path))?,
        None => match world.config().filter(|path| path.exists()) {
            Some(path) => file::read(&path)?,
            None => file::File::default(),
        },
    };
    let layers = Layers { matches, file };
    // What the library takes where nothing is said.
    let usual = Options::new(PathBuf::new(), Agent::Demo);
    let data = match layers.path("data", args.data.as_deref(), world)? {
        Some(found) => found,
        None => Sourced { value: world.data()?, origin: Origin::Default },
    };
    let keys = layers.path("keys", args.keys.as_deref(), world)?;
    let keys = keys.unwrap_or(Sourced { value: data.value.join(DataFolder::KEYS_FILE), origin: Origin::Default });
    let claude = match layers.path("claude", args.claude.as_deref(), world)? {
        Some(Sourced { value, origin }) => Sourced { value: Some(value), origin },
        None => Sourced { value: None, origin: Origin::Default },
    };
    let listen = layers.each("listen", &args.listen, value::listen)?;
    let listen = listen.unwrap_or_else(|| default(usual.listen));
    let folders: Vec<String> = args.folder.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let folder = layers.each("folder", &folders, |text| value::folder(&world.absolute(Path::new(text))))?;
    let env = layers.each("env", &args.env, value::variable)?;
    let host = layers.each("host", &args.host, value::host)?;
    let workers = layers.parsed("workers", args.workers.as_deref(), value::workers)?;
    let settings = Settings {
        demo: layers.flag("demo", &args.demo)?,
        env: env.unwrap_or_else(|| default(Vec::new())),
        folder: folder.unwrap_or_else(|| default(vec![world.here.clone()])),
        workers: workers.unwrap_or_else(|| default(world.cores)),
        pin: layers.flag("pin", &args.pin)?,
        host: host.unwrap_or_else(|| default(Vec::new())),
        grace: layers.parsed("grace", args.grace.as_deref(), value::millis)?.unwrap_or(default(Millis(usual.grace_ms))),
        amp_verify: layers
            .parsed("amp.verify", args.amp_verify.as_deref(), value::verify)?
            .unwrap_or(default(usual.amp_verify)),
        ws_deflate: layers
            .parsed("ws.deflate", args.ws_deflate.as_deref(), value::deflate)?
            .unwrap_or(default(usual.ws_deflate)),
        ws_ping: layers
            .parsed("ws.ping", args.ws_ping.as_deref(), value::millis)?
            .unwrap_or(default(Millis(usual.ws_ping_ms))),
        log: layers.parsed("log", args.log.as_deref(), value::level)?.unwrap_or(default(log::LevelFilter::Info)),
        log_format: layers
            .parsed("log_format", args.log_format.as_deref(), value::format)?
            .unwrap_or(default(LogFormat::Text)),
        data,
        listen,
        keys,
        claude,
    };
    Ok(settings)
}

/// Checks what can only be seen on this machine, as the start of a relay would find it.
///
/// # Errors
/// The first value that cannot be used, with where it came from.
pub(crate) fn usable(settings: &Settings) -> Result<(), String> {
    can_start(settings).map_err(|why| bounded(&why))
}

fn can_start(settings: &Settings) -> Result<(), String> {
    let Settings { data, keys, claude, .. } = settings;
    DataFolder::usable(&data.value)
        .and_then(|_| DataFolder::takes_files(&data.value))
        .map_err(|error| format!("{}: {error}", data.origin))?;
    if let Some(why) = unreadable_keys(&keys.value) {
        return Err(format!("{}: {why}", keys.origin));
    }
    named_no_program(claude).map_or(Ok(()), Err)
}

/// Why the program that was named as Claude Code, if one was, is none.
pub(crate) fn named_no_program(claude: &Sourced<Option<PathBuf>>) -> Option<String> {
    let program = claude.value.as_deref().filter(|program| !is_program(program))?;
    Some(format!("{}: {} is not a program that can be run", claude.origin, path_line(program)))
}

/// Why a keys file that is there cannot be read, as a folder cannot: no key signs in to a relay that starts on it.
pub(crate) fn unreadable_keys(path: &Path) -> Option<String> {
    path.symlink_metadata().ok()?;
    let read = base::file::open(path).and_then(|file| {
        let kind = file.metadata()?.file_type();
        // What a shell passes as `<(COMMAND)` can be read once, and the relay does that.
        if kind.is_fifo() { Ok(()) } else { base::file::read(path, KEYS_FILE_BYTES_MAX as u64).map(drop) }
    });
    let error = read.err()?;
    Some(format!("the keys file {} cannot be read: {error}", path_line(path)))
}

/// A path that the config file of this process sets, for the verbs that only need to find a relay: what else is wrong with
/// the file is no reason to leave a relay that runs without a way to end it. It comes beside the path, as a text.
///
/// # Errors
/// The config cannot be read, or what it says of the path.
pub(crate) fn configured_path(name: &'static str) -> Result<(Option<PathBuf>, Option<String>), String> {
    let world = World::of_process()?;
    let named = std::env::var_os("AMP_RELAY_CONFIG").filter(|path| !path.is_empty());
    let path = match named {
        Some(path) => Some(world.absolute(Path::new(&path))),
        None => world.config().filter(|path| path.exists()),
    };
    let Some(path) = path else { return Ok((None, None)) };
    let read = file::read_for(&path, name).and_then(|(file, wrong)| Ok((file.text(name)?, wrong)));
    let (found, wrong) = read.map_err(|why| bounded(&why))?;
    Ok((found.map(|found| world.absolute(Path::new(&found.value))), wrong.map(|why| bounded(&why))))
}

fn default<T>(value: T) -> Sourced<T> {
    Sourced { value, origin: Origin::Default }
}

/// The three sources, asked in order.
struct Layers<'a> {
    matches: &'a ArgMatches,
    file: file::File,
}

impl Layers<'_> {
    /// Where clap has a value from, if one was set.
    fn given(&self, name: &'static str) -> Option<Origin> {
        let id = name.replace('.', "_");
        match self.matches.value_source(&id)? {
            ValueSource::CommandLine => Some(Origin::Flag(name)),
            ValueSource::EnvVariable => Some(Origin::Environment(variable::of(&id))),
            _ => None,
        }
    }

    fn text(&self, name: &'static str, given: Option<&str>) -> Result<Option<Sourced<String>>, String> {
        if let (Some(origin), Some(value)) = (self.given(name), given) {
            return Ok(Some(Sourced { value: value.to_owned(), origin }));
        }
        self.file.text(name)
    }

    fn path(
        &self,
        name: &'static str,
        given: Option<&Path>,
        world: &World,
    ) -> Result<Option<Sourced<PathBuf>>, String> {
        let found = match (self.given(name), given) {
            (Some(origin), Some(path)) => Some(Sourced { value: path.to_owned(), origin }),
            _ => self.file.text(name)?.map(|Sourced { value, origin }| Sourced { value: value.into(), origin }),
        };
        let Some(Sourced { value, origin }) = found else { return Ok(None) };
        if value.as_os_str().is_empty() {
            return Err(format!("{origin}: a path is wanted, and this is empty; leave it out for the default"));
        }
        Ok(Some(Sourced { value: world.absolute(&value), origin }))
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        given: Option<&str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Sourced<T>>, String> {
        let Some(Sourced { value, origin }) = self.text(name, given)? else { return Ok(None) };
        match parse(&value) {
            Ok(value) => Ok(Some(Sourced { value, origin })),
            Err(why) => Err(format!("{origin}: {why}")),
        }
    }

    fn each<T>(
        &self,
        name: &'static str,
        given: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Sourced<Vec<T>>>, String> {
        let found = match self.given(name) {
            Some(origin) => Some(Sourced { value: given.to_vec(), origin }),
            None => self.file.list(name)?,
        };
        let Some(Sourced { value, origin }) = found else { return Ok(None) };
        let parsed: Result<Vec<T>, String> = value.iter().map(|text| parse(text)).collect();
        match parsed {
            Ok(value) => Ok(Some(Sourced { value, origin })),
            Err(why) => Err(format!("{origin}: {why}")),
        }
    }

    fn flag(&self, name: &'static str, given: &Switch) -> Result<Sourced<bool>, String> {
        if let Some(origin) = self.given(name) {
            return match &given.0 {
                Ok(value) => Ok(Sourced { value: *value, origin }),
                Err(why) => Err(format!("{origin}: {why}")),
            };
        }
        Ok(self.file.flag(name)?.unwrap_or(default(false)))
    }
}

#[cfg(test)]
mod tests;
