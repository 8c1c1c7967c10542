//! One thread of load: an event loop that reads each readable connection once a turn and writes each touched one once.
//!
//! A world's clients talk among themselves, so it shares nothing with other threads but the clock and a few counters. It
//! reads the clock once for each read, not for each message.

mod conn;
mod flood;
mod handshake;
mod place;
mod shared;

use std::{io, os::fd::AsFd as _, os::fd::AsRawFd as _, sync::Arc, time::Duration};

use amp_relay::wire::{
    amp::{BuildError, Frame, To, Type, body::ErrorBody, parse},
    ws::{self, Limits, Message, Step},
};
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use self::conn::{Conn, Got, State};
pub(crate) use self::shared::{Counter, Plan, Shared, Tally, histogram};
use crate::{
    agent::{Agent, Random},
    cli::Pattern,
    delivery_check::{DeliveryCheck, Shape, Verdict},
    measure,
    target::{Key, Speech, Target},
    template::{self, Layout, Make, Stamp, Template},
};

const BUFFER_BYTES: usize = 512 * 1024;
const EVENTS: usize = 4096;
const TIMER: Token = Token(usize::MAX);
/// How long a world sleeps at most: it looks for the plan, and for the end, so often.
const WAIT: Duration = Duration::from_millis(10);
/// Open loop: the timer does not tick more often.
const TICK_NANOS_MIN: u64 = 20_000;
/// No connection got in for so long: the run fails.
const STALLED_NANOS: u64 = 30_000_000_000;
/// Refused messages are replaced by others until there are so many of them.
const REFUSED_MAX: u64 = 10_000;

/// What a world does.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) index: usize,
    pub(crate) target: Target,
    pub(crate) key: Key,
    pub(crate) mask: [u8; 4],
    pub(crate) pattern: Pattern,
    /// Number of its first agent.
    pub(crate) first: u64,
    pub(crate) clients: u32,
    pub(crate) senders: u32,
    pub(crate) depth: u32,
    pub(crate) size: usize,
    pub(crate) ttl: u64,
    pub(crate) sign: bool,
    pub(crate) verify: bool,
    /// Receivers are dialled until they are on another worker than their sender.
    pub(crate) cross_workers: bool,
    /// At the start all connections end, and come back.
    pub(crate) is_storm: bool,
    pub(crate) seed: u64,
    /// Messages a second of this world.
    pub(crate) rate: Option<f64>,
    /// Tells this run's messages from others'.
    pub(crate) run: u32,
    pub(crate) cpu: Option<usize>,
}

impl Job {
    /// A client's number at the baseline.
    fn number(&self, at: usize) -> u32 {
        (self.first + at as u64) as u32
    }
}

/// Bytes of one of its messages, without WebSocket's header.
pub(crate) fn message_bytes(job: &Job, now_ms: u64) -> usize {
    let agents: Vec<_> = (0..job.clients).map(|at| Agent::new(job.seed, job.first + u64::from(at))).collect();
    let templates = make_templates(job, &agents, 1, now_ms).unwrap_or_default();
    templates.first().map_or(0, |template| template.layout().len)
}

fn make_templates(job: &Job, agents: &[Agent], senders: u32, now_ms: u64) -> Result<Vec<Template>, BuildError> {
    let dids: Vec<_> = agents.iter().map(Agent::did).collect();
    (0..senders as usize)
        .map(|sender| {
            let (to, number) = match job.pattern {
                Pattern::Echo => (To::One(dids[sender]), job.number(sender)),
                Pattern::Pairs => {
                    let receiver = sender + job.senders as usize;
                    (To::One(dids[receiver]), job.number(receiver))
                }
                // Each message has its own receiver; this one only has the right length.
                Pattern::Scatter | Pattern::Flood => (To::One(dids[sender]), 0),
                Pattern::Fanout => (To::Many(&dids[1..]), Stamp::ALL),
            };
            let Job { size, ttl, sign, mask: key, .. } = *job;
            let make = Make { from: &agents[sender], to, size, ttl, sign, key, now_ms };
            match job.target.speech {
                Speech::Amp => make.amp(),
                Speech::Baseline => make.baseline(number),
            }
        })
        .collect()
}

/// Where a scattering sender goes next.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    at: u32,
    step: u32,
}

