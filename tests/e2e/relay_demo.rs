//! Sessions end to end with the demo agent: what two devices on one session see, decide and survive.

use std::os::unix::fs::symlink;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    self, Device, Key, Relay, SignIn,
    device::text,
    process::{self, Process},
};

/// A relay, its owner's key, and a session that one device has created and is attached to.
fn session() -> (Relay, Key, Device, String) {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    (relay, owner, device, session)
}

fn demo_agent(relay: &Relay) -> Option<Process> {
    process::agent(relay.scratch.root(), |process| process.command.contains("demo-agent"))
}

#[test]
fn two_devices_receive_the_same_text() {
    let (relay, owner, mut laptop, session) = session();
    let mut phone = Device::connect(&relay, &owner, "phone");
    phone.attach(&session);
    let prompt = laptop.prompt(&session, "tell us both a story");
    let turn = laptop.turn(&session, &prompt);
    assert_eq!(turn["ok"], true, "{turn}");
    phone.turn(&session, &prompt);
    let recorded = laptop.recorded(&session);
    assert!(!recorded.is_empty(), "the agent said something");
    assert_eq!(laptop.streamed(&session), recorded, "what was streamed is what was recorded");
    assert_eq!(phone.streamed(&session), recorded, "and the other device saw the same");
    assert_eq!(phone.recorded(&session), recorded);
    let said = phone.event(&session, "the prompt", |event| event["kind"] == "prompt");
    assert_eq!((text(&said["text"]), text(&said["by"]["device"])), ("tell us both a story", "laptop"), "{said}");
    assert_eq!(text(&said["by"]["principal"]), laptop.principal());
    laptop.gapless(&session);
    phone.gapless(&session);
}

#[test]
fn the_other_device_decides() {
    let (relay, owner, mut laptop, session) = session();
    let mut phone = Device::connect(&relay, &owner, "phone");
    phone.attach(&session);
    let prompt = laptop.prompt(&session, "please ask first");
    let request = phone.event(&session, "the permission request", |event| event["kind"] == "permission");
    let decide = json!({"session": session, "request": request["request"], "decision": "allow"});
    let reply = phone.ok("decide", decide);
    assert!(reply["position"]["offset"].is_u64(), "{reply}");
    for device in [&mut laptop, &mut phone] {
        device.turn(&session, &prompt);
        let decisions = device.events_of(&session, "decision");
        assert_eq!(decisions.len(), 1, "{decisions:?}");
        assert_eq!(decisions[0]["request"], request["request"]);
        assert_eq!((text(&decisions[0]["decision"]), text(&decisions[0]["how"])), ("allow", "person"));
        assert_eq!(text(&decisions[0]["by"]["device"]), "phone");
        assert_eq!(decisions[0]["offset"], reply["position"]["offset"]);
        let closed = device.events_of(&session, "permission_closed");
        assert_eq!(closed.len(), 1, "{closed:?}");
        assert_eq!(text(&closed[0]["how"]), "applied");
        assert_eq!(device.events_of(&session, "tool_call").len(), 1);
        assert_eq!(device.events_of(&session, "tool_result").len(), 1, "it ran once");
    }
}

#[test]
fn of_two_answers_one_wins_and_the_other_learns_who() {
    let (relay, owner, mut laptop, session) = session();
    let mut phone = Device::connect(&relay, &owner, "phone");
    phone.attach(&session);
    let prompt = laptop.prompt(&session, "ask us");
    let request = phone.event(&session, "the permission request", |event| event["kind"] == "permission");
    laptop.event(&session, "the permission request", |event| event["kind"] == "permission");
    let answer = |decision| json!({"session": session, "request": request["request"], "decision": decision});
    let one = laptop.start("decide", answer("allow"));
    let two = phone.start("decide", answer("deny"));
    let (one, two) = (laptop.answer(&one), phone.answer(&two));
    let (winner, decision, error) = match (one, two) {
        (Ok(_), Err(error)) => ("laptop", "allow", error),
        (Err(error), Ok(_)) => ("phone", "deny", error),
        other => panic!("exactly one wins: {other:?}"),
    };
    assert_eq!(text(&error["code"]), "ALREADY_DECIDED", "{error}");
    let details = &error["details"];
    assert_eq!(text(&details["by"]["device"]), winner, "{error}");
    assert_eq!(text(&details["decision"]), decision, "{error}");
    assert!(details["at"].is_u64(), "{error}");
    laptop.turn(&session, &prompt);
    assert_eq!(laptop.events_of(&session, "decision").len(), 1);
}

