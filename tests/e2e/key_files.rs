//! Files of keys as people have them: of other programs, too weak, no files at all, with names that steer a terminal.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::process::Signal;

use crate::{
    relay_up::{data, is_attached, of_this_machine, relays, up},
    support::{
        Key,
        relay::{PROGRAM, Ran, Relay, Scratch, shell},
        terminal::{Terminal, flat},
        until,
    },
};

#[test]
fn a_key_that_is_cut_or_damaged_is_said_to_be_that() {
    let scratch = Scratch::new();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data(&scratch)).expect("a folder");
    fs::write(data(&scratch).join("authorized_keys"), "ssh-ed25519 AAAA\n").expect("a keys file");
    let file = scratch.home().join("cut.pub");
    let whole = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    let (cut, damaged) = (&whole[..whole.len() - 5], whole.replace("Sqti", "****"));
    for text in ["ssh-ed25519 AAAA", cut, &damaged] {
        fs::write(&file, format!("{text} me@here\n")).expect("a file");
        for verb in ["add", "did"] {
            let said = scratch.run(["keys", verb, file.to_str().expect("a path")]).refused();
            assert!(said.contains("cut or damaged") && said.contains("amp-relay keys add FILE.pub`"), "{text}: {said}");
            assert!(!said.contains("ncoding"), "{text}: {said}");
        }
    }
    let listed = scratch.run(["keys", "list"]).ok();
    assert!(listed.contains("line 1: the key cannot be read: its text is cut or damaged"), "{listed}");
}

#[test]
fn a_keys_file_that_is_not_there_is_said_to_be_that_by_every_verb() {
    let scratch = Scratch::new();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data(&scratch)).expect("a folder");
    let said = ["list", "remove"].map(|verb| {
        let words: &[&str] = if verb == "list" { &["keys", "list"] } else { &["keys", "remove", "x"] };
        scratch.run(words).refused()
    });
    assert!(said[0].contains("there is no keys file") && said[0].contains("amp-relay serve` make one"), "{said:?}");
    assert_eq!(said[0], said[1]);
    assert!(!data(&scratch).join("authorized_keys").exists());
}

#[test]
fn the_table_of_the_data_folder_names_each_of_its_files() {
    let scratch = Scratch::new();
    let terminal = Terminal::run(&scratch, &up(""));
    terminal.shows("the session", is_attached);
    scratch.run(["sessions"]).ok();
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/getting-started.md")).expect("a page");
    let first_cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let named: String = first_cells.collect();
    for entry in fs::read_dir(data(&scratch)).expect("the data folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        assert!(named.contains(&format!("`{name}`")), "{name} is missing in {named}");
    }
    drop(terminal);
    scratch.run(["down"]).ok();
}

#[test]
fn a_file_that_is_no_key_is_named() {
    let scratch = Scratch::new();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data(&scratch)).expect("a folder");
    let private = scratch.home().join("guest");
    Key::new("guest").write(&private);
    for (name, text, why) in [
        ("empty.pub", String::new(), "there is no key in it"),
        ("text.pub", "nonsense\n".into(), "not an OpenSSH line"),
        ("rsa.pub", "ssh-rsa AAAA x\n".into(), ""),
        ("private", fs::read_to_string(&private).expect("a key"), "this is a private key"),
    ] {
        fs::write(scratch.project().join(name), &text).expect("a file");
        let said = scratch.run(["keys", "add", name]).refused();
        assert!(said.contains(&format!("{name}: ")) && said.contains(why), "{said}");
        if name != "private" {
            let said = scratch.run(["keys", "did", name]).refused();
            assert!(said.contains(&format!("{name}: ")), "{said}");
        }
    }
}

