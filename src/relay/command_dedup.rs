//! Commands that had an effect, and their answers: the same command sent again gets the same answer and is not run
//! again. Owns which connection waits for which answer. Must not know what a command does.
//!
//! Remembered for a day and bounded: at the bound the oldest of the principal that has the most goes, so that no flood of
//! one makes another's command run twice. An error is forgotten as soon as it is given, because nothing happened and the
//! same command may go well later; `ALREADY_DECIDED` is kept, because it tells how a race ended.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::{
    base::{ConnToken, Now},
    relay::{
        api::{Caller, Code, Command, Error, Reply, Text},
        shares::Shares,
    },
};

/// How long an answer is remembered, in milliseconds.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;
/// Commands remembered at one time.
const ENTRIES_MAX: usize = 1 << 16;
/// Bytes of what is remembered: places that principals share.
const BYTES_MAX: usize = 16 << 20;
/// What an entry counts for beside its ids: its parts of the maps, and an answer.
const ENTRY_BYTES: usize = 512;

type Answer = Result<Reply, Error>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    principal: Text,
    client: Text,
    id: Text,
}

impl Key {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.principal.len() + self.client.len() + self.id.len()
    }
}

struct Entry {
    number: u64,
    content: u64,
    /// The connection that sent it first: the core answers to this one.
    first: ConnToken,
    /// The connection that sent it last: it gets the answer.
    newest: ConnToken,
    answer: Option<Answer>,
}

/// What is known of a command that came.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    /// Nothing: run it.
    New,
    /// It runs; its answer will go to this connection now.
    InFlight,
    /// It ran.
    Answered(Answer),
    /// The id was used for another command.
    Conflict,
}

/// The memory of commands.
pub(super) struct CommandDedup {
    entries: HashMap<Key, Entry>,
    /// By number, so the oldest first: until when each is remembered.
    order: BTreeMap<u64, (u64, Key)>,
    /// The numbers of each principal's.
    of: HashMap<Text, BTreeSet<u64>>,
    waiting: HashMap<(ConnToken, Text), Key>,
    shares: Shares,
    last: u64,
}

impl Default for CommandDedup {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            of: HashMap::new(),
            waiting: HashMap::new(),
            shares: Shares::new(BYTES_MAX),
            last: 0,
        }
    }
}

impl CommandDedup {
    /// Looks a command up and remembers it if it is new.
    pub(super) fn begin(&mut self, caller: &Caller, id: &Text, command: &Command, now: Now) -> Seen {
        self.expire(now);
        let key = Key { principal: caller.principal.clone(), client: caller.client.clone(), id: id.clone() };
        let content = content(command);
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.content != content {
                return Seen::Conflict;
            }
            entry.newest = caller.peer;
            return entry.answer.clone().map_or(Seen::InFlight, Seen::Answered);
        }
        self.make_room(&key);
        self.last += 1;
        let (number, peer) = (self.last, caller.peer);
        let entry = Entry { number, content, first: peer, newest: peer, answer: None };
        self.shares.take(&key.principal, key.bytes());
        self.of.entry(key.principal.clone()).or_default().insert(number);
        self.waiting.insert((peer, id.clone()), key.clone());
        self.order.insert(number, (now.mono_ms + REMEMBERED_MS, key.clone()));
        self.entries.insert(key, entry);
        Seen::New
    }

    /// Whether the answer to this id of this connection is awaited here.
    pub(super) fn awaits(&self, peer: ConnToken, id: &Text) -> bool {
        self.waiting.contains_key(&(peer, id.clone()))
    }

    /// Records an answer and returns the connection that gets it.
    pub(super) fn answered(&mut self, peer: ConnToken, id: &Text, answer: &Answer) -> ConnToken {
        let Some(key) = self.waiting.remove(&(peer, id.clone())) else { return peer };
        let Some(entry) = self.entries.get_mut(&key) else { return peer };
        let newest = entry.newest;
        let keep = answer.as_ref().map_or_else(|error| error.code == Code::AlreadyDecided, |_| true);
        if keep {
            entry.answer = Some(answer.clone());
        } else {
            self.forget(&key);
        }
        newest
    }

    /// How many commands are remembered.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets what has to give way to this one.
    fn make_room(&mut self, key: &Key) {
        while self.entries.len() >= ENTRIES_MAX || self.shares.overflows(key.bytes()) {
            let Some(principal) = self.shares.largest_with(&key.principal, key.bytes()) else { return };
            let oldest = self.of.get(&principal).and_then(BTreeSet::first).and_then(|number| self.order.get(number));
            let Some((_, oldest)) = oldest.cloned() else { return };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.order.remove(&entry.number);
        if let Some(of) = self.of.get_mut(&key.principal) {
            of.remove(&entry.number);
            if of.is_empty() {
                self.of.remove(&key.principal);
            }
        }
        self.shares.give_back(&key.principal, key.bytes());
        self.waiting.remove(&(entry.first, key.id.clone()));
    }

    fn expire(&mut self, now: Now) {
        while let Some((_, (until, key))) = self.order.first_key_value()
            && *until <= now.mono_ms
        {
            let key = key.clone();
            self.forget(&key);
        }
    }

    /// The counts agree with each other.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        let (entries, taken) = (self.entries.len(), self.shares.taken());
        assert_eq!(entries, self.order.len(), "each has its place in the order");
        assert!(self.waiting.len() <= entries && entries <= ENTRIES_MAX, "{} of {entries}", self.waiting.len());
        assert!((entries * ENTRY_BYTES..=BYTES_MAX).contains(&taken), "{taken} bytes of {entries}");
    }
}

