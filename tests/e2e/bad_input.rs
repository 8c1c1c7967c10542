//! A pocket of bad input: everything a broken or hostile peer may send has its documented answer, the device beside it
//! notices nothing, and the relay holds afterwards what it held before.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::{
    Device, Key, Relay, SignIn,
    device::text,
    http::{self, RawSocket, frame},
    process, until,
};

/// A relay with a healthy device on a session, to be looked at after each attack.
struct Ward {
    relay: Relay,
    owner: Key,
    healthy: Device,
    session: String,
}

impl Ward {
    fn new() -> Self {
        let owner = Key::new("owner");
        let relay = Relay::demo(&[&owner]);
        let mut healthy = Device::connect(&relay, &owner, "healthy");
        let session = healthy.create();
        healthy.attach(&session);
        // A process that still starts opens descriptors of its own.
        healthy.idle(&session);
        Self { relay, owner, healthy, session }
    }

    /// Another signed-in device, about to misbehave.
    fn device(&self) -> Device {
        Device::connect(&self.relay, &self.owner, "misbehaving")
    }

    fn connections(&self) -> u64 {
        // The connection that asks is one of them.
        self.relay.stats()["connections"].as_u64().expect("a number of connections")
    }

    /// The healthy device still gets its answers, and its answers only.
    fn check(mut self) {
        let prompt = self.healthy.prompt(&self.session, "are you well?");
        let turn = self.healthy.turn(&self.session, &prompt);
        assert_eq!(turn["ok"], true, "{turn}");
        self.healthy.gapless(&self.session);
        assert_eq!(self.healthy.closed, None);
        let errors: Vec<_> = self.healthy.seen.iter().filter(|message| message["type"] == "error").collect();
        assert!(errors.is_empty(), "{errors:?}");
        let log = self.relay.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// The close code that raw bytes earn, after the challenge.
fn close_code(ward: &Ward, bytes: &[u8]) -> Option<u16> {
    let mut socket = RawSocket::open(&ward.relay.tcp());
    socket.write(bytes);
    socket.until_close().0
}

#[test]
fn frames_that_break_the_protocol_are_closed_with_1002() {
    let ward = Ward::new();
    let cases: [(&str, Vec<u8>); 9] = [
        ("no mask", frame(0x81, false, b"{}")),
        ("a reserved bit", frame(0xc1, true, b"{}")),
        ("a reserved opcode", frame(0x83, true, b"{}")),
        ("a reserved control opcode", frame(0x8b, true, b"")),
        ("a fragmented ping", frame(0x09, true, b"x")),
        ("a ping of 126 bytes", frame(0x89, true, &[b'x'; 126])),
        ("a continuation of nothing", frame(0x80, true, b"x")),
        ("a close of one byte", frame(0x88, true, b"x")),
        ("a close code nobody may send", frame(0x88, true, &1005_u16.to_be_bytes())),
    ];
    for (what, bytes) in cases {
        assert_eq!(close_code(&ward, &bytes), Some(1002), "{what}");
    }
    let mut interleaved = frame(0x01, true, b"one");
    interleaved.extend(frame(0x81, true, b"two"));
    assert_eq!(close_code(&ward, &interleaved), Some(1002), "a message inside another");
    ward.check();
}

#[test]
fn text_that_is_not_utf8_is_closed_with_1007() {
    let ward = Ward::new();
    assert_eq!(close_code(&ward, &frame(0x81, true, b"\"\xff\"")), Some(1007));
    let mut split = frame(0x01, true, b"\"\xe2\x82");
    split.extend(frame(0x80, true, b"\""));
    assert_eq!(close_code(&ward, &split), Some(1007), "a character cut by the end of the message");
    assert_eq!(close_code(&ward, &frame(0x88, true, b"\x03\xe8\xff")), Some(1007), "in the reason of a close");
    ward.check();
}

#[test]
fn what_is_too_large_is_refused_from_its_header() {
    let ward = Ward::new();
    let before = process::resident(ward.relay.pid());
    // Sixteen exabytes, and not one byte of them.
    for length in [u64::MAX >> 1, 1 << 40, 1 << 30] {
        let mut bytes = vec![0x81, 0x80 | 127];
        bytes.extend(length.to_be_bytes());
        bytes.extend([1, 2, 3, 4]);
        assert_eq!(close_code(&ward, &bytes), Some(1009), "{length} bytes");
    }
    // The length's highest bit is no length at all.
    let mut bytes = vec![0x81, 0x80 | 127];
    bytes.extend(u64::MAX.to_be_bytes());
    bytes.extend([1, 2, 3, 4]);
    let code = close_code(&ward, &bytes);
    assert!(matches!(code, Some(1002 | 1009)), "{code:?}");
    // Fragments add up.
    let mut device = ward.device();
    let limit = usize::try_from(device.welcome["limits"]["message_bytes"].as_u64().expect("a limit")).expect("a size");
    let piece = vec![b'x'; 64 * 1024];
    device.write_raw(&frame(0x01, true, &piece));
    for _ in 0..limit / piece.len() + 1 {
        device.write_raw(&frame(0x00, true, &piece));
    }
    assert_eq!(device.wait_closed().0, 1009, "fragments above the limit");
    assert!(
        process::resident(ward.relay.pid()) < before + 64 * 1024 * 1024,
        "nothing was reserved for what never came"
    );
    ward.check();
}

#[test]
fn messages_that_are_no_commands_get_an_error_and_the_device_stays() {
    let ward = Ward::new();
    let mut device = ward.device();
    let expect = |device: &mut Device, message: &str, code: &str| {
        device.seen.clear();
        device.send_text(message);
        let error = device.wait(&format!("an error for {message:.60}"), |message| message["type"] == "error");
        assert_eq!(text(&error["code"]), code, "{message:.60}: {error}");
        error
    };
    for bad in ["", "{", "nonsense", "{\"type\":\"list\",\"id\":\"1\"} trailing", &"[".repeat(100_000)] {
        expect(&mut device, bad, "BAD_JSON");
    }
    for bad in ["[]", "7", "null", "{\"id\":\"1\"}", "{\"type\":7,\"id\":\"1\"}", "{\"type\":\"list\"}"] {
        expect(&mut device, bad, "BAD_REQUEST");
    }
    let unknown = expect(&mut device, "{\"type\":\"make_coffee\",\"id\":\"c1\"}", "UNKNOWN_TYPE");
    assert_eq!(text(&unknown["re"]), "c1", "{unknown}");
    for bad in [
        json!({"type": "list", "id": 7}),
        json!({"type": "list", "id": ""}),
        json!({"type": "list", "id": "x".repeat(65)}),
        json!({"type": "list", "id": "no blanks"}),
        json!({"type": "attach", "id": "1"}),
        json!({"type": "attach", "id": "2", "session": 5}),
        json!({"type": "prompt", "id": "3", "session": ward.session}),
        json!({"type": "prompt", "id": "4", "session": ward.session, "text": ""}),
        json!({"type": "prompt", "id": "5", "session": ward.session, "text": "x", "when": "yesterday"}),
        json!({"type": "decide", "id": "6", "session": ward.session, "request": "r", "decision": "maybe"}),
        json!({"type": "attach", "id": "7", "session": ward.session, "from": {"epoch": "e", "offset": -1}}),
    ] {
        expect(&mut device, &bad.to_string(), "BAD_REQUEST");
    }
    device.seen.clear();
    // Fields that nobody knows are ignored.
    device.ok("list", json!({"colour": "blue"}));
    drop(device);
    ward.check();
}

#[test]
fn binary_messages_are_refused() {
    let ward = Ward::new();
    let mut device = ward.device();
    device.send_binary(b"{\"type\":\"list\",\"id\":\"1\"}");
    let refused = device.wait_for("an answer to binary", |device| {
        let error = device.seen.iter().find(|message| message["type"] == "error").cloned();
        error.or_else(|| device.closed.clone().map(|(code, _)| json!({"close": code})))
    });
    assert_eq!(refused["close"], 1003, "{refused}");
    drop(device);
    ward.check();
}

#[test]
fn a_command_sent_twice_runs_once() {
    let mut ward = Ward::new();
    let mut device = ward.device();
    let command = json!({"type": "prompt", "id": "twice", "session": ward.session, "text": "hello"});
    device.send(&command);
    device.send(&command);
    let answers = |device: &Device| {
        let answers: Vec<_> = device.seen.iter().filter(|message| message["re"] == "twice").cloned().collect();
        (answers.len() == 2).then_some(answers)
    };
    let answers = device.wait_for("both answers", answers);
    assert_eq!(answers[0], answers[1], "the same answer");
    ward.healthy.turn(&ward.session, text(&answers[0]["prompt"]));
    assert_eq!(ward.healthy.events_of(&ward.session, "prompt").len(), 1, "and it ran once");
    drop(device);
    ward.check();
}

#[test]
fn sign_ins_that_are_none_end_the_connection() {
    let ward = Ward::new();
    let stranger = Key::new("stranger");
    for (sign_in, code) in [
        (SignIn::new(&stranger), "KEY_NOT_AUTHORIZED"),
        (SignIn { signer: &stranger, ..SignIn::new(&ward.owner) }, "AUTH_FAILED"),
    ] {
        let refused = sign_in.connect(&ward.relay.tcp()).err().expect("refused");
        assert_eq!((refused.code(), refused.close), (code, Some(1008)), "{refused:?}");
    }
    let good = json!({
        "type": "sign_in", "id": "1", "client": "c", "key": ward.owner.public, "nonce": "AAAA", "authority": "unix",
        "binding": "none", "device": {"name": "n", "kind": "k"}, "signature": "no signature",
    });
    let mut cases = vec![(good.clone(), "AUTH_FAILED BAD_REQUEST")];
    for field in ["client", "key", "nonce", "authority", "binding", "signature"] {
        let mut missing = good.clone();
        missing.as_object_mut().expect("an object").remove(field);
        cases.push((missing, "BAD_REQUEST"));
        let mut wrong = good.clone();
        wrong[field] = json!(7);
        cases.push((wrong, "BAD_REQUEST"));
    }
    for (message, codes) in cases {
        let mut device = Device::open(&ward.relay.tcp());
        device.send(&message);
        let error = device.wait("a refusal", |message| message["type"] == "error");
        assert!(codes.split(' ').any(|code| error["code"] == code), "{message}: {error}");
        assert_eq!(device.wait_closed().0, 1008, "{message}");
    }
    // A key's line may be anything.
    for key in ["ssh-ed25519", "ssh-ed25519 !!!!", "ssh-dss AAAAB3NzaC1kc3M=", &"A".repeat(20_000)] {
        let mut message = good.clone();
        message["key"] = json!(key);
        let mut device = Device::open(&ward.relay.tcp());
        device.send(&message);
        device.wait("a refusal", |message| message["type"] == "error");
        let code = device.wait_closed().0;
        assert!(matches!(code, 1008 | 1009), "{key:.40}: {code}");
    }
    ward.check();
}

#[test]
fn requests_that_are_no_http_are_answered_and_closed() {
    let ward = Ward::new();
    let long = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
    let cases: [(&str, &str, &[u16]); 6] = [
        ("no HTTP at all", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", &[400]),
        ("no version", "GET /healthz\r\n\r\n", &[400]),
        ("no Host", "GET /healthz HTTP/1.1\r\n\r\n", &[400]),
        ("a bad header", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n", &[400]),
        ("a head above 16 KiB", &long, &[431]),
        (
            "an unknown version of WebSocket",
            "GET /session HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
          Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 7\r\n\
          Sec-WebSocket-Protocol: amp-session.v1\r\n\r\n",
            &[400, 426],
        ),
    ];
    for (what, request, statuses) in cases {
        let answer = http::raw(&ward.relay.tcp(), request);
        assert!(statuses.contains(&answer.status), "{what}: {answer:?}");
    }
    ward.check();
}

/// One of the ways in which a peer goes away before it has become a device.
fn vanish(ward: &Ward, way: usize) {
    let endpoint = if way.is_multiple_of(2) { ward.relay.tcp() } else { ward.relay.unix() };
    let request = http::upgrade_request(&endpoint.host(), Some("amp-session.v1"), "");
    match way % 5 {
        0 => drop(endpoint.connect().expect("the relay listens")),
        1 | 2 => {
            let mut stream = endpoint.connect().expect("the relay listens");
            let _ = stream.write_all(&request.as_bytes()[..way % request.len()]);
        }
        3 => drop(RawSocket::open(&endpoint)),
        _ => {
            let mut socket = RawSocket::open(&endpoint);
            let message = frame(0x81, true, b"{\"type\":\"sign_in\"");
            socket.write(&message[..1 + way % (message.len() - 1)]);
        }
    }
}

#[test]
fn a_thousand_peers_that_vanish_leave_nothing_behind() {
    let ward = Ward::new();
    // What the first few cost (buffers that grow once, threads that start) is not what is looked for.
    (0..50).for_each(|way| vanish(&ward, way));
    let settled = until("the first are gone", || Some(ward.connections()).filter(|&open| open <= 2));
    let descriptors = process::descriptors(ward.relay.pid());
    let resident = process::resident(ward.relay.pid());
    (0..1000).for_each(|way| vanish(&ward, way));
    until("every slot is free again", || (ward.connections() <= settled).then_some(()));
    until("every descriptor is closed", || (process::descriptors(ward.relay.pid()) <= descriptors).then_some(()));
    until("the memory is back", || (process::resident(ward.relay.pid()) < resident + 16 * 1024 * 1024).then_some(()));
    ward.check();
}

#[test]
fn half_a_frame_keeps_nobody_waiting() {
    let ward = Ward::new();
    let half: Vec<_> = (0..20)
        .map(|n| {
            let mut socket = RawSocket::open(&ward.relay.tcp());
            let message = frame(0x81, true, &[b'x'; 1000]);
            socket.write(&message[..1 + n * 40]);
            socket
        })
        .collect();
    let mut device = ward.device();
    device.ping();
    drop((half, device));
    ward.check();
}

#[test]
fn bytes_one_by_one_are_still_a_message() {
    let ward = Ward::new();
    let mut device = ward.device();
    let message = json!({"type": "ping", "id": "slowly", "t": 7}).to_string();
    for byte in frame(0x81, true, message.as_bytes()) {
        device.write_raw(&[byte]);
    }
    let pong: Value = device.answer("slowly").expect("an answer");
    assert_eq!((text(&pong["type"]), pong["t"].as_u64()), ("pong", Some(7)), "{pong}");
    drop(device);
    ward.check();
}

#[test]
fn the_connections_in_stats_are_those_in_proc() {
    let ward = Ward::new();
    let pid = ward.relay.pid();
    let before = ward.connections();
    let held: Vec<_> = (0..20).map(|_| RawSocket::open(&ward.relay.tcp())).collect();
    until("twenty more are counted", || (ward.connections() == before + 20).then_some(()));
    let with = process::descriptors(pid);
    drop(held);
    until("they are gone again", || (ward.connections() == before).then_some(()));
    until("their descriptors too", || (process::descriptors(pid) + 20 <= with).then_some(()));
    ward.check();
}
