//! How the verbs that talk to a relay find it, choose a key and sign in.

use std::{
    env, fs, io,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::Value;

use super::settings::configured_path;
use crate::client::{
    Agent, ConnectError, Connection, Identity, Incoming, KnownRelays, Options, Question, Received, Reply, Target, amp,
};
use crate::wire::sign_in::{Welcome, is_id};

/// Keys of an agent that are tried; each costs a connection.
const AGENT_KEYS_MAX: usize = 8;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

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
    /// The data folder.
    ///
    /// # Errors
    /// Nothing says where it is, or the config file cannot be read.
    pub(super) fn data(&self) -> Result<PathBuf, String> {
        self.data.clone().map_or_else(default_data, Ok)
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

/// A socket is pinned by its path, which must not depend on where the program was started.
fn absolute(path: PathBuf) -> Result<Target, String> {
    std::path::absolute(&path).map(Target::Unix).map_err(|error| format!("{}: {error}", path.display()))
}

/// What the config file says, `$XDG_STATE_HOME/amp-relay`, or `$HOME/.local/state/amp-relay`.
///
/// # Errors
/// Nothing is set, or the config cannot be read.
pub(super) fn default_data() -> Result<PathBuf, String> {
    if let Some(data) = configured_path("data")? {
        return Ok(data);
    }
    let set = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("amp-relay"))
        .ok_or_else(|| "neither HOME nor XDG_STATE_HOME is set: say where the data folder is with --data DIR".into())
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
}

/// Connects and signs in, with one key after the other. Asks a person, if there is one, about passphrases and about
/// relays elsewhere that are met for the first time.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn reach(args: &ReachArgs, role: Option<&str>, kind: &str) -> Result<Reached, String> {
    let data = args.data()?;
    let options = Options { role: role.map(str::to_owned), ..Options::new(&client_id(&data), &device_name(), kind) };
    let found = with_keys(
        args,
        &data,
        |_| true,
        |target, identity, pins| {
            Connection::connect(target, identity, &options, pins).map_err(|error| match error {
                ConnectError::Io { error, .. } if is_nobody(&error) => Tried::Nobody,
                error if error.is_about_the_key() => Tried::Key(error.to_string()),
                error => Tried::Failed(error.to_string()),
            })
        },
    )?;
    let Found { connection: (connection, welcome), target, identity, known } = found;
    Ok(Reached { connection, welcome, target, identity, options, known })
}

/// Connects as an AMP agent, with one Ed25519 key after the other; asks a person as [`reach`] does.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn reach_as_agent(args: &ReachArgs) -> Result<Found<amp::Connection>, String> {
    let is_ed25519 = |key: &ssh_key::PublicKey| key.key_data().is_ed25519();
    let options = amp::Options::new(&device_name());
    with_keys(args, &args.data()?, is_ed25519, |target, identity, pins| {
        amp::Connection::connect(target, identity, &options, pins).map_err(|error| match error {
            amp::ConnectError::Io { error, .. } if is_nobody(&error) => Tried::Nobody,
            error if error.is_about_the_key() => Tried::Key(error.to_string()),
            error => Tried::Failed(error.to_string()),
        })
    })
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
}

/// Why one key did not connect.
enum Tried {
    /// Nothing listens.
    Nobody,
    /// Another key may do better.
    Key(String),
    /// No key will.
    Failed(String),
}

/// Connects with one key after the other.
fn with_keys<T>(
    args: &ReachArgs,
    data: &Path,
    usable: impl Fn(&ssh_key::PublicKey) -> bool,
    connect: impl Fn(&Target, &Identity, &mut KnownRelays) -> Result<T, Tried>,
) -> Result<Found<T>, String> {
    let target = args.target()?;
    if let Target::Unix(path) = &target
        && args.url.is_none()
        && !path.exists()
    {
        return Err(no_relay(data));
    }
    let known = data.join("known_relays");
    let mut pins = KnownRelays::load(known.clone()).map_err(|error| error.to_string())?;
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        pins = pins.asking(ask_about_relay);
    }
    let mut refusals = Vec::new();
    for candidate in candidates(args, data) {
        let identity = match candidate.load() {
            // A key that was named is tried whatever it is: the refusal says why it cannot do.
            Ok(Some(identity)) if args.key.is_some() || usable(identity.public()) => identity,
            Ok(_) => continue,
            Err(error) if args.key.is_some() => return Err(error),
            Err(error) => {
                refusals.push(error);
                continue;
            }
        };
        match connect(&target, &identity, &mut pins) {
            Ok(connection) => return Ok(Found { connection, target, identity, known }),
            Err(Tried::Nobody) if args.url.is_none() => return Err(no_relay(data)),
            Err(Tried::Nobody) => {
                return Err(format!("nothing listens at {target}: is the relay running, and the tunnel to it open?"));
            }
            Err(Tried::Key(error)) => refusals.push(format!("{}: {error}", identity.origin())),
            Err(Tried::Failed(error)) => return Err(error),
        }
    }
    Err(no_key(&target, &refusals))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn no_relay(data: &Path) -> String {
    format!(
        "no relay runs on {}: start one with `amp-relay up`, or name another with --data DIR or --url URL",
        data.display()
    )
}

