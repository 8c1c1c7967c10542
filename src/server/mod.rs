//! The relay on its threads: workers, the supervisor, the crypto thread. Owns their start and their end; it must hold
//! no logic of its own.

mod backlog;
mod channels;
mod crypto;
mod data;
mod drain_guard;
mod hosted;
mod launch;
mod log_share;
mod metrics;
mod net;
mod supervisor;
mod worker;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub use crate::relay::{
    delivery::{Call, Services},
    message::MESSAGE_MAX,
};
use channels::Mailers;
#[cfg(feature = "cli")]
pub(crate) use data::private;
pub use data::{DataError, DataFolder};
use drain_guard::DrainGuard;
pub use hosted::ManualServer;
use launch::{ConfigProfiles, Launcher, Live, RandomIds};
use metrics::{CoreTallies, Shared, WorkerTallies};
use parking_lot::RwLock;
use ssh_key::PrivateKey;
use supervisor::{Parts, Supervisor};
use worker::{Worker, dialects::States};

use crate::{
    claude::{arguments::MODES, environment::Changes, guard::GuardProgram},
    dialect::session::{Devices, Greeting, TICK_MS},
    reactor::{
        self, Bound, BoundAddr, Control, Handle, Link, Listen, Reactor,
        ws::{Ws, WsOptions},
    },
    relay::{
        api::Summary,
        delivery::{self, Delivery},
        hub::{Create, Hub},
        profile::{Profile, SystemFolders},
        session,
        sessions::ToSessions,
    },
    store::{self, MemoryStore},
    wire::{
        http::HostPolicy,
        sign_in::{Limits, PORT, ProfileInfo, RelayInfo, did_of},
    },
};

/// The high mark of a send queue: above it the senders are held back once the kernel, which has buffers of its own,
/// takes no more. A peer that reads nothing costs this much: a thousand of them hold less than the 32 MiB that a relay
/// may grow by.
const QUEUE_HIGH: usize = 16 * 1024;
/// Above it the senders are held back though the kernel has not been asked yet: messages that come compressed, or from other
/// workers, may bring a queue to its maximum within one turn.
const QUEUE_BURST: usize = 1024 * 1024;
/// The low mark: at or below it the senders go on.
const QUEUE_LOW: usize = 4 * 1024;

/// Connections that only the Unix socket may take: the relay's owner gets in, however many others are there.
const UNIX_RESERVE: usize = 32;
/// How long a peer that was told of its end may take nothing: the goodbye to a slow reader stands behind what the
/// kernel holds for it.
const LINGER_MS: u64 = 5_000;

/// The one profile there is without a config of profiles.
pub const DEFAULT_PROFILE: &str = "default";
/// How often a silent peer is pinged where nothing else is set, in milliseconds.
const WS_PING_MS: u64 = 25_000;

/// Descriptors kept from peers: 64 sessions with their pipes, the loop's own, and some for files.
const DESCRIPTORS_RESERVED: usize = 768;

/// Which agent sessions run.
#[derive(Clone, Debug)]
pub enum Agent {
    /// Claude Code: this program, or the one that is found at each start.
    Claude(Option<PathBuf>),
    /// The demo agent of this binary.
    Demo,
}

impl Agent {
    /// Where Claude Code is, if it is there.
    pub fn find_claude(&self) -> Option<PathBuf> {
        match self {
            Self::Claude(named) => launch::find_claude(named.as_deref()),
            Self::Demo => None,
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Claude(_) => "Claude Code where the relay was started",
            Self::Demo => "the demo agent, which runs nothing",
        }
    }

    /// As clients are told.
    fn name(&self) -> &'static str {
        match self {
            Self::Claude(_) => "claude-code",
            Self::Demo => "demo",
        }
    }
}

/// Which signatures of agents the relay checks itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// That of HELLO, which proves the key; a receiver can check the others.
    #[default]
    Hello,
    /// That of every message, before it goes on. It costs the crypto thread some 50 us a message.
    All,
}

