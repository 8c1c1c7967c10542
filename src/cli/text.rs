//! Text from elsewhere, made safe to show.

use serde_json::Value;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

pub(super) use crate::base::text::{path_line, shell_quoted};
use crate::base::{
    glyph::{drawable, escape, is_hidden, visible},
    text::is_plain,
};

/// The text without what could steer a terminal or lie about its own order: control characters (newline and tab stay)
/// and what turns text around. Marks that join or choose the look of characters (emoji, Indic scripts) stay.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| is_harmless(*c)).collect()
}

/// Begins every line of a text from elsewhere that does not stand behind words of ours.
pub(super) const THEIRS: &str = "  | ";
/// Begins every further row of a line of such a text.
pub(super) const GOES_ON: &str = "  ↳ ";

/// Why nothing is shown on a terminal of no rows or no columns, and what helps.
pub(super) const NO_SIZE: &str = "this terminal does not say how large it is";
pub(super) const GIVE_SIZE: &str = "Ctrl-Z, then `stty rows 24 columns 80` with its numbers, then `fg` shows it";

/// Begins the line that says why the program fails.
pub(super) const PROGRAM: &str = "amp-relay: ";

/// A text from elsewhere, for behind words of ours: its further lines are marked, so that none can pass for one of ours.
pub(super) fn marked(theirs: &str) -> String {
    clean(theirs).replace('\n', &format!("\n{THEIRS}"))
}

/// Words of ours, and behind them a text from elsewhere of which no line, and on a terminal of so many columns no row, can
/// pass for one of ours. Rows end between words. The name of the program stands before ours, unless it begins a line.
pub(super) fn foreign(ours: &str, theirs: &str, width: Option<usize>) -> String {
    let mut told = ours.to_owned();
    match width {
        Some(width) => {
            let row = ours.rsplit_once('\n').map_or_else(|| format!("{PROGRAM}{ours}"), |(_, row)| row.to_owned());
            wrapped_on(&drawable(&marked(theirs)), width, GOES_ON, used_of(&row, width), &mut told);
        }
        None => told.push_str(&marked(theirs)),
    }
    told
}

/// One line of at most so many characters, the rest cut off with `…`, and nothing in it of uncertain width.
pub(super) fn clean_line(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    for (at, c) in drawable(text).chars().enumerate() {
        if at >= chars_max {
            line.push('…');
            break;
        }
        line.push(if matches!(c, '\n' | '\t') { ' ' } else { c });
    }
    line
}

/// The end of a line, of so many columns at most, with `…` for what was cut off before it.
pub(super) fn end_of(line: &str, columns_max: usize) -> String {
    if columns(line) <= columns_max {
        return line.to_owned();
    }
    let mut room = columns_max.saturating_sub(1);
    let fits = |(_, cluster): &(usize, &str)| {
        let left = room.checked_sub(columns(cluster));
        left.inspect(|left| room = *left).is_some()
    };
    let start = line.grapheme_indices(true).rev().take_while(fits).last().map_or(line.len(), |(at, _)| at);
    format!("…{}", &line[start..])
}

/// The beginning of a line, of so many columns at most, with `…` for what was cut off behind it.
pub(super) fn beginning_of(line: &str, columns_max: usize) -> String {
    if columns(line) <= columns_max {
        return line.to_owned();
    }
    let (mut used, room) = (0, columns_max.saturating_sub(1));
    let fits = |(_, cluster): &(usize, &str)| {
        used += columns(cluster);
        used <= room
    };
    let end = line.grapheme_indices(true).take_while(fits).last().map_or(0, |(at, cluster)| at + cluster.len());
    format!("{}…", &line[..end])
}

/// The text in rows of so many columns at most: `goes_on` stands before each that a line is continued on.
pub(super) fn folded(text: &str, width: usize, goes_on: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    folded_on(text, width, goes_on, 0, &mut folded);
    folded
}

