//! Which peers are new or slow ([`Pace`]), and which are left alone: a part of [`Core`]. Makes no system call.

use bytes::Bytes;

use super::{
    connections::{Core, Slot},
    flags::Flags,
    pace::{PROVED, Pace, UNASKED, UNPROVED_BYTES, is_slow},
};
use crate::base::ConnToken;

impl<C> Slot<C> {
    /// How much of the queue of a peer that is paced may be written now. If it is asked with that, the bytes of the probe,
    /// which goes ahead of the rest.
    #[cold]
    pub(super) fn may_have(&mut self, probe: fn() -> Bytes, now_ms: u64, patience_ms: u64) -> (usize, Option<usize>) {
        if self.room < PROVED {
            self.prove(now_ms, patience_ms);
        }
        let Self { queue, rare, .. } = self;
        let Some(pace) = rare.as_mut().and_then(|rare| rare.pace.as_mut()) else { return (usize::MAX, None) };
        let is_asked = !queue.is_empty() && pace.wants_probe(queue.len());
        let asked = is_asked.then(|| {
            let probe = probe();
            let bytes = probe.len();
            pace.probed(queue.place_probe(probe), now_ms);
            bytes
        });
        (pace.allowed(), asked)
    }

    /// Counts what a new peer is about to be given. Once that is all that it may have unasked, its pace is reckoned.
    fn prove(&mut self, now_ms: u64, patience_ms: u64) {
        let waits = u16::try_from(self.queue.len()).unwrap_or(u16::MAX);
        match self.room.checked_sub(waits).filter(|room| *room > 0) {
            Some(room) => self.room = room,
            None => {
                let given = UNPROVED_BYTES - self.room;
                self.room = PROVED;
                self.rare().pace = Some(Pace::unproved(given.into(), now_ms, patience_ms));
            }
        }
    }
}

impl<C> Core<C> {
    /// The kernel takes more of a connection again. A peer that was long in reading what that took is slow.
    pub(super) fn moves(&mut self, token: ConnToken) {
        let now_ms = self.now.mono_ms;
        if let Some(slot) = self.slots.get_mut(token)
            && !slot.flags.has(Flags::CLOSED)
            && slot.rare().pace.is_none()
            && is_slow(now_ms.saturating_sub(slot.rare().blocked_ms), self.pace_ms)
            && slot.room != UNASKED
        {
            slot.room = PROVED;
            slot.rare().pace = Some(Pace::new(self.patience_ms));
            slot.flags.set(Flags::PACED);
        }
        self.touch(token);
    }

    /// A peer has answered a probe, `is_busy`: behind much else that it sent. It is given more, or is found quick.
    pub(super) fn answered(&mut self, token: ConnToken, is_busy: bool) {
        let (now_ms, pace_ms) = (self.now.mono_ms, self.pace_ms);
        let Some(slot) = self.slots.get_mut(token) else { return };
        let Some(pace) = slot.rare.as_mut().and_then(|rare| rare.pace.as_mut()) else { return };
        if pace.answered(is_busy, now_ms, pace_ms) {
            slot.flags.clear(Flags::PACED);
            slot.rare().pace = None;
        } else {
            slot.flags.set(Flags::PACED);
        }
        self.unblock(token);
    }

