//! Goal: sessions keep their promises whatever devices, processes and the store do. Method: the hub is driven by
//! models of devices, of the CLI and of a store that commits late, in an order drawn from a seed; rules are checked
//! with everything that is said, and once more when all faults have ended and everything has come to rest.
//!
//! `AMP_SIM_SEED=n` plays one seed again and tells what happens; `AMP_SIM_SEEDS=n` plays n of them instead of 256.

pub(crate) mod agent;
mod device;
pub(crate) mod givens;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex},
};

use crate::rng::Rng;
use agent::{Fate, Process, World, input_of};
use amp_relay::{
    base::{ConnToken, Now},
    relay::{
        Role,
        api::{
            Closed, Code, Command, Decision, Details, End, Error, Event, Kind, Out, Outcome, Past, Position,
            PromptState, Reply, Request, State, Summary, Text, When,
        },
        hub::Hub,
        keys::Entry,
        session::Settings,
    },
    store::{Bounds, Limits, MemoryStore},
    wire::shown,
};
use device::{Device, Truth};
use givens::{Anything, Counted, LateStore, Orders, keys};

struct Simulation {
    rng: Rng,
    now: Now,
    hub: Hub,
    store: Arc<Mutex<Orders>>,
    late: bool,
    truths: Arc<Mutex<BTreeMap<Text, Truth>>>,
    world: World,
    processes: Vec<Process>,
    devices: Vec<Device>,
    /// What the keys file says of each device's key.
    roles: Vec<Option<Role>>,
    connections: u32,
    texts: u64,
    spawn_failures: VecDeque<(Text, u64)>,
    /// What has come up, so that a sweep can tell whether it met what it is for.
    seen: BTreeSet<&'static str>,
    /// No more faults.
    calm: bool,
    /// Say what happens between hub and processes.
    trace: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let truths = Arc::default();
        let log_bytes = if rng.chance(50) { 6_000 } else { 4 << 20 };
        let mut orders = Orders::new(Rng(rng.next()));
        let late = rng.chance(60);
        orders.lets = if late { 0 } else { u64::MAX };
        orders.read_fails = if rng.chance(30) { 250 } else { 0 };
        orders.append_fails = if rng.chance(15) { 5 } else { 0 };
        let store = Arc::new(Mutex::new(orders));
        let inner = MemoryStore::new(Limits { log_bytes, total_bytes: 64 << 20 });
        let engine = LateStore::new(inner, Arc::clone(&store), Arc::clone(&truths));
        let sessions_max = 1 + rng.below(3) as usize;
        let recent_bytes_max = if rng.chance(70) { rng.below(2_000) as usize } else { 64 << 10 };
        let mut store_bounds = Bounds::default();
        if rng.chance(50) {
            store_bounds = Bounds { read_bytes: 1 + rng.below(500) as usize, append_bytes: 3_000 };
        }
        let settings = Settings {
            sessions_max,
            prompts_max: 6,
            watchers_max: 4,
            recent_bytes_max,
            store: store_bounds,
            ..Settings::default()
        };
        let mut hub = Hub::new(settings, Box::new(engine), Box::new(Anything), Box::new(Counted(0)));
        let world = World { old: rng.chance(30), ..World::default() };
        let roles = [Role::Admin, Role::Spawn, Role::Approve, Role::Drive, Role::Watch, Role::Agent];
        let now = Now { mono_ms: 1000, unix_ms: 1_700_000_000_000 };
        let set = keys(roles.iter().copied().enumerate());
        let device = |(n, entry): (usize, &Entry)| Device::new(&format!("device{n}"), &entry.fingerprint, entry.role);
        let devices = set.entries.iter().enumerate().map(device).collect();
        hub.keys(Arc::new(set), now);
        Self {
            rng,
            now,
            hub,
            store,
            late,
            truths,
            world,
            processes: Vec::new(),
            devices,
            roles: roles.into_iter().map(Some).collect(),
            connections: 0,
            texts: 0,
            spawn_failures: VecDeque::new(),
            seen: BTreeSet::new(),
            calm: false,
            trace: std::env::var_os("AMP_SIM_SEED").is_some(),
        }
    }

    /// Carries out what the hub wants.
    fn drain(&mut self) {
        while let Some(out) = self.hub.poll() {
            if self.trace && matches!(out, Out::Launch(_) | Out::Write { .. } | Out::End { .. }) {
                eprintln!("{} {out:?}", self.now.mono_ms);
            }
            self.note_out(&out);
            match &out {
                Out::Answer { peer, .. } | Out::CaughtUp { peer, .. } | Out::Reset { peer, .. } => {
                    self.deliver(*peer, &out);
                }
                Out::Event { peers, .. }
                | Out::Delta { peers, .. }
                | Out::Presence { peers, .. }
                | Out::Changed { peers, .. } => peers.iter().for_each(|peer| self.deliver(*peer, &out)),
                Out::Launch(launch) => {
                    let live = |p: &Process| p.launch.session == launch.session;
                    assert!(!self.processes.iter().any(live), "two processes of one session");
                    let asked = self.open_requests();
                    assert!(!asked.iter().any(|(of, _)| *of == launch.session), "a dead process still asks");
                    self.note("launch");
                    self.note(if launch.rerun { "rerun" } else { "plain start" });
                    if !self.calm && self.rng.chance(3) {
                        self.spawn_failures.push_back((launch.session.clone(), launch.process));
                    } else {
                        self.processes.push(Process::new(launch.clone()));
                    }
                }
                Out::Write { session, process, command } => {
                    if let Some(index) = self.find(session, *process) {
                        self.processes[index].input.push_back(command.clone());
                    }
                }
                Out::End { session, process, how } => {
                    if let Some(index) = self.find(session, *process) {
                        self.processes[index].end(*how, &mut self.world, &mut self.rng);
                    }
                }
            }
        }
    }

    fn note(&mut self, what: &'static str) {
        self.seen.insert(what);
    }

    fn note_out(&mut self, out: &Out) {
        match out {
            Out::Answer { result: Err(error), .. } if error.message.contains("being read") => self.note("reads full"),
            Out::Answer { result: Err(error), .. } => self.note(error.code.name()),
            Out::Reset { why, .. } if why.contains("given way") => self.note("gave way"),
            Out::Reset { why, .. } if why.contains("be read") => self.note("reset unread"),
            Out::Reset { why, .. } if why.contains("written") => self.note("reset lost"),
            Out::Reset { .. } => self.note("reset"),
            Out::CaughtUp { .. } => self.note("caught up"),
            Out::End { how: End::Kill, .. } => self.note("kill"),
            Out::Event { event, .. } => match &event.kind {
                Kind::State { state, .. } => self.note(state.name()),
                Kind::PromptState { state: PromptState::Done, why: Some(_), .. } => self.note("done before"),
                Kind::PromptState { state: PromptState::Failed, .. } => self.note("prompt failed"),
                Kind::PromptState { state: PromptState::Cancelled, why: Some(why), .. }
                    if why.starts_with("the key") =>
                {
                    self.note("cancelled with its key");
                }
                Kind::PermissionClosed { how: Closed::Void, .. } => self.note("void"),
                Kind::PermissionClosed { how: Closed::Withdrawn, .. } => self.note("withdrawn"),
                Kind::ToolResult { outcome: Outcome::Unknown, .. } => self.note("unknown outcome"),
                _ => {}
            },
            _ => {}
        }
    }

    fn find(&self, session: &str, process: u64) -> Option<usize> {
        self.processes.iter().position(|p| *p.launch.session == *session && p.launch.process == process)
    }

    fn deliver(&mut self, peer: ConnToken, out: &Out) {
        let truths = self.truths.lock().unwrap();
        if let Some(device) = self.devices.iter_mut().find(|device| device.peer == Some(peer)) {
            device.takes(out, &truths);
        } else {
            assert!(matches!(out, Out::Answer { .. }), "a connection that is gone was sent {out:?}");
        }
    }

    fn send(&mut self, device: usize, request: Request) {
        let Some(caller) = self.devices[device].caller() else { return };
        self.devices[device].sends(&request);
        self.hub.request(&caller, request, self.now);
    }

    fn command(&mut self, device: usize, command: Command) {
        let id = self.devices[device].next_id();
        self.send(device, Request { id, command });
    }

    /// The store does all that it has been asked, or a part of it.
    fn commit(&mut self) {
        let lets = if !self.calm && self.rng.chance(50) { 1 + self.rng.below(4) } else { u64::MAX };
        self.store.lock().unwrap().lets = lets;
        self.hub.stored(self.now);
        self.drain();
        self.store.lock().unwrap().lets = if self.late { 0 } else { u64::MAX };
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        if self.hub.next_timeout().is_some_and(|at| at <= self.now.mono_ms) {
            self.hub.timeout(self.now);
        }
    }

    /// One process does a thing, or one of its lines is read, or its end is noticed. False if nothing was to be done.
    fn process(&mut self) -> bool {
        if let Some((session, process)) = self.spawn_failures.pop_front() {
            self.hub.spawn_failed(&session, process, "no such file", self.now);
            return true;
        }
        if self.processes.is_empty() {
            return false;
        }
        let index = self.rng.below(self.processes.len() as u64) as usize;
        let process = &mut self.processes[index];
        if self.rng.chance(60) || process.exit.is_some() {
            if let Some(event) = process.output.pop_front() {
                let launch = &process.launch;
                if self.trace {
                    eprintln!("{} {} {} {event:?}", self.now.mono_ms, launch.session, launch.process);
                }
                self.hub.agent(&launch.session, launch.process, event, self.now);
                return true;
            }
            if let Some(exit) = process.exit.clone() {
                if self.trace {
                    eprintln!("{} {} {} exit", self.now.mono_ms, process.launch.session, process.launch.process);
                }
                let gone = self.processes.remove(index).launch;
                self.hub.exited(&gone.session, gone.process, &exit, self.now);
                return true;
            }
        }
        process.step(&mut self.world, &mut self.rng, self.calm) || !process.output.is_empty()
    }

    fn session(&mut self) -> Option<Text> {
        let all: Vec<Text> = self.hub.summaries().into_iter().map(|summary| summary.session).collect();
        self.rng.pick(&all).cloned()
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            // As the shell does: pipes and devices are not read.
            0..=59 if self.hub.is_clogged() => self.note("clogged"),
            0..=44 => drop(self.process()),
            45..=59 => self.device(),
            60..=69 => self.commit(),
            70..=79 => {
                let ms = self.rng.below(2_000);
                self.pass(ms);
            }
            80 if self.rng.chance(30) => self.pass(700_000),
            81 => {
                let index = self.rng.below(self.processes.len().max(1) as u64) as usize;
                if self.rng.chance(30)
                    && let Some(process) = self.processes.get_mut(index)
                {
                    process.dies(&mut self.world, &mut self.rng);
                }
            }
            82 if self.rng.chance(50) => self.keys(),
            _ => self.pass(1),
        }
        self.drain();
    }

    /// Some key is removed, may do less, or is as it was. Connections are not closed by that: what they say comes all the
    /// same, as it does from those that have not heard of it yet.
    fn keys(&mut self) {
        let changed = 1 + self.rng.below(self.devices.len() as u64 - 1) as usize;
        self.roles[changed] = match self.rng.below(4) {
            0 => None,
            1 => Some(Role::Agent),
            2 => Some(Role::Watch),
            _ => Some(self.devices[changed].role),
        };
        let lines = self.roles.iter().enumerate().filter_map(|(n, role)| Some((n, (*role)?)));
        self.hub.keys(Arc::new(keys(lines)), self.now);
        let role = self.roles[changed];
        if role.is_none_or(|role| !role.allows(Role::Watch)) {
            self.devices[changed].loses_sight();
        }
        if role.is_none_or(|role| !role.allows(Role::Drive)) {
            self.check_nothing_waits_of(changed);
        }
    }

    /// Each prompt of this device's key runs already or has ended.
    fn check_nothing_waits_of(&mut self, device: usize) {
        let name = self.devices[device].name.clone();
        let mut waiting = BTreeSet::new();
        let truths = self.truths.lock().unwrap();
        for event in truths.values().filter(|truth| !truth.lost).flat_map(|truth| &truth.events) {
            match &event.kind {
                Kind::Prompt { prompt, .. } if event.by.as_ref().is_some_and(|by| by.device == name) => {
                    waiting.insert(prompt.clone());
                }
                Kind::PromptState { state: PromptState::Queued, .. } => {}
                Kind::PromptState { prompt, .. } => drop(waiting.remove(prompt)),
                _ => {}
            }
        }
        assert!(waiting.is_empty(), "{waiting:?} of {name} wait without a right to run");
    }

    fn device(&mut self) {
        let device = self.rng.below(self.devices.len() as u64) as usize;
        if self.devices[device].peer.is_none() {
            self.connections += 1;
            self.devices[device].connects(ConnToken::new(0, device as u32, self.connections));
            // As a real client does: what was not answered is sent again.
            for request in self.devices[device].unanswered() {
                self.send(device, request);
            }
            return;
        }
        let Some(session) = self.session() else {
            return self.command(device, create(None));
        };
        match self.rng.below(100) {
            0..=4 => self.disconnect(device),
            5..=14 => self.attach(device, session),
            15..=16 => self.command(device, Command::Detach { session }),
            17..=46 => self.prompt(device, session),
            47..=52 => {
                let cancel_queued = self.rng.chance(30);
                self.command(device, Command::Interrupt { session, cancel_queued });
            }
            53..=74 => self.decide(device, session),
            75..=82 => {
                let sent = self.devices[device].effects();
                if let Some(request) = self.rng.pick(&sent).cloned() {
                    self.send(device, request);
                }
            }
            83..=87 => self.flow(device),
            88 => {
                let now = self.rng.chance(50);
                self.command(device, Command::Stop { session, now });
            }
            89..=90 => self.command(device, create(Some("hello".into()))),
            91 => self.command(device, Command::List { follow: Some(true) }),
            _ => self.history(device, session),
        }
    }

    fn disconnect(&mut self, device: usize) {
        if let Some(peer) = self.devices[device].disconnects() {
            self.hub.disconnected(peer, self.now);
        }
    }

    fn attach(&mut self, device: usize, session: Text) {
        let from = self.devices[device].views.get(&session).filter(|view| !view.epoch.is_empty());
        let from = from.map(|view| Position { epoch: view.epoch.clone(), offset: view.expected });
        let from = from.filter(|_| self.rng.chance(60));
        let tail_bytes = self.rng.chance(30).then(|| self.rng.below(10_000));
        self.command(device, Command::Attach { session, from, tail_bytes });
    }

    fn history(&mut self, device: usize, session: Text) {
        let view = self.devices[device].views.get(&session).filter(|view| !view.epoch.is_empty());
        let Some((epoch, expected)) = view.map(|view| (view.epoch.clone(), view.expected)) else { return };
        let before = Position { epoch, offset: self.rng.below(expected + 1) };
        let bytes = self.rng.chance(60).then(|| self.rng.below(5_000));
        self.command(device, Command::History { session, before, bytes });
    }

    fn prompt(&mut self, device: usize, session: Text) {
        self.texts += 1;
        let text = format!("text {}", self.texts).into();
        let when = if self.rng.chance(15) { When::Now } else { When::Next };
        self.command(device, Command::Prompt { session, text, when });
    }

    fn decide(&mut self, device: usize, session: Text) {
        let known = self.devices[device].views.get(&session).map(|view| view.requests.clone()).unwrap_or_default();
        let newest = &known[known.len().saturating_sub(3)..];
        let Some((request, hash)) = self.rng.pick(newest).cloned() else { return };
        let decision = if self.rng.chance(70) { Decision::Allow } else { Decision::Deny };
        // Now and then what was on the screen was another request: the model of the CLI sees to it that nothing runs by that.
        let shown = if self.rng.chance(10) { self.rng.pick(newest).map(|(_, hash)| hash.clone()) } else { Some(hash) };
        let (message, input, answers) = (None, None, None);
        self.command(device, Command::Decide { session, request, decision, shown, message, input, answers });
    }

    fn flow(&mut self, device: usize) {
        let Some(peer) = self.devices[device].peer else { return };
        if self.devices[device].paused {
            self.devices[device].paused = false;
            self.hub.resumed(peer, self.now);
        } else {
            self.devices[device].pauses();
            self.hub.paused(peer);
        }
    }

    /// Ends all faults and goes on until everything has come to rest.
    fn rest(&mut self) {
        self.calm = true;
        (self.store.lock().unwrap().read_fails, self.store.lock().unwrap().append_fails) = (0, 0);
        for device in 0..self.devices.len() {
            if self.devices[device].paused {
                self.flow(device);
            }
            self.drain();
        }
        let (mut idle, mut interrupted) = (0, BTreeSet::new());
        for _ in 0..200_000 {
            let mut moved = self.process();
            self.drain();
            self.commit();
            for (session, request) in self.open_requests() {
                let (decision, message, input, answers) = (Decision::Allow, None, None, None);
                let shown = shown::hash::<serde_json::Value>(&input_of(&request).read().unwrap()).map(Text::from);
                self.as_admin(Command::Decide { session, request, decision, shown, message, input, answers });
                moved = true;
            }
            idle = if moved { 0 } else { idle + 1 };
            if idle < 60 {
                continue;
            }
            let summaries = self.hub.summaries();
            let stuck = |summary: &&Summary| {
                summary.state == State::Stuck && !interrupted.contains(&(summary.session.clone(), summary.since))
            };
            if let Some(stuck) = summaries.iter().find(stuck) {
                interrupted.insert((stuck.session.clone(), stuck.since));
                self.as_admin(Command::Interrupt { session: stuck.session.clone(), cancel_queued: false });
                continue;
            }
            let Some(at) = self.hub.next_timeout() else { return };
            self.now = self.now.plus_ms(at.saturating_sub(self.now.mono_ms));
            self.hub.timeout(self.now);
            self.drain();
            idle = 0;
        }
        panic!("it does not come to rest: {:?}", self.hub.summaries());
    }

    fn as_admin(&mut self, command: Command) {
        if self.devices[0].peer.is_none() {
            self.connections += 1;
            self.devices[0].connects(ConnToken::new(0, 0, self.connections));
        }
        self.command(0, command);
        self.drain();
        self.commit();
    }

    fn open_requests(&self) -> Vec<(Text, Text)> {
        let truths = self.truths.lock().unwrap();
        let mut found = Vec::new();
        for summary in self.hub.summaries().iter().filter(|summary| summary.waiting > 0) {
            let mut open = BTreeSet::new();
            for event in &truths[&summary.session].events {
                match &event.kind {
                    Kind::Permission(asked) => drop(open.insert(asked.request.clone())),
                    Kind::PermissionClosed { request, .. } => drop(open.remove(request)),
                    _ => {}
                }
            }
            found.extend(open.into_iter().map(|request| (summary.session.clone(), request)));
        }
        found
    }

    /// What must hold when all is at rest.
    fn check(&self) {
        let truths = self.truths.lock().unwrap();
        for summary in self.hub.summaries() {
            assert!(matches!(summary.state, State::Ready | State::Stopped | State::Failed), "{summary:?}");
            let truth = &truths[&summary.session];
            assert_eq!(truth.safe, truth.events.len() as u64);
            assert!(!truth.lost || matches!(summary.state, State::Stopped | State::Failed), "{summary:?}");
            for device in &self.devices {
                if let Some(view) = device.views.get(&summary.session).filter(|view| view.attached) {
                    assert_eq!(view.expected, truth.safe, "{} did not get everything", device.name);
                    assert!(!view.catching_up);
                }
            }
        }
        for truth in truths.values().filter(|truth| !truth.lost) {
            self.check_prompts(&truth.events);
            self.check_permissions(&truth.events);
        }
        self.devices.iter().for_each(Device::check_answered);
    }

    fn check_prompts(&self, log: &[Arc<Event>]) {
        let (mut texts, mut states) = (BTreeSet::new(), BTreeMap::<Text, Vec<PromptState>>::new());
        for event in log {
            match &event.kind {
                Kind::Prompt { prompt, text } => {
                    assert!(&**text == "hello" || texts.insert(text.clone()), "{text} was accepted twice");
                    states.insert(prompt.clone(), Vec::new());
                }
                Kind::PromptState { prompt, state, .. } => states.get_mut(prompt).unwrap().push(*state),
                _ => {}
            }
        }
        for (prompt, states) in states {
            let (begun, again) = self.world.begun.get(&prompt).copied().unwrap_or_default();
            assert!(begun <= 1, "{prompt} was run twice");
            assert!(again <= self.world.deaths + 1000, "{prompt} was run again without a death");
            let fate = self.world.fate(&prompt);
            match &states[..] {
                [PromptState::Queued, PromptState::Cancelled | PromptState::Failed] => {
                    assert_eq!(begun, 0, "{prompt} ran after it was dropped");
                }
                [PromptState::Queued, PromptState::Running, PromptState::Done] => {
                    let ended = matches!(fate, Some(Fate::Finished | Fate::Interrupted));
                    assert!(ended, "{prompt} is done and {fate:?}");
                }
                [PromptState::Queued, PromptState::Running, PromptState::Cancelled | PromptState::Failed] => {}
                other => panic!("{prompt} went through {other:?}"),
            }
        }
    }

    fn check_permissions(&self, log: &[Arc<Event>]) {
        let (mut decided, mut closed) = (BTreeMap::new(), BTreeMap::new());
        let mut asked = BTreeSet::new();
        for event in log {
            match &event.kind {
                Kind::Permission(open) => assert!(asked.insert(open.request.clone())),
                Kind::Decision { request, decision, .. } => {
                    assert!(!closed.contains_key(request));
                    let entry = (*decision, event.by.clone(), event.at);
                    assert!(decided.insert(request.clone(), entry).is_none(), "{request} was decided twice");
                }
                Kind::PermissionClosed { request, how } => {
                    assert_eq!(decided.contains_key(request), *how == Closed::Applied);
                    assert!(closed.insert(request.clone(), *how).is_none(), "{request} was closed twice");
                }
                _ => {}
            }
        }
        assert_eq!(asked, closed.keys().cloned().collect(), "every request is closed");
        let mut winners = BTreeSet::new();
        for (command, answer) in self.devices.iter().flat_map(Device::answers) {
            let Command::Decide { request, decision, shown, .. } = command else { continue };
            if !asked.contains(request) {
                continue;
            }
            match answer {
                Ok(Reply::Decided { .. }) => {
                    assert!(winners.insert(request.clone()), "{request} has two winners");
                    assert_eq!(decided[request].0, *decision);
                }
                Err(Error { code: Code::AlreadyDecided, details, .. }) => {
                    let Some(Details::Decided { by, decision, at }) = details else { panic!("who won?") };
                    let winner = decided.get(request);
                    assert_eq!(winner.map(|winner| winner.0), *decision);
                    assert_eq!(winner.and_then(|winner| winner.1.clone()), *by);
                    assert!(winner.is_none_or(|winner| winner.2 == *at));
                }
                Err(Error { code: Code::Forbidden | Code::KeyNotAuthorized | Code::NotFound, .. }) => {}
                Err(Error { code: Code::BadRequest, .. }) => {
                    let hash = shown::hash::<serde_json::Value>(&input_of(request).read().unwrap());
                    assert_ne!(shown.as_deref(), hash.as_deref(), "what was shown is what was asked");
                }
                other => panic!("{other:?} to a decision"),
            }
        }
    }
}

