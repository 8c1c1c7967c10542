//! What is said on the way out: how the session goes on when its window is left, what became of what was typed, and that a
//! turn does not end.

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    process,
    proxy::Proxy,
    relay::PROGRAM,
    standin::Scene,
    terminal::{Terminal, flat},
    until,
};

/// `attach` with the owner's key through this address.
fn attached_through(scene: &Scene, address: std::net::SocketAddr) -> Terminal {
    let line = format!("{PROGRAM} attach {}", scene.reach(address).join(" "));
    let terminal = Terminal::sized(&scene.relay.scratch, &line, 160, 30);
    terminal.shows("the session", |screen| screen.contains("Ctrl-"));
    terminal
}

/// Leaves, and gives what is said then.
fn left(terminal: &Terminal) -> String {
    terminal.keys(&["C-]"]);
    flat(&terminal.shows("the end", |screen| screen.contains("ended with")))
}

/// Types a prompt that leaves the editor, as one does that is sent or kept.
fn types(terminal: &Terminal, prompt: &str) {
    terminal.keys(&[prompt]);
    terminal.shows("what is typed", |screen| screen.contains(prompt));
    terminal.keys(&["Enter"]);
    terminal.shows("that it is taken", |screen| !screen.contains(prompt));
}

#[test]
fn leaving_says_how_the_session_goes_on() {
    let mut scene = Scene::new();
    let first = scene.attached(160, 30);
    let session = scene.session.clone();
    let said = left(&first);
    let again = said.split_once("detached; the session goes on: `").expect("how it goes on").1;
    let (again, rest) = again.split_once('`').expect("a command");
    assert!(again.contains(&format!("amp-relay attach {}", &session[..8])), "{said}");
    assert_eq!(rest, " joins it again ended with 0");
    let second = scene.attached(160, 30);
    scene.laptop.ok("stop", json!({"session": session, "now": true}));
    second.shows("its end", |screen| screen.contains("stopped"));
    let said = left(&second);
    assert!(said.contains("detached; the session is over ended with") && !said.contains("goes on"), "{said}");
}

#[test]
fn a_signal_that_ends_the_window_says_how_the_session_goes_on() {
    let scene = Scene::new();
    for (signal, is_said) in [(Signal::TERM, true), (Signal::INT, true), (Signal::QUIT, true), (Signal::HUP, false)] {
        let terminal = scene.attached(160, 30);
        let is_attach = |one: &process::Process| one.command.starts_with(PROGRAM) && one.command.contains(" attach ");
        let attach = until("it runs", || process::agent(scene.relay.scratch.root(), is_attach));
        process::signal(attach.pid, signal);
        let said = flat(&terminal.shows("the end", |screen| screen.contains("ended with")));
        let again = format!("amp-relay attach {}", &scene.session[..8]);
        let goes_on = said.contains("detached; the session goes on: `") && said.contains(&again);
        assert_eq!(goes_on && said.contains("` joins it again"), is_said, "{signal:?}: {said}");
        assert!(said.ends_with(&format!("ended with {}", 128 + signal.as_raw())), "{said}");
    }
}

#[test]
fn leaving_without_a_relay_says_what_became_of_what_was_typed() {
    let scene = Scene::new();
    let looks = scene.attached(160, 30);
    let [sent, kept, both] = [(); 3].map(|()| scene.attached(160, 30));
    let far = attached_through(&scene, scene.tcp());
    // The relay stands still: what is sent has no answer.
    scene.relay.signal(Signal::STOP);
    [&sent, &both].into_iter().for_each(|terminal| types(terminal, "before"));
    scene.relay.signal(Signal::KILL);
    for terminal in [&looks, &sent, &kept, &both, &far] {
        terminal.shows("that it is away", |screen| screen.contains("connecting again"));
    }
    for terminal in [&kept, &both] {
        types(terminal, "behind");
        terminal.shows("that it is kept", |screen| screen.contains("kept; it is sent when"));
    }
    let away = "detached; the relay cannot be reached";
    let (mine, none) =
        ("typed, and not sent: behind", "typed, and not answered by the relay, which may have it: before");
    let starts = format!(" up --data {}` starts one on this machine", scene.relay.scratch.data().display());
    for (terminal, lines, tells) in [
        (&looks, [false, false], ""),
        (&sent, [true, false], "; what was typed last was sent, and not answered"),
        (&kept, [false, true], "; what was typed since was not sent"),
        (&both, [true, true], "; of what was typed last a part was sent and not answered, and the rest was not sent"),
    ] {
        let said = left(terminal);
        assert!(said.contains(&format!("{away}{tells}; `")) && said.contains(&*starts), "{said}");
        assert_eq!([said.contains(none), said.contains(mine)], lines, "{said}");
    }
    let said = left(&far);
    let again = said.split_once(&format!("{away}; `")).expect("what to do").1;
    assert!(again.contains("amp-relay attach ") && !said.contains(&*starts), "{said}");
    assert!(again.contains("` joins the session again when the way to it is open"), "{said}");
}

#[test]
fn an_interrupt_of_an_agent_that_gives_no_sign_says_what_ends_the_session() {
    let mut scene = Scene::new();
    scene.standin.does("long", &["@until never".into()]);
    let wire = Proxy::altering(scene.tcp(), |text| text.replace(r#""state":"busy""#, r#""state":"stuck""#));
    let stuck = attached_through(&scene, wire.address);
    let session = scene.session.clone();
    scene.laptop.prompt(&session, "long");
    stuck.shows("its state", |screen| screen.contains("stuck") && screen.contains("Ctrl-C interrupts"));
    stuck.keys(&["C-c"]);
    stuck.shows("what ends it", |screen| {
        flat(screen).contains("told to stop, and no sign of life: `amp-relay stop --now` ends the session")
    });
}
