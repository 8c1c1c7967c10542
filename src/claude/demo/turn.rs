//! One turn of the demo agent as a script: steps with a pause before each. Owns what was said so far in it.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// The harmless tool that the word `ask` in a prompt brings up.
pub(super) const COMMAND: &str = "echo demo";
/// What it would print.
pub(super) const PRINTED: &str = "demo";

/// A prompt that waits or runs.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub(super) uuid: Option<String>,
    pub(super) content: Value,
    pub(super) text: String,
}

impl Prompt {
    /// Whether it wants the tool.
    pub(super) fn asks(&self) -> bool {
        self.text.split(|character: char| !character.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case("ask"))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Init,
    MessageStart,
    TextStart,
    Delta(String),
    ToolStart,
    BlockEnd,
    MessageEnd,
    Ask,
    ToolResult { ok: bool, text: String },
    Finish,
    Abort,
}

/// A block under way.
#[derive(Clone, Debug)]
pub(super) enum Open {
    Text(String),
    Tool(String),
}

#[derive(Debug)]
pub(super) struct Turn {
    pub(super) prompt: Prompt,
    /// Under which id its lifecycle is told; a re-run has a fresh one.
    pub(super) lifecycle: Option<String>,
    /// More prompts that end with it: the same one, sent again while it ran.
    pub(super) also: Vec<String>,
    pub(super) rerun: bool,
    pub(super) started_ms: u64,
    pub(super) echoed: bool,
    steps: VecDeque<(u64, Step)>,
    /// When the first step is due.
    due_ms: u64,
    pub(super) message: Option<String>,
    pub(super) index: u32,
    pub(super) open: Option<Open>,
    pub(super) call: Option<String>,
    /// A permission request without an answer.
    pub(super) waiting: Option<String>,
    pub(super) said: String,
    pub(super) messages: u64,
}

/// Pause before a delta, at most: a whole answer takes less than a second.
const PACE_MS: u64 = 40;
const ANSWER_MS: u64 = 900;

impl Turn {
    pub(super) fn new(prompt: Prompt, now_ms: u64) -> Self {
        Self {
            lifecycle: prompt.uuid.clone(),
            prompt,
            also: Vec::new(),
            rerun: false,
            started_ms: now_ms,
            echoed: false,
            steps: VecDeque::new(),
            due_ms: now_ms,
            message: None,
            index: 0,
            open: None,
            call: None,
            waiting: None,
            said: String::new(),
            messages: 0,
        }
    }

    /// Replaces what is still to come.
    pub(super) fn plan(&mut self, steps: impl IntoIterator<Item = (u64, Step)>, now_ms: u64) {
        self.steps = steps.into_iter().collect();
        self.due_ms = now_ms + self.steps.front().map_or(0, |(pause, _)| *pause);
    }

    /// When the next step is due; never while a person is asked.
    pub(super) fn due(&self) -> Option<u64> {
        (self.waiting.is_none() && !self.steps.is_empty()).then_some(self.due_ms)
    }

    /// The next step, if it is due.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<Step> {
        if self.due().is_none_or(|due| due > now_ms) {
            return None;
        }
        let (_, step) = self.steps.pop_front()?;
        if let Some((pause, _)) = self.steps.front() {
            self.due_ms = now_ms.max(self.due_ms) + pause;
        }
        Some(step)
    }

    /// Whether a tool call is still to come.
    pub(super) fn asks_next(&self) -> bool {
        self.steps.iter().any(|(_, step)| *step == Step::ToolStart)
    }

    pub(super) fn is_aborting(&self) -> bool {
        self.steps.iter().any(|(_, step)| *step == Step::Abort)
    }

    /// The uuids a result names.
    pub(super) fn uuids(&self) -> Vec<&str> {
        self.prompt.uuid.as_deref().into_iter().collect()
    }

    pub(super) fn input() -> Value {
        json!({"command":COMMAND,"description":"Print a word"})
    }
}

/// Streams a text as one message.
fn message(text: &str, end: Step) -> Vec<(u64, Step)> {
    let words: Vec<&str> = text.split_inclusive(' ').collect();
    // 10 to 30 pieces, whatever the length.
    let pieces: Vec<String> = words.chunks(words.len().div_ceil(25).max(1)).map(<[&str]>::concat).collect();
    let pace = (ANSWER_MS / pieces.len().max(1) as u64).min(PACE_MS);
    let mut steps = vec![(20, Step::MessageStart), (0, Step::TextStart)];
    steps.extend(pieces.into_iter().map(|piece| (pace, Step::Delta(piece))));
    steps.extend([(0, Step::BlockEnd), (0, Step::MessageEnd), (5, end)]);
    steps
}

/// A turn that only answers.
pub(super) fn answer(text: &str) -> Vec<(u64, Step)> {
    let mut steps = vec![(10, Step::Init)];
    steps.extend(message(text, Step::Finish));
    steps
}

/// A turn that asks for its tool first.
pub(super) fn ask() -> Vec<(u64, Step)> {
    let mut steps = vec![(10, Step::Init)];
    steps.extend(message("I would like to run a harmless command for this.", Step::Ask));
    let end = steps.len() - 2;
    steps.splice(end..end, [(0, Step::ToolStart), (0, Step::BlockEnd)]);
    steps
}

/// What follows the end of the tool.
pub(super) fn after_tool(ok: bool, text: &str) -> Vec<(u64, Step)> {
    let mut steps = vec![(20, Step::ToolResult { ok, text: text.to_owned() })];
    steps.extend(conclusion(ok, text));
    steps
}

/// What is said after the tool.
pub(super) fn conclusion(ok: bool, text: &str) -> Vec<(u64, Step)> {
    let said = if ok {
        format!("The command printed: {text}. That is all there was to do, and nothing else was touched on the way.")
    } else {
        let text = text.trim_end_matches('.');
        format!("The command did not run: {text}. So I leave it at that and wait for what you would like next.")
    };
    message(&said, Step::Finish)
}

/// The answer to a prompt.
pub(super) fn text(prompt: &str, remembered: u64) -> String {
    let cut: String = prompt.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
    let memory = match remembered {
        0 => "This is the first prompt of our conversation.".to_owned(),
        1 => "I remember 1 earlier prompt of our conversation.".to_owned(),
        many => format!("I remember {many} earlier prompts of our conversation."),
    };
    format!(
        "You said: \"{cut}\". I am the demo agent: I speak the way Claude Code does, call no model and run no tool. \
         {memory} Every device that watches this session sees these words as they come."
    )
}
