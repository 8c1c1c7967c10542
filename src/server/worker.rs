//! What a worker does with a connection: routes requests to dialects, commands to the supervisor, and what comes back
//! to devices. Owns the workers' side of every session connection; it must not block.

use std::sync::Arc;

use super::{
    Stopper,
    amp::{self, AgentConn, Agents},
    channels::{Job, Lane, Mail, ToCore},
    crypto::Crypto,
    metrics::{Shared, WorkerTallies},
};
use crate::{
    base::{Close, CloseCode, ConnToken, Fault, Now},
    dialect::{
        admin,
        session::{self, Act, Connection, Greeting, Reached},
    },
    reactor::{
        Link, Peer, PeerAddr, Sender, Sent,
        ws::{Answer, Data, Framed, WsHandler, WsIo},
    },
    relay::{
        Principal,
        api::{Code, Error, Out, Reply, Text},
        keys::KeySet,
    },
    wire::{
        http::{Head, Response, check_origin},
        sign_in::Nonce,
    },
};

/// Commands that may wait for a full supervisor; more are answered with an error.
const TO_CORE_MAX: usize = 16 * 1024;

/// What a peer may make us hold before it has signed in. Above what a sign-in may have, so that one that is only
/// somewhat too large is still told so.
pub(super) const UNKNOWN_BYTES_MAX: u32 = 4 * session::SIGN_IN_BYTES_MAX as u32;

/// The handler of one worker.
pub(super) struct Worker {
    pub(super) greeting: Arc<Greeting>,
    pub(super) crypto: Crypto,
    /// To the supervisor.
    pub(super) core: Link<Sender<Vec<ToCore>>>,
    pub(super) shared: Arc<Shared>,
    pub(super) tallies: Arc<WorkerTallies>,
    pub(super) agents: Agents,
    pub(super) stopper: Stopper,
    /// Kept between calls for its memory.
    pub(super) acts: Vec<Act>,
}

/// A connection, by its dialect.
pub(super) enum Conn {
    /// On `/session`. Agents are many and devices few: these do not make those large.
    Device(Box<Device>),
    /// On `/amp/v1/ws`.
    Agent(AgentConn),
}

const _: () = assert!(size_of::<Option<Conn>>() == size_of::<AgentConn>(), "paid by every idle connection");

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
            return amp::upgrade(head, peer, self.amp_greeting(), io);
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
                self.amp_open(agent, io);
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
            Conn::Agent(agent) => return self.amp_message(agent, io, message),
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
                self.agents.lanes.done(lane);
                let (greeting, now) = (self.greeting.clone(), io.now());
                self.with(peer, io, |connection, acts| match &result {
                    Ok(signed) => connection.signed_in(signed, &greeting, now, acts),
                    Err(error) => connection.refused(error, acts),
                });
            }
            Mail::Keys(keys) => self.keys_changed(&keys, io),
            Mail::KeysRead { peer, id, result } => {
                self.agents.answered(peer, Lane::Admitted, io);
                let reply = match *result {
                    Ok(found) => session::keys_reply(&id, &found.file, found.entries, found.refused),
                    Err(error) => session::error(Some(&id), &error),
                };
                self.with(peer, io, |_, acts| acts.push(Act::Send(reply)));
            }
            Mail::Core(outs) => outs.into_iter().for_each(|out| self.deliver(out, io)),
            Mail::Session { session, did } => self.agents.session(session, &did),
            Mail::SessionGone { did } => self.agents.session_gone(&did),
            Mail::Directory(couriers) => self.amp_couriers(couriers, io),
            Mail::Hello { peer, lane, hello } => {
                self.agents.lanes.done(lane);
                if let Some(hello) = hello {
                    self.amp_hello(peer, hello, io);
                }
            }
            Mail::Checked(checked) => self.amp_checked(checked, io),
            Mail::Said { peer, lane, frame, close } => {
                self.agents.answered(peer, lane, io);
                if !frame.is_empty() {
                    self.send_binary(peer, &frame, io);
                }
                if let Some((code, reason)) = close {
                    io.close(peer, code, reason);
                }
            }
            Mail::Hold(sender) => self.agents.held_elsewhere(sender, io),
            Mail::Freed(sender) => self.agents.freed(sender, io),
        }
    }

    fn timeout(&mut self, conn: &mut Conn, io: &mut Io<'_>) -> Result<(), Fault> {
        let device = match conn {
            Conn::Device(device) => device,
            Conn::Agent(agent) => {
                self.amp_timeout(agent, io);
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
            Conn::Agent(_) => self.amp_release(io.token(), io),
        }
    }

    fn closed(&mut self, conn: Conn, token: ConnToken, why: Close) {
        self.agents.lanes.gone(token);
        let known = match conn {
            Conn::Device(mut device) => {
                log::debug!(conn:% = token, why:? = why; "a device is gone");
                self.leaves(&mut device, token);
                false
            }
            Conn::Agent(agent) => {
                log::debug!(conn:% = token, why:? = why; "an agent is gone");
                self.amp_closed(&agent, token);
                agent.is_known()
            }
        };
        if known {
            self.core.take(ToCore::Gone(token));
        }
    }

    fn turn(&mut self, io: &mut Io<'_>) {
        if !self.core.flush() {
            self.tallies.inbox_full.add(1);
        }
        self.agents.hand_jobs(&self.crypto);
        self.amp_hand_checks();
        self.agents.carry(io);
    }
}

