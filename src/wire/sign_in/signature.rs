//! SSHSIG (OpenSSH's PROTOCOL.sshsig) made and checked. The crate that does the arithmetic does not look at hash names,
//! key sizes, SHA-1 or user presence; this module does.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig, public::KeyData};

use super::SIGN_IN_NAMESPACE;

/// Longest armored signature that is looked at, in bytes. RSA with 4096 bits takes about 1,700.
const ARMOR_BYTES_MAX: usize = 8192;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
/// Column at which OpenSSH breaks its armor; the reader below insists on it.
const ARMOR_COLUMNS: usize = 70;
const RSA_BITS_MIN: usize = 2048;
/// What the verifying crate takes at most; it also bounds the cost of one attempt.
const RSA_BITS_MAX: usize = 4096;
/// Flag "user present" of a security key's signature (PROTOCOL.u2f).
const SK_USER_PRESENT: u8 = 1;
/// Flags and counter behind a security key's signature.
const SK_TRAILER_BYTES: usize = 5;

/// OpenSSH takes armor with and without padding, so do we.
const ARMOR: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No SSHSIG, or one with a hash other than sha256 and sha512.
    #[error("the signature is not an armored SSHSIG with sha256 or sha512")]
    Malformed,
    /// It names another key than the presented one.
    #[error("the signature was made by another key")]
    OtherKey,
    /// It was made for another purpose.
    #[error("the signature has another namespace")]
    Namespace,
    /// A key or signature algorithm that is not taken.
    #[error("this key cannot sign in: {0}")]
    Key(&'static str),
    /// A security key signed without being touched.
    #[error("the security key did not see its user: sign with touch required")]
    NoUserPresence,
    /// The arithmetic says no: other bytes were signed.
    #[error("the signature does not match")]
    Mismatch,
}

/// Why a signature could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// RSA key files.
    #[error(
        "RSA key files cannot sign here: load the key into ssh-agent (`ssh-add FILE`), or use an Ed25519 key \
         (`ssh-keygen -t ed25519`)"
    )]
    Rsa,
    /// Security keys need their agent.
    #[error("security keys sign through ssh-agent only: `ssh-add FILE`")]
    SecurityKey,
    /// The key file is still locked.
    #[error("the key file is encrypted")]
    Encrypted,
    /// Anything else.
    #[error("cannot sign: {0}")]
    Other(#[from] ssh_key::Error),
}

/// Whether a key of this type and size may sign in at all.
///
/// # Errors
/// What speaks against it, in words.
pub fn usable(key: &PublicKey) -> Result<(), &'static str> {
    match key.key_data() {
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => Ok(()),
        KeyData::Rsa(rsa) => {
            let modulus = rsa.n.as_positive_bytes().unwrap_or_default();
            let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
            match bits {
                ..RSA_BITS_MIN => Err("RSA keys need at least 2048 bits"),
                RSA_BITS_MIN..=RSA_BITS_MAX => Ok(()),
                _ => Err("RSA keys above 4096 bits are not supported"),
            }
        }
        KeyData::Dsa(_) => Err("DSA keys are not supported"),
        _ => Err("this key type is not supported"),
    }
}

/// Checks a client's signature over its transcript, namespace [`SIGN_IN_NAMESPACE`]. Costs up to 2 ms of CPU.
///
/// # Errors
/// The signature is not that key's signature over that transcript.
pub fn verify(key: &PublicKey, transcript: &str, armored: &str) -> Result<(), VerifyError> {
    verify_in(SIGN_IN_NAMESPACE, key, transcript, armored)
}

