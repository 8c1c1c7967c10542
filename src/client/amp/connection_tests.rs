//! Tests of a whole connection against a small relay of the tests' own.

use std::{os::unix::net::UnixListener, thread};

use ed25519_dalek::{Signer, SigningKey};
use ssh_key::{
    PrivateKey,
    private::{Ed25519Keypair, KeypairData},
};
use tungstenite::{
    WebSocket,
    handshake::server::{ErrorResponse, Request, Response},
};

use super::*;
use crate::{
    client::{KnownRelays, PinError},
    wire::{
        amp::{Code, EnvelopeView, Frame, To, body},
        cbor,
    },
};

type Socket = WebSocket<std::os::unix::net::UnixStream>;

fn key(seed: u8) -> PrivateKey {
    PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])), "").unwrap()
}

fn did(seed: u8) -> String {
    did_of(key(seed).public_key()).unwrap()
}

/// The relay of the tests has key 9, the agent key 1.
#[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
fn upgrade(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    assert_eq!(request.uri().path(), PATH);
    assert_eq!(request.headers()["X-AMP-Max-Message-Size"], "16777216");
    let headers = response.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", SUBPROTOCOL.parse().unwrap());
    headers.insert("X-AMP-Relay-DID", did(9).parse().unwrap());
    headers.insert("X-AMP-Max-Message-Size", "2000".parse().unwrap());
    Ok(response)
}

/// The next message, its signature checked, as type, id and body.
fn read(socket: &mut Socket) -> Option<(Type, Id, Vec<u8>)> {
    let tungstenite::Message::Binary(frame) = socket.read().ok()? else { return None };
    let Ok(Frame::Envelope(view)) = amp::parse(&frame) else { panic!("no message") };
    let check = |view: &EnvelopeView<'_>| {
        let key = amp::verifying_key(&did(1)).unwrap();
        assert_eq!(amp::verify(view, &key, &mut Vec::new()), Ok(()));
        assert_eq!(view.header.from, did(1));
    };
    check(&view);
    if view.header.typ == Type::HELLO {
        assert_eq!(view.header.to, To::One(&did(9)));
        assert!(body::HelloView::read(view.body.unwrap()).unwrap().select().is_some());
    }
    Some((view.header.typ, view.header.id, view.body.unwrap().to_vec()))
}

/// Sends a message from the holder of key `from`, signed by key `signer`.
fn write(socket: &mut Socket, from: u8, signer: u8, typ: Type, reply_to: Option<Id>, body: &[u8]) {
    let to = did(1);
    let reply_to = reply_to.map(|id| id.0);
    let draft = Draft { reply_to: reply_to.as_ref().map(|id| &id[..]), ..Draft::new(&to, typ, body) };
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let sign = |bytes: &[u8]| Ok::<_, BuildError>(SigningKey::from_bytes(&[signer; 32]).sign(bytes).to_bytes());
    let frame = draft.frame(&did(from), Id::new(now().unix_ms, random), sign).unwrap();
    socket.send(frame.into()).unwrap();
}

fn acknowledge(socket: &mut Socket, signer: u8) {
    let (typ, id, _) = read(socket).unwrap();
    assert_eq!(typ, Type::HELLO);
    let mut body = Vec::new();
    body::hello_ack(&mut body, "1.0");
    write(socket, 9, signer, Type::HELLO_ACK, Some(id), &body);
}

/// Connects to a relay that does this, and gives the connection to `talk`.
fn with_relay<T>(
    relay: impl FnOnce(&mut Socket) + Send + 'static,
    talk: impl FnOnce(Result<Connection, ConnectError>) -> T,
) -> (T, bool) {
    let scratch = tempfile::tempdir().unwrap();
    let (path, known) = (scratch.path().join("sock"), scratch.path().join("known"));
    let listener = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || {
        let mut socket = tungstenite::accept_hdr(listener.accept().unwrap().0, upgrade).unwrap();
        relay(&mut socket);
        while socket.read().is_ok() {}
    });
    let mut pins = KnownRelays::load(known.clone()).unwrap();
    let identity = Identity::from_key(key(1), "test");
    let told = talk(Connection::connect(&Target::Unix(path), &identity, &Options::new("test"), &mut pins));
    serving.join().unwrap();
    (told, known.exists())
}

fn text(text: &str) -> Vec<u8> {
    let mut body = Vec::new();
    cbor::text(&mut body, text);
    body
}

