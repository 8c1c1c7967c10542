//! One session: a Claude Code conversation under supervision, as a state machine. Owns its prompts, its permission
//! requests, its log and its watchers, and decides when the process is started, probed and ended. Must not do I/O,
//! read a clock, or know a wire format.
//!
//! Verbs: commands of people (`prompt`, `interrupt`, `decide`, `attach`, ...), word from the process ([`Session::agent`],
//! [`Session::exited`], [`Session::spawn_failed`]), word from the store ([`Session::stored`]), the clock
//! ([`Session::timeout`], [`Session::next_timeout`]). What is to be done is pushed to [`Cx::out`], in order. Events are
//! shown, and answers given, and prompts and decisions written to the process, only once the log has them safe.
//!
//! A prompt is settled by the result that names it, or by the CLI's own `completed` in the process that ran it. After a
//! death the process is started again on the same conversation and told to run the broken turn again; the unsettled
//! prompt is sent once more with its old uuid, so that the CLI runs it if it never saw it and knows it otherwise.

mod clip;
mod fit;
mod log_fanout;
mod past;
mod permissions;
mod process;
mod prompts;
mod recent;
mod turn;

use std::{
    collections::{HashSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use clip::{cut, is_cut};
use log_fanout::{LogFanout, Wanted};
use permissions::Permissions;
pub use permissions::Verdict;
use process::{Process, Waiter};
use prompts::Prompts;
pub use prompts::too_large;
use turn::Activity;

use crate::{
    base::{ConnToken, Now, text::line},
    claude,
    relay::{
        api::{
            By, Caller, Code, Error, Kind, Out, Past, Position, Reply, Snapshot, State, Summary, TITLE_BYTES_MAX, Text,
        },
        keys::KeySet,
    },
    store::{self, LogId, News},
};

/// Where new names come from. The shell's are random; a simulation's are counted.
pub trait Ids {
    /// A random UUID, lower case with hyphens: sessions and prompts.
    fn uuid(&mut self) -> Text;
    /// A new log's epoch.
    fn epoch(&mut self) -> Text;
    /// A new session's DID.
    fn did(&mut self) -> Text;
    /// A session is gone; its DID is not asked for again.
    fn forget(&mut self, did: &str);
}

/// Limits and times of sessions. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From the start of a process to its answer to `initialize`.
    pub start_ms: u64,
    /// Silence in a turn, with no tool running and no permission request open, before the process is probed.
    pub stuck_ms: u64,
    /// For the answer to the probe; then the process is killed and started again.
    pub probe_ms: u64,
    /// After the first death; doubles with each.
    pub backoff_ms: u64,
    /// The longest wait after a death.
    pub backoff_ms_max: u64,
    /// How often its process may die in a row without a finished turn before the session has failed.
    pub deaths_max: u32,
    /// One step of the stop ladder.
    pub stop_step_ms: u64,
    /// One step of the stop ladder when the turn is not waited for.
    pub stop_now_step_ms: u64,
    /// Prompts that wait or run in a session: places that principals share.
    pub prompts_max: usize,
    /// Bytes of a prompt's text as JSON writes it. The event of a prompt holds all of it. Prompts that wait or run have
    /// twice as many together, which principals share.
    pub prompt_bytes_max: usize,
    /// Devices that watch one session: places that principals share.
    pub watchers_max: usize,
    /// Bytes of the newest events that each session has at hand as its log has them: a device that is not far behind costs
    /// no read.
    pub recent_bytes_max: usize,
    /// What all sessions together may have under way at the store.
    pub store: store::Bounds,
    /// Sessions of a relay: places that principals share while sessions run; at the limit a session that has ended
    /// gives way.
    pub sessions_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start_ms: 60_000,
            stuck_ms: 600_000,
            probe_ms: 10_000,
            backoff_ms: 500,
            backoff_ms_max: 30_000,
            deaths_max: 5,
            stop_step_ms: 5_000,
            stop_now_step_ms: 1_000,
            prompts_max: 64,
            prompt_bytes_max: clip::TEXT_BYTES_MAX,
            watchers_max: 256,
            recent_bytes_max: 64 << 10,
            store: store::Bounds::default(),
            sessions_max: 64,
        }
    }
}

