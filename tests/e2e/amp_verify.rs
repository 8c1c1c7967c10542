//! Signatures of messages, where the relay checks them all (`amp.verify = "all"`) and where it does not.

use serde_json::{Value, json};

use crate::support::{
    Agent, AgentKey, Device, Key, Keys, Relay,
    amp::{Draft, Message, To, keyed, map, typ},
    until,
};

/// A relay that checks every message.
fn checking(keys: &[&AgentKey]) -> Relay {
    let lines: String = keys.iter().map(|key| key.line("agent")).collect();
    Relay::options(&[]).keys(&lines).argument("--amp-verify").argument("all").start()
}

/// The message with a signature that another key made.
fn forged(draft: &Draft, keys: Keys) -> Vec<u8> {
    map(keyed(draft.fields(&AgentKey::new().sign(&draft.sig_input())), keys))
}

/// The numbers of the messages of this sender, in the order in which they came.
fn numbers(agent: &Agent, sender: &AgentKey) -> Vec<u64> {
    let from_sender = |message: &&&Message| message.from == sender.did;
    agent.of(typ::MESSAGE).iter().filter(from_sender).filter_map(|message| message.body.as_u64()).collect()
}

#[test]
fn a_message_with_a_wrong_signature_is_refused_and_its_neighbours_arrive_in_order() {
    const ALL: u64 = 30;
    let (alice, bob) = (AgentKey::new(), AgentKey::new());
    let relay = checking(&[&alice, &bob]);
    for keys in [Keys::Text, Keys::Int] {
        let mut receiver = Agent::connect_with(&relay.tcp(), &bob, keys);
        let mut sender = Agent::connect_with(&relay.tcp(), &alice, keys);
        let mut wrong = Vec::new();
        for n in 0..ALL {
            let draft = sender.draft(typ::MESSAGE, &bob, &json!(n)).thread(&[7, n as u8]);
            if n % 3 == 1 {
                sender.send_bytes(&forged(&draft, keys));
                wrong.push(draft);
            } else {
                sender.send(&draft);
            }
        }
        for draft in &wrong {
            let error = sender.error(&draft.id);
            assert_eq!((&error.body["code"], error.keys), (&json!(1002), keys), "{error:?}");
            assert_eq!(error.thread_id, draft.thread_id, "{error:?}");
        }
        let expected: Vec<_> = (0..ALL).filter(|n| n % 3 != 1).collect();
        receiver.wait_for("the good ones", |agent| (numbers(agent, &alice).len() >= expected.len()).then_some(()));
        // They end nothing, however many: the sender has proved its key.
        sender.ping();
        receiver.ping();
        assert_eq!(numbers(&receiver, &alice), expected);
        for message in receiver.of(typ::MESSAGE) {
            message.assert_well_made();
        }
        receiver.close();
    }
    assert_eq!(relay.metric("amp_relay_amp_wrong_signatures_total"), 20.0);
}

#[test]
fn the_relay_and_its_sessions_hear_no_forged_message_either() {
    let (owner, key) = (Key::new("owner"), AgentKey::new());
    let options = Relay::options(&[&owner]).keys(&key.line("drive"));
    let relay = options.argument("--amp-verify").argument("all").start();
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let session = laptop.create();
    laptop.attach(&session);
    let list = laptop.ok("list", json!({}));
    let did = list["sessions"][0]["did"].as_str().expect("a DID").to_owned();
    let mut agent = Agent::connect(&relay.tcp(), &key);
    let to_relay = agent.relay.clone();
    for (typ, to, body) in [
        (typ::PING, &to_relay, Value::Null),
        (typ::REQUEST, &to_relay, json!({"action": "agents"})),
        (typ::REQUEST, &did, json!({"prompt": "forged"})),
    ] {
        let draft = agent.draft(typ, to.as_str(), &body);
        agent.send_bytes(&forged(&draft, Keys::Text));
        assert_eq!(agent.error(&draft.id).body["code"], 1002);
    }
    // An ERROR is not answered, a forged one neither.
    let draft = agent.draft(typ::ERROR, to_relay.as_str(), &json!({"code": 1001}));
    agent.send_bytes(&forged(&draft, Keys::Text));
    agent.ping();
    let id = agent.say(typ::REQUEST, did.as_str(), &json!({"prompt": "hello"}));
    assert_eq!(agent.answer(&id).body["ok"], true);
    assert_eq!(agent.of(typ::ERROR).len(), 3, "{:?}", agent.seen);
    laptop.sync();
    assert_eq!(laptop.events_of(&session, "prompt").len(), 1);
}

