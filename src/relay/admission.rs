//! Checks sign-ins and HELLOs. The key is looked up before any arithmetic, so that an unlisted key costs nothing; then
//! comes the signature, then the requested role of a sign-in or the replay check of a HELLO. Owns the keys in force and
//! the memory of HELLOs; knows no connection and no thread, and reads no clock.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use ssh_key::{PrivateKey, PublicKey};

use super::{
    Principal, Role, SignedIn,
    api::{Code, Error, Text},
    keys::{Entry, KeySet},
    replays::{Replays, Untaken},
};
use crate::{
    base::{CloseCode, ConnToken, text::quoted},
    wire::{
        amp::{self, Id, KeyEncoding, check::Refusal},
        sign_in::{self, SignIn, Transcript},
    },
};

/// HELLOs that are remembered, which principals share; what finds no room is told to try again.
const HELLOS_MAX: usize = 262_144;

/// A HELLO that the crypto thread is to check and to answer.
#[derive(Clone, Debug)]
pub struct HelloJob {
    /// Its connection.
    pub peer: ConnToken,
    /// The message.
    pub frame: Vec<u8>,
    /// The DID it proves; `None` where it called us by an alias, which proves nothing.
    pub proves: Option<Text>,
    /// The recipient of the answer.
    pub from: Text,
    /// The version to answer HELLO_ACK with; `None`: HELLO_REJECT.
    pub selected: Option<String>,
    /// Its id.
    pub id: Id,
    /// Its thread.
    pub thread_id: Option<Vec<u8>>,
    /// It must not be checked before this time, Unix milliseconds.
    pub from_ms: u64,
    /// How its keys are written.
    pub key_encoding: KeyEncoding,
}

/// A HELLO that was judged, with our signed answer.
#[derive(Debug)]
pub struct Judged {
    /// The proved principal; `None` for a HELLO to an alias.
    pub principal: Option<Principal>,
    /// HELLO_ACK, HELLO_REJECT or ERROR.
    pub answer: Vec<u8>,
    /// Close behind the answer.
    pub close: Option<(CloseCode, &'static str)>,
}

/// A sign-in that the crypto thread is to check.
#[derive(Clone, Debug)]
pub struct SignInJob {
    /// Its connection.
    pub peer: ConnToken,
    /// What the client sent.
    pub sign_in: Box<SignIn>,
    /// The server nonce it had to sign.
    pub server_nonce: String,
    /// It came over the Unix socket.
    pub is_local: bool,
}

/// The judge.
pub struct Admission {
    host_key: PrivateKey,
    did: String,
    keys: Arc<KeySet>,
    hellos: Replays,
}

impl Admission {
    /// Admits no key until [`set_keys`](Self::set_keys). `did` is the relay's, which sign-ins name.
    pub fn new(host_key: PrivateKey, did: String) -> Self {
        Self { host_key, did, keys: Arc::default(), hellos: Replays::new(HELLOS_MAX) }
    }

    /// From now on these keys are in force.
    pub fn set_keys(&mut self, keys: Arc<KeySet>) {
        self.keys = keys;
    }

    /// The principal that a HELLO proves. `frame` is the whole message, `proves` the DID it is from, `id` its id.
    ///
    /// # Errors
    /// 3001 for a DID that is not listed, 1002 for a wrong signature, 1001 for a HELLO that came before, 5004 while too
    /// many are remembered, of this key or of all.
    pub fn hello(&mut self, proves: &Text, frame: &[u8], id: &Id, now_ms: u64) -> Result<Principal, Refusal> {
        let judged = catch_unwind(AssertUnwindSafe(|| self.prove(proves, frame, id, now_ms)));
        judged.unwrap_or_else(|_| Err(Refusal::new(amp::Code::INTERNAL_ERROR, "the check failed")))
    }