#[test]
fn a_session_goes_on_when_its_agent_is_killed() {
    let (relay, _owner, mut laptop, session) = session();
    let first = laptop.prompt(&session, "remember the word marigold");
    laptop.turn(&session, &first);
    let prompt = laptop.prompt(&session, "and now say something long");
    laptop.wait("the answer begins", |m| m["type"] == "delta" && m["session"] == session.as_str() && m["at"] == 0);
    let agent = support::until("there is an agent", || demo_agent(&relay));
    process::signal(agent.pid, Signal::KILL);
    laptop.turn(&session, &prompt);
    let again = support::until("there is a new agent", || demo_agent(&relay).filter(|new| new.pid != agent.pid));
    assert_ne!(again.pid, agent.pid);
    let last = laptop.prompt(&session, "still there?");
    laptop.turn(&session, &last);
    for one in [&first, &prompt, &last] {
        assert_eq!(laptop.settled(&session, one), "done", "no prompt is lost and none is settled twice");
    }
    laptop.gapless(&session);
}

#[test]
fn nothing_is_left_when_the_relay_is_killed() {
    let (mut relay, _owner, mut laptop, session) = session();
    let prompt = laptop.prompt(&session, "hello");
    laptop.turn(&session, &prompt);
    support::until("there is an agent", || demo_agent(&relay));
    relay.signal(Signal::KILL);
    relay.exit();
    process::none_left(relay.scratch.root());
}

#[test]
fn a_late_device_gets_the_tail_and_then_the_rest() {
    let (relay, owner, mut laptop, session) = session();
    let first = laptop.prompt(&session, "one");
    laptop.turn(&session, &first);
    let second = laptop.prompt(&session, "two, and take your time");
    let mut phone = Device::connect(&relay, &owner, "phone");
    let reply = phone.attach(&session);
    assert_eq!(text(&reply["snapshot"]["session"]), session);
    let tail = reply["events"].as_array().expect("a tail");
    assert!(tail.iter().any(|event| event["kind"] == "prompt" && event["prompt"] == first.as_str()), "{reply}");
    let last = tail.last().and_then(|event| event["offset"].as_u64());
    assert_eq!(last.map(|offset| offset + 1), reply["next"]["offset"].as_u64(), "the tail ends where the rest begins");
    laptop.turn(&session, &second);
    phone.turn(&session, &second);
    let third = phone.prompt(&session, "three");
    laptop.turn(&session, &third);
    phone.turn(&session, &third);
    let all = laptop.gapless(&session);
    let seen = phone.gapless(&session);
    let from = seen.first().and_then(|event| event["offset"].as_u64()).expect("an offset");
    let same: Vec<_> = all.into_iter().filter(|event| event["offset"].as_u64() >= Some(from)).collect();
    let both = same.len().min(seen.len());
    assert_eq!(same[..both], seen[..both], "both devices hold the same events");
}

#[test]
fn a_snapshot_alone_is_enough_to_act() {
    let (relay, owner, mut laptop, session) = session();
    laptop.prompt(&session, "ask now");
    let asked = laptop.event(&session, "the permission request", |event| event["kind"] == "permission");
    laptop.vanish();
    let mut phone = Device::connect(&relay, &owner, "phone");
    let reply = phone.ok("attach", json!({"session": session, "tail": {"bytes": 0}}));
    let open = reply["snapshot"]["permissions"].as_array().expect("open requests");
    assert_eq!(open.len(), 1, "{reply}");
    assert_eq!(open[0]["request"], asked["request"]);
    assert_eq!(text(&reply["snapshot"]["state"]), "waiting");
    phone.ok("decide", json!({"session": session, "request": open[0]["request"], "decision": "deny"}));
    phone.event(&session, "the request is over", |event| event["kind"] == "permission_closed");
}

