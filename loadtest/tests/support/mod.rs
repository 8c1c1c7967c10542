//! A small AMP endpoint in this process: a thread for each connection, CBOR by another crate than the harness uses,
//! and faults on demand. It shows that the harness signs in as it should, and sees what goes wrong.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use amp_relay::wire::{
    sign_in::key_of_did,
    ws::{self, Decoder, Limits, Message, OpCode, Role, Step},
};
use ciborium::Value;
use ed25519_dalek::{Signature, VerifyingKey};

/// What the endpoint does wrong with every hundredth message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Lose,
    Double,
    Misdirect,
    Forge,
    Refuse,
    Close,
}

const RELAY: &str = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";

type Peers = Arc<Mutex<HashMap<String, TcpStream>>>;

/// Starts one; gives its URL. It lives as long as the test.
pub(crate) fn start(fault: Fault, verify_all: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let (peers, count) = (Peers::default(), Arc::new(AtomicU64::new(0)));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let endpoint = Endpoint { peers: peers.clone(), count: count.clone(), fault, verify_all, did: None };
            thread::spawn(move || endpoint.serve(stream));
        }
    });
    url
}

struct Endpoint {
    peers: Peers,
    count: Arc<AtomicU64>,
    fault: Fault,
    verify_all: bool,
    did: Option<String>,
}

impl Endpoint {
    fn serve(mut self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut bytes = Vec::new();
        let mut part = vec![0; 256 * 1024];
        let head = loop {
            let count = stream.read(&mut part).ok().filter(|&count| count > 0)?;
            bytes.extend_from_slice(&part[..count]);
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let request = String::from_utf8(bytes.drain(..head).collect()).expect("text");
        assert!(request.starts_with("GET /amp/v1/ws HTTP/1.1\r\n"), "{request}");
        let header = |name: &str| request.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!(header("Sec-WebSocket-Protocol:"), Some("amp.v1"));
        assert!(header("X-AMP-Max-Message-Size:").is_some());
        let key = header("Sec-WebSocket-Key:").expect("a key");
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
             Sec-WebSocket-Protocol: amp.v1\r\nX-AMP-Relay-DID: {RELAY}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).ok()?;
        let limits = Limits { message_max: 64 << 20, frame_max: 64 << 20 };
        let mut decoder = Decoder::new(Role::Server);
        loop {
            let (consumed, message) = match decoder.decode(&limits, &mut bytes).expect("frames as they should be") {
                Step::Need(_) => {
                    let count = stream.read(&mut part).ok().filter(|&count| count > 0)?;
                    bytes.extend_from_slice(&part[..count]);
                    continue;
                }
                Step::Fragment(consumed) | Step::Deflated { consumed, .. } => (consumed, None),
                Step::Message { consumed, message: Message::Binary(message) } => (consumed, Some(message.to_vec())),
                Step::Message { message: Message::Close(_), .. } => return None,
                Step::Message { consumed, .. } => (consumed, None),
            };
            bytes.drain(..consumed);
            if let Some(message) = message {
                self.message(&stream, &message)?;
            }
        }
    }

