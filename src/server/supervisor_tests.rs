//! The supervisor's turns.

use std::{sync::atomic::AtomicBool, time::Instant};

use parking_lot::RwLock;

use super::*;
use crate::{
    base::ConnToken,
    claude::{environment::Changes, guard::GuardProgram},
    reactor::Link,
    relay::{
        Role,
        api::{Caller, Command, Reply, Request},
        session,
        sessions::{Ask, Wanted},
    },
    server::{
        Agent, CoreTallies,
        channels::{SessionKeys, sink},
        launch::{ConfigProfiles, Live, RandomIds},
    },
    store::{self, MemoryStore},
    wire::amp::Id,
};

type Worker = reactor::Worker<sink::Sink>;

/// The thread's loop with an inbox of one place, and a worker with another.
fn supervisor_loop() -> (Supervisor, SupervisorLoop, Worker, Mailers) {
    let (supervisor, thread, mut workers, mailers) = supervisor_loop_of(1, 1);
    (supervisor, thread, workers.remove(0), mailers)
}

/// The thread's loop with so many workers, and inboxes of so many places.
fn supervisor_loop_of(workers: usize, places: usize) -> (Supervisor, SupervisorLoop, Vec<Worker>, Mailers) {
    let (workers, mailers, control) = sink::workers(workers, places);
    let (supervisor, prepared) = Supervisor::prepare_with(places).expect("prepared");
    let store = Box::new(MemoryStore::new(store::Limits::default()));
    let (profiles, ids) =
        (Box::new(ConfigProfiles { profiles: Vec::new(), is_demo: true }), Box::new(RandomIds(SessionKeys::default())));
    let live = Live { agent: Agent::Demo, environment: Changes::default() };
    let parts = Parts {
        hub: Hub::new(session::Settings::default(), store, profiles, ids),
        launcher: Launcher { live: Arc::new(RwLock::new(live)), guard: GuardProgram::this() },
        mailers: mailers.clone(),
        shared: Arc::new(Shared {
            started: Instant::now(),
            ready: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            loops: Vec::new(),
            workers: Vec::new(),
            core: CoreTallies::default(),
        }),
        grace_ms: 0,
        control,
    };
    (supervisor, prepared.supervisor_loop(parts), workers, mailers)
}

/// A command of a connection of this worker, about a session that there is not: it is answered at once.
fn command(worker: u16, slot: u32, command: Command) -> ToSessions {
    let peer = ConnToken::new(worker, slot, 1);
    let caller = Caller { peer, ..Caller::sample("SHA256:a", slot, Role::Admin) };
    ToSessions::Request(Box::new(caller), Request { id: "1".into(), command })
}

/// An agent's message for a session that there is not.
fn ask(slot: u32) -> ToSessions {
    let (did, from, wanted) = ("did:key:zS".into(), "did:key:zA".into(), Wanted::Prompt("x".into()));
    let caller = Caller::sample("SHA256:a", slot, Role::Drive);
    ToSessions::Ask(Box::new(Ask {
        caller,
        session: "none".into(),
        did,
        from,
        id: Id([7; 16]),
        thread_id: None,
        wanted,
    }))
}

fn interrupt() -> Command {
    Command::Interrupt { session: "none".into(), cancel_queued: false }
}

#[test]
fn what_was_taken_in_a_turn_is_told_to_each_worker_in_one_mail() {
    let (supervisor, mut thread, mut workers, _) = supervisor_loop_of(2, 64);
    let of = |worker: u16| (0..10).map(move |slot| command(worker, slot, interrupt()));
    assert!(supervisor.inbox.try_send(of(0).chain(of(1)).collect()).is_ok());
    thread.turn(&mut Events::with_capacity(8)).expect("a turn");
    for (worker, inbox) in workers.iter_mut().enumerate() {
        let mails = sink::take(inbox);
        let [Mail::Taken(taken), Mail::Core(outs, _)] = &mails[..] else { panic!("{} mails", mails.len()) };
        let of_it = taken.iter().filter(|peer| usize::from(peer.worker()) == worker);
        assert_eq!((of_it.count(), taken.len(), outs.len()), (10, 10, 10));
    }
    thread.flush();
    assert!(workers.iter_mut().all(|inbox| sink::take(inbox).is_empty()), "nothing is told twice");
}

