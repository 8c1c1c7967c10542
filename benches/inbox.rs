//! The hop into a thread: pushing and taking on one thread, what a message costs another thread that is kept busy, one
//! by one and in batches as workers send them, and what it costs to wake a thread that sleeps in its poll.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use amp_relay::reactor::{Receiver, Sender, inbox};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// As many as a worker's inbox takes.
const CAPACITY: usize = 4_096;
const BATCH: u64 = 64;

/// What ends a receiving thread.
const END: u64 = u64::MAX;

fn pair<T: Send>() -> (mio::Poll, Sender<T>, Receiver<T>) {
    let poll = mio::Poll::new().expect("a poll");
    let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
    let (sender, receiver) = inbox(CAPACITY, waker);
    (poll, sender, receiver)
}

/// Takes messages until `take` says that it was the last, sleeping in the poll when there are none.
fn receive<T: Send>(mut poll: mio::Poll, receiver: &Receiver<T>, mut take: impl FnMut(T) -> bool) {
    let mut events = mio::Events::with_capacity(4);
    loop {
        while let Some(message) = receiver.try_recv() {
            if !take(message) {
                return;
            }
        }
        if receiver.sleep_begin() {
            poll.poll(&mut events, None).expect("a poll");
        }
        receiver.sleep_end();
    }
}

fn send<T: Send>(sender: &Sender<T>, mut message: T) {
    while let Err(back) = sender.try_send(message) {
        message = back;
        thread::yield_now();
    }
}

fn one_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("inbox_one_thread");
    let (_poll, sender, receiver) = pair::<u64>();
    group.throughput(Throughput::Elements(1));
    group.bench_function("single", |b| {
        b.iter(|| {
            send(&sender, black_box(7));
            receiver.try_recv()
        });
    });
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("64_one_by_one", |b| {
        b.iter(|| {
            (0..BATCH).for_each(|n| send(&sender, black_box(n)));
            let mut sum = 0;
            while let Some(n) = receiver.try_recv() {
                sum += n;
            }
            sum
        });
    });
    let (_poll, sender, receiver) = pair::<Vec<u64>>();
    group.bench_function("batch_of_64", |b| {
        b.iter(|| {
            send(&sender, (0..BATCH).map(black_box).collect());
            receiver.try_recv().into_iter().flatten().sum::<u64>()
        });
    });
    group.finish();
}

/// What `count` messages take until the other thread has taken the last.
fn across(mut push: impl FnMut(u64), taken: &AtomicU64, count: u64) -> Duration {
    let until = taken.load(Ordering::Acquire) + count;
    let begin = Instant::now();
    (0..count).for_each(&mut push);
    while taken.load(Ordering::Acquire) < until {
        thread::yield_now();
    }
    begin.elapsed()
}

fn two_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("inbox_two_threads");
    let taken = AtomicU64::new(0);
    group.throughput(Throughput::Elements(1));
    thread::scope(|scope| {
        let (poll, sender, receiver) = pair::<u64>();
        let taken = &taken;
        scope.spawn(move || {
            receive(poll, &receiver, |message| {
                taken.fetch_add(1, Ordering::Release);
                message != END
            });
        });
        group.bench_function("single", |b| b.iter_custom(|count| across(|n| send(&sender, n), taken, count)));
        send(&sender, END);
    });

    group.throughput(Throughput::Elements(BATCH));
    thread::scope(|scope| {
        let (poll, sender, receiver) = pair::<Vec<u64>>();
        let taken = &taken;
        scope.spawn(move || {
            receive(poll, &receiver, |batch| {
                taken.fetch_add(1, Ordering::Release);
                black_box(batch.iter().sum::<u64>()) != 0
            });
        });
        group.bench_function("batch_of_64", |b| {
            b.iter_custom(|count| across(|n| send(&sender, vec![n + 1; BATCH as usize]), taken, count));
        });
        send(&sender, Vec::new());
    });
    group.finish();
}

/// There and back between two threads of which one always sleeps: two wakes.
fn wakes(c: &mut Criterion) {
    let mut group = c.benchmark_group("inbox_asleep");
    group.throughput(Throughput::Elements(2));
    thread::scope(|scope| {
        let (poll, there, receiver) = pair::<u64>();
        let (mut home, back, answers) = pair::<u64>();
        scope.spawn(move || {
            receive(poll, &receiver, |message| {
                send(&back, message);
                message != END
            });
        });
        let mut events = mio::Events::with_capacity(4);
        group.bench_function("there_and_back", |b| {
            b.iter(|| {
                send(&there, black_box(7));
                loop {
                    if let Some(answer) = answers.try_recv() {
                        return answer;
                    }
                    if answers.sleep_begin() {
                        home.poll(&mut events, None).expect("a poll");
                    }
                    answers.sleep_end();
                }
            });
        });
        send(&there, END);
    });
    group.finish();
}

criterion_group!(benches, one_thread, two_threads, wakes);
criterion_main!(benches);
