//! What the relay says to those that come and to those that ask, until when it waits for them, and what is left of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Lets no other stranger's job wait in this lane.
fn fill(worker: &mut Worker, lane: Lane) {
    let job = || Job::Reload { peer: ConnToken::new(0, 9_999, 1), id: "1".into() };
    while worker.delivery.lanes.ask(lane, job()) {}
}

#[test]
fn a_stranger_has_until_its_deadline_whenever_its_timeout_comes() {
    let mut worker = worker();
    let token = worker.opens(1);
    let deadline = worker.net.conn(token).agent.as_ref().and_then(Agent::deadline);
    assert!(deadline.is_some_and(|at| at > NOW.mono_ms));
    assert_eq!(worker.net.conn(token).timeout_at, deadline);
    worker.passes(1, token);
    assert_eq!((worker.net.conn(token).closed, worker.net.conn(token).timeout_at), (None, deadline));
    worker.waits(token);
    assert_eq!(worker.net.conn(token).closed, Some(CloseCode::POLICY));
    assert!(worker.net.conn(token).agent.as_ref().is_some_and(Agent::ignores_input));
    assert_eq!((worker.counters.sign_in_failures.get(), worker.counters.agents.get()), (1, 0));
    worker.goes(token);
    assert_eq!(worker.counters.agents.get(), 0);
}

#[test]
fn a_hello_of_a_clock_that_is_ahead_waits_for_ours_and_its_deadline_goes_on() {
    let mut worker = worker();
    let token = worker.opens(1);
    let deadline = worker.net.conn(token).timeout_at;
    worker.says(token, &key(1).hello(RELAY, NOW.unix_ms + 700, KeyEncoding::Text));
    assert_eq!(worker.net.conn(token).timeout_at, Some(NOW.mono_ms + 700));
    assert!(worker.delivery.lanes.next_job().is_none(), "another process could take it once more");
    worker.waits(token);
    assert!(matches!(worker.delivery.lanes.next_job(), Some((Lane::Strangers, Job::Hello(_)))));
    assert_eq!((worker.net.conn(token).timeout_at, worker.net.conn(token).closed), (deadline, None));
    worker.waits(token);
    assert_eq!(worker.net.conn(token).closed, Some(CloseCode::POLICY), "the answer was lost");
}

#[test]
fn a_stranger_that_is_to_be_closed_behind_an_answer_has_no_more_time_than_before() {
    let mut worker = worker();
    let token = worker.opens(1);
    let deadline = worker.net.conn(token).timeout_at;
    let message = key(1).message(Type::MESSAGE, &["did:key:zB"], cbor::NULL);
    for strike in 1..=3 {
        worker.says(token, &message);
        let job = worker.delivery.lanes.next_job();
        let Some((Lane::Strangers, Job::Reply(reply))) = job else {
            panic!("an answer among those of strangers: {job:?}")
        };
        assert_eq!((reply.via, reply.close.is_some()), (ReplyTo::Connection(token), strike == 3));
        assert_eq!(worker.net.conn(token).timeout_at, deadline);
        let signed = Signed { via: reply.via, lane: Lane::Strangers, frame: b"no".to_vec(), close: reply.close };
        worker.delivery.signed(signed, &mut worker.net);
    }
    let conn = worker.net.conn(token);
    assert_eq!((conn.sent.len(), conn.closed), (3, Some(CloseCode::POLICY)));
}

#[test]
fn strangers_for_which_there_is_no_room_are_told_to_come_again() {
    let mut worker = worker();
    fill(&mut worker, Lane::Strangers);
    let (late, rude) = (worker.opens(1), worker.opens(2));
    worker.wants_in(late, &key(1));
    worker.says(rude, &key(2).message(Type::MESSAGE, &["did:key:zB"], cbor::NULL));
    for token in [late, rude] {
        assert_eq!(worker.net.conn(token).closed, Some(CloseCode::TRY_AGAIN));
    }
    let local = worker.opens_on(3, true);
    worker.wants_in(local, &key(3));
    assert_eq!(worker.net.conn(local).closed, None);
    // A name of any length gets no answer at all.
    let nameless = worker.opens(4);
    let from = format!("did:web:{}", "a".repeat(2_000));
    worker.says(nameless, &key(1).message_from(&from, Type::MESSAGE, To::One("did:key:zB"), cbor::NULL));
    assert_eq!(worker.net.conn(nameless).closed, Some(CloseCode::POLICY));
}

