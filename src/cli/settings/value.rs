//! How each setting is written. Every refusal says what the value should look like.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    base::{
        ConnToken,
        text::{path_line, quoted},
    },
    claude::environment,
    reactor::Listen,
    server::{Deflate, Verify},
};

/// A time span in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Millis(pub(crate) u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}s", self.0 / 1000) } else { write!(f, "{}ms", self.0) }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// On or off, or why what a variable says is neither: that is told with where it was said.
#[derive(Clone, Debug)]
pub(crate) struct Switch(pub(super) Result<bool, String>);

impl Default for Switch {
    fn default() -> Self {
        Self(Ok(false))
    }
}

/// Never fails, so that a refusal is the settings' own.
#[allow(clippy::unnecessary_wraps, reason = "the library's form")]
pub(super) fn switch(text: &str) -> Result<Switch, String> {
    Ok(Switch(match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{} is neither true nor false (nor 1 or 0, yes or no, on or off)", quoted(text))),
    }))
}

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err("`unix:` wants a path behind it".into());
        }
        if std::os::unix::net::SocketAddr::from_pathname(path).is_err() {
            return Err(format!("{} is too long a path for a socket: name a shorter one", quoted(path)));
        }
        return Ok(Listen::Unix(PathBuf::from(path)));
    }
    let named = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = named
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("{} is neither ADDR:PORT (127.0.0.1:5711, [::1]:0) nor unix:PATH", quoted(text)))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{address} can be reached from other machines, and this relay has no TLS yet: what people and agents say \
             would cross the network in the clear. Listen on a loopback address or unix:PATH, and reach it from \
             elsewhere through `ssh -L 5711:127.0.0.1:5711 HOST`"
        ));
    }
    Ok(Listen::Tcp(address))
}

pub(super) fn folder(path: &Path) -> Result<PathBuf, String> {
    match std::fs::canonicalize(path) {
        Ok(folder) if folder.is_dir() => Ok(folder),
        Ok(_) => Err(format!("{} is not a folder", path_line(path))),
        Err(error) => Err(format!("the folder {} cannot be used: {error}", path_line(path))),
    }
}

pub(super) fn host(text: &str) -> Result<String, String> {
    let fine = !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'));
    if fine { Ok(text.to_ascii_lowercase()) } else { Err(format!("{} is not a host name", quoted(text))) }
}

/// A variable that sessions get: one of the relay's own by its name, or NAME=VALUE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

pub(super) fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if !environment::is_name(name) {
        let wanted = "NAME or NAME=VALUE is wanted, and a name has letters, digits and `_`, no digit first";
        return Err(format!("{} is no variable that a session can be given; {wanted}", quoted(name)));
    }
    if environment::is_never_added(name) {
        return Err(format!("{name} is given to no session, since it would change what runs there: leave it out"));
    }
    Ok(Variable { name: name.to_owned(), value })
}

pub(super) fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers) if (1..=ConnToken::WORKERS_MAX).contains(&workers) => Ok(workers),
        _ => Err(format!("{} is not a number of workers from 1 to {}", quoted(text), ConnToken::WORKERS_MAX)),
    }
}

/// The milliseconds of a time span as people write it: `500ms`, `60s`, `10m`, `24h`, `7d`; a bare number is seconds.
pub(crate) fn span_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim_start() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms)
}

pub(super) fn millis(text: &str) -> Result<Millis, String> {
    match span_ms(text) {
        Some(millis) if millis <= 3_600_000 => Ok(Millis(millis)),
        _ => Err(format!("{} is not a time up to an hour, like 500ms, 10s, 5m or 1h", quoted(text))),
    }
}

pub(super) fn verify(text: &str) -> Result<Verify, String> {
    match text {
        "hello" => Ok(Verify::Hello),
        "all" => Ok(Verify::All),
        _ => Err(format!("{} is neither hello nor all", quoted(text))),
    }
}

pub(super) fn deflate(text: &str) -> Result<Deflate, String> {
    match text {
        "off" => Ok(Deflate::Off),
        "on" => Ok(Deflate::On),
        "takeover" => Ok(Deflate::Takeover),
        _ => Err(format!("{} is none of off, on and takeover", quoted(text))),
    }
}

pub(super) fn level(text: &str) -> Result<log::LevelFilter, String> {
    text.parse().map_err(|_| format!("{} is not a level: off, error, warn, info, debug or trace", quoted(text)))
}

pub(super) fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{} is neither text nor json", quoted(text))),
    }
}
