//! The CLI's line protocol, sans-io: bytes to lines, lines to [`Event`]s, [`Command`](super::Command)s to lines. Keeps
//! only what a line needs to be understood (message and block under way, conversation id, which requests are the
//! CLI's); knows nothing of prompts that wait, of permissions policy or of processes.

mod blocks;
mod encode;
mod fields;
mod lines;
mod objects;

use std::{collections::VecDeque, sync::Arc};

pub use encode::encode;
pub use lines::{LineSplitter, Split};

use self::{
    blocks::{Blocks, Shape},
    fields::Fields,
};
use super::{ASKING_TOOL, Block, Event, Lifecycle, LoginState, Permission, Turn};
use crate::{
    base::{Json, Sound, glyph::tool_name, text::quoted},
    wire::sign_in::is_id,
};

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
    /// How many of them were told of in this turn.
    told: u32,
}

impl Translator {
    /// Ids of requests that are remembered.
    const ASKED_MAX: usize = 256;
    /// Unreadable lines of one turn that are told of.
    const TOLD_MAX: u32 = 5;

    /// A translator for a new process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lines so far, or parts of one, that were no JSON object: [`Event::Unreadable`], of each turn the first few.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Appends what one line of stdout says. Unknown kinds of lines give [`Event::Raw`]; mere bookkeeping and blank lines
    /// give nothing.
    pub fn line(&mut self, line: &[u8], out: &mut Vec<Event>) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        if let (Some(fields), Ok(text)) = (Fields::parse(line), str::from_utf8(line)) {
            return self.object(&fields, text, out);
        }
        objects::each(&objects::text(line), &mut |part| match part {
            Ok(text) => match Fields::parse(text.as_bytes()) {
                Some(fields) => self.object(&fields, text, out),
                None => self.unreadable(text, out),
            },
            Err(text) => self.unreadable(text, out),
        });
    }

    /// A line was dropped because it was too long.
    pub fn too_long(&mut self, out: &mut Vec<Event>) {
        let mib = LineSplitter::LINE_MAX >> 20;
        self.unreadable(&format!("(a line of more than {mib} MiB)"), out);
    }

    fn unreadable(&mut self, text: &str, out: &mut Vec<Event>) {
        self.malformed += 1;
        if self.told < Self::TOLD_MAX {
            self.told += 1;
            out.push(Event::Unreadable { line: quoted(text).into(), last: self.told == Self::TOLD_MAX });
        }
    }

    fn object(&mut self, fields: &Fields<'_>, text: &str, out: &mut Vec<Event>) {
        let kind = fields.str("type");
        let kind = kind.as_deref().unwrap_or_default();
        if kind == "result" && self.no_conversation(fields) {
            out.push(Event::NoConversation);
            return;
        }
        self.conversation(fields, out);
        match kind {
            "stream_event" => self.stream(fields, out),
            "assistant" => self.assistant(fields, out),
            "user" => user(fields, out),
            "system" => system(fields, text, out),
            "result" => {
                self.told = 0;
                self.result(fields, out);
            }
            "command_lifecycle" => lifecycle(fields, out),
            "control_request" => self.asks(fields, text, out),
            "control_response" => self.answers(fields, out),
            "control_cancel_request" => {
                out.extend(fields.text("request_id").map(|request| Event::PermissionWithdrawn { request }));
            }
            "keep_alive" => {}
            _ => out.extend(raw(text)),
        }
    }

    fn conversation(&mut self, fields: &Fields<'_>, out: &mut Vec<Event>) {
        let Some(id) = fields.str("session_id").filter(|id| is_id(id)) else { return };
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
                if let Some(id) = event.fields("message").and_then(|message| message.label("id")) {
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
            let text = said(&message).filter(|text| !text.is_empty());
            out.push(Event::Notice { level: "error", text: cli_says(text.as_deref().unwrap_or(&error)) });
            return;
        }
        let parent = fields.label("parent_tool_use_id");
        let id = message.label("id").or_else(|| fields.label("uuid")).unwrap_or_else(|| Arc::from("unknown"));
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
            Shape::ToolUse => content.label("id").map(|call| Event::ToolCall {
                call,
                tool: content.label("name").unwrap_or_else(|| Arc::from("unknown")),
                input: content.json("input").unwrap_or_else(empty_object),
                parent: parent.clone(),
            }),
            Shape::Other => None,
        });
    }

    fn result(&mut self, fields: &Fields<'_>, out: &mut Vec<Event>) {
        let subtype = fields.label("subtype").unwrap_or_else(|| Arc::from("unknown"));
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
                .label("terminal_reason")
                .unwrap_or_else(|| if ok { "completed".into() } else { subtype.clone() }),
            text: fields.str("result").map_or_else(|| errors().into(), Arc::from),
            cost_usd: fields.float("total_cost_usd").unwrap_or(0.0),
            usage: fields.json("usage"),
            duration_ms: fields.count("duration_ms").unwrap_or(0),
            queued: fields.count("queued_turn_count"),
            login_failed: std::mem::take(&mut self.login_failed) && !ok,
        }));
    }

    fn asks(&mut self, fields: &Fields<'_>, line: &str, out: &mut Vec<Event>) {
        // Without an id it cannot even be refused: it waits, and people are to know for what.
        let Some(id) = fields.text("request_id") else { return self.unreadable(line, out) };
        if !is_id(&id) {
            // No device could name it in its answer.
            let asks = fields.fields("request").unwrap_or_default();
            let tool = asks.label("tool_name").or_else(|| asks.label("subtype"));
            let text = format!(
                "a request for {} was refused by the relay: no answer could name its id, {}",
                tool.as_deref().map_or("a tool".into(), tool_name),
                quoted(&id)
            );
            out.push(Event::Unserved { request: id, what: "a request with such an id".into() });
            out.push(Event::Notice { level: "warning", text: text.into() });
            return;
        }
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
        let tool = request.label("tool_name").unwrap_or_else(|| Arc::from("unknown"));
        let (input, is_cut) = input(&request);
        let unseen =
            if is_cut { Some("its input is nested too deep to be shown whole") } else { tool_unseen(&request) };
        let questions = || request.fields("input")?.json("questions");
        out.push(Event::Permission(Permission {
            request: id,
            call: request.label("tool_use_id"),
            input,
            unseen,
            about: about(&request).unwrap_or_else(|| tool.clone()),
            suggestions: request.json("permission_suggestions").filter(|list| list.as_str() != "[]"),
            questions: if &*tool == ASKING_TOOL { questions() } else { None },
            default_to_no: request.is_set("default_to_no"),
            no_always: request.is_set("suppress_always_allow_rule"),
            needs_interaction: request.is_set("requires_user_interaction"),
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
            version: answer.label("claude_code_version"),
            login: if missing { LoginState::Missing } else { LoginState::Present },
            mode: answer.label("current_permission_mode"),
        });
    }
}

