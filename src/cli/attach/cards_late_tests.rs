//! Tests of lines that come too late, or too early, to be an answer.

use super::*;
use crate::cli::text::columns;

/// Why a line is not taken.
#[track_caller]
fn refused(cards: &mut Cards, line: &str, began_ms: u64) -> String {
    match cards.line(line, began_ms) {
        Meaning::NotTaken(why) => why,
        taken => panic!("{line}: {taken:?}"),
    }
}

#[test]
fn a_correction_of_an_answer_is_no_prompt() {
    for decides in [true, false] {
        let mut cards = cards(&["r1"]);
        draw(&mut cards, true, 0);
        assert_eq!(decided(&cards.line("y", 1_000)), Some(("r1", "allow")));
        assert_eq!((cards.len(), cards.on_their_way()), (1, 1));
        cards.decide_from_now(decides);
        cards.drawn(None, 1_100);
        // However long the relay takes, before a frame and after it.
        for began_ms in [1_000, 1_050, 2_000, 1_000_000] {
            for line in ["n because", "n", "y"] {
                assert_eq!(refused(&mut cards, line, began_ms), ON_ITS_WAY);
            }
            assert_eq!(cards.line("a prompt", began_ms), Meaning::Text);
        }
        // The request is over: a while later it is too late, and then a line like any other.
        assert!(cards.gone("r1") && cards.on_their_way() == 0);
        assert_eq!(refused(&mut cards, "n because", 1_000_000), TOO_LATE, "the frame of it is not drawn yet");
        cards.drawn(None, 1_000_000);
        assert_eq!(refused(&mut cards, "n because", 1_000_000 + CORRECTED_MS - 1), TOO_LATE);
        assert_eq!(cards.line("a prompt", 1_000_001), Meaning::Text);
        cards.drawn(None, 1_002_000);
        assert_eq!(cards.line("n because", 1_000_000 + CORRECTED_MS), Meaning::Text);
    }
    // One that was not taken is answered anew.
    let mut cards = cards(&["r1"]);
    draw(&mut cards, true, 0);
    assert_eq!(decided(&cards.line("y", 1_000)), Some(("r1", "allow")));
    cards.not_decided("r1");
    draw(&mut cards, true, 2_000);
    assert_eq!(decided(&cards.line("n because", 3_000)), Some(("r1", "deny")));
}

#[test]
fn a_correction_goes_to_no_other_request() {
    let mut cards = cards(&["r1", "r2"]);
    draw(&mut cards, true, 0);
    assert_eq!(decided(&cards.line("y", 1_000)), Some(("r1", "allow")));
    assert_eq!(refused(&mut cards, "n because", 1_100), ON_ITS_WAY, "the next card is not drawn yet");
    draw(&mut cards, true, 1_200);
    assert_eq!(refused(&mut cards, "n because", 1_100), ON_ITS_WAY);
    assert!(refused(&mut cards, "n because", 1_300).contains("half a second"));
    assert_eq!(decided(&cards.line("n because", 1_700)), Some(("r2", "deny")), "the card that stands there");
}

#[test]
fn another_choice_after_an_answer_is_no_prompt() {
    let mut cards = Cards::new(true);
    cards.put(asking("r1", ["Where?", "Which?"]));
    draw(&mut cards, true, 0);
    assert_eq!(cards.line("1", 1_000), Meaning::Next);
    assert_eq!(decided(&cards.line("2", 1_000)), Some(("r1", "allow")));
    cards.drawn(None, 1_100);
    let (lines, now_ms) = (["1", "red", "back", "n"], 2_000);
    lines.iter().for_each(|line| assert_eq!(refused(&mut cards, line, now_ms), ON_ITS_WAY));
    assert_eq!(cards.line("the red one", now_ms), Meaning::Text);
    cards.gone("r1");
    cards.drawn(None, now_ms);
    lines.iter().for_each(|line| assert_eq!(refused(&mut cards, line, now_ms), TOO_LATE));
    assert_eq!(cards.line("1", now_ms + CORRECTED_MS), Meaning::Text);
}

/// A request of one question with these choices was answered with this, and is over.
fn over(cards: &mut Cards, options: &[&str], many: bool, line: &str) {
    let options: Vec<Value> = options.iter().map(|label| json!({"label": label})).collect();
    let input = json!({"questions": [{"question": "Which?", "options": options, "multiSelect": many}]});
    cards.put(OpenPermission { tool: "AskUserQuestion".into(), input: Some(input), ..open("q") });
    draw(cards, true, 0);
    assert_eq!(decided(&cards.line(line, 1_000)), Some(("q", "allow")));
    assert!(cards.gone("q"));
}

