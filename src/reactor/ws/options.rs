//! What a host sets of the WebSocket layer. Owns no behaviour but the defaults.

use crate::wire::http::HostPolicy;
#[cfg(doc)]
use crate::{
    base::Close,
    reactor::{Io, Protocol},
    wire::http,
};

/// Settings of the WebSocket layer. Sizes are bytes, times milliseconds. To be made with `..WsOptions::default()`, because
/// more may come.
#[derive(Clone, Debug)]
pub struct WsOptions {
    /// The names by which we may be asked (421 otherwise), beside the loopback's.
    pub hosts: HostPolicy,
    /// Most bytes of a message, whole and uncompressed: more closes with 1009. Should be less than
    /// [`Options::kept_max`](crate::reactor::Options::kept_max), and, where messages are sent on,
    /// [`Options::queue_max`](crate::reactor::Options::queue_max).
    pub message_max: usize,
    /// Most bytes of a frame's payload; likewise.
    pub frame_max: usize,
    /// How long a request head may take, from accepting on (408 after that). Its size is limited by [`http::HEAD_MAX`].
    pub handshake_ms: u64,
    /// How often an open connection is looked at: if it was silent since the last look it is pinged. 0 means never. A
    /// paused connection is hardly read, so its silence is not held against it, unless it takes nothing either: the
    /// handler that pauses must see to its end.
    pub ping_every_ms: u64,
    /// So many pings in a row may bring no sign of life; at the next look the connection is closed
    /// ([`TimedOut`](Close::TimedOut)). Whatever it sends is one, and so is that it takes bytes which the kernel had
    /// refused ([`Io::take_progress`]): a slow reader is not pinged behind what it has still to read, and has twice as many
    /// pings while it is given only as much as it reads ([`Protocol::probe`]).
    pub pings_missed_max: u8,
    /// How long the peer's answer to our close frame may take; then TCP is closed without.
    pub close_ms: u64,
    /// permessage-deflate (RFC 7692) where a client offers it; None, the default, declines. Messages that are framed
    /// once for many ([`Framed`](super::Framed)) go uncompressed to all.
    #[cfg(feature = "deflate")]
    pub deflate: Option<crate::wire::ws::deflate::DeflateOptions>,
    /// Most connections of a worker that keep windows of their own, up to 420 KiB each; the next ones are agreed to
    /// have none.
    #[cfg(feature = "deflate")]
    pub deflate_windows_max: usize,
}

impl Default for WsOptions {
    fn default() -> Self {
        Self {
            hosts: HostPolicy::default(),
            message_max: 1 << 20,
            frame_max: 1 << 20,
            handshake_ms: 10_000,
            ping_every_ms: 25_000,
            pings_missed_max: 2,
            close_ms: 5_000,
            #[cfg(feature = "deflate")]
            deflate: None,
            #[cfg(feature = "deflate")]
            deflate_windows_max: 1_000,
        }
    }
}
