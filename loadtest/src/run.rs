//! A run from its beginning to its report: keys, threads, plan, readings of the system, progress.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    agent::{Agent, Random},
    cli::{Command, Options, Pattern},
    connect,
    engine::{self, Plan, Shared, Tally, World},
    floor::Floor,
    idle,
    measure::{self, Machine, Sample},
    report::{Checks, Idle, Latency, Report, Server, Setting},
    session,
    target::{Key, Speech, Target},
};

/// What has not come so long after the end is lost.
const DRAIN: Duration = Duration::from_secs(5);
/// Between the last connection and the first message.
const SETTLE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(20);
/// What an open loop may have in flight per sender, unless it is said.
const OPEN_DEPTH: u32 = 1024;

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// The run did not come about.
    Run(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Run(text)
    }
}

/// Runs a scenario; `None` where it only wrote its keys.
///
/// # Errors
/// The run could not be made; the error says why. Deliveries that went wrong are in the report.
pub fn run(command: &Command) -> Result<Option<Report>, Failure> {
    let Some(options) = command.options() else {
        return Err(Failure::Usage(format!("{} is no scenario", command.name())));
    };
    if let Some(path) = &options.keys_out {
        fs::write(path, keys(command, options)?).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(None);
    }
    once(command, options).map(Some)
}

/// The lines for a keys file that a scenario needs.
pub(crate) fn keys(command: &Command, options: &Options) -> Result<String, Failure> {
    Scenario::of(command)?.keys(options)
}

/// Runs a scenario once; `options` go before those that `command` carries.
pub(crate) fn once(command: &Command, options: &Options) -> Result<Report, Failure> {
    let scenario = Scenario::of(command)?;
    // Whether it rises is of no account until a connection finds no descriptor, and that is told then.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let (url, server, floor) = match (command, &options.url) {
        (_, Some(url)) => (url.clone(), options.server_pid, None),
        (Command::Floor(own), None) => {
            let program = std::env::current_exe().map_err(|error| error.to_string())?;
            let floor = Floor::start(&program, own.floor_cpu).map_err(|error| format!("the floor: {error}"))?;
            (floor.url().to_owned(), Some(floor.pid()), Some(floor))
        }
        _ => return Err(Failure::Usage(format!("{} needs --url (or --keys-out)", command.name()))),
    };
    let target = Target::parse(&url).map_err(Failure::Usage)?;
    if matches!(command, Command::Floor(_)) && target.speech != Speech::Floor {
        return Err(Failure::Usage("the scenario `floor` drives tcp://, not a relay".into()));
    }
    if options.cross_workers && (scenario.kind != Kind::Pattern(Pattern::Pairs) || target.speech != Speech::Amp) {
        return Err(Failure::Usage("--cross-workers is for pairs through a relay".into()));
    }
    if server.is_some() && Sample::take(server).server.is_none() {
        return Err(Failure::Usage(format!("there is no process {}", server.unwrap_or_default())));
    }
    let mut run = Run::new(scenario, options, target, server);
    let report = run.go()?;
    drop(floor);
    Ok(report)
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pattern(Pattern),
    Connect,
    Idle,
    Session,
}

#[derive(Clone, Debug)]
struct Scenario {
    name: String,
    kind: Kind,
    clients: u32,
    senders: u32,
}

impl Scenario {
    fn of(command: &Command) -> Result<Self, Failure> {
        let Some(options) = command.options() else { return Err(Failure::Usage("no scenario".into())) };
        let mut name = command.name().to_owned();
        let kind = match command {
            Command::Floor(floor) => {
                let _ = write!(name, " {:?}", floor.pattern);
                Kind::Pattern(floor.pattern)
            }
            Command::Echo(_) => Kind::Pattern(Pattern::Echo),
            Command::Pairs(_) => Kind::Pattern(Pattern::Pairs),
            Command::Scatter(_) => Kind::Pattern(Pattern::Scatter),
            Command::Fanout(_) => Kind::Pattern(Pattern::Fanout),
            Command::Connect(_) => Kind::Connect,
            Command::Idle(_) => Kind::Idle,
            Command::Session(_) => Kind::Session,
            Command::Table(_) | Command::FloorServer(_) => return Err(Failure::Usage("no scenario".into())),
        };
        let (connections, threads) = (options.connections, options.threads);
        let (clients, senders) = match kind {
            Kind::Pattern(Pattern::Pairs) => (2 * options.pairs, options.pairs),
            Kind::Pattern(Pattern::Fanout) => (connections.saturating_add(1), 1),
            _ => (connections, connections),
        };
        let groups = match kind {
            Kind::Pattern(Pattern::Fanout) if threads > 1 => {
                return Err(Failure::Usage("fanout has one sender, so one thread".into()));
            }
            Kind::Pattern(Pattern::Scatter) => clients / 2,
            Kind::Pattern(_) | Kind::Connect | Kind::Idle => senders,
            Kind::Session if threads > 1 => {
                return Err(Failure::Usage(
                    "session has a thread for each connection, --threads does not apply".into(),
                ));
            }
            Kind::Session => 1,
        };
        if threads > groups {
            return Err(Failure::Usage(format!("too few clients for {threads} threads")));
        }
        Ok(Self { name: name.to_lowercase(), kind, clients, senders })
    }

