//! What is in flight, and the judgement on every delivery: right, doubled, misdirected, foreign or out of order.

use std::collections::VecDeque;

use crate::template::Stamp;

/// The receivers of a sender, and how order is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each sender has one receiver: order is checked.
    Single,
    /// Each sender has many, one for each message; the flag says whether order is checked.
    Spread(bool),
    /// One sender, every message goes to so many receivers, numbered from 1.
    All(u32),
}

/// The judgement on a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was in flight to this receiver.
    Right {
        /// When it should have been sent.
        intended: u64,
        /// All its receivers have it: the sender may send another.
        settled: bool,
        /// A later one of this sender was here before.
        disordered: bool,
    },
    /// It had come before.
    Doubled,
    /// It was for another receiver.
    Misdirected,
    /// No sender of this run sent it.
    Foreign,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    sequence: u64,
    intended: u64,
    receiver: u32,
    /// Receivers that do not have it yet.
    left: u32,
}

/// What one sender has in flight, and what it puts off.
#[derive(Clone, Debug, Default)]
struct Sender {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The number of the last message.
    sent: u64,
    /// Send times that came while every slot was taken.
    late: VecDeque<u64>,
}

/// Judges every delivery by what is in flight.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryCheck {
    run: u32,
    shape: Shape,
    senders: Vec<Sender>,
    /// The last sequence number, by receiver and sender where there are many of both.
    last: Vec<u64>,
    /// Fan-out: a bit for each slot and receiver.
    seen: Vec<u64>,
    words: usize,
    in_flight: u64,
}

impl DeliveryCheck {
    /// Nothing is in flight yet.
    pub(crate) fn new(run: u32, shape: Shape, senders: u32, depth: u32) -> Self {
        let sender = Sender {
            slots: vec![Slot::default(); depth as usize],
            free: (0..depth).rev().collect(),
            ..Sender::default()
        };
        let (last, words) = match shape {
            Shape::Single => (senders as usize, 0),
            Shape::Spread(false) => (0, 0),
            Shape::Spread(true) => (senders as usize * senders as usize, 0),
            Shape::All(receivers) => (receivers as usize + 1, receivers as usize / 64 + 1),
        };
        Self {
            run,
            shape,
            senders: vec![sender; senders as usize],
            last: vec![0; last],
            seen: vec![0; words * depth as usize],
            words,
            in_flight: 0,
        }
    }

    /// Takes a slot for a message; `None` while all are taken.
    pub(crate) fn send(&mut self, sender: u32, receiver: u32, intended: u64) -> Option<Stamp> {
        let of_sender = &mut self.senders[sender as usize];
        let slot = of_sender.free.pop()?;
        of_sender.sent += 1;
        let left = if let Shape::All(receivers) = self.shape { receivers } else { 1 };
        of_sender.slots[slot as usize] = Slot { sequence: of_sender.sent, intended, receiver, left };
        let sequence = of_sender.sent;
        if self.words > 0 {
            self.seen[slot as usize * self.words..][..self.words].fill(0);
        }
        self.in_flight += 1;
        Some(Stamp { run: self.run, sender, slot, receiver, sequence })
    }

    /// Judges what came to a receiver.
    #[inline]
    pub(crate) fn arrive(&mut self, receiver: u32, stamp: &Stamp) -> Verdict {
        let Some(of_sender) = self.senders.get_mut(stamp.sender as usize).filter(|_| stamp.run == self.run) else {
            return Verdict::Foreign;
        };
        let sent = of_sender.sent;
        let Some(slot) = of_sender.slots.get_mut(stamp.slot as usize) else { return Verdict::Foreign };
        if slot.sequence != stamp.sequence || slot.left == 0 {
            let is_old = stamp.sequence != 0 && stamp.sequence <= sent;
            return if is_old { Verdict::Doubled } else { Verdict::Foreign };
        }
        let last = match self.shape {
            Shape::All(receivers) => {
                if receiver == 0 || receiver > receivers {
                    return Verdict::Misdirected;
                }
                let word = &mut self.seen[stamp.slot as usize * self.words + receiver as usize / 64];
                let bit = 1 << (receiver % 64);
                if *word & bit != 0 {
                    return Verdict::Doubled;
                }
                *word |= bit;
                self.last.get_mut(receiver as usize)
            }
            _ if slot.receiver != receiver => return Verdict::Misdirected,
            Shape::Single => self.last.get_mut(stamp.sender as usize),
            Shape::Spread(_) => self.last.get_mut(receiver as usize * self.senders.len() + stamp.sender as usize),
        };
        let disordered = last.is_some_and(|last| {
            let disordered = *last > stamp.sequence;
            *last = stamp.sequence.max(*last);
            disordered
        });
        let of_sender = &mut self.senders[stamp.sender as usize];
        let slot = &mut of_sender.slots[stamp.slot as usize];
        slot.left -= 1;
        let (intended, settled) = (slot.intended, slot.left == 0);
        if settled {
            of_sender.free.push(stamp.slot);
            self.in_flight -= 1;
        }
        Verdict::Right { intended, settled, disordered }
    }

