//! What a protocol leaves for the end of a turn when it is called behind it: the next turn comes at once, though
//! nothing else happens.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use amp_relay::{
    base::Fault,
    reactor::{BoundAddr, Io, Listen, Options, Peer, Protocol, Reactor, Refuse, Sent},
};
use bytes::Bytes;

/// Takes the send queue above its high mark at the first byte, and tells of the drain at the end of a turn.
struct Courier {
    left: usize,
    told: Arc<AtomicUsize>,
}

impl Protocol for Courier {
    type Conn = ();
    type Mail = ();

    fn accept(&mut self, _: &mut Io<'_, Self>, _: &Peer) -> Result<(), Refuse> {
        Ok(())
    }

    fn input(&mut self, _: &mut (), io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
        assert_eq!(io.send(Bytes::from(vec![b'x'; LEN])), Sent::High);
        Ok(bytes.len())
    }

    fn writable(&mut self, _: &mut (), _: &mut Io<'_, Self>) {
        self.left += 1;
    }

    fn turn(&mut self, _: &mut Io<'_, Self>) {
        self.told.fetch_add(std::mem::take(&mut self.left), Ordering::Relaxed);
    }
}

/// Above the high mark of the default options.
const LEN: usize = 300 * 1024;

#[test]
fn what_a_drain_leaves_is_told_though_nothing_else_happens() {
    let listeners = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
    let bound = Reactor::bind::<Courier>(Options { workers: 1, listeners, ..Options::default() }).unwrap();
    let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { panic!("not TCP") };
    let told = Arc::new(AtomicUsize::new(0));
    let handle = bound.start(|_, _| Courier { left: 0, told: told.clone() }).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut vec![0; LEN]).unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    while told.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < limit, "the worker sleeps on what it was left");
        std::thread::yield_now();
    }
    drop(stream);
    handle.drain();
    handle.join().unwrap();
}
