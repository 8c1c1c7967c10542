//! Tests of what a line answers.

use proptest::prelude::*;

use super::*;

#[path = "cards_kept_tests.rs"]
mod kept;
#[path = "cards_late_tests.rs"]
mod late;

fn open(request: &str) -> OpenPermission {
    let input = json!({"command": format!("touch {request}")});
    OpenPermission { request: request.into(), tool: "Bash".into(), input: Some(input), ..OpenPermission::default() }
}

fn cards(requests: &[&str]) -> Cards {
    let mut cards = Cards::new(true);
    requests.iter().for_each(|request| cards.put(open(request)));
    cards
}

/// The card of the request that waits is drawn.
fn draw(cards: &mut Cards, end: bool, now_ms: u64) {
    let number = cards.shown().expect("one waits").number;
    cards.drawn(Some((number, end)), now_ms);
}

fn decided(meaning: &Meaning) -> Option<(&str, &str)> {
    match meaning {
        Meaning::Decide(fields) => Some((fields["request"].as_str()?, fields["decision"].as_str()?)),
        _ => None,
    }
}

fn hash_of(request: &str) -> String {
    shown::hash(&json!({"command": format!("touch {request}")})).expect("a hash")
}

#[test]
fn a_line_answers_the_request_on_the_screen_by_its_hash() {
    let mut cards = cards(&["r1", "r2", "r3"]);
    assert_eq!(cards.place(), (1, 3));
    draw(&mut cards, true, 1_000);
    let Meaning::Decide(fields) = cards.line("y", 1_500) else { panic!("not taken") };
    assert_eq!(fields, json!({"type": "decide", "request": "r1", "decision": "allow", "shown": hash_of("r1")}));
    assert_eq!(cards.place(), (2, 3));
    // Nothing is said of the next one before it is drawn.
    assert!(matches!(cards.line("y", 2_000), Meaning::NotTaken(_)));
    draw(&mut cards, true, 2_000);
    assert!(matches!(cards.line("y", 2_499), Meaning::NotTaken(_)));
    assert_eq!(decided(&cards.line("no", 2_500)), Some(("r2", "deny")));
    cards.not_decided("r2");
    assert!(cards.gone("r2") && !cards.gone("r2"));
    assert_eq!(cards.shown().expect("one waits").open.request, "r3");
}

#[test]
fn a_decision_elsewhere_does_not_hand_the_answer_to_the_next_request() {
    let mut cards = cards(&["r1", "r2"]);
    draw(&mut cards, true, 0);
    cards.gone("r1");
    assert!(matches!(cards.line("y", 10_000), Meaning::NotTaken(_)), "r2 was never drawn");
    draw(&mut cards, true, 10_020);
    assert!(matches!(cards.line("y", 10_000), Meaning::NotTaken(_)), "its first key is older than the card");
}

#[test]
fn text_is_text_and_a_reason_goes_with_a_denial() {
    let mut cards = cards(&["r1"]);
    draw(&mut cards, true, 0);
    assert_eq!(cards.line("yes but not now", 9_999), Meaning::Text);
    let Meaning::Decide(fields) = cards.line("n use rg", 9_999) else { panic!("not taken") };
    assert_eq!((&fields["decision"], &fields["message"]), (&json!("deny"), &json!("use rg")));
    let mut watcher = Cards::new(false);
    watcher.put(open("r1"));
    draw(&mut watcher, true, 0);
    assert!(matches!(watcher.line("y", 9_999), Meaning::NotTaken(why) if why.contains("role")));
    assert_eq!(watcher.line("a prompt", 9_999), Meaning::Text);
    // Of one that has gone it is no answer that comes too late.
    watcher.gone("r1");
    watcher.drawn(None, 10_000);
    assert_eq!(watcher.line("n use tabs", 10_001), Meaning::Text);
}

