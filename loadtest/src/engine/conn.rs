//! One connection of the generator: what it reads and sends. How it gets in is [`super::handshake`]'s.

use std::io::{self, Read as _};

use amp_relay::wire::ws::{Decoder, Role};
use mio::net::TcpStream;

use crate::{outbox::Outbox, template::Template};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Upgrading,
    /// Our HELLO is out.
    Greeting,
    Ready,
    Dead,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) state: State,
    pub(super) decoder: Decoder,
    /// The beginning of a message.
    partial: Vec<u8>,
    pub(super) outbox: Outbox,
    pub(super) is_touched: bool,
    /// When it was dialled.
    pub(super) dialled: u64,
}

/// What reading gave.
pub(super) enum Got {
    Nothing,
    /// So many bytes are in the buffer; the flag says that there may be more.
    Bytes(usize, bool),
}

impl Conn {
    /// A connection that was dialled just now.
    pub(super) fn new(stream: TcpStream, now: u64) -> Self {
        Self {
            stream,
            state: State::Connecting,
            decoder: Decoder::new(Role::Client),
            partial: Vec::new(),
            outbox: Outbox::default(),
            is_touched: false,
            dialled: now,
        }
    }

    /// Reads once behind what is left of the last time.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>, room: usize) -> io::Result<Got> {
        let start = self.partial.len();
        if buffer.len() < start + room {
            buffer.resize(2 * (start + room), 0);
        }
        match self.stream.read(&mut buffer[start..]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a goodbye")),
            Ok(count) => {
                buffer[..start].copy_from_slice(&self.partial);
                self.partial.clear();
                Ok(Got::Bytes(start + count, start + count == buffer.len()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Got::Bytes(0, true)),
            Err(error) => Err(error),
        }
    }

    /// Keeps what is no whole message yet.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        self.partial.extend_from_slice(rest);
    }

    /// Sends what the system takes.
    pub(super) fn flush(&mut self, template: Option<&Template>) -> io::Result<()> {
        self.outbox.flush(&mut self.stream, template).map(|_| ())
    }
}
