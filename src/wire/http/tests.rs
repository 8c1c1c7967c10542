//! Heads, upgrades and the attacks on `Host` and `Origin`, as tables.

use proptest::prelude::*;

use super::*;

fn head(bytes: &[u8]) -> Head<'_> {
    match parse(bytes) {
        Ok(Parsed::Complete { consumed, head }) => {
            assert_eq!(consumed, bytes.len());
            head
        }
        Ok(Parsed::Partial) => panic!("partial: {:?}", bytes.escape_ascii().to_string()),
        Err(refused) => panic!("{}: {:?}", refused.status, bytes.escape_ascii().to_string()),
    }
}

fn status(bytes: &[u8]) -> u16 {
    match parse(bytes) {
        Ok(Parsed::Complete { .. }) => 200,
        Ok(Parsed::Partial) => 100,
        Err(refused) => refused.status,
    }
}

/// `GET /session` with these header lines.
fn get(lines: &[&str]) -> Vec<u8> {
    let mut bytes = b"GET /session HTTP/1.1\r\n".to_vec();
    for line in lines {
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[test]
fn good_heads() {
    let bytes = b"GET /stats?a=b?c HTTP/1.1\r\nHost: localhost\r\nX-One:  1 \r\nx-one: 2\r\nAccept: a, b\r\n\r\n";
    let head = head(bytes);
    assert_eq!((head.method, head.target, head.minor), ("GET", "/stats?a=b?c", 1));
    assert_eq!((head.path, head.query), ("/stats", Some("a=b?c")));
    assert_eq!(head.header("HOST"), Some("localhost"));
    assert_eq!(head.header("x-ONE"), Some("1"));
    assert_eq!(head.header("x-two"), None);
    assert_eq!(head.single("host"), Ok(Some("localhost")));
    assert_eq!(head.single("x-one"), Err(HeaderFault::Repeated));
    assert_eq!(head.single("x-two"), Ok(None));
    assert!(head.list("accept").eq(["a", "b"]));
    assert!(!head.wants_upgrade() && !head.has_body());
    assert_eq!(head.headers().count(), 4);
}

#[test]
fn a_value_that_is_not_ascii_is_no_value() {
    let bytes = b"GET / HTTP/1.1\r\nHost: locaIhost\xE2\x80\xAE\r\n\r\n";
    let head = head(bytes);
    assert_eq!(head.header("host"), None);
    assert_eq!(head.single("host"), Err(HeaderFault::NotAscii));
}

#[test]
fn what_follows_a_head_is_left_alone() {
    let bytes = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n\x81\x80";
    let Ok(Parsed::Complete { consumed, .. }) = parse(bytes) else { panic!("not complete") };
    assert_eq!(consumed, bytes.len() - 2);
}

#[test]
fn every_prefix_of_a_head_is_partial() {
    let bytes = get(&["Host: localhost:5711", "Connection: Upgrade"]);
    for len in 0..bytes.len() {
        assert_eq!(status(&bytes[..len]), 100, "{len}");
    }
    assert_eq!(status(&bytes), 200);
}

#[test]
fn bad_heads() {
    let table: &[(u16, &[u8])] = &[
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03"),
        (400, b"SSH-2.0-OpenSSH_9.9\r\n"),
        (400, b"GET\r\n\r\n"),
        (400, b"GET  / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n folded\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nno colon\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n"),
        (400, b"GET localhost/ HTTP/1.1\r\n\r\n"),
        (400, b"GET http:/localhost/ HTTP/1.1\r\n\r\n"),
        (400, b"GET http:///healthz HTTP/1.1\r\n\r\n"),
        (400, b"GET ws://localhost/ HTTP/1.1\r\n\r\n"),
        (400, b"GET http://localhost/#b HTTP/1.1\r\n\r\n"),
        (421, b"GET HTTPS://localhost/ HTTP/1.1\r\n\r\n"),
        (400, b"CONNECT localhost:22 HTTP/1.1\r\n\r\n"),
        (400, b"OPTIONS * HTTP/1.1\r\n\r\n"),
        (400, b"GET /a#b HTTP/1.1\r\n\r\n"),
        (400, b"GET /\xC3\xBC HTTP/1.1\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\n\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ];
    for (expected, bytes) in table {
        assert_eq!(status(bytes), *expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn an_absolute_target_is_taken_and_names_the_host() {
    // (target; authority, target, path and query as they are read)
    let table = [
        ("http://localhost:5711/stats?a=b", ("localhost:5711", "/stats?a=b", "/stats", Some("a=b"))),
        ("HTTP://relay.example/", ("relay.example", "/", "/", None)),
        ("http://[::1]:1", ("[::1]:1", "/", "/", None)),
        ("http://localhost?a", ("localhost", "/", "/", Some("a"))),
        ("http://localhost//evil.com/", ("localhost", "//evil.com/", "//evil.com/", None)),
    ];
    for (target, (host, rest, path, query)) in table {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: elsewhere\r\n\r\n").into_bytes();
        let head = head(&bytes);
        assert_eq!((head.host(), head.target), (Ok(Some(host)), rest), "{target}");
        assert_eq!((head.path, head.query), (path, query), "{target}");
    }
    assert_eq!(head(&get(&["Host: localhost"])).host(), Ok(Some("localhost")));
    assert_eq!(head(&get(&["Host: a", "Host: b"])).host(), Err(HeaderFault::Repeated));
}

#[test]
fn the_host_of_an_absolute_target_is_judged_instead_of_the_header() {
    let status = |target: &str, version: &str, lines: &str| {
        let bytes = format!("GET {target} HTTP/{version}\r\n{lines}\r\n").into_bytes();
        HostPolicy::default().check(&head(&bytes)).map_or_else(|refused| refused.status, |()| 200)
    };
    let table = [
        (200, "http://localhost/", "1.1", "Host: localhost\r\n"),
        (200, "http://127.0.0.1:5711/healthz", "1.1", "Host: evil.example\r\n"),
        (421, "http://evil.example/", "1.1", "Host: localhost\r\n"),
        (421, "http://localhost.evil.example/", "1.1", "Host: localhost\r\n"),
        (400, "http://localhost@evil.example/", "1.1", "Host: localhost\r\n"),
        (400, "http://user@localhost/", "1.1", "Host: localhost\r\n"),
        (400, "http://localhost/", "1.1", ""),
        (400, "http://localhost/", "1.1", "Host: localhost\r\nHost: localhost\r\n"),
        (200, "http://localhost/", "1.0", ""),
        (421, "http://evil.example/", "1.0", ""),
    ];
    for (expected, target, version, lines) in table {
        assert_eq!(status(target, version, lines), expected, "{target} HTTP/{version} {lines:?}");
    }
    let bytes = b"GET http://localhost:1/ HTTP/1.1\r\nHost: x\r\nOrigin: http://localhost:1\r\n\r\n";
    assert_eq!(check_origin(&head(bytes), false), Ok(()), "its Origin too");
    let bytes = b"GET http://localhost:1/ HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\n";
    assert!(check_origin(&head(bytes), false).is_err());
}

#[test]
fn a_request_of_http_1_0_may_name_no_host() {
    let status = |version: &str, lines: &str| {
        let bytes = format!("GET /healthz HTTP/{version}\r\n{lines}\r\n").into_bytes();
        HostPolicy::default().check(&head(&bytes)).map_or_else(|refused| refused.status, |()| 200)
    };
    assert_eq!(status("1.0", ""), 200);
    assert_eq!(status("1.1", ""), 400);
    // A request that names one is held to it, in either version.
    for version in ["1.0", "1.1"] {
        assert_eq!(status(version, "Host: evil.example\r\n"), 421);
        assert_eq!(status(version, "Host:\r\n"), 421);
        assert_eq!(status(version, "Host: localhost\r\nHost: localhost\r\n"), 400);
    }
    let bytes = b"GET /healthz HTTP/1.0\r\nOrigin: http://localhost\r\n\r\n";
    assert!(check_origin(&head(bytes), false).is_err(), "an Origin that nothing is compared with");
}

#[test]
fn a_head_is_bounded_in_bytes_and_in_headers() {
    let sized = |len: usize| {
        let mut bytes = b"GET / HTTP/1.1\r\nX: ".to_vec();
        bytes.resize(len - 4, b'x');
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    };
    assert_eq!(status(&sized(HEAD_MAX)), 200);
    assert_eq!(status(&sized(HEAD_MAX + 1)), 431);
    assert_eq!(status(&sized(10 * HEAD_MAX)), 431);
    // Without an end: as soon as the limit is passed, however much more is there.
    assert_eq!(status(&sized(HEAD_MAX + 4)[..HEAD_MAX]), 100);
    assert_eq!(status(&sized(HEAD_MAX + 5)[..HEAD_MAX + 1]), 431);
    let lines = |count| get(&vec!["X: y"; count]);
    assert_eq!(status(&lines(HEADERS_MAX)), 200);
    assert_eq!(status(&lines(HEADERS_MAX + 1)), 431);
}

const UPGRADE: [&str; 5] = [
    "Host: localhost:5711",
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[test]
fn an_upgrade_is_accepted_with_the_key_of_the_rfc() {
    // RFC 6455 section 1.3.
    let bytes = get(&[&UPGRADE[..], &["Sec-WebSocket-Protocol: chat, amp.v1"]].concat());
    let head = head(&bytes);
    assert!(head.wants_upgrade());
    assert!(head.subprotocols().eq(["chat", "amp.v1"]));
    let answer = accept_with(&head, Some("amp.v1"), &[("x-relay", "1".to_owned())]).expect("accepted");
    let answer = String::from_utf8(answer).expect("text").to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 switching protocols\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"));
    for line in ["upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: amp.v1", "x-relay: 1"] {
        assert!(answer.lines().any(|l| l == line), "{line} in {answer}");
    }
    assert!(answer.contains(&"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_ascii_lowercase()));
    let plain = String::from_utf8(accept(&head, None).expect("accepted")).expect("text").to_ascii_lowercase();
    assert!(!plain.contains("sec-websocket-protocol"));
}

#[test]
fn bad_upgrades() {
    // (status, index of the line that is replaced, what replaces it)
    let table: &[(u16, usize, &[&str])] = &[
        (101, 1, &["connection: UPGRADE"]),
        (101, 1, &["Connection: keep-alive", "Connection: upgrade"]),
        (101, 2, &["Upgrade: WebSocket"]),
        (101, 2, &["Upgrade: websocket", "Content-Length: 0"]),
        (426, 1, &[]),
        (426, 1, &["Connection: close"]),
        (426, 2, &[]),
        (426, 2, &["Upgrade: h2c"]),
        (426, 3, &[]),
        (426, 3, &["Sec-WebSocket-Version: 8"]),
        (400, 3, &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"]),
        (400, 4, &[]),
        (400, 4, &["Sec-WebSocket-Key: c2hvcnQ="]),
        (400, 4, &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"]),
        (400, 4, &["Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!!!"]),
        (400, 4, &[UPGRADE[4], UPGRADE[4]]),
        (400, 2, &["Upgrade: websocket", "Content-Length: 5"]),
        (400, 2, &["Upgrade: websocket", "Transfer-Encoding: chunked"]),
    ];
    for (expected, index, lines) in table {
        let bytes = get(&[&UPGRADE[..*index], lines, &UPGRADE[index + 1..]].concat());
        let status = accept(&head(&bytes), None).map_or_else(|refused| refused.status, |_| 101);
        assert_eq!(status, *expected, "{lines:?} for line {index}");
    }
    let bytes = get(&UPGRADE);
    assert_eq!(accept(&head(&bytes), Some("amp.v1")).map_err(|refused| refused.status), Err(400), "not offered");
    let post = String::from_utf8(bytes.clone()).expect("text").replacen("GET", "POST", 1);
    assert_eq!(accept(&head(post.as_bytes()), None).map_err(|refused| refused.status), Err(400));
    let old = String::from_utf8(bytes).expect("text").replacen("HTTP/1.1", "HTTP/1.0", 1);
    assert_eq!(accept(&head(old.as_bytes()), None).map_err(|refused| refused.status), Err(400));
    let split = accept_with(&head(&get(&UPGRADE)), None, &[("x-a", "b\r\nx-evil: 1".to_owned())]);
    assert_eq!(split.map_err(|refused| refused.status), Err(500), "no header may begin another line");
}

#[test]
fn hosts() {
    let policy = HostPolicy::new(["Relay.Example", "pinned.example:8443", "192.0.2.7", "[2001:db8::1]:443"]);
    let policy = policy.expect("names");
    let long = format!("{}.localhost", "a".repeat(300));
    let good = [
        "localhost",
        "localhost:5711",
        "LocalHost:1",
        "127.0.0.1",
        "127.0.0.1:5711",
        "127.9.8.7:65535",
        "[::1]",
        "[::1]:5711",
        "[0:0:0:0:0:0:0:1]:5711",
        "relay.example",
        "RELAY.example:9",
        "pinned.example:8443",
        "192.0.2.7:80",
        "[2001:DB8:0::1]:443",
    ];
    let bad = [
        // Names that only look like ours: rebound names, suffixes and prefixes.
        "evil.com",
        "evil.com:5711",
        "localhost.evil.com",
        "127.0.0.1.evil",
        "127.0.0.1.evil.com:5711",
        "evil.localhost",
        "notlocalhost",
        "localhost-evil",
        "relay.example.evil.com",
        "sub.relay.example",
        // Other spellings: trailing dots, other forms of numbers, mapped addresses, zones.
        "localhost.",
        "localhost.:5711",
        "127.0.0.1.",
        "127.1",
        "127.0.0.01",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "0.0.0.0",
        "128.0.0.1",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::1%25lo]",
        "[::1%lo]",
        "[::1]x",
        "[127.0.0.1]",
        // Ports.
        "localhost:",
        "localhost:65536",
        "localhost:+80",
        "localhost:http",
        "pinned.example",
        "pinned.example:443",
        "[2001:db8::1]",
        // What names no host.
        "",
        ":5711",
        ".",
        "localhost,evil.com",
        "*",
        long.as_str(),
    ];
    // What is no host by RFC 9110, or by our reading of it: user names, paths, escapes, several.
    let no_host = [
        "user@localhost",
        "localhost@evil.com",
        "localhost:80@evil.com",
        "::1",
        "[::1",
        "%6cocalhost",
        "localhost:80:80",
        "localhost: 80",
        "localhost/",
        "localhost/evil.com",
        "localhost?",
        "localhost#",
        "localhost evil.com",
        "localhost, localhost",
        "http://localhost",
        "local\thost",
    ];
    for (expected, hosts) in [(Ok(()), &good[..]), (Err(421), &bad[..]), (Err(400), &no_host[..])] {
        for host in hosts {
            let bytes = get(&[&format!("Host: {host}")]);
            assert_eq!(policy.check(&head(&bytes)).map_err(|refused| refused.status), expected, "{host:?}");
        }
    }
    for lines in [&[][..], &["Host: localhost", "Host: localhost"], &["Host: localhost", "hOST: evil.com"]] {
        let bytes = get(lines);
        assert_eq!(policy.check(&head(&bytes)).map_err(|refused| refused.status), Err(400), "{lines:?}");
    }
    let loopback = HostPolicy::default();
    assert!(loopback.check(&head(&get(&["Host: relay.example"]))).is_err());
    assert!(loopback.check(&head(&get(&["Host:\t localhost \t"]))).is_ok());
}

#[test]
fn a_unix_socket_has_every_name_of_one_label() {
    let policy = HostPolicy::new(["relay.example"]).expect("a name");
    for (expected, host) in [
        (Ok(()), "localhost"),
        (Ok(()), "unix"),
        (Ok(()), "d:80"),
        (Ok(()), "X"),
        (Ok(()), "127.0.0.1"),
        (Ok(()), "relay.example"),
        // What a page may have behind a tunnel to the socket.
        (Err(421), "evil.example"),
        (Err(421), "unix.evil.example:5711"),
        (Err(421), "unix."),
        (Err(421), "10.0.0.1"),
        (Err(421), "2130706433"),
        (Err(421), "0x7f000001"),
        (Err(421), ""),
        (Err(400), "unix@evil.example"),
        (Err(400), "a b"),
    ] {
        let bytes = get(&[&format!("Host: {host}")]);
        assert_eq!(policy.check_unix(&head(&bytes)).map_err(|refused| refused.status), expected, "{host:?}");
    }
    for lines in [&[][..], &["Host: unix", "Host: unix"]] {
        let bytes = get(lines);
        assert_eq!(policy.check_unix(&head(&bytes)).map_err(|refused| refused.status), Err(400), "{lines:?}");
    }
}

#[test]
fn names_to_allow_are_host_names() {
    for name in ["", "*", "*.example", "http://relay.example", "relay.example/", "a b", "relay.example:"] {
        assert_eq!(HostPolicy::new([name]).err(), Some(BadHost(name.to_owned())));
    }
}

#[test]
fn origins() {
    // (passes, over TLS, Host, Origin lines)
    let table: &[(bool, bool, &str, &[&str])] = &[
        (true, false, "localhost:5711", &[]),
        (true, false, "localhost:5711", &["http://localhost:5711"]),
        (true, false, "LOCALHOST:5711", &["http://localhost:5711"]),
        (true, false, "[::1]:5711", &["http://[::1]:5711"]),
        (true, false, "localhost", &["http://localhost"]),
        (true, false, "localhost:80", &["http://localhost"]),
        (true, false, "localhost", &["http://localhost:80"]),
        (true, true, "relay.example", &["https://relay.example"]),
        (true, true, "relay.example", &["https://relay.example:443"]),
        // Another scheme, port or host.
        (false, false, "localhost:5711", &["https://localhost:5711"]),
        (false, true, "localhost:5711", &["http://localhost:5711"]),
        (false, false, "localhost:5711", &["ws://localhost:5711"]),
        (false, false, "localhost:5711", &["http://localhost:5712"]),
        (false, false, "localhost:5711", &["http://localhost"]),
        (false, false, "localhost", &["http://localhost:443"]),
        (false, true, "relay.example", &["https://relay.example:80"]),
        (false, false, "localhost:5711", &["http://127.0.0.1:5711"]),
        (false, false, "127.0.0.1:5711", &["http://localhost:5711"]),
        (false, false, "localhost:5711", &["http://evil.com:5711"]),
        (false, false, "localhost:5711", &["http://localhost:5711.evil.com"]),
        (false, false, "localhost:5711", &["http://localhost.evil.com:5711"]),
        // What is no origin, or more than one.
        (false, false, "localhost:5711", &["null"]),
        (false, false, "localhost:5711", &[""]),
        (false, false, "localhost:5711", &["http://"]),
        (false, false, "localhost:5711", &["localhost:5711"]),
        (false, false, "localhost:5711", &["file://"]),
        (false, false, "localhost:5711", &["http://localhost:5711/"]),
        (false, false, "localhost:5711", &["http://localhost:5711/x"]),
        (false, false, "localhost:5711", &["http://user@localhost:5711"]),
        (false, false, "localhost:5711", &["http://localhost.:5711"]),
        (false, false, "localhost:5711", &["HTTP://localhost:5711"]),
        (false, false, "localhost:5711", &["http://localhost:5711 http://evil.com"]),
        (false, false, "localhost:5711", &["http://localhost:5711", "http://evil.com"]),
        (false, false, "localhost:5711", &["http://localhost:5711", "http://localhost:5711"]),
        (false, false, "localhost:5711", &["chrome-extension://abcdef"]),
        (false, false, "localhost:", &["http://localhost:"]),
    ];
    for (passes, tls, host, origins) in table {
        let mut lines = vec![format!("Host: {host}")];
        lines.extend(origins.iter().map(|origin| format!("Origin: {origin}")));
        let bytes = get(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let result = check_origin(&head(&bytes), *tls).map_err(|refused| refused.status);
        assert_eq!(result, if *passes { Ok(()) } else { Err(403) }, "{host} {origins:?} tls {tls}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), framed in any::<bool>()) {
        if framed {
            bytes.splice(0..0, *b"GET /");
        }
        if let Ok(Parsed::Complete { consumed, head }) = parse(&bytes) {
            prop_assert!(consumed <= bytes.len() && head.target.starts_with('/') && head.path.starts_with('/'));
            let _ = (HostPolicy::default().check(&head), check_origin(&head, false), accept(&head, None));
        }
    }

    #[test]
    fn a_host_that_passes_is_loopback_for_the_standard_library_too(
        host in "(localhost|127|0|1|::1|\\[|\\]|[.:@%/x]|[0-9a-z.]{1,4}){1,7}",
    ) {
        let bytes = get(&[&format!("Host: {host}")]);
        if HostPolicy::default().check(&head(&bytes)).is_ok() {
            let name = host.to_ascii_lowercase();
            let is_name = name.split(':').next() == Some("localhost");
            let address = name.parse::<std::net::SocketAddr>().map(|a| a.ip()).or_else(|_| {
                name.trim_start_matches('[').trim_end_matches(']').parse()
            });
            prop_assert!(is_name || address.is_ok_and(|ip| ip.is_loopback()), "{host}");
        }
    }
}
