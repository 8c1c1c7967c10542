//! Logs: ordered records, numbered without a gap, safe before they are shown. Owns the one [`Store`] trait and its
//! engines. Must not know what a record means, do I/O on a caller's thread beyond what an engine's document says, or
//! be called from a worker.

mod memory;

pub use memory::{Limits, MemoryStore};

/// What a log holds.
pub trait Record {
    /// How many bytes it counts for in limits and batches: its payload and a fair share of its bookkeeping. It may take
    /// as long as reading the record does, so an engine asks once, where the record is appended, and keeps the answer.
    fn size(&self) -> usize;
}

impl<T: Record + ?Sized> Record for std::sync::Arc<T> {
    fn size(&self) -> usize {
        T::size(self)
    }
}

/// Names an open log. Never used again after [`Store::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u64);

/// Word from the engine: everything of `log` below `next` is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Which log.
    pub log: LogId,
    /// The first offset that is not safe yet.
    pub next: u64,
}

/// What of a log can be served: offsets from `earliest` up to, not including, `next`. Committed records only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The oldest offset that is still held.
    pub earliest: u64,
    /// The offset that follows the newest committed record.
    pub next: u64,
}

/// The offset asked for is not held, or not committed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offsets {} up to {} can be read", .0.earliest, .0.next)]
pub struct OutOfRange(pub Range);

/// A store of logs. Mailboxes will stand beside the logs in this trait; engines with a writer thread keep the form:
/// [`append`](Self::append) only hands over, [`poll`](Self::poll) says what has become safe, reads see nothing else.
///
/// An id that was removed, or never given, is an empty log that swallows what is appended: a late record of a removed
/// session must not bring a caller down.
pub trait Store<R: Record> {
    /// Opens a new, empty log. `name` is what a durable engine finds it by later.
    fn create(&mut self, name: &str) -> LogId;

    /// Hands over the next record and returns its offset: 0 for the first of a log, then one more each time.
    fn append(&mut self, log: LogId, record: R) -> u64;

    /// The next word on what is safe; `None` when there is no news. Offsets of one log never go down.
    fn poll(&mut self) -> Option<Committed>;

    /// What can be read now.
    fn range(&self, log: LogId) -> Range;

    /// Committed records from `from` on, in order: as many as fit into `bytes`, but always one if there is one.
    /// Empty when `from` is `next`.
    ///
    /// # Errors
    /// `from` is below `earliest` or above `next`.
    fn read(&self, log: LogId, from: u64, bytes: usize) -> Result<Vec<R>, OutOfRange>;

    /// The newest committed records before `before` that fit into `bytes`, in order, and the offset of the first of
    /// them (`before`, or `next` if that is lower, when there is none).
    fn tail(&self, log: LogId, before: u64, bytes: usize) -> (u64, Vec<R>);

    /// Forgets a log.
    fn remove(&mut self, log: LogId);
}
