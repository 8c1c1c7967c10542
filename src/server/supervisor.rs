//! The supervisor thread: one poll over every CLI's pipes and the inbox of the workers. Owns the processes and drives
//! the core; it must not decide anything the core decides.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;

use super::{
    backlog::Backlog,
    channels::{Mail, Mailers, ToCore},
    drain_guard::DrainGuard,
    launch::Launcher,
    metrics::Shared,
};
use crate::{
    base::Now,
    claude::{
        self,
        codec::{Translator, encode},
        process::{Process, ProcessEvent},
    },
    reactor::{self, Control, Receiver, Sender, inbox},
    relay::{
        api::{End, ExitInfo, Launch, Out, Summary, Text},
        hub::{Create, Hub},
        keys::KeySet,
    },
};

/// Batches that may wait; a worker sends one a turn and keeps what finds no room.
const INBOX_MAX: usize = 16 * 1024;
/// Batches handled in a turn before the pipes have their turn.
const BATCHES_A_TURN: usize = 256;
/// Outs that may wait for workers with a full inbox before the pipes are left unread: the CLI keeps what it says.
const BACKLOG_MAX: usize = 16 * 1024;
/// What travels to a worker in one mail: it handles a mail in one turn, and others wait for that.
const OUTS_A_MAIL: usize = 512;
/// How soon a full inbox is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(5);
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
    pub(super) inbox: Sender<Vec<ToCore>>,
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

/// A supervisor whose inbox exists and whose thread does not yet: workers need the inbox first.
pub(super) struct Prepared {
    poll: Poll,
    receiver: Receiver<Vec<ToCore>>,
    keys: NewKeys,
    drain: Arc<AtomicBool>,
}

impl Supervisor {
    /// Makes the inbox.
    pub(super) fn prepare() -> io::Result<(Self, Prepared)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (inbox, receiver) = inbox(INBOX_MAX, waker);
        let (keys, drain) = (NewKeys::default(), Arc::new(AtomicBool::new(false)));
        let supervisor = Self { inbox, keys: keys.clone(), drain: drain.clone() };
        Ok((supervisor, Prepared { poll, receiver, keys, drain }))
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
        let Self { poll, receiver, keys, drain } = self;
        let Parts { hub, launcher, mailers, shared, grace_ms, control } = parts;
        let backlog = (0..mailers.len()).map(|_| Backlog::default()).collect();
        let (processes, by_session) = (Slab::new(), HashMap::new());
        let mut desk = Desk {
            poll,
            receiver,
            keys,
            drain,
            hub,
            launcher,
            mailers,
            shared,
            grace_ms,
            processes,
            by_session,
            ready: Vec::new(),
            backlog,
            scratch: vec![0; SCRATCH],
            events: Vec::new(),
            line: Vec::new(),
            drain_ends_ms: None,
            announced: HashSet::new(),
            news: Vec::new(),
        };
        let created = first.map(|create| desk.first(create)).transpose()?;
        let run = move || {
            let _last = DrainGuard(control, desk.shared.clone());
            desk.run()
        };
        let thread = thread::Builder::new().name("supervisor".into()).spawn(run);
        let thread = thread.map_err(|error| format!("the supervisor thread cannot be started: {error}"))?;
        Ok((thread, created))
    }
}

/// What a worker hears of sessions.
enum News {
    /// There is one: its id and DID.
    Here(Text, Text),
    /// The one with this DID is gone.
    Gone(Text),
}

/// A CLI that runs.
struct Running {
    session: Text,
    number: u64,
    process: Process,
    translator: Translator,
}

struct Desk {
    poll: Poll,
    receiver: Receiver<Vec<ToCore>>,
    keys: NewKeys,
    drain: Arc<AtomicBool>,
    hub: Hub,
    launcher: Launcher,
    mailers: Mailers,
    shared: Arc<Shared>,
    grace_ms: u64,
    processes: Slab<Running>,
    by_session: HashMap<Text, usize>,
    /// Tokens with more to read than one turn took.
    ready: Vec<Token>,
    /// What waits for each worker's inbox.
    backlog: Vec<Backlog>,
    scratch: Vec<u8>,
    events: Vec<claude::Event>,
    line: Vec<u8>,
    /// When the grace of a drain is over.
    drain_ends_ms: Option<u64>,
    /// Sessions that the workers know.
    announced: HashSet<Text>,
    /// What workers are still to hear of sessions, in order for each.
    news: Vec<(usize, News)>,
}

