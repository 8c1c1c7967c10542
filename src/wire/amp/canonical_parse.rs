//! The pass over a frame with keys in the order that deterministic CBOR asks for, which is how most senders write.
//!
//! In that order each key is compared with one constant and no key can come twice, so that the pass is a straight line
//! and takes a quarter of the time of the pass for any order. It says nothing about frames it does not take: the pass
//! of [`view`](super::view) reads those, and is the only one that names faults. [`parse`] tries one after the other.

use crate::wire::cbor::{self, Reader};

use super::{
    EnvelopeView, Frame, Header, Id, KeyEncoding, Malformed, SIG_BYTES, To, Type, VERSION,
    view::{map, parse_any, several},
};

/// A map of so many pairs, where the first byte holds the count.
const MAP_OF_FEW: u8 = 0xa0;
const FEW_MAX: u8 = 0xb7;

/// Reads a frame.
///
/// # Errors
/// It is no message; the answer is an ERROR with [`Malformed::CODE`].
#[inline]
pub fn parse(frame: &[u8]) -> Result<Frame<'_>, Malformed<'_>> {
    match read(frame) {
        Some(view) => Ok(Frame::Envelope(view)),
        None => parse_any(frame),
    }
}

/// Reads a frame with keys in order. `None`: read it another way.
#[inline(always)]
fn read(frame: &[u8]) -> Option<EnvelopeView<'_>> {
    let (&first, rest) = frame.split_first()?;
    if !(MAP_OF_FEW..=FEW_MAX).contains(&first) {
        return None;
    }
    let (line, pairs) = (Line { rest }, first - MAP_OF_FEW);
    if rest.first()? >> 5 == cbor::TEXT { text(frame, line, pairs) } else { int(frame, line, pairs) }
}

/// Whether these bytes are one well-formed item.
#[inline]
pub(super) fn is_one_item(bytes: &[u8]) -> bool {
    Line { rest: bytes }.item().is_some_and(|(_, line)| line.rest.is_empty())
}

/// What of a frame is still to be read. Passed on by value, so that it lives in registers: a message has some 30 heads.
#[derive(Clone, Copy)]
struct Line<'a> {
    rest: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes keys, with as much of the values' heads as is the same in every message.
    #[inline(always)]
    fn key<const N: usize>(self, key: &[u8; N]) -> Option<Self> {
        let (next, rest) = self.rest.split_first_chunk::<N>()?;
        (next == key).then_some(Self { rest })
    }

    #[inline(always)]
    fn sized<const N: usize>(self) -> Option<(&'a [u8; N], Self)> {
        let (next, rest) = self.rest.split_first_chunk::<N>()?;
        Some((next, Self { rest }))
    }

    /// The argument of a shortest head of this major type.
    #[inline(always)]
    fn argument(self, major: u8) -> Option<(u64, Self)> {
        let (first, rest) = self.rest.split_first()?;
        let line = Self { rest };
        let (argument, least, line) = match first.wrapping_sub(major << 5) {
            info @ 0..24 => return Some((u64::from(info), line)),
            24 => line.sized().map(|([byte], line)| (u64::from(*byte), 24, line))?,
            25 => line.sized().map(|(bytes, line)| (u64::from(u16::from_be_bytes(*bytes)), 1 << 8, line))?,
            26 => line.sized().map(|(bytes, line)| (u64::from(u32::from_be_bytes(*bytes)), 1 << 16, line))?,
            27 => line.sized().map(|(bytes, line)| (u64::from_be_bytes(*bytes), 1 << 32, line))?,
            _ => return None,
        };
        (argument >= least).then_some((argument, line))
    }

    #[inline(always)]
    fn uint(self) -> Option<(u64, Self)> {
        self.argument(cbor::UINT)
    }

    /// A time of our days, which takes the long form.
    #[inline(always)]
    fn time(self) -> Option<(u64, Self)> {
        let (bytes, line) = self.sized()?;
        let time = u64::from_be_bytes(*bytes);
        (time >= 1 << 32).then_some((time, line))
    }

    #[inline(always)]
    fn string(self, major: u8) -> Option<(&'a [u8], Self)> {
        let (length, line) = self.argument(major)?;
        let (bytes, rest) = line.rest.split_at_checked(usize::try_from(length).ok()?)?;
        Some((bytes, Self { rest }))
    }

    #[inline(always)]
    fn text(self) -> Option<(&'a str, Self)> {
        let (bytes, line) = self.string(cbor::TEXT)?;
        Some((str::from_utf8(bytes).ok()?, line))
    }

    /// What another reader takes from here.
    #[inline(always)]
    fn with<R>(self, read: impl FnOnce(&mut Reader<'a>) -> Result<R, cbor::Error>) -> Option<(R, Self)> {
        let mut reader = Reader::new(self.rest);
        let found = read(&mut reader).ok()?;
        Some((found, Self { rest: self.rest.get(reader.offset()..)? }))
    }

    /// One item. A byte string, the usual large one, needs no look at what is in it.
    #[inline(always)]
    fn item(self) -> Option<(&'a [u8], Self)> {
        if let Some((_, line)) = self.string(cbor::BYTES) {
            return Some((&self.rest[..self.rest.len() - line.rest.len()], line));
        }
        self.with(|reader| reader.item(cbor::DEPTH_MAX))
    }

    /// A pair that need not be there.
    #[inline(always)]
    fn maybe<const N: usize, R>(
        self,
        key: &[u8; N],
        read: impl FnOnce(Self) -> Option<(R, Self)>,
    ) -> Option<(Option<R>, Self)> {
        match self.key(key) {
            Some(line) => read(line).map(|(value, line)| (Some(value), line)),
            None => Some((None, self)),
        }
    }

    /// Nothing may follow, and the map's head must have said so.
    #[inline(always)]
    fn end(self, pairs: u8, always: u8, perhaps: &[bool]) -> Option<()> {
        let found = always + perhaps.iter().map(|&there| u8::from(there)).sum::<u8>();
        (pairs == found && self.rest.is_empty()).then_some(())
    }
}

