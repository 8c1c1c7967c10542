//! What a session says to its watchers: events once they are safe, live text at once, the list of watchers. Owns the
//! log's positions, the watchers and what waits for a commit. Must not know what an event means.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Cx, Settings, fit,
    recent::{ANSWER_BYTES, Asked, Fact, Past, Recent, bytes_of, newest},
};
use crate::{
    base::ConnToken,
    claude,
    relay::{
        Role,
        api::{
            By, Caller, Code, DeviceInfo, Error, Event, Kind, Out, Position, Reply, RunningTurn, Snapshot, Text,
            TurnBlock, Verb, bulk,
        },
        keys::KeySet,
        record,
        shares::Shares,
    },
    store::{LogId, News, OpId, Range},
};

/// What is kept of streamed text for snapshots, in bytes of a message, its bookkeeping included.
const STREAMED_BYTES_MAX: usize = 256 << 10;
/// Live text goes out in pieces of this length; those that wait to be taken grow together up to twice of it.
const DELTA_BYTES: usize = 16 << 10;

/// The list of watchers is sent again this much later at the earliest: a device that comes and goes without end is to keep
/// no other from what the agent says.
const PRESENCE_MS: u64 = 1_000;

/// Why a device that watched a session hears no more of it.
const GAVE_WAY: &str = "the session had ended and has given way to a new one";

/// The same where the log came to a bad end.
const LOG_LOST: &str = "the session's log cannot be written any more";

pub(super) struct Watcher {
    pub(super) peer: ConnToken,
    info: DeviceInfo,
    /// The role that it signed in with.
    granted: Role,
    /// The offset of the next event it gets.
    pub(super) cursor: u64,
    pub(super) paused: bool,
    /// What it gets next is being read.
    pub(super) reading: Option<OpId>,
    /// It asked for the past and is to be told when it has it all.
    pub(super) announce: bool,
    /// It missed a change of the list of watchers.
    missed_presence: bool,
}

impl Watcher {
    /// Whether it may be sent to and lacks something that is not on its way.
    pub(super) fn is_behind(&self, safe: u64) -> bool {
        !self.paused && self.reading.is_none() && self.cursor < safe
    }
}

/// Something that may be said only when everything before it is safe.
pub(super) enum Held {
    Out(Out),
    Attach(Box<Attach>),
    Detach { peer: ConnToken, re: Text },
}

impl Held {
    /// The connection that it answers.
    fn answers(&self) -> Option<ConnToken> {
        match self {
            Self::Out(Out::Answer { peer, .. }) | Self::Detach { peer, .. } => Some(*peer),
            Self::Attach(attach) => Some(attach.caller.peer),
            Self::Out(_) => None,
        }
    }

    /// Whether it waits for this read.
    pub(super) fn reads(&self, op: OpId) -> bool {
        matches!(self, Self::Attach(attach) if matches!(attach.past, Past::Reading(reading) if reading == op))
    }
}

/// Where a device that attaches wants to begin.
pub(super) struct Wanted<'a> {
    pub(super) from: Option<&'a Position>,
    pub(super) tail_bytes: Option<u64>,
}

pub(super) struct Attach {
    caller: Caller,
    re: Text,
    snapshot: Snapshot,
    pub(super) from: Option<u64>,
    pub(super) tail_bytes: usize,
    pub(super) next: u64,
    pub(super) past: Past,
}

struct Streamed {
    /// What is kept of it, and how much was streamed.
    block: TurnBlock,
    /// What the kept text takes in a message.
    bulk: usize,
}

/// The log of one session and its watchers.
pub(super) struct LogFanout {
    pub(super) session: Text,
    pub(super) epoch: Text,
    pub(super) log: LogId,
    /// The log takes nothing more, for this.
    lost: Option<Text>,
    /// The oldest event that the log is known to have.
    pub(super) earliest: u64,
    /// The offset of the next event.
    next: u64,
    /// Everything below is committed and was shown.
    pub(super) safe: u64,
    /// Appended and not safe yet.
    fresh: VecDeque<Fact>,
    pub(super) recent: Recent,
    /// In the order in which it is said. An entry that waits for a read holds up only what answers the same connection.
    pub(super) held: VecDeque<(u64, Held)>,
    pub(super) asked: Vec<Asked>,
    pub(super) watchers: Vec<Watcher>,
    streamed: Vec<Streamed>,
    streamed_bytes: usize,
    /// The list of watchers has changed since it was sent.
    presence_due: bool,
    /// It may be sent from then on, on the monotonic clock in milliseconds.
    presence_at: u64,
    active_at: u64,
    watchers_max: usize,
}

