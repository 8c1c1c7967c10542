//! The ways that a message takes to its receivers: the same is promised on each of them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::wire::amp::RELAY_SERVER;

/// How a message comes to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Alone,
    /// Messages as this one came before.
    Flow,
    /// It is for another one too.
    Several,
    /// The receiver has another connection.
    Connections,
    /// Its signature is checked first.
    Checked,
    /// Its sender is another worker's.
    Elsewhere,
}

impl Way {
    const ALL: [Self; 6] = [Self::Alone, Self::Flow, Self::Several, Self::Connections, Self::Checked, Self::Elsewhere];
}

struct Scene {
    workers: Vec<Worker>,
    way: Way,
    sender: ConnToken,
    /// On the first worker.
    receiver: ConnToken,
}

impl Scene {
    fn new(way: Way) -> Self {
        let count = if way == Way::Elsewhere { 2 } else { 1 };
        let mut workers = workers_of(&Parts { verifies_all: way == Way::Checked, ..parts(count) });
        let receiver = workers[0].joins(2, &key(2), Role::Agent);
        carry(&mut workers, None);
        workers[0].joins(3, &key(if way == Way::Connections { 2 } else { 3 }), Role::Agent);
        carry(&mut workers, None);
        let sender = workers[usize::from(count) - 1].joins(1, &key(1), Role::Agent);
        carry(&mut workers, None);
        let mut scene = Self { workers, way, sender, receiver };
        if way == Way::Flow {
            (0..3).for_each(|_| scene.sends());
            assert!(scene.workers[0].delivery.flow.receiver.is_some(), "a flow");
        }
        scene
    }

    fn sends(&mut self) {
        let (one, other) = (key(2).did, key(3).did);
        let to: &[&str] = if self.way == Way::Several { &[&one, &other] } else { &[&one] };
        let (at, sender) = (usize::from(self.sender.worker()), self.sender);
        self.workers[at].says(sender, &key(1).message(Type::MESSAGE, to, cbor::NULL));
        self.workers[at].checks_all();
        carry(&mut self.workers, None);
    }

    fn receiver(&mut self) -> &mut test_net::Conn<()> {
        self.workers[0].net.conn(self.receiver)
    }

    fn got(&mut self) -> usize {
        self.receiver().sent.len()
    }

    fn is_paused(&mut self) -> bool {
        self.workers[usize::from(self.sender.worker())].net.conn(self.sender).is_paused
    }

    fn drains(&mut self) {
        let receiver = self.receiver;
        self.workers[0].drains(receiver);
        if self.way == Way::Elsewhere {
            carry(&mut self.workers, None);
        }
    }

    /// What the sender is told, late too.
    fn told(&mut self) -> Vec<Reply> {
        let (at, sender) = (usize::from(self.sender.worker()), self.sender);
        self.workers[at].passes(50, sender);
        self.workers[at].replies()
    }
}

#[test]
fn a_receiver_above_its_mark_that_takes_nothing_blocks_its_senders_on_every_way() {
    for way in Way::ALL {
        for (is_high, is_blocked) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut scene = Scene::new(way);
            let (before, what) = (scene.got(), format!("{way:?}: high {is_high}, takes nothing {is_blocked}"));
            (scene.receiver().is_high, scene.receiver().is_blocked) = (is_high, is_blocked);
            scene.sends();
            assert_eq!(scene.got(), before + 1, "{what}");
            assert_eq!(scene.is_paused(), is_high && is_blocked, "{what}");
            scene.drains();
            assert!(!scene.is_paused(), "{what}");
        }
    }
}

#[test]
fn what_a_sender_has_for_a_receiver_from_which_it_parted_is_refused_on_every_way() {
    for way in Way::ALL {
        let mut scene = Scene::new(way);
        (scene.receiver().is_high, scene.receiver().is_blocked) = (true, true);
        scene.sends();
        let (receiver, before) = (scene.receiver, scene.got());
        scene.workers[0].waits(receiver);
        if way == Way::Elsewhere {
            carry(&mut scene.workers, None);
        }
        assert!(!scene.is_paused(), "{way:?}: it has waited for long enough");
        assert_eq!((scene.workers[0].counters.stuck.get(), scene.told()), (1, Vec::new()), "{way:?}");
        scene.sends();
        let told = scene.told();
        assert_eq!((scene.got(), told.len(), scene.is_paused()), (before, 1, false), "{way:?}");
        assert!(cbor::text_of(&told[0].body, "message").is_some_and(|why| why.contains("takes too long")));
        scene.drains();
        scene.sends();
        assert_eq!((scene.got(), scene.told().len()), (before + 1, 0), "{way:?}: it has drained");
        assert_eq!(scene.workers[0].counters.stuck.get(), 0);
    }
}

