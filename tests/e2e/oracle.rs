//! What was answered before: generated conversations of agents, each with the answers that a relay gave when they were
//! recorded (`tests/data/oracle.txt`, one line each). A change of the code that is not to change an answer leaves them as
//! they are.
//!
//! A conversation is a function of its number. What is told of it does not depend on what no document promises: the order
//! among several senders, ids, times, signatures, and the words of an error.
//!
//! After an intended change: `AMP_RELAY_TEST_ORACLE=record cargo test ... --test e2e oracle -- --ignored`, and the note says
//! which conversations differ. `AMP_RELAY_TEST_ORACLE=again` holds them once more and marks those that go otherwise by
//! [`ANY`]. `AMP_RELAY_TEST_ORACLE=show:N` prints conversation N; `AMP_RELAY_TEST_ORACLE_PROGRAM` names
//! another build for all of this.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    path::PathBuf,
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    Agent, AgentKey, Keys, Relay,
    agent::presence,
    amp::{Draft, Message, To, bytes, hex, keyed, map, map_as_given, now_ms, text, typ, uint},
    random::Random,
    until,
};

/// Conversations on record.
const CONVERSATIONS: u64 = 10_000;
/// In place of the hash of a conversation that did not always go the same way.
const ANY: &str = "any";
/// How many of them every run holds; the rest with `--full`.
const USUAL: u64 = 600;
/// Workers of a relay, and which signatures it checks. On which worker an agent is makes no difference.
const KINDS: [(u16, &str); 4] = [(1, "hello"), (2, "hello"), (3, "hello"), (2, "all")];

/// Fowler, Noll and Vo's hash (FNV-1a), 64 bits: the same on every machine.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A relay and the agents on it. They stay from one conversation to the next.
struct Stage {
    relay: Relay,
    agents: Vec<Agent>,
    /// DIDs and what they are called, those of nobody among them.
    names: Vec<(String, String)>,
}

/// The kinds of keys of the agents. The last two are one agent with two connections.
const CAST: [Keys; 6] = [Keys::Text, Keys::Text, Keys::Int, Keys::Int, Keys::Text, Keys::Text];
/// The last of them with connections of its own.
const LAST: usize = CAST.len() - 2;

impl Stage {
    fn new(kind: usize) -> Self {
        let key = |n: usize| AgentKey::from_seed([n as u8 + 1; 32]);
        let keys: Vec<_> = (0..CAST.len()).map(|n| key(n.min(LAST))).collect();
        let lines: String = keys[..=LAST].iter().map(|key| key.line("agent")).collect();
        let options = Relay::options(&[]).keys(&lines);
        let (workers, verify) = KINDS[kind];
        let relay = options.workers(workers).argument("--amp-verify").argument(verify).start();
        let agents: Vec<_> =
            keys.iter().zip(CAST).map(|(key, kind)| Agent::connect_with(&relay.tcp(), key, kind)).collect();
        let mut names: Vec<_> =
            keys[..=LAST].iter().enumerate().map(|(n, key)| (key.did.clone(), format!("agent{n}"))).collect();
        names.push((agents[0].relay.clone(), "relay".into()));
        names.extend([100, 101].map(|n| (key(n).did, format!("absent{n}"))));
        let mut stage = Self { relay, agents, names };
        stage.all_are_here();
        stage
    }

    fn did(&self, name: &str) -> String {
        let named = self.names.iter().find(|(_, known)| known == name);
        named.map_or_else(|| name.to_owned(), |(did, _)| did.clone())
    }
}

/// One conversation.
struct Talk<'a> {
    stage: &'a mut Stage,
    random: Random,
    /// What was said, by id.
    labels: HashMap<Vec<u8>, String>,
    transcript: String,
    said: usize,
    left: bool,
    /// How often a foreign name was used on each connection. The third time ends it, and what others send to it meanwhile
    /// reaches it or does not: that is left to tests of its own.
    struck: [u8; CAST.len()],
}

