//! Goal: what a connection on `/session` is given, asked and spared on its way to being a device and after. Method: the
//! devices of one worker over connections that take down what is asked of them.

use super::{
    super::{SIGN_IN_MS, TICK_MS},
    *,
};
use crate::{
    base::Now,
    relay::{
        Role,
        delivery::{self, Agent, Parts, Services, test_net::TestNet},
        message::tests::Bytes,
    },
    wire::{
        amp,
        http::{Parsed, parse},
        sign_in::{Limits, RelayInfo},
    },
};

type Connections = TestNet<Box<Device>>;

impl DeviceNet for Connections {
    fn device(&mut self, token: ConnToken) -> Option<&mut Device> {
        self.other(token).map(|device| &mut **device)
    }

    fn send_text(&mut self, token: ConnToken, text: &str) -> Sent {
        self.send(token, text.as_bytes())
    }

    fn share_text(text: &str) -> Bytes {
        Bytes::of(text.as_bytes())
    }

    fn is_unproved(&self, token: ConnToken) -> bool {
        self.conns.get(&token).is_some_and(|conn| conn.is_unproved)
    }

    fn queued(&self, token: ConnToken) -> usize {
        self.conns.get(&token).map_or(0, |conn| conn.queued)
    }

    fn nonce() -> Option<[u8; Nonce::BYTES]> {
        Some([7; Nonce::BYTES])
    }
}

const UPGRADE: &str = "GET /session HTTP/1.1\r\nHost: localhost:1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: amp-session.v1\r\n\r\n";

struct Worker {
    devices: Devices,
    delivery: Delivery<Bytes>,
    net: Connections,
    counters: Arc<Counters>,
}

impl Worker {
    fn new() -> Self {
        let (did, counters) = (Text::from("did:key:z6Mk"), Arc::<Counters>::default());
        let relay = RelayInfo { did: (&*did).into(), key: "k".into(), name: "relay".into(), version: "0".into() };
        let greeting = Greeting { relay, limits: Limits::default(), profiles: Vec::new() };
        let parts = Parts {
            greeting: delivery::Greeting { did, started_ms: 0 },
            services: Services::default(),
            verifies_all: false,
            workers: 1,
            secret: 1,
        };
        Self {
            devices: Devices::new(Arc::new(greeting), counters.clone()),
            delivery: Delivery::new(&parts, 0, Arc::default()),
            net: TestNet::new(0, Now::default()),
            counters,
        }
    }

    /// A connection over TCP that has its challenge.
    fn opens(&mut self, slot: u32) -> ConnToken {
        self.opens_on(slot, false)
    }

    /// The same on the Unix socket, or not.
    fn opens_on(&mut self, slot: u32, is_local: bool) -> ConnToken {
        let peer = ConnToken::new(0, slot, 1);
        let arrival = Arrival { peer, is_local, now: self.net.now };
        let Ok(Parsed::Complete { head, .. }) = parse(UPGRADE.as_bytes()) else { panic!("a request") };
        let Self { devices, delivery, .. } = self;
        let upgrade = <Box<Device> as Dialect<Connections>>::request(&head, arrival, devices, delivery);
        let mut device = upgrade.unwrap_or_else(|refused| panic!("{refused:?}")).conn;
        self.net.open(peer);
        self.net.current = peer;
        device.opened(devices, delivery, &mut self.net);
        self.net.conn(peer).other = Some(device);
        peer
    }

    fn sends(&mut self, peer: ConnToken, message: &serde_json::Value) {
        let mut device = self.net.conn(peer).other.take().expect("a device");
        let text = message.to_string();
        self.net.current = peer;
        let Self { devices, delivery, net, .. } = self;
        let sent = device.message(devices, delivery, net, Incoming::Text(&text), text.as_bytes());
        assert_eq!(sent, Ok(()));
        self.net.conn(peer).other = Some(device);
    }

