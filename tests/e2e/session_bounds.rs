//! Every text that a device or the CLI sets: how long it may be, what may stand in it, and how little of it an answer
//! repeats. `docs/protocols/session.md` has the bounds.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    self, Device, Key, Relay, SignIn,
    device::text,
    http::{Frame, RawSocket},
    relay::Scratch,
};

/// No line of people's holds these.
const STEERS: [&str; 5] = ["a\nb", "\u{1b}[2J", "\u{9b}2J", "\u{202e}gpj", "a\u{2028}b"];

#[test]
fn b5_a_device_whose_name_or_kind_is_no_short_line_is_refused() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let refused = |name: &str, kind: &str| {
        let sign_in = SignIn { kind: kind.into(), ..SignIn::new(&owner).name(name) };
        let refused = sign_in.connect(&relay.tcp()).err().unwrap_or_else(|| panic!("{name:?} {kind:?} was let in"));
        assert_eq!(refused.error["recoverable"], false, "the same is refused again: {refused:?}");
        assert_eq!((refused.code(), refused.close), ("BAD_REQUEST", Some(1008)), "{refused:?}");
        text(&refused.error["message"]).to_owned()
    };
    assert!(refused("laptop", &"k".repeat(65)).contains("device.kind"));
    assert!(refused("laptop", &"k".repeat(10_000)).contains("device.kind"));
    assert!(refused(&"n".repeat(257), "test").contains("device.name"));
    for blank in ["", "   ", "\u{a0}\u{3000}"] {
        assert!(refused(blank, "test").contains("device.name"), "{blank:?}");
    }
    for steers in STEERS {
        assert!(refused("laptop", steers).contains("device.kind"), "{steers:?}");
        assert!(refused(steers, "test").contains("device.name"), "{steers:?}");
    }
    // What is just within the bounds is let in, and shown to those who watch.
    let (name, kind) = ("ü".repeat(128), "k".repeat(64));
    let sign_in = SignIn { kind: kind.clone(), ..SignIn::new(&owner).name(&name) };
    let mut device = sign_in.connect(&relay.tcp()).expect("it is let in");
    let session = device.create();
    let shown = device.attach(&session)["snapshot"]["devices"][0].clone();
    assert_eq!((&shown["name"], &shown["kind"]), (&json!(name), &json!(kind)), "{shown}");
}

#[test]
fn b5_what_a_command_names_is_refused_where_it_is_too_long_or_steers() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let prompt = device.prompt(&session, "please ask first");
    let open = device.event(&session, "the permission request", |event| event["kind"] == "permission");
    let request = open["request"].clone();
    let decide = json!({"session": session, "request": request, "decision": "deny"});
    let create = json!({"profile": "default"});
    let say = json!({"session": session});
    // (command, its other fields, the field, its bound, whether it may have several lines)
    let table = [
        ("create", &create, "title", 256, false),
        ("create", &create, "model", 128, false),
        ("create", &create, "mode", 128, false),
        ("create", &create, "profile", 128, false),
        ("create", &create, "folder", 4096, false),
        ("create", &create, "prompt", 1 << 20, true),
        ("prompt", &say, "text", 1 << 20, true),
        ("decide", &decide, "message", 16 * 1024, true),
    ];
    let mut refused = |command: &str, fields: &Value, field: &str, value: String| {
        let mut fields = fields.clone();
        fields[field] = json!(value);
        let error = device.command(command, fields).expect_err("it has to be refused");
        assert_eq!(error["code"], "BAD_REQUEST", "{error}");
        assert!(text(&error["message"]).contains(&format!("`{field}`")), "{error}");
    };
    for (command, fields, field, bytes_max, lines) in table {
        if bytes_max < 1 << 20 {
            refused(command, fields, field, "/".repeat(bytes_max + 1));
        }
        for steers in STEERS.iter().skip(if lines { 1 } else { 0 }).take(if lines { 2 } else { 5 }) {
            refused(command, fields, field, format!("/{steers}"));
        }
        refused(command, fields, field, "/\0".into());
    }
    let long = json!({"q": "x".repeat(65 * 1024)});
    let answers = json!({"session": session, "request": request, "decision": "allow", "answers": long});
    assert_eq!(device.refused("decide", answers), "BAD_REQUEST");
    assert_eq!(device.refused("ping", json!({"t": "x".repeat(300)})), "BAD_REQUEST");
    assert_eq!(device.ok("ping", json!({"t": ["x", 1]}))["t"], json!(["x", 1]));
    // Nothing of it had an effect: the request is still open, and a reason of several lines is one.
    let mut fields = decide;
    fields["message"] = json!("not now,\n\tuse rg\r\n");
    device.ok("decide", fields);
    device.turn(&session, &prompt);
    assert_eq!(device.ok("list", json!({}))["sessions"].as_array().map(Vec::len), Some(1));
}

