//! What agents can ask the relay itself: a table of actions, open to embedders.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::wire::{
    amp::{Code, check::Refusal},
    cbor,
};

/// A REQUEST to the relay.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The requester: a DID that was proved.
    pub from: &'a str,
    /// The whole body: one CBOR map.
    pub body: &'a [u8],
    /// The time, Unix milliseconds.
    pub now_ms: u64,
}

type Handler = dyn Fn(&Call<'_>) -> Result<Vec<u8>, Refusal> + Send + Sync;

/// The actions that a REQUEST's `action` may name. A handler runs on a worker: it must not block. It gives the body of
/// the RESPONSE, one CBOR item, or what the ERROR says.
#[derive(Clone)]
pub struct Services(BTreeMap<String, Arc<Handler>>);

impl Default for Services {
    /// `ping`, `echo` and `time`. `agents` is the relay's own and always there.
    fn default() -> Self {
        let mut services = Self(BTreeMap::new());
        services.register("ping", |_| {
            let mut body = Vec::new();
            cbor::map(&mut body, 2);
            for (name, value) in [("status", "ok"), ("message", "pong")] {
                cbor::text(&mut body, name);
                cbor::text(&mut body, value);
            }
            Ok(body)
        });
        services.register("echo", |call| Ok(call.body.to_vec()));
        services.register("time", |call| {
            let mut body = Vec::new();
            cbor::map(&mut body, 1);
            cbor::text(&mut body, "now");
            cbor::uint(&mut body, call.now_ms);
            Ok(body)
        });
        services
    }
}

impl Services {
    /// Serves an action; the last handler of a name holds.
    pub fn register(
        &mut self,
        action: &str,
        handler: impl Fn(&Call<'_>) -> Result<Vec<u8>, Refusal> + Send + Sync + 'static,
    ) {
        self.0.insert(action.to_owned(), Arc::new(handler));
    }

    pub(in crate::relay) fn call(&self, action: &str, call: &Call<'_>) -> Result<Vec<u8>, Refusal> {
        match self.0.get(action) {
            Some(handler) => handler(call),
            None => Err(Refusal::new(
                Code::BAD_REQUEST,
                "the relay serves no such action; among those it serves are agents, echo, ping and time",
            )),
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
