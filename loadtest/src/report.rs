//! What a run gave, for people and as JSON.

pub(crate) mod stalled;

use std::{collections::BTreeMap, fmt::Write as _};

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;

use crate::measure::{Cpu, Machine};

/// A thread of the harness that is busier than this may be what limits a run.
const LIMIT_SHARE: f64 = 0.9;
/// Other programs that use more of a CPU than this disturb a run.
pub(crate) const DISTURBED_SHARE: f64 = 0.1;

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name; of the baseline with its pattern.
    pub scenario: String,
    /// What was driven.
    pub url: String,
    /// How it was driven.
    pub setting: Setting,
    /// On what.
    pub machine: Machine,
    /// Seconds between the two readings that the rates come from.
    pub measured_seconds: f64,
    /// Deliveries (connections, prompts) in that time.
    pub delivered: u64,
    /// The same in a second.
    pub per_second: f64,
    /// From the time a message should have been sent to its delivery.
    pub latency: Latency,
    /// Its distribution: quantile and microseconds.
    pub percentiles: Vec<(f64, f64)>,
    /// Further steps, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<&'static str, Latency>,
    /// The server's cost, where its process is known.
    pub server: Option<Server>,
    /// The harness's own share of a CPU, for each of its threads.
    pub own_cpu_share: Option<f64>,
    /// What neither the server nor the harness used of one CPU.
    pub other_cpu_share: Option<f64>,
    /// Memory of idle connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// What was wrong.
    pub checks: Checks,
    /// What one should know before believing the figures.
    pub warnings: Vec<String>,
}

/// How a run was driven.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Clients.
    pub connections: u64,
    /// Those of them that send.
    pub senders: u64,
    /// Messages in flight per sender, at most.
    pub depth: u32,
    /// Bytes of payload.
    pub size: u32,
    /// Bytes of a message with its envelope, without WebSocket's header.
    pub message_bytes: u64,
    /// Messages a second; closed loop without.
    pub rate: Option<u32>,
    /// Seconds that were to be measured.
    pub seconds: f64,
    /// Seconds of warm-up.
    pub warmup: f64,
    /// Threads of the harness.
    pub threads: u32,
    /// The seed.
    pub seed: u64,
}

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Half of them.
    pub p50_us: f64,
    /// Nine of ten.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    /// Of a histogram of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1000.0,
        }
    }
}

/// What the server cost.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// Its process.
    pub pid: u32,
    /// CPU seconds in the measured time, all threads.
    pub cpu: Cpu,
    /// CPU microseconds for each delivery.
    pub us_per_message: f64,
    /// The part of it in its own code.
    pub user_us_per_message: f64,
    /// Share of one CPU.
    pub cpu_share: f64,
}

impl Server {
    /// Of the CPU time of a window.
    pub(crate) fn new(pid: u32, cpu: Cpu, delivered: u64, seconds: f64) -> Self {
        let each = |cpu_seconds: f64| cpu_seconds * 1e6 / (delivered.max(1) as f64);
        let (us_per_message, user_us_per_message) = (each(cpu.total), each(cpu.user));
        Self { pid, cpu, us_per_message, user_us_per_message, cpu_share: cpu.total / seconds }
    }
}

/// A distribution for a plot with an axis of ever more nines.
pub(crate) fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let at = |quantile: f64| (quantile, histogram.value_at_quantile(quantile) as f64 / 1000.0);
    (0..=40).map(|step| at(1.0 - 10f64.powf(-f64::from(step) / 8.0))).collect()
}

/// What connections cost in memory: anonymous memory of the server in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    /// How many there were.
    pub connections: u64,
    /// Before the first.
    pub before: u64,
    /// When all were in.
    pub connected: u64,
    /// After each had sent itself one message.
    pub used: u64,
    /// Bytes for each connection.
    pub bytes_per_connection: f64,
    /// The same after the message.
    pub bytes_per_connection_used: f64,
    /// Bytes for each connection by the proportional set size, which counts what a process shares in part.
    pub pss_per_connection: Option<f64>,
    /// The same after the message.
    pub pss_per_connection_used: Option<f64>,
    /// Growth of the machine's slab, where the kernel has sockets and open files, in bytes: both ends of all connections,
    /// and whatever else ran in that time.
    pub slab_growth: Option<f64>,
    /// The same after the message.
    pub slab_growth_used: Option<f64>,
}

