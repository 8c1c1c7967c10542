//! Reading: one read for each ready connection and turn, into the worker's shared buffer.

use std::io::{self, Read};

use super::{Memory, Worker, call};
use crate::{
    base::{Close, CloseCode, ConnToken, Fault},
    reactor::{
        connections::Flags,
        protocol::{Lent, Protocol},
        sendq::{ARENA, LARGE},
    },
    wire::copy,
};

/// The smallest shared buffer.
pub(super) const ARENA_MIN: usize = 16 * 1024;
/// A read is not worth a call with less room than this.
const ROOM_MIN: usize = 4 * 1024;
/// What a turn reads of a connection that has yet to show that it may stay. Many of them with many small frames must not
/// make a turn long for the others.
const PROVISIONAL_READ: usize = 4 * 1024;
/// What is read and thrown away of a closed connection; from there on its peer has to wait, until it is cut off.
pub(super) const LINGER_BYTES: u32 = 16 << 20;

/// Whether the turn's reading goes on.
#[derive(PartialEq, Eq)]
enum Reading {
    More,
    /// The shared buffer is in use: its bytes are forwarded and wait for the flush.
    Full,
}

impl<P: Protocol> Worker<P> {
    /// Reads from every connection that was ready when the phase began.
    pub(super) fn read_ready(&mut self) {
        for _ in 0..self.core.ready.len() {
            let Some(token) = self.core.ready.pop_front() else { break };
            if self.read(token) == Reading::Full {
                self.core.ready.push_front(token);
                break;
            }
        }
    }

