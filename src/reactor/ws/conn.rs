//! The state of one connection as HTTP and WebSocket know it, with its deadlines.

use bytes::Bytes;

use super::{Ws, WsHandler, WsOptions, deflate::Own, no_room};
use crate::{
    base::{Close, CloseCode, Now},
    reactor::{self, options::Peer, protocol::Io},
    wire::{
        http::Response,
        ws::{Decoder, OpCode, Role, close_frame, frame},
    },
};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request head is awaited.
    Head,
    /// A WebSocket.
    Open,
    /// Our close frame is on its way, the peer's is awaited.
    Closing,
    /// Everything is said.
    Over,
}

/// A connection of the WebSocket layer, opaque to hosts; `C` is the handler's own state.
#[derive(Debug)]
pub struct WsConn<C> {
    pub(super) app: Option<C>,
    /// What an open WebSocket has no need of until it is closed.
    rare: Option<Box<Rare>>,
    pub(super) decoder: Decoder,
    /// What was agreed on compression.
    pub(super) deflate: Own,
    pub(super) phase: Phase,
    /// The layer's own deadline: handshake, ping or close. `u64::MAX` is none.
    pub(super) next_ms: u64,
    /// The handler's deadline.
    pub(super) app_ms: u64,
    /// Most bytes of a message or frame on this connection, where that is less than the layer's own limits.
    pub(super) message_max: u32,
    /// Something came since the last look.
    pub(super) heard: bool,
    /// Pings since something came.
    missed: u8,
}

/// What a callback asked for its own connection, which is in its hands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) close: Option<CloseCode>,
    pub(super) timeout: Option<Option<u64>>,
    pub(super) message_max: Option<u32>,
}

/// What a connection has at its beginning or at its end.
#[derive(Debug)]
enum Rare {
    /// The peer, until the request is answered.
    Peer(Peer),
    /// Why it will have been closed, once the close handshake is over.
    Ending(Close),
}

impl<C> WsConn<C> {
    /// The peer, once: until the request is answered.
    pub(super) fn take_peer(&mut self) -> Option<Peer> {
        match *self.rare.take_if(|rare| matches!(**rare, Rare::Peer(_)))? {
            Rare::Peer(peer) => Some(peer),
            Rare::Ending(_) => None,
        }
    }

    /// Why it will have been closed, once: where the close handshake has begun.
    pub(super) fn take_ending(&mut self) -> Option<Close> {
        match *self.rare.take_if(|rare| matches!(**rare, Rare::Ending(_)))? {
            Rare::Ending(why) => Some(why),
            Rare::Peer(_) => None,
        }
    }

    pub(super) fn new(peer: &Peer, now: Now, handshake_ms: u64) -> Self {
        Self {
            app: None,
            rare: Some(Box::new(Rare::Peer(*peer))),
            decoder: Decoder::new(Role::Server),
            deflate: Default::default(),
            phase: Phase::Head,
            next_ms: now.mono_ms.saturating_add(handshake_ms),
            app_ms: u64::MAX,
            message_max: u32::MAX,
            heard: false,
            missed: 0,
        }
    }

    pub(super) fn watch_pings(&mut self, now: Now, options: &WsOptions) {
        self.next_ms = match options.ping_every_ms {
            0 => u64::MAX,
            every => now.mono_ms.saturating_add(every),
        };
    }

    /// The earlier of the two deadlines, in milliseconds from now.
    pub(super) fn wait_ms(&self, now: Now) -> Option<u64> {
        match self.next_ms.min(self.app_ms) {
            u64::MAX => None,
            at => Some(at.saturating_sub(now.mono_ms)),
        }
    }

    /// Sets the connection's timeout.
    pub(super) fn arm<H: WsHandler<Conn = C>>(&self, io: &mut Io<'_, Ws<H>>) {
        let wait = self.wait_ms(io.now());
        io.set_timeout(io.token(), wait);
    }

    /// The close frame is queued: waits for the peer's.
    pub(super) fn begin_close(&mut self, why: Close, now: Now, options: &WsOptions) {
        self.phase = Phase::Closing;
        self.rare = Some(Box::new(Rare::Ending(why)));
        self.next_ms = now.mono_ms.saturating_add(options.close_ms);
        self.app_ms = u64::MAX;
    }

