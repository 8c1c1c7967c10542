//! What an operator meets: listeners, health, metrics, refusals, the drain, and the configuration.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    self, Device, Key, Relay, SignIn,
    http::{self, Endpoint},
    process,
    relay::Scratch,
};

#[test]
fn listeners_are_named_in_the_order_given() {
    let owner = Key::new("owner");
    let options = Relay::options(&[&owner]);
    let socket = options.scratch.root().join("mine.sock");
    let relay =
        options.listen("127.0.0.1:0").listen(format!("unix:{}", socket.display())).listen("127.0.0.1:0").start();
    let kinds: Vec<_> = relay.listeners.iter().map(|l| l.split(':').next().unwrap_or("")).collect();
    assert_eq!(kinds, ["ws", "unix", "ws", "unix"], "{:?}", relay.listeners);
    assert_eq!(relay.listeners[1], format!("unix:{}", socket.display()));
    let last = relay.scratch.data().join("relay.sock");
    assert_eq!(relay.unix(), Endpoint::Unix(last.clone()));
    for listener in &relay.listeners {
        let endpoint = Endpoint::parse(listener);
        assert_eq!(http::get(&endpoint, "/healthz").status, 200, "{listener}");
        SignIn::new(&owner).connect(&endpoint).unwrap_or_else(|refused| panic!("{listener}: {refused:?}"));
    }
    let mode = |path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(last), 0o600, "the socket is its owner's alone");
    assert_eq!(mode(relay.scratch.data()), 0o700, "and so is the folder");
}

#[test]
fn health_metrics_and_stats_are_served() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let prompt = device.prompt(&session, "hello");
    device.turn(&session, &prompt);
    for endpoint in [relay.tcp(), relay.unix()] {
        assert_eq!(http::get(&endpoint, "/healthz").status, 200);
        assert_eq!(http::get(&endpoint, "/readyz").status, 200);
        let metrics = http::get(&endpoint, "/metrics");
        assert_eq!(metrics.status, 200);
        for what in ["connections", "messages", "queue", "sessions", "restarts", "sign_in", "turn"] {
            let named = metrics.body.lines().any(|line| line.starts_with("# TYPE") && line.contains(what));
            assert!(named, "a metric of {what}: {}", metrics.body);
        }
        assert!(metrics.body.contains("state=\"ready\""), "{}", metrics.body);
        let stats = http::get(&endpoint, "/stats");
        assert_eq!(stats.status, 200);
        let stats: serde_json::Value = serde_json::from_str(&stats.body).expect("JSON");
        assert_eq!(stats["workers"].as_array().map(Vec::len), Some(2), "per worker too: {stats}");
    }
    assert_eq!(http::get(&relay.tcp(), "/no-such-page").status, 404);
    let head = "POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    let answer = http::raw(&relay.tcp(), head);
    assert_eq!((answer.status, answer.body.trim()), (405, "only GET and HEAD are served here"));
}

#[test]
fn a_request_has_to_name_a_host_of_ours() {
    let owner = Key::new("owner");
    let relay = Relay::options(&[&owner]).argument("--host").argument("relay.example.com").start();
    let tcp = relay.tcp();
    let ask = |headers: &str| http::raw(&tcp, &format!("GET /healthz HTTP/1.1\r\n{headers}\r\n")).status;
    for host in ["localhost", "localhost:1", "127.0.0.1", "127.0.0.1:99", "[::1]", "[::1]:5711", "relay.example.com"] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    for headers in
        ["Host: evil.example.com\r\n", "Host: localhost.evil.example.com\r\n", "Host: 10.0.0.1\r\n", "Host: \r\n"]
    {
        assert_eq!(ask(headers), 421, "{headers:?}");
    }
    for headers in ["", "Host: localhost\r\nHost: evil.example.com\r\n", "Host: localhost@evil.example.com\r\n"] {
        assert_eq!(ask(headers), 400, "{headers:?}");
    }
    let upgrade = http::upgrade_request("evil.example.com", Some("amp-session.v1"), "");
    assert_eq!(http::raw(&tcp, &upgrade).status, 421);
}

