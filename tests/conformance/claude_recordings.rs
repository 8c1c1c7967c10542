//! Recordings of the real CLI through the splitter and the translator.
use std::{collections::HashMap, fs, path::PathBuf};

use amp_relay::claude::{
    Block, Event, LoginState,
    codec::{LineSplitter, Split, Translator},
};
use proptest::prelude::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/claude")
}

fn recording(name: &str) -> Vec<u8> {
    fs::read(folder().join(name).with_extension("jsonl")).expect(name)
}

fn names() -> Vec<String> {
    let files = fs::read_dir(folder()).expect("the folder").flatten();
    let names = files.filter_map(|file| file.file_name().to_str()?.strip_suffix(".jsonl").map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert!(names.len() > 20);
    names
}

/// Everything a stream says, cut anywhere.
fn events<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, u64) {
    let (mut splitter, mut translator, mut out) = (LineSplitter::default(), Translator::new(), Vec::new());
    for chunk in chunks {
        splitter.push(chunk, &mut |split| match split {
            Split::Line(line) => translator.line(line, &mut out),
            Split::TooLong => panic!("a line of a recording is too long"),
        });
    }
    assert_eq!(splitter.pending(), 0);
    (out, translator.malformed())
}

fn heard(name: &str) -> Vec<Event> {
    let (events, malformed) = events(std::iter::once(&recording(name)[..]));
    assert_eq!(malformed, 0, "{name}");
    events
}

/// An event in a few words: kinds, states and texts, without the ids that mean nothing.
fn brief(event: &Event) -> String {
    let short = |text: &str| text.chars().take(40).collect::<String>();
    match event {
        Event::Ready { version, login, mode } => {
            let login = if *login == LoginState::Present { "present" } else { "missing" };
            format!("ready {} {login} {}", version.as_deref().unwrap_or("-"), mode.as_deref().unwrap_or("-"))
        }
        Event::Init { mode, .. } => format!("init {}", mode.as_deref().unwrap_or("-")),
        Event::ConversationId(_) => "conversation".into(),
        Event::Prompt { state, .. } => format!("prompt {state:?}"),
        Event::Echoed { .. } => "echoed".into(),
        Event::Delta { block, kind, text, .. } => format!("delta {block} {kind:?} {}", short(text)),
        Event::Text { block, kind, text, parent, .. } => {
            format!("{}text {block} {kind:?} {}", if parent.is_some() { "sub-" } else { "" }, short(text))
        }
        Event::ToolCall { tool, parent, .. } => format!("{}call {tool}", if parent.is_some() { "sub-" } else { "" }),
        Event::ToolResult { ok, text, .. } => format!("result {ok} {}", short(text)),
        Event::Permission(permission) => format!(
            "ask {} {}{}{}",
            permission.tool,
            permission.about.replace('\n', " / "),
            if permission.suggestions.is_some() { " +suggestions" } else { "" },
            if permission.questions.is_some() { " +questions" } else { "" }
        ),
        Event::PermissionWithdrawn { .. } => "withdrawn".into(),
        Event::Control { id, result } => format!("control {id} {}", result.is_ok()),
        Event::Retry { attempt, of, error, login_failed, .. } => format!("retry {attempt}/{of} {error} {login_failed}"),
        Event::Settings { mode, .. } => format!("settings {}", mode.as_deref().unwrap_or("-")),
        Event::Turn(turn) => format!(
            "turn {} {} prompts={} queued={:?}{}{}",
            turn.ok,
            turn.stop,
            turn.prompts.len(),
            turn.queued,
            if turn.unasked { " unasked" } else { "" },
            if turn.login_failed { " login" } else { "" }
        ),
        Event::Notice { level, text } => format!("notice {level} {}", short(text)),
        Event::Unserved { what, .. } => format!("unserved {what}"),
        Event::Raw(json) => format!("raw {}", short(json.as_str())),
        Event::Unreadable { line, .. } => format!("unreadable {line}"),
        Event::Idle => "idle".into(),
        Event::NoConversation => "no conversation".into(),
    }
}

fn briefs(name: &str) -> Vec<String> {
    heard(name).iter().map(brief).collect()
}

fn says(name: &str, want: &str) {
    let want: Vec<&str> = want.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let heard = briefs(name);
    assert_eq!(heard.iter().map(|brief| brief.trim()).collect::<Vec<_>>(), want, "{name}");
}

#[test]
fn a_turn_with_a_tool_and_streaming() {
    says(
        "partial_tool_use",
        "ready 2.1.329 present default
        conversation
        prompt Queued
        prompt Started
        init default
        call Bash
        result true hi
        delta 0 Text done:
        delta 0 Text hi
        text 0 Text done: hi
        turn true completed prompts=1 queued=Some(0)
        prompt Completed",
    );
}

