//! Tests of a whole connection against a small relay of the tests' own.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    thread,
};

use ssh_key::{
    PrivateKey, PublicKey,
    private::{Ed25519Keypair, KeypairData},
};
use tungstenite::{
    handshake::server::{Request, Response},
    protocol::CloseFrame,
};

use super::*;
use crate::{
    base::CloseCode,
    client::{KnownRelays, PinError},
    wire::sign_in::{self as wire, RelayInfo, SignIn, Transcript},
};

fn key(seed: u8) -> PrivateKey {
    PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])), "").unwrap()
}

/// What the test's relay does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Relay {
    Honest,
    SignsWithAnotherKey,
    Refuses,
    /// It is gone once it has welcomed.
    Vanishes,
}

fn challenge() -> Challenge {
    let host = key(1);
    Challenge {
        version: 1,
        relay: RelayInfo {
            did: wire::did_of(host.public_key()).unwrap(),
            key: host.public_key().to_openssh().unwrap(),
            name: "test".into(),
            version: "0".into(),
        },
        nonce: Nonce::from_bytes([3; 32]).to_string(),
        expires_at: 0,
        bindings: vec!["none".into()],
    }
}

#[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
fn with_subprotocol(
    _: &Request,
    mut response: Response,
) -> Result<Response, tungstenite::handshake::server::ErrorResponse> {
    response.headers_mut().insert("Sec-WebSocket-Protocol", "amp-session.v1".parse().unwrap());
    Ok(response)
}

/// Signs one client in, answers its first message with two and a ping, and closes.
fn serve(stream: impl Read + Write, authority: &str, relay: Relay) {
    let mut socket = tungstenite::accept_hdr(stream, with_subprotocol).unwrap();
    let challenge = challenge();
    socket.send(serde_json::to_string(&challenge).unwrap().into()).unwrap();
    let Ok(tungstenite::Message::Text(text)) = socket.read() else { return };
    let sign_in: SignIn = serde_json::from_str(&text).unwrap();
    let public = PublicKey::from_openssh(&sign_in.key).unwrap();
    assert_eq!(sign_in.authority, authority);
    let fingerprint = wire::fingerprint(&public);
    let transcript = Transcript {
        relay: &challenge.relay.did,
        authority: &sign_in.authority,
        server_nonce: &challenge.nonce,
        client_nonce: &sign_in.nonce,
        client: &sign_in.client,
        device: &sign_in.device.name,
        role: sign_in.role.as_deref(),
        fingerprint: &fingerprint,
        binding: &sign_in.binding,
    };
    let transcript = transcript.text().unwrap();
    assert_eq!(wire::verify(&public, &transcript, &sign_in.signature), Ok(()));
    if relay == Relay::Refuses {
        let error = r#"{"type":"error","re":"sign-in","code":"KEY_NOT_AUTHORIZED","message":"no","recoverable":false}"#;
        socket.send(error.into()).unwrap();
        return;
    }
    let proof = wire::proof_text(&transcript, &fingerprint, "watch").unwrap();
    let signer = if relay == Relay::SignsWithAnotherKey { key(9) } else { key(1) };
    let welcome = Welcome {
        re: sign_in.id,
        principal: fingerprint.clone(),
        fingerprint,
        role: "watch".into(),
        device: "d0".into(),
        proof: wire::sign(&signer, wire::WELCOME_NAMESPACE, &proof).unwrap(),
        now: 1,
        limits: wire::Limits::default(),
        profiles: Vec::new(),
        features: Vec::new(),
    };
    socket.send(serde_json::to_string(&welcome).unwrap().into()).unwrap();
    if relay == Relay::Vanishes {
        return;
    }
    let Ok(first) = socket.read() else { return };
    // Larger than the client's buffer, and sent with a ping behind it.
    let large = format!("\"{}\"", "x".repeat(300_000));
    socket.send(large.into()).unwrap();
    socket.send(tungstenite::Message::Ping("p".into())).unwrap();
    assert_eq!(socket.read().unwrap(), tungstenite::Message::Pong("p".into()));
    socket.send(first).unwrap();
    socket.close(Some(CloseFrame { code: 1012.into(), reason: "restart".into() })).unwrap();
    while socket.read().is_ok() {}
}

fn options() -> Options {
    Options { role: Some("watch".into()), ..Options::new("c1", "test device", "script") }
}

fn talk(target: &Target, pins: &mut KnownRelays) {
    let identity = Identity::from_key(key(2), "test");
    let (mut connection, welcome) = Connection::connect(target, &identity, &options(), pins).unwrap();
    assert_eq!(welcome.role, "watch");
    assert_eq!(connection.receive(Some(Instant::now())).unwrap(), Received::Nothing);
    connection.writer().send("hello").unwrap();
    let next = |connection: &mut Connection| connection.receive(None).unwrap();
    assert!(matches!(next(&mut connection), Received::Text(text) if text.len() == 300_002));
    assert_eq!(next(&mut connection), Received::Alive);
    assert_eq!(next(&mut connection), Received::Text("hello".into()));
    let ended = Ended::Closed { code: Some(CloseCode(1012)), reason: "restart".into() };
    assert_eq!(next(&mut connection), Received::Ended(ended.clone()));
    assert_eq!(next(&mut connection), Received::Ended(ended));
}