    fn read(&mut self, token: ConnToken) -> Reading {
        let Some(slot) = self.core.slots.get_mut(token) else { return Reading::More };
        let is_held = slot.is_held();
        let flags = &mut slot.flags;
        // Of a closed connection so much is read; before it is told that it closes, nothing.
        let is_closed = flags.has(Flags::CLOSING) && (!flags.has(Flags::CLOSED) || slot.need == 0);
        if flags.has(Flags::EOF | Flags::DEAD) || is_closed {
            flags.clear(Flags::READY);
            return Reading::More;
        }
        if is_held {
            return self.read_held(token);
        }
        let Memory { arena, used, .. } = &mut self.memory;
        let most = arena.len() / 2;
        // What an incomplete message has so far goes in front, unless the message is large: then it grows apart.
        let apart = slot.kept.len().max(slot.need as usize) > most;
        let front = if apart { 0 } else { slot.kept.len() };
        let room = arena.len() - *used;
        if room < front + ROOM_MIN {
            return Reading::Full;
        }
        flags.clear(Flags::READY);
        if flags.has(Flags::RESUMED) && !flags.has(Flags::CLOSED) && !slot.kept.is_empty() {
            // What was kept while it was paused goes first, and by itself: it may be paused again before it is through, and
            // must not gather more each time.
            self.received(token, apart, front, 0);
            self.core.make_ready(token);
            return Reading::More;
        }
        let at = *used + front;
        let may_stay = !flags.has(Flags::PROVISIONAL) || flags.has(Flags::CLOSED);
        let want = (room - front).min(if may_stay { most } else { PROVISIONAL_READ });
        let result = slot.stream.read(&mut arena[at..at + want]);
        self.core.counters.reads.add(1);
        let read = match result {
            Ok(0) => {
                flags.set(Flags::EOF);
                self.end_of_file(token);
                return Reading::More;
            }
            Ok(n) => n,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock if flags.has(Flags::RESUMED) => 0,
                io::ErrorKind::WouldBlock => return Reading::More,
                io::ErrorKind::Interrupted => {
                    self.core.make_ready(token);
                    return Reading::More;
                }
                _ => {
                    self.core.break_off(token, Close::Broken);
                    return Reading::More;
                }
            },
        };
        self.core.counters.bytes_in.add(read as u64);
        let again = read > 0 && (read == want || flags.has(Flags::HUP));
        let closed = flags.has(Flags::CLOSED);
        if closed {
            slot.need = slot.need.saturating_sub(u32::try_from(read).unwrap_or(u32::MAX));
        } else {
            self.received(token, apart, front, read);
        }
        if again {
            self.core.make_ready(token);
        }
        Reading::More
    }

    /// Reads a little from a paused connection, for the protocol to look at. What else waits in the kernel, the end of file
    /// included, is read when it resumes.
    fn read_held(&mut self, token: ConnToken) -> Reading {
        let Some(slot) = self.core.slots.get_mut(token) else { return Reading::More };
        let wanted = P::HELD_MAX.min(self.kept_max).saturating_sub(slot.kept.len());
        let Memory { arena, used, .. } = &mut self.memory;
        let room = arena.len() - *used;
        if wanted > 0 && room < ROOM_MIN {
            return Reading::Full;
        }
        slot.flags.clear(Flags::READY);
        if wanted == 0 {
            return Reading::More;
        }
        let bytes = &mut arena[*used..*used + wanted.min(room)];
        let result = slot.stream.read(bytes);
        self.core.counters.reads.add(1);
        match result {
            Ok(0) => {}
            Ok(n) => {
                self.core.counters.bytes_in.add(n as u64);
                copy::append(&mut slot.kept, &bytes[..n]);
                self.kept_bytes += n;
                let mut kept = std::mem::take(&mut slot.kept);
                call(&mut self.protocol, &mut self.core, token, Lent::default(), |p, conn, io| {
                    p.held(conn, io, &mut kept);
                });
                if let Some(slot) = self.core.slots.get_mut(token) {
                    slot.kept = kept;
                }
                if n == wanted.min(room) && n < wanted {
                    self.core.make_ready(token);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.core.make_ready(token),
            Err(_) => self.core.break_off(token, Close::Broken),
        }
        Reading::More
    }

    /// Bytes came: delivers them if enough are there, and keeps what is not consumed.
    fn received(&mut self, token: ConnToken, apart: bool, front: usize, read: usize) {
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        slot.flags.clear(Flags::RESUMED);
        let before = slot.kept.len();
        let start = self.memory.used;
        let new = start + front..start + front + read;
        let enough = before + read >= slot.need as usize;
        if apart || !enough {
            copy::append(&mut slot.kept, &self.memory.arena[new]);
            self.kept_bytes += read;
            if before + read > self.kept_max {
                let fault = Fault::new(CloseCode::TOO_BIG, "more bytes than a message may have");
                self.core.close(token, Close::Fault(fault));
            } else if enough {
                slot.need = 0;
                let kept = std::mem::take(&mut slot.kept);
                self.kept_bytes -= kept.len();
                self.deliver_large(token, kept);
            }
            return;
        }
        slot.need = 0;
        let kept = std::mem::take(&mut slot.kept);
        self.kept_bytes -= kept.len();
        let bytes = &mut self.memory.arena[start..start + front + read];
        bytes[..front].copy_from_slice(&kept);
        let lent = Lent { buffer: ARENA, start: start as u32, len: bytes.len() as u32 };
        let forwards = self.core.forwards;
        let called = call(&mut self.protocol, &mut self.core, token, lent, |p, conn, io| p.input(conn, io, bytes));
        if self.core.forwards != forwards {
            self.memory.used = start + front + read;
        }
        let len = front + read;
        self.consumed(token, called, kept, |memory| &memory.arena[start..start + len], len);
    }

    /// A message larger than the shared buffer allows, in memory of its own.
    fn deliver_large(&mut self, token: ConnToken, mut bytes: Vec<u8>) {
        let buffer = LARGE + self.memory.large.len() as u32;
        let lent = Lent { buffer, start: 0, len: bytes.len() as u32 };
        let len = bytes.len();
        let forwards = self.core.forwards;
        let lend = bytes.as_mut_slice();
        let called = call(&mut self.protocol, &mut self.core, token, lent, |p, conn, io| p.input(conn, io, lend));
        if self.core.forwards == forwards && !matches!(called, Some(Ok(n)) if n > 0) {
            // Nothing was consumed or forwarded: it stays as it is, without a copy.
            if let Some(slot) = self.core.slots.get_mut(token)
                && matches!(called, Some(Ok(_)))
            {
                self.kept_bytes += bytes.len();
                slot.kept = bytes;
            } else if let Some(Err(fault)) = called {
                self.core.close(token, Close::Fault(fault));
            }
            return;
        }
        self.memory.large.push(bytes);
        let index = (buffer - LARGE) as usize;
        self.consumed(token, called, Vec::new(), |memory| &memory.large[index], len);
        if self.core.forwards == forwards {
            self.memory.large.pop();
        }
    }

    /// Keeps what an input callback left over, in `spare` if that has room.
    fn consumed(
        &mut self,
        token: ConnToken,
        called: Option<Result<usize, Fault>>,
        mut spare: Vec<u8>,
        bytes: impl Fn(&Memory) -> &[u8],
        len: usize,
    ) {
        match called {
            Some(Ok(n)) => {
                debug_assert!(n <= len, "input consumed {n} of {len} bytes");
                if n >= len {
                    return;
                }
                spare.clear();
                copy::append(&mut spare, &bytes(&self.memory)[n..]);
                if let Some(slot) = self.core.slots.get_mut(token) {
                    self.kept_bytes += spare.len();
                    slot.kept = spare;
                }
            }
            Some(Err(fault)) => {
                self.core.close(token, Close::Fault(fault));
            }
            // It panicked, or the connection was closing: nothing is kept.
            None => {}
        }
    }

    fn end_of_file(&mut self, token: ConnToken) {
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        if slot.flags.has(Flags::CLOSED) {
            // We lingered for this.
            if slot.flags.has(Flags::SHUT) {
                self.core.break_off(token, Close::Peer(None));
            }
            return;
        }
        call(&mut self.protocol, &mut self.core, token, Lent::default(), |p, conn, io| p.eof(conn, io));
    }
}
