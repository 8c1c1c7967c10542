//! How much a slow peer may have before it that it has not read. Owns the reckoning for one connection, without a clock;
//! bytes and probes are moved by the worker.
//!
//! A peer's system takes far more than its program reads: megabytes, which are minutes for a slow one. Whatever is sent
//! behind them comes that late, an answer to its ping as well. So the kernel is given no more for a slow peer than it
//! reads in a few seconds. A peer tells what it has read by its answers to probes, which are sent between two frames,
//! one at a time. A peer is slow if the kernel, which holds little that it could not send, took long until it took
//! more; a peer that turns out to be quick is left alone again. A peer that does not answer in time is given more and
//! more until it is left alone as well: a late answer finds little before the peer, and a peer that never answers gets
//! everything. Should the answer come after all, more time is given to the next ones.
//!
//! Before any of that a new peer has shown nothing, and its system would take the megabytes at once. So it is
//! *unproved* once it has had [`UNPROVED_BYTES`]: it is given little more than that again until it answers. With each
//! answer that comes at once it is given twice as much, up to a bound, as TCP itself begins. A peer that answers late
//! is slow. What was read at once may have gone into a buffer of the program, which then reads nothing for long. So a
//! peer is quick, whether it was slow or new, when it has read [`QUICK_BYTES`] in one go. The answer of a peer that
//! sends much itself tells nothing, since it stands behind that. Such a new peer is left alone.

/// The least that may be before a peer.
const WINDOW_MIN: usize = 8 * 1024;
/// A peer that reads this much in [`Options::pace_ms`](super::Options::pace_ms) is not slow; the most that is before another.
const WINDOW_MAX: usize = 1024 * 1024;
/// The most that is before a peer that has not shown yet whether it is slow.
const UNPROVED_MAX: usize = 256 * 1024;
/// What a peer has to read no slower than that until it is quick. Python's `websockets` reads 16 messages ahead of its program.
const QUICK_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that a new peer is given before it is asked whether it reads.
pub(super) const UNPROVED_BYTES: u16 = 8 * 1024;
/// Stands for the bytes that a peer may be given before it is asked, where it is not asked: it has shown that it reads,
/// or is paced.
pub(super) const PROVED: u16 = u16::MAX - 1;
/// Its protocol has no probes, or not yet.
pub(super) const UNASKED: u16 = u16::MAX;

/// The part of [`Options::pace_ms`](super::Options::pace_ms) after which a peer is slow of whose bytes the kernel took no more.
const BLOCKED_PART: u64 = 8;
/// The part of it after which the answer of a new peer shows that it is slow.
const ANSWER_PART: u64 = 4;
/// The part of it in which nothing is measured.
const MEASURED_PART: u64 = 4;

/// Whether a peer is slow if the kernel took no more of its bytes for so long. None is where nothing is paced.
pub(super) fn is_slow(blocked_ms: u64, pace_ms: u64) -> bool {
    pace_ms > 0 && blocked_ms >= pace_ms / BLOCKED_PART
}

/// The reckoning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Bytes that may follow a probe before it is answered.
    window: usize,
    /// Bytes that may be given to the kernel now.
    allowed: usize,
    /// Bytes that were since the last probe.
    since: usize,
    /// Bytes between the probe that is out and the one before it.
    before: usize,
    /// Whether a probe is out, since when the last one was, and how long its answer is waited for.
    is_out: bool,
    probed_ms: u64,
    patience_ms: u64,
    /// When more is given without the answer, while a probe is out.
    waits_until_ms: u64,
    /// An answer did not come in time.
    is_late: bool,
    /// When this began to be measured, and what was read since.
    from_ms: Option<u64>,
    read: usize,
    /// The peer was given less than it might have.
    is_least: bool,
    /// Whether it reads slowly has not shown yet.
    is_unproved: bool,
    /// Since when it reads like a quick peer, and how much.
    quick_from_ms: u64,
    quick_read: usize,
}

