//! What a relay was told by flags and variables, all as variables: another relay is started with them to have the same
//! settings. None of them stands on a command line, which every user of the machine can read.

use std::{
    any::TypeId,
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Args as _, parser::ValueSource};

use super::{RelayArgs, World};

/// The name of the variable of each setting that was given, and its value.
pub(crate) type Variables = BTreeMap<String, OsString>;

/// The settings that have their value from one of these sources. A path in them holds from every folder.
pub(crate) fn given(matches: &ArgMatches, sources: &[ValueSource], world: &World) -> Variables {
    let mut given = Variables::new();
    for arg in RelayArgs::augment_args(clap::Command::new("relay")).get_arguments() {
        let id = arg.get_id().as_str();
        let (Some(name), Some(source)) = (arg.get_env(), matches.value_source(id)) else { continue };
        if !sources.contains(&source) {
            continue;
        }
        let delimiter = arg.get_value_delimiter().unwrap_or(',').to_string();
        let raw = matches.get_raw(id).into_iter().flatten();
        let values: Vec<OsString> = raw.map(|raw| from_everywhere(arg, raw, world)).collect();
        given.insert(name.to_string_lossy().into_owned(), values.join(OsStr::new(&delimiter)));
    }
    given
}

/// The variables of all settings.
pub(crate) fn variables() -> Vec<OsString> {
    let known = RelayArgs::augment_args(clap::Command::new("relay"));
    known.get_arguments().filter_map(|arg| arg.get_env().map(OsStr::to_owned)).collect()
}

fn from_everywhere(arg: &Arg, raw: &OsStr, world: &World) -> OsString {
    // What is empty is refused, and not to be made a folder.
    if raw.is_empty() {
        return raw.to_owned();
    }
    if arg.get_value_parser().type_id() == TypeId::of::<PathBuf>() {
        return world.absolute(Path::new(raw)).into();
    }
    match raw.to_str().and_then(|text| text.strip_prefix("unix:")) {
        Some(path) if arg.get_id() == "listen" && !path.is_empty() => {
            let mut listen = OsString::from("unix:");
            listen.push(world.here.join(path));
            listen
        }
        _ => raw.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn world() -> World {
        World { home: Some("/home/u".into()), config_home: None, state_home: None, here: "/here".into(), cores: 1 }
    }

    fn given_by(arguments: &[String]) -> Variables {
        let command = RelayArgs::augment_args(Command::new("test")).mut_args(|arg| arg.env(None::<&str>));
        let arguments = std::iter::once("test").chain(arguments.iter().map(String::as_str));
        let matches = command.try_get_matches_from(arguments).expect("known flags");
        given(&matches, &[ValueSource::CommandLine], &world())
    }

    #[test]
    fn a_path_in_any_setting_holds_from_every_folder() {
        let known = RelayArgs::augment_args(Command::new("test"));
        let mut paths = Vec::new();
        for arg in known.get_arguments() {
            let long = arg.get_long().expect("a flag");
            let name = arg.get_env().and_then(OsStr::to_str).expect("a variable");
            if !arg.get_action().takes_values() {
                assert_eq!(given_by(&[format!("--{long}")])[name], "true");
                continue;
            }
            // By the help's own words, so that the test does not repeat the code.
            let is_path = arg.get_value_names().is_some_and(|names| names.iter().any(|name| is_path_name(name)));
            let value = |text: &str| given_by(&[format!("--{long}={text}")])[name].clone();
            assert_eq!(value("3"), if is_path { "/here/3" } else { "3" }, "--{long}");
            if is_path {
                paths.push(long.to_owned());
                assert_eq!((value("/a/b"), value("~/a")), ("/a/b".into(), "/home/u/a".into()), "--{long}");
            }
        }
        assert!(paths.len() >= 5, "{paths:?}");
    }

    fn is_path_name(name: &str) -> bool {
        ["FILE", "DIR", "PATH"].contains(&name)
    }

    #[test]
    fn what_may_be_given_several_times_is_one_variable() {
        let given = given_by(&["--folder=a", "--folder=/b", "--env=A=unix:1", "--env=B"].map(str::to_owned));
        assert_eq!(given["AMP_RELAY_FOLDER"], "/here/a,/b");
        assert_eq!(given["AMP_RELAY_ENV"], "A=unix:1\nB");
        let given = given_by(&["--listen=unix:s", "--listen=unix:/s", "--listen=[::1]:1"].map(str::to_owned));
        assert_eq!(given["AMP_RELAY_LISTEN"], "unix:/here/s,unix:/s,[::1]:1");
        assert_eq!(given.len(), 1);
    }
}
