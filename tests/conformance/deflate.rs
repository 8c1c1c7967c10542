//! permessage-deflate (RFC 7692): which frames may be compressed, by the decoder in both roles; then messages through
//! codec, frames and decoder; then a server on the loop, by a client on a plain socket.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use amp_relay::{
    base::Fault,
    reactor::{
        BoundAddr, Handle, Listen, Options, Peer, Reactor, Sent,
        ws::{Answer, Data, Ws, WsHandler, WsIo, WsOptions},
    },
    wire::{
        http::Head,
        mask,
        ws::{
            Decoder, HEADER_MAX, Limits, Message, OpCode, RSV1, Role, Step,
            deflate::{Agreed, Codec, Connection, DeflateOptions, accept, answer, offer},
            encode_header,
        },
    },
};
use proptest::prelude::*;

const LIMITS: Limits = Limits { message_max: 1 << 20, frame_max: 1 << 20 };
const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const EAGER: DeflateOptions =
    DeflateOptions { takeover: false, window_bits: 15, level: 6, threshold: 1, ratio_max: 2_000 };

/// A frame for a receiver of this role, whose first byte is given.
fn raw(role: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let key = (role == Role::Server).then_some(KEY);
    let mut header = [0; HEADER_MAX];
    let len = encode_header(&mut header, OpCode::Binary, true, payload.len() as u64, key);
    header[0] = first;
    let mut frame = [&header[..len], payload].concat();
    if let Some(key) = key {
        mask::apply(key, &mut frame[len..]);
    }
    frame
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Control(Vec<u8>),
    Deflated(bool, Vec<u8>),
    Fail(u16),
}

/// What a decoder makes of a stream that comes in these pieces.
fn read(role: Role, limits: &Limits, pieces: &[&[u8]]) -> Vec<Got> {
    let mut decoder = Decoder::new(role);
    decoder.allow_deflate();
    let (mut pending, mut got) = (Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        let mut at = 0;
        loop {
            at += match decoder.decode(limits, &mut pending[at..]) {
                Ok(Step::Need(_)) => break,
                Ok(Step::Fragment(taken)) => taken,
                Ok(Step::Message { consumed, message }) => {
                    got.push(match message {
                        Message::Text(text) => Got::Text(text.to_owned()),
                        Message::Binary(bytes) => Got::Binary(bytes.to_vec()),
                        Message::Ping(bytes) | Message::Pong(bytes) => Got::Control(bytes.to_vec()),
                        Message::Close(_) => Got::Control(Vec::new()),
                    });
                    consumed
                }
                Ok(Step::Deflated { consumed, is_text, payload }) => {
                    got.push(Got::Deflated(is_text, payload.to_vec()));
                    consumed
                }
                Err(fault) => {
                    got.push(Got::Fail(fault.code.0));
                    0
                }
            };
        }
        pending.drain(..at);
    }
    got
}

/// Reads frames, given by first byte and payload, in both roles, whole and cut everywhere.
#[track_caller]
fn check(frames: &[(u8, &[u8])], want: &[Got]) {
    for role in [Role::Server, Role::Client] {
        let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| raw(role, *first, payload)).collect();
        assert_eq!(read(role, &LIMITS, &[&bytes]), want, "{role:?}, whole");
        for cut in 0..bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(read(role, &LIMITS, &[a, b]), want, "{role:?}, cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(role, &LIMITS, &single), want, "{role:?}, byte by byte");
    }
}

