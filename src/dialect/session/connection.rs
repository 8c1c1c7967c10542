//! One connection of the session dialect, sans-io: challenge, sign-in, then commands. Owns the nonce and the signed-in
//! caller; it must not verify a signature (that is the crypto thread's) nor answer a command of the core.

use crate::{
    base::{CloseCode, ConnToken, Now, text::quoted},
    relay::{
        Role, SignedIn,
        admission::SignInJob,
        api::{Caller, Code, Error, Request, Text},
    },
    wire::sign_in::{Authority, BINDING_NONE, Challenge, Limits, ProfileInfo, RelayInfo, SignIn, Welcome},
};

use super::{Incoming, SIGN_IN_BYTES_MAX, SIGN_IN_MS, TICK_MS, VERSION, decode::readable_id};

/// What the relay tells every device about itself.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Its identity.
    pub relay: RelayInfo,
    /// Limits that `welcome` names.
    pub limits: Limits,
    /// Profiles that `welcome` lists.
    pub profiles: Vec<ProfileInfo>,
}

/// What the connection wants done, in order.
#[derive(Debug)]
pub enum Act {
    /// Send a text message.
    Send(String),
    /// Send this `welcome`: the device has signed in.
    Welcome(String),
    /// Have this checked; the answer comes back by [`Connection::signed_in`] or [`Connection::refused`].
    Verify(SignInJob),
    /// Give the core this command.
    Submit(Box<Caller>, Request),
    /// Read the keys file again and answer this command.
    ReloadKeys {
        /// The principal that asks.
        principal: Text,
        /// The command's id.
        id: Text,
    },
    /// Answer this command of theirs and end the relay.
    StopRelay(Box<Caller>, Text),
    /// Close with this code and reason; nothing follows.
    Close(CloseCode, &'static str),
}

#[derive(Debug)]
enum Phase {
    /// Waits for `sign_in`.
    Challenged,
    /// The crypto thread has it.
    Verifying(Box<SignIn>),
    /// Signed in.
    Open(Box<Caller>),
    /// A close was asked for: whatever still comes is dropped.
    Closing,
}

/// How a connection came to us.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What the upgrade's Host header said.
    pub host: String,
    /// Over the Unix socket. A tunnel may end there, so that the Host counts too.
    pub unix: bool,
}

impl Origin {
    /// Whether this is the authority that a client dialled; loopback names are equal on any port.
    fn by(&self, dialled: &str) -> bool {
        match (Authority::parse(dialled), Authority::parse(&self.host)) {
            (Ok(Authority::Unix), _) => self.unix,
            (Ok(dialled), Ok(origin)) => dialled == origin,
            _ => false,
        }
    }
}

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    peer: ConnToken,
    origin: Origin,
    nonce: String,
    phase: Phase,
    deadline: u64,
}

impl Connection {
    /// A connection that was just upgraded; `nonce` is fresh. Gives the challenge to send.
    pub fn open(peer: ConnToken, origin: Origin, nonce: String, greeting: &Greeting, now: Now) -> (Self, String) {
        let expires_at = now.unix_ms + SIGN_IN_MS;
        let challenge = super::sign_in_message(&Challenge {
            version: VERSION,
            relay: greeting.relay.clone(),
            nonce: nonce.clone(),
            expires_at,
            bindings: vec![BINDING_NONE.into()],
        });
        let deadline = now.mono_ms + SIGN_IN_MS;
        (Self { peer, origin, nonce, phase: Phase::Challenged, deadline }, challenge)
    }

    /// The signed-in caller; `None` before sign-in.
    pub fn caller(&self) -> Option<&Caller> {
        match &self.phase {
            Phase::Open(caller) => Some(caller),
            _ => None,
        }
    }

    /// When [`Connection::timeout`] is to be called, on the monotonic clock in milliseconds.
    pub fn deadline(&self) -> Option<u64> {
        (!matches!(self.phase, Phase::Closing)).then_some(self.deadline)
    }

    /// A message was sent: the next `tick` moves back.
    pub fn sent(&mut self, now: Now) {
        if matches!(self.phase, Phase::Open(_)) {
            self.deadline = now.mono_ms + TICK_MS;
        }
    }

