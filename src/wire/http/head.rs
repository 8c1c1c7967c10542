//! Request heads.

use std::fmt;

use super::{HEAD_MAX, Response};

/// Most headers of a request.
pub const HEADERS_MAX: usize = 64;

/// What the bytes hold.
pub enum Parsed<'b> {
    /// A head that goes on: more bytes are needed.
    Partial,
    /// A whole head.
    Complete {
        /// Bytes of the head, its empty line included. What follows it belongs to the next protocol.
        consumed: usize,
        /// The head.
        head: Head<'b>,
    },
}

/// A request head, borrowed from the bytes it came in.
#[derive(Clone)]
pub struct Head<'b> {
    /// The method as it was sent: methods are case-sensitive.
    pub method: &'b str,
    /// Path and query as they were sent, without what stands before them in an absolute target. Always begins with `/`,
    /// always ASCII: it is `/` where an absolute target has no path.
    pub target: &'b str,
    /// The target up to `?`, not percent-decoded.
    pub path: &'b str,
    /// The target after `?`, not percent-decoded.
    pub query: Option<&'b str>,
    /// The minor version of HTTP/1: 0 or 1.
    pub minor: u8,
    /// The host that an absolute target names.
    authority: Option<&'b str>,
    headers: [httparse::Header<'b>; HEADERS_MAX],
    count: usize,
}

/// A request target taken apart.
struct Target<'b> {
    authority: Option<&'b str>,
    target: &'b str,
    path: &'b str,
    query: Option<&'b str>,
}

/// Why the value of a header that must be single is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The header came more than once.
    #[error("repeated header")]
    Repeated,
    /// The value holds bytes that are not visible ASCII.
    #[error("header is not ASCII")]
    NotAscii,
}

impl From<HeaderFault> for Response {
    fn from(fault: HeaderFault) -> Self {
        Self::text(400, fault.to_string())
    }
}

/// Reads the head at the front of `bytes`.
///
/// # Errors
/// The answer to send before closing: 431 for a head above [`HEAD_MAX`] bytes or [`HEADERS_MAX`] headers, 505 for a
/// version that is not HTTP/1, 421 for an absolute target of another scheme than `http`, 400 for whatever else is not a
/// request for a path of ours.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Response> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    // One byte above the limit is enough to know that a head is too long.
    let window = &bytes[..bytes.len().min(HEAD_MAX + 1)];
    let consumed = match request.parse(window) {
        Ok(httparse::Status::Complete(consumed)) if consumed <= HEAD_MAX => consumed,
        Ok(httparse::Status::Partial) if window.len() <= HEAD_MAX => return Ok(Parsed::Partial),
        Ok(_) => return Err(Response::text(431, "request head above 16 KiB")),
        Err(httparse::Error::TooManyHeaders) => return Err(Response::text(431, "too many headers")),
        Err(httparse::Error::Version) => return Err(Response::text(505, "only HTTP/1.0 and HTTP/1.1")),
        Err(_) => return Err(Response::text(400, "not an HTTP request")),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Response::text(400, "not an HTTP request"));
    };
    let Target { authority, target, path, query } = Target::parse(target)?;
    let count = request.headers.len();
    let head = Head { method, target, path, query, minor, authority, headers, count };
    Ok(Parsed::Complete { consumed, head })
}

impl<'b> Target<'b> {
    /// A path, or the absolute form, which every server has to take (RFC 9112 section 3.2.2).
    fn parse(target: &'b str) -> Result<Self, Response> {
        let bad = || Response::text(400, "the target must be a path or an http URI");
        if !target.bytes().all(|b| b.is_ascii_graphic()) || target.contains('#') {
            return Err(bad());
        }
        let split = |text: &'b str| text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        if target.starts_with('/') {
            let (path, query) = split(target);
            return Ok(Self { authority: None, target, path, query });
        }
        let (scheme, rest) = target.split_once("://").ok_or_else(bad)?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(Response::text(421, "https is not served here"));
        }
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !scheme.eq_ignore_ascii_case("http") || authority.is_empty() {
            return Err(bad());
        }
        let (path, query) = split(target);
        let (target, path) = if path.is_empty() { ("/", "/") } else { (target, path) };
        Ok(Self { authority: Some(authority), target, path, query })
    }
}

impl<'b> Head<'b> {
    /// All headers in their order, names as they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> + '_ {
        self.headers[..self.count].iter().map(|h| (h.name, h.value))
    }

    /// The first value of a header, names compared without case. `None` when it is absent or not visible ASCII. What
    /// security depends on is read by [`single`](Self::single).
    pub fn header(&self, name: &str) -> Option<&'b str> {
        self.values(name).next().and_then(ascii)
    }

    /// The value of a header that may come once.
    ///
    /// # Errors
    /// It came more than once, or is not visible ASCII.
    pub fn single(&self, name: &str) -> Result<Option<&'b str>, HeaderFault> {
        let mut values = self.values(name);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(HeaderFault::Repeated);
        }
        ascii(value).map(Some).ok_or(HeaderFault::NotAscii)
    }

    /// The host that is asked: the authority of an absolute target, which then counts alone, else the `Host` header. `None`:
    /// the request names none, which only HTTP/1.0 allows.
    ///
    /// # Errors
    /// The header came more than once, or is not visible ASCII.
    pub fn host(&self) -> Result<Option<&'b str>, HeaderFault> {
        let header = self.single("host")?;
        Ok(self.authority.or(header))
    }

    /// The elements of a header that is a comma-separated list, over all of its lines, without the empty ones.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'b str> + 'a {
        self.values(name)
            .filter_map(ascii)
            .flat_map(|value| value.split(',').map(|element| element.trim_matches([' ', '\t'])))
            .filter(|element| !element.is_empty())
    }

    /// Whether the request asks for WebSocket: `Connection` lists `upgrade` and `Upgrade` lists `websocket`. Whether
    /// it asks *well* is for [`accept`](super::accept).
    pub fn wants_upgrade(&self) -> bool {
        self.list("connection").any(|token| token.eq_ignore_ascii_case("upgrade"))
            && self.list("upgrade").any(|token| token.eq_ignore_ascii_case("websocket"))
    }

    /// The subprotocols the client offers, its favourite first.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'b str> + '_ {
        self.list("sec-websocket-protocol")
    }

    /// Whether a body is announced. Bodies are not read here.
    pub fn has_body(&self) -> bool {
        self.values("transfer-encoding").next().is_some() || self.values("content-length").any(|value| value != b"0")
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'b [u8]> + 'a {
        self.headers().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl fmt::Debug for Head<'_> {
    /// Method and path only: a query and headers may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} headers)", self.method, self.path, self.count)
    }
}

/// The value as text, if it is made of visible ASCII, space and tab.
fn ascii(value: &[u8]) -> Option<&str> {
    if value.iter().all(|&b| b.is_ascii_graphic() || b == b' ' || b == b'\t') {
        str::from_utf8(value).ok()
    } else {
        None
    }
}
