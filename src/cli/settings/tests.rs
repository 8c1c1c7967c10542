//! Goal: each layer beats the next, and every refusal says where the value stands. Method: clap matches made of
//! argument lists, files made of text, no process environment.

use clap::{Command, FromArgMatches};

use super::*;

fn world() -> World {
    World { home: Some("/home/u".into()), config_home: None, state_home: None, here: std::env::temp_dir(), cores: 3 }
}

fn resolved(arguments: &[&str], file: &str) -> Result<Settings, String> {
    let command = RelayArgs::augment_args(Command::new("test").mut_args(|arg| arg.env(None::<&str>)));
    let command = command.mut_args(|arg| arg.env(None::<&str>));
    let matches = command.try_get_matches_from([&["test"], arguments].concat()).expect("known flags");
    let mut args = RelayArgs::from_arg_matches(&matches).expect("known flags");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("config.toml");
    std::fs::write(&path, file).expect("a scratch file");
    args.config = Some(path);
    resolve(&args, &matches, &world())
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let settings = resolved(&["--workers", "7"], "workers = 5\ngrace = \"500ms\"\n").expect("good settings");
    assert_eq!((settings.workers.value, settings.workers.origin), (7, Origin::Flag("workers")));
    assert_eq!(settings.grace.value, Millis(500));
    assert!(matches!(settings.grace.origin, Origin::File(_, 2)));
    assert_eq!(settings.data.value, PathBuf::from("/home/u/.local/state/amp-relay"));
    assert_eq!(settings.keys.value, settings.data.value.join("authorized_keys"));
    assert_eq!(settings.log.origin, Origin::Default);
}

#[test]
fn a_dotted_name_may_stand_in_a_table() {
    for (file, line) in [("amp.verify = \"all\"\n", 1), ("workers = 1\n\n[amp]\nverify = \"all\"\n", 4)] {
        let settings = resolved(&[], file).expect("good settings");
        assert_eq!(settings.amp_verify.value, Verify::All);
        assert!(matches!(settings.amp_verify.origin, Origin::File(_, found) if found == line), "{file}");
        let settings = resolved(&["--amp-verify", "hello"], file).expect("good settings");
        assert_eq!(settings.amp_verify.value, Verify::Hello);
        assert_eq!(settings.amp_verify.origin.to_string(), "--amp-verify");
    }
    assert_eq!(resolved(&[], "").expect("good settings").amp_verify.value, Verify::Hello);
    let error = resolved(&[], "[amp]\nverfy = \"all\"\n").expect_err("an unknown name");
    assert!(error.contains("config.toml:2") && error.contains("did you mean `amp.verify`?"), "{error}");
}

#[test]
fn compression_is_off_unless_it_is_asked_for() {
    let deflate = |arguments: &[&str], file: &str| resolved(arguments, file).expect("good settings").ws_deflate;
    assert_eq!((deflate(&[], "").value, deflate(&[], "").origin), (Deflate::Off, Origin::Default));
    for (text, value) in [("off", Deflate::Off), ("on", Deflate::On), ("takeover", Deflate::Takeover)] {
        let (dotted, table) = (format!("ws.deflate = {text:?}\n"), format!("[ws]\ndeflate = {text:?}\n"));
        assert_eq!(deflate(&[], &dotted).value, value);
        assert_eq!(deflate(&[], &table).value, value);
        assert_eq!(deflate(&["--ws-deflate", text], "ws.deflate = \"off\"\n").value, value);
        let shown = show(&resolved(&[], &dotted).expect("good settings"));
        assert_eq!(deflate(&[], &shown).value, value, "{shown}");
    }
}

#[test]
fn silent_peers_are_pinged_as_often_as_is_said() {
    let ping = |arguments: &[&str], file: &str| resolved(arguments, file).expect("good settings").ws_ping.value;
    assert_eq!(ping(&[], ""), Millis(25_000));
    assert_eq!(ping(&[], "ws.ping = \"500ms\"\n"), Millis(500));
    assert_eq!(ping(&["--ws-ping", "0"], "[ws]\nping = \"40s\"\n"), Millis(0));
    let error = resolved(&["--ws-ping", "often"], "").expect_err("no time");
    assert!(error.contains("--ws-ping") && error.contains("500ms"), "{error}");
}

