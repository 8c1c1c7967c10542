//! All sessions of a relay, and what each caller may do with them. Owns the sessions, the store, the memory of
//! commands, the followers of the list. Must not do I/O, read a clock, or know a wire format.
//!
//! The shell on the supervisor thread calls the verbs and after each takes [`Hub::poll`] until it is empty.
//! [`Hub::next_timeout`] may lie in the past: then a watcher is behind and [`Hub::timeout`] sends its next batch. A
//! store that commits on another thread wakes the shell, which calls [`Hub::stored`].

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    base::{ConnToken, Now},
    claude,
    relay::{
        Role,
        api::{By, Caller, Code, Command, Error, ExitInfo, Out, Past, Reply, Request, State, Summary, Text, Verb},
        command_dedup::{CommandDedup, Seen},
        keys::KeySet,
        session::{Cx, Ids, Plan, Session, Settings, Verdict},
        shares::{Full, Shares},
    },
    store::{self, Engine},
};

/// What the configuration allows to be started.
pub trait Profiles {
    /// Checks what was asked for against the profile and fills in what was left out. `admin`: an admin asks.
    ///
    /// # Errors
    /// `NOT_FOUND` for the profile, `FORBIDDEN` or `BAD_REQUEST` for what it does not admit.
    fn resolve(
        &self,
        profile: &str,
        folder: Option<&Path>,
        model: Option<&str>,
        mode: Option<&str>,
        admin: bool,
    ) -> Result<Resolved, Error>;
}

/// What a profile made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Where the session runs.
    pub folder: PathBuf,
    /// The model to ask for.
    pub model: Option<Text>,
    /// The permission mode to ask for.
    pub mode: Option<Text>,
}

/// A session to be made.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// The profile's name.
    pub profile: Text,
    /// Where; the profile's first folder when left out.
    pub folder: Option<PathBuf>,
    /// A title for people.
    pub title: Option<Text>,
    /// A model the profile admits.
    pub model: Option<Text>,
    /// A permission mode the profile admits.
    pub mode: Option<Text>,
    /// The first prompt.
    pub prompt: Option<Text>,
    /// What it goes on with.
    pub past: Past,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions by state, in the order of [`State::ALL`].
    pub states: [usize; State::ALL.len()],
    /// Processes started again since the relay began.
    pub restarts: u64,
    /// Devices that watch, one for each session they watch.
    pub watchers: usize,
    /// Commands with answers that are remembered.
    pub remembered: usize,
}

/// A follower of the list.
struct Follower {
    principal: Text,
    /// It missed a change while it was paused.
    missed: bool,
}

/// All sessions. See the module.
pub struct Hub {
    settings: Arc<Settings>,
    store: store::Client,
    engine: Box<dyn Engine + Send>,
    profiles: Box<dyn Profiles + Send>,
    ids: Box<dyn Ids + Send>,
    sessions: Vec<Session>,
    commands: CommandDedup,
    /// In force; before the first ones a caller may do what its role says.
    keys: Option<Arc<KeySet>>,
    paused: HashSet<ConnToken>,
    followers: BTreeMap<ConnToken, Follower>,
    out: VecDeque<Out>,
    draining: bool,
    /// Restarts of sessions that gave way.
    restarts_gone: u64,
    /// Sessions that gave way and are still to be reported: their ids and DIDs.
    gone: Vec<(Text, Text)>,
}

impl Hub {
    /// A relay without sessions.
    pub fn new(
        settings: Settings,
        engine: Box<dyn Engine + Send>,
        profiles: Box<dyn Profiles + Send>,
        ids: Box<dyn Ids + Send>,
    ) -> Self {
        Self {
            store: store::Client::new(settings.store),
            settings: Arc::new(settings),
            engine,
            profiles,
            ids,
            sessions: Vec::new(),
            commands: CommandDedup::default(),
            keys: None,
            paused: HashSet::new(),
            followers: BTreeMap::new(),
            out: VecDeque::new(),
            draining: false,
            restarts_gone: 0,
            gone: Vec::new(),
        }
    }

