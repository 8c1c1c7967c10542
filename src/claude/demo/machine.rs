//! The demo agent's behaviour, sans-io: lines and times in, [`Output`]s out. It does as the CLI was recorded to do, one
//! prompt at a time; reads no clock, touches no file.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{
    history::{History, text_of},
    options::Options,
    turn::{self, Prompt, Step, Turn},
    voice::{Output, Voice},
};

/// What the demo agent says its version is.
pub(super) const VERSION: &str = "2.1.329-demo";

/// How the CLI reports a turn that was cut off.
const CUT_OFF: &str = "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=null";
const REJECTED: &str = "The user doesn't want to proceed with this tool use. The tool use was rejected.";
const CLOSED: &str =
    "Tool permission request failed: AbortError: Tool permission stream closed before response received";

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) options: Options,
    pub(super) voice: Voice,
    pub(super) history: History,
    pub(super) queue: VecDeque<Prompt>,
    pub(super) turn: Option<Turn>,
    mode: String,
    model: String,
    busy: bool,
    results: u64,
    last_failed: bool,
    eof: bool,
    /// Exit with this code once the turn is over.
    leaving: Option<u8>,
    exited: bool,
}

impl Machine {
    pub(super) fn new(options: Options, conversation: String, history: History, seed: u64) -> Self {
        Self {
            mode: options.mode().to_owned(),
            model: options.model().to_owned(),
            options,
            voice: Voice::new(conversation, seed),
            history,
            queue: VecDeque::new(),
            turn: None,
            busy: false,
            results: 0,
            last_failed: false,
            eof: false,
            leaving: None,
            exited: false,
        }
    }

    /// What is to be done since the last call.
    pub(super) fn take(&mut self) -> Vec<Output> {
        self.voice.take()
    }

    /// When [`Self::advance`] has something to do.
    pub(super) fn due(&self) -> Option<u64> {
        self.turn.as_ref().and_then(Turn::due)
    }

    /// The process has started.
    pub(super) fn start(&mut self, now_ms: u64) {
        let Some(died) = self.history.interrupted().filter(|_| self.options.rerun && self.options.resume) else {
            return;
        };
        let prompt = Prompt { uuid: died.prompt, content: json!(died.text), text: died.text };
        let mut turn = Turn::new(prompt, now_ms);
        (turn.rerun, turn.echoed) = (true, true);
        let fresh = self.voice.uuid();
        turn.lifecycle = Some(fresh);
        let steps = match died.result {
            Some((ok, text)) => {
                let mut steps = vec![(10, Step::Init)];
                steps.extend(turn::conclusion(ok, &text));
                steps
            }
            None => self.script(&turn.prompt),
        };
        self.begin(turn, steps, now_ms);
    }

    fn script(&self, prompt: &Prompt) -> Vec<(u64, Step)> {
        if prompt.asks() {
            turn::ask()
        } else {
            turn::answer(&turn::text(&prompt.text, self.history.prompts.saturating_sub(1)))
        }
    }

    fn begin(&mut self, mut turn: Turn, steps: Vec<(u64, Step)>, now_ms: u64) {
        self.state("running");
        if let Some(id) = &turn.lifecycle {
            self.voice.lifecycle(id, "started");
        }
        turn.plan(steps, now_ms);
        self.turn = Some(turn);
    }

    fn begin_next(&mut self, now_ms: u64) {
        if self.turn.is_some() || self.exited {
            return;
        }
        if let Some(code) = self.leaving {
            return self.exit(code);
        }
        if let Some(prompt) = self.queue.pop_front() {
            self.history.prompts += 1;
            let message = json!({"role":"user","content":prompt.content});
            self.voice.record(json!({"type":"user","uuid":prompt.uuid,"message":message}));
            let steps = self.script(&prompt);
            self.begin(Turn::new(prompt, now_ms), steps, now_ms);
            return;
        }
        if std::mem::take(&mut self.busy) {
            self.busy = false;
            self.say_state("idle");
        }
        if self.eof {
            self.exit(u8::from(self.last_failed));
        }
    }

    fn exit(&mut self, code: u8) {
        self.exited = true;
        self.voice.exit(code);
    }

    fn state(&mut self, state: &str) {
        let was_busy = std::mem::replace(&mut self.busy, true);
        if !was_busy || state != "running" {
            self.say_state(state);
        }
    }

    fn say_state(&mut self, state: &str) {
        if self.options.state_events {
            self.voice.say(json!({"type":"system","subtype":"session_state_changed","state":state}));
        }
    }

