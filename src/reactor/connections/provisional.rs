//! Connections that have not shown yet that they may stay: how many there may be beside those that have, and which of
//! them gives way to a new one. Owns their order and their number; that one is provisional is a flag of its slot.
//!
//! Peers that prove nothing must not keep others out, and cannot be told apart by their addresses: peers behind one
//! tunnel share one. So they share a class, and where that is full the oldest connection gives way. If the new one were
//! refused instead, it would have to come just when a place is free, which is rare in a flood. A connection that is
//! taken has as long as it takes to fill the class once, and with each step on its way it is spared once more.

use std::collections::VecDeque;

use super::{Core, Flags, Slot};
use crate::{
    base::{Close, CloseCode, ConnToken},
    reactor::{options::Options, slots::Slots},
};

/// Most places that confirmed connections leave to those that have yet to show that they may stay.
const LOBBY_MAX: usize = 64;
/// How often a limit that is reached is logged.
const WARN_EVERY_MS: u64 = 10_000;

/// What may be reached, each of which is logged by itself.
#[derive(Clone, Copy, Debug)]
pub(in crate::reactor) enum Limit {
    /// All places are taken.
    Connections,
    /// Those of connections that prove nothing are.
    Provisional,
}

/// Connections in the order in which they came. A connection that leaves the middle of it (it was confirmed, or closes)
/// is not looked for: its token stays, and is passed over when its turn comes.
#[derive(Debug, Default)]
struct Line {
    tokens: VecDeque<ConnToken>,
    /// Connections that still belong to it.
    len: usize,
}

impl Line {
    fn push(&mut self, token: ConnToken, belongs: impl Fn(ConnToken) -> bool) {
        self.tokens.push_back(token);
        self.len += 1;
        if self.tokens.len() > 2 * self.len + 64 {
            self.tokens.retain(|&token| belongs(token));
        }
    }
}

/// The limits of a worker's connections, and its provisional ones.
#[derive(Debug)]
pub(in crate::reactor) struct Provisional {
    /// Most connections.
    max: usize,
    /// Most of them before only Unix listeners are accepted from.
    tcp_max: usize,
    /// Most that are provisional.
    provisional_max: usize,
    /// Most that are not.
    confirmed_max: usize,
    /// Those that may still be confirmed, the oldest first.
    waiting: Line,
    /// Those that only finish closing.
    leaving: Line,
    warn_from_ms: [u64; 2],
}

impl Provisional {
    pub(in crate::reactor) fn new(options: &Options, workers: usize) -> Self {
        let share = |all: usize| all.div_ceil(workers.max(1));
        let max = share(options.connections_max).clamp(1, ConnToken::SLOTS_MAX);
        let reserve = share(options.unix_reserve).min(max / 4);
        let tcp_max = max - reserve;
        let provisional_max = share(options.provisional_max).clamp(1, tcp_max);
        // Confirmed connections leave some places to new ones: these could not be told otherwise that there is no room.
        let lobby = (max / 16).clamp(1, provisional_max.min(LOBBY_MAX));
        let confirmed_max = tcp_max.saturating_sub(lobby).max(1);
        Self {
            max,
            tcp_max,
            provisional_max,
            confirmed_max,
            waiting: Line::default(),
            leaving: Line::default(),
            warn_from_ms: [0; 2],
        }
    }

    /// Most connections, from a Unix listener or another.
    pub(in crate::reactor) fn most(&self, is_unix: bool) -> usize {
        if is_unix { self.max } else { self.tcp_max }
    }

    /// Connections that are provisional, those that leave included.
    pub(in crate::reactor) fn len(&self) -> usize {
        self.waiting.len + self.leaving.len
    }

    /// Whether a limit that is reached is to be logged now.
    fn may_warn(&mut self, limit: Limit, now_ms: u64) -> bool {
        let from_ms = &mut self.warn_from_ms[limit as usize];
        let may = now_ms >= *from_ms;
        if may {
            *from_ms = now_ms + WARN_EVERY_MS;
        }
        may
    }

    /// Whether a new connection finds no place among so many.
    pub(in crate::reactor) fn is_full(&self, open: usize, is_unix: bool) -> bool {
        open >= self.most(is_unix) || (!is_unix && self.len() >= self.provisional_max)
    }
}

fn flags<C>(slots: &Slots<Slot<C>>, token: ConnToken) -> Flags {
    slots.get(token).map_or(Flags::default(), |slot| slot.flags)
}

fn is_waiting<C>(slots: &Slots<Slot<C>>, token: ConnToken) -> bool {
    let flags = flags(slots, token);
    flags.has(Flags::PROVISIONAL) && !flags.has(Flags::CLOSING)
}

fn is_leaving<C>(slots: &Slots<Slot<C>>, token: ConnToken) -> bool {
    let flags = flags(slots, token);
    flags.has(Flags::PROVISIONAL) && flags.has(Flags::CLOSED)
}

