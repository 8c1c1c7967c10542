//! A WebSocket service, with tungstenite as the client.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use amp_relay::{
    base::{Close, CloseCode, ConnToken, Fault},
    reactor::{
        Listen, Options, Peer, Reactor, Sent,
        ws::{Answer, Data, Framed, Ws, WsHandler, WsIo, WsOptions},
    },
    wire::{
        http::{Head, Response},
        ws::{OpCode, client_frame, frame_len},
    },
};
use tungstenite::{Message, WebSocket, client::client, protocol::frame::coding};

use super::Running;

#[path = "closes.rs"]
mod closes;
#[path = "slow.rs"]
mod slow;

/// A chat room that knows a few words; what it does not know it passes on to the others.
#[derive(Default)]
struct Chat {
    gone: Vec<ConnToken>,
}

impl WsHandler for Chat {
    type Conn = u32;
    type Mail = String;

    fn request(&mut self, head: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<u32> {
        match head.path {
            "/chat" => Answer::Upgrade {
                conn: 0,
                subprotocol: head.subprotocols().any(|offered| offered == "chat.v1").then_some("chat.v1"),
                headers: vec![("X-Room", "1".into())],
            },
            "/boom" => panic!("as the test wants it"),
            "/hello" => Answer::Respond(Response::text(200, "hello")),
            _ => Answer::Respond(Response::text(404, "no such path")),
        }
    }

    fn open(&mut self, _: &mut u32, io: &mut WsIo<'_, Self>) -> Result<(), Fault> {
        let welcome = format!("welcome {}", io.tokens().count());
        assert_eq!(io.text(&welcome), Sent::Queued);
        Ok(())
    }

    fn message(&mut self, count: &mut u32, io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
        *count += 1;
        let me = io.token();
        match message {
            Data::Binary(bytes) => drop(io.binary(bytes)),
            Data::Text("count") => drop(io.text(&count.to_string())),
            Data::Text("boom") => panic!("as the test wants it"),
            Data::Text("fault") => return Err(Fault::new(CloseCode::POLICY, "against the rules")),
            Data::Text("bye") => io.close(me, CloseCode(4000), "bye"),
            Data::Text("hush and bye") => {
                io.pause(me);
                io.close(me, CloseCode(4000), "bye");
            }
            Data::Text("kick") => {
                for other in io.tokens().filter(|&token| token != me) {
                    io.close(other, CloseCode::POLICY, "kicked");
                    assert_eq!(io.text_to(other, "too late"), Sent::Closed);
                }
            }
            Data::Text("flood") => {
                let framed = Framed::text(&"x".repeat(32 * 1024));
                while io.framed_to(me, &framed) != Sent::Closed {}
            }
            Data::Text("pause") => {
                io.pause(me);
                io.set_timeout(me, Some(1));
            }
            Data::Text("hush") => io.pause(me),
            Data::Text("hoard") => {
                io.pause(me);
                let framed = Framed::text(&"x".repeat(32 * 1024));
                // More than a kernel keeps for a peer that reads nothing, less than the queue may have.
                for _ in 0..120 {
                    let _ = io.framed_to(me, &framed);
                }
            }
            Data::Text("pile") => pile(io),
            Data::Text("pile and bye") => {
                pile(io);
                io.close(me, CloseCode(4000), "bye");
            }
            Data::Text("later") => io.set_timeout(me, Some(1)),
            Data::Text("be brief") => io.tokens().for_each(|token| io.limit_messages(token, 100)),
            Data::Text(text) if text.starts_with("all ") => {
                io.broadcast(&Framed::text(text), Some(me));
            }
            data @ Data::Text(_) => {
                for other in io.tokens().filter(|&token| token != me) {
                    let _ = io.forward_to(other, data);
                }
            }
        }
        Ok(())
    }

    fn mail(&mut self, io: &mut WsIo<'_, Self>, mail: String) {
        io.broadcast(&Framed::text(&mail), None);
    }

    fn timeout(&mut self, _: &mut u32, io: &mut WsIo<'_, Self>) -> Result<(), Fault> {
        io.resume(io.token());
        let _ = io.text("it is later");
        Ok(())
    }

    fn closed(&mut self, _: u32, token: ConnToken, _: Close) {
        self.gone.push(token);
    }

    fn turn(&mut self, io: &mut WsIo<'_, Self>) {
        for _ in self.gone.drain(..) {
            io.broadcast(&Framed::text("somebody left"), None);
        }
    }
}

/// Messages of a pile, and their bytes: more than a kernel keeps for a peer that reads nothing, less than the queue may have.
const PILE: usize = 100;
const PILED: usize = 32 * 1024;

fn pile(io: &mut WsIo<'_, Chat>) {
    let framed = Framed::text(&"x".repeat(PILED));
    for _ in 0..PILE {
        assert_ne!(io.framed_to(io.token(), &framed), Sent::Closed);
    }
}

fn start(ws: WsOptions) -> Running<String> {
    let options = Options {
        workers: 1,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
        queue_max: 4 * 1024 * 1024,
        linger_ms: 300,
        ..Options::default()
    };
    Running::start(Reactor::bind(options).unwrap(), move |_, _| Ws::new(Chat::default(), ws.clone()))
}

fn raw(running: &Running<String>) -> TcpStream {
    let stream = TcpStream::connect(running.tcp()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn connect(running: &Running<String>) -> WebSocket<TcpStream> {
    let url = format!("ws://{}/chat", running.tcp());
    let (mut socket, answer) = client(url.as_str(), raw(running)).unwrap();
    assert_eq!(answer.headers()["x-room"], "1");
    assert!(text(&mut socket).starts_with("welcome "));
    socket
}

fn text(socket: &mut WebSocket<TcpStream>) -> String {
    loop {
        match socket.read().unwrap() {
            Message::Text(text) => return text.as_str().to_owned(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Reads to the close frame and to the end of TCP, and says the code.
fn closed(socket: &mut WebSocket<TcpStream>) -> (u16, String) {
    let mut said = None;
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => said = frame.map(|frame| (u16::from(frame.code), frame.reason.to_string())),
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => return said.expect("a close frame with a code"),
            Err(error) => panic!("{error}; close frame {said:?}"),
        }
    }
}

fn request(running: &Running<String>, head: &str) -> String {
    let mut stream = raw(running);
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_chat_room() {
    let running = start(WsOptions::default());
    let mut one = connect(&running);
    let mut two = connect(&running);
    let mut three = connect(&running);
    one.send("hello, both".into()).unwrap();
    two.send("all together".into()).unwrap();
    assert_eq!(text(&mut three), "hello, both");
    assert_eq!(text(&mut three), "all together");
    assert_eq!(text(&mut two), "hello, both");
    assert_eq!(text(&mut one), "all together");
    running.mailers[0].try_send("news".into()).unwrap();
    for socket in [&mut one, &mut two, &mut three] {
        assert_eq!(text(socket), "news");
    }
    one.send("later".into()).unwrap();
    assert_eq!(text(&mut one), "it is later");
    one.send("count".into()).unwrap();
    assert_eq!(text(&mut one), "3");
    // Close handshakes: by the client, by the server, by a third party.
    three.close(None).unwrap();
    assert!(matches!(three.read(), Ok(Message::Close(None))));
    assert!(matches!(three.read(), Err(tungstenite::Error::ConnectionClosed)));
    assert_eq!(text(&mut one), "somebody left");
    two.send("kick".into()).unwrap();
    assert_eq!(closed(&mut one), (1008, "kicked".into()));
    assert_eq!(text(&mut two), "somebody left");
    assert_eq!(text(&mut two), "somebody left");
    two.send("bye".into()).unwrap();
    assert_eq!(closed(&mut two), (4000, "bye".into()));
    running.until("all slots are free", |sum| sum.open == 0);
    let sum = running.sum();
    assert_eq!((sum.closed[0], sum.closed[3], sum.panics), (1, 2, 0), "{sum:?}");
    assert!(sum.messages_in == 6 && sum.messages_out >= 10 && sum.frames_in >= sum.messages_in);
    running.end((one, two, three));
}

#[test]
fn large_fragmented_and_halved_messages_come_whole() {
    let running = start(WsOptions::default());
    let mut one = connect(&running);
    let mut two = connect(&running);
    for len in [0, 125, 126, 65_535, 65_536, 300_000, 1 << 20] {
        let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        one.send(Message::binary(bytes.clone())).unwrap();
        let mut came = std::iter::from_fn(|| Some(one.read().unwrap())).filter(|message| !message.is_ping());
        assert!(came.next() == Some(Message::binary(bytes)), "{len} bytes");
        let long = "ä".repeat(len / 2);
        one.send(Message::text(long.clone())).unwrap();
        assert!(text(&mut two) == long, "{len} bytes, forwarded");
    }
    // A message in three frames, a ping between, every byte on its own.
    let mut wire = Vec::new();
    for (opcode, fin, payload) in [(1, false, "on"), (0, false, "e t"), (9, true, "?"), (0, true, "wo")] {
        wire.push(u8::from(fin) << 7 | opcode);
        wire.push(0x80 | payload.len() as u8);
        wire.extend([7, 7, 7, 7]);
        wire.extend(payload.bytes().map(|byte| byte ^ 7));
    }
    one.get_mut().set_nodelay(true).unwrap();
    for byte in wire {
        one.get_mut().write_all(&[byte]).unwrap();
    }
    let mut came = std::iter::from_fn(|| Some(one.read().unwrap())).filter(|message| !message.is_ping());
    assert_eq!(came.next(), Some(Message::Pong("?".into())));
    assert_eq!(text(&mut two), "one two");
    drop(one);
    running.until("nothing is kept", |sum| sum.open == 1 && sum.kept_bytes == 0 && sum.queue_bytes == 0);
    assert_eq!(text(&mut two), "somebody left");
    running.end(two);
}

#[test]
fn faults_have_their_codes() {
    let running = start(WsOptions { message_max: 1_000, ..WsOptions::default() });
    let mut other = connect(&running);
    let mut socket = connect(&running);
    socket.send(Message::binary(vec![0; 1_001])).unwrap();
    assert_eq!(closed(&mut socket).0, 1009);
    let mut socket = connect(&running);
    socket.get_mut().write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28]).unwrap();
    assert_eq!(closed(&mut socket).0, 1007);
    let mut socket = connect(&running);
    socket.get_mut().write_all(&[0x81, 0x01, b'x']).unwrap();
    assert_eq!(closed(&mut socket).0, 1002, "not masked");
    let mut socket = connect(&running);
    socket.send("fault".into()).unwrap();
    assert_eq!(closed(&mut socket), (1008, "against the rules".into()));
    let mut socket = connect(&running);
    socket.send("boom".into()).unwrap();
    assert_eq!(closed(&mut socket).0, 1011);
    let mut socket = connect(&running);
    socket.send("flood".into()).unwrap();
    assert_eq!(closed(&mut socket).0, 1013);
    for _ in 0..6 {
        assert_eq!(text(&mut other), "somebody left");
    }
    running.until("counted", |sum| sum.closed[2] == 4 && sum.closed[7] == 1 && sum.closed[5] == 1);
    assert_eq!(running.sum().panics, 1);
    running.end(other);
}

#[test]
fn plain_requests_are_answered_and_strangers_refused() {
    let running = start(WsOptions::default());
    let answer = request(&running, "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello\n"), "{answer}");
    let answer = request(&running, "HEAD /hello HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.contains("Content-Length: 6\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (head, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404),
        ("GET /hello HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421),
        ("GET /hello HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /hello HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("GET http://localhost/hello HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 200),
        ("GET http://evil.example/hello HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 421),
        ("GET /chat HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 426),
        (format!("GET /chat HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n{upgrade}\r\n"), 403),
        ("GET nothing HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000)), 431),
        ("GET /boom HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 500),
    ] {
        let answer = request(&running, &head);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    // An allowed origin, and a first message that comes with the head.
    let mut stream = raw(&running);
    let head = format!("GET /chat HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n{upgrade}\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend([0x81, 0x85, 0, 0, 0, 0, b'c', b'o', b'u', b'n', b't']);
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(&[0x81, 1, b'1']) {
        let mut piece = [0; 512];
        let n = stream.read(&mut piece).unwrap();
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..n]);
    }
    running.end(stream);
}

#[test]
fn a_request_that_does_not_come_is_not_waited_for() {
    let running = start(WsOptions { handshake_ms: 50, ..WsOptions::default() });
    let mut answer = String::new();
    raw(&running).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    running.end(());
}

#[test]
fn a_peer_that_answers_no_ping_is_gone_and_one_that_answers_stays() {
    let running = start(WsOptions { ping_every_ms: 300, ..WsOptions::default() });
    let mut living = connect(&running);
    let mut silent = connect(&running);
    let mut left = false;
    while !left {
        match living.read().unwrap() {
            Message::Ping(_) => {}
            Message::Text(text) => left = text == "somebody left",
            other => panic!("{other:?}"),
        }
    }
    let mut rest = Vec::new();
    silent.get_mut().read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(&[0x89, 0, 0x89, 0, 0x88]), "two pings and a close: {rest:?}");
    assert_eq!(rest[6..8], 1001u16.to_be_bytes());
    assert_eq!(running.sum().closed[4], 1);
    living.send("count".into()).unwrap();
    assert_eq!(text(&mut living), "1");
    running.end((living, silent));
}

/// The frames among the bytes that a server has sent: opcode and payload.
fn frames(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(len) = frame_len(&bytes[at..]).filter(|len| at + len <= bytes.len()) {
        let header = if bytes[at + 1] < 126 { 2 } else { 4 };
        frames.push((bytes[at] & 0x0f, &bytes[at + header..at + len]));
        at += len;
    }
    frames
}

#[test]
fn c1_a_ping_is_answered_however_much_waits_for_the_peer() {
    let running = start(WsOptions::default());
    let mut socket = connect(&running);
    socket.send("pile".into()).unwrap();
    running.until("it waits", |sum| sum.messages_in == 1 && sum.queue_bytes > (PILE * PILED / 2) as u64);
    let before = running.sum().frames_in;
    for payload in ["one", "two", "the latest"] {
        let heard = running.sum().frames_in;
        socket.send(Message::Ping(payload.into())).unwrap();
        running.until("it is heard", |sum| sum.frames_in > heard);
    }
    running.until("all are heard", |sum| sum.frames_in == before + 3);
    let (mut piled, mut pongs) = (0, Vec::new());
    while piled < PILE {
        match socket.read().unwrap() {
            Message::Text(text) => piled += usize::from(text.len() == PILED),
            Message::Pong(payload) => pongs.push((piled, payload)),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let (ahead_of, payload) = pongs.last().expect("a pong");
    assert_eq!(payload, "the latest");
    assert!(*ahead_of < PILE / 2, "behind {ahead_of} of {PILE}");
    running.end(socket);
}

#[test]
fn c1_a_flood_of_pings_piles_up_no_pongs() {
    let running = start(WsOptions::default());
    let mut socket = connect(&running);
    socket.send("pile".into()).unwrap();
    running.until("it waits", |sum| sum.messages_in == 1 && sum.queue_bytes > (PILE * PILED / 2) as u64);
    let (before, queued) = (running.sum().frames_in, running.sum().queue_bytes);
    for _ in 0..1_000 {
        socket.write(Message::Ping(vec![b'p'; 125].into())).unwrap();
    }
    socket.flush().unwrap();
    running.until("all are heard", |sum| sum.frames_in == before + 1_000);
    assert!(running.sum().queue_bytes <= queued + 127, "{} bytes wait for {queued}", running.sum().queue_bytes);
    running.end(socket);
}

#[test]
fn c1_a_ping_of_a_peer_that_is_paused_is_answered() {
    let running = start(WsOptions::default());
    let mut socket = connect(&running);
    // One comes with what begins the pause, one later, and one behind more than is read of a paused peer.
    socket.write("hush".into()).unwrap();
    socket.write(Message::Ping("with it".into())).unwrap();
    socket.flush().unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("with it".into()));
    socket.send("all of this waits".into()).unwrap();
    socket.send(Message::Ping("later".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("later".into()));
    socket.send(Message::binary(vec![0; 64 * 1024])).unwrap();
    socket.send(Message::Ping("not seen".into())).unwrap();
    running.until("so much is kept", |sum| sum.kept_bytes == 16 * 1024);
    assert_eq!(running.sum().messages_in, 1, "it is paused");
    running.end(socket);
}

/// A loop whose pings are the beat of a test. It gives nobody up, however busy the machine is.
fn metronome() -> Running<String> {
    start(WsOptions { ping_every_ms: 20, pings_missed_max: 100, ..WsOptions::default() })
}

/// Waits for the next ping to a peer that answers them: what a test does at the pace of the looks that the server takes.
fn beat(metronome: &mut WebSocket<TcpStream>) {
    while !matches!(metronome.read().unwrap(), Message::Ping(_)) {}
}

#[test]
fn c2_a_peer_that_reads_slowly_and_says_nothing_is_not_given_up() {
    let (running, other) = (start(WsOptions { ping_every_ms: 60, ..WsOptions::default() }), metronome());
    let (mut metronome, mut slow) = (connect(&other), connect(&running));
    // The client's kernel, which hides what its program does not read, takes little.
    socket2::SockRef::from(slow.get_ref()).set_recv_buffer_size(PILED).unwrap();
    slow.send("pile".into()).unwrap();
    // It sends no pong that could be heard before it has read what stands before the ping.
    for _ in 0..PILE / 2 {
        beat(&mut metronome);
        assert_eq!((text(&mut slow).len(), text(&mut slow).len()), (PILED, PILED));
    }
    assert_eq!(running.sum().closed[4], 0);
    running.end(slow);
    other.end(metronome);
}

#[test]
fn c2_what_lies_before_a_slow_reader_is_what_it_reads_in_a_moment() {
    let options = Options {
        workers: 1,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
        pace_ms: 240,
        patience_ms: 12 * 240,
        ..Options::default()
    };
    let ws = WsOptions { ping_every_ms: 100, ..WsOptions::default() };
    let running = Running::start(Reactor::bind(options).unwrap(), move |_, _| Ws::new(Chat::default(), ws.clone()));
    let (mut metronome, mut slow) = (connect(&running), connect(&running));
    slow.send("pile".into()).unwrap();
    let (mut most, mut probes) = (0, 0);
    for count in (1..=PILE / 10).map(|beats| 10 * beats) {
        beat(&mut metronome);
        let mut read = 0;
        while read < 10 {
            match slow.read().unwrap() {
                Message::Text(text) => read += usize::from(text.len() == PILED),
                Message::Ping(payload) => probes += usize::from(payload == "read?"),
                other => panic!("{other:?}"),
            }
        }
        // Its kernel took some at once, and shows only then that it is slow.
        if count > PILE / 2 {
            // What a turn has written is counted at its end, and may have been read before.
            most = most.max((running.sum().bytes_out as usize).saturating_sub(count * PILED));
        }
    }
    // What its library has in hands is among it.
    assert!(most < 1024 * 1024, "{most} bytes of {} lay before it", PILE * PILED);
    // What its kernel would take by itself is more on some systems only: that it was found slow shows by the probes.
    assert!(probes > 0, "it was never asked what it has read");
    running.end((metronome, slow));
}

#[test]
fn c2_a_close_waits_for_a_slow_reader_and_is_no_reset() {
    let (running, other) = (start(WsOptions { ping_every_ms: 60, close_ms: 300, ..WsOptions::default() }), metronome());
    let (mut metronome, mut slow) = (connect(&other), connect(&running));
    socket2::SockRef::from(slow.get_ref()).set_recv_buffer_size(PILED).unwrap();
    slow.send("pile and bye".into()).unwrap();
    let mut all = Vec::new();
    loop {
        beat(&mut metronome);
        // A socket that nobody holds any more answers this by a reset, and what was on its way is lost.
        slow.get_mut().write_all(&client_frame(OpCode::Ping, b"", [0; 4])).unwrap();
        let mut piece = vec![0; 2 * PILED];
        match slow.get_mut().read(&mut piece).unwrap() {
            0 => break,
            n => all.extend_from_slice(&piece[..n]),
        }
    }
    let frames = frames(&all);
    assert_eq!(frames.iter().filter(|frame| frame.1.len() == PILED).count(), PILE, "{} frames", frames.len());
    let last = frames.last().unwrap();
    assert_eq!((last.0, &last.1[2..]), (8, &b"bye"[..]));
    running.end(slow);
    other.end(metronome);
}

#[test]
fn a_peer_that_is_paused_is_not_blamed_for_its_silence() {
    let running = start(WsOptions { ping_every_ms: 50, ..WsOptions::default() });
    let mut hushed = connect(&running);
    hushed.send("hush".into()).unwrap();
    running.until("it is paused", |sum| sum.messages_in == 1);
    // Came later, and says nothing either.
    let mut silent = connect(&running);
    let mut rest = Vec::new();
    silent.get_mut().read_to_end(&mut rest).unwrap();
    drop(silent);
    running.until("the silent one is gone", |sum| sum.closed[4] == 1 && sum.open == 1);
    assert_eq!(text(&mut hushed), "somebody left");
    running.end(hushed);
}

#[test]
fn a_peer_that_is_paused_and_takes_nothing_is_not_waited_for() {
    let running = start(WsOptions { ping_every_ms: 50, ..WsOptions::default() });
    let mut hoarder = connect(&running);
    hoarder.send("hoard".into()).unwrap();
    running.until("it is given up", |sum| sum.closed[4] == 1);
    running.end(hoarder);
}

#[test]
fn a_peer_that_takes_nothing_is_asked_nothing() {
    let running = start(WsOptions { ping_every_ms: 50, ..WsOptions::default() });
    let mut socket = connect(&running);
    socket.send("pile".into()).unwrap();
    running.until("it waits", |sum| sum.messages_in == 1 && sum.queue_bytes > (PILE * PILED / 2) as u64);
    let before = running.sum().frames_out;
    running.until("it is given up", |sum| sum.closed[4] == 1);
    assert_eq!(running.sum().frames_out, before, "a ping would only lie behind what it does not take");
    running.end(socket);
}

#[test]
fn messages_are_limited_for_each_connection_by_itself() {
    let running = start(WsOptions::default());
    let (mut one, mut other) = (connect(&running), connect(&running));
    one.send("be brief".into()).unwrap();
    let mut late = connect(&running);
    let next = |socket: &mut WebSocket<TcpStream>| {
        std::iter::from_fn(|| Some(socket.read().unwrap())).find(Message::is_binary).map(|message| message.len())
    };
    for socket in [&mut one, &mut other] {
        socket.send(Message::binary(vec![0; 100])).unwrap();
        assert_eq!(next(socket), Some(100));
        socket.send(Message::binary(vec![0; 101])).unwrap();
        assert_eq!(closed(socket).0, 1009);
    }
    late.send(Message::binary(vec![0; 101])).unwrap();
    assert_eq!(next(&mut late), Some(101), "it came later");
    running.end((one, other, late));
}

#[test]
fn messages_of_a_pause_come_after_it() {
    let running = start(WsOptions::default());
    let mut socket = connect(&running);
    socket.write("pause".into()).unwrap();
    socket.write("count".into()).unwrap();
    socket.flush().unwrap();
    assert_eq!(text(&mut socket), "it is later");
    assert_eq!(text(&mut socket), "2");
    running.end(socket);
}

#[test]
fn a_drain_says_1001() {
    let running = start(WsOptions::default());
    let mut sockets: Vec<_> = (0..5).map(|_| connect(&running)).collect();
    let mut half = raw(&running);
    half.write_all(b"GET /chat HT").unwrap();
    running.until("all are there", |sum| sum.accepted == 6);
    running.handle.drain();
    for socket in &mut sockets {
        loop {
            match socket.read() {
                Ok(Message::Close(Some(frame))) => {
                    assert_eq!(frame.code, coding::CloseCode::Away);
                    break;
                }
                Ok(Message::Text(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    }
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop((sockets, half));
    running.handle.join().unwrap();
}

#[test]
fn a_close_hears_the_answer_of_a_paused_peer() {
    // Longer than the client waits: only the answer can end it.
    let running = start(WsOptions { close_ms: 600_000, ..WsOptions::default() });
    let ends = |mut socket: WebSocket<TcpStream>, closed: u64| {
        assert!(matches!(socket.read(), Ok(Message::Close(Some(_)))));
        assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
        running.until("it is closed", |sum| sum.closed.iter().sum::<u64>() == closed);
    };
    let mut socket = connect(&running);
    socket.send("hush and bye".into()).unwrap();
    ends(socket, 1);
    // By a callback of another connection.
    let mut socket = connect(&running);
    socket.send("hush".into()).unwrap();
    running.until("it is paused", |sum| sum.messages_in == 2);
    let mut other = connect(&running);
    other.send("kick".into()).unwrap();
    ends(socket, 2);
    running.end(other);
}

#[test]
fn a_drain_hears_the_answer_of_a_paused_peer() {
    let options = Options {
        workers: 1,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
        // Longer than the client waits: only the answer can end it.
        grace_ms: 600_000,
        ..Options::default()
    };
    let ws = WsOptions { close_ms: 600_000, ..WsOptions::default() };
    let running = Running::start(Reactor::bind(options).unwrap(), move |_, _| Ws::new(Chat::default(), ws.clone()));
    let mut socket = connect(&running);
    socket.send("hush".into()).unwrap();
    running.until("it is paused", |sum| sum.messages_in == 1);
    running.handle.drain();
    assert!(matches!(socket.read(), Ok(Message::Close(Some(_)))));
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    drop(socket);
    running.handle.join().unwrap();
}
