//! Tests of what a session's messages come to.

use serde_json::json;

use super::{
    super::{plain::Printer, theme::Theme, transcript::Transcript},
    *,
};

/// What a model of this relay shows first of a session.
fn shown(model: &mut Model, snapshot: Value) -> Vec<String> {
    let snapshot = Snapshot::read(&snapshot).expect("a snapshot");
    let changes = model.attached(Attachment { snapshot, ..Attachment::default() });
    changes.iter().filter_map(entry).collect()
}

fn entry(change: &Change) -> Option<String> {
    match change {
        Change::Add(entry) => Some(entry.text.clone()),
        _ => None,
    }
}

fn comes(model: &mut Model, fields: Value) -> Vec<Change> {
    comes_at(model, fields, 0)
}

fn comes_at(model: &mut Model, mut fields: Value, now_ms: u64) -> Vec<Change> {
    fields["session"] = json!("s");
    fields["epoch"] = json!("e");
    fields["offset"] = json!(0);
    model.incoming(&Incoming::parse(&fields.to_string()).expect("a message"), now_ms)
}

fn event(model: &mut Model, mut fields: Value) -> Vec<Change> {
    fields["type"] = json!("event");
    comes(model, fields)
}

fn happens(model: &mut Model, fields: Value) -> Vec<String> {
    event(model, fields).iter().filter_map(entry).collect()
}

#[path = "model_told_tests.rs"]
mod told;

#[test]
fn a_title_and_a_folder_draw_no_field_of_ours() {
    let mut model = Model::new(Me::default(), "admin");
    let snapshot = json!({
        "title": "site \u{b7} /home \u{b7} opus \u{b7} mode: plan", "folder": "/srv/x \u{b7} 9 devices",
        "model": "haiku", "mode": "acceptEdits", "permissions": [],
    });
    let title = "site <U+00B7> /home <U+00B7> opus <U+00B7> mode: plan";
    let head = format!("{title} \u{b7} /srv/x <U+00B7> 9 devices \u{b7} haiku \u{b7} mode: acceptEdits");
    assert_eq!(shown(&mut model, snapshot), [head]);
    assert_eq!((model.title(), model.unusual_mode().as_deref()), (title, Some("mode: acceptEdits")));
    let said = happens(&mut model, json!({"kind": "settings", "title": "a \u{2022} mode: plan", "model": "b"}));
    assert_eq!(said, ["title: a <U+2022> mode: plan \u{b7} model: b"]);
}

#[test]
fn the_demo_agent_is_named_and_no_model() {
    let snapshot = json!({"title": "t", "folder": "/f", "profile": "default", "model": "opus", "permissions": []});
    let mut model = Model::new(Me::default(), "admin").with_demo(vec!["default".into()]);
    assert_eq!(shown(&mut model, snapshot.clone()), ["t \u{b7} /f \u{b7} demo agent"]);
    assert!(model.is_demo() && happens(&mut model, json!({"kind": "settings", "model": "demo-model"})).is_empty());
    let mut other = Model::new(Me::default(), "admin").with_demo(vec!["else".into()]);
    assert_eq!(shown(&mut other, snapshot), ["t \u{b7} /f \u{b7} opus"]);
    assert!(!other.is_demo());
}

#[test]
fn an_input_that_no_event_holds_is_told_by_its_length() {
    let mut model = Model::new(Me::default(), "admin");
    let cut = json!({"truncated": true, "bytes": 4_400_237, "head": "{\"file_path\":\"x"});
    let call = |input: &Value| json!({"kind": "tool_call", "call": "c", "tool": "Write", "input": input});
    assert_eq!(happens(&mut model, call(&cut)), ["Write(4400237 bytes)"]);
    let blob = json!({"bytes": 4_400_237, "blob": "b"});
    let asks = json!({"kind": "permission", "request": "r", "tool": "Write", "input_blob": blob});
    assert_eq!(happens(&mut model, asks), ["asks for permission: Write(4400237 bytes)"]);
    // What a tool is really called with is told as it is.
    let own = json!({"truncated": true, "bytes": 3, "head": "12345"});
    assert!(happens(&mut model, call(&own))[0].contains("truncated"));
}

#[test]
fn what_was_decided_while_the_relay_was_away_is_named() {
    let mut model = Model::new(Me::default(), "approve");
    for (request, command) in [("r1", "ls"), ("r2", "date"), ("r3", "pwd")] {
        let fields = json!({"kind": "permission", "request": request, "tool": "Bash", "input": {"command": command}});
        happens(&mut model, fields);
    }
    let open = json!([{"request": "r3", "tool": "Bash", "input": {"command": "pwd"}}]);
    shown(&mut model, json!({"title": "t", "folder": "/f", "permissions": open}));
    assert_eq!(model.ended.len(), 2);
    let decided = |request: &str| json!({"kind": "decision", "request": request, "decision": "allow", "how": "device"});
    assert_eq!(happens(&mut model, decided("r2")), ["allowed: Bash(date)"]);
    let withdrawn = json!({"kind": "permission_closed", "request": "r1", "how": "withdrawn"});
    assert_eq!(happens(&mut model, withdrawn), ["withdrawn: Bash(ls)"]);
    assert_eq!(happens(&mut model, decided("r3")), ["allowed: Bash(pwd)"]);
    assert!(model.ended.is_empty());
}