    /// A peer asks for something. Every request gets one answer, maybe later.
    pub fn request(&mut self, caller: &Caller, request: Request, now: Now) {
        let Request { id, command } = request;
        let keys = self.keys.clone();
        let limited = keys.as_ref().map_or(Ok(Cow::Borrowed(caller)), |keys| keys.limit(caller));
        let admitted = limited.and_then(|caller| Ok((self.admit(&caller, &id, &command, now)?, caller)));
        let refused = match admitted {
            Ok((false, _)) => None,
            Err(error) => Some((caller.peer, error)),
            Ok((true, caller)) => self.run(&caller, &id, command, now).err().map(|error| {
                let result = Err(error.clone());
                (self.commands.answered(caller.peer, &id, &result), error)
            }),
        };
        if let Some((peer, error)) = refused {
            self.out.push_back(Out::Answer { peer, re: id, result: Err(error) });
        }
        self.settle(now);
    }

    /// Whether the command is to be run; its role and its id are checked before anything that it names.
    fn admit(&mut self, caller: &Caller, id: &Text, command: &Command, now: Now) -> Result<bool, Error> {
        let verb = command.verb();
        caller.may(verb)?;
        let conflict = || Error::new(Code::Conflict, "this id was used for another command: take a new one");
        if !verb.has_effect() {
            return if self.commands.awaits(caller.peer, id) { Err(conflict()) } else { Ok(true) };
        }
        match self.commands.begin(caller, id, command, now) {
            Seen::New => Ok(true),
            Seen::InFlight => Ok(false),
            Seen::Answered(result) => {
                self.out.push_back(Out::Answer { peer: caller.peer, re: id.clone(), result });
                Ok(false)
            }
            Seen::Conflict => Err(conflict()),
        }
    }

    fn run(&mut self, caller: &Caller, re: &Text, command: Command, now: Now) -> Result<(), Error> {
        match command {
            Command::List { follow } => {
                match follow {
                    Some(true) => {
                        let follower = Follower { principal: caller.principal.clone(), missed: false };
                        self.followers.insert(caller.peer, follower);
                    }
                    Some(false) => drop(self.followers.remove(&caller.peer)),
                    None => {}
                }
                let result = Ok(Reply::Sessions(self.summaries()));
                self.out.push_back(Out::Answer { peer: caller.peer, re: re.clone(), result });
                Ok(())
            }
            Command::Create { profile, folder, title, model, mode, prompt, past } => {
                let create = Create { profile, folder, title, model, mode, prompt, past };
                let index = self.make(create, Some(caller), now)?;
                let summary = self.sessions[index].summary();
                self.with(index, now, |session, cx| session.answer(cx, caller.peer, re, Reply::Created(summary)));
                Ok(())
            }
            Command::Attach { session, from, tail_bytes } => {
                self.at(&session, now, |session, cx| session.attach(cx, caller, re, from.as_ref(), tail_bytes))?
            }
            Command::Detach { session } => self.at(&session, now, |session, cx| session.detach(cx, caller.peer, re)),
            Command::History { session, before, bytes } => {
                self.at(&session, now, |session, cx| session.history(cx, caller, re, &before, bytes))?
            }
            Command::Fetch { session, blob, from, bytes } => {
                let reply = self.at(&session, now, |session, _| session.fetch(&blob, from, bytes))??;
                self.out.push_back(Out::Answer { peer: caller.peer, re: re.clone(), result: Ok(reply) });
                Ok(())
            }
            Command::Prompt { session, text, when } => {
                if self.draining {
                    return Err(shutting_down());
                }
                self.at(&session, now, |session, cx| session.prompt(cx, caller, re, &text, when))?
            }
            Command::Interrupt { session, cancel_queued } => {
                self.at(&session, now, |session, cx| session.interrupt(cx, caller, re, cancel_queued))?
            }
            Command::Decide { session, request, decision, shown, message, input, answers } => {
                let verdict = Verdict {
                    request: &request,
                    decision,
                    shown: shown.as_ref(),
                    message: message.as_ref(),
                    input: input.as_ref(),
                    answers: answers.as_ref(),
                };
                self.at(&session, now, |session, cx| session.decide(cx, caller, re, &verdict))?
            }
            Command::Stop { session, now: at_once } => {
                self.at(&session, now, |session, cx| session.stop(cx, caller, re, at_once))?
            }
        }
    }

