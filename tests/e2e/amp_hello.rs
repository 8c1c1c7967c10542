//! How an agent comes in: the upgrade, and a HELLO that proves who it is. Good ones first, then those that are refused.

use std::{
    fs,
    io::{Read as _, Write as _},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    self, Agent, AgentKey, Device, Key, Keys, Relay, Ward,
    amp::{Draft, Message, To, keyed, map, now_ms, typ},
    http::{self, frame},
    relay::Scratch,
};

/// A relay that these keys may reach as agents.
fn relay(keys: &[&AgentKey]) -> Relay {
    Relay::options(&[]).keys(&keys.iter().map(|key| key.line("agent")).collect::<String>()).start()
}

#[test]
fn the_upgrade_names_the_relay() {
    let (owner, key) = (Key::new("owner"), AgentKey::new());
    let relay = Relay::options(&[&owner]).keys(&key.line("agent")).start();
    for endpoint in [relay.tcp(), relay.unix()] {
        let agent = Agent::dial(&endpoint, &key);
        assert_eq!(agent.message_bytes, 1_048_576);
        let mut device = Device::open(&relay.tcp());
        let challenge = device.wait("the challenge", |message| message["type"] == "challenge");
        assert_eq!(challenge["relay"]["did"], agent.relay, "one relay, one name");
    }
}

#[test]
fn the_subprotocol_is_required() {
    let relay = relay(&[]);
    for subprotocol in [None, Some("amp.v2"), Some("amp-session.v1")] {
        let request = http::upgrade_request(&relay.tcp().host(), subprotocol, "");
        let answer = http::raw(&relay.tcp(), &request.replace("GET /session ", "GET /amp/v1/ws "));
        assert_eq!(answer.status, 400, "{subprotocol:?}: {answer:?}");
    }
    let several = http::upgrade_request(&relay.tcp().host(), Some("chat, amp.v1"), "X-AMP-Max-Message-Size: 65536\r\n");
    let mut stream = relay.tcp().connect().expect("the relay listens");
    stream.write_all(several.replace("GET /session ", "GET /amp/v1/ws ").as_bytes()).expect("it reads");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 101", "it is one of several");
}

#[test]
fn hello_is_answered_by_the_relay_itself() {
    let key = AgentKey::new();
    let relay = relay(&[&key]);
    for (endpoint, keys) in [(relay.tcp(), Keys::Text), (relay.tcp(), Keys::Int), (relay.unix(), Keys::Text)] {
        let mut agent = Agent::dial(&endpoint, &key);
        agent.keys = keys;
        let hello = agent.hello().thread(b"a thread");
        agent.send(&hello);
        let ack = agent.next("the answer to HELLO");
        assert_eq!((ack.typ, ack.keys), (typ::HELLO_ACK, keys), "{ack:?}");
        ack.assert_well_made();
        assert!(ack.answers(&hello.id), "{ack:?}");
        assert_eq!((ack.from.as_str(), &ack.to), (agent.relay.as_str(), &To::from(&key)));
        assert_eq!(ack.body, json!({"selected": "1.0"}));
        agent.ping();
    }
}

#[test]
fn the_first_version_that_both_speak_is_selected() {
    let key = AgentKey::new();
    let relay = relay(&[&key]);
    for (versions, selected) in
        [(json!(["2.0", "1.5", "1.0"]), "1.5"), (json!(["1"]), "1"), (json!(["1.0.3"]), "1.0.3")]
    {
        let mut agent = Agent::dial(&relay.tcp(), &key);
        let mut hello = agent.hello();
        hello.body = support::amp::body(&json!({"versions": versions, "agent_info": {"name": "a test"}}));
        agent.send(&hello);
        let ack = agent.next("the answer to HELLO");
        assert_eq!((ack.typ, &ack.body["selected"]), (typ::HELLO_ACK, &json!(selected)), "{ack:?}");
    }
    for versions in [json!(["2.0"]), json!(["0.9", "10.0", "x"])] {
        let mut agent = Agent::dial(&relay.tcp(), &key);
        let mut hello = agent.hello();
        hello.body = support::amp::body(&json!({"versions": versions}));
        agent.send(&hello);
        let reject = agent.next("the answer to HELLO");
        assert_eq!(reject.typ, typ::HELLO_REJECT, "{reject:?}");
        assert!(reject.answers(&hello.id), "{reject:?}");
        reject.assert_well_made();
        agent.wait_closed();
    }
}

