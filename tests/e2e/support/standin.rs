//! A stand-in for the CLI, `tests/data/standin.sh`, that says what a test wants.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{Device, Key, Relay, http::Endpoint, relay, terminal::Terminal, text, until};

/// The stand-in's files in a session's folder.
pub struct Standin {
    folder: PathBuf,
}

/// A relay whose sessions run the stand-in, a session, and a device that watches it.
pub struct Scene {
    pub relay: Relay,
    pub standin: Standin,
    pub laptop: Device,
    pub session: String,
    pub owner: Key,
}

impl Standin {
    /// In the project folder of a scratch world.
    pub fn new(scratch: &relay::Scratch) -> Self {
        let folder = scratch.project().join(".standin");
        fs::create_dir_all(&folder).expect("a folder");
        let standin = Self { folder };
        standin.does("default", &[]);
        standin
    }

    /// The program to name with `--claude`.
    pub fn program() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/standin.sh")
    }

    /// What it does when a prompt begins with `word`: the lines it writes, and directives.
    pub fn does(&self, word: &str, lines: &[String]) {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write(word, &lines);
    }

    /// Writes a file that a directive names.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("a file of the stand-in");
    }

    /// The lines that it was given so far.
    pub fn received(&self) -> Vec<Value> {
        let all = fs::read_to_string(self.folder.join("received")).unwrap_or_default();
        all.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the answer to a request, as the CLI gets it.
    #[track_caller]
    pub fn answer(&self, request: &str) -> Value {
        until("the CLI has an answer", || {
            let answers = self.received().into_iter();
            answers.map(|line| line["response"].clone()).find(|answer| answer["request_id"] == request)
        })
    }

    /// Its arguments and environment, a line each.
    pub fn started(&self) -> Vec<String> {
        let all = until("it was started", || fs::read_to_string(self.folder.join("started")).ok());
        all.lines().map(str::to_owned).collect()
    }
}

impl Scene {
    #[track_caller]
    pub fn new() -> Self {
        Self::of(Relay::options(&[]), "")
    }

    /// With these options, and these lines in the keys file beside the owner's.
    #[track_caller]
    pub fn of(options: relay::Options, keys: &str) -> Self {
        let owner = Key::new("owner");
        let options = options.keys(&owner.line("amp-role=\"admin\"")).keys(keys).claude(&Standin::program());
        let standin = Standin::new(&options.scratch);
        let relay = options.start();
        let mut laptop = Device::connect(&relay, &owner, "laptop");
        let session = laptop.create();
        laptop.attach(&session);
        Self { relay, standin, laptop, session, owner }
    }

    /// Has the session ask for permission: gives the request as the laptop was told of it.
    #[track_caller]
    pub fn ask(&mut self, tool: &str, input: &Value) -> Value {
        self.ask_with(tool, &input.to_string(), json!({}))
    }

    /// The same, with the input as text and more fields of the request.
    #[track_caller]
    pub fn ask_with(&mut self, tool: &str, input: &str, more: Value) -> Value {
        let id = self.laptop.fresh_id();
        self.standin.does(&id, &[asks(&id, tool, input, &more), "@wait".into()]);
        self.laptop.prompt(&self.session, &id);
        let session = self.session.clone();
        self.laptop.event(&session, "the request", |event| event["kind"] == "permission" && event["request"] == id)
    }

    /// The relay's TCP listener.
    pub fn tcp(&self) -> std::net::SocketAddr {
        let Endpoint::Tcp(address) = self.relay.tcp() else { panic!("a TCP listener") };
        address
    }

    /// The command line of `attach` with the owner's key, for a shell.
    pub fn attach(&self) -> String {
        let key = self.relay.scratch.home().join("owner_key");
        self.owner.write(&key);
        let data = self.relay.scratch.data();
        format!("{} attach --data {} --key {}", relay::PROGRAM, data.display(), key.display())
    }

    /// The options by which a verb finds the relay at another address, with the owner's key.
    pub fn reach(&self, address: std::net::SocketAddr) -> Vec<String> {
        let key = self.relay.scratch.home().join("owner_key");
        self.owner.write(&key);
        ["--url", &format!("ws://{address}"), "--key", &key.display().to_string()].map(str::to_owned).into()
    }

    /// `attach` on a terminal of this size, once it is there.
    pub fn attached(&self, width: u16, height: u16) -> Terminal {
        let terminal = Terminal::sized(&self.relay.scratch, &self.attach(), width, height);
        terminal.shows("the session", |screen| screen.contains("Ctrl-"));
        terminal
    }

    /// Has the agent say this in a turn of its own.
    pub fn say(&mut self, said: &str) {
        let id = self.laptop.fresh_id();
        self.standin.does(&id, &[says(&id, said)]);
        let prompt = self.laptop.prompt(&self.session, &id);
        let session = self.session.clone();
        self.laptop.turn(&session, &prompt);
    }

    /// Types a line until the session has a decision about the request: a line that comes too early is no answer.
    pub fn answers(&mut self, terminal: &Terminal, line: &str, request: &Value) -> Value {
        let (session, request) = (self.session.clone(), request["request"].clone());
        let is_it = |event: &Value| event["kind"] == "decision" && event["request"] == request;
        until("the line is taken", || {
            terminal.line(line);
            self.laptop.sync();
            let events = self.laptop.events(&session);
            let found = events.into_iter().find(is_it);
            if found.is_none() {
                terminal.shows("that it was too early, or that it is taken", |screen| {
                    screen.contains("half a second") || screen.contains("allowed") || screen.contains("denied")
                });
                self.laptop.sync();
            }
            found.or_else(|| self.laptop.events(&session).into_iter().find(is_it))
        })
    }

    /// Decides, and gives the event of the decision.
    #[track_caller]
    pub fn decided(&mut self, request: &Value, mut fields: Value) -> Value {
        fields["session"] = json!(self.session);
        fields["request"] = request["request"].clone();
        self.laptop.ok("decide", fields);
        let (session, request) = (self.session.clone(), request["request"].clone());
        self.laptop.event(&session, "the decision", |event| event["kind"] == "decision" && event["request"] == request)
    }
}

/// A line by which the CLI asks for permission. `input` is JSON text, which need not be sound.
pub fn asks(request: &str, tool: &str, input: &str, more: &Value) -> String {
    let mut fields = json!({"subtype": "can_use_tool", "tool_name": tool, "tool_use_id": format!("call-{request}")});
    for (name, value) in more.as_object().into_iter().flatten() {
        fields[name] = value.clone();
    }
    let fields = fields.to_string();
    let fields = fields.strip_suffix('}').expect("an object");
    format!(r#"{{"type":"control_request","request_id":"{request}","request":{fields},"input":{input}}}}}"#)
}

/// A line that withdraws a request.
pub fn withdraws(request: &str) -> String {
    json!({"type": "control_cancel_request", "request_id": request}).to_string()
}

/// A line with a whole block of text.
pub fn says(message: &str, said: &str) -> String {
    let content = json!([{"type": "text", "text": said}]);
    json!({"type": "assistant", "message": {"id": message, "content": content}}).to_string()
}

/// The id of a request.
pub fn id(request: &Value) -> &str {
    text(&request["request"])
}
