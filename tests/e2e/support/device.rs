//! A device that speaks the session protocol, written from its description alone.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tungstenite::{
    Message, WebSocket,
    client::{IntoClientRequest as _, client_with_config},
    error::ProtocolError,
    http::HeaderValue,
    protocol::WebSocketConfig,
};

use super::{
    DEADLINE, Key, Relay,
    http::{Endpoint, Stream},
    keys,
};

/// What a device says about itself when it signs in. The public fields are there for tests that lie.
pub struct SignIn<'a> {
    pub key: &'a Key,
    /// The key that makes the signature; the named one unless a test says otherwise.
    pub signer: &'a Key,
    pub client: String,
    pub name: String,
    pub kind: String,
    pub role: Option<String>,
    pub authority: Option<String>,
    pub namespace: String,
    /// What is signed instead of the transcript.
    pub transcript: Option<String>,
}

/// A sign-in that was turned away.
#[derive(Debug)]
pub struct Refused {
    pub error: Value,
    pub close: Option<u16>,
}

impl Refused {
    pub fn code(&self) -> &str {
        self.error["code"].as_str().unwrap_or("")
    }
}

impl<'a> SignIn<'a> {
    pub fn new(key: &'a Key) -> Self {
        let client: String = keys::seed()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            key,
            signer: key,
            client,
            name: "a test".into(),
            kind: "test".into(),
            role: None,
            authority: None,
            namespace: "sign-in@amp-relay".into(),
            transcript: None,
        }
    }

    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    pub fn role(mut self, role: &str) -> Self {
        self.role = Some(role.into());
        self
    }

    pub fn client(mut self, client: &str) -> Self {
        self.client = client.into();
        self
    }

    /// Signs in; the relay's proof is checked.
    pub fn connect(self, endpoint: &Endpoint) -> Result<Device, Refused> {
        let (device, challenge, transcript) = self.ask(endpoint, None);
        device.finish_sign_in(&challenge, &transcript, self.key)
    }

    /// Asks to be signed in, with this signature if one is given, and waits for nothing. Gives the challenge and what was
    /// to be signed.
    pub fn ask(&self, endpoint: &Endpoint, signature: Option<&str>) -> (Device, Value, String) {
        let mut device = Device::open(endpoint);
        let challenge = device.wait("the challenge", |message| message["type"] == "challenge");
        assert_eq!(challenge["version"], 1, "{challenge}");
        let authority = self.authority.clone().unwrap_or_else(|| endpoint.authority());
        let nonce = URL_SAFE_NO_PAD.encode(keys::seed());
        let transcript = [
            "amp-relay sign-in 1",
            text(&challenge["relay"]["did"]),
            &authority,
            text(&challenge["nonce"]),
            &nonce,
            &self.client,
            &self.name,
            self.role.as_deref().unwrap_or("-"),
            &self.key.fingerprint(),
            "none",
        ]
        .map(|line| format!("{line}\n"))
        .concat();
        let signed = self.transcript.as_deref().unwrap_or(&transcript);
        let mut message = json!({
            "type": "sign_in", "id": "sign-in", "client": self.client, "key": self.key.public, "nonce": nonce,
            "authority": authority, "binding": "none", "device": {"name": self.name, "kind": self.kind},
            "signature": signature.map_or_else(|| self.signer.sign(&self.namespace, signed.as_bytes()), str::to_owned),
        });
        if let Some(role) = &self.role {
            message["role"] = json!(role);
        }
        device.send(&message);
        (device, challenge, transcript)
    }
}

/// A signed-in device, and everything it has been told.
pub struct Device {
    socket: WebSocket<Stream>,
    pub welcome: Value,
    /// Every message from the relay, in order.
    pub seen: Vec<Value>,
    /// The close code and reason, once the connection has ended; 1006 without a close frame.
    pub closed: Option<(u16, String)>,
    next_id: u64,
    prefix: String,
}

impl Device {
    /// Signs in on the relay's first listener.
    #[track_caller]
    pub fn connect(relay: &Relay, key: &Key, name: &str) -> Self {
        match SignIn::new(key).name(name).connect(&relay.tcp()) {
            Ok(device) => device,
            Err(refused) => panic!("{name} was refused: {refused:?}\n{}", relay.log()),
        }
    }