impl Worker {
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
                if !self.agents.lanes.ask(lane, Job::SignIn(lane, job)) {
                    let error = Error::new(Code::RateLimited, "too many sign-ins are waiting");
                    let error = Error { retry_after_ms: Some(1000), ..error };
                    self.send(peer, io, &session::error(Some(&id), &error));
                    io.close(peer, CloseCode::TRY_AGAIN, "try again later");
                }
            }
            Act::ReloadKeys(id) => {
                if self.agents.lanes.answer(peer, Job::Reload { peer, id }) {
                    io.pause(peer);
                }
            }
            Act::StopRelay(caller, id) => {
                log::info!(conn:% = peer, key = &*caller.principal; "an admin stops the relay");
                self.send(peer, io, &session::reply(&id, &Reply::Done));
                self.stopper.drain();
            }
            Act::Submit(caller, request) => {
                if self.core.items() < TO_CORE_MAX {
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
        self.deliver_to_agents(&mut out, io);
        match out {
            // Those whom it is for are gone: it is not even written.
            Out::Event { peers, .. }
            | Out::Delta { peers, .. }
            | Out::Presence { peers, .. }
            | Out::Changed { peers, .. }
                if peers.is_empty() => {}
            Out::Answer { peer, .. } | Out::CaughtUp { peer, .. } | Out::Reset { peer, .. }
                if matches!(io.conn(peer), Some(Conn::Agent(_))) => {}
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

    /// Agents see a session in their own dialect: takes them out of what devices get.
    fn deliver_to_agents(&mut self, out: &mut Out, io: &mut Io<'_>) {
        let is_agent = |io: &mut Io<'_>, peer: ConnToken| matches!(io.conn(peer), Some(Conn::Agent(_)));
        let mut agents = Vec::new();
        match out {
            Out::Answer { peer, .. } | Out::Reset { peer, .. } if is_agent(io, *peer) => agents.push(*peer),
            Out::Event { peers, .. }
            | Out::Delta { peers, .. }
            | Out::Presence { peers, .. }
            | Out::Changed { peers, .. } => peers.retain(|&peer| {
                let agent = is_agent(io, peer);
                if agent {
                    agents.push(peer);
                }
                !agent && io.is_open(peer)
            }),
            _ => {}
        }
        for peer in agents {
            self.amp_out(peer, out, io);
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
                Some(Conn::Agent(agent)) => {
                    let gone = |principal: &Principal| {
                        keys.principal(&principal.fingerprint).is_none_or(|entry| entry.role < principal.role)
                    };
                    if agent.proved().is_some_and(gone) {
                        io.close(peer, CloseCode::POLICY, "the key was revoked or may do less");
                    }
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
