//! The client's half of the WebSocket handshake (RFC 6455 section 4.1), sans-io. What follows the answer's head stays
//! with the caller, because a relay sends its challenge right behind it.

use base64::{Engine, engine::general_purpose::STANDARD};
use tungstenite::handshake::derive_accept_key;

/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Most bytes of a refusal's body that are shown.
const BODY_BYTES_SHOWN: usize = 300;

/// Why a WebSocket was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The other side answers something else.
    #[error("the other side is no relay: {0}")]
    NoRelay(&'static str),
    /// It closes or resets the connection without an answer, as a forwarder does that cannot reach the relay behind it.
    #[error("the connection was closed before any answer: is the relay running, and the tunnel to it open?")]
    Unanswered,
    /// It answers as no relay does: a web page, or a status that no relay gives.
    #[error("the other side is no relay: it answered {status} {reason}")]
    Stranger {
        /// HTTP status.
        status: u16,
        /// Reason, without control characters.
        reason: String,
    },
    /// It opens a WebSocket and selects another subprotocol, or none.
    #[error("the other side is no relay, or an older one: it does not speak {0}")]
    Mute(String),
    /// It answers with a status of its own.
    #[error("the relay refused the connection: {status} {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Reason and the first part of the body, without control characters.
        text: String,
    },
}

impl HandshakeError {
    /// Whether trying again later may help, where a relay was reached before.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unanswered => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::NoRelay(_) | Self::Stranger { .. } | Self::Mute(_) => false,
        }
    }
}

/// The statuses below 500 with which a relay refuses a client of its own. From 500 on it may also be what stands before it.
const REFUSALS: [u16; 6] = [400, 403, 408, 421, 426, 431];

/// What the first bytes of an answer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// More must come.
    Partial,
    /// The WebSocket is open; its frames begin after so many bytes.
    Open(usize),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upgrade<'a> {
    /// Path of the endpoint.
    pub(super) path: &'a str,
    /// The one subprotocol offered.
    pub(super) subprotocol: &'a str,
    /// More header lines, each with its line end.
    pub(super) headers: &'a str,
}

/// The head of an answer that opened a WebSocket.
#[derive(Clone, Debug)]
pub(super) struct Head(pub(super) Vec<u8>);

impl Head {
    /// The value of a header that is there once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        head.parse(&self.0).ok()?;
        let mut found = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let value = found.next()?.value;
        if found.next().is_some() { None } else { str::from_utf8(value).ok() }
    }
}

/// One attempt to open a WebSocket.
pub(super) struct Handshake<'a> {
    key: String,
    upgrade: Upgrade<'a>,
}

impl<'a> Handshake<'a> {
    /// Begins one with 16 random bytes.
    pub(super) fn new(random: [u8; 16], upgrade: Upgrade<'a>) -> Self {
        Self { key: STANDARD.encode(random), upgrade }
    }

    /// The request.
    pub(super) fn request(&self, host: &str) -> String {
        let Upgrade { path, subprotocol, headers } = self.upgrade;
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\
             {headers}\r\n",
            self.key
        )
    }

    /// Reads the answer from its beginning. `ended`: nothing more will come.
    pub(super) fn answer(&self, bytes: &[u8], ended: bool) -> Result<Answer, HandshakeError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let consumed = match head.parse(bytes) {
            Ok(httparse::Status::Complete(consumed)) => consumed,
            Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
                return Err(HandshakeError::NoRelay("its answer has no end"));
            }
            Ok(httparse::Status::Partial) if ended => return Err(HandshakeError::Unanswered),
            Ok(httparse::Status::Partial) => return Ok(Answer::Partial),
            Err(_) => return Err(HandshakeError::NoRelay("its answer is not HTTP")),
        };
        let status = head.code.unwrap_or_default();
        if status != 101 {
            let (body, reason) = (&bytes[consumed..], head.reason.unwrap_or_default());
            let is_page = is_page(head.headers, body);
            if status < 500 && (is_page || !REFUSALS.contains(&status)) {
                return Err(HandshakeError::Stranger { status, reason: plain(reason).trim_end().to_owned() });
            }
            if is_page {
                return Err(refused(status, reason, b""));
            }
            if !ended && body.len() < BODY_BYTES_SHOWN {
                return Ok(Answer::Partial);
            }
            return Err(refused(status, reason, body));
        }
        let has = |name: &str, value: &str| {
            let mut found = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            found.next().is_some_and(|header| header.value.eq_ignore_ascii_case(value.as_bytes()))
                && found.next().is_none()
        };
        let accept = derive_accept_key(self.key.as_bytes());
        let accepted = head.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("sec-websocket-accept") && header.value == accept.as_bytes()
        });
        if !accepted || !has("upgrade", "websocket") || !has("connection", "upgrade") {
            return Err(HandshakeError::NoRelay("its upgrade does not answer ours"));
        }
        if !has("sec-websocket-protocol", self.upgrade.subprotocol) {
            return Err(HandshakeError::Mute(self.upgrade.subprotocol.to_owned()));
        }
        Ok(Answer::Open(consumed))
    }
}

