//! The crypto thread: verifies sign-ins and, where that is wanted, agents' messages, signs the relay's proofs, and owns the keys file, which it reads again when
//! it changes. It must not touch a connection: its answers go to the workers by mail.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, never, select};
use ed25519_dalek::SigningKey;
use ssh_key::PrivateKey;

use super::{
    channels::{Mail, Mailers, Order, SessionKeys},
    drain_guard::DrainGuard,
};
use crate::{
    base::text,
    reactor::{self, ws::Framed},
    relay::{
        admission::{Admission, HelloJob, Judged},
        api::{Code, Error, Text},
        delivery::{BATCHES_MAX, Check, JOBS_OUT_MAX, Job, Lane, Signed, Verifier},
        keys::{FILE_BYTES_MAX, KeySet, KeysFound},
        signer::Signer,
    },
    wire::amp::Id,
};

/// Jobs of others than workers that may wait.
const JOBS_OF_OTHERS_MAX: usize = 64;
/// Jobs of those who have proved a key, or are on the Unix socket, that go before one of a stranger.
const JOBS_BEFORE_A_STRANGER: usize = 64;
/// How often the keys file is looked at while nobody signs in.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long a keys file may be away, or empty, before that is believed: editors write a file anew or rename one into its
/// place, and nobody's key is revoked by that.
const AWAY_MAX: Duration = Duration::from_secs(5);
/// How soon mail that found an inbox full is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// The way to the crypto thread. Cloning is cheap. Messages to be checked have a queue of their own, so that those who
/// sign in do not wait behind all of them.
#[derive(Clone)]
pub(super) struct Crypto {
    jobs: Sender<Order>,
    /// Of connections over TCP that have proved nothing.
    strangers: Sender<Order>,
    checks: Sender<Vec<Check<Framed>>>,
}

impl Crypto {
    /// Starts the thread. The keys file is read before this returns.
    pub(super) fn start(
        host_key: PrivateKey,
        did: String,
        keys: PathBuf,
        mailers: Mailers,
        session_keys: SessionKeys,
        last: DrainGuard,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        // What workers have on the way is bounded by them (`lanes`), so that this is never full.
        let (to_jobs, jobs) = crossbeam_channel::bounded(JOBS_OUT_MAX * mailers.len() + JOBS_OF_OTHERS_MAX);
        let (to_strangers, strangers) = crossbeam_channel::bounded(JOBS_OUT_MAX * mailers.len());
        let (to_checks, checks) = crossbeam_channel::bounded(BATCHES_MAX);
        let mut desk = Desk::new(host_key, did, KeysFile::new(keys), mailers, session_keys)?;
        desk.refresh(true);
        desk.pending.clear();
        let run = move || {
            // Without this thread nobody can sign in.
            let _last = last;
            desk.run(&jobs, &strangers, &checks);
        };
        let thread = thread::Builder::new().name("crypto".into()).spawn(run)?;
        Ok((Self { jobs: to_jobs, strangers: to_strangers, checks: to_checks }, thread))
    }

    /// Hands a job of a worker over; what comes of it comes by mail.
    ///
    /// # Errors
    /// There is no room: it is given back. Without the thread, which only happens at the relay's end, it is lost.
    pub(super) fn give(&self, lane: Lane, job: Job) -> Result<(), Job> {
        let queue = if lane == Lane::Strangers { &self.strangers } else { &self.jobs };
        match queue.try_send(Order::Job(lane, job)) {
            Err(TrySendError::Full(Order::Job(_, job))) => Err(job),
            _ => Ok(()),
        }
    }

    /// Has the keys file read again. Where no room is left it is looked at soon enough anyway.
    pub(super) fn refresh(&self) {
        let _ = self.jobs.try_send(Order::Refresh);
    }

