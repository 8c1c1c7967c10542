//! Goal: an agent is one follower of a session for as long as it has asked something or is here, and what it is told finds
//! it. Method: a hub with one session, and messages by hand.

use super::*;
use crate::{
    claude,
    relay::{
        Role,
        hub::tests::{Bench, asks, stop::turn},
        session::Settings,
    },
};

struct World {
    bench: Bench,
    agents: AgentRequests,
    /// The agents that the hub has said something to, by their tokens.
    told: Vec<ConnToken>,
}

fn id(n: u8) -> Id {
    Id([n; 16])
}

fn on(worker: u16) -> ConnToken {
    ConnToken::new(worker, 1, 1)
}

impl World {
    fn new() -> Self {
        let agents = AgentRequests::new(|| Some([7; 8]));
        Self { bench: Bench::ready(Settings::default()), agents, told: Vec::new() }
    }

    /// An agent of this role says a message; gives what is said to agents then.
    fn says(&mut self, peer: ConnToken, role: Role, n: u8, wanted: Wanted) -> Vec<Reply> {
        let caller = Caller { peer, name: "did:key:zA".into(), ..Caller::sample("SHA256:a", 1, role) };
        let (session, did, from) = ("id1".into(), "did:key:zS".into(), "did:key:zA".into());
        let ask = Ask { caller, session, did, from, id: id(n), thread_id: None, wanted };
        self.agents.ask(ask, &mut self.bench.hub, self.bench.now);
        self.carry_out()
    }

    fn prompts(&mut self, peer: ConnToken, n: u8) -> Vec<Reply> {
        self.says(peer, Role::Drive, n, Wanted::Prompt("x".into()))
    }

    fn cli(&mut self, event: claude::Event) -> Vec<Reply> {
        self.bench.says(1, event);
        self.carry_out()
    }

    fn goes(&mut self, peer: ConnToken) {
        self.agents.gone(peer, &mut self.bench.hub, self.bench.now);
        self.carry_out();
    }

    fn carry_out(&mut self) -> Vec<Reply> {
        loop {
            let Some(out) = self.bench.hub.poll() else {
                if self.bench.hub.next_timeout() != Some(0) {
                    break;
                }
                self.bench.hub.timeout(self.bench.now);
                continue;
            };
            if let Out::Answer { peer, .. } = &out {
                self.told.push(*peer);
            }
            self.agents.out(&out, &mut self.bench.hub, self.bench.now);
        }
        std::iter::from_fn(|| self.agents.poll()).collect()
    }

    fn watchers(&self) -> usize {
        self.bench.hub.counts().watchers
    }
}

fn workers(replies: &[Reply]) -> Vec<Option<u16>> {
    let worker = |reply: &Reply| if let ReplyTo::Did { worker } = reply.via { Some(worker) } else { None };
    replies.iter().map(worker).collect()
}

#[test]
fn an_agent_that_has_gone_and_waits_for_nothing_watches_no_session() {
    for goes_first in [false, true] {
        let mut world = World::new();
        world.prompts(on(0), 1);
        assert_eq!(world.watchers(), 1);
        if goes_first {
            world.goes(on(0));
            assert_eq!(world.watchers(), 1, "it is told its answer all the same");
        }
        assert_eq!(world.cli(turn(true, "completed")).len(), 1);
        if !goes_first {
            assert_eq!(world.watchers(), 1, "it is here");
            world.goes(on(0));
        }
        assert_eq!((world.watchers(), world.agents.agents.len(), world.agents.by_did.len()), (0, 0, 0));
    }
}

#[test]
fn an_agent_whose_key_was_given_more_may_do_more_while_its_entry_stands() {
    let mut world = World::new();
    world.prompts(on(0), 1);
    let replies = world.cli(asks("r", None));
    let [Reply { typ: Type::INPUT_REQUIRED, id: asked, .. }] = &replies[..] else { panic!("{replies:?}") };
    let decide = || Wanted::Decide {
        reply_to: Some(asked.0.to_vec()),
        decision: Some("deny".into()),
        message: None,
        answers: Vec::new(),
    };
    let refused = world.says(on(0), Role::Drive, 2, decide());
    assert!(matches!(refused[..], [Reply { typ: Type::ERROR, .. }]), "{refused:?}");
    assert_eq!(world.says(on(0), Role::Approve, 3, decide()).len(), 0, "it is taken");
    assert_eq!(world.bench.hub.summaries()[0].waiting, 0);
    let agent = world.agents.agents.iter().next().map(|(_, agent)| agent.caller.granted);
    assert_eq!(agent, Some(Role::Approve));
}

#[test]
fn what_was_for_an_agent_that_is_gone_reaches_no_other_one_in_its_place() {
    let mut world = World::new();
    let token = |world: &mut World, n: u8| {
        world.told.clear();
        world.prompts(on(0), n);
        world.told[0]
    };
    let first = token(&mut world, 1);
    world.cli(turn(true, "completed"));
    world.goes(on(0));
    let second = token(&mut world, 2);
    assert_eq!(first.slot(), second.slot());
    assert_ne!(first, second);
    let late = Out::Reset { peer: first, session: "id1".into(), why: "late", earliest: position(&world) };
    world.agents.out(&late, &mut world.bench.hub, world.bench.now);
    assert!(world.carry_out().is_empty(), "it is not told that its answer was missed");
    assert_eq!(world.cli(turn(true, "completed")).len(), 1);
}

fn position(world: &World) -> api::Position {
    world.bench.hub.summaries()[0].next.clone()
}

#[test]
fn an_agent_is_answered_by_the_worker_that_it_asked_last_on() {
    let mut world = World::new();
    world.prompts(on(0), 1);
    world.goes(on(0));
    world.prompts(on(3), 2);
    assert_eq!(workers(&world.cli(turn(true, "completed")))[..1], [Some(3)]);
}
