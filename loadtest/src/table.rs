//! The table that the relay is judged by: server CPU time a delivery as a ratio to the baseline, scenario by scenario.
//!
//! Each round runs the base, the relay, and the base again, each in a fresh process on the same CPU, so that what the
//! machine does to every run shows as the ratio of base to base. Owns the rows; how a run is made is [`crate::run`]'s.

use std::{fmt::Write as _, path::Path};

use serde::Serialize;

use crate::{
    cli::{self, TableOptions},
    failure::Failure,
    measure::{self, Machine},
    report::{DISTURBED_SHARE, Report, Shown, rounded},
    run::{keys, once, quiet},
    servers::{self, Places, Server},
    spread::Spread,
};

/// One row: what is run, and how well it should do.
struct Row {
    name: &'static str,
    title: &'static str,
    /// The scenario as one would type it.
    command: &'static str,
    workers: u32,
    /// The base is a relay of one worker, not the baseline.
    is_against_one_worker: bool,
    target: f64,
    stretch: f64,
}

const fn row(name: &'static str, title: &'static str, command: &'static str, target: f64, stretch: f64) -> Row {
    Row { name, title, command, workers: 1, is_against_one_worker: false, target, stretch }
}

const ROWS: [Row; 12] = [
    row("pairs-1", "50 pairs, 128 B, depth 1", "pairs --depth 1", 1.08, 1.03),
    row("pairs-16", "50 pairs, 128 B, depth 16", "pairs --depth 16", 1.35, 1.15),
    row("pairs-256", "50 pairs, 128 B, depth 256", "pairs --depth 256", 3.0, 2.2),
    row("pairs-16k-1", "50 pairs, 16 KiB, depth 1", "pairs --size 16384 --depth 1", 1.10, 1.05),
    row("pairs-16k-16", "50 pairs, 16 KiB, depth 16", "pairs --size 16384 --depth 16", 1.5, 1.25),
    row("scatter-16", "scatter, 100 clients, depth 16", "scatter --connections 100 --depth 16", 1.5, 1.20),
    row("echo-1", "echo, 100 clients, depth 1", "echo --connections 100 --depth 1", 1.05, 1.0),
    row("echo-16", "echo, 100 clients, depth 16", "echo --connections 100 --depth 16", 1.15, 1.0),
    row("fanout-100", "fan-out 1 to 100, depth 16", "fanout --connections 100 --depth 16", 1.15, 1.05),
    row("fanout-1000", "fan-out 1 to 1000, depth 1", "fanout --connections 1000 --depth 1", 1.08, 1.03),
    row("connect", "handshake without HELLO", "connect --connections 64", 1.20, 1.10),
    Row {
        name: "two-workers",
        title: "two workers, receivers on the other, depth 16",
        command: "pairs --depth 16 --cross-workers",
        workers: 2,
        is_against_one_worker: true,
        target: 1.6,
        stretch: 1.3,
    },
];

/// One run in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Server CPU microseconds for each delivery.
    pub cpu_us: f64,
    /// The part of it in its own code, known to the clock's tick.
    pub user_us: f64,
    /// Deliveries a second.
    pub per_second: f64,
    /// Half of the latencies.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// Share of a CPU that the server used.
    pub server_share: f64,
    /// Share of a CPU that the harness used.
    pub load_share: f64,
    /// Share of a CPU that everything else used.
    pub other_share: f64,
    /// The machine's load averages after it.
    pub load_average: String,
    /// Every delivery was right.
    pub is_right: bool,
}

impl Figures {
    fn of(report: &Report) -> Result<Self, Failure> {
        let server = report.server.as_ref().ok_or_else(|| Failure::Run("the server's process is gone".into()))?;
        Ok(Self {
            cpu_us: server.us_per_message,
            user_us: server.user_us_per_message,
            per_second: report.per_second,
            p50_us: report.latency.p50_us,
            p99_us: report.latency.p99_us,
            server_share: server.cpu_share,
            load_share: report.own_cpu_share.unwrap_or_default(),
            other_share: report.other_cpu_share.unwrap_or_default(),
            load_average: report.machine.load_after.clone(),
            is_right: report.is_right(),
        })
    }
}

/// Base, relay, base.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// The base before the relay.
    pub before: Figures,
    /// The relay.
    pub relay: Figures,
    /// The base after it.
    pub after: Figures,
    /// The relay's CPU time by the mean of the base's.
    pub ratio: f64,
    /// The greater of the base's two CPU times by the lesser.
    pub base_to_base: f64,
}

