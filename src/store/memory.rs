//! Logs in memory: bounded by bytes, each and together; the oldest records go first. Nothing outlives the process.

use std::collections::{BTreeMap, VecDeque};

use super::{Committed, LogId, OutOfRange, Range, Record, Store};

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

/// A record and its size, which is asked for once: some read all their bytes to say it.
struct Entry<R> {
    record: R,
    size: usize,
}

struct Log<R> {
    earliest: u64,
    committed: usize,
    entries: VecDeque<Entry<R>>,
    committed_bytes: usize,
    dirty: bool,
}

impl<R> Log<R> {
    fn range(&self) -> Range {
        Range { earliest: self.earliest, next: self.earliest + self.committed as u64 }
    }

    /// Drops the oldest committed record, but never the newest one: whoever was just told of it may read it.
    fn drop_oldest(&mut self) -> Option<usize> {
        if self.committed < 2 {
            return None;
        }
        let bytes = self.entries.pop_front()?.size;
        self.earliest += 1;
        self.committed -= 1;
        self.committed_bytes -= bytes;
        Some(bytes)
    }
}

/// The memory engine. A record is safe as soon as [`Store::poll`] has said so, which it does at the next call.
///
/// Policy: a log above its limit loses its oldest records; above the total, the largest log does. The newest record of
/// a log always stays, so a single record may exceed a limit. What was dropped is counted.
pub struct MemoryStore<R> {
    limits: Limits,
    logs: BTreeMap<LogId, Log<R>>,
    news: VecDeque<LogId>,
    last: u64,
    bytes: usize,
    dropped: u64,
}

impl<R: Record> MemoryStore<R> {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        Self { limits, logs: BTreeMap::new(), news: VecDeque::new(), last: 0, bytes: 0, dropped: 0 }
    }

    /// Bytes of committed records.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many records were dropped to stay within the limits.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn shrink(&mut self, log: LogId) {
        if let Some(log) = self.logs.get_mut(&log) {
            while log.committed_bytes > self.limits.log_bytes {
                let Some(bytes) = log.drop_oldest() else { break };
                self.bytes -= bytes;
                self.dropped += 1;
            }
        }
        while self.bytes > self.limits.total_bytes {
            let largest = self.logs.values_mut().filter(|log| log.committed > 1).max_by_key(|log| log.committed_bytes);
            let Some(bytes) = largest.and_then(Log::drop_oldest) else { break };
            self.bytes -= bytes;
            self.dropped += 1;
        }
    }
}

impl<R: Record> Default for MemoryStore<R> {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl<R: Record + Clone> Store<R> for MemoryStore<R> {
    fn create(&mut self, _name: &str) -> LogId {
        self.last += 1;
        let log = Log { earliest: 0, committed: 0, entries: VecDeque::new(), committed_bytes: 0, dirty: false };
        self.logs.insert(LogId(self.last), log);
        LogId(self.last)
    }

    fn append(&mut self, id: LogId, record: R) -> u64 {
        let Some(log) = self.logs.get_mut(&id) else { return 0 };
        let size = record.size();
        log.entries.push_back(Entry { record, size });
        if !log.dirty {
            log.dirty = true;
            self.news.push_back(id);
        }
        log.earliest + log.entries.len() as u64 - 1
    }

    fn poll(&mut self) -> Option<Committed> {
        loop {
            let id = self.news.pop_front()?;
            let Some(log) = self.logs.get_mut(&id) else { continue };
            log.dirty = false;
            let fresh: usize = log.entries.iter().skip(log.committed).map(|entry| entry.size).sum();
            log.committed = log.entries.len();
            log.committed_bytes += fresh;
            self.bytes += fresh;
            let next = log.range().next;
            self.shrink(id);
            return Some(Committed { log: id, next });
        }
    }

    fn range(&self, log: LogId) -> Range {
        self.logs.get(&log).map(Log::range).unwrap_or_default()
    }

    fn read(&self, id: LogId, from: u64, bytes: usize) -> Result<Vec<R>, OutOfRange> {
        let range = self.range(id);
        if from < range.earliest || from > range.next {
            return Err(OutOfRange(range));
        }
        let Some(log) = self.logs.get(&id) else { return Ok(Vec::new()) };
        let skip = (from - range.earliest) as usize;
        let mut taken = 0;
        let mut records = Vec::new();
        for entry in log.entries.iter().take(log.committed).skip(skip) {
            taken += entry.size;
            if taken > bytes && !records.is_empty() {
                break;
            }
            records.push(entry.record.clone());
        }
        Ok(records)
    }

    fn tail(&self, id: LogId, before: u64, bytes: usize) -> (u64, Vec<R>) {
        let range = self.range(id);
        let end = before.clamp(range.earliest, range.next);
        let Some(log) = self.logs.get(&id) else { return (end, Vec::new()) };
        let mut first = end;
        let mut room = bytes;
        while first > range.earliest {
            let size = log.entries[(first - 1 - range.earliest) as usize].size;
            if size > room {
                break;
            }
            room -= size;
            first -= 1;
        }
        let (from, to) = ((first - range.earliest) as usize, (end - range.earliest) as usize);
        (first, log.entries.range(from..to).map(|entry| entry.record.clone()).collect())
    }

