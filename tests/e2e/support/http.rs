//! Plain HTTP and raw WebSocket bytes, for tests of what stands before and below the session protocol.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use super::DEADLINE;

/// Where the relay listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Endpoint {
    /// From what `listening ...` named: `ws://127.0.0.1:PORT` or `unix:PATH`.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => {
                let address = text.strip_prefix("ws://").unwrap_or(text).trim_end_matches('/');
                Self::Tcp(address.parse().unwrap_or_else(|_| panic!("not a listener: {text}")))
            }
        }
    }

    /// What a device names as the authority it dialled.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "unix".to_owned(),
        }
    }

    /// The value of a Host header that the relay accepts.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// A connection whose reads end after the tests' deadline.
    pub fn connect(&self) -> io::Result<Stream> {
        let stream = match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Self::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        stream.set_read_timeout(DEADLINE)?;
        Ok(stream)
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(limit)),
            Self::Unix(stream) => stream.set_read_timeout(Some(limit)),
        }
    }

    /// Reads until the other side ends the connection; a reset ends it too.
    pub fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut piece = [0; 16 * 1024];
        loop {
            match self.read(&mut piece) {
                Ok(0) => return bytes,
                Ok(n) => bytes.extend(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the relay neither answered nor closed; so far: {:?}", String::from_utf8_lossy(&bytes))
                }
                Err(_) => return bytes,
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Sends `request` as it is and reads the answer to its end.
pub fn raw(endpoint: &Endpoint, request: &str) -> Answer {
    let mut stream = endpoint.connect().expect("the relay listens");
    stream.write_all(request.as_bytes()).expect("the relay reads");
    parse(&stream.read_all())
}

/// `GET path` with a Host header the relay accepts.
pub fn get(endpoint: &Endpoint, path: &str) -> Answer {
    raw(endpoint, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", endpoint.host()))
}

fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no status: {head:?}")), head: head.into(), body: body.into() }
}

/// The request that opens `/session`; `extra` are more header lines, each ended by CRLF.
pub fn upgrade_request(host: &str, subprotocol: Option<&str>, extra: &str) -> String {
    let subprotocol = subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    format!(
        "GET /session HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{subprotocol}{extra}\r\n"
    )
}

/// A WebSocket on `/session` driven by hand: what is written is written as it is.
pub struct RawSocket {
    pub stream: Stream,
    buffered: Vec<u8>,
}

/// A frame from the relay.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame.
    pub fn close_code(&self) -> Option<u16> {
        (self.opcode == 8 && self.payload.len() >= 2).then(|| u16::from_be_bytes([self.payload[0], self.payload[1]]))
    }
}

impl RawSocket {
    /// Opens `/session` and reads the answer to the upgrade; what follows it stays unread.
    pub fn open(endpoint: &Endpoint) -> Self {
        let mut stream = endpoint.connect().expect("the relay listens");
        let request = upgrade_request(&endpoint.host(), Some("amp-session.v1"), "");
        stream.write_all(request.as_bytes()).expect("the relay reads");
        let mut socket = Self { stream, buffered: Vec::new() };
        let head = loop {
            if let Some(end) = socket.buffered.windows(4).position(|four| four == b"\r\n\r\n") {
                break socket.buffered.drain(..end + 4).collect::<Vec<_>>();
            }
            assert!(socket.fill(), "the relay closed during the upgrade");
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.starts_with("HTTP/1.1 101 "), "no upgrade: {head}");
        socket
    }

    /// Writes bytes as they are. A relay that has closed already is not an error here: its answer is read next.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Writes one masked frame.
    pub fn frame(&mut self, opcode: u8, payload: &[u8]) {
        self.write(&frame(0x80 | opcode, true, payload));
    }

    /// The next frame, or `None` once the connection has ended.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads on to the close frame and gives its code, with the text messages before it.
    pub fn until_close(&mut self) -> (Option<u16>, Vec<String>) {
        let mut texts = Vec::new();
        while let Some(frame) = self.next() {
            match frame.opcode {
                1 => texts.push(String::from_utf8_lossy(&frame.payload).into_owned()),
                8 => {
                    let code = frame.close_code();
                    self.frame(8, &frame.payload);
                    return (code, texts);
                }
                _ => {}
            }
        }
        (None, texts)
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let bytes = &self.buffered;
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (head, length) = match second & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
            short => (2, usize::from(short)),
        };
        let payload = bytes.get(head..head + length)?.to_vec();
        self.buffered.drain(..head + length);
        Some(Frame { opcode: first & 0x0f, payload })
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(n) => {
                    self.buffered.extend(&piece[..n]);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the relay said nothing and stayed"),
                Err(_) => return false,
            }
        }
    }
}

/// The bytes of a frame with the given first byte, masked or not.
pub fn frame(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let flag = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(flag | u8::try_from(short).expect("at most 125")),
        medium @ 126..=0xffff => {
            bytes.push(flag | 126);
            bytes.extend(u16::try_from(medium).expect("at most 65535").to_be_bytes());
        }
        long => {
            bytes.push(flag | 127);
            bytes.extend(u64::try_from(long).expect("a length").to_be_bytes());
        }
    }
    if masked {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend(payload);
    }
    bytes
}
