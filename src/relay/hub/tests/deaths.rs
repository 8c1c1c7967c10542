//! Goal: what is left, and what is not, of a process that ends: how often it is started again, what the next one is told,
//! and what a session that is over says. Method: as in the module on turns.

use super::{
    keys::{keys, of},
    stop::{in_turn, turn_ends},
    turns::{asked, dies, ended, is_told_a_prompt, lifecycle, unasked},
    *,
};

const STEADY_MS: u64 = 600_000;

fn reruns(outs: &[Out]) -> Option<bool> {
    outs.iter().find_map(|out| if let Out::Launch(launch) = out { Some(launch.rerun) } else { None })
}

/// Lets processes live and die until the session is given up; gives how many there were, 10 at most.
fn lives(mut live: impl FnMut(&mut Bench, u64)) -> (u64, Bench) {
    let mut bench = Bench::ready(Settings { deaths_max: 3, ..Settings::default() });
    bench.answer(&caller(9, Role::Watch), attach()).unwrap();
    for process in 1..10 {
        live(&mut bench, process);
        bench.outs();
        bench.hub.exited("id1", process, &exit(), bench.now);
        if bench.state() == State::Failed {
            return (process, bench);
        }
        assert!(launch(&bench.pass(30_000)).is_some());
        bench.says(process + 1, ready(LoginState::Present));
    }
    (10, bench)
}

#[test]
fn a_process_is_started_again_without_end_only_where_it_is_of_use() {
    // A prompt that none of them ends, however long each one tries.
    let tries = |bench: &mut Bench, process| {
        if process == 1 {
            asked(bench, prompt("x"));
        }
        bench.says(process, claude::Event::Init { model: None, mode: None });
        let (call, tool, input) = ("call".into(), "Bash".into(), Json::parse("{}").unwrap());
        bench.says(process, claude::Event::ToolCall { call, tool, input, parent: None });
        bench.pass(STEADY_MS);
    };
    let (many, mut bench) = lives(tries);
    assert_eq!((many, ended(&bench.outs())), (3, vec![PromptState::Failed]));
    assert_eq!(bench.hub.next_timeout(), None, "nothing is waited for");
    // A turn that no prompt asked for.
    let (many, _) = lives(|bench, process| {
        bench.says(process, claude::Event::Init { model: None, mode: None });
        bench.says(process, unasked(true));
    });
    assert_eq!(many, 3);
    // Idle for long, or a prompt that ends.
    assert_eq!(lives(|bench, _| drop(bench.pass(STEADY_MS))).0, 10);
    let ends = |bench: &mut Bench, process| {
        asked(bench, prompt("x"));
        assert_eq!(ended(&turn_ends(bench, process, true, "completed")), [PromptState::Done]);
    };
    assert_eq!(lives(ends).0, 10);
}

#[test]
fn a_probe_that_is_out_is_not_waited_for_once_the_session_has_ended() {
    let mut bench = Bench::ready(Settings { deaths_max: 1, ..Settings::default() });
    asked(&mut bench, prompt("x"));
    assert!(matches!(writes(&bench.pass(STEADY_MS))[..], [Say::Probe { .. }]));
    dies(&mut bench, 1);
    assert_eq!((bench.state(), bench.hub.next_timeout()), (State::Failed, None));
}

#[test]
fn a_prompt_waits_for_the_process_that_takes_the_place_of_one_that_is_told_to_end() {
    let mut bench = Bench::ready(Settings::default());
    let broken = asked(&mut bench, prompt("x"));
    bench.says(1, lifecycle(&broken, claude::Lifecycle::Started));
    dies(&mut bench, 1);
    assert_eq!(reruns(&bench.pass(500)), Some(true));
    let interrupt = Command::Interrupt { session: "id1".into(), cancel_queued: false };
    assert_eq!(ends(&bench.ask(&caller(1, Role::Drive), interrupt)), [End::Terminate]);
    asked(&mut bench, prompt("y"));
    // It becomes ready before it ends.
    bench.says(2, ready(LoginState::Present));
    assert!(!is_told_a_prompt(&bench.outs()));
    assert_eq!(reruns(&dies(&mut bench, 2)), Some(false));
    bench.says(3, ready(LoginState::Present));
    assert!(is_told_a_prompt(&bench.outs()));
}

