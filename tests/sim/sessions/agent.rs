//! A model of the CLI: what it does with prompts, permissions, interrupts and signals, and what a transcript keeps of
//! it when it dies, as observed of the real one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use amp_relay::{
    base::Json,
    claude::{Block, Command, ContentPart, Event, Lifecycle, LoginState, Permission, Start, Turn},
    relay::api::{End, ExitInfo, Launch, Text},
};

use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Begun, and not ended: is run again when a process is told to.
    Broken,
    Finished,
    Interrupted,
}

/// What all processes share: the transcripts, and what was run.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) transcripts: BTreeMap<Text, Vec<(Text, Fate)>>,
    /// For each prompt how often it was begun for itself, and how often run again after a death.
    pub(crate) begun: BTreeMap<Text, (u32, u32)>,
    pub(crate) answered: BTreeSet<Text>,
    pub(crate) deaths: u32,
    /// A CLI that names no prompts and has no lifecycle lines.
    pub(crate) old: bool,
    pub(crate) serial: u64,
}

impl World {
    pub(crate) fn fate(&self, prompt: &str) -> Option<Fate> {
        self.transcripts.values().flatten().rev().find(|(id, _)| **id == *prompt).map(|(_, fate)| *fate)
    }

    fn name(&mut self, what: &str) -> Text {
        self.serial += 1;
        format!("{what}-{}", self.serial).into()
    }
}

enum Step {
    Say(Block, u32),
    Tool {
        ask: bool,
    },
    Retry,
    /// Silent until interrupted; answers probes unless `dead`.
    Hang {
        dead: bool,
    },
}

struct Running {
    prompt: Text,
    lifecycle: Text,
    message: Text,
    blocks: u32,
    steps: VecDeque<Step>,
    /// The tool call under way, and the request it waits for.
    tool: Option<(Text, Option<Text>)>,
}

pub(crate) struct Process {
    pub(crate) launch: Launch,
    pub(crate) input: VecDeque<Command>,
    pub(crate) output: VecDeque<Event>,
    pub(crate) exit: Option<ExitInfo>,
    booted: bool,
    dead_silent: bool,
    closing: bool,
    running: Option<Running>,
    /// Acknowledged again after the turn that covers them.
    covered: Vec<Text>,
}

impl Process {
    pub(crate) fn new(launch: Launch) -> Self {
        Self {
            launch,
            input: VecDeque::new(),
            output: VecDeque::new(),
            exit: None,
            booted: false,
            dead_silent: false,
            closing: false,
            running: None,
            covered: Vec::new(),
        }
    }

    fn ends(&mut self, code: i32) {
        self.running = None;
        self.exit = Some(ExitInfo { code: Some(code), signal: None, stderr: "line\n".into() });
    }

    /// Dies; what it had not got through the pipe is lost with some chance.
    pub(crate) fn dies(&mut self, world: &mut World, rng: &mut Rng) {
        if self.exit.is_none() {
            world.deaths += 1;
            self.running = None;
            self.output.truncate(rng.below(self.output.len() as u64 + 1) as usize);
            self.exit = Some(ExitInfo { code: None, signal: Some(9), stderr: String::new() });
        }
    }

    pub(crate) fn end(&mut self, how: End, world: &mut World, rng: &mut Rng) {
        match how {
            End::CloseStdin => self.closing = true,
            End::Terminate if self.exit.is_none() && !self.dead_silent => self.ends(143),
            End::Terminate => {}
            End::Kill => self.dies(world, rng),
        }
    }

    /// Does the next thing; false when there is nothing to do.
    pub(crate) fn step(&mut self, world: &mut World, rng: &mut Rng, calm: bool) -> bool {
        if self.exit.is_some() || self.dead_silent {
            return false;
        }
        if !self.booted {
            self.boot(world, rng, calm);
            return true;
        }
        if self.running.is_some() && rng.chance(50) && self.go_on(world, rng) {
            return true;
        }
        if let Some(command) = self.input.pop_front() {
            self.read(command, world, rng, calm);
            return true;
        }
        if self.closing && self.running.is_none() {
            self.ends(0);
            return true;
        }
        self.running.is_some() && self.go_on(world, rng)
    }

