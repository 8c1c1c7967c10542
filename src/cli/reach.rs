//! How the verbs that talk to a relay find it, choose a key and sign in.

use std::{
    env, fs, io,
    io::IsTerminal,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Once,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::Value;

use super::{
    candidates::{Takes, candidates},
    kept::Kept,
    out,
    own_key::{self, KeysFlags},
    settings::{World, configured_path, unreadable_keys, variable},
    text::{clean_line, path_line, shell_quoted},
};
use crate::base::file;
use crate::client::{
    ConnectError, Connection, Identity, IdentityError, Incoming, KnownRelays, Options, Question, Received, Reply,
    Target, Unreadable, amp, replace_file,
};
use crate::server::{DataError, DataFolder};
use crate::wire::sign_in::{KEY_FILE_BYTES_MAX, Welcome, is_id};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A relay that said nothing for so long, not even a tick, is gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Which relay, and with which key.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ReachArgs {
    /// Data folder of the local relay [default: the configured one, or $XDG_STATE_HOME/amp-relay]
    #[arg(long, value_name = "DIR", env = "AMP_RELAY_DATA")]
    pub data: Option<PathBuf>,
    /// Another relay: ws://HOST:PORT or unix:PATH [default: the data folder's relay.sock]
    #[arg(long, value_name = "URL", env = "AMP_RELAY_URL")]
    pub url: Option<String>,
    /// Private key to sign in with [default: the data folder's client_key, then ssh-agent, then ~/.ssh]
    #[arg(long, value_name = "FILE", env = "AMP_RELAY_KEY")]
    pub key: Option<PathBuf>,
}

impl ReachArgs {
    /// The relay of this data folder.
    pub(super) fn of(data: &Path) -> Self {
        Self { data: Some(data.to_owned()), ..Self::default() }
    }

    /// The data folder.
    ///
    /// # Errors
    /// Nothing says where it is, or the config file cannot be read.
    pub(super) fn data(&self) -> Result<PathBuf, String> {
        self.data.clone().map_or_else(default_data, Ok)
    }

    /// A command of this program, as it is typed here for the same relay and key.
    pub(super) fn command(&self, words: &str) -> String {
        let mut words = words.to_owned();
        if let Some(key) = &self.key {
            words += &format!(" --key {}", shell_quoted(&key.to_string_lossy()));
        }
        match (&self.url, self.data()) {
            (Some(url), _) => format!("`{} {words} --url {}`", program(), shell_quoted(url)),
            (None, Ok(data)) => command(&words, &data),
            (None, Err(_)) => format!("`{} {words}`", program()),
        }
    }

    /// A text of ours with the options of this call in each command that it names, so that what is typed next leads to the
    /// same relay. Keys are let in, and a relay is started, on the relay's host alone.
    pub(super) fn hinted(&self, text: &str) -> String {
        with_commands(text, |words| {
            let is_on_host = matches!(words.split(' ').next(), Some("up" | "serve" | "keys"));
            match (&self.url, self.data()) {
                (None, Ok(data)) if is_on_host => command(words, &data),
                _ if is_on_host => format!("`amp-relay {words}`"),
                _ => self.command(words),
            }
        })
    }

    /// Where the relay is.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub(super) fn target(&self) -> Result<Target, String> {
        match &self.url {
            Some(url) => match Target::parse(url).map_err(|error| error.to_string())? {
                Target::Unix(path) => absolute(path),
                ws => Ok(ws),
            },
            None => absolute(self.data()?.join("relay.sock")),
        }
    }
}

/// A text of ours with each command that it names as `typed` makes it of the words behind the program's name.
pub(super) fn with_commands(text: &str, typed: impl Fn(&str) -> String) -> String {
    let mut parts = text.split("`amp-relay ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('`') {
            Some((words, rest)) => out = out + &typed(words) + rest,
            None => out = out + "`amp-relay " + part,
        }
    }
    out
}

/// A socket is pinned by its path, which must not depend on where the program was started.
fn absolute(path: PathBuf) -> Result<Target, String> {
    std::path::absolute(&path).map(Target::Unix).map_err(|error| format!("{}: {error}", path_line(&path)))
}

/// What the config file says, `$XDG_STATE_HOME/amp-relay`, or `$HOME/.local/state/amp-relay`.
///
/// # Errors
/// Nothing is set, or the config cannot be read.
pub(super) fn default_data() -> Result<PathBuf, String> {
    static SAID: Once = Once::new();
    // What is wrong with the folder has nothing to do with the config.
    let world = World::of_process()?;
    let (data, wrong) =
        configured_path("data").map_err(|why| format!("{why}\n--data DIR goes on without the config"))?;
    if let Some(why) = wrong {
        SAID.call_once(|| out::note(&format_args!("amp-relay: this goes on in spite of the config: {why}")));
    }
    if let Some(data) = data {
        return Ok(data);
    }
    world.data()
}

