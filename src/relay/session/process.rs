//! The life of a session's process: start, readiness, silence, death and restart, the stop ladder.

use super::{Cx, Session};
use crate::{
    base::{ConnToken, Now, text},
    claude,
    relay::{
        api::{By, Caller, Code, End, Error, ExitInfo, Kind, Launch, Out, Past, PromptState, Reply, State, Text, Verb},
        keys::KeySet,
        shares::Shares,
    },
};

/// How long the CLI may be silent after it said it knows a prompt from before, until that prompt counts as ended: a
/// broken turn that runs again has begun before the process is even ready.
const KNOWN_MS: u64 = 5_000;
/// How long a CLI without lifecycle lines may be silent after a prompt was sent again, until it is asked for a sign.
const UNACKED_MS: u64 = 30_000;
/// An idle process that lived this long before it died is not one of several that died in a row.
const STEADY_MS: u64 = 600_000;

/// The longest reason of a death in bytes, before what is done about it; mostly it is the last line of stderr.
const WHY_BYTES_MAX: usize = 640;
/// Commands that may wait for the end of a session, as long as they wait for its turn too: places that principals share.
const WAITERS_MAX: usize = 256;
/// The same with those that wait no longer than the process takes to end.
const WAITERS_NOW_MAX: usize = 2 * WAITERS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Started, not ready.
    Starting {
        deadline: u64,
    },
    Up {
        since: u64,
    },
    /// Dead, to be started again.
    Backoff {
        at: u64,
    },
    Stopped,
    Failed,
}

/// What is due when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Start,
    Restart,
    Ladder,
    Probe,
    Planned,
    Known,
    Silence,
}

/// The session is to end.
struct Stopping {
    /// The device and key that caused it, where a person did.
    by: Option<By>,
    /// How its process is being ended; nothing as long as a turn is waited for.
    ladder: Option<Ladder>,
}

struct Ladder {
    terminated: bool,
    deadline: Option<u64>,
    step_ms: u64,
}

/// A command that is answered when the session has ended.
pub(super) struct Waiter {
    pub(super) peer: ConnToken,
    pub(super) re: Text,
    by: By,
}

/// The process of a session.
pub(super) struct Process {
    number: u64,
    phase: Phase,
    conversation: Text,
    /// The conversation may have a transcript.
    touched: bool,
    /// How the present process was started, and how the next one is to be.
    start: claude::Start,
    /// The conversation was asked for by name, or as the newest, and no process has had it yet.
    wanted: bool,
    no_conversation: bool,
    /// The present process was told to run the broken turn again.
    rerun: bool,
    /// Its end is wanted in order to start it again; it is killed at this time if it has not ended by then.
    planned: Option<u64>,
    /// It was told to die for this; nothing else is awaited.
    killed: Option<&'static str>,
    /// The session ends with the process, for this.
    last: Option<Text>,
    deaths: u32,
    restarts: u64,
    why: Option<Text>,
    last_line: u64,
    stuck: bool,
    probe: Option<(u64, Text)>,
    stop: Option<Stopping>,
    waiters: Vec<Waiter>,
    controls: u64,
}

impl Process {
    /// `own`: the id of a conversation that is new.
    pub(super) fn new(own: Text, past: &Past) -> Self {
        let (conversation, start) = match past {
            Past::None => (own, claude::Start::New),
            Past::Newest => (own, claude::Start::Continue),
            Past::Conversation(id) => (id.clone(), claude::Start::Resume),
        };
        Self {
            number: 0,
            phase: Phase::Backoff { at: 0 },
            conversation,
            touched: false,
            start,
            wanted: *past != Past::None,
            no_conversation: false,
            rerun: false,
            planned: None,
            killed: None,
            last: None,
            deaths: 0,
            restarts: 0,
            why: None,
            last_line: 0,
            stuck: false,
            probe: None,
            stop: None,
            waiters: Vec::new(),
            controls: 0,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(super) fn conversation(&self) -> &Text {
        &self.conversation
    }

    /// It goes on with the newest conversation of its folder, and the CLI has not said yet which that is.
    pub(super) fn takes_the_newest(&self) -> bool {
        self.start == claude::Start::Continue
    }

    fn over(&self) -> bool {
        matches!(self.phase, Phase::Stopped | Phase::Failed)
    }

    fn alive(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Up { .. })
    }

    pub(super) fn is(&self, process: u64) -> bool {
        self.number == process && self.alive()
    }

    pub(super) fn up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// The session is to end, maybe after its turn.
    pub(super) fn stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// The process is being ended for good; no turn is waited for.
    pub(super) fn ending(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.ladder.is_some())
    }

