//! `amp-relay request`: one REQUEST, what happens on the way, and its answer.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{ArgGroup, Args};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde_json::{Value, json};

use super::{
    ACTIONS, ADD_A_BODY, RELAY, Told, Whom, address, check_is_not_alone,
    exchange::{Exchange, Say},
    given, given_json, millis, misused, passed_over,
    questions::{Questions, Typed},
    screen::Screen,
    span, unreadable_input,
};
use crate::{
    cli::{
        out,
        reach::{ReachArgs, reach_as_agent},
        text::decision_line,
        tty,
    },
    client::amp::{Connection, Draft, Message, Received, Type, body_of_json, did_base},
};

/// Said of a text without a word.
const EMPTY: &str = "the text is empty: say what is asked, as in `amp-relay request DID \"what changed today?\"`";
/// To the first sign of life, where nothing else is said.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// To the relay's word on who is here.
const HERE_TIMEOUT: Duration = Duration::from_secs(10);
/// For bytes that are there to become a message.
const ARRIVING: Duration = Duration::from_millis(50);

/// Asks, and prints the answer. The relay itself knows ping, echo, time and agents; an agent or a session is asked in
/// words. What a session wants to know meanwhile (may it use this tool?) is asked here, on a terminal, and what is longer
/// than that part by part; elsewhere a question ends the program with an error, unless --timeout says how long somebody
/// else may take to answer.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "amp-relay request [OPTIONS] <DID> <ACTION|TEXT>
       amp-relay request [OPTIONS] <DID> [ACTION|TEXT] --json <BODY>")]
#[command(group = ArgGroup::new("body").args(["text", "json"]).multiple(true))]
#[command(after_help = "Examples:
  amp-relay request relay agents                     who is here
  amp-relay request relay echo --json '{\"n\": 1}'
  amp-relay request did:key:z6Mk... \"what changed today?\"
  amp-relay request did:key:z6Mk... --json '{\"action\": \"ping\"}'
      for an agent like `amp-relay listen`; a session takes prompts alone")]
