//! A forwarder before the relay whose other end is away for a while: it takes connections and closes them, as `ssh -L` does.

use std::process::Stdio;

use crate::support::{
    self,
    proxy::Proxy,
    relay::{PROGRAM, lines},
    standin::Scene,
    terminal::Terminal,
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
        assert!(said.contains("the other side is no relay: it closed the connection without an answer"), "{said}");
    }
    assert_eq!(wire.turned_away(), 3, "once for each");
}