    fn ladder(&mut self) -> Option<&mut Ladder> {
        self.stop.as_mut()?.ladder.as_mut()
    }

    /// The device and key that caused the session's end, where a person did.
    pub(super) fn stopped_by(&self) -> Option<By> {
        self.stop.as_ref().and_then(|stop| stop.by.clone())
    }

    /// The commands that wait for the end of the session.
    pub(super) fn take_waiters(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.waiters)
    }

    pub(super) fn takes_prompts(&self) -> bool {
        self.up() && self.stop.is_none() && self.killed.is_none() && self.planned.is_none()
    }

    pub(super) fn stuck(&self) -> bool {
        self.stuck
    }

    /// The session's state as far as the process alone decides it.
    pub(super) fn state(&self) -> Option<(State, Option<Text>)> {
        let state = match self.phase {
            Phase::Starting { .. } => State::Starting,
            Phase::Backoff { .. } => State::Retrying,
            Phase::Stopped => State::Stopped,
            Phase::Failed => State::Failed,
            Phase::Up { .. } => return None,
        };
        Some((state, self.why.clone()))
    }

    pub(super) fn control_id(&mut self, what: &str) -> Text {
        self.controls += 1;
        format!("{what}-{}-{}", self.number, self.controls).into()
    }

    /// A line came: a sign of life. An answer to us says nothing about the turn.
    pub(super) fn heard(&mut self, now: Now, control: bool) {
        self.last_line = now.mono_ms;
        if !control {
            self.stuck = false;
            self.probe = None;
        }
    }

    /// We told it something that it will act on.
    pub(super) fn spoken(&mut self, now: Now) {
        self.last_line = now.mono_ms;
    }

    pub(super) fn touched(&mut self) {
        self.touched = true;
    }

    pub(super) fn conversation_is(&mut self, id: Text) {
        self.conversation = id;
        if self.start == claude::Start::Continue {
            // From now on it has a name.
            self.start = claude::Start::Resume;
        }
    }

    pub(super) fn no_conversation(&mut self) {
        self.no_conversation = true;
    }

    pub(super) fn has_no_conversation(&self) -> bool {
        self.no_conversation
    }

    pub(super) fn turn_finished(&mut self) {
        self.deaths = 0;
    }

    /// It answered `initialize`; false if it was ready already.
    pub(super) fn ready(&mut self, now: Now) -> bool {
        let first = matches!(self.phase, Phase::Starting { .. });
        if first {
            self.phase = Phase::Up { since: now.mono_ms };
            self.why = None;
            self.touched |= std::mem::take(&mut self.wanted);
        }
        first
    }
}

impl Session {
    /// Starts the process.
    pub(super) fn launch(&mut self, cx: &mut Cx<'_>) {
        let process = &mut self.process;
        process.number += 1;
        process.restarts += u64::from(process.number > 1);
        process.phase = Phase::Starting { deadline: cx.now.mono_ms + self.settings.start_ms };
        (process.no_conversation, process.planned, process.killed, process.stuck) = (false, None, None, false);
        (process.probe, process.why) = (None, None);
        process.last_line = cx.now.mono_ms;
        // The CLI itself runs a prompt again only if its turn is known to have begun. Without a sign the transcript may
        // end with an older broken turn, interrupted while no process was there: that must not run.
        process.rerun = self.prompts.running().is_some() && self.prompts.begun;
        let (number, start, rerun) = (process.number, process.start, process.rerun);
        let launch = Launch {
            session: self.id.clone(),
            process: number,
            profile: self.plan.profile.clone(),
            folder: self.plan.folder.clone(),
            conversation: process.conversation.clone(),
            start,
            rerun,
            model: self.plan.model.clone(),
            mode: self.plan.mode.clone(),
        };
        let id = process.control_id("initialize");
        cx.out.push_back(Out::Launch(launch));
        self.write(cx, claude::Command::Initialize { id });
    }

