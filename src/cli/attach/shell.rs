//! Runs an attached session: one thread for the relay's messages, one for keys or lines, and this one, which owns all
//! state and does what the state machines say.

use std::{
    collections::HashMap,
    env, io,
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::{
    editor::{Action, Editor, Key},
    screen::Screen,
    script::{Doing, Script},
    style::Style,
    terminal::{Raw, read_keys, width},
    view::{Row, View},
};
use crate::{
    base::Now,
    cli::{reach::Reached, text::clean_line},
    client::{Connection, Do, Ended, Identity, Incoming, KnownRelays, Link, Options, Received, Target, Writer},
};

/// Messages and keys that wait for this thread; readers are held back beyond it.
const WAKES_MAX: usize = 256;
/// Lines of a pipe that are read ahead.
const LINES_MAX: usize = 64;

/// Where no deadline is set, the loop looks around once an hour for nothing.
const NO_DEADLINE: Duration = Duration::from_secs(3600);

/// What wakes the thread.
#[derive(Debug)]
pub(super) enum Wake {
    /// A key.
    Key(Key),
    /// The terminal's new width.
    Width(u16),
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
    Connected(Writer),
    Failed { why: String, passing: bool },
    Received(Received),
}

/// Attaches, and stays until its end.
pub(super) fn run(reached: Reached, session: &str, as_json: bool) -> Result<ExitCode, String> {
    let (to, wakes) = sync_channel(WAKES_MAX);
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal() && !as_json;
    let color = interactive && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut shell = Shell::new(reached, session, Style { color }, to.clone(), as_json);
    let raw = if interactive {
        shell.view = Some(View::new(width()));
        shell.screen.has_row();
        let raw = Raw::enter().map_err(|error| format!("the terminal cannot be put into raw mode: {error}"))?;
        watch_signals(to.clone())?;
        read_keys(to).map_err(|error| error.to_string())?;
        let help = shell.style.dim("Enter sends · y, n answer · Ctrl-C interrupts the agent · Ctrl-] detaches");
        let help = shell.screen.line(&help);
        shell.show(&help);
        Some(raw)
    } else {
        shell.credit = Some(read_lines(to)?);
        None
    };
    let ended = shell.run(&wakes);
    let rest = shell.view.as_mut().map(View::finish).unwrap_or_default();
    let _ = io::stdout().write_all(rest.as_bytes()).and_then(|()| io::stdout().flush());
    if let Some(writer) = &shell.writer {
        writer.close();
    }
    drop(raw);
    if interactive && ended.is_ok() && shell.screen.is_over() {
        eprintln!("detached; the session is over");
    } else if interactive && ended.is_ok() {
        let short: String = session.chars().take(8).collect();
        eprintln!("detached; the session goes on: `amp-relay attach {short}` joins it again");
    }
    ended
}

/// SIGTERM and SIGHUP end the program in order, so that the terminal is given back.
fn watch_signals(to: SyncSender<Wake>) -> Result<(), String> {
    let signals = [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
    let mut signals = signal_hook::iterator::Signals::new(signals).map_err(|error| error.to_string())?;
    let watching = move || {
        if signals.forever().next().is_some() {
            let _ = to.send(Wake::Quit);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watching).map(drop).map_err(|error| error.to_string())
}

/// Reads lines as long as there is credit: each line takes one, and gives it back when it was carried out.
fn read_lines(to: SyncSender<Wake>) -> Result<Receiver<()>, String> {
    let (credit, used) = sync_channel(LINES_MAX);
    let reading = move || {
        let mut input = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 => {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if credit.send(()).is_err() || to.send(Wake::Line(line)).is_err() {
                        return;
                    }
                }
                _ => break,
            }
        }
        let _ = to.send(Wake::LinesEnd);
    };
    thread::Builder::new().name("lines".into()).spawn(reading).map_err(|error| error.to_string())?;
    Ok(used)
}

/// Reads a connection to its end.
fn read_messages(mut connection: Connection, number: u64, to: &SyncSender<Wake>) {
    loop {
        let received =
            connection.receive(None).unwrap_or_else(|error| Received::Ended(Ended::Broken(error.to_string())));
        let last = matches!(received, Received::Ended(_));
        if to.send(Wake::Net(number, Net::Received(received))).is_err() || last {
            return;
        }
    }
}

/// Connects without a person to ask: the relay was accepted at the first connection. An error says whether another
/// try may help.
fn connect_again(
    target: &Target,
    identity: &Identity,
    options: &Options,
    known: PathBuf,
) -> Result<Connection, (String, bool)> {
    let mut pins = KnownRelays::load(known).map_err(|error| (error.to_string(), false))?;
    match Connection::connect(target, identity, options, &mut pins) {
        Ok((connection, _)) => Ok(connection),
        Err(error) => Err((error.to_string(), error.is_passing())),
    }
}

struct Shell {
    target: Target,
    identity: Identity,
    options: Options,
    known: PathBuf,
    /// The connection that is there already when this begins.
    first: Option<Connection>,
    message_bytes_max: usize,
    link: Link,
    screen: Screen,
    style: Style,
    editor: Editor,
    script: Script,
    view: Option<View>,
    credit: Option<Receiver<()>>,
    as_json: bool,
    writer: Option<Writer>,
    /// Counts connections, so that what an abandoned one still says is not taken for the new one's.
    number: u64,
    to: SyncSender<Wake>,
    started: Instant,
    /// Requests by the id of our answer to them.
    deciding: HashMap<String, String>,
    offline: bool,
    attached: bool,
    /// The relay refused a line of the pipe.
    refused: bool,
    ended: Option<Result<ExitCode, String>>,
}

impl Shell {
    fn new(reached: Reached, session: &str, style: Style, to: SyncSender<Wake>, as_json: bool) -> Self {
        let mut seed = [0; 8];
        // Without randomness the attempts of many clients are merely less spread.
        let _ = getrandom::fill(&mut seed);
        let prefix = uuid::Uuid::new_v4().simple().to_string();
        Self {
            link: Link::new(session, &prefix[..12], u64::from_ne_bytes(seed)),
            screen: Screen::new(style, &reached.options.device, &reached.welcome.role),
            message_bytes_max: usize::try_from(reached.welcome.limits.message_bytes).unwrap_or(usize::MAX),
            first: Some(reached.connection),
            target: reached.target,
            identity: reached.identity,
            options: reached.options,
            known: reached.known,
            style,
            editor: Editor::default(),
            script: Script::default(),
            view: None,
            credit: None,
            as_json,
            writer: None,
            number: 0,
            to,
            started: Instant::now(),
            deciding: HashMap::new(),
            offline: false,
            attached: false,
            refused: false,
            ended: None,
        }
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms, unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }

    fn run(&mut self, wakes: &Receiver<Wake>) -> Result<ExitCode, String> {
        self.connect();
        loop {
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            let now = self.now().mono_ms;
            let wait = self.link.deadline_ms().map_or(NO_DEADLINE, |at| Duration::from_millis(at.saturating_sub(now)));
            match wakes.recv_timeout(wait) {
                Ok(wake) => self.wake(wake),
                Err(RecvTimeoutError::Timeout) => {
                    let todo = self.link.tick(self.now());
                    self.act(todo);
                }
                Err(RecvTimeoutError::Disconnected) => return Err("the program's own threads have ended".into()),
            }
            self.run_script();
        }
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Key(key) => {
                let action = self.editor.key(key, self.screen.asks().is_some(), self.screen.is_busy());
                self.action(action);
            }
            Wake::Width(width) => {
                if let Some(view) = &mut self.view {
                    view.resize(width);
                }
                self.show("");
            }
            Wake::Line(line) => self.script.line(&line),
            Wake::LinesEnd => self.script.end(),
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
                Ok(connection) => (Net::Connected(connection.writer()), Some(connection)),
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
            Net::Connected(writer) => {
                self.writer = Some(writer);
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
        if self.as_json {
            self.print(text);
            self.print("\n");
        }
        let Some(incoming) = Incoming::parse(text) else { return };
        if let Incoming::Error(error) = &incoming
            && let Some(request) = error.re.as_ref().and_then(|re| self.deciding.remove(re))
            && error.code != "ALREADY_DECIDED"
        {
            self.screen.not_decided(&request);
        }
        if let Incoming::Reply(reply) = &incoming {
            self.deciding.remove(&reply.re);
        }
        let (fresh, todo) = self.link.received(self.now(), &incoming);
        match &incoming {
            // Into a pipe go answers; what went wrong is for the person who reads stderr.
            Incoming::Error(error) if fresh && self.view.is_none() => {
                self.refused |= error.re.is_some() && error.code != "ALREADY_DECIDED";
                eprintln!("{}", self.screen.error_text(error));
            }
            _ if fresh => {
                let shown = self.screen.incoming(&incoming);
                self.show(&shown);
            }
            _ => {}
        }
        self.act(todo);
    }

    fn act(&mut self, todo: Vec<Do>) {
        for item in todo {
            let shown = match item {
                Do::Connect => {
                    self.connect();
                    continue;
                }
                Do::Send(text) => {
                    self.send(&text);
                    continue;
                }
                Do::Abandon => {
                    self.number += 1;
                    if let Some(writer) = self.writer.take() {
                        writer.abort();
                    }
                    continue;
                }
                Do::GiveUp(why) => {
                    let lost = match self.link.unanswered() {
                        0 => "",
                        _ => "; what was typed since was not carried out",
                    };
                    self.ended = Some(Err(clean_line(&why, 400) + lost));
                    continue;
                }
                Do::Streamed(blocks) => self.screen.streamed(&blocks),
                Do::Attached(fields) => {
                    (self.offline, self.attached) = (false, true);
                    self.screen.attached(&fields)
                }
                Do::Returned if self.offline => {
                    self.offline = false;
                    self.say("connected again");
                    continue;
                }
                Do::Returned | Do::Resumed { .. } => continue,
                Do::Restarted { why } => {
                    let text =
                        format!("the log could not be continued ({}); this is its newest part:", clean_line(&why, 200));
                    self.note(self.style.warn(&text));
                    continue;
                }
                Do::Lost { why, .. } if !self.offline => {
                    self.offline = true;
                    let text = format!("the connection is lost ({}); connecting again …", clean_line(&why, 200));
                    self.note(self.style.warn(&text));
                    continue;
                }
                Do::Lost { .. } => continue,
            };
            self.show(&shown);
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

    fn action(&mut self, action: Action) {
        match action {
            Action::Edit => self.show(""),
            Action::Submit(text) => {
                self.show("");
                if json!(text).to_string().len() + 512 > self.message_bytes_max {
                    return self
                        .say(&format!("the prompt is too large: the relay takes {} bytes", self.message_bytes_max));
                }
                let taken = self.command(json!({"type": "prompt", "text": text})).is_some();
                if taken && self.offline {
                    self.say("kept; it is sent when the relay is back");
                }
            }
            Action::Answer(allow) => {
                let Some(request) = self.screen.asks().map(|open| open.request.clone()) else { return };
                self.screen.deciding(&request);
                let decision = if allow { "allow" } else { "deny" };
                let command = json!({"type": "decide", "request": request, "decision": decision});
                if let Some(id) = self.command(command) {
                    self.deciding.insert(id, request);
                }
                self.show("");
            }
            Action::Interrupt if self.screen.is_busy() => {
                self.command(json!({"type": "interrupt"}));
            }
            Action::Interrupt => self.say("nothing runs that could be interrupted; Ctrl-] detaches"),
            Action::Detach => {
                let failed = self.view.is_none() && (self.screen.is_over() || self.refused);
                self.ended = Some(Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }));
            }
        }
    }

    fn command(&mut self, fields: Value) -> Option<String> {
        match self.link.command(fields) {
            Ok((id, todo)) => {
                self.act(todo);
                Some(id)
            }
            Err(full) => {
                self.say(&full.to_string());
                None
            }
        }
    }

    /// Carries out lines of a pipe, as far as the session allows.
    fn run_script(&mut self) {
        while self.credit.is_some() && self.attached && self.ended.is_none() {
            let waiting = self.script.waiting();
            let doing = Doing {
                asked: self.screen.asks().is_some(),
                working: self.screen.is_working() || self.link.unanswered() > 0,
            };
            let action = self.script.next(doing);
            for _ in self.script.waiting()..waiting {
                let _ = self.credit.as_ref().map(Receiver::try_recv);
            }
            match action {
                Some(action) => self.action(action),
                None => return,
            }
        }
    }

    fn say(&mut self, text: &str) {
        self.note(self.style.dim(text));
    }

    /// A line about the connection or the program itself; without a terminal it goes to stderr, as answers go to stdout.
    fn note(&mut self, text: String) {
        if self.view.is_none() {
            eprintln!("{text}");
            return;
        }
        let line = self.screen.line(&text);
        self.show(&line);
    }

    fn show(&mut self, shown: &str) {
        if self.as_json {
            return;
        }
        let bytes = match &mut self.view {
            None => shown.to_owned(),
            Some(view) => {
                let asked = self.screen.asks().is_some();
                let prompt = if self.offline {
                    "(offline) > "
                } else if asked && self.editor.is_empty() {
                    "allow? [y/n] "
                } else {
                    "> "
                };
                let (before, after) = self.editor.parts();
                let always = asked || self.offline || !self.screen.is_busy();
                view.draw(shown, Row { prompt, before, after, always })
            }
        };
        self.print(&bytes);
    }

    fn print(&mut self, bytes: &str) {
        let mut out = io::stdout().lock();
        if !bytes.is_empty() && out.write_all(bytes.as_bytes()).and_then(|()| out.flush()).is_err() {
            // Nobody reads any more.
            self.ended = Some(Ok(ExitCode::SUCCESS));
        }
    }
}
