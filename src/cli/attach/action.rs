//! What a key or a line leads to, whatever shows the session.

/// What input leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A line, and when its first key was pressed.
    Line { text: String, began_ms: u64 },
    /// Stop the running turn.
    Interrupt,
    /// Leave; the session goes on.
    Leave,
    /// The pipe has ended, and something waits for an answer that it does not hold.
    Unanswered,
    /// Show what came before.
    Earlier,
    /// A paste of so many bytes finds no room.
    NoRoom(usize),
    /// The terminal failed.
    Failed(String),
}
