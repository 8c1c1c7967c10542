//! A thousand peers that vanish in the middle of their handshake leave nothing behind: slots, descriptors and kept
//! bytes come back. A process of its own, because it counts descriptors.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use amp_relay::{
    base::Fault,
    reactor::{
        BoundAddr, Listen, Options, Peer, Reactor,
        ws::{Answer, Data, Ws, WsHandler, WsIo, WsOptions},
    },
    wire::http::{Head, Response},
};

struct Nobody;

impl WsHandler for Nobody {
    type Conn = ();
    type Mail = ();

    fn request(&mut self, _: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<()> {
        Answer::Respond(Response::text(200, "ok"))
    }

    fn message(&mut self, _: &mut (), _: &mut WsIo<'_, Self>, _: Data<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < limit, "waited too long for: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_thousand_vanish_in_mid_handshake() {
    const MANY: u64 = 1_000;
    let listeners = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
    let bound = Reactor::bind::<Ws<Nobody>>(Options { workers: 2, listeners, ..Options::default() }).unwrap();
    let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { panic!("not TCP") };
    let address: SocketAddr = address;
    let counters = bound.counters();
    let handle = bound.start(|_, _| Ws::new(Nobody, WsOptions::default())).unwrap();
    let sum = |read: fn(&amp_relay::reactor::Snapshot) -> u64| {
        counters.iter().map(|worker| read(&worker.snapshot())).sum::<u64>()
    };
    let before = descriptors();
    for n in 0..MANY {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /session HTTP/1.1\r\nHost: localhost\r\nConnection: Upg").unwrap();
        if n % 2 == 0 {
            // Half of them by a reset instead of an orderly end.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    until("all of them", || sum(|s| s.accepted) == MANY);
    until("their end", || sum(|s| s.open) == 0 && sum(|s| s.closed.iter().sum()) == MANY);
    until("the descriptors", || descriptors() <= before);
    assert_eq!(sum(|s| s.kept_bytes), 0);
    assert_eq!(sum(|s| s.queue_bytes), 0);
    assert_eq!(sum(|s| s.panics), 0);
    handle.drain();
    handle.join().unwrap();
}
