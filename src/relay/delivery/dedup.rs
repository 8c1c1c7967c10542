//! Marks of the last messages of a worker: the connections that were handed one already, and the senders that were told
//! already. Numbers instead of sets, so that the next message costs nothing.

use crate::base::ConnToken;

/// Messages with a failure that the sender was told of. The sender is told once for a message, however many recipients
/// it has and on whichever workers. A bit for each of the last messages, made when the first fails.
#[derive(Debug, Default)]
pub(super) struct Told {
    number: u32,
    bits: Vec<u64>,
}

impl Told {
    /// What comes late comes from another worker, within a turn or two.
    const KEPT: u32 = 1 << 18;

    fn bit(number: u32) -> (usize, u64) {
        let place = number % Self::KEPT;
        ((place / 64) as usize, 1 << (place % 64))
    }

    /// The number of the next message.
    pub(super) fn next(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        let (word, bit) = Self::bit(self.number);
        if let Some(word) = self.bits.get_mut(word) {
            *word &= !bit;
        }
        self.number
    }

    /// True: the message's sender was not told yet, and is now.
    pub(super) fn first(&mut self, message: u32) -> bool {
        if self.bits.is_empty() {
            self.bits = vec![0; Self::KEPT as usize / 64];
        }
        let (word, bit) = Self::bit(message);
        let before = self.bits[word];
        self.bits[word] |= bit;
        before & bit == 0 || self.number.wrapping_sub(message) >= Self::KEPT
    }
}

/// Connections of this worker by slot, each with the number of the last message it was marked for.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    message: u64,
    by_slot: Vec<u64>,
}

impl Dedup {
    /// No connection is marked for the next message.
    pub(super) fn next(&mut self) {
        self.message += 1;
    }

    /// Marks a connection; false if it was marked for this message.
    pub(super) fn mark(&mut self, token: ConnToken) -> bool {
        let slot = token.slot() as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, 0);
        }
        std::mem::replace(&mut self.by_slot[slot], self.message) != self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_of_once_and_a_later_one_in_its_place_again() {
        let mut told = Told::default();
        let numbers: Vec<u32> = (0..1_000).map(|_| told.next()).collect();
        assert!(numbers.iter().all(|&number| told.first(number)));
        assert!(!numbers.iter().any(|&number| told.first(number)), "however many there are");
        for _ in 0..Told::KEPT {
            told.next();
        }
        assert!(told.first(told.number) && !told.first(told.number));
        let in_its_place = told.number - Told::KEPT;
        assert!(told.first(in_its_place), "what is told of the message that has its bit now says nothing of it");
        assert!(told.first(told.number - Told::KEPT + 1));
    }
}
