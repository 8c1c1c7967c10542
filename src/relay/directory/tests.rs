//! Rules one by one; that they hold together, whatever the order of things, is shown by the simulation in `tests/`.

use super::*;

const ALICE: &str = "did:key:alice";
const BOB: &str = "did:key:bob";
const RELAY: &str = "did:key:relay";

#[derive(Clone, Debug)]
struct Note(u32);

impl Payload for Note {
    type ReturnAddress = u32;

    fn size(&self) -> usize {
        10
    }

    fn return_address(&self) -> u32 {
        self.0
    }
}

fn workers(options: &Options) -> Vec<Directory<Note>> {
    (0..options.workers).map(|worker| Directory::new(Options { worker, ..options.clone() })).collect()
}

fn token(worker: u16, slot: u32) -> ConnToken {
    ConnToken::new(worker, slot, 1)
}

/// Carries everything and says what happened, as text, worker by worker.
fn settle(workers: &mut [Directory<Note>]) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let mut carried = false;
        for from in 0..workers.len() {
            while let Some(event) = workers[from].event() {
                match event {
                    Event::Joined { token } => said.push(format!("joined {token}")),
                    Event::Refused { token, why } => said.push(format!("refused {token} {why:?}")),
                    Event::Deliver { token, payload } => said.push(format!("{} to {token}", payload.0)),
                    Event::Service { service, payload, .. } => said.push(format!("{} to {service:?}", payload.0)),
                    Event::Answer { sender, return_address, why, .. } => {
                        said.push(format!("{return_address} {why:?} to {sender}"))
                    }
                    Event::Behind { worker, sender } => said.push(format!("{sender} waits for {worker}")),
                    Event::Presence { .. } => {}
                }
            }
            for to in 0..workers.len() {
                for message in workers[from].take(to as u16, usize::MAX, usize::MAX) {
                    workers[to].receive(message);
                    carried = true;
                }
            }
        }
        if !carried {
            let leaving = workers.iter().flat_map(|worker| worker.table.iter()).map(|entry| entry.leaving);
            assert_eq!(leaving.sum::<u32>(), 0, "all that left are counted out");
            return said;
        }
    }
}

fn send(worker: &mut Directory<Note>, to: &str, sender: ConnToken, note: u32) {
    let Route::Elsewhere(key) = worker.route(to) else { panic!("{to} is {:?}", worker.route(to)) };
    worker.send(key, to, Some(sender), Note(note));
}

/// A worker that is not the home of this DID.
fn away_from(workers: &[Directory<Note>], did: &str) -> usize {
    let home = workers[0].home_of(hash(workers[0].options.secret, did));
    workers.iter().position(|worker| worker.options.worker != home).expect("several workers")
}

#[test]
fn one_worker_knows_all_and_asks_nobody() {
    let mut workers = workers(&Options::new(0, 1, 1));
    assert_eq!(workers[0].route(ALICE), Route::Absent);
    workers[0].join(ALICE, token(0, 0)).unwrap();
    workers[0].join(ALICE, token(0, 1)).unwrap();
    assert_eq!(settle(&mut workers), ["joined 0.0.1", "joined 0.1.1"]);
    assert_eq!(workers[0].route(ALICE), Route::Local(&[token(0, 0), token(0, 1)]));
    assert_eq!(workers[0].connections(ALICE), 2);
    assert!(!workers[0].leave(ConnToken::new(0, 1, 0)), "another generation is another connection");
    assert!(workers[0].leave(token(0, 0)));
    assert_eq!(workers[0].route(ALICE), Route::Local(&[token(0, 1)]));
    assert_eq!(workers[0].did_of(token(0, 1)).map(Did::as_str), Some(ALICE));
    assert!(workers[0].leave(token(0, 1)));
    assert_eq!(workers[0].route(ALICE), Route::Absent);
    assert_eq!(workers[0].counters().entries, 0);
}

#[test]
fn the_newest_alone_gets_it_if_that_is_the_rule() {
    let mut workers = workers(&Options { receivers: Receivers::Newest, ..Options::new(0, 2, 1) });
    for (worker, slot) in [(0, 0), (1, 0), (1, 1)] {
        workers[usize::from(worker)].join(ALICE, token(worker, slot)).unwrap();
        settle(&mut workers);
    }
    assert_eq!(workers[1].route(ALICE), Route::Local(&[token(1, 1)]));
    send(&mut workers[0], ALICE, token(0, 0), 1);
    assert_eq!(settle(&mut workers), ["1 to 1.1.1"]);
    workers[1].leave(token(1, 1));
    workers[1].leave(token(1, 0));
    settle(&mut workers);
    assert_eq!(workers[0].route(ALICE), Route::Local(&[token(0, 0)]), "ownership goes back to who stays");
}

