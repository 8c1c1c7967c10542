//! An agent that speaks AMP over WebSocket, written from the protocol's description alone.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tungstenite::{
    Message as Frame, WebSocket, client::IntoClientRequest as _, error::ProtocolError, http::HeaderValue,
};

use super::{
    DEADLINE, Relay,
    amp::{AgentKey, Draft, Keys, Message, To, hex, typ},
    http::{Endpoint, Stream},
};

/// An agent on a connection, and everything it was sent.
pub struct Agent {
    socket: WebSocket<Stream>,
    pub key: AgentKey,
    pub keys: Keys,
    /// The relay's DID, as its upgrade said it.
    pub relay: String,
    /// The largest message the relay takes, as its upgrade said it.
    pub message_bytes: usize,
    /// Every message from the relay, in order.
    pub seen: Vec<Message>,
    /// How many of them [`Self::next`] has given.
    read: usize,
    /// The close code and reason, once the connection has ended; 1006 without a close frame.
    pub closed: Option<(u16, String)>,
}

impl Agent {
    /// Connects and says HELLO.
    #[track_caller]
    pub fn connect(endpoint: &Endpoint, key: &AgentKey) -> Self {
        Self::connect_with(endpoint, key, Keys::Text)
    }

    /// Connects and says HELLO, with envelope keys of this kind.
    #[track_caller]
    pub fn connect_with(endpoint: &Endpoint, key: &AgentKey, keys: Keys) -> Self {
        let mut agent = Self::dial(endpoint, key);
        agent.keys = keys;
        let hello = agent.hello();
        agent.send(&hello);
        let answer = agent.next("HELLO_ACK");
        assert_eq!(answer.typ, typ::HELLO_ACK, "the relay's first message: {answer:?}");
        assert!(answer.answers(&hello.id), "{answer:?}");
        agent
    }

    /// A connection on which nothing was said yet.
    #[track_caller]
    pub fn dial(endpoint: &Endpoint, key: &AgentKey) -> Self {
        Self::try_dial(endpoint, key).expect("the upgrade")
    }

