//! The crypto thread: verifies sign-ins and, where that is wanted, agents' messages, signs the relay's proofs, and owns
//! the keys file, which it reads again when it changes. It must not touch a connection: its answers go to the workers
//! by mail.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    task::{Wake, Waker},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, never, select};
use ed25519_dalek::SigningKey;
use ssh_key::PrivateKey;

use super::{
    channels::{Links, Mail, Mailers, Order, SessionKeys},
    drain_guard::DrainGuard,
    supervisor::Supervisor,
};
use crate::{
    base::{file, text},
    reactor::{self, ws::Framed},
    relay::{
        admission::{Admission, HelloJob, Judged},
        api::{Code, Error, Text},
        delivery::{BATCHES_OUT_MAX, Check, JOBS_OUT_MAX, Job, Lane, Signed, Verifier},
        keys::{KEYS_FILE_BYTES_MAX, KeySet, KeysFound},
        signer::Signer,
    },
    wire::amp::Id,
};

/// Jobs of admitted peers (a proved key, or the Unix socket) that go before one of a stranger.
const JOBS_BEFORE_A_STRANGER: usize = 64;
/// How often the keys file is looked at while there is no sign-in.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long a keys file may be away, or empty, before that is believed: editors write a file anew or rename one into
/// its place, which must not revoke a key.
const AWAY_MAX: Duration = Duration::from_secs(5);

/// The way to the crypto thread. Cloning is cheap. Messages to be checked have a queue of their own, so that a sign-in
/// does not wait behind all of them. What workers have on the way is bounded by them (`lanes`, `verification`), so that
/// none of it finds a queue full.
#[derive(Clone)]
pub(super) struct Crypto {
    jobs: Sender<Order>,
    /// Jobs of TCP connections that have proved nothing.
    strangers: Sender<Order>,
    checks: Sender<Vec<Check<Framed>>>,
    /// The keys file is to be read again.
    refresh: Sender<()>,
}

/// The ends of the queues at the crypto thread.
struct Queues {
    jobs: Receiver<Order>,
    strangers: Receiver<Order>,
    checks: Receiver<Vec<Check<Framed>>>,
    refresh: Receiver<()>,
    /// A worker's inbox that was full has room.
    bell: Receiver<()>,
}

/// Wakes the crypto thread, which sleeps on its queues.
struct Bell(Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A ring that is not heard yet says as much.
        let _ = self.0.try_send(());
    }
}

impl Crypto {
    /// Starts the thread. The keys file is read before this returns.
    pub(super) fn start(
        host_key: PrivateKey,
        did: String,
        keys: PathBuf,
        mailers: Mailers,
        supervisor: Supervisor,
        session_keys: SessionKeys,
        last: DrainGuard,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (bell, heard) = bell();
        let mut thread =
            CryptoLoop::new(host_key, did, KeysFile::new(keys), mailers.links(&bell), supervisor, session_keys)?;
        thread.refresh(true);
        // There is no connection yet that it would matter to.
        thread.links.retain(|_| false);
        let (crypto, queues) = Self::queues(mailers.len(), heard);
        let run = move || {
            // Without this thread there is no sign-in.
            let _last = last;
            while thread.turn(&queues, WATCH_EVERY) {}
        };
        let thread = thread::Builder::new().name("crypto".into()).spawn(run)?;
        Ok((crypto, thread))
    }

    fn queues(workers: usize, bell: Receiver<()>) -> (Self, Queues) {
        let (to_jobs, jobs) = crossbeam_channel::bounded(JOBS_OUT_MAX * workers);
        let (to_strangers, strangers) = crossbeam_channel::bounded(JOBS_OUT_MAX * workers);
        let (to_checks, checks) = crossbeam_channel::bounded(BATCHES_OUT_MAX * workers);
        let (to_refresh, refresh) = crossbeam_channel::bounded(1);
        let crypto = Self { jobs: to_jobs, strangers: to_strangers, checks: to_checks, refresh: to_refresh };
        (crypto, Queues { jobs, strangers, checks, refresh, bell })
    }

    /// Hands a job of a worker over; what comes of it comes by mail.
    pub(super) fn give(&self, lane: Lane, job: Job) {
        let queue = if lane == Lane::Strangers { &self.strangers } else { &self.jobs };
        hand_over(queue, Order::Job(lane, job));
    }

    /// Has messages checked; the verdicts come by mail, in this order for each worker.
    pub(super) fn check(&self, batch: Vec<Check<Framed>>) {
        hand_over(&self.checks, batch);
    }

    /// Has the keys file read again.
    pub(super) fn refresh(&self) {
        // Where that is to be done already, it is done once.
        let _ = self.refresh.try_send(());
    }

    /// Ends the thread after what waits.
    pub(super) fn end(self) {
        // A full queue is worked off: there is room in a moment, or no thread any more.
        let _ = self.jobs.send(Order::End);
    }
}

