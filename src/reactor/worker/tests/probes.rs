//! What the answer to a probe tells of a new peer.

use super::*;
use crate::wire::ws::{OpCode, client_frame};

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
