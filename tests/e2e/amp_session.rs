//! A session that agents ask by its DID, with the demo agent and with the real CLI.
//!
//! The real one is named by `AMP_RELAY_TEST_CLAUDE` (`tests/run` installs a pinned one and sets it). Without it those
//! tests are skipped loudly, and fail where `CI=true`.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    self, Agent, AgentKey, Device, Key, Relay,
    amp::{Message, To, hex, typ},
    device::text,
    messages_api::MessagesApi,
};

/// A session, a device attached to it, and keys of agents, one for each role asked for.
struct Stage {
    relay: Relay,
    owner: Key,
    laptop: Device,
    session: String,
    /// The session's DID.
    did: String,
    keys: Vec<AgentKey>,
}

impl Stage {
    fn demo(roles: &[&str]) -> Self {
        Self::start(roles, |options| options)
    }

    fn start(roles: &[&str], set: impl FnOnce(support::relay::Options) -> support::relay::Options) -> Self {
        let owner = Key::new("owner");
        let keys: Vec<_> = roles.iter().map(|_| AgentKey::new()).collect();
        let lines: String = keys.iter().zip(roles).map(|(key, role)| key.line(role)).collect();
        let relay = set(Relay::options(&[&owner]).keys(&lines)).start();
        let mut laptop = Device::connect(&relay, &owner, "laptop");
        let session = laptop.create();
        laptop.attach(&session);
        let list = laptop.ok("list", json!({}));
        let did = text(&list["sessions"][0]["did"]).to_owned();
        assert!(did.starts_with("did:key:z6Mk"), "{list}");
        Self { relay, owner, laptop, session, did, keys }
    }

    /// The agent of a role, by its place.
    fn agent(&self, place: usize) -> Agent {
        Agent::connect(&self.relay.tcp(), &self.keys[place])
    }

    fn phone(&self) -> Device {
        let mut phone = Device::connect(&self.relay, &self.owner, "phone");
        phone.attach(&self.session);
        phone
    }

    /// Prompts that the session knows of, up to now.
    fn prompts(&mut self) -> Vec<Value> {
        self.laptop.sync();
        self.laptop.events_of(&self.session, "prompt")
    }

    /// Everything an answer of the session has to be.
    #[track_caller]
    fn check_answer(&self, message: &Message, agent: &Agent, request: &[u8], thread: Option<&[u8]>) {
        message.assert_well_made();
        assert_eq!((message.from.as_str(), &message.to), (self.did.as_str(), &To::from(&agent.key)));
        assert!(message.answers(request), "{message:?}");
        assert_eq!(message.thread_id.as_deref(), thread, "{message:?}");
    }

    /// Asks the session: gives the text of its RESPONSE, which has to be `ok`.
    #[track_caller]
    fn ask(&self, agent: &mut Agent, prompt: &str) -> String {
        let id = agent.say(typ::REQUEST, self.did.as_str(), &json!({"prompt": prompt}));
        let response = agent.answer(&id);
        self.check_answer(&response, agent, &id, None);
        assert_eq!((response.typ, &response.body["ok"]), (typ::RESPONSE, &json!(true)), "{response:?}");
        text(&response.body["text"]).to_owned()
    }
}

/// What the session asks of the agent while it works on a request.
#[track_caller]
fn input_required(agent: &mut Agent, request: &[u8]) -> Message {
    let found = |message: &Message| message.typ == typ::INPUT_REQUIRED && message.answers(request);
    let asked = agent.wait("INPUT_REQUIRED", found);
    assert_eq!(asked.body["options"], json!(["allow", "deny"]), "{asked:?}");
    assert!(!text(&asked.body["prompt"]).is_empty(), "{asked:?}");
    asked
}

