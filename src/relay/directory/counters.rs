//! What a directory counts.

/// What happened in one worker's directory, and what waits there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages delivered to connections of this worker by events (those of [`Route::Local`](super::Route::Local) are
    /// the shell's to count).
    pub delivered: u64,
    /// Messages sent to another worker.
    pub crossed: u64,
    /// Of these, sent to the home because nothing was known of the DID.
    pub misses: u64,
    /// Messages that came here although another worker owns the DID, and went on.
    pub forwarded: u64,
    /// Messages to an absent DID.
    pub absent: u64,
    /// Messages refused because something was full.
    pub busy: u64,
    /// Messages given up after too many hops.
    pub lost: u64,
    /// Copies for connections that had gone.
    pub copies_stale: u64,
    /// Answers to senders that had gone.
    pub answers_stale: u64,
    /// Answers dropped because the queue towards the sender's worker was full.
    pub answers_dropped: u64,
    /// Times that this worker became an owner.
    pub takeovers: u64,
    /// Connections refused by this worker as a home.
    pub refused: u64,
    /// Messages that wait now for a take-over.
    pub parked: usize,
    /// Their bytes.
    pub parked_bytes: usize,
    /// DIDs that are known now.
    pub entries: usize,
    /// Messages that wait now to be carried.
    pub outbox: usize,
    /// Their bytes.
    pub outbox_bytes: usize,
}
