//! Prompts over the session protocol: each connection creates a session of its own, and prompts it again when a turn
//! has ended. A thread for each connection: a turn takes far longer than a thread costs.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, mpsc},
    time::Duration,
};

use amp_relay::client::{
    Connection, Fact, Identity, Incoming, Options, PinError, Pins, Received, Reply, Summary, Target,
};
use hdrhistogram::Histogram;
use serde_json::json;
use ssh_key::PublicKey;

use crate::{
    agent::Agent,
    engine::{Plan, Shared, Tally, histogram},
};

/// How long an answer or a turn may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A relay under test is not pinned: the person at the load test chose it.
struct Anybody;

impl Pins for Anybody {
    fn check(&mut self, _: &Target, _: &str, _: &PublicKey) -> Result<(), PinError> {
        Ok(())
    }

    fn proved(&mut self, _: &Target, _: &str, _: &PublicKey) -> Result<(), PinError> {
        Ok(())
    }
}

/// What one connection does.
pub(crate) struct Job {
    pub(crate) index: usize,
    pub(crate) url: String,
    pub(crate) seed: u64,
    pub(crate) text: String,
}

/// What it gives: the tally, with the latency of whole turns, and the steps on the way.
pub(crate) struct Given {
    pub(crate) tally: Tally,
    pub(crate) steps: BTreeMap<&'static str, Histogram<u64>>,
}

struct Prompter {
    connection: Connection,
    session: String,
    shared: Arc<Shared>,
    index: usize,
    given: Given,
    next: u64,
    /// Prompts of turns that have ended.
    done: HashSet<String>,
    /// When the first text of the turn under way came.
    first_text: Option<u64>,
}

/// Signs in, creates a session, says so, and prompts while the plan lasts.
///
/// # Errors
/// In words: there is no session to prompt.
pub(crate) fn run(job: &Job, shared: &Arc<Shared>, ready: &mpsc::Sender<()>) -> Result<Given, String> {
    let mut prompter = Prompter::start(job, shared)?;
    shared.ready[job.index].set(1);
    // The receiver is gone when the run is being given up.
    let _ = ready.send(());
    let plan = loop {
        if shared.is_stopped() {
            prompter.stop();
            return Err("stopped".into());
        }
        match shared.plan.get() {
            Some(plan) => break *plan,
            None => prompter.idle()?,
        }
    };
    while shared.now() < plan.end && !shared.is_stopped() {
        if let Err(why) = prompter.turn(&plan, &job.text) {
            prompter.given.tally.problem(format!("session of client {}: {why}", job.index));
            prompter.given.tally.lost += 1;
            break;
        }
    }
    prompter.stop();
    Ok(prompter.given)
}

impl Prompter {
    fn start(job: &Job, shared: &Arc<Shared>) -> Result<Self, String> {
        let target = Target::parse(&job.url).map_err(|error| error.to_string())?;
        let key = Agent::new(job.seed, job.index as u64).openssh().map_err(|error| error.to_string())?;
        let identity = Identity::from_key(key, "loadtest");
        let options = Options::new(&format!("loadtest-{:x}-{}", shared.unix_ms(0), job.index), "loadtest", "loadtest");
        let (connection, welcome) =
            Connection::connect(&target, &identity, &options, &mut Anybody).map_err(|error| error.to_string())?;
        let profile = welcome.profiles.first().ok_or("the relay offers no profile to create a session from")?;
        let steps = ["accepted", "first text"].into_iter().map(|name| (name, histogram())).collect();
        let mut prompter = Self {
            connection,
            session: String::new(),
            shared: shared.clone(),
            index: job.index,
            given: Given { tally: Tally::new(), steps },
            next: 0,
            done: HashSet::new(),
            first_text: None,
        };
        let reply = prompter.ask(json!({"type": "create", "profile": profile.name}))?;
        let summary: Summary = reply.field("session").ok().flatten().ok_or("the answer to `create` has no session")?;
        prompter.session = summary.session;
        prompter.ask(json!({"type": "attach", "session": prompter.session}))?;
        Ok(prompter)
    }