#[test]
fn the_first_frame_of_a_data_message_says_that_it_is_compressed() {
    let text = |text: &str| Got::Text(text.to_owned());
    let deflated = |is_text, payload: &[u8]| Got::Deflated(is_text, payload.to_vec());
    // Not UTF-8: what is compressed is judged when it is inflated.
    let payload = b"\xFF\xFE\x00";
    check(&[(0xC1, payload)], &[deflated(true, payload)]);
    check(&[(0xC2, payload)], &[deflated(false, payload)]);
    check(&[(0xC2, b"")], &[deflated(false, b"")]);
    check(&[(0x41, b"\xFF"), (0x00, b"\xFE"), (0x80, b"\x00")], &[deflated(true, payload)]);
    let between = [deflated(false, b"ab"), text("plain")];
    check(&[(0x42, b"a"), (0x89, b"ping"), (0x80, b"b"), (0x81, b"plain")], &{
        let [message, plain] = between;
        [Got::Control(b"ping".to_vec()), message, plain]
    });
    // One message says nothing about the next.
    check(
        &[(0x41, b"a"), (0x80, b"b"), (0x01, b"c"), (0x80, b"d"), (0xC1, b"e"), (0x82, b"f")],
        &[deflated(true, b"ab"), text("cd"), deflated(true, b"e"), Got::Binary(b"f".to_vec())],
    );
    // An uncompressed text is judged as ever, also behind a compressed one.
    check(&[(0xC1, payload), (0x01, b"\xE2"), (0x80, b"\x28")], &[deflated(true, payload), Got::Fail(1007)]);
}

#[test]
fn no_other_frame_may() {
    for first in [0xC0, 0x40] {
        check(&[(0x02, b"a"), (first, b"b")], &[Got::Fail(1002)]);
        check(&[(0x42, b"a"), (first, b"b")], &[Got::Fail(1002)]);
        check(&[(first, b"b")], &[Got::Fail(1002)]);
    }
    for control in [0xC8, 0xC9, 0xCA] {
        check(&[(0x81, b"a"), (control, b"")], &[Got::Text("a".into()), Got::Fail(1002)]);
    }
    // The other two bits and the reserved opcodes belong to no extension.
    for first in [0xA1, 0x91, 0xE1, 0xD2, 0xF2, 0xC3, 0xCB] {
        check(&[(first, b"a")], &[Got::Fail(1002)]);
    }
    check(&[(0x41, b"a"), (0xC1, b"b")], &[Got::Fail(1002)]);
}

#[test]
fn limits_hold_for_what_comes_before_it_is_inflated() {
    let limits = Limits { message_max: 10, frame_max: 6 };
    let bytes = |frames: &[(u8, &[u8])]| -> Vec<u8> {
        frames.iter().flat_map(|(first, payload)| raw(Role::Server, *first, payload)).collect()
    };
    let fine = bytes(&[(0x42, &[1; 6]), (0x80, &[1; 4])]);
    assert_eq!(read(Role::Server, &limits, &[&fine]), [Got::Deflated(false, vec![1; 10])]);
    for frames in [&[(0xC2, &[1; 7][..])][..], &[(0x42, &[1; 6]), (0x80, &[1; 5])]] {
        assert_eq!(read(Role::Server, &limits, &[&bytes(frames)]), [Got::Fail(1009)]);
    }
}

