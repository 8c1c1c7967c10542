//! A run from its beginning to its report: keys, threads, plan, readings of the system, progress.

mod hold;
mod stall;
mod storm;

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
    failure::Failure,
    measure::{self, Machine, Memory, Sample},
    report::{self, Checks, Idle, Latency, Report, Setting, stalled::Stalled},
    servers, session,
    target::{Key, Speech, Target},
};

/// What has not come so long after the end is lost.
const DRAIN: Duration = Duration::from_secs(5);
/// Between the last connection and the first message.
const SETTLE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(20);
/// What an open loop may have in flight per sender, unless it is said.
const OPEN_DEPTH: u32 = 1024;
/// Bytes of payload where nothing is said.
const SIZE: u32 = 128;
const SIZE_IDLE: u32 = 4096;
/// Agents that send to the readers which stall.
const FLOOD_SENDERS: u32 = 8;

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
    Scenario::of(command, options)?.keys(options)
}

/// Runs a scenario once; `options` go before those that `command` carries.
pub(crate) fn once(command: &Command, options: &Options) -> Result<Report, Failure> {
    let (mut run, _server) = prepare(command, options)?;
    run.go()
}

/// Runs it until nothing else on the machine disturbs it, at most so often; the last one counts.
pub(crate) fn quiet(attempts: u32, mut once: impl FnMut() -> Result<Report, Failure>) -> Result<Report, Failure> {
    let mut report = once()?;
    for _ in 1..attempts {
        if !report.is_disturbed() {
            break;
        }
        report = once()?;
    }
    Ok(report)
}

/// Runs healthy pairs beside readers that stall.
pub(crate) fn stalled(command: &Command, options: &Options) -> Result<Stalled, Failure> {
    let (mut run, _server) = prepare(command, options)?;
    run.stall()
}

/// A run with its server, which is started here unless it has a URL.
fn prepare<'a>(command: &Command, options: &'a Options) -> Result<(Run<'a>, Option<servers::Server>), Failure> {
    let scenario = Scenario::of(command, options)?;
    // Whether it rises is of no account until a connection finds no descriptor, and that is told then.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let cpus = (!options.server_cpu.is_empty()).then_some(&options.server_cpu[..]);
    let (url, server, own) = match (command, &options.url, &options.relay) {
        (_, Some(url), _) => (url.clone(), options.server_pid, None),
        (Command::Baseline(_), None, _) => {
            let baseline = servers::Server::baseline(cpus)?;
            (baseline.url().to_owned(), Some(baseline.pid()), Some(baseline))
        }
        (_, None, Some(program)) => {
            let relay = servers::Server::relay(program, &scenario.keys(options)?, options.workers, cpus)?;
            (relay.url().to_owned(), Some(relay.pid()), Some(relay))
        }
        _ => return Err(Failure::Usage(format!("{} needs --url or --relay (or --keys-out)", command.name()))),
    };
    let target = Target::parse(&url).map_err(Failure::Usage)?;
    if matches!(command, Command::Baseline(_)) && target.speech != Speech::Baseline {
        return Err(Failure::Usage("the scenario `baseline` drives tcp://, not a relay".into()));
    }
    if options.cross_workers && (scenario.kind != Kind::Pattern(Pattern::Pairs) || target.speech != Speech::Amp) {
        return Err(Failure::Usage("--cross-workers is for pairs through a relay".into()));
    }
    if server.is_some() && Sample::take(server).server.is_none() {
        return Err(Failure::Usage(format!("there is no process {}", server.unwrap_or_default())));
    }
    Ok((Run::new(scenario, options, target, server), own))
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pattern(Pattern),
    Connect,
    Idle,
    Session,
    /// All connections end at once and come back.
    Storm,
    /// Pairs, beside them senders that flood readers, which stall for a time.
    Stalled,
}

#[derive(Clone, Debug)]
struct Scenario {
    name: String,
    kind: Kind,
    clients: u32,
    senders: u32,
}

