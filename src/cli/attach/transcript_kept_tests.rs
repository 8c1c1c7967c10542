//! Property tests of what a transcript keeps, and of the part of it that is in view.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    /// So many characters of a block.
    Stream(u32, usize),
    /// A block is whole: what was streamed of it, and so many characters more.
    Whole(u32, usize),
    Abandon,
    /// Older entries come.
    Prepend(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let chars = || prop_oneof![3 => 1..40usize, 1 => PIECE_BYTES_MAX / 4..PIECE_BYTES_MAX];
    prop_oneof![
        2 => chars().prop_map(Step::Add),
        6 => (0..3u32, chars()).prop_map(|(block, chars)| Step::Stream(block, chars)),
        4 => (0..3u32, 0..40usize).prop_map(|(block, chars)| Step::Whole(block, chars)),
        1 => Just(Step::Abandon),
        1 => (chars(), any::<bool>()).prop_map(|(chars, more)| Step::Prepend(chars, more)),
    ]
}

fn key(block: u32) -> Key {
    ("m".into(), block)
}

fn in_view(transcript: &mut Transcript, area: Rect) -> Vec<String> {
    let mut buffer = Buffer::empty(area);
    transcript.draw(area, &mut buffer);
    let row = |y| (0..area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..area.height).map(row).collect()
}

/// Each text has a letter of its own, of two bytes.
fn text(letter: u32, chars: usize) -> String {
    char::from_u32(0x100 + letter).expect("a letter").to_string().repeat(chars)
}

#[test]
fn a_piece_too_long_for_one_ends_no_line_and_begins_none() {
    let line = "x".repeat(PIECE_BYTES_MAX / 2);
    let long = format!("{line}\n{line}\n{line}\n");
    for begins in ["", "a\n"] {
        let mut transcript = Transcript::new(Theme { color: false });
        for piece in [begins, &long, "b"].into_iter().filter(|piece| !piece.is_empty()) {
            transcript.apply(Change::Stream { key: key(0), kind: Kind::Answer, piece: piece.to_owned() });
        }
        let lines = transcript.items.iter().flat_map(|item| item.entry.text.lines());
        let lines: Vec<usize> = lines.map(str::len).collect();
        assert_eq!(lines[lines.len() - 4..], [line.len(), line.len(), line.len(), 1], "{begins:?}");
    }
}

