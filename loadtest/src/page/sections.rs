//! What each kind of run shows: tables, latency, curves. Must not ask where a run comes from.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    html::{drawn, escape, figure, list, number, row, table_end, table_start, text},
    svg::{self, Axis, Scale, Series, chart},
};
use crate::{
    report::{DISTURBED_SHARE, rounded},
    spread::Spread,
};

pub(super) fn table_of(out: &mut String, run: &Value) {
    let _ = write!(
        out,
        "<h2>Server CPU time for each delivery</h2><p>As a ratio to the baseline: a TCP forwarder without WebSocket \
         that gathers for each destination over a turn and moves as many bytes. Median of the rounds, with the least and \
         the greatest; the bar goes from 1 to the median, the thin line from the least to the greatest, orange marks are \
         the ratios to be reached. Base to base is the same ratio of the baseline to itself: what the machine does to \
         everybody. Places: {}; windows of {} s.</p>",
        escape(text(run, "/places")),
        figure(number(run, "/seconds"), 1)
    );
    let heads = [
        "scenario",
        "base, us",
        "relay, us",
        "ratio",
        "least to greatest",
        "",
        "goal",
        "base to base",
        "deliveries/s",
        "p50, us",
        "p99, us",
    ];
    table_start(out, &heads);
    let mut disturbed = 0.0;
    for each in list(run, "/rows") {
        let at = |pointer: &str| number(each, pointer);
        let ratio = ["median", "min", "max"].map(|part| at(&format!("/ratio/{part}")).unwrap_or(f64::NAN));
        let marks = ["/target", "/stretch"].map(|mark| at(mark).unwrap_or(1.0));
        let verdict = match ratio[0] {
            median if median <= marks[1] => "stretch",
            median if median <= marks[0] => "reached",
            _ => "missed",
        };
        let of_rounds = |pointer: &str| {
            let values = list(each, "/rounds").filter_map(|round| number(round, pointer));
            Spread::of(values).map(|spread| spread.median)
        };
        let against = match text(each, "/base") {
            "baseline" | "" => String::new(),
            base => format!(" <span class=\"soft\">by {}</span>", escape(base)),
        };
        let cells = [
            escape(text(each, "/title")) + &against,
            figure(at("/base_cpu_us/median"), 3),
            figure(at("/relay_cpu_us/median"), 3),
            figure(at("/ratio/median"), 2),
            format!("{} to {}", figure(at("/ratio/min"), 2), figure(at("/ratio/max"), 2)),
            svg::ratio(ratio[0], ratio[1], ratio[2], &marks),
            format!("<span class=\"{verdict}\">{verdict}</span>"),
            figure(at("/base_to_base/median"), 2),
            of_rounds("/relay/per_second").map_or("-".into(), rounded),
            figure(of_rounds("/relay/p50_us"), 0),
            figure(of_rounds("/relay/p99_us"), 0),
        ];
        row(out, "td", &cells);
        disturbed += at("/disturbed").unwrap_or(0.0);
    }
    table_end(out);
    if disturbed > 0.0 {
        let _ = write!(
            out,
            "<p class=\"missed\">{disturbed:.0} runs of this table were disturbed by other programs, by more than a tenth of \
             a CPU.</p>"
        );
    }
}

pub(super) fn comparison(out: &mut String, run: &Value) {
    let url = |side: &str| escape(text(run, &format!("/{side}/0/url")));
    let _ = write!(
        out,
        "<h2>Two servers by turns</h2><p>{}: {} by {}. Below 1 the first needs less.</p>",
        escape(text(run, "/first/0/scenario")),
        url("first"),
        url("second")
    );
    table_start(out, &["ratio of", "median", "least", "greatest"]);
    for (name, part) in [("CPU for each delivery", "cpu"), ("rate", "rate"), ("p50", "p50"), ("p99", "p99")] {
        let at = |of: &str| figure(number(run, &format!("/{part}/{of}")), 3);
        row(out, "td", &[name.into(), at("median"), at("min"), at("max")]);
    }
    table_end(out);
}