#[test]
fn b5_an_error_does_not_send_back_what_it_was_sent() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    let long = "\u{1b}\u{202e}é".repeat(80_000);
    for (command, fields, code) in [
        (&*long, json!({}), "UNKNOWN_TYPE"),
        ("keys", json!({"op": long}), "BAD_REQUEST"),
        ("prompt", json!({"session": session, "text": "x", "when": long}), "BAD_REQUEST"),
        ("prompt", json!({"session": long, "text": "x"}), "BAD_REQUEST"),
        ("decide", json!({"session": session, "request": "r", "decision": long}), "BAD_REQUEST"),
        ("sign_in", json!({"device": long}), "BAD_REQUEST"),
        ("list", json!({"follow": long}), "BAD_REQUEST"),
        ("create", json!({"profile": "p".repeat(128)}), "NOT_FOUND"),
        ("create", json!({"profile": "default", "folder": format!("/{}", "d/".repeat(2000))}), "FORBIDDEN"),
    ] {
        let error = device.command(command, fields).expect_err("it has to be refused");
        assert_eq!(error["code"], code, "{:.300}", error.to_string());
        let bytes = error.to_string().len();
        assert!(bytes < 2048, "{code}: {bytes} bytes");
        let message = text(&error["message"]);
        assert!(!message.chars().any(|c| c.is_control() || c == '\u{202e}'), "{message:?}");
    }
    // Nor before anybody has signed in.
    for message in [
        json!({"type": "x".repeat(15_000), "id": "1"}),
        json!({"type": "sign_in", "id": "1", "device": "x".repeat(15_000)}),
        json!({"type": "sign_in", "id": "1", "client": "c", "key": "k", "nonce": "n", "authority": "x".repeat(15_000),
               "binding": "none", "device": {"name": "n", "kind": "k"}, "signature": "s"}),
    ] {
        let mut socket = RawSocket::open(&relay.tcp());
        let challenge = socket.next();
        assert!(matches!(challenge, Some(Frame { opcode: 1, .. })), "{challenge:?}");
        socket.frame(1, message.to_string().as_bytes());
        let (code, texts) = socket.until_close();
        assert_eq!((code, texts.len()), (Some(1008), 1), "{texts:?}");
        assert!(texts[0].len() < 2048, "{} bytes", texts[0].len());
    }
}

#[test]
fn e_a_field_that_stands_twice_is_not_read_last_wins() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let prompt = device.prompt(&session, "please ask first");
    let open = device.event(&session, "the permission request", |event| event["kind"] == "permission");
    let request = text(&open["request"]).to_owned();
    device.send_text(&format!(
        r#"{{"type":"decide","id":"twice","session":"{session}","request":"{request}","decision":"deny","decision":"allow"}}"#
    ));
    let error = device.answer("twice").expect_err("it is read in two ways");
    assert_eq!(error["code"], "BAD_REQUEST", "{error}");
    device.ok("decide", json!({"session": session, "request": request, "decision": "deny"}));
    device.turn(&session, &prompt);
    assert_eq!(device.events_of(&session, "decision").len(), 1);
}

