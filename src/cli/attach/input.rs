//! What a terminal sends, byte by byte, as keys. Sequences that are no key (reports and replies of the terminal,
//! unknown ones) are passed over as a whole: no part of them is taken for typed text, and nothing behind them is
//! swallowed. Reads nothing and knows no clock: the caller says when a sequence was left unfinished.
//!
//! A text that is pasted may hold the mark by which a paste ends, where a terminal passes that on, and what follows it
//! would be keys. So what comes behind the mark is pasted too until nothing has come for [`AFTER_PASTE`].

use std::{mem, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Bytes of a sequence that are kept to understand it, or to show it; of a longer one only the end is looked for.
const SEQUENCE_MAX: usize = 64;
/// Bytes of a paste that are kept: far above the bound of a prompt, which the editor tells.
const PASTE_MAX: usize = 16 * 1024 * 1024;
const PASTE_END: &[u8] = b"\x1b[201~";

/// How long the rest of what a person may have begun is waited for.
const BY_HAND: Duration = Duration::from_millis(50);
/// The same for what only a terminal sends.
const BY_TERMINAL: Duration = Duration::from_millis(200);
/// How long nothing has to come behind the end of a paste until something is a key again.
const AFTER_PASTE: Duration = Duration::from_millis(100);

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Key(KeyEvent),
    Paste(String),
}

/// Where a sequence stands.
#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    /// Within a character of several bytes.
    Utf8 {
        bytes: [u8; 4],
        has: usize,
        wants: usize,
    },
    /// Behind ESC.
    Escape,
    /// Behind ESC [.
    Csi(Vec<u8>),
    /// Behind ESC O, with the digits that stand for modifiers.
    Ss3(Vec<u8>),
    /// Behind ESC [ [, as the Linux console begins its function keys.
    Console,
    /// Behind ESC [ M, a click in the oldest form: so many of its three parts are to come, each of any byte.
    Click(u8),
    /// In a text for the program (OSC, DCS, APC, PM, SOS) behind ESC and this byte, until its end.
    Text {
        begun_by: u8,
        text: Vec<u8>,
        escaped: bool,
    },
    Paste(Vec<u8>),
}

/// The reader's state between two reads.
#[derive(Debug, Default)]
pub(super) struct Parser {
    state: State,
    /// A paste has ended, and nothing says yet that all of it has come.
    after_paste: bool,
}

