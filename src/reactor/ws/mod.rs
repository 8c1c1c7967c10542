//! WebSocket and plain HTTP answers on the loop: [`Ws`] makes a [`WsHandler`] a [`Protocol`].
//!
//! Owns a connection's life as HTTP and WebSocket know it: the request head with its Host and Origin checks, the
//! upgrade, frames, pings both ways, the close handshake and their time limits. Must not know what messages mean.
//!
//! A relay: connections are joined in pairs, and what one says goes to the other, never copied ([`WsIo::forward_to`]) and
//! no faster than the other reads.
//!
//! ```
//! use std::net::{SocketAddr, TcpStream};
//!
//! use amp_relay::{
//!     base::{Close, CloseCode, ConnToken, Fault},
//!     reactor::ws::{Answer, Data, Ws, WsHandler, WsIo, WsOptions},
//!     reactor::{BoundAddr, Listen, Options, Peer, Reactor, Sent},
//!     wire::http::{Head, Response},
//! };
//! use tungstenite::WebSocket; // the client of this example
//!
//! #[derive(Default)]
//! struct Pairs {
//!     waiting: Option<ConnToken>,
//!     /// Connections that have lost their other one.
//!     left: Vec<ConnToken>,
//! }
//!
//! impl WsHandler for Pairs {
//!     type Conn = Option<ConnToken>; // the other one
//!     type Mail = ();
//!
//!     fn request(&mut self, head: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<Self::Conn> {
//!         if head.path == "/pair" { Answer::upgrade(None) } else { Answer::Respond(Response::text(404, "try /pair")) }
//!     }
//!
//!     fn open(&mut self, other: &mut Self::Conn, io: &mut WsIo<'_, Self>) -> Result<(), Fault> {
//!         let me = io.token();
//!         match self.waiting.take().and_then(|first| Some((first, io.conn(first)?))) {
//!             Some((first, theirs)) => (*theirs, *other) = (Some(me), Some(first)),
//!             None => self.waiting = Some(me),
//!         }
//!         Ok(())
//!     }
//!
//!     fn message(&mut self, other: &mut Self::Conn, io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
//!         let Some(other) = *other else { return Err(Fault::new(CloseCode::POLICY, "nobody is here yet")) };
//!         if io.forward_to(other, message) == Sent::High {
//!             io.pause(io.token());
//!         }
//!         Ok(())
//!     }
//!
//!     fn writable(&mut self, other: &mut Self::Conn, io: &mut WsIo<'_, Self>) {
//!         if let Some(other) = *other {
//!             io.resume(other);
//!         }
//!     }
//!
//!     fn closed(&mut self, other: Self::Conn, token: ConnToken, _: Close) {
//!         self.waiting = self.waiting.filter(|&waiting| waiting != token);
//!         self.left.extend(other);
//!     }
//!
//!     fn turn(&mut self, io: &mut WsIo<'_, Self>) {
//!         for other in self.left.drain(..) {
//!             io.close(other, CloseCode::GOING_AWAY, "the other one has gone");
//!         }
//!     }
//! }
//!
//! fn connect(address: SocketAddr) -> Result<WebSocket<TcpStream>, Box<dyn std::error::Error>> {
//!     let (socket, _answer) = tungstenite::client::client(format!("ws://{address}/pair"), TcpStream::connect(address)?)?;
//!     Ok(socket)
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // One worker, so that any two connections can be a pair.
//!     let listeners = vec![Listen::Tcp("127.0.0.1:0".parse()?)];
//!     let bound = Reactor::bind::<Ws<Pairs>>(Options { workers: 1, listeners, ..Options::default() })?;
//!     let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { unreachable!("a TCP listener") };
//!     let handle = bound.start(|_worker, _mailers| Ws::new(Pairs::default(), WsOptions::default()))?;
//!
//!     let (mut one, mut two) = (connect(address)?, connect(address)?);
//!     one.send("hello".into())?;
//!     assert_eq!(two.read()?, "hello".into());
//!     one.close(None)?;
//!     assert!(two.read()?.is_close());
//!
//!     handle.drain();
//!     drop((one, two));
//!     Ok(handle.join()?)
//! }
//! ```

