//! A relay in this process and agents that cost next to nothing: frames are made before, and only their ids and times
//! are written anew. For tests and benches that count what a message costs the relay.
#![allow(dead_code, unreachable_pub, reason = "each program uses its own part of this module")]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use amp_relay::{
    reactor::{self, BoundAddr, Listen, WorkerCounters},
    server::{Agent as Runs, ManualServer, Options},
    wire::{
        amp::{Builder, Frame, Header, Id, KeyEncoding, To, Type, body, parse},
        cbor,
        sign_in::did_of,
        ws::{OpCode, client_frame, frame_len},
    },
};
use ed25519_dalek::SigningKey;
use ssh_key::{Algorithm, PrivateKey, PublicKey, public::Ed25519PublicKey, rand_core::OsRng};
use tempfile::TempDir;

/// Nothing is asserted about time: this turns a hang into a failure.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Answers of 32 KiB after which an agent has shown that it reads.
const PROOFS: u64 = 160;
/// The mask of every frame.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// An Ed25519 key and the DID that it is.
pub struct Key {
    secret: SigningKey,
    pub did: String,
    line: String,
}

impl Key {
    /// The same key for the same number.
    pub fn new(number: u8) -> Self {
        let secret = SigningKey::from_bytes(&[number + 1; 32]);
        let public = PublicKey::from(Ed25519PublicKey(secret.verifying_key().to_bytes()));
        let line = format!("amp-role=\"agent\" {}\n", public.to_openssh().expect("a line"));
        Self { secret, did: did_of(&public).expect("an Ed25519 key"), line }
    }

    /// A message as an agent writes it, unmasked and without its WebSocket header.
    pub fn message(&self, key_encoding: KeyEncoding, header: Header<'_>, body: &[u8]) -> Vec<u8> {
        let (mut scratch, mut out) = (Vec::new(), Vec::new());
        let built = Builder::new(header).body(body).write_signed(key_encoding, &self.secret, &mut scratch, &mut out);
        built.expect("expressible");
        out
    }
}

/// The options of a relay with one worker that admits these keys, and the folder that they live in.
pub fn options(keys: &[Key]) -> (Options, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("authorized_keys");
    fs::write(&file, keys.iter().map(|key| key.line.as_str()).collect::<String>()).expect("a keys file");
    let options = Options {
        workers: 1,
        listen: vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))],
        folders: vec![folder.path().to_owned()],
        grace_ms: 1_000,
        ..Options::new(file, Runs::Demo)
    };
    (options, folder)
}

/// A host key.
pub fn host_key() -> PrivateKey {
    PrivateKey::random(&mut OsRng, Algorithm::Ed25519).expect("a key")
}

/// The first address of a relay.
pub fn tcp(addresses: &[BoundAddr]) -> SocketAddr {
    match addresses[0] {
        BoundAddr::Tcp(address) => address,
        BoundAddr::Unix(_) => panic!("not TCP"),
    }
}

/// A relay whose worker the test turns.
pub struct Relay {
    hosted: ManualServer,
    address: SocketAddr,
    _folder: TempDir,
}

impl Relay {
    pub fn start(keys: &[Key]) -> Self {
        let (options, folder) = options(keys);
        let hosted = ManualServer::start(&options, host_key()).expect("a relay");
        let address = tcp(hosted.addresses());
        Self { hosted, address, _folder: folder }
    }

    /// One turn, with what waits now.
    pub fn turn(&mut self) {
        self.hosted.turn(Some(Duration::ZERO)).expect("a turn");
    }

    pub fn counters(&self) -> &WorkerCounters {
        &self.hosted.counters()[0]
    }

    /// Signs an agent in. Answers come from the crypto thread, so that turns wait for it.
    pub fn sign_in(&mut self, key: &Key) -> Agent {
        let hosted = &mut self.hosted;
        Agent::sign_in(self.address, key, || {
            hosted.turn(Some(Duration::from_millis(1))).expect("a turn");
        })
    }

    pub fn end(self) {
        self.hosted.join().expect("its threads end");
    }
}

