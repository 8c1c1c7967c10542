//! Private keys as files hold them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ssh_key::{
    Error, PrivateKey,
    private::{Ed25519Keypair, KeypairData},
};

use crate::base::text;

/// Largest file that is read as a key, in bytes.
pub const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const PKCS8_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PKCS8_END: &str = "-----END PRIVATE KEY-----";
const SEALED_BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const SEALED_END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
/// An Ed25519 key in PKCS #8 form takes 48 bytes, which ciphers in blocks fill up to this; keys of other types take more.
const SEALED_ED25519_BYTES_MAX: usize = 64;
/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 form (RFC 8410 section 7).
const ED25519_INFO: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The types of keys that ssh-add takes, as object identifiers in DER: RSA, Ed25519, and elliptic curves ...
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// ... which are P-256, P-384 and P-521.
const CURVES: [&[u8]; 3] = [
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
    &[0x2b, 0x81, 0x04, 0x00, 0x22],
    &[0x2b, 0x81, 0x04, 0x00, 0x23],
];
/// The rows that ssh-keygen writes, and the only ones that the reader takes.
const ROW_BYTES: usize = 70;

/// Why a file's bytes are no key that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// There is something else.
    #[error("it holds no private key: one begins with -----BEGIN OPENSSH PRIVATE KEY-----")]
    Other,
    /// A private key in PuTTY's format.
    #[error("it is a key of PuTTY: puttygen exports it as an OpenSSH key")]
    Putty,
    /// A key that cannot be used here and in ssh-agent can: in another format, or of another type.
    #[error("only ssh-agent can use a private key of its kind")]
    Foreign,
    /// A key that `ssh-add` refuses as well, by its type.
    #[error(
        "it is a key of a type that neither this nor ssh-add can use: `ssh-keygen -t ed25519` makes one that can be"
    )]
    Useless,
    /// An encrypted Ed25519 key in PKCS #8 form, which `ssh-add` before OpenSSH 9.6 does not read either.
    #[error("it is encrypted in a form of openssl's that is not read here, and not by every ssh-add")]
    Sealed,
    /// It begins as an OpenSSH private key.
    #[error("it is a broken private key ({0})")]
    Broken(Error),
}

/// The private key of a file's bytes: in OpenSSH's format, where it may be encrypted, or an Ed25519 key as
/// `openssl genpkey` writes it, which not every `ssh-keygen` and `ssh-add` reads. A byte order mark and the encoding that
/// goes with it are no hindrance, as they are none for public keys; nor are rows of another width, with blanks at their
/// ends, as other programs than ssh-keygen write them and ssh-keygen reads them.
///
/// # Errors
/// There is none that can be used.
pub fn private_key(bytes: &[u8]) -> Result<PrivateKey, NoKey> {
    let text = text::of_file(bytes);
    let text = text.trim();
    if let Some(key) = ed25519_of_pkcs8(text) {
        return Ok(key);
    }
    PrivateKey::from_openssh(in_usual_rows(text).as_deref().unwrap_or(text)).map_err(|error| match error {
        _ if text.is_empty() => NoKey::Empty,
        _ if text.starts_with("PuTTY-User-Key-File-") => NoKey::Putty,
        _ if !text.starts_with("-----BEGIN ") || !text.contains("PRIVATE KEY-----") => NoKey::Other,
        _ if is_sealed_ed25519(text) => NoKey::Sealed,
        _ if is_useless(text) => NoKey::Useless,
        _ if !text.starts_with("-----BEGIN OPENSSH ") => NoKey::Foreign,
        Error::AlgorithmUnknown | Error::AlgorithmUnsupported { .. } => NoKey::Foreign,
        error => NoKey::Broken(error),
    })
}

/// The base64 of a text that begins and ends with these rows, without its line ends and blanks.
fn base64_of(text: &str, begin: &str, end: &str) -> Option<String> {
    Some(text.strip_prefix(begin)?.strip_suffix(end)?.split_ascii_whitespace().collect())
}

/// An Ed25519 key in PKCS #8 form.
fn ed25519_of_pkcs8(text: &str) -> Option<PrivateKey> {
    let der = STANDARD.decode(base64_of(text, PKCS8_BEGIN, PKCS8_END)?).ok()?;
    let seed = der.strip_prefix(&ED25519_INFO)?.try_into().ok()?;
    PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(seed)), "").ok()
}