#[test]
fn the_unix_socket_is_asked_by_any_name_of_one_label() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let ask = |headers: &str| http::raw(&relay.unix(), &format!("GET /stats HTTP/1.1\r\n{headers}\r\n")).status;
    for host in ["unix", "d", "x", "docker:80", "localhost"] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    assert_eq!(ask("Host: unix\r\nOrigin: http://evil.example.com\r\n"), 403);
    assert_eq!(ask("Host: evil.example.com\r\n"), 421, "a page behind a tunnel to the socket");
    for headers in ["", "Host: unix\r\nHost: unix\r\n", "Host: u@nix\r\n"] {
        assert_eq!(ask(headers), 400, "{headers:?}");
    }
    let over_tcp = http::raw(&relay.tcp(), "GET /stats HTTP/1.1\r\nHost: unix\r\n\r\n");
    assert_eq!(over_tcp.status, 421);
}

#[test]
fn pages_of_other_origins_are_refused() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let ask = |extra: &str| {
        let request = http::upgrade_request(&address.to_string(), Some("amp-session.v1"), extra);
        let mut stream = relay.tcp().connect().expect("the relay listens");
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("it reads");
        let mut start = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut start).expect("it answers");
        String::from_utf8_lossy(&start).into_owned()
    };
    assert_eq!(ask(""), "HTTP/1.1 101");
    assert_eq!(ask(&format!("Origin: http://{address}\r\n")), "HTTP/1.1 101");
    for origin in [
        "http://evil.example.com".to_owned(),
        "null".to_owned(),
        format!("https://{address}"),
        format!("http://{}", address.ip()),
        format!("http://{address}.evil.example.com"),
    ] {
        assert_eq!(ask(&format!("Origin: {origin}\r\n")), "HTTP/1.1 403", "{origin}");
    }
    let twice = format!("Origin: http://{address}\r\nOrigin: http://{address}\r\n");
    assert_eq!(ask(&twice), "HTTP/1.1 403");
}

#[test]
fn e_pages_of_other_origins_are_refused_on_every_path() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let host = relay.tcp().host();
    for path in ["/healthz", "/readyz", "/metrics", "/stats", "/session", "/amp/v1/ws", "/no-such-page"] {
        let ask = |origin: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n\r\n");
            http::raw(&relay.tcp(), &request).status
        };
        for origin in ["http://evil.example.com", "null", "", &format!("https://{host}")] {
            assert_eq!(ask(origin), 403, "{path} for {origin:?}");
        }
        assert_ne!(ask(&format!("http://{host}")), 403, "{path} for a page of ours");
    }
}

#[test]
fn e_a_health_check_of_http_1_0_needs_no_host() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    for endpoint in [relay.tcp(), relay.unix()] {
        for path in ["/healthz", "/readyz", "/metrics", "/stats"] {
            assert_eq!(http::raw(&endpoint, &format!("GET {path} HTTP/1.0\r\n\r\n")).status, 200, "{path}");
        }
        // A page whose name leads here sends that name.
        let rebound = http::raw(&endpoint, "GET /stats HTTP/1.0\r\nHost: evil.example.com\r\n\r\n");
        assert_eq!(rebound.status, 421);
        // And no session is opened without one.
        let upgrade = http::upgrade_request("x", Some("amp-session.v1"), "").replace("Host: x\r\n", "");
        assert_eq!(http::raw(&endpoint, &upgrade.replace("HTTP/1.1", "HTTP/1.0")).status, 400);
    }
}

#[test]
fn e_a_target_may_be_absolute_and_its_host_is_the_one_that_counts() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let tcp = relay.tcp();
    let ask =
        |target: &str, host: &str| http::raw(&tcp, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status;
    let host = tcp.host();
    assert_eq!(ask(&format!("http://{host}/healthz"), &host), 200);
    assert_eq!(ask("http://localhost/readyz?verbose", "evil.example.com"), 200, "the header is not looked at");
    assert_eq!(ask("http://evil.example.com/healthz", &host), 421);
    assert_eq!(ask(&format!("https://{host}/healthz"), &host), 421);
    assert_eq!(ask(&format!("http://{host}"), &host), 404);
    let upgrade = http::upgrade_request(&host, Some("amp-session.v1"), &format!("Origin: http://{host}\r\n"));
    let mut stream = tcp.connect().expect("the relay listens");
    let absolute = upgrade.replace("GET /session", &format!("GET http://{host}/session"));
    std::io::Write::write_all(&mut stream, absolute.as_bytes()).expect("it reads");
    let mut start = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut start).expect("it answers");
    assert_eq!(&start, b"HTTP/1.1 101", "an upgrade too");
}