/// An agent that has signed in; its socket does not block.
pub struct Agent {
    stream: TcpStream,
    /// Where bytes are read to that nobody looks at.
    room: Vec<u8>,
}

impl Agent {
    /// Connects and says HELLO. `wait` is called while an answer is not there yet.
    pub fn sign_in(address: SocketAddr, key: &Key, mut wait: impl FnMut()) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("an option");
        stream.set_nonblocking(true).expect("an option");
        let mut agent = Self { stream, room: vec![0; 1 << 20] };
        let upgrade = "GET /amp/v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Protocol: amp.v1\r\n\r\n";
        agent.write_all(upgrade.as_bytes(), &mut wait);
        let head = agent.read_until(&mut wait, |bytes| bytes.ends_with(b"\r\n\r\n").then(|| bytes.to_vec()));
        let head = String::from_utf8(head).expect("ASCII");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let relay = relay_did(&head);
        let now_ms = reactor::now().unix_ms;
        let mut versions = Vec::new();
        let hello = body::Hello { versions: &["1.0"], extensions: &[], name: None, implementation: None };
        hello.write(&mut versions);
        let id = Id::new(now_ms, key.secret.verifying_key().to_bytes()[..8].try_into().expect("eight bytes"));
        let header = Header { ts: now_ms, ..Header::new(id, Type::HELLO, &key.did, To::One(&relay)) };
        let hello = key.message(KeyEncoding::Text, header, &versions);
        agent.write_all(&client_frame(OpCode::Binary, &hello, MASK), &mut wait);
        let payload = agent.read_until(&mut wait, server_frame);
        match parse(&payload) {
            Ok(Frame::Envelope(view)) if view.header.typ == Type::HELLO_ACK => {}
            other => panic!("no HELLO_ACK: {other:?}"),
        }
        agent.prove(key, &relay, &mut wait);
        agent
    }

    /// Shows that it reads: until then a new peer is asked, between its messages, which nobody measures here.
    fn prove(&mut self, key: &Key, relay: &str, wait: &mut impl FnMut()) {
        let mut asked = Vec::new();
        cbor::map(&mut asked, 2);
        cbor::text(&mut asked, "action");
        cbor::text(&mut asked, "echo");
        cbor::text(&mut asked, "fill");
        cbor::bytes(&mut asked, &[0x5a; 32 * 1024]);
        let (mut bytes, mut at) = (Vec::new(), 0);
        let mut frame = |agent: &mut Self, wait: &mut dyn FnMut()| {
            let give_up = Instant::now() + LIMIT;
            loop {
                let end = frame_len(&bytes[at..]).map(|len| at + len);
                if let Some(end) = end.filter(|end| *end <= bytes.len()) {
                    let frame: Vec<u8> = bytes[at..end].to_vec();
                    at = end;
                    return frame;
                }
                assert!(Instant::now() < give_up, "no answer");
                wait();
                let read = agent.read();
                bytes.extend_from_slice(&agent.room[..read]);
            }
        };
        for n in 0..PROOFS {
            let now_ms = reactor::now().unix_ms;
            let id = Id::new(now_ms, (u64::MAX - n).to_be_bytes());
            let header = Header { ts: now_ms, ..Header::new(id, Type::REQUEST, &key.did, To::One(relay)) };
            let request = key.message(KeyEncoding::Text, header, &asked);
            self.write_all(&client_frame(OpCode::Binary, &request, MASK), wait);
            loop {
                match frame(self, wait) {
                    ping if ping[0] == 0x89 => self.write_all(&client_frame(OpCode::Pong, &ping[2..], MASK), wait),
                    _ => break,
                }
            }
        }
        self.write_all(&client_frame(OpCode::Ping, b"", MASK), wait);
        assert_eq!(frame(self, wait), [0x8a, 0], "all that was sent before has been read");
    }

    /// Writes all of it; `wait` is called while the kernel takes no more.
    pub fn write_all(&mut self, mut bytes: &[u8], wait: &mut impl FnMut()) {
        let give_up = Instant::now() + LIMIT;
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < give_up, "the relay does not read");
                    wait();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Bytes that are there now.
    pub fn read(&mut self) -> usize {
        match self.stream.read(&mut self.room) {
            Ok(0) => panic!("the relay has closed the connection"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    fn read_until<T>(&mut self, wait: &mut impl FnMut(), done: impl Fn(&[u8]) -> Option<T>) -> T {
        let (mut used, give_up) = (0, Instant::now() + LIMIT);
        loop {
            if let Some(found) = done(&self.room[..used]) {
                return found;
            }
            assert!(Instant::now() < give_up, "no answer");
            wait();
            match self.stream.read(&mut self.room[used..]) {
                Ok(0) => panic!("closed: {:?}", String::from_utf8_lossy(&self.room[..used])),
                Ok(read) => used += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The DID that the head of an upgrade's answer names.
fn relay_did(head: &str) -> String {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("x-amp-relay-did:")).expect("a DID");
    line.split_once(':').expect("a header").1.trim().to_owned()
}

/// The payload of the first frame of a server, if it is there.
fn server_frame(bytes: &[u8]) -> Option<Vec<u8>> {
    let (len, start) = match *bytes.get(1)? {
        len @ 0..126 => (usize::from(len), 2),
        126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
        _ => panic!("too long"),
    };
    Some(bytes.get(start..start + len)?.to_vec())
}

/// Messages from one agent to others in turn, one behind the other as a client writes them, all of the same length.
pub struct Batch {
    bytes: Vec<u8>,
    /// How many messages there are.
    pub count: usize,
    /// Where id and time lie in each.
    id: usize,
    ts: usize,
    /// The length of the WebSocket header.
    header: usize,
    sent: u64,
}

impl Batch {
    /// `count` messages with a body of so many bytes.
    pub fn new(from: &Key, to: &[&Key], count: usize, body_bytes: usize) -> Self {
        let now_ms = reactor::now().unix_ms;
        let mut body = Vec::new();
        cbor::bytes(&mut body, &vec![0x5a; body_bytes]);
        let id = Id::new(now_ms, *b"\xa5number\x5a");
        let message = |to: &Key| {
            let header = Header { ts: now_ms, ..Header::new(id, Type::MESSAGE, &from.did, To::One(&to.did)) };
            from.message(KeyEncoding::Text, header, &body)
        };
        let first = message(to[0]);
        let find = |what: &[u8]| first.windows(what.len()).position(|found| found == what).expect("it is there");
        let ts = 1 + find(&[&[0x1b][..], &now_ms.to_be_bytes()].concat());
        let (id, bytes) =
            (find(&id.0), (0..count).map(|n| client_frame(OpCode::Binary, &message(to[n % to.len()]), MASK)));
        let bytes = bytes.fold(Vec::new(), |all, frame| [all, frame.to_vec()].concat());
        Self { header: bytes.len() / count - first.len(), bytes, count, id, ts, sent: 0 }
    }

    /// Bytes of a message as it is sent.
    pub fn sent_bytes(&self) -> usize {
        self.bytes.len() / self.count
    }

    /// Bytes of a message as it is received: without its mask.
    pub fn received_bytes(&self) -> usize {
        self.sent_bytes() - MASK.len()
    }

    /// The messages as they were sent last: costs nothing, and is for counting what everything else costs.
    pub fn again(&self) -> &[u8] {
        &self.bytes
    }

    /// The first `count` messages, with new ids and the time of now.
    pub fn fresh(&mut self, count: usize) -> &[u8] {
        let (size, header) = (self.sent_bytes(), self.header);
        let now_ms = reactor::now().unix_ms;
        for frame in self.bytes[..count * size].chunks_mut(size) {
            let payload = &mut frame[header..];
            self.sent += 1;
            put(payload, self.id, now_ms);
            put(payload, self.id + 8, self.sent);
            put(payload, self.ts, now_ms);
        }
        &self.bytes[..count * size]
    }
}

/// Writes a number where it will be unmasked.
fn put(payload: &mut [u8], at: usize, number: u64) {
    for (at, byte) in (at..).zip(number.to_be_bytes()) {
        payload[at] = byte ^ MASK[at % MASK.len()];
    }
}