/// Where the clients are, among the workers of the relay.
#[derive(Debug, Default)]
struct Places {
    /// Worker of each client that is in its place.
    workers: Vec<usize>,
    /// Agents of each worker when all of those were in.
    agents: Vec<u64>,
    dials: u32,
}

/// One thread of load.
pub(crate) struct World {
    job: Job,
    shared: Arc<Shared>,
    poll: Poll,
    agents: Vec<Agent>,
    conns: Vec<Conn>,
    opening: u32,
    in_count: u32,
    progress_at: u64,
    templates: Vec<Template>,
    layout: Option<Layout>,
    cursors: Vec<Cursor>,
    deliveries: DeliveryCheck,
    limits: Limits,
    buffer: Vec<u8>,
    /// Connections that have something to send.
    touched: Vec<usize>,
    /// Connections to read again: the last read filled the buffer.
    again: Vec<usize>,
    now: u64,
    plan: Option<Plan>,
    /// Messages of the open loop's schedule that are due or sent.
    scheduled: u64,
    refused: u64,
    random: Random,
    tally: Tally,
    timer: Option<std::os::fd::OwnedFd>,
    /// The readers were asleep at the last turn.
    was_stalling: bool,
    places: Places,
}

impl World {
    /// A world that is not connected yet.
    pub(crate) fn new(job: Job, shared: Arc<Shared>) -> io::Result<Self> {
        let agents: Vec<_> = (0..job.clients).map(|at| Agent::new(job.seed, job.first + u64::from(at))).collect();
        let shape = match job.pattern {
            Pattern::Echo | Pattern::Pairs | Pattern::Flood => Shape::Single,
            Pattern::Scatter => Shape::Spread(job.verify || job.clients <= 128),
            Pattern::Fanout => Shape::All(job.clients - 1),
        };
        let message_max = (job.size + 1024 + 64 * job.clients as usize).max(1 << 20);
        Ok(Self {
            poll: Poll::new()?,
            conns: Vec::with_capacity(agents.len()),
            opening: 0,
            in_count: 0,
            progress_at: 0,
            templates: Vec::new(),
            layout: None,
            cursors: cursors(&job),
            deliveries: DeliveryCheck::new(job.run, shape, job.senders, job.depth),
            limits: Limits { message_max, frame_max: message_max },
            buffer: vec![0; BUFFER_BYTES],
            touched: Vec::new(),
            again: Vec::new(),
            now: 0,
            plan: None,
            scheduled: 0,
            refused: 0,
            random: Random::new(u64::from(job.run), shared.unix_ms(shared.now()).rotate_left(20) ^ job.index as u64),
            tally: Tally::new(),
            timer: None,
            was_stalling: false,
            places: Places::default(),
            agents,
            job,
            shared,
        })
    }

