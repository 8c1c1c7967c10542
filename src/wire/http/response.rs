//! Plain answers.

use std::time::{Duration, UNIX_EPOCH};

use crate::base::Now;

/// The last second that a `Date` can name: the end of the year 9999.
const DATE_SECONDS_MAX: u64 = 253_402_300_799;

/// An answer that ends the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers besides `Date`, `Content-Length` and `Connection`, which are always written. Control characters in values
    /// are written as spaces.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// An answer with a line of plain text.
    pub fn text(status: u16, line: impl Into<String>) -> Self {
        let mut body = line.into().into_bytes();
        body.push(b'\n');
        Self { status, headers: vec![("Content-Type", "text/plain; charset=utf-8".to_owned())], body }
    }

    /// An answer with a body of this media type.
    pub fn body(status: u16, content_type: &str, body: Vec<u8>) -> Self {
        Self { status, headers: vec![("Content-Type", content_type.to_owned())], body }
    }

    /// The answer 426 to a request for a path that speaks WebSocket. It says what to upgrade to (RFC 9110 section 15.5.22)
    /// and which version (RFC 6455 section 4.4).
    pub fn upgrade_required(line: impl Into<String>) -> Self {
        Self::text(426, line).with("Upgrade", "websocket").with("Sec-WebSocket-Version", "13")
    }

    /// The same answer with one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The bytes to send, dated `now`.
    pub fn encode(&self, now: Now) -> Vec<u8> {
        let mut out = self.encode_head(now);
        crate::wire::copy::append(&mut out, &self.body);
        out
    }

    /// The bytes to send to a `HEAD` request: `Content-Length` is that of the body, which is left out.
    pub fn encode_head(&self, now: Now) -> Vec<u8> {
        let mut out = Vec::with_capacity(320 + self.body.len());
        out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).as_bytes());
        for (name, value) in &self.headers {
            header(&mut out, name, value);
        }
        header(&mut out, "Date", &date(now));
        header(&mut out, "Content-Length", &self.body.len().to_string());
        // A response that names a protocol to upgrade to lists that header here (RFC 9110 section 7.8).
        let upgrades = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade"));
        header(&mut out, "Connection", if upgrades { "upgrade, close" } else { "close" });
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// Writes one header line. A control character in the value would begin another line: it becomes a space.
pub(super) fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|b| if b.is_ascii_control() { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

/// The time as HTTP writes it (RFC 9110 section 5.6.7).
fn date(now: Now) -> String {
    let seconds = (now.unix_ms / 1000).min(DATE_SECONDS_MAX);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The phrase of a status code (RFC 9110 section 15). It may be empty.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time of the example in RFC 9110 section 5.6.7.
    const NOW: Now = Now { mono_ms: 0, unix_ms: 784_111_777_999 };

    #[test]
    fn an_answer_says_its_date_and_its_length_and_closes() {
        let bytes = Response::text(404, "no such path").with("X-A", "b\r\nX-Evil: 1").encode(NOW);
        assert_eq!(
            str::from_utf8(&bytes),
            Ok("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nX-A: b  X-Evil: 1\r\n\
                Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 13\r\nConnection: close\r\n\r\nno such path\n")
        );
        for (unix_ms, year) in [(0, "1970"), (u64::MAX, "9999")] {
            assert!(date(Now { unix_ms, ..NOW }).contains(year), "whatever the clock says");
        }
    }

    #[test]
    fn a_head_request_gets_the_length_alone() {
        let bytes = Response::body(200, "application/json", b"{}".to_vec()).encode_head(NOW);
        assert!(bytes.ends_with(b"Content-Length: 2\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn a_426_lists_its_upgrade_as_a_connection_option() {
        let bytes = Response::upgrade_required("this path speaks WebSocket").encode(NOW);
        let text = String::from_utf8(bytes).expect("text");
        for line in ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Connection: upgrade, close"] {
            assert!(text.lines().any(|have| have == line), "{line} in {text}");
        }
    }
}
