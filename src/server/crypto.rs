//! The crypto thread: verifies sign-ins and, where that is wanted, agents' messages, signs the relay's proofs, and owns the keys file, which it reads again when
//! it changes. It must not touch a connection: its answers go to the workers by mail.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, LazyLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, never, select};
use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use ssh_key::{PrivateKey, PublicKey};

use super::{
    MESSAGE_MAX,
    mail::{KeysFound, Mail, Mailers},
    replays::Replays,
    signatures::{BATCHES_MAX, Check, Verifier},
    supervisor::DrainsAtTheEnd,
};
use crate::{
    base::{
        CloseCode, ConnToken,
        text::{self, quoted},
    },
    dialect::{
        amp::{HelloJob, Principal, Say},
        session::{SignedIn, VerifyJob},
    },
    reactor,
    relay::{
        Role,
        api::{Code, Error, Text},
        keys::{FILE_BYTES_MAX, KeySet},
    },
    wire::{
        amp::{self, check::Refusal},
        sign_in::{self, Transcript},
    },
};

/// Sign-ins that may wait; more are told to try again.
const JOBS_MAX: usize = 1024;
/// How often the keys file is looked at while nobody signs in.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long a keys file may be away, or empty, before that is believed: editors write a file anew or rename one into its
/// place, and nobody's key is revoked by that.
const AWAY_MAX: Duration = Duration::from_secs(5);
/// How soon mail that found an inbox full is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(5);
/// Answers that may wait for full inboxes; beyond, the sign-in times out on its own.
const PENDING_MAX: usize = 4 * JOBS_MAX;

/// HELLOs that are remembered; while there are so many, more are told to try again.
const HELLOS_MAX: usize = 262_144;

/// What an agent is told instead of such an answer.
static ANSWER_TOO_LARGE: LazyLock<String> =
    LazyLock::new(|| format!("the answer is larger than the largest message ({MESSAGE_MAX} bytes)"));

/// A HELLO that was checked, with our signed answer.
#[derive(Debug)]
pub(super) struct Hello {
    /// Who it proved to be; `None` for a HELLO to an alias.
    pub(super) principal: Option<Principal>,
    /// HELLO_ACK, HELLO_REJECT or ERROR.
    pub(super) answer: Vec<u8>,
    /// Close behind the answer.
    pub(super) close: Option<(CloseCode, &'static str)>,
}

/// The keys of sessions, by DID: made with the sessions, used here.
pub(super) type SessionKeys = Arc<Mutex<HashMap<Text, SigningKey>>>;

enum Job {
    Hello(HelloJob),
    Say(Box<Say>),
    SignIn(VerifyJob),
    Reload { peer: ConnToken, id: Text },
    Refresh,
    End,
}

/// The way to the crypto thread. Cloning is cheap. Messages to be checked have a queue of their own, so that those who
/// sign in do not wait behind all of them.
#[derive(Clone)]
pub(super) struct Crypto {
    jobs: Sender<Job>,
    checks: Sender<Vec<Check>>,
}

impl Crypto {
    /// Starts the thread. The keys file is read before this returns.
    pub(super) fn start(
        host_key: PrivateKey,
        did: String,
        keys: PathBuf,
        mailers: Mailers,
        session_keys: SessionKeys,
        last: DrainsAtTheEnd,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (to_jobs, jobs) = crossbeam_channel::bounded(JOBS_MAX);
        let (to_checks, checks) = crossbeam_channel::bounded(BATCHES_MAX);
        let mut desk = Desk::new(host_key, did, KeysFile::new(keys), mailers, session_keys)?;
        desk.keys.refresh(true);
        let run = move || {
            // Without this thread nobody can sign in.
            let _last = last;
            desk.run(&jobs, &checks);
        };
        let thread = thread::Builder::new().name("crypto".into()).spawn(run)?;
        Ok((Self { jobs: to_jobs, checks: to_checks }, thread))
    }

    /// Has a sign-in checked; the answer comes by mail.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn verify(&self, job: VerifyJob) -> Result<(), Error> {
        self.jobs.try_send(Job::SignIn(job)).map_err(busy)
    }

