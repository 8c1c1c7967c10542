//! One HTML page of runs: table, latency, curve, memory, machine. It holds everything it shows and loads nothing.
//!
//! Reads what `--json` prints, by the field `kind`; must not measure by itself but for the short set of runs that is made
//! when no file is given. What a run shows is its section's: [`sections`], [`memory`].

mod html;
mod memory;
mod sections;
mod svg;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use self::html::{escape, figure, list, number, row, table_end, table_start, text, words};
use crate::{
    cli::{Cli, Command, PageOptions},
    curve,
    failure::Failure,
    idle,
    report::{Shown, command_line},
    servers::{self, Places},
    stalled, table,
};

const STYLE: &str = include_str!("style.css");

/// Writes the page; says whether every delivery of the runs that were made was right.
///
/// # Errors
/// A file cannot be read or written, or a run could not be made.
pub(crate) fn run(options: &PageOptions) -> Result<bool, Failure> {
    let (runs, is_right) = if options.files.is_empty() { measure(options)? } else { (read(&options.files)?, true) };
    if runs.is_empty() {
        return Err(Failure::Usage("the files hold no runs".into()));
    }
    let command = command_line(std::env::args().skip(1));
    let page = page(&options.title, options.date.as_deref(), &command, &runs);
    fs::write(&options.out, page).map_err(|error| format!("{}: {error}", options.out.display()))?;
    Ok(is_right)
}

/// The objects of the files, one after the other.
fn read(files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
    let mut runs = Vec::new();
    for path in files {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{shown}: {error}")))?;
        for value in serde_json::Deserializer::from_str(&text).into_iter() {
            let value: Value = value.map_err(|error| Failure::Usage(format!("{shown}: {error}")))?;
            if !value["kind"].is_string() {
                return Err(Failure::Usage(format!("{shown}: an object without `kind` is none that --json printed")));
            }
            runs.push(value);
        }
    }
    Ok(runs)
}

/// A short set of runs.
fn measure(options: &PageOptions) -> Result<(Vec<Value>, bool), Failure> {
    let relay = match &options.relay {
        Some(path) => path.clone(),
        None => servers::relay_beside_us().map_err(Failure::Usage)?,
    };
    let places = Places::choose(&[], None, true);
    let mut pins = String::new();
    if let (Some(server), Some(load)) = (places.server.as_deref().and_then(<[usize]>::first), places.load) {
        let _ = write!(pins, " --server-cpu {server} --cpu {load}");
    }
    let (seconds, attempts, relay) = (options.seconds, options.attempts, relay.as_path());
    let warmup = seconds / 4.0;
    let (mut runs, mut is_right) = (Vec::new(), true);
    // Each run carries the command that makes it again.
    let mut add = |mut value: Value, line: &str, right: bool| {
        is_right &= right;
        value["command"] = format!("loadtest {line}").into();
        runs.push(value);
    };
    let line = format!("table --rows {} --seconds {seconds} --attempts {attempts}", options.rows.join(","));
    if let Command::Table(own) = command(&line, relay)? {
        let table = table::run(&own)?;
        add(table.value(), &line, table.is_right());
    }
    let line =
        format!("curve --steps 10,30,50,70,90 --seconds {seconds} --warmup {warmup} --attempts {attempts}{pins}");
    if let Command::Curve(own) = command(&line, relay)? {
        let curve = curve::run(&own)?;
        add(curve.value(), &line, curve.is_right());
    }
    let numbers: Vec<_> = options.idle.iter().map(u32::to_string).collect();
    let line = format!("idle --steps {} --seconds {seconds} --warmup 0.2{pins}", numbers.join(","));
    if let Command::Idle(own) = command(&line, relay)? {
        let steps = idle::run(&own)?;
        add(steps.value(), &line, steps.is_right());
    }
    if options.stalled > 0 {
        let line = format!("stalled --connections {} --seconds {}{pins}", options.stalled, 3.0 * seconds);
        if let Command::Stalled(own) = command(&line, relay)? {
            let stalled = stalled::run(&own)?;
            add(stalled.value(), &line, stalled.is_right());
        }
    }
    Ok((runs, is_right))
}

/// A command as it would be typed, with this relay.
fn command(line: &str, relay: &Path) -> Result<Command, Failure> {
    let words = ["loadtest"].into_iter().chain(line.split_ascii_whitespace()).map(Into::into);
    let words = words.chain(["--relay".into(), relay.as_os_str().to_owned()]);
    let cli = <Cli as clap::Parser>::try_parse_from(words).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(cli.command)
}