    /// Its sign-in is on its way to be checked.
    fn signs_in(&mut self, peer: ConnToken) {
        self.wants_in(peer);
        let asked = self.delivery.lanes.next_job();
        assert!(matches!(&asked, Some((Lane::Strangers, Job::SignIn(job))) if job.peer == peer), "{asked:?}");
    }

    /// Its sign-in waits to be checked.
    fn wants_in(&mut self, peer: ConnToken) {
        let challenge = self.net.conn(peer).sent.last().expect("a challenge");
        let challenge: serde_json::Value = serde_json::from_slice(challenge).expect("JSON");
        let sign_in = serde_json::json!({
            "type": "sign_in", "id": "1", "client": "c", "key": "k", "nonce": challenge["nonce"],
            "authority": "localhost:1", "binding": "none", "device": {"name": "d", "kind": "test"}, "signature": "s",
        });
        self.sends(peer, &sign_in);
    }

    fn is_admitted(&mut self, peer: ConnToken) {
        self.is_admitted_as(peer, "SHA256:one", Role::Drive);
    }

    fn is_admitted_as(&mut self, peer: ConnToken, principal: &str, role: Role) {
        let signed = SignedIn { principal: principal.into(), comment: "".into(), role, proof: "p".into() };
        self.is_judged(peer, &Ok(signed));
    }

    fn is_judged(&mut self, peer: ConnToken, result: &Result<SignedIn, Error>) {
        self.devices.signed_in(peer, Lane::Strangers, result, &mut self.delivery, &mut self.net);
    }

    /// A connection that has signed in as an admin.
    fn admin(&mut self, slot: u32) -> ConnToken {
        let peer = self.opens(slot);
        self.signs_in(peer);
        self.is_admitted_as(peer, "SHA256:admin", Role::Admin);
        peer
    }

    /// It is this late, and the timer of this connection has come.
    fn times_out(&mut self, peer: ConnToken, mono_ms: u64) {
        self.net.now.mono_ms = mono_ms;
        let mut device = self.net.conn(peer).other.take().expect("a device");
        self.net.current = peer;
        device.timeout(&mut self.devices, &mut self.delivery, &mut self.net);
        self.net.conn(peer).other = Some(device);
    }

    fn is_writable(&mut self, peer: ConnToken) {
        let mut device = self.net.conn(peer).other.take().expect("a device");
        self.net.current = peer;
        device.writable(&mut self.devices, &mut self.delivery, &mut self.net);
        self.net.conn(peer).other = Some(device);
    }

    /// Its connection is over.
    fn ends(&mut self, peer: ConnToken) {
        let device = self.net.conns.remove(&peer).and_then(|conn| conn.other).expect("a device");
        <Box<Device> as Dialect<Connections>>::closed(device, &mut self.devices, &mut self.delivery, peer);
    }

    /// These keys are in force.
    fn keys(&mut self, peer: ConnToken, keys: &Arc<KeySet>) {
        let Self { devices, delivery, net, .. } = self;
        <Box<Device> as Dialect<Connections>>::keys_changed(devices, delivery, net, peer, keys);
    }

    /// What this connection was told last.
    fn last(&mut self, peer: ConnToken) -> serde_json::Value {
        let last = self.net.conn(peer).sent.last().expect("something was sent");
        serde_json::from_slice(last).expect("JSON")
    }

    /// A device that has asked the sessions for something.
    fn device(&mut self, slot: u32) -> ConnToken {
        let peer = self.opens(slot);
        self.signs_in(peer);
        self.is_admitted(peer);
        self.sends(peer, &serde_json::json!({"type": "list", "id": "2"}));
        let told = self.told();
        assert!(matches!(&told[..], [ToSessions::Request(caller, _)] if caller.peer == peer), "{told:?}");
        peer
    }

    /// What the sessions are to be told.
    fn told(&mut self) -> Vec<ToSessions> {
        self.delivery.commands.take(0).collect()
    }

