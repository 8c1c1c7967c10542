//! What the window of a session says of it: whose words stand in its rows, what its keys do, and who answers.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rustix::{
    fs::{Mode, OFlags, open},
    process::Signal,
    termios::{Winsize, tcsetwinsize},
};
use serde_json::{Value, json};

use crate::support::{
    Device, Key, Relay, process,
    relay::{PROGRAM, Scratch, shell},
    standin::{Scene, asks, id},
    terminal::{Terminal, flat},
    text, until,
};

/// The last row but one: what the session does.
fn status_row(screen: &str) -> &str {
    screen.trim_end().lines().rev().nth(1).unwrap_or_default()
}

#[test]
fn a_title_and_a_folder_end_where_the_relay_ends_them() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut device = Device::connect(&relay, &owner, "laptop");
    let folder = relay.scratch.project().join("x \u{b7} 9 devices");
    fs::create_dir(&folder).expect("a folder");
    let title = "site \u{b7} opus \u{b7} mode: plan";
    let fields = json!({"profile": "default", "title": title, "folder": folder, "mode": "acceptEdits"});
    let session = text(&device.ok("create", fields)["session"]["session"]).to_owned();
    let key = relay.scratch.home().join("owner_key");
    owner.write(&key);
    let reach = format!("--data {} --key {}", relay.scratch.data().display(), key.display());
    let terminal = Terminal::sized(&relay.scratch, &format!("{PROGRAM} attach {session} {reach}"), 160, 30);
    let drawn = "site <U+00B7> opus <U+00B7> mode: plan";
    let screen = terminal.shows("its row", |screen| status_row(screen).contains("mode: acceptEdits"));
    assert!(status_row(&screen).contains(&format!("{drawn} \u{b7} mode: acceptEdits")), "{screen}");
    assert!(screen.contains("x <U+00B7> 9 devices \u{b7} demo agent") && !screen.contains(title), "{screen}");
    // A folder's name is the title where none is given.
    device.ok("create", json!({"profile": "default", "folder": folder}));
    let table = relay.scratch.run(["sessions"].into_iter().chain(reach.split(' '))).ok();
    assert!(
        table.contains("site <U+00B7> opus <U+00B7> mode…") && table.contains("  x <U+00B7> 9 devices  "),
        "{table}"
    );
    assert!(!table.contains(" \u{b7} "), "{table}");
}

#[test]
fn a_tool_of_a_name_too_long_can_only_be_denied() {
    let mut scene = Scene::new();
    let terminal = scene.attached(100, 30);
    let tool = format!("mcp__a__{}_DELETE", "n".repeat(300));
    let request = scene.ask(&tool, &json!({"path": "x"}));
    assert_eq!((&request["deny_only"], &request["hash"]), (&json!(true), &Value::Null));
    let why = "the name of its tool cannot be shown whole";
    assert_eq!(request["deny_why"], why);
    let screen = terminal.shows("why", |screen| screen.contains(&format!("# this can only be denied: {why}")));
    assert!(!screen.contains("y: allow"), "{screen}");
    // No client can allow it, whatever it names.
    let shown = scene.laptop.shown(id(&request)).unwrap_or_default();
    let fields = json!({"session": scene.session, "request": request["request"], "decision": "allow", "shown": shown});
    assert_eq!(scene.laptop.refused("decide", fields), "BAD_REQUEST");
    until("a yes is refused", || {
        terminal.line("y");
        status_row(&terminal.screen()).contains(why).then_some(())
    });
    scene.answers(&terminal, "n", &request);
    assert_eq!(scene.standin.answer(id(&request))["response"]["behavior"], "deny");
}