pub(in crate::cli) struct RequestArgs {
    /// Whom to ask: a DID, or `relay`
    #[arg(value_name = "DID")]
    to: String,
    /// For the relay an action, for others a prompt; - for standard input
    #[arg(value_name = "ACTION|TEXT")]
    text: Option<String>,
    /// A JSON value (- for standard input) to send as the body; with ACTION or TEXT an object, to which that is added
    #[arg(long, value_name = "BODY")]
    json: Option<String>,
    /// How long to wait for the answer [default: 60s, and for work that was begun as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = span)]
    timeout: Option<Duration>,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Runs the verb.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(in crate::cli) fn run(args: &RequestArgs) -> Result<ExitCode, String> {
    address(&args.to, "").map_err(|why| args.reach.hinted(&why))?;
    if args.text.is_none() && args.json.is_none() {
        return Ok(misused(&missing(&args.to)));
    }
    if args.text.as_deref() == Some("-") && args.json.as_deref() == Some("-") {
        return Err("standard input can be the text or the --json, not both".into());
    }
    let text = args.text.as_deref().map(given).transpose()?;
    let json = args.json.as_deref().map(given_json).transpose()?;
    if text.as_deref().is_some_and(|text| text.trim().is_empty()) {
        return Err(args.reach.hinted(EMPTY));
    }
    let mut agent = reach_as_agent(&args.reach)?.connection;
    let relay = agent.relay().to_owned();
    let to = address(&args.to, &relay)?.to_owned();
    let whom = if args.to == RELAY || did_base(&to) == relay { Whom::Relay } else { Whom::Other };
    let key = if whom == Whom::Relay { "action" } else { "prompt" };
    let body = body(key, text, json)?;
    let body = body_of_json(&body).map_err(|error| format!("this cannot be sent: {error}"))?;
    let wait = args.timeout.unwrap_or(TIMEOUT_DEFAULT);
    check_is_not_alone(&mut agent, &to, wait.min(HERE_TIMEOUT), &args.reach)?;
    let asked = ask(&mut agent, (&to, whom), &body, args);
    agent.sender().close();
    let answer = asked?;
    if io::stdout().is_terminal() {
        // It stands behind a margin, where no line of it can pass for a question of ours.
        let margin: Vec<String> = answer.lines().map(|line| format!("  {line}")).collect();
        out::line(&out::folded(&margin.join("\n"), io::stdout()))?;
    } else {
        out::line(&answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What to add where only the receiver is named.
fn missing(to: &str) -> String {
    match to {
        RELAY => format!("what the relay is asked is missing: add an action behind it, {ACTIONS}, or --json BODY"),
        _ => format!("what is asked is missing: {ADD_A_BODY}"),
    }
}

/// The body that is sent.
fn body(key: &str, text: Option<String>, json: Option<Value>) -> Result<Value, String> {
    match (text, json) {
        (Some(text), None) => Ok(json!({ key: text })),
        (None, json) => Ok(json.unwrap_or_default()),
        (Some(text), Some(Value::Object(mut members))) => match members.insert(key.to_owned(), text.into()) {
            None => Ok(Value::Object(members)),
            Some(_) => Err(format!("`{key}` is given twice: in --json and before it")),
        },
        (Some(_), Some(_)) => Err(format!("--json must be an object if the {key} stands beside it")),
    }
}

fn ask(
    agent: &mut Connection,
    (to, whom): (&str, Whom),
    body: &[u8],
    RequestArgs { timeout, reach, .. }: &RequestArgs,
) -> Result<String, String> {
    let wait = timeout.unwrap_or(TIMEOUT_DEFAULT);
    let draft = Draft { ttl_ms: millis(wait).max(1), ..Draft::new(to, Type::REQUEST, body) };
    let person = io::stdin().is_terminal() && io::stderr().is_terminal();
    let screen =
        person.then(Screen::watched).transpose().map_err(|error| format!("signals cannot be handled: {error}"))?;
    let id = agent.send(&draft).map_err(|error| error.to_string())?;
    let mut exchange = Exchange::new(id, whom, agent.relay());
    let answer = wait_for_answer(agent, to, &mut exchange, (wait, timeout.is_some(), reach), screen.as_ref());
    if exchange.questions.is_put() {
        out::question(&"\n");
    }
    exchange.questions.gone();
    tell_kept(&mut exchange.questions);
    answer
}

/// Waits for the answer and puts questions meanwhile: as long as `wait`, and if that was not said, once it is begun as
/// long as it takes. Without a screen no person is there to answer.
fn wait_for_answer(
    agent: &mut Connection,
    to: &str,
    exchange: &mut Exchange,
    (wait, is_said, reach): (Duration, bool, &ReachArgs),
    screen: Option<&Screen>,
) -> Result<String, String> {
    let until = Instant::now() + wait;
    exchange.waits_from(Instant::now());
    // The socket does not show what was read from it already.
    let mut drained = false;
    // Once something was asked, a line may be typed late; before that it is the shell's.
    let (mut was_asked, mut is_ended) = (false, false);
    loop {
        let deadline = exchange.deadline(until, is_said);
        was_asked |= exchange.questions.is_any();
        let is_late = was_asked && !is_ended && tty::is_in_front();
        let asking = screen.filter(|_| exchange.questions.is_any() || is_late);
        tell_kept(&mut exchange.questions);
        if let Some(screen) = asking {
            put(screen, &mut exchange.questions);
            match if drained { wait_for_both(agent, &mut exchange.questions, deadline)? } else { Ready::Relay } {
                Ready::Line => {
                    is_ended = !decide(agent, screen, &mut exchange.questions, reach)?;
                    continue;
                }
                Ready::Neither => continue,
                Ready::Relay => {}
            }
        }
        if let Some(told) = exchange.timeout(Instant::now()) {
            tell(exchange, told);
        }
        let until_then = match asking {
            Some(_) => Some(Instant::now() + ARRIVING),
            None => deadline.into_iter().chain(exchange.silent_until()).min(),
        };
        let received = agent.answer(to, &exchange.ids(), until_then).map_err(|error| error.to_string())?;
        drained = received == Received::Nothing;
        match received {
            Received::Message(message) => {
                if let Some(answer) = took(exchange, &message, (is_said, reach), screen.is_some()) {
                    return answer;
                }
            }
            Received::Nothing if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                let told = match exchange.whom {
                    Whom::Relay => "",
                    Whom::Other if exchange.begun => BEGUN,
                    Whom::Other => NOT_BEGUN,
                };
                return Err(format!("no answer came in {} ms{told}; --timeout waits longer", wait.as_millis()));
            }
            Received::Ended(ended) => {
                let may_be_done = if exchange.whom == Whom::Relay { "" } else { MAY_BE_DONE };
                return Err(out::foreign("", &format!("{ended} before the answer came")) + may_be_done);
            }
            Received::Unacceptable(why) => tell(exchange, passed_over(&why)),
            Received::Nothing | Received::Alive => {}
        }
    }
}

/// Takes a message; gives the answer if that ends the request. Where no person can be asked, and a script has set the
/// time to wait, the answer to a question is left to another client.
fn took(
    exchange: &mut Exchange,
    message: &Message,
    (is_said, reach): (bool, &ReachArgs),
    person: bool,
) -> Option<Result<String, String>> {
    let stood = exchange.questions.is_put();
    let say = exchange.received(message)?;
    if stood && !exchange.questions.is_put() {
        // The news goes below the question, in a row of its own.
        out::question(&"\n");
    }
    match say {
        Say::Status(told) => tell(exchange, told.hinting(reach)),
        Say::Asked if person => exchange.notes.between(),
        Say::Asked => {
            let prompt = exchange.questions.passed_over().map(|question| question.prompt).unwrap_or_default();
            if !is_said {
                return Some(Err(format!("{}\n{}", out::foreign("", &prompt), reach.hinted(OPEN_QUESTION))));
            }
            let next = format!("\nit waits for an answer; {ELSEWHERE}").into();
            tell(exchange, Told { next, ..Told::new("asked: ", prompt) }.hinting(reach));
        }
        Say::Unaskable if person || is_said => {
            tell(exchange, Told { next: SHOWN_ELSEWHERE.into(), ..Told::new(UNASKABLE, "") }.hinting(reach));
        }
        Say::Unaskable => {
            let next = reach.hinted(&format!("{SHOWN_ELSEWHERE}\n{OPEN_QUESTION}"));
            return Some(Err(UNASKABLE.to_owned() + &next));
        }
        Say::Done(text) => return Some(Ok(text)),
        Say::Failed(told) => return Some(Err(told.hinting(reach).shown())),
    }
    None
}

/// Says something, if that is not too much, unless a question is on the screen: then it is kept.
fn tell(exchange: &mut Exchange, told: Told) {
    if let Some(told) = exchange.notes.said(told).and_then(|told| exchange.questions.tell(told)) {
        out::note(&told.shown());
    }
}

/// Says what was kept, if no question is on the screen any more.
fn tell_kept(questions: &mut Questions) {
    let (left_out, told) = questions.kept();
    if left_out > 0 {
        let lines = if left_out == 1 { "line came than these, and is" } else { "lines came than these, and are" };
        out::note(&format_args!("while you were asked {left_out} more {lines} not shown:"));
    }
    told.iter().for_each(|told| out::note(&told.shown()));
}

/// Said where the time is over and nothing has shown that the other side works on it. What waits there stays there.
const NOT_BEGUN: &str = ", and nothing was begun: it may wait there behind what runs and be done later all the same, so that \
                         asking again asks twice; or nothing under that DID answers requests";
/// Said where the time is over in the middle of it.
const BEGUN: &str = ", though it was begun: it may go on there, and asking again asks twice";
/// Said where the relay is gone: what it was given before is not taken back.
const MAY_BE_DONE: &str = ": it may be done there all the same, and asking again asks twice";
/// What to do about a question where no person can be asked.
const OPEN_QUESTION: &str = "That needs an answer, and nobody can be asked here: this is not a terminal. The question stays \
                             open. One of a Claude Code session can be answered with `amp-relay attach`, where the session's \
                             answer will be too; next time run this on a terminal, or with --timeout TIME, which waits for somebody to \
                             answer";
/// What to do about a question that cannot be put.
const UNASKABLE: &str = "a question came that cannot be put here: it cannot be read, or too many wait; it waits for an \
                         answer";
const SHOWN_ELSEWHERE: &str = ", and one of a Claude Code session is shown by `amp-relay attach`, which can answer it";
/// Where else a question may be answered: what is asked by another agent than a session is put to nobody else.
const ELSEWHERE: &str = "a question of a Claude Code session can be answered with `amp-relay attach`";

/// What can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Line,
    Relay,
    Neither,
}

/// Waits for a line or for the relay, whichever comes first; at the deadline for the relay, which then has nothing.
fn wait_for_both(agent: &Connection, questions: &mut Questions, deadline: Option<Instant>) -> Result<Ready, String> {
    let stdin = io::stdin();
    let cannot = |error| format!("cannot wait for an answer: {error}");
    let now = Instant::now();
    match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&Timespec::default())) {
        Ok(0) => questions.no_line(now),
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(cannot(error)),
    }
    let until = deadline.into_iter().chain(questions.look_at()).min();
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    let mut both = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(agent, PollFlags::IN)];
    match poll(&mut both, left.as_ref()) {
        Ok(0) if deadline.is_none_or(|deadline| Instant::now() < deadline) => Ok(Ready::Neither),
        // The relay goes first: it may say that the question is void.
        Ok(_) if both[1].revents().is_empty() && !both[0].revents().is_empty() => Ok(Ready::Line),
        Ok(_) => Ok(Ready::Relay),
        Err(Errno::INTR) => Ok(Ready::Neither),
        Err(error) => Err(cannot(error)),
    }
}

