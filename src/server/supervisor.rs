//! The supervisor thread: one poll over every CLI's pipes and the inbox of the workers. Owns the processes and drives
//! the core; it must not decide anything the core decides.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task,
    thread::{self, JoinHandle},
    time::Duration,
};

use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;

use super::{
    backlog::Backlog,
    channels::{LargeOut, Links, Mail, Mailers, OnWay},
    drain_guard::DrainGuard,
    launch::Launcher,
    log_share::{LogShare, LogShares},
    metrics::Shared,
};
use crate::{
    base::{ConnToken, Now},
    claude::{
        self,
        codec::{Translator, encode},
        process::{Process, ProcessEvent},
    },
    reactor::{self, Control, Receiver, Sender, inbox},
    relay::{
        api::{Code, End, Error, ExitInfo, Launch, Out, Summary, Text},
        hub::{Create, Hub},
        keys::KeySet,
        sessions::{AgentRequests, Taken, ToSessions, Waiting, cost},
    },
};

/// Batches that may wait; a worker sends one a turn and keeps what finds no room.
const INBOX_MAX: usize = 16 * 1024;
/// Messages of workers that are taken in before what waits has its turn.
const MESSAGES_A_TURN: usize = 1024;
/// How much commands may [cost](cost) before the pipes have their turn, and the answers go out.
const COST_A_TURN: usize = 1024;
/// Large answers that may wait for a worker, or be with it. Above this a command that makes one more waits, with what
/// comes behind it, until they are framed.
const LARGE_OUT_MAX: usize = 4;
/// Outs that may wait for workers with a full inbox before the pipes are left unread: the CLI keeps what it says.
const BACKLOG_MAX: usize = 16 * 1024;
/// Outs that travel to a worker in one mail: a worker handles a mail in one turn, and all else waits for that.
const OUTS_A_MAIL: usize = 512;
/// One buffer for the pipes of all processes.
const SCRATCH: usize = 256 * 1024;
/// Poll tokens of a process, counted up from its slot.
const TOKENS_EACH: usize = 4;
const WAKER: Token = Token(usize::MAX);

/// Keys that the core has not taken yet; newer ones take their place.
type NewKeys = Arc<Mutex<Option<Arc<KeySet>>>>;

/// The way to the supervisor, besides the workers' inbox.
#[derive(Clone)]
pub(super) struct Supervisor {
    pub(super) inbox: Sender<Vec<ToSessions>>,
    keys: NewKeys,
    drain: Arc<AtomicBool>,
}

impl Supervisor {
    /// These keys are in force: the core has them before any command that is handed over later, and before those that
    /// wait in the inbox.
    pub(super) fn keys(&self, keys: Arc<KeySet>) {
        *self.keys.lock() = Some(keys);
        self.inbox.wake();
    }

    /// Ends every session within the grace that the thread was started with, then the thread.
    pub(super) fn drain(&self) {
        self.drain.store(true, Ordering::Release);
        self.inbox.wake();
    }
}

/// What [`Supervisor::start`] needs.
pub(super) struct Parts {
    pub(super) hub: Hub,
    pub(super) launcher: Launcher,
    pub(super) mailers: Mailers,
    pub(super) shared: Arc<Shared>,
    pub(super) grace_ms: u64,
    /// Drains the workers when this thread ends, however it does: without it no command is ever answered.
    pub(super) control: Control,
}

/// A supervisor with an inbox and no thread yet: workers need the inbox first.
pub(super) struct Prepared {
    poll: Poll,
    waker: task::Waker,
    receiver: Receiver<Vec<ToSessions>>,
    keys: NewKeys,
    drain: Arc<AtomicBool>,
}

impl Supervisor {
    /// Makes the inbox.
    pub(super) fn prepare() -> io::Result<(Self, Prepared)> {
        Self::prepare_with(INBOX_MAX)
    }

    fn prepare_with(places: usize) -> io::Result<(Self, Prepared)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (inbox, receiver) = inbox(places, waker);
        let (keys, drain) = (NewKeys::default(), Arc::new(AtomicBool::new(false)));
        let prepared = Prepared { poll, waker: inbox.waker(), receiver, keys: keys.clone(), drain: drain.clone() };
        Ok((Self { inbox, keys, drain }, prepared))
    }
}