#[test]
fn what_was_not_seen_whole_is_not_allowed() {
    let mut cards = cards(&["r1"]);
    draw(&mut cards, false, 0);
    assert!(matches!(cards.line("y", 1_000), Meaning::NotTaken(why) if why.contains("PgDn")));
    draw(&mut cards, true, 1_000);
    draw(&mut cards, false, 1_100);
    assert_eq!(decided(&cards.line("y", 1_200)), Some(("r1", "allow")), "it was seen to its end once");

    let mut strict = Cards::new(true);
    strict.put(OpenPermission { deny_only: true, ..open("r1") });
    draw(&mut strict, true, 0);
    assert!(matches!(strict.line("yes", 1_000), Meaning::NotTaken(_)));
    assert_eq!(decided(&strict.line("n", 1_000)), Some(("r1", "deny")));
    strict.put(OpenPermission { needs_interaction: true, ..open("r2") });
    draw(&mut strict, true, 2_000);
    assert!(matches!(strict.line("y", 3_000), Meaning::NotTaken(why) if why.contains("yes")));
    assert_eq!(decided(&strict.line("yes", 3_000)), Some(("r2", "allow")));
}

#[test]
fn a_large_input_is_fetched_and_then_shown() {
    let input = json!({"command": "x".repeat(300)});
    let text = input.to_string();
    let blob = Blob { bytes: text.len() as u64, blob: "input-1".into() };
    let mut cards = Cards::new(true);
    cards.put(OpenPermission { input: None, input_blob: Some(blob), ..open("r1") });
    draw(&mut cards, true, 0);
    assert!(matches!(cards.line("y", 1_000), Meaning::NotTaken(_)));
    let mut from = 0;
    while let Some(fields) = cards.fetch() {
        assert_eq!((&fields["blob"], &fields["from"]), (&json!("input-1"), &json!(from)));
        let id = format!("f{from}");
        cards.fetching(id.clone());
        assert_eq!(cards.fetch(), None, "one at a time");
        let part = &text[from..(from + 100).min(text.len())];
        from += part.len();
        let fields = json!({"data": URL_SAFE_NO_PAD.encode(part), "total": text.len()});
        let Value::Object(fields) = fields else { unreachable!() };
        assert!(cards.fetched(&Reply { re: id, fields }));
    }
    assert!(
        matches!(&cards.shown().expect("it waits").body, Body::Whole { hash, .. } if Some(hash) == shown::hash(&input).as_ref())
    );
    assert!(matches!(cards.line("y", 1_000), Meaning::NotTaken(_)), "what was drawn held none of it");
    draw(&mut cards, false, 1_100);
    assert!(matches!(cards.line("y", 1_600), Meaning::NotTaken(_)), "its end was not seen");
    draw(&mut cards, true, 1_600);
    assert_eq!(decided(&cards.line("y", 1_600)), Some(("r1", "allow")));
}

/// A request with an input of so many bytes, as it says; the first part of the input is asked for.
fn asked_for(bytes: usize) -> Cards {
    let blob = Blob { bytes: bytes as u64, blob: "input-1".into() };
    let mut cards = Cards::new(true);
    cards.put(OpenPermission { input: None, input_blob: Some(blob), ..open("r1") });
    cards.fetching("f".into());
    cards
}

/// A part of it comes as the answer to what was asked for under this id.
fn part(cards: &mut Cards, re: &str, data: Value, total: Value) -> bool {
    let Value::Object(fields) = json!({"data": data, "total": total}) else { unreachable!() };
    cards.fetched(&Reply { re: re.into(), fields })
}

fn missing(cards: &Cards) -> Option<&str> {
    match &cards.shown()?.body {
        Body::Missing(why) => Some(why),
        _ => None,
    }
}

fn encoded(part: &str) -> Value {
    json!(URL_SAFE_NO_PAD.encode(part))
}

