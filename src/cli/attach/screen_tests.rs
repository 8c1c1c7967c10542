//! Tests of what is shown.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn screen() -> Screen {
    Screen::new(Style { color: false }, "laptop", "approve")
}

fn event(mut fields: Value) -> Incoming {
    for (name, value) in
        [("type", json!("event")), ("session", json!("s")), ("epoch", json!("e")), ("offset", json!(0))]
    {
        fields[name] = value;
    }
    Incoming::parse(&fields.to_string()).unwrap()
}

fn delta(block: u32, at: u64, text: &str) -> Incoming {
    let fields = json!({"type": "delta", "session": "s", "message": "m", "block": block, "at": at, "text": text});
    Incoming::parse(&fields.to_string()).unwrap()
}

fn text(block: u32, text: &str) -> Incoming {
    event(json!({"kind": "text", "message": "m", "block": block, "text": text}))
}

fn show(screen: &mut Screen, messages: &[Incoming]) -> String {
    messages.iter().map(|message| screen.incoming(message)).collect()
}

#[test]
fn a_turn_reads_well() {
    let shown = show(
        &mut screen(),
        &[
            event(
                json!({"kind": "prompt", "prompt": "p", "text": "hi\x1b[2J", "by": {"device": "phone", "principal": "k"}}),
            ),
            event(json!({"kind": "state", "state": "busy"})),
            delta(0, 0, "Hello, "),
            delta(0, 7, "wörld"),
            text(0, "Hello, wörld"),
            event(json!({"kind": "tool_call", "call": "c", "tool": "Bash", "input": {"command": "echo hi"}})),
            event(json!({"kind": "tool_result", "call": "c", "outcome": "ok", "preview": "1\n2\n3\n4\n5", "bytes": 9})),
            event(json!({"kind": "tool_result", "call": "d", "outcome": "error", "preview": "no", "bytes": 2})),
            text(1, "All done."),
            event(
                json!({"kind": "turn", "prompts": ["p"], "ok": true, "stop": "completed", "cost_usd": 0.01234, "duration_ms": 2100}),
            ),
        ],
    );
    assert_eq!(
        shown,
        "phone > hi[2J\nHello, wörld\n● Bash(echo hi)\n  ⎿ 1\n    2\n    3\n    … 2 more lines\n  ⎿ error: no\nAll done.\n\
         ── done in 2.1 s · $0.0123\n"
    );
}

#[test]
fn a_skipped_piece_is_made_up_for() {
    let mut screen = screen();
    assert_eq!(show(&mut screen, &[delta(0, 0, "ab"), delta(0, 4, "ef"), delta(0, 1, "bc")]), "abc");
    assert_eq!(show(&mut screen, &[text(0, "abcdef")]), "def\n");
    // Not streamed at all.
    assert_eq!(show(&mut screen, &[text(1, "x")]), "x\n");
}

#[test]
fn a_late_device_goes_on_in_the_middle_of_a_block() {
    let mut screen = screen();
    let fields = json!({
        "snapshot": {"title": "work", "folder": "/srv", "state": "waiting", "notice": "demo",
            "turn": {"prompts": ["p"], "since": 1, "blocks": [{"message": "m", "block": 0, "kind": "text", "text": "Hel"}]},
            "permissions": [{"request": "r", "tool": "Bash", "input": {"command": "ls"}, "about": "List files"}],
            "devices": [{"device": "1", "name": "laptop"}, {"device": "2", "name": "phone"}]},
        "events": [{"session": "s", "epoch": "e", "offset": 0, "kind": "prompt", "prompt": "p", "text": "hi"}],
    });
    assert_eq!(
        screen.attached(&fields),
        "work · /srv\ndemo\n> hi\nHel\n? Bash wants to run: ls\n  List files\n  allow? [y/n]\nalso here: phone\n"
    );
    assert!(screen.is_busy() && screen.asks().is_some());
    assert_eq!(show(&mut screen, &[delta(0, 3, "lo"), text(0, "Hello")]), "lo\n");
}

