//! Who floods the relay gets everything that is due to it, and nobody else waits for that.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    Agent, AgentKey, Device, Key, Relay, SignIn,
    amp::{Draft, To, typ},
    device::text,
    standin::{Scene, says},
};

/// Strangers who name a key that is listed, of the kind that takes longest to check, and do not have it: they keep the
/// thread that checks signatures busy for seconds.
fn strangers(relay: &Relay, listed: &Key) -> Vec<Device> {
    let signature = listed.sign("sign-in@amp-relay", b"another text");
    (0..60).map(|_| SignIn::new(listed).ask(&relay.tcp(), Some(&signature)).0).collect()
}

/// A relay that knows these keys, and a slow one.
fn relay(owner: &Key, agents: &[&AgentKey]) -> (Relay, Key) {
    let options = Relay::options(&[owner]);
    let slow = Key::ssh_keygen(options.scratch.root(), "ecdsa", 521);
    let agents: String = agents.iter().map(|key| key.line("agent")).collect();
    let relay = options.keys(&(agents + &slow.line("amp-role=\"watch\""))).start();
    (relay, slow)
}

#[test]
fn b3_every_message_that_nobody_gets_is_told_to_its_sender() {
    const MESSAGES: usize = 3_000;
    let (key, absent) = (AgentKey::new(), AgentKey::new());
    let (relay, slow) = relay(&Key::new("owner"), &[&key]);
    let mut agent = Agent::connect(&relay.tcp(), &key);
    let drafts: Vec<_> = (0..MESSAGES).map(|_| agent.draft(typ::MESSAGE, &absent, &json!("lost"))).collect();
    let frames: Vec<_> = drafts.iter().map(|draft| draft.signed(&key, agent.keys)).collect();
    let strangers = strangers(&relay, &slow);
    // Faster than answers are signed.
    frames.iter().for_each(|frame| agent.queue(frame));
    agent.flush();
    let told = agent.wait_for("an ERROR for each", |agent| {
        let errors = agent.of(typ::ERROR);
        (errors.len() >= MESSAGES).then(|| errors.iter().filter_map(|error| error.reply_to.clone()).collect::<Vec<_>>())
    });
    let mut told = told;
    let mut sent: Vec<_> = drafts.iter().map(|draft| draft.id.to_vec()).collect();
    told.sort();
    sent.sort();
    assert!(told == sent, "each is told once");
    drop(strangers);
}

