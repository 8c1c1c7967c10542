//! Healthy pairs under full load beside a flood to readers, in two windows of one run: in the first the readers read, in
//! the second they do not.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{DRAIN, FLOOD_SENDERS, LOOK, Run, SETTLE, checks, joined};
use crate::{
    cli::Pattern,
    engine::{self, Plan, Shared, Tally, World},
    failure::Failure,
    measure::{self, Machine, Sample},
    report::{
        self,
        stalled::{Growth, Readers, Setting, Stalled, Window},
    },
};

/// Healthy messages in flight for each pair, unless it is said.
const DEPTH: u32 = 16;
/// The flood's messages a second and their bytes of payload, unless they are said.
const RATE: u32 = 10_000;
const SIZE: u32 = 4096;
/// The flood goes on so long after the readers woke up.
const RESUME: Duration = Duration::from_secs(2);

/// One reading: CPU time of the server, deliveries to healthy receivers and to flooded readers, memory.
struct Mark {
    sample: Sample,
    healthy: u64,
    flooded: u64,
    memory: Option<u64>,
}

impl Run<'_> {
    pub(super) fn stall(&mut self) -> Result<Stalled, Failure> {
        let mut machine = Machine::read();
        let setting = self.stall_setting();
        let mut threads = Vec::new();
        for job in self.stall_jobs(&setting) {
            let world = World::new(job, self.shared.clone()).map_err(|error| error.to_string())?;
            threads.push(thread::spawn(move || world.run()));
        }
        self.gather(&mut threads)?;
        let nanos = |duration: Duration| duration.as_nanos() as u64;
        let window = nanos(Duration::from_secs_f64(self.options.seconds));
        let start = self.shared.now() + nanos(SETTLE);
        let count_from = start + nanos(Duration::from_secs_f64(self.options.warmup));
        let stall_from = count_from + window;
        let resume_from = stall_from + window;
        let end = resume_from + nanos(RESUME);
        let plan = Plan { start, count_from, end, drain: end + nanos(DRAIN), once: false, stall_from, resume_from };
        // No other code sets it.
        let _ = self.shared.plan.set(plan);
        self.wait("warm-up", start, count_from);
        let first = self.mark();
        self.wait("control", count_from, stall_from);
        let second = self.mark();
        let peak = self.peak("stalled", stall_from, resume_from);
        let third = self.mark();
        self.wait("resumed", resume_from, end);
        let mut tallies = Vec::new();
        for thread in threads {
            tallies.push(joined(thread)?);
        }
        self.bar.finish_and_clear();
        let last = self.mark();
        machine.load_after = measure::load_average();
        let [healthy, flood] = <[Tally; 2]>::try_from(tallies).map_err(|_| "two threads were started".to_owned())?;
        let memory = second.memory.zip(peak).zip(last.memory);
        let all = u64::from(FLOOD_SENDERS + setting.readers);
        let parts = &healthy.parts;
        Ok(Stalled {
            machine,
            url: self.target.to_string(),
            control: self.window(&first, &second, parts.get(..Plan::PARTS / 2)),
            stalled: self.window(&second, &third, parts.get(Plan::PARTS / 2..)),
            memory: memory.map(|((before, peak), after)| Growth::new(before, peak.max(before), after, &setting)),
            readers: Readers {
                sent: flood.sent,
                delivered_in_control: second.flooded - first.flooded,
                delivered_while_stalled: third.flooded - second.flooded,
                delivered_after: flood.delivered - third.flooded,
                held_back: flood.held_back,
                still_open: all.saturating_sub(flood.ended.values().sum()),
                ended: flood.ended,
                refused: flood.refused,
                problems: flood.problems,
            },
            setting,
            checks: checks(healthy),
        })
    }

    fn stall_setting(&self) -> Setting {
        let options = self.options;
        Setting {
            pairs: options.pairs,
            depth: options.depth.unwrap_or(DEPTH),
            size: self.size(),
            readers: options.connections,
            flood_rate: options.rate.unwrap_or(RATE),
            flood_size: SIZE,
            seconds: options.seconds,
        }
    }

    /// What the two threads drive.
    fn stall_jobs(&self, setting: &Setting) -> Vec<engine::Job> {
        let Some(any) = self.jobs(Pattern::Pairs).into_iter().next() else { return Vec::new() };
        let healthy = engine::Job {
            clients: 2 * setting.pairs,
            senders: setting.pairs,
            depth: setting.depth,
            rate: None,
            ..any.clone()
        };
        let flood = engine::Job {
            index: 1,
            pattern: Pattern::Flood,
            first: u64::from(2 * setting.pairs),
            clients: FLOOD_SENDERS + setting.readers,
            senders: FLOOD_SENDERS,
            depth: 1,
            size: setting.flood_size as usize,
            rate: Some(f64::from(setting.flood_rate)),
            run: any.run.wrapping_add(1),
            ..any
        };
        vec![healthy, flood]
    }

    fn mark(&self) -> Mark {
        let delivered = |thread: usize| self.shared.delivered.get(thread).map_or(0, engine::Counter::get);
        Mark {
            sample: Sample::take(self.server),
            healthy: delivered(0),
            flooded: delivered(1),
            memory: self.server.and_then(measure::anonymous_of),
        }
    }

    /// Waits, and gives the most memory that the server had on the way.
    fn peak(&self, name: &'static str, from: u64, to: u64) -> Option<u64> {
        let until = self.shared.instant(to);
        let mut peak = None;
        self.bar.set_prefix(name);
        self.bar.set_length(to.saturating_sub(from) / 1_000_000);
        loop {
            peak = peak.max(self.server.and_then(measure::anonymous_of));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return peak;
            }
            self.bar.set_position(self.shared.now().saturating_sub(from) / 1_000_000);
            self.bar.set_message(format!("{} delivered", Shared::sum(&self.shared.delivered)));
            thread::sleep(left.min(5 * LOOK));
        }
    }

    fn window(&self, from: &Mark, to: &Mark, parts: Option<&[hdrhistogram::Histogram<u64>]>) -> Window {
        let (before, after) = (&from.sample, &to.sample);
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let cpu = after.server.zip(before.server).map(|(after, before)| after.since(&before));
        let other_share = after.other_since(before).map(|other| other / seconds);
        let delivered = to.healthy - from.healthy;
        let all = delivered + to.flooded - from.flooded;
        let server = cpu.zip(self.server).map(|(cpu, pid)| report::Server::new(pid, cpu, all, seconds));
        Window::new(parts.unwrap_or_default(), delivered as f64 / seconds, server, other_share)
    }
}
