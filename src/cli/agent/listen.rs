//! `amp-relay listen`: an agent on the terminal.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use parking_lot::Mutex;
use serde_json::{Value, json};
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};

use super::{as_json, notes::Notes, passed_over, rendered, signer};
use crate::{
    base::CloseCode,
    cli::{
        out,
        reach::{Found, ReachArgs, device_name, reach_as_agent},
        text::{clean_line, marked},
    },
    client::{
        Backoff, Ended, KnownRelays, NOTHING_SEEN_MS,
        amp::{Connection, Draft, Message, Options, Received, Sender, Type, body_of_json, json_of_body},
    },
    wire::cbor,
};

/// First pause before connecting again, and the longest (RFC 001 section 16.5).
const RETRY_MS_FIRST: u64 = 1_000;
const RETRY_MS_MAX: u64 = 60_000;
/// A connection that held for so long starts the pauses anew.
const HELD: Duration = Duration::from_secs(60);
/// Characters that are shown of an error, and of a sender's DID.
const ERROR_CHARS: usize = 500;
const FROM_CHARS: usize = 200;

/// Prints each message that comes: from whom, its type, its body. Answers PING, and requests with the action ping.
/// Connects again when the connection breaks; Ctrl-C ends it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  amp-relay listen                          print what comes, and this agent's DID at the start
  amp-relay listen --json | jq .body        one JSON object a line, bytes as base64url")]
pub(in crate::cli) struct ListenArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

/// The current connection, for the thread that ends the program.
type Current = Arc<Mutex<Option<Sender>>>;

/// Runs the verb.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(in crate::cli) fn run(args: &ListenArgs) -> Result<ExitCode, String> {
    let Found { connection, target, identity, known, .. } = reach_as_agent(&args.reach)?;
    let current = Current::default();
    end_on_signals(Arc::clone(&current))?;
    let options = Options::new(&device_name());
    let mut backoff = Backoff::new(RETRY_MS_FIRST, RETRY_MS_MAX, RandomState::new().build_hasher().finish());
    let mut connected = Some(connection);
    let mut notes = Notes::default();
    loop {
        let why = match connected.take() {
            Some(mut agent) => {
                out::note(&format_args!("listening as {} at {target}; Ctrl-C ends", agent.did()));
                *current.lock() = Some(agent.sender());
                let since = Instant::now();
                let ended = serve(&mut agent, args.json, &mut notes)?;
                if since.elapsed() >= HELD {
                    backoff.reset();
                }
                if let Some(why) = is_final(&ended) {
                    return Err(args.reach.hinted(&why));
                }
                out::foreign("not connected (", &ended.to_string())
            }
            None => {
                let mut pins = KnownRelays::load(known.clone()).map_err(|error| error.to_string())?;
                match Connection::connect(&target, &identity, &options, &mut pins) {
                    Ok(agent) => {
                        connected = Some(agent);
                        continue;
                    }
                    Err(error) if error.is_passing() => out::foreign("not connected (", &error.to_string()),
                    Err(error) => return Err(out::foreign("", &error.to_string())),
                }
            }
        };
        *current.lock() = None;
        let pause = backoff.next_ms();
        out::note(&format_args!("{why}); next try in {:.1} s", pause as f64 / 1000.0));
        thread::sleep(Duration::from_millis(pause));
    }
}

