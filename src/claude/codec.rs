//! The CLI's line protocol, sans-io: bytes to lines, lines to [`Event`]s, [`Command`](super::Command)s to lines. Keeps
//! only what a line needs to be understood (message and block under way, conversation id, which requests are the
//! CLI's); knows nothing of prompts that wait, of permissions policy or of processes.

mod blocks;
mod encode;
mod fields;
mod lines;

use std::{collections::VecDeque, sync::Arc};

use serde_json::value::RawValue;

pub use encode::encode;
pub use lines::{LineSplitter, Split};

use self::{
    blocks::{Blocks, Shape},
    fields::Fields,
};
use super::{Block, Event, Lifecycle, LoginState, Permission, Turn};

/// How the CLI names a login that the API refused.
const LOGIN_FAILED: &str = "authentication_failed";

/// Reads the lines of one process.
#[derive(Debug, Default)]
pub struct Translator {
    blocks: Blocks,
    conversation: Option<Arc<str>>,
    /// Ids of the CLI's own requests: an answer of ours comes back as an echo under the same id.
    asked: VecDeque<Arc<str>>,
    /// An answer of this turn was an API error about the login.
    login_failed: bool,
    malformed: u64,
}

impl Translator {
    /// Ids of requests that are remembered.
    const ASKED_MAX: usize = 256;

