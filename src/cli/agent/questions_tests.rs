//! What lines mean to a question, and that none reaches another question than the one above it.

use proptest::prelude::*;

use super::*;
use crate::client::amp::{SignedBy, Type};

fn message(id: u8, reply_to: Option<u8>) -> Message {
    Message {
        id: Id([id; 16]),
        typ: Type::INPUT_REQUIRED,
        ts: 0,
        ttl_ms: 0,
        from: "did:a:b".into(),
        to: Vec::new(),
        reply_to: reply_to.map(|id| vec![id; 16]),
        thread_id: None,
        body: None,
        signed_by: SignedBy::Sender,
    }
}

fn question(prompt: &str, options: &[&str], in_full: bool, wants: Option<u64>) -> Question {
    let options = options.iter().copied().map(str::to_owned).collect();
    // All have one id: a peer chooses it.
    Question { asking: message(7, None), prompt: prompt.to_owned(), options, in_full, wants }
}

#[test]
fn an_answer_is_one_that_the_question_takes() {
    let put = |options: &[&str], in_full| question("?", options, in_full, None);
    let yes = || Answer::Body(json!({"decision": "allow"}));
    let no = || Answer::Body(json!({"decision": "deny"}));
    let plain = put(&["allow", "deny"], false);
    assert_eq!((plain.answer(" Yes\n"), plain.answer("y"), plain.answer("n")), (yes(), yes(), no()));
    assert!(matches!(plain.answer("maybe"), Answer::Wanted(_)) && matches!(plain.answer(""), Answer::Wanted(_)));
    for options in [&["allow", "deny"][..], &[]] {
        let strict = put(options, true);
        assert_eq!((strict.keys(), strict.answer(" YES\n")), ("[yes/n]", yes()));
        for short in ["y", "allow", "ye", ""] {
            assert!(matches!(strict.answer(short), Answer::Wanted(_)), "{short:?} is not the whole word");
        }
        assert_eq!(strict.answer("n"), no());
    }
    let reason = || Answer::Body(json!({"decision": "deny", "message": "use rg instead"}));
    assert_eq!(plain.answer("n use rg instead"), reason());
    let asked = put(&["answer", "deny"], true);
    assert_eq!(asked.answer("n use rg instead"), reason());
    assert!(matches!(asked.answer("y"), Answer::Wanted(_)), "a bare yes answers nothing");
    let answers = json!({"decision": "allow", "answers": ["2", "any text"]});
    assert_eq!((asked.answer("2; any text\n"), asked.answer("no")), (Answer::Body(answers), no()));
    let cut = put(&["deny"], false);
    assert!(matches!(cut.answer("y"), Answer::Wanted(why) if why.contains("only be denied")));
}

#[test]
fn one_answer_may_hold_a_semicolon_and_several_are_counted() {
    let allow = |answers: &[&str]| Answer::Body(json!({"decision": "allow", "answers": answers}));
    let one = question("?", &["answer", "deny"], false, Some(1));
    assert_eq!((one.keys(), one.answer("red; not blue\n")), ("[answer, or n]", allow(&["red; not blue"])));
    let two = question("?", &["answer", "deny"], false, Some(2));
    assert_eq!(two.answer("1; 2,3"), allow(&["1", "2,3"]));
    for wrong in ["1", "1;2;3"] {
        assert!(matches!(two.answer(wrong), Answer::Wanted(why) if why.contains("for each question")), "{wrong}");
    }
}

#[test]
fn what_arrow_keys_leave_in_a_line_is_not_sent() {
    let asked = question("?", &["allow", "answer", "deny"], false, None);
    for line in ["n never do thta\x1b[D\n", "y\x1b[D\n", "an answer\x07\n", "n\u{9b}D\n"] {
        assert!(matches!(asked.answer(line), Answer::Wanted(why) if why.contains("control character")), "{line:?}");
    }
    assert!(matches!(asked.answer("n a\tb\r\n"), Answer::Body(_)));
}

