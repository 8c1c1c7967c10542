//! The bytes of compressed messages (RFC 7692 section 7.2), by flate2.

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Agreed, BITS_MAX, BITS_MIN, DeflateOptions};
use crate::{
    base::{CloseCode, Fault},
    wire::ws::Role,
};

/// The empty stored block that ends a flush: taken off what is sent and put back behind what comes (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// An empty final block. Only behind a whole block does it read as the end of a stream.
const FINAL: [u8; 2] = [0x03, 0x00];
/// Final blocks in one message. Each of them costs a copy of the window; no compressor writes more than one.
const FINALS_MAX: u32 = 16;
/// How far back a block may refer.
const WINDOW_MAX: usize = 1 << BITS_MAX;
/// A message of this length is never held against the ratio.
const RATIO_FREE: usize = 64 * 1024;
/// Room that a codec keeps between messages, in each direction.
const ROOM_KEPT_MAX: usize = 256 * 1024;
/// Room below this is not worth a call.
const ROOM_MIN: usize = 4 * 1024;
/// A compressor that has less room than this at the end of a flush would have to be asked again.
const FLUSH_ROOM: usize = 16;
/// Compressors that a codec shares: one for each size of window.
const SHARED_DEFLATERS: usize = (BITS_MAX - BITS_MIN + 1) as usize;

/// The extension on one connection: what was agreed, and the windows of the directions that keep theirs.
pub struct Connection {
    agreed: Agreed,
    role: Role,
    /// Made with the first message.
    deflater: Option<Compress>,
    inflater: Option<Decompress>,
}

impl Connection {
    /// A connection on which this was agreed, `role` being ours.
    pub fn new(role: Role, agreed: Agreed) -> Self {
        Self { agreed, role, deflater: None, inflater: None }
    }

    /// What was agreed.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Whether a window is kept in either direction.
    pub fn keeps_windows(&self) -> bool {
        !(self.agreed.server_no_takeover && self.agreed.client_no_takeover)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("agreed", &self.agreed).finish_non_exhaustive()
    }
}

/// What one thread compresses and decompresses with: the state that connections share, and the room for results.
pub struct Codec {
    options: DeflateOptions,
    inflater: Option<Decompress>,
    deflaters: [Option<Compress>; SHARED_DEFLATERS],
    inflated: Vec<u8>,
    deflated: Vec<u8>,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Codec {
    /// A codec that owns nothing before the first message.
    pub fn new(options: DeflateOptions) -> Self {
        let (inflated, deflated) = (Vec::new(), Vec::new());
        Self { options, inflater: None, deflaters: [const { None }; SHARED_DEFLATERS], inflated, deflated }
    }

    /// The settings.
    pub fn options(&self) -> &DeflateOptions {
        &self.options
    }

    /// The message that a whole compressed payload stands for. Give it back by [`recycle`](Self::recycle).
    ///
    /// Where no window is kept, the payload must end where a block ends. Where one is, a payload that is cut inside of
    /// a block cannot be told from one that goes on, so this peer's message comes out wrong.
    ///
    /// # Errors
    /// The message is longer than `message_max` or than the ratio allows (1009), or the bytes are not what a compressor
    /// writes (1007). The connection's window is lost.
    pub fn inflate(
        &mut self,
        connection: &mut Connection,
        payload: &[u8],
        message_max: usize,
    ) -> Result<Vec<u8>, Fault> {
        let peer = match connection.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        let (no_takeover, bits) = connection.agreed.sending(peer);
        let inflater = if no_takeover {
            let shared = self.inflater.get_or_insert_with(|| Decompress::new_with_window_bits(false, BITS_MAX));
            shared.reset(false);
            shared
        } else {
            let make = || Decompress::new_with_window_bits(false, bits.max(BITS_MIN));
            connection.inflater.get_or_insert_with(make)
        };
        let by_ratio = payload.len().saturating_mul(self.options.ratio_max as usize).max(RATIO_FREE);
        let mut inflating = Inflating {
            inflater,
            out: std::mem::take(&mut self.inflated),
            len: 0,
            max: message_max.min(by_ratio),
            finals: 0,
        };
        let inflated = inflating.message(payload, no_takeover);
        let Inflating { mut out, len, .. } = inflating;
        match inflated {
            Ok(()) => {
                out.truncate(len);
                Ok(out)
            }
            Err(fault) => {
                self.recycle(out);
                connection.inflater = None;
                Err(fault)
            }
        }
    }

    /// Takes back the room of a message.
    pub fn recycle(&mut self, inflated: Vec<u8>) {
        if inflated.capacity() <= ROOM_KEPT_MAX {
            self.inflated = inflated;
        }
    }

    /// The compressed payload of a message, to be sent in frames of which the first has RSV1. None: the message is to
    /// be sent as it is, because it is below the threshold or would not become shorter.
    pub fn deflate(&mut self, connection: &mut Connection, payload: &[u8]) -> Option<&[u8]> {
        if payload.len() < self.options.threshold.max(1) {
            return None;
        }
        let (no_takeover, bits) = connection.agreed.sending(connection.role);
        let shared = self.deflaters.get_mut(usize::from(bits.checked_sub(BITS_MIN)?))?;
        let slot = if no_takeover { shared } else { &mut connection.deflater };
        let level = Compression::new(u32::from(self.options.level.clamp(1, 9)));
        let deflater = slot.get_or_insert_with(|| Compress::new_with_window_bits(level, false, bits));
        if no_takeover {
            deflater.reset();
        }
        if self.deflated.capacity() > ROOM_KEPT_MAX {
            self.deflated = Vec::new();
        }
        let len = compress(deflater, payload, &mut self.deflated)
            .and_then(|len| len.checked_sub(TAIL.len()))
            .filter(|&len| len < payload.len() && self.deflated[len..].starts_with(&TAIL));
        if len.is_none() {
            // The peer will not see these bytes in its window, so ours must not hold them either.
            deflater.reset();
        }
        Some(&self.deflated[..len?])
    }
}

/// Compresses all of `payload` to a byte boundary. Says how much was written to `out`.
fn compress(deflater: &mut Compress, payload: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let (mut input, mut len) = (payload, 0);
    let room = payload.len() / 2 + ROOM_MIN;
    if out.len() < room {
        out.resize(room, 0);
    }
    loop {
        let (before_in, before_out) = (deflater.total_in(), deflater.total_out());
        deflater.compress(input, &mut out[len..], FlushCompress::Sync).ok()?;
        input = &input[(deflater.total_in() - before_in) as usize..];
        len += (deflater.total_out() - before_out) as usize;
        if input.is_empty() && out.len() - len >= FLUSH_ROOM {
            return Some(len);
        }
        out.resize(out.len() * 2, 0);
    }
}

/// One message while it is inflated.
struct Inflating<'a> {
    inflater: &'a mut Decompress,
    out: Vec<u8>,
    /// Bytes of the message in `out`.
    len: usize,
    max: usize,
    finals: u32,
}