#[test]
fn attach_resumes_where_a_device_stood() {
    let (relay, owner, mut laptop, session) = session();
    let prompt = laptop.prompt(&session, "one");
    laptop.turn(&session, &prompt);
    laptop.idle(&session);
    let all = laptop.gapless(&session);
    let from = json!({"epoch": all[1]["epoch"], "offset": all[1]["offset"]});
    let mut phone = Device::connect(&relay, &owner, "phone");
    let reply = phone.ok("attach", json!({"session": session, "from": from.clone()}));
    assert!(reply["events"].as_array().is_none_or(Vec::is_empty), "with `from` the events follow: {reply}");
    phone.wait("caught_up", |message| message["type"] == "caught_up" && message["session"] == session.as_str());
    let seen = phone.gapless(&session);
    assert_eq!(seen.first(), all.get(1), "it starts with the event that was asked for");
    assert_eq!(seen.len(), all.len() - 1, "and goes on to the end");
    assert_eq!(reply["next"], from, "`next` is the first event that follows the reply");
    let next = reply["snapshot"]["next"].clone();
    let mut tablet = Device::connect(&relay, &owner, "tablet");
    tablet.ok("attach", json!({"session": session, "from": next}));
    tablet.wait("caught_up at once", |message| message["type"] == "caught_up");
    assert_eq!(tablet.events(&session), Vec::<Value>::new());
}

#[test]
fn what_cannot_be_resumed_is_refused_with_what_can() {
    let (relay, owner, mut laptop, session) = session();
    let prompt = laptop.prompt(&session, "one");
    laptop.turn(&session, &prompt);
    let epoch = laptop.events(&session)[0]["epoch"].clone();
    let mut phone = Device::connect(&relay, &owner, "phone");
    for from in [json!({"epoch": "another-life", "offset": 0}), json!({"epoch": epoch, "offset": 1_000_000})] {
        let error = phone.command("attach", json!({"session": session, "from": from})).expect_err("refused");
        assert_eq!(text(&error["code"]), "CANNOT_RESUME", "{error}");
        assert_eq!(error["details"]["epoch"], epoch, "{error}");
        assert!(error["details"]["earliest"].is_u64() || error["details"]["earliest"]["offset"].is_u64(), "{error}");
    }
    phone.attach(&session);
    phone.gapless(&session);
}

#[test]
fn a_command_sent_again_gets_its_first_answer() {
    let (relay, owner, mut laptop, session) = session();
    let say = |id: &str, text: &str| json!({"type": "prompt", "id": id, "session": session, "text": text});
    let client = "0123456789abcdef0123456789abcdef";
    let sign_in = || SignIn::new(&owner).client(client).name("phone");
    let mut phone = sign_in().connect(&relay.tcp()).expect("signed in");
    phone.send(&say("once", "hello"));
    let first = phone.answer("once").expect("accepted");
    laptop.turn(&session, text(&first["prompt"]));
    phone.vanish();
    // Another connection of the same installation sends it again.
    let mut phone = sign_in().connect(&relay.tcp()).expect("signed in");
    phone.send(&say("once", "hello"));
    let second = phone.answer("once").expect("accepted");
    assert_eq!((&first["prompt"], &first["position"]), (&second["prompt"], &second["position"]));
    phone.seen.clear();
    phone.send(&say("once", "something else"));
    let error = phone.answer("once").expect_err("other content");
    assert_eq!(text(&error["code"]), "CONFLICT", "{error}");
    // The scope of an id is the installation: another one may use it too.
    let mut tablet = Device::connect(&relay, &owner, "tablet");
    tablet.send(&say("once", "from the tablet"));
    let third = tablet.answer("once").expect("accepted");
    assert_ne!(first["prompt"], third["prompt"]);
    laptop.turn(&session, text(&third["prompt"]));
    assert_eq!(laptop.events_of(&session, "prompt").len(), 2, "each ran once");
}

#[test]
fn a_running_turn_can_be_interrupted() {
    let (_relay, _owner, mut laptop, session) = session();
    let prompt = laptop.prompt(&session, "ask before you go on");
    laptop.event(&session, "the permission request", |event| event["kind"] == "permission");
    laptop.ok("interrupt", json!({"session": session}));
    let closed = laptop.event(&session, "the request is over", |event| event["kind"] == "permission_closed");
    assert_eq!(text(&closed["how"]), "withdrawn", "{closed}");
    assert_eq!(laptop.settled(&session, &prompt), "cancelled");
    let next = laptop.prompt(&session, "go on with this");
    let turn = laptop.turn(&session, &next);
    assert_eq!(turn["ok"], true, "{turn}");
}

