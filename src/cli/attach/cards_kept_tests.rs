//! Tests of what belongs to which request: over a break, while parts of inputs come, and in what its card is answered with.

use super::*;

/// A request whose input is named in place of it.
fn of_blob(request: &str) -> OpenPermission {
    let blob = Blob { bytes: 16, blob: request.into() };
    OpenPermission { input: None, input_blob: Some(blob), ..open(request) }
}

fn waiting(cards: &Cards) -> Vec<&str> {
    cards.all().map(|open| open.request.as_str()).collect()
}

/// What there is to see of it, and how much of it has come.
fn body_of(cards: &Cards, request: &str) -> (u64, usize) {
    let one = cards.waiting.iter().find(|waiting| waiting.open.request == request).expect("it waits");
    (one.number, one.progress())
}

#[test]
fn over_a_break_a_request_that_still_waits_keeps_what_was_answered_and_fetched() {
    let held = asking("q", ["Where?", "Which?"]);
    let named = OpenPermission { input: None, input_blob: of_blob("q").input_blob, ..held.clone() };
    // A snapshot may hold an input or name it.
    for back in [&held, &named] {
        let mut cards = cards(&["r1", "gone"]);
        cards.put(of_blob("large"));
        draw(&mut cards, true, 0);
        assert_eq!(decided(&cards.line("y", 1_000)), Some(("r1", "allow")));
        cards.gone("gone");
        cards.fetching("f".into());
        assert!(part(&mut cards, "f", encoded("{\"com"), json!(16)));
        let large = body_of(&cards, "large");
        assert_eq!(large.1, 5);
        draw(&mut cards, true, 1_000);
        assert_eq!(decided(&cards.line("n", 2_000)), Some(("large", "deny")));
        cards.put(held.clone());
        draw(&mut cards, true, 2_000);
        assert_eq!(cards.line("2", 3_000), Meaning::Next);
        let asked = body_of(&cards, "q");
        cards.put(open("withdrawn"));

        let whole = OpenPermission { input_blob: None, ..open("large") };
        cards.only(vec![open("r1"), whole, back.clone(), open("new")]);
        assert_eq!(waiting(&cards), ["r1", "large", "q", "new"]);
        assert_eq!((cards.len(), cards.on_their_way(), cards.place()), (4, 2, (3, 4)));
        assert_eq!((body_of(&cards, "large"), body_of(&cards, "q")), (large, asked));
        assert_eq!(cards.answers(), ["Blue"]);
        // What an event tells once more is no other request.
        cards.put(held.clone());
        assert_eq!((cards.len(), body_of(&cards, "q")), (4, asked));
        assert_eq!(decided(&cards.line("1", 3_000)), Some(("q", "allow")));
    }
}

#[test]
fn a_part_of_an_input_goes_to_the_request_that_it_was_fetched_for() {
    let mut cards = Cards::new(true);
    ["r1", "r2"].iter().for_each(|request| cards.put(of_blob(request)));
    cards.fetching("f1".into());
    draw(&mut cards, true, 0);
    assert_eq!(decided(&cards.line("n", 1_000)), Some(("r1", "deny")));
    assert_eq!(cards.fetch().expect("that of another is under way")["blob"], "r2");
    cards.fetching("f2".into());
    assert!(part(&mut cards, "f2", encoded("{\"a"), json!(16)));
    assert_eq!((body_of(&cards, "r1").1, body_of(&cards, "r2").1), (0, 3));
    cards.fetching("f3".into());
    assert!(!cards.not_fetched("f2", "answered already") && cards.not_fetched("f3", "it is gone"));
    assert_eq!((missing(&cards), body_of(&cards, "r1").1, cards.fetch()), (Some("it is gone"), 0, None));
    draw(&mut cards, true, 1_000);
    assert!(matches!(cards.line("y", 2_000), Meaning::NotTaken(why) if why.contains("it is gone")));
    // A request that is over leaves its parts to no other.
    cards.gone("r1");
    cards.gone("r2");
    cards.put(of_blob("r3"));
    assert!(part(&mut cards, "f1", encoded("{}"), json!(2)));
    assert_eq!(body_of(&cards, "r3").1, 0);
}