mod conn;
#[cfg(feature = "deflate")]
mod deflate;
#[cfg(not(feature = "deflate"))]
#[path = "deflate_off.rs"]
mod deflate;
mod io;
mod options;

use bytes::Bytes;

use self::{conn::Phase, deflate::Deflating};
pub use self::{
    conn::WsConn,
    io::{Framed, WsIo},
    options::WsOptions,
};
use super::{
    options::{Peer, PeerAddr},
    protocol::{Io, Protocol, Refuse},
};
use crate::{
    base::{Close, CloseCode, ConnToken, Fault},
    wire::{
        http::{self, Head, Parsed, Response},
        ws::{Limits, Message, OpCode, ReframedStep, Step, answer_pings, close_frame, frame, frame_len},
    },
};

/// Every ping has its answer while no more than this many bytes wait. Above, the latest one alone has (RFC 6455 section
/// 5.5.3 asks for no more), and its answer goes ahead of what waits.
const PONG_QUEUE_MAX: usize = 64 * 1024;
/// What a ping says that asks whether what was sent before it is read.
const PROBE: &[u8] = b"read?";
/// The same as a frame: of a server it is always these bytes.
const PROBE_FRAME: &[u8] = b"\x89\x05read?";
/// What a peer sends at once that sends much.
const BUSY_BYTES: usize = 4 * 1024;
/// When it is worth to try again where there was no room.
const RETRY_AFTER_S: &str = "5";
/// Once the messages of a connection have so many bytes inflated, the rest of what came waits for the next turn: a read of
/// 512 KiB may hold a thousand times as much.
const INFLATED_MAX: usize = 256 * 1024;
/// So much is read of a connection that is paused, to find its pings.
const HELD_MAX: usize = 16 * 1024;
/// Below this size of an incomplete frame every read is decoded, so that text which is not UTF-8 is refused early.
const EAGER_MAX: usize = 16 * 1024;

