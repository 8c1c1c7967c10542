//! Lines from a pipe, sans-io: one after the other, each when it can be carried out.

use std::collections::VecDeque;

use crate::relay::card::Said;

/// What the session is doing, as far as a script must know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doing {
    /// A request waits that a line may answer.
    pub(super) asked: bool,
    /// It comes of a prompt of ours, so that it is for us to answer.
    pub(super) ours: bool,
    /// Its card was printed.
    pub(super) shown: bool,
    /// A prompt of ours is not settled, a command not answered, or a turn runs.
    pub(super) working: bool,
    /// A command is not answered: whether it was taken is not known.
    pub(super) unanswered: bool,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Carry out this line.
    Line(String),
    /// Everything is done.
    End,
    /// Everything was said, and a request of ours waits for an answer.
    Unanswered,
}

/// The lines that are still to be carried out.
#[derive(Debug, Default)]
pub(super) struct Script {
    lines: VecDeque<String>,
    ended: bool,
}

impl Script {
    /// A line came.
    pub(super) fn line(&mut self, line: &str) {
        self.lines.push_back(line.trim_end_matches(['\n', '\r']).to_owned());
    }

    /// No more lines will come.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Lines that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lines.len()
    }

    /// What to do now; `None`: wait. An answer waits for a request as long as one may come, and holds what follows; at the
    /// end the running turn is waited for, unless it waits for an answer itself: what others are asked is left to them.
    pub(super) fn next(&mut self, doing: Doing) -> Option<Next> {
        while self.lines.front().is_some_and(|line| line.trim().is_empty()) {
            self.lines.pop_front();
        }
        if let Some(line) = self.lines.front() {
            let is_answer = Said::of(line).is_some();
            if (doing.asked && !doing.shown) || (is_answer && !doing.asked && doing.working) {
                return None;
            }
            return self.lines.pop_front().map(Next::Line);
        }
        match self.ended {
            true if doing.asked && doing.shown && doing.ours => Some(Next::Unanswered),
            true if doing.asked && doing.shown && !doing.unanswered => Some(Next::End),
            true if !doing.working => Some(Next::End),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Doing = Doing { asked: false, ours: false, shown: false, working: false, unanswered: false };
    const WORKING: Doing = Doing { working: true, ..IDLE };
    const ASKED: Doing = Doing { asked: true, ours: true, shown: true, ..WORKING };

    fn line(text: &str) -> Option<Next> {
        Some(Next::Line(text.into()))
    }

    #[test]
    fn an_answer_waits_for_its_question() {
        let mut script = Script::default();
        for line in ["ask me\r\n", "\n", "yes\n", "next\n", "n"] {
            script.line(line);
        }
        script.end();
        assert_eq!(script.next(IDLE), line("ask me"));
        assert_eq!(script.next(WORKING), None);
        assert_eq!(script.next(Doing { shown: false, ..ASKED }), None, "its card comes first");
        assert_eq!(script.next(ASKED), line("yes"));
        assert_eq!(script.next(WORKING), line("next"));
        assert_eq!(script.next(WORKING), None);
        // The turn ended without a question: then it is a line like any other.
        assert_eq!(script.next(IDLE), line("n"));
        assert_eq!(script.next(WORKING), None);
        assert_eq!(script.next(IDLE), Some(Next::End));
    }

    #[test]
    fn an_end_without_an_answer_is_told() {
        let mut script = Script::default();
        script.line("please ask me");
        script.end();
        assert_eq!(script.next(IDLE), line("please ask me"));
        assert_eq!(script.next(ASKED), Some(Next::Unanswered));
    }

    #[test]
    fn what_others_are_asked_is_left_to_them_when_the_input_has_ended() {
        const OTHERS: Doing = Doing { ours: false, ..ASKED };
        let mut script = Script::default();
        script.line("y");
        script.end();
        assert_eq!(script.next(OTHERS), line("y"));
        let sent = Doing { unanswered: true, ..OTHERS };
        assert_eq!(script.next(sent), None, "the answer may be refused");
        assert_eq!(script.next(Doing { shown: false, ..OTHERS }), None, "its card comes first");
        assert_eq!(script.next(OTHERS), Some(Next::End));
    }

    #[test]
    fn without_an_end_it_goes_on() {
        let mut script = Script::default();
        assert_eq!(script.next(IDLE), None);
        script.line("hi");
        assert_eq!(script.next(WORKING), line("hi"));
        assert_eq!(script.next(IDLE), None);
    }
}