impl Desk {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let now = reactor::now();
            let wait = self.wait(now);
            // What stays in the inbox while too much waits for workers is no reason not to wait.
            let clogged = self.clogged();
            let sleeps = !clogged && wait.is_none_or(|wait| !wait.is_zero()) && self.receiver.sleep_begin();
            let polled = self.poll.poll(&mut events, if sleeps || clogged { wait } else { Some(Duration::ZERO) });
            self.receiver.sleep_end();
            if let Err(error) = polled
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!(error:% = error; "the supervisor cannot wait for events");
                return Err(error);
            }
            let now = reactor::now();
            self.inbox(now);
            self.call_the_stuck();
            self.pipes(&events, now);
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
            let Some(ends_ms) = self.drain_ends_ms else { continue };
            if self.processes.is_empty() && self.hub.drained() {
                return Ok(());
            }
            if now.mono_ms >= ends_ms {
                // Their guards end them as soon as their pipes close with this thread.
                log::warn!(processes = self.processes.len(); "the grace is over; what still runs is cut off");
                return Ok(());
            }
        }
    }

    fn wait(&self, now: Now) -> Option<Duration> {
        if !self.ready.is_empty() && !self.clogged() {
            return Some(Duration::ZERO);
        }
        let timer = self.hub.next_timeout().map(|at| Duration::from_millis(at.saturating_sub(now.mono_ms)));
        let retry = self.backlog.iter().any(|backlog| !backlog.is_empty()).then_some(RETRY_AFTER);
        let drain = self.drain_ends_ms.map(|at| Duration::from_millis(at.saturating_sub(now.mono_ms)));
        [timer, retry, drain].into_iter().flatten().min()
    }

    fn inbox(&mut self, now: Now) {
        self.take_keys(now);
        for _ in 0..BATCHES_A_TURN {
            if self.clogged() {
                return;
            }
            let Some(batch) = self.receiver.try_recv() else { return };
            self.take_keys(now);
            for message in batch {
                match message {
                    ToCore::Request(caller, request) => self.hub.request(&caller, request, now),
                    ToCore::Paused(peer) => self.hub.paused(peer),
                    ToCore::Resumed(peer) => self.hub.resumed(peer, now),
                    ToCore::Gone(peer) => self.hub.disconnected(peer, now),
                }
                self.carry_out(now);
            }
        }
    }

    fn take_keys(&mut self, now: Now) {
        let keys = self.keys.lock().take();
        if let Some(keys) = keys {
            self.hub.keys(keys, now);
            self.carry_out(now);
        }
    }

    /// Wakes every worker that found the inbox full and may sleep on what it keeps. One whose own inbox is full has a
    /// turn coming anyway.
    fn call_the_stuck(&self) {
        for (worker, tallies) in self.shared.workers.iter().enumerate() {
            if tallies.stuck.swap(false, Ordering::SeqCst) {
                let _ = self.mailers.send(worker, Mail::Core(Vec::new()));
            }
        }
    }

    /// Whether so much waits for workers that reading more would only grow it.
    fn clogged(&self) -> bool {
        self.backlog.iter().any(|backlog| backlog.len() >= BACKLOG_MAX)
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
        let Running { session, number, process, translator } = running;
        let (events, mut exit, unreadable) = (&mut self.events, None, translator.malformed());
        let more = process.event(token, &mut self.scratch, &mut |event| match event {
            ProcessEvent::Line(line) => translator.line(line, events),
            ProcessEvent::LineTooLong => translator.too_long(events),
            ProcessEvent::StderrLine(line) => log::info!(session = &**session, line; "the CLI says"),
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
            log::info!(session = &**session, by:% = exit; "the CLI has ended");
            let Running { session, number, .. } = self.processes.remove(slot);
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
            match out {
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
                    let mut workers: Vec<u16> = peers.iter().map(|peer| peer.worker()).collect();
                    workers.sort_unstable();
                    workers.dedup();
                    for worker in workers {
                        self.post(usize::from(worker), for_worker(&out, worker));
                    }
                }
            }
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
        for worker in 0..self.mailers.len() {
            self.news.push((worker, News::Here(session.clone(), summary.did.clone())));
        }
    }

    /// Tells every worker of the sessions that are gone: their DIDs lead nowhere from then on.
    fn take_leave(&mut self) {
        for (session, did) in self.hub.take_gone() {
            self.announced.remove(&session);
            for worker in 0..self.mailers.len() {
                self.news.push((worker, News::Gone(did.clone())));
            }
        }
    }

    fn post(&mut self, worker: usize, out: Out) {
        if let Some(backlog) = self.backlog.get_mut(worker) {
            backlog.push(out);
        }
    }

    fn flush(&mut self) {
        let mailers = &self.mailers;
        let mut full: Vec<usize> = Vec::new();
        self.news.retain(|(worker, news)| {
            let mail = match news {
                News::Here(session, did) => Mail::Session { session: session.clone(), did: did.clone() },
                News::Gone(did) => Mail::SessionGone { did: did.clone() },
            };
            let stays = full.contains(worker) || mailers.send(*worker, mail).is_err();
            if stays {
                full.push(*worker);
            }
            stays
        });
        for (worker, backlog) in self.backlog.iter_mut().enumerate() {
            while !backlog.is_empty() {
                let outs = backlog.take(OUTS_A_MAIL);
                if let Err(Mail::Core(back)) = self.mailers.send(worker, Mail::Core(outs)) {
                    backlog.give_back(back);
                    break;
                }
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
                entry.insert(Running { session, number, process, translator: Translator::new() });
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
        Ok(summary)
    }
}

/// The part of a fan-out that one worker's peers get.
fn for_worker(out: &Out, worker: u16) -> Out {
    let mut out = out.clone();
    if let Out::Event { peers, .. }
    | Out::Delta { peers, .. }
    | Out::Presence { peers, .. }
    | Out::Changed { peers, .. } = &mut out
    {
        peers.retain(|peer| peer.worker() == worker);
    }
    out
}
