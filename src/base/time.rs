//! Time as a value: state machines are told the time and never read a clock.

/// One reading of both clocks, taken by a shell and passed down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds on the monotonic clock since a fixed point in this process. Deadlines are made of it.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch. For people and for wires, never for deadlines.
    pub unix_ms: u64,
}

impl Now {
    /// The same moment moved forward on both clocks.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self { mono_ms: self.mono_ms + ms, unix_ms: self.unix_ms + ms }
    }
}
