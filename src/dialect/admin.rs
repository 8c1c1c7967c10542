//! The admin dialect: `/healthz`, `/readyz`, `/metrics` and `/stats` as HTTP answers. Owns their formats; it must
//! not gather the figures, which come as [`Facts`].

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use serde::Serialize;

use crate::{relay::api::State, wire::http::Response};

/// Figures of one worker, all since the start unless they say otherwise.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WorkerFacts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes read from sockets.
    pub bytes_in: u64,
    /// Bytes written to sockets.
    pub bytes_out: u64,
    /// Reads of sockets.
    pub reads: u64,
    /// Vectored writes to sockets.
    pub writes: u64,
    /// Bytes in send queues now.
    pub queue_bytes: u64,
    /// Events for slots that have another tenant by now.
    pub stale_events: u64,
    /// Mail for connections that are gone.
    pub stale_mail: u64,
    /// Callbacks that panicked; each closed its connection.
    pub panics: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Nanoseconds spent in turns, waiting apart.
    pub turn_ns: u64,
    /// Upper bound of the turn time that half of the turns kept, in nanoseconds.
    pub turn_ns_p50: u64,
    /// Upper bound of the turn time that 99 of 100 turns kept, in nanoseconds.
    pub turn_ns_p99: u64,
    /// Session messages from devices.
    pub session_in: u64,
    /// Session messages to devices.
    pub session_out: u64,
    /// Sign-ins that were refused.
    pub sign_in_failures: u64,
    /// Devices signed in now.
    pub devices: u64,
    /// AMP messages from agents.
    pub amp_in: u64,
    /// AMP messages to agents.
    pub amp_out: u64,
    /// Agents that proved their DID and are here now, by connection.
    pub agents: u64,
    /// AMP messages whose signature is being checked now.
    pub amp_checking: u64,
    /// AMP messages whose signature was wrong.
    pub amp_wrong_signatures: u64,
    /// Messages to the supervisor that found its inbox full.
    pub inbox_full: u64,
}

/// Figures of the whole relay.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Sign-in works, and sessions can be served.
    pub ready: bool,
    /// The relay ends.
    pub draining: bool,
    /// Since the start.
    pub uptime_ms: u64,
    /// One for each worker.
    pub workers: Vec<WorkerFacts>,
    /// How many sessions are in each state.
    pub sessions: [u64; State::ALL.len()],
    /// Processes that were started again after a death.
    pub restarts: u64,
}

/// The answer to a GET of `path`, if this dialect serves it.
pub fn respond(method: &str, path: &str, facts: impl FnOnce() -> Facts) -> Option<Response> {
    if !matches!(path, "/healthz" | "/readyz" | "/metrics" | "/stats") {
        return None;
    }
    if !matches!(method, "GET" | "HEAD") {
        let mut response = plain(405, "only GET is served here\n");
        response.headers.push(("Allow", "GET, HEAD".into()));
        return Some(response);
    }
    let mut response = match path {
        "/healthz" => plain(200, "ok\n"),
        "/readyz" => readiness(&facts()),
        "/metrics" => metrics(&facts()),
        _ => stats(&facts()),
    };
    if method == "HEAD" {
        response.body.clear();
    }
    Some(response)
}

fn plain(status: u16, text: &str) -> Response {
    let headers = vec![("Content-Type", "text/plain; charset=utf-8".to_owned())];
    Response { status, headers, body: text.as_bytes().to_vec() }
}

fn readiness(facts: &Facts) -> Response {
    match facts {
        Facts { draining: true, .. } => plain(503, "draining\n"),
        Facts { ready: true, .. } => plain(200, "ready\n"),
        Facts { .. } => plain(503, "starting\n"),
    }
}

