//! Tests of what a session's messages change, and of what is told of them to a person.

use super::*;

const ANNA: &str = "SHA256:annas-own-key";
const GUEST: &str = "SHA256:guest-key-and-more";

/// What an author is in an event, each with the comment of the first one.
fn by(key: &str) -> Value {
    json!({"principal": key, "comment": "anna", "device": "phone"})
}

fn device(id: &str, key: &str) -> Value {
    json!({"device": id, "principal": key, "comment": "anna", "name": "laptop", "role": "drive"})
}

fn prompt_of(key: &str, text: &str) -> Value {
    json!({"kind": "prompt", "prompt": "p", "text": text, "by": by(key)})
}

fn prompt_is(prompt: &str, state: &str) -> Value {
    json!({"kind": "prompt_state", "prompt": prompt, "state": state})
}

fn asks_for(request: &str) -> Value {
    json!({"kind": "permission", "request": request, "tool": "Bash", "input": {"command": "ls"}})
}

/// The kind and the text of the one entry that comes of an event.
fn one(model: &mut Model, fields: Value) -> (Kind, String) {
    match event(model, fields.clone()).as_slice() {
        [Change::Add(entry)] => (entry.kind, entry.text.clone()),
        other => panic!("{fields}: {other:?}"),
    }
}

#[test]
fn ctrl_c_interrupts_what_runs_and_says_why_where_it_does_not() {
    for (role, prompt, state, why) in [
        ("drive", None, "busy", None),
        ("drive", Some("running"), "retrying", None),
        ("drive", None, "ready", Some("nothing is running")),
        ("drive", Some("queued"), "starting", Some("nothing is running; a prompt waits until the agent is ready")),
        ("drive", Some("running"), "failed", Some("the session is over")),
        ("watch", None, "busy", Some("your role does not interrupt")),
        ("watch", Some("running"), "stopped", Some("the session is over")),
    ] {
        let mut model = Model::new(Me::default(), role);
        prompt.into_iter().for_each(|state| drop(event(&mut model, prompt_is("p", state))));
        event(&mut model, json!({"kind": "state", "state": state}));
        assert_eq!(model.interrupts(), why.is_none(), "{role} {state}");
        why.into_iter().for_each(|why| assert_eq!(model.not_interrupted(), format!("{why}; Ctrl-] leaves"), "{role}"));
    }
}

#[test]
fn a_session_works_until_each_prompt_of_ours_is_settled_or_it_is_over() {
    let taken = |model: &mut Model| drop(comes(model, json!({"type": "reply", "re": "c", "prompt": "p"})));
    let turn = json!({"kind": "turn", "prompts": ["p"], "ok": true, "stop": "", "cost_usd": 0.0, "duration_ms": 1});
    for (happens, works) in [
        (prompt_is("p", "running"), true),
        (prompt_is("other", "done"), true),
        (prompt_is("p", "done"), false),
        (prompt_is("p", "failed"), false),
        (turn, false),
        (json!({"kind": "state", "state": "stopped"}), false),
    ] {
        let mut model = Model::new(Me::default(), "drive");
        taken(&mut model);
        assert!(model.is_working());
        event(&mut model, happens.clone());
        assert_eq!(model.is_working(), works, "{happens}");
    }
    let mut model = Model::new(Me::default(), "drive");
    event(&mut model, json!({"kind": "state", "state": "busy"}));
    assert!(model.is_working(), "another's turn runs");
}