#[test]
fn a_turn_carries_out_as_many_commands_as_their_cost_allows() {
    let attach = || Command::Attach { session: "none".into(), from: None, tail_bytes: None };
    let list = || Command::List { follow: None };
    for make in [&attach as &dyn Fn() -> Command, &list, &interrupt] {
        let (_supervisor, mut thread, _workers, _) = supervisor_loop_of(1, 1);
        let most = COST_A_TURN / cost(&command(0, 1, make()));
        for slot in 0..=most as u32 {
            let taken = thread.waiting.take(command(0, slot, make()));
            assert!(matches!(taken, Taken::Waits), "{taken:?}");
        }
        let now = reactor::now();
        thread.commands(now);
        assert_eq!((thread.taken[0].len(), thread.more_to_do, thread.wait(now)), (most, true, Some(Duration::ZERO)));
        thread.commands(now);
        assert_eq!((thread.taken[0].len(), thread.waiting.is_empty()), (most + 1, true));
    }
}

#[test]
fn a_worker_that_found_the_inbox_full_is_woken_by_the_turn_that_makes_room() {
    let (supervisor, mut thread, worker, mailers) = supervisor_loop();
    let mut link = Link::new(supervisor.inbox, mailers.waker(0));
    link.take(ToSessions::Gone(ConnToken::new(0, 1, 1)));
    assert!(link.flush());
    link.take(ToSessions::Gone(ConnToken::new(0, 2, 1)));
    assert!(!link.flush() && link.items() == 1);
    assert!(worker.arm().is_none() && !sink::is_woken(&worker));
    thread.turn(&mut Events::with_capacity(8)).expect("a turn");
    assert!(sink::is_woken(&worker));
    assert!(link.flush());
}

#[test]
fn what_finds_a_workers_inbox_full_goes_when_the_worker_has_made_room() {
    let (_supervisor, mut thread, mut worker, _) = supervisor_loop();
    let re = |number: usize| Text::from(number.to_string());
    let caught_up = |number| Out::CaughtUp { peer: ConnToken::new(0, 1, 1), session: re(number) };
    thread.links.push(0, Mail::SessionGone { did: "did:a".into() });
    (0..2 * OUTS_A_MAIL).for_each(|number| thread.post(0, caught_up(number)));
    thread.flush();
    assert!(matches!(sink::take(&mut worker)[..], [Mail::SessionGone { .. }]), "before what is for peers");
    let (mut got, mut events) = (0, Events::with_capacity(8));
    while got < 2 * OUTS_A_MAIL {
        // The loop sleeps without a time limit: it has its turn because the worker has taken something.
        assert_eq!(thread.wait(reactor::now()), None);
        thread.poll.poll(&mut events, Some(Duration::ZERO)).expect("polled");
        assert!(events.iter().any(|event| event.token() == WAKER), "after {got}");
        thread.flush();
        let mails = sink::take(&mut worker);
        let [Mail::Core(outs, _)] = &mails[..] else { panic!("one mail fits") };
        for out in outs {
            assert!(matches!(out, Out::CaughtUp { session, .. } if *session == re(got)), "in order");
            got += 1;
        }
    }
    assert!(thread.backlog[0].is_empty());
}

#[test]
fn nothing_is_read_from_a_cli_while_too_much_waits_for_a_worker() {
    let (_supervisor, mut thread, _worker, _) = supervisor_loop();
    let (token, events, now) = (Token(5 * TOKENS_EACH), Events::with_capacity(8), reactor::now());
    let caught_up = || Out::CaughtUp { peer: ConnToken::new(0, 1, 1), session: "a".into() };
    (0..BACKLOG_MAX).for_each(|_| thread.post(0, caught_up()));
    thread.ready.push(token);
    thread.pipes(&events, now);
    assert_eq!((&thread.ready[..], thread.wait(now)), (&[token][..], None), "it is read later, and not waited for");
    thread.backlog.clear();
    thread.pipes(&events, now);
    assert!(thread.ready.is_empty());
}

