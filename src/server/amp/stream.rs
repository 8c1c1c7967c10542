//! Streams: messages that follow one another from one connection to one recipient and differ in id, time, signature and
//! body alone. What passed every check and found its way is enough to know of the next one, but for its time and its id.
//!
//! Must not decide anything otherwise than the whole way ([`Worker::amp_message`]) would: whatever is not as before goes
//! there.

use super::{AgentConn, route};
use crate::{
    base::ConnToken,
    reactor::{
        Sent,
        ws::{Data, Framed},
    },
    relay::directory::Route,
    server::{
        channels::Parcel,
        worker::{Io, Worker},
    },
    wire::amp::{EnvelopeView, Prediction, To, did_base},
};

/// Messages of other streams that are let pass before another one is learned, after one that nothing followed.
const PATIENCE: u8 = 16;

/// The stream whose message was handed on last.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Its sender; `None` while there is none.
    sender: Option<ConnToken>,
    prediction: Prediction,
    to: String,
    /// Where it goes, as long as the directory has not changed since.
    receiver: Option<(ConnToken, u64)>,
    ttl: u64,
    /// Something followed what was learned.
    followed: bool,
    patience: u8,
}

impl Stream {
    /// Learns a message that was handed to the one connection of its recipient, or sent to another worker.
    pub(super) fn learn(&mut self, sender: ConnToken, view: &EnvelopeView<'_>) {
        let To::One(to) = view.header.to else { return };
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
        // To learn costs more than it gains where no message is as the one before.
        if self.sender.is_some() && !self.followed {
            self.patience = PATIENCE;
        }
        self.followed = false;
        self.receiver = None;
        self.sender = self.prediction.learn(view).then_some(sender);
        self.ttl = view.header.ttl;
        self.to.clear();
        // Otherwise it may be of any length.
        if self.sender.is_some() {
            self.to.push_str(did_base(to));
        }
    }
}

impl Worker {
    /// Learns a message, unless the signature of each is checked.
    pub(super) fn amp_learn(&mut self, sender: ConnToken, view: &EnvelopeView<'_>) {
        if self.agents.checks.is_none() {
            self.agents.stream.learn(sender, view);
        }
    }

    /// Hands a message on if it continues the stream. False: nothing was done, it has to go the whole way.
    #[inline]
    pub(super) fn amp_continue(&mut self, agent: &AgentConn, io: &mut Io<'_>, frame: &[u8], data: Data<'_>) -> bool {
        let stream = &mut self.agents.stream;
        if stream.sender != Some(io.token()) {
            return false;
        }
        let Some(next) = stream.prediction.recognize(frame) else { return false };
        if !agent.connection.takes_again(&next, stream.ttl, io.now()) {
            return false;
        }
        let changes = self.agents.directory.changes();
        let token = match stream.receiver {
            Some((token, since)) if since == changes => token,
            _ => match self.agents.directory.route(&stream.to) {
                Route::Local(&[token]) => {
                    stream.receiver = Some((token, changes));
                    token
                }
                Route::Elsewhere(key) => {
                    stream.followed = true;
                    let (framed, sender) = (Framed::binary(frame), io.token());
                    let number = self.agents.told.next();
                    let parcel = Parcel { framed, dialect: Prediction::DIALECT, sender, number };
                    self.agents.directory.send(key, &stream.to, Some(sender), parcel);
                    self.amp_events(Some(agent.connection.dialect()), io);
                    return true;
                }
                _ => return false,
            },
        };
        let dialect = agent.connection.dialect();
        let wanted = |receiver: Option<&_>| route::dialect_of(receiver, dialect) == Prediction::DIALECT;
        let sent = match io.forward_if(token, data, wanted) {
            None | Some(Sent::Closed) => return false,
            Some(sent) => sent,
        };
        stream.followed = true;
        self.tallies.amp_out.add(1);
        if sent == Sent::High {
            self.agents.hold(token, io.token(), io);
        }
        true
    }
}