    /// The sessions say something to this device. Gives the devices that are paused for it.
    fn is_sent(&mut self, peer: ConnToken) -> Vec<ConnToken> {
        let out = Out::CaughtUp { peer, session: "s".into() };
        let Self { devices, delivery, net, .. } = self;
        <Box<Device> as Dialect<Connections>>::out(devices, delivery, net, &[peer], &out);
        let paused = |message| match message {
            ToSessions::Paused(peer) => peer,
            other => panic!("{other:?}"),
        };
        self.told().into_iter().map(paused).collect()
    }
}

#[test]
fn a_stranger_is_given_little_and_is_spared_while_its_sign_in_is_checked() {
    let mut worker = Worker::new();
    let peer = worker.opens(1);
    let limit = |worker: &mut Worker| worker.net.conn(peer).message_max;
    assert_eq!(limit(&mut worker), Some(UNKNOWN_BYTES_MAX));
    assert!(!worker.net.conn(peer).is_spared, "it has shown nothing");
    worker.signs_in(peer);
    assert!(worker.net.conn(peer).is_spared, "its sign-in is being checked");
    assert_eq!(limit(&mut worker), Some(UNKNOWN_BYTES_MAX));
    worker.is_admitted(peer);
    assert!(worker.net.conn(peer).is_confirmed);
    assert_eq!(limit(&mut worker), Some(u32::MAX), "it has proved a key");
    assert_eq!(worker.last(peer)["type"], "welcome");
}

#[test]
fn a_device_for_which_there_is_no_room_is_not_welcome() {
    let mut worker = Worker::new();
    worker.net.has_room = false;
    let peer = worker.opens(1);
    worker.signs_in(peer);
    worker.is_admitted(peer);
    let conn = worker.net.conn(peer);
    assert_eq!((conn.closed, conn.message_max), (Some(CloseCode::TRY_AGAIN), Some(UNKNOWN_BYTES_MAX)));
    assert_eq!(conn.sent.len(), 1, "the challenge alone");
}

#[test]
fn a_device_that_is_closed_leaves_at_once_however_long_its_end_takes() {
    let mut worker = Worker::new();
    let peer = worker.device(1);
    assert_eq!(worker.counters.devices.get(), 1);
    let keys = Arc::new(KeySet::parse(""));
    worker.keys(peer, &keys);
    assert_eq!(worker.net.conn(peer).closed, Some(CloseCode::KEY_REVOKED));
    assert_eq!(worker.counters.devices.get(), 0);
    let told = worker.told();
    assert!(matches!(&told[..], [ToSessions::Gone(gone)] if *gone == peer), "{told:?}");
    // Its end comes later, and is told once.
    worker.ends(peer);
    assert!(worker.told().is_empty());
    assert_eq!((worker.counters.devices.get(), worker.counters.sign_in_failures.get()), (0, 0));
}

#[test]
fn live_text_is_skipped_for_a_device_that_is_stuck_and_not_for_one_that_is_new() {
    let mut worker = Worker::new();
    let peers = [1, 2].map(|slot| worker.device(slot));
    let [new, stuck] = peers;
    for peer in peers {
        assert!(worker.is_sent(peer).is_empty(), "it takes everything");
        worker.net.conn(peer).is_blocked = true;
        assert!(worker.is_sent(peer).is_empty(), "little waits");
        worker.net.conn(peer).is_blocked = false;
        let conn = worker.net.conn(peer);
        (conn.is_high, conn.queued) = (true, UNPROVED_QUEUE);
        assert!(worker.is_sent(peer).is_empty(), "the kernel takes what there is");
        worker.net.conn(peer).is_blocked = true;
    }
    worker.net.conn(new).is_unproved = true;
    assert!(worker.is_sent(new).is_empty(), "it is given little at a time by our own limit");
    worker.net.conn(new).queued += 1;
    assert_eq!(worker.is_sent(new), [new], "even so it takes too little");
    assert_eq!(worker.is_sent(stuck), [stuck]);
    assert!(worker.is_sent(stuck).is_empty(), "told once");
    // Once it takes more it is told so, once, and may be stuck again.
    for resumed in [1, 0] {
        worker.is_writable(stuck);
        let told = worker.told();
        assert!(
            told.len() == resumed && told.iter().all(|one| matches!(one, ToSessions::Resumed(peer) if *peer == stuck))
        );
    }
    assert_eq!(worker.is_sent(stuck), [stuck]);
    // One that the sessions do not know is no matter of theirs, and what is closed is sent nothing.
    let stranger = worker.admin(3);
    let conn = worker.net.conn(stranger);
    (conn.is_high, conn.is_blocked) = (true, true);
    assert!(worker.is_sent(stranger).is_empty());
    let sent = worker.counters.messages_out.get();
    worker.net.conn(stranger).closed = Some(CloseCode::POLICY);
    assert!(worker.is_sent(stranger).is_empty());
    assert_eq!(worker.counters.messages_out.get(), sent);
}

