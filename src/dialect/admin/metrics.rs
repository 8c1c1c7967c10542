//! `/metrics`: every figure with its name. A figure of the workers is one line of [`LEVELS`], [`COUNTS`] or [`SUMS`].

use std::{env::consts, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

use super::{Facts, WorkerFacts, exposition::Form};
use crate::{relay::api::State, wire::http::Response};

/// A figure that each worker has.
struct Figure {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    of: fn(&WorkerFacts) -> u64,
}

impl Figure {
    const fn new(name: &'static str, help: &'static str, of: fn(&WorkerFacts) -> u64) -> Self {
        Self { name, help, unit: None, of }
    }

    const fn bytes(name: &'static str, help: &'static str, of: fn(&WorkerFacts) -> u64) -> Self {
        Self { name, help, unit: Some(Unit::Bytes), of }
    }
}

/// What there is now, by worker.
const LEVELS: &[Figure] = &[
    Figure::new("connections", "Open connections", |w| w.open),
    Figure::new("provisional_connections", "Open connections that proved no key", |w| w.provisional),
    Figure::new("devices", "Devices signed in", |w| w.devices),
    Figure::new("agents", "Agents connected", |w| w.agents),
    Figure::new("amp_checking", "AMP messages whose signature is being checked", |w| w.amp_checking),
    Figure::new("amp_gathering", "AMP messages to several recipients whose sender is told soon which failed", |w| {
        w.amp_gathering
    }),
    Figure::new(
        "amp_stuck",
        "agents whose connection takes too long, so that what some senders have for it is refused",
        |w| w.amp_stuck,
    ),
    Figure::bytes("queue", "Bytes waiting in send queues", |w| w.queue_bytes),
    Figure::bytes("kept", "Bytes of incomplete messages", |w| w.kept_bytes),
];

/// What was counted since the start, by worker.
const COUNTS: &[Figure] = &[
    Figure::new("accepted", "Connections accepted", |w| w.accepted),
    Figure::new(
        "refused",
        "Connections turned away for want of room, or while the relay ends; those that gave way to others are displaced",
        |w| w.refused,
    ),
    Figure::new("displaced", "Connections without a key that gave way to new ones", |w| w.displaced),
    Figure::new("accept_pauses", "Times that accepting paused for want of descriptors or memory", |w| w.accept_pauses),
    Figure::new("stale_events", "Events for connections that were gone", |w| w.stale_events),
    Figure::new("stale_mail", "Mail for connections that were gone", |w| w.stale_mail),
    Figure::new("loop_turns", "Turns of the event loop", |w| w.turns),
];

/// What was counted since the start, of all workers together.
const SUMS: &[Figure] = &[
    Figure::new("sign_in_failures", "Sign-ins refused", |w| w.sign_in_failures),
    Figure::new("amp_wrong_signatures", "AMP messages with a wrong signature", |w| w.amp_wrong_signatures),
    Figure::new("panics", "Callbacks that panicked", |w| w.panics),
    Figure::new("inbox_full", "Messages that found an inbox full", |w| w.inbox_full),
];

/// The answer to a request for them.
pub(super) fn respond(facts: &Facts, form: Form) -> Response {
    let mut registry = Registry::with_prefix("amp_relay");
    registry.register_collector(Box::new(Scrape(facts.clone())));
    let mut text = String::with_capacity(8 * 1024);
    if let Err(error) = encode(&mut text, &registry) {
        return Response::text(500, format!("metrics could not be written: {error}"));
    }
    Response::body(200, form.content_type(), form.of(text).into_bytes()).with("Vary", "Accept")
}

/// The figures of one scrape: the counters themselves live sharded in the workers.
#[derive(Debug)]
struct Scrape(Facts);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.relay(&mut encoder)?;
        self.workers(&mut encoder)?;
        self.times(&mut encoder)?;
        let Facts { sessions, restarts, unreadable_lines, .. } = &self.0;
        let states = State::ALL.iter().zip(sessions).map(|(state, count)| ([("state", state.name())], *count));
        gauges(&mut encoder, "sessions", "Sessions by state", None, states)?;
        counter(&mut encoder, "session_restarts", "Processes started again after a death", *restarts)?;
        counter(&mut encoder, "unreadable_lines", "Lines of CLIs that were no message", *unreadable_lines)
    }
}

impl Scrape {
    /// The relay as a whole.
    fn relay(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let build = [("version", env!("CARGO_PKG_VERSION")), ("os", consts::OS), ("arch", consts::ARCH)];
        Info::new(build).encode(encoder.encode_descriptor("build", "The program", None, MetricType::Info)?)?;
        let Facts { ready, draining, uptime_ms, .. } = self.0;
        gauge(encoder, "ready", "1 while sign-in works and sessions are served", None, u64::from(ready && !draining))?;
        gauge(encoder, "draining", "1 while the relay ends", None, u64::from(draining))?;
        gauge(encoder, "uptime", "Time since the start", Some(&Unit::Seconds), uptime_ms as f64 / 1e3)
    }

