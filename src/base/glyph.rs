//! What a terminal can be relied on to draw. Text is split into clusters, each of which is drawn as one; terminals and
//! libraries disagree about the width of some, and draw nothing for others. Such text could hide itself, or push aside
//! and cover what stands beside it. [`visible`] writes it as numbers, for text that a person decides about;
//! [`drawable`] leaves it out or marks its place, for text that is only read.

use std::borrow::Cow;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The longest cluster that is drawn as it is, in characters; syllables of Indic scripts have as many.
const CLUSTER_CHARS_MAX: usize = 8;
/// The widest one, in columns: every row has as many.
const CLUSTER_COLUMNS_MAX: usize = 6;
/// Marks on one character; the scripts that are read here need no more.
const MARKS_MAX: usize = 3;

/// Whether a character leaves no mark of its own where it stands: control and format characters, blanks other than the
/// space, what Unicode lists as ignorable by default (fillers, variation selectors, tags), private and unassigned code
/// points. A line feed and a tab count too.
pub fn is_hidden(c: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, SpaceSeparator, Surrogate, Unassigned,
    };
    match c {
        ' '..='~' => false,
        // Symbols and letters that are blank: braille, a note without a head, fillers of Khitan and of hieroglyphs.
        '\u{2800}' | '\u{1d159}' | '\u{16fe4}' | '\u{13441}' | '\u{13442}' => true,
        _ if is_ignorable(c) => true,
        _ => matches!(
            c.general_category(),
            Control
                | Format
                | LineSeparator
                | ParagraphSeparator
                | PrivateUse
                | SpaceSeparator
                | Surrogate
                | Unassigned
        ),
    }
}

/// Ignorable by default (Unicode's Default_Ignorable_Code_Point) and of no telling category: joiner, fillers, inherent
/// vowels, variation selectors, tags.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// How a character is shown that could not be seen: `<U+200B>`.
pub fn escape(c: char) -> String {
    format!("<U+{:04X}>", u32::from(c))
}

/// One line in which nothing hides: what cannot be relied on to be drawn stands there as [`escape`] shows it, a tab as an
/// arrow and three blanks. No two lines look the same.
pub fn visible(line: &str) -> Cow<'_, str> {
    shown(line, true)
}

/// The same for a line that may have been through [`visible`] where it comes from: what looks like an escape stays.
pub fn visible_again(line: &str) -> Cow<'_, str> {
    shown(line, false)
}

/// A name from elsewhere, as it stands in a line of ours: in quotes where it holds other characters than ASCII letters,
/// digits and these, so that its end is plain.
pub fn name_in<'a>(name: &'a str, marks: &str) -> Cow<'a, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        return Cow::Borrowed(name);
    }
    format!("\"{}\"", visible(name).replace('"', &escape('"'))).into()
}

/// A tool's name as it stands in a sentence of ours, see [`name_in`].
pub fn tool_name(tool: &str) -> Cow<'_, str> {
    name_in(tool, "_-.:/")
}

fn shown(line: &str, is_raw: bool) -> Cow<'_, str> {
    if line.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !line.contains("<U+") {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len());
    for (at, cluster) in line.grapheme_indices(true) {
        match cluster {
            "\t" => shown.push_str(TAB),
            // A text that looks like an escape of ours is escaped itself.
            "<" if is_raw && line[at..].starts_with("<U+") => shown.push_str(&escape('<')),
            "→" if is_raw && line[at..].starts_with(TAB) => shown.push_str(&escape('→')),
            _ if is_sure(cluster) => shown.push_str(cluster),
            _ => cluster.chars().for_each(|c| if stands_alone(c) { shown.push(c) } else { shown.push_str(&escape(c)) }),
        }
    }
    Cow::Owned(shown)
}

const TAB: &str = "→   ";

