//! What is known of a connection, bit by bit.

/// Facts about a connection, as bits. All sixteen are taken: the next fact needs a `u32`, or a place in
/// [`Rare`](super::connections::Rare) if few connections have it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags(u16);

impl Flags {
    /// On the ready list.
    pub(super) const READY: u16 = 1 << 0;
    /// On the list of touched queues.
    pub(super) const TOUCHED: u16 = 1 << 1;
    /// The protocol wants no input.
    pub(super) const PAUSED: u16 = 1 << 2;
    /// Kept bytes are to be delivered even if nothing new comes.
    pub(super) const RESUMED: u16 = 1 << 3;
    /// The kernel takes no more bytes.
    pub(super) const BLOCKED: u16 = 1 << 4;
    /// The peer has shut its side: read to the end of file.
    pub(super) const HUP: u16 = 1 << 5;
    /// The end of file was read.
    pub(super) const EOF: u16 = 1 << 6;
    /// The queue was above its high mark and has not been reported drained.
    pub(super) const HIGH: u16 = 1 << 7;
    /// A close was asked for.
    pub(super) const CLOSING: u16 = 1 << 8;
    /// The protocol was told; only flushing and lingering is left.
    pub(super) const CLOSED: u16 = 1 << 9;
    /// Our side is shut.
    pub(super) const SHUT: u16 = 1 << 10;
    /// No byte can be read or written any more.
    pub(super) const DEAD: u16 = 1 << 11;
    /// The kernel takes bytes again after it had refused some: the peer reads.
    pub(super) const MOVED: u16 = 1 << 12;
    /// It has not shown yet that it may stay.
    pub(super) const PROVISIONAL: u16 = 1 << 13;
    /// It does not give way when its turn comes the next time.
    pub(super) const SPARED: u16 = 1 << 14;
    /// Its peer is new or slow: [`Rare::pace`](super::connections::Rare::pace) says how much the kernel is given, or that is
    /// counted yet.
    pub(super) const PACED: u16 = 1 << 15;

    pub(super) fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    pub(super) fn set(&mut self, bits: u16) {
        self.0 |= bits;
    }

    /// Sets the bits; true if they were not all set before.
    pub(super) fn newly(&mut self, bits: u16) -> bool {
        let newly = self.0 & bits != bits;
        self.0 |= bits;
        newly
    }

    pub(super) fn clear(&mut self, bits: u16) {
        self.0 &= !bits;
    }

    /// Clears the bits; true if any of them was set.
    pub(super) fn take(&mut self, bits: u16) -> bool {
        let had = self.has(bits);
        self.clear(bits);
        had
    }
}