/// The value of a header of an answer.
fn header<'a>(answer: &'a http::Answer, name: &str) -> Option<&'a str> {
    let mut lines = answer.head.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[test]
fn e_a_head_request_is_told_the_length_of_the_body_that_it_does_not_get() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let host = relay.tcp().host();
    let ask = |method: &str, path: &str| {
        http::raw(&relay.tcp(), &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    for path in ["/healthz", "/readyz", "/metrics", "/stats", "/session", "/amp/v1/ws", "/no-such-page", "bad"] {
        let (head, get) = (ask("HEAD", path), ask("GET", path));
        let length = |answer: &http::Answer| {
            header(answer, "content-length").and_then(|length| length.parse::<usize>().ok()).expect("a length")
        };
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        assert_eq!(length(&get), get.body.len(), "{path}");
        assert!(length(&head) > 0, "{path}: {head:?}");
        if !["/metrics", "/stats"].contains(&path) {
            assert_eq!(length(&head), length(&get), "{path}");
        }
    }
}

#[test]
fn e_every_plain_answer_says_when_it_was_given() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let host = relay.tcp().host();
    let asked = SystemTime::now() - Duration::from_secs(1);
    for request in [
        format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /no-such-page HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /session HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        "GET /healthz HTTP/1.1\r\nHost: evil.example.com\r\n\r\n".to_owned(),
        "no request\r\n\r\n".to_owned(),
    ] {
        let answer = http::raw(&relay.tcp(), &request);
        let date = header(&answer, "date").unwrap_or_else(|| panic!("no Date: {answer:?}"));
        let date = httpdate::parse_http_date(date).expect("a date");
        assert!(asked <= date && date <= SystemTime::now(), "{answer:?}");
    }
}

#[test]
fn e_a_426_says_what_to_upgrade_to_and_lists_it_as_a_connection_option() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    for path in ["/session", "/amp/v1/ws"] {
        let answer = http::get(&relay.tcp(), path);
        assert_eq!((answer.status, header(&answer, "upgrade")), (426, Some("websocket")), "{path}: {answer:?}");
        let options = header(&answer, "connection").unwrap_or_default().to_ascii_lowercase();
        assert!(options.split(',').any(|option| option.trim() == "upgrade"), "{path}: {answer:?}");
        assert_eq!(header(&answer, "sec-websocket-version"), Some("13"), "{path}: {answer:?}");
    }
}

#[test]
fn e_metrics_come_in_the_form_that_is_accepted_and_name_what_an_operator_asks_first() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let host = relay.tcp().host();
    let ask = |accept: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n");
        http::raw(&relay.tcp(), &request)
    };
    let (text, open) = (ask("text/plain;version=0.0.4"), ask("application/openmetrics-text;version=1.0.0"));
    assert_eq!(header(&text, "content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(header(&open, "content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"),);
    assert_eq!((text.body.contains("# EOF"), open.body.ends_with("# EOF\n")), (false, true));
    assert!(text.body.contains("# TYPE amp_relay_accepted_total counter\n"), "{}", text.body);
    assert!(open.body.contains("# TYPE amp_relay_accepted counter\n"), "{}", open.body);
    for what in
        ["build_info{version=", "ready 1", "draining 0", "uptime_seconds ", "refused_total{", "accept_pauses_total{"]
    {
        for answer in [&text, &open] {
            let line = format!("amp_relay_{what}");
            assert!(answer.body.lines().any(|have| have.starts_with(&line)), "{line}: {}", answer.body);
        }
    }
}

#[test]
fn an_upgrade_has_to_name_the_subprotocol() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let Endpoint::Tcp(address) = relay.tcp() else { panic!("a TCP listener") };
    let host = address.to_string();
    for subprotocol in [None, Some("chat"), Some("amp-session.v2")] {
        let answer = http::raw(&relay.tcp(), &http::upgrade_request(&host, subprotocol, ""));
        assert_eq!(answer.status, 400, "{subprotocol:?}: {answer:?}");
    }
    // The Host and the Origin are looked at first.
    assert_eq!(http::raw(&relay.tcp(), &http::upgrade_request("evil.example.com", None, "")).status, 421);
    let foreign = http::upgrade_request(&host, None, "Origin: http://evil.example.com\r\n");
    assert_eq!(http::raw(&relay.tcp(), &foreign).status, 403);
}

