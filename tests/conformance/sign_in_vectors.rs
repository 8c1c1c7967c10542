//! The sign-in vectors of `docs/protocols/sign-in-vectors.json`: signatures that other programs made for every key
//! type, and some that must be refused.

use amp_relay::wire::sign_in::{self, Transcript, VerifyError, WELCOME_NAMESPACE};
use serde::Deserialize;
use ssh_key::{
    PrivateKey, PublicKey,
    private::{Ed25519Keypair, KeypairData},
};

#[derive(Deserialize)]
struct Vectors {
    ed25519_seed: String,
    vectors: Vec<Vector>,
    proof: Proof,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    key: String,
    fields: Fields,
    transcript: String,
    signature: String,
    valid: bool,
}

#[derive(Deserialize)]
struct Fields {
    relay: String,
    authority: String,
    server_nonce: String,
    client_nonce: String,
    client: String,
    device: String,
    role: Option<String>,
    fingerprint: String,
    binding: String,
}

#[derive(Deserialize)]
struct Proof {
    relay_key: String,
    relay_did: String,
    principal: String,
    role: String,
    text: String,
    signature: String,
}

impl Vector {
    fn key(&self) -> PublicKey {
        PublicKey::from_openssh(&self.key).unwrap()
    }

    fn text(&self) -> String {
        let fields = &self.fields;
        let transcript = Transcript {
            relay: &fields.relay,
            authority: &fields.authority,
            server_nonce: &fields.server_nonce,
            client_nonce: &fields.client_nonce,
            client: &fields.client,
            device: &fields.device,
            role: fields.role.as_deref(),
            fingerprint: &fields.fingerprint,
            binding: &fields.binding,
        };
        transcript.text().unwrap()
    }
}

fn vectors() -> Vectors {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocols/sign-in-vectors.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn fields_give_the_transcripts() {
    for vector in vectors().vectors {
        assert_eq!(vector.text(), vector.transcript, "{}", vector.name);
        assert_eq!(sign_in::fingerprint(&vector.key()), vector.fields.fingerprint, "{}", vector.name);
    }
}

#[test]
fn every_key_type_signs_in() {
    let vectors = vectors().vectors;
    for vector in vectors.iter().filter(|vector| vector.valid) {
        let verified = sign_in::verify(&vector.key(), &vector.transcript, &vector.signature);
        assert_eq!(verified, Ok(()), "{}", vector.name);
    }
    assert_eq!(vectors.iter().filter(|vector| vector.valid).count(), 8);
}

#[test]
fn each_wrong_signature_is_refused_for_its_reason() {
    let mut seen = 0;
    for vector in vectors().vectors.into_iter().filter(|vector| !vector.valid) {
        let refused = sign_in::verify(&vector.key(), &vector.transcript, &vector.signature).unwrap_err();
        let expected = match vector.name.as_str() {
            "sk-ed25519-untouched" => VerifyError::NoUserPresence,
            "wrong-namespace" => VerifyError::Namespace,
            "other-transcript" | "other-hash" => VerifyError::Mismatch,
            "other-key" => VerifyError::OtherKey,
            "rsa-sha1" => VerifyError::Malformed,
            other => panic!("vector {other} has no expected reason"),
        };
        assert_eq!(refused, expected, "{}", vector.name);
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[test]
fn no_signature_serves_another_key_text_or_purpose() {
    let vectors = vectors().vectors;
    for vector in vectors.iter().filter(|vector| vector.valid) {
        let changed = vector.transcript.replacen("laptop", "phone", 1);
        let refused = sign_in::verify(&vector.key(), &changed, &vector.signature);
        assert_eq!(refused, Err(VerifyError::Mismatch), "{}", vector.name);
        let refused = sign_in::verify_in(WELCOME_NAMESPACE, &vector.key(), &vector.transcript, &vector.signature);
        assert_eq!(refused, Err(VerifyError::Namespace), "{}", vector.name);
        for other in vectors.iter().filter(|other| other.key != vector.key) {
            let refused = sign_in::verify(&other.key(), &vector.transcript, &vector.signature);
            assert_eq!(refused, Err(VerifyError::OtherKey), "{} as {}", vector.name, other.name);
        }
    }
}

#[test]
fn the_proof_is_the_relays() {
    let vectors = vectors();
    let proof = vectors.proof;
    let key = PublicKey::from_openssh(&proof.relay_key).unwrap();
    assert_eq!(sign_in::did_of(&key).as_deref(), Some(proof.relay_did.as_str()));
    assert_eq!(sign_in::key_of_did(&proof.relay_did).unwrap().key_data(), key.key_data());
    let transcript = &vectors.vectors[0].transcript;
    let text = sign_in::proof_text(transcript, &proof.principal, &proof.role).unwrap();
    assert_eq!(text, proof.text);
    assert_eq!(sign_in::verify_in(WELCOME_NAMESPACE, &key, &text, &proof.signature), Ok(()));
    let other = sign_in::proof_text(transcript, &proof.principal, "watch").unwrap();
    let refused = sign_in::verify_in(WELCOME_NAMESPACE, &key, &other, &proof.signature);
    assert_eq!(refused, Err(VerifyError::Mismatch));
}

#[test]
fn our_own_signature_is_that_of_ssh_keygen() {
    let vectors = vectors();
    let vector = &vectors.vectors[0];
    let byte = |at: usize| u8::from_str_radix(&vectors.ed25519_seed[at * 2..][..2], 16).unwrap();
    let pair = Ed25519Keypair::from_seed(&std::array::from_fn(byte));
    let key = PrivateKey::new(KeypairData::Ed25519(pair), "").unwrap();
    let signature = sign_in::sign(&key, sign_in::SIGN_IN_NAMESPACE, &vector.transcript).unwrap();
    assert_eq!(signature, vector.signature);
}
