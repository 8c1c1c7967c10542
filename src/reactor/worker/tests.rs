//! Single workers, turned by hand: what must not be lost between two turns.

#[cfg(feature = "deflate")]
mod inflated;
mod probes;
mod strangers;

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    time::Instant,
};

use bytes::Bytes;

use super::*;
use crate::{
    base::{CloseCode, Fault},
    reactor::{
        BoundAddr, Listen, Peer, Reactor, Refuse, Sent,
        pace::Pace,
        ws::{Answer, Data, Ws, WsHandler, WsIo, WsOptions},
    },
    wire::http::Head,
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

    fn writable(&mut self, _: &mut (), _: &mut Io<'_, Self>) {
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

/// Longer than any test, so that it passes only where a test says so, and within one turn of the wheel.
const LINGER_MS: u64 = 60_000;

fn worker(listen: Listen, script: Script) -> (Worker<Script>, BoundAddr) {
    let options = Options {
        workers: 1,
        listeners: vec![listen],
        queue_high: 8 << 20,
        queue_max: 16 << 20,
        linger_ms: LINGER_MS,
        ..Options::default()
    };
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

fn until<P: Protocol>(worker: &mut Worker<P>, what: &str, mut holds: impl FnMut(&mut Worker<P>) -> bool) {
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
    // `writable` runs after the protocol's `turn`, which is where it would tell other threads.
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
fn an_end_of_file_that_comes_with_the_last_bytes_is_seen() {
    let (mut worker, mut stream) = tcp(Script::default());
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    until(&mut worker, "the end of file", |worker| worker.protocol.ended == 1);
    assert_eq!(worker.protocol.seen, b"last");
}

#[test]
fn what_an_accept_or_a_close_left_to_tell_does_not_wait_for_the_next_event() {
    let (mut worker, _stream) = tcp(Script::default());
    until(&mut worker, "the connection", |worker| worker.protocol.token.is_some());
    assert!(worker.told_late, "it was accepted after the protocol's `turn`");
    worker.turn(Some(Duration::ZERO)).unwrap();
    assert!(!worker.told_late);
    worker.core.close(worker.protocol.token.unwrap(), Close::Local(CloseCode::NORMAL));
    worker.close_asked();
    assert!(worker.told_late);
}

#[test]
fn a_connection_that_was_made_before_a_drain_is_still_accepted() {
    let (mut worker, _stream) = tcp(Script::default());
    worker.shared.drain.store(true, Ordering::Release);
    worker.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(worker.core.counters.accepted.get(), 1, "it can be said goodbye to");
}

#[test]
fn a_connection_that_another_worker_hands_over_in_a_drain_is_not_taken() {
    let (mut worker, first) = tcp(Script::default());
    until(&mut worker, "the connection", |worker| worker.protocol.token.is_some());
    let mut late = TcpStream::connect(first.peer_addr().unwrap()).unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    let accepted = loop {
        assert!(Instant::now() < limit, "it does not come");
        if let Ok(accepted) = worker.listeners[0].accept() {
            break accepted;
        }
    };
    worker.shared.drain.store(true, Ordering::Release);
    worker.turn(Some(Duration::ZERO)).unwrap();
    assert!(worker.inboxes[0].try_send(InboxItem::Stream(accepted)).is_ok());
    until(&mut worker, "it is refused", |worker| worker.core.counters.refused.get() == 1);
    assert_eq!(late.read(&mut [0]).unwrap(), 0);
    assert_eq!((worker.core.counters.accepted.get(), worker.core.slots.len()), (1, 1));
}

#[test]
fn a_close_of_a_paused_connection_sees_the_end_that_came_before() {
    let (mut worker, mut stream) = tcp(Script { hold: true, ..Script::default() });
    stream.write_all(b"held").unwrap();
    until(&mut worker, "the pause", |worker| worker.kept_bytes == 4);
    stream.write_all(b"more").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let token = worker.protocol.token.unwrap();
    until(&mut worker, "the end", |worker| has(worker, token, Flags::HUP));
    worker.core.close(token, Close::Local(CloseCode::NORMAL));
    until(&mut worker, "its slot", |worker| worker.core.slots.len() == 0);
    assert_eq!((worker.protocol.closed, worker.protocol.seen.len(), worker.kept_bytes), (1, 0, 0));
    assert_eq!(worker.core.counters.bytes_in.get(), 8, "what is left unread makes the close a reset");
}

#[test]
fn a_connection_is_stopped_by_a_pause_a_close_and_a_queue_that_is_full() {
    let stops: [fn(&mut Io<'_, Script>, ConnToken); 3] = [
        |io, token| io.pause(token),
        |io, token| io.close(token, Close::Local(CloseCode::NORMAL)),
        |io, token| assert_eq!(io.send_to(token, vec![0; 17 << 20].into()), Sent::Closed),
    ];
    for stop in stops {
        let (mut worker, _stream) = tcp(Script::default());
        until(&mut worker, "the connection", |worker| worker.protocol.token.is_some());
        let token = worker.protocol.token.unwrap();
        let (mut io, mut stops) = (Io::new(&mut worker.core, token, Lent::default()), None);
        assert!(!io.is_stopped(&mut stops));
        stop(&mut io, token);
        assert!(io.is_stopped(&mut stops));
    }
}

#[test]
fn a_sender_that_waits_for_room_is_woken_when_the_worker_has_taken_its_mail() {
    struct Woken(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }
    let (mut worker, _stream) = tcp(Script::default());
    let woken = Arc::new(Woken(false.into()));
    let waker = Arc::clone(&woken).into();
    let sender = worker.inboxes[0].clone();
    while crate::reactor::Inbox::offer(&sender, InboxItem::Mail(()), &waker).is_ok() {}
    worker.turn(Some(Duration::ZERO)).unwrap();
    assert!(woken.0.load(Ordering::Acquire));
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

/// A connection that has more to send than its peer's system takes.
fn flooded() -> (Worker<Script>, TcpStream, ConnToken) {
    let (mut worker, mut stream) = tcp(Script { flood: true, ..Script::default() });
    stream.write_all(b"go").unwrap();
    until(&mut worker, "the flood", |worker| !worker.protocol.seen.is_empty());
    stream.set_nonblocking(true).unwrap();
    let token = worker.protocol.token.unwrap();
    (worker, stream, token)
}

fn has<P: Protocol>(worker: &Worker<P>, token: ConnToken, flag: u16) -> bool {
    worker.core.slots.get(token).is_some_and(|slot| slot.flags.has(flag))
}

/// Its peer reads until the kernel has taken more.
fn moves(worker: &mut Worker<Script>, stream: &mut TcpStream, token: ConnToken) {
    let mut room = vec![0; 1 << 20];
    until(worker, "progress", |worker| {
        let _ = stream.read(&mut room);
        has(worker, token, Flags::MOVED)
    });
}

fn closed(worker: &mut Worker<Script>, token: ConnToken) {
    worker.core.close(token, Close::Local(CloseCode::NORMAL));
    worker.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(worker.protocol.closed, 1);
}

#[test]
fn what_a_peer_took_before_a_close_does_not_prolong_it() {
    let (mut worker, mut stream, token) = flooded();
    moves(&mut worker, &mut stream, token);
    closed(&mut worker, token);
    worker.core.wheel.set(token.slot(), worker.core.now.mono_ms);
    until(&mut worker, "the end", |worker| worker.core.slots.len() == 0);
}

#[test]
fn a_close_goes_on_while_the_peer_takes_something_and_no_longer() {
    let (mut worker, mut stream, token) = flooded();
    closed(&mut worker, token);
    moves(&mut worker, &mut stream, token);
    // The time is over, and begins anew.
    worker.core.wheel.set(token.slot(), worker.core.now.mono_ms);
    until(&mut worker, "the time is looked at", |worker| !has(worker, token, Flags::MOVED));
    let left = worker.core.wheel.wait_ms(worker.core.now.mono_ms).expect("it is waited for");
    assert!(left > LINGER_MS / 2 && worker.core.slots.len() == 1, "{left} ms");
    worker.core.wheel.set(token.slot(), worker.core.now.mono_ms);
    until(&mut worker, "the end", |worker| worker.core.slots.len() == 0);
}

#[test]
fn a_peer_that_ends_its_half_first_has_all_that_was_said_before_the_close() {
    let (mut worker, mut stream, token) = flooded();
    closed(&mut worker, token);
    let all = worker.core.queue_bytes as u64 + worker.core.counters.bytes_out.get();
    stream.shutdown(Shutdown::Write).unwrap();
    until(&mut worker, "the end of file", |worker| has(worker, token, Flags::EOF));
    let (mut room, mut came) = (vec![0; 1 << 20], 0);
    until(&mut worker, "all is read", |_| match stream.read(&mut room) {
        Ok(0) => true,
        Ok(n) => {
            came += n as u64;
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "after {came} of {all} bytes");
            false
        }
    });
    assert_eq!(came, all);
    assert_eq!(worker.core.slots.len(), 0, "nothing is waited for");
}

#[test]
fn a_slow_reader_has_the_whole_time_to_take_what_the_kernel_holds() {
    let (mut worker, mut stream, token) = flooded();
    closed(&mut worker, token);
    // Half of it is over when the queue is empty.
    worker.core.wheel.set(token.slot(), worker.core.now.mono_ms + LINGER_MS / 2);
    let mut room = vec![0; 1 << 20];
    until(&mut worker, "all is written", |worker| {
        let _ = stream.read(&mut room);
        has(worker, token, Flags::SHUT)
    });
    let left = worker.core.wheel.wait_ms(worker.core.now.mono_ms).expect("it is waited for");
    assert!(left > LINGER_MS / 2, "{left} ms");
    // It is counted once: what was taken before does not count when the time is over.
    assert!(!has(&worker, token, Flags::MOVED));
}

#[test]
fn a_stranger_that_takes_something_does_not_prolong_its_close() {
    let (mut worker, mut stream, token) = flooded();
    worker.core.begin_provisional(token);
    closed(&mut worker, token);
    moves(&mut worker, &mut stream, token);
    worker.core.wheel.set(token.slot(), worker.core.now.mono_ms);
    until(&mut worker, "the time is looked at", |worker| !has(worker, token, Flags::MOVED));
    assert_eq!(worker.core.slots.len(), 0, "it gets no more time");
}

#[test]
fn a_stranger_that_takes_all_has_what_is_left_of_the_time() {
    let (mut worker, mut stream, token) = flooded();
    worker.core.begin_provisional(token);
    closed(&mut worker, token);
    worker.core.wheel.set(token.slot(), worker.core.now.mono_ms + LINGER_MS / 4);
    let mut room = vec![0; 1 << 20];
    until(&mut worker, "all is written", |worker| {
        let _ = stream.read(&mut room);
        has(worker, token, Flags::SHUT)
    });
    let left = worker.core.wheel.wait_ms(worker.core.now.mono_ms).expect("it is waited for");
    assert!(left < LINGER_MS / 2, "{left} ms");
}

/// A WebSocket service that says nothing, and counts what it hears.
#[derive(Default)]
struct Quiet {
    heard: usize,
}

impl WsHandler for Quiet {
    type Conn = ();
    type Mail = ();

    fn request(&mut self, _: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<()> {
        Answer::upgrade(())
    }

    fn message(&mut self, _: &mut (), _: &mut WsIo<'_, Self>, _: Data<'_>) -> Result<(), Fault> {
        self.heard += 1;
        Ok(())
    }
}

/// A worker with one connection of the WebSocket service. The client has the answer to its upgrade still to read.
fn quiet(ws: &WsOptions, headers: &str) -> (Worker<Ws<Quiet>>, UnixStream, ConnToken) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let options = Options { workers: 1, listeners: vec![Listen::Unix(path.clone())], ..Options::default() };
    let quiet = |_, _: &[_]| Ws::new(Quiet::default(), ws.clone());
    let mut worker = Reactor::bind(options).unwrap().into_workers(quiet).unwrap().remove(0);
    let mut stream = UnixStream::connect(path).unwrap();
    until(&mut worker, "the connection", |worker| worker.core.slots.len() == 1);
    let token = worker.core.slots.token_at(0).unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    until(&mut worker, "the upgrade", |worker| has(worker, token, Flags::PACED));
    (worker, stream, token)
}

/// How many pings a peer is sent that says nothing after its upgrade, until it is given up.
fn pings(pings_missed_max: u8, is_paced: bool) -> usize {
    let ws = WsOptions { ping_every_ms: 1, pings_missed_max, ..WsOptions::default() };
    let (mut worker, mut stream, token) = quiet(&ws, "");
    if is_paced {
        let mut pace = Pace::new(2_000);
        pace.probed(1_000, 0);
        let slot = worker.core.slots.get_mut(token).unwrap();
        slot.rare().pace = Some(pace);
    }
    until(&mut worker, "the end of its patience", |worker| has(worker, token, Flags::SHUT));
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    let head = said.windows(4).position(|end| end == b"\r\n\r\n").expect("an upgrade");
    said[head + 4..].chunks(2).take_while(|frame| *frame == [0x89, 0]).count()
}

#[test]
fn a_peer_that_is_given_what_it_reads_may_miss_twice_as_many_pings() {
    assert_eq!((pings(3, false), pings(3, true)), (3, 6));
    // No more than can be counted.
    assert_eq!(pings(200, true), 255);
}

/// Takes everything, and confirms no connection.
struct Strangers;

impl Protocol for Strangers {
    type Conn = ();
    type Mail = ();
    const PROVISIONAL: bool = true;

    fn accept(&mut self, _: &mut Io<'_, Self>, _: &Peer) -> Result<(), Refuse> {
        Ok(())
    }

    fn input(&mut self, _: &mut (), _: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
        Ok(bytes.len())
    }

    fn closed(&mut self, _: (), _: ConnToken, _: Close) {}
}
