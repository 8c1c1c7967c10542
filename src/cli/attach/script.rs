//! Prompts from a pipe, sans-io: lines in, one action after the other out.

use std::collections::VecDeque;

use super::editor::Action;

/// What the session is doing, as far as a script must know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doing {
    /// A request waits for us.
    pub(super) asked: bool,
    /// A prompt of ours is not settled, a command not answered, or a turn runs.
    pub(super) working: bool,
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

    /// What to do now; `None`: wait. `y` and `n` wait for a request as long as one may come, and hold what follows; at
    /// the end the running turn is waited for.
    pub(super) fn next(&mut self, doing: Doing) -> Option<Action> {
        while let Some(line) = self.lines.front() {
            let answer = match line.trim() {
                "y" | "Y" => Some(true),
                "n" | "N" => Some(false),
                "" => {
                    self.lines.pop_front();
                    continue;
                }
                _ => None,
            };
            if let Some(allow) = answer {
                if doing.asked {
                    self.lines.pop_front();
                    return Some(Action::Answer(allow));
                }
                if doing.working {
                    return None;
                }
            }
            return self.lines.pop_front().map(Action::Submit);
        }
        (self.ended && !doing.working).then_some(Action::Detach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Doing = Doing { asked: false, working: false };
    const WORKING: Doing = Doing { asked: false, working: true };
    const ASKED: Doing = Doing { asked: true, working: true };

    #[test]
    fn an_answer_waits_for_its_question() {
        let mut script = Script::default();
        for line in ["ask me\r\n", "\n", "y\n", "next\n", "n"] {
            script.line(line);
        }
        script.end();
        assert_eq!(script.next(IDLE), Some(Action::Submit("ask me".into())));
        assert_eq!(script.next(WORKING), None);
        assert_eq!(script.next(ASKED), Some(Action::Answer(true)));
        assert_eq!(script.next(WORKING), Some(Action::Submit("next".into())));
        assert_eq!(script.next(WORKING), None);
        // The turn ended without a question: then it is a prompt like any other.
        assert_eq!(script.next(IDLE), Some(Action::Submit("n".into())));
        assert_eq!(script.next(WORKING), None);
        assert_eq!(script.next(IDLE), Some(Action::Detach));
    }

    #[test]
    fn without_an_end_it_goes_on() {
        let mut script = Script::default();
        assert_eq!(script.next(IDLE), None);
        script.line("hi");
        assert_eq!(script.next(WORKING), Some(Action::Submit("hi".into())));
        assert_eq!(script.next(IDLE), None);
    }
}
