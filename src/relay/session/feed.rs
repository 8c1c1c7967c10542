//! What a session says to those who watch it: events once they are safe, live text at once, who else watches. Owns
//! the log's positions, the watchers and what waits for a commit. Must not know what an event means.

use std::{collections::VecDeque, sync::Arc};

use super::{Cx, fit};
use crate::{
    base::ConnToken,
    claude,
    relay::{
        api::{
            By, Caller, Code, Details, DeviceInfo, Error, Event, Kind, Out, Position, Reply, RunningTurn, Snapshot,
            Text, TurnBlock, Verb, bulk,
        },
        keys::KeySet,
        shares::Shares,
    },
    store::{LogId, Range},
};

/// Bytes of the log sent to one watcher in one call while it catches up.
const BATCH_BYTES: usize = 64 << 10;
/// Bytes of the newest events in the answer to `attach`, unless the client says another figure.
const TAIL_BYTES: u64 = 32 << 10;
/// What an answer with events takes beside them, positions of two logs at the most.
const ANSWER_BYTES: usize = 1 << 10;
/// What is kept of streamed text for snapshots, in bytes of a message, its bookkeeping included.
const STREAMED_BYTES_MAX: usize = 256 << 10;
/// Live text goes out in pieces of this length; those that wait to be taken grow together up to twice of it.
const DELTA_BYTES: usize = 16 << 10;

/// Why a device that watched a session hears no more of it.
const GAVE_WAY: &str = "the session had ended and has given way to a new one";

struct Watcher {
    peer: ConnToken,
    info: DeviceInfo,
    /// The offset of the next event it gets.
    cursor: u64,
    paused: bool,
    /// It asked for the past and is to be told when it has it all.
    announce: bool,
    /// It missed a change of who watches.
    missed_presence: bool,
}

/// Something that may be said only when everything before it is safe.
enum Held {
    Out(Out),
    Attach(Box<Attach>),
    Detach { peer: ConnToken, re: Text },
}

/// Where a device that attaches wants to begin.
pub(super) struct Wanted<'a> {
    pub(super) from: Option<&'a Position>,
    pub(super) tail_bytes: Option<u64>,
}

struct Attach {
    caller: Caller,
    re: Text,
    snapshot: Snapshot,
    from: Option<u64>,
    tail_bytes: usize,
    next: u64,
}

struct Streamed {
    /// What is kept of it, and how much was streamed.
    block: TurnBlock,
    /// What the kept text takes in a message.
    bulk: usize,
}

/// How much an answer may take in events: what the client wants, as far as a message holds it.
fn bytes_of(wanted: Option<u64>) -> usize {
    wanted.unwrap_or(TAIL_BYTES).min((bulk::MESSAGE_BYTES_MAX - ANSWER_BYTES) as u64) as usize
}

/// The log of one session and those who follow it.
pub(super) struct Feed {
    session: Text,
    epoch: Text,
    log: LogId,
    /// The offset of the next event.
    next: u64,
    /// Everything below is committed and was shown.
    safe: u64,
    /// Appended and not safe yet.
    fresh: VecDeque<Arc<Event>>,
    held: VecDeque<(u64, Held)>,
    watchers: Vec<Watcher>,
    streamed: Vec<Streamed>,
    streamed_bytes: usize,
    presence_due: bool,
    active_at: u64,
    watchers_max: usize,
}

