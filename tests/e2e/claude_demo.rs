//! The demo agent as a process: killed, resumed, asked and ended as the CLI would be.

use std::path::Path;

use crate::claude_support::{self, Driver, Exit};
use amp_relay::claude::{
    Command, ContentPart, Event, LoginState, Start,
    arguments::{Arguments, arguments},
    codec::{self, Translator},
    environment::{Changes, environment},
    guard::GuardProgram,
    process::Spawn,
};
use rustix::process::Signal;

const CONVERSATION: &str = "0b2d3c4e-5f60-4711-8213-141516171819";

struct Demo {
    driver: Driver,
    translator: Translator,
    heard: usize,
    events: Vec<Event>,
}

impl Demo {
    fn start(home: &Path, resume: bool) -> Self {
        let start = if resume { Start::Resume } else { Start::New };
        let with = Arguments { conversation: CONVERSATION, start, ..Arguments::default() };
        let parent = [("HOME".into(), home.into()), ("PATH".into(), "/usr/bin:/bin".into())];
        let program = env!("CARGO_BIN_EXE_amp-relay");
        let driver = Driver::spawn(&Spawn {
            program: program.into(),
            arguments: std::iter::once("demo-agent".into()).chain(arguments(&with)).collect(),
            environment: environment(parent, &Changes::default(), resume),
            folder: home.to_path_buf(),
            guard: GuardProgram::at(program),
        });
        Self { driver: driver.expect("started"), translator: Translator::new(), heard: 0, events: vec![] }
    }

    fn tell(&mut self, command: &Command) {
        let mut line = Vec::new();
        codec::encode(command, &mut line);
        self.driver.process.write_line(&line).expect("room");
    }

    fn prompt(&mut self, uuid: &str, text: &str) {
        self.tell(&Command::Prompt { prompt: uuid.into(), content: vec![ContentPart::Text(text.into())], now: false });
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Event) -> bool) -> Event {
        loop {
            if let Some(event) = self.events.iter().find(|event| holds(event)) {
                return event.clone();
            }
            let heard = self.heard;
            self.driver.until(what, |driver| driver.lines.len() > heard);
            for line in &self.driver.lines[heard..] {
                self.translator.line(line.as_bytes(), &mut self.events);
            }
            self.heard = self.driver.lines.len();
        }
    }

    fn until_turn(&mut self) -> (String, bool) {
        match self.until("turn", |event| matches!(event, Event::Turn(_))) {
            Event::Turn(turn) => (turn.text.to_string(), turn.ok),
            _ => unreachable!("asked for"),
        }
    }

    fn end(mut self) -> Exit {
        self.driver.process.close_stdin();
        self.driver.until_exit()
    }
}

#[test]
fn a_killed_turn_is_run_again_by_the_next_process_and_nothing_is_forgotten() {
    let home = tempfile::tempdir().expect("a folder");
    let mut first = Demo::start(home.path(), false);
    first.tell(&Command::Initialize { id: "r1".into() });
    let ready = first.until("reply", |event| matches!(event, Event::Ready { .. }));
    assert!(matches!(ready, Event::Ready { login: LoginState::Present, .. }));
    first.prompt("u1", "the first thing");
    assert!(first.until_turn().0.contains("the first thing"));
    first.events.clear();
    first.prompt("u2", "the second thing");
    first.until("delta", |event| matches!(event, Event::Delta { .. }));
    first.driver.process.kill();
    assert_eq!(first.driver.until_exit().signal, Some(9));

    let mut next = Demo::start(home.path(), true);
    next.tell(&Command::Initialize { id: "r1".into() });
    next.prompt("u2", "the second thing");
    let (text, ok) = next.until_turn();
    assert!(ok && text.contains("the second thing") && text.contains("1 earlier prompt"), "{text}");
    next.events.clear();
    next.prompt("u3", "the third thing");
    assert!(next.until_turn().0.contains("2 earlier prompts"));
    assert_eq!(next.end(), Exit { code: Some(0), signal: None, stderr_tail: String::new() });
}

#[test]
fn an_id_in_use_and_an_unknown_one_are_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let mut unknown = Demo::start(home.path(), true);
    unknown.until("result", |event| *event == Event::NoConversation);
    let exit = unknown.driver.until_exit();
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr_tail.starts_with("No conversation found"), "{exit:?}");
    let mut first = Demo::start(home.path(), false);
    first.prompt("u", "hello");
    first.until_turn();
    assert_eq!(first.end().code, Some(0));
    let mut again = Demo::start(home.path(), false);
    let exit = again.driver.until_exit();
    assert_eq!((exit.code, again.driver.lines.len()), (Some(1), 0));
    assert!(exit.stderr_tail.contains("already in use"), "{exit:?}");
}

#[test]
fn it_asks_and_ends_in_order_and_by_signals() {
    let home = tempfile::tempdir().expect("a folder");
    let mut demo = Demo::start(home.path(), false);
    demo.prompt("u", "ask me");
    let Event::Permission(permission) = demo.until("permission", |event| matches!(event, Event::Permission(_))) else {
        unreachable!("asked for")
    };
    demo.tell(&Command::Allow { request: permission.request, input: permission.input });
    assert!(demo.until_turn().0.contains("printed: demo"));
    demo.driver.process.terminate();
    assert_eq!(demo.driver.until_exit().code, Some(143));

    let mut demo = Demo::start(home.path(), true);
    demo.prompt("v", "hello");
    demo.until("delta", |event| matches!(event, Event::Delta { .. }));
    demo.driver.until("pid", |driver| driver.process.cli_pid().is_some());
    claude_support::kill(demo.driver.process.cli_pid().expect("just told"), Signal::INT);
    assert!(!demo.until_turn().1);
    assert_eq!(demo.driver.until_exit().code, Some(0));

    let mut demo = Demo::start(home.path(), true);
    demo.driver.process.write_line(b"{oops\n").expect("room");
    let exit = demo.driver.until_exit();
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr_tail.contains("Error parsing"), "{exit:?}");
}
