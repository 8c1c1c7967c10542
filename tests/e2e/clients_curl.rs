//! The admin paths as curl asks for them. Without curl the tests are skipped loudly, and fail where `CI=true`.

use std::process::Command;

use crate::support::{self, Key, Relay};

/// Whether there is a curl to test with; says so loudly where there is none.
fn has_curl() -> bool {
    if Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!required, "there is no curl, and CI=true demands one: use ./tests/run");
    support::say_loudly("SKIPPED: no curl. ./tests/run installs it.");
    false
}

/// What curl prints: the heads, the body, and the status on a line of its own.
#[track_caller]
fn curl(arguments: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["-q", "--silent", "--show-error", "--include", "--max-time", "60", "--write-out", "\n%{http_code}"]);
    let output = command.args(arguments).output().expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{text}", String::from_utf8_lossy(&output.stderr));
    let (text, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), text.to_owned())
}

#[test]
fn clients_e_curl_asks_as_a_proxy_client_by_http_1_0_and_for_heads() {
    if !has_curl() {
        return;
    }
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let base = format!("http://{}", relay.tcp().authority());
    let health = format!("{base}/healthz");
    let (status, text) = curl(&["--noproxy", "*", &health]);
    assert!(status == 200 && text.contains("\r\nDate: ") && text.ends_with("\r\n\r\nok\n"), "{text:?}");
    // Told that the relay is its proxy, curl writes the target in its absolute form.
    let (status, text) = curl(&["--proxy", &base, "--noproxy", "", &health]);
    assert!(status == 200 && text.ends_with("ok\n"), "{text:?}");
    let (status, text) = curl(&["--proxy", &base, "--noproxy", "", "http://evil.example.com/healthz"]);
    assert_eq!(status, 421, "{text:?}");
    let socket = relay.scratch.data().join("relay.sock");
    let (status, text) = curl(&["--unix-socket", socket.to_str().expect("a path"), "http://unix/healthz"]);
    assert!(status == 200 && text.ends_with("ok\n"), "{text:?}");
    let (status, text) = curl(&["--noproxy", "*", "--http1.0", "--header", "Host:", &health]);
    assert_eq!(status, 200, "without a Host: {text:?}");
    let (status, text) = curl(&["--noproxy", "*", "--header", "Host:", &health]);
    assert_eq!(status, 400, "which HTTP/1.1 needs: {text:?}");
    let (status, text) = curl(&["--noproxy", "*", "--head", &health]);
    assert!(status == 200 && text.contains("\r\nContent-Length: 3\r\n"), "{text:?}");
    let (status, text) = curl(&["--noproxy", "*", &format!("{base}/session")]);
    assert!(status == 426 && text.contains("\r\nConnection: upgrade, close\r\n"), "{text:?}");
    let (status, text) = curl(&["--noproxy", "*", "--header", "Origin: http://evil.example.com", &health]);
    assert_eq!(status, 403, "{text:?}");
    let (status, text) =
        curl(&["--noproxy", "*", "--header", "Accept: text/plain;version=0.0.4", &format!("{base}/metrics")]);
    assert!(status == 200 && text.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{text:?}");
}
