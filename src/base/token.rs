//! The name of a connection: worker, slot and generation in 64 bits.

use std::fmt;

/// Names one connection of this process, for ever: a slot that is used again has another generation, so a stale token
/// reaches no connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnToken(u64);

const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 28;
const _: () = assert!(SLOT_BITS + GENERATION_BITS + 12 == 64);

impl ConnToken {
    /// Most workers that a token can name.
    pub const WORKERS_MAX: usize = (1 << 12) - 1;
    /// The index that no worker has: for tokens of what is no connection of a worker.
    pub const NO_WORKER: u16 = Self::WORKERS_MAX as u16;
    /// Most slots of a worker.
    pub const SLOTS_MAX: usize = 1 << SLOT_BITS;
    /// Connections that a worker's tables have room for from the beginning. An allocation of megabytes is a mapping of
    /// its own, which costs nothing before it is written to and grows in place; a table that grows from little leaves a
    /// hole behind each time.
    pub const ROOM: usize = 64 * 1024;
    /// Generations wrap after this many uses of one slot.
    pub const GENERATIONS: u32 = 1 << GENERATION_BITS;

    /// Packs the parts. Parts above their limit are a mistake of the caller and are cut off in release builds.
    pub fn new(worker: u16, slot: u32, generation: u32) -> Self {
        debug_assert!(usize::from(worker) <= Self::WORKERS_MAX);
        debug_assert!((slot as usize) < Self::SLOTS_MAX && generation < Self::GENERATIONS);
        let slot = u64::from(slot) & ((1 << SLOT_BITS) - 1);
        let generation = u64::from(generation) & ((1 << GENERATION_BITS) - 1);
        Self(u64::from(worker) << (SLOT_BITS + GENERATION_BITS) | generation << SLOT_BITS | slot)
    }

    /// The worker that owns the connection.
    pub fn worker(self) -> u16 {
        (self.0 >> (SLOT_BITS + GENERATION_BITS)) as u16
    }

    /// The slot in that worker's slab.
    pub fn slot(self) -> u32 {
        (self.0 & ((1 << SLOT_BITS) - 1)) as u32
    }

    /// Which use of that slot.
    pub fn generation(self) -> u32 {
        ((self.0 >> SLOT_BITS) & ((1 << GENERATION_BITS) - 1)) as u32
    }

    /// The 64 bits, as a poll token carries them.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The token of these 64 bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for ConnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.worker(), self.slot(), self.generation())
    }
}

impl fmt::Debug for ConnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_went_in() {
        for (worker, slot, generation) in
            [(0, 0, 0), (1, 2, 3), (4095, (1 << SLOT_BITS) - 1, ConnToken::GENERATIONS - 1)]
        {
            let token = ConnToken::new(worker, slot, generation);
            assert_eq!((token.worker(), token.slot(), token.generation()), (worker, slot, generation));
            assert_eq!(ConnToken::from_bits(token.bits()), token);
        }
    }
}
