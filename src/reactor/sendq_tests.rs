//! The send queue against kernels that take little.

use super::*;
use proptest::prelude::*;

/// Takes `step` bytes a call and refuses every other call.
struct Kernel {
    taken: Vec<u8>,
    step: usize,
    refuse: bool,
}

impl Write for Kernel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.refuse = !self.refuse;
        if self.refuse {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = bytes.len().min(self.step);
        self.taken.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write(&all)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fill(queue: &mut SendQueue, arena: &[u8], cuts: &[(usize, u8)]) -> Vec<u8> {
    let mut expected = Vec::new();
    let mut at = 0;
    for &(len, kind) in cuts {
        let len = len.min(arena.len() - at);
        let bytes = &arena[at..at + len];
        expected.extend_from_slice(bytes);
        match kind {
            0 => queue.push(Bytes::copy_from_slice(bytes)),
            1 => queue.push_range(Range { buffer: ARENA, start: at as u32, end: (at + len) as u32 }),
            _ => queue.push_range(Range { buffer: LARGE, start: at as u32, end: (at + len) as u32 }),
        }
        at += len;
    }
    expected
}

fn arena() -> Vec<u8> {
    (0..20_000u32).map(|n| (n % 251) as u8).collect()
}

#[test]
fn partial_writes_at_every_byte_keep_order_and_lose_nothing() {
    let arena = arena();
    let large = [arena.clone()];
    let turn = TurnBuffers { arena: &arena, out: &[], large: &large };
    let cuts = [(3, 0), (600, 1), (5, 1), (0, 0), (700, 0), (9, 2), (2, 0), (1, 1)];
    let total: usize = cuts.iter().map(|cut| cut.0).sum();
    for step in 1..=total + 1 {
        let mut queue = SendQueue::default();
        let expected = fill(&mut queue, &arena, &cuts);
        let mut kernel = Kernel { taken: Vec::new(), step, refuse: true };
        let mut scratch = Scratch::default();
        let mut turns = 0;
        while !queue.is_empty() {
            queue.write(&mut kernel, &turn, &mut scratch, usize::MAX, |_| None).unwrap();
            assert_eq!(queue.taken(), kernel.taken.len() as u64);
            // After the first turn the buffers are gone.
            queue.own(&turn);
            assert!(
                !queue.0.iter().flat_map(|container| &container.pieces).any(|piece| matches!(piece, Piece::Range(_)))
            );
            turns += 1;
            assert!(turns < 10_000, "step {step} does not end");
        }
        assert_eq!(kernel.taken, expected, "step {step}");
        assert!(queue.take_container().is_some());
    }
}

proptest! {
    #[test]
    fn any_pieces_any_step(cuts in proptest::collection::vec((0usize..900, 0u8..3), 0..60), step in 1usize..5_000) {
        let arena = arena();
        let large = [arena.clone()];
        let turn = TurnBuffers { arena: &arena, out: &[], large: &large };
        let mut queue = SendQueue::default();
        let expected = fill(&mut queue, &arena, &cuts);
        prop_assert_eq!(queue.len(), expected.len());
        let mut kernel = Kernel { taken: Vec::new(), step, refuse: true };
        let mut scratch = Scratch::default();
        while !queue.is_empty() {
            queue.write(&mut kernel, &turn, &mut scratch, usize::MAX, |_| None).unwrap();
        }
        prop_assert_eq!(kernel.taken, expected);
    }
}

/// A frame of the test: its length in two bytes, then that many.
fn test_frame(fill: u8, len: usize) -> Vec<u8> {
    let mut frame = (len as u16).to_be_bytes().to_vec();
    frame.resize(2 + len, fill);
    frame
}

fn test_frame_len(bytes: &[u8]) -> Option<usize> {
    Some(2 + usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?])))
}

