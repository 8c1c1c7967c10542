//! What of the words of one CLI is put into the log: a process that says much does not push out what the relay says of
//! keys, limits and other sessions.

use std::collections::HashMap;

use crate::relay::api::Text;

/// Bytes that a process may put into the log at once: it says much as it starts or fails.
const BURST_BYTES: u64 = 64 * 1024;
/// In how long it may say as much again: 1.5 MB a day, a tenth of what the log file and the one before it keep.
const REFILL_MS: u64 = 60 * 60 * 1000;
/// What a record holds besides the words, about.
const RECORD_BYTES: u64 = 100;

/// The room that the processes of one session have left.
#[derive(Debug)]
pub(super) struct LogShare {
    room: u64,
    at_ms: u64,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is logged. Before it so many were left out.
    Logged { left_out: u64 },
    /// It is left out. `first`: the one before was not.
    LeftOut { first: bool },
}

impl LogShare {
    fn new(now_ms: u64) -> Self {
        Self { room: BURST_BYTES, at_ms: now_ms, left_out: 0 }
    }

    /// Logs what a CLI says, unless its session has no room.
    pub(super) fn log(&mut self, session: &str, line: &str, now_ms: u64) {
        match self.take(line.len(), now_ms) {
            Verdict::Logged { left_out } => {
                told(session, left_out);
                log::info!(session, line; "the CLI says");
            }
            Verdict::LeftOut { first: true } => {
                log::warn!(session; "the CLI says more than the log keeps of one session")
            }
            Verdict::LeftOut { first: false } => {}
        }
    }

    /// Logs how many lines were left out, if any were: the CLI has ended.
    pub(super) fn log_left_out(&mut self, session: &str) {
        told(session, std::mem::take(&mut self.left_out));
    }

    /// Judges a line of so many bytes. Once lines are left out, all are until a quarter of the room is back: what is then
    /// said hangs together.
    fn take(&mut self, bytes: usize, now_ms: u64) -> Verdict {
        self.refill(now_ms);
        let cost = bytes as u64 + RECORD_BYTES;
        if cost > self.room || self.left_out > 0 && self.room < BURST_BYTES / 4 {
            self.left_out += 1;
            return Verdict::LeftOut { first: self.left_out == 1 };
        }
        self.room -= cost;
        Verdict::Logged { left_out: std::mem::take(&mut self.left_out) }
    }

    fn refill(&mut self, now_ms: u64) {
        let refill = now_ms.saturating_sub(self.at_ms).saturating_mul(BURST_BYTES) / REFILL_MS;
        if refill > 0 {
            (self.room, self.at_ms) = (self.room.saturating_add(refill).min(BURST_BYTES), now_ms);
        }
    }
}

fn told(session: &str, left_out: u64) {
    if left_out > 0 {
        log::warn!(session, lines = left_out; "the CLI has said more, which is not logged");
    }
}

/// The room of sessions without a process: the next one goes on with it, so that a CLI that ends again and again has no
/// more.
#[derive(Debug, Default)]
pub(super) struct LogShares(HashMap<Text, LogShare>);

impl LogShares {
    pub(super) fn take(&mut self, session: &Text, now_ms: u64) -> LogShare {
        self.0.remove(session).unwrap_or_else(|| LogShare::new(now_ms))
    }

    /// Keeps the room of a session, and forgets those that have all of it again.
    pub(super) fn put(&mut self, session: Text, share: LogShare, now_ms: u64) {
        self.0.insert(session, share);
        self.0.retain(|_, share| {
            share.refill(now_ms);
            share.room < BURST_BYTES
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says lines of `bytes` each millisecond from `from_ms` on. Gives the bytes that were logged and what was said of others.
    fn floods(share: &mut LogShare, bytes: usize, from_ms: u64, count: u64) -> (u64, u64, u64) {
        let (mut logged, mut begun, mut left_out) = (0, 0, 0);
        for now_ms in from_ms..from_ms + count {
            match share.take(bytes, now_ms) {
                Verdict::Logged { left_out: before } => {
                    logged += bytes as u64 + RECORD_BYTES;
                    left_out += before;
                }
                Verdict::LeftOut { first } => begun += u64::from(first),
            }
        }
        (logged, begun, left_out)
    }

    #[test]
    fn a_flood_of_any_lines_puts_no_more_into_the_log_than_its_share() {
        for bytes in [0, 1, 500, 16 * 1024] {
            let mut share = LogShare::new(7);
            let (logged, begun, left_out) = floods(&mut share, bytes, 7, 4 * REFILL_MS / 3);
            assert!((BURST_BYTES * 3 / 2..=BURST_BYTES * 7 / 3).contains(&logged), "{bytes}: {logged}");
            // It is said that lines are left out, and how many were, a few times only.
            assert!((1..=8).contains(&begun), "{bytes}: {begun}");
            let records = logged / (bytes as u64 + RECORD_BYTES);
            assert_eq!(records + left_out + share.left_out, 4 * REFILL_MS / 3, "{bytes}");
        }
    }

    #[test]
    fn what_a_process_says_now_and_then_is_all_logged() {
        let mut share = LogShare::new(0);
        for minute in 0..600 {
            assert_eq!(share.take(500, minute * 60_000), Verdict::Logged { left_out: 0 });
        }
    }

    #[test]
    fn a_process_that_follows_has_what_the_one_before_has_left_and_rested_sessions_are_forgotten() {
        let mut shares = LogShares::default();
        let session: Text = "a".into();
        let mut share = shares.take(&session, 0);
        floods(&mut share, 100, 0, 1_000);
        let room = share.room;
        shares.put(session.clone(), share, 1_000);
        let again = shares.take(&session, 1_000);
        assert!(again.room <= room + BURST_BYTES / 1_000 && again.left_out > 0, "{again:?}");
        shares.put(session.clone(), again, 1_000);
        shares.put("b".into(), LogShare::new(REFILL_MS + 2_000), REFILL_MS + 2_000);
        assert!(shares.0.is_empty(), "{shares:?}");
    }
}
