//! The baseline: a TCP forwarder without WebSocket that gathers for each destination over a turn. What it costs is what
//! the kernel costs.
//!
//! A frame is its length and its receiver (both u32, little endian, the length counts the whole frame) and anything. A
//! client's first frame has 8 bytes and its own number; it comes back as the answer. [`ALL`] goes to every client but the
//! sender. Each readable socket is read once a turn into an arena, each destination gets one vectored write at the end of
//! the turn with the pieces that are for it; only what the kernel does not take is copied.
//!
//! Its own part of the work is kept as small as it can be, for a slow baseline flatters what is compared with it:
//! clients are found by an index, a run of frames for one receiver is one piece, and nothing is allocated for a message
//! or a turn.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::SocketAddr,
    ops::Range,
    thread,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

use crate::{cli::BaselineServer, measure};

/// The receiver that stands for all other clients.
const ALL: u32 = u32::MAX;
const HEADER_BYTES: usize = 8;
const ARENA_BYTES: usize = 1 << 20;
/// A read is offered at least so much, and a frame larger than it is read in steps.
const READ_BYTES_MIN: usize = 64 * 1024;
/// A receiver that takes nothing while so much waits for it is closed.
const WAITING_BYTES_MAX: usize = 256 << 20;
const FRAME_BYTES_MAX: usize = 128 << 20;
/// Numbers are an index, so that finding a receiver costs a load.
const NUMBER_MAX: u32 = 1 << 22;
/// The place of a number that no client has.
const NOBODY: u32 = u32::MAX;
/// Pieces of one write that are listed on the stack.
const PIECES_INLINE: usize = 64;
const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 4096;

/// Runs the forwarder until it is ended.
pub(crate) fn serve(options: &BaselineServer) -> Result<(), String> {
    if let Some(cpu) = options.cpu {
        measure::pin(cpu)?;
    }
    // Whether it rises is of no account until a connection finds no descriptor, and that is told then.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut forwarder = Forwarder::bind(options.listen).map_err(|error| format!("{}: {error}", options.listen))?;
    if options.until_eof {
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
    }
    println!("tcp://{}", forwarder.address().map_err(|error| error.to_string())?);
    loop {
        forwarder.turn().map_err(|error| error.to_string())?;
    }
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    /// Its number, once it has said it.
    number: Option<u32>,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// What the kernel did not take.
    waiting: Vec<u8>,
    /// Ranges of the arena that are for it.
    pieces: Vec<Range<usize>>,
}

/// The forwarder.
#[derive(Debug)]
pub(crate) struct Forwarder {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    /// Places by number, [`NOBODY`] where there is none.
    numbers: Vec<u32>,
    arena: Vec<u8>,
    used: usize,
    touched: Vec<usize>,
    /// Sockets to read again: the last read filled the space offered.
    again: Vec<usize>,
    gone: Vec<usize>,
}

