//! Where the server is, and the client's half of the WebSocket handshake.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tungstenite::handshake::derive_accept_key;

const AMP_PATH: &str = "/amp/v1/ws";
const AMP_SUBPROTOCOL: &str = "amp.v1";
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const BODY_BYTES_SHOWN: usize = 300;

/// What is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// AMP over WebSocket.
    Amp,
    /// The baseline's frames over TCP.
    Baseline,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) speech: Speech,
    pub(crate) address: SocketAddr,
    authority: String,
    path: String,
}

impl Target {
    /// Reads `ws://HOST:PORT[/PATH]` or `tcp://HOST:PORT`, and looks up the host.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (speech, rest) = if let Some(rest) = url.strip_prefix("ws://") {
            (Speech::Amp, rest)
        } else if let Some(rest) = url.strip_prefix("tcp://") {
            (Speech::Baseline, rest)
        } else {
            return Err(format!("`{url}` is neither ws://HOST:PORT nor tcp://HOST:PORT"));
        };
        let (authority, path) = match rest.find('/') {
            Some(at) if rest.len() > at + 1 => rest.split_at(at),
            Some(at) => (&rest[..at], AMP_PATH),
            None => (rest, AMP_PATH),
        };
        let looked_up = |error: io::Error| format!("`{authority}` has no address: {error}");
        let address = authority.to_socket_addrs().map_err(looked_up)?.next();
        let address = address.ok_or_else(|| format!("`{authority}` has no address"))?;
        Ok(Self { speech, address, authority: authority.into(), path: path.into() })
    }

    /// The base URL, for clients that add their own path.
    pub(crate) fn base(&self) -> String {
        format!("ws://{}", self.authority)
    }

    /// The upgrade request.
    pub(crate) fn request(&self, key: &Key, size_max: usize) -> String {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Protocol: {AMP_SUBPROTOCOL}\r\nX-AMP-Max-Message-Size: {size_max}\r\n\r\n",
            self.path, self.authority, key.sent
        )
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.speech {
            Speech::Amp => write!(f, "ws://{}{}", self.authority, self.path),
            Speech::Baseline => write!(f, "tcp://{}", self.authority),
        }
    }
}

/// A handshake's key and the answer to it. One serves a whole run: it proves only that the other side speaks WebSocket.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    sent: String,
    accept: String,
}

impl Key {
    /// From 16 bytes of any origin.
    pub(crate) fn new(bytes: [u8; 16]) -> Self {
        let sent = STANDARD.encode(bytes);
        Self { accept: derive_accept_key(sent.as_bytes()), sent }
    }

    /// Reads the answer to the upgrade request: the length of its head and the relay's DID, or `None` while it is
    /// incomplete.
    pub(crate) fn answer(&self, bytes: &[u8]) -> Result<Option<(usize, String)>, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let consumed = match head.parse(bytes) {
            Ok(httparse::Status::Complete(consumed)) => consumed,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return Err("the answer to the upgrade has no end".into()),
            Err(error) => return Err(format!("the answer to the upgrade is not HTTP: {error}")),
        };
        let status = head.code.unwrap_or_default();
        if status != 101 {
            let body = &bytes[consumed..];
            let body = String::from_utf8_lossy(&body[..body.len().min(BODY_BYTES_SHOWN)]);
            let text = format!("the upgrade was refused: {status} {} {body}", head.reason.unwrap_or_default());
            return Err(text.replace(|one: char| one.is_control(), " "));
        }
        let header = |name: &str| {
            let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| str::from_utf8(header.value).ok())
        };
        if header("sec-websocket-accept") != Some(&self.accept) {
            return Err("the upgrade's answer does not belong to our request".into());
        }
        if header("sec-websocket-protocol") != Some(AMP_SUBPROTOCOL) {
            return Err(format!("the server did not select the subprotocol {AMP_SUBPROTOCOL}"));
        }
        let did = header("x-amp-relay-did").ok_or("the upgrade's answer names no X-AMP-Relay-DID")?;
        Ok(Some((consumed, did.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_read() {
        let shown = |url| Target::parse(url).map(|target| target.to_string());
        assert_eq!(shown("ws://127.0.0.1:5711").as_deref(), Ok("ws://127.0.0.1:5711/amp/v1/ws"));
        assert_eq!(shown("ws://127.0.0.1:5711/").as_deref(), Ok("ws://127.0.0.1:5711/amp/v1/ws"));
        assert_eq!(shown("ws://127.0.0.1:5711/x").as_deref(), Ok("ws://127.0.0.1:5711/x"));
        assert_eq!(shown("tcp://[::1]:80").as_deref(), Ok("tcp://[::1]:80"));
        for bad in ["127.0.0.1:1", "wss://127.0.0.1:1", "ws://127.0.0.1", "ws://"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_are_read() {
        let key = Key::new([3; 16]);
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
             Sec-WebSocket-Protocol: amp.v1\r\nX-AMP-Relay-DID: did:key:zR\r\n\r\n",
            key.accept
        );
        let more = format!("{head}frame");
        assert_eq!(key.answer(more.as_bytes()), Ok(Some((head.len(), "did:key:zR".into()))));
        assert_eq!(key.answer(&head.as_bytes()[..head.len() - 1]), Ok(None));
        assert!(Key::new([4; 16]).answer(head.as_bytes()).is_err());
        assert!(key.answer(head.replace("amp.v1", "amp.v2").as_bytes()).is_err());
        assert!(key.answer(head.replace("X-AMP-Relay-DID", "X").as_bytes()).is_err());
        let refused = key.answer(b"HTTP/1.1 404 Not Found\r\n\r\nno such\npath").expect_err("refused");
        assert_eq!(refused, "the upgrade was refused: 404 Not Found no such path");
    }

    proptest! {
        #[test]
        fn any_answer_is_judged(bytes: Vec<u8>) {
            let _ = Key::new([0; 16]).answer(&bytes);
        }
    }
}