impl Pace {
    /// A peer that has just been found slow.
    pub(super) fn new(patience_ms: u64) -> Self {
        Self {
            window: WINDOW_MIN,
            allowed: 0,
            since: 0,
            before: 0,
            is_out: false,
            probed_ms: 0,
            patience_ms,
            waits_until_ms: 0,
            is_late: false,
            from_ms: None,
            read: 0,
            is_least: false,
            is_unproved: false,
            quick_from_ms: 0,
            quick_read: 0,
        }
    }

    /// A new peer, which has been given so much.
    pub(super) fn unproved(given: usize, now_ms: u64, patience_ms: u64) -> Self {
        let window = WINDOW_MIN;
        Self {
            window,
            allowed: window.saturating_sub(given),
            since: given,
            is_unproved: true,
            quick_from_ms: now_ms,
            ..Self::new(patience_ms)
        }
    }

    /// Whether the peer has been found slow.
    pub(super) fn is_slow(&self) -> bool {
        !self.is_unproved
    }

    /// Whether a probe is to go ahead of what is written now, where so much waits. What trickles to a new peer proves
    /// nothing, and is not worth one each time.
    pub(super) fn wants_probe(&self, waits: usize) -> bool {
        let is_due = !self.is_unproved || self.since >= self.window / 2 || self.since + waits > self.window;
        is_due && !self.is_out
    }

    /// A probe goes out behind `ahead` bytes, its own among them.
    pub(super) fn probed(&mut self, ahead: usize, now_ms: u64) {
        self.probed_ms = now_ms;
        self.waits_until_ms = now_ms.saturating_add(self.patience_ms);
        self.before = self.since;
        self.since = 0;
        self.allowed = ahead.saturating_add(self.window);
        self.is_out = true;
    }

    /// The kernel may be given so much in any case.
    pub(super) fn lets(&mut self, bytes: usize) {
        self.allowed = self.allowed.max(bytes);
    }

    /// How much the kernel may be given.
    pub(super) fn allowed(&self) -> usize {
        self.allowed
    }