#[test]
fn a_key_whose_comment_is_anothers_goes_by_its_fingerprint_whatever_told_of_the_other() {
    let is_told = "SHA256:guest-ke… (phone): hi";
    let me = || Model::new(Me { device: "d1".into(), ..Me::default() }, "drive");
    // In what came before: also where the other one is told of later.
    let mut model = me();
    let events = vec![prompt_of(GUEST, "hi"), prompt_of(ANNA, "ho")];
    assert_eq!(joins(&mut model, 0, events, json!({"permissions": []}))[1], is_told);
    // Among those that are here at the start.
    let mut model = me();
    let here = json!({"permissions": [], "devices": [device("d2", ANNA)]});
    assert_eq!(joins(&mut model, 0, vec![prompt_of(GUEST, "hi")], here)[1], is_told);
    // Among those that come.
    let mut model = me();
    comes(&mut model, json!({"type": "presence", "devices": [device("d2", ANNA)]}));
    assert_eq!(happens(&mut model, prompt_of(GUEST, "hi")), [is_told]);
    // In what happens, and in what is brought from before.
    let mut model = me();
    event(&mut model, prompt_of(ANNA, "ho"));
    assert_eq!(happens(&mut model, prompt_of(GUEST, "hi")), [is_told]);
    let mut model = me();
    assert_eq!(earlier(&mut model, 0, vec![prompt_of(GUEST, "hi"), prompt_of(ANNA, "ho")])[0], is_told);
    assert_eq!(happens(&mut model, prompt_of(GUEST, "hi")), [is_told], "it is known from then on");
}

/// What a part of the log tells that is asked for later, in a log that begins here.
fn earlier(model: &mut Model, begins: u64, events: Vec<Value>) -> Vec<String> {
    let at = |offset: u64| json!({"epoch": "e", "offset": offset});
    let placed = events.into_iter().zip(5..).map(|(mut event, offset)| {
        (event["type"], event["session"], event["epoch"], event["offset"]) =
            (json!("event"), json!("s"), json!("e"), json!(offset));
        event
    });
    let fields = json!({"type": "reply", "re": "2", "events": placed.collect::<Vec<_>>(), "earliest": at(begins)});
    let Some(Incoming::Reply(reply)) = Incoming::parse(&fields.to_string()) else { panic!("{fields}") };
    model.earlier_came(&reply).iter().filter_map(entry).collect()
}

#[test]
fn what_is_brought_from_before_is_told_and_changes_nothing_of_what_is() {
    let mut model = Model::new(Me::default(), "approve");
    let notice = json!({"kind": "notice", "level": "info", "text": "later"});
    let open = json!({"state": "busy", "permissions": [asks_for("r")]});
    joins(&mut model, 0, vec![notice], open);
    let old = vec![
        asks_for("old"),
        json!({"kind": "state", "state": "failed", "why": "then"}),
        json!({"kind": "decision", "request": "r", "decision": "allow", "how": "rule"}),
    ];
    let told = ["asks for permission: Bash(ls)", "the session has failed: then", "allowed by a rule"];
    assert_eq!(earlier(&mut model, 0, old), told);
    assert_eq!((model.state(), model.cards.len(), model.cards.open("old")), ("busy", 1, None));
    // There is more, from the first of these on.
    assert_eq!(model.earlier().map(|position| position.offset), Some(5));
    assert!(earlier(&mut model, 5, vec![prompt_is("p", "queued")]).is_empty() && model.earlier().is_none());
    // A part that holds nothing is the last one.
    let mut model = Model::new(Me::default(), "approve");
    joins(&mut model, 0, vec![], json!({"permissions": [], "next": {"epoch": "e", "offset": 20}}));
    assert!(model.earlier().is_some() && earlier(&mut model, 0, vec![]).is_empty() && model.earlier().is_none());
}