impl Talk<'_> {
    fn label(&mut self, speaker: usize, draft: &Draft) {
        self.said += 1;
        self.labels.insert(draft.id.to_vec(), format!("m{}", self.said));
        self.struck[speaker] += u8::from(draft.from != self.stage.agents[speaker].key.did);
    }

    fn speaker(&mut self) -> usize {
        self.random.below(CAST.len())
    }

    fn target(&mut self) -> String {
        match self.random.below(12) {
            0 => "relay".into(),
            1 => self.random.of(&["absent100", "absent101"]).into(),
            2 => self.random.of(&["did:web:example.org", "no DID", "", "did:key:z6Mk", "relay-server"]).into(),
            3 => {
                let fragment = self.random.of(&["#key", "?a=b", "/path"]);
                let agent = self.random.below(LAST + 1);
                self.stage.did(&format!("agent{agent}")) + fragment
            }
            _ => format!("agent{}", self.random.below(LAST + 1)),
        }
    }

    fn to(&mut self) -> To {
        if self.random.below(4) > 0 {
            let target = self.target();
            return To::One(self.stage.did(&target));
        }
        let names: Vec<_> = (0..self.random.below(5)).map(|_| self.target()).collect();
        To::Many(names.iter().map(|name| self.stage.did(name)).collect())
    }

    fn typ(&mut self) -> u64 {
        const OTHER: [u64; 12] = [
            typ::REQUEST,
            typ::RESPONSE,
            typ::ACK,
            typ::PROC_FAIL,
            typ::PROGRESS,
            typ::PROCESSING,
            typ::INPUT_REQUIRED,
            typ::ERROR,
            typ::PONG,
            typ::HELLO,
            typ::HELLO_ACK,
            0x33,
        ];
        if self.random.one_in(2) { typ::MESSAGE } else { self.random.of(&OTHER) }
    }

    fn body(&mut self) -> Value {
        match self.random.below(8) {
            0 => Value::Null,
            1 => json!({"action": "echo", "n": [1, {"x": "y"}]}),
            2 => json!({"action": "agents"}),
            3 => json!({"action": "none"}),
            4 => json!("x".repeat(self.random.below(70_000))),
            _ => json!({"n": self.random.below(1_000_000), "text": "hello"}),
        }
    }

    fn draft(&mut self, speaker: usize) -> Draft {
        let (typ, to, body) = (self.typ(), self.to(), self.body());
        let mut draft = self.stage.agents[speaker].draft(typ, to, &body);
        if self.random.one_in(6) {
            draft = draft.thread(&[b't'; 5]);
        }
        if self.random.one_in(5) {
            let all: Vec<_> = self.labels.iter().map(|(id, label)| (label.clone(), id.clone())).collect();
            let known = all.iter().min_by_key(|(label, _)| hash(label)).map(|(_, id)| id.clone());
            draft = draft.reply_to(&known.unwrap_or_else(|| vec![9; 16]));
        }
        if self.random.one_in(12) {
            draft.ext = Some(map(vec![(text("a"), uint(1))]));
        }
        draft
    }

    /// Changes a message so that some check refuses it.
    fn spoil(&mut self, speaker: usize, draft: Draft) -> Draft {
        let (now, absent) = (now_ms(), self.stage.did("absent100"));
        match self.random.below(9) {
            0 => draft.at(now - 1_000_000).ttl(5_000),
            1 => draft.at(now + 600_000),
            2 => Draft { v: 2, ..draft },
            3 => Draft { ts: draft.ts + 7_000, ..draft },
            4 => draft.ttl(400 * 86_400_000),
            5 | 8 if self.struck[speaker] == 2 => Draft { v: 3, ..draft },
            5 => Draft { from: absent, ..draft },
            6 => draft.at(now - 60_000).ttl(0),
            7 => draft.thread(&[b't'; 1_100]),
            _ => Draft { from: "relay-server".into(), ..draft },
        }
    }

    /// The bytes of a message, as another writer or a broken one would write it.
    fn frame(&mut self, speaker: usize, draft: &Draft) -> Vec<u8> {
        let agent = &self.stage.agents[speaker];
        let (keys, mut fields) = (agent.keys, draft.signed_fields(&agent.key));
        match self.random.below(14) {
            // Another order of keys.
            0 => {
                let mut pairs = keyed(fields, keys);
                pairs.reverse();
                map_as_given(&pairs)
            }
            // The other kind of keys.
            1 if draft.ext.is_none() => {
                draft.signed(&agent.key, if keys == Keys::Text { Keys::Int } else { Keys::Text })
            }
            // Without a signature, which integer keys allow.
            2 => {
                fields.retain(|(name, _)| *name != "sig");
                map(keyed(fields, keys))
            }
            // A wrong one.
            3 => map(keyed(draft.fields(&[7; 64]), keys)),
            // Without a field.
            4 => {
                let gone = self.random.of(&["v", "id", "typ", "ts", "ttl", "from", "to", "body"]);
                fields.retain(|(name, _)| *name != gone);
                map(keyed(fields, keys))
            }
            // With one that nobody knows.
            5 if keys == Keys::Text => {
                let mut pairs = keyed(fields, keys);
                pairs.push((text("zzz"), bytes(b"unknown")));
                map(pairs)
            }
            _ => map(keyed(fields, keys)),
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0 if !self.left => self.leave(),
            1 => self.stream(),
            n => {
                let speaker = self.speaker();
                let mut draft = self.draft(speaker);
                if n < 6 {
                    draft = self.spoil(speaker, draft);
                }
                self.label(speaker, &draft);
                let frame = self.frame(speaker, &draft);
                self.stage.agents[speaker].send_bytes(&frame);
            }
        }
    }

    /// Many messages in one write, an odd one among them.
    fn stream(&mut self) {
        let speaker = self.speaker();
        let target = self.target();
        let to = self.stage.did(&target);
        let (count, odd) = (self.random.below(20), self.random.below(30));
        for n in 0..count {
            let mut draft = self.stage.agents[speaker].draft(typ::MESSAGE, to.as_str(), &json!({"n": n}));
            if n == odd {
                draft = self.spoil(speaker, draft);
            }
            self.label(speaker, &draft);
            let agent = &mut self.stage.agents[speaker];
            let frame = draft.signed(&agent.key, agent.keys);
            agent.queue(&frame);
        }
        self.stage.agents[speaker].flush();
    }

    /// An agent leaves; it comes back at the end.
    fn leave(&mut self) {
        self.left = true;
        let who = self.random.below(LAST);
        self.settle();
        let (key, keys) = (self.stage.agents[who].key.clone(), CAST[who]);
        let endpoint = self.stage.relay.tcp();
        let agent = std::mem::replace(&mut self.stage.agents[who], Agent::dial(&endpoint, &key));
        self.hear(who, &agent);
        agent.close();
        let witness = usize::from(who == 0);
        self.stage.wait_for(Some(who), "it has left", |here| !here.contains_key(&key.did));
        let _ = writeln!(self.transcript, "agent{who} is away");
        for _ in 0..2 {
            let draft = self.stage.agents[witness].draft(typ::MESSAGE, key.did.as_str(), &json!("are you there?"));
            self.label(witness, &draft);
            self.stage.agents[witness].send(&draft);
            let error = self.stage.agents[witness].error(&draft.id);
            let _ = writeln!(self.transcript, "{}", error.body["code"]);
        }
        self.stage.agents[who] = Agent::connect_with(&endpoint, &key, keys);
        self.stage.agents[who].seen.clear();
        self.stage.agents[who].skip();
        self.stage.all_are_here();
    }

    /// Waits until all that was said has arrived, or its sender was told.
    fn settle(&mut self) {
        let names: Vec<String> = self.stage.names.iter().map(|(did, _)| did.clone()).collect();
        let relay = self.stage.did("relay");
        for speaker in 0..CAST.len() {
            let mut ids = Vec::new();
            for name in names.iter().filter(|name| **name != relay) {
                let agent = &mut self.stage.agents[speaker];
                let draft = agent.draft(typ::MESSAGE, name.as_str(), &json!("settled?"));
                let frame = draft.signed(&agent.key, agent.keys);
                agent.queue(&frame);
                ids.push((name.clone(), draft.id));
            }
            self.stage.agents[speaker].flush();
            for (name, id) in ids {
                let mut someone = false;
                for agent in self.stage.agents.iter_mut().filter(|agent| agent.key.did == name) {
                    someone = true;
                    agent.wait_for("the message behind all others", |agent| {
                        agent.seen.iter().any(|message| message.id == id).then_some(())
                    });
                }
                if !someone {
                    self.stage.agents[speaker].error(&id);
                }
                self.labels.insert(id.to_vec(), "settled".into());
            }
        }
        let gathering = "amp_relay_amp_gathering";
        until("nothing is gathered", || (self.stage.relay.metric(gathering) == 0.0).then_some(()));
        for speaker in 0..CAST.len() {
            let id = self.stage.agents[speaker].say(typ::PING, relay.as_str(), &Value::Null);
            self.stage.agents[speaker].wait("its PONG", |message| message.answers(&id));
        }
    }

    /// Writes down what a connection was sent.
    fn hear(&mut self, who: usize, agent: &Agent) {
        let mut by_sender: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for message in &agent.seen {
            let about = message.reply_to.as_ref().and_then(|id| self.labels.get(id));
            let itself = self.labels.get(&message.id);
            let is_ours = |label: Option<&String>| label.is_some_and(|label| label == "settled");
            // Those PINGs and messages that find out whether all has come.
            if is_ours(about) || is_ours(itself) || message.typ == typ::PONG && about.is_none() {
                continue;
            }
            let line = self.line(message, about, itself);
            by_sender.entry(self.named(&message.from)).or_default().push(line);
        }
        for (sender, mut lines) in by_sender {
            // The relay promises no order among its answers, and two connections may speak for one agent.
            if sender == "relay" || sender == format!("agent{LAST}") {
                lines.sort();
            }
            let _ = writeln!(self.transcript, "connection {who} heard of {sender}:");
            for line in lines {
                let _ = writeln!(self.transcript, "  {line}");
            }
        }
    }

    fn line(&self, message: &Message, about: Option<&String>, itself: Option<&String>) -> String {
        let to = match &message.to {
            To::One(did) => self.named(did),
            To::Many(dids) => format!("{:?}", dids.iter().map(|did| self.named(did)).collect::<Vec<_>>()),
        };
        let mut body = message.body.clone();
        if message.typ == typ::ERROR
            && let Some(fields) = body.as_object_mut()
        {
            fields.remove("message");
            // Which of several were not there is for `amp_relay`: how many workers know of it in time is up to the system.
            if fields.get("details").is_some_and(|details| details.get("recipients").is_some()) {
                fields.remove("details");
            }
        }
        let thread = message.thread_id.as_deref().map(hex);
        let verified = message.verify().is_ok();
        let body = self.named(&plain(body).to_string());
        let body = if body.len() > 300 { format!("{:016x} of {}", hash(&body), body.len()) } else { body };
        format!(
            "{} 0x{:02x} to {to} re {about:?} thread {thread:?} keys {:?} verified {verified}: {body}",
            itself.map_or("new", String::as_str),
            message.typ,
            message.keys
        )
    }

    fn named(&self, text: &str) -> String {
        self.stage.names.iter().fold(text.to_owned(), |text, (did, name)| text.replace(did.as_str(), name))
    }
}

