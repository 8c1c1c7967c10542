//! One AMP connection: opens it, says HELLO, then carries messages. Sending may happen on other threads.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    hello::{self, ConnectError, HELLO_TTL_MS, Options},
    message::{Draft, ErrorAnswer, Judge, Message, Unacceptable},
};
use crate::{
    base::Now,
    client::{
        Ended, Identity, IdentityError, Pins, Target, Writer,
        handshake::Upgrade,
        socket::{Incoming, OpenError, Socket},
    },
    wire::{
        amp::{
            self, BuildError, Id, MESSAGE_BYTES_DEFAULT, PATH, RELAY_DID_HEADER, SIZE_HEADER, SUBPROTOCOL, Type,
            did_base,
        },
        sign_in::{did_of, key_of_did},
    },
};

/// Messages that came while an answer was waited for; the oldest go when there are more.
const ASIDE_MAX: usize = 256;

/// The time by the system's clock.
fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { mono_ms: 0, unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The network, or the system's random source.
    #[error("the relay cannot be written to: {0}")]
    Io(#[from] io::Error),
    /// It cannot be written.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The key cannot sign.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The relay would close the connection over it. No setting of a relay changes its limit.
    #[error(
        "the message has {bytes} bytes, and the relay takes {bytes_max}: its limit is fixed, so send less, or in several messages"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The relay's limit.
        bytes_max: usize,
    },
}

/// Why there is no answer to a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] ErrorAnswer),
    /// Nothing came in time.
    #[error("no answer came in {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection is over.
    #[error("the connection ended: {0}")]
    Ended(Ended),
}

/// The sending half; clones share the connection.
#[derive(Clone, Debug)]
pub struct Sender {
    writer: Writer,
    identity: Arc<Identity>,
    did: Arc<str>,
    bytes_max: usize,
}

impl Sender {
    /// Signs a message and sends it. Gives its id, which an answer names.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(&self, draft: &Draft<'_>) -> Result<Id, SendError> {
        self.send_at(draft, now().unix_ms)
    }

    /// The same for a message of this time, Unix milliseconds.
    fn send_at(&self, draft: &Draft<'_>, unix_ms: u64) -> Result<Id, SendError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let id = Id::new(unix_ms, random);
        let frame = draft.frame::<SendError>(&self.did, id, |bytes| Ok(self.identity.sign_ed25519(bytes)?))?;
        if frame.len() > self.bytes_max {
            return Err(SendError::TooLarge { bytes: frame.len(), bytes_max: self.bytes_max });
        }
        self.writer.send_binary(&frame)?;
        Ok(id)
    }

    /// Says goodbye; the relay's answer ends the receiver.
    pub fn close(&self) {
        self.writer.close();
    }
}

/// What receiving gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Message(Box<Message>),
    /// What came is no message for us, and was passed over.
    Unacceptable(Unacceptable),
    /// The relay gave a sign of life that carries nothing (a ping, already answered).
    Alive,
    /// Nothing came before the deadline.
    Nothing,
    /// The connection is over.
    Ended(Ended),
}

/// A connection of one agent.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sender: Sender,
    judge: Judge,
    aside: VecDeque<Message>,
    dropped: u64,
}

