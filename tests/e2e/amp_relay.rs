//! Agents that reach each other through the relay: HELLO, routing between workers, and what the relay itself answers.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use amp_relay::{
    reactor::{BoundAddr, Listen},
    server::{Agent as Runs, DataFolder, Options, Server},
    wire::amp::{Code, check::Refusal},
};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use crate::support::{
    self, Agent, AgentKey, Keys, Relay,
    agent::{beside, presence, wait_alone},
    amp::{Draft, Message, To, body, bytes, cbor, hex, keyed, map, map_as_given, now_ms, text, typ, uint, unhex},
    http::Endpoint,
    until,
};

/// A relay that these keys may reach as agents.
fn relay(keys: &[&AgentKey]) -> Relay {
    Relay::options(&[]).keys(&keys.iter().map(|key| key.line("agent")).collect::<String>()).start()
}

/// A relay and two agents on it.
fn pair() -> (Relay, Agent, Agent) {
    let (one, two) = (AgentKey::new(), AgentKey::new());
    let relay = relay(&[&one, &two]);
    let (one, two) = (Agent::connect(&relay.tcp(), &one), Agent::connect(&relay.tcp(), &two));
    (relay, one, two)
}

/// Nobody said anything to this agent that `expected` does not allow, up to a round trip through the relay.
#[track_caller]
fn heard_only(agent: &mut Agent, expected: impl Fn(&Message) -> bool) {
    agent.ping();
    let relay = agent.relay.clone();
    let fits = |m: &&Message| m.from == relay && (m.typ == typ::HELLO_ACK || m.typ == typ::PONG) || expected(m);
    let foreign: Vec<_> = agent.seen.iter().filter(|message| !fits(message)).collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

// --- the tests' own tools --------------------------------------------------------------------------------------------

/// What this side writes and verifies is what the RFC prints, so that it can judge the relay.
#[test]
fn the_test_agent_writes_the_rfcs_messages() {
    let vectors: Value = serde_json::from_str(include_str!("../data/amp/rfc001-appendix-a.json")).expect("JSON");
    let seed = unhex(vectors["params"]["ed25519_seed"].as_str().expect("a seed"));
    let seed: [u8; 32] = seed.try_into().expect("32 bytes");
    let (public, key) = (SigningKey::from_bytes(&seed).verifying_key(), AgentKey::from_seed(seed));
    let mut checked = 0;
    for vector in vectors["vectors"].as_array().expect("vectors") {
        let hexed = |name: &str| vector[name].as_str().unwrap_or_default().to_owned();
        if vector["body_cbor"].is_null() || hexed("message").is_empty() {
            continue;
        }
        let message = Message::read(&unhex(&hexed("message"))).expect("a message");
        if message.draft().body == [0xf6] && hexed("body_cbor") != "f6" {
            continue; // An encrypted one.
        }
        assert_eq!(hex(&message.draft().sig_input()), hexed("sig_input"), "{message:?}");
        assert_eq!(message.verify_with(&public), Ok(()));
        assert_eq!(hex(&message.draft().signed(&key, Keys::Text)), hexed("message"));
        checked += 1;
    }
    assert!(checked >= 6, "only {checked} vectors were checked");
    // The first example of the did:key method's vectors, backwards: the DID decodes to the key that signs.
    let key = AgentKey::new();
    let draft = Draft::new(typ::MESSAGE, &key, "did:web:example.com", &json!({"n": -1, "ok": true, "list": [null]}));
    let message = Message::read(&draft.signed(&key, Keys::Int)).expect("a message");
    message.assert_well_made();
    assert_eq!(message.body, json!({"n": -1, "ok": true, "list": [null]}));
}

// --- routing ---------------------------------------------------------------------------------------------------------

#[test]
fn a_message_arrives_as_it_was_sent() {
    let keys = [AgentKey::new(), AgentKey::new()];
    let relay = relay(&[&keys[0], &keys[1]]);
    for endpoint in [relay.tcp(), relay.unix()] {
        let mut one = Agent::connect(&endpoint, &keys[0]);
        let mut two = Agent::connect(&relay.tcp(), &keys[1]);
        let mut sent = Vec::new();
        let plain = one.draft(typ::MESSAGE, &keys[1], &json!({"hello": "world", "n": [1, -2, null, true]}));
        let mut rich = plain.clone().at(plain.ts).ttl(0).thread(&[7; 40]).reply_to(&[1; 16]);
        rich.ext = Some(map(vec![(text("hint"), bytes(&[0; 300]))]));
        for draft in [plain.clone(), rich.clone()] {
            sent.push(one.send(&draft));
        }
        // Fields in the order of their integer keys, an unknown one among them, and a body in no order.
        let mut body = rich.at(plain.ts);
        body.body = map_as_given(&[(text("zz"), uint(1)), (text("a"), vec![0x18, 0x01])]);
        let mut odd = keyed(body.signed_fields(&one.key), Keys::Text);
        odd.insert(3, (text("unknown"), cbor(&ciborium::Value::Array(vec![1.into(), "x".into()]))));
        sent.push(map_as_given(&odd));
        one.send_bytes(&sent[2]);
        for sent in &sent {
            assert_eq!(hex(&two.next("the message").bytes), hex(sent), "byte for byte");
        }
        heard_only(&mut one, |_| false);
        one.close();
        two.close();
    }
}

#[test]
fn types_are_not_looked_at_between_agents() {
    let (_relay, mut one, mut two) = pair();
    let receiver = two.key.clone();
    // All but the handshake, known or not.
    for kind in (0x00..0x70).chain([0x7f, 0x80, 0xef, 0xf0, 0xff]) {
        let draft = one.draft(kind, &receiver, &json!({"any": "thing"})).reply_to(&[3; 16]);
        let sent = one.send(&draft);
        assert_eq!(hex(&two.next("the message").bytes), hex(&sent), "0x{kind:02x}");
    }
    heard_only(&mut one, |_| false);
}

#[test]
fn an_agent_reaches_itself() {
    let key = AgentKey::new();
    let relay = relay(&[&key]);
    let mut agent = Agent::connect(&relay.tcp(), &key);
    let draft = agent.draft(typ::MESSAGE, &key, &json!("me")).ttl(0);
    let sent = agent.send(&draft);
    assert_eq!(agent.next("the message").bytes, sent);
}

#[test]
fn a_fragment_does_not_change_who_is_meant() {
    let (_relay, mut one, mut two) = pair();
    let mut draft = one.draft(typ::MESSAGE, format!("{}#key-1", two.key.did).as_str(), &json!("fragments"));
    draft.from = format!("{}#key-1", one.key.did);
    let sent = one.send(&draft);
    let message = two.next("the message");
    assert_eq!(message.bytes, sent);
    assert_eq!(message.verify(), Ok(()));
}

#[test]
fn who_is_not_here_is_named() {
    let (_relay, mut one, mut two) = pair();
    let absent = AgentKey::new();
    for ttl in [0, 60_000] {
        let draft = one.draft(typ::MESSAGE, &absent, &json!("hello?")).ttl(ttl).thread(b"thread");
        let error = one.refused(&draft, 2003);
        assert_eq!(error.body["retry"], true, "{error:?}");
    }
    for did in ["did:web:example.com:agent:bob", "did:key:z6Mk", "nobody", ""] {
        let draft = one.draft(typ::MESSAGE, did, &Value::Null);
        one.refused(&draft, 2003);
    }
    // An ERROR is never answered by an ERROR.
    let silent = one.draft(typ::ERROR, &absent, &json!({"code": 5001, "category": "server", "message": "no"}));
    one.send(&silent);
    let loud = one.draft(typ::MESSAGE, &absent, &Value::Null);
    one.refused(&loud, 2003);
    // Of several the ones who are here get it.
    let some = one.draft(typ::MESSAGE, To::many(&[&absent, &two.key]), &json!("whoever is here"));
    let error = one.refused(&some, 2003);
    assert_eq!(two.next("the message").body, "whoever is here");
    // Who did not is named, up to a bound.
    let named = error.body["details"]["recipients"].as_array().unwrap_or_else(|| panic!("names: {error:?}")).clone();
    assert_eq!((named.len(), &named[0]["did"], &error.body["details"]["others"]), (1, &json!(absent.did), &json!(0)));
    assert_eq!(named[0]["reason"], error.body["message"]);
    let crowd: Vec<_> = std::iter::repeat_with(AgentKey::new).take(70).collect();
    let draft = one.draft(typ::MESSAGE, To::many(&crowd.iter().collect::<Vec<_>>()), &Value::Null);
    let error = one.refused(&draft, 2003);
    assert_eq!(
        (error.body["details"]["recipients"].as_array().map(Vec::len), &error.body["details"]["others"]),
        (Some(64), &json!(6))
    );
    assert!(!one.seen.iter().any(|message| message.answers(&silent.id)), "{:?}", one.seen);
}

#[test]
fn several_receivers_get_the_same_bytes() {
    let keys: Vec<_> = std::iter::repeat_with(AgentKey::new).take(5).collect();
    let relay = relay(&keys.iter().collect::<Vec<_>>());
    let mut agents: Vec<_> = keys.iter().map(|key| Agent::connect(&relay.tcp(), key)).collect();
    let all: Vec<_> = keys.iter().collect();
    let draft = agents[0].draft(typ::MESSAGE, To::many(&all), &json!("to all, myself too"));
    let sent = agents[0].send(&draft);
    let single = agents[0].draft(typ::MESSAGE, To::many(&[&keys[1]]), &json!("an array of one"));
    let sent_single = agents[0].send(&single);
    for agent in &mut agents {
        assert_eq!(agent.next("the message").bytes, sent);
    }
    assert_eq!(agents[1].next("the second message").bytes, sent_single);
    for agent in &mut agents {
        heard_only(agent, |message| message.bytes == sent || message.bytes == sent_single);
    }
}

#[test]
fn who_is_named_twice_gets_it_once() {
    let (_relay, mut one, mut two) = pair();
    let fragment = format!("{}#key", two.key.did);
    let dids = [&two.key.did, &one.key.did, &two.key.did, &fragment, &one.key.did].map(String::clone);
    let draft = one.draft(typ::MESSAGE, To::Many(dids.into()), &json!("twice"));
    let sent = one.send(&draft);
    let end = one.draft(typ::MESSAGE, To::many(&[&one.key, &two.key]), &json!("the end"));
    one.send(&end);
    for agent in [&mut one, &mut two] {
        agent.wait("the end", |message| message.body == "the end");
        let bytes: Vec<_> = agent.of(typ::MESSAGE).iter().map(|message| message.bytes.clone()).collect();
        assert!(bytes.len() == 2 && bytes[0] == sent, "{:?}", agent.seen);
    }
}

#[test]
fn every_connection_of_an_agent_is_served() {
    let (one, two) = (AgentKey::new(), AgentKey::new());
    let relay = relay(&[&one, &two]);
    let mut sender = Agent::connect(&relay.tcp(), &one);
    let mut receivers: Vec<_> = (0..6).map(|_| Agent::connect(&relay.tcp(), &two)).collect();
    while !receivers.is_empty() {
        let draft = sender.draft(typ::MESSAGE, &two, &json!({"connections": receivers.len()}));
        let sent = sender.send(&draft);
        for receiver in &mut receivers {
            assert_eq!(receiver.next("the message").bytes, sent);
        }
        // The newest leaves at one time, the oldest at another.
        let leaver = if receivers.len() % 2 == 0 { receivers.remove(0) } else { receivers.remove(receivers.len() - 1) };
        leaver.close();
    }
    gone(&mut sender, &two);
    let again = sender.draft(typ::MESSAGE, &two, &json!("nobody is left"));
    sender.refused(&again, 2003);
    let mut back = Agent::connect(&relay.tcp(), &two);
    let draft = sender.draft(typ::MESSAGE, &two, &json!("back again"));
    let sent = sender.send(&draft);
    assert_eq!(back.next("the message").bytes, sent, "and nothing of before");
}

/// Sends until the relay says that nobody is there. A connection that has just closed may still take what was sent.
#[track_caller]
fn gone(sender: &mut Agent, receiver: &AgentKey) {
    let mut sent = HashSet::new();
    until("nobody is there", || {
        sent.insert(sender.say(typ::MESSAGE, receiver, &json!("anybody?")).to_vec());
        sender.ping();
        let refused = |m: &Message| m.is_error(2003) && m.reply_to.as_ref().is_some_and(|id| sent.contains(id));
        sender.seen.iter().any(refused).then_some(())
    });
}

// --- order between workers -------------------------------------------------------------------------------------------

const STREAM: usize = 10_000;
/// The third connection has to come and go at least once between two marks.
const MARK: usize = 500;

#[test]
fn ten_thousand_messages_keep_their_order_while_another_connection_comes_and_goes() {
    let (one, two) = (AgentKey::new(), AgentKey::new());
    let relay = relay(&[&one, &two]);
    let mut sender = Agent::connect(&relay.tcp(), &one);
    let mut receiver = beside(&relay, &mut sender, false, &two, Keys::Text);
    // Connections that were on the wrong worker are gone before the first message.
    wait_alone(&mut sender, &two);
    let (lives, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let third_saw = thread::scope(|scope| {
        let over_at_last = Over(&over);
        let third = scope.spawn(|| come_and_go(&relay, &two, &lives, &over));
        let stream = scope.spawn(|| {
            let sent: Vec<_> = (0..STREAM).map(|n| numbered(&mut sender, &two, n, &lives)).collect();
            (sender, sent)
        });
        let mut received: Vec<Vec<u8>> = Vec::with_capacity(STREAM);
        while received.len() < STREAM {
            let message = receiver.next("the next message of the stream");
            if message.typ == typ::MESSAGE {
                assert_eq!(message.body, received.len(), "in order, none lost, none double");
                received.push(message.bytes);
            }
        }
        drop(over_at_last);
        let (mut sender, sent) = stream.join().expect("the sender ends");
        assert_eq!(received, sent, "byte for byte");
        heard_only(&mut sender, |message| message.typ == typ::RESPONSE);
        heard_only(&mut receiver, |message| message.typ == typ::MESSAGE || message.typ == typ::RESPONSE);
        assert_eq!(receiver.of(typ::MESSAGE).len(), STREAM, "nothing came afterwards");
        third.join().expect("the third ends")
    });
    assert!(lives.load(Ordering::Relaxed) >= STREAM / MARK - 1);
    assert!(third_saw > 0, "the third connection took part");
}

/// Ends the coming and going, on failure too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Sends a number, after the third connection has lived often enough.
fn numbered(sender: &mut Agent, receiver: &AgentKey, n: usize, lives: &AtomicUsize) -> Vec<u8> {
    if n.is_multiple_of(MARK) {
        until("the third connection came and went", || (lives.load(Ordering::Acquire) >= n / MARK).then_some(()));
    }
    let draft = sender.draft(typ::MESSAGE, receiver, &json!(n)).ttl(if n.is_multiple_of(2) { 0 } else { 60_000 });
    sender.send(&draft)
}

/// Connects and leaves under a DID until it is over: gives how many numbers it saw. What it sees has no gap.
fn come_and_go(relay: &Relay, key: &AgentKey, lives: &AtomicUsize, over: &AtomicBool) -> usize {
    let mut seen = 0;
    while !over.load(Ordering::Acquire) {
        let mut agent = Agent::connect(&relay.tcp(), key);
        agent.ask(&json!({"action": "echo"}));
        let numbers: Vec<_> = agent.of(typ::MESSAGE).iter().filter_map(|message| message.body.as_u64()).collect();
        assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]), "in order: {numbers:?}");
        seen += numbers.len();
        match lives.fetch_add(1, Ordering::AcqRel) % 2 {
            0 => agent.vanish(),
            _ => agent.close(),
        }
    }
    seen
}

