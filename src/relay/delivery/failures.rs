//! Messages that were not handed to a recipient, until their senders are told: once for a message. For a message to
//! several recipients that is a little later, since each worker that is home of a recipient reports for itself. A
//! failure that is known later still comes in an ERROR of its own.

use super::{Delivery, Net};
use crate::{
    base::ConnToken,
    relay::{
        directory::Why,
        message::{NotHanded, Refused, Shared, undelivered},
    },
    wire::amp::KeyEncoding,
};

/// How long the failures of a message to several recipients are gathered.
const GATHER_MS: u64 = 50;
/// Messages of one connection with failures that are gathered; one more has the first of them told at once.
const GATHERED_MAX: usize = 8;

/// A message to several recipients that was not handed to some of them.
#[derive(Debug)]
struct Failed {
    number: u32,
    /// The connection it came from.
    sender: ConnToken,
    key_encoding: KeyEncoding,
    refused: Refused,
    why: Why,
    due_ms: u64,
}

/// Failures that are gathered, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<Failed>);

impl Failures {
    /// How many messages there are.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// A connection is gone: its failures are told no more.
    pub(super) fn gone(&mut self, token: ConnToken) {
        self.0.retain(|failed| failed.sender != token);
    }
}

/// What the sender of a message needs to be told.
pub(super) struct About {
    /// The number of the message.
    pub(super) number: u32,
    /// Whether it is for several.
    pub(super) several: bool,
    /// The connection it came from.
    pub(super) sender: ConnToken,
    /// How that writes its keys.
    pub(super) key_encoding: KeyEncoding,
}

impl<S: Shared> Delivery<S> {
    /// A message was not handed to this recipient. `refused` makes the ERROR, where there is to be one.
    pub(super) fn not_handed<N: Net<Shared = S>>(
        &mut self,
        about: &About,
        did: &str,
        why: Why,
        refused: impl FnOnce() -> Option<Refused>,
        net: &mut N,
    ) {
        let &About { number, several, sender, key_encoding } = about;
        let reason = undelivered(why);
        if let Some(failed) = self.failures.0.iter_mut().find(|failed| failed.number == number) {
            failed.refused.not_handed.add(did, reason.reason);
            // Any other reason says more than that a recipient is absent.
            if failed.why == Why::Absent {
                failed.why = why;
            }
            return;
        }
        if !several && !self.told.first(number) {
            return;
        }
        let Some(refused) = refused() else { return };
        if !several {
            let relay = self.greeting.did.clone();
            return self.refuse(&relay, key_encoding, sender, net, Refused { refusal: reason, ..refused });
        }
        let mut not_handed = NotHanded::default();
        not_handed.add(did, reason.reason);
        let due_ms = net.now().mono_ms + GATHER_MS;
        let refused = Refused { not_handed, ..refused };
        self.failures.0.push(Failed { number, sender, key_encoding, refused, why, due_ms });
        self.wake_at(sender, due_ms, net);
        let mut own = self.failures.0.iter().enumerate().filter(|(_, failed)| failed.sender == sender);
        if let Some((oldest, _)) = own.next()
            && own.count() >= GATHERED_MAX
        {
            let oldest = self.failures.0.remove(oldest);
            self.tell(oldest, net);
        }
        self.counters.gathering.set(self.failures.len());
    }

    /// Tells what has been gathered for long enough, on the timeout of any connection, and sets timeouts for the rest.
    pub(super) fn tell_failures<N: Net<Shared = S>>(&mut self, net: &mut N) {
        let now = net.now().mono_ms;
        let due: Vec<Failed> = self.failures.0.extract_if(.., |failed| failed.due_ms <= now).collect();
        for failed in due {
            self.tell(failed, net);
        }
        self.counters.gathering.set(self.failures.len());
        let left: Vec<_> = self.failures.0.iter().map(|failed| (failed.sender, failed.due_ms)).collect();
        for (sender, due_ms) in left {
            self.wake_at(sender, due_ms, net);
        }
    }

    fn tell<N: Net<Shared = S>>(&mut self, failed: Failed, net: &mut N) {
        let Failed { sender, key_encoding, refused, why, .. } = failed;
        let relay = self.greeting.did.clone();
        self.refuse(&relay, key_encoding, sender, net, Refused { refusal: undelivered(why), ..refused });
    }

    /// Has the timeout of an agent that has proved its key come at this time, or before.
    pub(super) fn wake_at<N: Net<Shared = S>>(&mut self, token: ConnToken, at_ms: u64, net: &mut N) {
        let at = self.wakes.entry(token).or_insert(u64::MAX);
        if at_ms < *at {
            *at = at_ms;
            net.set_timeout(token, Some(at_ms.saturating_sub(net.now().mono_ms)));
        }
    }
}