fn stats(facts: &Facts) -> Response {
    #[derive(Serialize)]
    struct Wire<'a> {
        version: &'static str,
        ready: bool,
        draining: bool,
        uptime_ms: u64,
        connections: u64,
        sessions: std::collections::BTreeMap<&'static str, u64>,
        restarts: u64,
        sign_in_failures: u64,
        workers: &'a [WorkerFacts],
    }
    let wire = Wire {
        version: env!("CARGO_PKG_VERSION"),
        ready: facts.ready,
        draining: facts.draining,
        uptime_ms: facts.uptime_ms,
        connections: facts.workers.iter().map(|worker| worker.open).sum(),
        sessions: State::ALL.iter().map(|state| state.name()).zip(facts.sessions).collect(),
        restarts: facts.restarts,
        sign_in_failures: facts.workers.iter().map(|worker| worker.sign_in_failures).sum(),
        workers: &facts.workers,
    };
    match serde_json::to_vec_pretty(&wire) {
        Ok(mut body) => {
            body.push(b'\n');
            Response { status: 200, headers: vec![("Content-Type", "application/json".to_owned())], body }
        }
        Err(error) => plain(500, &format!("stats could not be written: {error}\n")),
    }
}

fn metrics(facts: &Facts) -> Response {
    let mut registry = Registry::with_prefix("amp_relay");
    registry.register_collector(Box::new(Scrape(facts.clone())));
    let mut text = String::with_capacity(8 * 1024);
    if let Err(error) = encode(&mut text, &registry) {
        return plain(500, &format!("metrics could not be written: {error}\n"));
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8".to_owned();
    Response { status: 200, headers: vec![("Content-Type", kind)], body: text.into_bytes() }
}

/// The figures of one scrape: the counters themselves live sharded in the workers.
#[derive(Debug)]
struct Scrape(Facts);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.workers(&mut encoder)?;
        let Facts { sessions, restarts, .. } = &self.0;
        let states = State::ALL.iter().zip(sessions).map(|(state, count)| ([("state", state.name())], *count));
        gauges(&mut encoder, "sessions", "Sessions by state", None, states)?;
        counter(&mut encoder, "session_restarts", "Processes started again after a death", *restarts)
    }
}

impl Scrape {
    fn workers(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let workers = &self.0.workers;
        let names: Vec<String> = (0..workers.len()).map(|index| index.to_string()).collect();
        let each = |figure: fn(&WorkerFacts) -> u64| {
            workers.iter().zip(&names).map(move |(worker, name)| ([("worker", name.as_str())], figure(worker)))
        };
        let sum = |figure: fn(&WorkerFacts) -> u64| workers.iter().map(figure).sum::<u64>();
        gauges(encoder, "connections", "Open connections", None, each(|worker| worker.open))?;
        gauges(encoder, "devices", "Devices signed in", None, each(|worker| worker.devices))?;
        gauges(encoder, "agents", "Agents connected", None, each(|worker| worker.agents))?;
        let checking = each(|worker| worker.amp_checking);
        gauges(encoder, "amp_checking", "AMP messages whose signature is being checked", None, checking)?;
        let wrong = sum(|worker| worker.amp_wrong_signatures);
        counter(encoder, "amp_wrong_signatures", "AMP messages with a wrong signature", wrong)?;
        let queued = each(|worker| worker.queue_bytes);
        gauges(encoder, "queue", "Bytes waiting in send queues", Some(&Unit::Bytes), queued)?;
        let messages = [
            ([("dialect", "session"), ("direction", "in")], sum(|worker| worker.session_in)),
            ([("dialect", "session"), ("direction", "out")], sum(|worker| worker.session_out)),
            ([("dialect", "amp"), ("direction", "in")], sum(|worker| worker.amp_in)),
            ([("dialect", "amp"), ("direction", "out")], sum(|worker| worker.amp_out)),
        ];
        counters(encoder, "messages", "Messages by dialect and direction", None, messages)?;
        counter(encoder, "sign_in_failures", "Sign-ins refused", sum(|worker| worker.sign_in_failures))?;
        counters(encoder, "accepted", "Connections accepted", None, each(|worker| worker.accepted))?;
        let bytes = [
            ([("direction", "in")], sum(|worker| worker.bytes_in)),
            ([("direction", "out")], sum(|worker| worker.bytes_out)),
        ];
        counters(encoder, "socket", "Bytes read from and written to sockets", Some(&Unit::Bytes), bytes)?;
        counters(encoder, "stale_events", "Events for connections that were gone", None, each(|w| w.stale_events))?;
        counters(encoder, "stale_mail", "Mail for connections that were gone", None, each(|w| w.stale_mail))?;
        counter(encoder, "panics", "Callbacks that panicked", sum(|worker| worker.panics))?;
        counter(encoder, "inbox_full", "Messages that found an inbox full", sum(|worker| worker.inbox_full))?;
        counters(encoder, "loop_turns", "Turns of the event loop", None, each(|worker| worker.turns))?;
        let spent =
            workers.iter().zip(&names).map(|(worker, name)| ([("worker", name.as_str())], worker.turn_ns as f64 / 1e9));
        counters(encoder, "loop_turn", "Time spent in turns, waiting apart", Some(&Unit::Seconds), spent)?;
        let quantiles = workers.iter().zip(&names).flat_map(|(worker, name)| {
            [("0.5", worker.turn_ns_p50), ("0.99", worker.turn_ns_p99)]
                .map(|(quantile, ns)| ([("worker", name.as_str()), ("quantile", quantile)], ns as f64 / 1e9))
        });
        gauges(encoder, "loop_turn_time", "Upper bound of a turn's time", Some(&Unit::Seconds), quantiles)
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn counters<'a, const N: usize, V: prometheus_client::encoding::EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl IntoIterator<Item = ([(&'a str, &'a str); N], V)>,
) -> Result<(), fmt::Error>
where
    ConstCounter<V>: EncodeMetric,
{
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    values.into_iter().try_for_each(|(labels, value)| one(&mut family, labels, &ConstCounter::new(value)))
}

fn gauges<'a, const N: usize, V: prometheus_client::encoding::EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl IntoIterator<Item = ([(&'a str, &'a str); N], V)>,
) -> Result<(), fmt::Error>
where
    ConstGauge<V>: EncodeMetric,
{
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    values.into_iter().try_for_each(|(labels, value)| one(&mut family, labels, &ConstGauge::new(value)))
}

