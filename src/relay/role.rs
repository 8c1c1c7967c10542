//! What a principal may do. Roles come from the keys file alone.

use std::fmt;

/// What a key may do; each role from [`Role::Watch`] on includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Messages between agents only; nothing of sessions.
    Agent,
    /// See sessions.
    Watch,
    /// Prompt and interrupt.
    Drive,
    /// Decide permission requests.
    Approve,
    /// Start and stop sessions.
    Spawn,
    /// Everything, keys included.
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 6] = [Self::Agent, Self::Watch, Self::Drive, Self::Approve, Self::Spawn, Self::Admin];

    /// The name in the keys file and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Watch => "watch",
            Self::Drive => "drive",
            Self::Approve => "approve",
            Self::Spawn => "spawn",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// What a connection of this role is told where more is needed, with what changes that.
    pub fn falls_short_of(self, needed: Self) -> String {
        format!(
            "this needs the role {needed}, and this connection has {self}. If the key itself has no such role: `amp-relay keys remove KEY` \
             on the relay's host, then `amp-relay keys add --role {needed} FILE.pub`"
        )
    }

    /// Whether this role may do what `needed` may do.
    pub fn allows(self, needed: Self) -> bool {
        self >= needed
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
