//! Events as JSON, and the permission requests in them.

use serde::Serialize;

use super::{WireBy, decision_name, prompt_state_name};
use crate::{
    base::Json,
    claude::Block,
    relay::api::{Closed, Event, How, Input, Kind, OpenPermission, Outcome, Ran, State, Text},
};

#[derive(Serialize)]
pub(super) struct WirePermission<'a> {
    request: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a str>,
    tool: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a Json>,
    /// Where the input is too large: what to fetch. Its hash is not told then.
    #[serde(skip_serializing_if = "Option::is_none")]
    input_blob: Option<WireBlob<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deny_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    deny_why: Option<&'a str>,
    about: &'a str,
    #[serde(serialize_with = "or_empty")]
    suggestions: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    questions: Option<&'a Json>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default_to_no: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_always: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    needs_interaction: bool,
}

#[derive(Serialize)]
struct WireBlob<'a> {
    bytes: u64,
    blob: &'a str,
}

impl<'a> From<&'a OpenPermission> for WirePermission<'a> {
    fn from(open: &'a OpenPermission) -> Self {
        let (input, input_blob) = match &open.input {
            Input::Whole(json) => (Some(json), None),
            Input::Large { bytes, blob } => (None, Some(WireBlob { bytes: *bytes, blob })),
        };
        Self {
            request: &open.request,
            call: open.call.as_deref(),
            tool: &open.tool,
            input,
            hash: open.hash.as_deref().filter(|_| input_blob.is_none()),
            input_blob,
            deny_only: open.hash.is_none(),
            deny_why: open.deny_why.as_deref(),
            about: &open.about,
            suggestions: open.suggestions.as_ref(),
            questions: open.questions.as_ref(),
            default_to_no: open.default_to_no,
            no_always: open.no_always,
            needs_interaction: open.needs_interaction,
        }
    }
}

/// An absent list is an empty one.
fn or_empty<S: serde::Serializer>(list: &Option<&Json>, serializer: S) -> Result<S::Ok, S::Error> {
    match list {
        Some(list) => list.serialize(serializer),
        None => serializer.collect_seq(std::iter::empty::<()>()),
    }
}

#[derive(Serialize)]
pub(super) struct WireEvent<'a> {
    r#type: &'static str,
    session: &'a str,
    epoch: &'a str,
    offset: u64,
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<WireBy<'a>>,
    #[serde(flatten)]
    kind: WireKind<'a>,
}

impl<'a> From<&'a Event> for WireEvent<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            r#type: "event",
            session: &event.session,
            epoch: &event.position.epoch,
            offset: event.position.offset,
            at: event.at,
            by: event.by.as_ref().map(WireBy::from),
            kind: WireKind::from(&event.kind),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum WireKind<'a> {
    Prompt {
        prompt: &'a str,
        text: &'a str,
    },
    PromptState {
        prompt: &'a str,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
    },
    Text(WireText<'a>),
    Thinking(WireText<'a>),
    ToolCall {
        call: &'a str,
        tool: &'a str,
        input: &'a Json,
        #[serde(skip_serializing_if = "Option::is_none")]
        parent: Option<&'a str>,
    },
    ToolResult {
        call: &'a str,
        outcome: &'static str,
        preview: &'a str,
        bytes: u64,
    },
    Permission(WirePermission<'a>),
    Decision {
        request: &'a str,
        decision: &'static str,
        how: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
        #[serde(flatten)]
        ran: Option<WireRan<'a>>,
    },
    PermissionClosed {
        request: &'a str,
        how: &'static str,
    },
    State {
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
    },
    Turn {
        prompts: &'a [Text],
        ok: bool,
        stop: &'a str,
        cost_usd: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<&'a Json>,
        duration_ms: u64,
    },
    Settings {
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        model: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<&'a str>,
    },
    Retry {
        attempt: u32,
        of: u32,
        delay_ms: u64,
        error: &'a str,
    },
    Notice {
        level: &'static str,
        text: &'a str,
    },
    Raw {
        line: &'a Json,
    },
}

#[derive(Serialize)]
struct WireRan<'a> {
    hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_hash: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<&'a Json>,
}

impl<'a> From<&'a Ran> for WireRan<'a> {
    fn from(ran: &'a Ran) -> Self {
        let Ran { hash, input, replaced_hash, replaced, answers } = ran;
        Self {
            hash,
            input: input.as_ref(),
            replaced_hash: replaced_hash.as_deref(),
            replaced: replaced.as_ref(),
            answers: answers.as_ref(),
        }
    }
}

#[derive(Serialize)]
struct WireText<'a> {
    message: &'a str,
    block: u32,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
}

impl<'a> From<&'a Kind> for WireKind<'a> {
    fn from(kind: &'a Kind) -> Self {
        match kind {
            Kind::Prompt { prompt, text } => Self::Prompt { prompt, text },
            Kind::PromptState { prompt, state, why } => {
                Self::PromptState { prompt, state: prompt_state_name(*state), why: why.as_deref() }
            }
            Kind::Text { block_kind, message, block, text, parent } => {
                let text = WireText { message, block: *block, text, parent: parent.as_deref() };
                match block_kind {
                    Block::Text => Self::Text(text),
                    Block::Thinking => Self::Thinking(text),
                }
            }
            Kind::ToolCall { call, tool, input, parent } => {
                Self::ToolCall { call, tool, input, parent: parent.as_deref() }
            }
            Kind::ToolResult { call, outcome, preview, bytes } => {
                Self::ToolResult { call, outcome: outcome_name(*outcome), preview, bytes: *bytes }
            }
            Kind::Permission(open) => Self::Permission(open.into()),
            Kind::Decision { request, decision, how, message, ran } => Self::Decision {
                request,
                decision: decision_name(*decision),
                how: how_name(*how),
                message: message.as_deref(),
                ran: ran.as_ref().map(WireRan::from),
            },
            Kind::PermissionClosed { request, how } => Self::PermissionClosed { request, how: closed_name(*how) },
            Kind::State { state, why } => Self::State { state: State::name(*state), why: why.as_deref() },
            Kind::Turn { prompts, ok, stop, cost_usd, usage, duration_ms } => Self::Turn {
                prompts,
                ok: *ok,
                stop,
                cost_usd: *cost_usd,
                usage: usage.as_ref(),
                duration_ms: *duration_ms,
            },
            Kind::Settings { title, model, mode } => {
                Self::Settings { title: title.as_deref(), model: model.as_deref(), mode: mode.as_deref() }
            }
            Kind::Retry { attempt, of, delay_ms, error } => {
                Self::Retry { attempt: *attempt, of: *of, delay_ms: *delay_ms, error }
            }
            Kind::Notice { level, text } => Self::Notice { level, text },
            Kind::Raw { line } => Self::Raw { line },
        }
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Error => "error",
        Outcome::Unknown => "unknown",
    }
}

fn how_name(how: How) -> &'static str {
    match how {
        How::Person => "person",
        How::Rule => "rule",
        How::Timeout => "timeout",
    }
}

fn closed_name(how: Closed) -> &'static str {
    match how {
        Closed::Applied => "applied",
        Closed::Withdrawn => "withdrawn",
        Closed::Void => "void",
    }
}
