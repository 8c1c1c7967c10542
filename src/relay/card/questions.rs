//! Questions that a tool asks, and answers as a person types them.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::base::text::quoted;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked, as the answer has to name it.
    pub text: String,
    /// What can be chosen; any other text may be answered too.
    pub options: Vec<Choice>,
    /// Several may be chosen.
    pub many: bool,
    /// Its other fields, which are shown too.
    pub(super) rest: Vec<(String, Value)>,
}

/// What can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The answer.
    pub label: String,
    /// What it means.
    pub about: Option<String>,
    /// Its other fields, which are shown too: a preview, for one.
    pub(super) rest: Vec<(String, Value)>,
}

/// Why a text is no answer. For people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Nothing was said.
    #[error("say a number, or the answer itself")]
    Empty,
    /// `y` or `n`, which name none of several answers.
    #[error("this is a question: say a number, or the answer itself")]
    YesOrNo,
    /// A number that is none of a choice.
    #[error("no choice {0}: there are {1}; an answer that is a number stands in quotes")]
    NoSuchChoice(usize, usize),
    /// A number of one choice and the label of another.
    #[error("{0} is a number and an answer here: say the answer in quotes, \"{0}\" or {1:?}")]
    TwoMeanings(usize, String),
    /// It differs from several labels, and only in capital letters.
    #[error("say the number: but for capital letters several choices are {0:?}")]
    SeveralFit(String),
    /// Digits, but not the numbers of choices.
    #[error("numbers are said as in {0} (an answer that is a number stands in quotes)")]
    NoNumbers(&'static str),
    /// Two numbers for a question that takes one.
    #[error("only one can be chosen")]
    OnlyOne,
}

/// The questions in an input's `questions`; `None` where it is anything else than a list of them. An answer names its
/// question by the text, so that two of one text could not both be answered. It names a choice by the label, so that two
/// of one label could not be told apart.
pub fn questions(value: Option<&Value>) -> Option<Vec<Question>> {
    let questions: Vec<Question> = value?.as_array()?.iter().map(question).collect::<Option<_>>()?;
    (!questions.is_empty() && twice(questions.iter().map(|question| &*question.text)).is_none()).then_some(questions)
}

/// The first of these that stands there a second time. An input has as many questions as its bytes allow, so that they are
/// not compared each with each.
fn twice<'a>(mut texts: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    texts.find(|text| !seen.insert(*text))
}

fn question(value: &Value) -> Option<Question> {
    let fields = value.as_object()?;
    let text = fields.get("question")?.as_str()?.to_owned();
    let mut rest: Vec<(String, Value)> = Vec::new();
    let (mut options, mut many) = (Vec::new(), false);
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("question", _) => {}
            ("multiSelect", Value::Bool(several)) => many = *several,
            ("options", Value::Array(list)) if !list.is_empty() => {
                options = list.iter().map(choice).collect::<Option<Vec<_>>>()?;
            }
            _ => rest.push((name.clone(), value.clone())),
        }
    }
    let is_clear = twice(options.iter().map(Choice::trimmed)).is_none();
    is_clear.then_some(Question { text, options, many, rest })
}

fn choice(value: &Value) -> Option<Choice> {
    let fields = value.as_object()?;
    let label = fields.get("label")?.as_str()?.to_owned();
    let (mut about, mut rest) = (None, Vec::new());
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("label", _) => {}
            ("description", Value::String(text)) if !text.is_empty() => about = Some(text.clone()),
            _ => rest.push((name.clone(), value.clone())),
        }
    }
    Some(Choice { label, about, rest })
}

impl Choice {
    /// The label as it can be typed.
    fn trimmed(&self) -> &str {
        self.label.trim()
    }
}

impl Question {
    /// The choice that a typed text names by its label: the one that is the same, or else the only one that is in other
    /// capital letters.
    ///
    /// # Errors
    /// There are several of the latter.
    pub fn choice(&self, typed: &str) -> Result<Option<&Choice>, AnswerError> {
        let typed = typed.trim();
        if let Some(same) = self.options.iter().find(|choice| choice.trimmed() == typed) {
            return Ok(Some(same));
        }
        let mut alike = self.options.iter().filter(|choice| choice.trimmed().eq_ignore_ascii_case(typed));
        match (alike.next(), alike.next()) {
            (Some(_), Some(_)) => Err(AnswerError::SeveralFit(typed.to_owned())),
            (only, _) => Ok(only),
        }
    }

