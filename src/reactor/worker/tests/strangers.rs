//! Which connections give way to new ones, and how many.

use super::*;
use crate::reactor::worker::read::LINGER_BYTES;

/// A worker with so many connections that show nothing, which do not go by themselves.
fn crowded(strangers: usize) -> (Worker<Strangers>, Vec<TcpStream>) {
    let options = Options {
        workers: 1,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
        provisional_max: 8,
        linger_ms: LINGER_MS,
        ..Options::default()
    };
    let bound = Reactor::bind::<Strangers>(options).unwrap();
    let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { panic!("not TCP") };
    let mut worker = bound.into_workers(|_, _| Strangers).unwrap().pop().unwrap();
    let streams = (0..strangers)
        .map(|count| {
            // One by one, so that the slots are in their order.
            let stream = TcpStream::connect(address).unwrap();
            until(&mut worker, "it is here", |worker| worker.core.slots.len() == count + 1);
            stream
        })
        .collect();
    (worker, streams)
}

/// The slots of connections that were told to go.
fn leaving(worker: &Worker<Strangers>) -> Vec<u32> {
    let closes = |slot: &u32| worker.core.slots.token_at(*slot).is_some_and(|token| has(worker, token, Flags::CLOSING));
    (0..8).filter(closes).collect()
}

