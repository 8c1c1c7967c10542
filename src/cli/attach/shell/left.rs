//! What is said when the terminal is the shell's again: how the session goes on, and what became of what was typed.

use super::{Pending, Shell};
use crate::{cli::reach::command, client::Target};

/// Said before what was typed and has no answer, when the terminal is the shell's again.
const NOT_SENT: &str = "typed, and not sent:";
const MAY_HAVE_IT: &str = "typed, and not answered by the relay, which may have it:";

/// The same before an answer to a request.
const NO_ANSWER: &str = "not sent:";
const MAY_BE_TAKEN: &str = "sent, and not confirmed by the relay, which may or may not have taken it:";

impl Shell {
    /// What starts a relay in the place of one that is away, where that one is on this machine.
    pub(super) fn start(&self) -> Option<String> {
        let Target::Unix(socket) = &self.target else { return None };
        let up = socket.parent().map_or_else(|| "`amp-relay up`".into(), |data| command("up", data));
        Some(format!("{up} starts one on this machine"))
    }

    /// What is said when the session is left.
    pub(super) fn left(&self, again: &str) -> String {
        let next = || format!("{again} joins the session again when the way to it is open");
        let next = self.start().unwrap_or_else(next);
        match (self.offline.is_some(), self.link.unanswered()) {
            (true, 0) => format!("detached; the relay cannot be reached; {next}"),
            (true, _) => format!("detached; the relay cannot be reached{}; {next}", self.lost()),
            _ if self.model.is_over() => "detached; the session is over".into(),
            _ => format!("detached; the session goes on: {again} joins it again"),
        }
    }

    /// What is to be said of lines without an answer, where there will be none.
    pub(super) fn lost(&self) -> &'static str {
        let mut lines = self
            .pending
            .iter()
            .filter(|(_, pending)| matches!(pending, Pending::Prompt { .. } | Pending::Decision { .. }));
        let is_sent = |(id, _): (&String, &Pending)| self.link.was_sent(id);
        match (lines.clone().any(is_sent), lines.any(|line| !is_sent(line))) {
            (false, false) => "",
            (false, true) => "; what was typed since was not sent",
            (true, false) => "; what was typed last was sent, and not answered",
            (true, true) => "; of what was typed last a part was sent and not answered, and the rest was not sent",
        }
    }

    /// What was typed and came to nothing, to be shown when the terminal is the shell's again: answers to requests and
    /// prompts that the relay has not confirmed, and `with_draft` what stands in the editor. The prompts of a pipe are
    /// where they came from.
    pub(super) fn unanswered(&self, with_draft: bool) -> String {
        let mut pending: Vec<(&String, &Pending)> = self.pending.iter().collect();
        // Commands are numbered as they are made.
        pending.sort_by_key(|(id, _)| (id.len(), id.as_str()));
        let mut out = String::new();
        let mut add = |what: &str, text: &str| {
            out += what;
            out.extend(text.lines().map(|line| format!("\n  {line}")));
            out.push('\n');
        };
        for (id, pending) in pending {
            let was_sent = self.link.was_sent(id);
            match pending {
                Pending::Prompt { text, .. } if self.face.is_window() => {
                    add(if was_sent { MAY_HAVE_IT } else { NOT_SENT }, text);
                }
                Pending::Decision { answer, .. } => add(if was_sent { MAY_BE_TAKEN } else { NO_ANSWER }, answer),
                _ => {}
            }
        }
        if let Some(draft) = self.face.draft().filter(|_| with_draft) {
            add(NOT_SENT, &draft);
        }
        out
    }
}