#[test]
fn a_client_signs_in_over_tcp_and_unix() {
    let scratch = tempfile::tempdir().unwrap();
    let mut pins = KnownRelays::load(scratch.path().join("known")).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let authority = address.clone();
    let serving = thread::spawn(move || serve(listener.accept().unwrap().0, &authority, Relay::Honest));
    talk(&Target::parse(&address).unwrap(), &mut pins);
    serving.join().unwrap();

    let path = scratch.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || serve(listener.accept().unwrap().0, "unix", Relay::Honest));
    talk(&Target::Unix(path), &mut pins);
    serving.join().unwrap();
    assert_eq!(std::fs::read_to_string(scratch.path().join("known")).unwrap().lines().count(), 1);
}

fn refused(relay: Relay, pins: &mut KnownRelays) -> ConnectError {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || serve(listener.accept().unwrap().0, "unix", relay));
    let identity = Identity::from_key(key(2), "test");
    let error = Connection::connect(&Target::Unix(path), &identity, &options(), pins).unwrap_err();
    serving.join().unwrap();
    error
}

#[test]
fn a_relay_without_proof_is_not_believed_and_not_pinned() {
    let scratch = tempfile::tempdir().unwrap();
    let known = scratch.path().join("known");
    let mut pins = KnownRelays::load(known.clone()).unwrap();
    assert!(matches!(refused(Relay::SignsWithAnotherKey, &mut pins), ConnectError::Unproved(_)));
    let error = refused(Relay::Refuses, &mut pins);
    assert!(error.is_about_the_key() && !error.is_passing(), "{error}");
    assert!(!known.exists());
}

/// Trusts no relay.
struct Nobody;

impl Pins for Nobody {
    fn check(&mut self, target: &Target, _: &str, _: &PublicKey) -> Result<(), PinError> {
        Err(PinError::Unknown { name: target.pin_name(), fingerprint: String::new() })
    }

    fn proved(&mut self, _: &Target, _: &str, _: &PublicKey) -> Result<(), PinError> {
        panic!("not reached")
    }
}

/// A relay that sends its challenge to one client and is sent nothing.
fn hears_nothing(path: &Path) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut socket = tungstenite::accept_hdr(listener.accept().unwrap().0, with_subprotocol).unwrap();
        socket.send(serde_json::to_string(&challenge()).unwrap().into()).unwrap();
        assert!(socket.read().is_err(), "the client sent something");
    })
}

#[test]
fn nothing_is_signed_for_a_relay_that_is_not_trusted() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("sock");
    let serving = hears_nothing(&path);
    let identity = Identity::from_key(key(2), "test");
    let error = Connection::connect(&Target::Unix(path), &identity, &options(), &mut Nobody).unwrap_err();
    assert!(matches!(error, ConnectError::Pin(PinError::Unknown { .. })), "{error}");
    serving.join().unwrap();
}

#[test]
fn a_name_that_no_relay_takes_is_named_before_anything_is_signed() {
    let long = "k".repeat(65);
    for (name, kind, field) in
        [("two\nlines", "script", "device.name"), (" ", "script", "device.name"), ("d", &*long, "device.kind")]
    {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("sock");
        let serving = hears_nothing(&path);
        let mut pins = KnownRelays::load(scratch.path().join("known")).unwrap();
        let identity = Identity::from_key(key(2), "test");
        let options = Options::new("c1", name, kind);
        let error = Connection::connect(&Target::Unix(path), &identity, &options, &mut pins).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        serving.join().unwrap();
    }
}

#[test]
fn a_relay_that_vanishes_ends_the_connection() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || serve(listener.accept().unwrap().0, "unix", Relay::Vanishes));
    let mut pins = KnownRelays::load(scratch.path().join("known")).unwrap();
    let identity = Identity::from_key(key(2), "test");
    let (mut connection, _) = Connection::connect(&Target::Unix(path), &identity, &options(), &mut pins).unwrap();
    serving.join().unwrap();
    let next = connection.receive(Some(Instant::now() + Duration::from_secs(5))).unwrap();
    assert_eq!(next, Received::Ended(Ended::Broken(String::new())));
}

#[test]
fn an_end_says_what_is_known_of_it() {
    let closed = |code, reason: &str| Ended::Closed { code, reason: reason.into() };
    for (ended, said) in [
        (closed(Some(CloseCode::GOING_AWAY), "bye"), "the relay went away"),
        (closed(Some(CloseCode::POLICY), ""), "the relay closed the connection (code 1008)"),
        (closed(Some(CloseCode::POLICY), "not signed in"), "the relay closed the connection: not signed in"),
        (closed(None, ""), "the relay closed the connection"),
        (Ended::Broken(String::new()), "the relay went away"),
        (Ended::Broken("reset".into()), "the connection broke: reset"),
    ] {
        assert_eq!(ended.to_string(), said);
    }
}

#[test]
fn a_missing_relay_is_worth_another_try() {
    let scratch = tempfile::tempdir().unwrap();
    let mut pins = KnownRelays::load(scratch.path().join("known")).unwrap();
    let target = Target::Unix(scratch.path().join("none"));
    let identity = Identity::from_key(key(2), "test");
    let error = Connection::connect(&target, &identity, &options(), &mut pins).unwrap_err();
    assert!(error.is_passing(), "{error}");
}
