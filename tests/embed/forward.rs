//! Forwarding without a copy: who changes the bytes after the call changes what is sent, neighbours leave in one write,
//! and what the kernel refuses arrives all the same. `tests/embed_allocations.rs` counts what it allocates.

use std::os::unix::net::UnixStream;

use amp_relay::{
    reactor::{Options, ws::Ws},
    wire::ws::{OpCode, client_frame, frame},
};

use super::hand::{Frames, HEAD, Hand, How, Messages, Switch, changed, content, framed, read};

/// Above every size up to which the loop copies: what is gathered for a write (512 bytes), what is copied into the
/// worker's own buffer (16 KiB).
const LARGE: usize = 40_000;
/// As few as there can be, so that some messages are larger than one read takes.
const READ_BUFFER: usize = 256 * 1024;

fn options() -> Options {
    let (queue_max, kept_max) = (64 << 20, 4 << 20);
    Options {
        read_buffer: READ_BUFFER,
        queue_high: 128 * 1024,
        queue_low: 0,
        queue_max,
        kept_max,
        // The listeners here are the test's own, which answer no probe.
        pace_ms: 0,
        ..Options::default()
    }
}

fn frames(how: How) -> Hand<Frames> {
    Hand::new(options(), Frames(Switch::new(how)))
}

/// Reads and writes of one turn.
fn calls_of_a_turn<P: amp_relay::reactor::Protocol>(hand: &mut Hand<P>) -> (u64, u64) {
    let before = (hand.counters.reads.get(), hand.counters.writes.get());
    hand.turn();
    (hand.counters.reads.get() - before.0, hand.counters.writes.get() - before.1)
}

#[test]
fn bytes_changed_after_they_were_forwarded_are_sent_as_changed() {
    // The last is larger than half of the read buffer, and lies in memory of its own; the kernel does not take it at once.
    for len in [1, 100, 600, LARGE, 100_000, 300_000] {
        let mut hand = frames(How::ForwardThenChange);
        let (mut speaker, mut one, mut two) = (hand.connect(), hand.connect(), hand.connect());
        let wire = framed(&content(len, 7));
        let expected: Vec<u8> = wire.iter().copied().map(changed).collect();
        hand.write_all(&mut speaker, &wire);
        for listener in [&mut one, &mut two] {
            assert!(hand.read_exact(listener, wire.len()) == expected, "{len} bytes were copied before they were sent");
        }
        // The control: a copy is what the bytes were.
        hand.worker.protocol().0.how = How::Copy;
        hand.write_all(&mut speaker, &wire);
        assert!(hand.read_exact(&mut one, wire.len()) == wire, "{len} bytes");
    }
}

#[test]
fn ranges_that_touch_leave_in_one_write_for_each_receiver() {
    for how in [How::Forward, How::Pieces(1_000), How::Pieces(3)] {
        let mut hand = frames(how);
        let (mut speaker, mut one, mut two) = (hand.connect(), hand.connect(), hand.connect());
        for (messages, len) in [(1, LARGE), (2, LARGE), (100, 900), (1_000, 60)] {
            let wire: Vec<u8> = (0..messages).flat_map(|n| framed(&content(len, n))).collect();
            hand.write_all(&mut speaker, &wire);
            assert_eq!(calls_of_a_turn(&mut hand), (1, 2), "{how:?}, {messages} messages of {len} bytes");
            assert!(read(&mut one) == wire && read(&mut two) == wire, "{how:?}, {messages} messages of {len} bytes");
        }
    }
    // Heads between the ranges: still one write.
    let mut hand = frames(How::Behind);
    let (mut speaker, mut one) = (hand.connect(), hand.connect());
    let messages: Vec<_> = (0..40).map(|n| framed(&content(1_000, n))).collect();
    hand.write_all(&mut speaker, &messages.concat());
    assert_eq!(calls_of_a_turn(&mut hand), (1, 1));
    let expected: Vec<u8> = messages.iter().flat_map(|message| [HEAD, message].concat()).collect();
    assert!(read(&mut one) == expected);
}

