//! One connection of the session protocol: opens it, signs in, then carries messages. Reading and writing may happen on
//! two threads.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    handshake::Upgrade,
    identity::Identity,
    message::ErrorMessage,
    pins::Pins,
    sign_in::{self, ConnectError, Options},
    socket::{self, Ended, OpenError, Socket, Writer},
    target::Target,
};
use crate::wire::sign_in::{Challenge, Nonce, RelayInfo, SUBPROTOCOL, Welcome};

const UPGRADE: Upgrade<'_> = Upgrade { path: "/session", subprotocol: SUBPROTOCOL, headers: "" };

/// What reading gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Text(String),
    /// The relay gave a sign of life that carries nothing (a ping, already answered).
    Alive,
    /// Nothing came before the deadline.
    Nothing,
    /// The connection is over.
    Ended(Ended),
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    relay: RelayInfo,
}

impl Connection {
    /// Connects and signs in. The relay's pin is checked before anything is signed, its proof before this returns.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(
        target: &Target,
        identity: &Identity,
        options: &Options,
        pins: &mut dyn Pins,
    ) -> Result<(Self, Welcome), ConnectError> {
        let io_error = |error| ConnectError::Io { target: target.to_string(), error };
        let timeout = Duration::from_millis(options.timeout_ms);
        let (mut socket, _) = Socket::open(target, timeout, UPGRADE).map_err(|error| match error {
            OpenError::Io(error) => io_error(error),
            OpenError::Handshake(error) => ConnectError::Handshake { target: target.to_string(), error },
        })?;
        let challenge: Challenge = expect(&mut socket, timeout, io_error)?;
        let mut nonce = [0; Nonce::BYTES];
        getrandom::fill(&mut nonce).map_err(|error| io_error(io::Error::other(error)))?;
        let nonce = Nonce::from_bytes(nonce);
        let (message, pending) = sign_in::answer(&challenge, nonce, target, identity, options, pins)?;
        let message = serde_json::to_string(&message).map_err(|error| ConnectError::Protocol(error.to_string()))?;
        socket.writer().send(&message).map_err(io_error)?;
        let welcome: Welcome = expect(&mut socket, timeout, io_error)?;
        pending.welcomed(&welcome, target, pins)?;
        socket.set_message_max(options.message_bytes_max);
        Ok((Self { socket, relay: challenge.relay }, welcome))
    }

    /// What the relay said about itself.
    pub fn relay(&self) -> &RelayInfo {
        &self.relay
    }

    /// A handle for sending, also from other threads.
    pub fn writer(&self) -> Writer {
        self.socket.writer().clone()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The connection is broken, or the relay takes nothing.
    pub fn send(&self, text: &str) -> io::Result<()> {
        self.socket.writer().send(text)
    }

    /// Waits for what comes next, until the deadline (without one: for ever). Pings are answered here.
    ///
    /// # Errors
    /// The system refuses a time limit on the socket; a broken connection is [`Received::Ended`].
    pub fn receive(&mut self, deadline: Option<Instant>) -> io::Result<Received> {
        receive(&mut self.socket, deadline)
    }
}

fn receive(socket: &mut Socket, deadline: Option<Instant>) -> io::Result<Received> {
    Ok(match socket.receive(deadline)? {
        socket::Incoming::Text(text) => Received::Text(text),
        // Nothing is binary in this protocol yet; a later relay may know better.
        socket::Incoming::Binary(_) | socket::Incoming::Alive => Received::Alive,
        socket::Incoming::Nothing => Received::Nothing,
        socket::Incoming::Ended(ended) => Received::Ended(ended),
    })
}

/// The next message of signing in; an `error` refuses.
fn expect<T: serde::de::DeserializeOwned>(
    socket: &mut Socket,
    timeout: Duration,
    io_error: impl Fn(io::Error) -> ConnectError,
) -> Result<T, ConnectError> {
    let deadline = Instant::now() + timeout;
    loop {
        match receive(socket, Some(deadline)).map_err(&io_error)? {
            Received::Text(text) => {
                if let Ok(error) = serde_json::from_str::<ErrorMessage>(&text)
                    && error.kind == "error"
                {
                    return Err(ConnectError::Refused(Box::new(error)));
                }
                return serde_json::from_str(&text)
                    .map_err(|error| ConnectError::Protocol(format!("in signing in, {error}")));
            }
            Received::Alive => {}
            Received::Nothing => return Err(io_error(io::ErrorKind::TimedOut.into())),
            Received::Ended(ended) => {
                return Err(io_error(io::Error::new(io::ErrorKind::ConnectionReset, ended.to_string())));
            }
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
