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