/// The same, appended to a row that has used so many columns; gives those that its last row has used. A row that has used
/// no more than a mark takes is not ended: the next one has no more room.
pub(super) fn folded_on(text: &str, width: usize, goes_on: &str, used: usize, folded: &mut String) -> usize {
    let (mut used, mut is_begun) = (used, used > columns(goes_on));
    for cluster in text.graphemes(true) {
        if cluster == "\n" {
            folded.push('\n');
            (used, is_begun) = (0, false);
            continue;
        }
        let wide = wide(cluster, used);
        if used + wide > width && is_begun {
            folded.push('\n');
            folded.push_str(goes_on);
            used = columns(goes_on);
        }
        folded.push_str(cluster);
        (used, is_begun) = (used + wide, true);
    }
    used
}

/// The rows of what stands from this place on in a text that is [`drawable`]: where each begins in it, and the row.
/// A place is the beginning of the text, or of a row of any width.
pub(super) fn rows_from(text: &str, from: usize, width: usize, goes_on: &str) -> Vec<(usize, String)> {
    let mut is_inside = from > 0 && !text[..from].ends_with('\n');
    let mut folded = if is_inside { goes_on.to_owned() } else { String::new() };
    folded_on(&text[from..], width, goes_on, columns(&folded), &mut folded);
    let (mut rows, mut at) = (Vec::new(), from);
    for row in folded.split('\n') {
        if !rows.is_empty() {
            // Where a row goes on no line feed stands in the text.
            is_inside = !text[at..].starts_with('\n');
            at += usize::from(!is_inside);
        }
        rows.push((at, row.to_owned()));
        at += row.len() - if is_inside { goes_on.len() } else { 0 };
    }
    rows
}

/// Columns that a line has used of its last row where the terminal itself breaks it.
fn used_of(line: &str, width: usize) -> usize {
    line.graphemes(true).fold(0, |used, cluster| {
        let after = used + wide(cluster, used);
        if after > width { wide(cluster, 0) } else { after }
    })
}

fn wide(cluster: &str, used: usize) -> usize {
    if cluster == "\t" { 8 - used % 8 } else { columns(cluster) }
}

/// As [`folded_on`], but a row ends between words; a word is broken where it is longer than a whole row.
fn wrapped_on(text: &str, width: usize, goes_on: &str, mut used: usize, wrapped: &mut String) {
    let margin = columns(goes_on);
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            wrapped.push('\n');
            used = 0;
        }
        let mut rest = line;
        while !rest.is_empty() {
            let word_at = rest.find(|c| !matches!(c, ' ' | '\t')).unwrap_or(rest.len());
            let end = rest[word_at..].find([' ', '\t']).map_or(rest.len(), |length| word_at + length);
            let (piece, word) = (&rest[..end], &rest[word_at..end]);
            let after = piece.graphemes(true).fold(used, |used, cluster| used + wide(cluster, used));
            if after <= width {
                wrapped.push_str(piece);
                used = after;
            } else if (used > 0 || word_at > 0) && margin + columns(word) <= width {
                // Something stands in this row. The blanks are where it ends.
                wrapped.push('\n');
                wrapped.push_str(goes_on);
                wrapped.push_str(word);
                used = margin + columns(word);
            } else {
                used = folded_on(piece, width, goes_on, used, wrapped);
            }
            rest = &rest[end..];
        }
    }
}

/// What a tool is to do, in one line of at most so many characters: nothing of it is dropped in silence.
pub(super) fn honest_line(text: &str, chars_max: usize) -> String {
    let line = visible(text.trim_end()).replace(&escape('\n'), "⏎");
    clean_line(&line, chars_max)
}

fn is_harmless(c: char) -> bool {
    matches!(c, '\n' | '\t') || is_plain(c)
}