#[test]
fn what_was_streamed_while_away_is_shown_once() {
    let mut screen = screen();
    assert_eq!(show(&mut screen, &[delta(0, 0, "Hel")]), "Hel");
    assert_eq!(screen.line("the connection is lost"), "\nthe connection is lost\n");
    let block = |text: &str| Block { message: "m".into(), block: 0, text: text.into(), ..Block::default() };
    assert_eq!(screen.streamed(&[block("Hello, w")]), "lo, w");
    assert_eq!(show(&mut screen, &[delta(0, 8, "ö"), text(0, "Hello, wör")]), "ör\n");
}

#[test]
fn thinking_is_told_apart() {
    let thinking = |at: u64, text: &str| {
        let fields = json!({"type": "delta", "session": "s", "message": "m", "block": 0, "kind": "thinking", "at": at,
            "text": text});
        Incoming::parse(&fields.to_string()).unwrap()
    };
    let whole = || event(json!({"kind": "thinking", "message": "m", "block": 0, "text": "Hm, so."}));
    let streamed = [thinking(0, "Hm, "), thinking(4, "so."), whole(), text(1, "Yes.")];
    assert_eq!(show(&mut screen(), &streamed), "✻ Hm, so.\nYes.\n");
    assert_eq!(show(&mut screen(), &[whole(), text(1, "Yes.")]), "✻ Hm, so.\nYes.\n");
    let mut coloured = Screen::new(Style { color: true }, "laptop", "approve");
    assert_eq!(show(&mut coloured, &[thinking(0, "Hm")]), "\x1b[2m✻ \x1b[0m\x1b[2mHm\x1b[0m");
}

#[test]
fn nothing_is_said_twice() {
    let mut screen = screen();
    let notice = |text: &str| json!({"session": "s", "epoch": "e", "offset": 0, "kind": "notice", "level": "warning", "text": text});
    let settings =
        json!({"session": "s", "epoch": "e", "offset": 1, "kind": "settings", "mode": "default", "model": "m1"});
    let fields = json!({"snapshot": {"title": "work", "folder": "/srv", "model": "m1", "state": "ready", "notice": "log in"},
        "events": [notice("log in"), settings]});
    assert_eq!(screen.attached(&fields), "work · /srv · m1\n! log in\n");
    let set = |fields: Value| {
        event(
            json!({"kind": "settings"})
                .as_object()
                .cloned()
                .map(|mut all| {
                    all.extend(fields.as_object().cloned().unwrap_or_default());
                    Value::Object(all)
                })
                .unwrap(),
        )
    };
    assert_eq!(
        show(&mut screen, &[set(json!({"mode": "plan"})), set(json!({"mode": "default"}))]),
        "mode: plan\nmode: default\n"
    );
    // An interrupted turn says so for its prompts.
    let interrupted = [
        event(json!({"kind": "turn", "prompts": ["p"], "ok": false, "stop": "aborted_streaming", "duration_ms": 500})),
        event(json!({"kind": "prompt_state", "prompt": "p", "state": "cancelled", "why": "interrupted"})),
        event(json!({"kind": "prompt_state", "prompt": "q", "state": "cancelled", "why": "interrupted"})),
    ];
    assert_eq!(show(&mut screen, &interrupted), "── interrupted after 0.5 s\nprompt cancelled: interrupted\n");
    // Where a row below asks, the text does not.
    screen.has_row();
    let ask =
        event(json!({"kind": "permission", "request": "r", "tool": "Bash", "input": {"command": "ls"}, "about": ""}));
    assert_eq!(show(&mut screen, &[ask]), "? Bash wants to run: ls\n");
}

