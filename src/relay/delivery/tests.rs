//! Goal: what the core of a worker gives back and cleans up when a connection, a session or a full link goes. Method: the
//! core of one worker or several over connections that take down what is asked of them.

use ed25519_dalek::SigningKey;

mod answers;
mod ways;

use super::{test_net::TestNet, *};
use crate::{
    base::Now,
    relay::{
        Role,
        directory::Why,
        message::{Refused, tests::Bytes, undelivered},
    },
    wire::{
        amp::{Builder, Header, To, Type, body},
        cbor,
        sign_in::{did_of, fingerprint},
    },
};

const NOW: Now = Now { mono_ms: 1_000, unix_ms: 1_800_000_000_000 };
const RELAY: &str = "did:key:zRelay";

struct Key {
    key: SigningKey,
    public: ssh_key::PublicKey,
    did: Text,
}

fn key(seed: u8) -> Key {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes()));
    Key { key, did: did_of(&public).expect("a did:key").into(), public }
}

impl Key {
    fn message(&self, typ: Type, to: &[&str], body: &[u8]) -> Vec<u8> {
        let recipients = if let [one] = to { To::One(one) } else { To::Many(to) };
        self.message_from(&self.did, typ, recipients, body)
    }

    fn message_from(&self, from: &str, typ: Type, to: To<'_>, body: &[u8]) -> Vec<u8> {
        let header = Header::new(Id::new(NOW.unix_ms, [1; 8]), typ, from, to);
        self.signed(header, KeyEncoding::Text, body)
    }

    fn signed(&self, header: Header<'_>, key_encoding: KeyEncoding, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let built = Builder::new(header).body(body).write_signed(key_encoding, &self.key, &mut Vec::new(), &mut frame);
        built.expect("a message");
        frame
    }

    /// A HELLO of this time.
    fn hello(&self, to: &str, unix_ms: u64, key_encoding: KeyEncoding) -> Vec<u8> {
        let mut hello = Vec::new();
        body::Hello { versions: &["1.0"], ..body::Hello::default() }.write(&mut hello);
        self.signed(Header::new(Id::new(unix_ms, [1; 8]), Type::HELLO, &self.did, To::One(to)), key_encoding, &hello)
    }
}

struct Worker {
    delivery: Delivery<Bytes>,
    net: TestNet<()>,
    counters: Arc<Counters>,
}

fn parts(workers: u16) -> Parts {
    Parts {
        greeting: Greeting { did: RELAY.into(), started_ms: NOW.unix_ms - 1_000 },
        services: Services::default(),
        verifies_all: false,
        workers,
        secret: 1,
    }
}

fn workers_of(parts: &Parts) -> Vec<Worker> {
    let worker = |index| {
        let counters = Arc::<Counters>::default();
        Worker { delivery: Delivery::new(parts, index, counters.clone()), net: TestNet::new(index, NOW), counters }
    };
    (0..parts.workers).map(worker).collect()
}

fn workers(count: u16) -> Vec<Worker> {
    workers_of(&parts(count))
}

fn worker() -> Worker {
    workers(1).remove(0)
}

impl Worker {
    fn as_current<R>(
        &mut self,
        token: ConnToken,
        act: impl FnOnce(&mut Delivery<Bytes>, &mut Agent, &mut TestNet<()>) -> R,
    ) -> R {
        let mut agent = self.net.conn(token).agent.take().expect("an agent");
        self.net.current = token;
        let result = act(&mut self.delivery, &mut agent, &mut self.net);
        self.net.conn(token).agent = Some(agent);
        result
    }

    /// A connection over TCP that was upgraded.
    fn opens(&mut self, slot: u32) -> ConnToken {
        self.opens_on(slot, false)
    }

    /// The same on the Unix socket, or not.
    fn opens_on(&mut self, slot: u32, is_local: bool) -> ConnToken {
        let token = ConnToken::new(self.net.worker(), slot, 1);
        self.net.open(token).agent = Some(Agent::new(token, is_local, self.net.now));
        self.as_current(token, |delivery, agent, net| delivery.opened(agent, net));
        token
    }

