//! Goal: a stop waits for the turn unless it is told not to, and the device that ended something is named. Method: as
//! in the module above, with an hour that passes.

use super::*;
use crate::{claude::Turn, relay::api::By};

const HOUR_MS: u64 = 3_600_000;

/// A session with a watcher, in a turn that runs a tool: it is silent without being stuck.
pub(super) fn in_turn() -> Bench {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(9, Role::Watch), attach()).unwrap();
    bench.answer(&caller(8, Role::Drive), prompt("x")).unwrap();
    begins(&mut bench, 1);
    bench.outs();
    bench
}

fn begins(bench: &mut Bench, process: u64) {
    bench.says(process, claude::Event::Init { model: None, mode: None });
    let (call, tool, input) = ("call".into(), "Bash".into(), Json::parse("{}").unwrap());
    bench.says(process, claude::Event::ToolCall { call, tool, input, parent: None });
}

pub(super) fn turn_ends(bench: &mut Bench, process: u64, ok: bool, stop: &str) -> Vec<Out> {
    bench.says(process, turn(ok, stop));
    bench.outs()
}

/// What the CLI says at the end of a turn.
pub(in crate::relay) fn turn(ok: bool, stop: &str) -> claude::Event {
    claude::Event::Turn(Turn {
        prompts: Vec::new(),
        ok,
        stop: stop.into(),
        text: "".into(),
        cost_usd: 0.0,
        usage: None,
        duration_ms: 1,
        queued: None,
        unasked: false,
        login_failed: false,
    })
}

fn exits(bench: &mut Bench, process: u64) -> Vec<Out> {
    bench.hub.exited("id1", process, &ExitInfo::default(), bench.now);
    bench.outs()
}

/// The device that caused the one event of this kind.
fn by(outs: &[Out], is_it: impl Fn(&Kind) -> bool) -> Option<Text> {
    let event = |out: &Out| if let Out::Event { event, .. } = out { Some(event.clone()) } else { None };
    let found: Vec<_> = outs.iter().filter_map(event).filter(|event| is_it(&event.kind)).collect();
    let [one] = &found[..] else { panic!("{outs:?}") };
    one.by.as_ref().map(|by: &By| by.device.clone())
}

fn is_cancelled(kind: &Kind) -> bool {
    matches!(kind, Kind::PromptState { state: PromptState::Cancelled, .. })
}

fn is_turn(kind: &Kind) -> bool {
    matches!(kind, Kind::Turn { .. })
}