#[test]
fn a_termination_says_goodbye_and_leaves_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let owner = Key::new("owner");
        let mut relay = Relay::demo(&[&owner]);
        let mut device = Device::connect(&relay, &owner, "laptop");
        let session = device.create();
        device.attach(&session);
        let prompt = device.prompt(&session, "hello");
        device.turn(&session, &prompt);
        relay.signal(signal);
        assert_eq!(device.wait_closed().0, 1001);
        let status = relay.exit();
        assert!(status.success(), "{status:?}: {}", relay.log());
        assert!(relay.unix().connect().is_err(), "nobody listens any more");
        process::none_left(relay.scratch.root());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let owner = Key::new("owner");
    let mut relay = Relay::options(&[&owner]).argument("--grace").argument("3600s").start();
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    device.prompt(&session, "ask, and nobody will answer");
    device.event(&session, "the permission request", |event| event["kind"] == "permission");
    // A peer that never answers the close frame keeps the drain waiting.
    let _silent = http::RawSocket::open(&relay.tcp());
    relay.signal(Signal::TERM);
    device.wait_closed();
    relay.signal(Signal::TERM);
    relay.exit();
    process::none_left(relay.scratch.root());
}

#[test]
fn a_second_instance_is_refused() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let data = relay.scratch.data().display().to_string();
    let said = relay.scratch.run(["serve", "--demo", "--listen", "127.0.0.1:0", "--data", &data]).refused();
    assert!(said.contains(&data), "it names the folder that is in use: {said}");
    Device::connect(&relay, &owner, "and the first goes on");
}