/// What a decision says, by its fields in either protocol: the answers to questions, the reason of a denial, or the decision
/// alone. `line` makes a line of each text.
pub(super) fn decision_line(fields: &Value, line: impl Fn(&str) -> String) -> String {
    let answers: Option<Vec<&Value>> = match &fields["answers"] {
        Value::Array(answers) => Some(answers.iter().collect()),
        Value::Object(answers) => Some(answers.values().collect()),
        _ => None,
    };
    match (answers, fields["message"].as_str()) {
        (Some(answers), _) => answers.into_iter().filter_map(Value::as_str).map(line).collect::<Vec<_>>().join("; "),
        (None, Some(reason)) => format!("deny: {}", line(reason)),
        (None, None) => line(fields["decision"].as_str().unwrap_or_default()),
    }
}

/// A count and its noun, with an `s` for the plural.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What is not shown as it is: more has no room in a table.
const SHOWN_MAX: u32 = 999_999;

/// A sum in dollars with so many decimals: bounded, whatever number a relay says. With two it takes eleven columns at most.
pub(super) fn dollars(usd: f64, decimals: usize) -> String {
    let (amount, max) = (usd.abs(), f64::from(SHOWN_MAX));
    let shown = format!("{amount:.decimals$}");
    // What is rounded to nothing has no sign.
    let sign = if usd < 0.0 && shown.contains(|c| !matches!(c, '0' | '.')) { "-" } else { "" };
    match amount {
        _ if usd.is_nan() => "?".into(),
        _ if amount > max && sign.is_empty() => format!(">${SHOWN_MAX}"),
        _ if amount > max => format!("<-${SHOWN_MAX}"),
        _ => format!("{sign}${shown}"),
    }
}

/// A count for a table, in seven columns at most.
pub(super) fn count(count: u64) -> String {
    if count > SHOWN_MAX.into() { format!(">{SHOWN_MAX}") } else { count.to_string() }
}

/// Columns that a text takes on a terminal.
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// JSON text for a terminal: what is hidden is written as JSON's own escapes, so that the value stays what it was.
pub(super) fn json_for_terminal(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A title, a folder, a model: a text from elsewhere that stands in a row of ours beside others, of so many characters at
/// most. A dot that stands free parts the fields of a row, and two blanks those of a table; in a field they are written as
/// their numbers, so that it ends where we end it. So is what cannot be seen: no two fields look the same.
pub(super) fn field(theirs: &str, chars_max: usize) -> String {
    let line: Vec<char> = seen(theirs).chars().collect();
    let in_a_word = |at: usize| line.get(at).is_some_and(|c| c.is_alphanumeric() && !is_dot(*c));
    let mut kept = String::new();
    for (at, c) in line.iter().enumerate() {
        let before = at.checked_sub(1);
        let is_inner = before.is_some_and(in_a_word) && in_a_word(at + 1);
        let is_further_blank = *c == ' ' && before.is_some_and(|before| line[before] == ' ');
        if is_dot(*c) && !is_inner || is_further_blank {
            kept.push_str(&escape(*c));
        } else {
            kept.push(*c);
        }
    }
    clean_line(&kept, chars_max)
}

/// A line in which nothing hides, the blanks at its ends included.
fn seen(theirs: &str) -> String {
    let inner = theirs.trim_matches(' ');
    if inner.is_empty() {
        return theirs.replace(' ', &escape(' '));
    }
    let lead = theirs.len() - theirs.trim_start_matches(' ').len();
    let tail = theirs.len() - lead - inner.len();
    // Blanks stand for a tab elsewhere.
    let inner: Vec<_> = inner.split('\t').map(visible).collect();
    format!("{}{}{}", escape(' ').repeat(lead), inner.join(&escape('\t')), escape(' ').repeat(tail))
}

/// The same as a field between backticks of ours, which set off what can be typed.
pub(super) fn quoted_field(theirs: &str, chars_max: usize) -> String {
    ticked(&field(theirs, chars_max))
}

/// A text between backticks of ours: none of its own ends them.
pub(super) fn ticked(text: &str) -> String {
    format!("`{}`", text.replace('`', "'"))
}

/// What is drawn as the dot between our fields, or nearly so.
fn is_dot(c: char) -> bool {
    matches!(
        c,
        '\u{b7}'
            | '\u{387}'
            | '\u{16eb}'
            | '\u{2022}'
            | '\u{2027}'
            | '\u{2218}'
            | '\u{2219}'
            | '\u{22c5}'
            | '\u{25cf}'
            | '\u{25e6}'
            | '\u{26ab}'
            | '\u{26ac}'
            | '\u{2981}'
            | '\u{2e30}'
            | '\u{2e31}'
            | '\u{2e33}'
            | '\u{30fb}'
            | '\u{a78f}'
            | '\u{ff65}'
            | '\u{10101}'
    )
}

/// Characters of a name that are drawn.
pub(super) const NAME_CHARS: usize = 40;

/// A name from elsewhere as it stands in a line of ours: nothing in it can end it there, or begin another.
pub(super) fn name(name: &str) -> String {
    let line = clean_line(name, usize::MAX);
    let mut kept = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        // A colon and a blank would read as the end of the name, with its owner's words behind it.
        let is_inner = c == ':' && chars.peek().is_some_and(|next| next.is_alphanumeric());
        if is_inner || stands_in_a_name(c) {
            kept.push(c);
        }
    }
    clean_line(kept.trim(), NAME_CHARS)
}

