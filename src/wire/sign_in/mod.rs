//! Signing in by key (`docs/protocols/session.md`, section 2), sans-io: the transcript that is signed, the signatures
//! over it, the DID of a key and the messages that carry them. Used by the relay and by the client, so both sign the
//! same bytes. Draws no random numbers, reads no clock, decides no role.

mod authority;
mod did;
mod key;
mod message;
mod signature;

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ssh_key::{HashAlg, PublicKey};

pub use authority::{Authority, AuthorityError};
pub use did::{did_of, key_of_did};
pub use key::{KEY_FILE_BYTES_MAX, NoKey, private_key};
pub use message::{Challenge, Device, Limits, ProfileInfo, RelayInfo, SignIn, Welcome};
pub use signature::{SignError, VerifyError, assemble, sign, signed_data, usable, verify, verify_in};

/// Where a relay listens on the loopback unless it is told otherwise.
pub const PORT: u16 = 5711;
/// Namespace of a client's signature.
pub const SIGN_IN_NAMESPACE: &str = "sign-in@amp-relay";
/// Namespace of the relay's proof.
pub const WELCOME_NAMESPACE: &str = "welcome@amp-relay";
/// First line of every transcript; it names the version.
pub const TRANSCRIPT_HEAD: &str = "amp-relay sign-in 1";
/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "amp-session.v1";
/// Version of the protocol that `challenge` names.
pub const VERSION: u32 = 1;
/// The binding where there is none.
pub const BINDING_NONE: &str = "none";

/// Longest field of a transcript in bytes.
pub const FIELD_BYTES_MAX: usize = 512;
/// Longest id in characters (section 1 of the protocol).
pub const ID_CHARS_MAX: usize = 64;
/// Longest name of a device in bytes. Every device that watches a session with it is sent it.
pub const DEVICE_NAME_BYTES_MAX: usize = 256;
/// Longest kind of a device in bytes; likewise.
pub const DEVICE_KIND_BYTES_MAX: usize = 64;

/// A field that cannot stand in a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` {why}")]
pub struct FieldError {
    /// Its name in the messages.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

/// 32 random bytes, used once; base64url without padding on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; Self::BYTES]);

impl Nonce {
    /// Length in bytes.
    pub const BYTES: usize = 32;

    /// The nonce of these bytes, which must come from the system's random source.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads the wire form; `None` unless it is the one form of 32 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a sign-in is about; both sides make it of what they sent and received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transcript<'a> {
    /// DID of the relay.
    pub relay: &'a str,
    /// The authority as the client dialled it, or `unix`.
    pub authority: &'a str,
    /// The relay's nonce, wire form.
    pub server_nonce: &'a str,
    /// The client's nonce, wire form.
    pub client_nonce: &'a str,
    /// The installation's id.
    pub client: &'a str,
    /// The device's name for people.
    pub device: &'a str,
    /// The role asked for, if one was.
    pub role: Option<&'a str>,
    /// Fingerprint of the key that signs, `SHA256:...`.
    pub fingerprint: &'a str,
    /// [`BINDING_NONE`] or the exporter value.
    pub binding: &'a str,
}

impl Transcript<'_> {
    /// The text that is signed: lines, each ended by LF.
    ///
    /// # Errors
    /// A field is empty, too long, holds a control character, or has not its own form.
    pub fn text(&self) -> Result<String, FieldError> {
        if !is_id(self.client) {
            return Err(FieldError { field: "client", why: "is not an id (1 to 64 of A-Z a-z 0-9 . _ : -)" });
        }
        for (field, nonce) in [("challenge.nonce", self.server_nonce), ("nonce", self.client_nonce)] {
            if Nonce::parse(nonce).is_none() {
                return Err(FieldError { field, why: "is not 32 bytes in unpadded base64url" });
            }
        }
        // `-` stands for no role, so no role may be called that.
        if self.role == Some("-") {
            return Err(FieldError { field: "role", why: "is `-`, which stands for none" });
        }
        let fields = [
            ("relay.did", self.relay),
            ("authority", self.authority),
            ("challenge.nonce", self.server_nonce),
            ("nonce", self.client_nonce),
            ("client", self.client),
            ("device.name", self.device),
            ("role", self.role.unwrap_or("-")),
            ("key", self.fingerprint),
            ("binding", self.binding),
        ];
        let mut text = String::with_capacity(512);
        text.push_str(TRANSCRIPT_HEAD);
        text.push('\n');
        for (field, value) in fields {
            push_line(&mut text, field, value)?;
        }
        Ok(text)
    }
}

