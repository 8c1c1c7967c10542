//! Goal: what is said of live text fits into messages, however fast it comes, and so does what is said of those who watch.

use super::*;

#[test]
fn pieces_of_live_text_are_joined_within_a_bound() {
    const PIECES: usize = 100;
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(1, Role::Watch), attach()).unwrap();
    bench.answer(&caller(2, Role::Drive), prompt("x")).unwrap();
    bench.outs();
    // All of them come before the worker takes one.
    for _ in 0..PIECES {
        let (message, text) = ("m".into(), "x".repeat(1_000).into());
        bench.says(1, claude::Event::Delta { message, block: 0, kind: Block::Text, text });
    }
    let outs = bench.outs();
    let pieces: Vec<(u64, usize)> = outs
        .iter()
        .filter_map(|out| if let Out::Delta { at, text, .. } = out { Some((*at, text.len())) } else { None })
        .collect();
    assert_eq!(pieces.iter().map(|(_, bytes)| bytes).sum::<usize>(), 1_000 * PIECES);
    assert!(pieces.len() < PIECES / 2, "they are joined: {pieces:?}");
    assert!(pieces.iter().all(|(_, bytes)| *bytes < 2 * (16 << 10)), "a message each has room for: {pieces:?}");
}

pub(super) fn delta(message: &str, block: u32, text: &str) -> claude::Event {
    claude::Event::Delta { message: message.into(), block, kind: Block::Text, text: text.into() }
}

/// A session in a turn, with these devices.
fn watched(watchers: &[&Caller]) -> Bench {
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(9, Role::Drive), prompt("x")).unwrap();
    for watcher in watchers {
        bench.answer(watcher, attach()).unwrap();
    }
    bench.outs();
    bench
}

/// Live text as it goes out: to how many, from where, and what.
pub(super) fn pieces(outs: &[Out]) -> Vec<(usize, u64, &str)> {
    let piece = |out| match out {
        &Out::Delta { ref peers, at, ref text, .. } => Some((peers.len(), at, &**text)),
        _ => None,
    };
    outs.iter().filter_map(piece).collect()
}

fn present(outs: &[Out]) -> Vec<(Vec<ConnToken>, usize)> {
    let of = |out: &Out| match out {
        Out::Presence { peers, devices, .. } => Some((peers.clone(), devices.len())),
        _ => None,
    };
    outs.iter().filter_map(of).collect()
}

#[test]
fn a_device_that_was_paused_learns_who_watches_when_it_goes_on() {
    let (one, two, three) = (caller(1, Role::Watch), caller(2, Role::Watch), caller(3, Role::Watch));
    let mut bench = watched(&[&one, &two, &three]);
    bench.hub.paused(one.peer);
    bench.hub.disconnected(three.peer, bench.now);
    assert_eq!(present(&bench.pass(1_000)), [(vec![two.peer], 2)]);
    bench.hub.resumed(one.peer, bench.now);
    assert_eq!(present(&bench.outs()), [(vec![one.peer], 2)]);
    // It has missed nothing this time.
    bench.hub.paused(one.peer);
    bench.hub.resumed(one.peer, bench.now);
    assert_eq!(present(&bench.outs()), []);
}

#[test]
fn a_piece_is_not_joined_to_one_that_went_to_other_devices() {
    let (one, two) = (caller(1, Role::Watch), caller(2, Role::Watch));
    let mut bench = watched(&[&one, &two]);
    bench.says(1, delta("m", 0, "a"));
    bench.hub.paused(two.peer);
    bench.says(1, delta("m", 0, "b"));
    assert_eq!(pieces(&bench.outs()), [(2, 0, "a"), (1, 1, "b")]);
}