#[test]
fn many_senders_keep_their_own_order() {
    const EACH: usize = 400;
    let keys: Vec<_> = std::iter::repeat_with(AgentKey::new).take(9).collect();
    let relay = relay(&keys.iter().collect::<Vec<_>>());
    let (receiver_key, senders) = keys.split_first().expect("nine keys");
    let mut receiver = Agent::connect(&relay.tcp(), receiver_key);
    thread::scope(|scope| {
        for key in senders {
            let endpoint = relay.tcp();
            scope.spawn(move || {
                let mut agent = Agent::connect(&endpoint, key);
                for n in 0..EACH {
                    agent.say(typ::MESSAGE, receiver_key, &json!(n));
                }
                heard_only(&mut agent, |_| false);
            });
        }
        let mut next: HashMap<String, usize> = HashMap::new();
        for _ in 0..senders.len() * EACH {
            let message = receiver.next("the next message");
            let expected = next.entry(message.from.clone()).or_default();
            assert_eq!(message.body, *expected, "of {}", message.from);
            *expected += 1;
        }
        assert!(next.values().all(|count| *count == EACH) && next.len() == senders.len());
    });
}

// --- the two kinds of keys -------------------------------------------------------------------------------------------

#[test]
fn a_peer_of_the_other_kind_gets_the_same_message_in_its_keys() {
    for together in [true, false] {
        one_message_in_two_kinds_of_keys(together);
    }
}

