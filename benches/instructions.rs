//! How many instructions a message costs, counted by valgrind: figures that no other load on the machine changes, so
//! that they can be held to limits (`tests/data/instructions.toml`).
//!
//!     cargo bench --features relay,deflate --bench instructions               counts, and fails above a limit
//!     cargo bench --features relay,deflate --bench instructions -- --write    counts, and writes the limits anew
//!
//! The program runs itself under callgrind, each operation N and 2 N times: the difference is what N of them cost, and
//! nothing of the start is in it. Without valgrind it says so and counts nothing; where CI=true it fails.

#[path = "../tests/hot_path/mod.rs"]
mod hot_path;

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use amp_relay::{
    base::{ConnToken, Now},
    reactor::ws::Framed,
    relay::directory::{Directory, Options, Payload, Route},
    wire::{
        amp::{
            EnvelopeView, Frame, Header, Id, KeyEncoding, SIG_BYTES, To, Type,
            check::{self, Names, Peer, Policy},
            parse,
        },
        cbor,
        ws::{Decoder, HEADER_MAX, Limits, Message, OpCode, Role, Step, client_frame, encode_header},
    },
};

use hot_path::{Agent, Batch, Key, LIMIT, Relay};

/// A limit above what was counted, in percent: a processor without AVX2 or another C library copies in
/// other steps.
const HEAD_ROOM: u64 = 5;
/// The same for whole turns: the kernel decides how many there are, and its segments where a read ends.
const HEAD_ROOM_TURN: u64 = 20;
/// The same for a compiler that the limits were not written with.
const HEAD_ROOM_OTHER_COMPILER: u64 = 25;
/// Messages that lie one behind the other, where an operation takes several.
const DEPTH: usize = 16;
const BODY_BYTES: usize = 128;
const TS: u64 = 1_707_055_200_000;

/// What is counted: its name, how often it is run, the messages of one run, and how it is made ready.
type Operation = (&'static str, usize, usize, fn() -> Box<dyn FnMut()>);

const OPERATIONS: [Operation; 13] = [
    ("parse_text", 2_000, 1, || parses(&message(KeyEncoding::Text))),
    ("parse_text_as_declared", 2_000, 1, || parses(&as_declared())),
    ("parse_int", 2_000, 1, || parses(&message(KeyEncoding::Int))),
    ("check", 2_000, 1, checks),
    ("decode_16", 500, DEPTH, decodes),
    ("route_again", 2_000, 1, || routes(1)),
    ("route_alternating", 2_000, 1, || routes(2)),
    ("route_many", 2_000, 1, || routes(64)),
    ("frame", 2_000, 1, frames),
    ("turn_depth_1", 500, 1, || turns(1, 1)),
    ("turn_depth_16", 200, DEPTH, || turns(DEPTH, 1)),
    ("turn_depth_256", 20, 256, || turns(256, 1)),
    ("turn_scatter_depth_16", 200, DEPTH, || turns(DEPTH, 4)),
];

// --- the operations --------------------------------------------------------------------------------------------------

fn body() -> Vec<u8> {
    let mut body = Vec::new();
    cbor::bytes(&mut body, &[0x5a; BODY_BYTES]);
    body
}

/// A message in deterministic order.
fn message(key_encoding: KeyEncoding) -> Vec<u8> {
    let (from, to) = (Key::new(0), Key::new(1));
    let header = Header::new(Id::new(TS, [7; 8]), Type::MESSAGE, &from.did, To::One(&to.did));
    from.message(key_encoding, Header { ts: TS, ..header }, &body())
}

/// A message with its fields as RFC 001 lists them.
fn as_declared() -> Vec<u8> {
    let (from, to) = (Key::new(0), Key::new(1));
    let mut out = Vec::new();
    cbor::map(&mut out, 9);
    let field = |out: &mut Vec<u8>, name: &str| cbor::text(out, name);
    for (name, value) in [("v", 1), ("id", 0), ("typ", Type::MESSAGE.0), ("ts", TS), ("ttl", 86_400_000)] {
        field(&mut out, name);
        match name {
            "id" => cbor::bytes(&mut out, &Id::new(TS, [7; 8]).0),
            _ => cbor::uint(&mut out, value),
        }
    }
    for (name, did) in [("from", &from.did), ("to", &to.did)] {
        field(&mut out, name);
        cbor::text(&mut out, did);
    }
    field(&mut out, "sig");
    cbor::bytes(&mut out, &[9; SIG_BYTES]);
    field(&mut out, "body");
    out.extend(body());
    out
}

fn view(frame: &[u8]) -> EnvelopeView<'_> {
    match parse(frame) {
        Ok(Frame::Envelope(view)) => view,
        other => panic!("{other:?}"),
    }
}

fn parses(frame: &[u8]) -> Box<dyn FnMut()> {
    let frame = frame.to_vec();
    Box::new(move || {
        black_box(view(black_box(&frame)).header.ts);
    })
}

