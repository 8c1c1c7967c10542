//! The send queue of a connection: pieces in order, written with one vectored call a turn. Owns the order and the byte
//! count; marks and policy are the worker's. A piece is owned bytes, or a range of memory that lives until the end of
//! the turn; what the kernel refuses of a range becomes owned before the turn ends.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Write},
};

use bytes::{Buf, Bytes, BytesMut};

/// Pieces up to this size are copied together; longer ones are passed by reference.
const SMALL: usize = 512;
/// Slices of the usual vectored write, and of one for a long queue (IOV_MAX on Linux).
const IOV_FEW: usize = 16;
const IOV_MANY: usize = 1024;
/// Most bytes that one vectored write copies together.
const SCRATCH_MAX: usize = 256 * 1024;

/// A range of one of the turn's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) buffer: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Range {
    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// The memory that ranges point into. It lives until the end of the turn.
#[derive(Clone, Copy)]
pub(super) struct TurnBuffers<'a> {
    /// What was read this turn.
    pub(super) arena: &'a [u8],
    /// Small messages written this turn.
    pub(super) out: &'a [u8],
    /// Messages too large for the arena, one buffer each.
    pub(super) large: &'a [Vec<u8>],
}

/// The buffer number of the arena.
pub(super) const ARENA: u32 = 0;
/// The buffer number of the out arena.
pub(super) const OUT: u32 = 1;
/// Buffer numbers from here on are large messages.
pub(super) const LARGE: u32 = 2;

impl<'a> TurnBuffers<'a> {
    fn get(&self, range: Range) -> &'a [u8] {
        let buffer = match range.buffer {
            ARENA => self.arena,
            OUT => self.out,
            large => &self.large[(large - LARGE) as usize],
        };
        &buffer[range.start as usize..range.end as usize]
    }
}

#[derive(Debug)]
pub(super) enum Piece {
    Owned(Bytes),
    Range(Range),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.len(),
            Self::Range(range) => range.len(),
        }
    }

    fn advance(&mut self, n: usize) {
        match self {
            Self::Owned(bytes) => bytes.advance(n),
            Self::Range(range) => range.start += n as u32,
        }
    }

    fn bytes<'a>(&'a self, turn: &TurnBuffers<'a>) -> &'a [u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Range(range) => turn.get(*range),
        }
    }
}

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wrote {
    pub(super) bytes: usize,
    pub(super) calls: u64,
    /// The kernel takes no more: wait for the writable event.
    pub(super) blocked: bool,
}

/// Memory that vectored writes of a worker share.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    copied: Vec<u8>,
    plan: Vec<Planned>,
}

#[derive(Clone, Copy, Debug)]
enum Planned {
    Copied(usize, usize),
    Piece(usize),
}

/// The queue. Idle it owns no memory, and is a pointer: every connection has one.
#[derive(Debug, Default)]
pub(super) struct SendQueue(Option<Box<Container>>);

/// What waits in a queue.
#[derive(Debug, Default)]
pub(super) struct Container {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl SendQueue {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |container| container.bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a container would be worth giving before the next push.
    pub(super) fn wants_container(&self) -> bool {
        self.0.is_none()
    }

    /// Gives an empty container with memory of its own, so that a push need not allocate.
    pub(super) fn give_container(&mut self, container: Box<Container>) {
        debug_assert!(self.is_empty() && container.bytes == 0);
        self.0 = Some(container);
    }

    /// Takes the memory back once the queue is empty.
    pub(super) fn take_container(&mut self) -> Option<Box<Container>> {
        self.0.take_if(|container| container.bytes == 0)
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            let container = self.0.get_or_insert_default();
            container.bytes += bytes.len();
            container.pieces.push_back(Piece::Owned(bytes));
        }
    }

