//! Who may come in, as whom, and what they may then do.

use std::fs;

use serde_json::{Value, json};

use crate::support::{self, Device, Key, Refused, Relay, SignIn, device::text, http::Endpoint, relay::Scratch};

#[track_caller]
fn refused(result: Result<Device, Refused>, code: &str) -> Refused {
    let Err(refused) = result else { panic!("signed in, but {code} was due") };
    assert_eq!(refused.code(), code, "{refused:?}");
    assert_eq!(refused.close, Some(1008), "{refused:?}");
    refused
}

#[test]
fn keys_of_every_kind_sign_in() {
    let folder = Scratch::new();
    let made = |kind, bits| Key::ssh_keygen(folder.root(), kind, bits);
    let keys = [
        Key::new("in memory"),
        made("ed25519", 256),
        made("ecdsa", 256),
        made("ecdsa", 384),
        made("ecdsa", 521),
        made("rsa", 3072),
        Key::security_key("token", true),
    ];
    let relay = Relay::demo(&keys.iter().collect::<Vec<_>>());
    for key in &keys {
        for endpoint in [relay.tcp(), relay.unix()] {
            let device = SignIn::new(key).connect(&endpoint);
            let device = device.unwrap_or_else(|refused| panic!("{}: {refused:?}", key.public));
            assert_eq!(text(&device.welcome["role"]), "admin");
            let limits = &device.welcome["limits"];
            assert!(limits["message_bytes"].is_u64(), "{}", device.welcome);
            let profiles = device.welcome["profiles"].as_array().expect("profiles");
            assert_eq!(text(&profiles[0]["name"]), "default", "{}", device.welcome);
        }
    }
}

#[test]
fn an_untouched_token_does_not_sign_in() {
    let token = Key::security_key("token", false);
    let relay = Relay::demo(&[&token]);
    refused(SignIn::new(&token).connect(&relay.tcp()), "AUTH_FAILED");
}

#[test]
fn an_unlisted_key_is_told_so() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let stranger = Key::new("stranger");
    let refused = refused(SignIn::new(&stranger).connect(&relay.tcp()), "KEY_NOT_AUTHORIZED");
    assert_eq!(refused.error["re"], "sign-in", "{refused:?}");
    support::until("the failure is counted", || {
        let answer = support::http::get(&relay.unix(), "/metrics");
        answer
            .body
            .lines()
            .any(|line| !line.starts_with('#') && line.contains("sign_in") && !line.ends_with(" 0"))
            .then_some(())
    });
}

#[test]
fn a_signature_counts_only_for_what_it_says() {
    let owner = Key::new("owner");
    let other = Key::new("other");
    let relay = Relay::demo(&[&owner, &other]);
    let tcp = relay.tcp();
    // Somebody else's signature under the owner's key.
    refused(SignIn { signer: &other, ..SignIn::new(&owner) }.connect(&tcp), "AUTH_FAILED");
    // A signature for another purpose.
    refused(SignIn { namespace: "file".into(), ..SignIn::new(&owner) }.connect(&tcp), "AUTH_FAILED");
    refused(SignIn { namespace: "welcome@amp-relay".into(), ..SignIn::new(&owner) }.connect(&tcp), "AUTH_FAILED");
    // A signature over something else, such as an old transcript.
    refused(SignIn { transcript: Some("something else\n".into()), ..SignIn::new(&owner) }.connect(&tcp), "AUTH_FAILED");
    // A signature that was meant for another relay's address.
    let elsewhere = SignIn { authority: Some("relay.example.com:443".into()), ..SignIn::new(&owner) };
    refused(elsewhere.connect(&tcp), "AUTH_FAILED");
    Device::connect(&relay, &owner, "and the honest one comes in");
}

#[test]
fn loopback_names_are_equal_on_any_port() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    // What a client at the near end of an SSH tunnel believes it dialled.
    for authority in ["localhost:9999", "127.0.0.1:1", "[::1]:5711"] {
        let sign_in = SignIn { authority: Some(authority.into()), ..SignIn::new(&owner) };
        sign_in.connect(&relay.tcp()).unwrap_or_else(|refused| panic!("{authority}: {refused:?}"));
    }
}

#[test]
fn fields_with_control_characters_are_refused() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let sneaky = SignIn::new(&owner).name("laptop\nadmin");
    let result = sneaky.connect(&relay.tcp());
    let Err(refused) = result else { panic!("a line feed in a signed field was accepted") };
    assert!(["BAD_REQUEST", "AUTH_FAILED"].contains(&refused.code()), "{refused:?}");
}

