//! Devices of one worker: what a connection on `/session` wants is carried out, and what the sessions say to it is framed once
//! and shared.

use std::sync::Arc;

use super::{Act, Connection, Greeting, Origin, PATH, SIGN_IN_BYTES_MAX, SUBPROTOCOL};
use crate::{
    base::{CloseCode, ConnToken, Counter, Fault, Sent},
    dialect::{Arrival, Dialect, Incoming, Upgrade},
    relay::{
        SignedIn,
        api::{Code, Error, Out, Reply, Text},
        delivery::{Delivery, Job, Lane, Net, UNKNOWN_BYTES_MAX},
        keys::{KeySet, KeysFound},
        message::Shared,
        sessions::ToSessions,
    },
    wire::{
        http::{Head, Response},
        sign_in::Nonce,
    },
};

/// What may wait for a new device before live text is skipped: a snapshot and the stream of the seconds in which it answers.
const UNPROVED_QUEUE: usize = 256 * 1024;

const _: () = assert!(UNKNOWN_BYTES_MAX as usize > SIGN_IN_BYTES_MAX, "one that is somewhat too large is told so");

/// A connection on `/session`.
#[derive(Debug)]
pub struct Device {
    connection: Connection,
    /// Waits for the upgrade to be answered.
    challenge: Option<String>,
    /// The sessions know this peer: they must learn of its end.
    known: bool,
    /// It was welcomed: it counts as a device until it is gone.
    welcomed: bool,
    paused: bool,
}

/// What a worker counts of its devices. Written by the worker alone.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that came.
    pub messages_in: Counter,
    /// Messages that went, a copy to each receiver.
    pub messages_out: Counter,
    /// Connections that ended without a sign-in, by their own fault or in time.
    pub sign_in_failures: Counter,
    /// Devices that have signed in.
    pub devices: Counter,
}

/// What a worker's devices share.
pub struct Devices {
    greeting: Arc<Greeting>,
    counters: Arc<Counters>,
    /// An admin has stopped the relay.
    stops: bool,
    /// Kept between calls for its memory.
    acts: Vec<Act>,
}

/// Connections among which are devices.
pub trait DeviceNet: Net {
    /// The state of a device's connection. `None` for the current one: the caller holds its state.
    fn device(&mut self, token: ConnToken) -> Option<&mut Device>;
    /// Sends a copy of a text message.
    fn send_text(&mut self, token: ConnToken, text: &str) -> Sent;
    /// A text message that several connections may get.
    fn share_text(text: &str) -> Self::Shared;
    /// Whether a connection is new and has yet to show that it reads: little is before it, and what else it is sent waits.
    fn is_unproved(&self, token: ConnToken) -> bool;
    /// Bytes that wait to be written to a connection.
    fn queued(&self, token: ConnToken) -> usize;
    /// Unpredictable bytes for the nonce of a challenge; `None` where the system gives none.
    fn nonce() -> Option<[u8; Nonce::BYTES]>;
}

impl<N: DeviceNet> Dialect<N> for Box<Device> {
    type State = Devices;

    const PATH: &'static str = PATH;

    fn request(
        head: &Head<'_>,
        arrival: Arrival,
        devices: &mut Devices,
        _: &mut Delivery<N::Shared>,
    ) -> Result<Upgrade<Self>, Response> {
        if !head.wants_upgrade() {
            let line = "/session speaks WebSocket, subprotocol amp-session.v1";
            return Err(Response::upgrade_required(line));
        }
        if !head.subprotocols().any(|name| name == SUBPROTOCOL) {
            let line = "the upgrade must offer the subprotocol amp-session.v1";
            return Err(Response::text(400, line));
        }
        let Some(nonce) = N::nonce() else {
            return Err(Response::text(500, "the system gives no random bytes"));
        };
        let host = head.host().ok().flatten().unwrap_or_default().to_owned();
        let origin = Origin { host, unix: arrival.is_local };
        let nonce = Nonce::from_bytes(nonce).to_string();
        let (connection, challenge) = Connection::open(arrival.peer, origin, nonce, &devices.greeting, arrival.now);
        let (known, welcomed, paused) = (false, false, false);
        let conn = Self::new(Device { connection, challenge: Some(challenge), known, welcomed, paused });
        Ok(Upgrade { conn, subprotocol: SUBPROTOCOL, headers: Vec::new() })
    }

    fn opened(&mut self, devices: &mut Devices, _: &mut Delivery<N::Shared>, net: &mut N) {
        net.limit_messages(net.current(), UNKNOWN_BYTES_MAX);
        if let Some(challenge) = self.challenge.take() {
            devices.send(net.current(), &challenge, net);
        }
        self.rearm(net);
    }

