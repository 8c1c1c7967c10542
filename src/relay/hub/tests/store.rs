//! Goal: what a session does when the store fails or takes its time. Method: an engine with reads that wait and
//! operations that fail when the test says so.

use std::sync::Mutex;

use super::*;
use crate::store::{Done, Failed, Op, OpId, Outcome};

#[derive(Default)]
pub(super) struct Orders {
    pub(super) reads_wait: bool,
    pub(super) reads_fail: bool,
    /// Records are read from another place than the one that is asked for.
    pub(super) reads_stray: bool,
    pub(super) appends_wait: bool,
    pub(super) appends_fail: bool,
    /// Records are there, and can be read, before the hub hears that they are safe.
    pub(super) word_waits: bool,
    pub(super) reads: usize,
    pub(super) removed: usize,
}

pub(super) struct Obedient {
    inner: MemoryStore,
    orders: Arc<Mutex<Orders>>,
    waiting: VecDeque<(OpId, Op)>,
    /// Word of appends that is on its way.
    word: VecDeque<Done>,
}

impl Engine for Obedient {
    fn submit(&mut self, id: OpId, op: Op) {
        let mut orders = self.orders.lock().unwrap();
        orders.reads += usize::from(matches!(op, Op::Read { .. }));
        orders.removed += usize::from(matches!(op, Op::Remove { .. }));
        self.waiting.push_back((id, op));
    }

    fn poll(&mut self) -> Option<Done> {
        let orders = self.orders.lock().unwrap();
        if !orders.word_waits
            && let Some(done) = self.word.pop_front()
        {
            return Some(done);
        }
        let waits = |(_, op): &(OpId, Op)| match op {
            Op::Read { .. } => orders.reads_wait,
            Op::Append { .. } => orders.appends_wait,
            Op::Create { .. } | Op::Remove { .. } => false,
        };
        let index = self.waiting.iter().position(|op| !waits(op))?;
        let (id, op) = self.waiting.remove(index)?;
        let fails = match op {
            Op::Read { .. } => orders.reads_fail,
            Op::Append { .. } => orders.appends_fail,
            Op::Create { .. } | Op::Remove { .. } => false,
        };
        if fails {
            return Some(Done { op: id, log: op.log(), result: Err(Failed::Engine("no space left".into())) });
        }
        let is_append = matches!(op, Op::Append { .. });
        self.inner.submit(id, op);
        let mut done = self.inner.poll()?;
        if let Ok(Outcome::Read(read)) = &mut done.result
            && orders.reads_stray
        {
            read.first += 1;
        }
        if is_append && orders.word_waits {
            drop(orders);
            self.word.push_back(done);
            return self.poll();
        }
        Some(done)
    }
}

/// A session that is ready, on a store that does as it is told.
pub(super) fn bench(settings: Settings) -> (Bench, Arc<Mutex<Orders>>) {
    bench_within(settings, Limits::default())
}

/// The same, with a log that holds no more than this.
pub(super) fn bench_within(settings: Settings, limits: Limits) -> (Bench, Arc<Mutex<Orders>>) {
    let orders = Arc::new(Mutex::new(Orders::default()));
    let (inner, waiting, word) = (MemoryStore::new(limits), VecDeque::new(), VecDeque::new());
    let engine = Obedient { inner, orders: orders.clone(), waiting, word };
    let hub = Hub::new(settings, Box::new(engine), Box::new(Fake(0)), Box::new(Fake(0)));
    let mut bench = Bench { hub, now: Now { mono_ms: 0, unix_ms: 1_000 }, ids: 0 };
    bench.hub.create(Create { profile: "default".into(), ..Create::default() }, bench.now).unwrap();
    bench.says(1, ready(LoginState::Present));
    bench.outs();
    (bench, orders)
}

pub(super) fn nothing_at_hand() -> Settings {
    Settings { recent_bytes_max: 0, ..Settings::default() }
}

pub(super) fn history(before: u64) -> Command {
    let before = Position { epoch: "epoch".into(), offset: before };
    Command::History { session: "id1".into(), before, bytes: None }
}

pub(super) fn attach_from(offset: u64) -> Command {
    let from = Some(Position { epoch: "epoch".into(), offset });
    Command::Attach { session: "id1".into(), from, tail_bytes: None }
}

pub(super) fn internal(outs: &[Out]) -> bool {
    matches!(answer(outs), Some(Err(Error { code: Code::Internal, .. })))
}