/// The text with nothing in it that could be drawn wider or narrower than it is taken for: what only steers or joins is
/// left out, U+FFFD stands for the rest. Line feeds and tabs stay.
pub fn drawable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t')) {
        return Cow::Borrowed(text);
    }
    let text: String = text.chars().filter_map(kept).collect();
    let mut drawn = String::with_capacity(text.len());
    for cluster in text.graphemes(true) {
        match cluster {
            "\n" | "\t" => drawn.push_str(cluster),
            _ if is_sure(cluster) => drawn.push_str(cluster),
            _ => drawn.extend(cluster.chars().map(|c| if stands_alone(c) { c } else { char::REPLACEMENT_CHARACTER })),
        }
    }
    Cow::Owned(drawn)
}

/// A character without what only steers, joins or chooses a look.
fn kept(c: char) -> Option<char> {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator, SpaceSeparator};
    match c {
        '\n' | '\t' => Some(c),
        // Libraries take the narrow sound marks of katakana for nothing, and terminals for a column; the wide ones are sure.
        '\u{ff9e}' => Some('\u{309b}'),
        '\u{ff9f}' => Some('\u{309c}'),
        '\u{2800}' => Some(' '),
        // The tones of emoji.
        '\u{1f3fb}'..='\u{1f3ff}' => None,
        _ if is_ignorable(c) => None,
        _ => match c.general_category() {
            SpaceSeparator => Some(' '),
            Control | Format | LineSeparator | ParagraphSeparator => None,
            _ => Some(c),
        },
    }
}

/// Whether a cluster is as wide as its characters, one by one and together, and no longer than writing needs: a character
/// and the marks on it, a syllable of several parts, a flag.
fn is_sure(cluster: &str) -> bool {
    let (mut count, mut marks, mut columns) = (0, 0, 0);
    for c in cluster.chars() {
        count += 1;
        let Some(width) = c.width().filter(|_| !is_unsure(c)) else { return false };
        marks = if width == 0 { marks + 1 } else { 0 };
        let is_fit = if count == 1 { width > 0 && !joins(c) } else { width > 0 || marks <= MARKS_MAX && is_mark(c) };
        columns += width;
        if !is_fit || count > CLUSTER_CHARS_MAX || columns > CLUSTER_COLUMNS_MAX {
            return false;
        }
    }
    columns == cluster.width()
}

/// Of no width that terminals agree about.
fn is_unsure(c: char) -> bool {
    is_hidden(c) || matches!(c, '\u{ff9e}' | '\u{ff9f}')
}

/// What is drawn as one in so many columns, as cells of a terminal: every character that takes columns has a cell of
/// its own, with the marks on it, and its columns beside it. Many terminals draw it so, whatever a library takes for
/// one. A part without a cell would stay when something narrower comes in its place. What has no sure width is replaced
/// as [`drawable`] does it.
pub fn cells(cluster: &str, columns: usize) -> Vec<(String, usize)> {
    let mut cells = split(cluster);
    let sum = |cells: &[(String, usize)]| cells.iter().map(|(_, width)| width).sum::<usize>();
    if sum(&cells) != columns || cluster.chars().any(is_unsure) {
        cells = split(&drawable(cluster));
    }
    while sum(&cells) > columns {
        cells.pop();
    }
    let rest = columns - sum(&cells);
    cells.extend(std::iter::repeat_n((" ".to_owned(), 1), rest));
    cells
}

fn split(text: &str) -> Vec<(String, usize)> {
    let mut cells: Vec<(String, usize)> = Vec::new();
    for c in text.chars() {
        match (c.width().unwrap_or_default(), cells.last_mut()) {
            (0, Some((cell, _))) => cell.push(c),
            (0, None) => {}
            (width, _) => cells.push((c.into(), width)),
        }
    }
    cells
}

/// What takes columns of its own and still joins what stands before it.
fn joins(c: char) -> bool {
    c.general_category() == GeneralCategory::SpacingMark
        || matches!(c, '\u{e33}' | '\u{eb3}' | '\u{1f3fb}'..='\u{1f3ff}')
}

