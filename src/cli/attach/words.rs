//! What the events of a session say, in words: one line each, with what others wrote cut and cleaned.

use serde_json::Value;

use super::entry::{Change, Entry, Kind};
use crate::{
    cli::text::{clean, clean_line, counted, decision_line, dollars, honest_line},
    client::{OpenPermission, Page},
    relay::card::{Card, TELLING, TOOL_CHARS_MAX, tool_cut},
};

pub(super) const ARGUMENT_CHARS: usize = 160;
const WHY_CHARS: usize = 400;
const PREVIEW_LINES: usize = 3;
const PREVIEW_CHARS: usize = 200;

/// The author of a change, and the reason, as far as either is known.
pub(super) fn reason(by: Option<String>, why: Option<&str>) -> String {
    let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
    let why = why.map(|why| format!(": {}", clean_line(why, WHY_CHARS))).unwrap_or_default();
    by + &why
}

/// What is said of a session in this state.
pub(super) fn session_is(state: &str) -> String {
    match state {
        "failed" => "the session has failed".into(),
        _ => format!("the session is {}", clean_line(state, 16)),
    }
}

pub(super) fn is_over(state: &str) -> bool {
    matches!(state, "stopped" | "failed")
}

pub(super) fn add(kind: Kind, text: &str) -> Change {
    Change::Add(Entry::new(kind, text))
}

/// What of an answer cannot be read, if anything.
pub(super) fn unread(names: &[String]) -> Option<Change> {
    let names = clean_line(&names.join("`, `"), WHY_CHARS);
    let text = format!(
        "part of the relay's answer cannot be read (`{names}`) and is not shown: is the relay another version?"
    );
    (!names.is_empty()).then(|| add(Kind::Warning, &text))
}

/// What of a part of the log cannot be read.
pub(super) fn lost(page: &Page) -> impl Iterator<Item = Change> {
    let lost = page.lost as u64;
    unread(&page.unreadable).into_iter().chain((lost > 0).then(|| add(Kind::Warning, &not_shown(lost))))
}

/// That so many events were passed over.
pub(super) fn not_shown(events: u64) -> String {
    let are = if events == 1 { "is" } else { "are" };
    format!("{} of the relay cannot be read and {are} not shown", counted(events, "event"))
}

/// The line about a request in what there is to read; all of it is on its card.
pub(super) fn asked(open: &OpenPermission) -> Change {
    add(Kind::Asked, &format!("asks for permission: {}", named(open)))
}

/// A request in a line, by which it can be told from others.
pub(super) fn named(open: &OpenPermission) -> String {
    let about = match (&open.input, &open.input_blob) {
        (Some(input), _) => argument(input),
        (None, Some(blob)) => format!("{} bytes", blob.bytes),
        (None, None) => String::new(),
    };
    format!("{}({about})", tool_cut(&open.tool, TOOL_CHARS_MAX))
}

/// An answer to a request, in a line: what the fields of the command say, and to what.
pub(super) fn answer_to(open: &OpenPermission, fields: &Value) -> String {
    let said = decision_line(fields, |text| honest_line(text, ARGUMENT_CHARS));
    format!("your answer ({said}) to {}", named(open))
}

pub(super) fn turn(ok: bool, stop: &str, by: Option<String>, cost_usd: f64, duration_ms: u64) -> Change {
    let (seconds, by) = (duration_ms as f64 / 1000.0, reason(by, None));
    match ok {
        // What the agent counts is no turn's own: it goes on from turn to turn.
        true => {
            let cost = dollars(cost_usd, 4);
            add(Kind::Note, &format!("done in {seconds:.1} s · {cost} so far, as the agent counts"))
        }
        false if stop.starts_with("aborted") => add(Kind::Warning, &format!("interrupted{by} after {seconds:.1} s")),
        false => add(Kind::Warning, &format!("ended after {seconds:.1} s: {}", clean_line(stop, 80))),
    }
}

