//! Prompts: recorded, queued, written to the process one at a time, settled exactly once.

use std::collections::VecDeque;

use super::{Cx, Session};
use crate::{
    claude,
    relay::{
        api::{By, Caller, Code, Error, Kind, Out, Position, PromptState, QueuedPrompt, Reply, Text, Verb, When, bulk},
        keys::KeySet,
        shares::{Full, Shares},
    },
};

/// What to do where Claude Code has no account.
pub(super) const LOGIN: &str =
    "Claude Code is not logged in on the relay's host: run `claude` there and log in, then start a new session";

/// A prompt that has not ended.
pub(super) struct Prompt {
    pub(super) id: Text,
    text: Text,
    /// What its text takes in a message.
    bytes: usize,
    by: Option<By>,
}

impl Prompt {
    /// Why it may no longer be said, if so. The relay's own always may.
    fn lost(&self, keys: &KeySet) -> Option<&'static str> {
        keys.lost(&self.by.as_ref()?.principal, Verb::Prompt)
    }
}

/// What the present process made of the running prompt.
#[derive(Default)]
pub(super) struct Run {
    /// It was written to the present process.
    pub(super) sent: bool,
    /// It was sent again after a death, and its own turn has not begun in this process: `completed` then means that
    /// the CLI knows it, not that it ran.
    pub(super) resent: bool,
    /// The CLI acknowledged it.
    pub(super) acked: bool,
    /// The CLI knows it from before.
    pub(super) known: bool,
}

/// The prompts of a session.
#[derive(Default)]
pub(super) struct Prompts {
    queue: VecDeque<Prompt>,
    running: Option<Prompt>,
    pub(super) run: Run,
    /// Some process gave a sign that the running prompt's turn had begun, so the transcript ends with it.
    pub(super) begun: bool,
    /// Why the running prompt is not run again should its process end: its key has lost the right to it.
    lost: Option<&'static str>,
}

impl Prompts {
    pub(super) fn running(&self) -> Option<&Prompt> {
        self.running.as_ref()
    }

    pub(super) fn runs(&self, id: &str) -> bool {
        self.running.as_ref().is_some_and(|prompt| *prompt.id == *id)
    }

    pub(super) fn list(&self) -> Vec<QueuedPrompt> {
        let show = |prompt: &Prompt, state| QueuedPrompt {
            prompt: prompt.id.clone(),
            text: prompt.text.clone(),
            by: prompt.by.clone(),
            state,
        };
        let running = self.running.iter().map(|prompt| show(prompt, PromptState::Running));
        running.chain(self.queue.iter().map(|prompt| show(prompt, PromptState::Queued))).collect()
    }

    fn take_running(&mut self) -> Option<Prompt> {
        let prompt = self.running.take()?;
        self.run = Run::default();
        (self.begun, self.lost) = (false, None);
        Some(prompt)
    }

    /// All prompts that wait or run, each as so many places of its principal. The relay's own count for no key.
    fn shares(&self, places: usize, weight: impl Fn(&Prompt) -> usize) -> Shares {
        let none = Text::from("");
        let all = self.running.iter().chain(&self.queue);
        let holder = |prompt: &'_ Prompt| prompt.by.as_ref().map_or(none.clone(), |by| by.principal.clone());
        let holders: Vec<(Text, usize)> = all.map(|prompt| (holder(prompt), weight(prompt))).collect();
        Shares::of(places, holders.iter().map(|(holder, weight)| (holder, *weight)))
    }
}

/// Why a prompt is too large.
pub fn too_large(bytes_max: usize) -> String {
    format!(
        "a prompt may have {bytes_max} bytes as JSON writes it, where a quote, a backslash and a line end take two: put the \
         rest in a file and name it"
    )
}

impl Session {
    /// Says something. Answered once the prompt is safe, written to the process when its turn has come.
    ///
    /// # Errors
    /// `BAD_REQUEST` for an empty text, `TOO_LARGE`, `LIMIT`, `AGENT_UNAVAILABLE`, `AGENT_LOGIN_NEEDED`.
    pub fn prompt(
        &mut self,
        cx: &mut Cx<'_>,
        caller: &Caller,
        re: &Text,
        text: &Text,
        when: When,
    ) -> Result<(), Error> {
        self.admit(&caller.principal, text)?;
        let (prompt, position) = self.enqueue(cx, Some(By::from(caller)), text.clone(), when);
        let answer =
            Out::Answer { peer: caller.peer, re: re.clone(), result: Ok(Reply::Prompted { prompt, position }) };
        self.fanout.hold(cx, answer);
        self.refresh(cx);
        Ok(())
    }

