//! What the answer to a probe tells of a new peer.

use super::*;
use crate::wire::ws::{OpCode, client_frame, frame};

/// What is asked, and answered.
const PROBE: &[u8] = b"read?";

/// Whether a new peer is reckoned with after its answer, which comes behind a message of so many bytes.
fn is_paced_after(bytes: usize) -> bool {
    let ws = WsOptions { ping_every_ms: 0, ..WsOptions::default() };
    let (mut worker, mut stream, token) = quiet(&ws, "");
    let now_ms = worker.core.now.mono_ms;
    let mut pace = Pace::unproved(8 * 1024, now_ms, 2_000);
    pace.probed(0, now_ms);
    worker.core.slots.get_mut(token).unwrap().rare().pace = Some(pace);
    let message = client_frame(OpCode::Binary, &vec![0; bytes], [0; 4]);
    let answer = client_frame(OpCode::Pong, PROBE, [0; 4]);
    stream.write_all(&[message, answer].concat()).unwrap();
    until(&mut worker, "the answer", |worker| worker.core.counters.frames_in.get() == 2);
    has(&worker, token, Flags::PACED)
}

#[test]
fn the_answer_of_a_new_peer_that_sends_much_itself_tells_nothing() {
    assert!(is_paced_after(1_000), "it has read little yet");
    assert!(!is_paced_after(8 * 1024), "when it came says nothing: the peer is left alone");
}

#[test]
fn a_pong_that_answers_no_probe_is_not_taken_for_the_answer_to_one() {
    let ws = WsOptions { ping_every_ms: 0, ..WsOptions::default() };
    let (mut worker, mut stream, token) = quiet(&ws, "");
    let now_ms = worker.core.now.mono_ms;
    let mut pace = Pace::new(60_000);
    pace.probed(0, now_ms);
    worker.core.slots.get_mut(token).unwrap().rare().pace = Some(pace);
    let is_awaited = |worker: &Worker<Ws<Quiet>>| {
        let rare = worker.core.slots.get(token).unwrap().rare.as_ref();
        rare.and_then(|rare| rare.pace.as_ref()?.late_ms()).is_some()
    };
    // The answer to a ping that asks for a sign of life, and one to nothing.
    for (frames, payload) in [(1, &b""[..]), (2, b"read"), (3, PROBE)] {
        stream.write_all(&client_frame(OpCode::Pong, payload, [0; 4])).unwrap();
        until(&mut worker, "it is heard", |worker| worker.core.counters.frames_in.get() == frames);
        assert_eq!(is_awaited(&worker), payload != PROBE, "{payload:?}");
    }
}

#[test]
fn a_peer_that_is_paced_is_given_what_it_may_have_once() {
    let ws = WsOptions { ping_every_ms: 0, ..WsOptions::default() };
    let (mut worker, _stream, token) = quiet(&ws, "");
    let now_ms = worker.core.now.mono_ms;
    let mut pace = Pace::new(60_000);
    pace.probed(0, now_ms);
    let allowed = pace.allowed();
    worker.core.slots.get_mut(token).unwrap().rare().pace = Some(pace);
    assert_eq!(worker.core.send(token, vec![0; 64 * 1024].into()), Sent::Queued);
    for _ in 0..3 {
        worker.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(worker.core.queue_bytes, 64 * 1024 - allowed);
        // Something that goes ahead has the worker try again.
        worker.core.slots.get_mut(token).unwrap().flags.clear(Flags::BLOCKED);
        worker.core.touch(token);
    }
}

#[test]
fn a_worker_does_not_sleep_through_the_next_look_at_those_it_has_asked_nor_the_end_of_a_drain() {
    let (mut worker, _stream) = tcp(Script::default());
    let now_ms = worker.core.now.mono_ms;
    worker.core.paced_at_ms = now_ms + 2_000;
    assert_eq!(worker.shorten(None), Some(Duration::from_millis(2_000)));
    worker.drain_ends_ms = now_ms + 1_000;
    assert_eq!(worker.shorten(None), Some(Duration::from_millis(1_000)));
    worker.core.paced_at_ms = u64::MAX;
    assert_eq!(worker.shorten(Some(Duration::from_secs(5))), Some(Duration::from_millis(1_000)));
}