/// Between two agents on one worker or on two.
fn one_message_in_two_kinds_of_keys(together: bool) {
    let (texts, int_key) = (AgentKey::new(), AgentKey::new());
    let relay = relay(&[&texts, &int_key]);
    let mut texts = Agent::connect(&relay.tcp(), &texts);
    let mut ints = beside(&relay, &mut texts, together, &int_key, Keys::Int);
    wait_alone(&mut texts, &int_key);
    texts.skip();
    ints.skip();
    let rekeyed = |from: &mut Agent, to: &mut Agent| {
        let receiver = to.key.clone();
        let mut draft = from.draft(typ::REQUEST, &receiver, &json!({"a": [1, {"b": null}]})).thread(&[9; 5]);
        draft.ext = Some(map(vec![(text("x"), uint(1))]));
        let sent = from.send(&draft);
        let message = to.next("the message");
        assert_eq!(message.keys, to.keys, "{message:?}");
        assert_eq!(message.verify(), Ok(()), "the signature survives");
        assert_ne!(message.bytes, sent);
        assert_eq!(message.draft().signed_fields(&from.key), draft.signed_fields(&from.key));
        let own = from.draft(typ::MESSAGE, &from.key, &json!("to itself"));
        let sent = from.send(&own);
        assert_eq!(from.next("its own message").bytes, sent, "untouched within one kind");
    };
    rekeyed(&mut texts, &mut ints);
    rekeyed(&mut ints, &mut texts);
    // What integer keys cannot say is not delivered, and the sender learns it.
    let array = texts.draft(typ::MESSAGE, To::many(&[&ints.key]), &json!("several"));
    texts.refused(&array, 2003);
    let plain = texts.draft(typ::MESSAGE, &ints.key, &Value::Null);
    let mut fields = plain.signed_fields(&texts.key);
    fields.retain(|(name, _)| *name != "body");
    let mut pairs = keyed(fields, Keys::Text);
    pairs.push((text("enc"), map(vec![(text("alg"), text("X25519-XSalsa20-Poly1305"))])));
    texts.send_bytes(&map(pairs));
    let error = texts.error(&plain.id);
    assert_eq!(error.body["code"], 2003, "{error:?}");
    let expected =
        |message: &Message| [typ::REQUEST, typ::RESPONSE].contains(&message.typ) || message.body == "to itself";
    heard_only(&mut ints, expected);
}