/// Everything that is checked on a message before it is routed.
fn checks() -> Box<dyn FnMut()> {
    let frame: &'static [u8] = message(KeyEncoding::Text).leak();
    let (found, principal) = (view(frame), Key::new(0).did.leak());
    let policy = Policy {
        names: Names { did: "did:key:z6Mkrelay", aliases: &["relay-server"] },
        handled: |typ| typ == Type::PING,
        strict_types: false,
        unsigned: false,
        skew_ms: check::SKEW_MS_DEFAULT,
        ttl_ms_max: check::TTL_MS_MAX_DEFAULT,
        recipients_max: 64,
    };
    let peer = Peer { negotiated: true, principal: Some(principal) };
    let now = Now { mono_ms: 0, unix_ms: TS };
    Box::new(move || assert_eq!(check::ingress(black_box(&found), &peer, &policy, now), Ok(())))
}

/// Frames of one read: header, limits, unmasked to where they are sent from. Reading changes the bytes, so that they
/// are put back each time, which is counted too.
fn decodes() -> Box<dyn FnMut()> {
    let run = client_frame(OpCode::Binary, &message(KeyEncoding::Text), [1, 2, 3, 4]).repeat(DEPTH);
    let mut bytes = run.clone();
    let (limits, mut decoder) = (Limits::default(), Decoder::new(Role::Server));
    Box::new(move || {
        bytes.copy_from_slice(&run);
        let (mut at, mut front) = (0, 0);
        while at < bytes.len() {
            match decoder.decode_onward(&limits, black_box(&mut bytes), at, &mut front).map(|onward| onward.step) {
                Ok(Step::Message { consumed, message: Message::Binary(binary) }) => {
                    black_box(binary);
                    at += consumed;
                }
                other => panic!("{other:?}"),
            }
        }
    })
}

#[derive(Clone)]
struct Nothing;

impl Payload for Nothing {
    type ReturnAddress = ();

    fn size(&self) -> usize {
        0
    }

    fn return_address(&self) {}
}

/// Finding a receiver of this worker among 64, so many of them in turn.
fn routes(receivers: usize) -> Box<dyn FnMut()> {
    let mut directory = Directory::<Nothing>::new(Options::new(0, 1, 0x5EED));
    let dids: Vec<_> = (0..64).map(|number| Key::new(number).did).collect();
    for (slot, did) in (0..).zip(&dids) {
        assert_eq!(directory.join(&**did, ConnToken::new(0, slot, 0)), Ok(()));
    }
    while directory.event().is_some() {}
    let mut at = 0;
    Box::new(move || {
        at = if at + 1 == receivers { 0 } else { at + 1 };
        let (directory, did) = (black_box(&directory), black_box(&dids[at]));
        let route = directory.route_again(did).map_or_else(|| directory.route(did), Route::Local);
        assert!(matches!(route, Route::Local(_)));
    })
}

/// A message framed to be shared, and the header of a message that is sent from where it lies.
fn frames() -> Box<dyn FnMut()> {
    let message = message(KeyEncoding::Text);
    Box::new(move || {
        let mut header = [0; HEADER_MAX];
        let len = encode_header(&mut header, OpCode::Binary, true, black_box(message.len() as u64), None);
        black_box(&header[..len]);
        black_box(Framed::binary(black_box(&message)));
    })
}

/// The whole relay: messages that lie in a socket are read, checked, routed and written to one receiver or several. The
/// little that the test's agents do is counted too.
fn turns(depth: usize, receivers: usize) -> Box<dyn FnMut()> {
    let keys: Vec<_> = (0..=receivers).map(|number| Key::new(number as u8)).collect();
    let mut relay = Relay::start(&keys);
    let mut agents: Vec<Agent> = keys.iter().map(|key| relay.sign_in(key)).collect();
    let to: Vec<_> = keys[1..].iter().collect();
    let batch = Batch::new(&keys[0], &to, depth, BODY_BYTES);
    let each = depth / receivers * batch.received_bytes();
    Box::new(move || {
        agents[0].write_all(batch.again(), &mut || relay.turn());
        let (mut due, begin) = (each * receivers, Instant::now());
        while due > 0 {
            assert!(begin.elapsed() < LIMIT, "{due} bytes are missing");
            relay.turn();
            due -= agents[1..].iter_mut().map(Agent::read).sum::<usize>();
        }
    })
}

// --- counting --------------------------------------------------------------------------------------------------------

fn run(name: &str, times: usize) {
    let found = OPERATIONS.iter().find(|(known, ..)| *known == name);
    let (.., make) = found.unwrap_or_else(|| panic!("no operation {name}"));
    let mut operation = make();
    // The first ones grow buffers and fill tables; both runs have them.
    for _ in 0..20 + times {
        operation();
    }
}