#[test]
fn numbers_and_back_correct_an_answer_to_questions_alone() {
    let numbers = ["2", "1,2", " 2; 1 ", "1 2"];
    let mut cards = Cards::new(true);
    over(&mut cards, &["S", "L"], true, "1");
    cards.drawn(None, 1_100);
    for line in numbers.into_iter().chain(["back", "Back ", "L", "y"]) {
        assert_eq!(refused(&mut cards, line, 6_099), TOO_LATE);
        assert!(line == "y" || cards.line(line, 6_100) == Meaning::Text, "{line}");
    }
    ["2 files", "1.", "go back", ","].iter().for_each(|line| assert_eq!(cards.line(line, 2_000), Meaning::Text));
    // Where there was nothing to choose by its number, a number is a text.
    let mut cards = Cards::new(true);
    over(&mut cards, &[], false, "the second");
    cards.drawn(None, 1_100);
    assert_eq!(refused(&mut cards, "back", 2_000), TOO_LATE);
    numbers.iter().for_each(|line| assert_eq!(cards.line(line, 2_000), Meaning::Text));
    let mut cards = super::cards(&["r1"]);
    draw(&mut cards, true, 0);
    assert_eq!(decided(&cards.line("y", 1_000)), Some(("r1", "allow")));
    cards.gone("r1");
    cards.drawn(None, 1_100);
    numbers.iter().chain(&["back"]).for_each(|line| assert_eq!(cards.line(line, 2_000), Meaning::Text));
}

#[test]
fn a_correction_of_an_answer_to_questions_is_no_prompt_beside_another_request() {
    let mut cards = cards(&[]);
    cards.put(asking("r1", ["Where?", "Which?"]));
    cards.put(open("r2"));
    draw(&mut cards, true, 0);
    assert_eq!(cards.line("1", 1_000), Meaning::Next);
    assert_eq!(decided(&cards.line("2", 1_000)), Some(("r1", "allow")));
    draw(&mut cards, true, 1_100);
    let lines = ["back", "1", "Red"];
    lines.iter().for_each(|line| assert_eq!(refused(&mut cards, line, 2_000), ON_ITS_WAY));
    cards.gone("r1");
    draw(&mut cards, true, 2_000);
    lines.iter().for_each(|line| assert_eq!(refused(&mut cards, line, 3_000), TOO_LATE));
    assert_eq!(cards.line("a prompt", 3_000), Meaning::Text);
    // What can be said to the card that stands there is said to it, and ends no time.
    assert_eq!(decided(&cards.line("y", 3_000)), Some(("r2", "allow")));
    cards.gone("r2");
    cards.drawn(None, 3_100);
    lines.iter().for_each(|line| assert_eq!(refused(&mut cards, line, 6_999), TOO_LATE));
    lines.iter().for_each(|line| assert_eq!(cards.line(line, 7_000), Meaning::Text));
}

#[test]
fn a_number_in_the_moment_in_which_its_question_goes_is_no_prompt() {
    let mut cards = Cards::new(true);
    cards.put(asking("r1", ["Where?", "Which?"]));
    draw(&mut cards, true, 0);
    // Another device has answered.
    cards.gone("r1");
    cards.drawn(None, 2_000);
    for line in ["2", "1,2", "back"] {
        assert_eq!(refused(&mut cards, line, 2_000 + VISIBLE_MS - 1), TOO_LATE);
        assert_eq!(cards.line(line, 2_000 + VISIBLE_MS), Meaning::Text);
    }
}

#[test]
fn why_a_line_is_no_answer_has_room_in_a_status_row_of_80_columns() {
    let mut cards = cards(&["r1"]);
    let mut said = vec![refused(&mut cards, "y", 0)];
    draw(&mut cards, false, 0);
    said.push(refused(&mut cards, "y", 1_000));
    cards.decide_from_now(false);
    said.push(refused(&mut cards, "y", 1_000));
    let mut cards = Cards::new(true);
    cards.put(asking("r2", ["Where?", "Which?"]));
    draw(&mut cards, true, 0);
    said.extend(["back", "y", "33", "1 2", "1-2", "½"].map(|line| refused(&mut cards, line, 1_000)));
    cards.put(OpenPermission { questions: Some(json!([{"question": 5}])), ..open("r3") });
    assert_eq!(decided(&cards.line("n", 1_000)), Some(("r2", "deny")));
    draw(&mut cards, true, 2_000);
    said.push(refused(&mut cards, "y", 3_000));
    assert_eq!(decided(&cards.line("n", 3_000)), Some(("r3", "deny")));
    said.extend([ON_ITS_WAY, TOO_LATE].map(str::to_owned));
    said.iter().for_each(|said| assert!(columns(said) <= 78, "{said}"));
}