#[test]
fn a_missing_body_is_null_with_integer_keys() {
    let keys = [AgentKey::new(), AgentKey::new()];
    let relay = relay(&[&keys[0], &keys[1]]);
    let mut ints = Agent::connect_with(&relay.tcp(), &keys[0], Keys::Int);
    let mut texts = Agent::connect(&relay.tcp(), &keys[1]);
    let draft = ints.draft(typ::MESSAGE, &keys[1], &Value::Null);
    let mut fields = draft.signed_fields(&keys[0]);
    fields.retain(|(name, _)| *name != "body");
    ints.send_bytes(&map(keyed(fields, Keys::Int)));
    let message = texts.next("the message");
    assert_eq!((message.keys, &message.body, message.verify()), (Keys::Text, &Value::Null, Ok(())));
}

/// A message of this many bytes: its body is padded until it has them.
fn of_size(agent: &Agent, mut draft: Draft, size: usize, body: impl Fn(usize) -> Value) -> Draft {
    let mut pad = size - 1024;
    for _ in 0..3 {
        draft.body = support::amp::body(&body(pad));
        pad = pad + size - draft.signed(&agent.key, agent.keys).len();
    }
    assert_eq!(draft.signed(&agent.key, agent.keys).len(), size);
    draft
}

#[test]
fn nothing_grows_past_the_largest_message_on_its_way() {
    for together in [true, false] {
        let (texts, int_key) = (AgentKey::new(), AgentKey::new());
        let relay = relay(&[&texts, &int_key]);
        let mut texts = Agent::connect(&relay.tcp(), &texts);
        let mut ints = beside(&relay, &mut texts, together, &int_key, Keys::Int);
        wait_alone(&mut texts, &int_key);
        texts.skip();
        let text = |pad| json!("x".repeat(pad));
        let largest = texts.message_bytes;
        // Integer keys are shorter, so that in text keys it is too large: for the first and for what follows it.
        for _ in 0..2 {
            let draft = ints.draft(typ::MESSAGE, &texts.key, &Value::Null);
            let draft = of_size(&ints, draft, largest, text);
            let error = ints.refused(&draft, 2003);
            assert!(error.body["message"].as_str().is_some_and(|says| says.contains("1048576")), "{error:?}");
        }
        let draft = ints.draft(typ::MESSAGE, &texts.key, &Value::Null);
        let draft = of_size(&ints, draft, largest - 64, text);
        ints.send(&draft);
        let message = texts.next("what is just not too large");
        assert!(message.id == draft.id && message.bytes.len() <= largest, "{} bytes", message.bytes.len());
        heard_only(&mut texts, |message| message.typ == typ::MESSAGE || message.typ == typ::RESPONSE);
        // An answer repeats the body, and says besides what it answers.
        for agent in [&mut texts, &mut ints] {
            let draft = agent.draft(typ::REQUEST, agent.relay.as_str(), &Value::Null);
            let draft = of_size(agent, draft, largest, |pad| json!({"action": "echo", "filler": "x".repeat(pad)}));
            agent.refused(&draft, 2003);
        }
    }
}