    /// Has the keys file read again; the answer comes by mail.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn reload(&self, peer: ConnToken, id: Text) -> Result<(), Error> {
        self.jobs.try_send(Job::Reload { peer, id }).map_err(busy)
    }

    /// Has the keys file read again. Where too many jobs wait it is looked at soon enough anyway.
    pub(super) fn refresh(&self) {
        let _ = self.jobs.try_send(Job::Refresh);
    }

    /// Has a HELLO checked and answered; the answer comes by mail.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn hello(&self, job: HelloJob) -> Result<(), Error> {
        self.jobs.try_send(Job::Hello(job)).map_err(busy)
    }

    /// Has a message of the relay or of a session signed; it comes by mail.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn say(&self, say: Say) -> Result<(), Error> {
        self.jobs.try_send(Job::Say(Box::new(say))).map_err(busy)
    }

    /// Has messages checked; the verdicts come by mail, in this order for each worker.
    ///
    /// # Errors
    /// Too many wait: they are given back.
    pub(super) fn check(&self, batch: Vec<Check>) -> Result<(), Vec<Check>> {
        match self.checks.try_send(batch) {
            Err(TrySendError::Full(batch)) => Err(batch),
            // Without the thread the relay ends.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Ends the thread after what waits.
    pub(super) fn end(self) {
        // A full queue is worked off: there is room in a moment, or no thread any more.
        let _ = self.jobs.send(Job::End);
    }
}

fn busy(error: TrySendError<Job>) -> Error {
    let (code, message) = match error {
        TrySendError::Full(_) => (Code::RateLimited, "too many sign-ins are waiting"),
        TrySendError::Disconnected(_) => (Code::ShuttingDown, "the relay is stopping"),
    };
    Error { retry_after_ms: Some(1000), ..Error::new(code, message) }
}

struct Desk {
    host_key: PrivateKey,
    did: String,
    keys: KeysFile,
    mailers: Mailers,
    pending: VecDeque<(usize, Mail)>,
    signing: SigningKey,
    session_keys: SessionKeys,
    hellos: Replays,
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
        let (pending, hellos) = (VecDeque::new(), Replays::default());
        let (verifier, looked) = (Verifier::default(), Instant::now());
        Ok(Self { host_key, did, keys, mailers, pending, signing, session_keys, hellos, verifier, looked })
    }

    fn run(&mut self, jobs: &Receiver<Job>, checks: &Receiver<Vec<Check>>) {
        let nothing = never();
        loop {
            let wait = if self.pending.is_empty() { WATCH_EVERY } else { RETRY_AFTER };
            // No more messages are checked while verdicts find an inbox full, so that they need not be dropped. Who
            // waits in both queues is served in turn: neither keeps the other out.
            let checks = if self.pending.is_empty() { checks } else { &nothing };
            select! {
                recv(jobs) -> job => match job {
                    Ok(Job::End) | Err(_) => return,
                    Ok(job) => self.job(job),
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

    fn job(&mut self, job: Job) {
        match job {
            Job::End => {}
            Job::Refresh => self.refresh(true),
            Job::SignIn(job) => {
                self.refresh(false);
                let (peer, result) = (job.peer, self.judge(&job));
                self.mail(usize::from(peer.worker()), Mail::SignedIn { peer, result });
            }
            Job::Reload { peer, id } => {
                self.refresh(true);
                let result = self.keys.found();
                self.mail(usize::from(peer.worker()), Mail::KeysRead { peer, id, result: Box::new(result) });
            }
            Job::Hello(job) => {
                self.refresh(false);
                let peer = job.peer;
                if let Some(hello) = self.hello(&job) {
                    self.mail(usize::from(peer.worker()), Mail::Hello { peer, hello });
                }
            }
            Job::Say(say) => {
                let (peer, close) = (say.peer, say.close);
                // What cannot be written is not said, but a close is due all the same.
                let frame = self.say(&say).unwrap_or_default();
                if !frame.is_empty() || close.is_some() {
                    self.mail(usize::from(peer.worker()), Mail::Said { peer, frame, close });
                }
            }
        }
    }

    /// Checks a batch of one worker. Its verdicts are never dropped: the worker counts what is on the way, and bounds it.
    fn check(&mut self, batch: Vec<Check>) {
        let Some(worker) = batch.first().map(|check| usize::from(check.peer.worker())) else { return };
        let checked = self.verifier.batch(batch);
        self.pending.push_back((worker, Mail::Checked(checked)));
    }

    fn mail(&mut self, worker: usize, mail: Mail) {
        if self.pending.len() < PENDING_MAX {
            self.pending.push_back((worker, mail));
        } else {
            log::warn!(worker; "an answer to a sign-in is dropped: the worker's inbox stays full");
        }
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
        self.pending.retain(|(_, mail)| !matches!(mail, Mail::Keys(_)));
        for worker in 0..self.mailers.len() {
            self.pending.push_back((worker, Mail::Keys(self.keys.set.clone())));
        }
    }

    /// Checks a HELLO and signs our answer. `None`: no answer can be written, and the peer runs into its timeout, which
    /// lasts until its key is proved.
    fn hello(&mut self, job: &HelloJob) -> Option<Hello> {
        let judged = catch_unwind(AssertUnwindSafe(|| self.prove(job)));
        let judged = judged.unwrap_or_else(|_| Err(Refusal::new(amp::Code::INTERNAL_ERROR, "the check failed")));
        let mut body = Vec::new();
        let (typ, principal, close) = match (&judged, &job.selected) {
            (Ok(principal), Some(selected)) => {
                amp::body::hello_ack(&mut body, selected);
                (amp::Type::HELLO_ACK, principal.clone(), None)
            }
            (Ok(_), None) => {
                amp::body::hello_reject(&mut body, Some("none of these versions is served; 1 is"));
                (amp::Type::HELLO_REJECT, None, Some((CloseCode::POLICY, "no common version")))
            }
            (Err(refusal), _) => {
                refusal.write_body(&mut body);
                (amp::Type::ERROR, None, Some((CloseCode::POLICY, "HELLO refused")))
            }
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random).ok()?;
        let answer = self.say(&Say {
            peer: job.peer,
            from: self.did.as_str().into(),
            to: job.from.clone(),
            typ,
            id: amp::Id::new(reactor::now().unix_ms, random),
            reply_to: Some(job.id),
            thread_id: job.thread_id.clone(),
            body,
            dialect: job.dialect,
            close,
        })?;
        Some(Hello { principal, answer, close })
    }

    /// Who a HELLO proves to be.
    fn prove(&mut self, job: &HelloJob) -> Result<Option<Principal>, Refusal> {
        let Some(did) = &job.proves else { return Ok(None) };
        let unknown = Refusal::new(amp::Code::UNAUTHORIZED, "this DID is not in the relay's keys file");
        let Ok(amp::Frame::Envelope(view)) = amp::parse(&job.frame) else { return Err(unknown) };
        let key = amp::verifying_key(view.header.from).ok_or(unknown)?;
        let mut scratch = Vec::new();
        amp::verify(&view, &key, &mut scratch)
            .map_err(|error| Refusal::new(error.code(), "the HELLO's signature is wrong"))?;
        let public = sign_in::key_of_did(did).ok_or(unknown)?;
        let entry = self.keys.set.lookup(&public).ok_or(unknown)?;
        let principal = Principal { did: did.clone(), fingerprint: entry.fingerprint.clone(), role: entry.role };
        let now = reactor::now().mono_ms;
        self.hellos.forget(now);
        if self.hellos.len() >= HELLOS_MAX {
            return Err(Refusal::new(amp::Code::OVERLOADED, "too many agents connect at once"));
        }
        if !self.hellos.remember(did, &job.id, now) {
            return Err(Refusal::new(amp::Code::INVALID_MESSAGE, "this HELLO was said before"));
        }
        Ok(Some(principal))
    }

    /// Signs a message as who says it.
    fn say(&self, say: &Say) -> Option<Vec<u8>> {
        let sessions;
        let key = if *say.from == *self.did {
            &self.signing
        } else {
            sessions = self.session_keys.lock();
            sessions.get(&say.from)?
        };
        let (mut scratch, mut frame) = (Vec::new(), Vec::new());
        match say.write(key, &mut scratch, &mut frame) {
            // Nobody has to take more, and a client that does not ends the connection for it.
            Ok(()) if frame.len() > MESSAGE_MAX => {
                let mut body = Vec::new();
                Refusal::new(amp::Code::RELAY_REJECTED, &ANSWER_TOO_LARGE).write_body(&mut body);
                let error = Say { typ: amp::Type::ERROR, body, ..say.clone() };
                frame.clear();
                error.write(key, &mut scratch, &mut frame).ok().map(|()| frame)
            }
            Ok(()) => Some(frame),
            Err(error) => {
                log::warn!(conn:% = say.peer, error:% = error; "an answer to an agent cannot be written");
                None
            }
        }
    }

    /// A key or a signature that makes the arithmetic panic costs its sender the sign-in, and nobody else.
    fn judge(&self, job: &VerifyJob) -> Result<SignedIn, Error> {
        catch_unwind(AssertUnwindSafe(|| self.sign_in(job))).unwrap_or_else(|_| {
            log::error!(conn:% = job.peer; "checking a sign-in panicked; it is refused");
            Err(Error::new(Code::Internal, "the relay failed to check this sign-in"))
        })
    }

    fn sign_in(&self, job: &VerifyJob) -> Result<SignedIn, Error> {
        let failed = |message: String| Error::new(Code::AuthFailed, message);
        let sign_in = &job.sign_in;
        let key = PublicKey::from_openssh(&sign_in.key).map_err(|error| {
            Error::new(Code::BadRequest, format!("`key` is not an OpenSSH public key line: {error}"))
        })?;
        let fingerprint = sign_in::fingerprint(&key);
        let transcript = Transcript {
            relay: &self.did,
            authority: &sign_in.authority,
            server_nonce: &job.server_nonce,
            client_nonce: &sign_in.nonce,
            client: &sign_in.client,
            device: &sign_in.device.name,
            role: sign_in.role.as_deref(),
            fingerprint: &fingerprint,
            binding: &sign_in.binding,
        };
        let transcript = transcript.text().map_err(|error| Error::new(Code::BadRequest, error.to_string()))?;
        sign_in::verify(&key, &transcript, &sign_in.signature).map_err(|error| failed(error.to_string()))?;
        let Some(entry) = self.keys.set.lookup(&key) else {
            let message = format!(
                "the key {fingerprint} is not in the relay's keys file; add it on the relay's host with `amp-relay keys add`"
            );
            return Err(Error::new(Code::KeyNotAuthorized, message));
        };
        let role = granted(entry.role, sign_in.role.as_deref())?;
        let proof = sign_in::proof_text(&transcript, &fingerprint, role.name())
            .map_err(|error| error.to_string())
            .and_then(|text| {
                sign_in::sign(&self.host_key, sign_in::WELCOME_NAMESPACE, &text).map_err(|error| error.to_string())
            })
            .map_err(|error| Error::new(Code::Internal, format!("the relay could not sign its proof: {error}")))?;
        Ok(SignedIn { principal: fingerprint.into(), comment: entry.comment.clone(), role, proof })
    }
}

/// The role of a connection: what the key has, or the lesser one that was asked for.
fn granted(has: Role, asked: Option<&str>) -> Result<Role, Error> {
    let Some(asked) = asked else { return Ok(has) };
    let Some(asked) = Role::from_name(asked) else {
        return Err(Error::new(Code::BadRequest, format!("`role` {} is not a role", quoted(asked))));
    };
    if has.allows(asked) {
        return Ok(asked);
    }
    Err(Error::new(Code::Forbidden, format!("this key has the role {has}, which does not include {asked}")))
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
    use crate::reactor::{Listen, Options, Reactor, ws::Ws};

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
            result: Err(Error::new(Code::Internal, "stands for any answer")),
        };
        for _ in 0..=PENDING_MAX {
            desk.mail(0, answer());
        }
        desk.flush();
        assert_eq!(desk.pending.len(), PENDING_MAX - 1, "one fits in the inbox");
        desk.refresh(true);
        fs::write(&path, "# nobody").expect("written");
        desk.refresh(true);
        desk.flush();
        assert_eq!(desk.pending.len(), PENDING_MAX, "the answers and the newest keys");
        let Some((0, Mail::Keys(keys))) = desk.pending.back() else { panic!("keys are the last") };
        assert_eq!(keys.entries.len(), 0);
    }

    #[test]
    fn the_thread_ends_though_its_queue_is_full() {
        let (to_jobs, jobs) = crossbeam_channel::bounded(1);
        let crypto = Crypto { jobs: to_jobs, checks: crossbeam_channel::bounded(1).0 };
        crypto.reload(ConnToken::new(0, 1, 1), "1".into()).expect("there is room");
        // Somebody else still could send.
        let another = crypto.clone();
        let ending = thread::spawn(move || crypto.end());
        assert!(matches!(jobs.recv(), Ok(Job::Reload { .. })));
        assert!(matches!(jobs.recv(), Ok(Job::End)));
        ending.join().expect("it ends");
        drop(another);
    }
}