impl Inflating<'_> {
    fn message(&mut self, payload: &[u8], alone: bool) -> Result<(), Fault> {
        self.feed(payload)?;
        self.feed(&TAIL)?;
        if alone {
            let before = self.inflater.total_in();
            let mut end = [0; 1];
            let status = self.inflater.decompress(&FINAL, &mut end, FlushDecompress::None);
            let whole = self.inflater.total_in() - before == FINAL.len() as u64;
            if !matches!(status, Ok(Status::StreamEnd)) || !whole {
                return Err(corrupt());
            }
        }
        Ok(())
    }

    /// Inflates all of `input`.
    fn feed(&mut self, mut input: &[u8]) -> Result<(), Fault> {
        loop {
            self.make_room()?;
            let (before_in, before_out) = (self.inflater.total_in(), self.inflater.total_out());
            let room = &mut self.out[self.len..];
            let status = self.inflater.decompress(input, room, FlushDecompress::None).map_err(|_| corrupt())?;
            let taken = (self.inflater.total_in() - before_in) as usize;
            let made = (self.inflater.total_out() - before_out) as usize;
            input = &input[taken..];
            self.len += made;
            if self.len > self.max {
                return Err(Fault::new(CloseCode::TOO_BIG, "compressed message above the limit"));
            }
            if status == Status::StreamEnd {
                self.restart()?;
            } else if taken == 0 && made == 0 && !input.is_empty() {
                return Err(corrupt());
            }
            // With room left there is nothing that waits to be written.
            if input.is_empty() && self.len < self.out.len() {
                return Ok(());
            }
        }
    }

    /// Behind a final block another may follow (section 7.2.3.4), and may refer to what was before it in this message;
    /// a reference to an earlier one would be corrupt here.
    fn restart(&mut self) -> Result<(), Fault> {
        self.finals += 1;
        if self.finals > FINALS_MAX {
            return Err(corrupt());
        }
        self.inflater.reset(false);
        let window = &self.out[self.len.saturating_sub(WINDOW_MAX)..self.len];
        if window.is_empty() {
            return Ok(());
        }
        self.inflater.set_dictionary(window).map(|_| ()).map_err(|_| corrupt())
    }

    /// Grows by doubling, to one byte more than a message may have.
    fn make_room(&mut self) -> Result<(), Fault> {
        if self.len == self.out.len() {
            let room = (self.out.len() * 2).max(ROOM_MIN).min(self.max.saturating_add(1));
            self.out.resize(room.max(self.len + 1), 0);
        }
        Ok(())
    }
}

fn corrupt() -> Fault {
    Fault::new(CloseCode::INVALID_DATA, "message is not compressed as agreed")
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
