//! What the core asks of the connections of one worker. The loop implements it over sockets, the simulation over queues.

use super::agent::Agent;
use crate::{
    base::{CloseCode, ConnToken, Now, Sent},
    relay::message::Shared,
};

/// The connections of one worker. Tokens name open connections; for all others sends say [`Sent::Closed`], and what would
/// change something does nothing. Generic, not `dyn`: forwarding costs no call.
pub trait Net {
    /// A message that several connections may get.
    type Shared: Shared;
    /// The message that is being handled, where it was read.
    type Current<'a>: Copy;

    /// This worker's index.
    fn worker(&self) -> u16;
    /// The time of this turn.
    fn now(&self) -> Now;
    /// The current connection: its message or timeout is being handled.
    fn current(&self) -> ConnToken;
    /// The state of an agent's connection. `None` for the current one: the caller holds its state.
    fn agent(&mut self, token: ConnToken) -> Option<&mut Agent>;

    /// Sends the message that is being handled on, without a copy where its transport can, if the receiver's state (`None`
    /// for the current connection) says that it can go as it is. `None`: the receiver says no, and nothing was done.
    fn forward_if(
        &mut self,
        token: ConnToken,
        current: Self::Current<'_>,
        wanted: impl FnOnce(Option<&Agent>) -> bool,
    ) -> Option<Sent>;
    /// Sends a message that was encoded before.
    fn send_shared(&mut self, token: ConnToken, message: &Self::Shared) -> Sent;
    /// Sends a copy of a message.
    fn send(&mut self, token: ConnToken, message: &[u8]) -> Sent;

    /// Whether the connection is open.
    fn is_open(&mut self, token: ConnToken) -> bool;
    /// Whether what it is sent waits: the kernel has refused bytes of its queue, or one turn has put very much into it.
    fn is_blocked(&self, token: ConnToken) -> bool;
    /// Bytes that it has taken since something waits for it.
    fn taken(&self, token: ConnToken) -> u64;
    /// Reads nothing more of it.
    fn pause(&mut self, token: ConnToken);
    /// Reads it again.
    fn resume(&mut self, token: ConnToken);
    /// Closes it behind what it was sent.
    fn close(&mut self, token: ConnToken, code: CloseCode, reason: &str);
    /// It has proved a key and may stay. False: there is no room.
    fn confirm(&mut self, token: ConnToken) -> bool;
    /// A proof of it is being checked: another stranger gives way first.
    fn spare(&mut self, token: ConnToken);
    /// Sets its one timeout to so many milliseconds from now, or to never.
    fn set_timeout(&mut self, token: ConnToken, after_ms: Option<u64>);
    /// Bounds its messages.
    fn limit_messages(&mut self, token: ConnToken, bytes_max: u32);
    /// Unpredictable bytes for the ids of messages; `None` where the system gives none.
    fn random(&mut self) -> Option<[u8; 8]>;
}