#[test]
fn a_block_that_ends_longer_than_one_piece_is_in_pieces() {
    let mut transcript = Transcript::new(Theme { color: false });
    let piece = "x".repeat(PIECE_BYTES_MAX);
    transcript.apply(Change::Stream { key: key(0), kind: Kind::Answer, piece: piece.clone() });
    let entry = Entry::new(Kind::Answer, &(piece + "y"));
    transcript.apply(Change::Whole { key: key(0), entry, rest: "y".into() });
    let texts: Vec<usize> = transcript.items.iter().map(|item| item.entry.text.len()).collect();
    assert_eq!((texts, transcript.rows(1, 20)), (vec![PIECE_BYTES_MAX, 1], 1), "no row is free between them");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is added, streamed, whole or left off: each text is there once, in pieces that are no larger than they
    /// may be, all of them are counted, what is whole is one where it fits, and nothing that was laid out before stands.
    #[test]
    fn each_text_is_kept_once_and_counted(steps in prop::collection::vec(step(), 1..20)) {
        let mut transcript = Transcript::new(Theme { color: false });
        let area = Rect::new(0, 0, 40, 12);
        let mut expected: HashMap<u32, usize> = HashMap::new();
        let mut open: HashMap<u32, u32> = HashMap::new();
        for (letter, step) in (0..).zip(steps) {
            match step {
                Step::Add(chars) => {
                    expected.insert(letter, chars);
                    transcript.apply(Change::Add(Entry::new(Kind::Note, &text(letter, chars))));
                }
                Step::Prepend(chars, has_more) => {
                    expected.insert(letter, chars);
                    let head = transcript.items.iter().filter(|item| item.entry.kind == Kind::Head).count();
                    transcript.prepend(vec![Change::Add(Entry::new(Kind::Prompt, &text(letter, chars)))], has_more);
                    prop_assert_eq!(head, transcript.items.iter().filter(|item| item.entry.kind == Kind::Head).count());
                    let says = transcript.items.iter().filter(|item| item.entry.text == EARLIER).count();
                    prop_assert_eq!(says, usize::from(has_more));
                }
                Step::Stream(block, chars) => {
                    let letter = *open.entry(block).or_insert(letter);
                    *expected.entry(letter).or_default() += chars;
                    let piece = text(letter, chars);
                    transcript.apply(Change::Stream { key: key(block), kind: Kind::Answer, piece });
                }
                Step::Whole(block, chars) => {
                    let letter = open.remove(&block).unwrap_or(letter);
                    let all = expected.entry(letter).or_default();
                    *all += chars;
                    let (all, rest) = (*all, text(letter, chars));
                    let entry = Entry::new(Kind::Answer, &text(letter, all));
                    let fits = entry.text.len() <= PIECE_BYTES_MAX && !entry.text.is_empty();
                    transcript.apply(Change::Whole { key: key(block), entry, rest });
                    prop_assert!(!transcript.items.iter().any(|item| item.key == Some(key(block))));
                    let whole = text(letter, all);
                    let is_one = transcript.items.iter().any(|item| item.entry.text == whole && !item.is_part);
                    prop_assert!(is_one || !fits);
                }
                Step::Abandon => {
                    open.clear();
                    transcript.apply(Change::Abandon);
                    prop_assert!(transcript.items.iter().all(|item| item.key.is_none()));
                }
            }
            let texts = || transcript.items.iter().map(|item| &item.entry.text);
            prop_assert_eq!(transcript.bytes, texts().map(String::len).sum::<usize>());
            prop_assert!(texts().all(|text| text.len() <= PIECE_BYTES_MAX));
            for (letter, chars) in &expected {
                let one = char::from_u32(0x100 + letter).expect("a letter");
                let found: usize = texts().map(|text| text.matches(one).count()).sum();
                prop_assert_eq!(found, *chars);
            }
            let seen = in_view(&mut transcript, area);
            transcript.items.iter_mut().for_each(|item| item.layout = None);
            prop_assert_eq!(seen, in_view(&mut transcript, area));
        }
    }

    /// However it is scrolled, what is in view is a part of all rows, one under the other, and it moves by as many rows
    /// as it was told to, from the first one to the last.
    #[test]
    fn what_is_in_view_is_a_part_of_all_rows(
        entries in prop::collection::vec((prop::sample::select(vec![Kind::Note, Kind::Answer, Kind::Tool]), 1..60usize), 1..12),
        height in 1..8u16,
        scrolls in prop::collection::vec(-9..10isize, 1..20),
    ) {
        let mut transcript = Transcript::new(Theme { color: false });
        for (at, (kind, chars)) in (0..).zip(&entries) {
            transcript.apply(Change::Add(Entry { kind: *kind, text: text(at, *chars) }));
        }
        let area = Rect::new(0, 0, 20, height);
        let count: usize = (0..entries.len()).map(|at| transcript.rows(at, area.width)).sum();
        let all = in_view(&mut transcript, Rect { height: u16::try_from(count).expect("few rows"), ..area });
        let shown = usize::from(height).min(count);
        let last = count - shown;
        let mut first = last;
        for rows in scrolls {
            let moved = first.saturating_add_signed(rows).min(last);
            prop_assert_eq!(transcript.scroll(rows, area), rows <= 0 && first == 0 && moved == 0);
            first = moved;
            prop_assert_eq!(&in_view(&mut transcript, area)[..shown], &all[first..first + shown]);
            prop_assert_eq!(transcript.at_end(), first == last);
        }
        transcript.show_end();
        prop_assert!(transcript.at_end());
        prop_assert_eq!(&in_view(&mut transcript, area)[..shown], &all[last..]);
    }
}
