//! What idle connections cost, and what ever more of them need. Draws what [`crate::idle`] computed; must not compute what
//! is not a matter of units.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    html::{drawn, escape, figure, list, number, row, table_end, table_start, text, words},
    svg::{Axis, Scale, Series, chart},
};
use crate::idle::forecast::grouped;

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

fn whole(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| grouped(value as u64))
}

/// Kernel memory of the server's end of a connection in bytes, as [`crate::report::Idle`] has it.
fn kernel_each(step: &Value) -> Option<f64> {
    Some(number(step, "/slab_growth_used")? / 2.0 / number(step, "/connections")?.max(1.0))
}

/// The section of one run of `idle` with steps.
pub(super) fn section(out: &mut String, run: &Value) {
    let points = |figure: &dyn Fn(&Value) -> Option<f64>| -> Vec<(f64, f64)> {
        list(run, "/steps").filter_map(|step| Some((number(step, "/connections")?, figure(step)?))).collect()
    };
    out.push_str("<h2>Memory of idle connections</h2>");
    let series = [
        Series::new("relay, before use".into(), points(&|step| number(step, "/bytes_per_connection"))),
        Series::new("relay, after use".into(), points(&|step| number(step, "/bytes_per_connection_used"))),
    ];
    let x = Axis { label: "connections", scale: Scale::Log };
    let y = Axis { label: "bytes for each connection", scale: Scale::Linear };
    let caption = format!(
        "Growth of the relay's anonymous memory divided by the connections: signed in and never used, and after each has sent \
         itself one message of 4 KiB. A flat line is what one wants: what the relay does once falls to the right, tables that \
         double step up. After use it also keeps what its busiest turns took, and all connections send at once here. The limit of open files allows {} connections here.",
        whole(number(run, "/limit"))
    );
    drawn(out, &chart("Memory of idle connections", x, y, &series), &caption);
    steps(out, run);
    if run["forecast"].is_object() {
        forecast(out, run);
    }
}

fn steps(out: &mut String, run: &Value) {
    let heads = [
        "connections",
        "before use, bytes each",
        "after use, bytes each",
        "by PSS, bytes each",
        "kernel, bytes each",
        "relay after use, MiB",
        "CPU share",
    ];
    table_start(out, &heads);
    for step in list(run, "/steps") {
        let at = |pointer: &str| number(step, pointer);
        let cells = [
            whole(at("/connections")),
            figure(at("/bytes_per_connection"), 0),
            figure(at("/bytes_per_connection_used"), 0),
            figure(at("/pss_per_connection_used"), 0),
            figure(kernel_each(step), 0),
            figure(at("/used").map(|bytes| bytes / MIB), 1),
            figure(at("/cpu_share"), 4),
        ];
        row(out, "td", &cells);
    }
    table_end(out);
    out.push_str(
        "<p class=\"soft\">PSS is the proportional set size after use. Kernel is half the growth of the machine's slab after \
         use, for both ends of each connection are on this machine; whatever else ran in that time counts too. CPU share is \
         what the relay used of one CPU while it held them.</p>",
    );
}

/// Measured points, and the line from the last of them to the targets.
fn totals(run: &Value, name: &str, measured: Vec<(f64, f64)>, target: &str) -> [Series; 2] {
    let ahead =
        list(run, "/forecast/targets").filter_map(|at| Some((number(at, "/connections")?, number(at, target)? / MIB)));
    let mut line: Vec<_> = measured.last().copied().into_iter().collect();
    let from = line.first().map_or(0.0, |last| last.0);
    line.extend(ahead.filter(|point| point.0 > from));
    [Series::new(name.into(), measured), Series::dashed("extrapolated".into(), line)]
}