/// What a row gave.
#[derive(Clone, Debug, Serialize)]
pub struct RowResult {
    /// Its name for `--rows`.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// The scenario that is run.
    pub command: &'static str,
    /// `baseline`, the other relay, or `one worker`.
    pub base: String,
    /// The ratio to be reached.
    pub target: f64,
    /// The ratio to be proud of.
    pub stretch: f64,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// Ratios of the rounds.
    pub ratio: Option<Spread>,
    /// CPU microseconds of the base, all runs.
    pub base_cpu_us: Option<Spread>,
    /// CPU microseconds of the relay.
    pub relay_cpu_us: Option<Spread>,
    /// Base by base in the same round, the greater by the lesser.
    pub base_to_base: Option<Spread>,
    /// Runs that other programs disturbed however often they were made.
    pub disturbed: usize,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// On what.
    pub machine: Machine,
    /// Which CPUs were used for what.
    pub places: String,
    /// The relay's program.
    pub relay: String,
    /// Seconds of each window.
    pub seconds: f64,
    /// Seconds of warm-up before it.
    pub warmup: f64,
    /// The rows.
    pub rows: Vec<RowResult>,
}

/// Names of all rows, for the help.
pub(crate) fn names() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.name).collect()
}

/// Measures the rows that are asked for.
///
/// # Errors
/// A name that no row has, a server that does not start, a run that could not be made.
pub(crate) fn run(options: &TableOptions) -> Result<Table, Failure> {
    if let Some(unknown) = options.rows.iter().find(|name| !names().contains(&name.as_str())) {
        return Err(Failure::Usage(format!("there is no row `{unknown}`; there are {}", names().join(", "))));
    }
    let relay = match &options.relay {
        Some(path) => path.clone(),
        None => servers::relay_beside_us().map_err(Failure::Usage)?,
    };
    let places = Places::choose(&options.server_cpu, options.load_cpu, !options.no_pin);
    let mut bench = Bench { options, relay: &relay, places: &places };
    let mut machine = Machine::read();
    let asked = |row: &&Row| options.rows.is_empty() || options.rows.iter().any(|name| name == row.name);
    let rows: Result<Vec<_>, _> = ROWS.iter().filter(asked).map(|row| bench.row(row)).collect();
    machine.load_after = measure::load_average();
    Ok(Table {
        machine,
        places: places.text(),
        relay: relay.display().to_string(),
        seconds: options.seconds,
        warmup: options.warmup,
        rows: rows?,
    })
}

struct Bench<'a> {
    options: &'a TableOptions,
    relay: &'a Path,
    places: &'a Places,
}

impl Bench<'_> {
    fn row(&mut self, row: &Row) -> Result<RowResult, Failure> {
        let mut rounds = Vec::new();
        for round in 0..self.options.rounds {
            let before = self.quiet(row, true)?;
            let relay = self.quiet(row, false)?;
            let after = self.quiet(row, true)?;
            let ratio = 2.0 * relay.cpu_us / (before.cpu_us + after.cpu_us);
            let base_to_base = before.cpu_us.max(after.cpu_us) / before.cpu_us.min(after.cpu_us);
            eprintln!(
                "{:<13} round {}: base {:.3} and {:.3} us, relay {:.3} us, ratio {ratio:.3}",
                row.name,
                round + 1,
                before.cpu_us,
                after.cpu_us,
                relay.cpu_us
            );
            rounds.push(Round { before, relay, after, ratio, base_to_base });
        }
        let base = |round: &Round| [round.before.cpu_us, round.after.cpu_us];
        let runs = rounds.iter().flat_map(|round| [&round.before, &round.relay, &round.after]);
        Ok(RowResult {
            name: row.name,
            title: row.title,
            command: row.command,
            base: self.base_name(row),
            target: row.target,
            stretch: row.stretch,
            ratio: Spread::of(rounds.iter().map(|round| round.ratio)),
            base_cpu_us: Spread::of(rounds.iter().flat_map(base)),
            relay_cpu_us: Spread::of(rounds.iter().map(|round| round.relay.cpu_us)),
            base_to_base: Spread::of(rounds.iter().map(|round| round.base_to_base)),
            disturbed: runs.filter(|run| run.other_share > DISTURBED_SHARE).count(),
            rounds,
        })
    }

    fn base_name(&self, row: &Row) -> String {
        match &self.options.base {
            Some(path) => path.display().to_string(),
            None if row.is_against_one_worker => "one worker".into(),
            None => "baseline".into(),
        }
    }

    /// An undisturbed run, or the last of several.
    fn quiet(&mut self, row: &Row, is_base: bool) -> Result<Figures, Failure> {
        Figures::of(&quiet(self.options.attempts, || self.once(row, is_base))?)
    }

    /// One run with a server of its own.
    fn once(&self, row: &Row, is_base: bool) -> Result<Report, Failure> {
        let (command, mut options) = cli::parse(row.command)?;
        options.seconds = self.options.seconds;
        options.warmup = self.options.warmup;
        options.cpu = self.places.load;
        options.seed = self.options.seed;
        let cpus = self.places.server.as_deref();
        let server = match (is_base, &self.options.base) {
            (true, None) if !row.is_against_one_worker => Server::baseline(cpus)?,
            (_, base) => {
                let one_worker = is_base && base.is_none();
                let workers = if one_worker { 1 } else { row.workers };
                options.cross_workers &= !one_worker;
                let program = base.as_deref().filter(|_| is_base).unwrap_or(self.relay);
                Server::relay(program, &keys(&command, &options)?, workers, cpus)?
            }
        };
        options.url = Some(server.url().to_owned());
        options.server_pid = Some(server.pid());
        once(&command, &options)
    }
}