    /// A translator for a new process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lines so far that were no JSON object. They give no event.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Appends what one line of stdout says. Unknown kinds of lines give [`Event::Raw`]; mere bookkeeping, blank lines
    /// and what is no JSON object give nothing.
    pub fn line(&mut self, line: &[u8], out: &mut Vec<Event>) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let Some(fields) = Fields::parse(line) else {
            self.malformed += 1;
            return;
        };
        let kind = fields.str("type");
        let kind = kind.as_deref().unwrap_or_default();
        if kind == "result" && self.no_conversation(&fields) {
            out.push(Event::NoConversation);
            return;
        }
        self.conversation(&fields, out);
        match kind {
            "stream_event" => self.stream(&fields, out),
            "assistant" => self.assistant(&fields, out),
            "user" => user(&fields, out),
            "system" => system(&fields, line, out),
            "result" => self.result(&fields, out),
            "command_lifecycle" => lifecycle(&fields, out),
            "control_request" => self.asks(&fields, out),
            "control_response" => self.answers(&fields, out),
            "control_cancel_request" => {
                out.extend(fields.text("request_id").map(|request| Event::PermissionWithdrawn { request }));
            }
            "keep_alive" => {}
            _ => out.extend(raw(line)),
        }
    }

    fn conversation(&mut self, fields: &Fields<'_>, out: &mut Vec<Event>) {
        let Some(id) = fields.str("session_id").filter(|id| !id.is_empty()) else { return };
        if self.conversation.as_deref() != Some(&*id) {
            let id: Arc<str> = Arc::from(id);
            self.conversation = Some(id.clone());
            out.push(Event::ConversationId(id));
        }
    }

    fn no_conversation(&self, fields: &Fields<'_>) -> bool {
        fields.texts("errors").iter().any(|error| error.starts_with("No conversation found"))
    }

    fn stream(&mut self, fields: &Fields<'_>, out: &mut Vec<Event>) {
        let Some(event) = fields.fields("event") else { return };
        let index = event.count("index").and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
        match event.str("type").as_deref() {
            Some("message_start") => {
                if let Some(id) = event.fields("message").and_then(|message| message.text("id")) {
                    self.blocks.stream(&id);
                }
            }
            Some("content_block_start") => {
                let shape =
                    event.fields("content_block").and_then(|block| block.str("type").map(|kind| Shape::of(&kind)));
                self.blocks.start(index, shape.unwrap_or(Shape::Other));
            }
            Some("content_block_delta") => {
                let Some(message) = self.blocks.streaming().cloned() else { return };
                let Some(delta) = event.fields("delta") else { return };
                let (kind, key) = match delta.str("type").as_deref() {
                    Some("text_delta") => (Block::Text, "text"),
                    Some("thinking_delta") => (Block::Thinking, "thinking"),
                    _ => return,
                };
                out.extend(delta.text(key).map(|text| Event::Delta { message, block: index, kind, text }));
            }
            _ => {}
        }
    }

    fn assistant(&mut self, fields: &Fields<'_>, out: &mut Vec<Event>) {
        let Some(message) = fields.fields("message") else { return };
        if let Some(error) = fields.text("error") {
            self.login_failed |= *error == *LOGIN_FAILED;
            let text = said(&message).filter(|text| !text.is_empty()).map_or(error, Arc::from);
            out.push(Event::Notice { level: "error", text });
            return;
        }
        let parent = fields.text("parent_tool_use_id");
        let id = message.text("id").or_else(|| fields.text("uuid")).unwrap_or_else(|| Arc::from("unknown"));
        if let Some(text) = message.text("content") {
            let block = self.blocks.whole(&id, Shape::Text);
            out.push(Event::Text { message: id, block, kind: Block::Text, text, parent });
            return;
        }
        for content in message.list("content").unwrap_or_default() {
            let Some(content) = Fields::parse(content.get().as_bytes()) else { continue };
            self.block(&id, &content, parent.clone(), out);
        }
    }

    fn block(&mut self, id: &Arc<str>, content: &Fields<'_>, parent: Option<Arc<str>>, out: &mut Vec<Event>) {
        let shape = content.str("type").map_or(Shape::Other, |kind| Shape::of(&kind));
        let block = self.blocks.whole(id, shape);
        let text = |kind, key| {
            let text = content.text(key)?;
            Some(Event::Text { message: id.clone(), block, kind, text, parent: parent.clone() })
        };
        out.extend(match shape {
            Shape::Text => text(Block::Text, "text"),
            Shape::Thinking => text(Block::Thinking, "thinking"),
            Shape::ToolUse => content.text("id").map(|call| Event::ToolCall {
                call,
                tool: content.text("name").unwrap_or_else(|| Arc::from("unknown")),
                input: content.json("input").unwrap_or_else(empty_object),
                parent: parent.clone(),
            }),
            Shape::Other => None,
        });
    }

    fn result(&mut self, fields: &Fields<'_>, out: &mut Vec<Event>) {
        let subtype = fields.text("subtype").unwrap_or_else(|| Arc::from("unknown"));
        let mut prompts = fields.texts("user_message_uuids");
        if prompts.is_empty() {
            prompts.extend(fields.text("user_message_uuid"));
        }
        let errors = || fields.texts("errors").join("\n");
        let ok = &*subtype == "success" && !fields.truth("is_error");
        let kind = fields.fields("origin").and_then(|origin| origin.text("kind"));
        out.push(Event::Turn(Turn {
            unasked: prompts.is_empty() && kind.is_some_and(|kind| &*kind != "user" && &*kind != "human"),
            prompts,
            ok,
            // Slash commands that need no API end without a reason.
            stop: fields
                .text("terminal_reason")
                .unwrap_or_else(|| if ok { "completed".into() } else { subtype.clone() }),
            text: fields.str("result").map_or_else(|| errors().into(), Arc::from),
            cost_usd: fields.float("total_cost_usd").unwrap_or(0.0),
            usage: fields.json("usage"),
            duration_ms: fields.count("duration_ms").unwrap_or(0),
            queued: fields.count("queued_turn_count"),
            login_failed: std::mem::take(&mut self.login_failed) && !ok,
        }));
    }

    fn asks(&mut self, fields: &Fields<'_>, out: &mut Vec<Event>) {
        let Some(id) = fields.text("request_id") else { return };
        if self.asked.len() == Self::ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(id.clone());
        let request = fields.fields("request").unwrap_or_default();
        let what = request.text("subtype").unwrap_or_else(|| Arc::from("unknown"));
        if &*what != "can_use_tool" {
            out.push(Event::Unserved { request: id, what });
            return;
        }
        let tool = request.text("tool_name").unwrap_or_else(|| Arc::from("unknown"));
        let about =
            ["description", "decision_reason", "title", "display_name"].iter().find_map(|key| request.text(key));
        let questions = || request.fields("input")?.json("questions");
        out.push(Event::Permission(Permission {
            request: id,
            call: request.text("tool_use_id"),
            input: request.json("input").unwrap_or_else(empty_object),
            about: about.unwrap_or_else(|| tool.clone()),
            suggestions: request.json("permission_suggestions").filter(|list| list.as_str() != "[]"),
            questions: if &*tool == "AskUserQuestion" { questions() } else { None },
            tool,
        }));
    }

    fn answers(&self, fields: &Fields<'_>, out: &mut Vec<Event>) {
        let Some(response) = fields.fields("response") else { return };
        let Some(id) = response.text("request_id") else { return };
        if self.asked.contains(&id) {
            return;
        }
        if !response.is("subtype", "success") {
            let error = response.text("error").unwrap_or_else(|| Arc::from("unknown error"));
            out.push(Event::Control { id, result: Err(error) });
            return;
        }
        // Only the reply to `initialize` tells the account, and lists commands beside models.
        let answer = response.fields("response").unwrap_or_default();
        let account = answer.fields("account");
        if account.is_none() && (answer.list("commands").is_none() || answer.list("models").is_none()) {
            out.push(Event::Control { id, result: Ok(response.json("response")) });
            return;
        }
        let missing = account.is_some_and(|account| {
            let none = |key: &str| account.text(key).is_none_or(|source| &*source == "none");
            // An account behind a cloud provider or a gateway has neither a key nor a token of its own.
            let direct = account.text("apiProvider").is_none_or(|provider| &*provider == "firstParty");
            direct && none("tokenSource") && none("apiKeySource")
        });
        out.push(Event::Ready {
            version: answer.text("claude_code_version"),
            login: if missing { LoginState::Missing } else { LoginState::Present },
            mode: answer.text("current_permission_mode"),
        });
    }
}

