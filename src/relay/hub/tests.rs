//! Goal: each promise of the hub that a simulation does not single out. Method: one hub, a fake profile, counted ids,
//! and every output looked at.

mod bounds;
mod deaths;
mod joining;
pub(in crate::relay) mod keys;
mod lag;
mod list;
mod live;
mod permissions;
pub(in crate::relay) mod stop;
mod store;
mod turns;

use super::*;
use crate::{
    base::Json,
    claude::{Block, Command as Say, LoginState, Permission},
    relay::{
        Role,
        api::{Decision, Details, End, Input, Kind, Outcome, Position, PromptState, Ran, When},
    },
    store::{Limits, MemoryStore},
    wire::shown,
};

/// A folder for admins alone.
const ADMINS: &str = "/admins";

struct Fake(u64);

impl Ids for Fake {
    fn uuid(&mut self) -> Text {
        self.0 += 1;
        format!("id{}", self.0).into()
    }

    fn epoch(&mut self) -> Text {
        "epoch".into()
    }

    fn did(&mut self) -> Text {
        "did".into()
    }

    fn forget(&mut self, _: &str) {}
}

impl Profiles for Fake {
    fn resolve(
        &self,
        profile: &str,
        folder: Option<&Path>,
        model: Option<&str>,
        mode: Option<&str>,
        admin: bool,
    ) -> Result<Resolved, Error> {
        if profile != "default" {
            return Err(Error::new(Code::NotFound, "no such profile"));
        }
        if folder == Some(Path::new(ADMINS)) && !admin {
            return Err(Error::new(Code::Forbidden, "not for this role"));
        }
        let folder = folder.unwrap_or(Path::new("/home/project")).to_owned();
        Ok(Resolved { folder, model: model.map(Text::from), mode: mode.map(Text::from) })
    }
}

pub(in crate::relay) struct Bench {
    pub(in crate::relay) hub: Hub,
    pub(in crate::relay) now: Now,
    ids: u32,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let store = MemoryStore::new(Limits::default());
        let hub = Hub::new(settings, Box::new(store), Box::new(Fake(0)), Box::new(Fake(0)));
        Self { hub, now: Now { mono_ms: 0, unix_ms: 1_000 }, ids: 0 }
    }

    /// A session that is ready; its id is `id1`.
    pub(in crate::relay) fn ready(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        bench.hub.create(Create { profile: "default".into(), ..Create::default() }, bench.now).unwrap();
        bench.says(1, ready(LoginState::Present));
        bench.outs();
        bench
    }

    fn outs(&mut self) -> Vec<Out> {
        std::iter::from_fn(|| self.hub.poll()).collect()
    }

    pub(in crate::relay) fn says(&mut self, process: u64, event: claude::Event) {
        self.hub.agent("id1", process, event, self.now);
    }

    fn ask(&mut self, caller: &Caller, command: Command) -> Vec<Out> {
        self.ids += 1;
        self.hub.request(caller, Request { id: self.ids.to_string().into(), command }, self.now);
        self.outs()
    }

    fn answer(&mut self, caller: &Caller, command: Command) -> Result<Reply, Error> {
        answer(&self.ask(caller, command)).expect("an answer at once")
    }

    fn pass(&mut self, ms: u64) -> Vec<Out> {
        self.now = self.now.plus_ms(ms);
        self.hub.timeout(self.now);
        self.outs()
    }

    fn state(&self) -> State {
        self.hub.summaries()[0].state
    }
}

fn answer(outs: &[Out]) -> Option<Result<Reply, Error>> {
    outs.iter().find_map(|out| match out {
        Out::Answer { result, .. } => Some(result.clone()),
        _ => None,
    })
}

fn kinds(outs: &[Out]) -> Vec<&Kind> {
    outs.iter().filter_map(|out| if let Out::Event { event, .. } = out { Some(&event.kind) } else { None }).collect()
}

fn writes(outs: &[Out]) -> Vec<&Say> {
    outs.iter().filter_map(|out| if let Out::Write { command, .. } = out { Some(command) } else { None }).collect()
}