    fn boot(&mut self, world: &mut World, rng: &mut Rng, calm: bool) {
        self.booted = true;
        let conversation = self.launch.conversation.clone();
        match (self.launch.start == Start::Resume, world.transcripts.get(&conversation)) {
            (true, None) => {
                self.output.push_back(Event::NoConversation);
                return self.ends(1);
            }
            (false, Some(_)) => return self.ends(1),
            (false, None) => return,
            (true, Some(_)) => {}
        }
        let last = world.transcripts[&conversation].last().cloned();
        if let Some((prompt, Fate::Broken)) = last
            && self.launch.rerun
        {
            world.begun.entry(prompt.clone()).or_default().1 += 1;
            let lifecycle = world.name("lifecycle");
            self.begin(prompt, lifecycle, world, rng, calm);
        }
    }

    fn begin(&mut self, prompt: Text, lifecycle: Text, world: &mut World, rng: &mut Rng, calm: bool) {
        self.lifecycle(world, &lifecycle, Lifecycle::Started);
        self.output.push_back(Event::Init { model: Some("model".into()), mode: Some("default".into()) });
        let steps = (0..rng.below(5)).map(|_| match rng.below(if calm { 9 } else { 10 }) {
            0..=4 => Step::Say(if rng.chance(30) { Block::Thinking } else { Block::Text }, 1 + rng.below(4) as u32),
            5..=7 => Step::Tool { ask: rng.chance(60) },
            8 => Step::Retry,
            _ => Step::Hang { dead: rng.chance(50) },
        });
        let steps = steps.collect();
        let message = world.name("message");
        self.running = Some(Running { prompt, lifecycle, message, blocks: 0, steps, tool: None });
    }

    fn lifecycle(&mut self, world: &World, prompt: &Text, state: Lifecycle) {
        if !world.old {
            self.output.push_back(Event::Prompt { prompt: prompt.clone(), state });
        }
    }

    fn decided(&mut self, request: &Text, world: &mut World) {
        assert!(world.answered.insert(request.clone()), "{request} was answered twice");
        if let Some(Running { tool: Some((_, waits)), .. }) = &mut self.running
            && waits.as_ref() == Some(request)
        {
            *waits = None;
        }
    }

    fn read(&mut self, command: Command, world: &mut World, rng: &mut Rng, calm: bool) {
        match command {
            Command::Initialize { .. } => self.output.push_back(Event::Ready {
                version: None,
                login: LoginState::Present,
                mode: Some("default".into()),
            }),
            Command::Prompt { prompt, content, .. } => self.prompted(prompt, &content, world, rng, calm),
            Command::Interrupt { id, .. } => {
                self.abort(world);
                self.output.push_back(Event::Control { id, result: Ok(None) });
            }
            Command::Allow { request, input } => {
                assert_eq!(input, input_of(&request), "what runs is not what was asked");
                self.decided(&request, world);
            }
            Command::Deny { request, .. } => self.decided(&request, world),
            Command::Refuse { .. } => {}
            Command::Probe { id } => self.output.push_back(Event::Control { id, result: Ok(None) }),
            Command::EndSession { id } => {
                self.output.push_back(Event::Control { id, result: Ok(None) });
                self.abort(world);
                self.ends(0);
            }
        }
    }

    fn prompted(&mut self, prompt: Text, content: &[ContentPart], world: &mut World, rng: &mut Rng, calm: bool) {
        assert!(matches!(content, [ContentPart::Text(text)] if !text.is_empty()));
        let conversation = self.launch.conversation.clone();
        let known = world.transcripts.get(&conversation).is_some_and(|all| all.iter().any(|(id, _)| *id == prompt));
        if known && self.running.is_some() {
            self.covered.push(prompt);
        } else if known {
            self.lifecycle(world, &prompt, Lifecycle::Completed);
        } else {
            assert!(self.running.is_none(), "{prompt} came while a turn ran");
            self.lifecycle(world, &prompt, Lifecycle::Queued);
            world.transcripts.entry(conversation).or_default().push((prompt.clone(), Fate::Broken));
            world.begun.entry(prompt.clone()).or_default().0 += 1;
            self.begin(prompt.clone(), prompt, world, rng, calm);
        }
    }

