//! Logs in memory: bounded by bytes, each and together; the oldest records go first. Nothing outlives the process.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{At, Done, Engine, Failed, LogId, Op, OpId, Outcome, Range, Read};

/// What a record takes beside its bytes.
const RECORD_BYTES: usize = 64;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one log.
    pub log_bytes: usize,
    /// Bytes of all logs together.
    pub total_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { log_bytes: 4 << 20, total_bytes: 64 << 20 }
    }
}

#[derive(Default)]
struct Log {
    earliest: u64,
    records: VecDeque<Bytes>,
    bytes: usize,
}

/// What a record counts for in limits.
fn size(record: &Bytes) -> usize {
    RECORD_BYTES + record.len()
}

impl Log {
    fn range(&self) -> Range {
        Range { earliest: self.earliest, next: self.earliest + self.records.len() as u64 }
    }

    /// Drops the oldest record, but never the newest one: it has just become readable.
    fn drop_oldest(&mut self) -> Option<usize> {
        if self.records.len() < 2 {
            return None;
        }
        let bytes = size(&self.records.pop_front()?);
        self.earliest += 1;
        self.bytes -= bytes;
        Some(bytes)
    }

    fn read(&self, at: At, bytes: usize) -> Result<Read, Failed> {
        let range = self.range();
        let (At::From(offset) | At::Before(offset)) = at;
        if offset < range.earliest || offset > range.next {
            return Err(Failed::OutOfRange(range));
        }
        let index = (offset - range.earliest) as usize;
        let mut taken = 0;
        let mut fits = |record: &&Bytes| {
            let first = taken == 0;
            taken += size(record);
            first || taken <= bytes
        };
        let (from, to) = match at {
            At::From(_) => (index, index + self.records.range(index..).take_while(&mut fits).count()),
            At::Before(_) => (index - self.records.range(..index).rev().take_while(&mut fits).count(), index),
        };
        let records = self.records.range(from..to).cloned().collect();
        Ok(Read { first: range.earliest + from as u64, records, range })
    }
}