/// What every verb is given: the time, the store, names, and where to say what is to be done.
pub struct Cx<'a> {
    /// The time.
    pub now: Now,
    /// The logs.
    pub store: &'a mut store::Client,
    /// New names.
    pub ids: &'a mut dyn Ids,
    /// Peers with a send queue above its high mark.
    pub paused: &'a HashSet<ConnToken>,
    /// What is to be done, in order.
    pub out: &'a mut VecDeque<Out>,
}

/// What a session is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The principal that asked for it; empty where the relay made it itself.
    pub principal: Text,
    /// The profile's name.
    pub profile: Text,
    /// Where it runs.
    pub folder: PathBuf,
    /// A title; the folder's name when left out.
    pub title: Option<Text>,
    /// The model asked for.
    pub model: Option<Text>,
    /// The permission mode asked for.
    pub mode: Option<Text>,
    /// What it goes on with.
    pub past: Past,
}

/// One session. See the module.
pub struct Session {
    settings: Arc<Settings>,
    id: Text,
    did: Text,
    title: Text,
    plan: Plan,
    created_at: u64,
    state: State,
    why: Option<Text>,
    since: u64,
    model: Option<Text>,
    mode: Option<Text>,
    cost_usd: f64,
    notice: Option<Text>,
    login_missing: bool,
    changed: bool,
    fanout: LogFanout,
    prompts: Prompts,
    permissions: Permissions,
    process: Process,
    activity: Activity,
}

impl Session {
    /// Makes a session and starts its process.
    pub fn new(settings: Arc<Settings>, plan: Plan, cx: &mut Cx<'_>) -> Self {
        let id = cx.ids.uuid();
        let title = plan.title.clone().filter(|title| !title.trim().is_empty()).unwrap_or_else(|| {
            plan.folder.file_name().map_or_else(|| plan.profile.clone(), |name| name.to_string_lossy().into())
        });
        let epoch = cx.ids.epoch();
        let mut session = Self {
            did: cx.ids.did(),
            title: line(&title, TITLE_BYTES_MAX).into(),
            created_at: cx.now.unix_ms,
            state: State::Starting,
            why: None,
            since: cx.now.unix_ms,
            model: plan.model.clone(),
            mode: plan.mode.clone(),
            cost_usd: 0.0,
            notice: None,
            login_missing: false,
            changed: true,
            fanout: LogFanout::new(id.clone(), epoch, &settings, cx),
            prompts: Prompts::default(),
            permissions: Permissions::default(),
            process: Process::new(id.clone(), &plan.past),
            activity: Activity::default(),
            plan,
            settings,
            id,
        };
        session.event(cx, Kind::State { state: State::Starting, why: None });
        session.launch(cx);
        session
    }

    /// Its id.
    pub fn id(&self) -> &Text {
        &self.id
    }

    /// Its DID.
    pub fn did(&self) -> &Text {
        &self.did
    }

    /// Its log in the store.
    pub fn log(&self) -> LogId {
        self.fanout.log()
    }

    /// The principal that asked for it; empty where the relay made it itself.
    pub fn principal(&self) -> &Text {
        &self.plan.principal
    }

    /// The CLI's id of its conversation, as far as it is known.
    pub fn conversation(&self) -> &Text {
        self.process.conversation()
    }

    /// It goes on with the newest conversation of its folder, and it is not known yet which that is.
    pub fn takes_the_newest(&self) -> bool {
        self.process.takes_the_newest()
    }

