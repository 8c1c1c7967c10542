//! The connections of one simulated worker: queues instead of sockets, with the loop's marks and its rules.

use std::collections::{BTreeMap, VecDeque};

use amp_relay::{
    base::{CloseCode, ConnToken, Now, Sent},
    dialect::session::{Device, DeviceNet},
    relay::{
        delivery::{Agent, Net},
        message::Shared,
    },
    wire::sign_in::Nonce,
};

use crate::rng::Rng;

/// Marks of a send queue, in bytes.
const HIGH: usize = 600;
const LOW: usize = 200;
const MAX: usize = 40_000;

/// A message that several connections may get.
#[derive(Clone, Debug)]
pub(super) struct Bytes(std::sync::Arc<[u8]>);

impl Shared for Bytes {
    fn of(message: &[u8]) -> Self {
        Self(message.into())
    }

    fn message(&self) -> &[u8] {
        &self.0
    }

    fn size(&self) -> usize {
        self.0.len()
    }
}

/// One connection.
pub(super) struct Conn {
    /// `None` while it is the current one, and for a device.
    pub(super) agent: Option<Agent>,
    /// `None` while it is the current one, and for an agent.
    pub(super) device: Option<Box<Device>>,
    /// What the client has sent and the relay has not read.
    pub(super) inbound: VecDeque<Vec<u8>>,
    /// What the client has not taken.
    pub(super) outbound: VecDeque<Vec<u8>>,
    queued: usize,
    taken: u64,
    is_high: bool,
    /// The client takes nothing: the kernel's buffers are full.
    pub(super) is_deaf: bool,
    pub(super) is_paused: bool,
    pub(super) is_confirmed: bool,
    pub(super) timeout_at: Option<u64>,
    /// The relay has closed it, behind what waits.
    pub(super) closed: Option<(CloseCode, String)>,
}

impl Conn {
    /// The client takes one message. True: the queue has drained, which the relay learns.
    pub(super) fn take(&mut self, message: &mut Option<Vec<u8>>) -> bool {
        *message = self.outbound.pop_front();
        let bytes = message.as_ref().map_or(0, Vec::len);
        self.queued -= bytes;
        self.taken += bytes as u64;
        let has_drained = self.is_high && self.queued <= LOW;
        self.is_high &= !has_drained;
        has_drained
    }
}

/// The connections of one worker.
pub(super) struct SimNet {
    pub(super) worker: u16,
    pub(super) now: Now,
    pub(super) current: ConnToken,
    pub(super) conns: BTreeMap<ConnToken, Conn>,
    /// What was handed to which connection, in order.
    pub(super) handed: Vec<(ConnToken, Vec<u8>)>,
    /// Connections whose queue passed its maximum.
    pub(super) too_slow: Vec<ConnToken>,
    /// Places for those who have proved a key.
    pub(super) room: usize,
    rng: Rng,
}

impl SimNet {
    pub(super) fn new(worker: u16, now: Now, room: usize, seed: u64) -> Self {
        let (conns, handed, too_slow) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { worker, now, current: Self::nobody(), conns, handed, too_slow, room, rng: Rng(seed) }
    }

    /// No connection: while mail is handled.
    pub(super) fn nobody() -> ConnToken {
        ConnToken::new(0, 0, 0)
    }

    pub(super) fn open(&mut self, token: ConnToken, agent: Option<Agent>) {
        let conn = Conn {
            agent,
            device: None,
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            queued: 0,
            taken: 0,
            is_high: false,
            is_deaf: false,
            is_paused: false,
            is_confirmed: false,
            timeout_at: None,
            closed: None,
        };
        assert!(self.conns.insert(token, conn).is_none(), "a token is given once");
    }