/// Letters, marks, numbers, pictures, and the few signs that names are written with: no brackets, commas or quotes.
fn stands_in_a_name(c: char) -> bool {
    use GeneralCategoryGroup::{Letter, Mark, Number};
    matches!(c, ' ' | '-' | '_' | '.' | '@' | '/' | '#' | '&' | '+' | '~' | '\'')
        || matches!(c.general_category_group(), Letter | Mark | Number)
        || c.general_category() == GeneralCategory::OtherSymbol
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::glyph::odd_text;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(clean("a\x1b]52;c;eA==\x07b\r\n\tc\u{9b}2J\u{202e}d\x7f"), "a]52;c;eA==b\n\tc2Jd");
        assert_eq!(clean_line("one\ntwo\x1b[31m", 6), "one tw…");
        assert_eq!(clean_line("größer", 6), "größer");
        assert_eq!(honest_line("ls # list\nrm -rf x\u{200b}\n", 64), "ls # list⏎rm -rf x<U+200B>");
    }

    #[test]
    fn a_number_in_a_table_is_bounded() {
        for (usd, shown) in [
            (0.0, "$0.00"),
            (-0.0, "$0.00"),
            (-0.001, "$0.00"),
            (1.005, "$1.00"),
            (999_999.0, "$999999.00"),
            (-12.5, "-$12.50"),
            (1e6, ">$999999"),
            (1e308, ">$999999"),
            (-1e308, "<-$999999"),
            (f64::INFINITY, ">$999999"),
            (f64::NEG_INFINITY, "<-$999999"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(dollars(usd, 2), shown, "{usd}");
        }
        assert_eq!([-0.0049, -0.00001, 1e308].map(|usd| dollars(usd, 4)), ["-$0.0049", "$0.0000", ">$999999"]);
        assert_eq!([0, 999_999, 1_000_000, u64::MAX].map(count), ["0", "999999", ">999999", ">999999"]);
    }

    #[test]
    fn the_end_of_a_line_has_room() {
        assert_eq!(end_of("/größer", 7), "/größer");
        assert_eq!(end_of("/größer", 6), "…rößer");
        assert_eq!(end_of("漢字漢字", 6), "…漢字", "no half of a character");
        assert_eq!((beginning_of("größer/", 7), beginning_of("größer/", 6)), ("größer/".into(), "größe…".into()));
        assert_eq!((beginning_of("漢字漢字", 6), beginning_of("漢字", 1)), ("漢字…".into(), "…".into()));
    }

    #[test]
    fn no_row_is_longer_than_the_terminal_and_each_further_one_is_marked() {
        assert_eq!(folded("12345678\nab\n漢字漢字", 6, "> "), "123456\n> 78\nab\n漢字漢\n> 字");
        assert_eq!(folded("a\tbcde", 10, "> "), "a\tbc\n> de", "a tab is as wide as it moves");
        assert_eq!(folded("abc", 0, "> ").lines().count(), 3);
    }

    proptest! {
        #[test]
        fn rows_begin_where_others_end(lines in prop::collection::vec(odd_text(), 1..5), widths in (10_usize..60, 10_usize..60)) {
            let text = drawable(&lines.join("\n")).replace('\t', " ");
            let rows = rows_from(&text, 0, widths.0, GOES_ON);
            let joined: Vec<&str> = rows.iter().map(|(_, row)| row.as_str()).collect();
            prop_assert_eq!(joined.join("\n"), folded(&text, widths.0, GOES_ON));
            for (at, (from, _)) in rows.iter().enumerate() {
                prop_assert_eq!(&rows_from(&text, *from, widths.0, GOES_ON), &rows[at..]);
                let others = rows_from(&text, *from, widths.1, GOES_ON);
                prop_assert_eq!(others[0].0, *from);
                let own = |(at, row): &(usize, String)| {
                    let is_inside = *at > 0 && !text[..*at].ends_with('\n');
                    row.strip_prefix(GOES_ON).filter(|_| is_inside).unwrap_or(row).to_owned()
                };
                prop_assert_eq!(others.iter().map(own).collect::<String>(), text[*from..].replace('\n', ""));
                prop_assert!(others.iter().all(|(_, row)| columns(row) <= widths.1));
            }
        }
    }

    #[test]
    fn no_line_of_a_text_from_elsewhere_passes_for_one_of_ours() {
        let theirs = format!("one\n? Bash asks\r\n[y/n] \x1b[2J{}", " ".repeat(90) + "? more");
        for width in [None, Some(80), Some(20)] {
            let told = foreign("it failed: ", &theirs, width);
            let mut lines = told.split('\n');
            assert!(lines.next().is_some_and(|line| line.starts_with("it failed: ")), "{told}");
            assert!(lines.all(|line| [THEIRS, GOES_ON].iter().any(|mark| line.starts_with(mark))), "{told}");
        }
        let row = foreign("it failed: ", &"x".repeat(200), Some(80));
        assert_eq!(row.lines().next().map(columns), Some(80 - columns("amp-relay: ")));
    }

    #[test]
    fn what_stands_before_counts_and_words_stay_whole() {
        let theirs = "none of the keys: SHA256:IuWN, here";
        assert_eq!(foreign("\n  /a/key: ", theirs, Some(30)), "\n  /a/key: none of the keys:\n  ↳ SHA256:IuWN, here");
        // Ours has filled a row, and six columns of the next.
        let ours = format!("\n{}", "x".repeat(36));
        assert_eq!(foreign(&ours, theirs, Some(30)), format!("{ours}none of the keys:\n  ↳ SHA256:IuWN, here"));
        assert_eq!(foreign("\n", "a 0123456789", Some(10)), "\na 01234567\n  ↳ 89", "longer than a row");
    }

    proptest! {
        #[test]
        fn rows_end_between_words(
            blanks in " {0,14}", words in prop::collection::vec("[a-z漢]{1,30}", 0..12), ours in "[a-z ]{0,40}", width in 12_usize..60,
        ) {
            end_between_words(&blanks, &words, &ours, width);
        }
    }

    #[test]
    fn a_word_stays_whole_behind_a_row_of_which_little_is_used() {
        let words = ["漢", "漢aaa漢aaa漢a"].map(str::to_owned);
        // Ours has used two columns of its third row, and the first word two more: as many as the mark takes.
        end_between_words("", &words, "a     aa aaaa    a a aaa aa    a aa ", 17);
        for used in 0..8 {
            end_between_words("", &words, &"x".repeat(used), 17);
            end_between_words("     ", &words[1..], &"x".repeat(used), 17);
        }
    }

    fn end_between_words(blanks: &str, words: &[String], ours: &str, width: usize) {
        let theirs = format!("{blanks}{}", words.join(" "));
        let ours = format!("\n{ours}");
        let told = foreign(&ours, &theirs, Some(width));
        let told = told.strip_prefix(&ours).unwrap();
        let rows: Vec<&str> = told.split('\n').collect();
        for (at, row) in rows.iter().enumerate() {
            let before = if at == 0 { used_of(&ours[1..], width) } else { 0 };
            assert!(before + columns(row) <= width.max(before), "{told:?}");
            assert!(at == 0 || row.starts_with(GOES_ON), "{told:?}");
        }
        for word in words.iter().filter(|word| columns(word) + columns(GOES_ON) <= width) {
            assert!(rows.iter().any(|row| row.contains(&**word)), "{word:?} in {told:?}");
        }
        let drawn = rows.iter().flat_map(|row| row.trim_start_matches(GOES_ON).chars());
        assert_eq!(drawn.filter(|c| *c != ' ').collect::<String>(), theirs.replace(' ', ""));
    }

    #[test]
    fn a_field_ends_where_we_end_it() {
        for (theirs, drawn) in [
            ("site \u{b7} /home/me", "site <U+00B7> /home/me"),
            ("site\u{a0}\u{2022}\u{200b} 9 devices", "site<U+00A0><U+2022><U+200B> 9 devices"),
            ("\u{b7}\u{b7}\u{a78f}", "<U+00B7><U+00B7><U+A78F>"),
            ("x  ready\u{3000}\u{3000}/home", "x <U+0020>ready<U+3000><U+3000>/home"),
            ("col\u{b7}lecci\u{f3}: the parser (2)", "col\u{b7}lecci\u{f3}: the parser (2)"),
        ] {
            assert_eq!(field(theirs, 60), drawn);
            assert!(!field(theirs, 60).contains(" \u{b7} "));
        }
        assert_eq!((field("abcdef", 3).as_str(), field("", 3).as_str()), ("abc…", ""));
        assert_eq!(quoted_field("a`, run `b", 60), "`a', run 'b`");
    }

    #[test]
    fn fields_that_differ_in_what_cannot_be_seen_look_different() {
        let hidden =
            [" ", "  ", "\t", "\n", "\u{a0}", "\u{200b}", "\u{3000}", "\u{feff}", "\u{34f}", "\u{fe0f}", "\u{ad}"];
        let mut all = vec!["proj".to_owned(), "pr oj".into(), String::new()];
        for hidden in hidden {
            all.extend([format!("{hidden}proj"), format!("proj{hidden}"), hidden.to_owned()]);
            all.extend((hidden != " ").then(|| format!("pr{hidden}oj")));
        }
        all.extend(all.clone().iter().filter(|one| field(one, 60) != **one).map(|one| field(one, 60)));
        let drawn: std::collections::BTreeSet<String> = all.iter().map(|one| field(one, 60)).collect();
        assert_eq!(drawn.len(), all.len(), "{drawn:?}");
        for drawn in drawn {
            assert!(drawn.trim() == drawn && !drawn.contains("  ") && !drawn.contains(is_hidden), "{drawn:?}");
        }
    }

    #[test]
    fn columns_are_those_of_a_terminal() {
        for (text, width) in
            [("größer", 6), ("漢字", 4), ("ไทย", 3), ("ที่", 1), ("☕", 2), ("❤\u{fe0f}", 2), ("🧑\u{200d}🌾", 2)]
        {
            assert_eq!(columns(text), width, "{text}");
        }
    }

    #[test]
    fn json_stays_the_value_it_was() {
        let value = serde_json::json!("a\u{9b}b\u{202e}c\u{7f}d\u{e0041}");
        let shown = json_for_terminal(&value.to_string());
        assert_eq!(shown, r#""a\u009bb\u202ec\u007fd\udb40\udc41""#);
        assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON"), value);
    }
}