impl LogFanout {
    pub(super) fn new(session: Text, epoch: Text, settings: &Settings, cx: &mut Cx<'_>) -> Self {
        let log = cx.store.create(&session);
        Self {
            session,
            epoch,
            log,
            lost: None,
            earliest: 0,
            next: 0,
            safe: 0,
            fresh: VecDeque::new(),
            recent: Recent::new(settings.recent_bytes_max),
            held: VecDeque::new(),
            asked: Vec::new(),
            watchers: Vec::new(),
            streamed: Vec::new(),
            streamed_bytes: 0,
            presence_due: false,
            presence_at: 0,
            active_at: cx.now.unix_ms,
            watchers_max: settings.watchers_max,
        }
    }

    pub(super) fn log(&self) -> LogId {
        self.log
    }

    pub(super) fn active_at(&self) -> u64 {
        self.active_at
    }

    pub(super) fn devices(&self) -> usize {
        self.watchers.len()
    }

    pub(super) fn position(&self, offset: u64) -> Position {
        Position { epoch: self.epoch.clone(), offset }
    }

    /// Where the next event will stand.
    pub(super) fn next(&self) -> Position {
        self.position(self.next)
    }

    /// Whether everything said so far is safe and shown.
    pub(super) fn settled(&self) -> bool {
        self.safe == self.next && self.held.is_empty() && self.asked.is_empty()
    }

    /// Refuses what would have to be written to a log that takes nothing more.
    pub(super) fn refuse_if_lost(&self) -> Result<(), Error> {
        self.lost.as_ref().map_or(Ok(()), |why| Err(lost(why)))
    }

    /// Makes a fact an event and hands it to the store. A log that is lost takes no more of them.
    pub(super) fn append(&mut self, cx: &mut Cx<'_>, by: Option<By>, kind: Kind) -> Position {
        let position = self.next();
        if self.lost.is_some() {
            return position;
        }
        let event = Event { session: self.session.clone(), position: position.clone(), at: cx.now.unix_ms, by, kind };
        cx.store.append(self.log, self.next, record::encode(&event));
        self.fresh.push_back(Fact { bulk: event.bulk(), event: Arc::new(event) });
        self.next += 1;
        self.active_at = cx.now.unix_ms;
        position
    }

    /// Says something as soon as every event so far is safe, in the order of these calls.
    pub(super) fn hold(&mut self, cx: &mut Cx<'_>, out: Out) {
        self.held.push_back((self.next, Held::Out(out)));
        self.release(cx);
    }

    /// Word from the store. Returns why, if the log takes nothing more from now on.
    pub(super) fn stored(&mut self, cx: &mut Cx<'_>, news: News) -> Option<Text> {
        match news {
            News::Safe(range) => self.committed(cx, range),
            News::Read(op, read) => self.was_read(cx, op, read),
            News::Lost(failed) if self.lost.is_none() => {
                let why: Text = format!("{LOG_LOST}: {failed}").into();
                self.lose(cx, &why);
                return Some(why);
            }
            News::Lost(_) => {}
        }
        None
    }

    /// Everything below `range.next` is safe now.
    fn committed(&mut self, cx: &mut Cx<'_>, range: Range) {
        self.earliest = self.earliest.max(range.earliest);
        while self.safe < range.next {
            let Some(fact) = self.fresh.pop_front() else { break };
            let offset = self.safe;
            self.safe += 1;
            let mut peers = Vec::new();
            for watcher in &mut self.watchers {
                if !watcher.paused && watcher.cursor == offset {
                    watcher.cursor += 1;
                    peers.push(watcher.peer);
                }
            }
            if !peers.is_empty() {
                cx.out.push_back(Out::Event { peers, event: fact.event.clone() });
            }
            let keep = self.pinned();
            self.recent.push(fact, keep);
            self.release(cx);
        }
    }

    /// What is not safe yet never will be: it is not shown, what waits for it is not done, and commands are told so.
    fn lose(&mut self, cx: &mut Cx<'_>, why: &Text) {
        self.lost = Some(why.clone());
        self.next = self.safe;
        self.fresh.clear();
        for (_, held) in std::mem::take(&mut self.held) {
            let (peer, re) = match held {
                Held::Out(Out::Answer { peer, re, .. }) | Held::Detach { peer, re } => (peer, re),
                Held::Attach(attach) => (attach.caller.peer, attach.re),
                Held::Out(_) => continue,
            };
            cx.out.push_back(Out::Answer { peer, re, result: Err(lost(why)) });
        }
        self.part(cx, LOG_LOST);
    }