fn create(prompt: Option<Text>) -> Command {
    let (folder, title, model, mode) = (None, None, None, None);
    Command::Create { profile: "default".into(), folder, title, model, mode, prompt, past: Past::None }
}

/// What a sweep of seeds must have met.
const MET: [&str; 37] = [
    "ALREADY_DECIDED",
    "AGENT_UNAVAILABLE",
    "CANNOT_RESUME",
    "FORBIDDEN",
    "INTERNAL",
    "KEY_NOT_AUTHORIZED",
    "LIMIT",
    "busy",
    "cancelled with its key",
    "caught up",
    "clogged",
    "done before",
    "failed",
    "failed append",
    "failed read",
    "gave way",
    "kill",
    "late append",
    "late read",
    "launch",
    "logs out of order",
    "plain start",
    "prompt failed",
    "read out of order",
    "reads full",
    "ready",
    "rerun",
    "reset",
    "reset lost",
    "reset unread",
    "retrying",
    "starting",
    "stopped",
    "stuck",
    "unknown outcome",
    "void",
    "withdrawn",
];

fn play(seed: u64) -> BTreeSet<&'static str> {
    let step = Cell::new(0u64);
    let run = || {
        let mut simulation = Simulation::new(seed);
        let steps = 300 + simulation.rng.below(1200);
        for n in 0..steps {
            step.set(n);
            simulation.step();
        }
        step.set(steps);
        simulation.rest();
        simulation.check();
        let store = std::mem::take(&mut simulation.store.lock().unwrap().seen);
        simulation.seen.extend(store);
        simulation.seen
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        eprintln!("seed {seed}, step {}: play it again with AMP_SIM_SEED={seed}", step.get());
        resume_unwind(panic)
    })
}

#[test]
fn sessions_keep_their_promises() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("AMP_SIM_SEED") {
        play(seed);
        return;
    }
    let seeds = number("AMP_SIM_SEEDS").unwrap_or(256);
    let seen: BTreeSet<&str> = (0..seeds).flat_map(play).collect();
    let missed: Vec<_> = MET.iter().filter(|what| !seen.contains(*what)).collect();
    assert!(missed.is_empty() || seeds < 256, "the sweep never met {missed:?}");
}
