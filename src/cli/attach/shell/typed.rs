//! What is done about a key or a line: an answer, a prompt, or a command of this program's own.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{HISTORY_BYTES, Pending, Shell};
use crate::cli::{
    attach::{
        HELP,
        action::Action,
        cards::Meaning,
        editor::TEXT_BYTES_MAX,
        entry::Kind,
        face::ELSEWHERE,
        ours::Asks,
        script::{self, Doing},
        words::answer_to,
    },
    text::honest_line,
};
use crate::relay::card::Said;

/// Said of an answer that came down a pipe when nothing was asked.
const NOTHING_TO_ANSWER: &str =
    "this answers a request for permission, and none waits; as a prompt it needs more words than that";

const WHEN_BACK: &str = "it is sent when the relay is back with this session";

// What is said in the status row has 78 columns on most terminals.
const NOT_INTERRUPTED: &str = "the relay cannot be reached, so nothing can be interrupted; Ctrl-] leaves";
const NO_SIGN_OF_LIFE: &str = "told to stop, and no sign of life: `amp-relay stop --now` ends the session";

fn no_room(bytes: usize) -> String {
    format!("not pasted: {bytes} bytes, and {TEXT_BYTES_MAX} fit; put it in a file and name that")
}

fn too_long(bytes: usize, most: usize) -> String {
    format!("this takes {bytes} bytes, and a message has at most {most}")
}

/// Characters of a line by which a refusal names it.
const LINE_CHARS: usize = 80;

/// What a command has beside its text, in bytes.
const FIELDS_BYTES: usize = 512;