    /// Makes a session for the relay itself (`up`), without a peer that asked.
    ///
    /// # Errors
    /// As [`Command::Create`]: `LIMIT`, `SHUTTING_DOWN`, and what the profile refuses.
    pub fn create(&mut self, create: Create, now: Now) -> Result<Summary, Error> {
        let index = self.make(create, None, now)?;
        self.settle(now);
        Ok(self.sessions[index].summary())
    }

    fn make(&mut self, create: Create, caller: Option<&Caller>, now: Now) -> Result<usize, Error> {
        if self.draining {
            return Err(shutting_down());
        }
        if let Some(prompt) = &create.prompt {
            Session::check_text(prompt, self.settings.prompt_bytes_max)?;
        }
        let Create { profile, folder, title, model, mode, prompt, past } = create;
        let (model, mode) = (model.as_deref(), mode.as_deref());
        let admin = caller.is_some_and(|caller| caller.role.allows(Role::Admin));
        let resolved = self.profiles.resolve(&profile, folder.as_deref(), model, mode, admin)?;
        self.is_free(&past, &resolved.folder)?;
        let principal = caller.map_or_else(|| Text::from(""), |caller| caller.principal.clone());
        self.make_room(&principal, now)?;
        let Resolved { folder, model, mode } = resolved;
        let plan = Plan { principal, profile, folder, title, model, mode, past };
        let settings = self.settings.clone();
        let session = {
            let mut cx =
                Cx { now, store: &mut self.store, ids: &mut *self.ids, paused: &self.paused, out: &mut self.out };
            let mut session = Session::new(settings, plan, &mut cx);
            if let Some(prompt) = prompt {
                session.first_prompt(&mut cx, caller.map(By::from), prompt);
            }
            session
        };
        self.sessions.push(session);
        Ok(self.sessions.len() - 1)
    }

    /// Two processes on one conversation would write its history over each other. Only the CLI knows which one is the
    /// newest of a folder, and says so with the first prompt. Most likely it is the one that runs there; until the CLI
    /// says so it may be any that is asked for by its name.
    fn is_free(&self, past: &Past, folder: &Path) -> Result<(), Error> {
        let (running, what) = match past {
            Past::None => return Ok(()),
            Past::Newest => (
                self.running(|session| session.folder() == folder),
                "in this folder already, and its conversation is the newest one: attach to it, or stop it first",
            ),
            Past::Conversation(wanted) => match self.running(|session| session.conversation() == wanted) {
                None => (
                    self.running(|session| session.takes_the_newest() && session.folder() == folder),
                    "on the newest conversation of this folder, which may be this one; which it is shows with its first \
                     prompt: attach to it, or stop it first",
                ),
                running => (running, "on this conversation already: attach to it"),
            },
        };
        running
            .map_or(Ok(()), |session| Err(Error::new(Code::Conflict, format!("session {} runs {what}", session.id()))))
    }

    fn running(&self, fits: impl Fn(&Session) -> bool) -> Option<&Session> {
        self.sessions.iter().find(|session| !session.ended() && fits(session))
    }

    /// At the limit a session that has ended gives way: the oldest of the principal that has most of those, an
    /// unwatched one first. A device that watched it is told so; a watched session must not keep other principals from
    /// making sessions.
    fn make_room(&mut self, principal: &Text, now: Now) -> Result<(), Error> {
        let most = self.settings.sessions_max;
        let (ended, running): (Vec<&Session>, Vec<&Session>) = self.sessions.iter().partition(|s| s.ended());
        let running = Shares::of(most, running.into_iter().map(|session| (session.principal(), 1)));
        running.admits(principal, 1).map_err(no_session)?;
        if self.sessions.len() < most {
            return Ok(());
        }
        let ended = ended.into_iter().filter(|session| session.settled());
        let largest = Shares::of(most, ended.map(|session| (session.principal(), 1))).largest_with(principal, 0);
        let fits =
            |session: &Session| session.ended() && session.settled() && Some(session.principal()) == largest.as_ref();
        let gives_way = (0..self.sessions.len())
            .filter(|index| fits(&self.sessions[*index]))
            .min_by_key(|index| (self.sessions[*index].devices() > 0, self.sessions[*index].summary().since));
        let Some(index) = gives_way else {
            let message = format!("{most} sessions are here, and how some have ended is being written: try again");
            return Err(Error::new(Code::Limit, message));
        };
        self.with(index, now, |session, cx| session.give_way(cx));
        let session = self.sessions.remove(index);
        self.restarts_gone += session.restarts();
        self.store.remove(session.log());
        self.ids.forget(session.did());
        self.gone.push((session.id().clone(), session.did().clone()));
        Ok(())
    }