    /// A text message came.
    pub fn text(&mut self, text: &str, now: Now, acts: &mut Vec<Act>) {
        match &self.phase {
            Phase::Closing => {}
            Phase::Open(_) => self.command(text, now, acts),
            Phase::Challenged if text.len() > SIGN_IN_BYTES_MAX => {
                let message = format!("a message before sign-in may have {SIGN_IN_BYTES_MAX} bytes");
                self.refuse(None, &Error::new(Code::TooLarge, message), acts);
            }
            Phase::Challenged => match super::decode(text, |_| Ok(())) {
                Ok(Incoming::SignIn(sign_in)) => self.sign_in(sign_in, acts),
                Ok(_) => {
                    let message = "sign in first: answer the challenge with `sign_in`";
                    self.refuse(readable_id(text).as_deref(), &Error::new(Code::AuthRequired, message), acts);
                }
                Err((re, error)) => self.refuse(re.as_deref(), &error, acts),
            },
            Phase::Verifying(_) => {
                let error = Error::new(Code::AuthRequired, "wait for the answer to `sign_in`");
                self.refuse(readable_id(text).as_deref(), &error, acts);
            }
        }
    }

    fn command(&mut self, text: &str, now: Now, acts: &mut Vec<Act>) {
        let Phase::Open(caller) = &self.phase else { return };
        acts.push(match super::decode(text, |role| caller.needs(role)) {
            Ok(Incoming::Request(request)) => Act::Submit(caller.clone(), request),
            Ok(Incoming::Ping { id, t }) => Act::Send(super::pong(&id, t.as_ref(), now.unix_ms)),
            Ok(Incoming::KeysReload { id }) => Act::ReloadKeys { principal: caller.principal.clone(), id },
            Ok(Incoming::RelayStop { id }) => Act::StopRelay(caller.clone(), id),
            Ok(Incoming::SignIn(sign_in)) => {
                let error = Error::new(Code::BadRequest, "this connection has signed in already");
                Act::Send(super::error(Some(&sign_in.id), &error))
            }
            Err((re, error)) => Act::Send(super::error(re.as_deref(), &error)),
        });
    }

    fn sign_in(&mut self, sign_in: Box<SignIn>, acts: &mut Vec<Act>) {
        // Not all of it is signed, and what is too long is not worth a signature's check.
        if let Err(error) = sign_in.device.check() {
            return self.refuse(Some(&sign_in.id), &Error::new(Code::BadRequest, error.to_string()), acts);
        }
        if sign_in.binding != BINDING_NONE {
            let message = "`binding` must be \"none\": this listener offers no TLS exporter";
            return self.refuse(Some(&sign_in.id), &Error::new(Code::AuthFailed, message), acts);
        }
        if !self.origin.by(&sign_in.authority) {
            let message = format!(
                "the signed authority {} is not what this connection was made to ({}): somebody may stand in between",
                quoted(&sign_in.authority),
                quoted(&self.origin.host)
            );
            return self.refuse(Some(&sign_in.id), &Error::new(Code::AuthFailed, message), acts);
        }
        let server_nonce = self.nonce.clone();
        let is_local = self.origin.unix;
        acts.push(Act::Verify(SignInJob { peer: self.peer, sign_in: sign_in.clone(), server_nonce, is_local }));
        self.phase = Phase::Verifying(sign_in);
    }

    /// The crypto thread admitted the sign-in.
    pub fn signed_in(&mut self, signed: &SignedIn, greeting: &Greeting, now: Now, acts: &mut Vec<Act>) {
        let Phase::Verifying(sign_in) = &self.phase else { return };
        // They name the folders of sessions, and a role that sees nothing of sessions starts none.
        let sees = signed.role.allows(Role::Watch);
        let profiles = if sees { greeting.profiles.clone() } else { Vec::new() };
        acts.push(Act::Welcome(super::sign_in_message(&Welcome {
            re: sign_in.id.clone(),
            principal: signed.principal.to_string(),
            fingerprint: signed.principal.to_string(),
            role: signed.role.name().into(),
            device: device_id(self.peer).to_string(),
            proof: signed.proof.clone(),
            now: now.unix_ms,
            limits: greeting.limits,
            profiles,
            features: Vec::new(),
        })));
        self.phase = Phase::Open(Box::new(Caller {
            peer: self.peer,
            principal: signed.principal.clone(),
            comment: signed.comment.clone(),
            role: signed.role,
            granted: signed.role,
            client: sign_in.client.as_str().into(),
            device: device_id(self.peer),
            name: sign_in.device.name.as_str().into(),
            kind: sign_in.device.kind.as_str().into(),
        }));
        self.deadline = now.mono_ms + TICK_MS;
    }