#[test]
fn a_request_is_answered_once_and_says_by_whom() {
    let ask = || event(json!({"kind": "permission", "request": "r", "tool": "Bash", "input": {}, "about": ""}));
    let decided = |by: &str| {
        event(
            json!({"kind": "decision", "request": "r", "decision": "allow", "how": "person", "by": {"device": by, "principal": "k"}}),
        )
    };
    let mut screen = screen();
    show(&mut screen, &[ask()]);
    assert_eq!(screen.asks().unwrap().request, "r");
    assert_eq!(show(&mut screen, &[decided("phone")]), "  allowed by phone\n");
    assert!(screen.asks().is_none());

    show(&mut screen, &[ask()]);
    screen.deciding("r");
    assert!(screen.asks().is_none());
    assert_eq!(show(&mut screen, &[decided("laptop")]), "  allowed\n");
    let late = r#"{"type":"error","re":"1","code":"ALREADY_DECIDED","message":"","details":{"by":{"device":"phone"},"decision":"deny","at":1}}"#;
    assert_eq!(show(&mut screen, &[Incoming::parse(late).unwrap()]), "already denied by phone\n");

    show(&mut screen, &[ask()]);
    let closed = event(json!({"kind": "permission_closed", "request": "r", "how": "void"}));
    assert_eq!(show(&mut screen, std::slice::from_ref(&closed)), "  the process that asked is gone\n");
    assert_eq!(show(&mut screen, &[closed]), "");

    let mut watcher = Screen::new(Style { color: false }, "tv", "watch");
    assert!(show(&mut watcher, &[ask()]).contains("your role does not decide"));
    assert!(watcher.asks().is_none());
}

#[test]
fn work_ends_when_our_prompts_are_settled_in_any_order() {
    let done = || event(json!({"kind": "prompt_state", "prompt": "p", "state": "done"}));
    let reply = || Incoming::parse(r#"{"type":"reply","re":"1","prompt":"p"}"#).unwrap();
    let mut screen = screen();
    show(&mut screen, &[event(json!({"kind": "state", "state": "ready"})), reply()]);
    assert!(screen.is_working());
    show(&mut screen, &[done()]);
    assert!(!screen.is_working());
    show(&mut screen, &[reply()]);
    assert!(!screen.is_working(), "the answer came after the event");
    show(&mut screen, &[event(json!({"kind": "state", "state": "failed", "why": "crash"}))]);
    assert!(screen.is_over());
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let messages = [event(json!({"kind": "notice", "level": "warning", "text": "careful"}))];
    assert_eq!(show(&mut screen(), &messages), "! careful\n");
    let mut coloured = Screen::new(Style { color: true }, "laptop", "approve");
    assert_eq!(show(&mut coloured, &messages), "\x1b[33m! careful\x1b[0m\n");
}

proptest! {
    /// However a block is cut and whatever is repeated or left out, it is shown whole and once.
    #[test]
    fn a_block_is_shown_once(whole in "[a-zäß\n]{1,60}", cuts in prop::collection::vec((0usize..60, 0usize..60), 0..8)) {
        let mut screen = screen();
        let mut shown = String::new();
        for (start, len) in cuts {
            let start = (0..=start.min(whole.len())).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
            let end = (start..=(start + len).min(whole.len())).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
            shown.push_str(&screen.incoming(&delta(0, start as u64, &whole[start..end])));
        }
        shown.push_str(&screen.incoming(&text(0, &whole)));
        if whole.trim().is_empty() && shown.is_empty() {
            return Ok(());
        }
        let expected = if whole.ends_with('\n') { whole } else { format!("{whole}\n") };
        prop_assert_eq!(shown, expected);
    }

    #[test]
    fn nothing_remote_steers_the_terminal(notice in "\\PC{0,20}\x1b\\PC{0,20}", tool in ".{0,20}") {
        let shown = show(&mut screen(), &[
            event(json!({"kind": "notice", "level": "info", "text": notice})),
            event(json!({"kind": "tool_call", "call": "c", "tool": tool, "input": {"command": notice}})),
            event(json!({"kind": "permission", "request": "r", "tool": tool, "about": notice})),
            delta(0, 0, &notice),
        ]);
        prop_assert!(shown.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
    }
}