    fn says(&mut self, token: ConnToken, frame: &[u8]) {
        self.as_current(token, |delivery, agent, net| delivery.message(agent, net, frame, frame));
    }

    /// Its HELLO is on its way to be checked.
    fn greets(&mut self, token: ConnToken, key: &Key) {
        self.wants_in(token, key);
        let job = self.delivery.lanes.next_job();
        assert!(matches!(&job, Some((Lane::Strangers, Job::Hello(job))) if job.peer == token), "{job:?}");
    }

    /// Its HELLO waits to be checked.
    fn wants_in(&mut self, token: ConnToken, key: &Key) {
        self.says(token, &key.hello(RELAY, NOW.unix_ms, KeyEncoding::Text));
    }

    fn is_judged(&mut self, token: ConnToken, key: &Key, role: Role) {
        let principal = Some(Principal { did: key.did.clone(), fingerprint: fingerprint(&key.public).into(), role });
        let judged = Judged { principal, answer: b"ack".to_vec(), close: None };
        self.delivery.judged(token, Lane::Strangers, Some(judged), &mut self.net);
    }

    /// A connection that asks to be let in with this key.
    fn joins(&mut self, slot: u32, key: &Key, role: Role) -> ConnToken {
        let token = self.opens(slot);
        self.greets(token, key);
        self.is_judged(token, key, role);
        token
    }

    /// Time passes until the timeout of a connection comes.
    fn waits(&mut self, token: ConnToken) {
        let at = self.net.conn(token).timeout_at.expect("it is set");
        self.passes(at.saturating_sub(self.net.now.mono_ms), token);
    }

    /// What the relay and its sessions are to say. As good as signed.
    fn replies(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some((lane, job)) = self.delivery.lanes.next_job() {
            match (lane, job.peer()) {
                (Lane::Admitted, Some(peer)) => self.delivery.answered(peer, &mut self.net),
                _ => self.delivery.lanes.done(lane),
            }
            let Job::Reply(reply) = job else { panic!("a reply: {job:?}") };
            replies.push(*reply);
        }
        replies
    }

    /// What was to be checked has a right signature.
    fn checks_all(&mut self) {
        while let Some(batch) = self.delivery.next_checks() {
            let checked = batch.into_iter().map(|check| Checked { check, verdict: Ok(()) }).collect();
            self.delivery.checked(checked, &mut self.net);
            self.delivery.check_invariants();
        }
    }

    fn drains(&mut self, token: ConnToken) {
        let conn = self.net.conn(token);
        (conn.is_high, conn.is_blocked) = (false, false);
        self.net.current = token;
        self.delivery.writable(&mut self.net);
    }

    fn goes(&mut self, token: ConnToken) {
        let conn = self.net.conns.remove(&token).expect("a connection");
        self.delivery.closed(&conn.agent.expect("an agent"), token);
        self.delivery.turn(&mut self.net);
    }

    fn passes(&mut self, ms: u64, token: ConnToken) {
        self.net.now = self.net.now.plus_ms(ms);
        self.net.conn(token).timeout_at = None;
        self.as_current(token, |delivery, agent, net| delivery.timeout(agent, net));
    }
}

/// Carries what there is between workers, but for one link that takes nothing.
fn carry(workers: &mut [Worker], stuck: Option<(u16, u16)>) {
    let mut moves = true;
    while std::mem::take(&mut moves) {
        for from in 0..workers.len() as u16 {
            let mut mails = Vec::new();
            let Worker { delivery, net, .. } = &mut workers[usize::from(from)];
            for to in delivery.destinations().into_iter().filter(|to| stuck != Some((from, *to))) {
                while let Some(batch) = delivery.take_for(to) {
                    mails.push((to, PeerMail::Directory(batch)));
                }
            }
            delivery.carried(net);
            while let Some(news) = delivery.poll_sender_news(from) {
                mails.push((news.sender().worker(), PeerMail::Sender(news)));
            }
            moves |= !mails.is_empty();
            for (to, mail) in mails {
                let Worker { delivery, net, .. } = &mut workers[usize::from(to)];
                delivery.peer_mail(mail, net);
                delivery.check_invariants();
            }
        }
    }
}

