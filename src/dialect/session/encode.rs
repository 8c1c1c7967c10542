//! Messages of the relay as JSON text. Field names are session-protocol's; what is absent is left out.

mod event;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use self::event::{WireEvent, WirePermission};
use super::bounds::{ERROR_BYTES_MAX, FOLDER_BYTES_MAX};
use crate::{
    base::{Json, text::line},
    claude::Block,
    relay::api::{
        By, Decision, Details, DeviceInfo, Error, Event, Position, PromptState, QueuedPrompt, Reply, Snapshot, Summary,
        TurnBlock,
    },
};

/// Serializing our own borrowed structs cannot fail: no map has keys other than strings.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        log::error!(error:% = error; "a message could not be written as JSON");
        String::from(r#"{"type":"error","code":"INTERNAL","message":"unwritable message","recoverable":true}"#)
    })
}

/// `challenge` or `welcome`, which the sign-in format defines.
pub fn sign_in_message(message: &impl Serialize) -> String {
    text(message)
}

/// `error`, in answer to the command `re` or on its own.
pub fn error(re: Option<&str>, error: &Error) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        re: Option<&'a str>,
        code: &'static str,
        message: &'a str,
        recoverable: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<WireDetails<'a>>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum WireDetails<'a> {
        Decided {
            #[serde(skip_serializing_if = "Option::is_none")]
            by: Option<WireBy<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            decision: Option<&'static str>,
            at: u64,
        },
        Range {
            epoch: &'a str,
            earliest: WirePosition<'a>,
            next: WirePosition<'a>,
        },
    }
    let details = error.details.as_ref().map(|details| match details {
        Details::Decided { by, decision, at } => {
            WireDetails::Decided { by: by.as_ref().map(WireBy::from), decision: decision.map(decision_name), at: *at }
        }
        Details::Range { earliest, next } => WireDetails::Range {
            epoch: &next.epoch,
            earliest: WirePosition::from(earliest),
            next: WirePosition::from(next),
        },
    });
    text(&Wire {
        r#type: "error",
        re,
        code: error.code.name(),
        // Whatever an error repeats of what a peer sent.
        message: &line(&error.message, ERROR_BYTES_MAX),
        recoverable: error.recoverable,
        retry_after_ms: error.retry_after_ms,
        details,
    })
}

/// `pong`: the answer to `ping`.
pub fn pong(re: &str, t: Option<&Json>, now: u64) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'static str,
        re: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        t: Option<&'a Json>,
        now: u64,
    }
    text(&Wire { r#type: "pong", re, t, now })
}

/// `tick`: nothing happened for a while.
pub fn tick(now: u64) -> String {
    #[derive(Serialize)]
    struct Wire {
        r#type: &'static str,
        now: u64,
    }
    text(&Wire { r#type: "tick", now })
}

/// The reply to `keys` with `op` `reload`; `file` is the keys file that was read.
pub fn keys_reply(re: &str, file: &str, entries: usize, refused: usize) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'static str,
        re: &'a str,
        file: &'a str,
        entries: usize,
        refused: usize,
    }
    text(&Wire { r#type: "reply", re, file, entries, refused })
}

/// `reply` to a command of the core.
pub fn reply(re: &str, reply: &Reply) -> String {
    #[derive(Serialize, Default)]
    struct Wire<'a> {
        r#type: &'static str,
        re: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        sessions: Option<Vec<WireSummary<'a>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        session: Option<WireSummary<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        snapshot: Option<WireSnapshot<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        events: Option<Vec<WireEvent<'a>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        earliest: Option<WirePosition<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<WirePosition<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        prompt: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        position: Option<WirePosition<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ran: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        state: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    }
    let mut wire = Wire { r#type: "reply", re, ..Wire::default() };
    match reply {
        Reply::Done => {}
        Reply::Interrupted { ran } => wire.ran = Some(*ran),
        Reply::Sessions(sessions) => wire.sessions = Some(sessions.iter().map(WireSummary::from).collect()),
        Reply::Created(summary) => wire.session = Some(summary.into()),
        Reply::Attached { snapshot, events, earliest, next } => {
            wire.snapshot = Some(WireSnapshot::from(&**snapshot));
            wire.events = Some(events.iter().map(|event| WireEvent::from(&**event)).collect());
            wire.earliest = Some(earliest.into());
            wire.next = Some(next.into());
        }
        Reply::Prompted { prompt, position } => {
            wire.prompt = Some(prompt);
            wire.position = Some(position.into());
        }
        Reply::Decided { position } => wire.position = Some(position.into()),
        Reply::State(state) => wire.state = Some(state.name()),
        Reply::Fetched { data, total } => {
            wire.data = Some(URL_SAFE_NO_PAD.encode(data));
            wire.total = Some(*total);
        }
        Reply::History { events, earliest } => {
            wire.events = Some(events.iter().map(|event| WireEvent::from(&**event)).collect());
            wire.earliest = Some(earliest.into());
        }
    }
    text(&wire)
}

/// `event`.
pub fn event(event: &Event) -> String {
    text(&WireEvent::from(event))
}

/// `delta`.
pub fn delta(session: &str, message: &str, (block, kind): (u32, Block), at: u64, piece: &str) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'static str,
        session: &'a str,
        message: &'a str,
        block: u32,
        kind: &'static str,
        at: u64,
        text: &'a str,
    }
    text(&Wire { r#type: "delta", session, message, block, kind: block_name(kind), at, text: piece })
}

/// `presence`.
pub fn presence(session: &str, devices: &[DeviceInfo]) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'static str,
        session: &'a str,
        devices: Vec<WireDevice<'a>>,
    }
    text(&Wire { r#type: "presence", session, devices: devices.iter().map(WireDevice::from).collect() })
}

/// `session`: a summary changed, for the followers of the list.
pub fn summary_changed(summary: &Summary) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'static str,
        summary: WireSummary<'a>,
    }
    text(&Wire { r#type: "session", summary: summary.into() })
}

/// `caught_up`.
pub fn caught_up(session: &str) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'static str,
        session: &'a str,
    }
    text(&Wire { r#type: "caught_up", session })
}

/// `reset`.
pub fn reset(session: &str, why: &str, earliest: &Position) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'static str,
        session: &'a str,
        why: &'a str,
        epoch: &'a str,
        earliest: WirePosition<'a>,
    }
    text(&Wire { r#type: "reset", session, why, epoch: &earliest.epoch, earliest: earliest.into() })
}

#[derive(Serialize)]
struct WirePosition<'a> {
    epoch: &'a str,
    offset: u64,
}

impl<'a> From<&'a Position> for WirePosition<'a> {
    fn from(position: &'a Position) -> Self {
        Self { epoch: &position.epoch, offset: position.offset }
    }
}

#[derive(Serialize)]
struct WireBy<'a> {
    device: &'a str,
    principal: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
}