fn no_key(target: &Target, refusals: &[String]) -> String {
    let mut text = format!("no key was found that signs in to {target}");
    for refusal in refusals {
        text.push_str("\n  ");
        text.push_str(refusal);
    }
    text.push_str("\non the relay's host, `amp-relay keys add FILE.pub` lets a key in; here, --key FILE chooses one");
    text
}

/// A key that may be tried; loaded only when its turn comes.
enum Candidate {
    File { path: PathBuf, named: bool },
    Ready(Box<Identity>),
}

fn candidates(args: &ReachArgs, data: &Path) -> Vec<Candidate> {
    let agent_keys = || {
        let keys = Agent::from_env().and_then(|agent| Identity::all_of(&agent).ok()).unwrap_or_default();
        keys.into_iter().take(AGENT_KEYS_MAX)
    };
    if let Some(path) = &args.key {
        // The agent may hold the key of that file, which spares the passphrase and lets RSA and security keys sign.
        let public = public_of(path);
        let held = public.and_then(|public| agent_keys().find(|held| held.public().key_data() == public.key_data()));
        return vec![held.map_or_else(
            || Candidate::File { path: path.clone(), named: true },
            |held| Candidate::Ready(Box::new(held)),
        )];
    }
    let mut all = vec![Candidate::File { path: data.join("client_key"), named: false }];
    all.extend(agent_keys().map(|held| Candidate::Ready(Box::new(held))));
    if let Some(home) = env::var_os("HOME") {
        let ssh = Path::new(&home).join(".ssh");
        all.extend(["id_ed25519", "id_ecdsa"].map(|name| Candidate::File { path: ssh.join(name), named: false }));
    }
    all
}

/// The public key of a key file: itself, or what stands beside it with `.pub`.
fn public_of(path: &Path) -> Option<ssh_key::PublicKey> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    [path.to_owned(), beside.into()]
        .iter()
        .find_map(|path| ssh_key::PublicKey::from_openssh(fs::read_to_string(path).ok()?.trim()).ok())
}

impl Candidate {
    fn load(self) -> Result<Option<Identity>, String> {
        match self {
            Self::Ready(identity) => Ok(Some(*identity)),
            Self::File { path, named } if !named && !path.exists() => Ok(None),
            Self::File { path, .. } => {
                let person = io::stdin().is_terminal() && io::stderr().is_terminal();
                let mut tries = if person { 3 } else { 0 };
                let mut passphrase = |path: &Path| {
                    tries -= 1;
                    let ask = || rpassword::prompt_password(format!("Passphrase of {}: ", path.display())).ok();
                    if tries < 0 { None } else { ask().filter(|given| !given.is_empty()) }
                };
                Identity::from_file(&path, &mut passphrase).map(Some).map_err(|error| error.to_string())
            }
        }
    }
}

fn ask_about_relay(question: &Question<'_>) -> bool {
    eprintln!(
        "The relay at {} is not known yet.\n  its key: {}\n  its DID: {}",
        question.name, question.fingerprint, question.did
    );
    eprint!("Is it the right one? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// The installation's id, made at first use. Without a place to keep it, one for this run.
fn client_id(data: &Path) -> String {
    let path = data.join("client_id");
    if let Ok(id) = fs::read_to_string(&path)
        && is_id(id.trim())
    {
        return id.trim().to_owned();
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
    let _ = builder.create(data).and_then(|()| fs::write(&path, format!("{id}\n")));
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
pub(super) fn ask(connection: &mut Connection, mut command: Value) -> Result<Reply, String> {
    let id = format!("ask-{}", uuid::Uuid::new_v4().simple());
    command["id"] = id.clone().into();
    connection.send(&command.to_string()).map_err(|error| format!("the relay does not listen: {error}"))?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        match connection.receive(Some(deadline)).map_err(|error| error.to_string())? {
            Received::Text(text) => match Incoming::parse(&text) {
                Some(Incoming::Reply(reply)) if reply.re == id => return Ok(reply),
                Some(Incoming::Error(error)) if error.re.as_ref().is_none_or(|re| *re == id) => {
                    return Err(format!("{} ({})", error.message, error.code));
                }
                _ => {}
            },
            Received::Alive => {}
            Received::Nothing => return Err("the relay did not answer in 15 s".into()),
            Received::Ended(ended) => return Err(format!("the connection ended: {ended}")),
        }
    }
}
