//! Goal: what is said of live text fits into messages, however fast it comes.

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
