//! The connections of one worker as tests of the core see them: what was asked for each is taken down, and what its
//! transport says is what the test says.

use std::collections::BTreeMap;

use super::{Agent, Net};
use crate::{
    base::{CloseCode, ConnToken, Now, Sent},
    relay::message::{Shared, tests::Bytes},
};

/// One connection. `D` is the state of those that are no agents.
pub(crate) struct Conn<D> {
    /// `None` while it is the current one.
    pub(crate) agent: Option<Agent>,
    /// The same.
    pub(crate) other: Option<D>,
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) message_max: Option<u32>,
    pub(crate) timeout_at: Option<u64>,
    pub(crate) closed: Option<CloseCode>,
    pub(crate) is_paused: bool,
    pub(crate) is_spared: bool,
    pub(crate) is_confirmed: bool,
    /// What its transport says: it is above its mark, takes nothing, has shown nothing yet, and so much waits.
    pub(crate) is_high: bool,
    pub(crate) is_blocked: bool,
    pub(crate) is_unproved: bool,
    pub(crate) queued: usize,
}

/// The connections.
pub(crate) struct TestNet<D> {
    worker: u16,
    pub(crate) now: Now,
    pub(crate) current: ConnToken,
    pub(crate) conns: BTreeMap<ConnToken, Conn<D>>,
    /// There is a place for one more that may stay.
    pub(crate) has_room: bool,
}

impl<D> TestNet<D> {
    pub(crate) fn new(worker: u16, now: Now) -> Self {
        Self { worker, now, current: ConnToken::new(worker, 0, 0), conns: BTreeMap::new(), has_room: true }
    }

    pub(crate) fn open(&mut self, token: ConnToken) -> &mut Conn<D> {
        self.conns.entry(token).or_insert_with(|| Conn {
            agent: None,
            other: None,
            sent: Vec::new(),
            message_max: None,
            timeout_at: None,
            closed: None,
            is_paused: false,
            is_spared: false,
            is_confirmed: false,
            is_high: false,
            is_blocked: false,
            is_unproved: false,
            queued: 0,
        })
    }

    pub(crate) fn conn(&mut self, token: ConnToken) -> &mut Conn<D> {
        self.conns.get_mut(&token).expect("a connection")
    }

    /// One that was not closed.
    fn live(&mut self, token: ConnToken) -> Option<&mut Conn<D>> {
        self.conns.get_mut(&token).filter(|conn| conn.closed.is_none())
    }

    pub(crate) fn other(&mut self, token: ConnToken) -> Option<&mut D> {
        self.live(token)?.other.as_mut()
    }
}

impl<D> Net for TestNet<D> {
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
        self.live(token)?.agent.as_mut()
    }

    fn forward_if(
        &mut self,
        token: ConnToken,
        current: &[u8],
        wanted: impl FnOnce(Option<&Agent>) -> bool,
    ) -> Option<Sent> {
        let Some(conn) = self.live(token) else { return Some(Sent::Closed) };
        wanted(conn.agent.as_ref()).then(|| self.send(token, current))
    }

    fn send_shared(&mut self, token: ConnToken, message: &Bytes) -> Sent {
        self.send(token, message.message())
    }

    fn send(&mut self, token: ConnToken, message: &[u8]) -> Sent {
        let Some(conn) = self.live(token) else { return Sent::Closed };
        conn.sent.push(message.to_vec());
        if conn.is_high { Sent::High } else { Sent::Queued }
    }

    fn is_open(&mut self, token: ConnToken) -> bool {
        self.live(token).is_some()
    }

    fn is_blocked(&self, token: ConnToken) -> bool {
        self.conns.get(&token).is_some_and(|conn| conn.is_blocked)
    }

    fn taken(&self, _: ConnToken) -> u64 {
        0
    }

    fn pause(&mut self, token: ConnToken) {
        if let Some(conn) = self.live(token) {
            conn.is_paused = true;
        }
    }

    fn resume(&mut self, token: ConnToken) {
        if let Some(conn) = self.live(token) {
            conn.is_paused = false;
        }
    }

    fn close(&mut self, token: ConnToken, code: CloseCode, _: &str) {
        if let Some(conn) = self.live(token) {
            conn.closed = Some(code);
        }
    }

    fn confirm(&mut self, token: ConnToken) -> bool {
        let has_room = self.has_room;
        self.live(token).is_some_and(|conn| {
            conn.is_confirmed = has_room;
            has_room
        })
    }

    fn spare(&mut self, token: ConnToken) {
        if let Some(conn) = self.live(token) {
            conn.is_spared = true;
        }
    }

    fn set_timeout(&mut self, token: ConnToken, after_ms: Option<u64>) {
        let now_ms = self.now.mono_ms;
        if let Some(conn) = self.live(token) {
            conn.timeout_at = after_ms.map(|after| now_ms + after);
        }
    }

    fn limit_messages(&mut self, token: ConnToken, bytes_max: u32) {
        if let Some(conn) = self.live(token) {
            conn.message_max = Some(bytes_max);
        }
    }

    fn random(&mut self) -> Option<[u8; 8]> {
        Some([7; 8])
    }
}