/// Shows the part of a question that is to be answered, unless it stands there.
fn put(screen: &Screen, questions: &mut Questions) {
    if screen.was_stopped() && questions.is_put() {
        out::question(&"\n");
        questions.lost();
    }
    if !questions.is_due() {
        return;
    }
    if let Some(part) = questions.put(Instant::now(), screen.size()) {
        screen.show(&part);
        questions.stands(Instant::now());
    }
}

/// Reads a line that is there, and sends what it decides about the question that it stands under. False: the input has
/// ended.
fn decide(agent: &Connection, screen: &Screen, questions: &mut Questions, reach: &ReachArgs) -> Result<bool, String> {
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line).map_err(|error| unreadable_input(&error))?;
    if read == 0 && !questions.is_any() {
        return Ok(false);
    }
    if read == 0 {
        out::note(&format_args!("\nnot answered here; {}", reach.hinted(ELSEWHERE)));
        questions.passed_over();
        return Ok(false);
    }
    if !questions.is_any() {
        if !line.trim().is_empty() {
            out::note(&"nothing is asked now: what you typed was not sent");
        }
        return Ok(true);
    }
    if screen.was_stopped() {
        questions.lost();
    }
    match questions.typed(&line, screen.same_size()) {
        Typed::Answer(question, body) => {
            let said = decision_line(&body, str::to_owned);
            let body = body_of_json(&body).map_err(|error| error.to_string())?;
            let draft = Draft::answering(&question.asking, Type::RESPONSE, &body);
            let id = agent.send(&draft).map_err(|error| error.to_string())?;
            questions.sent(id, *question);
            // Of the answer nothing else is heard until all is done.
            out::note(&format_args!("answered: {said}"));
        }
        Typed::Not(why) => out::note(&why),
        Typed::Below(text) => {
            screen.show(&text);
            questions.stands(Instant::now());
        }
        Typed::Next | Typed::Nothing => {}
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_as_it_was_sent() {
        for (body, said) in [
            (json!({"decision": "allow"}), "allow"),
            (json!({"decision": "deny"}), "deny"),
            (json!({"decision": "deny", "message": "use rg"}), "deny: use rg"),
            (json!({"decision": "allow", "answers": ["2", "any text"]}), "2; any text"),
        ] {
            assert_eq!(decision_line(&body, str::to_owned), said);
        }
    }

    #[test]
    fn words_and_json_become_one_body() {
        let of = |text: Option<&str>, json| body("action", text.map(str::to_owned), json);
        assert_eq!(of(Some("ping"), None), Ok(json!({"action": "ping"})));
        assert_eq!(of(Some("echo"), Some(json!({"n": 1}))), Ok(json!({"action": "echo", "n": 1})));
        assert_eq!(of(None, Some(json!([1]))), Ok(json!([1])));
        assert!(of(Some("echo"), Some(json!({"action": "x"}))).unwrap_err().contains("twice"));
        assert!(of(Some("echo"), Some(json!(1))).unwrap_err().contains("object"));
    }
}
