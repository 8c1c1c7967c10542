//! What an operator meets: listeners, health, metrics, refusals, the drain, and the configuration.
#![cfg(feature = "cli")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use rustix::process::Signal;
use serde_json::json;

use support::{
    Device, Key, Relay, SignIn,
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
    assert_eq!(http::raw(&relay.tcp(), head).status, 405);
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
    for headers in [
        "Host: evil.example.com\r\n",
        "Host: localhost.evil.example.com\r\n",
        "Host: 10.0.0.1\r\n",
        "Host: localhost\r\nHost: evil.example.com\r\n",
        "Host: \r\n",
    ] {
        assert_eq!(ask(headers), 421, "{headers:?}");
    }
    let upgrade = http::upgrade_request("evil.example.com", Some("amp-session.v1"), "");
    assert_eq!(http::raw(&tcp, &upgrade).status, 421);
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
fn an_empty_variable_counts_as_not_set() {
    let scratch = Scratch::new();
    let mut command = scratch.command(["config", "show"]);
    for name in ["CONFIG", "DATA", "LISTEN", "KEYS", "CLAUDE", "DEMO", "FOLDER", "WORKERS", "HOST", "GRACE", "LOG"] {
        command.env(format!("AMP_RELAY_{name}"), "");
    }
    let shown = support::relay::Ran::from(command.output().expect("it runs")).ok();
    assert!(shown.lines().all(|line| line.ends_with("# default")), "{shown}");
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
