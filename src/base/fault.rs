//! What a peer did wrong, and how a connection ended.

use std::{borrow::Cow, fmt};

/// A WebSocket close code (RFC 6455 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The relay goes away.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the WebSocket protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// A kind of data that is not accepted here.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// Sign-in or policy.
    pub const POLICY: Self = Self(1008);
    /// A message above the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// Our own fault.
    pub const INTERNAL: Self = Self(1011);
    /// Overloaded, or the peer reads too slowly: try again later.
    pub const TRY_AGAIN: Self = Self(1013);
    /// The key was revoked or has expired (session-protocol section 5).
    pub const KEY_REVOKED: Self = Self(4401);
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer's fault: it closes that peer's connection with a code and a reason, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Fault {
    /// The close code the peer is sent.
    pub code: CloseCode,
    /// At most 123 bytes of it are sent.
    pub reason: Cow<'static, str>,
}

impl Fault {
    /// A fault with this code and reason.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// How a connection ended, as its owner learns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// The peer closed, in order (with its code where the protocol has one).
    Peer(Option<CloseCode>),
    /// The connection broke: reset, or end of file in the middle of something.
    Broken,
    /// The peer's fault closed it.
    Fault(Fault),
    /// We closed it: the owner of the connection asked for it.
    Local(CloseCode),
    /// A time limit passed: handshake, ping, or close.
    TimedOut,
    /// The send queue passed its maximum.
    TooSlow,
    /// The loop drains.
    Drain,
    /// A callback panicked.
    Panicked,
}