fn ends(outs: &[Out]) -> Vec<End> {
    let end = |out: &Out| if let Out::End { how, .. } = out { Some(*how) } else { None };
    outs.iter().filter_map(end).collect()
}

fn caller(slot: u32, role: Role) -> Caller {
    Caller::sample("SHA256:a", slot, role)
}

fn ready(login: LoginState) -> claude::Event {
    claude::Event::Ready { version: None, login, mode: None }
}

fn prompt(text: &str) -> Command {
    Command::Prompt { session: "id1".into(), text: text.into(), when: When::Next }
}

fn attach() -> Command {
    Command::Attach { session: "id1".into(), from: None, tail_bytes: None }
}

fn stop(now: bool) -> Command {
    Command::Stop { session: "id1".into(), now }
}

pub(in crate::relay) fn asks(request: &str, questions: Option<Json>) -> claude::Event {
    claude::Event::Permission(Permission {
        request: request.into(),
        call: Some("call".into()),
        tool: "Bash".into(),
        input: Json::parse(r#"{"b":1,"a":2}"#).unwrap(),
        unseen: None,
        about: "about".into(),
        suggestions: None,
        questions,
        default_to_no: false,
        no_always: false,
        needs_interaction: false,
    })
}

/// The hash of an input.
fn hash(input: &str) -> Text {
    shown::hash::<serde_json::Value>(&serde_json::from_str(input).unwrap()).expect("a hash").into()
}

fn decide(request: &str, decision: Decision, input: Option<&str>, answers: Option<&str>) -> Command {
    let json = |text: &str| Json::parse(text).unwrap();
    let (session, request, message) = ("id1".into(), request.into(), None);
    let shown = (decision == Decision::Allow).then(|| hash(r#"{"a":2,"b":1}"#));
    Command::Decide { session, request, decision, shown, message, input: input.map(json), answers: answers.map(json) }
}

#[test]
fn the_role_is_checked_before_anything_that_is_named() {
    let mut bench = Bench::ready(Settings::default());
    let code = |bench: &mut Bench, role, command| bench.answer(&caller(1, role), command).unwrap_err().code;
    let nowhere = Command::Attach { session: "no".into(), from: None, tail_bytes: None };
    assert_eq!(code(&mut bench, Role::Agent, nowhere.clone()), Code::Forbidden);
    assert_eq!(code(&mut bench, Role::Watch, nowhere), Code::NotFound);
    assert_eq!(code(&mut bench, Role::Watch, prompt("x")), Code::Forbidden);
    assert_eq!(code(&mut bench, Role::Drive, decide("r", Decision::Deny, None, None)), Code::Forbidden);
    assert_eq!(code(&mut bench, Role::Approve, decide("r", Decision::Deny, None, None)), Code::NotFound);
    assert_eq!(code(&mut bench, Role::Approve, stop(true)), Code::Forbidden);
}

#[test]
fn a_prompt_needs_a_text_a_place_and_an_account() {
    let mut bench = Bench::ready(Settings { prompts_max: 4, prompt_bytes_max: 10, ..Settings::default() });
    let drive = caller(1, Role::Drive);
    let code = |bench: &mut Bench, text| bench.answer(&drive, prompt(text)).map_err(|error| error.code);
    assert_eq!(code(&mut bench, " \n"), Err(Code::BadRequest));
    assert_eq!(code(&mut bench, "more than ten"), Err(Code::TooLarge));
    assert!(code(&mut bench, "12345").is_ok());
    assert_eq!(code(&mut bench, "123456"), Err(Code::Limit));
    assert!(code(&mut bench, "1").is_ok());
    assert_eq!(code(&mut bench, "1"), Err(Code::Limit));

    let mut bench = Bench::new(Settings::default());
    bench.hub.create(Create { profile: "default".into(), ..Create::default() }, bench.now).unwrap();
    bench.says(1, ready(LoginState::Missing));
    bench.outs();
    assert_eq!(code(&mut bench, "x"), Err(Code::AgentLoginNeeded));
}

#[test]
fn an_allowance_carries_the_input_and_the_answers() {
    let mut bench = Bench::ready(Settings::default());
    let approve = caller(1, Role::Approve);
    let questions = Json::parse("[]").unwrap();
    for request in ["r1", "r2", "r3"] {
        bench.says(1, asks(request, (request == "r3").then(|| questions.clone())));
    }
    assert_eq!((bench.state(), bench.hub.summaries()[0].waiting), (State::Waiting, 3));
    let allowed = |outs: &[Out]| match &writes(outs)[..] {
        [Say::Allow { input, .. }] => input.as_str().to_owned(),
        other => panic!("{other:?}"),
    };
    let outs = bench.ask(&approve, decide("r1", Decision::Allow, None, None));
    assert_eq!(allowed(&outs), r#"{"b":1,"a":2}"#);
    let bad = |bench: &mut Bench, input, answers| {
        bench.answer(&approve, decide("r2", Decision::Allow, input, answers)).unwrap_err().code
    };
    assert_eq!(bad(&mut bench, Some("5"), None), Code::BadRequest);
    assert_eq!(bad(&mut bench, None, Some("{}")), Code::BadRequest);
    let outs = bench.ask(&approve, decide("r2", Decision::Allow, Some(r#"{"c":3}"#), None));
    assert_eq!(allowed(&outs), r#"{"c":3}"#);
    let outs = bench.ask(&approve, decide("r3", Decision::Allow, None, Some(r#"{"Q":"A"}"#)));
    assert_eq!(allowed(&outs), r#"{"b":1,"a":2,"answers":{"Q":"A"}}"#);
    let late = bench.answer(&caller(2, Role::Admin), decide("r3", Decision::Deny, None, None)).unwrap_err();
    assert_eq!((late.code, &*late.message), (Code::AlreadyDecided, "somebody has decided already"));
    assert!(matches!(late.details, Some(Details::Decided { by: Some(by), .. }) if &*by.device == "device1"));
}

#[test]
fn an_allowance_names_what_was_shown_and_nothing_else_runs() {
    let mut bench = Bench::ready(Settings::default());
    let approve = caller(1, Role::Approve);
    bench.says(1, asks("r", None));
    let allow = |shown: Option<Text>| match decide("r", Decision::Allow, None, None) {
        Command::Decide { session, request, decision, message, input, answers, .. } => {
            Command::Decide { session, request, decision, shown, message, input, answers }
        }
        other => other,
    };
    for wrong in [None, Some(hash("{}")), Some("".into())] {
        let error = bench.answer(&approve, allow(wrong)).unwrap_err();
        assert_eq!(error.code, Code::BadRequest, "{error:?}");
        assert_eq!(bench.state(), State::Waiting);
    }
    let outs = bench.ask(&approve, allow(Some(hash(r#"{"a":2,"b":1}"#))));
    assert!(matches!(writes(&outs)[..], [Say::Allow { .. }]));
}

#[test]
fn a_decision_tells_what_runs_and_what_it_replaced() {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(2, Role::Watch), attach()).unwrap();
    let approve = caller(1, Role::Approve);
    let decided = |outs: &[Out]| match kinds(outs).into_iter().find(|kind| matches!(kind, Kind::Decision { .. })) {
        Some(Kind::Decision { ran, message, .. }) => (ran.clone(), message.clone()),
        other => panic!("{other:?}"),
    };
    let (asked, other) = (r#"{"b":1,"a":2}"#, r#"{"c":3}"#);
    bench.says(1, asks("r1", None));
    let (ran, _) = decided(&bench.ask(&approve, decide("r1", Decision::Allow, None, None)));
    let plain = Ran { hash: hash(asked), input: None, replaced_hash: None, replaced: None, answers: None };
    assert_eq!(ran, Some(plain));
    bench.says(1, asks("r2", None));
    let (ran, _) = decided(&bench.ask(&approve, decide("r2", Decision::Allow, Some(other), None)));
    let json = |text: &str| Some(Json::parse(text).unwrap());
    let (replaced_hash, replaced) = (Some(hash(asked)), json(asked));
    assert_eq!(ran, Some(Ran { hash: hash(other), input: json(other), replaced_hash, replaced, answers: None }));
    bench.says(1, asks("r3", json("[]")));
    let (ran, _) = decided(&bench.ask(&approve, decide("r3", Decision::Allow, None, Some(r#"{"Q":"A"}"#))));
    let ran = ran.expect("it runs");
    assert_eq!((ran.answers, ran.hash), (json(r#"{"Q":"A"}"#), hash(r#"{"a":2,"answers":{"Q":"A"},"b":1}"#)));
    bench.says(1, asks("r4", None));
    let mut deny = decide("r4", Decision::Deny, None, None);
    if let Command::Decide { message, .. } = &mut deny {
        *message = Some("use rg".into());
    }
    assert_eq!(decided(&bench.ask(&approve, deny)), (None, Some("use rg".into())));
}

#[test]
fn a_large_input_is_fetched_before_it_can_be_allowed() {
    let mut bench = Bench::ready(Settings::default());
    let (watch, approve) = (caller(2, Role::Watch), caller(1, Role::Approve));
    bench.answer(&watch, attach()).unwrap();
    let input = format!(r#"{{"command":"{}"}}"#, "x".repeat(300 << 10));
    let claude::Event::Permission(mut asked) = asks("r", None) else { unreachable!() };
    asked.input = Json::parse(&input).unwrap();
    bench.says(1, claude::Event::Permission(asked));
    let outs = bench.outs();
    let [Kind::Permission(open), Kind::State { .. }] = kinds(&outs)[..] else { panic!("{outs:?}") };
    let Input::Large { bytes, blob } = &open.input else { panic!("{open:?}") };
    assert_eq!(*bytes, input.len() as u64);
    let mut fetched = Vec::new();
    while (fetched.len() as u64) < *bytes {
        let (blob, from) = (blob.clone(), fetched.len() as u64);
        let command = Command::Fetch { session: "id1".into(), blob, from, bytes: Some(u64::MAX) };
        let Ok(Reply::Fetched { data, total }) = bench.answer(&watch, command) else { panic!("not given") };
        assert!(total == *bytes && !data.is_empty() && data.len() <= 128 << 10, "{} of {total}", data.len());
        fetched.extend(data);
    }
    assert_eq!(fetched, input.as_bytes());
    let allow = |shown| Command::Decide {
        session: "id1".into(),
        request: "r".into(),
        decision: Decision::Allow,
        shown,
        message: None,
        input: None,
        answers: None,
    };
    assert_eq!(bench.answer(&approve, allow(None)).unwrap_err().code, Code::BadRequest);
    let outs = bench.ask(&approve, allow(Some(hash(&input))));
    assert!(matches!(&writes(&outs)[..], [Say::Allow { input: ran, .. }] if ran.as_str() == input));
    let gone = Command::Fetch { session: "id1".into(), blob: blob.clone(), from: 0, bytes: None };
    assert_eq!(bench.answer(&watch, gone).unwrap_err().code, Code::NotFound);
}

#[test]
fn what_cannot_be_shown_is_not_put_before_anybody() {
    let mut bench = Bench::ready(Settings::default());
    let approve = caller(1, Role::Approve);
    let ask = |bench: &mut Bench, change: &dyn Fn(&mut Permission)| {
        let claude::Event::Permission(mut asked) = asks("r", None) else { unreachable!() };
        change(&mut asked);
        bench.says(1, claude::Event::Permission(asked));
        bench.outs()
    };
    // Too large, or under a name that no answer could carry: denied here, and said.
    for change in [
        &(|asked: &mut Permission| asked.input = Json::of(&"x".repeat(9 << 20)).unwrap()) as &dyn Fn(&mut Permission),
        &|asked: &mut Permission| asked.request = "no id\n".into(),
    ] {
        let outs = ask(&mut bench, change);
        assert!(matches!(writes(&outs)[..], [Say::Deny { .. }]), "{outs:?}");
        assert_eq!(bench.state(), State::Ready);
    }
    // Nested too deep: shown as far as it can be, and never allowed.
    for (change, why) in [
        (&(|asked: &mut Permission| asked.unseen = Some("it is deep")) as &dyn Fn(&mut Permission), "it is deep"),
        (&|asked: &mut Permission| asked.about = "x".repeat(5 << 10).into(), "said about it is too long"),
    ] {
        let mut bench = Bench::ready(Settings::default());
        ask(&mut bench, change);
        let error = bench.answer(&approve, decide("r", Decision::Allow, None, None)).unwrap_err();
        assert_eq!((error.code, bench.state()), (Code::BadRequest, State::Waiting));
        assert!(error.message.contains(why), "{error:?}");
        assert!(bench.answer(&approve, decide("r", Decision::Deny, None, None)).is_ok());
    }
}

#[test]
fn the_past_is_read_in_parts_without_a_gap() {
    let mut bench = Bench::ready(Settings::default());
    let watch = caller(1, Role::Watch);
    for n in 0..20 {
        bench.says(1, claude::Event::Notice { level: "info", text: format!("{n} {}", "x".repeat(n * 50)).into() });
    }
    let none = Command::Attach { session: "id1".into(), from: None, tail_bytes: Some(0) };
    let Reply::Attached { events, next, .. } = bench.answer(&watch, none).unwrap() else { panic!() };
    assert_eq!(events.len(), 0);
    let (mut before, mut seen) = (next.clone(), next.offset);
    while seen > 0 {
        let command = Command::History { session: "id1".into(), before: before.clone(), bytes: Some(700) };
        let Ok(Reply::History { events, earliest }) = bench.answer(&watch, command) else { panic!("no answer") };
        assert_eq!(earliest.offset, 0);
        let last = events.last().expect("at least one");
        assert_eq!(last.position.offset + 1, seen, "no gap");
        before = events[0].position.clone();
        seen = before.offset;
    }
    let elsewhere = Position { epoch: "other".into(), offset: 1 };
    let command = Command::History { session: "id1".into(), before: elsewhere, bytes: None };
    assert_eq!(bench.answer(&watch, command).unwrap_err().code, Code::CannotResume);
}

#[test]
fn a_late_device_has_the_text_so_far_and_the_rest() {
    let mut bench = Bench::ready(Settings::default());
    let watch = caller(1, Role::Watch);
    bench.answer(&caller(2, Role::Drive), prompt("x")).unwrap();
    let delta =
        |text: &str| claude::Event::Delta { message: "m".into(), block: 0, kind: Block::Text, text: text.into() };
    bench.says(1, delta("añ"));
    let Reply::Attached { snapshot, .. } = bench.answer(&watch, attach()).unwrap() else { panic!() };
    let turn = snapshot.turn.unwrap();
    assert_eq!((turn.prompts.len(), &*turn.blocks[0].text), (1, "añ"));
    bench.says(1, delta("b"));
    bench.says(1, delta("c"));
    let Some(Out::Delta { at: 3, text, .. }) = bench.outs().pop() else { panic!() };
    assert_eq!(&*text, "bc", "neighbours grow together");
    bench.says(
        1,
        claude::Event::ToolCall {
            call: "c".into(),
            tool: "Bash".into(),
            input: Json::of(&"x".repeat(300 << 10)).unwrap(),
            parent: None,
        },
    );
    bench.says(1, claude::Event::ToolResult { call: "c".into(), ok: true, text: "y".repeat(9000).into() });
    let outs = bench.outs();
    let [Kind::ToolCall { input, .. }, Kind::ToolResult { preview, bytes: 9000, outcome: Outcome::Ok, .. }] =
        kinds(&outs)[..]
    else {
        panic!()
    };
    assert!(input.as_str().contains("truncated") && preview.len() == 4096);
}

#[test]
fn a_process_that_does_not_start_is_tried_and_then_given_up() {
    let mut bench = Bench::new(Settings::default());
    bench.hub.create(Create { profile: "default".into(), ..Create::default() }, bench.now).unwrap();
    bench.answer(&caller(1, Role::Drive), prompt("x")).unwrap();
    bench.answer(&caller(1, Role::Drive), attach()).unwrap();
    assert_eq!(bench.hub.next_timeout(), Some(60_000));
    assert_eq!(ends(&bench.pass(60_000)), [End::Kill]);
    for (process, wait) in [(1, 500), (2, 1000), (3, 2000), (4, 4000)] {
        let exit = ExitInfo { code: Some(1), signal: None, stderr: "no\nway\n".into() };
        bench.hub.exited("id1", process, &exit, bench.now);
        assert_eq!(bench.state(), State::Retrying);
        assert_eq!(bench.hub.next_timeout(), Some(bench.now.mono_ms + wait));
        assert!(bench.pass(wait).iter().any(|out| matches!(out, Out::Launch(_))));
    }
    bench.hub.spawn_failed("id1", 5, "no such file", bench.now);
    assert_eq!((bench.state(), bench.hub.next_timeout()), (State::Failed, None));
    let outs = bench.outs();
    let failed = |kind: &&&Kind| matches!(kind, Kind::PromptState { state: PromptState::Failed, .. });
    assert_eq!(kinds(&outs).iter().filter(failed).count(), 1);
    assert!(
        format!("{outs:?}")
            .contains("5 times in a row and did not last; the last time: Claude Code could not be started"),
        "{outs:?}"
    );
    assert_eq!(bench.answer(&caller(1, Role::Drive), prompt("x")).unwrap_err().code, Code::AgentUnavailable);
    assert_eq!(bench.hub.counts().restarts, 4);
}

/// Makes a session with this past; gives what its process is started with.
fn launched(bench: &mut Bench, past: Past) -> Result<(claude::Start, Text), Error> {
    bench.hub.create(Create { profile: "default".into(), past, ..Create::default() }, bench.now)?;
    Ok(launch(&bench.outs()).expect("a launch"))
}

fn launch(outs: &[Out]) -> Option<(claude::Start, Text)> {
    outs.iter().find_map(|out| match out {
        Out::Launch(launch) => Some((launch.start, launch.conversation.clone())),
        _ => None,
    })
}

fn exit() -> ExitInfo {
    ExitInfo { code: Some(1), signal: None, stderr: String::new() }
}

#[test]
fn the_newest_conversation_has_its_name_as_soon_as_the_cli_says_it() {
    let mut bench = Bench::new(Settings::default());
    assert_eq!(launched(&mut bench, Past::Newest).unwrap().0, claude::Start::Continue);
    // It died before it said anything: the newest one is still what is wanted.
    bench.hub.exited("id1", 1, &exit(), bench.now);
    assert_eq!(launch(&bench.pass(500)).expect("again").0, claude::Start::Continue);
    // It may say so again.
    for _ in 0..2 {
        bench.says(2, claude::Event::ConversationId("abc".into()));
    }
    bench.says(2, ready(LoginState::Present));
    assert!(ends(&bench.outs()).is_empty(), "it is its own");
    bench.hub.exited("id1", 2, &exit(), bench.now);
    assert_eq!(launch(&bench.pass(1000)), Some((claude::Start::Resume, "abc".into())));
}

#[test]
fn a_conversation_that_is_not_there_is_not_replaced_by_a_new_one() {
    let mut bench = Bench::new(Settings::default());
    let wanted = Past::Conversation("abc".into());
    assert_eq!(launched(&mut bench, wanted.clone()).unwrap(), (claude::Start::Resume, "abc".into()));
    let running =
        bench.hub.create(Create { profile: "default".into(), past: wanted.clone(), ..Create::default() }, bench.now);
    let refused = running.expect_err("two processes on one conversation");
    assert!(refused.code == Code::Conflict && refused.message.contains("session id1"), "{refused:?}");
    bench.says(1, claude::Event::NoConversation);
    bench.hub.exited("id1", 1, &exit(), bench.now);
    let summary = &bench.hub.summaries()[0];
    assert_eq!(summary.state, State::Failed);
    assert!(summary.why.as_ref().is_some_and(|why| why.contains("no such conversation")), "{summary:?}");
    launched(&mut bench, wanted).expect("the conversation is free again");
}

#[test]
fn the_newest_conversation_of_a_folder_is_that_of_the_session_which_runs_there() {
    let mut bench = Bench::new(Settings::default());
    let create = |folder: &str, past: &Past| Create {
        profile: "default".into(),
        folder: Some(folder.into()),
        past: past.clone(),
        ..Create::default()
    };
    for past in [Past::Newest, Past::None] {
        let first = bench.hub.create(create("/a", &past), bench.now).expect("the first one");
        let refused = bench.hub.create(create("/a", &Past::Newest), bench.now).expect_err("a second one");
        let names_it = refused.message.contains(&format!("session {} runs in this folder", first.session));
        assert!(refused.code == Code::Conflict && names_it, "{refused:?}");
        bench.hub.create(create("/b", &Past::Newest), bench.now).expect("the newest one, elsewhere");
        bench.hub.create(create("/a", &Past::None), bench.now).expect("a new conversation");
        bench = Bench::new(Settings::default());
    }
}

#[test]
fn a_conversation_is_not_resumed_beside_a_session_that_may_go_on_with_it() {
    let mut bench = Bench::new(Settings::default());
    let create = |folder: &str, past: Past| Create {
        profile: "default".into(),
        folder: Some(folder.into()),
        past,
        ..Create::default()
    };
    let resumed = |id: &str| Past::Conversation(id.into());
    let first = bench.hub.create(create("/a", Past::Newest), bench.now).expect("the first one");
    let refused = bench.hub.create(create("/a", resumed("abc")), bench.now).expect_err("it may be the same");
    let names_it = refused.message.contains(&format!("session {} runs on the newest", first.session));
    assert!(refused.code == Code::Conflict && names_it, "{refused:?}");
    bench.hub.create(create("/b", resumed("def")), bench.now).expect("one of another folder");
    // Once it is known, only that one is taken.
    bench.says(1, claude::Event::ConversationId("abc".into()));
    bench.hub.create(create("/a", resumed("ghi")), bench.now).expect("another one");
    let refused = bench.hub.create(create("/a", resumed("abc")), bench.now).expect_err("the same");
    assert!(refused.message.contains("on this conversation already"), "{refused:?}");
}

#[test]
fn a_session_whose_cli_takes_up_another_s_conversation_ends() {
    let mut bench = Bench::new(Settings::default());
    // Which conversation is the newest shows when the CLI says it: here that of a session in another folder.
    launched(&mut bench, Past::Newest).unwrap();
    let wanted = Past::Conversation("abc".into());
    let create = Create { profile: "default".into(), folder: Some("/b".into()), past: wanted, ..Create::default() };
    let other = bench.hub.create(create, bench.now).unwrap();
    bench.hub.agent(&other.session, 1, claude::Event::ConversationId("abc".into()), bench.now);
    bench.outs();
    bench.says(1, claude::Event::ConversationId("abc".into()));
    bench.says(1, ready(LoginState::Present));
    assert_eq!(ends(&bench.outs()), [End::Kill]);
    let outs = bench.ask(&caller(1, Role::Drive), prompt("x"));
    assert!(writes(&outs).is_empty(), "it is told nothing more: {outs:?}");
    bench.hub.exited("id1", 1, &exit(), bench.now);
    let summaries = bench.hub.summaries();
    let why = summaries[0].why.as_deref().unwrap_or_default();
    assert!(summaries[0].state == State::Failed && why.contains(&*other.session), "{why}");
    assert_eq!(summaries[1].state, State::Starting, "the other one runs on");
    assert!(launch(&bench.pass(600_000)).is_none_or(|(_, id)| *id == *"abc"), "it is not started again");
}

#[test]
fn silence_is_probed_and_then_ended() {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(1, Role::Drive), prompt("x")).unwrap();
    let outs = bench.pass(600_000);
    let [Say::Probe { id }] = writes(&outs)[..] else { panic!() };
    assert_eq!(bench.state(), State::Stuck);
    bench.says(1, claude::Event::Control { id: id.clone(), result: Ok(None) });
    assert_eq!((bench.state(), ends(&bench.pass(10_000))), (State::Stuck, vec![]));
    assert!(matches!(writes(&bench.pass(590_000))[..], [Say::Probe { .. }]));
    assert_eq!(ends(&bench.pass(10_000)), [End::Kill]);
    bench.hub.exited("id1", 1, &ExitInfo::default(), bench.now);
    assert_eq!(bench.state(), State::Retrying);
}

#[test]
fn a_session_that_has_ended_gives_way_at_the_limit() {
    let mut bench = Bench::ready(Settings { sessions_max: 1, ..Settings::default() });
    let create = Create { profile: "default".into(), ..Create::default() };
    assert_eq!(bench.hub.create(create.clone(), bench.now).unwrap_err().code, Code::Limit);
    bench.ask(&caller(1, Role::Admin), stop(true));
    bench.hub.exited("id1", 1, &ExitInfo::default(), bench.now);
    assert_eq!(bench.hub.take_gone(), []);
    assert!(bench.hub.create(create, bench.now).is_ok());
    assert_eq!(bench.hub.summaries().len(), 1);
    assert_eq!(bench.hub.take_gone(), [("id1".into(), "did".into())]);
    assert_eq!(bench.hub.take_gone(), []);
    let unknown = Create { profile: "other".into(), ..Create::default() };
    assert_eq!(bench.hub.create(unknown, bench.now).unwrap_err().code, Code::NotFound);
}

#[test]
fn followers_learn_of_changes_and_the_paused_ones_later() {
    let mut bench = Bench::ready(Settings::default());
    let (one, two) = (caller(1, Role::Watch), caller(2, Role::Watch));
    for follower in [&one, &two] {
        bench.answer(follower, Command::List { follow: Some(true) }).unwrap();
    }
    bench.outs();
    bench.hub.paused(two.peer);
    let outs = bench.ask(&caller(3, Role::Drive), prompt("x"));
    let told = |outs: &[Out]| -> Vec<ConnToken> {
        let peers = |out: &Out| if let Out::Changed { peers, .. } = out { peers.clone() } else { vec![] };
        outs.iter().flat_map(peers).collect()
    };
    assert_eq!(told(&outs), [one.peer]);
    bench.hub.resumed(two.peer, bench.now);
    assert_eq!(told(&bench.outs()), [two.peer]);
    bench.hub.disconnected(one.peer, bench.now);
    bench.says(1, asks("r", None));
    assert_eq!(told(&bench.outs()), [two.peer]);
}

#[test]
fn what_is_not_served_is_refused_and_stale_word_is_dropped() {
    let mut bench = Bench::ready(Settings::default());
    bench.says(1, claude::Event::Unserved { request: "r".into(), what: "elicitation".into() });
    assert!(matches!(writes(&bench.outs())[..], [Say::Refuse { .. }]));
    bench.says(7, asks("stale", None));
    assert_eq!((bench.state(), bench.outs().len()), (State::Ready, 0));
}

/// What no peer has set may be as long, and as odd: the name of a folder, what the CLI wrote before it died.
#[test]
fn what_the_host_and_the_cli_say_becomes_a_line_within_a_bound() {
    let mut bench = Bench::new(Settings { deaths_max: 1, ..Settings::default() });
    let folder = format!("/home/a\nb\u{1b}[2J{}", "x".repeat(300));
    let create = Create { profile: "default".into(), folder: Some(folder.into()), ..Create::default() };
    let title = bench.hub.create(create, bench.now).unwrap().title;
    assert!(title.starts_with("a b\u{fffd}[2Jxxx") && title.len() <= 256, "{title:?}");
    let stderr = format!("first\n\u{1b}[31mlast \u{202e}words {}\n\n", "y".repeat(100_000));
    let exit = ExitInfo { code: Some(1), signal: None, stderr };
    bench.hub.exited("id1", 1, &exit, bench.now);
    let why = bench.hub.summaries()[0].why.clone().expect("a reason");
    assert!(why.contains("last \u{fffd}words yyy") && why.len() < 1024, "{why:?}");
    assert_eq!(crate::base::text::unfit_for_a_line(&why), None, "{why:?}");
}