    fn abort(&mut self, world: &mut World) {
        let Some(running) = self.running.take() else { return };
        if let Some((_, Some(request))) = &running.tool {
            self.output.push_back(Event::PermissionWithdrawn { request: request.clone() });
        }
        self.finish(running, world, Fate::Interrupted, false, "aborted_streaming", Lifecycle::Cancelled);
    }

    fn finish(&mut self, run: Running, world: &mut World, fate: Fate, ok: bool, stop: &str, end: Lifecycle) {
        for (id, known) in world.transcripts.get_mut(&self.launch.conversation).into_iter().flatten() {
            if *id == run.prompt {
                *known = fate;
            }
        }
        self.output.push_back(Event::Turn(Turn {
            prompts: if world.old { Vec::new() } else { vec![run.prompt.clone()] },
            ok,
            stop: stop.into(),
            text: "".into(),
            cost_usd: 0.25,
            usage: None,
            duration_ms: 5,
            queued: (!world.old).then_some(0),
            unasked: false,
            login_failed: false,
        }));
        self.lifecycle(world, &run.lifecycle, end);
        for prompt in std::mem::take(&mut self.covered) {
            self.lifecycle(world, &prompt, Lifecycle::Completed);
        }
    }

    /// Goes on with the turn; false when it waits for something.
    fn go_on(&mut self, world: &mut World, rng: &mut Rng) -> bool {
        let Some(mut run) = self.running.take() else { return false };
        if let Some((call, waits)) = &mut run.tool {
            if self.closing {
                *waits = None;
            }
            if waits.is_some() {
                self.running = Some(run);
                return false;
            }
            let text: Text = "x".repeat(rng.below(6000) as usize).into();
            self.output.push_back(Event::ToolResult { call: call.clone(), ok: rng.chance(80), text });
            run.tool = None;
            self.running = Some(run);
            return true;
        }
        match run.steps.pop_front() {
            None => {
                self.finish(run, world, Fate::Finished, true, "completed", Lifecycle::Completed);
                return true;
            }
            Some(Step::Say(kind, pieces)) => self.say(&mut run, kind, pieces),
            Some(Step::Tool { ask }) => {
                let call = world.name("call");
                let request = ask.then(|| world.name("request"));
                let input = input_of(request.as_deref().unwrap_or("x"));
                let tool = Text::from("Bash");
                self.output.push_back(Event::ToolCall {
                    call: call.clone(),
                    tool: tool.clone(),
                    input: input.clone(),
                    parent: None,
                });
                if let Some(request) = request.clone() {
                    let call = Some(call.clone());
                    let about = Arc::from("about");
                    let asked = Permission {
                        request,
                        call,
                        tool,
                        input,
                        unseen: None,
                        about,
                        suggestions: None,
                        questions: None,
                        default_to_no: false,
                        no_always: false,
                        needs_interaction: false,
                    };
                    self.output.push_back(Event::Permission(asked));
                }
                run.tool = Some((call, request));
            }
            Some(Step::Retry) => self.output.push_back(Event::Retry {
                attempt: 1,
                of: 10,
                delay_ms: 500,
                error: "overloaded".into(),
                login_failed: false,
            }),
            Some(Step::Hang { dead }) => {
                self.dead_silent = dead;
                run.steps.push_front(Step::Hang { dead: false });
                self.running = Some(run);
                return false;
            }
        }
        self.running = Some(run);
        true
    }

    fn say(&mut self, run: &mut Running, kind: Block, pieces: u32) {
        let (message, block) = (run.message.clone(), run.blocks);
        run.blocks += 1;
        let mut whole = String::new();
        for piece in 0..pieces {
            let text: Text = format!("{block}·{piece} ").into();
            whole.push_str(&text);
            self.output.push_back(Event::Delta { message: message.clone(), block, kind, text });
        }
        self.output.push_back(Event::Text { message, block, kind, text: whole.into(), parent: None });
    }
}

/// The input of the tool that a request is about: another one for each.
pub(crate) fn input_of(request: &str) -> Json {
    Json::of(&serde_json::json!({ "command": request })).unwrap()
}