/// Whether an answer is HTML, which no relay sends.
fn is_page(headers: &[httparse::Header<'_>], body: &[u8]) -> bool {
    let is_html = |value: &[u8]| value.windows(4).any(|word| word.eq_ignore_ascii_case(b"html"));
    let mut headers = headers.iter();
    headers.any(|header| header.name.eq_ignore_ascii_case("content-type") && is_html(header.value))
        || body.trim_ascii_start().starts_with(b"<")
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn refused(status: u16, reason: &str, body: &[u8]) -> HandshakeError {
    let body = String::from_utf8_lossy(&body[..body.len().min(BODY_BYTES_SHOWN)]);
    let text = format!("{reason}: {body}");
    HandshakeError::Refused { status, text: plain(&text).trim_end_matches([' ', ':']).to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UPGRADE: Upgrade<'_> = Upgrade { path: "/session", subprotocol: "amp-session.v1", headers: "X: y\r\n" };

    fn handshake(random: u8) -> Handshake<'static> {
        Handshake::new([random; 16], UPGRADE)
    }

    fn open(handshake: &Handshake<'_>) -> String {
        let accept = derive_accept_key(handshake.key.as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: amp-session.v1\r\n\r\n"
        )
    }

    #[test]
    fn frames_behind_the_head_are_left_alone() {
        let ours = handshake(1);
        let head = open(&ours);
        for cut in 0..head.len() {
            assert_eq!(ours.answer(&head.as_bytes()[..cut], false), Ok(Answer::Partial));
            assert!(ours.answer(&head.as_bytes()[..cut], true).is_err());
        }
        let more = format!("{head}\u{1}frame");
        assert_eq!(ours.answer(more.as_bytes(), false), Ok(Answer::Open(head.len())));
        let answered = Head(head.into_bytes());
        assert_eq!(answered.header("sec-websocket-PROTOCOL"), Some("amp-session.v1"));
        assert_eq!(answered.header("x"), None);
        assert_eq!(Head(b"HTTP/1.1 101 x\r\nX: 1\r\nx: 2\r\n\r\n".to_vec()).header("x"), None, "twice is not once");
        assert!(ours.request("h").ends_with("\r\nX: y\r\n\r\n"));
    }

    #[test]
    fn wrong_answers_are_told_apart() {
        let ours = handshake(1);
        let other = open(&handshake(2));
        assert_eq!(
            ours.answer(other.as_bytes(), false),
            Err(HandshakeError::NoRelay("its upgrade does not answer ours"))
        );
        let mute = open(&ours).replace("amp-session.v1", "chat");
        assert_eq!(ours.answer(mute.as_bytes(), false), Err(HandshakeError::Mute("amp-session.v1".into())));
        let refusal = b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 9\r\n\r\nno\x1b[2Jhost";
        assert_eq!(ours.answer(refusal, false), Ok(Answer::Partial));
        assert_eq!(
            ours.answer(refusal, true),
            Err(HandshakeError::Refused { status: 421, text: "Misdirected Request: no [2Jhost".into() })
        );
        assert!(ours.answer(b"SSH-2.0-x\r\n", false).is_err());
        // Every status with which a relay refuses. From 500 on it may take the client the next time.
        for status in [400, 403, 408, 421, 426, 431, 500, 503] {
            let of = "Content-Type: text/plain\r\nX-Of: text/html";
            let refused = ours.answer(format!("HTTP/1.1 {status} x\r\n{of}\r\n\r\nno").as_bytes(), true);
            let Err(refused @ HandshakeError::Refused { .. }) = refused else { panic!("{status}: {refused:?}") };
            assert!(refused.to_string().ends_with("x: no"), "{refused}");
            assert_eq!(refused.is_passing(), status >= 500, "{status}");
        }
    }

    #[test]
    fn an_answer_without_an_end_is_no_close() {
        let ours = handshake(1);
        assert_eq!(ours.answer(b"", true), Err(HandshakeError::Unanswered));
        let mut endless = format!("HTTP/1.1 101 x\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
        for ended in [false, true] {
            endless.truncate(HEAD_BYTES_MAX);
            assert_eq!(
                ours.answer(endless.as_bytes(), ended),
                Err(HandshakeError::NoRelay("its answer has no end")),
                "{ended}"
            );
        }
    }

    #[test]
    fn a_web_server_is_no_relay_and_its_page_is_not_shown() {
        let ours = handshake(1);
        let stranger = |status, reason: &str| Err(HandshakeError::Stranger { status, reason: reason.into() });
        for (answer, expected) in [
            ("404 File not found\r\nContent-Type: text/html;charset=utf-8\r\n\r\n", stranger(404, "File not found")),
            ("404 \r\nContent-Type: text/plain\r\n\r\n404 page not found\n", stranger(404, "")),
            ("200 OK\r\n\r\n", stranger(200, "OK")),
            ("301 Moved Permanently\r\nLocation: https://x\r\n\r\n", stranger(301, "Moved Permanently")),
            ("400 Bad Request\r\n\r\n\n<html>", stranger(400, "Bad Request")),
            ("403 Forbidden\r\ncontent-type: application/xHTML+xml\r\n\r\nno", stranger(403, "Forbidden")),
            // What stands before a relay that is away: it may come back.
            (
                "502 Bad Gateway\r\nContent-Type: Text/HTML\r\n\r\n<html>",
                Err(HandshakeError::Refused { status: 502, text: "Bad Gateway".into() }),
            ),
        ] {
            // At once: the connection may stay open.
            assert_eq!(ours.answer(format!("HTTP/1.1 {answer}").as_bytes(), false), expected, "{answer}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_judged(bytes: Vec<u8>, ended: bool) {
            let _ = handshake(0).answer(&bytes, ended);
        }
    }
}
