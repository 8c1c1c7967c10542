//! Single workers, turned by hand: what must not be lost between two turns.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
};

use bytes::Bytes;

use super::*;
use crate::{
    base::Fault,
    reactor::{BoundAddr, Listen, Peer, Reactor, Refuse, Sent},
};

/// Does what the test says, and takes down what happened.
#[derive(Default)]
struct Script {
    token: Option<ConnToken>,
    /// Pauses at the first input instead of taking it.
    hold: bool,
    /// Answers the first input with more than the high mark.
    flood: bool,
    /// Stays open after the end of file.
    half_open: bool,
    /// Resumes this connection at the end of the next turn.
    resume: Option<ConnToken>,
    seen: Vec<u8>,
    drained: usize,
    ended: usize,
    closed: usize,
}

impl Protocol for Script {
    type Conn = ();
    type Mail = ();

    fn accept(&mut self, io: &mut Io<'_, Self>, _: &Peer) -> Result<(), Refuse> {
        self.token = Some(io.token());
        Ok(())
    }

    fn input(&mut self, _: &mut (), io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
        if std::mem::take(&mut self.hold) {
            io.pause(io.token());
            return Ok(0);
        }
        if std::mem::take(&mut self.flood) {
            while io.send(Bytes::from_static(&[b'x'; 64 * 1024])) != Sent::High {}
        }
        self.seen.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn eof(&mut self, _: &mut (), io: &mut Io<'_, Self>) {
        self.ended += 1;
        if !self.half_open {
            io.close(io.token(), Close::Peer(None));
        }
    }

    fn drained(&mut self, _: &mut (), _: &mut Io<'_, Self>) {
        self.drained += 1;
    }

    fn closed(&mut self, _: (), _: ConnToken, _: Close) {
        self.closed += 1;
    }

    fn turn(&mut self, io: &mut Io<'_, Self>) {
        if let Some(token) = self.resume.take() {
            io.resume(token);
        }
    }
}

fn worker(listen: Listen, script: Script) -> (Worker<Script>, BoundAddr) {
    let options =
        Options { workers: 1, listeners: vec![listen], queue_high: 8 << 20, queue_max: 16 << 20, ..Options::default() };
    let bound = Reactor::bind::<Script>(options).unwrap();
    let address = bound.local_addrs()[0].clone();
    let mut script = Some(script);
    let mut workers = bound.into_workers(|_, _| script.take().unwrap()).unwrap();
    (workers.pop().unwrap(), address)
}

fn tcp(script: Script) -> (Worker<Script>, TcpStream) {
    let (worker, address) = worker(Listen::Tcp("127.0.0.1:0".parse().unwrap()), script);
    let BoundAddr::Tcp(address) = address else { panic!("not TCP") };
    (worker, TcpStream::connect(address).unwrap())
}

fn until(worker: &mut Worker<Script>, what: &str, mut holds: impl FnMut(&mut Worker<Script>) -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !holds(worker) {
        assert!(Instant::now() < limit, "waited too long for: {what}");
        worker.turn(Some(Duration::from_millis(10))).unwrap();
    }
}

#[test]
fn what_drained_left_to_tell_does_not_wait_for_the_next_event() {
    let (mut worker, mut stream) = tcp(Script { flood: true, ..Script::default() });
    stream.write_all(b"go").unwrap();
    until(&mut worker, "the flood", |worker| !worker.protocol.seen.is_empty());
    let mut room = vec![0; 1 << 20];
    let limit = Instant::now() + Duration::from_secs(30);
    while worker.protocol.drained == 0 {
        assert!(Instant::now() < limit, "never drained");
        stream.set_nonblocking(true).unwrap();
        let _ = stream.read(&mut room);
        worker.turn(Some(Duration::from_millis(1))).unwrap();
    }
    // `drained` runs after the protocol's `turn`, which is where it would tell other threads.
    assert!(worker.has_work(), "it would sleep on what is to be told");
    worker.turn(Some(Duration::ZERO)).unwrap();
    assert!(!worker.told_late);
}

#[test]
fn what_was_held_back_comes_before_the_end_of_file() {
    let (mut worker, mut stream) = tcp(Script { hold: true, ..Script::default() });
    stream.write_all(b"held").unwrap();
    until(&mut worker, "the pause", |worker| worker.kept_bytes == 4);
    stream.shutdown(Shutdown::Write).unwrap();
    let token = worker.protocol.token.unwrap();
    until(&mut worker, "the end", |worker| worker.core.slots.get(token).unwrap().flags.has(Flags::HUP));
    assert_eq!(worker.protocol.ended, 0, "a paused connection is not read");
    worker.protocol.resume = Some(token);
    until(&mut worker, "the end of file", |worker| worker.protocol.ended == 1);
    assert_eq!(worker.protocol.seen, b"held");
    until(&mut worker, "its slot", |worker| worker.core.slots.len() == 0);
    assert_eq!((worker.protocol.closed, worker.kept_bytes), (1, 0));
}

#[test]
fn a_peer_that_goes_after_it_ended_its_half_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let (mut worker, _) = worker(Listen::Unix(path.clone()), Script { half_open: true, ..Script::default() });
    let stream = UnixStream::connect(path).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    until(&mut worker, "the end of file", |worker| worker.protocol.ended == 1);
    assert_eq!(worker.protocol.closed, 0, "its half may stay open");
    drop(stream);
    until(&mut worker, "its slot", |worker| worker.core.slots.len() == 0);
    assert_eq!(worker.protocol.closed, 1);
}
