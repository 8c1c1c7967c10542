//! The log of the program: `log` records with their key-values to stderr, as text or JSON. Records go through a bounded
//! queue to a thread of their own, so that a slow terminal never holds up a worker; what finds the queue full is
//! counted and said later. Where stderr is a file of the relay's own, its size has a bound.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};
use env_logger::{Builder, Target, WriteStyle, fmt::Formatter};
use log::{
    LevelFilter, Log, Metadata, Record,
    kv::{Error, Key, Value, VisitSource},
};
use serde_json::Map;

use super::settings::LogFormat;
use crate::server::private;

/// Records that may wait for stderr.
const QUEUE_MAX: usize = 4096;

/// Most bytes of a log file; the older half of what is kept lies beside it.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// How long the end of the process waits for stderr to take what is queued.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Sends every record from now on to stderr. `file`: stderr is this file, opened for appending. Nothing is written until
/// what is given is dropped, so that a welcome is read in one piece. `log::logger().flush()` waits until what is queued is
/// written, [`FLUSH_MAX`] at most.
pub(super) fn start(level: LevelFilter, format: LogFormat, file: Option<PathBuf>) -> Held {
    let mut builder = Builder::new();
    // The level may change later; `log` asks its own first.
    builder.filter_level(LevelFilter::Trace).write_style(WriteStyle::Never);
    let (held, release) = crossbeam_channel::bounded::<()>(0);
    match format {
        LogFormat::Text => builder.format(text),
        LogFormat::Json => builder.format(json),
    };
    let queue = Queue::start(io::stderr(), format, file, release);
    builder.target(queue.clone().map_or(Target::Stderr, |queue| Target::Pipe(Box::new(queue))));
    // A host that has a logger of its own keeps it.
    let _ = log::set_boxed_logger(Box::new(Logger { records: builder.build(), queue }));
    log::set_max_level(level);
    Held { _end: held }
}

/// Holds log lines back while it lives.
pub(super) struct Held {
    _end: Sender<()>,
}

/// The logger of the process.
struct Logger {
    records: env_logger::Logger,
    queue: Option<Queue>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.records.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.records.log(record);
    }

    fn flush(&self) {
        if let Some(queue) = &self.queue {
            queue.flush_within(FLUSH_MAX);
        }
    }
}

enum Entry {
    Line(Vec<u8>),
    /// All before it has been written once its sender is dropped.
    Flush {
        _written: Sender<()>,
    },
}

/// The writing end: a whole record a call, never blocking.
#[derive(Clone)]
struct Queue {
    entries: Sender<Entry>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    fn start(
        mut out: impl Write + Send + 'static,
        format: LogFormat,
        file: Option<PathBuf>,
        release: Receiver<()>,
    ) -> Option<Self> {
        let (entries, waiting) = crossbeam_channel::bounded::<Entry>(QUEUE_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let told = lost.clone();
        let mut written = file.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |meta| meta.len());
        let write = move || {
            // It ends when the holder is dropped.
            let _ = release.recv();
            for entry in waiting {
                let Entry::Line(mut line) = entry else { continue };
                let lost = told.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    line.extend_from_slice(lost_line(format, lost).as_bytes());
                }
                written += line.len() as u64;
                if let Some(path) = file.as_ref().filter(|_| written > FILE_BYTES_MAX) {
                    make_room(path);
                    written = line.len() as u64;
                }
                // An error means that stderr has no reader any more.
                let _ = out.write_all(&line);
            }
        };
        thread::Builder::new().name("log".into()).spawn(write).ok()?;
        Some(Self { entries, lost })
    }

    /// Waits until what was queued before is written; `false` where that takes longer.
    fn flush_within(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        let (written, all) = crossbeam_channel::bounded(0);
        self.entries.send_deadline(Entry::Flush { _written: written }, until).is_ok()
            && all.recv_deadline(until) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }
}

/// Puts what the file holds beside it and empties it. The file stays the same one, for it is also the stderr of the
/// process.
fn make_room(path: &Path) {
    let Ok(mut file) = private().read(true).write(true).open(path) else { return };
    let beside = private().write(true).create(true).truncate(true).open(path.with_extension("log.1"));
    let _ = beside.and_then(|mut beside| io::copy(&mut file, &mut beside));
    let _ = file.set_len(0);
}

/// What is said about records that were lost, in the form of the others.
fn lost_line(format: LogFormat, lost: u64) -> String {
    const WHY: &str = "log lines were lost: stderr is too slow";
    match format {
        LogFormat::Text => format!("({lost} {WHY})\n"),
        LogFormat::Json => {
            let line = serde_json::json!({"level": "warn", "target": module_path!(), "message": WHY, "lost": lost});
            format!("{line}\n")
        }
    }
}

impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(bytes.to_vec())).is_err() {
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
    use parking_lot::Mutex;

    use super::*;

    /// Takes a line for each turn that is given.
    struct Slow {
        turns: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.turns.recv();
            self.taken.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_queued_at_the_end_is_written_and_a_reader_that_takes_nothing_holds_nothing_up() {
        let (release, held) = crossbeam_channel::bounded(0);
        let (turn, turns) = crossbeam_channel::unbounded();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let out = Slow { turns, taken: taken.clone() };
        let mut queue = Queue::start(out, LogFormat::Text, None, held).unwrap();
        for line in ["first\n", "second\n"] {
            queue.write_all(line.as_bytes()).unwrap();
        }
        assert!(!queue.flush_within(Duration::ZERO), "the welcome is not out");
        drop(release);
        turn.send(()).unwrap();
        assert!(!queue.flush_within(Duration::from_millis(10)), "the second line has no reader");
        turn.send(()).unwrap();
        assert!(queue.flush_within(Duration::from_secs(60)));
        assert_eq!(*taken.lock(), b"first\nsecond\n");
    }

    #[test]
    fn a_log_is_bounded_and_what_is_older_lies_beside_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, beside) = (scratch.path().join("relay.log"), scratch.path().join("relay.log.1"));
        let line = |at: u8| [vec![b'a' + at; (1 << 20) - 1], vec![b'\n']].concat();
        let held = |path: &Path| fs::read(path).unwrap();
        // An earlier relay has left the file half full.
        let half = FILE_BYTES_MAX as usize / 2;
        fs::write(&path, vec![b'.'; half]).unwrap();
        let out = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let (release, released) = crossbeam_channel::bounded(0);
        drop(release);
        let mut queue = Queue::start(out, LogFormat::Text, Some(path.clone()), released).unwrap();
        let mut log = |ats: std::ops::Range<u8>| {
            let lines: Vec<_> = ats.map(line).collect();
            lines.iter().for_each(|line| queue.write_all(line).unwrap());
            assert!(queue.flush_within(Duration::from_secs(60)));
            lines.concat()
        };
        let first = log(0..4);
        assert!(held(&path).len() as u64 == FILE_BYTES_MAX && !beside.exists(), "it may be full");
        let second = log(4..12);
        assert!(held(&beside)[half..] == first && held(&path) == second, "the line that had no room is counted");
        let third = log(12..13);
        assert!(held(&beside) == second && held(&path) == third);
    }

    #[test]
    fn what_is_lost_is_said_in_the_form_of_the_others() {
        for (format, said) in [(LogFormat::Text, "(3 log lines were lost"), (LogFormat::Json, "\"lost\":3")] {
            let (release, held) = crossbeam_channel::bounded(0);
            let (turn, turns) = crossbeam_channel::unbounded();
            let taken = Arc::new(Mutex::new(Vec::new()));
            let out = Slow { turns, taken: taken.clone() };
            let mut queue = Queue::start(out, format, None, held).unwrap();
            (0..QUEUE_MAX + 3).for_each(|_| queue.write_all(b"{}\n").unwrap());
            drop((release, turn));
            assert!(queue.flush_within(Duration::from_secs(60)));
            let taken = String::from_utf8(taken.lock().clone()).unwrap();
            let lines: Vec<_> = taken.lines().filter(|line| *line != "{}").collect();
            assert!(lines.len() == 1 && lines[0].contains(said), "{lines:?}");
            assert_eq!(taken.lines().count(), QUEUE_MAX + 1, "each in a line of its own");
        }
    }

    #[test]
    fn a_full_log_moves_beside_itself_and_through_no_link() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::write(at("relay.log"), "old\n").unwrap();
        make_room(&at("relay.log"));
        assert_eq!(fs::read_to_string(at("relay.log.1")).unwrap(), "old\n");
        assert_eq!(fs::read_to_string(at("relay.log")).unwrap(), "");
        fs::write(at("victim"), "mine").unwrap();
        std::os::unix::fs::symlink(at("victim"), at("other.log.1")).unwrap();
        std::os::unix::fs::symlink(at("victim"), at("third.log")).unwrap();
        fs::write(at("other.log"), "new\n").unwrap();
        make_room(&at("other.log"));
        make_room(&at("third.log"));
        assert_eq!(fs::read_to_string(at("victim")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(at("other.log")).unwrap(), "", "it has a bound all the same");
    }

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
