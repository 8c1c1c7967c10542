//! Measures the relay on this machine: how long a line of the agent takes to every device, what an idle relay holds in
//! memory, how long it takes to start. Without an argument, or with `help`, it says how. The agent is this program
//! itself, started by the relay as Claude Code would be.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use amp_relay::{
    claude::guard,
    client::{Connection, Identity, KnownRelays, Options as Device, Received, Target},
    reactor::{BoundAddr, Listen},
    server::{Agent, DataFolder, Options, Server},
};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use serde_json::{Value, json};

const HELP: &str = "\
Measures amp-relay on this machine. Give a measurement, then NAME=NUMBER for what is not to be as usual:

  lines [devices=4] [deltas=500] [turns=4] [rate=200] [workers=2]
      Time from the agent's write of a stream line to the frame in the hand of a device. A relay runs in this
      process, its agent is this program; the agent writes `deltas` lines a turn, `rate` a second (0: as fast as it
      can), each with the monotonic clock of its write. Half of the devices come by the Unix socket, half by TCP.

  idle [connections=1000] [workers=2]
      Resident memory of `amp-relay serve` with no connection, then with so many WebSockets that have not signed in.

  start [runs=20] [workers=2]
      From exec to the first `listening` line, and the size of the program.

idle and start run the program `amp-relay` that was built beside this one: cargo build --release";

/// What stops a measurement; its text is all there is to say.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    if let Some(code) = guard::run_if_asked() {
        return code;
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = if arguments.iter().any(|argument| argument == "--input-format") {
        agent().map_err(Into::into)
    } else {
        match arguments.first().map(String::as_str) {
            Some("lines") => Numbers::read(&arguments[1..]).and_then(|numbers| lines(&numbers)),
            Some("idle") => Numbers::read(&arguments[1..]).and_then(|numbers| idle(&numbers)),
            Some("start") => Numbers::read(&arguments[1..]).and_then(|numbers| start(&numbers)),
            _ => writeln!(io::stdout(), "{HELP}").map_err(Into::into),
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("line_latency: {why}");
            ExitCode::FAILURE
        }
    }
}

/// `NAME=NUMBER` arguments.
struct Numbers(Vec<(String, usize)>);

impl Numbers {
    const NAMES: [&str; 7] = ["devices", "deltas", "turns", "rate", "workers", "connections", "runs"];

    fn read<'a>(arguments: impl IntoIterator<Item = &'a String>) -> Result<Self, Failure> {
        let number = |argument: &String| {
            let (name, value) = argument.split_once('=')?;
            Self::NAMES.contains(&name).then(|| Some((name.to_owned(), value.parse().ok()?)))?
        };
        let read =
            |argument| number(argument).ok_or_else(|| format!("{argument:?} is not understood; see help").into());
        arguments.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    fn get(&self, name: &str, usual: usize) -> usize {
        self.0.iter().rev().find(|(known, _)| known == name).map_or(usual, |(_, number)| *number)
    }
}

/// Nanoseconds of the clock that every process of this machine shares.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// What the figures depend on, in one line.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |pair| pair.1);
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = rustix::system::uname();
    format!("{model}, {cores} cores, {} {}", kernel.sysname().to_string_lossy(), kernel.release().to_string_lossy())
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

// The agent.

/// Speaks the CLI's lines: answers `initialize`, and a prompt with so many deltas as the prompt says.
fn agent() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let value: Value = serde_json::from_str(&line?)?;
        match value["type"].as_str() {
            Some("control_request") => {
                let answer = json!({"commands":[],"agents":[],"models":[],"account":{"tokenSource":"measurement",
                    "apiProvider":"firstParty"},"claude_code_version":"2.1.329","current_permission_mode":"default",
                    "session_state":"idle","output_style":"default","capabilities":[]});
                let response = json!({"subtype":"success","request_id":value["request_id"],"response":answer});
                writeln!(stdout, "{}", json!({"type":"control_response","response":response}))?;
            }
            Some("user") => turn(&mut stdout, &value)?,
            _ => {}
        }
    }
    Ok(())
}

