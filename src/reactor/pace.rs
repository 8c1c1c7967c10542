//! How much a slow peer may have before it that it has not read. Owns the reckoning for one connection, without a clock;
//! bytes and probes are moved by the worker.
//!
//! A peer's system takes far more than its program reads: megabytes, which are minutes for a slow one, and whatever is
//! sent behind them comes that late, an answer to its ping as well. So the kernel is given no more for a slow peer than it
//! reads in a few seconds. What it has read it tells by its answers to probes, which are sent between two frames, one at a
//! time. A peer is slow if the kernel, which holds little that it could not send, took long until it took more; one that
//! turns out to be quick is left alone again. One that does not answer in time is given more and more until it is left alone
//! as well: an answer that is merely late finds little before the peer, and a peer that never answers gets everything.
//! Should the answer come after all, more time is given to the next ones.

/// The least that may be before a peer.
const WINDOW_MIN: usize = 32 * 1024;
/// A peer that reads this much in [`Options::pace_ms`](super::Options::pace_ms) is not slow.
const WINDOW_MAX: usize = 1024 * 1024;

/// An answer is waited for so many times [`Options::pace_ms`](super::Options::pace_ms).
const PATIENCE: u64 = 12;

/// Whether a peer is slow for which the kernel took no more for so long. None is where nothing is paced.
pub(super) fn is_slow(blocked_ms: u64, pace_ms: u64) -> bool {
    pace_ms > 0 && blocked_ms >= pace_ms / 8
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
}

impl Pace {
    /// A peer that has just been found slow.
    pub(super) fn new(pace_ms: u64) -> Self {
        Self::with_patience(pace_ms.saturating_mul(PATIENCE))
    }

    fn with_patience(patience_ms: u64) -> Self {
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
        }
    }

    /// Whether a probe is to go ahead of what is written now.
    pub(super) fn wants_probe(&self) -> bool {
        !self.is_out
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
        if self.window >= WINDOW_MAX {
            self.waits_until_ms = u64::MAX;
            return true;
        }
        self.allowed = self.allowed.saturating_add(self.window);
        self.window *= 2;
        self.waits_until_ms = now_ms.saturating_add(pace_ms);
        false
    }

    /// The probe was answered. True: the peer is not slow.
    pub(super) fn answered(&mut self, now_ms: u64, pace_ms: u64) -> bool {
        if self.is_late {
            // What lies before the peer now is not known.
            *self = Self::with_patience(now_ms.saturating_sub(self.probed_ms).saturating_mul(2));
            return false;
        }
        if !std::mem::take(&mut self.is_out) {
            return false;
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
        if elapsed_ms < (pace_ms / 4).max(1) {
            return false;
        }
        let reads = (self.read as u64).saturating_mul(pace_ms) / elapsed_ms;
        let reads = usize::try_from(reads).unwrap_or(usize::MAX);
        // A peer that was given less than it could read shows only the least that it reads.
        self.window = if self.is_least { self.window.max(reads) } else { reads.max(WINDOW_MIN) };
        (self.from_ms, self.read, self.is_least) = (Some(now_ms), 0, false);
        self.window >= WINDOW_MAX
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A peer that reads so many bytes a second, `first` bytes that its system has taken already, and a sender that always
    /// has more. Gives the most that lay before the peer once those were read, and what was read after `s` seconds;
    /// `None`: it is not slow.
    fn drive(rate: u64, s: u64, first: usize) -> Option<(usize, usize)> {
        const TICK_MS: u64 = 10;
        let mut pace = Pace::new(2_000);
        let (mut written, mut read) = (first, 0);
        let (mut probe_at, mut most) = (None, 0);
        for now_ms in (0..s * 1_000).step_by(TICK_MS as usize) {
            if pace.wants_probe() {
                probe_at = Some(written);
                pace.probed(0, now_ms);
            }
            written += pace.allowed();
            pace.wrote(pace.allowed());
            read = (read + (rate * TICK_MS / 1_000) as usize).min(written);
            if probe_at.is_some_and(|at| read >= at) && pace.answered(now_ms + TICK_MS, 2_000) {
                return None;
            }
            if now_ms > first as u64 * 1_000 / rate + 20_000 {
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
        pace.answered(*now_ms, 2_000)
    }

    #[test]
    fn a_peer_that_is_given_little_is_not_held_to_it() {
        let (mut pace, mut now_ms) = (Pace::new(2_000), 0);
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
        assert!(!pace.answered(now_ms + 1_000, 2_000), "none is out");
    }

    #[test]
    fn an_answer_is_waited_for_as_long_as_it_may_take() {
        let mut pace = Pace::new(2_000);
        assert_eq!(pace.late_ms(), None);
        pace.probed(0, 1_000);
        assert_eq!(pace.late_ms(), Some(25_000));
        pace.late(25_000, 2_000);
        assert!(!pace.answered(101_000, 2_000));
        assert!(pace.wants_probe());
        pace.probed(0, 101_000);
        assert_eq!(pace.late_ms(), Some(301_000), "it took 100 s");
    }

    #[test]
    fn a_peer_that_does_not_answer_is_given_more_and_more_and_then_everything() {
        let mut pace = Pace::new(2_000);
        pace.probed(0, 0);
        pace.wrote(WINDOW_MIN);
        for step in 0..5 {
            let at_ms = 24_000 + step * 2_000;
            assert_eq!((pace.allowed(), pace.late_ms()), (0, Some(at_ms)));
            assert!(!pace.late(at_ms, 2_000));
            assert_eq!(pace.allowed(), WINDOW_MIN << step);
            pace.wrote(pace.allowed());
        }
        assert!(pace.late(34_000, 2_000), "left alone");
        assert_eq!(pace.late_ms(), Some(u64::MAX));
    }
}