impl Forwarder {
    /// Listens.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            listener,
            clients: Vec::new(),
            free: Vec::new(),
            numbers: Vec::new(),
            arena: vec![0; ARENA_BYTES],
            used: 0,
            touched: Vec::new(),
            again: Vec::new(),
            gone: Vec::new(),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// One turn: waits, reads each readable socket once, writes to each destination once.
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        let wait = (!self.again.is_empty()).then_some(std::time::Duration::ZERO);
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let again = std::mem::take(&mut self.again);
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                LISTENER => self.accept()?,
                Token(at) => {
                    if event.is_writable() {
                        self.write_waiting(at);
                    }
                    if event.is_readable() {
                        self.read(at);
                    }
                }
            }
        }
        self.events = events;
        for at in again {
            self.read(at);
        }
        self.flush();
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nodelay(true)?;
                    let at = self.free.pop().unwrap_or(self.clients.len());
                    self.poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
                    let client =
                        Client { stream, number: None, partial: Vec::new(), waiting: Vec::new(), pieces: Vec::new() };
                    match self.clients.get_mut(at) {
                        Some(place) => *place = Some(client),
                        None => self.clients.push(Some(client)),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self, at: usize) {
        let Some(client) = self.clients.get(at).and_then(Option::as_ref) else { return };
        let start = client.partial.len();
        if self.arena.len() - self.used < start + READ_BYTES_MIN {
            self.flush();
            // Nothing points into the arena now, so it may move.
            if self.arena.len() < start + READ_BYTES_MIN {
                self.arena.resize(2 * (start + READ_BYTES_MIN), 0);
            }
        }
        let Some(client) = self.clients.get_mut(at).and_then(Option::as_mut) else { return };
        let space = &mut self.arena[self.used..];
        match client.stream.read(&mut space[start..]) {
            Ok(0) => self.gone.push(at),
            Ok(count) => {
                space[..start].copy_from_slice(&client.partial);
                client.partial.clear();
                if start + count == space.len() {
                    self.again.push(at);
                }
                self.route(at, start + count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.again.push(at),
            Err(_) => self.gone.push(at),
        }
    }

    /// Gives the frames that were read to their destinations, as ranges of the arena: a run for one receiver is one.
    fn route(&mut self, at: usize, count: usize) {
        let (mut next, end) = (self.used, self.used + count);
        self.used = end;
        let mut is_in = self.clients[at].as_ref().is_some_and(|client| client.number.is_some());
        let (mut run, mut run_receiver) = (next..next, 0);
        while let Some((len, receiver)) = header(&self.arena[next..end]) {
            if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&len) {
                self.give_run(at, run_receiver, &run);
                return self.gone.push(at);
            }
            if end - next < len {
                break;
            }
            let frame = next..next + len;
            next += len;
            if !is_in {
                is_in = self.enter(at, receiver, &frame);
                run = next..next;
            } else if receiver == run_receiver {
                run.end = next;
            } else {
                self.give_run(at, run_receiver, &run);
                (run, run_receiver) = (frame, receiver);
            }
        }
        self.give_run(at, run_receiver, &run);
        if next < end
            && let Some(client) = self.clients[at].as_mut()
        {
            client.partial.extend_from_slice(&self.arena[next..end]);
        }
    }

    fn enter(&mut self, at: usize, number: u32, frame: &Range<usize>) -> bool {
        if number >= NUMBER_MAX {
            self.gone.push(at);
            return false;
        }
        if let Some(client) = self.clients[at].as_mut() {
            client.number = Some(number);
            let number = number as usize;
            if self.numbers.len() <= number {
                self.numbers.resize(number + 1, NOBODY);
            }
            self.numbers[number] = at as u32;
            self.give(at, frame);
        }
        true
    }

    fn give_run(&mut self, from: usize, receiver: u32, run: &Range<usize>) {
        if run.is_empty() {
            return;
        }
        if receiver == ALL {
            for other in (0..self.clients.len()).filter(|&other| other != from) {
                self.give(other, run);
            }
        } else if let Some(&to) = self.numbers.get(receiver as usize).filter(|&&to| to != NOBODY) {
            self.give(to as usize, run);
        }
    }

    fn give(&mut self, to: usize, frames: &Range<usize>) {
        let Some(client) = self.clients[to].as_mut().filter(|client| client.number.is_some()) else { return };
        if client.pieces.is_empty() {
            self.touched.push(to);
        }
        match client.pieces.last_mut() {
            Some(last) if last.end == frames.start => last.end = frames.end,
            _ => client.pieces.push(frames.clone()),
        }
    }

    /// Writes what the turn gathered, once for each destination.
    fn flush(&mut self) {
        for at in self.touched.drain(..) {
            let Some(client) = self.clients[at].as_mut() else { continue };
            if send(client, &self.arena).is_err() {
                self.gone.push(at);
            }
            client.pieces.clear();
        }
        self.used = 0;
        for at in self.gone.drain(..) {
            if let Some(number) = self.clients[at].take().map(|client| client.number) {
                if let Some(place) = number.and_then(|number| self.numbers.get_mut(number as usize))
                    && *place == at as u32
                {
                    *place = NOBODY;
                }
                self.free.push(at);
            }
        }
    }

    fn write_waiting(&mut self, at: usize) {
        let Some(client) = self.clients.get_mut(at).and_then(Option::as_mut) else { return };
        let mut done = 0;
        while done < client.waiting.len() {
            match client.stream.write(&client.waiting[done..]) {
                Ok(count) if count > 0 => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return self.gone.push(at),
            }
        }
        client.waiting.drain(..done);
    }
}