#[test]
fn what_became_of_one_prompt_says_nothing_of_the_next() {
    // The turn of the first one had begun, that of the second one has not.
    let mut bench = Bench::ready(Settings::default());
    let first = asked(&mut bench, prompt("x"));
    bench.says(1, lifecycle(&first, claude::Lifecycle::Started));
    turn_ends(&mut bench, 1, true, "completed");
    asked(&mut bench, prompt("y"));
    dies(&mut bench, 1);
    assert_eq!(reruns(&bench.pass(500)), Some(false));
    // The key of the first one has lost the right to it meanwhile.
    let mut bench = Bench::ready(Settings::default());
    let (owner, guest) = (of(1, Role::Admin), of(2, Role::Drive));
    bench.hub.keys(keys(&[(1, Role::Admin), (2, Role::Drive)]), bench.now);
    bench.answer(&owner, attach()).unwrap();
    bench.answer(&guest, prompt("x")).unwrap();
    bench.answer(&owner, prompt("y")).unwrap();
    bench.hub.keys(keys(&[(1, Role::Admin)]), bench.now);
    assert_eq!(ended(&turn_ends(&mut bench, 1, true, "completed")), [PromptState::Done]);
    assert_eq!(ended(&dies(&mut bench, 1)), []);
    assert!(launch(&bench.pass(500)).is_some());
    bench.says(2, ready(LoginState::Present));
    assert!(is_told_a_prompt(&bench.outs()));
}

#[test]
fn a_conversation_that_was_had_and_is_gone_begins_anew() {
    let mut bench = Bench::new(Settings::default());
    launched(&mut bench, Past::Conversation("abc".into())).unwrap();
    bench.says(1, ready(LoginState::Present));
    dies(&mut bench, 1);
    assert_eq!(launch(&bench.pass(500)), Some((claude::Start::Resume, "abc".into())));
    bench.says(2, claude::Event::NoConversation);
    assert_eq!(launch(&dies(&mut bench, 2)), Some((claude::Start::New, "abc".into())));
}

#[test]
fn a_process_that_is_not_ready_is_told_to_end_by_the_end_of_its_input() {
    let mut bench = Bench::new(Settings::default());
    launched(&mut bench, Past::None).unwrap();
    let outs = bench.ask(&caller(1, Role::Spawn), stop(true));
    assert!(ends(&outs) == [End::CloseStdin] && writes(&outs).is_empty(), "{outs:?}");
}

#[test]
fn a_stop_that_has_begun_is_not_undone_with_the_key_that_said_it() {
    let both = keys(&[(1, Role::Admin), (2, Role::Spawn)]);
    let mut bench = in_turn();
    bench.hub.keys(both, bench.now);
    assert_eq!(answer(&bench.ask(&of(2, Role::Spawn), stop(true))), None);
    bench.hub.keys(keys(&[(1, Role::Admin)]), bench.now);
    let step_ms = bench.hub.next_timeout().expect("a step") - bench.now.mono_ms;
    assert_eq!(ends(&bench.pass(step_ms)), [End::Terminate]);
    dies(&mut bench, 1);
    assert_eq!((bench.state(), bench.hub.next_timeout()), (State::Stopped, None));
}

#[test]
fn a_session_that_was_stopped_stays_so_though_its_log_is_lost() {
    let (mut bench, orders) = store::bench(Settings::default());
    bench.ask(&caller(1, Role::Spawn), stop(false));
    orders.lock().unwrap().appends_fail = true;
    let outs = dies(&mut bench, 1);
    assert!(store::internal(&outs), "its end could not be written: {outs:?}");
    assert_eq!((bench.state(), ends(&outs)), (State::Stopped, vec![]));
    // What was asked in one that runs cannot be answered any more.
    let (mut bench, orders) = store::bench(Settings::default());
    bench.says(1, asks("r", None));
    bench.outs();
    orders.lock().unwrap().appends_fail = true;
    bench.says(1, claude::Event::Notice { level: "info", text: "lost".into() });
    let summary = &bench.hub.summaries()[0];
    assert_eq!((summary.state, summary.waiting), (State::Failed, 0));
}

#[test]
fn a_process_on_another_s_conversation_is_told_to_end_once_and_no_later_one_for_it() {
    let mut bench = Bench::new(Settings::default());
    launched(&mut bench, Past::Newest).unwrap();
    dies(&mut bench, 1);
    assert!(launch(&bench.pass(500)).is_some());
    let wanted = Past::Conversation("abc".into());
    let create = Create { profile: "default".into(), folder: Some("/b".into()), past: wanted, ..Create::default() };
    bench.hub.create(create, bench.now).unwrap();
    bench.outs();
    // The first process is gone: what it still says is not held against the second one.
    bench.says(1, claude::Event::ConversationId("abc".into()));
    assert!(ends(&bench.outs()).is_empty());
    for _ in 0..2 {
        bench.says(2, claude::Event::ConversationId("abc".into()));
    }
    assert_eq!(ends(&bench.outs()), [End::Kill]);
}