    pub(super) fn release(&mut self, cx: &mut Cx<'_>) {
        let (mut index, mut waiting) = (0, Vec::new());
        while let Some((_, held)) = self.held.get(index).filter(|(after, _)| *after <= self.safe) {
            let peer = held.answers();
            let behind = peer.is_some_and(|peer| waiting.contains(&peer));
            if !self.has_past(cx, index) || behind {
                waiting.extend(peer);
                index += 1;
                continue;
            }
            match self.held.remove(index) {
                Some((_, Held::Out(out))) => cx.out.push_back(out),
                Some((_, Held::Attach(attach))) => self.admit(cx, *attach),
                Some((_, Held::Detach { peer, re })) => {
                    self.forget(peer);
                    cx.out.push_back(Out::Answer { peer, re, result: Ok(Reply::Done) });
                }
                None => {}
            }
        }
    }

    /// Answers `attach` once everything in the snapshot is safe.
    pub(super) fn attach(
        &mut self,
        cx: &mut Cx<'_>,
        caller: &Caller,
        re: &Text,
        snapshot: Snapshot,
        wanted: Wanted<'_>,
    ) -> Result<(), Error> {
        self.refuse_if_lost()?;
        if !self.watches(caller.peer) {
            let places = self.shares().admits(&caller.principal, 1);
            places.map_err(|full| full.error("devices that may watch this session", "detach one"))?;
        }
        let from = match wanted.from {
            Some(from) => Some(self.check(self.range(), from)?),
            None => None,
        };
        let tail_bytes = bytes_of(wanted.tail_bytes);
        let (caller, re, next, past) = (caller.clone(), re.clone(), self.next, Past::Unread);
        let attach = Attach { caller, re, snapshot, from, tail_bytes, next, past };
        self.held.push_back((self.next, Held::Attach(Box::new(attach))));
        self.release(cx);
        Ok(())
    }

    fn admit(&mut self, cx: &mut Cx<'_>, attach: Attach) {
        let Attach { caller, re, mut snapshot, from, tail_bytes, next, past } = attach;
        let events = match past {
            Past::Here(Ok(events)) => events,
            // The log has moved on while this waited for a commit, or cannot be read.
            Past::Here(Err(error)) => {
                return cx.out.push_back(Out::Answer { peer: caller.peer, re, result: Err(error) });
            }
            Past::Unread | Past::Reading(_) => Vec::new(),
        };
        self.watchers.retain(|watcher| watcher.peer != caller.peer);
        let info = DeviceInfo {
            device: caller.device,
            name: caller.name,
            principal: caller.principal,
            comment: caller.comment,
            kind: caller.kind,
            role: caller.role,
            since: cx.now.unix_ms,
        };
        let (cursor, announce) = from.map_or((next, false), |from| (from, true));
        let paused = cx.paused.contains(&caller.peer);
        let (peer, granted, reading, missed_presence) = (caller.peer, caller.granted, None, false);
        self.watchers.push(Watcher { peer, info, granted, cursor, paused, reading, announce, missed_presence });
        self.presence_due = true;
        // Live text and the list of devices are as of now, so that no piece falls between snapshot and first delta.
        match &mut snapshot.turn {
            Some(turn) => turn.blocks = self.blocks(),
            None if self.streamed.is_empty() => {}
            // It has begun since the snapshot was taken.
            None => snapshot.turn = Some(self.turn(Vec::new(), cx.now.unix_ms)),
        }
        snapshot.devices = self.watchers.iter().map(|watcher| watcher.info.clone()).collect();
        snapshot.summary.devices = self.watchers.len();
        // To act, the snapshot is needed whole; events can be read later.
        let room = fit::fit(&mut snapshot, bulk::MESSAGE_BYTES_MAX - ANSWER_BYTES);
        let (events, follow) =
            if announce { (Vec::new(), events) } else { (newest(events, tail_bytes.min(room), 0), Vec::new()) };
        // One commit may drop what came right before `next`; from `next` on everything follows in any case.
        let earliest = self.position(self.earliest.min(cursor));
        let reply = Reply::Attached { snapshot: Box::new(snapshot), events, earliest, next: self.position(cursor) };
        cx.out.push_back(Out::Answer { peer, re, result: Ok(reply) });
        self.give_first(cx, peer, follow);
        self.caught_up(cx);
    }

    pub(super) fn detach(&mut self, cx: &mut Cx<'_>, peer: ConnToken, re: &Text) {
        self.held.push_back((self.next, Held::Detach { peer, re: re.clone() }));
        self.release(cx);
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self, cx: &mut Cx<'_>, peer: ConnToken) {
        self.held.retain(|(_, held)| !matches!(held, Held::Attach(attach) if attach.caller.peer == peer));
        self.forget_asked(peer);
        self.forget(peer);
        self.release(cx);
    }