/// Whether messages are compressed for the peers that offer permessage-deflate (RFC 7692).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deflate {
    /// It is never agreed on.
    #[default]
    Off,
    /// Each message by itself, so that no connection keeps a window. Needs the feature `deflate`.
    On,
    /// With windows that are kept between messages where the peer agrees, up to 420 KiB a connection and for no more
    /// connections of a worker than [`WsOptions::default`] says. Needs the feature `deflate`.
    Takeover,
}

/// How a relay is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Event-loop threads.
    pub workers: usize,
    /// Keep each of them on a CPU of its own.
    pub pin: bool,
    /// Where to listen, in the order that [`Server::addresses`] keeps.
    pub listen: Vec<Listen>,
    /// Names, besides loopback names, that requests may carry in Host.
    pub hosts: Vec<String>,
    /// The keys file.
    pub keys: PathBuf,
    /// What the profile `default` runs.
    pub agent: Agent,
    /// What the profile `default` changes in the environment of its sessions.
    pub environment: Changes,
    /// Where the profile `default` may run sessions; the first is where they run unless they say otherwise.
    pub folders: Vec<PathBuf>,
    /// Whether admins may have sessions run anywhere else too.
    pub open: bool,
    /// How long a stop may take, in milliseconds.
    pub grace_ms: u64,
    /// A session of the profile `default` to create at once.
    pub first_session: Option<Create>,
    /// What agents can ask the relay itself.
    pub services: Services,
    /// Which signatures of agents are checked.
    pub amp_verify: Verify,
    /// Whether messages are compressed, on every path.
    pub ws_deflate: Deflate,
    /// How often peers that are silent are pinged, in milliseconds; 0 is never.
    pub ws_ping_ms: u64,
}

impl Options {
    /// As the program runs a relay where nothing is set: a worker for each core, on the loopback, sessions in the current
    /// folder and below.
    pub fn new(keys: PathBuf, agent: Agent) -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            pin: false,
            listen: vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))],
            hosts: Vec::new(),
            keys,
            agent,
            environment: Changes::default(),
            folders: std::env::current_dir().into_iter().collect(),
            open: false,
            grace_ms: 10_000,
            first_session: None,
            services: Services::default(),
            amp_verify: Verify::default(),
            ws_deflate: Deflate::default(),
            ws_ping_ms: WS_PING_MS,
        }
    }
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener, a poll or a thread was refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// An option cannot be used.
    #[error("{0}")]
    Option(String),
    /// The first session was refused.
    #[error("the session cannot be created: {0}")]
    FirstSession(String),
}

/// A relay that runs. Dropping it without [`ShutdownHandle::drain`] leaves it running.
pub struct Server {
    handle: Handle,
    rest: Runtime,
}

/// What a relay has besides its workers.
struct Runtime {
    control: Control,
    addresses: Vec<BoundAddr>,
    first: Option<Summary>,
    supervisor: Supervisor,
    supervisor_thread: JoinHandle<std::io::Result<()>>,
    crypto: crypto::Crypto,
    crypto_thread: JoinHandle<()>,
    shared: Arc<Shared>,
    live: Arc<RwLock<Live>>,
}

/// Makes the handler of each worker.
struct Handlers {
    greeting: Arc<Greeting>,
    crypto: crypto::Crypto,
    core: reactor::Sender<Vec<ToSessions>>,
    shared: Arc<Shared>,
    agents: Arc<delivery::Parts>,
    mailers: Mailers,
    stopper: ShutdownHandle,
    ws: WsOptions,
}

impl Handlers {
    fn make(&self, index: u16) -> Ws<Worker> {
        let tallies = self.shared.workers[usize::from(index)].clone();
        let waker = self.mailers.waker(index);
        let devices = Devices::new(self.greeting.clone(), tallies.devices.clone());
        let worker = Worker {
            crypto: self.crypto.clone(),
            links: self.mailers.links(&waker),
            ways: self.mailers.ways(&waker),
            arrived: Vec::new(),
            core: Link::new(self.core.clone(), waker),
            shared: self.shared.clone(),
            delivery: Delivery::new(&self.agents, index, tallies.agents.clone()),
            states: States { agents: (), devices },
            stopper: self.stopper.clone(),
        };
        Ws::new(worker, self.ws.clone())
    }
}

