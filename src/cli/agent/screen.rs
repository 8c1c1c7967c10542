//! The terminal that questions are put on: how large it is, and what may have taken a question out of view.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    io::Errno,
    termios::{QueueSelector, tcdrain, tcflush},
};
use signal_hook::{
    consts::{SIGCONT, SIGWINCH},
    flag,
};

use super::parts::Size;
use crate::cli::{out, tty};

/// Standard error, as a terminal.
#[derive(Debug)]
pub(super) struct Screen {
    /// It has got another size since that was asked.
    resized: Arc<AtomicBool>,
    /// The program was stopped, and something else may have been printed.
    stopped: Arc<AtomicBool>,
}

impl Screen {
    /// Takes note from now on.
    ///
    /// # Errors
    /// Signals cannot be handled.
    pub(super) fn watched() -> io::Result<Self> {
        let screen = Self { resized: Arc::default(), stopped: Arc::default() };
        flag::register(SIGWINCH, Arc::clone(&screen.resized))?;
        flag::register(SIGCONT, Arc::clone(&screen.stopped))?;
        Ok(screen)
    }

    /// Its size; what was there before is not asked after any more.
    pub(super) fn size(&self) -> Option<Size> {
        self.resized.store(false, Ordering::SeqCst);
        tty::size_of(io::stderr()).map(|(columns, rows)| Size { columns, rows })
    }

    /// Its size, if it has had no other since [`Self::size`].
    pub(super) fn same_size(&self) -> Option<Size> {
        let now = tty::size_of(io::stderr()).map(|(columns, rows)| Size { columns, rows });
        now.filter(|_| !self.resized.load(Ordering::SeqCst))
    }

    /// Whether the program was stopped since this was asked last.
    pub(super) fn was_stopped(&self) -> bool {
        self.stopped.swap(false, Ordering::SeqCst)
    }

    /// Shows a text to its end, and forgets what was typed before that.
    pub(super) fn show(&self, text: &str) {
        out::question(&text);
        // A terminal that is held (Ctrl-S) shows nothing of it yet.
        while tcdrain(io::stderr()) == Err(Errno::INTR) {}
        let _ = tcflush(io::stdin(), QueueSelector::IFlush);
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    /// Set for the process of this test that shows what its parent reads.
    const SHOWS: &str = "AMP_RELAY_TEST_SHOWS";

    #[test]
    fn what_is_asked_does_not_steer_the_terminal() {
        if env::var_os(SHOWS).is_some() {
            let screen = Screen { resized: Arc::default(), stopped: Arc::default() };
            return screen.show("one\r\x1b[2J\u{9b}2J\u{202e}\x07\ttwo\nthree");
        }
        let name = "cli::agent::screen::tests::what_is_asked_does_not_steer_the_terminal";
        let mut own = Command::new(env::current_exe().expect("this program"));
        let ran = own.args(["--exact", name, "--nocapture"]).env(SHOWS, "1").output().expect("it runs");
        let shown = String::from_utf8_lossy(&ran.stderr);
        assert!(shown.contains("one[2J2J\ttwo\nthree"), "{shown:?}");
    }
}