#[test]
fn c5_a_part_of_an_input_that_is_not_as_it_was_said_ends_it() {
    let whole = r#"{"command":"ls"}"#;
    let total = json!(whole.len());
    for (data, total, why) in [
        (json!(7), total.clone(), "cannot be read"),
        (json!("%"), total.clone(), "cannot be read"),
        (encoded(whole), json!("x"), "cannot be read"),
        (encoded(whole), Value::Null, "cannot be read"),
        (encoded(&whole[..5]), json!(INPUT_BYTES_MAX + 1), "cannot be read"),
        // It would be asked for again without end.
        (json!(""), total.clone(), "less than it said"),
        (encoded("{]"), json!(2), "its input cannot be read"),
        (encoded(&json!({"a": "\n".repeat(INPUT_LINES_MAX)}).to_string()), json!(0), "lines that can be shown"),
    ] {
        let mut cards = asked_for(16);
        assert!(part(&mut cards, "f", data, total));
        assert!(missing(&cards).is_some_and(|said| said.contains(why)), "{why}: {:?}", cards.shown());
        assert_eq!(cards.fetch(), None, "{why}");
        draw(&mut cards, true, 0);
        assert!(matches!(cards.line("y", 1_000), Meaning::NotTaken(_)), "{why}");
        assert_eq!(decided(&cards.line("n", 1_000)), Some(("r1", "deny")), "{why}");
    }
    // The same in one part of several: at another place than was asked for, it would make another input.
    let mut cards = asked_for(16);
    cards.fetching("twice".into());
    assert!(part(&mut cards, "f", encoded(&whole[..5]), total.clone()));
    assert!(part(&mut cards, "twice", encoded(&whole[5..]), total));
    assert!(missing(&cards).is_some(), "{:?}", cards.shown());
}

#[test]
fn c5_an_input_is_shown_up_to_its_bounds_and_not_beyond() {
    for (bytes, asks) in [(INPUT_BYTES_MAX, true), (INPUT_BYTES_MAX + 1, false)] {
        let cards = asked_for(bytes);
        assert_eq!((cards.fetches.len() == 1, missing(&cards).is_none()), (asks, asks), "{bytes}");
    }
    let mut cards = asked_for(INPUT_BYTES_MAX);
    assert!(part(&mut cards, "f", encoded("{"), json!(INPUT_BYTES_MAX)));
    assert!(missing(&cards).is_none() && cards.fetch().is_some(), "the largest one goes on");
    for (lines, fits) in [(INPUT_LINES_MAX - 1, true), (INPUT_LINES_MAX, false)] {
        let mut cards = Cards::new(true);
        cards.put(OpenPermission { input: Some(json!({"command": "\n".repeat(lines)})), ..open("r1") });
        assert_eq!(missing(&cards).is_none(), fits, "{lines}");
    }
    let mut cards = Cards::new(true);
    cards.put(OpenPermission { unreadable: vec!["about".into()], ..open("r1") });
    assert!(missing(&cards).is_some_and(|why| why.contains("`about`")), "what it is about was not seen");
}

#[test]
fn c5_cards_that_have_gone_are_remembered_up_to_a_bound() {
    let mut cards = Cards::new(true);
    for at in 0..=LEFT_MAX as u64 {
        cards.put(open("r"));
        draw(&mut cards, true, at * 1_000);
        cards.gone("r");
        cards.drawn(None, at * 1_000 + 900);
    }
    assert_eq!(cards.left.len(), LEFT_MAX);
    assert!(matches!(cards.line("y", 1_000), Meaning::NotTaken(_)));
    assert_eq!(cards.line("y", 0), Meaning::Text, "the oldest is forgotten");
}

#[test]
fn c5_a_part_of_the_last_connection_is_not_taken_for_one_of_this() {
    let mut cards = asked_for(16);
    assert_eq!(cards.fetch(), None, "one at a time");
    let again =
        OpenPermission { input: None, input_blob: Some(Blob { bytes: 16, blob: "input-1".into() }), ..open("r1") };
    cards.only(vec![again]);
    assert!(cards.fetch().is_some(), "its answer is lost with its connection");
    assert!(!part(&mut cards, "f", encoded("{}"), json!(2)));
    assert!(matches!(&cards.shown().expect("it waits").body, Body::Fetching { data, .. } if data.is_empty()));
}