#[test]
fn any_number_of_strangers_are_let_in_or_answered_one_after_another() {
    let mut worker = worker();
    for slot in 1..=40 {
        worker.joins(slot, &key(slot as u8), Role::Agent);
        let rude = worker.opens(100 + slot);
        worker.says(rude, &key(1).message(Type::MESSAGE, &["did:key:zB"], cbor::NULL));
        let Some((lane, Job::Reply(reply))) = worker.delivery.lanes.next_job() else { panic!("an answer") };
        let signed = Signed { via: reply.via, lane, frame: b"no".to_vec(), close: None };
        worker.delivery.signed(signed, &mut worker.net);
        assert_eq!(worker.net.conn(rude).sent, [b"no"]);
    }
    assert_eq!(worker.counters.agents.get(), 40);
}

#[test]
fn each_outcome_of_a_hello_is_said_and_only_a_proof_for_which_there_is_room_lets_in() {
    let refused = Some((CloseCode::POLICY, "no"));
    // (a proof, a close behind the answer, room, the DID is a session's; the close, the answer)
    for (proves, close, has_room, is_taken, closed, is_told) in [
        (true, None, true, false, None, true),
        (false, None, true, false, None, true),
        (true, refused, true, false, Some(CloseCode::POLICY), true),
        (true, None, false, false, Some(CloseCode::TRY_AGAIN), false),
        (true, None, true, true, Some(CloseCode::TRY_AGAIN), false),
    ] {
        let (mut worker, key) = (worker(), key(1));
        if is_taken {
            worker.delivery.session("s".into(), &key.did);
        }
        worker.net.has_room = has_room;
        let token = worker.opens(1);
        worker.greets(token, &key);
        let deadline = worker.net.conn(token).timeout_at;
        let principal = Principal { did: key.did.clone(), fingerprint: "SHA256:x".into(), role: Role::Agent };
        let judged = Judged { principal: proves.then_some(principal), answer: b"answer".to_vec(), close };
        worker.delivery.judged(token, Lane::Strangers, Some(judged), &mut worker.net);
        let is_in = proves && closed.is_none();
        assert_eq!(worker.counters.agents.get(), u64::from(is_in));
        assert_eq!(worker.counters.sign_in_failures.get(), u64::from(close.is_some()));
        let conn = worker.net.conn(token);
        assert_eq!((conn.closed, conn.sent.len(), conn.is_paused), (closed, usize::from(is_told), closed.is_some()));
        assert_eq!(conn.timeout_at, deadline.filter(|_| !is_in));
        let agent = conn.agent.as_ref().expect("an agent");
        assert_eq!(agent.principal().is_some(), is_in);
        assert_eq!(agent.ignores_input(), closed.is_some());
        assert_eq!(worker.delivery.directory.did_of(token).is_some(), is_in, "what is closed is not counted on");
    }
}

#[test]
fn a_connection_that_another_worker_turns_away_is_told_to_come_again() {
    let mut workers = workers(2);
    // A session that this worker does not know of yet, with a DID that the other one is home of.
    let key = (1..)
        .map(key)
        .find(|key| workers[0].delivery.directory.route(&key.did) != crate::relay::directory::Route::Absent);
    let key = key.expect("one");
    workers[1].delivery.session("s".into(), &key.did);
    let token = workers[0].joins(1, &key, Role::Agent);
    carry(&mut workers, None);
    let conn = workers[0].net.conn(token);
    assert_eq!((conn.closed, conn.sent.len()), (Some(CloseCode::TRY_AGAIN), 0));
    assert!(conn.agent.as_ref().is_some_and(Agent::ignores_input));
}