#[derive(Clone, Debug)]
enum Step {
    /// Frames of these lengths, in the turn's memory or owned.
    Send(Vec<u16>, bool),
    Ahead(u8),
    Write,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (proptest::collection::vec(0u16..700, 1..5), any::<bool>()).prop_map(|(lens, own)| Step::Send(lens, own)),
        (1u8..100).prop_map(Step::Ahead),
        Just(Step::Write),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn what_goes_ahead_goes_between_two_frames_and_the_latest_counts(
        steps in steps(),
        step in 1usize..2_000,
        most in prop_oneof![Just(usize::MAX), 1usize..3_000],
    ) {
        let mut queue = SendQueue::default();
        let mut kernel = Kernel { taken: Vec::new(), step, refuse: false };
        let (mut data, mut ahead, mut waits) = (Vec::new(), Vec::new(), false);
        let mut scratch = Scratch::default();
        let write = |queue: &mut SendQueue, kernel: &mut Kernel, arena: &[u8], scratch: &mut Scratch| {
            let turn = TurnBuffers { arena, out: &[], large: &[] };
            queue.write(kernel, &turn, scratch, most, test_frame_len).unwrap();
            queue.own(&turn);
        };
        for step in steps {
            let mut arena = Vec::new();
            match step {
                Step::Send(lens, owned) => for len in lens {
                    let frame = test_frame(0, usize::from(len));
                    data.push(frame.len());
                    if owned {
                        queue.push(frame.into());
                    } else {
                        let start = arena.len() as u32;
                        arena.extend_from_slice(&frame);
                        queue.push_range(Range { buffer: ARENA, start, end: arena.len() as u32 });
                    }
                },
                // Where nothing waits it is one more frame.
                Step::Ahead(_) if queue.is_empty() => continue,
                Step::Ahead(fill) => {
                    let replaced = queue.push_ahead(test_frame(fill, 3).into());
                    prop_assert_eq!(replaced > 0, waits);
                    if std::mem::replace(&mut waits, true) {
                        ahead.pop();
                    }
                    ahead.push(fill);
                    continue;
                }
                Step::Write => {}
            }
            waits = false;
            write(&mut queue, &mut kernel, &arena, &mut scratch);
        }
        while !queue.is_empty() {
            write(&mut queue, &mut kernel, &[], &mut scratch);
        }
        let (mut at, mut got_data, mut got_ahead) = (0, Vec::new(), Vec::new());
        while at < kernel.taken.len() {
            let len = test_frame_len(&kernel.taken[at..]).unwrap();
            let frame = &kernel.taken[at..at + len];
            let fill = frame.get(2).copied().unwrap_or(0);
            prop_assert!(frame[2..].iter().all(|&byte| byte == fill), "a frame in the middle of another");
            if fill == 0 { got_data.push(len) } else { got_ahead.push(fill) }
            at += len;
        }
        prop_assert_eq!((got_data, got_ahead), (data, ahead));
    }
}

#[test]
fn what_goes_ahead_waits_for_no_more_than_the_frame_that_has_begun() {
    let mut queue = SendQueue::default();
    for _ in 0..100 {
        queue.push(test_frame(0, 498).into());
    }
    let turn = TurnBuffers { arena: &[], out: &[], large: &[] };
    let mut kernel = Kernel { taken: Vec::new(), step: 700, refuse: true };
    queue.write(&mut kernel, &turn, &mut Scratch::default(), usize::MAX, test_frame_len).unwrap();
    queue.push_ahead(test_frame(7, 3).into());
    assert_eq!(queue.push_ahead(test_frame(8, 5).into()), 5, "the latest alone");
    assert_eq!(queue.len(), 50_000 - 700 + 7);
    let mut rest = Vec::new();
    queue.write(&mut rest, &turn, &mut Scratch::default(), usize::MAX, test_frame_len).unwrap();
    assert_eq!(rest[300..307], test_frame(8, 5));
    assert_eq!(rest.len(), 50_000 - 700 + 7);
    // A protocol without frames has no place but the end, once a part is taken.
    queue.push(test_frame(0, 98).into());
    let mut kernel = Kernel { taken: Vec::new(), step: 10, refuse: true };
    queue.write(&mut kernel, &turn, &mut Scratch::default(), usize::MAX, |_| None).unwrap();
    queue.push_ahead(b"ahead".to_vec().into());
    let mut rest = Vec::new();
    queue.write(&mut rest, &turn, &mut Scratch::default(), usize::MAX, |_| None).unwrap();
    assert!(rest.len() == 95 && rest.ends_with(b"ahead"));
}

#[test]
fn more_pieces_than_a_vectored_write_takes() {
    let arena = arena();
    let turn = TurnBuffers { arena: &arena, out: &[], large: &[] };
    let big = Bytes::from(vec![7; SMALL + 1]);
    let mut queue = SendQueue::default();
    for _ in 0..IOV_MANY + 10 {
        queue.push(big.clone());
    }
    let mut taken = Vec::new();
    let wrote = queue.write(&mut taken, &turn, &mut Scratch::default(), usize::MAX, |_| None).unwrap();
    assert_eq!(wrote, Wrote { bytes: big.len() * (IOV_MANY + 10), calls: 2, blocked: false });
    assert_eq!(taken.len(), wrote.bytes);
}