    fn prove(&mut self, did: &Text, frame: &[u8], id: &Id, now_ms: u64) -> Result<Principal, Refusal> {
        let unknown = Refusal::new(amp::Code::UNAUTHORIZED, "this DID is not in the relay's keys file");
        let public = sign_in::key_of_did(did).ok_or(unknown)?;
        let entry = self.keys.lookup(&public).ok_or(unknown)?;
        let principal = Principal { did: did.clone(), fingerprint: entry.fingerprint.clone(), role: entry.role };
        let unreadable = Refusal::new(amp::Code::INVALID_MESSAGE, "this HELLO cannot be read");
        let Ok(amp::Frame::Envelope(view)) = amp::parse(frame) else { return Err(unreadable) };
        let key = amp::verifying_key(view.header.from).ok_or(unknown)?;
        amp::verify(&view, &key, &mut Vec::new())
            .map_err(|error| Refusal::new(error.code(), "the HELLO's signature is wrong"))?;
        self.hellos.forget(now_ms);
        match self.hellos.remember(&principal.fingerprint, did, id, now_ms) {
            Ok(()) => Ok(principal),
            Err(Untaken::Before) => Err(Refusal::new(amp::Code::INVALID_MESSAGE, "this HELLO was said before")),
            Err(Untaken::NoRoom(full)) => Err(Refusal::new(amp::Code::OVERLOADED, overloaded(full.is_own()))),
        }
    }

    /// The principal that a sign-in proves, with the relay's own proof. `server_nonce` is what it had to sign.
    ///
    /// # Errors
    /// What the client is told.
    pub fn sign_in(&self, sign_in: &SignIn, server_nonce: &str) -> Result<SignedIn, Error> {
        // A key or a signature that makes the arithmetic panic costs only its sender: this sign-in fails.
        catch_unwind(AssertUnwindSafe(|| self.judge(sign_in, server_nonce))).unwrap_or_else(|_| {
            log::error!("checking a sign-in panicked; it is refused");
            Err(Error::new(Code::Internal, "the relay failed to check this sign-in"))
        })
    }

    fn judge(&self, sign_in: &SignIn, server_nonce: &str) -> Result<SignedIn, Error> {
        let bad = |message: String| Error::new(Code::BadRequest, message);
        let key = PublicKey::from_openssh(&sign_in.key)
            .map_err(|error| bad(format!("`key` is not an OpenSSH public key line: {error}")))?;
        let fingerprint = sign_in::fingerprint(&key);
        let transcript = Transcript {
            relay: &self.did,
            authority: &sign_in.authority,
            server_nonce,
            client_nonce: &sign_in.nonce,
            client: &sign_in.client,
            device: &sign_in.device.name,
            role: sign_in.role.as_deref(),
            fingerprint: &fingerprint,
            binding: &sign_in.binding,
        };
        let transcript = transcript.text().map_err(|error| bad(error.to_string()))?;
        let entry = self.listed(&key, &fingerprint)?;
        sign_in::verify(&key, &transcript, &sign_in.signature)
            .map_err(|error| Error::new(Code::AuthFailed, error.to_string()))?;
        let role = granted(entry.role, sign_in.role.as_deref())?;
        let proof = sign_in::proof_text(&transcript, &fingerprint, role.name())
            .map_err(|error| error.to_string())
            .and_then(|text| {
                sign_in::sign(&self.host_key, sign_in::WELCOME_NAMESPACE, &text).map_err(|error| error.to_string())
            })
            .map_err(|error| Error::new(Code::Internal, format!("the relay could not sign its proof: {error}")))?;
        Ok(SignedIn { principal: fingerprint.into(), comment: entry.comment.clone(), role, proof })
    }

    fn listed(&self, key: &PublicKey, fingerprint: &str) -> Result<&Entry, Error> {
        self.keys.lookup(key).ok_or_else(|| {
            let message = format!(
                "the key {fingerprint} is not in the relay's keys file; add it on the relay's host with `amp-relay keys add`"
            );
            Error::new(Code::KeyNotAuthorized, message)
        })
    }
}

/// Why there is no room to remember one more HELLO, and what to do. `is_own`: the key itself has taken it.
const fn overloaded(is_own: bool) -> &'static str {
    if is_own {
        "this key has said too many HELLOs in the last minutes, and the room that is left is kept for other keys: keep one connection, and try again in some minutes"
    } else {
        "too many agents have connected in the last minutes: try again in some minutes"
    }
}