impl Stage {
    /// New connections for some.
    fn connect_again(&mut self, which: &[u8]) {
        for (who, _) in which.iter().enumerate().filter(|(_, struck)| **struck > 0) {
            let (key, keys) = (self.agents[who].key.clone(), self.agents[who].keys);
            let new = Agent::connect_with(&self.relay.tcp(), &key, keys);
            std::mem::replace(&mut self.agents[who], new).close();
        }
        if which.iter().any(|struck| *struck > 0) {
            self.all_are_here();
        }
    }

    /// Waits until every connection sees every agent.
    fn all_are_here(&mut self) {
        let mut expected: HashMap<String, u64> = HashMap::new();
        for agent in &self.agents {
            *expected.entry(agent.key.did.clone()).or_default() += 1;
        }
        self.wait_for(None, "all are here", |here| *here == expected);
    }

    /// Waits until every connection but one sees who it is to see; what it is told of that is no part of a conversation.
    fn wait_for(&mut self, but: Option<usize>, what: &str, fits: impl Fn(&HashMap<String, u64>) -> bool) {
        for (_, agent) in self.agents.iter_mut().enumerate().filter(|(who, _)| Some(*who) != but) {
            let seen = agent.seen.len();
            until(what, || fits(&presence(agent)).then_some(()));
            agent.seen.truncate(seen);
            agent.skip();
        }
    }
}