#[test]
fn a_sender_is_free_when_a_receiver_that_blocks_it_ends() {
    for way in Way::ALL {
        let mut scene = Scene::new(way);
        (scene.receiver().is_high, scene.receiver().is_blocked) = (true, true);
        scene.sends();
        // Its key is revoked.
        let Worker { delivery, net, .. } = &mut scene.workers[0];
        delivery.keys_changed(scene.receiver, &KeySet::parse(""), net);
        assert_eq!(delivery.directory.did_of(scene.receiver), None, "the directory does not count on it");
        delivery.turn(net);
        carry(&mut scene.workers, None);
        assert!(!scene.is_paused(), "{way:?}");
    }
}

/// Every list of one to three of these names.
fn lists<'a>(names: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut lists: Vec<Vec<&str>> = names.iter().map(|name| vec![*name]).collect();
    for _ in 0..2 {
        let longer = lists.iter().flat_map(|list| names.iter().map(|name| [&list[..], &[*name]].concat())).collect();
        lists = [lists, longer].concat();
    }
    lists
}

#[test]
fn each_recipient_is_served_once_or_named_whatever_the_others_are() {
    let mut workers = workers(2);
    let (two, three) = (key(2), key(3));
    let sender = workers[0].joins(1, &key(1), Role::Drive);
    let receivers = [(0, 2, &two), (0, 3, &two), (1, 4, &three)];
    let tokens = receivers.map(|(at, slot, key): (usize, u32, &Key)| workers[at].joins(slot, key, Role::Agent));
    let session = Text::from("did:key:zSession");
    workers.iter_mut().for_each(|worker| worker.delivery.session("s".into(), &session));
    carry(&mut workers, None);
    let names = [&*two.did, &three.did, "did:key:zNo", RELAY, RELAY_SERVER, &session];
    for list in lists(&names) {
        let before = tokens.map(|token| workers[usize::from(token.worker())].net.conn(token).sent.len());
        workers[0].says(sender, &key(1).message(Type::PING, &list, cbor::NULL));
        carry(&mut workers, None);
        workers[0].passes(50, sender);
        for ((token, (.., key)), before) in tokens.into_iter().zip(&receivers).zip(before) {
            let got = workers[usize::from(token.worker())].net.conn(token).sent.len() - before;
            assert_eq!(got, usize::from(list.contains(&&*key.did)), "{list:?}");
        }
        let replies = workers[0].replies();
        let pongs: BTreeSet<&str> = replies.iter().filter(|r| r.typ == Type::PONG).map(|r| &*r.from).collect();
        let errors: Vec<_> = replies.iter().filter(|reply| reply.typ == Type::ERROR).collect();
        let is_for_us = list.contains(&RELAY) || list.contains(&RELAY_SERVER);
        let expected = [(RELAY, is_for_us), (&*session, list.contains(&&*session))];
        let expected: BTreeSet<_> =
            expected.into_iter().filter(|(_, is_named)| *is_named).map(|(did, _)| did).collect();
        assert_eq!(pongs, expected, "{list:?}");
        assert_eq!(errors.len(), usize::from(list.contains(&"did:key:zNo")), "{list:?}");
        assert_eq!(replies.len(), pongs.len() + errors.len(), "{list:?}: each once");
        for error in errors {
            let named = |name: &str| error.body.windows(name.len()).any(|part| part == name.as_bytes());
            let are_named = names.iter().filter(|name| named(name)).count();
            assert_eq!(are_named, usize::from(list.len() > 1), "{list:?}");
        }
    }
    assert!(!workers[0].net.conn(sender).is_paused, "all is answered");
}

