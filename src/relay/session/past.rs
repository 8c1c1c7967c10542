//! What of a session's log is read again: the past for devices that attach, catch up or ask for it. Must not know what an
//! event means.

use std::sync::Arc;

use super::{
    Cx,
    log_fanout::{Held, LogFanout},
    recent::{Asked, Past, bytes_of, newest},
};
use crate::{
    base::ConnToken,
    relay::{
        api::{Caller, Code, Details, Error, Event, Out, Position, Reply, Text, Verb},
        keys::KeySet,
        record,
    },
    store::{At, Failed, OpId, Range, Read},
};

/// Bytes of the log sent to one watcher in one call while it catches up.
const BATCH_BYTES: usize = 64 << 10;

impl LogFanout {
    /// The newest events before a position. Answered when they have been read; what is read is safe already.
    pub(super) fn history(
        &mut self,
        cx: &mut Cx<'_>,
        caller: &Caller,
        re: &Text,
        before: &Position,
        bytes: Option<u64>,
    ) -> Result<(), Error> {
        let (before, bytes) = (self.check(self.range(), before)?, bytes_of(bytes));
        let op = cx.store.read(self.log, At::Before(before), bytes);
        let op = op.map_err(|full| Error::new(Code::Limit, format!("{full}: try again")))?;
        self.asked.push(Asked { op, caller: caller.clone(), re: re.clone(), before, bytes });
        Ok(())
    }

    /// What of the log can be served, as far as that is known here: the store may have dropped more since.
    pub(super) fn range(&self) -> Range {
        Range { earliest: self.earliest, next: self.safe }
    }

    pub(super) fn check(&self, range: Range, from: &Position) -> Result<u64, Error> {
        let why = if from.epoch != self.epoch {
            "this log has another epoch: attach anew"
        } else if from.offset < range.earliest {
            "the log no longer holds this position: attach anew"
        } else if from.offset > range.next {
            "the log has not come to this position"
        } else {
            return Ok(from.offset);
        };
        let mut error = Error::new(Code::CannotResume, why);
        error.details =
            Some(Details::Range { earliest: self.position(range.earliest), next: self.position(range.next) });
        Err(error)
    }

    /// Whether the events are here, or known not to be, that the attach at this place needs. If not, they are read.
    pub(super) fn has_past(&mut self, cx: &mut Cx<'_>, index: usize) -> bool {
        let Some((_, Held::Attach(attach))) = self.held.get_mut(index) else { return true };
        match attach.past {
            Past::Here(_) => return true,
            Past::Reading(_) => return false,
            Past::Unread => {}
        }
        let (at, bytes, here) = match attach.from {
            // What is here is sent when the device has its answer.
            Some(from) => (At::From(from), BATCH_BYTES, self.recent.from(from, 0).map(|_| Vec::new())),
            None => {
                let bytes = attach.tail_bytes;
                (At::Before(attach.next), bytes, self.recent.before(attach.next, bytes, self.earliest))
            }
        };
        if let Some(events) = here {
            attach.past = Past::Here(Ok(events));
            return true;
        }
        if let Ok(op) = cx.store.read(self.log, at, bytes) {
            attach.past = Past::Reading(op);
        }
        false
    }

    /// Events from this offset on must stay at hand: devices wait for them with their attach.
    pub(super) fn pinned(&self) -> u64 {
        let waits = self.held.iter().filter_map(|(_, held)| match held {
            Held::Attach(attach) => Some(attach.next),
            _ => None,
        });
        waits.min().unwrap_or(u64::MAX)
    }

    /// Whether something is to be read or sent as soon as the store takes reads.
    pub(super) fn lagging(&self) -> bool {
        let behind = self.watchers.iter().any(|watcher| watcher.is_behind(self.safe));
        let unread = |(after, held): &(u64, Held)| {
            *after <= self.safe && matches!(held, Held::Attach(attach) if matches!(attach.past, Past::Unread))
        };
        behind || self.held.iter().any(unread)
    }