#[test]
fn a_log_that_cannot_be_written_ends_its_session() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let (watch, drive) = (caller(1, Role::Watch), caller(2, Role::Drive));
    bench.answer(&watch, attach()).unwrap();
    let safe = bench.hub.summaries()[0].next.clone();
    orders.lock().unwrap().appends_fail = true;
    let outs = bench.ask(&drive, prompt("lost"));
    assert!(internal(&outs) && writes(&outs).is_empty() && kinds(&outs).is_empty(), "{outs:?}");
    assert_eq!(ends(&outs), [End::Kill]);
    let reset =
        |out: &Out| matches!(out, Out::Reset { peer, why, .. } if *peer == watch.peer && why.contains("written"));
    assert!(outs.iter().any(reset), "{outs:?}");
    let summary = &bench.hub.summaries()[0];
    assert_eq!((summary.state, &summary.next), (State::Failed, &safe));
    assert_eq!(summary.why.as_deref(), Some("the session's log cannot be written any more: no space left"));
    // Nothing is appended any more, even if the store would take it again.
    orders.lock().unwrap().appends_fail = false;
    bench.hub.exited("id1", 1, &ExitInfo { code: Some(1), signal: None, stderr: String::new() }, bench.now);
    assert!(bench.pass(1_000_000).is_empty());
    for command in [prompt("again"), attach(), decide("r", Decision::Deny, None, None)] {
        let error = bench.answer(&caller(3, Role::Admin), command).unwrap_err();
        assert_eq!((error.code, error.recoverable), (Code::Internal, false));
    }
    let Ok(Reply::History { events, .. }) = bench.answer(&watch, history(safe.offset)) else { panic!("no answer") };
    assert_eq!(events.len() as u64, safe.offset, "what was safe can still be read");
    let stop = Command::Stop { session: "id1".into(), now: true };
    assert_eq!(bench.answer(&caller(3, Role::Admin), stop), Ok(Reply::State(State::Failed)));
    assert!(bench.hub.sessions[0].settled(), "it can give way");
}

#[test]
fn a_read_that_fails_is_said() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let watch = caller(1, Role::Watch);
    orders.lock().unwrap().reads_fail = true;
    for command in [history(1), attach_from(0)] {
        let outs = bench.ask(&watch, command);
        assert!(internal(&outs) && outs.len() == 1, "{outs:?}");
    }
    assert_eq!(bench.state(), State::Ready);
    orders.lock().unwrap().reads_fail = false;
    assert!(bench.answer(&watch, attach_from(0)).is_ok());
    // A watcher that comes to stand behind is told that it must attach anew.
    bench.hub.paused(watch.peer);
    bench.answer(&caller(2, Role::Drive), prompt("x")).unwrap();
    orders.lock().unwrap().reads_fail = true;
    bench.hub.resumed(watch.peer, bench.now);
    let outs = bench.pass(0);
    assert!(outs.iter().any(|out| matches!(out, Out::Reset { why, .. } if why.contains("be read"))), "{outs:?}");
}

#[test]
fn what_waits_for_a_read_holds_up_its_own_connection_alone() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let (late, other) = (caller(1, Role::Drive), caller(2, Role::Drive));
    orders.lock().unwrap().reads_wait = true;
    let at = bench.hub.summaries()[0].next.offset;
    assert!(bench.ask(&late, attach()).is_empty(), "its tail is being read");
    let outs = bench.ask(&other, prompt("of the other"));
    assert!(matches!(answer(&outs), Some(Ok(Reply::Prompted { .. }))), "{outs:?}");
    assert!(matches!(writes(&outs)[..], [Say::Prompt { .. }]), "the process waits for no device");
    assert!(bench.ask(&late, prompt("its own")).is_empty(), "answers to one connection keep their order");
    assert_eq!(bench.hub.next_timeout().filter(|at| *at == 0), None, "nothing is to be done at once");
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    let outs = bench.outs();
    let [Out::Answer { result: Ok(Reply::Attached { events, next, .. }), .. }, rest @ ..] = &outs[..] else {
        panic!("{outs:?}")
    };
    assert_eq!((events.len() as u64, next.offset), (at, at));
    // What was committed while it waited is at hand, so that it misses no live text.
    let offset = |out: &Out| if let Out::Event { event, .. } = out { Some(event.position.offset) } else { None };
    assert_eq!(rest.iter().filter_map(offset).collect::<Vec<_>>(), [at, at + 1, at + 2, at + 3, at + 4, at + 5]);
    assert!(matches!(answer(rest), Some(Ok(Reply::Prompted { .. }))), "{rest:?}");
}

#[test]
fn a_device_that_is_not_far_behind_costs_no_read() {
    let (mut bench, orders) = bench(Settings::default());
    let watch = caller(1, Role::Watch);
    assert!(matches!(bench.answer(&watch, attach()), Ok(Reply::Attached { events, .. }) if !events.is_empty()));
    bench.hub.paused(watch.peer);
    bench.answer(&caller(2, Role::Drive), prompt("x")).unwrap();
    bench.hub.resumed(watch.peer, bench.now);
    assert_eq!(kinds(&bench.pass(0)).len(), 4);
    assert!(bench.answer(&watch, attach_from(1)).is_ok());
    assert_eq!(orders.lock().unwrap().reads, 0);
    assert!(bench.answer(&watch, history(1)).is_ok());
    assert_eq!(orders.lock().unwrap().reads, 1);
}

#[test]
fn what_a_key_asked_for_ends_with_the_right_to_it() {
    let (mut bench, orders) = bench(nothing_at_hand());
    let watch = caller(1, Role::Watch);
    orders.lock().unwrap().reads_wait = true;
    assert!(bench.ask(&watch, history(1)).is_empty());
    bench.hub.keys(Arc::new(KeySet::parse("")), bench.now);
    let outs = bench.outs();
    assert!(matches!(answer(&outs), Some(Err(Error { code: Code::KeyNotAuthorized, .. }))), "{outs:?}");
    orders.lock().unwrap().reads_wait = false;
    bench.hub.stored(bench.now);
    assert!(bench.outs().is_empty());
}