/// What the relay's proof is made over: the transcript, then the principal and the granted role.
///
/// # Errors
/// The principal or the role cannot stand in a line.
pub fn proof_text(transcript: &str, principal: &str, role: &str) -> Result<String, FieldError> {
    let mut text = String::with_capacity(transcript.len() + 96);
    text.push_str(transcript);
    push_line(&mut text, "principal", principal)?;
    push_line(&mut text, "role", role)?;
    Ok(text)
}

fn push_line(text: &mut String, field: &'static str, value: &str) -> Result<(), FieldError> {
    if value.is_empty() {
        return Err(FieldError { field, why: "is empty" });
    }
    if value.len() > FIELD_BYTES_MAX {
        return Err(FieldError { field, why: "is longer than 512 bytes" });
    }
    if value.chars().any(char::is_control) {
        return Err(FieldError { field, why: "holds a control character" });
    }
    text.push_str(value);
    text.push('\n');
    Ok(())
}

/// Whether this is an id: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`.
pub fn is_id(text: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

/// The fingerprint as `ssh-keygen -l` prints it: `SHA256:...`. It names the principal.
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Transcript<'static> {
        Transcript {
            relay: "did:key:z6Mk",
            authority: "127.0.0.1:5711",
            server_nonce: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            client_nonce: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
            client: "c1",
            device: "laptop",
            role: None,
            fingerprint: "SHA256:x",
            binding: BINDING_NONE,
        }
    }

    #[test]
    fn the_lines_stand_in_the_documented_order() {
        assert_eq!(
            sample().text().unwrap(),
            "amp-relay sign-in 1\ndid:key:z6Mk\n127.0.0.1:5711\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n\
             AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\nc1\nlaptop\n-\nSHA256:x\nnone\n"
        );
        assert_eq!(proof_text("a\n", "SHA256:x", "watch").unwrap(), "a\nSHA256:x\nwatch\n");
    }

    #[test]
    fn a_bad_field_is_named() {
        let named = |transcript: Transcript<'_>| transcript.text().unwrap_err().field;
        assert_eq!(named(Transcript { device: "a\nb", ..sample() }), "device.name");
        assert_eq!(named(Transcript { device: "", ..sample() }), "device.name");
        assert_eq!(named(Transcript { device: "a\u{85}b", ..sample() }), "device.name");
        assert_eq!(named(Transcript { role: Some("-"), ..sample() }), "role");
        assert_eq!(named(Transcript { client: "no blank", ..sample() }), "client");
        assert_eq!(named(Transcript { client_nonce: "AAAA", ..sample() }), "nonce");
        assert_eq!(named(Transcript { server_nonce: "=", ..sample() }), "challenge.nonce");
        let long = "x".repeat(FIELD_BYTES_MAX + 1);
        assert_eq!(named(Transcript { authority: &long, ..sample() }), "authority");
        assert_eq!(proof_text("", "a\r", "watch").unwrap_err().field, "principal");
    }

    proptest! {
        /// Two different sets of fields never give one text: no field can run into its neighbour.
        #[test]
        fn fields_cannot_be_shifted(a in "[ -~]{1,8}", b in "[ -~]{1,8}", c in "[ -~]{1,8}", d in "[ -~]{1,8}") {
            let one = Transcript { authority: &a, device: &b, ..sample() };
            let two = Transcript { authority: &c, device: &d, ..sample() };
            prop_assert_eq!(one.text().unwrap() == two.text().unwrap(), a == c && b == d);
        }

        #[test]
        fn nonces_come_back(bytes: [u8; 32]) {
            let nonce = Nonce::from_bytes(bytes);
            prop_assert_eq!(Nonce::parse(&nonce.to_string()), Some(nonce));
        }

        #[test]
        fn any_field_gives_a_text_or_an_error(device in ".*", authority in ".*") {
            if let Ok(text) = (Transcript { authority: &authority, device: &device, ..sample() }).text() {
                prop_assert_eq!(text.lines().count(), 10);
            }
        }
    }
}
