//! Close payloads (RFC 6455 sections 5.5.1 and 7.4).

use crate::base::{CloseCode, Fault};

/// Whether a peer may put this code into a close frame: the defined codes and the ranges for libraries and
/// applications. 1005, 1006 and 1015 are names for what was not sent; 1014 is registered with IANA.
fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads the payload of a close frame.
pub(super) fn read(payload: &[u8]) -> Result<Option<(CloseCode, &str)>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Fault::new(CloseCode::PROTOCOL, "close payload of one byte"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !is_sendable(code) {
        return Err(Fault::new(CloseCode::PROTOCOL, "close code that must not be sent"));
    }
    match str::from_utf8(reason) {
        Ok(reason) => Ok(Some((CloseCode(code), reason))),
        Err(_) => Err(Fault::new(CloseCode::INVALID_DATA, "close reason is not UTF-8")),
    }
}

/// The payload of a close frame, at most 125 bytes: a longer reason is cut at a character. A code that must not be
/// sent gives the empty payload, which says "no status".
pub(super) fn write(code: CloseCode, reason: &str) -> ([u8; super::CONTROL_MAX], usize) {
    let mut payload = [0; super::CONTROL_MAX];
    if !is_sendable(code.0) {
        return (payload, 0);
    }
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(super::CONTROL_MAX - 2)];
    payload[..2].copy_from_slice(&code.0.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason);
    (payload, 2 + reason.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let (payload, len) = write(CloseCode::POLICY, "no key");
        assert_eq!(read(&payload[..len]), Ok(Some((CloseCode::POLICY, "no key"))));
        assert_eq!(read(b""), Ok(None));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let (payload, len) = write(CloseCode::NORMAL, &"ü".repeat(100));
        assert_eq!(len, 2 + 122);
        assert_eq!(read(&payload[..len]), Ok(Some((CloseCode::NORMAL, "ü".repeat(61).as_str()))));
    }

    #[test]
    fn a_code_that_must_not_be_sent_is_left_out() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(write(CloseCode(code), "x").1, 0, "{code}");
        }
    }
}
