//! An attached session, sans-io: messages in, changes of what there is to read out. Knows nothing of terminals.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::Value;

use super::{
    cards::Cards,
    comings::Rows,
    entry::{Change, Coming, Entry, Key, Kind},
    people::{Me, People},
    words::{
        ARGUMENT_CHARS, add, argument, asked, is_over, lines_of, lost, named, past, reason, result, session_is, turn,
        unread,
    },
};
use crate::{
    base::glyph::visible,
    cli::text::{NAME_CHARS, THEIRS, clean, clean_line, field, marked},
    client::{
        Attachment, Block, By, DeviceInfo, ErrorMessage, Event, Fact, Incoming, Page, Position, Reply, Snapshot,
        Unreadable, is_busy,
    },
    relay::card::{Card, TOOL_CHARS_MAX, tool_cut},
};

const TITLE_CHARS: usize = 60;
const FOLDER_CHARS: usize = 120;
/// Characters of a refusal: the longest of our own relay's has room.
pub(super) const ERROR_CHARS: usize = 600;
/// Prompts that are remembered as settled, for answers that come after the events.
const SETTLED_MAX: usize = 256;
/// Blocks that are streamed at the same time; more are shown when they are whole.
const STREAMS_MAX: usize = 64;

/// One attached session.
pub(super) struct Model {
    people: People,
    /// What this device may do, as the relay said last.
    role: String,
    drives: bool,
    state: String,
    /// Since when it is in that state, Unix milliseconds.
    since: u64,
    title: String,
    /// The profiles that run the demo agent, and whether this session's is one of them.
    demo_profiles: Vec<String>,
    is_demo: bool,
    /// The prompts that wait or run, and whether each runs.
    prompts: HashMap<String, bool>,
    model: Option<String>,
    mode: Option<String>,
    pub(super) cards: Cards,
    /// Bytes shown of blocks that are not whole yet.
    streams: HashMap<Key, u64>,
    devices: Vec<DeviceInfo>,
    /// Rows that told of keys whose devices came or went.
    rows: Rows,
    /// Our prompts that are not settled.
    unsettled: HashSet<String>,
    settled: VecDeque<String>,
    /// Requests that were over when the session was joined again, with their names: the events tell how they ended.
    ended: HashMap<String, String>,
    /// The first event that is shown, and whether the log has earlier ones.
    first: Option<Position>,
    has_earlier: bool,
}

impl Model {
    /// Nothing is shown yet. `role` as the relay granted it.
    pub(super) fn new(me: Me, role: &str) -> Self {
        Self {
            people: People::new(me),
            state: "starting".into(),
            since: 0,
            title: String::new(),
            demo_profiles: Vec::new(),
            is_demo: false,
            prompts: HashMap::new(),
            model: None,
            mode: None,
            cards: Cards::new(decides(role)),
            role: role.to_owned(),
            drives: drives(role),
            streams: HashMap::new(),
            devices: Vec::new(),
            rows: Rows::default(),
            unsettled: HashSet::new(),
            settled: VecDeque::new(),
            ended: HashMap::new(),
            first: None,
            has_earlier: false,
        }
    }

    /// The same, of a relay with these profiles of the demo agent.
    pub(super) fn with_demo(self, demo_profiles: Vec<String>) -> Self {
        Self { demo_profiles, ..self }
    }

    /// The demo agent answers in it.
    pub(super) fn is_demo(&self) -> bool {
        self.is_demo
    }

    /// The connection is another one: its id as a device.
    pub(super) fn reconnected(&mut self, device: &str) {
        device.clone_into(&mut self.people.me.device);
    }

    /// What it is doing, as the relay calls it.
    pub(super) fn state(&self) -> &str {
        &self.state
    }

    /// Since when, Unix milliseconds.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// What this device may do.
    pub(super) fn role(&self) -> &str {
        &self.role
    }

    /// How many prompts run, and how many wait.
    pub(super) fn prompts(&self) -> (usize, usize) {
        let running = self.prompts.values().filter(|runs| **runs).count();
        (running, self.prompts.len() - running)
    }

    /// Its title.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// What the agent may do unasked, where that is not the usual.
    pub(super) fn unusual_mode(&self) -> Option<String> {
        let unusual = self.mode.as_deref().filter(|mode| *mode != "default");
        unusual.map(|mode| format!("mode: {}", field(mode, NAME_CHARS)))
    }

    /// How many devices watch, this one included.
    pub(super) fn devices(&self) -> usize {
        self.devices.len()
    }

    /// A turn runs, or is about to.
    pub(super) fn is_busy(&self) -> bool {
        is_busy(&self.state)
    }