    /// Where it runs.
    pub fn folder(&self) -> &Path {
        &self.plan.folder
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it has ended and will not start again.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Stopped | State::Failed)
    }

    /// How often its process was started again after a death.
    pub fn restarts(&self) -> u64 {
        self.process.restarts()
    }

    /// How many devices watch.
    pub fn devices(&self) -> usize {
        self.fanout.devices()
    }

    /// Whether everything said is safe and shown.
    pub fn settled(&self) -> bool {
        self.fanout.settled()
    }

    /// Whether the summary has changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The session in a line.
    pub fn summary(&self) -> Summary {
        Summary {
            session: self.id.clone(),
            did: self.did.clone(),
            title: self.title.clone(),
            profile: self.plan.profile.clone(),
            folder: self.plan.folder.clone(),
            state: self.state,
            since: self.since,
            why: self.why.clone(),
            waiting: self.permissions.waiting(),
            model: self.model.clone(),
            mode: self.mode.clone(),
            created_at: self.created_at,
            active_at: self.fanout.active_at(),
            cost_usd: self.cost_usd,
            devices: self.fanout.devices(),
            next: self.fanout.next(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let running = self.prompts.running().map(|prompt| prompt.id.clone());
        let turn = (running.is_some() || self.activity.turn_runs())
            .then(|| self.fanout.turn(running.into_iter().collect(), self.activity.since(self.since)));
        Snapshot {
            summary: self.summary(),
            turn,
            queue: self.prompts.list(),
            permissions: self.permissions.open(),
            devices: Vec::new(),
            notice: self.notice.clone(),
        }
    }

    /// Watches. Answered once everything in the snapshot is safe.
    ///
    /// # Errors
    /// `CANNOT_RESUME` with the range that can be served, `LIMIT`.
    pub fn attach(
        &mut self,
        cx: &mut Cx<'_>,
        caller: &Caller,
        re: &Text,
        from: Option<&Position>,
        tail_bytes: Option<u64>,
    ) -> Result<(), Error> {
        let snapshot = self.snapshot();
        self.fanout.attach(cx, caller, re, snapshot, Wanted { from, tail_bytes })?;
        self.refresh(cx);
        Ok(())
    }

    /// Reads the newest events before a position. What is read is safe: nothing waits for a commit.
    ///
    /// # Errors
    /// `CANNOT_RESUME` with the range that can be served, `LIMIT` while too much is being read.
    pub fn history(
        &mut self,
        cx: &mut Cx<'_>,
        caller: &Caller,
        re: &Text,
        before: &Position,
        bytes: Option<u64>,
    ) -> Result<(), Error> {
        self.fanout.history(cx, caller, re, before, bytes)
    }

    /// Watches no more.
    pub fn detach(&mut self, cx: &mut Cx<'_>, peer: ConnToken, re: &Text) {
        self.fanout.detach(cx, peer, re);
        self.refresh(cx);
    }

    /// Other keys are in force. Prompts and stops that wait and devices that watch end with the right to them; what runs was
    /// permitted when it began.
    pub fn keys(&mut self, cx: &mut Cx<'_>, keys: &KeySet) {
        self.fanout.keys(cx, keys);
        self.drop_unpermitted(cx, keys);
        self.drop_unpermitted_stop(cx, keys);
        self.refresh(cx);
    }

    /// The session gives way to a new one: devices that watch are told so.
    pub fn give_way(&mut self, cx: &mut Cx<'_>) {
        self.fanout.give_way(cx);
    }

    /// Its counts keep their bounds, and with these keys in force nothing is left of what they do not permit.
    #[cfg(debug_assertions)]
    pub fn check_invariants(&self, keys: Option<&KeySet>) {
        self.fanout.check_invariants(keys);
        self.check_prompts(keys);
        self.check_stop(keys);
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, cx: &mut Cx<'_>, peer: ConnToken) {
        self.fanout.disconnected(cx, peer);
        self.refresh(cx);
    }

    /// A peer's send queue is above its high mark: nothing is sent to it until [`Self::resumed`].
    pub fn paused(&mut self, peer: ConnToken) {
        self.fanout.pause(peer);
    }

    /// A peer takes more again. What it missed is read from the log, a batch with each [`Self::pump`].
    pub fn resumed(&mut self, cx: &mut Cx<'_>, peer: ConnToken) {
        self.fanout.resume(cx, peer);
    }

    /// Whether [`Self::pump`] has something to send, or to read as soon as the store takes reads.
    pub fn lagging(&self) -> bool {
        self.fanout.lagging()
    }

    /// Sends the next batch of the log to every watcher that is behind.
    pub fn pump(&mut self, cx: &mut Cx<'_>) {
        self.fanout.pump(cx);
        self.refresh(cx);
    }

    /// Word from the store.
    pub fn stored(&mut self, cx: &mut Cx<'_>, news: News) {
        if let Some(why) = self.fanout.stored(cx, news) {
            self.log_lost(cx, why);
        }
        self.refresh(cx);
    }

    /// Answers a command once everything said so far is safe.
    pub fn answer(&mut self, cx: &mut Cx<'_>, peer: ConnToken, re: &Text, reply: Reply) {
        self.fanout.hold(cx, Out::Answer { peer, re: re.clone(), result: Ok(reply) });
    }

    /// Makes a fact of this session an event.
    fn event(&mut self, cx: &mut Cx<'_>, kind: Kind) -> Position {
        self.fanout.append(cx, None, kind)
    }

    fn event_by(&mut self, cx: &mut Cx<'_>, by: &By, kind: Kind) -> Position {
        self.fanout.append(cx, Some(by.clone()), kind)
    }

    /// Tells the process something, once everything said so far is safe.
    fn write(&mut self, cx: &mut Cx<'_>, command: claude::Command) {
        let write = Out::Write { session: self.id.clone(), process: self.process.number(), command };
        self.fanout.hold(cx, write);
    }

    /// After every verb: sends the next prompt if it can go, and says what has changed.
    fn refresh(&mut self, cx: &mut Cx<'_>) {
        self.stop_after_turn(cx);
        self.advance(cx);
        let (state, why) = self.derive();
        if state != self.state {
            self.state = state;
            self.why = why.clone();
            self.since = cx.now.unix_ms;
            self.changed = true;
            let by = self.process.stopped_by().filter(|_| state == State::Stopped);
            self.fanout.append(cx, by, Kind::State { state, why });
        }
        if self.ended() {
            for Waiter { peer, re, .. } in self.process.take_waiters() {
                self.answer(cx, peer, &re, Reply::State(state));
            }
        }
        self.changed |= self.permissions.take_changed();
        self.changed |= self.fanout.flush_presence(cx);
    }

    fn derive(&self) -> (State, Option<Text>) {
        if let Some((state, why)) = self.process.state() {
            return (state, why);
        }
        if self.permissions.waiting() > 0 {
            (State::Waiting, None)
        } else if self.process.stuck() {
            (State::Stuck, Some("no sign of life in this turn: interrupt it, or wait".into()))
        } else if let Some(error) = self.activity.retrying() {
            (State::Retrying, Some(error))
        } else if self.prompts.running().is_some() || self.activity.turn_runs() {
            (State::Busy, None)
        } else {
            (State::Ready, None)
        }
    }

    /// Why nothing can be asked of the session, if so.
    fn refuse_if_ended(&self) -> Result<(), Error> {
        self.fanout.refuse_if_lost()?;
        let message = match self.state {
            State::Stopped => "the session was stopped",
            State::Failed => "the session has failed and will not start again; the state event says why",
            _ if self.process.ending() => "the session is being stopped",
            _ => return Ok(()),
        };
        let mut error = Error::new(Code::AgentUnavailable, message);
        error.recoverable = false;
        Err(error)
    }
}
