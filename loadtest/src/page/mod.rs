//! One HTML page of runs: table, latency, curve, memory, machine. It holds everything it shows and asks nobody for more.
//!
//! Reads what `--json` prints, by the field `kind`; must not measure by itself but for the short set of runs that is made
//! when no file is given.

mod svg;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use self::svg::{Axis, Scale, Series, chart, short};
use crate::{
    cli::{Cli, Command, PageOptions},
    curve, idle,
    report::Shown,
    run::Failure,
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
    let page = page(&options.title, options.date.as_deref(), &runs);
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
    let mut add = |value: Value, right: bool| {
        is_right &= right;
        runs.push(value);
    };
    let rows = options.rows.join(",");
    if let Command::Table(own) =
        command(&format!("table --rows {rows} --seconds {seconds} --attempts {attempts}"), relay)?
    {
        let table = table::run(&own)?;
        add(table.value(), table.is_right());
    }
    if let Command::Curve(own) = command(
        &format!("curve --steps 10,30,50,70,90 --seconds {seconds} --warmup {warmup} --attempts {attempts}{pins}"),
        relay,
    )? {
        let curve = curve::run(&own)?;
        add(curve.value(), curve.is_right());
    }
    let numbers: Vec<_> = options.idle.iter().map(u32::to_string).collect();
    let line = format!("idle --steps {} --seconds {seconds} --warmup 0.2{pins}", numbers.join(","));
    if let Command::Idle(own) = command(&line, relay)? {
        let steps = idle::run(&own)?;
        add(steps.value(), steps.is_right());
    }
    if options.stalled > 0 {
        let line = format!("stalled --connections {} --seconds {}{pins}", options.stalled, 3.0 * seconds);
        if let Command::Stalled(own) = command(&line, relay)? {
            let stalled = stalled::run(&own)?;
            add(stalled.value(), stalled.is_right());
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

/// Text that stands between tags or in an attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn number(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64)
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// A figure with so many digits, or a dash.
fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

fn page(title: &str, date: Option<&str>, runs: &[Value]) -> String {
    let machine = runs.iter().find_map(|run| run.get("machine").or_else(|| run.pointer("/first/0/machine")));
    let machine = machine.cloned().unwrap_or_default();
    let date = date.unwrap_or(text(&machine, "/date"));
    let of_kind = |kind: &'static str| runs.iter().filter(move |run| text(run, "/kind") == kind);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{0}</title><style>{STYLE}</style></head><body>\
         <h1>{0}</h1><p class=\"soft\">{1}</p>",
        escape(title),
        escape(date)
    );
    facts(&mut out, &machine);
    of_kind("table").for_each(|run| table_of(&mut out, run));
    of_kind("comparison").for_each(|run| comparison(&mut out, run));
    percentiles(&mut out, runs);
    of_kind("curve").for_each(|run| curve_of(&mut out, run));
    of_kind("idle").for_each(|run| memory(&mut out, run));
    of_kind("stalled").for_each(|run| stalled_of(&mut out, run));
    plain(&mut out, &of_kind("run").collect::<Vec<_>>());
    out.push_str(
        "<footer>Made by <code>loadtest report</code>. CPU time is the server process's own clock, all threads. Latency \
         counts from when a message should have been sent, so that a server that stalls cannot hide it.</footer>\
         </body></html>\n",
    );
    out
}

fn facts(out: &mut String, machine: &Value) {
    let cores = figure(number(machine, "/cores"), 0);
    out.push_str("<dl>");
    for (name, fact) in [
        ("CPU", text(machine, "/cpu")),
        ("Cores", cores.as_str()),
        ("Kernel", text(machine, "/kernel")),
        ("Load before", text(machine, "/load_before")),
        ("Load after", text(machine, "/load_after")),
    ] {
        let _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", escape(fact));
    }
    out.push_str("</dl>");
}

fn row(out: &mut String, tag: &str, cells: &[String]) {
    out.push_str("<tr>");
    for cell in cells {
        let _ = write!(out, "<{tag}>{cell}</{tag}>");
    }
    out.push_str("</tr>");
}

fn table_start(out: &mut String, heads: &[&str]) {
    out.push_str("<div class=\"scroll\"><table><thead>");
    row(out, "th", &heads.iter().map(|head| escape(head)).collect::<Vec<_>>());
    out.push_str("</thead><tbody>");
}

fn table_of(out: &mut String, run: &Value) {
    let _ = write!(
        out,
        "<h2>Server CPU time for each delivery</h2><p>As a ratio to the floor: a TCP forwarder without WebSocket that \
         gathers for each destination over a turn and moves as many bytes. Median of the rounds with the least and the \
         greatest; orange marks are the ratios to be reached. {}; windows of {} s.</p>",
        escape(text(run, "/places")),
        figure(number(run, "/seconds"), 1)
    );
    table_start(
        out,
        &[
            "scenario",
            "floor us",
            "relay us",
            "ratio",
            "",
            "spread",
            "base to base",
            "deliveries/s",
            "p50 us",
            "p99 us",
            "",
        ],
    );
    for each in list(run, "/rows") {
        let at = |pointer: &str| number(each, pointer);
        let ratio = ["median", "min", "max"].map(|part| at(&format!("/ratio/{part}")).unwrap_or(f64::NAN));
        let marks = ["/reach", "/stretch"].map(|mark| at(mark).unwrap_or(1.0));
        let verdict = match ratio[0] {
            median if median <= marks[1] => "stretch",
            median if median <= marks[0] => "reached",
            _ => "missed",
        };
        let of_rounds = |pointer: &str| {
            let values = list(each, "/rounds").filter_map(|round| number(round, pointer));
            crate::compare::Spread::of(values).map(|spread| spread.median)
        };
        let cells = [
            escape(text(each, "/title")),
            figure(at("/base_cpu_us/median"), 3),
            figure(at("/relay_cpu_us/median"), 3),
            figure(Some(ratio[0]), 2),
            svg::ratio(ratio[0], ratio[1], ratio[2], &marks),
            format!("{:.2} to {:.2}", ratio[1], ratio[2]),
            figure(at("/base_to_base/median"), 2),
            of_rounds("/relay/per_second").map_or("-".into(), table::rounded),
            figure(of_rounds("/relay/p50_us"), 0),
            figure(of_rounds("/relay/p99_us"), 0),
            format!("<span class=\"{verdict}\">{verdict}</span>"),
        ];
        row(out, "td", &cells);
    }
    out.push_str("</tbody></table></div>");
}

fn comparison(out: &mut String, run: &Value) {
    let url = |side: &str| escape(text(run, &format!("/{side}/0/url")));
    let _ = write!(
        out,
        "<h2>Two servers by turns</h2><p>{}: {} by {}.</p>",
        escape(text(run, "/first/0/scenario")),
        url("first"),
        url("second")
    );
    table_start(out, &["ratio of", "median", "least", "greatest"]);
    for (name, part) in [("CPU for each delivery", "cpu"), ("rate", "rate"), ("p50", "p50"), ("p99", "p99")] {
        let at = |of: &str| figure(number(run, &format!("/{part}/{of}")), 3);
        row(out, "td", &[name.into(), at("median"), at("min"), at("max")]);
    }
    out.push_str("</tbody></table></div>");
}

/// A distribution as it stands in JSON.
fn pairs(value: &Value, pointer: &str) -> Vec<(f64, f64)> {
    list(value, pointer).filter_map(|pair| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?))).collect()
}