    /// The sessions that gave way since the last call, each with its DID.
    pub fn take_gone(&mut self) -> Vec<(Text, Text)> {
        std::mem::take(&mut self.gone)
    }

    /// From now on these keys are in force, also for commands that are on the way here. What a principal has waiting and may
    /// no longer do ends, and is said.
    pub fn keys(&mut self, keys: Arc<KeySet>, now: Now) {
        self.followers.retain(|_, follower| keys.lost(&follower.principal, Verb::List).is_none());
        self.keys = Some(keys.clone());
        self.each(now, |session, cx| session.keys(cx, &keys));
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, peer: ConnToken, now: Now) {
        self.paused.remove(&peer);
        self.followers.remove(&peer);
        self.each(now, |session, cx| session.disconnected(cx, peer));
    }

    /// A peer's send queue is above its high mark: nothing but answers is sent to it until [`Self::resumed`].
    pub fn paused(&mut self, peer: ConnToken) {
        self.paused.insert(peer);
        for session in &mut self.sessions {
            session.paused(peer);
        }
    }

    /// A peer takes more again.
    pub fn resumed(&mut self, peer: ConnToken, now: Now) {
        self.paused.remove(&peer);
        if let Some(follower) = self.followers.get_mut(&peer).filter(|follower| follower.missed) {
            follower.missed = false;
            for summary in self.summaries() {
                self.out.push_back(Out::Changed { peers: vec![peer], summary });
            }
        }
        self.each(now, |session, cx| session.resumed(cx, peer));
    }

    /// A session's process said something.
    pub fn agent(&mut self, session: &str, process: u64, event: claude::Event, now: Now) {
        let Some(index) = self.find(session) else { return };
        match self.taken_by(index, &event) {
            Some(other) => self.with(index, now, |session, cx| session.conversation_is_taken(cx, process, &other)),
            None => self.with(index, now, |session, cx| session.agent(cx, process, event)),
        }
        self.settle(now);
    }

    /// The other session that runs the conversation that this session's CLI reports. The CLI chose it: it was told to
    /// take the newest.
    fn taken_by(&self, index: usize, event: &claude::Event) -> Option<Text> {
        let claude::Event::ConversationId(id) = event else { return None };
        let own = self.sessions[index].id();
        let other = self.running(|session| session.id() != own && **session.conversation() == **id)?;
        Some(other.id().clone())
    }

    /// A session's process has ended and everything it said was handed in.
    pub fn exited(&mut self, session: &str, process: u64, exit: &ExitInfo, now: Now) {
        if let Some(index) = self.find(session) {
            self.with(index, now, |session, cx| session.exited(cx, process, exit));
            self.settle(now);
        }
    }

    /// A session's process could not be started.
    pub fn spawn_failed(&mut self, session: &str, process: u64, why: &str, now: Now) {
        if let Some(index) = self.find(session) {
            self.with(index, now, |session, cx| session.spawn_failed(cx, process, why));
            self.settle(now);
        }
    }

    /// Whether the store is so far behind that no input should be taken that leads to more for it, until the next call
    /// of [`Self::stored`].
    pub fn is_clogged(&self) -> bool {
        self.store.is_clogged()
    }

    /// The store may have done something.
    pub fn stored(&mut self, now: Now) {
        self.settle(now);
    }

    /// The clock has moved: timers, and the next batch for every watcher that is behind.
    pub fn timeout(&mut self, now: Now) {
        self.each(now, |session, cx| {
            if session.next_timeout().is_some_and(|at| at <= cx.now.mono_ms) {
                session.timeout(cx);
            }
            if session.lagging() {
                session.pump(cx);
            }
        });
    }

    /// When [`Self::timeout`] is to be called next, on the monotonic clock in milliseconds; 0 when at once.
    pub fn next_timeout(&self) -> Option<u64> {
        let room = self.store.has_room();
        let due = |session: &Session| if room && session.lagging() { Some(0) } else { session.next_timeout() };
        self.sessions.iter().filter_map(due).min()
    }

