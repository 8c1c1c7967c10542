//! A stub of the Messages API on loopback, for tests of the real CLI without a network, a key or a cost.
//!
//! What it answers is named by the newest prompt, in a line of its own:
//!
//! | line | answer |
//! |---|---|
//! | `api:say TEXT` | one text |
//! | `api:words N` | N words, each an event of the stream |
//! | `api:gate NAME` | three words, then nothing until the test opens the gate, then the rest |
//! | `api:bash COMMAND` | a call of the Bash tool, then a text that repeats what it gave back |
//! | `api:write PATH TEXT` | a call of the Write tool, then a text |
//! | `api:error STATUS` | that HTTP status, every time |
//!
//! Any other prompt gets the text `ok`.

use std::{
    collections::HashSet,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

/// The running stub. Its threads end with the test's process.
pub struct MessagesApi {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ids: AtomicU64,
}

#[derive(Default)]
struct State {
    requests: Vec<Value>,
    open: HashSet<String>,
}

/// One answer of the model.
enum Answer {
    Text(Vec<String>),
    /// Text before and after a gate.
    Gate(String),
    Tool(&'static str, Value),
    Status(u16),
}

impl MessagesApi {
    /// Listens on a free port of the loopback.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        let for_connections = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&for_connections);
                // A caller that goes away in the middle is what some tests are about.
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Self { address, shared }
    }

    /// The value of `ANTHROPIC_BASE_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bodies of all requests for an answer so far.
    pub fn requests(&self) -> Vec<Value> {
        self.shared.lock().requests.clone()
    }

    /// Lets every answer behind this gate go on, now and later.
    pub fn open(&self, gate: &str) {
        self.shared.lock().open.insert(gate.to_owned());
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, kind: &str) -> String {
        format!("{kind}_stub_{:06}", self.ids.fetch_add(1, Ordering::Relaxed))
    }

    fn wait_for_gate(&self, gate: &str) {
        let state = self.lock();
        drop(self.changed.wait_while(state, |state| !state.open.contains(gate)));
    }
}

/// Serves one connection, request after request.
fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some((line, body)) = read_request(&mut reader)? {
        let path = line.split(' ').nth(1).unwrap_or("").split('?').next().unwrap_or("");
        if line.starts_with("POST") && path == "/v1/messages" {
            let body: Value = serde_json::from_slice(&body)?;
            shared.lock().requests.push(body.clone());
            answer(&mut out, shared, &body)?;
        } else if line.starts_with("POST") && path == "/v1/messages/count_tokens" {
            respond(&mut out, 200, &json!({"input_tokens": 1}))?;
        } else {
            respond(&mut out, 404, &error("not_found_error"))?;
        }
    }
    Ok(())
}

/// The request line and the body; `None` at the end of the connection.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
    }
    let body = if chunked { read_chunks(reader)? } else { read_exactly(reader, length)? };
    Ok(Some((first, body)))
}

fn read_chunks(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        body.extend(read_exactly(reader, size)?);
        read_exactly(reader, 2)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_exactly(reader: &mut BufReader<TcpStream>, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    io::Read::read_exact(reader, &mut bytes)?;
    Ok(bytes)
}

fn respond(out: &mut TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    write!(
        out,
        "HTTP/1.1 {status} Stub\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn error(kind: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": "said by the stub"}})
}

fn answer(out: &mut TcpStream, shared: &Shared, body: &Value) -> io::Result<()> {
    let answer = choose(body);
    if let Answer::Status(status) = answer {
        return respond(out, status, &error("api_error"));
    }
    let head = json!({
        "id": shared.id("msg"), "type": "message", "role": "assistant", "model": body["model"], "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 1},
    });
    if body["stream"] == true {
        return stream(out, shared, &head, &answer);
    }
    let mut whole = head;
    let (block, stop) = whole_block(shared, &answer);
    whole["content"] = json!([block]);
    whole["stop_reason"] = json!(stop);
    respond(out, 200, &whole)
}

fn whole_block(shared: &Shared, answer: &Answer) -> (Value, &'static str) {
    match answer {
        Answer::Text(pieces) => (json!({"type": "text", "text": pieces.concat()}), "end_turn"),
        Answer::Tool(name, input) => {
            (json!({"type": "tool_use", "id": shared.id("toolu"), "name": name, "input": input}), "tool_use")
        }
        Answer::Gate(_) | Answer::Status(_) => (json!({"type": "text", "text": "ok"}), "end_turn"),
    }
}

