//! What the verbs print: lines on standard output, notes on standard error. A reader that has gone (`... | head -1`) has
//! what it wanted: the program ends in silence and well.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Prints a line.
///
/// # Errors
/// It cannot be written, a full disk for instance.
pub(super) fn line(line: &dyn Display) -> Result<(), String> {
    text(&format_args!("{line}\n"))
}

/// Prints text as it is.
///
/// # Errors
/// It cannot be written, a full disk for instance.
pub(super) fn text(text: &dyn Display) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(format!("standard output cannot be written: {error}")),
    }
}

/// Says a line beside the output. Where nobody reads that, nobody is told.
pub(super) fn note(line: &dyn Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Asks on standard error; the answer comes on the same line.
pub(super) fn question(text: &dyn Display) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}
