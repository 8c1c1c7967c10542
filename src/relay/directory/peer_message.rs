//! What workers tell each other about DIDs, and the queue of it towards one worker. Decides nothing.

use std::collections::VecDeque;

use super::{Payload, Tokens, Why, name::Did};
use crate::base::ConnToken;

/// A worker is behind where so much is left for it when it takes no more; it has caught up at a quarter of that.
const BEHIND_BYTES: usize = 256 * 1024;

/// A word from one worker's directory to another's. Its content is the directory's own affair: the shell carries it,
/// in order for each pair of workers.
#[derive(Debug)]
pub struct PeerMessage<M: Payload>(pub(super) DirectoryMsg<M>);

/// A message on its way to the receivers of its DID.
#[derive(Debug)]
pub(super) struct InFlight<M> {
    /// The sender, which is told of a failure.
    pub(super) sender: Option<ConnToken>,
    pub(super) payload: M,
}

#[derive(Debug)]
pub(super) enum DirectoryMsg<M: Payload> {
    /// To the owner: a message.
    Data { did: Did, hops: u8, parcel: InFlight<M> },
    /// From the owner: a message for the receiving worker's connections of the DID.
    Copy { did: Did, payload: M },
    /// To the sender's worker: it was not handed over.
    Answer { did: Did, sender: ConnToken, return_address: M::ReturnAddress, why: Why },

    /// To the home: a connection came.
    Join { did: Did, token: ConnToken },
    /// To the home: a connection went.
    Leave { did: Did, token: ConnToken },
    /// From the home: the connection is not wanted.
    Refuse { did: Did, token: ConnToken, why: Why },
    /// From the home, to the next owner: take over.
    Grant { did: Did, epoch: u64, from: u16, members: Tokens },
    /// From the next owner, to every worker: send to me from now on.
    Move { did: Did, epoch: u64, from: u16, to: u16 },
    /// From every worker, to the former owner: you get nothing more from me.
    Fence { did: Did, epoch: u64, to: u16 },
    /// From the former owner to those it sent copies: tell the next owner when you have them.
    Drain { did: Did, epoch: u64, to: u16 },
    /// To the next owner: the former owner's copies are here.
    Drained { did: Did, epoch: u64 },
    /// From the former to the next owner: what could not be handed over, and how many `Drained` will come.
    Handover { did: Did, epoch: u64, parked: VecDeque<InFlight<M>>, drains: u16 },
    /// From the next owner, to the home: taken over.
    Done { did: Did },
    /// From the home, to the owner: the connections there are.
    Members { did: Did, members: Tokens },
    /// From the owner, to a connection's worker: it gets everything from now on.
    Confirm { did: Did, token: ConnToken },
    /// From the home, to every worker: how many connections there are, without the one that has left.
    Count { did: Did, connections: u32, left: Option<ConnToken> },
}

impl<M: Payload> DirectoryMsg<M> {
    /// Bytes it holds for a peer.
    fn size(&self) -> usize {
        match self {
            Self::Data { parcel, .. } => parcel.payload.size(),
            Self::Copy { payload, .. } => payload.size(),
            Self::Handover { parked, .. } => parked.iter().map(|parcel| parcel.payload.size()).sum(),
            _ => 0,
        }
    }
}

impl<M: Payload> PeerMessage<M> {
    /// Bytes it holds for a peer.
    pub fn size(&self) -> usize {
        self.0.size()
    }
}

/// What waits to be carried to one worker.
pub(super) struct Outbox<M: Payload> {
    queue: VecDeque<PeerMessage<M>>,
    bytes: usize,
    /// The worker takes less than it is sent: senders wait until it has caught up.
    is_behind: bool,
}

impl<M: Payload> Outbox<M> {
    pub(super) fn new() -> Self {
        Self { queue: VecDeque::new(), bytes: 0, is_behind: false }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, word: DirectoryMsg<M>) {
        self.bytes += word.size();
        self.queue.push_back(PeerMessage(word));
    }

    /// Takes up to `max` words from the front, and none behind the one with which they have `bytes_max` bytes.
    pub(super) fn take(&mut self, max: usize, bytes_max: usize) -> Vec<PeerMessage<M>> {
        let (mut len, mut bytes) = (0, 0);
        for message in self.queue.iter().take(max) {
            len += 1;
            bytes += message.size();
            if bytes >= bytes_max {
                break;
            }
        }
        self.bytes -= bytes;
        self.queue.drain(..len).collect()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// All was carried that the worker takes now. True: it was behind, and has caught up.
    pub(super) fn carried(&mut self) -> bool {
        let has_caught_up = self.is_behind && self.bytes <= BEHIND_BYTES / 4;
        self.is_behind = self.bytes > BEHIND_BYTES || self.is_behind && !has_caught_up;
        has_caught_up
    }

    /// Puts a batch that was taken back in front.
    pub(super) fn give_back(&mut self, batch: Vec<PeerMessage<M>>) {
        for message in batch.into_iter().rev() {
            self.bytes += message.0.size();
            self.queue.push_front(message);
        }
    }
}
