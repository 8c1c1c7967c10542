//! The agents of a run: Ed25519 keys that come from the seed, so that a keys file can be written before the run.

use amp_relay::wire::sign_in::did_of;
use ed25519_dalek::SigningKey;
use ssh_key::{
    PrivateKey, PublicKey,
    private::{Ed25519Keypair, KeypairData},
    public::Ed25519PublicKey,
};

/// A stream of pseudo-random numbers (SplitMix64): keys of a load test guard nothing.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of a seed and a place.
    pub(crate) fn new(seed: u64, place: u64) -> Self {
        let mut first = Self(seed);
        let mixed = first.next();
        Self(mixed ^ place.wrapping_mul(0xA24B_AED4_963E_E407))
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// One agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    key: SigningKey,
    did: String,
}

impl Agent {
    /// The agent with this number in the run of this seed.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed, number);
        let mut bytes = [0; 32];
        for eight in bytes.as_chunks_mut::<8>().0 {
            *eight = random.next().to_le_bytes();
        }
        let key = SigningKey::from_bytes(&bytes);
        let public = PublicKey::from(Ed25519PublicKey(key.verifying_key().to_bytes()));
        Self { key, did: did_of(&public).unwrap_or_default() }
    }

    /// Its DID.
    pub(crate) fn did(&self) -> &str {
        &self.did
    }

    /// The key that it signs with.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The key in OpenSSH's form, for signing in to sessions.
    pub(crate) fn openssh(&self) -> Result<PrivateKey, ssh_key::Error> {
        PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&self.key.to_bytes())), "loadtest")
    }

    /// Its line for a keys file.
    pub(crate) fn line(&self, role: &str, number: u64) -> Result<String, ssh_key::Error> {
        let mut public = PublicKey::from(Ed25519PublicKey(self.key.verifying_key().to_bytes()));
        public.set_comment(format!("loadtest-{number}"));
        Ok(format!("amp-role=\"{role}\" {}\n", public.to_openssh()?.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_seed_and_number() {
        let line = |seed, number| Agent::new(seed, number).line("agent", number).expect("a line");
        assert_eq!(line(1, 0), line(1, 0));
        assert_ne!(line(1, 0).split(' ').nth(2), line(1, 1).split(' ').nth(2));
        assert_ne!(line(1, 0), line(2, 0));
        assert!(line(1, 3).starts_with("amp-role=\"agent\" ssh-ed25519 ") && line(1, 3).ends_with(" loadtest-3\n"));
    }

    #[test]
    fn dids_are_of_one_length() {
        // Templates rely on it: a destination is written over another one.
        for number in 0..200 {
            let agent = Agent::new(9, number);
            assert_eq!(agent.did().len(), 56, "{}", agent.did());
            assert_eq!(
                agent.openssh().expect("a key").public_key().key_data().ed25519().map(|key| key.0),
                Some(agent.key.verifying_key().to_bytes())
            );
        }
    }
}