#[test]
fn every_role_admits_an_agent() {
    let keys: Vec<_> =
        ["agent", "watch", "drive", "approve", "spawn", "admin"].map(|role| (AgentKey::new(), role)).into();
    let lines: String = keys.iter().map(|(key, role)| key.line(role)).collect();
    let relay = Relay::options(&[]).keys(&lines).start();
    for (key, _) in &keys {
        Agent::connect(&relay.tcp(), key).ping();
    }
}

#[test]
fn an_alias_is_answered_but_proves_nothing() {
    let key = AgentKey::new();
    let relay = relay(&[&key]);
    let mut agent = Agent::dial(&relay.tcp(), &key);
    let mut hello = agent.hello();
    hello.to = To::from("relay-server");
    agent.send(&hello);
    let ack = agent.next("the answer to HELLO");
    assert_eq!(ack.typ, typ::HELLO_ACK, "{ack:?}");
    let to_relay = agent.draft(typ::PING, agent.relay.clone().as_str(), &Value::Null);
    agent.refused(&to_relay, 3001);
    let to_itself = agent.draft(typ::MESSAGE, &key, &json!("not delivered"));
    agent.refused(&to_itself, 3001);
    assert!(agent.of(typ::MESSAGE).is_empty(), "{:?}", agent.seen);
}

/// Sends a HELLO that is refused with this code: it gets no HELLO_ACK.
#[track_caller]
fn hello_refused(agent: &mut Agent, hello: &[u8], id: &[u8], code: u64) -> Message {
    agent.send_bytes(hello);
    let error = agent.next("the refusal");
    agent.assert_error(&error);
    assert_eq!(error.body["code"], code, "{error:?}");
    assert!(error.answers(id), "{error:?}");
    error
}

// --- HELLOs that are refused -----------------------------------------------------------------------------------------

#[test]
fn a_hello_needs_the_signature_of_its_key() {
    let ward = Ward::new();
    let stranger = AgentKey::new();
    let hello = ward.dial().hello();
    let mut flipped = ward.key.sign(&hello.sig_input());
    flipped[10] ^= 1;
    let elsewhere = Draft { to: To::from(&stranger), ..hello.clone() };
    let as_array = Draft { to: To::Many(vec![ward.healthy.relay.clone()]), ..hello.clone() };
    let forged = [
        ("another key's", stranger.sign(&hello.sig_input())),
        ("one with a flipped bit", flipped),
        ("zeros", vec![0; 64]),
        ("one for another receiver", ward.key.sign(&elsewhere.sig_input())),
        ("one for an array of receivers", ward.key.sign(&as_array.sig_input())),
        ("one of the body alone", ward.key.sign(&hello.body)),
    ];
    for (what, signature) in forged {
        for keys in [Keys::Text, Keys::Int] {
            let mut agent = ward.dial();
            let bytes = map(keyed(hello.fields(&signature), keys));
            let error = hello_refused(&mut agent, &bytes, &hello.id, 1002);
            assert_eq!(error.keys, keys, "{what}");
            assert_eq!(agent.wait_closed(), 1008, "{what}");
        }
    }
    ward.check();
}

#[test]
fn a_key_that_is_not_listed_is_told_so() {
    let ward = Ward::new();
    let stranger = AgentKey::new();
    let mut agent = Agent::dial(&ward.relay.tcp(), &stranger);
    let hello = agent.hello();
    hello_refused(&mut agent, &hello.signed(&stranger, Keys::Text), &hello.id, 3001);
    assert_eq!(agent.wait_closed(), 1008);
    // Neither is one of another kind, which no key is behind.
    for did in ["did:web:example.com:agent:alice", "did:key:z6Mk", "alice", ""] {
        let mut agent = ward.dial();
        let hello = Draft { from: did.into(), ..agent.hello() };
        hello_refused(&mut agent, &hello.signed(&ward.key, Keys::Text), &hello.id, 3001);
        assert_eq!(agent.wait_closed(), 1008, "{did}");
    }
    ward.check();
}

#[test]
fn a_key_that_is_taken_out_is_put_out() {
    let (owner, key, stays) = (Key::new("owner"), AgentKey::new(), AgentKey::new());
    let relay = Relay::options(&[&owner]).keys(&[key.line("agent"), stays.line("agent")].concat()).start();
    let mut agent = Agent::connect(&relay.tcp(), &key);
    let mut other = Agent::connect(&relay.tcp(), &stays);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let keys = fs::read_to_string(relay.keys()).expect("the keys file");
    fs::write(relay.keys(), keys.replace(&key.line("agent"), "")).expect("the keys file");
    device.ok("keys", json!({"op": "reload"}));
    assert!([1008, 4401].contains(&agent.wait_closed()), "{:?}", agent.closed);
    other.ping();
    let mut again = Agent::dial(&relay.tcp(), &key);
    let hello = again.hello();
    hello_refused(&mut again, &hello.signed(&key, Keys::Text), &hello.id, 3001);
}