fn agreed(options: &DeflateOptions) -> Agreed {
    answer(options, options.takeover, offer(options).split(',')).expect("an answer").0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn messages_arrive_whatever_their_frames(
        to_server in any::<bool>(),
        takeover in any::<bool>(),
        window_bits in 9u8..=15,
        texts in prop::collection::vec(("([a-z]{1,8} ){0,40}|\\PC{0,60}", 1usize..200), 1..6),
        piece in 1usize..300,
    ) {
        let options = DeflateOptions { takeover, window_bits, ..EAGER };
        let (sender, receiver) = if to_server { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        let (mut codec, mut from) = (Codec::new(options), Connection::new(sender, agreed(&options)));
        let mut to = Connection::new(receiver, agreed(&options));
        let mut bytes = Vec::new();
        for (text, fragment) in &texts {
            let (rsv1, payload) = match codec.deflate(&mut from, text.as_bytes()) {
                Some(payload) => (RSV1, payload),
                None => (0, text.as_bytes()),
            };
            let mut pieces = payload.chunks(*fragment).peekable();
            bytes.extend(raw(receiver, rsv1 | 0x01, pieces.next().unwrap_or_default()));
            pieces.for_each(|piece| bytes.extend(raw(receiver, 0x00, piece)));
            bytes.extend(raw(receiver, 0x80, b""));
        }
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        let arrived: Vec<String> = read(receiver, &LIMITS, &pieces).into_iter().map(|got| match got {
            Got::Text(text) => text,
            Got::Deflated(true, payload) => {
                String::from_utf8(codec.inflate(&mut to, &payload, 1 << 20).expect("valid")).expect("text")
            }
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(arrived, texts.into_iter().map(|(text, _)| text).collect::<Vec<_>>());
    }
}

// A server on the loop.

/// Sends to everybody what anybody says.
struct Room;

impl WsHandler for Room {
    type Conn = ();
    type Mail = ();

    fn request(&mut self, _: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<()> {
        Answer::upgrade(())
    }

    fn message(&mut self, (): &mut (), io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
        for token in io.tokens() {
            assert_ne!(io.forward_to(token, message), Sent::Closed);
        }
        Ok(())
    }
}

struct Server {
    handle: Handle,
    address: SocketAddr,
}

impl Server {
    fn start(deflate: Option<DeflateOptions>, windows_max: usize) -> Self {
        let listeners = vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
        let ws = WsOptions { deflate, deflate_windows_max: windows_max, ..WsOptions::default() };
        let options = Options { workers: 1, listeners, ..Options::default() };
        let bound = Reactor::bind::<Ws<Room>>(options).expect("a port");
        let address = match bound.local_addrs() {
            [BoundAddr::Tcp(address)] => *address,
            other => panic!("{other:?}"),
        };
        Self { handle: bound.start(move |_, _| Ws::new(Room, ws.clone())).expect("it starts"), address }
    }

    fn stop(self) {
        assert_eq!(self.handle.counters()[0].panics.get(), 0);
        self.handle.stop_now();
        let _ = self.handle.join();
    }
}

struct Client {
    stream: TcpStream,
    decoder: Decoder,
    codec: Codec,
    connection: Option<Connection>,
    pending: Vec<u8>,
    /// What the server said of extensions.
    said: Option<String>,
}

impl Client {
    fn open(server: &Server, options: &DeflateOptions, offer: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket option");
        let offer = offer.map(|offer| format!("Sec-WebSocket-Extensions: {offer}\r\n")).unwrap_or_default();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("a head");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut said = lines.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"));
        let said = said.next().map(|(_, value)| value.to_owned());
        let mut decoder = Decoder::new(Role::Client);
        let agreed = accept(options, said.as_deref().into_iter()).expect("an answer to the offer");
        if agreed.is_some() {
            decoder.allow_deflate();
        }
        let connection = agreed.map(|agreed| Connection::new(Role::Client, agreed));
        Self { stream, decoder, codec: Codec::new(*options), connection, pending: Vec::new(), said }
    }

    fn ours(server: &Server, options: &DeflateOptions) -> Self {
        Self::open(server, options, Some(&offer(options)))
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        self.stream.write_all(&raw(Role::Server, first, payload)).expect("it is sent");
    }

    fn text(&mut self, text: &str) {
        let connection = self.connection.as_mut().expect("it was agreed on");
        let payload = self.codec.deflate(connection, text.as_bytes()).expect("it becomes shorter").to_vec();
        self.send(0xC1, &payload);
    }

    /// The next text and whether it came compressed, or the code of the close.
    fn next(&mut self) -> Result<(String, bool), u16> {
        loop {
            match self.decoder.decode(&LIMITS, &mut self.pending).expect("a server that keeps to the rules") {
                Step::Need(_) | Step::Fragment(_) => {
                    let mut more = [0; 4096];
                    let read = self.stream.read(&mut more).expect("more");
                    assert!(read > 0, "it hung up without a close frame");
                    self.pending.extend_from_slice(&more[..read]);
                }
                Step::Message { consumed, message } => {
                    let got = match message {
                        Message::Text(text) => Ok((text.to_owned(), false)),
                        Message::Close(Some((code, _))) => Err(code.0),
                        other => panic!("{other:?}"),
                    };
                    self.pending.drain(..consumed);
                    return got;
                }
                Step::Deflated { consumed, is_text, payload } => {
                    assert!(is_text);
                    let connection = self.connection.as_mut().expect("it was agreed on");
                    let text = self.codec.inflate(connection, payload, 1 << 20).expect("valid");
                    self.pending.drain(..consumed);
                    return Ok((String::from_utf8(text).expect("text"), true));
                }
            }
        }
    }
}

fn long(word: &str) -> String {
    format!("{word} ").repeat(100)
}

#[test]
fn it_is_off_by_default() {
    let server = Server::start(WsOptions::default().deflate, 0);
    let mut client = Client::ours(&server, &EAGER);
    assert_eq!(client.said, None);
    client.send(0xC1, b"\x00");
    assert_eq!(client.next(), Err(1002));
    server.stop();
}

#[test]
fn each_peer_gets_what_it_agreed_to() {
    for takeover in [false, true] {
        let options = DeflateOptions { takeover, threshold: 256, ..EAGER };
        let server = Server::start(Some(options), 10);
        let mut first = Client::ours(&server, &options);
        let mut small = Client::ours(&server, &DeflateOptions { window_bits: 9, ..options });
        let mut plain = Client::open(&server, &options, None);
        assert_eq!(plain.said, None);
        let odd = "x-other; a=b, permessage-deflate; server_max_window_bits=8";
        assert_eq!(Client::open(&server, &options, Some(odd)).said, None);
        for text in [long("one"), long("two"), long("three")] {
            first.text(&text);
            assert_eq!(first.next(), Ok((text.clone(), true)));
            assert_eq!(small.next(), Ok((text.clone(), true)));
            assert_eq!(plain.next(), Ok((text.clone(), false)));
            plain.send(0x81, text.as_bytes());
            for client in [&mut first, &mut small] {
                assert_eq!(client.next(), Ok((text.clone(), true)));
            }
            assert_eq!(plain.next(), Ok((text, false)));
            // Below the threshold.
            small.send(0x81, b"short");
            for client in [&mut first, &mut small, &mut plain] {
                assert_eq!(client.next(), Ok(("short".to_owned(), false)));
            }
        }
        server.stop();
    }
}

#[test]
fn a_hostile_peer_is_closed_and_nobody_else_notices() {
    let options = DeflateOptions { ratio_max: 100, ..EAGER };
    let server = Server::start(Some(options), 10);
    let bomb = {
        let (mut codec, mut ours) = (Codec::new(EAGER), Connection::new(Role::Client, agreed(&EAGER)));
        codec.deflate(&mut ours, &vec![0; 900_000]).expect("it becomes shorter").to_vec()
    };
    let not_text = {
        let (mut codec, mut ours) = (Codec::new(EAGER), Connection::new(Role::Client, agreed(&EAGER)));
        codec.deflate(&mut ours, &[0xFF; 1000]).expect("it becomes shorter").to_vec()
    };
    let mut healthy = Client::ours(&server, &options);
    for (first, payload, code) in [
        (0xC2, &bomb[..], 1009),
        (0xC1, &not_text[..], 1007),
        (0xC1, b"garbage", 1007),
        (0xC1, b"", 1007),
        (0xC1, &bomb[..20], 1007),
        (0xC9, b"", 1002),
        (0xE1, b"\x00", 1002),
    ] {
        let mut hostile = Client::ours(&server, &options);
        hostile.send(first, payload);
        assert_eq!(hostile.next(), Err(code), "{first:02X}");
        healthy.text(&long("well"));
        assert_eq!(healthy.next(), Ok((long("well"), true)));
    }
    server.stop();
}

#[test]
fn so_many_connections_keep_windows_and_no_more() {
    let options = DeflateOptions { takeover: true, ..EAGER };
    let server = Server::start(Some(options), 1);
    let keeps = |client: &Client| !client.said.as_deref().expect("an answer").contains("no_context_takeover");
    let mut first = Client::ours(&server, &options);
    assert!(keeps(&first));
    let mut second = Client::ours(&server, &options);
    assert!(!keeps(&second));
    for text in [long("a"), long("b")] {
        first.text(&text);
        for client in [&mut first, &mut second] {
            assert_eq!(client.next(), Ok((text.clone(), true)));
        }
    }
    // A window that is given back may be used by another.
    first.send(0x88, &1000u16.to_be_bytes());
    assert_eq!(first.next(), Err(1000));
    let mut end = Vec::new();
    first.stream.read_to_end(&mut end).expect("the end");
    drop(first);
    let again = (0..1000).map(|_| Client::ours(&server, &options)).find(keeps);
    assert!(again.is_some(), "the window was not given back");
    server.stop();
}
