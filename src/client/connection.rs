//! One connection: opens it, signs in, then carries messages. Reading and writing may happen on two threads.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    handshake::{Answer, Handshake},
    identity::Identity,
    message::ErrorMessage,
    pins::Pins,
    sign_in::{self, ConnectError, Options},
    target::Target,
};
use crate::{
    base::CloseCode,
    wire::{
        sign_in::{Challenge, Nonce, Welcome},
        ws::{self, Decoder, Limits, Message, OpCode, Step},
    },
};

const READ_BYTES: usize = 64 * 1024;
/// A relay that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Before the welcome messages are small.
const SIGN_IN_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn open(target: &Target, timeout: Duration) -> io::Result<Self> {
        match target {
            Target::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Target::Ws { host, port } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(timeout),
            Self::Unix(stream) => stream.set_write_timeout(timeout),
        }
    }

    fn shutdown(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// The writing half; clones share the connection.
#[derive(Clone, Debug)]
pub struct Writer {
    stream: Arc<Mutex<Stream>>,
}

impl Writer {
    /// Sends one message.
    ///
    /// # Errors
    /// The connection is broken, or the relay takes nothing.
    pub fn send(&self, text: &str) -> io::Result<()> {
        self.write(&ws::client_frame(OpCode::Text, text.as_bytes(), mask()?))
    }

    /// Says goodbye; the relay's answer ends the reader.
    pub fn close(&self) {
        if let Ok(mask) = mask() {
            let _ = self.write(&ws::client_close_frame(CloseCode::NORMAL, "", mask));
        }
    }

    /// Ends the connection at once, also for a reader that waits.
    pub fn abort(&self) {
        self.stream.lock().shutdown();
    }

    fn write(&self, frame: &[u8]) -> io::Result<()> {
        self.stream.lock().write_all(frame)
    }
}

fn mask() -> io::Result<[u8; 4]> {
    let mut mask = [0; 4];
    getrandom::fill(&mut mask).map_err(io::Error::other)?;
    Ok(mask)
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The relay closed it.
    Closed {
        /// With which code, if with any.
        code: Option<CloseCode>,
        /// Why, in its words.
        reason: String,
    },
    /// It broke.
    Broken(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code: Some(code), reason } if reason.is_empty() => write!(f, "closed ({code})"),
            Self::Closed { code: Some(code), reason } => write!(f, "closed ({code}: {reason})"),
            Self::Closed { code: None, .. } => f.write_str("closed"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

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
    stream: Stream,
    writer: Writer,
    decoder: Decoder,
    limits: Limits,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: Option<Ended>,
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
        let mut connection = Self::open(target, timeout)?;
        let challenge: Challenge = connection.expect(timeout, io_error)?;
        let mut nonce = [0; Nonce::BYTES];
        getrandom::fill(&mut nonce).map_err(|error| io_error(io::Error::other(error)))?;
        let nonce = Nonce::from_bytes(nonce);
        let (message, pending) = sign_in::answer(&challenge, nonce, target, identity, options, pins)?;
        let message = serde_json::to_string(&message).map_err(|error| ConnectError::Protocol(error.to_string()))?;
        connection.send(&message).map_err(io_error)?;
        let welcome: Welcome = connection.expect(timeout, io_error)?;
        pending.welcomed(&welcome, target, pins)?;
        connection.limits = Limits { message_max: options.message_bytes_max, frame_max: options.message_bytes_max };
        Ok((connection, welcome))
    }

    fn open(target: &Target, timeout: Duration) -> Result<Self, ConnectError> {
        let io_error = |error| ConnectError::Io { target: target.to_string(), error };
        let mut stream = Stream::open(target, timeout).map_err(io_error)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT)).map_err(io_error)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| io_error(io::Error::other(error)))?;
        let handshake = Handshake::new(random);
        let host = match target {
            Target::Unix(_) => "localhost".to_owned(),
            Target::Ws { .. } => target.authority(),
        };
        stream.write_all(handshake.request(&host).as_bytes()).map_err(io_error)?;
        let (mut buffer, mut end, deadline) = (vec![0; READ_BYTES], 0, Instant::now() + timeout);
        let start = loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left)).map_err(io_error)?;
            let read = stream.read(&mut buffer[end..]).map_err(|error| io_error(timed_out(error)))?;
            end += read;
            let full = end == buffer.len();
            match handshake.answer(&buffer[..end], read == 0 || full) {
                Ok(Answer::Partial) if Instant::now() < deadline => {}
                Ok(Answer::Partial) => return Err(io_error(io::ErrorKind::TimedOut.into())),
                Ok(Answer::Open(start)) => break start,
                Err(error) => return Err(ConnectError::Handshake { target: target.to_string(), error }),
            }
        };
        let writer = Writer { stream: Arc::new(Mutex::new(stream.try_clone().map_err(io_error)?)) };
        let limits = Limits { message_max: SIGN_IN_BYTES_MAX, frame_max: SIGN_IN_BYTES_MAX };
        let decoder = Decoder::new(ws::Role::Client);
        Ok(Self { stream, writer, decoder, limits, buffer, start, end, ended: None })
    }

    /// The next message of signing in; an `error` refuses.
    fn expect<T: serde::de::DeserializeOwned>(
        &mut self,
        timeout: Duration,
        io_error: impl Fn(io::Error) -> ConnectError,
    ) -> Result<T, ConnectError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.receive(Some(deadline)).map_err(&io_error)? {
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

    /// A handle for sending, also from other threads.
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The connection is broken, or the relay takes nothing.
    pub fn send(&self, text: &str) -> io::Result<()> {
        self.writer.send(text)
    }

    /// Waits for what comes next, until the deadline (without one: for ever). Pings are answered here.
    ///
    /// # Errors
    /// The system refuses a time limit on the socket; a broken connection is [`Received::Ended`].
    pub fn receive(&mut self, deadline: Option<Instant>) -> io::Result<Received> {
        loop {
            if let Some(ended) = &self.ended {
                return Ok(Received::Ended(ended.clone()));
            }
            match self.decode() {
                Some(received) => return Ok(received),
                None => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Ok(Received::Nothing);
                    }
                    self.stream.set_read_timeout(left)?;
                    self.fill();
                }
            }
        }
    }

    /// Takes one message out of what was read.
    fn decode(&mut self) -> Option<Received> {
        loop {
            let step = match self.decoder.decode(&self.limits, &mut self.buffer[self.start..self.end]) {
                Ok(step) => step,
                Err(fault) => {
                    self.ended =
                        Some(Ended::Broken(format!("the relay broke the WebSocket protocol: {}", fault.reason)));
                    self.writer.abort();
                    return None;
                }
            };
            let (consumed, message) = match step {
                Step::Need(total) => {
                    self.make_room(total);
                    return None;
                }
                Step::Took(consumed) => (consumed, None),
                Step::Item { consumed, message } => (consumed, Some(message)),
            };
            let received = match message {
                Some(Message::Text(text)) => Some(Received::Text(text.to_owned())),
                Some(Message::Ping(payload)) => {
                    if let Ok(mask) = mask() {
                        let _ = self.writer.write(&ws::client_frame(OpCode::Pong, payload, mask));
                    }
                    Some(Received::Alive)
                }
                Some(Message::Pong(_)) => Some(Received::Alive),
                Some(Message::Binary(_)) => Some(Received::Alive),
                Some(Message::Close(why)) => {
                    let (code, reason) = why.map_or((None, String::new()), |(code, why)| (Some(code), why.to_owned()));
                    self.ended = Some(Ended::Closed { code, reason });
                    self.writer.close();
                    self.start += consumed;
                    return self.ended.clone().map(Received::Ended);
                }
                None => None,
            };
            self.start += consumed;
            if received.is_some() {
                return received;
            }
        }
    }

    /// Moves what is there to the front, and grows the buffer to what the message at the front needs; the decoder has
    /// held that against the limits.
    fn make_room(&mut self, total: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if total > self.buffer.len() {
            self.buffer.resize(total, 0);
        } else if self.end == 0 && self.buffer.len() > READ_BYTES {
            self.buffer = vec![0; READ_BYTES];
        }
    }

    fn fill(&mut self) {
        match self.stream.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.ended = Some(Ended::Broken("it ended without a goodbye".into())),
            Ok(read) => self.end += read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => self.ended = Some(Ended::Broken(error.to_string())),
        }
    }
}

/// A read timeout shows as `WouldBlock`, which tells a person nothing.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