    /// Sends the next batch to every watcher that is behind and may be sent to, or reads it.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_>) {
        self.release(cx);
        for index in 0..self.watchers.len() {
            let watcher = &mut self.watchers[index];
            if !watcher.is_behind(self.safe) {
                continue;
            }
            match self.recent.from(watcher.cursor, BATCH_BYTES) {
                Some(events) => self.give(cx, index, events),
                None => watcher.reading = cx.store.read(self.log, At::From(watcher.cursor), BATCH_BYTES).ok(),
            }
        }
        self.caught_up(cx);
    }

    /// Sends events to a watcher that stands right before them.
    fn give(&mut self, cx: &mut Cx<'_>, index: usize, events: Vec<Arc<Event>>) {
        let watcher = &mut self.watchers[index];
        for event in events {
            if watcher.paused || event.position.offset != watcher.cursor || watcher.cursor >= self.safe {
                break;
            }
            watcher.cursor += 1;
            cx.out.push_back(Out::Event { peers: vec![watcher.peer], event });
        }
    }

    /// The same for a device that has just been admitted, and what was committed since its snapshot as far as it is here.
    pub(super) fn give_first(&mut self, cx: &mut Cx<'_>, peer: ConnToken, events: Vec<Arc<Event>>) {
        let Some(index) = self.watchers.iter().position(|watcher| watcher.peer == peer) else { return };
        self.give(cx, index, events);
        let watcher = &self.watchers[index];
        if !watcher.announce
            && let Some(events) = self.recent.from(watcher.cursor, usize::MAX)
        {
            self.give(cx, index, events);
        }
    }

    /// A read has come to its end.
    pub(super) fn was_read(&mut self, cx: &mut Cx<'_>, op: OpId, read: Result<Read, Failed>) {
        if let Ok(Read { range, .. }) | Err(Failed::OutOfRange(range)) = &read {
            self.earliest = self.earliest.max(range.earliest);
        }
        let events = read.map_err(Some).and_then(|read| self.decode(read).ok_or(None));
        if let Some(index) = self.asked.iter().position(|asked| asked.op == op) {
            let Asked { caller, re, before, bytes, .. } = self.asked.remove(index);
            let earliest = self.position(self.earliest);
            // An event that is larger than what was asked for still goes: else nothing before it could ever be read.
            let reply = |events| Reply::History { events: newest(events, bytes, 1), earliest };
            let result = events.map(reply).map_err(|failed| self.unread(before, failed));
            return cx.out.push_back(Out::Answer { peer: caller.peer, re, result });
        }
        if let Some(index) = self.held.iter().position(|(_, held)| held.reads(op)) {
            let from = match &self.held[index].1 {
                Held::Attach(attach) => attach.from,
                _ => None,
            };
            let past = match (from, events) {
                (_, Ok(events)) => Ok(events),
                // The log has moved on past its snapshot: everything that is left follows.
                (None, Err(Some(Failed::OutOfRange(_)))) => Ok(Vec::new()),
                (from, Err(failed)) => Err(self.unread(from.unwrap_or_default(), failed)),
            };
            if let Held::Attach(attach) = &mut self.held[index].1 {
                attach.past = Past::Here(past);
            }
            return self.release(cx);
        }
        let Some(index) = self.watchers.iter().position(|watcher| watcher.reading == Some(op)) else { return };
        self.watchers[index].reading = None;
        match events {
            Ok(events) => self.give(cx, index, events),
            // It takes nothing now, not even this. What it lacks is read anew when it goes on.
            Err(_) if self.watchers[index].paused => {}
            Err(Some(Failed::OutOfRange(_))) => {
                self.reset(cx, index, "the log has moved on past where this device stood");
            }
            Err(_) => self.reset(cx, index, "the log could not be read"),
        }
        self.caught_up(cx);
    }

    fn reset(&mut self, cx: &mut Cx<'_>, index: usize, why: &'static str) {
        let peer = self.watchers[index].peer;
        self.forget(peer);
        let earliest = self.position(self.earliest);
        cx.out.push_back(Out::Reset { peer, session: self.session.clone(), why, earliest });
    }

    /// The events of records, `None` where one holds another.
    fn decode(&self, read: Read) -> Option<Vec<Arc<Event>>> {
        let Read { first, records, .. } = read;
        let event = |(offset, record): (u64, bytes::Bytes)| {
            let event = record::decode(&record).ok()?;
            (event.position == self.position(offset)).then(|| Arc::new(event))
        };
        (first..).zip(records).map(event).collect()
    }

    /// The error of a command that needed what could not be read.
    fn unread(&self, wanted: u64, failed: Option<Failed>) -> Error {
        let why = match failed {
            Some(Failed::OutOfRange(range)) => match self.check(range, &self.position(wanted)) {
                Err(error) => return error,
                Ok(_) => "its store says both that it holds this position and that it does not".to_owned(),
            },
            Some(failed) => failed.to_string(),
            None => "a record holds no event of this place".to_owned(),
        };
        Error::new(Code::Internal, format!("the session's log cannot be read: {why}"))
    }

    /// Other keys are in force: a `history` that its key no longer permits is answered with the error.
    pub(super) fn keys_of_asked(&mut self, cx: &mut Cx<'_>, keys: &KeySet) {
        self.asked.retain(|Asked { caller, re, .. }| {
            let lost = keys.limit(caller).and_then(|limited| limited.may(Verb::History)).err();
            let stays = lost.is_none();
            if let Some(error) = lost {
                cx.out.push_back(Out::Answer { peer: caller.peer, re: re.clone(), result: Err(error) });
            }
            stays
        });
    }

    /// Nothing is read for a connection that is gone.
    pub(super) fn forget_asked(&mut self, peer: ConnToken) {
        self.asked.retain(|asked| asked.caller.peer != peer);
    }
}