    /// The places of the devices that watch or are about to.
    fn shares(&self) -> Shares {
        let watching = self.watchers.iter().map(|watcher| (&watcher.info.principal, 1));
        let pending = self.held.iter().filter_map(|(_, held)| match held {
            Held::Attach(attach) => Some((&attach.caller.principal, 1)),
            _ => None,
        });
        Shares::of(self.watchers_max, watching.chain(pending))
    }

    /// Other keys are in force: a device that may no longer watch does not, and one with a lesser role is shown so.
    pub(super) fn keys(&mut self, cx: &mut Cx<'_>, keys: &KeySet) {
        self.keys_of_asked(cx, keys);
        for (_, held) in &mut self.held {
            let Held::Attach(attach) = held else { continue };
            let Attach { caller, re, .. } = &mut **attach;
            let permitted = keys.limit(caller).and_then(|limited| {
                limited.may(Verb::Attach)?;
                Ok(limited.into_owned())
            });
            match permitted {
                Ok(limited) => *caller = limited,
                Err(error) => {
                    *held = Held::Out(Out::Answer { peer: caller.peer, re: re.clone(), result: Err(error) });
                }
            }
        }
        let before = self.watchers.len();
        self.watchers.retain(|watcher| keys.lost(&watcher.info.principal, Verb::Attach).is_none());
        let mut is_other = self.watchers.len() != before;
        for Watcher { info: DeviceInfo { principal, role, .. }, granted, .. } in &mut self.watchers {
            let now = keys.principal(principal).map_or(*role, |entry| entry.role.min(*granted));
            is_other |= *role != now;
            *role = now;
        }
        if is_other {
            // No device changes the keys by coming and going: what they are now is said at once.
            (self.presence_due, self.presence_at) = (true, cx.now.mono_ms);
        }
        self.release(cx);
    }

    /// The log is about to go. Even a paused watcher is told so: nothing follows that could tell it later.
    pub(super) fn give_way(&mut self, cx: &mut Cx<'_>) {
        self.part(cx, GAVE_WAY);
    }

    fn part(&mut self, cx: &mut Cx<'_>, why: &'static str) {
        for watcher in std::mem::take(&mut self.watchers) {
            let (session, earliest) = (self.session.clone(), self.next());
            cx.out.push_back(Out::Reset { peer: watcher.peer, session, why, earliest });
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self, keys: Option<&KeySet>) {
        // A device that watches already may attach once more, and counts twice while that waits.
        assert!(self.watchers.len() <= self.watchers_max);
        let is_lost = |principal: &&Text| keys.is_some_and(|keys| keys.lost(principal, Verb::Attach).is_some());
        let lost = self.watchers.iter().map(|watcher| &watcher.info.principal).find(is_lost);
        assert_eq!(lost, None, "a device watches that its key does not permit to");
    }

    pub(super) fn forget(&mut self, peer: ConnToken) {
        let before = self.watchers.len();
        self.watchers.retain(|watcher| watcher.peer != peer);
        self.presence_due |= self.watchers.len() != before;
    }

    pub(super) fn watches(&self, peer: ConnToken) -> bool {
        self.watchers.iter().any(|watcher| watcher.peer == peer)
    }

    pub(super) fn pause(&mut self, peer: ConnToken) {
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.peer == peer) {
            watcher.paused = true;
        }
    }