impl Prepared {
    /// Starts the thread. With `first` that session is created before this returns.
    ///
    /// # Errors
    /// The thread, or the first session, cannot be started.
    pub(super) fn start(
        self,
        parts: Parts,
        first: Option<Create>,
    ) -> Result<(JoinHandle<io::Result<()>>, Option<Summary>), String> {
        let control = parts.control.clone();
        let mut thread = self.supervisor_loop(parts);
        let created = first.map(|create| thread.first(create)).transpose()?;
        let run = move || {
            let _last = DrainGuard(control, thread.shared.clone());
            thread.run()
        };
        let thread = thread::Builder::new().name("supervisor".into()).spawn(run);
        let thread = thread.map_err(|error| format!("the supervisor thread cannot be started: {error}"))?;
        Ok((thread, created))
    }

    fn supervisor_loop(self, parts: Parts) -> SupervisorLoop {
        let Self { poll, waker, receiver, keys, drain } = self;
        let Parts { hub, launcher, mailers, shared, grace_ms, control: _ } = parts;
        let backlog: Vec<_> = (0..mailers.len()).map(|_| Backlog::default()).collect();
        SupervisorLoop {
            poll,
            receiver,
            keys,
            drain,
            hub,
            waiting: Waiting::default(),
            more_to_do: false,
            agents: AgentRequests::new(super::random),
            taken: backlog.iter().map(|_| Vec::new()).collect(),
            launcher,
            links: mailers.links(&waker),
            shared,
            grace_ms,
            processes: Slab::new(),
            by_session: HashMap::new(),
            log_shares: LogShares::default(),
            ready: Vec::new(),
            large_out: backlog.iter().map(|_| LargeOut::default()).collect(),
            backlog,
            waker,
            scratch: vec![0; SCRATCH],
            events: Vec::new(),
            line: Vec::new(),
            drain_ends_ms: None,
            announced: HashSet::new(),
        }
    }
}

/// A CLI that runs.
struct Running {
    session: Text,
    number: u64,
    process: Process,
    translator: Translator,
    log: LogShare,
}

struct SupervisorLoop {
    poll: Poll,
    receiver: Receiver<Vec<ToSessions>>,
    keys: NewKeys,
    drain: Arc<AtomicBool>,
    hub: Hub,
    /// What workers have handed over, until its turn comes.
    waiting: Waiting,
    /// Some of it could have been carried out in the turn before.
    more_to_do: bool,
    agents: AgentRequests,
    /// By worker, the connection of each command or message that was taken, or refused, in this turn: the worker counts
    /// what is on the way.
    taken: Vec<Vec<ConnToken>>,
    launcher: Launcher,
    links: Links,
    shared: Arc<Shared>,
    grace_ms: u64,
    processes: Slab<Running>,
    by_session: HashMap<Text, usize>,
    log_shares: LogShares,
    /// Poll tokens with more to read than one turn took.
    ready: Vec<Token>,
    /// What is for each worker, until it is handed over.
    backlog: Vec<Backlog>,
    /// Large answers on their way, by worker.
    large_out: Vec<LargeOut>,
    /// Wakes this thread.
    waker: task::Waker,
    scratch: Vec<u8>,
    events: Vec<claude::Event>,
    line: Vec<u8>,
    /// When the grace of a drain is over.
    drain_ends_ms: Option<u64>,
    /// Sessions that the workers know.
    announced: HashSet<Text>,
}