impl AsFd for Connection {
    /// The socket, to be polled beside something else. What was read already does not show on it: call
    /// [`Connection::receive`] until it gives nothing first.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Connects and says HELLO. The relay's pin is checked before anything is signed, its proof before this returns.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(
        target: &Target,
        identity: &Identity,
        options: &Options,
        pins: &mut dyn Pins,
    ) -> Result<Self, ConnectError> {
        let did = did_of(identity.public()).ok_or_else(|| IdentityError::NotEd25519 { origin: identity.origin() })?;
        let headers = format!("{SIZE_HEADER}: {}\r\n", options.message_bytes_max);
        let upgrade = Upgrade { path: PATH, subprotocol: SUBPROTOCOL, headers: &headers };
        let timeout = Duration::from_millis(options.timeout_ms);
        let (socket, head) = Socket::open(target, timeout, upgrade).map_err(|error| match error {
            OpenError::Io(error) => ConnectError::Io { target: target.to_string(), error },
            OpenError::Handshake(error) => ConnectError::Handshake { target: target.to_string(), error },
        })?;
        let named = head.header(RELAY_DID_HEADER).unwrap_or_default();
        let (Some(key), Some(verifying_key)) = (key_of_did(named), amp::verifying_key(named)) else {
            return Err(ConnectError::NoDid(target.to_string()));
        };
        pins.check(target, named, &key)?;
        let bytes_max = head.header(SIZE_HEADER).and_then(|value| value.trim().parse().ok());
        let sender = Sender {
            writer: socket.writer().clone(),
            identity: Arc::new(identity.clone()),
            did: did.as_str().into(),
            bytes_max: bytes_max.unwrap_or(MESSAGE_BYTES_DEFAULT),
        };
        let judge = Judge::new(&did, named, verifying_key);
        let mut connection = Self { socket, sender, judge, aside: VecDeque::new(), dropped: 0 };
        connection.say_hello(target, options, timeout)?;
        pins.proved(target, named, &key)?;
        connection.socket.set_message_max(options.message_bytes_max);
        Ok(connection)
    }

    fn say_hello(&mut self, target: &Target, options: &Options, timeout: Duration) -> Result<(), ConnectError> {
        let io_error = |error| ConnectError::Io { target: target.to_string(), error };
        let body = hello::body(&options.name);
        let relay = self.judge.relay().to_owned();
        let draft = Draft { ttl_ms: HELLO_TTL_MS, ..Draft::new(&relay, Type::HELLO, &body) };
        let say = |sender: &Sender, unix_ms| {
            sender.send_at(&draft, unix_ms).map_err(|error| match error {
                SendError::Io(error) => io_error(error),
                SendError::Build(error) => error.into(),
                SendError::Identity(error) => error.into(),
                error @ SendError::TooLarge { .. } => io_error(io::Error::other(error)),
            })
        };
        let mut id = say(&self.sender, now().unix_ms)?;
        let mut again = true;
        let deadline = Instant::now() + timeout;
        loop {
            match self.next(Some(deadline), None).map_err(io_error)? {
                Received::Message(message) => {
                    match hello::outcome(&message, &id, self.judge.did(), &relay, now().unix_ms) {
                        None => {}
                        Some(Err(error)) if std::mem::take(&mut again) && hello::relay_time(&error).is_some() => {
                            // HELLO is taken by the relay's clock; the messages behind it may be as far off as ours is.
                            id = say(&self.sender, hello::relay_time(&error).unwrap_or_default())?;
                        }
                        Some(outcome) => return outcome,
                    }
                }
                Received::Unacceptable(error @ Unacceptable::Signature { .. }) => {
                    return Err(ConnectError::Unproved(error));
                }
                Received::Unacceptable(_) | Received::Alive => {}
                Received::Nothing => return Err(ConnectError::NoAnswer(target.to_string())),
                Received::Ended(ended) => {
                    return Err(io_error(io::Error::new(io::ErrorKind::ConnectionReset, ended.to_string())));
                }
            }
        }
    }

    /// Our DID.
    pub fn did(&self) -> &str {
        self.judge.did()
    }

    /// The relay's DID, which it has proved.
    pub fn relay(&self) -> &str {
        self.judge.relay()
    }

    /// Messages that were dropped: too many came while answers were waited for.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A handle for sending, also from other threads.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Signs a message and sends it. Gives its id, which an answer names.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(&self, draft: &Draft<'_>) -> Result<Id, SendError> {
        self.sender.send(draft)
    }

    /// Waits for what comes next, until the deadline (without one: for ever). Pings of the connection are answered here.
    ///
    /// # Errors
    /// The system refuses a time limit on the socket; a broken connection is [`Received::Ended`].
    pub fn receive(&mut self, deadline: Option<Instant>) -> io::Result<Received> {
        match self.aside.pop_front() {
            Some(message) => Ok(Received::Message(Box::new(message))),
            None => self.next(deadline, Some(now)),
        }
    }

    /// Waits for the next answer to one of these messages, from `peer` or from the relay. What else comes is kept for
    /// [`Self::receive`], the newest 256 messages of it; of the rest the end is told, and what was passed over, which may have
    /// been the answer.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn answer(&mut self, peer: &str, ids: &[Id], deadline: Option<Instant>) -> io::Result<Received> {
        let (peer, relay) = (did_base(peer).to_owned(), self.judge.relay().to_owned());
        let is_answer = |message: &Message| {
            let from = did_base(&message.from);
            (from == peer || from == relay) && ids.iter().any(|id| message.answers(id))
        };
        if let Some(message) = self.aside.iter().position(&is_answer).and_then(|place| self.aside.remove(place)) {
            return Ok(Received::Message(Box::new(message)));
        }
        loop {
            match self.next(deadline, Some(now))? {
                Received::Message(message) if is_answer(&message) => return Ok(Received::Message(message)),
                Received::Message(message) => self.put_aside(*message),
                Received::Alive => {}
                other @ (Received::Nothing | Received::Ended(_) | Received::Unacceptable(_)) => return Ok(other),
            }
        }
    }

    /// Sends a REQUEST that lives as long as it is waited for, and waits for its RESPONSE. What comes before that
    /// (PROCESSING and the like) is passed over.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn request(&mut self, to: &str, body: &[u8], timeout: Duration) -> Result<Message, RequestError> {
        let ttl_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let id = self.send(&Draft { ttl_ms, ..Draft::new(to, Type::REQUEST, body) })?;
        let deadline = Instant::now().checked_add(timeout);
        loop {
            match self.answer(to, &[id], deadline).map_err(SendError::Io)? {
                Received::Message(message) if message.typ == Type::RESPONSE => return Ok(*message),
                Received::Message(message) => {
                    if let Some(error) = message.error() {
                        return Err(error.into());
                    }
                }
                Received::Nothing => return Err(RequestError::TimedOut(timeout)),
                Received::Ended(ended) => return Err(RequestError::Ended(ended)),
                Received::Alive | Received::Unacceptable(_) => {}
            }
        }
    }

    fn put_aside(&mut self, message: Message) {
        if self.aside.len() >= ASIDE_MAX {
            self.aside.pop_front();
            self.dropped += 1;
        }
        self.aside.push_back(message);
    }

    /// What comes next on the socket. Without a clock the time of messages is not looked at.
    fn next(&mut self, deadline: Option<Instant>, clock: Option<fn() -> Now>) -> io::Result<Received> {
        Ok(match self.socket.receive(deadline)? {
            Incoming::Binary(frame) => match self.judge.message(&frame, clock.map(|now| now())) {
                Ok(message) => Received::Message(Box::new(message)),
                Err(why) => Received::Unacceptable(why),
            },
            Incoming::Text(_) => {
                self.sender.writer.abort();
                Received::Ended(Ended::Broken("it sent text, which AMP has none of".into()))
            }
            Incoming::Alive => Received::Alive,
            Incoming::Nothing => Received::Nothing,
            Incoming::Ended(ended) => Received::Ended(ended),
        })
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
