//! What a WebSocket handler's callback can do.

use std::{ops::Range, ptr};

use bytes::Bytes;

use super::{
    Data, Ws, WsConn, WsHandler, WsOptions,
    conn::{Asked, Phase},
    deflate::{Deflating, Own},
};
use crate::{
    base::{Close, CloseCode, ConnToken, Now, Sent},
    reactor::{WorkerCounters, protocol::Io},
    wire::ws::{HEADER_MAX, OpCode, RSV1, close_frame, encode_header, frame},
};

/// A message framed once, to be sent to many, on any worker: cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed(Bytes);

impl Framed {
    /// A text message.
    pub fn text(text: &str) -> Self {
        Self(frame(OpCode::Text, text.as_bytes()))
    }

    /// A binary message.
    pub fn binary(bytes: &[u8]) -> Self {
        Self(frame(OpCode::Binary, bytes))
    }

    /// The message itself.
    pub fn payload(&self) -> &[u8] {
        // A server's frame: two bytes of header, and the length's own where it does not fit into them.
        let header = match self.0.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        self.0.get(header..).unwrap_or_default()
    }

    /// Bytes on the wire: the payload and the frame's header.
    pub fn wire_len(&self) -> usize {
        self.0.len()
    }
}

/// Handle passed to callbacks, as [`Io`] is for bytes. Tokens name open WebSockets of this worker: for all others (stale, another
/// worker's, not upgraded yet, closing) sends say [`Sent::Closed`] and what else would change something does nothing.
///
/// Every way of sending sends a whole message in one frame, and says what [`Sent`] says; marks count the frame's header too.
/// Where permessage-deflate was agreed on, all but [`framed_to`](Self::framed_to) and [`broadcast`](Self::broadcast) compress.
pub struct WsIo<'a, H: WsHandler> {
    io: Io<'a, Ws<H>>,
    options: &'a WsOptions,
    deflating: &'a mut Deflating,
    /// The current connection's part in it.
    own: Option<&'a mut Own>,
    /// Whether the current connection is an open WebSocket.
    open: bool,
    /// Address and length of the bytes that messages are in.
    lent: (usize, usize),
    /// The message that is being handled, if one is.
    message: Data<'a>,
    /// Where in them it lies as a frame that can be sent.
    frame: Option<Range<usize>>,
    asked: Asked,
}

impl<'a, H: WsHandler> WsIo<'a, H> {
    /// Hands for a callback without a connection.
    pub(super) fn new(io: Io<'a, Ws<H>>, options: &'a WsOptions, deflating: &'a mut Deflating) -> Self {
        let (message, asked) = (Data::Binary(&[]), Asked::default());
        Self { io, options, deflating, own: None, open: false, lent: (0, 0), message, frame: None, asked }
    }

    /// Hands for a callback of an open WebSocket.
    pub(super) fn of(mut self, own: &'a mut Own) -> Self {
        self.own = Some(own);
        self.open = true;
        self
    }

    /// For a message that lies in lent bytes.
    #[inline(always)]
    pub(super) fn of_message(
        io: Io<'a, Ws<H>>,
        options: &'a WsOptions,
        (deflating, own): (&'a mut Deflating, &'a mut Own),
        lent: (usize, usize),
        message: Data<'a>,
        frame: Option<Range<usize>>,
    ) -> Self {
        Self { io, options, deflating, own: Some(own), open: true, lent, message, frame, asked: Asked::default() }
    }

    pub(super) fn asked(self) -> Asked {
        self.asked
    }

    /// What was asked, if anything was.
    #[inline(always)]
    pub(super) fn asked_anything(&self) -> Option<Asked> {
        let Asked { close, timeout, message_max } = &self.asked;
        (close.is_some() | timeout.is_some() | message_max.is_some()).then_some(self.asked)
    }

    /// The current connection. In callbacks without one, a token that names none.
    pub fn token(&self) -> ConnToken {
        self.io.token()
    }

    /// The time, read once a turn, after the poll.
    pub fn now(&self) -> Now {
        self.io.now()
    }

    /// This worker's number, from 0.
    pub fn worker(&self) -> u16 {
        self.io.worker()
    }