#[test]
fn each_gets_the_keys_that_it_writes_or_the_sender_is_told_why_not_on_every_way() {
    for way in Way::ALL {
        let mut scene = Scene::new(way);
        let receiver = scene.receiver;
        // Its last HELLO was written with integer keys.
        let mut agent = Agent::new(receiver, false, NOW);
        agent.binary(
            &parse(&key(2).hello(RELAY, NOW.unix_ms, KeyEncoding::Int)),
            scene.workers[0].delivery.greeting(),
            NOW,
        );
        agent.admitted(scene.receiver().agent.as_ref().and_then(|agent| agent.principal().cloned()));
        scene.receiver().agent = Some(agent);
        let before = scene.got();
        scene.sends();
        let told = scene.told();
        if way == Way::Several {
            assert_eq!((scene.got(), told.len()), (before, 1), "integer keys cannot say several recipients");
            continue;
        }
        assert_eq!((scene.got(), told.len()), (before + 1, 0), "{way:?}");
        let frame = scene.receiver().sent[before].clone();
        let Ok(Frame::Envelope(view)) = parse(&frame) else { panic!("a message") };
        assert_eq!(view.key_encoding, KeyEncoding::Int, "{way:?}");
        assert_eq!((view.header.from, view.header.typ), (&*key(1).did, Type::MESSAGE));
    }
}

#[test]
fn a_sender_is_told_at_once_where_its_own_worker_cannot_pass_a_message_on() {
    let mut workers = workers(2);
    let sender = workers[0].joins(1, &key(1), Role::Agent);
    workers[1].joins(1, &key(2), Role::Agent);
    carry(&mut workers, None);
    let mut text = Vec::new();
    cbor::text(&mut text, &"x".repeat(4 << 20));
    let frame = key(1).message(Type::MESSAGE, &[&key(2).did], &text);
    // The other worker takes nothing.
    let told = (0..20).map(|_| {
        workers[0].says(sender, &frame);
        workers[0].replies().len()
    });
    assert!(told.sum::<usize>() > 0);
}

#[test]
fn what_finds_no_room_on_a_link_stays_first_in_line() {
    let mut workers = workers(2);
    let sender = workers[0].joins(1, &key(1), Role::Agent);
    let receiver = workers[1].joins(1, &key(2), Role::Agent);
    carry(&mut workers, None);
    let mut send = |n: u64| {
        let mut number = Vec::new();
        cbor::uint(&mut number, n);
        let frame = key(1).message(Type::MESSAGE, &[&key(2).did], &number);
        workers[0].says(sender, &frame);
        frame
    };
    let mut sent = vec![send(1), send(2)];
    let batch = workers[0].delivery.take_for(1).expect("a batch");
    workers[0].delivery.give_back(1, batch);
    workers[0].says(sender, &sent[0]);
    sent.push(sent[0].clone());
    carry(&mut workers, None);
    assert_eq!(workers[1].net.conn(receiver).sent[1..], sent);
}

/// A step of a play.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A connection sends some messages that follow one another: as whom, to whom, with which time to live, and of which age.
    Says {
        conn: usize,
        from: usize,
        to: usize,
        ttl: u64,
        age: u64,
        times: u8,
    },
    /// A receiver takes nothing from now on.
    Clogs(usize),
    Drains(usize),
    /// The timeout of a connection comes.
    Waits(usize),
    Leaves(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let message = (0..5_usize, prop_oneof![9 => Just(9), 1 => 0..3_usize], 0..6_usize, 1..4_u8);
    let time =
        (prop_oneof![4 => Just(60_000), 1 => Just(0), 1 => Just(5_000)], prop_oneof![4 => Just(0), 1 => Just(40_000)]);
    let says = (message, time).prop_map(|((conn, from, to, times), (ttl, age))| Step::Says {
        conn,
        from,
        to,
        ttl,
        age,
        times,
    });
    let conn = 0..5_usize;
    prop_oneof![
        8 => says,
        1 => conn.clone().prop_map(Step::Clogs),
        1 => conn.clone().prop_map(Step::Drains),
        1 => conn.clone().prop_map(Step::Waits),
        1 => conn.prop_map(Step::Leaves),
    ]
}