impl Parser {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<Input>) {
        for &byte in bytes {
            let (from, after_paste) = (out.len(), self.after_paste);
            self.byte(byte, out);
            if after_paste {
                as_pasted(from, out);
            }
        }
    }

    /// How long the rest of a sequence is waited for, if one is not at its end, or more behind a paste. A paste itself
    /// ends when its end comes, however late. A terminal writes a sequence at once. Escape alone, or with another key,
    /// may be a person's.
    pub(super) fn wait(&self) -> Option<Duration> {
        let wait = match &self.state {
            State::Paste(_) => return None,
            State::Ground => None,
            State::Escape | State::Ss3(_) | State::Click(_) => Some(BY_HAND),
            State::Csi(begun) | State::Text { text: begun, .. } if begun.is_empty() => Some(BY_HAND),
            _ => Some(BY_TERMINAL),
        };
        wait.max(self.after_paste.then_some(AFTER_PASTE))
    }

    /// Nothing came for a while: what was begun is over. Escape alone is no key here.
    pub(super) fn give_up(&mut self, out: &mut Vec<Input>) {
        let from = out.len();
        self.end_sequence(out);
        if mem::take(&mut self.after_paste) {
            as_pasted(from, out);
        }
    }

    fn end_sequence(&mut self, out: &mut Vec<Input>) {
        match mem::take(&mut self.state) {
            State::Csi(sequence) => spill(b'[', &sequence, out),
            State::Text { begun_by, text, .. } => spill(begun_by, &text, out),
            State::Ss3(digits) => spill(b'O', &digits, out),
            State::Console => spill(b'[', b"[", out),
            State::Utf8 { .. } => out.push(BROKEN),
            paste @ State::Paste(_) => self.state = paste,
            _ => {}
        }
    }

    /// A key cuts a sequence short, which then was none. The key counts, unless it is Enter: the text there is not what
    /// was meant.
    fn cut(&mut self, begun_by: u8, sequence: &[u8], byte: u8, out: &mut Vec<Input>) {
        spill(begun_by, sequence, out);
        if !matches!(byte, b'\r' | b'\n') {
            self.ground(byte, out);
        }
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<Input>) {
        match mem::take(&mut self.state) {
            State::Ground => self.ground(byte, out),
            State::Utf8 { mut bytes, has, wants } => {
                if byte & 0xc0 != 0x80 {
                    out.push(BROKEN);
                    return self.ground(byte, out);
                }
                bytes[has] = byte;
                if has + 1 < wants {
                    self.state = State::Utf8 { bytes, has: has + 1, wants };
                    return;
                }
                match str::from_utf8(&bytes[..wants]) {
                    Ok(text) => out.extend(text.chars().map(plain)),
                    Err(_) => out.push(BROKEN),
                }
            }
            State::Escape => self.escape(byte, out),
            State::Csi(mut sequence) => match byte {
                b'[' if sequence.is_empty() => self.state = State::Console,
                b'M' if sequence.is_empty() => self.state = State::Click(3),
                // So rxvt ends a key that is pressed with Shift.
                b'$' if !sequence.is_empty() && sequence.iter().all(u8::is_ascii_digit) => {
                    self.csi(&[&sequence[..], b";2"].concat(), b'~', out);
                }
                0x20..=0x3f => {
                    if sequence.len() < SEQUENCE_MAX {
                        sequence.push(byte);
                    }
                    self.state = State::Csi(sequence);
                }
                0x40..=0x7e => self.csi(&sequence, byte, out),
                _ => self.cut(b'[', &sequence, byte, out),
            },
            State::Ss3(mut digits) => match byte {
                b'0'..=b'9' if digits.len() < 2 => {
                    digits.push(byte);
                    self.state = State::Ss3(digits);
                }
                0x20..=0x7e => match ss3_key(byte, &digits) {
                    Some(input) => out.extend(input),
                    None => spill(b'O', &[&digits[..], &[byte]].concat(), out),
                },
                _ => self.cut(b'O', &digits, byte, out),
            },
            State::Console => match byte {
                b'A'..=b'E' => {}
                0x20..=0x7e => spill(b'[', &[b'[', byte], out),
                _ => self.cut(b'[', b"[", byte, out),
            },
            State::Click(_) if byte == ESC => self.state = State::Escape,
            // The second byte of a part that is a character of two.
            State::Click(left) if matches!(byte, 0xc2..=0xdf) => self.state = State::Click(left),
            State::Click(left) if left > 1 => self.state = State::Click(left - 1),
            State::Click(_) => {}
            State::Text { begun_by, mut text, escaped } => match byte {
                BEL => {}
                b'\\' if escaped => {}
                ESC => self.state = State::Text { begun_by, text, escaped: true },
                // What follows ESC is a sequence of its own: this was no text.
                _ if escaped => {
                    spill(begun_by, &text, out);
                    self.escape(byte, out);
                }
                // Such a text has no control character: this is a key.
                0x00..=0x1f | 0x7f => self.cut(begun_by, &text, byte, out),
                _ => {
                    if text.len() < SEQUENCE_MAX {
                        text.push(byte);
                    }
                    self.state = State::Text { begun_by, text, escaped: false };
                }
            },
            State::Paste(mut text) => {
                text.push(byte);
                if text.ends_with(PASTE_END) {
                    text.truncate(text.len() - PASTE_END.len());
                    out.push(Input::Paste(String::from_utf8_lossy(&text).into_owned()));
                    self.after_paste = true;
                    return;
                }
                if text.len() > PASTE_MAX {
                    // The end is still looked for.
                    text.drain(PASTE_MAX / 2..text.len() - PASTE_END.len());
                }
                self.state = State::Paste(text);
            }
        }
    }

    fn ground(&mut self, byte: u8, out: &mut Vec<Input>) {
        let wants = match byte {
            ESC => {
                self.state = State::Escape;
                return;
            }
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80.. => return out.push(BROKEN),
            _ => return out.extend(single(byte, KeyModifiers::NONE)),
        };
        self.state = State::Utf8 { bytes: [byte, 0, 0, 0], has: 1, wants };
    }

    fn escape(&mut self, byte: u8, out: &mut Vec<Input>) {
        match byte {
            b'[' => self.state = State::Csi(Vec::new()),
            b'O' => self.state = State::Ss3(Vec::new()),
            b']' | b'P' | b'_' | b'^' | b'X' => {
                self.state = State::Text { begun_by: byte, text: Vec::new(), escaped: false };
            }
            ESC => self.state = State::Escape,
            0x80.. => self.ground(byte, out),
            _ => out.extend(single(byte, KeyModifiers::ALT)),
        }
    }

    fn csi(&mut self, sequence: &[u8], last: u8, out: &mut Vec<Input>) {
        if sequence.is_empty() && last.is_ascii_lowercase() {
            // No terminal sends this.
            return spill(b'[', &[last], out);
        }
        let is_plain = sequence.iter().all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':'));
        let Some(sequence) = str::from_utf8(sequence).ok().filter(|_| is_plain) else { return };
        let mut parameters = sequence.split(';');
        let first = parameters.next().unwrap_or_default();
        let mut second = parameters.next().unwrap_or_default().split(':');
        let Some(modifiers) = modifiers_of(second.next().unwrap_or_default()) else { return };
        // The third kind of event is a key that is let go.
        if second.next() == Some("3") {
            return;
        }
        let third = parameters.next().and_then(|third| third.parse().ok());
        let number: u32 = first.split(':').next().unwrap_or_default().parse().unwrap_or(1);
        match last {
            b'~' if number == 200 => self.state = State::Paste(Vec::new()),
            b'~' if number == 27 => out.extend(third.and_then(|code| unicode_key(code, modifiers))),
            b'~' => out.extend(numbered_key(number, modifiers)),
            b'u' => out.extend(unicode_key(number, modifiers)),
            // A click in a form with numbers has more of them.
            _ if third.is_none() => out.extend(cursor_key(last, modifiers)),
            _ => {}
        }
    }
}

