//! That a client at its defaults, which takes messages of 1 MiB, gets everything: whatever the texts hold that the CLI,
//! people and keys files set, nothing that the relay sends is longer than `docs/protocols/session.md` says.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    Device,
    device::text,
    relay::shell,
    standin::{Scene, says},
};
use amp_relay::{
    base::{ConnToken, Json, Now},
    claude::{self, Block, LoginState, Permission},
    dialect::session,
    relay::{
        Role,
        api::{
            By, Caller, Command, DeviceInfo, Error, Input, OpenPermission, Out, Position, PromptState, QueuedPrompt,
            Reply, Request, RunningTurn, Snapshot, State, Summary, Text, TurnBlock, When, bulk::MESSAGE_BYTES_MAX,
        },
        hub::{Create, Hub, Profiles, Resolved},
        session::{Ids, Settings},
    },
    store::{Limits, MemoryStore},
};
use proptest::prelude::*;
use serde_json::{Value, json};

struct Given(u64);

impl Ids for Given {
    fn uuid(&mut self) -> Text {
        self.0 += 1;
        format!("00000000-0000-4000-8000-{:012}", self.0).into()
    }

    fn epoch(&mut self) -> Text {
        "e".repeat(22).into()
    }

    fn did(&mut self) -> Text {
        format!("did:key:z{}", "6".repeat(47)).into()
    }

    fn forget(&mut self, _: &str) {}
}

impl Profiles for Given {
    fn resolve(
        &self,
        _: &str,
        folder: Option<&Path>,
        model: Option<&str>,
        mode: Option<&str>,
        _: bool,
    ) -> Result<Resolved, Error> {
        let folder = folder.unwrap_or(Path::new("/")).to_owned();
        Ok(Resolved { folder, model: model.map(Text::from), mode: mode.map(Text::from) })
    }
}

