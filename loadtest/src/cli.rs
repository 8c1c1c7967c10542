//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::failure::Failure;

/// Load harness of amp-relay.
#[derive(Clone, Debug, Parser)]
#[command(name = "loadtest", version, about, max_term_width = 110, subcommand_value_name = "SCENARIO")]
#[command(subcommand_help_heading = "Scenarios")]
#[command(after_help = "A run against a relay:\n  \
    loadtest pairs --keys-out keys        writes the lines for the relay's keys file (only for a relay under test:\n  \
    \u{20}                                     whoever knows the seed has the keys)\n  \
    loadtest pairs --url ws://127.0.0.1:5711 --server-pid $(pidof amp-relay)\n  \
    loadtest baseline --pattern pairs     the same bytes through a plain TCP forwarder, to compare with\n\n\
    Everything at once, with a relay of its own:\n  \
    loadtest table                        server CPU time for each delivery, as ratios to the baseline\n\n\
    Exits with 1 when a message was lost, doubled, misdirected, refused or out of order.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A scenario.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// A TCP forwarder without WebSocket, run here as a process of its own, driven by a pattern
    Baseline(BaselineOptions),
    /// Every client sends to its own DID
    Echo(Options),
    /// Sender i sends to receiver i
    Pairs(Options),
    /// Every client sends to all the others in turn, each in its own seeded order
    Scatter(Options),
    /// One client sends messages whose `to` names all the others
    Fanout(Options),
    /// Opens WebSockets and resets them, without signing in
    Connect(Options),
    /// Signs in, holds the connections, and says what one costs in memory before and after a message of 4 KiB each way
    Idle(IdleOptions),
    /// Ends all connections at once and lets every client come back: connect, upgrade, HELLO
    Storm(Options),
    /// Healthy pairs beside readers that stop reading: what those cost in memory and in the latency of the healthy
    Stalled(StalledOptions),
    /// Latency over throughput: as much as goes, then fixed shares of that in an open loop
    Curve(CurveOptions),
    /// Prompts to sessions over /session: each connection has a session of its own
    Session(Options),
    /// The table of ratios to the baseline: starts baseline and relay itself, in interleaved rounds, on CPUs of their own
    Table(TableOptions),
    /// One HTML page without anything from elsewhere: of the JSON of runs, or of a short set of runs made now
    Report(PageOptions),
    /// The forwarder alone, until it is ended: prints its address
    BaselineServer(BaselineServer),
}

impl Command {
    /// The options of a scenario; `None` for what is none.
    pub fn options(&self) -> Option<&Options> {
        match self {
            Self::Baseline(baseline) => Some(&baseline.options),
            Self::Echo(options)
            | Self::Pairs(options)
            | Self::Scatter(options)
            | Self::Fanout(options)
            | Self::Connect(options)
            | Self::Storm(options)
            | Self::Session(options) => Some(options),
            Self::Idle(idle) => Some(&idle.options),
            Self::Stalled(stalled) => Some(&stalled.options),
            Self::Curve(curve) => Some(&curve.options),
            Self::Table(_) | Self::Report(_) | Self::BaselineServer(_) => None,
        }
    }

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Baseline(_) => "baseline",
            Self::Echo(_) => "echo",
            Self::Pairs(_) => "pairs",
            Self::Scatter(_) => "scatter",
            Self::Fanout(_) => "fanout",
            Self::Connect(_) => "connect",
            Self::Idle(_) => "idle",
            Self::Session(_) => "session",
            Self::Storm(_) => "storm",
            Self::Stalled(_) => "stalled",
            Self::Curve(curve) => match curve.pattern {
                Pattern::Echo => "echo",
                Pattern::Scatter => "scatter",
                Pattern::Fanout => "fanout",
                Pattern::Pairs | Pattern::Flood => "pairs",
            },
            Self::Table(_) => "table",
            Self::Report(_) => "report",
            Self::BaselineServer(_) => "baseline-server",
        }
    }
}

/// The senders and their receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Every client to itself.
    Echo,
    /// Sender i to receiver i.
    Pairs,
    /// Every client to all the others in turn.
    Scatter,
    /// One client to all the others at once.
    Fanout,
    /// A few clients to all the others, which may stop reading.
    #[value(skip)]
    Flood,
}

