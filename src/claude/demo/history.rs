//! What a conversation's transcript says about turns: which prompts are known, and which turn died. Reads values, not
//! files.

use std::collections::BTreeSet;

use serde_json::Value;

/// How far a turn had come when its process died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interrupted {
    /// The prompt's uuid, where it had one.
    pub(super) prompt: Option<String>,
    pub(super) text: String,
    /// What its tool gave back, if it had ended: the turn goes on from there.
    pub(super) result: Option<(bool, String)>,
}

/// A conversation so far.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// Prompts with anything after them: they are never run again for being sent again.
    settled: BTreeSet<String>,
    /// How many prompts there were.
    pub(super) prompts: u64,
    pub(super) cost_usd: f64,
    open: Option<Interrupted>,
}

impl History {
    /// Takes the transcript's records in order; unknown ones are left out.
    pub(super) fn read(records: impl Iterator<Item = Value>) -> Self {
        let mut history = Self::default();
        for record in records {
            history.take(&record);
        }
        history
    }

    fn take(&mut self, record: &Value) {
        let content = &record["message"]["content"];
        match record["type"].as_str() {
            Some("user") if content[0]["type"] == "tool_result" => {
                if let Some(open) = &mut self.open {
                    let text = content[0]["content"].as_str().unwrap_or_default().to_owned();
                    open.result = Some((content[0]["is_error"] != true, text));
                }
            }
            Some("user") if is_marker(content) => self.close(),
            Some("user") => {
                self.close();
                self.prompts += 1;
                let prompt = record["uuid"].as_str().map(str::to_owned);
                self.open = Some(Interrupted { prompt, text: text_of(content), result: None });
            }
            Some("assistant") => {
                if let Some(prompt) = self.open.as_ref().and_then(|open| open.prompt.clone()) {
                    self.settled.insert(prompt);
                }
                if record["message"]["stop_reason"] == "end_turn" {
                    self.close();
                }
            }
            Some("totals") => self.cost_usd = record["total_cost_usd"].as_f64().unwrap_or(self.cost_usd),
            _ => {}
        }
    }

    fn close(&mut self) {
        if let Some(prompt) = self.open.take().and_then(|open| open.prompt) {
            self.settled.insert(prompt);
        }
    }

    /// Whether a prompt of this uuid counts as done.
    pub(super) fn knows(&self, prompt: &str) -> bool {
        self.settled.contains(prompt)
    }

    /// A turn of this process has ended.
    pub(super) fn settle(&mut self, prompt: &str) {
        self.settled.insert(prompt.to_owned());
    }

    /// The turn that died, if the last one did.
    pub(super) fn interrupted(&mut self) -> Option<Interrupted> {
        self.open.take()
    }
}

fn is_marker(content: &Value) -> bool {
    content[0]["text"].as_str().is_some_and(|text| text.starts_with("[Request interrupted by user"))
}

/// The text of a prompt, a string or a list of blocks.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prompt(uuid: &str) -> Value {
        json!({"type":"user","uuid":uuid,"message":{"role":"user","content":"hi"}})
    }

    fn said(stop: &str) -> Value {
        json!({"type":"assistant","message":{"stop_reason":stop}})
    }

    fn interrupted(records: &[Value]) -> (Option<Interrupted>, bool) {
        let mut history = History::read(records.iter().cloned());
        let knows = history.knows("u");
        (history.interrupted(), knows)
    }

    #[test]
    fn only_a_turn_that_died_is_open() {
        let result = json!({"type":"user","message":{"content":[{"type":"tool_result","content":"demo"}]}});
        let marker =
            json!({"type":"user","message":{"content":[{"type":"text","text":"[Request interrupted by user]"}]}});
        let open = |result: Option<(bool, &str)>| {
            let result = result.map(|(ok, text)| (ok, text.to_owned()));
            Some(Interrupted { prompt: Some("u".into()), text: "hi".into(), result })
        };
        assert_eq!(interrupted(&[]), (None, false));
        assert_eq!(interrupted(&[prompt("u")]), (open(None), false));
        assert_eq!(interrupted(&[prompt("u"), said("tool_use")]), (open(None), true));
        let died = [prompt("u"), said("tool_use"), result];
        assert_eq!(interrupted(&died), (open(Some((true, "demo"))), true));
        assert_eq!(interrupted(&[prompt("u"), said("end_turn")]), (None, true));
        assert_eq!(interrupted(&[prompt("u"), marker]), (None, true));
        assert_eq!(
            interrupted(&[prompt("u"), said("end_turn"), prompt("v")]).0.and_then(|open| open.prompt),
            Some("v".into())
        );
    }
}
