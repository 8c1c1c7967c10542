//! The way of a message from one agent to others: what is handed over on this worker, and what comes from another.

use std::collections::HashSet;

use super::{AgentConn, Parcel, nobody};
use crate::{
    base::ConnToken,
    dialect::amp::Refused,
    reactor::{
        Sent,
        ws::{Data, Framed},
    },
    relay::{
        api::Text,
        directory::{Payload, Route, ServiceId, Why},
    },
    server::{
        metrics::WorkerTallies,
        worker::{Conn, Io, Worker},
    },
    wire::amp::{Code, Dialect, EnvelopeView, Frame, check::Refusal, did_base, parse, rekey},
};

impl Worker {
    /// Hands a message to each of its recipients.
    pub(super) fn amp_route(
        &mut self,
        agent: &mut AgentConn,
        io: &mut Io<'_>,
        view: &EnvelopeView<'_>,
        data: Data<'_>,
    ) {
        let mut parcel: Option<Parcel> = None;
        let (mut for_us, mut sessions, mut absent) = (false, Vec::new(), false);
        let several = view.header.to.is_array();
        // Who is named twice gets it once: connections of this worker have marks, names that lead elsewhere are kept.
        let mut named: HashSet<&str> = HashSet::new();
        if several {
            self.agents.marks.next();
        }
        let mut high = Vec::new();
        for to in view.header.to.iter() {
            let again = self.agents.directory.route_again(to);
            let did = if again.is_some() { to } else { did_base(to) };
            match again.map_or_else(|| self.agents.directory.route(did), Route::Local) {
                Route::Local(tokens) => {
                    let mut handed = false;
                    for &token in tokens {
                        if several && !self.agents.marks.mark(token) {
                            handed = true;
                            continue;
                        }
                        let sent = forward(io, token, agent, view, data, &mut self.agents.scratch, &self.tallies);
                        handed |= sent != Sent::Closed;
                        if sent == Sent::High && io.is_blocked(token) {
                            high.push(token);
                        }
                    }
                    absent |= !handed;
                }
                _ if several && !named.insert(did) => {}
                // Nobody can prove our names, so that they are never found here.
                _ if self.agents.greeting.names().named(did).is_some() => for_us = true,
                Route::Service(ServiceId(number)) => sessions.push(number),
                Route::Elsewhere(key) => {
                    let owned = parcel.get_or_insert_with(|| Parcel {
                        framed: Framed::binary(view.frame),
                        dialect: view.dialect,
                        sender: io.token(),
                    });
                    self.agents.directory.send(key, did, Some(io.token()), owned.clone());
                }
                Route::Absent => absent = true,
            }
        }
        let peer = io.token();
        for receiver in high {
            self.agents.hold(receiver, peer, io);
        }
        let refuse = |worker: &mut Self, io: &mut Io<'_>, did: &Text, refusal| {
            if view.header.typ.may_be_refused_aloud() {
                worker.refuse(did, agent.connection.dialect(), peer, io, Refused::of(view, refusal));
            }
        };
        if !absent && !for_us && sessions.is_empty() {
            return;
        }
        let did = self.agents.greeting.did.clone();
        if absent {
            refuse(self, io, &did, nobody(Why::Absent));
        }
        if for_us && let Err(refusal) = self.amp_serve(peer, agent.connection.dialect(), io, view) {
            refuse(self, io, &did, refusal);
        }
        for number in sessions {
            let Some((session, did)) = self.agents.sessions.get(&number).cloned() else { continue };
            if let Err(refusal) = self.amp_ask(agent, peer, view, &session, &did) {
                self.refuse(&did, agent.connection.dialect(), peer, io, Refused::of(view, refusal));
            }
        }
    }

    /// Hands a message that came from elsewhere to a connection of this worker. `Closed`: it was not handed over, and
    /// nobody has been told.
    pub(super) fn amp_deliver(&mut self, token: ConnToken, parcel: &Parcel, io: &mut Io<'_>) -> Sent {
        // The current connection is not to be had here: it may only be the one that spoke, and it sends what it reads.
        let dialect = match io.conn(token) {
            Some(Conn::Agent(agent)) => agent.connection.dialect(),
            _ => parcel.dialect,
        };
        self.tallies.amp_out.add(1);
        let sent = if dialect == parcel.dialect {
            io.framed_to(token, &parcel.framed)
        } else {
            if !rekeyed(parcel.framed.payload(), dialect, &mut self.agents.scratch) {
                self.amp_unsayable(parcel, io);
                return Sent::Queued;
            }
            io.binary_to(token, &self.agents.scratch)
        };
        if sent == Sent::Closed {
            self.agents.directory.leave(token);
        }
        sent
    }

    /// A receiver's key dialect cannot say a message: its sender learns that it was not delivered.
    fn amp_unsayable(&mut self, parcel: &Parcel, io: &mut Io<'_>) {
        if let Some((dialect, refused)) = parcel.ticket().map(|ticket| *ticket) {
            let did = self.agents.greeting.did.clone();
            let refusal =
                Refusal::new(Code::RELAY_REJECTED, "integer keys, which the receiver writes, cannot say this");
            self.refuse(&did, dialect, parcel.sender, io, Refused { refusal, ..refused });
        }
    }
}

/// Hands the message that is being handled to a connection of this worker, from the buffer it was read into. `Closed`:
/// it was not handed over.
fn forward(
    io: &mut Io<'_>,
    token: ConnToken,
    sender: &AgentConn,
    view: &EnvelopeView<'_>,
    data: Data<'_>,
    scratch: &mut Vec<u8>,
    tallies: &WorkerTallies,
) -> Sent {
    let dialect = match io.conn(token) {
        Some(Conn::Agent(agent)) => agent.connection.dialect(),
        _ => sender.connection.dialect(),
    };
    let sent = if dialect == view.dialect {
        io.forward_to(token, data)
    } else {
        scratch.clear();
        match rekey(view, dialect, scratch) {
            Ok(()) => io.binary_to(token, scratch),
            Err(_) => return Sent::Closed,
        }
    };
    tallies.amp_out.add(u64::from(sent != Sent::Closed));
    sent
}

fn rekeyed(frame: &[u8], dialect: Dialect, out: &mut Vec<u8>) -> bool {
    out.clear();
    matches!(parse(frame), Ok(Frame::Envelope(view)) if rekey(&view, dialect, out).is_ok())
}