/// A relay that was reached, and what is needed to reach it again.
pub(super) struct Reached {
    /// The connection.
    pub connection: Connection,
    /// What the relay said.
    pub welcome: Welcome,
    /// Where it is.
    pub target: Target,
    /// The key that it took.
    pub identity: Identity,
    /// How we presented ourselves.
    pub options: Options,
    /// Where relays are pinned.
    pub known: PathBuf,
    /// What a person is to know before anything else; a verb that joins a session shows it there.
    pub notices: Vec<String>,
}

/// Connects and signs in, with one key after the other. Asks a person, if there is one, about passphrases and about
/// relays elsewhere that are met for the first time.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn reach(args: &ReachArgs, role: Option<&str>, kind: &str) -> Result<Reached, String> {
    let mut reached = reach_to_join(args, role, kind)?;
    for notice in reached.notices.drain(..) {
        out::note(&notice);
    }
    Ok(reached)
}

/// As [`reach`], for a verb that joins a session: what it would print would be hidden behind the session's screen, so it
/// is among the notices instead.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn reach_to_join(args: &ReachArgs, role: Option<&str>, kind: &str) -> Result<Reached, String> {
    let mut reached = reach_any(args, role, kind)?;
    if let Some(version) = other_version(&reached).filter(|_| args.url.is_none()) {
        reached.notices.push(format!(
            "the relay that runs is amp-relay {version}, and this program is {VERSION}: {}",
            args.hinted("`amp-relay down`, then `amp-relay up` starts it anew")
        ));
    }
    Ok(reached)
}

/// The version of this program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of the relay, if it is not this program's.
pub(super) fn other_version(reached: &Reached) -> Option<String> {
    let version = &reached.connection.relay().version;
    (version != VERSION).then(|| clean_line(version, 32))
}

/// As [`reach`], whatever version the relay has.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn reach_any(args: &ReachArgs, role: Option<&str>, kind: &str) -> Result<Reached, String> {
    let data = place(args)?;
    let options = Options { role: role.map(str::to_owned), ..Options::new(&client_id(&data), &device_name(), kind) };
    let found = with_keys(args, &data, Takes::Any, |target, identity, pins| {
        Connection::connect(target, identity, &options, pins).map_err(|error| match error {
            ConnectError::Io { error, .. } if is_nobody(&error) => Tried::Nobody,
            ConnectError::Refused(error) if error.code == "KEY_NOT_AUTHORIZED" => {
                Tried::Unknown(ConnectError::Refused(error).to_string())
            }
            ConnectError::Identity(error) => Tried::Unfit(error.to_string()),
            // Words of ours, with what to type in them.
            ConnectError::Pin(error) => Tried::Failed(error.to_string()),
            error if error.is_about_the_key() => Tried::Key(error.to_string()),
            error => Tried::Failed(out::foreign("", &error.to_string())),
        })
    })?;
    let Found { connection: (connection, welcome), target, identity, known, note } = found;
    Ok(Reached { connection, welcome, target, identity, options, known, notices: note.into_iter().collect() })
}

/// Connects as an AMP agent, with one Ed25519 key after the other; asks a person as [`reach`] does.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn reach_as_agent(args: &ReachArgs) -> Result<Found<amp::Connection>, String> {
    let options = amp::Options::new(&device_name());
    let mut found = with_keys(args, &place(args)?, Takes::Ed25519, |target, identity, pins| {
        amp::Connection::connect(target, identity, &options, pins).map_err(|error| match error {
            amp::ConnectError::Io { error, .. } if is_nobody(&error) => Tried::Nobody,
            // Which it is for the key, whatever the message.
            error @ amp::ConnectError::Refused { .. } if error.is_about_the_key() => Tried::Unknown(error.to_string()),
            amp::ConnectError::Identity(error) => Tried::Unfit(error.to_string()),
            amp::ConnectError::Pin(error) => Tried::Failed(error.to_string()),
            error => Tried::Failed(out::foreign("", &error.to_string())),
        })
    })?;
    if let Some(note) = found.note.take() {
        out::note(&note);
    }
    Ok(found)
}