#[test]
fn a_snapshot_says_what_is() {
    let me = Me { device: "d1".into(), principal: ANNA.into(), ..Me::default() };
    let mut model = Model::new(me, "drive");
    model.reconnected("d5");
    let value = json!({
        "title": "t", "state": "retrying", "since": 77, "model": "opus", "cost_usd": "x", "permissions": [],
        "devices": [device("d5", ANNA), device("d2", GUEST)],
        "queue": [{"prompt": "p", "state": "running"}, {"prompt": "q", "state": "queued"}],
        "turn": {"blocks": [{"message": "m", "block": 0, "kind": "thinking", "text": "hm"}]},
    });
    let snapshot = Snapshot::read(&value).expect("a snapshot");
    let page = Page { lost: 1, unreadable: vec!["earliest".into()], ..Page::default() };
    let changes = model.attached(Attachment { snapshot, page, ..Attachment::default() });
    let cannot = |what: &str| {
        format!("part of the relay's answer cannot be read (`{what}`) and is not shown: is the relay another version?")
    };
    let said: Vec<String> = changes.iter().filter_map(entry).collect();
    let lost = "1 event of the relay cannot be read and is not shown";
    let also = "also here: SHA256:guest-ke… (laptop)";
    assert_eq!(said, ["t \u{b7} opus", &cannot("cost_usd"), &cannot("earliest"), lost, also]);
    let streamed =
        |change: &Change| matches!(change, Change::Stream { kind: Kind::Thinking, piece, .. } if piece == "hm");
    assert_eq!(changes.iter().filter(|change| streamed(change)).count(), 1);
    assert_eq!((model.since(), model.devices(), model.prompts(), model.interrupts()), (77, 2, (1, 1), true));
    // What the head has said is not said again.
    assert!(event(&mut model, json!({"kind": "settings", "model": "opus", "mode": "default"})).is_empty());
    assert_eq!(
        happens(&mut model, json!({"kind": "settings", "title": "u", "mode": "plan"})),
        ["title: u \u{b7} mode: plan"]
    );
    assert_eq!(model.title(), "u");
}

#[test]
fn the_end_of_a_session_is_told_once_where_it_is_joined() {
    let end = json!({"kind": "state", "state": "failed", "why": "it is gone"});
    for events in [vec![], vec![end]] {
        let mut model = Model::new(Me::default(), "drive");
        let is = json!({"state": "failed", "why": "it is gone", "permissions": []});
        assert_eq!(joins(&mut model, 0, events, is)[1..], ["the session has failed: it is gone"]);
    }
}

#[test]
fn those_that_come_and_go_are_told_once_and_this_device_never() {
    let mut model = Model::new(Me { device: "d1".into(), principal: "SHA256:own".into(), ..Me::default() }, "drive");
    model.reconnected("d9");
    let mut is_now = |devices: &[(&str, &str)]| {
        let devices: Vec<Value> = devices.iter().map(|(id, key)| device(id, key)).collect();
        let changes = comes(&mut model, json!({"type": "presence", "devices": devices}));
        let comings = changes.into_iter().find_map(|change| match change {
            Change::Comings(comings) => Some(comings),
            _ => None,
        });
        let comings = comings.unwrap_or_default().into_iter().map(|coming| (coming.who, coming.joined));
        comings.collect::<Vec<_>>()
    };
    let [own, anna, other] = [("d9", "SHA256:own"), ("d2", ANNA), ("d1", "SHA256:own")];
    assert_eq!(is_now(&[own]), []);
    assert_eq!(is_now(&[own, other]), [("you (laptop)".into(), true)], "the id of the last connection is another's");
    assert_eq!(is_now(&[own, other]), []);
    assert_eq!(is_now(&[own, anna]), [("SHA256:annas-ow… (laptop)".into(), true), ("you (laptop)".into(), false)]);
    assert_eq!(is_now(&[own]), [("SHA256:annas-ow… (laptop)".into(), false)]);
    let role = |model: &mut Model, role: &str| {
        comes(model, json!({"type": "presence", "devices": [{"device": "d9", "role": role}]})).len()
    };
    assert_eq!(role(&mut model, ""), 0, "it is not said");
    assert_eq!(model.role(), "drive");
    assert_eq!((role(&mut model, "watch"), model.role()), (1, "watch"));
}

