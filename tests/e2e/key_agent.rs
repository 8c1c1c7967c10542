//! What is said of an ssh-agent that is no help, and that it is asked only where it is needed.

use std::{
    io::ErrorKind,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    thread,
};

use crate::support::{
    Key,
    relay::{Ran, Relay, Scratch},
    terminal::Terminal,
};

/// `sessions` with this agent, and with this key if one is named.
fn sessions(scratch: &Scratch, relay: &Relay, agent: &Path, key: Option<&Path>) -> Ran {
    let mut command = scratch.command(["sessions", "--url", &format!("ws://{}", relay.tcp().host())]);
    command.env("SSH_AUTH_SOCK", agent);
    if let Some(key) = key {
        command.arg("--key").arg(key);
    }
    Ran::from(command.output().expect("the program starts"))
}

/// A scratch folder with a key that signs by itself, an RSA key and an encrypted one; and a relay that takes each.
fn keys() -> (Scratch, Relay, [PathBuf; 3]) {
    let scratch = Scratch::new();
    let home = scratch.home();
    let (plain, locked) = (Key::new("plain"), Key::new("locked"));
    let rsa = Key::ssh_keygen(&home, "rsa", 2048);
    let relay = Relay::demo(&[&plain, &locked, &rsa]);
    let paths = [home.join("plain"), home.join("id_rsa_2048"), home.join("locked")];
    plain.write(&paths[0]);
    locked.write(&paths[2]);
    std::fs::remove_file(&paths[2]).expect("ours");
    locked.write_encrypted(&paths[2], "secret");
    (scratch, relay, paths)
}

#[test]
fn an_agent_that_is_gone_is_named_with_what_to_do() {
    let (scratch, relay, [_, rsa, locked]) = keys();
    let gone = scratch.root().join("gone");
    for key in [None, Some(&*rsa), Some(&*locked)] {
        let said = sessions(&scratch, &relay, &gone, key).refused();
        let named = format!("the ssh-agent of SSH_AUTH_SOCK, {}, cannot be reached", gone.display());
        assert!(said.contains(&named) && said.contains("or unset SSH_AUTH_SOCK"), "{key:?}: {said}");
        if key.is_some() {
            assert!(said.contains("\nwithout it, key file "), "{said}");
        }
    }
}

#[test]
fn an_agent_is_not_asked_where_a_key_signs_in_without_it() {
    let (scratch, relay, [plain, ..]) = keys();
    let stuck = scratch.root().join("stuck");
    // The system takes connections for it, as for an agent that is stopped.
    let listener = UnixListener::bind(&stuck).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    sessions(&scratch, &relay, &stuck, Some(&plain)).ok();
    // The relay's own command, by the key of its data folder.
    let mut command = relay.scratch.command(["sessions", "--data"]);
    command.arg(relay.scratch.data()).env("SSH_AUTH_SOCK", &stuck);
    let own = relay.scratch.data().join("client_key");
    std::fs::rename(&plain, &own).expect("ours");
    Ran::from(command.output().expect("the program starts")).ok();
    let asked = listener.accept();
    assert!(asked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "no agent is needed");
}

#[test]
#[ignore = "waits for it, five seconds each time: ./tests/run --full"]
fn an_agent_that_gives_no_answer_is_named_and_keeps_no_key_waiting_that_does_without_it() {
    let (scratch, relay, [plain, rsa, locked]) = keys();
    let stuck = scratch.root().join("stuck");
    let _listener = UnixListener::bind(&stuck).expect("a socket");
    let named = format!("the ssh-agent of SSH_AUTH_SOCK, {}, gave no answer in 5 s: start it anew", stuck.display());
    let named = &named;
    thread::scope(|scope| {
        for key in [None, Some(&rsa), Some(&locked)] {
            let (scratch, relay, stuck) = (&scratch, &relay, &stuck);
            scope.spawn(move || {
                let said = sessions(scratch, relay, stuck, key.map(|key| &**key)).refused();
                assert!(said.contains(named) && said.contains("or unset SSH_AUTH_SOCK"), "{key:?}: {said}");
            });
        }
    });
    // A wait is explained where another key signs in after it, too.
    let ssh = scratch.home().join(".ssh");
    std::fs::create_dir(&ssh).expect("a folder");
    std::fs::rename(&plain, ssh.join("id_ed25519")).expect("ours");
    let ran = sessions(&scratch, &relay, &stuck, None);
    assert!(ran.status.success() && ran.err.contains(named), "{ran:?}");
}