    /// The process has ended.
    pub fn exited(&mut self, cx: &mut Cx<'_>, process: u64, exit: &ExitInfo) {
        if self.process.is(process) {
            self.died(cx, &describe(exit));
        }
    }

    /// The process could not be started.
    pub fn spawn_failed(&mut self, cx: &mut Cx<'_>, process: u64, why: &str) {
        if self.process.is(process) {
            self.died(cx, &format!("Claude Code could not be started: {why}"));
        }
    }

    fn died(&mut self, cx: &mut Cx<'_>, why: &str) {
        let steady = self.died_steady(cx.now);
        self.nothing_runs(cx);
        let stops = self.process.ending() || (self.process.stopping() && !self.turn_runs());
        self.drop_lost(cx);
        let process = &mut self.process;
        let was_up = process.up();
        let missing = process.no_conversation && process.wanted;
        if process.no_conversation {
            (process.start, process.touched) = (claude::Start::New, false);
        } else if process.start != claude::Start::Continue {
            // A first start that came to nothing may have met a transcript of that id; then it can be resumed.
            let met = !was_up && process.start == claude::Start::New && process.number > 1;
            let resumes = process.touched || process.wanted || met;
            process.start = if resumes { claude::Start::Resume } else { claude::Start::New };
        }
        process.stuck = false;
        if stops {
            self.stopped(cx);
        } else if let Some(why) = process.last.take() {
            self.fail(cx, why);
        } else if missing {
            // No other conversation may take the place of the requested one.
            self.fail(cx, "Claude Code has no such conversation in this folder".into());
        } else if process.no_conversation || process.planned.is_some() {
            self.launch(cx);
        } else {
            process.deaths = if steady { 1 } else { process.deaths + 1 };
            let why = text::line(self.process.killed.unwrap_or(why), WHY_BYTES_MAX);
            self.back_off(cx, &why);
        }
        self.refresh(cx);
    }

    fn died_steady(&self, now: Now) -> bool {
        let long = matches!(self.process.phase, Phase::Up { since } if now.mono_ms >= since + STEADY_MS);
        long && self.prompts.running().is_none()
    }

    fn back_off(&mut self, cx: &mut Cx<'_>, why: &str) {
        let (settings, process) = (&self.settings, &mut self.process);
        if process.deaths >= settings.deaths_max {
            let why = format!(
                "its process was started {} times in a row and did not last; the last time: {why}",
                process.deaths
            )
            .into();
            return self.fail(cx, why);
        }
        let doublings = process.deaths.saturating_sub(1).min(16);
        let wait = (settings.backoff_ms << doublings).min(settings.backoff_ms_max);
        process.phase = Phase::Backoff { at: cx.now.mono_ms + wait };
        process.why = Some(format!("{why}; it is started again in {wait} ms").into());
    }

    /// It is not started again.
    fn fail(&mut self, cx: &mut Cx<'_>, why: Text) {
        self.process.phase = Phase::Failed;
        self.process.why = Some(why.clone());
        self.settle_running(cx, None, PromptState::Failed, Some(why.clone()));
        self.drop_queue(cx, None, PromptState::Failed, &why);
    }

    /// What the process does can be neither recorded nor shown from now on: it is ended, and the session with it.
    pub(super) fn log_lost(&mut self, cx: &mut Cx<'_>, why: Text) {
        if self.process.alive() {
            self.end(cx, End::Kill);
        }
        self.nothing_runs(cx);
        if !self.process.over() {
            self.fail(cx, why);
        }
    }