#[test]
fn all_get_it_on_all_workers() {
    let mut workers = workers(&Options::new(0, 3, 1));
    for worker in 0..3 {
        workers[usize::from(worker)].join(ALICE, token(worker, 0)).unwrap();
        settle(&mut workers);
    }
    send(&mut workers[0], ALICE, token(0, 0), 1);
    let mut said = settle(&mut workers);
    said.sort();
    assert_eq!(said, ["1 to 0.0.1", "1 to 1.0.1", "1 to 2.0.1"]);
}

#[test]
fn an_answer_goes_to_the_sender_if_it_is_still_there() {
    let mut workers = workers(&Options::new(0, 2, 1));
    let at = away_from(&workers, BOB);
    let sender = token(at as u16, 0);
    workers[at].join(ALICE, sender).unwrap();
    settle(&mut workers);
    send(&mut workers[at], BOB, sender, 1);
    assert_eq!(settle(&mut workers), [format!("1 Absent to {sender}")]);
    send(&mut workers[at], BOB, sender, 2);
    workers[at].leave(sender);
    assert_eq!(settle(&mut workers), [""; 0]);
    assert_eq!(workers[at].counters().answers_stale, 1);
    assert_eq!(workers[1 - at].counters().absent, 2);
}

#[test]
fn a_service_is_everywhere_and_its_name_is_taken() {
    let mut workers = workers(&Options::new(0, 2, 1));
    let at = away_from(&workers, RELAY);
    workers[1 - at].register_service(RELAY, ServiceId(7)).unwrap();
    send(&mut workers[at], RELAY, token(at as u16, 0), 1);
    assert_eq!(settle(&mut workers), ["1 to ServiceId(7)"], "a miss goes to the home, which knows");
    workers[at].join(RELAY, token(at as u16, 3)).unwrap();
    assert_eq!(settle(&mut workers), [format!("refused {} Service", token(at as u16, 3))]);
    assert_eq!(workers[at].counters().entries, 0);
    workers[at].register_service(RELAY, ServiceId(7)).unwrap();
    assert_eq!(workers[at].route(RELAY), Route::Service(ServiceId(7)));
    assert_eq!(workers[at].join(RELAY, token(at as u16, 3)), Err(Why::Service));
    assert_eq!(workers[at].agents().map(|agent| (agent.did, agent.service)).next(), Some((RELAY, Some(ServiceId(7)))));
    assert!(workers[at].remove_service(RELAY) && !workers[at].remove_service(RELAY));
    assert_eq!(workers[at].counters().entries, 0);
}