#[inline(always)]
fn text<'a>(frame: &'a [u8], line: Line<'a>, pairs: u8) -> Option<EnvelopeView<'a>> {
    const { assert!(VERSION == 1 && SIG_BYTES == 0x40) };
    let (id, line) = line.key(b"\x61v\x01\x62id\x50")?.sized()?;
    let line = line.key(b"\x62to")?;
    let (to, line) = match line.rest.first()? >> 5 {
        cbor::ARRAY => line.with(several)?,
        _ => line.text().map(|(did, line)| (To::One(did), line))?,
    };
    let (ts, line) = line.key(b"\x62ts\x1b")?.time()?;
    let (ext, line) = line.maybe(b"\x63ext", |line| line.with(map))?;
    let (sig, line) = line.key(b"\x63sig\x58\x40")?.sized()?;
    let (ttl, line) = line.key(b"\x63ttl")?.uint()?;
    let (typ, line) = line.key(b"\x63typ")?.uint()?;
    let (body, line) = line.key(b"\x64body")?.item()?;
    let (from, line) = line.key(b"\x64from")?.text()?;
    let (reply_to, line) = line.maybe(b"\x68reply_to", |line| line.string(cbor::BYTES))?;
    let (thread_id, line) = line.maybe(b"\x69thread_id", |line| line.string(cbor::BYTES))?;
    line.end(pairs, 9, &[ext.is_some(), reply_to.is_some(), thread_id.is_some()])?;
    let header = Header { id: Id(*id), typ: Type(typ), ts, ttl, from, to, reply_to, thread_id };
    let (key_encoding, body, sig, enc) = (KeyEncoding::Text, Some(body), Some(sig), None);
    Some(EnvelopeView { key_encoding, v: VERSION, header, sig, body, enc, ext, frame })
}