#[test]
fn b4_a_role_is_refused_before_what_a_command_names_is_read() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut watcher = SignIn::new(&owner).role("watch").connect(&relay.tcp()).expect("it is let in");
    let nulls = vec![Value::Null; 200_000];
    for command in ["prompt", "interrupt", "decide", "create", "stop"] {
        // 1 MB of nulls, and nothing that the command needs.
        let code = watcher.refused(command, json!({"input": {"x": nulls}, "session": 5}));
        assert_eq!(code, "FORBIDDEN", "{command}");
    }
    for command in ["keys", "relay"] {
        assert_eq!(watcher.refused(command, json!({"op": "nope"})), "FORBIDDEN", "{command}");
    }
    assert_eq!(watcher.refused("attach", json!({"session": 5})), "BAD_REQUEST");
}

/// A CLI that writes what no CLI should: its first answer is in order, and then everything is too long or steers.
const CLI: &str = r##"#!/bin/sh
long=$(head -c 300000 /dev/zero | tr '\0' x)
while read -r line; do
    id=$(printf '%s' "$line" | sed -n 's/.*"request_id":"\([^"]*\)".*/\1/p')
    case "$line" in
    *'"initialize"'*)
        printf '{"type":"control_response","response":{"subtype":"success","request_id":"%s","response":' "$id"
        printf '{"commands":[],"models":[],"account":{"tokenSource":"t"},"current_permission_mode":"%s"}}}\n' "$long"
        ;;
    *'"type":"user"'*)
        printf '{"type":"system","subtype":"init","model":"a\\u001b[2J\\u202eb","permissionMode":"%s","session_id":"%s"}\n' "$long" "$long"
        printf '{"type":"control_request","request_id":"not an id","request":{"subtype":"can_use_tool","tool_name":"T","input":{}}}\n'
        printf '{"type":"assistant","message":{"id":"m","content":[{"type":"tool_use","id":"c%s","name":"Ba\\nsh%s","input":{}}]}}\n' "$long" "$long"
        printf '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"c%s","content":"x"}]}}\n' "$long"
        printf '{"type":"result","subtype":"success","is_error":false,"terminal_reason":"done\\u001b%s","result":"","total_cost_usd":0}\n' "$long"
        ;;
    *'"subtype":"error"'*) printf '%s\n' "$line" >>"$TMPDIR/refused" ;;
    esac
done
"##;

#[test]
fn b5_what_the_cli_names_is_passed_on_as_lines_within_a_bound() {
    let owner = Key::new("owner");
    let scratch = Scratch::new();
    let program: PathBuf = scratch.root().join("odd-cli");
    fs::write(&program, CLI).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let temporary = scratch.root().join("tmp");
    fs::create_dir_all(&temporary).expect("a folder");
    let relay = Relay::options(&[&owner]).claude(&program).env("TMPDIR", temporary.display().to_string()).start();
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    let prompt = device.prompt(&session, "go");
    let turn = device.turn(&session, &prompt);
    let call = device.event(&session, "the tool call", |event| event["kind"] == "tool_call");
    let result = device.event(&session, "the tool's result", |event| event["kind"] == "tool_result");
    assert_eq!(call["call"], result["call"], "a call and its result still belong together");
    let summary = device.ok("list", json!({}))["sessions"][0].clone();
    for (what, label) in [
        ("tool", &call["tool"]),
        ("call", &call["call"]),
        ("stop", &turn["stop"]),
        ("model", &summary["model"]),
        ("mode", &summary["mode"]),
    ] {
        let label = text(label);
        assert!(label.len() <= 256, "{what} has {} bytes", label.len());
        assert!(!label.chars().any(|c| c.is_control() || c == '\u{202e}'), "{what}: {label:?}");
    }
    // A request that no device could name was refused, and kept nobody waiting.
    assert!(device.events_of(&session, "permission").is_empty());
    support::until("the CLI was told so", || {
        fs::read_to_string(temporary.join("refused")).ok().filter(|said| said.contains("not an id"))
    });
}