#[test]
fn nothing_is_served_before_sign_in() {
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    for command in [json!({"type": "list", "id": "1"}), json!({"type": "ping", "id": "1", "t": 1})] {
        let mut device = Device::open(&relay.tcp());
        device.send(&command);
        let error = device.wait("the refusal", |message| message["type"] == "error");
        assert_eq!(text(&error["code"]), "AUTH_REQUIRED", "{error}");
        assert_eq!(device.wait_closed().0, 1008);
    }
}

#[test]
fn who_has_not_signed_in_cannot_make_the_relay_hold_much() {
    // A masked text frame of 200,000 bytes, its header alone.
    let mut header = vec![0x81, 0xff];
    header.extend_from_slice(&200_000u64.to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    let owner = Key::new("owner");
    let relay = Relay::demo(&[&owner]);
    let mut stranger = Device::open(&relay.tcp());
    stranger.wait("the challenge", |message| message["type"] == "challenge");
    stranger.write_raw(&header);
    assert_eq!(stranger.wait_closed().0, 1009);
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    let session = laptop.create();
    let text = "x".repeat(200_000);
    laptop.ok("prompt", json!({"session": session, "text": text}));
}

#[test]
fn a_client_may_ask_for_less_but_not_for_more() {
    let owner = Key::new("owner");
    let driver = Key::new("driver");
    let relay = Relay::options(&[&owner]).keys(&driver.line("amp-role=\"drive\"")).start();
    let less = SignIn::new(&owner).role("watch").connect(&relay.tcp()).expect("less is fine");
    assert_eq!(text(&less.welcome["role"]), "watch");
    refused(SignIn::new(&driver).role("approve").connect(&relay.tcp()), "FORBIDDEN");
    let same = SignIn::new(&driver).role("drive").connect(&relay.tcp()).expect("the same is fine");
    assert_eq!(text(&same.welcome["role"]), "drive");
}

/// The least role of each command, in the order watch, drive, approve, spawn.
fn commands(session: &str) -> [(&'static str, Value, usize); 8] {
    [
        ("list", json!({}), 0),
        ("attach", json!({"session": session}), 0),
        ("detach", json!({"session": session}), 0),
        ("prompt", json!({"session": session, "text": "hello"}), 1),
        ("interrupt", json!({"session": session}), 1),
        ("decide", json!({"session": session, "request": "none", "decision": "deny"}), 2),
        ("create", json!({"profile": "default"}), 3),
        ("stop", json!({"session": "none"}), 3),
    ]
}

#[test]
fn roles_are_enforced() {
    let owner = Key::new("owner");
    let roles = ["watch", "drive", "approve", "spawn"];
    let keys = roles.map(Key::new);
    let mut options = Relay::options(&[&owner]);
    for (role, key) in roles.iter().zip(&keys) {
        options = options.keys(&key.line(&format!("amp-role=\"{role}\"")));
    }
    let relay = options.start();
    let session = Device::connect(&relay, &owner, "owner").create();
    for (rank, (role, key)) in roles.iter().zip(&keys).enumerate() {
        let mut device = Device::connect(&relay, key, role);
        assert_eq!(text(&device.welcome["role"]), *role);
        for (kind, fields, needed) in commands(&session) {
            let code = match device.command(kind, fields) {
                Ok(_) => String::new(),
                Err(error) => text(&error["code"]).to_owned(),
            };
            let forbidden = code == "FORBIDDEN";
            assert_eq!(forbidden, rank < needed, "{role} sends {kind}: {code:?}");
            // The role is checked before anything that the command names.
            assert!(forbidden || ["", "NOT_FOUND"].contains(&code.as_str()), "{role} sends {kind}: {code}");
        }
        // What does not exist is not told to those who may not ask.
        if rank == 0 {
            assert_eq!(device.refused("prompt", json!({"session": "none", "text": "x"})), "FORBIDDEN");
        }
    }
}

#[test]
fn lines_of_the_keys_file_say_what_a_key_may_do() {
    let plain = Key::new("plain");
    let restricted = Key::new("restricted");
    let raised = Key::new("raised");
    let agent = Key::new("agent");
    let lines = [
        "# people\n\n".to_owned(),
        plain.line(""),
        restricted.line("restrict"),
        raised.line("restrict,amp-role=\"spawn\""),
        agent.line("amp-role=\"agent\""),
    ];
    let relay = Relay::options(&[]).keys(&lines.concat()).start();
    for (key, role) in [(&plain, "admin"), (&restricted, "watch"), (&raised, "spawn")] {
        assert_eq!(text(&Device::connect(&relay, key, role).welcome["role"]), role);
    }
    match SignIn::new(&agent).connect(&relay.tcp()) {
        Err(refused) => assert_eq!(refused.code(), "FORBIDDEN", "{refused:?}"),
        Ok(mut device) => {
            assert_eq!(text(&device.welcome["role"]), "agent");
            for (kind, fields, _) in commands("any") {
                assert_eq!(device.refused(kind, fields), "FORBIDDEN", "an agent sends {kind}");
            }
        }
    }
}

#[test]
fn a_refused_line_keeps_nobody_else_out() {
    let owner = Key::new("owner");
    let others = [
        "not a key at all\n".to_owned(),
        Key::new("command").line("command=\"echo hi\""),
        Key::new("from").line("from=\"10.0.0.0/8\""),
        Key::new("authority").line("cert-authority"),
        Key::new("role").line("amp-role=\"emperor\""),
        Key::new("unclosed").line("amp-role=\"admin"),
    ];
    let relay = Relay::options(&[]).keys(&others.concat()).keys(&owner.line("amp-role=\"admin\"")).start();
    Device::connect(&relay, &owner, "the owner");
    let lines: Vec<_> = (1..=others.len()).map(|line| format!(" line={line} reason=")).collect();
    relay.logged(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let from = Key::new("from nowhere");
    refused(SignIn::new(&from).connect(&relay.tcp()), "KEY_NOT_AUTHORIZED");
}

#[test]
fn keys_come_and_go_while_the_relay_runs() {
    let owner = Key::new("owner");
    let guest = Key::new("guest");
    let relay = Relay::demo(&[&owner]);
    let mut laptop = Device::connect(&relay, &owner, "laptop");
    refused(SignIn::new(&guest).connect(&relay.tcp()), "KEY_NOT_AUTHORIZED");

    let file = relay.scratch.root().join("guest.pub");
    fs::write(&file, format!("{}\n", guest.public)).expect("a public key file");
    let keys = relay.keys().display().to_string();
    let file = file.display().to_string();
    relay.run(&["keys", "add", "--keys", &keys, "--role", "drive", &file]).ok();
    let mut phone = Device::connect(&relay, &guest, "phone");
    assert_eq!(text(&phone.welcome["role"]), "drive");
    let listed = relay.run(&["keys", "list", "--keys", &keys]).ok();
    assert!(listed.contains(&guest.fingerprint()) && listed.contains("drive"), "{listed}");

    relay.run(&["keys", "remove", "--keys", &keys, &guest.fingerprint()]).ok();
    assert_eq!(phone.wait_closed().0, 4401, "the removed key's connection ends at once");
    refused(SignIn::new(&guest).connect(&relay.tcp()), "KEY_NOT_AUTHORIZED");
    let listed = relay.run(&["keys", "list", "--keys", &keys]).ok();
    assert!(!listed.contains(&guest.fingerprint()) && listed.contains(&owner.fingerprint()), "{listed}");
    laptop.ping();
}

#[test]
fn the_relay_keeps_its_name() {
    let owner = Key::new("owner");
    let mut relay = Relay::demo(&[&owner]);
    let named = |endpoint: &Endpoint| {
        let mut device = Device::open(endpoint);
        device.wait("the challenge", |message| message["type"] == "challenge")
    };
    let (one, two) = (named(&relay.tcp()), named(&relay.tcp()));
    assert!(text(&one["relay"]["did"]).starts_with("did:key:z"), "{one}");
    assert_eq!(one["relay"]["did"], two["relay"]["did"]);
    assert_ne!(one["nonce"], two["nonce"], "every challenge is new");
    assert!(one["expires_at"].is_u64(), "{one}");
    relay.signal(rustix::process::Signal::TERM);
    assert!(relay.exit().success());
    let command = {
        let mut command = relay.scratch.command(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(relay.scratch.data());
        command
    };
    let again = Relay::spawn(Scratch::new(), command, 2);
    assert_eq!(named(&again.tcp())["relay"]["did"], one["relay"]["did"], "the host key is kept");
}