#[test]
fn what_was_signed_goes_where_it_is_for() {
    let mut worker = worker();
    let [one, other, asker] =
        [1, 2, 3].map(|slot| worker.joins(slot, &key(if slot == 3 { 3 } else { 1 }), Role::Agent));
    let frame = key(9).message(Type::RESPONSE, &[&key(1).did], cbor::NULL);
    let signed = |worker: &mut Worker, via, frame: &[u8], close| {
        let signed = Signed { via, lane: Lane::Admitted, frame: frame.to_vec(), close };
        worker.delivery.signed(signed, &mut worker.net);
    };
    signed(&mut worker, ReplyTo::Did { worker: 0 }, &frame, None);
    for token in [one, other] {
        let sent = &worker.net.conn(token).sent;
        assert_eq!((sent.len(), sent.last()), (2, Some(&frame)), "each connection of the DID");
    }
    assert_eq!(worker.net.conn(asker).sent.len(), 1);
    let to_asker = ReplyTo::Connection(asker);
    signed(&mut worker, to_asker, b"", None);
    assert_eq!(worker.net.conn(asker).sent.len(), 1, "it cannot be written");
    for (is_high, is_blocked) in [(true, false), (false, true), (true, true)] {
        (worker.net.conn(asker).is_high, worker.net.conn(asker).is_blocked) = (is_high, is_blocked);
        signed(&mut worker, to_asker, b"yes", None);
        assert_eq!(worker.net.conn(asker).is_paused, is_high && is_blocked, "it asks for more than it takes");
        worker.drains(asker);
        assert!(!worker.net.conn(asker).is_paused);
    }
    assert_eq!((worker.net.conn(asker).sent.len(), worker.net.conn(one).sent.len()), (4, 2));
    signed(&mut worker, to_asker, b"bye", Some((CloseCode::POLICY, "bye")));
    assert_eq!(worker.net.conn(asker).closed, Some(CloseCode::POLICY));
    assert_eq!(worker.net.conn(asker).sent.last().map(|last| &last[..]), Some(&b"bye"[..]));
    assert_eq!(worker.delivery.directory.did_of(asker), None);
}

#[test]
fn a_connection_that_asks_for_much_is_not_read_until_it_is_answered() {
    let mut worker = worker();
    let token = worker.joins(1, &key(1), Role::Agent);
    let ping = key(1).message(Type::PING, &[RELAY], cbor::NULL);
    for _ in 0..2 {
        let asked = (1..200).find(|_| {
            worker.says(token, &ping);
            worker.net.conn(token).is_paused
        });
        let asked = asked.expect("a bound");
        let mut out = Vec::new();
        while let Some((lane, Job::Reply(reply))) = worker.delivery.lanes.next_job() {
            out.push(Signed { via: reply.via, lane, frame: b"pong".to_vec(), close: None });
        }
        assert_eq!(out.len(), asked);
        let is_paused: Vec<bool> = out
            .into_iter()
            .map(|signed| {
                worker.delivery.signed(signed, &mut worker.net);
                worker.net.conn(token).is_paused
            })
            .collect();
        assert!(is_paused[0] && !is_paused[asked - 1], "{is_paused:?}");
    }
}

#[test]
fn what_a_session_says_is_written_in_the_keys_of_the_connection_that_gets_it() {
    let (mut worker, key) = (worker(), key(1));
    let token = worker.opens(1);
    worker.says(token, &key.hello(RELAY, NOW.unix_ms, KeyEncoding::Int));
    worker.delivery.lanes.next_job();
    worker.is_judged(token, &key, Role::Agent);
    let id = Id::new(NOW.unix_ms, [1; 8]);
    let refused = Refused::new(undelivered(Why::Absent), id, key.did.clone(), None);
    let reply = refused.reply("did:key:zSession".into(), id, ReplyTo::Connection(token), KeyEncoding::Text);
    worker.delivery.say(reply, &mut worker.net);
    assert_eq!(worker.replies()[0].key_encoding, KeyEncoding::Int);
}

#[test]
fn failures_of_a_message_to_one_are_told_at_once_and_of_several_in_time_whatever_else_its_timeout_is_for() {
    let mut worker = worker();
    let (sender, other) = (worker.joins(1, &key(1), Role::Agent), worker.joins(2, &key(2), Role::Agent));
    let to_one = key(1).message(Type::MESSAGE, &["did:key:zNo"], cbor::NULL);
    worker.says(sender, &to_one);
    assert_eq!(worker.replies().len(), 1);
    let to_several = key(1).message(Type::MESSAGE, &["did:key:zNo", "did:key:zNone"], cbor::NULL);
    for _ in 0..2 {
        let began = worker.net.now.mono_ms;
        worker.says(sender, &to_several);
        let due = worker.net.conn(sender).timeout_at.expect("a time");
        // Something later wants its timeout too, and another message fails before it comes.
        worker.delivery.wake_at(sender, due + 30_000, &mut worker.net);
        assert_eq!(worker.net.conn(sender).timeout_at, Some(due));
        let half = (due - began) / 2;
        worker.passes(half, other);
        assert_eq!(worker.replies(), [], "not before its time");
        worker.says(sender, &to_several);
        worker.passes(due - began - half, sender);
        assert_eq!((worker.net.now.mono_ms, worker.replies().len()), (due, 1));
        assert_eq!(worker.net.conn(sender).timeout_at, Some(due + half));
        worker.waits(sender);
        assert_eq!((worker.replies().len(), worker.counters.gathering.get()), (1, 0));
    }
}