#[test]
fn many_checked_messages_keep_their_order_on_every_way() {
    const ALL: u64 = 2_000;
    let (alice, bob, carol) = (AgentKey::new(), AgentKey::new(), AgentKey::new());
    let relay = checking(&[&alice, &bob, &carol]);
    // Several connections: on both workers, as the kernel likes; one writes other keys.
    let mut receivers: Vec<_> = (0..3).map(|_| Agent::connect(&relay.tcp(), &bob)).collect();
    receivers.push(Agent::connect_with(&relay.tcp(), &bob, Keys::Int));
    let keys = [alice, carol];
    let expected: Vec<_> = (0..ALL / 2).collect();
    // Each on a thread of its own: a receiver that does not read holds those who write to it.
    std::thread::scope(|scope| {
        for key in &keys {
            let (endpoint, bob) = (relay.tcp(), bob.clone());
            scope.spawn(move || {
                let mut sender = Agent::connect(&endpoint, key);
                for n in 0..ALL / 2 {
                    sender.say(typ::MESSAGE, &bob, &json!(n));
                }
                sender.ping();
                assert!(sender.of(typ::ERROR).is_empty(), "{:?}", sender.of(typ::ERROR));
            });
        }
        for mut receiver in receivers {
            let (keys, expected) = (&keys, &expected);
            scope.spawn(move || {
                for key in keys {
                    let has_all = |agent: &Agent| (numbers(agent, key).len() >= expected.len()).then_some(());
                    receiver.wait_for("every message", has_all);
                    assert_eq!(numbers(&receiver, key), *expected);
                }
            });
        }
    });
    assert_eq!(relay.metric("amp_relay_amp_checking"), 0.0);
}

#[test]
fn what_is_checked_for_a_connection_that_has_gone_reaches_nobody_and_is_not_left_behind() {
    let (alice, bob) = (AgentKey::new(), AgentKey::new());
    let relay = checking(&[&alice, &bob]);
    let mut receiver = Agent::connect(&relay.tcp(), &bob);
    for _ in 0..5 {
        let mut sender = Agent::connect(&relay.tcp(), &alice);
        for n in 0..100_u64 {
            sender.say(typ::MESSAGE, &bob, &json!(n));
        }
        sender.vanish();
    }
    until("nothing is being checked", || (relay.metric("amp_relay_amp_checking") == 0.0).then_some(()));
    receiver.ping();
    // What did arrive is what each connection said first.
    let heard = numbers(&receiver, &alice);
    let runs = heard.split(|n| *n == 0).skip(1);
    assert!(runs.clone().count() <= 5);
    for run in runs {
        assert_eq!(run, (1..=run.len() as u64).collect::<Vec<_>>());
    }
    Agent::connect(&relay.tcp(), &alice).ping();
}

#[test]
fn by_default_only_hello_is_checked() {
    let (alice, bob) = (AgentKey::new(), AgentKey::new());
    let relay = Relay::options(&[]).keys(&[alice.line("agent"), bob.line("agent")].concat()).start();
    let mut receiver = Agent::connect(&relay.tcp(), &bob);
    let mut sender = Agent::connect(&relay.tcp(), &alice);
    let draft = sender.draft(typ::MESSAGE, &bob, &json!("forged"));
    sender.send_bytes(&forged(&draft, Keys::Text));
    let message = receiver.wait("the message", |message| message.typ == typ::MESSAGE);
    assert!(message.verify().is_err(), "the receiver can tell");
}

#[test]
fn the_setting_is_shown_and_a_wrong_one_is_refused() {
    let said = Relay::options(&[]).listen("127.0.0.1:0").argument("--amp-verify").argument("some").refused();
    assert!(said.contains("--amp-verify") && said.contains("hello") && said.contains("all"), "{said}");
    let said = Relay::options(&[]).listen("127.0.0.1:0").env("AMP_RELAY_AMP_VERIFY", "none").refused();
    assert!(said.contains("AMP_RELAY_AMP_VERIFY"), "{said}");
    let relay = Relay::options(&[]).start();
    let shown = relay.run(&["config", "show", "--amp-verify", "all"]).ok();
    assert!(
        shown.lines().any(|line| line.starts_with("amp.verify = \"all\"") && line.contains("--amp-verify")),
        "{shown}"
    );
}

/// One refusal of each kind that can name a thread.
#[test]
fn a_refusal_belongs_to_the_thread_of_what_it_refuses() {
    let key = AgentKey::new();
    let relay = Relay::options(&[]).keys(&key.line("agent")).start();
    let mut agent = Agent::dial(&relay.tcp(), &key);
    let early = agent.draft(typ::MESSAGE, &AgentKey::new(), &json!(1)).thread(b"early");
    assert_eq!(agent.refused(&early, 1004).thread_id, early.thread_id);
    let hello = agent.hello();
    agent.send(&hello);
    assert_eq!(agent.answer(&hello.id).typ, typ::HELLO_ACK);
    let to_relay = agent.relay.clone();
    let mut cases = vec![
        (agent.draft(typ::REQUEST, to_relay.as_str(), &json!({"action": "nothing"})), 4001),
        (agent.draft(0x30, to_relay.as_str(), &Value::Null), 1005),
        (Draft { from: AgentKey::new().did, ..agent.draft(typ::MESSAGE, &key, &json!(1)) }, 3001),
        (agent.draft(typ::MESSAGE, &key, &json!(1)).at(1), 1003),
    ];
    // Nobody is here under these DIDs; each has its home on one of the workers.
    cases.extend((0..8).map(|n| (agent.draft(typ::MESSAGE, To::from(&AgentKey::new()), &json!(n)), 2003)));
    for (number, (draft, code)) in cases.into_iter().enumerate() {
        let thread = format!("thread {number}");
        let draft = draft.thread(thread.as_bytes());
        assert_eq!(agent.refused(&draft, code).thread_id.as_deref(), Some(thread.as_bytes()));
        if code == 3001 {
            continue; // The third one of these ends the connection.
        }
        let without = Draft { thread_id: None, ..draft.clone().at(draft.ts) };
        assert_eq!(agent.refused(&without, code).thread_id, None);
    }
}