    /// A connection on which nothing was said yet, or the status that the upgrade was refused with, and when to retry.
    #[track_caller]
    pub fn try_dial(endpoint: &Endpoint, key: &AgentKey) -> Result<Self, (u16, Option<String>)> {
        let stream = endpoint.connect().expect("the relay listens");
        match &stream {
            Stream::Tcp(stream) => stream.set_write_timeout(Some(DEADLINE)),
            Stream::Unix(stream) => stream.set_write_timeout(Some(DEADLINE)),
        }
        .expect("a limit for writing");
        let mut request = format!("ws://{}/amp/v1/ws", endpoint.host()).into_client_request().expect("a request");
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("amp.v1"));
        let (socket, answer) = match tungstenite::client(request, stream) {
            Ok(upgraded) => upgraded,
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                let retry = answer.headers().get("retry-after").and_then(|after| after.to_str().ok());
                return Err((answer.status().as_u16(), retry.map(str::to_owned)));
            }
            Err(error) => panic!("no upgrade: {error}"),
        };
        let header = |name: &str| {
            let value = answer.headers().get(name).unwrap_or_else(|| panic!("no {name} in {answer:?}"));
            value.to_str().expect("ASCII").to_owned()
        };
        assert_eq!(header("sec-websocket-protocol"), "amp.v1");
        let relay = header("x-amp-relay-did");
        let message_bytes = header("x-amp-max-message-size").parse().expect("a number of bytes");
        let key = key.clone();
        Ok(Self { socket, key, keys: Keys::Text, relay, message_bytes, seen: Vec::new(), read: 0, closed: None })
    }

    /// A HELLO of now to the relay, not sent yet.
    pub fn hello(&self) -> Draft {
        Draft::new(typ::HELLO, &self.key, self.relay.as_str(), &json!({"versions": ["1.0"]})).ttl(30_000)
    }

    /// A message of this agent, not sent yet.
    pub fn draft(&self, typ: u64, to: impl Into<To>, body: &Value) -> Draft {
        Draft::new(typ, &self.key, to, body)
    }

    /// Signs and sends a message: gives its bytes.
    pub fn send(&mut self, draft: &Draft) -> Vec<u8> {
        let frame = draft.signed(&self.key, self.keys);
        self.send_bytes(&frame);
        frame
    }

    /// Sends a message of this agent: gives its id.
    pub fn say(&mut self, typ: u64, to: impl Into<To>, body: &Value) -> [u8; 16] {
        let draft = self.draft(typ, to, body);
        self.send(&draft);
        draft.id
    }

    /// Sends a binary message as it is.
    pub fn send_bytes(&mut self, frame: &[u8]) {
        // A relay that has closed already is no error here: the test looks at how it closed.
        let _ = self.socket.send(Frame::binary(frame.to_vec()));
    }

    /// Has a binary message sent with those that follow, in one write.
    pub fn queue(&mut self, frame: &[u8]) {
        let _ = self.socket.write(Frame::binary(frame.to_vec()));
    }

    /// Sends what was queued.
    pub fn flush(&mut self) {
        let _ = self.socket.flush();
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) {
        let _ = self.socket.send(Frame::text(text));
    }

    /// Writes below the WebSocket layer.
    pub fn write_raw(&mut self, bytes: &[u8]) {
        let _ = self.socket.get_mut().write_all(bytes);
    }

    /// The next message that was not given yet.
    #[track_caller]
    pub fn next(&mut self, what: &str) -> Message {
        let message = self.wait_for(what, |agent| agent.seen.get(agent.read).cloned());
        self.read += 1;
        message
    }

    /// The next message that was not given yet, or `None` once the connection has ended.
    #[track_caller]
    pub fn next_or_end(&mut self, what: &str) -> Option<Message> {
        let give_up = Instant::now() + DEADLINE;
        loop {
            if let Some(message) = self.seen.get(self.read).cloned() {
                self.read += 1;
                return Some(message);
            }
            if self.closed.is_some() {
                return None;
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.read_one(left) {
                self.give_up(what);
            }
        }
    }

    /// [`Self::next`] begins behind what has come so far.
    pub fn skip(&mut self) {
        self.read = self.seen.len();
    }

    /// Waits for the first message, seen already or to come, that fits.
    #[track_caller]
    pub fn wait(&mut self, what: &str, fits: impl Fn(&Message) -> bool) -> Message {
        self.wait_for(what, |agent| agent.seen.iter().find(|message| fits(message)).cloned())
    }

    /// The first answer to a message that is not a word on how it goes.
    #[track_caller]
    pub fn answer(&mut self, id: &[u8]) -> Message {
        let on_the_way = [typ::PROCESSING, typ::PROGRESS, typ::INPUT_REQUIRED];
        self.wait(&format!("an answer to {}", hex(id)), |message| {
            message.answers(id) && !on_the_way.contains(&message.typ)
        })
    }

    /// The relay's ERROR in answer to a message.
    #[track_caller]
    pub fn error(&mut self, id: &[u8]) -> Message {
        let answer = self.answer(id);
        self.assert_error(&answer);
        answer
    }

    /// Sends a message that has to be refused by the relay with this code.
    #[track_caller]
    pub fn refused(&mut self, draft: &Draft, code: u64) -> Message {
        self.send(draft);
        let error = self.error(&draft.id);
        assert_eq!(error.body["code"], code, "{error:?}");
        error
    }

    /// An ERROR of the relay in the form it has to have.
    #[track_caller]
    pub fn assert_error(&self, error: &Message) {
        assert_eq!(error.typ, typ::ERROR, "{error:?}");
        error.assert_well_made();
        assert_eq!(error.from, self.relay, "{error:?}");
        let code = error.body["code"].as_u64().expect("a code");
        let category = ["", "protocol", "routing", "security", "client", "server"][(code / 1000) as usize];
        assert_eq!(error.body["category"], category, "{error:?}");
        assert!(error.body["message"].as_str().is_some_and(|words| !words.is_empty()), "{error:?}");
    }

    /// Asks a service of the relay: gives the body of its RESPONSE.
    #[track_caller]
    pub fn ask(&mut self, request: &Value) -> Value {
        let relay = self.relay.clone();
        let id = self.say(typ::REQUEST, relay.as_str(), request);
        let answer = self.answer(&id);
        assert_eq!(answer.typ, typ::RESPONSE, "{request}: {answer:?}");
        assert_eq!(answer.from, relay);
        answer.assert_well_made();
        answer.body
    }

    /// A PING to the relay and its PONG.
    #[track_caller]
    pub fn ping(&mut self) {
        let relay = self.relay.clone();
        let id = self.say(typ::PING, relay.as_str(), &Value::Null);
        let answer = self.answer(&id);
        assert_eq!((answer.typ, &answer.body), (typ::PONG, &Value::Null), "{answer:?}");
        assert_eq!(answer.from, relay);
        answer.assert_well_made();
    }

    /// Every message of this type so far.
    pub fn of(&self, typ: u64) -> Vec<&Message> {
        self.seen.iter().filter(|message| message.typ == typ).collect()
    }

    /// Reads until the relay closes: gives the code.
    #[track_caller]
    pub fn wait_closed(&mut self) -> u16 {
        self.wait_for("a close", |agent| agent.closed.clone().map(Some)).expect("closed").0
    }

    /// Closes properly and waits for the other side's close.
    #[track_caller]
    pub fn close(mut self) {
        let _ = self.socket.close(None);
        self.wait_closed();
    }

    /// Ends the connection without a close frame.
    pub fn vanish(self) {
        drop(self.socket);
    }

    /// Reads on until `look` finds something in what has been seen.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let give_up = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if self.closed.is_some() || left.is_zero() || !self.read_one(left) {
                self.give_up(what);
            }
        }
    }

    #[track_caller]
    fn give_up(&self, what: &str) -> ! {
        let tail: Vec<_> = self.seen.iter().rev().take(20).rev().map(|message| format!("{message:?}")).collect();
        panic!("waited in vain for {what}; closed: {:?}; the last messages:\n{}", self.closed, tail.join("\n"));
    }

    /// Reads one message, waiting for at most `limit`: false when none came.
    pub fn read_one(&mut self, limit: Duration) -> bool {
        let _ = self.socket.get_ref().set_read_timeout(limit.max(Duration::from_millis(1)));
        match self.socket.read() {
            Ok(Frame::Binary(frame)) => {
                let message = Message::read(&frame).unwrap_or_else(|error| panic!("{error}: {}", hex(&frame)));
                self.seen.push(message);
                true
            }
            Ok(Frame::Text(text)) => panic!("a text frame on AMP: {text}"),
            Ok(Frame::Close(frame)) => {
                self.closed = Some(frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string())));
                let _ = self.socket.flush();
                true
            }
            Ok(_) => true,
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => false,
            // A signal of another test: a read with a time limit is not taken up again by itself.
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(
                tungstenite::Error::ConnectionClosed
                | tungstenite::Error::AlreadyClosed
                | tungstenite::Error::Io(_)
                | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
            ) => {
                self.closed.get_or_insert((1006, String::new()));
                true
            }
            Err(error) => panic!("the relay broke the protocol: {error}"),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The worker that serves an agent: the one that has read a large message of it.