#[test]
fn a_session_answers_an_agent() {
    let mut stage = Stage::demo(&["drive"]);
    let mut agent = stage.agent(0);
    let request = agent.draft(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "tell me a story"})).thread(&[5; 9]);
    agent.send(&request);
    let response = agent.answer(&request.id);
    stage.check_answer(&response, &agent, &request.id, Some(&[5; 9]));
    assert_eq!((response.typ, &response.body["ok"]), (typ::RESPONSE, &json!(true)), "{response:?}");
    let working = agent.of(typ::PROCESSING);
    assert_eq!(working.len(), 1, "{:?}", agent.seen);
    stage.check_answer(working[0], &agent, &request.id, Some(&[5; 9]));
    assert!(agent.of(typ::ERROR).is_empty() && agent.of(typ::ACK).is_empty(), "{:?}", agent.seen);
    // The device saw the same, and whose prompt it was.
    let session = stage.session.clone();
    let prompt = stage.laptop.event(&session, "the prompt", |event| event["kind"] == "prompt");
    assert_eq!(text(&prompt["text"]), "tell me a story");
    assert_eq!(text(&prompt["by"]["principal"]), agent.key.fingerprint(), "{prompt}");
    stage.laptop.turn(&session, text(&prompt["prompt"]));
    let said: Vec<_> = stage.laptop.recorded(&session).into_values().collect();
    assert_eq!(text(&response.body["text"]), said.join("\n"));
    assert!(!said.concat().is_empty());
}

#[test]
fn every_request_gets_its_own_answer() {
    const ALL: usize = 12;
    let stage = Stage::demo(&["drive", "admin"]);
    let mut agents = [stage.agent(0), stage.agent(1)];
    let mut asked = Vec::new();
    for n in 0..ALL {
        let agent = &mut agents[n % 2];
        asked.push(agent.say(typ::REQUEST, stage.did.as_str(), &json!({"prompt": format!("question {n}")})));
    }
    for (n, id) in asked.iter().enumerate() {
        let response = agents[n % 2].answer(id);
        stage.check_answer(&response, &agents[n % 2], id, None);
        assert_eq!((response.typ, &response.body["ok"]), (typ::RESPONSE, &json!(true)), "{response:?}");
        assert!(!text(&response.body["text"]).is_empty(), "question {n}: {response:?}");
    }
    for agent in &mut agents {
        agent.ping();
        assert_eq!(agent.of(typ::RESPONSE).len(), ALL / 2, "one answer each: {:?}", agent.seen);
        assert_eq!(agent.of(typ::PROCESSING).len(), ALL / 2, "{:?}", agent.seen);
    }
}

#[test]
fn a_request_to_two_sessions_is_answered_by_both() {
    let mut stage = Stage::demo(&["drive"]);
    let other = stage.laptop.create();
    stage.laptop.attach(&other);
    let list = stage.laptop.ok("list", json!({}));
    let mut dids: Vec<String> =
        list["sessions"].as_array().expect("sessions").iter().map(|session| text(&session["did"]).to_owned()).collect();
    let mut agent = stage.agent(0);
    let to = To::Many(dids.clone());
    let id = agent.say(typ::REQUEST, to, &json!({"prompt": "tell me a story"}));
    let mut answered: Vec<String> = agent.wait_for("both answers", |agent| {
        let mine = agent.of(typ::RESPONSE).into_iter().filter(|message| message.answers(&id));
        let from: Vec<String> =
            mine.filter(|message| message.body["ok"] == json!(true)).map(|message| message.from.clone()).collect();
        (from.len() == 2).then_some(from)
    });
    dids.sort();
    answered.sort();
    assert_eq!(answered, dids);
    for session in [stage.session.clone(), other] {
        stage.laptop.event(&session, "its prompt", |event| event["kind"] == "prompt");
    }
}

#[test]
fn a_request_that_is_sent_again_is_not_run_again() {
    let mut stage = Stage::demo(&["drive"]);
    let mut agent = stage.agent(0);
    let request = agent.draft(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "once"}));
    // While it runs, and after it has run, more often than requests may wait.
    agent.send(&request);
    agent.send(&request);
    assert_eq!(agent.answer(&request.id).typ, typ::RESPONSE);
    for _ in 0..70 {
        agent.send(&request);
    }
    assert!(!stage.ask(&mut agent, "another").is_empty());
    let prompts: Vec<_> = stage.prompts().iter().map(|prompt| text(&prompt["text"]).to_owned()).collect();
    assert_eq!(prompts, ["once", "another"]);
}

