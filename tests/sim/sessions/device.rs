//! A model of a client: what it asked, what it was told, and the rules that what it is told must keep.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use amp_relay::{
    base::ConnToken,
    relay::{
        Role,
        api::{
            Caller, Code, Command, Error, Event, Input, Kind, OpenPermission, Out, Position, Reply, Request, Snapshot,
            Text,
        },
    },
    wire::shown,
};

const GAVE_WAY: &str = "the session had ended and has given way to a new one";
const LOST: &str = "the session's log cannot be written any more";
const UNREAD: &str = "the log could not be read";

/// Whether it is the key's role, or that the key is gone.
fn is_lost(error: &Error) -> bool {
    matches!(error.code, Code::Forbidden | Code::KeyNotAuthorized)
}

/// What one device knows of one session.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) attached: bool,
    /// The next event it must get.
    pub(crate) expected: u64,
    pub(crate) epoch: Text,
    pub(crate) catching_up: bool,
    /// Text streamed so far, and whether none of it was missed.
    blocks: BTreeMap<(Text, u32), (String, bool)>,
    /// Live text may have been skipped.
    lossy: bool,
    /// The number of the last `attach` or `detach` that came to something.
    turn: u64,
    /// Each with the hash of the input that was shown.
    pub(crate) requests: Vec<(Text, Text)>,
}

struct Sent {
    request: Request,
    open: u32,
    answers: u32,
    newest: ConnToken,
    first: Option<Result<Reply, Error>>,
}

pub(crate) struct Device {
    pub(crate) name: Text,
    principal: Text,
    /// What its connections were granted.
    pub(crate) role: Role,
    pub(crate) peer: Option<ConnToken>,
    pub(crate) paused: bool,
    pub(crate) views: BTreeMap<Text, View>,
    sent: BTreeMap<Text, Sent>,
    last_id: u64,
}

/// The log as the store has it: what was appended, and how much of it is safe.
#[derive(Default)]
pub(crate) struct Truth {
    pub(crate) events: Vec<Arc<Event>>,
    pub(crate) safe: u64,
    /// It takes nothing more; what was not safe is gone.
    pub(crate) lost: bool,
}

impl Device {
    pub(crate) fn new(name: &str, principal: &Text, role: Role) -> Self {
        Self {
            name: name.into(),
            principal: principal.clone(),
            role,
            peer: None,
            paused: false,
            views: BTreeMap::new(),
            sent: BTreeMap::new(),
            last_id: 0,
        }
    }

    pub(crate) fn caller(&self) -> Option<Caller> {
        Some(Caller {
            peer: self.peer?,
            principal: self.principal.clone(),
            comment: "one".into(),
            role: self.role,
            granted: self.role,
            client: self.name.clone(),
            device: self.name.clone(),
            name: self.name.clone(),
            kind: "model".into(),
        })
    }

    pub(crate) fn connects(&mut self, peer: ConnToken) {
        self.peer = Some(peer);
        self.paused = false;
    }

    pub(crate) fn disconnects(&mut self) -> Option<ConnToken> {
        for view in self.views.values_mut() {
            (view.attached, view.catching_up) = (false, false);
        }
        for sent in self.sent.values_mut() {
            sent.open = 0;
        }
        self.peer.take()
    }

    /// Its key may no longer watch: from now on it is sent nothing of sessions.
    pub(crate) fn loses_sight(&mut self) {
        for view in self.views.values_mut() {
            (view.attached, view.catching_up) = (false, false);
        }
    }

    pub(crate) fn pauses(&mut self) {
        self.paused = true;
        self.views.values_mut().for_each(|view| view.lossy = true);
    }

    pub(crate) fn next_id(&mut self) -> Text {
        self.last_id += 1;
        format!("{}-{}", self.name, self.last_id).into()
    }

    pub(crate) fn sends(&mut self, request: &Request) {
        let Some(peer) = self.peer else { return };
        let new = || Sent { request: request.clone(), open: 0, answers: 0, newest: peer, first: None };
        let sent = self.sent.entry(request.id.clone()).or_insert_with(new);
        sent.open += 1;
        sent.newest = peer;
    }

    /// Commands with an effect that it sent before.
    pub(crate) fn effects(&self) -> Vec<Request> {
        let effect = |command: &Command| {
            !matches!(
                command,
                Command::List { .. } | Command::Attach { .. } | Command::Detach { .. } | Command::History { .. }
            )
        };
        self.sent.values().filter(|sent| effect(&sent.request.command)).map(|sent| sent.request.clone()).collect()
    }

    /// Commands with an effect that it has no answer to yet.
    pub(crate) fn unanswered(&self) -> Vec<Request> {
        self.effects().into_iter().filter(|request| self.sent[&request.id].answers == 0).collect()
    }

