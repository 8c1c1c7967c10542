//! Runs an attached session: one thread for the relay's messages, one for keys or lines, and this one, which owns all
//! state and does what the state machines say.

mod keys;
mod left;
mod readers;
mod typed;

use std::{
    collections::HashMap,
    env, io,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::{
    Wanted,
    editor::Key,
    entry::{Change, Entry, Kind},
    face::{Face, Lines},
    model::{ERROR_CHARS, Model},
    ours::{Asks, Ours},
    people::Me,
    said::About,
    theme::Theme,
    window::Window,
    words::{not_shown, unread},
};
use crate::{
    base::Now,
    cli::{out, reach::Reached, text::clean_line, tty},
    client::{Attachment, Connection, Do, Ended, Identity, Incoming, Link, Options, Received, Target, Writer},
};
use readers::{connect_again, read_lines, read_messages, watch_stops};

/// Messages and keys that wait for this thread; readers are held back beyond it.
const WAKES_MAX: usize = 1_024;
/// Bytes of history that a terminal, and one page up, ask for.
const HISTORY_BYTES: u64 = 64 << 10;
/// Bytes of history that `--all` asks for at a time.
const ALL_BYTES: u64 = 1 << 20;

/// Where no deadline is set, the loop looks around once an hour for nothing.
const NO_DEADLINE: Duration = Duration::from_secs(3600);

/// Said where a session of the demo agent is joined.
const DEMO_ANSWERS: &str = "The demo agent answers in this session, with made-up text: it calls no model and runs nothing. It asks \
                            for permission where a prompt has the word `ask`: `please ask me`, for instance.";

/// Said of a prompt that the relay has taken.
const WAITS: &str = "sent as a prompt, which waits until the request is answered";

/// What wakes the thread.
#[derive(Debug)]
pub(super) enum Wake {
    /// A key, and when it was read.
    Key(Key, Instant),
    /// The terminal has another size.
    Resized,
    /// The program is to stop.
    Stop,
    /// It goes on; the terminal may have been another's meanwhile.
    Continued,
    /// A line from the pipe.
    Line(String),
    /// The pipe is at its end.
    LinesEnd,
    /// From the connection of this number.
    Net(u64, Net),
    /// The program is to end.
    Quit,
}

/// What comes from a connection.
#[derive(Debug)]
pub(super) enum Net {
    Connected(Writer, String),
    Failed { why: String, passing: bool },
    Received(Received),
}

/// Attaches, and stays until its end.
pub(super) fn run(reached: Reached, wanted: &Wanted) -> Result<ExitCode, String> {
    tty::guard().map_err(|error| format!("signals cannot be handled: {error}"))?;
    let (to, wakes) = sync_channel(WAKES_MAX);
    let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal() && !wanted.as_json;
    let interactive = on_terminal && tty::draws();
    if on_terminal && !interactive {
        out::note(&as_lines(&wanted.again));
    }
    let face = if interactive {
        let color = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let window = Window::open(Theme { color }).map_err(|error| format!("the terminal cannot be used: {error}"))?;
        keys::read_keys(to.clone()).map_err(|error| error.to_string())?;
        watch_stops(to.clone(), window.hidden()).map_err(|error| format!("signals cannot be handled: {error}"))?;
        Face::Window(Box::new(window))
    } else {
        let credit = read_lines(to.clone())?;
        let is_typed = io::stdin().is_terminal();
        let lines = Lines::new(io::stdout().is_terminal(), wanted.as_json, is_typed, credit);
        Face::Lines(if wanted.all { lines.holding() } else { lines })
    };
    let mut shell = Shell::new(reached, wanted, face, to);
    let ended = shell.run(&wakes, &wanted.again);
    let rest = shell.face.finish();
    if let Some(writer) = &shell.writer {
        writer.close();
    }
    let (left, unanswered) = (shell.left(&wanted.again), shell.unanswered(ended.is_err()));
    drop(shell);
    if interactive {
        let _ = write!(io::stdout(), "{rest}");
    }
    if !unanswered.is_empty() {
        out::note(&unanswered.trim_end());
    }
    if interactive && ended.is_ok() {
        out::note(&left);
    }
    ended
}

/// Why a terminal gets lines. `again`: the command that joins the session.
fn as_lines(again: &str) -> String {
    let term = match env::var_os("TERM").filter(|term| !term.is_empty()) {
        Some(term) => format!("TERM is {}", clean_line(&term.to_string_lossy(), 40)),
        None => "TERM is not set".into(),
    };
    // The hint is one command, which the backticks stand around.
    let command = again.trim_matches('`');
    format!(
        "nothing can be drawn on this terminal ({term}), so what happens is printed line by line: a line sends a prompt, \
         Ctrl-D leaves when it is answered. With a TERM that says what the terminal can do, as in `TERM=xterm {command}`, it is \
         drawn, and what a tool asks can be answered"
    )
}

/// What a command of ours was for, until its answer.
#[derive(Debug)]
enum Pending {
    /// A prompt, which may have been typed. `under_request`: a request waited when it was.
    Prompt { text: String, under_request: bool },
    /// A decision about this request, and what it says, in a line.
    Decision { request: String, answer: String },
    /// A part of an input.
    Fetch,
    /// Earlier events.
    History,
    /// The end of the turn.
    Interrupt,
}

struct Shell {
    target: Target,
    identity: Identity,
    options: Options,
    known: PathBuf,
    /// The connection that is there already when this begins.
    first: Option<(Connection, String)>,
    message_bytes_max: usize,
    link: Link,
    model: Model,
    ours: Ours,
    face: Face,
    all: bool,
    /// Said once, when the session is there.
    notices: Vec<String>,
    writer: Option<Writer>,
    /// Counts connections, so that what an abandoned one still says is not taken for the new one's.
    number: u64,
    to: SyncSender<Wake>,
    started: Instant,
    pending: HashMap<String, Pending>,
    /// When the next attempt to connect is, while there is no connection.
    offline: Option<u64>,
    attached: bool,
    /// It was said that the demo agent answers.
    demo_is_told: bool,
    /// A line of the pipe was not sent, or the relay refused what it asked for.
    refused: bool,
    ended: Option<Result<ExitCode, String>>,
}

impl Shell {
    fn new(reached: Reached, wanted: &Wanted, face: Face, to: SyncSender<Wake>) -> Self {
        let mut seed = [0; 8];
        // Without randomness the attempts of many clients are merely less spread.
        let _ = getrandom::fill(&mut seed);
        let prefix = uuid::Uuid::new_v4().simple().to_string();
        let welcome = &reached.welcome;
        let me = Me {
            principal: welcome.principal.clone(),
            device: welcome.device.clone(),
            name: reached.options.device.clone(),
        };
        let demo = welcome.profiles.iter().filter(|profile| profile.agent == "demo");
        let demo = demo.map(|profile| profile.name.clone()).collect();
        let tail = if face.is_window() { HISTORY_BYTES } else { 0 };
        Self {
            link: Link::new(&wanted.session, &prefix[..12], u64::from_ne_bytes(seed)).with_tail(tail),
            ours: Ours::new(&welcome.principal, &reached.options.device),
            model: Model::new(me, &welcome.role).with_demo(demo),
            message_bytes_max: usize::try_from(welcome.limits.message_bytes).unwrap_or(usize::MAX),
            first: Some((reached.connection, welcome.device.clone())),
            target: reached.target,
            identity: reached.identity,
            options: reached.options,
            known: reached.known,
            face,
            all: wanted.all,
            notices: wanted.notices.clone(),
            writer: None,
            number: 0,
            to,
            started: Instant::now(),
            pending: HashMap::new(),
            offline: None,
            attached: false,
            demo_is_told: false,
            refused: false,
            ended: None,
        }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.mono_ms(Instant::now()), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }

    fn mono_ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    fn run(&mut self, wakes: &Receiver<Wake>, again: &str) -> Result<ExitCode, String> {
        self.connect();
        loop {
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            self.show()?;
            if self.face.is_window() {
                tty::last_words(&self.left(again));
            }
            // What was printed now may be what a line of the pipe waits for.
            if self.run_script() {
                continue;
            }
            let now = self.now().mono_ms;
            let wait = self.deadline_ms().map_or(NO_DEADLINE, |at| Duration::from_millis(at.saturating_sub(now)));
            match wakes.recv_timeout(wait) {
                Ok(wake) => {
                    self.wake(wake);
                    // What came meanwhile is drawn with it.
                    while let Some(wake) = self.ended.is_none().then(|| wakes.try_recv().ok()).flatten() {
                        self.wake(wake);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let todo = self.link.tick(self.now());
                    self.act(todo);
                }
                Err(RecvTimeoutError::Disconnected) => return Err("the program's own threads have ended".into()),
            }
        }
    }

    /// When something is to be done though nothing comes: the link's deadlines, and the turning of the spinner.
    fn deadline_ms(&self) -> Option<u64> {
        let turning = self.face.next_frame_ms(self.turns(), self.now().mono_ms);
        [self.link.deadline_ms(), turning].into_iter().flatten().min()
    }

    fn turns(&self) -> bool {
        self.offline.is_some() || self.model.is_busy() && self.model.state() != "waiting"
    }

    /// Draws what has changed, and asks for what of a card is not here yet.
    fn show(&mut self) -> Result<(), String> {
        if self.face.is_to_front()
            && let Some(action) = self.face.go_on()
        {
            self.action(action);
        }
        self.look_anew();
        let now = self.now();
        let (turns, offline, started) = (self.turns(), self.offline, self.started);
        self.face.asks_others(self.asks() == Some(Asks::Others));
        let mut clock_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.face.show(&mut self.model, turns, offline, now, &mut clock_ms)?;
        if self.attached
            && let Some(fields) = self.model.cards.fetch()
            && let Some(id) = self.command(fields)
        {
            self.pending.insert(id.clone(), Pending::Fetch);
            self.model.cards.fetching(id);
        }
        Ok(())
    }

    /// Where the terminal was another program's meanwhile, nothing that stood on it has been seen.
    fn look_anew(&mut self) {
        if self.face.was_hidden() {
            let now_ms = self.now().mono_ms;
            self.model.cards.drawn(None, now_ms);
        }
    }

    fn wake(&mut self, wake: Wake) {
        self.look_anew();
        match wake {
            Wake::Key(key, at) => {
                let at_ms = self.mono_ms(at);
                if let Some(action) = self.face.key(key, at_ms, self.offline.is_none() && self.model.interrupts()) {
                    self.action(action);
                }
            }
            Wake::Resized => self.face.resized(),
            Wake::Stop => {
                if let Some(action) = self.face.stop() {
                    self.action(action);
                }
            }
            Wake::Continued => {
                if let Some(action) = self.face.go_on() {
                    self.action(action);
                }
            }
            Wake::Line(line) => self.face.line(&line),
            Wake::LinesEnd => self.face.lines_end(),
            Wake::Net(number, net) if number == self.number => self.net(net),
            Wake::Net(..) => {}
            Wake::Quit => self.ended = Some(Ok(ExitCode::SUCCESS)),
        }
    }

    /// Connects on a thread of its own, which then reads.
    fn connect(&mut self) {
        self.number += 1;
        let (number, to) = (self.number, self.to.clone());
        let (target, identity, options, known) =
            (self.target.clone(), self.identity.clone(), self.options.clone(), self.known.clone());
        let first = self.first.take();
        let connecting = move || {
            let connected = match first {
                Some(connection) => Ok(connection),
                None => connect_again(&target, &identity, &options, known),
            };
            let (net, connection) = match connected {
                Ok((connection, device)) => (Net::Connected(connection.writer(), device), Some(connection)),
                Err((why, passing)) => (Net::Failed { why, passing }, None),
            };
            let told = to.send(Wake::Net(number, net)).is_ok();
            if let Some(connection) = connection.filter(|_| told) {
                read_messages(connection, number, &to);
            }
        };
        if let Err(error) = thread::Builder::new().name("relay".into()).spawn(connecting) {
            let todo = self.link.failed(self.now(), &error.to_string(), true);
            self.act(todo);
        }
    }

    fn net(&mut self, net: Net) {
        let now = self.now();
        let todo = match net {
            Net::Connected(writer, device) => {
                self.writer = Some(writer);
                self.model.reconnected(&device);
                self.link.connected(now)
            }
            Net::Failed { why, passing } => self.link.failed(now, &why, passing),
            Net::Received(Received::Text(text)) => return self.message(&text),
            Net::Received(Received::Alive | Received::Nothing) => {
                self.link.alive(now);
                Vec::new()
            }
            Net::Received(Received::Ended(ended)) => {
                self.writer = None;
                self.link.ended(now, &ended)
            }
        };
        self.act(todo);
    }

    fn message(&mut self, text: &str) {
        self.face.stale();
        let shown = self.face.json(text);
        self.check(shown);
        let Some(incoming) = Incoming::parse(text) else {
            let todo = self.link.unreadable(self.now());
            self.note(Kind::Warning, "a message of the relay cannot be read and is not shown; the rest goes on");
            return self.act(todo);
        };
        let (fresh, todo) = self.link.received(self.now(), &incoming);
        match &incoming {
            Incoming::Reply(reply) => match self.pending.remove(&reply.re) {
                Some(Pending::Prompt { under_request, .. }) => {
                    self.ours.taken(reply);
                    let changes = self.model.incoming(&incoming, self.now().mono_ms);
                    self.apply(changes);
                    if under_request && self.is_asked() {
                        self.note(Kind::Note, WAITS);
                    }
                }
                Some(Pending::Fetch) => drop(self.model.cards.fetched(reply)),
                Some(Pending::History) => {
                    let changes = self.model.earlier_came(reply);
                    let shown = self.face.earlier(changes, self.model.earlier().is_some());
                    self.check(shown);
                    self.more_history();
                }
                Some(Pending::Interrupt) => self.interrupted(reply.field("ran").ok().flatten()),
                Some(Pending::Decision { .. }) | None => {
                    let changes = self.model.incoming(&incoming, self.now().mono_ms);
                    self.apply(changes);
                }
            },
            Incoming::Error(error) if fresh => self.failed(error),
            _ if fresh => {
                if let Incoming::Event(event) = &incoming {
                    let pending = &self.pending;
                    let sent = |text: &str| {
                        pending.values().any(|one| matches!(one, Pending::Prompt { text: sent, .. } if sent == text))
                    };
                    self.ours.event(event, sent);
                }
                let changes = self.model.incoming(&incoming, self.now().mono_ms);
                self.apply(changes);
            }
            _ => {}
        }
        self.act(todo);
    }

    /// The relay refused something.
    fn failed(&mut self, error: &crate::client::ErrorMessage) {
        let mut entry = self.model.error(error);
        match error.re.as_ref().and_then(|re| self.pending.remove(re)) {
            Some(Pending::Fetch) => {
                let re = error.re.as_deref().unwrap_or_default();
                self.model.cards.not_fetched(re, &error.message);
                return;
            }
            Some(Pending::Prompt { text, .. }) => {
                let why = self.model.refusal().unwrap_or_else(|| clean_line(&error.message, ERROR_CHARS));
                return self.not_sent(&text, &why);
            }
            Some(Pending::Decision { request, answer }) => {
                if error.code != "ALREADY_DECIDED" {
                    self.model.cards.not_decided(&request);
                    self.refused = true;
                }
                // In a window the card stands beside it.
                if !self.face.is_window() {
                    entry.text += &format!("; not taken: {answer}");
                }
            }
            Some(Pending::Interrupt) => {}
            Some(Pending::History) => {
                self.all = false;
                let shown = self.face.all_came();
                self.check(shown);
            }
            None => self.refused |= error.re.is_some(),
        }
        self.face.say(&entry.text, About::of(&self.model, self.offline.is_some()));
        self.apply(vec![Change::Add(entry)]);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        let shown = self.face.apply(changes, self.ours.runs());
        self.check(shown);
    }

    /// What is shown cannot be shown: that is the end.
    fn check(&mut self, shown: Result<(), Option<String>>) {
        if let Err(why) = shown {
            // Without a reason, the output has no reader any more.
            self.ended.get_or_insert(why.map_or(Ok(ExitCode::SUCCESS), Err));
        }
    }

    fn act(&mut self, todo: Vec<Do>) {
        for item in todo {
            match item {
                Do::Connect => self.connect(),
                Do::Send(text) => self.send(&text),
                Do::Abandon => {
                    self.number += 1;
                    if let Some(writer) = self.writer.take() {
                        writer.abort();
                    }
                }
                Do::GiveUp(why) => {
                    self.ended = Some(Err(clean_line(&why, 400) + self.lost()));
                }
                Do::Streamed(blocks) => {
                    let changes = self.model.streamed(&blocks);
                    self.apply(changes);
                }
                Do::Attached(attachment) => self.attach(*attachment),
                Do::Returned { permissions, unreadable } => {
                    // Where it cannot be read which requests are open, those that were are, until an event closes them.
                    if let Some(permissions) = permissions {
                        self.model.cards.only(permissions);
                    }
                    self.apply(unread(&unreadable).into_iter().collect());
                    if self.offline.take().is_some() {
                        self.note(Kind::Note, "connected again");
                    }
                }
                Do::Resumed { .. } => {}
                Do::Restarted { why } => {
                    let text =
                        format!("the log could not be continued ({}); this is its newest part:", clean_line(&why, 200));
                    self.note(Kind::Warning, &text);
                }
                Do::Skipped { events } => {
                    self.note(Kind::Warning, &not_shown(events));
                }
                Do::Lost { why, retry_ms } => {
                    let at_ms = self.now().mono_ms + retry_ms;
                    if self.offline.replace(at_ms).is_none() {
                        let here = self.start().map(|start| format!(" ({start})")).unwrap_or_default();
                        let text = format!("{}; connecting again{here}", clean_line(&why, 200));
                        self.note(Kind::Warning, &text);
                    }
                }
            }
        }
    }

    fn attach(&mut self, attachment: Attachment) {
        self.offline = None;
        self.attached = true;
        self.ours.attached(&attachment.snapshot);
        let changes = self.model.attached(attachment);
        self.apply(changes);
        let mut notices = std::mem::take(&mut self.notices);
        // It is said once, and not again after a break.
        if self.model.is_demo() && !std::mem::replace(&mut self.demo_is_told, true) {
            notices.insert(0, DEMO_ANSWERS.into());
        }
        for notice in notices {
            self.note(Kind::Note, &notice);
        }
        let shown = self.face.earlier(Vec::new(), self.model.earlier().is_some());
        self.check(shown);
        self.more_history();
    }

    /// With `--all`: asks for the next part of what came before.
    fn more_history(&mut self) {
        if self.all {
            if self.model.earlier().is_some() && !self.face.is_full() {
                self.history(ALL_BYTES);
            } else {
                self.all = false;
                let shown = self.face.all_came();
                self.check(shown);
            }
        }
    }

    fn history(&mut self, bytes: u64) {
        if self.pending.values().any(|pending| matches!(pending, Pending::History)) {
            return;
        }
        let Some(before) = self.model.earlier().cloned() else { return };
        let fields = json!({"type": "history", "before": before, "bytes": bytes});
        if let Some(id) = self.command(fields) {
            self.pending.insert(id, Pending::History);
        }
    }

    /// A send that fails is a connection that ended; its reader may not have noticed yet.
    fn send(&mut self, text: &str) {
        let Some(writer) = &self.writer else { return };
        if let Err(error) = writer.send(text) {
            writer.abort();
            self.writer = None;
            self.number += 1;
            let todo = self.link.ended(self.now(), &Ended::Broken(error.to_string()));
            self.act(todo);
        }
    }

    fn command(&mut self, fields: Value) -> Option<String> {
        match self.link.command(fields) {
            Ok((id, todo)) => {
                self.act(todo);
                Some(id)
            }
            Err(full) => {
                self.say(Kind::Error, &full.to_string());
                None
            }
        }
    }

    /// What a line or a key is answered with: it is to be seen where that was typed, however small the screen is.
    fn say(&mut self, kind: Kind, text: &str) {
        self.face.say(text, About::of(&self.model, self.offline.is_some()));
        self.note(kind, text);
    }

    /// A line about the connection or the program itself.
    fn note(&mut self, kind: Kind, text: &str) {
        self.apply(vec![Change::Add(Entry::new(kind, text))]);
    }
}