#[track_caller]
pub fn worker_of(relay: &Relay, agent: &mut Agent) -> usize {
    const BYTES: usize = 256 * 1024;
    let read = |relay: &Relay| -> Vec<u64> {
        let stats = relay.stats();
        let workers = stats["workers"].as_array().expect("workers").clone();
        workers.iter().map(|worker| worker["bytes_in"].as_u64().expect("a number of bytes")).collect()
    };
    let before = read(relay);
    agent.ask(&json!({"action": "echo", "filler": "x".repeat(BYTES)}));
    super::until("a worker has read the message", || {
        let now = read(relay);
        before.iter().zip(now).position(|(before, now)| now - before >= BYTES as u64)
    })
}

/// An agent on the worker of another one, or on one that is not.
#[track_caller]
pub fn beside(relay: &Relay, other: &mut Agent, together: bool, key: &AgentKey, keys: Keys) -> Agent {
    let home = worker_of(relay, other);
    super::until("an agent is where it should be", || {
        let mut agent = Agent::connect_with(&relay.tcp(), key, keys);
        ((worker_of(relay, &mut agent) == home) == together).then_some(agent)
    })
}

/// Who is here, by the relay's word: DIDs and how many connections each has.
#[track_caller]
pub fn presence(agent: &mut Agent) -> HashMap<String, u64> {
    let answer = agent.ask(&json!({"action": "agents"}));
    let agents = answer["agents"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let one = |agent: &Value| Some((agent["did"].as_str()?.to_owned(), agent["connections"].as_u64()?));
    agents.iter().map(|agent| one(agent).unwrap_or_else(|| panic!("{answer}"))).collect()
}

/// Waits until an agent has one connection: those that [`beside`] gave up are gone.
#[track_caller]
pub fn wait_alone(witness: &mut Agent, key: &AgentKey) {
    super::until("it is alone", || (presence(witness).get(&key.did) == Some(&1)).then_some(()));
}