/// Without the thread, which only happens at the relay's end, the message is lost.
fn hand_over<T>(queue: &Sender<T>, message: T) {
    let sent = queue.try_send(message);
    debug_assert!(!matches!(sent, Err(TrySendError::Full(_))), "a worker gives no more than there is room for");
}

/// What wakes the crypto thread, and where it hears that.
fn bell() -> (Waker, Receiver<()>) {
    let (bell, heard) = crossbeam_channel::bounded(1);
    (Arc::new(Bell(bell)).into(), heard)
}

struct CryptoLoop {
    admission: Admission,
    keys: KeysFile,
    links: Links,
    supervisor: Supervisor,
    signer: Signer<SessionKeys>,
    verifier: Verifier,
    /// When the keys file was looked at.
    looked: Instant,
}

impl CryptoLoop {
    fn new(
        host_key: PrivateKey,
        did: String,
        keys: KeysFile,
        links: Links,
        supervisor: Supervisor,
        session_keys: SessionKeys,
    ) -> io::Result<Self> {
        let pair =
            host_key.key_data().ed25519().ok_or_else(|| io::Error::other("the host key must be an Ed25519 key"))?;
        let signing = SigningKey::from_bytes(&pair.private.to_bytes());
        let (verifier, looked) = (Verifier::default(), Instant::now());
        let signer = Signer::new(did.as_str().into(), signing, session_keys);
        let admission = Admission::new(host_key, did);
        Ok(Self { admission, keys, links, supervisor, signer, verifier, looked })
    }

    /// Waits at most so long for something to do. False: the thread is to end.
    fn turn(&mut self, queues: &Queues, wait: Duration) -> bool {
        let Queues { jobs, strangers, checks, refresh, bell } = queues;
        // A stranger's job may take as long as a hundred answers: the other jobs go first, as many as are there, up to
        // a bound.
        for _ in 0..JOBS_BEFORE_A_STRANGER {
            match jobs.try_recv() {
                Ok(Order::End) | Err(TryRecvError::Disconnected) => return false,
                Ok(order) => self.order(order),
                Err(TryRecvError::Empty) => break,
            }
        }
        // The mail of these jobs is not kept back by what follows. No more messages are checked while verdicts find an
        // inbox full, so that they need not be dropped. What waits in both queues is served in turn: neither keeps the
        // other out.
        let nothing = never();
        let checks = if self.links.flush() { checks } else { &nothing };
        select! {
            recv(jobs) -> order => match order {
                Ok(Order::End) | Err(_) => return false,
                Ok(order) => self.order(order),
            },
            recv(strangers) -> order => if let Ok(order) = order {
                self.order(order);
            },
            recv(checks) -> batch => if let Ok(batch) = batch {
                self.check(batch);
            },
            recv(refresh) -> asked => if asked.is_ok() {
                self.refresh(true);
            },
            recv(bell) -> _ => {}
            default(wait) => {}
        }
        if self.looked.elapsed() >= WATCH_EVERY {
            self.refresh(false);
        }
        self.links.flush();
        true
    }

    /// What comes of it is never dropped: it answers what a worker has on the way, which is bounded.
    fn order(&mut self, order: Order) {
        match order {
            Order::End => {}
            Order::Job(lane, job) => self.job(lane, job),
        }
    }

    fn job(&mut self, lane: Lane, job: Job) {
        match job {
            Job::SignIn(job) => {
                self.refresh(false);
                let (peer, result) = (job.peer, self.admission.sign_in(&job.sign_in, &job.server_nonce));
                self.links.push(usize::from(peer.worker()), Mail::SignedIn { peer, lane, result });
            }
            Job::Reload { peer, id } => {
                self.refresh(true);
                let result = self.keys.found();
                self.links.push(usize::from(peer.worker()), Mail::KeysRead { peer, id, result: Box::new(result) });
            }
            Job::Hello(job) => {
                self.refresh(false);
                let (peer, judged) = (job.peer, self.hello(&job));
                self.links.push(usize::from(peer.worker()), Mail::Judged { peer, lane, judged });
            }
            Job::Reply(reply) => {
                let (via, close) = (reply.via, reply.close);
                // A reply that cannot be written is sent empty: the worker counts what is on the way, and a close may
                // be due.
                let frame = self.signer.sign(&reply).unwrap_or_default();
                self.links.push(usize::from(via.worker()), Mail::Signed(Signed { via, lane, frame, close }));
            }
        }
    }

    /// Checks a batch of one worker. Its verdicts are never dropped: the worker counts what is on the way, and bounds it.
    fn check(&mut self, batch: Vec<Check<Framed>>) {
        let Some(worker) = batch.first().map(|check| usize::from(check.peer.worker())) else { return };
        let checked = self.verifier.batch(batch);
        self.links.push(worker, Mail::Checked(checked));
    }