#[test]
fn a_block_is_streamed_as_what_it_is_and_ends_with_its_turn() {
    let mut model = Model::new(Me::default(), "drive");
    let delta = |block: usize, at: usize, text: &str, kind: &str| json!({"type": "delta", "kind": kind, "message": "m", "block": block, "at": at, "text": text});
    let kind = |changes: &[Change]| match changes {
        [Change::Stream { kind, .. }] => Some(*kind),
        _ => None,
    };
    for (block, name, is) in [(0, "thinking", Kind::Thinking), (1, "text", Kind::Answer)] {
        assert_eq!(kind(&comes(&mut model, delta(block, 0, "ab", name))), Some(is));
    }
    // Those that were begun go on where there is room for no other one.
    (2..STREAMS_MAX).for_each(|block| drop(comes(&mut model, delta(block, 0, "a", "text"))));
    assert_eq!(kind(&comes(&mut model, delta(STREAMS_MAX, 0, "a", "text"))), None);
    assert_eq!(kind(&comes(&mut model, delta(1, 2, "c", "text"))), Some(Kind::Answer));
    // A block that was streamed to its end is whole all the same; one without text is nothing to show.
    let whole = |block: usize, text: &str| json!({"kind": "text", "message": "m", "block": block, "text": text});
    assert!(matches!(event(&mut model, whole(1, "abc")).as_slice(), [Change::Whole { rest, .. }] if rest.is_empty()));
    assert_eq!(event(&mut model, whole(1, "\n")), []);
    // What a sub-agent says is shown only where it was streamed.
    let of_sub = |block: usize, text: &str| {
        let mut whole = whole(block, text);
        whole["parent"] = json!("call");
        whole
    };
    assert_eq!(event(&mut model, of_sub(1, "abc")), []);
    assert!(matches!(event(&mut model, of_sub(2, "ab")).as_slice(), [Change::Whole { rest, .. }] if rest == "b"));
    let turn = json!({"kind": "turn", "prompts": [], "ok": true, "stop": "", "cost_usd": 0.0, "duration_ms": 1});
    assert!(event(&mut model, turn).contains(&Change::Abandon));
    assert_eq!(kind(&comes(&mut model, delta(3, 0, "a", "text"))), Some(Kind::Answer), "it begins anew");
}

#[test]
fn each_fact_stands_behind_its_own_mark() {
    let call =
        |parent: Option<&str>| json!({"kind": "tool_call", "call": "c", "tool": "Read", "input": {}, "parent": parent});
    let notice = |level: &str| json!({"kind": "notice", "level": level, "text": "x"});
    let decision = |decision: &str| json!({"kind": "decision", "request": "r", "decision": decision, "how": "rule"});
    let turn = |stop: &str| json!({"kind": "turn", "prompts": [], "ok": false, "stop": stop, "cost_usd": 0.0, "duration_ms": 1500, "by": by(GUEST)});
    for (fields, kind, text) in [
        (call(None), Kind::Tool, "Read()"),
        (call(Some("c0")), Kind::SubTool, "Read()"),
        (notice("info"), Kind::Note, "x"),
        (notice("warning"), Kind::Warning, "x"),
        (decision("allow"), Kind::Allowed, "allowed by a rule"),
        (decision("deny"), Kind::Denied, "denied by a rule"),
        (decision("other"), Kind::Denied, "closed by a rule"),
        (turn("aborted_tools"), Kind::Warning, "interrupted by anna (phone) after 1.5 s"),
        (turn("max turns"), Kind::Warning, "ended after 1.5 s: max turns"),
        (json!({"kind": "tool_result", "call": "c", "outcome": "ok", "preview": "\n"}), Kind::Output, "(no output)"),
        (json!({"kind": "tool_result", "call": "c", "outcome": "ok", "preview": "1\n\n2\n3"}), Kind::Output, "1\n2\n3"),
        (
            json!({"kind": "tool_result", "call": "c", "outcome": "error", "preview": "1"}),
            Kind::FailedOutput,
            "error: 1",
        ),
    ] {
        assert_eq!(one(&mut Model::new(Me::default(), "drive"), fields), (kind, text.into()));
    }
}

