//! Who floods the relay gets everything that is due to it, and nobody else waits for that.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    Agent, AgentKey, Device, Key, Relay, SignIn,
    amp::{Draft, To, typ},
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