#[test]
fn a_tool_whose_name_cannot_be_read_can_only_be_denied() {
    let mut scene = Scene::new();
    let ask = |scene: &mut Scene, word: &str, tool: &str| {
        let line = asks(word, "TOOL", r#"{"path":"x"}"#, &json!({})).replace(r#""TOOL""#, tool);
        scene.standin.does(word, &[line, "@wait".into()]);
        scene.laptop.prompt(&scene.session, word);
        scene.laptop.event(&scene.session, "the request", |event| event["request"] == word)
    };
    for (word, tool, why) in [
        ("half", r#""A\ud83d""#, "the name of its tool cannot be shown whole"),
        ("none", "7", "the name of its tool cannot be read"),
    ] {
        let request = ask(&mut scene, word, tool);
        assert_eq!((&request["deny_only"], &request["deny_why"]), (&json!(true), &json!(why)), "{request}");
        scene.laptop.ok("decide", json!({"session": scene.session, "request": word, "decision": "deny"}));
    }
}

#[test]
fn ctrl_c_is_answered_where_there_is_nothing_to_interrupt() {
    let owner = Key::new("owner");
    let options = Relay::options(&[&owner]);
    let program = options.scratch.root().join("claude");
    fs::write(&program, "#!/bin/sh\nexit 3\n").expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let relay = options.claude(&program).start();
    let mut device = Device::connect(&relay, &owner, "laptop");
    let session = device.create();
    device.attach(&session);
    device.prompt(&session, "later");
    let key = relay.scratch.home().join("owner_key");
    owner.write(&key);
    let attach = format!("{PROGRAM} attach --data {} --key {}", relay.scratch.data().display(), key.display());
    let terminal = Terminal::run(&relay.scratch, &attach);
    let screen = terminal.shows("its state", |screen| status_row(screen).contains("retrying"));
    assert!(!status_row(&screen).contains("interrupts"), "{screen}");
    terminal.keys(&["C-c"]);
    terminal.shows("an answer", |screen| status_row(screen).contains("nothing is running; a prompt waits"));
    let reply = device.ok("interrupt", json!({"session": session}));
    assert_eq!(reply["ran"], false, "{reply}");
}

#[test]
fn what_a_key_was_answered_with_gives_way_to_what_is() {
    let mut scene = Scene::new();
    let owner = scene.attached(100, 30);
    let watching = Terminal::sized(&scene.relay.scratch, &format!("{} --role watch", scene.attach()), 100, 30);
    let shows = |terminal: &Terminal, says: &str| {
        terminal.shows(says, |screen| status_row(screen).trim_start().starts_with(says));
    };
    // Of a terminal in which nothing happens it is time alone that does it.
    for terminal in [&owner, &watching] {
        shows(terminal, "ready");
        terminal.keys(&["C-c"]);
        shows(terminal, "! nothing is running");
    }
    [&owner, &watching].into_iter().for_each(|terminal| shows(terminal, "ready"));
    owner.keys(&["C-c"]);
    shows(&owner, "! nothing is running");
    let request = scene.ask("Bash", &json!({"command": "ls"}));
    [&owner, &watching].into_iter().for_each(|terminal| shows(terminal, "a request waits"));
    watching.keys(&["C-c"]);
    shows(&watching, "! your role does not interrupt");
    scene.decided(&request, json!({"decision": "deny"}));
    [&owner, &watching].into_iter().for_each(|terminal| shows(terminal, "ready"));
    owner.keys(&["C-c"]);
    shows(&owner, "! nothing is running");
    scene.relay.signal(Signal::KILL);
    owner.shows("that it is gone", |screen| status_row(screen).contains("offline: connecting again"));
}

#[test]
fn a_paste_that_holds_its_own_end_mark_answers_nothing() {
    let mut scene = Scene::new();
    let terminal = scene.attached(100, 30);
    let request = scene.ask_with("Bash", r#"{"command":"ls"}"#, json!({"requires_user_interaction": true}));
    until("it has stood there long enough", || {
        terminal.line("y");
        status_row(&terminal.screen()).contains("takes the whole word").then_some(())
    });
    terminal.paste(&scene.relay.scratch, b"\x1b[201~yes\r");
    terminal.shows("that it is pasted", |screen| screen.lines().any(|row| row.trim_end() == "? yes"));
    scene.laptop.sync();
    assert_eq!(scene.laptop.events_of(&scene.session, "decision"), [] as [Value; 0], "no key was pressed");
    scene.decided(&request, json!({"decision": "deny"}));
    assert_eq!(scene.standin.answer(id(&request))["response"]["behavior"], "deny");
}

#[test]
fn a_prompt_that_the_relay_refuses_under_a_request_is_not_called_sent() {
    let mut scene = Scene::new();
    let terminal = scene.attached(100, 120);
    scene.ask("Bash", &json!({"command": "ls"}));
    terminal.shows("the card", |screen| screen.contains("y: allow"));
    let waits = "sent as a prompt, which waits until the request is answered";
    terminal.line("the first");
    terminal.shows("that it waits", |screen| screen.contains(&format!("\u{b7} {waits}")));
    // One prompt runs, and one was typed.
    for at in 2..32 {
        scene.laptop.prompt(&scene.session, &format!("more {at}"));
    }
    terminal.line("one too many");
    let screen =
        terminal.shows("that it is refused", |screen| screen.contains("! not sent: this key has 32 of the 64"));
    assert_eq!(screen.matches(waits).count(), 1, "{screen}");
}

#[test]
fn a_refused_answer_is_seen_on_a_very_small_screen() {
    let mut scene = Scene::new();
    let terminal = Terminal::sized(&scene.relay.scratch, &scene.attach(), 20, 6);
    terminal.shows("the session", |screen| screen.contains("ready"));
    let lines: String = (0..12).map(|n| format!("line {n}\n")).collect();
    scene.ask("Edit", &json!({"file_path": "x", "old_string": "", "new_string": lines}));
    terminal.shows("the card", |screen| screen.contains("PgDn"));
    until("the refusal is seen", || {
        terminal.line("y");
        status_row(&terminal.screen()).starts_with("! PgDn").then_some(())
    });
    // The last key takes the answer to those before it away, so all that was typed has been read by then.
    terminal.keys(&["C-l"]);
    let is_read = |screen: &str| status_row(screen).starts_with("  a request") && screen.trim_end().ends_with("\n?");
    terminal.shows("that all is read", is_read);
    // On a larger one it is not so any more.
    terminal.line("y");
    terminal.shows("the refusal again", |screen| status_row(screen).starts_with("! PgDn"));
    terminal.resize(80, 24);
    terminal.shows("the whole card", |screen| screen.contains("y: allow") && !status_row(screen).starts_with("! PgDn"));
}

#[test]
fn what_is_left_on_the_screen_is_broken_between_words() {
    let mut scene = Scene::new();
    let terminal = scene.attached(40, 20);
    // Whatever stands before them, the rows of a screen do not all end between words of this length.
    let said = ["touched"; 24].join(" ");
    scene.laptop.prompt(&scene.session, &said);
    terminal.shows("the prompt", |screen| screen.matches("touched").count() == 24);
    terminal.keys(&["C-]"]);
    let screen = terminal.shows("the end", |screen| screen.contains("ended with"));
    assert_eq!(screen.matches("touched").count(), 24, "{screen}");
}

#[test]
fn a_large_input_is_told_in_one_way() {
    let mut scene = Scene::new();
    let terminal = scene.attached(100, 30);
    let input = json!({"file_path": "x", "content": "y".repeat(300_000)}).to_string();
    let content = format!(r#"[{{"type":"tool_use","id":"call-large","name":"Write","input":{input}}}]"#);
    let call = format!(r#"{{"type":"assistant","message":{{"id":"large","content":{content}}}}}"#);
    scene.standin.does("large", &[call, asks("large", "Write", &input, &json!({})), "@wait".into()]);
    scene.laptop.prompt(&scene.session, "large");
    let told = format!("Write({} bytes)", input.len());
    let screen = terminal.shows("both", |screen| screen.matches(&told).count() == 2);
    assert!(!screen.contains("truncated"), "{screen}");
}

#[test]
fn whoever_joins_a_session_of_the_demo_agent_is_told() {
    let scratch = Scratch::new();
    let command = scratch.command(["up", "--demo", "--listen", "127.0.0.1:0"]);
    let relay = Relay::spawn(scratch, command, 2);
    let told = |verb: &str| {
        let terminal = Terminal::run(&relay.scratch, &format!("{PROGRAM} {verb}"));
        let screen = terminal.shows("who answers", |screen| screen.contains("The demo agent answers in this session"));
        assert!(screen.contains("demo agent\n") && screen.contains("`please ask me`"), "{verb}: {screen}");
        assert!(!screen.contains("opus"), "{verb}: {screen}");
    };
    told("new --model opus --title another");
    told("attach another");
    let listed = relay.scratch.run(["sessions", "--json"]).ok();
    assert!(listed.contains("another") && !listed.contains("opus"), "{listed}");
}

#[test]
fn a1_a_request_without_an_input_is_a_card_like_any_other() {
    let mut scene = Scene::new();
    let terminal = scene.attached(80, 12);
    for (tool, input) in [("EnterPlanMode", json!({})), ("AskUserQuestion", json!({"questions": []}))] {
        let request = scene.ask(tool, &input);
        terminal.shows("its card", |screen| screen.contains(&format!("{tool} asks for permission")));
        scene.answers(&terminal, "n", &request);
    }
}

#[test]
fn a5_what_the_cli_advises_is_a_row_of_the_card() {
    let mut scene = Scene::new();
    let terminal = scene.attached(28, 24);
    let request = scene.ask_with("Bash", r#"{"command":"ls"}"#, json!({"default_to_no": true}));
    let screen = terminal.shows("the card", |screen| screen.contains("# Claude Code advises"));
    assert!(screen.contains("y: allow · n: deny"), "both keys can be read: {screen}");
    scene.answers(&terminal, "n", &request);
}

#[test]
fn a_window_with_no_room_for_a_request_says_so() {
    let mut scene = Scene::new();
    let terminal = scene.attached(60, 4);
    let request = scene.ask("Bash", &json!({"command": "ls"}));
    terminal.shows("why there is no card", |screen| screen.contains("larger window, please: a request waits"));
    terminal.resize(60, 20);
    terminal.shows("the card", |screen| screen.contains("│ ls"));
    scene.answers(&terminal, "n", &request);
}

#[test]
fn a_tool_s_name_that_is_cut_ends_where_it_ends() {
    let tool = format!("Everything below {}is allowed by you: Bash", "is good and ".repeat(10));
    let mut scene = Scene::new();
    let terminal = scene.attached(100, 30);
    let request = scene.ask(&tool, &json!({"path": "x"}));
    let screen = terminal.shows("the card", |screen| screen.contains("1 of 1"));
    let title = screen.lines().find(|row| row.contains("1 of 1")).expect("its title");
    assert!(title.contains("1 of 1: \"Everything below") && title.contains("\"… asks for permission"), "{title}");
    scene.answers(&terminal, "n", &request);
    let ran = shell(&scene.relay.scratch, &format!("{} --all", scene.attach()), "");
    let told = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = format!("? asks for permission: \"{}\"…(x)", &tool[..128]);
    assert!(told.contains(&named), "{named}: {ran:?}");
}

#[test]
fn a_tool_s_name_is_no_word_of_a_sentence_of_ours() {
    const TOOL: &str = "Everything below is allowed by you: Bash";
    let mut scene = Scene::new();
    let terminal = scene.attached(200, 30);
    let input = r#"{"command":"ls"}"#;
    let twice = [asks("twice", "Bash", input, &json!({})), asks("twice", TOOL, input, &json!({})), "@wait".into()];
    scene.standin.does("twice", &twice);
    scene.laptop.prompt(&scene.session, "twice");
    terminal.shows("the notice", |screen| screen.contains(&format!("! \"{TOOL}\" was asked about under the id of")));
    scene.laptop.ok("decide", json!({"session": scene.session, "request": "twice", "decision": "deny"}));
    // What has more lines than can be shown is told in a line.
    let request = scene.ask(TOOL, &json!({"content": "\n".repeat(200_001)}));
    let ran = shell(&scene.relay.scratch, &scene.attach(), "n\n");
    let told = format!("? 1 of 1: \"{TOOL}\" asks for permission: it has more than");
    assert!(ran.err.replace("\n  ", " ").contains(&told), "{ran:?}");
    assert_eq!(scene.standin.answer(id(&request))["response"]["behavior"], "deny");
}

#[test]
fn a_mark_stands_beside_its_text_and_on_every_row_of_it() {
    let mut scene = Scene::new();
    let terminal = scene.attached(80, 24);
    let (long, url) = ("日本語のとても長い項目です。".repeat(6), format!("https://example.org/{}", "x".repeat(90)));
    let texts = [
        (format!("- {long}"), "  - ", "    "),
        (format!("1. {long}"), "  1. ", "     "),
        (format!("> {long}"), "  > ", "  > "),
        (format!("See {long}"), "  See ", "  "),
        (format!("**注意** {long}"), "  注意 ", "  "),
        (format!("2. {url}"), "  2. ", "     "),
        (format!("> - {url}"), "  > - ", "  >   "),
        (format!("- one\n    - {}", "a nested item that is rather long ".repeat(5)), "      - ", "        "),
    ];
    for (at, (said, mark, further)) in texts.into_iter().enumerate() {
        scene.say(&format!("{said}\n\nthe end of {at}."));
        let screen = terminal.shows("all of it", |screen| screen.contains(&format!("the end of {at}.")));
        let rows: Vec<&str> = screen.lines().map(str::trim_end).collect();
        let end = rows.iter().rposition(|row| row.contains("the end of")).expect("its end") - 1;
        let block = rows[..end].iter().rposition(|row| row.is_empty()).map_or(0, |at| at + 1);
        let own = &rows[block..end];
        let own = &own[own.iter().position(|row| row.starts_with(mark)).expect("its mark")..];
        assert!(own.len() > 1, "{mark:?} has one row: {screen}");
        assert!(own[0].starts_with(mark) && columns(own[0]) > 40, "{mark:?} stands alone: {screen}");
        for row in &own[1..] {
            let text = row.strip_prefix(further).unwrap_or_default();
            assert!(!text.is_empty() && !text.starts_with(' '), "{mark:?}, then {row:?}: {screen}");
        }
        assert!(own.iter().all(|row| columns(row) <= 80), "{screen}");
    }
}

/// Columns of a row of these texts.
fn columns(row: &str) -> usize {
    row.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
}

#[test]
fn what_helps_with_a_line_that_was_not_sent_is_within_80_columns() {
    let scene = Scene::new();
    let line = format!("{} --role watch", scene.attach());
    let terminal = Terminal::sized(&scene.relay.scratch, &line, 80, 24);
    terminal.shows("the session", |screen| screen.contains("Ctrl-"));
    terminal.line("hello");
    let why = "! not sent: this needs the role drive, and this connection has watch (↑ more)";
    let is_it = |screen: &str| status_row(screen).trim_end() == why && screen.contains("> hello");
    let screen = terminal.shows("why it is not sent", is_it);
    assert!(flat(&screen).contains("amp-relay keys add --role drive FILE.pub"), "the rest stands above: {screen}");
}

const NO_SIZE: &str = "this terminal does not say how large it is, so the session cannot be shown";

#[test]
fn a_terminal_without_a_size_is_told_what_helps_and_shows_the_session_once_it_has_one() {
    let mut scene = Scene::new();
    for (rows, columns) in [(0, 80), (24, 0), (0, 0)] {
        let line = format!("stty rows {rows} columns {columns}; {}", scene.attach());
        let terminal = Terminal::sized(&scene.relay.scratch, &line, 100, 40);
        let told = terminal.shows("why it is not drawn", |screen| flat(screen).contains(NO_SIZE));
        assert!(flat(&told).contains("Ctrl-Z, then `stty rows 24 columns 80` with its numbers, then `fg`"), "{told}");
        let row = told.lines().find(|row| !row.trim().is_empty()).expect("the line");
        assert!(row.starts_with("this terminal"), "it begins at the left edge: {told}");
        // Further frames leave it as it is, those of a request too.
        let request = scene.ask("Bash", &json!({"command": "ls"}));
        let prompt = format!("typed at {rows} {columns}");
        terminal.line(&prompt);
        let session = scene.session.clone();
        scene.laptop.event(&session, "the prompt", |event| event["kind"] == "prompt" && event["text"] == prompt);
        assert_eq!(flat(&terminal.screen()).matches(NO_SIZE).count(), 1, "{rows} {columns}: {}", terminal.screen());
        terminal.keys(&["C-l"]);
        terminal.shows("it again", |screen| flat(screen).matches(NO_SIZE).count() == 1);
        terminal.resize(80, 24);
        let screen = terminal.shows("the card", |screen| screen.contains("\u{2502} ls") && screen.contains("y: allow"));
        assert!(!flat(&screen).contains(NO_SIZE), "{screen}");
        scene.decided(&request, json!({"decision": "deny"}));
    }
}

#[test]
fn a_window_that_loses_its_size_goes_on_and_is_drawn_when_it_has_one_again() {
    let scene = Scene::new();
    let terminal = scene.attached(100, 40);
    let is_attach = |one: &process::Process| one.command.starts_with(PROGRAM) && one.command.contains(" attach ");
    let attach = until("it runs", || process::agent(scene.relay.scratch.root(), is_attach));
    let name = format!("/proc/{}/fd/0", attach.pid);
    let tty = open(name.as_str(), OFlags::RDONLY | OFlags::NOCTTY, Mode::empty()).expect("its terminal");
    for (ws_row, ws_col, size) in [(0, 80, (80, 24)), (24, 0, (100, 30)), (0, 0, (90, 24))] {
        tcsetwinsize(&tty, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).expect("another size");
        terminal.shows("why it is not drawn", |screen| flat(screen).contains(NO_SIZE));
        terminal.resize(size.0, size.1);
        let drawn = |screen: &str| status_row(screen).contains("Ctrl-] leaves") && !flat(screen).contains(NO_SIZE);
        terminal.shows("the session", drawn);
    }
}
