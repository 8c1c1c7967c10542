//! The flow cache: messages that follow one another from one connection to one recipient and differ in id, time,
//! signature and body alone. The checks and the route of one hold for the next one too, except for its time and its id.
//!
//! Its result is always that of the whole way ([`Delivery::message`]): a message that differs otherwise goes there.

use super::{Agent, Delivery, Net, recipients::key_encoding_of};
use crate::{
    base::{ConnToken, Sent},
    relay::{
        directory::Route,
        message::{Message, Shared},
    },
    wire::amp::{EnvelopeView, Prediction, To, did_base},
};

/// Messages of other flows that pass before another one is learned, after a flow that no message followed.
const PATIENCE: u8 = 16;

/// The flow of the message that was handed on last.
#[derive(Debug, Default)]
pub(super) struct FlowCache {
    /// Its sender; `None` while there is none.
    sender: Option<ConnToken>,
    prediction: Prediction,
    to: String,
    /// Where it goes, as long as the directory has not changed since.
    pub(super) receiver: Option<(ConnToken, u64)>,
    ttl: u64,
    /// Something followed what was learned.
    followed: bool,
    patience: u8,
}

impl FlowCache {
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

impl<S: Shared> Delivery<S> {
    /// Learns a message, unless the signature of each is checked.
    pub(super) fn learn(&mut self, sender: ConnToken, view: &EnvelopeView<'_>) {
        if self.checks.is_none() {
            self.flow.learn(sender, view);
        }
    }

    /// Hands a message on if it continues the flow. False: nothing was done, it has to go the whole way.
    #[inline]
    pub(super) fn continues<N: Net<Shared = S>>(
        &mut self,
        agent: &Agent,
        net: &mut N,
        frame: &[u8],
        current: N::Current<'_>,
    ) -> bool {
        let flow = &mut self.flow;
        if flow.sender != Some(net.current()) {
            return false;
        }
        let Some(next) = flow.prediction.recognize(frame) else { return false };
        if !agent.takes_again(&next, flow.ttl, net.now()) {
            return false;
        }
        let changes = self.directory.changes();
        let token = match flow.receiver {
            Some((token, since)) if since == changes => token,
            _ => match self.directory.route(&flow.to) {
                Route::Local(&[token]) => {
                    flow.receiver = Some((token, changes));
                    token
                }
                Route::Elsewhere(key) => {
                    flow.followed = true;
                    let (shared, sender) = (S::of(frame), Some(net.current()));
                    let number = self.told.next();
                    let message =
                        Message { shared, key_encoding: Prediction::KEY_ENCODING, sender, number, bounce: None };
                    self.directory.send(key, &self.flow.to, sender, message);
                    self.directory_events(Some(agent.key_encoding()), net);
                    return true;
                }
                _ => return false,
            },
        };
        if self.backpressure.is_parted(token, Some(net.current())) {
            return false;
        }
        let key_encoding = agent.key_encoding();
        let wanted = |receiver: Option<&Agent>| key_encoding_of(receiver, key_encoding) == Prediction::KEY_ENCODING;
        let sent = match net.forward_if(token, current, wanted) {
            None | Some(Sent::Closed) => return false,
            Some(sent) => sent,
        };
        self.flow.followed = true;
        self.counters.messages_out.add(1);
        if sent == Sent::High {
            self.block(token, Some(net.current()), net);
        }
        true
    }
}