/// A whole data message: fragments are put together before, and compressed ones inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'b> {
    /// Text, which is known to be UTF-8.
    Text(&'b str),
    /// Bytes.
    Binary(&'b [u8]),
}

impl<'b> Data<'b> {
    /// The payload, whichever kind it is.
    pub fn as_bytes(self) -> &'b [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// What a request gets.
pub enum Answer<C> {
    /// The upgrade to WebSocket, if the request asks well for one (else 426 or 400).
    Upgrade {
        /// The new connection's state.
        conn: C,
        /// The subprotocol chosen from those offered ([`Head::subprotocols`]); None chooses none of them.
        subprotocol: Option<&'static str>,
        /// Further headers of the 101, names and values being valid ones.
        headers: Vec<(&'static str, String)>,
    },
    /// A plain answer, after which the connection is closed.
    Respond(Response),
}

impl<C> Answer<C> {
    /// An upgrade without subprotocol.
    pub fn upgrade(conn: C) -> Self {
        Self::Upgrade { conn, subprotocol: None, headers: Vec::new() }
    }
}

/// A WebSocket service: one value for each worker. The rules of [`Protocol`] hold: no blocking, no callback inside of
/// another, panics close the connection they happen on (1011, or an answer 500 to the request), and one in `mail` or `turn`
/// ends the worker.
///
/// Callbacks of a connection: `request`; if that is answered with an upgrade `open`, then `message`, `timeout`, `writable`
/// and `drain`, and last `closed`. Pings are answered, and sent, without the handler. Once either side has said close
/// there is only `closed` left, when the other has said it too or [`WsOptions::close_ms`] are over.
pub trait WsHandler: Sized + Send + 'static {
    /// State of an open WebSocket.
    type Conn;
    /// What other threads may send a worker.
    type Mail: Send + 'static;

    /// Whether this handler says itself which connections may stay ([`WsIo::confirm`]); by default an upgrade says it.
    /// Until then a connection is provisional ([`Protocol::PROVISIONAL`]): if it gives way to a new one it is told 503
    /// or 1013.
    const CONFIRMS: bool = false;

    /// A request came, for a host that is allowed ([`HostPolicy::check`](crate::wire::http::HostPolicy::check), or
    /// `check_unix`; HTTP/1.0 may name none) and, if it asks for an upgrade, with an `Origin` that may. There is no WebSocket yet: this
    /// connection cannot be sent to here, closed or timed; in [`open`](Self::open) it can. State that was made for an
    /// upgrade which the request does not ask well for (426, 400) is dropped without `closed`.
    fn request(&mut self, head: &Head<'_>, peer: &Peer, io: &mut WsIo<'_, Self>) -> Answer<Self::Conn>;

    /// The upgrade was answered: what is sent here comes behind the 101.
    ///
    /// # Errors
    /// The peer's fault, which closes the connection with its code.
    fn open(&mut self, conn: &mut Self::Conn, io: &mut WsIo<'_, Self>) -> Result<(), Fault> {
        let _ = (conn, io);
        Ok(())
    }

    /// A message came: the next one of this connection, in order. [`WsIo::pause`] holds back the next ones, those that came
    /// in the same read too.
    ///
    /// # Errors
    /// The peer's fault, which closes the connection with its code.
    fn message(&mut self, conn: &mut Self::Conn, io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault>;

    /// Mail came from another thread. There is no current connection.
    fn mail(&mut self, io: &mut WsIo<'_, Self>, mail: Self::Mail) {
        let _ = (io, mail);
    }

    /// The time set with [`WsIo::set_timeout`] has come. By default that does nothing.
    ///
    /// # Errors
    /// A fault closes the connection with its code.
    fn timeout(&mut self, conn: &mut Self::Conn, io: &mut WsIo<'_, Self>) -> Result<(), Fault> {
        let _ = (conn, io);
        Ok(())
    }

    /// The send queue, which was above the high mark ([`Sent::High`](super::Sent::High)), is at the low mark or below.
    fn writable(&mut self, conn: &mut Self::Conn, io: &mut WsIo<'_, Self>) {
        let _ = (conn, io);
    }

    /// The loop begins to drain. If the connection is still open when this returns, it is closed with 1001.
    fn shutdown(&mut self, conn: &mut Self::Conn, io: &mut WsIo<'_, Self>) {
        let _ = (conn, io);
    }

    /// The WebSocket is over, for the first reason that either side had ([`Close::Broken`] where TCP ended without a close
    /// frame). Called once for every connection that was upgraded. What others should learn of it is told in
    /// [`turn`](Self::turn).
    fn closed(&mut self, conn: Self::Conn, token: ConnToken, why: Close) {
        let _ = (conn, token, why);
    }

    /// The end of a turn, before what was queued in it is written. Called in every turn. There is no current connection.
    fn turn(&mut self, io: &mut WsIo<'_, Self>) {
        let _ = io;
    }
}

/// A [`WsHandler`] as a [`Protocol`].
pub struct Ws<H> {
    handler: H,
    deflating: Deflating,
    options: WsOptions,
}

impl<H: WsHandler> Ws<H> {
    /// A protocol from a handler, to return from the closure that [`Bound::start`](super::Bound::start) takes.
    pub fn new(handler: H, options: WsOptions) -> Self {
        Self { handler, deflating: Deflating::new(&options), options }
    }

    /// The handler, to look at between turns ([`Worker::protocol`](super::Worker::protocol)).
    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Runs a callback of an open WebSocket and applies what it asked for its own connection.
    fn call<R>(
        &mut self,
        conn: &mut WsConn<H::Conn>,
        io: &mut Io<'_, Self>,
        callback: impl FnOnce(&mut H, &mut H::Conn, &mut WsIo<'_, H>) -> R,
    ) -> Option<R> {
        if conn.phase != Phase::Open {
            return None;
        }
        let app = conn.app.as_mut()?;
        let mut hands = WsIo::new(io.reborrow(), &self.options, &mut self.deflating).of(&mut conn.deflate);
        let result = callback(&mut self.handler, app, &mut hands);
        let asked = hands.asked();
        conn.apply(asked, io, &self.options);
        Some(result)
    }

    fn without_conn(&mut self, io: &mut Io<'_, Self>, callback: impl FnOnce(&mut H, &mut WsIo<'_, H>)) {
        callback(&mut self.handler, &mut WsIo::new(io.reborrow(), &self.options, &mut self.deflating));
    }

    /// The request head. Says how many bytes it took; 0 when it is incomplete.
    fn head(&mut self, conn: &mut WsConn<H::Conn>, io: &mut Io<'_, Self>, bytes: &[u8]) -> Result<usize, Fault> {
        let (consumed, head) = match http::parse(bytes) {
            Ok(Parsed::Partial) => return Ok(0),
            Ok(Parsed::Complete { consumed, head }) => (consumed, head),
            Err(response) => {
                let only_head = bytes.starts_with(b"HEAD ");
                return Ok(respond(conn, io, &response, only_head, bytes.len()));
            }
        };
        let only_head = head.method == "HEAD";
        let Some(peer) = conn.take_peer() else { return Ok(bytes.len()) };
        let hosts = &self.options.hosts;
        let host = match peer.addr {
            PeerAddr::Tcp(_) => hosts.check(&head),
            PeerAddr::Unix { .. } => hosts.check_unix(&head),
        };
        let checked = host.and_then(|()| match head.wants_upgrade() {
            true => http::check_origin(&head, false),
            false => Ok(()),
        });
        if let Err(response) = checked {
            return Ok(respond(conn, io, &response, only_head, bytes.len()));
        }
        let mut hands = WsIo::new(io.reborrow(), &self.options, &mut self.deflating);
        let answer = self.handler.request(&head, &peer, &mut hands);
        let (app, subprotocol, mut headers) = match answer {
            Answer::Respond(response) => return Ok(respond(conn, io, &response, only_head, bytes.len())),
            Answer::Upgrade { conn, subprotocol, headers } => (conn, subprotocol, headers),
        };
        let token = io.token();
        let has_room = if H::CONFIRMS { io.has_room(token) } else { io.confirm(token) };
        if !has_room {
            if H::CONFIRMS {
                io.no_room();
            }
            return Ok(respond(conn, io, &no_room(), only_head, bytes.len()));
        }
        io.spare(token);
        if let Some((own, header)) = self.deflating.agree(&head) {
            conn.deflate = own;
            conn.decoder.allow_deflate();
            headers.push(header);
        }
        match http::accept_with(&head, subprotocol, &headers) {
            Err(response) => {
                self.deflating.closed(std::mem::take(&mut conn.deflate));
                Ok(respond(conn, io, &response, only_head, bytes.len()))
            }
            Ok(answer) => {
                let _ = io.send(answer.into());
                io.answers_probes();
                conn.app = Some(app);
                conn.phase = Phase::Open;
                conn.watch_pings(io.now(), &self.options);
                conn.arm(io);
                match self.call(conn, io, |handler, app, hands| handler.open(app, hands)) {
                    Some(Err(fault)) => Err(fault),
                    _ => Ok(consumed),
                }
            }
        }
    }

    /// Frames, until the bytes hold no whole one or the connection is not open any more.
    fn frames(&mut self, conn: &mut WsConn<H::Conn>, io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
        let lent = bytes.as_ptr().addr();
        let (mut at, mut front) = (0, 0);
        let mut messages = 0;
        let mut frames = 0;
        let mut inflated = 0;
        let mut stops = None;
        let result = loop {
            if conn.phase == Phase::Over || io.is_stopped(&mut stops) {
                conn.decoder.release();
                self.held(conn, io, &mut bytes[at..]);
                break Ok(at);
            }
            let own = conn.message_max as usize;
            let WsOptions { message_max, frame_max, .. } = self.options;
            let limits = Limits { message_max: message_max.min(own), frame_max: frame_max.min(own) };
            let (step, frame) = match conn.decoder.decode_onward(&limits, bytes, at, &mut front) {
                Err(fault) => break Err(fault),
                Ok(ReframedStep { step, frame }) => (step, frame),
            };
            let (consumed, message) = match step {
                Step::Need(n) => {
                    if n > EAGER_MAX {
                        io.need(n);
                    }
                    break Ok(at);
                }
                Step::Fragment(n) => {
                    frames += 1;
                    at += n;
                    continue;
                }
                Step::Message { consumed, message } => (consumed, message),
                Step::Deflated { consumed, is_text, payload } => {
                    frames += 1;
                    messages += 1;
                    at += consumed;
                    if conn.phase != Phase::Open {
                        continue;
                    }
                    let message = self.deflating.inflate(&mut conn.deflate, payload, limits.message_max);
                    match message.and_then(|message| self.inflated(conn, io, message, is_text)) {
                        Err(fault) => break Err(fault),
                        Ok(bytes) => inflated += bytes,
                    }
                    if inflated > INFLATED_MAX {
                        // The receivers of these messages are written to before there are more.
                        conn.decoder.release();
                        io.again();
                        break Ok(at);
                    }
                    continue;
                }
            };
            frames += 1;
            at += consumed;
            let data = match message {
                Message::Text(text) => Data::Text(text),
                Message::Binary(bytes) => Data::Binary(bytes),
                Message::Ping(payload) => {
                    if conn.phase == Phase::Open {
                        pong(io, payload);
                    }
                    continue;
                }
                Message::Pong(payload) => {
                    if payload == PROBE {
                        io.answered(io.token(), bytes.len() > BUSY_BYTES);
                    }
                    continue;
                }
                Message::Close(close) => {
                    let code = close.map(|(code, _)| code);
                    conn.peer_closes(io, code);
                    continue;
                }
            };
            messages += 1;
            if conn.phase != Phase::Open {
                // We have said close: what still comes is not read.
                continue;
            }
            let Some(app) = conn.app.as_mut() else { continue };
            let deflate = (&mut self.deflating, &mut conn.deflate);
            let mut hands = WsIo::of_message(io.reborrow(), &self.options, deflate, (lent, at), data, frame);
            let handled = self.handler.message(app, &mut hands, data);
            if let Some(asked) = hands.asked_anything() {
                conn.apply(asked, io, &self.options);
            }
            if let Err(fault) = handled {
                break Err(fault);
            }
        };
        io.counters().frames_in.add(frames);
        io.counters().messages_in.add(messages);
        result
    }

    /// A message that came compressed. It is nowhere in the bytes lent, so whatever is forwarded of it is copied. Gives
    /// how many bytes it has.
    fn inflated(
        &mut self,
        conn: &mut WsConn<H::Conn>,
        io: &mut Io<'_, Self>,
        message: Vec<u8>,
        is_text: bool,
    ) -> Result<usize, Fault> {
        let bytes = message.len();
        let data = if is_text {
            let not_utf8 = |_| Fault::new(CloseCode::INVALID_DATA, "text is not UTF-8");
            Data::Text(str::from_utf8(&message).map_err(not_utf8)?)
        } else {
            Data::Binary(&message)
        };
        let handled = self.call(conn, io, |handler, app, hands| handler.message(app, hands, data));
        self.deflating.recycle(message);
        handled.unwrap_or(Ok(())).map(|()| bytes)
    }
}

/// The answer where there is no room for a connection that would stay.
fn no_room() -> Response {
    Response::text(503, "there is no room for more connections; try again").with("Retry-After", RETRY_AFTER_S)
}

/// Answers a ping, however much waits for the peer.
fn pong<H: WsHandler>(io: &mut Io<'_, Ws<H>>, payload: &[u8]) {
    let (token, pong) = (io.token(), frame(OpCode::Pong, payload));
    let is_soon = io.queued(token) <= PONG_QUEUE_MAX && !io.is_blocked(token);
    let _ = if is_soon { io.send(pong) } else { io.send_ahead(token, pong) };
    io.counters().frames_out.add(1);
}

/// A plain answer ends the connection.
fn respond<H: WsHandler>(
    conn: &mut WsConn<H::Conn>,
    io: &mut Io<'_, Ws<H>>,
    response: &Response,
    only_head: bool,
    len: usize,
) -> usize {
    let now = io.now();
    let bytes = if only_head { response.encode_head(now) } else { response.encode(now) };
    conn.phase = Phase::Over;
    let _ = io.send(bytes.into());
    io.close(io.token(), Close::Local(CloseCode::NORMAL));
    len
}

impl<H: WsHandler> Protocol for Ws<H> {
    type Conn = WsConn<H::Conn>;
    type Mail = H::Mail;

    const PROVISIONAL: bool = true;

    fn accept(&mut self, io: &mut Io<'_, Self>, peer: &Peer) -> Result<Self::Conn, Refuse> {
        let conn = WsConn::new(peer, io.now(), self.options.handshake_ms);
        conn.arm(io);
        Ok(conn)
    }

    fn input(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
        conn.heard = true;
        let mut at = 0;
        if conn.phase == Phase::Head {
            at = self.head(conn, io, bytes)?;
        }
        if !matches!(conn.phase, Phase::Open | Phase::Closing) || !io.is_open(io.token()) {
            return Ok(at);
        }
        let lent_from = at;
        let rest = io.within(lent_from, |io| self.frames(conn, io, &mut bytes[at..]))?;
        Ok(at + rest)
    }

    const HELD_MAX: usize = HELD_MAX;

    /// What a paused connection has sent waits, but for its pings: its peer may take their silence for ours.
    fn held(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>, bytes: &mut [u8]) {
        conn.heard = true;
        if conn.phase == Phase::Open && io.is_open(io.token()) {
            answer_pings(bytes, |payload| pong(io, payload));
        }
    }

    fn eof(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        // Without a close frame it is a broken connection, even if it ended in order.
        let why = conn.take_ending().unwrap_or(Close::Broken);
        conn.phase = Phase::Over;
        io.close(io.token(), why);
    }

    fn mail(&mut self, io: &mut Io<'_, Self>, mail: Self::Mail) {
        self.without_conn(io, |handler, hands| handler.mail(hands, mail));
    }

    fn timeout(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) -> Result<(), Fault> {
        let now_ms = io.now().mono_ms;
        if now_ms >= conn.next_ms {
            conn.deadline(io, &self.options);
        }
        if now_ms >= conn.app_ms && io.is_open(io.token()) {
            conn.app_ms = u64::MAX;
            if let Some(Err(fault)) = self.call(conn, io, |handler, app, hands| handler.timeout(app, hands)) {
                return Err(fault);
            }
        }
        conn.arm(io);
        Ok(())
    }

    fn writable(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        self.call(conn, io, |handler, app, hands| handler.writable(app, hands));
    }

    fn shutdown(&mut self, conn: &mut Self::Conn, io: &mut Io<'_, Self>) {
        self.call(conn, io, |handler, app, hands| handler.shutdown(app, hands));
        match conn.phase {
            Phase::Open => {
                io.last(io.token(), close_frame(CloseCode::GOING_AWAY, "going away"));
                // A peer that was paused must be read again, or its answer would never be seen.
                io.resume(io.token());
                conn.begin_close(Close::Drain, io.now(), &self.options);
                conn.arm(io);
            }
            // The closing bytes answer the request that was about to come.
            Phase::Head => io.close(io.token(), Close::Drain),
            Phase::Closing | Phase::Over => {}
        }
    }

    fn frame_len(bytes: &[u8]) -> Option<usize> {
        if bytes.first() == Some(&b'H') {
            // The answer to the upgrade, which no frame begins like.
            return bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        }
        frame_len(bytes)
    }

    fn probe() -> Bytes {
        Bytes::from_static(PROBE_FRAME)
    }

    fn closing_bytes(conn: &Self::Conn, why: &Close) -> Bytes {
        conn.closing_bytes(why)
    }

    fn closed(&mut self, conn: Self::Conn, token: ConnToken, why: Close) {
        self.deflating.closed(conn.deflate);
        if let Some(app) = conn.app {
            self.handler.closed(app, token, why);
        }
    }

    fn turn(&mut self, io: &mut Io<'_, Self>) {
        self.without_conn(io, |handler, hands| handler.turn(hands));
    }
}