    fn remove(&mut self, id: LogId) {
        if let Some(log) = self.logs.remove(&id) {
            self.bytes -= log.committed_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Item(u64, usize);

    impl Record for Item {
        fn size(&self) -> usize {
            self.1
        }
    }

    fn store(log_bytes: usize, total_bytes: usize) -> MemoryStore<Item> {
        MemoryStore::new(Limits { log_bytes, total_bytes })
    }

    #[test]
    fn nothing_is_readable_before_poll_said_so() {
        let mut store = store(100, 100);
        let log = store.create("a");
        assert_eq!(store.append(log, Item(0, 1)), 0);
        assert_eq!(store.append(log, Item(1, 1)), 1);
        assert_eq!(store.range(log), Range { earliest: 0, next: 0 });
        assert_eq!(store.read(log, 1, 10), Err(OutOfRange(Range { earliest: 0, next: 0 })));
        assert_eq!(store.poll(), Some(Committed { log, next: 2 }));
        assert_eq!(store.poll(), None);
        assert_eq!(store.read(log, 1, 10), Ok(vec![Item(1, 1)]));
        assert_eq!(store.read(log, 2, 10), Ok(vec![]));
    }

    #[test]
    fn the_oldest_go_first_and_the_newest_stays() {
        let mut store = store(10, 1000);
        let log = store.create("a");
        for n in 0..5 {
            store.append(log, Item(n, 4));
            store.poll();
        }
        assert_eq!(store.range(log), Range { earliest: 3, next: 5 });
        store.append(log, Item(5, 50));
        store.poll();
        assert_eq!(store.range(log), Range { earliest: 5, next: 6 });
        assert_eq!(store.dropped(), 5);
        assert_eq!(store.read(log, 5, 1), Ok(vec![Item(5, 50)]));
        assert_eq!(store.tail(log, u64::MAX, 49), (6, vec![]));
    }

    #[test]
    fn above_the_total_the_largest_log_gives_way() {
        let mut store = store(100, 100);
        let (a, b) = (store.create("a"), store.create("b"));
        for n in 0..8 {
            store.append(a, Item(n, 10));
        }
        for n in 0..4 {
            store.append(b, Item(n, 10));
        }
        while store.poll().is_some() {}
        assert_eq!((store.range(a).earliest, store.range(b).earliest), (2, 0));
        store.remove(a);
        assert_eq!(store.bytes(), 40);
        assert_eq!(store.append(a, Item(0, 1)), 0);
        assert_eq!(store.poll(), None);
    }

    /// A record that counts how often its size is asked for.
    #[derive(Clone, Debug)]
    struct Counted(Rc<Cell<usize>>);

    impl Record for Counted {
        fn size(&self) -> usize {
            self.0.set(self.0.get() + 1);
            10
        }
    }

    #[test]
    fn a_record_is_asked_for_its_size_once_however_often_it_is_read() {
        let mut store = MemoryStore::new(Limits { log_bytes: 40, total_bytes: 1000 });
        let (log, asked) = (store.create("a"), Rc::new(Cell::new(0)));
        for _ in 0..8 {
            store.append(log, Counted(asked.clone()));
        }
        store.poll();
        assert_eq!(store.range(log), Range { earliest: 4, next: 8 });
        for _ in 0..5 {
            assert_eq!(store.read(log, 4, 40).map(|records| records.len()), Ok(4));
            assert_eq!(store.tail(log, 8, 40).1.len(), 4);
        }
        store.remove(log);
        assert_eq!(asked.get(), 8);
    }

    proptest! {
        #[test]
        fn behaves_as_a_plain_list(steps in prop::collection::vec((0u8..6, 0usize..30, 0u64..40), 1..120)) {
            let mut store = store(60, 10_000);
            let log = store.create("a");
            let (mut all, mut safe) = (Vec::<Item>::new(), 0usize);
            for (step, size, at) in steps {
                match step {
                    0..=2 => {
                        let item = Item(all.len() as u64, size);
                        prop_assert_eq!(store.append(log, item.clone()), all.len() as u64);
                        all.push(item);
                    }
                    3 => {
                        let news = store.poll();
                        prop_assert_eq!(news.is_some(), safe < all.len());
                        safe = all.len();
                    }
                    4 => {
                        let range = store.range(log);
                        prop_assert_eq!(range.next, safe as u64);
                        match store.read(log, at, size) {
                            Err(OutOfRange(said)) => {
                                prop_assert_eq!(said, range);
                                prop_assert!(at < range.earliest || at > range.next);
                            }
                            Ok(got) => {
                                prop_assert_eq!(&got[..], &all[at as usize..at as usize + got.len()]);
                                prop_assert!(at as usize + got.len() <= safe);
                                let sum: usize = got.iter().map(Record::size).sum();
                                prop_assert!(sum <= size || got.len() == 1);
                                prop_assert!(!got.is_empty() || at == range.next);
                            }
                        }
                    }
                    _ => {
                        let range = store.range(log);
                        let (first, got) = store.tail(log, at, size);
                        let end = at.clamp(range.earliest, range.next);
                        prop_assert_eq!(first + got.len() as u64, end);
                        prop_assert_eq!(&got[..], &all[first as usize..end as usize]);
                        prop_assert!(got.iter().map(Record::size).sum::<usize>() <= size);
                    }
                }
                let range = store.range(log);
                let held: usize = all[range.earliest as usize..range.next as usize].iter().map(Record::size).sum();
                prop_assert!(held <= 60 || range.next - range.earliest == 1);
                prop_assert_eq!(held, store.bytes());
            }
        }
    }
}
