//! AMP over WebSocket: agents on `/amp/v1/ws`, one CBOR message a binary frame. The messages are the core's own
//! ([`delivery`](crate::relay::delivery)); this is how they come and go.

use std::sync::Arc;

use super::{Arrival, Dialect, Incoming, Upgrade};
use crate::{
    base::{CloseCode, ConnToken, Fault},
    relay::{
        delivery::{Agent, Delivery, Net},
        keys::KeySet,
        message::MESSAGE_MAX,
    },
    wire::{
        amp::{PATH, RELAY_DID_HEADER, SIZE_HEADER, SUBPROTOCOL},
        http::{Head, Response},
    },
};

impl<N: Net> Dialect<N> for Agent {
    type State = ();

    const PATH: &'static str = PATH;

    fn request(
        head: &Head<'_>,
        arrival: Arrival,
        (): &mut (),
        delivery: &mut Delivery<N::Shared>,
    ) -> Result<Upgrade<Self>, Response> {
        if !head.wants_upgrade() {
            let line = "/amp/v1/ws speaks WebSocket, subprotocol amp.v1";
            return Err(Response::upgrade_required(line));
        }
        if !head.subprotocols().any(|name| name == SUBPROTOCOL) {
            return Err(Response::text(400, "the upgrade must offer the subprotocol amp.v1"));
        }
        let did = delivery.greeting().did.to_string();
        let headers = vec![(RELAY_DID_HEADER, did), (SIZE_HEADER, MESSAGE_MAX.to_string())];
        let conn = Self::new(arrival.peer, arrival.is_local, arrival.now);
        Ok(Upgrade { conn, subprotocol: SUBPROTOCOL, headers })
    }

    fn opened(&mut self, (): &mut (), delivery: &mut Delivery<N::Shared>, net: &mut N) {
        delivery.opened(self, net);
    }

    #[inline]
    fn message(
        &mut self,
        (): &mut (),
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
        message: Incoming<'_>,
        current: N::Current<'_>,
    ) -> Result<(), Fault> {
        let Incoming::Binary(frame) = message else {
            return Err(Fault::new(CloseCode::UNSUPPORTED, "AMP is CBOR in binary messages"));
        };
        delivery.message(self, net, frame, current);
        Ok(())
    }

    fn timeout(&mut self, (): &mut (), delivery: &mut Delivery<N::Shared>, net: &mut N) {
        delivery.timeout(self, net);
    }

    fn writable(&mut self, (): &mut (), delivery: &mut Delivery<N::Shared>, net: &mut N) {
        delivery.writable(net);
    }

    fn closed(self, (): &mut (), delivery: &mut Delivery<N::Shared>, token: ConnToken) {
        delivery.closed(&self, token);
    }

    fn keys_changed((): &mut (), delivery: &mut Delivery<N::Shared>, net: &mut N, peer: ConnToken, keys: &Arc<KeySet>) {
        delivery.keys_changed(peer, keys, net);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::Now,
        relay::delivery::{Greeting, Parts, Services, test_net::TestNet},
    };

    #[test]
    fn a_connection_that_says_no_hello_is_closed_in_time() {
        let parts = Parts {
            greeting: Greeting { did: "did:key:z6Mk".into(), started_ms: 0 },
            services: Services::default(),
            verifies_all: false,
            workers: 1,
            secret: 1,
        };
        let (peer, now) = (ConnToken::new(0, 1, 1), Now::default());
        let (mut delivery, mut net) = (Delivery::new(&parts, 0, Arc::default()), TestNet::<()>::new(0, now));
        let mut agent = Agent::new(peer, false, now);
        net.open(peer);
        net.current = peer;
        Dialect::opened(&mut agent, &mut (), &mut delivery, &mut net);
        let conn = net.conn(peer);
        assert!(conn.message_max.is_some_and(|most| most < MESSAGE_MAX as u32), "a stranger is given little");
        net.now.mono_ms = conn.timeout_at.expect("a time limit");
        Dialect::timeout(&mut agent, &mut (), &mut delivery, &mut net);
        assert_eq!(net.conn(peer).closed, Some(CloseCode::POLICY));
    }
}