impl<'a> From<&'a By> for WireBy<'a> {
    fn from(by: &'a By) -> Self {
        Self { device: &by.device, principal: &by.principal, comment: &by.comment }
    }
}

#[derive(Serialize)]
struct WireDevice<'a> {
    device: &'a str,
    name: &'a str,
    principal: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
    kind: &'a str,
    role: &'static str,
    since: u64,
}

impl<'a> From<&'a DeviceInfo> for WireDevice<'a> {
    fn from(device: &'a DeviceInfo) -> Self {
        let DeviceInfo { device: id, name, principal, comment, kind, role, since } = device;
        Self { device: id, name, principal, comment, kind, role: role.name(), since: *since }
    }
}

#[derive(Serialize)]
struct WireSummary<'a> {
    session: &'a str,
    did: &'a str,
    title: &'a str,
    profile: &'a str,
    folder: std::borrow::Cow<'a, str>,
    state: &'static str,
    since: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    waiting: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
    created_at: u64,
    active_at: u64,
    cost_usd: f64,
    /// Left out in a snapshot, which names the devices instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<usize>,
    epoch: &'a str,
    next: WirePosition<'a>,
}

impl<'a> From<&'a Summary> for WireSummary<'a> {
    fn from(summary: &'a Summary) -> Self {
        Self {
            session: &summary.session,
            did: &summary.did,
            title: &summary.title,
            profile: &summary.profile,
            // A path may be any bytes: each is a character at the most, and none takes more than three.
            folder: line(&summary.folder.to_string_lossy(), FOLDER_BYTES_MAX).into_owned().into(),
            state: summary.state.name(),
            since: summary.since,
            why: summary.why.as_deref(),
            waiting: summary.waiting,
            model: summary.model.as_deref(),
            mode: summary.mode.as_deref(),
            created_at: summary.created_at,
            active_at: summary.active_at,
            cost_usd: summary.cost_usd,
            devices: Some(summary.devices),
            epoch: &summary.next.epoch,
            next: WirePosition::from(&summary.next),
        }
    }
}

#[derive(Serialize)]
struct WireSnapshot<'a> {
    #[serde(flatten)]
    summary: WireSummary<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn: Option<WireTurn<'a>>,
    queue: Vec<WireQueued<'a>>,
    permissions: Vec<WirePermission<'a>>,
    devices: Vec<WireDevice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<&'a str>,
}

impl<'a> From<&'a Snapshot> for WireSnapshot<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let turn = snapshot.turn.as_ref().map(|turn| WireTurn {
            prompts: turn.prompts.iter().map(|prompt| &**prompt).collect(),
            since: turn.since,
            blocks: turn.blocks.iter().map(WireBlock::from).collect(),
        });
        Self {
            summary: WireSummary { devices: None, ..(&snapshot.summary).into() },
            turn,
            queue: snapshot.queue.iter().map(WireQueued::from).collect(),
            permissions: snapshot.permissions.iter().map(WirePermission::from).collect(),
            devices: snapshot.devices.iter().map(WireDevice::from).collect(),
            notice: snapshot.notice.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct WireTurn<'a> {
    prompts: Vec<&'a str>,
    since: u64,
    blocks: Vec<WireBlock<'a>>,
}

