//! Commands that had an effect, and their answers: the same command sent again gets the same answer and is not run
//! again. Owns who waits for which answer. Must not know what a command does.
//!
//! Remembered for a day and bounded: the oldest go first. An error is forgotten as soon as it is given, because
//! nothing happened and the same command may go well later; `ALREADY_DECIDED` is kept, because it tells how a race
//! ended.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::{
    base::{ConnToken, Now},
    relay::api::{Caller, Code, Command, Error, Reply, Text},
};

/// How long an answer is remembered, in milliseconds.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;
/// Commands remembered at one time.
const ENTRIES_MAX: usize = 1 << 16;
/// Bytes of what is remembered.
const BYTES_MAX: usize = 16 << 20;
/// What an entry counts for beside its ids: three maps' shares and an answer.
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
    /// Who asked first: the core answers to this connection.
    first: ConnToken,
    /// Who asked last: this connection gets the answer.
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
#[derive(Default)]
pub(super) struct Ledger {
    entries: HashMap<Key, Entry>,
    order: VecDeque<(u64, u64, Key)>,
    waiting: HashMap<(ConnToken, Text), Key>,
    bytes: usize,
    last: u64,
}

impl Ledger {
    /// Looks a command up and remembers it if it is new.
    pub(super) fn begin(&mut self, caller: &Caller, id: &Text, command: &Command, now: Now) -> Seen {
        self.expire(now);
        let key = Key { principal: caller.principal.clone(), client: caller.client.clone(), id: id.clone() };
        let content = hash(command);
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.content != content {
                return Seen::Conflict;
            }
            entry.newest = caller.peer;
            return entry.answer.clone().map_or(Seen::InFlight, Seen::Answered);
        }
        self.last += 1;
        let peer = caller.peer;
        let entry = Entry { number: self.last, content, first: peer, newest: peer, answer: None };
        self.bytes += key.bytes();
        self.waiting.insert((peer, id.clone()), key.clone());
        self.order.push_back((now.mono_ms + REMEMBERED_MS, self.last, key.clone()));
        self.entries.insert(key, entry);
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            self.drop_oldest();
        }
        Seen::New
    }

    /// Whether the answer to this id of this connection is awaited here.
    pub(super) fn awaits(&self, peer: ConnToken, id: &Text) -> bool {
        self.waiting.contains_key(&(peer, id.clone()))
    }

    /// Takes an answer down and returns who is to get it.
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

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= key.bytes();
            self.waiting.remove(&(entry.first, key.id.clone()));
        }
    }

    fn drop_oldest(&mut self) {
        // The order still names commands that were forgotten; their numbers are gone with them.
        while let Some((_, number, key)) = self.order.pop_front() {
            if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
                self.forget(&key);
                return;
            }
        }
    }

    fn expire(&mut self, now: Now) {
        while let Some((until, number, key)) = self.order.front() {
            let known = self.entries.get(key).is_some_and(|entry| entry.number == *number);
            if known && *until > now.mono_ms {
                return;
            }
            if known {
                self.drop_oldest();
            } else {
                self.order.pop_front();
            }
        }
    }
}

fn hash(command: &Command) -> u64 {
    let mut hasher = DefaultHasher::new();
    command.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{Role, api::When};

    fn caller(slot: u32) -> Caller {
        Caller {
            peer: ConnToken::new(0, slot, 1),
            principal: "SHA256:a".into(),
            comment: "".into(),
            role: Role::Admin,
            client: "c".into(),
            device: "d".into(),
            name: "n".into(),
            kind: "k".into(),
        }
    }

    fn prompt(text: &str) -> Command {
        Command::Prompt { session: "s".into(), text: text.into(), when: When::Next }
    }

    #[test]
    fn a_repeat_waits_and_the_newest_connection_is_answered() {
        let (mut ledger, now, id) = (Ledger::default(), Now::default(), Text::from("1"));
        let (first, second) = (caller(1), caller(2));
        assert_eq!(ledger.begin(&first, &id, &prompt("x"), now), Seen::New);
        assert_eq!(ledger.begin(&second, &id, &prompt("x"), now), Seen::InFlight);
        assert_eq!(ledger.begin(&second, &id, &prompt("y"), now), Seen::Conflict);
        assert_eq!(ledger.answered(first.peer, &id, &Ok(Reply::Done)), second.peer);
        assert_eq!(ledger.begin(&first, &id, &prompt("x"), now), Seen::Answered(Ok(Reply::Done)));
        assert_eq!(ledger.begin(&first, &id, &prompt("x"), now.plus_ms(REMEMBERED_MS)), Seen::New);
    }

    #[test]
    fn an_error_without_effect_is_forgotten() {
        let (mut ledger, now, id) = (Ledger::default(), Now::default(), Text::from("1"));
        let caller = caller(1);
        for code in [Code::Limit, Code::AgentUnavailable] {
            assert_eq!(ledger.begin(&caller, &id, &prompt("x"), now), Seen::New);
            assert!(ledger.awaits(caller.peer, &id));
            ledger.answered(caller.peer, &id, &Err(Error::new(code, "")));
            assert!(!ledger.awaits(caller.peer, &id));
        }
        assert_eq!(ledger.begin(&caller, &id, &prompt("x"), now), Seen::New);
        let decided = Err(Error::new(Code::AlreadyDecided, ""));
        ledger.answered(caller.peer, &id, &decided);
        assert_eq!(ledger.begin(&caller, &id, &prompt("x"), now), Seen::Answered(decided));
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let (mut ledger, now, caller) = (Ledger::default(), Now::default(), caller(1));
        for n in 0..ENTRIES_MAX + 10 {
            assert_eq!(ledger.begin(&caller, &n.to_string().into(), &prompt("x"), now), Seen::New);
        }
        assert!(ledger.len() <= ENTRIES_MAX && ledger.bytes <= BYTES_MAX);
        assert_eq!(ledger.waiting.len(), ledger.len());
        assert_eq!(ledger.begin(&caller, &"0".into(), &prompt("x"), now), Seen::New);
    }
}
