//! The core's end of the store: numbers operations, bounds what is under way, and forgets what was completed. Must not
//! do I/O.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{At, Done, Failed, LogId, Op, OpId, Outcome, Range, Read};

/// What may be under way at one time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes that reads may bring. A read that begins below the bound is taken whole.
    pub read_bytes: usize,
    /// Bytes of records that are not safe yet, above which the shell takes nothing in that makes more of them.
    pub append_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { read_bytes: 8 << 20, append_bytes: 16 << 20 }
    }
}

/// So much is being read that no read is taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is being read from the store")]
pub struct Full;

/// What a completion means to the user of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Everything below `next` is safe.
    Safe(Range),
    /// What this operation read.
    Read(OpId, Result<Read, Failed>),
    /// The log was not made, or does not take what was appended: nothing more of it becomes safe.
    Lost(Failed),
}

/// An operation until its completion, with the bytes that it counts for.
#[derive(Clone, Copy)]
enum Open {
    Create,
    Append(usize),
    Read(usize),
    Remove,
}

/// A user of the store. See the module of the store.
///
/// When it is full, a read is refused and may be submitted again after a completion. An append is never refused, for it
/// is a fact already: [`Client::is_clogged`] tells the shell to leave unread what leads to more of them.
#[derive(Default)]
pub struct Client {
    bounds: Bounds,
    /// Not handed over yet.
    queue: VecDeque<(OpId, Op)>,
    open: BTreeMap<OpId, Open>,
    /// Of all that are open.
    read_bytes: usize,
    append_bytes: usize,
    ops: u64,
    logs: u64,
}

impl Client {
    /// A client with nothing under way.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Makes a new log; its completion says whether that went well.
    pub fn create(&mut self, name: &str) -> LogId {
        self.logs += 1;
        let log = LogId(self.logs);
        self.push(Op::Create { log, name: name.into() }, Open::Create);
        log
    }

    /// Adds a record to a log. Those that wait to be handed over one after the other are one operation: they are
    /// committed together.
    pub fn append(&mut self, log: LogId, offset: u64, record: Bytes) -> OpId {
        let bytes = record.len();
        if let Some((id, Op::Append { log: last, first, records })) = self.queue.back_mut()
            && *last == log
            && *first + records.len() as u64 == offset
        {
            records.push(record);
            self.append_bytes += bytes;
            if let Some(Open::Append(all)) = self.open.get_mut(id) {
                *all += bytes;
            }
            return *id;
        }
        let op = Op::Append { log, first: offset, records: vec![record] };
        self.append_bytes += bytes;
        self.push(op, Open::Append(bytes))
    }

    /// Reads safe records: as many as fit into `bytes`, but always one if there is one.
    ///
    /// # Errors
    /// Too much is being read already.
    pub fn read(&mut self, log: LogId, at: At, bytes: usize) -> Result<OpId, Full> {
        if !self.has_room() {
            return Err(Full);
        }
        // Even one without bytes brings a record.
        let counts = bytes.max(1);
        self.read_bytes += counts;
        Ok(self.push(Op::Read { log, at, bytes }, Open::Read(counts)))
    }

    /// Drops a log.
    pub fn remove(&mut self, log: LogId) -> OpId {
        self.push(Op::Remove { log }, Open::Remove)
    }

    fn push(&mut self, op: Op, open: Open) -> OpId {
        self.ops += 1;
        let id = OpId(self.ops);
        self.queue.push_back((id, op));
        self.open.insert(id, open);
        id
    }

    /// The next operation for the engine.
    pub fn poll(&mut self) -> Option<(OpId, Op)> {
        self.queue.pop_front()
    }

