//! Header prediction, as RFC 1144 has it for TCP: most messages of a stream differ from the one before in id, time,
//! signature and body alone, and comparing the rest is cheaper than reading it.
//!
//! Owns what a message had in common with those that followed it. Must not judge: a frame that is not recognized is
//! read by [`parse`](super::parse), and a recognized one still has a time and an id of its own to be checked.

use crate::wire::cbor;

use super::{EnvelopeView, Id, KeyEncoding, SIG_BYTES, To, canonical_parse};

/// What stands behind the map's head in a message with its keys in deterministic order, up to the bytes of the id.
const FRONT: &[u8; 7] = b"\x61v\x01\x62id\x50";
const ID_AT: usize = 1 + FRONT.len();
const ID_END: usize = ID_AT + size_of::<Id>();
/// What stands between the recipient and the bytes of the time.
const TS: &[u8; 4] = b"\x62ts\x1b";

/// Most bytes that are learned: what has more around its body is read each time.
const LEARNED_MAX: usize = 4 * 1024;

/// A message that was read, to recognize others by.
#[derive(Debug, Default)]
pub struct Prediction {
    /// The message without its body. Empty: nothing was learned.
    learned: Vec<u8>,
    /// Where the bytes of the time begin, those of the signature, and the body.
    ts_at: usize,
    sig_at: usize,
    body_at: usize,
}

/// What a recognized message does not have in common with the learned one, signature and body left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recognized {
    /// Its id.
    pub id: Id,
    /// Its time.
    pub ts: u64,
}

impl Prediction {
    /// How the keys of what is recognized are written.
    pub const KEY_ENCODING: KeyEncoding = KeyEncoding::Text;

    /// Learns a message in place of the one before. Says whether it can serve: it has text keys, in deterministic order
    /// up to the body, one recipient, and little around the body.
    pub fn learn(&mut self, view: &EnvelopeView<'_>) -> bool {
        self.learned.clear();
        let Some((ts_at, sig_at, body)) = places(view) else { return false };
        if view.frame.len() - body.len() > LEARNED_MAX {
            return false;
        }
        (self.ts_at, self.sig_at, self.body_at) = (ts_at, sig_at, body.start);
        self.learned.extend_from_slice(&view.frame[..body.start]);
        self.learned.extend_from_slice(&view.frame[body.end..]);
        true
    }

    /// Whether [`parse`](super::parse) would read the message that was learned in this frame, but for id, time, signature
    /// and body.
    #[inline]
    pub fn recognize(&self, frame: &[u8]) -> Option<Recognized> {
        let (front, tail) = self.learned.split_at_checked(self.body_at).filter(|(front, _)| !front.is_empty())?;
        let (head, rest) = frame.split_at_checked(front.len())?;
        // What is in one place, from the shortest to the longest.
        let same = |from: usize, to: usize| head.get(from..to) == front.get(from..to);
        if !(head.first_chunk::<ID_AT>() == front.first_chunk()
            && same(self.ts_at + 8, self.sig_at)
            && same(self.sig_at + SIG_BYTES, front.len())
            && same(ID_END, self.ts_at))
        {
            return None;
        }
        let (body, end) = rest.split_at_checked(rest.len().checked_sub(tail.len())?)?;
        let ts = u64::from_be_bytes(*head.get(self.ts_at..)?.first_chunk()?);
        // A smaller number would have a shorter head.
        if end != tail || ts <= u64::from(u32::MAX) || !canonical_parse::is_one_item(body) {
            return None;
        }
        Some(Recognized { id: Id(*head.get(ID_AT..)?.first_chunk()?), ts })
    }
}

