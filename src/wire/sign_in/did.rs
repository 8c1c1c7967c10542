//! The DID of an Ed25519 key: `did:key:z` and the base58btc form of the bytes `ed 01` and the key (did:key method,
//! multicodec `ed25519-pub`).

use ssh_key::{PublicKey, public::Ed25519PublicKey};

const PREFIX: &str = "did:key:z";
const CODEC: [u8; 2] = [0xed, 0x01];
/// 34 bytes are at most 47 base58 digits; a longer text is not decoded.
const DIGITS_MAX: usize = 48;

/// The DID of a key; `None` unless it is a plain Ed25519 key.
pub fn did_of(key: &PublicKey) -> Option<String> {
    let key = key.key_data().ed25519()?;
    let mut bytes = [0; 34];
    bytes[..2].copy_from_slice(&CODEC);
    bytes[2..].copy_from_slice(&key.0);
    Some(format!("{PREFIX}{}", bs58::encode(bytes).into_string()))
}

/// The key of a DID; `None` unless it is the DID of an Ed25519 key.
pub fn key_of_did(did: &str) -> Option<PublicKey> {
    let digits = did.strip_prefix(PREFIX).filter(|digits| digits.len() <= DIGITS_MAX)?;
    let bytes = bs58::decode(digits).into_vec().ok()?;
    let key: [u8; 32] = bytes.strip_prefix(&CODEC)?.try_into().ok()?;
    Some(PublicKey::from(Ed25519PublicKey(key)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_known_did_is_read() {
        // The first example of the did:key method's Ed25519 test vectors.
        let did = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
        let key = key_of_did(did).unwrap();
        assert_eq!(did_of(&key).as_deref(), Some(did));
        assert_eq!(key_of_did("did:key:z6Mki"), None);
        assert_eq!(key_of_did(&did.replace("z6", "z7")), None);
        assert_eq!(key_of_did(&format!("{PREFIX}{}", "1".repeat(10_000))), None);
    }

    proptest! {
        #[test]
        fn keys_come_back(bytes: [u8; 32]) {
            let key = PublicKey::from(Ed25519PublicKey(bytes));
            let did = did_of(&key).unwrap();
            prop_assert_eq!(key_of_did(&did), Some(key));
        }

        #[test]
        fn any_text_is_a_key_or_none(text in "(did:key:z)?[a-zA-Z0-9]{0,60}") {
            if let Some(key) = key_of_did(&text) {
                prop_assert_eq!(did_of(&key), Some(text));
            }
        }
    }
}
