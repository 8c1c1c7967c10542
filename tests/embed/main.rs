//! Foreign services on the loop, as a host without any of the relay's features would write them: a line protocol on TCP
//! and on a Unix socket in `lines`, a WebSocket service in `ws`, one that strangers crowd in `strangers`, and forwarding
//! without a copy in `forward`, on a worker that the test turns by hand (`hand`). Real sockets, no fixed ports, no sleeps.

mod forward;
mod hand;
mod lines;
mod strangers;
mod ws;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use amp_relay::reactor::{Bound, BoundAddr, Handle, Mailer, Protocol, Snapshot, WorkerCounters};

/// A loop that runs, with what a test looks at.
struct Running<M> {
    handle: Handle,
    addrs: Vec<BoundAddr>,
    mailers: Vec<Mailer<M>>,
    counters: Arc<[Arc<WorkerCounters>]>,
}

impl<M: Send + 'static> Running<M> {
    fn start<P: Protocol<Mail = M>>(bound: Bound<P>, protocol: impl FnMut(u16, &[Mailer<M>]) -> P) -> Self {
        let (addrs, mailers, counters) = (bound.local_addrs().to_vec(), bound.mailers(), bound.counters());
        Self { handle: bound.start(protocol).unwrap(), addrs, mailers, counters }
    }

    fn tcp(&self) -> SocketAddr {
        let tcp = self.addrs.iter().find_map(|addr| match addr {
            BoundAddr::Tcp(address) => Some(*address),
            BoundAddr::Unix(_) => None,
        });
        tcp.unwrap()
    }

    fn sum(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for worker in self.counters.iter() {
            sum.add(&worker.snapshot());
        }
        sum
    }

    /// Waits until the counters of all workers together say so.
    fn until(&self, what: &str, holds: impl Fn(&Snapshot) -> bool) {
        let limit = Instant::now() + Duration::from_secs(30);
        while !holds(&self.sum()) {
            assert!(Instant::now() < limit, "waited too long for: {what}; {:?}", self.sum());
            std::thread::yield_now();
        }
    }

    /// Lets the clients go first: a drain would wait for them.
    fn end<C>(self, clients: C) {
        drop(clients);
        self.handle.drain();
        self.handle.join().unwrap();
    }
}