#[test]
fn an_id_that_comes_again_is_another_request() {
    let mut cards = cards(&["r1"]);
    draw(&mut cards, true, 0);
    cards.gone("r1");
    cards.put(OpenPermission { input: Some(json!({"command": "rm"})), ..open("r1") });
    assert!(matches!(cards.line("y", 1_000), Meaning::NotTaken(_)), "this one was never drawn");
    draw(&mut cards, true, 1_000);
    cards.only(vec![open("r1")]);
    assert!(matches!(cards.line("y", 2_000), Meaning::NotTaken(_)), "nor was this one");
}

#[test]
fn an_answer_whose_card_has_gone_is_sent_as_nothing_else() {
    let mut cards = cards(&["r1"]);
    draw(&mut cards, true, 1_000);
    cards.gone("r1");
    assert!(matches!(cards.line("y", 1_600), Meaning::NotTaken(_)), "the screen still shows it");
    cards.drawn(None, 2_000);
    assert!(matches!(cards.line("n because", 1_600), Meaning::NotTaken(_)));
    assert_eq!(cards.line("a prompt", 1_600), Meaning::Text);
    // The key may be pressed in the moment in which the card goes.
    assert!(matches!(cards.line("y", 2_499), Meaning::NotTaken(_)));
    assert_eq!((cards.line("y", 900), cards.line("y", 2_500)), (Meaning::Text, Meaning::Text));
    assert_eq!(cards.line("a prompt", 2_001), Meaning::Text);
    // What is typed at a question is meant for it, whatever it is.
    let question = json!({"questions": [{"question": "A?"}]});
    cards.put(OpenPermission { tool: "AskUserQuestion".into(), input: Some(question), ..open("r2") });
    draw(&mut cards, true, 3_000);
    cards.gone("r2");
    cards.put(open("r3"));
    draw(&mut cards, true, 4_000);
    assert!(matches!(cards.line("2", 3_600), Meaning::NotTaken(_)));
    assert_eq!(cards.line("2", 4_000), Meaning::Text);
}

#[test]
fn no_label_changes_what_the_keys_of_a_card_do() {
    let answered = |labels: [&str; 2], typed: &[&str]| {
        let options = labels.map(|label| json!({"label": label}));
        let questions = ["First?", "Then?"].map(|text| json!({"question": text, "options": options}));
        let mut cards = Cards::new(true);
        let input = Some(json!({"questions": questions}));
        cards.put(OpenPermission { tool: "AskUserQuestion".into(), input, ..open("r1") });
        draw(&mut cards, true, 0);
        typed.iter().map(|line| cards.line(line, 1_000)).last().expect("a line")
    };
    let allowed = |meaning: &Meaning| matches!(meaning, Meaning::Decide(fields) if fields["decision"] == "allow");
    let denied = |meaning: &Meaning| matches!(meaning, Meaning::Decide(fields) if fields["decision"] == "deny");
    for labels in [["Yes", "No"], ["y", "n"], ["n it is", "back"]] {
        assert!(denied(&answered(labels, &["n"])) && denied(&answered(labels, &["n it is"])), "{labels:?}");
        assert!(allowed(&answered(labels, &["1", "2"])), "{labels:?}");
    }
    assert!(allowed(&answered(["Yes", "No"], &["Yes", "yes"])) && allowed(&answered(["y", "n"], &["y", "2"])));
    // The word is a choice and a denial.
    let unclear = answered(["Yes", "No"], &["no"]);
    assert!(matches!(&unclear, Meaning::NotTaken(why) if why.contains("its number")), "{unclear:?}");
    // With nothing to take back it is a word like others; else the key is what the card says.
    assert_eq!(answered(["n it is", "back"], &["1", "back"]), Meaning::Next);
    assert!(allowed(&answered(["n it is", "back"], &["back", "1"])));
}

