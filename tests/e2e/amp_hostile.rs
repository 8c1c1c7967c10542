//! What broken and hostile agents send: each has its documented answer, and nobody else notices.

use serde_json::{Value, json};

use crate::support::{
    self, Agent, AgentKey, Keys, Ward,
    agent::beside,
    amp::{Draft, Message, array, bytes, head, hex, keyed, map, map_as_given, now_ms, text, typ, uint},
    http::frame,
    random::Random,
    until,
};

// --- who sends -------------------------------------------------------------------------------------------------------

#[test]
fn nobody_speaks_for_somebody_else() {
    let ward = Ward::new();
    let mut agent = ward.agent();
    let victim = AgentKey::new();
    for (time, from) in [&ward.healthy.key.did, &victim.did, &agent.relay.clone()].into_iter().enumerate() {
        let mut draft = agent.draft(typ::MESSAGE, &ward.healthy.key, &json!("forged"));
        draft.from = from.clone();
        agent.refused(&draft, 3001);
        if time < 2 {
            agent.ping();
        }
    }
    assert_eq!(agent.wait_closed(), 1008, "the third time is one too many");
    // The name of a name is another name.
    let mut agent = ward.agent();
    for from in [format!("{}x", ward.key.did), ward.key.did[..ward.key.did.len() - 1].to_owned()] {
        let mut draft = agent.draft(typ::MESSAGE, &ward.healthy.key, &json!("forged"));
        draft.from = from;
        agent.refused(&draft, 3001);
    }
    ward.check();
}

// --- what a message is -----------------------------------------------------------------------------------------------

#[test]
fn time_version_and_id_are_checked() {
    let ward = Ward::new();
    let mut agent = ward.agent();
    let healthy = ward.healthy.key.clone();
    let now = now_ms();
    let draft = || Draft::new(typ::MESSAGE, &ward.key, &healthy, &json!("not delivered"));
    let mut other_time = draft();
    other_time.ts += 2_000;
    let cases = [
        ("expired", draft().at(now - 10_000).ttl(5_000), 1003),
        ("of long ago", draft().at(0).ttl(86_400_000), 1003),
        ("now or never, a minute ago", draft().at(now - 60_000).ttl(0), 1003),
        ("from the future", draft().at(now + 60_000), 1003),
        ("from the end of time", draft().at(u64::MAX).ttl(u64::MAX), 1003),
        ("an id of another time", other_time, 1001),
        ("version 2", Draft { v: 2, ..draft() }, 1004),
        ("version 2^64 - 1", Draft { v: u64::MAX, ..draft() }, 1004),
        ("living for ever", draft().ttl(u64::MAX), 2003),
        ("living for a year", draft().ttl(365 * 86_400_000), 2003),
    ];
    for (what, draft, code) in cases {
        agent.send(&draft);
        let error = agent.error(&draft.id);
        assert_eq!(error.body["code"], code, "{what}: {error:?}");
        if code == 1003 {
            let said = error.body["details"]["now"].as_u64().unwrap_or_else(|| panic!("{what}: {error:?}"));
            assert!(said.abs_diff(now) < 60_000, "{what}: the relay's time: {error:?}");
        }
    }
    // A clock that is a little off is forgiven.
    for ts in [now - 20_000, now + 20_000] {
        for ttl in [0, 60_000] {
            let draft = Draft::new(typ::MESSAGE, &ward.key, &ward.key, &json!("in time")).at(ts).ttl(ttl);
            agent.send(&draft);
            agent.wait("the message", |message| message.id == draft.id);
        }
    }
    ward.check();
}

/// A message with its fields changed: `None` takes one out.
fn changed(draft: &Draft, key: &AgentKey, keys: Keys, field: &str, item: Option<Vec<u8>>) -> Vec<u8> {
    let mut fields = draft.signed_fields(key);
    match item {
        Some(item) => fields.iter_mut().filter(|(name, _)| *name == field).for_each(|(_, old)| *old = item.clone()),
        None => fields.retain(|(name, _)| *name != field),
    }
    map_as_given(&keyed(fields, keys))
}

