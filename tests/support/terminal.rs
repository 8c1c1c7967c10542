//! A terminal to run the client in: a tmux server of the test's own.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{relay::Scratch, until};

/// A tmux session on a socket in the scratch folder.
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Runs `command` (a shell line) in a terminal of 100 by 30 with the environment of the scratch world.
    pub fn run(scratch: &Scratch, command: &str) -> Self {
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
            .args(["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30"])
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

    /// Types keys: `C-c`, `Enter`, or text.
    pub fn keys(&self, keys: &[&str]) {
        let status = self.tmux().arg("send-keys").args(keys).status().expect("tmux runs");
        assert!(status.success(), "tmux took no keys");
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

    /// Waits until the screen shows what `fits` looks for.
    #[track_caller]
    pub fn shows(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(what, || {
                last = self.screen();
                fits(&last).then(|| last.clone())
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
