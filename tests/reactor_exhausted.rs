//! When descriptors run out, accepting pauses instead of spinning, those who are connected are served, and the rest is
//! accepted once there are descriptors again. A process of its own, because it lowers the limit.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use amp_relay::{
    base::Fault,
    reactor::{BoundAddr, Io, Listen, Options, Peer, Protocol, Reactor, Refuse},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sends back what it hears.
struct Echo;

impl Protocol for Echo {
    type Conn = ();
    type Mail = ();

    fn accept(&mut self, _: &mut Io<'_, Self>, _: &Peer) -> Result<(), Refuse> {
        Ok(())
    }

    fn input(&mut self, _: &mut (), io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
        let _ = io.forward(io.token(), 0..bytes.len());
        Ok(bytes.len())
    }
}

fn ask(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn accepting_pauses_without_descriptors_and_goes_on_with_them() {
    const CLIENTS: u64 = 20;
    let listeners = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
    let bound = Reactor::bind::<Echo>(Options { workers: 1, listeners, ..Options::default() }).unwrap();
    let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { panic!("not TCP") };
    let counters = bound.counters();
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let limit = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < limit, "waited too long for: {what}; {:?}", counters[0].snapshot());
            std::thread::yield_now();
        }
    };
    // They wait in the listener's queue: nobody accepts before the start.
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream
        })
        .collect();
    // A limit below which a few numbers are free: descriptors that were inherited may leave gaps.
    let names = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    let used: Vec<u64> = names.map(|name| name.to_str().unwrap().parse().unwrap()).collect();
    let limit = (0..).filter(|number| !used.contains(number)).nth(6).unwrap();
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: before.maximum }).unwrap();

    let handle = bound.start(|_, _| Echo).unwrap();
    until("two pauses", &|| counters[0].snapshot().accept_pauses >= 2);
    let accepted = counters[0].snapshot().accepted;
    assert!((1..CLIENTS).contains(&accepted), "{accepted}");
    ask(&mut clients[0]);
    let seen = counters[0].snapshot();
    assert!(seen.turns < 20 + 2 * seen.accept_pauses + 2 * CLIENTS, "it spins: {seen:?}");

    setrlimit(Resource::Nofile, before).unwrap();
    until("all of them", &|| counters[0].snapshot().accepted == CLIENTS);
    clients.iter_mut().for_each(ask);
    drop(clients);
    handle.drain();
    handle.join().unwrap();
}
