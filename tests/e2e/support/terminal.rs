//! A terminal to run the client in: a tmux server of the test's own.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags, open},
    termios::tcgetwinsize,
};

use super::{relay::Scratch, until};

/// A tmux session on a socket in the scratch folder.
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Runs `command` (a shell line) in a terminal of 100 by 30 with the environment of the scratch world.
    pub fn run(scratch: &Scratch, command: &str) -> Self {
        Self::sized(scratch, command, 100, 30)
    }

    /// The same in a terminal of another size.
    pub fn sized(scratch: &Scratch, command: &str, width: u16, height: u16) -> Self {
        let socket = scratch.root().join(format!("tmux-{}", unique()));
        let terminal = Self { socket };
        let status = terminal
            .tmux()
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", scratch.home())
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .current_dir(scratch.project())
            .args(["-f", "/dev/null", "new-session", "-d", "-x", &width.to_string(), "-y", &height.to_string()])
            // The trap keeps the shell alive when Ctrl-C goes to everybody in the terminal.
            .arg(format!("trap : INT; {command}; echo \"ended with $?\"; cat"))
            .status()
            .expect("tmux runs (package tmux)");
        assert!(status.success(), "tmux started nothing: {status:?}");
        terminal
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).stdin(Stdio::null());
        command
    }

    /// Gives it another size, and waits until what runs in it can know that.
    pub fn resize(&self, width: u16, height: u16) {
        let size = ["resize-window", "-x", &width.to_string(), "-y", &height.to_string()];
        let status = self.tmux().args(size).status().expect("tmux runs");
        assert!(status.success(), "tmux did not resize");
        let named = self.tmux().args(["display-message", "-p", "#{pane_tty}"]).output().expect("tmux runs");
        let name = String::from_utf8_lossy(&named.stdout);
        let tty = open(name.trim_end(), OFlags::RDONLY | OFlags::NOCTTY, Mode::empty()).expect("its device");
        until("it has that size", || {
            let size = tcgetwinsize(&tty).expect("its size");
            ((size.ws_col, size.ws_row) == (width, height)).then_some(())
        });
    }

    /// Types keys: `C-c`, `Enter`, or text.
    pub fn keys(&self, keys: &[&str]) {
        let status = self.tmux().arg("send-keys").args(keys).status().expect("tmux runs");
        assert!(status.success(), "tmux took no keys");
    }

    /// Sends bytes as a terminal's own reports come.
    pub fn bytes(&self, bytes: &[u8]) {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
        let status = self.tmux().args(["send-keys", "-H"]).args(hex).status().expect("tmux runs");
        assert!(status.success(), "tmux took no bytes");
    }

    /// Pastes bytes as they are, in one piece between the marks of a paste.
    pub fn paste(&self, scratch: &Scratch, bytes: &[u8]) {
        let file = scratch.root().join("pasted");
        std::fs::write(&file, bytes).expect("a file");
        let status = self.tmux().arg("load-buffer").arg(&file).args([";", "paste-buffer", "-p"]).status();
        assert!(status.expect("tmux runs").success(), "tmux pasted nothing");
    }

    /// Types text as it is, then Enter.
    pub fn line(&self, text: &str) {
        let status = self.tmux().args(["send-keys", "-l", text]).status().expect("tmux runs");
        assert!(status.success(), "tmux took no text");
        self.keys(&["Enter"]);
    }

    /// What is to be seen, with what has scrolled away.
    pub fn screen(&self) -> String {
        let output = self.tmux().args(["capture-pane", "-p", "-J", "-S", "-1000"]).output().expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is to be seen, with its colours: a line for each row.
    pub fn coloured(&self) -> String {
        let output = self.tmux().args(["capture-pane", "-p", "-e"]).output().expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Keeps in a file all that is written to it from now on, byte by byte.
    pub fn kept_in(&self, file: &Path) {
        let status = self.tmux().args(["pipe-pane", &format!("cat >{}", file.display())]).status().expect("tmux runs");
        assert!(status.success(), "tmux keeps nothing");
    }

    /// What is on the screen, which stays as it is when all of it is drawn anew.
    #[track_caller]
    pub fn is_drawn_as_it_is(&self) -> String {
        // It is quiet once it was the same several times, so that no half of a frame is compared.
        let quiet = || {
            let (mut last, mut times) = (String::new(), 0);
            until("the screen is quiet", || {
                // Blanks at the end of a row cannot be seen.
                let now = self.screen().lines().map(|row| format!("{}\n", row.trim_end())).collect::<String>();
                times = if now == last { times + 1 } else { 0 };
                last.clone_from(&now);
                (times == 10).then_some(now)
            })
        };
        let before = quiet();
        self.keys(&["C-l"]);
        let mut after = String::new();
        let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("the same is drawn anew", || {
                after = quiet();
                (after == before).then_some(())
            });
        }));
        assert!(same.is_ok(), "drawn anew, this:\n{before}\nis this:\n{after}");
        before
    }

    /// Waits until the screen shows what `fits` looks for, at two looks in a row: the first may come in the middle of a frame
    /// that is being drawn, and what is given is looked at further.
    #[track_caller]
    pub fn shows(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(what, || {
                let before = std::mem::replace(&mut last, self.screen());
                (last == before && fits(&last)).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("the screen never showed {what}:\n{last}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").stderr(Stdio::null()).status();
    }
}

fn unique() -> String {
    super::keys::seed()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text without the places where a terminal's rows end, the frame of a card, and the marks of rows that go on.
pub fn flat(screen: &str) -> String {
    let words = screen.split(|c: char| c.is_whitespace() || "│╎".contains(c));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}
