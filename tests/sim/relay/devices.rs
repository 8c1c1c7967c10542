//! A device that sends more commands than the sessions have taken is not read meanwhile, and no other waits for that:
//! counted on the devices of one worker, whose sessions take a command when the test says so.

use std::{collections::BTreeSet, sync::Arc};

use amp_relay::{
    base::{ConnToken, Now},
    dialect::{
        Arrival, Dialect, Incoming,
        session::{Device, Devices, Greeting},
    },
    relay::{
        Role, SignedIn,
        api::{Out, Reply, Text},
        delivery::{self, Counters, Delivery, Job, Lane, Parts, Services},
        sessions::ToSessions,
    },
    wire::{
        http::{Parsed, parse},
        sign_in::{Limits, RelayInfo},
    },
};

use super::net::{Bytes, SimNet};

/// Commands of one connection that the sessions have not taken, from which on it is not read.
const WAITING_MAX: usize = 64;

const UPGRADE: &str = "GET /session HTTP/1.1\r\nHost: localhost:1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: amp-session.v1\r\n\r\n";

/// One worker with its devices.
struct Worker {
    devices: Devices,
    delivery: Delivery<Bytes>,
    net: SimNet,
}

impl Worker {
    fn new() -> Self {
        let (did, now) = (Text::from("did:key:z6Mk"), Now::default());
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
            devices: Devices::new(Arc::new(greeting), Arc::default()),
            delivery: Delivery::new(&parts, 0, Arc::<Counters>::default()),
            net: SimNet::new(0, now, 10, 1),
        }
    }

    /// A device that has signed in as this principal.
    fn connect(&mut self, slot: u32, principal: &str) -> ConnToken {
        let peer = ConnToken::new(0, slot, 0);
        let arrival = Arrival { peer, is_local: false, now: self.net.now };
        let Ok(Parsed::Complete { head, .. }) = parse(UPGRADE.as_bytes()) else { panic!("a request") };
        let upgrade = <Box<Device> as Dialect<SimNet>>::request(&head, arrival, &mut self.devices, &mut self.delivery);
        let mut device = upgrade.unwrap_or_else(|refused| panic!("{refused:?}")).conn;
        self.net.open(peer, None);
        self.net.current = peer;
        device.opened(&mut self.devices, &mut self.delivery, &mut self.net);
        self.conn(peer).device = Some(device);
        let challenge = self.told(peer).pop().expect("a challenge");
        let nonce = challenge["nonce"].as_str().expect("a nonce").to_owned();
        let device = serde_json::json!({"name": "d", "kind": "test"});
        self.sends(
            peer,
            &serde_json::json!({
                "type": "sign_in", "id": "1", "client": principal, "key": "k", "nonce": nonce,
                "authority": "localhost:1", "binding": "none", "device": device, "signature": "s",
            }),
        );
        let asked = self.delivery.lanes.next_job();
        assert!(matches!(&asked, Some((Lane::Strangers, Job::SignIn(job))) if job.peer == peer), "{asked:?}");
        let (role, proof) = (Role::Drive, "p".into());
        let signed = SignedIn { principal: principal.into(), comment: "".into(), role, proof };
        self.devices.signed_in(peer, Lane::Strangers, &Ok(signed), &mut self.delivery, &mut self.net);
        let welcome = self.told(peer).pop().expect("a welcome");
        assert_eq!(welcome["type"], "welcome");
        peer
    }

    fn conn(&mut self, peer: ConnToken) -> &mut super::net::Conn {
        self.net.conns.get_mut(&peer).expect("a connection")
    }

    /// What was sent to a connection since this was asked last. What it does not read stays in its queue.
    fn told(&mut self, peer: ConnToken) -> Vec<serde_json::Value> {
        let told = std::mem::take(&mut self.net.handed);
        let (its, others) = told.into_iter().partition(|(to, _)| *to == peer);
        self.net.handed = others;
        let its: Vec<(ConnToken, Vec<u8>)> = its;
        its.iter().map(|(_, text)| serde_json::from_slice(text).expect("JSON")).collect()
    }

    fn sends(&mut self, peer: ConnToken, message: &serde_json::Value) {
        assert!(!self.conn(peer).is_paused, "it is not read");
        let mut device = self.conn(peer).device.take().expect("a device");
        let text = message.to_string();
        self.net.current = peer;
        let sent = device.message(
            &mut self.devices,
            &mut self.delivery,
            &mut self.net,
            Incoming::Text(&text),
            text.as_bytes(),
        );
        assert_eq!(sent, Ok(()));
        self.conn(peer).device = Some(device);
    }

    /// Sends commands until it is not read any more, `most` at most. How many.
    fn floods(&mut self, peer: ConnToken, most: usize) -> usize {
        let mut sent = 0;
        while sent < most && !self.conn(peer).is_paused {
            let kind = if sent % 2 == 0 { "list" } else { "attach" };
            self.sends(peer, &serde_json::json!({"type": kind, "id": sent.to_string(), "session": "s"}));
            sent += 1;
        }
        sent
    }

    /// The commands on the way to the sessions.
    fn waiting(&mut self) -> Vec<(ConnToken, Text)> {
        let request = |message| match message {
            ToSessions::Request(caller, request) => (caller.peer, request.id),
            other => panic!("{other:?}"),
        };
        self.delivery.commands.take(0).map(request).collect()
    }

    /// The sessions take a command, and answer it.
    fn taken(&mut self, (peer, id): (ConnToken, Text)) {
        self.net.current = SimNet::nobody();
        self.delivery.asked(peer, &mut self.net);
        let out = Out::Answer { peer, re: id, result: Ok(Reply::Done) };
        <Box<Device> as Dialect<SimNet>>::out(&mut self.devices, &mut self.delivery, &mut self.net, &[peer], &out);
    }
}

#[test]
fn a_device_that_does_not_read_is_not_read_while_its_commands_wait_and_others_are_answered() {
    let mut worker = Worker::new();
    let (floods, other) = (worker.connect(1, "SHA256:one"), worker.connect(2, "SHA256:two"));
    worker.conn(floods).is_deaf = true;
    assert_eq!(worker.floods(floods, 1000), WAITING_MAX, "then it is not read");
    // The sessions have none of them yet, and another's is taken and answered.
    assert_eq!(worker.floods(other, 1), 1);
    let (mine, its): (Vec<_>, Vec<_>) = worker.waiting().into_iter().partition(|(peer, _)| *peer == floods);
    assert_eq!((mine.len(), its.len()), (WAITING_MAX, 1));
    its.into_iter().for_each(|command| worker.taken(command));
    let told = worker.told(other);
    assert!(told.len() == 1 && told[0]["re"] == "0", "{told:?}");
    assert!(worker.conn(floods).is_paused && !worker.conn(other).is_paused);
    // It is read again when half of them are taken, for so many more, and none is left out.
    let mut taken = BTreeSet::new();
    let mut mine = mine.into_iter();
    while worker.conn(floods).is_paused {
        let command = mine.next().expect("it is read again before all are taken");
        taken.insert(command.1.clone());
        worker.taken(command);
    }
    assert_eq!(taken.len(), WAITING_MAX / 2);
    assert_eq!(worker.floods(floods, 1000), WAITING_MAX / 2);
    mine.for_each(|command| worker.taken(command));
    assert!(!worker.conn(floods).is_paused);
    assert_eq!(worker.told(floods).len(), WAITING_MAX, "an answer for each that was taken");
}
