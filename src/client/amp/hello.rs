//! The HELLO of an agent, sans-io: what it says, and what the relay's answer means. It is the proof of both sides: ours
//! by its signature over the relay's DID, the relay's by its signature over our random id.

use std::io;

use super::message::{ErrorAnswer, Message, SignedBy, Unacceptable};
use crate::{
    client::{HandshakeError, IdentityError, PinError},
    wire::amp::{BuildError, Code, Id, RELAY_DID_HEADER, Type, body, check::SKEW_MS_DEFAULT, did_base},
};

/// Versions that are offered.
const VERSIONS: &[&str] = &["1.0"];
const IMPLEMENTATION: &str = concat!("amp-relay/", env!("CARGO_PKG_VERSION"));
/// How long a HELLO lives: beyond this it is not fresh anyway.
pub(super) const HELLO_TTL_MS: u64 = 2 * SKEW_MS_DEFAULT;

/// How an agent presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The agent's name, for people.
    pub name: String,
    /// Milliseconds for each step of connecting.
    pub timeout_ms: u64,
    /// Largest message taken, in bytes.
    pub message_bytes_max: usize,
}

impl Options {
    /// The usual ones: 10 s for each step, messages up to 16 MiB.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), timeout_ms: 10_000, message_bytes_max: 16 << 20 }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The network.
    #[error("cannot connect to {target}: {error}")]
    Io {
        /// Where.
        target: String,
        /// What the system says.
        error: io::Error,
    },
    /// The WebSocket was not opened.
    #[error("{target}: {error}")]
    Handshake {
        /// Where.
        target: String,
        /// Why.
        error: HandshakeError,
    },
    /// Without the relay's DID there is nothing to sign a HELLO for.
    #[error(
        "{0} does not name its DID ({RELAY_DID_HEADER} of its answer is missing or names no Ed25519 key): it is another \
         relay or an older one. Nothing was signed"
    )]
    NoDid(String),
    /// The relay is not trusted.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The key cannot sign.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The HELLO cannot be written.
    #[error("cannot say HELLO: {0}")]
    Build(#[from] BuildError),
    /// The relay answered with an ERROR.
    #[error("the relay refused the HELLO of {did}: {error}{}", advice(.error, *.our_ms))]
    Refused {
        /// Our DID.
        did: String,
        /// Why.
        error: ErrorAnswer,
        /// Our time when it came, Unix milliseconds.
        our_ms: u64,
    },
    /// The relay answered with a HELLO_REJECT.
    #[error("the relay speaks no version of AMP that this program speaks (1.0): {0}")]
    Rejected(String),
    /// The relay did not prove its key.
    #[error("the relay did not prove its key ({0}): it is broken or pretends to be another one")]
    Unproved(Unacceptable),
    /// No answer.
    #[error("{0} did not answer the HELLO in time; is it overloaded, or no AMP relay?")]
    NoAnswer(String),
}

/// What to do about a refusal.
fn advice(error: &ErrorAnswer, our_ms: u64) -> String {
    match (error.code, error.now_ms) {
        (Code::INVALID_TIMESTAMP, Some(now_ms)) => {
            let (seconds, way) = (now_ms.abs_diff(our_ms) / 1000, if now_ms > our_ms { "behind" } else { "ahead of" });
            format!(". This machine's clock is {seconds} s {way} the relay's: set the one that is wrong")
        }
        _ => String::new(),
    }
}

/// The relay's time, where a HELLO of that time is worth a second try: the clocks differ by no more than messages may.
pub(super) fn relay_time(error: &ConnectError) -> Option<u64> {
    let ConnectError::Refused { error: ErrorAnswer { code: Code::INVALID_TIMESTAMP, now_ms, .. }, our_ms, .. } = error
    else {
        return None;
    };
    now_ms.filter(|now_ms| now_ms.abs_diff(*our_ms) < SKEW_MS_DEFAULT)
}

impl ConnectError {
    /// Whether trying again later may help, for an agent that was connected before.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io { .. } | Self::NoAnswer(_) => true,
            Self::Handshake { error, .. } => error.is_passing(),
            Self::Refused { error, .. } => matches!(error.code.0, 3005 | 5001..=5004),
            _ => false,
        }
    }

    /// Whether another key may help.
    pub fn is_about_the_key(&self) -> bool {
        match self {
            Self::Refused { error, .. } => error.code == Code::UNAUTHORIZED,
            Self::Identity(_) => true,
            _ => false,
        }
    }
}

/// The body of our HELLO.
pub(super) fn body(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let hello =
        body::Hello { versions: VERSIONS, extensions: &[], name: Some(name), implementation: Some(IMPLEMENTATION) };
    hello.write(&mut out);
    out
}

/// What a message means for the HELLO with this id: `None`, it is not the answer.
pub(super) fn outcome(
    message: &Message,
    hello: &Id,
    did: &str,
    relay: &str,
    our_ms: u64,
) -> Option<Result<(), ConnectError>> {
    // Only the relay's own signature is a proof: a message of another sender says nothing about our HELLO.
    if did_base(&message.from) != relay || message.signed_by != SignedBy::Sender {
        return None;
    }
    let body = message.body.as_deref().unwrap_or_default();
    match message.typ {
        Type::HELLO_ACK if message.answers(hello) => {
            let selected = body::selected(body).unwrap_or_default();
            let known = selected.split('.').next() == Some("1");
            Some(if known { Ok(()) } else { Err(ConnectError::Rejected(format!("it chose {selected:?}"))) })
        }
        Type::HELLO_REJECT if message.answers(hello) => {
            let reason = crate::wire::cbor::get(body, "reason").and_then(crate::wire::cbor::as_text);
            Some(Err(ConnectError::Rejected(reason.unwrap_or("it gives no reason").to_owned())))
        }
        Type::ERROR if message.answers(hello) || message.reply_to.is_none() => {
            let error = message.error()?;
            Some(Err(ConnectError::Refused { did: did.to_owned(), error, our_ms }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let refused = |code, now_ms| {
            let error = ErrorAnswer { code, message: "no".into(), now_ms };
            ConnectError::Refused { did: "did:key:z1".into(), error, our_ms: 100_000 }
        };
        let clock = refused(Code::INVALID_TIMESTAMP, Some(190_500)).to_string();
        assert!(
            clock.ends_with("This machine's clock is 90 s behind the relay's: set the one that is wrong"),
            "{clock}"
        );
        assert!(refused(Code::INVALID_TIMESTAMP, Some(1_000)).to_string().contains("99 s ahead of"));
        assert_eq!(relay_time(&refused(Code::INVALID_TIMESTAMP, Some(190_500))), None, "nothing would be taken");
        assert_eq!(relay_time(&refused(Code::INVALID_TIMESTAMP, Some(98_000))), Some(98_000));
        assert_eq!(relay_time(&refused(Code::UNAUTHORIZED, Some(98_000))), None);
        let key = refused(Code::UNAUTHORIZED, None);
        assert!(key.is_about_the_key() && !key.is_passing());
        assert!(key.to_string().contains("did:key:z1"), "{key}");
        assert!(refused(Code::OVERLOADED, None).is_passing());
    }
}