impl Runtime {
    /// Opens the listeners and starts every thread but the workers'.
    fn start(options: &Options, host_key: PrivateKey) -> Result<(Bound<Ws<Worker>>, Handlers, Self), StartError> {
        // The process that starts a relay holds its data folder, so an earlier process of the same key has ended by now
        // and has admitted no newer HELLO. What is said to this one comes a millisecond later at least.
        let began_ms = reactor::now().unix_ms;
        let did = did_of(host_key.public_key()).ok_or_else(|| option("the host key must be an Ed25519 key"))?;
        let hosts = HostPolicy::new(&options.hosts).map_err(|error| option(error.to_string()))?;
        let ws = WsOptions { ping_every_ms: options.ws_ping_ms, ..ws_options(options.ws_deflate, hosts)? };
        let mut profile = default_profile(options);
        profile.resolve(&SystemFolders).map_err(StartError::Option)?;
        let greeting = Arc::new(greeting(&host_key, &did, &profile, &options.agent)?);

        let loop_options = loop_options(options);
        let connections = loop_options.connections_max;
        let bound = Reactor::bind::<Ws<Worker>>(loop_options)?;
        let addresses = bound.local_addrs().to_vec();
        let loops = bound.counters().to_vec();
        let mailers = Mailers(bound.mailers().into());
        let workers = loops.iter().map(|_| Arc::<WorkerTallies>::default()).collect();
        let shared = Arc::new(Shared {
            started: Instant::now(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            loops,
            workers,
            core: CoreTallies::default(),
        });

        let keys_of = channels::SessionKeys::default();
        let control = bound.control();
        let last = DrainGuard(control.clone(), shared.clone());
        let (supervisor, prepared) = Supervisor::prepare()?;
        let (crypto, crypto_thread) = crypto::Crypto::start(
            host_key.clone(),
            did.clone(),
            options.keys.clone(),
            mailers.clone(),
            supervisor.clone(),
            keys_of.clone(),
            last,
        )?;
        let store = Box::new(MemoryStore::new(store::Limits::default()));
        let profiles =
            Box::new(ConfigProfiles { profiles: vec![profile], is_demo: matches!(options.agent, Agent::Demo) });
        let hub = Hub::new(session::Settings::default(), store, profiles, Box::new(RandomIds(keys_of)));
        let live = Live { agent: options.agent.clone(), environment: options.environment.clone() };
        let live = Arc::new(RwLock::new(live));
        let launcher = Launcher { live: live.clone(), guard: GuardProgram::this() };
        if reactor::now().unix_ms <= began_ms {
            std::thread::sleep(Duration::from_millis(1));
        }
        let agents = Arc::new(delivery::Parts {
            greeting: delivery::Greeting { did: did.into(), started_ms: began_ms + 1 },
            services: options.services.clone(),
            verifies_all: options.amp_verify == Verify::All,
            workers: u16::try_from(mailers.len()).unwrap_or(u16::MAX),
            secret: rand_secret()?,
        });
        let all = mailers.clone();
        let parts = Parts { hub, launcher, mailers, shared: shared.clone(), grace_ms: options.grace_ms, control };
        let first = options.first_session.clone();
        let first = first.map(|create| Create { profile: DEFAULT_PROFILE.into(), ..create });
        let (supervisor_thread, first) = prepared.start(parts, first).map_err(StartError::FirstSession)?;

        // Logged last: if the start has failed, it was for another reason.
        if let (Some(open_files), true) = (open_files(), connections < reactor::Options::default().connections_max) {
            log::info!(open_files, connections; "the limit of open files (ulimit -Hn, LimitNOFILE=) bounds the connections");
        }
        let control = bound.control();
        let core = supervisor.inbox.clone();
        let stopper =
            ShutdownHandle { control: control.clone(), supervisor: supervisor.clone(), shared: shared.clone() };
        let shared_too = shared.clone();
        let handlers =
            Handlers { greeting, crypto: crypto.clone(), core, shared: shared_too, agents, mailers: all, stopper, ws };
        let rest =
            Self { control, addresses, first, supervisor, supervisor_thread, crypto, crypto_thread, shared, live };
        Ok((bound, handlers, rest))
    }

    /// There are no workers: the crypto thread ends with its last sender; the supervisor would run on, and its sessions
    /// with it.
    fn give_up(self) {
        self.supervisor.drain();
        let _ = self.supervisor_thread.join();
    }

    fn stopper(&self) -> ShutdownHandle {
        ShutdownHandle {
            control: self.control.clone(),
            supervisor: self.supervisor.clone(),
            shared: self.shared.clone(),
        }
    }

    /// Waits for the end of the threads. The workers have ended as `loops` says.
    fn join(self, loops: Result<(), String>) -> Result<(), String> {
        // A worker that failed takes the rest down in order.
        self.supervisor.drain();
        let supervisor = self.supervisor_thread.join();
        self.crypto.end();
        let crypto = self.crypto_thread.join();
        match (loops, supervisor, crypto) {
            (Ok(()), Ok(Ok(())), Ok(())) => Ok(()),
            (Err(error), ..) => Err(format!("a worker failed: {error}")),
            (_, Ok(Err(error)), _) => Err(format!("the supervisor failed: {error}")),
            (_, Err(_), _) => Err("the supervisor thread panicked".into()),
            (.., Err(_)) => Err("the crypto thread panicked".into()),
        }
    }
}

impl Server {
    /// Starts every thread. When this returns the relay serves.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub fn start(options: &Options, host_key: PrivateKey) -> Result<Self, StartError> {
        let (bound, handlers, rest) = Runtime::start(options, host_key)?;
        match bound.start(move |index, _| handlers.make(index)) {
            Ok(handle) => {
                rest.shared.ready.store(true, Ordering::Relaxed);
                Ok(Self { handle, rest })
            }
            Err(error) => {
                rest.give_up();
                Err(error.into())
            }
        }
    }

