//! The threads that wake the one which owns all state: lines, a connection's messages, signals that stop the program.

use std::{
    io,
    io::BufRead as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use signal_hook::{
    consts::{SIGCONT, SIGTSTP, SIGWINCH},
    flag,
    iterator::Signals,
};

use super::{Net, Wake};
use crate::{
    base::text::BYTE_ORDER_MARK,
    client::{Connection, Ended, Identity, KnownRelays, Options, Received, Target},
};

/// Lines of a pipe that are read ahead.
const LINES_MAX: usize = 64;

/// Reads lines as long as there is credit: each line takes one, and gives it back when it was carried out.
pub(super) fn read_lines(to: SyncSender<Wake>) -> Result<Receiver<()>, String> {
    let (credit, used) = sync_channel(LINES_MAX);
    let reading = move || {
        let mut input = io::stdin().lock();
        let (mut line, mut is_first) = (Vec::new(), true);
        loop {
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 => {
                    let mark = if std::mem::take(&mut is_first) { BYTE_ORDER_MARK } else { "" };
                    let line =
                        String::from_utf8_lossy(line.strip_prefix(mark.as_bytes()).unwrap_or(&line)).into_owned();
                    if credit.send(()).is_err() || to.send(Wake::Line(line)).is_err() {
                        return;
                    }
                }
                _ => break,
            }
        }
        let _ = to.send(Wake::LinesEnd);
    };
    thread::Builder::new().name("lines".into()).spawn(reading).map_err(|error| error.to_string())?;
    Ok(used)
}

/// Reads a connection to its end.
pub(super) fn read_messages(mut connection: Connection, number: u64, to: &SyncSender<Wake>) {
    loop {
        let received =
            connection.receive(None).unwrap_or_else(|error| Received::Ended(Ended::Broken(error.to_string())));
        let last = matches!(received, Received::Ended(_));
        if to.send(Wake::Net(number, Net::Received(received))).is_err() || last {
            return;
        }
    }
}

/// Connects without a person to ask: the relay was accepted at the first connection. An error says whether another
/// try may help.
pub(super) fn connect_again(
    target: &Target,
    identity: &Identity,
    options: &Options,
    known: PathBuf,
) -> Result<(Connection, String), (String, bool)> {
    let mut pins = KnownRelays::load(known).map_err(|error| (error.to_string(), false))?;
    match Connection::connect(target, identity, options, &mut pins) {
        Ok((connection, welcome)) => Ok((connection, welcome.device)),
        Err(error) => Err((error.to_string(), error.is_passing())),
    }
}

/// Tells of signals that stop the program, as a shell's `kill -TSTP`, of those by which it goes on, and of a terminal's
/// new size. `hidden` is set at
/// once when it goes on, before a key of after that can be read: what was on the screen has not been in view.
pub(super) fn watch_stops(to: SyncSender<Wake>, hidden: Arc<AtomicBool>) -> io::Result<()> {
    flag::register(SIGCONT, hidden)?;
    let mut signals = Signals::new([SIGTSTP, SIGCONT, SIGWINCH])?;
    let watching = move || {
        loop {
            let came: Vec<_> = signals.wait().collect();
            // With both signals the program goes on, as the system has it.
            let moved = if came.contains(&SIGCONT) {
                Some(Wake::Continued)
            } else {
                came.contains(&SIGTSTP).then_some(Wake::Stop)
            };
            let resized = came.contains(&SIGWINCH).then_some(Wake::Resized);
            if [moved, resized].into_iter().flatten().any(|wake| to.send(wake).is_err()) {
                return;
            }
        }
    };
    thread::Builder::new().name("stops".into()).spawn(watching).map(drop)
}
