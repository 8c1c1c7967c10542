//! Claude Code as a program: the lines it speaks (sans-io), and the processes that speak them. Knows nothing of
//! peers, permissions policy or roles.

pub mod arguments;
pub mod codec;
pub mod demo;
pub mod environment;
mod event;
pub mod guard;
pub mod locate;
mod platform;
pub mod process;

pub use arguments::Start;
pub use event::{ASKING_TOOL, Block, Command, ContentPart, Event, Lifecycle, LoginState, Permission, Turn};
pub use platform::{close_inherited, is_program};
