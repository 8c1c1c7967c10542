//! Text from elsewhere, made safe to show.

/// The text without what could steer a terminal or lie about its own order: control characters (newline and tab stay)
/// and the Unicode marks that turn text around.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| is_harmless(*c)).collect()
}

/// The same in one line of at most so many characters, the rest cut off with `…`.
pub(super) fn clean_line(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    for (at, c) in
        text.chars().map(|c| if c == '\n' || c == '\t' { ' ' } else { c }).filter(|c| is_harmless(*c)).enumerate()
    {
        if at >= chars_max {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}

fn is_harmless(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}');
    matches!(c, '\n' | '\t') || !(c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// Columns that a character takes on a terminal; near enough to place a cursor.
pub(super) fn columns(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(clean("a\x1b]52;c;eA==\x07b\r\n\tc\u{9b}2J\u{202e}d\x7f"), "a]52;c;eA==b\n\tc2Jd");
        assert_eq!(clean_line("one\ntwo\x1b[31m", 6), "one tw…");
        assert_eq!(clean_line("größer", 6), "größer");
    }
}
