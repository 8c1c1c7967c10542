//! Goal: what is left of sessions that give way, and who is told of the list.

use std::sync::Mutex;

use super::*;

/// Says what the store keeps back.
type Order<'a> = &'a mut dyn FnMut(fn(&mut store::Orders));

/// Names that take down which of them are given back.
struct Kept(Fake, Arc<Mutex<Vec<Text>>>);

impl Ids for Kept {
    fn uuid(&mut self) -> Text {
        self.0.uuid()
    }

    fn epoch(&mut self) -> Text {
        self.0.epoch()
    }

    fn did(&mut self) -> Text {
        format!("did of {}", self.0.0).into()
    }

    fn forget(&mut self, did: &str) {
        self.1.lock().unwrap().push(did.into());
    }
}

fn create(bench: &mut Bench) -> Result<Summary, Error> {
    bench.hub.create(Create { profile: "default".into(), ..Create::default() }, bench.now)
}

/// Ends a session that has run one process.
fn ends(bench: &mut Bench, session: &Text) {
    bench.ask(&caller(1, Role::Admin), Command::Stop { session: session.clone(), now: true });
    bench.hub.exited(session, 1, &ExitInfo::default(), bench.now);
    bench.outs();
}

#[test]
fn of_sessions_that_have_ended_one_that_is_not_watched_gives_way_first() {
    let mut bench = Bench::new(Settings { sessions_max: 2, ..Settings::default() });
    let next = |bench: &mut Bench| {
        let made = create(bench).unwrap();
        ends(bench, &made.session);
        bench.pass(1_000);
        made
    };
    let watch = |bench: &mut Bench, session: &Text| {
        let command = Command::Attach { session: session.clone(), from: None, tail_bytes: None };
        bench.answer(&caller(1, Role::Watch), command).unwrap();
    };
    let (watched, other) = (next(&mut bench), next(&mut bench));
    watch(&mut bench, &watched.session);
    let third = next(&mut bench);
    assert_eq!(bench.hub.take_gone(), [(other.session, other.did)]);
    // Where all are watched it is the oldest, and its devices are told.
    watch(&mut bench, &third.session);
    bench.outs();
    create(&mut bench).unwrap();
    assert!(bench.outs().iter().any(|out| matches!(out, Out::Reset { why, .. } if why.contains("given way"))));
    assert_eq!(bench.hub.take_gone(), [(watched.session, watched.did)]);
}

#[test]
fn no_session_that_runs_gives_way() {
    let mut bench = Bench::new(Settings { sessions_max: 4, ..Settings::default() });
    let runs = create(&mut bench).unwrap();
    for _ in 0..5 {
        bench.pass(1_000);
        let ended = create(&mut bench).unwrap();
        ends(&mut bench, &ended.session);
    }
    let gone = bench.hub.take_gone();
    assert!(gone.len() == 2 && gone.iter().all(|(session, _)| *session != runs.session), "{gone:?}");
    assert!(bench.hub.summaries().iter().any(|summary| summary.session == runs.session));
}