fn page(title: &str, date: Option<&str>, command: &str, runs: &[Value]) -> String {
    let of_kind = |kind: &'static str| runs.iter().filter(move |run| text(run, "/kind") == kind);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{0}</title><style>{STYLE}</style></head><body>\
         <h1>{0}</h1>",
        escape(title)
    );
    facts(&mut out, date, command, runs);
    of_kind("table").for_each(|run| sections::table_of(&mut out, run));
    of_kind("comparison").for_each(|run| sections::comparison(&mut out, run));
    sections::percentiles(&mut out, runs);
    of_kind("curve").for_each(|run| sections::curve_of(&mut out, run));
    of_kind("idle").for_each(|run| memory::section(&mut out, run));
    of_kind("stalled").for_each(|run| sections::stalled_of(&mut out, run));
    sections::plain(&mut out, &of_kind("run").collect::<Vec<_>>());
    origins(&mut out, runs);
    out.push_str(
        "<footer>Made by <code>loadtest report</code>. CPU time is the server process's own clock, all threads. Latency \
         counts from when a message should have been sent, so that a server that stalls cannot hide it. \"us\" are \
         microseconds, KiB, MiB and GiB are powers of 1024.</footer></body></html>\n",
    );
    out
}

/// The machine of a run; a comparison has it in its rounds.
fn machine_of(run: &Value) -> &Value {
    run.get("machine").or_else(|| run.pointer("/first/0/machine")).unwrap_or(&Value::Null)
}

/// What may not differ between runs that are compared.
fn machine_name(run: &Value) -> String {
    let machine = machine_of(run);
    let (cpu, cores) = (text(machine, "/cpu"), figure(number(machine, "/cores"), 0));
    format!("{cpu}, {cores} cores, {}", text(machine, "/kernel"))
}

/// Whether the runs are of one machine.
fn is_one_machine(runs: &[Value]) -> bool {
    runs.windows(2).all(|two| machine_name(&two[0]) == machine_name(&two[1]))
}

fn facts(out: &mut String, date: Option<&str>, command: &str, runs: &[Value]) {
    let edge = |run: Option<&Value>, pointer: &str| run.map_or("", |run| text(machine_of(run), pointer)).to_owned();
    let (first, last) = (runs.first(), runs.last());
    let cores = figure(first.and_then(|run| number(machine_of(run), "/cores")), 0);
    let several = "several, see how it was measured".to_owned();
    let of_machine = |fact: String| if is_one_machine(runs) { fact } else { several.clone() };
    out.push_str("<dl>");
    for (name, fact) in [
        ("Date", date.map_or_else(|| edge(first, "/date"), str::to_owned)),
        ("CPU", of_machine(edge(first, "/cpu"))),
        ("Cores", of_machine(cores)),
        ("Kernel", of_machine(edge(first, "/kernel"))),
        ("Load before", edge(first, "/load_before")),
        ("Load after", edge(last, "/load_after")),
    ] {
        let fact = if fact.is_empty() { "not known" } else { fact.as_str() };
        let _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", escape(fact));
    }
    let _ = write!(out, "<dt>Command</dt><dd><code>{}</code></dd></dl>", escape(command));
    let _ = write!(
        out,
        "<p class=\"soft\">Load averages are those of 1, 5 and 15 minutes, before the first run and after the last.</p>"
    );
    let wrong = runs.iter().filter(|run| run["is_right"] == false).count();
    if wrong > 0 {
        let _ = write!(
            out,
            "<p class=\"missed\"><strong>{wrong} of {} runs were wrong</strong>: deliveries were lost, doubled, refused, out \
             of order or misdirected. Their figures say nothing.</p>",
            runs.len()
        );
    }
}