    /// A broken turn was settled while no process could be interrupted: the next process must not run it again.
    pub(super) fn restart_without_turn(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.process.phase, Phase::Starting { .. }) {
            self.start_again(cx);
        }
    }

    fn start_again(&mut self, cx: &mut Cx<'_>) {
        if self.process.planned.is_none() {
            self.process.planned = Some(cx.now.mono_ms + self.settings.stop_step_ms);
            self.end(cx, End::Terminate);
        }
    }

    fn end(&mut self, cx: &mut Cx<'_>, how: End) {
        cx.out.push_back(Out::End { session: self.id.clone(), process: self.process.number, how });
    }

    fn kill(&mut self, cx: &mut Cx<'_>, why: &'static str) {
        self.process.probe = None;
        self.process.killed = Some(why);
        self.end(cx, End::Kill);
    }

    /// The process took up a conversation that another session runs: it must not write on, and the session ends.
    pub fn conversation_is_taken(&mut self, cx: &mut Cx<'_>, process: u64, other: &str) {
        if self.process.is(process) && self.process.last.is_none() {
            let why =
                format!("Claude Code went on with the conversation that session {other} runs: attach to that one");
            self.process.last = Some(why.into());
            self.kill(cx, "its conversation is another session's");
        }
        self.refresh(cx);
    }

    /// Ends the session, without `now` after its turn. Answered when its process is gone.
    ///
    /// # Errors
    /// `LIMIT` when too many wait for the end already.
    pub fn stop(&mut self, cx: &mut Cx<'_>, caller: &Caller, re: &Text, now: bool) -> Result<(), Error> {
        if self.ended() {
            let reply = Reply::State(self.state);
            self.answer(cx, caller.peer, re, reply);
            return Ok(());
        }
        let most = if now { WAITERS_NOW_MAX } else { WAITERS_MAX };
        let shares = Shares::of(most, self.process.waiters.iter().map(|waiter| (&waiter.by.principal, 1)));
        let places = shares.admits(&caller.principal, 1);
        places.map_err(|full| full.error("commands that may wait for the end of this session", "wait for it"))?;
        let by = By::from(caller);
        self.process.waiters.push(Waiter { peer: caller.peer, re: re.clone(), by: by.clone() });
        if now {
            self.stop_now(cx, Some(by), self.settings.stop_now_step_ms);
        } else if !self.process.stopping() {
            self.begin_stop(cx, Some(by));
            if self.turn_runs() {
                let text = "the session stops when its turn ends, and takes no prompts until then".into();
                let by = self.process.stopped_by();
                self.fanout.append(cx, by, Kind::Notice { level: "info", text });
            }
        }
        self.refresh(cx);
        Ok(())
    }

    /// The relay ends: the stop ladder with a quarter of the grace for each step.
    pub fn drain(&mut self, cx: &mut Cx<'_>, grace_ms: u64) {
        if !self.ended() {
            self.stop_now(cx, None, grace_ms / 4);
        }
        self.refresh(cx);
    }

    fn begin_stop(&mut self, cx: &mut Cx<'_>, by: Option<By>) {
        self.drop_queue(cx, by.as_ref(), PromptState::Cancelled, "the session is stopped");
        self.process.stop = Some(Stopping { by, ladder: None });
    }

    /// A stop that waits for the turn ends with the right to it. It stays where another key that has the right waits
    /// for the end too, and becomes that key's.
    pub(super) fn drop_unpermitted_stop(&mut self, cx: &mut Cx<'_>, keys: &KeySet) {
        let lost = |by: &By| keys.lost(&by.principal, Verb::Stop);
        let process = &mut self.process;
        let refused: Vec<Waiter> = process.waiters.extract_if(.., |waiter| lost(&waiter.by).is_some()).collect();
        let next = process.waiters.first().map(|waiter| waiter.by.clone());
        for Waiter { peer, re, by } in refused {
            let why = lost(&by).unwrap_or_default();
            self.fanout.hold(cx, Out::Answer { peer, re, result: Err(Error::new(Code::Forbidden, why)) });
        }
        // What has ended was permitted when it did.
        if self.ended() {
            return;
        }
        let waiting = self.process.stop.as_mut().filter(|stop| stop.ladder.is_none());
        let Some(by) = waiting.and_then(|stop| stop.by.as_mut()) else { return };
        let Some(why) = lost(by) else { return };
        match next {
            Some(next) => *by = next,
            None => {
                self.process.stop = None;
                let text = format!("the session does not stop after all: {why}").into();
                self.fanout.append(cx, None, Kind::Notice { level: "info", text });
            }
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_stop(&self, keys: Option<&KeySet>) {
        let is_lost = |by: &By| keys.is_some_and(|keys| keys.lost(&by.principal, Verb::Stop).is_some());
        let stop = self.process.stop.as_ref().filter(|stop| stop.ladder.is_none() && !self.ended());
        let by = stop.and_then(|stop| stop.by.as_ref()).into_iter();
        let mut waiting = by.chain(self.process.waiters.iter().map(|waiter| &waiter.by));
        assert!(!waiting.any(is_lost), "a stop waits that its key does not permit");
    }

    /// Ends the process whatever runs in it. A process that is being ended already is given no more time than this.
    fn stop_now(&mut self, cx: &mut Cx<'_>, by: Option<By>, step_ms: u64) {
        let deadline = cx.now.mono_ms + step_ms;
        if let Some(ladder) = self.process.ladder() {
            ladder.step_ms = ladder.step_ms.min(step_ms);
            ladder.deadline = ladder.deadline.map(|old| old.min(deadline));
            if ladder.terminated {
                return;
            }
        } else {
            // A stop that does not wait for the turn ends it, even where an earlier stop waits.
            if self.turn_runs() {
                self.activity.broken(by.as_ref());
            }
            self.begin_stop(cx, by);
            if !self.begin_ladder(cx, step_ms) {
                return;
            }
        }
        if self.process.up() {
            let id = self.process.control_id("end");
            self.write(cx, claude::Command::EndSession { id });
        } else {
            self.end(cx, End::CloseStdin);
        }
    }

    /// Begins to end the process; false where there is none, and the session has stopped.
    fn begin_ladder(&mut self, cx: &mut Cx<'_>, step_ms: u64) -> bool {
        let alive = self.process.alive();
        if !alive {
            self.stopped(cx);
        } else if let Some(stop) = &mut self.process.stop {
            stop.ladder = Some(Ladder { terminated: false, deadline: Some(cx.now.mono_ms + step_ms), step_ms });
        }
        alive
    }

    /// A session that is to stop has waited for its turn, which may be over.
    pub(super) fn stop_after_turn(&mut self, cx: &mut Cx<'_>) {
        let waits = self.process.stopping() && !self.process.ending() && !self.process.over();
        if waits && !self.turn_runs() && self.begin_ladder(cx, self.settings.stop_step_ms) {
            self.end(cx, End::CloseStdin);
        }
    }

    /// Whether a turn runs, waits for a decision, or is to be run again by the next process.
    fn turn_runs(&self) -> bool {
        self.prompts.running().is_some() || self.activity.turn_runs() || self.permissions.waiting() > 0
    }

    fn stopped(&mut self, cx: &mut Cx<'_>) {
        let by = self.process.stopped_by();
        self.settle_running(cx, by.as_ref(), PromptState::Cancelled, Some("the session was stopped".into()));
        self.process.phase = Phase::Stopped;
        self.process.why = None;
        if let Some(stop) = &mut self.process.stop {
            stop.ladder = None;
        }
    }

    /// When [`Self::timeout`] is to be called next, on the monotonic clock in milliseconds.
    pub fn next_timeout(&self) -> Option<u64> {
        let process = self.due().map(|(at, _)| at);
        process.into_iter().chain(self.fanout.next_timeout()).min()
    }

    fn due(&self) -> Option<(u64, Timer)> {
        let (settings, process) = (&self.settings, &self.process);
        let ladder = process.stop.as_ref().and_then(|stop| stop.ladder.as_ref());
        let ladder = ladder.and_then(|ladder| ladder.deadline).map(|at| (at, Timer::Ladder));
        if let Phase::Backoff { at } = process.phase {
            return Some((at, Timer::Restart));
        }
        if process.ending() || process.killed.is_some() || !process.alive() {
            return ladder;
        }
        if let Some(at) = process.planned {
            return Some((at, Timer::Planned));
        }
        if let Phase::Starting { deadline } = process.phase {
            return Some((deadline, Timer::Start));
        }
        if let Some((at, _)) = process.probe {
            return Some((at, Timer::Probe));
        }
        let run = &self.prompts.run;
        let running = self.prompts.running().is_some();
        if running && run.resent && !self.activity.turn_runs() && run.known {
            return Some((process.last_line + KNOWN_MS, Timer::Known));
        }
        if running && run.resent && !self.activity.turn_runs() && !run.acked {
            return Some((process.last_line + UNACKED_MS, Timer::Silence));
        }
        let awaited = running || self.activity.turn_runs();
        let explained = self.permissions.waiting() > 0 || self.activity.tool_runs();
        (awaited && !explained).then_some((process.last_line + settings.stuck_ms, Timer::Silence))
    }

    /// The clock has moved.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some((_, timer)) = self.due().filter(|(at, _)| *at <= cx.now.mono_ms) {
            self.fire(cx, timer);
        }
        self.refresh(cx);
    }

    fn fire(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        let now = cx.now.mono_ms;
        match timer {
            Timer::Restart => self.launch(cx),
            Timer::Start => self.kill(cx, "Claude Code did not become ready in time and was killed"),
            Timer::Probe => self.kill(cx, "Claude Code gave no sign of life and was killed"),
            Timer::Planned => self.kill(cx, "Claude Code did not end when it was told to"),
            // It is in the transcript after all, maybe broken: only a process that was told to would run it again.
            Timer::Known if !self.process.rerun => {
                self.prompts.begun = true;
                self.start_again(cx);
            }
            Timer::Known => {
                let why = "its turn had ended before Claude Code was started again";
                self.settle_running(cx, None, PromptState::Done, Some(why.into()));
            }
            Timer::Silence => {
                // A prompt that was sent again and shows no sign is no sickness yet: the CLI may simply know it.
                let run = &self.prompts.run;
                let resent = run.resent && !run.acked && !self.activity.turn_runs();
                self.process.stuck |= !resent;
                let id = self.process.control_id("probe");
                self.process.probe = Some((now + self.settings.probe_ms, id.clone()));
                self.write(cx, claude::Command::Probe { id });
            }
            Timer::Ladder => {
                let Some(ladder) = self.process.ladder() else { return };
                let how = if ladder.terminated { End::Kill } else { End::Terminate };
                ladder.deadline = (!ladder.terminated).then_some(now + ladder.step_ms);
                ladder.terminated = true;
                self.end(cx, how);
            }
        }
    }

    /// An answer to a control request of ours.
    pub(super) fn control_answered(&mut self, id: &str) {
        if self.process.probe.as_ref().is_some_and(|(_, probe)| **probe == *id) {
            self.process.probe = None;
            // It reads its input in order, so it has read the prompt that was sent again, and began no turn.
            let run = &mut self.prompts.run;
            run.known |= run.resent && !run.acked && !self.activity.turn_runs();
        }
    }
}

fn describe(exit: &ExitInfo) -> String {
    let how = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("Claude Code was ended by signal {signal}"),
        (Some(code), None) => format!("Claude Code ended with exit code {code}"),
        (None, None) => "Claude Code ended".to_owned(),
    };
    match exit.stderr.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{how}: {}", line.trim()),
        None => how,
    }
}
