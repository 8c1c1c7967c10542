//! `config show`: every value and where it came from.

use std::fmt;

use clap::Args as _;

use super::{LIVE, LogFormat, NAMES, Origin, RelayArgs, Settings, Variable};
use crate::{
    base::text::path_line,
    reactor::Listen,
    server::{Deflate, Verify},
};

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{}", name.replace(['_', '.'], "-")),
            Self::Environment(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path_line(path)),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Said where no folder is set, and the current one is no bound.
const OPEN: &str = "; an admin may use any other where `up` starts the relay";

/// The settings as a config file, each line with the origin of its value as a comment.
pub(crate) fn show(settings: &Settings) -> String {
    let lines = lines(settings);
    let width = lines.iter().map(|(name, value, _)| name.len() + value.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value, origin) in lines {
        let pad = width - name.len() - value.len();
        let more = if name == "folder" && *origin == Origin::Default { OPEN } else { "" };
        text.push_str(&format!("{name} = {value}{:pad$}  # {origin}{more}\n", ""));
    }
    text
}

/// Every setting in a table for Markdown: how it is set, what it is where nothing is set, what it means.
pub(crate) fn table() -> String {
    let known = RelayArgs::augment_args(clap::Command::new("relay"));
    let mut text = "| setting | flag, variable | default | meaning |\n|---|---|---|---|\n".to_owned();
    for name in NAMES {
        let id = name.replace('.', "_");
        let Some(arg) = known.get_arguments().find(|arg| arg.get_id() == id.as_str()) else { continue };
        let value = match arg.get_value_names() {
            Some([value, ..]) if arg.get_action().takes_values() => format!(" {value}"),
            _ => String::new(),
        };
        let flag = format!("`--{}{value}`", arg.get_long().unwrap_or_default());
        let variable = arg.get_env().map(|name| format!(", `{}`", name.to_string_lossy())).unwrap_or_default();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let (meaning, default) = help.split_once(" [default: ").unwrap_or((&help, "none]"));
        let default = if arg.get_action().takes_values() { default.trim_end_matches(']') } else { "false" };
        let live = if LIVE.contains(&name) { "; SIGHUP reads it again" } else { "" };
        text.push_str(&format!("| `{name}` | {flag}{variable} | {default} | {meaning}{live} |\n"));
    }
    text
}

/// The names of the settings that differ, without some.
pub(crate) fn changed(before: &Settings, after: &Settings, without: &[&str]) -> Vec<&'static str> {
    let name = |name: &'static str| name.trim_start_matches("# ");
    let pairs = lines(before).into_iter().zip(lines(after));
    let changed = pairs.filter(|(before, after)| before.1 != after.1).map(|(before, _)| name(before.0));
    changed.filter(|name| !without.contains(name)).collect()
}

/// Each setting's name, value and origin.
fn lines(settings: &Settings) -> Vec<(&'static str, String, &Origin)> {
    let Settings {
        data,
        listen,
        keys,
        claude,
        demo,
        env,
        folder,
        workers,
        pin,
        host,
        grace,
        amp_verify,
        ws_deflate,
        ws_ping,
        log,
        log_format,
    } = settings;
    let listens: Vec<String> = listen.value.iter().map(listen_text).collect();
    let folders: Vec<String> = folder.value.iter().map(|path| path.display().to_string()).collect();
    // Values may be secrets.
    let variable = |variable: &Variable| match variable.value {
        Some(_) => format!("{}=(hidden)", variable.name),
        None => variable.name.clone(),
    };
    let variables: Vec<String> = env.value.iter().map(variable).collect();
    let format = match log_format.value {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let verify = match amp_verify.value {
        Verify::Hello => "hello",
        Verify::All => "all",
    };
    let deflate = match ws_deflate.value {
        Deflate::Off => "off",
        Deflate::On => "on",
        Deflate::Takeover => "takeover",
    };
    let claude_line = match &claude.value {
        Some(path) => ("claude", toml_quoted(&path.display().to_string()), &claude.origin),
        None => ("# claude", "found when a session starts".to_owned(), &claude.origin),
    };
    vec![
        ("data", toml_quoted(&data.value.display().to_string()), &data.origin),
        ("listen", list(&listens), &listen.origin),
        ("keys", toml_quoted(&keys.value.display().to_string()), &keys.origin),
        claude_line,
        ("demo", demo.value.to_string(), &demo.origin),
        ("env", list(&variables), &env.origin),
        ("folder", list(&folders), &folder.origin),
        ("workers", workers.value.to_string(), &workers.origin),
        ("pin", pin.value.to_string(), &pin.origin),
        ("host", list(&host.value), &host.origin),
        ("grace", toml_quoted(&grace.value.to_string()), &grace.origin),
        ("amp.verify", toml_quoted(verify), &amp_verify.origin),
        ("ws.deflate", toml_quoted(deflate), &ws_deflate.origin),
        ("ws.ping", toml_quoted(&ws_ping.value.to_string()), &ws_ping.origin),
        ("log", toml_quoted(&log.value.to_string().to_lowercase()), &log.origin),
        ("log_format", toml_quoted(format), &log_format.origin),
    ]
}

fn listen_text(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// As TOML takes it.
fn toml_quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    let items: Vec<String> = texts.iter().map(|text| toml_quoted(text)).collect();
    format!("[{}]", items.join(", "))
}