/// Bytes that are no message, whatever they would say.
fn no_messages(message: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let nested = |depth: usize, item: u8| vec![item; depth];
    vec![
        ("nothing", vec![]),
        ("a break", vec![0xff]),
        ("a number", vec![0x00]),
        ("null", vec![0xf6]),
        ("a text", text("hello")),
        ("bytes", bytes(message)),
        ("an array", array(&[uint(1), text("id")])),
        ("an empty map", vec![0xa0]),
        ("a tagged message", [&[0xd9, 0xd9, 0xf7], message].concat()),
        ("a JSON sign-in", br#"{"type":"auth","did":"did:web:a","signature":"","timestamp":1}"#.to_vec()),
        ("JSON", br#"{"v":1}"#.to_vec()),
        ("an indefinite map", [&[0xbf][..], &message[1..], &[0xff]].concat()),
        ("a map of 2^64 - 1 pairs", [head(5, u64::MAX), message[1..].to_vec()].concat()),
        ("a map of 2^32 pairs", [head(5, 1 << 32), message[1..].to_vec()].concat()),
        ("an array of 2^64 - 1 items", head(4, u64::MAX)),
        ("a text of 2^63 bytes", head(3, 1 << 63)),
        ("a key of 2^64 - 1 bytes", [vec![0xa1], head(3, u64::MAX)].concat()),
        ("a reserved head", vec![0xa1, 0x1c]),
        ("maps as keys, without end", nested(100_000, 0xa1)),
        ("arrays without end", nested(100_000, 0x81)),
        ("tags without end", nested(100_000, 0xc1)),
        ("float keys", map_as_given(&[(vec![0xf9, 0x3c, 0x00], uint(1))])),
        ("33 keys", map((0..33).map(|n| (text(&format!("k{n}")), uint(n))).collect())),
        ("keys that are no UTF-8", map_as_given(&[(vec![0x62, 0xc3, 0x28], uint(1))])),
    ]
}

/// Items that a field must not be.
fn wrong_items() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    vec![
        ("v", "a text", text("1")),
        ("v", "negative", vec![0x20]),
        ("v", "a float", vec![0xf9, 0x3c, 0x00]),
        ("v", "a big number", [vec![0xc2], bytes(&[1; 9])].concat()),
        ("v", "in a long form", vec![0x18, 0x01]),
        ("id", "too short", bytes(&[0; 15])),
        ("id", "too long", bytes(&[0; 17])),
        ("id", "a text", text("0123456789abcdef")),
        ("id", "in pieces", [vec![0x5f, 0x50], vec![0; 16], vec![0xff]].concat()),
        ("typ", "a text", text("request")),
        ("typ", "null", vec![0xf6]),
        ("ts", "a text", text("2026-01-01T00:00:00Z")),
        ("ts", "a tagged time", [vec![0xc1], uint(1)].concat()),
        ("ttl", "negative", vec![0x38, 0x63]),
        ("from", "null", vec![0xf6]),
        ("from", "bytes", bytes(b"did:key:z6Mk")),
        ("from", "no UTF-8", vec![0x62, 0xff, 0xfe]),
        ("from", "longer than the message", head(3, 1 << 40)),
        ("to", "an empty array", vec![0x80]),
        ("to", "an array of numbers", array(&[uint(1)])),
        ("to", "an array of arrays", array(&[array(&[text("did:web:a")])])),
        ("to", "an indefinite array", vec![0x9f, 0x61, b'a', 0xff]),
        ("to", "an array of 2^40", head(4, 1 << 40)),
        ("to", "null", vec![0xf6]),
        ("reply_to", "null", vec![0xf6]),
        ("reply_to", "a text", text("x")),
        ("thread_id", "null", vec![0xf6]),
        ("sig", "too short", bytes(&[0; 63])),
        ("sig", "null", vec![0xf6]),
        ("body", "an indefinite map", vec![0xbf, 0xff]),
        ("body", "an indefinite text", vec![0x7f, 0x61, b'a', 0xff]),
        ("body", "nested without end", [vec![0x81; 50_000], vec![0x00]].concat()),
        ("body", "nested maps without end", [vec![0xa1; 50_000], vec![0x00]].concat()),
        ("body", "a bare break", vec![0xff]),
        ("body", "a reserved simple value", vec![0xf8, 0x10]),
        ("body", "text that is no UTF-8", vec![0x61, 0xff]),
        ("ext", "an array", vec![0x80]),
        ("ext", "null", vec![0xf6]),
    ]
}

/// The relay answers with 1001; the connection stays. `id` is what an answer may name, if anything.
#[track_caller]
fn malformed(agent: &mut Agent, what: &str, frame: &[u8], id: Option<&[u8]>) -> Message {
    let before = agent.of(typ::ERROR).len();
    agent.send_bytes(frame);
    let error = agent.wait_for(&format!("an answer to {what}: {:.200}", hex(frame)), |agent| {
        agent.of(typ::ERROR).get(before).map(|&error| error.clone())
    });
    agent.assert_error(&error);
    assert_eq!(error.body["code"], 1001, "{what}: {error:?}");
    if let Some(named) = &error.reply_to {
        assert_eq!(Some(named.as_slice()), id, "{what}: it names the message or nothing: {error:?}");
    }
    error
}

#[test]
fn what_is_no_message_is_refused_and_the_connection_stays() {
    let ward = Ward::new();
    let mut agent = ward.agent();
    let draft = agent.draft(typ::MESSAGE, &ward.healthy.key, &json!("not delivered"));
    for (what, frame) in no_messages(&draft.signed(&ward.key, Keys::Text)) {
        let error = malformed(&mut agent, what, &frame, None);
        assert_eq!(error.reply_to, None, "{what}: no id was to be read");
        agent.ping();
    }
    ward.check();
}

#[test]
fn fields_of_a_wrong_kind_are_refused() {
    let ward = Ward::new();
    for keys in [Keys::Text, Keys::Int] {
        let mut agent = Agent::connect_with(&ward.relay.tcp(), &ward.key, keys);
        for (field, what, item) in wrong_items() {
            let mut draft = agent.draft(typ::MESSAGE, &ward.healthy.key, &json!("not delivered"));
            draft = draft.thread(b"thread").reply_to(&[1; 16]);
            draft.ext = Some(vec![0xa0]);
            let frame = changed(&draft, &ward.key, keys, field, Some(item));
            let error = malformed(&mut agent, &format!("{field} that is {what}"), &frame, Some(&draft.id));
            // `v` and `id` come first here: what is wrong after them is answered by name.
            let named = !["v", "id"].contains(&field);
            assert_eq!(error.answers(&draft.id), named, "{field} that is {what}: {error:?}");
        }
        agent.ping();
    }
    ward.check();
}

#[test]
fn every_field_that_must_be_there_is_missed() {
    let ward = Ward::new();
    for (keys, required) in [
        (Keys::Text, &["v", "id", "typ", "ts", "ttl", "from", "to", "sig", "body"][..]),
        (Keys::Int, &["v", "id", "typ", "ts", "ttl", "from", "to"][..]),
    ] {
        let mut agent = Agent::connect_with(&ward.relay.tcp(), &ward.key, keys);
        for field in required {
            let draft = agent.draft(typ::MESSAGE, &ward.healthy.key, &json!("not delivered"));
            let frame = changed(&draft, &ward.key, keys, field, None);
            let error = malformed(&mut agent, &format!("no {field}"), &frame, Some(&draft.id));
            assert_eq!(error.answers(&draft.id), *field != "id", "{error:?}");
        }
        agent.ping();
    }
    ward.check();
}

#[test]
fn what_two_readers_could_read_in_two_ways_is_refused() {
    let ward = Ward::new();
    let mut agent = ward.agent();
    let draft = agent.draft(typ::MESSAGE, &ward.healthy.key, &json!("not delivered"));
    let pairs = || keyed(draft.signed_fields(&ward.key), Keys::Text);
    let with = |pair: (Vec<u8>, Vec<u8>)| {
        let mut all = pairs();
        all.push(pair);
        map_as_given(&all)
    };
    let whole = map_as_given(&pairs());
    let double = text("x");
    let mut twice_unknown = pairs();
    twice_unknown.extend([(double.clone(), uint(1)), (double, uint(2))]);
    let cases = [
        ("`to` twice", with((text("to"), text(&ward.key.did)))),
        ("`from` twice", with((text("from"), text(&ward.healthy.key.did)))),
        ("`id` twice", with((text("id"), bytes(&draft.id)))),
        ("an unknown key twice", map_as_given(&twice_unknown)),
        ("an integer among text keys", with((uint(7), text(&ward.key.did)))),
        ("body and enc", with((text("enc"), vec![0xa0]))),
        ("two messages in one", [whole.clone(), whole.clone()].concat()),
        ("a byte behind it", [whole.clone(), vec![0x00]].concat()),
        ("a key in a long form", with((vec![0x78, 0x01, b'x'], uint(1)))),
        ("a cut one", whole[..whole.len() - 1].to_vec()),
    ];
    for (what, frame) in cases {
        malformed(&mut agent, what, &frame, Some(&draft.id));
        agent.ping();
    }
    for length in 0..whole.len() {
        malformed(&mut agent, "a cut one", &whole[..length], Some(&draft.id));
    }
    agent.ping();
    ward.check();
}

#[test]
fn messages_of_older_relays_are_refused() {
    let ward = Ward::new();
    let observed: Value = serde_json::from_str(include_str!("../data/amp/go-relay-observed.json")).expect("JSON");
    for observed in observed["frames"].as_array().expect("frames") {
        let what = observed["what"].as_str().unwrap_or_default();
        let mut agent = ward.agent();
        agent.send_bytes(&support::amp::unhex(observed["hex"].as_str().expect("bytes")));
        let error = agent.next(what);
        agent.assert_error(&error);
        // A text for an id is another protocol; the newer one is read, and is somebody else's, if not old by now.
        let codes = if observed["dialect"] == "legacy-string-v0" { [1001; 2] } else { [1003, 3001] };
        assert!(codes.iter().any(|code| error.body["code"] == *code), "{what}: {error:?}");
        agent.ping();
    }
    ward.check();
}

#[test]
fn damaged_messages_do_no_damage() {
    const ROUNDS: usize = 300;
    let seed = u64::from_be_bytes(support::keys::seed()[..8].try_into().expect("8 bytes"));
    println!("seed {seed}");
    let mut random = Random(seed);
    let ward = Ward::new();
    let mut agent = ward.agent();
    for _ in 0..ROUNDS {
        if agent.closed.is_some() {
            agent = ward.agent();
        }
        let draft = agent.draft(typ::REQUEST, agent.relay.clone().as_str(), &json!({"action": "echo", "n": [1, "x"]}));
        let mut frame = draft.signed(&ward.key, if random.below(2) == 0 { Keys::Text } else { Keys::Int });
        for _ in 0..=random.below(3) {
            let at = random.below(frame.len());
            match random.below(4) {
                0 => frame[at] ^= 1 << random.below(8),
                1 => frame[at] = u8::try_from(random.below(256)).expect("a byte"),
                2 => drop(frame.remove(at)),
                _ => frame.insert(at, u8::try_from(random.below(256)).expect("a byte")),
            }
        }
        // Legal, and echoed as it came, but the reader of these tests knows no simple values beyond four.
        if matches!(Message::read(&frame), Err(error) if error.contains("simple")) {
            continue;
        }
        agent.send_bytes(&frame);
        // Its own PONG, or the close that a third foreign name earns.
        let ping = agent.say(typ::PING, agent.relay.clone().as_str(), &Value::Null);
        while let Some(message) = agent.next_or_end("the PONG") {
            message.assert_well_made();
            if message.typ == typ::PONG && message.answers(&ping) {
                break;
            }
        }
        assert!(agent.closed.as_ref().is_none_or(|(code, _)| *code == 1008), "{:?}", agent.closed);
    }
    ward.check();
}

// --- the transport ---------------------------------------------------------------------------------------------------

#[test]
fn a_text_frame_ends_the_connection() {
    let ward = Ward::new();
    for mut agent in [ward.dial(), ward.agent()] {
        agent.send_text("{\"type\": \"hello\"}");
        assert_eq!(agent.wait_closed(), 1003);
    }
    ward.check();
}

#[test]
fn the_size_that_is_promised_is_the_size_that_is_taken() {
    let ward = Ward::new();
    let mut agent = ward.agent();
    let largest = |size: usize| {
        let with = |filler: usize| {
            let mut draft = Draft::new(typ::MESSAGE, &ward.key, &ward.key, &Value::Null);
            draft.body = bytes(&vec![0x5a; filler]);
            draft.signed(&ward.key, Keys::Text)
        };
        let rest = with(100_000).len() - 100_000;
        with(size - rest)
    };
    let fits = largest(agent.message_bytes);
    assert_eq!(fits.len(), 1_048_576);
    agent.send_bytes(&fits);
    assert!(agent.next("the largest message").bytes == fits, "byte for byte");
    let mut pieces = agent;
    pieces.write_raw(&frame(0x02, true, &fits[..1000]));
    pieces.write_raw(&frame(0x00, true, &fits[1000..700_000]));
    pieces.write_raw(&frame(0x89, true, b"in between"));
    pieces.write_raw(&frame(0x80, true, &fits[700_000..]));
    assert!(pieces.next("the message in pieces").bytes == fits, "byte for byte");
    pieces.send_bytes(&largest(1_048_577));
    assert_eq!(pieces.wait_closed(), 1009);
    // By its header alone, before HELLO as after it, and in pieces too.
    for mut agent in [ward.dial(), ward.agent()] {
        agent.write_raw(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(agent.wait_closed(), 1009);
    }
    let mut agent = ward.agent();
    agent.write_raw(&frame(0x02, true, &fits[..1_000_000]));
    agent.write_raw(&frame(0x80, true, &fits[..100_000]));
    assert_eq!(agent.wait_closed(), 1009);
    ward.check();
}

#[test]
fn broken_frames_end_the_connection() {
    let ward = Ward::new();
    let cases = [
        ("no mask", frame(0x82, false, b"x")),
        ("a reserved bit", frame(0xc2, true, b"x")),
        ("a reserved opcode", frame(0x83, true, b"x")),
        ("a piece of nothing", frame(0x80, true, b"x")),
    ];
    for (what, bytes) in cases {
        for mut agent in [ward.dial(), ward.agent()] {
            agent.write_raw(&bytes);
            assert_eq!(agent.wait_closed(), 1002, "{what}");
        }
    }
    ward.check();
}

/// A reader that does not read, and one who will write to it, on one worker or on two.
fn deaf_and_talker(ward: &Ward, together: bool) -> (Agent, Agent) {
    let mut deaf = ward.agent();
    let talker = beside(&ward.relay, &mut deaf, together, &ward.healthy.key, Keys::Text);
    deaf.skip();
    (deaf, talker)
}

#[test]
fn a_reader_that_is_late_holds_its_writer_back_and_nobody_else() {
    for together in [true, false] {
        is_held_back_and_nobody_else(together);
    }
}

fn is_held_back_and_nobody_else(together: bool) {
    const MESSAGES: u64 = 40;
    let ward = Ward::new();
    let (mut late, mut talker) = deaf_and_talker(&ward, together);
    let key = ward.key.clone();
    std::thread::scope(|scope| {
        let writes = scope.spawn(move || {
            let filler = "x".repeat(500_000);
            for n in 0..MESSAGES {
                talker.say(typ::MESSAGE, &key, &json!({"n": n, "filler": filler}));
            }
            talker.ping();
            talker
        });
        until("there is more than the reader takes", || {
            let stats = ward.relay.stats();
            let queues = stats["workers"].as_array()?.iter().filter_map(|worker| worker["queue_bytes"].as_u64());
            (queues.sum::<u64>() > 0).then_some(())
        });
        let mut others: Vec<_> = (0..6).map(|_| Agent::connect(&ward.relay.tcp(), &ward.healthy.key)).collect();
        others.iter_mut().for_each(Agent::ping);
        for n in 0..MESSAGES {
            assert_eq!(late.next("the next message").body["n"], n, "in order, none lost");
        }
        let talker = writes.join().expect("the writer ends");
        assert!(talker.of(typ::ERROR).is_empty(), "{:?}", talker.of(typ::ERROR));
    });
    ward.no_panic();
}