/// Makes the kernel refuse bytes of a connection that is not paced; no more than so many wait.
fn block(worker: &mut Worker<Ws<Quiet>>, token: ConnToken, bytes: usize) {
    worker.core.slots.get_mut(token).unwrap().flags.clear(Flags::PACED);
    until(worker, "the kernel takes no more", |worker| {
        assert_ne!(worker.core.send(token, frame(OpCode::Binary, &vec![0; bytes])), Sent::Closed);
        worker.turn(Some(Duration::ZERO)).unwrap();
        has(worker, token, Flags::BLOCKED)
    });
}

#[test]
fn a_ping_of_a_peer_that_takes_nothing_is_answered_ahead_of_what_waits() {
    let ws = WsOptions { ping_every_ms: 0, ..WsOptions::default() };
    let (mut worker, mut stream, token) = quiet(&ws, "");
    block(&mut worker, token, 16 * 1024);
    assert_eq!(worker.core.send(token, frame(OpCode::Text, b"waits")), Sent::Queued);
    assert!(worker.core.queue_bytes < 64 * 1024, "so little that it might wait behind that");
    stream.write_all(&client_frame(OpCode::Ping, b"there?", [0; 4])).unwrap();
    until(&mut worker, "the ping", |worker| worker.core.counters.frames_in.get() == 1);
    let (mut room, mut said) = (vec![0; 64 * 1024], Vec::new());
    stream.set_nonblocking(true).unwrap();
    until(&mut worker, "all is read", |worker| {
        while let Ok(read) = stream.read(&mut room) {
            said.extend_from_slice(&room[..read]);
        }
        worker.core.queue_bytes == 0 && said.ends_with(b"waits")
    });
    let at = |what: &[u8]| said.windows(what.len()).position(|bytes| bytes == what).expect("it was said");
    assert!(at(b"\x8a\x06there?") < at(b"waits"));
}

#[test]
fn a_paused_peer_that_takes_nothing_is_alive_as_long_as_it_asks() {
    const MISSED: u8 = 10;
    let ws = WsOptions { ping_every_ms: 1, pings_missed_max: MISSED, ..WsOptions::default() };
    let (mut worker, mut stream, token) = quiet(&ws, "");
    block(&mut worker, token, 1 << 20);
    worker.core.slots.get_mut(token).unwrap().flags.set(Flags::PAUSED);
    let (mut asked, mut before_ms) = (0, 0);
    until(&mut worker, "many pings", |worker| {
        let now_ms = worker.core.now.mono_ms;
        if std::mem::replace(&mut before_ms, now_ms) != now_ms {
            stream.write_all(&client_frame(OpCode::Ping, b"", [0; 4])).unwrap();
            asked += 1;
        }
        assert!(!has(worker, token, Flags::CLOSING));
        asked > 3 * MISSED
    });
    until(&mut worker, "the end of its patience", |worker| has(worker, token, Flags::CLOSING));
}

#[test]
fn of_a_paused_peer_no_more_is_held_than_is_looked_at() {
    const HELD_MAX: usize = <Ws<Quiet> as Protocol>::HELD_MAX;
    let ws = WsOptions { ping_every_ms: 0, ..WsOptions::default() };
    let (mut worker, mut stream, token) = quiet(&ws, "");
    worker.core.slots.get_mut(token).unwrap().flags.set(Flags::PAUSED);
    let message = client_frame(OpCode::Binary, &[0; 4 * HELD_MAX], [0; 4]);
    for part in message.chunks(HELD_MAX / 3) {
        stream.write_all(part).unwrap();
        worker.turn(Some(Duration::from_millis(1))).unwrap();
    }
    until(&mut worker, "what is held", |worker| worker.kept_bytes == HELD_MAX);
    assert_eq!(worker.protocol.handler().heard, 0);
    let slot = worker.core.slots.get_mut(token).unwrap();
    slot.flags.clear(Flags::PAUSED);
    slot.flags.set(Flags::RESUMED);
    worker.core.make_ready(token);
    until(&mut worker, "the message", |worker| worker.protocol.handler().heard == 1);
    assert_eq!(worker.kept_bytes, 0);
}
