//! WebSocket masking (RFC 6455 section 5.3): XOR with a key of four bytes, in place.
//!
//! Written as a loop over whole words that the compiler turns into vector instructions; nothing is read or written
//! outside of the payload.

/// Bytes handled by one step of the main loop.
const LANES: usize = 32;
/// Bytes that are moved at once: as many as fit into registers.
const BLOCK: usize = 128;

/// Masks or unmasks `bytes`, which begin with the payload's first byte.
#[inline]
pub fn apply(key: [u8; 4], bytes: &mut [u8]) {
    let word = u64::from(u32::from_ne_bytes(key));
    let word = word << 32 | word;
    let (blocks, rest) = bytes.as_chunks_mut::<LANES>();
    for block in blocks {
        for lane in block.as_chunks_mut::<8>().0 {
            *lane = (u64::from_ne_bytes(*lane) ^ word).to_ne_bytes();
        }
    }
    // What is left is shorter than a block: each width at most once, so that small payloads cost few branches.
    let rest = step::<16>(key, rest);
    let rest = step::<8>(key, rest);
    let rest = step::<4>(key, rest);
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Masks the first `N` bytes, if so many are there, and gives the rest. `N` is a multiple of the key's length, so the
/// rest begins with the key's first byte again.
#[inline(always)]
fn step<const N: usize>(key: [u8; 4], bytes: &mut [u8]) -> &mut [u8] {
    let Some((front, _)) = bytes.split_first_chunk_mut::<N>() else { return bytes };
    for word in front.as_chunks_mut::<4>().0 {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    &mut bytes[N..]
}

/// Masks or unmasks a part of a payload that starts `offset` bytes into it.
#[inline]
pub fn apply_at(mut key: [u8; 4], offset: usize, bytes: &mut [u8]) {
    key.rotate_left(offset % 4);
    apply(key, bytes);
}

/// Unmasks the `len` bytes at `from` to where they belong at `to`, in front of it, in one pass; what lies there is
/// written over, what lies between keeps some value.
///
/// # Panics
/// `to` is behind `from`, or the bytes end before `from + len`.
#[inline]
pub fn apply_onward(key: [u8; 4], bytes: &mut [u8], from: usize, to: usize, len: usize) {
    assert!(to <= from && from + len <= bytes.len(), "a payload moves to the front");
    let shift = from - to;
    let bytes = &mut bytes[to..from + len];
    match len {
        BLOCK.. => blocks::<BLOCK>(key, bytes, shift, len),
        32.. => blocks::<32>(key, bytes, shift, len),
        _ => short(key, bytes, shift, len),
    }
}

/// At least one block of `N` bytes, which is a multiple of 8.
#[inline(always)]
fn blocks<const N: usize>(key: [u8; 4], bytes: &mut [u8], shift: usize, len: usize) {
    let word = u64::from(u32::from_ne_bytes(key));
    let word = word << 32 | word;
    let load = |bytes: &[u8], at: usize| bytes[at..].first_chunk::<N>().copied().unwrap_or([0; N]);
    let unmask = |mut block: [u8; N], word: u64| {
        for lane in block.as_chunks_mut::<8>().0 {
            *lane = (u64::from_ne_bytes(*lane) ^ word).to_ne_bytes();
        }
        block
    };
    // The last block overlaps the one before; it is read now because its place may be written over on the way.
    let last = load(bytes, len - N + shift);
    let mut at = 0;
    // Whole blocks are read before they are written, and what is written ends before what is read next.
    while at + N < len {
        let block = unmask(load(bytes, at + shift), word);
        bytes[at..at + N].copy_from_slice(&block);
        at += N;
    }
    // The key as it stands at the last block's first byte.
    let turned = u32::from_le_bytes(key).rotate_right(8 * (len as u32 % 4));
    let word = u64::from(u32::from_ne_bytes(turned.to_le_bytes()));
    bytes[len - N..len].copy_from_slice(&unmask(last, word | word << 32));
}

/// Less than the smallest block.
#[inline]
fn short(key: [u8; 4], bytes: &mut [u8], shift: usize, len: usize) {
    let word = u64::from(u32::from_ne_bytes(key));
    let word = word << 32 | word;
    let mut at = 0;
    while at + 8 <= len {
        let mut lane = [0; 8];
        lane.copy_from_slice(&bytes[at + shift..at + shift + 8]);
        bytes[at..at + 8].copy_from_slice(&(u64::from_ne_bytes(lane) ^ word).to_ne_bytes());
        at += 8;
    }
    (at..len).for_each(|at| bytes[at] = bytes[at + shift] ^ key[at % 4]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_unmasked_onward_are_those_unmasked_in_place() {
        let source: Vec<u8> = (0..700).map(|i: u32| (i.wrapping_mul(41) >> 1) as u8).collect();
        for to in [0, 1, 5, 60] {
            for shift in [0, 1, 4, 7, 31, 64, 100, 200] {
                for len in (0..200).chain([255, 256, 257, 383, 384, 385, 400]) {
                    let from = to + shift;
                    let mut moved = source.clone();
                    apply_onward([9, 8, 7, 6], &mut moved, from, to, len);
                    let mut still = source[from..from + len].to_vec();
                    apply([9, 8, 7, 6], &mut still);
                    assert_eq!(moved[to..to + len], still, "from {from} to {to}, length {len}");
                    assert_eq!(moved[..to], source[..to]);
                    assert_eq!(moved[from + len..], source[from + len..]);
                }
            }
        }
    }

    fn naive(key: [u8; 4], offset: usize, bytes: &mut [u8]) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(offset + i) % 4];
        }
    }

    #[test]
    fn agrees_with_the_naive_loop_at_every_offset_and_length() {
        let key = [0x12, 0xF4, 0x00, 0xA9];
        let source: Vec<u8> = (0..200).map(|i: u32| (i.wrapping_mul(37) >> 1) as u8).collect();
        // The start moves the payload through every alignment, the offset the key through every rotation.
        for start in 0..33 {
            for len in 0..=source.len() - start {
                let offset = len % 7;
                let mut fast = source[start..start + len].to_vec();
                let mut slow = fast.clone();
                apply_at(key, offset, &mut fast);
                naive(key, offset, &mut slow);
                assert_eq!(fast, slow, "start {start}, length {len}, offset {offset}");
            }
        }
        let mut whole = source.clone();
        for start in 0..64 {
            apply(key, &mut whole[start..]);
            apply(key, &mut whole[start..]);
            assert_eq!(whole, source, "twice is the identity, start {start}");
        }
    }
}