    fn keys(&self, options: &Options) -> Result<String, Failure> {
        // Prompting needs a session, and creating one needs this role.
        let role = if self.kind == Kind::Session { "spawn" } else { "agent" };
        let mut lines = String::new();
        for number in 0..u64::from(self.clients) {
            let line = Agent::new(options.seed, number).line(role, number);
            lines.push_str(&line.map_err(|error| error.to_string())?);
        }
        Ok(lines)
    }
}

struct Run<'a> {
    scenario: Scenario,
    options: &'a Options,
    target: Target,
    server: Option<u32>,
    shared: Arc<Shared>,
    bar: ProgressBar,
    steps: BTreeMap<&'static str, Latency>,
}

/// The two readings that the rates come from, and the deliveries at each.
struct Readings {
    before: (Sample, u64),
    after: (Sample, u64),
    idle: Option<Idle>,
}

type Thread<T> = JoinHandle<Result<T, String>>;

impl<'a> Run<'a> {
    fn new(scenario: Scenario, options: &'a Options, target: Target, server: Option<u32>) -> Self {
        let threads = if scenario.kind == Kind::Session { options.connections } else { options.threads };
        let shared = Arc::new(Shared::new(threads as usize));
        // It draws on standard error, and only if that is a terminal.
        let bar = ProgressBar::new(1);
        let style = ProgressStyle::with_template("{prefix:>10} [{bar:40}] {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Self { scenario, options, target, server, shared, bar, steps: BTreeMap::new() }
    }

    fn go(&mut self) -> Result<Report, Failure> {
        let mut machine = Machine::read();
        let memory = self.server.and_then(measure::memory_of);
        let (readings, tally) = match self.scenario.kind {
            Kind::Pattern(pattern) => self.worlds(pattern, memory)?,
            Kind::Idle => self.worlds(Pattern::Echo, memory)?,
            Kind::Connect => self.dials()?,
            Kind::Session => self.sessions()?,
        };
        self.bar.finish_and_clear();
        machine.load_after = measure::load_average();
        Ok(self.report(machine, readings, tally))
    }

    fn depth(&self) -> u32 {
        let closed = if self.options.rate.is_some() { OPEN_DEPTH } else { 1 };
        self.options.depth.unwrap_or(closed)
    }

    fn key(&self) -> Key {
        let mut random = Random::new(self.options.seed, u64::MAX);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random.next().to_le_bytes());
        Key::new(bytes)
    }

    /// What each thread drives.
    fn jobs(&self, pattern: Pattern) -> Vec<engine::Job> {
        let (options, threads) = (self.options, self.options.threads);
        let mut random = Random::new(options.seed, u64::MAX - 1);
        // No byte of it is zero, so that unmasking is work.
        let mask = (random.next() as u32 | 0x0101_0101).to_le_bytes();
        let run = (self.shared.unix_ms(0) as u32) ^ std::process::id().rotate_left(16);
        let mut first = 0;
        (0..threads)
            .map(|index| {
                let part = |whole: u32| whole / threads + u32::from(index < whole % threads);
                let senders = part(self.scenario.senders);
                let clients = match pattern {
                    Pattern::Pairs => 2 * senders,
                    Pattern::Fanout => self.scenario.clients,
                    _ => senders,
                };
                let share = f64::from(senders) / f64::from(self.scenario.senders);
                let job = engine::Job {
                    index: index as usize,
                    target: self.target.clone(),
                    key: self.key(),
                    mask,
                    pattern,
                    first,
                    clients,
                    senders,
                    depth: if self.scenario.kind == Kind::Idle { 1 } else { self.depth() },
                    size: options.size as usize,
                    ttl: u64::from(options.ttl),
                    sign: options.sign,
                    verify: options.verify,
                    cross_workers: options.cross_workers,
                    seed: options.seed,
                    rate: options.rate.map(|rate| f64::from(rate) * share),
                    run: run.wrapping_add(index),
                    cpu: options.cpu.map(|cpu| cpu + index as usize),
                };
                first += u64::from(clients);
                job
            })
            .collect()
    }