    /// This worker's counters. Frames and messages are counted by this layer.
    pub fn counters(&self) -> &WorkerCounters {
        self.io.counters()
    }

    /// Whether the loop drains: no connection is accepted any more.
    pub fn is_draining(&self) -> bool {
        self.io.is_draining()
    }

    /// Whether the token names an open WebSocket of this worker.
    pub fn is_open(&mut self, token: ConnToken) -> bool {
        if token == self.io.token() {
            self.open && self.io.is_open(token)
        } else {
            self.io.conn(token).is_some_and(|conn| conn.phase == Phase::Open)
        }
    }

    /// Sends text to the current connection.
    pub fn text(&mut self, text: &str) -> Sent {
        self.text_to(self.io.token(), text)
    }

    /// Sends text to a WebSocket of this worker, as a copy: see [`Io::write_to`] for what that costs.
    pub fn text_to(&mut self, token: ConnToken, text: &str) -> Sent {
        self.copy_to(token, OpCode::Text, text.as_bytes())
    }

    /// Sends bytes to the current connection.
    pub fn binary(&mut self, bytes: &[u8]) -> Sent {
        self.binary_to(self.io.token(), bytes)
    }

    /// Sends bytes to a WebSocket of this worker, as a copy.
    pub fn binary_to(&mut self, token: ConnToken, bytes: &[u8]) -> Sent {
        self.copy_to(token, OpCode::Binary, bytes)
    }

    fn copy_to(&mut self, token: ConnToken, opcode: OpCode, payload: &[u8]) -> Sent {
        if !self.is_open(token) {
            return Sent::Closed;
        }
        if self.deflating.is_on()
            && let Some(sent) = self.deflate_to(token, opcode, payload)
        {
            return self.count(sent);
        }
        self.copy_as_it_is(token, opcode, payload)
    }

    fn copy_as_it_is(&mut self, token: ConnToken, opcode: OpCode, payload: &[u8]) -> Sent {
        let mut header = [0; HEADER_MAX];
        let len = encode_header(&mut header, opcode, true, payload.len() as u64, None);
        let sent = self.io.write_to(token, &[&header[..len], payload]);
        self.count(sent)
    }

    /// Sends a message compressed. None: to this connection it goes as it is.
    #[cold]
    fn deflate_to(&mut self, token: ConnToken, opcode: OpCode, payload: &[u8]) -> Option<Sent> {
        let own = if token == self.io.token() { self.own.as_deref_mut()? } else { &mut self.io.conn(token)?.deflate };
        let payload = self.deflating.deflate(own, payload)?;
        let mut header = [0; HEADER_MAX];
        let len = encode_header(&mut header, opcode, true, payload.len() as u64, None);
        header[0] |= RSV1;
        Some(self.io.write_to(token, &[&header[..len], payload]))
    }

    /// Sends a message that was framed before: shared, not copied, and not compressed. The way for what goes to many.
    pub fn framed_to(&mut self, token: ConnToken, framed: &Framed) -> Sent {
        if !self.is_open(token) {
            return Sent::Closed;
        }
        let sent = self.io.send_to(token, framed.0.clone());
        self.count(sent)
    }

    /// Sends a message to every open WebSocket of this worker but `except`. Says how many took it.
    pub fn broadcast(&mut self, framed: &Framed, except: Option<ConnToken>) -> usize {
        let others = self.tokens().filter(|&token| Some(token) != except);
        others.filter(|&token| self.framed_to(token, framed) != Sent::Closed).count()
    }

    /// Sends the message that is being handled, or a part of it, on. If it came in one frame its bytes are not
    /// copied: they are written from the buffer they were read into, at the end of the turn. Whole messages of less than
    /// 64 KiB that came one behind the other and go to the same connection are written as one piece, header and all.
    ///
    /// What lies elsewhere, being put together from fragments, inflated, or the handler's own, is copied as by
    /// [`text_to`](Self::text_to), so this is right for any data. On a worker where permessage-deflate is on, nothing
    /// is forwarded in whole frames, and what goes to a peer that agreed on it is compressed anew.
    pub fn forward_to(&mut self, token: ConnToken, data: Data<'_>) -> Sent {
        self.forward_if(token, data, |_| true).unwrap_or(Sent::Closed)
    }

