//! The two faces of an attached session: a window on a terminal, or lines for a pipe. Each shows changes, takes input, and
//! says what was shown.

use std::{
    io::{self, Write},
    sync::mpsc::Receiver,
};

use super::{
    action::Action,
    cards::{Body, Cards},
    editor::Key,
    entry::Change,
    model::Model,
    plain::{Printer, To},
    said::About,
    script::{self, Doing, Script},
    window::Window,
};
use crate::{
    base::{
        Now,
        glyph::{tool_name, visible},
    },
    cli::{out, text::json_for_terminal, tty},
    relay::card::Said,
};

/// Where a request can be answered.
pub(super) const ELSEWHERE: &str =
    "it is answered with `amp-relay attach` on a terminal that can be drawn on, with the output going nowhere else";

/// The error: the output has no reader any more (`None`), or cannot be written, and why.
pub(super) type Shown = Result<(), Option<String>>;

/// How a session is shown.
pub(super) enum Face {
    Window(Box<Window>),
    Lines(Lines),
}

impl Face {
    pub(super) fn is_window(&self) -> bool {
        matches!(self, Self::Window(_))
    }

    /// Shows changes. `ours`: what the agent says in them is an answer to us.
    pub(super) fn apply(&mut self, changes: Vec<Change>, ours: bool) -> Shown {
        match self {
            Self::Window(window) => {
                window.apply(changes);
                Ok(())
            }
            Self::Lines(lines) => lines.apply(&changes, ours),
        }
    }

    /// Shows what came before everything else.
    pub(super) fn earlier(&mut self, changes: Vec<Change>, has_more: bool) -> Shown {
        match self {
            Self::Window(window) => window.earlier(changes, has_more),
            Self::Lines(lines) => lines.earlier.insert(0, changes),
        }
        Ok(())
    }

    /// Nothing older finds room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Window(window) if window.is_full())
    }

    /// All of what came before is here.
    pub(super) fn all_came(&mut self) -> Shown {
        match self {
            Self::Window(_) => Ok(()),
            Self::Lines(lines) => {
                let earlier: Vec<Change> = std::mem::take(&mut lines.earlier).into_iter().flatten().collect();
                let later = std::mem::take(&mut lines.later);
                lines.holds = false;
                lines.apply(&earlier, true)?;
                lines.apply(&later, true)
            }
        }
    }

    /// A message as it came.
    pub(super) fn json(&mut self, text: &str) -> Shown {
        match self {
            Self::Lines(lines) if lines.as_json => {
                write(To::Stdout, &format!("{}\n", json_line(text, lines.is_terminal)))
            }
            _ => Ok(()),
        }
    }

    /// Brings what is shown up to date.
    pub(super) fn show(
        &mut self,
        model: &mut Model,
        turns: bool,
        offline: Option<u64>,
        now: Now,
        clock_ms: &mut dyn FnMut() -> u64,
    ) -> Result<(), String> {
        match self {
            Self::Window(window) => window.show(model, turns, offline, now, clock_ms),
            Self::Lines(lines) => {
                let shown = lines.card(&mut model.cards, now.mono_ms);
                shown.map_err(|why| why.unwrap_or_else(|| "nobody reads standard error".into()))
            }
        }
    }

    /// When the next frame is due though nothing comes.
    pub(super) fn next_frame_ms(&self, turns: bool, now_ms: u64) -> Option<u64> {
        match self {
            Self::Window(window) => window.next_frame_ms(turns, now_ms),
            Self::Lines(_) => None,
        }
    }

    pub(super) fn key(&mut self, key: Key, at_ms: u64, busy: bool) -> Option<Action> {
        match self {
            Self::Window(window) => window.key(key, at_ms, busy),
            Self::Lines(_) => None,
        }
    }

    /// Gives the terminal back and stops the program.
    pub(super) fn stop(&mut self) -> Option<Action> {
        match self {
            Self::Window(window) => window.stop(),
            Self::Lines(_) => None,
        }
    }

    /// The terminal is another's as far as this knows, and was given to this program meanwhile.
    pub(super) fn is_to_front(&self) -> bool {
        matches!(self, Self::Window(window) if window.is_to_front())
    }

    /// The program goes on after it was stopped, or was brought to the front.
    pub(super) fn go_on(&mut self) -> Option<Action> {
        match self {
            Self::Window(window) => window.go_on(),
            Self::Lines(_) => None,
        }
    }

    /// What stands in the editor, if anything does.
    pub(super) fn draft(&self) -> Option<String> {
        match self {
            Self::Window(window) => window.draft(),
            Self::Lines(_) => None,
        }
    }

    /// A text that was not taken goes back to where it was typed.
    pub(super) fn put_back(&mut self, text: &str) {
        if let Self::Window(window) = self {
            window.put_back(text);
        }
    }

    /// A line or a key was answered with this, which is to be seen where it was pressed.
    pub(super) fn say(&mut self, text: &str, about: About) {
        if let Self::Window(window) = self {
            window.say(text, about);
        }
    }

    /// Whether the terminal was another program's since this was asked last; then all of it is to be drawn.
    pub(super) fn was_hidden(&mut self) -> bool {
        match self {
            Self::Window(window) => window.was_hidden(),
            Self::Lines(_) => false,
        }
    }

    /// The request that waits is no line's to answer.
    pub(super) fn asks_others(&mut self, asks_others: bool) {
        if let Self::Lines(lines) = self {
            lines.asks_others = asks_others;
        }
    }

    /// A person types the lines.
    pub(super) fn is_typed(&self) -> bool {
        matches!(self, Self::Lines(lines) if lines.is_typed)
    }

    /// What is shown is not up to date.
    pub(super) fn stale(&mut self) {
        if let Self::Window(window) = self {
            window.stale();
        }
    }

    /// The terminal has another size. What was said of the one before may not be so any more.
    pub(super) fn resized(&mut self) {
        if let Self::Window(window) = self {
            window.resized();
        }
    }

    pub(super) fn line(&mut self, line: &str) {
        if let Self::Lines(lines) = self {
            lines.script.line(line);
        }
    }

    pub(super) fn lines_end(&mut self) {
        if let Self::Lines(lines) = self {
            lines.script.end();
        }
    }

    /// Whether a line is not taken as an answer: it was typed where no card can be shown.
    pub(super) fn takes_no_answer(&self, line: &str, cards: &Cards) -> bool {
        let Self::Lines(lines) = self else { return false };
        lines.is_typed && (Said::of(line).is_some() || cards.question().is_some())
    }

    /// Whether the request that waits was shown whole.
    pub(super) fn card_is_shown(&self, cards: &Cards) -> bool {
        match self {
            Self::Window(_) => false,
            Self::Lines(lines) => cards.shown().is_some_and(|waiting| lines.card == Some(waiting.number)),
        }
    }

    /// The next line of the pipe that can be carried out.
    pub(super) fn next_line(&mut self, doing: Doing) -> Option<script::Next> {
        let Self::Lines(lines) = self else { return None };
        let waiting = lines.script.waiting();
        let next = lines.script.next(doing);
        for _ in lines.script.waiting()..waiting {
            let _ = lines.credit.try_recv();
        }
        next
    }

    /// The end: gives back the terminal, and gives what is to stay on it.
    pub(super) fn finish(&mut self) -> String {
        match self {
            Self::Window(window) => window.close(),
            Self::Lines(lines) => {
                for (to, text) in lines.printer.end() {
                    let _ = write(to, &text);
                }
                String::new()
            }
        }
    }
}