#[test]
fn a_stopped_session_says_so_and_leaves_no_process() {
    let (relay, _owner, mut laptop, session) = session();
    let prompt = laptop.prompt(&session, "hello");
    laptop.turn(&session, &prompt);
    let agent = support::until("there is an agent", || demo_agent(&relay));
    laptop.ok("stop", json!({"session": session}));
    laptop.event(&session, "it stopped", |event| event["kind"] == "state" && event["state"] == "stopped");
    support::until("its agent has ended", || {
        process::of(relay.scratch.root()).iter().all(|process| process.pid != agent.pid).then_some(())
    });
    let list = laptop.ok("list", json!({}));
    let summary = list["sessions"].as_array().and_then(|all| all.iter().find(|one| one["session"] == session.as_str()));
    assert_eq!(summary.map(|one| text(&one["state"])), Some("stopped"), "{list}");
}

#[test]
fn sessions_stay_in_their_folders() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let project = relay.scratch.project();
    std::fs::create_dir(project.join("inner")).expect("a folder");
    std::fs::create_dir(relay.scratch.root().join("project-two")).expect("a folder beside, with the same beginning");
    symlink("/", project.join("escape")).expect("a symbolic link");
    symlink(project.join("inner"), project.join("shortcut")).expect("a symbolic link");
    let mut create = |folder: &str| device.command("create", json!({"profile": "default", "folder": folder}));
    let root = relay.scratch.root();
    for outside in [
        "/".to_owned(),
        "/etc".to_owned(),
        root.display().to_string(),
        root.join("project-two").display().to_string(),
        project.join("../project-two").display().to_string(),
        project.join("escape").display().to_string(),
        project.join("escape/etc").display().to_string(),
    ] {
        let error = create(&outside).expect_err(&outside);
        assert_eq!(text(&error["code"]), "FORBIDDEN", "{outside}: {error}");
    }
    let error = create("inner").expect_err("a relative path");
    assert!(["BAD_REQUEST", "FORBIDDEN"].contains(&text(&error["code"])), "{error}");
    for inside in [project.clone(), project.join("inner"), project.join("shortcut")] {
        create(&inside.display().to_string()).unwrap_or_else(|error| panic!("{}: {error}", inside.display()));
    }
}

#[test]
fn what_does_not_exist_is_not_found() {
    let (_relay, _owner, mut laptop, session) = session();
    assert_eq!(laptop.refused("attach", json!({"session": "no-such-session"})), "NOT_FOUND");
    assert_eq!(laptop.refused("prompt", json!({"session": "no-such-session", "text": "hi"})), "NOT_FOUND");
    let decide = json!({"session": session, "request": "no-such-request", "decision": "allow"});
    assert_eq!(laptop.refused("decide", decide), "NOT_FOUND");
    let profile = laptop.refused("create", json!({"profile": "no-such-profile"}));
    assert!(["NOT_FOUND", "FORBIDDEN", "BAD_REQUEST"].contains(&profile.as_str()), "{profile}");
}

#[test]
fn a_detached_device_hears_nothing_more() {
    let (relay, owner, mut laptop, session) = session();
    let mut phone = Device::connect(&relay, &owner, "phone");
    phone.attach(&session);
    laptop.wait("the phone is there", |message| {
        message["type"] == "presence" && message["devices"].as_array().is_some_and(|devices| devices.len() == 2)
    });
    phone.ok("detach", json!({"session": session}));
    phone.seen.clear();
    let prompt = laptop.prompt(&session, "to those who listen");
    laptop.turn(&session, &prompt);
    laptop.idle(&session);
    phone.sync();
    assert_eq!(phone.events(&session), Vec::<Value>::new());
}

#[test]
fn a_list_that_is_followed_says_what_changes() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut phone = Device::connect(&relay, &owner, "phone");
    let list = phone.ok("list", json!({"follow": true}));
    assert_eq!(list["sessions"], json!([]), "{list}");
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let session = laptop.create();
    phone.wait("the session becomes ready", |message| {
        message["type"] == "session"
            && message["summary"]["session"] == session.as_str()
            && message["summary"]["state"] == "ready"
    });
}

#[test]
fn both_kinds_of_listener_serve_sessions() {
    let (relay, owner, mut laptop, session) = session();
    let mut local = SignIn::new(&owner).name("terminal").connect(&relay.unix()).expect("signed in");
    local.attach(&session);
    let prompt = local.prompt(&session, "over the socket");
    laptop.turn(&session, &prompt);
    local.turn(&session, &prompt);
    assert_eq!(local.recorded(&session), laptop.recorded(&session));
}