    /// A turn runs that an interrupt would break, or is run again when its process is back. A session that is only being
    /// started has none.
    fn has_turn(&self) -> bool {
        let runs = matches!(self.state.as_str(), "busy" | "waiting" | "stuck");
        !self.is_over() && (runs || self.prompts.values().any(|runs| *runs))
    }

    /// Whether Ctrl-C interrupts now.
    pub(super) fn interrupts(&self) -> bool {
        self.drives && self.has_turn()
    }

    /// What Ctrl-C is answered with where it does not.
    pub(super) fn not_interrupted(&self) -> String {
        let waiting = self.prompts.len();
        let why = match waiting {
            _ if self.is_over() => "the session is over".to_owned(),
            _ if self.has_turn() => "your role does not interrupt".into(),
            0 => "nothing is running".into(),
            1 => "nothing is running; a prompt waits until the agent is ready".into(),
            _ => format!("nothing is running; {waiting} prompts wait until the agent is ready"),
        };
        why + "; Ctrl-] leaves"
    }

    /// The session is over.
    pub(super) fn is_over(&self) -> bool {
        is_over(&self.state)
    }

    /// Why a prompt is not taken: the session is over.
    pub(super) fn refusal(&self) -> Option<String> {
        self.is_over().then(|| format!("{}; `amp-relay new` starts another", session_is(&self.state)))
    }

    /// Our own prompts are not all settled, or a turn runs.
    pub(super) fn is_working(&self) -> bool {
        !self.is_over() && (self.is_busy() || !self.unsettled.is_empty())
    }

    /// Where what is not shown ends, if there is anything.
    pub(super) fn earlier(&self) -> Option<&Position> {
        self.first.as_ref().filter(|_| self.has_earlier)
    }

    /// The session is joined: what came before, then what is.
    pub(super) fn attached(&mut self, attachment: Attachment) -> Vec<Change> {
        let Attachment { snapshot, page, .. } = attachment;
        self.streams.clear();
        self.title = field(&snapshot.title, TITLE_CHARS);
        self.is_demo = self.demo_profiles.contains(&snapshot.profile);
        // What the head says, or what is usual, the events need not say again.
        self.model = snapshot.model.clone();
        self.mode = snapshot.mode.clone().or_else(|| Some("default".into()));
        let model = snapshot.model.as_ref().map(|model| field(model, NAME_CHARS));
        let agent = if self.is_demo { Some("demo agent".into()) } else { model };
        let head = [Some(self.title.clone()), Some(field(&snapshot.folder, FOLDER_CHARS)), agent, self.unusual_mode()];
        let head: Vec<String> = head.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        let mut changes = vec![Change::Abandon, add(Kind::Head, &head.join(" · "))];
        changes.extend(unread(&snapshot.unreadable));
        changes.extend(lost(&page));
        self.here(&snapshot.devices);
        self.met(&page.events);
        self.shown_from(&page, &snapshot.next);
        let events = page.events;
        let among = |notice: &str| {
            events.iter().any(|event| matches!(&event.fact, Fact::Notice { text, .. } if text == notice))
        };
        if let Some(notice) = snapshot.notice.as_ref().filter(|notice| !among(notice)) {
            changes.push(add(Kind::Warning, notice));
        }
        events.iter().for_each(|event| self.event(event, &mut changes));
        let told = events.iter().filter_map(|event| match &event.fact {
            Fact::Permission(open) => Some(open.request.as_str()),
            _ => None,
        });
        let end_is_told = events.iter().any(|event| matches!(&event.fact, Fact::State { state, .. } if is_over(state)));
        self.snapshot(snapshot, &told.collect(), end_is_told, &mut changes);
        changes
    }

    /// Notes from where on events are shown.
    fn shown_from(&mut self, page: &Page, next: &Position) {
        let first = page.events.first().map_or_else(|| next.clone(), |event| event.position.clone());
        self.has_earlier = page.earliest.as_ref().is_some_and(|earliest| earliest.offset < first.offset);
        self.first = Some(first);
    }

