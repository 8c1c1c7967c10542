//! From options to running workers: binding, mailers, threads, and their end. Owns the threads.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    task::Waker,
    thread::JoinHandle,
};

use mio::Poll;

use super::{
    counters::WorkerCounters,
    inbox::{Sender, inbox},
    link::Inbox,
    listen,
    options::{BoundAddr, Options},
    pin::pin,
    protocol::Protocol,
    shared::{InboxItem, Shared},
    worker::{Parts, Turn, WAKER, Worker},
};

/// Sends mail to one worker from any thread, also from a worker's own callbacks. It does not keep the worker running.
pub struct Mailer<M> {
    inbox: Sender<InboxItem<M>>,
}

impl<M> Clone for Mailer<M> {
    fn clone(&self) -> Self {
        Self { inbox: self.inbox.clone() }
    }
}

impl<M: Send> Mailer<M> {
    /// Sends without waiting; the worker is woken only if it sleeps. That it was taken says no more than that it is in the
    /// inbox: a worker that ends drops what it has not read.
    ///
    /// # Errors
    /// The inbox is full or the worker has ended: the mail comes back, and what then is the sender's policy. A thread that
    /// sleeps until there is room sends by a [`Link`](super::Link).
    pub fn try_send(&self, mail: M) -> Result<(), M> {
        self.inbox.try_send(InboxItem::Mail(mail)).map_err(InboxItem::mail)
    }

    /// What has the worker take a turn: for the links of the worker itself.
    pub fn waker(&self) -> Waker {
        self.inbox.waker()
    }

    /// Mail that waits (and Unix streams on their way from another worker).
    pub fn len(&self) -> usize {
        self.inbox.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }
}

impl<M: Send> Inbox for Mailer<M> {
    type Message = M;

    fn offer(&self, mail: M, waker: &Waker) -> Result<(), M> {
        self.inbox.offer(InboxItem::Mail(mail), waker).map_err(InboxItem::mail)
    }

    fn announce(&self) {
        self.inbox.announce();
    }
}

impl<M> fmt::Debug for Mailer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer").field("len", &self.inbox.len()).finish_non_exhaustive()
    }
}

/// The loop's entry.
#[derive(Debug)]
pub struct Reactor;

impl Reactor {
    /// Opens the listeners. Connections queue up from here on; they are served from [`Bound::start`] on.
    ///
    /// # Errors
    /// An address cannot be listened on (the error says which), or the system has no more descriptors.
    pub fn bind<P: Protocol>(options: Options) -> io::Result<Bound<P>> {
        let workers = options.worker_count();
        let (listeners, addrs) = listen::bind_all(&options, workers)?;
        let mut polls = Vec::with_capacity(workers);
        let mut wakers = Vec::with_capacity(workers);
        for _ in 0..workers {
            let poll = Poll::new()?;
            wakers.push(Arc::new(mio::Waker::new(poll.registry(), WAKER)?));
            polls.push(poll);
        }
        let (inboxes, receivers): (Vec<_>, Vec<_>) =
            wakers.iter().map(|waker| inbox(options.inbox_capacity, waker.clone())).unzip();
        let shared = Arc::new(Shared { wakers, ..Shared::default() });
        let counters: Vec<Arc<WorkerCounters>> = (0..workers).map(|_| Arc::default()).collect();
        let parts = polls.into_iter().zip(listeners).zip(receivers).enumerate();
        let parts = parts.map(|(index, ((poll, listeners), inbox))| Parts {
            poll,
            listeners,
            inbox,
            inboxes: inboxes.clone(),
            shared: shared.clone(),
            counters: counters[index].clone(),
            worker: index as u16,
        });
        Ok(Bound { parts: parts.collect(), options, addrs, inboxes, shared, counters: counters.into() })
    }
}

/// Listeners that are open, workers that do not run yet. The place to take what other threads need: addresses, mailers,
/// counters, control. Dropping it closes the listeners.
pub struct Bound<P: Protocol> {
    parts: Vec<Parts<P::Mail>>,
    options: Options,
    addrs: Vec<BoundAddr>,
    inboxes: Vec<Sender<InboxItem<P::Mail>>>,
    shared: Arc<Shared>,
    counters: Arc<[Arc<WorkerCounters>]>,
}

impl<P: Protocol> fmt::Debug for Bound<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("workers", &self.parts.len()).field("addrs", &self.addrs).finish_non_exhaustive()
    }
}

impl<P: Protocol> Bound<P> {
    /// What is listened on, in the order of [`Options::listeners`].
    pub fn local_addrs(&self) -> &[BoundAddr] {
        &self.addrs
    }

    /// How many workers there will be.
    pub fn workers(&self) -> usize {
        self.parts.len()
    }

    /// A mailer for each worker, by its number.
    pub fn mailers(&self) -> Vec<Mailer<P::Mail>> {
        self.inboxes.iter().map(|inbox| Mailer { inbox: inbox.clone() }).collect()
    }

    /// The counters of each worker, by its number.
    pub fn counters(&self) -> Arc<[Arc<WorkerCounters>]> {
        self.counters.clone()
    }

    /// Drain and stop from anywhere.
    pub fn control(&self) -> Control {
        Control { shared: self.shared.clone() }
    }

