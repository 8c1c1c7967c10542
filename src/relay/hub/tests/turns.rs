//! Goal: whose turn runs, ends and is run again, however the CLI tells of it. Method: what it says, line by line, and
//! what it is told then.

use super::{
    live::delta,
    stop::{in_turn, turn, turn_ends},
    *,
};

const KNOWN_MS: u64 = 5_000;
const UNACKED_MS: u64 = 30_000;

fn begins_unasked(bench: &mut Bench) {
    bench.says(1, claude::Event::Init { model: None, mode: None });
}

pub(super) fn unasked(ok: bool) -> claude::Event {
    match turn(ok, "completed") {
        claude::Event::Turn(turn) => claude::Event::Turn(claude::Turn { unasked: true, ..turn }),
        other => other,
    }
}

pub(super) fn asked(bench: &mut Bench, command: Command) -> Text {
    match bench.answer(&caller(1, Role::Drive), command) {
        Ok(Reply::Prompted { prompt, .. }) => prompt,
        other => panic!("{other:?}"),
    }
}

pub(super) fn is_told_a_prompt(outs: &[Out]) -> bool {
    writes(outs).iter().any(|say| matches!(say, Say::Prompt { .. }))
}

pub(super) fn lifecycle(prompt: &Text, state: claude::Lifecycle) -> claude::Event {
    claude::Event::Prompt { prompt: prompt.clone(), state }
}

/// How prompts have ended, as a watcher is told.
pub(super) fn ended(outs: &[Out]) -> Vec<PromptState> {
    let state = |kind: &Kind| match kind {
        Kind::PromptState { state, .. } if !matches!(state, PromptState::Queued | PromptState::Running) => Some(*state),
        _ => None,
    };
    kinds(outs).into_iter().filter_map(state).collect()
}

pub(super) fn dies(bench: &mut Bench, process: u64) -> Vec<Out> {
    bench.hub.exited("id1", process, &exit(), bench.now);
    bench.outs()
}

/// A session with a watcher, whose prompt ran when its process died, and the next process, which is ready.
fn again() -> (Bench, Text) {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(9, Role::Watch), attach()).unwrap();
    let prompt = asked(&mut bench, prompt("x"));
    bench.says(1, lifecycle(&prompt, claude::Lifecycle::Started));
    dies(&mut bench, 1);
    assert!(launch(&bench.pass(500)).is_some());
    bench.says(2, ready(LoginState::Present));
    assert!(is_told_a_prompt(&bench.outs()), "it is sent again");
    (bench, prompt)
}

#[test]
fn a_prompt_waits_for_a_turn_that_no_prompt_asked_for() {
    let ends: [fn(&mut Bench); 3] = [
        |bench| bench.says(1, unasked(true)),
        |bench| bench.says(1, claude::Event::Idle),
        |bench| bench.says(1, lifecycle(&"other".into(), claude::Lifecycle::Completed)),
    ];
    for end in ends {
        let mut bench = Bench::ready(Settings::default());
        begins_unasked(&mut bench);
        bench.says(1, lifecycle(&"other".into(), claude::Lifecycle::Started));
        assert_eq!(bench.state(), State::Busy);
        let outs = bench.ask(&caller(1, Role::Drive), prompt("x"));
        assert!(answer(&outs).is_some() && !is_told_a_prompt(&outs), "{outs:?}");
        end(&mut bench);
        assert!(is_told_a_prompt(&bench.outs()), "its turn has come");
    }
}

#[test]
fn the_end_of_a_turn_that_no_prompt_asked_for_ends_no_prompt() {
    let mut bench = in_turn();
    bench.says(1, unasked(true));
    assert_eq!((ended(&bench.outs()), bench.state()), (vec![], State::Busy));
    assert_eq!(ended(&turn_ends(&mut bench, 1, true, "completed")), [PromptState::Done]);
    assert_eq!(bench.state(), State::Ready);
}

#[test]
fn a_prompt_that_is_to_run_at_once_runs_before_those_that_wait() {
    let mut bench = in_turn();
    asked(&mut bench, prompt("waits"));
    asked(&mut bench, Command::Prompt { session: "id1".into(), text: "at once".into(), when: When::Now });
    let outs = turn_ends(&mut bench, 1, false, "aborted_tools");
    let [Say::Prompt { content, .. }] = writes(&outs)[..] else { panic!("{outs:?}") };
    assert!(matches!(&content[..], [claude::ContentPart::Text(text)] if **text == *"at once"));
}