fn empty_object() -> crate::base::Json {
    // `{}` is valid JSON: this cannot fail.
    crate::base::Json::of(&serde_json::Map::new()).unwrap_or_else(|_| unreachable!("an empty object has a JSON form"))
}

fn raw(line: &[u8]) -> Option<Event> {
    let raw: &RawValue = serde_json::from_slice(line).ok()?;
    fields::json(raw).map(Event::Raw)
}

/// The texts of a message's or a tool result's content, joined by line feeds.
fn said(message: &Fields<'_>) -> Option<String> {
    if let Some(text) = message.str("content") {
        return Some(text.into_owned());
    }
    let parts = message.list("content")?;
    let texts = parts.iter().filter_map(|part| {
        let part = Fields::parse(part.get().as_bytes())?;
        match part.str("type").as_deref() {
            Some("text") => part.str("text").map(std::borrow::Cow::into_owned),
            Some(other @ ("image" | "document")) => Some(format!("[{other}]")),
            _ => None,
        }
    });
    Some(texts.collect::<Vec<_>>().join("\n"))
}

fn user(fields: &Fields<'_>, out: &mut Vec<Event>) {
    if fields.truth("isReplay") {
        out.extend(fields.text("uuid").map(|prompt| Event::Echoed { prompt }));
        return;
    }
    let Some(message) = fields.fields("message") else { return };
    for content in message.list("content").unwrap_or_default() {
        let Some(content) = Fields::parse(content.get().as_bytes()) else { continue };
        if !content.is("type", "tool_result") {
            continue;
        }
        out.extend(content.text("tool_use_id").map(|call| Event::ToolResult {
            call,
            ok: !content.truth("is_error"),
            text: said(&content).unwrap_or_default().into(),
        }));
    }
}

fn lifecycle(fields: &Fields<'_>, out: &mut Vec<Event>) {
    let Some(prompt) = fields.text("command_uuid") else { return };
    let state = match fields.str("state").as_deref() {
        Some("queued") => Lifecycle::Queued,
        Some("started") => Lifecycle::Started,
        Some("completed") => Lifecycle::Completed,
        Some("cancelled") => Lifecycle::Cancelled,
        _ => return,
    };
    out.push(Event::Prompt { prompt, state });
}

fn system(fields: &Fields<'_>, line: &[u8], out: &mut Vec<Event>) {
    match fields.str("subtype").as_deref() {
        Some("init") => out.push(Event::Init { model: fields.text("model"), mode: fields.text("permissionMode") }),
        Some("status") => status(fields, out),
        Some("session_state_changed") if fields.is("state", "idle") => out.push(Event::Idle),
        Some("session_state_changed" | "thinking_tokens" | "task_progress" | "task_updated") => {}
        Some("api_retry") => {
            let count = |key| fields.count(key).unwrap_or(0).try_into().unwrap_or(u32::MAX);
            let reason = fields.text("error").unwrap_or_else(|| Arc::from("unknown"));
            out.push(Event::Retry {
                attempt: count("attempt"),
                of: count("max_retries"),
                delay_ms: fields.count("retry_delay_ms").unwrap_or(0),
                login_failed: *reason == *LOGIN_FAILED,
                error: fields.count("error_status").map_or(reason.clone(), |code| format!("{reason} ({code})").into()),
            });
        }
        Some("permission_denied") => {
            let tool = fields.text("tool_name").unwrap_or_else(|| Arc::from("a tool"));
            let text = fields.text("message").unwrap_or_else(|| format!("{tool} was refused").into());
            out.push(Event::Notice { level: "warning", text });
        }
        _ => out.extend(raw(line)),
    }
}

fn status(fields: &Fields<'_>, out: &mut Vec<Event>) {
    if let Some(mode) = fields.text("permissionMode") {
        out.push(Event::Settings { model: None, mode: Some(mode) });
    }
    if fields.is("status", "compacting") {
        out.push(Event::Notice { level: "info", text: "compacting the conversation".into() });
    }
    if let Some(error) = fields.text("compact_error") {
        out.push(Event::Notice { level: "warning", text: format!("compacting failed: {error}").into() });
    }
}
