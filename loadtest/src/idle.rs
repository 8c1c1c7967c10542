//! What a held connection costs the server in memory: before the first, when all are in, and after each has carried a
//! message both ways; for one number of connections, or for ever more up to the limit of open files, and from there by
//! extrapolation.

pub(crate) mod forecast;

use std::{fmt::Write as _, path::Path};

use serde::Serialize;

use self::forecast::{Cost, Forecast};
use crate::{
    cli::{self, Command, IdleOptions, Options},
    failure::Failure,
    measure::{self, Machine},
    report::{Idle, Shown},
    run::{keys, once},
    servers::{self, Server},
};

/// Descriptors that are no connection of ours, here or in the server: it keeps some hundreds for agents and files.
const OTHER_FILES: u64 = 1000;
/// What a server does once, however many connect, is done before memory is read.
const WARM: &str = "echo --connections 8 --depth 16 --seconds 0.2 --warmup 0";

/// One number of connections.
#[derive(Clone, Debug, Serialize)]
pub struct IdleStep {
    /// What they cost.
    #[serde(flatten)]
    pub idle: Idle,
    /// Share of a CPU that the server used while it held them.
    pub cpu_share: f64,
    /// Every message arrived.
    pub is_right: bool,
}

/// Ever more connections.
#[derive(Clone, Debug, Serialize)]
pub struct IdleSteps {
    /// On what.
    pub machine: Machine,
    /// The relay's program, or the server's URL.
    pub server: String,
    /// Connections that the limit of open files allows.
    pub limit: u64,
    /// The steps.
    pub steps: Vec<IdleStep>,
    /// Bytes that one more connection costs, between the first step and the last.
    pub marginal: Option<f64>,
    /// What more of them need, and which limit ends them.
    pub forecast: Forecast,
}

/// Connections that the limit of open files allows.
fn limit() -> u64 {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(soft, _)| soft).saturating_sub(OTHER_FILES)
}

/// 1,000, 2,000, 5,000, 10,000 and so on, and the limit.
fn steps_to(limit: u64) -> Vec<u32> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX).min(1_000_000);
    let decades = (3..6).map(|power| 10u32.pow(power)).flat_map(|decade| [decade, 2 * decade, 5 * decade]);
    let mut steps: Vec<u32> = decades.filter(|&step| f64::from(step) < 0.95 * f64::from(limit)).collect();
    steps.push(limit);
    steps
}

/// Whether more than one number of connections is asked for.
pub(crate) fn is_stepped(own: &IdleOptions) -> bool {
    (own.to_limit || !own.steps.is_empty()) && own.options.keys_out.is_none()
}

/// Runs all steps, each against a server of its own where it is not given.
///
/// # Errors
/// A run could not be made.
pub(crate) fn run(own: &IdleOptions) -> Result<IdleSteps, Failure> {
    let options = &own.options;
    let limit = limit();
    let numbers = if own.steps.is_empty() { steps_to(limit) } else { own.steps.clone() };
    let program = match (&options.url, &options.relay) {
        (Some(_), _) => None,
        (None, Some(program)) => Some(program.clone()),
        (None, None) => Some(servers::relay_beside_us().map_err(Failure::Usage)?),
    };
    let mut machine = Machine::read();
    let mut steps = Vec::new();
    for connections in numbers {
        let step = Options { connections, ..options.clone() };
        steps.push(one(own, step, program.as_deref())?);
    }
    machine.load_after = measure::load_average();
    let marginal = marginal(&steps, |idle| grown(idle.used, idle));
    let limits = forecast::Machine::read(Path::new("/proc"), options.server_pid);
    let forecast = Forecast::new(cost(&steps), forecast::Relay::of(options.workers), &limits);
    let server = program.map_or_else(|| options.url.clone().unwrap_or_default(), |path| path.display().to_string());
    Ok(IdleSteps { machine, server, limit, steps, marginal, forecast })
}

/// What one more connection adds to something that grows with them, between the first step and the last.
fn marginal(steps: &[IdleStep], grown: impl Fn(&Idle) -> Option<f64>) -> Option<f64> {
    let (first, last) = (&steps.first()?.idle, &steps.last()?.idle);
    let connections = last.connections.checked_sub(first.connections).filter(|&more| more > 0)?;
    Some((grown(last)? - grown(first)?) / connections as f64)
}

/// What the relay's memory grew by.
fn grown(bytes: u64, idle: &Idle) -> Option<f64> {
    Some(bytes as f64 - idle.before as f64)
}

