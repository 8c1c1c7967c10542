//! Goal: each promise of the hub that a simulation does not single out. Method: one hub, a fake profile, counted ids,
//! and every output looked at.

use super::*;
use crate::{
    base::Json,
    claude::{Block, Command as Say, LoginState, Permission},
    relay::api::{Decision, End, Kind, Outcome, PromptState, When},
    store::{Limits, MemoryStore},
};

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
    ) -> Result<Resolved, Error> {
        if profile != "default" {
            return Err(Error::new(Code::NotFound, "no such profile"));
        }
        let folder = folder.unwrap_or(Path::new("/home/project")).to_owned();
        Ok(Resolved { folder, model: model.map(Text::from), mode: mode.map(Text::from) })
    }
}

struct Bench {
    hub: Hub,
    now: Now,
    ids: u32,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let store = MemoryStore::new(Limits::default());
        let hub = Hub::new(settings, Box::new(store), Box::new(Fake(0)), Box::new(Fake(0)));
        Self { hub, now: Now { mono_ms: 0, unix_ms: 1_000 }, ids: 0 }
    }

    /// A session that is ready; its id is `id1`.
    fn ready(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        bench.hub.create(Create { profile: "default".into(), ..Create::default() }, bench.now).unwrap();
        bench.says(1, ready(LoginState::Present));
        bench.outs();
        bench
    }

    fn outs(&mut self) -> Vec<Out> {
        std::iter::from_fn(|| self.hub.poll()).collect()
    }

    fn says(&mut self, process: u64, event: claude::Event) {
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
    let name: Text = format!("device{slot}").into();
    let peer = ConnToken::new(0, slot, 1);
    let (client, device, kind) = (name.clone(), name.clone(), "test".into());
    Caller { peer, principal: "SHA256:a".into(), role, client, device, name, kind }
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

fn asks(request: &str, questions: Option<Json>) -> claude::Event {
    claude::Event::Permission(Permission {
        request: request.into(),
        call: Some("call".into()),
        tool: "Bash".into(),
        input: Json::parse(r#"{"b":1,"a":2}"#).unwrap(),
        about: "about".into(),
        suggestions: None,
        questions,
    })
}

fn decide(request: &str, decision: Decision, input: Option<&str>, answers: Option<&str>) -> Command {
    let json = |text: &str| Json::parse(text).unwrap();
    let (session, request, message) = ("id1".into(), request.into(), None);
    Command::Decide { session, request, decision, message, input: input.map(json), answers: answers.map(json) }
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
    let mut bench = Bench::ready(Settings { prompts_max: 2, prompt_bytes_max: 10, ..Settings::default() });
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
    assert_eq!(allowed(&outs), r#"{"a":2,"answers":{"Q":"A"},"b":1}"#);
    let late = bench.answer(&caller(2, Role::Admin), decide("r3", Decision::Deny, None, None)).unwrap_err();
    assert_eq!((late.code, &*late.message), (Code::AlreadyDecided, "device1 has decided already"));
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
    assert_eq!(bench.answer(&caller(1, Role::Drive), prompt("x")).unwrap_err().code, Code::AgentUnavailable);
    assert_eq!(bench.hub.counts().restarts, 4);
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
fn the_stop_ladder_goes_down_step_by_step() {
    let mut bench = Bench::ready(Settings::default());
    let spawn = caller(1, Role::Spawn);
    let outs = bench.ask(&spawn, stop(false));
    assert_eq!((ends(&outs), answer(&outs)), (vec![End::CloseStdin], None));
    assert_eq!(ends(&bench.pass(5_000)), [End::Terminate]);
    assert_eq!(ends(&bench.pass(5_000)), [End::Kill]);
    bench.hub.exited("id1", 1, &ExitInfo::default(), bench.now);
    assert_eq!(answer(&bench.outs()), Some(Ok(Reply::State(State::Stopped))));
    assert_eq!(bench.answer(&spawn, stop(true)), Ok(Reply::State(State::Stopped)));

    let mut bench = Bench::ready(Settings::default());
    bench.hub.drain(bench.now, 8_000);
    assert!(matches!(writes(&bench.outs())[..], [Say::EndSession { .. }]));
    assert_eq!(bench.answer(&spawn, prompt("x")).unwrap_err().code, Code::ShuttingDown);
    assert_eq!(ends(&bench.pass(2_000)), [End::Terminate]);
    assert!(!bench.hub.drained());
    bench.hub.exited("id1", 1, &ExitInfo::default(), bench.now);
    assert!(bench.hub.drained());
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
