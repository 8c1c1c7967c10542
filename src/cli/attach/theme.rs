//! How entries look: colours out of the terminal's own sixteen, so that they can be read on light and on dark, or none.

use std::sync::OnceLock;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag};
use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
};
use tui_markdown::{CodeTheme, Options, StyleSheet};

use super::{
    entry::{Entry, Kind},
    wrap,
};
use crate::{base::glyph::drawable, relay::card};

/// Longest text that is read as Markdown, in bytes; longer ones are shown as they are.
const MARKDOWN_BYTES_MAX: usize = 64 << 10;
/// Longest text that is read as Markdown while it grows.
const GROWING_BYTES_MAX: usize = 16 << 10;

/// Longest line of code that is coloured, in bytes. The library's work grows with the square of a line's length.
const COLOURED_LINE_BYTES_MAX: usize = 512;

/// Deepest nesting that is drawn as Markdown. The library's work and memory grow with its cube, and deeper nesting is
/// not readable.
const NESTING_MAX: usize = 24;

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Theme {
    /// False under `NO_COLOR`.
    pub(super) color: bool,
}

impl Theme {
    fn fg(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn warn(self) -> Style {
        self.fg(Color::Yellow)
    }

    pub(super) fn good(self) -> Style {
        self.fg(Color::Green)
    }

    pub(super) fn bad(self) -> Style {
        self.fg(Color::Red)
    }

    /// The style of an entry's mark.
    pub(super) fn mark(self, kind: Kind) -> Style {
        match kind {
            Kind::Prompt => self.bold(),
            Kind::Tool | Kind::SubTool | Kind::Allowed => self.good(),
            Kind::Asked | Kind::Warning => self.warn(),
            Kind::Error | Kind::Denied => self.bad(),
            _ => self.dim(),
        }
    }

    fn text(self, kind: Kind) -> Style {
        match kind {
            Kind::Prompt => self.bold(),
            Kind::Thinking => self.dim().add_modifier(Modifier::ITALIC),
            Kind::Output | Kind::Note | Kind::Head => self.dim(),
            Kind::FailedOutput | Kind::Error | Kind::Denied => self.bad(),
            Kind::Warning | Kind::Asked => self.warn(),
            Kind::Allowed => self.good(),
            Kind::Answer | Kind::Tool | Kind::SubTool => Style::new(),
        }
    }

    /// An entry's text, laid out for so many columns.
    pub(super) fn body(self, entry: &Entry, grows: bool, width: u16) -> Text<'static> {
        let bytes_max = if grows { GROWING_BYTES_MAX } else { MARKDOWN_BYTES_MAX };
        if entry.kind == Kind::Answer && entry.text.len() <= bytes_max {
            let text = drawable(&entry.text);
            if !is_nested_deep(&text) {
                return self.markdown(&text, width);
            }
        }
        self.as_it_is(entry)
    }

    /// An entry's text, which is not read as Markdown.
    pub(super) fn as_it_is(self, entry: &Entry) -> Text<'static> {
        let style = self.text(entry.kind);
        let text = drawable(&entry.text).replace('\t', "    ");
        let is_markdown = entry.kind == Kind::Answer;
        let line = |line: &str| match is_markdown {
            true => wrap::quoting(line, style),
            false => Line::styled(line.to_owned(), style),
        };
        text.split('\n').map(line).collect()
    }

    fn markdown(self, text: &str, width: u16) -> Text<'static> {
        let text = without_long_colours(&text.replace('\t', "    "));
        let options = Options::new(Sheet).table_width(width).code_theme(code_theme().clone());
        let rendered = tui_markdown::from_str_with_options(&text, &options);
        let own =
            |span: Span<'_>, line: Style| Span::styled(span.content.into_owned(), self.plain(line.patch(span.style)));
        let lines = rendered.lines.into_iter().map(|line| {
            let style = line.style;
            Line::from_iter(line.spans.into_iter().map(|span| own(span, style)))
        });
        lines.collect()
    }

    /// A style of the library's in the sixteen colours, without backgrounds.
    fn plain(self, style: Style) -> Style {
        let style = Style { bg: None, ..style };
        match style.fg {
            Some(_) if !self.color => Style { fg: None, ..style },
            Some(Color::Rgb(0, 0, index)) => Style { fg: ansi(index), ..style },
            _ => style,
        }
    }

    /// The style of a card's line.
    pub(super) fn card(self, kind: card::Kind) -> Style {
        match kind {
            card::Kind::Removed => self.bad(),
            card::Kind::Added => self.good(),
            card::Kind::About | card::Kind::Remark => self.dim(),
            card::Kind::Question => self.bold(),
            card::Kind::Field | card::Kind::Text | card::Kind::Json | card::Kind::Kept | card::Kind::Choice => {
                Style::new()
            }
        }
    }
}