    /// Where it listens, in the order of the options.
    pub fn addresses(&self) -> &[BoundAddr] {
        &self.rest.addresses
    }

    /// The session that was created at the start.
    pub fn first_session(&self) -> Option<&Summary> {
        self.rest.first.as_ref()
    }

    /// What can begin the end from another thread.
    pub fn stopper(&self) -> ShutdownHandle {
        self.rest.stopper()
    }

    /// What can change a relay that runs, from another thread.
    pub fn reloader(&self) -> Reloader {
        Reloader { live: self.rest.live.clone(), crypto: self.rest.crypto.clone() }
    }

    /// Waits until the relay has ended: after a drain, or because one of its threads failed.
    ///
    /// # Errors
    /// A thread failed; the others were drained.
    pub fn join(self) -> Result<(), String> {
        let loops = self.handle.join().map_err(|error| error.to_string());
        self.rest.join(loops)
    }
}

/// Begins the end of a relay from any thread.
#[derive(Clone)]
pub struct ShutdownHandle {
    control: Control,
    supervisor: Supervisor,
    shared: Arc<Shared>,
}

impl ShutdownHandle {
    /// Whether the relay has been told to end, by a signal or by its admin.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Takes no more connections, tells every peer (1001), ends every session, all within the grace.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.supervisor.drain();
        self.control.drain();
    }
}

/// Changes a relay that runs.
#[derive(Clone)]
pub struct Reloader {
    live: Arc<RwLock<Live>>,
    crypto: crypto::Crypto,
}

