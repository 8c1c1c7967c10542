//! A loop around one process, and a look at what is alive, for the tests of processes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use amp_relay::claude::process::{Process, ProcessEvent, Spawn, SpawnError};
use mio::{Events, Poll, Token};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) const MARK: &str = "AMP_RELAY_TEST_MARK";
const TOKENS: [Token; 4] = [Token(10), Token(11), Token(12), Token(13)];
/// No wait here is meant to be this long; it ends a test that would hang.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stderr_tail: String,
}

/// A loop around one process, as the supervisor has one around many.
pub(crate) struct Driver {
    pub(crate) poll: Poll,
    pub(crate) process: Process,
    pub(crate) scratch: Vec<u8>,
    pub(crate) lines: Vec<String>,
    pub(crate) too_long: usize,
    pub(crate) stderr: Vec<String>,
    pub(crate) exit: Option<Exit>,
}

impl Driver {
    pub(crate) fn spawn(spawn: &Spawn) -> Result<Self, SpawnError> {
        let poll = Poll::new().expect("a poll");
        let process = Process::spawn(spawn, poll.registry(), TOKENS)?;
        let scratch = vec![0; 4096];
        Ok(Self { poll, process, scratch, lines: vec![], too_long: 0, stderr: vec![], exit: None })
    }

    /// Runs the loop until the condition holds.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        let mut events = Events::with_capacity(16);
        let mut ready: VecDeque<Token> = VecDeque::new();
        while !holds(self) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what}: {:?} {:?} {:?}", self.lines, self.stderr, self.exit);
            // Conditions may also lie outside of the loop, hence the short wait.
            let wait = if ready.is_empty() { left.min(Duration::from_millis(10)) } else { Duration::ZERO };
            self.poll.poll(&mut events, Some(wait)).expect("polled");
            ready.extend(events.iter().map(mio::event::Event::token));
            for _ in 0..ready.len() {
                let token = ready.pop_front().expect("counted");
                if self.turn(token) {
                    ready.push_back(token);
                }
            }
        }
    }

    pub(crate) fn turn(&mut self, token: Token) -> bool {
        let Self { process, scratch, lines, too_long, stderr, exit, .. } = self;
        process.event(token, scratch, &mut |event| {
            assert!(exit.is_none(), "{event:?} came after the exit");
            match event {
                ProcessEvent::Line(line) => lines.push(String::from_utf8_lossy(line).into_owned()),
                ProcessEvent::LineTooLong => *too_long += 1,
                ProcessEvent::StderrLine(line) => stderr.push(line.to_owned()),
                ProcessEvent::Exited { code, signal, stderr_tail } => *exit = Some(Exit { code, signal, stderr_tail }),
            }
        })
    }

    pub(crate) fn until_exit(&mut self) -> Exit {
        self.until("exit", |driver| driver.exit.is_some());
        self.exit.clone().expect("just seen")
    }

    pub(crate) fn until_line(&mut self, line: &str) {
        self.until(line, |driver| driver.lines.iter().any(|said| said == line));
    }
}

/// The living processes that carry the mark in their environment, guards included.
pub(crate) fn alive(mark: &str) -> Vec<i32> {
    let needle = format!("{MARK}={mark}\0");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.windows(needle.len()).any(|window| window == needle.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

pub(crate) fn until_gone(mark: &str) {
    let end = Instant::now() + LIMIT;
    while !alive(mark).is_empty() {
        assert!(Instant::now() < end, "survivors: {:?}", alive(mark));
        std::thread::yield_now();
    }
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("sent");
}

pub(crate) fn mark(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}
