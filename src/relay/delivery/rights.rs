//! What a message may want of a session. Judged by its type and by its sender's role; its body is not looked at.

use crate::{
    relay::{Role, api::Verb},
    wire::amp::{Code, Type, check::Refusal},
};

/// What a message wants of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// REQUEST: a prompt.
    Prompt,
    /// RESPONSE: a decision.
    Decide,
}

/// What a message of this type wants, if a peer of this role may want it. `None`: nothing is done about it.
///
/// # Errors
/// 1005 for a type that no session takes, 3001 for a role that does not suffice.
pub fn admit(typ: Type, role: Role) -> Result<Option<Wish>, Refusal> {
    let (wish, verb, lacks) = match typ {
        Type::REQUEST => (Wish::Prompt, Verb::Prompt, "to ask a session a key needs the role `drive` when it connects"),
        Type::RESPONSE => {
            (Wish::Decide, Verb::Decide, "to decide for a session a key needs the role `approve` when it connects")
        }
        Type::PING | Type::ERROR | Type::ACK | Type::PONG => return Ok(None),
        _ => return Err(Refusal::new(Code::UNKNOWN_TYPE, "a session takes REQUEST and RESPONSE")),
    };
    if verb.is_open_to(role) {
        return Ok(Some(wish));
    }
    Err(Refusal::new(Code::UNAUTHORIZED, lacks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_judged_by_the_type_alone() {
        for role in Role::ALL {
            let code = |typ| admit(typ, role).map_err(|refusal| refusal.code);
            let or_not = |wish, needed| if role >= needed { Ok(Some(wish)) } else { Err(Code::UNAUTHORIZED) };
            let lacks = |typ| admit(typ, Role::Agent).unwrap_err().reason;
            assert!(lacks(Type::REQUEST).contains(&format!("`{}`", Verb::Prompt.needs())));
            assert!(lacks(Type::RESPONSE).contains(&format!("`{}`", Verb::Decide.needs())));
            assert_eq!(code(Type::REQUEST), or_not(Wish::Prompt, Role::Drive));
            assert_eq!(code(Type::RESPONSE), or_not(Wish::Decide, Role::Approve));
            assert_eq!((code(Type::ACK), code(Type::MESSAGE)), (Ok(None), Err(Code::UNKNOWN_TYPE)));
        }
    }
}