impl Shell {
    pub(super) fn action(&mut self, action: Action) {
        match action {
            Action::Line { text, began_ms } => self.line(&text, began_ms),
            Action::Interrupt if self.offline.is_some() => {
                self.say(Kind::Note, NOT_INTERRUPTED);
            }
            Action::Interrupt if self.model.interrupts() => {
                if let Some(id) = self.command(json!({"type": "interrupt"})) {
                    self.pending.insert(id, Pending::Interrupt);
                }
            }
            Action::Interrupt => self.say(Kind::Note, &self.model.not_interrupted()),
            Action::Leave => {
                let failed = !self.face.is_window() && (self.model.is_over() || self.refused || self.ours.has_failed());
                self.ended = Some(Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }));
            }
            Action::Unanswered => {
                let why = "a request waits for an answer, and the input has ended: `amp-relay attach` on a terminal \
                           answers it, or another device; the session goes on"
                    .into();
                self.ended = Some(Err(why));
            }
            Action::Earlier => self.history(HISTORY_BYTES),
            Action::NoRoom(bytes) => {
                self.say(Kind::Warning, &no_room(bytes));
            }
            Action::Failed(why) => self.ended = Some(Err(why)),
        }
    }

    /// A line was typed, or came from the pipe.
    fn line(&mut self, text: &str, began_ms: u64) {
        // These two are ours whatever is asked.
        match text.trim() {
            "/help" if self.face.is_window() => return self.note(Kind::Note, HELP),
            "/quit" if self.face.is_window() => {
                self.ended = Some(Ok(ExitCode::SUCCESS));
                return;
            }
            _ => {}
        }
        if self.face.takes_no_answer(text, &self.model.cards) {
            let why = format!("not sent: what a tool asks is not answered here; {ELSEWHERE}");
            return self.refuse(Kind::Warning, text, &why);
        }
        if !self.fits(text) {
            return;
        }
        match self.model.cards.line(text, began_ms) {
            Meaning::Text => self.prompt(text),
            Meaning::Next => {}
            Meaning::NotTaken(why) => {
                self.refuse(Kind::Warning, text, &why);
                // What was an answer to something else is not to stand there for another request.
                if Said::of(text).is_none() && text.chars().any(char::is_alphabetic) {
                    self.face.put_back(text);
                }
            }
            Meaning::Decide(fields) => {
                let request = fields["request"].as_str().unwrap_or_default().to_owned();
                let answer = self.model.cards.open(&request).map(|open| answer_to(open, &fields)).unwrap_or_default();
                match self.sent(fields, text, &format!("kept: {answer}")) {
                    Some(id) => drop(self.pending.insert(id, Pending::Decision { request, answer })),
                    None => self.model.cards.not_decided(&request),
                }
            }
        }
    }

    /// A line of a pipe was written before it was known what would be asked. So it answers only what a prompt of the
    /// same pipe leads to; before any prompt a yes or a no also answers what is asked of others. No other request takes
    /// a prompt for its answer, or a yes that was meant for something else. Before any prompt a bare yes or no answers
    /// a request that was there; where none is left, the line is not sent to the agent.
    fn piped(&mut self, text: &str) {
        let has_no_request = !self.ours.has_sent() && self.model.cards.shown().is_none();
        if has_no_request && Said::of(text).is_some() && !self.face.is_typed() {
            let why = self.model.refusal().unwrap_or_else(|| NOTHING_TO_ANSWER.into());
            return self.not_sent(text, &why);
        }
        let is_for_others = match self.asks() {
            Some(Asks::Others) => true,
            Some(Asks::Anyone) => Said::of(text).is_none(),
            Some(Asks::Us) | None => false,
        };
        match is_for_others && !self.face.is_typed() {
            false => self.line(text, u64::MAX),
            true if self.fits(text) => self.prompt(text),
            true => {}
        }
    }

    /// The side that the waiting request asks, if this connection may decide it.
    pub(super) fn asks(&self) -> Option<Asks> {
        let shown = self.model.cards.shown().filter(|_| self.model.cards.decides())?;
        Some(self.ours.asks(&shown.open.request))
    }

    /// Whether a line is not too long to be sent; else it is said.
    fn fits(&mut self, text: &str) -> bool {
        let bytes = json!(text).to_string().len();
        let most = self.message_bytes_max;
        let fits = bytes + FIELDS_BYTES <= most;
        if !fits {
            self.not_sent(text, &too_long(bytes, most));
        }
        fits
    }

    fn prompt(&mut self, text: &str) {
        if let Some(why) = self.model.refusal() {
            return self.not_sent(text, &why);
        }
        let under_request = self.is_asked();
        match self.sent(json!({"type": "prompt", "text": text}), text, "kept") {
            Some(id) => {
                self.ours.sent();
                self.pending.insert(id, Pending::Prompt { text: text.to_owned(), under_request });
            }
            None => self.face.put_back(text),
        }
    }

    /// Whether a request waits that this connection may decide.
    pub(super) fn is_asked(&self) -> bool {
        self.model.cards.shown().is_some() && self.model.cards.decides()
    }

    /// A prompt is not sent, or not taken: it stays where it was typed.
    pub(super) fn not_sent(&mut self, text: &str, why: &str) {
        self.refuse(Kind::Error, text, &format!("not sent: {why}"));
        self.face.put_back(text);
    }

    /// A line comes to nothing. A window has it in its editor or its history; of the lines of a pipe, which go out one
    /// behind the other, it is to be told which one it was.
    fn refuse(&mut self, kind: Kind, text: &str, why: &str) {
        self.refused = true;
        if self.face.is_window() {
            self.say(kind, why);
        } else {
            self.say(kind, &format!("{why}; the line: {}", honest_line(text, LINE_CHARS)));
        }
    }

    /// What an interrupt came to. The end of the turn follows an interrupt that was heard.
    pub(super) fn interrupted(&mut self, ran: Option<bool>) {
        match ran {
            Some(false) => self.say(Kind::Note, "nothing was running any more"),
            Some(true) if self.model.state() == "stuck" => {
                self.say(Kind::Note, NO_SIGN_OF_LIFE);
            }
            Some(true) | None => {}
        }
    }

    /// Puts out the command that a line makes: gives its id, if it finds room. What came of it is told by its answer;
    /// `kept` is said where there is no connection.
    fn sent(&mut self, fields: Value, line: &str, kept: &str) -> Option<String> {
        match self.link.command(fields) {
            Ok((id, todo)) => {
                self.act(todo);
                if self.offline.is_some() {
                    self.note(Kind::Note, &format!("{kept}; {WHEN_BACK}"));
                }
                Some(id)
            }
            Err(full) => {
                self.refuse(Kind::Error, line, &full.to_string());
                None
            }
        }
    }

    /// Carries out the next line of a pipe, if the session allows one. True: it did.
    pub(super) fn run_script(&mut self) -> bool {
        if self.attached && !self.all && self.ended.is_none() {
            let (asks, unanswered) = (self.asks(), self.link.unanswered() > 0);
            let of_ours = asks == Some(Asks::Us) || asks == Some(Asks::Others) && self.face.is_typed();
            let doing = Doing {
                asked: of_ours || asks == Some(Asks::Anyone),
                ours: of_ours,
                shown: self.face.card_is_shown(&self.model.cards),
                working: self.model.is_working() || unanswered,
                unanswered,
            };
            match self.face.next_line(doing) {
                Some(script::Next::Line(text)) => self.piped(&text),
                Some(script::Next::End) => self.action(Action::Leave),
                Some(script::Next::Unanswered) => self.action(Action::Unanswered),
                None => return false,
            }
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::text::columns, client::LinkFull};

    #[test]
    fn what_is_said_in_the_status_row_has_room_in_80_columns() {
        let bytes = 64 << 20;
        let not_sent = format!("not sent: {}", too_long(bytes, bytes));
        let said = [NOT_INTERRUPTED.to_owned(), NO_SIGN_OF_LIFE.into(), no_room(bytes), not_sent, LinkFull.to_string()];
        for said in said {
            assert!(columns(&said) <= 78, "{said}");
        }
    }
}