/// The first signal says goodbye to the relay and ends the program.
fn end_on_signals(current: Current) -> Result<(), String> {
    let mut signals = Signals::new(TERM_SIGNALS).map_err(|error| format!("signals cannot be handled: {error}"))?;
    let ending = move || {
        if signals.forever().next().is_some() {
            if let Some(sender) = current.lock().take() {
                sender.close();
            }
            std::process::exit(0);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(ending).map(drop).map_err(|error| error.to_string())
}

/// Whether connecting again would only end the same way.
fn is_final(ended: &Ended) -> Option<String> {
    match ended {
        Ended::Closed { code: Some(CloseCode::KEY_REVOKED), .. } => Some(
            "this key was revoked or has expired; on the relay's host, `amp-relay keys list` shows the keys".into(),
        ),
        Ended::Closed { code: Some(CloseCode::POLICY | CloseCode::TOO_BIG), .. } => {
            Some(out::foreign("", &ended.to_string()))
        }
        _ => None,
    }
}

/// Prints and answers what comes until the connection ends.
fn serve(agent: &mut Connection, json: bool, notes: &mut Notes) -> Result<Ended, String> {
    loop {
        let deadline = Instant::now() + Duration::from_millis(NOTHING_SEEN_MS);
        match agent.receive(Some(deadline)).map_err(|error| error.to_string())? {
            Received::Message(message) => {
                notes.between();
                if json {
                    out::json(&as_json(&message))?
                } else {
                    out::line(&out::folded(&line(&message), std::io::stdout()))?
                }
                // A connection that cannot be written to shows as ended in the next round.
                let _ = answer(&message).map(|(typ, body)| agent.send(&Draft::answering(&message, typ, &body)));
            }
            Received::Unacceptable(why) => {
                notes.said(passed_over(&why)).iter().for_each(|told| out::note(&told.shown()));
            }
            Received::Alive => {}
            Received::Nothing => return Ok(Ended::Broken("the relay says nothing".into())),
            Received::Ended(ended) => return Ok(ended),
        }
    }
}

/// A message on one line; further lines of its text are marked.
fn line(message: &Message) -> String {
    let doubt = match signer(message.signed_by) {
        Some("sender") => "",
        Some(_) => " (signed by the relay)",
        None => " (signature not checked)",
    };
    let body = match message.error() {
        Some(error) => clean_line(&error.to_string(), ERROR_CHARS),
        None => marked(&rendered(message.body.as_deref())),
    };
    format!("{} {}{doubt} {body}", clean_line(&message.from, FROM_CHARS), message.typ).trim_end().to_owned()
}

/// What this agent answers by itself.
fn answer(message: &Message) -> Option<(Type, Vec<u8>)> {
    match message.typ {
        Type::PING => Some((Type::PONG, cbor::NULL.to_vec())),
        Type::REQUEST => {
            let body = json_of_body(message.body.as_deref()?);
            let is_ping = body.get("action").and_then(Value::as_str) == Some("ping");
            let pong = body_of_json(&json!({"status": "ok", "message": "pong"})).ok()?;
            is_ping.then_some((Type::RESPONSE, pong))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::amp::{Id, SignedBy};

    fn message(typ: Type, body: Value, signed_by: SignedBy) -> Message {
        Message {
            id: Id([7; 16]),
            typ,
            ts: 0,
            ttl_ms: 0,
            from: "did:key:z1\x1b[2J".into(),
            to: Vec::new(),
            reply_to: None,
            thread_id: None,
            body: Some(body_of_json(&body).unwrap()),
            signed_by,
        }
    }

    #[test]
    fn pings_are_answered() {
        let answers = |typ, body| answer(&message(typ, body, SignedBy::Sender));
        assert_eq!(answers(Type::PING, Value::Null), Some((Type::PONG, cbor::NULL.to_vec())));
        let (typ, body) = answers(Type::REQUEST, json!({"action": "ping"})).unwrap();
        assert_eq!((typ, json_of_body(&body)), (Type::RESPONSE, json!({"status": "ok", "message": "pong"})));
        for silent in [json!({"action": "echo"}), json!("ping"), Value::Null] {
            assert_eq!(answers(Type::REQUEST, silent), None);
        }
        assert_eq!(answers(Type::PONG, Value::Null), None);
    }

    #[test]
    fn a_line_says_who_and_whether_that_is_sure() {
        assert_eq!(line(&message(Type::MESSAGE, json!("hi"), SignedBy::Sender)), "did:key:z1[2J MESSAGE hi");
        let forged = line(&message(Type::MESSAGE, json!("hi\ndid:key:z2 MESSAGE bye"), SignedBy::Sender));
        assert_eq!(forged, "did:key:z1[2J MESSAGE hi\n  | did:key:z2 MESSAGE bye");
        assert_eq!(line(&message(Type::PING, Value::Null, SignedBy::Sender)), "did:key:z1[2J PING");
        let doubted = line(&message(Type::MESSAGE, json!("hi"), SignedBy::Unknown));
        assert_eq!(doubted, "did:key:z1[2J MESSAGE (signature not checked) hi");
    }
}