    /// [`forward_to`](Self::forward_to) where the receiver's state, absent for the current connection, says that the
    /// message can go as it is. None: it says no, and nothing was done. `wanted` is not asked about a token that names no
    /// open WebSocket; that is `Some(Sent::Closed)`. One look-up instead of the two of [`conn`](Self::conn) and a send.
    #[inline]
    pub fn forward_if(
        &mut self,
        token: ConnToken,
        data: Data<'_>,
        wanted: impl FnOnce(Option<&H::Conn>) -> bool,
    ) -> Option<Sent> {
        let Some(frame) = self.whole_frame(data) else { return self.forward_part(token, data, wanted) };
        let current = (self.open).then(|| self.io.token());
        let mut unwanted = false;
        let sent = self.io.forward_if(token, frame, |conn| {
            let is_open = match conn {
                Some(conn) => conn.phase == Phase::Open,
                None => current == Some(token),
            };
            unwanted = is_open && !wanted(conn.and_then(|conn| conn.app.as_ref()));
            is_open && !unwanted
        });
        (!unwanted).then(|| self.count(sent))
    }

    /// Where the message lies as a frame that can be sent, if `data` is all of the message that is being handled.
    #[inline]
    fn whole_frame(&self, data: Data<'_>) -> Option<Range<usize>> {
        let frame = self.frame.as_ref()?;
        let ((kind, all), (opcode, payload)) = (parts(self.message), parts(data));
        (kind == opcode && ptr::eq(all, payload) && !self.deflating.is_on()).then(|| frame.clone())
    }

    /// Forwards what lies nowhere as a frame: a part of the message, a message that came in fragments or is large, or
    /// one that is to be compressed.
    fn forward_part(
        &mut self,
        token: ConnToken,
        data: Data<'_>,
        wanted: impl FnOnce(Option<&H::Conn>) -> bool,
    ) -> Option<Sent> {
        let (opcode, payload) = parts(data);
        if !self.is_open(token) {
            return Some(Sent::Closed);
        }
        if !wanted(self.conn(token).map(|conn| &*conn)) {
            return None;
        }
        if self.deflating.is_on()
            && let Some(sent) = self.deflate_to(token, opcode, payload)
        {
            return Some(self.count(sent));
        }
        let (address, len) = self.lent;
        let start = payload.as_ptr().addr().wrapping_sub(address);
        if start.checked_add(payload.len()).is_none_or(|end| end > len) {
            return Some(self.copy_as_it_is(token, opcode, payload));
        }
        let mut header = [0; HEADER_MAX];
        let written = encode_header(&mut header, opcode, true, payload.len() as u64, None);
        let sent = self.io.forward_behind(token, &header[..written], start..start + payload.len());
        Some(self.count(sent))
    }

    fn count(&self, sent: Sent) -> Sent {
        if sent != Sent::Closed {
            self.io.counters().frames_out.add(1);
            self.io.counters().messages_out.add(1);
        }
        sent
    }

    /// The handler's state of another open WebSocket of this worker. None for the current one: its state is in the
    /// callback's hands.
    pub fn conn(&mut self, token: ConnToken) -> Option<&mut H::Conn> {
        self.io.conn(token).filter(|conn| conn.phase == Phase::Open)?.app.as_mut()
    }

    /// The open WebSockets of this worker, in no order that means anything, the current one included. A list of its own, so
    /// that something can be done with each; it allocates, and takes as long as the worker has connections.
    pub fn tokens(&self) -> impl Iterator<Item = ConnToken> + use<H> {
        let current = self.open.then(|| self.io.token());
        let open = self.io.open_where(move |token, conn: Option<&WsConn<H::Conn>>| match conn {
            Some(conn) => conn.phase == Phase::Open,
            None => Some(token) == current,
        });
        open.collect::<Vec<_>>().into_iter()
    }

    /// Sets the handler's one timeout of a connection to so many milliseconds from [`now`](Self::now), or to never: not early,
    /// at most 16 ms late. The layer's own time limits are apart from it. Forgotten when the connection closes.
    pub fn set_timeout(&mut self, token: ConnToken, after_ms: Option<u64>) {
        let now = self.io.now();
        if token == self.io.token() {
            self.asked.timeout = Some(after_ms);
        } else if let Some(conn) = self.io.conn(token)
            && conn.phase == Phase::Open
        {
            conn.app_ms = after_ms.map_or(u64::MAX, |ms| now.mono_ms.saturating_add(ms));
            let wait = conn.wait_ms(now);
            self.io.set_timeout(token, wait);
        }
    }

