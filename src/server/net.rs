//! The core's view of a worker's connections: WebSockets of the loop.

use super::{
    QUEUE_BURST,
    worker::{Io, dialects::Conn},
};
use crate::{
    base::{CloseCode, ConnToken, Now, Sent},
    dialect::session::{Device, DeviceNet},
    reactor::ws::{Data, Framed},
    relay::{
        delivery::{Agent, Net},
        message::Shared,
    },
    wire::sign_in::Nonce,
};

impl Shared for Framed {
    fn of(message: &[u8]) -> Self {
        Self::binary(message)
    }

    fn message(&self) -> &[u8] {
        self.payload()
    }

    fn size(&self) -> usize {
        self.wire_len()
    }
}

impl Net for Io<'_> {
    type Shared = Framed;
    type Current<'a> = Data<'a>;

    #[inline]
    fn worker(&self) -> u16 {
        self.worker()
    }

    #[inline]
    fn now(&self) -> Now {
        self.now()
    }

    #[inline]
    fn current(&self) -> ConnToken {
        self.token()
    }

    #[inline]
    fn agent(&mut self, token: ConnToken) -> Option<&mut Agent> {
        match self.conn(token)? {
            Conn::Agent(agent) => Some(agent),
            _ => None,
        }
    }

    // Once for each message: a call of its own would cost as much as a tenth of what is left of the way.
    #[inline(always)]
    fn forward_if(
        &mut self,
        token: ConnToken,
        current: Data<'_>,
        wanted: impl FnOnce(Option<&Agent>) -> bool,
    ) -> Option<Sent> {
        self.forward_if(token, current, |receiver| match receiver {
            Some(Conn::Agent(agent)) => wanted(Some(agent)),
            _ => wanted(None),
        })
    }

    #[inline]
    fn send_shared(&mut self, token: ConnToken, message: &Framed) -> Sent {
        self.framed_to(token, message)
    }

    #[inline]
    fn send(&mut self, token: ConnToken, message: &[u8]) -> Sent {
        self.binary_to(token, message)
    }

    fn is_open(&mut self, token: ConnToken) -> bool {
        self.is_open(token)
    }

    #[inline]
    fn is_blocked(&self, token: ConnToken) -> bool {
        self.is_blocked_or_above(token, QUEUE_BURST)
    }

    fn taken(&self, token: ConnToken) -> u64 {
        self.taken(token)
    }

    fn pause(&mut self, token: ConnToken) {
        self.pause(token);
    }

    fn resume(&mut self, token: ConnToken) {
        self.resume(token);
    }

    fn close(&mut self, token: ConnToken, code: CloseCode, reason: &str) {
        self.close(token, code, reason);
    }

    fn confirm(&mut self, token: ConnToken) -> bool {
        self.confirm(token)
    }

    fn spare(&mut self, token: ConnToken) {
        self.spare(token);
    }

    fn set_timeout(&mut self, token: ConnToken, after_ms: Option<u64>) {
        self.set_timeout(token, after_ms);
    }

    fn limit_messages(&mut self, token: ConnToken, bytes_max: u32) {
        self.limit_messages(token, bytes_max);
    }

    fn random(&mut self) -> Option<[u8; 8]> {
        super::random()
    }
}

impl DeviceNet for Io<'_> {
    fn device(&mut self, token: ConnToken) -> Option<&mut Device> {
        match self.conn(token)? {
            Conn::Device(device) => Some(device),
            _ => None,
        }
    }

    fn send_text(&mut self, token: ConnToken, text: &str) -> Sent {
        self.text_to(token, text)
    }

    fn share_text(text: &str) -> Framed {
        Framed::text(text)
    }

    fn is_unproved(&self, token: ConnToken) -> bool {
        self.is_unproved(token)
    }

    fn queued(&self, token: ConnToken) -> usize {
        self.queued(token)
    }

    fn nonce() -> Option<[u8; Nonce::BYTES]> {
        super::random()
    }
}
