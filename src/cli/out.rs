//! What the verbs print: lines on standard output, notes on standard error. A reader that has gone (`... | head -1`) has
//! what it wanted: the program ends in silence and well.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

use super::{
    text::{self as texts, GOES_ON, clean},
    tty,
};
use crate::base::glyph::drawable;

/// Prints a line.
///
/// # Errors
/// It cannot be written, a full disk for instance.
pub(super) fn line(line: &dyn Display) -> Result<(), String> {
    text(&format_args!("{line}\n"))
}

/// Prints text as it is; on a terminal without what could steer it.
///
/// # Errors
/// It cannot be written, a full disk for instance.
pub(super) fn text(text: &dyn Display) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let mut written_as = |text: &dyn Display| write!(out, "{text}").and_then(|()| out.flush());
    written(if io::stdout().is_terminal() { written_as(&clean(&text.to_string())) } else { written_as(text) })
}

/// What became of something that was written to standard output.
///
/// # Errors
/// It cannot be written, a full disk for instance.
pub(super) fn written(result: io::Result<()>) -> Result<(), String> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(unwritable(&error)),
    }
}

/// Why standard output cannot be written.
pub(super) fn unwritable(error: &io::Error) -> String {
    format!("standard output cannot be written: {error}")
}

/// Prints JSON: on a terminal without what could steer it.
///
/// # Errors
/// It cannot be written, a full disk for instance.
pub(super) fn json(json: &dyn Display) -> Result<(), String> {
    let text = json.to_string();
    if io::stdout().is_terminal() { line(&texts::json_for_terminal(&text)) } else { line(&text) }
}

/// Text from elsewhere as it is written to a terminal: a row that goes on begins with a mark, and not with that text.
pub(super) fn folded(text: &str, to: impl AsFd) -> String {
    match tty::columns_of(to) {
        Some(columns) => texts::folded(&drawable(text), columns, GOES_ON),
        None => text.to_owned(),
    }
}

/// Words of ours and a text from elsewhere behind them, for standard error: no line of that can pass for one of ours. What
/// does not begin a line of its own by a line feed comes behind the name of the program.
pub(super) fn foreign(ours: &str, theirs: &str) -> String {
    texts::foreign(ours, theirs, tty::columns_of(io::stderr()))
}

/// Says a line beside the output, without what could steer a terminal. If it cannot be printed, neither can the reason.
pub(super) fn note(line: &dyn Display) {
    let _ = writeln!(io::stderr().lock(), "{}", clean(&line.to_string()));
}

/// Asks on standard error, without what could steer a terminal; the answer comes on the same line.
pub(super) fn question(text: &dyn Display) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "{}", clean(&text.to_string())).and_then(|()| out.flush());
}

/// Asks for a yes or a no, again where the answer is neither; a second such answer is a no, and so is none at all.
pub(super) fn agreed(text: &dyn Display) -> bool {
    question(text);
    let mut answer = String::new();
    for last in [false, true] {
        answer.clear();
        let read = io::stdin().read_line(&mut answer);
        if !answer.ends_with('\n') {
            // What is typed ends the row of the question, and an end of the input does not.
            note(&"");
        }
        if read.is_err() {
            return false;
        }
        match yes_or_no(&answer) {
            Some(yes) => return yes,
            None if last => note(&"That is neither, so it counts as no."),
            None => question(&"Please answer y or n: "),
        }
    }
    false
}

/// What an answer means, if it is one. An empty one is the no of `[y/N]`.
fn yes_or_no(answer: &str) -> Option<bool> {
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Some(true),
        "" | "n" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_neither_yes_nor_no_is_none() {
        assert_eq!(["y\n", "Yes", " YES \r\n"].map(yes_or_no), [Some(true); 3]);
        assert_eq!(["", "\n", "n", "No\n"].map(yes_or_no), [Some(false); 4]);
        assert_eq!(["yes please\n", "ja", "?"].map(yes_or_no), [None; 3]);
    }
}