impl Feed {
    pub(super) fn new(session: Text, epoch: Text, watchers_max: usize, cx: &mut Cx<'_>) -> Self {
        let log = cx.store.create(&session);
        Self {
            session,
            epoch,
            log,
            next: 0,
            safe: 0,
            fresh: VecDeque::new(),
            held: VecDeque::new(),
            watchers: Vec::new(),
            streamed: Vec::new(),
            streamed_bytes: 0,
            presence_due: false,
            active_at: cx.now.unix_ms,
            watchers_max,
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
        self.safe == self.next && self.held.is_empty()
    }

    /// Makes a fact an event and hands it to the store.
    pub(super) fn append(&mut self, cx: &mut Cx<'_>, by: Option<By>, kind: Kind) -> Position {
        let position = self.next();
        let event = Event { session: self.session.clone(), position: position.clone(), at: cx.now.unix_ms, by, kind };
        let event = Arc::new(event);
        let offset = cx.store.append(self.log, event.clone());
        debug_assert_eq!(offset, self.next, "the store and the session count alike");
        self.fresh.push_back(event);
        self.next += 1;
        self.active_at = cx.now.unix_ms;
        position
    }

    /// Says something as soon as every event so far is safe, in the order of these calls.
    pub(super) fn hold(&mut self, cx: &mut Cx<'_>, out: Out) {
        self.held.push_back((self.next, Held::Out(out)));
        self.release(cx);
    }

    /// Everything below `next` is safe now.
    pub(super) fn committed(&mut self, cx: &mut Cx<'_>, next: u64) {
        while self.safe < next {
            let Some(event) = self.fresh.pop_front() else { break };
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
                cx.out.push_back(Out::Event { peers, event });
            }
            self.release(cx);
        }
    }

