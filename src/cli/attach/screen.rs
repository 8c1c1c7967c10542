//! What a session looks like as text, sans-io: messages in, text out. Knows nothing of terminals but colours; lines end
//! with LF.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::Value;

use super::style::Style;
use crate::{
    cli::text::{clean, clean_line},
    client::{Block, DeviceInfo, ErrorMessage, Event, Fact, Incoming, OpenPermission, Reply, Snapshot},
};

const ARGUMENT_CHARS: usize = 160;
const WHY_CHARS: usize = 400;
const PREVIEW_LINES: usize = 3;
const PREVIEW_CHARS: usize = 200;
/// Prompts that are remembered as settled, for answers that come after the events.
const SETTLED_MAX: usize = 256;
/// Before the first word of thinking, so that it is told from the answer without colours too.
const THINKING: &str = "✻ ";
/// Blocks that are streamed at the same time; more are shown when they are whole.
const STREAMS_MAX: usize = 64;

/// One attached session, as it is shown.
pub(super) struct Screen {
    style: Style,
    /// Our device's name: its own prompts are shown without one.
    device: String,
    state: String,
    /// Whether our role may answer requests.
    decides: bool,
    /// Whether a row below the text asks for answers, so that the text need not.
    row: bool,
    model: Option<String>,
    mode: Option<String>,
    open: Vec<OpenPermission>,
    /// Requests that we have answered.
    decided: HashSet<String>,
    /// Bytes shown of blocks that are not whole yet.
    streams: HashMap<(String, u32), u64>,
    streaming: Option<(String, u32)>,
    devices: Vec<DeviceInfo>,
    at_line_start: bool,
    /// Our prompts that are not settled.
    waiting: HashSet<String>,
    settled: VecDeque<String>,
}

impl Screen {
    /// Nothing is shown yet. `role` as the relay granted it.
    pub(super) fn new(style: Style, device: &str, role: &str) -> Self {
        Self {
            style,
            device: device.to_owned(),
            state: "starting".into(),
            decides: !matches!(role, "agent" | "watch" | "drive"),
            row: false,
            model: None,
            mode: None,
            open: Vec::new(),
            decided: HashSet::new(),
            streams: HashMap::new(),
            streaming: None,
            devices: Vec::new(),
            at_line_start: true,
            waiting: HashSet::new(),
            settled: VecDeque::new(),
        }
    }

    /// A row below the text asks for answers.
    pub(super) fn has_row(&mut self) {
        self.row = true;
    }

    /// The request that `y` and `n` answer: the oldest that is open and not answered by us.
    pub(super) fn asks(&self) -> Option<&OpenPermission> {
        self.open.iter().find(|open| self.decides && !self.decided.contains(&open.request))
    }

    /// We send an answer to this request.
    pub(super) fn deciding(&mut self, request: &str) {
        self.decided.insert(request.to_owned());
    }

    /// Our answer was not taken: the request may be answered again.
    pub(super) fn not_decided(&mut self, request: &str) {
        self.decided.remove(request);
    }