    fn queue(&mut self, token: ConnToken, message: &[u8]) -> Sent {
        let Some(conn) = self.conns.get_mut(&token).filter(|conn| conn.closed.is_none()) else { return Sent::Closed };
        if conn.queued + message.len() > MAX {
            conn.closed = Some((CloseCode::TRY_AGAIN, "too slow".into()));
            self.too_slow.push(token);
            return Sent::Closed;
        }
        conn.queued += message.len();
        conn.outbound.push_back(message.to_vec());
        self.handed.push((token, message.to_vec()));
        conn.is_high |= conn.queued > HIGH;
        if conn.queued > HIGH { Sent::High } else { Sent::Queued }
    }
}

impl Net for SimNet {
    type Shared = Bytes;
    type Current<'a> = &'a [u8];

    fn worker(&self) -> u16 {
        self.worker
    }

    fn now(&self) -> Now {
        self.now
    }

    fn current(&self) -> ConnToken {
        self.current
    }

    fn agent(&mut self, token: ConnToken) -> Option<&mut Agent> {
        self.conns.get_mut(&token).filter(|conn| conn.closed.is_none())?.agent.as_mut()
    }

    fn forward_if(
        &mut self,
        token: ConnToken,
        current: &[u8],
        wanted: impl FnOnce(Option<&Agent>) -> bool,
    ) -> Option<Sent> {
        let Some(conn) = self.conns.get(&token).filter(|conn| conn.closed.is_none()) else { return Some(Sent::Closed) };
        wanted(conn.agent.as_ref()).then(|| self.queue(token, current))
    }

    fn send_shared(&mut self, token: ConnToken, message: &Bytes) -> Sent {
        self.queue(token, message.message())
    }

    fn send(&mut self, token: ConnToken, message: &[u8]) -> Sent {
        self.queue(token, message)
    }

    fn is_open(&mut self, token: ConnToken) -> bool {
        self.conns.get(&token).is_some_and(|conn| conn.closed.is_none())
    }

    fn is_blocked(&self, token: ConnToken) -> bool {
        self.conns.get(&token).is_some_and(|conn| conn.is_deaf && conn.queued > 0)
    }

    fn taken(&self, token: ConnToken) -> u64 {
        self.conns.get(&token).map_or(0, |conn| conn.taken)
    }

    fn pause(&mut self, token: ConnToken) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.is_paused = true;
        }
    }

    fn resume(&mut self, token: ConnToken) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.is_paused = false;
        }
    }

    fn close(&mut self, token: ConnToken, code: CloseCode, reason: &str) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.closed.get_or_insert((code, reason.into()));
        }
    }

    fn confirm(&mut self, token: ConnToken) -> bool {
        let confirmed = self.conns.values().filter(|conn| conn.is_confirmed).count();
        let Some(conn) = self.conns.get_mut(&token).filter(|_| confirmed < self.room) else { return false };
        conn.is_confirmed = true;
        true
    }

    fn spare(&mut self, _: ConnToken) {}

    fn set_timeout(&mut self, token: ConnToken, after_ms: Option<u64>) {
        let now = self.now.mono_ms;
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.timeout_at = after_ms.map(|after| now + after);
        }
    }

    fn limit_messages(&mut self, _: ConnToken, _: u32) {}

    fn random(&mut self) -> Option<[u8; 8]> {
        Some(self.rng.next().to_ne_bytes())
    }
}

impl DeviceNet for SimNet {
    fn device(&mut self, token: ConnToken) -> Option<&mut Device> {
        self.conns.get_mut(&token).filter(|conn| conn.closed.is_none())?.device.as_deref_mut()
    }

    fn send_text(&mut self, token: ConnToken, text: &str) -> Sent {
        self.queue(token, text.as_bytes())
    }

    fn share_text(text: &str) -> Bytes {
        Bytes::of(text.as_bytes())
    }

    /// Never: what new peers are given is reckoned by the loop.
    fn is_unproved(&self, _: ConnToken) -> bool {
        false
    }

    fn queued(&self, token: ConnToken) -> usize {
        self.conns.get(&token).map_or(0, |conn| conn.queued)
    }

    fn nonce() -> Option<[u8; Nonce::BYTES]> {
        Some([7; Nonce::BYTES])
    }
}
