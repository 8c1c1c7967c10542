//! Where a message goes: the one loop over its recipients, and what is left when it was handed to all connections that
//! could be handed it.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
};

use super::{Agent, Counters, Delivery, Net, backpressure::Backpressure, failures::About, serve::pong};
use crate::{
    base::{ConnToken, Sent},
    relay::{
        api::Text,
        directory::{Route, ServiceId, Why},
        message::{Bounce, MESSAGE_MAX, Message, Refused, Shared, undelivered},
    },
    wire::amp::{EnvelopeView, Frame, KeyEncoding, NotExpressible, To, Type, check::Refusal, did_base, parse, rekey},
};

/// Why a receiver that is there is not handed a message.
type Unfit = &'static str;

/// What a sender is told that has parted from a receiver.
const TAKES_TOO_LONG: &str = "the receiver takes too long: its queue is full and does not get shorter; try again later";

/// What is left of a message when it was handed to all the connections of this worker that could be handed it.
#[derive(Debug, Default)]
struct NonLocal {
    /// The number of the message.
    number: u32,
    /// Whether it is for several.
    several: bool,
    /// Recipients that were not handed it, each with the reason.
    not_handed: Vec<(Text, Why)>,
    /// The relay itself is one.
    for_us: bool,
    /// Sessions, by number.
    sessions: Vec<u32>,
}

impl NonLocal {
    fn is_nothing(&self) -> bool {
        self.not_handed.is_empty() && !self.for_us && self.sessions.is_empty()
    }
}

/// Where a message lies.
pub(super) enum Source<'a, N: Net> {
    /// In the buffer that it was read into: it is being handled.
    Read(N::Current<'a>),
    /// By itself: it was checked first, or it is an answer.
    Owned(&'a N::Shared),
}

impl<N: Net> Clone for Source<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N: Net> Copy for Source<'_, N> {}

impl<N: Net> Source<'_, N> {
    /// The message by itself, for one recipient.
    fn message(self, view: &EnvelopeView<'_>, sender: Option<ConnToken>, number: u32) -> Message<N::Shared> {
        let shared = match self {
            Source::Read(_) => N::Shared::of(view.frame),
            Source::Owned(shared) => shared.clone(),
        };
        Message { shared, key_encoding: view.key_encoding, sender, number, bounce: None }
    }
}

/// The origin of a message.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    /// The connection that it came from and that ERRORs go to. `None`: the relay or a session says it.
    pub(super) peer: Option<ConnToken>,
    /// How its keys are written.
    pub(super) key_encoding: KeyEncoding,
}

impl<S: Shared> Delivery<S> {
    /// Hands a message to each of its recipients: the one place where that is decided. `agent` is the sender's state where
    /// the caller has it at hand.
    pub(super) fn route<N: Net<Shared = S>>(
        &mut self,
        agent: Option<&mut Agent>,
        sender: Sender,
        view: &EnvelopeView<'_>,
        source: Source<'_, N>,
        net: &mut N,
    ) {
        if self.route_to_one(sender, view, source, net) {
            return;
        }
        let mut message: Option<Message<S>> = None;
        let mut rest = NonLocal { number: self.told.next(), ..NonLocal::default() };
        let several = view.header.to.is_array();
        rest.several = several;
        // A DID that is named twice gets the message once: connections of this worker have marks, names that lead elsewhere
        // are kept.
        let mut named = several.then(HashSet::new);
        if several {
            self.dedup.next();
        }
        let mut high = Vec::new();
        for to in view.header.to.iter() {
            let did = did_base(to);
            match self.directory.route(did) {
                Route::Local(tokens) => {
                    let (mut handed, mut unfit) = (false, None);
                    for &token in tokens {
                        if several && !self.dedup.mark(token) {
                            handed = true;
                            continue;
                        }
                        let (backpressure, scratch) = (&self.backpressure, &mut self.scratch);
                        match hand(net, token, sender, view, source, backpressure, scratch, &self.counters) {
                            Ok(sent) => {
                                handed |= sent != Sent::Closed;
                                if sent == Sent::High {
                                    high.push(token);
                                }
                            }
                            Err(why) => unfit = Some(why),
                        }
                    }
                    if let Some(why) = unfit.map(Why::Unfit).or((!handed).then_some(Why::Absent)) {
                        rest.not_handed.push((did.into(), why));
                    }
                }
                _ if named.as_mut().is_some_and(|named| !named.insert(did)) => {}
                // The directory never holds the relay's own names: no peer can prove them.
                _ if self.greeting.names().named(did).is_some() => rest.for_us = true,
                Route::Service(ServiceId(number)) => rest.sessions.push(number),
                Route::Elsewhere(key) => {
                    let owned = message.get_or_insert_with(|| {
                        let bounce = several.then(|| Bounce::of(view, rest.number).map(Arc::new)).flatten();
                        Message { bounce, ..source.message(view, sender.peer, rest.number) }
                    });
                    self.directory.send(key, did, sender.peer, owned.clone());
                }
                Route::Absent => rest.not_handed.push((did.into(), Why::Absent)),
            }
        }
        for receiver in high {
            self.block(receiver, sender.peer, net);
        }
        if !rest.is_nothing() {
            self.route_rest(agent, sender, rest, view, net);
        }
    }