impl Reloader {
    /// Has processes that start from now on run this Claude Code (`None`: the one that is found) in this environment, and
    /// the keys file read again. A relay of the demo agent stays one.
    pub fn reload(&self, claude: Option<PathBuf>, environment: Changes) {
        let mut live = self.live.write();
        if let Agent::Claude(named) = &mut live.agent {
            *named = claude;
        }
        live.environment = environment;
        drop(live);
        self.crypto.refresh();
    }
}

/// The settings of the loop.
fn loop_options(options: &Options) -> reactor::Options {
    let defaults = reactor::Options::default();
    reactor::Options {
        workers: options.workers,
        pin: options.pin,
        listeners: options.listen.clone(),
        connections_max: connections_max(defaults.connections_max, open_files()),
        queue_high: QUEUE_HIGH,
        queue_low: QUEUE_LOW,
        unix_reserve: UNIX_RESERVE,
        grace_ms: options.grace_ms,
        linger_ms: LINGER_MS,
        pace_ms: pace_ms(options.ws_ping_ms),
        patience_ms: patience_ms(options.ws_ping_ms, defaults.patience_ms),
        ..defaults
    }
}

fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// How many connections there may be: peers, even without a sign-in, must not take the descriptors that files and the
/// pipes of sessions need.
fn connections_max(wanted: usize, descriptors: Option<u64>) -> usize {
    let Some(descriptors) = descriptors.and_then(|descriptors| usize::try_from(descriptors).ok()) else {
        return wanted;
    };
    let reserve = DESCRIPTORS_RESERVED.min(descriptors / 2);
    wanted.min(descriptors - reserve).max(1)
}

/// How far a slow reader may be behind: a small part of the time in which signs of life are looked for, and in which its
/// own pings want an answer.
fn pace_ms(ws_ping_ms: u64) -> u64 {
    (or_usual(ws_ping_ms) / 12).max(16)
}

/// How long a slow reader's answer is waited for: `most_ms` or what its pace asks for, but no longer than until it would be
/// taken for gone.
fn patience_ms(ws_ping_ms: u64, most_ms: u64) -> u64 {
    pace_ms(ws_ping_ms).saturating_mul(10).max(most_ms.min(or_usual(ws_ping_ms).saturating_mul(2)))
}

/// Without pings the time is that of the usual ones.
fn or_usual(ws_ping_ms: u64) -> u64 {
    if ws_ping_ms == 0 { WS_PING_MS } else { ws_ping_ms }
}

/// Keys the hash of names, so that a peer cannot choose DIDs that share a bucket.
fn rand_secret() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| StartError::Io(std::io::Error::other(error.to_string())))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Bytes that cannot be guessed; `None` where the system gives none.
fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}

/// The settings of the WebSocket layer.
fn ws_options(deflate: Deflate, hosts: HostPolicy) -> Result<WsOptions, StartError> {
    let ws = WsOptions { hosts, message_max: MESSAGE_MAX, ..WsOptions::default() };
    match deflate {
        Deflate::Off => Ok(ws),
        Deflate::On => compressing(ws, false),
        Deflate::Takeover => compressing(ws, true),
    }
}

#[cfg(feature = "deflate")]
fn compressing(ws: WsOptions, takeover: bool) -> Result<WsOptions, StartError> {
    use crate::wire::ws::deflate::DeflateOptions;
    Ok(WsOptions { deflate: Some(DeflateOptions { takeover, ..DeflateOptions::default() }), ..ws })
}

#[cfg(not(feature = "deflate"))]
fn compressing(_: WsOptions, _: bool) -> Result<WsOptions, StartError> {
    Err(option("permessage-deflate was asked for, and this program was built without it (the feature `deflate`)"))
}

fn option(message: impl Into<String>) -> StartError {
    StartError::Option(message.into())
}

fn default_profile(options: &Options) -> Profile {
    Profile {
        name: DEFAULT_PROFILE.into(),
        about: options.agent.about().into(),
        folders: options.folders.clone(),
        open: options.open,
        modes: MODES.into_iter().map(Into::into).collect(),
        models: Vec::new(),
    }
}