#[test]
fn thinking_and_text_keep_the_index_of_their_deltas() {
    says(
        "thinking_partial",
        "ready 2.1.329 present default
        conversation
        prompt Queued
        prompt Started
        init default
        delta 0 Thinking let me think
        text 0 Thinking let me think
        delta 1 Text the
        delta 1 Text answer
        text 1 Text the answer
        turn true completed prompts=1 queued=Some(0)
        prompt Completed",
    );
}

#[test]
fn a_permission_is_withdrawn_before_the_interrupt_is_answered() {
    says(
        "interrupt_during_permission",
        "ready 2.1.329 present default
        conversation
        init default
        call Bash
        ask Bash Run a command / blocked path: /home/user/project/zz +suggestions
        withdrawn
        control req_2 true
        result false The user doesn't want to proceed with th
        turn false aborted_tools prompts=0 queued=Some(0)
        init default
        text 0 Text next
        turn true completed prompts=0 queued=Some(0)",
    );
}

#[test]
fn questions_come_as_a_permission_with_questions() {
    says(
        "ask_user_question",
        "ready 2.1.329 present default
        conversation
        prompt Queued
        prompt Started
        init default
        call AskUserQuestion
        ask AskUserQuestion AskUserQuestion +questions
        result true Your questions have been answered: \"Whic
        text 0 Text done: Your questions have been answered:
        turn true completed prompts=1 queued=Some(0)
        prompt Completed
        prompt Queued
        prompt Started
        init default
        call AskUserQuestion
        ask AskUserQuestion AskUserQuestion +questions
        result false The user closed the dialog
        text 0 Text done: The user closed the dialog
        turn true completed prompts=1 queued=Some(0)
        prompt Completed",
    );
}

#[test]
fn what_is_missing_or_refused_about_the_login_is_told() {
    says(
        "auth_no_key",
        "ready 2.1.329 missing default
        conversation
        prompt Queued
        prompt Started
        init default
        notice error Claude Code says: Not logged in · Please
        turn false api_error prompts=1 queued=Some(0) login
        prompt Cancelled",
    );
    says(
        "auth_wrong_key",
        "ready 2.1.329 present default
        conversation
        prompt Queued
        prompt Started
        init default
        retry 1/1 authentication_failed (401) true
        notice error Claude Code says: Failed to authenticate
        turn false api_error prompts=1 queued=Some(0) login
        prompt Cancelled",
    );
}

#[test]
fn an_unknown_conversation_is_one_event_and_nothing_else() {
    says("resume_7_unknown", "no conversation");
}