    /// Hands a message to the one connection that is its recipient, or sends it to the worker that has its recipient: what
    /// most messages need. False: nothing went anywhere, and the whole way says what becomes of it.
    fn route_to_one<N: Net<Shared = S>>(
        &mut self,
        sender: Sender,
        view: &EnvelopeView<'_>,
        source: Source<'_, N>,
        net: &mut N,
    ) -> bool {
        let To::One(to) = view.header.to else { return false };
        let route = match self.directory.route_again(to) {
            Some(tokens) => Route::Local(tokens),
            None => self.directory.route(did_base(to)),
        };
        match route {
            Route::Local(&[token]) => {
                let (backpressure, scratch) = (&self.backpressure, &mut self.scratch);
                match hand(net, token, sender, view, source, backpressure, scratch, &self.counters) {
                    Ok(Sent::Queued) => {}
                    Ok(Sent::High) => self.block(token, sender.peer, net),
                    Ok(Sent::Closed) | Err(_) => return false,
                }
            }
            Route::Elsewhere(key) if self.greeting.names().named(did_base(to)).is_none() => {
                let message = source.message(view, sender.peer, self.told.next());
                self.directory.send(key, did_base(to), sender.peer, message);
            }
            _ => return false,
        }
        if let Some(peer) = sender.peer {
            self.learn(peer, view);
        }
        true
    }

    /// The part of a message for the relay itself and for its sessions, and the report of recipients that were not
    /// handed it.
    fn route_rest<N: Net<Shared = S>>(
        &mut self,
        mut agent: Option<&mut Agent>,
        sender: Sender,
        rest: NonLocal,
        view: &EnvelopeView<'_>,
        net: &mut N,
    ) {
        // Messages of the relay and of its sessions get no answer.
        let (Some(peer), key_encoding) = (sender.peer, sender.key_encoding) else { return };
        let did = self.greeting.did.clone();
        let about = About { number: rest.number, several: rest.several, sender: peer, key_encoding };
        for (to, why) in rest.not_handed {
            let is_told = view.header.typ.allows_error_reply();
            let refused = || is_told.then(|| Refused::of(view, undelivered(why))).flatten();
            self.not_handed(&about, &to, why, refused, net);
        }
        if rest.for_us {
            let Some(role) = asker(&mut agent, peer, net).and_then(|agent| Some(agent.principal()?.role)) else {
                return;
            };
            if let Err(refusal) = self.serve(role, peer, key_encoding, net, view) {
                self.refuse_message(&did, key_encoding, peer, view, refusal, net);
            }
        }
        for number in rest.sessions {
            let Some((session, did)) = self.sessions.get(&number).cloned() else { continue };
            let asked = if view.header.typ == Type::PING {
                self.reply(did.clone(), peer, key_encoding, net, view, pong()).map(|()| false)
            } else {
                let Some(agent) = asker(&mut agent, peer, net) else { return };
                self.ask_session(agent, peer, view, &session, &did)
            };
            match asked {
                Ok(true) => net.pause(peer),
                Ok(false) => {}
                Err(refusal) => {
                    if let Some(refused) = Refused::of(view, refusal) {
                        self.refuse(&did, key_encoding, peer, net, refused);
                    }
                }
            }
        }
    }

    /// Refuses a message, if its type allows an ERROR in answer.
    pub(super) fn refuse_message<N: Net<Shared = S>>(
        &mut self,
        did: &Text,
        key_encoding: KeyEncoding,
        peer: ConnToken,
        view: &EnvelopeView<'_>,
        refusal: Refusal,
        net: &mut N,
    ) {
        if view.header.typ.allows_error_reply()
            && let Some(refused) = Refused::of(view, refusal)
        {
            self.refuse(did, key_encoding, peer, net, refused);
        }
    }