#[test]
fn the_time_before_a_prompt_is_no_silence_of_the_process() {
    let stuck_ms = Settings::default().stuck_ms;
    let mut bench = Bench::ready(Settings::default());
    bench.pass(3 * stuck_ms);
    asked(&mut bench, prompt("x"));
    assert!(writes(&bench.pass(stuck_ms - 1)).is_empty(), "it has as long as ever to begin");
    assert!(matches!(writes(&bench.pass(1))[..], [Say::Probe { .. }]));
}

#[test]
fn a_session_that_goes_on_after_an_error_is_not_shown_as_waiting_for_the_api() {
    let text = |text: &str| {
        let (message, text) = ("m".into(), text.into());
        claude::Event::Text { message, block: 0, kind: Block::Text, text, parent: None }
    };
    for goes_on in [delta("m", 0, "on"), text("on")] {
        let mut bench = in_turn();
        let error = "overloaded".into();
        bench.says(1, claude::Event::Retry { attempt: 1, of: 10, delay_ms: 500, error, login_failed: false });
        assert_eq!(bench.state(), State::Retrying);
        bench.says(1, goes_on);
        assert_eq!(bench.state(), State::Busy);
    }
}

#[test]
fn the_mode_that_the_cli_says_it_is_in_is_shown() {
    let mut bench = Bench::new(Settings::default());
    bench.hub.create(Create { profile: "default".into(), ..Create::default() }, bench.now).unwrap();
    bench.says(1, claude::Event::Ready { version: None, login: LoginState::Present, mode: Some("plan".into()) });
    assert_eq!(bench.hub.summaries()[0].mode.as_deref(), Some("plan"));
}

#[test]
fn a_prompt_that_is_run_again_ends_when_the_cli_says_so() {
    // By the line that tells how far it has come.
    let (mut bench, prompt) = again();
    bench.says(2, lifecycle(&prompt, claude::Lifecycle::Started));
    bench.says(2, lifecycle(&prompt, claude::Lifecycle::Completed));
    assert_eq!((ended(&bench.outs()), bench.state()), (vec![PromptState::Done], State::Ready));
    // That it is known says nothing while the broken turn runs, however silent that is.
    let (mut bench, prompt) = again();
    bench.says(2, lifecycle(&prompt, claude::Lifecycle::Completed));
    bench.says(2, claude::Event::Init { model: None, mode: None });
    assert_eq!((ended(&bench.pass(2 * KNOWN_MS)), bench.state()), (vec![], State::Busy));
    assert_eq!(ended(&turn_ends(&mut bench, 2, true, "completed")), [PromptState::Done]);
    // Where no turn begins it had ended before.
    let (mut bench, prompt) = again();
    bench.says(2, lifecycle(&prompt, claude::Lifecycle::Completed));
    assert_eq!(ended(&bench.pass(KNOWN_MS)), [PromptState::Done]);
}

#[test]
fn a_prompt_that_was_sent_again_without_a_sign_is_asked_about_and_that_is_no_sickness() {
    let (mut bench, _) = again();
    let outs = bench.pass(UNACKED_MS);
    let [Say::Probe { id }] = writes(&outs)[..] else { panic!("{outs:?}") };
    assert_eq!(bench.state(), State::Busy);
    // It has read the prompt, and began no turn: it knows it.
    bench.says(2, claude::Event::Control { id: id.clone(), result: Ok(None) });
    assert_eq!(ended(&bench.pass(KNOWN_MS)), [PromptState::Done]);
}

#[test]
fn an_interrupt_while_the_next_process_starts_has_it_started_without_the_turn() {
    let mut bench = Bench::ready(Settings::default());
    let prompt = asked(&mut bench, prompt("x"));
    bench.says(1, lifecycle(&prompt, claude::Lifecycle::Started));
    dies(&mut bench, 1);
    let reruns = |outs: &[Out]| {
        let rerun = |out: &Out| if let Out::Launch(launch) = out { Some(launch.rerun) } else { None };
        outs.iter().find_map(rerun)
    };
    assert_eq!(reruns(&bench.pass(500)), Some(true));
    let interrupt = Command::Interrupt { session: "id1".into(), cancel_queued: false };
    let outs = bench.ask(&caller(1, Role::Drive), interrupt);
    assert_eq!((answer(&outs), ends(&outs)), (Some(Ok(Reply::Interrupted { ran: true })), vec![End::Terminate]));
    assert_eq!(reruns(&dies(&mut bench, 2)), Some(false), "at once");
}