#[test]
fn a_decision_ends_its_request_and_tells_what_ran() {
    let mut model = Model::new(Me::default(), "approve");
    for request in ["r", "s", "t"] {
        event(&mut model, asks_for(request));
    }
    let ran = json!({
        "kind": "decision", "request": "s", "decision": "deny", "how": "device", "by": by(GUEST), "message": "use\nrg",
        "input": {"command": "pwd"}, "answers": {"A\nB?": "Blue", "C?": 1},
    });
    let told = "denied by anna (phone): Bash(ls)\nbecause: use\n| rg\nthis runs instead:\n  pwd";
    let (kind, text) = one(&mut model, ran);
    assert_eq!((kind, model.cards.open("s"), model.cards.len()), (Kind::Denied, None, 2));
    let squeezed =
        |text: &str| text.lines().map(|line| line.trim_matches([' ', '|', '│'])).collect::<Vec<_>>().join("\n");
    let answers = "A\nB?\nanswer: Blue\nC?\nanswer: 1";
    assert_eq!(squeezed(&text), squeezed(&format!("{told}\n{answers}")), "{text}");
    let closed = |request: &str, how: &str| json!({"kind": "permission_closed", "request": request, "how": how});
    assert_eq!(happens(&mut model, closed("r", "withdrawn")), ["withdrawn: Bash(ls)"]);
    assert_eq!(happens(&mut model, closed("t", "void")), ["the process that asked is gone: Bash(ls)"]);
    assert_eq!((model.cards.len(), happens(&mut model, closed("t", "void"))), (0, vec![]));
}

#[test]
fn a_prompt_that_its_turn_has_ended_is_not_called_cancelled_too() {
    let mut model = Model::new(Me::default(), "drive");
    let turn =
        json!({"kind": "turn", "prompts": ["p"], "ok": false, "stop": "aborted", "cost_usd": 0.0, "duration_ms": 1});
    event(&mut model, turn);
    assert_eq!(happens(&mut model, prompt_is("p", "cancelled")), [""; 0]);
    assert_eq!(happens(&mut model, prompt_is("p", "failed")), ["prompt failed"]);
    let mut other = prompt_is("q", "cancelled");
    (other["why"], other["by"]) = (json!("not now"), by(GUEST));
    assert_eq!(happens(&mut model, other), ["prompt cancelled by anna (phone): not now"]);
    assert_eq!(happens(&mut model, prompt_is("q", "done")), [""; 0]);
}

#[test]
fn a_state_is_had_since_it_began_and_told_where_it_is_to_be_heeded() {
    for (state, tells) in [("busy", false), ("ready", false), ("retrying", true), ("stuck", true), ("stopped", true)] {
        let mut model = Model::new(Me::default(), "drive");
        let said = happens(&mut model, json!({"kind": "state", "state": state, "at": 7}));
        assert_eq!((said.len() == 1, model.state(), model.since()), (tells, state, 7), "{said:?}");
    }
}

#[test]
fn a_refusal_is_told_in_words_and_names_the_decision_that_came_first() {
    let model = Model::new(Me { principal: ANNA.into(), name: "phone".into(), ..Me::default() }, "approve");
    let said = |code: &str, details: Value| {
        let error = ErrorMessage {
            code: code.into(),
            message: "it is\nso".into(),
            details: Some(details),
            ..ErrorMessage::default()
        };
        let entry = model.error(&error);
        (entry.kind, entry.text)
    };
    let first = |key: &str| json!({"decision": "deny", "by": by(key)});
    assert_eq!(said("ALREADY_DECIDED", first(GUEST)), (Kind::Warning, "already denied by anna (phone)".into()));
    assert_eq!(said("ALREADY_DECIDED", first(ANNA)), (Kind::Warning, "already denied".into()), "it was this device");
    assert_eq!(said("NOT_FOUND", first(GUEST)), (Kind::Error, "it is so".into()));
}