/// What a model shows when it joins: of these events, in a log that begins here, and of what is.
fn joins(model: &mut Model, earliest: u64, events: Vec<Value>, mut snapshot: Value) -> Vec<String> {
    let at = |offset: u64| json!({"epoch": "e", "offset": offset});
    let placed = events.into_iter().zip(10..).map(|(mut event, offset)| {
        (event["type"], event["session"]) = (json!("event"), json!("s"));
        (event["epoch"], event["offset"]) = (json!("e"), json!(offset));
        event
    });
    (snapshot["title"], snapshot["folder"]) = (json!("t"), json!("/f"));
    let fields = json!({
        "type": "reply", "re": "1", "snapshot": snapshot, "events": placed.collect::<Vec<_>>(), "earliest": at(earliest),
        "next": at(20),
    });
    let Some(Incoming::Reply(reply)) = Incoming::parse(&fields.to_string()) else { panic!("{fields}") };
    model.attached(reply.attachment().expect("an attachment")).iter().filter_map(entry).collect()
}

#[test]
fn what_the_events_and_what_is_both_tell_is_shown_once() {
    let ask = json!({"kind": "permission", "request": "r", "tool": "Bash", "input": {"command": "ls"}});
    let notice = json!({"kind": "notice", "level": "warning", "text": "log in"});
    let is = json!({"permissions": [ask.clone()], "notice": "log in"});
    let asks = "asks for permission: Bash(ls)";
    for (events, shows) in [(vec![], ["log in", asks]), (vec![ask, notice], [asks, "log in"])] {
        let mut model = Model::new(Me::default(), "approve");
        assert_eq!(joins(&mut model, 0, events, is.clone())[1..], shows);
    }
}

#[test]
fn there_is_an_earlier_part_where_the_log_begins_before_what_is_shown() {
    for (earliest, is_there) in [(10, false), (9, true)] {
        let mut model = Model::new(Me::default(), "approve");
        joins(
            &mut model,
            earliest,
            vec![json!({"kind": "notice", "level": "info", "text": "x"})],
            json!({"permissions": []}),
        );
        assert_eq!(model.earlier().is_some(), is_there, "{earliest}");
    }
}

#[test]
fn a_block_that_was_streamed_before_a_break_is_streamed_anew_after_it() {
    let mut model = Model::new(Me::default(), "approve");
    let delta = json!({"type": "delta", "kind": "text", "message": "m", "block": 0, "at": 0, "text": "ab"});
    assert!(!comes(&mut model, delta.clone()).is_empty() && comes(&mut model, delta.clone()).is_empty());
    joins(&mut model, 0, vec![], json!({"permissions": []}));
    assert!(!comes(&mut model, delta).is_empty());
}

#[test]
fn a_session_that_is_over_asks_nothing() {
    for (state, asks) in [("busy", true), ("stuck", true), ("stopped", false), ("failed", false)] {
        let mut model = Model::new(Me::default(), "approve");
        happens(&mut model, json!({"kind": "permission", "request": "r", "tool": "Bash", "input": {"command": "ls"}}));
        happens(&mut model, json!({"kind": "state", "state": state}));
        assert_eq!(model.cards.len() == 1, asks, "{state}");
    }
}

