//! Peers that have proved no key: however many there are and whatever they say, they leave after their time, and whoever
//! has a key gets in beside them. What a relay says and does where its connections are all taken.

use std::{
    collections::VecDeque,
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::json;

use crate::support::{
    self, Agent, AgentKey, DEADLINE, Key, Relay, SignIn,
    amp::{Draft, typ},
    http::{self, Endpoint},
    until,
};

/// A relay with few open files, an owner, and an agent that it knows.
struct Stage {
    relay: Relay,
    owner: Key,
    agent: AgentKey,
    /// More of them, since one may have 64 connections.
    others: Vec<AgentKey>,
}

impl Stage {
    fn new(open_files: u32) -> Self {
        let (owner, agent) = (Key::new("owner"), AgentKey::new());
        let others: Vec<_> = (0..5).map(|_| AgentKey::new()).collect();
        let lines: String = others.iter().chain([&agent]).map(|key| key.line("agent")).collect();
        let options = Relay::options(&[&owner]).keys(&lines).usual_log();
        Self { relay: options.open_files(open_files).start(), owner, agent, others }
    }

    /// A figure of all workers together.
    fn sum(&self, name: &str) -> u64 {
        let stats = self.relay.stats();
        let workers = stats["workers"].as_array().expect("workers");
        workers.iter().map(|worker| worker[name].as_u64().expect("a figure")).sum()
    }

    /// One try to sign in by TCP.
    fn agent_gets_in(&self) -> bool {
        let Ok(mut agent) = Agent::try_dial(&self.relay.tcp(), &self.agent) else { return false };
        let hello = agent.hello();
        agent.send(&hello);
        agent.next_or_end("HELLO_ACK").is_some_and(|answer| answer.typ == typ::HELLO_ACK)
    }

    #[track_caller]
    fn owner_gets_in(&self) {
        SignIn::new(&self.owner).connect(&self.relay.unix()).expect("welcome").ping();
        assert_eq!(http::get(&self.relay.unix(), "/healthz").status, 200);
    }

    /// Everybody who has a right to it gets in: by TCP, by the Unix socket, and on the admin paths of both.
    #[track_caller]
    fn all_get_in(&self) {
        for endpoint in [self.relay.tcp(), self.relay.unix()] {
            Agent::connect(&endpoint, &self.agent).ping();
            SignIn::new(&self.owner).connect(&endpoint).expect("welcome").ping();
            let answer = http::get(&endpoint, "/healthz");
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{answer:?}");
        }
    }
}

/// Says HELLO under a name that nobody has listed, to the alias of the relay, and signs nothing.
fn impostor(endpoint: &Endpoint) -> Agent {
    let mut agent = Agent::dial(endpoint, &AgentKey::new());
    let draft = Draft::new(typ::HELLO, &agent.key, "relay-server", &json!({"versions": ["1.0"]}));
    agent.send_bytes(&support::amp::map(support::amp::keyed(draft.fields(&[0; 64]), agent.keys)));
    agent
}

#[test]
fn b1_strangers_that_hold_all_they_may_keep_nobody_out() {
    let stage = Stage::new(1024);
    let mut impostors: Vec<_> = (0..600).map(|_| impostor(&stage.relay.tcp())).collect();
    for _ in 0..5 {
        stage.all_get_in();
    }
    let (open, provisional) =
        (stage.relay.stats()["connections"].as_u64().expect("a number"), stage.sum("provisional"));
    assert!(open <= 512 && provisional <= 480, "{open} connections, {provisional} of them strangers");
    assert!(stage.sum("displaced") >= 600 - 480, "{}", stage.relay.stats());
    assert_eq!(impostors[0].wait_closed(), 1013, "the oldest gave way");
    assert!(stage.relay.metric("amp_relay_displaced_total") >= 120.0);
    let log = stage.relay.logged(&["the limit of open files", "connections=512", "the oldest give way"]);
    let warnings = log.lines().filter(|line| line.contains("the oldest give way")).count();
    assert!((1..=6).contains(&warnings), "said once in a while: {log}");
}

#[test]
fn b1_strangers_that_come_without_end_keep_nobody_out() {
    let stage = Stage::new(1024);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut held = VecDeque::new();
                while !done.load(Ordering::Relaxed) {
                    let Ok(mut stream) = stage.relay.tcp().connect() else { continue };
                    let _ = stream.write_all(http::upgrade_request("localhost", Some("amp-session.v1"), "").as_bytes());
                    held.push_back(stream);
                    if held.len() > 300 {
                        held.pop_front();
                    }
                }
            });
        }
        until("strangers give way to strangers", || (stage.sum("displaced") > 1_000).then_some(()));
        let tries: Vec<_> = (0..10).map(|_| (0..20).position(|_| stage.agent_gets_in())).collect();
        let unix = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.owner_gets_in()));
        done.store(true, Ordering::Relaxed);
        // Where the crowd has all of the machine's time it may overtake a sign-in, whose client then tries again.
        assert!(tries.iter().all(Option::is_some), "{tries:?}");
        assert!(unix.is_ok(), "the owner's socket does not notice any of it");
    });
}

