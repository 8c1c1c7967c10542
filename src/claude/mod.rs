//! Claude Code as a program: the lines it speaks (sans-io), and the processes that speak them. Knows nothing of
//! peers, permissions policy or roles.

mod event;

pub use event::{Block, Command, ContentPart, Event, Lifecycle, LoginState, Permission, Turn};
