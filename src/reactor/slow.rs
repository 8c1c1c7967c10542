//! Which peers are slow ([`Pace`]), and which of these are left alone again: a part of [`Core`]. Makes no system call.

use super::{
    connections::{Core, Slot},
    flags::Flags,
    pace::{PROVED, Pace, UNASKED, UNPROVED_BYTES, is_slow},
};
use crate::base::ConnToken;

impl<C> Slot<C> {
    /// Counts what a new peer is about to be given; one that would have all that it may before it is asked is paced.
    #[cold]
    pub(super) fn prove(&mut self, now_ms: u64, pace_ms: u64) {
        let waits = u16::try_from(self.queue.len()).unwrap_or(u16::MAX);
        match self.room.checked_sub(waits).filter(|room| *room > 0) {
            Some(room) => self.room = room,
            None => {
                let given = UNPROVED_BYTES - self.room;
                self.room = PROVED;
                self.flags.set(Flags::PACED);
                self.rare().pace = Some(Pace::unproved(given.into(), now_ms, pace_ms));
            }
        }
    }
}

impl<C> Core<C> {
    /// The kernel takes more of a connection again. A peer that was long in reading what that took is slow.
    pub(super) fn moves(&mut self, token: ConnToken) {
        let now_ms = self.now.mono_ms;
        if let Some(slot) = self.slots.get_mut(token)
            && !slot.flags.has(Flags::PACED | Flags::CLOSED)
            && slot.rare().pace.is_none()
            && is_slow(now_ms.saturating_sub(slot.rare().blocked_ms), self.pace_ms)
            && slot.room != UNASKED
        {
            slot.room = PROVED;
            slot.rare().pace = Some(Pace::new(self.pace_ms));
            self.pace(token);
        }
        self.touch(token);
    }

    /// A slow peer has answered a probe: it is given more, or is found quick.
    pub(super) fn answered(&mut self, token: ConnToken) {
        let (now_ms, pace_ms) = (self.now.mono_ms, self.pace_ms);
        let Some(slot) = self.slots.get_mut(token) else { return };
        let Some(rare) = slot.rare.as_mut() else { return };
        let Some(pace) = &mut rare.pace else { return };
        if pace.answered(now_ms, pace_ms) {
            slot.flags.clear(Flags::PACED);
            rare.pace = None;
        } else {
            self.pace(token);
        }
        self.unblock(token);
    }

    /// The peer answers probes from now on, and has yet to show that it reads. Nothing goes ahead of what waits.
    pub(super) fn answers_probes(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token).filter(|_| self.pace_ms > 0) {
            slot.room = UNPROVED_BYTES;
            slot.queue.keep_front();
        }
    }

    /// From now on the peer is given what it reads.
    fn pace(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.flags.set(Flags::PACED);
        }
    }

    /// Tries to write whatever the kernel said last.
    fn unblock(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.flags.clear(Flags::BLOCKED);
        }
        self.touch(token);
    }

    /// Slow peers that do not answer are given more, and in the end what the kernel takes: that they read shows by that alone.
    #[cold]
    pub(super) fn look_at_paced(&mut self) {
        let (now_ms, pace_ms) = (self.now.mono_ms, self.pace_ms);
        let mut paced = std::mem::take(&mut self.paced);
        paced.retain(|&token| {
            let Some(slot) = self.slots.get_mut(token).filter(|slot| slot.flags.has(Flags::PACED)) else {
                return false;
            };
            let Some(pace) = &mut slot.rare().pace else { return false };
            match pace.late_ms() {
                // It is looked at again when it has been asked again.
                None => return false,
                Some(at_ms) if at_ms > now_ms => return true,
                Some(_) => {}
            }
            let is_left_alone = pace.late(now_ms, pace_ms);
            if is_left_alone {
                slot.flags.clear(Flags::PACED);
            }
            self.unblock(token);
            !is_left_alone
        });
        self.paced_at_ms = if paced.is_empty() { u64::MAX } else { now_ms.saturating_add(pace_ms.max(1)) };
        self.paced = paced;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use mio::net::UnixStream;

    use super::*;
    use crate::reactor::{Options, WorkerCounters, sendq::SendQueue, stream::Stream};

    /// A worker with one connection.
    fn core() -> (Core<()>, ConnToken) {
        let options = Options::default();
        let counters = Arc::new(WorkerCounters::default());
        let mut core = Core::new(0, crate::reactor::now(), &options, 1, counters);
        let slot = Slot {
            stream: Stream::Unix(UnixStream::pair().unwrap().0),
            conn: Some(()),
            queue: SendQueue::default(),
            kept: Vec::new(),
            need: 0,
            room: PROVED,
            flags: Flags::default(),
            rare: None,
        };
        let token = core.slots.insert(slot).ok().unwrap();
        (core, token)
    }

    /// The kernel takes more after so long.
    fn blocked_for(core: &mut Core<()>, token: ConnToken, ms: u64) -> bool {
        let slot = core.slots.get_mut(token).unwrap();
        slot.rare().blocked_ms = core.now.mono_ms;
        core.now.mono_ms += ms;
        core.moves(token);
        core.slots.get(token).unwrap().flags.has(Flags::PACED)
    }

    /// So many bytes are read between two answers, a second apart. Whether it is still slow.
    fn reads(core: &mut Core<()>, token: ConnToken, bytes: usize) -> bool {
        for bytes in [0, bytes] {
            core.now.mono_ms += 1_000;
            let now_ms = core.now.mono_ms;
            let pace = core.slots.get_mut(token).unwrap().rare().pace.as_mut().unwrap();
            pace.wrote(bytes);
            pace.probed(0, now_ms);
            core.answered(token);
        }
        core.slots.get(token).unwrap().flags.has(Flags::PACED)
    }

    #[test]
    fn a_peer_that_was_slow_and_became_quick_may_become_slow_again() {
        let (mut core, token) = core();
        let pace_ms = core.pace_ms;
        for _ in 0..3 {
            assert!(!blocked_for(&mut core, token, pace_ms / 8 - 1));
            assert!(blocked_for(&mut core, token, pace_ms / 8));
            assert!(reads(&mut core, token, 1 << 10));
            assert!(!reads(&mut core, token, 4 << 20), "it is left alone");
        }
    }
}