/// A body without what differs from run to run: times, and the order of lists of agents.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) if number.as_u64().is_some_and(|number| number > 1_600_000_000_000) => json!("a time"),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(plain).collect();
            if items.iter().all(Value::is_object) {
                items.sort_by_key(Value::to_string);
            }
            Value::Array(items)
        }
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(key, value)| (key, plain(value))).collect()),
        other => other,
    }
}

fn converse(stage: &mut Stage, number: u64) -> String {
    for agent in &mut stage.agents {
        agent.seen.clear();
        agent.skip();
    }
    let random = Random(number.wrapping_mul(0xd134_2543_de82_ef95));
    let mut talk = Talk {
        stage,
        random,
        labels: HashMap::new(),
        transcript: String::new(),
        said: 0,
        left: false,
        struck: [0; CAST.len()],
    };
    let steps = 4 + talk.random.below(16);
    for _ in 0..steps {
        talk.step();
    }
    talk.settle();
    let agents = std::mem::take(&mut talk.stage.agents);
    for (who, agent) in agents.iter().enumerate() {
        talk.hear(who, agent);
    }
    talk.stage.agents = agents;
    let Talk { transcript, struck, .. } = talk;
    stage.connect_again(&struck);
    transcript
}

fn record() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/oracle.txt")
}

