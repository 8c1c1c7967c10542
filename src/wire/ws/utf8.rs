//! UTF-8 checked piece by piece: a sequence may be cut anywhere, and a wrong byte is refused when it is seen.

use std::str;

/// The bytes of a sequence that is cut by the end of the last piece.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    carry: [u8; 4],
    len: u8,
}

/// No continuation can make the bytes seen so far valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8 {
    /// Takes the next piece of the text.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            let len = usize::from(self.len);
            self.carry[len] = byte;
            match str::from_utf8(&self.carry[..=len]) {
                Ok(_) => self.len = 0,
                // A prefix of a valid sequence has at most three bytes, so the next index stays within the four.
                Err(e) if e.error_len().is_none() => self.len += 1,
                Err(_) => return Err(NotUtf8),
            }
        }
        match str::from_utf8(piece) {
            Ok(_) => Ok(()),
            Err(e) if e.error_len().is_none() => {
                let tail = &piece[e.valid_up_to()..];
                self.carry[..tail.len()].copy_from_slice(tail);
                self.len = tail.len() as u8;
                Ok(())
            }
            Err(_) => Err(NotUtf8),
        }
    }

    /// Whether the text may end here.
    pub(super) fn is_whole(self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pieces: &[&[u8]]) -> Result<bool, NotUtf8> {
        let mut utf8 = Utf8::default();
        for piece in pieces {
            utf8.feed(piece)?;
        }
        Ok(utf8.is_whole())
    }

    #[test]
    fn a_wrong_byte_is_refused_when_it_is_seen() {
        // U+D800 is a surrogate: its second byte is already wrong, the third need not be waited for.
        assert_eq!(check(&[b"\xED", b"\xA0"]), Err(NotUtf8));
        // Above U+10FFFF, overlong, a lone continuation.
        assert_eq!(check(&[b"\xF4", b"\x90"]), Err(NotUtf8));
        assert_eq!(check(&[b"\xE0", b"\x80"]), Err(NotUtf8));
        assert_eq!(check(&[b"\xC0"]), Err(NotUtf8));
        assert_eq!(check(&[b"\x80"]), Err(NotUtf8));
        assert_eq!(check(&[b"\xE2\x82"]), Ok(false));
        assert_eq!(check(&[b"\xF0", b"\x9F", b"\x98", b"\x80"]), Ok(true));
    }

    proptest! {
        #[test]
        fn agrees_with_the_whole_text_at_any_cut(
            text in prop_oneof![any::<String>().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..40)],
            cuts in prop::collection::vec(0usize..48, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let whole = match str::from_utf8(&text) {
                Ok(_) => Ok(true),
                Err(e) if e.error_len().is_none() => Ok(false),
                Err(_) => Err(NotUtf8),
            };
            prop_assert_eq!(check(&pieces), whole);
        }
    }
}