// --- the relay's services --------------------------------------------------------------------------------------------

#[test]
fn the_relay_answers_what_it_is_asked() {
    for kind in [Keys::Text, Keys::Int] {
        let key = AgentKey::new();
        let relay = relay(&[&key]);
        let mut agent = Agent::connect_with(&relay.tcp(), &key, kind);
        agent.ping();
        assert_eq!(agent.ask(&json!({"action": "ping"})), json!({"status": "ok", "message": "pong"}));
        let echo = json!({"action": "echo", "deep": {"list": [1, 2, {"three": null}]}, "text": "ü"});
        assert_eq!(agent.ask(&echo), echo);
        let now = agent.ask(&json!({"action": "time"}))["now"].as_u64().expect("a time");
        assert!(now.abs_diff(now_ms()) < 60_000, "Unix milliseconds: {now}");
        let did = agent.relay.clone();
        for body in [json!({"action": "no such"}), json!({}), json!({"action": 7}), json!("ping"), Value::Null] {
            let draft = agent.draft(typ::REQUEST, did.as_str(), &body).thread(b"kept");
            agent.refused(&draft, 4001);
        }
        let ping = agent.draft(typ::REQUEST, did.as_str(), &json!({"action": "ping"})).thread(&[0; 3]);
        agent.send(&ping);
        let pong = agent.answer(&ping.id);
        assert_eq!((pong.thread_id.as_deref(), pong.keys), (Some(&[0; 3][..]), kind), "{pong:?}");
        assert_eq!(pong.to, To::from(&key));
    }
}

