//! What to type next, as the verbs say it: it leads to the relay that was asked, and a way to a relay that has none behind
//! it is told from what is no relay.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    thread,
};

use crate::support::{
    Key, Relay,
    relay::{Ran, Scratch, shell},
};

/// The command between ticks behind these words.
fn command<'a>(said: &'a str, before: &str) -> &'a str {
    let (_, behind) = said.split_once(before).unwrap_or_else(|| panic!("{before}: {said}"));
    behind.trim_start_matches('`').split('`').next().expect("a command")
}

/// A relay that this user's own data folder knows nothing of, and the flags that lead to it.
fn elsewhere() -> (Relay, PathBuf, String) {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let key = relay.scratch.root().join("a key");
    owner.write(&key);
    let url = format!("ws://{}", relay.tcp().authority());
    (relay, key, url)
}

#[test]
fn a_command_that_is_given_leads_to_the_relay_that_was_asked() {
    let (relay, key, url) = elsewhere();
    let scratch = &relay.scratch;
    let reach = ["--url", &url, "--key", key.to_str().expect("a path")];
    let run = |words: &[&str]| scratch.run([words, &reach].concat());
    let flags = format!(" --key '{}' --url {url}`", key.display());
    let none = run(&["attach"]).refused();
    assert!(none.contains("no sessions") && none.contains(&format!("new{flags} starts one")), "{none}");
    let listed = run(&["sessions"]);
    assert!(listed.err.contains(&format!("new{flags} starts one")), "{listed:?}");
    for _ in 0..2 {
        run(&["new", "--detach", "--title", "t1"]).ok();
    }
    let unknown = run(&["stop", "t2"]).refused();
    assert_eq!(shell(scratch, command(&unknown, "`t2`: "), "").ok(), run(&["sessions"]).ok(), "{unknown}");
    let mut attach = scratch.command([&["attach"], &reach[..]].concat());
    // Neither is of that folder.
    let several = Ran::from(attach.current_dir(scratch.home()).output().expect("it starts")).refused();
    let joined = shell(scratch, command(&several, "next: "), "");
    assert!(joined.status.success(), "{several}: {joined:?}");
    let several = run(&["stop", "t1"]).refused();
    let stopped = shell(scratch, command(&several, "next: "), "");
    assert!(stopped.status.success() && stopped.err.contains("is stopped"), "{several}: {stopped:?}");
    run(&["stop", "t1", "--now"]).ok();
    let ended = run(&["attach"]).refused();
    assert!(ended.contains("no session is live") && ended.contains(&format!("sessions{flags} lists")), "{ended}");
    // By the data folder it is the same.
    let data = scratch.data();
    let data = data.to_str().expect("a path");
    let named = scratch.run(["attach", "--data", data, "--key", key.to_str().expect("a path")]).refused();
    assert!(named.contains(&format!(" --data {data}` lists")) && !named.contains("--url"), "{named}");
    let said = scratch.run(["attach", "--data", "no where"]).refused();
    assert!(said.contains("amp-relay up --data 'no where'`"), "{said}");
}

#[test]
fn a_command_about_keys_that_is_given_changes_the_file_that_was_asked() {
    let scratch = Scratch::new();
    let folder = scratch.root().join("another folder");
    fs::create_dir_all(&folder).expect("a folder");
    let (one, other) = (Key::new("same"), Key::new("same"));
    let public = |key: &Key, name: &str| {
        let path = scratch.project().join(name);
        fs::write(&path, key.line("")).expect("a file");
        path
    };
    let (one, other) = (public(&one, "1.pub"), public(&other, "2.pub"));
    let folder = folder.to_str().expect("a path");
    for option in [["--data", folder], ["--keys", "some keys"]] {
        let run = |words: &[&str]| scratch.run([&["keys"][..], words, &option].concat());
        run(&["add", one.to_str().expect("a path")]).ok();
        let taken = run(&["add", other.to_str().expect("a path")]).refused();
        shell(&scratch, command(&taken, "tell keys apart by it. "), "").ok();
        let listed = run(&["list"]).ok();
        assert!(listed.contains(" NAME\n"), "{taken}: {listed}");
        let unknown = run(&["remove", "nobody"]).refused();
        assert_eq!(shell(&scratch, command(&unknown, "comment or DID; "), "").ok(), listed, "{unknown}");
    }
    let none = scratch.root().join("none");
    let data = none.to_str().expect("a path");
    let said = scratch.run(["keys", "list", "--data", data]).refused();
    assert!(said.contains(&format!("amp-relay up --data {data}`")), "{said}");
}

/// What takes a connection and then does one thing.
type Other = fn(TcpStream);

#[test]
fn a_tunnel_without_a_relay_behind_it_is_told_from_what_is_no_relay() {
    const DID: &str = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
    const OPEN: &str = "is the relay running, and the tunnel to it open?";
    fn asked(stream: &mut TcpStream) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a request");
            head.extend(byte);
        }
    }
    let others: [(Other, &str); 3] = [
        (|mut stream| asked(&mut stream), OPEN),
        // A close over what was not read is a reset.
        (|stream| assert_eq!(stream.peek(&mut [0]).expect("a request"), 1), OPEN),
        (
            |mut stream| {
                asked(&mut stream);
                stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").expect("it reads");
            },
            "the other side is no relay",
        ),
    ];
    let verbs = [
        &["attach"][..],
        &["sessions"],
        &["new", "--detach"],
        &["stop", "x"],
        &["down"],
        &["send", DID, "hi"],
        &["request", "relay", "ping"],
        &["listen"],
    ];
    let scratch = Scratch::new();
    let key = scratch.home().join("key");
    Key::new("mine").write(&key);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let server = thread::spawn(move || {
        for (other, _) in others {
            for _ in verbs {
                other(listener.accept().expect("a client").0);
            }
        }
    });
    for (_, expected) in others {
        for verb in verbs {
            let said = scratch.run([verb, &["--url", &url, "--key", key.to_str().expect("a path")]].concat()).refused();
            assert!(said.contains(expected) && said.contains(&url), "{verb:?}: {said}");
            assert_eq!(said.contains("no relay"), expected != OPEN, "{verb:?}: {said}");
            assert!(!said.contains("os error"), "{verb:?}: {said}");
        }
    }
    server.join().expect("the server");
}