    fn release(&mut self, cx: &mut Cx<'_>) {
        while self.held.front().is_some_and(|(after, _)| *after <= self.safe) {
            match self.held.pop_front() {
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
        if !self.watches(caller.peer) {
            let places = self.shares().admits(&caller.principal, 1);
            places.map_err(|full| full.error("devices that may watch this session", "detach one"))?;
        }
        let from = match wanted.from {
            Some(from) => Some(self.check(cx.store.range(self.log), from)?),
            None => None,
        };
        let tail_bytes = bytes_of(wanted.tail_bytes);
        let attach = Attach { caller: caller.clone(), re: re.clone(), snapshot, from, tail_bytes, next: self.next };
        self.held.push_back((self.next, Held::Attach(Box::new(attach))));
        self.release(cx);
        Ok(())
    }

    /// The newest events before a position.
    pub(super) fn history(&self, cx: &Cx<'_>, before: &Position, bytes: Option<u64>) -> Result<Reply, Error> {
        let range = cx.store.range(self.log);
        let before = self.check(range, before)?;
        let bytes = bytes_of(bytes);
        let (_, mut events) = cx.store.tail(self.log, before, bytes);
        if events.is_empty() && before > range.earliest {
            // One that is larger than what was asked for still goes: else nothing before it could ever be read.
            events = cx.store.read(self.log, before - 1, 0).unwrap_or_default();
        }
        Ok(Reply::History { events, earliest: self.position(range.earliest) })
    }

    fn check(&self, range: Range, from: &Position) -> Result<u64, Error> {
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

    fn admit(&mut self, cx: &mut Cx<'_>, attach: Attach) {
        let Attach { caller, re, mut snapshot, from, tail_bytes, next } = attach;
        let range = cx.store.range(self.log);
        if let Some(offset) = from
            && let Err(error) = self.check(range, &self.position(offset))
        {
            // The log has moved on while this waited for a commit.
            cx.out.push_back(Out::Answer { peer: caller.peer, re, result: Err(error) });
            return;
        }
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
        let watcher = Watcher { peer: caller.peer, info, cursor, paused, announce, missed_presence: false };
        self.watchers.push(watcher);
        self.presence_due = true;
        // Live text and the list of devices are as of now, so that no piece falls between snapshot and first delta.
        if let Some(turn) = &mut snapshot.turn {
            turn.blocks = self.blocks();
        }
        snapshot.devices = self.watchers.iter().map(|watcher| watcher.info.clone()).collect();
        snapshot.summary.devices = self.watchers.len();
        // To act, the snapshot is needed whole; events can be read later.
        let room = fit::fit(&mut snapshot, bulk::MESSAGE_BYTES_MAX - ANSWER_BYTES);
        let events = if announce { Vec::new() } else { cx.store.tail(self.log, next, tail_bytes.min(room)).1 };
        // One commit may drop what came right before `next`; from `next` on everything follows in any case.
        let earliest = self.position(range.earliest.min(cursor));
        let reply = Reply::Attached { snapshot: Box::new(snapshot), events, earliest, next: self.position(cursor) };
        cx.out.push_back(Out::Answer { peer: caller.peer, re, result: Ok(reply) });
        self.caught_up(cx);
    }

    pub(super) fn detach(&mut self, cx: &mut Cx<'_>, peer: ConnToken, re: &Text) {
        self.held.push_back((self.next, Held::Detach { peer, re: re.clone() }));
        self.release(cx);
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self, peer: ConnToken) {
        self.held.retain(|(_, held)| !matches!(held, Held::Attach(attach) if attach.caller.peer == peer));
        self.forget(peer);
    }

    /// Who watches, and who is about to.
    fn shares(&self) -> Shares {
        let watching = self.watchers.iter().map(|watcher| (&watcher.info.principal, 1));
        let pending = self.held.iter().filter_map(|(_, held)| match held {
            Held::Attach(attach) => Some((&attach.caller.principal, 1)),
            _ => None,
        });
        Shares::of(self.watchers_max, watching.chain(pending))
    }

    /// Other keys are in force: who may no longer watch does not, and who may do less is shown so.
    pub(super) fn keys(&mut self, keys: &KeySet) {
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
        self.presence_due |= self.watchers.len() != before;
        for DeviceInfo { principal, role, .. } in self.watchers.iter_mut().map(|watcher| &mut watcher.info) {
            if let Some(entry) = keys.principal(principal).filter(|entry| entry.role < *role) {
                *role = entry.role;
                self.presence_due = true;
            }
        }
    }

    /// The log is about to go. Even one that takes nothing is told so: it is the last there is.
    pub(super) fn give_way(&mut self, cx: &mut Cx<'_>) {
        for watcher in std::mem::take(&mut self.watchers) {
            let (session, earliest) = (self.session.clone(), self.next());
            cx.out.push_back(Out::Reset { peer: watcher.peer, session, why: GAVE_WAY, earliest });
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self, keys: Option<&KeySet>) {
        // A device that watches already may attach once more, and counts twice as long as that waits.
        assert!(self.watchers.len() <= self.watchers_max);
        let is_lost = |principal: &&Text| keys.is_some_and(|keys| keys.lost(principal, Verb::Attach).is_some());
        let lost = self.watchers.iter().map(|watcher| &watcher.info.principal).find(is_lost);
        assert_eq!(lost, None, "a device watches that its key does not permit to");
    }

    fn forget(&mut self, peer: ConnToken) {
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

    /// Whether some watcher that may be sent to is behind.
    pub(super) fn lagging(&self) -> bool {
        self.watchers.iter().any(|watcher| !watcher.paused && watcher.cursor < self.safe)
    }

    /// Sends the next batch to every watcher that is behind and may be sent to.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_>) {
        let range = cx.store.range(self.log);
        let mut lost = Vec::new();
        for watcher in self.watchers.iter_mut().filter(|watcher| !watcher.paused && watcher.cursor < self.safe) {
            let Ok(events) = cx.store.read(self.log, watcher.cursor, BATCH_BYTES) else {
                lost.push(watcher.peer);
                continue;
            };
            for event in events.into_iter().take_while(|event| event.position.offset < self.safe) {
                watcher.cursor = event.position.offset + 1;
                cx.out.push_back(Out::Event { peers: vec![watcher.peer], event });
            }
        }
        for peer in lost {
            self.forget(peer);
            let earliest = self.position(range.earliest);
            let why = "the log has moved on past where this device stood";
            cx.out.push_back(Out::Reset { peer, session: self.session.clone(), why, earliest });
        }
        self.caught_up(cx);
    }

    fn caught_up(&mut self, cx: &mut Cx<'_>) {
        for watcher in &mut self.watchers {
            if watcher.announce && !watcher.paused && watcher.cursor >= self.safe {
                watcher.announce = false;
                cx.out.push_back(Out::CaughtUp { peer: watcher.peer, session: self.session.clone() });
            }
        }
    }

    /// Live text: shown at once to everybody who is up to date, and kept for snapshots.
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

    /// Tells everybody who watches, if that has changed.
    pub(super) fn flush_presence(&mut self, cx: &mut Cx<'_>) -> bool {
        if !std::mem::take(&mut self.presence_due) {
            return false;
        }
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