#[test]
fn a_line_of_the_first_half_second_is_no_answer() {
    let mut questions = Questions::default();
    let start = Instant::now();
    assert!(questions.put(start).is_none());
    questions.ask(question("a", &[], false, None));
    assert!(questions.put(start).is_some());
    assert!(matches!(questions.typed("y", start + VISIBLE / 2), Typed::Not(why) if why.contains("half a second")));
    assert_eq!(questions.typed("y", start + VISIBLE * 2), Typed::Nothing, "it has to be put again");
    assert!(questions.put(start).is_some() && questions.put(start).is_none(), "once");
    assert!(matches!(questions.typed("y", start + VISIBLE), Typed::Answer(..)));
}

/// What may happen.
#[derive(Clone, Debug)]
enum Happens {
    Asked,
    /// The terminal is brought up to date.
    Drawn,
    Typed(&'static str),
    /// One of our answers is refused; its question may still wait.
    Refused(prop::sample::Index, bool),
    PassedOver,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        Just(Happens::Asked),
        Just(Happens::Drawn),
        prop::sample::select(&["y", "n", "n no\x1b[D", "maybe", ""][..]).prop_map(Happens::Typed),
        (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(at, is_open)| Happens::Refused(at, is_open)),
        Just(Happens::PassedOver),
    ]
}

proptest! {
    /// An answer goes to the question that was put last, and every question that waits comes to be put.
    #[test]
    fn an_answer_is_never_for_another_question_than_the_one_put_last(steps in prop::collection::vec(happens(), 0..120)) {
        let mut questions = Questions::default();
        let mut now = Instant::now();
        let (mut asked, mut sent) = (0_u32, Vec::<u8>::new());
        let mut screen: Option<String> = None;
        let mut open = std::collections::BTreeSet::new();
        let answered = |typed: Typed, screen: &Option<String>, questions: &mut Questions, sent: &mut Vec<u8>| {
            let Typed::Answer(question, _) = typed else { return None };
            assert_eq!(Some(&question.prompt), screen.as_ref());
            sent.push(sent.len() as u8 + 1);
            let prompt = question.prompt.clone();
            questions.sent(Id([sent.len() as u8; 16]), *question);
            Some(prompt)
        };
        for step in steps {
            now += VISIBLE;
            match step {
                Happens::Asked => {
                    let prompt = asked.to_string();
                    asked += 1;
                    if questions.ask(question(&prompt, &[], false, None)) {
                        open.insert(prompt);
                    }
                }
                Happens::Drawn => {
                    if let Some(question) = questions.put(now) {
                        screen = Some(question.prompt.clone());
                    }
                }
                Happens::Typed(line) => {
                    let typed = questions.typed(line, now);
                    if let Some(prompt) = answered(typed, &screen, &mut questions, &mut sent) {
                        prop_assert!(open.remove(&prompt), "{} was answered already", prompt);
                    }
                }
                Happens::Refused(at, is_open) => {
                    if !sent.is_empty() {
                        let (before, first) = (questions.waiting.len(), questions.waiting.front().cloned());
                        let refused = questions.refused(&message(99, Some(*at.get(&sent))), is_open);
                        prop_assert_eq!(questions.waiting.len() > before, refused == Some(Refused::Again));
                        prop_assert!(first.is_none() || first.as_ref() == questions.waiting.front(), "it stays the next one");
                        if refused == Some(Refused::Again) {
                            open.extend(questions.waiting.back().map(|waiting| waiting.prompt.clone()));
                        }
                    }
                }
                Happens::PassedOver => {
                    if let Some(question) = questions.passed_over() {
                        open.remove(&question.prompt);
                    }
                }
            }
        }
        while questions.is_any() {
            now += VISIBLE;
            if let Some(question) = questions.put(now) {
                screen = Some(question.prompt.clone());
            }
            let typed = questions.typed("y", now + VISIBLE);
            let prompt = answered(typed, &screen, &mut questions, &mut sent);
            prop_assert!(prompt.is_some_and(|prompt| open.remove(&prompt)));
        }
        prop_assert!(open.is_empty(), "{:?} never came to be put", open);
    }
}
