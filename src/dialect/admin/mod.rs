//! The admin dialect: `/healthz`, `/readyz`, `/metrics` and `/stats` as HTTP answers. Owns their formats; it must
//! not gather the figures, which come as [`Facts`].

mod exposition;
mod metrics;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    relay::api::State,
    wire::http::{Head, Response},
};

use self::exposition::Form;

/// Figures of one worker, all since the start unless they say otherwise.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WorkerFacts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused before they could ask anything: for want of room, most of all.
    pub refused: u64,
    /// Connections that had proved nothing and gave way to new ones.
    pub displaced: u64,
    /// Connections open now that have proved nothing.
    pub provisional: u64,
    /// Times that accepting paused because descriptors or memory ran out.
    pub accept_pauses: u64,
    /// Connections closed, by the kind of close.
    pub closed: BTreeMap<&'static str, u64>,
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
    /// Bytes of incomplete messages held now.
    pub kept_bytes: u64,
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
    /// AMP messages with a signature that is being checked now.
    pub amp_checking: u64,
    /// Messages to several recipients with failures that the sender is told of soon.
    pub amp_gathering: u64,
    /// Agents that take too long, so that what some senders have for them is refused.
    pub amp_stuck: u64,
    /// AMP messages with a wrong signature.
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
    /// Lines of CLIs that were no message.
    pub unreadable_lines: u64,
}

/// The answer to a request, if this dialect serves its path. A HEAD is answered like a GET: the writer of the answer
/// leaves out the body, and its length is that of the GET.
pub fn respond(head: &Head<'_>, facts: impl FnOnce() -> Facts) -> Option<Response> {
    if !matches!(head.path, "/healthz" | "/readyz" | "/metrics" | "/stats") {
        return None;
    }
    if !matches!(head.method, "GET" | "HEAD") {
        return Some(Response::text(405, "only GET and HEAD are served here").with("Allow", "GET, HEAD"));
    }
    Some(match head.path {
        "/healthz" => Response::text(200, "ok"),
        "/readyz" => readiness(&facts()),
        "/metrics" => metrics::respond(&facts(), Form::wanted(head.list("accept"))),
        _ => stats(&facts()),
    })
}

fn readiness(facts: &Facts) -> Response {
    match facts {
        Facts { draining: true, .. } => Response::text(503, "draining"),
        Facts { ready: true, .. } => Response::text(200, "ready"),
        Facts { .. } => Response::text(503, "starting"),
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
        sessions: BTreeMap<&'static str, u64>,
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
            Response::body(200, "application/json", body)
        }
        Err(error) => Response::text(500, format!("stats could not be written: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::{Parsed, parse};

    /// The answer to a request with these header lines.
    fn ask(method: &str, path: &str, lines: &str, facts: Facts) -> Option<Response> {
        let bytes = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        let Ok(Parsed::Complete { head, .. }) = parse(bytes.as_bytes()) else { panic!("not a request: {bytes}") };
        respond(&head, || facts)
    }

    fn body(path: &str, facts: Facts) -> (u16, String) {
        let response = ask("GET", path, "", facts).expect("a path of this dialect");
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
    fn stats_add_up_the_workers() {
        let workers = vec![WorkerFacts { open: 3, ..WorkerFacts::default() }; 2];
        let (_, text) = body("/stats", Facts { workers, ..Facts::default() });
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((value["connections"].as_u64(), value["workers"][1]["open"].as_u64()), (Some(6), Some(3)));
    }

    #[test]
    fn other_methods_and_paths_are_told_apart() {
        assert_eq!(ask("POST", "/metrics", "", Facts::default()).map(|response| response.status), Some(405));
        assert!(ask("GET", "/", "", Facts::default()).is_none());
    }

    #[test]
    fn a_head_is_answered_as_a_get_is() {
        for path in ["/healthz", "/readyz", "/metrics", "/stats", "/healthz?x"] {
            assert_eq!(ask("HEAD", path, "", Facts::default()), ask("GET", path, "", Facts::default()), "{path}");
        }
    }

    #[test]
    fn metrics_come_in_the_form_that_is_asked_for() {
        let kind = |lines: &str| {
            let response = ask("GET", "/metrics", lines, Facts::default()).expect("metrics");
            let ends = response.body.ends_with(b"# EOF\n");
            let mut kinds = response.headers.into_iter().filter(|(name, _)| *name == "Content-Type");
            (kinds.next().expect("a type").1, ends)
        };
        let open = ("application/openmetrics-text; version=1.0.0; charset=utf-8".to_owned(), true);
        let text = ("text/plain; version=0.0.4; charset=utf-8".to_owned(), false);
        assert_eq!((kind(""), kind("Accept: */*\r\n")), (text.clone(), text.clone()));
        assert_eq!(kind("Accept: text/plain;version=0.0.4\r\n"), text);
        assert_eq!(kind("Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text\r\n"), open);
    }
}