    fn worlds(&mut self, pattern: Pattern, memory: Option<u64>) -> Result<(Readings, Tally), Failure> {
        let mut threads = Vec::new();
        for job in self.jobs(pattern) {
            let shared = self.shared.clone();
            let world = World::new(job, shared).map_err(|error| error.to_string())?;
            threads.push(thread::spawn(move || world.run()));
        }
        self.gather(&mut threads)?;
        let readings = if self.scenario.kind == Kind::Idle { self.hold(memory) } else { self.measure() };
        let mut tally = Tally::new();
        for thread in threads {
            tally.add(joined(thread)?);
        }
        Ok((readings, tally))
    }

    fn dials(&mut self) -> Result<(Readings, Tally), Failure> {
        let threads = self.options.threads;
        let jobs = (0..threads).map(|index| connect::Job {
            index: index as usize,
            target: self.target.clone(),
            key: self.key(),
            at_a_time: self.options.connections / threads + u32::from(index < self.options.connections % threads),
            cpu: self.options.cpu.map(|cpu| cpu + index as usize),
        });
        let shared = &self.shared;
        let started: Vec<_> = jobs
            .map(|job| {
                let shared = shared.clone();
                thread::spawn(move || connect::run(&job, &shared))
            })
            .collect();
        let readings = self.measure();
        let mut tally = Tally::new();
        for thread in started {
            tally.add(joined(thread)?);
        }
        Ok((readings, tally))
    }

    fn sessions(&mut self) -> Result<(Readings, Tally), Failure> {
        let (ready, is_ready) = mpsc::channel();
        let mut threads = Vec::new();
        for index in 0..self.options.connections as usize {
            let job =
                session::Job { index, url: self.target.base(), seed: self.options.seed, text: self.prompt_text() };
            let (shared, ready) = (self.shared.clone(), ready.clone());
            threads.push(thread::spawn(move || session::run(&job, &shared, &ready)));
            // One at a time: creating a session starts a process.
            while is_ready.recv_timeout(LOOK).is_err() && !threads.iter().any(JoinHandle::is_finished) {}
        }
        self.gather(&mut threads)?;
        let readings = self.measure();
        let mut tally = Tally::new();
        let mut steps: BTreeMap<&'static str, hdrhistogram::Histogram<u64>> = BTreeMap::new();
        for thread in threads {
            let given = joined(thread)?;
            tally.add(given.tally);
            for (name, step) in given.steps {
                // The same bounds everywhere: this cannot fail.
                let _ = steps.entry(name).or_insert_with(engine::histogram).add(&step);
            }
        }
        self.steps = steps.into_iter().map(|(name, step)| (name, Latency::of(&step))).collect();
        Ok((readings, tally))
    }

    /// A prompt of `--size` bytes.
    fn prompt_text(&self) -> String {
        "Say hello. ".chars().cycle().take(self.options.size as usize).collect()
    }

