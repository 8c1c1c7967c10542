//! A WebSocket service whose clients must say a word before they may stay, and those who come and do not.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use amp_relay::{
    base::Fault,
    reactor::{
        Listen, Options, Peer, Reactor,
        ws::{Answer, Data, Ws, WsHandler, WsIo, WsOptions},
    },
    wire::http::{Head, Response},
};
use tungstenite::{Message, WebSocket, client::client};

use super::Running;

/// Confirms whoever says the word.
struct Door;

impl WsHandler for Door {
    type Conn = ();
    type Mail = ();

    const CONFIRMS: bool = true;

    fn request(&mut self, head: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<()> {
        if head.path == "/" { Answer::upgrade(()) } else { Answer::Respond(Response::text(200, "all is well")) }
    }

    fn message(&mut self, _: &mut (), io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
        let answer = match message {
            Data::Text("the word") if io.confirm(io.token()) => "welcome",
            Data::Text("the word") => "there is no room",
            _ => "what?",
        };
        let _ = io.text(answer);
        Ok(())
    }
}

struct Service {
    running: Running<()>,
    _folder: tempfile::TempDir,
    unix: PathBuf,
}

/// 32 connections, 2 of them for the Unix socket; at most 8 that have not said the word.
fn start() -> Service {
    let folder = tempfile::tempdir().unwrap();
    let unix = folder.path().join("s");
    let options = Options {
        workers: 1,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap()), Listen::Unix(unix.clone())],
        connections_max: 32,
        provisional_max: 8,
        unix_reserve: 2,
        ..Options::default()
    };
    let bound = Reactor::bind(options).unwrap();
    Service { running: Running::start(bound, |_, _| Ws::new(Door, WsOptions::default())), _folder: folder, unix }
}

impl Service {
    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.running.tcp()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn try_connect(&self) -> Result<WebSocket<TcpStream>, (u16, Option<String>)> {
        match client("ws://localhost/", self.dial()) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                let retry = answer.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned());
                Err((answer.status().as_u16(), retry))
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn connect(&self) -> WebSocket<TcpStream> {
        self.try_connect().expect("an upgrade")
    }

    fn welcomed(&self) -> WebSocket<TcpStream> {
        let mut socket = self.connect();
        assert_eq!(ask(&mut socket), "welcome");
        socket
    }
}

fn ask<S: Read + Write>(socket: &mut WebSocket<S>) -> String {
    socket.send("the word".into()).unwrap();
    socket.read().unwrap().into_text().unwrap().to_string()
}

fn is_well(mut stream: impl Read + Write) -> bool {
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200 ")
}

/// What a connection hears that gave way: the status of an answer, or the code of a close.
fn goodbye(mut stream: TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    heard
}

#[test]
fn b1_strangers_keep_nobody_out_and_the_oldest_gives_way() {
    let service = start();
    let mut friend = service.welcomed();
    // These say nothing at all.
    let mut silent: Vec<_> = (0..8).map(|_| service.dial()).collect();
    service.running.until("they fill their share", |sum| sum.provisional == 8);
    for _ in 0..20 {
        assert!(is_well(service.dial()), "a request is answered");
        drop(service.welcomed());
        assert!(is_well(UnixStream::connect(&service.unix).unwrap()));
    }
    assert!(goodbye(silent.remove(0)).starts_with(b"HTTP/1.1 503 "), "it is told");
    let sum = service.running.sum();
    assert!(sum.displaced >= 1 && sum.provisional <= 8 && sum.open <= 32, "{sum:?}");
    assert_eq!(ask(&mut friend), "welcome", "it is still there");
    service.running.end((friend, silent));
}

#[test]
fn b1_a_crowd_that_does_not_stop_keeps_nobody_out() {
    let service = start();
    let mut crowd = Vec::new();
    for round in 0..50 {
        // All of them dial before anyone is heard, and none of them goes by itself.
        crowd.extend((0..20).map(|_| service.dial()));
        let mut friend = service.welcomed();
        assert!(is_well(service.dial()), "round {round}");
        assert_eq!(ask(&mut friend), "welcome");
    }
    service.running.until("most have given way", |sum| sum.displaced > 800);
    service.running.end(crowd);
}

#[test]
fn an_upgraded_stranger_that_gives_way_hears_1013() {
    let service = start();
    let mut stranger = service.connect();
    let crowd: Vec<_> = (0..30).map(|_| service.dial()).collect();
    let Message::Close(Some(frame)) = stranger.read().unwrap() else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1013);
    service.running.end((stranger, crowd));
}

#[test]
fn where_all_places_are_taken_an_upgrade_hears_503_and_other_requests_are_answered() {
    let service = start();
    // 30 places but two for those who only ask.
    let mut friends: Vec<_> = (0..28).map(|_| service.welcomed()).collect();
    for _ in 0..10 {
        assert_eq!(service.try_connect().err(), Some((503, Some("5".into()))));
        assert!(is_well(service.dial()));
    }
    let (mut local, _) = client("ws://localhost/", UnixStream::connect(&service.unix).unwrap()).unwrap();
    assert_eq!(ask(&mut local), "welcome", "some places are its own");
    assert_eq!(service.running.sum().refused, 10);
    friends.truncate(20);
    service.running.until("they have gone", |sum| sum.open < 24);
    assert_eq!(ask(&mut service.connect()), "welcome");
    service.running.end((friends, local));
}

#[test]
fn b1_a_stranger_that_got_a_step_further_does_not_give_way_to_those_that_only_come() {
    let service = start();
    let mut further = service.connect();
    let mut crowd: Vec<_> = (0..7).map(|_| service.dial()).collect();
    service.running.until("they fill their share", |sum| sum.provisional == 8);
    crowd.extend((0..2).map(|_| service.dial()));
    service.running.until("the oldest have given way", |sum| sum.displaced >= 2 && sum.accepted == 10);
    assert_eq!(ask(&mut further), "welcome", "it came first, and is still there");
    service.running.end((further, crowd));
}
