//! The messages of signing in as JSON. Unknown fields are ignored on both sides.

use serde::{Deserialize, Serialize};

use super::{DEVICE_KIND_BYTES_MAX, DEVICE_NAME_BYTES_MAX, FieldError};
use crate::base::{glyph::is_hidden, text};

/// `challenge`: the first message of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "challenge")]
pub struct Challenge {
    /// Version of the protocol.
    pub version: u32,
    /// The relay that speaks.
    pub relay: RelayInfo,
    /// The relay's nonce.
    pub nonce: String,
    /// Unix milliseconds after which no answer is taken.
    pub expires_at: u64,
    /// The bindings on offer.
    pub bindings: Vec<String>,
}

/// A relay as it names itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayInfo {
    /// Its DID.
    pub did: String,
    /// Its host key, an OpenSSH public key line.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// Version of the program.
    pub version: String,
}

/// `sign_in`: the client's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "sign_in")]
pub struct SignIn {
    /// Correlates the answer.
    pub id: String,
    /// The installation's id.
    pub client: String,
    /// The key that signs, an OpenSSH public key line.
    pub key: String,
    /// The client's nonce.
    pub nonce: String,
    /// The authority the client dialled.
    pub authority: String,
    /// `none` or the exporter value.
    pub binding: String,
    /// A role less than the key has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The device.
    pub device: Device,
    /// Armored SSHSIG over the transcript.
    pub signature: String,
}

/// A device as it names itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// For people.
    pub name: String,
    /// Free text: `terminal`, `browser`, ...
    pub kind: String,
}

impl Device {
    /// Whether these are texts that others can be shown: within their bounds and each of one line.
    ///
    /// # Errors
    /// The first text that is not.
    pub fn check(&self) -> Result<(), FieldError> {
        let fields = [
            ("device.name", &self.name, DEVICE_NAME_BYTES_MAX, "is longer than 256 bytes"),
            ("device.kind", &self.kind, DEVICE_KIND_BYTES_MAX, "is longer than 64 bytes"),
        ];
        for (field, text, bytes_max, why) in fields {
            if text.len() > bytes_max {
                return Err(FieldError { field, why });
            }
            if text::unfit_for_a_line(text).is_some() {
                return Err(FieldError { field, why: "holds a character that has no place in a line" });
            }
        }
        // A name of blanks alone cannot be told from none where it is shown.
        if self.name.chars().all(|c| c == ' ' || is_hidden(c)) {
            return Err(FieldError { field: "device.name", why: "is empty" });
        }
        Ok(())
    }
}

/// `welcome`: the sign-in went well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "welcome")]
pub struct Welcome {
    /// The id of the `sign_in`.
    pub re: String,
    /// The principal.
    pub principal: String,
    /// Fingerprint of the key.
    pub fingerprint: String,
    /// The role granted.
    pub role: String,
    /// The id of this connection as a device, by which lists of devices name it.
    #[serde(default)]
    pub device: String,
    /// The relay's SSHSIG over transcript, principal and role.
    pub proof: String,
    /// The relay's clock, Unix milliseconds.
    pub now: u64,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// What may be started.
    #[serde(default)]
    pub profiles: Vec<ProfileInfo>,
    /// Names of optional parts.
    #[serde(default)]
    pub features: Vec<String>,
}

/// The limits a client has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Largest message in bytes.
    pub message_bytes: u64,
    /// Largest blob in bytes; 0 where none are taken.
    pub blob_bytes: u64,
    /// A message comes at least this often.
    pub tick_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 1 << 20, blob_bytes: 0, tick_ms: 25_000 }
    }
}

/// A profile as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileInfo {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub about: String,
    /// Where sessions may run.
    #[serde(default)]
    pub folders: Vec<String>,
    /// Permission modes on offer.
    #[serde(default)]
    pub modes: Vec<String>,
    /// What answers: `claude-code`, or `demo`.
    #[serde(default)]
    pub agent: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_name_and_a_kind_that_others_can_be_shown() {
        let named = |name: &str, kind: &str| {
            let device = Device { name: name.into(), kind: kind.into() };
            device.check().map_err(|error| error.field)
        };
        assert_eq!(named(&"ü".repeat(128), &"k".repeat(64)), Ok(()));
        assert_eq!(named("laptop", ""), Ok(()));
        assert_eq!(named(&"n".repeat(257), "k"), Err("device.name"));
        assert_eq!(named("n", &"k".repeat(65)), Err("device.kind"));
        for blank in ["", " ", "   ", "\u{a0}", " \u{3000}", "\u{2800}"] {
            assert_eq!(named(blank, "k"), Err("device.name"), "{blank:?}");
        }
        assert_eq!(named(" a ", " "), Ok(()));
        for bad in ["a\nb", "\u{1b}[2J", "\u{202e}", "\u{2028}"] {
            assert_eq!((named(bad, "k"), named("n", bad)), (Err("device.name"), Err("device.kind")), "{bad:?}");
        }
    }

    #[test]
    fn messages_carry_their_type_and_ignore_what_they_do_not_know() {
        let text = r#"{"type":"sign_in","id":"1","client":"c","key":"k","nonce":"n","authority":"unix","binding":"none",
            "device":{"name":"a","kind":"b","more":1},"signature":"s","later":true}"#;
        let message: SignIn = serde_json::from_str(text).unwrap();
        assert_eq!(message.role, None);
        assert!(serde_json::to_string(&message).unwrap().starts_with(r#"{"type":"sign_in","id":"1""#));
        assert!(serde_json::from_str::<Challenge>(text).is_err());
    }
}