/// Where each figure comes from: when, under which load, by which command, and whether all went right.
fn origins(out: &mut String, runs: &[Value]) {
    out.push_str("<h2>How it was measured</h2>");
    let with_machine = !is_one_machine(runs);
    let mut heads = vec!["run", "date", "load before", "load after", "deliveries", "<command"];
    if with_machine {
        heads.push("<machine");
    }
    table_start(out, &heads);
    for run in runs {
        let machine = machine_of(run);
        let fact = |pointer: &str| match text(machine, pointer) {
            "" => "-".to_owned(),
            fact => escape(fact),
        };
        let verdict = match run["is_right"].as_bool() {
            Some(true) => "<span class=\"reached\">all right</span>",
            Some(false) => "<span class=\"missed\">WRONG</span>",
            None => "-",
        };
        let mut cells = vec![
            escape(text(run, "/kind")),
            fact("/date"),
            fact("/load_before"),
            fact("/load_after"),
            verdict.to_owned(),
            match text(run, "/command") {
                "" => "-".to_owned(),
                command => words(&format!("<code>{}</code>", escape(command))),
            },
        ];
        if with_machine {
            cells.push(words(&escape(&machine_name(run))));
        }
        row(out, "td", &cells);
    }
    table_end(out);
    let of = |run: &Value| -> Vec<String> {
        let warnings = list(run, "/warnings").chain(list(run, "/most/warnings")).filter_map(Value::as_str);
        warnings.map(|warning| format!("{}: {warning}", text(run, "/kind"))).collect()
    };
    let warnings: Vec<String> = runs.iter().flat_map(of).collect();
    if !warnings.is_empty() {
        out.push_str("<ul class=\"missed\">");
        warnings.iter().for_each(|warning| {
            let _ = write!(out, "<li>{}</li>", escape(warning));
        });
        out.push_str("</ul>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_what_it_is_given_and_nothing_from_elsewhere() {
        let run = serde_json::json!({
            "kind": "run", "scenario": "pairs <x>", "url": "ws://h", "percentiles": [[0.0, 10.0], [0.99, 300.0]],
            "setting": {"connections": 4}, "machine": {"cpu": "C & P", "cores": 2, "date": "2026-01-02 03:04 UTC"},
        });
        let page = page("A <title>", None, "loadtest report --title 'A <title>'", &[run]);
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        for shown in ["A &lt;title&gt;", "C &amp; P", "2026-01-02 03:04 UTC", "pairs &lt;x&gt;", "<svg "] {
            assert!(page.contains(shown), "{shown}");
        }
        for outside in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<td>").count(), page.matches("</td>").count());
    }

    /// A page of these runs without what the browser need not see to show it.
    fn page_of(runs: &[Value]) -> String {
        let page = page("T", None, "loadtest report", runs);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        for tag in ["table", "figure", "div", "td", "th", "tr", "p", "span", "g"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        page
    }

    fn idle(kernel: Option<f64>) -> Value {
        let step = |connections: u64| {
            serde_json::json!({
                "connections": connections, "connected": 600 * connections, "used": 700 * connections,
                "bytes_per_connection": 500.0, "bytes_per_connection_used": 600.0, "cpu_share": 0.001,
                "slab_growth_used": kernel.map(|each| 2.0 * each * connections as f64),
            })
        };
        serde_json::json!({
            "kind": "idle", "limit": 19_000, "steps": [step(1000), step(10_000)],
            "forecast": {
                "cost": {"fixed_bytes": 1e6, "unused_bytes": 500.0, "user_bytes": 600.0, "kernel_bytes": kernel},
                "limits": [
                    {"name": "ports", "setting": "range", "value": 9, "connections": 9, "counts": "client", "raised_by": "b"},
                    {"name": "files", "setting": "nofile", "value": 20_000, "connections": 19_232, "counts": "idle"},
                ],
                "targets": [{
                    "connections": 100_000, "unused_bytes": 5e7, "user_bytes": 1e9, "descriptors": 100_768,
                    "kernel_bytes": kernel.map(|each| 1e5 * each), "client_addresses": 4, "breaks": ["files"],
                }],
            },
        })
    }

    #[test]
    fn the_memory_of_idle_connections_is_drawn_and_extrapolated() {
        let page = page_of(&[idle(Some(4096.0))]);
        for shown in ["1,000", "19,000", "4,096 bytes in the kernel", "0.93 GiB", "0.38 GiB", "100,768"] {
            assert!(page.contains(shown), "{shown}");
        }
        assert!(
            page.contains("<strong>files</strong> (nofile: 20,000), at 19,232 connections"),
            "not the clients' ports"
        );
        assert_eq!(page.matches("dashed\"").count(), 3, "before use, after use, kernel");
        let page = page_of(&[idle(None)]);
        assert!(page.contains("was not measured") && page.contains("<td>not measured</td>"));
        assert_eq!(page.matches("dashed\"").count(), 2);
        let before = serde_json::json!({"kind": "idle", "steps": idle(None)["steps"]});
        assert!(!page_of(&[before]).contains("What breaks first"), "a file of an older harness has no forecast");
    }

    #[test]
    fn every_run_says_where_it_comes_from() {
        let machine =
            |cpu: &str| serde_json::json!({"cpu": cpu, "cores": 2, "kernel": "Linux 6", "load_before": "1 2 3"});
        let run = |cpu: &str, is_right: bool| {
            serde_json::json!({
                "kind": "run", "machine": machine(cpu), "is_right": is_right, "command": "loadtest echo --size 9",
                "warnings": ["the harness <limits>"],
            })
        };
        let one = page_of(&[run("A", true), run("A", true)]);
        for shown in
            ["<dd>A</dd>", "<dd>1 2 3</dd>", "<code>loadtest echo --size 9</code>", "run: the harness &lt;limits&gt;"]
        {
            assert!(one.contains(shown), "{shown}");
        }
        assert!(!one.contains("WRONG") && !one.contains("several"));
        let two = page_of(&[run("A", true), run("B", false)]);
        for shown in ["several, see how", "B, 2 cores, Linux 6", "1 of 2 runs were wrong", "WRONG", "not known"] {
            assert!(two.contains(shown), "{shown}");
        }
    }

    #[test]
    fn a_distribution_ends_where_no_message_is_left_and_its_name_is_its_own() {
        let percentiles = [[0.0, 1.0], [0.9, 2.0], [0.99, 3.0], [0.999, 4.0]];
        let run = serde_json::json!({
            "kind": "run", "scenario": "echo", "setting": {"depth": 2, "size": 64},
            "percentiles": percentiles, "latency": {"count": 100},
        });
        let page = page_of(&[run.clone(), run]);
        assert!(
            page.contains(">echo, 2 in flight, 64 B</text>") && page.contains(">echo, 2 in flight, 64 B (2)</text>")
        );
        assert_eq!(page.matches("<circle").count(), 6, "three of the four percentiles of 100 messages, twice");
    }
}