    /// Adds a range; one that continues the last piece extends it.
    pub(super) fn push_range(&mut self, range: Range) {
        if range.len() > 0 {
            self.0.get_or_insert_default().push_range(range);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Writes until the queue is empty or the kernel takes no more.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn write<W: Write>(
        &mut self,
        to: &mut W,
        turn: &TurnBuffers<'_>,
        scratch: &mut Scratch,
    ) -> io::Result<Wrote> {
        self.0.as_mut().map_or(Ok(Wrote::default()), |container| container.write(to, turn, scratch))
    }

    /// Makes every range owned, neighbours together: the turn's buffers may be used again after this.
    pub(super) fn own(&mut self, turn: &TurnBuffers<'_>) {
        if let Some(container) = &mut self.0 {
            container.own(turn);
        }
    }
}

impl Container {
    fn push_range(&mut self, range: Range) {
        self.bytes += range.len();
        if let Some(Piece::Range(last)) = self.pieces.back_mut()
            && last.buffer == range.buffer
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        self.pieces.push_back(Piece::Range(range));
    }

    fn write<W: Write>(&mut self, to: &mut W, turn: &TurnBuffers<'_>, scratch: &mut Scratch) -> io::Result<Wrote> {
        let mut wrote = Wrote::default();
        while self.bytes > 0 {
            let result = match self.pieces.len() {
                1 => to.write(self.pieces[0].bytes(turn)),
                _ => self.write_pieces(to, turn, scratch),
            };
            wrote.calls += 1;
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    wrote.bytes += n;
                    self.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wrote.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(wrote)
    }

    /// One write of several pieces. Runs of small ones are copied together first: at message size a copy costs no more
    /// than a slice, and it leaves slices for more messages.
    fn write_pieces<W: Write>(&self, to: &mut W, turn: &TurnBuffers<'_>, scratch: &mut Scratch) -> io::Result<usize> {
        let Scratch { copied, plan } = scratch;
        copied.clear();
        plan.clear();
        for (index, piece) in self.pieces.iter().enumerate() {
            if piece.len() > SMALL || copied.len() > SCRATCH_MAX {
                if plan.len() == IOV_MANY {
                    break;
                }
                plan.push(Planned::Piece(index));
                continue;
            }
            let (start, planned) = (copied.len(), plan.len());
            match plan.last_mut() {
                Some(Planned::Copied(_, end)) => *end += piece.len(),
                _ if planned == IOV_MANY => break,
                _ => plan.push(Planned::Copied(start, start + piece.len())),
            }
            copied.extend_from_slice(piece.bytes(turn));
        }
        let bytes = |planned: Planned| match planned {
            Planned::Copied(start, end) => &copied[start..end],
            Planned::Piece(index) => self.pieces[index].bytes(turn),
        };
        match plan.as_slice() {
            &[one] => to.write(bytes(one)),
            few if few.len() <= IOV_FEW => write_slices::<IOV_FEW, W>(to, few, bytes),
            many => write_slices::<IOV_MANY, W>(to, many, bytes),
        }
    }

    fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while n > 0 {
            let Some(front) = self.pieces.front_mut() else { break };
            if n < front.len() {
                front.advance(n);
                break;
            }
            n -= front.len();
            self.pieces.pop_front();
        }
    }

    fn own(&mut self, turn: &TurnBuffers<'_>) {
        if !self.pieces.iter().any(|piece| matches!(piece, Piece::Range(_))) {
            return;
        }
        let mut owned = VecDeque::with_capacity(self.pieces.len().min(16));
        let mut run = BytesMut::new();
        for piece in self.pieces.drain(..) {
            match piece {
                Piece::Range(range) => run.extend_from_slice(turn.get(range)),
                Piece::Owned(bytes) if bytes.len() <= SMALL && !run.is_empty() => run.extend_from_slice(&bytes),
                Piece::Owned(bytes) => {
                    if !run.is_empty() {
                        owned.push_back(Piece::Owned(run.split().freeze()));
                    }
                    owned.push_back(Piece::Owned(bytes));
                }
            }
        }
        if !run.is_empty() {
            owned.push_back(Piece::Owned(run.freeze()));
        }
        self.pieces = owned;
    }
}

/// One vectored write of at most `N` slices, which are on the stack.
fn write_slices<'a, const N: usize, W: Write>(
    to: &mut W,
    plan: &[Planned],
    bytes: impl Fn(Planned) -> &'a [u8],
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); N];
    for (slice, &planned) in slices.iter_mut().zip(plan) {
        *slice = IoSlice::new(bytes(planned));
    }
    to.write_vectored(&slices[..plan.len()])
}

/// Spare containers of a worker: whoever writes in a turn borrows one for that turn.
#[derive(Debug, Default)]
pub(super) struct Pool {
    // Boxed, as queues hold them: to lend one moves a pointer.
    #[expect(clippy::vec_box, reason = "queues hold boxes")]
    containers: Vec<Box<Container>>,
    /// Pieces that they have room for, all together.
    room: usize,
}

impl Pool {
    /// Most containers that are kept.
    const CONTAINERS_MAX: usize = 1_024;
    /// Most pieces that they may have room for: about 2.5 MiB.
    const ROOM_MAX: usize = 64 * 1024;

    /// A container for a queue that has none.
    pub(super) fn take(&mut self) -> Option<Box<Container>> {
        let container = self.containers.pop()?;
        self.room -= container.pieces.capacity();
        Some(container)
    }

    /// Takes an empty queue's memory back for the next one.
    pub(super) fn recycle(&mut self, queue: &mut SendQueue) {
        if let Some(container) = queue.take_container()
            && self.containers.len() < Self::CONTAINERS_MAX
            && self.room + container.pieces.capacity() <= Self::ROOM_MAX
        {
            self.room += container.pieces.capacity();
            self.containers.push(container);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
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
                queue.write(&mut kernel, &turn, &mut scratch).unwrap();
                // After the first turn the buffers are gone.
                queue.own(&turn);
                assert!(
                    !queue
                        .0
                        .iter()
                        .flat_map(|container| &container.pieces)
                        .any(|piece| matches!(piece, Piece::Range(_)))
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
                queue.write(&mut kernel, &turn, &mut scratch).unwrap();
            }
            prop_assert_eq!(kernel.taken, expected);
        }
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
        let wrote = queue.write(&mut taken, &turn, &mut Scratch::default()).unwrap();
        assert_eq!(wrote, Wrote { bytes: big.len() * (IOV_MANY + 10), calls: 2, blocked: false });
        assert_eq!(taken.len(), wrote.bytes);
    }

    #[test]
    fn the_pool_is_bounded_by_what_it_has_room_for() {
        let mut pool = Pool::default();
        for room in [Pool::ROOM_MAX / 2, Pool::ROOM_MAX, 16, Pool::ROOM_MAX / 2] {
            let container = Container { pieces: VecDeque::with_capacity(room), bytes: 0 };
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
    fn ranges_that_touch_become_one() {
        let mut queue = SendQueue::default();
        queue.push_range(Range { buffer: ARENA, start: 0, end: 10 });
        queue.push_range(Range { buffer: ARENA, start: 10, end: 20 });
        queue.push_range(Range { buffer: OUT, start: 20, end: 30 });
        assert_eq!((queue.0.as_ref().map(|container| container.pieces.len()), queue.len()), (Some(2), 30));
        queue.clear();
        assert!(queue.is_empty());
    }
}