    /// Tells the supervisor, then every worker, when the keys have changed: the commands and connections of removed
    /// keys must end. This is never dropped; the newest keys take the place of those that wait. Each worker gets its
    /// mail in order: a sign-in that was admitted by older keys comes before the newer keys, which then end it.
    fn refresh(&mut self, force: bool) {
        self.looked = Instant::now();
        if !self.keys.refresh(force) {
            return;
        }
        self.admission.set_keys(self.keys.set.clone());
        self.supervisor.keys(self.keys.set.clone());
        self.links.retain(|mail| !matches!(mail, Mail::Keys(_)));
        for worker in 0..self.links.len() {
            self.links.push(worker, Mail::Keys(self.keys.set.clone()));
        }
    }

    fn hello(&mut self, job: &HelloJob) -> Option<Judged> {
        let now = reactor::now();
        let proved = match &job.proves {
            Some(did) => self.admission.hello(did, &job.frame, &job.id, now.mono_ms).map(Some),
            None => Ok(None),
        };
        self.signer.hello(job, proved, Id::new(now.unix_ms, super::random()?))
    }
}

/// What tells one state of a file from the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

struct KeysFile {
    path: PathBuf,
    stamp: Option<Stamp>,
    set: Arc<KeySet>,
    /// Since when the file has been away or empty.
    away: Option<Instant>,
    /// Why the keys in force are not what the file says.
    fault: Option<String>,
}

impl KeysFile {
    fn new(path: PathBuf) -> Self {
        Self { path, stamp: None, set: Arc::default(), away: None, fault: None }
    }

    fn stamp(&self) -> Option<Stamp> {
        let meta = fs::metadata(&self.path).ok()?;
        Some(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Reads the file again if it has changed. True: the keys in force may differ. A file that cannot be read admits no
    /// key. Only where the system is out of descriptors or memory, which any peer may bring about, the keys stay and
    /// the next look tries again. `is_asked`: a command or a signal asks for it, so the file is no longer being
    /// written.
    fn refresh(&mut self, is_asked: bool) -> bool {
        self.refresh_with(is_asked, Self::read)
    }

    fn refresh_with(&mut self, is_asked: bool, read: impl FnOnce(&Self) -> io::Result<String>) -> bool {
        let stamp = self.stamp();
        if self.is_away_for_a_moment(stamp, is_asked) {
            return false;
        }
        if stamp == self.stamp && !is_asked {
            return false;
        }
        self.fault = None;
        let path = self.path.display();
        let set = match read(self) {
            Ok(text) => KeySet::parse(&text),
            Err(error) if is_exhausted(&error) => {
                log::error!(path:% = path, error:% = error; "the keys file cannot be read for now: the keys stay");
                self.fault = Some(format!("it cannot be read for now ({error}): the keys stay"));
                self.stamp = None;
                return false;
            }
            Err(error) => {
                self.fault = Some(format!("it cannot be read ({error}): nobody can sign in"));
                log::error!(path:% = path, error:% = error; "the keys file cannot be read: nobody can sign in");
                KeySet::default()
            }
        };
        // A client that changes the keys has them read at its sign-in, and again by its command: the second read is no
        // news.
        if std::mem::replace(&mut self.stamp, stamp) != stamp {
            for refused in &set.refused {
                log::warn!(path:% = path, line = refused.line, reason = &*refused.reason; "a line of the keys file is refused");
            }
            log::info!(path:% = path, keys = set.entries.len(), refused = set.refused.len(); "keys read");
        }
        self.set = Arc::new(set);
        true
    }

    /// Whether the file is away or empty, and has not been for long: until then the keys stay. If the read was asked
    /// for, an empty file is taken as it is.
    fn is_away_for_a_moment(&mut self, stamp: Option<Stamp>, is_asked: bool) -> bool {
        if stamp.is_some_and(|stamp| stamp.bytes > 0 || is_asked) || self.set.entries.is_empty() {
            self.away = None;
            return false;
        }
        let since = self.away.get_or_insert_with(|| {
            let seconds = AWAY_MAX.as_secs();
            log::warn!(path:% = self.path.display(); "the keys file is away or empty: the keys stay for {seconds} s");
            Instant::now()
        });
        let elapsed = since.elapsed();
        if elapsed >= AWAY_MAX {
            return false;
        }
        let seconds = (AWAY_MAX - elapsed).as_secs_f32().ceil();
        self.fault = Some(format!("it is not there: the keys stay for {seconds} s, then nobody can sign in"));
        true
    }

    /// The keys in force, for the peer that asked for the file to be read.
    ///
    /// # Errors
    /// They are not what the file says.
    fn found(&self) -> Result<KeysFound, Error> {
        let file: Text = self.path.display().to_string().into();
        match &self.fault {
            Some(why) => Err(Error::new(Code::Internal, format!("the keys file {file} was not read: {why}"))),
            None => Ok(KeysFound { file, entries: self.set.entries.len(), refused: self.set.refused.len() }),
        }
    }

    /// The file's text. A comment in another encoding than UTF-8 must not cost all keys their effect.
    fn read(&self) -> io::Result<String> {
        Ok(text::of_file(&file::read(&self.path, KEYS_FILE_BYTES_MAX as u64)?).into_owned())
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

#[cfg(test)]
#[path = "crypto_tests.rs"]
mod tests;
