//! A forwarder before the relay whose other end is away for a while: it takes connections and closes them, as `ssh -L` does.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    self,
    proxy::Proxy,
    relay::{PROGRAM, lines},
    standin::{Scene, says},
    terminal::{Terminal, flat},
    until,
};

/// Tries that were turned away, so that it shows what comes of more than one.
const TRIES: usize = 3;

#[test]
fn attach_goes_on_when_the_relay_behind_a_forwarder_is_back() {
    let mut scene = Scene::new();
    let wire = Proxy::to(scene.tcp());
    let command = format!("{PROGRAM} attach {}", scene.reach(wire.address).join(" "));
    let terminal = Terminal::run(&scene.relay.scratch, &command);
    terminal.shows("the session", |screen| screen.contains("ready"));
    wire.goes_away();
    until("it has tried more than once", || (wire.turned_away() >= TRIES).then_some(()));
    let screen = terminal.screen();
    assert!(screen.contains("connecting again") && !screen.contains("ended with"), "{screen}");
    wire.comes_back();
    terminal.shows("that it is back", |screen| screen.contains("connected again"));
    scene.say("said after the break");
    terminal.shows("the session", |screen| screen.contains("said after the break"));
}

/// `attach` with the owner's key through this address, on a terminal of 80 columns.
fn attached_through(scene: &Scene, address: std::net::SocketAddr) -> Terminal {
    let command = format!("{PROGRAM} attach {}", scene.reach(address).join(" "));
    let terminal = Terminal::sized(&scene.relay.scratch, &command, 80, 24);
    terminal.shows("the session", |screen| screen.contains("ready"));
    terminal
}

/// Types a line until what it leads to is to be seen: one that comes too early is no answer.
fn answers(terminal: &Terminal, line: &str, seen: &str) {
    until("the answer is taken", || {
        let early = |screen: &str| screen.matches("half a second").count();
        let before = early(&terminal.screen());
        terminal.line(line);
        let screen =
            terminal.shows("what became of it", |screen| early(screen) > before || flat(screen).contains(seen));
        flat(&screen).contains(seen).then_some(())
    });
}

/// The session has the decision, and no prompt came of what was typed after it.
fn decided_without_a_prompt(scene: &mut Scene, request: &Value) {
    let session = scene.session.clone();
    let is_it = |event: &Value| event["kind"] == "decision" && event["request"] == request["request"];
    let decision = scene.laptop.event(&session, "the decision", is_it);
    assert_eq!(decision["decision"], "allow", "{decision}");
    scene.laptop.sync();
    let prompts = scene.laptop.events_of(&session, "prompt");
    assert!(prompts.iter().all(|prompt| prompt["text"] != "n because"), "{prompts:?}");
}

#[test]
fn an_interrupt_while_the_relay_is_away_interrupts_nothing_later() {
    let mut scene = Scene::new();
    scene.standin.does("work", &["@until go".into()]);
    scene.standin.does("next", &[says("m", "done")]);
    let wire = Proxy::to(scene.tcp());
    let terminal = attached_through(&scene, wire.address);
    let session = scene.session.clone();
    terminal.line("work");
    scene
        .laptop
        .event(&session, "that it runs", |event| event["kind"] == "prompt_state" && event["state"] == "running");
    wire.goes_away();
    terminal.shows("that it is away", |screen| screen.contains("connecting again"));
    terminal.keys(&["C-c"]);
    terminal.shows("why not", |screen| flat(screen).contains("so nothing can be interrupted"));
    wire.comes_back();
    terminal.shows("that it is back", |screen| screen.contains("connected again"));
    // What it had kept would be sent before this.
    terminal.line("next");
    scene.laptop.event(&session, "the next prompt", |event| event["kind"] == "prompt" && event["text"] == "next");
    scene.standin.write("go", "");
    scene.laptop.event(&session, "its answer", |event| event["kind"] == "text" && event["text"] == "done");
    let interrupts = scene.standin.received().into_iter().filter(|line| line["request"]["subtype"] == "interrupt");
    assert_eq!(interrupts.count(), 0);
}