#[test]
fn a_keys_file_that_cannot_be_read_is_said_to_be_that_and_no_key_is_offered() {
    let scratch = Scratch::new();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data(&scratch)).expect("a folder");
    let keys = data(&scratch).join("authorized_keys");
    fs::create_dir(&keys).expect("a folder");
    let says_why = |screen: &str| {
        let flat = flat(screen).replace(' ', "");
        flat.contains("authorized_keyscannotberead:Isadirectory") && !flat.contains("keysadd--role")
    };
    let terminal = Terminal::run(&scratch, &up(""));
    let screen = terminal.shows("the end", |screen| screen.contains("ended with 1"));
    assert!(says_why(&screen) && screen.contains("--keys FILE"), "{screen}");
    assert!(relays(&scratch).is_empty());
    // A link to nothing is no keys file either, and none is made in its place.
    fs::remove_dir(&keys).expect("it is empty");
    std::os::unix::fs::symlink("/no/such/file", &keys).expect("a link");
    assert!(scratch.run(["serve", "--listen", "127.0.0.1:0"]).refused().contains("cannot be read: No such file"));
    fs::remove_file(&keys).expect("a link");
    // The same where the relay runs already.
    let terminal = Terminal::run(&scratch, &up(""));
    terminal.shows("the session", is_attached);
    fs::remove_file(&keys).expect("the keys");
    fs::create_dir(&keys).expect("a folder");
    let said = until("that nobody can sign in", || {
        let ran = scratch.run(["sessions"]);
        (!ran.status.success()).then_some(ran)
    });
    assert!(says_why(&said.err), "{said:?}");
    fs::remove_dir(&keys).expect("it is empty");
    let own = data(&scratch).join("client_key.pub");
    let added = scratch.run([Path::new("keys"), Path::new("add"), Path::new("--role"), Path::new("admin"), &own]);
    assert!(added.err.is_empty(), "{added:?}");
    until("that the key signs in", || scratch.run(["down"]).status.success().then_some(()));
}

/// Erases the line that it stands in and draws another, where it is written to a terminal as it is.
const DRAWS: &str = "zz\r\x1b[2KLet the key id_ed25519.pub sign in to this relay as admin? [y\x08y\x1b[8m";

#[test]
fn the_first_run_names_keys_by_what_they_are_and_passes_over_what_cannot_sign_in() {
    let scratch = Scratch::new();
    let ssh = scratch.home().join(".ssh");
    fs::create_dir(&ssh).expect("a folder");
    let guest = Key::new("guest");
    guest.write(&ssh.join("id_1"));
    Key::ssh_keygen(&ssh, "rsa", 1024);
    let odd = Key::new(&format!("{} sign in? [y/N] y", "x".repeat(60)));
    fs::write(ssh.join(format!("{DRAWS}.pub")), &odd.public).expect("a file");
    pipe(&ssh.join("pipe.pub"));
    // The key that was asked about, and another one below it.
    let second = Key::new("second");
    fs::write(ssh.join("two.pub"), format!("{}\n{}\n", guest.public, second.public)).expect("a file");
    let terminal = Terminal::sized(&scratch, &up(""), 80, 24);
    let screen = terminal.shows("the first question", |screen| screen.contains("[y/N]"));
    assert!(
        screen.contains("id_1.pub") && flat(&screen).contains(&format!("{} guest", guest.fingerprint())),
        "{screen}"
    );
    terminal.line("y");
    let screen = terminal
        .shows("the next question", |screen| screen.matches("[y/N] ").count() == 2 || screen.contains("zz<U+000D>"));
    let flat = flat(&screen).replace("↳ ", "");
    assert!(flat.contains("id_rsa_1024.pub is passed over: RSA keys need at least 2048 bits"), "{screen}");
    assert!(
        flat.replace(' ', "").contains("zz<U+000D><U+001B>[2KLetthekey") && flat.contains(&odd.fingerprint()),
        "{screen}"
    );
    let questions = screen.lines().filter(|row| row.starts_with("Let "));
    assert!(questions.count() == 2 && !screen.lines().any(|row| row.trim_start().starts_with("sign in?")), "{screen}");
    assert!(flat.contains("pipe.pub is passed over: it cannot be read: it is a pipe"), "{screen}");
    assert!(flat.contains("two.pub is passed over: these are 2 keys; add them one by one"), "{screen}");
    terminal.line("n");
    terminal.shows("the session", is_attached);
    let listed = scratch.run(["keys", "list"]).ok();
    assert!(listed.contains(&guest.fingerprint()) && !listed.contains(&odd.fingerprint()), "{listed}");
    assert_eq!(relays(&scratch).len(), 1);
    drop(terminal);
    scratch.run(["down"]).ok();
}