/// The memory engine. An operation is done, and a record safe, when [`Engine::poll`] says so.
///
/// Policy: a log above its limit loses its oldest records; above the total, the largest log does. The newest record of
/// a log always stays, so a single record may exceed a limit. What was dropped is counted.
pub struct MemoryStore {
    limits: Limits,
    logs: BTreeMap<LogId, Log>,
    queue: VecDeque<(OpId, Op)>,
    bytes: usize,
    dropped: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        Self { limits, logs: BTreeMap::new(), queue: VecDeque::new(), bytes: 0, dropped: 0 }
    }

    /// Bytes of all records, with what each takes beside its own.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many records were dropped to stay within the limits.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn execute(&mut self, op: Op) -> Result<Outcome, Failed> {
        match op {
            Op::Create { log, name: _ } => {
                self.logs.insert(log, Log::default());
                Ok(Outcome::Created)
            }
            Op::Append { log, first, records } => self.append(log, first, records).map(Outcome::Committed),
            Op::Read { log, at, bytes } => self.logs.get(&log).ok_or(Failed::NoLog)?.read(at, bytes).map(Outcome::Read),
            Op::Remove { log } => {
                self.bytes -= self.logs.remove(&log).ok_or(Failed::NoLog)?.bytes;
                Ok(Outcome::Removed)
            }
        }
    }

    fn append(&mut self, id: LogId, first: u64, records: Vec<Bytes>) -> Result<Range, Failed> {
        let log = self.logs.get_mut(&id).ok_or(Failed::NoLog)?;
        let next = log.range().next;
        if first != next {
            return Err(Failed::Gap { next });
        }
        let bytes: usize = records.iter().map(size).sum();
        log.records.extend(records);
        log.bytes += bytes;
        self.bytes += bytes;
        self.shrink(id);
        self.logs.get(&id).map(Log::range).ok_or(Failed::NoLog)
    }

    fn shrink(&mut self, log: LogId) {
        if let Some(log) = self.logs.get_mut(&log) {
            while log.bytes > self.limits.log_bytes {
                let Some(bytes) = log.drop_oldest() else { break };
                self.bytes -= bytes;
                self.dropped += 1;
            }
        }
        while self.bytes > self.limits.total_bytes {
            let largest = self.logs.values_mut().filter(|log| log.records.len() > 1).max_by_key(|log| log.bytes);
            let Some(bytes) = largest.and_then(Log::drop_oldest) else { break };
            self.bytes -= bytes;
            self.dropped += 1;
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Engine for MemoryStore {
    fn submit(&mut self, id: OpId, op: Op) {
        self.queue.push_back((id, op));
    }

    fn poll(&mut self) -> Option<Done> {
        let (id, op) = self.queue.pop_front()?;
        let log = op.log();
        Some(Done { op: id, log, result: self.execute(op) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: LogId = LogId(1);

    /// A store and the number of the last operation.
    struct Bench(MemoryStore, u64);

    impl Bench {
        /// Limits in records of one byte.
        fn new(log_records: usize, total_records: usize) -> Self {
            let each = RECORD_BYTES + 1;
            let limits = Limits { log_bytes: log_records * each, total_bytes: total_records * each };
            let mut bench = Self(MemoryStore::new(limits), 0);
            assert_eq!(bench.run(Op::Create { log: LOG, name: "a".into() }), Ok(Outcome::Created));
            bench
        }

        fn run(&mut self, op: Op) -> Result<Outcome, Failed> {
            let (id, log) = (self.submit(op.clone()), op.log());
            let done = self.0.poll().expect("done in place");
            assert_eq!((done.op, done.log), (id, log));
            done.result
        }

        fn submit(&mut self, op: Op) -> OpId {
            self.1 += 1;
            self.0.submit(OpId(self.1), op);
            OpId(self.1)
        }

        fn read(&mut self, log: LogId, at: At, bytes: usize) -> Result<(u64, Vec<Bytes>), Failed> {
            match self.run(Op::Read { log, at, bytes })? {
                Outcome::Read(read) => Ok((read.first, read.records)),
                other => panic!("{other:?} to a read"),
            }
        }

        fn range(&self, log: LogId) -> Range {
            self.0.logs[&log].range()
        }
    }

    fn record(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn append(log: LogId, first: u64, records: &[&str]) -> Op {
        Op::Append { log, first, records: records.iter().map(|text| record(text)).collect() }
    }

    #[test]
    fn nothing_is_readable_before_poll_said_so() {
        let mut bench = Bench::new(100, 100);
        bench.submit(Op::Read { log: LOG, at: At::From(1), bytes: 10 });
        bench.submit(append(LOG, 0, &["a", "b"]));
        bench.submit(Op::Read { log: LOG, at: At::From(1), bytes: 10 });
        let results: Vec<_> = std::iter::from_fn(|| bench.0.poll()).map(|done| done.result).collect();
        let range = Range { earliest: 0, next: 2 };
        let read = Read { first: 1, records: vec![record("b")], range };
        let wanted =
            [Err(Failed::OutOfRange(Range::default())), Ok(Outcome::Committed(range)), Ok(Outcome::Read(read))];
        assert_eq!(results, wanted);
        assert_eq!(bench.read(LOG, At::From(2), 10), Ok((2, vec![])));
        assert_eq!(bench.read(LOG, At::Before(0), 10), Ok((0, vec![])));
    }

    #[test]
    fn what_does_not_go_on_is_refused() {
        let mut bench = Bench::new(100, 100);
        assert_eq!(bench.run(append(LOG, 1, &["b"])), Err(Failed::Gap { next: 0 }));
        assert_eq!(bench.run(append(LOG, 0, &["a"])), Ok(Outcome::Committed(Range { earliest: 0, next: 1 })));
        assert_eq!(bench.run(append(LOG, 0, &["a"])), Err(Failed::Gap { next: 1 }));
        assert_eq!(bench.run(Op::Remove { log: LOG }), Ok(Outcome::Removed));
        for op in [append(LOG, 1, &["b"]), Op::Read { log: LOG, at: At::From(0), bytes: 1 }, Op::Remove { log: LOG }] {
            assert_eq!(bench.run(op), Err(Failed::NoLog));
        }
    }

    #[test]
    fn the_oldest_go_first_and_the_newest_stays() {
        let mut bench = Bench::new(2, 1000);
        for n in 0..5 {
            bench.run(append(LOG, n, &["x"])).expect("appended");
        }
        assert_eq!(bench.range(LOG), Range { earliest: 3, next: 5 });
        let large = "y".repeat(500);
        bench.run(append(LOG, 5, &[&large])).expect("appended");
        assert_eq!(bench.range(LOG), Range { earliest: 5, next: 6 });
        assert_eq!(bench.0.dropped(), 5);
        assert_eq!(bench.read(LOG, At::From(5), 1), Ok((5, vec![record(&large)])));
        assert_eq!(bench.read(LOG, At::Before(6), 1), Ok((5, vec![record(&large)])));
    }

    #[test]
    fn above_the_total_the_largest_log_gives_way() {
        let (mut bench, other) = (Bench::new(10, 10), LogId(2));
        bench.run(Op::Create { log: other, name: "b".into() }).expect("created");
        bench.run(append(LOG, 0, &["x"; 8])).expect("appended");
        bench.run(append(other, 0, &["x"; 4])).expect("appended");
        assert_eq!((bench.range(LOG).earliest, bench.range(other).earliest), (2, 0));
        bench.run(Op::Remove { log: LOG }).expect("removed");
        assert_eq!(bench.0.bytes(), 4 * (RECORD_BYTES + 1));
    }

    proptest! {
        #[test]
        fn behaves_as_a_plain_list(steps in prop::collection::vec((0u8..6, 0usize..300, 0u64..40), 1..120)) {
            let mut bench = Bench::new(5, 1000);
            let mut all = Vec::<Bytes>::new();
            for (step, bytes, at) in steps {
                let before = bench.range(LOG);
                let (end, got) = match step {
                    0..=3 => {
                        let (first, text) = (all.len() as u64, "z".repeat(bytes));
                        all.push(record(&text));
                        let done = bench.run(append(LOG, first, &[&text]));
                        prop_assert_eq!(done, Ok(Outcome::Committed(bench.range(LOG))));
                        continue;
                    }
                    4 => (None, bench.read(LOG, At::From(at), bytes)),
                    _ => (Some(at), bench.read(LOG, At::Before(at), bytes)),
                };
                let Ok((first, got)) = got else {
                    prop_assert_eq!(got, Err(Failed::OutOfRange(before)));
                    prop_assert!(at < before.earliest || at > before.next);
                    continue;
                };
                let next = first + got.len() as u64;
                prop_assert_eq!(&got[..], &all[first as usize..next as usize]);
                prop_assert_eq!(end.map_or(first, |_| next), at);
                let sum: usize = got.iter().map(size).sum();
                prop_assert!(sum <= bytes || got.len() == 1);
                prop_assert!(!got.is_empty() || at == end.map_or(before.next, |_| before.earliest));
                let range = bench.range(LOG);
                let held: usize = all[range.earliest as usize..range.next as usize].iter().map(size).sum();
                prop_assert!(held <= 5 * (RECORD_BYTES + 1) || range.next - range.earliest == 1);
                prop_assert_eq!(held, bench.0.bytes());
            }
        }
    }
}