impl Idle {
    /// Kernel memory of the server's end of a connection after use, in bytes. The harness has the other end, which is as
    /// large, on the same machine.
    pub(crate) fn kernel_per_connection(&self) -> Option<f64> {
        Some(self.slab_growth_used? / 2.0 / self.connections.max(1) as f64)
    }
}

/// What was wrong with the deliveries. All zero is right.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checks {
    /// Messages sent in the whole run, warm-up included.
    pub sent: u64,
    /// Deliveries in the whole run.
    pub delivered: u64,
    /// Sent, not refused, not delivered.
    pub lost: u64,
    /// Delivered again.
    pub doubled: u64,
    /// Delivered to another receiver.
    pub misdirected: u64,
    /// Not of this run, or not what it should be.
    pub foreign: u64,
    /// After a later one of the same sender.
    pub disordered: u64,
    /// Never sent, because too many were in flight until the end.
    pub unsent: u64,
    /// Connections that ended early, or were never opened.
    pub dead: u64,
    /// By what the server said.
    pub refused: BTreeMap<String, u64>,
    /// The first few problems in words.
    pub problems: Vec<String>,
}

impl Checks {
    /// Whether every message went where it should, once.
    pub fn is_right(&self) -> bool {
        let Self { lost, doubled, misdirected, foreign, disordered, unsent, dead, .. } = self;
        lost + doubled + misdirected + foreign + disordered + unsent + dead == 0 && self.refused.is_empty()
    }
}

/// Anything that a command gives: for people, as JSON, and whether it is as it should be.
pub trait Shown {
    /// For people.
    fn text(&self) -> String;

    /// Whether the process ends with 0.
    fn is_right(&self) -> bool;

    /// What it is, in JSON's field `kind`.
    fn kind(&self) -> &'static str;

    /// As JSON.
    fn value(&self) -> serde_json::Value
    where
        Self: Serialize,
    {
        let mut value = serde_json::to_value(self).unwrap_or_else(|error| json!({"error": error.to_string()}));
        value["kind"] = self.kind().into();
        value["is_right"] = self.is_right().into();
        value["command"] = command_line(std::env::args().skip(1)).into();
        value
    }

    /// One JSON object in one line.
    fn json(&self) -> String
    where
        Self: Serialize,
    {
        self.value().to_string()
    }
}

/// A command line of this program as one would type it, without the folder that the program is in.
pub(crate) fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let is_plain = |one: char| one.is_ascii_alphanumeric() || "-_=.,:/@+%".contains(one);
    arguments.fold("loadtest".into(), |line, argument| {
        if !argument.is_empty() && argument.chars().all(is_plain) {
            line + " " + &argument
        } else {
            line + " '" + &argument.replace('\'', "'\\''") + "'"
        }
    })
}

impl Shown for Report {
    fn kind(&self) -> &'static str {
        "run"
    }

    fn is_right(&self) -> bool {
        self.checks.is_right()
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }
}

impl Report {
    /// Whether other programs used so much of a CPU that the figures say little.
    pub fn is_disturbed(&self) -> bool {
        self.other_cpu_share.is_some_and(|share| share > DISTURBED_SHARE)
    }

