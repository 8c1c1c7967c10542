//! What the relay and its sessions say, signed. Owns the relay's signing key and finds those of sessions; knows no
//! connection and no thread, and reads no clock.

use std::sync::LazyLock;

use ed25519_dalek::SigningKey;

use super::{
    Principal,
    admission::{HelloJob, Judged},
    api::Text,
    message::{MESSAGE_MAX, Reply, ReplyTo},
};
use crate::{
    base::CloseCode,
    wire::amp::{self, check::Refusal},
};

/// The keys of sessions, by their DIDs.
pub trait SessionKeys {
    /// The key of the session that has this DID.
    fn key(&self, did: &str) -> Option<SigningKey>;
}

/// The pen.
pub struct Signer<K> {
    did: Text,
    key: SigningKey,
    sessions: K,
}

impl<K: SessionKeys> Signer<K> {
    /// Signs as the relay, with this DID and key, and as its sessions.
    pub fn new(did: Text, key: SigningKey, sessions: K) -> Self {
        Self { did, key, sessions }
    }

    /// The answer to a HELLO that was proved or refused. `id` is the answer's. `None`: it cannot be written, and the
    /// connection runs into its timeout, which lasts until a key is proved.
    pub fn hello(&self, job: &HelloJob, proved: Result<Option<Principal>, Refusal>, id: amp::Id) -> Option<Judged> {
        let mut body = Vec::new();
        let (typ, principal, close) = match (proved, &job.selected) {
            (Ok(principal), Some(selected)) => {
                amp::body::hello_ack(&mut body, selected);
                (amp::Type::HELLO_ACK, principal, None)
            }
            (Ok(_), None) => {
                amp::body::hello_reject(&mut body, Some("none of these versions is served; 1 is"));
                (amp::Type::HELLO_REJECT, None, Some((CloseCode::POLICY, "no common version")))
            }
            (Err(refusal), _) => {
                refusal.write_body(&mut body);
                (amp::Type::ERROR, None, Some((CloseCode::POLICY, "HELLO refused")))
            }
        };
        let answer = self.sign(&Reply {
            via: ReplyTo::Connection(job.peer),
            from: self.did.clone(),
            to: job.from.clone(),
            typ,
            id,
            reply_to: Some(job.id),
            thread_id: job.thread_id.clone(),
            body,
            key_encoding: job.key_encoding,
            close,
        })?;
        Some(Judged { principal, answer, close })
    }

    /// Signs a message as its sender. A message that is too large becomes an ERROR that says so. `None`: it cannot be
    /// written.
    pub fn sign(&self, reply: &Reply) -> Option<Vec<u8>> {
        let key = if reply.from == self.did { self.key.clone() } else { self.sessions.key(&reply.from)? };
        let (mut scratch, mut frame) = (Vec::new(), Vec::new());
        match reply.write(&key, &mut scratch, &mut frame) {
            // No client has to take more, and one that does not take it ends the connection.
            Ok(()) if frame.len() > MESSAGE_MAX => {
                let mut body = Vec::new();
                Refusal::new(amp::Code::RELAY_REJECTED, &TOO_LARGE).write_body(&mut body);
                let error = Reply { typ: amp::Type::ERROR, body, ..reply.clone() };
                frame.clear();
                error.write(&key, &mut scratch, &mut frame).ok().map(|()| frame)
            }
            Ok(()) => Some(frame),
            Err(error) => {
                log::warn!(to = &*reply.to, error:% = error; "an answer to an agent cannot be written");
                None
            }
        }
    }
}

/// What is said instead of an answer that no client has to take.
static TOO_LARGE: LazyLock<String> =
    LazyLock::new(|| format!("the answer is larger than the largest message ({MESSAGE_MAX} bytes)"));