const fn key(code: KeyCode, modifiers: KeyModifiers) -> Input {
    Input::Key(KeyEvent::new(code, modifiers))
}

/// A character, pressed alone.
const fn plain(c: char) -> Input {
    key(KeyCode::Char(c), KeyModifiers::NONE)
}

/// Makes pasted text of keys: those that are no text mean nothing there.
fn as_pasted(from: usize, out: &mut Vec<Input>) {
    for input in out.split_off(from) {
        let text = match input {
            Input::Paste(text) => text,
            Input::Key(KeyEvent { code: KeyCode::Enter, .. }) => "\n".into(),
            Input::Key(KeyEvent { code: KeyCode::Tab, .. }) => "\t".into(),
            Input::Key(KeyEvent { code: KeyCode::Char('j'), modifiers: KeyModifiers::CONTROL, .. }) => "\n".into(),
            Input::Key(KeyEvent { code: KeyCode::Char(c), modifiers, .. })
                if !modifiers.contains(KeyModifiers::CONTROL) =>
            {
                c.into()
            }
            Input::Key(_) => continue,
        };
        match out.last_mut() {
            Some(Input::Paste(before)) => before.push_str(&text),
            _ => out.push(Input::Paste(text)),
        }
    }
}

/// Stands for bytes that are no character, so that they are seen.
const BROKEN: Input = plain(char::REPLACEMENT_CHARACTER);