    /// The answer that a typed text means: a number for a choice, several where several may be chosen, or the text.
    /// Quotes around a text that would mean something else make it the text; other quotes are part of it.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub fn answer(&self, typed: &str) -> Result<String, AnswerError> {
        let typed = typed.trim();
        if typed.is_empty() {
            return Err(AnswerError::Empty);
        }
        let is_word = |text: &str| ["y", "n", "yes", "no"].iter().any(|word| text.eq_ignore_ascii_case(word));
        // What has digits and no words is meant as numbers, however it is written.
        let is_numeric = |text: &str| text.contains(|c: char| c.is_numeric()) && !text.contains(char::is_alphabetic);
        let quoted = typed.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        if let Some(text) = quoted.filter(|text| is_word(text) || is_numeric(text)) {
            return Ok(text.to_owned());
        }
        let choice = self.choice(typed)?;
        if choice.is_none() && is_word(typed) {
            return Err(AnswerError::YesOrNo);
        }
        if self.options.is_empty() || !is_numeric(typed) {
            return Ok(choice.map_or(typed, |choice| &choice.label).to_owned());
        }
        let Some(numbers) = numbers(typed) else {
            let said = if self.many { "1,3" } else { "2" };
            return choice.map(|choice| choice.label.clone()).ok_or(AnswerError::NoNumbers(said));
        };
        if numbers.len() > 1 && !self.many {
            return Err(AnswerError::OnlyOne);
        }
        let chosen = |number: &usize| {
            let option = number.checked_sub(1).and_then(|at| self.options.get(at));
            let option = option.ok_or(AnswerError::NoSuchChoice(*number, self.options.len()));
            let label = option.map(|option| option.label.as_str());
            match (label, self.choice(&number.to_string())?) {
                (Ok(label), Some(other)) if other.label != label => {
                    Err(AnswerError::TwoMeanings(*number, label.to_owned()))
                }
                // No choice has that number, but one has it as its label.
                (Err(_), Some(other)) => Ok(other.label.as_str()),
                (label, _) => label,
            }
        };
        Ok(numbers.iter().map(chosen).collect::<Result<Vec<_>, _>>()?.join(", "))
    }
}

/// The numbers that a line is made of, if it is made of nothing else, each once: a choice is made once, however often it
/// is named.
pub fn numbers(line: &str) -> Option<Vec<usize>> {
    let numbers = line.split([',', ';', ' ', '\t']).filter(|number| !number.is_empty());
    let numbers: Option<Vec<usize>> = numbers.map(|number| number.parse().ok()).collect();
    let mut seen = HashSet::new();
    Some(numbers?.into_iter().filter(|number| seen.insert(*number)).collect())
}

/// What a typed line says to a request, before its questions are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// `y`, or `yes` in full.
    Yes {
        /// The whole word.
        in_full: bool,
    },
    /// `n`, `no`, or `n` and a reason.
    No {
        /// What the model is to be told.
        reason: Option<String>,
    },
}

impl Said {
    /// Only a whole line says yes or no: `yes but ...` is text.
    pub fn of(line: &str) -> Option<Self> {
        let line = line.trim();
        match line.to_ascii_lowercase().as_str() {
            "y" => return Some(Self::Yes { in_full: false }),
            "yes" => return Some(Self::Yes { in_full: true }),
            "n" | "no" => return Some(Self::No { reason: None }),
            _ => {}
        }
        let reason = line.strip_prefix(['n', 'N'])?.strip_prefix([' ', '\t'])?.trim();
        Some(Self::No { reason: Some(reason.to_owned()) })
    }
}

/// The `answers` of a decision: what was typed for each question, in their order.
///
/// # Errors
/// The first that is no answer, with its place.
pub fn answers(questions: &[Question], typed: &[String]) -> Result<Map<String, Value>, (usize, AnswerError)> {
    let mut answers = Map::new();
    for (at, question) in questions.iter().enumerate() {
        let typed = typed.get(at).map(String::as_str).unwrap_or_default();
        let answer = question.answer(typed).map_err(|error| (at, error))?;
        answers.insert(question.text.clone(), Value::String(answer));
    }
    Ok(answers)
}