impl Scenario {
    fn of(command: &Command, options: &Options) -> Result<Self, Failure> {
        let mut name = command.name().to_owned();
        let kind = match command {
            Command::Baseline(baseline) => {
                let _ = write!(name, " {:?}", baseline.pattern);
                Kind::Pattern(baseline.pattern)
            }
            Command::Echo(_) => Kind::Pattern(Pattern::Echo),
            Command::Pairs(_) => Kind::Pattern(Pattern::Pairs),
            Command::Scatter(_) => Kind::Pattern(Pattern::Scatter),
            Command::Fanout(_) => Kind::Pattern(Pattern::Fanout),
            Command::Connect(_) => Kind::Connect,
            Command::Idle(_) => Kind::Idle,
            Command::Session(_) => Kind::Session,
            Command::Storm(_) => Kind::Storm,
            Command::Stalled(_) => Kind::Stalled,
            Command::Curve(own) => Kind::Pattern(own.pattern),
            Command::Table(_) | Command::Report(_) | Command::BaselineServer(_) => {
                return Err(Failure::Usage("no scenario".into()));
            }
        };
        let (connections, threads) = (options.connections, options.threads);
        let (clients, senders) = match kind {
            Kind::Pattern(Pattern::Pairs) => (2 * options.pairs, options.pairs),
            Kind::Pattern(Pattern::Fanout) => (connections.saturating_add(1), 1),
            Kind::Stalled => (2 * options.pairs + FLOOD_SENDERS + connections, options.pairs + FLOOD_SENDERS),
            _ => (connections, connections),
        };
        let groups = match kind {
            Kind::Pattern(Pattern::Fanout) if threads > 1 => {
                return Err(Failure::Usage("fanout has one sender, so one thread".into()));
            }
            Kind::Pattern(Pattern::Scatter) => clients / 2,
            Kind::Stalled if threads > 1 => {
                return Err(Failure::Usage("stalled has a thread for the pairs and one for the rest".into()));
            }
            Kind::Pattern(_) | Kind::Connect | Kind::Idle | Kind::Storm | Kind::Stalled => senders,
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
        let threads = match scenario.kind {
            Kind::Session => options.connections,
            Kind::Stalled => 2,
            _ => options.threads,
        };
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
            Kind::Storm => self.storm()?,
            Kind::Stalled => return Err(Failure::Usage("stalled gives no plain report".into())),
        };
        self.bar.finish_and_clear();
        machine.load_after = measure::load_average();
        Ok(self.report(machine, readings, tally))
    }

    fn depth(&self) -> u32 {
        let closed = if self.options.rate.is_some() { OPEN_DEPTH } else { 1 };
        self.options.depth.unwrap_or(closed)
    }

    fn size(&self) -> u32 {
        self.options.size.unwrap_or(if self.scenario.kind == Kind::Idle { SIZE_IDLE } else { SIZE })
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
                    size: self.size() as usize,
                    ttl: u64::from(options.ttl),
                    sign: options.sign,
                    verify: options.verify,
                    cross_workers: options.cross_workers,
                    is_storm: self.scenario.kind == Kind::Storm,
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

    fn worlds(&mut self, pattern: Pattern, memory: Option<Memory>) -> Result<(Readings, Tally), Failure> {
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
        "Say hello. ".chars().cycle().take(self.size() as usize).collect()
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
        let plan = Plan { start, count_from, end, drain: end + nanos(DRAIN), ..Plan::default() };
        // No other code sets it.
        let _ = self.shared.plan.set(plan);
        self.wait("warm-up", start, count_from);
        let before = self.sample();
        self.wait("measure", count_from, end);
        let after = self.sample();
        Readings { before, after, idle: None }
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
            Kind::Stalled => Pattern::Pairs,
            Kind::Connect | Kind::Storm => return 0,
            Kind::Session => return u64::from(self.size()),
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
        let server = server_cpu.zip(self.server).map(|(cpu, pid)| report::Server::new(pid, cpu, delivered, seconds));
        let other = after.other_since(&before).map(|other| other / seconds);
        let options = self.options;
        let threads = if self.scenario.kind == Kind::Session { options.connections } else { options.threads };
        let setting = Setting {
            connections: u64::from(self.scenario.clients),
            senders: u64::from(self.scenario.senders),
            depth: self.depth(),
            size: self.size(),
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
            percentiles: report::percentiles(&tally.latency),
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
