//! Two servers under the same load, round by round one after the other, and the ratio of what they cost.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    cli::{Command, Options},
    failure::Failure,
    report::{Report, Shown},
    run::once,
    spread::Spread,
};

/// What two servers gave.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Runs of the server at `--url`, by round.
    pub first: Vec<Report>,
    /// Runs of the server at `--compare`.
    pub second: Vec<Report>,
    /// Server CPU time for each delivery, first by second; only where both processes are known.
    pub cpu: Option<Spread>,
    /// Deliveries a second, first by second.
    pub rate: Option<Spread>,
    /// Half of the latencies, first by second.
    pub p50: Option<Spread>,
    /// 99 of 100, first by second.
    pub p99: Option<Spread>,
}

/// Runs a scenario against both servers in turn.
///
/// # Errors
/// One of the runs could not be made.
pub(crate) fn run(command: &Command, options: &Options, other: &str) -> Result<Comparison, Failure> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut against = options.clone();
    against.url = Some(other.to_owned());
    against.server_pid = options.compare_pid;
    for _ in 0..options.rounds {
        first.push(once(command, options)?);
        second.push(once(command, &against)?);
    }
    let ratio = |figure: fn(&Report) -> Option<f64>| {
        let ratios: Option<Vec<f64>> =
            first.iter().zip(&second).map(|(first, second)| Some(figure(first)? / figure(second)?)).collect();
        Spread::of(ratios?)
    };
    Ok(Comparison {
        cpu: ratio(|report| report.server.as_ref().map(|server| server.us_per_message)),
        rate: ratio(|report| Some(report.per_second)),
        p50: ratio(|report| Some(report.latency.p50_us)),
        p99: ratio(|report| Some(report.latency.p99_us)),
        first,
        second,
    })
}

impl Shown for Comparison {
    fn kind(&self) -> &'static str {
        "comparison"
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for (round, (first, second)) in self.first.iter().zip(&self.second).enumerate() {
            let _ = writeln!(out, "round {}\n{}{}", round + 1, first.text(), second.text());
        }
        let _ = writeln!(out, "first by second, median of {} rounds (least to greatest)", self.first.len());
        for (name, ratio) in [("CPU", self.cpu), ("rate", self.rate), ("p50", self.p50), ("p99", self.p99)] {
            if let Some(Spread { median, min, max }) = ratio {
                let _ = writeln!(out, "  {name:<11} {median:.3} ({min:.3} to {max:.3})");
            }
        }
        out
    }

    fn is_right(&self) -> bool {
        self.first.iter().chain(&self.second).all(Report::is_right)
    }
}