/// Whether this is an encrypted key in PKCS #8 form (RFC 5958 section 3) that by its size is Ed25519: its type is
/// encrypted too.
fn is_sealed_ed25519(text: &str) -> bool {
    let sealed = || {
        let der = STANDARD.decode(base64_of(text, SEALED_BEGIN, SEALED_END)?).ok()?;
        let (info, _) = der_value(&der, 0x30)?;
        let (_, rest) = der_value(info, 0x30)?;
        der_value(rest, 0x04).map(|(sealed, _)| sealed.len())
    };
    sealed().is_some_and(|bytes| bytes <= SEALED_ED25519_BYTES_MAX)
}

/// Whether the type of a key, as far as it is not encrypted, is one that `ssh-add` refuses, as secp256k1 and X25519 are.
fn is_useless(text: &str) -> bool {
    let of_pkcs8 = || {
        let der = between(text, PKCS8_BEGIN, PKCS8_END)?;
        let (info, _) = der_value(&der, 0x30)?;
        let (_, rest) = der_value(info, 0x02)?;
        let (kind, _) = der_value(rest, 0x30)?;
        let (kind, rest) = der_value(kind, 0x06)?;
        let curve = || der_value(rest, 0x06).is_some_and(|(curve, _)| !CURVES.contains(&curve));
        Some(if kind == EC { curve() } else { kind != RSA && kind != ED25519 })
    };
    let of_sec1 = || {
        let der = between(text, "-----BEGIN EC PRIVATE KEY-----", "-----END EC PRIVATE KEY-----")?;
        let (key, _) = der_value(&der, 0x30)?;
        let (_, rest) = der_value(key, 0x02)?;
        let (_, rest) = der_value(rest, 0x04)?;
        let (curve, _) = der_value(der_value(rest, 0xa0)?.0, 0x06)?;
        Some(!CURVES.contains(&curve))
    };
    of_pkcs8().or_else(of_sec1).unwrap_or(false)
}

/// The bytes between two rows, whatever stands around them: curve parameters, for one.
fn between(text: &str, begin: &str, end: &str) -> Option<Vec<u8>> {
    let (base64, _) = text.split_once(begin)?.1.split_once(end)?;
    STANDARD.decode(base64.split_ascii_whitespace().collect::<String>()).ok()
}

/// The content of the DER value with this tag that the bytes begin with, and what follows it.
fn der_value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.strip_prefix(&[tag])?.split_first()?;
    let (len_bytes, rest) =
        if len < 0x80 { (&[len][..], rest) } else { rest.split_at_checked(usize::from(len & 0x7f))? };
    if len_bytes.len() > size_of::<u32>() {
        return None;
    }
    let len = len_bytes.iter().fold(0, |len: usize, &byte| len << 8 | usize::from(byte));
    rest.split_at_checked(len)
}

/// The same key in rows as ssh-keygen writes them; none where the text does not begin and end as one.
fn in_usual_rows(text: &str) -> Option<String> {
    let base64 = base64_of(text, BEGIN, END)?;
    let mut rows = format!("{BEGIN}\n");
    for row in base64.as_bytes().chunks(ROW_BYTES) {
        rows.push_str(std::str::from_utf8(row).ok()?);
        rows.push('\n');
    }
    rows.push_str(END);
    Some(rows)
}

#[cfg(test)]
mod tests {
    use ssh_key::LineEnding;

    use super::*;