#[test]
fn a_stranger_is_given_little_and_is_spared_while_its_proof_is_checked() {
    let (mut worker, key) = (worker(), key(1));
    let token = worker.opens(1);
    let limit = |worker: &mut Worker| worker.net.conn(token).message_max;
    assert_eq!(limit(&mut worker), Some(UNKNOWN_BYTES_MAX));
    assert!(!worker.net.conn(token).is_spared, "it has shown nothing");
    worker.greets(token, &key);
    let conn = worker.net.conn(token);
    assert!(conn.is_spared && conn.is_paused, "its proof is being checked, and what comes behind it waits");
    assert_eq!(limit(&mut worker), Some(UNKNOWN_BYTES_MAX));
    worker.is_judged(token, &key, Role::Agent);
    let conn = worker.net.conn(token);
    assert!(conn.is_confirmed && !conn.is_paused && conn.sent == [b"ack"]);
    assert_eq!(worker.counters.agents.get(), 1);
    assert_eq!(limit(&mut worker), Some(u32::MAX), "it has proved a key");
}

#[test]
fn a_principal_that_had_its_share_of_commands_has_it_again_once_none_waits() {
    let mut commands = Commands::default();
    let (one, gone) = (Text::from("SHA256:one"), || ToSessions::Gone(ConnToken::new(0, 1, 1)));
    let fill = |commands: &mut Commands| (0..).take_while(|_| commands.ask(&one, gone())).count();
    let share = fill(&mut commands);
    assert_eq!(share, Commands::MAX / 2);
    // Those that were taken have found no room: its places are not free.
    assert_eq!(commands.take(share).count(), share);
    assert!(!commands.ask(&one, gone()));
    assert_eq!(commands.take(0).count(), 0);
    assert_eq!(fill(&mut commands), share);
}

#[test]
fn failures_of_a_sender_that_is_gone_are_gathered_and_told_no_more() {
    let mut worker = worker();
    let (sender, other) = (worker.joins(1, &key(1), Role::Agent), worker.joins(2, &key(2), Role::Agent));
    worker.says(sender, &key(1).message(Type::MESSAGE, &["did:key:zNo", "did:key:zNone"], cbor::NULL));
    assert_eq!(worker.counters.gathering.get(), 1);
    worker.goes(sender);
    assert_eq!(worker.counters.gathering.get(), 0);
    // The next timeout of any connection would tell it.
    worker.passes(1_000, other);
    assert!(worker.delivery.lanes.next_job().is_none());
}

#[test]
fn the_sessions_learn_that_a_connection_which_has_asked_them_is_gone() {
    let mut worker = worker();
    worker.delivery.session("s".into(), &"did:key:zSession".into());
    let (asker, other) = (worker.joins(1, &key(1), Role::Drive), worker.joins(2, &key(2), Role::Drive));
    let mut prompt = Vec::new();
    cbor::map(&mut prompt, 1);
    cbor::text(&mut prompt, "prompt");
    cbor::text(&mut prompt, "x");
    worker.says(asker, &key(1).message(Type::REQUEST, &["did:key:zSession"], &prompt));
    let told: Vec<_> = worker.delivery.commands.take(0).collect();
    assert!(matches!(&told[..], [ToSessions::Ask(ask)] if ask.caller.peer == asker), "{told:?}");
    worker.goes(other);
    worker.goes(asker);
    let told: Vec<_> = worker.delivery.commands.take(0).collect();
    assert!(matches!(&told[..], [ToSessions::AskerGone(gone)] if *gone == asker), "{told:?}");
}

#[test]
fn a_session_that_is_gone_is_forgotten() {
    let mut worker = worker();
    for n in 0..3 {
        worker.delivery.session("s".into(), &format!("did:key:z{n}").into());
    }
    worker.delivery.session_gone(&"did:key:z1".into());
    let mut left: Vec<_> = worker.delivery.sessions.values().map(|(_, did)| &**did).collect();
    left.sort_unstable();
    assert_eq!(left, ["did:key:z0", "did:key:z2"]);
    // A message to it is not lost in silence.
    let sender = worker.joins(1, &key(1), Role::Drive);
    worker.says(sender, &key(1).message(Type::PING, &["did:key:z1"], cbor::NULL));
    let replies = worker.replies();
    assert!(matches!(&replies[..], [reply] if reply.typ == Type::ERROR), "{replies:?}");
}