/// The DID of a key that no test has.
const SOMEBODY: &str = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";

/// Makes a key that is not Ed25519; `encrypted`: only a passphrase opens it.
fn keygen(scratch: &Scratch, kind: &str, path: &Path, passphrase: &str) {
    let made = scratch.runs("ssh-keygen", ["-q", "-t", kind, "-N", passphrase, "-f"]).arg(path).status();
    assert!(made.expect("ssh-keygen runs").success());
}

#[test]
fn each_key_that_amp_cannot_use_is_named_as_that() {
    let (scratch, relay) = (Scratch::new(), Relay::demo(&[&Key::new("owner")]));
    let ssh = scratch.home().join(".ssh");
    std::fs::create_dir(&ssh).expect("a folder");
    let [ecdsa, rsa] = ["id_ecdsa", "id_rsa"].map(|name| ssh.join(name));
    // For what cannot be used, no passphrase is asked.
    keygen(&scratch, "ecdsa", &ecdsa, "secret");
    keygen(&scratch, "rsa", &rsa, "");
    let url = format!("ws://{}", relay.tcp().host());
    let named = |origin: &str| format!("the key of {origin} is not Ed25519, which AMP needs: `ssh-keygen -t ed25519`");
    let is_told = |said: &str, origins: &[&str]| {
        assert!(origins.iter().all(|origin| said.contains(&named(origin))), "{said}");
        assert!(!said.contains("keys add") && !said.contains("ssh-add") && said.contains("--key FILE"), "{said}");
    };
    let files = [&ecdsa, &rsa].map(|path| path.display().to_string());
    for verb in [&["request", "relay", "time"][..], &["listen"], &["send", SOMEBODY, "hello"]] {
        let verb = [verb, &["--url", &url]].concat();
        is_told(&scratch.run(&verb).refused(), &[&files[0], &files[1]]);
        for file in &files {
            is_told(&scratch.run([&verb[..], &["--key", file]].concat()).refused(), &[file]);
        }
    }
    // The same of an agent's keys.
    keygen(&scratch, "ecdsa", &scratch.home().join("held"), "");
    let request = format!(
        "ssh-add -q $HOME/held $HOME/.ssh/id_rsa && rm $HOME/.ssh/* && exec {} request relay time --url {url}",
        crate::support::relay::PROGRAM
    );
    let socket = scratch.root().join("agent");
    let mut held = scratch.runs("ssh-agent", ["-a"]);
    let ran = Ran::from(held.arg(socket).args(["sh", "-c", &request]).output().expect("ssh-agent runs"));
    let said = ran.refused();
    assert_eq!(said.matches(" is not Ed25519, which AMP needs").count(), 2, "{said}");
    is_told(&said, &[]);
}

#[test]
fn the_key_that_is_named_signs_in_and_no_other_of_the_agent() {
    let scratch = Scratch::new();
    let (first, second) = (Key::new("first"), Key::new("second"));
    let relay = Relay::demo(&[&second]);
    for (name, key) in [("first", &first), ("second", &second)] {
        key.write(&scratch.home().join(name));
    }
    second.write_encrypted(&scratch.home().join("locked"), "secret");
    let line = |key: &str| {
        let program = crate::support::relay::PROGRAM;
        let url = format!("ws://{}", relay.tcp().host());
        format!("ssh-add -q $HOME/first $HOME/second && exec {program} sessions --url {url} --key $HOME/{key}")
    };
    for (key, is_known) in [("locked", true), ("first", false)] {
        let mut held = scratch.runs("ssh-agent", ["-a"]);
        let held = held.arg(scratch.root().join(format!("agent-{key}"))).args(["sh", "-c", &line(key)]);
        let ran = Ran::from(held.output().expect("ssh-agent runs"));
        assert_eq!(ran.status.success(), is_known, "{key}: {ran:?}");
    }
}

#[test]
fn a_passphrase_is_asked_for_three_times() {
    let (scratch, relay, [.., locked]) = keys();
    let url = format!("ws://{}", relay.tcp().host());
    let command = format!("{} sessions --url {url} --key {}", crate::support::relay::PROGRAM, locked.display());
    let terminal = Terminal::run(&scratch, &command);
    for tries in 1..=3 {
        terminal.shows("the prompt", |screen| screen.matches("Passphrase of").count() == tries);
        terminal.line("wrong");
    }
    let screen = terminal.shows("the end", |screen| screen.contains("ended with 1"));
    assert_eq!(screen.matches("That passphrase is wrong. Passphrase of").count(), 2, "{screen}");
}