/// The input of a tool in the one reading that is shown, decided and run; true with it: something was cut.
fn input(request: &Fields<'_>) -> (Json, bool) {
    let Some(Sound { json, is_cut }) = request.sound("input") else { return (empty_object(), false) };
    // A sound value can be read and so written anew; were it otherwise, it could not be shown whole either.
    json.plain().map_or_else(|_| (json.clone(), true), |plain| (plain, is_cut))
}

/// Why the tool's name as people see it is not the name that would run, if so.
fn tool_unseen(request: &Fields<'_>) -> Option<&'static str> {
    let (Some(tool), Some(shown)) = (request.text("tool_name"), request.label("tool_name")) else {
        return Some("the name of its tool cannot be read");
    };
    // Half a character has been replaced already.
    let is_whole = tool == shown && !tool.contains(char::REPLACEMENT_CHARACTER);
    (!is_whole).then_some("the name of its tool cannot be shown whole")
}

/// What the CLI says about a request, for people: what it is for, and why it asks.
fn about(request: &Fields<'_>) -> Option<Arc<str>> {
    let what = ["description", "title", "display_name"].iter().find_map(|key| request.text(key));
    let path = request.text("blocked_path").map(|path| Arc::from(format!("blocked path: {path}")));
    let lines = [what, request.text("decision_reason"), path].into_iter().flatten();
    let mut about: Vec<Arc<str>> = Vec::new();
    for line in lines {
        if !about.contains(&line) {
            about.push(line);
        }
    }
    (!about.is_empty()).then(|| about.join("\n").into())
}

fn empty_object() -> Json {
    // `{}` is valid JSON: this cannot fail.
    Json::of(&serde_json::Map::new()).unwrap_or_else(|_| unreachable!("an empty object has a JSON form"))
}

fn raw(line: &str) -> Option<Event> {
    let sound = Json::sound(line).ok()?;
    Some(Event::Raw(sound.json))
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
        out.extend(content.label("tool_use_id").map(|call| Event::ToolResult {
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

fn system(fields: &Fields<'_>, line: &str, out: &mut Vec<Event>) {
    match fields.str("subtype").as_deref() {
        Some("init") => out.push(Event::Init { model: fields.label("model"), mode: fields.label("permissionMode") }),
        Some("status") => status(fields, out),
        Some("session_state_changed") if fields.is("state", "idle") => out.push(Event::Idle),
        Some("session_state_changed" | "thinking_tokens" | "task_progress" | "task_updated") => {}
        Some("api_retry") => {
            let count = |key| fields.count(key).unwrap_or(0).try_into().unwrap_or(u32::MAX);
            let reason = fields.label("error").unwrap_or_else(|| Arc::from("unknown"));
            out.push(Event::Retry {
                attempt: count("attempt"),
                of: count("max_retries"),
                delay_ms: fields.count("retry_delay_ms").unwrap_or(0),
                login_failed: *reason == *LOGIN_FAILED,
                error: fields.count("error_status").map_or(reason.clone(), |code| format!("{reason} ({code})").into()),
            });
        }
        Some("permission_denied") => {
            let refused = || {
                let tool = fields.label("tool_name");
                format!("{} was refused", tool.as_deref().map_or("a tool".into(), tool_name)).into()
            };
            let text = fields.text("message").map_or_else(refused, |text| cli_says(&text));
            out.push(Event::Notice { level: "warning", text });
        }
        _ => out.extend(raw(line)),
    }
}

fn status(fields: &Fields<'_>, out: &mut Vec<Event>) {
    if let Some(mode) = fields.label("permissionMode") {
        out.push(Event::Settings { model: None, mode: Some(mode) });
    }
    if fields.is("status", "compacting") {
        out.push(Event::Notice { level: "info", text: "compacting the conversation".into() });
    }
    if let Some(error) = fields.text("compact_error") {
        let text = format!("compacting failed: {}", cli_says(&error));
        out.push(Event::Notice { level: "warning", text: text.into() });
    }
}

/// The CLI's own words as the text of a notice. They may repeat what the model wrote: no line of them is to pass for one
/// of the relay's.
fn cli_says(text: &str) -> Arc<str> {
    format!("Claude Code says: {}", text.replace('\n', "\n  | ")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(request: &str, tool: &str) -> String {
        format!(
            r#"{{"type":"control_request","request_id":"{request}","request":{{"subtype":"can_use_tool","tool_name":"{tool}","input":{{}}}}}}"#
        )
    }

    fn events(translator: &mut Translator, line: &str) -> Vec<Event> {
        let mut out = Vec::new();
        translator.line(line.as_bytes(), &mut out);
        out
    }

    #[test]
    fn requests_are_remembered_within_a_bound() {
        let mut translator = Translator::new();
        let last = Translator::ASKED_MAX;
        for n in 0..=last {
            assert!(matches!(events(&mut translator, &asks(&format!("r{n}"), "Bash"))[..], [Event::Permission(_)]));
        }
        let echo = |n: usize| {
            format!(
                r#"{{"type":"control_response","response":{{"subtype":"success","request_id":"r{n}","response":{{}}}}}}"#
            )
        };
        for n in [1, last] {
            assert_eq!(events(&mut translator, &echo(n)), [], "{n} is an echo of an answer to the CLI");
        }
        let forgotten = events(&mut translator, &echo(0));
        assert!(matches!(&forgotten[..], [Event::Control { id, .. }] if **id == *"r0"), "{forgotten:?}");
    }

    #[test]
    fn no_line_of_what_the_cli_says_is_one_of_a_notice_of_ours() {
        let said = r"it needs approval\nallowed by you";
        for line in [
            format!(r#"{{"type":"system","subtype":"permission_denied","tool_name":"Bash","message":"{said}"}}"#),
            format!(
                r#"{{"type":"assistant","error":"invalid_request","message":{{"content":[{{"type":"text","text":"{said}"}}]}}}}"#
            ),
            format!(r#"{{"type":"assistant","error":"{said}","message":{{"content":[]}}}}"#),
            format!(r#"{{"type":"system","subtype":"status","compact_error":"{said}"}}"#),
        ] {
            let events = events(&mut Translator::new(), &line);
            let [Event::Notice { text, .. }] = &events[..] else { panic!("{events:?}") };
            assert!(text.ends_with("Claude Code says: it needs approval\n  | allowed by you"), "{text}");
        }
    }

    #[test]
    fn a_tool_s_name_is_no_word_of_a_notice() {
        let mut translator = Translator::new();
        let named = "Everything below is allowed by you: Bash";
        let denied = format!(r#"{{"type":"system","subtype":"permission_denied","tool_name":"{named}"}}"#);
        for (line, says) in [
            (asks("no id", named), "a request for \"Everything below is allowed by you: Bash\" was refused"),
            (asks("no id", "mcp__a__b"), "a request for mcp__a__b was refused"),
            (denied, "\"Everything below is allowed by you: Bash\" was refused"),
        ] {
            let events = events(&mut translator, &line);
            let notice =
                events.iter().find_map(|event| if let Event::Notice { text, .. } = event { Some(text) } else { None });
            assert!(notice.is_some_and(|text| text.starts_with(says)), "{events:?}");
        }
    }
}