#[test]
fn a_hello_counts_once() {
    let ward = Ward::new();
    let mut first = ward.dial();
    let hello = first.hello();
    let frame = first.send(&hello);
    assert_eq!(first.next("the answer").typ, typ::HELLO_ACK);
    // A re-keyed one has the same signature and is the same HELLO.
    for copy in [frame, hello.signed(&ward.key, Keys::Int)] {
        let mut second = ward.dial();
        second.send_bytes(&copy);
        let refusal = second.next("the refusal");
        second.assert_error(&refusal);
        assert!([1001, 3001].contains(&refusal.body["code"].as_u64().unwrap_or(0)), "{refusal:?}");
        second.say(typ::MESSAGE, &ward.healthy.key, &json!("stolen"));
        let mut messages = vec![refusal];
        while let Some(message) = second.next_or_end("an answer") {
            let ended = message.typ == typ::ERROR;
            messages.push(message);
            if ended {
                break;
            }
        }
        assert!(messages.iter().all(|message| message.typ == typ::ERROR), "{messages:?}");
    }
    first.ping();
    ward.check();
}

#[test]
fn a_hello_is_for_one_relay() {
    let key = AgentKey::new();
    let relays = [0; 2].map(|_| Relay::options(&[]).keys(&key.line("agent")).start());
    let hello = Agent::dial(&relays[0].tcp(), &key).hello();
    let frame = hello.signed(&key, Keys::Text);
    let mut agent = Agent::dial(&relays[1].tcp(), &key);
    assert_ne!(agent.relay, Agent::dial(&relays[0].tcp(), &key).relay);
    hello_refused(&mut agent, &frame, &hello.id, 1004);
}