/// What every scenario takes.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where the server is: ws://HOST:PORT for a relay, tcp://HOST:PORT for a baseline
    #[arg(long)]
    pub url: Option<String>,
    /// Clients; in fanout the receivers, in connect how many are being opened at a time, in stalled the readers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// Pairs of sender and receiver, for the pattern of that name
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub pairs: u32,
    /// Messages in flight per sender. With --rate: the most, 1024 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub depth: Option<u32>,
    /// Bytes of payload; the envelope comes on top. 128 unless given, 4096 in idle
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(24..=64 << 20))]
    pub size: Option<u32>,
    /// Messages a second of all senders together, sent at their times whether or not answers come (open loop).
    /// Without it every sender keeps --depth messages in flight (closed loop). In stalled: to the readers, 10,000
    /// unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Seconds that are measured
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds of load before that, which do not count
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub warmup: f64,
    /// The `ttl` of the messages in milliseconds; 0 is "now or never"
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub ttl: u32,
    /// Check the order of each sender and receiver in scatter too (the other patterns always do)
    #[arg(long)]
    pub verify: bool,
    /// Sign every message. Costs the harness some 20 us each; without it messages carry 64 bytes that are no signature
    #[arg(long)]
    pub sign: bool,
    /// Write the authorized_keys lines of the keys this run will use, and exit
    #[arg(long, value_name = "FILE")]
    pub keys_out: Option<PathBuf>,
    /// What keys and orders come from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Without --url: start this relay for the run, with the keys it needs, in a scratch folder
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub relay: Option<PathBuf>,
    /// Workers of that relay
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// CPUs of the server that is started here, baseline or relay
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    pub server_cpu: Vec<usize>,
    /// Process of the server, for its CPU time and memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Threads of the harness; each drives a group of clients that talk among themselves
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Pin the threads to CPUs from this one on
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,
    /// Another server, driven by turns with the first: prints ratios, first by second
    #[arg(long, value_name = "URL")]
    pub compare: Option<String>,
    /// Process of that server
    #[arg(long, value_name = "PID", requires = "compare")]
    pub compare_pid: Option<u32>,
    /// Rounds of a comparison
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Pairs only: dial each receiver again until /stats says that it is on another worker than its sender
    #[arg(long)]
    pub cross_workers: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What the table takes.
#[derive(Args, Clone, Debug)]
pub struct TableOptions {
    /// Rows to measure, by name; all unless given. An unknown name lists them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub rows: Vec<String>,
    /// The relay's program [default: amp-relay beside this program]
    #[arg(long, value_name = "PATH")]
    pub relay: Option<PathBuf>,
    /// Compare with another relay's program instead of the baseline
    #[arg(long, value_name = "PATH")]
    pub base: Option<PathBuf>,
    /// Rounds of each row; a round is base, relay, base
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Seconds of each window
    #[arg(long, value_name = "N", default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds of load before each window
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = seconds)]
    pub warmup: f64,
    /// CPUs of the server [default: the first]
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    pub server_cpu: Vec<usize>,
    /// CPU of the harness [default: the first that the server has not]
    #[arg(long, value_name = "CPU")]
    pub load_cpu: Option<usize>,
    /// Runs of the table that other programs disturb, by more than a tenth of a CPU, are made again: attempts at most
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,
    /// Let the system place server and harness
    #[arg(long)]
    pub no_pin: bool,
    /// What keys and orders come from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What the baseline takes.
#[derive(Args, Clone, Debug)]
pub struct BaselineOptions {
    /// Who sends to whom
    #[arg(long, value_enum, default_value_t = Pattern::Pairs)]
    pub pattern: Pattern,
    /// The rest.
    #[command(flatten)]
    pub options: Options,
}

/// What idle takes.
#[derive(Args, Clone, Debug)]
pub struct IdleOptions {
    /// Numbers of connections to do it with one after the other, instead of --connections
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steps: Vec<u32>,
    /// Do it with 1,000, 2,000, 5,000 and so on, up to the limit of open files
    #[arg(long, conflicts_with = "steps")]
    pub to_limit: bool,
    /// The rest.
    #[command(flatten)]
    pub options: Options,
}