/// What fills a text: how often is drawn, so that all lengths around the bounds come up.
#[derive(Clone, Debug)]
struct Filler(&'static str, usize);

impl Filler {
    fn text(&self) -> Text {
        self.0.repeat(self.1).into()
    }

    /// As one line of at most so many bytes, which is how a label reaches the core.
    fn line(&self, bytes: usize) -> Text {
        let piece: String = self.0.chars().filter(|c| !c.is_control()).collect();
        if piece.is_empty() { "\"".repeat(bytes).into() } else { piece.repeat(bytes / piece.len()).into() }
    }

    fn json(&self) -> Json {
        Json::of(&json!({ "command": &*self.text() })).expect("JSON")
    }
}

fn filler(longest: usize) -> impl Strategy<Value = Filler> {
    let piece = prop::sample::select(vec!["x", "\"", "\\", "\u{1}", "\n", "é", "🙂", "\u{2028}", "a\u{7f}\"\u{0}"]);
    (piece, 0..longest).prop_map(|(piece, bytes)| Filler(piece, bytes / piece.len()))
}

#[derive(Clone, Debug)]
enum Step {
    Says(Filler),
    Thinks(Filler),
    Streams(Filler, u32),
    Calls(Filler),
    Gives(Filler),
    Asks(Filler, Filler, bool),
    Notes(Filler),
    Raw(Filler),
    Prompt(Filler),
    Attach(Filler, u64),
    History(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        filler(2_000_000).prop_map(Step::Says),
        filler(2_000_000).prop_map(Step::Thinks),
        (filler(700_000), 0u32..40).prop_map(|(text, block)| Step::Streams(text, block)),
        filler(600_000).prop_map(Step::Calls),
        filler(600_000).prop_map(Step::Gives),
        (filler(400_000), filler(400_000), any::<bool>()).prop_map(|(input, more, asks)| Step::Asks(input, more, asks)),
        filler(2_000_000).prop_map(Step::Notes),
        filler(600_000).prop_map(Step::Raw),
        filler(600_000).prop_map(Step::Prompt),
        (filler(300), 0u64..3_000_000).prop_map(|(name, bytes)| Step::Attach(name, bytes)),
        (0u64..3_000_000).prop_map(Step::History),
    ]
}

struct Stage {
    hub: Hub,
    ids: u32,
    /// The most that a snapshot was reckoned to take, and what of that could not have been cut.
    fullest: (usize, usize),
}

impl Stage {
    fn new() -> Self {
        let store = MemoryStore::new(Limits::default());
        let hub = Hub::new(Settings::default(), Box::new(store), Box::new(Given(0)), Box::new(Given(0)));
        let mut stage = Self { hub, ids: 0, fullest: (0, 0) };
        let folder = Some(PathBuf::from(format!("/{}", "\"\u{1}".repeat(2000))));
        let title = Some("\"".repeat(256).into());
        stage
            .hub
            .create(Create { profile: "default".into(), folder, title, ..Create::default() }, now())
            .expect("made");
        stage.says(claude::Event::Ready { version: None, login: LoginState::Present, mode: None });
        stage
    }

    fn session(&self) -> Text {
        self.hub.summaries()[0].session.clone()
    }

    fn says(&mut self, event: claude::Event) {
        let session = self.session();
        self.hub.agent(&session, 1, event, now());
        self.read();
    }

    fn ask(&mut self, caller: &Caller, command: Command) {
        self.ids += 1;
        self.hub.request(caller, Request { id: self.ids.to_string().into(), command }, now());
        self.read();
    }

    /// Writes whatever is for devices as they get it.
    fn read(&mut self) {
        self.hub.timeout(now());
        while let Some(out) = self.hub.poll() {
            let message = match &out {
                Out::Answer { re, result: Ok(reply), .. } => session::reply(re, reply),
                Out::Answer { re, result: Err(error), .. } => session::error(Some(re), error),
                Out::Event { event, .. } => session::event(event),
                Out::Delta { session: of, message, block, kind, at, text, .. } => {
                    session::delta(of, message, (*block, *kind), *at, text)
                }
                Out::Presence { session: of, devices, .. } => session::presence(of, devices),
                Out::Changed { summary, .. } => session::summary_changed(summary),
                _ => continue,
            };
            assert!(message.len() <= MESSAGE_BYTES_MAX, "{} bytes: {:.200}", message.len(), message);
            if let Out::Answer { result: Ok(Reply::Attached { snapshot, events, .. }), .. } = &out {
                let bulk = snapshot.bulk();
                let reckoned = 1024 + bulk + events.iter().map(|event| event.bulk()).sum::<usize>();
                assert!(message.len() <= reckoned, "{} bytes are more than {reckoned}", message.len());
                self.fullest = self.fullest.max((bulk, least(snapshot)));
            }
            if let Out::Event { event, .. } = &out {
                assert!(message.len() <= event.bulk(), "{} bytes are more than {}", message.len(), event.bulk());
            }
        }
    }

    fn step(&mut self, number: usize, step: Step) {
        let session = self.session();
        let id: Text = format!("{number}").into();
        match step {
            Step::Says(text) => self.says(block_of(&id, Block::Text, &text)),
            Step::Thinks(text) => self.says(block_of(&text.line(256), Block::Thinking, &text)),
            Step::Streams(text, block) => {
                let (message, text) = ("m".into(), text.text());
                self.says(claude::Event::Delta { message, block, kind: Block::Text, text });
            }
            Step::Calls(text) => {
                let (call, tool) = (text.line(256), text.line(256));
                self.says(claude::Event::ToolCall { parent: Some(call.clone()), call, tool, input: text.json() });
            }
            Step::Gives(text) => {
                self.says(claude::Event::ToolResult { call: text.line(256), ok: true, text: text.text() });
            }
            Step::Asks(input, more, asks) => self.says(claude::Event::Permission(asking(&id, &input, &more, asks))),
            Step::Notes(text) => self.says(claude::Event::Notice { level: "error", text: text.text() }),
            Step::Raw(text) => self.says(claude::Event::Raw(text.json())),
            Step::Prompt(text) => {
                let text = text.text();
                self.ask(
                    &caller(number as u32, &Filler("\"", 300)),
                    Command::Prompt { session, text, when: When::Next },
                );
            }
            Step::Attach(name, bytes) => {
                let device = caller(number as u32, &name);
                self.ask(&device, Command::Attach { session, from: None, tail_bytes: Some(bytes) });
            }
            Step::History(bytes) => {
                let before = self.hub.summaries()[0].next.clone();
                self.ask(&caller(0, &Filler("x", 9)), Command::History { session, before, bytes: Some(bytes) });
            }
        }
    }
}

/// What a snapshot takes without all that it can do without.
fn least(snapshot: &Snapshot) -> usize {
    let mut least = snapshot.clone();
    for open in &mut least.permissions {
        (open.about, open.questions, open.suggestions) = ("".into(), None, None);
    }
    for device in &mut least.devices {
        device.comment = "".into();
    }
    for prompt in &mut least.queue {
        prompt.text = "".into();
    }
    least.turn.iter_mut().for_each(|turn| turn.blocks.clear());
    least.bulk()
}

fn now() -> Now {
    Now { mono_ms: 1000, unix_ms: 1_700_000_000_000 }
}

fn block_of(message: &Text, kind: Block, text: &Filler) -> claude::Event {
    claude::Event::Text { message: message.clone(), block: 0, kind, text: text.text(), parent: Some(text.line(256)) }
}

fn asking(id: &Text, input: &Filler, more: &Filler, asks: bool) -> Permission {
    Permission {
        request: format!("{}{id}", "r".repeat(60 - id.len())).into(),
        call: Some(more.line(256)),
        tool: more.line(256),
        input: input.json(),
        unseen: None,
        about: more.text(),
        suggestions: Some(more.json()),
        questions: asks.then(|| more.json()),
        default_to_no: true,
        no_always: false,
        needs_interaction: true,
    }
}

fn caller(slot: u32, name: &Filler) -> Caller {
    let (name, comment) = (name.line(256), name.line(1024));
    let id: Text = format!("d{slot}").into();
    Caller {
        peer: ConnToken::new(0, slot, 1),
        // A key for each: all of them together have more places than one.
        principal: format!("SHA256:{slot:p>43}").into(),
        comment,
        role: Role::Admin,
        granted: Role::Admin,
        client: id.clone(),
        device: id,
        kind: "\"".repeat(64).into(),
        name,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn c5_no_message_is_longer_than_a_client_takes(steps in prop::collection::vec(step(), 1..40)) {
        let mut stage = Stage::new();
        for (number, step) in steps.into_iter().enumerate() {
            stage.step(number + 1, step);
        }
        stage.step(100, Step::Attach(Filler("\"", 256), 3_000_000));
    }
}

/// A snapshot in which every text is this one, those too that the relay makes itself.
fn of_one_text(text: &Text, json: &Json, whole: bool) -> Snapshot {
    let one = || text.clone();
    let by = By { device: one(), principal: one(), comment: one() };
    let request = OpenPermission {
        request: one(),
        call: Some(one()),
        tool: one(),
        input: if whole { Input::Whole(json.clone()) } else { Input::Large { bytes: u64::MAX, blob: one() } },
        hash: whole.then(one),
        deny_why: (!whole).then(one),
        about: one(),
        suggestions: Some(json.clone()),
        questions: Some(json.clone()),
        default_to_no: true,
        no_always: true,
        needs_interaction: true,
    };
    let device = DeviceInfo {
        device: one(),
        name: one(),
        principal: one(),
        comment: one(),
        kind: one(),
        role: Role::Approve,
        since: u64::MAX,
    };
    let block =
        TurnBlock { message: one(), block: u32::MAX, kind: Block::Thinking, text: text.to_string(), bytes: u64::MAX };
    Snapshot {
        summary: Summary {
            session: one(),
            did: one(),
            title: one(),
            profile: one(),
            folder: PathBuf::from(&**text),
            state: State::Retrying,
            since: u64::MAX,
            why: Some(one()),
            waiting: usize::MAX,
            model: Some(one()),
            mode: Some(one()),
            created_at: u64::MAX,
            active_at: u64::MAX,
            cost_usd: 1.0 / 3.0,
            devices: usize::MAX,
            next: Position { epoch: one(), offset: u64::MAX },
        },
        turn: Some(RunningTurn { prompts: vec![one(); 2], since: u64::MAX, blocks: vec![block; 2] }),
        queue: vec![QueuedPrompt { prompt: one(), text: one(), by: Some(by), state: PromptState::Cancelled }; 2],
        permissions: vec![request; 2],
        devices: vec![device; 2],
        notice: Some(one()),
    }
}

proptest! {
    #[test]
    fn c5_every_text_of_a_snapshot_is_reckoned(filler in filler(2_000), whole: bool) {
        let snapshot = of_one_text(&filler.text(), &filler.json(), whole);
        let bulk = snapshot.bulk();
        let next = Position { epoch: "e".into(), offset: u64::MAX };
        let reply =
            Reply::Attached { snapshot: Box::new(snapshot), events: Vec::new(), earliest: next.clone(), next };
        let bytes = session::reply("r", &reply).len();
        prop_assert!(bytes <= bulk + 256, "{bytes} bytes are more than {bulk}");
    }
}

/// All that a snapshot holds at its most: 256 requests, 256 devices, 64 prompts, a turn. What may be cut is cut, and what
/// may not takes nearly all of the message.
#[test]
fn c5_the_largest_snapshot_fits() {
    let quotes = |bytes| Filler("\"", bytes);
    let mut stage = Stage::new();
    // Most of them come while there is little to send them.
    for number in 0..250 {
        stage.step(2_000 + number, Step::Attach(Filler("\"", 9), 0));
    }
    for number in 0..70 {
        stage.step(number, Step::Prompt(quotes(12_000)));
    }
    for block in 0..500 {
        stage.step(1, Step::Streams(quotes(2_000), block));
    }
    for number in 0..260 {
        let (input, more) = (if number < 2 { quotes(60_000) } else { quotes(1_000) }, quotes(4_000));
        stage.step(1_000 + number, Step::Asks(input, more, true));
    }
    for number in 250..260 {
        stage.step(2_000 + number, Step::Attach(Filler("\"", 9), 3_000_000));
    }
    let (bulk, least) = stage.fullest;
    // Some room is kept for marks that are not needed then, and what is smaller than a text that finds none stays free.
    assert!(bulk > MESSAGE_BYTES_MAX - 40_000 && least > 9 * MESSAGE_BYTES_MAX / 10, "{bulk} {least}");
}

#[test]
fn a_client_that_takes_one_mebibyte_comes_back_to_what_was_said() {
    let mut scene = Scene::new();
    let session = scene.session.clone();
    for (said, number) in [("\"", 600_000), ("x", 1_100_000), ("\u{1}", 600_000)].map(|(one, n)| (one.repeat(n), n)) {
        scene.standin.write("said", &format!("{}\n", says(&format!("m{number}"), &said)));
        scene.standin.does("say", &["@cat said".into()]);
        let prompt = scene.laptop.prompt(&session, "say it");
        scene.laptop.turn(&session, &prompt);
        let event = scene.laptop.events_of(&session, "text").pop().expect("a text");
        let (text, mark) = text(&event["text"]).split_once("\n[cut: ").expect("a mark");
        assert!(said.starts_with(text) && mark == format!("{number} bytes in all]"), "{mark}");
    }
    scene.laptop.idle(&session);
    let mut phone = Device::connect(&scene.relay, &scene.owner, "phone");
    let from = json!({"epoch": scene.laptop.events(&session)[0]["epoch"], "offset": 0});
    // The log may have dropped its oldest events: whatever it still has comes.
    let attached = phone.command("attach", json!({"session": session, "from": from}));
    if let Err(error) = attached {
        let from = error["details"]["earliest"].clone();
        phone.ok("attach", json!({"session": session, "from": from}));
    }
    phone.wait("all of it", |message| message["type"] == "caught_up");
    assert_eq!(phone.gapless(&session).last(), scene.laptop.gapless(&session).last());
    let before = phone.events(&session).last().expect("an event")["offset"].as_u64().map(|offset| offset + 1);
    let before = json!({"epoch": from["epoch"], "offset": before});
    let reply = phone.ok("history", json!({"session": session, "before": before, "bytes": 1 << 20}));
    assert!(!reply["events"].as_array().expect("events").is_empty());
}

#[test]
fn a_client_that_takes_one_mebibyte_attaches_in_the_middle_of_a_turn() {
    let mut scene = Scene::new();
    let session = scene.session.clone();
    let streamed = "\"".repeat(1_050_000);
    let stream = |event: Value| json!({"type": "stream_event", "event": event}).to_string();
    let lines = [
        stream(json!({"type": "message_start", "message": {"id": "long"}})),
        stream(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text"}})),
        stream(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": streamed}})),
    ];
    scene.standin.write("streamed", &(lines.join("\n") + "\n"));
    scene.standin.does("long", &["@cat streamed".into(), "@until go".into(), says("long", &streamed)]);
    let prompt = scene.laptop.prompt(&session, "long");
    scene.laptop.wait_for("all of the stream", |laptop| {
        let streamed = laptop.streamed(&session);
        streamed.values().any(|text| text.len() == 1_050_000).then_some(())
    });
    let waits = "\"".repeat(390_000);
    scene.laptop.prompt(&session, &waits);
    let mut phone = Device::connect(&scene.relay, &scene.owner, "phone");
    let snapshot = phone.attach(&session)["snapshot"].clone();
    let block = &snapshot["turn"]["blocks"][0];
    assert_eq!((block["message"].as_str(), block["bytes"].as_u64()), (Some("long"), Some(1_050_000)));
    let kept = text(&block["text"]);
    assert!(!kept.is_empty() && kept.len() < streamed.len() && streamed.starts_with(kept));
    let queued = snapshot["queue"].as_array().expect("prompts").iter().map(|prompt| text(&prompt["text"]));
    let queued: Vec<_> = queued.collect();
    assert_eq!(queued[0], "long");
    assert!(queued[1] == waits || queued[1].ends_with("\n[cut: 390000 bytes in all]"));
    fs::write(scene.relay.scratch.project().join(".standin/go"), "").expect("a file");
    phone.turn(&session, &prompt);
}

#[test]
fn a_prompt_that_no_event_could_hold_is_refused_with_its_bound() {
    let mut scene = Scene::new();
    let session = scene.session.clone();
    let text = "\"".repeat(450_000);
    let error = scene.laptop.command("prompt", json!({"session": session, "text": text})).expect_err("too long");
    assert_eq!(error["code"], "TOO_LARGE");
    assert!(error["message"].as_str().is_some_and(|why| why.contains("786432 bytes")), "{error}");
}

#[test]
fn a_line_that_no_message_holds_is_said_and_the_next_one_is_sent_on_the_same_connection() {
    let scene = Scene::new();
    scene.standin.does("short", &[says("m", "done")]);
    let most = 1 << 20;
    let long = "x".repeat(most);
    let ran = shell(&scene.relay.scratch, &scene.attach(), &format!("{long}\nshort\n"));
    assert!(ran.status.code() == Some(1) && ran.out == "done\n", "{ran:?}");
    let says_why = ran.err.contains(&format!("a message has at most {most}"));
    assert!(says_why && !ran.err.contains("connected again"), "{ran:?}");
}