#[test]
fn an_agent_says_hello_and_asks() {
    let relay = |socket: &mut Socket| {
        acknowledge(socket, 9);
        let (typ, id, body) = read(socket).unwrap();
        assert_eq!((typ, body), (Type::REQUEST, text("question")));
        // A message of another agent, an answer that is not its sender's, one from a stranger, progress, and the
        // answer.
        write(socket, 3, 3, Type::MESSAGE, None, &text("by the way"));
        write(socket, 2, 3, Type::RESPONSE, Some(id), &text("forged"));
        write(socket, 3, 3, Type::RESPONSE, Some(id), &text("from a stranger"));
        write(socket, 2, 2, Type::PROCESSING, Some(id), b"\xa0");
        write(socket, 2, 2, Type::RESPONSE, Some(id), &text("answer"));
        let (_, id, _) = read(socket).unwrap();
        let mut body = Vec::new();
        body::ErrorBody::new(Code::RELAY_REJECTED, "nobody is there").write(&mut body);
        write(socket, 9, 9, Type::ERROR, Some(id), &body);
    };
    let talk = |connected: Result<Connection, ConnectError>| {
        let mut agent = connected.unwrap();
        assert_eq!((agent.did(), agent.relay()), (did(1).as_str(), did(9).as_str()));
        let timeout = Duration::from_secs(30);
        let answer = agent.request(&did(2), &text("question"), timeout).unwrap();
        assert_eq!(answer.body, Some(text("answer")));
        for expected in ["by the way", "from a stranger"] {
            let Received::Message(message) = agent.receive(None).unwrap() else { panic!("{expected}") };
            assert_eq!(message.body, Some(text(expected)));
        }
        let refused = agent.request(&did(4), &text("anybody?"), timeout).unwrap_err();
        assert!(matches!(refused, RequestError::Refused(error) if error.code == Code::RELAY_REJECTED));
        let large = agent.send(&Draft::new(&did(2), Type::MESSAGE, &text(&"x".repeat(2000))));
        assert!(matches!(large, Err(SendError::TooLarge { bytes_max: 2000, .. })), "{large:?}");
        agent.sender().close();
        assert!(matches!(agent.receive(None).unwrap(), Received::Ended(_)));
    };
    let ((), pinned) = with_relay(relay, talk);
    assert!(pinned);
}

#[test]
fn a_relay_without_proof_is_not_believed_and_not_pinned() {
    let (error, pinned) = with_relay(|socket| acknowledge(socket, 8), Result::unwrap_err);
    assert!(matches!(error, ConnectError::Unproved(_)) && !pinned, "{error}");
}

#[test]
fn a_refusal_says_why() {
    let refuse = |socket: &mut Socket| {
        let (_, id, _) = read(socket).unwrap();
        let mut body = Vec::new();
        body::ErrorBody::new(Code::UNAUTHORIZED, "this key is not in the keys file").write(&mut body);
        write(socket, 9, 9, Type::ERROR, Some(id), &body);
    };
    let (error, pinned) = with_relay(refuse, Result::unwrap_err);
    assert!(error.is_about_the_key() && !pinned, "{error}");
    let reject = |socket: &mut Socket| {
        let (_, id, _) = read(socket).unwrap();
        let mut body = Vec::new();
        body::hello_reject(&mut body, Some("only 2.0"));
        write(socket, 9, 9, Type::HELLO_REJECT, Some(id), &body);
    };
    let (error, _) = with_relay(reject, Result::unwrap_err);
    assert!(error.to_string().contains("only 2.0"), "{error}");
}

#[test]
fn a_clock_that_is_a_little_off_costs_one_more_hello() {
    let refuse = |socket: &mut Socket, by_ms: i64| {
        let (_, id, _) = read(socket).unwrap();
        let relay_ms = now().unix_ms.saturating_add_signed(by_ms);
        let (mut details, mut body) = (Vec::new(), Vec::new());
        body::details_now(&mut details, relay_ms);
        let error = body::ErrorBody::new(Code::INVALID_TIMESTAMP, "the HELLO is older than the relay");
        body::ErrorBody { details: Some(&details), ..error }.write(&mut body);
        write(socket, 9, 9, Type::ERROR, Some(id), &body);
        relay_ms
    };
    let taken = move |socket: &mut Socket| {
        let relay_ms = refuse(socket, -5_000);
        let (typ, id, _) = read(socket).unwrap();
        assert_eq!((typ, &id.0[..8]), (Type::HELLO, &relay_ms.to_be_bytes()[..]), "of the relay's time");
        let mut body = Vec::new();
        body::hello_ack(&mut body, "1.0");
        write(socket, 9, 9, Type::HELLO_ACK, Some(id), &body);
    };
    let (connected, pinned) = with_relay(taken, |connected| connected.is_ok());
    assert!(connected && pinned);
    let never = move |socket: &mut Socket| {
        refuse(socket, 5_000);
        refuse(socket, 5_000);
    };
    let (error, _) = with_relay(never, Result::unwrap_err);
    assert!(error.to_string().contains("behind the relay's"), "{error}");
    // So far off that no message would be taken either.
    let far = move |socket: &mut Socket| {
        refuse(socket, 60_000);
    };
    let (error, _) = with_relay(far, Result::unwrap_err);
    assert!(error.to_string().contains("behind the relay's"), "{error}");
}

/// Trusts no relay.
struct Nobody;

impl Pins for Nobody {
    fn check(&mut self, target: &Target, _: &str, _: &ssh_key::PublicKey) -> Result<(), PinError> {
        Err(PinError::Unknown { name: target.pin_name(), fingerprint: String::new() })
    }

    fn proved(&mut self, _: &Target, _: &str, _: &ssh_key::PublicKey) -> Result<(), PinError> {
        panic!("not reached")
    }
}

#[test]
fn nothing_is_signed_for_a_relay_that_is_not_trusted() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || {
        let mut socket = tungstenite::accept_hdr(listener.accept().unwrap().0, upgrade).unwrap();
        assert!(socket.read().is_err(), "the client sent something");
    });
    let identity = Identity::from_key(key(1), "test");
    let error = Connection::connect(&Target::Unix(path), &identity, &Options::new("t"), &mut Nobody).unwrap_err();
    assert!(matches!(error, ConnectError::Pin(PinError::Unknown { .. })), "{error}");
    serving.join().unwrap();
}
