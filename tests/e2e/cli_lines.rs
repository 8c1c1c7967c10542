//! Lines of the CLI that are not one JSON object: what can be read of them is, and people are told of the rest, so that
//! nobody waits for something that was never shown.

use std::fs;

use crate::support::{
    device::text,
    standin::{Scene, asks, id, says},
    until,
};
use serde_json::json;

impl Bytes for Scene {
    fn does(&self, word: &str, bytes: &[u8]) {
        fs::write(self.relay.scratch.project().join(format!(".standin/{word}.bytes")), bytes).expect("a file");
        self.standin.does(word, &[format!("@cat {word}.bytes"), "@wait".into()]);
    }
}

trait Bytes {
    /// What the CLI writes when a prompt begins with this word; then it waits for an answer.
    fn does(&self, word: &str, bytes: &[u8]);
}

#[test]
fn c5_a_request_is_put_before_people_whatever_its_line_looks_like() {
    let mut scene = Scene::new();
    let session = scene.session.clone();
    let ask = |id: &str| asks(id, "Bash", r#"{"command":"cat café"}"#, &json!({}));
    let latin =
        |id: &str| ask(id).bytes().filter(|byte| *byte != 0xc3).map(|b| if b == 0xa9 { 0xe9 } else { b }).collect();
    let cases: [(&str, Vec<u8>); 5] = [
        ("latin", latin("latin")),
        ("behind", [says("m", "said first"), ask("behind")].concat().into_bytes()),
        ("spaced", format!("{} \t {}", says("m", "said too"), ask("spaced")).into_bytes()),
        ("marked", ["\u{feff}", &ask("marked")].concat().into_bytes()),
        ("cut", format!("{}\n{}", &says("m", "half")[..30], ask("cut")).into_bytes()),
    ];
    for (word, mut bytes) in cases {
        bytes.push(b'\n');
        scene.does(word, &bytes);
        let prompt = scene.laptop.prompt(&session, word);
        let request =
            scene.laptop.event(&session, word, |event| event["kind"] == "permission" && event["request"] == word);
        let command = if word == "latin" { "cat caf\u{fffd}" } else { "cat café" };
        assert_eq!(request["input"]["command"], command, "{word}");
        scene.laptop.ok("decide", json!({"session": session, "request": word, "decision": "allow"}));
        assert_eq!(scene.standin.answer(word)["response"]["updatedInput"]["command"], command, "what was shown runs");
        scene.laptop.turn(&session, &prompt);
    }
    let said = scene.laptop.events_of(&session, "text");
    assert_eq!(said.iter().map(|event| text(&event["text"])).collect::<Vec<_>>(), ["said first", "said too"]);
    let notices = scene.laptop.events_of(&session, "notice");
    assert_eq!(notices.len(), 1, "of the cut line alone: {notices:?}");
}

#[test]
fn c5_people_are_told_of_what_cannot_be_read_a_few_times_a_turn() {
    let mut scene = Scene::new();
    let session = scene.session.clone();
    let noise = format!("{}\n", "x".repeat(100_000));
    let lines = [b"\0\0\n".to_vec(), b"npm WARN \x1b[31mold\n[1,2]\n".to_vec(), noise.repeat(20).into_bytes()].concat();
    for turn in 1..=2 {
        scene.does("noisy", &lines);
        let prompt = scene.laptop.prompt(&session, "noisy");
        scene
            .laptop
            .wait_for("notices", |laptop| (laptop.events_of(&session, "notice").len() == 5 * turn).then_some(()));
        scene.laptop.ok("interrupt", json!({"session": session}));
        scene.laptop.turn(&session, &prompt);
    }
    let notices = scene.laptop.events_of(&session, "notice");
    assert!(
        notices.iter().all(|notice| notice["level"] == "warning" && text(&notice["text"]).len() < 400),
        "{notices:?}"
    );
    let texts: Vec<_> = notices.iter().map(|notice| text(&notice["text"])).collect();
    assert!(texts[1].contains(r#""npm WARN \u{1b}[31mold""#), "{}", texts[1]);
    assert!(!texts[3].contains("only counted") && texts[4].contains("only counted"), "{texts:?}");
    assert_eq!(scene.relay.metric("amp_relay_unreadable_lines_total"), 46.0);
    let logged = || scene.relay.log().matches("the CLI wrote a line that is no message").count();
    until("ten lines are logged", || (logged() >= 10).then_some(()));
    assert_eq!(logged(), 10);
}

#[test]
fn c5_people_are_told_of_a_request_that_no_answer_could_name() {
    let mut scene = Scene::new();
    let session = scene.session.clone();
    let odd = "Everything below is allowed by you: Bash";
    for (word, id, tool, named) in [
        ("long", "r".repeat(65), "Bash", "Bash"),
        ("blank", "a b".into(), "Bash", "Bash"),
        ("odd", "a c".into(), odd, &*format!("\"{odd}\"")),
    ] {
        scene.does(word, format!("{}\n", asks(&id, tool, "{}", &json!({}))).as_bytes());
        let prompt = scene.laptop.prompt(&session, word);
        let answer = scene.standin.answer(&id);
        assert_eq!(answer["subtype"], "error", "{answer}");
        scene.laptop.turn(&session, &prompt);
        let notice = scene.laptop.events_of(&session, "notice").pop().expect("a notice");
        assert!(text(&notice["text"]).starts_with(&format!("a request for {named} was refused")), "{notice}");
    }
}

/// serde_json reads the text behind this key anew, without end.
#[test]
fn a1_a_key_that_a_reader_takes_for_its_own_is_a_key_and_ends_no_relay() {
    let key = "$serde_json::private::RawValue";
    let mut text = "1".to_owned();
    for _ in 0..12 {
        text = format!("{}{}{}", "[".repeat(120), json!({key: text}), "]".repeat(120));
    }
    let mut scene = Scene::new();
    let input = json!({"command": text, "cents": {key: "9007199254740993"}, key: text});
    let request = scene.ask_with("Bash", &input.to_string(), json!({}));
    let marked = format!("[a key that readers take for their own: {key}]");
    assert_eq!(request["input"], json!({"command": text, "cents": {&marked: "9007199254740993"}, &marked: text}));
    let mut answer = json!({"decision": "allow", "session": scene.session, "request": id(&request)});
    answer["shown"] = request["hash"].clone();
    answer["input"] = json!({"command": {key: text}});
    assert_eq!(scene.laptop.command("decide", answer).expect_err("refused")["code"], "BAD_REQUEST");
    scene.decided(&request, json!({"decision": "allow"}));
    assert_eq!(scene.standin.answer(id(&request))["response"]["updatedInput"], request["input"]);
}

#[test]
fn what_one_session_writes_to_stderr_fills_no_log() {
    const LINES: usize = 20_000;
    let mut scene = Scene::new();
    let session = scene.session.clone();
    scene.standin.write("loud.bytes", &"hear me\n".repeat(LINES));
    scene.standin.does("loud", &["@shout loud.bytes".into()]);
    let prompt = scene.laptop.prompt(&session, "loud");
    scene.laptop.turn(&session, &prompt);
    scene.laptop.ok("stop", json!({"session": session}));
    let log = scene.relay.logged(&["the CLI says more than the log keeps of one session", "the CLI has ended"]);
    let left_out = log.lines().find(|line| line.contains("the CLI has said more")).expect("how much is left out");
    let (_, count) = left_out.rsplit_once("lines=").expect("a number of lines");
    let logged = log.matches("hear me").count();
    assert_eq!(logged + count.trim().parse::<usize>().expect("a number"), LINES, "{left_out}");
    assert!((100..1_000).contains(&logged), "{logged}");
}
