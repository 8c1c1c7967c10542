//! `amp-relay request`: one REQUEST, what happens on the way, and its answer.

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::{QueueSelector, tcflush},
};
use serde_json::{Value, json};

use super::{
    RELAY, address,
    exchange::{Exchange, Say},
    given, given_json, millis,
    questions::{Questions, Typed},
    span,
};
use crate::{
    cli::{
        out,
        reach::{ReachArgs, reach_as_agent},
    },
    client::amp::{Connection, Draft, Received, Type, body_of_json, did_base},
};

/// To the first sign of life, where nothing else is said.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// For bytes that are there to become a message.
const ARRIVING: Duration = Duration::from_millis(50);

/// Asks, and prints the answer. The relay itself knows ping, echo, time and agents; an agent or a session is asked in
/// words. What a session wants to know meanwhile (may it use this tool?) is asked here, on a terminal; elsewhere that ends
/// the program with an error, unless --timeout says how long somebody else may take to answer.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  amp-relay request relay agents                     who is here
  amp-relay request relay echo --json '{\"n\": 1}'
  amp-relay request did:key:z6Mk... \"what changed today?\"
  amp-relay request did:key:z6Mk... --json '{\"action\": \"ping\"}'")]
pub(in crate::cli) struct RequestArgs {
    /// Whom to ask: a DID, or `relay`
    #[arg(value_name = "DID")]
    to: String,
    /// For the relay an action, for others a prompt; - for standard input
    #[arg(value_name = "ACTION|TEXT", required_unless_present = "json")]
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
    address(&args.to, "")?;
    if args.text.as_deref() == Some("-") && args.json.as_deref() == Some("-") {
        return Err("standard input can be the text or the --json, not both".into());
    }
    let text = args.text.as_deref().map(given).transpose()?;
    let json = args.json.as_deref().map(given_json).transpose()?;
    if text.as_deref().is_some_and(|text| text.trim().is_empty()) {
        return Err(
            "the text is empty: say what is asked, as in `amp-relay request DID \"what changed today?\"`".into()
        );
    }
    let mut agent = reach_as_agent(&args.reach)?.connection;
    let relay = agent.relay().to_owned();
    let to = address(&args.to, &relay)?.to_owned();
    let key = if args.to == RELAY || did_base(&to) == relay { "action" } else { "prompt" };
    let body = body(key, text, json)?;
    let body = body_of_json(&body).map_err(|error| format!("this cannot be sent: {error}"))?;
    let asked = ask(&mut agent, &to, &body, args.timeout);
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

fn ask(agent: &mut Connection, to: &str, body: &[u8], timeout: Option<Duration>) -> Result<String, String> {
    let wait = timeout.unwrap_or(TIMEOUT_DEFAULT);
    let draft = Draft { ttl_ms: millis(wait).max(1), ..Draft::new(to, Type::REQUEST, body) };
    let id = agent.send(&draft).map_err(|error| error.to_string())?;
    let mut exchange = Exchange::new(id);
    let until = Instant::now() + wait;
    // The socket does not show what was read from it already.
    let mut drained = false;
    let person = io::stdin().is_terminal() && io::stderr().is_terminal();
    loop {
        let deadline = (timeout.is_some() || !exchange.begun).then_some(until);
        let asking = person && exchange.questions.is_any();
        if asking {
            put(&mut exchange.questions);
            if drained && wait_for_both(agent, deadline)? == Ready::Line {
                decide(agent, &mut exchange.questions)?;
                continue;
            }
        }
        let until_then = if asking { Some(Instant::now() + ARRIVING) } else { deadline };
        let received = agent.answer(to, &exchange.ids(), until_then).map_err(|error| error.to_string())?;
        drained = received == Received::Nothing;
        match received {
            Received::Message(message) => match exchange.received(&message) {
                Some(Say::Status(told)) => out::note(&told.shown()),
                Some(Say::Asked) if person => {}
                // A script that said how long it waits leaves the answer to somebody else.
                Some(Say::Asked) => {
                    let prompt = exchange.questions.passed_over().map(|question| question.prompt).unwrap_or_default();
                    if timeout.is_none() {
                        return Err(format!("{}\n{OPEN_QUESTION}", out::foreign("", &prompt)));
                    }
                    let asked = out::foreign("asked: ", &prompt);
                    out::note(&format_args!("{asked}\nit waits for an answer; `amp-relay attach` can answer"));
                }
                Some(Say::Unaskable) if person || timeout.is_some() => out::note(&UNASKABLE),
                Some(Say::Unaskable) => return Err(format!("{UNASKABLE}\n{OPEN_QUESTION}")),
                Some(Say::Done(text)) => return Ok(text),
                Some(Say::Failed(told)) => return Err(told.shown()),
                None => {}
            },
            Received::Nothing if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Err(format!(
                    "no answer came in {} ms{}; --timeout waits longer",
                    wait.as_millis(),
                    if exchange.begun { ", though it was begun" } else { " (is it an agent that answers requests?)" }
                ));
            }
            Received::Ended(ended) => {
                return Err(out::foreign("", &format!("{ended} before the answer came")));
            }
            Received::Nothing | Received::Alive | Received::Unacceptable(_) => {}
        }
    }
}

/// What to do about a question that nobody here can answer.
const OPEN_QUESTION: &str = "That needs an answer, and nobody can be asked here: this is not a terminal. The question stays \
                             open and the session waits. Answer it with `amp-relay attach`, where the session's answer will \
                             be too; next time run this on a terminal, or with --timeout TIME, which waits for somebody to \
                             answer";
/// What to do about one that cannot be put.
const UNASKABLE: &str = "a question came that cannot be put here: it cannot be read, or too many wait; it waits for an \
                         answer, and `amp-relay attach` shows it and can answer";

/// What can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Line,
    Relay,
}

/// Waits for a line or for the relay, whichever comes first; at the deadline for the relay, which then has nothing.
fn wait_for_both(agent: &Connection, deadline: Option<Instant>) -> Result<Ready, String> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
    let stdin = io::stdin();
    let mut both = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN), PollFd::new(agent, PollFlags::IN)];
    match poll(&mut both, left.as_ref()) {
        // The relay goes first: it may say that the question is void.
        Ok(_) if both[1].revents().is_empty() && !both[0].revents().is_empty() => Ok(Ready::Line),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Ready::Relay),
        Err(error) => Err(format!("cannot wait for an answer: {error}")),
    }
}

/// Shows the question that is to be answered, unless it stands there, and forgets what was typed before it.
fn put(questions: &mut Questions) {
    if let Some(question) = questions.put(Instant::now()) {
        let _ = tcflush(io::stdin(), QueueSelector::IFlush);
        out::question(&format_args!("{}\n{} ", out::foreign("? ", &question.prompt), question.keys()));
    }
}

/// Reads a line that is there, and sends what it decides about the question that it stands under.
fn decide(agent: &Connection, questions: &mut Questions) -> Result<(), String> {
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line).map_err(|error| format!("standard input: {error}"))?;
    if read == 0 {
        out::note(&"\nnot answered here; `amp-relay attach` can answer");
        questions.passed_over();
        return Ok(());
    }
    match questions.typed(&line, Instant::now()) {
        Typed::Answer(question, body) => {
            let body = body_of_json(&body).map_err(|error| error.to_string())?;
            let draft = Draft::answering(&question.asking, Type::RESPONSE, &body);
            let id = agent.send(&draft).map_err(|error| error.to_string())?;
            questions.sent(id, *question);
        }
        Typed::Not(why) => out::note(&why),
        Typed::Nothing => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
