//! A line protocol. Every line is a command; see [`Lines::line`].

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    time::Duration,
};

use amp_relay::{
    base::{Close, CloseCode, ConnToken, Fault},
    reactor::{BoundAddr, Ended, Io, Listen, Options, Peer, PeerAddr, Protocol, Reactor, Refuse, Sent, Turn},
};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Running,
    hand::{self, Hand},
};

#[derive(Default)]
struct Lines {
    /// What is left to send to those who asked for a stream that heeds the marks.
    left: Vec<(ConnToken, usize)>,
}

struct Conn {
    uid: Option<u32>,
}

enum Mail {
    Say(&'static str),
    Panic,
}

const CHUNK: usize = 32 * 1024;

impl Lines {
    fn line(&mut self, conn: &mut Conn, io: &mut Io<'_, Self>, line: &str, at: usize) -> Result<(), Fault> {
        let me = io.token();
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "echo" => assert_ne!(io.write_to(me, &[rest.as_bytes(), b"\n"]), Sent::Closed),
            "who" => drop(io.send(format!("{}\n", me.bits()).into())),
            "uid" => drop(io.send(format!("{:?}\n", conn.uid).into())),
            "worker" => drop(io.send(format!("{}\n", io.worker()).into())),
            // To everybody else, straight from the read buffer.
            "say" => {
                let range = at + command.len() + 1..at + line.len() + 1;
                for other in io.tokens().filter(|&token| token != me) {
                    let _ = io.forward(other, range.clone());
                }
            }
            "to" => {
                let (token, text) = rest.split_once(' ').unwrap();
                let token = ConnToken::from_bits(token.parse().unwrap());
                let sent = io.send_to(token, format!("{text}\n").into());
                let _ = io.send(format!("{sent:?}\n").into());
            }
            "conn" => {
                let token = ConnToken::from_bits(rest.parse().unwrap());
                let known = io.conn(token).is_some();
                let _ = io.send(format!("{known}\n").into());
            }
            "flood" => while io.send(Bytes::from(vec![b'x'; CHUNK])) != Sent::Closed {},
            "stream" => {
                self.left.push((me, rest.parse().unwrap()));
                self.pump(io);
            }
            "pause" => {
                io.pause(me);
                io.set_timeout(me, Some(1));
            }
            "boom" => panic!("as the test wants it"),
            "fault" => return Err(Fault::new(CloseCode::POLICY, "no")),
            "bye" => io.close(me, Close::Local(CloseCode::NORMAL)),
            other => panic!("unknown command {other}"),
        }
        Ok(())
    }

    fn pump(&mut self, io: &mut Io<'_, Self>) {
        let Some(index) = self.left.iter().position(|(token, _)| *token == io.token()) else { return };
        let left = &mut self.left[index].1;
        while *left > 0 {
            let n = CHUNK.min(*left);
            *left -= n;
            match io.send(Bytes::from(vec![b'x'; n])) {
                Sent::Queued => {}
                Sent::High => return,
                Sent::Closed => panic!("the marks were heeded"),
            }
        }
        self.left.swap_remove(index);
    }
}

impl Protocol for Lines {
    type Conn = Conn;
    type Mail = Mail;

    fn accept(&mut self, _: &mut Io<'_, Self>, peer: &Peer) -> Result<Conn, Refuse> {
        let uid = match peer.addr {
            PeerAddr::Tcp(_) => None,
            PeerAddr::Unix { uid } => uid,
        };
        Ok(Conn { uid })
    }

    fn input(&mut self, conn: &mut Conn, io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while let Some(len) = bytes[at..].iter().position(|&byte| byte == b'\n') {
            let line = str::from_utf8(&bytes[at..at + len])
                .map_err(|_| Fault::new(CloseCode::INVALID_DATA, "not UTF-8"))?
                .to_owned();
            self.line(conn, io, &line, at)?;
            at += len + 1;
            if io.is_paused(io.token()) {
                break;
            }
        }
        Ok(at)
    }

    fn mail(&mut self, io: &mut Io<'_, Self>, mail: Mail) {
        match mail {
            Mail::Say(text) => {
                for token in io.tokens() {
                    let _ = io.write_to(token, &[text.as_bytes(), b"\n"]);
                }
            }
            Mail::Panic => panic!("as the test wants it"),
        }
    }

