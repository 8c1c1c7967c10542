//! The core of the relay, sans-io: messages between agents, sessions, and what each role may do with them. Speaks AMP,
//! which is its own language, and no other wire format; touches no thread, reads no clock.

pub mod admission;
pub mod api;
pub mod card;
mod command_dedup;
pub mod delivery;
pub mod directory;
mod fair;
pub mod hub;
pub mod keys;
pub mod message;
mod principal;
pub mod profile;
pub mod record;
mod replays;
mod role;
pub mod session;
pub mod sessions;
mod shares;
pub mod signer;

pub use principal::{Principal, SignedIn};
pub use role::Role;
