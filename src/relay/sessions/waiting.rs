//! What sessions were asked and have not done yet. Owns the turns and how much may wait; must not know what a command
//! does, but for how much it makes the relay say.
//!
//! Principals take turns, so that a command waits only for those of its own principal. What a connection says stays in
//! order: its end comes behind what it has asked.

use std::collections::HashMap;

use super::{
    super::{
        api::{Out, Reply, Text, Verb},
        fair::Fair,
        shares::Shares,
    },
    ToSessions,
};
use crate::base::ConnToken;

/// Commands and messages that may wait; of one principal no more than is left for the others.
const WAITING_MAX: usize = 16 * 1024;
/// The cost of a command with an answer that holds events, or another whole message.
const LARGE: usize = 256;
/// The same of the list of all sessions.
const LIST: usize = 16;

/// What carrying it out costs the thread of the sessions and the worker that frames the answer; that of most is 1.
pub fn cost(message: &ToSessions) -> usize {
    match message {
        ToSessions::Request(_, request) => match request.command.verb() {
            Verb::Attach | Verb::History | Verb::Fetch => LARGE,
            Verb::List => LIST,
            _ => 1,
        },
        _ => 1,
    }
}

/// Whether it is an answer to a command that costs `LARGE`.
pub fn is_large(out: &Out) -> bool {
    matches!(
        out,
        Out::Answer { result: Ok(Reply::Attached { .. } | Reply::History { .. } | Reply::Fetched { .. }), .. }
    )
}

/// What became of something that was handed over.
#[derive(Debug)]
pub enum Taken {
    /// It has its turn later.
    Waits,
    /// It tells of a connection of which nothing waits, and is to be carried out now.
    Passed(ToSessions),
    /// Too much of its principal waits.
    Refused(ToSessions),
}

/// What waits.
#[derive(Debug)]
pub struct Waiting {
    turns: Fair<ToSessions>,
    /// Connections of which something waits.
    peers: HashMap<ConnToken, Peer>,
    /// Commands and messages, without what tells of connections.
    shares: Shares,
}

#[derive(Debug)]
struct Peer {
    principal: Text,
    waits: usize,
    is_gone: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { turns: Fair::default(), peers: HashMap::new(), shares: Shares::new(WAITING_MAX) }
    }
}

impl Waiting {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Something was handed over.
    pub fn take(&mut self, message: ToSessions) -> Taken {
        let (peer, principal) = origin(&message);
        let principal = match principal.cloned() {
            Some(principal) => {
                if self.shares.admits(&principal, 1).is_err() {
                    return Taken::Refused(message);
                }
                self.shares.take(&principal, 1);
                let known = Peer { principal: principal.clone(), waits: 0, is_gone: false };
                self.peers.entry(peer).or_insert(known).waits += 1;
                principal
            }
            None => {
                let Some(known) = self.peers.get_mut(&peer) else { return Taken::Passed(message) };
                known.waits += 1;
                known.is_gone |= matches!(message, ToSessions::Gone(_));
                known.principal.clone()
            }
        };
        self.turns.push(&principal, message);
        Taken::Waits
    }

    /// What is to be carried out next. `has_room`: whether one more large answer may be made for a worker. Commands of
    /// a device that is gone are left out where the answer is their only effect.
    pub fn next(&mut self, has_room: impl Fn(u16) -> bool) -> Option<ToSessions> {
        loop {
            let peers = &self.peers;
            let fits = |message: &ToSessions| {
                cost(message) < LARGE || is_idle(peers, message) || has_room(origin(message).0.worker())
            };
            let message = self.turns.pop_where(fits)?;
            let is_idle = is_idle(peers, &message);
            let (peer, principal) = origin(&message);
            if let Some(principal) = principal {
                self.shares.give_back(principal, 1);
            }
            if let Some(known) = self.peers.get_mut(&peer) {
                known.waits -= 1;
                if known.waits == 0 {
                    self.peers.remove(&peer);
                }
            }
            if !is_idle {
                return Some(message);
            }
        }
    }
}

/// The connection, and the principal that asks, if any.
fn origin(message: &ToSessions) -> (ConnToken, Option<&Text>) {
    match message {
        ToSessions::Request(caller, _) => (caller.peer, Some(&caller.principal)),
        ToSessions::Ask(ask) => (ask.caller.peer, Some(&ask.caller.principal)),
        ToSessions::Paused(peer) | ToSessions::Resumed(peer) | ToSessions::Gone(peer) | ToSessions::AskerGone(peer) => {
            (*peer, None)
        }
    }
}

