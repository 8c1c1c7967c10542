//! Goal: what a client of ours cannot read is never "nothing there": it is said, the rest goes on, and nothing is decided
//! on it. Method: a wire alters what the relay says.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::support::{
    proxy::{self, Proxy},
    relay::{PROGRAM, Ran, Scratch},
    standin::Scene,
    terminal::{Terminal, flat},
    until,
};

/// What is put in the place of what, in all that the relay says.
type Odd = Arc<Mutex<Option<(&'static str, &'static str)>>>;

const ABOUT: (&str, &str) = (r#""about":""#, r#""about":7,"was":""#);
const COST: (&str, &str) = (r#""cost_usd":"#, r#""cost_usd":"x","was":"#);
const FOLDER: (&str, &str) = (r#""folder":"#, r#""folder":7,"was":"#);
const SESSIONS: (&str, &str) = (r#""sessions":["#, r#""sessions":7,"was":["#);
const PERMISSIONS: (&str, &str) = (r#""permissions":["#, r#""permissions":7,"was":["#);
const VERSION: &str = "is the relay another version?";

fn altered(odd: &Odd, text: String) -> String {
    match *odd.lock().expect("a lock") {
        // What it says of itself at the beginning is another matter.
        Some((from, to)) if !text.contains(r#""type":"welcome""#) => text.replace(from, to),
        _ => text,
    }
}

fn set(odd: &Odd, to: Option<(&'static str, &'static str)>) {
    *odd.lock().expect("a lock") = to;
}

/// A wire to the relay on which everything is altered so.
fn wire(scene: &Scene, first: Option<(&'static str, &'static str)>) -> (Proxy, Odd) {
    let odd: Odd = Arc::new(Mutex::new(first));
    let shared = Arc::clone(&odd);
    (Proxy::altering(scene.tcp(), move |text| altered(&shared, text)), odd)
}

/// `attach` on a terminal, at the other end of a wire.
fn terminal(scene: &Scene, wire: &Proxy) -> Terminal {
    let attach = format!("{PROGRAM} attach {} {}", scene.reach(wire.address).join(" "), scene.session);
    Terminal::run(&scene.relay.scratch, &attach)
}

/// A verb at the other end of a wire, with this input.
fn piped(scene: &Scene, wire: &Proxy, verb: &str, input: &str) -> Ran {
    let mut command = scene.relay.scratch.command([verb]);
    let command = command.args(scene.reach(wire.address)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    // One that refuses reads nothing.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    Ran::from(child.wait_with_output().expect("it ends"))
}

/// Prompts that say this.
fn said(scene: &mut Scene, line: &str) -> usize {
    scene.laptop.sync();
    let prompts = scene.laptop.events_of(&scene.session, "prompt");
    prompts.iter().filter(|event| event["text"] == line).count()
}

#[test]
fn c5_a_request_that_cannot_be_read_whole_can_only_be_denied() {
    let mut scene = Scene::new();
    let (wire, _) = wire(&scene, Some(ABOUT));
    // In the snapshot, on a pipe and on a terminal.
    let request = scene.ask("Bash", &json!({"command": "touch x"}));
    let ran = piped(&scene, &wire, "attach", "y\n");
    assert!(!ran.status.success() && ran.out.is_empty(), "{ran:?}");
    let told = flat(&ran.err);
    assert!(told.contains("cannot be read (`about`; is the relay another version?)"), "{ran:?}");
    assert!(told.contains("it can only be denied here"), "{ran:?}");
    let terminal = terminal(&scene, &wire);
    terminal.shows("that there is a request", |screen| flat(screen).contains("cannot be read (`about`;"));
    denied(&mut scene, &terminal, &request);
    // And as it comes.
    let request = scene.ask("Bash", &json!({"command": "touch y"}));
    terminal.shows("that there is another", |screen| screen.contains("touch y"));
    denied(&mut scene, &terminal, &request);
    assert_eq!(said(&mut scene, "y"), 0, "an answer is no prompt");
}

/// The request is not allowed by a line, and denied by one.
fn denied(scene: &mut Scene, terminal: &Terminal, request: &Value) {
    // What was said since the last decision.
    let news = |screen: &str| flat(screen).rsplit('✗').next().unwrap_or_default().to_owned();
    let refused = |screen: &str| news(screen).contains("can only be denied here");
    until("the answer is refused", || {
        terminal.line("y");
        let screen =
            terminal.shows("a word about the line", |screen| refused(screen) || news(screen).contains("half a second"));
        refused(&screen).then_some(())
    });
    assert_eq!(scene.answers(terminal, "n", request)["decision"], "deny");
}

#[test]
fn c5_a_snapshot_that_cannot_be_read_is_not_an_empty_one() {
    let mut scene = Scene::new();
    let (wire, odd) = wire(&scene, None);
    let terminal = terminal(&scene, &wire);
    let request = scene.ask("Bash", &json!({"command": "touch x"}));
    terminal.shows("the card", |screen| screen.contains("y: allow"));
    set(&odd, Some(PERMISSIONS));
    wire.cut();
    // What was open stays, and can be answered.
    terminal.shows("that it is back", |screen| {
        let screen = flat(screen);
        screen.contains("cannot be read (`snapshot`)")
            && screen.contains("connected again")
            && screen.contains("y: allow")
    });
    let decision = scene.answers(&terminal, "y", &request);
    assert_eq!(decision["decision"], "allow", "{decision}");
    // Who joins does not learn what waits, and says nothing to the agent.
    scene.ask("Bash", &json!({"command": "touch y"}));
    let ran = piped(&scene, &wire, "attach", "y\n");
    assert!(!ran.status.success() && ran.err.contains(VERSION), "{ran:?}");
    let late = self::terminal(&scene, &wire);
    late.shows("why not", |screen| flat(screen).contains(VERSION) && screen.contains("ended with 1"));
    assert_eq!(said(&mut scene, "y"), 0);
    // A field that nothing is decided on costs itself.
    set(&odd, Some(COST));
    let late = self::terminal(&scene, &wire);
    late.shows("the card", |screen| {
        screen.contains("y: allow") && flat(screen).contains("cannot be read (`cost_usd`)")
    });
}

#[test]
fn c5_a_list_that_cannot_be_read_is_not_an_empty_one() {
    let scene = Scene::new();
    let (wire, odd) = wire(&scene, Some(COST));
    let ran = piped(&scene, &wire, "sessions", "");
    let row = ran.out.lines().find(|line| line.starts_with(&scene.session[..8]));
    assert!(row.is_some_and(|row| row.ends_with('?')) && ran.err.contains("(`cost_usd`)"), "{ran:?}");
    assert!(ran.err.contains(VERSION), "{ran:?}");
    piped(&scene, &wire, "attach", "").ok();
    set(&odd, Some(SESSIONS));
    for verb in ["sessions", "attach"] {
        let ran = piped(&scene, &wire, verb, "");
        assert!(!ran.status.success() && ran.err.contains("(`sessions`)") && ran.err.contains(VERSION), "{ran:?}");
        assert!(!ran.err.contains("no sessions"), "{ran:?}");
    }
    let ran = piped(&scene, &wire, "down", "");
    assert!(
        ran.status.success() && ran.err.contains("its live sessions, whose list cannot be read, with it"),
        "{ran:?}"
    );
}

#[test]
fn c5_up_starts_no_second_session_beside_one_that_it_cannot_read() {
    let scratch = Scratch::new();
    let up = format!("AMP_RELAY_LISTEN=127.0.0.1:0 AMP_RELAY_DEMO=1 {PROGRAM} up");
    let run = || Terminal::run(&scratch, &up);
    let is_there = |screen: &str| screen.contains("Ctrl-] leaves");
    run().shows("the session", is_there);
    let socket = scratch.home().join(".local/state/amp-relay/relay.sock");
    let moved = socket.with_extension("moved");
    std::fs::rename(&socket, &moved).expect("a socket");
    let odd: Odd = Arc::new(Mutex::new(Some(COST)));
    let shared = Arc::clone(&odd);
    proxy::altering_socket(&socket, &moved, move |text| altered(&shared, text));
    run().shows("the session", is_there);
    for part in [FOLDER, SESSIONS] {
        set(&odd, Some(part));
        run().shows("why not", |screen| flat(screen).contains(VERSION) && screen.contains("ended with 1"));
    }
    set(&odd, None);
    let listed: Value = serde_json::from_str(&scratch.run(["sessions", "--json"]).ok()).expect("a list");
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
}

#[test]
fn c5_a_message_that_cannot_be_read_is_said_and_the_rest_goes_on() {
    let mut scene = Scene::new();
    let odd = |text: String| match ["odd fact", "new kind", "no json"].iter().find(|said| text.contains(*said)) {
        Some(&"odd fact") => text.replace(r#""text":"#, r#""text":7,"was":"#),
        Some(&"new kind") => text.replace(r#""kind":"text""#, r#""kind":"dance""#),
        Some(_) => "{".into(),
        None => text,
    };
    let wire = Proxy::altering(scene.tcp(), odd);
    let mut command = scene.relay.scratch.command(["attach", "--all"]);
    let command = command.args(scene.reach(wire.address)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    scene.laptop.wait("it is there", |message| {
        message["type"] == "presence" && message["devices"].as_array().is_some_and(|devices| devices.len() == 2)
    });
    for said in ["whole one", "odd fact", "whole two", "new kind", "whole three", "no json", "whole four"] {
        scene.say(said);
    }
    // It leaves when its input ends, whatever others have just said.
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map(|line| line.expect("a line"));
    let shown: Vec<String> = lines.by_ref().take(4).collect();
    assert_eq!(shown, ["whole one", "whole two", "whole three", "whole four"]);
    drop(child.stdin.take());
    let ran = Ran::from(child.wait_with_output().expect("it ends with its input"));
    assert!(ran.status.success(), "{ran:?}");
    let told = flat(&ran.err);
    let count = |note: &str| told.matches(note).count();
    assert_eq!(count("an event of the relay cannot be read and is not shown"), 1, "{ran:?}");
    assert_eq!(count("a message of the relay cannot be read and is not shown; the rest goes on"), 1, "{ran:?}");
    assert_eq!(count("1 event of the relay cannot be read and is not shown"), 1, "{ran:?}");
    assert_eq!(count("cannot be read"), 3, "a kind of the future is no fault: {ran:?}");
}
