//! Goal: an agent is one follower of a session for as long as it has asked something or is here, and what it is told finds
//! it. Method: a hub with one session, and messages by hand.

use std::sync::Arc;

use super::*;
use crate::{
    base::Json,
    claude,
    relay::{
        Role,
        hub::tests::{
            Bench, asks,
            keys::{keys, of},
            stop::turn,
        },
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

fn said(caller: Caller, name: &str, peer: ConnToken, n: u8, wanted: Wanted) -> Ask {
    let caller = Caller { peer, name: name.into(), ..caller };
    let (session, did, from) = ("id1".into(), "did:key:zS".into(), name.into());
    Ask { caller, session, did, from, id: id(n), thread_id: None, wanted }
}

/// Whom an ERROR goes to, and what it is about: an answer to the message of that number.
fn errors(replies: &[Reply]) -> Vec<(String, u8)> {
    let error = |reply: &Reply| {
        assert_eq!(reply.typ, Type::ERROR, "{reply:?}");
        let to = match reply.via {
            ReplyTo::Connection(peer) => format!("{peer}"),
            ReplyTo::Did { .. } => reply.to.to_string(),
        };
        (to, reply.reply_to.as_ref().map_or(0, |id| id.0[0]))
    };
    replies.iter().map(error).collect()
}

impl World {
    fn new() -> Self {
        let agents = AgentRequests::new(|| Some([7; 8]));
        Self { bench: Bench::ready(Settings::default()), agents, told: Vec::new() }
    }

    /// An agent of this role says a message; gives what is said to agents then.
    fn says(&mut self, peer: ConnToken, role: Role, n: u8, wanted: Wanted) -> Vec<Reply> {
        self.ask(said(Caller::sample("SHA256:a", 1, role), "did:key:zA", peer, n, wanted))
    }

    fn ask(&mut self, ask: Ask) -> Vec<Reply> {
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

#[test]
fn an_agent_whose_key_may_not_ask_any_more_is_told_so_and_no_other_one_is() {
    for left in [vec![(1, Role::Drive)], vec![(1, Role::Drive), (2, Role::Watch)]] {
        let mut world = World::new();
        let both = keys(&[(1, Role::Drive), (2, Role::Drive)]);
        world.bench.hub.keys(both.clone(), world.bench.now);
        for (n, name) in [(1, "did:key:z1"), (2, "did:key:z2")] {
            world.ask(said(of(n, Role::Drive), name, on(u16::from(n)), n, Wanted::Prompt("x".into())));
        }
        let changed = |world: &mut World, keys: &Arc<KeySet>| {
            world.bench.hub.keys(keys.clone(), world.bench.now);
            world.agents.keys_changed(keys, &mut world.bench.hub, world.bench.now);
            world.carry_out()
        };
        assert!(changed(&mut world, &both).is_empty(), "both may ask as before");
        let replies = changed(&mut world, &keys(&left));
        assert_eq!(errors(&replies), [("did:key:z2".into(), 2)]);
        assert_eq!((world.watchers(), world.agents.agents.len(), world.agents.by_did.len()), (1, 1, 1));
        let answered = world.cli(turn(true, "completed"));
        assert!(matches!(&answered[..], [Reply { typ: Type::RESPONSE, to, .. }] if **to == *"did:key:z1"));
    }
}

#[test]
fn a_message_that_is_not_taken_is_refused_on_its_connection_alone() {
    let mut world = World::new();
    world.prompts(on(0), 1);
    let other = world.says(on(3), Role::Drive, 1, Wanted::Prompt("y".into()));
    assert_eq!(errors(&other), [(on(3).to_string(), 1)], "its id is another one's");
    let none = Wanted::Decide { reply_to: None, decision: None, message: None, answers: Vec::new() };
    let refused = said(Caller::sample("SHA256:a", 1, Role::Drive), "did:key:zA", on(4), 7, none);
    world.agents.overloaded(refused, world.bench.now);
    assert_eq!(errors(&world.carry_out()), [(on(4).to_string(), 7)]);
    // What the session itself refuses its agent is told.
    let refused = world.says(on(0), Role::Watch, 8, Wanted::Prompt("x".into()));
    assert_eq!(errors(&refused), [("did:key:zA".into(), 8)]);
}

#[test]
fn a_question_is_answered_with_answers() {
    let questions = Json::parse(r#"[{"question":"Which?","options":[{"label":"A"}]}]"#).unwrap();
    let mut world = World::new();
    world.says(on(0), Role::Approve, 1, Wanted::Prompt("x".into()));
    let claude::Event::Permission(plain) = asks("r", None) else { unreachable!() };
    let input = Json::parse(&format!(r#"{{"questions":{}}}"#, questions.as_str())).unwrap();
    let question = claude::Permission {
        request: "q".into(),
        tool: claude::ASKING_TOOL.into(),
        input,
        questions: Some(questions),
        ..plain.clone()
    };
    let put = |world: &mut World, asked| match &world.cli(claude::Event::Permission(asked))[..] {
        [Reply { typ: Type::INPUT_REQUIRED, id, .. }] => id.0.to_vec(),
        replies => panic!("{replies:?}"),
    };
    let (plain, question) = (put(&mut world, plain), put(&mut world, question));
    let mut n = 1;
    let mut taken = |put: &[u8], decision: &str, answers: &[&str]| {
        n += 1;
        let answers = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let (reply_to, decision) = (Some(put.to_vec()), Some(decision.into()));
        world.says(on(0), Role::Approve, n, Wanted::Decide { reply_to, decision, message: None, answers }).is_empty()
    };
    let tries: [(&[u8], &str, &[&str], bool); 5] = [
        (&plain, "answer", &[], false),
        (&question, "answer", &[], false),
        (&question, "allow", &[], false),
        (&question, "maybe", &["1"], false),
        (&question, "answer", &["1"], true),
    ];
    for (put, decision, answers, is_taken) in tries {
        assert_eq!(taken(put, decision, answers), is_taken, "{decision} {answers:?}");
    }
}

#[test]
fn an_agent_is_here_as_long_as_one_of_its_connections_is() {
    let mut world = World::new();
    for n in [1, 2] {
        world.prompts(on(0), n);
    }
    world.prompts(on(1), 3);
    for _ in 0..3 {
        world.cli(turn(true, "completed"));
    }
    // One that has asked nothing, and one of two that have.
    for gone in [7, 0] {
        world.goes(on(gone));
        assert_eq!((world.watchers(), world.agents.agents.len()), (1, 1));
    }
    world.goes(on(1));
    assert_eq!((world.watchers(), world.agents.agents.len()), (0, 0));
}
