//! permessage-deflate as a setting of the relay (`ws.deflate`), on both of its bindings.
//!
//! Agents and devices of `support` know nothing of it: between them and the relay stands a wire that offers the
//! extension in their name, compresses what they say and inflates what they are told, by an account of RFC 7692 of its
//! own. So whatever they check holds for compressed messages too.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Agent, AgentKey, Device, Key, Keys, Relay, SignIn,
    amp::typ,
    http::{self, Endpoint},
    keys,
    relay::Scratch,
    until,
};

/// A first byte's bit that says that a message is compressed.
const RSV1: u8 = 0x40;
/// What a compressed message is sent without (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// The largest message that the relay takes.
const MESSAGE_MAX: usize = 1 << 20;

// --- the wire ----------------------------------------------------------------------------------------------------------

/// What a wire saw.
#[derive(Default)]
struct Seen {
    /// The relay's answers to the offers, in their order.
    answers: Vec<Option<String>>,
    /// Of each compressed message to and from the relay: its length on the wire, and inflated.
    to: Vec<(usize, usize)>,
    from: Vec<(usize, usize)>,
}

/// A wire on which messages are compressed. Its threads end with their connections.
struct Wire {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Wire {
    fn to(relay: &Relay) -> Self {
        let Endpoint::Tcp(target) = relay.tcp() else { panic!("a TCP listener") };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(target).expect("the relay listens");
                let shared = Arc::clone(&shared);
                thread::spawn(move || join(near, far, &shared));
            }
        });
        Self { address, seen }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp(self.address)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the relay answered to the last offer.
    fn answer(&self) -> Option<String> {
        self.seen().answers.last().cloned().expect("a connection")
    }

    /// How many messages went compressed to and from the relay.
    fn counts(&self) -> (usize, usize) {
        let seen = self.seen();
        (seen.to.len(), seen.from.len())
    }
}

/// Passes on the upgrade with an offer, then messages in both directions, the one from the relay in a second thread.
fn join(mut near: TcpStream, mut far: TcpStream, seen: &Arc<Mutex<Seen>>) {
    let Some((request, early)) = head(&mut near) else { return };
    let offer = format!("{request}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    far.write_all(offer.as_bytes()).expect("the relay reads");
    let (answer, rest) = head(&mut far).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let is_ours = |line: &&str| line.to_ascii_lowercase().starts_with("sec-websocket-extensions:");
    let agreed = answer.lines().find(is_ours).map(|line| line[line.find(':').expect("found") + 1..].trim().to_owned());
    let answer: String = answer.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\r\n")).collect();
    seen.lock().unwrap_or_else(PoisonError::into_inner).answers.push(agreed.clone());
    near.write_all(format!("{answer}\r\n").as_bytes()).expect("the peer reads");
    // Without an agreement frames are passed on as they are.
    let drops = |who: &str| agreed.as_ref().map(|agreed| agreed.contains(&format!("{who}_no_context_takeover")));
    let (to_relay, from_relay) = (drops("client"), drops("server"));
    let (near_writes, far_reads) = (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
    let shared = Arc::clone(seen);
    let back = thread::spawn(move || {
        let mut inflater = Decompress::new(false);
        pass(far_reads, near_writes, rest, |first, payload| {
            let (true, Some(drops)) = (first & RSV1 != 0, from_relay) else { return (first, false, payload) };
            assert_ne!(first & 0x80, 0, "the relay sends messages in one frame");
            if drops {
                inflater.reset(false);
            }
            let message = inflate(&mut inflater, &payload);
            shared.lock().unwrap_or_else(PoisonError::into_inner).from.push((payload.len(), message.len()));
            (first & !RSV1, false, message)
        });
    });
    let mut deflater = Compress::new(Compression::fast(), false);
    pass(near, far, early, |first, payload| {
        let (true, Some(drops)) = (matches!(first & 0x0f, 1 | 2), to_relay) else { return (first, true, payload) };
        assert_ne!(first & 0x80, 0, "messages of the tests come in one frame");
        if drops {
            deflater.reset();
        }
        let message = deflate(&mut deflater, &payload);
        seen.lock().unwrap_or_else(PoisonError::into_inner).to.push((message.len(), payload.len()));
        (first | RSV1, true, message)
    });
    back.join().expect("frames of the relay that can be read");
}

/// An HTTP head without the empty line, and what came behind it.
fn head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            bytes.truncate(end + 2);
            return Some((String::from_utf8(bytes).expect("ASCII"), rest));
        }
        let length @ 1.. = stream.read(&mut piece).ok()? else { return None };
        bytes.extend(&piece[..length]);
    }
}