#[test]
fn a_session_gives_way_once_all_that_it_has_to_say_is_said() {
    // How it ended is being written; a device waits for its past; one waits to join.
    let waits: [fn(&mut Bench, Order<'_>); 3] = [
        |bench, order| {
            order(|orders| orders.appends_wait = true);
            ends(bench, &"id1".into());
        },
        |bench, order| {
            ends(bench, &"id1".into());
            order(|orders| orders.reads_wait = true);
            assert!(bench.ask(&caller(1, Role::Watch), store::history(1)).is_empty());
        },
        |bench, order| {
            ends(bench, &"id1".into());
            order(|orders| orders.reads_wait = true);
            assert!(bench.ask(&caller(1, Role::Watch), attach()).is_empty());
        },
    ];
    for wait in waits {
        let settings = Settings { sessions_max: 1, ..store::nothing_at_hand() };
        let (mut bench, orders) = store::bench(settings);
        wait(&mut bench, &mut |order| order(&mut orders.lock().unwrap()));
        let error = create(&mut bench).unwrap_err();
        assert!(error.code == Code::Limit && error.message.contains("try again"), "{error:?}");
        *orders.lock().unwrap() = store::Orders::default();
        bench.hub.stored(bench.now);
        assert!(answer(&bench.outs()).is_some(), "it is answered");
        create(&mut bench).unwrap();
    }
}

#[test]
fn a_session_that_has_something_to_say_does_not_give_way_before_one_that_has_not() {
    let (mut bench, orders) = store::bench(Settings { sessions_max: 2, ..store::nothing_at_hand() });
    ends(&mut bench, &"id1".into());
    bench.pass(1_000);
    let second = create(&mut bench).unwrap();
    ends(&mut bench, &second.session);
    orders.lock().unwrap().reads_wait = true;
    assert!(bench.ask(&caller(1, Role::Watch), store::history(1)).is_empty());
    create(&mut bench).unwrap();
    assert_eq!(bench.hub.take_gone(), [(second.session, second.did)]);
}

#[test]
fn a_session_that_gave_way_leaves_its_restarts_and_nothing_else() {
    let forgotten = Arc::new(Mutex::new(Vec::new()));
    let store = MemoryStore::new(Limits::default());
    let ids = Kept(Fake(0), forgotten.clone());
    let settings = Settings { sessions_max: 1, ..Settings::default() };
    let hub = Hub::new(settings, Box::new(store), Box::new(Fake(0)), Box::new(ids));
    let mut bench = Bench { hub, now: Now { mono_ms: 0, unix_ms: 1_000 }, ids: 0 };
    let first = create(&mut bench).unwrap();
    bench.hub.exited(&first.session, 1, &exit(), bench.now);
    bench.pass(500);
    bench.ask(&caller(1, Role::Admin), Command::Stop { session: first.session.clone(), now: true });
    bench.hub.exited(&first.session, 2, &exit(), bench.now);
    create(&mut bench).unwrap();
    assert_eq!(bench.hub.counts().restarts, 1);
    assert_eq!(*forgotten.lock().unwrap(), [first.did]);
}

#[test]
fn the_log_of_a_session_that_gave_way_goes_with_it() {
    let (mut bench, orders) = store::bench(Settings { sessions_max: 1, ..Settings::default() });
    ends(&mut bench, &"id1".into());
    assert_eq!(orders.lock().unwrap().removed, 0);
    create(&mut bench).unwrap();
    assert_eq!(orders.lock().unwrap().removed, 1);
}

#[test]
fn the_list_is_said_once_to_one_that_goes_on_and_no_more_to_one_that_follows_no_more() {
    let mut bench = Bench::ready(Settings::default());
    let watch = caller(1, Role::Watch);
    let told = |outs: &[Out]| outs.iter().filter(|out| matches!(out, Out::Changed { .. })).count();
    bench.answer(&watch, Command::List { follow: Some(true) }).unwrap();
    bench.hub.paused(watch.peer);
    bench.says(1, asks("r", None));
    bench.outs();
    for times in [1, 0] {
        bench.hub.resumed(watch.peer, bench.now);
        assert_eq!(told(&bench.outs()), times);
        bench.hub.paused(watch.peer);
    }
    bench.hub.resumed(watch.peer, bench.now);
    bench.answer(&watch, Command::List { follow: Some(false) }).unwrap();
    bench.says(1, asks("r2", None));
    assert_eq!(told(&bench.outs()), 0);
}

#[test]
fn no_session_is_made_by_a_relay_that_ends() {
    let mut bench = Bench::ready(Settings::default());
    bench.hub.drain(bench.now, 8_000);
    assert_eq!(create(&mut bench).unwrap_err().code, Code::ShuttingDown);
}
