//! Goal: a device that is behind, or on its way, gets each event once, in order, and none that is not safe. Method: the
//! store that does as it is told, and a pause or a word of it just in between.

use std::sync::Mutex;

use super::{
    store::{Orders, attach_from, bench, bench_within, history, internal, nothing_at_hand},
    *,
};

/// The offsets of the events that one device is sent.
pub(super) fn offsets(outs: &[Out], to: &Caller) -> Vec<u64> {
    let offset = |out: &Out| match out {
        Out::Event { peers, event } if peers.contains(&to.peer) => Some(event.position.offset),
        _ => None,
    };
    outs.iter().filter_map(offset).collect()
}

fn is_reset(out: &Out) -> bool {
    matches!(out, Out::Reset { .. })
}

pub(super) fn notice(bench: &mut Bench, text: &str) {
    bench.says(1, claude::Event::Notice { level: "info", text: text.into() });
}

pub(super) fn next(bench: &Bench) -> u64 {
    bench.hub.summaries()[0].next.offset
}

/// A watcher that lacks what came since an offset, for which a read is under way.
fn reading() -> (Bench, Arc<Mutex<Orders>>, Caller, u64) {
    let (mut bench, orders) = bench(nothing_at_hand());
    let watch = caller(1, Role::Watch);
    bench.answer(&watch, attach()).unwrap();
    let from = next(&bench);
    bench.hub.paused(watch.peer);
    notice(&mut bench, "one");
    notice(&mut bench, "two");
    assert!(offsets(&bench.outs(), &watch).is_empty());
    orders.lock().unwrap().reads_wait = true;
    bench.hub.resumed(watch.peer, bench.now);
    assert!(offsets(&bench.pass(0), &watch).is_empty(), "it is being read");
    (bench, orders, watch, from)
}

#[test]
fn a_read_that_fails_for_a_device_that_takes_nothing_is_tried_again_when_it_does() {
    let (mut bench, orders, watch, from) = reading();
    bench.hub.paused(watch.peer);
    let set = |wait, fail| (orders.lock().unwrap().reads_wait, orders.lock().unwrap().reads_fail) = (wait, fail);
    set(false, true);
    bench.hub.stored(bench.now);
    let outs = bench.outs();
    assert!(outs.is_empty(), "it would not be taken: {outs:?}");
    set(false, false);
    bench.hub.resumed(watch.peer, bench.now);
    assert_eq!(offsets(&bench.pass(0), &watch), [from, from + 1]);
}

#[test]
fn what_is_read_for_a_device_that_takes_nothing_any_more_comes_when_it_does() {
    let (mut bench, orders, watch, from) = reading();
    bench.hub.paused(watch.peer);
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    assert!(offsets(&bench.outs(), &watch).is_empty(), "it takes nothing");
    bench.hub.resumed(watch.peer, bench.now);
    assert_eq!(offsets(&bench.pass(0), &watch), [from, from + 1]);
}

#[test]
fn what_is_read_before_it_is_known_to_be_safe_is_not_shown() {
    let (mut bench, orders, watch, from) = reading();
    orders.lock().unwrap().word_waits = true;
    notice(&mut bench, "three");
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    assert_eq!(offsets(&bench.outs(), &watch), [from, from + 1], "the third is not known to be safe");
    orders.lock().unwrap().word_waits = false;
    bench.hub.stored(bench.now);
    assert_eq!(offsets(&bench.outs(), &watch), [from + 2]);
}

#[test]
fn a_device_whose_tail_the_log_has_dropped_meanwhile_has_all_from_its_snapshot_on() {
    let (mut bench, orders) = bench_within(nothing_at_hand(), Limits { log_bytes: 1_000, total_bytes: 1_000_000 });
    let watch = caller(1, Role::Watch);
    orders.lock().unwrap().reads_wait = true;
    let from = next(&bench);
    assert!(bench.ask(&watch, attach()).is_empty(), "its tail is being read");
    for _ in 0..20 {
        notice(&mut bench, &"x".repeat(200));
    }
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    let outs = bench.outs();
    let Some(Ok(Reply::Attached { events, next: at, .. })) = answer(&outs) else { panic!("{outs:?}") };
    assert_eq!((events.len(), at.offset), (0, from));
    assert_eq!(offsets(&outs, &watch), (from..next(&bench)).collect::<Vec<_>>());
    assert!(!outs.iter().any(is_reset), "{outs:?}");
}

#[test]
fn a_record_of_another_place_is_not_taken_for_what_was_asked_for() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let watch = caller(1, Role::Watch);
    notice(&mut bench, "one");
    notice(&mut bench, "two");
    bench.outs();
    orders.lock().unwrap().reads_stray = true;
    for command in [history(1), attach_from(0)] {
        let outs = bench.ask(&watch, command);
        assert!(internal(&outs) && outs.len() == 1, "{outs:?}");
        assert!(format!("{outs:?}").contains("holds no event of this place"), "{outs:?}");
    }
}

#[test]
fn devices_that_are_about_to_watch_have_their_places_already() {
    let (mut bench, orders) = bench(Settings { watchers_max: 4, ..nothing_at_hand() });
    orders.lock().unwrap().reads_wait = true;
    for slot in 0..2 {
        assert!(bench.ask(&caller(slot, Role::Watch), attach()).is_empty(), "its tail is being read");
    }
    let outs = bench.ask(&caller(2, Role::Watch), attach());
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    let more = bench.outs();
    let refused = outs.iter().chain(&more).filter_map(|out| match out {
        Out::Answer { re, result: Err(error), .. } => Some((&**re, error.code)),
        _ => None,
    });
    assert_eq!(refused.collect::<Vec<_>>(), [("3", Code::Limit)], "the key has half of the places");
    assert_eq!(bench.hub.summaries()[0].devices, 2);
}