/// Passes frames on until the end, each as `change` makes it: its first byte, whether it is masked, its payload.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    mut pending: Vec<u8>,
    mut change: impl FnMut(u8, Vec<u8>) -> (u8, bool, Vec<u8>),
) {
    let mut piece = [0; 64 * 1024];
    loop {
        while let Some((first, payload)) = take_frame(&mut pending) {
            let (first, masked, payload) = change(first, payload);
            if to.write_all(&http::frame(first, masked, &payload)).is_err() {
                return;
            }
        }
        let Ok(length @ 1..) = from.read(&mut piece) else { break };
        pending.extend(&piece[..length]);
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The first byte and the unmasked payload of a whole frame at the front.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (mut at, length) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        mask = bytes.get(at..at + 4)?.try_into().ok()?;
        at += 4;
    }
    let end = at + usize::try_from(length).ok()?;
    let payload = bytes.get(at..end)?.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    bytes.drain(..end);
    Some((first, payload))
}

fn deflate(deflater: &mut Compress, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 8 + 1024);
    let before = deflater.total_in();
    deflater.compress_vec(message, &mut out, FlushCompress::Sync).expect("compressed");
    assert_eq!(deflater.total_in() - before, message.len() as u64, "room for all of it");
    out.strip_suffix(&TAIL).expect("a flush ends with an empty block").to_vec()
}

fn inflate(inflater: &mut Decompress, payload: &[u8]) -> Vec<u8> {
    let input = [payload, &TAIL].concat();
    let mut out = Vec::new();
    let begin = inflater.total_in();
    loop {
        out.reserve(64 * 1024);
        let at = (inflater.total_in() - begin) as usize;
        inflater.decompress_vec(&input[at..], &mut out, FlushDecompress::Sync).expect("what a compressor writes");
        if (inflater.total_in() - begin) as usize == input.len() && out.len() < out.capacity() {
            return out;
        }
    }
}

// --- the relay ---------------------------------------------------------------------------------------------------------

/// A relay with this configuration file. One worker, so that no message crosses threads: those that do go as they are.
fn relay(keys: &str, config: &str) -> Relay {
    relay_of(1, keys, config)
}

fn relay_of(workers: usize, keys: &str, config: &str) -> Relay {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.root().join(name);
    fs::write(path("keys"), keys).expect("the keys file");
    fs::write(path("config.toml"), config).expect("the configuration file");
    let mut command = scratch.command(["serve", "--demo", "--listen", "127.0.0.1:0"]);
    command.arg("--workers").arg(workers.to_string());
    command.arg("--config").arg(path("config.toml")).arg("--data").arg(scratch.data());
    command.arg("--keys").arg(path("keys")).arg("--folder").arg(scratch.project());
    Relay::spawn(scratch, command, 2)
}

/// Text that is new each time, so many bytes of it, a few characters for each random byte.
fn random(len: usize, characters: impl Fn(u8) -> String) -> String {
    let mut text = String::new();
    while text.len() < len {
        text.extend(keys::seed().map(&characters));
    }
    text.truncate(len);
    text
}

/// Binary digits: they become a few times shorter and not more, so that no limit on the ratio has a part in it.
fn digits(len: usize) -> String {
    random(len, |byte| format!("{byte:08b}"))
}

/// `on` says this; `takeover` keeps both windows.
const ALONE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Whether an answer is the one that this setting gives to an offer without parameters.
fn is_answer(setting: &str, answer: &str) -> bool {
    let sorted = |text: &str| {
        let mut parts: Vec<_> = text.split(';').map(|part| part.trim().to_owned()).collect();
        parts.sort();
        parts
    };
    sorted(answer) == sorted(if setting == "on" { ALONE } else { "permessage-deflate" })
}