    /// Adds what should be known before the figures are believed.
    pub(crate) fn warn(&mut self, expects_deliveries: bool) {
        let mut warnings = Vec::new();
        if let Some(share) = self.own_cpu_share.filter(|&share| share > LIMIT_SHARE) {
            warnings.push(format!(
                "the harness used {:.0} % of a CPU for each of its threads: the rate may be its own limit, not the server's \
                 (CPU time for each message still holds)",
                100.0 * share
            ));
        }
        if let Some(share) = self.other_cpu_share.filter(|_| self.is_disturbed()) {
            warnings.push(format!("other programs used {:.0} % of a CPU: the figures are disturbed", 100.0 * share));
        }
        if self.delivered == 0 && expects_deliveries {
            warnings.push("nothing was delivered in the measured time".into());
        }
        self.warnings.extend(warnings);
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Setting { connections, senders, depth, size, message_bytes, rate, threads, .. } = &self.setting;
        writeln!(out, "{} at {}", self.scenario, self.url)?;
        write!(
            out,
            "  {connections} connections, {senders} senders, {size} bytes of payload ({message_bytes} a message)"
        )?;
        match rate {
            Some(rate) => writeln!(out, ", {rate} messages a second")?,
            None => writeln!(out, ", {depth} in flight each")?,
        }
        let Machine { cpu, cores, kernel, load_before, load_after, .. } = &self.machine;
        writeln!(out, "  {cpu}, {cores} cores, {kernel}; load {load_before} before, {load_after} after\n")?;
        let seconds = self.measured_seconds;
        writeln!(out, "  delivered   {} in {seconds:.2} s, {:.0} a second", self.delivered, self.per_second)?;
        self.latency.write(out, "latency")?;
        for (name, latency) in &self.steps {
            latency.write(out, name)?;
        }
        if let Some(server) = &self.server {
            let Server { pid, us_per_message, user_us_per_message, cpu_share, .. } = server;
            writeln!(
                out,
                "  server      {us_per_message:.3} us of CPU for each delivery ({user_us_per_message:.3} in its own code), \
                 {cpu_share:.2} of a CPU (process {pid})"
            )?;
        }
        if let Some(share) = self.own_cpu_share {
            write!(out, "  harness     {share:.2} of a CPU for each of {threads} threads")?;
            match self.other_cpu_share {
                Some(other) => writeln!(out, "; everything else on the machine {other:.2}")?,
                None => writeln!(out)?,
            }
        }
        if let Some(Idle { bytes_per_connection, bytes_per_connection_used, .. }) = self.idle {
            writeln!(
                out,
                "  memory      {bytes_per_connection:.0} bytes for each connection, {bytes_per_connection_used:.0} after a \
                 message each way"
            )?;
        }
        self.checks.write(out)?;
        for warning in &self.warnings {
            writeln!(out, "  WARNING     {warning}")?;
        }
        Ok(())
    }
}

impl Latency {
    fn write(&self, out: &mut String, name: &str) -> std::fmt::Result {
        let Self { p50_us, p90_us, p99_us, p999_us, max_us, .. } = self;
        writeln!(
            out,
            "  {name:<11} p50 {p50_us:.0} us, p90 {p90_us:.0}, p99 {p99_us:.0}, p99.9 {p999_us:.0}, longest {max_us:.0}"
        )
    }
}

impl Checks {
    /// In words.
    pub(crate) fn write(&self, out: &mut String) -> std::fmt::Result {
        if self.is_right() {
            return writeln!(out, "  checks      all {} deliveries of the run are right", self.delivered);
        }
        write!(out, "  WRONG      ")?;
        for (count, name) in [
            (self.lost, "lost"),
            (self.doubled, "doubled"),
            (self.misdirected, "misdirected"),
            (self.foreign, "foreign"),
            (self.disordered, "out of order"),
            (self.unsent, "never sent"),
            (self.dead, "dead connections"),
        ] {
            if count > 0 {
                write!(out, " {count} {name};")?;
            }
        }
        writeln!(out, " of {} sent, {} delivered", self.sent, self.delivered)?;
        for (text, count) in &self.refused {
            writeln!(out, "              {count} refused: {text}")?;
        }
        for problem in &self.problems {
            writeln!(out, "              {problem}")?;
        }
        Ok(())
    }
}

/// `1.23 M`, `45.6 k`, `789`.
pub(crate) fn rounded(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e3 => format!("{:.1} k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_what_one_would_type() {
        let line = |words: &[&str]| command_line(words.iter().map(|&word| word.to_owned()));
        assert_eq!(
            line(&["idle", "--steps", "1,2", "--url", "ws://h:1/x"]),
            "loadtest idle --steps 1,2 --url ws://h:1/x"
        );
        assert_eq!(line(&["report", "--title", "it's <1>", ""]), "loadtest report --title 'it'\\''s <1>' ''");
        assert_eq!(line(&[]), "loadtest");
    }

    #[test]
    fn rates_are_short() {
        assert_eq!([0.4, 789.0, 45_600.0, 1_234_567.0].map(rounded), ["0", "789", "45.6 k", "1.23 M"]);
    }
}