    /// A connection on `/session` that has not signed in.
    #[track_caller]
    pub fn open(endpoint: &Endpoint) -> Self {
        let stream = endpoint.connect().expect("the relay listens");
        let url = format!("ws://{}/session", endpoint.host());
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("amp-session.v1"));
        // What clients take at their defaults, Python's `websockets` among them.
        let config = WebSocketConfig::default().max_message_size(Some(1 << 20)).max_frame_size(Some(1 << 20));
        let (socket, answer) = client_with_config(request, stream, Some(config)).expect("the upgrade");
        assert_eq!(
            answer.headers().get("sec-websocket-protocol").map(HeaderValue::as_bytes),
            Some(&b"amp-session.v1"[..])
        );
        let prefix = URL_SAFE_NO_PAD.encode(&keys::seed()[..6]);
        Self { socket, welcome: Value::Null, seen: Vec::new(), closed: None, next_id: 0, prefix }
    }

    fn finish_sign_in(mut self, challenge: &Value, transcript: &str, key: &Key) -> Result<Self, Refused> {
        let answer = self.wait("the answer to sign_in", |m| m["type"] == "welcome" || m["type"] == "error");
        if answer["type"] == "error" {
            let close = self.wait_closed().0;
            return Err(Refused { error: answer, close: Some(close) });
        }
        assert_eq!(answer["re"], "sign-in", "{answer}");
        assert_eq!(answer["fingerprint"].as_str(), Some(key.fingerprint().as_str()), "{answer}");
        let proven = format!("{transcript}{}\n{}\n", text(&answer["principal"]), text(&answer["role"]));
        let host_key = text(&challenge["relay"]["key"]);
        let proof = keys::verify(host_key, "welcome@amp-relay", proven.as_bytes(), text(&answer["proof"]));
        assert_eq!(proof, Ok(()), "the relay proves itself: {answer}");
        self.welcome = answer;
        Ok(self)
    }

    /// `SHA256:...` of the key, as other devices see it.
    pub fn principal(&self) -> &str {
        text(&self.welcome["principal"])
    }

    /// Sends a message as it is.
    pub fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Sends a text message that need not be JSON.
    pub fn send_text(&mut self, message: &str) {
        // A relay that has closed already is no error here: the test looks at how it closed.
        let _ = self.socket.send(Message::text(message));
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, message: &[u8]) {
        let _ = self.socket.send(Message::binary(message.to_vec()));
    }

    /// An id that no other command of this device has.
    pub fn fresh_id(&mut self) -> String {
        self.next_id += 1;
        format!("{}.{}", self.prefix, self.next_id)
    }

    /// The hash of a permission request's input as this device was told of it, by which an allowance names it.
    pub fn shown(&self, request: &str) -> Option<String> {
        let inside = |message: &Value| -> Vec<Value> {
            let events = [message.clone()].into_iter().chain(message["events"].as_array().cloned().unwrap_or_default());
            events.chain(message["snapshot"]["permissions"].as_array().cloned().unwrap_or_default()).collect()
        };
        let told =
            self.seen.iter().flat_map(inside).find(|told| told["request"] == request && !told["input"].is_null());
        told.map(|told| hash(&told["input"]))
    }

    /// Sends a command and does not wait: gives its id. An allowance names what was shown, unless the test says otherwise.
    pub fn start(&mut self, kind: &str, mut fields: Value) -> String {
        if kind == "decide" && fields["decision"] == "allow" && fields.get("shown").is_none() {
            fields["shown"] = json!(self.shown(text(&fields["request"])));
        }
        let id = self.fresh_id();
        fields["type"] = json!(kind);
        fields["id"] = json!(id);
        self.send(&fields);
        id
    }

    /// Waits for the answer to a command: the reply, or the error.
    #[track_caller]
    pub fn answer(&mut self, id: &str) -> Result<Value, Value> {
        let answer = self.wait(&format!("the answer to {id}"), |message| message["re"] == id);
        match text(&answer["type"]) {
            "reply" | "pong" => Ok(answer),
            "error" => Err(answer),
            other => panic!("{other} is no answer: {answer}"),
        }
    }

    /// Sends a command and gives its reply or its error.
    #[track_caller]
    pub fn command(&mut self, kind: &str, fields: Value) -> Result<Value, Value> {
        let id = self.start(kind, fields);
        self.answer(&id)
    }

    /// Sends a command that has to go well.
    #[track_caller]
    pub fn ok(&mut self, kind: &str, fields: Value) -> Value {
        match self.command(kind, fields) {
            Ok(reply) => reply,
            Err(error) => panic!("{kind} was refused: {error}"),
        }
    }

    /// Sends a command that has to fail: gives its code.
    #[track_caller]
    pub fn refused(&mut self, kind: &str, fields: Value) -> String {
        match self.command(kind, fields) {
            Ok(reply) => panic!("{kind} should have been refused: {reply}"),
            Err(error) => text(&error["code"]).to_owned(),
        }
    }

    /// Creates a session of the default profile and waits until it takes prompts.
    #[track_caller]
    pub fn create(&mut self) -> String {
        let reply = self.ok("create", json!({"profile": "default"}));
        text(&reply["session"]["session"]).to_owned()
    }

    /// Attaches with the usual tail: gives the reply.
    #[track_caller]
    pub fn attach(&mut self, session: &str) -> Value {
        self.ok("attach", json!({"session": session}))
    }

    /// Sends a prompt: gives the prompt's id.
    #[track_caller]
    pub fn prompt(&mut self, session: &str, prompt: &str) -> String {
        let reply = self.ok("prompt", json!({"session": session, "text": prompt}));
        text(&reply["prompt"]).to_owned()
    }

    /// Waits for an event of a session that fits, among those seen already too.
    #[track_caller]
    pub fn event(&mut self, session: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(what, |device| device.events(session).into_iter().find(&fits))
    }

    /// Waits for the end of the turn that answers a prompt.
    #[track_caller]
    pub fn turn(&mut self, session: &str, prompt: &str) -> Value {
        self.event(session, &format!("the end of the turn of {prompt}"), |event| {
            event["kind"] == "turn"
                && event["prompts"].as_array().is_some_and(|all| all.iter().any(|one| one == prompt))
        })
    }

    /// Waits until a prompt is settled: gives the state it ended in, which has to be its only end.
    #[track_caller]
    pub fn settled(&mut self, session: &str, prompt: &str) -> String {
        let ends = |event: &Value| {
            event["kind"] == "prompt_state"
                && event["prompt"] == prompt
                && ["done", "cancelled", "failed"].contains(&text(&event["state"]))
        };
        let end = self.event(session, &format!("{prompt} is settled"), ends);
        self.sync();
        let all: Vec<_> = self.events(session).into_iter().filter(ends).collect();
        assert_eq!(all.len(), 1, "settled once: {all:?}");
        text(&end["state"]).to_owned()
    }

    /// Waits for the first message, seen already or to come, that fits.
    #[track_caller]
    pub fn wait(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(what, |device| device.seen.iter().find(|message| fits(message)).cloned())
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
        let from = self.seen.len().saturating_sub(30);
        let tail: Vec<_> = self.seen[from..].iter().map(Value::to_string).collect();
        panic!("waited in vain for {what}; closed: {:?}; the last messages:\n{}", self.closed, tail.join("\n"));
    }

    /// Reads until the relay closes: gives the code and the reason.
    #[track_caller]
    pub fn wait_closed(&mut self) -> (u16, String) {
        self.wait_for("a close", |device| device.closed.clone().map(Some)).expect("closed")
    }

    /// Reads one message, waiting for at most `limit`: false when none came.
    fn read_one(&mut self, limit: Duration) -> bool {
        let _ = self.socket.get_ref().set_read_timeout(limit.max(Duration::from_millis(1)));
        match self.socket.read() {
            Ok(Message::Text(message)) => {
                let value =
                    serde_json::from_str(&message).unwrap_or_else(|error| panic!("not JSON: {error}: {message}"));
                self.seen.push(value);
                true
            }
            Ok(Message::Close(frame)) => {
                self.closed = Some(frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string())));
                let _ = self.socket.flush();
                true
            }
            Ok(Message::Binary(bytes)) => panic!("{} bytes of binary: the relay sends text only", bytes.len()),
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

    /// Asks for a sign of life.
    #[track_caller]
    pub fn ping(&mut self) {
        self.ok("ping", json!({"t": 1}));
    }

    /// A round trip through the core: what it had said to this device before has been seen after it.
    #[track_caller]
    pub fn sync(&mut self) {
        self.ok("list", json!({}));
    }

    /// Waits until a session has nothing to do: the last event says that it is ready.
    #[track_caller]
    pub fn idle(&mut self, session: &str) {
        self.wait_for("the session is ready", |device| {
            let last = device.events(session).pop()?;
            (last["kind"] == "state" && last["state"] == "ready").then_some(())
        });
    }

    /// Every event of a session in the order of arrival, those that came with `attach` included.
    pub fn events(&self, session: &str) -> Vec<Value> {
        let mut events = Vec::new();
        for message in &self.seen {
            if message["type"] == "event" && message["session"] == session {
                events.push(message.clone());
            } else if message["type"] == "reply" && message["snapshot"].is_object() {
                let tail = message["events"].as_array().into_iter().flatten();
                events.extend(tail.filter(|event| event["session"] == session).cloned());
            }
        }
        events
    }

    /// The events of a kind.
    pub fn events_of(&self, session: &str, kind: &str) -> Vec<Value> {
        self.events(session).into_iter().filter(|event| event["kind"] == kind).collect()
    }

    /// The text of every block of a session as it was streamed, and as the events then said it.
    ///
    /// # Panics
    /// When a piece does not start where the last one ended.
    #[track_caller]
    pub fn streamed(&self, session: &str) -> BTreeMap<(String, u64), String> {
        let mut blocks = BTreeMap::<(String, u64), String>::new();
        for delta in self.seen.iter().filter(|m| m["type"] == "delta" && m["session"] == session) {
            let block = (text(&delta["message"]).to_owned(), delta["block"].as_u64().expect("an index"));
            let so_far = blocks.entry(block).or_default();
            assert_eq!(delta["at"].as_u64(), u64::try_from(so_far.len()).ok(), "a gap in the stream: {delta}");
            so_far.push_str(text(&delta["text"]));
        }
        blocks
    }

    /// The text that events recorded, by message and block.
    pub fn recorded(&self, session: &str) -> BTreeMap<(String, u64), String> {
        let events = self.events_of(session, "text").into_iter();
        events
            .map(|e| {
                ((text(&e["message"]).to_owned(), e["block"].as_u64().expect("an index")), text(&e["text"]).to_owned())
            })
            .collect()
    }

    /// The events of a session from the first seen, which have to follow each other without a gap or a double.
    #[track_caller]
    pub fn gapless(&self, session: &str) -> Vec<Value> {
        let events = self.events(session);
        for pair in events.windows(2) {
            assert_eq!(pair[0]["epoch"], pair[1]["epoch"], "the epoch changed: {pair:?}");
            let (one, two) = (pair[0]["offset"].as_u64(), pair[1]["offset"].as_u64());
            assert_eq!(one.map(|offset| offset + 1), two, "a gap or a double: {pair:#?}");
        }
        events
    }

    /// Ends the connection without a close frame.
    pub fn vanish(self) {
        drop(self.socket);
    }

    /// Writes raw bytes below the WebSocket layer.
    pub fn write_raw(&mut self, bytes: &[u8]) {
        let _ = self.socket.get_mut().write_all(bytes);
    }
}

/// Bytes as the relay writes them in JSON.
pub fn bytes(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url without padding")
}

/// SHA-256 over the canonical form of RFC 8785, in lower-case hexadecimal digits.
pub fn hash(input: &Value) -> String {
    use sha2::Digest as _;
    let canonical = serde_json_canonicalizer::to_vec(input).expect("canonical");
    sha2::Sha256::digest(&canonical).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of a JSON value; empty for anything else.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
