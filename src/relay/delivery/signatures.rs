//! Signatures of agents' messages, checked one by one on the crypto thread where `amp.verify` is `all`: what a worker
//! hands over, the verdict it gets back, and the arithmetic between. Where a message goes afterwards is decided by
//! [`verification`](super::verification).

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use ed25519_dalek::VerifyingKey;

use crate::{
    base::ConnToken,
    relay::message::Shared,
    wire::amp::{self, Code, Frame, Malformed, check::Refusal},
};

/// Messages in one batch. A HELLO that comes meanwhile waits for one batch at the most, a few milliseconds.
pub(super) const BATCH_MAX: usize = 64;
/// Keys that are kept unpacked; unpacking one costs a tenth of a check.
const KEYS_MAX: usize = 4096;
/// Longest name under which a key is kept, in bytes: a `did:key` and the fragment that names its key. A query or a path,
/// which may stand behind a DID too, is of any length.
const NAME_BYTES_MAX: usize = 256;

/// A message with a signature to be checked, encoded as it will be sent on.
#[derive(Debug)]
pub struct Check<S> {
    /// Its connection.
    pub peer: ConnToken,
    /// The message.
    pub shared: S,
}

/// A message that was checked.
#[derive(Debug)]
pub struct Checked<S> {
    /// What was to be checked.
    pub check: Check<S>,
    /// Whether it may go on, or what its sender is told.
    pub verdict: Result<(), Refusal>,
}

/// Checks batches.
#[derive(Default)]
pub struct Verifier {
    keys: HashMap<Box<str>, VerifyingKey>,
    scratch: Vec<u8>,
}

impl Verifier {
    /// Checks a batch; its order stays. Each signature is checked by itself and strictly: the equation for many at once
    /// also holds for sets of signatures that a receiver, which checks one at a time, would refuse.
    pub fn batch<S: Shared>(&mut self, checks: Vec<Check<S>>) -> Vec<Checked<S>> {
        let judge = |check: Check<S>| {
            // Arithmetic that panics costs only the sender: this message is refused.
            let judged = catch_unwind(AssertUnwindSafe(|| self.verdict(check.shared.message())));
            let verdict =
                judged.unwrap_or_else(|_| Err(Refusal::new(Code::INTERNAL_ERROR, "checking the signature failed")));
            Checked { check, verdict }
        };
        checks.into_iter().map(judge).collect()
    }

    fn verdict(&mut self, frame: &[u8]) -> Result<(), Refusal> {
        let wrong = Refusal::new(Code::INVALID_SIGNATURE, "the message's signature is wrong");
        let Ok(Frame::Envelope(view)) = amp::parse(frame) else {
            return Err(Refusal::new(Malformed::CODE, "the frame is not one well-formed AMP message"));
        };
        // The signature is over the plain text, which only the recipient can read: its sender proved the DID at HELLO.
        if view.body_or_null().is_none() {
            return Ok(());
        }
        let key = self.key(view.header.from).ok_or(wrong)?;
        amp::verify(&view, &key, &mut self.scratch)
            .map_err(|error| Refusal::new(error.code(), "the message's signature is wrong"))
    }

    /// The key of a DID as it is written, with a fragment that must name the key.
    fn key(&mut self, from: &str) -> Option<VerifyingKey> {
        if let Some(key) = self.keys.get(from) {
            return Some(*key);
        }
        let key = amp::verifying_key(from)?;
        if self.keys.len() >= KEYS_MAX {
            self.keys.clear();
        }
        if from.len() <= NAME_BYTES_MAX {
            self.keys.insert(from.into(), key);
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::relay::message::tests::Bytes;
    use crate::wire::{
        amp::{Builder, Header, Id, KeyEncoding, To, Type},
        sign_in::did_of,
    };

    fn did(key: &SigningKey) -> String {
        let public = ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes()));
        did_of(&public).expect("a did:key")
    }

    fn check(from: &str, signer: &SigningKey, key_encoding: KeyEncoding) -> Check<Bytes> {
        let header = Header::new(Id::new(1_800_000_000_000, [1; 8]), Type::MESSAGE, from, To::One("did:a:b"));
        let mut frame = Vec::new();
        Builder::new(header)
            .body(&[0xf6])
            .write_signed(key_encoding, signer, &mut Vec::new(), &mut frame)
            .expect("built");
        Check { peer: ConnToken::new(0, 1, 1), shared: Bytes::of(&frame) }
    }

    #[test]
    fn each_message_of_a_batch_gets_its_own_verdict_in_order() {
        let (ours, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let from = did(&ours);
        let named = format!("{from}#{}", from.trim_start_matches("did:key:"));
        let batch = vec![
            check(&from, &ours, KeyEncoding::Text),
            check(&from, &other, KeyEncoding::Text),
            check(&named, &ours, KeyEncoding::Int),
            check(&format!("{from}#z6Mkother"), &ours, KeyEncoding::Text),
            Check { peer: ConnToken::new(0, 1, 1), shared: Bytes::of(b"\xa0") },
            check(&from, &ours, KeyEncoding::Int),
            check(&format!("{from}?{}", "x".repeat(100_000)), &ours, KeyEncoding::Text),
        ];
        let mut verifier = Verifier::default();
        let codes: Vec<_> = verifier
            .batch(batch)
            .into_iter()
            .map(|checked| checked.verdict.err().map(|refusal| refusal.code))
            .collect();
        let wrong = Some(Code::INVALID_SIGNATURE);
        assert_eq!(codes, [None, wrong, None, wrong, Some(Malformed::CODE), None, None]);
        assert_eq!(verifier.keys.len(), 2, "a fragment that names no key is not kept, nor a name of any length");
    }
}