#[test]
fn questions_that_cannot_be_put_can_only_be_denied() {
    let questions = json!([{"question": "Delete?"}, {"question": "Delete?"}]);
    let input = json!({"questions": questions});
    let mut cards = Cards::new(true);
    cards.put(OpenPermission {
        tool: "AskUserQuestion".into(),
        questions: Some(questions),
        input: Some(input),
        ..open("r1")
    });
    draw(&mut cards, true, 0);
    assert!(matches!(cards.line("y", 1_000), Meaning::NotTaken(why) if why.contains("denied")));
    assert_eq!(decided(&cards.line("n", 1_000)), Some(("r1", "deny")));
}

#[test]
fn questions_are_answered_one_after_the_other() {
    let options = json!([{"label": "Red"}, {"label": "Blue"}]);
    let input =
        json!({"questions": [{"question": "A?", "options": options.clone()}, {"question": "B?", "options": options}]});
    let mut cards = Cards::new(true);
    let asked = || OpenPermission { tool: "AskUserQuestion".into(), input: Some(input.clone()), ..open("r1") };
    cards.put(asked());
    draw(&mut cards, true, 0);
    assert!(matches!(cards.line("y", 1_000), Meaning::NotTaken(_)), "a bare yes answers nothing");
    assert!(matches!(cards.line("7", 1_000), Meaning::NotTaken(_)));
    assert_eq!(cards.line("2", 1_000), Meaning::Next);
    assert_eq!(cards.question().map(|(at, question)| (at, question.text.as_str())), Some((1, "B?")));
    let Meaning::Decide(fields) = cards.line("neither", 1_000) else { panic!("not taken") };
    assert_eq!(fields["answers"], json!({"A?": "Blue", "B?": "neither"}));
    assert_eq!(fields["shown"], json!(shown::hash(&input)));
}

/// A request that asks two questions of two choices each.
fn asking(request: &str, questions: [&str; 2]) -> OpenPermission {
    let options = json!([{"label": "Red"}, {"label": "Blue"}]);
    let questions = questions.map(|question| json!({"question": question, "options": options}));
    let input = Some(json!({"questions": questions}));
    OpenPermission { tool: "AskUserQuestion".into(), input, ..open(request) }
}

#[test]
fn what_was_answered_so_far_is_not_said_of_another_request() {
    let mut cards = Cards::new(true);
    cards.put(asking("r1", ["Delete the branch?", "Which?"]));
    cards.put(asking("r2", ["Colour?", "Shape?"]));
    draw(&mut cards, true, 0);
    assert_eq!(cards.line("2", 1_000), Meaning::Next);
    assert_eq!(decided(&cards.line("2", 1_000)), Some(("r1", "allow")));
    draw(&mut cards, true, 2_000);
    assert_eq!(cards.line("1", 3_000), Meaning::Next);
    // The relay did not take it, so that it is the oldest again.
    cards.not_decided("r1");
    assert_eq!((cards.question().map(|(at, _)| at), cards.answers()), (Some(0), Vec::new()), "as it is drawn first");
    draw(&mut cards, true, 4_000);
    assert_eq!(cards.line("2", 5_000), Meaning::Next);
    let Meaning::Decide(fields) = cards.line("1", 5_000) else { panic!("not taken") };
    assert_eq!(fields["answers"], json!({"Delete the branch?": "Blue", "Which?": "Red"}));
    // What was answered is kept while others are on the screen, or come back to it.
    draw(&mut cards, true, 6_000);
    assert_eq!(cards.answers(), ["Red"]);
    cards.put(asking("r3", ["Colour?", "Shape?"]));
    cards.gone("r1");
    cards.not_decided("r1");
    // So does one behind another that comes back, is not taken and ends before a frame.
    cards.put(asking("r4", ["Which?", "How?"]));
    let Meaning::Decide(fields) = cards.line("2", 7_000) else { panic!("not taken") };
    assert_eq!(fields["answers"], json!({"Colour?": "Red", "Shape?": "Blue"}));
    draw(&mut cards, true, 8_000);
    assert_eq!(cards.line("1", 9_000), Meaning::Next);
    cards.not_decided("r2");
    cards.gone("r2");
    assert_eq!(cards.question().map(|(at, _)| at), Some(1), "the question on the screen");
    assert_eq!(cards.answers(), ["Red"]);
}