/// Plays the steps. Gives what each connection got and what was said to it, after each step.
fn play(steps: &[Step], has_flow: bool) -> Vec<String> {
    let mut workers = workers(2);
    // Two connections of one key, one of another worker; the key of the last writes integer keys.
    let places = [(0, 1, 1), (0, 2, 1), (0, 3, 2), (1, 1, 3), (0, 4, 4)];
    let keys = places.map(|(.., seed)| key(seed));
    let mut tokens = Vec::new();
    for ((at, slot, _), key) in places.into_iter().zip(&keys) {
        let token = workers[at].opens(slot);
        let key_encoding = if slot == 4 { KeyEncoding::Int } else { KeyEncoding::Text };
        workers[at].says(token, &key.hello(RELAY, NOW.unix_ms, key_encoding));
        workers[at].delivery.lanes.next_job();
        workers[at].is_judged(token, key, Role::Agent);
        carry(&mut workers, None);
        tokens.push(token);
    }
    let mut is_here = [true; 5];
    let said = |step: &Step| {
        match *step {
            Step::Says { conn, from, to, ttl, age, times } if is_here[conn] => {
                let from = keys.get(from).unwrap_or(&keys[conn]);
                let to = keys.get(to).map_or("did:key:zNo", |key| &key.did);
                let at = usize::from(tokens[conn].worker());
                for n in 0..times {
                    if !has_flow {
                        workers[at].delivery.flow = flow_cache::FlowCache::default();
                    }
                    let id = Id::new(NOW.unix_ms - age, [n; 8]);
                    let header = Header { ttl, ..Header::new(id, Type::MESSAGE, &from.did, To::One(to)) };
                    let mut frame = Vec::new();
                    let builder = Builder::new(header).body(cbor::NULL);
                    builder.write(KeyEncoding::Text, Some(&[n; 64]), &mut frame).expect("a message");
                    workers[at].says(tokens[conn], &frame);
                }
            }
            Step::Clogs(conn) if is_here[conn] => {
                let conn = workers[usize::from(tokens[conn].worker())].net.conn(tokens[conn]);
                (conn.is_high, conn.is_blocked) = (true, true);
            }
            Step::Drains(conn) if is_here[conn] => workers[usize::from(tokens[conn].worker())].drains(tokens[conn]),
            Step::Waits(conn) if is_here[conn] => {
                let worker = &mut workers[usize::from(tokens[conn].worker())];
                if worker.net.conn(tokens[conn]).timeout_at.is_some() {
                    worker.waits(tokens[conn]);
                }
            }
            Step::Leaves(conn) if std::mem::take(&mut is_here[conn]) => {
                workers[usize::from(tokens[conn].worker())].goes(tokens[conn]);
            }
            _ => {}
        }
        carry(&mut workers, None);
        let mut states = String::new();
        for worker in &mut workers {
            states += &format!("{:?}", worker.replies());
            for (token, conn) in &worker.net.conns {
                states +=
                    &format!("{token} {:?} {} {:?} {:?}\n", conn.sent, conn.is_paused, conn.closed, conn.timeout_at);
            }
        }
        states
    };
    steps.iter().map(said).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Messages that follow one another are judged and go as each would by itself, whatever happens in between.
    #[test]
    fn a_flow_changes_nothing(steps in prop::collection::vec(step(), 1..40)) {
        let (with, without) = (play(&steps, true), play(&steps, false));
        for (n, (with, without)) in with.into_iter().zip(without).enumerate() {
            prop_assert_eq!(with, without, "after {:?}", &steps[..=n]);
        }
    }
}

#[test]
fn a_flow_is_its_own_connections_and_ends_with_another_recipient() {
    let mut worker = worker();
    let [sender, one, other, mallory] = [1, 2, 3, 4].map(|n| worker.joins(n, &key(n as u8), Role::Agent));
    let frame = |to: u8| key(1).message(Type::MESSAGE, &[&key(to).did], cbor::NULL);
    let got = |worker: &mut Worker| [one, other].map(|token| worker.net.conn(token).sent.len() - 1);
    (0..3).for_each(|_| worker.says(sender, &frame(2)));
    assert_eq!(got(&mut worker), [3, 0]);
    worker.says(mallory, &frame(2));
    assert_eq!((got(&mut worker), worker.replies().len()), ([3, 0], 1), "it is not the sender of that flow");
    (0..3).for_each(|_| worker.says(sender, &frame(3)));
    assert_eq!(got(&mut worker), [3, 3]);
}