#[test]
fn a_device_that_has_asked_for_much_is_not_read_until_half_of_it_is_taken() {
    let mut worker = Worker::new();
    let peer = worker.device(1);
    let mut asked = 1;
    while !worker.net.conn(peer).is_paused {
        worker.sends(peer, &serde_json::json!({"type": "list", "id": "2"}));
        asked += 1;
        assert!(asked < 1_000, "it is read, however much waits");
    }
    for taken in 0..asked / 2 {
        assert!(worker.net.conn(peer).is_paused, "with {taken} taken");
        worker.delivery.asked(peer, &mut worker.net);
    }
    assert!(!worker.net.conn(peer).is_paused);
}

#[test]
fn a_sign_in_on_the_unix_socket_does_not_wait_for_those_of_strangers() {
    let mut worker = Worker::new();
    let strangers: Vec<_> = (1..=20).map(|slot| worker.opens(slot)).collect();
    strangers.into_iter().for_each(|peer| worker.wants_in(peer));
    let local = worker.opens_on(30, true);
    worker.wants_in(local);
    let first = worker.delivery.lanes.next_job();
    assert!(matches!(&first, Some((Lane::Local, Job::SignIn(job))) if job.peer == local), "{first:?}");
}

#[test]
fn a_request_is_taken_if_it_is_an_upgrade_that_offers_the_subprotocol() {
    fn status<D: Dialect<Connections>>(request: &str, state: &mut D::State, worker: &mut Delivery<Bytes>) -> u16 {
        let Ok(Parsed::Complete { head, .. }) = parse(request.as_bytes()) else { panic!("a request: {request}") };
        let arrival = Arrival { peer: ConnToken::new(0, 1, 1), is_local: false, now: Now::default() };
        D::request(&head, arrival, state, worker).map_or_else(|refused| refused.status, |_| 101)
    }
    let Worker { mut devices, mut delivery, .. } = Worker::new();
    for (ours, theirs) in [(SUBPROTOCOL, amp::SUBPROTOCOL), (amp::SUBPROTOCOL, SUBPROTOCOL)] {
        for (from, to, expected) in [
            (SUBPROTOCOL, ours.to_owned(), 101),
            (SUBPROTOCOL, format!("chat, {ours}, {theirs}"), 101),
            (SUBPROTOCOL, theirs.to_owned(), 400),
            ("Sec-WebSocket-Protocol: amp-session.v1\r\n", String::new(), 400),
            ("Upgrade: websocket\r\n", String::new(), 426),
        ] {
            let request =
                UPGRADE.replace(from, &to).replace(SUBPROTOCOL, if to.is_empty() { ours } else { SUBPROTOCOL });
            let got = if ours == SUBPROTOCOL {
                status::<Box<Device>>(&request, &mut devices, &mut delivery)
            } else {
                status::<Agent>(&request, &mut (), &mut delivery)
            };
            assert_eq!(got, expected, "{request}");
        }
    }
}

