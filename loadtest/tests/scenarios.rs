//! Every scenario against the baseline and against an AMP endpoint of the tests, right and wrong.

mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use clap::Parser as _;
use loadtest::{Baseline, Checks, Cli, Report, Shown as _};

use crate::support::Fault;

fn try_run(arguments: &str) -> Result<Option<Report>, String> {
    let words = ["loadtest"].into_iter().chain(arguments.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    loadtest::run(&cli.command).map_err(|failure| format!("{failure:?}"))
}

#[track_caller]
fn run(arguments: &str) -> Report {
    try_run(&format!("{arguments} --seconds 0.4 --warmup 0.1")).expect("a run").expect("a report")
}

#[track_caller]
fn right(report: &Report) {
    assert!(report.is_right(), "{}", report.text());
    assert!(report.delivered > 0 && report.latency.count > 0, "{}", report.text());
    assert!(report.latency.p50_us > 0.0 && report.latency.p50_us <= report.latency.max_us);
}

fn baseline() -> Baseline {
    Baseline::start(Path::new(env!("CARGO_BIN_EXE_loadtest")), None).expect("the baseline")
}

/// The relay's program: the one that `AMP_RELAY_TEST_PROGRAM` names (`tests/run` has just built it), or one that is built
/// here, since a test of this package alone does not make it.
fn relay() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(program) = env::var_os("AMP_RELAY_TEST_PROGRAM") {
            return program.into();
        }
        let mut build = process::Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--offline", "--package", "amp-relay", "--bin", "amp-relay"]);
        let folder = Path::new(env!("CARGO_BIN_EXE_loadtest")).parent().expect("a folder");
        if folder.file_name().is_some_and(|name| name == "release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the relay is built");
        folder.join("amp-relay")
    })
}

