//! Messages of agents for sessions: judged and read here, answered by [`sessions`](crate::relay::sessions).

use super::{Agent, Delivery, rights};
use crate::{
    base::{ConnToken, text},
    relay::{
        api::{Caller, REASON_BYTES_MAX, TOLD_BY_A_DENIAL, Text},
        message::{self, Shared},
        sessions::{Ask, ToSessions, Wanted},
    },
    wire::{
        amp::{
            Code, EnvelopeView,
            check::{Refusal, unambiguous},
        },
        cbor::{self, NULL, Texts, as_text, text_of},
    },
};

impl<S: Shared> Delivery<S> {
    /// A message for a session. True: the connection is not to be read for now.
    pub(super) fn ask_session(
        &mut self,
        agent: &mut Agent,
        peer: ConnToken,
        view: &EnvelopeView<'_>,
        session: &Text,
        did: &Text,
    ) -> Result<bool, Refusal> {
        let Some(caller) = caller(agent, peer) else { return Ok(false) };
        // The role before anything that has to be read.
        let Some(wish) = rights::admit(view.header.typ, caller.role)? else { return Ok(false) };
        let thread_id = message::thread(view)?;
        let body = view.body_or_null().ok_or(Refusal::new(Code::UNAUTHORIZED, "a session cannot decrypt"))?;
        unambiguous(body)?;
        let Some(from) = message::sender(view.header.from).map(Text::from) else { return Ok(false) };
        let wanted = match wish {
            rights::Wish::Prompt => Wanted::Prompt(prompt_of(body)?.into()),
            rights::Wish::Decide => {
                let decision = text_of(body, "decision");
                Wanted::Decide {
                    reply_to: view.header.reply_to.map(<[u8]>::to_vec),
                    decision: decision.map(Text::from),
                    message: reason_of(body, decision)?.map(Text::from),
                    answers: cbor::get(body, "answers")
                        .and_then(Texts::of)
                        .into_iter()
                        .flatten()
                        .map(str::to_owned)
                        .collect(),
                }
            }
        };
        let (principal, session, did, id) = (caller.principal.clone(), session.clone(), did.clone(), view.header.id);
        let ask = ToSessions::Ask(Box::new(Ask { caller, session, did, from, id, thread_id, wanted }));
        if !self.commands.ask(&principal, ask) {
            return Err(Refusal::new(Code::OVERLOADED, "too many messages wait for the sessions of this relay"));
        }
        // The sessions must be told of this connection's end from now on.
        agent.is_known = true;
        // Something is due to it until the sessions have taken the message.
        Ok(self.lanes.owe(peer))
    }
}

/// The prompt that a REQUEST is.
fn prompt_of(body: &[u8]) -> Result<&str, Refusal> {
    let wanted = Refusal::new(Code::BAD_REQUEST, "a REQUEST to a session is a map with `prompt`, a text");
    let prompt = text_of(body, "prompt").ok_or(wanted)?;
    if prompt.is_empty() {
        return Err(Refusal::new(Code::BAD_REQUEST, "`prompt` is empty"));
    }
    plain(prompt, "`prompt` holds a control character")
}

/// Why a RESPONSE denies. Beside an allowance the text would be dropped, so the agent is told so and may decide again.
fn reason_of<'a>(body: &'a [u8], decision: Option<&str>) -> Result<Option<&'a str>, Refusal> {
    const _: () = assert!(REASON_BYTES_MAX == 16_384, "as it is said");
    let Some(message) = cbor::get(body, "message").filter(|message| *message != NULL) else { return Ok(None) };
    if matches!(decision, Some("allow" | "answer")) {
        return Err(Refusal::new(Code::BAD_REQUEST, TOLD_BY_A_DENIAL));
    }
    let message = as_text(message).ok_or(Refusal::new(Code::BAD_REQUEST, "`message` must be a text"))?;
    if message.len() > REASON_BYTES_MAX {
        return Err(Refusal::new(Code::BAD_REQUEST, "`message` may have 16384 bytes"));
    }
    plain(message, "`message` holds a control character").map(Some)
}

/// A text that a session is told.
fn plain<'a>(text: &'a str, unfit: &'static str) -> Result<&'a str, Refusal> {
    match text::unfit_for_lines(text) {
        None => Ok(text),
        Some(_) => Err(Refusal::new(Code::BAD_REQUEST, unfit)),
    }
}

/// The caller on this connection.
fn caller(agent: &Agent, peer: ConnToken) -> Option<Caller> {
    let principal = agent.principal()?;
    Some(Caller {
        peer,
        principal: principal.fingerprint.clone(),
        // Its name, the DID, is proved by the key already.
        comment: "".into(),
        role: principal.role,
        granted: principal.role,
        client: "amp".into(),
        device: format!("d{peer}").into(),
        name: principal.did.clone(),
        kind: "agent".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_goes_with_a_denial_and_has_a_bound() {
        let body = |message: &dyn Fn(&mut Vec<u8>)| {
            let mut body = Vec::new();
            cbor::map(&mut body, 1);
            cbor::text(&mut body, "message");
            message(&mut body);
            body
        };
        let text = |text: &str| body(&|out| cbor::text(out, text));
        fn code<'a>(body: &'a [u8], decision: Option<&str>) -> Result<Option<&'a str>, Code> {
            reason_of(body, decision).map_err(|refusal| refusal.code)
        }
        let longest = "x".repeat(REASON_BYTES_MAX);
        let refused = Err(Code::BAD_REQUEST);
        for decision in [Some("deny"), None] {
            assert_eq!(code(&text(&longest), decision), Ok(Some(&*longest)));
            assert_eq!(code(&text(&format!("{longest}x")), decision), refused);
            assert_eq!(code(&text("\u{1b}[2J"), decision), refused);
            assert_eq!(code(&body(&|out| cbor::uint(out, 1)), decision), refused);
        }
        for decision in [Some("allow"), Some("answer"), Some("deny"), None] {
            assert_eq!(code(&body(&|out| cbor::null(out)), decision), Ok(None));
            assert_eq!(code(b"\xa0", decision), Ok(None));
        }
        for decision in [Some("allow"), Some("answer")] {
            assert_eq!(code(&text("why"), decision), refused);
        }
    }

    #[test]
    fn a_prompt_is_a_text_and_not_empty() {
        let prompt = |prompt: &str| {
            let mut body = Vec::new();
            cbor::map(&mut body, 1);
            cbor::text(&mut body, "prompt");
            cbor::text(&mut body, prompt);
            prompt_of(&body).map(str::to_owned).map_err(|refusal| refusal.code)
        };
        assert_eq!(prompt("x\ty\n"), Ok("x\ty\n".to_owned()));
        for unfit in ["", "\u{1b}[2J"] {
            assert_eq!(prompt(unfit), Err(Code::BAD_REQUEST), "{unfit:?}");
        }
    }
}