#[test]
fn a_late_line_is_measured_by_the_request_that_it_answered() {
    let mut cards = cards(&["r1"]);
    cards.put(asking("q", ["Where?", "Which?"]));
    draw(&mut cards, true, 0);
    // Questions that are not on the screen take no line.
    ["1", "back", "red"].iter().for_each(|line| assert_eq!(cards.line(line, 1_000), Meaning::Text, "{line}"));
    assert_eq!(decided(&cards.line("y", 1_000)), Some(("r1", "allow")));
    draw(&mut cards, true, 1_000);
    assert_eq!(cards.line("2", 2_000), Meaning::Next);
    assert_eq!(decided(&cards.line("1", 2_000)), Some(("q", "allow")));
    // The first one still has no answer of the relay's.
    cards.gone("q");
    cards.drawn(None, 2_000);
    let too_late = Meaning::NotTaken(TOO_LATE.into());
    ["back", "1", "red"].iter().for_each(|line| assert_eq!(cards.line(line, 4_000), too_late, "{line}"));
    // Another device has answered it, and not we.
    let mut cards = super::cards(&["r1"]);
    cards.put(asking("q", ["Where?", "Which?"]));
    draw(&mut cards, true, 0);
    assert_eq!(decided(&cards.line("y", 1_000)), Some(("r1", "allow")));
    draw(&mut cards, true, 1_000);
    cards.gone("q");
    cards.drawn(None, 2_000);
    assert_eq!(cards.line("1", 1_900), too_late);
}

#[test]
fn no_line_answers_a_question_before_it_is_drawn() {
    let mut cards = cards(&["r1"]);
    draw(&mut cards, true, 0);
    cards.gone("r1");
    let input = Some(json!({"questions": [{"question": "Name?"}]}));
    cards.put(OpenPermission { tool: "AskUserQuestion".into(), input, ..open("q") });
    assert!(!cards.seen(), "the other card was seen to its end, and not this one");
    let early = |meaning| matches!(meaning, Meaning::NotTaken(why) if why.contains("half a second"));
    assert!(early(cards.line("a prompt", 2_000)));
    draw(&mut cards, true, 2_000);
    assert!(cards.seen() && early(cards.line("blue", 2_499)));
    assert_eq!(decided(&cards.line("blue", 2_500)), Some(("q", "allow")));
}

#[test]
fn a_card_names_the_keys_that_answer_it_and_no_others() {
    let input = Some(json!({"questions": [{"question": "Name?"}]}));
    let bare = OpenPermission { tool: "AskUserQuestion".into(), input, ..open("r") };
    let [deny, brief] = DENY;
    let hints = |decides: bool, open: &OpenPermission, lines: &[&str]| {
        let mut cards = Cards::new(decides);
        cards.put(open.clone());
        draw(&mut cards, true, 0);
        lines.iter().for_each(|line| assert_eq!(cards.line(line, 1_000), Meaning::Next));
        cards.hints()
    };
    let in_full = OpenPermission { needs_interaction: true, ..open("r") };
    let two = asking("r", ["Where?", "Which?"]);
    for (request, lines, long, short) in [
        (&open("r"), &[][..], "y: allow · ", "y: allow · "),
        (&in_full, &[], "yes: allow · ", "yes: allow · "),
        (&of_blob("r"), &[], "wait, or ", "wait · "),
        (&bare, &[], "the answer · ", "answer · "),
        (&two, &[], "answer 1 of 2: a number, or the answer · ", "1/2: answer · "),
        (&two, &["1"], "answer 2 of 2: a number, or the answer · back · ", "2/2: answer · "),
    ] {
        assert_eq!(hints(true, request, lines), [format!("{long}{deny}"), format!("{short}{brief}")]);
        assert!(
            hints(false, request, &[]).iter().all(|hint| hint.contains("your role") || hint.contains("for your role"))
        );
    }
    for (default_to_no, warns) in [(true, true), (false, false)] {
        let mut cards = Cards::new(true);
        cards.put(OpenPermission { default_to_no, ..open("r") });
        let Body::Whole { card, .. } = &cards.shown().expect("one waits").body else { panic!("a card") };
        assert_eq!(card.plain().contains(card::ADVISED_AGAINST), warns);
    }
}
