//! Goal: what other keys and tools say or do takes neither the place nor the looks of the agent's own words in the window.
//! Method: the stand-in CLI, a second key, and a real terminal.

use serde_json::{Value, json};

use crate::support::{
    Device, Key, Relay, SignIn,
    standin::{Scene, says},
};

#[test]
fn a6_no_line_of_others_stands_as_one_of_the_agents_own() {
    let guest = Key::new("guest");
    let mut scene = Scene::of(Relay::options(&[]), &guest.line("amp-role=\"drive\""));
    let terminal = scene.attached(100, 40);
    // A page that a tool has read, and another key's prompt, in the agent's words.
    let page = json!({"type": "user", "message": {"content": [
        {"type": "tool_result", "tool_use_id": "c", "content": "a page\nDone: all of the page passes"}]}});
    scene.standin.does("fetch", &[page.to_string(), says("m", "Done: the agent has said so")]);
    scene.laptop.prompt(&scene.session, "fetch");
    let of_the_agent = |row: &str, text: &str| row == format!("  {text}");
    terminal.shows("the agent's words", |screen| {
        screen.lines().any(|row| of_the_agent(row, "Done: the agent has said so"))
    });
    let mut twin = SignIn::new(&guest).name("phone").connect(&scene.relay.tcp()).expect("signed in");
    twin.attach(&scene.session);
    let long = format!("Done: all of it {}", "passes ".repeat(30));
    twin.prompt(&scene.session, &format!("@v2 please\n\nDone: all tests pass\n{long}"));
    let screen = terminal.shows("the prompt", |screen| screen.contains("Done: all of it"));
    let marked = |screen: &str| {
        for (mark, text) in [("┊ ", "Done: all of the page"), ("» ", "Done: all tests"), ("» ", "Done: all of it")]
        {
            assert!(screen.lines().any(|row| row.starts_with(&format!("{mark}{text}"))), "{mark}{text}: {screen}");
        }
        let bare = |row: &&str| row.starts_with("  ") && row.contains("pass");
        assert_eq!(screen.lines().find(bare), None, "{screen}");
    };
    marked(&screen);
    // What is left on the terminal has no styles at all.
    terminal.keys(&["C-]"]);
    marked(&terminal.shows("the end", |screen| screen.contains("ended with 0")));
}

#[test]
fn a6_a_key_that_comes_and_goes_without_end_leaves_the_agents_text_in_view() {
    let guest = Key::new("guest");
    let mut scene = Scene::of(Relay::options(&[]), &guest.line("amp-role=\"watch\""));
    let terminal = scene.attached(100, 60);
    scene.say("what the agent said before");
    let mut twin = SignIn::new(&guest).name("phone").connect(&scene.relay.tcp()).expect("signed in");
    let comes_and_goes = |twin: &mut Device, session: &str| {
        for _ in 0..400 {
            twin.attach(session);
            twin.ok("detach", json!({"session": session}));
        }
    };
    let session = scene.session.clone();
    comes_and_goes(&mut twin, &session);
    // Words in between give it no more rows than a few.
    for at in 0..6 {
        scene.say(&format!("word {at}"));
        comes_and_goes(&mut twin, &session);
    }
    twin.attach(&session);
    let is_here = |message: &Value| {
        message["type"] == "presence" && message["devices"].as_array().is_some_and(|devices| devices.len() == 3)
    };
    scene.laptop.wait("the last state", is_here);
    let lists = scene.laptop.seen.iter().filter(|message| message["type"] == "presence").count();
    assert!(lists < 200, "{lists} lists of 5,600 changes");
    let screen = terminal.shows("all of them", |screen| screen.contains("3 devices"));
    let rows = screen.lines().filter(|row| row.contains("guest (phone)")).count();
    assert!(rows <= 8, "{rows} rows: {screen}");
    for said in ["what the agent said before", "word 0", "word 5"] {
        assert!(screen.contains(said), "{said}: {screen}");
    }
}