pub(super) fn result(outcome: &str, preview: &str) -> Change {
    let preview = clean(preview);
    let lines: Vec<&str> = preview.lines().filter(|line| !line.trim().is_empty()).collect();
    let (kind, mark) = match outcome {
        "ok" => (Kind::Output, String::new()),
        "error" => (Kind::FailedOutput, "error: ".into()),
        other => (Kind::FailedOutput, format!("{}: ", clean_line(other, 20))),
    };
    let mut text: Vec<String> = lines.iter().take(PREVIEW_LINES).map(|line| clean_line(line, PREVIEW_CHARS)).collect();
    match lines.len() {
        0 => text.push("(no output)".into()),
        more if more > PREVIEW_LINES => {
            let more = more - PREVIEW_LINES;
            text.push(format!("… {}", counted(more as u64, "more line")));
        }
        _ => {}
    }
    add(kind, &format!("{mark}{}", text.join("\n")))
}

/// A card's lines as plain text.
pub(super) fn lines_of(card: &Card) -> String {
    card.lines.iter().map(crate::relay::card::Line::plain).collect::<Vec<_>>().join("\n")
}

pub(super) fn past(decision: &str) -> &'static str {
    match decision {
        "allow" => "allowed",
        "deny" => "denied",
        _ => "closed",
    }
}

/// The length of an input which no event could hold: the relay has put its beginning in its place.
fn length_of_cut(input: &Value) -> Option<u64> {
    let fields = input.as_object().filter(|fields| fields.len() == 3)?;
    let (is_cut, head) = (fields.get("truncated")?.as_bool()?, fields.get("head")?.as_str()?);
    let bytes = fields.get("bytes")?.as_u64()?;
    (is_cut && bytes > head.len() as u64).then_some(bytes)
}

/// A tool's input in a line: the field that says most, else all of it. No decision rests on it.
pub(super) fn argument(input: &Value) -> String {
    if let Some(bytes) = length_of_cut(input) {
        return format!("{bytes} bytes");
    }
    // Of these a card has a place of its own, or another field that says more.
    let asked = || input.pointer("/questions/0/question").or_else(|| input.get("description"));
    let found = TELLING.iter().find_map(|name| input.get(name)?.as_str()).or_else(|| asked()?.as_str());
    match (found, input) {
        (Some(text), _) => honest_line(text, ARGUMENT_CHARS),
        (None, Value::Null) => String::new(),
        (None, Value::Object(fields)) if fields.is_empty() => String::new(),
        (None, other) => honest_line(&other.to_string(), ARGUMENT_CHARS),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_turn_has_cost_is_bounded_whatever_the_relay_says() {
        for (usd, shown) in [(0.01234, "$0.0123"), (1e308, ">$999999"), (f64::NAN, "?")] {
            let Change::Add(entry) = turn(true, "", None, usd, 1_000) else { panic!("something is said") };
            assert_eq!(entry.text, format!("done in 1.0 s · {shown} so far, as the agent counts"));
        }
    }

    #[test]
    fn an_answer_is_told_in_a_line() {
        let open = OpenPermission { tool: "Bash".into(), input: Some(json!({"command": "ls"})), ..Default::default() };
        for (fields, said) in [
            (json!({"decision": "allow"}), "allow"),
            (json!({"decision": "deny"}), "deny"),
            (json!({"decision": "deny", "message": "use\nrg"}), "deny: use⏎rg"),
            (json!({"decision": "allow", "answers": {"A?": "Blue", "B?": "neither"}}), "Blue; neither"),
        ] {
            assert_eq!(answer_to(&open, &fields), format!("your answer ({said}) to Bash(ls)"));
        }
    }

    #[test]
    fn an_input_is_told_by_the_field_that_its_card_shows_first() {
        for (at, name) in TELLING.iter().enumerate() {
            let mut fields =
                serde_json::Map::from_iter([("description".to_owned(), json!("about")), ("z".into(), json!(1))]);
            TELLING[at..].iter().rev().for_each(|later| drop(fields.insert((*later).to_owned(), json!(later))));
            let input = Value::Object(fields);
            assert_eq!(argument(&input), *name);
            let first = Card::new("Task", "", &input).lines.swap_remove(0);
            assert!(first.text == *name, "{first:?}");
        }
        assert_eq!(argument(&json!({"questions": [{"question": "Which?"}]})), "Which?");
        assert_eq!(argument(&json!({"description": "about", "z": 1})), "about");
        assert_eq!(argument(&json!({"z": 1})), "{\"z\":1}");
    }
}