    fn workers(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let workers = &self.0.workers;
        let names = self.names();
        for Figure { name, help, unit, of } in LEVELS {
            let each = workers.iter().zip(&names).map(|(worker, index)| ([("worker", index.as_str())], of(worker)));
            gauges(encoder, name, help, unit.as_ref(), each)?;
        }
        for Figure { name, help, unit, of } in COUNTS {
            let each = workers.iter().zip(&names).map(|(worker, index)| ([("worker", index.as_str())], of(worker)));
            counters(encoder, name, help, unit.as_ref(), each)?;
        }
        let sum = |figure: fn(&WorkerFacts) -> u64| workers.iter().map(figure).sum::<u64>();
        for Figure { name, help, of, .. } in SUMS {
            counter(encoder, name, help, sum(*of))?;
        }
        let messages = [
            ([("dialect", "session"), ("direction", "in")], sum(|worker| worker.session_in)),
            ([("dialect", "session"), ("direction", "out")], sum(|worker| worker.session_out)),
            ([("dialect", "amp"), ("direction", "in")], sum(|worker| worker.amp_in)),
            ([("dialect", "amp"), ("direction", "out")], sum(|worker| worker.amp_out)),
        ];
        counters(encoder, "messages", "Messages by dialect and direction", None, messages)?;
        let bytes = [
            ([("direction", "in")], sum(|worker| worker.bytes_in)),
            ([("direction", "out")], sum(|worker| worker.bytes_out)),
        ];
        counters(encoder, "socket", "Bytes read from and written to sockets", Some(&Unit::Bytes), bytes)?;
        let kinds = workers.first().into_iter().flat_map(|worker| worker.closed.keys());
        let closed = kinds.map(|kind| {
            let closed = workers.iter().filter_map(|worker| worker.closed.get(kind)).sum::<u64>();
            ([("kind", *kind)], closed)
        });
        counters(encoder, "closed", "Connections closed, by the kind of close", None, closed)
    }

    /// How long turns took.
    fn times(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let workers = &self.0.workers;
        let names = self.names();
        let spent =
            workers.iter().zip(&names).map(|(worker, name)| ([("worker", name.as_str())], worker.turn_ns as f64 / 1e9));
        counters(encoder, "loop_turn", "Time spent in turns, waiting apart", Some(&Unit::Seconds), spent)?;
        let quantiles = workers.iter().zip(&names).flat_map(|(worker, name)| {
            [("0.5", worker.turn_ns_p50), ("0.99", worker.turn_ns_p99)]
                .map(|(quantile, ns)| ([("worker", name.as_str()), ("at", quantile)], ns as f64 / 1e9))
        });
        gauges(encoder, "loop_turn_time", "Upper bound of a turn's time", Some(&Unit::Seconds), quantiles)
    }

    /// The workers, as labels name them.
    fn names(&self) -> Vec<String> {
        (0..self.0.workers.len()).map(|index| index.to_string()).collect()
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauge<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: V,
) -> Result<(), fmt::Error>
where
    ConstGauge<V>: EncodeMetric,
{
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
}

fn counters<'a, const N: usize, V: EncodeCounterValue>(
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

fn gauges<'a, const N: usize, V: EncodeGaugeValue>(
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

    fn lines(form: Form) -> Vec<String> {
        let worker = WorkerFacts {
            open: 3,
            session_in: 7,
            refused: 5,
            accept_pauses: 1,
            closed: [("peer", 2), ("too_slow", 1)].into(),
            turn_ns: 1_500_000_000,
            bytes_in: 11,
            bytes_out: 12,
            sign_in_failures: 3,
            ..WorkerFacts::default()
        };
        let facts = Facts { ready: true, uptime_ms: 1_500, workers: vec![worker; 2], restarts: 4, ..Facts::default() };
        let text = String::from_utf8(respond(&facts, form).body).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_figure_is_named_with_its_labels_once_in_both_forms() {
        for form in [Form::OpenMetrics, Form::Text] {
            let lines = lines(form);
            for line in [
                r#"amp_relay_connections{worker="1"} 3"#,
                r#"amp_relay_refused_total{worker="0"} 5"#,
                r#"amp_relay_accept_pauses_total{worker="1"} 1"#,
                r#"amp_relay_closed_total{kind="too_slow"} 2"#,
                r#"amp_relay_messages_total{dialect="session",direction="in"} 14"#,
                r#"amp_relay_socket_bytes_total{direction="in"} 22"#,
                r#"amp_relay_socket_bytes_total{direction="out"} 24"#,
                "amp_relay_sign_in_failures_total 6",
                r#"amp_relay_loop_turn_seconds_total{worker="0"} 1.5"#,
                r#"amp_relay_sessions{state="busy"} 0"#,
                "amp_relay_session_restarts_total 4",
                "amp_relay_unreadable_lines_total 0",
                "amp_relay_uptime_seconds 1.5",
                "amp_relay_ready 1",
                "amp_relay_draining 0",
            ] {
                assert_eq!(lines.iter().filter(|have| *have == line).count(), 1, "{line} in\n{}", lines.join("\n"));
            }
            let build = format!("amp_relay_build_info{{version=\"{}\",", env!("CARGO_PKG_VERSION"));
            assert!(lines.iter().any(|line| line.starts_with(&build)), "{}", lines.join("\n"));
            assert_eq!(lines.last().is_some_and(|last| last == "# EOF"), form == Form::OpenMetrics);
        }
    }

    #[test]
    fn a_relay_is_ready_if_it_serves_and_does_not_end() {
        for (serves, draining, ready) in [(true, false, 1), (true, true, 0), (false, false, 0), (false, true, 0)] {
            let facts = Facts { ready: serves, draining, ..Facts::default() };
            let text = String::from_utf8(respond(&facts, Form::Text).body).expect("text");
            let lines = [format!("amp_relay_ready {ready}\n"), format!("amp_relay_draining {}\n", u64::from(draining))];
            assert!(lines.iter().all(|line| text.contains(line)), "{serves} {text}");
        }
    }
}
