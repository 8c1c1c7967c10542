//! What the relay and its sessions read of a message: not before the role is known, in one way only, and nothing that an
//! answer repeats without a bound.

use serde_json::{Value, json};

use crate::support::{
    Agent, AgentKey, Device, Key, Keys, Relay, Ward,
    amp::{Draft, To, array, body, map_as_given, text, typ, uint},
    device,
};

/// A map with these pairs in this order.
fn pairs(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    map_as_given(&pairs.iter().map(|(key, value)| (text(key), value.clone())).collect::<Vec<_>>())
}

/// A relay with a session: the session's DID, and an agent for each role.
fn session(roles: &[&str]) -> (Relay, String, Vec<Agent>) {
    let owner = Key::new("owner");
    let keys: Vec<_> = roles.iter().map(|_| AgentKey::new()).collect();
    let lines: String = keys.iter().zip(roles).map(|(key, role)| key.line(role)).collect();
    let relay = Relay::options(&[&owner]).keys(&lines).start();
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    laptop.create();
    let did = device::text(&laptop.ok("list", json!({}))["sessions"][0]["did"]).to_owned();
    let agents = keys.iter().map(|key| Agent::connect(&relay.tcp(), key)).collect();
    (relay, did, agents)
}

/// Bodies with a key twice, around a member that is asked for.
fn doubled(name: &str, one: Vec<u8>, other: Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    let nested = || pairs(&[("x", uint(1)), ("x", uint(2))]);
    let with = |value: Vec<u8>| pairs(&[(name, one.clone()), ("zz", value)]);
    let long_form = [vec![0x78, u8::try_from(name.len()).expect("short")], name.as_bytes().to_vec()].concat();
    vec![
        ("the member itself", pairs(&[(name, one.clone()), (name, other.clone())])),
        ("the member, apart", pairs(&[(name, one.clone()), ("z", uint(1)), (name, other)])),
        ("the member, in a longer form", map_as_given(&[(text(name), one.clone()), (long_form, uint(1))])),
        ("another key", pairs(&[(name, one.clone()), ("z", uint(1)), ("z", uint(2))])),
        ("a number", map_as_given(&[(uint(1), uint(1)), (uint(1), uint(2)), (text(name), one.clone())])),
        ("a key of a map in it", with(nested())),
        ("a key of a map in an array in a map", with(pairs(&[("y", array(&[uint(1), nested()]))]))),
        ("a key behind a tag", with([vec![0xc1], nested()].concat())),
    ]
}

#[test]
fn e_a_doubled_key_in_a_request_to_the_relay_is_refused_with_4001_and_not_read_first_wins() {
    let ward = Ward::new();
    for keys in [Keys::Text, Keys::Int] {
        let mut agent = Agent::connect_with(&ward.relay.tcp(), &ward.key, keys);
        let relay = agent.relay.clone();
        for (what, body) in doubled("action", text("ping"), text("agents")) {
            let draft = Draft { body, ..agent.draft(typ::REQUEST, relay.as_str(), &Value::Null) };
            agent.send(&draft);
            let answer = agent.answer(&draft.id);
            assert!(answer.is_error(4001), "{what} twice: {answer:?}");
        }
        // In any order, once is once.
        let body = pairs(&[("zz", body(&json!({"b": 1, "a": 2}))), ("action", text("ping"))]);
        let draft = Draft { body, ..agent.draft(typ::REQUEST, relay.as_str(), &Value::Null) };
        agent.send(&draft);
        assert_eq!(agent.answer(&draft.id).typ, typ::RESPONSE);
    }
    ward.check();
}

#[test]
fn e_a_doubled_key_in_a_hello_is_refused_with_4001() {
    let ward = Ward::new();
    for (what, body) in doubled("versions", array(&[text("1.0")]), array(&[text("1.9")])) {
        let mut agent = ward.dial();
        let hello = Draft { body, ..agent.hello() };
        agent.refused(&hello, 4001);
        agent.send(&agent.hello());
        assert_eq!(agent.next("the refusal").typ, typ::ERROR);
        assert_eq!(agent.next("another try").typ, typ::HELLO_ACK, "{what}");
    }
    ward.check();
}

#[test]
fn e_a_doubled_key_in_what_a_session_is_told_is_refused_with_4001() {
    let (_relay, did, mut agents) = session(&["approve"]);
    let agent = &mut agents[0];
    for (what, body) in doubled("prompt", text("ask me first"), text("something else")) {
        let draft = Draft { body, ..agent.draft(typ::REQUEST, did.as_str(), &Value::Null) };
        agent.send(&draft);
        let answer = agent.answer(&draft.id);
        assert!(answer.is_error(4001), "{what} twice: {answer:?}");
    }
    let request = agent.say(typ::REQUEST, did.as_str(), &json!({"prompt": "please ask first"}));
    let asked = agent.wait("INPUT_REQUIRED", |message| message.typ == typ::INPUT_REQUIRED && message.answers(&request));
    for (what, body) in doubled("decision", text("deny"), text("allow")) {
        let draft = agent.draft(typ::RESPONSE, did.as_str(), &Value::Null).reply_to(&asked.id);
        let draft = Draft { body, ..draft };
        agent.send(&draft);
        let answer = agent.answer(&draft.id);
        assert!(answer.is_error(4001), "{what} twice: {answer:?}");
    }
    let deny = agent.draft(typ::RESPONSE, did.as_str(), &json!({"decision": "deny"})).reply_to(&asked.id);
    agent.send(&deny);
    assert_eq!(agent.answer(&request).typ, typ::RESPONSE, "the question was still open");
}