/// A program that embeds the relay has agents ask it what it likes: once for each REQUEST that can be answered.
#[test]
fn a_host_serves_actions_of_its_own() {
    let key = AgentKey::new();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let data = DataFolder::open(&folder.path().join("data")).expect("a data folder");
    let keys = folder.path().join("authorized_keys");
    data.ensure_keys_file(&keys, &[key.line("agent")]).expect("a keys file");
    let mut options = Options::new(keys, Runs::Demo);
    options.listen = vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    options.services.register("count", move |call| {
        assert!(!call.body.is_empty() && call.now_ms > 0);
        Ok(body(&json!({"from": call.from, "calls": counted.fetch_add(1, Ordering::Relaxed)})))
    });
    options.services.register("echo", |_| Err(Refusal::new(Code::BAD_REQUEST, "not here")));
    let relay = Server::start(&options, data.host_key().expect("a host key")).expect("a relay");
    let [BoundAddr::Tcp(addr)] = relay.addresses() else { panic!("{:?}", relay.addresses()) };

    let mut agent = Agent::connect(&Endpoint::Tcp(*addr), &key);
    let count = json!({"action": "count"});
    assert_eq!(agent.ask(&count), json!({"from": key.did, "calls": 0}));
    let did = agent.relay.clone();
    let unanswerable = agent.draft(typ::REQUEST, did.as_str(), &count).thread(&[7; 1025]);
    agent.refused(&unanswerable, 4001);
    assert_eq!(agent.ask(&count)["calls"], json!(1), "what was refused had no effect");
    let echo = agent.draft(typ::REQUEST, did.as_str(), &json!({"action": "echo"}));
    agent.refused(&echo, 4001);

    drop(agent);
    relay.stopper().drain();
    relay.join().expect("the relay ends");
}

