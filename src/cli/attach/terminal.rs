//! The terminal itself: raw mode while attached, and its keys.

use std::{io, sync::mpsc::SyncSender, thread};

use crossterm::{
    event::{self, DisableBracketedPaste, EnableBracketedPaste, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute, terminal,
};

use super::{editor::Key, shell::Wake};

/// Raw mode; dropping it gives the terminal back as it was.
#[derive(Debug)]
pub(super) struct Raw;

impl Raw {
    pub(super) fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let raw = Self;
        execute!(io::stdout(), EnableBracketedPaste)?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), DisableBracketedPaste);
        let _ = terminal::disable_raw_mode();
    }
}

/// Columns of the terminal.
pub(super) fn width() -> u16 {
    terminal::size().map_or(80, |(width, _)| width)
}

/// Sends keys until nobody takes them.
pub(super) fn read_keys(to: SyncSender<Wake>) -> io::Result<()> {
    let reading = move || {
        while let Ok(event) = event::read() {
            let wake = match event {
                Event::Key(key) => key_of(key).map(Wake::Key),
                Event::Paste(text) => Some(Wake::Key(Key::Paste(text))),
                Event::Resize(width, _) => Some(Wake::Width(width)),
                _ => None,
            };
            if wake.is_some_and(|wake| to.send(wake).is_err()) {
                return;
            }
        }
        let _ = to.send(Wake::Quit);
    };
    thread::Builder::new().name("keys".into()).spawn(reading).map(drop)
}

fn key_of(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Key::Interrupt),
            KeyCode::Char('d') => Some(Key::EndOfInput),
            // The byte of Ctrl-] is that of Ctrl-5, and is read as such.
            KeyCode::Char(']' | '5') => Some(Key::Detach),
            KeyCode::Char('u') => Some(Key::DeleteLine),
            KeyCode::Char('w') => Some(Key::DeleteWord),
            KeyCode::Char('h') => Some(Key::Backspace),
            KeyCode::Char('a') => Some(Key::Home),
            KeyCode::Char('e') => Some(Key::End),
            KeyCode::Char('j') => Some(Key::Newline),
            KeyCode::Char('p') => Some(Key::Up),
            KeyCode::Char('n') => Some(Key::Down),
            _ => None,
        };
    }
    match key.code {
        KeyCode::Enter if key.modifiers.intersects(KeyModifiers::ALT | KeyModifiers::SHIFT) => Some(Key::Newline),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Char(c) if !key.modifiers.contains(KeyModifiers::ALT) => Some(Key::Char(c)),
        KeyCode::Tab => Some(Key::Char(' ')),
        KeyCode::Backspace => Some(Key::Backspace),
        KeyCode::Delete => Some(Key::Delete),
        KeyCode::Left => Some(Key::Left),
        KeyCode::Right => Some(Key::Right),
        KeyCode::Home => Some(Key::Home),
        KeyCode::End => Some(Key::End),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_matter_are_known() {
        let press = |code, modifiers| key_of(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Interrupt));
        assert_eq!(press(KeyCode::Char('5'), KeyModifiers::CONTROL), Some(Key::Detach));
        assert_eq!(press(KeyCode::Char('d'), KeyModifiers::CONTROL), Some(Key::EndOfInput));
        assert_eq!(press(KeyCode::Char('Y'), KeyModifiers::SHIFT), Some(Key::Char('Y')));
        assert_eq!(press(KeyCode::Enter, KeyModifiers::ALT), Some(Key::Newline));
        assert_eq!(press(KeyCode::F(1), KeyModifiers::NONE), None);
    }
}
