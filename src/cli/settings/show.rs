//! `config show`: every value and where it came from.

use std::fmt;

use super::{LogFormat, Origin, Settings};
use crate::{
    reactor::Listen,
    server::{Deflate, Verify},
};

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{}", name.replace(['_', '.'], "-")),
            Self::Environment(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The settings as a config file, each line with the origin of its value as a comment.
pub(crate) fn show(settings: &Settings) -> String {
    let Settings {
        data,
        listen,
        keys,
        claude,
        demo,
        folder,
        workers,
        pin,
        host,
        grace,
        amp_verify,
        ws_deflate,
        log,
        log_format,
    } = settings;
    let listens: Vec<String> = listen.value.iter().map(listen_text).collect();
    let folders: Vec<String> = folder.value.iter().map(|path| path.display().to_string()).collect();
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
        Some(path) => ("claude", quoted(&path.display().to_string()), &claude.origin),
        None => ("# claude", "found when a session starts".to_owned(), &claude.origin),
    };
    let lines = [
        ("data", quoted(&data.value.display().to_string()), &data.origin),
        ("listen", list(&listens), &listen.origin),
        ("keys", quoted(&keys.value.display().to_string()), &keys.origin),
        claude_line,
        ("demo", demo.value.to_string(), &demo.origin),
        ("folder", list(&folders), &folder.origin),
        ("workers", workers.value.to_string(), &workers.origin),
        ("pin", pin.value.to_string(), &pin.origin),
        ("host", list(&host.value), &host.origin),
        ("grace", quoted(&grace.value.to_string()), &grace.origin),
        ("amp.verify", quoted(verify), &amp_verify.origin),
        ("ws.deflate", quoted(deflate), &ws_deflate.origin),
        ("log", quoted(&log.value.to_string().to_lowercase()), &log.origin),
        ("log_format", quoted(format), &log_format.origin),
    ];
    let width = lines.iter().map(|(name, value, _)| name.len() + value.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value, origin) in lines {
        let pad = width - name.len() - value.len();
        text.push_str(&format!("{name} = {value}{:pad$}  # {origin}\n", ""));
    }
    text
}

fn listen_text(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    let items: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", items.join(", "))
}
