//! What is signed (RFC 001 section 8.1), and Ed25519 over it (RFC 8032, pure).

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::wire::{cbor, sign_in::key_of_did};

use super::{Code, EnvelopeView, Header, SIG_BYTES, did_base};

/// Array of 4, the text `AMP-v1`, an empty byte string.
const PREFIX: &[u8] = b"\x84\x66AMP-v1\x40";
/// Header fields that are always there.
const HEADERS: usize = 6;

/// Appends what is signed. `body` is the *deterministic* form of the body's item; of an encrypted message it is the
/// plain text as it was before it was encrypted.
pub fn sig_input(header: &Header<'_>, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(PREFIX);
    cbor::map(out, HEADERS + usize::from(header.reply_to.is_some()) + usize::from(header.thread_id.is_some()));
    out.extend_from_slice(b"\x62id");
    cbor::bytes(out, &header.id.0);
    out.extend_from_slice(b"\x62to");
    header.to.write(out);
    out.extend_from_slice(b"\x62ts");
    cbor::uint(out, header.ts);
    out.extend_from_slice(b"\x63ttl");
    cbor::uint(out, header.ttl);
    out.extend_from_slice(b"\x63typ");
    cbor::uint(out, header.typ.0);
    out.extend_from_slice(b"\x64from");
    cbor::text(out, header.from);
    if let Some(reply_to) = header.reply_to {
        out.extend_from_slice(b"\x68reply_to");
        cbor::bytes(out, reply_to);
    }
    if let Some(thread_id) = header.thread_id {
        out.extend_from_slice(b"\x69thread_id");
        cbor::bytes(out, thread_id);
    }
    cbor::bytes(out, body);
}

/// Signs a header and the deterministic form of a body. `scratch` is overwritten with what was signed.
pub fn sign(key: &SigningKey, header: &Header<'_>, body: &[u8], scratch: &mut Vec<u8>) -> [u8; SIG_BYTES] {
    scratch.clear();
    sig_input(header, body, scratch);
    key.sign(scratch).to_bytes()
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Only peers with integer keys leave it out.
    #[error("the message is not signed")]
    Unsigned,
    /// The body is not ours to read.
    #[error("the body is encrypted: only its recipient can check the signature")]
    Encrypted,
    /// The body has no deterministic form: a map in it has a key twice.
    #[error("the body has no deterministic form: {0}")]
    Body(cbor::Error),
    /// The arithmetic says no.
    #[error("the signature does not match")]
    Mismatch,
}

impl VerifyError {
    /// The code of the answer.
    pub fn code(self) -> Code {
        match self {
            Self::Body(_) => Code::INVALID_MESSAGE,
            _ => Code::INVALID_SIGNATURE,
        }
    }
}

/// Checks the signature of a message without an encrypted body. `scratch` is overwritten.
///
/// # Errors
/// The signature is missing or wrong, or there is nothing it could be checked against.
pub fn verify(view: &EnvelopeView<'_>, key: &VerifyingKey, scratch: &mut Vec<u8>) -> Result<(), VerifyError> {
    let body = view.body_or_null().ok_or(VerifyError::Encrypted)?;
    let body = cbor::deterministic(body).map_err(VerifyError::Body)?;
    verify_over(view, &body, key, scratch)
}

/// Checks the signature of a message over these bytes of its body: of an encrypted one, the plain text.
///
/// # Errors
/// The signature is missing or wrong.
pub fn verify_over(
    view: &EnvelopeView<'_>,
    body: &[u8],
    key: &VerifyingKey,
    scratch: &mut Vec<u8>,
) -> Result<(), VerifyError> {
    let sig = view.sig.ok_or(VerifyError::Unsigned)?;
    scratch.clear();
    sig_input(&view.header, body, scratch);
    // The strict form also refuses keys and signatures of small order, which would hold for more than one message.
    key.verify_strict(scratch, &Signature::from_bytes(sig)).map_err(|_| VerifyError::Mismatch)
}

/// The key of a `did:key` DID of an Ed25519 key. A fragment must name that key: `did:key:z..#z..`. `None` for every
/// other DID.
pub fn verifying_key(did: &str) -> Option<VerifyingKey> {
    let base = did_base(did);
    if let Some((_, fragment)) = did.split_once('#')
        && base.strip_prefix("did:key:") != Some(fragment)
    {
        return None;
    }
    let key = key_of_did(base)?;
    VerifyingKey::from_bytes(&key.key_data().ed25519()?.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sign_in::did_of;

    #[test]
    fn the_key_of_a_did_is_the_one_it_names() {
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        let public = ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey(key.to_bytes()));
        let did = did_of(&public).unwrap();
        let method = did.strip_prefix("did:key:").unwrap();
        assert_eq!(verifying_key(&did), Some(key));
        assert_eq!(verifying_key(&format!("{did}#{method}")), Some(key));
        assert_eq!(verifying_key(&format!("{did}#z6Mkother")), None);
        assert_eq!(verifying_key("did:web:example.com"), None);
        assert_eq!(verifying_key(""), None);
    }
}