impl Shown for Table {
    fn kind(&self) -> &'static str {
        "table"
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn is_right(&self) -> bool {
        let runs = |row: &RowResult| {
            row.rounds.iter().all(|round| round.before.is_right && round.relay.is_right && round.after.is_right)
        };
        self.rows.iter().all(runs)
    }
}

impl Table {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Machine { cpu, cores, kernel, date, load_before, load_after } = &self.machine;
        let rounds = self.rows.first().map_or(0, |row| row.rounds.len());
        writeln!(
            out,
            "{date}; {cpu}, {cores} cores, {kernel}; load average {load_before} before, {load_after} after."
        )?;
        writeln!(
            out,
            "Medians of {rounds} rounds (base, relay, base) of {} s after {} s of warm-up; {}. CPU: server microseconds for \
             each delivery. Latency and rate are the relay's.\n",
            self.seconds, self.warmup, self.places
        )?;
        writeln!(
            out,
            "| scenario | base | CPU base | CPU relay | ratio (spread) | target | stretch target | met | base to base | deliveries/s \
             | p50, p99 us | CPU share server, load (base) | other |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        self.rows.iter().try_for_each(|row| row.write(out))?;
        let disturbed: usize = self.rows.iter().map(|row| row.disturbed).sum();
        if disturbed > 0 {
            writeln!(out, "\n{disturbed} runs were disturbed by other programs (over 10 % of a CPU).")?;
        }
        if !self.is_right() {
            writeln!(out, "\nWRONG: deliveries of some runs were not right; see the scenario by itself.")?;
        }
        Ok(())
    }
}

impl RowResult {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let median = |spread: Option<Spread>| spread.map_or(f64::NAN, |spread| spread.median);
        let of = |side: fn(&Round) -> &Figures, figure: fn(&Figures) -> f64| {
            median(Spread::of(self.rounds.iter().map(|round| figure(side(round)))))
        };
        let relay = |figure| of(|round| &round.relay, figure);
        let base = |figure| of(|round| &round.before, figure);
        let ratio =
            self.ratio.map_or("-".into(), |Spread { median, min, max }| format!("{median:.2} ({min:.2}-{max:.2})"));
        let verdict = match self.ratio {
            Some(ratio) if ratio.median <= self.stretch => "stretch target",
            Some(ratio) if ratio.median <= self.target => "target",
            _ => "missed",
        };
        writeln!(
            out,
            "| {} | {} | {:.3} | {:.3} | {ratio} | {} | {} | {verdict} | {:.2} | {} | {:.0}, {:.0} | {:.2}, {:.2} ({:.2}, {:.2}) | {:.2} |",
            self.title,
            self.base,
            median(self.base_cpu_us),
            median(self.relay_cpu_us),
            self.target,
            self.stretch,
            median(self.base_to_base),
            rounded(relay(|run| run.per_second)),
            relay(|run| run.p50_us),
            relay(|run| run.p99_us),
            relay(|run| run.server_share),
            relay(|run| run.load_share),
            base(|run| run.server_share),
            base(|run| run.load_share),
            relay(|run| run.other_share),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_scenario_that_makes_sense() {
        for row in &ROWS {
            let (command, options) = cli::parse(row.command).expect(row.command);
            assert!(keys(&command, &options).is_ok(), "{}", row.command);
            assert!(row.stretch <= row.target);
        }
    }
}
