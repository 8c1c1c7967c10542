//! Goal: order, no loss while connected, nothing for a stale token, an answer exactly when nobody is there, whatever
//! comes and goes. Method: the directories of several workers talk through inboxes that are delayed, batched and
//! sometimes full, in an order drawn from a seed; peers connect, leave, come back elsewhere and send. Every delivery
//! and answer is checked when it happens, and everything once more when it has come to rest.
//!
//! `AMP_SIM_SEED=n` plays one seed again; `AMP_SIM_SEEDS=n` plays n of them instead of 512.

mod world;

use std::collections::BTreeSet;

use crate::{rng::Rng, sweep::sweep};
use amp_relay::{
    base::ConnToken,
    relay::directory::{Options, Why},
};
use world::World;

const STEPS: u64 = 1_500;

/// Plays one seed. Says what came up.
fn play(seed: u64) -> BTreeSet<&'static str> {
    let mut rng = Rng(seed);
    let (mut world, tight) = world::world(&mut rng);
    let dids = 1 + rng.below(5);
    // Some runs have much coming and going, some have little.
    let churn = 1 + rng.below(12);
    let laziness = rng.below(80);
    for _ in 0..STEPS {
        let worker = rng.below(u64::from(world.options.workers)) as usize;
        let did = rng.below(dids) as usize;
        let connected: Vec<ConnToken> = world.conns.keys().copied().collect();
        match rng.below(100) {
            dice if dice < churn && connected.len() < 12 => {
                world.connect(worker, did);
            }
            dice if dice < 2 * churn => {
                if let Some(&token) = rng.pick(&connected) {
                    world.disconnect(token);
                }
            }
            dice if dice < 55 => {
                // Those who wait for `Joined` do not send yet: HELLO_ACK comes first.
                let joined: Vec<_> = connected.into_iter().filter(|token| world.conns[token].joined).collect();
                if let Some(&sender) = rng.pick(&joined) {
                    (0..1 + rng.below(3)).for_each(|_| world.send(sender, did));
                }
            }
            _ => {
                world.receive(worker, rng.below(4) as usize);
                if !rng.chance(laziness) {
                    world.flush(worker);
                }
            }
        }
    }
    world.rest();
    world.check();
    seen(&world, tight)
}

fn seen(world: &World, tight: bool) -> BTreeSet<&'static str> {
    let answered = |why| world.letters.iter().filter(|letter| letter.answered == Some(why)).count() as u64;
    if !tight {
        let dropped = world.sum(|counters| counters.answers_dropped);
        assert_eq!((answered(Why::Busy), world.refused, dropped), (0, 0, 0), "there was room");
    }
    assert_eq!(answered(Why::Lost), 0, "nothing goes round");
    let facts = [
        ("take-overs", world.sum(|counters| counters.takeovers)),
        ("absent", answered(Why::Absent)),
        ("busy", answered(Why::Busy)),
        ("refused", world.refused as u64),
        ("full inboxes", world.full as u64),
        ("misses", world.sum(|counters| counters.misses)),
        ("crossings", world.sum(|counters| counters.crossed)),
        ("copies for connections that had gone", world.sum(|counters| counters.copies_stale)),
        ("answers for senders that had gone", world.sum(|counters| counters.answers_stale)),
        ("several receivers", world.letters.iter().filter(|letter| letter.delivered.len() > 2).count() as u64),
    ];
    facts.into_iter().filter(|&(_, times)| times > 0).map(|(name, _)| name).collect()
}

#[test]
fn order_and_delivery_hold_for_every_seed() {
    let (met, many) = sweep(play);
    assert!(!many || met.len() == 10, "the sweep met only {met:?}");
}

/// A sender and a receiver on different workers; a third that connects and leaves under the DID of one of them.
fn third_comes_and_goes(under: usize) {
    const MESSAGES: usize = 10_000;
    let mut rng = Rng(7);
    let mut world = World::new(Options::new(0, 3, 0x5EED), 4, 16);
    let sender = world.connect(0, 0).expect("room");
    let receiver = world.connect(1, 1).expect("room");
    world.rest();
    let (mut third, mut came) = (None, 0);
    while world.letters.len() < MESSAGES {
        world.send(sender, 1);
        if rng.chance(10) {
            match third.take() {
                Some(token) => world.disconnect(token),
                None => {
                    came += 1;
                    third = world.connect(rng.below(3) as usize, under);
                }
            }
        }
        let worker = rng.below(3) as usize;
        world.receive(worker, 4);
        world.flush(worker);
    }
    world.rest();
    world.check();
    assert!(came > 400);
    assert!(world.letters.iter().all(|letter| letter.delivered.contains(&receiver)), "in order: see `deliver`");
}

#[test]
fn a_third_under_the_receivers_did_takes_nothing_away() {
    third_comes_and_goes(1);
}

#[test]
fn a_third_under_the_senders_did_changes_nothing() {
    third_comes_and_goes(0);
}