#[inline(always)]
fn int<'a>(frame: &'a [u8], line: Line<'a>, pairs: u8) -> Option<EnvelopeView<'a>> {
    let (id, line) = line.key(b"\x01\x01\x02\x50")?.sized()?;
    let (typ, line) = line.key(b"\x03")?.uint()?;
    let (ts, line) = line.key(b"\x04\x1b")?.time()?;
    let (ttl, line) = line.key(b"\x05")?.uint()?;
    let (from, line) = line.key(b"\x06")?.text()?;
    let (to, line) = line.key(b"\x07")?.text()?;
    let (reply_to, line) = line.maybe(b"\x08", |line| line.string(cbor::BYTES))?;
    let (thread_id, line) = line.maybe(b"\x09", |line| line.string(cbor::BYTES))?;
    let (sig, line) = line.maybe(b"\x0a\x58\x40", Line::sized)?;
    let (body, line) = line.maybe(b"\x0b", Line::item)?;
    let (ext, line) = line.maybe(b"\x0c", |line| line.with(map))?;
    let perhaps = [reply_to.is_some(), thread_id.is_some(), sig.is_some(), body.is_some(), ext.is_some()];
    line.end(pairs, 7, &perhaps)?;
    let header = Header { id: Id(*id), typ: Type(typ), ts, ttl, from, to: To::One(to), reply_to, thread_id };
    Some(EnvelopeView { key_encoding: KeyEncoding::Int, v: VERSION, header, sig, body, enc: None, ext, frame })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Builder, *};

    fn frame(key_encoding: KeyEncoding, to: To<'_>, extras: u8, ttl: u64, body: &[u8]) -> Vec<u8> {
        let header = Header {
            ttl,
            reply_to: (extras & 1 > 0).then_some(&[4; 16][..]),
            thread_id: (extras & 2 > 0).then_some(b"thread".as_slice()),
            ..Header::new(Id::new(1_707_055_200_000, [9; 8]), Type::MESSAGE, "did:web:a#k", to)
        };
        let builder = Builder::new(header).body(body);
        let builder = if extras & 4 > 0 { builder.ext(b"\xa1\x61x\x01") } else { builder };
        let mut out = Vec::new();
        let sig = (extras & 8 > 0 || key_encoding == KeyEncoding::Text).then_some(&[7; SIG_BYTES]);
        builder.write(key_encoding, sig, &mut out).expect("expressible");
        out
    }

    fn same(quick: &EnvelopeView<'_>, any: &EnvelopeView<'_>) {
        assert_eq!((quick.key_encoding, quick.v, quick.header), (any.key_encoding, any.v, any.header));
        assert_eq!((quick.sig, quick.body, quick.enc, quick.ext), (any.sig, any.body, any.enc, any.ext));
        assert_eq!(quick.frame, any.frame);
    }

    #[test]
    fn what_we_write_is_read_in_one_line() {
        for extras in 0..16 {
            for ttl in [0, 23, 24, 86_400_000, u64::MAX] {
                for key_encoding in [KeyEncoding::Text, KeyEncoding::Int] {
                    let frame = frame(key_encoding, To::One("did:web:b"), extras, ttl, b"\x82\x01\x61y");
                    let Ok(Frame::Envelope(any)) = parse_any(&frame) else { panic!("not a message") };
                    same(&read(&frame).expect("in order"), &any);
                }
                let frame = frame(KeyEncoding::Text, To::Many(&["did:web:b", "did:web:c"]), extras, ttl, b"\xf6");
                let Ok(Frame::Envelope(any)) = parse_any(&frame) else { panic!("not a message") };
                same(&read(&frame).expect("in order"), &any);
            }
        }
    }

    proptest! {
        /// Whatever this pass takes, the other one takes, and finds the same in it.
        #[test]
        fn nothing_is_taken_that_the_other_pass_refuses(
            int: bool,
            extras in 0_u8..16,
            ttl: u64,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 0..4),
        ) {
            let key_encoding = if int { KeyEncoding::Int } else { KeyEncoding::Text };
            let mut frame = frame(key_encoding, To::One("did:web:b"), extras, ttl, b"\xa1\x61k\x43abc");
            for (at, byte, how) in changes {
                let at = at.index(frame.len());
                match how {
                    0 => frame[at] = byte,
                    1 => frame.insert(at, byte),
                    _ => { frame.remove(at); }
                }
            }
            if let Some(quick) = read(&frame) {
                match parse_any(&frame) {
                    Ok(Frame::Envelope(any)) => same(&quick, &any),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}