/// Where the time, the signature and the body are, if they are where they can be told from what is constant.
fn places(view: &EnvelopeView<'_>) -> Option<(usize, usize, std::ops::Range<usize>)> {
    let frame = view.frame;
    let place = |part: &[u8]| {
        let at = part.as_ptr().addr().checked_sub(frame.as_ptr().addr())?;
        (at + part.len() <= frame.len()).then(|| at..at + part.len())
    };
    let To::One(to) = view.header.to else { return None };
    // The head of a map of up to 23 pairs, `v` and `id` as texts: the keys that come first, so that nothing else can be
    // there, and all of this kind.
    let in_order = frame.first()? >> 5 == cbor::MAP && frame.get(1..ID_AT)? == FRONT;
    let ts_at = place(to.as_bytes())?.end + TS.len();
    let sig_at = place(view.sig?)?.start;
    let body = place(view.body?)?;
    let there = frame.get(ts_at - TS.len()..ts_at)? == TS && ID_END < ts_at;
    let apart = ts_at + 8 <= sig_at && sig_at + SIG_BYTES <= body.start;
    (in_order && there && apart).then_some((ts_at, sig_at, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Builder, Frame, Header, Type, parse};
    use super::*;

    fn frame(extras: u8, id: u8, ts: u64, body: &[u8]) -> Vec<u8> {
        let header = Header {
            ts,
            reply_to: (extras & 1 > 0).then_some(&[4; 16][..]),
            thread_id: (extras & 2 > 0).then_some(b"thread".as_slice()),
            ..Header::new(Id::new(ts, [id; 8]), Type::MESSAGE, "did:web:a#k", To::One("did:web:b"))
        };
        let builder = Builder::new(header).body(body);
        let builder = if extras & 4 > 0 { builder.ext(b"\xa1\x61x\x01") } else { builder };
        let mut out = Vec::new();
        builder.write(KeyEncoding::Text, Some(&[id; SIG_BYTES]), &mut out).expect("expressible");
        out
    }

    fn view(frame: &[u8]) -> EnvelopeView<'_> {
        match parse(frame) {
            Ok(Frame::Envelope(view)) => view,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_next_message_of_a_stream_is_recognized() {
        let mut prediction = Prediction::default();
        let ts = 1_800_000_000_000;
        assert_eq!(prediction.recognize(&frame(0, 1, ts, b"\x41a")), None, "nothing was learned");
        for extras in 0..8 {
            assert!(prediction.learn(&view(&frame(extras, 1, ts, b"\xf6"))));
            let long = [b"\x59\x01\x00".as_slice(), &[7; 256]].concat();
            for body in [&long, b"\xf6".as_slice(), b"\xa1\x61k\x82\x01\x61y", b"\x40"] {
                let next = frame(extras, 2, ts + 5, body);
                let expected = Recognized { id: Id::new(ts + 5, [2; 8]), ts: ts + 5 };
                assert_eq!(prediction.recognize(&next), Some(expected), "{extras} {body:x?}");
            }
            assert_eq!(prediction.recognize(&frame(extras ^ 1, 2, ts, b"\xf6")), None);
        }
    }

    #[test]
    fn what_cannot_serve_is_not_learned() {
        let header = |to| Header::new(Id::new(1_800_000_000_000, [1; 8]), Type::MESSAGE, "did:web:a", to);
        let mut out = Vec::new();
        let several = Builder::new(header(To::Many(&["did:web:b"]))).body(b"\xf6");
        several.write(KeyEncoding::Text, Some(&[1; SIG_BYTES]), &mut out).expect("expressible");
        let mut prediction = Prediction::default();
        assert!(!prediction.learn(&view(&out)), "several recipients");
        out.clear();
        let int = Builder::new(header(To::One("did:web:b"))).body(b"\xf6");
        int.write(KeyEncoding::Int, Some(&[1; SIG_BYTES]), &mut out).expect("expressible");
        assert!(!prediction.learn(&view(&out)), "integer keys");
        assert_eq!(prediction.recognize(&out), None);
        for (len, serves) in [(LEARNED_MAX / 2, true), (LEARNED_MAX, false)] {
            out.clear();
            let thread_id = vec![7; len];
            let header = Header { thread_id: Some(&thread_id), ..header(To::One("did:web:b")) };
            let long = Builder::new(header).body(b"\xf6");
            long.write(KeyEncoding::Text, Some(&[1; SIG_BYTES]), &mut out).expect("expressible");
            let before = frame(7, 1, 1_800_000_000_000, b"\xf6");
            assert!(prediction.learn(&view(&before)) && prediction.recognize(&before).is_some());
            assert_eq!(prediction.learn(&view(&out)), serves, "{len} bytes of a thread's id");
            assert_eq!(prediction.recognize(&out).is_some(), serves);
            assert_eq!(prediction.recognize(&before), None, "what was learned before is forgotten");
        }
    }

    /// A message whose keys stand in another order: each move takes the pair of one place to another.
    fn moved(frame: &[u8], moves: [(usize, usize); 2]) -> Vec<u8> {
        let mut reader = cbor::Reader::new(frame);
        reader.head().expect("a map");
        let pair = || Some([reader.item(cbor::DEPTH_MAX).ok()?, reader.item(cbor::DEPTH_MAX).ok()?].concat());
        let mut pairs: Vec<Vec<u8>> = std::iter::from_fn(pair).collect();
        for (from, to) in moves {
            let pair = pairs.remove(from);
            pairs.insert(to, pair);
        }
        [&frame[..1], &pairs.concat()].concat()
    }

    #[test]
    fn in_another_order_a_message_is_recognized_as_it_is_read_or_not_at_all() {
        const PAIRS: usize = 9;
        let first = 1_800_000_000_000;
        let header = Header::new(Id::new(first, [1; 8]), Type::MESSAGE, "did:web:a#k", To::One("did:web:b"));
        let written = |header: Header<'_>, sig: u8, body: &[u8]| {
            let mut out = Vec::new();
            let builder = Builder::new(header).body(body);
            builder.write(KeyEncoding::Text, Some(&[sig; SIG_BYTES]), &mut out).expect("expressible");
            out
        };
        let (learned, id, ts) = (written(header, 1, b"\xf6"), Id::new(first, [2; 8]), first + 5);
        // The signature may be that of the message before: it is not checked.
        let nexts = [
            written(Header { id, ts, ..header }, 2, b"\x43abc"),
            written(Header { id, ..header }, 2, b"\xf6"),
            written(Header { ts, ..header }, 1, b"\xf6"),
            written(Header { from: "did:web:x#k", ..header }, 1, b"\xf6"),
            written(Header { to: To::One("did:web:x"), ..header }, 1, b"\xf6"),
            written(Header { ttl: header.ttl ^ 1, id, ts, ..header }, 1, b"\xf6"),
            written(Header { typ: Type::REQUEST, ..header }, 1, b"\xf6"),
        ];
        let (mut prediction, mut serve) = (Prediction::default(), 0);
        let moves = (0..PAIRS.pow(4)).map(|n| [0, 1, 2, 3].map(|place| n / PAIRS.pow(place) % PAIRS));
        for moves in moves.map(|[a, b, c, d]| [(a, b), (c, d)]) {
            let learned = moved(&learned, moves);
            let learned = view(&learned);
            if !prediction.learn(&learned) {
                continue;
            }
            serve += 1;
            for next in &nexts {
                let next = moved(next, moves);
                if let Some(Recognized { id, ts }) = prediction.recognize(&next) {
                    assert_eq!(view(&next).header, Header { id, ts, ..learned.header }, "{moves:?}");
                }
            }
        }
        assert!((1..PAIRS.pow(4)).contains(&serve), "{serve}");
    }

    #[test]
    fn a_time_that_is_not_in_its_shortest_form_is_not_recognized() {
        let mut prediction = Prediction::default();
        let mut next = frame(0, 1, 1_800_000_000_000, b"\xf6");
        assert!(prediction.learn(&view(&next)));
        let at = next.windows(TS.len()).position(|bytes| bytes == TS).expect("a time") + TS.len();
        for (ts, is_shortest) in [(0, false), (u64::from(u32::MAX), false), (u64::from(u32::MAX) + 1, true)] {
            next[at..at + 8].copy_from_slice(&ts.to_be_bytes());
            assert_eq!(
                (prediction.recognize(&next).is_some(), parse(&next).is_ok()),
                (is_shortest, is_shortest),
                "{ts}"
            );
        }
    }

    proptest! {
        /// Whatever is recognized, `parse` reads, and finds nothing new in it but what may be new.
        #[test]
        fn what_is_recognized_is_what_was_learned(
            extras in 0_u8..8,
            body_of_learned in prop_oneof![Just(b"\xf6".to_vec()), Just(b"\x43abc".to_vec()), Just(b"\xa1\x61k\x01".to_vec())],
            body in prop_oneof![Just(b"\xf6".to_vec()), Just(b"\x45abcde".to_vec()), Just(b"\x82\x01\x61y".to_vec())],
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 0..3),
        ) {
            let ts = 1_800_000_000_000;
            let learned = frame(extras, 1, ts, &body_of_learned);
            let learned = view(&learned);
            let mut prediction = Prediction::default();
            prop_assert!(prediction.learn(&learned));
            let mut next = frame(extras, 2, ts + 9, &body);
            for (at, byte, how) in changes {
                let at = at.index(next.len());
                match how {
                    0 => next[at] = byte,
                    1 => next[at] ^= 1 << (byte % 8),
                    2 => next.insert(at, byte),
                    _ => { next.remove(at); }
                }
            }
            let Some(Recognized { id, ts }) = prediction.recognize(&next) else { return Ok(()) };
            let Ok(Frame::Envelope(found)) = parse(&next) else {
                return Err(TestCaseError::fail(format!("recognized what is no message: {next:x?}")));
            };
            prop_assert_eq!(found.header, Header { id, ts, ..learned.header });
            prop_assert_eq!((found.key_encoding, found.v, found.enc, found.ext), (learned.key_encoding, learned.v, None, learned.ext));
            prop_assert!(found.sig.is_some() && found.body.is_some());
        }
    }
}
