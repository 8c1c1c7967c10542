//! Which turns are ours, sans-io: what the agent says while a prompt of ours runs is the answer to us, and what is
//! asked then is asked of us. Knows ids, no texts.

use std::collections::HashSet;

use crate::client::{Event, Fact, Reply, Snapshot};

/// Our own prompts: those that were typed or piped here, and not those of another terminal with the same key.
#[derive(Debug)]
pub(super) struct Ours {
    principal: String,
    device: String,
    /// Those that are not settled.
    prompts: HashSet<String>,
    /// Those among them that run. The relay gives the agent one at a time; where several are one turn, it is ours from
    /// the first of ours on.
    running: HashSet<String>,
    /// Open requests that came while a prompt of ours ran.
    raised: HashSet<String>,
    /// A prompt was sent.
    has_sent: bool,
    /// One of ours came to no good end.
    has_failed: bool,
}

/// The side that an open request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// It comes of a prompt of ours.
    Us,
    /// It comes of what others do, and no prompt was sent from here: a yes or a no can only be meant for it.
    Anyone,
    /// It comes of what others do.
    Others,
}

impl Ours {
    /// Nothing was asked yet by this key and the device of this name.
    pub(super) fn new(principal: &str, device: &str) -> Self {
        Self {
            principal: principal.into(),
            device: device.into(),
            prompts: HashSet::new(),
            running: HashSet::new(),
            raised: HashSet::new(),
            has_sent: false,
            has_failed: false,
        }
    }

    /// A prompt of ours runs.
    pub(super) fn runs(&self) -> bool {
        !self.running.is_empty()
    }

    /// A prompt of ours failed, or was cancelled.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The side that this open request asks.
    pub(super) fn asks(&self, request: &str) -> Asks {
        if self.raised.contains(request) {
            Asks::Us
        } else if self.has_sent {
            Asks::Others
        } else {
            Asks::Anyone
        }
    }

    /// A prompt was sent: what is said from now on is meant for what comes of it.
    pub(super) fn sent(&mut self) {
        self.has_sent = true;
    }

    /// Whether a prompt was sent.
    pub(super) fn has_sent(&self) -> bool {
        self.has_sent
    }

    /// The relay took a prompt of ours.
    pub(super) fn taken(&mut self, reply: &Reply) {
        self.prompts.extend(reply.field::<String>("prompt").ok().flatten());
    }

    /// The session is joined: the snapshot is right about what runs, whatever the events told.
    pub(super) fn attached(&mut self, snapshot: &Snapshot) {
        let running = snapshot.queue.iter().filter(|queued| queued.state == "running").map(|queued| &queued.prompt);
        self.running = running.filter(|prompt| self.prompts.contains(*prompt)).cloned().collect();
        let open = || snapshot.permissions.iter().map(|open| open.request.clone());
        // What was asked meanwhile is asked by the turn that runs.
        let raised = open().filter(|request| self.runs() || self.raised.contains(request)).collect();
        self.raised = raised;
    }

    /// Something happened. `sent`: a prompt with this text was sent from here, and its answer has not come.
    pub(super) fn event(&mut self, event: &Event, sent: impl Fn(&str) -> bool) {
        match &event.fact {
            // After a lost connection what became of a prompt is told before its answer comes, which would name it.
            Fact::Prompt { prompt, text } => {
                let by_us =
                    event.by.as_ref().is_some_and(|by| by.principal == self.principal && by.device == self.device);
                if by_us && sent(text) {
                    self.prompts.insert(prompt.clone());
                }
            }
            Fact::PromptState { prompt, state, .. } if state == "running" => {
                self.running.extend(self.prompts.contains(prompt).then(|| prompt.clone()));
            }
            Fact::PromptState { prompt, state, .. } if state != "queued" => {
                self.has_failed |= state != "done" && self.prompts.contains(prompt);
                self.settle(prompt);
            }
            Fact::Turn { prompts, ok, .. } => {
                self.has_failed |= !ok && prompts.iter().any(|prompt| self.prompts.contains(prompt));
                prompts.iter().for_each(|prompt| self.settle(prompt));
            }
            Fact::Permission(open) => self.raised.extend(self.runs().then(|| open.request.clone())),
            Fact::Decision { request, .. } | Fact::PermissionClosed { request, .. } => {
                self.raised.remove(request);
            }
            _ => {}
        }
    }