#[test]
fn a_connection_has_its_time_to_sign_in_and_a_device_hears_that_the_relay_is_there() {
    let mut worker = Worker::new();
    let idle = worker.opens(1);
    assert_eq!(worker.net.conn(idle).timeout_at, Some(SIGN_IN_MS));
    worker.times_out(idle, SIGN_IN_MS);
    assert_eq!(worker.last(idle)["code"], "AUTH_TIMEOUT");
    assert_eq!((worker.net.conn(idle).closed, worker.counters.sign_in_failures.get()), (Some(CloseCode::POLICY), 1));

    let peer = worker.device(2);
    let since = SIGN_IN_MS;
    assert_eq!(worker.net.conn(peer).timeout_at, Some(since + TICK_MS));
    // What it hears puts the next sign of life off.
    worker.net.now.mono_ms = since + 5;
    worker.is_sent(peer);
    let sent = worker.net.conn(peer).sent.len();
    worker.times_out(peer, since + TICK_MS);
    let conn = worker.net.conn(peer);
    assert_eq!((conn.sent.len(), conn.timeout_at), (sent, Some(since + 5 + TICK_MS)), "nothing is due");
    for ticks in 1..3 {
        let due = worker.net.conn(peer).timeout_at.expect("a time");
        worker.times_out(peer, due);
        assert_eq!((&worker.last(peer)["type"], worker.net.conn(peer).sent.len()), (&"tick".into(), sent + ticks));
        assert_eq!(worker.net.conn(peer).timeout_at, Some(due + TICK_MS));
    }
    let now = worker.net.now.mono_ms + 7;
    worker.net.now.mono_ms = now;
    let found = Err(Error::new(Code::Internal, "any answer"));
    worker.devices.keys_read(peer, &"9".into(), &found, &mut worker.delivery, &mut worker.net);
    assert_eq!(worker.last(peer)["re"], "9");
    assert_eq!(worker.net.conn(peer).timeout_at, Some(now + TICK_MS));
}

#[test]
fn sign_ins_that_are_judged_or_whose_connections_are_gone_make_room_for_others() {
    let mut worker = Worker::new();
    let mut peers: Vec<_> = (1..=100).map(|slot| worker.opens(slot)).collect();
    peers.iter().for_each(|peer| worker.wants_in(*peer));
    for gone in peers.split_off(50) {
        worker.ends(gone);
    }
    for (count, expected) in peers.into_iter().enumerate() {
        let next = worker.delivery.lanes.next_job();
        let Some((Lane::Strangers, Job::SignIn(job))) = next else { panic!("{next:?} after {count}") };
        assert_eq!(job.peer, expected);
        worker.is_judged(expected, &Err(Error::new(Code::KeyNotAuthorized, "no")));
        let told = worker.last(expected);
        assert_eq!((&told["code"], &told["re"]), (&"KEY_NOT_AUTHORIZED".into(), &"1".into()));
        assert_eq!(worker.net.conn(expected).closed, Some(CloseCode::POLICY));
    }
    assert!(worker.delivery.lanes.next_job().is_none());
    assert_eq!(worker.counters.sign_in_failures.get(), 50, "by their own fault");
    // A device that goes is told to the sessions that know it, and counts no more.
    let peer = worker.device(200);
    worker.ends(peer);
    let told = worker.told();
    assert!(matches!(&told[..], [ToSessions::Gone(gone)] if *gone == peer), "{told:?}");
    assert_eq!(worker.counters.devices.get(), 0);
}