#[test]
fn a_body_for_another_agent_is_its_own_business() {
    let ward = Ward::new();
    let mut agent = ward.agent();
    let receiver = ward.key.clone();
    for (_, body) in doubled("prompt", text("one"), text("two")) {
        let draft = Draft { body, ..agent.draft(typ::REQUEST, &receiver, &Value::Null) };
        let sent = agent.send(&draft);
        let got = agent.wait_for("the message", |agent| {
            agent.seen.iter().find(|message| message.id == draft.id).map(|message| message.bytes.clone())
        });
        assert_eq!(got, sent, "byte for byte");
    }
    ward.check();
}

#[test]
fn b4_a_role_that_does_not_suffice_is_refused_before_the_body_is_looked_at() {
    let (_relay, did, mut agents) = session(&["agent", "watch", "drive"]);
    // 1 MB of nulls, which is no question, behind a key that stands there twice.
    let nulls = [vec![0x9a, 0x00, 0x0f, 0x00, 0x00], vec![0xf6; 0x0f_0000]].concat();
    let bodies = [nulls.clone(), pairs(&[("x", nulls), ("x", uint(1))]), vec![0xf6]];
    for (agent, kinds) in agents.iter_mut().zip([&[typ::REQUEST, typ::RESPONSE][..], &[typ::REQUEST], &[typ::RESPONSE]])
    {
        for kind in kinds {
            for body in &bodies {
                let draft = agent.draft(*kind, did.as_str(), &Value::Null).reply_to(&[7; 16]);
                let draft = Draft { body: body.clone(), ..draft };
                agent.send(&draft);
                let answer = agent.answer(&draft.id);
                assert!(answer.is_error(3001), "0x{kind:02x}: {answer:?}");
            }
        }
    }
    // Who may ask hears of the body.
    let agent = &mut agents[2];
    for body in bodies {
        let draft = Draft { body, ..agent.draft(typ::REQUEST, did.as_str(), &Value::Null) };
        agent.send(&draft);
        let answer = agent.answer(&draft.id);
        assert!(answer.is_error(4001), "{answer:?}");
    }
}

#[test]
fn a_role_that_sees_no_sessions_is_told_of_none() {
    let (_relay, did, mut agents) = session(&["agent", "watch"]);
    for (agent, sees) in agents.iter_mut().zip([false, true]) {
        let to = agent.relay.clone();
        let asked = agent.draft(typ::REQUEST, to.as_str(), &json!({"action": "agents"}));
        agent.send(&asked);
        let answer = agent.answer(&asked.id);
        let listed = answer.body["agents"].as_array().expect("agents");
        assert!(listed.iter().any(|other| other["did"] == json!(agent.key.did)), "agents: {listed:?}");
        assert_eq!(listed.iter().any(|other| other["did"] == json!(did)), sees, "{listed:?}");
    }
}

#[test]
fn e_what_an_answer_repeats_has_a_bound() {
    let (_relay, did, mut agents) = session(&["drive"]);
    let agent = &mut agents[0];
    let relay = agent.relay.clone();
    let large = vec![7; 900_000];
    for (to, kind, asked) in [
        (&relay, typ::PING, Value::Null),
        (&did, typ::PING, Value::Null),
        (&relay, typ::REQUEST, json!({"action": "ping"})),
        (&did, typ::REQUEST, json!({"prompt": "hello"})),
    ] {
        let fits = agent.draft(kind, to.as_str(), &asked).thread(&large[..1024]);
        agent.send(&fits);
        let answer = agent.answer(&fits.id);
        assert_eq!(answer.thread_id.as_deref(), Some(&large[..1024]), "0x{kind:02x}");
        assert_eq!(&answer.from, to, "whoever is asked answers");
        let draft = agent.draft(kind, to.as_str(), &asked).thread(&large);
        agent.send(&draft);
        let answer = agent.answer(&draft.id);
        assert!(answer.is_error(4001) && answer.thread_id.is_none(), "0x{kind:02x}: {answer:?}");
        assert!(answer.bytes.len() < 4096, "{} bytes", answer.bytes.len());
        // A name with something behind it: an answer goes to the name.
        let name = agent.key.did.clone();
        let mut draft = agent.draft(kind, to.as_str(), &asked);
        draft.from = format!("{name}#{}", "x".repeat(900_000));
        agent.send(&draft);
        let answer = agent.answer(&draft.id);
        assert_eq!((answer.to, answer.bytes.len() < 4096), (To::One(name), true), "0x{kind:02x}");
    }
    // Refusals of what is not for the relay repeat no more.
    let mut draft = agent.draft(typ::MESSAGE, "did:web:nobody", &Value::Null).thread(&large);
    draft.from = format!("{}#x", draft.from);
    agent.send(&draft);
    let answer = agent.answer(&draft.id);
    assert!(answer.is_error(2003) && answer.bytes.len() < 4096, "{answer:?}");
    assert_eq!(answer.to, To::One(draft.from));
}

