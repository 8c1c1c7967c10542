//! Where a relay is.

use std::{fmt, path::PathBuf};

use crate::{
    base::text::path_line,
    wire::sign_in::{Authority, PORT},
};

/// Where a relay is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its Unix socket.
    Unix(PathBuf),
    /// TCP without TLS.
    Ws {
        /// Name or address, an IPv6 address without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// A text that names no relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// TLS is not built yet.
    #[error(
        "wss:// is not supported yet: tunnel instead (`ssh -L 5711:127.0.0.1:5711 HOST`) and use ws://127.0.0.1:5711"
    )]
    Tls,
    /// Anything else.
    #[error("`{0}` is not a relay's address (expected ws://HOST:PORT or unix:PATH)")]
    Unreadable(String),
}

impl Target {
    /// Reads `ws://HOST[:PORT][/session]`, `unix:PATH`, or `HOST:PORT`.
    ///
    /// # Errors
    /// It is none of them.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let unreadable = || TargetError::Unreadable(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(unreadable()) } else { Ok(Self::Unix(path.into())) };
        }
        if text.starts_with("wss:") {
            return Err(TargetError::Tls);
        }
        let rest = text.strip_prefix("ws://").unwrap_or(text);
        let authority = rest.strip_suffix("/session").or_else(|| rest.strip_suffix('/')).unwrap_or(rest);
        let has_port = authority.rfind(':') > authority.rfind(']') && authority.matches(':').count() >= 1;
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:{PORT}") };
        Authority::parse(&authority).map_err(|_| unreadable())?;
        let (host, port) = authority.rsplit_once(':').ok_or_else(unreadable)?;
        let port = port.parse().map_err(|_| unreadable())?;
        Ok(Self::Ws { host: host.trim_matches(['[', ']']).to_owned(), port })
    }

    /// The authority as it is signed: `unix`, or host and port.
    pub fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "unix".into(),
            Self::Ws { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Ws { host, port } => format!("{host}:{port}"),
        }
    }

    /// The name under which a relay is pinned: as [`Self::authority`], but one Unix socket is not another.
    pub fn pin_name(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Ws { .. } => self.authority(),
        }
    }

    /// Whether only this machine can answer there.
    pub fn is_local(&self) -> bool {
        matches!(Authority::parse(&self.authority()), Ok(Authority::Unix | Authority::Loopback))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path_line(path)),
            Self::Ws { .. } => write!(f, "ws://{}", self.authority()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let ws = |host: &str, port| Ok(Target::Ws { host: host.into(), port });
        assert_eq!(Target::parse("ws://127.0.0.1:80"), ws("127.0.0.1", 80));
        assert_eq!(Target::parse("ws://relay.example/"), ws("relay.example", 5711));
        assert_eq!(Target::parse("ws://[::1]:7/session"), ws("::1", 7));
        assert_eq!(Target::parse("[::1]"), ws("::1", 5711));
        assert_eq!(Target::parse("localhost:1"), ws("localhost", 1));
        assert_eq!(Target::parse("unix:/a b"), Ok(Target::Unix("/a b".into())));
        assert_eq!(Target::parse("unix:///a"), Ok(Target::Unix("/a".into())));
        assert_eq!(Target::parse("wss://a:1"), Err(TargetError::Tls));
        for bad in ["", "unix:", "http://a:1", "ws://a:1/x", "ws://", "ws://a:b", "ws://u@h:1"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Target::parse("ws://[::1]:7").unwrap().authority(), "[::1]:7");
        assert!(Target::parse("ws://[::1]:7").unwrap().is_local());
        assert!(!Target::parse("ws://a.example:7").unwrap().is_local());
    }
}
