//! Counters of a worker: numbers that one thread writes and any thread reads. Owns no policy.

use crate::base::{Close, Counter};

/// Kinds of close that are counted apart; [`close_kind`] names them.
pub const CLOSE_KINDS: usize = 8;
/// Buckets of the turn histogram: bucket `i` counts turns of `2^i <= ns < 2^(i+1)`, the last one everything longer.
pub const TURN_BUCKETS: usize = 32;

/// The index and the label of a kind of close.
pub fn close_kind(close: &Close) -> (usize, &'static str) {
    let index = match close {
        Close::Peer(_) => 0,
        Close::Broken => 1,
        Close::Fault(_) => 2,
        Close::Local(_) => 3,
        Close::TimedOut => 4,
        Close::TooSlow => 5,
        Close::Drain => 6,
        Close::Panicked => 7,
    };
    (index, CLOSE_LABELS[index])
}

/// Labels of the kinds of close, in their order.
pub const CLOSE_LABELS: [&str; CLOSE_KINDS] =
    ["peer", "broken", "fault", "local", "timed_out", "too_slow", "drain", "panicked"];

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one worker, on cache lines of their own. They count from the worker's beginning and never go
        /// back, but for the levels: `open`, `provisional`, `queue_bytes` and `kept_bytes`, which are as of the end of its
        /// last turn.
        #[derive(Debug, Default)]
        #[non_exhaustive]
        #[repr(align(128))]
        pub struct WorkerCounters {
            $($(#[$doc])* pub $name: Counter,)*
            /// Connections closed, by kind (see [`CLOSE_LABELS`]).
            pub closed: [Counter; CLOSE_KINDS],
            /// Turns by their time outside of the poll (see [`TURN_BUCKETS`]).
            pub turn_ns: [Counter; TURN_BUCKETS],
        }

        /// What the counters of a worker, or of several together, said.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Connections closed, by kind (see [`CLOSE_LABELS`]).
            pub closed: [u64; CLOSE_KINDS],
            /// Turns by their time outside of the poll (see [`TURN_BUCKETS`]).
            pub turn_ns: [u64; TURN_BUCKETS],
        }

        impl WorkerCounters {
            /// Reads all of them. Each number is right; together they are not one moment.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot {
                    $($name: self.$name.get(),)*
                    closed: std::array::from_fn(|i| self.closed[i].get()),
                    turn_ns: std::array::from_fn(|i| self.turn_ns[i].get()),
                }
            }
        }

        impl Snapshot {
            /// Adds another worker's numbers.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                for (mine, theirs) in self.closed.iter_mut().zip(other.closed) {
                    *mine += theirs;
                }
                for (mine, theirs) in self.turn_ns.iter_mut().zip(other.turn_ns) {
                    *mine += theirs;
                }
            }

            /// The scalar numbers with their names, for an exposition.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Connections refused: by the protocol, or for want of room.
    refused,
    /// Provisional connections that gave way to new ones.
    displaced,
    /// Times that accepting stopped because there was no room.
    accept_stops,
    /// Connections that are provisional now.
    provisional,
    /// Connections open now (those that only finish closing included).
    open,
    /// Times that accepting paused because descriptors or memory ran out.
    accept_pauses,
    /// Bytes read.
    bytes_in,
    /// Bytes the kernel took.
    bytes_out,
    /// Read calls.
    reads,
    /// Write calls.
    writes,
    /// Frames received. These four are counted by the protocol, as far as it has such a thing: [`ws`](super::ws) does.
    frames_in,
    /// Frames sent.
    frames_out,
    /// Messages received.
    messages_in,
    /// Messages sent.
    messages_out,
    /// Bytes that wait in send queues now.
    queue_bytes,
    /// Bytes of incomplete messages that connections hold now.
    kept_bytes,
    /// Events for connections that were gone.
    stale_events,
    /// Sends, look-ups, timeouts and closes for tokens of connections that were gone, or of another worker.
    stale_mail,
    /// Panics in callbacks, the one that ended the worker included.
    panics,
    /// Mail that found the inbox full or its worker gone.
    inbox_full,
    /// Mail taken from the inbox.
    mail,
    /// Turns of the loop that came to their end.
    turns,
    /// Wakes that senders of mail paid for.
    wakes,
    /// Nanoseconds spent outside of the poll.
    busy_ns,
    /// Seconds in which the worker was busy for at least 95 of 100 parts: it is at its limit.
    saturated_s,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_adds_up() {
        let counters = WorkerCounters::default();
        counters.reads.add(2);
        counters.closed[close_kind(&Close::TooSlow).0].add(1);
        counters.turn_ns[3].add(4);
        let mut sum = counters.snapshot();
        sum.add(&counters.snapshot());
        assert_eq!((sum.reads, sum.closed[5], sum.turn_ns[3]), (4, 2, 8));
        assert!(sum.fields().any(|field| field == ("reads", 4)));
        assert_eq!(close_kind(&Close::TooSlow).1, "too_slow");
    }
}
