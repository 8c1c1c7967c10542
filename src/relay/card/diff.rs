//! An edit as lines: what it takes out, what it puts in, what it leaves. Every line of both texts is there.

use similar::{ChangeTag, TextDiff};

use super::{Kind, Line};

/// Lines of a card that are compared; beyond it all old ones of an edit stand before all new ones. The comparison may take
/// as many steps as the square of this.
pub(super) const LINES_MAX: usize = 4_000;

/// The lines of an edit. `budget`: lines that may still be compared for its card.
pub(super) fn lines(old: &str, new: &str, budget: &mut usize) -> Vec<Line> {
    // A carriage return ends no line here: it is shown.
    let (before, after): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let line = |kind, text: &str| Line::new(kind, text.strip_suffix('\n').unwrap_or(text));
    let mut lines: Vec<Line> = match budget.checked_sub(before.len() + after.len()) {
        Some(left) => {
            *budget = left;
            let diff = TextDiff::from_slices(&before, &after);
            let kind = |tag| match tag {
                ChangeTag::Delete => Kind::Removed,
                ChangeTag::Insert => Kind::Added,
                ChangeTag::Equal => Kind::Kept,
            };
            diff.iter_all_changes().map(|change| line(kind(change.tag()), change.value())).collect()
        }
        None => {
            let removed = before.into_iter().map(|text| line(Kind::Removed, text));
            removed.chain(after.into_iter().map(|text| line(Kind::Added, text))).collect()
        }
    };
    // A last line looks the same with a line feed and without.
    let ends = match (old.ends_with('\n'), new.ends_with('\n')) {
        (true, true) => "both end with a line feed",
        (true, false) => "what is taken out ends with a line feed",
        (false, true) => "what is put in ends with a line feed",
        (false, false) => return lines,
    };
    lines.push(Line::new(Kind::Remark, ends));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(old: &str, new: &str) -> Vec<(Kind, String)> {
        lines(old, new, &mut LINES_MAX.clone()).into_iter().map(|line| (line.kind, line.text)).collect()
    }

    #[test]
    fn every_line_of_both_texts_is_there() {
        let both = marked("a\nb\nc", "a\nB\nc");
        let want = [(Kind::Kept, "a"), (Kind::Removed, "b"), (Kind::Added, "B"), (Kind::Kept, "c")];
        assert_eq!(both, want.map(|(kind, text)| (kind, text.to_owned())));
        let returns = marked("a\rb\r", "a\rc\r");
        let want = [(Kind::Removed, "a<U+000D>b<U+000D>"), (Kind::Added, "a<U+000D>c<U+000D>")];
        assert_eq!(returns, want.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn what_is_compared_is_bounded_for_all_edits_together() {
        let mut budget = 5;
        assert_eq!(lines("a\nb", "a\nc", &mut budget).len(), 3);
        let kinds: Vec<_> = lines("a\nb", "a\nc", &mut budget).into_iter().map(|line| line.kind).collect();
        assert_eq!((kinds, budget), (vec![Kind::Removed, Kind::Removed, Kind::Added, Kind::Added], 1));
        let many = "x\n".repeat(LINES_MAX);
        let last = marked(&many, many.trim_end()).pop().expect("lines");
        assert_eq!(last, (Kind::Remark, "what is taken out ends with a line feed".to_owned()));
    }

    #[test]
    fn no_two_edits_look_the_same_because_of_their_ends() {
        let ends = ["x", "x\n", ""];
        let all: Vec<_> = ends.iter().flat_map(|old| ends.map(|new| marked(old, new))).collect();
        for (at, one) in all.iter().enumerate() {
            // Nothing changes where both are one.
            assert!(!all[..at].contains(one), "{one:?}");
        }
    }
}
