//! permessage-deflate on the loop's connections: which ones get it, and which keep windows. One value for each worker.

use super::WsOptions;
use crate::{
    base::{CloseCode, Fault},
    wire::{
        http::Head,
        ws::{
            Role,
            deflate::{self, Codec, Connection, DeflateOptions},
        },
    },
};

/// What one connection has of it: nothing, where it was not agreed on.
pub(super) type Own = Option<Box<Connection>>;

/// The extension on all connections of a worker.
#[derive(Debug)]
pub(super) struct Deflating {
    /// None: it is never agreed on.
    codec: Option<Codec>,
    /// Connections that keep windows, and how many of them there may be.
    windows: usize,
    windows_max: usize,
}

impl Deflating {
    pub(super) fn new(options: &WsOptions) -> Self {
        let windows_max = options.deflate_windows_max;
        Self { codec: options.deflate.map(Codec::new), windows: 0, windows_max }
    }

    /// Answers the offers of an upgrade request. Gives the connection's part and the header that says so.
    pub(super) fn agree(&mut self, head: &Head<'_>) -> Option<(Own, (&'static str, String))> {
        let options: &DeflateOptions = self.codec.as_ref()?.options();
        let takeover = options.takeover && self.windows < self.windows_max;
        let (agreed, said) = deflate::answer(options, takeover, head.list("sec-websocket-extensions"))?;
        let connection = Connection::new(Role::Server, agreed);
        self.windows += usize::from(connection.keeps_windows());
        Some((Some(Box::new(connection)), ("sec-websocket-extensions", said)))
    }

    /// The connection is over.
    pub(super) fn closed(&mut self, own: Own) {
        if own.is_some_and(|connection| connection.keeps_windows()) {
            self.windows -= 1;
        }
    }

    /// The message of a compressed payload. Give it back by [`recycle`](Self::recycle).
    pub(super) fn inflate(&mut self, own: &mut Own, payload: &[u8], message_max: usize) -> Result<Vec<u8>, Fault> {
        let (Some(codec), Some(connection)) = (&mut self.codec, own) else {
            return Err(Fault::new(CloseCode::PROTOCOL, "compressed without an agreement"));
        };
        codec.inflate(connection, payload, message_max)
    }

    /// Takes back the room of a message.
    pub(super) fn recycle(&mut self, message: Vec<u8>) {
        if let Some(codec) = &mut self.codec {
            codec.recycle(message);
        }
    }

    /// Whether any message may have to be compressed.
    pub(super) fn is_on(&self) -> bool {
        self.codec.is_some()
    }

    /// The compressed payload of a message; None: it is to be sent as it is.
    pub(super) fn deflate(&mut self, own: &mut Own, payload: &[u8]) -> Option<&[u8]> {
        self.codec.as_mut()?.deflate(own.as_mut()?, payload)
    }
}
