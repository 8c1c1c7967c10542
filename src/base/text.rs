//! Texts from elsewhere: which characters may stand in them, and how an answer repeats one. Knows no bound of any field.

use std::{borrow::Cow, path::Path};

use super::glyph::{is_hidden, visible};

/// Characters of a text that [`quoted`] repeats at the most.
const QUOTED_CHARS_MAX: usize = 64;

/// What some programs put before a text that they write as UTF-8. It is no part of the text.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The text of a file as other programs write it: UTF-8, or UTF-16 with a byte order mark. The mark is no part of the
/// text; U+FFFD stands for what is neither.
pub fn of_file(bytes: &[u8]) -> Cow<'_, str> {
    let utf16 = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = rest.chunks(2).map(|pair| pair.try_into().map_or(0xFFFD, unit));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8_lossy(rest),
        [0xFF, 0xFE, rest @ ..] => Cow::Owned(utf16(rest, u16::from_le_bytes)),
        [0xFE, 0xFF, rest @ ..] => Cow::Owned(utf16(rest, u16::from_be_bytes)),
        bytes => String::from_utf8_lossy(bytes),
    }
}

/// Whether a character may stand in a line for people: it is no control character, begins no line of its own, and does
/// not turn round what follows it.
pub fn is_plain(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !(c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// The first character that a name, or another text of one line, must not hold.
pub fn unfit_for_a_line(text: &str) -> Option<char> {
    text.chars().find(|c| !is_plain(*c))
}

/// The first character that a text of several lines must not hold: control characters but line ends and tabs.
pub fn unfit_for_lines(text: &str) -> Option<char> {
    text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// A text as an answer repeats it: in quotes, what cannot be seen as its number, cut with a mark where it is long.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A path as a line for people names it. The names in it come from elsewhere, so nothing in them hides or ends the
/// line.
pub fn path_line(path: &Path) -> String {
    visible(&path.to_string_lossy()).into_owned()
}

/// As a shell takes it, with what cannot be seen as its bytes (`$'...'`).
pub fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    if !text.chars().any(is_hidden) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    let mut quoted = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\'' | '\\' => quoted.extend(['\\', c]),
            c if is_hidden(c) => quoted.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\x{byte:02x}"))),
            c => quoted.push(c),
        }
    }
    quoted + "'"
}

/// The text as one line of at most `bytes_max` bytes, with a mark where it was cut: a blank stands for each line end and
/// tab, U+FFFD for whatever else has no place in a line.
pub fn line(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max && unfit_for_a_line(text).is_none() {
        return Cow::Borrowed(text);
    }
    let fit = |c| match c {
        '\n' | '\r' | '\t' => ' ',
        c if is_plain(c) => c,
        _ => char::REPLACEMENT_CHARACTER,
    };
    let mut line = String::new();
    // A replacement is longer than what it stands for: bytes are counted as they are written.
    for c in text.chars().map(fit) {
        line.push(c);
        if line.len() > bytes_max {
            line.truncate(line.floor_char_boundary(bytes_max.saturating_sub('…'.len_utf8())));
            line.push('…');
            break;
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_steers_nothing_and_turns_nothing_round() {
        assert_eq!(unfit_for_a_line("Łukasz' phone 📱"), None);
        for bad in
            ["a\nb", "a\tb", "\x1b[2J", "\u{9b}2J", "\0", "\x7f", "\u{2028}", "\u{202e}gpj.exe", "\u{2067}", "\u{200f}"]
        {
            assert!(unfit_for_a_line(bad).is_some(), "{bad:?}");
        }
        assert_eq!(unfit_for_lines("one\r\n\ttwo"), None);
        assert_eq!(unfit_for_lines("one\x1b[2J"), Some('\x1b'));
    }

    #[test]
    fn a_file_of_another_system_is_read() {
        let text = "ssh-ed25519 AAAA größer 🙂\n";
        let units = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
            [b"\xFF\xFE", &units(u16::to_le_bytes)[..]].concat(),
            [b"\xFE\xFF", &units(u16::to_be_bytes)[..]].concat(),
        ] {
            assert_eq!(of_file(&bytes), text);
        }
        assert_eq!(of_file(b"\xFF\xFEa\0b"), "a\u{fffd}");
        assert_eq!(of_file(b"a\xFF"), "a\u{fffd}");
    }

    #[test]
    fn what_is_repeated_is_short_and_shows_what_cannot_be_seen() {
        assert_eq!(quoted("dance"), "\"dance\"");
        assert_eq!(quoted("a\"\x1b\n\u{202e}"), r#""a\"\u{1b}\n\u{202e}""#);
        assert_eq!(quoted(&"ü".repeat(900_000)), format!("\"{}\"…", "ü".repeat(64)));
    }

    #[test]
    fn what_is_printed_can_be_pasted() {
        assert_eq!(shell_quoted("/home/you/target/release/amp-relay"), "/home/you/target/release/amp-relay");
        assert_eq!(shell_quoted("/my work/it's"), "'/my work/it'\\''s'");
        assert_eq!(shell_quoted(""), "''");
        let odd = "k\x1b[2K\r'\\ \u{202e}ü";
        let quoted = shell_quoted(odd);
        assert_eq!(quoted, r"$'k\x1b[2K\x0d\'\\ \xe2\x80\xaeü'");
        let printed = std::process::Command::new("bash").args(["-c", &format!("printf %s {quoted}")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&printed.stdout), odd);
    }

    #[test]
    fn a_path_is_one_line_in_which_nothing_hides() {
        assert_eq!(path_line(Path::new("/home/größe/id.pub")), "/home/größe/id.pub");
        assert_eq!(path_line(Path::new("a\r\x1b[2K\n\u{8}b")), "a<U+000D><U+001B>[2K<U+000A><U+0008>b");
    }

    #[test]
    fn a_line_is_cut_and_cleaned() {
        assert_eq!(line("as it is", 8), "as it is");
        assert_eq!(line("as\tit\nis", 8), "as it is");
        assert_eq!(line("one\ntwo\x1b[31m", 64), "one two\u{fffd}[31m");
        assert_eq!(line("abcdefgh", 7), "abcd…");
        assert_eq!(line("añañaña", 7), "aña…");
    }

    proptest! {
        #[test]
        fn a_line_is_a_line_within_its_bound(text in "\\PC{0,20}|.{0,20}", bytes_max in 3_usize..40) {
            let line = line(&text, bytes_max);
            prop_assert!(line.len() <= bytes_max && unfit_for_a_line(&line).is_none(), "{line:?}");
        }
    }
}