    /// It took so much of that.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.allowed = self.allowed.saturating_sub(bytes);
        self.since += bytes;
    }

    /// When the answer is late, if one is waited for.
    pub(super) fn late_ms(&self) -> Option<u64> {
        self.is_out.then_some(self.waits_until_ms)
    }

    /// The answer is late: the peer is given more without it, twice as much each time. True: it is left alone until the
    /// answer comes.
    pub(super) fn late(&mut self, now_ms: u64, pace_ms: u64) -> bool {
        self.is_late = true;
        self.is_unproved = false;
        if self.window >= WINDOW_MAX {
            self.waits_until_ms = u64::MAX;
            return true;
        }
        self.allowed = self.allowed.saturating_add(self.window);
        self.window *= 2;
        self.waits_until_ms = now_ms.saturating_add(pace_ms);
        false
    }

    /// A new peer has answered.
    fn answered_anew(&mut self, now_ms: u64, pace_ms: u64) {
        if now_ms.saturating_sub(self.probed_ms) > pace_ms / ANSWER_PART {
            (self.is_unproved, self.window) = (false, WINDOW_MIN);
            return;
        }
        if self.before >= self.window / 2 {
            self.window = (2 * self.window).min(UNPROVED_MAX);
        }
        self.allowed = self.window.saturating_sub(self.since);
    }

    /// The probe was answered; `is_busy`: behind much else that the peer sent. True: the peer is not slow, or it does not show.
    pub(super) fn answered(&mut self, is_busy: bool, now_ms: u64, pace_ms: u64) -> bool {
        if is_busy && self.is_unproved {
            return true;
        }
        if self.is_late {
            // What lies before the peer now is not known.
            *self = Self::new(now_ms.saturating_sub(self.probed_ms).saturating_mul(2));
            return false;
        }
        if !std::mem::take(&mut self.is_out) {
            return false;
        }
        if self.is_unproved {
            self.answered_anew(now_ms, pace_ms);
            return self.counts_as_quick(now_ms, pace_ms);
        }
        let Some(from_ms) = self.from_ms else {
            // What was before it until now is not known.
            self.from_ms = Some(now_ms);
            return false;
        };
        self.read += self.before;
        self.is_least |= self.before < self.window;
        // Programs read by leaps: into a buffer of their own until that is full, and then nothing for a while.
        let elapsed_ms = now_ms.saturating_sub(from_ms);
        if elapsed_ms < (pace_ms / MEASURED_PART).max(1) {
            return self.counts_as_quick(now_ms, pace_ms);
        }
        let reads = (self.read as u64).saturating_mul(pace_ms) / elapsed_ms;
        let reads = usize::try_from(reads).unwrap_or(usize::MAX);
        // A peer that was given less than it could read shows only the least that it reads.
        self.window = if self.is_least { self.window.max(reads) } else { reads.max(WINDOW_MIN) }.min(WINDOW_MAX);
        (self.from_ms, self.read, self.is_least) = (Some(now_ms), 0, false);
        self.counts_as_quick(now_ms, pace_ms)
    }

    /// Counts what was before the probe that has just been answered.
    fn counts_as_quick(&mut self, now_ms: u64, pace_ms: u64) -> bool {
        self.quick_read += self.before;
        let elapsed_ms = now_ms.saturating_sub(self.quick_from_ms);
        if elapsed_ms >= pace_ms && (self.quick_read as u64).saturating_mul(pace_ms) < WINDOW_MAX as u64 * elapsed_ms {
            (self.quick_from_ms, self.quick_read) = (now_ms, 0);
        }
        self.quick_read >= QUICK_BYTES
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A peer that reads so many bytes a second, `first` bytes that its system has taken already, and a sender that always
    /// has more. Gives the most that lay before the peer once those were read, and what was read after `s` seconds;
    /// `None`: it is not slow.
    fn drive(rate: u64, s: u64, first: usize) -> Option<(usize, usize)> {
        drive_from(Pace::new(20_000), rate, s, first)
    }

    fn drive_from(mut pace: Pace, rate: u64, s: u64, first: usize) -> Option<(usize, usize)> {
        const TICK_MS: u64 = 10;
        let (mut written, mut read) = (first, 0);
        let (mut probe_at, mut most) = (None, 0);
        for now_ms in (0..s * 1_000).step_by(TICK_MS as usize) {
            if pace.wants_probe(usize::MAX / 2) {
                probe_at = Some(written);
                pace.probed(0, now_ms);
            }
            written += pace.allowed();
            pace.wrote(pace.allowed());
            read = (read + (rate * TICK_MS / 1_000) as usize).min(written);
            if probe_at.is_some_and(|at| read >= at) && pace.answered(false, now_ms + TICK_MS, 2_000) {
                return None;
            }
            if !pace.is_slow() || now_ms > first as u64 * 1_000 / rate + 20_000 {
                most = most.max(written - read);
            }
        }
        Some((most, read))
    }

    #[test]
    fn what_lies_before_a_slow_peer_is_what_it_reads_in_some_seconds() {
        for rate in [5_000, 20_000, 60_000, 200_000] {
            let (most, read) = drive(rate, 300, 500_000).expect("slow");
            assert!(most as u64 <= (5 * rate).max(3 * WINDOW_MIN as u64), "{most} bytes at {rate}");
            assert!(read as u64 >= 299 * rate, "it never has to wait: {read} bytes at {rate}");
        }
    }

    #[test]
    fn a_new_peer_is_given_little_until_it_shows_that_it_reads() {
        let first = usize::from(UNPROVED_BYTES);
        let new = || Pace::unproved(first, 0, 20_000);
        for rate in [1_000, 2_000, 5_000, 20_000, 60_000, 200_000] {
            let (most, read) = drive_from(new(), rate, 300, first).expect("slow");
            assert!(most as u64 <= (5 * rate).max(2 * WINDOW_MIN as u64), "{most} bytes at {rate}");
            assert!(read as u64 >= 299 * rate, "it never has to wait: {read} bytes at {rate}");
        }
        assert_eq!(drive_from(new(), 20_000_000, 2, first), None, "one that is quick is left alone");
    }

    /// As Python's `websockets` does: 16 messages are read ahead of a program that takes 60 KB a second, and no more until
    /// four are left.
    #[test]
    fn a_program_that_reads_ahead_is_not_taken_for_a_quick_one() {
        const MESSAGE: usize = 60_000;
        let mut pace = Pace::unproved(usize::from(UNPROVED_BYTES), 0, 20_000);
        let (mut written, mut parsed, mut probes) = (usize::from(UNPROVED_BYTES), 0, Vec::new());
        let mut is_reading = true;
        for now_ms in (0..300_000).step_by(10) {
            let taken = (now_ms as usize / 1_000) * MESSAGE;
            is_reading = if is_reading { parsed < taken + 16 * MESSAGE } else { parsed <= taken + 4 * MESSAGE };
            if is_reading {
                parsed = written.min(taken + 16 * MESSAGE);
            }
            while let Some(at) = probes.pop_if(|at: &mut usize| *at <= parsed) {
                assert!(!pace.answered(false, now_ms, 2_000), "not quick: {at} at {now_ms} ms");
            }
            if pace.wants_probe(usize::MAX / 2) {
                probes.push(written);
                pace.probed(0, now_ms);
            }
            written += pace.allowed();
            pace.wrote(pace.allowed());
            // What is sent now is read after the next pause, not the one behind that.
            assert!(written - parsed <= 12 * MESSAGE, "{} bytes at {now_ms} ms", written - parsed);
        }
        assert!(parsed >= 290 * MESSAGE, "it never has to wait long: {parsed}");
    }

    #[test]
    fn a_new_peer_has_twice_as_much_before_it_only_where_it_had_what_it_might() {
        let mut pace = Pace::unproved(100, 0, 20_000);
        let window = WINDOW_MIN;
        assert!(!pace.wants_probe(window - 100) && pace.wants_probe(window - 99), "what it may not have unasked");
        let round = |pace: &mut Pace, bytes, ms| {
            pace.wrote(bytes);
            pace.probed(0, 0);
            pace.wrote(10);
            assert!(!pace.answered(false, ms, 2_000));
            (pace.window, pace.allowed())
        };
        assert_eq!(round(&mut pace, 1_000, 500), (window, window - 10), "it had little");
        assert_eq!(round(&mut pace, window / 2, 500), (2 * window, 2 * window - 10));
        assert_eq!(round(&mut pace, UNPROVED_MAX, 0).0, 4 * window);
        for _ in 0..10 {
            round(&mut pace, UNPROVED_MAX / 2, 0);
        }
        assert_eq!(pace.window, UNPROVED_MAX);
        assert_eq!(round(&mut pace, 1, 501).0, WINDOW_MIN, "slow");
    }

    #[test]
    fn no_more_is_before_a_slow_peer_than_one_that_is_quick_would_read() {
        let (mut pace, mut now_ms) = (Pace::new(20_000), 0);
        round(&mut pace, 0, &mut now_ms, 0);
        // Three megabytes in a leap: too little to be quick.
        assert!(!round(&mut pace, 3 << 20, &mut now_ms, 500));
        assert_eq!(pace.window, WINDOW_MAX);
    }

    #[test]
    fn what_trickles_to_a_new_peer_proves_nothing_and_is_not_asked_about_each_time() {
        let (mut pace, mut asked) = (Pace::unproved(0, 0, 20_000), 0);
        for now_ms in (0..3_600_000).step_by(100) {
            if pace.wants_probe(100) {
                asked += 1;
                pace.probed(0, now_ms);
                assert!(!pace.answered(false, now_ms + 50, 2_000), "it is not known to read faster");
            }
            assert!(pace.allowed() >= 100 && !pace.is_slow() && pace.late_ms().is_none());
            pace.wrote(100);
        }
        assert!(
            (1..=36_000 * 100 / WINDOW_MIN + 1).contains(&asked),
            "{asked} times for each half of what it may have"
        );
    }

    #[test]
    fn a_new_peer_that_does_not_answer_is_slow_and_then_left_alone() {
        let mut pace = Pace::unproved(0, 0, 20_000);
        pace.probed(0, 1_000);
        assert_eq!(pace.late_ms(), Some(21_000));
        assert!(!pace.late(21_000, 2_000) && pace.is_slow());
        assert!((0..7).any(|_| pace.late(23_000, 2_000)), "left alone");
    }

    #[test]
    fn a_peer_is_slow_after_an_eighth_of_the_pace_and_never_without_one() {
        assert!(is_slow(250, 2_000) && !is_slow(249, 2_000));
        assert!(!is_slow(0, 0) && !is_slow(u64::MAX, 0));
    }

    #[test]
    fn a_quick_peer_is_left_alone() {
        for rate in [2_000_000, 100_000_000] {
            assert_eq!(drive(rate, 60, 500_000), None, "{rate}");
        }
    }

    /// So many bytes lie between a probe, which goes out `ms` after the answer to the last one, and that one. Its own
    /// answer comes as it goes out. Gives whether the peer is quick.
    fn round(pace: &mut Pace, bytes: usize, now_ms: &mut u64, ms: u64) -> bool {
        *now_ms += ms;
        pace.wrote(bytes);
        pace.probed(0, *now_ms);
        pace.answered(false, *now_ms, 2_000)
    }

    #[test]
    fn a_peer_that_is_given_little_is_not_held_to_it() {
        let (mut pace, mut now_ms) = (Pace::new(20_000), 0);
        assert!(!round(&mut pace, 0, &mut now_ms, 0));
        // It reads all that it may have, and may have more.
        assert!(!round(&mut pace, WINDOW_MIN, &mut now_ms, 500));
        assert_eq!(pace.window, 4 * WINDOW_MIN);
        // There is little for it. That it reads no more says nothing of what it could read.
        for _ in 0..10 {
            assert!(!round(&mut pace, 100, &mut now_ms, 1_000));
            assert_eq!(pace.window, 4 * WINDOW_MIN);
        }
        // What it has read beyond that shows all the same.
        assert!(!round(&mut pace, 4 * WINDOW_MIN - 1, &mut now_ms, 1_000));
        assert_eq!(pace.window, 8 * WINDOW_MIN - 2);
        // Where it has had all that it might, it is held to what it reads.
        assert!(!round(&mut pace, 8 * WINDOW_MIN - 2, &mut now_ms, 4_000));
        assert_eq!(pace.window, 4 * WINDOW_MIN - 1);
        assert!(!pace.answered(false, now_ms + 1_000, 2_000), "none is out");
    }

    #[test]
    fn an_answer_is_waited_for_as_long_as_it_may_take() {
        let mut pace = Pace::new(20_000);
        assert_eq!(pace.late_ms(), None);
        pace.probed(0, 1_000);
        assert_eq!(pace.late_ms(), Some(21_000));
        pace.late(21_000, 2_000);
        assert!(!pace.answered(false, 101_000, 2_000));
        assert!(pace.wants_probe(0));
        pace.probed(0, 101_000);
        assert_eq!(pace.late_ms(), Some(301_000), "it took 100 s");
    }

    #[test]
    fn a_peer_that_does_not_answer_is_given_more_and_more_and_then_everything() {
        let mut pace = Pace::new(20_000);
        pace.probed(0, 0);
        pace.wrote(WINDOW_MIN);
        for step in 0..7 {
            let at_ms = 20_000 + step * 2_000;
            assert_eq!((pace.allowed(), pace.late_ms()), (0, Some(at_ms)));
            assert!(!pace.late(at_ms, 2_000));
            assert_eq!(pace.allowed(), WINDOW_MIN << step);
            pace.wrote(pace.allowed());
        }
        assert!(pace.late(34_000, 2_000), "left alone");
        assert_eq!(pace.late_ms(), Some(u64::MAX));
    }
}
