//! A worker that the test turns itself, with clients on a Unix socket: what one side has written lies in the other's
//! socket when the call returns, so nothing has to be waited for, and every read and write can be counted. And two
//! services that send on what they hear, one of bytes and one of WebSocket messages.

use std::{
    io::{ErrorKind, Read, Write},
    ops::Range,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use amp_relay::{
    base::{ConnToken, Fault},
    reactor::{
        Io, Listen, Mailer, Options, Peer, Protocol, Reactor, Refuse, Sent, Turn, Worker, WorkerCounters,
        ws::{Answer, Data, Ws, WsHandler, WsIo, WsOptions},
    },
    wire::http::Head,
};
use tempfile::TempDir;

/// A worker, and where it listens.
pub(crate) struct Hand<P: Protocol> {
    pub(crate) worker: Worker<P>,
    pub(crate) mailer: Mailer<P::Mail>,
    pub(crate) counters: Arc<WorkerCounters>,
    path: PathBuf,
    _folder: TempDir,
}

impl<P: Protocol> Hand<P> {
    pub(crate) fn new(options: Options, protocol: P) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listeners = vec![Listen::Unix(path.clone())];
        let bound = Reactor::bind(Options { workers: 1, listeners, ..options }).unwrap();
        let (mailer, counters) = (bound.mailers().remove(0), bound.counters()[0].clone());
        let mut protocol = Some(protocol);
        let worker = bound.into_workers(|_, _| protocol.take().unwrap()).unwrap().remove(0);
        Self { worker, mailer, counters, path, _folder: folder }
    }

    /// Does what is there to do and does not wait.
    pub(crate) fn turn(&mut self) {
        assert_eq!(self.worker.turn(Some(Duration::ZERO)).unwrap(), Turn::Running);
    }

    /// A client that is accepted. Its calls do not block.
    pub(crate) fn connect(&mut self) -> UnixStream {
        let accepted = self.counters.accepted.get();
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_nonblocking(true).unwrap();
        self.turn();
        assert_eq!(self.counters.accepted.get(), accepted + 1);
        stream
    }

    /// A client whose WebSocket is open.
    pub(crate) fn upgrade(&mut self) -> UnixStream {
        let mut stream = self.connect();
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        self.turn();
        let answer = read(&mut stream);
        assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"));
        stream
    }

    /// Writes all of it, turning the worker whenever the kernel takes no more.
    pub(crate) fn write_all(&mut self, stream: &mut UnixStream, mut bytes: &[u8]) {
        let mut refused = 0;
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(n) => (bytes, refused) = (&bytes[n..], 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    refused += 1;
                    assert!(refused < 1_000, "{} bytes are not read", bytes.len());
                    self.turn();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads so many bytes, turning the worker whenever there are none.
    pub(crate) fn read_exact(&mut self, stream: &mut UnixStream, len: usize) -> Vec<u8> {
        let (mut got, mut nothing) = (Vec::with_capacity(len), 0);
        while got.len() < len {
            let came = read(stream);
            nothing = if came.is_empty() { nothing + 1 } else { 0 };
            assert!(nothing < 1_000, "{} of {len} bytes came", got.len());
            got.extend(came);
            self.turn();
        }
        assert_eq!(got.len(), len);
        got
    }
}

/// All that lies in the socket.
pub(crate) fn read(stream: &mut UnixStream) -> Vec<u8> {
    let mut got = Vec::new();
    match stream.read_to_end(&mut got) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => got,
        other => panic!("{other:?} after {} bytes", got.len()),
    }
}

/// So many bytes that no two places in them look alike, others for each seed.
pub(crate) fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// How a service sends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By a range of what was lent.
    Forward,
    /// The same; then every byte lent is changed ([`changed`]).
    ForwardThenChange,
    /// By so many ranges, one behind the other.
    Pieces(usize),
    /// Behind a head that is copied ([`HEAD`]).
    Behind,
    /// By a copy.
    Copy,
}

pub(crate) const HEAD: &[u8] = b"head";

pub(crate) fn changed(byte: u8) -> u8 {
    !byte
}

/// What both services have.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) how: How,
    /// Holds whoever speaks back while a receiver is above its high mark.
    pub(crate) heeds: bool,
    pub(crate) everybody: Vec<ConnToken>,
    /// Sends that were answered with High, and those of them whose receiver was blocked.
    pub(crate) high: usize,
    pub(crate) blocked: usize,
    pub(crate) drained: usize,
    held: Vec<ConnToken>,
}