impl SupervisorLoop {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        while self.turn(&mut events)? {}
        Ok(())
    }

    /// False: the thread has done all it had to.
    fn turn(&mut self, events: &mut Events) -> io::Result<bool> {
        let wait = self.wait(reactor::now());
        // What stays in the inbox while too much waits for workers is no reason not to wait.
        let clogged = self.clogged();
        let sleeps = !clogged && wait.is_none_or(|wait| !wait.is_zero()) && self.receiver.sleep_begin();
        let polled = self.poll.poll(events, if sleeps || clogged { wait } else { Some(Duration::ZERO) });
        self.receiver.sleep_end();
        if let Err(error) = polled
            && error.kind() != io::ErrorKind::Interrupted
        {
            log::error!(error:% = error; "the supervisor cannot wait for events");
            return Err(error);
        }
        let now = reactor::now();
        self.inbox(now);
        self.receiver.room_made();
        self.commands(now);
        self.pipes(events, now);
        if self.drain.load(Ordering::Acquire) && self.drain_ends_ms.is_none() {
            self.drain_ends_ms = Some(now.mono_ms.saturating_add(self.grace_ms));
            self.hub.drain(now, self.grace_ms);
        }
        if self.hub.next_timeout().is_some_and(|at| at <= now.mono_ms) {
            self.hub.timeout(now);
        }
        self.carry_out(now);
        self.flush();
        self.count();
        let Some(ends_ms) = self.drain_ends_ms else { return Ok(true) };
        if self.has_drained() && self.waiting.is_empty() {
            return Ok(false);
        }
        if now.mono_ms >= ends_ms {
            // Their guards end them as soon as their pipes close with this thread.
            log::warn!(processes = self.processes.len(); "the grace is over; what still runs is cut off");
            return Ok(false);
        }
        Ok(true)
    }

    fn has_drained(&self) -> bool {
        self.drain_ends_ms.is_some() && self.processes.is_empty() && self.hub.drained()
    }

    fn wait(&self, now: Now) -> Option<Duration> {
        if (self.more_to_do || !self.ready.is_empty()) && !self.clogged() {
            return Some(Duration::ZERO);
        }
        let timer = self.hub.next_timeout().map(|at| Duration::from_millis(at.saturating_sub(now.mono_ms)));
        let drain = self.drain_ends_ms.map(|at| Duration::from_millis(at.saturating_sub(now.mono_ms)));
        [timer, drain].into_iter().flatten().min()
    }

    /// Takes in what workers have handed over. Behind the last process only what waits already is answered.
    fn inbox(&mut self, now: Now) {
        self.take_keys(now);
        let mut taken = 0;
        while taken < MESSAGES_A_TURN && !self.clogged() {
            if self.has_drained() && !self.waiting.is_empty() {
                return;
            }
            let Some(batch) = self.receiver.try_recv() else { return };
            taken += batch.len().max(1);
            for message in batch {
                match self.waiting.take(message) {
                    Taken::Waits => {}
                    Taken::Passed(message) => self.message(message, now),
                    Taken::Refused(message) => self.refuse(message, now),
                }
            }
        }
    }

    /// Carries out the messages that wait, by turns of their principals, until they have cost enough for a turn. Each
    /// is judged by the keys that are in force then.
    fn commands(&mut self, now: Now) {
        let mut left = COST_A_TURN;
        while left > 0 && !self.clogged() {
            self.take_keys(now);
            let (backlog, large_out) = (&self.backlog, &self.large_out);
            let has_room = |worker: u16| {
                let (backlog, out) = (backlog.get(usize::from(worker)), large_out.get(usize::from(worker)));
                backlog.map_or(0, Backlog::large) + out.map_or(0, LargeOut::count) < LARGE_OUT_MAX
            };
            let Some(message) = self.waiting.next(has_room) else {
                self.more_to_do = false;
                return;
            };
            left = left.saturating_sub(cost(&message));
            self.message(message, now);
        }
        self.more_to_do = !self.waiting.is_empty();
    }

    fn message(&mut self, message: ToSessions, now: Now) {
        match message {
            ToSessions::Request(caller, request) => {
                self.hub.request(&caller, request, now);
                self.was_taken(caller.peer);
            }
            ToSessions::Paused(peer) => self.hub.paused(peer),
            ToSessions::Resumed(peer) => self.hub.resumed(peer, now),
            ToSessions::Gone(peer) => self.hub.disconnected(peer, now),
            ToSessions::Ask(ask) => {
                self.was_taken(ask.caller.peer);
                self.agents.ask(*ask, &mut self.hub, now);
            }
            ToSessions::AskerGone(peer) => self.agents.gone(peer, &mut self.hub, now),
        }
        self.carry_out(now);
    }

    /// Refuses a message: too many messages of its principal wait.
    fn refuse(&mut self, message: ToSessions, now: Now) {
        match message {
            ToSessions::Request(caller, request) => {
                let why = "too many commands of this key wait; the command was not run";
                let error = Error { retry_after_ms: Some(1000), ..Error::new(Code::RateLimited, why) };
                let (peer, re) = (caller.peer, request.id);
                self.post(usize::from(peer.worker()), Out::Answer { peer, re, result: Err(error) });
                self.was_taken(peer);
            }
            ToSessions::Ask(ask) => {
                self.was_taken(ask.caller.peer);
                self.agents.overloaded(*ask, now);
            }
            // There is always room for news of a connection.
            ToSessions::Paused(_) | ToSessions::Resumed(_) | ToSessions::Gone(_) | ToSessions::AskerGone(_) => {}
        }
        self.carry_out(now);
    }

    fn take_keys(&mut self, now: Now) {
        let keys = self.keys.lock().take();
        if let Some(keys) = keys {
            self.hub.keys(keys.clone(), now);
            self.agents.keys_changed(&keys, &mut self.hub, now);
            self.carry_out(now);
        }
    }

    /// Whether so much waits for workers, or for the store, that reading more would only grow it.
    fn clogged(&self) -> bool {
        self.hub.is_clogged() || self.backlog.iter().any(|backlog| backlog.len() >= BACKLOG_MAX)
    }

    fn pipes(&mut self, events: &Events, now: Now) {
        let fresh = events.iter().map(|event| event.token()).filter(|token| *token != WAKER);
        let mut tokens: Vec<Token> = std::mem::take(&mut self.ready);
        for token in fresh {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        if self.clogged() {
            self.ready = tokens;
            return;
        }
        for token in tokens {
            self.pipe(token, now);
            self.carry_out(now);
        }
    }

    /// One process's event. Lines become events of the core at once; an exit ends the process.
    fn pipe(&mut self, token: Token, now: Now) {
        let slot = token.0 / TOKENS_EACH;
        let Some(running) = self.processes.get_mut(slot) else { return };
        let Running { session, number, process, translator, log } = running;
        let (events, mut exit, unreadable) = (&mut self.events, None, translator.malformed());
        let more = process.event(token, &mut self.scratch, &mut |event| match event {
            ProcessEvent::Line(line) => translator.line(line, events),
            ProcessEvent::LineTooLong => translator.too_long(events),
            ProcessEvent::StderrLine(line) => log.log(session, line, now.mono_ms),
            ProcessEvent::Exited { code, signal, stderr_tail } => {
                exit = Some(ExitInfo { code, signal, stderr: stderr_tail })
            }
        });
        self.shared.core.unreadable_lines.add(translator.malformed() - unreadable);
        for event in self.events.drain(..) {
            if let claude::Event::Unreadable { line, .. } = &event {
                log::warn!(session = &**session, line = &**line; "the CLI wrote a line that is no message");
            }
            self.hub.agent(session, *number, event, now);
        }
        if let Some(exit) = exit {
            log.log_left_out(session);
            log::info!(session = &**session, by:% = exit; "the CLI has ended");
            let Running { session, number, log, .. } = self.processes.remove(slot);
            self.log_shares.put(session.clone(), log, now.mono_ms);
            self.by_session.remove(&session);
            self.hub.exited(&session, number, &exit, now);
        } else if more {
            self.ready.push(token);
        }
    }

    /// Does what the core wants done, until it wants nothing more.
    fn carry_out(&mut self, now: Now) {
        self.take_leave();
        while let Some(out) = self.hub.poll() {
            self.agents.out(&out, &mut self.hub, now);
            match out {
                Out::Answer { peer, .. } | Out::CaughtUp { peer, .. } | Out::Reset { peer, .. }
                    if AgentRequests::is_agent(peer) => {}
                Out::Launch(launch) => {
                    self.announce(&launch.session);
                    self.launch(&launch, now);
                }
                Out::Write { session, process, command } => self.write(&session, process, &command),
                Out::End { session, process, how } => self.end(&session, process, how),
                Out::Answer { peer, .. } | Out::CaughtUp { peer, .. } | Out::Reset { peer, .. } => {
                    self.post(usize::from(peer.worker()), out);
                }
                Out::Event { ref peers, .. }
                | Out::Delta { ref peers, .. }
                | Out::Presence { ref peers, .. }
                | Out::Changed { ref peers, .. } => {
                    let devices = peers.iter().filter(|&&peer| !AgentRequests::is_agent(peer));
                    let mut workers: Vec<u16> = devices.map(|peer| peer.worker()).collect();
                    workers.sort_unstable();
                    workers.dedup();
                    let last = workers.pop();
                    for worker in workers {
                        self.post(usize::from(worker), for_worker(out.clone(), worker));
                    }
                    if let Some(worker) = last {
                        self.post(usize::from(worker), for_worker(out, worker));
                    }
                }
            }
        }
        while let Some(reply) = self.agents.poll() {
            self.links.push(usize::from(reply.via.worker()), Mail::Said(Box::new(reply)));
        }
    }

    fn was_taken(&mut self, peer: ConnToken) {
        if let Some(taken) = self.taken.get_mut(usize::from(peer.worker())) {
            taken.push(peer);
        }
    }

    /// Tells every worker of a session that it has not heard of: agents can write to its DID from then on.
    fn announce(&mut self, session: &Text) {
        if self.announced.contains(session) {
            return;
        }
        let Some(summary) = self.hub.summaries().into_iter().find(|summary| summary.session == *session) else {
            return;
        };
        self.announced.insert(session.clone());
        for worker in 0..self.links.len() {
            self.links.push(worker, Mail::Session { session: session.clone(), did: summary.did.clone() });
        }
    }

    /// Tells every worker of the sessions that are gone: their DIDs lead nowhere from then on.
    fn take_leave(&mut self) {
        for (session, did) in self.hub.take_gone() {
            self.announced.remove(&session);
            for worker in 0..self.links.len() {
                self.links.push(worker, Mail::SessionGone { did: did.clone() });
            }
        }
    }

    fn post(&mut self, worker: usize, out: Out) {
        if let Some(backlog) = self.backlog.get_mut(worker) {
            backlog.push(out);
        }
    }

    /// The end of a turn: what workers are to know of sessions and of what was taken, and then what is for their peers.
    fn flush(&mut self) {
        for (worker, taken) in self.taken.iter_mut().enumerate().filter(|(_, taken)| !taken.is_empty()) {
            self.links.push(worker, Mail::Taken(std::mem::take(taken)));
        }
        self.links.flush();
        for (worker, backlog) in self.backlog.iter_mut().enumerate() {
            let next = || {
                (!backlog.is_empty()).then(|| {
                    let (outs, large) = backlog.take(OUTS_A_MAIL);
                    Mail::Core(outs, self.large_out[worker].add(large, &self.waker))
                })
            };
            if let Some(Mail::Core(back, large)) = self.links.flush_with(worker, next) {
                backlog.give_back(back);
                large.into_iter().for_each(OnWay::take_back);
            }
        }
    }

    fn launch(&mut self, launch: &Launch, now: Now) {
        let entry = self.processes.vacant_entry();
        let slot = entry.key();
        let tokens = std::array::from_fn(|index| Token(slot * TOKENS_EACH + index));
        let spawned =
            self.launcher.spawn(launch).map_err(|error| error.to_string()).and_then(|spawn| {
                Process::spawn(&spawn, self.poll.registry(), tokens).map_err(|error| error.to_string())
            });
        match spawned {
            Ok(process) => {
                log::info!(session = &*launch.session, pid = process.pid().unwrap_or_default(), start:% = launch.start; "the CLI was started");
                let (session, number) = (launch.session.clone(), launch.process);
                self.by_session.insert(session.clone(), slot);
                let (translator, log) = (Translator::new(), self.log_shares.take(&session, now.mono_ms));
                entry.insert(Running { session, number, process, translator, log });
            }
            Err(why) => {
                log::error!(session = &*launch.session, why = &*why; "the CLI cannot be started");
                self.hub.spawn_failed(&launch.session, launch.process, &why, now);
            }
        }
    }

    /// The process of that number, if it is still the session's.
    fn running(&mut self, session: &Text, number: u64) -> Option<&mut Running> {
        let slot = *self.by_session.get(session)?;
        self.processes.get_mut(slot).filter(|running| running.number == number)
    }

    fn write(&mut self, session: &Text, number: u64, command: &claude::Command) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        encode(command, &mut line);
        if let Some(running) = self.running(session, number)
            && running.process.write_line(&line).is_err()
        {
            // It has not read megabytes: it will not read this either. The core starts another and sends it anew.
            log::error!(session = &**session; "the CLI does not read its input and is ended");
            running.process.kill();
        }
        self.line = line;
    }

    fn end(&mut self, session: &Text, number: u64, how: End) {
        let Some(running) = self.running(session, number) else { return };
        match how {
            End::CloseStdin => running.process.close_stdin(),
            End::Terminate => running.process.terminate(),
            End::Kill => running.process.kill(),
        }
    }

    fn count(&self) {
        let (core, counts) = (&self.shared.core, self.hub.counts());
        for (tally, count) in core.sessions.iter().zip(counts.states) {
            tally.set(count as u64);
        }
        core.restarts.set(counts.restarts);
    }

    /// Creates the session that `up` starts with.
    fn first(&mut self, create: Create) -> Result<Summary, String> {
        let now = reactor::now();
        let summary = self.hub.create(create, now).map_err(|error| error.message.to_string())?;
        self.carry_out(now);
        self.flush();
        Ok(summary)
    }
}

/// The part of a fan-out that one worker's peers get.
fn for_worker(mut out: Out, worker: u16) -> Out {
    if let Out::Event { peers, .. }
    | Out::Delta { peers, .. }
    | Out::Presence { peers, .. }
    | Out::Changed { peers, .. } = &mut out
    {
        peers.retain(|peer| peer.worker() == worker);
    }
    out
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