#[test]
fn an_id_that_is_said_again_with_another_prompt_is_refused_on_any_connection() {
    let mut stage = Stage::demo(&["drive"]);
    let mut agent = stage.agent(0);
    let request = agent.draft(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "please ask first"}));
    agent.send(&request);
    input_required(&mut agent, &request.id);
    let mut other = agent.draft(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "something else"}));
    other.id = request.id;
    let refused = |agent: &mut Agent, when: &str| {
        agent.skip();
        agent.send(&other);
        let error = agent.next(when);
        let names_it = text(&error.body["message"]).contains("id was used");
        assert!(error.is_error(4001) && error.answers(&request.id) && names_it, "{when}: {error:?}");
    };
    refused(&mut agent, "while it runs");
    refused(&mut stage.agent(0), "while it runs, on another connection");
    let open = stage.laptop.event(&stage.session, "the permission request", |event| event["kind"] == "permission");
    stage.laptop.ok("decide", json!({"session": stage.session, "request": open["request"], "decision": "deny"}));
    agent.wait("the answer", |message| message.typ == typ::RESPONSE && message.answers(&request.id));
    refused(&mut agent, "when it has run");
    refused(&mut stage.agent(0), "when it has run, on another connection");
    assert_eq!(stage.prompts().len(), 1);
}

#[test]
fn another_device_decides_for_an_agent() {
    let stage = Stage::demo(&["drive"]);
    let (mut agent, mut phone) = (stage.agent(0), stage.phone());
    let id = agent.say(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "please ask first"}));
    let asked = input_required(&mut agent, &id);
    stage.check_answer(&asked, &agent, &id, None);
    let open = phone.event(&stage.session, "the permission request", |event| event["kind"] == "permission");
    let decide = json!({"session": stage.session, "request": open["request"], "decision": "allow"});
    phone.ok("decide", decide);
    let response = agent.answer(&id);
    assert_eq!((response.typ, &response.body["ok"]), (typ::RESPONSE, &json!(true)), "{response:?}");
    // Who comes too late is told so.
    let late = agent.draft(typ::RESPONSE, stage.did.as_str(), &json!({"decision": "deny"})).reply_to(&asked.id);
    agent.send(&late);
    assert_eq!(agent.answer(&late.id).typ, typ::ERROR);
}

#[test]
fn an_agent_that_may_decides_itself() {
    let mut stage = Stage::demo(&["approve"]);
    let mut agent = stage.agent(0);
    let (did, session) = (stage.did.clone(), stage.session.clone());
    for (decision, calls) in [("allow", 1), ("deny", 1)] {
        let id = agent.say(typ::REQUEST, did.as_str(), &json!({"prompt": "please ask first"}));
        let asked = input_required(&mut agent, &id);
        let wrong = agent.draft(typ::RESPONSE, did.as_str(), &json!({"decision": "perhaps"})).reply_to(&asked.id);
        agent.send(&wrong);
        let error = agent.answer(&wrong.id);
        assert!(error.is_error(4001), "{error:?}");
        let long = json!({"decision": "deny", "message": "x".repeat(16_385)});
        let long = agent.draft(typ::RESPONSE, did.as_str(), &long).reply_to(&asked.id);
        agent.send(&long);
        let error = agent.answer(&long.id);
        assert!(error.is_error(4001) && text(&error.body["message"]).contains("16384"), "{error:?}");
        let body = match decision {
            "deny" => json!({"decision": decision, "message": "x".repeat(16_384)}),
            _ => json!({"decision": decision}),
        };
        let answer = agent.draft(typ::RESPONSE, did.as_str(), &body).reply_to(&asked.id);
        agent.send(&answer);
        let response = agent.answer(&id);
        assert_eq!(response.typ, typ::RESPONSE, "{response:?}");
        assert!(!agent.seen.iter().any(|message| message.answers(&answer.id)), "{:?}", agent.seen);
        let found = |event: &Value| event["kind"] == "decision" && event["decision"] == decision;
        let decided = stage.laptop.event(&session, "the decision", found);
        assert_eq!(text(&decided["by"]["principal"]), agent.key.fingerprint(), "{decided}");
        assert_eq!(decided["message"], body["message"], "whole: {decided}");
        let ok = |event: &&Value| event["outcome"] == "ok";
        stage.laptop.sync();
        assert_eq!(stage.laptop.events_of(&session, "tool_result").iter().filter(ok).count(), calls);
    }
}

