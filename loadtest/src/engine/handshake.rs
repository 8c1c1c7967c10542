//! How a client gets in: connect, upgrade, HELLO, HELLO_ACK; and how it is ended and dialled again.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream as StdStream},
    time::Duration,
};

use amp_relay::wire::{
    amp::{Builder, Frame, Header, Id, KeyEncoding, To, Type, body, parse},
    cbor,
    ws::{self, Message, OpCode},
};
use mio::{Interest, Token, net::TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket};

use super::{
    World,
    conn::{Conn, State},
    error_text,
    shared::histogram,
};
use crate::{cli::Pattern, target::Speech};

/// Connections that are on their way in at a time.
const OPENING_MAX: u32 = 64;
/// The same where all come back at once.
const OPENING_MAX_STORM: u32 = 256;
/// Connections from one loopback address: fewer than there are ports.
const PER_ADDRESS: usize = 20_000;
/// What the kernel may hold for a reader that can stall.
const STALLING_BYTES: usize = 16 * 1024;
const STALLING_SEGMENT: u32 = 1400;
const HELLO_TTL_MS: u64 = 30_000;

impl World {
    /// Starts as many connections as may be on their way in.
    pub(super) fn open_more(&mut self) -> Result<(), String> {
        // Where a connection goes is only seen while it is the only one.
        let opening_max = match () {
            () if self.job.cross_workers => 1,
            () if self.job.is_storm && self.plan.is_some() => OPENING_MAX_STORM,
            () => OPENING_MAX,
        };
        while self.opening < opening_max && self.conns.len() < self.agents.len() {
            let conn = self.dial(self.conns.len())?;
            self.conns.push(conn);
        }
        Ok(())
    }