    /// A line of stdin without its line feed.
    pub(super) fn line(&mut self, line: &[u8], now_ms: u64) {
        if self.exited || line.trim_ascii().is_empty() {
            return;
        }
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            self.voice.stderr(format!(
                "Error parsing streaming input line (type=unknown, {} chars): SyntaxError",
                String::from_utf8_lossy(line).chars().count()
            ));
            return self.exit(1);
        };
        match value["type"].as_str() {
            Some("user") => self.prompt(&value, now_ms),
            Some("control_request") if !value["request"].is_object() => {
                self.voice.stderr("Error: Missing request on control_request");
                self.exit(1);
            }
            Some("control_request") => self.control(&value["request_id"], &value["request"], now_ms),
            Some("control_response") => {
                self.answer(&value["response"], now_ms);
                if self.options.replay {
                    self.voice.bare(value);
                }
            }
            _ => {}
        }
    }

    fn prompt(&mut self, value: &Value, now_ms: u64) {
        let role = &value["message"]["role"];
        if role != "user" {
            let role = role.as_str().unwrap_or("undefined");
            self.voice.stderr(format!("Error: Expected message role 'user', got '{role}'"));
            return self.exit(1);
        }
        let content = value["message"]["content"].clone();
        if !content.is_string() && !content.is_array() {
            return;
        }
        let uuid = value["uuid"].as_str().map(str::to_owned);
        let prompt = Prompt { text: text_of(&content), content, uuid };
        if let Some(uuid) = prompt.uuid.clone() {
            if self.queue.iter().any(|waiting| waiting.uuid.as_ref() == Some(&uuid)) {
                return self.echo(&prompt);
            }
            let known = self.history.knows(&uuid);
            let runs = self.turn.as_ref().is_some_and(|turn| turn.prompt.uuid.as_ref() == Some(&uuid));
            if known || runs {
                if known {
                    self.voice.lifecycle(&uuid, "completed");
                } else if let Some(turn) = self.turn.as_mut().filter(|turn| turn.lifecycle.as_ref() != Some(&uuid)) {
                    turn.also.push(uuid);
                }
                return self.echo(&prompt);
            }
            self.state("running");
            self.voice.lifecycle(&uuid, "queued");
        }
        if value["priority"] == "now" {
            self.queue.push_front(prompt);
            self.cut_off(now_ms);
        } else {
            self.queue.push_back(prompt);
        }
        self.begin_next(now_ms);
    }

    pub(super) fn echo(&mut self, prompt: &Prompt) {
        if self.options.replay {
            let message = json!({"role":"user","content":prompt.content});
            self.voice.say(json!({"type":"user","message":message,"uuid":prompt.uuid,
                "parent_tool_use_id":null,"isReplay":true}));
        }
    }

    fn control(&mut self, id: &Value, request: &Value, now_ms: u64) {
        let subtype = request["subtype"].as_str().unwrap_or_default();
        match subtype {
            "initialize" => self.initialize(id),
            "interrupt" => self.interrupt(id, request["cancel_queued"] == true, now_ms),
            "get_binary_version" => self.voice.success(id, Some(json!({"version":VERSION,"buildTime":null}))),
            "set_permission_mode" => {
                let mode = request["mode"].as_str().unwrap_or("default").to_owned();
                self.voice.success(id, Some(json!({"mode":mode})));
                self.voice.say(json!({"type":"system","subtype":"status","status":null,"permissionMode":mode}));
                self.mode = mode;
            }
            "set_model" => {
                self.model = request["model"].as_str().unwrap_or(self.options.model()).to_owned();
                let said = format!("<local-command-stdout>Set model to `{}`</local-command-stdout>", self.model);
                self.echo(&Prompt { uuid: None, content: json!(said), text: said });
                self.voice.success(id, Some(json!({"model":self.model})));
            }
            "cancel_async_message" => {
                let which = &request["message_uuid"];
                let at = self.queue.iter().position(|prompt| json!(prompt.uuid) == *which);
                if let Some(uuid) = at.and_then(|at| self.queue.remove(at)).and_then(|prompt| prompt.uuid) {
                    self.voice.lifecycle(&uuid, "cancelled");
                }
                self.voice.success(id, Some(json!({"cancelled":at.is_some(),"message_uuid":which})));
            }
            "end_session" => {
                self.voice.success(id, None);
                self.queue.clear();
                self.leaving = Some(u8::from(self.turn.is_some()));
                self.cut_off(now_ms);
                self.begin_next(now_ms);
            }
            _ => self.voice.error(id, &format!("Unsupported control request subtype: {subtype}")),
        }
    }

    fn initialize(&mut self, id: &Value) {
        let state = match &self.turn {
            Some(turn) if turn.waiting.is_some() => "requires_action",
            Some(_) => "running",
            None => "idle",
        };
        let answer = json!({"commands":[],"agents":[],"models":[{"value":self.model,"displayName":"Demo"}],
            "account":{"tokenSource":"demo","apiProvider":"firstParty"},"claude_code_version":VERSION,
            "current_permission_mode":self.mode,"session_state":state,"output_style":"default","capabilities":[]});
        self.voice.success(id, Some(answer));
    }

    fn interrupt(&mut self, id: &Value, cancel_queued: bool, now_ms: u64) {
        let uuids: Vec<String> = self.queue.iter().filter_map(|prompt| prompt.uuid.clone()).collect();
        // A request for permission is withdrawn before the interrupt is answered.
        self.withdraw();
        if cancel_queued {
            self.queue.clear();
            self.voice.success(id, Some(json!({"still_queued":[],"cancelled":uuids})));
            for uuid in uuids {
                self.voice.lifecycle(&uuid, "cancelled");
            }
        } else {
            self.voice.success(id, Some(json!({"still_queued":uuids})));
        }
        self.cut_off(now_ms);
    }

    fn withdraw(&mut self) {
        if let Some(request) = self.turn.as_mut().and_then(|turn| turn.waiting.take()) {
            self.voice.bare(json!({"type":"control_cancel_request","request_id":request}));
        }
    }

    /// Ends the running turn in 20 ms.
    fn cut_off(&mut self, now_ms: u64) {
        self.withdraw();
        if let Some(turn) = self.turn.as_mut().filter(|turn| !turn.is_aborting()) {
            turn.plan([(20, Step::Abort)], now_ms);
        }
    }

    /// The answer to a permission request; any other is ignored in silence.
    fn answer(&mut self, response: &Value, now_ms: u64) {
        let Some(turn) = &mut self.turn else { return };
        let asked = turn.waiting.as_ref().is_some_and(|waiting| response["request_id"] == waiting.as_str());
        if !asked {
            return;
        }
        turn.waiting = None;
        let answer = &response["response"];
        let (ok, text) = if response["subtype"] != "success" {
            let error = response["error"].as_str().unwrap_or("unknown");
            (false, format!("Tool permission request failed: Error: {error}"))
        } else if answer["behavior"] == "allow" && answer["updatedInput"].is_object() {
            (true, turn::PRINTED.to_owned())
        } else if answer["behavior"] == "deny" {
            (false, answer["message"].as_str().unwrap_or("denied").to_owned())
        } else {
            (false, "The canUseTool callback returned an invalid permission result.".to_owned())
        };
        if !ok && answer["interrupt"] == true {
            turn.plan([(20, Step::Abort)], now_ms);
        } else {
            turn.plan(turn::after_tool(ok, &text), now_ms);
        }
        self.say_state("running");
    }

    /// Stdin has ended: what is queued is finished first, and no request can be answered any more.
    pub(super) fn eof(&mut self, now_ms: u64) {
        self.eof = true;
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.waiting.is_some()) {
            turn.waiting = None;
            turn.plan(turn::after_tool(false, CLOSED), now_ms);
        }
        self.begin_next(now_ms);
    }

    /// SIGINT: like an interrupt, then the end.
    pub(super) fn stop(&mut self, now_ms: u64) {
        self.queue.clear();
        self.leaving = Some(0);
        self.cut_off(now_ms);
        self.begin_next(now_ms);
    }

    /// Carries out what is due.
    pub(super) fn advance(&mut self, now_ms: u64) {
        while !self.exited {
            let Some(step) = self.turn.as_mut().and_then(|turn| turn.next(now_ms)) else { return };
            self.step(step, now_ms);
        }
    }

    fn step(&mut self, step: Step, now_ms: u64) {
        match step {
            Step::Init => self.init(),
            Step::Finish => self.finish(None, now_ms),
            Step::Abort => self.abort(now_ms),
            Step::Ask => self.ask(now_ms),
            Step::ToolResult { ok, text } => self.tool_result(ok, &text),
            step => self.speak(step),
        }
    }

    fn init(&mut self) {
        let Some(turn) = &self.turn else { return };
        let mut line = json!({"type":"system","subtype":"init","cwd":self.options.folder.to_string_lossy(),
            "tools":["Bash"],"mcp_servers":[],"model":self.model,"permissionMode":self.mode,"slash_commands":[],
            "apiKeySource":"none","claude_code_version":VERSION,"user_message_uuids":turn.uuids()});
        if turn.rerun {
            line["resume_reason"] = json!("interrupted_turn");
        }
        self.voice.say(line);
    }

    fn ask(&mut self, now_ms: u64) {
        if self.eof {
            if let Some(turn) = &mut self.turn {
                turn.plan(turn::after_tool(false, CLOSED), now_ms);
            }
            return;
        }
        let request = self.voice.uuid();
        let Some(turn) = &mut self.turn else { return };
        let call = turn.call.clone().unwrap_or_default();
        if !self.options.asks {
            let why = "echo needs approval, and nobody can be asked.";
            turn.plan(turn::after_tool(false, why), now_ms);
            self.voice.say(json!({"type":"system","subtype":"permission_denied","tool_name":"Bash",
                "tool_use_id":call,"message":why}));
            return;
        }
        turn.waiting = Some(request.clone());
        self.state("requires_action");
        self.voice.bare(json!({"type":"control_request","request_id":request,"request":{
            "subtype":"can_use_tool","tool_name":"Bash","display_name":"Bash","input":Turn::input(),
            "description":"Print a word","tool_use_id":call,"permission_suggestions":[{"type":"addRules","rules":
            [{"toolName":"Bash","ruleContent":turn::COMMAND}],"behavior":"allow","destination":"localSettings"}]}}));
    }

    fn tool_result(&mut self, ok: bool, text: &str) {
        let call = self.turn.as_mut().and_then(|turn| turn.call.take()).unwrap_or_default();
        let message = json!({"role":"user","content":
            [{"type":"tool_result","tool_use_id":call,"content":text,"is_error":!ok}]});
        self.voice.record(json!({"type":"user","message":message}));
        self.voice.say(json!({"type":"user","message":message,"parent_tool_use_id":null}));
    }

    /// What an interrupt leaves behind.
    fn abort(&mut self, now_ms: u64) {
        let in_tool = self.turn.as_ref().is_some_and(|turn| turn.call.is_some() && turn.message.is_none());
        if in_tool {
            self.tool_result(false, REJECTED);
        } else {
            self.cut_message();
        }
        let why = if in_tool { "aborted_tools" } else { "aborted_streaming" };
        let text = if in_tool { "[Request interrupted by user for tool use]" } else { "[Request interrupted by user]" };
        let message = json!({"role":"user","content":[{"type":"text","text":text}]});
        self.voice.record(json!({"type":"user","message":message}));
        self.voice.say(json!({"type":"user","message":message,"parent_tool_use_id":null}));
        self.end_message();
        self.finish(Some(why), now_ms);
    }

    /// Ends the turn with its result.
    fn finish(&mut self, aborted: Option<&str>, now_ms: u64) {
        let Some(turn) = self.turn.take() else { return };
        self.history.cost_usd += 0.0001 * turn.messages.max(1) as f64;
        let uuids = turn.uuids();
        let mut line = json!({"type":"result","is_error":aborted.is_some(),
            "subtype":if aborted.is_some() { "error_during_execution" } else { "success" },
            "terminal_reason":aborted.unwrap_or("completed"),"duration_ms":now_ms.saturating_sub(turn.started_ms),
            "duration_api_ms":0,"num_turns":turn.messages,"total_cost_usd":self.history.cost_usd,
            "usage":{"input_tokens":turn.prompt.text.len() / 4,"output_tokens":turn.said.len() / 4},
            "permission_denials":[],"user_message_uuid":turn.prompt.uuid,"user_message_uuids":uuids,
            "queued_turn_count":self.queue.len(),"result_index":self.results});
        match aborted {
            Some(_) => line["errors"] = json!([CUT_OFF]),
            None => line["result"] = json!(turn.said),
        }
        if turn.rerun {
            line["resume_reason"] = json!("interrupted_turn");
        }
        self.results += 1;
        self.last_failed = aborted.is_some();
        self.voice.record(json!({"type":"totals","total_cost_usd":self.history.cost_usd}));
        self.voice.say(line);
        if let Some(uuid) = &turn.prompt.uuid {
            self.history.settle(uuid);
        }
        let state = if aborted.is_some() { "cancelled" } else { "completed" };
        for id in turn.lifecycle.iter().chain(&turn.also) {
            self.voice.lifecycle(id, state);
        }
        self.begin_next(now_ms);
    }
}
