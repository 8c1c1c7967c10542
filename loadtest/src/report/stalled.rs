//! What readers that stop reading cost: the server's memory, and the latency of the others.

use std::{collections::BTreeMap, fmt::Write as _};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Checks, DISTURBED_SHARE, Latency, Server, Shown, percentiles};
use crate::{engine::histogram, measure::Machine, spread::Spread};

/// How it was driven.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Healthy pairs.
    pub pairs: u32,
    /// Messages in flight for each of them.
    pub depth: u32,
    /// Bytes of payload of a healthy message.
    pub size: u32,
    /// Readers that stall.
    pub readers: u32,
    /// Messages a second to all readers together.
    pub flood_rate: u32,
    /// Bytes of payload of those.
    pub flood_size: u32,
    /// Seconds of each window.
    pub seconds: f64,
}

/// The healthy ones in one window.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    /// Their latency.
    pub latency: Latency,
    /// Its distribution.
    pub percentiles: Vec<(f64, f64)>,
    /// The 99th percentile of each third of the window, in microseconds.
    pub p99_us: Option<Spread>,
    /// Deliveries a second.
    pub per_second: f64,
    /// The server's cost for each delivery, those to the readers included.
    pub server: Option<Server>,
    /// Share of a CPU that everything else on the machine used.
    pub other_share: Option<f64>,
}

impl Window {
    /// Of the latencies of its parts.
    pub(crate) fn new(
        parts: &[Histogram<u64>],
        per_second: f64,
        server: Option<Server>,
        other_share: Option<f64>,
    ) -> Self {
        let mut all = histogram();
        for part in parts {
            // All have the same bounds, so this cannot fail.
            let _ = all.add(part);
        }
        Self {
            latency: Latency::of(&all),
            percentiles: percentiles(&all),
            p99_us: Spread::of(parts.iter().map(|part| part.value_at_quantile(0.99) as f64 / 1000.0)),
            per_second,
            server,
            other_share,
        }
    }
}

/// The server's anonymous memory in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Growth {
    /// When the readers stopped.
    pub before: u64,
    /// The most while they did not read.
    pub peak: u64,
    /// At the end.
    pub after: u64,
    /// From `before` to `peak`.
    pub growth: u64,
    /// The same for each reader.
    pub growth_per_reader: f64,
}

impl Growth {
    /// Of three readings.
    pub(crate) fn new(before: u64, peak: u64, after: u64, setting: &Setting) -> Self {
        let growth = peak - before;
        Self { before, peak, after, growth, growth_per_reader: growth as f64 / f64::from(setting.readers.max(1)) }
    }
}

/// What became of the flood and its readers.
#[derive(Clone, Debug, Serialize)]
pub struct Readers {
    /// Messages sent to them.
    pub sent: u64,
    /// Messages that they took in the control window.
    pub delivered_in_control: u64,
    /// Messages that were under way when they stopped.
    pub delivered_while_stalled: u64,
    /// Messages that they took after they woke up.
    pub delivered_after: u64,
    /// Messages that were not sent, because the relay took none of their sender at that time.
    pub held_back: u64,
    /// Connections of senders and readers that were open at the end.
    pub still_open: u64,
    /// Connections that the relay ended, by what it said.
    pub ended: BTreeMap<String, u64>,
    /// Messages that it refused, by what it said.
    pub refused: BTreeMap<String, u64>,
    /// The first few problems in words.
    pub problems: Vec<String>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Stalled {
    /// On what.
    pub machine: Machine,
    /// What was driven.
    pub url: String,
    /// How.
    pub setting: Setting,
    /// The readers read.
    pub control: Window,
    /// The readers do not.
    pub stalled: Window,
    /// The server's memory, where its process is known.
    pub memory: Option<Growth>,
    /// The flood.
    pub readers: Readers,
    /// The healthy deliveries.
    pub checks: Checks,
}

impl Shown for Stalled {
    fn kind(&self) -> &'static str {
        "stalled"
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn is_right(&self) -> bool {
        self.checks.is_right()
    }
}

impl Stalled {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Setting { pairs, depth, size, readers, flood_rate, flood_size, seconds } = self.setting;
        writeln!(out, "stalled at {}", self.url)?;
        writeln!(
            out,
            "  {pairs} healthy pairs, {size} bytes, {depth} in flight each; {readers} readers get {flood_rate} messages of \
             {flood_size} bytes a second; two windows of {seconds} s\n"
        )?;
        for (name, window) in [("control", &self.control), ("stalled", &self.stalled)] {
            let Latency { p50_us, p99_us, p999_us, .. } = window.latency;
            write!(out, "  {name:<9} healthy: {:.0} a second, p50 {p50_us:.0} us, p99 {p99_us:.0}", window.per_second)?;
            if let Some(Spread { min, max, .. }) = window.p99_us {
                write!(out, " ({min:.0} to {max:.0} by thirds)")?;
            }
            write!(out, ", p99.9 {p999_us:.0}")?;
            if let Some(server) = &window.server {
                write!(out, "; server {:.2} of a CPU", server.cpu_share)?;
            }
            match window.other_share.filter(|&share| share > DISTURBED_SHARE) {
                Some(share) => writeln!(out, "; DISTURBED: others used {share:.2} of a CPU")?,
                None => writeln!(out)?,
            }
        }
        if let Some(Growth { before, peak, growth, growth_per_reader, after }) = self.memory {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            writeln!(
                out,
                "  memory    {:.1} MiB when they stopped, at most {:.1}, {:.1} at the end: grew by {:.1} MiB, \
                 {growth_per_reader:.0} bytes a reader",
                mib(before),
                mib(peak),
                mib(after),
                mib(growth)
            )?;
        }
        let readers = &self.readers;
        writeln!(
            out,
            "  flood     {} sent; taken: {} in the control, {} when it stopped, {} after it; {} held back; {} connections \
             open at the end",
            readers.sent,
            readers.delivered_in_control,
            readers.delivered_while_stalled,
            readers.delivered_after,
            readers.held_back,
            readers.still_open
        )?;
        for (what, counts) in [("ended", &readers.ended), ("refused", &readers.refused)] {
            counts.iter().try_for_each(|(text, count)| writeln!(out, "              {count} {what}: {text}"))?;
        }
        self.checks.write(out)
    }
}
