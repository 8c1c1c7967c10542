//! `amp-relay send`: one MESSAGE, and whether it was handed over.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{ArgGroup, Args};
use serde_json::Value;

use super::{
    ACTIONS, ADD_A_BODY, RELAY, Whom, address, check_is_not_alone, explained, given, given_json, millis, misused,
    notes::Notes, passed_over, span,
};
use crate::{
    cli::{
        out,
        reach::{ReachArgs, reach_as_agent},
    },
    client::amp::{Code, Connection, Draft, Id, Received, Type, body_of_json, did_base},
    wire::cbor,
};

/// For the relay's sign that it has read what we sent.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Behind it, for an ERROR that another of its threads may have to tell.
const GRACE: Duration = Duration::from_millis(250);

/// Sends a MESSAGE. The relay is silent about one that it has handed to a connection of the recipient, and answers one
/// that it could not hand over with an error; it keeps nothing for later yet.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "amp-relay send [OPTIONS] <DID> <TEXT>
       amp-relay send [OPTIONS] <DID> --json <BODY>")]
#[command(group = ArgGroup::new("body").args(["text", "json"]))]
#[command(after_help = "Examples:
  amp-relay send did:key:z6Mk... \"the build is green\"
  git log -1 | amp-relay send did:key:z6Mk... -
  amp-relay send did:key:z6Mk... --json '{\"build\": \"green\"}'")]
pub(in crate::cli) struct SendArgs {
    /// Whom it is for: a DID, which `amp-relay listen` prints of itself (the relay takes no messages, it is asked: see `request`)
    #[arg(value_name = "DID")]
    to: String,
    /// The text, or - for standard input
    text: Option<String>,
    /// A JSON value (- for standard input) to send as the body instead of a text
    #[arg(long, value_name = "BODY")]
    json: Option<String>,
    /// How long the message is worth delivering: 500ms, 60s, 10m, 24h; 0 is now or never. The relay keeps nothing yet, so it
    /// is for whoever receives
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = span)]
    ttl: Duration,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Said of a text without a word.
const EMPTY: &str = "the text is empty: say what is to be sent, as in `amp-relay send DID \"the build is green\"`";

/// Runs the verb.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(in crate::cli) fn run(args: &SendArgs) -> Result<ExitCode, String> {
    // The text is read before the relay is connected to, so that a slow pipe keeps no connection waiting.
    if args.to == RELAY {
        return Err(args.reach.hinted(&relay_is_asked()));
    }
    address(&args.to, "").map_err(|why| args.reach.hinted(&why))?;
    let body = match (&args.json, &args.text) {
        (Some(json), _) => given_json(json)?,
        (None, Some(text)) => Value::String(given(text)?),
        (None, None) => return Ok(misused(&format!("what is to be sent is missing: {ADD_A_BODY}"))),
    };
    if body.as_str().is_some_and(|text| args.json.is_none() && text.trim().is_empty()) {
        return Err(args.reach.hinted(EMPTY));
    }
    let body = body_of_json(&body).map_err(|error| format!("this cannot be sent: {error}"))?;
    let mut agent = reach_as_agent(&args.reach)?.connection;
    let relay = agent.relay().to_owned();
    let to = args.to.clone();
    if did_base(&to) == relay {
        return Err(args.reach.hinted(&relay_is_asked()));
    }
    check_is_not_alone(&mut agent, &to, PONG_TIMEOUT, &args.reach)?;
    let draft = Draft { ttl_ms: millis(args.ttl), ..Draft::new(&to, Type::MESSAGE, &body) };
    let id = agent.send(&draft).map_err(|error| error.to_string())?;
    let outcome = wait(&mut agent, &to, &relay, id, &args.reach);
    agent.sender().close();
    out::line(&outcome?)?;
    Ok(ExitCode::SUCCESS)
}

/// What to do instead of sending the relay a message.
fn relay_is_asked() -> String {
    format!("the relay takes no messages, it is asked: `amp-relay request {RELAY} ACTION`, where ACTION is {ACTIONS}")
}

/// Waits until silence means something: the relay answers a PING that it read after the message, and an ERROR may follow
/// a moment later.
fn wait(agent: &mut Connection, to: &str, relay: &str, id: Id, reach: &ReachArgs) -> Result<&'static str, String> {
    let started = Instant::now();
    let ping = agent.send(&Draft::new(relay, Type::PING, cbor::NULL)).map_err(|error| error.to_string())?;
    let mut deadline = started + PONG_TIMEOUT;
    let mut ponged = false;
    let mut notes = Notes::default();
    loop {
        match agent.answer(to, &[id, ping], Some(deadline)).map_err(|error| error.to_string())? {
            Received::Message(message) if message.answers(&ping) && !ponged => {
                if let Some(error) = message.error() {
                    let told = explained("the relay does not answer a PING: ", &error, Whom::Relay, true);
                    return Err(told.hinting(reach).shown());
                }
                ponged = true;
                deadline = Instant::now() + GRACE + 2 * started.elapsed();
            }
            Received::Message(message) => match message.error() {
                // A session, for one, only takes what it can answer.
                Some(error) if error.code == Code::UNKNOWN_TYPE => {
                    return Err(format!(
                        "the recipient takes no messages, it is asked: {} prints what it answers",
                        reach.command(&format!("request {to} TEXT"))
                    ));
                }
                Some(error) => {
                    let is_relay = did_base(&message.from) == relay;
                    return Err(explained("", &error, Whom::Other, is_relay).hinting(reach).shown());
                }
                None if message.typ == Type::ACK => return Ok("received"),
                None => {}
            },
            Received::Nothing if ponged => return Ok("handed over"),
            Received::Nothing => {
                return Err("the relay did not answer in 10 s, so it is not known what became of the message".into());
            }
            Received::Ended(ended) => {
                return Err(out::foreign("", &format!("{ended} before it was known what became of the message")));
            }
            Received::Unacceptable(why) => {
                notes.said(passed_over(&why)).iter().for_each(|told| out::note(&told.shown()));
            }
            Received::Alive => {}
        }
    }
}