/// A reason that would be dropped is refused before it allows anything.
#[test]
fn an_allowance_with_a_message_is_refused_and_the_question_stays_open() {
    let mut stage = Stage::demo(&["approve"]);
    let mut agent = stage.agent(0);
    let (did, session) = (stage.did.clone(), stage.session.clone());
    let id = agent.say(typ::REQUEST, did.as_str(), &json!({"prompt": "please ask first"}));
    let asked = input_required(&mut agent, &id);
    for (body, why) in [
        (
            json!({"decision": "allow", "message": "hm"}),
            "`message` goes with a denial: an allowance tells the model nothing",
        ),
        (
            json!({"decision": "allow", "message": 7}),
            "`message` goes with a denial: an allowance tells the model nothing",
        ),
        (json!({"decision": "answer", "answers": ["1"], "message": "hm"}), "`message` goes with a denial"),
        (json!({"decision": "deny", "message": 7}), "`message` must be a text"),
    ] {
        let wrong = agent.draft(typ::RESPONSE, did.as_str(), &body).reply_to(&asked.id);
        agent.send(&wrong);
        let error = agent.answer(&wrong.id);
        assert!(error.is_error(4001) && text(&error.body["message"]).contains(why), "{body}: {error:?}");
    }
    stage.laptop.sync();
    assert!(stage.laptop.events_of(&session, "decision").is_empty());
    // It is open still, and null says nothing.
    let answer = agent.draft(typ::RESPONSE, did.as_str(), &json!({"decision": "allow", "message": null}));
    agent.send(&answer.reply_to(&asked.id));
    let response = agent.answer(&id);
    assert_eq!((response.typ, &response.body["ok"]), (typ::RESPONSE, &json!(true)), "{response:?}");
}

/// Who allows something has to see what it is, not only what it is said to be.
#[test]
fn a_question_shows_what_would_run() {
    let stage = Stage::demo(&["approve"]);
    let mut agent = stage.agent(0);
    let id = agent.say(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "please ask first"}));
    let asked = input_required(&mut agent, &id);
    let mut phone = stage.phone();
    let open = phone.attach(&stage.session)["snapshot"]["permissions"][0].clone();
    let command = text(&open["input"]["command"]);
    assert!(!command.is_empty() && text(&asked.body["prompt"]).contains(command), "{asked:?} {open}");
}

#[test]
fn an_agent_that_may_not_decide_is_refused_and_the_question_stays_open() {
    let mut stage = Stage::demo(&["drive", "approve"]);
    let (mut agent, mut other) = (stage.agent(0), stage.agent(1));
    let id = agent.say(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "please ask first"}));
    let asked = input_required(&mut agent, &id);
    let answer = agent.draft(typ::RESPONSE, stage.did.as_str(), &json!({"decision": "allow"})).reply_to(&asked.id);
    agent.send(&answer);
    let error = agent.answer(&answer.id);
    assert!(error.is_error(3001), "{error:?}");
    // Nor may one that may decide answer a question that was not put to it.
    let answer = other.draft(typ::RESPONSE, stage.did.as_str(), &json!({"decision": "allow"})).reply_to(&[7; 16]);
    other.send(&answer);
    let error = other.answer(&answer.id);
    assert!(error.is_error(4001), "{error:?}");
    let session = stage.session.clone();
    stage.laptop.sync();
    assert!(stage.laptop.events_of(&session, "decision").is_empty());
    let open = stage.laptop.event(&session, "the permission request", |event| event["kind"] == "permission");
    stage.laptop.ok("decide", json!({"session": session, "request": open["request"], "decision": "deny"}));
    assert_eq!(agent.answer(&id).typ, typ::RESPONSE);
}

#[test]
fn roles_below_drive_do_not_prompt() {
    let mut stage = Stage::demo(&["agent", "watch"]);
    for place in 0..2 {
        let mut agent = stage.agent(place);
        let id = agent.say(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "tell me a story"}));
        let error = agent.answer(&id);
        assert!(error.is_error(3001), "{error:?}");
        error.assert_well_made();
        agent.ping();
        assert_eq!(agent.seen.len(), 3, "nothing of the session: {:?}", agent.seen);
    }
    assert!(stage.prompts().is_empty());
}

