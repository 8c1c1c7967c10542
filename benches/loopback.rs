//! The whole way: a relay with one worker, agents that have signed in over TCP, messages of 128 bytes from one to the
//! other, so many on the way at any time. The client shares the machine and costs about as much as the relay, so this is
//! a lower bound; `loadtest` measures the relay apart.

#[path = "../tests/hot_path/mod.rs"]
mod hot_path;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use amp_relay::server::Server;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use hot_path::{Agent, Batch, Key, LIMIT, host_key, options, tcp};

const BODY_BYTES: usize = 128;

/// A sender and a receiver, on one thread.
struct Pair {
    sender: Agent,
    receiver: Agent,
    batch: Batch,
}

impl Pair {
    fn new(address: SocketAddr, keys: &[Key], depth: usize) -> Self {
        let batch = Batch::new(&keys[0], &[&keys[1]], depth, BODY_BYTES);
        let [sender, receiver] = [0, 1].map(|at| Agent::sign_in(address, &keys[at], thread::yield_now));
        Self { sender, receiver, batch }
    }

    /// Moves so many messages, a batch on the way at any time: what has come is followed by as many.
    fn carry(&mut self, messages: u64) -> Duration {
        let begin = Instant::now();
        let (size, mut bytes) = (self.batch.received_bytes(), 0);
        let (mut sent, mut come) = (0, 0);
        while come < messages {
            let free = self.batch.count as u64 - (sent - come);
            let next = free.min(messages - sent);
            if next > 0 {
                self.sender.write_all(self.batch.fresh(next as usize), &mut thread::yield_now);
                sent += next;
            }
            let read = self.receiver.read();
            bytes += read;
            come += (bytes / size) as u64;
            bytes %= size;
            if read == 0 {
                assert!(begin.elapsed() < LIMIT * 10, "{come} of {messages} have come");
                thread::yield_now();
            }
        }
        begin.elapsed()
    }
}

fn loopback(c: &mut Criterion) {
    let mut group = c.benchmark_group("loopback");
    group.throughput(Throughput::Elements(1));
    let keys: Vec<_> = (0..2).map(Key::new).collect();
    let (options, _folder) = options(&keys);
    let server = Server::start(&options, host_key()).expect("a relay");
    let address = tcp(server.addresses());
    for depth in [1, 64, 256] {
        let mut pair = Pair::new(address, &keys, depth);
        group.bench_function(BenchmarkId::new("depth", depth), |b| b.iter_custom(|messages| pair.carry(messages)));
    }
    group.finish();
    server.stopper().drain();
    server.join().expect("it ends");
}

criterion_group!(benches, loopback);
criterion_main!(benches);