/// The role of a connection: the key's, or a lesser role that the client asked for.
fn granted(has: Role, asked: Option<&str>) -> Result<Role, Error> {
    let Some(asked) = asked else { return Ok(has) };
    let Some(asked) = Role::from_name(asked) else {
        return Err(Error::new(Code::BadRequest, format!("`role` {} is not a role", quoted(asked))));
    };
    if has.allows(asked) {
        return Ok(asked);
    }
    Err(Error::new(Code::Forbidden, format!("this key has the role {has}, which does not include {asked}")))
}

#[cfg(test)]
mod tests {
    use ssh_key::{Algorithm, rand_core::OsRng};

    use super::*;
    use crate::wire::sign_in::{BINDING_NONE, Device, Nonce, did_of};

    fn key() -> PrivateKey {
        PrivateKey::random(&mut OsRng, Algorithm::Ed25519).expect("a key")
    }

    fn admission(listed: &[&PrivateKey]) -> Admission {
        let mut admission = Admission::new(key(), "did:key:zRelay".into());
        let line = |key: &&PrivateKey| key.public_key().to_openssh().expect("a line") + "\n";
        admission.set_keys(Arc::new(KeySet::parse(&listed.iter().map(line).collect::<String>())));
        admission
    }

    #[test]
    fn a_connection_has_the_role_of_its_key_or_a_lesser_one() {
        for has in Role::ALL {
            assert_eq!(granted(has, None).ok(), Some(has));
            for asked in Role::ALL {
                let granted = granted(has, Some(asked.name())).map_err(|error| error.code);
                let expected = if asked <= has { Ok(asked) } else { Err(Code::Forbidden) };
                assert_eq!(granted, expected, "{has} asks for {asked}");
            }
            assert_eq!(granted(has, Some("root")).map_err(|error| error.code), Err(Code::BadRequest));
        }
    }

    fn nonce() -> String {
        Nonce::from_bytes([7; Nonce::BYTES]).to_string()
    }

    fn forged(key: &PrivateKey) -> SignIn {
        SignIn {
            id: "1".into(),
            client: "client".into(),
            key: key.public_key().to_openssh().expect("a line"),
            nonce: nonce(),
            authority: "localhost:1".into(),
            binding: BINDING_NONE.into(),
            role: None,
            device: Device { name: "phone".into(), kind: "terminal".into() },
            signature: "no signature".into(),
        }
    }

    #[test]
    fn a_key_that_is_not_listed_is_refused_before_its_signature_is_looked_at() {
        let (listed, other) = (key(), key());
        let admission = admission(&[&listed]);
        let code = |key: &PrivateKey| admission.sign_in(&forged(key), &nonce()).map(drop).map_err(|error| error.code);
        assert_eq!(code(&other), Err(Code::KeyNotAuthorized));
        assert_eq!(code(&listed), Err(Code::AuthFailed));
    }

    #[test]
    fn a_did_that_is_not_listed_is_refused_before_its_message_is_read() {
        let (listed, other) = (key(), key());
        let mut admission = admission(&[&listed]);
        let mut refusal = |key: &PrivateKey| {
            let did = did_of(key.public_key()).expect("a DID").into();
            let refused =
                admission.hello(&did, b"no message", &Id::new(1, [0; 8]), 1).map_err(|refusal| refusal.reason);
            refused.map(drop)
        };
        assert_eq!(refusal(&other), Err("this DID is not in the relay's keys file"));
        assert_eq!(refusal(&listed), Err("this HELLO cannot be read"));
    }