    fn message(
        &mut self,
        devices: &mut Devices,
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
        message: Incoming<'_>,
        _: N::Current<'_>,
    ) -> Result<(), Fault> {
        devices.counters.messages_in.add(1);
        let Incoming::Text(text) = message else {
            return Err(Fault::new(CloseCode::UNSUPPORTED, "this protocol is JSON in text messages"));
        };
        let mut acts = std::mem::take(&mut devices.acts);
        self.connection.text(text, net.now(), &mut acts);
        devices.carry_out(self, net.current(), delivery, net, &mut acts);
        devices.acts = acts;
        Ok(())
    }

    fn timeout(&mut self, devices: &mut Devices, delivery: &mut Delivery<N::Shared>, net: &mut N) {
        let mut acts = std::mem::take(&mut devices.acts);
        self.connection.timeout(net.now(), &mut acts);
        devices.carry_out(self, net.current(), delivery, net, &mut acts);
        devices.acts = acts;
        self.rearm(net);
    }

    fn writable(&mut self, _: &mut Devices, delivery: &mut Delivery<N::Shared>, net: &mut N) {
        if std::mem::take(&mut self.paused) {
            delivery.commands.push(ToSessions::Resumed(net.current()));
        }
    }

    fn closed(mut self, devices: &mut Devices, delivery: &mut Delivery<N::Shared>, token: ConnToken) {
        delivery.lanes.gone(token);
        devices.leaves(&mut self, token, delivery);
    }

    /// Framed once, shared by all receivers.
    fn out(devices: &mut Devices, delivery: &mut Delivery<N::Shared>, net: &mut N, peers: &[ConnToken], out: &Out) {
        let text = match out {
            Out::Answer { re, result, .. } => match result {
                Ok(reply) => super::reply(re, reply),
                Err(error) => super::error(Some(re), error),
            },
            Out::Event { event, .. } => super::event(event),
            Out::Delta { session, message, block, kind, at, text, .. } => {
                super::delta(session, message, (*block, *kind), *at, text)
            }
            Out::Presence { session, devices, .. } => super::presence(session, devices),
            Out::Changed { summary, .. } => super::summary_changed(summary),
            Out::CaughtUp { session, .. } => super::caught_up(session),
            Out::Reset { session, why, earliest, .. } => super::reset(session, why, earliest),
            Out::Launch(_) | Out::Write { .. } | Out::End { .. } => return,
        };
        devices.share(peers, &text, delivery, net);
    }

    fn keys_changed(
        devices: &mut Devices,
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
        peer: ConnToken,
        keys: &Arc<KeySet>,
    ) {
        let principal = net.device(peer).and_then(|device| Some(device.connection.caller()?.principal.clone()));
        let Some(principal) = principal else { return };
        match keys.principal(&principal) {
            Some(entry) => {
                devices.with(peer, delivery, net, |connection, acts| connection.limit_role(entry.role, acts))
            }
            None => devices.with(peer, delivery, net, |connection, acts| connection.revoked(acts)),
        }
    }
}

impl Device {
    /// Arms its one timer anew.
    fn rearm<N: Net>(&self, net: &mut N) {
        let now = net.now().mono_ms;
        net.set_timeout(net.current(), self.connection.deadline().map(|at| at.saturating_sub(now)));
    }
}

impl Devices {
    /// No devices yet; `counters` are this worker's own.
    pub fn new(greeting: Arc<Greeting>, counters: Arc<Counters>) -> Self {
        Self { greeting, counters, stops: false, acts: Vec::new() }
    }

    /// Whether an admin has stopped the relay since the last call.
    pub fn take_stop(&mut self) -> bool {
        std::mem::take(&mut self.stops)
    }

    fn send<N: DeviceNet>(&self, peer: ConnToken, text: &str, net: &mut N) {
        self.counters.messages_out.add(1);
        // A peer that is above its maximum is closed by the loop; its end comes through `closed`.
        let _ = net.send_text(peer, text);
    }

    /// A sign-in was judged.
    pub fn signed_in<N: DeviceNet>(
        &mut self,
        peer: ConnToken,
        lane: Lane,
        result: &Result<SignedIn, Error>,
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
    ) {
        delivery.lanes.done(lane);
        let (greeting, now) = (self.greeting.clone(), net.now());
        self.with(peer, delivery, net, |connection, acts| match result {
            Ok(signed) => connection.signed_in(signed, &greeting, now, acts),
            Err(error) => connection.refused(error, acts),
        });
    }

    /// The keys file was read because this device asked for it.
    pub fn keys_read<N: DeviceNet>(
        &mut self,
        peer: ConnToken,
        id: &Text,
        result: &Result<KeysFound, Error>,
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
    ) {
        delivery.answered(peer, net);
        let reply = match result {
            Ok(found) => super::keys_reply(id, &found.file, found.entries, found.refused),
            Err(error) => super::error(Some(id), error),
        };
        self.with(peer, delivery, net, |_, acts| acts.push(Act::Send(reply)));
    }