#[test]
fn a_time_is_written_with_its_unit() {
    for (text, millis) in
        [("1h", 3_600_000), ("5m", 300_000), ("500ms", 500), ("10s", 10_000), ("10 s", 10_000), ("7", 7_000)]
    {
        let settings = resolved(&["--grace", text], &format!("ws.ping = \"{text}\"\n")).expect("good settings");
        assert_eq!((settings.grace.value, settings.ws_ping.value), (Millis(millis), Millis(millis)), "{text}");
    }
    // Whole seconds need no quotes in the file, and what is taken for none says both.
    let settings = resolved(&[], "grace = 5\nws.ping = 40\n").expect("good settings");
    assert_eq!((settings.grace.value, settings.ws_ping.value), (Millis(5_000), Millis(40_000)));
    for (name, value) in [("grace", "1.5"), ("grace", "true"), ("ws.ping", "1e1"), ("ws.ping", "inf")] {
        let error = resolved(&[], &format!("{name} = {value}\n")).expect_err("no whole number");
        let wants =
            format!("config.toml:1: `{name}` must be a whole number of seconds, or a time in quotes like \"500ms\"");
        assert!(error.contains(&wants), "{error}");
    }
    let error = resolved(&[], "workers = 1.5\n").expect_err("no whole number");
    assert!(error.contains("`workers` must be a whole number"), "{error}");
    for text in ["2h", "61m", "1d", "3601", "1 hour", "m", "1.5h"] {
        let error = resolved(&["--grace", text], "").expect_err("no time up to an hour");
        assert!(error.contains("up to an hour, like 500ms, 10s, 5m or 1h"), "{error}");
    }
}

#[test]
fn an_unknown_name_is_an_error_with_a_suggestion_and_its_line() {
    let error = resolved(&[], "\nworker = 5\n").expect_err("an unknown name");
    assert!(error.contains("config.toml:2") && error.contains("did you mean `workers`?"), "{error}");
    let error = resolved(&[], "log-format = \"json\"\n").expect_err("an unknown name");
    assert!(error.contains("did you mean `log_format`?"), "{error}");
    let error = resolved(&[], "zzzzzzzzzz = 5\n").expect_err("an unknown name");
    assert!(error.contains("known are: data, listen"), "{error}");
}

#[test]
fn values_that_cannot_be_used_say_where_they_stand_and_what_is_wanted() {
    for (arguments, file, parts) in [
        (&["--listen", "0.0.0.0:1"][..], "", &["--listen", "other machines"][..]),
        (&["--listen", "nowhere"], "", &["--listen", "unix:PATH"]),
        (&[], "listen = [\"[::]:1\"]", &["config.toml:1", "other machines"]),
        (&["--workers", "0"], "", &["--workers", "from 1 to"]),
        (&["--grace", "soon"], "", &["--grace", "10s"]),
        (&["--amp-verify", "some"], "", &["--amp-verify", "hello", "all"]),
        (&["--ws-deflate", "yes"], "", &["--ws-deflate", "off", "on", "takeover"]),
        (&[], "workers = 1\n[ws]\ndeflate = \"max\"", &["config.toml:3", "none of off, on and takeover"]),
        (&[], "ws.deflate = true", &["config.toml:1", "text in quotes"]),
        (&["--log", "loud"], "", &["--log", "info"]),
        (&["--log-format", "xml"], "", &["--log-format", "json"]),
        (&["--folder", "/no/such/folder"], "", &["--folder", "/no/such/folder"]),
        (&[], "demo = \"yes\"", &["config.toml:1", "true or false"]),
        (&[], "env = [\"A B=1\"]", &["config.toml:1", "\"A B\" is no variable"]),
        (&["--env", "9=1"], "", &["--env", "no digit first"]),
        (&[], "workers = [", &["config.toml"]),
        (&[], "data = \"\"", &["config.toml:1", "empty"]),
    ] {
        let error = resolved(arguments, file).expect_err("a value that cannot be used");
        assert!(parts.iter().all(|part| error.contains(part)), "{arguments:?} {file}: {error}");
    }
}

#[test]
fn a_refusal_is_short_whatever_it_is_about() {
    let long = "x".repeat(900_000);
    for file in [
        format!("a{long}"),
        format!("{long} = 1"),
        format!("claude = \"\"\nlog = {long}"),
        format!("listen = \"{long}\""),
        format!("grace = \"{long}\""),
        format!("folder = \"/{long}\""),
        format!("env = [\"{long} b\"]"),
        format!("workers = 1\n{long}{long}"),
    ] {
        let error = resolved(&[], &file).expect_err("it cannot be used");
        assert!(error.chars().count() < 2100 && error.contains("config.toml"), "{:.400} {}", error, error.len());
    }
    let settings = resolved(&[], &format!("data = \"/{long}\"")).expect("a path");
    let error = usable(&settings).expect_err("it is none");
    assert!(error.len() < 2100 && error.contains("too long"), "what is wrong stays: {error}");
    let error = resolved(&[], &format!("workers = 1\nlog == {long}")).expect_err("no TOML");
    assert!(error.contains("config.toml:2:") && error.contains("character 6"), "{error}");
}

