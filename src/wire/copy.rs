//! Copies of large bodies, in pieces.
//!
//! C libraries switch to `rep movsb` for copies above about 2 KiB on processors that advertise it as fast. When the
//! destination sits 1 to 31 bytes behind the source modulo 4096, that instruction is 20 to 45 times slower than an
//! ordinary loop (glibc bug 30994), and a frame's payload, a few bytes behind its header, sits there all the time. A
//! copy in pieces of 2 KiB never reaches the threshold.

/// Bytes of one piece: the largest power of two below the threshold at which `memcpy` changes its way.
pub const PIECE: usize = 2048;

/// Appends `bytes` to `to`, reserving at most once (amortized, as `Vec` does).
#[inline]
pub fn append(to: &mut Vec<u8>, bytes: &[u8]) {
    to.reserve(bytes.len());
    for piece in bytes.chunks(PIECE) {
        to.extend_from_slice(piece);
    }
}

/// Copies the front of `from` over the front of `to`, as much as the shorter one holds, and says how much that was.
#[inline]
pub fn fill(to: &mut [u8], from: &[u8]) -> usize {
    let len = to.len().min(from.len());
    for (to, from) in to[..len].chunks_mut(PIECE).zip(from[..len].chunks(PIECE)) {
        to.copy_from_slice(from);
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_around_the_pieces_is_copied_whole() {
        let source: Vec<u8> = (0..3 * PIECE + 7).map(|i| (i % 251) as u8).collect();
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE, 3 * PIECE + 7] {
            let mut to = b"head".to_vec();
            append(&mut to, &source[..len]);
            assert_eq!(&to[..4], b"head");
            assert_eq!(&to[4..], &source[..len]);

            let mut room = vec![0xAA; len + 3];
            assert_eq!(fill(&mut room, &source[..len]), len);
            assert_eq!(&room[..len], &source[..len]);
            assert_eq!(&room[len..], [0xAA; 3]);
        }
    }

    #[test]
    fn a_short_destination_takes_what_fits() {
        let mut room = [0; 3];
        assert_eq!(fill(&mut room, b"abcdef"), 3);
        assert_eq!(&room, b"abc");
    }
}
