//! What the hub is given in the simulation: a store that commits late, counted names, a profile that admits anything.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
    sync::{Arc, Mutex},
};

use amp_relay::{
    relay::{
        Role,
        api::{Code, Error, Text},
        hub::{Profiles, Resolved},
        keys::KeySet,
        record,
        session::Ids,
    },
    store::{Done, Engine, Failed, LogId, MemoryStore, Op, OpId, Outcome},
};

use ssh_key::{PublicKey, public::Ed25519PublicKey};

use super::device::Truth;
use crate::rng::Rng;

/// What the simulation says of the store.
pub(crate) struct Orders {
    rng: Rng,
    /// How many completions may come.
    pub(crate) lets: u64,
    /// How many of a thousand reads, and of appends, fail.
    pub(crate) read_fails: u64,
    pub(crate) append_fails: u64,
    /// What has come up.
    pub(crate) seen: BTreeSet<&'static str>,
}

impl Orders {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { rng, lets: 0, read_fails: 0, append_fails: 0, seen: BTreeSet::new() }
    }
}

/// Operations in their order, each with how many came before it.
type Queue = VecDeque<(u64, OpId, Op)>;

/// A store that does what it is asked only when it is let, one log before another as it likes, and fails at times. It lets
/// the test see all.
pub(crate) struct LateStore {
    inner: MemoryStore,
    orders: Arc<Mutex<Orders>>,
    truths: Arc<Mutex<BTreeMap<Text, Truth>>>,
    names: BTreeMap<LogId, Text>,
    /// Of each log what changes it, and apart from that what reads it.
    waiting: BTreeMap<(LogId, bool), Queue>,
    broken: BTreeSet<LogId>,
    ops: u64,
}

impl LateStore {
    pub(crate) fn new(
        inner: MemoryStore,
        orders: Arc<Mutex<Orders>>,
        truths: Arc<Mutex<BTreeMap<Text, Truth>>>,
    ) -> Self {
        let (names, waiting, broken) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { inner, orders, truths, names, waiting, broken, ops: 0 }
    }

    /// Notes what is submitted, for the rules.
    fn takes(&mut self, op: &Op) {
        let mut truths = self.truths.lock().unwrap();
        match op {
            Op::Create { log, name } => {
                let name = Text::from(&**name);
                self.names.insert(*log, name.clone());
                truths.insert(name, Truth::default());
            }
            Op::Append { log, first, records } => {
                let truth = truths.get_mut(&self.names[log]).unwrap();
                for (offset, record) in (*first..).zip(records) {
                    let event = record::decode(record).unwrap();
                    assert_eq!(event.session, self.names[log]);
                    assert_eq!((offset, event.position.offset), (truth.events.len() as u64, offset));
                    assert!(!truth.lost, "an append to a log that is lost");
                    truth.events.push(Arc::new(event));
                }
            }
            Op::Read { .. } | Op::Remove { .. } => {}
        }
    }

    /// Why it fails, if it does. A log that has failed once takes nothing more.
    fn fails(&mut self, op: &Op) -> bool {
        let mut orders = self.orders.lock().unwrap();
        match op {
            Op::Append { log, .. } => {
                let fails = self.broken.contains(log) || orders.rng.below(1000) < orders.append_fails;
                if fails && self.broken.insert(*log) {
                    orders.seen.insert("failed append");
                }
                fails
            }
            Op::Read { .. } => {
                let fails = orders.rng.below(1000) < orders.read_fails;
                if fails {
                    orders.seen.insert("failed read");
                }
                fails
            }
            Op::Create { .. } | Op::Remove { .. } => false,
        }
    }

    /// Notes what is said, for the rules.
    fn says(&mut self, done: &Done, is_append: bool) {
        let mut truths = self.truths.lock().unwrap();
        let Some(truth) = truths.get_mut(&self.names[&done.log]) else { return };
        match &done.result {
            Ok(Outcome::Committed(range)) => truth.safe = range.next,
            Err(_) if is_append => {
                truth.lost = true;
                truth.events.truncate(truth.safe as usize);
            }
            _ => {}
        }
    }
}

impl Engine for LateStore {
    fn submit(&mut self, id: OpId, op: Op) {
        self.takes(&op);
        let mut orders = self.orders.lock().unwrap();
        if orders.lets == 0 {
            orders.seen.insert(if matches!(op, Op::Read { .. }) { "late read" } else { "late append" });
        }
        let reads = matches!(op, Op::Read { .. });
        self.waiting.entry((op.log(), reads)).or_default().push_back((self.ops, id, op));
        self.ops += 1;
    }

    fn poll(&mut self) -> Option<Done> {
        let next = {
            let mut orders = self.orders.lock().unwrap();
            let all: Vec<(LogId, bool)> = self.waiting.keys().copied().collect();
            let next = orders.rng.pick(&all).copied().filter(|_| orders.lets > 0)?;
            orders.lets -= 1;
            let number = |queue: &(LogId, bool)| self.waiting[queue].front().map(|(number, ..)| *number);
            for overtaken in all.iter().filter(|other| number(other) < number(&next)) {
                let same_log = overtaken.0 == next.0;
                orders.seen.insert(if same_log { "read out of order" } else { "logs out of order" });
            }
            next
        };
        let (log, waiting) = (next.0, self.waiting.get_mut(&next)?);
        let (_, id, op) = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&next);
        }
        let is_append = matches!(op, Op::Append { .. });
        let done = if self.fails(&op) {
            Done { op: id, log, result: Err(Failed::Engine("the disk is on fire".into())) }
        } else {
            self.inner.submit(id, op);
            self.inner.poll().unwrap()
        };
        self.says(&done, is_append);
        Some(done)
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