    /// A value in DER.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = (content.len() as u16).to_be_bytes();
        let head = if content.len() < 0x80 { vec![tag, len[1]] } else { vec![tag, 0x82, len[0], len[1]] };
        [&head, content].concat()
    }

    /// RFC 8410 section 10.3: the key, and in 10.1 its public one.
    #[test]
    fn an_ed25519_key_is_read_as_openssl_writes_it() {
        let base64 = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        let public = STANDARD.decode("Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=").unwrap();
        for ending in ["\n", "\r\n"] {
            let key =
                private_key(format!("{PKCS8_BEGIN}{ending}{base64}{ending}{PKCS8_END}{ending}").as_bytes()).unwrap();
            assert_eq!(key.public_key().key_data().ed25519().unwrap().0, public[..], "{ending:?}");
        }
        for other in ["MC4CAQAwBQYDK2VwBCIEIA==", "AAAA", "?"] {
            let text = format!("{PKCS8_BEGIN}\n{other}\n{PKCS8_END}\n");
            assert_eq!(private_key(text.as_bytes()), Err(NoKey::Foreign), "{other}");
        }
    }

    #[test]
    fn a_key_is_read_as_other_systems_write_it_or_called_what_it_is() {
        let key = PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[7; 32])), "c").unwrap();
        let [unix, dos] = [LineEnding::LF, LineEnding::CRLF].map(|ending| key.to_openssh(ending).unwrap());
        let marked = [b"\xEF\xBB\xBF", dos.as_bytes()].concat();
        let utf16: Vec<u8> = [0xFF, 0xFE].into_iter().chain(dos.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        for bytes in [unix.as_bytes(), dos.as_bytes(), &marked, &utf16] {
            assert_eq!(private_key(bytes).unwrap(), key, "{bytes:?}");
        }
        // 64 as Python's `cryptography` writes them.
        for width in [1, 64, 69, 71, 76, 1000] {
            let base64: String = unix.lines().filter(|line| !line.starts_with('-')).collect();
            let rows: Vec<&str> =
                base64.as_bytes().chunks(width).map(|row| std::str::from_utf8(row).unwrap()).collect();
            for ending in ["\n", "\r\n", " \t\n"] {
                let other = format!("{BEGIN}{ending}{}{ending}{END}{ending}", rows.join(ending));
                assert_eq!(private_key(other.as_bytes()).unwrap(), key, "{other:?}");
            }
        }
        // `openssl genpkey -algorithm X25519`, and `openssl ecparam -genkey -name secp256k1 -noout` cut to its curve.
        let x25519 = "MC4CAQAwBQYDK2VuBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        let sec1 = |curve: &[u8]| {
            let der = [
                &[
                    0x30,
                    0x09 + curve.len() as u8,
                    0x02,
                    0x01,
                    0x01,
                    0x04,
                    0x00,
                    0xa0,
                    0x02 + curve.len() as u8,
                    0x06,
                    curve.len() as u8,
                ],
                curve,
            ]
            .concat();
            format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", STANDARD.encode(der))
        };
        let read = |text: String| private_key(text.as_bytes()).unwrap_err();
        assert_eq!(read(format!("{PKCS8_BEGIN}\n{x25519}\n{PKCS8_END}\n")), NoKey::Useless);
        assert_eq!(read(sec1(&[0x2b, 0x81, 0x04, 0x00, 0x0a])), NoKey::Useless);
        assert_eq!(read(sec1(CURVES[0])), NoKey::Foreign);
        let pkcs8 = |kind: &[u8], parameters: &[u8], bytes: usize| {
            let kind = der(0x30, &[der(0x06, kind), parameters.to_vec()].concat());
            let info = [vec![0x02, 0x01, 0x00], kind, der(0x04, &vec![7; bytes])].concat();
            read(format!("{PKCS8_BEGIN}\n{}\n{PKCS8_END}\n", STANDARD.encode(der(0x30, &info))))
        };
        for curve in CURVES {
            assert_eq!(pkcs8(EC, &der(0x06, curve), 40), NoKey::Foreign, "{curve:x?}");
        }
        assert_eq!(pkcs8(EC, &der(0x06, &[0x2b, 0x81, 0x04, 0x00, 0x0a]), 40), NoKey::Useless, "secp256k1");
        // One of 2048 bits, whose lengths take several bytes.
        assert_eq!(pkcs8(RSA, &[0x05, 0x00], 1190), NoKey::Foreign);
        assert_eq!(pkcs8(ED25519, &[], 40), NoKey::Foreign);
        let cut = unix.lines().take(2).collect::<String>();
        let rsa = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n";
        for (text, why) in [
            ("", "empty"),
            ("\u{feff}\r\n", "empty"),
            ("junk", "no private key"),
            ("-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----\n", "no private key"),
            (&format!("mine: {rsa}"), "no private key"),
            ("PuTTY-User-Key-File-3: ssh-ed25519", "puttygen"),
            (rsa, "ssh-agent"),
        ] {
            let said = private_key(text.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(why) && !said.contains("NUL"), "{text:?}: {said}");
        }
        assert!(matches!(private_key(cut.as_bytes()), Err(NoKey::Broken(_))));
    }
}