#[test]
fn there_is_nothing_to_go_back_to_before_a_first_question() {
    let mut cards = Cards::new(true);
    cards.put(asking("r1", ["Where?", "Which?"]));
    draw(&mut cards, true, 0);
    assert!(matches!(cards.line("back", 1_000), Meaning::NotTaken(why) if why.contains("the first question")));
    assert_eq!(cards.line("1", 1_000), Meaning::Next);
    assert_eq!((cards.line("Back", 1_000), cards.answers()), (Meaning::Next, Vec::new()));
}

#[derive(Clone, Debug)]
enum Step {
    /// A request comes, with one of two inputs.
    Put(u8, bool),
    /// A request comes, with an input that is to be fetched.
    PutLarge(u8),
    /// The input comes.
    Fetched,
    /// It is decided elsewhere, or withdrawn.
    Gone(u8),
    /// The screen is drawn; the end of the card may be below it.
    Draw { end: bool },
    /// A line is begun now.
    Begin,
    /// It is ended.
    Line(&'static str),
    /// The screen is drawn and seen to its end, and a line typed after a while.
    Typed(&'static str),
    /// Another program has the terminal.
    Hidden,
    /// The relay did not take our answer.
    NotDecided(u8),
    /// Connected again: only these wait.
    Only(Vec<(u8, bool)>),
}

fn line() -> impl Strategy<Value = &'static str> {
    const NUMBERS: [&str; 4] = ["1", "2", "1", "2"];
    let others = ["y", "yes", "n", "yes but", "x", "3", "back"];
    prop_oneof![prop::sample::select(&NUMBERS[..]), prop::sample::select(others.to_vec())]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..4, any::<bool>()).prop_map(|(n, other)| Step::Put(n, other)),
        1 => (0u8..4).prop_map(Step::PutLarge),
        3 => Just(Step::Fetched),
        2 => (0u8..4).prop_map(Step::Gone),
        5 => any::<bool>().prop_map(|end| Step::Draw { end }),
        3 => Just(Step::Begin),
        4 => line().prop_map(Step::Line),
        10 => line().prop_map(Step::Typed),
        1 => Just(Step::Hidden),
        2 => (0u8..4).prop_map(Step::NotDecided),
        1 => prop::collection::vec((0u8..4, any::<bool>()), 0..4).prop_map(Step::Only),
    ]
}

/// What happens where questions are asked and nothing else, so that some are answered in part.
fn asking_step() -> impl Strategy<Value = Step> {
    let one = || prop_oneof![Just(1u8), Just(3)];
    prop_oneof![
        4 => (one(), any::<bool>()).prop_map(|(n, other)| Step::Put(n, other)),
        10 => line().prop_map(Step::Typed),
        3 => one().prop_map(Step::NotDecided),
        1 => one().prop_map(Step::Gone),
        1 => Just(Step::Draw { end: true }),
        1 => Just(Step::Hidden),
    ]
}

fn steps() -> impl Strategy<Value = Vec<(Step, u64)>> {
    let of = |step: BoxedStrategy<Step>| prop::collection::vec((step, 0u64..400), 1..80);
    prop_oneof![of(step().boxed()), of(asking_step().boxed())]
}

