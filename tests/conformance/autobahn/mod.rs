//! The Autobahn test suite (https://github.com/crossbario/autobahn-testsuite) against the event loop's WebSocket layer
//! as a server, and against the codec as a client. What each case must end in stands in `tests/data/autobahn`.
//!
//! The suite is Python 2 code. Where no CPython 2.7 is found it is left out, loudly: `tests/conformance/ws.rs` has the
//! same rules as a table of our own. `./tests/run autobahn` installs the suite's packages.
//!
//! Sections 1 to 10 are run whole. Of 12 and 13, which are about compression and take long, a handful is run, and all
//! of them where `AMP_RELAY_TEST_AUTOBAHN_ALL` is set.

mod client;
mod suite;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use suite::{Echo, Outcome, Suite};

/// All that is not about compression.
const PLAIN: [&str; 9] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];
/// Of the compressed ones: each size of message once, fragments, text and bytes.
const SAMPLE_12: [&str; 5] = ["12.1.1", "12.1.4", "12.1.11", "12.2.5", "12.3.3"];
/// Each negotiation once: windows of 9 and 15 bits, without takeover, three offers.
const SAMPLE_13: [&str; 7] = ["13.1.3", "13.2.4", "13.3.5", "13.4.2", "13.5.12", "13.6.3", "13.7.4"];

fn wants_all() -> bool {
    std::env::var_os("AMP_RELAY_TEST_AUTOBAHN_ALL").is_some()
}

fn cases<'a>(sample: &[&'a str], all: &'a str) -> Vec<&'a str> {
    if wants_all() { vec![all] } else { sample.to_vec() }
}

/// Compares outcomes with the committed table of a role, line by line. Cases that were not run are not compared.
#[track_caller]
fn compare(role: &str, outcomes: &[Outcome], sections: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/autobahn/{role}.txt"));
    let table = fs::read_to_string(&path).expect("the table of expected outcomes");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let expected: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(' ')).collect();
    let mut wrong = String::new();
    for Outcome { case, behavior, close, said, .. } in outcomes {
        let got = format!("{behavior} {close}");
        let want = expected.get(case.as_str()).copied().unwrap_or("not in the table");
        if got != want {
            let _ = writeln!(wrong, "{case}: {got}, expected {want} ({said})");
        }
    }
    // Every case of the sections, or every one that was named, must have been run.
    let named = |case: &str| {
        sections.iter().any(|section| match section.strip_suffix('*') {
            Some(front) => case.starts_with(front),
            None => case == *section,
        })
    };
    for case in expected.keys().filter(|case| named(case)) {
        if !outcomes.iter().any(|outcome| outcome.case == *case) {
            let _ = writeln!(wrong, "{case}: not run");
        }
    }
    let took: u64 = outcomes.iter().map(|outcome| outcome.took_ms).sum();
    eprintln!("{role}: {} cases in {} s", outcomes.len(), took / 1000);
    assert!(wrong.is_empty(), "as a {role}:\n{wrong}");
}

#[test]
fn autobahn_server() {
    let Some(suite) = Suite::find() else { return };
    let echo = Echo::start(false);
    compare("server", &suite.against(&echo.url(), &PLAIN), &PLAIN);
    echo.stop();
}

fn server_compressed(takeover: bool, cases: &[&str]) {
    let Some(suite) = Suite::find() else { return };
    let echo = Echo::start(takeover);
    compare("server", &suite.against(&echo.url(), cases), cases);
    echo.stop();
}

fn client_compressed(takeover: bool, cases: &[&str]) {
    let Some(suite) = Suite::find() else { return };
    compare("client", &suite.serving(cases, |address| client::run_all(address, takeover)), cases);
}

// Section 12 without windows that are kept, 13 with them: what is negotiated there is about them.

#[test]
fn autobahn_server_section_12() {
    server_compressed(false, &cases(&SAMPLE_12, "12.*"));
}

#[test]
fn autobahn_server_section_13() {
    server_compressed(true, &cases(&SAMPLE_13, "13.*"));
}

#[test]
fn autobahn_client_section_12() {
    client_compressed(false, &cases(&SAMPLE_12, "12.*"));
}

#[test]
fn autobahn_client_section_13() {
    client_compressed(true, &cases(&SAMPLE_13, "13.*"));
}

#[test]
fn autobahn_client() {
    let Some(suite) = Suite::find() else { return };
    compare("client", &suite.serving(&PLAIN, |address| client::run_all(address, false)), &PLAIN);
}
