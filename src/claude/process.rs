//! One CLI process behind its guard: pipes, the queue to its stdin, its exit. A shell: it moves bytes and never reads
//! what they say. Times are the caller's: nothing here waits.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Stdio},
};

use bytes::Bytes;
use mio::{Interest, Registry, Token, unix::SourceFd, unix::pipe};
use rustix::process::Signal;

use super::{
    codec::{LineSplitter, Split},
    guard::{self, GuardProgram},
    platform::{self, NoFolder},
};
use crate::base::text::path_line;

/// What to start.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// The CLI.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub folder: PathBuf,
    /// What guards it.
    pub guard: GuardProgram,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program is no file that may be executed.
    #[error("{} is not a program", path_line(.0))]
    Program(PathBuf),
    /// The folder does not exist.
    #[error("{} is not a folder", path_line(.0))]
    Folder(PathBuf),
    /// A link stands where the folder was, or on the way to it.
    #[error("{} is a link to {} now: put the folder back, or start a session there", path_line(.0), path_line(.1))]
    Elsewhere(PathBuf, PathBuf),
    /// The system gave no process or no pipe.
    #[error("cannot start a process: {0}")]
    System(#[from] io::Error),
}

/// The queue to the CLI's stdin is full: nothing was taken. The CLI does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue to the process is full")]
pub struct Full;