    /// Waits until every connection is in; a thread that ends before has failed.
    fn gather<T>(&self, threads: &mut Vec<Thread<T>>) -> Result<(), Failure> {
        self.bar.set_prefix("connect");
        self.bar.set_length(u64::from(self.scenario.clients));
        loop {
            let ready = Shared::sum(&self.shared.ready);
            self.bar.set_position(ready);
            if let Some(at) = threads.iter().position(JoinHandle::is_finished) {
                let failed = threads.swap_remove(at);
                self.shared.stop();
                let why = joined(failed).err().unwrap_or_else(|| "a thread ended early".into());
                threads.drain(..).for_each(|thread| drop(thread.join()));
                self.bar.finish_and_clear();
                return Err(Failure::Run(why));
            }
            if ready >= u64::from(self.scenario.clients) {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
    }

    fn sample(&self) -> (Sample, u64) {
        (Sample::take(self.server), Shared::sum(&self.shared.delivered))
    }

    /// Sets the plan and takes the readings at its marks.
    fn measure(&self) -> Readings {
        let nanos = |duration: Duration| duration.as_nanos() as u64;
        let start = self.shared.now() + nanos(SETTLE);
        let count_from = start + nanos(Duration::from_secs_f64(self.options.warmup));
        let end = count_from + nanos(Duration::from_secs_f64(self.options.seconds));
        let plan = Plan { start, count_from, end, drain: end + nanos(DRAIN), once: false };
        // Nobody else sets it.
        let _ = self.shared.plan.set(plan);
        self.wait("warm-up", start, count_from);
        let before = self.sample();
        self.wait("measure", count_from, end);
        let after = self.sample();
        Readings { before, after, idle: None }
    }

    /// Holds the connections, then uses each once.
    fn hold(&self, memory: Option<u64>) -> Readings {
        let nanos = |seconds: f64| Duration::from_secs_f64(seconds).as_nanos() as u64;
        let start = self.shared.now();
        let count_from = start + nanos(self.options.warmup);
        self.wait("settle", start, count_from);
        let before = self.sample();
        let end = count_from + nanos(self.options.seconds);
        self.wait("hold", count_from, end);
        let after = self.sample();
        let connected = self.server.and_then(measure::memory_of);
        let idle = idle::finish(&self.shared, u64::from(self.scenario.clients), self.server, memory, connected);
        Readings { before, after, idle }
    }

    /// Sleeps to a mark and shows how far it is.
    fn wait(&self, name: &'static str, from: u64, to: u64) {
        let until = self.shared.instant(to);
        let (mut last, mut counted) = (Instant::now(), Shared::sum(&self.shared.delivered));
        self.bar.set_prefix(name);
        self.bar.set_length(to.saturating_sub(from) / 1_000_000);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(200)));
            let now = Shared::sum(&self.shared.delivered);
            let rate = (now - counted) as f64 / last.elapsed().as_secs_f64().max(1e-9);
            (last, counted) = (Instant::now(), now);
            self.bar.set_position(self.shared.now().saturating_sub(from) / 1_000_000);
            self.bar.set_message(format!("{rate:.0} a second"));
        }
    }

    fn message_bytes(&self) -> u64 {
        let pattern = match self.scenario.kind {
            Kind::Pattern(pattern) => pattern,
            Kind::Idle => Pattern::Echo,
            Kind::Connect => return 0,
            Kind::Session => return u64::from(self.options.size),
        };
        let Some(job) = self.jobs(pattern).into_iter().next() else { return 0 };
        engine::message_bytes(&job, self.shared.unix_ms(0)) as u64
    }

    fn report(&mut self, machine: Machine, readings: Readings, tally: Tally) -> Report {
        let Readings { before: (before, counted), after: (after, counted_after), idle } = readings;
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let delivered = counted_after - counted;
        let server_cpu = after.server.zip(before.server).map(|(after, before)| after.since(&before));
        let own_cpu = after.own.zip(before.own).map(|(after, before)| after.since(&before));
        let each = |cpu_seconds: f64| cpu_seconds * 1e6 / (delivered.max(1) as f64);
        let server = server_cpu.zip(self.server).map(|(cpu, pid)| Server {
            pid,
            cpu,
            us_per_message: each(cpu.total),
            user_us_per_message: each(cpu.user),
            cpu_share: cpu.total / seconds,
        });
        // What the server used is only known apart from the rest where its process is.
        let other = after.machine.zip(before.machine).zip(own_cpu).zip(server_cpu);
        let other = other
            .map(|(((after, before), own), server)| ((after - before - own.total - server.total) / seconds).max(0.0));
        let options = self.options;
        let threads = if self.scenario.kind == Kind::Session { options.connections } else { options.threads };
        let setting = Setting {
            connections: u64::from(self.scenario.clients),
            senders: u64::from(self.scenario.senders),
            depth: self.depth(),
            size: options.size,
            message_bytes: self.message_bytes(),
            rate: options.rate,
            seconds: options.seconds,
            warmup: options.warmup,
            threads,
            seed: options.seed,
        };
        let mut report = Report {
            scenario: self.scenario.name.clone(),
            url: self.target.to_string(),
            setting,
            machine,
            measured_seconds: seconds,
            delivered,
            per_second: delivered as f64 / seconds,
            latency: Latency::of(&tally.latency),
            steps: std::mem::take(&mut self.steps),
            server,
            own_cpu_share: own_cpu.map(|cpu| cpu.total / seconds / f64::from(threads)),
            other_cpu_share: other,
            idle,
            checks: checks(tally),
            warnings: Vec::new(),
        };
        report.warn(self.scenario.kind != Kind::Idle);
        report
    }
}

fn checks(tally: Tally) -> Checks {
    Checks {
        sent: tally.sent,
        delivered: tally.delivered,
        lost: tally.lost,
        doubled: tally.doubled,
        misdirected: tally.misdirected,
        foreign: tally.foreign,
        disordered: tally.disordered,
        unsent: tally.unsent,
        dead: tally.dead,
        refused: tally.refused,
        problems: tally.problems,
    }
}

fn joined<T>(thread: Thread<T>) -> Result<T, String> {
    thread.join().unwrap_or_else(|_| Err("a thread of the harness panicked".into()))
}
