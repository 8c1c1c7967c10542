//! Goal: what a device has when it has joined, and what is left of one that goes or may not. Method: the store that does
//! as it is told, so that its `attach` waits for a commit or a read while something else happens.

use super::{
    keys::{keys, of},
    lag::{next, notice, offsets},
    live::{delta, pieces},
    store::{attach_from, bench, history, nothing_at_hand},
    *,
};

fn attached(outs: &[Out]) -> &crate::relay::api::Snapshot {
    let snapshot = |out| match out {
        &Out::Answer { result: Ok(Reply::Attached { ref snapshot, .. }), .. } => Some(&**snapshot),
        _ => None,
    };
    outs.iter().find_map(snapshot).unwrap_or_else(|| panic!("{outs:?}"))
}

fn is_caught_up(out: &Out) -> bool {
    matches!(out, Out::CaughtUp { .. })
}

/// The text of the first block of the turn that runs.
fn streamed(outs: &[Out]) -> &str {
    &attached(outs).turn.as_ref().expect("a turn").blocks[0].text
}

#[test]
fn a_device_that_joins_has_what_was_streamed_while_it_waited() {
    // A turn that no prompt has asked for begins; or one ran already.
    for begins in [true, false] {
        let (mut bench, orders) = bench(Settings::default());
        let begin = |bench: &mut Bench| bench.says(1, claude::Event::Init { model: None, mode: None });
        if !begins {
            begin(&mut bench);
        }
        orders.lock().unwrap().appends_wait = true;
        notice(&mut bench, "one");
        assert!(bench.ask(&caller(1, Role::Watch), attach()).is_empty(), "what its snapshot says is not safe yet");
        assert_ne!(bench.hub.next_timeout(), Some(0), "the word of the store is waited for, not asked for");
        if begins {
            begin(&mut bench);
        }
        bench.says(1, delta("m", 0, "so far"));
        orders.lock().unwrap().appends_wait = false;
        bench.hub.stored(bench.now);
        assert_eq!(streamed(&bench.outs()), "so far");
        // The rest follows where that ends.
        bench.says(1, delta("m", 0, ", and on"));
        assert_eq!(pieces(&bench.outs()), [(1, 6, ", and on")]);
    }
}

#[test]
fn a_device_that_takes_nothing_is_sent_its_answer_alone() {
    let (mut bench, _) = bench(Settings::default());
    let watch = caller(1, Role::Watch);
    bench.hub.paused(watch.peer);
    let from = next(&bench);
    let outs = bench.ask(&watch, attach_from(0));
    assert!(matches!(outs[..], [Out::Answer { result: Ok(_), .. }]), "{outs:?}");
    notice(&mut bench, "missed");
    bench.says(1, delta("m", 0, "missed"));
    assert!(bench.outs().is_empty());
    // It is behind, and that wakes nobody.
    assert_ne!(bench.hub.next_timeout(), Some(0));
    bench.hub.resumed(watch.peer, bench.now);
    let outs = bench.pass(0);
    assert_eq!(offsets(&outs, &watch), (0..=from).collect::<Vec<_>>());
    assert_eq!(outs.iter().filter(|out| is_caught_up(out)).count(), 1);
}

#[test]
fn a_device_that_has_the_whole_past_is_told_so_at_once_and_when_it_goes_on() {
    let (mut bench, _) = bench(Settings::default());
    let watch = caller(1, Role::Watch);
    let end = next(&bench);
    let outs = bench.ask(&watch, attach_from(end));
    assert_eq!(outs.iter().filter(|out| is_caught_up(out)).count(), 1, "nothing is left to come");
    bench.hub.paused(watch.peer);
    assert!(!bench.ask(&watch, attach_from(end)).iter().any(is_caught_up), "it takes nothing");
    bench.hub.resumed(watch.peer, bench.now);
    assert_eq!(bench.outs().iter().filter(|out| is_caught_up(out)).count(), 1);
}

#[test]
fn a_device_that_goes_before_it_has_joined_leaves_nothing_behind() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let (gone, other) = (caller(1, Role::Drive), caller(2, Role::Watch));
    orders.lock().unwrap().reads_wait = true;
    assert!(bench.ask(&gone, attach()).is_empty(), "its tail is being read");
    assert_eq!(answer(&bench.ask(&gone, prompt("its own"))), None, "which its other answers wait for");
    assert!(bench.ask(&gone, history(1)).is_empty());
    bench.hub.disconnected(gone.peer, bench.now);
    bench.outs();
    assert!(bench.hub.sessions[0].settled(), "nothing waits for it");
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    assert!(bench.outs().is_empty(), "nothing is said to it");
    assert_eq!(bench.hub.counts().watchers, 0);
    // One that was paused comes again under the same name, and is not.
    bench.hub.paused(other.peer);
    bench.hub.disconnected(other.peer, bench.now);
    bench.answer(&other, attach()).unwrap();
    notice(&mut bench, "heard");
    assert_eq!(offsets(&bench.outs(), &other).len(), 1);
}