/// What a process brought.
#[derive(Debug, PartialEq, Eq)]
pub enum ProcessEvent<'a> {
    /// A line of stdout, without its line feed.
    Line(&'a [u8]),
    /// A line of stdout above [`LineSplitter::LINE_MAX`] was dropped.
    LineTooLong,
    /// A line of stderr; bytes that are no UTF-8 are replaced.
    StderrLine(&'a str),
    /// The process and its tree are gone and all it said was handed over. The last event.
    Exited {
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The last lines of stderr.
        stderr_tail: String,
    },
}

/// A running CLI, or an ended CLI before its exit is reported. Dropped before that, it is ended by its guard: SIGTERM,
/// at most a second, SIGKILL to the tree.
#[derive(Debug)]
pub struct Process {
    tokens: [Token; 4],
    /// `None` once it was reaped.
    guard: Option<Child>,
    control: UnixStream,
    /// Readable at the guard's exit; where there is none, the end of `control` tells.
    descriptor: Option<OwnedFd>,
    /// What the guard said that is no whole line yet.
    heard: Vec<u8>,
    cli: Option<u32>,
    cli_descriptor: Option<OwnedFd>,
    outcome: Option<Outcome>,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    tail: Tail,
    reported: bool,
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    code: Option<i32>,
    signal: Option<i32>,
}

impl Process {
    /// Most bytes that wait for the CLI to read them.
    pub const QUEUE_MAX: usize = 16 << 20;

    /// Starts a CLI under a guard and registers what is to be watched: stdin, stdout, stderr and the exit, under these
    /// tokens in this order.
    ///
    /// # Errors
    /// Nothing was started.
    pub fn spawn(spawn: &Spawn, registry: &Registry, tokens: [Token; 4]) -> Result<Self, SpawnError> {
        let named_by_path = spawn.program.components().count() > 1;
        if named_by_path && !platform::is_program(&spawn.program) {
            return Err(SpawnError::Program(spawn.program.clone()));
        }
        // What may run where was decided by this path; the program starts there and nowhere else.
        let (_held, folder) = platform::folder(&spawn.folder).map_err(|why| match why {
            NoFolder::Missing => SpawnError::Folder(spawn.folder.clone()),
            NoFolder::Elsewhere(real) => SpawnError::Elsewhere(spawn.folder.clone(), real),
        })?;
        let (control, theirs) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        let (reader, writer) = io::pipe()?;
        platform::send_descriptor(&control, reader.as_fd())?;
        drop(reader);
        let mut command = spawn.guard.command(spawn.program.as_os_str(), &spawn.arguments);
        command.env_clear().envs(spawn.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&folder).stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // The command holds the guard's end of the socket; as long as we do, its end is not seen.
        drop(command);
        let descriptor = if spawn.guard.is_portable() { None } else { platform::process_descriptor(child.id()) };
        let stdout = child.stdout.take().map(pipe::Receiver::from);
        let stderr = child.stderr.take().map(pipe::Receiver::from);
        let mut process = Self {
            tokens,
            guard: Some(child),
            control,
            descriptor,
            heard: Vec::new(),
            cli: None,
            cli_descriptor: None,
            outcome: None,
            stdin: Input::new(pipe::Sender::from(OwnedFd::from(writer))),
            stdout: Output::new(stdout, LineSplitter::default()),
            stderr: Output::new(stderr, LineSplitter::new(Tail::LINE_MAX)),
            tail: Tail::default(),
            reported: false,
        };
        // From here on an error drops the process, and with it the guard's control ends.
        process.register(registry)?;
        Ok(process)
    }

    fn register(&mut self, registry: &Registry) -> io::Result<()> {
        let [stdin, stdout, stderr, exit] = self.tokens;
        if let Some(pipe) = &mut self.stdin.pipe {
            pipe.set_nonblocking(true)?;
            registry.register(pipe, stdin, Interest::WRITABLE)?;
        }
        for (output, token) in [(&mut self.stdout, stdout), (&mut self.stderr, stderr)] {
            if let Some(pipe) = &mut output.pipe {
                pipe.set_nonblocking(true)?;
                registry.register(pipe, token, Interest::READABLE)?;
            }
        }
        // The guard tells the CLI's id over the control socket, at times after the CLI's first words.
        registry.register(&mut SourceFd(&self.control.as_raw_fd()), exit, Interest::READABLE)?;
        if let Some(descriptor) = &self.descriptor {
            registry.register(&mut SourceFd(&descriptor.as_raw_fd()), exit, Interest::READABLE)?;
        }
        Ok(())
    }

    /// The guard's process id.
    pub fn pid(&self) -> Option<u32> {
        self.guard.as_ref().map(Child::id)
    }

    /// The CLI's own process id, once the guard has told it.
    pub fn cli_pid(&self) -> Option<u32> {
        self.cli
    }

    /// Bytes that wait for the CLI to read them.
    pub fn queued(&self) -> usize {
        self.stdin.queued()
    }

    /// Lines that were refused because the queue was full.
    pub fn refused(&self) -> u64 {
        self.stdin.refused
    }

    /// Writes one line, or queues what the pipe does not take. After the end of stdin the line is dropped: the exit
    /// that follows tells.
    ///
    /// # Errors
    /// The queue is full; nothing of the line was taken.
    pub fn write_line(&mut self, line: &[u8]) -> Result<(), Full> {
        self.stdin.write_line(line)
    }

    /// Ends stdin after what is queued: the CLI finishes its turn and its queue, then exits.
    pub fn close_stdin(&mut self) {
        self.stdin.closing = true;
        self.stdin.flush();
    }

    /// SIGTERM to the CLI: it ends its tools and exits with 143.
    pub fn terminate(&mut self) {
        self.order(guard::TERMINATE);
    }

    /// SIGKILL to the CLI, then to all that is left of its tree.
    pub fn kill(&mut self) {
        self.order(guard::KILL);
    }

    fn order(&mut self, order: u8) {
        // The socket is empty but for a handful of such bytes; if the guard is gone, its exit is on the way.
        let _ = self.control.write(&[order]);
    }

    /// Handles an event of one of the tokens: at most two reads a call. True: there is more, call again with the same
    /// token (after others had their turn). `scratch` is only used during the call.
    pub fn event(&mut self, token: Token, scratch: &mut [u8], on: &mut dyn FnMut(ProcessEvent<'_>)) -> bool {
        if self.reported {
            return false;
        }
        let [stdin, stdout, stderr, exit] = self.tokens;
        let mut more = false;
        if token == stdin {
            self.stdin.flush();
        } else if token == stdout {
            more = self.read_stdout(scratch, on);
        } else if token == stderr {
            more = self.read_stderr(scratch, on);
        } else if token == exit && self.outcome.is_none() {
            self.reap();
        }
        if self.outcome.is_none() {
            return more;
        }
        // No writer is left, so what the pipes hold is the rest.
        if token == exit {
            self.read_stdout(scratch, on);
            self.read_stderr(scratch, on);
        }
        self.report(on);
        !self.reported && (more || token == exit)
    }

    fn read_stdout(&mut self, scratch: &mut [u8], on: &mut dyn FnMut(ProcessEvent<'_>)) -> bool {
        self.stdout.read(self.outcome.is_some(), scratch, &mut |split| match split {
            Split::Line(line) => on(ProcessEvent::Line(line)),
            Split::TooLong => on(ProcessEvent::LineTooLong),
        })
    }

    fn read_stderr(&mut self, scratch: &mut [u8], on: &mut dyn FnMut(ProcessEvent<'_>)) -> bool {
        let tail = &mut self.tail;
        self.stderr.read(self.outcome.is_some(), scratch, &mut |split| {
            let line = match split {
                Split::Line(line) => String::from_utf8_lossy(line),
                Split::TooLong => "(a long line was dropped)".into(),
            };
            tail.push(&line);
            on(ProcessEvent::StderrLine(&line));
        })
    }

    /// Reads what the guard says.
    fn hear(&mut self) -> bool {
        let mut bytes = [0; 512];
        loop {
            match self.control.read(&mut bytes) {
                Ok(0) => return true,
                Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return true,
            }
        }
        if self.cli.is_none() {
            self.cli = self.said("pid ").and_then(|pid| pid.parse().ok());
            self.cli_descriptor = self.cli.and_then(platform::process_descriptor);
        }
        false
    }

    /// The rest of the guard's line that begins so.
    fn said(&self, what: &str) -> Option<&str> {
        let whole = self.heard.iter().rposition(|&byte| byte == b'\n')?;
        std::str::from_utf8(&self.heard[..whole]).ok()?.lines().find_map(|line| line.strip_prefix(what))
    }

    /// Learns how it ended, if it did.
    fn reap(&mut self) {
        let closed = self.hear();
        let Some(child) = &mut self.guard else { return };
        let status = if self.descriptor.is_some() {
            child.try_wait()
        } else if closed {
            // The guard's last descriptors are closed: it is past its end, and waiting takes microseconds.
            child.wait().map(Some)
        } else {
            return;
        };
        let status = match status {
            Ok(None) => return,
            Ok(Some(status)) => Some(status),
            Err(error) => {
                log::warn!("waiting for the guard failed: {error}");
                None
            }
        };
        self.guard = None;
        let told = |what| self.said(what).and_then(|number| number.parse().ok());
        let (code, signal) = (told("exit "), told("signal "));
        if code.is_some() || signal.is_some() {
            self.outcome = Some(Outcome { code, signal });
            return;
        }
        // The guard was killed, or could not start the CLI. In the first case the CLI was sent SIGTERM by the system,
        // but two processes of one conversation must never run: it does not get the time to obey.
        if let Some(cli) = &self.cli_descriptor {
            platform::signal_descriptor(cli.as_fd(), Signal::KILL);
        }
        self.outcome = Some(Outcome {
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
        });
    }

    fn report(&mut self, on: &mut dyn FnMut(ProcessEvent<'_>)) {
        let Some(Outcome { code, signal }) = self.outcome else { return };
        if self.stdout.pipe.is_some() || self.stderr.pipe.is_some() {
            return;
        }
        self.reported = true;
        self.stdin.end();
        on(ProcessEvent::Exited { code, signal, stderr_tail: self.tail.take() });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of the control socket, which follows, ends the guard within moments; it has to be reaped.
        if let Some(mut child) = self.guard.take() {
            let _ = std::thread::Builder::new().name("reap".into()).spawn(move || child.wait());
        }
    }
}

/// The way to the CLI's stdin.
#[derive(Debug)]
struct Input {
    pipe: Option<pipe::Sender>,
    queue: VecDeque<u8>,
    closing: bool,
    refused: u64,
}

impl Input {
    /// Memory above this many bytes is given back when the queue is empty.
    const KEEP_MAX: usize = 64 << 10;

    fn new(pipe: pipe::Sender) -> Self {
        Self { pipe: Some(pipe), queue: VecDeque::new(), closing: false, refused: 0 }
    }

    fn queued(&self) -> usize {
        self.queue.len()
    }

    fn write_line(&mut self, line: &[u8]) -> Result<(), Full> {
        if self.pipe.is_none() || self.closing {
            return Ok(());
        }
        if self.queue.len() + line.len() + 1 > Process::QUEUE_MAX {
            self.refused += 1;
            return Err(Full);
        }
        let sent = if self.queue.is_empty() { self.write(line) } else { 0 };
        self.queue.extend(&line[sent.min(line.len())..]);
        if line.last() != Some(&b'\n') {
            self.queue.push_back(b'\n');
        }
        self.flush();
        Ok(())
    }

    /// How much of it the pipe took.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let (Some(pipe), true) = (&mut self.pipe, sent < bytes.len()) {
            match pipe.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The pipe has no reader any more: the process is at its end.
                Err(_) => self.end(),
            }
        }
        sent
    }

    fn flush(&mut self) {
        while !self.queue.is_empty() {
            let mut queue = std::mem::take(&mut self.queue);
            let sent = self.write(queue.as_slices().0);
            let stuck = sent < queue.as_slices().0.len();
            queue.drain(..sent);
            if self.pipe.is_some() {
                self.queue = queue;
            }
            if stuck {
                return;
            }
        }
        self.queue.shrink_to(Self::KEEP_MAX);
        if self.closing {
            self.end();
        }
    }

    fn end(&mut self) {
        self.pipe = None;
        self.queue = VecDeque::new();
    }
}

/// The way from the CLI's stdout or stderr.
#[derive(Debug)]
struct Output {
    /// `None` after its end.
    pipe: Option<pipe::Receiver>,
    lines: LineSplitter,
    /// What was read and has its turn later.
    held: Bytes,
    /// What may still be read after the exit: a survivor in another process group could write for ever.
    rest: usize,
}

impl Output {
    /// More than any pipe holds.
    const REST_MAX: usize = 4 << 20;
    /// Lines that one turn takes: a process that writes many short ones does not hold up the others.
    const LINES_A_TURN: usize = 512;

    fn new(pipe: Option<pipe::Receiver>, lines: LineSplitter) -> Self {
        Self { pipe, lines, held: Bytes::new(), rest: Self::REST_MAX }
    }

    /// Where the lines end that one turn takes.
    fn turn_end(bytes: &[u8]) -> usize {
        memchr::memchr_iter(b'\n', bytes).nth(Self::LINES_A_TURN - 1).map_or(bytes.len(), |at| at + 1)
    }

    /// Gives what is held; or reads once, and once more if that did not fill the buffer, to learn whether there is
    /// more. `last`: all writers are gone, so an empty pipe is at its end.
    fn read(&mut self, last: bool, scratch: &mut [u8], on: &mut dyn FnMut(Split<'_>)) -> bool {
        if !self.held.is_empty() {
            let taken = self.held.split_to(Self::turn_end(&self.held));
            self.lines.push(&taken, on);
            return true;
        }
        if self.rest == 0 {
            self.pipe = None;
            return false;
        }
        for _ in 0..2 {
            let Some(pipe) = &mut self.pipe else { return false };
            match pipe.read(scratch) {
                Ok(count) if count > 0 => {
                    let (taken, held) = scratch[..count].split_at(Self::turn_end(&scratch[..count]));
                    self.lines.push(taken, on);
                    self.held = Bytes::copy_from_slice(held);
                    if last {
                        self.rest = self.rest.saturating_sub(count);
                    }
                    if count == scratch.len() || !self.held.is_empty() || self.rest == 0 {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !last => return false,
                _ => {
                    self.pipe = None;
                    self.lines.finish(on);
                    return false;
                }
            }
        }
        self.pipe.is_some()
    }
}

/// The last lines of stderr.
#[derive(Debug, Default)]
struct Tail(VecDeque<String>);

impl Tail {
    const LINES_MAX: usize = 20;
    const LINE_MAX: usize = 16 << 10;
    /// Of one line, in characters.
    const KEPT_MAX: usize = 500;

    fn push(&mut self, line: &str) {
        if self.0.len() == Self::LINES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(line.chars().take(Self::KEPT_MAX).collect());
    }

    fn take(&mut self) -> String {
        std::mem::take(&mut self.0).into_iter().collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Calls `read` until it has no more, and gives the lines of each call.
    fn read_all(output: &mut Output, last: bool) -> Vec<Vec<String>> {
        let mut calls = Vec::new();
        let mut more = true;
        while more {
            let mut lines = Vec::new();
            more = output.read(last, &mut [0; 4096], &mut |split| match split {
                Split::Line(line) => lines.push(String::from_utf8_lossy(line).into_owned()),
                Split::TooLong => panic!("no line is long"),
            });
            calls.push(lines);
        }
        calls
    }

    #[test]
    fn a_turn_takes_so_many_lines_and_the_rest_has_its_turn_later() {
        let (mut sender, receiver) = pipe::new().expect("a pipe");
        let mut output = Output::new(Some(receiver), LineSplitter::new(64));
        let said: Vec<String> = (0..3_000).map(|number| number.to_string()).collect();
        write!(sender, "{}\nhalf", said.join("\n")).expect("the pipe has room");
        let calls = read_all(&mut output, false);
        assert!(calls.iter().all(|lines| lines.len() <= Output::LINES_A_TURN), "{calls:?}");
        assert_eq!(calls.concat(), said);
        drop(sender);
        assert_eq!(read_all(&mut output, true).concat(), ["half"]);
    }

    #[test]
    fn what_is_left_after_an_exit_is_read_to_its_bound() {
        let (mut sender, receiver) = pipe::new().expect("a pipe");
        let mut output = Output::new(Some(receiver), LineSplitter::new(64));
        output.rest = 4096 + 1;
        // The one that still writes holds the pipe open.
        sender.write_all("x\n".repeat(5_000).as_bytes()).expect("the pipe has room");
        assert_eq!(read_all(&mut output, true).concat().len(), 4096);
        assert!(output.pipe.is_none());
    }
}
