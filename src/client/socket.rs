//! The WebSocket under every client: a stream to the relay, opened by an upgrade, read and written as messages. Knows no
//! protocol above it.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    handshake::{Answer, Handshake, HandshakeError, Head, Upgrade},
    target::Target,
};
use crate::{
    base::{CloseCode, text},
    wire::ws::{self, Decoder, Limits, Message, OpCode, Step},
};

const READ_BYTES: usize = 64 * 1024;
/// A relay that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Before the relay has proved itself messages are small.
const FIRST_BYTES_MAX: usize = 64 * 1024;

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(HandshakeError),
}

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

    /// Sends one binary message.
    pub(super) fn send_binary(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(&ws::client_frame(OpCode::Binary, bytes, mask()?))
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
        /// Why, in its words: one line.
        reason: String,
    },
    /// It broke, for the reason that the system gave if it gave one.
    Broken(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code: Some(CloseCode::GOING_AWAY), .. } => f.write_str("the relay went away"),
            Self::Closed { code: Some(code), reason } if reason.is_empty() => {
                write!(f, "the relay closed the connection (code {code})")
            }
            Self::Closed { code: Some(_), reason } => write!(f, "the relay closed the connection: {reason}"),
            Self::Closed { code: None, .. } => f.write_str("the relay closed the connection"),
            Self::Broken(why) if why.is_empty() => f.write_str("the relay went away"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
        }
    }
}

/// What reading gave.
#[derive(Debug)]
pub(super) enum Incoming {
    Text(String),
    Binary(Vec<u8>),
    /// A sign of life that carries nothing (a ping, already answered).
    Alive,
    /// Nothing came before the deadline.
    Nothing,
    Ended(Ended),
}

/// An open WebSocket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    writer: Writer,
    decoder: Decoder,
    limits: Limits,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: Option<Ended>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Socket {
    /// Connects and opens the WebSocket. Gives the socket and the head of the relay's answer.
    pub(super) fn open(target: &Target, timeout: Duration, upgrade: Upgrade<'_>) -> Result<(Self, Head), OpenError> {
        let mut stream = Stream::open(target, timeout)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let handshake = Handshake::new(random, upgrade);
        let host = match target {
            Target::Unix(_) => "localhost".to_owned(),
            Target::Ws { .. } => target.authority(),
        };
        stream.write_all(handshake.request(&host).as_bytes()).map_err(unanswered)?;
        let (mut buffer, mut end, deadline) = (vec![0; READ_BYTES], 0, Instant::now() + timeout);
        let start = loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left))?;
            let read = stream.read(&mut buffer[end..]).map_err(|error| unanswered(timed_out(error)))?;
            end += read;
            let full = end == buffer.len();
            match handshake.answer(&buffer[..end], read == 0 || full) {
                Ok(Answer::Partial) if Instant::now() < deadline => {}
                Ok(Answer::Partial) => return Err(OpenError::Io(io::ErrorKind::TimedOut.into())),
                Ok(Answer::Open(start)) => break start,
                Err(error) => return Err(OpenError::Handshake(error)),
            }
        };
        let writer = Writer { stream: Arc::new(Mutex::new(stream.try_clone()?)) };
        let limits = Limits { message_max: FIRST_BYTES_MAX, frame_max: FIRST_BYTES_MAX };
        let decoder = Decoder::new(ws::Role::Client);
        let head = Head(buffer[..start].to_vec());
        Ok((Self { stream, writer, decoder, limits, buffer, start, end, ended: None }, head))
    }

    /// Takes messages up to this size from now on.
    pub(super) fn set_message_max(&mut self, bytes: usize) {
        self.limits = Limits { message_max: bytes, frame_max: bytes };
    }

    /// A handle for sending.
    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Waits for what comes next, until the deadline (without one: for ever). Pings are answered here.
    ///
    /// # Errors
    /// The system refuses a time limit on the socket; a broken connection is [`Incoming::Ended`].
    pub(super) fn receive(&mut self, deadline: Option<Instant>) -> io::Result<Incoming> {
        loop {
            if let Some(ended) = &self.ended {
                return Ok(Incoming::Ended(ended.clone()));
            }
            match self.decode() {
                Some(received) => return Ok(received),
                None => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Ok(Incoming::Nothing);
                    }
                    self.stream.set_read_timeout(left)?;
                    self.fill();
                }
            }
        }
    }

    /// Takes one message out of what was read.
    fn decode(&mut self) -> Option<Incoming> {
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
                // Never offered, so the decoder refuses what is compressed.
                Step::Fragment(consumed) | Step::Deflated { consumed, .. } => (consumed, None),
                Step::Message { consumed, message } => (consumed, Some(message)),
            };
            let received = match message {
                Some(Message::Text(text)) => Some(Incoming::Text(text.to_owned())),
                Some(Message::Ping(payload)) => {
                    if let Ok(mask) = mask() {
                        let _ = self.writer.write(&ws::client_frame(OpCode::Pong, payload, mask));
                    }
                    Some(Incoming::Alive)
                }
                Some(Message::Pong(_)) => Some(Incoming::Alive),
                Some(Message::Binary(bytes)) => Some(Incoming::Binary(bytes.to_owned())),
                Some(Message::Close(why)) => {
                    let (code, why) = why.map_or((None, ""), |(code, why)| (Some(code), why));
                    let reason = text::line(why, why.len()).into_owned();
                    self.ended = Some(Ended::Closed { code, reason });
                    self.writer.close();
                    self.start += consumed;
                    return self.ended.clone().map(Incoming::Ended);
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
            Ok(0) => self.ended = Some(Ended::Broken(String::new())),
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

/// A connection that breaks before the answer is whole was taken, and closed unanswered.
fn unanswered(error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            OpenError::Handshake(HandshakeError::Unanswered)
        }
        _ => error.into(),
    }
}

/// A read timeout shows as `WouldBlock`, which tells a person nothing.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}