#[derive(Serialize)]
struct WireBlock<'a> {
    message: &'a str,
    block: u32,
    kind: &'static str,
    text: &'a str,
    /// Where `text` is the first part only: the length of what was streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl<'a> From<&'a TurnBlock> for WireBlock<'a> {
    fn from(block: &'a TurnBlock) -> Self {
        let TurnBlock { message, block, kind, text, bytes } = block;
        let bytes = Some(*bytes).filter(|bytes| *bytes != text.len() as u64);
        Self { message, block: *block, kind: block_name(*kind), text, bytes }
    }
}

#[derive(Serialize)]
struct WireQueued<'a> {
    prompt: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<WireBy<'a>>,
    state: &'static str,
}

impl<'a> From<&'a QueuedPrompt> for WireQueued<'a> {
    fn from(queued: &'a QueuedPrompt) -> Self {
        let state = prompt_state_name(queued.state);
        Self { prompt: &queued.prompt, text: &queued.text, by: queued.by.as_ref().map(WireBy::from), state }
    }
}

fn block_name(block: Block) -> &'static str {
    match block {
        Block::Text => "text",
        Block::Thinking => "thinking",
    }
}

fn prompt_state_name(state: PromptState) -> &'static str {
    match state {
        PromptState::Queued => "queued",
        PromptState::Running => "running",
        PromptState::Done => "done",
        PromptState::Cancelled => "cancelled",
        PromptState::Failed => "failed",
    }
}

fn decision_name(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::relay::api::Kind;

    #[test]
    fn an_event_is_one_flat_object_and_carries_json_through_untouched() {
        let input = Json::parse(r#"{"command": "echo 1e2"}"#).expect("JSON");
        let kind = Kind::ToolCall { call: "c".into(), tool: "Bash".into(), input, parent: None };
        let position = Position { epoch: "e".into(), offset: 7 };
        let by = Some(By { device: "d".into(), principal: "p".into(), comment: "".into() });
        let written = event(&Event { session: "s".into(), position, at: 5, by, kind });
        assert_eq!(
            written,
            r#"{"type":"event","session":"s","epoch":"e","offset":7,"at":5,"by":{"device":"d","principal":"p"},"kind":"tool_call","call":"c","tool":"Bash","input":{"command": "echo 1e2"}}"#
        );
    }

    #[test]
    fn a_snapshot_names_its_devices_once() {
        let next = Position { epoch: "e".into(), offset: 0 };
        let summary = Summary { devices: 3, ..Summary::sample(&"s".into(), next.clone()) };
        let (queue, permissions, devices) = (Vec::new(), Vec::new(), Vec::new());
        let snapshot = Box::new(Snapshot { summary, turn: None, queue, permissions, devices, notice: None });
        let written =
            reply("r", &Reply::Attached { snapshot, events: Vec::<Arc<Event>>::new(), earliest: next.clone(), next });
        assert_eq!(written.matches(r#""devices""#).count(), 1, "{written}");
        assert!(written.contains(r#""devices":[]"#), "{written}");
    }

    #[test]
    fn a_reply_says_what_it_was_asked_for() {
        let at = |offset| Position { epoch: "e".into(), offset };
        let kind = Kind::Notice { level: "info", text: "t".into() };
        let event = Event { session: "s".into(), position: at(7), at: 5, by: None, kind };
        let log = r#""earliest":{"epoch":"e","offset":3}"#;
        for (said, fields) in [
            (Reply::Interrupted { ran: false }, &[r#""ran":false"#][..]),
            (Reply::Fetched { data: vec![0xfb, 0xff], total: 9 }, &[r#""data":"-_8""#, r#""total":9"#]),
            (
                Reply::History { events: vec![Arc::new(event)], earliest: at(3) },
                &[r#""events":[{"#, r#""offset":7"#, log],
            ),
        ] {
            let written = reply("r", &said);
            for field in fields.iter().chain(&[r#""re":"r""#]) {
                assert!(written.contains(field), "{field} in {written}");
            }
        }
    }

    #[test]
    fn only_the_first_part_of_a_block_says_how_much_there_is() {
        for (bytes, said) in [(2, false), (3, true)] {
            let block = TurnBlock { message: "m".into(), block: 0, kind: Block::Text, text: "ab".into(), bytes };
            let written = text(&WireBlock::from(&block));
            assert_eq!(written.contains(r#""bytes":3"#), said, "{written}");
            assert_eq!(written.contains("bytes"), said, "{written}");
        }
    }
}