#[test]
fn a_connection_whose_last_answer_is_lost_ends_in_time() {
    let mut worker = worker();
    let token = worker.joins(1, &key(1), Role::Agent);
    assert_eq!(worker.net.conn(token).timeout_at, None);
    let foreign = key(1).message_from("did:key:zElse", Type::MESSAGE, To::One("did:key:zB"), cbor::NULL);
    for _ in 0..3 {
        assert_eq!(worker.net.conn(token).timeout_at, None, "it may be read on");
        worker.says(token, &foreign);
    }
    assert_eq!(worker.net.conn(token).timeout_at, Some(NOW.mono_ms + LAST_ANSWER_MS));
    assert_eq!(worker.net.conn(token).closed, None, "behind the answer");
    // Which the crypto thread never gives.
    worker.passes(LAST_ANSWER_MS, token);
    assert_eq!(worker.net.conn(token).closed, Some(CloseCode::POLICY));
}

#[test]
fn an_agent_whose_key_may_do_less_or_is_gone_is_closed() {
    let (lowered, gone, kept, raised) = (key(1), key(2), key(3), key(4));
    let mut worker = worker();
    let all = [(1, &lowered, Role::Drive), (2, &gone, Role::Agent), (3, &kept, Role::Watch), (4, &raised, Role::Agent)];
    let tokens = all.map(|(slot, key, role)| worker.joins(slot, key, role));
    let line = |key: &Key, role: &str| format!("amp-role=\"{role}\" {}\n", key.public.to_openssh().expect("a line"));
    let lines = [line(&lowered, "watch"), line(&kept, "watch"), line(&raised, "admin")].concat();
    let keys = KeySet::parse(&lines);
    let closed = tokens.map(|token| {
        worker.delivery.keys_changed(token, &keys, &mut worker.net);
        worker.net.conn(token).closed
    });
    assert_eq!(closed, [Some(CloseCode::POLICY), Some(CloseCode::POLICY), None, None]);
}

#[test]
fn a_sender_that_is_gone_is_not_counted_as_blocked() {
    let mut worker = worker();
    let (gone, here) = (ConnToken::new(0, 9, 1), worker.joins(1, &key(1), Role::Agent));
    for sender in [gone, here] {
        worker.delivery.sender_news(SenderNews::Blocked(sender), &mut worker.net);
    }
    assert!(!worker.delivery.backpressure.is_blocked(gone), "no end of it would ever be told");
    assert!(worker.delivery.backpressure.is_blocked(here) && worker.net.conn(here).is_paused);
    worker.delivery.sender_news(SenderNews::Unblocked(here), &mut worker.net);
    assert!(!worker.net.conn(here).is_paused);
}

/// Sends large messages until the sender is not read any more. How many.
fn floods(workers: &mut [Worker], sender: ConnToken, from: &Key, to: &str, stuck: (u16, u16)) -> usize {
    let mut text = Vec::new();
    cbor::text(&mut text, &"x".repeat(64 * 1024));
    let frame = from.message(Type::MESSAGE, &[to], &text);
    let at = usize::from(sender.worker());
    for sent in 0..100 {
        if workers[at].net.conn(sender).is_paused {
            return sent;
        }
        workers[at].says(sender, &frame);
        carry(workers, Some(stuck));
    }
    panic!("it is read, however much waits");
}

/// Everything is carried: the sender is read again, and the receiver has so many messages behind its HELLO_ACK.
fn caught_up(workers: &mut [Worker], sender: ConnToken, receiver: ConnToken, messages: usize) {
    carry(workers, None);
    assert!(!workers[usize::from(sender.worker())].net.conn(sender).is_paused, "it waits for ever");
    assert_eq!(workers[usize::from(receiver.worker())].net.conn(receiver).sent.len(), 1 + messages);
}