#[test]
fn what_was_streamed_of_a_turn_that_broke_is_not_shown_as_part_of_the_next() {
    let (mut bench, _) = again();
    bench.says(2, delta("m", 0, "half"));
    dies(&mut bench, 2);
    let Ok(Reply::Attached { snapshot, .. }) = bench.answer(&caller(9, Role::Watch), attach()) else { panic!() };
    assert!(snapshot.turn.is_some_and(|turn| turn.blocks.is_empty()));
}

#[test]
fn a_turn_after_one_that_was_broken_off_has_no_cause_of_its_own() {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(9, Role::Watch), attach()).unwrap();
    let first = asked(&mut bench, prompt("x"));
    bench.ask(&caller(2, Role::Drive), Command::Interrupt { session: "id1".into(), cancel_queued: false });
    bench.says(1, lifecycle(&first, claude::Lifecycle::Cancelled));
    assert_eq!(ended(&bench.outs()), [PromptState::Cancelled]);
    asked(&mut bench, prompt("y"));
    let outs = turn_ends(&mut bench, 1, false, "aborted_tools");
    let by = outs.iter().filter_map(|out| match out {
        Out::Event { event, .. } if matches!(event.kind, Kind::Turn { .. }) => Some(event.by.is_some()),
        _ => None,
    });
    assert_eq!(by.collect::<Vec<_>>(), [false]);
}

#[test]
fn a_failed_resume_ends_no_prompt_and_the_conversation_begins_anew() {
    let (mut bench, _) = again();
    dies(&mut bench, 2);
    assert_eq!(launch(&bench.pass(30_000)).expect("again").0, claude::Start::Resume);
    bench.says(3, claude::Event::NoConversation);
    assert_eq!(ended(&turn_ends(&mut bench, 3, false, "error_during_execution")), []);
    assert_eq!(launch(&dies(&mut bench, 3)).expect("at once").0, claude::Start::New);
}

#[test]
fn a_conversation_that_may_be_there_is_gone_on_with() {
    // A prompt was written, of which there is no sign yet.
    let mut bench = Bench::ready(Settings::default());
    asked(&mut bench, prompt("x"));
    dies(&mut bench, 1);
    assert_eq!(launch(&bench.pass(500)).expect("again").0, claude::Start::Resume);
    // It was asked for by its name, and no process has had it yet.
    let mut bench = Bench::new(Settings::default());
    launched(&mut bench, Past::Conversation("abc".into())).unwrap();
    dies(&mut bench, 1);
    assert_eq!(launch(&bench.pass(500)), Some((claude::Start::Resume, "abc".into())));
    // A second process came to nothing: the first may have left it.
    let mut bench = Bench::new(Settings::default());
    launched(&mut bench, Past::None).unwrap();
    dies(&mut bench, 1);
    assert_eq!(launch(&bench.pass(500)).expect("again").0, claude::Start::New);
    dies(&mut bench, 2);
    assert_eq!(launch(&bench.pass(1_000)).expect("again").0, claude::Start::Resume);
}

#[test]
fn a_process_that_dies_again_and_again_is_not_waited_for_longer_than_the_bound() {
    let mut bench = Bench::new(Settings { deaths_max: 20, ..Settings::default() });
    launched(&mut bench, Past::None).unwrap();
    for process in 1..20 {
        dies(&mut bench, process);
        let wait_ms = bench.hub.next_timeout().expect("it is started again") - bench.now.mono_ms;
        assert!(wait_ms <= Settings::default().backoff_ms_max, "{wait_ms} ms");
        bench.pass(wait_ms);
    }
}

#[test]
fn a_stop_at_once_hurries_one_that_has_begun() {
    let mut bench = Bench::ready(Settings::default());
    assert_eq!(ends(&bench.ask(&caller(1, Role::Spawn), stop(false))), [End::CloseStdin]);
    bench.ask(&caller(2, Role::Spawn), stop(true));
    assert_eq!(ends(&bench.pass(1_000)), [End::Terminate]);
    // It has been told all that there is to say.
    let outs = bench.ask(&caller(3, Role::Spawn), stop(true));
    assert!(ends(&outs).is_empty() && writes(&outs).is_empty(), "{outs:?}");
    assert_eq!(ends(&bench.pass(1_000)), [End::Kill]);
}

