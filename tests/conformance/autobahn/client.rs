//! The client under test: a blocking socket around the codec, which sends back what comes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use amp_relay::{
    base::CloseCode,
    wire::ws::{
        self, Decoder, HEADER_MAX, Limits, Message, OpCode, RSV1, Role, Step,
        deflate::{self, Codec, Connection},
    },
};
use bytes::Bytes;

use super::suite::MESSAGE_MAX;

const LIMITS: Limits = Limits { message_max: MESSAGE_MAX, frame_max: MESSAGE_MAX };
/// Key and answer of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The masks need not be unpredictable here.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// No case is silent for longer; a hang becomes a failure.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// Works through all cases of the suite's server.
pub(super) fn run_all(address: SocketAddr, takeover: bool) {
    let mut count = String::new();
    Socket::open(address, "/getCaseCount", takeover).run(|text| {
        count = text.to_owned();
        Echo::No
    });
    for case in 1..=count.parse::<usize>().expect("a number of cases") {
        Socket::open(address, &format!("/runCase?case={case}&agent=amp-relay"), takeover).run(|_| Echo::Yes);
    }
}

/// Whether a text is sent back.
#[derive(PartialEq, Eq)]
enum Echo {
    Yes,
    No,
}

struct Socket {
    stream: TcpStream,
    /// Bytes that were read and not decoded.
    pending: Vec<u8>,
    decoder: Decoder,
    codec: Codec,
    /// Compression, where the server agreed.
    deflate: Option<Connection>,
    closing: bool,
}

impl Socket {
    fn open(address: SocketAddr, path: &str, takeover: bool) -> Self {
        let options = super::suite::deflate(takeover);
        let mut stream = TcpStream::connect(address).expect("the suite listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(SILENCE_MAX)).expect("a socket option");
        let offer = deflate::offer(&options);
        // The port is the one that the suite believes it has.
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut pending = Vec::new();
        let (head, extensions) = loop {
            let mut some = [0; 4096];
            let read = stream.read(&mut some).expect("an answer");
            assert!(read > 0, "the suite hung up: {}", String::from_utf8_lossy(&pending));
            pending.extend_from_slice(&some[..read]);
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut answer = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(head) = answer.parse(&pending).expect("HTTP") {
                assert_eq!(answer.code, Some(101));
                let values = |name: &str| {
                    let found = answer.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
                    found.map(|header| String::from_utf8_lossy(header.value).into_owned()).collect::<Vec<_>>()
                };
                assert_eq!(values("sec-websocket-accept"), [ACCEPT]);
                break (head, values("sec-websocket-extensions"));
            }
        };
        pending.drain(..head);
        let answers = extensions.iter().flat_map(|value| value.split(',').map(str::trim));
        let agreed = deflate::accept(&options, answers).expect("an answer to the offer");
        let mut decoder = Decoder::new(Role::Client);
        if agreed.is_some() {
            decoder.allow_deflate();
        }
        let deflate = agreed.map(|agreed| Connection::new(Role::Client, agreed));
        Self { stream, pending, decoder, codec: Codec::new(options), deflate, closing: false }
    }

    /// Goes on until the server hangs up, asking about each text.
    fn run(mut self, mut text: impl FnMut(&str) -> Echo) {
        let mut more = vec![0; 64 * 1024];
        loop {
            self.decode(&mut text);
            match self.stream.read(&mut more) {
                Ok(0) => return,
                Ok(read) => self.pending.extend_from_slice(&more[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the suite neither goes on nor hangs up: {error}"),
            }
        }
    }

    /// Takes all messages out of what is there.
    fn decode(&mut self, text: &mut impl FnMut(&str) -> Echo) {
        let mut pending = std::mem::take(&mut self.pending);
        let mut at = 0;
        loop {
            let (consumed, out) = match self.decoder.decode(&LIMITS, &mut pending[at..]) {
                Ok(Step::Need(_)) => break,
                Ok(Step::Fragment(consumed)) => (consumed, None),
                Ok(Step::Message { consumed, message: Message::Text(said) }) if text(said) == Echo::No => {
                    (consumed, None)
                }
                Ok(Step::Message { consumed, message }) => {
                    (consumed, answer(&mut self.codec, self.deflate.as_mut(), message))
                }
                Ok(Step::Deflated { consumed, is_text, payload }) => {
                    let connection = self.deflate.as_mut().expect("it was agreed on");
                    match self.codec.inflate(connection, payload, MESSAGE_MAX) {
                        Ok(whole) => {
                            let message = match str::from_utf8(&whole) {
                                Ok(text) if is_text => Message::Text(text),
                                Err(_) if is_text => panic!("the suite compresses no wrong text"),
                                _ => Message::Binary(&whole),
                            };
                            let out = answer(&mut self.codec, Some(connection), message);
                            self.codec.recycle(whole);
                            (consumed, out)
                        }
                        Err(fault) => (consumed, Some(ws::client_close_frame(fault.code, &fault.reason, MASK))),
                    }
                }
                // What comes behind a fault is discarded by the decoder, until the server hangs up.
                Err(fault) => (0, Some(ws::client_close_frame(fault.code, &fault.reason, MASK))),
            };
            at += consumed;
            let is_close = out.as_ref().is_some_and(|frame| frame[0] == 0x88);
            if let Some(frame) = out.filter(|_| !self.closing) {
                // A server that has hung up is noticed by the next read.
                let _ = self.stream.write_all(&frame);
            }
            self.closing |= is_close;
        }
        pending.drain(..at);
        self.pending = pending;
    }
}

/// The frame that answers a message.
fn answer(codec: &mut Codec, deflate: Option<&mut Connection>, message: Message<'_>) -> Option<Bytes> {
    let (opcode, payload) = match message {
        Message::Text(text) => (OpCode::Text, text.as_bytes()),
        Message::Binary(bytes) => (OpCode::Binary, bytes),
        Message::Ping(payload) => return Some(ws::client_frame(OpCode::Pong, payload, MASK)),
        Message::Pong(_) => return None,
        Message::Close(None) => return Some(ws::client_frame(OpCode::Close, &[], MASK)),
        Message::Close(Some((code, _))) => return Some(ws::client_close_frame(CloseCode(code.0), "", MASK)),
    };
    let Some(compressed) = deflate.and_then(|connection| codec.deflate(connection, payload)) else {
        return Some(ws::client_frame(opcode, payload, MASK));
    };
    let mut header = [0; HEADER_MAX];
    let len = ws::encode_header(&mut header, opcode, true, compressed.len() as u64, Some(MASK));
    header[0] |= RSV1;
    let mut frame = [&header[..len], compressed].concat();
    amp_relay::wire::mask::apply(MASK, &mut frame[len..]);
    Some(frame.into())
}
