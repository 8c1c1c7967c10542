//! A worker of the relay: the core and the dialects over the loop's connections. Moves what they say to other threads and
//! what those say to them; decides nothing.

pub(super) mod dialects;

use std::sync::Arc;

use super::{
    ShutdownHandle,
    channels::{Links, Mail, OnWay, Way},
    crypto::Crypto,
    metrics::Shared,
};
use crate::{
    base::{Close, ConnToken, Fault},
    dialect::{Arrival, admin},
    reactor::{
        Link, Peer, PeerAddr, Sender,
        ws::{Answer, Data, Framed, WsHandler, WsIo},
    },
    relay::{
        delivery::{Delivery, PeerMail},
        directory::PeerMessage,
        sessions::ToSessions,
    },
    wire::http::{Head, Response, check_origin},
};
use dialects::{Conn, States};

/// The handler of one worker.
pub(super) struct Worker {
    pub(super) crypto: Crypto,
    /// To other workers.
    pub(super) links: Links,
    /// What is on its way to other workers, by index.
    pub(super) ways: Vec<Way>,
    /// What has arrived in this turn is no longer on its way when the turn ends.
    pub(super) arrived: Vec<OnWay>,
    /// To the supervisor.
    pub(super) core: Link<Sender<Vec<ToSessions>>>,
    pub(super) shared: Arc<Shared>,
    pub(super) delivery: Delivery<Framed>,
    pub(super) states: States,
    pub(super) stopper: ShutdownHandle,
}

pub(super) type Io<'a> = WsIo<'a, Worker>;

impl WsHandler for Worker {
    type Conn = Conn;
    type Mail = Mail;

    /// A connection may stay once it has proved a listed key.
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

    #[inline]
    fn message(&mut self, conn: &mut Conn, io: &mut Io<'_>, message: Data<'_>) -> Result<(), Fault> {
        self.states.message(conn, &mut self.delivery, io, message)
    }

    fn mail(&mut self, io: &mut Io<'_>, mail: Mail) {
        let (delivery, states) = (&mut self.delivery, &mut self.states);
        match mail {
            Mail::SignedIn { peer, lane, result } => states.devices.signed_in(peer, lane, &result, delivery, io),
            Mail::Keys(keys) => states.keys_changed(&keys, delivery, io),
            Mail::KeysRead { peer, id, result } => states.devices.keys_read(peer, &id, &result, delivery, io),
            Mail::Core(outs, _large) => outs.iter().for_each(|out| states.out(out, delivery, io)),
            Mail::Said(reply) => delivery.say(*reply, io),
            Mail::Taken(peers) => peers.into_iter().for_each(|peer| delivery.asked(peer, io)),
            Mail::Session { session, did } => delivery.session(session, &did),
            Mail::SessionGone { did } => delivery.session_gone(&did),
            Mail::Peer(mail, on_way) => {
                delivery.peer_mail(mail, io);
                self.arrived.extend(on_way);
            }
            Mail::Judged { peer, lane, judged } => delivery.judged(peer, lane, judged, io),
            Mail::Checked(checked) => delivery.checked(checked, io),
            Mail::Signed(signed) => delivery.signed(signed, io),
        }
    }

    fn timeout(&mut self, conn: &mut Conn, io: &mut Io<'_>) -> Result<(), Fault> {
        self.states.timeout(conn, &mut self.delivery, io);
        Ok(())
    }

    fn writable(&mut self, conn: &mut Conn, io: &mut Io<'_>) {
        self.states.writable(conn, &mut self.delivery, io);
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
        let waiting = self.core.items();
        self.delivery.commands.take(waiting).for_each(|message| self.core.take(message));
        self.core.flush();
        self.arrived.clear();
        self.hand_over(io);
    }
}

impl Worker {
    /// The end of a turn: what the crypto thread and other workers are to get.
    fn hand_over(&mut self, io: &mut Io<'_>) {
        while let Some((lane, job)) = self.delivery.lanes.next_job() {
            self.crypto.give(lane, job);
        }
        while let Some(batch) = self.delivery.next_checks() {
            self.crypto.check(batch);
        }
        for to in self.delivery.destinations() {
            let (delivery, way) = (&mut self.delivery, &self.ways[usize::from(to)]);
            let next = || {
                let batch = way.has_room().then(|| delivery.take_for(to))??;
                let on_way = way.add(batch.iter().map(PeerMessage::size).sum());
                Some(Mail::Peer(PeerMail::Directory(batch), Some(on_way)))
            };
            if let Some(Mail::Peer(PeerMail::Directory(batch), on_way)) = self.links.flush_with(usize::from(to), next) {
                on_way.into_iter().for_each(OnWay::take_back);
                self.delivery.give_back(to, batch);
            }
        }
        self.delivery.carried(io);
        while let Some(news) = self.delivery.poll_sender_news(io.worker()) {
            self.links.push(usize::from(news.sender().worker()), Mail::Peer(PeerMail::Sender(news), None));
        }
        self.links.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ssh_key::{Algorithm, PrivateKey, rand_core::OsRng};

    use super::*;
    use crate::{
        reactor::Listen,
        server::{self, channels::sink::is_woken},
    };

    #[test]
    fn what_another_worker_has_no_room_for_waits_without_a_turn_until_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = server::Options {
            workers: 2,
            listen: vec![Listen::Unix(folder.path().join("relay.sock"))],
            folders: vec![folder.path().to_owned()],
            ..server::Options::new(folder.path().join("keys"), server::Agent::Demo)
        };
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).expect("a key");
        let (bound, handlers, rest) = server::Runtime::start(&options, key).expect("started");
        let mailers = handlers.mailers.clone();
        let mut workers = bound.into_workers(|index, _| handlers.make(index)).expect("workers");
        let [here, there] = &mut workers[..] else { panic!("two") };
        while mailers.0[1].try_send(Mail::Core(Vec::new(), None)).is_ok() {}

        here.protocol().handler().delivery.have_something_for_another_worker(0);
        here.turn(Some(Duration::ZERO)).expect("a turn");
        assert!(!is_woken(here), "it is not its own waker");
        assert_ne!(here.arm(), Some(Duration::ZERO), "it has nothing to do");
        there.turn(Some(Duration::ZERO)).expect("a turn");
        assert!(is_woken(here), "there is room");
        here.turn(Some(Duration::ZERO)).expect("a turn");
        assert!(here.protocol().handler().delivery.destinations().is_empty());
        drop(workers);
        rest.join(Ok(())).expect("ended");
    }
}
