//! Keys of the terminal, read and named.

use std::{
    io,
    sync::mpsc::SyncSender,
    thread,
    time::{Duration, Instant},
};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::Wake;
use crate::cli::{
    attach::{
        editor::{Edit, Key, View},
        input::{Input, Parser},
    },
    tty::is_in_front,
};

/// How soon a job in the background looks whether it is in front.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 16 * 1024;

/// Sends keys until the receiver has gone, each with the time at which it was read.
pub(super) fn read_keys(to: SyncSender<Wake>) -> io::Result<()> {
    let reading = move || {
        let (mut parser, mut inputs, mut bytes) = (Parser::default(), Vec::new(), vec![0; READ_BYTES]);
        loop {
            match read_some(&mut bytes, parser.wait()) {
                Ok(Some(0)) | Err(_) => break,
                Ok(Some(read)) => parser.feed(&bytes[..read], &mut inputs),
                Ok(None) => parser.give_up(&mut inputs),
            }
            let at = Instant::now();
            let keys = inputs.drain(..).filter_map(|input| match input {
                Input::Key(key) => key_of(key),
                Input::Paste(text) => Some(Key::Paste(text)),
            });
            for key in keys {
                if to.send(Wake::Key(key, at)).is_err() {
                    return;
                }
            }
        }
        let _ = to.send(Wake::Quit);
    };
    thread::Builder::new().name("keys".into()).spawn(reading).map(drop)
}

/// Reads what there is; `None` if nothing came in time.
fn read_some(bytes: &mut [u8], wait: Option<Duration>) -> io::Result<Option<usize>> {
    let stdin = io::stdin();
    let wait = wait.map(|wait| Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() });
    loop {
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut polled, wait.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // What is typed is another job's, and the system would stop this one for reading it.
        if !is_in_front() {
            thread::sleep(LOOK_AGAIN);
            continue;
        }
        // Below the buffer of the standard library: what was typed before the screen was taken is no key.
        match rustix::io::read(&stdin, &mut *bytes) {
            Err(Errno::INTR) => {}
            read => return Ok(Some(read?)),
        }
    }
}

fn key_of(key: KeyEvent) -> Option<Key> {
    let KeyEvent { code, modifiers, .. } = key;
    let (control, alt) = (modifiers.contains(KeyModifiers::CONTROL), modifiers.contains(KeyModifiers::ALT));
    match code {
        KeyCode::PageUp if control || alt => return Some(Key::View(View::TextUp)),
        KeyCode::PageDown if control || alt => return Some(Key::View(View::TextDown)),
        KeyCode::PageUp => return Some(Key::View(View::PageUp)),
        KeyCode::PageDown => return Some(Key::View(View::PageDown)),
        KeyCode::Enter if alt || modifiers.contains(KeyModifiers::SHIFT) => return Some(Key::Edit(Edit::Newline)),
        KeyCode::Enter => return Some(Key::Enter),
        KeyCode::Char(c) if control => return control_key(c),
        KeyCode::Char(c) if alt => return alt_key(c),
        KeyCode::Char(c) => return Some(Key::Char(c)),
        _ => {}
    }
    let edit = match code {
        KeyCode::Tab => return Some(Key::Char(' ')),
        KeyCode::Backspace if control || alt => Edit::DeleteWordBack,
        KeyCode::Backspace => Edit::Backspace,
        KeyCode::Delete if control || alt => Edit::DeleteWordForward,
        KeyCode::Delete => Edit::Delete,
        KeyCode::Left if control || alt => Edit::WordBack,
        KeyCode::Right if control || alt => Edit::WordForward,
        KeyCode::Left => Edit::Left,
        KeyCode::Right => Edit::Right,
        KeyCode::Home => Edit::Start,
        KeyCode::End => Edit::End,
        KeyCode::Up => Edit::Up,
        KeyCode::Down => Edit::Down,
        _ => return None,
    };
    Some(Key::Edit(edit))
}

/// As readline has them.
fn control_key(c: char) -> Option<Key> {
    Some(match c {
        'c' => Key::Interrupt,
        'd' => Key::EndOfInput,
        // The byte of Ctrl-] is that of Ctrl-5, and is read as such.
        ']' | '5' => Key::Detach,
        'z' => Key::Suspend,
        'l' => Key::Redraw,
        'a' => Key::Edit(Edit::Start),
        'e' => Key::Edit(Edit::End),
        'b' => Key::Edit(Edit::Left),
        'f' => Key::Edit(Edit::Right),
        'p' => Key::Edit(Edit::Up),
        'n' => Key::Edit(Edit::Down),
        'h' => Key::Edit(Edit::Backspace),
        'j' => Key::Edit(Edit::Newline),
        'k' => Key::Edit(Edit::DeleteToEnd),
        'u' => Key::Edit(Edit::DeleteToStart),
        'w' => Key::Edit(Edit::DeleteWordBack),
        'y' => Key::Edit(Edit::Yank),
        // Ctrl-_ comes as Ctrl-7.
        '_' | '7' => Key::Edit(Edit::Undo),
        _ => return None,
    })
}

fn alt_key(c: char) -> Option<Key> {
    Some(Key::Edit(match c {
        'b' => Edit::WordBack,
        'f' => Edit::WordForward,
        'd' => Edit::DeleteWordForward,
        // Behind Escape, which is no key here, this is the next key that is typed.
        _ => return Some(Key::Char(c)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_matter_are_known() {
        let press = |code, modifiers| key_of(KeyEvent::new(code, modifiers));
        for (code, modifiers, key) in [
            (KeyCode::Char('c'), KeyModifiers::CONTROL, Key::Interrupt),
            (KeyCode::Char('5'), KeyModifiers::CONTROL, Key::Detach),
            (KeyCode::Char('d'), KeyModifiers::CONTROL, Key::EndOfInput),
            (KeyCode::Char('k'), KeyModifiers::CONTROL, Key::Edit(Edit::DeleteToEnd)),
            (KeyCode::Char('l'), KeyModifiers::CONTROL, Key::Redraw),
            (KeyCode::Char('b'), KeyModifiers::ALT, Key::Edit(Edit::WordBack)),
            (KeyCode::Right, KeyModifiers::CONTROL, Key::Edit(Edit::WordForward)),
            (KeyCode::Char('Y'), KeyModifiers::SHIFT, Key::Char('Y')),
            (KeyCode::Enter, KeyModifiers::ALT, Key::Edit(Edit::Newline)),
            (KeyCode::PageUp, KeyModifiers::NONE, Key::View(View::PageUp)),
            (KeyCode::PageUp, KeyModifiers::ALT, Key::View(View::TextUp)),
        ] {
            assert_eq!(press(code, modifiers), Some(key), "{code:?} {modifiers:?}");
        }
        assert_eq!(press(KeyCode::Char('n'), KeyModifiers::ALT), Some(Key::Char('n')), "Escape and a key");
        assert_eq!(press(KeyCode::F(1), KeyModifiers::NONE), None);
    }
}
