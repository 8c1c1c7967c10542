//! Messages of agents for sessions, and what sessions say to agents.

use super::{AgentConn, new_id, text_of};
use crate::{
    base::ConnToken,
    dialect::amp::{self, Asked, Refused, Say, Taken, Tell},
    relay::api::{Caller, Command, Decision, Out, Reply, Request, Text, When},
    server::{
        mail::ToCore,
        worker::{Conn, Io, Worker},
    },
    wire::amp::{Code, Dialect, EnvelopeView, Type, check::Refusal},
};

/// The id of the command that has a session's events come, before the session's.
const ATTACH: &str = "attach ";

impl Worker {
    /// A message for a session.
    pub(super) fn amp_ask(
        &mut self,
        agent: &mut AgentConn,
        peer: ConnToken,
        view: &EnvelopeView<'_>,
        session: &Text,
        did: &Text,
    ) -> Result<(), Refusal> {
        let body = view.body_or_null().ok_or(Refusal::new(Code::UNAUTHORIZED, "a session cannot decrypt"))?;
        let id = Text::from(amp::command_id(&view.header.id));
        let command = match view.header.typ {
            Type::REQUEST => {
                let wanted = Refusal::new(Code::BAD_REQUEST, "a REQUEST to a session is a map with `prompt`, a text");
                let text = text_of(body, "prompt").filter(|text| !text.is_empty()).ok_or(wanted)?;
                let from = Text::from(view.header.from);
                let thread_id = view.header.thread_id.map(<[u8]>::to_vec);
                match agent.asker().ask(session.clone(), did.clone(), from, view.header.id, thread_id) {
                    Taken::New => {}
                    Taken::Again => return Ok(()),
                    Taken::Full => {
                        return Err(Refusal::new(Code::OVERLOADED, "too many requests of this connection wait"));
                    }
                }
                Command::Prompt { session: session.clone(), text: text.into(), when: When::Next }
            }
            Type::RESPONSE => {
                let unknown = Refusal::new(Code::BAD_REQUEST, "this answers no INPUT_REQUIRED that waits");
                let (of, request) =
                    view.header.reply_to.and_then(|reply_to| agent.asker().answered(reply_to)).ok_or(unknown)?;
                let decision = match text_of(body, "decision").as_deref() {
                    Some("allow") => Decision::Allow,
                    Some("deny") => Decision::Deny,
                    _ => return Err(Refusal::new(Code::BAD_REQUEST, "`decision` is neither \"allow\" nor \"deny\"")),
                };
                if !agent.asker().decide(of.clone(), did.clone(), view.header.from.into(), view.header.id) {
                    return Err(Refusal::new(Code::OVERLOADED, "too many decisions of this connection wait"));
                }
                Command::Decide { session: of, request, decision, message: None, input: None, answers: None }
            }
            Type::PING | Type::ERROR | Type::ACK | Type::PONG => return Ok(()),
            _ => return Err(Refusal::new(Code::UNKNOWN_TYPE, "a session takes REQUEST and RESPONSE")),
        };
        if let Some(caller) = caller(agent, peer) {
            self.core.take(ToCore::Request(Box::new(caller), Request { id, command }));
        }
        Ok(())
    }

    /// What the core has for an agent.
    pub(in crate::server) fn amp_out(&mut self, peer: ConnToken, out: &Out, io: &mut Io<'_>) {
        let now = io.now();
        let Some(Conn::Agent(agent)) = io.conn(peer) else { return };
        let dialect = agent.connection.dialect();
        match out {
            Out::Answer { re, result: Ok(Reply::Prompted { prompt, position }), .. } => {
                let Some((session, from)) = agent.asker().taken(re, prompt.clone(), position) else { return };
                let id = format!("{ATTACH}{session}").into();
                let command = Command::Attach { session, from: Some(from), tail_bytes: None };
                if let Some(caller) = caller(agent, peer) {
                    self.core.take(ToCore::Request(Box::new(caller), Request { id, command }));
                }
            }
            Out::Answer { re, result: Ok(Reply::Decided { .. }), .. } => agent.asker().decided(re),
            Out::Answer { re, result: Err(error), .. } => {
                let asked = match re.strip_prefix(ATTACH) {
                    Some(session) => agent.asker().unheard(session),
                    None => agent.asker().refused(re).into_iter().collect(),
                };
                self.amp_disappoint(asked, amp::refusal(error), dialect, peer, io);
            }
            Out::Reset { session, .. } => {
                let refusal = Refusal::new(Code::UNAVAILABLE, "the session's log has moved on: the answer was missed");
                let asked = agent.asker().unheard(session);
                self.amp_disappoint(asked, refusal, dialect, peer, io);
            }
            Out::Event { event, .. } => {
                let mut says = Vec::new();
                let mut inputs = Vec::new();
                agent.asker().event(event, &mut |asked, tell| {
                    let Some(id) = new_id(now.unix_ms) else { return };
                    let (typ, body) = match tell {
                        Tell::Processing(body) => (Type::PROCESSING, body),
                        Tell::Response(body) => (Type::RESPONSE, body),
                        Tell::InputRequired { request, body } => {
                            inputs.push((id, asked.session.clone(), request));
                            (Type::INPUT_REQUIRED, body)
                        }
                    };
                    says.push(Say {
                        peer,
                        from: asked.did.clone(),
                        to: asked.from.clone(),
                        typ,
                        id,
                        reply_to: Some(asked.id),
                        thread_id: asked.thread_id.clone(),
                        body,
                        dialect,
                        close: None,
                    });
                });
                for (id, session, request) in inputs {
                    agent.asker().waits(id, session, request);
                }
                says.into_iter().for_each(|say| self.say(say));
            }
            _ => {}
        }
    }

    /// Tells that these REQUESTs get no answer.
    fn amp_disappoint(
        &mut self,
        asked: Vec<Asked>,
        refusal: Refusal,
        dialect: Dialect,
        peer: ConnToken,
        io: &mut Io<'_>,
    ) {
        for Asked { did, id, from, thread_id, .. } in asked {
            let refused = Refused { refusal, id: Some(id), from: Some(from), thread_id, close: None };
            self.refuse(&did, dialect, peer, io, refused);
        }
    }
}

/// Who asks the core, on this connection. It must learn of the connection's end from now on.
fn caller(agent: &mut AgentConn, peer: ConnToken) -> Option<Caller> {
    let principal = agent.connection.principal()?;
    let caller = Caller {
        peer,
        principal: principal.fingerprint.clone(),
        role: principal.role,
        client: "amp".into(),
        device: format!("d{peer}").into(),
        name: principal.did.clone(),
        kind: "agent".into(),
    };
    agent.known = true;
    Some(caller)
}