    fn timeout(&mut self, _: &mut Conn, io: &mut Io<'_, Self>) -> Result<(), Fault> {
        let _ = io.write_to(io.token(), &[b"resumed\n"]);
        io.resume(io.token());
        Ok(())
    }

    fn writable(&mut self, _: &mut Conn, io: &mut Io<'_, Self>) {
        self.pump(io);
    }

    fn closing_bytes(_: &Conn, why: &Close) -> Bytes {
        match why {
            Close::Peer(_) | Close::Broken => Bytes::new(),
            other => format!("closed: {other:?}\n").into(),
        }
    }
}

fn options(workers: usize) -> Options {
    Options {
        workers,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
        queue_high: 64 * 1024,
        queue_low: 16 * 1024,
        queue_max: 1024 * 1024,
        ..Options::default()
    }
}

fn start(options: Options) -> Running<Mail> {
    Running::start(Reactor::bind(options).unwrap(), |_, _| Lines::default())
}

/// A client of either family.
struct Client<S: Read + Write>(BufReader<S>);

impl Client<TcpStream> {
    fn tcp(running: &Running<Mail>) -> Self {
        let stream = TcpStream::connect(running.tcp()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Self(BufReader::new(stream));
        // An answer means that the connection is accepted.
        assert_eq!(client.ask("echo hello"), "hello");
        client
    }
}

impl<S: Read + Write> Client<S> {
    fn send(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.line()
    }

    /// Everything to the end of file.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        rest
    }
}

#[test]
fn lines_over_tcp_in_halves_and_in_heaps() {
    let running = start(options(2));
    let mut client = Client::tcp(&running);
    for byte in b"echo byte by byte\n" {
        client.0.get_mut().write_all(&[*byte]).unwrap();
    }
    assert_eq!(client.line(), "byte by byte");
    let mut heap = String::new();
    for n in 0..5_000 {
        heap.push_str(&format!("echo {n}\n"));
    }
    client.0.get_mut().write_all(heap.as_bytes()).unwrap();
    for n in 0..5_000 {
        assert_eq!(client.line(), n.to_string());
    }
    // A line larger than a quarter of the read buffer grows apart; more than the buffer works too.
    for len in [100_000, 700_000] {
        let long = "y".repeat(len);
        assert!(client.ask(&format!("echo {long}")) == long, "{len} bytes");
    }
    client.0.get_mut().shutdown(Shutdown::Write).unwrap();
    assert!(client.rest().is_empty());
    running.until("the slot is free", |sum| sum.open == 0 && sum.kept_bytes == 0 && sum.queue_bytes == 0);
    running.end(client);
}

#[test]
fn unix_streams_go_to_the_workers_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.sock");
    let mut options = options(3);
    options.listeners.push(Listen::Unix(path.clone()));
    let running = start(options);
    assert_eq!(running.addrs[1], BoundAddr::Unix(path.clone()));
    let mut workers = Vec::new();
    for _ in 0..6 {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Client(BufReader::new(stream));
        assert_eq!(client.ask("uid"), format!("Some({})", rustix::process::geteuid().as_raw()));
        workers.push(client.ask("worker"));
    }
    workers.sort();
    assert_eq!(workers, ["0", "0", "1", "1", "2", "2"]);
    running.end(());
    assert!(!path.exists(), "the file goes with its listener");
}

#[test]
fn forwards_reach_all_others_in_order() {
    let running = start(options(1));
    let mut speaker = Client::tcp(&running);
    let mut listeners: Vec<_> = (0..5).map(|_| Client::tcp(&running)).collect();
    let long = "z".repeat(3_000);
    let mut heap = String::new();
    for n in 0..2_000 {
        heap.push_str(&format!("say {n} {}\n", if n % 50 == 0 { &long } else { "" }));
    }
    // Larger than the read buffer: the arena fills up, is flushed, and reading goes on.
    heap.push_str(&format!("say {}\n", "w".repeat(400_000)));
    heap.push_str("echo done\n");
    let readers: Vec<_> = listeners
        .drain(..)
        .map(|mut listener| {
            let long = long.clone();
            std::thread::spawn(move || {
                for n in 0..2_000 {
                    let expected = format!("{n} {}", if n % 50 == 0 { &long } else { "" });
                    assert_eq!(listener.line(), expected.trim_end());
                }
                assert_eq!(listener.line().len(), 400_000);
            })
        })
        .collect();
    speaker.0.get_mut().write_all(heap.as_bytes()).unwrap();
    assert_eq!(speaker.line(), "done");
    for reader in readers {
        reader.join().unwrap();
    }
    running.end(speaker);
}