    fn message(&mut self, stream: &TcpStream, bytes: &[u8]) -> Option<()> {
        let value: Value = ciborium::from_reader(bytes).expect("CBOR");
        let mut again = Vec::new();
        ciborium::into_writer(&value, &mut again).expect("CBOR");
        assert_eq!(again, bytes, "one value in its shortest form");
        let field = |name: &str| {
            let map = value.as_map().expect("a map");
            map.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value.clone()).expect(name)
        };
        let from = field("from").into_text().expect("a sender");
        let id = field("id").into_bytes().expect("an id");
        let ts: u64 = field("ts").into_integer().expect("a time").try_into().expect("a time");
        assert_eq!(id[..8], ts.to_be_bytes());
        let Some(did) = &self.did else {
            assert_eq!((field("typ"), field("to")), (Value::from(0x70), Value::Text(RELAY.into())));
            verify(&from, &field);
            let clone = stream.try_clone().expect("a clone");
            self.peers.lock().expect("peers").insert(from.clone(), clone);
            self.did = Some(from.clone());
            return self.say(&from, 0x71, &id, Value::Map(vec![(Value::Text("selected".into()), "1.0".into())]));
        };
        assert_eq!(&from, did, "a foreign sender");
        if self.verify_all {
            verify(&from, &field);
        }
        let to = match field("to") {
            Value::Text(did) => vec![did],
            Value::Array(dids) => dids.into_iter().map(|did| did.into_text().expect("a DID")).collect(),
            other => panic!("{other:?}"),
        };
        let is_hundredth = self.count.fetch_add(1, Ordering::Relaxed) % 100 == 99;
        let fault = if is_hundredth { self.fault } else { Fault::None };
        for receiver in to {
            match fault {
                Fault::Lose => {}
                Fault::None => self.send(&receiver, bytes)?,
                Fault::Double => {
                    self.send(&receiver, bytes)?;
                    self.send(&receiver, bytes)?;
                }
                Fault::Misdirect => {
                    let other = self.peers.lock().expect("peers").keys().find(|&did| *did != receiver).cloned();
                    self.send(&other?, bytes)?;
                }
                Fault::Forge => {
                    let mut forged = bytes.to_vec();
                    // The last byte is the last one of the sender's DID.
                    *forged.last_mut()? ^= 1;
                    self.send(&receiver, &forged)?;
                    self.send(&receiver, bytes)?;
                }
                Fault::Refuse => {
                    let body = vec![
                        (Value::Text("code".into()), Value::from(2003)),
                        (Value::Text("message".into()), "nothing is kept".into()),
                    ];
                    self.say(&from, 0x0F, &id, Value::Map(body))?;
                }
                Fault::Close => {
                    let frame = ws::close_frame(amp_relay::base::CloseCode::POLICY, "enough");
                    (&mut &*stream).write_all(&frame).ok()?;
                    return None;
                }
            }
        }
        Some(())
    }

    fn send(&self, receiver: &str, bytes: &[u8]) -> Option<()> {
        let peers = self.peers.lock().expect("peers");
        // Under the lock, so that two senders' frames do not mix.
        peers.get(receiver)?.write_all(&ws::frame(OpCode::Binary, bytes)).ok()
    }

    /// A message of the endpoint's own; its signature is not checked.
    fn say(&self, to: &str, typ: u64, re: &[u8], body: Value) -> Option<()> {
        let text = |text: &str| Value::Text(text.into());
        let map = Value::Map(vec![
            (text("v"), 1.into()),
            (text("id"), Value::Bytes(vec![1; 16])),
            (text("to"), text(to)),
            (text("ts"), 1.into()),
            (text("sig"), Value::Bytes(vec![0; 64])),
            (text("ttl"), 0.into()),
            (text("typ"), typ.into()),
            (text("body"), body),
            (text("from"), text(RELAY)),
            (text("reply_to"), Value::Bytes(re.to_vec())),
        ]);
        let mut bytes = Vec::new();
        ciborium::into_writer(&map, &mut bytes).expect("CBOR");
        self.send(to, &bytes)
    }
}

/// Builds Sig_Input anew from the fields, and checks the signature over it.
fn verify(from: &str, field: &dyn Fn(&str) -> Value) {
    let names = ["id", "to", "ts", "ttl", "typ", "from"];
    let headers = names.iter().map(|&name| (Value::Text(name.into()), field(name))).collect();
    let mut body = Vec::new();
    ciborium::into_writer(&field("body"), &mut body).expect("CBOR");
    let input = Value::Array(vec!["AMP-v1".into(), Value::Bytes(Vec::new()), Value::Map(headers), Value::Bytes(body)]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&input, &mut bytes).expect("CBOR");
    let key = key_of_did(from).expect("a did:key");
    let key = VerifyingKey::from_bytes(&key.key_data().ed25519().expect("Ed25519").0).expect("a key");
    let signature = field("sig").into_bytes().expect("bytes");
    key.verify_strict(&bytes, &Signature::from_slice(&signature).expect("64 bytes")).expect("the signature holds");
}