/// The same in any namespace.
///
/// # Errors
/// The signature is not that key's signature over that text in that namespace.
pub fn verify_in(namespace: &str, key: &PublicKey, text: &str, armored: &str) -> Result<(), VerifyError> {
    usable(key).map_err(VerifyError::Key)?;
    let bytes = dearmor(armored)?;
    let parts = Parts::of(&bytes).ok_or(VerifyError::Malformed)?;
    let blob = key.to_bytes().map_err(|_| VerifyError::Malformed)?;
    if parts.key != blob {
        return Err(VerifyError::OtherKey);
    }
    let signature = SshSig::from_pem(armor(&bytes)).map_err(|_| VerifyError::Malformed)?;
    if signature.version() != SshSig::VERSION || !matches!(signature.hash_alg(), HashAlg::Sha256 | HashAlg::Sha512) {
        return Err(VerifyError::Malformed);
    }
    if signature.public_key() != key.key_data() {
        return Err(VerifyError::OtherKey);
    }
    if signature.namespace() != namespace {
        return Err(VerifyError::Namespace);
    }
    check_algorithm(&signature)?;
    key.verify(namespace, text.as_bytes(), &signature).map_err(|_| VerifyError::Mismatch)
}

/// No SHA-1 under an RSA signature, and a finger on the security key.
fn check_algorithm(signature: &SshSig) -> Result<(), VerifyError> {
    match (signature.public_key(), signature.algorithm()) {
        (KeyData::Rsa(_), Algorithm::Rsa { hash: Some(HashAlg::Sha256 | HashAlg::Sha512) }) => Ok(()),
        (KeyData::Rsa(_), _) => Err(VerifyError::Key("RSA signatures need rsa-sha2-256 or rsa-sha2-512")),
        (KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_), _) => {
            let bytes = signature.signature_bytes();
            let flags = bytes.len().checked_sub(SK_TRAILER_BYTES).and_then(|at| bytes.get(at));
            match flags {
                Some(flags) if flags & SK_USER_PRESENT != 0 => Ok(()),
                Some(_) => Err(VerifyError::NoUserPresence),
                None => Err(VerifyError::Malformed),
            }
        }
        (key, algorithm) if key.algorithm() == algorithm => Ok(()),
        _ => Err(VerifyError::Malformed),
    }
}

/// The outer fields of an SSHSIG. Looked at before the crate does, which takes some keys with a wrong inner length:
/// one key and one text should have one form.
struct Parts<'a> {
    key: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"SSHSIG\x00\x00\x00\x01")?;
        let key = field(&mut rest)?;
        let _namespace = field(&mut rest)?;
        let reserved = field(&mut rest)?;
        let _hash = field(&mut rest)?;
        let _signature = field(&mut rest)?;
        (reserved.is_empty() && rest.is_empty()).then_some(Self { key })
    }
}

/// Takes one field with its length in front.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, more) = rest.split_first_chunk::<4>()?;
    let (value, more) = more.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *rest = more;
    Some(value)
}

/// The bytes in the armor. Other programs break lines elsewhere, or with CRLF.
fn dearmor(armored: &str) -> Result<Vec<u8>, VerifyError> {
    if armored.len() > ARMOR_BYTES_MAX {
        return Err(VerifyError::Malformed);
    }
    let inner = armored.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
    let digits: String = inner.ok_or(VerifyError::Malformed)?.split_ascii_whitespace().collect();
    ARMOR.decode(digits).map_err(|_| VerifyError::Malformed)
}