/// A key behind ESC O: `None` if no terminal sends it, `Some(None)` if it means nothing here.
fn ss3_key(last: u8, digits: &[u8]) -> Option<Option<Input>> {
    let modifiers = modifiers_of(str::from_utf8(digits).unwrap_or_default());
    Some(match last {
        b'A'..=b'D' | b'F' | b'H' => cursor_key(last, modifiers?),
        // So rxvt names them with Control.
        b'a'..=b'd' => cursor_key(last.to_ascii_uppercase(), KeyModifiers::CONTROL),
        b'M' => Some(key(KeyCode::Enter, modifiers?)),
        b'P'..=b'S' => None,
        // The keypad: * + , - . / and the digits.
        b'j'..=b'y' => Some(plain(char::from(last - b'j' + b'*'))),
        _ => return None,
    })
}

/// What looked like a sequence and is none: it is shown as it came, behind what was typed before, which is no answer then.
fn spill(begun_by: u8, sequence: &[u8], out: &mut Vec<Input>) {
    let text = String::from_utf8_lossy(sequence);
    let chars = std::iter::once(char::from(begun_by)).chain(text.chars());
    out.extend(chars.map(plain));
}

/// What one byte is.
fn single(byte: u8, modifiers: KeyModifiers) -> Option<Input> {
    let control = modifiers | KeyModifiers::CONTROL;
    Some(match byte {
        b'\r' => key(KeyCode::Enter, modifiers),
        b'\t' => key(KeyCode::Tab, modifiers),
        0x7f => key(KeyCode::Backspace, modifiers),
        0x00 => key(KeyCode::Char(' '), control),
        0x01..=0x1a => key(KeyCode::Char(char::from(byte - 1 + b'a')), control),
        0x1c..=0x1f => key(KeyCode::Char(char::from(byte - 0x1c + b'4')), control),
        0x20..=0x7e => key(KeyCode::Char(char::from(byte)), modifiers),
        _ => return None,
    })
}

/// One more than a set of bits. None: with a modifier that makes it another key.
fn modifiers_of(parameter: &str) -> Option<KeyModifiers> {
    const LOCKS: u8 = 64 | 128;
    let bits = parameter.parse::<u8>().unwrap_or(1).saturating_sub(1) & !LOCKS;
    (bits < 8).then(|| {
        let all = [(1, KeyModifiers::SHIFT), (2, KeyModifiers::ALT), (4, KeyModifiers::CONTROL)];
        all.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, modifier)| modifier).collect()
    })
}

fn cursor_key(last: u8, modifiers: KeyModifiers) -> Option<Input> {
    let code = match last {
        b'A' => KeyCode::Up,
        b'B' => KeyCode::Down,
        b'C' => KeyCode::Right,
        b'D' => KeyCode::Left,
        b'H' => KeyCode::Home,
        b'F' => KeyCode::End,
        _ => return None,
    };
    Some(key(code, modifiers))
}

fn numbered_key(number: u32, modifiers: KeyModifiers) -> Option<Input> {
    let code = match number {
        1 | 7 => KeyCode::Home,
        3 => KeyCode::Delete,
        4 | 8 => KeyCode::End,
        5 => KeyCode::PageUp,
        6 => KeyCode::PageDown,
        _ => return None,
    };
    Some(key(code, modifiers))
}