fn header(bytes: &[u8]) -> Option<(usize, u32)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (receiver, _) = rest.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*len) as usize, u32::from_le_bytes(*receiver)))
}

/// Sends a client's pieces of the arena; what the kernel does not take waits in a buffer of the client's own.
fn send(client: &mut Client, arena: &[u8]) -> io::Result<()> {
    let Client { stream, waiting, pieces, .. } = client;
    if !waiting.is_empty() {
        pieces.iter().for_each(|piece| waiting.extend_from_slice(&arena[piece.clone()]));
    } else if let [one] = &pieces[..] {
        let mut rest = &arena[one.clone()];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        waiting.extend_from_slice(rest);
    } else if pieces.len() <= PIECES_INLINE {
        let mut slices = [IoSlice::new(&[]); PIECES_INLINE];
        for (slice, piece) in slices.iter_mut().zip(&*pieces) {
            *slice = IoSlice::new(&arena[piece.clone()]);
        }
        send_many(stream, waiting, &mut slices[..pieces.len()])?;
    } else {
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(&arena[piece.clone()])).collect();
        send_many(stream, waiting, &mut slices)?;
    }
    if waiting.len() > WAITING_BYTES_MAX { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
}

fn send_many(stream: &mut TcpStream, waiting: &mut Vec<u8>, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match stream.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    slices.iter().for_each(|slice| waiting.extend_from_slice(slice));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net;

    use super::*;

    fn frame(receiver: u32, filling: &[u8]) -> Vec<u8> {
        let mut out = ((HEADER_BYTES + filling.len()) as u32).to_le_bytes().to_vec();
        out.extend_from_slice(&receiver.to_le_bytes());
        out.extend_from_slice(filling);
        out
    }

    #[test]
    fn frames_reach_their_receivers_whole_and_in_order() {
        let mut forwarder = Forwarder::bind("127.0.0.1:0".parse().expect("an address")).expect("a listener");
        let address = forwarder.address().expect("an address");
        thread::spawn(move || while forwarder.turn().is_ok() {});
        let mut clients: Vec<_> = (0..3u32)
            .map(|number| {
                let mut stream = net::TcpStream::connect(address).expect("connected");
                stream.write_all(&frame(number, b"")).expect("sent");
                let mut answer = [0; 8];
                stream.read_exact(&mut answer).expect("entered");
                assert_eq!(&answer[..], frame(number, b""));
                stream
            })
            .collect();
        let large = vec![7; 3 << 20];
        let mut expected = [Vec::new(), Vec::new(), Vec::new()];
        let mut sent = Vec::new();
        for round in 0..500u32 {
            let one = frame(round % 3, &round.to_le_bytes());
            expected[round as usize % 3].extend_from_slice(&one);
            sent.extend_from_slice(&one);
        }
        for (receiver, filling) in [(2, &large[..]), (ALL, b"all"), (9, b"nobody"), (1, b"end")] {
            let one = frame(receiver, filling);
            for (to, expected) in expected.iter_mut().enumerate() {
                if receiver == to as u32 || (receiver == ALL && to != 0) {
                    expected.extend_from_slice(&one);
                }
            }
            sent.extend_from_slice(&one);
        }
        let mut sender = clients[0].try_clone().expect("a clone");
        // In a thread of its own: a forwarder that waited for the sender would otherwise deadlock the test.
        let writer = thread::spawn(move || sent.chunks(1013).try_for_each(|part| sender.write_all(part)));
        for (client, expected) in clients.iter_mut().zip(&expected).rev() {
            let mut got = vec![0; expected.len()];
            client.read_exact(&mut got).expect("all of it");
            assert!(&got == expected, "the frames differ");
        }
        writer.join().expect("joined").expect("sent");
    }
}