/// One of four requests, of which two ask questions, with one of two inputs.
fn request_of(n: u8, other: bool) -> OpenPermission {
    if n % 2 == 1 {
        return asking(&format!("r{n}"), if other { ["Delete the branch?", "Which?"] } else { ["Colour?", "Shape?"] });
    }
    let input = json!({"command": format!("touch {n} {other}")});
    OpenPermission { input: Some(input), ..open(&format!("r{n}")) }
}

fn large(n: u8) -> OpenPermission {
    let blob = Blob { bytes: 100, blob: "input".into() };
    OpenPermission { input: None, input_blob: Some(blob), ..open(&format!("r{n}")) }
}

/// The input that waits comes in one part.
fn fetch(cards: &mut Cards) {
    if cards.fetch().is_none() {
        return;
    }
    cards.fetching("f".into());
    let data = json!({"command": "touch large"}).to_string();
    let Value::Object(fields) = json!({"data": URL_SAFE_NO_PAD.encode(&data), "total": data.len()}) else {
        unreachable!()
    };
    assert!(cards.fetched(&Reply { re: "f".into(), fields }));
}

/// What a person sees of the request that waits, and its hash where that is all of it.
fn to_see(cards: &Cards) -> Option<(String, Option<String>)> {
    let Waiting { open, body, .. } = cards.shown()?;
    match body {
        Body::Whole { card, hash } => Some((format!("{} {}", open.request, card.plain()), Some(hash.clone()))),
        _ => Some((open.request.clone(), None)),
    }
}

/// What a person has before the eyes.
struct Eyes {
    number: u64,
    /// What is to be seen, and its hash where that is all of it.
    seen: (String, Option<String>),
    since: u64,
    to_end: bool,
}

/// What was typed last under which question of what there was to see.
type Typed = HashMap<(u64, String), &'static str>;

impl Eyes {
    /// The screen is drawn.
    fn draw(eyes: Option<Self>, cards: &mut Cards, end: bool, now: u64) -> Option<Self> {
        let number = cards.shown().map(|waiting| waiting.number);
        let seen = to_see(cards);
        let before = (cards.question().map(|(at, _)| at), cards.answers());
        cards.drawn(number.map(|number| (number, end)), now);
        assert_eq!((cards.question().map(|(at, _)| at), cards.answers()), before, "what was drawn stays true");
        let (number, seen) = (number?, seen?);
        Some(match eyes {
            Some(eyes) if eyes.number == number => {
                Self { since: eyes.since.min(now), to_end: eyes.to_end || end, ..eyes }
            }
            _ => Self { number, seen, since: now, to_end: end },
        })
    }

    /// A line is ended that was begun then.
    fn line(eyes: &Option<Self>, typed: &mut Typed, cards: &mut Cards, line: &'static str, began: u64) {
        let question = cards.question().map(|(_, question)| question.clone());
        let unconfirmed = cards.on_their_way();
        let meaning = cards.line(line, began);
        assert!(unconfirmed == 0 || Said::of(line).is_none() || meaning != Meaning::Text, "{line} corrects an answer");
        let eyes = match (&meaning, eyes) {
            (Meaning::Text | Meaning::NotTaken(_), _) => return,
            (_, eyes) => eyes.as_ref().expect("something was drawn"),
        };
        assert!(began >= eyes.since + VISIBLE_MS);
        let Meaning::Decide(fields) = &meaning else {
            // After its answer is taken back a question has to be answered anew.
            typed.insert((eyes.number, question.expect("a question").text), line);
            return;
        };
        let (request, decision) = decided(&meaning).expect("a request and a decision");
        let (seen, hash) = &eyes.seen;
        assert!(seen.starts_with(request));
        let mut answers: Typed = typed.extract_if(|(number, _), _| *number == eyes.number).collect();
        if decision == "deny" {
            assert_eq!(line, "n");
            return;
        }
        assert!(eyes.to_end && hash.is_some() && fields["shown"].as_str() == hash.as_deref());
        let Some(last) = question else { return assert!(matches!(line, "y" | "yes")) };
        answers.insert((eyes.number, last.text.clone()), line);
        let label = |line: &str| last.answer(line).expect("an answer");
        let answers = answers.into_iter().map(|((_, question), line)| (question, label(line).into()));
        assert_eq!(fields["answers"], Value::Object(answers.collect()), "each was typed under its own question");
    }
}

