//! What a message costs in steady state: one read for each readable socket and turn, one write for each connection that
//! was written to, and no allocation, be it answered by a copy or forwarded. A process of its own, because it counts
//! allocations; the worker is turned on the test's own thread, so that nothing else is counted.

use std::{
    alloc::System,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use amp_relay::{
    base::{ConnToken, Fault},
    reactor::{
        BoundAddr, Listen, Options, Peer, Reactor, Sent, Worker, WorkerCounters,
        ws::{Answer, Data, Ws, WsHandler, WsIo, WsOptions},
    },
    wire::{
        http::Head,
        ws::{OpCode, client_frame, frame},
    },
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Answers text by a copy and forwards bytes to everybody, the sender included.
#[derive(Default)]
struct Service {
    everybody: Vec<ConnToken>,
}

impl WsHandler for Service {
    type Conn = ();
    type Mail = ();

    fn request(&mut self, _: &Head<'_>, peer: &Peer, _: &mut WsIo<'_, Self>) -> Answer<()> {
        self.everybody.push(peer.token);
        Answer::upgrade(())
    }

    fn message(&mut self, _: &mut (), io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
        match message {
            Data::Text(text) => assert_ne!(io.text(text), Sent::Closed),
            Data::Binary(_) => {
                for &token in &self.everybody {
                    assert_ne!(io.forward_to(token, message), Sent::Closed);
                }
            }
        }
        Ok(())
    }
}

const CLIENTS: usize = 4;
/// Messages of one client that come in one read.
const DEPTH: usize = 16;
const ROUNDS: u64 = 50;
/// Parts of the rounds whose allocations are counted apart.
const PARTS: u64 = 5;
const LIMIT: Duration = Duration::from_secs(30);

struct Bench {
    worker: Worker<Ws<Service>>,
    counters: Arc<WorkerCounters>,
    clients: Vec<TcpStream>,
    room: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let listeners = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
        // As a peer is reckoned with that has shown that it reads: no client here answers a ping.
        let bound = Reactor::bind(Options { workers: 1, listeners, pace_ms: 0, ..Options::default() }).unwrap();
        let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { panic!("not TCP") };
        let counters = bound.counters()[0].clone();
        let mut workers = bound.into_workers(|_, _| Ws::new(Service::default(), WsOptions::default())).unwrap();
        let worker = workers.pop().unwrap();
        let mut bench = Self { worker, counters, clients: Vec::new(), room: vec![0; 1 << 20] };
        bench.clients = (0..CLIENTS).map(|_| bench.connect(address)).collect();
        bench
    }

    fn connect(&mut self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (mut answer, limit) = (Vec::new(), Instant::now() + LIMIT);
        while !answer.ends_with(b"\r\n\r\n") {
            assert!(Instant::now() < limit, "no upgrade");
            self.worker.turn(Some(Duration::ZERO)).unwrap();
            let _ = (&mut stream).take(4096).read_to_end(&mut answer);
        }
        stream
    }

    /// Everybody sends, the worker turns, everybody reads `expected` bytes.
    fn round(&mut self, say: &[u8], expected: usize) {
        for client in &mut self.clients {
            client.write_all(say).unwrap();
        }
        let mut got = [0; CLIENTS];
        let limit = Instant::now() + LIMIT;
        while got.iter().any(|&got| got < expected) {
            assert!(Instant::now() < limit, "{got:?} of {expected} bytes came");
            self.worker.turn(Some(Duration::ZERO)).unwrap();
            for (client, got) in self.clients.iter_mut().zip(&mut got) {
                *got += client.read(&mut self.room).unwrap_or(0);
            }
        }
        assert_eq!(got, [expected; CLIENTS]);
    }

    /// Runs rounds and says what they cost: allocations, reads, writes.
    fn cost(&mut self, say: &[u8], expected: usize) -> (usize, u64, u64) {
        for _ in 0..5 {
            self.round(say, expected);
        }
        let (reads, writes) = (self.counters.reads.get(), self.counters.writes.get());
        // The test program's own thread may allocate at any time, but not in every part.
        let parts = (0..PARTS).map(|_| {
            let region = Region::new(ALLOCATOR);
            for _ in 0..ROUNDS / PARTS {
                self.round(say, expected);
            }
            let change = region.change();
            change.allocations + change.reallocations
        });
        let allocations = parts.min().unwrap_or_default();
        let calls = (self.counters.reads.get() - reads, self.counters.writes.get() - writes);
        (allocations, calls.0, calls.1)
    }
}

#[test]
fn a_message_in_steady_state_costs_no_allocation_and_its_turn_one_call_each_way() {
    let mut bench = Bench::new();
    let per_client = ROUNDS * CLIENTS as u64;
    for size in [10, 128, 1024] {
        let payload = vec![b'm'; size];
        let say = client_frame(OpCode::Text, &payload, [1, 2, 3, 4]).repeat(DEPTH);
        let expected = frame(OpCode::Text, &payload).len() * DEPTH;
        let (allocations, reads, writes) = bench.cost(&say, expected);
        assert_eq!(allocations, 0, "echo of {size} bytes");
        // What was sent at once came at once: one read and one write for its sixteen messages.
        assert_eq!((reads, writes), (per_client, per_client), "echo of {size} bytes");

        let say = client_frame(OpCode::Binary, &payload, [1, 2, 3, 4]).repeat(DEPTH);
        let (allocations, reads, writes) = bench.cost(&say, expected * CLIENTS);
        assert_eq!(allocations, 0, "forwarding {size} bytes");
        assert_eq!(reads, per_client, "forwarding {size} bytes");
        assert!(writes <= per_client, "forwarding {size} bytes: {writes} writes");
    }
    assert_eq!(bench.counters.panics.get(), 0);
}