    /// Does what a callback asked for its own connection.
    pub(super) fn apply<H: WsHandler<Conn = C>>(&mut self, asked: Asked, io: &mut Io<'_, Ws<H>>, options: &WsOptions) {
        let Asked { close, timeout, message_max } = asked;
        self.message_max = message_max.unwrap_or(self.message_max);
        if let Some(timeout) = timeout {
            self.app_ms = timeout.map_or(u64::MAX, |ms| io.now().mono_ms.saturating_add(ms));
        }
        if let Some(code) = close {
            self.begin_close(Close::Local(code), io.now(), options);
        }
        if timeout.is_some() || close.is_some() {
            self.arm(io);
        }
    }

    /// The peer's close frame: an answer to ours, or the beginning. Either way the server closes TCP first
    /// (RFC 6455 section 7.1.1).
    pub(super) fn peer_closes<H: WsHandler<Conn = C>>(&mut self, io: &mut Io<'_, Ws<H>>, code: Option<CloseCode>) {
        let why = match self.take_ending() {
            Some(ours) => ours,
            None => {
                let answer = match code {
                    Some(code) => close_frame(code, ""),
                    None => frame(OpCode::Close, &[]),
                };
                io.last(io.token(), answer);
                Close::Peer(code)
            }
        };
        self.phase = Phase::Over;
        io.close(io.token(), why);
    }

    /// The layer's own deadline has come.
    pub(super) fn deadline<H: WsHandler<Conn = C>>(&mut self, io: &mut Io<'_, Ws<H>>, options: &WsOptions) {
        self.next_ms = u64::MAX;
        match self.phase {
            Phase::Head => io.close(io.token(), Close::TimedOut),
            // If it still reads what stands before our close frame, the loop waits for that.
            Phase::Closing => {
                self.phase = Phase::Over;
                io.close(io.token(), self.take_ending().unwrap_or(Close::TimedOut));
            }
            Phase::Over => {}
            Phase::Open => {
                let (token, heard) = (io.token(), std::mem::take(&mut self.heard));
                let is_blocked = io.is_blocked(token);
                // A peer that is paused may look idle. If it takes nothing either it is timed out: senders could be
                // waiting for each other, or one for itself.
                let is_held = io.is_paused(token) && !is_blocked;
                // A slow peer may have much to read before the probe that it answers.
                let patience = options.pings_missed_max.saturating_mul(1 + u8::from(io.is_slow(token)));
                if heard | is_held | io.take_progress(token) {
                    self.missed = 0;
                } else if self.missed >= patience {
                    io.close(token, Close::TimedOut);
                    return;
                } else {
                    self.missed += 1;
                    // Behind what is blocked a ping asks nothing that progress does not answer.
                    if !is_blocked {
                        let _ = io.send(frame(OpCode::Ping, &[]));
                        io.counters().frames_out.add(1);
                    }
                }
                self.watch_pings(io.now(), options);
            }
        }
    }

    /// What the peer hears last when the loop closes the connection.
    pub(super) fn closing_bytes(&self, why: &Close) -> Bytes {
        match self.phase {
            Phase::Closing | Phase::Over => Bytes::new(),
            Phase::Open => match why {
                Close::Peer(_) | Close::Broken => Bytes::new(),
                Close::Fault(fault) => close_frame(fault.code, &fault.reason),
                Close::Local(code) => close_frame(*code, ""),
                Close::TimedOut => close_frame(CloseCode::GOING_AWAY, "no sign of life"),
                Close::TooSlow => close_frame(CloseCode::TRY_AGAIN, "reading too slowly"),
                Close::Drain => close_frame(CloseCode::GOING_AWAY, "going away"),
                Close::Panicked => close_frame(CloseCode::INTERNAL, "internal error"),
            },
            Phase::Head => {
                let response = match why {
                    Close::TimedOut => Response::text(408, "the request took too long"),
                    Close::Drain => Response::text(503, "going away"),
                    Close::Local(CloseCode::TRY_AGAIN) => no_room(),
                    Close::Panicked => Response::text(500, "internal error"),
                    _ => return Bytes::new(),
                };
                response.encode(reactor::now()).into()
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::reactor::connections::Slot;

    #[test]
    fn an_idle_websocket_is_small() {
        // The slot is all that an idle connection costs here: queue, kept bytes and decoder own nothing then.
        let bytes = size_of::<Slot<WsConn<()>>>();
        assert!(bytes <= 152, "{bytes} bytes");
    }
}