impl Switch {
    pub(crate) fn new(how: How) -> Self {
        Self { how, heeds: false, everybody: Vec::new(), high: 0, blocked: 0, drained: 0, held: Vec::new() }
    }

    fn others(&self, me: ConnToken) -> impl Iterator<Item = ConnToken> + use<'_> {
        self.everybody.iter().copied().filter(move |&token| token != me)
    }
}

/// Bytes: a message is its length in four bytes and the payload, and goes to all others as it is.
#[derive(Debug)]
pub(crate) struct Frames(pub(crate) Switch);

/// A message of [`Frames`].
pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    let mut wire = (payload.len() as u32).to_be_bytes().to_vec();
    wire.extend_from_slice(payload);
    wire
}

impl Frames {
    fn send(&mut self, io: &mut Io<'_, Self>, to: ConnToken, range: Range<usize>, bytes: &[u8]) -> Sent {
        match self.0.how {
            How::Forward | How::ForwardThenChange => io.forward(to, range),
            How::Behind => io.forward_behind(to, HEAD, range),
            How::Copy => io.write_to(to, &[&bytes[range]]),
            How::Pieces(pieces) => {
                let (mut sent, mut from) = (Sent::Queued, range.start);
                for piece in 1..=pieces {
                    let end = range.start + range.len() * piece / pieces;
                    sent = io.forward(to, from..end);
                    from = end;
                }
                sent
            }
        }
    }
}

impl Protocol for Frames {
    type Conn = ();
    type Mail = ();

    fn accept(&mut self, io: &mut Io<'_, Self>, _: &Peer) -> Result<(), Refuse> {
        self.0.everybody.push(io.token());
        Ok(())
    }

    fn input(&mut self, _: &mut (), io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while let Some(head) = bytes[at..].first_chunk::<4>()
            && !io.is_paused(io.token())
        {
            let len = 4 + u32::from_be_bytes(*head) as usize;
            if bytes.len() - at < len {
                io.need(len);
                break;
            }
            for index in 0..self.0.everybody.len() {
                let to = self.0.everybody[index];
                if to == io.token() {
                    continue;
                }
                let sent = self.send(io, to, at..at + len, bytes);
                assert_ne!(sent, Sent::Closed);
                self.0.high += usize::from(sent == Sent::High);
                self.0.blocked += usize::from(sent == Sent::High && io.is_blocked(to));
                if self.0.heeds && sent == Sent::High {
                    io.pause(io.token());
                    self.0.held.push(io.token());
                }
            }
            if self.0.how == How::ForwardThenChange {
                bytes[at..at + len].iter_mut().for_each(|byte| *byte = changed(*byte));
            }
            at += len;
        }
        Ok(at)
    }

    fn writable(&mut self, _: &mut (), io: &mut Io<'_, Self>) {
        self.0.drained += 1;
        self.0.held.drain(..).for_each(|token| io.resume(token));
    }
}

/// WebSocket messages, to all others.
#[derive(Debug)]
pub(crate) struct Messages(pub(crate) Switch);

impl Messages {
    pub(crate) fn hand(options: Options, how: How) -> Hand<Ws<Self>> {
        let ws = WsOptions { message_max: 4 << 20, frame_max: 4 << 20, ping_every_ms: 0, ..WsOptions::default() };
        Hand::new(options, Ws::new(Self(Switch::new(how)), ws))
    }
}

impl WsHandler for Messages {
    type Conn = ();
    type Mail = ();

    fn request(&mut self, _: &Head<'_>, peer: &Peer, _: &mut WsIo<'_, Self>) -> Answer<()> {
        self.0.everybody.push(peer.token);
        Answer::upgrade(())
    }

    fn message(&mut self, _: &mut (), io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
        for to in self.0.others(io.token()) {
            let sent = match self.0.how {
                How::Copy => io.binary_to(to, message.as_bytes()),
                _ => io.forward_to(to, message),
            };
            assert_ne!(sent, Sent::Closed);
            if self.0.heeds && sent == Sent::High {
                io.pause(io.token());
            }
        }
        Ok(())
    }

    fn writable(&mut self, _: &mut (), io: &mut WsIo<'_, Self>) {
        self.0.drained += 1;
        self.0.others(io.token()).for_each(|token| io.resume(token));
    }
}
