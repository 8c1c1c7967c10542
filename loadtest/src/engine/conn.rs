//! One connection of the generator, and how it gets in: connect, upgrade, HELLO, HELLO_ACK.

use std::io::{self, Read as _};

use amp_relay::wire::ws::{self, Decoder, Message, OpCode};
use mio::{Interest, Token, net::TcpStream};

use super::World;
use crate::{
    amp::{self, Fields, To},
    outbox::Outbox,
    target::Speech,
    template::Template,
};

/// Connections that are on their way in at a time.
const OPENING_MAX: u32 = 64;
const HELLO_TTL_MS: u64 = 30_000;

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
    stream: TcpStream,
    pub(super) state: State,
    pub(super) decoder: Decoder,
    /// The beginning of a message.
    partial: Vec<u8>,
    pub(super) outbox: Outbox,
    pub(super) is_touched: bool,
}

/// What reading gave.
pub(super) enum Got {
    Nothing,
    /// So many bytes are in the buffer; the flag says that there may be more.
    Bytes(usize, bool),
}

impl Conn {
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

impl World {
    /// Starts as many connections as may be on their way in.
    pub(super) fn open_more(&mut self) -> Result<(), String> {
        // Where a connection goes is only seen while it is the only one.
        let opening_max = if self.job.cross_workers { 1 } else { OPENING_MAX };
        while self.opening < opening_max && self.conns.len() < self.agents.len() {
            let conn = self.dial(self.conns.len())?;
            self.conns.push(conn);
        }
        Ok(())
    }

    /// Starts the connection of one client.
    fn dial(&mut self, at: usize) -> Result<Conn, String> {
        let failed = |error: io::Error| format!("connection {at} to {}: {error}", self.job.target);
        let mut stream = TcpStream::connect(self.job.target.address).map_err(failed)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(at), interest).map_err(failed)?;
        self.opening += 1;
        Ok(Conn {
            stream,
            state: State::Connecting,
            decoder: Decoder::new(ws::Role::Client),
            partial: Vec::new(),
            outbox: Outbox::default(),
            is_touched: false,
        })
    }

    /// Ends a client's connection and starts another one.
    pub(super) fn redial(&mut self, at: usize) -> Result<(), String> {
        self.in_count -= 1;
        // The old one is closed by the assignment, and with it its place among the events.
        self.conns[at] = self.dial(at)?;
        Ok(())
    }

    /// The first writable event: the connection stands, or it failed.
    pub(super) fn connected(&mut self, at: usize) -> io::Result<()> {
        let conn = &mut self.conns[at];
        if let Some(error) = conn.stream.take_error()? {
            return Err(error);
        }
        match conn.stream.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
            other => other?,
        };
        conn.stream.set_nodelay(true)?;
        match self.job.target.speech {
            Speech::Amp => {
                let request = self.job.target.request(&self.job.key, self.limits.message_max);
                conn.outbox.control(request.as_bytes());
                conn.state = State::Upgrading;
            }
            Speech::Floor => {
                let number = (self.job.first + at as u64) as u32;
                conn.outbox.control(&[8u32.to_le_bytes(), number.to_le_bytes()].concat());
                conn.state = State::Greeting;
            }
        }
        self.touch(at);
        Ok(())
    }

    /// The upgrade's answer: says how many bytes it took, once it is whole, and sends our HELLO.
    pub(super) fn upgraded(&mut self, at: usize, bytes: &[u8]) -> Result<Option<usize>, String> {
        let Some((consumed, relay)) = self.job.key.answer(bytes)? else { return Ok(None) };
        let (agent, ts) = (&self.agents[at], self.shared.unix_ms(self.now));
        let mut id = [0; 16];
        id[..8].copy_from_slice(&ts.to_be_bytes());
        // A HELLO's id must never have been seen, by no run before this one either.
        id[8..].copy_from_slice(&self.random.next().to_be_bytes());
        let body = amp::hello_body();
        let fields =
            Fields { id, typ: amp::HELLO, ts, ttl: HELLO_TTL_MS, from: agent.did(), to: To::One(&relay), body: &body };
        let signature = agent.sign(&amp::sig_input(&fields));
        let frame = ws::client_frame(OpCode::Binary, &amp::write(&fields, &signature).bytes, self.job.mask);
        self.conns[at].outbox.control(&frame);
        self.conns[at].state = State::Greeting;
        self.touch(at);
        Ok(Some(consumed))
    }

    /// The first message of the relay.
    pub(super) fn greeted(&mut self, at: usize, bytes: &[u8]) -> Result<(), String> {
        let number = self.job.first + at as u64;
        let answer = amp::read(bytes).ok_or("the relay's first message is no AMP message")?;
        match answer.typ {
            amp::HELLO_ACK => {
                self.ready(at);
                Ok(())
            }
            amp::HELLO_REJECT => {
                let reason = amp::body_text(answer.body, "reason").unwrap_or("no reason given");
                Err(format!("the relay rejects the HELLO of agent {number}: {reason}"))
            }
            amp::ERROR => Err(format!(
                "the relay refuses agent {number}: {}. Are the lines that `--keys-out` writes, for the same scenario, size \
                 of run and seed, in its keys file?",
                error_text(answer.body)
            )),
            typ => Err(format!("the relay's first message has type {typ:#04x}, not HELLO_ACK")),
        }
    }

    /// A connection is in.
    pub(super) fn ready(&mut self, at: usize) {
        self.conns[at].state = State::Ready;
        self.opening -= 1;
        self.in_count += 1;
        self.progress_at = self.now;
        // With --cross-workers it counts once it is where it should be.
        if !self.job.cross_workers {
            self.shared.ready[self.job.index].set(u64::from(self.in_count));
        }
    }

    /// Control frames and what should not come at all.
    pub(super) fn control(&mut self, at: usize, message: Message<'_>) -> Result<(), String> {
        match message {
            Message::Ping(payload) => {
                let pong = ws::client_frame(OpCode::Pong, payload, self.job.mask);
                self.conns[at].outbox.control(&pong);
                self.touch(at);
                Ok(())
            }
            Message::Close(Some((code, reason))) => Err(format!("closed by the server: {code} {reason}")),
            Message::Close(None) => Err("closed by the server".into()),
            Message::Text(_) => Err("a text message came on an AMP connection".into()),
            Message::Pong(_) | Message::Binary(_) => Ok(()),
        }
    }
}

/// Code and message of an ERROR.
pub(super) fn error_text(body: &[u8]) -> String {
    let code = amp::body_number(body, "code").unwrap_or_default();
    format!("{code} {}", amp::body_text(body, "message").unwrap_or_default())
}