    /// Sends a command and waits for its answer.
    fn ask(&mut self, mut command: serde_json::Value) -> Result<Reply, String> {
        self.next += 1;
        let id = format!("c{}", self.next);
        command["id"] = json!(id);
        self.connection.send(&command.to_string()).map_err(|error| error.to_string())?;
        loop {
            match self.receive()? {
                Some(Incoming::Reply(reply)) if reply.re == id => return Ok(reply),
                Some(Incoming::Error(error)) if error.re.as_deref() == Some(&id) => {
                    let text = format!("{} {}", error.code, error.message);
                    *self.given.tally.refused.entry(text.clone()).or_default() += 1;
                    return Err(text);
                }
                _ => {}
            }
        }
    }

    /// The next message; what concerns the turn under way is noted.
    fn receive(&mut self) -> Result<Option<Incoming>, String> {
        let deadline = std::time::Instant::now() + PATIENCE;
        match self.connection.receive(Some(deadline)).map_err(|error| error.to_string())? {
            Received::Text(text) => {
                let message = Incoming::parse(&text).ok_or("a message that is none of the session protocol")?;
                self.note(&message);
                Ok(Some(message))
            }
            Received::Alive => Ok(None),
            Received::Nothing => Err(format!("nothing came for {} s", PATIENCE.as_secs())),
            Received::Ended(ended) => {
                self.given.tally.dead += 1;
                Err(ended.to_string())
            }
        }
    }

    fn note(&mut self, message: &Incoming) {
        match message {
            Incoming::Delta { session, .. } if *session == self.session => {
                self.first_text.get_or_insert_with(|| self.shared.now());
            }
            Incoming::Event(event) if event.session == self.session => match &event.fact {
                Fact::Text(_) => {
                    self.first_text.get_or_insert_with(|| self.shared.now());
                }
                Fact::Turn { prompts, .. } => {
                    for prompt in prompts {
                        if !self.done.insert(prompt.clone()) {
                            self.given.tally.doubled += 1;
                        }
                    }
                }
                _ => {}
            },
            Incoming::Event(_) | Incoming::Delta { .. } => self.given.tally.misdirected += 1,
            _ => {}
        }
    }

    /// Keeps the connection alive until there is a plan.
    fn idle(&mut self) -> Result<(), String> {
        let deadline = std::time::Instant::now() + Duration::from_millis(20);
        match self.connection.receive(Some(deadline)).map_err(|error| error.to_string())? {
            Received::Ended(ended) => Err(ended.to_string()),
            _ => Ok(()),
        }
    }

    fn turn(&mut self, plan: &Plan, text: &str) -> Result<(), String> {
        let begun = self.shared.now();
        self.first_text = None;
        self.given.tally.sent += 1;
        let reply = self.ask(json!({"type": "prompt", "session": self.session, "text": text}))?;
        let accepted = self.shared.now();
        let prompt: String = reply.field("prompt").ok().flatten().ok_or("the answer to `prompt` has no id")?;
        while !self.done.contains(&prompt) {
            self.receive()?;
        }
        let ended = self.shared.now();
        self.given.tally.delivered += 1;
        self.shared.delivered[self.index].set(self.given.tally.delivered);
        if (plan.count_from..plan.end).contains(&begun) {
            self.given.tally.latency.saturating_record(ended - begun);
            let steps = [("accepted", Some(accepted)), ("first text", self.first_text)];
            for (name, at) in steps.into_iter().filter_map(|(name, at)| Some((name, at?))) {
                if let Some(step) = self.given.steps.get_mut(name) {
                    step.saturating_record(at.saturating_sub(begun));
                }
            }
        }
        Ok(())
    }

    /// Ends the session, so that a load test leaves no process behind.
    fn stop(&mut self) {
        let refused = self.given.tally.refused.clone();
        if self.ask(json!({"type": "stop", "session": self.session, "now": true})).is_err() {
            // A session that ended by itself needs no stop; the figures are in already.
            self.given.tally.refused = refused;
        }
        self.connection.writer().close();
    }
}