#[test]
fn a_sender_waits_for_a_worker_that_is_behind_and_is_read_when_it_has_caught_up() {
    let mut workers = workers(2);
    let (one, two) = (key(1), key(2));
    let sender = workers[0].joins(1, &one, Role::Agent);
    let receiver = workers[1].joins(1, &two, Role::Agent);
    carry(&mut workers, None);
    for _ in 0..2 {
        let before = workers[1].net.conn(receiver).sent.len() - 1;
        let sent = floods(&mut workers, sender, &one, &two.did, (0, 1));
        assert!(sent > 4, "{sent} messages");
        caught_up(&mut workers, sender, receiver, before + sent);
    }
}

#[test]
fn so_does_a_sender_of_a_third_worker() {
    let mut workers = workers(3);
    let (one, two) = (key(1), key(2));
    // The first worker has the newest connection of the receivers, and passes copies on to that of the last worker.
    let receiver = workers[2].joins(1, &two, Role::Agent);
    carry(&mut workers, None);
    let newest = workers[0].joins(1, &two, Role::Agent);
    let sender = workers[1].joins(1, &one, Role::Agent);
    carry(&mut workers, None);
    let sent = floods(&mut workers, sender, &one, &two.did, (0, 2));
    assert_eq!(workers[0].net.conn(newest).sent.len(), 1 + sent);
    assert_eq!(workers[2].net.conn(receiver).sent.len(), 1, "its copies wait");
    caught_up(&mut workers, sender, receiver, sent);
}

#[test]
fn a_hello_on_the_unix_socket_does_not_wait_for_those_of_strangers() {
    let mut worker = worker();
    for slot in 1..=20 {
        let stranger = worker.opens(slot);
        worker.wants_in(stranger, &key(1));
    }
    let local = worker.opens_on(30, true);
    worker.wants_in(local, &key(2));
    let first = worker.delivery.lanes.next_job();
    assert!(matches!(&first, Some((Lane::Local, Job::Hello(job))) if job.peer == local), "{first:?}");
}

/// A failure of this message of a connection.
fn fails(worker: &mut Worker, sender: ConnToken, number: u32, why: Why) {
    let about = About { number, several: true, sender, key_encoding: KeyEncoding::Text };
    let refused = || Some(Refused::new(undelivered(why), Id([number as u8; 16]), "did:key:zOne".into(), None));
    worker.delivery.not_handed(&about, "did:key:zNo", why, refused, &mut worker.net);
}

/// What is said of the failures that are told.
fn told(worker: &mut Worker) -> Vec<(Option<Id>, String)> {
    let jobs = std::iter::from_fn(|| worker.delivery.lanes.next_job());
    let replies = jobs.filter_map(|(_, job)| if let Job::Reply(reply) = job { Some(reply) } else { None });
    let why = |body: &[u8]| cbor::get(body, "message").and_then(cbor::as_text).unwrap_or_default().to_owned();
    replies.map(|reply| (reply.reply_to, why(&reply.body))).collect()
}

#[test]
fn of_messages_with_failures_so_many_are_gathered_and_the_first_is_told_for_one_more() {
    let mut worker = worker();
    let (sender, other) = (worker.joins(1, &key(1), Role::Agent), worker.joins(2, &key(2), Role::Agent));
    fails(&mut worker, other, 100, Why::Absent);
    for number in 1..=8 {
        fails(&mut worker, sender, number, Why::Absent);
    }
    assert_eq!(told(&mut worker), []);
    fails(&mut worker, sender, 9, Why::Absent);
    assert_eq!(told(&mut worker).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [Some(Id([1; 16]))]);
}

#[test]
fn another_reason_than_an_absent_recipient_is_told_whichever_came_first() {
    for whys in [[Why::Absent, Why::Busy], [Why::Busy, Why::Absent]] {
        let mut worker = worker();
        let sender = worker.joins(1, &key(1), Role::Agent);
        whys.into_iter().for_each(|why| fails(&mut worker, sender, 1, why));
        worker.passes(1_000, sender);
        let told = told(&mut worker);
        assert_eq!(told, [(Some(Id([1; 16])), undelivered(Why::Busy).reason.to_owned())]);
    }
}