#[test]
fn a_timeout_for_a_failure_does_not_end_a_connection_before_its_last_answer() {
    let mut worker = worker();
    let token = worker.joins(1, &key(1), Role::Agent);
    worker.says(token, &key(1).message(Type::MESSAGE, &["did:key:zNo", "did:key:zNone"], cbor::NULL));
    let foreign = key(1).message_from("did:key:zElse", Type::MESSAGE, To::One("did:key:zB"), cbor::NULL);
    (0..3).for_each(|_| worker.says(token, &foreign));
    worker.passes(50, token);
    let conn = worker.net.conn(token);
    assert_eq!((conn.closed, conn.timeout_at), (None, Some(NOW.mono_ms + 50 + LAST_ANSWER_MS)));
    worker.waits(token);
    assert_eq!(worker.net.conn(token).closed, Some(CloseCode::POLICY));
    assert_eq!(worker.delivery.directory.did_of(token), None, "the directory does not count on it");
    assert_eq!(worker.counters.sign_in_failures.get(), 0, "it had proved its key");
}

#[test]
fn an_agent_that_ends_by_its_own_message_leaves_the_directory_at_once() {
    let mut worker = worker();
    let token = worker.joins(1, &key(1), Role::Agent);
    let from = format!("did:web:{}", "a".repeat(2_000));
    worker.says(token, &key(1).message_from(&from, Type::MESSAGE, To::One("did:key:zB"), cbor::NULL));
    assert_eq!(worker.net.conn(token).closed, Some(CloseCode::POLICY));
    assert_eq!(worker.delivery.directory.did_of(token), None);
}

#[test]
fn a_connection_that_is_gone_leaves_nothing_behind() {
    let mut worker = worker();
    let (gone, other) = (worker.joins(1, &key(1), Role::Agent), worker.joins(2, &key(2), Role::Agent));
    // It blocks another one and is blocked, waits for failures, and much is due to it.
    for token in [gone, other] {
        (worker.net.conn(token).is_high, worker.net.conn(token).is_blocked) = (true, true);
    }
    worker.says(gone, &key(1).message(Type::MESSAGE, &[&key(2).did], cbor::NULL));
    worker.says(other, &key(2).message(Type::MESSAGE, &[&key(1).did], cbor::NULL));
    worker.says(gone, &key(1).message(Type::MESSAGE, &["did:key:zNo", "did:key:zNone"], cbor::NULL));
    let ping = key(1).message(Type::PING, &[RELAY], cbor::NULL);
    (0..100).for_each(|_| worker.says(gone, &ping));
    assert!(worker.net.conn(other).is_paused && worker.delivery.wakes.contains_key(&gone));
    worker.goes(gone);
    assert!(!worker.net.conn(other).is_paused, "it waits for one that is gone");
    assert!(worker.delivery.lanes.next_job().is_none(), "nothing is signed for it");
    assert!(!worker.delivery.wakes.contains_key(&gone) && !worker.delivery.backpressure.is_blocked(gone));
    assert_eq!((worker.delivery.directory.connections(&key(1).did), worker.counters.agents.get()), (0, 1));
    worker.says(other, &key(2).message(Type::MESSAGE, &[&key(1).did], cbor::NULL));
    assert_eq!(worker.replies().len(), 1, "nobody is there");
}

/// A worker that checks every signature.
fn checking() -> Worker {
    workers_of(&Parts { verifies_all: true, ..parts(1) }).remove(0)
}

/// The verdict on everything that waits for one.
fn verdicts(worker: &mut Worker, verdict: Result<(), crate::wire::amp::check::Refusal>) -> usize {
    let mut count = 0;
    while let Some(batch) = worker.delivery.next_checks() {
        count += batch.len();
        let checked = batch.into_iter().map(|check| Checked { check, verdict }).collect();
        worker.delivery.checked(checked, &mut worker.net);
    }
    count
}