fn greeting(host_key: &PrivateKey, did: &str, profile: &Profile, agent: &Agent) -> Result<Greeting, StartError> {
    let key = host_key.public_key().to_openssh().map_err(|error| option(format!("the host key: {error}")))?;
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let relay = RelayInfo { did: did.to_owned(), key, name, version: env!("CARGO_PKG_VERSION").to_owned() };
    let limits = Limits { message_bytes: MESSAGE_MAX as u64, blob_bytes: 0, tick_ms: TICK_MS };
    let profiles = vec![ProfileInfo {
        name: profile.name.to_string(),
        about: profile.about.to_string(),
        folders: profile.folders.iter().map(|folder| folder.display().to_string()).collect(),
        modes: profile.modes.iter().map(ToString::to_string).collect(),
        agent: agent.name().to_owned(),
    }];
    Ok(Greeting { relay, limits, profiles })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh_key::{Algorithm, rand_core::OsRng};

    #[test]
    fn connections_leave_descriptors_for_sessions() {
        assert_eq!(connections_max(100_000, None), 100_000);
        assert_eq!(connections_max(100_000, Some(1 << 20)), 100_000);
        assert_eq!(connections_max(100_000, Some(4096)), 4096 - DESCRIPTORS_RESERVED);
        assert_eq!(connections_max(100_000, Some(256)), 128);
        assert_eq!(connections_max(100_000, Some(0)), 1);
    }

    #[test]
    fn a_slow_reader_is_behind_by_a_twelfth_of_the_time_between_two_pings() {
        assert_eq!(pace_ms(24_000), 2_000);
        // Without pings the time is that of the default pings.
        assert_eq!((pace_ms(0), pace_ms(25_000)), (2_083, 2_083));
        // Very frequent pings leave time enough to measure what the peer reads.
        assert_eq!([1, 192, 204].map(pace_ms), [16, 16, 17]);
        assert_eq!(pace_ms(u64::MAX), u64::MAX / 12);
        // A program that reads ahead reads on no sooner where the relay pings more often, and must not be taken for gone.
        let patience_ms = |ws_ping_ms| {
            let options = Options { ws_ping_ms, ..Options::new("keys".into(), Agent::Demo) };
            loop_options(&options).patience_ms
        };
        assert_eq!([2_000, 24_000, 48_000].map(patience_ms), [4_000, 20_000, 40_000]);
    }

    #[test]
    fn who_asks_for_compression_gets_it_or_an_error() {
        let made = |deflate| ws_options(deflate, HostPolicy::default());
        assert!(made(Deflate::Off).is_ok());
        for (deflate, takeover) in [(Deflate::On, false), (Deflate::Takeover, true)] {
            let made = made(deflate);
            #[cfg(feature = "deflate")]
            assert_eq!(made.expect("built with it").deflate.map(|options| options.takeover), Some(takeover));
            #[cfg(not(feature = "deflate"))]
            assert!(made.is_err_and(|error| error.to_string().contains("feature `deflate`")), "{takeover}");
        }
    }

    #[test]
    fn a_relay_that_has_lost_a_thread_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options {
            workers: 2,
            listen: vec![Listen::Unix(folder.path().join("relay.sock"))],
            folders: vec![folder.path().to_owned()],
            grace_ms: 1_000,
            ..Options::new(folder.path().join("keys"), Agent::Demo)
        };
        let key = || PrivateKey::random(&mut OsRng, Algorithm::Ed25519).expect("a key");
        let lost_crypto = Server::start(&options, key()).expect("started");
        lost_crypto.rest.crypto.clone().end();
        assert_eq!(lost_crypto.join(), Ok(()));
        let lost_supervisor = Server::start(&options, key()).expect("started");
        lost_supervisor.rest.supervisor.drain();
        assert_eq!(lost_supervisor.join(), Ok(()));
    }
}