fn is_stopped(kind: &Kind) -> bool {
    matches!(kind, Kind::State { state: State::Stopped, .. })
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
fn a_stop_waits_for_the_turn_however_long_it_is() {
    let mut bench = in_turn();
    bench.answer(&caller(8, Role::Drive), prompt("waits")).unwrap();
    let outs = bench.ask(&caller(1, Role::Spawn), stop(false));
    assert_eq!((ends(&outs), writes(&outs), answer(&outs)), (vec![], vec![], None));
    assert_eq!(by(&outs, is_cancelled).as_deref(), Some("device1"), "what waited is dropped");
    assert_eq!(by(&outs, |kind| matches!(kind, Kind::Notice { .. })).as_deref(), Some("device1"));
    let refused = bench.answer(&caller(8, Role::Drive), prompt("more")).unwrap_err();
    assert_eq!(refused.code, Code::AgentUnavailable);
    let outs = bench.pass(HOUR_MS);
    assert_eq!((ends(&outs), writes(&outs), bench.state()), (vec![], vec![], State::Busy));
    let outs = turn_ends(&mut bench, 1, true, "completed");
    assert_eq!((ends(&outs), by(&outs, is_turn)), (vec![End::CloseStdin], None));
    assert_eq!(ends(&bench.pass(5_000)), [End::Terminate]);
    let outs = exits(&mut bench, 1);
    assert_eq!(answer(&outs), Some(Ok(Reply::State(State::Stopped))));
    assert_eq!(by(&outs, is_stopped).as_deref(), Some("device1"));
    assert_eq!(bench.hub.next_timeout(), None);
}

#[test]
fn a_request_that_is_open_is_answered_in_a_session_that_is_to_stop() {
    let mut bench = in_turn();
    bench.says(1, asks("r", None));
    assert_eq!(ends(&bench.ask(&caller(1, Role::Spawn), stop(false))), []);
    let outs = bench.pass(HOUR_MS);
    assert_eq!((ends(&outs), bench.state()), (vec![], State::Waiting));
    let outs = bench.ask(&caller(2, Role::Approve), decide("r", Decision::Allow, None, None));
    assert!(matches!(writes(&outs)[..], [Say::Allow { .. }]) && ends(&outs).is_empty(), "{outs:?}");
    assert_eq!(ends(&turn_ends(&mut bench, 1, true, "completed")), [End::CloseStdin]);
}

#[test]
fn a_session_that_is_to_stop_is_stopped_at_once_by_who_says_so_and_by_the_end_of_the_relay() {
    let mut bench = in_turn();
    bench.ask(&caller(1, Role::Spawn), stop(false));
    let outs = bench.ask(&caller(2, Role::Spawn), stop(true));
    assert!(matches!(writes(&outs)[..], [Say::EndSession { .. }]), "{outs:?}");
    let outs = turn_ends(&mut bench, 1, false, "aborted_tools");
    assert_eq!(by(&outs, is_turn).as_deref(), Some("device2"));
    assert_eq!(by(&outs, is_cancelled).as_deref(), Some("device2"));
    assert_eq!(ends(&bench.pass(1_000)), [End::Terminate]);
    let outs = exits(&mut bench, 1);
    assert_eq!(outs.iter().filter(|out| matches!(out, Out::Answer { .. })).count(), 2, "both are answered");
    assert_eq!(by(&outs, is_stopped).as_deref(), Some("device2"));

    let mut bench = in_turn();
    bench.ask(&caller(1, Role::Spawn), stop(false));
    bench.hub.drain(bench.now, 8_000);
    assert!(matches!(writes(&bench.outs())[..], [Say::EndSession { .. }]));
    assert_eq!(ends(&bench.pass(2_000)), [End::Terminate]);
    let outs = exits(&mut bench, 1);
    assert_eq!((by(&outs, is_stopped), by(&outs, is_cancelled)), (None, None), "nobody did it");
}

#[test]
fn a_stop_that_waits_for_no_turn_has_room_beside_those_that_do() {
    let mut bench = in_turn();
    let spawn = caller(1, Role::Spawn);
    let refused = (0..300).find_map(|_| answer(&bench.ask(&spawn, stop(false)))).expect("there is a bound");
    assert_eq!(refused.unwrap_err().code, Code::Limit);
    assert!(matches!(writes(&bench.ask(&spawn, stop(true)))[..], [Say::EndSession { .. }]));
}

#[test]
fn a_turn_that_broke_is_run_to_its_end_before_the_session_stops() {
    let mut bench = in_turn();
    bench.ask(&caller(1, Role::Spawn), stop(false));
    assert_eq!(answer(&exits(&mut bench, 1)), None);
    assert!(launch(&bench.pass(500)).is_some(), "the turn is taken up");
    bench.says(2, ready(LoginState::Present));
    begins(&mut bench, 2);
    bench.outs();
    assert_eq!(ends(&turn_ends(&mut bench, 2, true, "completed")), [End::CloseStdin]);
    assert_eq!(answer(&exits(&mut bench, 2)), Some(Ok(Reply::State(State::Stopped))));

    // An interrupt ends the turn, and so the session, also where no process is there.
    let mut bench = in_turn();
    bench.ask(&caller(1, Role::Spawn), stop(false));
    exits(&mut bench, 1);
    let outs = bench.ask(&caller(2, Role::Drive), Command::Interrupt { session: "id1".into(), cancel_queued: false });
    assert_eq!(bench.state(), State::Stopped);
    assert_eq!(by(&outs, is_cancelled).as_deref(), Some("device2"));
    assert_eq!(by(&outs, is_stopped).as_deref(), Some("device1"));
    assert_eq!(bench.hub.next_timeout(), None, "it is not started again");

    // A session that cannot be run again fails, and the waiting command is told.
    let mut bench = in_turn();
    bench.ask(&caller(1, Role::Spawn), stop(false));
    for process in 1..5 {
        exits(&mut bench, process);
        bench.pass(30_000);
    }
    assert_eq!(answer(&exits(&mut bench, 5)), Some(Ok(Reply::State(State::Failed))));
}

#[test]
fn an_interrupt_says_whether_anything_ran() {
    let interrupt = || Command::Interrupt { session: "id1".into(), cancel_queued: false };
    let mut bench = in_turn();
    assert_eq!(bench.answer(&caller(1, Role::Drive), interrupt()), Ok(Reply::Interrupted { ran: true }));
    // Its process is gone and the prompt waits to be run again: it is withdrawn, and then there is nothing.
    let mut bench = in_turn();
    exits(&mut bench, 1);
    for ran in [true, false] {
        assert_eq!(bench.answer(&caller(1, Role::Drive), interrupt()), Ok(Reply::Interrupted { ran }));
    }
}

#[test]
fn a_turn_that_was_broken_off_names_who_did_it() {
    let interrupt = || Command::Interrupt { session: "id1".into(), cancel_queued: false };
    let mut bench = in_turn();
    for slot in [1, 2] {
        bench.ask(&caller(slot, Role::Drive), interrupt());
    }
    let outs = turn_ends(&mut bench, 1, false, "aborted_tools");
    assert_eq!(by(&outs, is_turn).as_deref(), Some("device1"), "the first one did it");
    assert_eq!(by(&outs, is_cancelled).as_deref(), Some("device1"));

    // The turn had ended by itself before the CLI read the interrupt, and no device ended the next one.
    let mut bench = in_turn();
    bench.ask(&caller(1, Role::Drive), interrupt());
    assert_eq!(by(&turn_ends(&mut bench, 1, true, "completed"), is_turn), None);
    bench.answer(&caller(8, Role::Drive), prompt("y")).unwrap();
    assert_eq!(by(&turn_ends(&mut bench, 1, false, "aborted_tools"), is_turn), None);

    // A prompt that is to run at once breaks the turn off too.
    let mut bench = in_turn();
    let at_once = Command::Prompt { session: "id1".into(), text: "z".into(), when: When::Now };
    bench.ask(&caller(3, Role::Drive), at_once);
    let outs = turn_ends(&mut bench, 1, false, "aborted_tools");
    assert_eq!(by(&outs, is_turn).as_deref(), Some("device3"));
}

#[test]
fn an_id_whose_answer_is_awaited_names_no_other_command() {
    let mut bench = in_turn();
    let admin = caller(1, Role::Admin);
    let again = |command| Request { id: "once".into(), command };
    bench.hub.request(&admin, again(stop(false)), bench.now);
    assert_eq!(answer(&bench.outs()), None, "it waits for the turn");
    let before = Position { epoch: "epoch".into(), offset: 1 };
    let history = Command::History { session: "id1".into(), before, bytes: None };
    for command in [Command::List { follow: None }, attach(), history] {
        bench.hub.request(&admin, again(command.clone()), bench.now);
        let outs = bench.outs();
        assert!(matches!(answer(&outs), Some(Err(Error { code: Code::Conflict, .. }))), "{outs:?}");
        // Connections have their ids to themselves.
        bench.hub.request(&caller(2, Role::Admin), again(command), bench.now);
        assert!(matches!(answer(&bench.outs()), Some(Ok(_))));
    }
    turn_ends(&mut bench, 1, true, "completed");
    assert_eq!(answer(&exits(&mut bench, 1)), Some(Ok(Reply::State(State::Stopped))));
    // Once it has its answer the id is free for what changes nothing.
    bench.hub.request(&admin, again(Command::List { follow: None }), bench.now);
    assert!(matches!(answer(&bench.outs()), Some(Ok(Reply::Sessions(_)))));
}