#[test]
fn a_message_goes_on_when_its_signature_was_checked_and_only_then() {
    use crate::wire::amp::{Code, check::Refusal};
    let mut worker = checking();
    let [sender, receiver] = [1, 2].map(|n| worker.joins(n, &key(n as u8), Role::Agent));
    let frame = |typ| key(1).message(typ, &[&key(2).did], cbor::NULL);
    for n in 1..=20 {
        worker.says(sender, &frame(Type::MESSAGE));
        assert_eq!((worker.net.conn(receiver).sent.len(), worker.counters.checking.get()), (n, 1), "it waits");
        assert_eq!(verdicts(&mut worker, Ok(())), 1);
        assert_eq!((worker.net.conn(receiver).sent.len(), worker.counters.checking.get()), (n + 1, 0));
    }
    let wrong = Err(Refusal::new(Code::INVALID_SIGNATURE, "wrong"));
    for (typ, answers) in [(Type::MESSAGE, 1), (Type::ERROR, 0)] {
        worker.says(sender, &frame(typ));
        assert_eq!(verdicts(&mut worker, wrong), 1);
        let replies = worker.replies();
        assert_eq!((replies.len(), worker.net.conn(receiver).sent.len()), (answers, 21), "an ERROR is never answered");
        assert!(replies.iter().all(|reply| reply.via == ReplyTo::Connection(sender)));
    }
    assert_eq!(worker.counters.wrong_signatures.get(), 2);
    // So do those for several, and for those that are not here.
    worker.says(sender, &key(1).message(Type::MESSAGE, &["did:key:zNo"], cbor::NULL));
    verdicts(&mut worker, Ok(()));
    assert_eq!(worker.replies().len(), 1);
}

#[test]
fn a_connection_is_read_again_when_the_last_reason_not_to_is_gone() {
    let reasons = [0, 1, 2];
    let orders = reasons.into_iter().flat_map(|a| reasons.map(|b| [a, b, 3 - (a + b).min(3)]));
    for order in orders.filter(|order| (0..3).all(|n| order.contains(&n))) {
        let mut worker = checking();
        let [sender, _] = [1, 2].map(|n| worker.joins(n, &key(n as u8), Role::Agent));
        let mut text = Vec::new();
        cbor::text(&mut text, &"x".repeat(1 << 20));
        worker.says(sender, &key(1).message(Type::MESSAGE, &[&key(2).did], &text));
        assert!(worker.net.conn(sender).is_paused, "much of it is being checked");
        worker.delivery.sender_news(SenderNews::Blocked(sender), &mut worker.net);
        while !worker.delivery.lanes.owe(sender) {}
        for (n, reason) in order.into_iter().enumerate() {
            assert!(worker.net.conn(sender).is_paused, "{order:?} {n}");
            match reason {
                0 => drop(verdicts(&mut worker, Ok(()))),
                1 => worker.delivery.sender_news(SenderNews::Unblocked(sender), &mut worker.net),
                _ => (0..64).for_each(|_| worker.delivery.asked(sender, &mut worker.net)),
            }
        }
        assert!(!worker.net.conn(sender).is_paused, "{order:?}");
    }
}

#[test]
fn a_request_that_cannot_be_answered_has_no_effect() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let mut services = Services::default();
    services.register("count", |_| {
        CALLS.fetch_add(1, Ordering::Relaxed);
        Ok(cbor::NULL.to_vec())
    });
    let mut worker = workers_of(&Parts { services, ..parts(1) }).remove(0);
    let sender = worker.joins(1, &key(1), Role::Agent);
    let mut body = Vec::new();
    cbor::map(&mut body, 1);
    cbor::text(&mut body, "action");
    cbor::text(&mut body, "count");
    for (thread_bytes, typ, calls, answer) in [
        (1024, Type::REQUEST, 1, Some(Type::RESPONSE)),
        (1025, Type::REQUEST, 1, Some(Type::ERROR)),
        (8, Type::ACK, 1, None),
        (8, Type::RESPONSE, 1, None),
        (8, Type::REQUEST, 2, Some(Type::RESPONSE)),
    ] {
        let thread_id = vec![7; thread_bytes];
        let key = key(1);
        let header = Header::new(Id::new(NOW.unix_ms, [1; 8]), typ, &key.did, To::One(RELAY));
        worker.says(sender, &key.signed(Header { thread_id: Some(&thread_id), ..header }, KeyEncoding::Text, &body));
        let replies = worker.replies();
        assert_eq!((CALLS.load(Ordering::Relaxed), replies.first().map(|reply| reply.typ)), (calls, answer), "{typ:?}");
        assert!(replies.iter().all(|reply| reply.typ == Type::ERROR || reply.thread_id.as_ref() == Some(&thread_id)));
    }
}
