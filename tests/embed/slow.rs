//! Readers that are slow, and say nothing that is not an answer.

use super::*;

/// A loop that looks at nobody: what moves a connection is its own bytes. And another one, whose pings are the beat of the
/// test.
fn slow_and_silent(pace_ms: u64) -> (Running<String>, Running<String>) {
    let options = Options {
        workers: 1,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
        queue_max: 4 * 1024 * 1024,
        pace_ms,
        patience_ms: 12 * pace_ms,
        grace_ms: 200,
        ..Options::default()
    };
    let ws = WsOptions { ping_every_ms: 0, close_ms: 600_000, ..WsOptions::default() };
    let running = Running::start(Reactor::bind(options).unwrap(), move |_, _| Ws::new(Chat::default(), ws.clone()));
    (running, metronome())
}

/// A client that has been told much, and has read none of it for some beats.
fn behind(running: &Running<String>, metronome: &mut WebSocket<TcpStream>) -> WebSocket<TcpStream> {
    let mut slow = connect(running);
    slow.send("pile".into()).unwrap();
    running.until("it waits", |sum| sum.messages_in == 1 && sum.queue_bytes > (PILE * PILED / 2) as u64);
    (0..10).for_each(|_| beat(metronome));
    slow
}

/// Reads a piece as it comes, and answers what asks for it if it is to. Says whether there was one.
fn read_on(slow: &mut WebSocket<TcpStream>, all: &mut Vec<u8>, answers: bool) -> bool {
    let before = frames(all).len();
    let mut piece = vec![0; 2 * PILED];
    let n = slow.get_mut().read(&mut piece).unwrap();
    all.extend_from_slice(&piece[..n]);
    for (_, payload) in frames(all).split_off(before).into_iter().filter(|frame| frame.0 == 9 && answers) {
        slow.get_mut().write_all(&client_frame(OpCode::Pong, payload, [0; 4])).unwrap();
    }
    n > 0
}

/// How many frames there are with this opcode.
fn count(bytes: &[u8], opcode: u8) -> usize {
    frames(bytes).iter().filter(|frame| frame.0 == opcode).count()
}

#[test]
fn c2_a_slow_reader_that_says_nothing_of_its_own_gets_everything_after_the_sender_has_stopped() {
    let (running, other) = slow_and_silent(8);
    let mut metronome = connect(&other);
    let (mut slow, mut all) = (behind(&running, &mut metronome), Vec::new());
    while count(&all, 1) < PILE {
        beat(&mut metronome);
        assert!(read_on(&mut slow, &mut all, true));
    }
    assert!(count(&all, 9) > 1, "it was asked what it has read");
    running.end(slow);
    other.end(metronome);
}

#[test]
fn c2_a_reader_that_answers_no_probe_gets_everything() {
    let (running, other) = slow_and_silent(8);
    let mut metronome = connect(&other);
    let (mut slow, mut all) = (behind(&running, &mut metronome), Vec::new());
    while count(&all, 1) < PILE {
        beat(&mut metronome);
        assert!(read_on(&mut slow, &mut all, false));
    }
    assert_eq!(count(&all, 9), 1, "it was asked once, and then no more");
    running.end(slow);
    other.end(metronome);
}

#[test]
fn c2_a_peer_that_is_too_slow_hears_so_ahead_of_what_it_is_too_slow_for() {
    let (running, other) = slow_and_silent(800);
    let (mut metronome, mut talker) = (connect(&other), connect(&running));
    let (mut slow, mut all) = (behind(&running, &mut metronome), Vec::new());
    while count(&all, 9) == 0 {
        beat(&mut metronome);
        assert!(read_on(&mut slow, &mut all, true));
    }
    for _ in 0..PILE {
        talker.send(format!("all {}", "x".repeat(PILED)).into()).unwrap();
    }
    running.until("it is too slow", |sum| sum.closed[5] == 1);
    while read_on(&mut slow, &mut all, false) {}
    assert!(count(&all, 1) < PILE, "{} messages", count(&all, 1));
    let (opcode, said) = *frames(&all).last().unwrap();
    assert_eq!((opcode, &said[..2]), (8, &1013u16.to_be_bytes()[..]));
    running.end((slow, talker));
    other.end(metronome);
}

#[test]
fn a_drain_that_ends_before_a_slow_reader_has_everything_says_1001() {
    let (running, other) = slow_and_silent(800);
    let mut metronome = connect(&other);
    let (mut slow, mut all) = (behind(&running, &mut metronome), Vec::new());
    while count(&all, 9) == 0 {
        beat(&mut metronome);
        assert!(read_on(&mut slow, &mut all, true));
    }
    running.handle.drain();
    running.handle.join().unwrap();
    while read_on(&mut slow, &mut all, false) {}
    assert!(count(&all, 1) < PILE, "{} messages", count(&all, 1));
    let (opcode, said) = *frames(&all).last().unwrap();
    assert_eq!((opcode, &said[..2]), (8, &1001u16.to_be_bytes()[..]));
    other.end(metronome);
}