#[test]
fn agents_say_and_hear_compressed_messages() {
    for setting in ["on", "takeover"] {
        let (alice, bob, plain) = (AgentKey::new(), AgentKey::new(), AgentKey::new());
        let lines = [&alice, &bob, &plain].map(|key| key.line("agent")).concat();
        let relay = relay(&lines, &format!("ws.deflate = \"{setting}\"\n"));
        let wire = Wire::to(&relay);
        for keys in [Keys::Text, Keys::Int] {
            let mut sender = Agent::connect_with(&wire.endpoint(), &alice, keys);
            let mut receiver = Agent::connect_with(&wire.endpoint(), &bob, keys);
            let mut without = Agent::connect_with(&relay.tcp(), &plain, keys);
            assert!(wire.answer().is_some_and(|answer| is_answer(setting, &answer)), "{:?}", wire.answer());
            // To the relay, which writes the answer itself.
            let filler = random(8_000, |byte| format!("{byte:02x}"));
            let request = json!({"action": "echo", "filler": filler});
            let (to, from) = wire.counts();
            let mut lengths = Vec::new();
            for _ in 0..2 {
                assert_eq!(sender.ask(&request)["filler"], request["filler"]);
                lengths.push(wire.seen().from.last().copied().expect("it came compressed"));
            }
            assert_eq!(wire.counts(), (to + 2, from + 2));
            let [(first, whole), (second, _)] = lengths[..] else { panic!("two answers") };
            assert!(first < whole, "{first} of {whole}");
            // Said again it is a reference into the window, where there is one.
            assert_eq!(second < first / 4, setting == "takeover", "{first}, then {second}");
            // To agents, as the sender signed it: from and to those who have the extension and those who do not.
            let (to, from) = wire.counts();
            for n in 0..10 {
                let body = json!({"n": n, "filler": digits(500 + 3_000 * n)});
                let sent = sender.send(&sender.draft(typ::MESSAGE, &bob, &body));
                let got = receiver.wait("the message", |message| message.body["n"] == n);
                assert_eq!(got.bytes, sent);
                got.assert_well_made();
                let sent = sender.send(&sender.draft(typ::MESSAGE, &plain, &body));
                assert_eq!(without.wait("the message", |message| message.body["n"] == n).bytes, sent);
                let sent = without.send(&without.draft(typ::MESSAGE, &alice, &body));
                assert_eq!(sender.wait("the message", |message| message.body["n"] == n).bytes, sent);
            }
            assert_eq!(wire.counts(), (to + 20, from + 20));
            // What is too short to gain by it is not compressed.
            let (_, from) = wire.counts();
            sender.say(typ::MESSAGE, &bob, &json!("short"));
            receiver.wait("the short one", |message| message.body == "short");
            assert_eq!(wire.counts().1, from, "{setting}");
            for agent in [sender, receiver, without] {
                agent.close();
            }
        }
    }
}

#[test]
fn devices_run_a_session_on_compressed_messages() {
    for setting in ["on", "takeover"] {
        let owner = Key::new("owner");
        let relay = relay(&owner.line("amp-role=\"admin\""), &format!("[ws]\ndeflate = \"{setting}\"\n"));
        let wire = Wire::to(&relay);
        let connect = |name| SignIn::new(&owner).name(name).connect(&wire.endpoint()).expect("signed in");
        let (mut phone, mut laptop) = (connect("phone"), connect("laptop"));
        assert!(wire.answer().is_some_and(|answer| is_answer(setting, &answer)), "{:?}", wire.answer());
        let (to, from) = wire.counts();
        assert!(to >= 2 && from >= 2, "challenge and sign-in: {to}, {from}");
        let session = phone.create();
        for device in [&mut phone, &mut laptop] {
            device.attach(&session);
        }
        for _ in 0..3 {
            let prompt = phone.prompt(&session, &format!("tell me of {}", digits(2_000)));
            for device in [&mut phone, &mut laptop] {
                assert_eq!(device.settled(&session, &prompt), "done");
            }
        }
        // A device that comes late is told all of it in one reply.
        let before = wire.counts();
        let mut late = connect("late");
        late.attach(&session);
        assert_eq!(late.events(&session).last(), phone.events(&session).last());
        assert!(wire.counts().0 > before.0 && wire.counts().1 > before.1);
        late.ping();
    }
}

#[test]
fn by_default_the_offer_is_declined() {
    for config in ["", "ws.deflate = \"off\"\n"] {
        let (owner, agent) = (Key::new("owner"), AgentKey::new());
        let relay = relay(&[owner.line("amp-role=\"admin\""), agent.line("agent")].concat(), config);
        let wire = Wire::to(&relay);
        let mut agent = Agent::connect(&wire.endpoint(), &agent);
        assert_eq!(wire.answer(), None);
        let mut device = SignIn::new(&owner).connect(&wire.endpoint()).expect("signed in");
        assert_eq!(wire.answer(), None);
        let filler = digits(4_000);
        assert_eq!(agent.ask(&json!({"action": "echo", "filler": filler}))["filler"], filler);
        device.sync();
        assert_eq!(wire.counts(), (0, 0));
        // Nothing was agreed on, so that a compressed message breaks the protocol.
        agent.write_raw(&http::frame(0x82 | RSV1, true, b"\x00"));
        assert_eq!(agent.wait_closed(), 1002);
        device.ping();
    }
}