    /// Runs `act` on a device other than the current one, if it is there, and carries out what comes of it.
    fn with<N: DeviceNet>(
        &mut self,
        peer: ConnToken,
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
        act: impl FnOnce(&mut Connection, &mut Vec<Act>),
    ) {
        let mut acts = std::mem::take(&mut self.acts);
        if let Some(device) = net.device(peer) {
            act(&mut device.connection, &mut acts);
        }
        for act in acts.drain(..) {
            if let Some(device) = net.device(peer) {
                self.note(device, peer, &act, delivery);
            }
            self.act(peer, delivery, net, act);
        }
        self.acts = acts;
        let now = net.now();
        if let Some(device) = net.device(peer) {
            device.connection.sent(now);
            let deadline = device.connection.deadline();
            net.set_timeout(peer, deadline.map(|at| at.saturating_sub(now.mono_ms)));
        }
    }

    fn carry_out<N: DeviceNet>(
        &mut self,
        device: &mut Device,
        peer: ConnToken,
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
        acts: &mut Vec<Act>,
    ) {
        for act in acts.drain(..) {
            self.note(device, peer, &act, delivery);
            self.act(peer, delivery, net, act);
        }
    }

    /// Notes what an act changes of the device's state.
    fn note<S: Shared>(&self, device: &mut Device, peer: ConnToken, act: &Act, delivery: &mut Delivery<S>) {
        match act {
            Act::Welcome(_) => {
                device.welcomed = true;
                self.counters.devices.add(1);
            }
            Act::Submit(..) => device.known = true,
            Act::Close(..) if !device.welcomed => self.counters.sign_in_failures.add(1),
            // The peer may take its time with the close. Meanwhile it must not be among the devices.
            Act::Close(..) => self.leaves(device, peer, delivery),
            _ => {}
        }
    }

    /// The device counts no more, and the sessions that know it are told so, once.
    fn leaves<S: Shared>(&self, device: &mut Device, peer: ConnToken, delivery: &mut Delivery<S>) {
        if std::mem::take(&mut device.welcomed) {
            self.counters.devices.sub(1);
        }
        if std::mem::take(&mut device.known) {
            delivery.commands.push(ToSessions::Gone(peer));
        }
    }

    fn act<N: DeviceNet>(&mut self, peer: ConnToken, delivery: &mut Delivery<N::Shared>, net: &mut N, act: Act) {
        match act {
            Act::Send(text) => self.send(peer, &text, net),
            Act::Welcome(_) if !net.confirm(peer) => net.close(peer, CloseCode::TRY_AGAIN, "there is no room"),
            Act::Welcome(text) => {
                net.limit_messages(peer, u32::MAX);
                self.send(peer, &text, net);
            }
            Act::Close(code, reason) => net.close(peer, code, reason),
            Act::Verify(job) => {
                let (id, lane) = (job.sign_in.id.clone(), if job.is_local { Lane::Local } else { Lane::Strangers });
                net.spare(peer);
                if !delivery.lanes.ask(lane, Job::SignIn(job)) {
                    self.send(peer, &overloaded(&id, "too many sign-ins are waiting"), net);
                    net.close(peer, CloseCode::TRY_AGAIN, "try again later");
                }
            }
            Act::ReloadKeys { principal, id } => delivery.ask(&principal, Job::Reload { peer, id }, net),
            Act::StopRelay(caller, id) => {
                log::info!(conn:% = peer, key = &*caller.principal; "an admin stops the relay");
                self.send(peer, &super::reply(&id, &Reply::Done), net);
                self.stops = true;
            }
            Act::Submit(caller, request) => {
                let (principal, id) = (caller.principal.clone(), request.id.clone());
                if !delivery.commands.ask(&principal, ToSessions::Request(caller, request)) {
                    let text = overloaded(&id, "the relay is overloaded; the command was not run");
                    self.send(peer, &text, net);
                } else if delivery.lanes.owe(peer) {
                    // The command of one connection waits with it, and not in the way of the others.
                    net.pause(peer);
                }
            }
        }
    }

    fn share<N: DeviceNet>(&self, peers: &[ConnToken], text: &str, delivery: &mut Delivery<N::Shared>, net: &mut N) {
        let (shared, now) = (N::share_text(text), net.now());
        for &peer in peers {
            let sent = net.send_shared(peer, &shared);
            if sent == Sent::Closed {
                continue;
            }
            self.counters.messages_out.add(1);
            // What the kernel has not refused is gone by the end of the turn, however much it is. A new device gets
            // little at a time by our own limit, which is no reason to skip live text.
            let is_stuck = sent == Sent::High
                && net.is_blocked(peer)
                && (net.queued(peer) > UNPROVED_QUEUE || !net.is_unproved(peer));
            let Some(device) = net.device(peer) else { continue };
            device.connection.sent(now);
            if is_stuck && !device.paused && device.known {
                device.paused = true;
                delivery.commands.push(ToSessions::Paused(peer));
            }
        }
    }
}

fn overloaded(id: &str, why: &str) -> String {
    let error = Error { retry_after_ms: Some(1000), ..Error::new(Code::RateLimited, why) };
    super::error(Some(id), &error)
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
