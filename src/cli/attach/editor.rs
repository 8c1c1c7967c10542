//! The line a person types, and what keys mean, sans-io.

const HISTORY_MAX: usize = 200;
/// Longest line that can be typed or pasted, in bytes; a larger prompt comes through a pipe.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A character.
    Char(char),
    /// Text that was pasted, newlines included.
    Paste(String),
    /// Ends the line.
    Enter,
    /// A newline inside the line.
    Newline,
    /// Deletes to the left.
    Backspace,
    /// Deletes to the right.
    Delete,
    /// Deletes a word to the left.
    DeleteWord,
    /// Deletes the line.
    DeleteLine,
    /// Moves.
    Left,
    /// Moves.
    Right,
    /// Moves to the start.
    Home,
    /// Moves to the end.
    End,
    /// Older line.
    Up,
    /// Newer line.
    Down,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    EndOfInput,
    /// Ctrl-].
    Detach,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The line is to be drawn again, at most.
    Edit,
    /// A prompt.
    Submit(String),
    /// The answer to the open request.
    Answer(bool),
    /// Stop the running turn.
    Interrupt,
    /// Leave; the session goes on.
    Detach,
}

/// The line.
#[derive(Debug, Default)]
pub(super) struct Editor {
    before: String,
    after: String,
    history: Vec<String>,
    /// Where in the history, counted from its end; 0 is the line itself.
    back: usize,
    draft: String,
    /// The answer that was given since the last Enter.
    answered: Option<bool>,
}

impl Editor {
    /// Whether nothing is typed.
    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    /// What is left and right of the cursor.
    pub(super) fn parts(&self) -> (&str, &str) {
        (&self.before, &self.after)
    }

    /// A key was pressed; `asked`: a request waits for `y` or `n`, `busy`: a turn runs.
    pub(super) fn key(&mut self, key: Key, asked: bool, busy: bool) -> Action {
        match key {
            // Only on an empty line: a person who types a prompt is not answering.
            Key::Char('y' | 'Y') if asked && self.is_empty() => return self.answer(true),
            Key::Char('n' | 'N') if asked && self.is_empty() => return self.answer(false),
            Key::Detach => return Action::Detach,
            Key::EndOfInput if self.is_empty() => return Action::Detach,
            Key::Interrupt => {
                if !busy {
                    self.set("");
                }
                return Action::Interrupt;
            }
            Key::Enter => return self.submit(),
            Key::Up => self.recall(self.back + 1),
            Key::Down => self.recall(self.back.saturating_sub(1)),
            other => self.edit(other),
        }
        Action::Edit
    }