/// What stands on or in the character before it, and takes no column: marks, and the later parts of a Korean syllable.
fn is_mark(c: char) -> bool {
    use GeneralCategory::{EnclosingMark, NonspacingMark};
    matches!(c.general_category(), NonspacingMark | EnclosingMark)
        || matches!(c, '\u{1160}'..='\u{11ff}' | '\u{d7b0}'..='\u{d7ff}')
}

/// Whether a character of a cluster that is not sure is drawn by itself, and joins nothing.
fn stands_alone(c: char) -> bool {
    use GeneralCategory::{LowercaseLetter, MathSymbol, OtherSymbol, TitlecaseLetter, UppercaseLetter};
    matches!(c, ' '..='~')
        || matches!(
            c.general_category(),
            LowercaseLetter | MathSymbol | OtherSymbol | TitlecaseLetter | UppercaseLetter
        ) && matches!(c.width(), Some(1 | 2))
            && !is_hidden(c)
}

/// Characters that have deceived a terminal, beside plain ones.
#[cfg(test)]
pub(crate) fn odd_text() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;

    let odd = prop::sample::select(
        "ab <>U+0w 漢🙂é\u{301}\u{903}\u{94d}\u{915}\u{93f}\u{200d}\u{fe0f}\u{1f3fd}\u{1f1e9}\u{ff9e}ｶ\u{1112}\u{1161}\u{11a8}\u{d4e}\u{a8fa}\u{e33}\u{202e}\u{200b}\u{e0041}\u{ad}→\t"
            .chars()
            .collect::<Vec<_>>(),
    );
    prop_oneof![
        prop::collection::vec(odd.clone(), 0..60).prop_map(String::from_iter),
        (odd.clone(), odd, 0usize..90)
            .prop_map(|(one, more, times)| format!("{one}{}b", String::from(more).repeat(times))),
        "\\PC{0,20}|.{0,20}".prop_map(|text| text.replace('\n', "")),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_hides() {
        for (text, shown) in [
            ("ls -la ~/größe 漢字 🙂", "ls -la ~/größe 漢字 🙂"),
            ("a\u{200b}b\u{ad}c\u{202e}d", "a<U+200B>b<U+00AD>c<U+202E>d"),
            ("\u{1b}[2J\r\u{7f}\u{9b}", "<U+001B>[2J<U+000D><U+007F><U+009B>"),
            ("\u{e0041}\u{fe0f}\u{3164}\u{115f}\u{2800}", "<U+E0041><U+FE0F><U+3164><U+115F><U+2800>"),
            ("a\u{a0}b\u{3000}c\u{2028}", "a<U+00A0>b<U+3000>c<U+2028>"),
            ("\u{e000}\u{10ffff}\u{378}", "<U+E000><U+10FFFF><U+0378>"),
            ("a\tb", "a→   b"),
            // What a library draws as nothing: a part of a syllable, a mark on nothing, letters of no width.
            ("build\u{1161}/x", "build<U+1161>/x"),
            ("\u{301}chmod", "<U+0301>chmod"),
            ("x\u{d4e}y a\u{a8fa}b", "x<U+0D4E>y a<U+A8FA>b"),
            // A cluster that is wider than a row, and marks without end.
            (&format!("\"{}", "\u{903}".repeat(12)), &format!("\"{}", "<U+0903>".repeat(12))),
            ("e\u{301}\u{301}\u{301}\u{301}", "e<U+0301><U+0301><U+0301><U+0301>"),
            ("e\u{301}\u{301}\u{301}", "e\u{301}\u{301}\u{301}"),
            // What would join the text before this one, and a vowel that some terminals give a column and others none.
            ("\u{903}x", "<U+0903>x"),
            ("\u{e33}x", "<U+0E33>x"),
            ("\u{1f3fd}x", "<U+1F3FD>x"),
            ("e\u{9be}", "e<U+09BE>"),
            // A syllable of more parts than any has.
            (&"क\u{94d}".repeat(4), &"क\u{94d}".repeat(4)),
            (&format!("{}क", "क\u{94d}".repeat(4)), &format!("{}<U+0915>", "<U+0915><U+094D>".repeat(4))),
            // Of uncertain width.
            ("ｶ\u{ff9e}", "<U+FF76><U+FF9E>"),
            ("🧑\u{200d}🌾❤\u{fe0f}👍\u{1f3fd}", "🧑<U+200D>🌾❤<U+FE0F>👍<U+1F3FD>"),
            // What looks like an escape.
            ("<U+200B> →   x → y < U", "<U+003C>U+200B> <U+2192>   x → y < U"),
        ] {
            assert_eq!(visible(text), shown, "{}", text.escape_unicode());
        }
    }

    #[test]
    fn languages_can_be_read() {
        let texts = [
            "größer e\u{301} Việt Nam",
            "한글 \u{1112}\u{1161}\u{11ab}",
            "ไทย ที่ นำ",
            "नमस्ते हिन्दी स्त्री",
            "العربية مَرْحَبًا",
            "עִבְרִית",
            "日本語 ガイド",
            "🇩🇪 🙂 ☕",
        ];
        for text in texts {
            assert_eq!(visible(text), text, "{}", text.escape_unicode());
            assert_eq!(drawable(text), text, "{}", text.escape_unicode());
        }
        for (text, drawn) in [
            ("a\r\nb\tc", "a\nb\tc"),
            ("ｶ\u{ff9e}ｲﾄ\u{ff9e}", "ｶ\u{309b}ｲﾄ\u{309b}"),
            ("🧑\u{200d}🌾❤\u{fe0f}👍\u{1f3fd}", "🧑🌾❤👍"),
            ("a\u{1b}[2Jb\u{202e}c\u{a0}d\u{e0b0}", "a[2Jbc d\u{fffd}"),
            ("x\u{d4e}y", "x\u{fffd}y"),
        ] {
            assert_eq!(drawable(text), drawn, "{}", text.escape_unicode());
        }
    }

    #[test]
    fn what_takes_columns_has_a_cell_of_its_own() {
        for (cluster, columns, wanted) in [
            ("~\u{903}", 2, vec!["~", "\u{903}"]),
            ("กำ", 2, vec!["ก", "ำ"]),
            ("ที่", 1, vec!["ที่"]),
            ("🇫🇷", 2, vec!["🇫", "🇷"]),
            ("\u{1112}\u{1161}\u{11a8}", 2, vec!["\u{1112}\u{1161}\u{11a8}"]),
            // Of no sure width: the first of them, or blanks.
            ("👩\u{200d}👩\u{200d}👧", 2, vec!["👩"]),
            ("👍\u{1f3fd}", 2, vec!["👍"]),
            ("❤\u{fe0f}", 2, vec!["❤", " "]),
            ("ｶ\u{ff9e}", 2, vec!["ｶ", " "]),
            ("\u{3000}", 2, vec![" ", " "]),
            ("\u{e0b0}", 1, vec!["\u{fffd}"]),
        ] {
            let cells = cells(cluster, columns);
            assert_eq!(
                cells.iter().map(|(cell, _)| &**cell).collect::<Vec<_>>(),
                wanted,
                "{}",
                cluster.escape_unicode()
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_sure_and_of_one_meaning(text in odd_text(), other in odd_text()) {
            let shown = visible(&text);
            for drawn in [&shown, &drawable(&text.replace('\t', " "))] {
                for cluster in drawn.graphemes(true) {
                    let columns: usize = cluster.chars().map(|c| c.width().unwrap_or_default()).sum();
                    prop_assert!(cluster.width() == columns && (1..=CLUSTER_COLUMNS_MAX).contains(&columns), "{:?} in {:?}", cluster, drawn);
                    let cells = cells(cluster, columns);
                    prop_assert_eq!(cells.iter().map(|(cell, _)| &**cell).collect::<String>(), cluster, "nothing is lost");
                }
            }
            prop_assert_eq!(visible(&other) == shown, other == text);
            prop_assert_eq!(visible_again(&shown), &*shown);
            let drawn = drawable(&text);
            prop_assert_eq!(&drawable(&drawn), &drawn);
        }
    }
}