#[test]
fn a_name_of_a_file_draws_nothing_on_a_terminal() {
    let scratch = Scratch::new();
    let relay = Relay::demo(&[&Key::new("owner")]);
    let key = scratch.home().join("k\x1b[2K\rEnter the sudo password");
    let made = scratch.runs("ssh-keygen", ["-q", "-t", "ed25519", "-N", "secret", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen runs").success());
    let url = format!("ws://{}", relay.tcp().host());
    let terminal = Terminal::run(&scratch, &format!("{PROGRAM} sessions --url {url} --key $HOME/k*password"));
    let screen = terminal.shows("the prompt", |screen| screen.contains("assphrase") || screen.contains("sudo"));
    assert!(flat(&screen).replace(' ', "").contains("k<U+001B>[2K<U+000D>Enterthesudopassword:"), "{screen}");
    let terminal = Terminal::run(&scratch, &format!("{PROGRAM} \"$(printf -- '--x\\033[2K\\033[1Gno error')\""));
    let screen = terminal.shows("the end", |screen| screen.contains("ended with 2"));
    assert!(screen.contains("unexpected argument '--xno error' found"), "{screen}");
}

/// Makes a pipe that nobody writes to.
fn pipe(path: &Path) {
    let status = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(status.success(), "no pipe was made");
}

#[test]
fn a_pipe_or_an_endless_file_is_refused_wherever_a_file_is_read() {
    let scratch = Scratch::new();
    let (data, home) = (scratch.data(), scratch.home());
    fs::DirBuilder::new().mode(0o700).create(&data).expect("a folder");
    let at = |name: &str| home.join(name).display().to_string();
    pipe(&home.join("pipe"));
    let data = data.display().to_string();
    let relay = Relay::demo(&[&Key::new("owner")]);
    let url = format!("ws://{}", relay.tcp().host());
    for (file, why) in [(at("pipe"), "a pipe"), ("/dev/zero".into(), "larger than")] {
        for arguments in [
            &["keys", "add", &file, "--data", &data][..],
            &["keys", "did", &file, "--data", &data],
            &["keys", "list", "--keys", &file],
            &["keys", "remove", "x", "--keys", &file],
            &["config", "check", "--config", &file],
            &["config", "check", "--keys", &file, "--data", &data],
            &["sessions", "--url", &url, "--key", &file],
        ] {
            let said = scratch.run(arguments).refused();
            assert!(said.contains(why) && said.contains(&*file), "{arguments:?}: {said}");
        }
    }
    pipe(&scratch.data().join("host_key"));
    let said = scratch.run(["serve", "--demo", "--listen", "127.0.0.1:0", "--data", &data]).refused();
    assert!(said.contains("host_key") && said.contains("a pipe"), "{said}");
}

#[test]
fn a_refusal_on_a_terminal_is_broken_between_words() {
    let scratch = Scratch::new();
    let relay = Relay::demo(&[&Key::new("owner")]);
    let stranger = Key::new("stranger");
    stranger.write(&scratch.home().join("id"));
    let url = format!("ws://{}", relay.tcp().host());
    let terminal = Terminal::sized(&scratch, &format!("{PROGRAM} sessions --url {url} --key $HOME/id"), 80, 24);
    let screen = terminal.shows("the refusal", |screen| screen.contains("ended with 1"));
    assert!(screen.lines().any(|row| row.contains(&stranger.fingerprint())), "{screen}");
    assert!(screen.contains("\n  ↳ "), "it is long enough to be broken: {screen}");
}

#[test]
fn what_a_path_holds_does_not_steer_the_terminal_that_the_settings_are_shown_on() {
    let scratch = Scratch::new();
    // Escapes of TOML, in which the settings are shown, are for fewer characters than a terminal takes for its own.
    let command = format!("read -r line; AMP_RELAY_KEYS='/k\u{9b}31m\u{202e}eys' {PROGRAM} config show");
    let terminal = Terminal::run(&scratch, &command);
    let written = scratch.root().join("written");
    terminal.kept_in(&written);
    terminal.keys(&["Enter"]);
    terminal.shows("the settings", |screen| screen.contains("ended with 0"));
    let written = until("all is written", || {
        let bytes = fs::read(&written).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| text.contains("ended with 0"))
    });
    assert!(written.contains("keys = \"/k31meys\""), "{written:?}");
    // Where no terminal is, the value is what it was.
    let mut shown = scratch.command(["config", "show"]);
    shown.env("AMP_RELAY_KEYS", "/k\u{9b}31m\u{202e}eys");
    let shown = Ran::from(shown.output().expect("the program starts")).ok();
    assert!(shown.contains("keys = \"/k\u{9b}31m\u{202e}eys\""), "{shown:?}");
}

/// The commands that a text names, run one after the other as they stand there.
fn runs_what_is_named(scratch: &Scratch, said: &str) -> Vec<Ran> {
    let commands = said.split('`').skip(1).step_by(2);
    commands.map(|command| shell(scratch, &command.replace("amp-relay keys", &format!("{PROGRAM} keys")), "")).collect()
}

/// The advice about the own key of the machine, once the relay refuses it.
fn of_the_way_in(relay: &Relay, environment: &[(&str, &str)]) -> String {
    until("the key is refused", || {
        let mut command = relay.scratch.command(["sessions", "--data"]);
        command.arg(relay.scratch.data()).envs(environment.iter().copied());
        let ran = Ran::from(command.output().expect("the program starts"));
        let advice = ran.err.lines().find(|line| line.contains("own key in again")).map(str::to_owned);
        advice.filter(|_| !ran.status.success())
    })
}

#[test]
fn the_way_back_in_leads_to_the_keys_file_that_the_running_relay_reads() {
    let scratch = Scratch::new();
    let keys = scratch.home().join("keysfile");
    let mut command = scratch.command(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(scratch.data()).arg("--keys").arg(&keys);
    let relay = Relay::spawn(scratch, command, 2);
    let data = relay.scratch.data();
    let lock_out = || {
        fs::write(&keys, "# none\n").expect("the keys");
        relay.signal(Signal::HUP);
    };
    let is_let_in = || until("it signs in", || relay.run(&["sessions"]).status.success().then_some(()));
    // Whatever this terminal has set, or has not.
    let other = relay.scratch.root().join("other").display().to_string();
    for environment in [&[][..], &[("AMP_RELAY_KEYS", &*other)]] {
        lock_out();
        let advice = of_the_way_in(&relay, environment);
        assert!(advice.contains(&format!("--keys {}", keys.display())), "{advice}");
        for ran in runs_what_is_named(&relay.scratch, &advice) {
            let said = ran.ok();
            assert!(
                said.contains("the running relay") && !said.contains("not told") && !said.contains("keys add"),
                "{said}"
            );
        }
        is_let_in();
    }
    // The verbs use that file by themselves, and say so.
    let listed = relay.run(&["keys", "list"]);
    assert!(listed.err.contains("keysfile, which the running relay reads"), "{listed:?}");
    let named = listed.out.split_whitespace().find(|word| word.starts_with("SHA256:")).expect("the key").to_owned();
    let said = relay.run(&["keys", "remove", &named]).refused();
    assert!(said.contains(&format!("--keys {}` lists it again", keys.display())), "{said}");
    relay.run(&["keys", "remove", &named, "--yes"]).ok();
    of_the_way_in(&relay, &[]);
    let own = data.join("client_key.pub").display().to_string();
    let said = relay.run(&["keys", "add", "--role", "admin", "--keys", &other, &own]).refused();
    assert!(said.contains("another keys file") && said.contains("keysfile"), "{said}");
    fs::remove_file(&other).expect("it was added there");
    relay.run(&["keys", "add", "--role", "admin", &own]).ok();
    is_let_in();
    assert!(!data.join("authorized_keys").exists() && !Path::new(&other).exists());
    // A relay that has not noted which file it reads, as one of an older version.
    fs::remove_file(data.join("started_with")).expect("what it was started with");
    lock_out();
    let advice = of_the_way_in(&relay, &[]);
    assert!(advice.contains("--keys FILE`") && advice.contains("is not known here"), "{advice}");
    let said = relay.run(&["keys", "add", "--role", "admin", "--keys", &other, &own]).ok();
    assert!(said.contains("which keys file it reads is not known here"), "{said}");
}

#[test]
fn what_is_in_the_place_of_this_machines_own_key_is_got_out_of_the_way() {
    let relay = of_this_machine();
    let key = data(&relay.scratch).join("client_key");
    let aside = key.with_extension("old");
    type Puts = fn(&Path);
    let cases: [(&str, Puts); 6] = [
        ("is no file: after `mv ", |key| fs::create_dir(key).expect("a folder")),
        ("is no file: after `mv ", |key| std::os::unix::fs::symlink("/no/such/file", key).expect("a link")),
        ("is no file: after `mv ", pipe),
        ("is broken: after `rm ", |key| too_large(key, 0o600)),
        ("is broken: after `rm ", |key| too_large(key, 0o644)),
        ("is broken: after `rm ", |key| fs::write(key, "junk\n").expect("a file")),
    ];
    for (number, (what, puts)) in cases.into_iter().enumerate() {
        fs::remove_file(&key).expect("the key");
        puts(&key);
        let said = relay.scratch.run(["sessions"]).refused();
        let advice =
            said.lines().find(|line| line.contains("this machine's own key")).unwrap_or_else(|| panic!("{said}"));
        assert!(advice.contains(what) && !said.contains("chmod"), "{number}: {said}");
        for ran in runs_what_is_named(&relay.scratch, advice) {
            ran.ok();
        }
        until("the new key signs in", || relay.scratch.run(["sessions"]).status.success().then_some(()));
        let _ = fs::remove_dir(&aside).or_else(|_| fs::remove_file(&aside));
        // Each new key has the comment of this user and host, by which two could not be told apart.
        fs::write(data(&relay.scratch).join("authorized_keys"), "# none\n").expect("the keys");
    }
}

/// Writes a file that is too large for a key, with this mode.
fn too_large(path: &Path, mode: u32) {
    fs::write(path, "x".repeat(1 << 17)).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

#[test]
fn this_machines_own_key_goes_only_where_a_person_at_the_terminal_says_so() {
    let scratch = Scratch::new();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data(&scratch)).expect("a folder");
    let (own, other) = (Key::new("own"), Key::new("other"));
    own.write(&data(&scratch).join("client_key"));
    other.write(&scratch.home().join("other"));
    fs::write(data(&scratch).join("authorized_keys"), own.line("amp-role=\"admin\"") + &other.line(""))
        .expect("a file");
    let did = |words: &[&str]| scratch.run([&["keys", "did"], words].concat()).ok();
    let public = data(&scratch).join("client_key.pub").display().to_string();
    let guest = scratch.home().join("other.pub").display().to_string();
    assert!(did(&[]) == did(&[&public]) && did(&[]) != did(&[&guest]));
    let (said, name) = (scratch.run(["keys", "remove", "other"]).ok(), own.fingerprint());
    assert!(said.contains(&format!("removed {} other", other.fingerprint())), "{said}");
    assert!(scratch.run(["keys", "remove", &name]).refused().contains("--yes removes it without a question"));
    for line in ["yes | {}", "{} 2>told; x=$?; cat told; (exit $x)"] {
        let command = line.replace("{}", &format!("{PROGRAM} keys remove {name}"));
        let terminal = Terminal::run(&scratch, &command);
        let screen = terminal.shows("the end", |screen| screen.contains("ended with 1"));
        assert!(screen.contains("nothing was removed"), "{line}: {screen}");
    }
    let terminal = Terminal::run(&scratch, &format!("{PROGRAM} keys remove {name}"));
    terminal.shows("the question", |screen| screen.contains("Remove it? [y/N]"));
    assert!(scratch.run(["keys", "list"]).ok().contains(&name));
    terminal.line("y");
    terminal.shows("the end", |screen| screen.contains("ended with 0"));
    assert!(!scratch.run(["keys", "list"]).ok().contains(&name));
}

#[test]
fn a_relay_that_cannot_be_told_is_known_by_the_keys_file_that_it_reads() {
    let relay = of_this_machine();
    fs::remove_file(data(&relay.scratch).join("relay.sock")).expect("its socket");
    let (one, two) = (Key::new("one"), Key::new("two"));
    let said = relay.scratch.run(["keys", "add", "--comment", "anna", &one.public]).ok();
    assert!(said.contains("the running relay reads this file, and looks at it within a second"), "{said}");
    assert!(relay.scratch.run(["keys", "list"]).ok().contains(" anna\n"));
    let other = relay.scratch.home().join("others").display().to_string();
    let said = relay.scratch.run(["keys", "add", "--keys", &other, &two.public]).refused();
    assert!(said.contains("reads another keys file, so nothing has changed for it"), "{said}");
}

#[test]
fn what_is_said_of_this_machines_own_key_is_said_where_that_is_the_matter() {
    let relay = of_this_machine();
    let elsewhere = Relay::demo(&[&Key::new("owner")]);
    let scratch = &relay.scratch;
    let sessions = || scratch.run(["sessions"]);
    let url = format!("ws://{}", elsewhere.tcp().host());
    for arguments in [&["sessions"][..], &["request", "relay", "time"]] {
        let said = scratch.run([arguments, &["--url", &url]].concat()).refused();
        assert!(said.contains("keys add --role ROLE FILE.pub") && !said.contains("own key"), "another relay: {said}");
    }
    let ssh = scratch.home().join(".ssh");
    fs::create_dir(&ssh).expect("a folder");
    let mine = Key::new("mine");
    mine.write(&ssh.join("id_ed25519"));
    let key = data(scratch).join("client_key");
    let aside = key.with_extension("aside");
    fs::rename(&key, &aside).expect("ours");
    fs::write(&key, "junk\n").expect("ours");
    let said = sessions().refused();
    assert!(said.contains("own key is broken") && !said.contains("in again"), "another key is not known: {said}");
    scratch.run(["keys", "add", &mine.public]).ok();
    let ran = until("it signs in", || Some(sessions()).filter(|ran| ran.status.success()));
    assert!(ran.err.contains("own key is broken") && ran.err.contains("id_ed25519 signed in instead"), "{ran:?}");
    fs::remove_file(&key).expect("ours");
    assert_eq!(sessions().err, "", "without one, nothing is wrong with it");
    fs::rename(&aside, &key).expect("ours");
    assert_eq!(sessions().err, "");
}
