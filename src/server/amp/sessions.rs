//! Messages of agents for sessions, and what sessions say to agents.

use super::{AgentConn, new_id, text_of};
use crate::{
    base::{ConnToken, text},
    dialect::amp::{self, Asked, Refused, Say, Taken, Tell, Wish, repeated},
    relay::api::{Caller, Command, Decision, Out, REASON_BYTES_MAX, Reply, Request, Text, When},
    server::{
        channels::ToCore,
        worker::{Conn, Io, Worker},
    },
    wire::{
        amp::{
            Code, Dialect, EnvelopeView, Type,
            body::NOT_WAITING,
            check::{Refusal, unambiguous},
        },
        cbor::{self, Texts},
    },
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
        let Some(caller) = caller(agent, peer) else { return Ok(()) };
        // The role before anything that has to be read.
        let Some(wish) = amp::admit(view.header.typ, caller.role)? else { return Ok(()) };
        let thread_id = repeated::thread(view)?;
        let body = view.body_or_null().ok_or(Refusal::new(Code::UNAUTHORIZED, "a session cannot decrypt"))?;
        unambiguous(body)?;
        let Some(from) = repeated::sender(view.header.from).map(Text::from) else { return Ok(()) };
        let (of, command) = match wish {
            Wish::Prompt => {
                let text = prompt_of(body)?;
                match agent.asker().ask(session.clone(), did.clone(), from, view.header.id, thread_id) {
                    Taken::New => {}
                    Taken::Again => return Ok(()),
                    Taken::Full => {
                        return Err(Refusal::new(Code::OVERLOADED, "too many requests of this connection wait"));
                    }
                }
                (session.clone(), Command::Prompt { session: session.clone(), text: text.into(), when: When::Next })
            }
            Wish::Decide => {
                let unknown = Refusal::new(Code::BAD_REQUEST, NOT_WAITING);
                let asker = agent.asker();
                let put = view.header.reply_to.and_then(|reply_to| asker.answered(reply_to)).ok_or(unknown)?;
                let typed = cbor::get(body, "answers").and_then(Texts::of);
                let typed: Vec<String> = typed.into_iter().flatten().map(str::to_owned).collect();
                let bad = |why| Err(Refusal::new(Code::BAD_REQUEST, why));
                let decision = match text_of(body, "decision") {
                    // What an allowance of questions is called among the options of INPUT_REQUIRED.
                    Some("answer") if typed.is_empty() => return bad("to answer, say `answers`, a list of texts"),
                    Some("allow" | "answer") => Decision::Allow,
                    Some("deny") => Decision::Deny,
                    _ => return bad("`decision` is none of \"allow\", \"answer\" and \"deny\""),
                };
                let command = put.decide(decision, reason_of(body)?.map(Text::from), &typed)?;
                let of = put.session().clone();
                if !asker.decide(of.clone(), did.clone(), from, view.header.id) {
                    return Err(Refusal::new(Code::OVERLOADED, "too many decisions of this connection wait"));
                }
                (of, command)
            }
        };
        let id = Text::from(amp::command_id(&of, &view.header.id));
        // The core must be told of this connection's end from now on.
        agent.known = true;
        self.core.take(ToCore::Request(Box::new(caller), Request { id, command }));
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
                    agent.known = true;
                    self.core.take(ToCore::Request(Box::new(caller), Request { id, command }));
                }
            }
            Out::Answer { re, result: Ok(Reply::Decided { .. }), .. } => agent.asker().decided(re),
            Out::Answer { re, result: Err(error), .. } => {
                let asked = match re.strip_prefix(ATTACH) {
                    Some(session) => agent.asker().lost(session),
                    None => agent.asker().refused(re).into_iter().collect(),
                };
                self.amp_disappoint(asked, amp::refusal(error), dialect, peer, io);
            }
            Out::Reset { session, .. } => {
                let refusal = Refusal::new(Code::UNAVAILABLE, "the session's log has moved on: the answer was missed");
                let asked = agent.asker().lost(session);
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
                        Tell::InputRequired { put, body } => {
                            inputs.push((id, put));
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
                for (id, put) in inputs {
                    agent.asker().waits(id, put);
                }
                for say in says {
                    self.say(say, io);
                }
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
            let refused = Refused { refusal, id: Some(id), to: from, thread_id, close: None };
            self.refuse(&did, dialect, peer, io, refused);
        }
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

/// Why a RESPONSE denies.
fn reason_of(body: &[u8]) -> Result<Option<&str>, Refusal> {
    const _: () = assert!(REASON_BYTES_MAX == 16_384, "as it is said");
    let Some(message) = text_of(body, "message") else { return Ok(None) };
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

/// Who asks the core, on this connection.
fn caller(agent: &AgentConn, peer: ConnToken) -> Option<Caller> {
    let principal = agent.connection.principal()?;
    Some(Caller {
        peer,
        principal: principal.fingerprint.clone(),
        // Its name, the DID, is proved by the key already.
        comment: "".into(),
        role: principal.role,
        client: "amp".into(),
        device: format!("d{peer}").into(),
        name: principal.did.clone(),
        kind: "agent".into(),
    })
}