/// The same relay again: its memory of ids is gone, its name is not.
fn start_again(relay: &Relay) -> Relay {
    let mut command = relay.scratch.command(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(relay.scratch.data()).arg("--keys").arg(relay.keys()).arg("--folder").arg(relay.scratch.project());
    Relay::spawn(Scratch::new(), command, 2)
}

#[test]
fn a_hello_does_not_outlive_the_relay_that_took_it() {
    let key = AgentKey::new();
    let mut relay = Relay::options(&[]).keys(&key.line("agent")).start();
    let mut agent = Agent::dial(&relay.tcp(), &key);
    let hello = agent.hello();
    let frame = agent.send(&hello);
    assert_eq!(agent.next("the answer").typ, typ::HELLO_ACK);
    relay.signal(Signal::KILL);
    relay.exit();
    let again = start_again(&relay);
    let mut replayed = Agent::dial(&again.tcp(), &key);
    assert_eq!(replayed.relay, agent.relay, "it keeps its name");
    hello_refused(&mut replayed, &frame, &hello.id, 1003);
    Agent::connect(&again.tcp(), &key).ping();
}

/// A clock that is ahead must not make a HELLO that the next relay takes for new.
#[test]
fn a_hello_of_a_clock_that_is_ahead_does_not_outlive_the_relay_either() {
    let key = AgentKey::new();
    let mut relay = Relay::options(&[]).keys(&key.line("agent")).start();
    let mut agent = Agent::dial(&relay.tcp(), &key);
    let hello = agent.hello().at(now_ms() + 25_000);
    let frame = agent.send(&hello);
    if agent.next("the answer").typ != typ::HELLO_ACK {
        return; // It is not taken in the first place.
    }
    relay.signal(Signal::KILL);
    relay.exit();
    let again = start_again(&relay);
    let mut replayed = Agent::dial(&again.tcp(), &key);
    replayed.send_bytes(&frame);
    assert_eq!(replayed.next("the refusal").typ, typ::ERROR);
}

/// One that is a little ahead is taken when its time has come: then it is older than any later relay.
#[test]
fn a_hello_of_a_clock_that_is_a_little_ahead_waits_and_does_not_outlive_the_relay() {
    let key = AgentKey::new();
    let mut relay = Relay::options(&[]).keys(&key.line("agent")).start();
    let mut agent = Agent::dial(&relay.tcp(), &key);
    let hello = agent.hello().at(now_ms() + 700);
    let frame = agent.send(&hello);
    // What is said behind it waits with it.
    let to_relay = agent.relay.clone();
    let ping = agent.say(typ::PING, to_relay.as_str(), &Value::Null);
    let ack = agent.next("the answer");
    assert_eq!((ack.typ, ack.answers(&hello.id)), (typ::HELLO_ACK, true), "{ack:?}");
    assert!(now_ms() >= hello.ts, "it was taken ahead of its time");
    assert_eq!(agent.answer(&ping).typ, typ::PONG);
    relay.signal(Signal::KILL);
    relay.exit();
    let again = start_again(&relay);
    let mut replayed = Agent::dial(&again.tcp(), &key);
    hello_refused(&mut replayed, &frame, &hello.id, 1003);
    Agent::connect(&again.tcp(), &key).ping();
}

#[test]
fn a_hello_is_of_now() {
    let ward = Ward::new();
    let fresh = ward.dial().hello();
    let now = now_ms();
    let cases = [
        ("old, though it lives for a day", fresh.clone().at(now - 120_000).ttl(86_400_000)),
        ("expired", fresh.clone().at(now - 20_000).ttl(1_000)),
        ("old, with a ttl of 0", fresh.clone().at(now - 120_000).ttl(0)),
        ("from the future", fresh.clone().at(now + 120_000)),
        ("from the end of time", fresh.clone().at(u64::MAX)),
        ("from the beginning of time", fresh.clone().at(0).ttl(u64::MAX)),
    ];
    for (what, hello) in cases {
        let mut agent = ward.dial();
        let error = hello_refused(&mut agent, &hello.signed(&ward.key, Keys::Text), &hello.id, 1003);
        let said = error.body["details"]["now"].as_u64().unwrap_or_else(|| panic!("{what}: {error:?}"));
        assert!(said.abs_diff(now) < 60_000, "{what}: the relay's time: {error:?}");
    }
    ward.check();
}

#[test]
fn a_hello_is_a_hello() {
    let ward = Ward::new();
    let fresh = ward.dial().hello();
    let mut other_time = fresh.clone();
    other_time.id[7] ^= 0x80;
    other_time.id[5] ^= 0x01;
    let with_body = |body: &Value| Draft { body: support::amp::body(body), ..fresh.clone().at(fresh.ts) };
    let cases = [
        ("another version of the envelope", Draft { v: 2, ..fresh.clone() }, 1004),
        ("version 0", Draft { v: 0, ..fresh.clone() }, 1004),
        ("to somebody else", Draft { to: To::from(&ward.healthy.key), ..fresh.clone() }, 1004),
        ("an answer that nobody asked for", Draft { typ: typ::HELLO_ACK, ..fresh.clone() }, 1004),
        ("an id of another time", other_time, 1001),
        ("no versions", with_body(&json!({})), 1001),
        ("versions that are none", with_body(&json!({"versions": [1]})), 1001),
        ("an empty list of versions", with_body(&json!({"versions": []})), 1001),
        ("no body", with_body(&Value::Null), 1001),
    ];
    for (what, hello, code) in cases {
        let mut agent = ward.dial();
        agent.send(&hello);
        let error = agent.next(what);
        agent.assert_error(&error);
        assert_eq!((&error.body["code"], error.answers(&hello.id)), (&json!(code), true), "{what}: {error:?}");
    }
    ward.check();
}

#[test]
fn nothing_is_taken_before_hello() {
    let ward = Ward::new();
    for kind in [typ::MESSAGE, typ::PING, typ::REQUEST, typ::ACK, 0x7f, 0xf0] {
        for to in [ward.healthy.key.did.clone(), ward.healthy.relay.clone(), ward.key.did.clone()] {
            let mut agent = ward.dial();
            let draft = agent.draft(kind, to.as_str(), &Value::Null);
            agent.refused(&draft, 1004);
            assert_eq!(agent.seen.len(), 1, "{:?}", agent.seen);
        }
    }
    ward.check();
}

#[test]
fn what_is_sent_along_with_hello_waits_or_is_refused() {
    let ward = Ward::new();
    let mut agent = ward.dial();
    let hello = agent.hello();
    let (relay, key) = (agent.relay.clone(), ward.key.clone());
    let ping = agent.draft(typ::PING, relay.as_str(), &Value::Null);
    let burst = [&hello, &ping].map(|draft| frame(0x82, true, &draft.signed(&key, Keys::Text))).concat();
    agent.write_raw(&burst);
    let first = agent.next("the answer to HELLO");
    assert!(first.typ == typ::HELLO_ACK && first.answers(&hello.id), "the relay's first message: {first:?}");
    let second = agent.next("the answer to PING");
    assert!(second.answers(&ping.id) && (second.typ == typ::PONG || second.is_error(1004)), "{second:?}");
    agent.ping();
    ward.check();
}
