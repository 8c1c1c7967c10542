//! The machine, driven by a clock of the test's own, and heard by the translator that hears the CLI.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{history::History, machine::Machine, options::Options, voice::Output};
use crate::claude::{Block, Command, ContentPart, Event, Lifecycle, codec};

const CONVERSATION: &str = "05e1f001-4d7f-4517-86a2-a102f08f356c";

/// A machine with everything it said, as the relay understands it.
struct Demo {
    machine: Machine,
    translator: codec::Translator,
    now_ms: u64,
    events: Vec<Event>,
    records: Vec<Value>,
    stderr: Vec<String>,
    exit: Option<u8>,
}

impl Demo {
    fn new() -> Self {
        Self::with(&[], |_| {})
    }

    /// The process that follows one with these records.
    fn resumed(records: &[Value], rerun: bool) -> Self {
        Self::with(records, |options| (options.resume, options.rerun) = (true, rerun))
    }

    fn with(records: &[Value], change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options { asks: true, partial: true, replay: true, state_events: true, ..Options::default() };
        change(&mut options);
        let history = History::read(records.iter().cloned());
        let mut machine = Machine::new(options, CONVERSATION.to_owned(), history, 42);
        machine.start(0);
        let translator = codec::Translator::new();
        let mut demo = Self {
            machine,
            translator,
            now_ms: 0,
            events: vec![],
            records: records.to_vec(),
            stderr: vec![],
            exit: None,
        };
        demo.collect();
        demo
    }

    fn collect(&mut self) {
        for output in self.machine.take() {
            match output {
                Output::Line(line) => self.translator.line(line.to_string().as_bytes(), &mut self.events),
                Output::Record(record) => self.records.push(record),
                Output::Stderr(line) => self.stderr.push(line),
                Output::Exit(code) => assert_eq!(self.exit.replace(code), None, "it exits once"),
            }
        }
        assert_eq!(self.translator.malformed(), 0);
    }

    fn tell(&mut self, command: &Command) {
        let mut line = Vec::new();
        codec::encode(command, &mut line);
        self.say(&line);
    }

    fn say(&mut self, line: &[u8]) {
        self.machine.line(line.strip_suffix(b"\n").unwrap_or(line), self.now_ms);
        self.collect();
    }

    fn prompt(&mut self, uuid: &str, text: &str) {
        self.tell(&Command::Prompt { prompt: uuid.into(), content: vec![ContentPart::Text(text.into())], now: false });
    }