#[test]
fn no_more_give_way_while_enough_of_them_leave() {
    let (mut worker, _strangers) = crowded(8);
    for _ in 0..5 {
        assert!(worker.core.displace(), "some leave");
        worker.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(worker.core.counters.displaced.get(), 2, "the two that leave are enough");
}

#[test]
fn two_give_way_at_a_time_the_oldest_first() {
    let (mut worker, _strangers) = crowded(8);
    assert!(worker.core.displace());
    assert_eq!(leaving(&worker), [0, 1]);
}

#[test]
fn one_that_leaves_is_not_waited_for_where_another_comes() {
    let (mut worker, strangers) = crowded(8);
    let address = strangers[0].peer_addr().unwrap();
    // Those that are told to go do not, and have much longer than this test.
    for count in 1..=20 {
        let _late = TcpStream::connect(address).unwrap();
        until(&mut worker, "it has its place", |worker| worker.core.counters.accepted.get() == 8 + count);
    }
    assert!(worker.core.slots.len() <= 8 && worker.core.provisional.len() <= 8);
}

#[test]
fn one_that_is_spared_gives_way_after_all_others_and_is_spared_once() {
    let (mut worker, _strangers) = crowded(3);
    let first = worker.core.slots.token_at(0).unwrap();
    worker.core.spare(first);
    assert!(worker.core.displace());
    assert_eq!(leaving(&worker), [1, 2], "those that have shown nothing");
    assert!(worker.core.displace() && has(&worker, first, Flags::CLOSING), "it has had its turn");
    assert!(!worker.core.displace(), "none is left");
}

#[test]
fn no_more_are_confirmed_than_leave_places_for_those_that_come() {
    const MOST: usize = 12;
    let options = Options {
        workers: 1,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
        connections_max: MOST,
        unix_reserve: 0,
        ..Options::default()
    };
    let bound = Reactor::bind::<Strangers>(options).unwrap();
    let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { panic!("not TCP") };
    let mut worker = bound.into_workers(|_, _| Strangers).unwrap().pop().unwrap();
    let mut all = Vec::new();
    let confirmed = (0..MOST as u32)
        .filter(|slot| {
            all.push(TcpStream::connect(address).unwrap());
            until(&mut worker, "it is here", |worker| worker.core.slots.len() == all.len());
            let token = worker.core.slots.token_at(*slot).unwrap();
            worker.core.confirm(token)
        })
        .count();
    assert!((1..MOST).contains(&confirmed), "{confirmed} of {MOST}");
    assert_eq!(worker.core.counters.refused.get(), (MOST - confirmed) as u64, "those that are not are counted");
    assert_eq!(worker.core.provisional.len(), MOST - confirmed);
}

#[test]
fn a_turn_reads_little_of_a_connection_that_has_shown_nothing() {
    let (mut worker, mut streams) = crowded(1);
    let token = worker.core.slots.token_at(0).unwrap();
    let bytes = [0; 64 * 1024];
    let most = |worker: &mut Worker<Strangers>, stream: &mut TcpStream| {
        stream.write_all(&bytes).unwrap();
        let (begin, mut before, mut most) = (worker.core.counters.bytes_in.get(), 0, 0);
        until(worker, "all is read", |worker| {
            let read = worker.core.counters.bytes_in.get() - begin;
            most = most.max(read - before);
            before = read;
            read == bytes.len() as u64
        });
        most
    };
    assert_eq!(most(&mut worker, &mut streams[0]), 4 * 1024);
    assert!(worker.core.confirm(token));
    assert!(most(&mut worker, &mut streams[0]) > 4 * 1024, "it has shown that it may stay");
}

#[test]
fn a_peer_of_a_closed_connection_is_not_read_without_end() {
    let (mut worker, mut streams) = crowded(1);
    let token = worker.core.slots.token_at(0).unwrap();
    worker.core.close(token, Close::Local(CloseCode::NORMAL));
    until(&mut worker, "it is closed", |worker| has(worker, token, Flags::CLOSED));
    let (stream, bytes) = (&mut streams[0], vec![0; 1 << 20]);
    stream.set_nonblocking(true).unwrap();
    let mut idle = 0;
    while idle < 5 {
        let before = worker.core.counters.bytes_in.get();
        assert!(before < 2 * u64::from(LINGER_BYTES), "it is read on");
        let is_full = stream.write(&bytes).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        worker.turn(Some(Duration::from_millis(1))).unwrap();
        idle = if is_full && worker.core.counters.bytes_in.get() == before { idle + 1 } else { 0 };
    }
    assert!(worker.core.counters.bytes_in.get() >= u64::from(LINGER_BYTES));
}

#[test]
fn a_connection_that_closes_is_not_confirmed_and_one_that_is_gone_leaves_nothing() {
    let (mut worker, _streams) = crowded(2);
    let [closing, gone] = [0, 1].map(|slot| worker.core.slots.token_at(slot).unwrap());
    worker.core.close(closing, Close::Local(CloseCode::NORMAL));
    assert!(!worker.core.confirm(closing) && worker.core.confirm(gone));
    let now_ms = worker.core.now.mono_ms;
    worker.core.wheel.set(gone.slot(), now_ms + 1_000);
    assert_eq!(worker.core.send(gone, Bytes::from_static(b"not written")), Sent::Queued);
    worker.free(gone);
    assert_eq!(worker.core.wheel.wait_ms(now_ms), None, "the next one of its slot is not timed by it");
    assert_eq!(worker.core.queue_bytes, 0);
}

#[test]
fn a_stranger_gives_way_to_the_unix_socket_at_once_where_all_places_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let options = Options {
        workers: 1,
        listeners: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap()), Listen::Unix(path.clone())],
        connections_max: 4,
        unix_reserve: 1,
        linger_ms: LINGER_MS,
        ..Options::default()
    };
    let bound = Reactor::bind::<Strangers>(options).unwrap();
    let tcp = bound.local_addrs().iter().find_map(|addr| match addr {
        BoundAddr::Tcp(address) => Some(*address),
        BoundAddr::Unix(_) => None,
    });
    let mut worker = bound.into_workers(|_, _| Strangers).unwrap().pop().unwrap();
    let _strangers: Vec<_> = (1..=3)
        .map(|count| {
            let stream = TcpStream::connect(tcp.unwrap()).unwrap();
            until(&mut worker, "it is here", |worker| worker.core.slots.len() == count);
            stream
        })
        .collect();
    let mut local = Vec::new();
    for count in 1..=2 {
        local.push(UnixStream::connect(&path).unwrap());
        let done = |worker: &mut Worker<Strangers>| {
            worker.core.counters.accepted.get() == 3 + count || worker.core.counters.refused.get() > 0
        };
        until(&mut worker, "it is here", done);
    }
    let counters = &worker.core.counters;
    assert_eq!((counters.refused.get(), worker.core.slots.len()), (0, 4));
    assert!(counters.displaced.get() > 0);
}