    /// Starts the connection of one client.
    fn dial(&mut self, at: usize) -> Result<Conn, String> {
        let failed = |error: io::Error| format!("connection {at} to {}: {error}", self.job.target);
        let mut stream = self.connect(at).map_err(failed)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(at), interest).map_err(failed)?;
        self.opening += 1;
        Ok(Conn::new(stream, self.now))
    }

    fn connect(&self, at: usize) -> io::Result<TcpStream> {
        let address = self.job.target.address;
        let can_stall = self.job.pattern == Pattern::Flood && at >= self.job.senders as usize;
        let source = source_of(address.ip(), self.job.first as usize + at);
        if source.is_none() && !can_stall {
            return TcpStream::connect(address);
        }
        let socket =
            Socket::new(Domain::for_address(address), socket2::Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if can_stall {
            socket.set_recv_buffer_size(STALLING_BYTES)?;
            // As on a network. Loopback's own is so large that the kernel would hold megabytes for such a reader.
            socket.set_tcp_mss(STALLING_SEGMENT)?;
        }
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
            _ => Ok(TcpStream::from_std(StdStream::from(socket))),
        }
    }

    /// Ends every connection at once, as a lost network does.
    pub(super) fn end_all(&mut self) {
        for conn in self.conns.drain(..) {
            // A reset needs no goodbye, and leaves no port behind. If it cannot be asked for, an ordinary end will do.
            let _ = SockRef::from(&conn.stream).set_linger(Some(Duration::ZERO));
        }
        self.in_count = 0;
        self.opening = 0;
        self.touched.clear();
        self.again.clear();
        self.tally.parts.resize_with(1, histogram);
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
            Speech::Baseline => {
                self.say_number(at);
                self.conns[at].state = State::Upgrading;
            }
        }
        self.touch(at);
        Ok(())
    }

    fn say_number(&mut self, at: usize) {
        let number = (self.job.first + at as u64) as u32;
        self.conns[at].outbox.control(&[8u32.to_le_bytes(), number.to_le_bytes()].concat());
    }

    /// The baseline has answered once, as a relay answers the upgrade. It is asked once more, as a relay is by a HELLO:
    /// a client that has answered what it read no longer acknowledges each segment it reads by a packet of its own
    /// (Linux, `tcp_pingpong_thresh`). Without this the baseline's clients would go on doing so, and work that TCP has
    /// to do would fall to the harness in the baseline's runs and to the server in the relay's.
    pub(super) fn greet_baseline(&mut self, at: usize) {
        self.say_number(at);
        self.conns[at].state = State::Greeting;
        self.touch(at);
    }

    /// The upgrade's answer: says how many bytes it took, once it is whole, and sends our HELLO.
    pub(super) fn upgraded(&mut self, at: usize, bytes: &[u8]) -> Result<Option<usize>, String> {
        let Some((consumed, relay)) = self.job.key.answer(bytes)? else { return Ok(None) };
        let (agent, ts) = (&self.agents[at], self.shared.unix_ms(self.now));
        // A HELLO's id must never have been seen, by no run before this one either.
        let id = Id::new(ts, self.random.next().to_be_bytes());
        let header = Header { ttl: HELLO_TTL_MS, ..Header::new(id, Type::HELLO, agent.did(), To::One(&relay)) };
        let (mut body, mut hello) = (Vec::new(), Vec::new());
        body::Hello { versions: &["1.0"], ..body::Hello::default() }.write(&mut body);
        let builder = Builder::new(header).body(&body);
        let written = builder.write_signed(KeyEncoding::Text, agent.key(), &mut Vec::new(), &mut hello);
        written.map_err(|error| error.to_string())?;
        let frame = ws::client_frame(OpCode::Binary, &hello, self.job.mask);
        self.conns[at].outbox.control(&frame);
        self.conns[at].state = State::Greeting;
        self.touch(at);
        Ok(Some(consumed))
    }

    /// The first message of the relay.
    pub(super) fn greeted(&mut self, at: usize, bytes: &[u8]) -> Result<(), String> {
        let number = self.job.first + at as u64;
        let Ok(Frame::Envelope(answer)) = parse(bytes) else {
            return Err("the relay's first message is no AMP message".into());
        };
        let body = answer.body.unwrap_or_default();
        match answer.header.typ {
            Type::HELLO_ACK => {
                self.ready(at);
                Ok(())
            }
            Type::HELLO_REJECT => {
                let reason = cbor::get(body, "reason").and_then(cbor::as_text).unwrap_or("no reason given");
                Err(format!("the relay rejects the HELLO of agent {number}: {reason}"))
            }
            Type::ERROR => Err(format!(
                "the relay refuses agent {number}: {}. Are the lines that `--keys-out` writes, for the same scenario, size \
                 of run and seed, in its keys file?",
                error_text(body)
            )),
            Type(typ) => Err(format!("the relay's first message has type {typ:#04x}, not HELLO_ACK")),
        }
    }

    /// A connection is in.
    pub(super) fn ready(&mut self, at: usize) {
        self.conns[at].state = State::Ready;
        self.opening -= 1;
        self.in_count += 1;
        self.progress_at = self.now;
        if self.job.is_storm
            && let Some(plan) = self.plan
        {
            self.tally.sent += 1;
            self.tally.delivered += 1;
            self.tally.latency.saturating_record(self.now.saturating_sub(plan.start));
            let took = self.now.saturating_sub(self.conns[at].dialled);
            self.tally.parts.iter_mut().for_each(|part| part.saturating_record(took));
        }
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

/// The loopback address that a client dials from: one has too few ports for all clients.
fn source_of(target: IpAddr, client: usize) -> Option<IpAddr> {
    let index = u8::try_from(client / PER_ADDRESS).ok().filter(|&index| index > 0 && index < 254)?;
    match target {
        IpAddr::V4(address) if address.is_loopback() => Some(Ipv4Addr::new(127, 0, 0, 1 + index).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_beyond_the_ports_of_an_address_have_another() {
        let of = |target: &str, client| source_of(target.parse().expect("an address"), client);
        assert_eq!(of("127.0.0.1", PER_ADDRESS - 1), None);
        assert_eq!(of("127.0.0.1", PER_ADDRESS), Some(Ipv4Addr::new(127, 0, 0, 2).into()));
        assert_eq!(of("127.0.0.1", 3 * PER_ADDRESS), Some(Ipv4Addr::new(127, 0, 0, 4).into()));
        assert_eq!((of("10.0.0.1", PER_ADDRESS), of("::1", PER_ADDRESS)), (None, None));
    }
}
