//! Devices that attach at any moment of a turn that streams: each ends with the same text and the same events, and
//! none of them notices where it came in.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::support::{Device, Key, Relay, SignIn, device::text, keys, until};

/// Late devices in a run.
const DEVICES: usize = 20;
/// Turns in a run; the devices come in the first two.
const TURNS: usize = 3;
/// Pieces of text in a turn, each on a line of its own.
const PIECES: usize = 3000;

/// An agent that speaks the CLI's lines as fast as a shell can, in text whose characters have up to four bytes. In the
/// middle of a turn it waits for the turn's gate.
const AGENT: &str = r#"#!/bin/sh
turn=0
while IFS= read -r line; do
    case $line in
    *'"type":"control_request"'*)
        id=$(printf '%s\n' "$line" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
        printf '%s\n' '{"type":"control_response","response":{"subtype":"success","request_id":"'"$id"'","response":{"commands":[],"agents":[],"models":[],"account":{"tokenSource":"test"},"claude_code_version":"2.1.329","current_permission_mode":"default","session_state":"idle"}}}'
        ;;
    *'"type":"user"'*)
        uuid=$(printf '%s\n' "$line" | sed 's/.*"uuid":"\([^"]*\)".*/\1/')
        turn=$((turn + 1)) n=0 said=
        printf '%s\n' '{"type":"command_lifecycle","command_uuid":"'"$uuid"'","state":"started"}'
        printf '%s\n' '{"type":"stream_event","event":{"type":"message_start","message":{"id":"msg_'$turn'","type":"message","role":"assistant","content":[]}},"parent_tool_use_id":null}'
        printf '%s\n' '{"type":"stream_event","event":{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}},"parent_tool_use_id":null}'
        while [ $n -lt PIECES ]; do
            printf '%s\n' '{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'$turn.$n' €ü😀 "}},"parent_tool_use_id":null}'
            said="$said$turn.$n €ü😀 "
            n=$((n + 1))
            while [ $n -eq HALF ] && [ ! -e "GATE$turn" ]; do sleep 0.01; done
        done
        printf '%s\n' '{"type":"assistant","message":{"id":"msg_'$turn'","type":"message","role":"assistant","content":[{"type":"text","text":"'"$said"'"}]},"parent_tool_use_id":null}'
        printf '%s\n' '{"type":"result","subtype":"success","is_error":false,"duration_ms":1,"duration_api_ms":0,"num_turns":1,"result":"","total_cost_usd":0,"usage":{},"permission_denials":[],"user_message_uuid":"'"$uuid"'","user_message_uuids":["'"$uuid"'"],"queued_turn_count":0}'
        printf '%s\n' '{"type":"command_lifecycle","command_uuid":"'"$uuid"'","state":"completed"}'
        ;;
    esac
done
"#;

type Blocks = BTreeMap<(String, u64), String>;

fn block(of: &Value) -> (String, u64) {
    (text(&of["message"]).to_owned(), of["block"].as_u64().expect("an index"))
}

/// Replays what a device was told from its attach on: gives the text of every block that became an event, rebuilt from
/// snapshot and deltas alone.
#[track_caller]
fn rebuilt(device: &Device, session: &str) -> Blocks {
    let mut open: Option<Blocks> = None;
    let mut whole = Blocks::new();
    for message in &device.seen {
        if message["snapshot"].is_object() {
            let blocks = message["snapshot"]["turn"]["blocks"].as_array().into_iter().flatten();
            open = Some(blocks.map(|one| (block(one), text(&one["text"]).to_owned())).collect());
            continue;
        }
        match (text(&message["type"]), &mut open) {
            ("delta", Some(open)) => {
                let so_far = open.entry(block(message)).or_default();
                let at = message["at"].as_u64().and_then(|at| usize::try_from(at).ok());
                assert_eq!(at, Some(so_far.len()), "a gap or a double: {message:.200}");
                so_far.push_str(text(&message["text"]));
            }
            ("delta", None) => panic!("a delta before the snapshot: {message:.200}"),
            ("event", Some(open)) if message["kind"] == "text" && message["session"] == session => {
                let said = open.remove(&block(message)).unwrap_or_default();
                assert_eq!(said, text(&message["text"]), "what was streamed is what was recorded");
                whole.insert(block(message), said);
            }
            _ => {}
        }
    }
    whole
}

/// Reads on until the turn `last` has ended; `each` is shown every message from the one numbered `from`. Gives the
/// number of the next.
#[track_caller]
fn read_to_the_end(device: &mut Device, last: usize, from: usize, each: impl Fn(&Value)) -> usize {
    let (looked_at, spoken) = (Cell::new(from), Cell::new(false));
    let message = format!("msg_{last}");
    let ends = |event: &Value| {
        spoken.set(spoken.get() || event["kind"] == "text" && event["message"] == message.as_str());
        event["kind"] == "turn" && spoken.get()
    };
    device.wait_for("the end of the last turn", |device| {
        let from = looked_at.replace(device.seen.len());
        let ended = |seen: &Value| {
            each(seen);
            let tail = seen["events"].as_array().into_iter().flatten();
            tail.chain([seen]).any(ends)
        };
        (device.seen[from..].iter().filter(|seen| ended(seen)).count() > 0).then_some(())
    });
    looked_at.get()
}

/// How far a run is.
#[derive(Default)]
struct Progress {
    /// Pieces that the laptop has received.
    told: AtomicUsize,
    /// Late devices that have attached.
    attached: AtomicUsize,
}

