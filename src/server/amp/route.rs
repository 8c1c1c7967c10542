//! The way of a message from one agent to others: what is handed over on this worker, and what comes from another.

use std::{collections::HashSet, sync::LazyLock};

use super::AgentConn;
use crate::{
    base::ConnToken,
    dialect::amp::{self, Refused},
    reactor::{
        Sent,
        ws::{Data, Framed},
    },
    relay::{
        api::Text,
        directory::{Route, ServiceId, Why},
    },
    server::{
        MESSAGE_MAX,
        channels::Parcel,
        metrics::WorkerTallies,
        worker::{Conn, Io, Worker},
    },
    wire::amp::{Dialect, EnvelopeView, Frame, NotExpressible, To, check::Refusal, did_base, parse, rekey},
};

/// Why a receiver's kind of keys cannot say a message.
type Unsayable = &'static str;

/// What is left to do for a message when it was handed to all the connections that could be handed it.
#[derive(Debug, Default)]
struct Rest {
    /// The number of the message.
    number: u32,
    /// Some name leads to nobody.
    absent: bool,
    /// The relay itself is one.
    for_us: bool,
    /// Why a recipient that is there was not handed it, if one was not.
    unsayable: Option<Unsayable>,
    /// Sessions, by number.
    sessions: Vec<u32>,
}

impl Rest {
    fn is_nothing(&self) -> bool {
        !self.absent && !self.for_us && self.unsayable.is_none() && self.sessions.is_empty()
    }
}

/// Where a message lies.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// In the buffer that it was read into: it is being handled.
    Read(Data<'a>),
    /// By itself: it was checked first.
    Owned(&'a Framed),
}

/// The connection that a message came from.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub(super) peer: ConnToken,
    /// How its keys are written.
    pub(super) dialect: Dialect,
}

impl Worker {
    /// Hands a message to each of its recipients: the one place where that is decided. `agent` is the sender's state where
    /// the caller has it in hands.
    pub(super) fn amp_route(
        &mut self,
        agent: Option<&mut AgentConn>,
        sender: Sender,
        view: &EnvelopeView<'_>,
        source: Source<'_>,
        io: &mut Io<'_>,
    ) {
        if self.amp_route_again(sender, view, source, io) {
            return;
        }
        let mut parcel: Option<Parcel> = None;
        let mut rest = Rest { number: self.agents.told.next(), ..Rest::default() };
        let several = view.header.to.is_array();
        // A DID that is named twice gets the message once: connections of this worker have marks, names that lead elsewhere
        // are kept.
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
                        match hand(io, token, sender.dialect, view, source, &mut self.agents.scratch, &self.tallies) {
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
                // The directory never holds the relay's own names: no peer can prove them.
                _ if self.agents.greeting.names().named(did).is_some() => rest.for_us = true,
                Route::Service(ServiceId(number)) => rest.sessions.push(number),
                Route::Elsewhere(key) => {
                    let owned = parcel.get_or_insert_with(|| Parcel {
                        framed: match source {
                            Source::Read(_) => Framed::binary(view.frame),
                            Source::Owned(framed) => framed.clone(),
                        },
                        dialect: view.dialect,
                        sender: sender.peer,
                        number: rest.number,
                    });
                    self.agents.directory.send(key, did, Some(sender.peer), owned.clone());
                    streams = true;
                }
                Route::Absent => rest.absent = true,
            }
        }
        if streams && !several {
            self.amp_learn(sender.peer, view);
        }
        for receiver in high {
            self.agents.hold(receiver, sender.peer, io);
        }
        if !rest.is_nothing() {
            self.amp_rest(agent, sender, rest, view, io);
        }
    }

    /// Hands a message to the one connection that is its recipient, if that is where the one before went, as most do.
    #[inline]
    fn amp_route_again(
        &mut self,
        sender: Sender,
        view: &EnvelopeView<'_>,
        source: Source<'_>,
        io: &mut Io<'_>,
    ) -> bool {
        let To::One(did) = view.header.to else { return false };
        let Some(&[token]) = self.agents.directory.route_again(did) else { return false };
        let sent = hand(io, token, sender.dialect, view, source, &mut self.agents.scratch, &self.tallies);
        // Nothing went to a connection that closes or cannot be told: the whole way says what becomes of the message.
        let Ok(sent @ (Sent::Queued | Sent::High)) = sent else { return false };
        if sent == Sent::High {
            self.agents.hold(token, sender.peer, io);
        }
        self.amp_learn(sender.peer, view);
        true
    }

    /// What is left of a message when it was handed to all connections: the relay's own part, its sessions', and a word
    /// to the sender where nobody is there. `agent` is the sender's state where the caller has it in hands.
    fn amp_rest(
        &mut self,
        mut agent: Option<&mut AgentConn>,
        sender: Sender,
        rest: Rest,
        view: &EnvelopeView<'_>,
        io: &mut Io<'_>,
    ) {
        let Sender { peer, dialect } = sender;
        let did = self.agents.greeting.did.clone();
        if let Some(why) = rest.unsayable.map(Why::Unfit).or(rest.absent.then_some(Why::Absent))
            && self.agents.told.first(rest.number)
        {
            self.amp_refuse(&did, dialect, peer, view, amp::undelivered(why), io);
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

    /// Hands a message that came from elsewhere to a connection of this worker. `Closed`: it was not handed over; its sender
    /// hears so where nobody else is under that DID. `current`: the keys of the connection whose message is being handled,
    /// if one is.
    pub(super) fn amp_deliver(
        &mut self,
        token: ConnToken,
        parcel: &Parcel,
        current: Option<Dialect>,
        io: &mut Io<'_>,
    ) -> Sent {
        let dialect = dialect_of(io.conn(token).as_deref(), current.unwrap_or(parcel.dialect));
        self.tallies.amp_out.add(1);
        let sent = if dialect == parcel.dialect {
            io.framed_to(token, &parcel.framed)
        } else {
            if let Err(why) = rekeyed(parcel.framed.payload(), dialect, &mut self.agents.scratch) {
                self.agents.directory.undeliverable(token, parcel.sender, parcel.clone(), Why::Unfit(why));
                return Sent::Queued;
            }
            io.binary_to(token, &self.agents.scratch)
        };
        if sent == Sent::Closed {
            self.agents.directory.gone_before(token, parcel.sender, parcel.clone());
        }
        sent
    }
}

/// Hands a message to a connection of this worker. `Closed`, or an error: it was not handed over.
fn hand(
    io: &mut Io<'_>,
    token: ConnToken,
    sender: Dialect,
    view: &EnvelopeView<'_>,
    source: Source<'_>,
    scratch: &mut Vec<u8>,
    tallies: &WorkerTallies,
) -> Result<Sent, Unsayable> {
    let mut dialect = view.dialect;
    let sent = match source {
        Source::Read(data) => io.forward_if(token, data, |receiver| {
            dialect = dialect_of(receiver, sender);
            dialect == view.dialect
        }),
        Source::Owned(framed) => {
            dialect = dialect_of(io.conn(token).as_deref(), sender);
            (dialect == view.dialect).then(|| io.framed_to(token, framed))
        }
    };
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
