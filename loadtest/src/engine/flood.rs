//! Senders that flood readers, and readers that stop reading for a time. Nothing is expected of these messages: a relay
//! may hold them, refuse them, pause their senders, or close a reader that takes none.

use super::{World, conn::State};
use crate::{cli::Pattern, template::Stamp};

impl World {
    /// Whether this client reads nothing at present.
    pub(super) fn is_stalled(&self, at: usize) -> bool {
        self.was_stalling && self.job.pattern == Pattern::Flood && at >= self.job.senders as usize
    }

    /// Sends what is due, puts the readers to sleep, and wakes them.
    pub(super) fn flood(&mut self) -> Result<(), String> {
        let (Some(plan), Some(rate)) = (self.plan, self.job.rate) else { return Ok(()) };
        let is_stalling = plan.is_stalling(self.now);
        if self.was_stalling && !is_stalling {
            // What came while they slept made its edge long ago: each has to be looked at.
            self.again.extend(self.job.senders as usize..self.conns.len());
        }
        self.was_stalling = is_stalling;
        let until = self.now.min(plan.end);
        let senders = u64::from(self.job.senders);
        let readers = u64::from(self.job.clients) - senders;
        loop {
            let due = plan.start + (self.scheduled as f64 * 1e9 / rate) as u64;
            if due >= until {
                return Ok(());
            }
            let (sender, reader) = (self.scheduled % senders, senders + self.scheduled % readers);
            self.scheduled += 1;
            self.flood_one(sender as u32, reader as u32);
        }
    }

    fn flood_one(&mut self, sender: u32, reader: u32) {
        let at = sender as usize;
        if self.conns[at].state != State::Ready {
            return;
        }
        if !self.conns[at].outbox.is_empty() && !self.conns[at].is_touched {
            // The kernel did not take the last ones: the relay reads nothing of this sender.
            self.tally.held_back += 1;
            return;
        }
        self.tally.sent += 1;
        let (run, sequence) = (self.job.run, self.scheduled);
        let stamp = Stamp { run, sender, slot: 0, receiver: reader, sequence };
        let to = self.agents[reader as usize].did().as_bytes();
        let now_ms = self.shared.unix_ms(self.now);
        self.templates[at].append(self.conns[at].outbox.heads(), &stamp, Some(to), now_ms);
        self.touch(at);
    }
}