    /// At the end every command has its answer, unless the connection that sent it last is gone.
    pub(crate) fn check_answered(&self) {
        for (id, sent) in &self.sent {
            let reachable = self.peer == Some(sent.newest);
            assert!(sent.answers > 0 || !reachable, "{id} {:?} was never answered", sent.request.command);
        }
    }

    pub(crate) fn answers(&self) -> impl Iterator<Item = (&Command, &Result<Reply, Error>)> {
        self.sent.values().filter_map(|sent| Some((&sent.request.command, sent.first.as_ref()?)))
    }

    pub(crate) fn takes(&mut self, out: &Out, truths: &BTreeMap<Text, Truth>) {
        let live = !matches!(out, Out::Answer { .. } | Out::Reset { why: GAVE_WAY | LOST, .. });
        assert!(!(live && self.paused), "{} is paused and was sent {out:?}", self.name);
        match out {
            Out::Answer { re, result, .. } => self.answered(re, result, truths),
            Out::Event { event, .. } => self.event(event, truths),
            Out::Delta { session, message, block, at, text, .. } => {
                let view = self.views.get_mut(session).filter(|view| view.attached).expect("live text unasked for");
                let (said, whole) = view.blocks.entry((message.clone(), *block)).or_insert((String::new(), true));
                assert!(*at >= said.len() as u64, "live text came twice");
                assert!(*at == said.len() as u64 || view.lossy, "live text was skipped for no reason");
                *whole &= *at == said.len() as u64;
                if *whole {
                    said.push_str(text);
                }
            }
            Out::CaughtUp { session, .. } => {
                let view = self.views.get_mut(session).filter(|view| view.catching_up).expect("was not behind");
                view.catching_up = false;
                assert!(view.expected <= truths[session].safe);
            }
            Out::Reset { session, earliest, why, .. } => {
                let view = self.views.get_mut(session).filter(|view| view.attached).expect("was not attached");
                match *why {
                    GAVE_WAY => {}
                    LOST => assert!(truths[session].lost),
                    UNREAD => assert!(view.expected < truths[session].safe, "nothing was to be read"),
                    _ => assert!(earliest.offset > view.expected, "what it wants is still there"),
                }
                (view.attached, view.catching_up) = (false, false);
            }
            Out::Presence { session, devices, .. } => {
                let attached = self.views.get(session).is_some_and(|view| view.attached);
                assert!(attached && devices.iter().any(|device| device.device == self.name));
            }
            _ => {}
        }
    }

