//! The client's half of signing in, sans-io: answers a challenge, checks a welcome.

use std::io;

use ssh_key::PublicKey;

use super::{
    handshake::HandshakeError,
    identity::{Identity, IdentityError},
    message::ErrorMessage,
    pins::{PinError, Pins},
    target::Target,
};
use crate::wire::sign_in::{
    self, BINDING_NONE, Challenge, Device, FieldError, Nonce, SIGN_IN_NAMESPACE, SignIn, Transcript, VerifyError,
    WELCOME_NAMESPACE, Welcome,
};

/// How a client presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The installation's id: the scope of command ids.
    pub client: String,
    /// The device's name for people, at most 256 bytes in one line.
    pub device: String,
    /// Free text: `terminal`, `script`, ...; at most 64 bytes in one line.
    pub kind: String,
    /// A role less than the key has.
    pub role: Option<String>,
    /// Milliseconds for each step of connecting.
    pub timeout_ms: u64,
    /// Largest message taken, in bytes.
    pub message_bytes_max: usize,
}

impl Options {
    /// The usual ones: all that the key may do, 10 s for each step, messages up to 16 MiB.
    pub fn new(client: &str, device: &str, kind: &str) -> Self {
        Self {
            client: client.into(),
            device: device.into(),
            kind: kind.into(),
            role: None,
            timeout_ms: 10_000,
            message_bytes_max: 16 << 20,
        }
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
    /// The relay is not trusted.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The key cannot sign.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The relay said no.
    #[error("the relay refused to sign in: {}", .0.message)]
    Refused(Box<ErrorMessage>),
    /// The relay did not prove its key.
    #[error("the relay did not prove its key ({0}): it is broken or pretends to be another one")]
    Unproved(VerifyError),
    /// A name or id of ours cannot be signed.
    #[error("cannot sign in: {0}")]
    Field(#[from] FieldError),
    /// The relay does not keep the protocol.
    #[error("the relay does not speak the session protocol: {0}")]
    Protocol(String),
}

impl ConnectError {
    /// Whether trying again later may help, for a client that was signed in before.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Handshake { error, .. } => error.is_passing(),
            Self::Refused(error) => error.is_passing(),
            _ => false,
        }
    }

    /// Whether another key may help.
    pub fn is_about_the_key(&self) -> bool {
        match self {
            Self::Refused(error) => matches!(error.code.as_str(), "KEY_NOT_AUTHORIZED" | "KEY_EXPIRED" | "FORBIDDEN"),
            Self::Identity(_) => true,
            _ => false,
        }
    }
}

/// A sign-in that waits for its welcome.
pub(super) struct Pending {
    transcript: String,
    relay_did: String,
    relay_key: PublicKey,
    id: String,
    fingerprint: String,
}

/// Checks the relay's pin, and only then signs.
pub(super) fn answer(
    challenge: &Challenge,
    nonce: Nonce,
    target: &Target,
    identity: &Identity,
    options: &Options,
    pins: &mut dyn Pins,
) -> Result<(SignIn, Pending), ConnectError> {
    if challenge.version != sign_in::VERSION {
        return Err(ConnectError::Protocol(format!("it has version {}, this client 1", challenge.version)));
    }
    if !challenge.bindings.iter().any(|binding| binding == BINDING_NONE) {
        return Err(ConnectError::Protocol("it wants a TLS binding, which is not supported yet".into()));
    }
    let relay_key = PublicKey::from_openssh(&challenge.relay.key)
        .map_err(|error| ConnectError::Protocol(format!("its key cannot be read: {error}")))?;
    pins.check(target, &challenge.relay.did, &relay_key)?;
    let device = Device { name: options.device.clone(), kind: options.kind.clone() };
    device.check()?;
    let (authority, nonce) = (target.authority(), nonce.to_string());
    let fingerprint = sign_in::fingerprint(identity.public());
    let transcript = Transcript {
        relay: &challenge.relay.did,
        authority: &authority,
        server_nonce: &challenge.nonce,
        client_nonce: &nonce,
        client: &options.client,
        device: &options.device,
        role: options.role.as_deref(),
        fingerprint: &fingerprint,
        binding: BINDING_NONE,
    }
    .text()?;
    let key =
        identity.public_line().map_err(|error| ConnectError::Protocol(format!("the key has no line: {error}")))?;
    let message = SignIn {
        id: "sign-in".into(),
        client: options.client.clone(),
        key,
        nonce,
        authority,
        binding: BINDING_NONE.into(),
        role: options.role.clone(),
        device,
        signature: identity.sign(SIGN_IN_NAMESPACE, &transcript)?,
    };
    let pending =
        Pending { transcript, relay_did: challenge.relay.did.clone(), relay_key, id: message.id.clone(), fingerprint };
    Ok((message, pending))
}

impl Pending {
    /// Checks the relay's proof, and keeps its pin if it holds.
    pub(super) fn welcomed(&self, welcome: &Welcome, target: &Target, pins: &mut dyn Pins) -> Result<(), ConnectError> {
        if welcome.re != self.id || welcome.fingerprint != self.fingerprint {
            return Err(ConnectError::Protocol("its welcome is for somebody else".into()));
        }
        let text = sign_in::proof_text(&self.transcript, &welcome.principal, &welcome.role)?;
        sign_in::verify_in(WELCOME_NAMESPACE, &self.relay_key, &text, &welcome.proof)
            .map_err(ConnectError::Unproved)?;
        Ok(pins.proved(target, &self.relay_did, &self.relay_key)?)
    }
}