#[test]
fn c2_nobody_is_cut_off_by_what_one_read_inflates_to() {
    // More than a queue may hold, in a few of the bytes that one read takes.
    const COUNT: usize = 200;
    let (alice, bystander) = (AgentKey::new(), AgentKey::new());
    let readers = [AgentKey::new(), AgentKey::new(), AgentKey::new()];
    let lines: String = [&alice, &bystander].into_iter().chain(&readers).map(|key| key.line("agent")).collect();
    let filler = "x".repeat(60_000);
    for (workers, connections) in [(1, 1), (1, 50), (3, 1)] {
        let relay = relay_of(workers, &lines, "ws.deflate = \"on\"\n");
        let wire = Wire::to(&relay);
        let mut senders: Vec<_> = (0..connections).map(|_| Agent::connect(&wire.endpoint(), &alice)).collect();
        let mut receivers: Vec<_> = readers.iter().map(|key| Agent::connect(&relay.tcp(), key)).collect();
        let mut bystander = Agent::connect(&relay.tcp(), &bystander);
        // All of it waits for the relay when that reads on.
        relay.signal(Signal::STOP);
        for receiver in &readers {
            for n in 0..COUNT {
                let sender = &mut senders[n % connections];
                let draft = sender.draft(typ::MESSAGE, receiver, &json!({"n": n, "filler": filler}));
                sender.queue(&draft.signed(&alice, Keys::Text));
            }
        }
        senders.iter_mut().for_each(Agent::flush);
        relay.signal(Signal::CONT);
        // The receivers take a moment.
        let queued = || {
            let stats = relay.stats();
            stats["workers"]
                .as_array()
                .expect("workers")
                .iter()
                .filter_map(|worker| worker["queue_bytes"].as_u64())
                .sum()
        };
        let mut seen: Vec<u64> = Vec::new();
        until("the relay has taken what it takes", || {
            seen.push(queued());
            let last = seen.last_chunk::<20>()?;
            (last[0] > 100_000 && last.iter().all(|bytes| *bytes == last[0])).then_some(())
        });
        bystander.ping();
        thread::scope(|scope| {
            for receiver in &mut receivers {
                scope.spawn(|| {
                    receiver.wait_for("all of it", |receiver| (receiver.of(typ::MESSAGE).len() == COUNT).then_some(()));
                });
            }
        });
        for mut sender in senders {
            sender.ping();
            assert!(sender.of(typ::ERROR).is_empty(), "{:?}", sender.of(typ::ERROR).first());
        }
    }
}

#[test]
fn what_inflates_above_a_limit_closes_its_sender_alone() {
    let (owner, hostile, healthy) = (Key::new("owner"), AgentKey::new(), AgentKey::new());
    let lines = [owner.line("amp-role=\"admin\""), hostile.line("agent"), healthy.line("agent")].concat();
    for setting in ["on", "takeover"] {
        let relay = relay(&lines, &format!("ws.deflate = \"{setting}\"\n"));
        let wire = Wire::to(&relay);
        let mut healthy = Agent::connect(&wire.endpoint(), &healthy);
        // A large one that keeps to the limits passes.
        let large = digits(MESSAGE_MAX - 4_096);
        assert_eq!(healthy.ask(&json!({"action": "echo", "filler": large}))["filler"], Value::String(large));
        // Longer than a message may be, though it comes shorter; and a bomb, which is shorter but not by its own merit.
        for message in [digits(MESSAGE_MAX + 1), "0".repeat(MESSAGE_MAX - 1)] {
            let mut agent = Agent::connect(&wire.endpoint(), &hostile);
            agent.send_bytes(message.as_bytes());
            assert_eq!(agent.wait_closed(), 1009);
            let (wired, whole) = wire.seen().to.last().copied().expect("it went compressed");
            assert!(wired < MESSAGE_MAX * 3 / 4 && whole == message.len(), "{wired} of {whole}");
            let mut device = SignIn::new(&owner).connect(&wire.endpoint()).expect("signed in");
            device.send_text(&message);
            assert_eq!(device.wait_closed().0, 1009);
            healthy.ping();
        }
        // Whoever has not signed in may say less.
        let message = digits(MESSAGE_MAX / 2);
        let mut agent = Agent::dial(&wire.endpoint(), &hostile);
        agent.send_bytes(message.as_bytes());
        assert_eq!(agent.wait_closed(), 1009);
        let mut device = Device::open(&wire.endpoint());
        device.send_text(&message);
        assert_eq!(device.wait_closed().0, 1009);
        healthy.ping();
    }
}

#[test]
fn an_unknown_value_is_refused_with_those_there_are() {
    let by_flag = Relay::options(&[]).argument("--ws-deflate").argument("yes").refused();
    let by_environment = Relay::options(&[]).env("AMP_RELAY_WS_DEFLATE", "yes").refused();
    for (said, place) in [(by_flag, "--ws-deflate"), (by_environment, "AMP_RELAY_WS_DEFLATE")] {
        assert!([place, "off", "on", "takeover"].iter().all(|part| said.contains(part)), "{said}");
    }
}