    fn settle(&mut self, prompt: &str) {
        self.prompts.remove(prompt);
        self.running.remove(prompt);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::client::Incoming;

    fn message(fields: &Value) -> Incoming {
        Incoming::parse(&fields.to_string()).expect("a message")
    }

    fn happens(ours: &mut Ours, mut fields: Value, sent: bool) -> bool {
        fields["type"] = json!("event");
        fields["session"] = json!("s");
        fields["epoch"] = json!("e");
        fields["offset"] = json!(0);
        let Incoming::Event(event) = message(&fields) else { panic!("no event: {fields}") };
        ours.event(&event, |_| sent);
        ours.runs()
    }

    fn taken(ours: &mut Ours, prompt: &str) {
        let Incoming::Reply(reply) = message(&json!({"type": "reply", "re": "c", "prompt": prompt})) else {
            panic!("no answer")
        };
        ours.taken(&reply);
    }

    fn state(prompt: &str, state: &str) -> Value {
        json!({"kind": "prompt_state", "prompt": prompt, "state": state})
    }

    #[test]
    fn a_turn_is_ours_from_our_prompt_s_start_to_its_end() {
        let mut ours = Ours::new("key", "terminal");
        assert!(!happens(&mut ours, state("theirs", "running"), false));
        taken(&mut ours, "mine");
        assert!(!happens(&mut ours, state("mine", "queued"), false), "another's turn still runs");
        assert!(happens(&mut ours, state("mine", "running"), false));
        assert!(happens(&mut ours, json!({"kind": "turn", "prompts": ["theirs"]}), false));
        assert!(!happens(&mut ours, json!({"kind": "turn", "prompts": ["theirs", "mine"]}), false));
        assert!(!happens(&mut ours, state("theirs", "running"), false));
    }

    #[test]
    fn a_prompt_whose_answer_was_lost_is_known_by_what_it_says() {
        let by = |device: &str| json!({"principal": "key", "comment": "", "device": device});
        let said = |device: &str| json!({"kind": "prompt", "prompt": "p", "text": "hi", "by": by(device)});
        for (device, sent, is_ours) in [("terminal", true, true), ("terminal", false, false), ("phone", true, false)] {
            let mut ours = Ours::new("key", "terminal");
            happens(&mut ours, said(device), sent);
            assert_eq!(happens(&mut ours, state("p", "running"), sent), is_ours, "{device} {sent}");
        }
    }

    #[test]
    fn a_snapshot_says_what_runs() {
        let mut ours = Ours::new("key", "terminal");
        taken(&mut ours, "mine");
        let of = |prompt: &str| -> Snapshot {
            serde_json::from_value(json!({"queue": [{"prompt": prompt, "state": "running"}]})).expect("a snapshot")
        };
        ours.attached(&of("mine"));
        assert!(ours.runs());
        ours.attached(&of("theirs"));
        assert!(!ours.runs());
    }

    #[test]
    fn what_was_asked_during_a_break_is_asked_by_the_turn_that_runs() {
        for (runs, asks) in [("mine", Asks::Us), ("theirs", Asks::Others)] {
            let mut ours = Ours::new("key", "terminal");
            ours.sent();
            taken(&mut ours, "mine");
            let snapshot = json!({
                "queue": [{"prompt": runs, "state": "running"}],
                "permissions": [{"request": "r", "tool": "Bash", "input": {"command": "ls"}}],
            });
            ours.attached(&Snapshot::read(&snapshot).expect("a snapshot"));
            assert_eq!(ours.asks("r"), asks, "{runs}");
        }
    }
}