#[test]
fn several_speakers_of_a_turn_leave_in_one_write() {
    let mut hand = frames(How::Forward);
    let (mut one, mut two, mut listener) = (hand.connect(), hand.connect(), hand.connect());
    let (first, second) = (framed(&content(LARGE, 1)), framed(&content(LARGE, 2)));
    hand.write_all(&mut one, &first);
    hand.write_all(&mut two, &second);
    // To the listener, and from each speaker to the other.
    assert_eq!(calls_of_a_turn(&mut hand), (2, 3));
    assert!(read(&mut listener) == [first.as_slice(), &second].concat());
    assert!(read(&mut one) == second && read(&mut two) == first);
}

/// Speaks while the listener does not read, then lets it read. Gives what came, and the most that waited for it.
fn stall(
    hand: &mut Hand<Frames>,
    messages: &[Vec<u8>],
    speaker: &mut UnixStream,
    listener: &mut UnixStream,
) -> (Vec<u8>, u64) {
    let len = messages.iter().map(Vec::len).sum();
    let (mut most, mut got) = (0, Vec::with_capacity(len));
    for message in messages {
        hand.write_all(speaker, message);
        hand.turn();
        most = most.max(hand.counters.queue_bytes.get());
    }
    got.extend(hand.read_exact(listener, len));
    hand.turn();
    assert_eq!(hand.counters.queue_bytes.get(), 0);
    (got, most)
}

#[test]
fn what_the_kernel_refuses_is_kept_and_arrives_intact() {
    // Each turn reads over the memory of the one before: what waits must not lie there any more.
    let sizes = [100_000, 17, 600, LARGE, 300_000, 0, 16 * 1024, 130_000, 1];
    let messages: Vec<_> = (0..90).map(|n| framed(&content(sizes[n % sizes.len()], n as u64))).collect();
    for how in [How::Forward, How::Pieces(7), How::ForwardThenChange] {
        let mut hand = frames(how);
        let (mut speaker, mut listener) = (hand.connect(), hand.connect());
        let (got, most) = stall(&mut hand, &messages, &mut speaker, &mut listener);
        let expected: Vec<u8> = match how {
            How::ForwardThenChange => messages.concat().into_iter().map(changed).collect(),
            _ => messages.concat(),
        };
        assert!(got == expected, "{how:?}");
        assert!(most > 4_000_000, "{how:?}: the listener was blocked, {most} bytes waited");
        let Switch { high, blocked, drained, .. } = hand.worker.protocol().0;
        assert!(high > 0 && blocked > 0 && drained > 0, "{how:?}: {high} high, {blocked} blocked, {drained} drained");
    }
}

#[test]
fn a_speaker_that_is_held_back_costs_no_more_than_the_mark() {
    let mut hand = frames(How::Forward);
    hand.worker.protocol().0.heeds = true;
    let (mut speaker, mut listener) = (hand.connect(), hand.connect());
    let messages: Vec<_> = (0..200).map(|n| framed(&content(LARGE, n))).collect();
    let wire = messages.concat();
    let (mut said, mut heard, mut most) = (0, Vec::new(), 0);
    // The listener reads only when the speaker cannot say more.
    while heard.len() < wire.len() {
        let before = said;
        for _ in 0..4 {
            said += std::io::Write::write(&mut speaker, &wire[said..]).unwrap_or(0);
            hand.turn();
            most = most.max(hand.counters.queue_bytes.get());
        }
        if said == before {
            let came = read(&mut listener);
            assert!(!came.is_empty(), "neither speaks nor hears at {} of {} bytes", heard.len(), wire.len());
            heard.extend(came);
        }
    }
    assert!(heard == wire);
    let bound = (options().queue_high + LARGE + 4) as u64;
    assert!(most <= bound, "{most} bytes waited");
    assert!(hand.worker.protocol().0.drained > 1);
}

fn masked(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|message| client_frame(OpCode::Binary, message, [1, 2, 3, 4])).collect()
}