#[test]
fn what_is_no_question_is_refused() {
    let mut stage = Stage::demo(&["drive"]);
    let mut agent = stage.agent(0);
    let did = stage.did.clone();
    for body in [json!({}), json!({"prompt": 7}), json!({"prompt": ""}), json!("hello"), Value::Null, json!(["prompt"])]
    {
        let id = agent.say(typ::REQUEST, did.as_str(), &body);
        let error = agent.answer(&id);
        assert!(error.is_error(4001), "{body}: {error:?}");
    }
    for kind in [typ::MESSAGE, 0x20, 0x7f] {
        let id = agent.say(kind, did.as_str(), &json!({"prompt": "hello"}));
        let error = agent.answer(&id);
        assert!(error.is_error(1005), "0x{kind:02x}: {error:?}");
    }
    // No answer of an agent's own making comes from the session.
    let mut forged = agent.draft(typ::RESPONSE, &agent.key, &json!({"text": "forged"}));
    forged.from = did;
    agent.send(&forged);
    assert!(agent.answer(&forged.id).is_error(3001));
    assert!(stage.prompts().is_empty());
}

#[test]
fn a_session_goes_on_when_its_asker_leaves() {
    let mut stage = Stage::demo(&["drive"]);
    let session = stage.session.clone();
    for closes in [true, false] {
        let mut agent = stage.agent(0);
        let id = agent.say(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "tell me a story"}));
        agent.wait("work has begun", |message| message.typ == typ::PROCESSING && message.answers(&id));
        if closes { agent.close() } else { agent.vanish() }
    }
    for prompt in stage.laptop.wait_for("two prompts", |device| {
        let prompts = device.events_of(&session, "prompt");
        (prompts.len() == 2).then_some(prompts)
    }) {
        assert_eq!(stage.laptop.turn(&session, text(&prompt["prompt"]))["ok"], true);
    }
    let mut agent = stage.agent(0);
    assert!(!stage.ask(&mut agent, "and now?").is_empty());
}

/// What a session says goes to the DID: the connection that asked may be gone.
#[test]
fn an_agent_that_has_connected_anew_gets_the_answer_without_asking_again() {
    let mut stage = Stage::demo(&["drive"]);
    let (mut agent, mut phone) = (stage.agent(0), stage.phone());
    let id = agent.say(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "please ask first"}));
    input_required(&mut agent, &id);
    agent.vanish();
    let mut anew = stage.agent(0);
    let open = phone.event(&stage.session, "the permission request", |event| event["kind"] == "permission");
    phone.ok("decide", json!({"session": stage.session, "request": open["request"], "decision": "deny"}));
    let response = anew.answer(&id);
    stage.check_answer(&response, &anew, &id, None);
    assert_eq!(response.typ, typ::RESPONSE, "{response:?}");
    assert_eq!(stage.prompts().len(), 1);
}

/// The same REQUEST on a new connection, as RFC 001 section 16.5 wants it after a break: one prompt, one whole answer.
#[test]
fn a_request_that_is_said_again_after_a_break_gets_its_whole_answer() {
    let mut stage = Stage::demo(&["drive"]);
    let session = stage.session.clone();
    let mut agent = stage.agent(0);
    let first = agent.draft(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "tell me a story"}));
    agent.send(&first);
    agent.wait("work has begun", |message| message.typ == typ::PROCESSING);
    agent.vanish();
    // Once while it may still run, once when it is over for certain, each time beside a new one.
    for _ in 0..2 {
        let mut agent = stage.agent(0);
        agent.send(&first);
        let response = agent.answer(&first.id);
        stage.check_answer(&response, &agent, &first.id, None);
        let prompt = stage.laptop.event(&session, "the prompt", |event| event["kind"] == "prompt");
        stage.laptop.turn(&session, text(&prompt["prompt"]));
        let said = stage.laptop.recorded(&session).into_values().next().expect("an answer");
        assert_eq!(response.body, json!({"ok": true, "text": said}));
        assert!(!stage.ask(&mut agent, "and now?").is_empty());
    }
    assert_eq!(stage.prompts().len(), 3, "the one said twice ran once");
}