#[test]
fn a_piece_is_not_joined_across_one_that_was_not_sent() {
    let one = caller(1, Role::Watch);
    let mut bench = watched(&[&one]);
    bench.says(1, delta("m", 0, "a"));
    bench.hub.paused(one.peer);
    bench.says(1, delta("m", 0, "lost"));
    bench.hub.resumed(one.peer, bench.now);
    bench.says(1, delta("m", 0, "b"));
    assert_eq!(pieces(&bench.outs()), [(1, 0, "a"), (1, 5, "b")], "a device sees where something is missing");
}

/// What is kept of streamed text, in bytes.
const KEPT: usize = 256 << 10;

#[test]
fn more_blocks_than_can_be_counted_are_not_shown_live_and_the_snapshot_fits() {
    let one = caller(1, Role::Watch);
    let mut bench = watched(&[&one]);
    // Their names alone are more than what is kept.
    let name = "m".repeat(1_000);
    let mut shown = 0;
    for block in 0..2 * (KEPT / 1_000) as u32 {
        bench.says(1, delta(&name, block, "x"));
        let outs = bench.outs();
        let is_shown = !pieces(&outs).is_empty();
        assert!(!is_shown || shown == block, "block {block} behind one that was not shown");
        shown += u32::from(is_shown);
    }
    assert!((100..KEPT as u32 / 1_000).contains(&shown), "{shown} of them");
    let Ok(Reply::Attached { snapshot, .. }) = bench.answer(&one, attach()) else { panic!("not attached") };
    assert_eq!(snapshot.turn.expect("a turn").blocks.len(), shown as usize);
    bench.outs();
    // A block that was begun goes on.
    bench.says(1, delta(&name, 0, "y"));
    assert_eq!(pieces(&bench.outs()), [(1, 1, "y")]);
}

#[test]
fn a_block_that_is_done_leaves_its_room_to_others() {
    let one = caller(1, Role::Watch);
    let mut bench = watched(&[&one]);
    let text = "x".repeat(10_000);
    for block in 0..3 * (KEPT / 10_000) as u32 {
        bench.says(1, delta("m", block, &text));
        assert_eq!(pieces(&bench.outs()), [(1, 0, &*text)], "block {block}");
        let Ok(Reply::Attached { snapshot, .. }) = bench.answer(&one, attach()) else { panic!("not attached") };
        assert!(*snapshot.turn.expect("a turn").blocks[0].text == *text, "block {block} is kept whole");
        let (message, text) = ("m".into(), (&*text).into());
        bench.says(1, claude::Event::Text { message, block, kind: Block::Text, text, parent: None });
        bench.outs();
    }
}

/// How many devices each list of those that watch has.
fn lists(outs: &[Out]) -> Vec<usize> {
    outs.iter()
        .filter_map(|out| if let Out::Presence { devices, .. } = out { Some(devices.len()) } else { None })
        .collect()
}

#[test]
fn the_list_of_devices_comes_at_once_and_then_once_in_a_while() {
    const EACH_MS: u64 = 1_000;
    let mut bench = Bench::ready(Settings::default());
    let idle = bench.hub.next_timeout();
    let (owner, guest) = (caller(1, Role::Admin), caller(2, Role::Watch));
    assert_eq!(lists(&bench.ask(&owner, attach())), [1], "the first change at once");
    assert_eq!(bench.hub.next_timeout(), idle, "nothing is left to say");
    bench.pass(EACH_MS);
    bench.answer(&owner, Command::List { follow: Some(true) }).unwrap();
    let summaries = |outs: &[Out]| outs.iter().filter(|out| matches!(out, Out::Changed { .. })).count();
    // A device that comes and goes as fast as it can, for ten seconds.
    let (mut all, mut told) = (Vec::new(), 0);
    for _ in 0..1_000 {
        let mut outs = bench.ask(&guest, attach());
        outs.extend(bench.ask(&guest, Command::Detach { session: "id1".into() }));
        outs.extend(bench.pass(10));
        told += summaries(&outs);
        all.extend(lists(&outs));
    }
    assert!((10..=11).contains(&all.len()) && told <= all.len(), "{all:?}, and {told} summaries");
    // What it is at last is said, when it is time, and that is the end.
    bench.pass(EACH_MS);
    assert_eq!(lists(&bench.ask(&guest, attach())), [2]);
    assert!(lists(&bench.ask(&guest, Command::Detach { session: "id1".into() })).is_empty());
    assert_eq!(bench.hub.next_timeout(), Some(bench.now.mono_ms + EACH_MS));
    assert!(lists(&bench.pass(EACH_MS - 1)).is_empty());
    assert_eq!(lists(&bench.pass(1)), [1]);
    assert_eq!(bench.hub.next_timeout(), idle, "an idle session wakes nobody");
    assert!(lists(&bench.pass(10 * EACH_MS)).is_empty());
}