fn unmasked(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|message| frame(OpCode::Binary, message)).collect()
}

#[test]
fn websocket_messages_of_one_read_leave_in_one_write() {
    let mut hand = Messages::hand(options(), How::Forward);
    let (mut speaker, mut one, mut two) = (hand.upgrade(), hand.upgrade(), hand.upgrade());
    // The largest have a header of ten bytes, which is copied.
    for (count, len) in [(1, LARGE), (2, LARGE), (20, 4_000), (500, 100), (1, 70_000), (1, 100_000)] {
        let messages: Vec<_> = (0..count).map(|n| content(len, n)).collect();
        hand.write_all(&mut speaker, &masked(&messages));
        assert_eq!(calls_of_a_turn(&mut hand), (1, 2), "{count} messages of {len} bytes");
        let expected = unmasked(&messages);
        assert!(read(&mut one) == expected && read(&mut two) == expected, "{count} messages of {len} bytes");
    }
}

#[test]
fn websocket_messages_for_one_that_does_not_read_arrive_intact() {
    let sizes = [100_000, 17, 600, LARGE, 300_000, 0, 65_535, 65_536, 1];
    let messages: Vec<_> = (0..90).map(|n| content(sizes[n % sizes.len()], n as u64)).collect();
    let expected = unmasked(&messages);
    let mut hand: Hand<Ws<Messages>> = Messages::hand(options(), How::Forward);
    let (mut speaker, mut one, mut two) = (hand.upgrade(), hand.upgrade(), hand.upgrade());
    let mut heard = Vec::new();
    for message in &messages {
        hand.write_all(&mut speaker, &masked(std::slice::from_ref(message)));
        hand.turn();
        // The other one reads all the time, and is not held up.
        heard.extend(read(&mut one));
    }
    assert!(hand.counters.queue_bytes.get() > 4_000_000, "one listener is blocked");
    let rest = hand.read_exact(&mut one, expected.len() - heard.len());
    assert!([heard, rest].concat() == expected);
    assert!(hand.read_exact(&mut two, expected.len()) == expected);
    assert_eq!(hand.counters.queue_bytes.get(), 0);
    assert!(hand.worker.protocol().handler().0.drained > 0);
}

#[test]
fn websocket_messages_are_held_back_for_one_that_does_not_read() {
    let mut hand = Messages::hand(options(), How::Forward);
    hand.worker.protocol().handler().0.heeds = true;
    let (mut speaker, mut listener) = (hand.upgrade(), hand.upgrade());
    let messages: Vec<_> = (0..100).map(|n| content(LARGE, n)).collect();
    let (wire, expected) = (masked(&messages), unmasked(&messages));
    let (mut said, mut heard) = (0, Vec::new());
    while heard.len() < expected.len() {
        let before = said;
        for _ in 0..4 {
            said += std::io::Write::write(&mut speaker, &wire[said..]).unwrap_or(0);
            hand.turn();
            assert!(hand.counters.queue_bytes.get() <= (options().queue_high + LARGE + 4) as u64);
        }
        if said == before {
            let came = read(&mut listener);
            assert!(!came.is_empty(), "neither speaks nor hears at {} bytes", heard.len());
            heard.extend(came);
        }
    }
    assert!(heard == expected);
}

#[test]
fn a_message_that_is_longer_than_may_be_kept_is_not_gathered() {
    const KEPT: usize = 100_000;
    let options = Options { kept_max: KEPT, ..Options::default() };
    let mut hand = Hand::new(options, Frames(Switch::new(How::Forward)));
    let mut one = hand.connect();
    // What says how long it is, and all but the last of it.
    let message = framed(&content(4 * KEPT, 1));
    hand.write_all(&mut one, &message[..message.len() - 1]);
    let mut turns = 0;
    while hand.counters.closed[2].get() == 0 {
        hand.turn();
        turns += 1;
        assert!(turns < 1_000, "its last byte is waited for");
    }
    assert_eq!(hand.counters.kept_bytes.get(), 0);
}
