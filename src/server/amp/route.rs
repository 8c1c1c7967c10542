//! The way of a message from one agent to others: what is handed over on this worker, and what comes from another.

use std::{collections::HashSet, sync::LazyLock};

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
        MESSAGE_MAX,
        metrics::WorkerTallies,
        worker::{Conn, Io, Worker},
    },
    wire::amp::{Code, Dialect, EnvelopeView, Frame, NotExpressible, To, check::Refusal, did_base, parse, rekey},
};

/// Why a receiver's kind of keys cannot say a message.
type Unsayable = &'static str;

/// What is left to do for a message when it was handed to all the connections that could be handed it.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Some name leads to nobody.
    pub(super) absent: bool,
    /// The relay itself is one.
    pub(super) for_us: bool,
    /// Why a recipient that is there was not handed it, if one was not.
    pub(super) unsayable: Option<Unsayable>,
    /// Sessions, by number.
    pub(super) sessions: Vec<u32>,
}

impl Rest {
    fn is_nothing(&self) -> bool {
        !self.absent && !self.for_us && self.unsayable.is_none() && self.sessions.is_empty()
    }
}

impl Worker {
    /// Hands a message to each of its recipients.
    pub(super) fn amp_route(
        &mut self,
        agent: &mut AgentConn,
        io: &mut Io<'_>,
        view: &EnvelopeView<'_>,
        data: Data<'_>,
    ) {
        if self.amp_route_again(agent, io, view, data) {
            return;
        }
        let mut parcel: Option<Parcel> = None;
        let mut rest = Rest::default();
        let several = view.header.to.is_array();
        // Who is named twice gets it once: connections of this worker have marks, names that lead elsewhere are kept.
        let mut named = several.then(HashSet::new);
        if several {
            self.agents.marks.next();
        }
        let mut high = Vec::new();
        // Whether what follows can go the same way.
        let mut streams = false;
        for to in view.header.to.iter() {
            let did = did_base(to);
            match self.agents.directory.route(did) {
                Route::Local(tokens) => {
                    let (mut handed, mut unsayable) = (false, None);
                    for &token in tokens {
                        if several && !self.agents.marks.mark(token) {
                            handed = true;
                            continue;
                        }
                        match forward(io, token, agent, view, data, &mut self.agents.scratch, &self.tallies) {
                            Ok(sent) => {
                                handed |= sent != Sent::Closed;
                                if sent == Sent::High && io.is_blocked(token) {
                                    high.push(token);
                                }
                            }
                            Err(why) => unsayable = Some(why),
                        }
                    }
                    rest.absent |= !handed && unsayable.is_none();
                    rest.unsayable = rest.unsayable.or(unsayable);
                    streams = handed && tokens.len() == 1;
                }
                _ if named.as_mut().is_some_and(|named| !named.insert(did)) => {}
                // Nobody can prove our names, so that they are never found here.
                _ if self.agents.greeting.names().named(did).is_some() => rest.for_us = true,
                Route::Service(ServiceId(number)) => rest.sessions.push(number),
                Route::Elsewhere(key) => {
                    let owned = parcel.get_or_insert_with(|| Parcel {
                        framed: Framed::binary(view.frame),
                        dialect: view.dialect,
                        sender: io.token(),
                    });
                    self.agents.directory.send(key, did, Some(io.token()), owned.clone());
                    streams = true;
                }
                Route::Absent => rest.absent = true,
            }
        }
        if streams && !several {
            self.amp_learn(io.token(), view);
        }
        let peer = io.token();
        for receiver in high {
            self.agents.hold(receiver, peer, io);
        }
        if !rest.is_nothing() {
            let dialect = agent.connection.dialect();
            self.amp_rest(Some(agent), peer, dialect, rest, view, io);
        }
    }

    /// Hands a message to the one connection that is its recipient, if that is where the one before went, as most do.
    #[inline]
    fn amp_route_again(&mut self, agent: &AgentConn, io: &mut Io<'_>, view: &EnvelopeView<'_>, data: Data<'_>) -> bool {
        let To::One(did) = view.header.to else { return false };
        let Some(&[token]) = self.agents.directory.route_again(did) else { return false };
        let sent = forward(io, token, agent, view, data, &mut self.agents.scratch, &self.tallies);
        // Nothing went to a connection that closes or cannot be told: the whole way says what becomes of the message.
        let Ok(sent @ (Sent::Queued | Sent::High)) = sent else { return false };
        if sent == Sent::High {
            self.agents.hold(token, io.token(), io);
        }
        self.amp_learn(io.token(), view);
        true
    }