#[test]
fn a_command_is_judged_by_the_keys_that_are_in_force_when_it_is_its_turn() {
    let (supervisor, mut thread, mut worker, _) = supervisor_loop();
    for in_force in [true, false] {
        let taken = thread.waiting.take(command(0, 1, interrupt()));
        assert!(matches!(taken, Taken::Waits), "{taken:?}");
        if !in_force {
            supervisor.keys(Arc::default());
        }
        thread.commands(reactor::now());
        thread.flush();
        let mut mails = sink::take(&mut worker);
        while !thread.backlog[0].is_empty() {
            thread.flush();
            mails.extend(sink::take(&mut worker));
        }
        let outs = mails.iter().filter_map(|mail| if let Mail::Core(outs, _) = mail { Some(outs) } else { None });
        let codes: Vec<_> = outs
            .flatten()
            .filter_map(|out| match out {
                Out::Answer { result: Err(error), .. } => Some(error.code),
                _ => None,
            })
            .collect();
        assert_eq!(codes, [if in_force { Code::NotFound } else { Code::KeyNotAuthorized }]);
    }
}

#[test]
fn a_thread_that_sleeps_is_woken_by_new_keys_and_by_the_end() {
    let (supervisor, mut thread, _worker, _) = supervisor_loop();
    let mut events = Events::with_capacity(8);
    let news: [&dyn Fn(); 2] = [&|| supervisor.keys(Arc::default()), &|| supervisor.drain()];
    for news in news {
        thread.poll.poll(&mut events, Some(Duration::ZERO)).expect("polled");
        assert!(events.is_empty() && thread.wait(reactor::now()).is_none(), "it sleeps without a time limit");
        news();
        thread.poll.poll(&mut events, Some(Duration::ZERO)).expect("polled");
        assert!(events.iter().any(|event| event.token() == WAKER));
    }
}

#[test]
fn behind_the_last_process_what_waits_already_is_answered_and_nothing_else() {
    let (supervisor, mut thread, mut workers, _) = supervisor_loop_of(1, 64);
    thread.grace_ms = 60_000;
    let (waits, mut events) = (COST_A_TURN as u32 + 10, Events::with_capacity(8));
    assert!(supervisor.inbox.try_send((0..waits).map(|slot| command(0, slot, interrupt())).collect()).is_ok());
    supervisor.drain();
    assert!(thread.turn(&mut events).expect("a turn"), "some of it waits still");
    // What comes on and on does not keep the relay from its end.
    assert!(supervisor.inbox.try_send(vec![command(0, waits, interrupt())]).is_ok());
    while thread.turn(&mut events).expect("a turn") {}
    let mails = sink::take(&mut workers[0]);
    let (taken, outs): (Vec<_>, Vec<_>) = mails
        .iter()
        .map(|mail| match mail {
            Mail::Taken(taken) => (taken.len(), 0),
            Mail::Core(outs, _) => (0, outs.len()),
            _ => (0, 0),
        })
        .unzip();
    let count = waits as usize;
    assert_eq!((taken.iter().sum::<usize>(), outs.iter().sum::<usize>()), (count, count));
}

#[test]
fn the_end_waits_no_longer_than_its_grace() {
    let (supervisor, mut thread, _worker, _) = supervisor_loop();
    for slot in 0..=COST_A_TURN as u32 {
        let taken = thread.waiting.take(command(0, slot, interrupt()));
        assert!(matches!(taken, Taken::Waits), "{taken:?}");
    }
    supervisor.drain();
    assert!(!thread.turn(&mut Events::with_capacity(8)).expect("a turn"), "its grace is none");
    assert!(!thread.waiting.is_empty());
    let now = reactor::now();
    (thread.more_to_do, thread.drain_ends_ms) = (false, Some(now.mono_ms + 60_000));
    assert_eq!(thread.wait(now), Some(Duration::from_secs(60)), "it is woken for it");
}