    /// The relay ends: every session's process is ended with a quarter of the grace for each step, and new prompts and
    /// sessions are refused.
    pub fn drain(&mut self, now: Now, grace_ms: u64) {
        self.draining = true;
        self.each(now, |session, cx| session.drain(cx, grace_ms));
    }

    /// Whether no process is left.
    pub fn drained(&self) -> bool {
        self.sessions.iter().all(Session::ended)
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<Out> {
        self.out.pop_front()
    }

    /// Every session in a line, the oldest first.
    pub fn summaries(&self) -> Vec<Summary> {
        self.sessions.iter().map(Session::summary).collect()
    }

    /// Figures for metrics.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { restarts: self.restarts_gone, remembered: self.commands.len(), ..Counts::default() };
        for session in &self.sessions {
            let index = State::ALL.iter().position(|state| *state == session.state());
            counts.states[index.unwrap_or_default()] += 1;
            counts.restarts += session.restarts();
            counts.watchers += session.devices();
        }
        counts
    }

    fn find(&self, session: &str) -> Option<usize> {
        self.sessions.iter().position(|known| **known.id() == *session)
    }

    fn at<T>(
        &mut self,
        session: &str,
        now: Now,
        verb: impl FnOnce(&mut Session, &mut Cx<'_>) -> T,
    ) -> Result<T, Error> {
        let index = self.find(session).ok_or_else(|| Error::new(Code::NotFound, "no such session"))?;
        Ok(self.with(index, now, verb))
    }

    fn with<T>(&mut self, index: usize, now: Now, verb: impl FnOnce(&mut Session, &mut Cx<'_>) -> T) -> T {
        let mut cx = Cx { now, store: &mut self.store, ids: &mut *self.ids, paused: &self.paused, out: &mut self.out };
        let said = cx.out.len();
        let result = verb(&mut self.sessions[index], &mut cx);
        self.note_answers(said);
        result
    }

    /// Takes down the answers that sessions gave since the queue had `from` entries, and turns each to the newest
    /// connection that asked.
    fn note_answers(&mut self, from: usize) {
        for out in self.out.range_mut(from..) {
            if let Out::Answer { peer, re, result } = out
                && !matches!(result, Ok(Reply::Attached { .. }))
            {
                *peer = self.commands.answered(*peer, re, result);
            }
        }
    }

    fn each(&mut self, now: Now, verb: impl Fn(&mut Session, &mut Cx<'_>)) {
        for index in 0..self.sessions.len() {
            self.with(index, now, &verb);
        }
        self.settle(now);
    }

    /// Hands over what is for the store, takes in what it has done, and tells the followers of the list what has
    /// changed.
    fn settle(&mut self, now: Now) {
        loop {
            while let Some((id, op)) = self.store.poll() {
                self.engine.submit(id, op);
            }
            let Some(done) = self.engine.poll() else { break };
            let Some((log, news)) = self.store.handle(done) else { continue };
            if let Some(index) = self.sessions.iter().position(|session| session.log() == log) {
                self.with(index, now, |session, cx| session.stored(cx, news));
            }
        }
        self.tell_followers();
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    fn tell_followers(&mut self) {
        for session in &mut self.sessions {
            if !session.take_changed() || self.followers.is_empty() {
                continue;
            }
            let mut peers = Vec::new();
            for (peer, follower) in &mut self.followers {
                if self.paused.contains(peer) {
                    follower.missed = true;
                } else {
                    peers.push(*peer);
                }
            }
            if !peers.is_empty() {
                self.out.push_back(Out::Changed { peers, summary: session.summary() });
            }
        }
    }

    /// Counts keep their bounds, and nothing is left of what the keys in force do not permit.
    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        let keys = self.keys.as_deref();
        assert!(self.sessions.len() <= self.settings.sessions_max);
        self.sessions.iter().for_each(|session| session.check_invariants(keys));
        self.commands.check_invariants();
        let is_lost =
            |follower: &&Follower| keys.is_some_and(|keys| keys.lost(&follower.principal, Verb::List).is_some());
        assert!(
            !self.followers.values().any(|follower| is_lost(&follower)),
            "the list is followed without a right to it"
        );
    }
}

fn no_session(full: Full) -> Error {
    full.error("sessions that may run", "stop one")
}

fn shutting_down() -> Error {
    Error::new(Code::ShuttingDown, "the relay is shutting down")
}

#[cfg(test)]
pub(in crate::relay) mod tests;
