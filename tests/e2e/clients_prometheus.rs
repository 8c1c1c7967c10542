//! `/metrics` as the parsers of Prometheus' own Python client read it, in both forms.
//!
//! `AMP_RELAY_TEST_PYTHON` names a Python that has `prometheus-client` (`tests/run` makes one and sets it). Without it the
//! test is skipped loudly, and fails where `CI=true`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{self, Device, Key, Relay};

/// What Prometheus 3.x sends.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// The Python to test with, or `None` after saying loudly that there is none.
fn python() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("AMP_RELAY_TEST_PYTHON").filter(|value| !value.is_empty()) {
        return Some(program.into());
    }
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!required, "AMP_RELAY_TEST_PYTHON is not set, and CI=true demands other people's clients: use ./tests/run");
    support::say_loudly(
        "SKIPPED: no Python with prometheus-client. ./tests/run makes one and sets AMP_RELAY_TEST_PYTHON.",
    );
    None
}

/// One answer for each `Accept`.
fn scrape(python: &Path, url: &str, accepts: &[&str]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/prometheus.py");
    let mut command = Command::new(python);
    command.arg(script).arg(url).args(accepts).env("no_proxy", "*");
    let output = command.output().expect("Python runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "the parser refuses what it read: {stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The name and the labels of each sample, with its value.
fn samples(answer: &Value) -> Vec<(String, f64)> {
    let list = answer["samples"].as_array().expect("samples").iter();
    list.map(|sample| {
        (format!("{}{}", sample[0].as_str().expect("a name"), sample[1]), sample[2].as_f64().unwrap_or(-1.0))
    })
    .collect()
}

#[test]
fn clients_e_prometheus_reads_both_forms_and_finds_the_same_in_them() {
    let Some(python) = python() else { return };
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let url = format!("http://{}/metrics", relay.tcp().authority());
    let accepts = ["*/*", PROMETHEUS, "application/openmetrics-text; version=1.0.0", "text/plain; version=0.0.4"];
    let answers = scrape(&python, &url, &accepts);
    let kinds: Vec<_> = answers.iter().map(|answer| answer["kind"].as_str().expect("a type")).collect();
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(kinds, [text, open, open, text]);
    let names = |answer| samples(answer).into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    for answer in &answers {
        let found = samples(answer);
        let value = |name: &str| found.iter().find(|(have, _)| have.starts_with(name)).map(|(_, value)| *value);
        assert_eq!(found.len(), names(answer).len(), "each sample stands there once");
        assert_eq!(names(answer), names(&answers[0]), "whatever the form");
        assert_eq!(value("amp_relay_build_info{"), Some(1.0), "{found:?}");
        assert_eq!((value("amp_relay_ready{"), value("amp_relay_draining{")), (Some(1.0), Some(0.0)), "{found:?}");
        assert!(value("amp_relay_uptime_seconds{").is_some_and(|seconds| seconds > 0.0), "{found:?}");
        assert!(value("amp_relay_accepted_total{").is_some() && value("amp_relay_refused_total{").is_some());
        for (family, described) in answer["families"].as_object().expect("families") {
            assert_ne!(described[0], "unknown", "{family} has a type");
            assert_ne!(described[1], "", "{family} says what it is");
        }
    }
}