#[test]
fn a_stop_that_is_said_again_prolongs_nothing() {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(9, Role::Watch), attach()).unwrap();
    let outs = bench.ask(&caller(1, Role::Spawn), stop(false));
    assert!(ends(&outs) == [End::CloseStdin] && !kinds(&outs).iter().any(|kind| matches!(kind, Kind::Notice { .. })));
    bench.pass(4_000);
    assert!(ends(&bench.ask(&caller(2, Role::Spawn), stop(false))).is_empty());
    let interrupt = Command::Interrupt { session: "id1".into(), cancel_queued: false };
    assert_eq!(bench.answer(&caller(3, Role::Drive), interrupt).unwrap_err().code, Code::AgentUnavailable);
    assert_eq!(ends(&bench.pass(1_000)), [End::Terminate]);
    let by = dies(&mut bench, 1).into_iter().find_map(|out| match out {
        Out::Event { event, .. } if matches!(event.kind, Kind::State { state: State::Stopped, .. }) => event.by.clone(),
        _ => None,
    });
    assert_eq!(by.as_ref().map(|by| &*by.device), Some("device1"));
}

#[test]
fn a_stop_waits_for_a_turn_that_no_prompt_asked_for_and_for_a_decision() {
    let begin: [fn(&mut Bench); 2] = [begins_unasked, |bench| bench.says(1, asks("r", None))];
    for begin in begin {
        let mut bench = Bench::ready(Settings::default());
        begin(&mut bench);
        bench.outs();
        assert!(ends(&bench.ask(&caller(1, Role::Spawn), stop(false))).is_empty());
    }
}

#[test]
fn an_interrupt_breaks_a_turn_that_no_prompt_asked_for_and_says_nothing_where_none_runs() {
    let interrupt = || Command::Interrupt { session: "id1".into(), cancel_queued: false };
    for runs in [true, false] {
        let mut bench = Bench::ready(Settings::default());
        if runs {
            begins_unasked(&mut bench);
        }
        let outs = bench.ask(&caller(1, Role::Drive), interrupt());
        assert_eq!(answer(&outs), Some(Ok(Reply::Interrupted { ran: runs })));
        assert_eq!(matches!(writes(&outs)[..], [Say::Interrupt { .. }]), runs, "{outs:?}");
    }
}

#[test]
fn a_turn_that_failed_was_broken_off_by_no_device() {
    let mut bench = in_turn();
    bench.ask(&caller(1, Role::Drive), Command::Interrupt { session: "id1".into(), cancel_queued: false });
    let outs = turn_ends(&mut bench, 1, false, "error_during_execution");
    assert_eq!(ended(&outs), [PromptState::Failed]);
    assert!(!outs.iter().any(|out| matches!(out, Out::Event { event, .. } if event.by.is_some())), "{outs:?}");
}

#[test]
fn a_line_that_is_no_message_is_said_and_that_further_ones_are_not() {
    for last in [false, true] {
        let mut bench = in_turn();
        bench.says(1, claude::Event::Unreadable { line: "odd".into(), last });
        let outs = bench.outs();
        let [Kind::Notice { level: "warning", text }] = kinds(&outs)[..] else { panic!("{outs:?}") };
        assert!(text.contains("odd") && text.contains("only counted") == last, "{text}");
    }
}

#[test]
fn a_session_that_is_to_stop_names_the_device_only_with_its_end() {
    let mut bench = in_turn();
    bench.ask(&caller(1, Role::Spawn), stop(false));
    bench.says(1, asks("r", None));
    let outs = bench.outs();
    let by = outs.iter().filter_map(|out| match out {
        Out::Event { event, .. } => match event.kind {
            Kind::State { state, .. } => Some((state, event.by.is_some())),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(by.collect::<Vec<_>>(), [(State::Waiting, false)]);
}

#[test]
fn a_login_that_is_refused_is_said_once_and_again_after_it_went_well() {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(9, Role::Watch), attach()).unwrap();
    let mut said = |login_failed: bool| {
        let claude::Event::Turn(ended) = turn(!login_failed, "completed") else { unreachable!() };
        bench.says(1, claude::Event::Turn(claude::Turn { login_failed, ..ended }));
        kinds(&bench.outs()).iter().filter(|kind| matches!(kind, Kind::Notice { level: "error", .. })).count()
    };
    assert_eq!([true, true, false, true].map(&mut said), [1, 0, 0, 1]);
}