    /// Checks a first prompt before the session is there.
    pub(crate) fn check_text(text: &str, bytes_max: usize) -> Result<(), Error> {
        if text.trim().is_empty() {
            return Err(Error::new(Code::BadRequest, "a prompt needs a text"));
        }
        if bulk::text(text) > bytes_max {
            return Err(Error::new(Code::TooLarge, too_large(bytes_max)));
        }
        Ok(())
    }

    /// Queues the first prompt of a new session.
    pub(crate) fn first_prompt(&mut self, cx: &mut Cx<'_>, by: Option<By>, text: Text) {
        self.enqueue(cx, by, text, When::Next);
        self.refresh(cx);
    }

    fn admit(&self, principal: &str, text: &str) -> Result<(), Error> {
        let settings = &self.settings;
        Self::check_text(text, settings.prompt_bytes_max)?;
        self.refuse_if_ended()?;
        if self.process.stopping() {
            let error =
                Error::new(Code::AgentUnavailable, "the session stops when its turn ends, and takes no prompts");
            return Err(Error { recoverable: false, ..error });
        }
        if self.login_missing {
            return Err(Error::new(Code::AgentLoginNeeded, LOGIN));
        }
        let full = |what| move |full: Full| full.error(what, "send it later");
        let counts = self.prompts.shares(settings.prompts_max, |_| 1);
        counts.admits(principal, 1).map_err(full("prompts that may wait in this session"))?;
        let bytes = self.prompts.shares(2 * settings.prompt_bytes_max, |prompt| prompt.bytes);
        bytes.admits(principal, bulk::text(text)).map_err(full("bytes of prompts that may wait in this session"))
    }

    fn enqueue(&mut self, cx: &mut Cx<'_>, by: Option<By>, text: Text, when: When) -> (Text, Position) {
        let id = cx.ids.uuid();
        let position = self.fanout.append(cx, by.clone(), Kind::Prompt { prompt: id.clone(), text: text.clone() });
        self.prompt_state(cx, None, id.clone(), PromptState::Queued, None);
        let prompt = Prompt { id: id.clone(), bytes: bulk::text(&text), text, by: by.clone() };
        match when {
            When::Next => self.prompts.queue.push_back(prompt),
            When::Now => {
                self.prompts.queue.push_front(prompt);
                self.break_turn(cx, by.as_ref(), false);
            }
        }
        (id, position)
    }

    /// Stops the running turn; drops the prompts that wait if asked. Harmless when nothing runs, which the answer says.
    ///
    /// # Errors
    /// `AGENT_UNAVAILABLE` when the session has ended.
    pub fn interrupt(&mut self, cx: &mut Cx<'_>, caller: &Caller, re: &Text, cancel_queued: bool) -> Result<(), Error> {
        self.refuse_if_ended()?;
        let by = By::from(caller);
        if cancel_queued {
            self.drop_queue(cx, Some(&by), PromptState::Cancelled, "dropped");
        }
        let ran = self.break_turn(cx, Some(&by), cancel_queued);
        self.answer(cx, caller.peer, re, Reply::Interrupted { ran });
        self.refresh(cx);
        Ok(())
    }

    /// Breaks the turn that runs. False: none does.
    fn break_turn(&mut self, cx: &mut Cx<'_>, by: Option<&By>, cancel_queued: bool) -> bool {
        if self.process.up() {
            let runs = self.prompts.running.is_some() || self.activity.turn_runs();
            if runs {
                self.activity.broken(by);
                let id = self.process.control_id("interrupt");
                self.write(cx, claude::Command::Interrupt { id, cancel_queued });
            }
            return runs;
        }
        // The process that ran it is dead and the next one is not ready: no process can be interrupted, so the prompt
        // is settled here. A process that was already told to run the broken turn again is started once more without.
        let Some(prompt) = self.prompts.take_running() else { return false };
        self.prompt_state(cx, by, prompt.id, PromptState::Cancelled, Some("interrupted".into()));
        self.restart_without_turn(cx);
        true
    }

    /// Sends the next prompt when the process can take one.
    pub(super) fn advance(&mut self, cx: &mut Cx<'_>) {
        if !self.process.takes_prompts() || self.prompts.running.is_some() || self.activity.turn_runs() {
            return;
        }
        let Some(prompt) = self.prompts.queue.pop_front() else { return };
        let id = prompt.id.clone();
        self.prompts.running = Some(prompt);
        self.prompts.run = Run::default();
        self.activity.begin(cx.now);
        self.prompt_state(cx, None, id, PromptState::Running, None);
        self.send_running(cx);
    }