fn one<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: [(&str, &str); N],
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    metric.encode(family.encode_family(&labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(path: &str, facts: Facts) -> (u16, String) {
        let response = respond("GET", path, || facts).expect("a path of this dialect");
        (response.status, String::from_utf8(response.body).expect("text"))
    }

    #[test]
    fn readiness_is_the_truth() {
        assert_eq!(body("/readyz", Facts::default()).0, 503);
        assert_eq!(body("/readyz", Facts { ready: true, ..Facts::default() }).0, 200);
        assert_eq!(body("/readyz", Facts { ready: true, draining: true, ..Facts::default() }).0, 503);
        assert_eq!(body("/healthz", Facts::default()).0, 200);
    }

    #[test]
    fn metrics_name_every_figure_with_its_labels_once() {
        let workers = vec![WorkerFacts { open: 3, session_in: 7, turn_ns: 1_500_000_000, ..WorkerFacts::default() }; 2];
        let (_, text) = body("/metrics", Facts { workers, restarts: 4, ..Facts::default() });
        for line in [
            r#"amp_relay_connections{worker="1"} 3"#,
            r#"amp_relay_messages_total{dialect="session",direction="in"} 14"#,
            r#"amp_relay_loop_turn_seconds_total{worker="0"} 1.5"#,
            r#"amp_relay_sessions{state="busy"} 0"#,
            "amp_relay_session_restarts_total 4",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn stats_add_up_the_workers() {
        let workers = vec![WorkerFacts { open: 3, ..WorkerFacts::default() }; 2];
        let (_, text) = body("/stats", Facts { workers, ..Facts::default() });
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((value["connections"].as_u64(), value["workers"][1]["open"].as_u64()), (Some(6), Some(3)));
    }

    #[test]
    fn other_methods_and_paths_are_told_apart() {
        assert_eq!(respond("POST", "/metrics", Facts::default).map(|response| response.status), Some(405));
        assert!(respond("GET", "/", Facts::default).is_none());
    }
}
