//! What a worker does with a connection: routes requests to dialects, commands to the supervisor, and what comes back
//! to devices. Owns the workers' side of every session connection; it must not block.

use std::sync::Arc;

use super::{
    Stopper,
    channels::{Mail, Mailers, ToCore},
    crypto::Crypto,
    metrics::{Shared, WorkerTallies},
    outbox::Outbox,
};
use crate::{
    base::{Close, CloseCode, ConnToken, Fault, Now},
    dialect::{
        admin, amp,
        session::{self, Act, Connection, Greeting, Reached},
    },
    reactor::{
        Peer, PeerAddr, Sent,
        ws::{Answer, Data, Framed, WsHandler, WsIo},
    },
    relay::{
        api::{Code, Error, Out, Reply, Text},
        delivery::{Agent, Delivery, Job, Lane, UNKNOWN_BYTES_MAX},
        keys::KeySet,
    },
    wire::{
        http::{Head, Response, check_origin},
        sign_in::Nonce,
    },
};

/// Commands that may wait for a full supervisor; more are answered with an error.
const TO_CORE_MAX: usize = 16 * 1024;

const _: () = assert!(UNKNOWN_BYTES_MAX as usize > session::SIGN_IN_BYTES_MAX, "one somewhat too large is told so");

/// The handler of one worker.
pub(super) struct Worker {
    pub(super) greeting: Arc<Greeting>,
    pub(super) crypto: Crypto,
    pub(super) core: Outbox,
    pub(super) shared: Arc<Shared>,
    pub(super) tallies: Arc<WorkerTallies>,
    pub(super) delivery: Delivery<Framed>,
    pub(super) mailers: Mailers,
    pub(super) stopper: Stopper,
    /// Kept between calls for its memory.
    pub(super) acts: Vec<Act>,
}

/// A connection, by its dialect.
pub(super) enum Conn {
    /// On `/session`. Agents are many and devices few: these do not make those large.
    Device(Box<Device>),
    /// On `/amp/v1/ws`.
    Agent(Agent),
}

const _: () = assert!(size_of::<Option<Conn>>() == size_of::<Agent>(), "paid by every idle connection");

