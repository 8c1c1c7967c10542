//! What an answer to several questions looks like: an example that fits them, read from the card that a session of a relay
//! sends. Other agents ask as they like; then no choices are known.

use crate::relay::card::Kind;

/// What a card says of a question that takes several choices.
const MANY: &str = "several may be chosen, as in 1,3";
/// What stands for an answer in words.
const WORDS: &str = "some text";
/// Answers that an example spells out.
const ANSWERS_MAX: usize = 4;

/// A question of a card.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    choices: usize,
    takes_many: bool,
}

impl Asked {
    fn example(self) -> &'static str {
        match self.choices {
            0 => WORDS,
            2 if self.takes_many => "1,2",
            3.. if self.takes_many => "1,3",
            _ => "1",
        }
    }
}

/// Answers to the questions of this prompt, of which there are so many.
pub(super) fn example(prompt: &str, wants: u64) -> String {
    let mut asked = questions(prompt);
    let count = usize::try_from(wants).unwrap_or(usize::MAX);
    if asked.len() != count {
        asked = vec![Asked::default(); count.min(ANSWERS_MAX + 1)];
    }
    let mut answers: Vec<&str> = asked.iter().take(ANSWERS_MAX).map(|asked| asked.example()).collect();
    if asked.len() > ANSWERS_MAX {
        answers.push("…");
    }
    answers.join("; ")
}

/// The questions of a card as plain text.
fn questions(prompt: &str) -> Vec<Asked> {
    let mut all: Vec<Asked> = Vec::new();
    for line in prompt.lines().filter_map(|line| line.strip_prefix("  ")) {
        if line.starts_with(Kind::Question.mark()) {
            all.push(Asked::default());
        } else if let Some(asked) = all.last_mut() {
            asked.choices += usize::from(line.starts_with(Kind::Choice.mark()));
            asked.takes_many |= line.strip_prefix(Kind::Remark.mark()) == Some(MANY);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{claude::ASKING_TOOL, relay::card::Card};

    #[test]
    fn an_example_fits_what_the_card_asks() {
        let options = |many: usize| -> Vec<Value> { (0..many).map(|n| json!({"label": format!("l{n}")})).collect() };
        let ask = |text: &str, choices: usize, many: bool| json!({"question": format!("{text}\n# {MANY}\n○ 1. x"), "options": options(choices), "multiSelect": many});
        for (asked, wanted) in [
            (vec![ask("A?", 2, false), ask("B?", 3, true)], "1; 1,3"),
            (vec![ask("A?", 2, true), json!({"question": "B?"})], "1,2; some text"),
            (vec![ask("A?", 3, false), ask("B?", 1, true)], "1; 1"),
            ((0..6).map(|n| ask(&n.to_string(), 2, false)).collect(), "1; 1; 1; 1; …"),
        ] {
            let count = asked.len() as u64;
            let prompt = Card::new(ASKING_TOOL, "", &json!({"questions": asked})).plain();
            assert_eq!(example(&prompt, count), wanted, "{prompt}");
        }
        assert_eq!(example("Which, and when?", 2), "some text; some text");
        assert_eq!(example("All?", u64::MAX), "some text; some text; some text; some text; …");
    }
}