/// A key by its character, as terminals of the newer kind name them.
fn unicode_key(code: u32, modifiers: KeyModifiers) -> Option<Input> {
    match (code, char::from_u32(code)?) {
        (9 | 13 | 127, _) => single(u8::try_from(code).ok()?, modifiers),
        // Escape, and functional keys.
        (0..=31 | 0xe000..=0xf8ff, _) => None,
        (_, c) if modifiers.contains(KeyModifiers::SHIFT) => {
            Some(key(KeyCode::Char(c.to_uppercase().next().unwrap_or(c)), modifiers))
        }
        (_, c) => Some(key(KeyCode::Char(c), modifiers)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Input> {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(bytes, &mut out);
        out
    }

    fn typed(text: &str) -> Vec<Input> {
        text.chars().map(plain).collect()
    }

    /// What terminals send without a key being pressed.
    const REPORTS: [&str; 20] = [
        "\x1b[M !!",
        "\x1b[32;1;5M",
        "\x1b[<0;5;5M",
        "\x1b[4;2$y",
        "\x1b[?2026;2$y",
        "\x1b[?997;1n",
        "\x1b[?1;2;3;4S",
        "\x1b[24;80;1R",
        "\x1b[24;80R",
        "\x1b[>1;10;0c",
        "\x1b[?62;22c",
        "\x1b[>4;1m",
        "\x1b[?1u",
        "\x1b[=1;1u",
        "\x1b[I",
        "\x1b]11;rgb:1e1e/1e1e/2e2e\x1b\\",
        "\x1b]52;c;eWVz\x07",
        "\x1bP>|xterm(367)\x1b\\",
        "\x1bP1+r524742=38\x1b\\",
        "\x1b_Gi=31;OK\x1b\\",
    ];

    #[test]
    fn a_report_of_the_terminal_is_no_key_and_swallows_none() {
        for report in REPORTS {
            for at in 0..=report.len() {
                let (mut parser, mut out) = (Parser::default(), Vec::new());
                parser.feed(&report.as_bytes()[..at], &mut out);
                parser.feed(&report.as_bytes()[at..], &mut out);
                parser.feed("n emergency".as_bytes(), &mut out);
                assert_eq!(out, typed("n emergency"), "{report:?} split at {at}");
            }
        }
    }

    #[test]
    fn what_is_left_unfinished_takes_nothing_that_is_typed_later() {
        for report in REPORTS {
            for at in 1..report.len() {
                let begun = || {
                    let (mut parser, mut out) = (Parser::default(), Vec::new());
                    parser.feed(&report.as_bytes()[..at], &mut out);
                    assert_eq!(out, [], "{report:?} left at {at}");
                    parser
                };
                let (mut parser, mut out) = (begun(), Vec::new());
                parser.give_up(&mut out);
                out.clear();
                parser.feed("n policy".as_bytes(), &mut out);
                assert_eq!(out, typed("n policy"), "{report:?} left at {at}");
                // A control key counts without a pause too, but not within a click: the parts of a click are any bytes.
                if report.starts_with("\x1b[M") && at > 2 {
                    continue;
                }
                let (mut parser, mut out) = (begun(), Vec::new());
                parser.feed(b"\x1d", &mut out);
                let escaped = report.as_bytes()[at - 1] == ESC;
                let modifiers = if escaped { KeyModifiers::ALT } else { KeyModifiers::NONE };
                assert_eq!(out.last(), single(0x1d, modifiers).as_ref(), "{report:?} left at {at}");
            }
        }
    }

    #[test]
    fn what_somebody_types_behind_escape_is_not_swallowed() {
        for begun_by in ["[", "O", "]", "P", "X", "^", "_", "O3", "[["] {
            let (mut parser, mut out) = (Parser::default(), Vec::new());
            parser.feed(format!("y\x1b{begun_by}").as_bytes(), &mut out);
            parser.give_up(&mut out);
            assert_eq!(out, typed(&format!("y{begun_by}")));
        }
        // All at once, as a slow line brings it: the line is not what was meant, so that its end does not count.
        assert_eq!(read(b"y\x1bPlease don't\r"), typed("yPlease don't"));
        for (bytes, shown) in [
            (&b"y\x1b[20\r"[..], "y[20"),
            (b"y\x1bO\r", "yO"),
            (b"y\x1bO3\r", "yO3"),
            (b"y\x1bOh", "yOh"),
            (b"y\x1bOk", "y+"),
            (b"y\x1b[[\r", "y[["),
            (b"y\x1b[[x", "y[[x"),
            (b"y\x1b[n", "y[n"),
            (b"y\xe9", "y"),
            (b"y\xe9n", "y\u{fffd}n"),
            (b"y\xff", "y\u{fffd}"),
        ] {
            assert_eq!(read(bytes), typed(shown), "{bytes:?}");
        }
        let enter = key(KeyCode::Enter, KeyModifiers::ALT);
        assert_eq!(read(b"y\x1bPlease no\x1b\r"), [typed("yPlease no"), vec![enter]].concat());
    }

    #[test]
    fn a_character_that_is_left_unfinished_is_seen() {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(b"y\xf0\x9f\x98", &mut out);
        assert_eq!(out, typed("y"), "the rest may come");
        parser.give_up(&mut out);
        parser.feed(b"\x80", &mut out);
        assert_eq!(out, typed("y\u{fffd}\u{fffd}"), "what stands there is no bare answer");
    }

    #[test]
    fn a_click_is_no_key_whatever_its_parts_are() {
        for click in [&b"\x1b[M \0Y"[..], b"\x1b[M \xc2\x84y", b"\x1b[M \r!", b"\x1b[M \xe8\xe9"] {
            assert_eq!(read(&[click, b"n no"].concat()), typed("n no"), "{click:?}");
        }
    }

    #[test]
    fn keys_are_known_in_every_form() {
        use KeyModifiers as M;
        let cases: [(&str, KeyCode, M); 34] = [
            ("\x1bOM", KeyCode::Enter, M::NONE),
            ("\x1bO5D", KeyCode::Left, M::CONTROL),
            ("\x1bOd", KeyCode::Left, M::CONTROL),
            ("\x1b[7$", KeyCode::Home, M::SHIFT),
            ("\x1b[27;2;13~", KeyCode::Enter, M::SHIFT),
            ("\x1b[27;5;93~", KeyCode::Char(']'), M::CONTROL),
            ("\x1b[93;69u", KeyCode::Char(']'), M::CONTROL),
            ("\x03", KeyCode::Char('c'), M::CONTROL),
            ("\x1d", KeyCode::Char('5'), M::CONTROL),
            ("\r", KeyCode::Enter, M::NONE),
            ("\n", KeyCode::Char('j'), M::CONTROL),
            ("\t", KeyCode::Tab, M::NONE),
            ("\x7f", KeyCode::Backspace, M::NONE),
            ("\x1b\r", KeyCode::Enter, M::ALT),
            ("\x1b\x7f", KeyCode::Backspace, M::ALT),
            ("\x1bb", KeyCode::Char('b'), M::ALT),
            ("\x1b[A", KeyCode::Up, M::NONE),
            ("\x1bOB", KeyCode::Down, M::NONE),
            ("\x1b\x1b[D", KeyCode::Left, M::NONE),
            ("\x1b[1;5C", KeyCode::Right, M::CONTROL),
            ("\x1b[1;3D", KeyCode::Left, M::ALT),
            ("\x1b[H", KeyCode::Home, M::NONE),
            ("\x1bOF", KeyCode::End, M::NONE),
            ("\x1b[3~", KeyCode::Delete, M::NONE),
            ("\x1b[5~", KeyCode::PageUp, M::NONE),
            ("\x1b[6;5~", KeyCode::PageDown, M::CONTROL),
            ("\x1b[7~", KeyCode::Home, M::NONE),
            ("\x1b[4~", KeyCode::End, M::NONE),
            ("\x1b[13;2u", KeyCode::Enter, M::SHIFT),
            ("\x1b[97;5u", KeyCode::Char('a'), M::CONTROL),
            ("\x1b[97;2u", KeyCode::Char('A'), M::SHIFT),
            ("\x1b[97;1:1u", KeyCode::Char('a'), M::NONE),
            ("é", KeyCode::Char('é'), M::NONE),
            ("😀", KeyCode::Char('😀'), M::NONE),
        ];
        for (bytes, code, modifiers) in cases {
            assert_eq!(read(bytes.as_bytes()), [key(code, modifiers)], "{bytes:?}");
        }
        for nothing in [
            "\x1b[97;1:3u",
            "\x1b[27u",
            "\x1b[[A",
            "\x1bOP",
            "\x1b[15~",
            "\x1b[Z",
            "\x1b",
            "\x1b[13;9u",
            "\x1bO5Q",
            "\x1b[M",
        ] {
            assert_eq!(read(nothing.as_bytes()), [], "{nothing:?}");
        }
    }

    #[test]
    fn a_paste_is_one_thing_whatever_it_holds() {
        let pasted = |text: &str| vec![Input::Paste(text.into())];
        assert_eq!(read(b"\x1b[200~y\r\x1b[A\x1b[200~\x1b[201~"), pasted("y\r\x1b[A\x1b[200~"));
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(b"\x1b[200~one", &mut out);
        parser.give_up(&mut out);
        parser.feed(b"two\x1b[201~", &mut out);
        assert_eq!(out, pasted("onetwo"), "however slowly it comes");
        assert_eq!(read(b"\x1b[201~a"), typed("a"), "an end without a beginning");
    }

    #[test]
    fn what_comes_with_the_end_of_a_paste_is_pasted_too() {
        let burst = b"\x1b[200~ls\x1b[201~y\r\x1b[201~";
        for at in 1..burst.len() {
            let (mut parser, mut out) = (Parser::default(), Vec::new());
            parser.feed(&burst[..at], &mut out);
            parser.feed(&burst[at..], &mut out);
            let text = out.iter().map(|input| match input {
                Input::Paste(text) => text.as_str(),
                Input::Key(key) => panic!("{key:?}, split at {at}"),
            });
            assert_eq!(text.collect::<String>(), "lsy\n", "split at {at}");
            assert_eq!(parser.wait(), Some(AFTER_PASTE));
            // Once nothing has come for a while, a key is one.
            parser.give_up(&mut out);
            out.clear();
            parser.feed(b"y\r", &mut out);
            assert_eq!(out, [plain('y'), key(KeyCode::Enter, KeyModifiers::NONE)]);
            assert_eq!(parser.wait(), None);
        }
        // Keys that are no text mean nothing there, and a sequence that has begun has the whole time.
        assert_eq!(read(b"\x1b[200~\x1b[201~\x1d\x03\x1b[Aa\tb\n\x1b\r\x1bOM"), [Input::Paste("a\tb\n\n\n".into())]);
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(b"\x1b[200~\x1b[201~\x1b", &mut out);
        assert_eq!(parser.wait(), Some(AFTER_PASTE));
        // Nor does a second paste end because it is slow.
        parser.feed(b"[200~y\r", &mut out);
        assert_eq!(parser.wait(), None);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_with_the_end_of_a_paste_is_a_key(parts in proptest::collection::vec(
            prop_oneof![any::<Vec<u8>>(), "(\x1b\\[20[01]~|\x1b[\\[OP\\]]|[yn\r\n;0-9~\x03\x1d]){0,8}".prop_map(String::into_bytes)], 0..8)) {
            let (mut parser, mut out) = (Parser::default(), Vec::new());
            parser.feed(b"\x1b[200~y\x1b[201~", &mut out);
            for part in parts {
                parser.feed(&part, &mut out);
                prop_assert!(parser.wait().is_none_or(|wait| wait >= AFTER_PASTE));
            }
            parser.give_up(&mut out);
            prop_assert!(out.iter().all(|input| matches!(input, Input::Paste(_))), "{:?}", out);
        }

        #[test]
        fn any_bytes_leave_it_ready_for_keys(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let (mut parser, mut out) = (Parser::default(), Vec::new());
            parser.feed(&bytes, &mut out);
            parser.feed(PASTE_END, &mut out);
            parser.give_up(&mut out);
            out.clear();
            parser.feed(b"n no\r", &mut out);
            let mut expected = typed("n no");
            expected.push(key(KeyCode::Enter, KeyModifiers::NONE));
            prop_assert_eq!(out, expected);
        }
    }
}
