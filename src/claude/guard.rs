//! The guard: a tiny process between the relay and one CLI. It owns the end of that CLI: when it is told, when the
//! relay is gone, and when the CLI itself ends, nothing of the CLI's process tree is left. It copies no bytes; it must
//! not decide when a CLI ends.
//!
//! The guard's stdin is a socket to the relay. Over it come the CLI's stdin as a descriptor, then single bytes (`T`
//! for SIGTERM to the CLI, `K` for SIGKILL to all); back go text lines: `pid N`, then one of `exit N`, `signal N`,
//! `error TEXT`. The CLI's stdout and stderr are the guard's own.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{self, Read, Write},
    os::unix::{
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, recv, send},
    process::{Pid, Signal, WaitOptions, getpid, getppid, kill_process, kill_process_group, wait, waitpid},
    stdio,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::platform;

/// To the guard: SIGTERM to the CLI.
pub(super) const TERMINATE: u8 = b'T';
/// To the guard: SIGKILL to the whole tree.
pub(super) const KILL: u8 = b'K';

/// Between SIGTERM and SIGKILL once the relay is gone. The CLI needs 150-250 ms to end its tools.
const GRACE: Duration = Duration::from_secs(1);
/// How long the tree is being killed before the guard gives up on what cannot be killed.
const KILLING_MAX: Duration = Duration::from_secs(10);

const GUARD: &str = "guard";
const EXEC: &str = "guard-exec";
const PORTABLE: &str = "--portable";

/// How to start a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardProgram {
    program: PathBuf,
    portable: bool,
}

impl GuardProgram {
    /// This program. Its `main` must begin with [`run_if_asked`].
    pub fn this() -> Self {
        Self::at(platform::own_program())
    }

    /// Another program. Its `main` must begin with [`run_if_asked`].
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), portable: false }
    }

    /// Do without what only some systems have: processes that left the CLI's process group then survive it.
    #[must_use]
    pub fn portable(self) -> Self {
        Self { portable: true, ..self }
    }

    /// The program that guards.
    pub fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn is_portable(&self) -> bool {
        self.portable
    }

    pub(super) fn command(&self, program: &OsStr, arguments: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(GUARD);
        if self.portable {
            command.arg(PORTABLE);
        }
        command.arg("--").arg(program).args(arguments);
        command
    }
}

/// To be called first in `main` of every program that is a [`GuardProgram`]: when this process was started as a guard,
/// it runs to its end here, and `main` returns the code.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next()?.to_str()? {
        GUARD => Some(main(arguments)),
        EXEC => Some(exec(arguments)),
        _ => None,
    }
}

/// Runs a guard. `arguments` are those after `guard`: `[--portable] -- PROGRAM ARGUMENTS..`.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    platform::close_inherited();
    let mut portable = false;
    let program = loop {
        match arguments.next() {
            Some(argument) if argument == PORTABLE => portable = true,
            Some(argument) if argument == "--" => break arguments.next(),
            _ => break None,
        }
    };
    let Some(program) = program else {
        return fail("usage: guard [--portable] -- PROGRAM [ARGUMENT]..");
    };
    let guard = match Guard::start(portable, &program, arguments) {
        Ok(guard) => guard,
        Err(error) => {
            report(format_args!("error cannot start {}: {error}", program.to_string_lossy()));
            return fail(format_args!("cannot start {}: {error}", program.to_string_lossy()));
        }
    };
    let status = guard.run();
    match (status.code(), status.signal()) {
        (Some(code), _) => {
            report(format_args!("exit {code}"));
            ExitCode::from(code as u8)
        }
        (None, signal) => {
            let signal = signal.unwrap_or(0);
            report(format_args!("signal {signal}"));
            ExitCode::from(128u8.wrapping_add(signal as u8))
        }
    }
}

/// Becomes the CLI: `guard-exec GUARD_PID -- PROGRAM ARGUMENTS..`. Only the process itself can ask for a signal at its
/// parent's death, so this stands between the guard's fork and the CLI.
fn exec(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let guard = arguments.next().and_then(|pid| pid.to_str()?.parse::<i32>().ok());
    let (Some(_), Some(program)) = (arguments.next(), arguments.next()) else {
        return fail("usage: guard-exec GUARD_PID -- PROGRAM [ARGUMENT]..");
    };
    platform::set_death_signal(Signal::TERM);
    // A guard that died before the line above sends no signal any more.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != guard {
        return fail("the guard is gone");
    }
    let error = Command::new(&program).args(arguments).exec();
    fail(format_args!("cannot run {}: {error}", program.to_string_lossy()))
}

/// A message for the relay's log and the code of a program that could not be run.
fn fail(message: impl fmt::Display) -> ExitCode {
    warn(message);
    ExitCode::from(127)
}

/// For the relay's log, if stderr still has a reader.
fn warn(message: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "amp-relay guard: {message}");
}

/// Tells the relay; a relay that is gone hears nothing.
fn report(message: impl fmt::Display) {
    let _ = send(stdio::stdin(), format!("{message}\n").as_bytes(), platform::SEND);
}

/// What may stop [`Guard::pause`].
struct Woken {
    control: bool,
    signals: bool,
}

struct Guard {
    cli: Pid,
    /// Orphans of the CLI come to us. Otherwise its process group is all that can be reached.
    subreaper: bool,
    relay: Option<Pid>,
    signals: UnixStream,
}