fn percentiles(out: &mut String, runs: &[Value]) {
    let mut series = Vec::new();
    let mut add = |name: String, points: Vec<(f64, f64)>| series.push(Series { name, points });
    for run in runs {
        match text(run, "/kind") {
            "run" => add(format!("{} {}", text(run, "/scenario"), text(run, "/url")), pairs(run, "/percentiles")),
            "curve" => {
                let points: Vec<_> = list(run, "/points").collect();
                // Three of them tell the story; all would hide it.
                let some = points.len().div_ceil(3).max(1);
                for point in points.iter().rev().step_by(some).rev() {
                    let name =
                        format!("{}, {} % of the most", text(run, "/scenario"), figure(number(point, "/percent"), 0));
                    add(name, pairs(point, "/percentiles"));
                }
            }
            "stalled" => {
                add("pairs, all readers read".into(), pairs(run, "/control/percentiles"));
                add("pairs, readers stalled".into(), pairs(run, "/stalled/percentiles"));
            }
            _ => {}
        }
    }
    let x = Axis { label: "share of the messages that took at most so long", scale: Scale::Nines };
    let y = Axis { label: "latency in us", scale: Scale::Log };
    let chart = chart("Latency by percentile", x, y, &series);
    if !chart.is_empty() {
        let _ = write!(
            out,
            "<h2>Latency by percentile</h2><figure>{chart}<figcaption>From when a message should have been sent to its \
             delivery. Each nine takes as much room as the one before.</figcaption></figure>"
        );
    }
}