    /// Writes the running prompt to the process, the first time or again.
    pub(super) fn send_running(&mut self, cx: &mut Cx<'_>) {
        let Some(prompt) = &self.prompts.running else { return };
        let content = vec![claude::ContentPart::Text(prompt.text.clone())];
        let command = claude::Command::Prompt { prompt: prompt.id.clone(), content, now: false };
        self.prompts.run.sent = true;
        self.process.spoken(cx.now);
        self.process.touched();
        self.write(cx, command);
    }

    /// The running prompt has ended.
    pub(super) fn settle_running(&mut self, cx: &mut Cx<'_>, by: Option<&By>, state: PromptState, why: Option<Text>) {
        if let Some(prompt) = self.prompts.take_running() {
            self.prompt_state(cx, by, prompt.id, state, why);
        }
    }

    /// Ends every prompt that waits.
    pub(super) fn drop_queue(&mut self, cx: &mut Cx<'_>, by: Option<&By>, state: PromptState, why: &str) {
        for prompt in std::mem::take(&mut self.prompts.queue) {
            self.prompt_state(cx, by, prompt.id, state, Some(why.into()));
        }
    }

    /// Ends every prompt that waits and may no longer be said with these keys. What runs stays as long as its process does.
    pub(super) fn drop_unpermitted(&mut self, cx: &mut Cx<'_>, keys: &KeySet) {
        for prompt in std::mem::take(&mut self.prompts.queue) {
            match prompt.lost(keys) {
                None => self.prompts.queue.push_back(prompt),
                Some(why) => self.prompt_state(cx, None, prompt.id, PromptState::Cancelled, Some(why.into())),
            }
        }
        self.prompts.lost = self.prompts.running().and_then(|prompt| prompt.lost(keys));
        if !self.process.up() && self.drop_lost(cx) {
            self.restart_without_turn(cx);
        }
    }

    /// Ends the running prompt, which no process runs any more, if its key has lost the right to it. False: it has not.
    pub(super) fn drop_lost(&mut self, cx: &mut Cx<'_>) -> bool {
        let Some(why) = self.prompts.lost else { return false };
        self.settle_running(cx, None, PromptState::Cancelled, Some(why.into()));
        true
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_prompts(&self, keys: Option<&KeySet>) {
        let (prompts, settings) = (&self.prompts, &self.settings);
        assert!(prompts.shares(0, |_| 1).taken() <= settings.prompts_max);
        assert!(prompts.shares(0, |prompt| prompt.bytes).taken() <= 2 * settings.prompt_bytes_max);
        let is_lost = |prompt: &Prompt| keys.is_some_and(|keys| prompt.lost(keys).is_some());
        assert!(!prompts.queue.iter().any(is_lost), "a prompt waits that its key does not permit");
    }

    fn prompt_state(&mut self, cx: &mut Cx<'_>, by: Option<&By>, prompt: Text, state: PromptState, why: Option<Text>) {
        self.fanout.append(cx, by.cloned(), Kind::PromptState { prompt, state, why });
    }

    /// How far the CLI says a prompt has come.
    pub(super) fn lifecycle(&mut self, cx: &mut Cx<'_>, prompt: &str, state: claude::Lifecycle) {
        let ours = self.prompts.runs(prompt);
        match state {
            claude::Lifecycle::Queued if ours => self.prompts.run.acked = true,
            claude::Lifecycle::Queued => {}
            claude::Lifecycle::Started => {
                self.turn_started(cx, Some(prompt.into()));
                if ours {
                    self.prompts.run = Run { sent: true, acked: true, ..Run::default() };
                }
            }
            claude::Lifecycle::Completed if ours && self.prompts.run.resent => {
                self.prompts.run.acked = true;
                self.prompts.run.known = true;
            }
            claude::Lifecycle::Completed | claude::Lifecycle::Cancelled => {
                self.activity.turn_of_ended(prompt);
                if ours && state == claude::Lifecycle::Completed {
                    self.settle_running(cx, None, PromptState::Done, None);
                } else if ours {
                    let by = self.activity.broken_by();
                    self.settle_running(cx, by.as_ref(), PromptState::Cancelled, Some("interrupted".into()));
                }
            }
        }
    }

    /// A turn has begun in the process: that of the running prompt, if it was sent.
    pub(super) fn turn_started(&mut self, cx: &mut Cx<'_>, uuid: Option<Text>) {
        self.activity.turn_started(cx.now, uuid);
        self.prompts.begun |= self.prompts.run.sent;
    }
}