    /// Has messages checked; the verdicts come by mail, in this order for each worker.
    ///
    /// # Errors
    /// Too many wait: they are given back.
    pub(super) fn check(&self, batch: Vec<Check<Framed>>) -> Result<(), Vec<Check<Framed>>> {
        match self.checks.try_send(batch) {
            Err(TrySendError::Full(batch)) => Err(batch),
            // Without the thread the relay ends.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Ends the thread after what waits.
    pub(super) fn end(self) {
        // A full queue is worked off: there is room in a moment, or no thread any more.
        let _ = self.jobs.send(Order::End);
    }
}

struct Desk {
    admission: Admission,
    keys: KeysFile,
    mailers: Mailers,
    pending: VecDeque<(usize, Mail)>,
    signer: Signer<SessionKeys>,
    verifier: Verifier,
    /// When the keys file was looked at.
    looked: Instant,
}

impl Desk {
    fn new(
        host_key: PrivateKey,
        did: String,
        keys: KeysFile,
        mailers: Mailers,
        session_keys: SessionKeys,
    ) -> io::Result<Self> {
        let pair =
            host_key.key_data().ed25519().ok_or_else(|| io::Error::other("the host key must be an Ed25519 key"))?;
        let signing = SigningKey::from_bytes(&pair.private.to_bytes());
        let (pending, verifier, looked) = (VecDeque::new(), Verifier::default(), Instant::now());
        let signer = Signer::new(did.as_str().into(), signing, session_keys);
        let admission = Admission::new(host_key, did);
        Ok(Self { admission, keys, mailers, pending, signer, verifier, looked })
    }

    fn run(&mut self, jobs: &Receiver<Order>, strangers: &Receiver<Order>, checks: &Receiver<Vec<Check<Framed>>>) {
        let nothing = never();
        loop {
            // One job of a stranger may take as long as a hundred answers: those go first, as many as are there, up to a bound.
            for _ in 0..JOBS_BEFORE_A_STRANGER {
                match jobs.try_recv() {
                    Ok(Order::End) | Err(TryRecvError::Disconnected) => return,
                    Ok(order) => self.order(order),
                    Err(TryRecvError::Empty) => break,
                }
            }
            // What comes of them is not kept back by what follows.
            self.flush();
            let wait = if self.pending.is_empty() { WATCH_EVERY } else { RETRY_AFTER };
            // No more messages are checked while verdicts find an inbox full, so that they need not be dropped. Who
            // waits in both queues is served in turn: neither keeps the other out.
            let checks = if self.pending.is_empty() { checks } else { &nothing };
            select! {
                recv(jobs) -> order => match order {
                    Ok(Order::End) | Err(_) => return,
                    Ok(order) => self.order(order),
                },
                recv(strangers) -> order => if let Ok(order) = order {
                    self.order(order);
                },
                recv(checks) -> batch => if let Ok(batch) = batch {
                    self.check(batch);
                },
                default(wait) => {}
            }
            if self.looked.elapsed() >= WATCH_EVERY {
                self.refresh(false);
            }
            self.flush();
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::End => {}
            Order::Refresh => self.refresh(true),
            Order::Job(lane, job) => self.job(lane, job),
        }
    }

    fn job(&mut self, lane: Lane, job: Job) {
        match job {
            Job::SignIn(job) => {
                self.refresh(false);
                let (peer, result) = (job.peer, self.admission.sign_in(&job.sign_in, &job.server_nonce));
                self.mail(usize::from(peer.worker()), Mail::SignedIn { peer, lane, result });
            }
            Job::Reload { peer, id } => {
                self.refresh(true);
                let result = self.keys.found();
                self.mail(usize::from(peer.worker()), Mail::KeysRead { peer, id, result: Box::new(result) });
            }
            Job::Hello(job) => {
                self.refresh(false);
                let (peer, judged) = (job.peer, self.hello(&job));
                self.mail(usize::from(peer.worker()), Mail::Judged { peer, lane, judged });
            }
            Job::Reply(reply) => {
                let (via, close) = (reply.via, reply.close);
                // What cannot be written is not said, but the worker counts what is on the way, and a close is due.
                let frame = self.signer.sign(&reply).unwrap_or_default();
                self.mail(usize::from(via.worker()), Mail::Signed(Signed { via, lane, frame, close }));
            }
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

    /// Checks a batch of one worker. Its verdicts are never dropped: the worker counts what is on the way, and bounds it.
    fn check(&mut self, batch: Vec<Check<Framed>>) {
        let Some(worker) = batch.first().map(|check| usize::from(check.peer.worker())) else { return };
        let checked = self.verifier.batch(batch);
        self.pending.push_back((worker, Mail::Checked(checked)));
    }

    /// None is ever dropped: each answers what a worker has on the way, which is bounded.
    fn mail(&mut self, worker: usize, mail: Mail) {
        self.pending.push_back((worker, mail));
    }

    /// Sends what waits. Each worker gets its mail in order: a sign-in that was admitted by older keys comes before the
    /// newer keys, which then end it.
    fn flush(&mut self) {
        let mut full: Vec<usize> = Vec::new();
        for (worker, mail) in std::mem::take(&mut self.pending) {
            if full.contains(&worker) {
                self.pending.push_back((worker, mail));
            } else if let Err(mail) = self.mailers.send(worker, mail) {
                full.push(worker);
                self.pending.push_back((worker, mail));
            }
        }
    }

    /// Tells every worker when the keys have changed: connections of keys that are gone must end. This is never
    /// dropped; the newest keys take the place of those that wait.
    fn refresh(&mut self, force: bool) {
        self.looked = Instant::now();
        if !self.keys.refresh(force) {
            return;
        }
        self.admission.set_keys(self.keys.set.clone());
        self.pending.retain(|(_, mail)| !matches!(mail, Mail::Keys(_)));
        for worker in 0..self.mailers.len() {
            self.pending.push_back((worker, Mail::Keys(self.keys.set.clone())));
        }
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

    /// Reads the file again if it has changed. True: the keys in force may differ. A file that cannot be read admits
    /// nobody; only where the system is out of descriptors or memory, which any peer may bring about, the keys stay and
    /// the next look tries again. `is_asked`: somebody says that the file is to be read, so it is no longer being written.
    fn refresh(&mut self, is_asked: bool) -> bool {
        let stamp = self.stamp();
        if self.is_away_for_a_moment(stamp, is_asked) {
            return false;
        }
        if stamp == self.stamp && !is_asked {
            return false;
        }
        self.fault = None;
        let path = self.path.display();
        let set = match self.read() {
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
        // Who changes the keys has them read at its sign-in, and once more by its command: that is no news then.
        if std::mem::replace(&mut self.stamp, stamp) != stamp {
            for refused in &set.refused {
                log::warn!(path:% = path, line = refused.line, reason = &*refused.reason; "a line of the keys file is refused");
            }
            log::info!(path:% = path, keys = set.entries.len(), refused = set.refused.len(); "keys read");
        }
        self.set = Arc::new(set);
        true
    }

    /// Whether the file is away or empty, and has not been for long: until then the keys stay. Empty is what it is to be
    /// where it is asked for.
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

    /// What is in force, for who asked for the file to be read.
    ///
    /// # Errors
    /// The file does not say so.
    fn found(&self) -> Result<KeysFound, Error> {
        let file: Text = self.path.display().to_string().into();
        match &self.fault {
            Some(why) => Err(Error::new(Code::Internal, format!("the keys file {file} was not read: {why}"))),
            None => Ok(KeysFound { file, entries: self.set.entries.len(), refused: self.set.refused.len() }),
        }
    }

    /// The file's text, one byte more than may be read at the most. A comment in another encoding than UTF-8 must not
    /// cost all keys their effect.
    fn read(&self) -> io::Result<String> {
        let mut bytes = Vec::new();
        fs::File::open(&self.path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(text::of_file(&bytes).into_owned())
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::ConnToken,
        reactor::{Listen, Options, Reactor, ws::Ws},
    };

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    /// A desk whose one worker never runs and whose inbox takes one mail.
    fn desk(path: PathBuf) -> (Desk, impl Sized) {
        let listeners = vec![Listen::Tcp(([127, 0, 0, 1], 0).into())];
        let options = Options { workers: 1, inbox_capacity: 1, listeners, ..Options::default() };
        let bound = Reactor::bind::<Ws<super::super::worker::Worker>>(options).expect("a loop");
        let mailers = Mailers(bound.mailers().into());
        let host_key = PrivateKey::random(&mut ssh_key::rand_core::OsRng, ssh_key::Algorithm::Ed25519).expect("a key");
        let keys = KeysFile::new(path);
        let desk = Desk::new(host_key, "did:key:z".into(), keys, mailers, SessionKeys::default()).expect("a desk");
        (desk, bound)
    }

    #[test]
    fn a_comment_that_is_not_utf_8_costs_no_key_its_effect() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("keys");
        fs::write(&path, [KEY.as_bytes(), b" J\xfcrgen\n"].concat()).expect("written");
        let mut file = KeysFile::new(path);
        assert!(file.refresh(true));
        assert_eq!((file.set.entries.len(), file.set.refused.len()), (1, 0));
    }

    #[test]
    fn c6_a_keys_file_that_is_away_for_a_moment_revokes_nobody() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("keys");
        fs::write(&path, KEY).expect("written");
        let mut file = KeysFile::new(path.clone());
        assert!(file.refresh(true));
        for empty in [false, true] {
            if empty {
                fs::write(&path, "").expect("written");
            } else {
                fs::remove_file(&path).expect("removed");
            }
            assert!(!file.refresh(false), "empty: {empty}");
            assert!(empty || !file.refresh(true), "a missing file says nothing");
            assert_eq!(file.set.entries.len(), 1);
            let why = file.found().expect_err("it was not read").message;
            assert!(why.contains("not there: the keys stay for 5 s"), "{why}");
        }
        fs::write(&path, format!("{KEY} again")).expect("written");
        assert!(file.refresh(false) && file.away.is_none());
        assert_eq!(file.found().map(|found| found.entries).ok(), Some(1));
        // Away for good.
        fs::remove_file(&path).expect("removed");
        assert!(!file.refresh(false));
        file.away = file.away.and_then(|since| since.checked_sub(AWAY_MAX));
        assert!(file.refresh(false));
        assert_eq!(file.set.entries.len(), 0);
        assert!(file.found().expect_err("it is away").message.contains("nobody can sign in"));
    }

    #[test]
    fn c6_an_empty_keys_file_is_believed_where_it_is_to_be_read() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("keys");
        fs::write(&path, KEY).expect("written");
        let mut file = KeysFile::new(path.clone());
        assert!(file.refresh(true));
        fs::write(&path, "").expect("written");
        assert!(!file.refresh(false) && file.refresh(true));
        assert_eq!(file.found().map(|found| found.entries).ok(), Some(0));
    }

    #[test]
    fn new_keys_are_never_dropped_and_follow_the_sign_ins_that_older_ones_admitted() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("keys");
        fs::write(&path, KEY).expect("written");
        let (mut desk, _bound) = desk(path.clone());
        let answer = || Mail::SignedIn {
            peer: ConnToken::new(0, 1, 1),
            lane: Lane::Strangers,
            result: Err(Error::new(Code::Internal, "stands for any answer")),
        };
        for _ in 0..3 {
            desk.mail(0, answer());
        }
        desk.flush();
        assert_eq!(desk.pending.len(), 2, "one fits in the inbox");
        desk.refresh(true);
        fs::write(&path, "# nobody").expect("written");
        desk.refresh(true);
        desk.flush();
        assert_eq!(desk.pending.len(), 3, "the answers and the newest keys");
        let Some((0, Mail::Keys(keys))) = desk.pending.back() else { panic!("keys are the last") };
        assert_eq!(keys.entries.len(), 0);
    }

    #[test]
    fn the_thread_ends_though_its_queue_is_full() {
        let (to_jobs, jobs) = crossbeam_channel::bounded(1);
        let crypto = Crypto {
            jobs: to_jobs,
            strangers: crossbeam_channel::bounded(1).0,
            checks: crossbeam_channel::bounded(1).0,
        };
        let job = Job::Reload { peer: ConnToken::new(0, 1, 1), id: "1".into() };
        assert!(crypto.give(Lane::Admitted, job).is_ok(), "there is room");
        // Somebody else still could send.
        let another = crypto.clone();
        let ending = thread::spawn(move || crypto.end());
        assert!(matches!(jobs.recv(), Ok(Order::Job(_, Job::Reload { .. }))));
        assert!(matches!(jobs.recv(), Ok(Order::End)));
        ending.join().expect("it ends");
        drop(another);
    }
}