#[test]
fn a_correction_of_an_answer_that_is_kept_is_no_prompt() {
    let mut scene = Scene::new();
    let wire = Proxy::to(scene.tcp());
    let terminal = attached_through(&scene, wire.address);
    let request = scene.ask("Bash", &json!({"command": "echo demo"}));
    terminal.shows("the card", |screen| screen.contains("y: allow"));
    wire.goes_away();
    terminal.shows("that it is away", |screen| screen.contains("connecting again"));
    answers(&terminal, "y", "kept: your answer (allow) to Bash(echo demo); it is sent when the relay is back");
    terminal.shows("that an answer waits", |screen| screen.contains("offline, your answer waits: connecting"));
    terminal.line("n because");
    let said = "not sent: your answer to this request is on its way";
    terminal.shows("that it is no prompt", |screen| screen.contains(said));
    wire.comes_back();
    terminal.shows("that it is back", |screen| screen.contains("connected again") && screen.contains("✓ allowed"));
    decided_without_a_prompt(&mut scene, &request);
}

#[test]
fn a_correction_of_an_answer_that_the_relay_has_not_read_is_no_prompt() {
    let mut scene = Scene::new();
    let terminal = scene.attached(80, 24);
    let request = scene.ask("Bash", &json!({"command": "echo demo"}));
    terminal.shows("the card", |screen| screen.contains("y: allow") && screen.contains("a request waits"));
    scene.relay.signal(Signal::STOP);
    answers(&terminal, "y", "your answer is on its way");
    terminal.line("n because");
    terminal.shows("that it is no prompt", |screen| screen.contains("not sent: your answer to this request is on"));
    scene.relay.signal(Signal::CONT);
    terminal.shows("that it is taken", |screen| screen.contains("✓ allowed"));
    decided_without_a_prompt(&mut scene, &request);
}

#[test]
fn leaving_tells_an_answer_that_came_to_nothing() {
    let mut scene = Scene::new();
    let wire = Proxy::to(scene.tcp());
    let [kept, sent] = [attached_through(&scene, wire.address), scene.attached(80, 24)];
    scene.ask("Bash", &json!({"command": "echo demo"}));
    [&kept, &sent].iter().for_each(|terminal| drop(terminal.shows("the card", |screen| screen.contains("y: allow"))));
    wire.goes_away();
    kept.shows("that it is away", |screen| screen.contains("connecting again"));
    answers(&kept, "n because", "kept: your answer (deny: because) to Bash(echo demo)");
    scene.relay.signal(Signal::STOP);
    answers(&sent, "y", "your answer is on its way");
    for (terminal, said) in [
        (&kept, "not sent: your answer (deny: because) to Bash(echo demo)"),
        (&sent, "which may or may not have taken it: your answer (allow) to Bash(echo demo)"),
    ] {
        terminal.keys(&["C-]"]);
        let screen = terminal.shows("the end", |screen| screen.contains("ended with"));
        assert!(flat(&screen).contains(said), "{screen}");
    }
    scene.relay.signal(Signal::CONT);
}

#[test]
fn listen_goes_on_when_the_relay_behind_a_forwarder_is_back() {
    let scene = Scene::new();
    let wire = Proxy::to(scene.tcp());
    let reach = scene.reach(wire.address);
    let mut command = scene.relay.scratch.command(["listen"]);
    let mut child = command.args(reach).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let notes = lines(child.stderr.take().expect("a pipe"));
    let next = || notes.recv_timeout(support::DEADLINE).expect("it goes on");
    let said = next();
    assert!(said.contains("listening as"), "{said}");
    wire.goes_away();
    for _ in 0..TRIES {
        let said = next();
        assert!(said.starts_with("not connected (") && said.contains("next try in"), "{said}");
    }
    wire.comes_back();
    until("it listens again", || next().contains("listening as").then_some(()));
    child.kill().expect("it runs still");
    child.wait().expect("its status");
}

#[test]
fn a_first_connection_that_is_closed_unanswered_is_an_error() {
    let scene = Scene::new();
    let wire = Proxy::to(scene.tcp());
    wire.goes_away();
    for verb in ["attach", "listen", "sessions"] {
        let mut arguments = vec![verb.to_owned()];
        arguments.extend(scene.reach(wire.address));
        let said = scene.relay.scratch.run(arguments).refused();
        assert!(said.contains("is the relay running, and the tunnel to it open?"), "{said}");
    }
    assert_eq!(wire.turned_away(), 3, "once for each");
}
