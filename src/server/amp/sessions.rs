//! Messages of agents for sessions, and what sessions say to agents.

use super::{AgentConn, new_id, text_of};
use crate::{
    base::ConnToken,
    dialect::amp::{self, Refused, Say, Taken, Tell},
    relay::{
        Role,
        api::{Caller, Command, Decision, Out, Reply, Request, Text, When},
    },
    server::{
        mail::ToCore,
        worker::{Conn, Io, Worker},
    },
    wire::amp::{Code, EnvelopeView, Type, check::Refusal},
};

impl Worker {
    /// A message for a session.
    pub(super) fn amp_ask(
        &mut self,
        agent: &mut AgentConn,
        io: &mut Io<'_>,
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
                match agent.asker.ask(session.clone(), did.clone(), from, view.header.id, thread_id) {
                    Taken::New => {}
                    Taken::Again => return Ok(()),
                    Taken::Full => {
                        return Err(Refusal::new(Code::OVERLOADED, "too many requests of this connection wait"));
                    }
                }
                self.amp_attach(agent, io, session);
                Command::Prompt { session: session.clone(), text: text.into(), when: When::Next }
            }
            Type::RESPONSE => {
                let unknown = Refusal::new(Code::BAD_REQUEST, "this answers no INPUT_REQUIRED that waits");
                let (of, request) =
                    view.header.reply_to.and_then(|reply_to| agent.asker.answered(reply_to)).ok_or(unknown)?;
                let decision = match text_of(body, "decision").as_deref() {
                    Some("allow") => Decision::Allow,
                    Some("deny") => Decision::Deny,
                    _ => return Err(Refusal::new(Code::BAD_REQUEST, "`decision` is neither \"allow\" nor \"deny\"")),
                };
                if !agent.asker.decide(of.clone(), did.clone(), view.header.from.into(), view.header.id) {
                    return Err(Refusal::new(Code::OVERLOADED, "too many decisions of this connection wait"));
                }
                Command::Decide { session: of, request, decision, message: None, input: None, answers: None }
            }
            Type::PING | Type::ERROR | Type::ACK | Type::PONG => return Ok(()),
            _ => return Err(Refusal::new(Code::UNKNOWN_TYPE, "a session takes REQUEST and RESPONSE")),
        };
        self.amp_submit(agent, io, Request { id, command });
        Ok(())
    }

    /// Makes sure that this connection gets the session's events.
    fn amp_attach(&mut self, agent: &mut AgentConn, io: &mut Io<'_>, session: &Text) {
        let may = agent.principal().is_some_and(|principal| principal.role.allows(Role::Watch));
        if may && !agent.attached.contains(session) {
            agent.attached.push(session.clone());
            let command = Command::Attach { session: session.clone(), from: None, tail_bytes: Some(0) };
            self.amp_submit(agent, io, Request { id: "attach".into(), command });
        }
    }

    fn amp_submit(&mut self, agent: &mut AgentConn, io: &Io<'_>, request: Request) {
        let Some(principal) = agent.connection.principal() else { return };
        let caller = Caller {
            peer: io.token(),
            principal: principal.fingerprint.clone(),
            role: principal.role,
            client: "amp".into(),
            device: format!("d{}", io.token()).into(),
            name: principal.did.clone(),
            kind: "agent".into(),
        };
        agent.known = true;
        self.core.take(ToCore::Request(Box::new(caller), request));
    }

    /// What the core has for an agent.
    pub(in crate::server) fn amp_out(&mut self, peer: ConnToken, out: &Out, io: &mut Io<'_>) {
        let now = io.now();
        let Some(Conn::Agent(agent)) = io.conn(peer) else { return };
        let dialect = agent.connection.dialect();
        match out {
            Out::Answer { re, result: Ok(Reply::Prompted { prompt, .. }), .. } => agent.asker.taken(re, prompt.clone()),
            Out::Answer { re, result: Ok(Reply::Decided { .. }), .. } => agent.asker.decided(re),
            Out::Answer { re, result: Err(error), .. } => {
                let Some(asked) = agent.asker.refused(re) else { return };
                let (id, from) = (Some(asked.id), Some(asked.from));
                let refused = Refused { refusal: amp::refusal(error), id, from, close: None };
                self.refuse(&asked.did, dialect, peer, io, refused);
            }
            Out::Event { event, .. } => {
                let mut says = Vec::new();
                let mut inputs = Vec::new();
                agent.asker.event(event, &mut |asked, tell| {
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
                    agent.asker.waits(id, session, request);
                }
                says.into_iter().for_each(|say| self.say(say));
            }
            _ => {}
        }
    }
}