#[test]
fn a_device_whose_key_changes_before_it_has_joined_joins_as_what_it_is() {
    for left in [None, Some(Role::Watch)] {
        let (mut bench, orders) = bench(Settings::default());
        bench.hub.keys(keys(&[(1, Role::Admin)]), bench.now);
        orders.lock().unwrap().appends_wait = true;
        notice(&mut bench, "one");
        assert!(bench.ask(&of(1, Role::Admin), attach()).is_empty(), "what its snapshot says is not safe yet");
        let left: Vec<_> = left.map(|role| (1, role)).into_iter().collect();
        bench.hub.keys(keys(&left), bench.now);
        orders.lock().unwrap().appends_wait = false;
        bench.hub.stored(bench.now);
        let outs = bench.outs();
        if left.is_empty() {
            assert!(matches!(answer(&outs), Some(Err(Error { code: Code::KeyNotAuthorized, .. }))), "{outs:?}");
            assert_eq!(bench.hub.counts().watchers, 0);
        } else {
            assert_eq!(attached(&outs).devices[0].role, Role::Watch);
        }
    }
}

#[test]
fn a_device_that_is_refused_for_its_key_keeps_no_answer_of_its_own_waiting() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let drive = of(1, Role::Drive);
    bench.hub.keys(keys(&[(1, Role::Drive)]), bench.now);
    orders.lock().unwrap().reads_wait = true;
    assert!(bench.ask(&drive, attach()).is_empty(), "its tail is being read");
    assert_eq!(answer(&bench.ask(&drive, prompt("its own"))), None, "which its other answers wait for");
    bench.hub.keys(keys(&[]), bench.now);
    let outs = bench.outs();
    let refused = outs.iter().filter_map(|out| match out {
        Out::Answer { result, .. } => Some(result.is_err()),
        _ => None,
    });
    assert_eq!(refused.collect::<Vec<_>>(), [true, false], "in their order");
}

#[test]
fn a_device_that_is_behind_has_no_live_text_ahead_of_what_it_lacks() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let watch = caller(1, Role::Watch);
    bench.answer(&watch, attach()).unwrap();
    bench.hub.paused(watch.peer);
    notice(&mut bench, "missed");
    orders.lock().unwrap().reads_wait = true;
    bench.hub.resumed(watch.peer, bench.now);
    bench.pass(0);
    let reads = orders.lock().unwrap().reads;
    bench.says(1, delta("m", 0, "too early"));
    assert_eq!(pieces(&bench.outs()), []);
    // What is being read is not read once more, and that wakes nobody.
    assert_ne!(bench.hub.next_timeout(), Some(0));
    bench.pass(0);
    assert_eq!(orders.lock().unwrap().reads, reads);
}

#[test]
fn what_devices_wait_for_with_their_tail_stays_at_hand() {
    // A read brings what was there; what follows is not read again.
    let (mut bench, orders) = bench(nothing_at_hand());
    let watch = caller(1, Role::Watch);
    orders.lock().unwrap().reads_wait = true;
    let from = next(&bench);
    assert!(bench.ask(&watch, attach()).is_empty(), "its tail is being read");
    notice(&mut bench, "one");
    notice(&mut bench, "two");
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    assert_eq!(offsets(&bench.outs(), &watch), [from, from + 1]);
    assert_eq!(orders.lock().unwrap().reads, 1);
}

#[test]
fn a_device_whose_read_finds_no_room_is_read_for_when_there_is() {
    let store = crate::store::Bounds { read_bytes: 1, ..crate::store::Bounds::default() };
    let watch = caller(1, Role::Watch);
    for is_late in [false, true] {
        let (mut bench, orders) = bench(Settings { store, ..nothing_at_hand() });
        if !is_late {
            bench.answer(&watch, attach()).unwrap();
        }
        let from = next(&bench);
        bench.hub.paused(watch.peer);
        notice(&mut bench, "missed");
        orders.lock().unwrap().reads_wait = true;
        assert!(bench.ask(&caller(2, Role::Watch), history(1)).is_empty(), "its read takes all the room");
        bench.hub.resumed(watch.peer, bench.now);
        if is_late {
            assert!(bench.ask(&watch, attach_from(from)).is_empty());
        }
        assert!(bench.pass(0).is_empty());
        assert_ne!(bench.hub.next_timeout(), Some(0), "nothing can be done at once");
        orders.lock().unwrap().reads_wait = false;
        bench.hub.stored(bench.now);
        let mut outs = bench.outs();
        assert!(matches!(answer(&outs), Some(Ok(Reply::History { .. }))), "{outs:?}");
        let mut turns = 0;
        while bench.hub.next_timeout() == Some(0) {
            outs.extend(bench.pass(0));
            turns += 1;
            assert!(turns < 10, "it does not end");
        }
        assert_eq!(offsets(&outs, &watch), [from], "late: {is_late}");
    }
}