    /// Takes a completion. `None`: it has no receiver, or nothing of that name is under way.
    pub fn handle(&mut self, done: Done) -> Option<(LogId, News)> {
        let Done { op, log, result } = done;
        let open = self.open.remove(&op)?;
        match open {
            Open::Read(bytes) => self.read_bytes -= bytes,
            Open::Append(bytes) => self.append_bytes -= bytes,
            Open::Create | Open::Remove => {}
        }
        let news = match (open, result) {
            (Open::Read(_), Ok(Outcome::Read(read))) => News::Read(op, Ok(read)),
            (Open::Read(_), Err(failed)) => News::Read(op, Err(failed)),
            (Open::Append(_), Ok(Outcome::Committed(range))) => News::Safe(range),
            (Open::Append(_) | Open::Create, Err(failed)) => News::Lost(failed),
            _ => return None,
        };
        Some((log, news))
    }

    /// Whether a read is taken now.
    pub fn has_room(&self) -> bool {
        self.read_bytes < self.bounds.read_bytes
    }

    /// Whether so much waits to become safe that no input should be taken that makes more of it.
    pub fn is_clogged(&self) -> bool {
        self.append_bytes >= self.bounds.append_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId(1);

    fn failed(op: OpId) -> Done {
        Done { op, log: LOG, result: Err(Failed::NoLog) }
    }

    #[test]
    fn appends_in_a_row_are_one_operation() {
        let mut client = Client::default();
        let (a, b) = (client.create("a"), client.create("b"));
        let record = |text: &'static str| Bytes::from_static(text.as_bytes());
        let first = client.append(a, 0, record("0"));
        assert_eq!(client.append(a, 1, record("1")), first);
        let other = client.append(b, 0, record("2"));
        let third = client.append(a, 2, record("3"));
        assert!(other != first && third != first);
        let ops: Vec<(OpId, Op)> = std::iter::from_fn(|| client.poll()).skip(2).collect();
        let append = |log, first, records| Op::Append { log, first, records };
        let wanted = [
            (first, append(a, 0, vec![record("0"), record("1")])),
            (other, append(b, 0, vec![record("2")])),
            (third, append(a, 2, vec![record("3")])),
        ];
        assert_eq!(ops, wanted);
        // What was handed over takes nothing more.
        assert_ne!(client.append(a, 3, record("4")), third);
    }

    #[test]
    fn a_full_client_refuses_reads_until_one_has_completed() {
        let mut client = Client::new(Bounds { read_bytes: 10, append_bytes: 10 });
        let log = client.create("a");
        let large = client.read(log, At::From(0), 9).expect("room");
        let last = client.read(log, At::Before(1), 100).expect("one byte of room");
        assert_eq!(client.read(log, At::From(0), 0), Err(Full));
        assert_eq!(client.handle(failed(last)), Some((LOG, News::Read(last, Err(Failed::NoLog)))));
        assert_eq!(client.handle(failed(last)), None, "a second completion of one operation");
        assert!(client.has_room());
        let none = client.read(log, At::From(0), 0).expect("room");
        assert!(!client.has_room(), "a read of nothing brings a record");
        assert!(client.handle(failed(large)).is_some() && client.handle(failed(none)).is_some() && client.has_room());
    }

    #[test]
    fn a_full_client_takes_appends_and_says_so() {
        let mut client = Client::new(Bounds { read_bytes: 10, append_bytes: 4 });
        let log = client.create("a");
        let op = client.append(log, 0, Bytes::from_static(b"123"));
        assert!(!client.is_clogged());
        assert_eq!(client.append(log, 1, Bytes::from_static(b"4")), op);
        assert!(client.is_clogged());
        client.append(log, 2, Bytes::from_static(b"5"));
        assert_eq!(client.handle(failed(op)), Some((LOG, News::Lost(Failed::NoLog))));
        assert!(!client.is_clogged());
    }

    #[test]
    fn what_nobody_waits_for_is_no_news() {
        let mut client = Client::default();
        let log = client.create("a");
        client.remove(log);
        let done = |(op, result)| Done { op, log, result };
        let ids: Vec<OpId> = std::iter::from_fn(|| client.poll()).map(|(id, _)| id).collect();
        for (op, result) in ids.into_iter().zip([Ok(Outcome::Created), Err(Failed::NoLog)]) {
            assert_eq!(client.handle(done((op, result))), None);
        }
        assert_eq!(client.handle(failed(OpId(9))), None);
    }
}