#[test]
fn of_more_blocks_than_can_be_streamed_each_is_shown_when_it_is_whole() {
    let mut model = Model::new(Me::default(), "approve");
    let block = |at: usize, kind: &str| json!({"type": kind, "kind": "text", "message": "m", "block": at, "at": 0});
    let mut piece = |at: usize| {
        let mut delta = block(at, "delta");
        delta["text"] = json!("a");
        !comes(&mut model, delta).is_empty()
    };
    let shown = (0..STREAMS_MAX + 2).filter(|at| piece(*at)).count();
    assert_eq!(shown, STREAMS_MAX);
    let mut whole = |at: usize| {
        let mut event = block(at, "event");
        event["text"] = json!("abc");
        match self::event(&mut model, event).as_slice() {
            [Change::Whole { rest, .. }] => rest.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([whole(STREAMS_MAX), whole(0)], ["abc", "bc"], "nothing of it is lost, and nothing said twice");
    let mut delta = block(STREAMS_MAX + 1, "delta");
    delta["text"] = json!("a");
    assert!(!comes(&mut model, delta).is_empty(), "there is room again");
}

#[test]
fn a_role_that_changes_is_said_and_had() {
    let me = Me { device: "d1".into(), ..Me::default() };
    let mut model = Model::new(me, "approve");
    event(&mut model, json!({"kind": "state", "state": "busy"}));
    let mut is_now = |role: &str| {
        let devices = json!([{"device": "d0", "role": "admin"}, {"device": "d1", "role": role}]);
        let said = comes(&mut model, json!({"type": "presence", "devices": devices}));
        let said: Vec<String> = said.iter().filter_map(entry).filter(|said| said.contains("role")).collect();
        (said, model.cards.decides(), model.drives)
    };
    assert_eq!(is_now("approve"), (vec![], true, true));
    let (said, decides, drives) = is_now("watch");
    assert!(said[0].contains("this key's role is `watch` now") && !decides && !drives, "{said:?}");
    assert_eq!(is_now("watch"), (vec![], false, false), "once");
    assert!(!is_now("drive").1);
    let (said, decides, drives) = is_now("approve");
    assert!(said.len() == 1 && decides && drives, "it is had again");
}

#[test]
fn of_a_key_that_comes_and_goes_without_end_few_rows_are_made() {
    let mut model = Model::new(Me { device: "d1".into(), ..Me::default() }, "approve");
    let mut transcript = Transcript::new(Theme { color: false });
    let mut printed = Printer::new(false);
    let mut lines = 0;
    // Every half a second for ten minutes, each time as another device, and the agent says something in between.
    for at in 0..1_200_u64 {
        let device = json!({"device": format!("g{at}"), "principal": "SHA256:g", "comment": "guest", "role": "watch"});
        let own = json!({"device": "d1", "role": "approve"});
        let devices = if at % 2 == 0 { json!([own, device]) } else { json!([own]) };
        let mut changes = comes_at(&mut model, json!({"type": "presence", "devices": devices}), at * 500);
        lines += changes.iter().map(|change| printed.print(change).len()).sum::<usize>();
        changes
            .extend(event(&mut model, json!({"kind": "notice", "level": "info", "text": format!("the agent's {at}")})));
        changes.into_iter().for_each(|change| transcript.apply(change));
    }
    let rows = transcript.last_lines(100, 10_000);
    let told = rows.lines().filter(|row| row.contains("guest")).count();
    assert!((20..=30).contains(&told) && told == lines, "{told} rows and {lines} lines");
    assert_eq!(rows.matches("the agent's").count(), 1_200);
    assert_eq!(model.devices(), 1, "the status counts them all the same");
}

#[test]
fn the_list_of_prompts_follows_the_events() {
    let mut model = Model::new(Me::default(), "drive");
    let mut interrupts = |prompt: &str, state: &str| {
        event(&mut model, json!({"kind": "prompt_state", "prompt": prompt, "state": state}));
        event(&mut model, json!({"kind": "state", "state": "retrying"}));
        (model.interrupts(), model.prompts.len())
    };
    assert_eq!(interrupts("one", "queued"), (false, 1));
    assert_eq!(interrupts("one", "running"), (true, 1), "a turn is run again when its process is back");
    assert_eq!(interrupts("two", "queued"), (true, 2));
    assert_eq!(interrupts("one", "done"), (false, 1));
    assert_eq!(interrupts("two", "cancelled"), (false, 0));
}

#[test]
fn prompts_that_are_settled_are_remembered_up_to_a_bound() {
    let mut model = Model::new(Me::default(), "drive");
    let of = |at: usize| format!("p{at}");
    for at in 0..SETTLED_MAX + 5 {
        event(&mut model, json!({"kind": "prompt_state", "prompt": of(at), "state": "done"}));
    }
    assert_eq!(model.settled.len(), SETTLED_MAX);
    // An answer that comes after the end of its prompt leaves nothing to wait for.
    let mut waits = |at: usize| {
        comes(&mut model, json!({"type": "reply", "re": "c", "prompt": of(at)}));
        model.is_working()
    };
    assert!(!waits(SETTLED_MAX + 4) && !waits(5), "the newest are known");
    assert!(waits(4), "the oldest are not");
}

#[test]
fn a_state_is_told_in_a_sentence() {
    let mut model = Model::new(Me::default(), "drive");
    let said = happens(&mut model, json!({"kind": "state", "state": "failed", "why": "the CLI is gone"}));
    assert_eq!(said, ["the session has failed: the CLI is gone"]);
    assert_eq!(model.refusal().as_deref(), Some("the session has failed; `amp-relay new` starts another"));
    assert_eq!(happens(&mut model, json!({"kind": "state", "state": "stuck"})), ["the session is stuck"]);
    let mut joined = Model::new(Me::default(), "drive");
    let said = shown(&mut joined, json!({"state": "failed", "why": "it is gone", "permissions": []}));
    assert_eq!(said.last().map(String::as_str), Some("the session has failed: it is gone"));
}

#[test]
fn one_line_more_is_one_line() {
    let output = |lines: usize| {
        let preview = vec!["x"; lines].join("\n");
        happens(
            &mut Model::new(Me::default(), "drive"),
            json!({"kind": "tool_result", "call": "c", "outcome": "ok", "preview": preview}),
        )
        .concat()
    };
    assert!(output(4).ends_with("… 1 more line") && output(5).ends_with("… 2 more lines"), "{}", output(4));
}
