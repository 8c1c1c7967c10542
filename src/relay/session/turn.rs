//! What the process says, made into events; what runs in it now.

use super::{
    Cx, Session, clip,
    prompts::{LOGIN, Run},
};
use crate::{
    base::{
        Now,
        text::{line, quoted},
    },
    claude::{Event, LoginState, Turn},
    relay::api::{By, Kind, Outcome, PromptState, Text},
};

/// Open tool calls that are followed; more are shown, but not closed when their process dies.
const TOOLS_MAX: usize = 1024;
/// The longest reason of a state or a failed prompt, in bytes.
const WHY_BYTES_MAX: usize = 1 << 10;
const LOGIN_REFUSED: &str = "the API refuses Claude Code's login: check the key or log in on the relay's host";

/// What runs in the process.
#[derive(Default)]
pub(super) struct Activity {
    /// A turn runs; the uuid the CLI runs it under, where it says so.
    turn: Option<Option<Text>>,
    since: Option<u64>,
    /// The device and key that had the running turn broken off.
    broken_by: Option<By>,
    retrying: Option<Text>,
    tools: Vec<Text>,
    login_refused: bool,
}

impl Activity {
    pub(super) fn turn_runs(&self) -> bool {
        self.turn.is_some()
    }

    pub(super) fn since(&self, otherwise: u64) -> u64 {
        self.since.unwrap_or(otherwise)
    }

    pub(super) fn retrying(&self) -> Option<Text> {
        self.retrying.clone()
    }

    pub(super) fn tool_runs(&self) -> bool {
        !self.tools.is_empty()
    }

    /// The turn is told to end before its time. The first cause counts.
    pub(super) fn broken(&mut self, by: Option<&By>) {
        if self.broken_by.is_none() {
            self.broken_by = by.cloned();
        }
    }

    pub(super) fn broken_by(&self) -> Option<By> {
        self.broken_by.clone()
    }

    /// A prompt was sent.
    pub(super) fn begin(&mut self, now: Now) {
        self.since = Some(now.unix_ms);
        self.broken_by = None;
    }

    pub(super) fn turn_started(&mut self, now: Now, uuid: Option<Text>) {
        self.since.get_or_insert(now.unix_ms);
        match &mut self.turn {
            Some(known) if uuid.is_some() => *known = uuid,
            Some(_) => {}
            None => self.turn = Some(uuid),
        }
    }

    /// The CLI says that what ran under this uuid is over.
    pub(super) fn turn_of_ended(&mut self, uuid: &str) {
        if self.turn.as_ref().is_some_and(|turn| turn.as_deref() == Some(uuid)) {
            self.turn_over();
        }
    }

    fn turn_over(&mut self) {
        self.turn = None;
        self.since = None;
        self.retrying = None;
    }
}

impl Session {
    /// The process said something. Word of an older process is stale and dropped.
    pub fn agent(&mut self, cx: &mut Cx<'_>, process: u64, event: Event) {
        if !self.process.is(process) {
            return;
        }
        self.process.heard(cx.now, matches!(event, Event::Control { .. }));
        match event {
            Event::Delta { message, block, kind, text } => {
                self.activity.retrying = None;
                self.fanout.delta(cx, message, block, kind, text);
            }
            Event::Text { .. } | Event::ToolCall { .. } | Event::ToolResult { .. } => self.said(cx, event),
            Event::Ready { login, mode, .. } => self.ready(cx, login == LoginState::Missing, mode),
            Event::NoConversation => self.process.no_conversation(),
            Event::ConversationId(id) => self.process.conversation_is(id),
            Event::Init { model, mode } => {
                self.turn_started(cx, None);
                self.process.touched();
                self.settings_are(cx, model, mode);
            }
            Event::Settings { model, mode } => self.settings_are(cx, model, mode),
            Event::Prompt { prompt, state } => self.lifecycle(cx, &prompt, state),
            // The echo comes for prompts the CLI knows from before too, so it proves nothing that is needed here.
            Event::Echoed { .. } => {}
            Event::Permission(asked) => self.asked(cx, asked),
            Event::PermissionWithdrawn { request } => self.withdrawn(cx, &request),
            Event::Control { id, .. } => self.control_answered(&id),
            Event::Retry { attempt, of, delay_ms, error, login_failed } => {
                let error: Text = line(&error, WHY_BYTES_MAX).into();
                self.activity.retrying = Some(error.clone());
                self.event(cx, Kind::Retry { attempt, of, delay_ms, error });
                self.login_refused(cx, login_failed);
            }
            Event::Idle => self.activity.turn = None,
            Event::Turn(turn) => self.turn_ended(cx, turn),
            Event::Notice { level, text } => {
                self.event(cx, Kind::Notice { level, text: clip::said(text) });
            }
            Event::Unreadable { line, last } => {
                let more = if last { "; if there are more in this turn, they are only counted" } else { "" };
                let text =
                    format!("Claude Code wrote a line that is no message, so something may be missing: {line}{more}");
                self.event(cx, Kind::Notice { level: "warning", text: text.into() });
            }
            Event::Unserved { request, what } => {
                let message = format!("this host does not serve {}", quoted(&what)).into();
                self.write(cx, crate::claude::Command::Refuse { request, message });
            }
            Event::Raw(line) => {
                self.event(cx, Kind::Raw { line: clip::json(line) });
            }
        }
        self.refresh(cx);
    }