proptest! {
    /// Over random orders of cards, parts of inputs, decisions elsewhere, withdrawals, ids that come again and keys:
    /// what is allowed is the request of the card that was drawn last, whole, drawn for as long as it takes before the
    /// first key of the line, seen to its end, by the hash of what was drawn, and with what was typed under each of its
    /// questions.
    #[test]
    fn nothing_is_allowed_but_what_was_drawn(steps in steps()) {
        let mut cards = Cards::new(true);
        let (mut now, mut began) = (0, 0);
        let (mut eyes, mut typed): (Option<Eyes>, _) = (None, Typed::new());
        for (step, passes) in steps {
            now += passes;
            match step {
                Step::Put(n, other) => cards.put(request_of(n, other)),
                Step::PutLarge(n) => cards.put(large(n)),
                Step::Fetched => fetch(&mut cards),
                Step::Gone(n) => drop(cards.gone(&format!("r{n}"))),
                Step::NotDecided(n) => cards.not_decided(&format!("r{n}")),
                Step::Only(all) => {
                    let mut all = all;
                    all.sort_unstable();
                    all.dedup_by_key(|(n, _)| *n);
                    cards.only(all.into_iter().map(|(n, other)| request_of(n, other)).collect());
                }
                Step::Draw { end } => eyes = Eyes::draw(eyes.take(), &mut cards, end, now),
                Step::Hidden => {
                    cards.drawn(None, now);
                    eyes = eyes.map(|eyes| Eyes { since: u64::MAX, to_end: false, ..eyes });
                }
                Step::Begin => began = now,
                Step::Line(line) => {
                    Eyes::line(&eyes, &mut typed, &mut cards, line, began);
                    began = now;
                }
                Step::Typed(line) => {
                    eyes = Eyes::draw(eyes.take(), &mut cards, true, now);
                    now += VISIBLE_MS;
                    Eyes::line(&eyes, &mut typed, &mut cards, line, now);
                    began = now;
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_seen_whole_is_denied_and_the_card_says_why() {
    let cut = "for this\n[cut: 9000 bytes in all]".to_owned();
    for (open, why) in [
        (
            OpenPermission { deny_only: true, deny_why: Some("the name is long".into()), ..open("r") },
            "the name is long",
        ),
        (OpenPermission { deny_only: true, ..open("r") }, "cannot be shown whole"),
        (OpenPermission { about: cut, ..open("r") }, "no room"),
    ] {
        let mut cards = Cards::new(true);
        cards.put(open);
        draw(&mut cards, true, 0);
        let Body::Whole { card, .. } = &cards.shown().expect("one waits").body else { panic!("a card") };
        assert!(card.lines[0].text.contains("only be denied") && card.lines[0].text.contains(why), "{card:?}");
        assert!(!cards.hint().contains("allow"));
        let Meaning::NotTaken(said) = cards.line("y", 1_000) else { panic!("taken") };
        assert!(said.contains(why), "{said}");
        assert_eq!(decided(&cards.line("n", 1_000)), Some(("r", "deny")));
    }
}

#[test]
fn questions_that_cannot_be_put_are_told_in_one_way() {
    let mut cards = Cards::new(true);
    cards.put(OpenPermission { questions: Some(json!([{"question": 5}])), ..open("r") });
    draw(&mut cards, true, 0);
    let why = "its questions cannot be put as questions";
    assert_eq!(cards.hint(), format!("{why} · n: deny · n REASON"));
    assert_eq!(cards.line("y", 1_000), Meaning::NotTaken(format!("{why}: it can only be denied here")));
    assert_eq!(decided(&cards.line("n", 2_000)), Some(("r", "deny")));
}
