//! Goal: what a connection on `/session` is given, asked and spared on its way to being a device and after. Method: the
//! devices of one worker over connections that take down what is asked of them.

use super::*;
use crate::{
    base::Now,
    relay::{
        Role,
        delivery::{self, Parts, Services, test_net::TestNet},
        message::tests::Bytes,
    },
    wire::{
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
        let (principal, role, proof) = ("SHA256:one".into(), Role::Drive, "p".into());
        let signed = Ok(SignedIn { principal, comment: "".into(), role, proof });
        self.devices.signed_in(peer, Lane::Strangers, &signed, &mut self.delivery, &mut self.net);
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
    let Worker { devices, delivery, net, .. } = &mut worker;
    <Box<Device> as Dialect<Connections>>::keys_changed(devices, delivery, net, peer, &keys);
    assert_eq!(worker.net.conn(peer).closed, Some(CloseCode::KEY_REVOKED));
    assert_eq!(worker.counters.devices.get(), 0);
    let told = worker.told();
    assert!(matches!(&told[..], [ToSessions::Gone(gone)] if *gone == peer), "{told:?}");
    // Its end comes later, and is told once.
    let device = worker.net.conns.remove(&peer).and_then(|conn| conn.other).expect("a device");
    <Box<Device> as Dialect<Connections>>::closed(device, &mut worker.devices, &mut worker.delivery, peer);
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