    /// A HELLO of `did` with an id of its own for each number, signed by this key.
    fn said(did: &str, n: u8, by: &PrivateKey) -> (Id, Vec<u8>) {
        use crate::wire::amp::{Builder, Header, To, Type};
        let pair = by.key_data().ed25519().expect("Ed25519");
        let signing = ed25519_dalek::SigningKey::from_bytes(&pair.private.to_bytes());
        let id = Id::new(1_800_000_000_000, [n; 8]);
        let header = Header::new(id, Type::HELLO, did, To::One("did:key:zRelay"));
        let mut frame = Vec::new();
        let built = Builder::new(header).body(&[0xf6]);
        built.write_signed(KeyEncoding::Text, &signing, &mut Vec::new(), &mut frame).expect("built");
        (id, frame)
    }

    #[test]
    fn a_hello_proves_its_did_once() {
        let (ours, other) = (key(), key());
        let mut admission = admission(&[&ours]);
        let did = Text::from(did_of(ours.public_key()).expect("a DID"));
        let mut judged = |n: u8, by: &PrivateKey, now_ms: u64| {
            let (id, frame) = said(&did, n, by);
            admission.hello(&did, &frame, &id, now_ms).map(|principal| principal.role).map_err(|refusal| refusal.code)
        };
        assert!(judged(1, &ours, 1).is_ok());
        assert_eq!(judged(2, &other, 2), Err(amp::Code::INVALID_SIGNATURE));
        assert_eq!(judged(1, &ours, 3), Err(amp::Code::INVALID_MESSAGE), "it was said before");
        assert!(judged(2, &ours, 4).is_ok(), "what was wrongly signed was not said");
    }

    /// Method: the memory is filled as by HELLOs of one key, which are not signed here, and then each key says one.
    #[test]
    fn d2_the_hellos_of_one_key_keep_no_other_key_out() {
        use crate::relay::replays::{BUCKET_MS, REMEMBERED_MS};
        let (flood, other) = (key(), key());
        let mut admission = admission(&[&flood, &other]);
        let fingerprint = Text::from(sign_in::fingerprint(flood.public_key()));
        let mut count = 0;
        while admission.hellos.remember(&fingerprint, "did:key:z", &Id::new(count, [9; 8]), 1).is_ok() {
            count += 1;
        }
        assert_eq!(count as usize, HELLOS_MAX / 2);
        let mut judged = |by: &PrivateKey, n: u8, now_ms: u64| {
            let did = Text::from(did_of(by.public_key()).expect("a DID"));
            let (id, frame) = said(&did, n, by);
            admission.hello(&did, &frame, &id, now_ms).map(drop).map_err(|refusal| (refusal.code, refusal.reason))
        };
        let refused = judged(&flood, 1, 2).expect_err("no more of this key");
        assert!(
            refused.0 == amp::Code::OVERLOADED && refused.1.starts_with("this key has said too many"),
            "{refused:?}"
        );
        assert_eq!((judged(&other, 1, 2), judged(&other, 2, 2)), (Ok(()), Ok(())));
        // They are remembered for as long as one of them could be said again, and no longer.
        let last_ms = 1 + BUCKET_MS + REMEMBERED_MS;
        assert!(judged(&flood, 1, last_ms).is_err());
        assert_eq!(judged(&flood, 1, last_ms + 1), Ok(()), "there is room again");
        assert_eq!(admission.hellos.len(), 1, "those of before are forgotten");
    }

    #[test]
    fn a_hello_that_finds_no_room_at_all_is_told_that_it_is_not_its_key_s_doing() {
        let ours = key();
        let mut admission = admission(&[&ours]);
        admission.hellos = Replays::new(1);
        assert_eq!(admission.hellos.remember(&"SHA256:other".into(), "did:key:z", &Id::new(1, [9; 8]), 1), Ok(()));
        let did = Text::from(did_of(ours.public_key()).expect("a DID"));
        let (id, frame) = said(&did, 1, &ours);
        let refused = admission.hello(&did, &frame, &id, 2).expect_err("no room");
        assert_eq!((refused.code, refused.reason), (amp::Code::OVERLOADED, overloaded(false)));
    }
}