    /// The crypto thread refused the sign-in.
    pub fn refused(&mut self, error: &Error, acts: &mut Vec<Act>) {
        let Phase::Verifying(sign_in) = &self.phase else { return };
        let id = sign_in.id.clone();
        self.refuse(Some(&id), error, acts);
    }

    /// The deadline has passed.
    pub fn timeout(&mut self, now: Now, acts: &mut Vec<Act>) {
        if now.mono_ms < self.deadline {
            return;
        }
        match self.phase {
            Phase::Closing => {}
            Phase::Open(_) => {
                acts.push(Act::Send(super::tick(now.unix_ms)));
                self.deadline = now.mono_ms + TICK_MS;
            }
            Phase::Challenged | Phase::Verifying(_) => {
                let message = format!("no sign-in within {} s", SIGN_IN_MS / 1000);
                self.refuse(None, &Error::new(Code::AuthTimeout, message), acts);
            }
        }
    }

    /// The principal's key is gone from the keys file.
    pub fn revoked(&mut self, acts: &mut Vec<Act>) {
        self.end("this key is no longer in the relay's keys file", acts);
    }

    fn end(&mut self, message: &'static str, acts: &mut Vec<Act>) {
        acts.push(Act::Send(super::error(None, &final_error(Code::KeyNotAuthorized, message))));
        acts.push(Act::Close(CloseCode::KEY_REVOKED, "key revoked"));
        self.phase = Phase::Closing;
    }

    /// The principal's role is now this one; the connection has no more than it signed in with. A connection without
    /// any right to sessions ends, since it may watch some.
    pub fn limit_role(&mut self, role: Role, acts: &mut Vec<Act>) {
        let sees = |caller: &Caller| caller.role.allows(Role::Watch);
        if !role.allows(Role::Watch) && self.caller().is_some_and(sees) {
            return self.end("this key may no longer see sessions: its role is now `agent`", acts);
        }
        if let Phase::Open(caller) = &mut self.phase {
            caller.role = caller.granted.min(role);
        }
    }

    fn refuse(&mut self, re: Option<&str>, error: &Error, acts: &mut Vec<Act>) {
        let passes = matches!(
            error.code,
            Code::AuthTimeout | Code::RateLimited | Code::Limit | Code::ShuttingDown | Code::Internal
        );
        // The same sign-in would be refused again.
        let error = Error { recoverable: error.recoverable && passes, ..error.clone() };
        acts.push(Act::Send(super::error(re, &error)));
        let (code, reason) = match error.code {
            Code::TooLarge => (CloseCode::TOO_BIG, "message too large"),
            Code::RateLimited | Code::ShuttingDown => (CloseCode::TRY_AGAIN, "try again later"),
            _ => (CloseCode::POLICY, "not signed in"),
        };
        acts.push(Act::Close(code, reason));
        self.phase = Phase::Closing;
    }
}

fn final_error(code: Code, message: &str) -> Error {
    Error { recoverable: false, ..Error::new(code, message) }
}