#[test]
fn b3_a_flood_of_what_the_relay_answers_keeps_nobody_out() {
    const BURST: usize = 3_000;
    let (owner, flooder, other) = (Key::new("owner"), AgentKey::new(), AgentKey::new());
    let (relay, slow) = relay(&owner, &[&flooder, &other]);
    let strangers = strangers(&relay, &slow);
    let (relay, is_over) = (&relay, &AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            let mut agent = Agent::connect(&relay.tcp(), &flooder);
            let to_relay = agent.relay.clone();
            scope.spawn(move || {
                // The relay does not check what it answers; signing costs it more than this.
                let frame =
                    Draft::new(typ::PING, &agent.key, to_relay.as_str(), &Value::Null).signed(&agent.key, agent.keys);
                while !is_over.load(Ordering::Relaxed) && agent.closed.is_none() {
                    let wanted = agent.seen.len() + BURST;
                    (0..BURST).for_each(|_| agent.queue(&frame));
                    agent.flush();
                    agent.wait_for("all answers", |agent| (agent.seen.len() >= wanted).then_some(()));
                }
            });
        }
        for _ in 0..5 {
            Agent::connect(&relay.tcp(), &other).ping();
            SignIn::new(&owner).connect(&relay.tcp()).expect("welcome by TCP").ping();
            SignIn::new(&owner).connect(&relay.unix()).expect("welcome by the Unix socket").ping();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    drop(strangers);
    assert!(!relay.log().contains("dropped"), "{}", relay.log());
}

/// A connection that is not read for a while is read again for a few messages only: what is read of it must not pile up.
#[test]
fn what_is_read_of_a_connection_that_is_held_back_has_a_bound() {
    const PINGS: usize = 16_000;
    const KEPT_MAX: f64 = 1_500_000.0;
    let key = AgentKey::new();
    let relay = Relay::options(&[]).keys(&key.line("agent")).start();
    let mut agent = Agent::connect(&relay.tcp(), &key);
    let to_relay = agent.relay.clone();
    let body = json!("x".repeat(200));
    let frame = Draft::new(typ::PING, &agent.key, to_relay.as_str(), &body).signed(&agent.key, agent.keys);
    (0..PINGS).for_each(|_| agent.queue(&frame));
    assert!(PINGS * frame.len() > 3 * KEPT_MAX as usize);
    agent.flush();
    let mut most: f64 = 0.0;
    for part in 1..=16 {
        most = most.max(relay.metric("amp_relay_kept_bytes"));
        agent.wait_for("the next answers", |agent| (agent.seen.len() >= part * PINGS / 16).then_some(()));
    }
    assert!(most < KEPT_MAX, "{most} bytes of one connection");
}

#[test]
fn a_message_that_is_sent_again_is_answered_again() {
    let (key, absent, other) = (AgentKey::new(), AgentKey::new(), AgentKey::new());
    let relay = Relay::options(&[]).keys(&key.line("agent")).start();
    let mut agent = Agent::connect(&relay.tcp(), &key);
    for to in [To::from(&absent), To::many(&[&absent, &other, &absent])] {
        let draft = agent.draft(typ::MESSAGE, to, &json!("lost"));
        for _ in 0..3 {
            agent.seen.clear();
            agent.send(&draft);
            agent.wait("its ERROR", |message| message.typ == typ::ERROR && message.answers(&draft.id));
            // What another worker has to say of it comes before this does.
            agent.ping();
            agent.refused(&agent.draft(typ::MESSAGE, &absent, &Value::Null), 2003);
            agent.refused(&agent.draft(typ::MESSAGE, &other, &Value::Null), 2003);
            let errors = agent.seen.iter().filter(|message| message.answers(&draft.id));
            let count = errors.count();
            // Of several, what another worker says late comes in an ERROR of its own.
            assert!(count == 1 || count == 2 && matches!(draft.to, To::Many(_)), "{count} for one message");
        }
    }
}

/// A key that may only watch asks for large answers and reads none: what the owner does in the meantime goes between them.
#[test]
fn a_watcher_that_asks_for_much_keeps_the_owner_from_nothing() {
    const CONNECTIONS: usize = 4;
    /// So many commands of a connection are read while it is owed their answers.
    const EACH: usize = 64;
    const EVENTS: usize = 2_000;
    /// What one connection's queue takes of them all.
    const TAIL: usize = 250_000;
    let watcher = Key::new("watcher");
    let mut scene = Scene::of(Relay::options(&[]).workers(1), &watcher.line("amp-role=\"watch\""));
    let session = scene.session.clone();
    let lines: String = (0..EVENTS).map(|n| says(&format!("m{n}"), "x") + "\n").collect();
    scene.standin.write("lines", &lines);
    scene.standin.does("much", &["@cat lines".into()]);
    let prompt = scene.laptop.prompt(&session, "much");
    scene.laptop.turn(&session, &prompt);
    scene.standin.does("waits", &["@wait".into()]);

    let connect = |_| SignIn::new(&watcher).connect(&scene.relay.tcp()).expect("it may watch");
    let mut flooders: Vec<Device> = (0..CONNECTIONS).map(connect).collect();
    let mut owner = Device::connect(&scene.relay, &scene.owner, "phone");
    let attach = json!({"session": session, "tail": {"bytes": TAIL}});
    let ids: Vec<Vec<String>> = flooders
        .iter_mut()
        .map(|flooder| (0..EACH).map(|_| flooder.start("attach", attach.clone())).collect())
        .collect();
    owner.attach(&session);
    // Each is sent when the one before is answered: neither may wait for the flood.
    let mut newest = 0;
    for n in 0..3 {
        let reply = owner.ok("prompt", json!({"session": session, "text": format!("waits {n}")}));
        newest = reply["position"]["offset"].as_u64().expect("where it stands");
    }
    owner.ok("interrupt", json!({"session": session, "cancel_queued": true}));

    let mut before = 0;
    for (flooder, ids) in flooders.iter_mut().zip(&ids) {
        for id in ids {
            let answer = flooder.answer(id).expect("it may watch");
            assert!(text(&answer["type"]) == "reply" && answer["events"].as_array().is_some_and(|all| all.len() > 200));
            before += usize::from(answer["next"]["offset"].as_u64().expect("where it goes on") <= newest);
        }
    }
    assert!(before < CONNECTIONS * EACH / 2, "{before} answers of the flood went before those to the owner");
}
