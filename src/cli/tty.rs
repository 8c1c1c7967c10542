//! The terminal's modes, given back on every way out: the end, an error, a panic, a signal.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crossterm::{
    cursor::Show,
    event::{DisableBracketedPaste, EnableBracketedPaste},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use rustix::{
    process::{Signal, getpgrp, getpid, kill_process},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr},
};
use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGSYS, SIGTERM, SIGTRAP, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
    SIGXFSZ,
};

use super::text::clean;

/// The signals that end a program that does nothing about them, but for those of its own faults, which are to end it where
/// they come from. SIGPIPE ends none that is written in Rust.
const ENDING: [i32; 14] = [
    SIGABRT, SIGALRM, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGSYS, SIGTERM, SIGTRAP, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
    SIGXFSZ,
];
/// Further ones of Linux: SIGSTKFLT and SIGPWR, which have no names in the library, and SIGIO, which ends nothing elsewhere.
#[cfg(target_os = "linux")]
const ENDING_HERE: &[i32] = &[Signal::STKFLT.as_raw(), Signal::POWER.as_raw(), Signal::IO.as_raw()];
#[cfg(not(target_os = "linux"))]
const ENDING_HERE: &[i32] = &[];

/// In the alternate screen many terminals turn the wheel into arrow keys, which would recall old prompts.
const WHEEL_SENDS_NO_ARROWS: &str = "\x1b[?1007l";
/// What a program that was killed may have left: a click is no key.
const CLICKS_SEND_NOTHING: &str = "\x1b[?9;1000;1001;1002;1003;1005;1006;1015;1016l";
const WHEEL_SENDS_ARROWS: &str = "\x1b[?1007h";

/// The modes that standard input had when the program began, or took the screen.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
/// Held while the screen is taken, and by what ends the program: after that the screen is not taken again.
static TAKING: Mutex<()> = Mutex::new(());
/// Said when a signal ends the program while the screen is ours.
static LAST_WORDS: Mutex<String> = Mutex::new(String::new());
/// The screen is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Remembers the terminal's modes, and gives them back if a signal or a panic ends the program, while a passphrase is
/// typed or while the screen is ours. Once is enough.
///
/// # Errors
/// Signals cannot be handled.
pub(super) fn guard() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        let stdin = io::stdin();
        if isatty(&stdin) {
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(&stdin).ok();
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
        result = watch_signals();
    });
    result
}

/// Whether the terminal can be drawn on, as far as TERM says: where it is unset, empty or `dumb`, no sequence that
/// moves the cursor is known to be understood.
pub(super) fn draws() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Columns of the terminal that something is written to; `None` where it is none.
pub(super) fn columns_of(stream: impl AsFd) -> Option<usize> {
    let size = tcgetwinsize(stream).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Columns and rows of the terminal that something is written to; `None` where it is none, or does not say.
pub(super) fn size_of(stream: impl AsFd) -> Option<(usize, usize)> {
    let size = tcgetwinsize(stream).ok()?;
    Some((usize::from(size.ws_col), usize::from(size.ws_row))).filter(|(columns, rows)| *columns > 0 && *rows > 0)
}

/// What is to be said, from now on, if a signal ends the program while the screen is ours.
pub(super) fn last_words(words: &str) {
    *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) = clean(words);
}

/// Ends the program on a signal, with the terminal as it was.
fn watch_signals() -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new(ENDING.iter().chain(ENDING_HERE))?;
    // Which of them the C library keeps for itself differs; those cannot be caught.
    #[cfg(target_os = "linux")]
    for real_time in 34..=64 {
        let _ = signals.add_signal(real_time);
    }
    let watching = move || {
        if let Some(signal) = signals.forever().next() {
            let _last = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
            // By a hangup the terminal is gone, and other signals need not come from where it is read.
            let is_left = matches!(signal, SIGINT | SIGQUIT | SIGTERM) && is_in_front() && TAKEN.load(Ordering::SeqCst);
            restore();
            let words = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner);
            if is_left && !words.is_empty() {
                let _ = writeln!(io::stderr(), "{words}");
            }
            std::process::exit(128 + signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watching).map(drop)
}

/// Whether the terminal is this program's to set. The system stops a job in the background that tries, and it could not
/// end any more.
pub(super) fn is_in_front() -> bool {
    tcgetpgrp(io::stdin()).map_or(true, |group| group == getpgrp())
}

/// Gives the terminal back. Harmless where it was not taken.
fn restore() {
    if !is_in_front() {
        return;
    }
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), DisableBracketedPaste, LeaveAlternateScreen, Show);
        let _ = write!(io::stdout(), "{WHEEL_SENDS_ARROWS}").and_then(|()| io::stdout().flush());
        let _ = disable_raw_mode();
    }
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(before) = before.as_ref() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
    }
}

/// The screen is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Taken(());

impl Taken {
    /// Takes it, in the background as soon as the program is brought to the front.
    ///
    /// # Errors
    /// The terminal refuses.
    pub(super) fn take() -> io::Result<Self> {
        let taken = Self(());
        taken.again()?;
        Ok(taken)
    }

    /// Takes it again after the program was stopped or in the background: a shell may have set other modes meanwhile.
    ///
    /// # Errors
    /// The terminal refuses.
    pub(super) fn again(&self) -> io::Result<()> {
        let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in_front = is_in_front();
        let was_taken = TAKEN.swap(is_in_front, Ordering::SeqCst);
        if !is_in_front {
            return Ok(());
        }
        if !was_taken {
            // Those at the start of a job in the background are the ones that the shell edits its line with.
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(io::stdin()).ok();
        }
        // The library sets nothing where it believes that the modes are set.
        disable_raw_mode()?;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
        write!(io::stdout(), "{CLICKS_SEND_NOTHING}{WHEEL_SENDS_NO_ARROWS}")?;
        io::stdout().flush()
    }

    /// Gives it back, and stops the program until it is told to go on. It is not taken again by that.
    ///
    /// # Errors
    /// The program cannot be stopped.
    pub(super) fn stop(&self) -> io::Result<()> {
        restore();
        Ok(kill_process(getpid(), Signal::STOP)?)
    }

    /// Whether the screen is ours: a signal may have given it back, and it may not be taken again yet.
    pub(super) fn is_ours(&self) -> bool {
        TAKEN.load(Ordering::SeqCst)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        restore();
    }
}