    /// A turn runs, or is about to.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.state.as_str(), "busy" | "waiting" | "retrying" | "stuck")
    }

    /// The session is over.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "stopped" | "failed")
    }

    /// Our own prompts are not all settled, or a turn runs.
    pub(super) fn is_working(&self) -> bool {
        !self.is_over() && (self.is_busy() || !self.waiting.is_empty())
    }

    /// A whole line, beginning at the start of one.
    pub(super) fn line(&mut self, text: &str) -> String {
        let mut shown = self.fresh_line();
        shown.push_str(text);
        shown.push('\n');
        shown
    }

    fn fresh_line(&mut self) -> String {
        self.streaming = None;
        let started = std::mem::replace(&mut self.at_line_start, true);
        if started { String::new() } else { "\n".into() }
    }

    /// The reply to `attach`: what came before, then what is.
    pub(super) fn attached(&mut self, fields: &Value) -> String {
        let snapshot: Snapshot =
            fields.get("snapshot").and_then(|value| serde::Deserialize::deserialize(value).ok()).unwrap_or_default();
        let mut shown = self.fresh_line();
        self.open.clear();
        self.streams.clear();
        let mut head = format!("{} · {}", clean_line(&snapshot.title, 60), clean_line(&snapshot.folder, 80));
        if let Some(model) = &snapshot.model {
            head.push_str(&format!(" · {}", clean_line(model, 40)));
        }
        // What the head says, or what is usual, the events need not say again.
        self.model = snapshot.model.clone();
        self.mode = snapshot.mode.clone().or_else(|| Some("default".into()));
        shown.push_str(&self.line(&self.style.dim(head.trim_matches([' ', '·']))));
        let events = fields.get("events").and_then(Value::as_array).into_iter().flatten();
        let events: Vec<Event> = events.filter_map(|event| serde::Deserialize::deserialize(event).ok()).collect();
        let among = |notice: &str| {
            events.iter().any(|event| matches!(&event.fact, Fact::Notice { text, .. } if text == notice))
        };
        if let Some(notice) = snapshot.notice.as_ref().filter(|notice| !among(notice)) {
            shown.push_str(&self.line(&self.style.warn(&clean(notice))));
        }
        for event in &events {
            shown.push_str(&self.event(event));
        }
        // The snapshot is right about what is open now, whatever the tail held.
        self.open.clear();
        self.state = snapshot.state.clone();
        self.devices = snapshot.devices.clone();
        shown.push_str(&self.streamed(snapshot.turn.as_ref().map_or(&[], |turn| &turn.blocks)));
        for open in snapshot.permissions {
            shown.push_str(&self.permission(open));
        }
        let others = self.others();
        if !others.is_empty() {
            shown.push_str(&self.line(&self.style.dim(&format!("also here: {others}"))));
        }
        if self.is_over() {
            let why = snapshot.why.as_deref().map_or(String::new(), |why| format!(": {}", clean_line(why, WHY_CHARS)));
            shown.push_str(
                &self.line(&self.style.warn(&format!("the session is {}{why}", clean_line(&self.state, 16)))),
            );
        }
        shown
    }

    /// Blocks that are not whole yet, as far as they were streamed: what is not shown yet of them.
    pub(super) fn streamed(&mut self, blocks: &[Block]) -> String {
        let piece =
            |block: &Block| self.delta(&block.message, block.block, 0, &block.text, block.block_kind.as_deref());
        blocks.iter().map(piece).collect()
    }

    fn others(&self) -> String {
        let names = self.devices.iter().map(|device| clean_line(&device.name, 40));
        names.filter(|name| *name != self.device).collect::<Vec<_>>().join(", ")
    }

    /// One message.
    pub(super) fn incoming(&mut self, incoming: &Incoming) -> String {
        match incoming {
            Incoming::Event(event) => self.event(event),
            Incoming::Delta { message, block, at, text, kind, .. } => {
                self.delta(message, *block, *at, text, kind.as_deref())
            }
            Incoming::Presence { devices, .. } => self.presence(devices),
            Incoming::Error(error) => self.error(error),
            Incoming::Reply(reply) => {
                self.reply(reply);
                String::new()
            }
            Incoming::Session { .. }
            | Incoming::CaughtUp { .. }
            | Incoming::Reset { .. }
            | Incoming::Pong { .. }
            | Incoming::Unknown => String::new(),
        }
    }

    fn reply(&mut self, reply: &Reply) {
        if let Some(prompt) = reply.field::<String>("prompt")
            && !self.settled.contains(&prompt)
        {
            self.waiting.insert(prompt);
        }
    }

    fn settle(&mut self, prompt: &str) {
        self.waiting.remove(prompt);
        if self.settled.len() == SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(prompt.to_owned());
    }

    fn error(&mut self, error: &ErrorMessage) -> String {
        let text = self.error_text(error);
        self.line(&text)
    }

    /// What a refusal says, without a line's end.
    pub(super) fn error_text(&self, error: &ErrorMessage) -> String {
        let details = error.details.as_ref();
        if error.code == "ALREADY_DECIDED" {
            let decision = details.and_then(|details| details["decision"].as_str()).unwrap_or("decided");
            let by = details.and_then(|details| details["by"]["device"].as_str());
            let text = match by {
                Some(by) => format!("already {} by {}", past(decision), clean_line(by, 40)),
                None => format!("already {}", past(decision)),
            };
            return self.style.warn(&text);
        }
        self.style.bad(&format!("! {} ({})", clean_line(&error.message, 300), clean_line(&error.code, 40)))
    }

    fn presence(&mut self, devices: &[DeviceInfo]) -> String {
        let is_in = |list: &[DeviceInfo], device: &DeviceInfo| list.iter().any(|other| other.device == device.device);
        let changes = |from: &[DeviceInfo], to: &[DeviceInfo], what: &str| -> Vec<String> {
            let new = to.iter().filter(|device| !is_in(from, device) && device.name != self.device);
            new.map(|device| format!("{} {what}", clean_line(&device.name, 40))).collect()
        };
        let mut changed = changes(&self.devices, devices, "joined");
        changed.extend(changes(devices, &self.devices, "left"));
        self.devices = devices.to_vec();
        // Who comes and goes does not break into a line that is being streamed.
        if changed.is_empty() || !self.at_line_start {
            return String::new();
        }
        self.line(&self.style.dim(&changed.join(", ")))
    }

    fn delta(&mut self, message: &str, block: u32, at: u64, text: &str, kind: Option<&str>) -> String {
        let key = (message.to_owned(), block);
        if !self.streams.contains_key(&key) && self.streams.len() >= STREAMS_MAX {
            return String::new();
        }
        let have = *self.streams.get(&key).unwrap_or(&0);
        // A piece was skipped: the whole block comes as an event, and the rest is shown then.
        let Some(new) = have.checked_sub(at).and_then(|known| text.get(usize::try_from(known).ok()?..)) else {
            return String::new();
        };
        if new.is_empty() {
            return String::new();
        }
        let mut shown = if self.streaming.as_ref() == Some(&key) { String::new() } else { self.fresh_line() };
        self.streams.insert(key.clone(), have + new.len() as u64);
        self.streaming = Some(key);
        let thinking = kind == Some("thinking");
        shown.push_str(&self.running(if thinking && have == 0 { THINKING } else { "" }, thinking));
        shown.push_str(&self.running(new, thinking));
        shown
    }

    /// Text that goes on where the last one ended.
    fn running(&mut self, text: &str, dim: bool) -> String {
        let text = clean(text);
        if let Some(last) = text.chars().last() {
            self.at_line_start = last == '\n';
        }
        if dim { self.style.dim(&text) } else { text }
    }

    fn whole(&mut self, block: &Block, thinking: bool) -> String {
        let key = (block.message.clone(), block.block);
        let streamed = self.streams.remove(&key);
        if block.parent.is_some() && streamed.is_none() {
            return String::new();
        }
        let have = streamed.unwrap_or(0);
        let rest = usize::try_from(have).ok().and_then(|have| block.text.get(have..)).unwrap_or(&block.text);
        if rest.trim().is_empty() && have == 0 {
            return String::new();
        }
        let mut shown = if self.streaming.as_ref() == Some(&key) { String::new() } else { self.fresh_line() };
        shown.push_str(&self.running(if thinking && have == 0 { THINKING } else { "" }, thinking));
        shown.push_str(&self.running(rest, thinking));
        shown.push_str(&self.fresh_line());
        shown
    }

    fn event(&mut self, event: &Event) -> String {
        let by = event.by.as_ref().map(|by| clean_line(&by.device, 40)).unwrap_or_default();
        match &event.fact {
            Fact::Prompt { text, .. } => {
                let who = if by.is_empty() || by == self.device { String::new() } else { format!("{by} ") };
                self.line(&self.style.bold(&format!("{who}> {}", clean(text))))
            }
            Fact::PromptState { prompt, state, why } => self.prompt_state(prompt, state, why.as_deref()),
            Fact::Text(block) => self.whole(block, false),
            Fact::Thinking(block) => self.whole(block, true),
            Fact::ToolCall { tool, input, parent, .. } => {
                let indent = if parent.is_some() { "  " } else { "" };
                let call = format!("{}({})", clean_line(tool, 60), argument(input));
                self.line(&format!("{indent}{} {call}", self.style.good("●")))
            }
            Fact::ToolResult { outcome, preview, .. } => self.result(outcome, preview),
            Fact::Permission(open) => self.permission(open.clone()),
            Fact::Decision { request, decision, how } => self.decision(request, decision, how, &by),
            Fact::PermissionClosed { request, how } => self.closed(request, how),
            Fact::State { state, why } => self.state(state, why.as_deref()),
            Fact::Turn { prompts, ok, stop, cost_usd, duration_ms } => {
                for prompt in prompts {
                    self.settle(prompt);
                }
                self.streams.clear();
                let seconds = *duration_ms as f64 / 1000.0;
                let text = match ok {
                    true => self.style.dim(&format!("── done in {seconds:.1} s · ${cost_usd:.4}")),
                    false if stop.starts_with("aborted") => {
                        self.style.warn(&format!("── interrupted after {seconds:.1} s"))
                    }
                    false => self.style.warn(&format!("── ended after {seconds:.1} s: {}", clean_line(stop, 80))),
                };
                self.line(&text)
            }
            Fact::Settings { title, model, mode } => {
                let new = |old: &mut Option<String>, new: &Option<String>| {
                    new.clone().filter(|new| old.replace(new.clone()).as_ref() != Some(new))
                };
                let named = [
                    ("title", title.clone()),
                    ("model", new(&mut self.model, model)),
                    ("mode", new(&mut self.mode, mode)),
                ];
                let changed: Vec<String> = named
                    .iter()
                    .filter_map(|(name, value)| {
                        value.as_ref().map(|value| format!("{name}: {}", clean_line(value, 60)))
                    })
                    .collect();
                if changed.is_empty() { String::new() } else { self.line(&self.style.dim(&changed.join(" · "))) }
            }
            Fact::Retry { attempt, of, delay_ms, error } => {
                let text =
                    format!("retrying ({attempt}/{of}) in {} s: {}", delay_ms.div_ceil(1000), clean_line(error, 160));
                self.line(&self.style.warn(&text))
            }
            Fact::Notice { level, text } => {
                let text = clean(text);
                let text = if level == "info" { self.style.dim(&text) } else { self.style.warn(&format!("! {text}")) };
                self.line(&text)
            }
            Fact::Unknown => String::new(),
        }
    }

    fn prompt_state(&mut self, prompt: &str, state: &str, why: Option<&str>) -> String {
        if !matches!(state, "done" | "cancelled" | "failed") {
            return String::new();
        }
        // The end of its turn has said it already.
        let said = state == "cancelled" && self.settled.iter().any(|settled| settled == prompt);
        self.settle(prompt);
        if said {
            return String::new();
        }
        let why = why.map(|why| format!(": {}", clean_line(why, WHY_CHARS))).unwrap_or_default();
        match state {
            "cancelled" => self.line(&self.style.dim(&format!("prompt cancelled{why}"))),
            "failed" => self.line(&self.style.bad(&format!("prompt failed{why}"))),
            _ => String::new(),
        }
    }

    fn result(&mut self, outcome: &str, preview: &str) -> String {
        let mut shown = String::new();
        let preview = clean(preview);
        let lines: Vec<&str> = preview.lines().filter(|line| !line.trim().is_empty()).collect();
        let mark = match outcome {
            "ok" => String::new(),
            "error" => "error: ".into(),
            other => format!("{}: ", clean_line(other, 20)),
        };
        for (at, line) in lines.iter().take(PREVIEW_LINES).enumerate() {
            let lead = if at == 0 { format!("  ⎿ {mark}") } else { "    ".to_owned() };
            let text = format!("{lead}{}", clean_line(line, PREVIEW_CHARS));
            shown.push_str(&self.line(&if mark.is_empty() { self.style.dim(&text) } else { self.style.bad(&text) }));
        }
        match lines.len() {
            0 => shown.push_str(&self.line(&self.style.dim(&format!("  ⎿ {mark}(no output)")))),
            more if more > PREVIEW_LINES => {
                shown.push_str(&self.line(&self.style.dim(&format!("    … {} more lines", more - PREVIEW_LINES))));
            }
            _ => {}
        }
        shown
    }

    fn permission(&mut self, open: OpenPermission) -> String {
        let call = format!("? {} wants to run: {}", clean_line(&open.tool, 60), argument(&open.input));
        let mut shown = self.line(&self.style.warn(&call));
        if !open.about.is_empty() {
            shown.push_str(&self.line(&format!("  {}", clean_line(&open.about, 200))));
        }
        for question in open.questions.iter().filter_map(Value::as_array).flatten() {
            let text = question["question"].as_str().unwrap_or_default();
            shown.push_str(&self.line(&format!("  {}", clean_line(text, 200))));
        }
        match (self.decides, self.row) {
            (true, true) => {}
            (true, false) => shown.push_str(&self.line(&self.style.bold("  allow? [y/n]"))),
            (false, _) => shown.push_str(&self.line(&self.style.bold("  (your role does not decide this)"))),
        }
        self.open.retain(|known| known.request != open.request);
        self.open.push(open);
        shown
    }

    fn decision(&mut self, request: &str, decision: &str, how: &str, by: &str) -> String {
        self.open.retain(|open| open.request != request);
        let who = match how {
            "rule" => " by a rule".to_owned(),
            "timeout" => ": nobody answered".to_owned(),
            _ if self.decided.remove(request) && by == self.device => String::new(),
            _ if by.is_empty() => String::new(),
            _ => format!(" by {by}"),
        };
        let text = format!("  {}{who}", past(decision));
        self.line(&if decision == "allow" { self.style.good(&text) } else { self.style.bad(&text) })
    }

    fn closed(&mut self, request: &str, how: &str) -> String {
        let before = self.open.len();
        self.open.retain(|open| open.request != request);
        self.decided.remove(request);
        if self.open.len() == before {
            return String::new();
        }
        let text = if how == "void" { "  the process that asked is gone" } else { "  no answer is needed any more" };
        self.line(&self.style.dim(text))
    }

    fn state(&mut self, state: &str, why: Option<&str>) -> String {
        self.state = state.to_owned();
        if !matches!(state, "retrying" | "stuck" | "stopped" | "failed") {
            return String::new();
        }
        if self.is_over() {
            self.open.clear();
        }
        let why = why.map(|why| format!(": {}", clean_line(why, WHY_CHARS))).unwrap_or_default();
        self.line(&self.style.warn(&format!("the session is {state}{why}")))
    }
}

fn past(decision: &str) -> &'static str {
    match decision {
        "allow" => "allowed",
        "deny" => "denied",
        _ => "closed",
    }
}

/// A tool's input in a line: the field that says most, else all of it.
fn argument(input: &Value) -> String {
    let telling = ["command", "file_path", "notebook_path", "path", "pattern", "url", "query", "prompt", "description"];
    let found = telling.iter().find_map(|name| input.get(name).and_then(Value::as_str));
    match (found, input) {
        (Some(text), _) => clean_line(text, ARGUMENT_CHARS),
        (None, Value::Null) => String::new(),
        (None, Value::Object(fields)) if fields.is_empty() => String::new(),
        (None, other) => clean_line(&other.to_string(), ARGUMENT_CHARS),
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