    /// Lowers the limit of a connection's messages and frames to so many bytes, or lifts it to the layer's own again: a
    /// peer that has not signed in need not be able to make us hold as much as others. Heeded from the next message
    /// that begins to be read.
    pub fn limit_messages(&mut self, token: ConnToken, bytes_max: u32) {
        if token == self.io.token() {
            self.asked.message_max = Some(bytes_max);
        } else if let Some(conn) = self.io.conn(token) {
            conn.message_max = bytes_max;
        }
    }

    /// Says that a connection may stay ([`WsHandler::CONFIRMS`]): it does not give way to new ones any more. False:
    /// there is no room for more that stay, or the token names none. A peer that was about to be welcomed should then
    /// be told so.
    pub fn confirm(&mut self, token: ConnToken) -> bool {
        self.io.confirm(token)
    }

    /// A connection got a step further on its way to be confirmed: see [`Io::spare`]. An upgrade is such a step by itself.
    pub fn spare(&mut self, token: ConnToken) {
        self.io.spare(token);
    }

    /// Sends a close frame, behind what is queued, and waits for the answer ([`WsOptions::close_ms`]); messages that still
    /// come are not delivered, and no callback but [`closed`](WsHandler::closed) comes. Then TCP is closed. Of `reason` at
    /// most 123 bytes are sent. A connection that is paused is resumed.
    pub fn close(&mut self, token: ConnToken, code: CloseCode, reason: &str) {
        if !self.is_open(token) {
            return;
        }
        self.io.last(token, close_frame(code, reason));
        self.io.counters().frames_out.add(1);
        // A peer that was paused must be read again, or its answer would never be seen.
        self.io.resume(token);
        let now = self.io.now();
        if token == self.io.token() {
            self.open = false;
            self.asked.close = Some(code);
        } else if let Some(conn) = self.io.conn(token) {
            conn.begin_close(Close::Local(code), now, self.options);
            let wait = conn.wait_ms(now);
            self.io.set_timeout(token, wait);
        }
    }

    /// Reads no more messages from the connection until [`resume`](Self::resume). Those that came in the same read are held
    /// back too. Pings are answered as far as 16 KiB of what the peer sends go; behind more data than that they wait, as
    /// the data does. None are sent. Pausing twice is pausing once.
    pub fn pause(&mut self, token: ConnToken) {
        self.io.pause(token);
    }

    /// Reads again from a paused connection, beginning with what was held back.
    pub fn resume(&mut self, token: ConnToken) {
        self.io.resume(token);
    }

    /// Whether the kernel has refused bytes of the connection and takes no more: see [`Io::is_blocked`].
    pub fn is_blocked(&self, token: ConnToken) -> bool {
        self.io.is_blocked(token)
    }

    /// Whether it is blocked, or more than so many bytes wait for it: see [`Io::is_blocked_or_above`].
    #[inline]
    pub fn is_blocked_or_above(&self, token: ConnToken, bytes: usize) -> bool {
        self.io.is_blocked_or_above(token, bytes)
    }

    /// Whether the connection's peer is new and has yet to show that it reads: see [`Io::is_unproved`].
    pub fn is_unproved(&self, token: ConnToken) -> bool {
        self.io.is_unproved(token)
    }

    /// Bytes that wait to be written to the connection, what this turn has queued included; 0 for stale tokens.
    pub fn queued(&self, token: ConnToken) -> usize {
        self.io.queued(token)
    }

    /// Bytes that the kernel has taken of the connection since something waits ([`Io::taken`](crate::reactor::Io::taken)).
    pub fn taken(&self, token: ConnToken) -> u64 {
        self.io.taken(token)
    }
}

fn parts(data: Data<'_>) -> (OpCode, &[u8]) {
    match data {
        Data::Text(text) => (OpCode::Text, text.as_bytes()),
        Data::Binary(bytes) => (OpCode::Binary, bytes),
    }
}
