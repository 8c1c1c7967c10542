//! The crypto thread: verifies sign-ins, signs the relay's proofs, and owns the keys file, which it reads again when
//! it changes. It must not touch a connection: its answers go to the workers by mail.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use ssh_key::{PrivateKey, PublicKey};

use super::{
    Lifeline,
    mail::{Mail, Mailers},
};
use crate::{
    base::ConnToken,
    dialect::session::{SignedIn, VerifyJob},
    relay::{
        Role,
        api::{Code, Error, Text},
        keys::KeySet,
    },
    wire::sign_in::{self, Transcript},
};

/// Sign-ins that may wait; more are told to try again.
const JOBS_MAX: usize = 1024;
/// How often the keys file is looked at while nobody signs in.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How soon mail that found an inbox full is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(5);
/// Answers that may wait for full inboxes; beyond, the sign-in times out on its own.
const PENDING_MAX: usize = 4 * JOBS_MAX;

enum Job {
    SignIn(VerifyJob),
    Reload { peer: ConnToken, id: Text },
    End,
}

/// The way to the crypto thread. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Crypto(Sender<Job>);

impl Crypto {
    /// Starts the thread. The keys file is read before this returns.
    pub(super) fn start(
        host_key: PrivateKey,
        did: String,
        keys: PathBuf,
        mailers: Mailers,
        lifeline: Lifeline,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, jobs) = crossbeam_channel::bounded(JOBS_MAX);
        let mut desk = Desk { host_key, did, keys: KeysFile::new(keys), mailers, pending: VecDeque::new() };
        desk.keys.refresh(true);
        let thread = thread::Builder::new().name("crypto".into()).spawn(move || {
            let _lifeline = lifeline;
            desk.run(&jobs);
        })?;
        Ok((Self(sender), thread))
    }

    /// Has a sign-in checked; the answer comes by mail.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn verify(&self, job: VerifyJob) -> Result<(), Error> {
        self.0.try_send(Job::SignIn(job)).map_err(busy)
    }

    /// Has the keys file read again; the answer comes by mail.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn reload(&self, peer: ConnToken, id: Text) -> Result<(), Error> {
        self.0.try_send(Job::Reload { peer, id }).map_err(busy)
    }

    /// Ends the thread after what waits.
    pub(super) fn end(&self) {
        // A full queue ends by itself once the last sender is dropped.
        let _ = self.0.try_send(Job::End);
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
}

impl Desk {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            let wait = if self.pending.is_empty() { WATCH_EVERY } else { RETRY_AFTER };
            match jobs.recv_timeout(wait) {
                Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Job::SignIn(job)) => {
                    self.refresh(false);
                    let (peer, result) = (job.peer, self.sign_in(&job));
                    self.mail(usize::from(peer.worker()), Mail::SignedIn { peer, result });
                }
                Ok(Job::Reload { peer, id }) => {
                    self.refresh(true);
                    let (entries, refused) = (self.keys.set.entries.len(), self.keys.set.refused.len());
                    self.mail(usize::from(peer.worker()), Mail::KeysRead { peer, id, entries, refused });
                }
                Err(RecvTimeoutError::Timeout) => self.refresh(false),
            }
            self.flush();
        }
    }

    fn mail(&mut self, worker: usize, mail: Mail) {
        if let Mail::Keys(_) = mail {
            // Never dropped, as a revocation must arrive; one for each worker is enough.
            self.pending.retain(|(to, waiting)| *to != worker || !matches!(waiting, Mail::Keys(_)));
            self.pending.push_back((worker, mail));
        } else if self.pending.len() < PENDING_MAX {
            self.pending.push_back((worker, mail));
        } else {
            log::warn!(worker; "an answer to a sign-in is dropped: the worker's inbox stays full");
        }
    }

    /// Each worker gets its mail in order: a sign-in that was checked before a key went arrives before the news of it.
    fn flush(&mut self) {
        let mut full = vec![false; self.mailers.len()];
        for _ in 0..self.pending.len() {
            let Some((worker, mail)) = self.pending.pop_front() else { return };
            let mail = if full.get(worker) == Some(&true) { Err(mail) } else { self.mailers.send(worker, mail) };
            if let Err(mail) = mail {
                self.pending.push_back((worker, mail));
                full.get_mut(worker).into_iter().for_each(|full| *full = true);
            }
        }
    }

    /// Tells every worker when the keys have changed: connections of keys that are gone must end.
    fn refresh(&mut self, force: bool) {
        if !self.keys.refresh(force) {
            return;
        }
        for worker in 0..self.mailers.len() {
            self.mail(worker, Mail::Keys(self.keys.set.clone()));
        }
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
        Ok(SignedIn { principal: fingerprint.into(), role, proof })
    }
}

/// The role of a connection: what the key has, or the lesser one that was asked for.
fn granted(has: Role, asked: Option<&str>) -> Result<Role, Error> {
    let Some(asked) = asked else { return Ok(has) };
    let Some(asked) = Role::from_name(asked) else {
        return Err(Error::new(Code::BadRequest, format!("`role` {asked:?} is not a role")));
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
}

impl KeysFile {
    fn new(path: PathBuf) -> Self {
        Self { path, stamp: None, set: Arc::default() }
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
    /// nobody.
    fn refresh(&mut self, force: bool) -> bool {
        let stamp = self.stamp();
        if stamp == self.stamp && !force {
            return false;
        }
        self.stamp = stamp;
        let path = self.path.display();
        let set = match fs::read_to_string(&self.path) {
            Ok(text) => KeySet::parse(&text),
            Err(error) => {
                log::error!(path:% = path, error:% = error; "the keys file cannot be read: nobody can sign in");
                KeySet::default()
            }
        };
        for refused in &set.refused {
            log::warn!(path:% = path, line = refused.line, reason = &*refused.reason; "a line of the keys file is refused");
        }
        log::info!(path:% = path, keys = set.entries.len(), refused = set.refused.len(); "keys read");
        self.set = Arc::new(set);
        true
    }
}