#[test]
fn the_pool_is_bounded_by_what_it_has_room_for() {
    let mut pool = Pool::default();
    for room in [Pool::ROOM_MAX / 2, Pool::ROOM_MAX, 16, Pool::ROOM_MAX / 2] {
        let container = Container { pieces: VecDeque::with_capacity(room), ..Container::default() };
        let mut queue = SendQueue(Some(Box::new(container)));
        pool.recycle(&mut queue);
        assert!(queue.wants_container(), "an idle queue owns nothing");
    }
    assert_eq!(pool.room, Pool::ROOM_MAX / 2 + 16);
    assert_eq!(pool.take().map(|container| container.pieces.capacity()), Some(16));
    assert!(pool.take().is_some() && pool.take().is_none());
    assert_eq!(pool.room, 0);
}

#[test]
fn what_the_kernel_took_of_one_queue_does_not_count_for_the_next_one_with_its_memory() {
    let turn = TurnBuffers { arena: &[], out: &[], large: &[] };
    let mut queue = SendQueue::default();
    queue.push(Bytes::from_static(b"all of it"));
    queue.write(&mut Vec::new(), &turn, &mut Scratch::default(), usize::MAX, |_| None).unwrap();
    assert_eq!(queue.taken(), 9);
    let mut next = SendQueue::default();
    next.give_container(queue.take_container().expect("it is empty"));
    assert_eq!(next.taken(), 0, "nothing waits for it yet");
    next.push(Bytes::from_static(b"more"));
    next.write(&mut Vec::new(), &turn, &mut Scratch::default(), 2, |_| None).unwrap();
    assert_eq!((next.taken(), next.len()), (2, 2));
}

#[test]
fn ranges_that_touch_become_one() {
    let mut queue = SendQueue::default();
    queue.push_range(Range { buffer: ARENA, start: 0, end: 10 });
    queue.push_range(Range { buffer: ARENA, start: 10, end: 20 });
    queue.push_range(Range { buffer: OUT, start: 20, end: 30 });
    assert_eq!((queue.0.as_ref().map(|container| container.pieces.len()), queue.len()), (Some(2), 30));
    queue.clear();
    assert!(queue.is_empty());
}

#[test]
fn what_is_last_is_kept_behind_what_is_begun() {
    let turn = TurnBuffers { arena: &[], out: &[], large: &[] };
    let frame = |bytes: &[u8]| bytes.first().map(|&len| usize::from(len));
    // How many bytes the kernel has taken of three frames, and what is left of them.
    for (taken, left) in [(0, &[2, 0][..]), (1, &[1, 1, 2, 0]), (2, &[1, 2, 0]), (3, &[2, 0]), (5, &[0, 0, 2, 0])] {
        let mut queue = SendQueue::default();
        queue.push(Bytes::from_static(&[3, 1, 1, 4, 0]));
        queue.push(Bytes::from_static(&[0, 0]));
        queue.push(Bytes::from_static(&[2, 0]));
        let mut kernel = Kernel { taken: Vec::new(), step: taken, refuse: true };
        queue.write(&mut kernel, &turn, &mut Scratch::default(), taken, frame).unwrap();
        let before = queue.len();
        assert_eq!(queue.keep_last(&turn, frame), before - left.len());
        let mut rest = Vec::new();
        queue.write(&mut rest, &turn, &mut Scratch::default(), usize::MAX, frame).unwrap();
        assert_eq!(rest, left, "{taken}");
        assert!(queue.is_empty());
    }
}

/// Takes 7 bytes, and then it is broken.
struct Breaks(bool);

impl Write for Breaks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_broken = std::mem::replace(&mut self.0, true);
        if is_broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(bytes.len().min(7)) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_broken_connection_took_before_is_told() {
    let arena = arena();
    let turn = TurnBuffers { arena: &arena, out: &[], large: &[] };
    let mut queue = SendQueue::default();
    queue.push(Bytes::from_static(&[0; 100]));
    let wrote = queue.write(&mut Breaks(false), &turn, &mut Scratch::default(), usize::MAX, |_| None);
    assert_eq!((wrote, queue.len()), (Err(7), 93), "together what was queued");
}