#[test]
fn what_finds_no_room_is_told_to_come_again_and_not_lost_in_silence() {
    let mut worker = Worker::new();
    let mut slot = 1;
    let refused = loop {
        let peer = worker.opens(slot);
        worker.wants_in(peer);
        if worker.net.conn(peer).closed.is_some() {
            break peer;
        }
        slot += 1;
        assert!(slot < 10_000, "any number waits");
    };
    let told = worker.last(refused);
    assert_eq!(
        (&told["code"], &told["re"], told["retry_after_ms"].as_u64()),
        (&"RATE_LIMITED".into(), &"1".into(), Some(1000))
    );
    assert_eq!(worker.net.conn(refused).closed, Some(CloseCode::TRY_AGAIN));

    let mut worker = Worker::new();
    let peer = worker.device(1);
    let before = worker.net.conn(peer).sent.len();
    for asked in 0.. {
        worker.sends(peer, &serde_json::json!({"type": "list", "id": format!("n{asked}")}));
        if worker.net.conn(peer).sent.len() > before {
            let told = worker.last(peer);
            assert_eq!((&told["code"], &told["re"]), (&"RATE_LIMITED".into(), &format!("n{asked}").into()));
            assert_eq!(worker.told().len(), asked, "all but this one");
            break;
        }
        assert!(asked < 100_000, "any number waits");
    }
}

#[test]
fn what_an_admin_asks_of_the_relay_is_done_once_and_answered() {
    let mut worker = Worker::new();
    let peer = worker.admin(1);
    worker.sends(peer, &serde_json::json!({"type": "relay", "id": "s", "op": "stop"}));
    let told = worker.last(peer);
    assert_eq!((&told["type"], &told["re"]), (&"reply".into(), &"s".into()));
    assert_eq!([(); 2].map(|()| worker.devices.take_stop()), [true, false]);
    // Many reads of the keys file: the connection is not read meanwhile, and each of them is done.
    let mut asked = 0;
    while !worker.net.conn(peer).is_paused {
        worker.sends(peer, &serde_json::json!({"type": "keys", "id": format!("k{asked}"), "op": "reload"}));
        asked += 1;
        assert!(asked < 1_000, "it is read, however much waits");
    }
    for round in 0..3 {
        for number in 0..asked {
            let next = worker.delivery.lanes.next_job();
            let Some((Lane::Admitted, Job::Reload { peer: of, id })) = next else { panic!("{next:?} in {round}") };
            assert_eq!((of, &*id), (peer, &*format!("k{number}")));
            let found = Ok(KeysFound { file: "keys".into(), entries: 3, refused: 0 });
            worker.devices.keys_read(peer, &id, &found, &mut worker.delivery, &mut worker.net);
            let told = worker.last(peer);
            assert_eq!((&told["type"], told["re"].as_str()), (&"reply".into(), Some(&*id)));
        }
        assert!(!worker.net.conn(peer).is_paused);
        for number in 0..asked {
            worker.sends(peer, &serde_json::json!({"type": "keys", "id": format!("k{number}"), "op": "reload"}));
        }
    }
}

#[test]
fn a_device_has_no_more_than_the_role_that_its_key_has_now() {
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    let mut worker = Worker::new();
    let keys = |role: &str| Arc::new(KeySet::parse(&format!("amp-role=\"{role}\" {KEY}")));
    let principal = keys("drive").entries[0].fingerprint.clone();
    let peer = worker.opens(1);
    worker.signs_in(peer);
    worker.is_admitted_as(peer, &principal, Role::Drive);
    let interrupt = serde_json::json!({"type": "interrupt", "id": "2", "session": "s"});
    for (role, passes) in [("drive", true), ("watch", false), ("admin", true)] {
        worker.keys(peer, &keys(role));
        worker.sends(peer, &interrupt);
        let told = worker.told();
        assert_eq!(told.len(), usize::from(passes), "{role}");
        assert!(told.iter().all(|told| matches!(told, ToSessions::Request(caller, _) if caller.role == Role::Drive)));
        assert!(passes || worker.last(peer)["code"] == "FORBIDDEN");
    }
    worker.keys(peer, &keys("agent"));
    assert_eq!(worker.net.conn(peer).closed, Some(CloseCode::KEY_REVOKED));
}
