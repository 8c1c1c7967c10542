//! Forwarding as a foreign protocol and a foreign WebSocket service do it allocates nothing, however large the message
//! is, while the same as a copy allocates as much as the message. One test in a process of its own, because it counts
//! the allocations of the whole process.

#[path = "embed/hand.rs"]
#[allow(dead_code, reason = "tests/embed uses the rest")]
mod hand;

use std::{
    alloc::System,
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use amp_relay::{
    reactor::{Options, Protocol},
    wire::ws::{OpCode, client_frame, frame},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use hand::{Frames, HEAD, Hand, How, Messages, Switch, content, framed};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 50;
/// Parts of the rounds whose allocations are counted apart.
const PARTS: usize = 5;
/// All above the sizes up to which the loop copies without an allocation (16 KiB). The last two have the longest header
/// that a WebSocket frame can have.
const SIZES: [usize; 4] = [17_000, 60_000, 70_000, 100_000];

/// The speaker writes `wire`, both listeners read `expected` after one turn, over and over. Gives the allocations and
/// the bytes that were allocated after some rounds to warm up.
fn cost<P: Protocol>(
    hand: &mut Hand<P>,
    clients: &mut [UnixStream; 3],
    wire: &[u8],
    expected: &[u8],
) -> (usize, usize) {
    let [speaker, listeners @ ..] = clients;
    // Room for one byte too many, which must not come.
    let mut room = vec![0; expected.len() + 1];
    let mut round = || {
        speaker.write_all(wire).unwrap();
        hand.turn();
        for listener in listeners.iter_mut() {
            let len = listener.read(&mut room).unwrap();
            assert!(&room[..len] == expected, "{len} bytes came");
        }
    };
    (0..5).for_each(|_| round());
    // The test program's own thread may allocate at any time, but not in every part.
    let parts = (0..PARTS).map(|_| {
        let region = Region::new(ALLOCATOR);
        (0..ROUNDS / PARTS).for_each(|_| round());
        let change = region.change();
        (PARTS * (change.allocations + change.reallocations), PARTS * change.bytes_allocated)
    });
    parts.min().unwrap_or_default()
}

#[test]
fn forwarding_allocates_nothing_and_a_copy_as_much_as_the_message() {
    // As a peer is reckoned with that has shown that it reads: no client here answers a ping.
    let options = || Options { queue_high: 4 << 20, pace_ms: 0, ..Options::default() };
    let mut hand = Hand::new(options(), Frames(Switch::new(How::Forward)));
    let mut clients = [hand.connect(), hand.connect(), hand.connect()];
    for len in SIZES {
        let wire = framed(&content(len, 1));
        for how in [How::Forward, How::Pieces(5)] {
            hand.worker.protocol().0.how = how;
            assert_eq!(cost(&mut hand, &mut clients, &wire, &wire), (0, 0), "{how:?} of {len} bytes");
        }
        hand.worker.protocol().0.how = How::Behind;
        let expected = [HEAD, &wire].concat();
        assert_eq!(cost(&mut hand, &mut clients, &wire, &expected), (0, 0), "{len} bytes behind a head");
        hand.worker.protocol().0.how = How::Copy;
        let (allocations, bytes) = cost(&mut hand, &mut clients, &wire, &wire);
        assert!(allocations >= 2 * ROUNDS && bytes >= 2 * ROUNDS * len, "a copy would be seen");
    }

    let mut hand = Messages::hand(options(), How::Forward);
    let mut clients = [hand.upgrade(), hand.upgrade(), hand.upgrade()];
    for len in SIZES {
        let payload = content(len, 2);
        let wire = client_frame(OpCode::Binary, &payload, [9, 8, 7, 6]);
        let expected = frame(OpCode::Binary, &payload);
        hand.worker.protocol().handler().0.how = How::Forward;
        assert_eq!(cost(&mut hand, &mut clients, &wire, &expected), (0, 0), "a WebSocket message of {len} bytes");
        hand.worker.protocol().handler().0.how = How::Copy;
        let (allocations, bytes) = cost(&mut hand, &mut clients, &wire, &expected);
        assert!(allocations >= 2 * ROUNDS && bytes >= 2 * ROUNDS * len, "a copy would be seen");
    }
}