#[test]
fn a_cleared_conversation_goes_on_under_another_id() {
    let ids: Vec<_> = heard("clear_then_resume")
        .into_iter()
        .filter_map(|event| match event {
            Event::ConversationId(id) => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_turn_nobody_asked_for_is_marked() {
    let turns: Vec<_> = briefs("background_bash").into_iter().filter(|brief| brief.starts_with("turn")).collect();
    assert_eq!(
        turns,
        ["turn true completed prompts=1 queued=Some(0)", "turn true completed prompts=0 queued=Some(0) unasked"]
    );
}

#[test]
fn the_echo_of_an_answer_is_no_answer_to_us() {
    says(
        "resend_auto_permission_resume",
        "conversation
        prompt Started
        ready 2.1.329 present default
        init default
        call Bash
        ask Bash Run a command / blocked path: /home/user/project/rp2 +suggestions
        result true (Bash completed with no output)
        text 0 Text done: (Bash completed with no output)
        turn true completed prompts=1 queued=Some(0)
        prompt Completed",
    );
}

#[test]
fn idle_comes_last() {
    assert_eq!(briefs("state_events").last().map(String::as_str), Some("idle"));
}

#[test]
fn hooks_we_did_not_ask_for_are_to_be_refused() {
    let unserved = briefs("hooks_callback").into_iter().filter(|brief| brief == "unserved hook_callback").count();
    assert_eq!(unserved, 3);
}

#[test]
fn what_a_sub_agent_says_names_its_call() {
    for name in ["sub_agent", "v2_1_197_sub_agent"] {
        assert!(briefs(name).contains(&"sub-call Bash".to_owned()), "{name}");
    }
}

#[test]
fn the_older_release_says_less_and_is_understood() {
    says(
        "v2_1_197_queue",
        "ready - present -
        conversation
        init default
        echoed
        text 0 Text word0 word1 word2 word3 word4 word5 word
        turn true completed prompts=0 queued=None
        echoed
        init default
        echoed
        text 0 Text third
        turn true completed prompts=0 queued=None
        control req_2 true",
    );
    says(
        "v2_1_197_no_key",
        "ready - missing -
        conversation
        init default
        notice error Claude Code says: Not logged in · Please
        turn false completed prompts=0 queued=None login",
    );
    says(
        "v2_1_197_state_and_error",
        "ready - present -
        conversation
        init default
        retry 1/1 overloaded (529) false
        notice error Claude Code says: API Error: 529 stub ov
        turn false completed prompts=0 queued=None
        idle
        control req_2 true
        control req_3 false
        echoed
        control req_4 true",
    );
}

#[test]
fn a_turn_carries_its_numbers() {
    let turn = heard("partial_tool_use").into_iter().find_map(|event| match event {
        Event::Turn(turn) => Some(turn),
        _ => None,
    });
    let turn = turn.expect("a turn");
    assert_eq!(&*turn.text, "done: hi");
    assert!((turn.cost_usd - 0.108_608).abs() < 1e-9 && turn.duration_ms > 0);
    assert!(turn.usage.is_some_and(|usage| usage.as_str().contains("\"output_tokens\":41")));
    assert_eq!(&*turn.prompts[0], "185aa499-ae51-4d6f-9f43-9244fb68c554");
}

/// Where both came, a whole block is what its deltas were.
#[test]
fn whole_blocks_repeat_their_deltas() {
    let mut compared = 0;
    for name in names() {
        let mut streamed: HashMap<_, String> = HashMap::new();
        for event in heard(&name) {
            match event {
                Event::Delta { message, block, kind, text } => {
                    streamed.entry((message, block, kind == Block::Text)).or_default().push_str(&text);
                }
                Event::Text { message, block, kind, text, .. } => {
                    if let Some(deltas) = streamed.remove(&(message, block, kind == Block::Text)) {
                        assert_eq!(*text, *deltas, "{name}");
                        compared += 1;
                    }
                }
                _ => {}
            }
        }
        // A stream that broke is tried again under another message id: what it brought is never repeated.
        assert_eq!(streamed.len(), usize::from(name == "stream_cut"), "{name}: {streamed:?}");
    }
    assert!(compared > 5);
}

/// The order of keys means nothing.
#[test]
fn sorted_keys_say_the_same() {
    for name in names() {
        let mut sorted = Vec::new();
        for line in recording(&name).split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            sorted.extend(value.to_string().into_bytes());
            sorted.push(b'\n');
        }
        let (events, _) = events(std::iter::once(&sorted[..]));
        let (briefs, sorted): (Vec<_>, Vec<_>) =
            (briefs(&name).into_iter().filter(|brief| !brief.starts_with("raw")).collect(), events);
        let sorted: Vec<_> = sorted.iter().map(brief).filter(|brief| !brief.starts_with("raw")).collect();
        assert_eq!(briefs, sorted, "{name}");
    }
}

proptest! {
    #[test]
    fn any_chunking_says_the_same(
        which in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let names = names();
        let bytes = recording(&names[which.index(names.len())]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let (cut, _) = events(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
        let (whole, _) = events(std::iter::once(&bytes[..]));
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn damaged_lines_never_panic(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let names = names();
        let mut bytes = recording(&names[which.index(names.len())]);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (mut translator, mut out) = (Translator::new(), Vec::new());
        for line in bytes.split(|&byte| byte == b'\n') {
            translator.line(line, &mut out);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (mut translator, mut out) = (Translator::new(), Vec::new());
        translator.line(&bytes, &mut out);
    }

    /// Values of any type where the CLI has others.
    #[test]
    fn fields_of_any_type_never_panic(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just("null"), Just("-1"), Just("1e300"), Just("\"\""), Just("[]"), Just("{}"), Just("true"), Just("[null,5,\"x\"]"),
        ],
    ) {
        let names = names();
        let text = String::from_utf8(recording(&names[which.index(names.len())])).expect("UTF-8");
        let lines: Vec<&str> = text.lines().collect();
        let mut line: serde_json::Value = serde_json::from_str(lines[at.index(lines.len())])?;
        let replace: serde_json::Value = serde_json::from_str(value)?;
        let mut paths = Vec::new();
        collect(&line, String::new(), &mut paths);
        let path = paths[at.index(paths.len())].clone();
        *line.pointer_mut(&path).expect("just listed") = replace;
        let (mut translator, mut out) = (Translator::new(), Vec::new());
        for before in lines {
            translator.line(before.as_bytes(), &mut out);
        }
        translator.line(line.to_string().as_bytes(), &mut out);
    }
}

/// The paths of all values in a value.
fn collect(value: &serde_json::Value, path: String, paths: &mut Vec<String>) {
    let inner: Vec<(String, &serde_json::Value)> = match value {
        serde_json::Value::Object(map) => {
            map.iter().map(|(key, inner)| (key.replace('~', "~0").replace('/', "~1"), inner)).collect()
        }
        serde_json::Value::Array(list) => list.iter().enumerate().map(|(at, inner)| (at.to_string(), inner)).collect(),
        _ => Vec::new(),
    };
    for (key, inner) in inner {
        collect(inner, format!("{path}/{key}"), paths);
    }
    paths.push(path);
}