impl Guard {
    fn start(portable: bool, program: &OsStr, arguments: impl Iterator<Item = OsString>) -> io::Result<Self> {
        // Nothing that a terminal sends its foreground group is meant for us. It fails for a group leader only, and
        // then there is no such terminal.
        let _ = rustix::process::setsid();
        let (signals, handler) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        handler.set_nonblocking(true)?;
        for signal in [SIGCHLD, SIGTERM, SIGINT, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, handler.try_clone()?)?;
        }
        let relay = getppid();
        if !portable {
            platform::set_death_signal(Signal::TERM);
        }
        let subreaper = !portable && platform::become_subreaper();
        let stdin = platform::receive_descriptor(stdio::stdin())?;
        let mut command = if portable {
            Command::new(program)
        } else {
            let mut command = Command::new(platform::own_program());
            command.arg(EXEC).arg(getpid().to_string()).arg("--").arg(program);
            command
        };
        command.args(arguments).stdin(Stdio::from(stdin)).process_group(0);
        let cli = Pid::from_child(&command.spawn()?);
        report(format_args!("pid {cli}"));
        Ok(Self { cli, subreaper, relay, signals })
    }

    /// Until the CLI has ended and nothing is left of its tree; gives the CLI's status.
    fn run(mut self) -> ExitStatus {
        let mut kill_at = None;
        let mut control = true;
        let status = loop {
            if let Some(status) = self.reap_cli() {
                break status;
            }
            let mut gone = getppid() != self.relay;
            let woken = self.pause(control, kill_at);
            if woken.control {
                control = self.obey();
                gone |= !control;
            }
            if woken.signals {
                self.clear_signals();
                gone |= getppid() != self.relay;
            }
            if gone && kill_at.is_none() {
                self.signal_cli(Signal::TERM);
                kill_at = Some(Instant::now() + GRACE);
            }
            if kill_at.is_some_and(|at| at <= Instant::now()) {
                self.signal_cli(Signal::KILL);
                kill_at = Some(Instant::now() + GRACE);
            }
        };
        self.kill_rest();
        status
    }

    /// Reads orders. False: the relay has closed its end.
    fn obey(&self) -> bool {
        let mut orders = [0; 16];
        let count = match recv(stdio::stdin(), &mut orders, RecvFlags::DONTWAIT) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            // A reset is what closing with bytes unread looks like.
            Err(_) => return false,
        };
        for order in &orders[..count] {
            match *order {
                TERMINATE => self.signal_cli(Signal::TERM),
                KILL => self.signal_cli(Signal::KILL),
                _ => {}
            }
        }
        count > 0
    }

    /// The CLI is our child and not reaped yet, so its id is its own.
    fn signal_cli(&self, signal: Signal) {
        let _ = kill_process(self.cli, signal);
    }

    /// The CLI's status, once it has ended. Orphans that came to us are reaped on the way.
    fn reap_cli(&self) -> Option<ExitStatus> {
        if !self.subreaper {
            let options = rustix::process::WaitIdOptions::EXITED
                | rustix::process::WaitIdOptions::NOHANG
                | rustix::process::WaitIdOptions::NOWAIT;
            let ended = rustix::process::waitid(rustix::process::WaitId::Pid(self.cli), options);
            if matches!(ended, Ok(None)) {
                return None;
            }
            // As long as the CLI is not reaped, its group's id is not used again.
            let _ = kill_process_group(self.cli, Signal::KILL);
            let (_, status) = waitpid(Some(self.cli), WaitOptions::NOHANG).ok()??;
            return Some(ExitStatus::from_raw(status.as_raw()));
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.cli => return Some(ExitStatus::from_raw(status.as_raw())),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return None,
                // The child was reaped elsewhere: it is gone, and its status is unknown.
                Err(_) => return Some(ExitStatus::from_raw(Signal::KILL.as_raw())),
            }
        }
    }

    /// Kills our children until there are none. The orphans of each become our children in their turn.
    fn kill_rest(&mut self) {
        if !self.subreaper {
            return;
        }
        let until = Instant::now() + KILLING_MAX;
        loop {
            for child in platform::children(getpid()) {
                let _ = kill_process(child, Signal::KILL);
            }
            loop {
                match wait(WaitOptions::NOHANG) {
                    Ok(Some(_)) | Err(Errno::INTR) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            let now = Instant::now();
            if now >= until {
                warn(format_args!("some processes of {} could not be killed", self.cli));
                return;
            }
            // The next death wakes us; the limit is for a child that was forked while the list was read.
            self.pause(false, Some(now + Duration::from_millis(20)));
            self.clear_signals();
        }
    }

    fn pause(&self, control: bool, until: Option<Instant>) -> Woken {
        let stdin = stdio::stdin();
        let limit = until.map(|at| at.saturating_duration_since(Instant::now()));
        let limit =
            limit.map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
        let mut fds = [PollFd::new(&self.signals, PollFlags::IN), PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
        let watched = if control { 2 } else { 1 };
        let _ = poll(&mut fds[..watched], limit.as_ref());
        Woken { signals: !fds[0].revents().is_empty(), control: control && !fds[1].revents().is_empty() }
    }

    fn clear_signals(&mut self) {
        let mut bytes = [0; 64];
        while self.signals.read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }
}