/// One turn. Lines without a stamp come before the first and after the last delta.
fn turn(stdout: &mut impl Write, prompt: &Value) -> io::Result<()> {
    let text = prompt["message"]["content"].to_string();
    let wanted = |name: &str| {
        let after = text.split_once(name).map_or("", |(_, after)| after);
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().unwrap_or(0)
    };
    let (deltas, rate) = (wanted("deltas="), wanted("rate="));
    let uuid = &prompt["uuid"];
    let message = format!("msg_{}", monotonic_ns());
    let mut say = |line: Value| writeln!(stdout, "{line}");
    let event = |event: Value| json!({"type":"stream_event","event":event,"parent_tool_use_id":null});
    say(json!({"type":"command_lifecycle","command_uuid":uuid,"state":"started"}))?;
    say(json!({"type":"system","subtype":"session_state_changed","state":"running"}))?;
    let start = json!({"id":message,"type":"message","role":"assistant","content":[],"stop_reason":null});
    say(event(json!({"type":"message_start","message":start})))?;
    say(event(json!({"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}})))?;
    let begun = Instant::now();
    let mut said = String::new();
    for number in 0..deltas {
        if rate > 0 {
            let due = begun + Duration::from_secs(1) * number / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let stamp = format!("{:020} ", monotonic_ns());
        said.push_str(&stamp);
        let delta = json!({"type":"text_delta","text":stamp});
        say(event(json!({"type":"content_block_delta","index":0,"delta":delta})))?;
    }
    let content = json!([{"type":"text","text":said}]);
    let whole = json!({"id":message,"type":"message","role":"assistant","content":content,"stop_reason":null});
    say(json!({"type":"assistant","message":whole,"parent_tool_use_id":null,"user_message_uuids":[uuid]}))?;
    say(event(json!({"type":"content_block_stop","index":0})))?;
    say(event(json!({"type":"message_stop"})))?;
    say(
        json!({"type":"result","subtype":"success","is_error":false,"duration_ms":1,"duration_api_ms":0,"num_turns":1,
        "result":"","total_cost_usd":0,"usage":{},"permission_denials":[],"user_message_uuid":uuid,
        "user_message_uuids":[uuid],"queued_turn_count":0}),
    )?;
    say(json!({"type":"command_lifecycle","command_uuid":uuid,"state":"completed"}))?;
    say(json!({"type":"system","subtype":"session_state_changed","state":"idle"}))
}

// A line's way.

/// What a device has measured.
#[derive(Default)]
struct Measured {
    /// Nanoseconds of each stamp.
    latencies: Vec<u64>,
    /// Delta messages.
    frames: usize,
}

struct Client {
    target: Target,
    identity: Identity,
    pins: PathBuf,
    name: String,
}

impl Client {
    fn connect(&self) -> Result<Connection, Failure> {
        let options = Device::new(&self.name, &self.name, "measurement");
        let mut pins = KnownRelays::load(self.pins.clone())?;
        Ok(Connection::connect(&self.target, &self.identity, &options, &mut pins)?.0)
    }
}

fn send(connection: &Connection, command: &Value) -> Result<(), Failure> {
    Ok(connection.send(&command.to_string())?)
}

/// The next message, with the clock at its receipt.
fn receive(connection: &mut Connection) -> Result<(u64, Value), Failure> {
    loop {
        match connection.receive(Some(Instant::now() + Duration::from_secs(60)))? {
            Received::Text(text) => return Ok((monotonic_ns(), serde_json::from_str(&text)?)),
            Received::Alive => {}
            Received::Nothing => return Err("the relay said nothing for a minute".into()),
            Received::Ended(ended) => return Err(format!("the connection ended: {ended}").into()),
        }
    }
}

/// Reads up to a message that fits.
fn until(connection: &mut Connection, fits: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
    loop {
        let (_, message) = receive(connection)?;
        if message["type"] == "error" {
            return Err(format!("the relay refuses: {message}").into());
        }
        if fits(&message) {
            return Ok(message);
        }
    }
}

fn watch(client: &Client, session: &str, turns: usize, attached: &Barrier) -> Result<Measured, Failure> {
    // Whoever fails still lets the others begin.
    let connected = client.connect().and_then(|mut connection| {
        send(&connection, &json!({"type":"attach","id":"attach","session":session}))?;
        until(&mut connection, |message| message["re"] == "attach")?;
        Ok(connection)
    });
    attached.wait();
    let (mut connection, mut measured, mut ended) = (connected?, Measured::default(), 0);
    while ended < turns {
        let (now, message) = receive(&mut connection)?;
        if message["type"] == "delta" {
            measured.frames += 1;
            let stamps = message["text"].as_str().unwrap_or_default().split_whitespace();
            let stamps = stamps.filter_map(|stamp| stamp.parse::<u64>().ok());
            measured.latencies.extend(stamps.map(|stamp| now.saturating_sub(stamp)));
        }
        ended += usize::from(message["kind"] == "turn");
    }
    Ok(measured)
}

/// A relay in this process that runs this program as its agent.
fn relay(folder: &Path, workers: usize) -> Result<(Server, DataFolder, Identity), Failure> {
    let data = DataFolder::open(&folder.join("data"))?;
    let key = data.client_key()?;
    let keys = folder.join("keys");
    fs::write(&keys, format!("amp-role=\"admin\" {}\n", key.public_key().to_openssh()?))?;
    let options = Options {
        workers,
        listen: vec![Listen::Tcp(([127, 0, 0, 1], 0).into()), Listen::Unix(data.socket())],
        folders: vec![folder.to_path_buf()],
        grace_ms: 5_000,
        ..Options::new(keys, Agent::Claude(Some(env::current_exe()?)))
    };
    let server = Server::start(&options, data.host_key()?)?;
    Ok((server, data, Identity::from_key(key, "the relay's own client key")))
}

fn lines(numbers: &Numbers) -> Result<(), Failure> {
    let [devices, deltas, turns, rate, workers] =
        [("devices", 4), ("deltas", 500), ("turns", 4), ("rate", 200), ("workers", 2)]
            .map(|(name, usual)| numbers.get(name, usual));
    let folder = tempfile::tempdir()?;
    let (server, _data, identity) = relay(folder.path(), workers)?;
    let targets: Vec<Target> = server
        .addresses()
        .iter()
        .map(|address| match address {
            BoundAddr::Tcp(address) => Target::parse(&format!("ws://{address}")),
            BoundAddr::Unix(path) => Ok(Target::Unix(path.clone())),
        })
        .collect::<Result<_, _>>()?;
    let client = |number: usize| Client {
        target: targets[number % targets.len()].clone(),
        identity: identity.clone(),
        pins: folder.path().join(format!("pins-{number}")),
        name: format!("device-{number}"),
    };
    let mut driver = client(devices).connect()?;
    send(&driver, &json!({"type":"create","id":"create","profile":"default"}))?;
    let created = until(&mut driver, |message| message["re"] == "create")?;
    let session = created["session"]["session"].as_str().ok_or("no session was created")?.to_owned();

    let before = load();
    let attached = Arc::new(Barrier::new(devices + 1));
    let watch = |number| {
        let (client, session, attached) = (client(number), session.clone(), attached.clone());
        thread::spawn(move || watch(&client, &session, turns, &attached))
    };
    let watching: Vec<_> = (0..devices).map(watch).collect();
    attached.wait();
    // The driver is one more device that is written to; it is not measured.
    send(&driver, &json!({"type":"attach","id":"attach","session":session}))?;
    until(&mut driver, |message| message["re"] == "attach")?;
    for number in 0..turns {
        let text = format!("deltas={deltas} rate={rate}");
        send(&driver, &json!({"type":"prompt","id":format!("prompt-{number}"),"session":session,"text":text}))?;
        until(&mut driver, |message| message["kind"] == "turn")?;
    }
    let mut all = Vec::new();
    println!("{}; load average before {before}, after {}", machine(), load());
    println!("{devices} devices, {workers} workers, {turns} turns of {deltas} deltas at {rate} a second");
    let few = devices <= 8;
    for (number, thread) in watching.into_iter().enumerate() {
        let measured = thread.join().map_err(|_| "a device panicked")??;
        let lost = (turns * deltas).saturating_sub(measured.latencies.len());
        let coalesced = measured.latencies.len() - measured.frames;
        if few {
            report(&targets[number % targets.len()].authority(), measured.latencies.clone(), coalesced, lost);
        }
        all.push(measured);
    }
    let coalesced = all.iter().map(|one| one.latencies.len() - one.frames).sum();
    let latencies: Vec<u64> = all.into_iter().flat_map(|one| one.latencies).collect();
    let lost = (devices * turns * deltas).saturating_sub(latencies.len());
    report("all", latencies, coalesced, lost);
    drop(driver);
    server.stopper().drain();
    Ok(server.join()?)
}

fn report(name: &str, mut latencies: Vec<u64>, coalesced: usize, lost: usize) {
    latencies.sort_unstable();
    let at = |hundredth: usize| {
        latencies.get((latencies.len().saturating_sub(1)) * hundredth / 100).map_or(0, |ns| ns / 1000)
    };
    println!(
        "{name:>16}: {:>6} lines, p50 {:>5} us, p90 {:>5} us, p99 {:>5} us, max {:>6} us; {coalesced} coalesced, {lost} not received",
        latencies.len(),
        at(50),
        at(90),
        at(99),
        at(100),
    );
}

// The program from outside.

/// `amp-relay serve` in a scratch folder; killed when it is dropped.
struct Program {
    child: Child,
    first_line: String,
    /// Kept open: the relay has more lines to write.
    _stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(folder: &Path, workers: usize) -> Result<(Self, Duration), Failure> {
        let mut command = Command::new(program()?);
        command.args(["serve", "--demo", "--listen", "127.0.0.1:0", "--workers", &workers.to_string(), "--data"]);
        command.arg(folder.join("data")).env_clear().env("HOME", folder).current_dir(folder);
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (mut stdout, mut first_line) = (BufReader::new(child.stdout.take().ok_or("no pipe")?), String::new());
        let read = stdout.read_line(&mut first_line);
        let took = begun.elapsed();
        let program = Self { child, first_line, _stdout: stdout };
        match read {
            Ok(_) if program.first_line.starts_with("listening ") => Ok((program, took)),
            _ => Err("amp-relay serve did not start".into()),
        }
    }

    /// The resident memory in KiB, once it has stopped to change.
    fn resident_kib(&self) -> Result<u64, Failure> {
        let read = || -> Result<u64, Failure> {
            let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        let mut last = read()?;
        loop {
            thread::sleep(Duration::from_millis(300));
            let now = read()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("no pid")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("amp-relay ended with {status}").into()) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program beside this example, which lies in `examples` of the same build.
fn program() -> Result<PathBuf, Failure> {
    let own = env::current_exe()?;
    let built = own.parent().and_then(Path::parent).map(|folder| folder.join("amp-relay"));
    built.filter(|path| path.exists()).ok_or_else(|| "there is no amp-relay beside this program: build it first".into())
}

fn idle(numbers: &Numbers) -> Result<(), Failure> {
    let (wanted, workers) = (numbers.get("connections", 1000), numbers.get("workers", 2));
    rlimit::increase_nofile_limit(u64::MAX)?;
    let folder = tempfile::tempdir()?;
    let (program, _) = Program::start(folder.path(), workers)?;
    println!("{}; load average {}", machine(), load());
    let empty = program.resident_kib()?;
    println!("idle, {workers} workers: {empty} KiB resident");
    let address = program.first_line.trim().trim_start_matches("listening ws://").to_owned();
    let open: Vec<TcpStream> = (0..wanted).map(|_| websocket(&address)).collect::<Result<_, _>>()?;
    let full = program.resident_kib()?;
    let each = (full.saturating_sub(empty) * 1024).checked_div(wanted as u64).unwrap_or(0);
    println!("{wanted} WebSockets before sign-in: {full} KiB resident, {each} bytes each");
    drop(open);
    println!("after they are gone: {} KiB resident", program.resident_kib()?);
    program.end()
}

/// A WebSocket that has got its challenge and says nothing.
fn websocket(address: &str) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET /session HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: amp-session.v1\r\n\r\n"
    )?;
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    while !read.windows(11).any(|bytes| bytes == b"\"challenge\"") {
        match stream.read(&mut piece)? {
            0 => return Err("the relay closed a connection".into()),
            count => read.extend_from_slice(&piece[..count]),
        }
    }
    Ok(stream)
}

fn start(numbers: &Numbers) -> Result<(), Failure> {
    let (runs, workers) = (numbers.get("runs", 20).max(1), numbers.get("workers", 2));
    let folder = tempfile::tempdir()?;
    println!("{}; load average {}", machine(), load());
    println!("size of the program: {} bytes", fs::metadata(program()?)?.len());
    let mut took = Vec::new();
    for _ in 0..=runs {
        let (program, time) = Program::start(folder.path(), workers)?;
        program.end()?;
        took.push(time.as_micros());
    }
    println!("the first start, which makes the data folder and two keys: {} us", took.remove(0));
    took.sort_unstable();
    println!("{runs} more: median {} us, fastest {} us, slowest {} us", took[runs / 2], took[0], took[runs - 1]);
    Ok(())
}
