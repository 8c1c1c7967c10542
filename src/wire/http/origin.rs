//! Which web pages may talk to us from a browser: the `Host` allow-list and the `Origin` check.
//!
//! A loopback port is open to every web page the user visits. Two checks keep pages out. `Host` must name us, or a page
//! with a name that was rebound to 127.0.0.1 would pass for our own. `Origin`, which browsers send and pages cannot
//! change, must be the host that was asked.

use std::net::{Ipv4Addr, Ipv6Addr};

use tungstenite::http::uri;

use super::{Head, Response};

/// Most bytes of a host name (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 253;

/// A host as people write it, taken apart and comparable.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// A name in lower case.
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// `host` or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: Host,
    port: Option<u16>,
}

impl Authority {
    /// Takes names of letters, digits, `-`, `_` and inner dots, IPv4 in its four-part form, IPv6 in brackets, each
    /// with a decimal port or none. Everything else that a URL may hold (user names, escapes, other number forms,
    /// zones, a trailing dot) is refused: what has one spelling has no second meaning.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (Host::V6(address.parse().ok()?), port)
        } else {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            (Host::parse_name(name)?, port)
        };
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
        };
        Some(Self { host, port })
    }
}

impl Host {
    fn parse_name(name: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.len() > NAME_MAX || !name.split('.').all(|label| !label.is_empty() && label.bytes().all(plain)) {
            return None;
        }
        if let Ok(address) = name.parse() {
            return Some(Self::V4(address));
        }
        // A last label of digits alone, or in hexadecimal, makes browsers read an IPv4 address (WHATWG URL): it is one
        // in a form that we refuse.
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X") {
            return None;
        }
        Some(Self::Name(name.to_ascii_lowercase()))
    }

    fn is_one_label(&self) -> bool {
        matches!(self, Self::Name(name) if !name.contains('.'))
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::V4(address) => address.is_loopback(),
            Self::V6(address) => *address == Ipv6Addr::LOCALHOST,
        }
    }
}

/// A name that cannot be allowed because it is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name, an IP address or either with a port")]
pub struct BadHost(pub String);

/// The names by which we may be asked: `localhost`, 127.0.0.0/8 and `[::1]` with any port or none, and the configured
/// ones.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy {
    names: Vec<Authority>,
}

impl HostPolicy {
    /// Allows the loopback names and these. An entry with a port allows exactly that port written out, one without
    /// allows any port or none.
    ///
    /// # Errors
    /// An entry is not a host name.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, BadHost> {
        let parse = |name: S| Authority::parse(name.as_ref()).ok_or_else(|| BadHost(name.as_ref().to_owned()));
        Ok(Self { names: names.into_iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// Checks which host a request is for ([`Head::host`]), whatever it wants.
    ///
    /// A request of HTTP/1.0 may name none, as health checks do, and passes. No web page can send such a one: browsers
    /// speak HTTP/1.1 and always send `Host`, and what a page may choose of a request, its body, is never read as another
    /// one.
    ///
    /// # Errors
    /// The answer 400 where it is missing, repeated or no host at all (RFC 9112 section 3.2), 421 where it is not one of
    /// ours.
    pub fn check(&self, head: &Head<'_>) -> Result<(), Response> {
        self.judge(head, Host::is_loopback)
    }

    /// Checks the same of a request that came over a Unix socket, which has no name: whatever one label stands for it in a
    /// URL (`http://unix/`, `http://d/`) passes too. Other names still have to be ours: a tunnel may lead from a port to the
    /// socket, where pages reach it, and the name of a page that was rebound has a dot.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub fn check_unix(&self, head: &Head<'_>) -> Result<(), Response> {
        self.judge(head, |host| host.is_loopback() || host.is_one_label())
    }

    fn judge(&self, head: &Head<'_>, passes: impl Fn(&Host) -> bool) -> Result<(), Response> {
        let refuse = |status, line| Err(Response::text(status, line));
        let Ok(header) = head.single("host") else { return refuse(400, "exactly one Host header of ASCII is needed") };
        if header.is_none() && head.minor > 0 {
            return refuse(400, "a Host header is needed");
        }
        let Ok(Some(host)) = head.host() else { return Ok(()) };
        let Some(asked) = Authority::parse(host) else {
            let is_host = !host.contains('@') && (host.is_empty() || host.parse::<uri::Authority>().is_ok());
            return refuse(if is_host { 421 } else { 400 }, "this is no Host that is served here");
        };
        let allowed = |name: &Authority| name.host == asked.host && (name.port.is_none() || name.port == asked.port);
        if passes(&asked.host) || self.names.iter().any(allowed) {
            Ok(())
        } else {
            refuse(421, "this Host is not served here: allow it by --host")
        }
    }
}

/// Checks the `Origin` of a request. Without one it is no page of another site that could read the answer, and passes.
/// Otherwise it must be the scheme we were asked by (`https` with `tls`) and the very host of this request
/// ([`Head::host`]), the port of the scheme filled in.
///
/// # Errors
/// The answer 403: repeated, `null`, unreadable or of another site.
pub fn check_origin(head: &Head<'_>, tls: bool) -> Result<(), Response> {
    let origin = match head.single("origin") {
        Ok(None) => return Ok(()),
        Ok(Some(origin)) => origin,
        Err(_) => return Err(Response::text(403, "Origin cannot be read")),
    };
    let (scheme, port) = if tls { ("https://", 443) } else { ("http://", 80) };
    let origin = origin.strip_prefix(scheme).and_then(Authority::parse);
    let host = head.host().ok().flatten().and_then(Authority::parse);
    match (origin, host) {
        (Some(origin), Some(host))
            if origin.host == host.host && origin.port.unwrap_or(port) == host.port.unwrap_or(port) =>
        {
            Ok(())
        }
        _ => Err(Response::text(403, "this Origin may not connect")),
    }
}