fn curve_of(out: &mut String, run: &Value) {
    let points = |pointer: &str| -> Vec<(f64, f64)> {
        list(run, "/points")
            .filter_map(|point| Some((number(point, "/per_second")?, number(point, pointer)?)))
            .collect()
    };
    let line = |name: &str, pointer: &str| Series { name: name.into(), points: points(pointer) };
    let series = [line("p50", "/latency/p50_us"), line("p99", "/latency/p99_us"), line("p99.9", "/latency/p999_us")];
    let x = Axis { label: "messages delivered a second", scale: Scale::Linear };
    let y = Axis { label: "latency in us", scale: Scale::Log };
    let _ = write!(
        out,
        "<h2>Latency over throughput</h2><p>{}, {} bytes of payload, open loop; the closed loop gave {} a second at {} in \
         flight each.</p><figure>{}</figure>",
        escape(text(run, "/scenario")),
        figure(number(run, "/most/setting/size"), 0),
        number(run, "/most/per_second").map_or("-".into(), table::rounded),
        figure(number(run, "/most/setting/depth"), 0),
        chart("Latency over throughput", x, y, &series)
    );
}

fn memory(out: &mut String, run: &Value) {
    let points = |pointer: &str| -> Vec<(f64, f64)> {
        list(run, "/steps").filter_map(|step| Some((number(step, "/connections")?, number(step, pointer)?))).collect()
    };
    let line = |name: &str, pointer: &str| Series { name: name.into(), points: points(pointer) };
    let series =
        [line("before use", "/bytes_per_connection"), line("after 4 KiB each way", "/bytes_per_connection_used")];
    let x = Axis { label: "connections", scale: Scale::Log };
    let y = Axis { label: "bytes for each connection", scale: Scale::Linear };
    let _ = write!(
        out,
        "<h2>Memory of idle connections</h2><figure>{}<figcaption>Growth of the server's anonymous memory, divided by the \
         connections. The limit of open files allows {} here.</figcaption></figure>",
        chart("Memory of idle connections", x, y, &series),
        number(run, "/limit").map_or("-".into(), short)
    );
    if let Some(marginal) = number(run, "/marginal") {
        let gib = |connections: f64| marginal * connections / f64::from(1 << 30);
        let _ = write!(
            out,
            "<p>One more connection costs {marginal:.0} bytes: {:.2} GiB for 100,000, {:.2} GiB for a million, extrapolated.\
             </p>",
            gib(1e5),
            gib(1e6)
        );
    }
}

fn stalled_of(out: &mut String, run: &Value) {
    let mib = |pointer: &str| figure(number(run, pointer).map(|bytes| bytes / f64::from(1 << 20)), 1);
    let _ = write!(
        out,
        "<h2>Readers that stall</h2><p>{} readers stop reading for {} s while {} messages of {} bytes a second go to them. The \
         server's memory grew by {} MiB.</p>",
        figure(number(run, "/setting/readers"), 0),
        figure(number(run, "/setting/seconds"), 0),
        figure(number(run, "/setting/flood_rate"), 0),
        figure(number(run, "/setting/flood_size"), 0),
        mib("/memory/growth")
    );
    table_start(out, &["healthy pairs", "deliveries/s", "p50 us", "p99 us", "p99 by thirds", "p99.9 us", "server CPU"]);
    for (name, part) in [("while all read", "control"), ("while readers stall", "stalled")] {
        let at = |pointer: &str| number(run, &format!("/{part}/{pointer}"));
        let thirds = format!("{} to {}", figure(at("p99_us/min"), 0), figure(at("p99_us/max"), 0));
        let cells = [
            name.to_owned(),
            at("per_second").map_or("-".into(), table::rounded),
            figure(at("latency/p50_us"), 0),
            figure(at("latency/p99_us"), 0),
            thirds,
            figure(at("latency/p999_us"), 0),
            figure(at("server/cpu_share"), 2),
        ];
        row(out, "td", &cells);
    }
    out.push_str("</tbody></table></div>");
}

fn plain(out: &mut String, runs: &[&Value]) {
    if runs.is_empty() {
        return;
    }
    out.push_str("<h2>Runs</h2>");
    table_start(
        out,
        &[
            "scenario",
            "server",
            "clients",
            "in flight",
            "bytes",
            "deliveries/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "CPU us each",
        ],
    );
    for run in runs {
        let at = |pointer: &str, digits| figure(number(run, pointer), digits);
        let cells = [
            escape(text(run, "/scenario")),
            escape(text(run, "/url")),
            at("/setting/connections", 0),
            at("/setting/depth", 0),
            at("/setting/size", 0),
            number(run, "/per_second").map_or("-".into(), table::rounded),
            at("/latency/p50_us", 0),
            at("/latency/p99_us", 0),
            at("/latency/p999_us", 0),
            at("/server/us_per_message", 3),
        ];
        row(out, "td", &cells);
    }
    out.push_str("</tbody></table></div>");
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
        let page = page("A <title>", None, &[run]);
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        for shown in ["A &lt;title&gt;", "C &amp; P", "2026-01-02 03:04 UTC", "pairs &lt;x&gt;", "<svg "] {
            assert!(page.contains(shown), "{shown}");
        }
        for outside in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<td>").count(), page.matches("</td>").count());
    }
}