#[test]
fn each_command_and_message_is_told_as_taken_whether_it_was_refused_or_not() {
    let (supervisor, mut thread, _worker, _) = supervisor_loop();
    let taken = |thread: &mut SupervisorLoop| {
        let mut slots: Vec<u32> = thread.taken[0].drain(..).map(|peer| peer.slot()).collect();
        slots.sort_unstable();
        slots
    };
    assert!(supervisor.inbox.try_send(vec![command(0, 1, interrupt()), ask(2)]).is_ok());
    let now = reactor::now();
    thread.inbox(now);
    thread.commands(now);
    assert_eq!(taken(&mut thread), [1, 2]);
    while matches!(thread.waiting.take(command(0, 1, interrupt())), Taken::Waits) {}
    assert!(supervisor.inbox.try_send(vec![command(0, 3, interrupt()), ask(4)]).is_ok());
    thread.inbox(now);
    // A worker that did not hear of it would count it as on the way for good.
    assert_eq!(taken(&mut thread), [3, 4]);
}

#[test]
fn no_command_is_taken_in_or_carried_out_while_too_much_waits_for_a_worker() {
    let (supervisor, mut thread, _worker, _) = supervisor_loop();
    let caught_up = || Out::CaughtUp { peer: ConnToken::new(0, 1, 1), session: "a".into() };
    assert!(matches!(thread.waiting.take(command(0, 1, interrupt())), Taken::Waits));
    assert!(supervisor.inbox.try_send(vec![command(0, 2, interrupt())]).is_ok());
    (0..BACKLOG_MAX).for_each(|_| thread.post(0, caught_up()));
    let now = reactor::now();
    for (in_inbox, carried_out) in [(1, 0), (0, 2)] {
        thread.inbox(now);
        thread.commands(now);
        assert_eq!((supervisor.inbox.len(), thread.taken[0].len()), (in_inbox, carried_out));
        thread.backlog.clear();
    }
}

#[test]
fn what_waits_has_its_turn_though_ever_more_comes_in() {
    let (supervisor, mut thread, _workers, _) = supervisor_loop_of(1, 8);
    for _ in 0..2 {
        let batch = (0..MESSAGES_A_TURN as u32).map(|slot| command(0, slot, interrupt())).collect();
        assert!(supervisor.inbox.try_send(batch).is_ok());
    }
    thread.inbox(reactor::now());
    assert_eq!(supervisor.inbox.len(), 1);
}

#[test]
fn a_command_with_a_large_answer_waits_until_those_before_it_are_framed() {
    let (_supervisor, mut thread, mut workers, _) = supervisor_loop_of(2, 64);
    let large = || Out::Answer {
        peer: ConnToken::new(0, 1, 1),
        re: "1".into(),
        result: Ok(Reply::Fetched { data: Vec::new(), total: 0 }),
    };
    let attach = |worker: u16| {
        let caller = Caller {
            peer: ConnToken::new(worker, 1, 1),
            ..Caller::sample(&format!("SHA256:{worker}"), 1, Role::Drive)
        };
        let command = Command::Attach { session: "none".into(), from: None, tail_bytes: None };
        ToSessions::Request(Box::new(caller), Request { id: "1".into(), command })
    };
    let (now, mut events) = (reactor::now(), Events::with_capacity(8));
    let carried_out = |thread: &mut SupervisorLoop| {
        thread.commands(now);
        [0, 1].map(|worker| thread.taken[worker].drain(..).count())
    };
    (1..LARGE_OUT_MAX).for_each(|_| thread.post(0, large()));
    assert!(matches!(thread.waiting.take(attach(0)), Taken::Waits));
    assert_eq!(carried_out(&mut thread), [1, 0], "there is room for one");
    thread.post(0, large());
    for worker in [0, 1] {
        assert!(matches!(thread.waiting.take(attach(worker)), Taken::Waits));
    }
    assert_eq!(carried_out(&mut thread), [0, 1], "each worker has its own");
    assert_eq!((carried_out(&mut thread), thread.wait(now)), ([0, 0], None), "nothing is to be done meanwhile");
    thread.flush();
    assert_eq!(carried_out(&mut thread), [0, 0], "they are on their way");
    let mails = sink::take(&mut workers[0]);
    assert_eq!(carried_out(&mut thread), [0, 0], "they are being framed");
    thread.poll.poll(&mut events, Some(Duration::ZERO)).expect("polled");
    drop(mails);
    thread.poll.poll(&mut events, Some(Duration::ZERO)).expect("polled");
    assert!(events.iter().any(|event| event.token() == WAKER));
    assert_eq!(carried_out(&mut thread), [1, 0]);
}