#[test]
fn the_relay_speaks_up_only_when_it_is_asked() {
    let (_relay, mut one, mut two) = pair();
    let receiver = two.key.clone();
    for ttl in [0, 60_000] {
        let draft = one.draft(typ::MESSAGE, &receiver, &json!("live")).ttl(ttl);
        one.send(&draft);
        two.next("the message");
    }
    // An answer between agents, and a PING that is for another agent, are theirs alone.
    let ping = one.say(typ::PING, &receiver, &Value::Null);
    let seen = two.next("the PING");
    assert_eq!((seen.typ, seen.id.as_slice()), (typ::PING, &ping[..]));
    heard_only(&mut one, |_| false);
    assert!(one.of(typ::ACK).is_empty() && two.of(typ::ACK).is_empty(), "a live message has no ACK of the relay");
}

#[test]
fn an_unknown_type_for_the_relay_is_refused() {
    let key = AgentKey::new();
    let relay = relay(&[&key]);
    let mut agent = Agent::connect(&relay.tcp(), &key);
    let did = agent.relay.clone();
    for kind in [typ::MESSAGE, 0x06, 0x20, 0x60, 0x7f, 0x80, 0xf0, 0xffff_ffff_ffff] {
        let draft = agent.draft(kind, did.as_str(), &Value::Null);
        agent.refused(&draft, 1005);
    }
    let error = agent.draft(typ::ERROR, did.as_str(), &json!({"code": 1, "category": "x", "message": "y"}));
    agent.send(&error);
    agent.ping();
    assert!(!agent.seen.iter().any(|message| message.answers(&error.id)), "an ERROR has no answer");
}

#[test]
fn who_is_here_is_known() {
    let keys = [AgentKey::new(), AgentKey::new(), AgentKey::new()];
    let relay = relay(&[&keys[0], &keys[1], &keys[2]]);
    let mut one = Agent::connect(&relay.tcp(), &keys[0]);
    let shows = |agent: &mut Agent, expected: [Option<u64>; 3]| {
        until(&format!("the relay knows {expected:?}"), || {
            let here = presence(agent);
            let found: Vec<_> = keys.iter().map(|key| here.get(&key.did).copied()).collect();
            (found == expected).then_some(())
        });
    };
    shows(&mut one, [Some(1), None, None]);
    let two = Agent::connect(&relay.unix(), &keys[1]);
    let again: Vec<_> = (0..3).map(|_| Agent::connect(&relay.tcp(), &keys[1])).collect();
    // One that said no HELLO is not here.
    let _silent = Agent::dial(&relay.tcp(), &keys[2]);
    shows(&mut one, [Some(1), Some(4), None]);
    two.close();
    again.into_iter().for_each(Agent::vanish);
    shows(&mut one, [Some(1), None, None]);
}