/// The device's id: the connection's name does, for it is unique for ever in this process.
fn device_id(peer: ConnToken) -> Text {
    format!("d{peer}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        Greeting {
            relay: RelayInfo {
                did: "did:key:z6Mk".into(),
                key: "ssh-ed25519 AAAA".into(),
                name: "relay".into(),
                version: "0".into(),
            },
            limits: Limits::default(),
            profiles: Vec::new(),
        }
    }

    fn opened() -> Connection {
        let peer = ConnToken::new(0, 1, 2);
        let origin = Origin { host: "localhost:1".into(), unix: false };
        Connection::open(peer, origin, "n".into(), &greeting(), Now::default()).0
    }

    const SIGN_IN: &str = r#"{"type":"sign_in","id":"1","client":"c","key":"k","nonce":"n","authority":"localhost:1",
        "binding":"none","device":{"name":"d","kind":"test"},"signature":"s"}"#;

    fn drive(connection: &mut Connection, text: &str) -> Vec<Act> {
        let mut acts = Vec::new();
        connection.text(text, Now::default(), &mut acts);
        acts
    }

    #[test]
    fn nothing_but_sign_in_is_heard_before_welcome() {
        let mut connection = opened();
        let acts = drive(&mut connection, r#"{"type":"list","id":"9"}"#);
        assert!(matches!(&acts[0], Act::Send(text) if text.contains("AUTH_REQUIRED") && text.contains(r#""re":"9""#)));
        assert!(matches!(acts[1], Act::Close(CloseCode::POLICY, _)));
        assert!(drive(&mut connection, SIGN_IN).is_empty(), "a closing connection hears nothing");
    }

    #[test]
    fn a_sign_in_is_verified_once_and_then_commands_pass_with_the_granted_role() {
        let mut connection = opened();
        assert!(matches!(&drive(&mut connection, SIGN_IN)[..], [Act::Verify(job)] if job.server_nonce == "n"));
        let signed =
            SignedIn { principal: "SHA256:x".into(), comment: "".into(), role: Role::Drive, proof: "p".into() };
        let mut acts = Vec::new();
        connection.signed_in(&signed, &greeting(), Now::default(), &mut acts);
        assert!(matches!(&acts[..], [Act::Welcome(text)] if text.contains(r#""type":"welcome""#)));
        let acts = drive(&mut connection, r#"{"type":"list","id":"9"}"#);
        assert!(matches!(&acts[..], [Act::Submit(caller, _)] if caller.role == Role::Drive));
        let acts = drive(&mut connection, r#"{"type":"keys","id":"9","op":"reload"}"#);
        let told = |acts: &[Act]| match acts {
            [Act::Send(text)] => serde_json::from_str::<serde_json::Value>(text).expect("JSON"),
            other => panic!("{other:?}"),
        };
        let forbidden = told(&acts);
        // One refusal for both kinds of commands, and no way to it by trying again.
        let other = told(&drive(&mut connection, r#"{"type":"stop","id":"9","session":"s"}"#));
        assert_eq!((&forbidden["code"], &forbidden["recoverable"]), (&other["code"], &other["recoverable"]));
        assert_eq!((&forbidden["code"], &forbidden["recoverable"]), (&"FORBIDDEN".into(), &false.into()));
        let why = forbidden["message"].as_str().expect("a text");
        assert!(why.starts_with("this needs the role admin, and this connection has drive"), "{why}");
    }

    #[test]
    fn a_role_that_sees_nothing_of_sessions_is_not_told_where_they_run() {
        let profile = ProfileInfo {
            name: "default".into(),
            about: "".into(),
            folders: vec!["/home/project".into()],
            modes: Vec::new(),
            agent: "demo".into(),
        };
        let greeting = Greeting { profiles: vec![profile], ..greeting() };
        for role in Role::ALL {
            let mut connection = opened();
            drive(&mut connection, SIGN_IN);
            let signed = SignedIn { principal: "SHA256:x".into(), comment: "".into(), role, proof: "p".into() };
            let mut acts = Vec::new();
            connection.signed_in(&signed, &greeting, Now::default(), &mut acts);
            let [Act::Welcome(text)] = &acts[..] else { panic!("{acts:?}") };
            assert_eq!(text.contains("/home/project"), role != Role::Agent, "{role}: {text}");
            assert!(role != Role::Agent || text.contains(r#""profiles":[]"#), "{text}");
        }
    }

    #[test]
    fn a_key_that_loses_its_right_to_see_sessions_loses_its_connection() {
        let mut connection = opened();
        drive(&mut connection, SIGN_IN);
        let signed =
            SignedIn { principal: "SHA256:x".into(), comment: "".into(), role: Role::Drive, proof: "p".into() };
        connection.signed_in(&signed, &greeting(), Now::default(), &mut Vec::new());
        let mut acts = Vec::new();
        connection.limit_role(Role::Watch, &mut acts);
        assert!(acts.is_empty() && connection.caller().is_some_and(|caller| caller.role == Role::Watch));
        // A role that is given back, up to the role at sign-in.
        connection.limit_role(Role::Admin, &mut acts);
        assert!(acts.is_empty() && connection.caller().is_some_and(|caller| caller.role == Role::Drive));
        connection.limit_role(Role::Agent, &mut acts);
        assert!(matches!(&acts[..], [Act::Send(_), Act::Close(CloseCode::KEY_REVOKED, _)]));
    }

    #[test]
    fn another_authority_is_refused() {
        let mut connection = opened();
        let acts = drive(&mut connection, &SIGN_IN.replace("localhost:1", "elsewhere:1"));
        assert!(matches!(&acts[0], Act::Send(text) if text.contains("AUTH_FAILED")));
    }

    #[test]
    fn a_refused_sign_in_says_whether_the_same_may_go_well_later() {
        let refused = |code: Code| {
            let mut connection = opened();
            drive(&mut connection, SIGN_IN);
            let mut acts = Vec::new();
            connection.refused(&Error::new(code, "no"), &mut acts);
            let Act::Send(text) = &acts[0] else { panic!("{acts:?}") };
            serde_json::from_str::<serde_json::Value>(text).expect("JSON")["recoverable"] == true
        };
        for code in [Code::BadRequest, Code::AuthFailed, Code::KeyNotAuthorized, Code::Forbidden] {
            assert!(!refused(code), "{code:?}");
        }
        for code in [Code::RateLimited, Code::ShuttingDown, Code::Internal] {
            assert!(refused(code), "{code:?}");
        }
        let mut connection = opened();
        drive(&mut connection, SIGN_IN);
        let mut acts = Vec::new();
        connection.refused(&final_error(Code::Limit, "not here, ever"), &mut acts);
        assert!(matches!(&acts[0], Act::Send(text) if text.contains(r#""recoverable":false"#)), "{acts:?}");
        // What comes before the answer to a sign-in.
        let mut connection = opened();
        drive(&mut connection, SIGN_IN);
        let acts = drive(&mut connection, r#"{"type":"list","id":"9"}"#);
        let [Act::Send(text), Act::Close(CloseCode::POLICY, _)] = &acts[..] else { panic!("{acts:?}") };
        assert!(text.contains("AUTH_REQUIRED") && text.contains(r#""re":"9""#), "{text}");
        // What is refused before its signature is looked at.
        for text in ["{", "{}", r#"{"type":"list","id":"9"}"#] {
            let acts = drive(&mut opened(), text);
            assert!(matches!(&acts[0], Act::Send(text) if text.contains(r#""recoverable":false"#)), "{acts:?}");
        }
    }

    #[test]
    fn a_sign_in_that_is_too_long_is_refused_whatever_it_says() {
        let padded = |bytes: usize| format!("{SIGN_IN}{}", " ".repeat(bytes - SIGN_IN.len()));
        assert!(matches!(&drive(&mut opened(), &padded(SIGN_IN_BYTES_MAX))[..], [Act::Verify(_)]));
        let acts = drive(&mut opened(), &padded(SIGN_IN_BYTES_MAX + 1));
        let [Act::Send(text), Act::Close(CloseCode::TOO_BIG, _)] = &acts[..] else { panic!("{acts:?}") };
        assert!(text.contains("TOO_LARGE") && text.contains(r#""recoverable":false"#), "{text}");
    }

    #[test]
    fn silence_is_ended_before_sign_in_and_ticked_after_it() {
        let mut connection = opened();
        let mut acts = Vec::new();
        connection.timeout(Now::default().plus_ms(SIGN_IN_MS), &mut acts);
        assert!(matches!(&acts[0], Act::Send(text) if text.contains("AUTH_TIMEOUT")));
        let mut connection = opened();
        drive(&mut connection, SIGN_IN);
        let signed =
            SignedIn { principal: "SHA256:x".into(), comment: "".into(), role: Role::Watch, proof: "p".into() };
        acts.clear();
        connection.signed_in(&signed, &greeting(), Now::default(), &mut acts);
        acts.clear();
        connection.timeout(Now::default().plus_ms(TICK_MS), &mut acts);
        assert!(matches!(&acts[..], [Act::Send(text)] if text.contains("tick")));
    }
}