/// Lines for a pipe.
pub(super) struct Lines {
    printer: Printer,
    script: Script,
    /// Given back for each line of the pipe that was carried out.
    credit: Receiver<()>,
    as_json: bool,
    is_terminal: bool,
    /// A person types the lines, and what is printed goes elsewhere or is no card: nothing is allowed here.
    is_typed: bool,
    /// The number of the card that was printed.
    card: Option<u64>,
    /// The request that waits comes of no line of this pipe.
    asks_others: bool,
    /// With `--all`: parts of what came before, the oldest first, and what waits for them.
    earlier: Vec<Vec<Change>>,
    later: Vec<Change>,
    holds: bool,
    /// With `--all`: everything that the agent says is asked for, also its answers to others.
    all: bool,
}

impl Lines {
    pub(super) fn new(is_terminal: bool, as_json: bool, is_typed: bool, credit: Receiver<()>) -> Self {
        Self {
            printer: Printer::new(is_terminal),
            script: Script::default(),
            credit,
            as_json,
            is_terminal,
            is_typed,
            card: None,
            asks_others: false,
            earlier: Vec::new(),
            later: Vec::new(),
            holds: false,
            all: false,
        }
    }

    /// Shows all of the session: keeps what comes until everything before it is here.
    pub(super) fn holding(mut self) -> Self {
        (self.holds, self.all) = (true, true);
        self
    }

    fn apply(&mut self, changes: &[Change], ours: bool) -> Shown {
        if self.holds {
            self.later.extend_from_slice(changes);
            return Ok(());
        }
        if self.as_json {
            return Ok(());
        }
        self.printer.answers_us(ours || self.all);
        self.printer.resized(tty::columns_of(io::stdout()), tty::columns_of(io::stderr()));
        for change in changes {
            for (to, text) in self.printer.print(change) {
                write(to, &text)?;
            }
        }
        Ok(())
    }

    /// Prints the card of the request that waits, once, so that a line of the pipe can answer it.
    fn card(&mut self, cards: &mut Cards, now_ms: u64) -> Shown {
        let Some(waiting) = cards.shown() else {
            self.card = None;
            cards.drawn(None, now_ms);
            return Ok(());
        };
        let text = match &waiting.body {
            Body::Fetching { .. } => return Ok(()),
            Body::Whole { card, .. } => card.plain(),
            Body::Missing(why) => {
                format!("{} asks for permission: {}", tool_name(&waiting.open.tool), visible(why))
            }
        };
        let number = waiting.number;
        if self.card == Some(number) {
            return Ok(());
        }
        cards.drawn(Some((number, true)), now_ms);
        self.card = Some(number);
        if self.as_json {
            return Ok(());
        }
        let (place, all) = cards.place();
        let answers = if self.is_typed || self.asks_others { ELSEWHERE.to_owned() } else { cards.hint() };
        let to = if self.is_terminal { To::Stdout } else { To::Stderr };
        for (to, text) in self.printer.interrupt(to) {
            write(to, &text)?;
        }
        let text = format!("? {place} of {all}: {text}\n  {answers}\n");
        write(to, &if self.is_terminal { out::folded(&text, io::stdout()) } else { out::folded(&text, io::stderr()) })
    }
}

/// JSON for this program's output.
fn json_line(text: &str, is_terminal: bool) -> String {
    if is_terminal { json_for_terminal(text) } else { text.to_owned() }
}

/// Writes at once.
fn write(to: To, text: &str) -> Shown {
    if to == To::Stderr {
        // If this cannot be printed, neither can the reason.
        let _ = write!(io::stderr(), "{text}");
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(None),
        Err(error) => Err(Some(out::unwritable(&error))),
    }
}
