//! Frames, read in the caller's buffer.
//!
//! The decoder is lent the bytes that are there, front first, and points into them. A frame is judged from its header
//! before anything is kept for it, and unmasked once, in place, when it is complete. Only the fragments of an
//! incomplete message are copied, so an idle connection owns no memory here.

use std::{io::Cursor, ops::Range};

use tungstenite::{error::ProtocolError, protocol::frame::FrameHeader};

use super::{CONTROL_MAX, Limits, OpCode, Role, close, utf8::Utf8};
use crate::{
    base::{CloseCode, Fault},
    wire::{copy, mask},
};

/// A whole message, borrowed from the bytes it came in (or from the decoder, when it came in fragments).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'b> {
    /// A text message.
    Text(&'b str),
    /// A binary message.
    Binary(&'b [u8]),
    /// Asks for a pong with this payload.
    Ping(&'b [u8]),
    /// Answers a ping, or comes unasked.
    Pong(&'b [u8]),
    /// The peer closes, with code and reason if it gave them.
    Close(Option<(CloseCode, &'b str)>),
}

/// What one call of [`Decoder::decode`] made of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// The frame at the front is incomplete and nothing was consumed: so many bytes, counted from the front and more
    /// than there are, make it worth to call again. To call earlier is allowed, and refuses text that is not UTF-8 as
    /// soon as its first wrong byte is there.
    Need(usize),
    /// So many bytes at the front are done with: a fragment was kept, or what follows a close was discarded.
    Fragment(usize),
    /// A message.
    Message {
        /// Bytes at the front that are done with.
        consumed: usize,
        /// What they hold.
        message: Message<'b>,
    },
    /// A whole compressed message, after [`Decoder::allow_deflate`] only. Its limits were those of what came: the
    /// caller inflates it under limits of its own for what comes out, and checks that text is UTF-8.
    Deflated {
        /// Bytes at the front that are done with.
        consumed: usize,
        /// Whether it is text.
        is_text: bool,
        /// The payloads of its frames (RFC 7692 section 7.2.2).
        payload: &'b [u8],
    },
}

/// What [`Decoder::decode_onward`] made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReframedStep<'b> {
    /// The step.
    pub step: Step<'b>,
    /// Where the message now lies as a server's frame, if it was written anew.
    pub frame: Option<Range<usize>>,
}

/// Reads one direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    /// The fragments of the message that is incomplete; or, when `delivered`, the message that was handed out last.
    message: Vec<u8>,
    /// Payload bytes of the incomplete frame at the front which `utf8` has seen: not all where it is larger than this
    /// counts.
    checked: u32,
    utf8: Utf8,
    /// What the incomplete message is.
    kind: Option<Kind>,
    role: Role,
    delivered: bool,
    /// Messages may be compressed.
    deflate: bool,
    /// The incomplete message is compressed.
    deflated: bool,
    /// A close frame or a fault was the last thing to be read.
    ended: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 40, "paid by every idle connection");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

/// The front of the bytes as a frame, `start..end` being its payload, which need not be there yet.
#[derive(Clone, Copy)]
struct Frame {
    opcode: OpCode,
    fin: bool,
    /// Begins a compressed message.
    rsv1: bool,
    mask: Option<[u8; 4]>,
    start: usize,
    end: usize,
}

/// A frame of the common kind that is there to its end, `start..end` being its payload.
struct Common {
    is_text: bool,
    /// The mask of a client's frame.
    key: [u8; 4],
    start: usize,
    end: usize,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new(role: Role) -> Self {
        Self {
            message: Vec::new(),
            checked: 0,
            utf8: Utf8::default(),
            kind: None,
            role,
            delivered: false,
            deflate: false,
            deflated: false,
            ended: false,
        }
    }

    /// From now on a message may be compressed: permessage-deflate was agreed on (RFC 7692). Its first frame says so by
    /// RSV1, which stays a fault everywhere else.
    pub fn allow_deflate(&mut self) {
        self.deflate = true;
    }

    /// Reads the frame at the front of `bytes`, unmasking it in place.
    ///
    /// Call again behind the consumed bytes until it says [`Step::Need`]; bytes that were not consumed come again,
    /// unchanged and with more behind them. A message that came in fragments stays in memory until the next call, or
    /// until [`release`](Self::release). After a close frame, and after a fault, all that comes is discarded
    /// (RFC 6455 section 1.4).
    ///
    /// # Errors
    /// The peer broke the protocol (1002), sent text that is not UTF-8 (1007) or more than `limits` allow (1009).
    #[inline]
    pub fn decode<'b>(&'b mut self, limits: &Limits, bytes: &'b mut [u8]) -> Result<Step<'b>, Fault> {
        let Some(Common { is_text, key, start, end }) = self.common(limits, bytes) else {
            return self.decode_any(limits, bytes);
        };
        let payload = &mut bytes[start..end];
        if self.role == Role::Server {
            mask::apply(key, payload);
        }
        if !is_text {
            return Ok(Step::Message { consumed: end, message: Message::Binary(payload) });
        }
        self.whole_text(payload).map(|text| Step::Message { consumed: end, message: Message::Text(text) })
    }

    /// Reads the frame at `at`, as [`decode`](Self::decode) does, and makes it one to be passed on: a whole message in
    /// one frame below 64 KiB is written anew at `front` (which must not be behind `at`), as the frame in which a server
    /// sends it, and `front` is moved behind it. So the messages of one read come to lie one behind the other, unmasked,
    /// each byte passed over once. Other frames are read where they lie, and `front` is moved behind them too. What is
    /// consumed is counted from `at`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    #[inline]
    pub fn decode_onward<'b>(
        &'b mut self,
        limits: &Limits,
        bytes: &'b mut [u8],
        at: usize,
        front: &mut usize,
    ) -> Result<ReframedStep<'b>, Fault> {
        debug_assert!(*front <= at && self.role == Role::Server);
        let Some(Common { is_text, key, start, end }) = self.common(limits, &bytes[at..]) else {
            let step = self.decode_any(limits, &mut bytes[at..])?;
            if let Step::Fragment(consumed) | Step::Message { consumed, .. } | Step::Deflated { consumed, .. } = step {
                *front = at + consumed;
            }
            return Ok(ReframedStep { step, frame: None });
        };
        let header = start - key.len();
        let (from, to) = (at + start, *front + header);
        // All four, though the shorter head has two: the payload comes over the others, and lies further behind.
        let head = [bytes[at], bytes[at + 1] & 0x7f, bytes[at + 2], bytes[at + 3]];
        bytes[*front..*front + 4].copy_from_slice(&head);
        mask::apply_onward(key, bytes, from, to, end - start);
        let frame = *front..to + (end - start);
        *front = frame.end;
        let payload = &bytes[to..frame.end];
        let message = if is_text { Message::Text(self.whole_text(payload)?) } else { Message::Binary(payload) };
        Ok(ReframedStep { step: Step::Message { consumed: end, message }, frame: Some(frame) })
    }

    /// The frame at the front, if it is of the common kind: a whole message in one frame that is there to its end, with
    /// nothing left over from before. Any other frame, wrong or only rare, is left to [`decode_any`](Self::decode_any),
    /// so that the rules are written down once.
    #[inline]
    fn common(&self, limits: &Limits, bytes: &[u8]) -> Option<Common> {
        if self.delivered | self.ended | self.kind.is_some() {
            return None;
        }
        let &[first, second, a, b] = bytes.first_chunk::<4>()?;
        // FIN and the opcode, no reserved bit.
        let is_text = match first {
            0x81 => true,
            0x82 => false,
            _ => return None,
        };
        let (mask_bit, mask_len) = match self.role {
            Role::Server => (0x80, 4),
            Role::Client => (0, 0),
        };
        let (start, len) = match second ^ mask_bit {
            short @ 0..126 => (2, usize::from(short)),
            126 => (4, usize::from(u16::from_be_bytes([a, b]))),
            // The form of eight bytes, and a mask where none belongs or none where one does.
            _ => return None,
        };
        let not_shortest = start == 4 && len < 126;
        let key = if mask_len == 4 { *bytes.get(start..)?.first_chunk::<4>()? } else { [0; 4] };
        let start = start + mask_len;
        let end = start + len;
        if not_shortest | (len > limits.frame_max) | (len > limits.message_max) | (end > bytes.len()) {
            return None;
        }
        Some(Common { is_text, key, start, end })
    }

    /// A text message in one frame.
    fn whole_text<'b>(&mut self, payload: &'b [u8]) -> Result<&'b str, Fault> {
        // What was looked at while the frame was incomplete is looked at again: at once this is cheaper.
        self.checked = 0;
        self.utf8 = Utf8::default();
        str::from_utf8(payload).map_err(|_| self.end(not_utf8()))
    }

    /// Any frame.
    #[inline(never)]
    fn decode_any<'b>(&'b mut self, limits: &Limits, bytes: &'b mut [u8]) -> Result<Step<'b>, Fault> {
        if self.delivered {
            self.release();
        }
        if self.ended {
            return Ok(if bytes.is_empty() { Step::Need(1) } else { Step::Fragment(bytes.len()) });
        }
        let frame = match self.front(limits, bytes) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(Step::Need(header_len(bytes))),
            Err(fault) => return Err(self.end(fault)),
        };
        if bytes.len() < frame.end {
            return match self.look_ahead(&frame, &bytes[frame.start..]) {
                Ok(()) => Ok(Step::Need(frame.end)),
                Err(fault) => Err(self.end(fault)),
            };
        }
        let payload = &mut bytes[frame.start..frame.end];
        if let Some(key) = frame.mask {
            mask::apply(key, payload);
        }
        let payload: &'b [u8] = payload;
        let consumed = frame.end;
        match frame.opcode {
            OpCode::Ping => Ok(Step::Message { consumed, message: Message::Ping(payload) }),
            OpCode::Pong => Ok(Step::Message { consumed, message: Message::Pong(payload) }),
            OpCode::Close => match close::read(payload) {
                Ok(close) => {
                    self.ended = true;
                    self.release();
                    Ok(Step::Message { consumed, message: Message::Close(close) })
                }
                Err(fault) => Err(self.end(fault)),
            },
            OpCode::Text | OpCode::Binary if frame.fin && frame.rsv1 => {
                Ok(Step::Deflated { consumed, is_text: frame.opcode == OpCode::Text, payload })
            }
            OpCode::Binary if frame.fin => Ok(Step::Message { consumed, message: Message::Binary(payload) }),
            OpCode::Text if frame.fin => {
                self.whole_text(payload).map(|text| Step::Message { consumed, message: Message::Text(text) })
            }
            OpCode::Text | OpCode::Binary | OpCode::Continue => match self.keep(limits, &frame, payload) {
                Err(fault) => Err(self.end(fault)),
                Ok(None) => Ok(Step::Fragment(consumed)),
                Ok(Some(kind)) if self.deflated => {
                    Ok(Step::Deflated { consumed, is_text: kind == Kind::Text, payload: &self.message })
                }
                Ok(Some(kind)) => Ok(Step::Message { consumed, message: whole(kind, &self.message)? }),
            },
        }
    }

    /// Gives back the memory of the message that was handed out last, if it came in fragments. The next
    /// [`decode`](Self::decode) does it too: this is for callers that wait for bytes before they call again.
    pub fn release(&mut self) {
        if self.delivered || self.ended {
            self.message = Vec::new();
            self.delivered = false;
        }
    }

    /// Whether a message is incomplete: some, but not all of its fragments have come.
    pub fn is_mid_message(&self) -> bool {
        self.kind.is_some()
    }

    /// Bytes this decoder has on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.message.capacity()
    }

    /// The header at the front, judged; `None` when it is incomplete.
    fn front(&self, limits: &Limits, bytes: &[u8]) -> Result<Option<Frame>, Fault> {
        let mut cursor = Cursor::new(bytes);
        let (header, len) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Ok(None),
            Err(tungstenite::Error::Protocol(ProtocolError::InvalidOpcode(_))) => {
                return Err(protocol("reserved opcode"));
            }
            Err(_) => return Err(protocol("unreadable frame header")),
        };
        let Some(opcode) = OpCode::of(header.opcode) else { return Err(protocol("reserved opcode")) };
        // RFC 7692 section 6: on the first frame of a data message.
        let may_deflate = self.deflate && matches!(opcode, OpCode::Text | OpCode::Binary);
        if (header.rsv1 && !may_deflate) || header.rsv2 || header.rsv3 {
            return Err(protocol("reserved bit without an extension"));
        }
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(protocol("frame of a client is not masked")),
            (Role::Client, Some(_)) => return Err(protocol("frame of a server is masked")),
            _ => {}
        }
        let start = cursor.position() as usize;
        // Section 5.2: the shortest form of the length, and its top bit is zero.
        if start != header.len(len) || len > u64::MAX >> 1 {
            return Err(protocol("frame length in a wrong form"));
        }
        if opcode.is_control() {
            if !header.is_final {
                return Err(protocol("fragmented control frame"));
            }
            if len > CONTROL_MAX as u64 {
                return Err(protocol("control frame above 125 bytes"));
            }
        } else {
            self.admit(limits, opcode, len)?;
        }
        // The limits are `usize`, so what they admitted is too.
        let Some(end) = usize::try_from(len).ok().and_then(|len| start.checked_add(len)) else {
            return Err(too_big());
        };
        Ok(Some(Frame { opcode, fin: header.is_final, rsv1: header.rsv1, mask: header.mask, start, end }))
    }

    /// Judges the order and the size of a data frame.
    fn admit(&self, limits: &Limits, opcode: OpCode, len: u64) -> Result<(), Fault> {
        match (opcode, self.kind) {
            (OpCode::Continue, None) => return Err(protocol("continuation of nothing")),
            (OpCode::Text | OpCode::Binary, Some(_)) => {
                return Err(protocol("new message before the last was complete"));
            }
            _ => {}
        }
        let total = (self.message.len() as u64).saturating_add(len);
        if len > limits.frame_max as u64 || total > limits.message_max as u64 {
            return Err(too_big());
        }
        Ok(())
    }

    /// Checks the text of an incomplete frame as far as it is there. The bytes stay as they are: a piece at a time is
    /// unmasked on the side.
    fn look_ahead(&mut self, frame: &Frame, there: &[u8]) -> Result<(), Fault> {
        let is_text = match frame.opcode {
            OpCode::Text => !frame.rsv1,
            OpCode::Continue => self.kind == Some(Kind::Text) && !self.deflated,
            _ => false,
        };
        if !is_text {
            return Ok(());
        }
        let mut side = [0; 512];
        for piece in there.get(self.checked as usize..).unwrap_or_default().chunks(side.len()) {
            let Some(checked) = self.checked.checked_add(piece.len() as u32) else { break };
            let side = &mut side[..piece.len()];
            side.copy_from_slice(piece);
            if let Some(key) = frame.mask {
                mask::apply_at(key, self.checked as usize, side);
            }
            self.utf8.feed(side).map_err(|_| not_utf8())?;
            self.checked = checked;
        }
        Ok(())
    }

    /// Keeps a fragment. After the last one it says what the message is.
    fn keep(&mut self, limits: &Limits, frame: &Frame, payload: &[u8]) -> Result<Option<Kind>, Fault> {
        let kind = match frame.opcode {
            OpCode::Text => Kind::Text,
            OpCode::Binary => Kind::Binary,
            _ => self.kind.unwrap_or(Kind::Binary),
        };
        if frame.opcode != OpCode::Continue {
            self.deflated = frame.rsv1;
        }
        if kind == Kind::Text && !self.deflated {
            self.utf8.feed(payload.get(self.checked as usize..).unwrap_or_default()).map_err(|_| not_utf8())?;
            self.checked = 0;
            if frame.fin && !self.utf8.is_whole() {
                return Err(not_utf8());
            }
        }
        let len = self.message.len() + payload.len();
        if len > self.message.capacity() {
            // Grows by doubling, but never past the limit.
            let room = self.message.capacity().saturating_mul(2).min(limits.message_max).max(len);
            self.message.reserve_exact(room - self.message.len());
        }
        copy::append(&mut self.message, payload);
        self.kind = if frame.fin { None } else { Some(kind) };
        self.delivered = frame.fin;
        Ok(frame.fin.then_some(kind))
    }

    /// Nothing is read after a fault.
    fn end(&mut self, fault: Fault) -> Fault {
        self.ended = true;
        self.kind = None;
        self.release();
        fault
    }
}

/// Bytes of the header that `bytes` begin, as far as can be told: at least one more than there are.
fn header_len(bytes: &[u8]) -> usize {
    let Some(second) = bytes.get(1) else { return 2 };
    let length = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let len = 2 + length + if second & 0x80 == 0 { 0 } else { 4 };
    len.max(bytes.len() + 1)
}

fn whole(kind: Kind, bytes: &[u8]) -> Result<Message<'_>, Fault> {
    Ok(match kind {
        Kind::Binary => Message::Binary(bytes),
        // The fragments were checked as they came: this cannot fail, and it is the safe way to a `str`.
        Kind::Text => Message::Text(str::from_utf8(bytes).map_err(|_| not_utf8())?),
    })
}

fn protocol(reason: &'static str) -> Fault {
    Fault::new(CloseCode::PROTOCOL, reason)
}

fn not_utf8() -> Fault {
    Fault::new(CloseCode::INVALID_DATA, "text is not UTF-8")
}

fn too_big() -> Fault {
    Fault::new(CloseCode::TOO_BIG, "message above the limit")
}
