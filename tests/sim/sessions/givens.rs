//! What the hub is given in the simulation: a store that commits late, counted names, a profile that admits anything.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use amp_relay::{
    relay::{
        Role,
        api::{Code, Error, Event, Text},
        hub::{Profiles, Resolved},
        keys::KeySet,
        session::Ids,
    },
    store::{Committed, LogId, MemoryStore, OutOfRange, Range, Record, Store},
};

use ssh_key::{PublicKey, public::Ed25519PublicKey};

use super::device::Truth;

/// A store that says what is safe only when it is let, and lets the test see all.
pub(crate) struct LateStore {
    pub(crate) inner: MemoryStore<Arc<Event>>,
    pub(crate) open: Arc<AtomicBool>,
    pub(crate) truths: Arc<Mutex<BTreeMap<Text, Truth>>>,
    pub(crate) names: BTreeMap<LogId, Text>,
}

impl Store<Arc<Event>> for LateStore {
    fn create(&mut self, name: &str) -> LogId {
        let log = self.inner.create(name);
        self.names.insert(log, name.into());
        self.truths.lock().unwrap().insert(name.into(), Truth::default());
        log
    }

    fn append(&mut self, log: LogId, record: Arc<Event>) -> u64 {
        assert!(record.size() > 0);
        let offset = self.inner.append(log, record.clone());
        let mut truths = self.truths.lock().unwrap();
        let truth = truths.get_mut(&record.session).unwrap();
        assert_eq!((offset, record.position.offset), (truth.events.len() as u64, truth.events.len() as u64));
        truth.events.push(record);
        offset
    }

    fn poll(&mut self) -> Option<Committed> {
        if !self.open.load(Ordering::Relaxed) {
            return None;
        }
        let news = self.inner.poll()?;
        if let Some(truth) = self.truths.lock().unwrap().get_mut(&self.names[&news.log]) {
            truth.safe = news.next;
        }
        Some(news)
    }

    fn range(&self, log: LogId) -> Range {
        self.inner.range(log)
    }

    fn read(&self, log: LogId, from: u64, bytes: usize) -> Result<Vec<Arc<Event>>, OutOfRange> {
        self.inner.read(log, from, bytes)
    }

    fn tail(&self, log: LogId, before: u64, bytes: usize) -> (u64, Vec<Arc<Event>>) {
        self.inner.tail(log, before, bytes)
    }

    fn remove(&mut self, log: LogId) {
        self.inner.remove(log);
    }
}

/// A keys file: the key of each number with its role.
pub(crate) fn keys(lines: impl IntoIterator<Item = (usize, Role)>) -> KeySet {
    let line = |(number, role): (usize, Role)| {
        let key = PublicKey::from(Ed25519PublicKey([number as u8 + 1; 32]));
        format!("amp-role=\"{role}\" {}\n", key.to_openssh().unwrap())
    };
    KeySet::parse(&lines.into_iter().map(line).collect::<String>())
}

pub(crate) struct Counted(pub(crate) u64);

impl Counted {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

impl Ids for Counted {
    fn uuid(&mut self) -> Text {
        format!("00000000-0000-4000-8000-{:012}", self.next()).into()
    }

    fn epoch(&mut self) -> Text {
        format!("epoch-{}", self.next()).into()
    }

    fn did(&mut self) -> Text {
        format!("did:key:z{}", self.next()).into()
    }

    fn forget(&mut self, _: &str) {}
}

pub(crate) struct Anything;

impl Profiles for Anything {
    fn resolve(
        &self,
        profile: &str,
        folder: Option<&Path>,
        model: Option<&str>,
        mode: Option<&str>,
        _: bool,
    ) -> Result<Resolved, Error> {
        if profile != "default" {
            return Err(Error::new(Code::NotFound, "no such profile"));
        }
        let folder = folder.unwrap_or(Path::new("/work")).to_owned();
        Ok(Resolved { folder, model: model.map(Text::from), mode: mode.map(Text::from) })
    }
}
