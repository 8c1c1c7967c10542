//! The authority a client dialled, in the form in which two of them are compared.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// Where a client dialled to. Loopback names are equal on any port, because a tunnel changes the port and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Authority {
    /// The Unix socket: `unix`.
    Unix,
    /// A loopback name or address, on any port.
    Loopback,
    /// Any other host, lower case, with its port.
    Named {
        /// Name or address; an IPv6 address without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Why a text is no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authority {0}")]
pub struct AuthorityError(&'static str);

impl Authority {
    /// Reads `unix` or `host:port` (an IPv6 address in brackets). A loopback name may stand without a port.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let (host, port) = split(text)?;
        if is_loopback(&host) {
            return Ok(Self::Loopback);
        }
        let port = port.ok_or(AuthorityError("has no port"))?;
        Ok(Self::Named { host, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Loopback => f.write_str("localhost"),
            Self::Named { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Named { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

fn split(text: &str) -> Result<(String, Option<u16>), AuthorityError> {
    let (host, rest) = if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or(AuthorityError("has an open bracket"))?;
        let address: Ipv6Addr = host.parse().map_err(|_| AuthorityError("has no IPv6 address in its brackets"))?;
        (address.to_string(), rest)
    } else {
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        // A trailing dot names the same host.
        let host = host.strip_suffix('.').unwrap_or(host);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !host.split('.').all(|label| !label.is_empty() && label.bytes().all(plain)) {
            return Err(AuthorityError("has no host name"));
        }
        (host.to_ascii_lowercase(), rest)
    };
    let port = match rest.strip_prefix(':') {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().map_err(|_| AuthorityError("has no valid port"))?)
        }
        Some(_) => return Err(AuthorityError("has no valid port")),
        None if rest.is_empty() => None,
        None => return Err(AuthorityError("has text after its bracket")),
    };
    Ok((host, port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_names_are_equal_on_any_port() {
        for text in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:5711",
            "127.8.8.8:1",
            "[::1]:2",
            "[::ffff:127.0.0.1]:3",
            "localhost.:4",
        ] {
            assert_eq!(Authority::parse(text), Ok(Authority::Loopback), "{text}");
        }
        assert_eq!(Authority::parse("unix"), Ok(Authority::Unix));
    }

    #[test]
    fn other_names_keep_their_port() {
        let named = |host: &str, port| Ok(Authority::Named { host: host.into(), port });
        assert_eq!(Authority::parse("Relay.Example:443"), named("relay.example", 443));
        assert_eq!(Authority::parse("[2001:db8:0::1]:7"), named("2001:db8::1", 7));
        assert_eq!(Authority::parse("127.0.0.1.example:1"), named("127.0.0.1.example", 1));
        assert_eq!(Authority::parse("localhost.example:1"), named("localhost.example", 1));
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for text in
            ["", ":", ":1", "a", "a:", "a:x", "a:70000", "a:+1", "a b:1", "[::1", "[x]:1", "[::1]x", "a@b:1", "a/b:1"]
        {
            if let Ok(authority) = Authority::parse(text) {
                panic!("{text:?} gave {authority:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_as_the_same(text in "\\PC{0,24}|[a-z.]{1,8}:[0-9]{1,5}") {
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
            }
        }
    }
}
