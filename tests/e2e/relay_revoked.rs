//! Goal: what a key has waiting ends with the key. Method: the demo agent asks, prompts of a guest wait behind that, and
//! the guest's line is removed from the keys file.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Agent, AgentKey, Device, Key, Relay, amp::typ, device::text};

/// All that the demo agent has taken down of its conversations.
fn transcripts(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.push_str(&transcripts(&path));
        } else if path.extension().is_some_and(|extension| extension == "jsonl") {
            all.push_str(&fs::read_to_string(&path).expect("a transcript"));
        }
    }
    all
}

#[test]
fn d1_prompts_that_wait_end_with_their_key_and_never_reach_the_agent() {
    let (owner, guest, viewer) = (Key::new("owner"), Key::new("guest"), Key::new("viewer"));
    let others = [guest.line("amp-role=\"drive\""), viewer.line("amp-role=\"watch\"")].concat();
    let relay = Relay::options(&[&owner]).keys(&others).start();
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let mut phone = Device::connect(&relay, &guest, "phone");
    let mut tablet = Device::connect(&relay, &viewer, "tablet");
    let session = laptop.create();
    for device in [&mut laptop, &mut phone, &mut tablet] {
        device.attach(&session);
    }
    let running = laptop.prompt(&session, "please ask first");
    let open = laptop.event(&session, "the permission request", |event| event["kind"] == "permission");
    let waiting = ["walrus", "penguin"].map(|word| phone.prompt(&session, word));

    let left = [owner.line("amp-role=\"admin\""), viewer.line("amp-role=\"watch\"")].concat();
    fs::write(relay.keys(), left).expect("the keys file");
    laptop.ok("keys", json!({"op": "reload"}));
    assert_eq!(phone.wait_closed().0, 4401);
    for device in [&mut laptop, &mut tablet] {
        for prompt in &waiting {
            let ended = device.event(&session, "the prompt's end", |event| {
                event["prompt"] == **prompt && event["state"] != "queued" && event["kind"] == "prompt_state"
            });
            assert_eq!((text(&ended["state"]), text(&ended["why"])), ("cancelled", "the key was revoked"), "{ended}");
            assert_eq!(ended["by"], Value::Null, "{ended}");
        }
    }
    // What runs was permitted when it began, and is asked about on.
    laptop.ok("decide", json!({"session": session, "request": open["request"], "decision": "deny"}));
    laptop.turn(&session, &running);
    let last = laptop.prompt(&session, "hello");
    assert_eq!(laptop.settled(&session, &last), "done");
    for prompt in &waiting {
        assert_eq!(laptop.settled(&session, prompt), "cancelled");
    }
    let told = transcripts(relay.scratch.root());
    assert!(told.contains("please ask first") && told.contains("hello"), "{told}");
    assert!(!told.contains("walrus") && !told.contains("penguin"), "{told}");
}

#[test]
fn what_an_agent_has_asked_a_session_ends_with_its_right_to_ask() {
    ["watch", "agent"].into_iter().for_each(ends_with);
}

fn ends_with(left: &str) {
    let (owner, key) = (Key::new("owner"), AgentKey::new());
    let relay = Relay::options(&[&owner]).keys(&key.line("drive")).start();
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let session = laptop.create();
    laptop.attach(&session);
    let did = text(&laptop.ok("list", json!({}))["sessions"][0]["did"]).to_owned();
    let mut agent = Agent::connect(&relay.tcp(), &key);
    let id = agent.say(typ::REQUEST, did.as_str(), &json!({"prompt": "please ask first"}));
    agent.wait("INPUT_REQUIRED", |message| message.typ == typ::INPUT_REQUIRED && message.answers(&id));
    let prompt = laptop.event(&session, "the prompt", |event| event["kind"] == "prompt");
    let open = laptop.event(&session, "the permission request", |event| event["kind"] == "permission");

    let keys = fs::read_to_string(relay.keys()).expect("the keys file");
    fs::write(relay.keys(), keys.replace(&key.line("drive"), &key.line(left))).expect("the keys file");
    laptop.ok("keys", json!({"op": "reload"}));
    assert_eq!(agent.wait_closed(), 1008);
    // It may still be here, and asks no sessions: it hears nothing of what its prompt still does.
    let mut again = Agent::connect(&relay.tcp(), &key);
    laptop.ok("decide", json!({"session": session, "request": open["request"], "decision": "deny"}));
    laptop.turn(&session, text(&prompt["prompt"]));
    again.ping();
    assert!(!again.seen.iter().any(|message| message.from == did), "{:?}", again.seen);
}