/// A connection on `/session`.
pub(super) struct Device {
    connection: Connection,
    /// Waits for the upgrade to be answered.
    challenge: Option<String>,
    /// The supervisor knows this peer: it must learn of its end.
    known: bool,
    /// It was welcomed: it counts as a device until it is gone.
    welcomed: bool,
    paused: bool,
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
        if head.path == amp::path() {
            return match amp::upgrade(head, &self.delivery.greeting().did) {
                Ok(headers) => {
                    let agent = Agent::new(peer.token, matches!(peer.addr, PeerAddr::Unix { .. }), io.now());
                    Answer::Upgrade { conn: Conn::Agent(agent), subprotocol: Some(amp::SUBPROTOCOL), headers }
                }
                Err(response) => Answer::Respond(response),
            };
        }
        if head.path != session::PATH {
            return Answer::Respond(Response::text(404, "nothing is served here"));
        }
        if !head.wants_upgrade() {
            let line = "/session speaks WebSocket, subprotocol amp-session.v1";
            return Answer::Respond(Response::upgrade_required(line));
        }
        if !head.subprotocols().any(|name| name == session::SUBPROTOCOL) {
            let line = "the upgrade must offer the subprotocol amp-session.v1";
            return Answer::Respond(Response::text(400, line));
        }
        let Some(nonce) = nonce() else {
            return Answer::Respond(Response::text(500, "the system gives no random bytes"));
        };
        let host = head.host().ok().flatten().unwrap_or_default().to_owned();
        let reached = Reached { host, unix: matches!(peer.addr, PeerAddr::Unix { .. }) };
        let (connection, challenge) = Connection::open(peer.token, reached, nonce, &self.greeting, io.now());
        let device = Device { connection, challenge: Some(challenge), known: false, welcomed: false, paused: false };
        Answer::Upgrade {
            conn: Conn::Device(Box::new(device)),
            subprotocol: Some(session::SUBPROTOCOL),
            headers: Vec::new(),
        }
    }

    fn open(&mut self, conn: &mut Conn, io: &mut Io<'_>) -> Result<(), Fault> {
        let device = match conn {
            Conn::Device(device) => device,
            Conn::Agent(agent) => {
                self.delivery.opened(agent, io);
                return Ok(());
            }
        };
        io.limit_messages(io.token(), UNKNOWN_BYTES_MAX);
        if let Some(challenge) = device.challenge.take() {
            self.send(io.token(), io, &challenge);
        }
        rearm(device, io.token(), io);
        Ok(())
    }

    fn message(&mut self, conn: &mut Conn, io: &mut Io<'_>, message: Data<'_>) -> Result<(), Fault> {
        let device = match conn {
            Conn::Device(device) => device,
            Conn::Agent(agent) => {
                let Data::Binary(frame) = message else {
                    return Err(Fault::new(CloseCode::UNSUPPORTED, "AMP is CBOR in binary messages"));
                };
                self.delivery.message(agent, io, frame, message);
                return Ok(());
            }
        };
        self.tallies.session_in.add(1);
        let Data::Text(text) = message else {
            return Err(Fault::new(CloseCode::UNSUPPORTED, "this protocol is JSON in text messages"));
        };
        let mut acts = std::mem::take(&mut self.acts);
        device.connection.text(text, io.now(), &mut acts);
        self.carry_out(device, io.token(), io, &mut acts);
        self.acts = acts;
        Ok(())
    }

    fn mail(&mut self, io: &mut Io<'_>, mail: Mail) {
        match mail {
            Mail::SignedIn { peer, lane, result } => {
                self.delivery.lanes.done(lane);
                let (greeting, now) = (self.greeting.clone(), io.now());
                self.with(peer, io, |connection, acts| match &result {
                    Ok(signed) => connection.signed_in(signed, &greeting, now, acts),
                    Err(error) => connection.refused(error, acts),
                });
            }
            Mail::Keys(keys) => self.keys_changed(&keys, io),
            Mail::KeysRead { peer, id, result } => {
                self.delivery.answered(peer, io);
                let reply = match *result {
                    Ok(found) => session::keys_reply(&id, &found.file, found.entries, found.refused),
                    Err(error) => session::error(Some(&id), &error),
                };
                self.with(peer, io, |_, acts| acts.push(Act::Send(reply)));
            }
            Mail::Core(outs) => outs.into_iter().for_each(|out| self.deliver(out, io)),
            Mail::Session { session, did } => self.delivery.session(session, &did),
            Mail::SessionGone { did } => self.delivery.session_gone(&did),
            Mail::Peer(mail) => self.delivery.peer_mail(mail, io),
            Mail::Judged { peer, lane, judged } => self.delivery.judged(peer, lane, judged, io),
            Mail::Checked(checked) => self.delivery.checked(checked, io),
            Mail::Signed(signed) => self.delivery.signed(signed, io),
            Mail::Again => {}
        }
    }

    fn timeout(&mut self, conn: &mut Conn, io: &mut Io<'_>) -> Result<(), Fault> {
        let device = match conn {
            Conn::Device(device) => device,
            Conn::Agent(agent) => {
                self.delivery.timeout(agent, io);
                return Ok(());
            }
        };
        let mut acts = std::mem::take(&mut self.acts);
        device.connection.timeout(io.now(), &mut acts);
        self.carry_out(device, io.token(), io, &mut acts);
        self.acts = acts;
        rearm(device, io.token(), io);
        Ok(())
    }

    fn drained(&mut self, conn: &mut Conn, io: &mut Io<'_>) {
        match conn {
            Conn::Device(device) => {
                if std::mem::take(&mut device.paused) {
                    self.core.take(ToCore::Resumed(io.token()));
                }
            }
            Conn::Agent(_) => self.delivery.drained(io),
        }
    }

    fn closed(&mut self, conn: Conn, token: ConnToken, why: Close) {
        match conn {
            Conn::Device(mut device) => {
                log::debug!(conn:% = token, why:? = why; "a device is gone");
                self.delivery.lanes.gone(token);
                self.leaves(&mut device, token);
            }
            Conn::Agent(agent) => {
                log::debug!(conn:% = token, why:? = why; "an agent is gone");
                self.delivery.closed(&agent, token);
            }
        }
    }

    fn turn(&mut self, io: &mut Io<'_>) {
        self.delivery.turn(io);
        for command in self.delivery.commands(self.core.waiting()) {
            self.core.take(ToCore::Agents(command));
        }
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

    /// Runs `act` on a device of this worker; a device that is gone is counted by the loop and nothing happens.
    fn with(&mut self, peer: ConnToken, io: &mut Io<'_>, act: impl FnOnce(&mut Connection, &mut Vec<Act>)) {
        let mut acts = std::mem::take(&mut self.acts);
        if let Some(Conn::Device(device)) = io.conn(peer) {
            act(&mut device.connection, &mut acts);
        }
        self.carry_out_for(peer, io, &mut acts);
        self.acts = acts;
    }

    /// Carries out what a device other than the current one wants done.
    fn carry_out_for(&mut self, peer: ConnToken, io: &mut Io<'_>, acts: &mut Vec<Act>) {
        for act in acts.drain(..) {
            if let Some(Conn::Device(device)) = io.conn(peer) {
                self.note(device, peer, &act);
            }
            self.act(peer, io, act);
        }
        let now = io.now();
        if let Some(Conn::Device(device)) = io.conn(peer) {
            device.connection.sent(now);
            let deadline = device.connection.deadline();
            io.set_timeout(peer, deadline.map(|at| at.saturating_sub(now.mono_ms)));
        }
    }

    fn carry_out(&mut self, device: &mut Device, peer: ConnToken, io: &mut Io<'_>, acts: &mut Vec<Act>) {
        for act in acts.drain(..) {
            self.note(device, peer, &act);
            self.act(peer, io, act);
        }
    }

    /// What an act means for what is known of the device.
    fn note(&mut self, device: &mut Device, peer: ConnToken, act: &Act) {
        match act {
            Act::Welcome(_) => {
                device.welcomed = true;
                self.tallies.devices.add(1);
            }
            Act::Submit(..) => device.known = true,
            Act::Close(..) if !device.welcomed => self.tallies.sign_in_failures.add(1),
            // Its reader may take its time with the close. Nobody is to see it among the devices meanwhile.
            Act::Close(..) => self.leaves(device, peer),
            _ => {}
        }
    }

    /// The device counts no more, and whoever knows it is told so, once.
    fn leaves(&mut self, device: &mut Device, peer: ConnToken) {
        if std::mem::take(&mut device.welcomed) {
            self.tallies.devices.sub(1);
        }
        if std::mem::take(&mut device.known) {
            self.core.take(ToCore::Gone(peer));
        }
    }

    fn act(&mut self, peer: ConnToken, io: &mut Io<'_>, act: Act) {
        match act {
            Act::Send(text) => self.send(peer, io, &text),
            Act::Welcome(_) if !io.confirm(peer) => io.close(peer, CloseCode::TRY_AGAIN, "there is no room"),
            Act::Welcome(text) => {
                io.limit_messages(peer, u32::MAX);
                self.send(peer, io, &text);
            }
            Act::Close(code, reason) => io.close(peer, code, reason),
            Act::Verify(job) => {
                let (id, lane) = (job.sign_in.id.clone(), if job.is_local { Lane::Local } else { Lane::Strangers });
                io.spare(peer);
                if !self.delivery.lanes.ask(lane, Job::SignIn(job)) {
                    let error = Error::new(Code::RateLimited, "too many sign-ins are waiting");
                    let error = Error { retry_after_ms: Some(1000), ..error };
                    self.send(peer, io, &session::error(Some(&id), &error));
                    io.close(peer, CloseCode::TRY_AGAIN, "try again later");
                }
            }
            Act::ReloadKeys { principal, id } => self.delivery.ask(&principal, Job::Reload { peer, id }, io),
            Act::StopRelay(caller, id) => {
                log::info!(conn:% = peer, key = &*caller.principal; "an admin stops the relay");
                self.send(peer, io, &session::reply(&id, &Reply::Done));
                self.stopper.drain();
            }
            Act::Submit(caller, request) => {
                if self.core.waiting() < TO_CORE_MAX {
                    self.core.take(ToCore::Request(caller, request));
                } else {
                    let error = Error::new(Code::RateLimited, "the relay is overloaded; the command was not run");
                    let error = Error { retry_after_ms: Some(1000), ..error };
                    self.send(peer, io, &session::error(Some(&request.id), &error));
                }
            }
        }
    }

    fn send(&mut self, peer: ConnToken, io: &mut Io<'_>, text: &str) {
        self.tallies.session_out.add(1);
        // A peer that is above its maximum is closed by the loop; its end comes through `closed`.
        let _ = io.text_to(peer, text);
    }

    /// What the core has for this worker's devices: framed once, shared by all who get it.
    fn deliver(&mut self, mut out: Out, io: &mut Io<'_>) {
        if let Out::Event { peers, .. }
        | Out::Delta { peers, .. }
        | Out::Presence { peers, .. }
        | Out::Changed { peers, .. } = &mut out
        {
            peers.retain(|&peer| io.is_open(peer));
            // Those whom it is for are gone: it is not even written.
            if peers.is_empty() {
                return;
            }
        }
        match out {
            Out::Said(reply) => self.delivery.say(*reply, io),
            Out::Answer { peer, re, result } => {
                let text = match &result {
                    Ok(reply) => session::reply(&re, reply),
                    Err(error) => session::error(Some(&re), error),
                };
                self.share(&[peer], &text, io);
            }
            Out::Event { peers, event } => self.share(&peers, &session::event(&event), io),
            Out::Delta { peers, session, message, block, kind, at, text } => {
                self.share(&peers, &session::delta(&session, &message, (block, kind), at, &text), io);
            }
            Out::Presence { peers, session, devices } => {
                self.share(&peers, &session::presence(&session, &devices), io);
            }
            Out::Changed { peers, summary } => self.share(&peers, &session::summary_changed(&summary), io),
            Out::CaughtUp { peer, session } => self.share(&[peer], &session::caught_up(&session), io),
            Out::Reset { peer, session, why, earliest } => {
                self.share(&[peer], &session::reset(&session, why, &earliest), io);
            }
            Out::Launch(_) | Out::Write { .. } | Out::End { .. } => {
                log::error!("the supervisor sent a worker what is its own to do");
            }
        }
    }

    fn share(&mut self, peers: &[ConnToken], text: &str, io: &mut Io<'_>) {
        if peers.is_empty() {
            return;
        }
        let framed = Framed::text(text);
        let now: Now = io.now();
        for &peer in peers {
            let sent = io.framed_to(peer, &framed);
            if sent == Sent::Closed {
                continue;
            }
            self.tallies.session_out.add(1);
            // What the kernel has not refused is gone by the end of the turn, however much it is.
            let stuck = sent == Sent::High && io.is_blocked(peer);
            let Some(Conn::Device(device)) = io.conn(peer) else { continue };
            device.connection.sent(now);
            if stuck && !device.paused && device.known {
                device.paused = true;
                self.core.take(ToCore::Paused(peer));
            }
        }
    }

    fn keys_changed(&mut self, keys: &KeySet, io: &mut Io<'_>) {
        let peers: Vec<ConnToken> = io.tokens().collect();
        for peer in peers {
            let principal: Option<Text> = match io.conn(peer) {
                Some(Conn::Device(device)) => device.connection.caller().map(|caller| caller.principal.clone()),
                Some(Conn::Agent(_)) => {
                    self.delivery.keys_changed(peer, keys, io);
                    None
                }
                None => None,
            };
            let Some(principal) = principal else { continue };
            match keys.principal(&principal) {
                Some(entry) => self.with(peer, io, |connection, acts| connection.limit_role(entry.role, acts)),
                None => self.with(peer, io, |connection, acts| connection.revoked(acts)),
            }
        }
    }
}

/// Arms the one timer of a device anew.
fn rearm(device: &Device, peer: ConnToken, io: &mut Io<'_>) {
    let now = io.now().mono_ms;
    io.set_timeout(peer, device.connection.deadline().map(|at| at.saturating_sub(now)));
}

fn nonce() -> Option<String> {
    let mut bytes = [0; Nonce::BYTES];
    getrandom::fill(&mut bytes).ok()?;
    Some(Nonce::from_bytes(bytes).to_string())
}