#[test]
fn b1_whoever_proves_no_key_is_out_after_ten_seconds_whatever_it_says() {
    let stage = Stage::new(1024);
    let endpoint = stage.relay.tcp();
    let mut acknowledged = impostor(&endpoint);
    assert_eq!(acknowledged.next("HELLO_ACK").typ, typ::HELLO_ACK);
    // It says more, and is alive all the time.
    let mut talker = impostor(&endpoint);
    talker.next("HELLO_ACK");
    let silent = endpoint.connect().expect("the relay listens");
    let mut trickle = endpoint.connect().expect("the relay listens");
    trickle.write_all(b"GET /healthz HTTP/1.1\r\n").expect("it reads");
    for count in 0.. {
        if talker.closed.is_some() {
            break;
        }
        talker.write_raw(&http::frame(0x89, true, b"are you there?"));
        if count % 500 == 0 {
            let _ = trickle.write_all(b"X");
        }
        assert!(talker.read_one(DEADLINE), "neither a pong nor the end");
    }
    assert_eq!(talker.wait_closed(), 1008);
    assert_eq!(acknowledged.wait_closed(), 1008);
    drop((talker, acknowledged));
    for mut stream in [silent, trickle] {
        let heard = stream.read_all();
        assert!(heard.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&heard));
    }
    until("all are gone", || (stage.sum("provisional") == 0).then_some(()));
}

#[test]
fn c4_where_all_places_are_taken_more_hear_503_and_the_owner_gets_in() {
    let stage = Stage::new(256);
    let mut agents = Vec::new();
    let mut refused = 0;
    // Each worker has its share, which the kernel fills as it likes.
    while refused < 20 {
        let key = &stage.others[agents.len() % stage.others.len()];
        match Agent::try_dial(&stage.relay.tcp(), key) {
            Ok(mut agent) => {
                let hello = agent.hello();
                agent.send(&hello);
                assert_eq!(agent.next("HELLO_ACK").typ, typ::HELLO_ACK);
                agents.push(agent);
            }
            Err(answer) => {
                assert_eq!(answer, (503, Some("5".into())), "beside {} agents", agents.len());
                refused += 1;
            }
        }
        assert!(agents.len() < 128, "there is no limit");
    }
    for _ in 0..20 {
        assert_eq!(http::get(&stage.relay.tcp(), "/healthz").status, 200);
    }
    stage.owner_gets_in();
    assert!(stage.sum("refused") >= 20 && stage.relay.metric("amp_relay_refused_total") >= 20.0);
    let log = stage.relay.logged(&["the limit of connections is reached"]);
    let lowered = |line: &&str| line.contains("the limit of open files") && line.contains("bounds the connections");
    let line = log.lines().find(lowered).expect("what was lowered, at the start");
    assert!(line.contains("open_files=256") && line.contains("connections=128"), "{line}");
}
