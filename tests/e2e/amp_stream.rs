//! Streams of messages from one agent to another, on the same worker or on another, each judged by itself: the relay knows the next
//! message of a stream by what it has in common with the one before, and nobody may tell by what it does.

use serde_json::json;

use crate::support::{
    Agent, AgentKey, Keys, Relay,
    agent::{beside, wait_alone},
    amp::{Draft, now_ms, typ},
    until,
};

const DAY_MS: u64 = 86_400_000;

/// A relay, a sender, and a receiver on the sender's worker or on the other one.
fn pair(keys: Keys, together: bool) -> (Relay, Agent, Agent) {
    let (one, two) = (AgentKey::new(), AgentKey::new());
    let relay = Relay::options(&[]).keys(&[one.line("agent"), two.line("agent")].concat()).start();
    let mut sender = Agent::connect(&relay.tcp(), &one);
    let receiver = beside(&relay, &mut sender, together, &two, keys);
    wait_alone(&mut sender, &two);
    (relay, sender, receiver)
}

/// Sends so many messages in one write, and says what was written.
fn burst(sender: &mut Agent, receiver: &AgentKey, from: u64, count: u64) -> Vec<Vec<u8>> {
    let frames: Vec<_> = (from..from + count)
        .map(|n| sender.draft(typ::MESSAGE, receiver, &json!({"n": n, "filler": "x".repeat(n as usize * 7 % 90)})))
        .map(|draft| draft.signed(&sender.key, Keys::Text))
        .collect();
    frames.iter().for_each(|frame| sender.queue(frame));
    sender.flush();
    frames
}

#[track_caller]
fn arrive(receiver: &mut Agent, sent: &[Vec<u8>]) {
    for (n, frame) in sent.iter().enumerate() {
        let message =
            receiver.wait_for("a message of the stream", |agent| agent.of(typ::MESSAGE).get(n).cloned().cloned());
        assert_eq!(&message.bytes, frame, "message {n}");
    }
    assert_eq!(receiver.of(typ::MESSAGE).len(), sent.len());
}

#[test]
fn a_message_within_a_stream_is_judged_by_itself() {
    judged(true);
    judged(false);
}

fn judged(together: bool) {
    let (_relay, mut sender, mut receiver) = pair(Keys::Text, together);
    let key = receiver.key.clone();
    let stranger = AgentKey::new();
    let now = now_ms();
    let mut sent = burst(&mut sender, &key, 0, 20);
    let draft = |sender: &Agent| sender.draft(typ::MESSAGE, &key, &json!({"n": 0}));
    let wrong_id = |sender: &Agent| Draft { ts: now - 5_000, ..draft(sender) };
    let foreign = |sender: &Agent| Draft { from: stranger.did.clone(), ..draft(sender) };
    let judged: [(u64, Draft); 5] = [
        (1003, draft(&sender).at(now - 2 * DAY_MS)),
        (1003, draft(&sender).at(now + DAY_MS)),
        (1001, wrong_id(&sender)),
        (3001, foreign(&sender)),
        (2003, draft(&sender).ttl(400 * DAY_MS)),
    ];
    for (n, (code, draft)) in judged.into_iter().enumerate() {
        // In one write with what comes before and behind it: the relay reads them together.
        let from = 20 + 10 * n as u64;
        sender.queue(&draft.signed(&sender.key, Keys::Text));
        sent.extend(burst(&mut sender, &key, from, 10));
        let error = sender.error(&draft.id);
        assert_eq!(error.body["code"], code, "{error:?}");
    }
    arrive(&mut receiver, &sent);
}

#[test]
fn what_is_no_message_within_a_stream_is_refused() {
    refused(true);
    refused(false);
}

fn refused(together: bool) {
    let (_relay, mut sender, mut receiver) = pair(Keys::Text, together);
    let key = receiver.key.clone();
    let mut sent = burst(&mut sender, &key, 0, 20);
    let good = sender.draft(typ::MESSAGE, &key, &json!([1, 2])).signed(&sender.key, Keys::Text);
    // The body is an array of two: one that says three, one that never ends, and one with a byte too many.
    let body = good.windows(3).position(|bytes| bytes == [0x82, 1, 2]).expect("the body");
    for head in [0x83, 0x9f, 0x81] {
        let mut bad = good.clone();
        bad[body] = head;
        sender.queue(&bad);
        sent.extend(burst(&mut sender, &key, 1, 3));
    }
    until("three errors", || {
        sender.ping();
        (sender.of(typ::ERROR).len() == 3).then_some(())
    });
    assert!(sender.of(typ::ERROR).iter().all(|error| error.is_error(1001)), "{:?}", sender.of(typ::ERROR));
    arrive(&mut receiver, &sent);
}

#[test]
fn a_stream_goes_where_its_receiver_is() {
    moved(true);
    moved(false);
}

fn moved(together: bool) {
    let (relay, mut sender, mut receiver) = pair(Keys::Text, together);
    let key = receiver.key.clone();
    let sent = burst(&mut sender, &key, 0, 20);
    arrive(&mut receiver, &sent);
    // One more connection of the same agent, wherever it is: both get what is sent from now on.
    let mut second = Agent::connect(&relay.tcp(), &key);
    second.ping();
    let more = burst(&mut sender, &key, 20, 20);
    arrive(&mut receiver, &[sent, more.clone()].concat());
    arrive(&mut second, &more);
    second.close();
    receiver.vanish();
    until("nobody is there", || {
        burst(&mut sender, &key, 0, 5);
        sender.ping();
        sender.of(typ::ERROR).iter().any(|error| error.is_error(2003)).then_some(())
    });
    let mut back = Agent::connect(&relay.tcp(), &key);
    back.ping();
    let sent = burst(&mut sender, &key, 0, 20);
    arrive(&mut back, &sent);
}

#[test]
fn a_receiver_with_integer_keys_gets_a_stream_in_its_keys() {
    rekeyed(true);
    rekeyed(false);
}

fn rekeyed(together: bool) {
    let (_relay, mut sender, mut receiver) = pair(Keys::Int, together);
    let key = receiver.key.clone();
    burst(&mut sender, &key, 0, 40);
    let last = receiver.wait_for("all of the stream", |agent| agent.of(typ::MESSAGE).get(39).cloned().cloned());
    assert_eq!(last.body["n"], 39);
    let of_stream = receiver.of(typ::MESSAGE);
    assert!(of_stream.iter().enumerate().all(|(n, message)| message.body["n"] == n as u64));
    of_stream.iter().for_each(|message| message.assert_well_made());
}
