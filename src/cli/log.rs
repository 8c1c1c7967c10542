//! The log of the program: `log` records with their key-values to stderr, as text or JSON. Records go through a bounded
//! queue to a thread of their own, so that a slow terminal never holds up a worker; what finds the queue full is
//! counted and said later.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crossbeam_channel::Sender;
use env_logger::{Builder, Target, WriteStyle, fmt::Formatter};
use log::{
    LevelFilter, Record,
    kv::{Error, Key, Value, VisitSource},
};
use serde_json::Map;

use super::settings::LogFormat;

/// Records that may wait for stderr.
const QUEUE_MAX: usize = 4096;

/// Sends every record from now on to stderr.
pub(super) fn start(level: LevelFilter, format: LogFormat) {
    let mut builder = Builder::new();
    builder.filter_level(level).write_style(WriteStyle::Never);
    match format {
        LogFormat::Text => builder.format(text),
        LogFormat::Json => builder.format(json),
    };
    if let Some(queue) = Queue::start() {
        builder.target(Target::Pipe(Box::new(queue)));
    } else {
        builder.target(Target::Stderr);
    }
    // A host that has a logger of its own keeps it.
    let _ = builder.try_init();
}

/// The writing end: a whole record a call, never blocking.
struct Queue {
    lines: Sender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    fn start() -> Option<Self> {
        let (lines, waiting) = crossbeam_channel::bounded::<Vec<u8>>(QUEUE_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let told = lost.clone();
        let write = move || {
            for line in waiting {
                let mut stderr = io::stderr().lock();
                // Nobody reads stderr any more: there is nobody to tell.
                let _ = stderr.write_all(&line);
                let lost = told.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(stderr, "({lost} log lines were lost: stderr is too slow)");
                }
            }
        };
        thread::Builder::new().name("log".into()).spawn(write).ok()?;
        Some(Self { lines, lost })
    }
}

impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(bytes.to_vec()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn text(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let level = record.level().as_str().to_lowercase();
    let mut line = format!("{} {level:<5} {}", out.timestamp_millis(), record.args());
    let mut pairs = Pairs::default();
    let _ = record.key_values().visit(&mut pairs);
    for (key, value) in &pairs.0 {
        line.push_str(&pair(key, value));
    }
    line.push('\n');
    out.write_all(line.as_bytes())
}

fn pair(key: &str, value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => {
            format!(" {key}={}", text.escape_debug())
        }
        // Debug escapes all that could steer a terminal or turn text around; JSON would let some of it through.
        serde_json::Value::String(text) => format!(" {key}={text:?}"),
        value => format!(" {key}={value}"),
    }
}

fn json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut pairs = Pairs::default();
    let _ = record.key_values().visit(&mut pairs);
    let mut map = Map::new();
    map.insert("at".into(), out.timestamp_millis().to_string().into());
    map.insert("level".into(), record.level().as_str().to_lowercase().into());
    map.insert("target".into(), record.target().into());
    map.insert("message".into(), record.args().to_string().into());
    for (key, value) in pairs.0 {
        // A key of ours wins over a pair of the same name.
        map.entry(key).or_insert(value);
    }
    serde_json::to_writer(&mut *out, &map)?;
    out.write_all(b"\n")
}

/// A record's pairs as JSON values.
#[derive(Default)]
struct Pairs(Vec<(String, serde_json::Value)>);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let json = if let Some(flag) = value.to_bool() {
            flag.into()
        } else if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_i64() {
            number.into()
        } else if let Some(number) = value.to_f64() {
            number.into()
        } else {
            value.to_string().into()
        };
        self.0.push((key.as_str().to_owned(), json));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_steers_a_terminal_or_begins_a_line() {
        for text in ["a\u{9b}2Jb", "a \u{9b}2J\u{202e}\x7f b", "a\nlevel=error", "a\n b\x1b[2J", ""] {
            let pair = pair("line", &text.into());
            assert!(pair.starts_with(" line=") && !pair.contains(char::is_control), "{pair:?}");
            assert!(!pair.contains('\u{202e}'), "{pair:?}");
        }
        assert_eq!(pair("line", &"it's a \"b\"".into()), " line=\"it's a \\\"b\\\"\"");
    }
}