/// Signs in, waits for its moment, attaches, and reads on to the end of the last turn.
fn late(relay: &Relay, owner: &Key, number: usize, session: &str, when: usize, progress: &Progress) -> Device {
    let endpoint = if number.is_multiple_of(2) { relay.tcp() } else { relay.unix() };
    let mut device = SignIn::new(owner).name(&format!("late-{number}")).connect(&endpoint).expect("signed in");
    until("the moment to attach", || (progress.told.load(Ordering::Acquire) >= when).then_some(()));
    let snapshot = device.attach(session)["snapshot"].clone();
    progress.attached.fetch_add(1, Ordering::Release);
    if (1..=PIECES / 2).contains(&(when % PIECES)) {
        let blocks = snapshot["turn"]["blocks"].as_array().map_or(0, Vec::len);
        assert_eq!(blocks, 1, "the agent was waiting in the middle of its text: {snapshot:.300}");
    }
    read_to_the_end(&mut device, TURNS, 0, |_| ());
    device
}

/// A relay whose sessions run [`AGENT`], a session of it, and the path of the gates.
fn streaming(owner: &Key) -> (Relay, Device, String, String) {
    let options = Relay::options(&[owner]);
    let agent = options.scratch.root().join("agent");
    let gate = options.scratch.root().join("gate-").display().to_string();
    let script = AGENT.replace("PIECES", &PIECES.to_string()).replace("HALF", &(PIECES / 2).to_string());
    fs::write(&agent, script.replace("GATE", &gate)).expect("the agent");
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("a program");
    let relay = options.claude(&agent).start();
    let mut laptop = Device::connect(&relay, owner, "laptop");
    let session = laptop.create();
    laptop.attach(&session);
    (relay, laptop, session, gate)
}

/// How many pieces of text a device has been told live.
fn pieces(device: &Device) -> usize {
    let deltas = device.seen.iter().filter(|message| message["type"] == "delta");
    deltas.map(|delta| text(&delta["text"]).matches('😀').count()).sum()
}

#[test]
fn a_new_device_that_takes_a_moment_to_read_misses_no_live_text() {
    let owner = Key::new("owner");
    let (relay, mut laptop, session, gate) = streaming(&owner);
    laptop.prompt(&session, "go");
    laptop.wait_for("half of the text", |laptop| (pieces(laptop) == PIECES / 2).then_some(()));
    // It asks for the session, whose text so far is more than a new peer is given at once, and reads nothing yet.
    let mut late = SignIn::new(&owner).name("late").connect(&relay.tcp()).expect("signed in");
    let attached = late.start("attach", json!({"session": session}));
    laptop.wait("that it watches", |message| {
        message["type"] == "presence" && message["devices"].as_array().is_some_and(|devices| devices.len() == 2)
    });
    fs::write(format!("{gate}1"), "").expect("the gate");
    laptop.wait_for("the rest", |laptop| (pieces(laptop) == PIECES).then_some(()));
    late.answer(&attached).expect("the snapshot");
    late.event(&session, "the text", |event| event["kind"] == "text");
    assert_eq!(rebuilt(&late, &session).len(), 1, "it has the text from its beginning");
}

#[test]
fn a_device_may_come_at_any_moment_of_a_stream() {
    let owner = Key::new("owner");
    let (relay, mut laptop, session, gate) = streaming(&owner);

    // The moments are counted in pieces that the laptop has received.
    let seed = keys::seed();
    let moment = |(&byte, n): (&u8, usize)| (usize::from(byte) * 23 + n * 7) % (2 * PIECES);
    let moments: Vec<usize> = seed.iter().cycle().zip(0..DEVICES).map(moment).collect();
    println!("moments: {moments:?}");
    let progress = Progress::default();
    let devices: Vec<Device> = thread::scope(|scope| {
        let late = |(number, &when)| {
            let (relay, owner, session, progress) = (&relay, &owner, &session, &progress);
            scope.spawn(move || late(relay, owner, number, session, when, progress))
        };
        let threads: Vec<_> = moments.iter().enumerate().map(late).collect();
        scope.spawn(|| {
            for turn in 1..=TURNS {
                let half = (turn - 1) * PIECES + PIECES / 2;
                let due = moments.iter().filter(|&&when| when <= half).count();
                until("those whose moment has come have attached", || {
                    (progress.attached.load(Ordering::Acquire) >= due).then_some(())
                });
                fs::write(format!("{gate}{turn}"), "").expect("the gate");
            }
        });
        let mut looked_at = 0;
        for turn in 1..=TURNS {
            laptop.prompt(&session, "go");
            looked_at = read_to_the_end(&mut laptop, turn, looked_at, |message| {
                if message["type"] == "delta" {
                    progress.told.fetch_add(text(&message["text"]).matches('😀').count(), Ordering::Release);
                }
            });
            assert_eq!(progress.told.load(Ordering::Acquire), turn * PIECES, "the laptop has had every piece");
        }
        threads.into_iter().map(|thread| thread.join().expect("a late device")).collect()
    });
    let all = laptop.gapless(&session);
    let whole = rebuilt(&laptop, &session);
    assert_eq!(whole.len(), TURNS);
    for device in devices {
        let seen = device.gapless(&session);
        let first = seen.first().and_then(|event| event["offset"].as_u64()).expect("an offset");
        let same: Vec<_> = all.iter().filter(|event| event["offset"].as_u64() >= Some(first)).cloned().collect();
        let both = same.len().min(seen.len());
        assert_eq!(same[..both], seen[..both], "the same events");
        for (block, said) in rebuilt(&device, &session) {
            assert_eq!(whole.get(&block), Some(&said));
        }
    }
    let stats = relay.stats();
    let busy = |worker: &Value| worker["accepted"].as_u64().is_some_and(|accepted| accepted > 0);
    let workers = stats["workers"].as_array().expect("workers");
    assert!(workers.len() == 2 && workers.iter().all(busy), "both workers had devices: {stats}");
}