fn armor(bytes: &[u8]) -> String {
    let digits = STANDARD.encode(bytes);
    let mut text = String::with_capacity(digits.len() + digits.len() / ARMOR_COLUMNS + 64);
    text.push_str(BEGIN);
    text.push('\n');
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(ARMOR_COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// Signs with a key at hand; sha512, as `ssh-keygen -Y sign` does.
///
/// # Errors
/// The key is of a kind that cannot sign here.
pub fn sign(key: &PrivateKey, namespace: &str, text: &str) -> Result<String, SignError> {
    if key.is_encrypted() {
        return Err(SignError::Encrypted);
    }
    match key.algorithm() {
        Algorithm::Rsa { .. } => return Err(SignError::Rsa),
        Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256 => return Err(SignError::SecurityKey),
        _ => {}
    }
    Ok(key.sign(namespace, HashAlg::Sha512, text.as_bytes())?.to_pem(LineEnding::LF)?)
}

/// What a signer that is not at hand (ssh-agent) has to sign; [`assemble`] makes an SSHSIG of its answer.
///
/// # Errors
/// The namespace is empty.
pub fn signed_data(namespace: &str, text: &str) -> Result<Vec<u8>, ssh_key::Error> {
    SshSig::signed_data(namespace, HashAlg::Sha512, text.as_bytes())
}

/// Puts an armored SSHSIG together from the blobs as they stand on the agent's wire. It is built by hand because the
/// crate cannot write signatures of ECDSA security keys.
pub fn assemble(key_blob: &[u8], namespace: &str, signature_blob: &[u8]) -> String {
    let mut bytes = b"SSHSIG\x00\x00\x00\x01".to_vec();
    for field in [key_blob, namespace.as_bytes(), b"", b"sha512", signature_blob] {
        // Every one of them came in a message of bounded length; a cut length would only make a bad signature.
        bytes.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    armor(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ssh_key::private::{Ed25519Keypair, KeypairData};

    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])), "test").unwrap()
    }

    #[test]
    fn a_signature_holds_for_its_key_text_and_namespace_only() {
        let signature = sign(&key(1), SIGN_IN_NAMESPACE, "text").unwrap();
        let public = key(1).public_key().clone();
        assert_eq!(verify(&public, "text", &signature), Ok(()));
        assert_eq!(verify(&public, "text ", &signature), Err(VerifyError::Mismatch));
        assert_eq!(verify(key(2).public_key(), "text", &signature), Err(VerifyError::OtherKey));
        assert_eq!(verify_in("welcome@amp-relay", &public, "text", &signature), Err(VerifyError::Namespace));
    }

    #[test]
    fn armor_of_other_shapes_is_read() {
        let signature = sign(&key(1), SIGN_IN_NAMESPACE, "text").unwrap();
        let public = key(1).public_key().clone();
        let one_line =
            signature.replace('\n', "").replace(BEGIN, &format!("{BEGIN}\n")).replace(END, &format!("\n{END}"));
        for shape in [
            signature.replace('\n', "\r\n"),
            one_line,
            format!("\n{}", signature.trim_end()),
            signature.replace('=', ""),
        ] {
            assert_eq!(verify(&public, "text", &shape), Ok(()), "{shape}");
        }
        let long = format!("{BEGIN}\n{}\n{END}", "A".repeat(ARMOR_BYTES_MAX));
        for bad in ["", BEGIN, END, &long, &signature.replace("SSH", "PGP"), &format!("{signature}x")] {
            assert_eq!(verify(&public, "text", bad), Err(VerifyError::Malformed));
        }
    }

    #[test]
    fn what_an_agent_signs_is_the_same_signature() {
        use ed25519_dalek::Signer as _;
        let key = key(3);
        let data = signed_data(SIGN_IN_NAMESPACE, "text").unwrap();
        // The blob that an agent would give: algorithm and signature, each with its length in front.
        let mut raw = Vec::new();
        for field in
            [b"ssh-ed25519".as_slice(), &ed25519_dalek::SigningKey::from_bytes(&[3; 32]).sign(&data).to_bytes()]
        {
            raw.extend_from_slice(&(field.len() as u32).to_be_bytes());
            raw.extend_from_slice(field);
        }
        let armored = assemble(&key.public_key().to_bytes().unwrap(), SIGN_IN_NAMESPACE, &raw);
        assert_eq!(armored, sign(&key, SIGN_IN_NAMESPACE, "text").unwrap());
    }

    proptest! {
        #[test]
        fn any_armor_is_answered(text in "\\PC{0,200}", body in "[A-Za-z0-9+/=\n]{0,400}") {
            let public = key(1).public_key().clone();
            prop_assert!(verify(&public, "text", &text).is_err());
            let armored = format!("{BEGIN}\n{body}\n{END}\n");
            prop_assert!(verify(&public, "text", &armored).is_err());
        }

        /// No changed byte of a signature is taken.
        #[test]
        fn a_changed_signature_is_refused(at in 0usize..1000, with in 1u8..=255) {
            let armored = sign(&key(1), SIGN_IN_NAMESPACE, "text").unwrap();
            let digits: String = armored.lines().filter(|line| !line.starts_with('-')).collect();
            let mut bytes = STANDARD.decode(digits).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= with;
            prop_assert!(verify(key(1).public_key(), "text", &armor(&bytes)).is_err());
        }
    }
}
