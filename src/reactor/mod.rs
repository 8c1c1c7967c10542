//! The event loop to embed: workers, listeners, connections, send queues, timers, mail, drain. Knows bytes and
//! WebSocket messages, nothing of what they mean.
//!
//! A host implements [`Protocol`] for raw bytes, or [`ws::WsHandler`] for WebSocket, and both are called by workers that
//! [`Reactor::bind`] makes. The crate's front page has a chat room.
//!
//! # A protocol of bytes
//!
//! A service that sends every line back. [`ws`] has a complete relay of WebSocket messages.
//!
//! ```
//! use std::{
//!     io::{BufRead, BufReader, Write},
//!     net::TcpStream,
//! };
//!
//! use amp_relay::{
//!     base::Fault,
//!     reactor::{BoundAddr, Io, Listen, Options, Peer, Protocol, Reactor, Refuse, Sent},
//! };
//!
//! struct Echo;
//!
//! impl Protocol for Echo {
//!     type Conn = (); // state of a connection
//!     type Mail = (); // what other threads send a worker
//!
//!     fn accept(&mut self, _: &mut Io<'_, Self>, _: &Peer) -> Result<(), Refuse> {
//!         Ok(())
//!     }
//!
//!     fn input(&mut self, _: &mut (), io: &mut Io<'_, Self>, bytes: &mut [u8]) -> Result<usize, Fault> {
//!         // All whole lines at once. What is not consumed comes again, with more behind it.
//!         let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n') else { return Ok(0) };
//!         if io.forward(io.token(), 0..last + 1) == Sent::High {
//!             io.pause(io.token()); // it writes faster than it reads: no more of it until `writable`
//!         }
//!         Ok(last + 1)
//!     }
//!
//!     fn writable(&mut self, _: &mut (), io: &mut Io<'_, Self>) {
//!         io.resume(io.token());
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let listeners = vec![Listen::Tcp("127.0.0.1:0".parse()?)];
//!     let bound = Reactor::bind::<Echo>(Options { workers: 2, listeners, ..Options::default() })?;
//!     let BoundAddr::Tcp(address) = bound.local_addrs()[0] else { unreachable!("a TCP listener") };
//!     let handle = bound.start(|_worker, _mailers| Echo)?;
//!
//!     let mut client = BufReader::new(TcpStream::connect(address)?);
//!     client.get_mut().write_all(b"one\ntwo\nand a half")?;
//!     let mut heard = String::new();
//!     client.read_line(&mut heard)?;
//!     client.read_line(&mut heard)?;
//!     assert_eq!(heard, "one\ntwo\n");
//!
//!     drop(client);
//!     handle.drain();
//!     Ok(handle.join()?)
//! }
//! ```
//!
//! # Threads
//!
//! Every worker is a thread with a TCP listener, connections and a protocol value of its own; nothing of them is
//! shared, so a protocol needs no lock and a connection's state need not be `Send`. A connection stays with the worker
//! that took it. A token of another worker's connection names no connection here ([`Sent::Closed`], counted in
//! [`WorkerCounters::stale_mail`]): what is for it goes to that worker
//! ([`ConnToken::worker`](crate::base::ConnToken::worker)) by its [`Mailer`], which any thread may use. Mail of one
//! sender to one worker arrives in the order in which it was sent. What finds an inbox full comes back, or waits in a
//! [`Link`], which wakes its thread when there is room.
//!
//! Callbacks run one at a time and never inside of each other: whatever a callback asks for, another connection's bytes,
//! a close, a pause, has its effect after it has returned. A callback must not block; all other connections of its worker
//! would wait with it.
//!
//! # A turn
//!
//! A worker does this over and over, and sleeps only when nothing is left to do:
//!
//! 1. poll. The time ([`Io::now`]) is read once, here;
//! 2. if a drain was asked for, its beginning (below);
//! 3. inbox: [`mail`](Protocol::mail), at most 1,024 of it; threads that found it full are woken;
//! 4. sockets that can be read: one read each, of at most half of [`Options::read_buffer`], and one
//!    [`input`](Protocol::input) with all that is there, or [`eof`](Protocol::eof);
//! 5. timers: [`timeout`](Protocol::timeout);
//! 6. connections that are to be closed: [`closing_bytes`](Protocol::closing_bytes), [`closed`](Protocol::closed);
//! 7. [`turn`](Protocol::turn);
//! 8. every queue that was written to is written out, by one vectored write where the kernel takes all of it;
//!    [`writable`](Protocol::writable) for those that were high and are not any more;
//! 9. new connections: [`accept`](Protocol::accept), at most 256 of them, for which others may have to go (below);
//! 10. what steps 8 and 9 asked for: closes as in step 6, and one more write;
//! 11. slots of connections that are over are freed, and forwarded ranges are given up.
//!
//! What is more than a step may do, or comes too late for it, is done in the next turn, which then begins without a sleep.
//! (A Unix stream that another worker accepted comes by the inbox: its `accept` is in step 3.)
//!
//! # A connection's life
//!
//! `accept`, then `input`, `timeout`, `writable` and `shutdown` in whatever order things happen, then `eof` if the peer
//! ended its half, after which there is no `input`, and last `closed`. `closed` comes exactly once for every connection
//! that `accept` said `Ok` to, whatever ended it, and for no other; only a worker that itself ends by a panic drops its
//! connections without. Between [`Io::close`] (or a fault, or a panic) and `closed` no other callback comes for the
//! connection, and nothing can be sent to it. `closed` comes later in the same turn, or in the next.
//!
//! A connection that we close is flushed (its queue, then the closing bytes), then our half is shut, and what still
//! comes is read and thrown away until the peer ends its half, up to 16 MiB: a socket closed with unread bytes would be
//! reset, and the last words could be lost on their way. A peer that gets on with neither for [`Options::linger_ms`] is cut off; a
//! slow reader that still takes what is queued is not. The slot is in use until then.
//!
//! # Sending, and slow readers
//!
//! A send makes no system call: it puts bytes in the connection's queue, which is written at the end of the turn. Order is
//! kept, whichever way of sending was used. A queue has three marks, in bytes, looked at with each send:
//!
//! - above [`queue_high`](Options::queue_high), sends still take everything and say [`Sent::High`]. `writable` follows without
//!   fail once the queue is at [`queue_low`](Options::queue_low) or below, unless the connection closes before: often
//!   in the same turn, because marks count what this turn has queued and not written. To tell a full turn from a peer
//!   that does not read, ask [`Io::is_blocked`]. The producer should stop until then; where that is another
//!   connection, [`Io::pause`] it, and TCP makes its peer wait;
//! - above [`queue_max`](Options::queue_max) the send takes nothing, says [`Sent::Closed`], and the connection is closed as
//!   [`TooSlow`](crate::base::Close::TooSlow), its queue flushed as far as it goes. So no single message may be larger.
//!
//! The kernel is given little more than it can send ([`Options::unsent_max`]), so that the queue is where bytes wait.
//! What must not wait there, such as an answer to a ping, goes ahead of it ([`Io::send_ahead`]). A peer that reads
//! slowly, and for that says nothing, shows that it is alive by what it takes ([`Io::take_progress`]). Its system takes
//! far more than its program reads. So where a protocol can tell what is read ([`Protocol::probe`]), a slow peer is
//! given no more than it reads in a few seconds, and a new peer is given little until it has shown how it reads
//! ([`Options::pace_ms`]).
//!
//! # Forwarding without a copy
//!
//! [`Io::forward`] sends a range of the bytes that `input` was lent, [`WsIo::forward_to`](ws::WsIo::forward_to) the message
//! that is being handled: the socket of the receiver is written from the memory into which the sender's was read. The
//! range is kept to the end of the turn. What the kernel has not taken by then, and only that, is copied into memory of the
//! receiver's queue. Ranges that touch become one; several of one turn leave in one write.
//!
//! # Time
//!
//! All times are milliseconds. `Io::now` stands still for a turn. A connection has one timeout
//! ([`Io::set_timeout`]); it is measured from `Io::now`, does not fire early, and fires at most 16 ms late plus what the turn
//! took. Setting it again moves it, in constant time.
//!
//! # Draining and ending
//!
//! [`Handle::drain`] makes each worker, at its next turn: accept what has connected (within a turn's bound), stop listening,
//! and call [`shutdown`](Protocol::shutdown) for every connection. Those that do not close go on as before. The worker ends when
//! its last connection is gone; after [`Options::grace_ms`] what is left is cut off, with `closed` but without
//! flushing. [`Handle::stop_now`] does the latter at once. Mail that is in the inbox then is dropped.
//!
//! # Faults and panics
//!
//! A peer's mistake is a [`Fault`](crate::base::Fault): returned from a callback it closes that connection and nothing
//! else. A panic in a callback for one connection is caught, counted, and closes that connection; its `closed` still
//! comes. A panic in `mail` or `turn`, which have no connection, ends the worker: the others drain, and [`Handle::join`]
//! says so ([`Ended`]). None of it works where panics abort.
//!
//! # A loop of one's own
//!
//! [`Bound::into_workers`] gives the workers out instead of starting threads. Either call [`Worker::turn`] in a loop and let
//! it sleep, or sleep elsewhere: call [`Worker::arm`], wait until the worker's descriptor is readable or the time that
//! `arm` gave is over, then call `turn` with a wait of zero.
//!
//! # Strangers
//!
//! A protocol that wants a proof from peers before they may stay says so ([`Protocol::PROVISIONAL`]). Until
//! [`Io::confirm`] its connections of TCP listeners count among [`Options::provisional_max`], and where these are so
//! many the oldest gives way to a new one: it is closed, is told so by the [`closing bytes`](Protocol::closing_bytes),
//! and finishes closing while a few more come. Of what is left for those that are confirmed, [`Options::unix_reserve`]
//! is for Unix listeners alone: their connections never have to give way. A turn reads little of a connection that is
//! not confirmed, so that many of them with many small frames do not make it long. [`ws`] has all its connections begin like
//! that: by default an upgrade confirms, and is answered 503 where there is no room.
//!
//! # Bounds
//!
//! Connections ([`Options::connections_max`]), send queues, unconsumed bytes ([`Options::kept_max`]), inboxes
//! ([`Options::inbox_capacity`]) and the work of a turn are bounded; what does not fit is refused, paused or closed,
//! and counted ([`WorkerCounters`]).

mod clock;
mod connections;
mod counters;
mod flags;
#[doc(hidden)] // for its loom test; an inbox has one inside
pub mod gate;
mod handle;
mod inbox;
mod link;
mod listen;
mod options;
mod pace;
mod pin;
mod platform;
mod protocol;
#[doc(hidden)] // for its loom test, and for queues that are no inbox
pub mod room;
mod sendq;
mod shared;
mod slots;
mod slow;
mod stream;
mod wheel;
mod worker;
pub mod ws;

pub use crate::base::{Counter, Sent};
pub use clock::now;
pub use counters::{CLOSE_KINDS, CLOSE_LABELS, Snapshot, TURN_BUCKETS, WorkerCounters, close_kind};
pub use handle::{Bound, Control, Ended, Handle, Mailer, Reactor};
pub use inbox::{Receiver, Sender, inbox};
pub use link::{Inbox, Link};
pub use options::{BoundAddr, Listen, Options, Peer, PeerAddr};
pub use protocol::{Io, Protocol, Refuse};
pub use worker::{Turn, Worker};