    /// The peer answers probes from now on, and has yet to show that it reads. Nothing goes ahead of what waits.
    pub(super) fn answers_probes(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token).filter(|_| self.pace_ms > 0) {
            slot.room = UNPROVED_BYTES;
            slot.flags.set(Flags::PACED);
            slot.queue.keep_front();
        }
    }

    /// Whether a peer has been found slow, and is reckoned with.
    pub(super) fn is_slow(&self, token: ConnToken) -> bool {
        let slot = self.slots.get(token).filter(|slot| slot.flags.has(Flags::PACED));
        slot.and_then(|slot| slot.rare.as_ref()?.pace.as_ref()).is_some_and(Pace::is_slow)
    }

    /// Whether a peer has yet to show that it reads.
    pub(super) fn is_unproved(&self, token: ConnToken) -> bool {
        self.slots.get(token).is_some_and(|slot| {
            let pace = slot.rare.as_ref().and_then(|rare| rare.pace.as_ref());
            slot.room < PROVED || pace.is_some_and(|pace| !pace.is_slow())
        })
    }

    /// Tries to write whatever the kernel said last.
    fn unblock(&mut self, token: ConnToken) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.flags.clear(Flags::BLOCKED);
        }
        self.touch(token);
    }

    /// Peers that do not answer are given more, and in the end what the kernel takes: that alone then shows that they
    /// read. A new peer that is paused is left alone: its answer may lie in what is not read of it.
    #[cold]
    pub(super) fn look_at_paced(&mut self) {
        let (now_ms, pace_ms) = (self.now.mono_ms, self.pace_ms);
        let mut paced = std::mem::take(&mut self.paced);
        paced.retain(|&token| {
            let Some(slot) = self.slots.get_mut(token).filter(|slot| slot.flags.has(Flags::PACED)) else {
                return false;
            };
            let is_paused = slot.flags.has(Flags::PAUSED);
            let Some(pace) = &mut slot.rare().pace else { return false };
            // A peer that has answered is looked at again when it has been asked again.
            let Some(at_ms) = pace.late_ms() else { return false };
            let is_new = !pace.is_slow();
            let is_left_alone = if is_new && is_paused {
                slot.rare().pace = None;
                true
            } else if at_ms > now_ms {
                return true;
            } else {
                pace.late(now_ms, pace_ms)
            };
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
    use crate::base::{Close, Sent};
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
            core.answered(token, false);
        }
        core.slots.get(token).unwrap().flags.has(Flags::PACED)
    }

    /// So much waits for it, and is given as far as it may be.
    fn given(core: &mut Core<()>, token: ConnToken, bytes: usize) -> usize {
        let slot = core.slots.get_mut(token).unwrap();
        slot.queue.push(vec![0; bytes].into());
        let (most, asked) = slot.may_have(|| Bytes::from_static(b"?"), core.now.mono_ms, core.patience_ms);
        if asked.is_some() {
            core.paced.insert(token);
        }
        let most = bytes.min(most);
        if let Some(pace) = &mut slot.rare().pace {
            pace.wrote(most);
        }
        slot.queue.clear();
        most
    }

    #[test]
    fn a_new_peer_is_asked_once_it_has_had_a_little_and_only_where_it_can_answer() {
        let (mut core, token) = core();
        core.slots.get_mut(token).unwrap().room = UNASKED;
        assert_eq!(given(&mut core, token, 1 << 20), 1 << 20, "an HTTP client is never asked");
        assert!(!blocked_for(&mut core, token, 10_000), "however slow it is");
        // What waits at the upgrade is its answer: nothing goes ahead of that.
        core.slots.get_mut(token).unwrap().queue.push(vec![0; 100].into());
        core.answers_probes(token);
        let slot = core.slots.get_mut(token).unwrap();
        assert_eq!(slot.queue.place_probe(b"probe"[..].into()), 105);
        slot.queue.clear();
        assert_eq!(given(&mut core, token, 1_000), 1_000);
        assert!(core.paced.is_empty() && !core.is_slow(token), "not yet");
        assert!(given(&mut core, token, 1 << 20) < 20_000 && core.paced.contains(&token));
        assert!(!core.is_slow(token), "that is not known of it");
        // It answers late.
        core.now.mono_ms += core.pace_ms / 4 + 1;
        core.answered(token, false);
        assert!(core.is_slow(token));
    }

    #[test]
    fn a_new_peer_whose_answer_tells_nothing_is_left_alone() {
        let (mut core, token) = core();
        // Behind much else that it sent.
        core.answers_probes(token);
        assert!(given(&mut core, token, 1 << 20) < 20_000);
        core.now.mono_ms += 5_000;
        core.answered(token, true);
        assert_eq!(given(&mut core, token, 1 << 20), 1 << 20);
        // In what is not read of it.
        core.answers_probes(token);
        assert!(given(&mut core, token, 1 << 20) < 20_000);
        core.slots.get_mut(token).unwrap().flags.set(Flags::PAUSED);
        core.look_at_paced();
        assert_eq!((given(&mut core, token, 1 << 20), core.paced.len()), (1 << 20, 0));
        // A slow peer stays slow.
        let pace_ms = core.pace_ms;
        assert!(blocked_for(&mut core, token, pace_ms) && core.is_slow(token));
        assert!(given(&mut core, token, 1 << 20) < 20_000);
        core.look_at_paced();
        assert!(core.is_slow(token) && core.paced.contains(&token));
    }

    #[test]
    fn what_waits_is_written_once_a_probe_is_answered_and_what_goes_ahead_at_once() {
        let (mut core, token) = core();
        let is_written = |core: &mut Core<()>| {
            core.touched.clear();
            let flags = &mut core.slots.get_mut(token).unwrap().flags;
            flags.take(Flags::TOUCHED) && !flags.has(Flags::BLOCKED)
        };
        let mut pace = Pace::new(core.patience_ms);
        pace.probed(0, core.now.mono_ms);
        let slot = core.slots.get_mut(token).unwrap();
        slot.rare().pace = Some(pace);
        slot.flags.set(Flags::PACED);
        slot.flags.set(Flags::BLOCKED);
        core.answered(token, false);
        assert!(is_written(&mut core), "it may be given more");
        core.slots.get_mut(token).unwrap().flags.set(Flags::BLOCKED);
        assert_eq!(core.send_ahead(token, b"pong"[..].into()), Sent::Queued);
        assert!(is_written(&mut core));
        core.close(token, Close::TimedOut);
        assert_eq!(core.send_ahead(token, b"pong"[..].into()), Sent::Closed, "its last words are said");
    }

    #[test]
    fn a_new_peer_whose_system_takes_no_more_is_slow() {
        let (mut core, token) = core();
        core.answers_probes(token);
        let pace_ms = core.pace_ms;
        assert!(blocked_for(&mut core, token, pace_ms) && core.is_slow(token));
        assert_eq!(core.slots.get(token).unwrap().room, PROVED, "and is asked as such");
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