#[test]
fn a_question_that_was_put_while_the_agent_was_away_is_put_when_it_says_its_request_again() {
    let stage = Stage::demo(&["approve"]);
    let (mut agent, mut phone) = (stage.agent(0), stage.phone());
    let request = agent.draft(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "please ask me first"}));
    agent.send(&request);
    agent.wait("work has begun", |message| message.typ == typ::PROCESSING);
    agent.vanish();
    phone.event(&stage.session, "the permission request", |event| event["kind"] == "permission");
    // More than once, each time on another connection; all that was put can be answered.
    let mut agent = stage.agent(0);
    agent.send(&request);
    let asked = input_required(&mut agent, &request.id);
    let mut other = stage.agent(0);
    other.send(&request);
    input_required(&mut other, &request.id);
    let allow = agent.draft(typ::RESPONSE, asked.from.as_str(), &json!({"decision": "allow"})).reply_to(&asked.id);
    agent.send(&allow);
    let response = agent.answer(&request.id);
    assert_eq!((response.typ, &response.body["ok"]), (typ::RESPONSE, &json!(true)), "{response:?}");
    let response = other.answer(&request.id);
    assert_eq!((response.typ, &response.body["ok"]), (typ::RESPONSE, &json!(true)), "{response:?}");
    phone.sync();
    assert_eq!(phone.events_of(&stage.session, "prompt").len(), 1);
}

/// Who is here, by the relay's word: DIDs, and whether each is a session.
fn here(agent: &mut Agent) -> Vec<(String, bool)> {
    let answer = agent.ask(&json!({"action": "agents"}));
    let agents = answer["agents"].as_array().expect("agents");
    agents.iter().map(|agent| (text(&agent["did"]).to_owned(), agent["session"] == true)).collect()
}

#[test]
fn a_session_that_gave_way_to_another_is_nobody_any_more() {
    let mut stage = Stage::demo(&["drive"]);
    // On both workers, as the kernel likes; every one of them is asked.
    let mut agents: Vec<_> = (0..6).map(|_| stage.agent(0)).collect();
    for agent in &mut agents {
        let here = here(agent);
        assert!(here.contains(&(stage.did.clone(), true)), "{here:?}");
        assert!(here.contains(&(stage.keys[0].did.clone(), false)), "{here:?}");
    }
    let first = stage.session.clone();
    stage.laptop.ok("detach", json!({"session": first}));
    let (mut ended, mut created) = (first.clone(), 0);
    // The relay holds so many sessions; then the one that ended first gives way.
    loop {
        stage.laptop.ok("stop", json!({"session": ended, "now": true}));
        support::until("it has ended", || {
            let list = stage.laptop.ok("list", json!({}));
            let sessions = list["sessions"].as_array().expect("sessions").clone();
            sessions.iter().any(|one| one["session"] == *ended && one["state"] == "stopped").then_some(())
        });
        ended = stage.laptop.create();
        created += 1;
        let list = stage.laptop.ok("list", json!({}));
        if !list["sessions"].as_array().expect("sessions").iter().any(|one| one["session"] == *first) {
            break;
        }
        assert!(created < 200, "the first session never gave way");
    }
    for agent in &mut agents {
        support::until("its DID is gone", || (!here(agent).iter().any(|(did, _)| *did == stage.did)).then_some(()));
        let request = agent.draft(typ::REQUEST, stage.did.as_str(), &json!({"prompt": "anybody?"}));
        agent.refused(&request, 2003);
    }
}

#[test]
fn an_agent_on_every_listener_reaches_every_session() {
    let mut stage = Stage::demo(&["drive"]);
    let second = stage.laptop.create();
    let list = stage.laptop.ok("list", json!({}));
    let sessions = list["sessions"].as_array().expect("sessions");
    let of = |id: &str| sessions.iter().find(|session| session["session"] == id).expect("the session")["did"].clone();
    let dids = [stage.did.clone(), text(&of(&second)).to_owned()];
    assert_ne!(dids[0], dids[1], "each has its own");
    for endpoint in [stage.relay.tcp(), stage.relay.unix()] {
        let mut agent = Agent::connect(&endpoint, &stage.keys[0]);
        for did in &dids {
            let id = agent.say(typ::REQUEST, did.as_str(), &json!({"prompt": "who are you?"}));
            let response = agent.answer(&id);
            assert_eq!((response.typ, &response.from), (typ::RESPONSE, did), "{response:?}");
        }
    }
}

// --- the real CLI ----------------------------------------------------------------------------------------------------

/// The CLI to test with, or `None` after saying loudly that there is none.
fn claude() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("AMP_RELAY_TEST_CLAUDE").filter(|value| !value.is_empty()) {
        return Some(program.into());
    }
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!required, "AMP_RELAY_TEST_CLAUDE is not set, and CI=true demands the real CLI: use ./tests/run");
    support::say_loudly("SKIPPED: no real Claude Code CLI. ./tests/run installs one and sets AMP_RELAY_TEST_CLAUDE.");
    None
}

