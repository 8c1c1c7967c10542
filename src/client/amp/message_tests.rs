//! Tests of drafts and of what is made of frames.

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use ssh_key::public::Ed25519PublicKey;

use super::*;
use crate::wire::sign_in::did_of;

const NOW: Now = Now { mono_ms: 0, unix_ms: 1_800_000_000_000 };

fn agent(seed: u8) -> (SigningKey, String) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let did = did_of(&Ed25519PublicKey(key.verifying_key().to_bytes()).into()).unwrap();
    (key, did)
}

/// We are 1, the relay is 9.
fn judge() -> Judge {
    Judge::new(&agent(1).1, &agent(9).1, agent(9).0.verifying_key())
}

/// A MESSAGE from `from` to us, signed by `signer`.
fn frame(from: &str, signer: u8, ts: u64, random: u8) -> Vec<u8> {
    let to = agent(1).1;
    let draft = Draft::new(&to, Type::MESSAGE, b"\x62hi");
    let sign = |bytes: &[u8]| Ok::<_, BuildError>(agent(signer).0.sign(bytes).to_bytes());
    draft.frame(from, Id::new(ts, [random; 8]), sign).unwrap()
}

#[test]
fn signatures_say_who_speaks() {
    let mut judge = judge();
    let (relay, peer) = (agent(9).1, agent(2).1);
    let mut take = |from: &str, signer, random| {
        judge.message(&frame(from, signer, NOW.unix_ms, random), Some(NOW)).map(|message| message.signed_by)
    };
    assert_eq!(take(&peer, 2, 1), Ok(SignedBy::Sender));
    assert_eq!(take(&relay, 9, 1), Ok(SignedBy::Sender));
    assert_eq!(take(&peer, 9, 2), Ok(SignedBy::Relay));
    assert_eq!(take("did:web:a.example", 9, 1), Ok(SignedBy::Relay));
    assert_eq!(take("did:web:a.example", 3, 2), Ok(SignedBy::Unknown));
    assert_eq!(take(&peer, 3, 3), Err(Unacceptable::Signature { from: peer.clone() }));
    assert_eq!(take(&relay, 2, 2), Err(Unacceptable::Signature { from: relay.clone() }));
    assert_eq!(take(&peer, 2, 1), Err(Unacceptable::Twice));
}

#[test]
fn what_is_stale_or_for_others_is_passed_over() {
    let peer = agent(2).1;
    let future = frame(&peer, 2, NOW.unix_ms + SKEW_MS + 1, 1);
    assert!(matches!(judge().message(&future, Some(NOW)), Err(Unacceptable::Stale(_))));
    assert!(judge().message(&future, None).is_ok(), "without a clock nothing is stale");
    let expired = frame(&peer, 2, NOW.unix_ms - TTL_MS_DEFAULT - 1, 1);
    assert!(matches!(judge().message(&expired, Some(NOW)), Err(Unacceptable::Stale(_))));
    let mut other = Judge::new(&peer, &agent(9).1, agent(9).0.verifying_key());
    assert_eq!(other.message(&frame(&peer, 2, NOW.unix_ms, 1), Some(NOW)), Err(Unacceptable::NotForUs));
    assert!(matches!(judge().message(b"{}", Some(NOW)), Err(Unacceptable::Malformed(_))));
}

#[test]
fn an_answer_names_what_it_answers() {
    let mut judge = judge();
    let asked = judge.message(&frame(&agent(2).1, 2, NOW.unix_ms, 1), Some(NOW)).unwrap();
    let answer = Draft::answering(&asked, Type::PONG, cbor::NULL);
    assert_eq!((answer.to, answer.reply_to), (asked.from.as_str(), Some(&asked.id.0[..])));
    assert!(Message { reply_to: Some(asked.id.0.to_vec()), ..asked.clone() }.answers(&asked.id));
    let mut body = Vec::new();
    Refusal { now_ms: Some(7), ..Refusal::new(Code::INVALID_TIMESTAMP, "late") }.write_body(&mut body);
    let error = Message { typ: Type::ERROR, body: Some(body), ..asked }.error().unwrap();
    assert_eq!(error, ErrorAnswer { code: Code::INVALID_TIMESTAMP, message: "late".into(), now_ms: Some(7) });
    assert_eq!(error.to_string(), "late");
}

#[test]
fn old_ids_are_forgotten() {
    let mut seen = Seen { known: HashSet::new(), order: VecDeque::new() };
    for at in 0..=SEEN_MAX as u64 {
        assert!(seen.is_new("did:a", Id::new(at, [0; 8])));
    }
    assert_eq!((seen.known.len(), seen.order.len()), (SEEN_MAX, SEEN_MAX));
    assert!(!seen.is_new("did:a", Id::new(1, [0; 8])));
    assert!(seen.is_new("did:a", Id::new(0, [0; 8])));
}

proptest! {
    #[test]
    fn no_frame_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), place in 0_usize..300, byte: u8) {
        let _ = judge().message(&bytes, Some(NOW));
        let mut frame = frame(&agent(2).1, 2, NOW.unix_ms, 1);
        let place = place % frame.len();
        frame[place] = byte;
        let _ = judge().message(&frame, Some(NOW));
    }
}