/// Whether its answer would reach no connection, and it does nothing else.
fn is_idle(peers: &HashMap<ConnToken, Peer>, message: &ToSessions) -> bool {
    let ToSessions::Request(caller, request) = message else { return false };
    !request.command.verb().has_effect() && peers.get(&caller.peer).is_some_and(|known| known.is_gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{
        Role,
        api::{Caller, Command, Request},
    };

    fn peer(slot: u32) -> ConnToken {
        ConnToken::new(0, slot, 1)
    }

    fn ask(principal: &str, slot: u32, command: Command) -> ToSessions {
        let caller = Caller::sample(principal, slot, Role::Admin);
        ToSessions::Request(Box::new(caller), Request { id: "1".into(), command })
    }

    fn attach(principal: &str, slot: u32) -> ToSessions {
        ask(principal, slot, Command::Attach { session: "s".into(), from: None, tail_bytes: None })
    }

    fn interrupt(principal: &str, slot: u32) -> ToSessions {
        ask(principal, slot, Command::Interrupt { session: "s".into(), cancel_queued: false })
    }

    fn waiting(messages: impl IntoIterator<Item = ToSessions>) -> Waiting {
        let mut waiting = Waiting::default();
        for message in messages {
            let taken = waiting.take(message);
            assert!(matches!(taken, Taken::Waits), "{taken:?}");
        }
        waiting
    }

    /// What comes next, in words: what it is, and of which connection.
    fn next(waiting: &mut Waiting, has_room: bool) -> Option<String> {
        let message = waiting.next(|_| has_room)?;
        let what = match &message {
            ToSessions::Request(_, request) => request.command.verb().name(),
            ToSessions::Paused(_) => "paused",
            ToSessions::Gone(_) => "gone",
            other => panic!("{other:?}"),
        };
        Some(format!("{what} {}", origin(&message).0.slot()))
    }

    #[test]
    fn what_a_connection_says_last_does_not_overtake_what_it_said_before() {
        let mut waiting = waiting([attach("a", 1), ToSessions::Paused(peer(1))]);
        assert_eq!(next(&mut waiting, true).as_deref(), Some("attach 1"));
        assert!(matches!(waiting.take(ToSessions::Gone(peer(1))), Taken::Waits));
        assert_eq!(all(&mut waiting), ["paused 1", "gone 1"]);
        assert!(matches!(waiting.take(ToSessions::Gone(peer(1))), Taken::Passed(_)), "nothing of it waits");
    }

    fn all(waiting: &mut Waiting) -> Vec<String> {
        let all = std::iter::from_fn(|| next(waiting, true)).collect();
        assert!(waiting.is_empty() && waiting.peers.is_empty() && waiting.shares.is_free());
        all
    }

    #[test]
    fn principals_take_turns_and_the_end_of_a_connection_comes_behind_what_it_asked() {
        let mut waiting = waiting([
            interrupt("a", 1),
            interrupt("a", 2),
            ToSessions::Paused(peer(1)),
            interrupt("a", 1),
            ToSessions::Gone(peer(2)),
            interrupt("b", 3),
        ]);
        let passed = waiting.take(ToSessions::Gone(peer(4)));
        assert!(matches!(passed, Taken::Passed(ToSessions::Gone(_))), "it asked nothing: {passed:?}");
        let order = ["interrupt 1", "interrupt 3", "interrupt 2", "paused 1", "interrupt 1", "gone 2"];
        assert_eq!(all(&mut waiting), order);
        let passed = waiting.take(ToSessions::Gone(peer(1)));
        assert!(matches!(passed, Taken::Passed(_)), "nothing of it waits any more: {passed:?}");
    }

    #[test]
    fn what_makes_a_large_answer_waits_for_room_and_keeps_no_other_principal_waiting() {
        let mut waiting =
            waiting([attach("a", 1), attach("a", 1), interrupt("a", 2), interrupt("b", 3), attach("b", 3)]);
        assert_eq!(next(&mut waiting, false).as_deref(), Some("interrupt 3"));
        assert_eq!(next(&mut waiting, false), None);
        assert_eq!(all(&mut waiting), ["attach 1", "attach 3", "attach 1", "interrupt 2"]);
    }

    #[test]
    fn what_a_device_that_is_gone_has_looked_for_is_left_out_and_what_it_did_is_not() {
        let mut waiting = waiting([attach("a", 1), interrupt("a", 1), attach("a", 1), ToSessions::Gone(peer(1))]);
        assert_eq!(next(&mut waiting, false).as_deref(), Some("interrupt 1"));
        assert_eq!(all(&mut waiting), ["gone 1"]);
    }

    #[test]
    fn a_principal_leaves_room_for_the_others_and_an_end_has_room_always() {
        let mut waiting = Waiting::default();
        let places = (0..WAITING_MAX).filter(|_| matches!(waiting.take(attach("a", 1)), Taken::Waits)).count();
        assert_eq!(places, WAITING_MAX / 2);
        assert!(matches!(waiting.take(interrupt("a", 2)), Taken::Refused(_)));
        assert!(matches!(waiting.take(interrupt("b", 3)), Taken::Waits));
        assert!(matches!(waiting.take(ToSessions::Gone(peer(1))), Taken::Waits));
        assert_eq!(all(&mut waiting), ["interrupt 3", "gone 1"]);
    }
}