/// What a command says, hashed: the same id with other content is another command.
pub(super) fn content(command: &Command) -> u64 {
    let mut hasher = DefaultHasher::new();
    command.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{Role, api::When};

    fn caller(slot: u32) -> Caller {
        Caller { client: "c".into(), ..Caller::sample("SHA256:a", slot, Role::Admin) }
    }

    fn prompt(text: &str) -> Command {
        Command::Prompt { session: "s".into(), text: text.into(), when: When::Next }
    }

    #[test]
    fn a_repeat_waits_and_the_newest_connection_is_answered() {
        let (mut dedup, now, id) = (CommandDedup::default(), Now::default(), Text::from("1"));
        let (first, second) = (caller(1), caller(2));
        assert_eq!(dedup.begin(&first, &id, &prompt("x"), now), Seen::New);
        assert_eq!(dedup.begin(&second, &id, &prompt("x"), now), Seen::InFlight);
        assert_eq!(dedup.begin(&second, &id, &prompt("y"), now), Seen::Conflict);
        assert_eq!(dedup.answered(first.peer, &id, &Ok(Reply::Done)), second.peer);
        assert_eq!(dedup.begin(&first, &id, &prompt("x"), now), Seen::Answered(Ok(Reply::Done)));
        assert_eq!(dedup.begin(&first, &id, &prompt("x"), now.plus_ms(REMEMBERED_MS)), Seen::New);
    }

    #[test]
    fn an_error_without_effect_is_forgotten() {
        let (mut dedup, now, id) = (CommandDedup::default(), Now::default(), Text::from("1"));
        let caller = caller(1);
        for code in [Code::Limit, Code::AgentUnavailable] {
            assert_eq!(dedup.begin(&caller, &id, &prompt("x"), now), Seen::New);
            assert!(dedup.awaits(caller.peer, &id));
            dedup.answered(caller.peer, &id, &Err(Error::new(code, "")));
            assert!(!dedup.awaits(caller.peer, &id));
        }
        assert_eq!(dedup.begin(&caller, &id, &prompt("x"), now), Seen::New);
        let decided = Err(Error::new(Code::AlreadyDecided, ""));
        dedup.answered(caller.peer, &id, &decided);
        assert_eq!(dedup.begin(&caller, &id, &prompt("x"), now), Seen::Answered(decided));
    }

    /// The sums match the entries.
    fn check(dedup: &CommandDedup) {
        dedup.check_invariants();
        dedup.shares.check_invariants();
        assert_eq!(dedup.of.values().map(BTreeSet::len).sum::<usize>(), dedup.len());
        assert_eq!(dedup.entries.keys().map(Key::bytes).sum::<usize>(), dedup.shares.taken());
        assert!(dedup.of.keys().all(|principal| dedup.shares.held(principal) > 0));
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let (mut dedup, now, caller) = (CommandDedup::default(), Now::default(), caller(1));
        for n in 0..ENTRIES_MAX + 10 {
            assert_eq!(dedup.begin(&caller, &n.to_string().into(), &prompt("x"), now), Seen::New);
        }
        assert_eq!(dedup.waiting.len(), dedup.len());
        check(&dedup);
        assert_eq!(dedup.begin(&caller, &"0".into(), &prompt("x"), now), Seen::New);
        dedup.expire(now.plus_ms(REMEMBERED_MS));
        check(&dedup);
        assert_eq!((dedup.len(), dedup.shares.taken(), dedup.waiting.len()), (0, 0, 0));
    }

    #[test]
    fn d2_a_flood_of_one_principal_pushes_out_nothing_of_another() {
        let (mut dedup, now) = (CommandDedup::default(), Now::default());
        let of = |principal: &str| Caller { principal: principal.into(), ..caller(1) };
        let (few, flood, late) = (of("SHA256:few"), of("SHA256:flood"), of("SHA256:late"));
        for n in 0..100 {
            dedup.begin(&few, &format!("few{n}").into(), &prompt("x"), now);
            dedup.answered(few.peer, &format!("few{n}").into(), &Ok(Reply::Done));
        }
        for n in 0..34_000 {
            assert_eq!(dedup.begin(&flood, &n.to_string().into(), &prompt("x"), now), Seen::New);
        }
        for n in 0..100 {
            let seen = dedup.begin(&few, &format!("few{n}").into(), &prompt("x"), now);
            assert_eq!(seen, Seen::Answered(Ok(Reply::Done)), "few{n}");
        }
        // A principal that comes late finds room, and gets an equal share however much it sends.
        for n in 0..34_000 {
            dedup.begin(&late, &format!("late{n}").into(), &prompt("x"), now);
        }
        let held = |caller: &Caller| dedup.shares.held(&caller.principal);
        assert!(held(&flood).abs_diff(held(&late)) <= 2 * ENTRY_BYTES, "{} {}", held(&flood), held(&late));
        assert_eq!(dedup.of[&few.principal].len(), 100);
        check(&dedup);
    }

    #[test]
    fn what_is_forgotten_leaves_nothing_behind() {
        let (mut dedup, now, caller) = (CommandDedup::default(), Now::default(), caller(1));
        for n in 0..1000 {
            let id = n.to_string().into();
            dedup.begin(&caller, &id, &prompt("x"), now);
            dedup.answered(caller.peer, &id, &Err(Error::new(Code::NotFound, "")));
        }
        check(&dedup);
        assert_eq!((dedup.len(), dedup.order.len(), dedup.of.len()), (0, 0, 0));
    }
}