    fn answer(&mut self, allow: bool) -> Action {
        self.answered = Some(allow);
        Action::Answer(allow)
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Char(c) if !c.is_control() && self.fits(c.len_utf8()) => self.before.push(c),
            Key::Newline if self.fits(1) => self.before.push('\n'),
            Key::Paste(text) => {
                let text = text.replace("\r\n", "\n").replace('\r', "\n");
                let text: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
                if self.fits(text.len()) {
                    self.before.push_str(&text);
                }
            }
            Key::Backspace => {
                self.before.pop();
            }
            Key::Delete | Key::EndOfInput => {
                self.after = self.after.chars().skip(1).collect();
            }
            Key::DeleteWord => {
                let kept = self.before.trim_end().rfind(char::is_whitespace).map_or(0, |at| at + 1);
                self.before.truncate(kept);
            }
            Key::DeleteLine => self.before.clear(),
            Key::Left => {
                if let Some(c) = self.before.pop() {
                    self.after.insert(0, c);
                }
            }
            Key::Right if !self.after.is_empty() => self.before.push(self.after.remove(0)),
            Key::Home => self.after = std::mem::take(&mut self.before) + &self.after,
            Key::End => self.before += &std::mem::take(&mut self.after),
            _ => {}
        }
    }

    fn fits(&self, more: usize) -> bool {
        self.before.len() + self.after.len() + more <= LINE_BYTES_MAX
    }

    fn set(&mut self, text: &str) {
        text.clone_into(&mut self.before);
        self.after.clear();
        self.back = 0;
    }

    fn submit(&mut self) -> Action {
        let line = std::mem::take(&mut self.before) + &std::mem::take(&mut self.after);
        self.back = 0;
        let answered = self.answered.take();
        // Who writes the answer out has given it with its first letter; the rest is no prompt.
        let rest_of_answer = match answered {
            Some(true) => line.eq_ignore_ascii_case("es"),
            Some(false) => line.eq_ignore_ascii_case("o"),
            None => false,
        };
        if line.trim().is_empty() || rest_of_answer {
            return Action::Edit;
        }
        if self.history.last() != Some(&line) {
            if self.history.len() == HISTORY_MAX {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        Action::Submit(line)
    }

    fn recall(&mut self, back: usize) {
        if back == self.back || back > self.history.len() {
            return;
        }
        if self.back == 0 {
            self.draft = format!("{}{}", self.before, self.after);
        }
        let line = if back == 0 { self.draft.clone() } else { self.history[self.history.len() - back].clone() };
        self.set(&line);
        self.back = back;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn type_text(editor: &mut Editor, text: &str) {
        for c in text.chars() {
            assert_eq!(editor.key(Key::Char(c), false, false), Action::Edit);
        }
    }

    #[test]
    fn keys_mean_what_the_help_says() {
        let mut editor = Editor::default();
        assert_eq!(editor.key(Key::Char('y'), true, true), Action::Answer(true));
        assert_eq!(editor.key(Key::Char('n'), true, true), Action::Answer(false));
        assert_eq!(editor.key(Key::Interrupt, false, false), Action::Interrupt);
        assert_eq!(editor.key(Key::EndOfInput, false, false), Action::Detach);
        type_text(&mut editor, "say");
        // Typing has begun: letters are letters.
        assert_eq!(editor.key(Key::Char('y'), true, true), Action::Edit);
        assert_eq!(editor.key(Key::EndOfInput, false, false), Action::Edit);
        assert_eq!(editor.key(Key::Interrupt, false, true), Action::Interrupt);
        assert_eq!(editor.parts(), ("sayy", ""), "an interrupt of a running turn keeps the draft");
        assert_eq!(editor.key(Key::Detach, false, false), Action::Detach);
        assert_eq!(editor.key(Key::Enter, true, true), Action::Submit("sayy".into()));
        assert_eq!(editor.key(Key::Enter, true, true), Action::Edit);
    }

    #[test]
    fn an_answer_may_be_written_out() {
        let mut editor = Editor::default();
        assert_eq!(editor.key(Key::Char('y'), true, true), Action::Answer(true));
        type_text(&mut editor, "es");
        assert_eq!(editor.key(Key::Enter, false, true), Action::Edit);
        type_text(&mut editor, "es");
        assert_eq!(editor.key(Key::Enter, false, true), Action::Submit("es".into()));
        assert_eq!(editor.key(Key::Char('n'), true, true), Action::Answer(false));
        type_text(&mut editor, "o more");
        assert_eq!(editor.key(Key::Enter, false, true), Action::Submit("o more".into()));
    }

    #[test]
    fn lines_are_edited_and_recalled() {
        let mut editor = Editor::default();
        type_text(&mut editor, "one two");
        editor.key(Key::DeleteWord, false, false);
        editor.key(Key::Home, false, false);
        editor.key(Key::Char('ä'), false, false);
        editor.key(Key::Right, false, false);
        editor.key(Key::Delete, false, false);
        assert_eq!(editor.parts(), ("äo", "e "));
        editor.key(Key::Paste("x\r\ny\x1b".into()), false, false);
        assert_eq!(editor.key(Key::Enter, false, false), Action::Submit("äox\nye ".into()));
        type_text(&mut editor, "draft");
        editor.key(Key::Up, false, false);
        assert_eq!(editor.parts().0, "äox\nye ");
        editor.key(Key::Up, false, false);
        editor.key(Key::Down, false, false);
        assert_eq!(editor.parts().0, "draft");
    }

    proptest! {
        #[test]
        fn any_keys_are_survived(keys in prop::collection::vec((0usize..15, any::<char>()), 0..60)) {
            let mut editor = Editor::default();
            for (which, c) in keys {
                let all = [Key::Char(c), Key::Paste(c.to_string()), Key::Enter, Key::Newline, Key::Backspace, Key::Delete,
                    Key::DeleteWord, Key::DeleteLine, Key::Left, Key::Right, Key::Home, Key::End, Key::Up, Key::Down,
                    Key::EndOfInput];
                editor.key(all[which].clone(), false, false);
            }
        }
    }
}
