//! What the relay itself answers: PING, and the actions of its services.

use super::{Delivery, Net, new_id, services::Call};
use crate::{
    base::ConnToken,
    relay::{
        Role,
        api::{Text, Verb},
        message::{self, Reply, ReplyTo, Shared},
    },
    wire::{
        amp::{
            Code, EnvelopeView, KeyEncoding, Type,
            check::{Refusal, unambiguous},
            did_base,
        },
        cbor::{self, text_of},
    },
};

impl<S: Shared> Delivery<S> {
    /// A message for the relay itself, from a peer of this role.
    pub(super) fn serve<N: Net<Shared = S>>(
        &mut self,
        role: Role,
        peer: ConnToken,
        key_encoding: KeyEncoding,
        net: &mut N,
        view: &EnvelopeView<'_>,
    ) -> Result<(), Refusal> {
        if !matches!(view.header.typ, Type::PING | Type::REQUEST) {
            // Nothing of ours waits for these.
            return Ok(());
        }
        // What cannot be answered has no effect either.
        message::thread(view)?;
        let from = self.greeting.did.clone();
        let answer = match view.header.typ {
            Type::PING => pong(),
            _ => (Type::RESPONSE, self.call(role, net, view)?),
        };
        self.reply(from, peer, key_encoding, net, view, answer)
    }

    /// Has the relay, or a session of it, answer a message.
    pub(super) fn reply<N: Net<Shared = S>>(
        &mut self,
        from: Text,
        peer: ConnToken,
        key_encoding: KeyEncoding,
        net: &mut N,
        view: &EnvelopeView<'_>,
        (typ, body): (Type, Vec<u8>),
    ) -> Result<(), Refusal> {
        let thread_id = message::thread(view)?;
        let (Some(id), Some(to)) = (new_id(net), message::sender(view.header.from)) else { return Ok(()) };
        let (via, reply_to) = (ReplyTo::Connection(peer), Some(view.header.id));
        let reply = Reply { via, from, to: to.into(), typ, id, reply_to, thread_id, body, key_encoding, close: None };
        self.say(reply, net);
        Ok(())
    }

    fn call<N: Net<Shared = S>>(&self, role: Role, net: &N, view: &EnvelopeView<'_>) -> Result<Vec<u8>, Refusal> {
        let encrypted = Refusal::new(Code::BAD_REQUEST, "the relay cannot read an encrypted REQUEST");
        let body = view.body_or_null().ok_or(encrypted)?;
        unambiguous(body)?;
        let nameless = Refusal::new(Code::BAD_REQUEST, "a REQUEST to the relay is a map with `action`, a text");
        let action = text_of(body, "action").ok_or(nameless)?;
        if action == "agents" {
            return Ok(self.agents(Verb::List.is_open_to(role)));
        }
        let from = did_base(view.header.from);
        self.services.call(action, &Call { from, body, now_ms: net.now().unix_ms })
    }

    /// The agents that are connected, and the sessions where the requester may see them.
    fn agents(&self, sees_sessions: bool) -> Vec<u8> {
        let mut agents: Vec<(&str, u32, bool)> = self
            .directory
            .agents()
            .filter(|agent| agent.connections > 0 || (sees_sessions && agent.service.is_some()))
            .map(|agent| (agent.did, agent.connections, agent.service.is_some()))
            .collect();
        agents.sort_unstable();
        let mut body = Vec::new();
        cbor::map(&mut body, 1);
        cbor::text(&mut body, "agents");
        cbor::array(&mut body, agents.len());
        for (did, connections, session) in agents {
            cbor::map(&mut body, 3);
            cbor::text(&mut body, "did");
            cbor::text(&mut body, did);
            cbor::text(&mut body, "session");
            cbor::boolean(&mut body, session);
            cbor::text(&mut body, "connections");
            cbor::uint(&mut body, u64::from(connections));
        }
        body
    }
}

/// The answer to a PING.
pub(super) fn pong() -> (Type, Vec<u8>) {
    (Type::PONG, cbor::NULL.to_vec())
}