    /// Lets time pass up to the next thing that happens; false when nothing will.
    fn step(&mut self) -> bool {
        let Some(due) = self.machine.due() else { return false };
        self.now_ms = self.now_ms.max(due);
        self.machine.advance(self.now_ms);
        self.collect();
        true
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    fn until(&mut self, holds: impl Fn(&Event) -> bool) -> Event {
        loop {
            if let Some(event) = self.events.iter().find(|event| holds(event)) {
                return event.clone();
            }
            assert!(self.step(), "it never came: {:#?}", self.events);
        }
    }

    fn permission(&mut self) -> Arc<str> {
        let Event::Permission(permission) = self.until(|event| matches!(event, Event::Permission(_))) else {
            unreachable!("asked for")
        };
        assert_eq!((&*permission.tool, permission.input.as_str().contains("echo demo")), ("Bash", true));
        permission.request
    }

    fn turns(&self) -> Vec<(&str, bool, Vec<&str>)> {
        let turns = self.events.iter().filter_map(|event| match event {
            Event::Turn(turn) => Some((&*turn.stop, turn.ok, turn.prompts.iter().map(|uuid| &**uuid).collect())),
            _ => None,
        });
        turns.collect()
    }

    fn texts(&self) -> String {
        let texts = self.events.iter().filter_map(|event| match event {
            Event::Text { text, .. } => Some(&**text),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("|")
    }

    fn lifecycle(&self, uuid: &str) -> Vec<Lifecycle> {
        let states = self.events.iter().filter_map(|event| match event {
            Event::Prompt { prompt, state } if &**prompt == uuid => Some(*state),
            _ => None,
        });
        states.collect()
    }

    fn has(&self, event: &Event) -> bool {
        self.events.contains(event)
    }
}

#[test]
fn a_prompt_is_answered_in_streamed_pieces_within_two_seconds() {
    let mut demo = Demo::new();
    demo.tell(&Command::Initialize { id: "r1".into() });
    assert!(matches!(&demo.events[..], [Event::Ready { version: Some(_), .. }]));
    demo.prompt("u", "what is the weather like?");
    demo.settle();
    assert!(demo.now_ms < 2000, "{} ms", demo.now_ms);
    let mut streamed = String::new();
    let mut pieces = 0;
    for event in &demo.events {
        if let Event::Delta { text, block: 0, kind: Block::Text, .. } = event {
            streamed.push_str(text);
            pieces += 1;
        }
    }
    assert!((10..=30).contains(&pieces), "{pieces} pieces");
    assert_eq!(streamed, demo.texts());
    assert!(streamed.contains("what is the weather like?"));
    assert_eq!(demo.lifecycle("u"), [Lifecycle::Queued, Lifecycle::Started, Lifecycle::Completed]);
    assert_eq!(demo.turns(), [("completed", true, vec!["u"])]);
    assert!(demo.has(&Event::Echoed { prompt: "u".into() }));
    assert_eq!(demo.events.last(), Some(&Event::Idle));
}

#[test]
fn prompts_queue_and_the_end_of_stdin_waits_for_them() {
    let mut demo = Demo::new();
    demo.prompt("a", "one");
    demo.prompt("b", "two");
    demo.machine.eof(demo.now_ms);
    demo.settle();
    assert_eq!(demo.turns(), [("completed", true, vec!["a"]), ("completed", true, vec!["b"])]);
    assert!(demo.texts().contains("1 earlier prompt"));
    assert_eq!(demo.exit, Some(0));
}

#[test]
fn an_allowed_tool_runs_and_a_denied_one_does_not() {
    for allow in [true, false] {
        let mut demo = Demo::new();
        demo.prompt("u", "please Ask me first");
        let request = demo.permission();
        assert!(demo.machine.due().is_none(), "it waits for ever");
        let input = crate::base::Json::parse("{\"command\":\"echo demo\"}").expect("JSON");
        demo.tell(&if allow {
            Command::Allow { request: request.clone(), input }
        } else {
            Command::Deny { request: request.clone(), message: "rather not".into() }
        });
        // A late second answer is ignored.
        demo.tell(&Command::Deny { request, message: "too late".into() });
        demo.settle();
        let results: Vec<_> = demo
            .events
            .iter()
            .filter_map(|event| match event {
                Event::ToolResult { ok, text, .. } => Some((*ok, &**text)),
                _ => None,
            })
            .collect();
        assert_eq!(results, [if allow { (true, "demo") } else { (false, "rather not") }]);
        assert_eq!(demo.turns(), [("completed", true, vec!["u"])]);
    }
}

#[test]
fn a_turn_without_the_word_asks_nothing() {
    let mut demo = Demo::new();
    demo.prompt("u", "a task for a mask");
    demo.settle();
    assert!(!demo.events.iter().any(|event| matches!(event, Event::Permission(_))));
}

#[test]
fn an_interrupt_keeps_what_was_said_and_the_process() {
    let mut demo = Demo::new();
    demo.prompt("u", "tell me something");
    demo.prompt("v", "then this");
    demo.until(|event| matches!(event, Event::Delta { .. }));
    let before = demo.now_ms;
    demo.tell(&Command::Interrupt { id: "i".into(), cancel_queued: false });
    demo.until(|event| matches!(event, Event::Turn(_)));
    assert!((20..=120).contains(&(demo.now_ms - before)));
    assert_eq!(demo.turns(), [("aborted_streaming", false, vec!["u"])]);
    assert!(!demo.texts().is_empty());
    assert_eq!(demo.lifecycle("u").last(), Some(&Lifecycle::Cancelled));
    let Event::Control { result: Ok(Some(answer)), .. } = demo.until(|event| matches!(event, Event::Control { .. }))
    else {
        panic!("no answer")
    };
    assert_eq!(answer.as_str(), "{\"still_queued\":[\"v\"]}");
    demo.settle();
    assert_eq!(demo.turns().last(), Some(&("completed", true, vec!["v"])));
    demo.tell(&Command::Interrupt { id: "idle".into(), cancel_queued: true });
    assert_eq!(demo.exit, None);
}

#[test]
fn an_interrupt_withdraws_the_permission_before_it_is_answered() {
    let mut demo = Demo::new();
    demo.prompt("u", "ask");
    let request = demo.permission();
    demo.tell(&Command::Interrupt { id: "i".into(), cancel_queued: true });
    let withdrawn =
        demo.events.iter().position(|event| *event == Event::PermissionWithdrawn { request: request.clone() });
    let answered = demo.events.iter().position(|event| matches!(event, Event::Control { .. }));
    assert!(withdrawn.expect("withdrawn") < answered.expect("answered"));
    demo.settle();
    assert_eq!(demo.turns(), [("aborted_tools", false, vec!["u"])]);
    assert!(demo.events.iter().any(|event| matches!(event, Event::ToolResult { ok: false, .. })));
}

#[test]
fn a_known_prompt_is_acknowledged_and_not_run_again() {
    let mut demo = Demo::new();
    demo.prompt("u", "hello");
    demo.prompt("u", "hello");
    demo.settle();
    demo.prompt("u", "hello");
    demo.settle();
    assert_eq!(demo.turns().len(), 1);
    let mut next = Demo::resumed(&demo.records, true);
    next.prompt("u", "hello");
    next.settle();
    assert_eq!((next.turns().len(), next.lifecycle("u")), (0, vec![Lifecycle::Completed]));
    next.prompt("v", "and now");
    next.settle();
    assert!(next.texts().contains("1 earlier prompt"), "{}", next.texts());
    let cost = |demo: &Demo| {
        demo.events.iter().rev().find_map(|event| match event {
            Event::Turn(turn) => Some(turn.cost_usd),
            _ => None,
        })
    };
    assert!(cost(&next) > cost(&demo), "the cost goes on");
}

#[test]
fn a_turn_that_died_is_run_again_once_when_asked_for() {
    let mut died = Demo::new();
    died.prompt("u", "hello");
    died.until(|event| matches!(event, Event::Delta { .. }));
    let mut next = Demo::resumed(&died.records, true);
    next.prompt("u", "hello");
    next.settle();
    assert_eq!(next.turns(), [("completed", true, vec!["u"])]);
    assert_eq!(next.lifecycle("u"), [Lifecycle::Completed]);
    // Without being asked for, the prompt runs when it comes again.
    let mut plain = Demo::resumed(&died.records, false);
    assert_eq!(plain.machine.due(), None);
    plain.prompt("u", "hello");
    plain.settle();
    assert_eq!(plain.turns().len(), 1);
}

#[test]
fn a_turn_that_died_while_it_asked_asks_again_or_counts_as_done() {
    let mut died = Demo::new();
    died.prompt("u", "ask");
    let first = died.permission();
    let mut next = Demo::resumed(&died.records, true);
    next.prompt("u", "ask");
    assert_eq!(next.lifecycle("u"), [Lifecycle::Completed]);
    assert_ne!(next.permission(), first);
    let mut plain = Demo::resumed(&died.records, false);
    plain.prompt("u", "ask");
    plain.settle();
    assert_eq!((plain.turns().len(), plain.lifecycle("u")), (0, vec![Lifecycle::Completed]));
}

#[test]
fn a_turn_that_died_after_its_tool_does_not_run_it_again() {
    let mut died = Demo::new();
    died.prompt("u", "ask");
    let request = died.permission();
    died.tell(&Command::Deny { request, message: "no".into() });
    died.until(|event| matches!(event, Event::ToolResult { .. }));
    let mut next = Demo::resumed(&died.records, true);
    next.settle();
    assert!(!next.events.iter().any(|event| matches!(event, Event::Permission(_))));
    assert!(next.texts().contains("did not run: no"));
    assert_eq!(next.turns(), [("completed", true, vec!["u"])]);
}

#[test]
fn an_interrupted_turn_stays_interrupted() {
    let mut died = Demo::new();
    died.prompt("u", "hello");
    died.until(|event| matches!(event, Event::Delta { .. }));
    died.tell(&Command::Interrupt { id: "i".into(), cancel_queued: false });
    died.settle();
    assert_eq!(Demo::resumed(&died.records, true).machine.due(), None);
}

#[test]
fn end_session_ends_it_idle_and_in_a_turn() {
    let mut demo = Demo::new();
    demo.tell(&Command::EndSession { id: "e".into() });
    assert_eq!(demo.exit, Some(0));
    let mut demo = Demo::new();
    demo.prompt("u", "hello");
    demo.until(|event| matches!(event, Event::Delta { .. }));
    demo.tell(&Command::EndSession { id: "e".into() });
    demo.settle();
    assert_eq!((demo.exit, demo.turns()[0].0), (Some(1), "aborted_streaming"));
}

#[test]
fn the_end_of_stdin_refuses_what_waits_for_a_person() {
    let mut demo = Demo::new();
    demo.prompt("u", "ask");
    demo.permission();
    demo.machine.eof(demo.now_ms);
    demo.settle();
    assert!(demo.texts().contains("stream closed"));
    assert_eq!((demo.exit, demo.turns()), (Some(0), vec![("completed", true, vec!["u"])]));
}

#[test]
fn control_requests_are_answered_in_the_middle_of_a_turn() {
    let mut demo = Demo::new();
    demo.prompt("u", "hello");
    demo.until(|event| matches!(event, Event::Delta { .. }));
    demo.tell(&Command::Probe { id: "p".into() });
    demo.say(
        &json!({"type":"control_request","request_id":"x","request":{"subtype":"nonsense"}}).to_string().into_bytes(),
    );
    let answers: Vec<_> = demo
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Control { id, result } => Some((&**id, result.is_ok())),
            _ => None,
        })
        .collect();
    assert_eq!(answers, [("p", true), ("x", false)]);
    let mode =
        json!({"type":"control_request","request_id":"m","request":{"subtype":"set_permission_mode","mode":"plan"}});
    demo.say(mode.to_string().as_bytes());
    assert!(demo.has(&Event::Settings { model: None, mode: Some("plan".into()) }));
}

#[test]
fn a_bad_line_ends_it_and_an_unknown_one_does_not() {
    for line in ["", " ", "[]", "5", "{}", r#"{"type":"new"}"#, r#"{"type":"control_response","response":{}}"#] {
        let mut demo = Demo::new();
        demo.say(line.as_bytes());
        assert_eq!((demo.exit, demo.stderr.len()), (None, 0), "{line}");
    }
    for line in ["{oops", r#"{"type":"control_request","request_id":"r"}"#, r#"{"type":"user","message":{"role":"x"}}"#]
    {
        let mut demo = Demo::new();
        demo.prompt("u", "hello");
        demo.say(line.as_bytes());
        assert_eq!((demo.exit, demo.stderr.len()), (Some(1), 1), "{line}");
        assert!(!demo.stderr[0].is_empty());
    }
}
