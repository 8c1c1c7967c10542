//! What the threads of a run share: the clock, the plan, the counters that are watched while it runs, and what each
//! thread gives in the end.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;

const PROBLEMS_MAX: usize = 20;
/// The longest latency that is told apart, in nanoseconds.
const LATENCY_MAX: u64 = 3_600_000_000_000;

/// When what happens; nanoseconds since the run's origin.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) start: u64,
    /// The warm-up ends.
    pub(crate) count_from: u64,
    /// Nothing is sent that should be sent later.
    pub(crate) end: u64,
    /// What has not come by then is lost.
    pub(crate) drain: u64,
    /// Every sender sends one message only.
    pub(crate) once: bool,
    /// Readers that can stall do so from then on.
    pub(crate) stall_from: u64,
    /// Until then. Zero where nothing stalls.
    pub(crate) resume_from: u64,
}

impl Plan {
    /// Parts that the time from the beginning of the count to the end of the stall is divided into.
    pub(crate) const PARTS: usize = 6;

    /// Whether readers that can stall do so.
    pub(crate) fn is_stalling(&self, now: u64) -> bool {
        (self.stall_from..self.resume_from).contains(&now)
    }

    /// The part that a time lies in.
    pub(crate) fn part(&self, at: u64) -> Option<usize> {
        let parts = self.resume_from.checked_sub(self.count_from).filter(|&parts| parts > 0)?;
        let part = at.checked_sub(self.count_from)? * Self::PARTS as u64 / parts;
        usize::try_from(part).ok().filter(|&part| part < Self::PARTS)
    }
}

/// A counter in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Sets it.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it was set to.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Shared by the threads.
#[derive(Debug)]
pub(crate) struct Shared {
    origin: Instant,
    unix_ms: u64,
    pub(crate) plan: OnceLock<Plan>,
    /// Connections that are ready, by thread.
    pub(crate) ready: Vec<Counter>,
    /// Deliveries, by thread.
    pub(crate) delivered: Vec<Counter>,
    stop: AtomicBool,
    released: AtomicBool,
}

impl Shared {
    /// For so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        let counters = || (0..threads).map(|_| Counter::default()).collect();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            origin: Instant::now(),
            unix_ms: unix.as_millis() as u64,
            plan: OnceLock::new(),
            ready: counters(),
            delivered: counters(),
            stop: AtomicBool::new(false),
            released: AtomicBool::new(false),
        }
    }

    /// Nanoseconds since the origin.
    pub(crate) fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Unix milliseconds at such a time.
    pub(crate) fn unix_ms(&self, now: u64) -> u64 {
        self.unix_ms + now / 1_000_000
    }

    /// The moment of such a time.
    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.origin + Duration::from_nanos(at)
    }

    /// A run of one message each may end.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    /// Whether it may.
    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    /// Sum over the threads.
    pub(crate) fn sum(counters: &[Counter]) -> u64 {
        counters.iter().map(|counter| counter.get()).sum()
    }

    /// Every thread should give up.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it should.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a thread counted.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) doubled: u64,
    pub(crate) misdirected: u64,
    pub(crate) foreign: u64,
    pub(crate) disordered: u64,
    /// By what the relay said.
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) unsent: u64,
    pub(crate) lost: u64,
    pub(crate) dead: u64,
    /// The first few things that went wrong, in words.
    pub(crate) problems: Vec<String>,
    /// Nanoseconds from the intended send to the delivery.
    pub(crate) latency: Histogram<u64>,
    /// Further ones: by part of the time, or of a step on the way.
    pub(crate) parts: Vec<Histogram<u64>>,
    /// Messages that were due while the server took none of that sender.
    pub(crate) held_back: u64,
    /// Connections that the server ended as it may, by what it said.
    pub(crate) ended: BTreeMap<String, u64>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            delivered: 0,
            doubled: 0,
            misdirected: 0,
            foreign: 0,
            disordered: 0,
            refused: BTreeMap::new(),
            unsent: 0,
            lost: 0,
            dead: 0,
            problems: Vec::new(),
            latency: histogram(),
            parts: Vec::new(),
            held_back: 0,
            ended: BTreeMap::new(),
        }
    }

    /// Remembers what went wrong, once, and not without end.
    pub(crate) fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX && !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }

    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.doubled += other.doubled;
        self.misdirected += other.misdirected;
        self.foreign += other.foreign;
        self.disordered += other.disordered;
        self.unsent += other.unsent;
        self.lost += other.lost;
        self.dead += other.dead;
        for (text, count) in other.refused {
            *self.refused.entry(text).or_default() += count;
        }
        other.problems.into_iter().for_each(|text| self.problem(text));
        self.held_back += other.held_back;
        for (text, count) in other.ended {
            *self.ended.entry(text).or_default() += count;
        }
        // All have the same bounds, so this cannot fail.
        let _ = self.latency.add(&other.latency);
        self.parts.resize_with(self.parts.len().max(other.parts.len()), histogram);
        for (part, other) in self.parts.iter_mut().zip(&other.parts) {
            let _ = part.add(other);
        }
    }
}

/// An empty histogram of nanoseconds with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX, 3).unwrap_or_else(|_| unreachable!("bounds that are constants"))
}