    /// The snapshot is right about what is open now, whatever the events told.
    fn snapshot(&mut self, snapshot: Snapshot, told: &HashSet<&str>, end_is_told: bool, changes: &mut Vec<Change>) {
        self.state.clone_from(&snapshot.state);
        self.since = snapshot.since;
        self.devices.clone_from(&snapshot.devices);
        let queue = snapshot.queue.iter();
        self.prompts = queue.map(|queued| (queued.prompt.clone(), queued.state == "running")).collect();
        changes.extend(self.streamed(snapshot.turn.as_ref().map_or(&[], |turn| &turn.blocks)));
        let untold = snapshot.permissions.iter().filter(|open| !told.contains(open.request.as_str()));
        changes.extend(untold.map(asked));
        let was_open = self.cards.all().map(|open| (open.request.clone(), named(open)));
        self.ended = was_open.collect();
        self.cards.only(snapshot.permissions);
        self.ended.retain(|request, _| self.cards.open(request).is_none());
        let others = self.others();
        if !others.is_empty() {
            changes.push(add(Kind::Note, &format!("also here: {others}")));
        }
        if is_over(&self.state) && !end_is_told {
            let why = reason(None, snapshot.why.as_deref());
            changes.push(add(Kind::Warning, &format!("{}{why}", session_is(&self.state))));
        }
    }

    /// Earlier events, as the answer to `history`: what they say, to be put before everything else.
    pub(super) fn earlier_came(&mut self, reply: &Reply) -> Vec<Change> {
        let page = reply.page();
        let mut changes: Vec<Change> = lost(&page).collect();
        let Some(first) = page.events.first().map(|event| event.position.clone()) else {
            self.has_earlier = false;
            return changes;
        };
        self.shown_from(&page, &first);
        // Old events change nothing of what is.
        self.met(&page.events);
        let mut past = Self { people: self.people.clone(), ..Self::new(Me::default(), "watch") };
        page.events.iter().for_each(|event| past.event(event, &mut changes));
        changes
    }

    /// Blocks that are not whole yet, as far as they were streamed: what is not shown yet of them.
    pub(super) fn streamed(&mut self, blocks: &[Block]) -> Vec<Change> {
        let piece =
            |block: &Block| self.delta(&block.message, block.block, 0, &block.text, block.block_kind.as_deref());
        blocks.iter().filter_map(piece).collect()
    }

