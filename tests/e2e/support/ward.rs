//! What tests of hostile agents guard: a relay, and an agent on it that must not notice anything.

use super::{Agent, AgentKey, Relay, amp::typ};

/// A relay, a key that may come in, and a healthy agent that must not notice anything.
pub struct Ward {
    pub relay: Relay,
    pub key: AgentKey,
    pub healthy: Agent,
}

impl Ward {
    pub fn new() -> Self {
        let (key, healthy) = (AgentKey::new(), AgentKey::new());
        let relay = Relay::options(&[]).keys(&[key.line("agent"), healthy.line("agent")].concat()).start();
        let healthy = Agent::connect(&relay.tcp(), &healthy);
        Self { relay, key, healthy }
    }

    /// A signed-in agent that is about to misbehave.
    pub fn agent(&self) -> Agent {
        Agent::connect(&self.relay.tcp(), &self.key)
    }

    /// One that has said nothing yet.
    pub fn dial(&self) -> Agent {
        Agent::dial(&self.relay.tcp(), &self.key)
    }

    /// The healthy agent heard nothing and is served; the relay has not panicked.
    #[track_caller]
    pub fn check(mut self) {
        self.healthy.ping();
        let foreign: Vec<_> = self.healthy.seen.iter().filter(|m| m.from != self.healthy.relay).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        assert!(self.healthy.of(typ::ERROR).is_empty(), "{:?}", self.healthy.seen);
        self.no_panic();
    }

    #[track_caller]
    pub fn no_panic(&self) {
        assert!(!self.relay.log().contains("panicked"), "{}", self.relay.log());
        let stats = self.relay.stats();
        for worker in stats["workers"].as_array().expect("workers") {
            assert_eq!(worker["panics"], 0, "{stats}");
        }
    }
}