#[test]
fn what_is_no_toml_is_said_in_plain_words() {
    let no_text = "this is neither a number nor true nor false, and a text stands in quotes";
    let texts = ["log = info", "log = nope", "log = trace", "log = false info", "ws.deflate = takeover", "demo = True"];
    let values = ["listen = 127.0.0.1:5711", "listen = [127.0.0.1:5711]", "grace = 10s", "log = 2026-x", "log = 12x"];
    let unquoted = texts.into_iter().chain(values).map(|file| (file, no_text));
    for (file, said) in unquoted.chain([
        ("log = ", "this setting has no value: write one behind the `=`, or remove the line"),
        ("log = # info", "this setting has no value: write one behind the `=`, or remove the line"),
        ("log = debug", no_text),
        ("log", "this is a name without a value: a setting is NAME = VALUE"),
        ("log = \"debug", "a quote is not closed"),
        ("[log", "unclosed table, expected `]`"),
    ]) {
        let error = resolved(&[], &format!("workers = 1\n{file}\n")).expect_err(file);
        assert!(error.contains("line 2") && error.contains(file.trim()), "{file}: {error}");
        assert!(error.ends_with(&format!("\n{said}")), "{file}: {error}");
    }
    let long = format!("log = {}", "x".repeat(3000));
    let error = resolved(&[], &long).expect_err("no TOML");
    assert!(error.contains("a text stands in quotes"), "{error}");
}

#[test]
fn a_folder_that_is_no_bound_is_not_shown_as_one() {
    let folder = |arguments: &[&str]| {
        let shown = show(&resolved(arguments, "").expect("good"));
        shown.lines().find(|line| line.starts_with("folder = ")).expect("it is listed").to_owned()
    };
    assert!(folder(&[]).contains("# default; an admin may use any other"), "{}", folder(&[]));
    assert!(folder(&["--folder", "/"]).ends_with("# --folder"), "{}", folder(&["--folder", "/"]));
}

#[test]
fn what_is_shown_is_a_config_file_that_gives_the_same_settings() {
    let settings = resolved(&["--listen", "127.0.0.1:0", "--listen", "unix:/tmp/a \"b", "--demo"], "").expect("good");
    let shown = show(&settings);
    assert!(shown.contains("# --listen") && shown.contains("# default"), "{shown}");
    let again = resolved(&[], &shown).expect("what is shown can be read");
    let values =
        |text: String| text.lines().map(|line| line.split("  #").next().map(str::to_owned)).collect::<Vec<_>>();
    assert_eq!(values(show(&again)), values(shown));
}

#[test]
fn f_a_tilde_is_the_home_folder_in_a_file_too() {
    let settings =
        resolved(&["--data", "~/d"], "claude = \"~/bin/claude\"\nkeys = \"~x/keys\"\n").expect("good settings");
    assert_eq!(settings.claude.value, Some(PathBuf::from("/home/u/bin/claude")));
    assert_eq!(settings.data.value, PathBuf::from("/home/u/d"));
    assert_eq!(settings.keys.value, world().here.join("~x/keys"), "another's home is not known");
    let error = usable(&settings).expect_err("there is no such program");
    assert!(error.contains("config.toml:1") && error.contains("/home/u/bin/claude"), "{error}");
}

#[test]
fn a_variable_that_is_neither_on_nor_off_is_refused() {
    let switch = |text: &str| value::switch(text).expect("the library goes on").0;
    for on in ["true", "1", "yes", "on", "True", "YES"] {
        assert_eq!((switch(on), switch(&format!("{on} "))), (Ok(true), Ok(true)), "{on}");
    }
    for off in ["false", "0", "no", "off", "FALSE", "Off"] {
        assert_eq!(switch(off), Ok(false), "{off}");
    }
    for neither in ["maybe", "2", "truee", "-"] {
        let why = switch(neither).expect_err(neither);
        assert!(why.contains(neither) && why.contains("true") && why.contains("off"), "{why}");
    }
    let settings = resolved(&["--pin"], "demo = true\n").expect("good settings");
    assert_eq!((settings.pin.value, settings.pin.origin), (true, Origin::Flag("pin")));
    assert!(settings.demo.value && !resolved(&[], "").expect("good settings").demo.value);
}
