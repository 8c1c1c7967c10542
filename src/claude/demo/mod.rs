//! The demo agent: a scripted stand-in for the CLI that speaks its lines, needs no login and costs nothing. The machine
//! is sans-io; this shell gives it stdin, signals, the clock and a transcript file. It calls no model and runs nothing.

mod history;
mod machine;
mod options;
mod speech;
#[cfg(test)]
mod tests;
mod turn;
mod voice;

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use self::{history::History, machine::Machine, options::Options, voice::Output};
use super::codec::{LineSplitter, Split};

enum Input {
    Line(Vec<u8>),
    End,
    Signal(i32),
}

/// Said to a person who runs it by hand: it is for programs.
const FOR_PROGRAMS: &str = "\
demo-agent is what amp-relay runs in the place of Claude Code, whose flags and lines of JSON it takes.
`amp-relay up --demo` shows it on a terminal.";

/// Runs the demo agent. `arguments` are those of the CLI, without the program's name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.peekable();
    match arguments.peek().map(|first| first.to_string_lossy()).as_deref() {
        None => {
            let _ = writeln!(io::stderr(), "{FOR_PROGRAMS}");
            return ExitCode::from(2);
        }
        Some("--help" | "-h" | "help") => {
            let _ = writeln!(io::stdout(), "{FOR_PROGRAMS}");
            return ExitCode::SUCCESS;
        }
        Some(_) => {}
    }
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            let _ = writeln!(io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<u8, String> {
    let mut options = Options::parse(arguments)?;
    if options.version {
        let said = writeln!(io::stdout(), "{} (Claude Code)", machine::VERSION);
        return said.map(|()| 0).map_err(|error| error.to_string());
    }
    if !options.verbose {
        return Err("Error: When using --print, --output-format=stream-json requires --verbose".to_owned());
    }
    let set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
    options.rerun = set("CLAUDE_CODE_RESUME_INTERRUPTED_TURN");
    options.state_events = set("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS");
    options.folder = std::env::current_dir().map_err(|error| format!("Error: {error}"))?;
    if options.newest {
        options.conversation = Transcript::newest(&options.folder)?;
        options.resume = options.conversation.is_some();
    }
    let conversation = options.conversation.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let transcript = Transcript::at(&options.folder, &conversation)?;
    if options.resume && !transcript.path.exists() {
        let error = format!("No conversation found with session ID: {conversation}");
        let line = json!({"type":"result","subtype":"error_during_execution","is_error":true,"duration_ms":0,
            "num_turns":0,"session_id":conversation,"total_cost_usd":0,"errors":[error],"result_index":0});
        let _ = writeln!(io::stdout(), "{line}");
        return Err(error);
    }
    if !options.resume && transcript.path.exists() {
        return Err(format!("Error: Session ID {conversation} is already in use."));
    }
    let history = transcript.read()?;
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let inputs = inputs().map_err(|error| format!("Error: {error}"))?;
    Shell { machine: Machine::new(options, conversation, history, seed), transcript, started: Instant::now() }
        .run(&inputs)
}

/// Threads for what blocks: stdin and signals.
fn inputs() -> io::Result<Receiver<Input>> {
    // A bound, so that a flood of lines waits in the pipe.
    let (sender, receiver) = sync_channel(16);
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let signalled = sender.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signalled.send(Input::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    std::thread::Builder::new().name("stdin".into()).spawn(move || read_stdin(&sender))?;
    Ok(receiver)
}

fn read_stdin(sender: &SyncSender<Input>) {
    let mut lines = LineSplitter::default();
    let mut buffer = vec![0; 64 << 10];
    let mut send = |split: Split<'_>| {
        if let Split::Line(line) = split {
            // The receiver is gone only at the end of the process.
            let _ = sender.send(Input::Line(line.to_vec()));
        }
    };
    loop {
        match io::stdin().read(&mut buffer) {
            Ok(count) if count > 0 => lines.push(&buffer[..count], &mut send),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    lines.finish(&mut send);
    let _ = sender.send(Input::End);
}

struct Shell {
    machine: Machine,
    transcript: Transcript,
    started: Instant,
}

impl Shell {
    fn run(mut self, inputs: &Receiver<Input>) -> Result<u8, String> {
        self.machine.start(self.now_ms());
        loop {
            if let Some(code) = self.carry_out()? {
                return Ok(code);
            }
            let input = match self.machine.due() {
                Some(due) => inputs.recv_timeout(Duration::from_millis(due.saturating_sub(self.now_ms()))),
                None => inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let now_ms = self.now_ms();
            match input {
                Ok(Input::Line(line)) => self.machine.line(&line, now_ms),
                Ok(Input::End) => self.machine.eof(now_ms),
                Ok(Input::Signal(SIGINT)) => self.machine.stop(now_ms),
                Ok(Input::Signal(signal)) => return Ok(128u8.wrapping_add(signal as u8)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(1),
            }
            self.machine.advance(now_ms);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn carry_out(&mut self) -> Result<Option<u8>, String> {
        let mut stdout = io::stdout().lock();
        let broken = |error: io::Error| format!("Error: {error}");
        for output in self.machine.take() {
            match output {
                Output::Line(line) => writeln!(stdout, "{line}").map_err(broken)?,
                Output::Stderr(line) => writeln!(io::stderr(), "{line}").map_err(broken)?,
                Output::Record(record) => self.transcript.append(&record).map_err(broken)?,
                Output::Exit(code) => {
                    stdout.flush().map_err(broken)?;
                    return Ok(Some(code));
                }
            }
        }
        stdout.flush().map_err(broken)?;
        Ok(None)
    }
}

/// The conversation's file, as the CLI has its own: `FOLDER/ID.jsonl`. It never lies among those of the CLI: what is made
/// up has no place in them.
struct Transcript {
    path: PathBuf,
    file: Option<File>,
}

impl Transcript {
    fn at(folder: &Path, conversation: &str) -> Result<Self, String> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
        let state = state.ok_or("Error: neither HOME nor XDG_STATE_HOME is set")?;
        let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
        let folder: String = folder.to_string_lossy().chars().map(plain).collect();
        Ok(Self { path: state.join("amp-relay-demo").join(folder).join(format!("{conversation}.jsonl")), file: None })
    }

    /// The id of the conversation that was written to last, if the folder has any.
    fn newest(folder: &Path) -> Result<Option<String>, String> {
        let all = Self::at(folder, "x")?.path;
        let Some(Ok(entries)) = all.parent().map(fs::read_dir) else { return Ok(None) };
        let written = |entry: &fs::DirEntry| entry.metadata().and_then(|meta| meta.modified()).ok();
        let newest = entries.flatten().max_by_key(written);
        Ok(newest.and_then(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned())))
    }

    fn read(&self) -> Result<History, String> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(format!("Error: {}: {error}", self.path.display())),
        };
        // The last line may be cut off: its process died while it wrote.
        Ok(History::read(text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())))
    }

    /// Made at the first record: a process that was never prompted leaves no conversation behind.
    fn append(&mut self, record: &Value) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                if let Some(folder) = self.path.parent() {
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                }
                self.file.insert(OpenOptions::new().create(true).append(true).open(&self.path)?)
            }
        };
        file.write_all(format!("{record}\n").as_bytes())
    }
}