    fn others(&self) -> String {
        let others = self.devices.iter().filter(|device| device.device != self.people.me.device);
        others
            .map(|device| self.people.who(&device.principal, &device.comment, &device.name))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The principals of all events are met before any event is told: a comment may read like one that comes later.
    fn met(&mut self, events: &[Event]) {
        let all = events.iter().filter_map(|event| event.by.as_ref());
        all.for_each(|by| self.people.met(&by.principal, &by.comment));
    }

    fn here(&mut self, devices: &[DeviceInfo]) {
        devices.iter().for_each(|device| self.people.met(&device.principal, &device.comment));
    }

    /// One message, at this time of the monotonic clock.
    pub(super) fn incoming(&mut self, incoming: &Incoming, now_ms: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        match incoming {
            Incoming::Event(event) => {
                self.met(std::slice::from_ref(event));
                self.event(event, &mut changes);
            }
            Incoming::Delta { message, block, at, text, kind, .. } => {
                changes.extend(self.delta(message, *block, *at, text, kind.as_deref()));
            }
            Incoming::Presence { devices, .. } => self.presence(devices, now_ms, &mut changes),
            Incoming::Error(error) => changes.push(Change::Add(self.error(error))),
            Incoming::Reply(reply) => changes.extend(self.reply(reply)),
            Incoming::Session { .. }
            | Incoming::CaughtUp { .. }
            | Incoming::Reset { .. }
            | Incoming::Pong { .. }
            | Incoming::Unknown => {}
        }
        changes
    }

    fn reply(&mut self, reply: &Reply) -> Option<Change> {
        match reply.field::<String>("prompt") {
            Ok(prompt) => self.unsettled.extend(prompt.filter(|prompt| !self.settled.contains(prompt))),
            Err(Unreadable(name)) => return unread(&[name]),
        }
        None
    }

    fn settle(&mut self, prompt: &str) {
        self.unsettled.remove(prompt);
        self.prompts.remove(prompt);
        if self.settled.len() == SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(prompt.to_owned());
    }

    /// What a refusal says, in words for people: its code is for programs.
    pub(super) fn error(&self, error: &ErrorMessage) -> Entry {
        if error.code == "ALREADY_DECIDED" {
            let details = error.details.as_ref();
            let decision = details.and_then(|details| details["decision"].as_str()).unwrap_or("decided");
            let by: Option<By> = details.and_then(|details| serde::Deserialize::deserialize(details.get("by")?).ok());
            let by = self.people.by(by.as_ref()).map(|who| format!(" by {who}")).unwrap_or_default();
            return Entry::new(Kind::Warning, &format!("already {}{by}", past(decision)));
        }
        Entry::new(Kind::Error, &clean_line(&error.message, ERROR_CHARS))
    }

    fn presence(&mut self, devices: &[DeviceInfo], now_ms: u64, changes: &mut Vec<Change>) {
        self.here(devices);
        let before = std::mem::replace(&mut self.devices, devices.to_vec());
        let is_in = |list: &[DeviceInfo], device: &DeviceInfo| list.iter().any(|other| other.device == device.device);
        let mut comings = Vec::new();
        for (from, to, joined) in [(&before[..], devices, true), (devices, &before[..], false)] {
            for device in to.iter().filter(|to| !is_in(from, to) && to.device != self.people.me.device) {
                let who = self.people.who(&device.principal, &device.comment, &device.name);
                comings.push(Coming { who, joined, said: self.rows.may(&device.principal, now_ms) });
            }
        }
        changes.extend((!comings.is_empty()).then_some(Change::Comings(comings)));
        changes.extend(self.new_role().map(|text| add(Kind::Note, &text)));
    }

    /// The keys in force have given this device another role than it had.
    fn new_role(&mut self) -> Option<String> {
        let own = self.devices.iter().find(|device| device.device == self.people.me.device)?;
        if own.role == self.role || own.role.is_empty() {
            return None;
        }
        self.role.clone_from(&own.role);
        self.drives = drives(&self.role);
        self.cards.decide_from_now(decides(&self.role));
        Some(format!("this key's role is `{}` now", clean_line(&self.role, NAME_CHARS)))
    }

    fn delta(&mut self, message: &str, block: u32, at: u64, text: &str, kind: Option<&str>) -> Option<Change> {
        let key = (message.to_owned(), block);
        if !self.streams.contains_key(&key) && self.streams.len() >= STREAMS_MAX {
            return None;
        }
        let have = *self.streams.get(&key).unwrap_or(&0);
        // A piece was skipped: the whole block comes as an event, and the rest is shown then.
        let new = have.checked_sub(at).and_then(|known| text.get(usize::try_from(known).ok()?..))?;
        if new.is_empty() {
            return None;
        }
        self.streams.insert(key.clone(), have + new.len() as u64);
        let kind = if kind == Some("thinking") { Kind::Thinking } else { Kind::Answer };
        Some(Change::Stream { key, kind, piece: clean(new) })
    }

    fn whole(&mut self, block: &Block, kind: Kind) -> Option<Change> {
        let key = (block.message.clone(), block.block);
        let streamed = self.streams.remove(&key);
        if block.parent.is_some() && streamed.is_none() {
            return None;
        }
        let have = streamed.unwrap_or(0);
        let rest = usize::try_from(have).ok().and_then(|have| block.text.get(have..)).unwrap_or(&block.text);
        if rest.trim().is_empty() && have == 0 {
            return None;
        }
        Some(Change::Whole { key, entry: Entry::new(kind, &block.text), rest: clean(rest) })
    }

    fn event(&mut self, event: &Event, changes: &mut Vec<Change>) {
        let by = self.people.by(event.by.as_ref());
        let change = match &event.fact {
            Fact::Prompt { text, .. } => {
                let who = by.map(|by| format!("{by}: ")).unwrap_or_default();
                Some(add(Kind::Prompt, &format!("{who}{text}")))
            }
            Fact::PromptState { prompt, state, why } => self.prompt_state(prompt, state, why.as_deref(), by),
            Fact::Text(block) => self.whole(block, Kind::Answer),
            Fact::Thinking(block) => self.whole(block, Kind::Thinking),
            Fact::ToolCall { tool, input, parent, .. } => {
                let kind = if parent.is_some() { Kind::SubTool } else { Kind::Tool };
                Some(add(kind, &format!("{}({})", tool_cut(tool, TOOL_CHARS_MAX), argument(input))))
            }
            Fact::ToolResult { outcome, preview, .. } => Some(result(outcome, preview)),
            Fact::Permission(open) => {
                self.cards.put(open.clone());
                Some(asked(open))
            }
            Fact::Decision { .. } => self.decision(&event.fact, by),
            Fact::PermissionClosed { request, how } => self.closed(request, how),
            Fact::State { state, why } => self.changed(state, why.as_deref(), by, event.at),
            Fact::Turn { prompts, ok, stop, cost_usd, duration_ms } => {
                prompts.iter().for_each(|prompt| self.settle(prompt));
                if !self.streams.is_empty() {
                    self.streams.clear();
                    changes.push(Change::Abandon);
                }
                Some(turn(*ok, stop, by, *cost_usd, *duration_ms))
            }
            Fact::Settings { title, model, mode } => self.settings(title, model, mode),
            Fact::Retry { attempt, of, delay_ms, error } => {
                let seconds = delay_ms.div_ceil(1000);
                let text = format!("retrying ({attempt}/{of}) in {seconds} s: {}", clean_line(error, ARGUMENT_CHARS));
                Some(add(Kind::Warning, &text))
            }
            Fact::Notice { level, text } => Some(add(if level == "info" { Kind::Note } else { Kind::Warning }, text)),
            Fact::Unreadable => Some(add(Kind::Warning, "an event of the relay cannot be read and is not shown")),
            Fact::Unknown => None,
        };
        changes.extend(change);
    }

    fn prompt_state(&mut self, prompt: &str, state: &str, why: Option<&str>, by: Option<String>) -> Option<Change> {
        if !matches!(state, "done" | "cancelled" | "failed") {
            self.prompts.insert(prompt.to_owned(), state == "running");
            return None;
        }
        // The end of its turn has said it already.
        let said = state == "cancelled" && self.settled.iter().any(|settled| settled == prompt);
        self.settle(prompt);
        if said {
            return None;
        }
        let why = reason(by, why);
        match state {
            "cancelled" => Some(add(Kind::Note, &format!("prompt cancelled{why}"))),
            "failed" => Some(add(Kind::Error, &format!("prompt failed{why}"))),
            _ => None,
        }
    }

    fn decision(&mut self, fact: &Fact, by: Option<String>) -> Option<Change> {
        let Fact::Decision { request, decision, how, message, input, answers, .. } = fact else { return None };
        let about = self.name_of_gone(request).map(|name| format!(": {name}")).unwrap_or_default();
        let who = match how.as_str() {
            "rule" => " by a rule".to_owned(),
            "timeout" => ": nobody answered".to_owned(),
            _ => by.map(|by| format!(" by {by}")).unwrap_or_default(),
        };
        let mut text = format!("{}{who}{about}", past(decision));
        // What others wrote stands behind a mark that no line of ours has.
        if let Some(message) = message {
            text.push_str(&format!("\nbecause: {}", marked(message)));
        }
        if let Some(input) = input {
            text.push_str("\nthis runs instead:\n");
            text.push_str(&lines_of(&Card::new("", "", input)));
        }
        if let Some(answers) = answers.as_ref().and_then(Value::as_object) {
            for (question, answer) in answers {
                let answer = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
                let question: Vec<_> = question.split('\n').map(visible).collect();
                text.push_str(&format!("\n{THEIRS}{}\nanswer: {}", marked(&question.join("\n")), marked(&answer)));
            }
        }
        Some(add(if decision == "allow" { Kind::Allowed } else { Kind::Denied }, &text))
    }

    /// A request is over: what it asked, if that is known.
    fn name_of_gone(&mut self, request: &str) -> Option<String> {
        let ended = self.ended.remove(request);
        let name = self.cards.open(request).map(named).or(ended);
        self.cards.gone(request);
        name
    }

    fn closed(&mut self, request: &str, how: &str) -> Option<Change> {
        let about = self.name_of_gone(request)?;
        let text = if how == "void" { "the process that asked is gone" } else { "withdrawn" };
        Some(add(Kind::Note, &format!("{text}: {about}")))
    }

    fn changed(&mut self, state: &str, why: Option<&str>, by: Option<String>, at: u64) -> Option<Change> {
        state.clone_into(&mut self.state);
        self.since = at;
        if !matches!(state, "retrying" | "stuck" | "stopped" | "failed") {
            return None;
        }
        if self.is_over() {
            self.cards.only(Vec::new());
        }
        Some(add(Kind::Warning, &format!("{}{}", session_is(state), reason(by, why))))
    }

    fn settings(&mut self, title: &Option<String>, model: &Option<String>, mode: &Option<String>) -> Option<Change> {
        let new = |old: &mut Option<String>, new: &Option<String>| {
            new.clone().filter(|new| old.replace(new.clone()).as_ref() != Some(new))
        };
        if let Some(title) = title {
            self.title = field(title, TITLE_CHARS);
        }
        let model = new(&mut self.model, model).filter(|_| !self.is_demo);
        let named = [("title", title.clone()), ("model", model), ("mode", new(&mut self.mode, mode))];
        let said = |(name, value): &(&str, Option<String>)| {
            value.as_ref().map(|value| format!("{name}: {}", field(value, TITLE_CHARS)))
        };
        let changed: Vec<String> = named.iter().filter_map(said).collect();
        (!changed.is_empty()).then(|| add(Kind::Note, &changed.join(" · ")))
    }
}

/// Whether a role answers requests for permission.
fn decides(role: &str) -> bool {
    !matches!(role, "agent" | "watch" | "drive")
}

/// Whether a role interrupts.
fn drives(role: &str) -> bool {
    !matches!(role, "agent" | "watch")
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
