//! Latency over throughput: first as much as goes, then fixed shares of that in an open loop, in which a message's time
//! counts from when it should have been sent.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    cli::{Command, CurveOptions},
    failure::Failure,
    measure::{self, Machine},
    report::{Latency, Report, Shown, rounded},
    run::{once, quiet},
    servers,
};

/// Messages in flight per sender while the most is looked for, unless it is said.
const DEPTH: u32 = 16;

/// One rate.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Its share of the closed loop's rate, in percent.
    pub percent: u32,
    /// Messages a second that were due.
    pub rate: u32,
    /// Deliveries a second.
    pub per_second: f64,
    /// From when a message should have been sent.
    pub latency: Latency,
    /// Its distribution.
    pub percentiles: Vec<(f64, f64)>,
    /// Share of a CPU that the server used, where its process is known.
    pub server_share: Option<f64>,
    /// Share of a CPU that the harness used.
    pub load_share: Option<f64>,
    /// Share of a CPU that everything else used.
    pub other_share: Option<f64>,
    /// Every delivery was right.
    pub is_right: bool,
}

/// The curve.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// The scenario.
    pub scenario: String,
    /// On what.
    pub machine: Machine,
    /// The closed loop.
    pub most: Report,
    /// The open loop's rates.
    pub points: Vec<Point>,
}

/// Measures it.
///
/// # Errors
/// A run could not be made.
pub(crate) fn run(own: &CurveOptions) -> Result<Curve, Failure> {
    let command = Command::Curve(own.clone());
    let mut options = own.options.clone();
    if options.rate.is_some() {
        return Err(Failure::Usage("curve chooses its rates itself: give --steps in percent".into()));
    }
    if options.url.is_none() && options.relay.is_none() {
        options.relay = Some(servers::relay_beside_us().map_err(Failure::Usage)?);
    }
    options.depth = Some(options.depth.unwrap_or(DEPTH));
    let most = quiet(own.attempts, || once(&command, &options))?;
    options.depth = None;
    let mut points = Vec::new();
    for &percent in &own.steps {
        let rate = (most.per_second * f64::from(percent) / 100.0) as u32;
        options.rate = Some(rate.max(1));
        let report = quiet(own.attempts, || once(&command, &options))?;
        points.push(Point {
            percent,
            rate,
            per_second: report.per_second,
            latency: report.latency,
            percentiles: report.percentiles.clone(),
            server_share: report.server.as_ref().map(|server| server.cpu_share),
            load_share: report.own_cpu_share,
            other_share: report.other_cpu_share,
            is_right: report.is_right(),
        });
    }
    let machine = Machine { load_after: measure::load_average(), ..most.machine.clone() };
    Ok(Curve { scenario: most.scenario.clone(), machine, most, points })
}

impl Shown for Curve {
    fn kind(&self) -> &'static str {
        "curve"
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let setting = &self.most.setting;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{} at {}, {} bytes of payload: at most {} a second in the closed loop of {} in flight each\n",
            self.scenario,
            self.most.url,
            setting.size,
            rounded(self.most.per_second),
            setting.depth
        );
        let _ = writeln!(
            out,
            "| of the most | due/s | delivered/s | p50 us | p99 us | p99.9 us | longest us | CPU server, load, other |"
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|---|---|");
        for point in &self.points {
            let Latency { p50_us, p99_us, p999_us, max_us, .. } = point.latency;
            let share = |share: Option<f64>| share.map_or("-".into(), |share| format!("{share:.2}"));
            let _ = writeln!(
                out,
                "| {} % | {} | {} | {p50_us:.0} | {p99_us:.0} | {p999_us:.0} | {max_us:.0} | {}, {}, {} |",
                point.percent,
                rounded(f64::from(point.rate)),
                rounded(point.per_second),
                share(point.server_share),
                share(point.load_share),
                share(point.other_share)
            );
        }
        out
    }

    fn is_right(&self) -> bool {
        self.most.is_right() && self.points.iter().all(|point| point.is_right)
    }
}