/// What stalled takes: --connections are the readers, --rate is what they get.
#[derive(Args, Clone, Debug)]
pub struct StalledOptions {
    /// The rest.
    #[command(flatten)]
    pub options: Options,
}

/// What a curve takes.
#[derive(Args, Clone, Debug)]
pub struct CurveOptions {
    /// Who sends to whom
    #[arg(long, value_enum, default_value_t = Pattern::Pairs)]
    pub pattern: Pattern,
    /// Rates to measure, in percent of the closed loop's
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = [10, 20, 30, 40, 50, 60, 70, 80, 90],
          value_parser = clap::value_parser!(u32).range(1..=200))]
    pub steps: Vec<u32>,
    /// Runs of a curve that other programs disturb, by more than a tenth of a CPU, are made again: attempts at most
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,
    /// The rest.
    #[command(flatten)]
    pub options: Options,
}

/// What a report takes.
#[derive(Args, Clone, Debug)]
pub struct PageOptions {
    /// JSON of runs, as --json prints it, one object a line; without any a short set of runs is made
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "loadtest.html")]
    pub out: PathBuf,
    /// Its title
    #[arg(long, value_name = "TEXT", default_value = "amp-relay under load")]
    pub title: String,
    /// The date it shows [default: that of the first run]
    #[arg(long, value_name = "TEXT")]
    pub date: Option<String>,
    /// Runs made now: the relay's program [default: amp-relay beside this program]
    #[arg(long, value_name = "PATH")]
    pub relay: Option<PathBuf>,
    /// Runs made now: rows of the table
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "pairs-1,pairs-16,scatter-16,echo-16")]
    pub rows: Vec<String>,
    /// Runs made now: seconds of each window
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = seconds)]
    pub seconds: f64,
    /// Runs made now: those of table and curve that other programs disturb, by more than a tenth of a CPU, are made again: attempts at most
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,
    /// Runs made now: numbers of idle connections
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000,2000,5000",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub idle: Vec<u32>,
    /// Runs made now: readers that stall; 0 leaves that out
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub stalled: u32,
}

/// What the forwarder takes.
#[derive(Args, Clone, Debug)]
pub struct BaselineServer {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Pin it to a CPU
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,
    /// End when standard input does
    #[arg(long, hide = true)]
    pub until_eof: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        _ => Err("not a number of seconds up to a day".into()),
    }
}

/// A scenario as it would be typed, and its options.
pub(crate) fn parse(line: &str) -> Result<(Command, Options), Failure> {
    let words = std::iter::once("loadtest").chain(line.split_ascii_whitespace());
    let command = Cli::try_parse_from(words).map_err(|error| Failure::Usage(error.to_string()))?.command;
    let options = command.options().cloned();
    options.map(|options| (command, options)).ok_or_else(|| Failure::Usage(format!("`{line}` is no scenario")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_names_that_others_rely_on() {
        let cli = Cli::try_parse_from([
            "loadtest",
            "pairs",
            "--url",
            "ws://127.0.0.1:1",
            "--connections",
            "4",
            "--pairs",
            "2",
            "--depth",
            "16",
            "--size",
            "128",
            "--rate",
            "100",
            "--seconds",
            "2",
            "--keys-out",
            "f",
            "--server-pid",
            "1",
            "--json",
            "--warmup",
            "0.5",
            "--seed",
            "7",
        ])
        .expect("understood");
        let options = cli.command.options().expect("options");
        assert_eq!((options.pairs, options.depth, options.rate, options.seed), (2, Some(16), Some(100), 7));
        assert!(options.json && options.warmup == 0.5);
        assert!(Cli::try_parse_from(["loadtest", "pairs", "--size", "23"]).is_err());
        assert!(Cli::try_parse_from(["loadtest", "pairs", "--seconds", "-1"]).is_err());
    }

    #[test]
    fn only_scenarios_are_parsed_as_such() {
        assert!(parse("pairs --depth 1").is_ok());
        assert!(parse("baseline-server").is_err() && parse("nonsense").is_err());
    }
}