#[test]
fn b5_a_hello_is_answered_with_what_has_a_bound() {
    let ward = Ward::new();
    let mut agent = ward.dial();
    let mut hello = agent.hello();
    hello.body = body(&json!({"versions": [format!("1.{}", "0".repeat(50_000)), "1.0"]}));
    agent.send(&hello);
    let ack = agent.next("the answer to HELLO");
    assert_eq!((ack.typ, &ack.body["selected"]), (typ::HELLO_ACK, &json!("1.0")), "{ack:?}");
    let mut agent = ward.dial();
    let hello = agent.hello().thread(&[7; 50_000]);
    let error = agent.refused(&hello, 4001);
    assert!(error.thread_id.is_none() && error.bytes.len() < 4096, "{error:?}");
    ward.check();
}

/// Before HELLO nobody is known: an answer goes to who a frame says it is from, and never to a made-up name.
#[test]
fn e_an_error_before_hello_is_addressed_to_the_sender_or_the_connection_ends_with_the_reason() {
    let ward = Ward::new();
    let named = |from: &str| pairs(&[("v", uint(1)), ("from", text(from)), ("x", vec![0xf6])]);
    for (frame, to) in [
        (named(&ward.key.did), ward.key.did.clone()),
        (named("did:web:example.com:alice"), "did:web:example.com:alice".to_owned()),
        (map_as_given(&[(uint(1), uint(1)), (uint(6), text("did:web:a"))]), "did:web:a".to_owned()),
        (named(&format!("did:web:a#{}", "x".repeat(50_000))), "did:web:a".to_owned()),
    ] {
        let mut agent = ward.dial();
        agent.send_bytes(&frame);
        let error = agent.next("the refusal");
        agent.assert_error(&error);
        assert_eq!((&error.body["code"], &error.to), (&json!(1001), &To::One(to)), "{error:?}");
        assert!(error.bytes.len() < 4096, "{} bytes", error.bytes.len());
        // The connection stays.
        agent.send(&agent.hello());
        assert_eq!(agent.next("the answer to HELLO").typ, typ::HELLO_ACK);
    }
    for frame in [
        vec![],
        vec![0xff],
        br#"{"type":"auth","did":"did:web:a"}"#.to_vec(),
        pairs(&[("v", uint(1)), ("from", uint(6))]),
        pairs(&[("from", text("did:web:a")), ("from", text("did:web:b"))]),
        named(&"x".repeat(50_000)),
        Draft { from: "x".repeat(50_000), ..ward.dial().hello() }.signed(&ward.key, Keys::Text),
        Draft { from: "x".repeat(50_000), ..ward.dial().draft(typ::MESSAGE, "did:web:b", &Value::Null) }
            .signed(&ward.key, Keys::Text),
    ] {
        let mut agent = ward.dial();
        agent.send_bytes(&frame);
        assert_eq!(agent.wait_closed(), 1008, "{:?}", agent.seen);
        assert!(agent.seen.is_empty(), "{:?}", agent.seen);
        let reason = &agent.closed.as_ref().expect("closed").1;
        assert!(!reason.is_empty(), "it says why");
    }
    ward.check();
}

/// A session's log and screens are no place for what steers a terminal.
#[test]
fn b5_a_prompt_of_an_agent_holds_no_control_characters_and_has_a_bound() {
    let (_relay, did, mut agents) = session(&["drive"]);
    let agent = &mut agents[0];
    for prompt in ["one\u{1b}[2J", "\u{0}", "a\u{9b}b", "\u{7f}"] {
        let draft = agent.draft(typ::REQUEST, did.as_str(), &json!({"prompt": prompt}));
        agent.send(&draft);
        assert!(agent.answer(&draft.id).is_error(4001), "{prompt:?}");
    }
    let draft = agent.draft(typ::REQUEST, did.as_str(), &json!({"prompt": "x".repeat(786_433)}));
    agent.send(&draft);
    let error = agent.answer(&draft.id);
    assert!(
        error.is_error(4001) && error.body["message"].as_str().is_some_and(|why| why.contains("786432")),
        "{error:?}"
    );
    let id = agent.say(typ::REQUEST, did.as_str(), &json!({"prompt": "two lines\r\n\tand a tab"}));
    assert_eq!(agent.answer(&id).typ, typ::RESPONSE);
}
