//! The directory's hot path: finding out where a message goes, for a DID of this worker, a DID of another worker, and
//! an unknown DID; and what it costs to carry a message to another worker's directory and deliver it there.

use std::hint::black_box;

use amp_relay::{
    base::ConnToken,
    relay::directory::{Directory, Event, Options, Payload, Route},
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

#[derive(Clone)]
struct Message;

impl Payload for Message {
    type ReturnAddress = ();

    fn size(&self) -> usize {
        128
    }

    fn return_address(&self) {}
}

fn did(n: u32) -> String {
    format!("did:key:z6Mk{n:044}")
}

fn settle(workers: &mut [Directory<Message>]) {
    loop {
        let mut moved = false;
        for from in 0..workers.len() {
            for to in 0..workers.len() {
                for message in workers[from].take(to as u16, usize::MAX, usize::MAX) {
                    workers[to].receive(message);
                    moved = true;
                }
            }
            while workers[from].event().is_some() {}
        }
        if !moved {
            return;
        }
    }
}

/// Two workers with `agents` DIDs, each connected to one of them.
fn workers(agents: u32) -> Vec<Directory<Message>> {
    let mut workers: Vec<_> = (0..2).map(|worker| Directory::new(Options::new(worker, 2, 0x5EED))).collect();
    for n in 0..agents {
        let worker = (n % 2) as u16;
        let joined = workers[usize::from(worker)].join(did(n), ConnToken::new(worker, n / 2, 0));
        assert_eq!(joined, Ok(()));
        if n % 1_000 == 0 {
            settle(&mut workers);
        }
    }
    settle(&mut workers);
    workers
}

fn route(c: &mut Criterion) {
    for agents in [16, 10_000] {
        let workers = workers(agents);
        let mut group = c.benchmark_group(format!("route_{agents}"));
        for (name, first, step) in [("local", 0, 2), ("remote", 1, 2), ("miss", agents, 1)] {
            // Names in an order that a prefetcher does not guess.
            let names: Vec<_> = (0..agents).map(|n| did(first + step * (n * 7_919 % (agents / 2)))).collect();
            let mut at = 0;
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    at = if at + 1 == names.len() { 0 } else { at + 1 };
                    matches!(black_box(&workers[0]).route(black_box(&names[at])), Route::Local(_))
                });
            });
        }
        group.finish();
    }
}

fn cross(c: &mut Criterion) {
    let mut workers = workers(10_000);
    let sender = Some(ConnToken::new(0, 0, 0));
    let names: Vec<_> = (0..10_000).map(|n| did(1 + 2 * (n * 7_919 % 5_000))).collect();
    let mut at = 0;
    c.bench_function("cross_and_deliver_64", |b| {
        b.iter(|| {
            for _ in 0..64 {
                at = if at + 1 == names.len() { 0 } else { at + 1 };
                let Route::Elsewhere(key) = workers[0].route(&names[at]) else { return };
                workers[0].send(key, &names[at], sender, Message);
            }
            for message in workers[0].take(1, usize::MAX, usize::MAX) {
                workers[1].receive(message);
            }
            while let Some(event) = workers[1].event() {
                assert!(matches!(event, Event::Deliver { .. }));
            }
        });
    });
}

criterion_group!(benches, route, cross);
criterion_main!(benches);
