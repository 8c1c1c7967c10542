//! What becomes of bytes that are to be sent; the loop and the core speak of it alike.

/// What became of bytes that were to be sent. All of them or none were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "High asks for less until the queue has drained; Closed means that nothing was taken"]
pub enum Sent {
    /// Queued; it is written at the end of the turn.
    Queued,
    /// Queued, and the queue is above its high mark: produce less until it has drained, which is told
    /// (`Protocol::writable`).
    High,
    /// Nothing was taken: the token is stale or another worker's, the connection is closing, or its queue would have passed
    /// its maximum just now (which closes it as too slow). A connection that was open until then still gets its `closed`.
    Closed,
}