/// The data folder, if it can be one: a client of a relay leaves no files in any other folder.
fn place(args: &ReachArgs) -> Result<PathBuf, String> {
    let data = args.data()?;
    let is_other =
        || fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_some()) && !DataFolder::is_one(&data);
    if args.url.is_none() && !data.join("relay.sock").exists() {
        let why = if is_other() { " (which is no data folder: no relay was ever started on it)" } else { "" };
        return Err(no_relay(&data, why));
    }
    if args.url.is_some() && is_other() {
        return Err(format!(
            "{} holds other files and is no data folder, and the relays that are known would be noted in it: name a new or \
             an empty one with --data DIR, or leave --data out",
            path_line(&data)
        ));
    }
    Ok(data)
}

/// A relay that a key signed in to.
pub(super) struct Found<T> {
    /// The connection.
    pub connection: T,
    /// Where it is.
    pub target: Target,
    /// The key that it took.
    pub identity: Identity,
    /// Where relays are pinned.
    pub known: PathBuf,
    /// Why it is another key than this machine's own, where that one should have signed in, or why it took so long.
    pub note: Option<String>,
}

/// Why one key did not connect.
enum Tried {
    /// Nothing listens.
    Nobody,
    /// The relay's keys file does not have this key, in the relay's words; another one may do better.
    Unknown(String),
    /// Another key may do better, in words of the relay or of its system.
    Key(String),
    /// This key cannot sign here, whatever the relay lets in.
    Unfit(String),
    /// No key will.
    Failed(String),
}

/// Connects with one key after the other.
fn with_keys<T>(
    args: &ReachArgs,
    data: &Path,
    takes: Takes,
    connect: impl Fn(&Target, &Identity, &mut KnownRelays) -> Result<T, Tried>,
) -> Result<Found<T>, String> {
    let target = args.target()?;
    let known = data.join("known_relays");
    let mut pins = KnownRelays::load(known.clone()).map_err(|error| error.to_string())?;
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        pins = pins.asking(ask_about_relay);
    }
    let mut refusals = Vec::new();
    // What this machine signs in to its own relay with, unless a person says otherwise.
    let own = Some(data.join("client_key")).filter(|_| args.url.is_none() && args.key.is_none());
    let mut own_is_unknown = false;
    let mut unfit = 0;
    let mut waited = None;
    for candidate in candidates(args.key.as_deref(), data) {
        let is_own = own.is_some() && candidate.path() == own.as_deref();
        waited = candidate.waited().or(waited);
        // Before its passphrase is asked for, or the agent praised that would not help either.
        if let Some(origin) = candidate.unfit_for(takes) {
            unfit += 1;
            refusals.push(format!("\n  {}", IdentityError::NotEd25519 { origin }));
            continue;
        }
        let identity = match candidate.load() {
            Ok(Some(identity)) => identity,
            Ok(None) => continue,
            Err(error) if args.key.is_some() => return Err(error),
            Err(error) => {
                refusals.push(format!("\n  {error}"));
                continue;
            }
        };
        match connect(&target, &identity, &mut pins) {
            Ok(connection) => {
                let own = own.filter(|own| !is_own && own_key::is_unusable(own));
                let note = own.and_then(|own| of_own_key(&own, data, false));
                let note = note.map(|advice| format!("{advice} ({} signed in instead)", identity.origin())).or(waited);
                return Ok(Found { connection, target, identity, known, note });
            }
            Err(Tried::Nobody) if args.url.is_none() => return Err(no_relay(data, "")),
            Err(Tried::Nobody) => {
                return Err(format!("nothing listens at {target}: is the relay running, and the tunnel to it open?"));
            }
            Err(Tried::Unknown(error)) => {
                own_is_unknown |= is_own;
                refusals.push(refused(&identity, &error));
            }
            Err(Tried::Unfit(error)) => {
                unfit += 1;
                refusals.push(format!("\n  {}: {error}", identity.origin()));
            }
            Err(Tried::Key(error)) => refusals.push(refused(&identity, &error)),
            Err(Tried::Failed(error)) => return Err(error),
        }
    }
    let other = (unfit > 0 && unfit == refusals.len()).then(|| "--key FILE chooses another one".to_owned());
    // A relay that cannot read its keys knows none, and nothing can be added to them.
    let of_keys = || {
        let why = unreadable_keys(&Kept::keys_of_running(data)?)?;
        Some(format!("{why}. No key signs in until it can be"))
    };
    let of_keys = own.as_ref().filter(|_| own_is_unknown).and_then(|_| of_keys());
    let advice = of_keys.or_else(|| own.and_then(|own| of_own_key(&own, data, own_is_unknown))).or(other);
    Err(no_key(&target, &refusals, advice.or_else(|| Some(args.hinted(LET_IN)))))
}