/// Instructions of both runs, for one message.
fn count(&(name, times, messages, _): &Operation) -> Result<u64, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let start = |times: usize| {
        Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&program)
            .args(["--run", name, &times.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("valgrind: {error}"))
    };
    let runs = [start(times)?, start(2 * times)?];
    let mut totals = [0_u64; 2];
    for (run, total) in runs.into_iter().zip(&mut totals) {
        let output = run.wait_with_output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
        *total = match collected {
            Some(collected) if output.status.success() => collected,
            _ => return Err(format!("{name} under valgrind: {}\n{said}", output.status)),
        };
    }
    Ok(totals[1].saturating_sub(totals[0]) / (times * messages) as u64)
}

fn limits_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/instructions.toml")
}

/// The compiler's version, as `1.95.0`.
fn compiler() -> String {
    let said = Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).split(' ').nth(1).unwrap_or("unknown").to_owned()
}

/// What the file says: the compiler, and the limits by name. It is as simple as TOML can be.
fn read() -> Result<(String, BTreeMap<String, u64>), String> {
    let text = fs::read_to_string(limits_file()).map_err(|error| format!("{}: {error}", limits_file().display()))?;
    let (mut rustc, mut limits) = (String::new(), BTreeMap::new());
    for (name, value) in text.lines().filter_map(|line| line.split_once(" = ")) {
        match value.parse() {
            Ok(limit) => drop(limits.insert(name.to_owned(), limit)),
            Err(_) if name == "rustc" => value.trim_matches('"').clone_into(&mut rustc),
            Err(error) => return Err(format!("{name} = {value}: {error}")),
        }
    }
    Ok((rustc, limits))
}

fn write(counted: &[(&str, u64)]) -> Result<(), String> {
    let mut text = format!(
        "# Most instructions a message may cost, by operation (x86-64). Counted and compared by\n\
         # `cargo bench --bench instructions`, which says what each one is; `-- --write` writes this file anew, each limit\n\
         # {HEAD_ROOM} % above what it counts, {HEAD_ROOM_TURN} % for whole turns.\n\nrustc = \"{}\"\n\n[limits]\n",
        compiler()
    );
    for (name, count) in counted {
        let head_room = if name.starts_with("turn_") { HEAD_ROOM_TURN } else { HEAD_ROOM };
        text += &format!("{name} = {}\n", count * (100 + head_room) / 100);
    }
    fs::write(limits_file(), text).map_err(|error| error.to_string())
}

/// Prints the table; the names that are above their limits.
fn compare(counted: &[(&'static str, u64)]) -> Result<Vec<&'static str>, String> {
    let (rustc, limits) = read()?;
    let ours = compiler();
    let extra = if ours == rustc { 0 } else { HEAD_ROOM_OTHER_COMPILER - HEAD_ROOM };
    if extra > 0 {
        println!("*** the limits were counted with rustc {rustc}, this is {ours}: they are {extra} % wider here");
    }
    let mut above = Vec::new();
    println!("{:<24} {:>12} {:>8}", "instructions a message", "counted", "limit");
    for &(name, count) in counted {
        let limit = limits.get(name).ok_or_else(|| format!("no limit for {name}"))? * (100 + extra) / 100;
        let word = match count {
            count if count > limit => {
                above.push(name);
                "  ABOVE ITS LIMIT"
            }
            count if count * 5 < limit * 4 => "  far below: write the limits anew",
            _ => "",
        };
        println!("{name:<24} {count:>12} {limit:>8}{word}");
    }
    if let Some(unknown) = limits.keys().find(|name| !counted.iter().any(|(known, _)| known == name)) {
        return Err(format!("there is a limit for {unknown}, which is no operation"));
    }
    Ok(above)
}

fn check_all(anew: bool) -> Result<Vec<&'static str>, String> {
    let mut counted = Vec::new();
    for operation in &OPERATIONS {
        counted.push((operation.0, count(operation)?));
    }
    if anew {
        write(&counted)?;
    }
    compare(&counted)
}

/// Why nothing can be counted here.
fn obstacle() -> Option<&'static str> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("the limits are those of x86-64 Linux");
    }
    let there = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    (!there.is_ok_and(|status| status.success())).then_some("valgrind is missing")
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [word, name, times] = &arguments[..]
        && word == "--run"
    {
        run(name, times.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    // `cargo test --benches` runs this too, built without optimization.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("to count instructions: cargo bench --bench instructions");
        return ExitCode::SUCCESS;
    }
    if let Some(obstacle) = obstacle() {
        eprintln!("\n*** INSTRUCTIONS ARE NOT COUNTED: {obstacle}\n");
        let demanded = env::var("CI").is_ok_and(|ci| ci == "true");
        return if demanded { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    match check_all(arguments.iter().any(|argument| argument == "--write")) {
        Ok(above) if above.is_empty() => ExitCode::SUCCESS,
        Ok(above) => {
            eprintln!("\n*** above their limits: {}\n", above.join(", "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\n*** {error}\n");
            ExitCode::FAILURE
        }
    }
}
