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

    /// Keeps the first `n` bytes and gives the others.
    fn split_off(&mut self, n: usize) -> Self {
        match self {
            Self::Owned(bytes) => Self::Owned(bytes.split_off(n)),
            Self::Range(range) => {
                let rest = Range { start: range.start + n as u32, ..*range };
                range.end = rest.start;
                Self::Range(rest)
            }
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
    /// Bytes of all pieces and of `ahead`.
    bytes: usize,
    /// Bytes at the front that belong to a frame of which the kernel has taken a part, and what was put ahead behind it.
    cut: usize,
    /// Goes out behind those and ahead of everything else.
    ahead: Option<Bytes>,
    /// Bytes that the kernel has taken since something waits.
    taken: u64,
}

impl SendQueue {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |container| container.bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the kernel has taken since something waits.
    pub(super) fn taken(&self) -> u64 {
        self.0.as_ref().map_or(0, |container| container.taken)
    }

    /// Whether a container would be worth giving before the next push.
    pub(super) fn wants_container(&self) -> bool {
        self.0.is_none()
    }

    /// Gives an empty container with memory of its own, so that a push need not allocate.
    pub(super) fn give_container(&mut self, mut container: Box<Container>) {
        debug_assert!(self.is_empty() && container.bytes == 0);
        container.taken = 0;
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

    /// Adds a range, which extends the last piece if it continues that.
    pub(super) fn push_range(&mut self, range: Range) {
        if range.len() > 0 {
            self.0.get_or_insert_default().push_range(range);
        }
    }

    /// Adds bytes that go out ahead of everything that waits. Bytes that were to go ahead and are not begun give way to
    /// them: says how many these were.
    pub(super) fn push_ahead(&mut self, ahead: Bytes) -> usize {
        match &mut self.0 {
            Some(container) if container.bytes > 0 => container.push_ahead(ahead),
            _ => {
                self.push(ahead);
                0
            }
        }
    }

    /// Bytes at the front that nothing goes ahead of.
    pub(super) fn cut(&self) -> usize {
        self.0.as_ref().map_or(0, |container| container.cut)
    }

    /// Nothing goes ahead of what waits now.
    pub(super) fn keep_front(&mut self) {
        if let Some(container) = &mut self.0 {
            container.cut = container.bytes;
        }
    }

    /// Puts a probe ahead of everything that waits. Says how many bytes it goes out behind, its own among them.
    pub(super) fn place_probe(&mut self, probe: Bytes) -> usize {
        self.0.as_mut().map_or(0, |container| container.place_probe(probe))
    }

    /// Forgets all but the frame that is begun and the last one, which is then sent where nothing else will be. Says
    /// how many bytes it forgot.
    pub(super) fn keep_last(&mut self, turn: &TurnBuffers<'_>, frame_len: impl Fn(&[u8]) -> Option<usize>) -> usize {
        self.0.as_mut().map_or(0, |container| container.keep_last(turn, frame_len))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Writes until the queue is empty, so many bytes are written, or the kernel takes no more. `frame_len` is
    /// [`Protocol::frame_len`](super::Protocol::frame_len).
    ///
    /// # Errors
    /// The connection is broken, after so many bytes.
    pub(super) fn write<W: Write>(
        &mut self,
        to: &mut W,
        turn: &TurnBuffers<'_>,
        scratch: &mut Scratch,
        most: usize,
        frame_len: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Wrote, usize> {
        self.0.as_mut().map_or(Ok(Wrote::default()), |container| container.write(to, turn, scratch, most, frame_len))
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

    fn push_ahead(&mut self, ahead: Bytes) -> usize {
        self.bytes += ahead.len();
        let replaced = self.ahead.replace(ahead).map_or(0, |replaced| replaced.len());
        self.bytes -= replaced;
        replaced
    }

    fn place_probe(&mut self, probe: Bytes) -> usize {
        self.bytes += probe.len();
        self.place(probe);
        self.cut
    }

    /// Puts what goes ahead in its place.
    #[cold]
    fn place(&mut self, ahead: Bytes) {
        let index = self.divide(self.cut);
        // The next one comes behind this one.
        self.cut = self.cut.saturating_add(ahead.len());
        self.pieces.insert(index, Piece::Owned(ahead));
    }

    /// Makes a piece begin behind the first `at` bytes, and says which.
    fn divide(&mut self, mut at: usize) -> usize {
        let mut index = 0;
        while let Some(piece) = self.pieces.get_mut(index).filter(|_| at > 0) {
            index += 1;
            if at < piece.len() {
                let rest = piece.split_off(at);
                self.pieces.insert(index, rest);
                break;
            }
            at -= piece.len();
        }
        index
    }

    /// The kernel takes the first `n` bytes and not all: finds where the frame ends that is cut by this. Frames are
    /// looked for only here, so that a peer that reads fast enough costs nothing for it.
    #[cold]
    fn cut_at(&mut self, n: usize, turn: &TurnBuffers<'_>, frame_len: impl Fn(&[u8]) -> Option<usize>) {
        self.cut = self.frame_at(n, turn, frame_len).1 - n;
    }

    /// Where the frame begins and ends that holds the last of the first `n` bytes. A frame that is begun counts as one.
    fn frame_at(&self, n: usize, turn: &TurnBuffers<'_>, frame_len: impl Fn(&[u8]) -> Option<usize>) -> (usize, usize) {
        let mut pieces = self.pieces.iter();
        let (mut start, mut end, mut before) = (0, self.cut, 0);
        let mut piece: &[u8] = &[];
        while end < n {
            while end >= before + piece.len() {
                let Some(next) = pieces.next() else { break };
                before += piece.len();
                piece = next.bytes(turn);
            }
            // A header is pushed in one piece, and a header that the front cuts off was looked at before.
            start = end;
            match frame_len(piece.get(end - before..).unwrap_or_default()) {
                Some(len) => end += len.max(1),
                None => end = usize::MAX,
            }
        }
        (start, end)
    }

    #[cold]
    fn keep_last(&mut self, turn: &TurnBuffers<'_>, frame_len: impl Fn(&[u8]) -> Option<usize>) -> usize {
        let before = self.bytes;
        self.bytes -= self.ahead.take().map_or(0, |ahead| ahead.len());
        let (start, end) = self.frame_at(self.bytes, turn, frame_len);
        if end == self.bytes && start > self.cut {
            let begun = self.divide(self.cut);
            let last = self.divide(start);
            self.pieces.drain(begun..last);
            self.bytes -= start - self.cut;
        }
        before - self.bytes
    }

    fn write<W: Write>(
        &mut self,
        to: &mut W,
        turn: &TurnBuffers<'_>,
        scratch: &mut Scratch,
        most: usize,
        frame_len: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Wrote, usize> {
        let mut wrote = Wrote::default();
        if let Some(ahead) = self.ahead.take() {
            self.place(ahead);
        }
        while self.bytes > 0 {
            let left = most - wrote.bytes;
            let result = match self.pieces.len() {
                _ if left == 0 => {
                    wrote.blocked = true;
                    break;
                }
                _ if left < self.bytes => {
                    let first = self.pieces[0].bytes(turn);
                    to.write(&first[..first.len().min(left)])
                }
                1 => to.write(self.pieces[0].bytes(turn)),
                _ => self.write_pieces(to, turn, scratch),
            };
            wrote.calls += 1;
            match result {
                Ok(0) => return Err(wrote.bytes),
                Ok(n) => {
                    wrote.bytes += n;
                    if n < self.bytes {
                        self.cut_at(n, turn, &frame_len);
                    } else {
                        self.cut = 0;
                    }
                    self.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wrote.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(wrote.bytes),
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
        self.taken += n as u64;
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

/// Spare containers of a worker: a queue that is written to in a turn borrows one for that turn.
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
#[path = "sendq_tests.rs"]
mod tests;