#[test]
fn a_line_of_the_process_that_holds_more_than_a_message_goes_out_in_pieces() {
    const BYTES: usize = 100_000;
    let one = caller(1, Role::Watch);
    let mut bench = watched(&[&one]);
    // Each of its characters takes three bytes.
    let text = "€".repeat(BYTES / 3);
    bench.says(1, delta("m", 0, &text));
    let outs = bench.outs();
    let all = pieces(&outs);
    assert!(all.iter().all(|(_, _, piece)| piece.len() < 2 * (16 << 10)), "a message has room for each");
    let mut whole = String::new();
    for (_, at, piece) in all {
        assert_eq!(at, whole.len() as u64);
        whole.push_str(piece);
    }
    assert!(whole == text);
}

#[test]
fn pieces_of_two_blocks_are_not_joined() {
    let one = caller(1, Role::Watch);
    for (message, block) in [("m", 1), ("n", 0)] {
        let mut bench = watched(&[&one]);
        // The other block stands where the first one ends.
        bench.says(1, delta(message, block, "a"));
        bench.outs();
        bench.says(1, delta("m", 0, "b"));
        bench.says(1, delta(message, block, "c"));
        assert_eq!(pieces(&bench.outs()), [(1, 0, "b"), (1, 1, "c")]);
    }
}

#[test]
fn what_is_kept_of_a_block_is_a_prefix_of_it() {
    let one = caller(1, Role::Watch);
    let mut bench = watched(&[&one]);
    let piece = "x".repeat(10_000);
    bench.says(1, delta("m", 1, &piece));
    for _ in 0..KEPT / 10_000 {
        bench.says(1, delta("m", 0, &piece));
    }
    // One that is done makes room, which comes too late for this one.
    let (message, text) = ("m".into(), "done".into());
    bench.says(1, claude::Event::Text { message, block: 1, kind: Block::Text, text, parent: None });
    bench.says(1, delta("m", 0, "end"));
    let Ok(Reply::Attached { snapshot, .. }) = bench.answer(&one, attach()) else { panic!("not attached") };
    let block = &snapshot.turn.expect("a turn").blocks[0];
    assert!(!block.text.contains("end"), "something is missing before that");
    assert!(block.bytes > block.text.len() as u64 && block.text.len() > KEPT / 2);
}

#[test]
fn a_turn_that_is_over_leaves_its_room_to_the_next() {
    let one = caller(1, Role::Watch);
    let mut bench = watched(&[&one]);
    for turn in 0..3 {
        bench.answer(&caller(9, Role::Drive), prompt("next")).unwrap();
        let message = format!("m{turn}");
        bench.says(1, delta(&message, 0, &"x".repeat(KEPT)));
        let Ok(Reply::Attached { snapshot, .. }) = bench.answer(&one, attach()) else { panic!("not attached") };
        let blocks = snapshot.turn.expect("a turn").blocks;
        let kept: Vec<_> = blocks.iter().map(|block| (&*block.message, block.text.len() > KEPT / 2)).collect();
        assert_eq!(kept, [(&*message, true)]);
        bench.outs();
        // It is interrupted: no block of it becomes an event.
        stop::turn_ends(&mut bench, 1, false, "aborted");
    }
}