#[test]
fn a_stalled_reader_hits_the_marks() {
    let running = start(options(1));
    let mut other = Client::tcp(&running);

    // One that heeds the marks loses nothing and never holds much.
    let mut careful = Client::tcp(&running);
    let total = 40 * 1024 * 1024;
    careful.send(&format!("stream {total}"));
    running.until("the queue is high", |sum| sum.queue_bytes > 16 * 1024);
    assert!(running.sum().queue_bytes < 1024 * 1024);
    let mut got = 0;
    let mut piece = vec![0; 1024 * 1024];
    while got < total {
        got += careful.0.read(&mut piece).unwrap();
    }
    assert_eq!(careful.ask("echo still here"), "still here");

    // One that does not is closed, and told so behind what was queued.
    let mut flooded = Client::tcp(&running);
    flooded.send("flood");
    let rest = flooded.rest();
    assert!(rest.ends_with(b"xclosed: TooSlow\n"), "{}", rest.len());
    assert!(rest.len() <= 1024 * 1024 + 17);
    running.until("closed as too slow", |sum| sum.closed[5] == 1);
    assert_eq!(other.ask("echo undisturbed"), "undisturbed");
    running.end((careful, flooded, other));
}

#[test]
fn what_comes_in_a_pause_comes_after_it() {
    let running = start(options(1));
    let mut client = Client::tcp(&running);
    client.send("pause\necho in the same read");
    assert_eq!(client.line(), "resumed");
    assert_eq!(client.line(), "in the same read");
    client.send("pause");
    client.send("echo in another");
    assert_eq!(client.line(), "resumed");
    assert_eq!(client.line(), "in another");
    // A peer that resets while it is paused is noticed.
    let mut reset = Client::tcp(&running);
    reset.send("pause");
    socket2::SockRef::from(reset.0.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    running.until("the reset is noticed", |sum| sum.open == 1 && sum.closed[1] == 1);
    running.end(client);
}

#[test]
fn mail_reaches_every_worker() {
    let running = start(options(3));
    let mut clients: Vec<_> = (0..24).map(|_| Client::tcp(&running)).collect();
    for mailer in &running.mailers {
        assert!(mailer.try_send(Mail::Say("news")).is_ok());
    }
    for client in &mut clients {
        assert_eq!(client.line(), "news");
    }
    running.until("counted", |sum| sum.mail == 3);
    running.end(clients);
}

#[test]
fn a_panic_closes_the_connection_it_happens_on() {
    let running = start(options(1));
    let mut other = Client::tcp(&running);
    let mut unlucky = Client::tcp(&running);
    unlucky.send("boom");
    assert_eq!(unlucky.rest(), b"closed: Panicked\n");
    assert_eq!(other.ask("echo undisturbed"), "undisturbed");
    running.until("counted", |sum| sum.panics == 1 && sum.closed[7] == 1);
    let mut faulty = Client::tcp(&running);
    faulty.send("fault");
    assert!(faulty.rest().starts_with(b"closed: Fault"));
    running.until("counted", |sum| sum.closed[2] == 1);
    running.end((other, unlucky, faulty));
}

#[test]
fn a_panic_outside_of_a_connection_drains_and_is_reported() {
    let running = start(options(2));
    let mut client = Client::tcp(&running);
    let worker: usize = client.ask("worker").parse().unwrap();
    let other = 1 - worker;
    assert!(running.mailers[other].try_send(Mail::Panic).is_ok());
    assert_eq!(client.rest(), b"closed: Drain\n");
    assert!(running.handle.is_draining());
    match running.handle.join() {
        Err(Ended::Panicked { worker }) => assert_eq!(usize::from(worker), other),
        ended => panic!("{ended:?}"),
    }
}

#[test]
fn a_stale_token_reaches_nobody_and_is_counted() {
    let running = start(options(1));
    let mut client = Client::tcp(&running);
    let mut gone = Client::tcp(&running);
    let token = gone.ask("who");
    assert_eq!(client.ask(&format!("conn {token}")), "true");
    assert_eq!(client.ask(&format!("to {token} hello")), "Queued");
    assert_eq!(gone.line(), "hello");
    drop(gone);
    running.until("it is gone", |sum| sum.open == 1);
    // Its slot is used again by another.
    let mut heir = Client::tcp(&running);
    let before = running.sum().stale_mail;
    assert_eq!(client.ask(&format!("to {token} hello")), "Closed");
    assert_eq!(client.ask(&format!("conn {token}")), "false");
    assert_eq!(running.sum().stale_mail, before + 2);
    assert_eq!(heir.ask("echo not for me"), "not for me");
    running.end((client, heir));
}

#[test]
fn a_drain_says_goodbye_and_ends() {
    let running = start(options(2));
    let mut clients: Vec<_> = (0..8).map(|_| Client::tcp(&running)).collect();
    let address = running.tcp();
    running.handle.drain();
    for client in &mut clients {
        assert_eq!(client.rest(), b"closed: Drain\n");
    }
    drop(clients);
    running.handle.join().unwrap();
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_stop_does_not_wait_for_anybody() {
    let running = start(options(2));
    let mut client = Client::tcp(&running);
    client.send("flood");
    running.handle.stop_now();
    running.handle.join().unwrap();
}

#[test]
fn accepting_stops_at_the_maximum_and_goes_on_below_it() {
    let running = start(Options { connections_max: 4, ..options(1) });
    let mut clients: Vec<_> = (0..4).map(|_| Client::tcp(&running)).collect();
    // The kernel takes it, the loop does not yet.
    let waiting = TcpStream::connect(running.tcp()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut waiting = Client(BufReader::new(waiting));
    waiting.send("echo at last");
    assert_eq!(clients[0].ask("echo a turn"), "a turn");
    assert_eq!(running.sum().accepted, 4);
    assert_eq!((running.sum().accept_stops, running.sum().refused), (1, 0), "it is counted");
    let mut first = clients.remove(0);
    first.send("bye");
    assert!(first.rest().starts_with(b"closed: Local"));
    drop(first);
    assert_eq!(waiting.line(), "at last");
    running.end((clients, waiting));
}

#[test]
fn a_host_turns_a_worker_itself() {
    let bound = Reactor::bind::<Lines>(options(1)).unwrap();
    let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { panic!("not TCP") };
    let control = bound.control();
    let mut worker = bound.into_workers(|_, _| Lines::default()).unwrap().remove(0);
    let client = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Client(BufReader::new(stream));
        assert_eq!(client.ask("echo hello"), "hello");
        control.drain();
        assert_eq!(client.rest(), b"closed: Drain\n");
    });
    while worker.turn(Some(Duration::from_millis(100))).unwrap() == Turn::Running {}
    client.join().unwrap();
}

#[test]
fn a_host_that_sleeps_on_the_descriptor_is_woken_by_mail() {
    let mut hand = Hand::new(options(1), Lines::default());
    let mut client = hand.connect();
    let is_readable = |hand: &Hand<Lines>| {
        let mut fds = [PollFd::new(&hand.worker, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    };
    // What came with the connection is dealt with; after that nothing is left, and there is no timer.
    hand.turn();
    hand.turn();
    assert_eq!(hand.worker.arm(), None);
    assert!(!is_readable(&hand));
    assert!(hand.mailer.try_send(Mail::Say("news")).is_ok());
    assert!(is_readable(&hand), "it would sleep on its mail");
    hand.turn();
    assert_eq!(hand::read(&mut client), b"news\n");
    // Mail that came before it was armed need not show, so the host must not sleep.
    assert!(hand.mailer.try_send(Mail::Say("more")).is_ok());
    assert_eq!(hand.worker.arm(), Some(Duration::ZERO));
    hand.turn();
    assert_eq!(hand::read(&mut client), b"more\n");
    // Bytes of a client show without that, and a timeout bounds the sleep.
    assert_eq!(hand.worker.arm(), None);
    client.write_all(b"pause\n").unwrap();
    assert!(is_readable(&hand));
    hand.turn();
    assert!(hand.worker.arm().unwrap() < Duration::from_millis(40));
}