    fn event(&mut self, event: &Arc<Event>, truths: &BTreeMap<Text, Truth>) {
        let truth = &truths[&event.session];
        let view = self.views.get_mut(&event.session).filter(|view| view.attached).expect("event unasked for");
        assert_eq!(event.position.offset, view.expected, "{}: a gap or a double", self.name);
        assert!(event.position.offset < truth.safe, "shown before it was safe");
        assert_eq!(*event, truth.events[event.position.offset as usize], "not what the log has");
        view.expected += 1;
        match &event.kind {
            Kind::Permission(open) => view.requests.push(seen(open)),
            Kind::Text { message, block, text, .. } => {
                if let Some((said, true)) = view.blocks.remove(&(message.clone(), *block))
                    && !view.lossy
                {
                    assert_eq!(said, **text, "what was streamed is not what was said");
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, re: &Text, result: &Result<Reply, Error>, truths: &BTreeMap<Text, Truth>) {
        let peer = self.peer;
        let sent = self.sent.get_mut(re).expect("an answer to nothing");
        assert!(sent.open > 0, "{re} {:?} was answered twice", sent.request.command);
        assert_eq!(Some(sent.newest), peer, "the answer went to an old connection");
        // A repeat that came while the first was in flight shares its answer, unless its key had lost the right by then.
        sent.open = if result.as_ref().is_err_and(is_lost) { sent.open - 1 } else { 0 };
        sent.answers += 1;
        let kept = |answer: &Result<Reply, Error>| {
            answer.as_ref().map_or_else(|error| error.code == Code::AlreadyDecided, |_| true)
        };
        let attach = matches!(sent.request.command, Command::Attach { .. } | Command::List { .. });
        if let Some(first) = sent.first.as_ref().filter(|first| kept(first) && !attach) {
            assert!(first == result || result.as_ref().is_err_and(is_lost), "a repeat got another answer: {result:?}");
        } else {
            sent.first = Some(result.clone());
        }
        if let (Command::Attach { session, .. } | Command::Detach { session }, Ok(_)) = (&sent.request.command, result)
        {
            let turn = re.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap();
            let before = std::mem::replace(&mut self.views.entry(session.clone()).or_default().turn, turn);
            assert!(before < turn, "{re} was answered after what was sent later");
        }
        let Command::Attach { session, from, .. } = sent.request.command.clone() else {
            match (&sent.request.command, result) {
                (Command::Detach { session }, Ok(_)) => {
                    self.views.entry(session.clone()).or_default().attached = false;
                }
                (Command::History { session, before, bytes }, result) => {
                    check_history(before, *bytes, result, &truths[session]);
                }
                _ => {}
            }
            return;
        };
        match result {
            Ok(Reply::Attached { snapshot, events, earliest, next }) => {
                let view = self.views.entry(session.clone()).or_default();
                view.admitted(from.as_ref(), snapshot, events, earliest, next, &truths[&session]);
                view.lossy |= self.paused;
            }
            Ok(other) => panic!("{other:?} to attach"),
            Err(error) => assert!(
                matches!(error.code, Code::CannotResume | Code::NotFound | Code::Limit | Code::Internal)
                    || is_lost(error),
                "{error:?}"
            ),
        }
    }
}

impl View {
    fn admitted(
        &mut self,
        from: Option<&Position>,
        snapshot: &Snapshot,
        events: &[Arc<Event>],
        earliest: &Position,
        next: &Position,
        truth: &Truth,
    ) {
        let as_of = snapshot.summary.next.offset;
        assert!(as_of <= truth.safe, "the snapshot shows what is not safe");
        assert!(earliest.offset <= next.offset);
        (self.attached, self.expected, self.epoch) = (true, next.offset, next.epoch.clone());
        self.catching_up = from.is_some();
        self.lossy = from.is_some();
        self.blocks.clear();
        if let Some(from) = from {
            assert!(events.is_empty() && from == next);
        } else {
            assert_eq!(as_of, next.offset);
            let first = next.offset - events.len() as u64;
            assert_eq!(events, &truth.events[first as usize..next.offset as usize]);
        }
        let blocks = snapshot.turn.iter().flat_map(|turn| &turn.blocks);
        self.blocks.extend(blocks.map(|b| ((b.message.clone(), b.block), (b.text.clone(), true))));
        self.requests.extend(snapshot.permissions.iter().map(seen));
        check_snapshot(snapshot, &truth.events[..as_of as usize]);
    }
}

/// What a device is given of the past is what the log has, right before the position, and never nothing for no reason.
fn check_history(before: &Position, bytes: Option<u64>, result: &Result<Reply, Error>, truth: &Truth) {
    match result {
        Ok(Reply::History { events, earliest }) => {
            let first = before.offset - events.len() as u64;
            assert_eq!(events, &truth.events[first as usize..before.offset as usize]);
            assert!(!events.is_empty() || earliest.offset == before.offset, "nothing of what is there");
            let bulk: usize = events.iter().map(|event| event.bulk()).sum();
            assert!(events.len() == 1 || bytes.is_none_or(|bytes| bulk as u64 <= bytes));
        }
        Ok(other) => panic!("{other:?} to history"),
        Err(error) => assert!(
            matches!(error.code, Code::CannotResume | Code::NotFound | Code::Limit | Code::Internal) || is_lost(error),
            "{error:?}"
        ),
    }
}

/// A request, and the hash of what is to be seen of it.
fn seen(open: &OpenPermission) -> (Text, Text) {
    let Input::Whole(input) = &open.input else { panic!("{open:?}") };
    let hash = Text::from(shown::hash::<serde_json::Value>(&input.read().unwrap()).expect("a hash"));
    assert_eq!(open.hash.as_ref(), Some(&hash));
    (open.request.clone(), hash)
}

/// The snapshot is what the log up to its position says.
fn check_snapshot(snapshot: &Snapshot, log: &[Arc<Event>]) {
    let (mut open, mut prompts, mut state) = (BTreeSet::new(), BTreeMap::new(), None);
    for event in log {
        match &event.kind {
            Kind::Permission(asked) => drop(open.insert(asked.request.clone())),
            Kind::Decision { request, .. } | Kind::PermissionClosed { request, .. } => drop(open.remove(request)),
            Kind::PromptState { prompt, state, .. } => {
                use amp_relay::relay::api::PromptState::{Queued, Running};
                if matches!(state, Queued | Running) {
                    prompts.insert(prompt.clone(), *state);
                } else {
                    prompts.remove(prompt);
                }
            }
            Kind::State { state: now, .. } => state = Some(*now),
            _ => {}
        }
    }
    let shown: BTreeSet<Text> = snapshot.permissions.iter().map(|open| open.request.clone()).collect();
    assert_eq!(shown, open, "open requests");
    assert_eq!(snapshot.summary.waiting, open.len());
    let shown: BTreeMap<Text, _> = snapshot.queue.iter().map(|p| (p.prompt.clone(), p.state)).collect();
    assert_eq!(shown, prompts, "prompts that wait or run");
    assert_eq!(Some(snapshot.summary.state), state, "state");
}