impl<C> Core<C> {
    /// A connection was accepted, and has to show that it may stay.
    pub(in crate::reactor) fn begin_provisional(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.flags.set(Flags::PROVISIONAL);
            let slots = &self.slots;
            self.provisional.waiting.push(token, |token| is_waiting(slots, token));
        }
    }

    /// Connections that are not provisional.
    fn confirmed(&self) -> usize {
        self.slots.len() - self.provisional.len()
    }

    /// Whether the connection is not provisional, or could be confirmed now.
    pub(in crate::reactor) fn has_room(&self, token: ConnToken) -> bool {
        !flags(&self.slots, token).has(Flags::PROVISIONAL) || self.confirmed() < self.provisional.confirmed_max
    }

    /// The connection may stay, if there is room for it.
    pub(in crate::reactor) fn confirm(&mut self, token: ConnToken) -> bool {
        if !self.has_room(token) {
            self.no_room();
            return false;
        }
        let Some(slot) = self.slots.get_mut(token) else {
            self.counters.stale_mail.add(1);
            return false;
        };
        if slot.flags.has(Flags::CLOSING) {
            return false;
        }
        if slot.flags.take(Flags::PROVISIONAL) {
            self.provisional.waiting.len -= 1;
        }
        true
    }

    /// The connection is refused for want of room.
    pub(in crate::reactor) fn no_room(&mut self) {
        self.counters.refused.add(1);
        self.warn(Limit::Connections, "the limit of connections is reached: more are refused");
    }

    /// The connection got a step further: it is spared the next time that it would have to give way.
    pub(in crate::reactor) fn spare(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token)
            && slot.flags.has(Flags::PROVISIONAL)
        {
            slot.flags.set(Flags::SPARED);
        }
    }

    /// The protocol was told of the end of a connection that may be provisional.
    pub(in crate::reactor) fn leave(&mut self, token: ConnToken) {
        if flags(&self.slots, token).has(Flags::PROVISIONAL) {
            let slots = &self.slots;
            self.provisional.waiting.len -= 1;
            self.provisional.leaving.push(token, |token| is_leaving(slots, token));
        }
    }

    /// A slot is taken out: the last thing that happens to a connection.
    pub(in crate::reactor) fn remove(&mut self, token: ConnToken) -> Option<Slot<C>> {
        self.wheel.cancel(token.slot());
        let slot = self.slots.remove(token)?;
        self.queue_bytes -= slot.queue.len();
        if slot.flags.has(Flags::PROVISIONAL) {
            self.provisional.leaving.len -= 1;
        }
        Some(slot)
    }

    /// The connection that has been leaving for the longest time.
    pub(in crate::reactor) fn first_leaving(&mut self) -> Option<ConnToken> {
        loop {
            let token = self.provisional.leaving.tokens.pop_front()?;
            if is_leaving(&self.slots, token) {
                return Some(token);
            }
        }
    }

    /// Has the oldest connections that wait give way: two at a time, so that some leave while others come, unless
    /// enough leave already. False: none leaves.
    pub(in crate::reactor) fn displace(&mut self) -> bool {
        let enough = self.provisional.leaving.len > self.provisional.provisional_max / 8;
        enough || (self.displace_one() | self.displace_one())
    }

    fn displace_one(&mut self) -> bool {
        while let Some(token) = self.provisional.waiting.tokens.pop_front() {
            if !is_waiting(&self.slots, token) {
                continue;
            }
            if let Some(slot) = self.slots.get_mut(token)
                && slot.flags.take(Flags::SPARED)
            {
                self.provisional.waiting.tokens.push_back(token);
                continue;
            }
            self.counters.displaced.add(1);
            self.warn(Limit::Provisional, "connections that prove nothing fill their share: the oldest give way");
            self.close(token, Close::Local(CloseCode::TRY_AGAIN));
            return true;
        }
        false
    }

    /// Logs a limit that is reached, once in a while.
    pub(in crate::reactor) fn warn(&mut self, limit: Limit, what: &str) {
        if !self.provisional.may_warn(limit, self.now.mono_ms) {
            return;
        }
        let (worker, open, provisional) = (self.worker, self.slots.len(), self.provisional.len());
        let (refused, displaced) = (self.counters.refused.get(), self.counters.displaced.get());
        log::warn!(worker, open, provisional, refused, displaced; "{what}");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn limits(connections_max: usize, provisional_max: usize, unix_reserve: usize) -> [usize; 4] {
        let options = Options { connections_max, provisional_max, unix_reserve, ..Options::default() };
        let limits = Provisional::new(&options, 2);
        [limits.max, limits.tcp_max, limits.provisional_max, limits.confirmed_max]
    }

    #[test]
    fn each_class_leaves_room_for_the_others() {
        assert_eq!(limits(512, 16_384, 64), [256, 224, 224, 208]);
        assert_eq!(limits(100_000, 16_384, 64), [50_000, 49_968, 8_192, 49_904]);
        for connections_max in 0..100 {
            let [max, tcp_max, provisional_max, confirmed_max] = limits(connections_max, 16, 8);
            assert!(1 <= provisional_max && provisional_max <= tcp_max && tcp_max <= max, "{connections_max}");
            assert!(confirmed_max >= 1 && (confirmed_max < tcp_max || max == 1), "{connections_max}");
        }
    }

    #[test]
    fn the_places_of_the_unix_socket_are_not_for_tcp() {
        let options = Options { connections_max: 64, unix_reserve: 4, ..Options::default() };
        let limits = Provisional::new(&options, 1);
        let tcp = limits.most(false);
        assert_eq!(limits.most(true), tcp + 4);
        assert!(!limits.is_full(tcp - 1, false) && limits.is_full(tcp, false));
        assert!(!limits.is_full(tcp + 3, true) && limits.is_full(tcp + 4, true));
    }

    #[test]
    fn c4_a_flood_is_logged_once_in_ten_seconds() {
        let mut limits = Provisional::new(&Options::default(), 1);
        let warned: Vec<u64> = (5..35_000).filter(|now_ms| limits.may_warn(Limit::Provisional, *now_ms)).collect();
        assert_eq!(warned, [5, 10_005, 20_005, 30_005]);
        assert!(limits.may_warn(Limit::Connections, 30_006), "the other limit is logged by itself");
    }

    #[test]
    fn a_line_does_not_grow_with_those_that_have_left_it() {
        let mut line = Line::default();
        for slot in 0..10_000 {
            line.push(ConnToken::new(0, slot, 0), |token| token.slot() == slot);
            line.len = 1;
            assert!(line.tokens.len() <= 2 * 2 + 64);
        }
    }
}