    pub(super) fn resume(&mut self, cx: &mut Cx<'_>, peer: ConnToken) {
        let mut missed = false;
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.peer == peer) {
            watcher.paused = false;
            missed |= std::mem::take(&mut watcher.missed_presence);
        }
        if missed {
            self.push_presence(cx, vec![peer]);
        }
        self.caught_up(cx);
    }

    pub(super) fn caught_up(&mut self, cx: &mut Cx<'_>) {
        for watcher in &mut self.watchers {
            if watcher.announce && !watcher.paused && watcher.cursor >= self.safe {
                watcher.announce = false;
                cx.out.push_back(Out::CaughtUp { peer: watcher.peer, session: self.session.clone() });
            }
        }
    }

    /// Live text: shown at once to every watcher that is up to date, and kept for snapshots.
    pub(super) fn delta(&mut self, cx: &mut Cx<'_>, message: Text, block: u32, kind: claude::Block, text: Text) {
        if text.is_empty() {
            return;
        }
        if text.len() <= DELTA_BYTES {
            return self.piece(cx, message, block, kind, text);
        }
        // One line of the process may hold more than a message does.
        let mut rest = &*text;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.floor_char_boundary(DELTA_BYTES));
            self.piece(cx, message.clone(), block, kind, piece.into());
            rest = more;
        }
    }

    fn piece(&mut self, cx: &mut Cx<'_>, message: Text, block: u32, kind: claude::Block, text: Text) {
        let at = self.keep(&message, block, kind, &text);
        let peers = |watcher: &Watcher| !watcher.paused && watcher.cursor >= self.safe;
        let peers: Vec<ConnToken> = self.watchers.iter().filter(|w| peers(w)).map(|w| w.peer).collect();
        let Some(at) = at.filter(|_| !peers.is_empty()) else { return };
        if let Some(Out::Delta { peers: to, message: of, block: b, at: start, text: said, .. }) = cx.out.back_mut()
            && *of == message
            && *b == block
            && *to == peers
            && *start + said.len() as u64 == at
            && said.len() < DELTA_BYTES
        {
            *said = format!("{said}{text}").into();
            return;
        }
        cx.out.push_back(Out::Delta { peers, session: self.session.clone(), message, block, kind, at, text });
    }

    /// Keeps a piece and returns where in its block it stands; `None` when there are too many blocks to keep count.
    fn keep(&mut self, message: &Text, block: u32, kind: claude::Block, text: &str) -> Option<u64> {
        let known = self.streamed.iter().position(|s| s.block.block == block && s.block.message == *message);
        let index = match known {
            Some(index) => index,
            None => {
                let block = TurnBlock { message: message.clone(), block, kind, text: String::new(), bytes: 0 };
                let bulk = block.bulk();
                if self.streamed_bytes + bulk > STREAMED_BYTES_MAX {
                    return None;
                }
                self.streamed_bytes += bulk;
                self.streamed.push(Streamed { block, bulk });
                self.streamed.len() - 1
            }
        };
        let streamed = &mut self.streamed[index];
        let at = streamed.block.bytes;
        // What is kept of a block is a prefix of it: after the first piece that did not fit none is kept any more.
        if streamed.block.text.len() as u64 == at {
            let kept = bulk::prefix(text, STREAMED_BYTES_MAX - self.streamed_bytes);
            let bulk = bulk::text(kept);
            streamed.block.text.push_str(kept);
            streamed.bulk += bulk;
            self.streamed_bytes += bulk;
        }
        streamed.block.bytes += text.len() as u64;
        Some(at)
    }

    /// The block has become an event.
    pub(super) fn block_done(&mut self, message: &Text, block: u32) {
        let streamed_bytes = &mut self.streamed_bytes;
        self.streamed.retain(|s| {
            let done = s.block.block == block && s.block.message == *message;
            if done {
                *streamed_bytes -= s.bulk;
            }
            !done
        });
    }

    /// The turn is over: what was streamed and did not become an event never will.
    pub(super) fn clear_blocks(&mut self) {
        self.streamed.clear();
        self.streamed_bytes = 0;
    }

    fn blocks(&self) -> Vec<TurnBlock> {
        self.streamed.iter().map(|streamed| streamed.block.clone()).collect()
    }

    /// The running turn with what was streamed of it.
    pub(super) fn turn(&self, prompts: Vec<Text>, since: u64) -> RunningTurn {
        RunningTurn { prompts, since, blocks: self.blocks() }
    }

    /// When the list of watchers is to be sent: it has changed, maybe again and again, since it was sent.
    pub(super) fn next_timeout(&self) -> Option<u64> {
        self.presence_due.then_some(self.presence_at)
    }

    /// Sends the list of watchers to those that are not paused, if it has changed and the one before is old enough.
    pub(super) fn flush_presence(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.next_timeout().is_none_or(|at| at > cx.now.mono_ms) {
            return false;
        }
        self.presence_due = false;
        self.presence_at = cx.now.mono_ms + PRESENCE_MS;
        let mut peers = Vec::new();
        for watcher in &mut self.watchers {
            if watcher.paused {
                watcher.missed_presence = true;
            } else {
                peers.push(watcher.peer);
            }
        }
        if !peers.is_empty() {
            self.push_presence(cx, peers);
        }
        true
    }

    fn push_presence(&self, cx: &mut Cx<'_>, peers: Vec<ConnToken>) {
        let devices = self.watchers.iter().map(|watcher| watcher.info.clone()).collect();
        cx.out.push_back(Out::Presence { peers, session: self.session.clone(), devices });
    }
}

fn lost(why: &Text) -> Error {
    Error { recoverable: false, ..Error::new(Code::Internal, why.clone()) }
}