#[test]
fn what_waits_for_a_take_over_is_bounded_and_comes_in_order() {
    let mut workers = workers(&Options { parked_max: 2, ..Options::new(0, 2, 1) });
    let (old, new) = (usize::from(workers[0].home_of(hash(1, ALICE))), away_from(&workers, ALICE));
    let sender = token(new as u16, 0);
    workers[new].join(BOB, sender).unwrap();
    settle(&mut workers);
    // The home grants at once; its word has not arrived when the first message is on its way to the home.
    workers[new].join(ALICE, token(new as u16, 1)).unwrap();
    send(&mut workers[new], ALICE, sender, 1);
    for message in workers[new].take(old as u16, usize::MAX, usize::MAX) {
        workers[old].receive(message);
    }
    for message in workers[old].take(new as u16, usize::MAX, usize::MAX) {
        workers[new].receive(message);
    }
    // The next owner knows and waits for the fences: two messages fit.
    (2..=4).for_each(|note| send(&mut workers[new], ALICE, sender, note));
    assert_eq!(workers[new].counters().parked, 2);
    let taker = token(new as u16, 1);
    let said = settle(&mut workers);
    let expected = [
        format!("4 Busy to {sender}"),
        format!("joined {taker}"),
        format!("1 to {taker}"),
        format!("2 to {taker}"),
        format!("3 to {taker}"),
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_message_that_goes_round_is_given_up() {
    let mut workers = workers(&Options::new(0, 2, 1));
    let at = away_from(&workers, ALICE);
    let sender = token(at as u16, 0);
    workers[at].join(BOB, sender).unwrap();
    settle(&mut workers);
    for hops in [1, workers[at].options.hops_max] {
        let parcel = InFlight { sender: Some(sender), payload: Note(hops.into()) };
        workers[at].receive(PeerMessage(DirectoryMsg::Data { did: Did::new(hash(1, ALICE), ALICE), hops, parcel }));
    }
    assert_eq!(settle(&mut workers), [format!("4 Lost to {sender}"), format!("1 Absent to {sender}")]);
    assert_eq!(workers[at].counters().forwarded, 2);
}

#[test]
fn a_full_queue_refuses_messages_and_keeps_control() {
    let mut workers = workers(&Options { outbox_max: 2, ..Options::new(0, 2, 1) });
    let at = away_from(&workers, ALICE);
    let to = 1 - at as u16;
    workers[at].join(BOB, token(at as u16, 0)).unwrap();
    settle(&mut workers);
    (0..3).for_each(|note| send(&mut workers[at], ALICE, token(at as u16, 0), note));
    let batch = workers[at].take(to, 1, usize::MAX);
    assert_eq!(batch.len(), 1);
    workers[at].give_back(to, batch);
    workers[at].join(ALICE, token(at as u16, 1)).unwrap();
    assert_eq!(workers[at].counters().outbox, 3, "two messages, and the word that somebody came");
    let said = settle(&mut workers);
    let answers = said.iter().filter(|line| line.contains("Absent")).cloned().collect::<Vec<_>>();
    assert_eq!(answers.len(), 2, "{said:?}");
    assert!(answers[0].starts_with('0') && answers[1].starts_with('1'), "{said:?}");
    assert_eq!(said[0], format!("2 Busy to {}", token(at as u16, 0)));
}

#[test]
fn a_sender_waits_for_a_worker_that_is_behind_until_it_has_caught_up() {
    let mut workers = workers(&Options::new(0, 3, 1));
    let at = away_from(&workers, ALICE);
    let sender = token(at as u16, 0);
    let home = workers[at].home_of(hash(1, ALICE));
    let is_said = |worker: &mut Directory<Note>| match worker.event() {
        Some(Event::Behind { worker, sender: whose }) => Some((worker, whose)),
        _ => None,
    };
    let notes = 256 * 1024 / 10;
    (0..=notes).for_each(|note| send(&mut workers[at], ALICE, sender, note));
    assert_eq!(is_said(&mut workers[at]), None, "what one turn makes may be carried at its end");
    assert_eq!(workers[at].carried(), None);
    send(&mut workers[at], ALICE, sender, 0);
    assert_eq!(is_said(&mut workers[at]), Some((home, sender)), "it was not");
    // A batch has no more than one message above the bytes that it may have.
    assert_eq!(workers[at].take(home, usize::MAX, 45).len(), 5);
    workers[at].take(home, notes as usize / 2, usize::MAX);
    assert_eq!(workers[at].carried(), None);
    send(&mut workers[at], ALICE, sender, 0);
    assert_eq!(is_said(&mut workers[at]), Some((home, sender)), "a half is not enough");
    workers[at].take(home, notes as usize / 4 + 10, usize::MAX);
    assert_eq!([workers[at].carried(), workers[at].carried()], [Some(home), None]);
    send(&mut workers[at], ALICE, sender, 0);
    assert_eq!(is_said(&mut workers[at]), None);
}

#[test]
fn the_home_bounds_names_and_connections() {
    let mut workers = workers(&Options { dids_max: 1, connections_max: 1, ..Options::new(0, 1, 1) });
    for (slot, did) in [(0, ALICE), (1, ALICE), (2, BOB)] {
        workers[0].join(did, token(0, slot)).unwrap();
    }
    assert_eq!(settle(&mut workers), ["joined 0.0.1", "refused 0.1.1 Full", "refused 0.2.1 Full"]);
    assert_eq!((workers[0].counters().entries, workers[0].counters().refused), (1, 2));
}

#[test]
fn an_idle_entry_is_small_and_owns_no_memory() {
    let mut workers = workers(&Options::new(0, 1, 1));
    workers[0].join(ALICE, token(0, 0)).unwrap();
    assert_eq!(workers[0].table.len(), 1);
    let entry = workers[0].table.iter().next().unwrap();
    assert!(entry.direct && entry.work.is_none() && !entry.here.spilled());
    assert!(entry.home.as_ref().is_some_and(|home| !home.members.spilled()));
    // Every DID has one on every worker; the slab adds nothing.
    let bytes = size_of_val(entry);
    assert!(bytes <= 112, "{bytes} bytes");
}

#[test]
fn a_crowd_that_is_gone_leaves_no_memory_behind() {
    let mut workers = workers(&Options::new(0, 1, 1));
    (0..5).for_each(|slot| workers[0].join(ALICE, token(0, slot)).unwrap());
    for slot in [1, 0, 4, 2] {
        assert!(workers[0].leave(token(0, slot)) && !workers[0].leave(token(0, slot)));
    }
    let entry = workers[0].table.iter().next().unwrap();
    assert_eq!(entry.joined(), [token(0, 3)]);
    assert!(!entry.here.spilled() && entry.home.as_ref().is_some_and(|home| !home.members.spilled()));
}

#[test]
fn a_message_to_the_last_connection_that_is_just_going_is_told_to_its_sender() {
    for others in [0, 1] {
        let mut workers = workers(&Options::new(0, 2, 1));
        let (bob, alice) = (token(0, 0), token(1, 0));
        workers[0].join(BOB, bob).unwrap();
        workers[1].join(ALICE, alice).unwrap();
        (0..others).for_each(|slot| workers[0].join(ALICE, token(0, 7 + slot)).unwrap());
        settle(&mut workers);
        workers[1].gone_before(alice, Some(bob), Note(3));
        let told: &[&str] = if others == 0 { &["3 Absent to 0.0.1"] } else { &[] };
        assert_eq!(settle(&mut workers), told);
        assert_eq!(workers[0].connections(ALICE), others);
        workers[1].gone_before(alice, Some(bob), Note(4));
        assert!(settle(&mut workers).is_empty(), "it has left before");
    }
}

/// Carries what one worker has for another.
fn carry(workers: &mut [Directory<Note>], from: usize, to: usize) {
    for message in workers[from].take(to as u16, usize::MAX, usize::MAX) {
        workers[to].receive(message);
    }
}

/// Connections here have joined, and perhaps one elsewhere; something happens; then the message for the second one here
/// finds it going. Whether its sender is told that nobody is left.
fn told(here: u32, elsewhere: u32, happens: impl Fn(&mut [Directory<Note>], &str)) -> bool {
    let mut workers = workers(&Options::new(0, 2, 1));
    let did = (0..).map(|n| format!("did:key:{n}")).find(|did| workers[0].home_of(hash(1, did)) == 0).expect("one");
    workers[0].join(BOB, token(0, 0)).unwrap();
    (0..here).for_each(|slot| workers[1].join(&*did, token(1, slot)).unwrap());
    (0..elsewhere).for_each(|slot| workers[0].join(&*did, token(0, 7 + slot)).unwrap());
    settle(&mut workers);
    happens(&mut workers, &did);
    workers[1].gone_before(token(1, 1), Some(token(0, 0)), Note(3));
    settle(&mut workers).contains(&"3 Absent to 0.0.1".to_owned())
}

#[test]
fn the_last_connection_is_known_whatever_of_its_did_is_on_its_way() {
    assert!(!told(2, 0, |_, _| {}), "another one is here");
    assert!(told(2, 0, |workers, _| assert!(workers[1].leave(token(1, 0)))), "it has just left too");
    assert!(!told(2, 1, |workers, _| assert!(workers[1].leave(token(1, 0)))), "one is elsewhere");
    let leaves_and_is_counted_out = |workers: &mut [Directory<Note>], _: &str| {
        workers[1].leave(token(1, 0));
        settle(workers);
    };
    assert!(!told(2, 1, leaves_and_is_counted_out), "one is elsewhere still");
    assert!(told(2, 0, leaves_and_is_counted_out));
    assert!(!told(2, 0, |workers, did| {
        leaves_and_is_counted_out(workers, did);
        workers[1].join(did, token(1, 2)).unwrap();
    }));
    // The count comes that another worker's is out, or that one more is in, while one of this worker leaves.
    assert!(told(2, 1, |workers, _| {
        workers[0].leave(token(0, 7));
        workers[1].leave(token(1, 0));
        carry(workers, 0, 1);
    }));
    assert!(told(2, 0, |workers, did| {
        workers[1].join(did, token(1, 2)).unwrap();
        carry(workers, 1, 0);
        workers[1].leave(token(1, 0));
        carry(workers, 0, 1);
        workers[1].leave(token(1, 2));
    }));
}

#[test]
fn a_connection_that_leaves_before_it_is_refused_leaves_nothing_behind() {
    let mut workers = workers(&Options::new(0, 2, 1));
    let at = away_from(&workers, RELAY);
    workers[1 - at].register_service(RELAY, ServiceId(7)).unwrap();
    workers[at].join(RELAY, token(at as u16, 3)).unwrap();
    workers[at].leave(token(at as u16, 3));
    assert_eq!(settle(&mut workers), [""; 0]);
    assert_eq!(workers[at].counters().entries, 0);
}

#[test]
fn whichever_connection_is_the_newest_when_a_take_over_ends_all_of_them_have_joined() {
    let mut workers = workers(&Options::new(0, 3, 1));
    let did = (0..).map(|n| format!("did:key:{n}")).find(|did| workers[0].home_of(hash(1, did)) == 0).expect("one");
    for (at, slot) in [(1, 0), (2, 0), (1, 1)] {
        workers[usize::from(at)].join(&*did, token(at, slot)).unwrap();
        carry(&mut workers, at.into(), 0);
    }
    let mut said = settle(&mut workers);
    said.sort();
    assert_eq!(said, ["joined 1.0.1", "joined 1.1.1", "joined 2.0.1"]);
}
