//! Writing items: always the shortest head, appended to a caller's vector. The order of map keys is the caller's.

use super::{ARRAY, BYTES, FALSE, MAP, NULL, TEXT, TRUE, UINT};

/// The shortest head of this major type and argument.
#[inline]
pub fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    match argument {
        0..24 => out.push(major | argument as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, argument as u8]),
        0x100..0x1_0000 => out.extend_from_slice(&[major | 25, bytes[6], bytes[7]]),
        0x1_0000..0x1_0000_0000 => out.extend_from_slice(&[major | 26, bytes[4], bytes[5], bytes[6], bytes[7]]),
        _ => {
            let [a, b, c, d, e, f, g, h] = bytes;
            out.extend_from_slice(&[major | 27, a, b, c, d, e, f, g, h]);
        }
    }
}

/// An unsigned integer.
#[inline]
pub fn uint(out: &mut Vec<u8>, value: u64) {
    head(out, UINT, value);
}

/// A text string.
#[inline]
pub fn text(out: &mut Vec<u8>, value: &str) {
    head(out, TEXT, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

/// A byte string.
#[inline]
pub fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    head(out, BYTES, value.len() as u64);
    out.extend_from_slice(value);
}

/// The head of an array; its elements are to follow.
#[inline]
pub fn array(out: &mut Vec<u8>, elements: usize) {
    head(out, ARRAY, elements as u64);
}

/// The head of a map; its pairs are to follow, in the order of their keys' bytes if it is to be deterministic.
#[inline]
pub fn map(out: &mut Vec<u8>, pairs: usize) {
    head(out, MAP, pairs as u64);
}

/// A boolean.
#[inline]
pub fn boolean(out: &mut Vec<u8>, value: bool) {
    out.push(if value { TRUE } else { FALSE });
}

/// Null.
#[inline]
pub fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(NULL);
}