/// Streams the answer as server-sent events in HTTP chunks.
fn stream(out: &mut TcpStream, shared: &Shared, head: &Value, answer: &Answer) -> io::Result<()> {
    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    event(out, &json!({"type": "message_start", "message": head}))?;
    let (block, stop) = whole_block(shared, answer);
    let start = match answer {
        Answer::Tool(..) => {
            let mut start = block.clone();
            start["input"] = json!({});
            start
        }
        _ => json!({"type": "text", "text": ""}),
    };
    event(out, &json!({"type": "content_block_start", "index": 0, "content_block": start}))?;
    let mut delta = |kind: &str, field: &str, piece: &str| {
        event(out, &json!({"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: piece}}))
    };
    match answer {
        Answer::Text(pieces) => pieces.iter().try_for_each(|piece| delta("text_delta", "text", piece))?,
        Answer::Gate(gate) => {
            for piece in ["before ", "the ", "gate; "] {
                delta("text_delta", "text", piece)?;
            }
            shared.wait_for_gate(gate);
            delta("text_delta", "text", "after the gate")?;
        }
        Answer::Tool(..) => delta("input_json_delta", "partial_json", &block["input"].to_string())?,
        Answer::Status(_) => {}
    }
    event(out, &json!({"type": "content_block_stop", "index": 0}))?;
    let usage = json!({"output_tokens": 5});
    let end = json!({"stop_reason": stop, "stop_sequence": null});
    event(out, &json!({"type": "message_delta", "delta": end, "usage": usage}))?;
    event(out, &json!({"type": "message_stop"}))?;
    out.write_all(b"0\r\n\r\n")
}

fn event(out: &mut TcpStream, value: &Value) -> io::Result<()> {
    let text = format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or(""));
    // One write for a chunk, so that a piece arrives as a piece.
    out.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
}

/// The answer that the conversation so far calls for.
fn choose(body: &Value) -> Answer {
    let plain = |text: &str| Answer::Text(vec![text.to_owned()]);
    // A request without tools is the CLI's own (a title, a summary).
    if body["tools"].as_array().is_none_or(Vec::is_empty) {
        return plain("stub");
    }
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some((at, directive)) =
        messages.iter().enumerate().rev().find_map(|(at, message)| Some((at, directive(message)?)))
    else {
        return plain("ok");
    };
    let calls = messages[at..].iter().filter(|message| message["role"] == "assistant").count();
    let (name, rest) = directive.split_once(' ').unwrap_or((&directive, ""));
    match (name, calls) {
        ("say", _) => plain(rest),
        ("words", _) => Answer::Text((0..rest.trim().parse().unwrap_or(10)).map(|n| format!("word{n} ")).collect()),
        ("gate", _) => Answer::Gate(rest.trim().to_owned()),
        ("error", _) => Answer::Status(rest.trim().parse().unwrap_or(500)),
        ("bash", 0) => Answer::Tool("Bash", json!({"command": rest, "description": "Run a command"})),
        ("write", 0) => {
            let (path, text) = rest.split_once(' ').unwrap_or((rest, ""));
            Answer::Tool("Write", json!({"file_path": path, "content": text}))
        }
        ("bash" | "write", _) => plain(&format!("done: {}", messages.last().map(tool_result).unwrap_or_default())),
        _ => plain("ok"),
    }
}

/// The last `api:` line in a user message's own text.
fn directive(message: &Value) -> Option<String> {
    if message["role"] != "user" {
        return None;
    }
    let mut texts = Vec::new();
    match &message["content"] {
        Value::String(text) => texts.push(text.as_str()),
        Value::Array(blocks) => texts.extend(blocks.iter().filter_map(|block| block["text"].as_str())),
        _ => {}
    }
    let lines = texts.into_iter().flat_map(str::lines);
    lines.filter_map(|line| line.trim_start().strip_prefix("api:")).next_back().map(str::to_owned)
}

/// What a tool gave back, as text.
fn tool_result(message: &Value) -> String {
    let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(result) = blocks.iter().rev().find(|block| block["type"] == "tool_result") else { return String::new() };
    match &result["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}