/// Whether these are answers to the questions of this input: each has one, which is a text, and there are no others. An
/// input without a list of questions, or with a question without a text, takes any.
///
/// # Errors
/// What is wrong, for people.
pub fn check(input: &Map<String, Value>, answers: &Map<String, Value>) -> Result<(), String> {
    let blank = |value: &Value| value.as_str().is_none_or(|text| text.trim().is_empty());
    if let Some((question, _)) = answers.iter().find(|(_, answer)| blank(answer)) {
        let several = "the answer, with several labels joined by \", \"";
        return Err(format!("`answers`: what stands for {} must be a text, {several}", quoted(question)));
    }
    let text = |question: &Value| question.get("question")?.as_str().map(str::to_owned);
    let asked = input.get("questions").and_then(Value::as_array);
    let Some(asked) = asked.and_then(|list| list.iter().map(text).collect::<Option<Vec<String>>>()) else {
        return Ok(());
    };
    if let Some(twice) = twice(asked.iter().map(String::as_str)) {
        return Err(format!(
            "two of the questions are {}, so that no answer names one of them: deny it",
            quoted(twice)
        ));
    }
    if let Some(open) = asked.iter().find(|question| !answers.contains_key(*question)) {
        return Err(format!("`answers` holds no answer to {}: name each question by its text", quoted(open)));
    }
    let asked: HashSet<&str> = asked.iter().map(String::as_str).collect();
    match answers.keys().find(|answer| !asked.contains(answer.as_str())) {
        Some(other) => Err(format!("`answers`: {} is none of the questions: name each by its text", quoted(other))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked() -> Vec<Question> {
        let options = json!([{"label": "Red", "description": "warm"}, {"label": "Blue"}]);
        let input = json!([{"question": "Colour?", "options": options.clone()},
            {"question": "All?", "multiSelect": true, "options": options}]);
        questions(Some(&input)).expect("questions")
    }

    #[test]
    fn why_something_is_no_answer_has_room_in_a_row() {
        use AnswerError::{Empty, NoNumbers, NoSuchChoice, OnlyOne, SeveralFit, TwoMeanings, YesOrNo};
        let word = || "delete".to_owned();
        for why in [
            Empty,
            YesOrNo,
            NoSuchChoice(33, 12),
            TwoMeanings(2, "1".into()),
            SeveralFit(word()),
            NoNumbers("1,3"),
            OnlyOne,
        ] {
            let said = why.to_string();
            assert!(said.len() <= 78, "{said}");
        }
    }

    #[test]
    fn numbers_and_free_text_are_answers() {
        let asked = asked();
        let typed = |one: &str, two: &str| answers(&asked, &[one.to_owned(), two.to_owned()]);
        assert_eq!(
            Value::Object(typed("2", "1, 2").expect("answers")),
            json!({"Colour?": "Blue", "All?": "Red, Blue"})
        );
        for several in ["1,2", "1 2", "1;2", " 1 , 2 ", "1\t2,", "1,1,2", "1 2 1"] {
            assert_eq!(typed("2", several).expect("answers")["All?"], "Red, Blue", "{several:?}");
        }
        for words in ["a dark green", "2 of them", "\"1-2\"", "rot und 3"] {
            let said = typed(&format!(" {words} "), "1").expect("answers");
            assert_eq!(said["Colour?"], words.trim_matches('"'));
        }
        for (one, two, at, error) in [
            ("y", "1", 0, AnswerError::YesOrNo),
            ("3", "1", 0, AnswerError::NoSuchChoice(3, 2)),
            ("0", "1", 0, AnswerError::NoSuchChoice(0, 2)),
            ("1,2", "1", 0, AnswerError::OnlyOne),
            ("1", " ", 1, AnswerError::Empty),
            ("1 2", "1", 0, AnswerError::OnlyOne),
            ("1.", "1", 0, AnswerError::NoNumbers("2")),
            ("1", "1-2", 1, AnswerError::NoNumbers("1,3")),
            ("1", "(1)", 1, AnswerError::NoNumbers("1,3")),
            ("1", "1 3", 1, AnswerError::NoSuchChoice(3, 2)),
        ] {
            assert_eq!(typed(one, two), Err((at, error)), "{one:?} {two:?}");
        }
    }

    #[test]
    fn a_line_may_have_as_many_numbers_as_its_bytes_allow() {
        let line: Vec<String> = (0..150_000).map(|number: usize| number.to_string()).collect();
        assert_eq!(numbers(&line.join(",")).map(|numbers| numbers.len()), Some(line.len()));
        assert_eq!((numbers(" ,"), numbers("1,x"), numbers("3;1 3")), (Some(Vec::new()), None, Some(vec![3, 1])));
    }

    #[test]
    fn a_number_means_one_thing() {
        let options = json!([{"label": "1"}, {"label": "3"}, {"label": "5"}]);
        let asked = questions(Some(&json!([{"question": "How often?", "options": options}]))).expect("a question");
        for (typed, means) in [
            ("1", Ok("1")),
            ("2", Ok("3")),
            ("3", Err(AnswerError::TwoMeanings(3, "5".into()))),
            ("5", Ok("5")),
            ("\"3\"", Ok("3")),
            ("\"10\"", Ok("10")),
            ("10", Err(AnswerError::NoSuchChoice(10, 3))),
            ("\"yes\"", Ok("yes")),
            ("\"\"", Ok("\"\"")),
            ("\"hello\"", Ok("\"hello\"")),
            ("\"Red\" or \"Blue\"", Ok("\"Red\" or \"Blue\"")),
        ] {
            assert_eq!(asked[0].answer(typed), means.map(str::to_owned), "{typed}");
        }
    }

    #[test]
    fn a_number_is_the_answer_where_there_is_no_choice() {
        let asked = questions(Some(&json!([{"question": "How many?"}]))).expect("a question");
        assert_eq!(["5", "1,2"].map(|typed| asked[0].answer(typed)), ["5", "1,2"].map(|typed| Ok(typed.to_owned())));
    }

    #[test]
    fn a_label_means_the_choice_that_it_is_and_no_other_one() {
        let options =
            json!([{"label": "deploy", "description": "to production"}, {"label": "Deploy"}, {"label": "Wait "}]);
        let asked = questions(Some(&json!([{"question": "Where?", "options": options}]))).expect("a question");
        for (typed, means) in [
            ("deploy", Ok("deploy")),
            ("Deploy", Ok("Deploy")),
            ("2", Ok("Deploy")),
            ("DEPLOY", Err(AnswerError::SeveralFit("DEPLOY".into()))),
            ("wait", Ok("Wait ")),
            ("deploy it", Ok("deploy it")),
        ] {
            assert_eq!(asked[0].answer(typed), means.map(str::to_owned), "{typed}");
        }
    }

    #[test]
    fn answers_are_texts_and_one_for_each_question() {
        let is = |questions: Value, answers: Value| {
            let input = json!({"questions": questions});
            check(input.as_object().expect("an object"), answers.as_object().expect("an object"))
        };
        let two = json!([{"question": "A?"}, {"question": "B?", "options": [{"label": "x", "more": 1}]}]);
        assert_eq!(is(two.clone(), json!({"A?": "x", "B?": "x, y"})), Ok(()));
        for answers in [
            json!({}),
            json!({"A?": "x"}),
            json!({"0": "x", "1": "y"}),
            json!({"A?": "x", "B?": "y", "C?": "z"}),
            json!({"A?": ["x"], "B?": "y"}),
            json!({"A?": "", "B?": "y"}),
        ] {
            assert!(is(two.clone(), answers.clone()).is_err(), "{answers}");
        }
        let alike = json!([{"question": "A?"}, {"question": "A?"}]);
        assert!(is(alike, json!({"A?": "x"})).is_err_and(|why| why.contains("deny it")));
        assert_eq!(is(json!("odd"), json!({"Q": "A"})), Ok(()));
        assert!(is(json!("odd"), json!({"Q": 5})).is_err());
    }

    /// Compared each with each they would take minutes.
    #[test]
    fn an_input_may_have_as_many_questions_and_choices_as_its_bytes_allow() {
        const MANY: usize = 100_000;
        let options: Vec<Value> = (0..MANY).map(|n| json!({"label": n.to_string()})).collect();
        let list: Vec<Value> = (0..MANY).map(|n| json!({"question": format!("{n}?")})).collect();
        let answers: Map<String, Value> = (0..MANY).map(|n| (format!("{n}?"), "x".into())).collect();
        let one = questions(Some(&json!([{"question": "?", "options": options}]))).expect("a question");
        let all = questions(Some(&list.clone().into())).expect("questions");
        assert_eq!((one[0].options.len(), all.len()), (MANY, MANY));
        let input = Map::from_iter([("questions".to_owned(), list.into())]);
        assert_eq!(check(&input, &answers), Ok(()));
        assert!(check(&input, &Map::from_iter([("x".to_owned(), "y".into())])).is_err());
    }

    #[test]
    fn only_whole_lines_are_answers() {
        for (line, said) in [
            ("y", Some(Said::Yes { in_full: false })),
            (" YES ", Some(Said::Yes { in_full: true })),
            ("n", Some(Said::No { reason: None })),
            ("No", Some(Said::No { reason: None })),
            ("n use rg instead", Some(Said::No { reason: Some("use rg instead".into()) })),
            ("yes but not now", None),
            ("no, use rg", None),
            ("your turn", None),
            ("next", None),
            ("", None),
        ] {
            assert_eq!(Said::of(line), said, "{line:?}");
        }
    }

    #[test]
    fn what_is_not_quite_a_question_is_none() {
        for odd in [
            json!([]),
            json!([{"question": 5}]),
            json!([{"question": "?", "options": [{"description": "x"}]}]),
            json!([{"question": "?", "options": [{"label": 5}]}]),
            json!([{"question": "?", "options": ["x"]}]),
            json!({"question": "?"}),
            json!([{"question": "Delete?"}, {"question": "Delete?"}]),
            json!([{"question": "Run what?", "options": [{"label": "Run", "description": "the tests"}, {"label": "Run "}]}]),
        ] {
            assert_eq!(questions(Some(&odd)), None, "{odd}");
        }
    }
}