fn is_nested_deep(markdown: &str) -> bool {
    let mut depth = 0_usize;
    Parser::new_ext(markdown, pulldown_cmark::Options::all()).any(|event| {
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > NESTING_MAX
    })
}

/// The text without the language of each block of code that has a very long line.
fn without_long_colours(markdown: &str) -> String {
    let mut text = markdown.to_owned();
    let is_long = |line: &str| line.len() > COLOURED_LINE_BYTES_MAX;
    if !markdown.lines().any(is_long) {
        return text;
    }
    for (event, place) in Parser::new_ext(markdown, pulldown_cmark::Options::all()).into_offset_iter() {
        let block = &markdown[place.clone()];
        if matches!(event, Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_)))) && block.lines().any(is_long) {
            let fence = block.lines().next().unwrap_or_default();
            let language = fence.trim_start_matches(['`', '~']).len();
            let end = place.start + fence.len();
            text.replace_range(end - language..end, &" ".repeat(language));
        }
    }
    text
}

/// The colour that a number of the code theme stands for.
fn ansi(index: u8) -> Option<Color> {
    match index {
        1 => Some(Color::DarkGray),
        2 => Some(Color::Green),
        3 => Some(Color::Magenta),
        4 => Some(Color::Cyan),
        5 => Some(Color::Blue),
        6 => Some(Color::Yellow),
        _ => None,
    }
}

/// The theme for code: a number for each kind of token in the place of a colour.
fn code_theme() -> &'static CodeTheme {
    static THEME: OnceLock<CodeTheme> = OnceLock::new();
    THEME.get_or_init(|| {
        CodeTheme::from_textmate(include_str!("code.tmTheme"))
            .unwrap_or_else(|error| unreachable!("the theme is part of the program: {error}"))
    })
}

/// Styles of Markdown.
#[derive(Clone, Copy, Debug)]
struct Sheet;

impl StyleSheet for Sheet {
    fn heading(&self, level: u8) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        if level == 1 { bold.add_modifier(Modifier::UNDERLINED) } else { bold }
    }

    fn code(&self) -> Style {
        Style::new().fg(Color::Cyan)
    }

    fn link(&self) -> Style {
        Style::new().add_modifier(Modifier::UNDERLINED)
    }

    fn blockquote(&self) -> Style {
        Style::new().add_modifier(Modifier::ITALIC)
    }

    fn metadata_block(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn list_marker(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn table_header(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn table_border(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn heading_marker(&self, _: u8) -> &str {
        ""
    }

    fn code_block_fence(&self) -> &str {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_deep_is_shown_as_it_is() {
        let body = |text: &str| Theme { color: true }.body(&Entry::new(Kind::Answer, text), false, 80).lines;
        for deep in ["- ".repeat(20_000) + "x", "> ".repeat(20_000) + "x", "* ".repeat(9_000) + "x", "[".repeat(30_000)]
        {
            let lines = body(&deep);
            assert_eq!((lines.len(), lines[0].to_string()), (1, deep));
        }
        assert_eq!(body("- one\n  - **two**").len(), 2);
        assert!(!body("- one\n  - **two**")[1].to_string().contains('*'));
    }

    /// The library takes seconds for some kilobytes of these, and minutes for all of it.
    #[test]
    fn very_long_lines_of_code_are_not_coloured() {
        let body = |text: &str| Theme { color: true }.body(&Entry::new(Kind::Answer, text), false, 80).lines;
        let is_coloured = |line: &Line<'_>| line.spans.iter().any(|span| span.style.fg.is_some());
        for part in ["![x][", "[a](", "*_`"] {
            let long = part.repeat(60_000 / part.len());
            for (before, fence) in [("", "```md"), ("> ", "~~~ md"), ("- ", "````markdown")] {
                let close = fence.trim_end_matches(|c: char| c != '`' && c != '~');
                let inner = if before == "- " { "  " } else { before };
                let lines =
                    body(&format!("{before}{fence}\n{inner}{long}\n{inner}{close}\n\n```rust\nlet x = 1;\n```"));
                let found = lines.iter().find(|line| line.to_string().contains(&long)).expect("all of it");
                assert!(!is_coloured(found), "{before}{fence}");
                assert!(lines.iter().any(is_coloured), "other code is: {before}{fence}");
            }
            assert!(!body(&long).is_empty(), "nor is it slow outside of code");
        }
    }
}