fn forecast(out: &mut String, run: &Value) {
    let cost = |name: &str| number(run, &format!("/forecast/cost/{name}_bytes"));
    let kernel = match cost("kernel") {
        Some(bytes) => format!("{} bytes in the kernel for its end of the socket", whole(Some(bytes))),
        None => "what the kernel needs was not measured".into(),
    };
    let _ = write!(
        out,
        "<h3>To 100,000 and a million</h3><p>Between the first step and the last, one more connection costs the relay {} bytes before \
         use and {} after; {kernel}.</p>",
        whole(cost("unused")),
        whole(cost("user"))
    );
    let measured = |figure: &dyn Fn(&Value) -> Option<f64>| -> Vec<(f64, f64)> {
        list(run, "/steps").filter_map(|step| Some((number(step, "/connections")?, figure(step)? / MIB))).collect()
    };
    let of_relay =
        |name: &str, pointer: &str, target: &str| totals(run, name, measured(&|step| number(step, pointer)), target);
    let mut series = of_relay("relay, before use", "/connected", "/unused_bytes").to_vec();
    series.extend(of_relay("relay, after use", "/used", "/user_bytes"));
    let slab = measured(&|step| number(step, "/slab_growth_used").map(|both_ends| both_ends / 2.0));
    if cost("kernel").is_some() {
        series.extend(totals(run, "kernel, relay's ends", slab, "/kernel_bytes"));
    }
    let x = Axis { label: "connections", scale: Scale::Log };
    let y = Axis { label: "memory in MiB", scale: Scale::Log };
    drawn(
        out,
        &chart("Memory extrapolated", x, y, &series),
        "All anonymous memory of the relay, and of the kernel for its sockets. Dashed is extrapolated by what one more \
         connection costs, and was not measured.",
    );
    targets(out, run);
    limits(out, run);
}

fn targets(out: &mut String, run: &Value) {
    let heads = [
        "connections",
        "relay, before use",
        "relay, after use",
        "kernel, sockets",
        "descriptors",
        "client addresses",
        "<breaks",
    ];
    table_start(out, &heads);
    for target in list(run, "/forecast/targets") {
        let at = |pointer: &str| number(target, pointer);
        let gib = |bytes: f64| format!("{:.2} GiB", bytes / GIB);
        let breaks: Vec<_> = list(target, "/breaks").filter_map(Value::as_str).map(escape).collect();
        let cells = [
            whole(at("/connections")),
            at("/unused_bytes").map_or("-".into(), gib),
            at("/user_bytes").map_or("-".into(), gib),
            at("/kernel_bytes").map_or("not measured".into(), gib),
            whole(at("/descriptors")),
            whole(at("/client_addresses")),
            words(&if breaks.is_empty() { "nothing".into() } else { breaks.join(", then ") }),
        ];
        row(out, "td", &cells);
    }
    table_end(out);
}

fn limits(out: &mut String, run: &Value) {
    out.push_str("<h3>What breaks first</h3>");
    let is_idle = |limit: &&Value| text(limit, "/counts") == "idle";
    if let Some(first) = list(run, "/forecast/limits").find(is_idle) {
        let _ = write!(
            out,
            "<p><strong>{}</strong> ({}: {}), at {} connections. The limits of this machine and of the relay, by the number of \
             connections that each allows:</p>",
            escape(text(first, "/name")),
            escape(text(first, "/setting")),
            whole(number(first, "/value")),
            whole(number(first, "/connections"))
        );
    }
    table_start(out, &["limit", "connections", "<set by", "value", "<raised by"]);
    for limit in list(run, "/forecast/limits") {
        let note = match text(limit, "/counts") {
            "busy" => " if all have data under way at once",
            "client" => " from each client address",
            _ => "",
        };
        let cells = [
            escape(text(limit, "/name")) + note,
            whole(number(limit, "/connections")),
            words(&format!("<code>{}</code>", escape(text(limit, "/setting")))),
            whole(number(limit, "/value")),
            words(&escape(text(limit, "/raised_by"))),
        ];
        row(out, "td", &cells);
    }
    table_end(out);
}