    /// The relay refused a message: it is in flight no more. Says whether it was.
    pub(crate) fn refuse(&mut self, sender: u32, sequence: u32) -> bool {
        let Some(of_sender) = self.senders.get_mut(sender as usize) else { return false };
        let found = of_sender.slots.iter().position(|slot| slot.left > 0 && slot.sequence as u32 == sequence);
        let Some(at) = found else { return false };
        of_sender.slots[at].left = 0;
        of_sender.free.push(at as u32);
        self.in_flight -= 1;
        true
    }

    /// Remembers a send time that no slot was free for.
    pub(crate) fn put_off(&mut self, sender: u32, intended: u64) {
        self.senders[sender as usize].late.push_back(intended);
    }

    /// The oldest send time that was put off.
    pub(crate) fn put_off_first(&mut self, sender: u32) -> Option<u64> {
        self.senders[sender as usize].late.pop_front()
    }

    /// The send times that were never kept.
    pub(crate) fn never_sent(&self) -> impl Iterator<Item = u64> {
        self.senders.iter().flat_map(|of_sender| of_sender.late.iter().copied())
    }

    /// Nothing is in flight, and nothing was put off.
    pub(crate) fn is_settled(&self) -> bool {
        self.in_flight == 0 && self.senders.iter().all(|of_sender| of_sender.late.is_empty())
    }

    /// Messages that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.senders.iter().map(|of_sender| of_sender.sent).sum()
    }

    /// Deliveries that are missing now.
    pub(crate) fn missing(&self) -> u64 {
        self.senders.iter().flat_map(|of_sender| &of_sender.slots).map(|slot| u64::from(slot.left)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(verdict: Verdict) -> (u64, bool, bool) {
        match verdict {
            Verdict::Right { intended, settled, disordered } => (intended, settled, disordered),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_message_is_right_once() {
        let mut check = DeliveryCheck::new(7, Shape::Single, 2, 2);
        let first = check.send(0, 2, 10).expect("a slot");
        let second = check.send(0, 2, 11).expect("a slot");
        assert_eq!(check.send(0, 2, 12), None);
        assert_eq!((check.missing(), check.sent(), check.is_settled()), (2, 2, false));
        assert_eq!(check.arrive(3, &first), Verdict::Misdirected);
        assert_eq!(check.arrive(2, &Stamp { run: 8, ..first }), Verdict::Foreign);
        assert_eq!(check.arrive(2, &Stamp { sender: 9, ..first }), Verdict::Foreign);
        assert_eq!(check.arrive(2, &Stamp { slot: 9, ..first }), Verdict::Foreign);
        assert_eq!(check.arrive(2, &Stamp { sequence: 99, ..first }), Verdict::Foreign);
        assert_eq!(right(check.arrive(2, &second)), (11, true, false));
        assert_eq!(right(check.arrive(2, &first)), (10, true, true));
        assert_eq!(check.arrive(2, &first), Verdict::Doubled);
        let third = check.send(0, 2, 13).expect("a slot");
        assert_eq!(check.arrive(2, &first), Verdict::Doubled, "also when its slot is taken again");
        assert_eq!(right(check.arrive(2, &third)), (13, true, false));
        assert!(check.is_settled());
    }

    #[test]
    fn a_fan_out_settles_with_its_last_receiver() {
        let mut check = DeliveryCheck::new(7, Shape::All(70), 1, 1);
        let stamp = check.send(0, Stamp::ALL, 1).expect("a slot");
        assert_eq!(check.arrive(0, &stamp), Verdict::Misdirected);
        assert_eq!(check.arrive(71, &stamp), Verdict::Misdirected);
        for receiver in 1..=70 {
            assert_eq!(right(check.arrive(receiver, &stamp)), (1, receiver == 70, false));
            assert_eq!(check.arrive(receiver, &stamp), Verdict::Doubled);
        }
        let next = check.send(0, Stamp::ALL, 2).expect("a slot");
        assert_eq!(right(check.arrive(5, &next)), (2, false, false));
        assert_eq!(check.missing(), 69);
    }

    #[test]
    fn order_is_of_one_sender_and_one_receiver() {
        let mut check = DeliveryCheck::new(7, Shape::Spread(true), 3, 3);
        let to_1 = check.send(0, 1, 0).expect("a slot");
        let to_2 = check.send(0, 2, 0).expect("a slot");
        let again_to_1 = check.send(0, 1, 0).expect("a slot");
        assert!(!right(check.arrive(2, &to_2)).2);
        assert!(!right(check.arrive(1, &again_to_1)).2);
        assert!(right(check.arrive(1, &to_1)).2);
    }

    #[test]
    fn what_is_refused_is_not_missing() {
        let mut check = DeliveryCheck::new(7, Shape::Single, 1, 1);
        let stamp = check.send(0, 1, 0).expect("a slot");
        assert!(check.refuse(0, stamp.sequence as u32));
        assert!(!check.refuse(0, stamp.sequence as u32));
        assert!(check.is_settled() && check.missing() == 0);
        check.put_off(0, 5);
        assert!(!check.is_settled());
        assert_eq!(check.never_sent().collect::<Vec<_>>(), [5]);
        assert_eq!((check.put_off_first(0), check.put_off_first(0)), (Some(5), None));
    }
}