    /// What is left of a message when it was handed to all connections: the relay's own part, its sessions', and a word
    /// to the sender where nobody is there. `agent` is the sender's state where the caller has it in hands.
    pub(super) fn amp_rest(
        &mut self,
        mut agent: Option<&mut AgentConn>,
        peer: ConnToken,
        dialect: Dialect,
        rest: Rest,
        view: &EnvelopeView<'_>,
        io: &mut Io<'_>,
    ) {
        let did = self.agents.greeting.did.clone();
        if rest.absent {
            self.amp_refuse(&did, dialect, peer, view, nobody(Why::Absent), io);
        }
        if let Some(why) = rest.unsayable {
            self.amp_refuse(&did, dialect, peer, view, Refusal::new(Code::RELAY_REJECTED, why), io);
        }
        if rest.for_us
            && let Err(refusal) = self.amp_serve(peer, dialect, io, view)
        {
            self.amp_refuse(&did, dialect, peer, view, refusal, io);
        }
        for number in rest.sessions {
            let Some((session, did)) = self.agents.sessions.get(&number).cloned() else { continue };
            let agent = match (agent.as_deref_mut(), io.conn(peer)) {
                (Some(agent), _) | (None, Some(Conn::Agent(agent))) => agent,
                _ => return,
            };
            if let Err(refusal) = self.amp_ask(agent, peer, view, &session, &did)
                && let Some(refused) = Refused::of(view, refusal)
            {
                self.refuse(&did, dialect, peer, io, refused);
            }
        }
    }

    /// Refuses a message, if it is one that may be refused aloud.
    pub(super) fn amp_refuse(
        &mut self,
        did: &Text,
        dialect: Dialect,
        peer: ConnToken,
        view: &EnvelopeView<'_>,
        refusal: Refusal,
        io: &mut Io<'_>,
    ) {
        if view.header.typ.may_be_refused_aloud()
            && let Some(refused) = Refused::of(view, refusal)
        {
            self.refuse(did, dialect, peer, io, refused);
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
            if let Err(why) = rekeyed(parcel.framed.payload(), dialect, &mut self.agents.scratch) {
                self.amp_unsayable(parcel, why, io);
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
    fn amp_unsayable(&mut self, parcel: &Parcel, why: Unsayable, io: &mut Io<'_>) {
        if let Some((dialect, refused)) = parcel.ticket().map(|ticket| *ticket) {
            let did = self.agents.greeting.did.clone();
            let refusal = Refusal::new(Code::RELAY_REJECTED, why);
            self.refuse(&did, dialect, parcel.sender, io, Refused { refusal, ..refused });
        }
    }
}

/// Hands the message that is being handled to a connection of this worker, from the buffer it was read into. `Closed`,
/// or an error: it was not handed over.
fn forward(
    io: &mut Io<'_>,
    token: ConnToken,
    sender: &AgentConn,
    view: &EnvelopeView<'_>,
    data: Data<'_>,
    scratch: &mut Vec<u8>,
    tallies: &WorkerTallies,
) -> Result<Sent, Unsayable> {
    let mut dialect = view.dialect;
    let sent = io.forward_if(token, data, |receiver| {
        dialect = dialect_of(receiver, sender.connection.dialect());
        dialect == view.dialect
    });
    let sent = match sent {
        Some(sent) => sent,
        None => {
            rekey_within(view, dialect, scratch)?;
            io.binary_to(token, scratch)
        }
    };
    tallies.amp_out.add(u64::from(sent != Sent::Closed));
    Ok(sent)
}

/// How a receiver's keys are written. The current connection's state is not to be had: it is the sender itself.
pub(super) fn dialect_of(receiver: Option<&Conn>, sender: Dialect) -> Dialect {
    match receiver {
        Some(Conn::Agent(agent)) => agent.connection.dialect(),
        _ => sender,
    }
}

fn rekeyed(frame: &[u8], dialect: Dialect, out: &mut Vec<u8>) -> Result<(), Unsayable> {
    match parse(frame) {
        Ok(Frame::Envelope(view)) => rekey_within(&view, dialect, out),
        _ => Err("this cannot be read again, so that its keys cannot be exchanged"),
    }
}

static REKEYED_TOO_LARGE: LazyLock<String> = LazyLock::new(|| {
    format!("in the receiver's kind of keys this is larger than the largest message ({MESSAGE_MAX} bytes)")
});

/// Writes a message in the other kind of keys, where that is no larger than what any peer has to take.
fn rekey_within(view: &EnvelopeView<'_>, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), Unsayable> {
    out.clear();
    rekey(view, dialect, out).map_err(|error| match error {
        NotExpressible::Unsigned => "text keys, which the receiver writes, cannot say what is not signed",
        _ => "integer keys, which the receiver writes, cannot say this",
    })?;
    match out.len() <= MESSAGE_MAX {
        true => Ok(()),
        false => Err(&REKEYED_TOO_LARGE),
    }
}
