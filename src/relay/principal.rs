//! Principals: what proved keys stand for.

use super::{Role, api::Text};

/// An agent, by the key behind its connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// Its DID.
    pub did: Text,
    /// `SHA256:...`.
    pub fingerprint: Text,
    /// What it may do.
    pub role: Role,
}

/// A sign-in that was admitted.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// `SHA256:...` of the key.
    pub principal: Text,
    /// The key's comment in the keys file.
    pub comment: Text,
    /// The granted role.
    pub role: Role,
    /// The relay's SSHSIG over the transcript.
    pub proof: String,
}