/// That a relay refuses a key, in a line of its own.
fn refused(identity: &Identity, theirs: &str) -> String {
    out::foreign(&format!("\n  {}: ", identity.origin()), theirs)
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Whether a relay answers on the data folder.
pub(super) fn listens(data: &Path) -> bool {
    UnixStream::connect(data.join("relay.sock")).is_ok()
}

/// What to say of a relay that runs on the data folder and cannot be reached there.
pub(super) fn out_of_reach(data: &Path) -> Option<String> {
    let pid = DataFolder::holder(data)?;
    Some(format!(
        "the relay that runs on {} is process {pid}, and nothing answers at its socket, {}: unless it starts or ends in \
         this moment, `kill {pid}` ends it, with all its sessions, and {} starts a new one",
        path_line(data),
        path_line(&data.join("relay.sock")),
        command("up", data)
    ))
}

/// Opens the data folder for a new relay.
///
/// # Errors
/// It cannot be used; where another relay holds it, with what can be done about that one.
pub(super) fn opened(data: &Path) -> Result<DataFolder, String> {
    DataFolder::open(data).map_err(|error| match error {
        DataError::InUse { .. } if !listens(data) => out_of_reach(data).unwrap_or_else(|| error.to_string()),
        error => ReachArgs::of(data).hinted(&error.to_string()),
    })
}

fn no_relay(data: &Path, why: &str) -> String {
    if let Some(held) = out_of_reach(data) {
        return held;
    }
    format!(
        "no relay runs on {}{why}: start one with {}, or name another with --data DIR or --url URL",
        path_line(data),
        command("up", data)
    )
}

/// What to do where no key signs in.
const LET_IN: &str =
    "on the relay's host, `amp-relay keys add --role ROLE FILE.pub` lets a key in; here, --key FILE chooses one";

/// `refusals` are lines with a line feed before each. `advice`: what to do about the key of this machine.
fn no_key(target: &Target, refusals: &[String], advice: Option<String>) -> String {
    let mut text = format!("no key was found that signs in to {target}");
    text.push_str(&refusals.concat());
    text.push('\n');
    text.push_str(&advice.unwrap_or_else(|| LET_IN.into()));
    text
}

/// What to do about this machine's own key, as far as that is plain.
fn of_own_key(own: &Path, data: &Path, is_unknown: bool) -> Option<String> {
    own_key::advice(own, &keys_flags(data, Kept::keys_of_running(data)), is_unknown)
}

/// How a key is added to a keys file of this data folder, whatever this terminal has set.
pub(super) fn keys_flags(data: &Path, file: Option<PathBuf>) -> KeysFlags {
    let named = env::var_os(variable::KEYS).filter(|path| !path.is_empty()).map(PathBuf::from);
    let usual = named.map_or_else(|| keys_of_next(data), Ok);
    let is_usual = file.as_ref().is_some_and(|file| usual.is_ok_and(|usual| is_same(&usual, file)));
    KeysFlags { data: data_flag(data), file, is_usual }
}

/// Whether two paths lead to one file.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_default();
    one == other || found(one) == found(other)
}

/// The keys file that the next relay on this data folder reads, as far as no flag or variable says otherwise.
///
/// # Errors
/// The config cannot be used: which file lets keys in is not guessed.
pub(super) fn keys_of_next(data: &Path) -> Result<PathBuf, String> {
    match configured_path("keys")? {
        (_, Some(why)) => Err(why),
        (path, None) => Ok(path.unwrap_or_else(|| data.join(DataFolder::KEYS_FILE))),
    }
}

/// The flag that names this data folder, where nothing else does.
pub(super) fn data_flag(data: &Path) -> String {
    let is_default = default_data().is_ok_and(|default| default == data);
    if is_default { String::new() } else { format!(" --data {}", shell_quoted(&data.to_string_lossy())) }
}

/// This program as another terminal can call it: by its name where PATH leads here, else by its path.
pub(super) fn program() -> String {
    const NAME: &str = "amp-relay";
    let Ok(own) = env::current_exe() else { return NAME.into() };
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(NAME)).find(|path| path.is_file());
    let is_own = found.and_then(|found| found.canonicalize().ok()).is_some_and(|found| found == own);
    if is_own { NAME.into() } else { shell_quoted(&own.to_string_lossy()) }
}

/// A command of this program, as it is typed here for the relay of this data folder.
pub(super) fn command(words: &str, data: &Path) -> String {
    format!("`{} {words}{}`", program(), data_flag(data))
}