#[test]
fn a_position_that_the_log_has_not_come_to_is_refused() {
    let (mut bench, _) = bench(Settings::default());
    let end = next(&bench);
    for command in [attach_from(end + 1), history(end + 1)] {
        let error = bench.answer(&caller(1, Role::Watch), command).unwrap_err();
        assert!(error.code == Code::CannotResume && error.message.contains("not come to"), "{error:?}");
        let Some(Details::Range { next, .. }) = error.details else { panic!("no range") };
        assert_eq!(next.offset, end, "what it can ask for");
    }
}

#[test]
fn an_answer_with_a_large_snapshot_has_less_of_the_past() {
    const MESSAGE_BYTES: usize = 1_000_000;
    let mut bench = Bench::ready(Settings::default());
    for n in 0..3 {
        let text = format!("{n}{}", "x".repeat(200_000));
        bench.says(1, claude::Event::Notice { level: "info", text: text.as_str().into() });
        bench.answer(&Caller::sample(&format!("SHA256:{n}"), 2, Role::Drive), prompt(&text)).unwrap();
    }
    let command = Command::Attach { session: "id1".into(), from: None, tail_bytes: Some(u64::MAX) };
    let outs = bench.ask(&caller(1, Role::Watch), command);
    let Some(Ok(Reply::Attached { events, .. })) = answer(&outs) else { panic!("{outs:?}") };
    let past: usize = events.iter().map(|event| event.bulk()).sum();
    let all = past + attached(&outs).bulk();
    assert!(!events.is_empty() && (MESSAGE_BYTES / 2..MESSAGE_BYTES).contains(&all), "{past} of {all} bytes");
}

#[test]
fn a_device_that_is_behind_has_what_it_lacks_before_what_is_new_and_is_told_when_it_has_all() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let (watch, other) = (caller(1, Role::Watch), caller(2, Role::Watch));
    for who in [&watch, &other] {
        bench.answer(who, attach()).unwrap();
    }
    let from = next(&bench);
    for who in [&watch, &other] {
        bench.hub.paused(who.peer);
    }
    notice(&mut bench, "missed");
    orders.lock().unwrap().reads_wait = true;
    assert!(bench.ask(&caller(3, Role::Watch), attach_from(0)).is_empty());
    bench.hub.resumed(watch.peer, bench.now);
    bench.pass(0);
    notice(&mut bench, "new");
    assert_eq!(offsets(&bench.outs(), &watch), [] as [u64; 0]);
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    let mut outs = bench.outs();
    for _ in 0..5 {
        outs.extend(bench.pass(0));
    }
    assert_eq!(offsets(&outs, &watch), [from, from + 1]);
    assert_eq!(offsets(&outs, &other), [] as [u64; 0], "it still takes nothing");
    assert_eq!(offsets(&outs, &caller(3, Role::Watch)), (0..from + 2).collect::<Vec<_>>());
    let told: Vec<_> = outs.iter().filter(|out| is_caught_up(out)).collect();
    assert!(matches!(told[..], [Out::CaughtUp { peer, .. }] if *peer == caller(3, Role::Watch).peer), "{told:?}");
}

#[test]
fn what_a_device_has_on_joining_is_as_of_then() {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(1, Role::Watch), attach()).unwrap();
    bench.pass(1_000);
    bench.answer(&caller(2, Role::Drive), prompt("x")).unwrap();
    let outs = bench.ask(&caller(2, Role::Drive), attach());
    let snapshot = attached(&outs);
    assert_eq!((snapshot.devices.len(), snapshot.summary.devices), (2, 2));
    assert_eq!(snapshot.summary.active_at, bench.now.unix_ms);
    let detach = Command::Detach { session: "id1".into() };
    assert_eq!(bench.answer(&caller(1, Role::Watch), detach), Ok(Reply::Done));
}