/// What the steps say of the cost: by what one more connection adds, or of a single step by its mean. What shrinks, as
/// noise makes it where there are few connections, costs nothing.
fn cost(steps: &[IdleStep]) -> Cost {
    let Some(last) = steps.last().map(|step| &step.idle) else { return Cost::default() };
    let unused = marginal(steps, |idle| grown(idle.connected, idle));
    let user = marginal(steps, |idle| grown(idle.used, idle));
    let user_bytes = user.unwrap_or(last.bytes_per_connection_used).max(0.0);
    let kernel =
        marginal(steps, |idle| idle.slab_growth_used).or_else(|| last.kernel_per_connection().map(|each| 2.0 * each));
    Cost {
        fixed_bytes: (last.used as f64 - user_bytes * last.connections as f64).max(0.0),
        unused_bytes: unused.unwrap_or(last.bytes_per_connection).max(0.0),
        user_bytes,
        kernel_bytes: kernel.map(|both_ends| both_ends.max(0.0) / 2.0),
    }
}

fn one(own: &IdleOptions, mut options: Options, program: Option<&Path>) -> Result<IdleStep, Failure> {
    let command = Command::Idle(IdleOptions { options: options.clone(), ..own.clone() });
    let server = match program {
        Some(program) => {
            let cpus = (!options.server_cpu.is_empty()).then_some(&options.server_cpu[..]);
            let most = Options { connections: options.connections.max(8), ..options.clone() };
            let keys = keys(&Command::Idle(IdleOptions { options: most.clone(), ..own.clone() }), &most)?;
            Some(Server::relay(program, &keys, options.workers, cpus)?)
        }
        None => None,
    };
    if let Some(server) = &server {
        options.url = Some(server.url().to_owned());
        options.server_pid = Some(server.pid());
        let (warm, mut small) = cli::parse(WARM)?;
        small.url.clone_from(&options.url);
        small.seed = options.seed;
        once(&warm, &small)?;
    }
    let report = once(&command, &options)?;
    let idle = report.idle.ok_or_else(|| Failure::Usage("idle steps need --server-pid beside --url".into()))?;
    let cpu_share = report.server.as_ref().map_or(0.0, |server| server.cpu_share);
    Ok(IdleStep { idle, cpu_share, is_right: report.is_right() })
}

impl Shown for IdleSteps {
    fn kind(&self) -> &'static str {
        "idle"
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "idle connections of {}; the limit of open files allows {}\n", self.server, self.limit);
        let _ = writeln!(
            out,
            "| connections | bytes each, unused | bytes each, used | by PSS, unused | by PSS, used | kernel, used | CPU share |"
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|---|");
        for step in &self.steps {
            let Idle { connections, bytes_per_connection, bytes_per_connection_used, .. } = step.idle;
            let known = |bytes: Option<f64>| bytes.map_or("-".into(), |bytes| format!("{bytes:.0}"));
            let _ = writeln!(
                out,
                "| {connections} | {bytes_per_connection:.0} | {bytes_per_connection_used:.0} | {} | {} | {} | {:.4} |",
                known(step.idle.pss_per_connection),
                known(step.idle.pss_per_connection_used),
                known(step.idle.kernel_per_connection()),
                step.cpu_share
            );
        }
        let _ = self.forecast.write(&mut out);
        out
    }

    fn is_right(&self) -> bool {
        self.steps.iter().all(|step| step.is_right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lead_to_the_limit() {
        assert_eq!(steps_to(19_900), [1000, 2000, 5000, 10_000, 19_900]);
        assert_eq!(steps_to(20_100), [1000, 2000, 5000, 10_000, 20_100]);
        assert_eq!(steps_to(900), [900]);
        assert_eq!(steps_to(u64::MAX).last(), Some(&1_000_000));
        assert!(limit() > 0);
    }

    fn step(connections: u64, used: u64, slab: Option<f64>) -> IdleStep {
        let idle = Idle {
            connections,
            before: 1_000_000,
            connected: used - 200_000,
            used,
            bytes_per_connection: (used - 1_200_000) as f64 / connections as f64,
            bytes_per_connection_used: (used - 1_000_000) as f64 / connections as f64,
            pss_per_connection: None,
            pss_per_connection_used: None,
            slab_growth: slab,
            slab_growth_used: slab,
        };
        IdleStep { idle, cpu_share: 0.0, is_right: true }
    }

    #[test]
    fn the_cost_is_what_one_more_connection_adds() {
        let steps = [step(1000, 2_000_000, Some(8e6)), step(3000, 3_000_000, Some(18e6))];
        let expected =
            Cost { fixed_bytes: 1_500_000.0, unused_bytes: 500.0, user_bytes: 500.0, kernel_bytes: Some(2500.0) };
        assert_eq!(cost(&steps), expected);
        let expected =
            Cost { fixed_bytes: 1_000_000.0, unused_bytes: 800.0, user_bytes: 1000.0, kernel_bytes: Some(4000.0) };
        assert_eq!(cost(&steps[..1]), expected, "of a single step its mean");
        let expected = Cost { fixed_bytes: 3_000_000.0, unused_bytes: 0.0, user_bytes: 0.0, kernel_bytes: None };
        assert_eq!(cost(&[step(10, 3_000_000, None), step(20, 3_000_000, None)]), expected);
        assert_eq!(cost(&[]), Cost::default());
    }
}