/// A distribution as it stands in JSON, as far as its count bears: of 1,000 messages there is no 99.99th percentile.
fn distribution(value: &Value, percentiles: &str, count: &str) -> Vec<(f64, f64)> {
    let count = number(value, count).unwrap_or(f64::INFINITY);
    list(value, percentiles)
        .filter_map(|pair| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?)))
        .filter(|(quantile, _)| (1.0 - quantile) * count > 0.999)
        .collect()
}

pub(super) fn percentiles(out: &mut String, runs: &[Value]) {
    let mut series: Vec<Series> = Vec::new();
    let mut add = |name: String, points| {
        let before =
            series.iter().filter(|line| line.name == name || line.name.starts_with(&(name.clone() + " ("))).count();
        let name = if before > 0 { format!("{name} ({})", before + 1) } else { name };
        series.push(Series::new(name, points));
    };
    for run in runs {
        let of = |part: &str| distribution(run, &format!("{part}/percentiles"), &format!("{part}/latency/count"));
        match text(run, "/kind") {
            "run" => {
                let scenario = text(run, "/scenario");
                let setting = |name: &str| figure(number(run, &format!("/setting/{name}")), 0);
                let load = match number(run, "/setting/rate") {
                    Some(rate) => format!("{} messages/s", rounded(rate)),
                    None => format!("{} in flight", setting("depth")),
                };
                add(format!("{scenario}, {load}, {} B", setting("size")), of(""));
            }
            "curve" => {
                let points: Vec<_> = list(run, "/points").collect();
                // Three of them tell the story; all would hide it.
                let some = points.len().div_ceil(3).max(1);
                for point in points.iter().rev().step_by(some).rev() {
                    let percent = figure(number(point, "/percent"), 0);
                    let points = distribution(point, "/percentiles", "/latency/count");
                    add(format!("{}, {percent} % of the most", text(run, "/scenario")), points);
                }
            }
            "stalled" => {
                add("pairs, all readers read".into(), of("/control"));
                add("pairs, readers stalled".into(), of("/stalled"));
            }
            _ => {}
        }
    }
    let x = Axis { label: "share of the messages that took at most so long", scale: Scale::Nines };
    let y = Axis { label: "latency in microseconds", scale: Scale::Log };
    let chart = chart("Latency by percentile", x, y, &series);
    if !chart.is_empty() {
        out.push_str("<h2>Latency by percentile</h2>");
        drawn(
            out,
            &chart,
            "How long the slowest took: from when a message should have been sent to its delivery, read at the share of \
             messages that took no longer. Each nine takes as much room as the one before; a line ends where fewer than one \
             message is left.",
        );
    }
}