/// Holds the conversations of these numbers, each on a relay of its kind: gives the hash of each.
fn hold(numbers: impl Iterator<Item = u64> + Clone + Send, show: bool) -> BTreeMap<u64, String> {
    thread::scope(|scope| {
        let stages: Vec<_> = (0..KINDS.len())
            .map(|kind| {
                let numbers = numbers.clone().filter(move |number| number % KINDS.len() as u64 == kind as u64);
                scope.spawn(move || {
                    let mut stage = Stage::new(kind);
                    numbers.map(|number| (number, held(&mut stage, number, show))).collect::<Vec<_>>()
                })
            })
            .collect();
        stages.into_iter().flat_map(|stage| stage.join().expect("all were held")).collect()
    })
}

fn held(stage: &mut Stage, number: u64, show: bool) -> String {
    let transcript = converse(stage, number);
    if show {
        println!("--- conversation {number}\n{transcript}");
    }
    format!("{:08x}", hash(&transcript) as u32)
}

fn recorded() -> Vec<String> {
    let recorded = fs::read_to_string(record()).expect("tests/data/oracle.txt");
    let recorded: Vec<String> = recorded.lines().map(str::to_owned).collect();
    assert_eq!(recorded.len() as u64, CONVERSATIONS, "lines of the record");
    recorded
}

fn compare(count: u64) {
    let recorded = recorded();
    let held = hold(0..count, false);
    let as_recorded = |(number, hash): &(&u64, &String)| {
        let recorded = &recorded[**number as usize];
        recorded == ANY || recorded == *hash
    };
    let other: Vec<u64> = held.iter().filter(|one| !as_recorded(one)).map(|(number, _)| *number).collect();
    assert!(
        other.is_empty(),
        "{} of {count} conversations went otherwise, the first of them {:?}: AMP_RELAY_TEST_ORACLE=show:N prints one",
        other.len(),
        &other[..other.len().min(20)]
    );
}

#[test]
fn conversations_go_as_they_went() {
    compare(USUAL);
}

#[test]
#[ignore = "some minutes: ./tests/run --full"]
fn all_conversations_go_as_they_went() {
    match std::env::var("AMP_RELAY_TEST_ORACLE").as_deref() {
        Ok(how @ ("record" | "again")) => {
            let before = if how == "again" { recorded() } else { Vec::new() };
            let held = hold(0..CONVERSATIONS, false);
            let lines = held.iter().map(|(&number, hash)| match before.get(number as usize) {
                Some(before) if before != hash => ANY.to_owned() + "\n",
                _ => hash.clone() + "\n",
            });
            fs::write(record(), lines.collect::<String>()).expect("the record is written");
        }
        Ok(show) => {
            let number = show.strip_prefix("show:").and_then(|number| number.parse().ok()).expect("show:NUMBER");
            hold(number..=number, true);
        }
        Err(_) => compare(CONVERSATIONS),
    }
}