fn real(roles: &[&str]) -> Option<(MessagesApi, Stage)> {
    let program = claude()?;
    let api = MessagesApi::start();
    let stage = Stage::start(roles, |options| {
        let options =
            options.claude(&program).env("ANTHROPIC_BASE_URL", api.url()).env("ANTHROPIC_API_KEY", "test-key");
        let quiet = ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING"];
        let options =
            quiet.iter().chain(&["DISABLE_AUTOUPDATER"]).fold(options, |options, name| options.env(name, "1"));
        // Where no network namespace is to be had, the caller names a proxy that nothing listens on.
        ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"].iter().fold(options, |options, name| match std::env::var(name) {
            Ok(value) => options.env(name, value),
            Err(_) => options,
        })
    });
    Some((api, stage))
}

#[test]
fn real_cli_answers_an_agent() {
    let Some((api, stage)) = real(&["drive"]) else { return };
    let mut agent = stage.agent(0);
    assert_eq!(stage.ask(&mut agent, "api:say the answer is marigold"), "the answer is marigold");
    let words: String = (0..300).map(|n| format!("word{n} ")).collect();
    assert_eq!(stage.ask(&mut agent, "api:words 300").trim_end(), words.trim_end());
    assert_eq!(agent.of(typ::PROCESSING).len(), 2, "{:?}", agent.seen);
    assert_eq!(api.requests().len(), 2, "one question, one request");
}

#[test]
fn real_cli_runs_a_tool_for_an_agent_when_a_device_allows_it() {
    let Some((_api, stage)) = real(&["drive"]) else { return };
    let (mut agent, mut phone) = (stage.agent(0), stage.phone());
    let marker = stage.relay.scratch.project().join("marker");
    let prompt = format!("api:bash echo ran >> {}", marker.display());
    let request = agent.draft(typ::REQUEST, stage.did.as_str(), &json!({"prompt": prompt})).thread(b"one thread");
    agent.send(&request);
    let asked = input_required(&mut agent, &request.id);
    stage.check_answer(&asked, &agent, &request.id, Some(b"one thread"));
    let open = phone.event(&stage.session, "the permission request", |event| event["kind"] == "permission");
    assert!(!marker.exists(), "nothing runs before somebody allows it");
    phone.ok("decide", json!({"session": stage.session, "request": open["request"], "decision": "allow"}));
    let response = agent.answer(&request.id);
    stage.check_answer(&response, &agent, &request.id, Some(b"one thread"));
    assert_eq!((response.typ, &response.body["ok"]), (typ::RESPONSE, &json!(true)), "{response:?}");
    assert!(text(&response.body["text"]).contains("done"), "{response:?}");
    assert_eq!(fs::read_to_string(&marker).unwrap_or_default().lines().count(), 1, "it ran once");
}

#[test]
fn real_cli_runs_a_tool_when_the_agent_itself_allows_it() {
    let Some((_api, mut stage)) = real(&["approve"]) else { return };
    let mut agent = stage.agent(0);
    let (did, session) = (stage.did.clone(), stage.session.clone());
    let marker = stage.relay.scratch.project().join("marker");
    for (decision, ran) in [("deny", 0), ("allow", 1)] {
        let prompt = format!("api:bash echo ran >> {}", marker.display());
        let id = agent.say(typ::REQUEST, did.as_str(), &json!({"prompt": prompt}));
        let asked = input_required(&mut agent, &id);
        let answer = agent.draft(typ::RESPONSE, did.as_str(), &json!({"decision": decision})).reply_to(&asked.id);
        agent.send(&answer);
        let response = agent.answer(&id);
        assert_eq!(response.typ, typ::RESPONSE, "{}: {response:?}", hex(&id));
        assert_eq!(fs::read_to_string(&marker).unwrap_or_default().lines().count(), ran, "{decision}");
        let found = |event: &Value| event["kind"] == "decision" && event["decision"] == decision;
        let decided = stage.laptop.event(&session, "the decision", found);
        assert_eq!(text(&decided["by"]["principal"]), agent.key.fingerprint(), "{decided}");
    }
}