    /// The workers themselves, for a host with threads or a loop of its own: see [`Worker::turn`]. `protocol` is as for
    /// [`start`](Self::start). All of them must be turned, because the kernel gives each its share of the connections;
    /// [`Options::pin`] does nothing here. A worker can be moved to another thread if the connections' state can.
    ///
    /// # Errors
    /// A listener cannot be watched.
    pub fn into_workers(self, mut protocol: impl FnMut(u16, &[Mailer<P::Mail>]) -> P) -> io::Result<Vec<Worker<P>>> {
        let mailers = self.mailers();
        let options = self.options;
        let workers = self.parts.into_iter().map(|parts| {
            let protocol = protocol(parts.worker, &mailers);
            Worker::new(parts, &options, protocol)
        });
        workers.collect()
    }

    /// Runs each worker on a thread of its own. `protocol` makes a worker's protocol from its number and the mailers of
    /// all workers, which are in the order of the numbers; it is called on this thread.
    ///
    /// # Errors
    /// A thread cannot be started; those that were started stop. A worker that cannot begin on its thread is reported by
    /// [`Handle::join`].
    pub fn start(self, mut protocol: impl FnMut(u16, &[Mailer<P::Mail>]) -> P) -> io::Result<Handle> {
        let mailers = self.mailers();
        let Self { parts, options, shared, counters, .. } = self;
        let options = Arc::new(options);
        let mut threads = Vec::with_capacity(parts.len());
        for parts in parts {
            let worker = parts.worker;
            let protocol = protocol(worker, &mailers);
            let (options, ours) = (options.clone(), shared.clone());
            let spawned = std::thread::Builder::new()
                .name(format!("worker-{worker}"))
                .spawn(move || run(parts, &options, protocol, &ours));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    shared.tell(&shared.stop);
                    return Err(error);
                }
            }
        }
        Ok(Handle { threads, control: Control { shared }, counters })
    }
}

/// A worker's thread. Whatever ends it before its time makes the others drain.
fn run<P: Protocol>(parts: Parts<P::Mail>, options: &Options, protocol: P, shared: &Shared) -> Result<(), Ended> {
    let worker = parts.worker;
    if options.pin {
        match pin(usize::from(worker)) {
            Ok(cpu) => log::debug!(worker, cpu; "a worker has its CPU"),
            Err(error) => log::warn!(worker, error:% = error; "a worker cannot be kept on one CPU"),
        }
    }
    let counters = parts.counters.clone();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut worker = Worker::new(parts, options, protocol)?;
        while worker.turn(None)? == Turn::Running {}
        Ok::<(), io::Error>(())
    }));
    let ended = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => Ended::Io { worker, error },
        Err(_) => {
            counters.panics.add(1);
            Ended::Panicked { worker }
        }
    };
    log::error!(error:% = ended; "a worker ended; the others drain");
    shared.tell(&shared.drain);
    Err(ended)
}

/// How a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// A panic outside of a connection's callback.
    #[error("worker {worker} panicked")]
    Panicked {
        /// Its number.
        worker: u16,
    },
    /// Its poll failed, or its listeners could not be watched.
    #[error("worker {worker} failed: {error}")]
    Io {
        /// Its number.
        worker: u16,
        /// Why.
        error: io::Error,
    },
}

/// Drain and stop, from any thread. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// Stops accepting, lets the protocol say goodbye, flushes, and ends when every connection is gone or the grace
    /// time is over. Returns at once; asking again does nothing.
    pub fn drain(&self) {
        self.shared.tell(&self.shared.drain);
    }

    /// Ends without flushing, also in the middle of a drain: [`Protocol::closed`] with [`Close::Drain`](crate::base::Close::Drain) is
    /// all that connections get. Returns at once.
    pub fn stop_now(&self) {
        self.shared.tell(&self.shared.stop);
    }

    /// Whether the end has been asked for.
    pub fn is_draining(&self) -> bool {
        self.shared.drain.load(Ordering::Acquire) || self.shared.stop.load(Ordering::Acquire)
    }
}

/// Running workers. Dropping it leaves them running.
#[derive(Debug)]
pub struct Handle {
    threads: Vec<JoinHandle<Result<(), Ended>>>,
    control: Control,
    counters: Arc<[Arc<WorkerCounters>]>,
}

impl Handle {
    /// Drain and stop, to give to other threads.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The counters of each worker, by its number.
    pub fn counters(&self) -> Arc<[Arc<WorkerCounters>]> {
        self.counters.clone()
    }

    /// See [`Control::drain`].
    pub fn drain(&self) {
        self.control.drain();
    }

    /// See [`Control::stop_now`].
    pub fn stop_now(&self) {
        self.control.stop_now();
    }

    /// See [`Control::is_draining`].
    pub fn is_draining(&self) -> bool {
        self.control.is_draining()
    }

    /// Waits for the end of all workers; it does not ask for it.
    ///
    /// # Errors
    /// The first worker, by number, that ended before it was told to. The others have drained then.
    pub fn join(self) -> Result<(), Ended> {
        let mut result = Ok(());
        for (worker, thread) in self.threads.into_iter().enumerate() {
            let ended = thread.join().unwrap_or(Err(Ended::Panicked { worker: worker as u16 }));
            result = result.and(ended);
        }
        result
    }
}