pub(super) fn curve_of(out: &mut String, run: &Value) {
    let line = |name: &str, pointer: &str| {
        let points = list(run, "/points")
            .filter_map(|point| Some((number(point, "/per_second")?, number(point, pointer)?)))
            .collect();
        Series::new(name.into(), points)
    };
    let series = [line("p50", "/latency/p50_us"), line("p99", "/latency/p99_us"), line("p99.9", "/latency/p999_us")];
    let x = Axis { label: "messages delivered a second", scale: Scale::Linear };
    let y = Axis { label: "latency in microseconds", scale: Scale::Log };
    let scenario = escape(text(run, "/scenario"));
    let _ = write!(
        out,
        "<h2>Latency over throughput</h2><p>{scenario}, {} clients, {} bytes of payload. The closed loop gave {} a second with \
         {} messages in flight for each sender; the rates below are shares of that.</p>",
        figure(number(run, "/most/setting/connections"), 0),
        figure(number(run, "/most/setting/size"), 0),
        number(run, "/most/per_second").map_or("-".into(), rounded),
        figure(number(run, "/most/setting/depth"), 0),
    );
    drawn(
        out,
        &chart("Latency over throughput", x, y, &series),
        "Open loop: messages are sent at their times whether or not answers come. The further right the lines stay flat, the \
         closer to its most a server can be driven; a point left of the one before could not keep its rate.",
    );
    table_start(
        out,
        &[
            "of the most",
            "due/s",
            "delivered/s",
            "p50, us",
            "p99, us",
            "p99.9, us",
            "longest, us",
            "server CPU",
            "load CPU",
        ],
    );
    for point in list(run, "/points") {
        let at = |pointer: &str, digits| figure(number(point, pointer), digits);
        let rate = |pointer: &str| number(point, pointer).map_or("-".into(), rounded);
        let cells = [
            at("/percent", 0) + " %",
            rate("/rate"),
            rate("/per_second"),
            at("/latency/p50_us", 0),
            at("/latency/p99_us", 0),
            at("/latency/p999_us", 0),
            at("/latency/max_us", 0),
            at("/server_share", 2),
            at("/load_share", 2),
        ];
        row(out, "td", &cells);
    }
    table_end(out);
    let disturbed: Vec<String> = list(run, "/points")
        .filter(|point| number(point, "/other_share").is_some_and(|share| share > DISTURBED_SHARE))
        .map(|point| figure(number(point, "/percent"), 0) + " %")
        .collect();
    if !disturbed.is_empty() {
        let _ = write!(
            out,
            "<p class=\"missed\">Other programs used more than a tenth of a CPU while {} were measured: latency there is \
             disturbed.</p>",
            disturbed.join(", ")
        );
    }
}

pub(super) fn stalled_of(out: &mut String, run: &Value) {
    let mib = |pointer: &str| figure(number(run, pointer).map(|bytes| bytes / f64::from(1 << 20)), 1);
    let _ = write!(
        out,
        "<h2>Readers that stall</h2><p>{} readers stop reading for {} s while {} messages of {} bytes a second go to them. The \
         server's memory grew by {} MiB. Server CPU is its share of one CPU.</p>",
        figure(number(run, "/setting/readers"), 0),
        figure(number(run, "/setting/seconds"), 0),
        figure(number(run, "/setting/flood_rate"), 0),
        figure(number(run, "/setting/flood_size"), 0),
        mib("/memory/growth")
    );
    let heads = ["healthy pairs", "deliveries/s", "p50, us", "p99, us", "p99 by thirds, us", "p99.9, us", "server CPU"];
    table_start(out, &heads);
    for (name, part) in [("while all read", "control"), ("while readers stall", "stalled")] {
        let at = |pointer: &str| number(run, &format!("/{part}/{pointer}"));
        let thirds = format!("{} to {}", figure(at("p99_us/min"), 0), figure(at("p99_us/max"), 0));
        let cells = [
            name.to_owned(),
            at("per_second").map_or("-".into(), rounded),
            figure(at("latency/p50_us"), 0),
            figure(at("latency/p99_us"), 0),
            thirds,
            figure(at("latency/p999_us"), 0),
            figure(at("server/cpu_share"), 2),
        ];
        row(out, "td", &cells);
    }
    table_end(out);
}

pub(super) fn plain(out: &mut String, runs: &[&Value]) {
    if runs.is_empty() {
        return;
    }
    out.push_str("<h2>Runs</h2><p>CPU is the server's, for each delivery.</p>");
    let heads = [
        "scenario",
        "server",
        "clients",
        "in flight",
        "bytes",
        "deliveries/s",
        "p50, us",
        "p99, us",
        "p99.9, us",
        "CPU, us",
    ];
    table_start(out, &heads);
    for run in runs {
        let at = |pointer: &str, digits| figure(number(run, pointer), digits);
        let cells = [
            escape(text(run, "/scenario")),
            escape(text(run, "/url")),
            at("/setting/connections", 0),
            at("/setting/depth", 0),
            at("/setting/size", 0),
            number(run, "/per_second").map_or("-".into(), rounded),
            at("/latency/p50_us", 0),
            at("/latency/p99_us", 0),
            at("/latency/p999_us", 0),
            at("/server/us_per_message", 3),
        ];
        row(out, "td", &cells);
    }
    table_end(out);
}
