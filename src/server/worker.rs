//! A worker of the relay: the core and the dialects over the loop's connections. Moves what they say to other threads and
//! what those say to them; decides nothing.

use std::sync::Arc;

use super::{
    Stopper,
    channels::{Mail, Mailers},
    crypto::Crypto,
    dialects::{Conn, States},
    metrics::Shared,
    outbox::Outbox,
};
use crate::{
    base::{Close, ConnToken, Fault},
    dialect::{Arrival, admin},
    reactor::{
        Peer, PeerAddr,
        ws::{Answer, Data, Framed, WsHandler, WsIo},
    },
    relay::{api::Out, delivery::Delivery},
    wire::http::{Head, Response, check_origin},
};

/// The handler of one worker.
pub(super) struct Worker {
    pub(super) crypto: Crypto,
    pub(super) mailers: Mailers,
    pub(super) core: Outbox,
    pub(super) shared: Arc<Shared>,
    pub(super) delivery: Delivery<Framed>,
    pub(super) states: States,
    pub(super) stopper: Stopper,
}

pub(super) type Io<'a> = WsIo<'a, Worker>;

impl WsHandler for Worker {
    type Conn = Conn;
    type Mail = Mail;

    /// Whoever has proved a listed key.
    const CONFIRMS: bool = true;

    fn request(&mut self, head: &Head<'_>, peer: &Peer, io: &mut Io<'_>) -> Answer<Conn> {
        // A page of another site is to learn nothing here, whatever it asks for.
        if let Err(response) = check_origin(head, false) {
            return Answer::Respond(response);
        }
        if let Some(response) = admin::respond(head, || self.shared.facts()) {
            return Answer::Respond(response);
        }
        let is_local = matches!(peer.addr, PeerAddr::Unix { .. });
        let arrival = Arrival { peer: peer.token, is_local, now: io.now() };
        let answer = self.states.request(head, arrival, &mut self.delivery);
        answer.unwrap_or_else(|| Answer::Respond(Response::text(404, "nothing is served here")))
    }

    fn open(&mut self, conn: &mut Conn, io: &mut Io<'_>) -> Result<(), Fault> {
        self.states.opened(conn, &mut self.delivery, io);
        Ok(())
    }

    fn message(&mut self, conn: &mut Conn, io: &mut Io<'_>, message: Data<'_>) -> Result<(), Fault> {
        self.states.message(conn, &mut self.delivery, io, message)
    }

    fn mail(&mut self, io: &mut Io<'_>, mail: Mail) {
        let (delivery, states) = (&mut self.delivery, &mut self.states);
        match mail {
            Mail::SignedIn { peer, lane, result } => states.devices.signed_in(peer, lane, &result, delivery, io),
            Mail::Keys(keys) => states.keys_changed(&keys, delivery, io),
            Mail::KeysRead { peer, id, result } => states.devices.keys_read(peer, &id, &result, delivery, io),
            Mail::Core(outs) => {
                for out in outs {
                    match out {
                        Out::Said(reply) => delivery.say(*reply, io),
                        out => states.out(&out, delivery, io),
                    }
                }
            }
            Mail::Session { session, did } => delivery.session(session, &did),
            Mail::SessionGone { did } => delivery.session_gone(&did),
            Mail::Peer(mail) => delivery.peer_mail(mail, io),
            Mail::Judged { peer, lane, judged } => delivery.judged(peer, lane, judged, io),
            Mail::Checked(checked) => delivery.checked(checked, io),
            Mail::Signed(signed) => delivery.signed(signed, io),
            Mail::Again => {}
        }
    }

    fn timeout(&mut self, conn: &mut Conn, io: &mut Io<'_>) -> Result<(), Fault> {
        self.states.timeout(conn, &mut self.delivery, io);
        Ok(())
    }

    fn drained(&mut self, conn: &mut Conn, io: &mut Io<'_>) {
        self.states.drained(conn, &mut self.delivery, io);
    }

    fn closed(&mut self, conn: Conn, token: ConnToken, why: Close) {
        log::debug!(conn:% = token, kind = conn.kind(), why:? = why; "a connection is gone");
        self.states.closed(conn, &mut self.delivery, token);
    }

    fn turn(&mut self, io: &mut Io<'_>) {
        self.delivery.turn(io);
        if self.states.devices.take_stop() {
            self.stopper.drain();
        }
        let waiting = self.core.waiting();
        self.delivery.commands.take(waiting).for_each(|message| self.core.take(message));
        self.core.deliver();
        self.hand_over(io.worker());
    }
}

impl Worker {
    /// The end of a turn: what the crypto thread and other workers are to get.
    fn hand_over(&mut self, worker: u16) {
        while let Some((lane, job)) = self.delivery.lanes.next_job() {
            if let Err(job) = self.crypto.give(lane, job) {
                // What is with it comes back, and the next turn with that.
                self.delivery.lanes.give_back(lane, job);
                break;
            }
        }
        let (mailers, mut is_full) = (&self.mailers, false);
        while let Some(batch) = self.delivery.next_checks() {
            if let Err(batch) = self.crypto.check(batch) {
                self.delivery.give_back_checks(batch);
                is_full = true;
                break;
            }
        }
        self.delivery.poll_peers(worker, |to, mail| {
            mailers.send(usize::from(to), Mail::Peer(mail)).map_err(|mail| match mail {
                Mail::Peer(mail) => {
                    is_full = true;
                    mail
                }
                _ => unreachable!("what comes back is what was sent"),
            })
        });
        if is_full {
            let _ = self.mailers.send(usize::from(worker), Mail::Again);
        }
    }
}