#[test]
fn a_socket_left_by_a_killed_relay_is_no_obstacle() {
    let owner = Key::new("owner");
    let mut relay = Relay::demo(&[&owner]);
    relay.signal(Signal::KILL);
    relay.exit();
    let mut command = relay.scratch.command(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(relay.scratch.data());
    let again = Relay::spawn(Scratch::new(), command, 2);
    assert_eq!(http::get(&again.unix(), "/readyz").status, 200);
}

#[test]
fn other_addresses_than_loopback_are_refused_with_the_reason() {
    for listener in ["0.0.0.0:0", "[::]:0", "192.0.2.1:5711"] {
        let said = Relay::options(&[]).listen(listener).refused();
        assert!(said.contains("loopback") && said.contains("TLS"), "{listener}: {said}");
    }
    let said = Relay::options(&[]).listen("nonsense").refused();
    assert!(said.contains("nonsense"), "{said}");
}

#[test]
fn an_unknown_setting_is_an_error_with_a_suggestion() {
    let scratch = Scratch::new();
    let config = scratch.home().join(".config/amp-relay");
    fs::create_dir_all(&config).expect("a folder");
    fs::write(config.join("config.toml"), "wokers = 2\n").expect("a file");
    let said = scratch.run(["config", "check"]).refused();
    assert!(said.contains("wokers") && said.contains("workers"), "{said}");
    assert!(said.contains("config.toml"), "the file is named: {said}");
    let said = scratch.run(["serve", "--demo"]).refused();
    assert!(said.contains("wokers"), "{said}");
    fs::write(config.join("config.toml"), "workers = \"many\"\n").expect("a file");
    let said = scratch.run(["config", "check"]).refused();
    assert!(said.contains("workers"), "{said}");
    fs::write(config.join("config.toml"), "workers = 2\n").expect("a file");
    scratch.run(["config", "check"]).ok();
}

#[test]
fn config_show_says_where_each_value_came_from() {
    let scratch = Scratch::new();
    let config = scratch.home().join(".config/amp-relay");
    fs::create_dir_all(&config).expect("a folder");
    fs::write(config.join("config.toml"), "workers = 3\ngrace = \"4s\"\n").expect("a file");
    let mut command = scratch.command(["config", "show", "--folder"]);
    command.arg(scratch.project()).env("AMP_RELAY_GRACE", "5s");
    let shown = support::relay::Ran::from(command.output().expect("it runs")).ok();
    let line = |name: &str| {
        let found = shown.lines().find(|line| line.trim_start().starts_with(name));
        found.unwrap_or_else(|| panic!("{name} is shown: {shown}")).to_lowercase()
    };
    assert!(line("workers").contains('3') && line("workers").contains("config.toml"), "{shown}");
    assert!(line("grace").contains('5') && line("grace").contains("amp_relay_grace"), "the environment wins: {shown}");
    assert!(line("folder").contains("flag") || line("folder").contains("--folder"), "{shown}");
    assert!(line("listen").contains("127.0.0.1:5711") && line("listen").contains("default"), "{shown}");
}

#[test]
fn wrong_uses_are_explained() {
    let scratch = Scratch::new();
    for arguments in [&["serve", "--wokers", "2"][..], &["surve"], &["keys", "add", "/no/such/file.pub"]] {
        let said = scratch.run(arguments).refused();
        assert!(!said.trim().is_empty() && !said.contains("panicked"), "{arguments:?}: {said}");
    }
    let said = scratch.run(["serve", "--wokers", "2"]).refused();
    assert!(said.contains("--workers"), "a suggestion: {said}");
    let said = scratch.run(["sessions"]).refused();
    assert!(said.contains("amp-relay up") || said.contains("relay"), "no relay runs, and what to do: {said}");
}

#[test]
fn the_drain_tells_late_comers() {
    let owner = Key::new("owner");
    let mut relay = Relay::demo(&[&owner]);
    let mut one = Device::connect(&relay, &owner, "one");
    let mut two = SignIn::new(&owner).name("two").connect(&relay.unix()).expect("signed in");
    one.ok("list", json!({}));
    relay.signal(Signal::TERM);
    assert_eq!((one.wait_closed().0, two.wait_closed().0), (1001, 1001), "on every listener");
    assert!(relay.exit().success());
}

#[test]
fn whoever_reads_that_it_listens_may_end_it_in_the_next_moment() {
    let owner = Key::new("owner");
    let mut relay = Relay::demo(&[&owner]);
    let status = fs::read_to_string(format!("/proc/{}/status", relay.pid())).expect("its status");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("the signals it handles");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
    for signal in [Signal::TERM, Signal::INT] {
        assert_ne!(caught & (1 << (signal.as_raw() - 1)), 0, "{signal:?} is handled: {caught:x}");
    }
    relay.signal(Signal::TERM);
    assert!(relay.exit().success());
}

#[test]
fn an_agent_that_ignores_everything_does_not_keep_the_relay_from_ending() {
    let owner = Key::new("owner");
    let options = Relay::options(&[&owner]).argument("--grace").argument("2s");
    let stubborn = options.scratch.root().join("stubborn");
    fs::write(&stubborn, "#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do sleep 1000; done\n").expect("a script");
    fs::set_permissions(&stubborn, fs::Permissions::from_mode(0o755)).expect("ours");
    let mut relay = options.claude(&stubborn).start();
    let mut device = Device::connect(&relay, &owner, "laptop");
    device.create();
    relay.signal(Signal::TERM);
    assert_eq!(device.wait_closed().0, 1001);
    let status = relay.exit();
    assert!(status.success(), "{status:?}: {}", relay.log());
    process::none_left(relay.scratch.root());
}

#[test]
fn devices_and_refused_sign_ins_are_counted_truly() {
    let (owner, guest) = (Key::new("owner"), Key::new("guest"));
    let relay = Relay::options(&[&owner]).keys(&guest.line("amp-role=\"drive\"")).start();
    let mut phone = Device::connect(&relay, &guest, "phone");
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    assert_eq!(relay.metric("amp_relay_devices"), 2.0);
    fs::write(relay.keys(), owner.line("amp-role=\"admin\"")).expect("the keys file");
    laptop.ok("keys", json!({"op": "reload"}));
    assert_eq!(phone.wait_closed().0, 4401);
    support::until("the revoked device is counted out", || (relay.metric("amp_relay_devices") == 1.0).then_some(()));
    let before = relay.metric("amp_relay_sign_in_failures_total");
    let elsewhere = SignIn { authority: Some("elsewhere.example:1".into()), ..SignIn::new(&owner) };
    assert!(elsewhere.connect(&relay.tcp()).is_err(), "another authority");
    assert!(SignIn::new(&guest).connect(&relay.tcp()).is_err(), "a removed key");
    assert_eq!(relay.metric("amp_relay_sign_in_failures_total") - before, 2.0);
}

#[test]
fn c6_the_last_key_that_is_removed_is_shut_out_at_once() {
    let owner = Key::new("owner");
    let relay = Relay::options(&[&owner]).start();
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    // A file that is away says nothing, and whoever asks is told so.
    let keys = fs::read(relay.keys()).expect("the keys file");
    fs::remove_file(relay.keys()).expect("removed");
    let error = laptop.command("keys", json!({"op": "reload"})).expect_err("there is no file");
    let says = support::text(&error["message"]);
    assert!(error["code"] == "INTERNAL" && says.contains("not there: the keys stay for"), "{error}");
    fs::write(relay.keys(), keys).expect("the keys file");
    assert_eq!(laptop.ok("keys", json!({"op": "reload"}))["entries"], 1);
    let file = relay.keys().display().to_string();
    relay.run(&["keys", "remove", "owner", "--yes", "--keys", &file]).ok();
    assert!(fs::read_to_string(relay.keys()).expect("the keys file").starts_with('#'));
    assert!(SignIn::new(&owner).connect(&relay.tcp()).is_err(), "a removed key");
    assert_eq!(laptop.wait_closed().0, 4401);
}

#[test]
fn a_revoked_device_that_does_not_read_is_seen_by_nobody_at_once() {
    let (owner, guest) = (Key::new("owner"), Key::new("guest"));
    let relay = Relay::options(&[&owner]).keys(&guest.line("amp-role=\"drive\"")).start();
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let session = laptop.create();
    laptop.attach(&session);
    let mut phone = Device::connect(&relay, &guest, "phone");
    phone.attach(&session);
    let names = |devices: &serde_json::Value| devices.as_array().map(Vec::len);
    laptop.wait("both watch", |message| message["type"] == "presence" && names(&message["devices"]) == Some(2));
    let connections = relay.metric("amp_relay_connections");
    fs::write(relay.keys(), owner.line("amp-role=\"admin\"")).expect("the keys file");
    // The phone reads nothing from here on: its connection lasts as long as a close may take.
    laptop.ok("keys", json!({"op": "reload"}));
    support::until("the phone is counted out", || (relay.metric("amp_relay_devices") == 1.0).then_some(()));
    support::until("the phone is seen no more", || {
        let devices = &laptop.attach(&session)["snapshot"]["devices"];
        (names(devices) == Some(1)).then_some(())
    });
    // Its connection is still there.
    assert_eq!(relay.metric("amp_relay_connections"), connections);
    assert_eq!(phone.wait_closed().0, 4401);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let scratch = Scratch::new();
    let mut command = scratch.command(["config", "show"]);
    for name in ["CONFIG", "DATA", "LISTEN", "KEYS", "CLAUDE", "DEMO", "FOLDER", "WORKERS", "HOST", "GRACE", "LOG"] {
        command.env(format!("AMP_RELAY_{name}"), "");
    }
    let shown = support::relay::Ran::from(command.output().expect("it runs")).ok();
    assert!(shown.lines().all(|line| line.contains("# default")), "{shown}");
    for (value, demo) in
        [("false", "demo = false"), ("0", "demo = false"), ("1", "demo = true"), ("true", "demo = true")]
    {
        let mut command = scratch.command(["config", "show"]);
        let shown = support::relay::Ran::from(command.env("AMP_RELAY_DEMO", value).output().expect("it runs")).ok();
        assert!(shown.contains(demo), "AMP_RELAY_DEMO={value}: {shown}");
    }
}

#[test]
fn keys_finds_the_file_that_the_config_names_and_says_when_the_relay_reads_another() {
    let scratch = Scratch::new();
    let config = scratch.home().join(".config/amp-relay");
    fs::create_dir_all(&config).expect("a folder");
    let toml = format!("data = {:?}\nkeys = {:?}\n", scratch.data(), scratch.root().join("mine"));
    fs::write(config.join("config.toml"), toml).expect("a file");
    let command = scratch.command(["serve", "--demo", "--listen", "127.0.0.1:0"]);
    let relay = Relay::spawn(scratch, command, 2);
    let guest = Key::new("guest");
    let run = |arguments: &[&str]| {
        support::relay::Ran::from(relay.scratch.command(arguments).output().expect("the program starts"))
    };
    let said = run(&["keys", "add", "--role", "watch", &guest.public]).ok();
    assert!(said.contains("in force in the running relay: 2 keys"), "{said}");
    SignIn::new(&guest).connect(&relay.tcp()).expect("it is let in");
    let other = relay.scratch.root().join("other").display().to_string();
    let said = run(&["keys", "add", "--keys", &other, "--role", "watch", &Key::new("late").public]).refused();
    assert!(said.contains("another keys file") && said.contains("mine"), "{said}");
}