fn ask_about_relay(question: &Question<'_>) -> bool {
    out::agreed(&format_args!(
        "The relay at {} is not known yet.\n  its key: {}\n  its DID: {}\nIs it the right one? [y/N] ",
        question.name, question.fingerprint, question.did
    ))
}

/// The installation's id, made at first use. Without a place to keep it, one for this run.
fn client_id(data: &Path) -> String {
    let path = data.join("client_id");
    if let Ok(bytes) = file::read(&path, KEY_FILE_BYTES_MAX)
        && let Ok(id) = std::str::from_utf8(&bytes)
        && is_id(id.trim())
    {
        return id.trim().to_owned();
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
    let _ = builder.create(data).and_then(|()| replace_file(&path, format!("{id}\n").as_bytes(), None));
    id
}

/// The host, and what tells two terminals on it apart.
pub(super) fn device_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let terminal = rustix::termios::ttyname(io::stdin(), Vec::new()).ok().and_then(|name| name.into_string().ok());
    let place = match terminal.as_deref() {
        Some(terminal) => terminal.trim_start_matches("/dev/").to_owned(),
        None => format!("process {}", std::process::id()),
    };
    let name: String = format!("{host} {place}").chars().filter(|c| !c.is_control()).take(64).collect();
    name.trim().to_owned()
}

/// Sends one command and waits for its answer; what else comes meanwhile is dropped.
///
/// # Errors
/// The relay refuses, or does not answer.
pub(super) fn ask(connection: &mut Connection, command: Value) -> Result<Reply, String> {
    answer(connection, command, ANSWER_TIMEOUT, false)
}

/// The same where the answer takes its time: it is waited for as long as the relay gives signs of life.
///
/// # Errors
/// As [`ask`].
pub(super) fn ask_and_wait(connection: &mut Connection, command: Value) -> Result<Reply, String> {
    answer(connection, command, SILENCE_TIMEOUT, true)
}

fn answer(connection: &mut Connection, mut command: Value, limit: Duration, waits: bool) -> Result<Reply, String> {
    let id = format!("ask-{}", uuid::Uuid::new_v4().simple());
    command["id"] = id.clone().into();
    connection.send(&command.to_string()).map_err(|error| format!("the relay does not listen: {error}"))?;
    let mut deadline = Instant::now() + limit;
    let mut unreadable = false;
    loop {
        match connection.receive(Some(deadline)).map_err(|error| error.to_string())? {
            Received::Text(text) => match Incoming::parse(&text) {
                // It may have been the answer; if it was not, that comes yet.
                None => unreadable = true,
                Some(Incoming::Reply(reply)) if reply.re == id => return Ok(reply),
                Some(Incoming::Error(error)) if error.re.as_ref().is_none_or(|re| *re == id) => {
                    return Err(out::foreign("", &error.message));
                }
                _ => {}
            },
            Received::Alive => {}
            Received::Nothing if unreadable => return Err(Unreadable("message".into()).to_string()),
            Received::Nothing => return Err(format!("the relay did not answer in {} s", limit.as_secs())),
            Received::Ended(ended) => return Err(ended.to_string()),
        }
        if waits && !unreadable {
            deadline = Instant::now() + limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_named_leads_to_the_same_relay_with_the_same_key() {
        let args = |url: Option<&str>, key: Option<&str>| ReachArgs {
            data: Some("/d".into()),
            url: url.map(str::to_owned),
            key: key.map(PathBuf::from),
        };
        let ends = |args: ReachArgs, end: &str| {
            let command = args.command("attach 1");
            assert!(command.ends_with(&format!(" attach 1{end}`")), "{command}");
        };
        ends(args(Some("ws://h:1"), Some("/a b")), " --key '/a b' --url ws://h:1");
        ends(args(None, Some("/k")), " --key /k --data /d");
        ends(args(None, None), " --data /d");
    }

    #[test]
    fn two_paths_are_the_same_where_they_lead_to_one_file() {
        let scratch = tempfile::tempdir().unwrap();
        let place = |name: &str| scratch.path().join(name);
        fs::write(place("file"), "").unwrap();
        fs::write(place("other"), "").unwrap();
        std::os::unix::fs::symlink(place("file"), place("link")).unwrap();
        assert!(is_same(&place("link"), &place("file")) && is_same(&place("none"), &place("none")));
        assert!(is_same(&place("./file"), &place("file")));
        for (one, other) in [("file", "other"), ("none", "file"), ("none", "nothing")] {
            assert!(!is_same(&place(one), &place(other)), "{one} {other}");
        }
    }
}