    fn said(&mut self, cx: &mut Cx<'_>, event: Event) {
        self.activity.retrying = None;
        let kind = match event {
            Event::Text { message, block, kind, text, parent } => {
                self.fanout.block_done(&message, block);
                let text = clip::said(text);
                Kind::Text { block_kind: kind, message, block, text, parent }
            }
            Event::ToolCall { call, tool, input, parent } => {
                if self.activity.tools.len() < TOOLS_MAX && !self.activity.tools.contains(&call) {
                    self.activity.tools.push(call.clone());
                }
                Kind::ToolCall { call, tool, input: clip::json(input), parent }
            }
            Event::ToolResult { call, ok, text } => {
                self.activity.tools.retain(|open| *open != call);
                let outcome = if ok { Outcome::Ok } else { Outcome::Error };
                let preview = clip::prefix(&text, clip::PREVIEW_BYTES_MAX).into();
                Kind::ToolResult { call, outcome, preview, bytes: text.len() as u64 }
            }
            _ => return,
        };
        self.event(cx, kind);
    }

    /// A tool that was never said to have ended may have half run.
    fn close_tools(&mut self, cx: &mut Cx<'_>) {
        for call in std::mem::take(&mut self.activity.tools) {
            self.event(cx, Kind::ToolResult { call, outcome: Outcome::Unknown, preview: "".into(), bytes: 0 });
        }
    }

    pub(super) fn settings_are(&mut self, cx: &mut Cx<'_>, model: Option<Text>, mode: Option<Text>) {
        let model = model.filter(|model| self.model.as_ref() != Some(model));
        let mode = mode.filter(|mode| self.mode.as_ref() != Some(mode));
        if model.is_none() && mode.is_none() {
            return;
        }
        self.model = model.clone().or(self.model.take());
        self.mode = mode.clone().or(self.mode.take());
        self.changed = true;
        self.event(cx, Kind::Settings { title: None, model, mode });
    }

    /// The process takes prompts now.
    fn ready(&mut self, cx: &mut Cx<'_>, login_missing: bool, mode: Option<Text>) {
        if !self.process.ready(cx.now) {
            return;
        }
        self.login_missing = login_missing;
        self.notice = login_missing.then(|| LOGIN.into());
        if login_missing {
            self.event(cx, Kind::Notice { level: "error", text: LOGIN.into() });
        }
        self.settings_are(cx, None, mode);
        if self.prompts.running().is_some() {
            self.prompts.run = Run { resent: true, ..Default::default() };
            self.send_running(cx);
        }
    }

    fn login_refused(&mut self, cx: &mut Cx<'_>, refused: bool) {
        if refused && !self.activity.login_refused {
            self.activity.login_refused = true;
            self.event(cx, Kind::Notice { level: "error", text: LOGIN_REFUSED.into() });
        }
    }

    fn turn_ended(&mut self, cx: &mut Cx<'_>, turn: Turn) {
        if self.process.has_no_conversation() {
            return; // The CLI reports the failed resume as a turn; the next process starts the conversation anew.
        }
        self.activity.turn_over();
        self.fanout.clear_blocks();
        self.close_tools(cx);
        if !turn.unasked {
            self.process.turn_finished();
        }
        self.login_refused(cx, turn.login_failed);
        self.activity.login_refused = turn.login_failed;
        self.cost_usd = turn.cost_usd;
        self.changed = true;
        // A CLI that names no prompts runs one at a time: its result ends the running one.
        let settled = self
            .prompts
            .running()
            .map(|prompt| prompt.id.clone())
            .filter(|running| turn.prompts.contains(running) || (turn.prompts.is_empty() && !turn.unasked));
        // It may have ended by itself just before.
        let aborted = !turn.ok && turn.stop.starts_with("aborted");
        let by = self.activity.broken_by.take().filter(|_| aborted);
        self.fanout.append(
            cx,
            by.clone(),
            Kind::Turn {
                prompts: settled.iter().cloned().collect(),
                ok: turn.ok,
                stop: turn.stop.clone(),
                cost_usd: turn.cost_usd,
                usage: turn.usage.map(clip::json),
                duration_ms: turn.duration_ms,
            },
        );
        if settled.is_some() {
            let (state, why) = if turn.ok {
                (PromptState::Done, None)
            } else if aborted {
                (PromptState::Cancelled, Some("interrupted".into()))
            } else {
                let text = if turn.text.is_empty() { turn.stop } else { turn.text };
                (PromptState::Failed, Some(line(&text, WHY_BYTES_MAX).into()))
            };
            self.settle_running(cx, by.as_ref(), state, why);
        }
    }

    /// The process is gone, and with it all that ran in it.
    pub(super) fn nothing_runs(&mut self, cx: &mut Cx<'_>) {
        self.void_permissions(cx);
        self.close_tools(cx);
        self.fanout.clear_blocks();
        self.activity = Activity { since: self.activity.since, ..Activity::default() };
    }
}