    /// Connects, waits for the plan, carries it out.
    ///
    /// # Errors
    /// In words: a connection did not get in, or the system failed us.
    pub(crate) fn run(mut self) -> Result<Tally, String> {
        if let Some(cpu) = self.job.cpu {
            measure::pin(cpu)?;
        }
        let templates = make_templates(&self.job, &self.agents, self.job.senders, self.shared.unix_ms(0));
        self.templates = templates.map_err(|error| error.to_string())?;
        self.layout = self.templates.first().map(Template::layout);
        let mut events = Events::with_capacity(EVENTS);
        self.progress_at = self.shared.now();
        while !self.is_over() {
            if self.shared.is_stopped() {
                return Err("stopped".into());
            }
            let wait = if self.again.is_empty() { WAIT } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.to_string()),
                _ => {}
            }
            self.now = self.shared.now();
            let again = std::mem::take(&mut self.again);
            for event in &events {
                let Token(at) = event.token();
                if at < self.conns.len() {
                    self.event(at, event.is_readable(), event.is_writable())?;
                }
            }
            for at in again {
                self.read(at)?;
            }
            self.go_on()?;
            self.flush()?;
            self.shared.delivered[self.job.index].set(self.tally.delivered);
        }
        Ok(self.finish())
    }

    fn event(&mut self, at: usize, readable: bool, writable: bool) -> Result<(), String> {
        if writable {
            if self.conns[at].state == State::Connecting
                && let Err(error) = self.connected(at)
            {
                return self.died(at, error.to_string());
            }
            self.touch(at);
        }
        if readable { self.read(at) } else { Ok(()) }
    }

    fn touch(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        if !conn.is_touched {
            conn.is_touched = true;
            self.touched.push(at);
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        let mut touched = std::mem::take(&mut self.touched);
        for at in touched.drain(..) {
            let conn = &mut self.conns[at];
            conn.is_touched = false;
            if matches!(conn.state, State::Connecting | State::Dead) {
                continue;
            }
            if let Err(error) = conn.flush(self.templates.get(at)) {
                self.died(at, error.to_string())?;
            }
        }
        // Only its memory: nothing is touched while it is flushed.
        self.touched = touched;
        Ok(())
    }

    fn read(&mut self, at: usize) -> Result<(), String> {
        if matches!(self.conns[at].state, State::Connecting | State::Dead) || self.is_stalled(at) {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match self.conns[at].read(&mut buffer, BUFFER_BYTES / 2) {
            Ok(Got::Nothing) => Ok(()),
            Ok(Got::Bytes(count, more)) => {
                if more {
                    self.again.push(at);
                }
                self.now = self.shared.now();
                self.take(at, &mut buffer[..count]).map(|taken| self.conns[at].keep(&buffer[taken..count]))
            }
            Err(error) => Err(error.to_string()),
        };
        self.buffer = buffer;
        result.or_else(|why| self.died(at, why))
    }

    /// Takes what is whole off the front, and says how much that was.
    fn take(&mut self, at: usize, bytes: &mut [u8]) -> Result<usize, String> {
        if self.job.target.speech == Speech::Baseline {
            return self.take_baseline(at, bytes);
        }
        let mut taken = 0;
        if self.conns[at].state == State::Upgrading {
            match self.upgraded(at, bytes)? {
                Some(consumed) => taken = consumed,
                None => return Ok(0),
            }
        }
        // The decoder is away while it lends the message.
        let mut decoder = std::mem::replace(&mut self.conns[at].decoder, ws::Decoder::new(ws::Role::Client));
        let result = loop {
            let (consumed, message) = match decoder.decode(&self.limits, &mut bytes[taken..]) {
                Ok(Step::Need(_)) => break Ok(taken),
                // Compression is never offered, so the decoder refuses what is compressed.
                Ok(Step::Fragment(consumed) | Step::Deflated { consumed, .. }) => (consumed, None),
                Ok(Step::Message { consumed, message }) => (consumed, Some(message)),
                Err(fault) => break Err(format!("the server breaks the WebSocket protocol: {}", fault.reason)),
            };
            taken += consumed;
            let judged = match message {
                Some(Message::Binary(message)) if self.conns[at].state == State::Ready => {
                    self.message(at, message);
                    Ok(())
                }
                Some(Message::Binary(message)) => self.greeted(at, message),
                Some(other) => self.control(at, other),
                None => Ok(()),
            };
            if let Err(why) = judged {
                break Err(why);
            }
        };
        self.conns[at].decoder = decoder;
        result
    }

    fn take_baseline(&mut self, at: usize, bytes: &[u8]) -> Result<usize, String> {
        let mut taken = 0;
        while let Some((len, _)) = bytes[taken..].split_first_chunk::<4>() {
            let len = u32::from_le_bytes(*len) as usize;
            if !(8..=self.limits.message_max).contains(&len) {
                return Err("the baseline sent nonsense".into());
            }
            let Some(frame) = bytes.get(taken..taken + len) else { break };
            match self.conns[at].state {
                State::Ready => self.message(at, frame),
                State::Upgrading => self.greet_baseline(at),
                _ => self.ready(at),
            }
            taken += len;
        }
        Ok(taken)
    }

    /// A message on a connection that is in: one of ours as a rule.
    #[inline]
    fn message(&mut self, at: usize, bytes: &[u8]) {
        let Some(layout) = self.layout.filter(|layout| layout.len == bytes.len()) else {
            return self.odd(at, bytes);
        };
        if self.job.pattern == Pattern::Flood {
            self.tally.delivered += 1;
            return;
        }
        let Some(stamp) = bytes[layout.stamp_at..].first_chunk().map(Stamp::read) else {
            return self.odd(at, bytes);
        };
        if let Some(from_at) = layout.from_at {
            let did = self.agents.get(stamp.sender as usize).map(|agent| agent.did().as_bytes());
            if did.is_none_or(|did| bytes.get(from_at..from_at + did.len()) != Some(did)) {
                return self.odd(at, bytes);
            }
        }
        match self.deliveries.arrive(at as u32, &stamp) {
            Verdict::Right { intended, settled, disordered } => {
                self.tally.delivered += 1;
                self.tally.disordered += u64::from(disordered);
                if let Some(plan) = self.plan.as_ref().filter(|plan| (plan.count_from..plan.end).contains(&intended)) {
                    let waited = self.now.saturating_sub(intended);
                    self.tally.latency.saturating_record(waited);
                    if let Some(part) = plan.part(intended).and_then(|part| self.tally.parts.get_mut(part)) {
                        part.saturating_record(waited);
                    }
                }
                if settled {
                    self.credit(stamp.sender);
                }
            }
            Verdict::Doubled => self.tally.doubled += 1,
            Verdict::Misdirected => self.tally.misdirected += 1,
            Verdict::Foreign => self.tally.foreign += 1,
        }
    }

    /// A message that is none of ours: an error of the relay, an acknowledgement, or something that should not be here.
    fn odd(&mut self, at: usize, bytes: &[u8]) {
        let Ok(Frame::Envelope(message)) = parse(bytes) else {
            self.tally.foreign += 1;
            return self.tally.problem(format!("client {at} got {} bytes that are no AMP message", bytes.len()));
        };
        match message.header.typ {
            Type::ERROR => {
                *self.tally.refused.entry(error_text(message.body.unwrap_or_default())).or_default() += 1;
                self.refused += 1;
                let of = message.header.reply_to.and_then(template::read_id);
                if let Some((sender, sequence)) = of
                    && self.deliveries.refuse(sender, sequence)
                    && self.refused < REFUSED_MAX
                {
                    self.credit(sender);
                }
            }
            Type::ACK => {}
            Type(typ) => {
                self.tally.foreign += 1;
                let from = message.header.from;
                self.tally.problem(format!("client {at} got a message of type {typ:#04x} from {from}"));
            }
        }
    }

    /// A sender has room for another message.
    #[inline]
    fn credit(&mut self, sender: u32) {
        let Some(plan) = self.plan else { return };
        if self.job.rate.is_some() {
            if let Some(intended) = self.deliveries.put_off_first(sender) {
                self.send(sender, intended);
            }
        } else if self.now < plan.end && !plan.once {
            self.send(sender, self.now);
        }
    }

    /// Sends one message, or puts its time off until there is room.
    #[inline]
    fn send(&mut self, sender: u32, intended: u64) {
        let at = sender as usize;
        if self.conns[at].state != State::Ready {
            return self.deliveries.put_off(sender, intended);
        }
        let receiver = match self.job.pattern {
            Pattern::Echo => sender,
            Pattern::Pairs => sender + self.job.senders,
            Pattern::Scatter => {
                let place = self.cursors[at].at;
                place + u32::from(place >= sender)
            }
            Pattern::Fanout | Pattern::Flood => Stamp::ALL,
        };
        let Some(stamp) = self.deliveries.send(sender, receiver, intended) else {
            return self.deliveries.put_off(sender, intended);
        };
        let number = self.job.number(receiver as usize).to_le_bytes();
        let to = match (self.job.pattern, self.job.target.speech) {
            (Pattern::Scatter, Speech::Amp) => Some(self.agents[receiver as usize].did().as_bytes()),
            (Pattern::Scatter, Speech::Baseline) => Some(&number[..]),
            _ => None,
        };
        let now_ms = self.shared.unix_ms(self.now);
        self.templates[at].append(self.conns[at].outbox.heads(), &stamp, to, now_ms);
        if let Some(cursor) = self.cursors.get_mut(at) {
            let others = self.job.clients - 1;
            cursor.at += cursor.step;
            cursor.at -= if cursor.at >= others { others } else { 0 };
        }
        self.touch(at);
    }

    /// What is due without an event: connections, the start, the schedule.
    fn go_on(&mut self) -> Result<(), String> {
        if self.job.cross_workers && self.plan.is_none() {
            self.place()?;
        }
        if self.job.is_storm && self.plan.is_some() {
            return self.open_more();
        }
        if (self.in_count as usize) < self.agents.len() && self.plan.is_none() {
            if self.now.saturating_sub(self.progress_at) > STALLED_NANOS {
                return Err(format!("{} of {} clients got in, then none for 30 s", self.in_count, self.agents.len()));
            }
            return self.open_more();
        }
        if self.plan.is_none()
            && let Some(plan) = self.shared.plan.get().copied()
            // A storm breaks loose for all at one time, from which on its clients are timed.
            && !(self.job.is_storm && self.now < plan.start)
        {
            self.plan = Some(plan);
            self.start(&plan).map_err(|error| format!("the timer: {error}"))?;
        }
        if self.job.pattern == Pattern::Flood {
            return self.flood();
        }
        if let (Some(plan), Some(rate)) = (self.plan, self.job.rate) {
            let until = self.now.min(plan.end);
            loop {
                let due = plan.start + (self.scheduled as f64 * 1e9 / rate) as u64;
                if due >= until || plan.once {
                    break;
                }
                let sender = (self.scheduled % u64::from(self.job.senders)) as u32;
                self.scheduled += 1;
                self.send(sender, due);
            }
        }
        Ok(())
    }

    fn start(&mut self, plan: &Plan) -> io::Result<()> {
        if plan.resume_from > 0 {
            self.tally.parts.resize_with(Plan::PARTS, histogram);
        }
        if self.job.is_storm {
            self.end_all();
            return Ok(());
        }
        if let Some(rate) = self.job.rate.filter(|_| !plan.once) {
            let nanos = ((1e9 / rate) as u64).max(TICK_NANOS_MIN);
            let tick = Timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as _ };
            let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
            let ticks = Itimerspec { it_interval: tick, it_value: tick };
            rustix::time::timerfd_settime(timer.as_fd(), TimerfdTimerFlags::empty(), &ticks)?;
            // Registered for edges, every tick is one: it need not be read.
            self.poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
            self.timer = Some(timer);
            return Ok(());
        }
        let each = if plan.once { 1 } else { self.job.depth };
        for _ in 0..each {
            (0..self.job.senders).for_each(|sender| self.send(sender, self.now));
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let Some(plan) = self.plan else { return false };
        if plan.once {
            return self.shared.is_released();
        }
        if self.job.is_storm {
            return self.in_count as usize + self.tally.dead as usize >= self.agents.len() || self.now >= plan.drain;
        }
        self.now >= plan.end && (self.now >= plan.drain || self.deliveries.is_settled())
    }

    /// A connection is over: before the start that ends the run, later it is counted.
    fn died(&mut self, at: usize, why: String) -> Result<(), String> {
        let number = self.job.first + at as u64;
        if self.plan.is_none() {
            return Err(format!("client {number} of {}: {why}", self.job.target));
        }
        self.conns[at].state = State::Dead;
        if self.job.pattern == Pattern::Flood {
            *self.tally.ended.entry(why).or_default() += 1;
            return Ok(());
        }
        self.tally.dead += 1;
        self.tally.problem(format!("client {number}: {why}"));
        Ok(())
    }

    fn finish(mut self) -> Tally {
        for intended in self.deliveries.never_sent() {
            self.tally.unsent += 1;
            self.tally.latency.saturating_record(self.now.saturating_sub(intended));
        }
        self.tally.lost = self.deliveries.missing();
        self.tally.sent += self.deliveries.sent();
        if self.job.target.speech == Speech::Amp {
            let goodbye = ws::client_close_frame(amp_relay::base::CloseCode::NORMAL, "", self.job.mask);
            for (at, conn) in self.conns.iter_mut().enumerate().filter(|(_, conn)| conn.state == State::Ready) {
                conn.outbox.control(&goodbye);
                // It is not waited for: a server that does not take it sees the connection end.
                let _ = conn.flush(self.templates.get(at));
            }
        }
        self.tally
    }
}

/// Code and message of an ERROR.
fn error_text(body: &[u8]) -> String {
    match ErrorBody::read(body) {
        Ok(error) => format!("{} {}", error.code.0, error.message),
        Err(error) => error.to_string(),
    }
}

/// Each sender's own order of the others: a seeded start and a seeded step that leads to every one of them.
fn cursors(job: &Job) -> Vec<Cursor> {
    if job.pattern != Pattern::Scatter {
        return Vec::new();
    }
    let others = u64::from(job.clients - 1);
    (0..job.senders)
        .map(|sender| {
            let mut random = Random::new(job.seed ^ 0x5CA7_7E12, job.first + u64::from(sender));
            let at = random.next() % others;
            let step = std::iter::repeat_with(|| random.next() % others).find(|&step| gcd(step, others) == 1);
            Cursor { at: at as u32, step: step.unwrap_or(1) as u32 }
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