/// Runs the program, and reads the JSON object it prints.
#[track_caller]
fn json(arguments: &str) -> serde_json::Value {
    let mut program = process::Command::new(env!("CARGO_BIN_EXE_loadtest"));
    let output = program.args(arguments.split_whitespace()).arg("--json").output().expect("it runs");
    assert!(output.status.success(), "{arguments}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
#[ignore = "half a minute: ./tests/run --full"]
fn the_table_runs_baseline_and_relay_by_turns() {
    let relay = relay().display();
    let brief = "--rounds 2 --seconds 0.2 --warmup 0.05 --attempts 1";
    let table = json(&format!("table --rows pairs-16,connect,two-workers --relay {relay} {brief}"));
    let rows = table["rows"].as_array().expect("rows");
    assert_eq!(
        rows.iter().map(|row| row["base"].as_str()).collect::<Vec<_>>(),
        [Some("baseline"), Some("baseline"), Some("one worker")]
    );
    for row in rows {
        assert_eq!(row["rounds"].as_array().map(Vec::len), Some(2), "{row}");
        assert!(row["ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{row}");
        assert!(row["base_to_base"]["median"].as_f64().is_some_and(|ratio| ratio >= 1.0), "{row}");
    }
    let same = json(&format!(
        "table --rows echo-1 --no-pin --relay {relay} --base {relay} --rounds 1 --attempts 1 --seconds 0.2"
    ));
    assert_eq!(same["rows"][0]["base"], relay.to_string());
    assert_eq!(same["places"], "server on any CPU, load on any CPU");
}

#[test]
fn a_plain_scenario_starts_a_relay_of_its_own() {
    let report = json(&format!("pairs --pairs 3 --depth 4 --seconds 0.2 --warmup 0 --relay {}", relay().display()));
    assert!(report["server"]["us_per_message"].as_f64().is_some_and(|us| us > 0.0), "{report}");
    let quantiles = report["percentiles"].as_array().expect("a distribution");
    assert!(quantiles.len() > 20 && quantiles.windows(2).all(|two| two[0][1].as_f64() <= two[1][1].as_f64()));
}

#[test]
fn every_client_comes_back_after_a_storm() {
    let report = json(&format!("storm --connections 60 --threads 2 --relay {}", relay().display()));
    assert_eq!((report["delivered"].as_u64(), report["latency"]["count"].as_u64()), (Some(60), Some(60)), "{report}");
    assert_eq!(report["steps"]["handshake"]["count"], 60);
    let url = support::start(Fault::None, false);
    right(&run(&format!("storm --connections 20 --url {url}")));
}

#[test]
fn readers_that_stall_are_counted_beside_healthy_pairs() {
    let stalled = json(&format!(
        "stalled --connections 20 --pairs 4 --depth 2 --rate 4000 --seconds 0.6 --warmup 0.1 --relay {}",
        relay().display()
    ));
    assert_eq!(stalled["kind"], "stalled");
    for window in ["control", "stalled"] {
        assert!(stalled[window]["latency"]["count"].as_u64().is_some_and(|count| count > 0), "{stalled}");
        assert!(stalled[window]["p99_us"]["max"].as_f64() >= stalled[window]["p99_us"]["min"].as_f64());
    }
    let readers = &stalled["readers"];
    assert!(readers["delivered_in_control"].as_u64().is_some_and(|count| count > 0), "{readers}");
    // What lay in the receivers' buffers may come late; while they sleep nothing is read.
    assert!(readers["delivered_after"].as_u64().is_some_and(|count| count > 0), "{readers}");
    assert!(stalled["memory"]["peak"].as_u64() >= stalled["memory"]["before"].as_u64(), "{stalled}");
}

#[test]
fn a_curve_goes_through_the_rates_it_is_asked_for() {
    let baseline = baseline();
    let curve = json(&format!(
        "curve --pattern echo --connections 4 --steps 5,20 --attempts 1 --seconds 0.3 --warmup 0.05 --url {} --server-pid {}",
        baseline.url(),
        baseline.pid()
    ));
    let percents: Vec<_> = curve["points"].as_array().expect("points").iter().map(|point| &point["percent"]).collect();
    assert_eq!((curve["scenario"].as_str(), percents), (Some("echo"), vec![&5.into(), &20.into()]));
    for point in curve["points"].as_array().expect("points") {
        assert!(point["latency"]["count"].as_u64().is_some_and(|count| count > 0), "{point}");
    }
}

#[test]
fn idle_connections_are_held_in_steps() {
    let idle = json(&format!("idle --steps 10,40 --seconds 0.1 --warmup 0 --relay {}", relay().display()));
    let steps = idle["steps"].as_array().expect("steps");
    assert_eq!(steps.iter().map(|step| step["connections"].as_u64()).collect::<Vec<_>>(), [Some(10), Some(40)]);
    for step in steps {
        assert!(step["pss_per_connection_used"].is_number() && step["is_right"] == true, "{step}");
    }
    assert!(idle["marginal"].is_number() && idle["limit"].as_u64().is_some_and(|limit| limit > 0));
    let targets = idle["forecast"]["targets"].as_array().expect("targets");
    assert_eq!(
        targets.iter().map(|target| target["connections"].as_u64()).collect::<Vec<_>>(),
        [Some(100_000), Some(1_000_000)]
    );
    let limits = idle["forecast"]["limits"].as_array().expect("limits");
    for setting in ["RLIMIT_NOFILE (hard)", "fs.nr_open", "fs.epoll.max_user_watches", "ConnToken::SLOTS_MAX"] {
        assert!(limits.iter().any(|limit| limit["setting"] == setting), "{setting}: {limits:?}");
    }
    assert!(idle["command"].as_str().is_some_and(|command| command.starts_with("loadtest idle --steps 10,40 ")));
}

#[test]
#[ignore = "half a minute: ./tests/run --full"]
fn a_report_is_one_page_of_runs() {
    let scratch = tempfile::tempdir().expect("a folder");
    let path = |name: &str| scratch.path().join(name);
    let page = |arguments: &[&str]| {
        let mut program = process::Command::new(env!("CARGO_BIN_EXE_loadtest"));
        program.arg("report").args(arguments).args(["--out".as_ref(), path("page.html").as_os_str()]);
        let output = program.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        fs::read_to_string(path("page.html")).expect("a page")
    };
    let baseline = baseline();
    let runs = [
        json(&format!("pairs --pairs 2 --seconds 0.2 --warmup 0 --url {}", baseline.url())),
        json(&format!("curve --pairs 2 --steps 10,30 --attempts 1 --seconds 0.2 --warmup 0 --url {}", baseline.url())),
    ];
    fs::write(path("runs.json"), runs.map(|run| run.to_string()).join("\n")).expect("a file");
    let made = page(&[path("runs.json").to_str().expect("a path"), "--date", "some day"]);
    for shown in ["some day", "Latency by percentile", "Latency over throughput", "<polyline"] {
        assert!(made.contains(shown), "{shown}");
    }
    let relay = relay().to_str().expect("a path");
    let made = page(&[
        "--relay",
        relay,
        "--attempts",
        "1",
        "--rows",
        "echo-1",
        "--seconds",
        "0.2",
        "--idle",
        "10,20",
        "--stalled",
        "5",
    ]);
    let sections = ["Server CPU time for each delivery", "Memory of idle connections", "Readers that stall"];
    for shown in sections.into_iter().chain(["What breaks first", "<code>loadtest idle --steps 10,20 ", "UTC"]) {
        assert!(made.contains(shown), "{shown}");
    }
    assert!(!made.contains("http://") && !made.contains("https://") && !made.contains("<script"));
}

#[test]
fn two_servers_are_compared() {
    let (first, second) = (baseline(), baseline());
    let compared = json(&format!(
        "echo --connections 4 --url {} --server-pid {} --compare {} --compare-pid {} --rounds 2 --seconds 0.2 --warmup 0",
        first.url(),
        first.pid(),
        second.url(),
        second.pid()
    ));
    assert_eq!(
        (compared["first"].as_array().map(Vec::len), compared["second"][1]["url"].as_str()),
        (Some(2), Some(second.url()))
    );
    for figure in ["cpu", "rate", "p50", "p99"] {
        assert!(compared[figure]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{figure}: {compared}");
    }
}

#[test]
fn every_pattern_goes_through_the_baseline() {
    let baseline = baseline();
    for scenario in [
        "pairs --pairs 5 --depth 16",
        "pairs --pairs 4 --depth 4 --threads 2",
        "pairs --pairs 2 --size 16384 --depth 16",
        "pairs --pairs 1 --size 1000000 --depth 2",
        "echo --connections 7 --depth 3",
        "scatter --connections 10 --depth 4 --verify",
        "scatter --connections 2",
        "fanout --connections 70 --depth 2",
        "pairs --pairs 3 --rate 2000",
    ] {
        let report = run(&format!("{scenario} --url {} --server-pid {}", baseline.url(), baseline.pid()));
        right(&report);
        assert!(report.server.is_some() && report.own_cpu_share.is_some());
    }
}

#[test]
fn every_pattern_goes_through_an_amp_endpoint() {
    let url = support::start(Fault::None, false);
    for scenario in [
        "pairs --pairs 5 --depth 16",
        "pairs --pairs 2 --size 16384 --depth 4",
        "echo --connections 7 --depth 3",
        "scatter --connections 10 --depth 4",
        "fanout --connections 20 --depth 2",
        "pairs --pairs 3 --rate 500",
        "connect --connections 4",
    ] {
        let report = run(&format!("{scenario} --url {url}"));
        right(&report);
    }
    let report = run(&format!("pairs --pairs 2 --url {url}"));
    assert_eq!(report.setting.message_bytes, 375);
}

#[test]
fn signed_messages_hold() {
    let url = support::start(Fault::None, true);
    for scenario in
        ["pairs --pairs 2 --ttl 60000", "scatter --connections 4", "fanout --connections 3", "echo --connections 2"]
    {
        right(&run(&format!("{scenario} --sign --url {url}")));
    }
}

#[test]
fn what_goes_wrong_is_seen() {
    let checks = |fault| -> Checks {
        let url = support::start(fault, false);
        let report = run(&format!("echo --connections 3 --depth 8 --url {url}"));
        assert!(!report.is_right(), "{fault:?}: {}", report.text());
        report.checks
    };
    assert!(checks(Fault::Double).doubled > 0);
    assert!(checks(Fault::Forge).foreign > 0);
    let refused = checks(Fault::Refuse);
    assert_eq!((refused.lost, refused.refused.keys().next().map(String::as_str)), (0, Some("2003 nothing is kept")));
    let closed = checks(Fault::Close);
    assert!(closed.dead > 0 && closed.problems.iter().any(|problem| problem.contains("enough")), "{closed:?}");
}

#[test]
fn what_is_lost_is_missed() {
    for fault in [Fault::Lose, Fault::Misdirect] {
        let url = support::start(fault, false);
        let report = run(&format!("echo --connections 2 --depth 4 --rate 2000 --url {url}"));
        assert!(report.checks.lost > 0, "{fault:?}: {}", report.text());
        assert_eq!(report.checks.misdirected > 0, fault == Fault::Misdirect);
        assert_eq!(report.checks.sent, report.checks.delivered + report.checks.lost, "{}", report.text());
    }
}

#[test]
fn idle_connections_are_held_and_used() {
    let url = support::start(Fault::None, false);
    let report = run(&format!("idle --connections 20 --url {url} --server-pid {}", process::id()));
    assert!(report.is_right(), "{}", report.text());
    assert_eq!(report.checks.delivered, 20, "one message each");
    assert_eq!(report.idle.map(|idle| idle.connections), Some(20));
}

#[test]
fn keys_are_written_and_nothing_else_happens() {
    let scratch = tempfile::tempdir().expect("a folder");
    let keys = |scenario: &str, name: &str| {
        let path = scratch.path().join(name);
        let report = try_run(&format!("{scenario} --keys-out {}", path.display())).expect("it went well");
        assert!(report.is_none());
        fs::read_to_string(path).expect("the file")
    };
    let agents = keys("pairs --pairs 3", "a");
    assert_eq!(agents.lines().count(), 6);
    assert!(agents.lines().all(|line| line.starts_with("amp-role=\"agent\" ssh-ed25519 ")));
    assert_eq!(agents, keys("pairs --pairs 3", "b"));
    assert!(agents.starts_with(&keys("echo --connections 2", "c")), "one list for all scenarios of a seed");
    assert_ne!(agents, keys("pairs --pairs 3 --seed 2", "d"));
    assert_eq!(keys("fanout --connections 3", "e").lines().count(), 4);
    assert!(keys("session --connections 1", "f").starts_with("amp-role=\"spawn\" "));
}

#[test]
fn command_lines_without_sense_are_refused() {
    for (arguments, why) in [
        ("pairs", "needs --url"),
        ("pairs --url http://127.0.0.1:1", "neither"),
        ("baseline --url ws://127.0.0.1:1", "not a relay"),
        ("fanout --threads 2 --url tcp://127.0.0.1:1", "one sender"),
        ("scatter --connections 3 --threads 2 --url tcp://127.0.0.1:1", "too few"),
        ("scatter --connections 1 --url tcp://127.0.0.1:1", "too few"),
        ("echo --cross-workers --url ws://127.0.0.1:1", "pairs"),
        ("echo --server-pid 4294967295 --url tcp://127.0.0.1:1", "no process"),
    ] {
        let refused = try_run(arguments).expect_err(arguments);
        assert!(refused.contains("Usage") && refused.contains(why), "{arguments}: {refused}");
    }
}

#[test]
fn the_program_reports_in_json_and_by_its_exit_code() {
    let output = |arguments: &[&str]| {
        process::Command::new(env!("CARGO_BIN_EXE_loadtest")).args(arguments).output().expect("it runs")
    };
    let brief = ["--seconds", "0.3", "--warmup", "0", "--json"];
    let right = output(&[&["baseline", "--pattern", "scatter", "--connections", "4"][..], &brief].concat());
    assert_eq!(right.status.code(), Some(0), "{right:?}");
    let report: serde_json::Value = serde_json::from_slice(&right.stdout).expect("one object");
    assert_eq!(report["scenario"], "baseline scatter");
    assert!(report["server"]["us_per_message"].is_number() && report["machine"]["cores"].is_number());
    let url = support::start(Fault::Double, false);
    let wrong = output(&[&["echo", "--connections", "1", "--url", &url][..], &brief].concat());
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert_eq!(output(&["table", "--rows", "nonsense"]).status.code(), Some(2));
    assert_eq!(output(&["echo"]).status.code(), Some(2));
    assert_eq!(output(&["echo", "--url", "tcp://127.0.0.1:1"]).status.code(), Some(1), "nobody listens there");
}