    /// Hands a message that came from elsewhere to a connection of this worker. A sender is told where the connection
    /// cannot take it, and where it has gone as the last of its DID. `current`: the key encoding of the connection with
    /// the message in hand, if there is one.
    pub(super) fn deliver<N: Net<Shared = S>>(
        &mut self,
        token: ConnToken,
        message: &Message<S>,
        current: Option<KeyEncoding>,
        net: &mut N,
    ) {
        if self.backpressure.is_parted(token, message.sender) {
            return self.directory.undeliverable(token, message.sender, message.clone(), Why::Unfit(TAKES_TOO_LONG));
        }
        let key_encoding = key_encoding_of(net.agent(token).as_deref(), current.unwrap_or(message.key_encoding));
        self.counters.messages_out.add(1);
        let sent = if key_encoding == message.key_encoding {
            net.send_shared(token, &message.shared)
        } else {
            if let Err(why) = rekeyed(message.shared.message(), key_encoding, &mut self.scratch) {
                return self.directory.undeliverable(token, message.sender, message.clone(), Why::Unfit(why));
            }
            net.send(token, &self.scratch)
        };
        match sent {
            Sent::Queued => {}
            Sent::High => self.block(token, message.sender, net),
            Sent::Closed => self.directory.gone_before(token, message.sender, message.clone()),
        }
    }
}

/// The state of the agent that asks, at hand or not.
fn asker<'a, N: Net>(agent: &'a mut Option<&mut Agent>, peer: ConnToken, net: &'a mut N) -> Option<&'a mut Agent> {
    match agent.as_deref_mut() {
        Some(agent) => Some(agent),
        None => net.agent(peer),
    }
}

/// Hands a message to a connection of this worker. `Closed`, or an error: it was not handed over.
#[expect(clippy::too_many_arguments, reason = "parts of the core, which is borrowed by the caller")]
fn hand<N: Net>(
    net: &mut N,
    token: ConnToken,
    sender: Sender,
    view: &EnvelopeView<'_>,
    source: Source<'_, N>,
    backpressure: &Backpressure,
    scratch: &mut Vec<u8>,
    counters: &Counters,
) -> Result<Sent, Unfit> {
    if backpressure.is_parted(token, sender.peer) {
        return Err(TAKES_TOO_LONG);
    }
    let sender = sender.key_encoding;
    let mut key_encoding = view.key_encoding;
    let sent = match source {
        Source::Read(current) => net.forward_if(token, current, |receiver| {
            key_encoding = key_encoding_of(receiver, sender);
            key_encoding == view.key_encoding
        }),
        Source::Owned(shared) => {
            key_encoding = key_encoding_of(net.agent(token).as_deref(), sender);
            (key_encoding == view.key_encoding).then(|| net.send_shared(token, shared))
        }
    };
    let sent = match sent {
        Some(sent) => sent,
        None => {
            rekey_within(view, key_encoding, scratch)?;
            net.send(token, scratch)
        }
    };
    counters.messages_out.add(u64::from(sent != Sent::Closed));
    Ok(sent)
}

/// How a receiver's keys are written. The current connection's state is not to be had: it is the sender itself.
pub(super) fn key_encoding_of(receiver: Option<&Agent>, sender: KeyEncoding) -> KeyEncoding {
    receiver.map_or(sender, Agent::key_encoding)
}

fn rekeyed(frame: &[u8], key_encoding: KeyEncoding, out: &mut Vec<u8>) -> Result<(), Unfit> {
    match parse(frame) {
        Ok(Frame::Envelope(view)) => rekey_within(&view, key_encoding, out),
        _ => Err("this cannot be read again, so that its keys cannot be exchanged"),
    }
}

static REKEYED_TOO_LARGE: LazyLock<String> = LazyLock::new(|| {
    format!("in the receiver's kind of keys this is larger than the largest message ({MESSAGE_MAX} bytes)")
});

/// Writes a message in the other kind of keys, where that is no larger than what any peer has to take.
fn rekey_within(view: &EnvelopeView<'_>, key_encoding: KeyEncoding, out: &mut Vec<u8>) -> Result<(), Unfit> {
    out.clear();
    rekey(view, key_encoding, out).map_err(|error| match error {
        NotExpressible::Unsigned => "text keys, which the receiver writes, cannot say what is not signed",
        _ => "integer keys, which the receiver writes, cannot say this",
    })?;
    match out.len() <= MESSAGE_MAX {
        true => Ok(()),
        false => Err(&REKEYED_TOO_LARGE),
    }
}
